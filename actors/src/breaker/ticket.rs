//! The right to pass a breaker, and what its attempt turned out to be.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{Breaker, Note};
use crate::policy::circuit::{Pass, Signal};
use crate::verdict::Verdict;

/// A pass that is given back on drop: the holder left, which says nothing about the target.
#[derive(Debug)]
pub(crate) struct Ticket {
    breaker: Breaker,
    pass: Pass,
    /// Counted as slow while in flight; the end only frees its place.
    overdue: bool,
    used: bool,
}

impl Ticket {
    pub(super) const fn new(breaker: Breaker, pass: Pass) -> Self {
        Self {
            breaker,
            pass,
            overdue: false,
            used: false,
        }
    }

    /// Whether the circuit is still in the state that gave this pass.
    pub(crate) fn is_current(&self) -> bool {
        self.breaker.shared.open_door.load(Ordering::Acquire) >> 1 == self.pass.generation
    }

    pub(crate) const fn is_probe(&self) -> bool {
        self.pass.probe.is_some()
    }

    /// Counts an attempt that is still in flight as slow; once.
    pub(crate) fn overdue(&mut self) {
        if !self.overdue {
            self.overdue = true;
            self.breaker.note(Note::Overdue(self.pass));
        }
    }

    /// Reports how the attempt ended. `took` runs to the first content.
    pub(crate) fn ended(mut self, verdict: &Verdict, took: Duration) {
        self.report(Signal::from(verdict.blame), took, verdict.not_before);
    }

    fn report(&mut self, signal: Signal, took: Duration, hint: Option<Duration>) {
        self.used = true;
        self.breaker.note(Note::Ended(Outcome {
            pass: self.pass,
            signal,
            took,
            // A 429's hint is about the quota; the breaker waits only on the target's own word.
            not_before: hint.filter(|_| signal == Signal::Failure),
            overdue: self.overdue,
        }));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.used {
            self.report(Signal::Neutral, Duration::ZERO, None);
        }
    }
}

/// How an attempt that had passed ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcome {
    pub(super) pass: Pass,
    pub(super) signal: Signal,
    pub(super) took: Duration,
    pub(super) not_before: Option<Duration>,
    pub(super) overdue: bool,
}
