//! What a finished attempt means.
//!
//! Status, headers and body of an answer, a break of the connection, a timeout or an error inside a
//! stream become one [`Judged`]: the verdict that the policies read, and what to tell the reader.
//! `x-should-retry` wins over the status; stable error codes come next; the wording of a message
//! counts only where the provider gives no code. Nothing here is trusted to be well formed.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use seawall_actors::policy::ladder::Cause;
use seawall_actors::verdict::{Again, Blame, Verdict};
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::provider::anthropic::headers::is_encoded;
use crate::provider::anthropic::limits::RateLimits;
use crate::provider::anthropic::usage::Usage;
use crate::transport::Broken;

pub mod advice;
mod error_body;
pub mod label;
mod limit;
mod ruling;
mod wording;

pub use advice::Advice;
use error_body::ErrorBody;
pub use limit::{Axes, LimitKind};
use ruling::Ruling;

/// The judgement of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// What the policies read.
    pub verdict: Verdict,
    /// The provider's word for the kind of error, such as `overloaded_error`.
    pub error_type: Option<String>,
    /// The provider's stable code, where it gives one.
    pub error_code: Option<String>,
    /// The provider's message, or what happened in words.
    pub message: String,
    /// The provider's id of the request, from a header or the body.
    pub request_id: Option<String>,
    /// Which limit refused the request, if one did.
    pub limit: Option<LimitKind>,
    /// Nothing should be taken from the same quota for this long, whoever asks: the limit's own
    /// word, the end of a spend cap or of a used-up window.
    pub stop_for: Option<Duration>,
    /// What the reader can do about it.
    pub advice: Advice,
}

impl Judged {
    /// An attempt that ended well.
    #[must_use]
    pub const fn ok() -> Self {
        Self {
            verdict: Verdict::OK,
            error_type: None,
            error_code: None,
            message: String::new(),
            request_id: None,
            limit: None,
            stop_for: None,
            advice: Advice::None,
        }
    }

    /// One sentence that tells the reader what to do; empty after a success.
    ///
    /// `credential_source` says where the credential came from, such as `the environment variable
    /// ANTHROPIC_API_KEY`.
    #[must_use]
    pub fn advice(&self, credential_source: &str) -> String {
        self.advice.sentence(credential_source)
    }

    fn of(verdict: Verdict, message: impl Into<String>, advice: Advice) -> Self {
        Self {
            verdict,
            message: message.into(),
            advice,
            ..Self::ok()
        }
    }
}

/// Which of an attempt's clocks ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Timeout {
    /// No connection in time.
    Connect,
    /// No status line in time.
    Headers,
    /// No first content in time.
    FirstContent,
    /// Silence inside the answer.
    Stall,
    /// Nothing but pings inside the answer.
    Events,
    /// The whole attempt took too long.
    Total,
}

/// Judges an answer by its status, headers and body, received at `now`.
///
/// A 2xx is judged by its status alone: [`judge_answer`] reads a whole answer, and a stream's watch
/// tells how it ended.
#[must_use]
pub fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Judged {
    if status.is_success() {
        return Judged::ok();
    }
    let limits = RateLimits::read(status, headers, now);
    let error = if is_encoded(headers) {
        ErrorBody::default()
    } else {
        ErrorBody::read(body)
    };
    let header_id = headers.get("request-id").and_then(|v| v.to_str().ok());
    let ruling = Ruling::of(status.as_u16(), &error, &limits, now);
    Judged {
        verdict: ruling.verdict(&limits),
        request_id: header_id.map(str::to_owned).or(error.request_id),
        message: error.message.unwrap_or_else(|| unreadable(status)),
        error_type: error.error_type,
        error_code: error.code,
        limit: ruling.limit,
        stop_for: ruling.stop_for,
        advice: ruling.advice,
    }
}

/// What the whole body of a success has to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Document {
    /// A message: its `type` says so, and its `content` is a list. All else of it may be missing or
    /// new, since not everybody who speaks this format sends every field.
    Message,
    /// A count of tokens.
    TokenCount,
    /// A JSON object of whatever shape.
    Object,
}

impl Document {
    const fn missed(self) -> &'static str {
        match self {
            Self::Message => "a whole body that is no message",
            Self::TokenCount => "a whole body that is no count of tokens",
            Self::Object => "a body that is no answer",
        }
    }
}

