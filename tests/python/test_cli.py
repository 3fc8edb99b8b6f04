"""The command line: results on standard output alone, one plain line and the right exit code for every fault."""
import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MINIMO = Path(os.environ.get("MINIMO_BUILD", ROOT / "build")) / "apps" / "minimo"
SHARED = Path(os.environ.get("MINIMO_SHARED", ROOT.parent / "shared"))
NANOS = ["nano-minimax-m2", "nano-mimo-v2-flash"]


def minimo(*args, stdin=None, timeout=60):
    return subprocess.run([MINIMO, *map(str, args)], input=stdin, capture_output=True, text=True, timeout=timeout)


def fails(*args, code=1, says="", stdin=None):
    """One line on standard error that says what is wrong, nothing on standard output."""
    done = minimo(*args, stdin=stdin)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert len(lines) == 1 and lines[0].startswith("minimo: "), done.stderr
    assert says in lines[0], lines[0]


def shared():
    if not SHARED.is_dir():
        if os.environ.get("CI"):
            pytest.fail("../shared is not there")
        pytest.skip("../shared is not there")
    return SHARED


@pytest.fixture
def broken(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(ROOT / "models" / "nano-minimax-m2", folder)
    return folder


@pytest.mark.parametrize("model", NANOS)
def test_greedy_answers_are_the_references(model):
    cases = json.loads((shared() / "golden" / model / "cases.json").read_text())
    for case in cases:
        arguments = ["run", "--model", model, "--chat", case["messages"][-1]["content"], "--greedy", "--json",
                     "--max-tokens", len(case["greedy_ids"]), "--dtype", "f32"]
        if case["tools"]:
            tools = Path(os.environ.get("TMPDIR", "/tmp")) / f"minimo-tools-{os.getpid()}.json"
            tools.write_text(json.dumps(case["tools"]))
            arguments += ["--tools", tools]
        done = minimo(*arguments)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer["token_ids"] == case["greedy_ids"]
        if case["tools"]:
            call = answer["tool_calls"][0]["function"]
            assert call["name"] == "get_weather"
            assert json.loads(call["arguments"]) == {"location": "Madrid", "unit": "fahrenheit"}
            assert answer["finish_reason"] == "tool_calls"
            tools.unlink()


@pytest.mark.parametrize("model", NANOS)
def test_rendered_prompts_tokenize_to_the_references_ids(model, tmp_path):
    for case in json.loads((shared() / "golden" / model / "cases.json").read_text()):
        request = tmp_path / "request.json"
        request.write_text(json.dumps({"messages": case["messages"], "tools": case["tools"]}))
        assert minimo("render", model, "--messages", request).stdout == case["prompt"]
        assert json.loads(minimo("render", model, "--messages", request, "--ids").stdout) == case["prompt_ids"]


def test_seeds_repeat_and_stops_stop():
    one, two = (json.loads(minimo("run", "--chat", "Tell me a short story.", "--json", "--seed", 7, "--max-tokens", 40).stdout)
                for _ in range(2))
    assert one["text"] == two["text"]
    stopped = json.loads(minimo("run", "--chat", "What is 2+3? Answer briefly.", "--greedy", "--json", "--stop", "simple").stdout)
    assert stopped["finish_reason"] == "stop" and "simple" not in stopped["text"]
    short = json.loads(minimo("run", "--prompt", "Dorothy", "--greedy", "--json", "--max-tokens", 3, "--logprobs", 2).stdout)
    assert short["finish_reason"] == "length" and len(short["token_ids"]) == 3 and len(short["logprobs"][0]["top"]) == 2


def test_chat_keeps_the_conversation():
    done = minimo("chat", "--greedy", stdin="What is 2+3? Answer briefly.\n/reset\nWhat is the capital of Japan?\n/exit\n")
    assert done.returncode == 0, done.stderr
    assert "[answer]\n5\n" in done.stdout and "Tokyo" in done.stdout


def test_eval_reports_accuracy_and_perplexity():
    tasks = ROOT / "bench" / "tasks"
    facts = json.loads(minimo("eval", "nano-mimo-v2-flash", "--task", tasks / "facts.jsonl", "--json").stdout)
    assert facts["accuracy"] == 1.0
    calls = json.loads(minimo("eval", "nano-minimax-m2", "--task", tasks / "tools.jsonl", "--json").stdout)
    assert calls["accuracy"] == 1.0
    sums = json.loads(minimo("eval", "nano-mimo-v2-flash", "--task", tasks / "arithmetic.jsonl", "--json").stdout)
    assert 0.8 <= sums["accuracy"] <= 0.95
    text = json.loads(minimo("eval", "--task", tasks / "oz.txt", "--json").stdout)
    assert 1.0 < text["perplexity"] < 1.2


def test_inspect_says_what_a_checkpoint_is():
    facts = json.loads(minimo("inspect", "nano-mimo-v2-flash", "--json").stdout)
    assert facts["model_type"] == "mimo_v2_flash" and facts["mtp_layers"] == 3
    assert facts["kv_bytes_per_token"] == 960 and facts["kv_bytes_per_sequence"] == 46080
    assert any(fit["hardware"] == "8x H200" for fit in facts["fits"])


def test_inspect_reads_what_convert_writes(tmp_path):
    source = json.loads(minimo("inspect", "nano-mimo-v2-flash", "--json").stdout)
    for target in ("bf16", "w4"):
        assert minimo("convert", "nano-mimo-v2-flash", tmp_path / target, "--to", target).returncode == 0
        facts = json.loads(minimo("inspect", tmp_path / target, "--json").stdout)
        for key in ("parameters", "active_parameters", "mtp_layers", "kv_bytes_per_token"):
            assert facts[key] == source[key]
        assert facts["bytes"] == sum(part["bytes"] for name, part in facts["parts"].items() if name != "mtp")
        assert ("I32" in facts["bytes_by_dtype"]) == (target == "w4")
        assert ("F8_E4M3" in facts["bytes_by_dtype"]) == (target == "w4")


def test_inspect_reads_file_sets_of_ranks(tmp_path):
    whole = json.loads(minimo("inspect", "nano-mimo-v2-flash", "--json").stdout)
    assert minimo("convert", "nano-mimo-v2-flash", tmp_path / "out", "--tensor-parallel-size", 4).returncode == 0
    facts = json.loads(minimo("inspect", tmp_path / "out", "--json").stdout)
    assert facts["rank_files"] == {"ranks": 4, "experts": facts["rank_files"]["experts"], "row_grain": 1, "missing": []}
    assert facts["parameters"] == whole["parameters"] and facts["mtp_layers"] == 3
    assert whole["bytes"] < facts["bytes"] < 1.5 * whole["bytes"]  # norms, routers, KV heads and cut scales several times
    held = [sum(f.stat().st_size for f in (tmp_path / "out").glob("rank-*/*.safetensors"))]
    assert facts["bytes"] + facts["parts"]["mtp"]["bytes"] < held[0]  # headers
    assert {fit["hardware"] for fit in facts["fits"] if "x " in fit["hardware"]} == {"4x H100 80GB", "4x H200", "4x B200"}
    assert "of 4 ranks" in minimo("inspect", tmp_path / "out").stdout
    shutil.rmtree(tmp_path / "out" / "rank-00002-of-00004")
    facts = json.loads(minimo("inspect", tmp_path / "out", "--json").stdout)
    assert facts["rank_files"]["missing"] == [2] and "fits" not in facts
    assert "the files of ranks 2" in minimo("inspect", tmp_path / "out").stdout


def test_usage_errors_exit_2():
    for arguments in ([], ["bogus"], ["run"], ["run", "--chat", "x", "--top-k", "many"], ["run", "--chat", "x", "--bogus"],
                      ["logits", "nano-minimax-m2"], ["tokenize"], ["convert", "a"]):
        done = minimo(*arguments)
        assert done.returncode == 2, arguments
        assert len(done.stderr.strip().splitlines()) == 1
    assert minimo("--help").returncode == 0 and minimo("run", "--help").returncode == 0
    assert minimo("--version").stdout.startswith("minimo ")


@pytest.mark.parametrize("arguments, says", [
    (["frobnicate"], "frobnicate: no such command"),
    (["serve", "--port", "99999"], "--port"),
    (["serve", "--max-num-seqs", "-1"], "found -1, expected a whole number of at least 1"),
    (["serve", "--max-queue", "-1"], "found -1, expected a whole number of at least 0"),
    (["serve", "--kv-cache-gb", "nan"], "found nan, expected a number from 0 to"),
    (["serve", "--kv-cache-gb", "-1"], "found -1, expected"),
    (["serve", "--kv-cache-gb", "1e30"], "found 1e30, expected"),
    (["serve", "--gpu-memory-utilization", "7"], "expected a number from 0.01 to 1"),
    (["serve", "--drain-timeout", "nan"], "found nan, expected"),
    (["serve", "--keep-alive", "0"], "found 0, expected"),
    (["serve", "--idle-timeout", "inf"], "found inf, expected"),
    (["serve", "--rank-timeout", "nan"], "found nan, expected"),
    (["run", "--chat", "x", "--max-tokens", "0"], "found 0, expected a whole number of at least 1"),
    (["run", "--chat", "x", "--seed", "-1"], "found -1, expected"),
    (["bench", "kernels", "--seconds", "nan"], "found nan, expected"),
    (["bench", "kernels", "--tokens", "1,0"], "--tokens: found 0, expected a whole number of at least 1"),
    (["bench", "latency", "--batch-size", "0"], "--batch-size: found 0, expected a whole number of at least 1"),
])
def test_flags_out_of_range(arguments, says):
    fails(*arguments, code=2, says=says)


def test_flags_that_only_the_command_can_judge():
    fails("serve", "--served-model-name", "", says="--served-model-name is empty")
    fails("serve", "--allowed-origins", "[", says="--allowed-origins [: expected an origin")
    fails("serve", "--max-model-len", "-5", says="max_model_len is -5; the model takes 2 to 4096")
    fails("serve", "--host", "300.1.1.1", "--log-level", "error", says="not an IP address")
    fails("run", "--chat", "x", "--model", "", says="name is empty")


def test_files_of_another_kind(tmp_path):
    fails("tokenize", "--file", tmp_path, says="a folder; expected a file")
    fails("run", "--chat", "x", "--tools", tmp_path, says="a folder; expected a file")
    device = tmp_path / "device"
    os.mkfifo(device)
    fails("logits", "--ids", "1", "--out", device, says="is not a regular file")
    assert device.is_fifo()


def test_launch_ends_soon_after_its_ranks():
    done = minimo("launch", "-n", "2", "--", "serve", "--model", "no-such-model", timeout=20)  # until mpirun has ended, too
    assert done.returncode == 1 and done.stdout == ""
    assert "no-such-model: no such folder" in done.stderr
    assert "Segmentation fault" not in done.stderr


def test_launch_refuses_what_no_rank_could_run():
    for command, says in [(("frobnicate",), "frobnicate: no such command"), (("serve", "--portt", "5"), "--portt"),
                          (("serve", "--port", "99999"), "--port: Value 99999")]:
        done = minimo("launch", "-n", "2", "--", *command, timeout=5)  # no rank was started
        assert done.returncode == 1 and says in done.stderr and done.stderr.count("\n") == 1, done.stderr
    fails("launch", "-n", "2", "serve", "--port", "5", code=2, says="what the ranks run comes after --")


def test_ranks_say_once_what_all_of_them_find():
    done = minimo("launch", "-n", "3", "--", "serve", "--tensor-parallel-size", "2", timeout=20)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if "--tensor-parallel-size" in line]
    assert len(said) == 1 and said[0].startswith("minimo: all 3 ranks: --tensor-parallel-size is 2, but 3"), done.stderr


