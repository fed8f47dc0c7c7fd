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
    /// A retry's, paid for from the budget, and no attempt has been made with it yet.
    unspent: bool,
}

impl Ticket {
    pub(super) const fn new(breaker: Breaker, pass: Pass) -> Self {
        Self {
            breaker,
            pass,
            overdue: false,
            used: false,
            unspent: false,
        }
    }

    /// The same pass, for a retry that the budget has paid for.
    pub(super) const fn paid(mut self) -> Self {
        self.unspent = true;
        self
    }

    /// An attempt is made with it.
    pub(crate) const fn spend(&mut self) {
        self.unspent = false;
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
            // A 429's hint is about the quota: only a probe that heard it has the breaker wait, or the
            // next would come too early too.
            not_before: hint.filter(|_| match signal {
                Signal::Failure => true,
                Signal::Limited => self.is_probe(),
                Signal::Success | Signal::Neutral => false,
            }),
            overdue: self.overdue,
            refund: self.unspent,
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
    /// What the retry budget paid for it was not needed.
    pub(super) refund: bool,
}
