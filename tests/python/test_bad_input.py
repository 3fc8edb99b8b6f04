"""What no client should send: an error object or a closed connection, and the engine does not notice."""
import json
import socket
import time

import httpx
import pytest

from server_process import http

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
COMPLETION = {"model": "fake", "prompt": "hi", "max_tokens": 4}
MESSAGES = {"model": "fake", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}


def post(server, path, body, **kwargs):
    if isinstance(body, (bytes, str)):
        return http.post(server.url + path, content=body, timeout=30, **kwargs)
    return http.post(server.url + path, json=body, timeout=30, **kwargs)


def without(body, name):
    return {key: value for key, value in body.items() if key != name}


def well(server):
    response = post(server, "/v1/completions", COMPLETION)
    assert response.status_code == 200
    assert response.json()["usage"]["completion_tokens"] == 4


@pytest.fixture(autouse=True)
def engine_does_not_notice(fake):
    before = fake.metric("minimo:engine_steps_total")
    yield
    assert fake.metric("minimo:engine_steps_total") == before, "the engine worked on bad input"
    well(fake)


def refused(response, param=None, status=400):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    if param is not None:
        assert error["param"] == param, error
        assert param in error["message"], error
    return error


@pytest.mark.parametrize("body", [
    b"", b"{", b"[]", b"null", b"42", b'"text"', b'{"prompt": "a",}', b'{"prompt": nan}', b"{'prompt': 'a'}",
    b'{"prompt": "\xff\xfe"}', b'{"prompt": "\xc3"}', b'{"prompt": "\\ud800"}', b'{"temperature": NaN, "prompt": "a"}',
    b'{"temperature": Infinity, "prompt": "a"}', b'{"temperature": 1e999, "prompt": "a"}', b"\x00" * 100,
    b'{"prompt": "a"}{"prompt": "b"}', b'{"prompt": "a\nb"}', b"[" * 100_000, b'{"a":' * 50_000,
    b'{"messages": ' + b"[" * 500 + b"]" * 500 + b"}",
], ids=range(21))
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize"])
def test_malformed_json(fake, path, body):
    refused(post(fake, path, body))


@pytest.mark.parametrize("name, value", [
    ("temperature", -0.1), ("temperature", "warm"), ("temperature", [1]), ("temperature", True), ("temperature", 1e30),
    ("top_p", -0.5), ("top_p", 1.5), ("top_k", -2), ("top_k", 1.5), ("min_p", 2), ("n", 0), ("n", -1), ("n", 1.5),
    ("n", 10**9), ("n", "two"), ("max_tokens", -5), ("max_tokens", 10**9), ("max_tokens", 10**30), ("max_tokens", "many"),
    ("min_tokens", -1), ("seed", "x"), ("seed", 1.5), ("stop", 5), ("stop", [1]), ("stop", ["a"] * 1000),
    ("stop_token_ids", [-1]), ("stop_token_ids", "1"), ("stop_token_ids", [10**12]), ("logit_bias", [1]),
    ("logit_bias", {"a": 1}), ("logit_bias", {"5": 101}), ("logit_bias", {"5": "x"}), ("presence_penalty", 3),
    ("frequency_penalty", -3), ("repetition_penalty", 0), ("repetition_penalty", -1), ("stream", 1), ("stream", "yes"),
    ("stream_options", [1]), ("ignore_eos", 1), ("skip_special_tokens", "no"), ("user", 5), ("priority", "high"),
    ("model", 7),
])
@pytest.mark.parametrize("path, base", [("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)],
                         ids=["completions", "chat"])
def test_a_wrong_field_is_named(fake, path, base, name, value):
    refused(post(fake, path, {**base, name: value}), name)


@pytest.mark.parametrize("value, place", [
    (None, "messages"), ([], "messages"), ("hi", "messages"), ([5], "messages[0]"), ([{}], "messages[0].role"),
    ([{"role": "king", "content": "x"}], "messages[0].role"), ([{"role": "user"}], "messages[0].content"),
    ([{"role": "user", "content": 5}], "messages[0].content"),
    ([{"role": "user", "content": [5]}], "messages[0].content[0]"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}], "messages[0].content[0]"),
    ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}], "messages[0].content[0]"),
    ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0]"),
    ([{"role": "assistant", "tool_calls": [{}]}], "messages[0].tool_calls[0].function.name"),
    ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
     "messages[0].tool_calls[0].function.arguments"),
    ([{"role": "assistant", "content": "x", "reasoning_content": 5}], "messages[0].reasoning_content"),
])
def test_a_wrong_message_is_named(fake, value, place):
    refused(post(fake, "/v1/chat/completions", {**CHAT, "messages": value}), place)


