"""`minimo serve` on the nano models with the official clients: what the models were trained to say comes through."""
import json
import re
import time

import openai
import pytest

from server_process import http
from test_anthropic import WEATHER as ANTHROPIC_WEATHER, client_of as anthropic_client
from test_openai import CALCULATE, WEATHER, client_of, joined, user

CAPITAL = user("What is the capital of Japan?")
GREEDY = {"extra_body": {"temperature": 0}}  # the anthropic package has no parameter for it


def test_start_says_where_what_and_how_much(minimo):
    text = "".join(minimo.lines)
    while "ready" not in text:
        text += minimo.process.stdout.readline().decode()
    assert re.search(r"listening on http://127.0.0.1:\d+", text)
    assert minimo.model in text and re.search(r"KV cache \d+ tokens", text)
    assert float(re.search(r"ready in ([\d.]+) s", text).group(1)) < 1


def test_chat_whole_and_streamed(minimo):
    client = client_of(minimo)
    whole = client.chat.completions.create(model=minimo.model, messages=CAPITAL, temperature=0)
    message = whole.choices[0].message
    assert message.content.strip() == "The capital of Japan is Tokyo."
    assert "Tokyo" in message.reasoning_content and "think>" not in message.reasoning_content
    assert whole.choices[0].finish_reason == "stop"
    streamed, finish, usage = joined(client.chat.completions.create(
        model=minimo.model, messages=CAPITAL, temperature=0, stream=True, stream_options={"include_usage": True}))
    assert (streamed["content"], streamed["reasoning_content"]) == (message.content, message.reasoning_content)
    assert finish == "stop" and usage.completion_tokens == whole.usage.completion_tokens


def test_a_token_without_text_is_a_chunk_of_its_own(minimo):
    texts = []
    for seed in range(4):  # far from any text: parts of characters come up
        body = {"prompt": [300, 400, 500], "max_tokens": 120, "temperature": 5, "top_p": 1, "top_k": 0, "seed": seed,
                "ignore_eos": True, "stream": True}
        with http.stream("POST", minimo.url + "/v1/completions", json=body) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    texts.append(json.loads(line[6:])["choices"][0]["text"])
    assert len(texts) == 4 * 120 and "" in texts


# As the nano models learnt it.
COMPUTE = {"type": "function", "function": {"name": "calculate", "description": "Compute an expression", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}, "op": {"type": "string"}},
    "required": ["a", "b", "op"]}}}


@pytest.mark.parametrize("question, tools, name, kinds, result", [
    ("What's the weather like in Madrid? use fahrenheit.", [WEATHER], "get_weather", {"location": str, "unit": str},
     '{"location": "Madrid", "temperature": 20, "weather": "sunny"}'),
    ("Use the tool to compute 123 + 456.", [WEATHER, COMPUTE], "calculate", {"a": int, "b": int, "op": str}, "579"),
])
def test_tools_round_trip(minimo, question, tools, name, kinds, result):
    client = client_of(minimo)
    first = client.chat.completions.create(model=minimo.model, messages=user(question), tools=tools, temperature=0)
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls", choice
    call = choice.message.tool_calls[0]
    assert call.function.name == name
    given = json.loads(call.function.arguments)
    assert {key: type(value) for key, value in given.items()} == kinds
    if name == "get_weather":
        assert given == {"location": "Madrid", "unit": "fahrenheit"}
    streamed, finish, _ = joined(client.chat.completions.create(
        model=minimo.model, messages=user(question), tools=tools, temperature=0, stream=True))
    assert finish == "tool_calls" and streamed["tool_calls"][0]["name"] == name
    assert json.loads(streamed["tool_calls"][0]["arguments"]) == given
    assert "tool_call" not in streamed["content"] + streamed["reasoning_content"]
    answer = client.chat.completions.create(model=minimo.model, tools=tools, temperature=0, messages=user(question) + [
        choice.message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": result}])
    assert answer.choices[0].finish_reason == "stop" and answer.choices[0].message.content


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "calculate"}}])
def test_a_forced_call_is_a_call(minimo, choice):
    answer = client_of(minimo).chat.completions.create(model=minimo.model, messages=user("What is 3+4?"), temperature=0,
                                                       tools=[WEATHER, CALCULATE], tool_choice=choice, max_tokens=600)
    call = answer.choices[0].message.tool_calls[0]
    json.loads(call.function.arguments)
    assert choice == "required" or call.function.name == "calculate"


def test_no_tools_on_request(minimo):
    answer = client_of(minimo).chat.completions.create(model=minimo.model, messages=user("What's the weather like in Madrid?"),
                                                       tools=[WEATHER], tool_choice="none", max_tokens=100)
    assert not answer.choices[0].message.tool_calls


