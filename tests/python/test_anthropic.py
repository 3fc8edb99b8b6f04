"""The official anthropic package as the client."""
import anthropic
import pytest

WEATHER = {"name": "get_weather", "description": "Get the weather for a location",
           "input_schema": {"type": "object", "properties": {"location": {"type": "string"},
                                                             "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
                            "required": ["location"]}}


def client_of(server, key="none"):
    return anthropic.Anthropic(base_url=server.url, api_key=key, max_retries=0, timeout=60)


def user(text):
    return [{"role": "user", "content": text}]


def test_fake_message_whole_and_streamed(fake):
    client = client_of(fake)
    whole = client.messages.create(model="fake", max_tokens=100, system="Be brief.", messages=user("a haiku"))
    assert [b.type for b in whole.content] == ["thinking", "text"]
    assert (whole.content[0].thinking, whole.content[1].text) == ("Three lines.", "Blue waves come and go")
    assert whole.stop_reason == "end_turn" and whole.usage.input_tokens > 0 and whole.usage.output_tokens > 0
    with client.messages.stream(model="fake", max_tokens=100, system="Be brief.", messages=user("a haiku")) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert [b.model_dump(exclude={"signature"}) for b in final.content] == [b.model_dump(exclude={"signature"}) for b in whole.content]
    assert final.stop_reason == "end_turn" and final.usage.output_tokens == whole.usage.output_tokens
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    hidden = client.messages.create(model="fake", max_tokens=100, messages=user("a haiku"), thinking={"type": "disabled"})
    assert [b.type for b in hidden.content] == ["text"]


def test_fake_tools_round_trip(fake):
    client = client_of(fake)
    first = client.messages.create(model="fake", max_tokens=100, messages=user("weather?"), tools=[WEATHER])
    assert first.stop_reason == "tool_use"
    call = first.content[-1]
    assert (call.type, call.name, call.input) == ("tool_use", "get_weather", {"location": "Paris"})
    with client.messages.stream(model="fake", max_tokens=100, messages=user("weather?"), tools=[WEATHER]) as stream:
        assert stream.get_final_message().content[-1].input == call.input
    second = client.messages.create(model="fake", max_tokens=100, tools=[WEATHER], messages=user("weather?") + [
        {"role": "assistant", "content": [b.model_dump() for b in first.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]}])
    assert second.content[-1].text == "It is sunny."


def test_fake_stops_and_counts(fake):
    client = client_of(fake)
    cut = client.messages.create(model="fake", max_tokens=3, messages=user("hi"))
    assert cut.stop_reason == "max_tokens" and cut.usage.output_tokens == 3
    stopped = client.messages.create(model="fake", max_tokens=100, messages=user("a haiku"), stop_sequences=["wa"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "wa")
    count = client.messages.count_tokens(model="fake", messages=user("hi"))
    assert count.input_tokens == cut.usage.input_tokens


def test_fake_errors(make_fake):
    server = make_fake(api_key="right")
    with pytest.raises(anthropic.AuthenticationError):
        client_of(server, "wrong").messages.create(model="fake", max_tokens=5, messages=user("x"))
    client = client_of(server, "right")
    with pytest.raises(anthropic.BadRequestError) as fault:
        client.messages.create(model="fake", max_tokens=5, messages=[{"role": "king", "content": "x"}])
    assert "messages[0].role" in str(fault.value)
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="claude", max_tokens=5, messages=user("x"))
    with pytest.raises(anthropic.APIStatusError):
        with client.messages.stream(model="fake", max_tokens=50, messages=user("FAULT_ERROR")) as stream:
            stream.get_final_message()
