//! What happens, as it happens: a bounded broadcast with sequence numbers.
//!
//! Nothing waits for a subscriber. One that falls behind loses the oldest events and is told how
//! many; the sequence numbers show the gap. With no subscriber an event costs one load.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
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
}

/// The source of events. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    sender: broadcast::Sender<Event>,
    /// Held while sending, so that subscribers see numbers in order.
    seq: Mutex<u64>,
    restarts: AtomicU64,
}

impl Events {
    pub(crate) fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                sender: broadcast::Sender::new(KEPT),
                seq: Mutex::new(0),
                restarts: AtomicU64::new(0),
            }),
        }
    }

    /// Publishes what `kind` describes; builds it only if somebody listens.
    pub(crate) fn emit(&self, kind: impl FnOnce() -> EventKind) {
        if self.shared.sender.receiver_count() == 0 {
            return;
        }
        let mut seq = self.shared.seq.lock();
        *seq += 1;
        // Err means that the last listener left in between.
        drop(self.shared.sender.send(Event {
            seq: *seq,
            at: Instant::now(),
            kind: kind(),
        }));
    }

    pub(crate) fn restarted(&self) {
        self.shared.restarts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn restarts(&self) -> u64 {
        self.shared.restarts.load(Ordering::Relaxed)
    }

    pub(crate) fn subscribe(&self) -> EventStream {
        EventStream {
            receiver: self.shared.sender.subscribe(),
        }
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
        match self.receiver.recv().await {
            Ok(event) => Some(Heard::Event(event)),
            Err(broadcast::error::RecvError::Lagged(lost)) => Some(Heard::Lagged(lost)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
