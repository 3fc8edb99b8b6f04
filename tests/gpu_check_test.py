#!/usr/bin/env python3
"""tools/gpu_check without a GPU: its verdicts, limits and exit status, with programs that only pretend to check."""
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "gpu_check"
PROGRAM = r"""#!/bin/sh
echo '{"check": "a", "ok": true}'
case "$(cat mode):$1" in
  wrong:golden) echo '{"check": "b","ok":false}'; exit 1 ;;
  unsaid:golden) echo '{"check": "b", "ok": false}' ;;
  crash:golden) kill -SEGV $$ ;;
  slow:golden) sleep 20 ;;
esac
"""


def run(folder, mode, *parts, **environment):
    (folder / "mode").write_text(mode)
    for left in folder.glob("*.json*"):
        left.unlink()
    done = subprocess.run(["bash", folder / "gpu_check.sh", *parts], capture_output=True, text=True, timeout=60,
                          env={**os.environ, **environment})
    assert not done.stderr or mode == "crash" or done.returncode == 2, done.stderr
    verdicts = json.loads((folder / "check.json").read_text()) if (folder / "check.json").exists() else []
    return done.returncode, {v["part"]: v for v in verdicts}, done.stdout


with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    shutil.copy(SCRIPT, folder / "gpu_check.sh")
    for program in ("gpu_check", "gpu_kv_check", "gpu_ladder", "gpu_batch", "gpu_engine_check"):
        (folder / program).write_text(PROGRAM)
        (folder / program).chmod(0o755)

    status, verdicts, said = run(folder, "right", "--at-once", "golden repeat", "kv")
    assert status == 0 and said.endswith(" s\n") and "3 of 3 ok" in said, said
    assert {v["verdict"] for v in verdicts.values()} == {"ok"} and set(verdicts) == {"golden", "repeat", "kv"}

    for mode, code in (("wrong", 1), ("unsaid", 0), ("crash", 139)):
        status, verdicts, said = run(folder, mode, "--at-once", "golden", "kv")
        golden = verdicts["golden"]
        assert status == 1 and "1 of 2 ok" in said, (mode, said)
        assert golden["verdict"] == "FAILED" and golden["exit"] == code, (mode, golden)
        assert verdicts["kv"]["verdict"] == "ok"
        assert golden["checks_ok"] == 1 and golden["checks_failed"] == (mode != "crash")
    assert run(folder, "wrong", "golden", "kv")[0] == 1  # one after the other: the last is right, the first was not
    assert run(folder, "wrong", "kv")[0] == 0

    status, verdicts, said = run(folder, "slow", "--at-once", "golden kv", LIMIT="2")
    assert status == 1 and verdicts["golden"]["verdict"].startswith("cut by its limit of "), said
    assert verdicts["golden"]["checks_ok"] == 1 and verdicts["golden"]["seconds"] < 15
    assert verdicts["kv"]["verdict"] == "ok"  # what is left still gets a second

    # racecheck.sh: races that are none (it says why), one that counts, a command that fails.
    tool = folder / "compute-sanitizer"
    tool.write_text('#!/bin/sh\necho "= Error: Race reported between Write access at a::$3<int>(int)+0x1"\nexit $4\n')
    tool.chmod(0o755)
    path = f"{folder}:{os.environ['PATH']}"
    one = "stream_token<(a::F)2, (a::OneMode)%d>"
    for kernel, code, want in (("fp8_wide", 0, 0), ("fp8_linear", 0, 0), ("batch_split", 0, 0),
                               ("batch_linear", 0, 9), ("fp8_wide", 3, 3),
                               (one % 0, 0, 9), (one % 1, 0, 0), (one % 2, 0, 0)):
        done = subprocess.run(["bash", SCRIPT.parent.parent / "tests/gpu/racecheck.sh", kernel, str(code)],
                              env={**os.environ, "PATH": path}, capture_output=True, text=True)
        assert done.returncode == want and "Race reported" in done.stdout, (kernel, code, done)

    status, verdicts, said = run(folder, "right", "no-such-part")
    assert status == 2
print("ok")
