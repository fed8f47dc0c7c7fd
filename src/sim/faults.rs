//! What goes wrong, when, for whom and how often.
//!
//! The first fault in the list whose window, model and attempt fit and whose chance comes up
//! decides an answer; a `slow` fault only stretches it and leaves room for another. The chance is
//! drawn from the seed, the request and the number of the attempt, never from the order in which
//! requests happen to arrive, so that two clients sending the same calls meet the same faults.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::scenario::{InvalidScenario, require};
use super::seed;
use crate::duration::{self, Humane};

/// One entry of the fault timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// What happens.
    pub kind: FaultKind,
    /// How often, 0 to 1.
    #[serde(default = "always")]
    pub probability: f64,
    /// When it begins, from the moment the faults were set; absent: at once.
    #[serde(
        default,
        with = "duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub from: Option<Duration>,
    /// When it is over; absent: never.
    #[serde(
        default,
        with = "duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub until: Option<Duration>,
    /// Beginnings of the names of the models it hits; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// The first and the last attempt it hits, from 1; absent: all. Attempts of one call are told
    /// by their equal model and messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<(u32, u32)>,
    /// The time an error answer takes; absent: the scenario's.
    #[serde(
        default,
        with = "duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub latency: Option<Duration>,
    /// What the answer asks the client to wait.
    #[serde(
        default,
        with = "duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub retry_after: Option<Duration>,
    /// What `x-should-retry` says; absent: what the real provider says with this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub should_retry: Option<bool>,
    /// How many events of a stream arrive before it happens; absent: none for a reset, else 4.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_events: Option<u32>,
    /// How long a stall lasts; absent: until the client leaves.
    #[serde(
        default,
        with = "duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub stall_for: Option<Duration>,
    /// `slow`: the time to first content at the beginning of the window.
    #[serde(
        default,
        with = "duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub ttft: Option<Duration>,
    /// `slow`: the same at its end; in between it changes linearly.
    #[serde(
        default,
        with = "duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub ttft_end: Option<Duration>,
    /// `slow`: multiplies the time to first content, at the beginning of the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// `slow`: the same at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factor_end: Option<f64>,
}

impl Fault {
    /// Always, everywhere.
    #[must_use]
    pub const fn new(kind: FaultKind) -> Self {
        Self {
            kind,
            probability: 1.0,
            from: None,
            until: None,
            models: Vec::new(),
            attempts: None,
            latency: None,
            retry_after: None,
            should_retry: None,
            after_events: None,
            stall_for: None,
            ttft: None,
            ttft_end: None,
            factor: None,
            factor_end: None,
        }
    }

    /// Only inside a window.
    #[must_use]
    pub const fn between(mut self, from: Duration, until: Duration) -> Self {
        self.from = Some(from);
        self.until = Some(until);
        self
    }

    /// Only this often.
    #[must_use]
    pub const fn with_probability(mut self, probability: f64) -> Self {
        self.probability = probability;
        self
    }

    /// Only models whose names begin so.
    #[must_use]
    pub fn on_model(mut self, prefix: impl Into<String>) -> Self {
        self.models.push(prefix.into());
        self
    }

    /// Only these attempts of a call, from 1, both included.
    #[must_use]
    pub const fn on_attempts(mut self, first: u32, last: u32) -> Self {
        self.attempts = Some((first, last));
        self
    }

    fn hits(&self, asked: &Asked<'_>, place: u64) -> bool {
        let since = asked.since;
        self.from.is_none_or(|from| since >= from)
            && self.until.is_none_or(|until| since < until)
            && (self.models.is_empty() || self.models.iter().any(|m| asked.model.starts_with(m)))
            && self
                .attempts
                .is_none_or(|(first, last)| (first..=last).contains(&asked.attempt))
            && seed::chance(seed::mix(asked.seed, &[place])) < self.probability
    }

