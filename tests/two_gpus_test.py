#!/usr/bin/env python3
"""tests/gpu/two_gpus.py without GPUs: its figures beside what they must be, failed checks, limits; with programs that
only pretend to measure."""
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent / "gpu" / "two_gpus.py"
PROGRAMS = {
    "mpirun": 'while [ "$1" != -n ]; do shift; done; shift 2; exec "$@"',
    "minimo": '''for a; do [ "$last" = --json ] && out=$a; last=$a; done
case "$*" in *latency*) echo '{"points": [{"median_tpot_ms": 2.5, "median_ttft_ms": 44.0}]}' > "$out" ;;
*--max-num-seqs\\ 128*) sleep $(cat slow) ;;
*) echo '{"output_tokens_per_second": 1300.0}' > "$out" ;; esac''',
    "gpu_check": '''[ "$1" = decode ] || exit 0
echo 'a line of text'; echo '{"bench": "decode", "batch": 8, "ms": 9.0}' ''',
    "gpu_ranks_check": '''case "$1" in golden) echo '{"check": "golden", "ok": true}' ;;
decode) echo '{"bench": "decode", "batch": 8, "ms": 6.0}' ;; esac''',
    "exchange_bench": '''echo '{"bytes": 16, "nccl_us": 5.7, "ours_with_residual_and_norm_us": 3.4}'
echo '{"many_rows": 1, "wrong": 0}'; cat off''',
}


def run(folder, *arguments):
    for left in [*folder.glob("*.log"), *folder.glob("*.json")]:
        left.unlink()
    done = subprocess.run(["python3", "two_gpus.py", *arguments], cwd=folder, capture_output=True, text=True,
                          timeout=60, env={**os.environ, "OUT": str(folder), "PATH": f"{folder}:{os.environ['PATH']}"})
    assert not done.stderr, done.stderr
    result = json.loads((folder / "two_gpus.json").read_text())
    return done.returncode, {s["step"]: s["verdict"] for s in result["steps"]}, result, done.stdout


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    shutil.copy(SCRIPT, folder)
    for program, body in PROGRAMS.items():
        (folder / program).write_text(f"#!/bin/sh\n{body}\n")
        (folder / program).chmod(0o755)
    (folder / "slow").write_text("0")
    (folder / "off").write_text("")

    status, verdicts, result, said = run(folder, "300", "m2-latency", "m2-c32", "one", "both", "ladder", "golden-tp")
    assert status == 0 and set(verdicts.values()) == {"ok"} and len(verdicts) == 6, said
    assert {f["what"]: (f["value"], f["must"], f["met"]) for f in result["figures"]} == {
        "m2-latency TPOT ms": (2.5, 2.4, False), "m2-latency TTFT ms": (44.0, 45, True),
        "m2-c32 tok/s": (1300.0, 1200, True)}, result["figures"]
    assert "must 2.4: MISSED" in said and "must 1200: met" in said
    assert [(e["what"], e["efficiency"]) for e in result["efficiency"]] == [("decode of 8", 0.75)]
    assert len(result["ladder"]) == 2

    (folder / "off").write_text('{"rank": 1, "wrong": 3}')
    status, verdicts, _, said = run(folder, "300", "ladder", "golden-tp")
    assert status == 1 and verdicts == {"ladder": "FAILED: 1 checks", "golden-tp": "ok"}, said
    (folder / "exchange_bench").write_text("#!/bin/sh\nexit 3\n")
    assert run(folder, "300", "ladder")[1] == {"ladder": "FAILED, exit [3]"}

    # A step that hangs is ended with its children, one that has no time left is left out.
    (folder / "slow").write_text("1234")
    text = (folder / "two_gpus.py").read_text()
    (folder / "two_gpus.py").write_text(text.replace('"m2-c128", 25,', '"m2-c128", 1,'))
    status, verdicts, _, said = run(folder, "21", "m2-c32", "m2-c128", "m2-c256")
    assert status == 1 and verdicts == {"m2-c32": "ok", "m2-c128": "cut by its limit",
                                        "m2-c256": "left out: no time"}, said
    assert subprocess.run(["pgrep", "-f", "sleep 1234"], capture_output=True).returncode != 0
print("ok")
