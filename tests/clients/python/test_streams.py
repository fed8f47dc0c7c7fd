"""Streams that break, and clients that leave."""

import anthropic
import pytest

from gateway import text_of

# Faults after the first content: the client must see each as an exception.
BREAKS = ["stream_error", "cut_stream", "reset_after_headers"]


@pytest.mark.parametrize("kind", BREAKS)
def test_a_stream_that_breaks_is_never_a_message(gateway, kind):
    gateway.fail(kind, after_events=6)
    client, sent = gateway.counted()
    pieces = []
    with pytest.raises(anthropic.APIStatusError) as caught:
        with client.messages.stream(**gateway.ask()) as stream:
            for piece in stream.text_stream:
                pieces.append(piece)
    assert "".join(pieces), "the content before the break arrived"
    assert caught.value.type in ("overloaded_error", "api_error")
    assert caught.value.request_id.startswith("req_")
    assert (len(sent), gateway.attempts()) == (1, 1), "nothing is sent again after content"

    with pytest.raises(anthropic.APIStatusError):
        with client.messages.stream(**gateway.ask()) as stream:
            stream.get_final_message()


@pytest.mark.parametrize("kind", BREAKS)
def test_a_stream_that_breaks_before_content_is_retried_unseen(gateway, kind):
    early = 0 if kind == "reset_after_headers" else 1
    gateway.fail(kind, after_events=early, attempts=[1, 2])
    client, sent = gateway.counted()
    with client.messages.stream(**gateway.ask()) as stream:
        assert text_of(stream.get_final_message())
    assert (len(sent), gateway.attempts()) == (1, 3)


def test_a_stream_that_falls_silent_ends_in_an_exception(gateway):
    gateway.fail("stall_in_stream", after_events=6)
    with pytest.raises(anthropic.APIStatusError):
        with gateway.client(route="strict").messages.stream(**gateway.ask()) as stream:
            stream.get_final_message()


def test_silence_before_content_is_retried_unseen(gateway):
    gateway.fail("stall_before_content", attempts=[1, 1])
    with gateway.client(route="strict").messages.stream(**gateway.ask()) as stream:
        assert text_of(stream.get_final_message())
    assert gateway.attempts() == 2


def test_a_client_that_leaves_a_stream_stops_the_provider(gateway):
    gateway.fail("stall_in_stream", after_events=6)
    with gateway.client().messages.stream(**gateway.ask()) as stream:
        next(iter(stream.text_stream))
        gateway.until_busy()
    gateway.until_idle()
    assert gateway.stats()["aborted"] == 1


@pytest.mark.parametrize("streamed", [False, True])
def test_the_sdks_timeout_before_the_answer_stops_the_provider(gateway, streamed):
    gateway.fail("stall_before_content")
    client, sent = gateway.counted(max_retries=0, timeout=1.0)
    with pytest.raises(anthropic.APITimeoutError):
        client.messages.create(stream=streamed, **gateway.ask())
    gateway.until_idle()
    assert (len(sent), gateway.stats()["aborted"]) == (1, 1)


def test_the_sdks_timeout_inside_a_stream_stops_the_provider(gateway):
    gateway.fail("stall_in_stream", after_events=6)
    client = gateway.client(max_retries=0, timeout=1.0)
    with pytest.raises(Exception) as caught:
        with client.messages.stream(**gateway.ask()) as stream:
            stream.get_final_message()
    assert "timed out" in str(caught.value).lower() or "timeout" in type(caught.value).__name__.lower()
    gateway.until_idle()
    assert gateway.stats()["aborted"] == 1
