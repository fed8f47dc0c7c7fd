//! The limits of a simulated provider, and in which words it tells them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{InvalidScenario, require};
use crate::duration::{self, Humane};

/// The limits of one model group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuotaSettings {
    /// Beginnings of the names of the models that share it.
    pub models: Vec<String>,
    /// Requests a minute; absent: no limit and no header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    /// Input tokens a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens_per_minute: Option<u64>,
    /// Output tokens a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens_per_minute: Option<u64>,
    /// How much may come at once, in time's worth of the rate: `"1s"` enforces short bursts.
    #[serde(default = "whole_minute", with = "duration")]
    pub burst: Duration,
    /// How the limits are told.
    #[serde(default, skip_serializing_if = "HeaderStyle::is_usual")]
    pub headers: HeaderStyle,
    /// How many requests may be answered at one time; absent: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<ConcurrencySettings>,
    /// How fast the rate may grow; absent: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ramp: Option<RampSettings>,
    /// The pool of requests with `speed: "fast"`; absent: they are requests like others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fast: Option<FastSettings>,
    /// Whether input that a cache had is charged too; current models don't charge it.
    #[serde(default)]
    pub cache_reads_count: bool,
}

/// How a provider tells its limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum HeaderStyle {
    /// `anthropic-ratelimit-*`.
    #[default]
    Anthropic,
    /// `x-ratelimit-*`, with resets as durations.
    OpenAi,
    /// Not at all.
    None,
}

impl HeaderStyle {
    // The signature that serde asks for.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

/// How many requests may be answered at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConcurrencySettings {
    /// The most.
    pub limit: u32,
    /// What happens to one more.
    #[serde(default)]
    pub above: Above,
}

/// What happens to a request above the concurrency limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Above {
    /// 529, as a model without capacity answers.
    #[default]
    Overloaded,
    /// 429 for the number of concurrent connections, without `retry-after` and limits.
    RateLimited,
    /// It waits, first come first served.
    Queued,
}

/// How fast the rate of requests may grow.
///
/// In any ten seconds come at most `growth` times as many as the mean of the minute before them
/// allows, and `floor` a minute always. The real numbers are not published.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RampSettings {
    /// The factor.
    pub growth: f64,
    /// Requests a minute that are never too many.
    pub floor: u64,
}

/// The limits of the fast mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FastSettings {
    /// Input tokens a minute.
    pub input_tokens_per_minute: u64,
    /// Output tokens a minute.
    pub output_tokens_per_minute: u64,
}

impl QuotaSettings {
    /// No limit on the models of this prefix, told in the usual way.
    #[must_use]
    pub fn of(prefix: impl Into<String>) -> Self {
        Self {
            models: vec![prefix.into()],
            requests_per_minute: None,
            input_tokens_per_minute: None,
            output_tokens_per_minute: None,
            burst: MINUTE,
            headers: HeaderStyle::default(),
            concurrency: None,
            ramp: None,
            fast: None,
            cache_reads_count: false,
        }
    }

    /// The limits of the fast mode as a quota of its own.
    pub(in crate::sim) fn fast_pool(&self) -> Option<Self> {
        let fast = self.fast?;
        Some(Self {
            input_tokens_per_minute: Some(fast.input_tokens_per_minute),
            output_tokens_per_minute: Some(fast.output_tokens_per_minute),
            burst: self.burst,
            ..Self::of("")
        })
    }

    /// Whether a model shares this quota.
    #[must_use]
    pub fn covers(&self, model: &str) -> bool {
        self.models
            .iter()
            .any(|prefix| model.starts_with(prefix.as_str()))
    }

    pub(super) fn validate(&self, at: &str) -> Result<(), InvalidScenario> {
        require(
            !self.models.is_empty(),
            || format!("{at}.models"),
            "[]",
            "at least one beginning of a model's name",
        )?;
        let axes = [
            ("requests_per_minute", self.requests_per_minute),
            ("input_tokens_per_minute", self.input_tokens_per_minute),
            ("output_tokens_per_minute", self.output_tokens_per_minute),
            (
                "fast.input_tokens_per_minute",
                self.fast.map(|fast| fast.input_tokens_per_minute),
            ),
            (
                "fast.output_tokens_per_minute",
                self.fast.map(|fast| fast.output_tokens_per_minute),
            ),
            ("ramp.floor", self.ramp.map(|ramp| ramp.floor)),
        ];
        for (name, value) in axes {
            let value = value.unwrap_or(1);
            require(
                (1..=1_000_000_000_000).contains(&value),
                || format!("{at}.{name}"),
                value,
                "1 to 1000000000000",
            )?;
        }
        let growth = self.ramp.map_or(1.0, |ramp| ramp.growth);
        require(
            (1.0..=1_000.0).contains(&growth),
            || format!("{at}.ramp.growth"),
            growth,
            "1 to 1000",
        )?;
        let most = self.concurrency.map_or(1, |concurrency| concurrency.limit);
        require(
            (1..=1_000_000).contains(&most),
            || format!("{at}.concurrency.limit"),
            most,
            "1 to 1000000",
        )?;
        require(
            self.burst >= Duration::from_millis(1) && self.burst <= MINUTE,
            || format!("{at}.burst"),
            Humane(self.burst),
            "1ms to 1m",
        )
    }
}

const MINUTE: Duration = Duration::from_mins(1);

const fn whole_minute() -> Duration {
    MINUTE
}
