//! What happens, as it happens: a bounded broadcast with sequence numbers.
//!
//! Nothing waits for a subscriber. One that falls behind loses the oldest events and is told how
//! many; the sequence numbers show the gap. With no subscriber an event is not even built.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::broadcast;
use tokio::time::Instant;

use crate::verdict::Verdict;

/// Events kept for a subscriber that is behind.
const KEPT: usize = 1024;

/// One thing that happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Event {
    /// Position in the stream, from 1, without gaps at the source.
    pub seq: u64,
    /// When.
    pub at: Instant,
    /// What.
    pub kind: EventKind,
}

/// What can happen.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum EventKind {
    /// A call will be sent again.
    Retrying {
        /// The call.
        call: Arc<str>,
        /// The target that will be tried.
        target: Arc<str>,
        /// Attempts made so far.
        attempts: u32,
        /// What the last attempt said.
        verdict: Verdict,
        /// When the next attempt starts, at the earliest.
        until: Instant,
    },
    /// A call waits for tokens.
    WaitingForQuota {
        /// The call.
        call: Arc<str>,
        /// The quota.
        quota: Arc<str>,
        /// When its turn is expected.
        until: Instant,
        /// The place it is expected to have in the queue, from 1.
        position: usize,
    },
    /// A call waits for a breaker to let it pass.
    WaitingForBreaker {
        /// The call.
        call: Arc<str>,
        /// The target.
        target: Arc<str>,
        /// When the next probe is due, if that is known.
        until: Option<Instant>,
    },
    /// A call left a rung for the next.
    FellToRung {
        /// The call.
        call: Arc<str>,
        /// The rung's place in the ladder, from 0.
        rung: usize,
        /// The rung's target.
        target: Arc<str>,
        /// Why the one before was left.
        why: &'static str,
    },
    /// A call passed a rung by that is not for it.
    SkippedRung {
        /// The call.
        call: Arc<str>,
        /// The rung's place in the ladder, from 0.
        rung: usize,
        /// The rung's target.
        target: Arc<str>,
        /// What it can't do, as a stable word.
        why: &'static str,
    },
    /// A slow attempt got a second one beside it.
    Hedged {
        /// The call.
        call: Arc<str>,
        /// The rung of the second attempt, from 0.
        rung: usize,
        /// The second attempt's target.
        target: Arc<str>,
    },
    /// A breaker stopped letting calls pass.
    BreakerOpened {
        /// The target.
        target: Arc<str>,
        /// What tripped it.
        why: &'static str,
        /// When the next probe is due.
        until: Option<Instant>,
    },
    /// A breaker lets a probe pass.
    BreakerHalfOpen {
        /// The target.
        target: Arc<str>,
    },
    /// A breaker lets calls pass again.
    BreakerClosed {
        /// The target.
        target: Arc<str>,
    },
    /// A supervisor started an actor again.
    Restarted {
        /// The actor, as in `limiters/org-sonnet`.
        actor: Arc<str>,
        /// How long the supervisor waited first.
        after: Duration,
    },
    /// A step was spawned.
    StepStarted {
        /// The step, as in `steps/12`.
        step: Arc<str>,
        /// When it ends, whatever it is doing.
        deadline: Instant,
    },
    /// A step's code returned an error and is run again.
    StepRetrying {
        /// The step.
        step: Arc<str>,
        /// Runs that ended in an error so far.
        failures: u32,
        /// What the step's judge said of the last one.
        verdict: Verdict,
        /// When the next run starts, at the earliest.
        until: Instant,
    },
    /// A step's code panicked or hung, or its actor was lost, and is run again.
    StepRestarting {
        /// The step.
        step: Arc<str>,
        /// How the last run ended, in words.
        why: Arc<str>,
    },
    /// A step is over.
    StepEnded {
        /// The step.
        step: Arc<str>,
        /// `answered`, `failed`, `gave_up`, `timed_out`, `cancelled` or `stopped`.
        how: &'static str,
        /// Runs made.
        runs: u32,
    },
    /// A hook panicked. Hooks themselves are not told.
    HookPanicked {
        /// The hook, as in `on_retry`.
        hook: &'static str,
        /// What it panicked with.
        message: Arc<str>,
    },
}

