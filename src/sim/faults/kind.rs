//! The kinds of fault.

use serde::{Deserialize, Serialize};

/// What happens to an answer. The status codes are accepted as names too: `"529"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FaultKind {
    /// 400 `invalid_request_error`.
    #[serde(alias = "400")]
    InvalidRequest,
    /// 400 `invalid_request_error` of the content filter.
    ContentFiltered,
    /// 401 `authentication_error`.
    #[serde(alias = "401")]
    Authentication,
    /// 403 `permission_error`.
    #[serde(alias = "403")]
    Permission,
    /// 404 `not_found_error`.
    #[serde(alias = "404")]
    NotFound,
    /// 413 `request_too_large`, from the edge: no request id, no outer type.
    #[serde(alias = "413")]
    TooLarge,
    /// 429 `rate_limit_error`; with `should_retry = false` the one that can never succeed.
    #[serde(alias = "429")]
    RateLimited,
    /// 429 `ramp_limit_exceeded`: usage grew too fast.
    RampLimited,
    /// 429 `enforced_spend_limit_reached`, without `retry-after`, until the month ends.
    SpendCap,
    /// 429 for the number of concurrent connections, without `retry-after` and limits.
    ConcurrentConnections,
    /// 500 `api_error`.
    #[serde(alias = "500")]
    Internal,
    /// 502 with the edge's HTML page.
    #[serde(alias = "502")]
    BadGateway,
    /// 503 with the proxy's plain text.
    #[serde(alias = "503")]
    Unavailable,
    /// 504 `timeout_error`.
    #[serde(alias = "504")]
    Timeout,
    /// 529 `overloaded_error`.
    #[serde(alias = "529")]
    Overloaded,
    /// 200 with the edge's HTML page in place of the answer.
    HtmlPage,
    /// The connection is reset before the status line.
    ResetBeforeHeaders,
    /// The connection is reset after the headers, or after `after_events`.
    ResetAfterHeaders,
    /// The framing is complete, the JSON in it ends in the middle.
    TruncatedJson,
    /// The framing ends early.
    TruncatedBody,
    /// The event after `after_events` is cut inside its JSON and the stream goes on; without a
    /// stream, a NUL byte inside the JSON.
    MalformedEvent,
    /// Nothing comes at all, headers included.
    NoAnswer,
    /// Nothing comes before the first content; without a stream, nothing at all.
    StallBeforeContent,
    /// Nothing comes after `after_events`; without a stream, nothing at all.
    StallInStream,
    /// Nothing but pings after `after_events`, one each `ping_every`; without a stream, nothing at
    /// all.
    PingOnly,
    /// The first content is late, by `ttft` or `factor`.
    Slow,
    /// An `error` event after `after_events`; without a stream, 529.
    StreamError,
    /// The content filter's `error` event after `after_events`; without a stream, its 400.
    FilteredInStream,
    /// The stream ends cleanly after `after_events`; without a stream, half of the body.
    CutStream,
    /// The stream ends cleanly with everything but `message_stop`; without a stream, all but the last
    /// byte of the body.
    MissingStop,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 30] = [
        Self::InvalidRequest,
        Self::ContentFiltered,
        Self::Authentication,
        Self::Permission,
        Self::NotFound,
        Self::TooLarge,
        Self::RateLimited,
        Self::RampLimited,
        Self::SpendCap,
        Self::ConcurrentConnections,
        Self::Internal,
        Self::BadGateway,
        Self::Unavailable,
        Self::Timeout,
        Self::Overloaded,
        Self::HtmlPage,
        Self::ResetBeforeHeaders,
        Self::ResetAfterHeaders,
        Self::TruncatedJson,
        Self::TruncatedBody,
        Self::MalformedEvent,
        Self::NoAnswer,
        Self::StallBeforeContent,
        Self::StallInStream,
        Self::PingOnly,
        Self::Slow,
        Self::StreamError,
        Self::FilteredInStream,
        Self::CutStream,
        Self::MissingStop,
    ];

    /// The name in scenario files and statistics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::ContentFiltered => "content_filtered",
            Self::Authentication => "authentication",
            Self::Permission => "permission",
            Self::NotFound => "not_found",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::RampLimited => "ramp_limited",
            Self::SpendCap => "spend_cap",
            Self::ConcurrentConnections => "concurrent_connections",
            Self::Internal => "internal",
            Self::BadGateway => "bad_gateway",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::HtmlPage => "html_page",
            Self::ResetBeforeHeaders => "reset_before_headers",
            Self::ResetAfterHeaders => "reset_after_headers",
            Self::TruncatedJson => "truncated_json",
            Self::TruncatedBody => "truncated_body",
            Self::MalformedEvent => "malformed_event",
            Self::NoAnswer => "no_answer",
            Self::StallBeforeContent => "stall_before_content",
            Self::StallInStream => "stall_in_stream",
            Self::PingOnly => "ping_only",
            Self::Slow => "slow",
            Self::StreamError => "stream_error",
            Self::FilteredInStream => "filtered_in_stream",
            Self::CutStream => "cut_stream",
            Self::MissingStop => "missing_stop",
        }
    }

    /// What a client meets, in one line.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::InvalidRequest => "400 invalid_request_error",
            Self::ContentFiltered => "400 invalid_request_error of the content filter",
            Self::Authentication => "401 authentication_error",
            Self::Permission => "403 permission_error",
            Self::NotFound => "404 not_found_error",
            Self::TooLarge => "413 request_too_large, from the edge: no request id, no outer type",
            Self::RateLimited => {
                "429 rate_limit_error; with should_retry = false the one that can never succeed"
            }
            Self::RampLimited => "429 ramp_limit_exceeded: usage grew too fast",
            Self::SpendCap => {
                "429 enforced_spend_limit_reached, without retry-after, until the month ends"
            }
            Self::ConcurrentConnections => {
                "429 for the number of concurrent connections, without retry-after and limits"
            }
            Self::Internal => "500 api_error",
            Self::BadGateway => "502 with the edge's HTML page",
            Self::Unavailable => "503 with the proxy's plain text",
            Self::Timeout => "504 timeout_error",
            Self::Overloaded => "529 overloaded_error",
            Self::HtmlPage => "200 with the edge's HTML page in place of the answer",
            Self::ResetBeforeHeaders => "the connection is reset before the status line",
            Self::ResetAfterHeaders => {
                "the connection is reset after the headers, or after after_events"
            }
            Self::TruncatedJson => "the framing is complete, the JSON in it ends in the middle",
            Self::TruncatedBody => "the framing ends early",
            Self::MalformedEvent => {
                "the event after after_events is cut inside its JSON and the stream goes on; without a stream, a NUL byte inside the JSON"
            }
            Self::NoAnswer => "nothing comes at all, headers included",
            Self::StallBeforeContent => {
                "nothing comes before the first content; without a stream, nothing at all"
            }
            Self::StallInStream => {
                "nothing comes after after_events; without a stream, nothing at all"
            }
            Self::PingOnly => {
                "nothing but pings after after_events, one each ping_every; without a stream, nothing at all"
            }
            Self::Slow => "the first content is late, by ttft or factor",
            Self::StreamError => "an error event after after_events; without a stream, 529",
            Self::FilteredInStream => {
                "the content filter's error event after after_events; without a stream, its 400"
            }
            Self::CutStream => {
                "the stream ends cleanly after after_events; without a stream, half of the body"
            }
            Self::MissingStop => {
                "the stream ends cleanly with everything but message_stop; without a stream, all but the last byte of the body"
            }
        }
    }

    /// The status that the fault answers with, if it is an error answer.
    #[must_use]
    pub const fn status(self) -> Option<u16> {
        match self {
            Self::InvalidRequest | Self::ContentFiltered => Some(400),
            Self::Authentication => Some(401),
            Self::Permission => Some(403),
            Self::NotFound => Some(404),
            Self::TooLarge => Some(413),
            Self::RateLimited
            | Self::RampLimited
            | Self::SpendCap
            | Self::ConcurrentConnections => Some(429),
            Self::Internal => Some(500),
            Self::BadGateway => Some(502),
            Self::Unavailable => Some(503),
            Self::Timeout => Some(504),
            Self::Overloaded => Some(529),
            Self::HtmlPage
            | Self::ResetBeforeHeaders
            | Self::ResetAfterHeaders
            | Self::TruncatedJson
            | Self::TruncatedBody
            | Self::MalformedEvent
            | Self::NoAnswer
            | Self::StallBeforeContent
            | Self::StallInStream
            | Self::PingOnly
            | Self::Slow
            | Self::StreamError
            | Self::FilteredInStream
            | Self::CutStream
            | Self::MissingStop => None,
        }
    }

    /// Whether the provider answers in the model's place, after a time of its own.
    pub(super) const fn takes_latency(self) -> bool {
        self.status().is_some() || matches!(self, Self::HtmlPage | Self::ResetBeforeHeaders)
    }

    /// Whether it happens at an event of a stream.
    pub(super) const fn counts_events(self) -> bool {
        matches!(
            self,
            Self::HtmlPage
                | Self::ResetAfterHeaders
                | Self::TruncatedJson
                | Self::TruncatedBody
                | Self::MalformedEvent
                | Self::StallInStream
                | Self::PingOnly
                | Self::StreamError
                | Self::FilteredInStream
                | Self::CutStream
        )
    }

    /// Whether an answer that it strikes ends before its true end.
    pub(in crate::sim) const fn cuts_short(self) -> bool {
        matches!(
            self,
            Self::HtmlPage
                | Self::ResetAfterHeaders
                | Self::TruncatedJson
                | Self::TruncatedBody
                | Self::MalformedEvent
                | Self::StreamError
                | Self::FilteredInStream
                | Self::MissingStop
                | Self::CutStream
        )
    }
}
