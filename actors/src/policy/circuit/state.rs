//! What a circuit shows: its state, who decides, each change, and the view for a status page.

use std::time::Duration;

use tokio::time::Instant;

use super::Circuit;
use super::phase::Phase;
use super::ramp::Ramp;
use crate::policy::rolling_window::Totals;

/// Who decides: the circuit, or an operator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// The circuit.
    #[default]
    Auto,
    /// Nothing passes.
    ForcedOpen,
    /// Everything passes, nothing is counted.
    ForcedClosed,
    /// Everything passes and is counted; nothing opens.
    MetricsOnly,
}

impl Mode {
    /// Stable word for logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
            Self::MetricsOnly => "metrics_only",
        }
    }
}

/// State of a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a breaker has these three states by definition"
)]
pub enum State {
    /// Attempts pass.
    Closed,
    /// None passes.
    Open,
    /// One probe at a time passes.
    HalfOpen,
}

impl State {
    /// Stable word for logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// One change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// The state left.
    pub from: State,
    /// The state entered.
    pub to: State,
    /// The rule that did it. Values are few and fixed.
    pub why: &'static str,
    /// When the probe is due, for an open circuit that a timer ends.
    pub until: Option<Instant>,
}

/// A circuit as a status page shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CircuitView {
    /// The state.
    pub state: State,
    /// Who decides.
    pub mode: Mode,
    /// State changes so far.
    pub generation: u64,
    /// The last attempts.
    pub recent: Totals,
    /// The attempts of the last stretch of time.
    pub timed: Totals,
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// Usual latency of successes, once enough are known.
    pub median: Option<Duration>,
    /// Time in flight past which an attempt is slow.
    pub slow_after: Duration,
    /// Times it opened by itself, failed probes included.
    pub opened: u64,
    /// When the probe is due, while open.
    pub open_until: Option<Instant>,
    /// A probe is in flight.
    pub probing: bool,
    /// Attempts in flight that the ramp allows, while there is one.
    pub ramp_allowed: Option<u32>,
    /// Attempts in flight that the ramp counts.
    pub ramp_in_flight: u32,
}

impl Circuit {
    /// Shows everything that a status page needs.
    #[must_use]
    pub fn view(&self, now: Instant) -> CircuitView {
        let (run, ramp) = match &self.phase {
            Phase::Closed { run, ramp } => (*run, ramp.as_ref()),
            Phase::Open { .. } | Phase::HalfOpen { .. } => (0, None),
        };
        CircuitView {
            state: self.state(),
            mode: self.mode,
            generation: self.generation,
            recent: self.recent.totals(),
            timed: self.timed.totals(now),
            consecutive_failures: run,
            median: self.latency.median(),
            slow_after: self.slow_after(),
            opened: self.opened,
            open_until: match self.phase {
                Phase::Open { until, .. } => until,
                Phase::Closed { .. } | Phase::HalfOpen { .. } => None,
            },
            probing: matches!(self.phase, Phase::HalfOpen { probe: Some(_), .. }),
            ramp_allowed: ramp.map(Ramp::allowed),
            ramp_in_flight: ramp.map_or(0, Ramp::in_flight),
        }
    }
}
