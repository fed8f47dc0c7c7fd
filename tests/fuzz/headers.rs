//! Headers of answers, and the judgement of any answer.

use std::time::Duration;

use bolero::check;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use seawall::provider::anthropic::headers::{Credential, request_headers, response_headers};
use seawall::provider::anthropic::limits::{RateLimits, retry_after};
use seawall::verdict::judge;
use seawall_actors::verdict::Again;

use crate::source::{FEW, Source, Tally, bytes_of};

/// 2^32 ms: no wait that a header commands is longer.
const LONGEST_WAIT: Duration = Duration::from_millis(1 << 32);

const NAMES: [&str; 30] = [
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "anthropic-ratelimit-requests-limit",
    "anthropic-ratelimit-requests-remaining",
    "anthropic-ratelimit-requests-reset",
    "anthropic-ratelimit-input-tokens-limit",
    "anthropic-ratelimit-input-tokens-remaining",
    "anthropic-ratelimit-input-tokens-reset",
    "anthropic-ratelimit-output-tokens-limit",
    "anthropic-ratelimit-output-tokens-remaining",
    "anthropic-ratelimit-output-tokens-reset",
    "anthropic-ratelimit-unified-status",
    "anthropic-ratelimit-unified-reset",
    "anthropic-ratelimit-unified-fallback-percentage",
    "anthropic-fast-input-tokens-remaining",
    "anthropic-fast-output-tokens-remaining",
    "anthropic-ratelimit-unified-representative-claim",
    "anthropic-ratelimit-unified-7d-reset",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "request-id",
    "content-encoding",
    "connection",
    "x-api-key",
    "authorization",
];

const VALUES: [&str; 44] = [
    "0",
    "1",
    "7",
    "1.5",
    "41 ",
    "-3",
    "-0",
    "NaN",
    "inf",
    "-inf",
    "1e300",
    "1e-300",
    "0x10",
    "4294967",
    "4294967.296",
    "4294967.297",
    "4294967297",
    "18446744073709551615",
    "18446744073709551616",
    "1795521660",
    "-377705116801",
    "253402300800",
    "0.5",
    "1.0001",
    "",
    "soon",
    "true",
    "false",
    "rejected",
    "allowed",
    "gzip",
    "Bearer sk-1",
    "keep-alive, x-api-key",
    "Tue, 24 Nov 2026 12:00:30 GMT",
    "Thu, 01 Jan 1970 00:00:00 GMT",
    "Fri, 31 Dec 9999 23:59:59 GMT",
    "Tuesday, 24-Nov-26 12:00:30 GMT",
    "Tue Nov 24 12:00:30 2026",
    "2026-11-24T12:00:09Z",
    "1970-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "-009999-01-01T00:00:00Z",
    "2026-11-24T12:00:60.999999999+25:00",
    "2026-02-30T00:00:00Z",
];

const BODIES: [&str; 9] = [
    "",
    "<html>",
    "upstream connect error",
    r#"{"type":"error","error":{"type":"rate_limit_error","message":"slow"}}"#,
    r#"{"error":{"type":"x","message":"m","details":{"error_code":"enforced_spend_limit_reached"}}}"#,
    r#"{"error":{"message":"until 9999-12-31","details":{"error_code":"contract_spend_limit_reached"}}}"#,
    r#"{"error":{"message":"m","details":{"error_code":"cmek_key_unreachable"}}}"#,
    r#"{"error":{"message":"m","details":{"error_code":"thread_already_continued"}}}"#,
    r#"{"error":{"message":"You have reached your specified usage limits 9999-12-31"}}"#,
];

fn header_value(source: &mut Source<'_>) -> Option<HeaderValue> {
    match source.below(4) {
        0 => HeaderValue::from_bytes(source.raw(32)).ok(),
        1 => {
            let number = f64::from_bits(source.word()).to_string();
            HeaderValue::from_str(&number).ok()
        }
        _ => HeaderValue::from_str(source.pick(&VALUES)).ok(),
    }
}

