#!/usr/bin/env python3
"""N ranks of one host read each byte of a checkpoint once: with the files' pages dropped before, the kernel fetches
from storage for all ranks together what it fetches for one, the size of the files. Of files written for ranks, each
rank maps its own alone.

    read_once_test.py BUILD/apps/minimo

Standard library only; exits 77 where storage tells nothing or without mpirun.
"""
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import serve_ranks_test as serve  # noqa: E402

MODELS = HERE.parents[1] / "models"
RANKS = 4
ATTEMPTS = 4  # other readers of the machine (a program's own pages coming back, say) only add
SLACK = 1.01


def weights(folder):
    return sorted(pathlib.Path(folder).rglob("*.safetensors"))


def size_of(folder):
    return sum(path.stat().st_size for path in weights(folder))


def drop(folder):
    """The files' pages leave the cache."""
    for path in weights(folder):
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def fetched(*command):
    """Bytes that came from storage for the processes of this minimo command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock
    done = subprocess.run([serve.MINIMO, *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return (resource.getrusage(resource.RUSAGE_CHILDREN).ru_inblock - before) * 512


def fetched_cold(folder, *command):
    """The least of a few tries, each with the folder's files not in memory."""
    tries = []
    for _ in range(ATTEMPTS):
        drop(folder)
        tries.append(fetched(*command))
        if tries[-1] <= SLACK * size_of(folder):
            break
    return min(tries)


def run_flags(folder):
    return ["run", "--model", str(folder), "--greedy", "--max-tokens", "4", "--threads", "1", "--prompt",
            "Once upon a time the king of France said 17 plus 25 is what? def main(): return [x for x in y]"]


class ReadOnce(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self.scratch.name) / "model"
        shutil.copytree(MODELS / "nano-minimax-m2", self.folder)
        fetched(*run_flags(self.folder))  # the program's own pages
        if fetched_cold(self.folder, *run_flags(self.folder)) < size_of(self.folder) / 2:
            self.skipTest("this storage does not tell what is read")

    def tearDown(self):
        self.scratch.cleanup()

    def assert_once(self, folder, *command):
        bytes_read = fetched_cold(folder, *command)
        print(f"{' '.join(command[:4])} ...: {bytes_read} bytes of {size_of(folder)}", file=sys.stderr)
        self.assertLessEqual(bytes_read, SLACK * size_of(folder))
        # And they were fetched: now they are here. Of a few tries, as above.
        self.assertTrue(any(fetched(*command) < size_of(folder) / 2 for _ in range(ATTEMPTS)))

    def test_threads(self):
        for layout in ([], ["--enable-expert-parallel"], ["--moe-prefill", "ep", "--moe-decode", "tp"]):
            self.assert_once(self.folder, *run_flags(self.folder), "--tensor-parallel-size", str(RANKS), *layout)

    def test_processes(self):
        launch = ["launch", "-n", str(RANKS), "--"]
        fetched(*launch, *run_flags(self.folder))  # mpirun's pages
        for layout in ([], ["--enable-expert-parallel"], ["--data-parallel-size", "2"]):
            self.assert_once(self.folder, *launch, *run_flags(self.folder), *layout)

    def test_files_of_ranks_are_read_by_their_rank_alone(self):
        out = self.folder.with_name("ranks")
        fetched("convert", str(self.folder), str(out), "--tensor-parallel-size", str(RANKS))
        launch = ["launch", "-n", str(RANKS), "--"]
        fetched(*launch, *run_flags(out))
        self.assert_once(out, *launch, *run_flags(out))
        with serve.Group(RANKS, "--served-model-name", serve.MODEL.name, model=out) as group:
            group.wait_ready()
            self.assertEqual(group.complete("Once upon a time")[0], 200)
            for rank in range(RANKS):
                maps = pathlib.Path(f"/proc/{group.rank(rank)}/maps").read_text()
                folders = set(re.findall(r"/ranks/([^/]*)/[^/\n]*\.safetensors", maps))
                self.assertEqual(folders, {f"rank-{rank:05}-of-{RANKS:05}"})


if __name__ == "__main__":
    if shutil.which("mpirun") is None:
        sys.exit(77)
    serve.MINIMO = os.path.abspath(sys.argv.pop(1))
    program = unittest.main(verbosity=2, exit=False)
    if not program.result.wasSuccessful():
        sys.exit(1)
    sys.exit(77 if program.result.skipped else 0)
