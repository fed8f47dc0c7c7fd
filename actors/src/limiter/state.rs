//! What a limiter holds: the buckets, those who wait for them, and the order between the two.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Exhausted, Lease, Limiter, Note, Reply, Reservation, waiting};
use crate::event::EventKind;
use crate::policy::InvalidPolicy;
use crate::policy::overtaking::Overtaking;
use crate::policy::quota::{LeaseId, NotUntil, Quota, QuotaSettings};
use crate::policy::wait_queue::{Entry, WaitQueue};

/// How often leases past their end and waiters that left are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How many of those who wait are looked at for leavers in one go: some tens of microseconds. A round
/// takes as many goes as it has to, and other messages come in between.
const SWEEP_AT_ONCE: usize = 256;

/// How many of those who wait are served in one go.
const SERVE_AT_ONCE: usize = 256;

/// A waiter moves up one class for each of these spent waiting, so that none starves: a third of the
/// ten minutes that a batch call waits by default. Sooner, a load that is a little too much would turn
/// into one class of all, and the calls that somebody looks at would wait with the rest.
const AGE_AFTER: Duration = Duration::from_secs(200);

/// A call whose time is up in the queue, or for which it has no place, isn't told to come back before
/// this.
const SOONEST: Duration = Duration::from_secs(1);

/// No wait is told that is longer.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

#[derive(Debug)]
pub(super) struct LimiterState {
    pub(super) quota: Quota,
    pub(super) queue: WaitQueue<Waiter>,
    overtaking: Overtaking,
    swept: Instant,
    /// What is left of the current round of looking for leavers.
    to_sweep: usize,
}

/// What a limiter has to come back for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Next {
    /// When.
    pub(super) at: Option<Instant>,
    /// At once, when those who have asked meanwhile have been answered.
    pub(super) more: bool,
}

#[derive(Debug)]
pub(super) struct Waiter {
    /// What the queue in front took, when it came.
    ahead: Duration,
    pub(super) call: Arc<str>,
    /// As of its reservation.
    expires: Instant,
    reply: Reply,
}

impl LimiterState {
    pub(super) fn new(
        settings: QuotaSettings,
        queue_bound: usize,
        now: Instant,
    ) -> Result<Self, InvalidPolicy> {
        Ok(Self {
            quota: Quota::new(settings, now)?,
            queue: WaitQueue::new(queue_bound, AGE_AFTER)?,
            overtaking: Overtaking::default(),
            swept: now,
            to_sweep: 0,
        })
    }

    pub(super) fn apply(&mut self, notes: impl IntoIterator<Item = Note>, now: Instant) {
        for note in notes {
            match note {
                Note::Settle {
                    lease,
                    actual,
                    leaving,
                } => {
                    self.quota.settle_as(lease, actual, leaving, now);
                }
                Note::Revise { lease, estimate } => {
                    self.quota.revise(lease, estimate, now);
                }
                Note::Heard { lease, learned } => self.quota.heard(lease, &learned, now),
                Note::Learn(learned) => self.quota.learn(&learned, now),
            }
        }
    }

    pub(super) fn admit(
        &mut self,
        reservation: Reservation,
        reply: Reply,
        now: Instant,
        limiter: &Limiter,
    ) {
        let waits = reservation.until > now;
        if self.queue.is_empty() {
            match self
                .quota
                .try_reserve(reservation.cost, reservation.expires, now)
            {
                Ok(id) => return grant(reply, limiter, id),
                // Nobody is refused by a guess who can wait to see.
                Err(refusal) if refusal.at > reservation.until && !(refusal.is_guess && waits) => {
                    return refuse(reply, refusal.into());
                }
                Err(_) => {}
            }
        }
        let ahead = self.queue.ahead(reservation.priority, &reservation.tenant);
        let wait = self.quota.wait_behind(ahead.cost, reservation.cost, now);
        // Where nobody waits, nobody overtakes either; and who is refused at once would never be the one
        // to find out that a rush is over.
        let expected = if self.queue.is_empty() {
            wait
        } else {
            self.overtaking.expect(reservation.priority, wait)
        };
        let turn = later(now, expected);
        if !waits {
            return refuse(reply, self.too_late(turn.max(now + SOONEST), now));
        }
        if turn > reservation.until {
            return refuse(reply, self.too_late(turn, now));
        }
        if self.queue.len() >= self.queue.bound() {
            // Those who have left must not keep others out until the next round.
            drop(self.queue.sweep(SWEEP_AT_ONCE, has_left));
        }
        let entry = Entry {
            priority: reservation.priority,
            tenant: reservation.tenant,
            deadline: reservation.until,
            cost: reservation.cost,
            share: waiting::share(&self.quota, reservation.cost, now),
            item: Waiter {
                call: Arc::clone(&reservation.call),
                expires: reservation.expires,
                ahead: wait,
                reply,
            },
        };
        match self.queue.push(entry, now) {
            Ok(_) => limiter.shared.events.emit(|| EventKind::WaitingForQuota {
                call: reservation.call,
                quota: Arc::clone(&limiter.shared.name),
                until: turn,
                position: ahead.calls + 1,
            }),
            Err(waiter) => refuse(
                waiter.reply,
                Exhausted {
                    full: true,
                    ..self.too_late(turn.max(now + SOONEST), now)
                },
            ),
        }
    }