    /// The time to first content in place of `usual`.
    pub(super) fn stretched(&self, usual: Duration, since: Duration) -> Duration {
        let part = self.part_of_window(since);
        let between = |start: f64, end: f64| start + (end - start) * part;
        let base = match (self.ttft, self.ttft_end) {
            (None, None) => usual.as_secs_f64(),
            (start, end) => {
                let start = start.or(end).unwrap_or(usual).as_secs_f64();
                between(start, end.map_or(start, |end| end.as_secs_f64()))
            }
        };
        let factor = match (self.factor, self.factor_end) {
            (None, None) => 1.0,
            (start, end) => between(start.unwrap_or(1.0), end.or(start).unwrap_or(1.0)),
        };
        Duration::try_from_secs_f64(base * factor).unwrap_or(usual)
    }

    /// How far into its window a moment is, 0 to 1; 0 without a window.
    fn part_of_window(&self, since: Duration) -> f64 {
        let from = self.from.unwrap_or_default();
        let Some(length) = self.until.and_then(|until| until.checked_sub(from)) else {
            return 0.0;
        };
        if length.is_zero() {
            return 0.0;
        }
        (since.saturating_sub(from).as_secs_f64() / length.as_secs_f64()).clamp(0.0, 1.0)
    }
}

/// What happens to an answer. The status codes are accepted as names too: `"529"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FaultKind {
    /// 400 `invalid_request_error`.
    #[serde(alias = "400")]
    InvalidRequest,
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
    /// 429 `rate_limit_error`. With `should_retry = false` it is the one that can never succeed.
    #[serde(alias = "429")]
    RateLimited,
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
    /// The connection is reset before the status line.
    ResetBeforeHeaders,
    /// The connection is reset after the headers, or after `after_events`.
    ResetAfterHeaders,
    /// The framing is complete, the JSON in it is not.
    TruncatedJson,
    /// The framing ends early.
    TruncatedBody,
    /// Nothing comes before the first content; without a stream, nothing at all.
    StallBeforeContent,
    /// Nothing comes after `after_events`.
    StallInStream,
    /// The first content is late, by `ttft` or `factor`.
    Slow,
    /// An `error` event in the stream; without a stream, 529.
    StreamError,
    /// The stream ends cleanly without `message_stop`.
    CutStream,
}

impl FaultKind {
    /// The name in scenario files and statistics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Authentication => "authentication",
            Self::Permission => "permission",
            Self::NotFound => "not_found",
            Self::TooLarge => "too_large",
            Self::RateLimited => "rate_limited",
            Self::Internal => "internal",
            Self::BadGateway => "bad_gateway",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::ResetBeforeHeaders => "reset_before_headers",
            Self::ResetAfterHeaders => "reset_after_headers",
            Self::TruncatedJson => "truncated_json",
            Self::TruncatedBody => "truncated_body",
            Self::StallBeforeContent => "stall_before_content",
            Self::StallInStream => "stall_in_stream",
            Self::Slow => "slow",
            Self::StreamError => "stream_error",
            Self::CutStream => "cut_stream",
        }
    }

    /// The status that the fault answers with, if it is an error answer.
    #[must_use]
    pub const fn status(self) -> Option<u16> {
        match self {
            Self::InvalidRequest => Some(400),
            Self::Authentication => Some(401),
            Self::Permission => Some(403),
            Self::NotFound => Some(404),
            Self::TooLarge => Some(413),
            Self::RateLimited => Some(429),
            Self::Internal => Some(500),
            Self::BadGateway => Some(502),
            Self::Unavailable => Some(503),
            Self::Timeout => Some(504),
            Self::Overloaded => Some(529),
            Self::ResetBeforeHeaders
            | Self::ResetAfterHeaders
            | Self::TruncatedJson
            | Self::TruncatedBody
            | Self::StallBeforeContent
            | Self::StallInStream
            | Self::Slow
            | Self::StreamError
            | Self::CutStream => None,
        }
    }

    /// Whether an answer that it strikes ends before its true end.
    pub(super) const fn cuts_short(self) -> bool {
        matches!(
            self,
            Self::ResetAfterHeaders
                | Self::TruncatedJson
                | Self::TruncatedBody
                | Self::StreamError
                | Self::CutStream
        )
    }
}

