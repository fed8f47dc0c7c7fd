//! What a call can end in besides its answer.

use std::sync::Arc;
use std::time::Duration;

use crate::policy::InvalidPolicy;
use crate::verdict::Verdict;

/// A call that was not answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError<E> {
    /// The last attempt's own error: trying again was not allowed, not useful, or not in time.
    #[error("{error}")]
    Failed {
        /// What the operation returned.
        #[source]
        error: E,
        /// What it said of whose fault it was.
        verdict: Verdict,
    },
    /// No attempt was made.
    #[error(transparent)]
    Refused(#[from] Rejected),
    /// A setting of the call is out of range: which one, what it was, what it may be.
    #[error(transparent)]
    Invalid(#[from] InvalidPolicy),
    /// The operation panicked.
    #[error("the operation panicked: {0}")]
    Panicked(String),
}

/// A call that was turned away here, before any attempt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Rejected {
    /// The reason.
    pub why: Rejection,
    /// The target or quota that could not take it; none when the system itself refused.
    pub by: Option<Arc<str>>,
    /// When it is worth trying again, as far as is known.
    pub retry_after: Option<Duration>,
}

impl Rejected {
    /// A refusal by the system itself, of which no end is known.
    #[must_use]
    pub const fn new(why: Rejection) -> Self {
        Self {
            why,
            by: None,
            retry_after: None,
        }
    }
}

/// Why a call was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The target is down, and would not be back within the time that the call may wait.
    #[error("the target is failing and its breaker is open")]
    BreakerOpen,
    /// The call's turn would come after the time that it may wait.
    #[error("the quota is used up for longer than the call may wait")]
    QuotaExhausted,
    /// What may be spent on the credential has been spent: another credential may serve, waiting won't.
    #[error("the spend cap behind the quota's credential is reached")]
    SpendCap,
    /// The call belongs to a run whose turn to begin would come after the time that it may wait.
    #[error("the run's turn to begin would come later than the call may wait")]
    TurnTooLate,
    /// The target's retry budget is spent: so many attempts fail that more would only add load.
    #[error("the retry budget is spent")]
    RetryBudget,
    /// A queue has no place.
    #[error("too many calls are waiting")]
    QueueFull,
    /// The deadline passed.
    #[error("the call's deadline passed before an attempt could be made")]
    DeadlinePassed,
    /// The system is draining and takes no new calls.
    #[error("the system is draining")]
    Draining,
    /// The system has stopped.
    #[error("the system has stopped")]
    Stopped,
}

impl Rejection {
    /// Stable lower-case word for logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BreakerOpen => "breaker_open",
            Self::QuotaExhausted => "quota_exhausted",
            Self::SpendCap => "spend_cap",
            Self::TurnTooLate => "turn_too_late",
            Self::RetryBudget => "retry_budget",
            Self::QueueFull => "queue_full",
            Self::DeadlinePassed => "deadline_passed",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

/// A system that could not start.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is out of range.
    #[error(transparent)]
    Invalid(#[from] InvalidPolicy),
    /// An actor did not start.
    #[error("an actor could not start: {0}")]
    Actor(String),
    /// The system has stopped.
    #[error("the system has stopped")]
    Stopped,
    /// There is no thread for the hooks.
    #[error("no thread for the hooks: {0}")]
    Thread(#[source] Arc<std::io::Error>),
    /// As many targets or quotas exist as the system may hold, and all are in use.
    #[error("the system holds {0} targets or quotas, which is its bound, and all are in use")]
    TooMany(usize),
}
