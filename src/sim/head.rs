//! Status lines, headers and error bodies as the real provider and its edge send them.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, RETRY_AFTER, SERVER};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::Timestamp;
use rand::RngExt;
use serde_json::Value;
use tokio::time::Instant;

use super::answer::Head;
use super::buckets::{Axis, Buckets, Refused};
use super::faults::{Fault, FaultKind};
use super::seed;

/// The organisation that every credential belongs to.
pub(super) const ORGANIZATION: &str = "00000000-0000-4000-8000-000000000000";

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// `prefix` and 24 characters, as in `req_011C…`.
pub(super) fn id(prefix: &str, seed: u64) -> String {
    let mut rng = seed::rng(seed, &[0x1d]);
    let mut id = format!("{prefix}01");
    for _ in 0..22 {
        let place = rng.random_range(0..BASE62.len());
        id.push(char::from(BASE62.get(place).copied().unwrap_or(b'0')));
    }
    id
}

/// A moment of the simulated provider.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Instant,
    pub(super) wall: Timestamp,
    pub(super) seed: u64,
}

/// The headers that every answer of the API itself has.
pub(super) fn api(moment: Moment) -> HeaderMap {
    let mut headers = edge(moment);
    put(
        &mut headers,
        HeaderName::from_static("request-id"),
        &id("req_", moment.seed),
    );
    headers.insert(
        "anthropic-organization-id",
        HeaderValue::from_static(ORGANIZATION),
    );
    headers.insert("cf-cache-status", HeaderValue::from_static("DYNAMIC"));
    headers.insert("x-robots-tag", HeaderValue::from_static("none"));
    headers.insert(
        "strict-transport-security",
        HeaderValue::from_static("max-age=31536000; includeSubDomains; preload"),
    );
    headers
}

fn edge(moment: Moment) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(24);
    let date = moment
        .wall
        .strftime("%a, %d %b %Y %H:%M:%S GMT")
        .to_string();
    put(&mut headers, DATE, &date);
    headers.insert(SERVER, HeaderValue::from_static("cloudflare"));
    headers
}

/// The rate-limit families. A limit that does not exist has none.
pub(super) fn rate_limits(headers: &mut HeaderMap, buckets: &mut Buckets, moment: Moment) {
    families(
        headers,
        [
            &mut buckets.requests,
            &mut buckets.input,
            &mut buckets.output,
        ],
        |axis| {
            let lacking = axis.full_in(moment.now);
            (axis.remaining(moment.now), after(moment.wall, lacking))
        },
    );
}

/// The families of the 429 that can never succeed: everything left, and resets in 1970.
fn untouched(headers: &mut HeaderMap, buckets: &mut Buckets) {
    families(
        headers,
        [
            &mut buckets.requests,
            &mut buckets.input,
            &mut buckets.output,
        ],
        |axis| (axis.limit, Timestamp::UNIX_EPOCH),
    );
}

fn families(
    headers: &mut HeaderMap,
    [requests, input, output]: [&mut Option<Axis>; 3],
    mut state: impl FnMut(&mut Axis) -> (u64, Timestamp),
) {
    let mut tokens: Option<(u64, u64, Timestamp)> = None;
    let mut both = true;
    for (name, axis) in [("input-tokens", input), ("output-tokens", output)] {
        let Some(axis) = axis else {
            both = false;
            continue;
        };
        let (left, reset) = state(axis);
        let left = thousands(left).min(axis.limit);
        family(headers, name, axis.limit, left, reset);
        tokens = Some(tokens.map_or((axis.limit, left, reset), |(l, r, t)| {
            (
                l.saturating_add(axis.limit),
                r.saturating_add(left),
                t.max(reset),
            )
        }));
    }
    if let Some(axis) = requests {
        let (left, reset) = state(axis);
        family(headers, "requests", axis.limit, left, reset);
    }
    if let (Some((limit, left, reset)), true) = (tokens, both) {
        family(headers, "tokens", limit, left, reset);
    }
}

fn family(headers: &mut HeaderMap, name: &str, limit: u64, left: u64, reset: Timestamp) {
    for (suffix, value) in [
        ("limit", limit.to_string()),
        ("remaining", left.to_string()),
        ("reset", reset.to_string()),
    ] {
        if let Ok(name) = HeaderName::try_from(format!("anthropic-ratelimit-{name}-{suffix}")) {
            put(headers, name, &value);
        }
    }
}

/// Token counts are told in whole thousands.
const fn thousands(tokens: u64) -> u64 {
    tokens.saturating_add(500) / 1_000 * 1_000
}

/// A moment later than `wall`, in whole seconds, never too early.
fn after(wall: Timestamp, wait: std::time::Duration) -> Timestamp {
    let nanos = i128::try_from(wait.as_nanos()).unwrap_or(i128::MAX / 2);
    let second = wall
        .as_nanosecond()
        .saturating_add(nanos)
        .saturating_add(999_999_999)
        .div_euclid(1_000_000_000);
    i64::try_from(second)
        .ok()
        .and_then(|s| Timestamp::from_second(s).ok())
        .unwrap_or(Timestamp::MAX)
}

