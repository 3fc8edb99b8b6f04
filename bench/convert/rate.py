#!/usr/bin/env python3
"""Rate and memory of `minimo convert` beside `dd` in the same run.

    bench/convert/rate.py FOLDER --to w4 [--to bf16 ...] [--out bench/results/convert-rate.json]

FOLDER is on the disk to be measured; its `source` is made by `minimo synth` if it is not there (two layers of
MiniMax-M2 in FP8, 7.4 GB). Caches are dropped before each step where that is permitted (root). dd moves bytes that do not repeat
past the page cache (bs=16M, direct) before and after the conversion; the lower of the two figures each counts. The rate
of a conversion is that of its larger side, bytes read or bytes written; peak memory is VmHWM, the most pages that were
resident at once, mapped files' included.
"""
import argparse
import json
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SYNTH = ["--like", "minimax-m2", "--layers", "2", "--vocab", "8192"]
BLOCK, COUNT = 16 << 20, 64


def drop_caches():
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1")
        return True
    except OSError:
        return False


def dd(*operands):
    began = time.monotonic()
    subprocess.run(["dd", "bs=16M", f"count={COUNT}", *operands], check=True, stderr=subprocess.DEVNULL)
    return BLOCK * COUNT / (time.monotonic() - began) * 1e-9


def disk_rates(source, folder):
    """GB/s read and written."""
    noise, out = Path("/dev/shm/minimo-convert-noise"), folder / "dd"
    if not noise.exists() or noise.stat().st_size != BLOCK * COUNT:
        with open(noise, "wb") as file:
            for _ in range(COUNT):
                file.write(os.urandom(BLOCK))
    written = dd(f"if={noise}", f"of={out}", "oflag=direct", "conv=fsync")
    out.unlink()
    return dd(f"if={source}", "of=/dev/null", "iflag=direct"), written


def run(command):
    """Seconds, peak resident bytes, standard output."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    peak = 0
    while process.poll() is None:
        try:
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    peak = max(peak, int(line.split()[1]) << 10)
        except (OSError, IndexError):
            pass
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: exit {process.returncode}")
    return time.monotonic() - began, peak, process.stdout.read()


def weights_in(folder):
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def measure(minimo, source, folder, arguments, keep):
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    largest = max(source.glob("*.safetensors"), key=lambda path: path.stat().st_size)
    dropped = drop_caches()
    before = disk_rates(largest, folder)
    drop_caches()
    command = [minimo, "convert", source, out, *arguments]
    seconds, peak, text = run(command)
    after = disk_rates(largest, folder)
    read, written = weights_in(source), weights_in(out)
    if not keep:
        shutil.rmtree(out)
    disk_read, disk_write = min(before[0], after[0]), min(before[1], after[1])
    rate = max(read, written) / seconds * 1e-9
    return {"command": " ".join(["minimo", "convert", "SOURCE", "OUT", *arguments]), "read_gb": round(read * 1e-9, 2),
            "written_gb": round(written * 1e-9, 2), "seconds": round(seconds, 2), "gb_per_s": round(rate, 3),
            "dd_read_gb_per_s": [round(before[0], 3), round(after[0], 3)],
            "dd_write_gb_per_s": [round(before[1], 3), round(after[1], 3)],
            "share_of_slower_dd": round(rate / min(disk_read, disk_write), 3), "peak_resident_mb": round(peak * 1e-6),
            "caches_dropped": dropped, "output": text.splitlines()}


def cpu_name():
    names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", action="append", default=[], help="bf16, fp8, w4, or tpN for N file sets")
    parser.add_argument("--source", type=Path, help="another checkpoint than FOLDER/source")
    parser.add_argument("--out", type=Path, help="JSON to add to")
    parser.add_argument("--keep", action="store_true", help="leave the last output in FOLDER/out")
    parser.add_argument("--minimo", type=Path, default=ROOT / "build/apps/minimo")
    flags = parser.parse_args()
    source = flags.source or flags.folder / "source"
    if not (source / "config.json").exists():
        subprocess.run([flags.minimo, "synth", source, *SYNTH], check=True)
    for target in flags.to:
        to = ["--tensor-parallel-size", target[2:]] if target.startswith("tp") else ["--to", target]
        result = measure(flags.minimo, source, flags.folder, to, flags.keep)
        print(json.dumps(result, indent=1))
        if flags.out:
            report = json.loads(flags.out.read_text()) if flags.out.exists() else {"runs": []}
            report |= {"bench": "bench/convert/rate.py FOLDER --to ...", "source": "minimo synth " + " ".join(SYNTH),
                       "machine": cpu_name()}
            report["runs"].append(result)
            flags.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
