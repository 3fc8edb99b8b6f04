#!/usr/bin/env python3
"""What becomes of `minimo convert` at real size when it is killed, interrupted or out of room.

    bench/convert/faults.py FOLDER [--source CHECKPOINT] [--out bench/results/convert-faults.json]

FOLDER is on a disk with room for two and a half times the source, whose files are linked, never changed; without
--source two layers of MiniMax-M2 are made by `minimo synth`. Mounts a tmpfs or two, hence root. Stops at the first
thing that is not as it should be.
"""
import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SYNTH = ["--like", "minimax-m2", "--layers", "2", "--vocab", "8192"]
steps = []


def note(step, **facts):
    steps.append({"step": step, **facts})
    print(json.dumps(steps[-1]), flush=True)


def results(made, folder):
    """What --out gets: the folder by its role."""
    bytes_in = sum(path.stat().st_size for path in made.glob("*.safetensors"))
    return {"bench": "bench/convert/faults.py FOLDER", "source_gb": round(bytes_in * 1e-9, 2),
            "steps": json.loads(json.dumps(steps).replace(str(folder), "FOLDER"))}


def digests(folder):
    """sha256 of every file but the ledger, whose sums are those of one run or another."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "minimo-convert.json":
            with open(path, "rb") as file:
                found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


class Convert:
    def __init__(self, minimo):
        self.minimo = minimo

    def start(self, *arguments):
        return subprocess.Popen([self.minimo, "convert", *map(str, arguments)], stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True)

    def whole(self, *arguments):
        began = time.monotonic()
        process = self.start(*arguments)
        out, err = process.communicate()
        assert process.returncode == 0, err
        return time.monotonic() - began, out

    def fails(self, says, *arguments, code=1):
        return self.failed(self.start(*arguments), says, code)

    @staticmethod
    def failed(process, says, code=1):
        """The one line that it ends with."""
        out, err = process.communicate()
        lines = [line for line in err.splitlines() if not line.startswith(("convert:", "verify:"))]
        assert process.returncode == code, (process.returncode, err)
        assert out == "" and len(lines) == 1 and says in lines[0], (out, lines)
        return lines[0]


def finished(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*.safetensors"))


def size_of(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:  # renamed meanwhile
        return 0


def wait_for(out, process, files, more_bytes):
    """Until so many files are finished and the next ones have begun."""
    while process.poll() is None:
        growing = sum(map(size_of, out.rglob("*.tmp")))
        if len(finished(out)) >= files and growing >= more_bytes:
            return
        time.sleep(0.02)
    raise SystemExit(f"ended before {files} files: {process.communicate()[1]}")


def killed_and_interrupted(convert, source, folder, flags=("--to", "bf16"), stops=((0, "KILL"), (1, "KILL"), (2, "INT"))):
    """Stopped after so many files, gone on, and each kind of damage found and mended."""
    out = folder / "out"
    seconds, _ = convert.whole(source, out, *flags)
    wanted = digests(out)
    note(f"convert {' '.join(flags)}, undisturbed", seconds=round(seconds, 1), files=len(finished(out)))
    shutil.rmtree(out)
    for files, name in stops:
        how = signal.Signals["SIG" + name]
        process = convert.start(source, out, *flags)
        wait_for(out, process, files, 1 << 30)
        process.send_signal(how)
        line = None
        if how == signal.SIGINT:
            line = convert.failed(process, "the same command goes on", 1)
        process.wait()
        assert len(finished(out)) == files and not (out / "config.json").exists()
        convert.fails("files are finished", "--verify", out)
        note(how.name, finished_files=files, temporary=len(list(out.rglob("*.tmp"))), said=line)
    seconds, text = convert.whole(source, out, *flags)
    assert digests(out) == wanted
    note("resumed: every file equal", seconds=round(seconds, 1), said=text.splitlines()[0])
    seconds, _ = convert.whole("--verify", out)
    note("--verify", seconds=round(seconds, 1))
    last = out / finished(out)[-1]
    with open(last, "r+b") as file:
        middle = size_of(last) // 2
        file.seek(middle)
        byte = file.read(1)[0]
        file.seek(middle)
        file.write(bytes([byte ^ 1]))
    note("one bit changed", said=convert.fails("damaged", "--verify", out))
    last.unlink()
    note("a file gone", said=convert.fails("missing", "--verify", out))
    seconds, text = convert.whole(source, out, *flags)
    assert digests(out) == wanted
    note("written again: every file equal", seconds=round(seconds, 1), said=text.splitlines()[0])
    shutil.rmtree(out)


def rank_sets(convert, source, folder):
    ranks = 8
    killed_and_interrupted(convert, source, folder, ("--tensor-parallel-size", str(ranks)), ((0, "KILL"), (ranks, "INT")))
    out = folder / "out"
    process = convert.start(source, out, "--tensor-parallel-size", str(ranks))
    wait_for(out, process, 0, 1 << 29)
    process.send_signal(signal.SIGTERM)
    note("SIGTERM", said=convert.failed(process, "the same command goes on", 1))
    note("other ranks", said=convert.fails("name another folder", source, out, "--tensor-parallel-size", "4"))
    shutil.rmtree(out)


def out_of_room(convert, source, folder):
    out, small = folder / "out", folder / "small"
    convert.whole(source, out, "--to", "w4")
    wanted = digests(out)
    room = sum(path.stat().st_size for path in out.iterdir()) + (64 << 20)
    shutil.rmtree(out)
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", small], check=True)
    try:
        process = convert.start(source, small / "out", "--to", "w4")
        wait_for(small / "out", process, 0, 1 << 30)
        subprocess.run(["fallocate", "-l", str(2 << 30), small / "filler"], check=True)
        note("disk full on the way", said=convert.failed(process, "No space left"))
        assert not (small / "out" / "config.json").exists() and not list((small / "out").glob("*.tmp"))
        note("still full", said=convert.fails("still to write", source, small / "out", "--to", "w4"))
        (small / "filler").unlink()
        convert.whole(source, small / "out", "--to", "w4")
        assert digests(small / "out") == wanted
        note("room again: every file equal")
    finally:
        subprocess.run(["umount", small])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", small], check=True)
    try:
        note("read-only target", said=convert.fails("Read-only", source, small / "out", "--to", "w4"))
    finally:
        subprocess.run(["umount", small])
        small.rmdir()


def misdirected(convert, source, folder):
    out = folder / "out"
    out.mkdir()
    (out / "mine").write_text("kept")
    note("a folder with other files", said=convert.fails("name an empty folder", source, out, "--to", "w4"))
    assert (out / "mine").read_text() == "kept"
    shutil.rmtree(out)
    process = convert.start(source, out, "--to", "w4")
    wait_for(out, process, 0, 1 << 29)
    process.send_signal(signal.SIGTERM)
    note("SIGTERM", said=convert.failed(process, "the same command goes on", 1))
    note("another request", said=convert.fails("asked for bf16", source, out, "--to", "bf16"))
    (source / "config.json").touch()
    note("changed source", said=convert.fails("has changed since", source, out, "--to", "w4"))
    note("the source itself", said=convert.fails("is the source", source, source, "--to", "w4"))
    shutil.rmtree(out)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--minimo", type=Path, default=ROOT / "build/apps/minimo")
    flags = parser.parse_args()
    made = flags.source or flags.folder / "made"
    if not (made / "config.json").exists():
        subprocess.run([flags.minimo, "synth", made, *SYNTH], check=True)
    source = flags.folder / "source"  # links to made, to be spoilt
    if made.resolve() == source.resolve():
        parser.error(f"--source {made} is what this test makes anew; give it another name")
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for path in made.iterdir():
        if path.suffix == ".safetensors":
            (source / path.name).symlink_to(path.resolve())
        else:
            shutil.copyfile(path, source / path.name)
    convert = Convert(flags.minimo)
    for part in (killed_and_interrupted, rank_sets, out_of_room, misdirected):
        part(convert, source, flags.folder)
    if flags.out:
        flags.out.write_text(json.dumps(results(made, flags.folder), indent=1) + "\n")


if __name__ == "__main__":
    main()
