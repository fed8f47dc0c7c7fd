//! What seawall itself answers: always in the provider's own error shape.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use seawall::client::ask::{Report, Skipped};
use seawall::error::Error;
use seawall::provider::anthropic::{coded_error_body, error_body};
use seawall_actors::error::{Rejected, Rejection};

use super::admit::Stranger;

const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
const CALL: HeaderName = HeaderName::from_static("x-seawall-call");
const RUNG: HeaderName = HeaderName::from_static("x-seawall-rung");
const DEGRADED: HeaderName = HeaderName::from_static("x-seawall-degraded");
const CAUSE: HeaderName = HeaderName::from_static("x-seawall-cause");
const MODEL: HeaderName = HeaderName::from_static("x-seawall-model");
const SKIPPED: HeaderName = HeaderName::from_static("x-seawall-skipped");
const LOST: HeaderName = HeaderName::from_static("x-seawall-lost");
const CACHE: HeaderName = HeaderName::from_static("x-seawall-cache");
const ATTEMPTS: HeaderName = HeaderName::from_static("x-seawall-attempts");
const QUEUED: HeaderName = HeaderName::from_static("x-seawall-queued-ms");

/// "Overloaded" in the provider's own numbers.
const OVERLOADED: u16 = 529;

/// Says on the answer what the call took.
pub(crate) fn stamp(headers: &mut HeaderMap, report: &Report) {
    let mut put = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    put(CALL, &report.call);
    if !report.rung.is_empty() {
        put(RUNG, &report.rung);
    }
    if let Some(badge) = &report.cache {
        put(CACHE, badge);
    }
    if let Some(cause) = report.cause {
        put(CAUSE, cause.as_str());
    }
    if let Some(kind) = report.degraded {
        put(DEGRADED, kind.as_str());
        if let Some(model) = &report.model {
            put(MODEL, model);
        }
    }
    if !report.losses.is_empty() {
        put(LOST, &report.losses.to_string());
    }
    if !report.skipped.is_empty() {
        let skipped: Vec<String> = report.skipped.iter().map(Skipped::to_string).collect();
        put(SKIPPED, &skipped.join(", "));
    }
    let queued = u64::try_from(report.queued.as_millis()).unwrap_or(u64::MAX);
    headers.insert(ATTEMPTS, report.attempts.into());
    headers.insert(QUEUED, queued.into());
}

/// A failed call as an answer: the provider's own bytes where it had the last word.
pub(crate) fn failure(error: Error) -> Response {
    let retry_after = error.retry_after();
    match error {
        Error::Provider {
            status,
            mut headers,
            body,
            report,
            ..
        } => {
            stamp(&mut headers, &report);
            if report.settled {
                // Over the provider's own `true` too: it does not know of the attempts before.
                headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
            }
            with(status, headers, Body::from(body))
        }
        error => {
            let (status, error_type) = name(&error);
            let advice = error.advice();
            let message = match advice.as_str() {
                "" => format!("seawall: {error}"),
                advice => format!("seawall: {error}. {advice}"),
            };
            let again = match &error {
                Error::Refused(rejected) => Some(is_worth_coming_back(rejected)),
                Error::Unanswered { report, .. } if !report.settled => None,
                _ => Some(false),
            };
            let mut answer = own(status, error_type, &message, again, retry_after);
            if let Error::Capped { judged, .. } = &error
                && let Some(code) = &judged.error_code
            {
                let body = coded_error_body(error_type, code, &message);
                *answer.body_mut() = Body::from(body);
            }
            if let Some(report) = error.report() {
                stamp(answer.headers_mut(), report);
            }
            answer
        }
    }
}

/// The longest wait after which a client is asked to come again: what an official SDK gives a whole
/// call by default. It would sleep through any wait that it is told, up to 49 days.
const LONGEST_RETURN: Duration = Duration::from_mins(10);

/// Whether a call that was refused before any attempt does right to come again: at a time that is
/// known and near, or because whoever takes over from a gateway that leaves will serve it.
fn is_worth_coming_back(rejected: &Rejected) -> bool {
    match rejected.why {
        Rejection::Draining | Rejection::Stopped => true,
        Rejection::SpendCap => false,
        _ => rejected.retry_after.is_some_and(is_near),
    }
}

fn is_near(wait: Duration) -> bool {
    wait <= LONGEST_RETURN
}

/// A request that was not let in.
pub(crate) fn stranger(stranger: Stranger) -> Response {
    own(
        stranger.status,
        stranger.error_type,
        stranger.message,
        Some(false),
        None,
    )
}

