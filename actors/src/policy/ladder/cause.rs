//! Why a call leaves a rung, and which of these reasons lead to another one.

use std::fmt;

/// Why a call leaves a rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// Its breaker lets no call pass at present. The call can wait for it, or go on at once.
    BreakerOpen,
    /// Its quota can't serve the call in time: the wait is too long, or the queue is full.
    Quota,
    /// The attempts that it was to get have been made, or no more fit into the time.
    AttemptsSpent,
    /// It said that it has too much to do, or did not answer in time. Where no rung is led to by
    /// this, the call tries again instead.
    Overloaded,
    /// The request is larger than what it takes. Leads only to a rung with more room.
    TooLarge,
    /// It understood the request and will not answer it.
    Refused,
    /// It does not accept the credential. Leads only to a rung with another.
    Credential,
    /// What is asked for does not exist there.
    NotFound,
    /// All waits are over: nothing else can answer any more.
    LastResort,
    /// It was not left: a second attempt beside a slow one was the first to bring content. Leads
    /// nowhere.
    Hedge,
}

impl Cause {
    /// Every cause that can lead to a rung.
    pub const ALL: [Self; 9] = [
        Self::BreakerOpen,
        Self::Quota,
        Self::AttemptsSpent,
        Self::Overloaded,
        Self::TooLarge,
        Self::Refused,
        Self::Credential,
        Self::NotFound,
        Self::LastResort,
    ];

    /// Stable lower-case word for logs, metrics and configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BreakerOpen => "breaker_open",
            Self::Quota => "quota",
            Self::AttemptsSpent => "attempts_spent",
            Self::Overloaded => "overloaded",
            Self::TooLarge => "context_too_long",
            Self::Refused => "refused",
            Self::Credential => "credential",
            Self::NotFound => "not_found",
            Self::LastResort => "last_resort",
            Self::Hedge => "hedge",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of causes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Causes(u16);

impl Causes {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// Those that lead from one target to the next where nothing else is said: what can't be had
    /// here may be had there. A target that has too much to do is tried again first, and a refusal
    /// is respected.
    pub const TARGET: Self = Self::of(&[
        Cause::BreakerOpen,
        Cause::Quota,
        Cause::AttemptsSpent,
        Cause::TooLarge,
        Cause::Credential,
        Cause::NotFound,
    ]);

    /// Those that lead to an answer that is nearly as good as a target's, such as a cached one.
    pub const STAND_IN: Self = Self::of(&[
        Cause::BreakerOpen,
        Cause::Quota,
        Cause::AttemptsSpent,
        Cause::LastResort,
    ]);

    /// Those that lead to an answer that is only better than none: when every wait is over.
    pub const LAST: Self = Self::of(&[Cause::Quota, Cause::AttemptsSpent, Cause::LastResort]);

    /// The set of these.
    #[must_use]
    pub const fn of(causes: &[Cause]) -> Self {
        let mut set = Self::NONE;
        let mut rest = causes;
        while let [first, others @ ..] = rest {
            set = set.with(*first);
            rest = others;
        }
        set
    }

    /// The same set and this one.
    #[must_use]
    pub const fn with(self, cause: Cause) -> Self {
        Self(self.0 | cause.bit())
    }

    /// Whether this one is in it.
    #[must_use]
    pub const fn contains(self, cause: Cause) -> bool {
        self.0 & cause.bit() != 0
    }

    /// Those in it, in their order.
    pub fn iter(self) -> impl Iterator<Item = Cause> {
        Cause::ALL
            .into_iter()
            .filter(move |cause| self.contains(*cause))
    }
}

impl FromIterator<Cause> for Causes {
    fn from_iter<I: IntoIterator<Item = Cause>>(causes: I) -> Self {
        causes.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Causes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        for cause in Cause::ALL {
            let only = Causes::of(&[cause]);
            assert_eq!(only.iter().collect::<Vec<_>>(), [cause]);
            assert!(!Causes::NONE.contains(cause));
        }
        assert_eq!(Cause::ALL.into_iter().collect::<Causes>().iter().count(), 9);
    }

    #[test]
    fn nobody_is_downgraded_by_a_passing_overload_or_a_refusal_unasked() {
        for set in [Causes::TARGET, Causes::STAND_IN, Causes::LAST] {
            assert!(!set.contains(Cause::Overloaded) && !set.contains(Cause::Refused));
        }
    }
}
