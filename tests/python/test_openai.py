"""The official openai package as the client, on the fake engine (what is written) and on the nano models (what it
says)."""
import json

import openai
import pytest

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Get the weather for a location",
    "parameters": {"type": "object", "properties": {"location": {"type": "string"},
                                                    "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
                   "required": ["location"]}}}
CALCULATE = {"type": "function", "function": {
    "name": "calculate", "description": "Evaluate an arithmetic expression",
    "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]}}}


def client_of(server, **kwargs):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=60, **kwargs)


def user(text):
    return [{"role": "user", "content": text}]


def joined(stream):
    """A streamed answer put together: (message fields, finish_reason, usage)."""
    message = {"content": "", "reasoning_content": "", "tool_calls": {}}
    finish, usage, roles = None, None, 0
    for chunk in stream:
        assert chunk.object == "chat.completion.chunk"
        if chunk.usage:
            usage = chunk.usage
        for choice in chunk.choices:
            delta = choice.delta
            roles += delta.role == "assistant"
            message["content"] += delta.content or ""
            message["reasoning_content"] += getattr(delta, "reasoning_content", None) or ""
            for call in delta.tool_calls or []:
                entry = message["tool_calls"].setdefault(call.index, {"id": None, "name": None, "arguments": ""})
                if call.id:
                    assert entry["id"] is None, "an id comes once"
                    entry.update(id=call.id, name=call.function.name)
                entry["arguments"] += call.function.arguments or ""
            finish = choice.finish_reason or finish
    assert roles == 1
    return message, finish, usage


# -- the fake engine: the forms ----------------------------------------------------------------------------------------


def test_fake_chat_whole_and_streamed(fake):
    client = client_of(fake)
    whole = client.chat.completions.create(model="fake", messages=user("a haiku"))
    message = whole.choices[0].message
    assert (message.content, message.reasoning_content) == ("Blue waves come and go", "Three lines.")
    assert message.tool_calls is None and whole.choices[0].finish_reason == "stop"
    assert whole.usage.completion_tokens_details.reasoning_tokens > 0
    streamed, finish, usage = joined(client.chat.completions.create(
        model="fake", messages=user("a haiku"), stream=True, stream_options={"include_usage": True}))
    assert (streamed["content"], streamed["reasoning_content"], finish) == (message.content, message.reasoning_content, "stop")
    assert usage == whole.usage


def test_fake_tools_whole_and_streamed(fake):
    client = client_of(fake)
    whole = client.chat.completions.create(model="fake", messages=user("weather?"), tools=[WEATHER])
    choice = whole.choices[0]
    assert choice.finish_reason == "tool_calls" and choice.message.content is None
    call = choice.message.tool_calls[0]
    assert call.id.startswith("call_") and call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"location": "Paris"}
    streamed, finish, _ = joined(client.chat.completions.create(model="fake", messages=user("weather?"), tools=[WEATHER], stream=True))
    assert finish == "tool_calls" and streamed["tool_calls"][0]["arguments"] == call.function.arguments
    answer = client.chat.completions.create(model="fake", tools=[WEATHER], messages=user("weather?") + [
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"}])
    assert answer.choices[0].message.content == "It is sunny."


def test_fake_n_and_logprobs(fake):
    client = client_of(fake)
    answer = client.chat.completions.create(model="fake", messages=user("hi"), n=3, logprobs=True, top_logprobs=2, max_tokens=5)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        content = choice.logprobs.content
        assert "".join(t.token for t in content) == choice.message.content and len(content) == 5
        for token in content:
            assert bytes(token.bytes).decode() == token.token and len(token.top_logprobs) == 2
    streamed = list(client.chat.completions.create(model="fake", messages=user("hi"), logprobs=True, max_tokens=5, stream=True))
    tokens = [t.token for c in streamed for t in (c.choices[0].logprobs.content if c.choices[0].logprobs else [])]
    assert tokens == [t.token for t in answer.choices[0].logprobs.content]


def test_fake_errors(make_fake):
    server = make_fake(api_key="right")
    with pytest.raises(openai.AuthenticationError):
        client_of(server).models.list()
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="right", max_retries=0)
    assert [m.id for m in client.models.list()] == ["fake"]
    with pytest.raises(openai.NotFoundError) as fault:
        client.chat.completions.create(model="gpt", messages=user("x"))
    assert fault.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as fault:
        client.chat.completions.create(model="fake", messages=user("x"), temperature=-1)
    assert fault.value.param == "temperature"
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="fake", messages=user("FAULT_ERROR"))
