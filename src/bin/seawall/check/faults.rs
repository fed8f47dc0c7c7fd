//! The faults whose course is foretold, as the provider shows them on the wire.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use seawall::transport::{Body, Broken, Response, TransportError};
use serde_json::{Value, json};

/// One way in which a call can go wrong.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    /// Its name in JSON.
    pub(super) word: &'static str,
    /// Its name for people.
    pub(super) title: &'static str,
    pub(super) happens: Happens,
}

/// What the provider does, or what is the matter before it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Happens {
    /// It answers with an error: status, type, message.
    Error(u16, &'static str, &'static str),
    /// It refuses the call for its quota, with a time to come back that fits into the call or not.
    Limited { fits: bool },
    /// Its spend cap is reached: it says when the month ends and not when to come back.
    SpendCap,
    /// The connection is reset before an answer begins.
    Reset,
    /// It never answers.
    Silence,
    /// Its answer breaks off in the middle.
    CutOff,
    /// It answers that it will not answer.
    Refusal,
    /// The breaker was open before the call came.
    BreakerOpen,
    /// The quota was used up before the call came, for longer than the call may wait.
    QuotaUsedUp,
}

const fn error(
    word: &'static str,
    title: &'static str,
    (status, kind, message): (u16, &'static str, &'static str),
) -> Fault {
    let happens = Happens::Error(status, kind, message);
    Fault {
        word,
        title,
        happens,
    }
}

const fn other(word: &'static str, title: &'static str, happens: Happens) -> Fault {
    Fault {
        word,
        title,
        happens,
    }
}

/// The fault of a target that has too much to do.
pub(super) const fn overloaded() -> Fault {
    error("overloaded", "529", (529, "overloaded_error", "Overloaded"))
}

/// Every fault, in the order in which they are shown.
pub(super) const FAULTS: [Fault; 16] = [
    other(
        "rate_limited",
        "429 with a hint that fits",
        Happens::Limited { fits: true },
    ),
    other(
        "rate_limited_for_long",
        "429 with a hint past the deadline",
        Happens::Limited { fits: false },
    ),
    overloaded(),
    error(
        "server_error",
        "500",
        (500, "api_error", "Internal server error"),
    ),
    error(
        "unavailable",
        "503",
        (503, "api_error", "Service unavailable"),
    ),
    other("reset", "connection reset", Happens::Reset),
    other("timeout", "no answer", Happens::Silence),
    other("cut", "answer cut off", Happens::CutOff),
    error(
        "invalid_request",
        "400 invalid request",
        (400, "invalid_request_error", "max_tokens: Field required"),
    ),
    error(
        "prompt_too_long",
        "prompt too long",
        (
            400,
            "invalid_request_error",
            "prompt is too long: 1210000 tokens > 1000000 maximum",
        ),
    ),
    other("refusal", "content refusal", Happens::Refusal),
    error(
        "authentication",
        "401",
        (401, "authentication_error", "invalid x-api-key"),
    ),
    error(
        "not_found",
        "404 model not found",
        (404, "not_found_error", "model: claude-unheard-of"),
    ),
    other("spend_cap", "spend cap", Happens::SpendCap),
    other("breaker_open", "breaker open", Happens::BreakerOpen),
    other("quota", "quota queue too long", Happens::QuotaUsedUp),
];