@pytest.mark.parametrize("change, place", [
    ({"tools": "x"}, "tools"), ({"tools": [{}]}, "tools[0].function"), ({"tools": [{"type": "web"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": 5}}]}, "tools[0].function.parameters"),
    ({"tool_choice": "always"}, "tool_choice"), ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "tool_choice"),
    ({"response_format": {"type": "yaml"}}, "response_format.type"), ({"response_format": "json"}, "response_format"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    ({"structured_outputs": {}}, "structured_outputs"), ({"structured_outputs": {"regex": 5}}, "structured_outputs.regex"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
    ({"structured_outputs": {"grammar": "x"}}, "structured_outputs.grammar"),
    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice"),
    ({"top_logprobs": 3}, "top_logprobs"), ({"logprobs": 3}, "logprobs"), ({"logprobs": True, "top_logprobs": 99}, "top_logprobs"),
    ({"reasoning_effort": "colossal"}, "reasoning_effort"), ({"max_tokens": 0}, "max_tokens"),
    ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
])
def test_a_wrong_chat_option_is_named(fake, change, place):
    refused(post(fake, "/v1/chat/completions", {**CHAT, **change}), place)


@pytest.mark.parametrize("prompt", [None, 5, {}, [], [[]], ["a", 5], [1.5], [-1], [10**7], [[1], "a", 7], [2**63], [10**40]])
def test_a_wrong_prompt_is_named(fake, prompt):
    refused(post(fake, "/v1/completions", {**COMPLETION, "prompt": prompt}), "prompt")


def test_suffix_is_refused_in_words(fake):
    assert "middle" in refused(post(fake, "/v1/completions", {**COMPLETION, "suffix": "x"}), "suffix")["message"]


def test_a_prompt_beyond_the_context(fake):
    error = refused(post(fake, "/v1/completions", {**COMPLETION, "prompt": [5] * 5000}), "prompt")
    assert error["code"] == "context_length_exceeded"


def test_more_tokens_than_a_number_holds(fake):
    for asked, said in [(10**6, "is 1000000,"), (10**12, "is 2147483647 or more,")]:
        assert said in refused(post(fake, "/v1/completions", {**COMPLETION, "max_tokens": asked}), "max_tokens")["message"]


def test_an_unknown_model_and_path_and_method(fake):
    assert refused(post(fake, "/v1/completions", {**COMPLETION, "model": "gpt-9"}), status=404)["code"] == "model_not_found"
    refused(post(fake, "/v1/embeddings", {}), status=404)
    response = http.get(fake.url + "/v1/completions")
    refused(response, status=405)
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("change, place", [
    ({"max_tokens": None}, "max_tokens"), ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 10**9}, "max_tokens"),
    ({"messages": []}, "messages"), ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_use", "id": "a", "name": "b"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"), ({"system": 5}, "system"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
    ({"tool_choice": {"type": "any"}}, "tool_choice"), ({"thinking": {"type": "deep"}}, "thinking.type"),
    ({"stop_sequences": [5]}, "stop_sequences"), ({"temperature": "x"}, "temperature"), ({"model": "claude"}, None),
])
def test_anthropic_errors_have_anthropics_form(fake, change, place):
    response = post(fake, "/v1/messages", {**MESSAGES, **change})
    assert response.status_code == (404 if "model" in change else 400), response.text
    body = response.json()
    assert body["type"] == "error" and set(body["error"]) == {"type", "message"}
    if place:
        assert place in body["error"]["message"]


# -- below JSON ------------------------------------------------------------------------------------------------------


def exchange(server, data, wait=5.0):
    """Sends bytes, returns what comes until the server closes or falls silent."""
    with server.connect() as connection:
        connection.settimeout(wait)
        got = b""
        try:
            connection.sendall(data)
            while piece := connection.recv(65536):
                got += piece
        except (TimeoutError, ConnectionError):
            pass
        return got


@pytest.mark.parametrize("data", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,  # TLS
    b"rubbish\r\n\r\n", b"GET\r\n\r\n", b"POST /v1/completions HTTP/9.9\r\n\r\n", b"\r\n" * 1000, b"\x00" * 10000,
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /health HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET /health HTTP/1.1\r\nbad header\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
], ids=range(13))
def test_garbage_is_answered_with_4xx_or_closed(fake, data):
    got = exchange(fake, data)
    assert got == b"" or got.startswith(b"HTTP/1.1 4"), got[:200]


def test_pipelined_garbage_after_a_request(fake):
    got = exchange(fake, b"GET /health HTTP/1.1\r\n\r\n" + b"\xde\xad\xbe\xef garbage\r\n\r\n" * 10)
    assert got.startswith(b"HTTP/1.1 200 OK") and b"HTTP/1.1 400" in got


def test_a_body_of_100_megabytes(fake):
    response = http.post(fake.url + "/v1/completions", content=b"x" * 100_000_000, timeout=30)
    assert refused(response, status=413)["code"] == "request_too_large"

    def pieces():  # of no stated length
        for _ in range(100):
            yield b"x" * 1_000_000

    try:
        assert http.post(fake.url + "/v1/completions", content=pieces(), timeout=30).status_code == 413
    except httpx.TransportError:
        pass  # closed
    assert fake.rss_bytes() < 200_000_000


def test_a_bad_key(make_fake):
    server = make_fake(api_key="secret-1")
    for headers in ({}, {"Authorization": "Bearer secret-2"}, {"Authorization": "Bearer secret-"}, {"x-api-key": "x"},
                    {"Authorization": "Basic secret-1"}):
        response = post(server, "/v1/completions", COMPLETION, headers=headers)
        assert refused(response, status=401)["code"] == "invalid_api_key"
    assert post(server, "/v1/messages", MESSAGES).json()["error"]["type"] == "authentication_error"
    assert post(server, "/v1/completions", COMPLETION, headers={"Authorization": "Bearer secret-1"}).status_code == 200
    assert post(server, "/v1/completions", COMPLETION, headers={"x-api-key": "secret-1"}).status_code == 200
    assert http.get(server.url + "/health").status_code == 200


def test_a_client_that_sends_one_byte_at_a_time_is_cut(make_fake):
    server = make_fake(idle_timeout_ms=500)
    with server.connect() as connection:
        start = time.time()
        with pytest.raises((ConnectionError, TimeoutError, AssertionError)):
            for byte in b"POST /v1/completions HTTP/1.1\r\nX: " + b"y" * 1000:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
                connection.setblocking(False)
                try:
                    assert connection.recv(1) != b"", "closed"
                except BlockingIOError:
                    pass
                finally:
                    connection.setblocking(True)
        assert time.time() - start < 5


def test_a_client_that_reads_one_byte_a_second_is_dropped(make_fake):
    server = make_fake(write_timeout_ms=500, step_us=0, length=32)
    body = json.dumps({**COMPLETION, "max_tokens": 4000, "ignore_eos": True, "stream": True, "n": 100, "logprobs": 5}).encode()
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    with connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        for _ in range(10):
            if server.metric("minimo:http_clients_dropped_total") == 1:
                break
            assert connection.recv(1)
            time.sleep(1)
    assert server.metric("minimo:http_clients_dropped_total") == 1
    server.wait_idle()
    well(server)
