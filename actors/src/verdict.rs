//! What a finished attempt says: whose fault, may it be sent again, not before when.
//!
//! The one language between those who know a protocol and those who decide: a provider mapping
//! writes verdicts, policies read them, and neither knows the other's words.

use std::time::Duration;

use crate::policy::ladder::Cause;

/// Judgement of one finished attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// Who has to change for the next attempt to end differently.
    pub blame: Blame,
    /// Whether the same call may be sent again, and where.
    pub again: Again,
    /// The server's own hint: no attempt on this target before this much time has passed.
    pub not_before: Option<Duration>,
    /// The target had too much to do: it said so, or did not answer in time.
    pub overloaded: bool,
    /// Why a call leaves the rung for this, where that does not follow from the blame.
    pub because: Option<Cause>,
    /// Stable word for logs and metrics, such as `overloaded`. Values are few and fixed.
    pub label: &'static str,
}

impl Verdict {
    /// An attempt that ended well.
    pub const OK: Self = Self {
        blame: Blame::Nobody,
        again: Again::Never,
        not_before: None,
        overloaded: false,
        because: None,
        label: "ok",
    };

    /// An attempt whose caller left before its end; it says nothing about the target.
    pub const DEPARTED: Self = Self {
        blame: Blame::Departed,
        again: Again::Never,
        not_before: None,
        overloaded: false,
        because: None,
        label: "departed",
    };

    /// An attempt that was ended because another one of its call had answered; it says nothing about
    /// the target.
    pub const OUTRUN: Self = Self {
        label: "outrun",
        ..Self::DEPARTED
    };

    /// A judgement without a server hint.
    #[must_use]
    pub const fn new(label: &'static str, blame: Blame, again: Again) -> Self {
        Self {
            blame,
            again,
            not_before: None,
            overloaded: false,
            because: None,
            label,
        }
    }

    /// The same judgement with the server's hint.
    #[must_use]
    pub const fn not_before(mut self, hint: Option<Duration>) -> Self {
        self.not_before = hint;
        self
    }

    /// The same judgement of a target that had too much to do.
    #[must_use]
    pub const fn overloaded(mut self) -> Self {
        self.overloaded = true;
        self
    }

    /// The same judgement with the reason why the call leaves the rung.
    #[must_use]
    pub const fn because(mut self, cause: Cause) -> Self {
        self.because = Some(cause);
        self
    }

    /// Why a call leaves the rung, if it does after this.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        match (self.because, self.blame) {
            (Some(cause), _) => cause,
            (None, Blame::Quota) => Cause::Quota,
            (None, Blame::Credential) => Cause::Credential,
            (None, _) => Cause::AttemptsSpent,
        }
    }

    /// Whether the attempt succeeded.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        matches!(self.blame, Blame::Nobody)
    }
}

/// Whose fault an attempt's end was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Blame {
    /// It succeeded.
    Nobody,
    /// The request itself: the same bytes will be refused again, by anyone.
    Caller,
    /// The credential: missing, revoked, not allowed, or out of money.
    Credential,
    /// The quota's word, such as a 429: the target is well, the caller is early.
    Quota,
    /// The target: it answered with a failure, too late, or with half an answer.
    Target,
    /// The network between here and the target.
    Network,
    /// The caller went away.
    Departed,
}

impl Blame {
    /// Stable lower-case word for logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Caller => "caller",
            Self::Credential => "credential",
            Self::Quota => "quota",
            Self::Target => "target",
            Self::Network => "network",
            Self::Departed => "departed",
        }
    }
}

/// Whether a call may be sent again after this attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Again {
    /// Nobody would answer it differently.
    Never,
    /// Another target may; this one will not.
    Elsewhere,
    /// This target may, after a pause; so may another.
    Here,
}
