//! Mailbox before one target's circuit and its retry budget.
//!
//! While the circuit is plainly closed a call passes by reading one atomic. Otherwise it asks: it
//! passes, becomes the probe, waits here until the target is back, or is refused at once when it
//! has somewhere else to go. Outcomes arrive as notes that carry the generation that admitted them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::address::{Address, Alarm, Unanswered};
use crate::cell::Cell;
use crate::event::{EventKind, Events};
use crate::policy::InvalidPolicy;
use crate::policy::circuit::{Circuit, CircuitSettings, Mode, Pass, State, Transition};
use crate::policy::retry_budget::RetryBudget;
use crate::policy::wait_queue::{Priority, WaitQueue};
use crate::snapshot::BreakerSnapshot;

mod state;
mod ticket;

use state::BreakerState;
use ticket::Outcome;
pub(crate) use ticket::Ticket;

/// Waiting calls move up one class for each of these, as in a limiter's queue.
const AGE_AFTER: Duration = Duration::from_secs(30);

/// The breaker of one target, as callers see it.
#[derive(Debug, Clone)]
pub(crate) struct Breaker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: Arc<str>,
    address: Address<BreakerMessage>,
    cell: Cell<BreakerState, Note>,
    /// Generation × 2, plus 1 while every call passes without being asked about.
    open_door: AtomicU64,
    slow_after_ms: AtomicU64,
    typical_ms: AtomicU64,
    events: Events,
    rng: Mutex<StdRng>,
}

/// What a call asks of a breaker.
#[derive(Debug, Clone)]
pub(crate) struct Knock {
    pub(crate) call: Arc<str>,
    pub(crate) priority: Priority,
    /// The call has made an attempt before: this one is paid for from the retry budget.
    pub(crate) again: bool,
    /// The last one was refused by a quota and not failed by the target: the call may wait for the
    /// retry budget.
    pub(crate) refused: bool,
    /// The call has another rung to go to if it may not pass here.
    pub(crate) elsewhere: bool,
    /// Waits no longer than this; a moment that has passed means not at all.
    pub(crate) until: Instant,
}

/// A call that may not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Barred {
    pub(crate) why: Bar,
    /// When the next probe is due, if that is known.
    pub(crate) until: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bar {
    /// The circuit is not closed.
    Open,
    /// The target's retry budget is spent.
    Budget,
    /// Too many wait already.
    Full,
}

type Reply = oneshot::Sender<Result<Ticket, Barred>>;

#[derive(Debug)]
enum Note {
    Ended(Outcome),
    Overdue(Pass),
}

#[derive(Debug)]
pub(crate) enum BreakerMessage {
    Knock { knock: Knock, reply: Reply },
    Force(Mode),
    Notes,
    Wake,
}

/// What a breaker is made of.
#[derive(Debug)]
pub(crate) struct BreakerSettings {
    pub(crate) circuit: CircuitSettings,
    pub(crate) budget: RetryBudget,
    pub(crate) queue_bound: usize,
    pub(crate) seed: u64,
}

