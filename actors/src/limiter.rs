//! Mailbox before the buckets and the wait queue of one quota.
//!
//! One message reserves from all buckets or none; a call that can't be served now waits in the
//! queue, or is refused at once when its turn would come too late. Reply ports wait in the cell, so
//! those who wait survive the actor. What permits owe comes back as notes, which survive it too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::address::{Address, Alarm, Unanswered};
use crate::cell::Cell;
use crate::event::{EventKind, Events};
use crate::policy::InvalidPolicy;
use crate::policy::concurrency::Leaving;
use crate::policy::quota::{Axis, Cost, Learned, LeaseId, Quota, QuotaSettings};
use crate::policy::wait_queue::{Entry, Priority, Tenant, WaitQueue};
use crate::snapshot::LimiterSnapshot;

mod waiting;

/// How often leases past their end and waiters that left are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How many of those who wait are looked at for leavers in one go: some tens of microseconds. A round
/// takes as many goes as it has to, and other messages come in between.
const SWEEP_AT_ONCE: usize = 256;

/// How many of those who wait are served in one go.
const SERVE_AT_ONCE: usize = 256;

/// Low priority moves up one class for each of these spent waiting, so that it never starves.
const AGE_AFTER: Duration = Duration::from_secs(30);

/// The limiter of one quota, as callers see it.
#[derive(Debug, Clone)]
pub(crate) struct Limiter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    address: Address<LimiterMessage>,
    cell: Cell<LimiterState, Note>,
    events: Events,
    closed: AtomicBool,
}

#[derive(Debug)]
struct LimiterState {
    quota: Quota,
    queue: WaitQueue<Waiter>,
    swept: Instant,
    /// What is left of the current round of looking for leavers.
    to_sweep: usize,
}

/// What a limiter has to come back for.
#[derive(Debug, Clone, Copy)]
struct Next {
    /// When.
    at: Option<Instant>,
    /// At once, when those who have asked meanwhile have been answered.
    more: bool,
}

/// What a call asks of a limiter.
#[derive(Debug, Clone)]
pub(crate) struct Reservation {
    pub(crate) call: Arc<str>,
    pub(crate) cost: Cost,
    pub(crate) priority: Priority,
    /// Whose share of the quota it is taken from.
    pub(crate) tenant: Tenant,
    /// The call won't wait longer than this.
    pub(crate) until: Instant,
    /// The lease is reclaimed some time after this.
    pub(crate) expires: Instant,
}

/// A reservation that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exhausted {
    /// When the cost could be served.
    pub(crate) ready_at: Instant,
    /// The bucket that lacks it; `None` when the whole quota is stopped or the queue is full.
    pub(crate) axis: Option<Axis>,
    /// The queue had no place.
    pub(crate) full: bool,
}

/// Tokens held for one attempt: settled with their true cost, or given back on drop.
#[derive(Debug)]
pub(crate) struct Lease {
    limiter: Limiter,
    id: LeaseId,
    settled: bool,
}

impl Lease {
    /// Hands on what the answer to this attempt said of the buckets.
    pub(crate) fn heard(&self, learned: Learned) {
        self.limiter.note(Note::Heard {
            lease: self.id,
            learned: Box::new(learned),
        });
    }

    /// Replaces the reserved cost by a better estimate while the attempt goes on.
    pub(crate) fn revise(&self, estimate: Cost) {
        self.limiter.note(Note::Revise {
            lease: self.id,
            estimate,
        });
    }

    /// Replaces the reserved cost by the true one, and says how the attempt left.
    pub(crate) fn settle(mut self, actual: Cost, leaving: Leaving) {
        self.settled = true;
        self.limiter.note(Note::Settle {
            lease: self.id,
            actual,
            leaving,
        });
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.settled {
            self.limiter.note(Note::Settle {
                lease: self.id,
                actual: Cost::ZERO,
                leaving: Leaving::Neutral,
            });
        }
    }
}

type Reply = oneshot::Sender<Result<Lease, Exhausted>>;

#[derive(Debug)]
struct Waiter {
    reservation: Reservation,
    reply: Reply,
}

#[derive(Debug)]
enum Note {
    Settle {
        lease: LeaseId,
        actual: Cost,
        leaving: Leaving,
    },
    Revise {
        lease: LeaseId,
        estimate: Cost,
    },
    Heard {
        lease: LeaseId,
        learned: Box<Learned>,
    },
    Learn(Box<Learned>),
}

#[derive(Debug)]
pub(crate) enum LimiterMessage {
    Reserve {
        reservation: Reservation,
        reply: Reply,
    },
    Notes,
    Wake,
}