/// The source of events. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// `None` once the system has stopped.
    sender: RwLock<Option<broadcast::Sender<Event>>>,
    /// Held while sending, so that subscribers see numbers in order.
    seq: Mutex<u64>,
    restarts: AtomicU64,
    hook_panics: AtomicU64,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                sender: RwLock::new(Some(broadcast::Sender::new(KEPT))),
                seq: Mutex::new(0),
                restarts: AtomicU64::new(0),
                hook_panics: AtomicU64::new(0),
            }),
        }
    }

    /// Publishes what `kind` describes; builds it only if somebody listens.
    pub(crate) fn emit(&self, kind: impl FnOnce() -> EventKind) {
        let sender = self.shared.sender.read();
        let Some(sender) = sender.as_ref().filter(|s| s.receiver_count() > 0) else {
            return;
        };
        let mut seq = self.shared.seq.lock();
        *seq += 1;
        // Err means that the last listener left in between.
        drop(sender.send(Event {
            seq: *seq,
            at: Instant::now(),
            kind: kind(),
        }));
    }

    /// Ends the stream: subscribers read what is left.
    pub(crate) fn close(&self) {
        *self.shared.sender.write() = None;
    }

    /// The source as long as others hold it.
    pub(crate) fn weak(&self) -> WeakEvents {
        WeakEvents(Arc::downgrade(&self.shared))
    }

    pub(crate) fn restarted(&self) {
        self.shared.restarts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn restarts(&self) -> u64 {
        self.shared.restarts.load(Ordering::Relaxed)
    }

    pub(crate) fn hook_panicked(&self, hook: &'static str, message: &str) {
        self.shared.hook_panics.fetch_add(1, Ordering::Relaxed);
        self.emit(|| EventKind::HookPanicked {
            hook,
            message: message.into(),
        });
    }

    pub(crate) fn hook_panics(&self) -> u64 {
        self.shared.hook_panics.load(Ordering::Relaxed)
    }

    pub(crate) fn subscribe(&self) -> EventStream {
        let receiver = match self.shared.sender.read().as_ref() {
            Some(sender) => sender.subscribe(),
            // Its only sender is gone with this statement.
            None => broadcast::Sender::new(1).subscribe(),
        };
        EventStream { receiver }
    }
}

/// Does not keep the source of events alive.
#[derive(Debug)]
pub(crate) struct WeakEvents(Weak<Shared>);

impl WeakEvents {
    pub(crate) fn upgrade(&self) -> Option<Events> {
        self.0.upgrade().map(|shared| Events { shared })
    }
}

/// Events from the moment of subscription on.
#[derive(Debug)]
pub struct EventStream {
    receiver: broadcast::Receiver<Event>,
}

/// What a subscriber receives.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Heard {
    /// The next event.
    Event(Event),
    /// The subscriber was too slow and this many events are gone.
    Lagged(u64),
}

impl EventStream {
    /// Waits for the next event; `None` once the system has stopped. Cancel safe.
    pub async fn next(&mut self) -> Option<Heard> {
        heard(self.receiver.recv().await)
    }

    /// As [`EventStream::next`], for a thread of its own.
    pub(crate) fn next_blocking(&mut self) -> Option<Heard> {
        heard(self.receiver.blocking_recv())
    }
}

fn heard(received: Result<Event, broadcast::error::RecvError>) -> Option<Heard> {
    match received {
        Ok(event) => Some(Heard::Event(event)),
        Err(broadcast::error::RecvError::Lagged(lost)) => Some(Heard::Lagged(lost)),
        Err(broadcast::error::RecvError::Closed) => None,
    }
}
