//! Single flight: calls that ask the same at the same time share one attempt.
//!
//! Who asks first leads: its call runs in a task of its own and is read into a buffer, from which
//! everybody takes the answer from its start, at their own pace. One who leaves disturbs nobody; when
//! the last has left, the call is dropped. A flight that has ended is found by nobody: who comes
//! later starts anew.
//!
//! Memory: an answer, up to 64 MiB, is held until its last reader has gone. While all of them together
//! hold too much, calls are made alone.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
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
    pub(super) streams: bool,
    /// How long it may take is another's question too.
    pub(super) profile: Profile,
    pub(super) fallback: Fallback,
}

/// The calls that are shared at this moment. Cloning shares them.
#[derive(Debug, Clone)]
pub(super) struct Flights {
    board: Arc<Board>,
}

/// Bytes that all flights may hold before no further one begins.
const MOST_HELD: usize = 256 << 20;

#[derive(Debug)]
struct Board {
    most: usize,
    /// Bytes of answers that flights hold.
    held: AtomicUsize,
    flights: Mutex<HashMap<FlightKey, Listed>>,
}

#[derive(Debug)]
struct Listed {
    flight: Arc<Flight>,
    subscribers: usize,
    task: AbortHandle,
}

#[derive(Debug)]
struct Flight {
    board: Arc<Board>,
    state: Mutex<State>,
    /// Bytes that it holds.
    held: AtomicUsize,
}

impl Flight {
    fn holds(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.board.held.fetch_add(bytes, Ordering::Relaxed);
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
    events: Vec<Bytes>,
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

/// An answer, and whether another call brought it.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) reply: Result<Reply, Error>,
    pub(super) shared: bool,
}

impl Flights {
    /// `most` flights at once; beyond them calls are made alone.
    pub(super) fn new(most: usize) -> Self {
        let board = Board {
            most,
            held: AtomicUsize::new(0),
            flights: Mutex::default(),
        };
        Self {
            board: Arc::new(board),
        }
    }

    /// Answers a call by one that is on its way already, or else by making it. An error reaches all
    /// who wait; so does a panic of the call.
    ///
    /// The report and the headers are those of the call that was made. Dropping the future, or later
    /// the reply's stream, ends that call only where nobody else reads it.
    pub(super) async fn join<L, F>(&self, key: FlightKey, lead: L) -> Joined
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Reply, Error>> + Send + 'static,
    {
        let (subscriber, shared) = match self.subscribe(key, lead) {
            Ok(subscribed) => subscribed,
            Err(lead) => {
                return Joined {
                    reply: lead().await,
                    shared: false,
                };
            }
        };
        let reply = subscriber.reply().await;
        Joined { reply, shared }
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

    /// Hands the call back where there are too many flights to begin another.
    fn subscribe<L, F>(&self, key: FlightKey, lead: L) -> Result<(Subscriber, bool), L>
    where
        L: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<Reply, Error>> + Send + 'static,
    {
        let mut flights = self.board.flights.lock();
        let is_full =
            flights.len() >= self.board.most || self.board.held.load(Ordering::Relaxed) > MOST_HELD;
        let (flight, shared) = match flights.entry(key) {
            Entry::Occupied(mut listed) => {
                let listed = listed.get_mut();
                listed.subscribers += 1;
                (Arc::clone(&listed.flight), true)
            }
            Entry::Vacant(_) if is_full => return Err(lead),
            Entry::Vacant(place) => {
                let flight = Arc::new(Flight {
                    board: Arc::clone(&self.board),
                    state: Mutex::default(),
                    held: AtomicUsize::new(0),
                });
                let landing = Landing {
                    board: Arc::clone(&self.board),
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
                    task: task.abort_handle(),
                });
                (flight, false)
            }
        };
        drop(flights);
        let subscriber = Subscriber {
            board: Arc::clone(&self.board),
            key,
            flight,
            next: 0,
            waits: None,
        };
        Ok((subscriber, shared))
    }
}

impl Board {
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
        let mut bytes = 0_usize;
        while let Some(more) = events.next().await {
            bytes = bytes.saturating_add(more.len());
            if bytes > LARGEST_ANSWER {
                let last = last_event(&call, "more than 64 MiB of events", "malformed");
                flight.change(|state| state.events.push(last));
                break;
            }
            flight.holds(more.len());
            flight.change(|state| state.events.push(more));
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
    board: Arc<Board>,
    key: FlightKey,
    flight: Arc<Flight>,
}

impl Landing {
    /// With the answer, unless it is a stream that has come already.
    fn land(self, answer: Option<Answer>) {
        self.board.remove(self.key, &self.flight);
        self.flight.change(|state| state.end(answer));
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.board.remove(self.key, &self.flight);
        if !self.flight.state.lock().over {
            let stopped = Error::Refused(Rejected::new(Rejection::Stopped));
            let stopped = Answer::Failed(Arc::new(stopped));
            self.flight.change(|state| state.end(Some(stopped)));
        }
    }
}

impl State {
    fn end(&mut self, answer: Option<Answer>) {
        self.over = true;
        match (&self.answer, answer) {
            (Some(Answer::Stream(head)), Some(Answer::Failed(error))) => {
                let reason = error.verdict().label;
                let last = last_event(&head.report.call, &error.to_string(), reason);
                self.events.push(last);
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
    board: Arc<Board>,
    key: FlightKey,
    flight: Arc<Flight>,
    /// Events that it has read.
    next: usize,
    /// In which round it waits, and who is woken.
    waits: Option<(u64, Waker)>,
}

impl Subscriber {
    async fn reply(mut self) -> Result<Reply, Error> {
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
        let polled = self.poll(cx, |state, next| match state.events.get(next) {
            Some(events) => Some(Some(events.clone())),
            None => state.over.then_some(None),
        });
        if let Poll::Ready(Some(_)) = polled {
            self.next += 1;
        }
        polled
    }

    fn poll<T>(
        &mut self,
        cx: &Context<'_>,
        look: impl FnOnce(&State, usize) -> Option<T>,
    ) -> Poll<T> {
        let mut state = self.flight.state.lock();
        if let Some(found) = look(&state, self.next) {
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
        self.board.leave(self.key, &self.flight);
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
