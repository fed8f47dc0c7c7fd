//! One attempt, as the operation sees it, and what it makes of it.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::permit::Permit;
use crate::policy::quota::{Cost, Learned};
use crate::system::Target;
use crate::verdict::Verdict;

/// One attempt, as the operation sees it.
#[derive(Debug)]
pub struct Attempt {
    /// Where to.
    pub target: Target,
    /// The rung's place in the call's ladder, from 0.
    pub rung: usize,
    /// Which attempt of the call this is, from 1.
    pub number: u32,
    /// When the attempt is ended, as the target's failure: at the call's deadline, or when the rung
    /// has had its share of the time.
    pub deadline: Instant,
    /// When it is ended if it has brought no content: then other rungs get the rest of the time.
    pub quiet_until: Instant,
    hold: Hold,
}

/// What an attempt and the call that made it share.
#[derive(Debug, Clone)]
pub(super) struct Hold(Arc<Mutex<Held>>);

#[derive(Debug)]
struct Held {
    permit: Option<Permit>,
    outrun: bool,
    late: bool,
}

impl Hold {
    pub(super) fn new(permit: Permit) -> Self {
        let hold = Self::vacant();
        hold.fill(permit);
        hold
    }

    /// For an attempt that is still to get its permit.
    pub(super) fn vacant() -> Self {
        Self(Arc::new(Mutex::new(Held {
            permit: None,
            outrun: false,
            late: false,
        })))
    }

    pub(super) fn fill(&self, permit: Permit) {
        self.0.lock().permit = Some(permit);
    }

    pub(super) fn take(&self) -> Option<Permit> {
        self.0.lock().permit.take()
    }

    pub(super) fn on_permit(&self, act: impl FnOnce(&mut Permit)) {
        if let Some(permit) = self.0.lock().permit.as_mut() {
            act(permit);
        }
    }

    /// Whether content has come, or the permit has been taken along by an answer.
    pub(super) fn has_content(&self) -> bool {
        let held = self.0.lock();
        held.permit.as_ref().is_none_or(Permit::has_content)
    }

    /// Takes the permit, since the attempt's time is over.
    pub(super) fn late(&self) -> Option<Permit> {
        let mut held = self.0.lock();
        held.late = true;
        held.permit.take()
    }

    /// Gives the permit back, since another attempt has answered.
    pub(super) fn outrun(&self) {
        let permit = {
            let mut held = self.0.lock();
            held.outrun = true;
            held.permit.take()
        };
        drop(permit);
    }
}

/// Tells, after an attempt was dropped, why that was.
#[derive(Debug, Clone)]
pub struct Fate(Hold);

impl Fate {
    /// Whether another attempt of the call has answered it.
    #[must_use]
    pub fn is_outrun(&self) -> bool {
        self.0.0.lock().outrun
    }

    /// Whether its time was over.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.0.0.lock().late
    }
}

impl Attempt {
    pub(super) fn new(
        (target, rung): (Target, usize),
        number: u32,
        (quiet_until, deadline): (Instant, Instant),
        hold: Hold,
    ) -> Self {
        Self {
            target,
            rung,
            number,
            deadline,
            quiet_until,
            hold,
        }
    }

    /// Takes the permit along, for an answer that goes on after the operation has returned, such
    /// as a stream. The taker finishes it; the operation returns [`Outcome::Committed`].
    #[must_use]
    pub fn take_permit(&self) -> Option<Permit> {
        self.hold.take()
    }

    /// Marks that the request has left; see [`Permit::mark_sent`].
    pub fn mark_sent(&self) {
        self.hold.on_permit(Permit::mark_sent);
    }

    /// When it was admitted; now, where its permit has been taken along.
    #[must_use]
    pub fn started(&self) -> Instant {
        let mut started = None;
        self.hold
            .on_permit(|permit| started = Some(permit.started()));
        started.unwrap_or_else(Instant::now)
    }

    /// What is reserved for the attempt; nothing where its target has no quota.
    #[must_use]
    pub fn reserved(&self) -> Cost {
        let mut reserved = Cost::ZERO;
        self.hold.on_permit(|permit| reserved = permit.reserved());
        reserved
    }

    /// Hands on what the answer says of the provider's buckets, as soon as it is known.
    pub fn learn(&self, learned: Learned) {
        self.hold.on_permit(|permit| permit.learn(learned));
    }

    /// Replaces what is reserved by a better estimate; see [`Permit::revise`].
    pub fn revise(&self, estimate: Cost) {
        self.hold.on_permit(|permit| permit.revise(estimate));
    }

    /// Marks the first content; see [`Permit::mark_content`]. From here on no other attempt is sent
    /// beside this one.
    pub fn mark_content(&self) {
        self.hold.on_permit(Permit::mark_content);
    }

    /// What tells later why the attempt was dropped.
    #[must_use]
    pub fn fate(&self) -> Fate {
        Fate(self.hold.clone())
    }
}

/// What an operation makes of one attempt.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "made once an attempt and moved; a box would cost an allocation"
)]
#[non_exhaustive]
pub enum Outcome<T, E> {
    /// It is over.
    Ended {
        /// The answer or the error.
        result: Result<T, E>,
        /// Whose fault, may it be sent again, not before when.
        verdict: Verdict,
        /// The true cost; see [`Permit::finish`] for what its absence means.
        cost: Option<Cost>,
        /// What the provider said of its buckets.
        learned: Option<Learned>,
    },
    /// The answer has begun to reach the user; its permit travels with it.
    Committed(T),
}

impl<T, E> Outcome<T, E> {
    /// A success of unknown cost.
    pub const fn ok(value: T) -> Self {
        Self::Ended {
            result: Ok(value),
            verdict: Verdict::OK,
            cost: None,
            learned: None,
        }
    }

    /// A failure.
    pub const fn failed(error: E, verdict: Verdict) -> Self {
        Self::Ended {
            result: Err(error),
            verdict,
            cost: None,
            learned: None,
        }
    }
}