impl Happens {
    /// What a target answers that has the fault, within the time of the whole call and the part of it
    /// that may be waited for breakers and quotas.
    pub(super) async fn answer(
        self,
        streamed: bool,
        (total, wait): (Duration, Duration),
    ) -> Result<Response, TransportError> {
        match self {
            Self::Error(status, kind, message) => Ok(refused(status, kind, message, None)),
            Self::Limited { .. } | Self::QuotaUsedUp => {
                const MESSAGE: &str = "This request would exceed your organization's rate limit";
                let mut answer = refused(429, "rate_limit_error", MESSAGE, None);
                let hint = if self == (Self::Limited { fits: true }) {
                    let fits = total.div_f64(10.0).min(wait);
                    fits.min(Duration::from_secs(2)).as_secs_f64()
                } else {
                    total.as_secs_f64().ceil() + 1.0
                };
                if let Ok(hint) = HeaderValue::from_str(&hint.to_string()) {
                    answer.headers.insert(RETRY_AFTER, hint);
                }
                Ok(answer)
            }
            Self::SpendCap => {
                const MESSAGE: &str = "You have reached your monthly spend limit";
                let code = Some("enforced_spend_limit_reached");
                let mut answer = refused(429, "rate_limit_error", MESSAGE, code);
                let no = HeaderValue::from_static("false");
                let name = HeaderName::from_static("x-should-retry");
                answer.headers.insert(name, no);
                Ok(answer)
            }
            Self::Reset => Err(TransportError::new(Broken::BeforeHeaders)),
            Self::Silence => std::future::pending().await,
            Self::CutOff => Ok(cut_off(streamed)),
            Self::Refusal => Ok(message("refused", "refusal", streamed)),
            Self::BreakerOpen => Ok(message("", "end_turn", streamed)),
        }
    }
}

/// A message that names who answered as its model.
pub(super) fn message(by: &str, stop_reason: &str, streamed: bool) -> Response {
    let body = if streamed {
        let mut all = beginning(by);
        all.extend([
            json!({ "type": "content_block_stop", "index": 0 }),
            json!({
                "type": "message_delta",
                "delta": { "stop_reason": stop_reason, "stop_sequence": null },
                "usage": { "output_tokens": 5 },
            }),
            json!({ "type": "message_stop" }),
        ]);
        events(&all)
    } else {
        let content = json!([{ "type": "text", "text": "an answer" }]);
        envelope(by, &content, Some(stop_reason)).to_string()
    };
    answer(200, streamed, Body::from_bytes(body.into()))
}

fn cut_off(streamed: bool) -> Response {
    let begun = if streamed {
        events(&beginning("cut"))
    } else {
        r#"{"id":"msg_cut","type":"message","content":[{"ty"#.to_owned()
    };
    let broken = || Err(TransportError::new(Broken::InBody));
    let rest = async move { broken() }.into_stream();
    let body = stream::iter([Ok(Bytes::from(begun))]).chain(rest);
    answer(200, streamed, Body::from_stream(body))
}

fn refused(status: u16, kind: &str, message: &str, code: Option<&str>) -> Response {
    let mut error = json!({ "type": kind, "message": message });
    if let (Some(code), Some(error)) = (code, error.as_object_mut()) {
        error.insert("details".into(), json!({ "error_code": code }));
    }
    let body = json!({ "type": "error", "error": error }).to_string();
    answer(status, false, Body::from_bytes(body.into()))
}

fn answer(status: u16, streamed: bool, body: Body) -> Response {
    let kind = if streamed {
        "text/event-stream; charset=utf-8"
    } else {
        "application/json"
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Response {
        status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        headers,
        body,
    }
}

fn envelope(by: &str, content: &Value, stop_reason: Option<&str>) -> Value {
    json!({
        "id": "msg_check", "type": "message", "role": "assistant", "model": by,
        "content": content, "stop_reason": stop_reason, "stop_sequence": null,
        "usage": { "input_tokens": 10, "output_tokens": 5 },
    })
}

/// The events of a message up to its first words.
fn beginning(by: &str) -> Vec<Value> {
    vec![
        json!({ "type": "message_start", "message": envelope(by, &json!([]), None) }),
        json!({
            "type": "content_block_start", "index": 0,
            "content_block": { "type": "text", "text": "" },
        }),
        json!({
            "type": "content_block_delta", "index": 0,
            "delta": { "type": "text_delta", "text": "an answer" },
        }),
    ]
}

fn events(events: &[Value]) -> String {
    events.iter().fold(String::new(), |stream, event| {
        let name = event.get("type").and_then(Value::as_str);
        format!(
            "{stream}event: {}\ndata: {event}\n\n",
            name.unwrap_or_default()
        )
    })
}