/// An error answer: its head and its body.
pub(super) type ErrorAnswer = (Head, Bytes);

/// The answer to a request that is refused for what it is.
pub(super) fn refusal(status: u16, message: &str, moment: Moment) -> ErrorAnswer {
    let mut headers = api(moment);
    retry_words(&mut headers, status, None, None);
    json(status, headers, &error_json(status, message, moment))
}

/// The answer to a request over a limit.
pub(super) fn limited(
    refused: &Refused,
    model: &str,
    buckets: &mut Buckets,
    moment: Moment,
) -> ErrorAnswer {
    let mut headers = api(moment);
    match refused.wait {
        Some(_) => rate_limits(&mut headers, buckets, moment),
        None => untouched(&mut headers, buckets),
    }
    retry_words(
        &mut headers,
        429,
        refused.wait,
        Some(refused.wait.is_some()),
    );
    let message = format!(
        "This request would exceed your organization's rate limit of {} {} per minute (org: {ORGANIZATION}, model: {model}).",
        grouped(refused.limit),
        refused.axis
    );
    json(429, headers, &error_json(429, &message, moment))
}

/// The answer of a fault that answers with a status.
pub(super) fn faulty(
    fault: &Fault,
    status: u16,
    buckets: Option<&mut Buckets>,
    moment: Moment,
) -> ErrorAnswer {
    match fault.kind {
        FaultKind::BadGateway => return page(moment),
        FaultKind::Unavailable => return proxy_text(moment),
        FaultKind::TooLarge => {
            let body = r#"{"error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}"#;
            return json(status, edge(moment), body);
        }
        _ => {}
    }
    let mut headers = api(moment);
    if let (FaultKind::RateLimited, Some(buckets)) = (fault.kind, buckets) {
        if fault.should_retry == Some(false) {
            untouched(&mut headers, buckets);
        } else {
            rate_limits(&mut headers, buckets, moment);
        }
    }
    retry_words(&mut headers, status, fault.retry_after, fault.should_retry);
    json(
        status,
        headers,
        &error_json(status, message_of(status), moment),
    )
}

/// The body of an error in a stream.
pub(super) const STREAM_ERROR: &str =
    r#"{"type":"error","error":{"details":null,"type":"overloaded_error","message":"Overloaded"}}"#;

fn retry_words(
    headers: &mut HeaderMap,
    status: u16,
    retry_after: Option<std::time::Duration>,
    should_retry: Option<bool>,
) {
    // What recordings show with each status; 500 came with `false`.
    let should = should_retry.unwrap_or(matches!(status, 429 | 503 | 504 | 529));
    let word = if should { "true" } else { "false" };
    headers.insert("x-should-retry", HeaderValue::from_static(word));
    if let Some(wait) = retry_after {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
}

/// A page of the edge under a status that promises an answer.
pub(super) fn welcome(moment: Moment) -> ErrorAnswer {
    let body = "<!DOCTYPE html>\r\n<html>\r\n<head><title>Just a moment...</title></head>\r\n<body>\r\n<h1>Checking your connection</h1>\r\n</body>\r\n</html>\r\n";
    typed(200, edge(moment), "text/html; charset=UTF-8", body)
}

fn page(moment: Moment) -> ErrorAnswer {
    let body = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n";
    typed(502, edge(moment), "text/html", body)
}

fn proxy_text(moment: Moment) -> ErrorAnswer {
    let body = "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
    typed(503, edge(moment), "text/plain", body)
}

/// A JSON answer with its length.
pub(super) fn json(status: u16, headers: HeaderMap, body: &str) -> ErrorAnswer {
    typed(status, headers, "application/json", body)
}

fn typed(status: u16, mut headers: HeaderMap, kind: &'static str, body: &str) -> ErrorAnswer {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (
        Head { status, headers },
        Bytes::copy_from_slice(body.as_bytes()),
    )
}

fn error_json(status: u16, message: &str, moment: Moment) -> String {
    let kind = match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        504 => "timeout_error",
        529 => "overloaded_error",
        400..500 => "invalid_request_error",
        _ => "api_error",
    };
    let message = Value::from(message);
    let request = id("req_", moment.seed);
    format!(
        r#"{{"type":"error","error":{{"type":"{kind}","message":{message}}},"request_id":"{request}"}}"#
    )
}

const fn message_of(status: u16) -> &'static str {
    match status {
        400 => "Invalid request",
        401 => "invalid x-api-key",
        403 => "Your API key does not have permission to use the specified resource.",
        404 => "Not Found",
        429 => "This request would exceed your organization's rate limit.",
        504 => "Request timed out",
        529 => "Overloaded",
        _ => "Internal server error",
    }
}

/// 450000 as `450,000`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(super) fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
