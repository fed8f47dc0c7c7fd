"""Streams that the provider did not write: kept and fixed ones."""

from gateway import MODEL, text_of


def test_a_kept_stream_is_the_message_that_was_kept(gateway):
    client = gateway.client(route="kept")
    ask = gateway.ask()
    with client.messages.stream(**ask) as stream:
        first = stream.get_final_message()
    assert gateway.attempts() == 1
    with client.messages.stream(**ask) as stream:
        pieces = list(stream.text_stream)
        again = stream.get_final_message()
        headers = stream.response.headers
    assert headers["x-seawall-rung"] == "cache"
    assert headers["x-seawall-cache"].startswith("hit; age=")
    assert "".join(pieces) == text_of(again) == text_of(first) != ""
    assert (again.id, again.model, again.stop_reason) == (first.id, MODEL, first.stop_reason)
    assert again.usage.output_tokens == first.usage.output_tokens
    whole = client.messages.create(**ask)
    assert text_of(whole) == text_of(first)
    assert gateway.attempts() == 1


def test_a_fixed_stream_is_a_message(gateway):
    gateway.fail("overloaded")
    client, sent = gateway.counted(route="fixed")
    with client.messages.stream(**gateway.ask()) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
        headers = stream.response.headers
    assert headers["x-seawall-degraded"] == "static"
    assert "".join(pieces) == text_of(message)
    assert text_of(message).startswith('Away, "for" now: é, back in ')
    assert (message.model, message.stop_reason) == ("static", "end_turn")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (0, 0)
    assert len(sent) == 1