impl Breaker {
    pub(crate) fn new(
        name: Arc<str>,
        settings: BreakerSettings,
        events: Events,
    ) -> Result<Self, InvalidPolicy> {
        let now = Instant::now();
        let state = BreakerState {
            circuit: Circuit::new(settings.circuit, now)?,
            budget: settings.budget,
            queue: WaitQueue::new(settings.queue_bound, AGE_AFTER)?,
            unpaid: WaitQueue::new(settings.queue_bound, AGE_AFTER)?,
        };
        let address = Address::vacant(settings.queue_bound.saturating_mul(2).saturating_add(1024));
        let shared = Shared {
            name,
            address,
            open_door: AtomicU64::new(0),
            slow_after_ms: AtomicU64::new(0),
            typical_ms: AtomicU64::new(0),
            cell: Cell::new(state),
            events,
            rng: Mutex::new(StdRng::seed_from_u64(settings.seed)),
        };
        shared.cell.read(|state| shared.show(state));
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    pub(crate) fn actor(&self) -> BreakerActor {
        BreakerActor {
            breaker: self.clone(),
        }
    }

    pub(crate) fn publish(&self, actor: &ActorRef<BreakerMessage>) {
        self.shared.address.publish(actor.clone());
    }

    pub(crate) fn close(&self) {
        self.shared.address.close();
        let waiting = self.shared.cell.update(|state| {
            [&mut state.queue, &mut state.unpaid].map(|queue| queue.sweep(usize::MAX, |_| true))
        });
        drop(waiting);
    }

    /// Asks to pass. Dropping the future gives a place in the queue, or a pass, back.
    pub(crate) async fn knock(&self, knock: Knock) -> Result<Result<Ticket, Barred>, Unanswered> {
        let door = self.shared.open_door.load(Ordering::Acquire);
        if door & 1 == 1 && !knock.again {
            let pass = Pass::plain(door >> 1);
            return Ok(Ok(Ticket::new(self.clone(), pass)));
        }
        // A breaker that is being restarted is not a reason to fail a call that won't wait.
        let patience = knock.until.max(Instant::now() + RESTART_PATIENCE);
        let question = |reply| BreakerMessage::Knock {
            knock: knock.clone(),
            reply,
        };
        // A box: most calls don't get here, and every call's future would hold it.
        Box::pin(self.shared.address.ask(question, patience)).await
    }

    /// An attempt in flight for longer than this counts as failed while it is in flight.
    pub(crate) fn slow_after(&self) -> Duration {
        Duration::from_millis(self.shared.slow_after_ms.load(Ordering::Relaxed))
    }

    /// The usual time to the first content; zero until enough is known.
    pub(crate) fn typical(&self) -> Duration {
        Duration::from_millis(self.shared.typical_ms.load(Ordering::Relaxed))
    }

    pub(crate) fn force(&self, mode: Mode) {
        self.shared.address.ring(BreakerMessage::Force(mode));
    }

    /// Tells the breaker something: at once while the circuit is plainly closed and stays so, since
    /// there is nobody to let pass and no timer to set then.
    fn note(&self, note: Note) {
        let shared = &self.shared;
        let now = Instant::now();
        let mut note = Some(note);
        let applied = shared.cell.try_update(|state, notes| {
            let mut transitions = Vec::new();
            let was_plain = state.is_plain();
            let mut rng = shared.rng.lock();
            for note in notes.into_iter().chain(note.take()) {
                transitions.extend(state.apply(note, now, &mut rng));
            }
            shared.show(state);
            let calm = was_plain && state.is_plain() && state.unpaid.is_empty();
            (transitions, calm)
        });
        let ring = match (applied, note) {
            (_, Some(note)) => shared.cell.note(note),
            (Some((transitions, calm)), None) => {
                for transition in &transitions {
                    shared.announce(transition);
                }
                !calm
            }
            (None, None) => false,
        };
        if ring {
            shared.address.ring(BreakerMessage::Notes);
        }
    }

    pub(crate) fn snapshot(&self) -> BreakerSnapshot {
        let now = Instant::now();
        self.shared.cell.read(|state| BreakerSnapshot {
            name: Arc::clone(&self.shared.name),
            circuit: state.circuit.view(now),
            waiting: state.queue.len() + state.unpaid.len(),
            retry_budget: state.budget.level(now),
        })
    }
}

/// How long an ask may take to reach a breaker that is being restarted: the supervisor's longest
/// pause between restarts.
const RESTART_PATIENCE: Duration = Duration::from_secs(5);

impl Shared {
    /// Publishes what callers may know without asking.
    fn show(&self, state: &BreakerState) {
        let circuit = &state.circuit;
        let door = (circuit.generation() << 1) | u64::from(state.is_plain());
        self.open_door.store(door, Ordering::Release);
        let typical = circuit.median().unwrap_or_default();
        self.slow_after_ms
            .store(millis(circuit.slow_after()), Ordering::Relaxed);
        self.typical_ms.store(millis(typical), Ordering::Relaxed);
    }

