//! What goes wrong, when, for whom and how often.
//!
//! The first fault in the list whose window, model and attempt fit and whose chance comes up
//! decides an answer; a `slow` fault only stretches it and leaves room for another. The chance is
//! drawn from the seed, the request and the number of the attempt, never from the order in which
//! requests happen to arrive, so that two clients sending the same calls meet the same faults.

mod kind;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use self::kind::FaultKind;
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
    /// `ping_only`: the time between pings; absent: 1 s.
    #[serde(
        default,
        with = "duration::option",
        skip_serializing_if = "Option::is_none"
    )]
    pub ping_every: Option<Duration>,
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
            ping_every: None,
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
    validate_places(fault, at)
}

/// Where in an answer a fault strikes, and what an error answer says.
fn validate_places(fault: &Fault, at: &impl Fn(&str) -> String) -> Result<(), InvalidScenario> {
    use FaultKind as K;
    let kind = fault.kind;
    let answers = kind.status().is_some();
    for (name, set) in [
        ("retry_after", fault.retry_after.is_some()),
        ("should_retry", fault.should_retry.is_some()),
    ] {
        require(
            answers || !set,
            || at(name),
            "set",
            "only with a kind that answers with an error status",
        )?;
    }
    require(
        kind.takes_latency() || fault.latency.is_none(),
        || at("latency"),
        "set",
        "only with a kind that answers instead of the model",
    )?;
    require(
        kind.counts_events() || fault.after_events.is_none(),
        || at("after_events"),
        "set",
        "only with a kind that happens inside a stream",
    )?;
    require(
        kind == K::PingOnly || fault.ping_every.is_none(),
        || at("ping_every"),
        "set",
        "only with kind = \"ping_only\"",
    )?;
    let every = fault.ping_every.unwrap_or(PING_EVERY);
    require(
        (Duration::from_millis(1)..=Duration::from_hours(1)).contains(&every),
        || at("ping_every"),
        Humane(every),
        "1ms to 1h",
    )?;
    let stalls = matches!(kind, K::StallBeforeContent | K::StallInStream);
    require(
        stalls || fault.stall_for.is_none(),
        || at("stall_for"),
        "set",
        "only with a stall",
    )
}

/// The time between pings, unless a fault says another.
pub(super) const PING_EVERY: Duration = Duration::from_secs(1);

const fn always() -> f64 {
    1.0
}

#[cfg(test)]
mod tests;
