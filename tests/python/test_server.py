"""The server around the fake engine: what it answers, how it streams, how it behaves under load and at its end."""
import json
import re
import statistics
import threading
import time

import httpx
import pytest

from server_process import http

GOOD = {"model": "fake", "prompt": "hello", "max_tokens": 8}


def events(response):
    """The data of a stream's events, as text."""
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield line[len("data: "):]


def stream(server, path, body, **kwargs):
    with http.stream("POST", server.url + path, json={**body, "stream": True}, timeout=30, **kwargs) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield from events(response)


def chunks(server, path, body):
    data = list(stream(server, path, body))
    assert data[-1] == "[DONE]"
    return [json.loads(item) for item in data[:-1]]


def test_the_small_endpoints(fake):
    assert http.get(fake.url + "/health").json() == {"status": "ok"}
    assert http.get(fake.url + "/ready").status_code == 200
    assert http.get(fake.url + "/version").json()["version"]
    models = http.get(fake.url + "/v1/models").json()
    assert models["object"] == "list" and models["data"][0]["id"] == "fake"
    assert models["data"][0]["max_model_len"] == 4096
    assert http.get(fake.url + "/v1/models/fake").json()["id"] == "fake"
    assert http.get(fake.url + "/v1/models/other").status_code == 404
    page = http.get(fake.url + "/")
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    assert http.get(fake.url + "/static/../../etc/passwd").status_code == 404


def test_tokenize_and_back(fake):
    text = "héllo wörld 🙂"
    tokens = http.post(fake.url + "/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"])
    assert http.post(fake.url + "/detokenize", json={"tokens": tokens["tokens"]}).json()["prompt"] == text
    chat = http.post(fake.url + "/tokenize", json={"messages": [{"role": "user", "content": "hi"}]}).json()
    assert chat["count"] == len(chat["tokens"]) > 0


def test_a_stream_says_what_the_whole_answer_says(fake):
    whole = http.post(fake.url + "/v1/completions", json=GOOD).json()
    pieces = chunks(fake, "/v1/completions", {**GOOD, "stream_options": {"include_usage": True}})
    assert "".join(c["choices"][0]["text"] for c in pieces[:-1]) == whole["choices"][0]["text"]
    assert pieces[-1]["choices"] == [] and pieces[-1]["usage"] == whole["usage"]
    assert all(c["usage"] is None for c in pieces[:-1])
    assert [c["choices"][0]["finish_reason"] for c in pieces[:-1]] == [None] * 7 + ["length"]


def test_continuous_usage(fake):
    pieces = chunks(fake, "/v1/completions", {**GOOD, "stream_options": {"include_usage": True, "continuous_usage_stats": True}})
    assert [c["usage"]["completion_tokens"] for c in pieces] == [1, 2, 3, 4, 5, 6, 7, 8, 8]


def test_prompts_come_as_text_ids_and_arrays(fake):
    ids = http.post(fake.url + "/tokenize", json={"prompt": "hello"}).json()["tokens"]
    texts = []
    for prompt in ("hello", ids, ["hello"], [ids]):
        choices = http.post(fake.url + "/v1/completions", json={**GOOD, "prompt": prompt}).json()["choices"]
        texts.append([c["text"] for c in choices])
    assert texts[0] == texts[1] == texts[2] == texts[3]
    both = http.post(fake.url + "/v1/completions", json={**GOOD, "prompt": ["hello", "other"], "n": 2}).json()
    assert [c["index"] for c in both["choices"]] == [0, 1, 2, 3]
    assert both["choices"][0]["text"] == texts[0][0] != both["choices"][2]["text"]
    assert both["usage"]["completion_tokens"] == 32


def test_echo_and_logprobs(fake):
    body = http.post(fake.url + "/v1/completions", json={**GOOD, "echo": True, "logprobs": 2}).json()
    choice = body["choices"][0]
    logprobs = choice["logprobs"]
    assert choice["text"].startswith("hello")
    assert "".join(logprobs["tokens"]) == choice["text"]
    assert set(logprobs) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert len({len(v) for v in logprobs.values()}) == 1
    assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
    assert all(isinstance(x, float | int) for x in logprobs["token_logprobs"][1:])
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"]):
        assert choice["text"][offset:].startswith(token)
    prompt_only = http.post(fake.url + "/v1/completions",
                             json={**GOOD, "echo": True, "logprobs": 0, "max_tokens": 0}).json()
    assert prompt_only["choices"][0]["text"] == "hello"
    assert prompt_only["usage"]["completion_tokens"] == 0


def test_unknown_fields_are_ignored_with_a_warning(fake):
    response = http.post(fake.url + "/v1/completions", json={**GOOD, "frobnicate": 1, "x\"y": 2})
    assert response.status_code == 200
    assert "frobnicate" in response.headers["warning"]
    assert "warning" not in http.post(fake.url + "/v1/completions", json=GOOD).headers