    fn announce(&self, transition: &Transition) {
        let target = Arc::clone(&self.name);
        tracing::info!(
            target = %self.name, from = ?transition.from, to = ?transition.to,
            why = transition.why, "breaker"
        );
        self.events.emit(|| match transition.to {
            State::Open => EventKind::BreakerOpened {
                target,
                why: transition.why,
                until: transition.until,
            },
            State::HalfOpen => EventKind::BreakerHalfOpen { target },
            State::Closed => EventKind::BreakerClosed { target },
        });
    }
}

/// The actor: one incarnation of a breaker.
#[derive(Debug)]
pub(crate) struct BreakerActor {
    breaker: Breaker,
}

impl Actor for BreakerActor {
    type Msg = BreakerMessage;
    type State = Alarm;
    type Arguments = ();

    async fn pre_start(
        &self,
        myself: ActorRef<BreakerMessage>,
        (): (),
    ) -> Result<Alarm, ActorProcessingErr> {
        let now = Instant::now();
        self.breaker.shared.cell.adopt(now, |state| {
            if let Some(transition) = state.circuit.make_conservative() {
                self.breaker.shared.announce(&transition);
            }
        });
        let mut alarm = Alarm::default();
        self.serve(&myself, &mut alarm);
        Ok(alarm)
    }

    async fn handle(
        &self,
        myself: ActorRef<BreakerMessage>,
        message: BreakerMessage,
        alarm: &mut Alarm,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            BreakerMessage::Knock { knock, reply } => {
                if reply.is_closed() {
                    return Ok(());
                }
                self.answer(knock, reply);
            }
            BreakerMessage::Force(mode) => {
                let now = Instant::now();
                let forced = self
                    .breaker
                    .shared
                    .cell
                    .update(|state| state.circuit.force(mode, now));
                if let Some(transition) = forced {
                    self.breaker.shared.announce(&transition);
                }
            }
            BreakerMessage::Notes => {}
            BreakerMessage::Wake => alarm.rang(),
        }
        self.serve(&myself, alarm);
        Ok(())
    }
}

impl BreakerActor {
    fn answer(&self, knock: Knock, reply: Reply) {
        let now = Instant::now();
        self.apply_notes(now);
        let waits = self
            .breaker
            .shared
            .cell
            .update(|state| state.answer(knock, reply, now, &self.breaker));
        if let Some((call, until)) = waits {
            let target = Arc::clone(&self.breaker.shared.name);
            self.breaker
                .shared
                .events
                .emit(|| EventKind::WaitingForBreaker {
                    call,
                    target,
                    until,
                });
        }
    }

    fn serve(&self, myself: &ActorRef<BreakerMessage>, alarm: &mut Alarm) {
        let now = Instant::now();
        self.apply_notes(now);
        let (transition, next) = self.breaker.shared.cell.update(|state| {
            let served = state.serve(now, &self.breaker);
            self.breaker.shared.show(state);
            served
        });
        self.breaker.shared.cell.moved_on();
        if let Some(transition) = transition {
            self.breaker.shared.announce(&transition);
        }
        if let Some(at) = next
            && alarm.wants(at)
        {
            alarm.set(myself, at, BreakerMessage::Wake);
        }
    }

    fn apply_notes(&self, now: Instant) {
        let notes = self.breaker.shared.cell.take_notes();
        if notes.is_empty() {
            return;
        }
        let mut transitions = Vec::new();
        self.breaker.shared.cell.update(|state| {
            let mut rng = self.breaker.shared.rng.lock();
            for note in notes {
                transitions.extend(state.apply(note, now, &mut rng));
            }
        });
        for transition in &transitions {
            self.breaker.shared.announce(transition);
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