impl Limiter {
    pub(crate) fn new(
        name: Arc<str>,
        settings: QuotaSettings,
        queue_bound: usize,
        events: Events,
    ) -> Result<Self, InvalidPolicy> {
        let now = Instant::now();
        let state = LimiterState {
            quota: Quota::new(settings, now)?,
            queue: WaitQueue::new(queue_bound, AGE_AFTER)?,
            swept: now,
            to_sweep: 0,
        };
        // Those who ask either wait in the queue, which is bounded, or are answered in microseconds.
        let address = Address::vacant(queue_bound.saturating_mul(2).saturating_add(1024));
        Ok(Self {
            shared: Arc::new(Shared {
                name,
                address,
                cell: Cell::new(state),
                events,
                closed: AtomicBool::new(false),
            }),
        })
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    pub(crate) fn actor(&self) -> LimiterActor {
        LimiterActor {
            limiter: self.clone(),
        }
    }

    pub(crate) fn publish(&self, actor: &ActorRef<LimiterMessage>) {
        self.shared.address.publish(actor.clone());
    }

    pub(crate) fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.address.close();
        // Dropping the reply ports tells those who wait.
        let waiting = self
            .shared
            .cell
            .update(|state| state.queue.sweep(usize::MAX, |_| true));
        drop(waiting);
    }

    /// Reserves `cost`, waiting in the queue for as long as the reservation allows. Dropping the
    /// future gives the place in the queue up, and the lease back if it was just granted.
    pub(crate) async fn reserve(
        &self,
        reservation: Reservation,
    ) -> Result<Result<Lease, Exhausted>, Unanswered> {
        if let Some(lease) = self.reserve_at_once(&reservation) {
            return Ok(Ok(lease));
        }
        let until = reservation.until;
        let question = |reply| LimiterMessage::Reserve {
            reservation: reservation.clone(),
            reply,
        };
        // A box: most calls don't get here, and every call's future would hold it.
        Box::pin(self.shared.address.ask(question, until)).await
    }

    /// Hands on what the provider said of its buckets, apart from any attempt.
    pub(crate) fn learn(&self, learned: Learned) {
        self.note(Note::Learn(Box::new(learned)));
    }

    /// Reserves without the actor while nobody waits: there is no order to keep then, and a message
    /// there and back would cost more than the decision.
    fn reserve_at_once(&self, reservation: &Reservation) -> Option<Lease> {
        if self.shared.closed.load(Ordering::Acquire) {
            return None;
        }
        let now = Instant::now();
        let reserved = self.shared.cell.try_update(|state, notes| {
            state.apply(notes, now);
            if !state.queue.is_empty() {
                return None;
            }
            let (cost, expires) = (reservation.cost, reservation.expires);
            state.quota.try_reserve(cost, expires, now).ok()
        });
        reserved.flatten().map(|id| Lease {
            limiter: self.clone(),
            id,
            settled: false,
        })
    }

    /// Tells the limiter something: at once where nobody waits for what it changes.
    fn note(&self, note: Note) {
        let now = Instant::now();
        let mut note = Some(note);
        let waited_for = self.shared.cell.try_update(|state, notes| {
            state.apply(notes.into_iter().chain(note.take()), now);
            !state.queue.is_empty()
        });
        let ring = match (waited_for, note) {
            (_, Some(note)) => self.shared.cell.note(note),
            (Some(waited_for), None) => waited_for,
            (None, None) => false,
        };
        if ring {
            self.shared.address.ring(LimiterMessage::Notes);
        }
    }

    pub(crate) fn snapshot(&self) -> LimiterSnapshot {
        let now = Instant::now();
        let (quota, waiting, mut queue) = self.shared.cell.read(|state| {
            let queue = waiting::look(&state.queue, &state.quota, now);
            (state.quota.view(now), state.queue.len(), queue)
        });
        waiting::sort(&mut queue);
        LimiterSnapshot {
            name: Arc::clone(&self.shared.name),
            quota,
            waiting,
            queue,
        }
    }
}

/// The actor: one incarnation of a limiter.
#[derive(Debug)]
pub(crate) struct LimiterActor {
    limiter: Limiter,
}