def test_request_ids_come_back(fake):
    response = http.post(fake.url + "/v1/completions", json=GOOD, headers={"x-request-id": "my-id-1"})
    assert response.headers["x-request-id"] == "my-id-1"
    assert fake.wait_log(r"request id=my-id-1 path=/v1/completions status=200 .*completion_tokens=8")
    assert http.get(fake.url + "/health").headers["x-request-id"].startswith("req-")
    evil = http.post(fake.url + "/v1/completions", json={**GOOD, "request_id": "abc"})
    assert evil.json()["id"] == "cmpl-abc"


def test_the_head_of_a_stream_comes_before_its_first_token_and_comments_keep_it_alive(make_fake):
    server = make_fake(step_us=300_000, keep_alive_ms=50)
    with http.stream("POST", server.url + "/v1/completions", json={**GOOD, "max_tokens": 2, "stream": True}) as response:
        lines = list(response.iter_lines())
    assert lines.count(": keep-alive") >= 4
    assert lines[-2] == "data: [DONE]"


def test_the_queue_is_bounded(make_fake):
    server = make_fake(max_num_seqs=2, max_queue=2, step_us=20_000)
    results = []

    def ask():
        results.append(http.post(server.url + "/v1/completions", json={**GOOD, "max_tokens": 30, "ignore_eos": True}, timeout=30))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    codes = sorted(r.status_code for r in results)
    assert codes == [200] * 4 + [429] * 4
    refused = next(r for r in results if r.status_code == 429)
    assert refused.headers["retry-after"] == "1" and refused.json()["error"]["type"] == "rate_limit_error"
    assert http.post(server.url + "/v1/completions", json=GOOD).status_code == 200


@pytest.mark.parametrize("streaming", [True, False])
def test_a_client_that_goes_away_frees_its_place_within_a_step(make_fake, streaming):
    server = make_fake(step_us=200_000)
    body = json.dumps({**GOOD, "max_tokens": 4000, "ignore_eos": True, "stream": streaming}).encode()
    with server.connect() as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        while server.metric("vllm:num_requests_running") != 1:
            time.sleep(0.01)
    end = time.time() + 1
    while server.metric("vllm:num_requests_running") != 0:
        assert time.time() < end, "still running"
        time.sleep(0.005)
    server.wait_log(r"status=499 outcome=\"client_gone\"")
    assert server.metric("vllm:request_success_total", finished_reason="abort") == 1


def test_a_fault_of_one_request_is_its_own(fake):
    response = http.post(fake.url + "/v1/completions", json={**GOOD, "prompt": "FAULT_ERROR"})
    assert response.status_code == 500 and response.json()["error"]["message"] == "a fault was asked for"
    data = list(stream(fake, "/v1/completions", {**GOOD, "prompt": "FAULT_ERROR"}))
    assert json.loads(data[-2])["error"]["message"] == "a fault was asked for" and data[-1] == "[DONE]"
    assert http.post(fake.url + "/v1/completions", json=GOOD).status_code == 200


def test_an_engine_that_is_down_turns_health_red(make_fake):
    server = make_fake()
    assert http.post(server.url + "/v1/completions", json={**GOOD, "prompt": "FAULT_DOWN"}).status_code == 500
    assert http.get(server.url + "/health").status_code == 503
    assert http.post(server.url + "/v1/completions", json=GOOD).status_code == 503


def refused(server):
    try:
        http.get(server.url + "/health")
        return False
    except httpx.ConnectError:
        return True
    except httpx.TransportError:  # accepted before and dropped
        return False


def test_sigterm_finishes_what_runs(make_fake):
    server = make_fake(step_us=20_000, drain_timeout_ms=5000)
    it = stream(server, "/v1/completions", {**GOOD, "max_tokens": 30, "ignore_eos": True})
    next(it)
    server.terminate()
    server.wait(lambda: refused(server))
    rest = list(it)
    assert rest[-1] == "[DONE]" and len(rest) == 30
    assert server.stop() == 0


def test_sigterm_cuts_after_its_time_and_still_exits_0(make_fake):
    server = make_fake(step_us=20_000, drain_timeout_ms=300)
    it = stream(server, "/v1/completions", {**GOOD, "max_tokens": 4000, "ignore_eos": True})
    next(it)
    start = time.time()
    server.terminate()
    with pytest.raises(httpx.TransportError):
        list(it)
    assert server.stop() == 0
    assert time.time() - start < 3


def test_cors_is_off_unless_asked_for(make_fake, fake):
    origin = {"Origin": "https://page.example"}
    assert "access-control-allow-origin" not in http.get(fake.url + "/health", headers=origin).headers
    server = make_fake(allowed_origins="https://page.example")
    assert http.get(server.url + "/health", headers=origin).headers["access-control-allow-origin"] == "https://page.example"
    assert "access-control-allow-origin" not in http.get(server.url + "/health", headers={"Origin": "https://x.example"}).headers


def test_connections_are_bounded(make_fake):
    server = make_fake(max_connections=3)
    held = [server.connect() for _ in range(3)]
    for connection in held:
        connection.sendall(b"GET /health HTTP/1.1\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 200")
    assert http.get(server.url + "/health").status_code == 503
    for connection in held:
        connection.close()
    server.wait(lambda: http.get(server.url + "/health").status_code == 200)


