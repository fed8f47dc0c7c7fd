//! One call as its caller saw it.

use std::time::Duration;

use crate::client::ask::Degraded;
use crate::drill::client::Ended;
use crate::drill::load::Tenant;

/// A refusal later than this after the call was made is a failure, not a refusal at once.
pub const AT_ONCE: Duration = Duration::from_millis(100);

/// One call as its caller saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallRecord {
    /// Its number in the drill.
    pub id: u64,
    /// When it was made, since the drill's start.
    pub issued: Duration,
    /// When its caller had an answer, an error, or enough of waiting.
    pub ended: Duration,
    /// How it ended. What ends after its deadline has failed.
    pub end: Ended,
    /// The place of its class in the mix, if the load is one.
    pub class: Option<usize>,
    /// Its tenant, if the load has any.
    pub tenant: Option<Tenant>,
}

impl CallRecord {
    /// Whether a whole answer came.
    #[must_use]
    pub const fn succeeded(&self) -> bool {
        matches!(self.end, Ended::Answered { .. })
    }

    /// Whether a model wrote the answer for this call.
    #[must_use]
    pub const fn by_target(&self) -> bool {
        matches!(self.end, Ended::Answered { by } if by.is_target())
    }

    /// In which way the answer is less than the wanted model's, if it is.
    #[must_use]
    pub const fn degraded(&self) -> Option<Degraded> {
        match self.end {
            Ended::Answered { by } => by.degraded(),
            _ => None,
        }
    }

    /// Whether the client refused it and said when to come back.
    #[must_use]
    pub const fn told_to_come_back(&self) -> bool {
        matches!(self.end, Ended::Refused { retry_after } if !retry_after.is_zero())
    }

    /// Whether the client did so at once.
    #[must_use]
    pub fn refused(&self) -> bool {
        self.told_to_come_back() && self.took() <= AT_ONCE
    }

    /// Whether its caller got neither an answer nor, in time, a word on when to come back.
    #[must_use]
    pub const fn lost(&self) -> bool {
        !self.succeeded() && !self.told_to_come_back()
    }

    /// From the call to its end.
    #[must_use]
    pub const fn took(&self) -> Duration {
        self.ended.saturating_sub(self.issued)
    }
}
