"""What works on a good day."""

import anthropic
import pytest

from gateway import MODEL, text_of

TOOL = {
    "name": "tide_table",
    "description": "When the sea rises.",
    "input_schema": {
        "type": "object",
        "properties": {"harbour": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["harbour", "days"],
    },
}


def test_a_message_is_created(gateway):
    message = gateway.client().messages.create(**gateway.ask())
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.usage.input_tokens > 0 and message.usage.output_tokens > 0
    assert text_of(message)
    assert message._request_id.startswith("req_")


def test_the_answer_says_what_it_took(gateway):
    raw = gateway.client().messages.with_raw_response.create(**gateway.ask())
    assert raw.headers["x-seawall-attempts"] == "1"
    assert raw.headers["x-seawall-rung"] == "up"
    assert raw.headers["x-seawall-call"]
    assert "anthropic-ratelimit-requests-limit" in raw.headers
    assert text_of(raw.parse())


def test_a_stream_holds_the_same_message(gateway):
    client, ask = gateway.client(), gateway.ask()
    whole = client.messages.create(**ask)
    with client.messages.stream(**ask) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 1
    assert "".join(pieces) == text_of(final) == text_of(whole)
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert stream.request_id.startswith("req_")


def test_a_raw_stream_has_its_events_in_order(gateway):
    events = [e.type for e in gateway.client().messages.create(stream=True, **gateway.ask())]
    assert events[:2] == ["message_start", "content_block_start"]
    assert events[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(events[2:-3]) == {"content_block_delta"}


def test_a_tool_is_called_and_its_result_answered(gateway):
    client, ask = gateway.client(), gateway.ask(tools=[TOOL])
    called = client.messages.create(tool_choice={"type": "any"}, **ask)
    assert called.stop_reason == "tool_use"
    [use] = [block for block in called.content if block.type == "tool_use"]
    assert use.name == "tide_table" and use.id.startswith("toolu_")
    assert set(use.input) == {"harbour", "days"} and use.input["days"] == 1
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "at noon"}
    ask["messages"] += [
        {"role": "assistant", "content": called.content},
        {"role": "user", "content": [result]},
    ]
    answered = client.messages.create(**ask)
    assert answered.stop_reason in ("end_turn", "max_tokens")
    assert text_of(answered)


def test_a_tools_input_is_streamed(gateway):
    ask = gateway.ask(tools=[TOOL], tool_choice={"type": "tool", "name": "tide_table"})
    with gateway.client().messages.stream(**ask) as stream:
        parts = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    [use] = final.content
    assert use.type == "tool_use" and set(use.input) == {"harbour", "days"}
    assert "".join(parts).startswith("{") and "".join(parts).endswith("}")


@pytest.mark.parametrize("streamed", [False, True])
def test_thinking_comes_before_the_text_and_goes_back(gateway, streamed):
    client = gateway.client()
    ask = gateway.ask(max_tokens=2000, thinking={"type": "adaptive"})
    if streamed:
        with client.messages.stream(**ask) as stream:
            thought = "".join(event.thinking for event in stream if event.type == "thinking")
            message = stream.get_final_message()
        assert thought == message.content[0].thinking
    else:
        message = client.messages.create(**ask)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.content[0].thinking and message.content[0].signature
    ask["messages"] += [
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": "and then?"},
    ]
    assert text_of(client.messages.create(**ask))


def test_a_beta_call_goes_the_same_way(gateway):
    betas = ["interleaved-thinking-2025-05-14", "never-heard-of-2027-01-01"]
    message = gateway.client().beta.messages.create(betas=betas, **gateway.ask())
    assert message.stop_reason in ("end_turn", "max_tokens")


def test_counted_tokens_are_those_that_are_billed(gateway):
    client, ask = gateway.client(), gateway.ask(system="Speak of the sea.")
    message = client.messages.create(**ask)
    del ask["max_tokens"]
    assert client.messages.count_tokens(**ask).input_tokens == message.usage.input_tokens


def test_models_are_listed_and_found(gateway):
    client = gateway.client()
    models = list(client.models.list(limit=1000))
    assert MODEL in [model.id for model in models]
    assert all(model.display_name.startswith("Claude ") for model in models)
    assert client.models.retrieve(MODEL).id == MODEL


@pytest.mark.parametrize("name", ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
def test_the_environment_is_enough(gateway, monkeypatch, name):
    monkeypatch.setenv("ANTHROPIC_BASE_URL", gateway.url)
    monkeypatch.setenv(name, gateway.key())
    assert text_of(anthropic.Anthropic().messages.create(**gateway.ask()))
    assert gateway.attempts() == 1


def test_every_form_of_the_credential_is_taken(gateway):
    old = {"x-api-key": gateway.key(), "Authorization": anthropic.Omit()}
    for options, form in [
        ({"api_key": gateway.key()}, "authorization"),
        ({"api_key": None, "auth_token": gateway.key()}, "authorization"),
        ({"default_headers": old}, "x-api-key"),
        ({"default_headers": {"x-api-key": gateway.key()}}, "x-api-key"),
    ]:
        client, sent = gateway.counted(**options)
        assert text_of(client.messages.create(**gateway.ask()))
        assert form in sent[0], options
    assert gateway.attempts() == 4


def test_a_key_that_the_provider_does_not_know_is_refused_by_it(gateway):
    for options in [{"api_key": "sk-unknown"}, {"api_key": None, "auth_token": "unknown"}]:
        with pytest.raises(anthropic.AuthenticationError) as caught:
            gateway.client(**options).messages.create(**gateway.ask())
        assert caught.value.type == "authentication_error"
        assert caught.value.request_id.startswith("req_")