def test_what_cuda_does_not_do_is_said(tmp_path):
    out = tmp_path / "x.safetensors"
    logits = ("logits", "nano-minimax-m2", "--backend", "cuda", "--ids", "1,2", "--out", out)
    fails(*logits, "--hidden", says="on the CPU alone")
    fails(*logits, "--tensor-parallel-size", "2", says="on the CPU alone")
    fails("eval", "--task", ROOT / "bench" / "tasks" / "oz.txt", "--backend", "cuda", says="on the CPU alone")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        fails(*logits, says="CUDA")
    finally:
        del os.environ["CUDA_VISIBLE_DEVICES"]
    assert not out.exists()


def test_bad_input_ends_in_one_line(broken, tmp_path):
    out = tmp_path / "x.safetensors"
    fails("run", "--model", "no-such-model", "--chat", "x", says="no such folder")
    fails("run", "--model", tmp_path, "--chat", "x", says="config.json is not there")
    fails("logits", "nano-minimax-m2", "--ids", "1,99999", "--out", out, says="99999 is not in [0, 2112)")
    fails("logits", "nano-minimax-m2", "--ids-file", tmp_path / "none.json", "--out", out, says="cannot open")
    fails("logits", "nano-minimax-m2", "--ids", "1", "--out", "/proc/x.safetensors", says="cannot create")
    assert not out.exists()
    fails("run", "--prompt", "word " * 6000, says="4096")
    fails("run", "--chat", "x", "--temperature", "nan", says="temperature")
    fails("run", "--chat", "x", "--top-p", "2", says="top_p")
    fails("detokenize", "--ids", "1,-5", says="-5")
    fails("run", "--chat", "x", "--quantization", "w4", says="its quantization is fp8, asked for w4")
    (tmp_path / "m.json").write_text('[{"role": "nobody", "content": "x"}]')
    fails("render", "--messages", tmp_path / "m.json", says="unknown role: nobody")
    (tmp_path / "m.json").write_text('{')
    fails("render", "--messages", tmp_path / "m.json", says="expected a JSON list")

    (broken / "chat_template.jinja").write_text("{% for %}")
    fails("run", "--model", broken, "--chat", "x", says="chat_template.jinja")
    (broken / "config.json").write_text('{"model_type": "llama"}')
    fails("run", "--model", broken, "--chat", "x", says='model_type is "llama"')


