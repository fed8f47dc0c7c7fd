//! Which limit refused a request. This is the one place that decides it, from code, headers and
//! wording, in this order.

use std::time::Duration;

use jiff::Timestamp;

use super::{ErrorBody, wording};
use crate::provider::anthropic::limits::{AxisLimits, Claim, RateLimits};

/// A spend cap of unknown end is tried again after this long: it can be raised at any minute, and
/// finding out costs one refused request.
const UNTOLD_CAP: Duration = Duration::from_mins(10);

/// Which limit refused a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitKind {
    /// A bucket of requests or tokens a minute.
    Bucket {
        /// Which ones, as far as wording or headers tell.
        axes: Axes,
        /// The headers say that there is some left: a shorter burst than the minute's is enforced.
        burst: bool,
    },
    /// Usage grew too fast.
    Ramp,
    /// The fast mode's own buckets; others are not concerned.
    FastMode,
    /// A spend cap, for months rather than minutes.
    SpendCap {
        /// When it lifts, where the provider says so or its documents do.
        until: Option<Timestamp>,
    },
    /// A subscription's usage window.
    Window {
        /// Which one, where that is said.
        claim: Option<Claim>,
    },
    /// Too many requests at the same time.
    Connections,
    /// One request that a full bucket cannot hold: waiting cannot help.
    LargerThanBucket,
    /// One that the provider does not name: all it says is not to send this request again.
    Unnamed,
}

impl LimitKind {
    /// Stable lower-case word for logs, metrics and status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bucket { .. } => "bucket",
            Self::Ramp => "ramp",
            Self::FastMode => "fast_mode",
            Self::SpendCap { .. } => "spend_cap",
            Self::Window { .. } => "window",
            Self::Connections => "connections",
            Self::LargerThanBucket => "larger_than_bucket",
            Self::Unnamed => "unnamed",
        }
    }

    /// The limit behind an answer; nothing where it is no limit's word.
    pub(super) fn of(
        status: u16,
        error: &ErrorBody,
        limits: &RateLimits,
        now: Timestamp,
    ) -> Option<Self> {
        let message = error.message.as_deref().unwrap_or_default();
        if let Some(by_code) = Self::by_code(error.code.as_deref(), message, now) {
            return Some(by_code);
        }
        match status {
            400 if wording::is_own_spend_limit(message) => Some(Self::SpendCap {
                until: wording::date_in(message),
            }),
            429 => Some(Self::too_many(message, limits)),
            _ => None,
        }
    }

    fn by_code(code: Option<&str>, message: &str, now: Timestamp) -> Option<Self> {
        Some(match code? {
            "ramp_limit_exceeded" => Self::Ramp,
            // Lifted at midnight UTC on the first of the next month, says the provider.
            "enforced_spend_limit_reached" => Self::SpendCap {
                until: wording::date_in(message).or_else(|| wording::next_month(now)),
            },
            "contract_spend_limit_reached"
            | "linked_organization_spend_limit_reached"
            // OpenAI's and its compatible gateways'.
            | "insufficient_quota" => Self::SpendCap {
                until: wording::date_in(message),
            },
            _ => return None,
        })
    }

    fn too_many(message: &str, limits: &RateLimits) -> Self {
        let refused_for_good = limits.should_retry == Some(false) && limits.retry_after.is_none();
        // Every bucket is full and the provider refuses a repetition: the recorded ones prove that
        // waiting cannot help.
        if limits.should_retry == Some(false) && limits.all_full() {
            return Self::LargerThanBucket;
        }
        if let Some(window) = limits.unified.filter(|window| window.rejected) {
            return Self::Window {
                claim: window.claim,
            };
        }
        if limits.fast.is_some_and(|fast| fast.is_spent()) {
            return Self::FastMode;
        }
        if message.starts_with("Number of concurrent connections") {
            return Self::Connections;
        }
        let (named, empty) = (wording::axes(message), Axes::empty(limits));
        if limits.retry_after.is_none() && wording::is_spend_limit(message) {
            return Self::SpendCap {
                until: wording::date_in(message),
            };
        }
        if refused_for_good && limits.is_silent() {
            // A proxy can lose the headers; the wording is left.
            return if named.any() {
                Self::LargerThanBucket
            } else {
                Self::Unnamed
            };
        }
        let axes = if named.any() { named } else { empty };
        Self::Bucket {
            axes,
            burst: axes.any() && axes.all_have_some(limits),
        }
    }

    /// How long everybody who shares the quota must wait; nothing where others may go on.
    pub(super) fn stop_for(self, limits: &RateLimits, now: Timestamp) -> Option<Duration> {
        match self {
            // The bucket has room for others where it is full all the same.
            Self::Bucket { .. } if limits.all_full() => None,
            Self::Bucket { .. } | Self::Ramp | Self::Connections => limits.retry_after,
            Self::SpendCap { until } => until
                .and_then(|at| Duration::try_from(at.duration_since(now)).ok())
                .filter(|wait| !wait.is_zero())
                .or(limits.retry_after)
                .or(Some(UNTOLD_CAP)),
            Self::Window { .. } => {
                let window = limits.unified?;
                let open_to_some = window.accepted_share.is_some_and(|share| share > 0.0);
                (!open_to_some)
                    .then(|| window.reset_in.or(limits.retry_after))
                    .flatten()
            }
            // Nothing says that others are concerned by the last.
            Self::FastMode | Self::LargerThanBucket | Self::Unnamed => None,
        }
    }
}

/// Some of a quota's axes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the three that a quota has")]
pub struct Axes {
    /// Requests a minute.
    pub requests: bool,
    /// Input tokens a minute.
    pub input: bool,
    /// Output tokens a minute.
    pub output: bool,
}

impl Axes {
    /// Whether there is any among them.
    #[must_use]
    pub const fn any(self) -> bool {
        self.requests || self.input || self.output
    }

    /// Those of which nothing is left.
    fn empty(limits: &RateLimits) -> Self {
        let empty = |axis: AxisLimits| axis.remaining == Some(0);
        Self {
            requests: empty(limits.requests),
            input: empty(limits.input),
            output: empty(limits.output) || limits.combined && empty(limits.input),
        }
    }

    /// Whether the headers say of each that something is left.
    fn all_have_some(self, limits: &RateLimits) -> bool {
        let has_some = |axis: AxisLimits| axis.remaining.is_some_and(|left| left > 0);
        let output = if limits.combined {
            limits.input
        } else {
            limits.output
        };
        (!self.requests || has_some(limits.requests))
            && (!self.input || has_some(limits.input))
            && (!self.output || has_some(output))
    }
}

#[cfg(test)]
mod tests;