impl Actor for LimiterActor {
    type Msg = LimiterMessage;
    type State = Alarm;
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<LimiterMessage>,
        (): (),
    ) -> Result<Alarm, ActorProcessingErr> {
        let now = Instant::now();
        self.limiter
            .shared
            .cell
            .adopt(now, |state| state.quota.make_conservative(now));
        let mut alarm = Alarm::default();
        self.serve(&myself, &mut alarm, None);
        Ok(alarm)
    }

    async fn handle(
        &self,
        myself: ActorRef<LimiterMessage>,
        message: LimiterMessage,
        alarm: &mut Alarm,
    ) -> Result<(), ActorProcessingErr> {
        let mut asked = None;
        match message {
            LimiterMessage::Reserve { reservation, reply } => {
                if reply.is_closed() {
                    return Ok(());
                }
                asked = Some((reservation, reply));
            }
            LimiterMessage::Notes => {}
            LimiterMessage::Wake => alarm.rang(),
        }
        self.serve(&myself, alarm, asked);
        Ok(())
    }
}

impl LimiterActor {
    /// Grants, queues or refuses a reservation, serves the queue, and sets the timer for what has to
    /// wait.
    fn serve(
        &self,
        myself: &ActorRef<LimiterMessage>,
        alarm: &mut Alarm,
        asked: Option<(Reservation, Reply)>,
    ) {
        let now = Instant::now();
        self.apply_notes(now);
        let shared = &self.limiter.shared;
        let moves = asked.is_some();
        let next = shared.cell.update(|state| {
            if let Some((reservation, reply)) = asked {
                state.admit(reservation, reply, now, &self.limiter);
            }
            state.serve(now, &self.limiter)
        });
        if moves {
            shared.cell.moved_on();
        }
        if next.more {
            shared.address.ring(LimiterMessage::Notes);
        }
        if let Some(at) = next.at
            && alarm.wants(at)
        {
            alarm.set(myself, at, LimiterMessage::Wake);
        }
    }

    fn apply_notes(&self, now: Instant) {
        let notes = self.limiter.shared.cell.take_notes();
        if notes.is_empty() {
            return;
        }
        self.limiter
            .shared
            .cell
            .update(|state| state.apply(notes, now));
        self.limiter.shared.cell.moved_on();
    }
}

impl LimiterState {
    fn apply(&mut self, notes: impl IntoIterator<Item = Note>, now: Instant) {
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

    fn admit(&mut self, reservation: Reservation, reply: Reply, now: Instant, limiter: &Limiter) {
        if self.queue.is_empty() {
            match self
                .quota
                .try_reserve(reservation.cost, reservation.expires, now)
            {
                Ok(id) => return grant(reply, limiter, id),
                Err(refusal) if refusal.at > reservation.until => {
                    return refuse(reply, refusal.at, refusal.axis, false);
                }
                Err(_) => {}
            }
        }
        let ahead = self.queue.ahead(reservation.priority, &reservation.tenant);
        let wait = self.quota.wait_behind(ahead.cost, reservation.cost, now);
        let turn = now + wait;
        if turn > reservation.until {
            return refuse(reply, turn, None, false);
        }
        if self.queue.len() >= self.queue.bound() {
            // Those who have left must not keep others out until the next round.
            drop(self.queue.sweep(SWEEP_AT_ONCE, has_left));
        }
        let (call, quota) = (
            Arc::clone(&reservation.call),
            Arc::clone(&limiter.shared.name),
        );
        let entry = Entry {
            priority: reservation.priority,
            tenant: reservation.tenant.clone(),
            deadline: reservation.until,
            cost: reservation.cost,
            share: waiting::share(&self.quota, reservation.cost, now),
            item: Waiter { reservation, reply },
        };
        match self.queue.push(entry, now) {
            Ok(_) => limiter.shared.events.emit(|| EventKind::WaitingForQuota {
                call,
                quota,
                until: turn,
                position: ahead.calls + 1,
            }),
            Err(waiter) => refuse(waiter.reply, turn, None, true),
        }
    }

    /// Serves those whose turn it is, a bounded number of them.
    fn serve(&mut self, now: Instant, limiter: &Limiter) -> Next {
        self.sweep(now);
        for late in self.queue.expire(now) {
            let at = self.quota.ready_at(late.reservation.cost, now);
            refuse(late.reply, at, None, false);
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
            let Reservation { cost, expires, .. } = first.item.reservation;
            match self.quota.try_reserve(cost, expires, now) {
                Ok(id) => match self.queue.pop_first() {
                    Some(waiting) => grant(waiting.item.reply, limiter, id),
                    None => drop(self.quota.refund(id, now)),
                },
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
        let due = [turn, deadline, self.quota.next_expiry()];
        // Timers have a resolution of 1 ms; an alarm for this very moment would only spin.
        let at = due
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.max(now + Duration::from_millis(1)));
        Next { at, more }
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

fn refuse(reply: Reply, ready_at: Instant, axis: Option<Axis>, full: bool) {
    // Err means that the asker has left.
    drop(reply.send(Err(Exhausted {
        ready_at,
        axis,
        full,
    })));
}
