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

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use seawall_actors::error::{Rejected, Rejection, StartError};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::ask::{Fallback, Reply, ReplyBody, ReplyStream, Report};
use super::attempt::LARGEST_ANSWER;
use crate::cache::CacheKey;
use crate::error::Error;
use crate::profile::Profile;
use crate::provider::anthropic::StreamFailure;

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

#[derive(Debug)]
struct Flight {
    board: Arc<Board>,
    /// When its call began.
    began: Instant,
    state: Mutex<State>,
    /// Bytes that it holds.
    held: AtomicUsize,
}

impl Flight {
    fn holds(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.board.held.fetch_add(bytes, Ordering::Relaxed);
    }

    fn lets_go(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.board.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let held = self.held.load(Ordering::Relaxed);
        self.board.held.fetch_sub(held, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
struct State {
    answer: Option<Answer>,
    events: VecDeque<Bytes>,
    /// How many came before these and were dropped.
    dropped: usize,
    /// Next event of each reader, in its place; of one that has left it is the last there can be.
    readers: Vec<usize>,
    /// Events are dropped when all have read them.
    is_lean: bool,
    /// The call's own task, where it waits for the slowest reader.
    reading: Option<Waker>,
    /// All events are there.
    over: bool,
    waiting: Vec<Waker>,
    /// How often those who wait were woken.
    round: u64,
}

#[derive(Debug, Clone)]
enum Answer {
    Whole(Head, Bytes),
    Stream(Head),
    Failed(Arc<Error>),
}

#[derive(Debug, Clone)]
struct Head {
    status: StatusCode,
    headers: HeaderMap,
    report: Report,
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
                let flight = Arc::new(Flight {
                    board: Arc::clone(&self.board),
                    began,
                    state: Mutex::default(),
                    held: AtomicUsize::new(0),
                });
                let landing = Landing {
                    key,
                    flight: Arc::clone(&flight),
                };
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

impl Flight {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        state.round = state.round.wrapping_add(1);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for waker in waiting {
            waker.wake();
        }
    }

    fn go_lean(&self) {
        let mut state = self.state.lock();
        state.is_lean = true;
        let bytes = state.drop_read();
        drop(state);
        self.lets_go(bytes);
    }

    /// Ready when the slowest reader has read everything.
    fn poll_read_by_all(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if state.events.is_empty() {
            return Poll::Ready(());
        }
        state.reading = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// The call's own task. Whatever becomes of it, its flight ends.
async fn fly<L, F>(landing: Landing, lead: L)
where
    L: FnOnce() -> F,
    F: Future<Output = Result<Reply, Error>>,
{
    let flight = Arc::clone(&landing.flight);
    let flown = AssertUnwindSafe(async {
        let Reply {
            status,
            headers,
            body,
            report,
        } = match lead().await {
            Ok(reply) => reply,
            Err(error) => return Some(Answer::Failed(Arc::new(error))),
        };
        let head = Head {
            status,
            headers,
            report,
        };
        let mut events = match body {
            ReplyBody::Whole(body) => {
                flight.holds(body.len());
                return Some(Answer::Whole(head, body));
            }
            ReplyBody::Stream(events) => events,
        };
        let call = Arc::clone(&head.report.call);
        flight.change(|state| state.answer = Some(Answer::Stream(head)));
        let (mut bytes, mut is_lean) = (0_usize, false);
        while let Some(more) = events.next().await {
            bytes = bytes.saturating_add(more.len());
            if bytes > LARGEST_ANSWER {
                let last = last_event(&call, "more than 64 MiB of events", "malformed");
                flight.change(|state| state.events.push_back(last));
                break;
            }
            flight.holds(more.len());
            flight.change(|state| state.events.push_back(more));
            if !is_lean && flight.board.holds_too_much() {
                is_lean = true;
                flight.board.close(landing.key, &flight);
                flight.go_lean();
            }
            if is_lean {
                poll_fn(|cx| flight.poll_read_by_all(cx)).await;
            }
        }
        None
    });
    match flown.catch_unwind().await {
        Ok(answer) => landing.land(answer),
        Err(panic) => {
            let said = said(&*panic);
            landing.land(Some(Answer::Failed(Arc::new(Error::Panicked(said)))));
        }
    }
}

/// Ends its flight, at the latest when the task is dropped.
struct Landing {
    key: FlightKey,
    flight: Arc<Flight>,
}

impl Landing {
    /// With the answer, unless it is a stream that has come already.
    fn land(self, answer: Option<Answer>) {
        self.flight.board.remove(self.key, &self.flight);
        self.flight.change(|state| state.end(answer));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flight.board.remove(self.key, &self.flight);
        if !self.flight.state.lock().over {
            let stopped = Error::Refused(Rejected::new(Rejection::Stopped));
            let stopped = Answer::Failed(Arc::new(stopped));
            self.flight.change(|state| state.end(Some(stopped)));
        }
    }
}

impl State {
    /// Notes that the reader in this place has read so many events. Returns the bytes that are held no
    /// longer.
    fn has_read(&mut self, place: usize, events: usize) -> usize {
        if let Some(read) = self.readers.get_mut(place) {
            *read = events;
        }
        self.drop_read()
    }

    /// Drops what all have read, where the flight is lean, and wakes its task when that is all.
    fn drop_read(&mut self) -> usize {
        if !self.is_lean {
            return 0;
        }
        let slowest = self.readers.iter().copied().min().unwrap_or(usize::MAX);
        let read = slowest.saturating_sub(self.dropped).min(self.events.len());
        self.dropped += read;
        let bytes = self.events.drain(..read).map(|events| events.len()).sum();
        if self.events.is_empty()
            && let Some(task) = self.reading.take()
        {
            task.wake();
        }
        bytes
    }

    fn end(&mut self, answer: Option<Answer>) {
        self.over = true;
        match (&self.answer, answer) {
            (Some(Answer::Stream(head)), Some(Answer::Failed(error))) => {
                let reason = error.verdict().label;
                let last = last_event(&head.report.call, &error.to_string(), reason);
                self.events.push_back(last);
            }
            (None, answer) => self.answer = answer,
            _ => {}
        }
    }
}

fn last_event(call: &str, why: &str, reason: &str) -> Bytes {
    let failure = StreamFailure {
        error_type: "api_error",
        message: &format!("seawall: {why}"),
        reason,
        call,
        request_id: None,
    };
    failure.event().into()
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned())
}

/// One call's place in a flight.
pub(super) struct Subscriber {
    key: FlightKey,
    flight: Arc<Flight>,
    /// Its place among the readers, and the number of events that it has read.
    place: usize,
    next: usize,
    /// In which round it waits, and who is woken.
    waits: Option<(u64, Waker)>,
}

impl Subscriber {
    fn of(key: FlightKey, flight: Arc<Flight>) -> Self {
        let mut state = flight.state.lock();
        let place = state.readers.len();
        state.readers.push(0);
        drop(state);
        Self {
            key,
            flight,
            place,
            next: 0,
            waits: None,
        }
    }

    /// When the call that is made began.
    pub(super) fn flight_began(&self) -> Instant {
        self.flight.began
    }

    /// The answer of the call that is made, or its error.
    pub(super) async fn reply(mut self) -> Result<Reply, Error> {
        let answer = poll_fn(|cx| self.poll(cx, |state, _| state.answer.clone())).await;
        let (head, body) = match answer {
            Answer::Whole(head, body) => (head, ReplyBody::Whole(body)),
            Answer::Stream(head) => {
                let events = ReplyStream::shared(Box::new(self));
                (head, ReplyBody::Stream(events))
            }
            Answer::Failed(error) => return Err(copy(&error)),
        };
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body,
            report: head.report,
        })
    }

    /// The next events, or the end.
    pub(super) fn poll_events(&mut self, cx: &Context<'_>) -> Poll<Option<Bytes>> {
        let (place, mut bytes) = (self.place, 0);
        let polled = self.poll(cx, |state, next| {
            let held = next.checked_sub(state.dropped);
            let events = held.and_then(|at| state.events.get(at)).cloned();
            match events {
                Some(events) => {
                    bytes = state.has_read(place, next + 1);
                    Some(Some(events))
                }
                None => state.over.then_some(None),
            }
        });
        if let Poll::Ready(Some(_)) = polled {
            self.next += 1;
        }
        self.flight.lets_go(bytes);
        polled
    }

    fn poll<T>(
        &mut self,
        cx: &Context<'_>,
        look: impl FnOnce(&mut State, usize) -> Option<T>,
    ) -> Poll<T> {
        let mut state = self.flight.state.lock();
        if let Some(found) = look(&mut state, self.next) {
            return Poll::Ready(found);
        }
        // Polled again in between, it is in the list already.
        let waits = self.waits.as_ref();
        if waits.is_none_or(|(round, waker)| *round != state.round || !waker.will_wake(cx.waker()))
        {
            state.waiting.push(cx.waker().clone());
            self.waits = Some((state.round, cx.waker().clone()));
        }
        Poll::Pending
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let bytes = self.flight.state.lock().has_read(self.place, usize::MAX);
        self.flight.lets_go(bytes);
        self.flight.board.leave(self.key, &self.flight);
    }
}

impl fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscriber")
            .field("key", &self.key)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

/// The same error for one more call.
fn copy(error: &Error) -> Error {
    match error {
        Error::Provider {
            status,
            headers,
            body,
            judged,
            credential_source,
            report,
        } => Error::Provider {
            status: *status,
            headers: headers.clone(),
            body: body.clone(),
            judged: judged.clone(),
            credential_source: credential_source.clone(),
            report: report.clone(),
        },
        Error::Capped {
            judged,
            credential_source,
            looked_at_in,
            report,
        } => Error::Capped {
            judged: judged.clone(),
            credential_source: credential_source.clone(),
            looked_at_in: *looked_at_in,
            report: report.clone(),
        },
        Error::Unanswered { judged, report } => Error::Unanswered {
            judged: judged.clone(),
            report: report.clone(),
        },
        Error::Interrupted {
            judged,
            partial,
            usage_so_far,
            report,
        } => Error::Interrupted {
            judged: judged.clone(),
            partial: partial.clone(),
            usage_so_far: usage_so_far.clone(),
            report: report.clone(),
        },
        Error::Refused(rejected) => Error::Refused(rejected.clone()),
        Error::BadRequest(bad) => Error::BadRequest(bad.clone()),
        Error::UnknownRoute(route) => Error::UnknownRoute(route.clone()),
        Error::Unfit(misfits) => Error::Unfit(misfits.clone()),
        Error::NoCredential => Error::NoCredential,
        Error::BadAddress(address) => Error::BadAddress(address.clone()),
        Error::Invalid(invalid) => Error::Invalid(invalid.clone()),
        Error::NoTarget(why) => Error::NoTarget(match why {
            StartError::Invalid(invalid) => StartError::Invalid(invalid.clone()),
            StartError::Stopped => StartError::Stopped,
            StartError::TooMany(most) => StartError::TooMany(*most),
            StartError::Actor(why) => StartError::Actor(why.clone()),
            why => StartError::Actor(why.to_string()),
        }),
        Error::Panicked(why) => Error::Panicked(why.clone()),
    }
}

#[cfg(test)]
mod tests;
