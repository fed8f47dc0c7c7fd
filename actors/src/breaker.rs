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
use crate::policy::circuit::{
    Admission, Circuit, CircuitSettings, Mode, Pass, Signal, State, Transition,
};
use crate::policy::quota::Cost;
use crate::policy::retry_budget::RetryBudget;
use crate::policy::wait_queue::{Entry, Priority, WaitQueue};
use crate::snapshot::BreakerSnapshot;
use crate::verdict::Verdict;

/// Waiting calls move up one class for each of these, as in a limiter's queue.
const AGE_AFTER: Duration = Duration::from_secs(30);

/// How many of those who wait are looked at for leavers whenever one more comes.
const SWEEP_AT_ONCE: usize = 4;

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

#[derive(Debug)]
struct BreakerState {
    circuit: Circuit,
    budget: RetryBudget,
    queue: WaitQueue<Waiter>,
}

/// What a call asks of a breaker.
#[derive(Debug, Clone)]
pub(crate) struct Knock {
    pub(crate) call: Arc<str>,
    pub(crate) priority: Priority,
    /// The call has made an attempt before: this one is paid for from the retry budget.
    pub(crate) again: bool,
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
    const fn new(breaker: Breaker, pass: Pass) -> Self {
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

type Reply = oneshot::Sender<Result<Ticket, Barred>>;

#[derive(Debug)]
struct Waiter {
    again: bool,
    reply: Reply,
}

/// How an attempt that had passed ended.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    pass: Pass,
    signal: Signal,
    took: Duration,
    not_before: Option<Duration>,
    overdue: bool,
}

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
        shared.show();
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
        let waiting = self
            .shared
            .cell
            .update(|state| state.queue.sweep(usize::MAX, |_| true));
        drop(waiting);
    }

    /// Asks to pass. Dropping the future gives a place in the queue, or a pass, back.
    pub(crate) async fn knock(&self, knock: Knock) -> Result<Result<Ticket, Barred>, Unanswered> {
        let door = self.shared.open_door.load(Ordering::Acquire);
        if door & 1 == 1 && !knock.again {
            let pass = Pass {
                generation: door >> 1,
                probe: None,
                ramp: false,
            };
            return Ok(Ok(Ticket::new(self.clone(), pass)));
        }
        // A breaker that is being restarted is not a reason to fail a call that won't wait.
        let patience = knock.until.max(Instant::now() + RESTART_PATIENCE);
        self.shared
            .address
            .ask(
                |reply| BreakerMessage::Knock {
                    knock: knock.clone(),
                    reply,
                },
                patience,
            )
            .await
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

    fn note(&self, note: Note) {
        if self.shared.cell.note(note) {
            self.shared.address.ring(BreakerMessage::Notes);
        }
    }

    pub(crate) fn snapshot(&self) -> BreakerSnapshot {
        let now = Instant::now();
        self.shared.cell.read(|state| BreakerSnapshot {
            name: Arc::clone(&self.shared.name),
            circuit: state.circuit.view(now),
            waiting: state.queue.len(),
            retry_budget: state.budget.level(now),
        })
    }
}

/// How long an ask may take to reach a breaker that is being restarted: the supervisor's longest
/// pause between restarts.
const RESTART_PATIENCE: Duration = Duration::from_secs(5);

