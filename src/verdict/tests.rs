use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use proptest::prelude::{any, prop, proptest};
use seawall_actors::verdict::{Again, Blame};

use super::{
    Advice, Document, Judged, Timeout, judge, judge_answer, judge_broken, judge_stream_error,
    judge_timeout, judge_truncated, label,
};
use crate::transport::Broken;

fn now() -> Timestamp {
    "2026-11-24T12:00:00Z".parse().expect("a time")
}

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(k, v)| {
            (
                HeaderName::from_static(k),
                HeaderValue::from_str(v).expect("a value"),
            )
        })
        .collect()
}

fn judged(status: u16, pairs: &[(&'static str, &str)], body: &str) -> Judged {
    let status = StatusCode::from_u16(status).expect("a status");
    judge(status, &headers(pairs), body.as_bytes(), now())
}

fn error(kind: &str, message: &str) -> String {
    crate::provider::anthropic::error_body(kind, message, Some("req_1"))
}

fn coded(kind: &str, code: &str, message: &str) -> String {
    format!(
        r#"{{"type":"error","error":{{"type":"{kind}","message":"{message}","details":{{"error_code":"{code}"}}}}}}"#
    )
}

fn read(judged: &Judged) -> (&'static str, Blame, Again) {
    (
        judged.verdict.label,
        judged.verdict.blame,
        judged.verdict.again,
    )
}

#[test]
fn every_row_of_the_status_table() {
    use Again::{Elsewhere, Here, Never};
    use Blame::{Caller, Credential, Quota, Target};
    for (status, kind, expected) in [
        (
            400,
            "invalid_request_error",
            (label::INVALID_REQUEST, Caller, Never),
        ),
        (
            401,
            "authentication_error",
            (label::AUTHENTICATION, Credential, Elsewhere),
        ),
        (
            402,
            "billing_error",
            (label::BILLING, Credential, Elsewhere),
        ),
        (
            403,
            "permission_error",
            (label::PERMISSION, Credential, Elsewhere),
        ),
        (
            404,
            "not_found_error",
            (label::NOT_FOUND, Caller, Elsewhere),
        ),
        (405, "", (label::INVALID_REQUEST, Caller, Never)),
        (408, "", (label::SERVER_TIMEOUT, Target, Here)),
        (409, "conflict_error", (label::CONFLICT, Caller, Here)),
        (412, "", (label::INVALID_REQUEST, Caller, Never)),
        (413, "request_too_large", (label::TOO_LARGE, Caller, Never)),
        (422, "", (label::INVALID_REQUEST, Caller, Never)),
        (431, "", (label::INVALID_REQUEST, Caller, Never)),
        (499, "", (label::INVALID_REQUEST, Caller, Never)),
        (429, "rate_limit_error", (label::RATE_LIMITED, Quota, Here)),
        (500, "api_error", (label::SERVER_ERROR, Target, Here)),
        (501, "", (label::SERVER_ERROR, Target, Elsewhere)),
        (502, "", (label::BAD_GATEWAY, Target, Here)),
        (503, "", (label::UNAVAILABLE, Target, Here)),
        (504, "timeout_error", (label::SERVER_TIMEOUT, Target, Here)),
        (520, "", (label::BAD_GATEWAY, Target, Here)),
        (524, "", (label::BAD_GATEWAY, Target, Here)),
        (529, "overloaded_error", (label::OVERLOADED, Target, Here)),
        (599, "brand_new_error", (label::SERVER_ERROR, Target, Here)),
        (301, "", (label::REDIRECTED, Target, Elsewhere)),
    ] {
        let seen = judged(status, &[], &error(kind, "why"));
        assert_eq!(read(&seen), expected, "{status}");
        assert_eq!(
            (seen.message.as_str(), seen.verdict.not_before),
            ("why", None),
            "{status}"
        );
        assert!(
            !seen.advice("the environment").is_empty(),
            "{status} has no advice"
        );
        assert!(label::ALL.contains(&seen.verdict.label));
    }
    assert_eq!(
        judged(200, &[("retry-after", "30")], "").verdict,
        super::Verdict::OK
    );
}

#[test]
fn the_servers_own_word_on_retrying_wins_over_the_status() {
    use Again::{Elsewhere, Here, Never};
    for (status, word, expected) in [
        (500, "false", Elsewhere),
        (529, "false", Elsewhere),
        (429, "false", Elsewhere),
        (429, "true", Here),
        (400, "true", Here),
        (404, "true", Here),
        (400, "false", Never),
        (404, "false", Elsewhere),
        (500, "perhaps", Here),
    ] {
        let pairs = [("x-should-retry", word), ("retry-after", "9")];
        let seen = judged(status, &pairs, &error("api_error", "m"));
        assert_eq!(seen.verdict.again, expected, "{status} {word}");
        let obeyed = (expected == Here).then_some(Duration::from_secs(9));
        assert_eq!(seen.verdict.not_before, obeyed, "{status} {word}");
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, one row a rule")]
fn every_code_and_wording_with_a_rule_of_its_own() {
    use Again::{Elsewhere, Here, Never};
    use Blame::{Caller, Credential, Network, Quota, Target};
    let invalid = "invalid_request_error";
    let money = (label::SPEND_LIMIT, Credential, Elsewhere);
    for (status, body, expected) in [
        (
            429,
            coded("rate_limit_error", "ramp_limit_exceeded", "x"),
            (label::RAMP_LIMIT, Quota, Here),
        ),
        (
            429,
            coded("rate_limit_error", "enforced_spend_limit_reached", "x"),
            money,
        ),
        (
            429,
            coded("rate_limit_error", "contract_spend_limit_reached", "x"),
            money,
        ),
        (
            402,
            coded(
                "billing_error",
                "linked_organization_spend_limit_reached",
                "x",
            ),
            money,
        ),
        (
            402,
            coded(
                "billing_error",
                "linked_organization_billing_unavailable",
                "x",
            ),
            (label::BILLING, Credential, Elsewhere),
        ),
        (
            400,
            error(
                invalid,
                "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.",
            ),
            money,
        ),
        (
            400,
            error(
                invalid,
                "You have reached your specified workspace API usage limits.",
            ),
            money,
        ),
        (
            400,
            error(
                invalid,
                "Your credit balance is too low to access the Anthropic API. Please go to Plans",
            ),
            (label::BILLING, Credential, Elsewhere),
        ),
        (
            400,
            coded(invalid, "organization_on_hold", "x"),
            (label::PERMISSION, Credential, Elsewhere),
        ),
        (
            400,
            coded(invalid, "claude_code_version_too_old", "x"),
            (label::INVALID_REQUEST, Caller, Never),
        ),
        (
            400,
            coded(invalid, "request_body_timeout", "x"),
            (label::DISCONNECTED, Network, Here),
        ),
        (
            400,
            coded(invalid, "unsupported_charset", "x"),
            (label::INVALID_REQUEST, Caller, Never),
        ),
        (
            400,
            coded(invalid, "cmek_key_disabled", "x"),
            (label::INVALID_REQUEST, Caller, Never),
        ),
        (
            400,
            coded(invalid, "thread_continue_in_flight", "x"),
            (label::CONFLICT, Caller, Here),
        ),
        (
            400,
            coded(invalid, "thread_already_continued", "x"),
            (label::CONFLICT, Caller, Never),
        ),
        (
            400,
            coded(invalid, "image_dimensions_too_large", "x"),
            (label::INVALID_REQUEST, Caller, Never),
        ),
        (
            400,
            error(
                invalid,
                "prompt is too long: 210000 tokens > 200000 maximum",
            ),
            (label::PROMPT_TOO_LONG, Caller, Elsewhere),
        ),
        (
            400,
            error(
                invalid,
                "input length and `max_tokens` exceed context limit: 188059 + 20000 > 200000",
            ),
            (label::PROMPT_TOO_LONG, Caller, Elsewhere),
        ),
        (
            400,
            error(
                invalid,
                "This model does not support assistant message prefill.",
            ),
            (label::INVALID_REQUEST, Caller, Never),
        ),
        (
            400,
            error(invalid, "foo: Extra inputs are not permitted"),
            (label::INVALID_REQUEST, Caller, Never),
        ),
        (
            400,
            error(invalid, "Output blocked by content filtering policy"),
            (label::REFUSED, Caller, Never),
        ),
        (
            401,
            error(
                "authentication_error",
                "CORS requests are not allowed for this Organization",
            ),
            (label::INVALID_REQUEST, Caller, Never),
        ),
        (
            403,
            coded("permission_error", "user_profile_not_billable", "x"),
            (label::PERMISSION, Credential, Elsewhere),
        ),
        (
            404,
            error("not_found_error", "model: claude-sonnet-4-20250514"),
            (label::MODEL_NOT_FOUND, Caller, Elsewhere),
        ),
        (
            404,
            coded("not_found_error", "file_expired", "x"),
            (label::NOT_FOUND, Caller, Elsewhere),
        ),
        (
            413,
            error(invalid, "Request size exceeds model context window"),
            (label::PROMPT_TOO_LONG, Caller, Elsewhere),
        ),
        (
            503,
            coded("api_error", "cmek_key_unreachable", "x"),
            (label::UNAVAILABLE, Target, Here),
        ),
        (
            529,
            coded("overloaded_error", "compaction_unavailable", "x"),
            (label::OVERLOADED, Target, Here),
        ),
        (
            429,
            error(
                "rate_limit_error",
                "Number of concurrent connections has exceeded your rate limit.",
            ),
            (label::CONCURRENCY_LIMIT, Quota, Here),
        ),
    ] {
        assert_eq!(
            read(&judged(status, &[], &body)),
            expected,
            "{status} {body}"
        );
    }
}

#[test]
fn the_five_kinds_of_too_many_requests() {
    let plain = error(
        "rate_limit_error",
        "This request would exceed your rate limit",
    );
    let bucket = judged(
        429,
        &[
            ("retry-after", "23"),
            ("anthropic-ratelimit-requests-remaining", "0"),
        ],
        &plain,
    );
    assert_eq!(
        read(&bucket),
        (label::RATE_LIMITED, Blame::Quota, Again::Here)
    );
    assert_eq!(
        (bucket.verdict.not_before, bucket.stop_for),
        (Some(Duration::from_secs(23)), Some(Duration::from_secs(23)))
    );

    let ramp = coded("rate_limit_error", "ramp_limit_exceeded", "x");
    let ramp = judged(429, &[("retry-after", "4")], &ramp);
    assert_eq!(
        (ramp.verdict.not_before, ramp.advice),
        (Some(Duration::from_secs(4)), Advice::RampUp)
    );

    let fast = judged(
        429,
        &[
            ("anthropic-fast-input-tokens-remaining", "0"),
            ("retry-after", "1"),
        ],
        &plain,
    );
    assert_eq!(
        (fast.verdict.again, fast.advice),
        (Again::Here, Advice::DropFastMode)
    );

    // From noon on the 24th to midnight on the first: six and a half days.
    let half_day = Duration::from_hours(12);
    let spend = coded("rate_limit_error", "enforced_spend_limit_reached", "x");
    let spend = judged(429, &[("x-should-retry", "true")], &spend);
    assert_eq!(
        (spend.verdict.again, spend.stop_for),
        (Again::Elsewhere, Some(half_day * 13))
    );
    let dated = coded(
        "rate_limit_error",
        "enforced_spend_limit_reached",
        "You will regain access on 2026-11-25 at 00:00 UTC.",
    );
    assert_eq!(judged(429, &[], &dated).stop_for, Some(half_day));

    let reset = (now().as_second() + 13_262).to_string();
    let window = [
        ("anthropic-ratelimit-unified-status", "rejected"),
        ("anthropic-ratelimit-unified-reset", reset.as_str()),
    ];
    let shut = judged(429, &window, &plain);
    let wait = Some(Duration::from_secs(13_262));
    assert_eq!((shut.verdict.not_before, shut.stop_for), (wait, wait));
    let some_pass = [
        window[0],
        window[1],
        ("anthropic-ratelimit-unified-fallback-percentage", "0.5"),
    ];
    assert_eq!(judged(429, &some_pass, &plain).stop_for, None);
}

#[test]
fn a_request_larger_than_its_whole_quota_is_never_waited_for() {
    let body = error(
        "rate_limit_error",
        "This request would exceed your organization's rate limit",
    );
    let full = [
        ("x-should-retry", "false"),
        ("anthropic-ratelimit-requests-limit", "1000"),
        ("anthropic-ratelimit-requests-remaining", "1000"),
        ("anthropic-ratelimit-input-tokens-limit", "450000"),
        ("anthropic-ratelimit-input-tokens-remaining", "450000"),
        (
            "anthropic-ratelimit-input-tokens-reset",
            "1970-01-01T00:00:00Z",
        ),
    ];
    let too_large = judged(429, &full, &body);
    assert_eq!(
        read(&too_large),
        (label::TOO_LARGE_FOR_QUOTA, Blame::Caller, Again::Elsewhere)
    );
    assert_eq!(too_large.verdict.not_before, None);
    // The same answer with the word `true` is a matter of time.
    let mut timed = full;
    timed[0] = ("x-should-retry", "true");
    assert_eq!(
        read(&judged(429, &timed, &body)),
        (label::RATE_LIMITED, Blame::Quota, Again::Here)
    );
    // And with an empty bucket `false` is the quota's word, not the request's fault.
    let mut spent = full;
    spent[4] = ("anthropic-ratelimit-input-tokens-remaining", "0");
    assert_eq!(
        read(&judged(429, &spent, &body)),
        (label::RATE_LIMITED, Blame::Quota, Again::Elsewhere)
    );
}

#[test]
fn bodies_that_are_not_the_documented_shape_are_read_as_far_as_they_go() {
    let bare = judged(
        413,
        &[],
        r#"{"error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}"#,
    );
    assert_eq!(
        (bare.error_type.as_deref(), bare.verdict.label),
        (Some("request_too_large"), label::TOO_LARGE)
    );

    let text = "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
    assert_eq!(judged(503, &[], text).message, text);

    let page = judged(
        502,
        &[("request-id", "req_9")],
        "<html><head><title>502 Bad Gateway</title>",
    );
    assert_eq!(
        page.message,
        "the provider answered 502 (Bad Gateway) without a readable message"
    );
    assert_eq!(
        (page.request_id.as_deref(), page.verdict.label),
        (Some("req_9"), label::BAD_GATEWAY)
    );

    let nulls = judged(
        401,
        &[],
        r#"{"error":{"message":"API key is invalid.","type":"authentication_error","details":null},"request_id":null,"type":"error"}"#,
    );
    assert_eq!((nulls.request_id, nulls.error_code), (None, None));
    assert_eq!(nulls.message, "API key is invalid.");

    let odd = judged(
        400,
        &[],
        r#"{"error":{"message":{"x":1},"type":7,"details":[1]},"request_id":5}"#,
    );
    assert_eq!(
        (odd.error_type, odd.verdict.label),
        (None, label::INVALID_REQUEST)
    );
    assert_eq!(judged(500, &[], r#"{"error":"boom"}"#).message, "boom");
    assert_eq!(
        judged(529, &[("content-encoding", "gzip")], "\u{1f}")
            .verdict
            .label,
        label::OVERLOADED
    );
}

#[test]
fn an_error_inside_a_stream_is_judged_like_its_status() {
    for (kind, expected) in [
        ("overloaded_error", label::OVERLOADED),
        ("api_error", label::SERVER_ERROR),
        ("rate_limit_error", label::RATE_LIMITED),
        ("timeout_error", label::SERVER_TIMEOUT),
        ("authentication_error", label::AUTHENTICATION),
        ("invalid_request_error", label::INVALID_REQUEST),
        ("brand_new_error", label::SERVER_ERROR),
    ] {
        let seen = judge_stream_error(&error(kind, "m"), now());
        assert_eq!(
            (seen.verdict.label, seen.request_id.as_deref()),
            (expected, Some("req_1")),
            "{kind}"
        );
    }
    assert_eq!(
        judge_stream_error("not json", now()).verdict.label,
        label::SERVER_ERROR
    );
}

#[test]
fn a_whole_answer_is_a_success_only_if_it_is_whole() {
    let none = HeaderMap::new();
    let gzip = headers(&[("content-encoding", "gzip")]);
    for document in [Document::Message, Document::TokenCount, Document::Object] {
        let judged = |body: &str| {
            judge_answer(document, &none, body.as_bytes(), now())
                .verdict
                .label
        };
        assert_eq!(judged(r#"{"type":"message","content":["#), label::TRUNCATED);
        assert_eq!(judged(""), label::TRUNCATED);
        for body in [
            "<html>",
            "[]",
            r#"["message",[],5,null]"#,
            "5",
            "null",
            "\"x\"",
        ] {
            assert_eq!(judged(body), label::MALFORMED, "{body}");
        }
        assert_eq!(judged(&error("overloaded_error", "m")), label::OVERLOADED);
        assert!(
            judge_answer(document, &gzip, b"\x1f\x8b", now())
                .verdict
                .is_ok()
        );
    }
}

#[test]
fn a_whole_answer_is_a_success_only_if_it_is_what_was_asked_for() {
    const MESSAGE: &str = r#"{"type":"message","content":[{"type":"new"}],"usage":3,"new":{}}"#;
    const COUNT: &str = r#"{"input_tokens":8,"context_management":{}}"#;
    const LIST: &str = r#"{"data":[],"has_more":false}"#;
    use Document::{Message, Object, TokenCount};
    for (body, is) in [
        (MESSAGE, &[Message, Object][..]),
        (COUNT, &[TokenCount, Object]),
        (LIST, &[Object]),
        (r#"{"hello":"world"}"#, &[Object]),
        ("{}", &[Object]),
        (r#"{"type":"message"}"#, &[Object]),
        (r#"{"type":"message","content":"hi"}"#, &[Object]),
        (r#"{"content":[]}"#, &[Object]),
        (r#"{"type":"completion","content":[]}"#, &[Object]),
        (r#"{"input_tokens":"8"}"#, &[Object]),
    ] {
        for document in [Message, TokenCount, Object] {
            let judged = judge_answer(document, &HeaderMap::new(), body.as_bytes(), now());
            let expected = if is.contains(&document) {
                "ok"
            } else {
                label::MALFORMED
            };
            assert_eq!(judged.verdict.label, expected, "{body} as {document:?}");
        }
    }
}

#[test]
fn breaks_and_timeouts_have_names_of_their_own() {
    for (kind, expected) in [
        (Broken::Connect, (label::CONNECT, Blame::Network)),
        (
            Broken::ConnectTimeout,
            (label::CONNECT_TIMEOUT, Blame::Network),
        ),
        (Broken::BeforeHeaders, (label::DISCONNECTED, Blame::Network)),
        (Broken::InBody, (label::DISCONNECTED, Blame::Network)),
        (Broken::Protocol, (label::PROTOCOL, Blame::Target)),
    ] {
        let seen = judge_broken(kind);
        assert_eq!(read(&seen), (expected.0, expected.1, Again::Here));
    }
    assert_eq!(
        judge_broken(Broken::HeadersTimeout),
        judge_timeout(Timeout::Headers)
    );
    let clocks = [
        Timeout::Connect,
        Timeout::Headers,
        Timeout::FirstContent,
        Timeout::Stall,
        Timeout::Total,
    ];
    let names: std::collections::BTreeSet<_> = clocks
        .into_iter()
        .map(|which| judge_timeout(which).verdict.label)
        .collect();
    assert_eq!(names.len(), clocks.len());
    assert_eq!(
        read(&judge_truncated()),
        (label::TRUNCATED, Blame::Target, Again::Here)
    );
}

#[test]
fn advice_names_the_credential_and_the_figures() {
    let source = "the environment variable ANTHROPIC_API_KEY";
    let key = judged(
        401,
        &[],
        &error("authentication_error", "invalid x-api-key"),
    )
    .advice(source);
    assert!(key.contains(source), "{key}");
    let say = |message| judged(400, &[], &error("invalid_request_error", message)).advice(source);
    let long = say("prompt is too long: 210000 tokens > 200000 maximum");
    assert!(
        long.contains("10000 tokens") && long.contains("200000"),
        "{long}"
    );
    let context =
        say("input length and `max_tokens` exceed context limit: 188059 + 20000 > 200000");
    assert!(context.contains("at most 11941"), "{context}");
    let cap = say(
        "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.",
    );
    assert!(cap.contains("2026-12-01"), "{cap}");
    let slow = judged(504, &[], "").advice(source);
    assert!(
        slow.contains("max_tokens") && slow.contains("stream"),
        "{slow}"
    );
    let model = judged(404, &[], &error("not_found_error", "model: claude-x")).advice(source);
    assert!(model.contains("`claude-x`"), "{model}");
}

proptest! {
    #[test]
    fn nothing_a_provider_sends_can_panic(
        status in 100_u16..=999,
        body in prop::collection::vec(any::<u8>(), 0..400),
        message in ".*",
        value in prop::collection::vec(0x20_u8..=0x7E, 0..30),
        second in any::<i64>(),
    ) {
        let value = HeaderValue::from_bytes(&value).expect("visible characters");
        let mut map = HeaderMap::new();
        for name in ["retry-after", "x-should-retry", "request-id", "content-encoding",
            "anthropic-ratelimit-unified-reset"] {
            map.insert(name, value.clone());
        }
        let now = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
        let status = StatusCode::from_u16(status).expect("a status");
        let spend = coded("rate_limit_error", "enforced_spend_limit_reached", "x");
        let worded = ["prompt is too long:", "exceed context limit:", "You have reached your specified usage limits"]
            .map(|start| error("invalid_request_error", &format!("{start}{message}")));
        for body in [&body[..], message.as_bytes(), spend.as_bytes(),
            worded[0].as_bytes(), worded[1].as_bytes(), worded[2].as_bytes()] {
            for now in [now, Timestamp::MIN, Timestamp::MAX] {
                let seen = judge(status, &map, body, now);
                proptest::prop_assert!(seen.verdict.is_ok() || label::ALL.contains(&seen.verdict.label));
                proptest::prop_assert_eq!(seen.verdict.is_ok(), status.is_success());
                proptest::prop_assert_eq!(seen.advice("somewhere").is_empty(), status.is_success());
                for headers in [&map, &HeaderMap::new()] {
                    for document in [Document::Message, Document::TokenCount, Document::Object] {
                        let answer = judge_answer(document, headers, body, now).verdict;
                        proptest::prop_assert!(answer.is_ok() || label::ALL.contains(&answer.label));
                    }
                }
            }
        }
        proptest::prop_assert!(!judge_stream_error(&message, now).verdict.is_ok());
    }
}