fn headers(source: &mut Source<'_>) -> HeaderMap {
    let mut map = HeaderMap::new();
    for _ in 0..source.below(12) {
        let name = HeaderName::from_static(source.pick(&NAMES));
        if let Some(value) = header_value(source) {
            map.append(name, value);
        }
    }
    map
}

/// A wait is none, or at least something and at most the bound.
#[track_caller]
fn sane(wait: Option<Duration>) {
    assert!(
        wait.is_none_or(|wait| !wait.is_zero() && wait <= LONGEST_WAIT),
        "{wait:?}"
    );
}

fn target(input: &[u8]) -> &'static str {
    let mut source = Source::new(input);
    let at = Timestamp::from_second(1_795_521_600).unwrap();
    let now = source.pick(&[at, Timestamp::UNIX_EPOCH, Timestamp::MIN, Timestamp::MAX]);
    let known = [
        200_u16, 204, 301, 400, 401, 402, 404, 408, 409, 413, 429, 500, 501, 503, 529,
    ];
    let status = match source.below(4) {
        0 => u16::try_from(100 + source.below(900)).unwrap(),
        _ => source.pick(&known),
    };
    let status = StatusCode::from_u16(status).unwrap();
    let mut body = source.pick(&BODIES).as_bytes().to_vec();
    if source.once_in(4) {
        source.damage(&mut body);
    }
    let map = headers(&mut source);

    let read = RateLimits::read(status, &map, now);
    sane(read.retry_after);
    sane(retry_after(&map, now));
    for axis in [read.requests, read.input, read.output] {
        sane(axis.full_in);
    }
    if let Some(unified) = read.unified {
        sane(unified.reset_in);
        assert!(
            unified
                .accepted_share
                .is_none_or(|share| (0.0..=1.0).contains(&share))
        );
    }
    if read.all_full() {
        assert!(!read.is_silent());
    }

    let judged = judge(status, &map, &body, now);
    let verdict = judged.verdict;
    assert_eq!(verdict.is_ok(), status.is_success());
    sane(verdict.not_before);
    // A date in a message may be far off: whoever obeys bounds it.
    if let Some(stop) = judged.stop_for {
        let told = now.checked_add(stop).is_ok();
        assert!(told || stop <= LONGEST_WAIT, "{stop:?}");
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        assert!(judged.limit.is_some());
    }
    if verdict.not_before.is_some() {
        assert_eq!(verdict.again, Again::Here);
    }
    if read.should_retry == Some(false) && !verdict.is_ok() {
        assert_ne!(verdict.again, Again::Here);
    }
    assert_eq!(judged.advice("a test").is_empty(), verdict.is_ok());
    travel(&map);
    match (verdict.is_ok(), verdict.not_before, judged.stop_for) {
        (true, ..) => "ok",
        (_, _, Some(_)) => "stop",
        (_, Some(_), _) => "wait",
        _ => "failure",
    }
}

/// What travels on is what was there, less what belongs to one hop.
fn travel(map: &HeaderMap) {
    for out in [
        request_headers(map.clone()),
        response_headers(map.clone(), true),
        response_headers(map.clone(), false),
    ] {
        assert!(!out.contains_key("connection") && !out.contains_key("transfer-encoding"));
        for (name, value) in &out {
            let sent = map.get_all(name).iter().any(|had| had == value);
            assert!(sent || name == "accept-encoding");
        }
    }
    if let Some(credential) = Credential::from_headers(map) {
        assert_eq!(credential.fingerprint().len(), 8);
        let mut out = HeaderMap::new();
        credential.apply(&mut out);
        let again = Credential::from_headers(&out).expect("what was written");
        assert_eq!(again.fingerprint(), credential.fingerprint());
    }
}

#[test]
fn answer_headers() {
    let tally = Tally::new("answer headers");
    check!()
        .with_iterations(FEW)
        .with_generator(bytes_of(32..=192))
        .for_each(|input: &Vec<u8>| {
            tally.count(target(input));
        });
    tally.saw(&["ok", "stop", "wait", "failure"]);
}
