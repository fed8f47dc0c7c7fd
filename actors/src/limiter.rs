//! Mailbox before the buckets and the wait queue of one quota.
//!
//! One message reserves from all buckets or none; a call that can't be served now waits in the
//! queue, or is refused at once when its turn would come too late. Reply ports wait in the cell, so
//! those who wait survive the actor. What permits owe comes back as notes, which survive it too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::oneshot;
use tokio::time::Instant;

use self::state::LimiterState;
use crate::address::{Address, Alarm, Unanswered};
use crate::cell::Cell;
use crate::event::Events;
use crate::policy::InvalidPolicy;
use crate::policy::concurrency::Leaving;
use crate::policy::quota::{Axis, Cost, Learned, LeaseId, QuotaSettings, RefusedBy};
use crate::policy::wait_queue::{Priority, Tenant};
use crate::snapshot::LimiterSnapshot;

mod state;
mod waiting;

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
    /// The limit that stopped the whole quota, where that was said.
    pub(crate) stopped_by: Option<RefusedBy>,
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
        let state = LimiterState::new(settings, queue_bound, now)?;
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

#[cfg(test)]
mod tests;
