#!/usr/bin/env python3
"""bench/peer/turns.py: what it reads of the engines' lines, the medians of committed results, and a run with programs
that only pretend to decode. Standard library only.
"""
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

REPO = pathlib.Path(__file__).resolve().parents[1]
SCRIPT = REPO / "bench" / "peer" / "turns.py"
spec = importlib.util.spec_from_file_location("turns", SCRIPT)
turns = importlib.util.module_from_spec(spec)
spec.loader.exec_module(turns)

# Writes down its arguments, decodes at a fixed rate, ends as the engine that it plays: on SIGTERM, or on SIGINT with a
# result.
PROGRAM = """#!{python}
import json, signal, sys, time
peer = "llama" in sys.argv[0]
open(sys.argv[0] + ".log", "a").write(json.dumps(sys.argv[1:]) + chr(10))
def end(*_):
    out = sys.argv[sys.argv.index("--output-json") + 1]
    with open(out, "w") as f:
        json.dump({{"points": [{{"bytes_per_step": 2e9}}], "bandwidth_gbs": 50,
                    "environment": {{"command": "x", "cpu": "a"}}}}, f)
    sys.exit(0)
if not peer:
    signal.signal(signal.SIGINT, end)
print("loading", flush=True)
i = 0
while True:
    time.sleep(0.02)
    i += 1
    print('"samples_ts": [ 8.0 ]' if peer else f"iteration {{i}}: TTFT 1.00 ms, TPOT 100.000 ms, reads 40.0 GB/s", flush=True)
"""


class Lines(unittest.TestCase):
    def test_peer(self):
        self.assertEqual(turns.peer_figure('    "samples_ts": [ 203.125 ]'), {"decode": 203.125})
        self.assertIsNone(turns.peer_figure('    "avg_ts": 203.125'))

    def test_minimo(self):
        line = "iteration 12: TTFT 312.50 ms, TPOT 6.250 ms, reads 41.5 GB/s"
        self.assertEqual(turns.minimo_figure(line), {"decode": 160.0, "reads_gbs": 41.5})
        self.assertIsNone(turns.minimo_figure("minimo 0123456789ab, reads 41.5 GB/s"))


class Medians(unittest.TestCase):
    def test_spread(self):
        self.assertEqual(turns.spread([5, 1, 4, 2, 3]),
                         {"median": 3, "quarter": 1.5, "three_quarters": 4.5, "least": 1, "most": 5, "count": 5})
        self.assertEqual(turns.spread([7])["median"], 7)

    def test_ratio_is_taken_round_by_round(self):
        rounds = [{"peer": {"decode": p}, "int8": {"decode": d, "reads_gbs": r}}
                  for p, d, r in ((10, 20, 40), (100, 110, 200), (50, 75, 100))]
        found = turns.summarize(rounds, {"int8": {"bytes_per_token": 1e9}})
        self.assertEqual(found["int8"]["ratio"]["median"], 1.5)
        self.assertEqual(found["int8"]["share_of_reads"]["median"], 0.55)
        self.assertNotIn("exact", found)

    def test_committed_results(self):
        files = sorted((REPO / "bench" / "results").glob("cpu-decode-turns-*.json"))
        self.assertGreaterEqual(len(files), 6)
        for file in files:
            recorded = json.loads(file.read_text())
            self.assertEqual(turns.summarize(recorded["rounds"], recorded["minimo"]), recorded["summary"], file.name)


class Run(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name)
        for name in ("llama-bench", "minimo"):
            (self.path / name).write_text(PROGRAM.format(python=sys.executable))
            (self.path / name).chmod(0o755)

    def tearDown(self):
        self.folder.cleanup()

    def run_turns(self, *more):
        return subprocess.run([sys.executable, SCRIPT, "--peer", self.path / "llama-bench", "--gguf", "m.gguf",
                               "--minimo", self.path / "minimo", "--model", "folder/m", "--seconds", "0.4",
                               "--output-json", self.path / "out.json", *more],
                              capture_output=True, text=True, timeout=60)

    def started(self, name):
        return [json.loads(line) for line in (self.path / f"{name}.log").read_text().splitlines()]

    def test_turns_are_taken_and_kept(self):
        done = self.run_turns("--resident")
        self.assertEqual(done.returncode, 0, done.stderr)
        first = json.loads((self.path / "out.json").read_text())
        self.assertGreaterEqual(len(first["rounds"]), 3)
        self.assertEqual([list(r) for r in first["rounds"][:3]],
                         [["peer", "exact", "int8"], ["exact", "int8", "peer"], ["int8", "peer", "exact"]])
        self.assertEqual(first["summary"]["int8"]["ratio"]["median"], 1.25)
        self.assertEqual(first["summary"]["exact"]["share_of_reads"]["median"], 0.5)
        self.assertEqual(first["minimo"]["int8"]["environment"], {"cpu": "a"})
        self.assertIn("x peer", done.stdout)
        formats = {a[a.index("--activations") + 1]: a[a.index("--load-format") + 1] for a in self.started("minimo")}
        self.assertEqual(formats, {"exact": "resident", "int8": "auto"})
        peer = self.started("llama-bench")[0]
        self.assertEqual(peer[peer.index("-gp") + 1], "512,33")
        self.assertEqual(self.run_turns("--engines", "peer", "int8").returncode, 0)
        second = json.loads((self.path / "out.json").read_text())
        self.assertGreater(len(second["rounds"]), len(first["rounds"]))
        self.assertEqual(second["rounds"][:len(first["rounds"])], first["rounds"])

    def test_an_engine_that_ends(self):
        (self.path / "minimo").write_text("#!/bin/sh\nexit 3\n")
        done = self.run_turns("--engines", "int8")
        self.assertEqual(done.returncode, 1)
        self.assertIn("ended with 3", done.stderr)

    def test_what_it_must_be_told(self):
        done = subprocess.run([sys.executable, SCRIPT, "--model", "m"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("--output-json", done.stderr)
        self.assertEqual(self.run_turns("--engines", "gpu").returncode, 2)


if __name__ == "__main__":
    unittest.main()