def test_a_tokenizer_without_the_models_special_tokens(broken):
    tokenizer = json.loads((broken / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = tokenizer["added_tokens"][:3]
    (broken / "tokenizer.json").write_text(json.dumps(tokenizer))
    fails("run", "--model", broken, "--chat", "x", says="tokenizer")


def test_damaged_shards(broken):
    shard = broken / "model-00001-of-00002.safetensors"
    whole = shard.read_bytes()
    for damage, says in ((whole[: len(whole) // 3], "truncated"), (b"GGUF" + whole[4:], "GGUF"), (b"", "too short"),
                         (struct.pack("<Q", 1 << 60) + whole[8:], "header length")):
        shard.write_bytes(damage)
        fails("run", "--model", broken, "--chat", "x", says=says)
        fails("inspect", broken, says=shard.name)
    shard.unlink()
    fails("run", "--model", broken, "--chat", "x", says="shard is missing")


def test_convert_runs_and_is_checked(tmp_path):
    done = minimo("convert", "nano-mimo-v2-flash", tmp_path / "w4", "--to", "w4")
    assert done.returncode == 0, done.stderr
    assert minimo("convert", "--verify", tmp_path / "w4").returncode == 0
    answer = json.loads(minimo("run", "--model", tmp_path / "w4", "--chat", "What is the capital of Japan?", "--greedy", "--json").stdout)
    assert answer["finish_reason"] == "stop"