/// The moment and the attempt that faults are chosen for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    /// Time since the faults were set.
    pub(super) since: Duration,
    pub(super) model: &'a str,
    pub(super) attempt: u32,
    /// The seed of this attempt.
    pub(super) seed: u64,
}

/// What befalls one attempt.
#[derive(Debug, Clone, Default)]
pub(super) struct Chosen {
    pub(super) fault: Option<Fault>,
    pub(super) slow: Option<Fault>,
}

/// The faults that come up.
pub(super) fn choose(faults: &[Fault], asked: &Asked<'_>) -> Chosen {
    let mut chosen = Chosen::default();
    for (place, fault) in (0_u64..).zip(faults) {
        let slot = if fault.kind == FaultKind::Slow {
            &mut chosen.slow
        } else {
            &mut chosen.fault
        };
        if slot.is_none() && fault.hits(asked, place) {
            *slot = Some(fault.clone());
        }
    }
    chosen
}

/// Checks a list of faults.
pub(super) fn validate(faults: &[Fault]) -> Result<(), InvalidScenario> {
    for (i, fault) in faults.iter().enumerate() {
        let at = |name: &str| format!("faults[{i}].{name}");
        require(
            (0.0..=1.0).contains(&fault.probability),
            || at("probability"),
            fault.probability,
            "0 to 1",
        )?;
        if let (from, Some(until)) = (fault.from.unwrap_or_default(), fault.until) {
            require(
                from < until,
                || at("until"),
                Humane(until),
                "later than `from`",
            )?;
        }
        if let Some((first, last)) = fault.attempts {
            require(
                first >= 1 && first <= last,
                || at("attempts"),
                format!("[{first}, {last}]"),
                "[first, last], counted from 1",
            )?;
        }
        for (name, value) in [("factor", fault.factor), ("factor_end", fault.factor_end)] {
            let value = value.unwrap_or(1.0);
            require(
                (0.0..=1e6).contains(&value),
                || at(name),
                value,
                "0 to 1000000",
            )?;
        }
        validate_parameters(fault, &at)?;
    }
    Ok(())
}

/// A parameter that the kind does not know is a mistake, not a wish.
fn validate_parameters(fault: &Fault, at: &impl Fn(&str) -> String) -> Result<(), InvalidScenario> {
    use FaultKind as K;
    let kind = fault.kind;
    let stretches = [
        ("ttft", fault.ttft.is_some()),
        ("ttft_end", fault.ttft_end.is_some()),
        ("factor", fault.factor.is_some()),
        ("factor_end", fault.factor_end.is_some()),
    ];
    if kind == K::Slow {
        require(
            stretches.iter().any(|(_, set)| *set),
            || at("ttft"),
            "absent",
            "`ttft` or `factor` for a slow fault",
        )?;
        let ramps = fault.ttft_end.is_some() || fault.factor_end.is_some();
        require(
            !ramps || fault.until.is_some(),
            || at("until"),
            "absent",
            "the end of the window, for a ramp",
        )?;
    } else {
        for (name, set) in stretches {
            require(!set, || at(name), "set", "only with kind = \"slow\"")?;
        }
    }
    let answers = kind.status().is_some();
    for (name, set) in [
        ("latency", fault.latency.is_some()),
        ("retry_after", fault.retry_after.is_some()),
        ("should_retry", fault.should_retry.is_some()),
    ] {
        require(
            answers || !set || (name == "latency" && kind == K::ResetBeforeHeaders),
            || at(name),
            "set",
            "only with a kind that answers with an error status",
        )?;
    }
    let counts_events = matches!(
        kind,
        K::ResetAfterHeaders
            | K::TruncatedJson
            | K::TruncatedBody
            | K::StallInStream
            | K::StreamError
            | K::CutStream
    );
    require(
        counts_events || fault.after_events.is_none(),
        || at("after_events"),
        "set",
        "only with a kind that happens inside a stream",
    )?;
    let stalls = matches!(kind, K::StallBeforeContent | K::StallInStream);
    require(
        stalls || fault.stall_for.is_none(),
        || at("stall_for"),
        "set",
        "only with a stall",
    )
}

