//! A call's place in a flight: it reads the answer at its own pace.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use tokio::time::Instant;

use super::FlightKey;
use super::flight::{Answer, Flight, State};
use crate::client::ask::{Reply, ReplyBody, ReplyStream};
use crate::error::Error;

/// One call's place in a flight.
pub(in crate::client) struct Subscriber {
    key: FlightKey,
    flight: Arc<Flight>,
    /// Its place among the readers, and the number of events that it has read.
    place: usize,
    next: usize,
    /// In which round it waits, and who is woken.
    waits: Option<(u64, Waker)>,
}

impl Subscriber {
    pub(super) fn of(key: FlightKey, flight: Arc<Flight>) -> Self {
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
    pub(in crate::client) fn flight_began(&self) -> Instant {
        self.flight.began
    }

    /// The answer of the call that is made, or its error.
    pub(in crate::client) async fn reply(mut self) -> Result<Reply, Error> {
        let answer = poll_fn(|cx| self.poll(cx, |state, _| state.answer.clone())).await;
        let (head, body) = match answer {
            Answer::Whole(head, body) => (head, ReplyBody::Whole(body)),
            Answer::Stream(head) => {
                let events = ReplyStream::shared(Box::new(self));
                (head, ReplyBody::Stream(events))
            }
            Answer::Failed(error) => return Err((*error).clone()),
        };
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body,
            report: head.report,
        })
    }

    /// The next events, or the end.
    pub(in crate::client) fn poll_events(&mut self, cx: &Context<'_>) -> Poll<Option<Bytes>> {
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