/// Judges the whole body of a 2xx that should hold `document`.
///
/// A body that is cut short, is no JSON, is something else or is an error in disguise is a failure of
/// the target. A compressed body cannot be read and passes.
#[must_use]
pub fn judge_answer(
    document: Document,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Judged {
    read_answer(document, headers, body, now).0
}

/// [`judge_answer`], and what the answer used, in one reading.
pub(crate) fn read_answer(
    document: Document,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> (Judged, Option<Usage>) {
    if is_encoded(headers) {
        return (Judged::ok(), None);
    }
    if let Ok(outer) = Outer::<Usage>::read(body)
        && outer.is_a(document)
    {
        return (Judged::ok(), outer.usage);
    }
    // Rare: no such document, or one whose usage can't be read.
    let judged = match Outer::<IgnoredAny>::read(body) {
        Ok(outer) if outer.is_error() => judge_error(body, now),
        Ok(outer) if outer.is_a(document) => Judged::ok(),
        Ok(_) => judge_malformed(document.missed()),
        Err(cut) if cut.is_eof() => judge_truncated(),
        Err(_) => judge_malformed("a body that is no JSON object"),
    };
    (judged, None)
}

/// Judges an answer that holds what no answer can; `what` says what that is.
#[must_use]
pub fn judge_malformed(what: &str) -> Judged {
    Judged::of(
        Verdict::new(label::MALFORMED, Blame::Target, Again::Here),
        format!("the provider's answer is malformed: {what}"),
        Advice::TryLater,
    )
}

/// Judges the data of an `error` event, which comes under status 200.
#[must_use]
pub fn judge_stream_error(data: &str, now: Timestamp) -> Judged {
    judge_error(data.as_bytes(), now)
}

/// Judges a whole answer by which the model refuses to answer: a success on the wire, and none to
/// whoever has another model for it.
#[must_use]
pub fn judge_refusal() -> Judged {
    Judged::of(
        Verdict::new(label::REFUSED, Blame::Caller, Again::Never).because(Cause::Refused),
        "the model refused to answer",
        Advice::Refused,
    )
}

/// Whether the body of a whole answer is a refusal.
pub(crate) fn is_refusal(body: &[u8]) -> bool {
    let stopped = serde_json::from_slice::<Stopped<'_>>(body);
    stopped.is_ok_and(|stopped| stopped.reason.is_some_and(|why| why.get() == "\"refusal\""))
}

/// Judges a stream or body that ended before it was complete, though its transfer ended cleanly.
#[must_use]
pub fn judge_truncated() -> Judged {
    Judged::of(
        Verdict::new(label::TRUNCATED, Blame::Target, Again::Here),
        "the provider's answer ended before it was complete",
        Advice::TryLater,
    )
}

/// Judges an exchange that broke on the way.
#[must_use]
pub fn judge_broken(kind: Broken) -> Judged {
    let (label, blame, advice) = match kind {
        Broken::HeadersTimeout => return judge_timeout(Timeout::Headers),
        Broken::Connect => (label::CONNECT, Blame::Network, Advice::CheckNetwork),
        Broken::ConnectTimeout => (label::CONNECT_TIMEOUT, Blame::Network, Advice::CheckNetwork),
        Broken::BeforeHeaders | Broken::InBody => {
            (label::DISCONNECTED, Blame::Network, Advice::TryLater)
        }
        Broken::Protocol => (label::PROTOCOL, Blame::Target, Advice::CheckBaseUrl),
    };
    Judged::of(
        Verdict::new(label, blame, Again::Here),
        kind.to_string(),
        advice,
    )
}

/// Judges an answer that was ended here, since the process is about to stop.
#[must_use]
pub fn judge_draining() -> Judged {
    Judged::of(
        Verdict::new(label::DRAINING, Blame::Departed, Again::Never),
        "the answer was not whole when its gateway had to stop",
        Advice::TryLater,
    )
}

/// Judges an attempt whose clock ran out.
#[must_use]
pub fn judge_timeout(which: Timeout) -> Judged {
    let (label, blame, message, advice) = match which {
        Timeout::Connect => (
            label::CONNECT_TIMEOUT,
            Blame::Network,
            "connecting to the provider took longer than the connect timeout",
            Advice::CheckNetwork,
        ),
        Timeout::Headers => (
            label::HEADERS_TIMEOUT,
            Blame::Target,
            "the provider did not begin to answer within the headers timeout",
            Advice::TryLater,
        ),
        Timeout::FirstContent => (
            label::FIRST_CONTENT_TIMEOUT,
            Blame::Target,
            "the provider sent no content within the first-content timeout",
            Advice::TryLater,
        ),
        Timeout::Stall => (
            label::STALLED,
            Blame::Target,
            "the provider's answer fell silent for longer than the stall timeout",
            Advice::TryLater,
        ),
        Timeout::Events => (
            label::STALLED,
            Blame::Target,
            "the provider's answer brought nothing but pings for longer than the events timeout",
            Advice::TryLater,
        ),
        Timeout::Total => (
            label::TOTAL_TIMEOUT,
            Blame::Target,
            "the attempt took longer than its total timeout",
            Advice::ShortenOrStream,
        ),
    };
    let verdict = Verdict::new(label, blame, Again::Here);
    // A connection or an answer that hangs is the network's or one machine's fault as often as not.
    let verdict = match which {
        Timeout::Headers | Timeout::FirstContent | Timeout::Total => verdict.overloaded(),
        Timeout::Connect | Timeout::Stall | Timeout::Events => verdict,
    };
    Judged::of(verdict, message, advice)
}

/// The status that an error inside a 200 would have had; kinds that are not known count as internal
/// errors, since the provider adds kinds without notice.
fn status_of(error_type: Option<&str>) -> u16 {
    match error_type {
        Some("invalid_request_error") => 400,
        Some("authentication_error") => 401,
        Some("billing_error") => 402,
        Some("permission_error") => 403,
        Some("not_found_error") => 404,
        Some("conflict_error") => 409,
        Some("request_too_large") => 413,
        Some("rate_limit_error") => 429,
        Some("timeout_error") => 504,
        Some("overloaded_error") => 529,
        _ => 500,
    }
}

/// An error whose headers were those of a success, so that they say nothing about it.
fn judge_error(body: &[u8], now: Timestamp) -> Judged {
    let error = ErrorBody::read(body);
    let limits = RateLimits::default();
    let ruling = Ruling::of(status_of(error.error_type.as_deref()), &error, &limits, now);
    Judged {
        verdict: ruling.verdict(&limits),
        message: error
            .message
            .unwrap_or_else(|| "the provider reported an error without a message".to_owned()),
        request_id: error.request_id,
        error_type: error.error_type,
        error_code: error.code,
        limit: ruling.limit,
        stop_for: ruling.stop_for,
        advice: ruling.advice,
    }
}

fn unreadable(status: StatusCode) -> String {
    let reason = status
        .canonical_reason()
        .map_or_else(String::new, |r| format!(" ({r})"));
    format!(
        "the provider answered {}{reason} without a readable message",
        status.as_u16()
    )
}

/// The outermost fields that tell what a body is, and what is billed.
#[derive(serde::Deserialize)]
struct Outer<'a, U> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    input_tokens: Option<&'a RawValue>,
    usage: Option<U>,
}

impl<'a, U: serde::Deserialize<'a>> Outer<'a, U> {
    fn read(body: &'a [u8]) -> serde_json::Result<Self> {
        // serde would read the fields out of a list too.
        if body.trim_ascii_start().starts_with(b"[") {
            return Err(serde::de::Error::custom("a list"));
        }
        serde_json::from_slice(body)
    }

    fn is_error(&self) -> bool {
        self.kind.is_some_and(|kind| kind.get() == "\"error\"")
    }

    fn is_a(&self, document: Document) -> bool {
        let begins = |value: Option<&RawValue>, with: fn(char) -> bool| {
            value.is_some_and(|value| value.get().starts_with(with))
        };
        match document {
            Document::Message => {
                self.kind.is_some_and(|kind| kind.get() == "\"message\"")
                    && begins(self.content, |c| c == '[')
            }
            Document::TokenCount => begins(self.input_tokens, |c| c.is_ascii_digit()),
            Document::Object => !self.is_error(),
        }
    }
}

/// Why an answer ended.
#[derive(serde::Deserialize)]
struct Stopped<'a> {
    #[serde(borrow, rename = "stop_reason")]
    reason: Option<&'a RawValue>,
}

#[cfg(test)]
mod tests;