const fn always() -> f64 {
    1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Asked<'static> {
        Asked {
            since: Duration::from_secs(seconds),
            model: "claude-sonnet-5",
            attempt: 1,
            seed: 1,
        }
    }

    #[test]
    fn a_fault_holds_from_the_start_of_its_window_to_just_before_its_end() {
        let faults = [Fault::new(FaultKind::Overloaded)
            .between(Duration::from_secs(60), Duration::from_secs(120))];
        for (second, hit) in [(59, false), (60, true), (119, true), (120, false)] {
            assert_eq!(
                choose(&faults, &at(second)).fault.is_some(),
                hit,
                "{second}"
            );
        }
    }

    #[test]
    fn a_fault_hits_only_its_models_and_attempts() {
        let faults = [Fault::new(FaultKind::Internal)
            .on_model("claude-sonnet")
            .on_attempts(1, 2)];
        assert!(choose(&faults, &at(0)).fault.is_some());
        assert!(
            choose(
                &faults,
                &Asked {
                    model: "claude-haiku-5",
                    ..at(0)
                }
            )
            .fault
            .is_none()
        );
        assert!(
            choose(
                &faults,
                &Asked {
                    attempt: 2,
                    ..at(0)
                }
            )
            .fault
            .is_some()
        );
        assert!(
            choose(
                &faults,
                &Asked {
                    attempt: 3,
                    ..at(0)
                }
            )
            .fault
            .is_none()
        );
    }

    #[test]
    fn probability_is_met_over_many_requests() {
        let faults = [Fault::new(FaultKind::Internal).with_probability(0.15)];
        let hits = (0..20_000)
            .filter(|n| {
                let seed = seed::mix(9, &[*n]);
                choose(&faults, &Asked { seed, ..at(0) }).fault.is_some()
            })
            .count();
        // Four standard deviations of a binomial with n = 20,000 and p = 0.15 are 202.
        assert!((2_798..=3_202).contains(&hits), "{hits}");
    }

    #[test]
    fn a_brownout_ramps_linearly_over_its_window() {
        let fault = Fault {
            ttft: Some(Duration::from_millis(500)),
            ttft_end: Some(Duration::from_millis(30_500)),
            ..Fault::new(FaultKind::Slow).between(Duration::from_secs(60), Duration::from_secs(120))
        };
        let usual = Duration::from_secs(1);
        for (second, millis) in [(60, 500), (90, 15_500), (120, 30_500), (500, 30_500)] {
            let got = fault.stretched(usual, Duration::from_secs(second));
            assert_eq!(got, Duration::from_millis(millis), "{second}");
        }
        let doubled = Fault {
            factor: Some(2.0),
            ..Fault::new(FaultKind::Slow)
        };
        assert_eq!(doubled.stretched(usual, Duration::ZERO), usual * 2);
    }

    #[test]
    fn a_slow_fault_leaves_room_for_another() {
        let faults = [
            Fault {
                factor: Some(3.0),
                ..Fault::new(FaultKind::Slow)
            },
            Fault::new(FaultKind::CutStream),
        ];
        let chosen = choose(&faults, &at(0));
        assert!(chosen.slow.is_some());
        assert_eq!(chosen.fault.map(|f| f.kind), Some(FaultKind::CutStream));
    }

    #[test]
    fn a_parameter_of_another_kind_is_refused() {
        let fault = Fault {
            stall_for: Some(Duration::from_secs(1)),
            ..Fault::new(FaultKind::Overloaded)
        };
        let error = validate(&[fault]).unwrap_err().to_string();
        assert!(error.contains("faults[0].stall_for"), "{error}");
        assert!(validate(&[Fault::new(FaultKind::Slow)]).is_err());
    }
}