/// A request over one of its client's own limits.
pub(crate) fn over_limit(message: &str, wait: Duration) -> Response {
    let status = StatusCode::TOO_MANY_REQUESTS;
    let again = Some(is_near(wait));
    let mut answer = own(status, "rate_limit_error", message, again, Some(wait));
    let headers = answer.headers_mut();
    // Official SDKs look for it first; the other header knows whole seconds only.
    let millis = wait.as_micros().div_ceil(1_000).max(1).to_string();
    if let Ok(millis) = HeaderValue::from_str(&millis) {
        headers.insert(RETRY_AFTER_MS, millis);
    }
    headers.insert(ATTEMPTS, HeaderValue::from_static("0"));
    answer
}

/// A body over the limit.
pub(crate) fn too_large(limit: usize) -> Response {
    let message = format!("seawall: the request body is larger than {limit} bytes");
    own(
        StatusCode::PAYLOAD_TOO_LARGE,
        "request_too_large",
        &message,
        Some(false),
        None,
    )
}

/// Any other wrong request.
pub(crate) fn invalid(message: &str) -> Response {
    own(
        StatusCode::BAD_REQUEST,
        "invalid_request_error",
        message,
        Some(false),
        None,
    )
}

/// Nothing is served at this path.
pub(crate) fn not_found() -> Response {
    let message = "seawall: nothing is served at this path";
    own(
        StatusCode::NOT_FOUND,
        "not_found_error",
        message,
        Some(false),
        None,
    )
}

/// The path is served, but not with this method.
pub(crate) fn wrong_method() -> Response {
    let message = "seawall: this path is not served with this method";
    own(
        StatusCode::METHOD_NOT_ALLOWED,
        "invalid_request_error",
        message,
        Some(false),
        None,
    )
}

/// The status and the provider's word for an error that seawall itself answers.
fn name(error: &Error) -> (StatusCode, &'static str) {
    let Error::Refused(rejected) = error else {
        return (error.status(), error.error_type());
    };
    match rejected.why {
        Rejection::BreakerOpen | Rejection::RetryBudget | Rejection::QueueFull => (
            StatusCode::from_u16(OVERLOADED).unwrap_or(StatusCode::SERVICE_UNAVAILABLE),
            "overloaded_error",
        ),
        _ => (error.status(), error.error_type()),
    }
}

fn own(
    status: StatusCode,
    error_type: &str,
    message: &str,
    again: Option<bool>,
    retry_after: Option<Duration>,
) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(again) = again {
        let again = if again { "true" } else { "false" };
        headers.insert(SHOULD_RETRY, HeaderValue::from_static(again));
    }
    if let Some(wait) = retry_after {
        // Rounded up: who comes a moment early is refused again.
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        if let Ok(value) = HeaderValue::from_str(&seconds.to_string()) {
            headers.insert(RETRY_AFTER, value);
        }
    }
    with(
        status,
        headers,
        Body::from(error_body(error_type, message, None)),
    )
}

pub(crate) fn with(status: StatusCode, headers: HeaderMap, body: Body) -> Response {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(why: Rejection, seconds: Option<u64>) -> Response {
        failure(Error::Refused(Rejected {
            why,
            by: None,
            retry_after: seconds.map(Duration::from_secs),
        }))
    }

    #[test]
    fn a_refused_call_is_told_whether_to_come_back() {
        for (why, seconds, status, again) in [
            (Rejection::Draining, None, 503, "true"),
            (Rejection::Stopped, None, 503, "true"),
            (Rejection::BreakerOpen, Some(7), 529, "true"),
            (Rejection::QuotaExhausted, Some(7), 429, "true"),
            (Rejection::QuotaExhausted, Some(600), 429, "true"),
            (Rejection::QuotaExhausted, Some(601), 429, "false"),
            (Rejection::SpendCap, Some(7), 429, "false"),
            (Rejection::BreakerOpen, None, 529, "false"),
            (Rejection::RetryBudget, None, 529, "false"),
            (Rejection::QueueFull, None, 529, "false"),
            (Rejection::DeadlinePassed, None, 504, "false"),
        ] {
            let answer = refused(why, seconds);
            assert_eq!(answer.status().as_u16(), status, "{why:?}");
            assert_eq!(answer.headers()[SHOULD_RETRY], again, "{why:?}");
            let wait = answer.headers().get(RETRY_AFTER);
            let stated = seconds.map(|s| HeaderValue::from_str(&s.to_string()).unwrap());
            assert_eq!(wait, stated.as_ref(), "{why:?}");
        }
    }
}
