#!/usr/bin/env python3
"""Rate and memory of `minimo convert` beside `dd` in the same run.

    bench/convert/rate.py FOLDER --to w4 [--to bf16 ...] [--out bench/results/convert-rate.json]
    bench/convert/rate.py FOLDER --tensor-parallel-size 2 [--expert-parallel-size 2] --rounds 3

FOLDER is on the disk to be measured; its `source` is made by `minimo synth` if it is not there (two layers of
MiniMax-M2 in FP8, 7.4 GB). Caches are dropped before each step where that is permitted (root). dd moves bytes that do
not repeat past the page cache (bs=16M, direct) before and after the conversion: it reads the source's largest file and
writes 2 GB; the lower of the two figures each counts. The share is the longer of the times that dd would need to read
what was read and to write what was written, over the time of the conversion. Beside it stands
what each of two dd's gets when one reads while the other writes, as a conversion does. Peak memory is VmHWM, the most pages that
were resident at once, mapped files' included.
"""
import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SYNTH = ["--like", "minimax-m2", "--layers", "2", "--vocab", "8192"]
BLOCK, COUNT = 16 << 20, 128


def drop_caches():
    os.sync()
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1")
        return True
    except OSError:
        return False


def dd(bytes_moved, *operands):
    began = time.monotonic()
    subprocess.run(["dd", "bs=16M", *operands], check=True, stderr=subprocess.DEVNULL)
    return bytes_moved / (time.monotonic() - began) * 1e-9


def disk_rates(source, folder):
    """GB/s read and written."""
    noise, out = Path("/dev/shm/minimo-convert-noise"), folder / "dd"
    if not noise.exists() or noise.stat().st_size != BLOCK * COUNT:
        with open(noise, "wb") as file:
            for _ in range(COUNT):
                file.write(os.urandom(BLOCK))
    written = dd(BLOCK * COUNT, f"if={noise}", f"of={out}", "oflag=direct", "conv=fsync")
    out.unlink()
    return dd(source.stat().st_size, f"if={source}", "of=/dev/null", "iflag=direct"), written


def both_rate(source, folder):
    """GB/s of each when one dd reads and another writes at the same time: what the disk leaves a conversion."""
    out, began = folder / "dd", time.monotonic()
    moves = [["if=/dev/shm/minimo-convert-noise", f"of={out}", "oflag=direct", "conv=fsync"],
             [f"if={source}", "of=/dev/null", "iflag=direct", f"count={COUNT}"]]
    running = [subprocess.Popen(["dd", "bs=16M", *move], stderr=subprocess.DEVNULL) for move in moves]
    for process in running:
        process.wait()
    out.unlink()
    return BLOCK * COUNT / (time.monotonic() - began) * 1e-9


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
    both = both_rate(largest, folder)
    drop_caches()
    command = [minimo, "convert", source, out, *arguments]
    seconds, peak, text = run(command)
    after = disk_rates(largest, folder)
    read, written = weights_in(source), weights_in(out)
    if not keep:
        shutil.rmtree(out)
    disk_read, disk_write = min(before[0], after[0]), min(before[1], after[1])
    bound = max(read / disk_read, written / disk_write) * 1e-9
    return {"command": " ".join(["minimo", "convert", "SOURCE", "OUT", *arguments]), "read_gb": round(read * 1e-9, 2),
            "written_gb": round(written * 1e-9, 2), "seconds": round(seconds, 2),
            "gb_per_s": round(max(read, written) / seconds * 1e-9, 3),
            "dd_read_gb_per_s": [round(before[0], 3), round(after[0], 3)],
            "dd_write_gb_per_s": [round(before[1], 3), round(after[1], 3)], "dd_seconds": round(bound, 2),
            "share_of_dd": round(bound / seconds, 3), "dd_both_at_once_gb_per_s": round(both, 3), "peak_resident_mb": round(peak * 1e-6),
            "caches_dropped": dropped, "output": text.splitlines()}


def cpu_name():
    names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", action="append", default=[], choices=["bf16", "fp8", "w4"])
    parser.add_argument("--tensor-parallel-size", type=int, action="append", default=[], help="so many file sets")
    parser.add_argument("--expert-parallel-size", type=int, help="of each of them")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--source", type=Path, help="another checkpoint than FOLDER/source")
    parser.add_argument("--out", type=Path, help="JSON to add to")
    parser.add_argument("--keep", action="store_true", help="leave the last output in FOLDER/out")
    parser.add_argument("--minimo", type=Path, default=ROOT / "build/apps/minimo")
    flags = parser.parse_args()
    source = flags.source or flags.folder / "source"
    if not (source / "config.json").exists():
        subprocess.run([flags.minimo, "synth", source, *SYNTH], check=True)
    experts = ["--expert-parallel-size", str(flags.expert_parallel_size)] if flags.expert_parallel_size else []
    conversions = [["--to", target] for target in flags.to]
    conversions += [["--tensor-parallel-size", str(ranks), *experts] for ranks in flags.tensor_parallel_size]
    for conversion in conversions:
        results = [measure(flags.minimo, source, flags.folder, conversion, flags.keep) for _ in range(flags.rounds)]
        for result in results:
            print(json.dumps(result, indent=1))
        shares = [result["share_of_dd"] for result in results]
        print(f"{' '.join(conversion)}: median {statistics.median(shares):.3f} of dd, {min(shares)} to {max(shares)}")
        if flags.out:
            report = json.loads(flags.out.read_text()) if flags.out.exists() else {"runs": []}
            report |= {"bench": "bench/convert/rate.py FOLDER --to ... | --tensor-parallel-size ...",
                       "source": "minimo synth " + " ".join(SYNTH), "machine": cpu_name()}
            report["runs"] += results
            flags.out.write_text(json.dumps(report, indent=1) + "\n")
    Path("/dev/shm/minimo-convert-noise").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
