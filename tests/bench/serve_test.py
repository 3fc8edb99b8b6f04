"""`minimo bench serve` as a user meets it: exit codes, result files, faults, Ctrl-C.

usage: serve_test.py MINIMO
"""

import asyncio
import json
import pathlib
import signal
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from stub_server import StubServer  # noqa: E402


async def run(*command, interrupt_after=None):
    process = await asyncio.create_subprocess_exec(*map(str, command), stdout=asyncio.subprocess.PIPE,
                                                   stderr=asyncio.subprocess.PIPE)
    if interrupt_after is not None:
        await asyncio.sleep(interrupt_after)
        process.send_signal(signal.SIGINT)
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def check(minimo, folder):
    server = await StubServer().start()
    base = [minimo, "bench", "serve", "--base-url", server.url, "--random-input-len", 20, "--random-output-len", 5,
            "--memory-bandwidth", "none", "--disable-tqdm"]

    code, out, err = await run(*base, "--num-prompts", 12, "--max-concurrency", 4, "--backend", "vllm", "--save-result",
                               "--result-dir", folder, "--label", "L", "--metadata", "tp=1", "--goodput", "ttft:60000")
    assert code == 0, (out, err)
    for line in ("============ Serving Benchmark Result ============", "Successful requests:                     12 ",
                 "Failed requests:                         0 ", "Total generated tokens:                  60 ",
                 "Request goodput (req/s):", "P99 ITL (ms):"):
        assert line in out, f"{line} is not in\n{out}"
    saved = list(folder.glob("L-infqps-concurrency4-nano-minimax-m2-*.json"))
    assert len(saved) == 1, list(folder.iterdir())
    result = json.loads(saved[0].read_text())
    assert result["completed"] == 12 and result["total_output_tokens"] == 60 and result["tp"] == "1"
    assert "itls" not in result and "p99_tpot_ms" in result and result["environment"]["commit"]
    assert all(body["ignore_eos"] and body["max_tokens"] == 5 for body in server.bodies)

    # The nano tokenizer lies in the repository, so prompts are texts; without one they are ids.
    assert isinstance(server.bodies[-1]["prompt"], str)
    code, out, err = await run(*base, "--num-prompts", 2, "--model", "elsewhere", "--save-detailed", "--append-result",
                               "--result-filename", folder / "a.json")
    assert code == 0 and len(server.bodies[-1]["prompt"]) == 20, (out, err)
    code, out, err = await run(*base, "--num-prompts", 2, "--append-result", "--result-filename", folder / "a.json")
    lines = (folder / "a.json").read_text().splitlines()
    assert code == 0 and len(lines) == 2 and len(json.loads(lines[0])["itls"]) == 2, lines

    code, out, err = await run(*base, "--num-prompts", 8, "--request-id-prefix", "fail-")
    assert code == 1 and "HTTP 503 X: overloaded" in err and "Failed requests:                         1 " in out, (out, err)
    code, out, err = await run(*base, "--num-prompts", 8, "--request-id-prefix", "break-", "--allow-failures")
    assert code == 0 and "request break-7: the server closed the connection" in err, (out, err)

    code, out, err = await run(minimo, "bench", "serve", "--port", 9, "--model", "m", "--num-prompts", 2,
                               "--memory-bandwidth", "none")
    assert code == 1 and "cannot be reached" in err and "Failed requests:                         2 " in out, (out, err)
    code, out, err = await run(minimo, "bench", "serve", "--port", 9)
    assert code == 1 and out == "" and err.count("\n") == 1, (out, err)
    code, out, err = await run(minimo, "bench", "serve", "--no-such-flag")
    assert code == 2, (out, err)
    for flags in (["--dataset-name", "poems"], ["--goodput", "ttft"], ["--burstiness", "0"], ["--backend", "x"],
                  ["--metric-percentiles", "101"], ["--tokenizer", "/nowhere"], ["--extra-body", "[]"]):
        code, out, err = await run(*base, "--num-prompts", 1, *flags)
        assert code == 1 and flags[0] in err and err.count("\n") == 1, (flags, out, err)

    code, out, err = await run(minimo, "bench", "serve", "--base-url", "https://x")
    assert code == 1 and "plain http" in err, err

    server.first_s = 0.4
    code, out, err = await run(*base, "--num-prompts", 50, "--max-concurrency", 2, "--json", folder / "i.json",
                               interrupt_after=2.0)
    interrupted = json.loads((folder / "i.json").read_text())
    assert code == 1 and "Interrupted" in err and "Serving Benchmark Result" in out, (out, err)
    assert 0 < interrupted["completed"] < 50 and interrupted["failed"] == 0 and interrupted["interrupted"] > 0


def main(minimo):
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(check(minimo, pathlib.Path(folder)))


if __name__ == "__main__":
    main(sys.argv[1])