impl Shared {
    /// Publishes what callers may know without asking.
    fn show(&self) {
        let (door, slow, typical) = self.cell.read(|state| {
            let plain = state.circuit.is_plain() && state.queue.is_empty();
            let door = (state.circuit.generation() << 1) | u64::from(plain);
            (door, state.circuit.slow_after(), state.circuit.median())
        });
        self.open_door.store(door, Ordering::Release);
        self.slow_after_ms.store(millis(slow), Ordering::Relaxed);
        self.typical_ms
            .store(millis(typical.unwrap_or_default()), Ordering::Relaxed);
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
        let (transition, next) = self
            .breaker
            .shared
            .cell
            .update(|state| state.serve(now, &self.breaker));
        self.breaker.shared.cell.moved_on();
        self.breaker.shared.show();
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

impl BreakerState {
    fn apply(&mut self, note: Note, now: Instant, rng: &mut StdRng) -> Option<Transition> {
        match note {
            Note::Ended(outcome) => {
                if outcome.signal == Signal::Success {
                    self.budget.on_success(now);
                }
                let Outcome {
                    pass, signal, took, ..
                } = outcome;
                let transition = if outcome.overdue {
                    self.circuit.report_overdue_end(now, pass, signal, took);
                    None
                } else {
                    self.circuit.report(now, pass, signal, took, rng)
                };
                if let Some(hint) = outcome.not_before {
                    self.circuit.hint(now, hint);
                }
                transition
            }
            Note::Overdue(pass) => self.circuit.overdue(now, pass, rng),
        }
    }

    /// Passes, queues or bars one call. Says whose call waits, and for when.
    fn answer(
        &mut self,
        knock: Knock,
        reply: Reply,
        now: Instant,
        breaker: &Breaker,
    ) -> Option<(Arc<str>, Option<Instant>)> {
        self.circuit.poll(now);
        let waiter = Waiter {
            again: knock.again,
            reply,
        };
        let mut until = None;
        if self.queue.is_empty() {
            match self.circuit.admit(now) {
                Admission::Pass(pass) => {
                    self.hand_over(waiter, pass, now, breaker);
                    return None;
                }
                Admission::Wait { until: due } => until = due,
            }
        }
        if knock.until <= now {
            self.circuit.demand(now, self.queue.len(), knock.elsewhere);
            bar(waiter, Bar::Open, until);
            return None;
        }
        drop(
            self.queue
                .sweep(SWEEP_AT_ONCE, |waiter| waiter.reply.is_closed()),
        );
        let entry = Entry {
            priority: knock.priority,
            deadline: knock.until,
            cost: Cost::ZERO,
            item: waiter,
        };
        match self.queue.push(entry, now) {
            Ok(_) => {
                self.circuit.demand(now, self.queue.len(), false);
                Some((knock.call, until.or_else(|| self.circuit.next_event())))
            }
            Err(waiter) => {
                bar(waiter, Bar::Full, until);
                None
            }
        }
    }

    fn hand_over(&mut self, waiter: Waiter, pass: Pass, now: Instant, breaker: &Breaker) {
        if waiter.again && !self.budget.try_spend(now) {
            self.circuit.release(now, pass);
            return bar(waiter, Bar::Budget, None);
        }
        // An asker that has left drops the ticket, and so gives the pass back.
        drop(waiter.reply.send(Ok(Ticket::new(breaker.clone(), pass))));
    }

    /// Lets pass whom the circuit lets pass. Says when to look again.
    fn serve(&mut self, now: Instant, breaker: &Breaker) -> (Option<Transition>, Option<Instant>) {
        let transition = self.circuit.poll(now);
        for late in self.queue.expire(now) {
            let due = self.circuit.next_event();
            bar(late, Bar::Open, due);
        }
        while let Some(first) = self.queue.first() {
            if first.item.reply.is_closed() {
                self.queue.pop_first();
                continue;
            }
            let Admission::Pass(pass) = self.circuit.admit(now) else {
                break;
            };
            match self.queue.pop_first() {
                Some(waiting) => self.hand_over(waiting.item, pass, now, breaker),
                None => self.circuit.release(now, pass),
            }
        }
        if !self.queue.is_empty() {
            self.circuit.demand(now, self.queue.len(), false);
        }
        let next = [self.circuit.next_event(), self.queue.next_deadline()];
        // Timers have a resolution of 1 ms; an alarm for this very moment would only spin.
        let next = next
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.max(now + Duration::from_millis(1)));
        (transition, next)
    }
}

fn bar(waiter: Waiter, why: Bar, until: Option<Instant>) {
    // Err means that the asker has left.
    drop(waiter.reply.send(Err(Barred { why, until })));
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