VLLM_NAMES = """num_requests_running num_requests_waiting kv_cache_usage_perc prefix_cache_queries_total
prefix_cache_hits_total prompt_tokens_total generation_tokens_total num_preemptions_total request_success_total
iteration_tokens_total time_to_first_token_seconds inter_token_latency_seconds request_time_per_output_token_seconds
e2e_request_latency_seconds request_queue_time_seconds request_prefill_time_seconds request_decode_time_seconds
request_inference_time_seconds request_prompt_tokens request_generation_tokens request_params_n
request_params_max_tokens cache_config_info lora_requests_info corrupted_requests_total spec_decode_num_drafts_total
spec_decode_num_draft_tokens_total spec_decode_num_accepted_tokens_total
spec_decode_num_accepted_tokens_per_pos_total""".split()


def test_metrics_have_vllms_names(fake):
    from prometheus_client.parser import text_string_to_metric_families
    before = fake.metric("vllm:generation_tokens_total")
    http.post(fake.url + "/v1/completions", json=GOOD)
    samples = {}
    for family in text_string_to_metric_families(http.get(fake.url + "/metrics").text):
        for sample in family.samples:
            samples.setdefault(sample.name, []).append(sample)
    for name in VLLM_NAMES:
        found = samples.get("vllm:" + name) or samples.get(f"vllm:{name}_count")
        assert found, name
        assert found[0].labels["model_name"] == "fake", name
    assert fake.metric("vllm:generation_tokens_total") == before + 8
    assert len(samples["minimo:expert_load"]) == 2 * 4  # layers x statistics, however many experts there are
    assert sum(len(s) for s in samples.values()) < 1000


def test_the_watchers_stream(fake):
    kinds, stats = set(), []
    with http.stream("GET", fake.url + "/v1/engine/events", timeout=10) as response:
        assert response.status_code == 200
        threading.Timer(0.3, lambda: http.post(fake.url + "/v1/completions", json=GOOD)).start()
        kind = None
        for line in response.iter_lines():
            if line.startswith("event: "):
                kind = line[7:]
                kinds.add(kind)
            if line.startswith("data: "):
                data = json.loads(line[6:])
                if kind == "stats":
                    stats.append(data)
                if kind == "experts":
                    assert len(data["tokens"]) == data["layers"] and len(data["tokens"][0]) == data["experts"]
            generated = stats[-1]["generation_tokens"] - stats[0]["generation_tokens"] if stats else 0
            if len(stats) >= 12 and generated > 0 and stats[-1]["running"] == 0 or len(stats) == 100:
                break
    assert kinds == {"hello", "stats", "experts"}
    assert 0.08 < statistics.median(b["time_us"] - a["time_us"] for a, b in zip(stats, stats[1:])) / 1e6 < 0.13
    assert generated == 8
    assert any(s["itl_ms"]["p50"] for s in stats)


def hammer(server, requests):
    """Sends so many requests over 8 connections, a tenth of them left at once; returns the resident bytes after."""
    chat = {"model": server.model, "messages": [{"role": "user", "content": "hi " * 20}], "max_tokens": 4}
    text = {**GOOD, "model": server.model, "logprobs": 2, "max_tokens": 4}

    def ask(count):
        with httpx.Client(base_url=server.url, timeout=60, verify=False) as client:
            for i in range(count):
                if i % 10 == 0:
                    with client.stream("POST", "/v1/chat/completions", json={**chat, "stream": True, "max_tokens": 400}) as response:
                        next(response.iter_lines())  # and leave
                elif i % 2 == 0:
                    assert client.post("/v1/chat/completions", json=chat).status_code == 200
                else:
                    assert client.post("/v1/completions", json=text).status_code == 200

    threads = [threading.Thread(target=ask, args=(requests // 8,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.wait_idle()
    return server.rss_bytes()


def touch_every_block(server):
    """Fills the cache. Its memory is the system's until a block is first written, and a new answer's blocks are taken
    from the untouched ones first: how fast they become resident depends on how much those who leave have been told."""
    info = re.search(r"vllm:cache_config_info{.*", http.get(server.url + "/metrics").text)[0]
    blocks, size = (int(re.search(rf'{name}="(\d+)"', info)[1]) for name in ("num_gpu_blocks", "block_size"))
    for token in range(100, 101 + blocks * size // 3000):  # the prompts have no prefix in common
        prompt = {"model": server.model, "prompt": [token] * 3000, "max_tokens": 1}
        assert http.post(server.url + "/v1/completions", json=prompt, timeout=60).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fake", "minimo"])
def test_memory_is_flat_over_10000_requests(make_fake, make_minimo, kind):
    server = make_fake(step_us=0) if kind == "fake" else make_minimo(num_gpu_blocks_override=1024)
    if kind == "minimo":
        touch_every_block(server)
    warm = hammer(server, 2000)
    last = hammer(server, 10_000)
    print(f"resident: {warm} after 2,000 requests, {last} after 12,000")
    assert last - warm < 4 << 20
    assert kind == "fake" or server.metric("vllm:kv_cache_usage_perc") <= 1
