//! Single flight: calls that ask the same at the same time share one attempt.
//!
//! Who asks first leads: its call runs in a task of its own and is read into a buffer, from which
//! everybody takes the answer from its start, at their own pace. One who leaves disturbs nobody; when
//! the last has left, the call is dropped. A flight that has ended is found by nobody: who comes
//! later starts anew. A failure that was only its own call's is nobody else's: they may board again,
//! and the first of them leads.
//!
//! Memory: an answer, up to 64 MiB, is held until its last reader has gone. While all of them together
//! hold too much, calls are made alone, and a stream that is under way goes lean: nobody joins it any
//! more, it drops what all have read, and reads on as its slowest reader does.

mod flight;
mod subscriber;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::ask::{Fallback, Reply};
use crate::cache::CacheKey;
use crate::error::Error;
use crate::profile::Profile;

pub(super) use subscriber::Subscriber;

use flight::{Flight, Landing, fly};

/// What calls that share an attempt have in common. One that streams cannot share with one that does
/// not: what comes to the one in pieces would come to the other late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FlightKey {
    pub(super) request: CacheKey,
    /// Who asks, where the request does not say it: the credential and the quota are theirs.
    pub(super) asker: Option<[u8; 32]>,
    pub(super) streams: bool,
    /// As the caller names it: a route's own limits are not those of its profile.
    pub(super) profile: Option<Profile>,
    pub(super) fallback: Fallback,
    /// Whether the caller's own loop sends it again: it makes fewer attempts.
    pub(super) is_resent: bool,
}

/// The calls that are shared at this moment. Cloning shares them.
#[derive(Debug, Clone)]
pub(super) struct Flights {
    board: Arc<Board>,
}

/// Bytes that all flights may hold before no further one begins.
pub(super) const MOST_HELD: usize = 256 << 20;

#[derive(Debug)]
struct Board {
    most: usize,
    most_held: usize,
    /// Bytes of answers that flights hold.
    held: AtomicUsize,
    flights: Mutex<HashMap<FlightKey, Listed>>,
}

#[derive(Debug)]
struct Listed {
    flight: Arc<Flight>,
    subscribers: usize,
    /// It is lean: the start of its answer may be gone.
    is_closed: bool,
    task: AbortHandle,
}

/// A call's place among those that are shared.
pub(super) enum Boarded<L> {
    /// There are too many flights to begin another: the call is made alone.
    Alone(L),
    /// The call is made, and others may share it.
    Leads(Subscriber),
    /// Another call is on its way already; this one is made if that fails for reasons of its own.
    Follows(Subscriber, L),
}

impl Flights {
    /// `most` flights at once, and beside them none while they hold more than `most_held` bytes: calls
    /// are made alone then.
    pub(super) fn new(most: usize, most_held: usize) -> Self {
        let board = Board {
            most,
            most_held,
            held: AtomicUsize::new(0),
            flights: Mutex::default(),
        };
        Self {
            board: Arc::new(board),
        }
    }

    /// Flights at this moment.
    pub(super) fn len(&self) -> usize {
        self.board.flights.lock().len()
    }

    /// Calls that take their answer from one of them.
    pub(super) fn subscribers(&self) -> usize {
        let flights = self.board.flights.lock();
        flights.values().map(|listed| listed.subscribers).sum()
    }

    /// Takes a call that began at `began` aboard one that is on its way already, or else begins it.
    ///
    /// The reply's report and headers are those of the call that was made, and so are its error and
    /// its panic. Dropping the subscriber, or later the reply's stream, ends that call only where
    /// nobody else reads it.
    pub(super) fn board<L, F>(&self, key: FlightKey, began: Instant, lead: L) -> Boarded<L>
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Reply, Error>> + Send + 'static,
    {
        let mut flights = self.board.flights.lock();
        let is_full = flights.len() >= self.board.most || self.board.holds_too_much();
        match flights.entry(key) {
            Entry::Occupied(listed) if listed.get().is_closed => Boarded::Alone(lead),
            Entry::Occupied(mut listed) => {
                let listed = listed.get_mut();
                listed.subscribers += 1;
                let flight = Arc::clone(&listed.flight);
                Boarded::Follows(Subscriber::of(key, flight), lead)
            }
            Entry::Vacant(_) if is_full => Boarded::Alone(lead),
            Entry::Vacant(place) => {
                let flight = Arc::new(Flight::new(Arc::clone(&self.board), began));
                let landing = Landing::new(key, Arc::clone(&flight));
                #[expect(
                    clippy::disallowed_methods,
                    reason = "ends with its call, or with the last subscriber"
                )]
                let task = tokio::spawn(fly(landing, lead));
                place.insert(Listed {
                    flight: Arc::clone(&flight),
                    subscribers: 1,
                    is_closed: false,
                    task: task.abort_handle(),
                });
                Boarded::Leads(Subscriber::of(key, flight))
            }
        }
    }
}

impl Board {
    fn holds_too_much(&self) -> bool {
        self.held.load(Ordering::Relaxed) > self.most_held
    }

    /// Lets nobody join a flight any more.
    fn close(&self, key: FlightKey, flight: &Arc<Flight>) {
        if let Some(listed) = self.flights.lock().get_mut(&key)
            && Arc::ptr_eq(&listed.flight, flight)
        {
            listed.is_closed = true;
        }
    }

    /// Takes a flight off the board, so that who comes now starts anew.
    fn remove(&self, key: FlightKey, flight: &Arc<Flight>) {
        let mut flights = self.flights.lock();
        let removed = match flights.entry(key) {
            Entry::Occupied(listed) if Arc::ptr_eq(&listed.get().flight, flight) => {
                Some(listed.remove())
            }
            _ => None,
        };
        // What it holds ends outside of the lock.
        drop(flights);
        drop(removed);
    }

    /// One subscriber has left. With the last one the call ends, unless it has ended by itself.
    fn leave(&self, key: FlightKey, flight: &Arc<Flight>) {
        let mut flights = self.flights.lock();
        let Entry::Occupied(mut listed) = flights.entry(key) else {
            return;
        };
        if !Arc::ptr_eq(&listed.get().flight, flight) {
            return;
        }
        let subscribers = &mut listed.get_mut().subscribers;
        *subscribers = subscribers.saturating_sub(1);
        if *subscribers > 0 {
            return;
        }
        let removed = listed.remove();
        drop(flights);
        removed.task.abort();
    }
}

#[cfg(test)]
mod tests;
