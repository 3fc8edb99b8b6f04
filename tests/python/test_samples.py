"""The curl samples of docs/api.md, as they stand there."""
import json
import re
import subprocess

import pytest

import server_process

DOC = (server_process.ROOT / "docs" / "api.md").read_text()
SAMPLES = [s for s in re.findall(r"```sh\n(.*?)```", DOC, re.S) if s.startswith("curl")]


@pytest.fixture(scope="module")
def server(logs):
    server = server_process.start_minimo(logs / "samples.log")
    yield server
    server.stop()


def test_there_are_samples():
    assert len(SAMPLES) >= 8


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: re.search(r"8000(\S+)", s).group(1))
def test_sample(server, sample):
    command = sample.replace("http://127.0.0.1:8000", server.url).replace("curl ", "curl -sS --fail-with-body ", 1)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    if '"stream": true' in sample:
        assert done.stdout.rstrip().endswith("data: [DONE]")
    elif "metrics" in sample:
        assert "vllm:num_requests_running" in done.stdout
    else:
        body = json.loads(done.stdout)
        if "json_schema" in sample:
            assert json.loads(body["choices"][0]["message"]["content"])["capital"] in ("Tokyo", "Kyoto")
        if "get_weather" in sample:
            assert body["choices"][0]["finish_reason"] == "tool_calls"
