//! Status lines, headers and error bodies as the real provider and its edge send them.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, RETRY_AFTER, SERVER};
use http::{HeaderMap, HeaderValue, StatusCode};
use jiff::civil::Date;
use jiff::tz::Offset;
use jiff::{Span, Timestamp};
use rand::RngExt;
use serde_json::Value;
use tokio::time::Instant;

use super::answer::Head;
use super::buckets::Refused;
use super::faults::{Fault, FaultKind};
use super::pool::{Over, Pool};
use super::scenario::HeaderStyle;
use super::seed;
use super::wire::Ask;

pub(super) mod limits;

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

/// An error answer: its head and its body.
pub(super) type ErrorAnswer = (Head, Bytes);

/// The answer to a request that is refused for what it is.
pub(super) fn refusal(status: u16, message: &str, moment: Moment) -> ErrorAnswer {
    let mut headers = api(moment);
    retry_words(&mut headers, status, None, None);
    json(status, headers, &error_json(status, message, None, moment))
}

/// The answer to a request over a limit.
pub(super) fn over(over: &Over, ask: &Ask, pool: &mut Pool, moment: Moment) -> ErrorAnswer {
    match over {
        Over::Bucket(refused) => limited(refused, ask, pool, moment),
        Over::Ramp(wait) => {
            let headers = told(pool, ask.fast, moment);
            grown_too_fast(headers, Some(*wait), moment)
        }
        Over::Concurrency => too_many_connections(moment),
        Over::Capacity => {
            let mut headers = api(moment);
            retry_words(&mut headers, 529, None, None);
            let error = error_json(529, message_of(529), None, moment);
            json(529, headers, &error)
        }
    }
}

fn told(pool: &mut Pool, fast: bool, moment: Moment) -> HeaderMap {
    let mut headers = api(moment);
    limits::told(&mut headers, pool, fast, moment);
    headers
}

fn limited(refused: &Refused, ask: &Ask, pool: &mut Pool, moment: Moment) -> ErrorAnswer {
    let mut headers = api(moment);
    match refused.wait {
        Some(_) => limits::told(&mut headers, pool, ask.fast, moment),
        None => limits::untouched(&mut headers, pool),
    }
    retry_words(
        &mut headers,
        429,
        refused.wait,
        Some(refused.wait.is_some()),
    );
    if let (HeaderStyle::OpenAi, Some(wait)) = (pool.style, refused.wait) {
        let millis = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        headers.insert("retry-after-ms", HeaderValue::from(millis));
    }
    let message = format!(
        "This request would exceed your organization's rate limit of {} {} per minute (org: {ORGANIZATION}, model: {}).",
        grouped(refused.limit),
        refused.axis,
        ask.model,
    );
    json(429, headers, &error_json(429, &message, None, moment))
}

/// The 429 of a limit on growth.
fn grown_too_fast(mut headers: HeaderMap, wait: Option<Duration>, moment: Moment) -> ErrorAnswer {
    retry_words(&mut headers, 429, wait, None);
    let message = "This request would exceed the limit that caps how fast usage can grow. Retry after the time in `retry-after`.";
    let code = Some("ramp_limit_exceeded");
    json(429, headers, &error_json(429, message, code, moment))
}

/// The 429 of a subscription's window; its headers are there already.
pub(super) fn window_spent(mut headers: HeaderMap, wait: Duration, moment: Moment) -> ErrorAnswer {
    retry_words(&mut headers, 429, Some(wait), None);
    let message = "This request would exceed your account's rate limit. Please try again later.";
    json(429, headers, &error_json(429, message, None, moment))
}

/// The 429 that tells neither a time nor a limit.
fn too_many_connections(moment: Moment) -> ErrorAnswer {
    let mut headers = api(moment);
    retry_words(&mut headers, 429, None, None);
    let message = "Number of concurrent connections has exceeded your rate limit. Please try again later or contact sales at https://www.anthropic.com/contact-sales to discuss your options for a rate limit increase.";
    json(429, headers, &error_json(429, message, None, moment))
}

/// The 429 of a tier's monthly spend cap: it ends with the month, and no header says so.
fn spent(should_retry: Option<bool>, moment: Moment) -> ErrorAnswer {
    let mut headers = api(moment);
    // What Anthropic's own gateway answers with; a recording there is not.
    retry_words(&mut headers, 429, None, Some(should_retry.unwrap_or(false)));
    let message = format!(
        "You have reached your API usage limits for this month. You will regain access on {} at 00:00 UTC.",
        next_month(moment.wall).strftime("%Y-%m-%d")
    );
    let code = Some("enforced_spend_limit_reached");
    json(429, headers, &error_json(429, &message, code, moment))
}

/// The first day of the month after.
fn next_month(wall: Timestamp) -> Date {
    let today = Offset::UTC.to_datetime(wall).date();
    let first = today.first_of_month();
    first
        .checked_add(Span::new().months(1))
        .unwrap_or(Date::MAX)
}

/// The answer of a fault that answers with a status.
pub(super) fn faulty(
    fault: &Fault,
    status: u16,
    pool: Option<&mut Pool>,
    moment: Moment,
) -> ErrorAnswer {
    match fault.kind {
        FaultKind::BadGateway => return page(moment),
        FaultKind::Unavailable => return proxy_text(moment),
        FaultKind::TooLarge => {
            let body = r#"{"error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}"#;
            return json(status, edge(moment), body);
        }
        FaultKind::SpendCap => return spent(fault.should_retry, moment),
        FaultKind::ConcurrentConnections => return too_many_connections(moment),
        FaultKind::RampLimited => {
            let headers = pool.map_or_else(|| api(moment), |pool| told(pool, false, moment));
            return grown_too_fast(headers, fault.retry_after, moment);
        }
        _ => {}
    }
    let mut headers = api(moment);
    if let (FaultKind::RateLimited, Some(pool)) = (fault.kind, pool) {
        if fault.should_retry == Some(false) {
            limits::untouched(&mut headers, pool);
        } else {
            limits::told(&mut headers, pool, false, moment);
        }
    }
    retry_words(&mut headers, status, fault.retry_after, fault.should_retry);
    let message = match fault.kind {
        FaultKind::ContentFiltered | FaultKind::FilteredInStream => FILTERED,
        _ => message_of(status),
    };
    json(status, headers, &error_json(status, message, None, moment))
}

/// What the content filter says, as a status and inside a stream.
const FILTERED: &str = "Output blocked by content filtering policy";

/// The data of an error inside a stream.
pub(super) fn stream_error(kind: FaultKind) -> String {
    let (error, message) = match kind {
        FaultKind::FilteredInStream => ("invalid_request_error", FILTERED),
        _ => ("overloaded_error", message_of(529)),
    };
    format!(
        r#"{{"type":"error","error":{{"details":null,"type":"{error}","message":"{message}"}}}}"#
    )
}

fn retry_words(
    headers: &mut HeaderMap,
    status: u16,
    retry_after: Option<Duration>,
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

fn error_json(status: u16, message: &str, code: Option<&str>, moment: Moment) -> String {
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
    let details = code.map_or_else(String::new, |code| {
        format!(r#","details":{{"error_code":"{code}"}}"#)
    });
    format!(
        r#"{{"type":"error","error":{{"type":"{kind}","message":{message}{details}}},"request_id":"{request}"}}"#
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
