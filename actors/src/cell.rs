//! State that outlives its actor.
//!
//! A [`Cell`] is owned by the system and handed to each incarnation of an actor. The actor changes the
//! state; others read it, and change it only where nothing has to be ordered, waited for or told
//! ([`Cell::try_update`]), by the same policy. What callers *tell* an actor (a settled permit, a finished
//! attempt) goes into the cell's notes first and only then rings the actor, because ractor loses a
//! mailbox with its actor: a note is taken exactly once, by whichever incarnation comes next.
//!
//! A change marks the cell dirty before and clean after. Whoever adopts a dirty cell, or one whose
//! last two owners died without changing it, can't trust what it holds and starts conservative.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

/// Two deaths on one unchanged state closer than this mean that the state itself may kill.
const SUSPICIOUS: Duration = Duration::from_secs(1);

/// Looks at a lock that is held, with a pause of 10 to 45 ns in between, by processor.
const SPINS: u32 = 40;

/// State `S` of one actor and the notes `N` it has yet to read.
#[derive(Debug)]
pub(crate) struct Cell<S, N> {
    state: Mutex<S>,
    dirty: AtomicBool,
    notes: Mutex<Vec<N>>,
    /// There are notes. Mostly there are none, and a look costs less than the lock.
    noted: AtomicBool,
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
            noted: AtomicBool::new(false),
            adoption: Mutex::new(Adoption::default()),
        }
    }

    /// Leaves a note. Says whether the actor has to be rung: it is already coming for the others.
    pub(crate) fn note(&self, note: N) -> bool {
        let mut notes = self.notes.lock();
        notes.push(note);
        self.noted.store(true, Ordering::Release);
        notes.len() == 1
    }

    /// Takes the notes left so far, in order.
    pub(crate) fn take_notes(&self) -> Vec<N> {
        // A note that comes right after this look rings the actor.
        if !self.noted.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut notes = self.notes.lock();
        self.noted.store(false, Ordering::Release);
        std::mem::take(&mut *notes)
    }

    /// Changes the state. For the owning actor alone.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut S) -> R) -> R {
        let mut state = self.state.lock();
        self.dirty.store(true, Ordering::Relaxed);
        let result = change(&mut state);
        self.dirty.store(false, Ordering::Relaxed);
        result
    }

    /// Changes the state from outside its actor, together with the notes left for it, where nobody is
    /// in the way. `None`, and nothing changed, while another has the state or it can't be trusted.
    pub(crate) fn try_update<R>(&self, change: impl FnOnce(&mut S, Vec<N>) -> R) -> Option<R> {
        let mut state = self.lock_soon()?;
        if self.dirty.swap(true, Ordering::Relaxed) {
            return None;
        }
        let result = change(&mut state, self.take_notes());
        self.dirty.store(false, Ordering::Relaxed);
        Some(result)
    }

    /// The lock, if it comes free within about a microsecond: a change takes less, and a message to
    /// the actor, with all that then wait for it too, costs more.
    fn lock_soon(&self) -> Option<MutexGuard<'_, S>> {
        for _ in 0..SPINS {
            // Looking leaves the line with whoever has the lock; trying would take it away.
            if !self.state.is_locked()
                && let Some(state) = self.state.try_lock()
            {
                return Some(state);
            }
            std::hint::spin_loop();
        }
        self.state.try_lock()
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

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn trap_58_a_change_that_panics_halfway_is_never_trusted() {
        let cell: Cell<[u32; 2], ()> = Cell::new([1, 1]);
        let now = Instant::now();
        cell.adopt(now, |_| panic!("nobody has died yet"));
        let halfway = catch_unwind(AssertUnwindSafe(|| {
            cell.update(|state| {
                state[0] = 2;
                panic!("between two halves of one change");
            })
        }));
        assert!(halfway.is_err());
        let long_after = now + SUSPICIOUS * 100;
        cell.adopt(long_after, |state| *state = [0, 0]);
        assert_eq!(cell.read(|state| *state), [0, 0]);
        // Trusted again, since it was made conservative.
        cell.adopt(long_after + SUSPICIOUS * 100, |_| panic!("it is whole"));
    }

    #[test]
    fn trap_58_a_state_that_kills_its_owner_twice_is_not_tried_a_third_time() {
        let cell: Cell<u32, ()> = Cell::new(1);
        let now = Instant::now();
        let after = |ms| now + Duration::from_millis(ms);
        cell.adopt(now, |_| panic!("the first owner"));
        cell.adopt(after(10), |_| panic!("one death may be chance"));
        cell.adopt(after(20), |state| *state = 0);
        assert_eq!(cell.read(|state| *state), 0);
    }

    #[test]
    fn trap_52_each_note_is_taken_once_whoever_takes_it() {
        let cell: Cell<(), u32> = Cell::new(());
        assert!(cell.note(1), "the first note rings");
        assert!(!cell.note(2), "the actor is coming already");
        assert_eq!(cell.take_notes(), [1, 2]);
        assert!(cell.take_notes().is_empty());
        assert!(cell.note(3));
    }
}