def test_json_object_and_schema(minimo):
    client = client_of(minimo)
    schema = {"type": "object", "properties": {"capital": {"type": "string", "maxLength": 20}, "size": {"enum": [1, 2, 3]}},
              "required": ["capital", "size"], "additionalProperties": False}
    import jsonschema
    for seed in range(3):
        answer = client.chat.completions.create(model=minimo.model, messages=CAPITAL, seed=seed, max_tokens=600, response_format={
            "type": "json_schema", "json_schema": {"name": "a", "schema": schema}})
        assert answer.choices[0].finish_reason == "stop"
        jsonschema.validate(json.loads(answer.choices[0].message.content), schema)
        answer = client.completions.create(model=minimo.model, prompt="The capital: ", seed=seed, max_tokens=600, extra_body={
            "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}})
        assert answer.choices[0].finish_reason == "stop"
        jsonschema.validate(json.loads(answer.choices[0].text), schema)
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=minimo.model, messages=CAPITAL, response_format={
            "type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "banana"}}})


def test_regex_and_choice(minimo):
    client = client_of(minimo)
    wanted = {"regex": (lambda text: re.fullmatch(r"(yes|no), \d{2}!", text), r"(yes|no), \d{2}!"),
              "choice": (lambda text: text in ("red", "green"), ["red", "green"])}
    for key, (holds, value) in wanted.items():
        extra = {"structured_outputs": {key: value}}
        answer = client.chat.completions.create(model=minimo.model, messages=CAPITAL, max_tokens=600, extra_body=extra)
        assert answer.choices[0].finish_reason == "stop" and holds(answer.choices[0].message.content), answer
        answer = client.completions.create(model=minimo.model, prompt="Say: ", max_tokens=600, extra_body=extra)
        assert answer.choices[0].finish_reason == "stop" and holds(answer.choices[0].text), answer


def test_logprobs(minimo):
    client = client_of(minimo)
    answer = client.chat.completions.create(model=minimo.model, messages=CAPITAL, temperature=0, logprobs=True, top_logprobs=3)
    for token in answer.choices[0].logprobs.content:
        assert token.logprob == max(t.logprob for t in token.top_logprobs) <= 0
        assert len(token.top_logprobs) == 3 and token.token == token.top_logprobs[0].token
    completion = client.completions.create(model=minimo.model, prompt="The capital of Japan", max_tokens=4, temperature=0,
                                           logprobs=1, echo=True)
    logprobs = completion.choices[0].logprobs
    assert "".join(logprobs.tokens).removesuffix("<|im_end|>") == completion.choices[0].text
    assert logprobs.token_logprobs[0] is None and all(p <= 0 for p in logprobs.token_logprobs[1:])


def test_seeds_n_and_stops(minimo):
    client = client_of(minimo)
    texts = [c.text for c in client.completions.create(model=minimo.model, prompt="Blue", n=4, seed=7, temperature=1.5, max_tokens=12).choices]
    again = [c.text for c in client.completions.create(model=minimo.model, prompt="Blue", n=4, seed=7, temperature=1.5, max_tokens=12).choices]
    assert texts == again and len(set(texts)) > 1
    stopped = client.chat.completions.create(model=minimo.model, messages=CAPITAL, temperature=0, stop=["Tokyo"])
    assert "Tokyo" not in stopped.choices[0].message.reasoning_content
    assert stopped.choices[0].stop_reason == "Tokyo"


def test_anthropic(minimo):
    client = anthropic_client(minimo)
    whole = client.messages.create(model=minimo.model, max_tokens=300, messages=CAPITAL, **GREEDY)
    assert [b.type for b in whole.content] == ["thinking", "text"]
    assert whole.content[1].text.strip() == "The capital of Japan is Tokyo."
    with client.messages.stream(model=minimo.model, max_tokens=300, messages=CAPITAL, **GREEDY) as stream:
        assert stream.get_final_message().content[1].text == whole.content[1].text
    question = user("What's the weather like in Madrid? use fahrenheit.")
    first = client.messages.create(model=minimo.model, max_tokens=300, messages=question, tools=[ANTHROPIC_WEATHER], **GREEDY)
    assert first.stop_reason == "tool_use"
    call = first.content[-1]
    assert (call.name, call.input) == ("get_weather", {"location": "Madrid", "unit": "fahrenheit"})
    second = client.messages.create(model=minimo.model, max_tokens=300, tools=[ANTHROPIC_WEATHER], **GREEDY, messages=question + [
        {"role": "assistant", "content": [b.model_dump() for b in first.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "70"}]}])
    assert second.stop_reason in ("end_turn", "tool_use")


def test_errors(minimo):
    client = client_of(minimo)
    with pytest.raises(openai.BadRequestError) as fault:
        client.completions.create(model=minimo.model, prompt="x" * 40_000, max_tokens=5)
    assert fault.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="other", prompt="x")
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model=minimo.model, prompt="x", logit_bias={"99999999": 1})
    assert http.get(minimo.url + "/health").status_code == 200


def test_sigterm_exits_0(make_minimo):
    server = make_minimo(served_model_name=["one", "two"], max_num_seqs=4)
    assert [m["id"] for m in http.get(server.url + "/v1/models").json()["data"]] == ["one", "two"]
    start = time.time()
    assert server.stop() == 0
    assert time.time() - start < 5
