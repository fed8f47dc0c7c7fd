//! State that outlives its actor.
//!
//! A [`Cell`] is owned by the system and handed to each incarnation of an actor. Only the actor
//! changes the state; others read it. What callers *tell* an actor (a settled permit, a finished
//! attempt) goes into the cell's notes first and only then rings the actor, because ractor loses a
//! mailbox with its actor: a note is taken exactly once, by whichever incarnation comes next.
//!
//! A change marks the cell dirty before and clean after. Whoever adopts a dirty cell, or one whose
//! last two owners died without changing it, can't trust what it holds and starts conservative.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Two deaths on one unchanged state closer than this mean that the state itself may kill.
const SUSPICIOUS: Duration = Duration::from_secs(1);

/// State `S` of one actor and the notes `N` it has yet to read.
#[derive(Debug)]
pub(crate) struct Cell<S, N> {
    state: Mutex<S>,
    dirty: AtomicBool,
    notes: Mutex<Vec<N>>,
    adoption: Mutex<Adoption>,
}

#[derive(Debug, Default)]
struct Adoption {
    count: u64,
    last: Option<Instant>,
    revision: u64,
    revision_at_last: u64,
}

impl<S, N> Cell<S, N> {
    pub(crate) fn new(state: S) -> Self {
        Self {
            state: Mutex::new(state),
            dirty: AtomicBool::new(false),
            notes: Mutex::new(Vec::new()),
            adoption: Mutex::new(Adoption::default()),
        }
    }

    /// Leaves a note. Says whether the actor has to be rung: it is already coming for the others.
    pub(crate) fn note(&self, note: N) -> bool {
        let mut notes = self.notes.lock();
        notes.push(note);
        notes.len() == 1
    }

    /// Takes the notes left so far, in order.
    pub(crate) fn take_notes(&self) -> Vec<N> {
        std::mem::take(&mut *self.notes.lock())
    }

    /// Changes the state. For the owning actor alone.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut S) -> R) -> R {
        let mut state = self.state.lock();
        self.dirty.store(true, Ordering::Relaxed);
        let result = change(&mut state);
        self.dirty.store(false, Ordering::Relaxed);
        result
    }

    /// Reads the state.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&S) -> R) -> R {
        look(&self.state.lock())
    }

    /// Marks that the state has moved on: a death from here on is not about the same state.
    pub(crate) fn moved_on(&self) {
        self.adoption.lock().revision += 1;
    }

    /// Takes over from a dead owner. `distrust` makes the state conservative where it can't be
    /// trusted.
    pub(crate) fn adopt(&self, now: Instant, distrust: impl FnOnce(&mut S)) {
        let mut adoption = self.adoption.lock();
        let again = adoption
            .last
            .is_some_and(|last| now.duration_since(last) < SUSPICIOUS)
            && adoption.count > 1
            && adoption.revision == adoption.revision_at_last;
        adoption.count += 1;
        adoption.last = Some(now);
        adoption.revision_at_last = adoption.revision;
        drop(adoption);
        if self.dirty.load(Ordering::Relaxed) || again {
            self.update(distrust);
        }
    }
}
