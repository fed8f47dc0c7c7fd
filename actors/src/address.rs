//! A bounded address that survives restarts; the only place that calls an actor.
//!
//! ractor's mailboxes are unbounded and a restarted actor has a new reference. An [`Address`] bounds
//! what is asked at once before it reaches the mailbox, and follows the actor: its supervisor
//! publishes each incarnation here. An ask that meets a dying actor is asked again of the next
//! one; the asker never learns that there were two.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;
use ractor::{ActorRef, Message};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

/// Where an actor is reached, whichever incarnation it is in.
pub(crate) struct Address<M: Message> {
    slot: Arc<Slot<M>>,
}

struct Slot<M: Message> {
    current: RwLock<Option<ActorRef<M>>>,
    /// Counts publications; `None` once nobody will come any more.
    incarnation: watch::Sender<Option<u64>>,
    asking: AtomicUsize,
    bound: usize,
}

/// Why an ask got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// As many are asking as the address admits.
    Busy,
    /// No incarnation answered before the deadline.
    Late,
    /// The system has stopped.
    Stopped,
}

impl<M: Message> Address<M> {
    /// An address that nobody answers yet and at which at most `bound` may ask at once.
    pub(crate) fn vacant(bound: usize) -> Self {
        Self {
            slot: Arc::new(Slot {
                current: RwLock::new(None),
                incarnation: watch::Sender::new(Some(0)),
                asking: AtomicUsize::new(0),
                bound,
            }),
        }
    }

    /// Points the address at a new incarnation.
    pub(crate) fn publish(&self, actor: ActorRef<M>) {
        *self.slot.current.write() = Some(actor);
        self.slot.incarnation.send_modify(|n| *n = n.map(|n| n + 1));
    }

    /// Ends the address: asks fail at once from here on.
    pub(crate) fn close(&self) {
        *self.slot.current.write() = None;
        self.slot.incarnation.send_replace(None);
    }

    /// How many are asking.
    pub(crate) fn asking(&self) -> usize {
        self.slot.asking.load(Ordering::Relaxed)
    }

    /// Tells the actor something it could do without: a lost ring is made up for at its restart.
    pub(crate) fn ring(&self, message: M) {
        if let Some(actor) = self.slot.current.read().as_ref() {
            // Err means that this incarnation is gone; the next one reads the notes when it starts.
            drop(actor.cast(message));
        }
    }

    /// Asks until an incarnation answers. `deadline` bounds the wait for a new incarnation, not the
    /// answer: the answering side keeps deadlines for those who wait with it.
    pub(crate) async fn ask<R: Send + 'static>(
        &self,
        question: impl Fn(oneshot::Sender<R>) -> M,
        deadline: Instant,
    ) -> Result<R, Unanswered> {
        let _seat = Seat::take(&self.slot)?;
        loop {
            let before = *self.slot.incarnation.borrow();
            if before.is_none() {
                return Err(Unanswered::Stopped);
            }
            let (reply, answer) = oneshot::channel();
            let sent = match self.slot.current.read().as_ref() {
                Some(actor) => actor.cast(question(reply)).is_ok(),
                None => false,
            };
            if sent && let Ok(answer) = answer.await {
                return Ok(answer);
            }
            let mut incarnation = self.slot.incarnation.subscribe();
            let published = incarnation.wait_for(|n| *n != before);
            match timeout_at(deadline, published).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return Err(Unanswered::Stopped),
                Err(_) => return Err(Unanswered::Late),
            }
        }
    }
}

/// One of the places at an address, given back on drop.
struct Seat<'a>(&'a AtomicUsize);

impl<'a> Seat<'a> {
    fn take<M: Message>(slot: &'a Slot<M>) -> Result<Self, Unanswered> {
        if slot.asking.fetch_add(1, Ordering::Relaxed) >= slot.bound {
            slot.asking.fetch_sub(1, Ordering::Relaxed);
            return Err(Unanswered::Busy);
        }
        Ok(Self(&slot.asking))
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<M: Message> Clone for Address<M> {
    fn clone(&self) -> Self {
        Self {
            slot: Arc::clone(&self.slot),
        }
    }
}

impl<M: Message> fmt::Debug for Address<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address")
            .field("asking", &self.asking())
            .finish_non_exhaustive()
    }
}

/// The one timer of an incarnation; it goes with it.
#[derive(Debug, Default)]
pub(crate) struct Alarm(Option<(Instant, JoinHandle<()>)>);

impl Alarm {
    /// Whether a timer for `at` has to be set: none is, or only a later one.
    pub(crate) fn wants(&self, at: Instant) -> bool {
        self.0.as_ref().is_none_or(|(due, _)| at < *due)
    }

    /// Sends `message` to the actor at `at`, instead of what was set before.
    pub(crate) fn set<M: Message>(&mut self, actor: &ActorRef<M>, at: Instant, message: M) {
        let actor = actor.clone();
        #[expect(
            clippy::disallowed_methods,
            reason = "the alarm holds the handle and aborts it"
        )]
        let task = tokio::spawn(async move {
            sleep_until(at).await;
            // Err means that this incarnation is gone, and its alarm with it.
            drop(actor.cast(message));
        });
        if let Some((_, before)) = self.0.replace((at, task)) {
            before.abort();
        }
    }

    /// The timer has fired.
    pub(crate) fn rang(&mut self) {
        self.0 = None;
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some((_, task)) = self.0.take() {
            task.abort();
        }
    }
}

/// One incarnation, for those who want this one or none.
pub(crate) struct Direct<M: Message>(ActorRef<M>);

impl<M: Message> Direct<M> {
    pub(crate) const fn new(actor: ActorRef<M>) -> Self {
        Self(actor)
    }

    /// Hands a message over; `false` when this incarnation is gone.
    pub(crate) fn hand(&self, message: M) -> bool {
        self.0.cast(message).is_ok()
    }
}

impl<M: Message> fmt::Debug for Direct<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Direct").field(&self.0.get_id()).finish()
    }
}
