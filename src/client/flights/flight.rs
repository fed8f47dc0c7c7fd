//! A call that others share, and its answer as far as it has come.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use seawall_actors::error::{Rejected, Rejection};
use tokio::time::Instant;

use super::{Board, FlightKey};
use crate::client::ask::{Reply, ReplyBody, Report};
use crate::client::attempt::LARGEST_ANSWER;
use crate::error::Error;
use crate::provider::anthropic::StreamFailure;

#[derive(Debug)]
pub(super) struct Flight {
    pub(super) board: Arc<Board>,
    /// When its call began.
    pub(super) began: Instant,
    pub(super) state: Mutex<State>,
    /// Bytes that it holds.
    held: AtomicUsize,
}

impl Flight {
    /// One whose call began at `began`.
    pub(super) fn new(board: Arc<Board>, began: Instant) -> Self {
        Self {
            board,
            began,
            state: Mutex::default(),
            held: AtomicUsize::new(0),
        }
    }

    fn holds(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.board.held.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn lets_go(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.board.held.fetch_sub(bytes, Ordering::Relaxed);
    }

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

impl Drop for Flight {
    fn drop(&mut self) {
        let held = self.held.load(Ordering::Relaxed);
        self.board.held.fetch_sub(held, Ordering::Relaxed);
    }
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) answer: Option<Answer>,
    pub(super) events: VecDeque<Bytes>,
    /// How many came before these and were dropped.
    pub(super) dropped: usize,
    /// Next event of each reader, in its place; of one that has left it is the last there can be.
    pub(super) readers: Vec<usize>,
    /// Events are dropped when all have read them.
    is_lean: bool,
    /// The call's own task, where it waits for the slowest reader.
    reading: Option<Waker>,
    /// All events are there.
    pub(super) over: bool,
    pub(super) waiting: Vec<Waker>,
    /// How often those who wait were woken.
    pub(super) round: u64,
}

#[derive(Debug, Clone)]
pub(super) enum Answer {
    Whole(Head, Bytes),
    Stream(Head),
    Failed(Arc<Error>),
}

#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) report: Report,
}

/// The call's own task. Whatever becomes of it, its flight ends.
pub(super) async fn fly<L, F>(landing: Landing, lead: L)
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
pub(super) struct Landing {
    key: FlightKey,
    flight: Arc<Flight>,
}

impl Landing {
    pub(super) const fn new(key: FlightKey, flight: Arc<Flight>) -> Self {
        Self { key, flight }
    }

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
    pub(super) fn has_read(&mut self, place: usize, events: usize) -> usize {
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