    /// Serves those whose turn it is, a bounded number of them.
    pub(super) fn serve(&mut self, now: Instant, limiter: &Limiter) -> Next {
        self.sweep(now);
        for late in self.queue.expire(now) {
            let waited = now.saturating_duration_since(late.since);
            self.overtaking
                .learn(late.priority, late.item.ahead, waited);
            let ahead = self.queue.ahead(late.priority, &late.tenant);
            let wait = self.quota.wait_behind(ahead.cost, late.cost, now);
            let wait = self.overtaking.expect(late.priority, wait).max(SOONEST);
            let refusal = self.too_late(later(now, wait), now);
            refuse(late.item.reply, refusal);
        }
        let mut turn = None;
        let mut served = 0;
        while served < SERVE_AT_ONCE
            && let Some(first) = self.queue.first()
        {
            served += 1;
            if first.item.reply.is_closed() {
                let ticket = first.ticket;
                self.queue.remove(ticket);
                continue;
            }
            match self.quota.try_reserve(first.cost, first.item.expires, now) {
                Ok(id) => match self.queue.pop_first() {
                    Some(waiting) => {
                        let waited = now.saturating_duration_since(waiting.since);
                        self.overtaking
                            .learn(waiting.priority, waiting.item.ahead, waited);
                        grant(waiting.item.reply, limiter, id);
                    }
                    None => drop(self.quota.refund(id, now)),
                },
                // A stop is no queue: who can't outwait it goes on at once.
                Err(refusal) if refusal.stopped_by.is_some() && refusal.at > first.deadline => {
                    if let Some(waiting) = self.queue.pop_first() {
                        refuse(waiting.item.reply, refusal.into());
                    }
                }
                Err(refusal) => {
                    turn = Some(refusal.at);
                    break;
                }
            }
        }
        let deadline = self.queue.next_deadline();
        let more = self.to_sweep > 0
            || (turn.is_none() && !self.queue.is_empty())
            || deadline.is_some_and(|at| at <= now);
        // A lease may have been settled meanwhile that would expire by now; a sweep passes it over.
        let sweep = self.quota.next_expiry();
        let sweep = sweep.map(|at| at.max(self.swept + SWEEP_EVERY));
        let due = [turn, deadline, sweep];
        // Timers have a resolution of 1 ms; an alarm for this very moment would only spin.
        let at = due
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.max(now + Duration::from_millis(1)));
        Next { at, more }
    }

    /// What is said to a call whose turn would come later than it waits.
    fn too_late(&self, turn: Instant, now: Instant) -> Exhausted {
        Exhausted {
            ready_at: turn,
            axis: None,
            stopped_by: self.quota.stopped_by(now),
            full: false,
        }
    }

    /// Looks for leases past their end and, part by part, for waiters that left.
    fn sweep(&mut self, now: Instant) {
        if now.duration_since(self.swept) >= SWEEP_EVERY {
            self.swept = now;
            self.quota.sweep(now);
            self.to_sweep = self.queue.places();
        }
        if self.queue.is_empty() {
            self.to_sweep = 0;
        }
        let part = self.to_sweep.min(SWEEP_AT_ONCE);
        self.to_sweep -= part;
        drop(self.queue.sweep(part, has_left));
    }
}

fn later(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now + LONGEST)
}

fn has_left(waiter: &Waiter) -> bool {
    waiter.reply.is_closed()
}

fn grant(reply: Reply, limiter: &Limiter, id: LeaseId) {
    // An asker that has left drops the lease, and so gives it back.
    drop(reply.send(Ok(Lease {
        limiter: limiter.clone(),
        id,
        settled: false,
    })));
}

fn refuse(reply: Reply, exhausted: Exhausted) {
    // Err means that the asker has left.
    drop(reply.send(Err(exhausted)));
}

impl From<NotUntil> for Exhausted {
    fn from(refusal: NotUntil) -> Self {
        Self {
            ready_at: refusal.at,
            axis: refusal.axis,
            stopped_by: refusal.stopped_by,
            full: false,
        }
    }
}
