use http::HeaderValue;

use super::*;

fn headers(version: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("anthropic-version", HeaderValue::from_static(version));
    headers
}

fn refusal(version: &'static str, body: &str) -> Refusal {
    read(
        &headers(version),
        body.as_bytes(),
        &Settings::default(),
        false,
    )
    .unwrap_err()
}

const OLD: &str = "2023-06-01";

/// Version, body, status, and a part of the message.
const REFUSED: &[(&str, &str, u16, &str)] = &[
    (OLD, "{", 400, "not valid JSON"),
    (OLD, "[]", 400, "valid dictionary"),
    (OLD, "{}", 400, "model: Field required"),
    (OLD, r#"{"model":"gpt-4"}"#, 404, "model: gpt-4"),
    (
        OLD,
        r#"{"model":"claude-4-5-haiku","max_tokens":1,"messages":[]}"#,
        404,
        "model: claude-4-5-haiku",
    ),
    (
        OLD,
        r#"{"model":"claude-sonnet-5","messages":[]}"#,
        400,
        "max_tokens: Field required",
    ),
    (
        OLD,
        r#"{"model":"claude-sonnet-5","max_tokens":0,"messages":[]}"#,
        400,
        "greater than or equal to 1",
    ),
    (
        OLD,
        r#"{"model":"claude-sonnet-5","max_tokens":"9","messages":[]}"#,
        400,
        "valid integer",
    ),
    (
        OLD,
        r#"{"model":"claude-sonnet-5","max_tokens":200000,"messages":[]}"#,
        400,
        "max_tokens: 200000 > 128000",
    ),
    (
        OLD,
        r#"{"model":"claude-sonnet-5","max_tokens":9,"messages":[["user","x"]]}"#,
        400,
        "messages.0: Input does not match",
    ),
    (
        OLD,
        r#"{"model":"claude-sonnet-5","max_tokens":9}"#,
        400,
        "messages: Field required",
    ),
    (
        OLD,
        r#"{"model":"claude-sonnet-5","max_tokens":9,"messages":[]}"#,
        400,
        "at least one message",
    ),
    (
        OLD,
        r#"{"model":"claude-sonnet-5","max_tokens":9,"messages":[{"role":"user"}]}"#,
        400,
        "messages.0.content: Field required",
    ),
    (
        OLD,
        r#"{"model":"claude-sonnet-5","max_tokens":9,"messages":[{"role":"user","content":7}]}"#,
        400,
        "messages.0.content: Input should be a valid list",
    ),
    (
        OLD,
        r#"{"model":"claude-opus-4-6","max_tokens":9,"messages":[{"role":"assistant","content":"a"}]}"#,
        400,
        "prefill",
    ),
    (
        "2026-10-21",
        r#"{"model":"claude-sonnet-5","max_tokens":9,"temperature":1.0,"messages":[{"role":"user","content":"a"}]}"#,
        400,
        "temperature",
    ),
    ("2031-01-01", "{}", 400, "not a valid version"),
];

#[test]
fn a_wrong_request_is_refused_in_the_providers_words() {
    for (version, body, status, wanted) in REFUSED.iter().copied() {
        let got = refusal(version, body);
        assert_eq!(got.status, status, "{body}");
        assert!(got.message.contains(wanted), "{body}: {}", got.message);
    }
}

#[test]
fn prefill_and_sampling_are_accepted_where_they_are_supported() {
    let body = r#"{"model":"claude-sonnet-4-5-20250929","max_tokens":9,"temperature":1.0,"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#;
    assert!(
        read(
            &headers("2023-06-01"),
            body.as_bytes(),
            &Settings::default(),
            false
        )
        .is_ok()
    );
}

#[test]
fn the_generation_is_read_from_the_name() {
    for (model, wanted) in [
        ("claude-opus-4-6", (4, 6)),
        ("claude-sonnet-5", (5, 0)),
        ("claude-haiku-5-5", (5, 5)),
        ("claude-sonnet-4-5-20250929", (4, 5)),
        ("claude-sonnet-4-20250514", (4, 0)),
        ("nonsense", (0, 0)),
    ] {
        assert_eq!(generation(model), wanted, "{model}");
    }
}

#[test]
fn both_credential_headers_are_accepted_and_an_empty_one_is_not() {
    let with = |name: &'static str, value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_static(value));
        headers
    };
    let keys = ["sk-ant-api-1".to_owned()];
    assert!(authenticate(&with("x-api-key", "sk-ant-api-1"), &keys).is_ok());
    assert!(authenticate(&with("authorization", "Bearer sk-ant-api-1"), &keys).is_ok());
    assert!(authenticate(&with("authorization", "bearer other"), &[]).is_ok());
    for headers in [
        HeaderMap::new(),
        with("x-api-key", ""),
        with("authorization", "Basic abc"),
        with("x-api-key", "wrong"),
    ] {
        assert_eq!(
            authenticate(&headers, &keys).unwrap_err().status,
            401,
            "{headers:?}"
        );
    }
}

#[test]
fn the_tag_depends_on_the_messages_alone() {
    let one = r#"{"model":"a","messages":[{"role":"user","content":"x"}]}"#;
    let other_model = r#"{"messages":[{"role":"user","content":"x"}],"model":"b"}"#;
    let other_text = r#"{"model":"a","messages":[{"role":"user","content":"y"}]}"#;
    assert_eq!(
        request_tag(one.as_bytes()),
        request_tag(other_model.as_bytes())
    );
    assert_ne!(
        request_tag(one.as_bytes()),
        request_tag(other_text.as_bytes())
    );
    assert_eq!(request_tag(b"no json").len(), 16);
}
