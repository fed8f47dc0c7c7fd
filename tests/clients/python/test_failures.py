"""Typed exceptions, and who retries."""

import anthropic
import pytest

from gateway import text_of

# The fault, the SDK's exception, the status, the type in the body, attempts upstream.
FAILURES = [
    ("invalid_request", anthropic.BadRequestError, 400, "invalid_request_error", 1),
    ("authentication", anthropic.AuthenticationError, 401, "authentication_error", 1),
    ("permission", anthropic.PermissionDeniedError, 403, "permission_error", 1),
    ("not_found", anthropic.NotFoundError, 404, "not_found_error", 1),
    ("too_large", anthropic.APIStatusError, 413, "request_too_large", 1),
    ("rate_limited", anthropic.RateLimitError, 429, "rate_limit_error", 3),
    # The real provider says `x-should-retry: false` with it.
    ("internal", anthropic.InternalServerError, 500, "api_error", 1),
    ("bad_gateway", anthropic.InternalServerError, 502, None, 3),
    ("unavailable", anthropic.InternalServerError, 503, None, 3),
    ("timeout", anthropic.InternalServerError, 504, "timeout_error", 3),
    ("overloaded", anthropic.InternalServerError, 529, "overloaded_error", 3),
]
# The edge answers these without the API, so without a request id.
EDGE = {413, 502, 503}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind, error, status, kind_of, attempts", FAILURES, ids=[f[0] for f in FAILURES])
def test_a_failure_is_its_own_exception_and_is_not_retried_twice(
    gateway, kind, error, status, kind_of, attempts, streamed
):
    hint = {"retry_after": "10ms"} if status == 429 else {}
    gateway.fail(kind, **hint)
    client, sent = gateway.counted(max_retries=2)
    with pytest.raises(error) as caught:
        client.messages.create(stream=streamed, **gateway.ask())
    failure = caught.value
    assert (failure.status_code, failure.type) == (status, kind_of)
    assert (failure.request_id is None) == (status in EDGE)
    assert failure.response.headers["x-should-retry"] == "false"
    assert len(sent) == 1, "the SDK retried what seawall had retried"
    assert gateway.attempts() == attempts
    assert failure.response.headers["x-seawall-attempts"] == str(attempts)


def test_529_has_a_class_of_its_own(gateway):
    gateway.fail("overloaded")
    with pytest.raises(anthropic.InternalServerError) as caught:
        gateway.client().messages.create(**gateway.ask())
    assert type(caught.value).__name__ == "OverloadedError"


def test_what_the_provider_refuses_is_refused_in_its_words(gateway):
    client = gateway.client()
    for change, error, words in [
        ({"max_tokens": 0}, anthropic.BadRequestError, "greater than or equal to 1"),
        ({"messages": []}, anthropic.BadRequestError, "at least one message"),
        ({"extra_body": {"temperature": 1}}, anthropic.BadRequestError, "temperature"),
        ({"model": "claude-nothing"}, anthropic.NotFoundError, "claude-nothing"),
    ]:
        with pytest.raises(error) as caught:
            client.messages.create(**{**gateway.ask(), **change})
        assert words in caught.value.api_message
        assert caught.value.request_id.startswith("req_")


def test_a_body_over_the_gateways_limit_is_413(gateway):
    client, sent = gateway.counted()
    big = [{"role": "user", "content": "x" * (8 << 20)}]
    with pytest.raises(anthropic.APIStatusError) as caught:
        client.messages.create(**gateway.ask(messages=big))
    assert (caught.value.status_code, caught.value.type) == (413, "request_too_large")
    assert caught.value.api_message.startswith("seawall: ")
    assert (len(sent), gateway.attempts()) == (1, 0)


def test_what_seawall_retries_is_not_seen(gateway):
    for kind in ["overloaded", "bad_gateway", "reset_before_headers", "truncated_json", "truncated_body"]:
        gateway.heal()
        gateway.fail(kind, attempts=[1, 2])
        client, sent = gateway.counted()
        raw = client.messages.with_raw_response.create(**gateway.ask())
        assert text_of(raw.parse()), kind
        assert raw.headers["x-seawall-attempts"] == "3"
        assert (len(sent), gateway.attempts()) == (1, 3)


def test_a_hint_beyond_the_calls_time_is_handed_on(gateway):
    # Nobody waits an hour here, and nothing was tried again: it is the client's to decide.
    gateway.fail("rate_limited", retry_after="1h")
    client, sent = gateway.counted(max_retries=0)
    with pytest.raises(anthropic.RateLimitError) as caught:
        client.messages.create(**gateway.ask())
    headers = caught.value.response.headers
    assert (headers["retry-after"], headers["x-should-retry"]) == ("3600", "true")
    assert (len(sent), gateway.attempts()) == (1, 1)


def test_a_hint_is_kept_beside_the_word_to_stop(gateway):
    gateway.fail("overloaded", retry_after="1s")
    with pytest.raises(anthropic.InternalServerError) as caught:
        gateway.client().messages.create(**gateway.ask())
    headers = caught.value.response.headers
    assert (headers["retry-after"], headers["x-should-retry"]) == ("1", "false")
    assert gateway.attempts() == 3


def test_a_route_of_one_attempt_leaves_retrying_to_the_sdk(gateway):
    gateway.fail("overloaded")
    client, sent = gateway.counted(route="once", max_retries=1)
    with pytest.raises(anthropic.InternalServerError) as caught:
        client.messages.create(**gateway.ask())
    assert caught.value.response.headers["x-should-retry"] == "true"
    assert [headers["x-stainless-retry-count"] for headers in sent] == ["0", "1"]
    assert gateway.attempts() == 2


def test_the_sdks_own_retries_add_up_and_do_not_multiply(gateway):
    # The SDK's timeout is shorter than seawall's, so that it sends the call again by itself.
    gateway.fail("stall_before_content", attempts=[1, 1])
    client, sent = gateway.counted(max_retries=2, timeout=1.0)
    assert text_of(client.messages.create(**gateway.ask()))
    assert [headers["x-stainless-retry-count"] for headers in sent] == ["0", "1"]
    assert gateway.attempts() == 2
    gateway.until_idle()

    gateway.heal()
    gateway.fail_all([{"kind": "stall_before_content", "attempts": [1, 1]}, {"kind": "overloaded"}])
    client, sent = gateway.counted(max_retries=2, timeout=1.0)
    with pytest.raises(anthropic.InternalServerError) as caught:
        client.messages.create(**gateway.ask())
    assert caught.value.status_code == 529
    assert [headers["x-stainless-retry-count"] for headers in sent] == ["0", "1", "2"]
    # 3 attempts and 2 retries could have been 9.
    assert gateway.attempts() == 3


def test_a_gateway_that_is_not_there_is_a_connection_error(gateway):
    client = gateway.client(max_retries=0)
    with pytest.raises(anthropic.APIConnectionError):
        # Port 9 of loopback: nothing is served there.
        client.with_options(base_url="http://127.0.0.1:9").messages.create(**gateway.ask())
