//! A streamed answer on its way to the client.
//!
//! The provider's bytes pass unchanged, cut only between events: half an event is held back until
//! it is whole, so that a stream that breaks off can still end in a valid `error` event. The end
//! is clean only after `message_stop`. Held: at most one event beyond what the client has read.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use jiff::Timestamp;
use seawall_actors::permit::Permit;
use seawall_actors::verdict::Verdict;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::attempt::settle;
use super::exchange::{Exchange, LastAttempt, Prepared};
use crate::provider::anthropic::error_event;
use crate::provider::anthropic::stream::{End, Seen, StreamWatch};
use crate::provider::anthropic::usage::Tokens;
use crate::transport::sse::SseDecoder;
use crate::transport::{Body, TransportError};
use crate::verdict::{Judged, Timeout, judge_broken, judge_timeout, judge_truncated};

/// How long a stream may take to close after its `error` event.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// A stream and everything that has to end with it.
#[derive(Debug)]
pub(super) struct Watched {
    exchange: Arc<Exchange>,
    prepared: Arc<Prepared>,
    body: Body,
    decoder: SseDecoder,
    watch: StreamWatch,
    /// Whole events that the client has not read.
    ready: VecDeque<Bytes>,
    /// The start of an event whose end has not come.
    partial: BytesMut,
    committed: Option<Committed>,
    first_content: Option<Instant>,
    last_event: Instant,
    queued: Duration,
    backed_off: Duration,
    request_id: Option<String>,
    ended: bool,
}

#[derive(Debug)]
struct Committed {
    permit: Option<Permit>,
    number: u32,
    status: u16,
    alarm: Pin<Box<Sleep>>,
}

impl Watched {
    pub(super) fn new(exchange: Arc<Exchange>, prepared: Arc<Prepared>, body: Body) -> Self {
        Self {
            exchange,
            prepared,
            body,
            decoder: SseDecoder::new(),
            watch: StreamWatch::new(),
            ready: VecDeque::new(),
            partial: BytesMut::new(),
            committed: None,
            first_content: None,
            last_event: Instant::now(),
            queued: Duration::ZERO,
            backed_off: Duration::ZERO,
            request_id: None,
            ended: false,
        }
    }

    /// Whether content has come, or the whole answer without any.
    pub(super) const fn is_committed(&self) -> bool {
        self.watch.has_content() || self.watch.is_stopped()
    }

    /// Whether the provider itself has said that it failed.
    pub(super) fn has_error(&self) -> bool {
        self.watch.error().is_some()
    }

    /// Reads one chunk before the commit; `false` at a whole answer's end. Cancel safe.
    pub(super) async fn read_one(&mut self) -> Result<bool, Judged> {
        let Some(chunk) = self.body.next().await else {
            self.ended = true;
            return match self.watch.end() {
                End::Complete => Ok(false),
                End::Truncated | End::Failed => Err(self.watch.judge()),
            };
        };
        let chunk = chunk.map_err(|broken: TransportError| judge_broken(broken.kind))?;
        self.take(&chunk)?;
        match self.watch.error() {
            Some(error) if !self.is_committed() => Err(error.clone()),
            _ => Ok(true),
        }
    }

    /// Everything that came, for an answer that turned out to be the provider's own error. The
    /// rest of it is on its way, if there is any.
    pub(super) async fn into_bytes(mut self) -> Bytes {
        let rest = async { while let Ok(true) = self.read_rest().await {} };
        // Err means that the provider keeps the connection open after its last word.
        drop(timeout_at(Instant::now() + LAST_WORDS, rest).await);
        let mut all = BytesMut::new();
        for chunk in &self.ready {
            all.extend_from_slice(chunk);
        }
        all.extend_from_slice(&self.partial);
        all.freeze()
    }

    async fn read_rest(&mut self) -> Result<bool, Judged> {
        match self.body.next().await {
            Some(Ok(chunk)) => self.take(&chunk).map(|()| true),
            _ => Ok(false),
        }
    }

    /// From here on the answer reaches the client as it comes.
    pub(super) fn commit(&mut self, permit: Permit, number: u32, status: u16) {
        let now = Instant::now();
        let alarm = Box::pin(sleep_until(now + self.exchange.timeouts.stall));
        self.last_event = now;
        self.first_content.get_or_insert(now);
        self.committed = Some(Committed {
            permit: Some(permit),
            number,
            status,
            alarm,
        });
    }

    /// Notes, for the call's record, what the call waited for before this answer.
    pub(super) fn waited(
        &mut self,
        queued: Duration,
        backed_off: Duration,
        request_id: Option<String>,
    ) {
        self.queued = queued;
        self.backed_off = backed_off;
        self.request_id = request_id;
    }

    /// Takes in a chunk: events that are whole become ready, the rest waits.
    fn take(&mut self, chunk: &Bytes) -> Result<(), Judged> {
        let (watch, now) = (&mut self.watch, Timestamp::now());
        let mut alive = false;
        let whole = self.decoder.push(chunk, |frame| {
            alive |= watch.see(frame, now) != Seen::Ping;
        });
        let Ok(whole) = whole else {
            return Err(judge_truncated());
        };
        if alive {
            self.last_event = Instant::now();
        }
        if self.watch.has_content() && self.first_content.is_none() {
            self.first_content = Some(Instant::now());
        }
        if whole == 0 {
            self.partial.extend_from_slice(chunk);
            return Ok(());
        }
        let events = chunk.slice(..whole);
        if self.partial.is_empty() {
            self.ready.push_back(events);
        } else {
            self.partial.extend_from_slice(&events);
            self.ready.push_back(self.partial.split().freeze());
        }
        self.partial
            .extend_from_slice(chunk.get(whole..).unwrap_or_default());
        Ok(())
    }

    /// The next bytes for the client.
    pub(super) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Poll::Ready(Some(ready));
            }
            if self.ended {
                self.settle_clean_end();
                return Poll::Ready(None);
            }
            match self.body.poll_next_unpin(cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    self.wind(Instant::now());
                    if let Err(judged) = self.take(&chunk) {
                        self.break_off(judged);
                    }
                }
                Poll::Ready(Some(Err(broken))) => self.break_off(judge_broken(broken.kind)),
                Poll::Ready(None) => match self.watch.end() {
                    End::Complete => {
                        // What stands after the last whole event, such as a comment, is the provider's too.
                        let rest = self.partial.split().freeze();
                        self.ended = true;
                        if !rest.is_empty() {
                            self.ready.push_back(rest);
                        }
                    }
                    End::Failed => self.fail_as_said(),
                    End::Truncated => self.break_off(judge_truncated()),
                },
                Poll::Pending => match self.poll_alarm(cx) {
                    Poll::Ready(()) => self.break_off(judge_timeout(Timeout::Stall)),
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }

    fn wind(&mut self, now: Instant) {
        let timeouts = &self.exchange.timeouts;
        let by = (now + timeouts.stall).min(self.last_event + timeouts.events);
        let by = by.min(self.exchange.began + timeouts.total);
        if let Some(committed) = &mut self.committed {
            committed.alarm.as_mut().reset(by);
        }
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.committed {
            Some(committed) => committed.alarm.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }

    /// Ends a committed stream that broke: with the provider's `error` event, never cleanly.
    fn break_off(&mut self, judged: Judged) {
        if self.ended {
            return;
        }
        self.ended = true;
        self.partial.clear();
        let error_type = match judged.verdict.blame {
            seawall_actors::verdict::Blame::Network => "api_error",
            _ => "overloaded_error",
        };
        let event = error_event(error_type, &judged.message, None);
        self.ready.push_back(Bytes::from(event));
        self.settle(&judged.verdict);
    }

    /// The provider itself ended the stream with an error, which the client has.
    fn fail_as_said(&mut self) {
        self.ended = true;
        let verdict = self.watch.judge().verdict;
        self.settle(&verdict);
    }

    fn settle_clean_end(&mut self) {
        if self.watch.end() == End::Complete {
            self.settle(&Verdict::OK);
        }
    }

    /// What was used, as far as it is known.
    fn tokens(&self) -> Tokens {
        let billed = self.watch.usage().billed();
        Tokens {
            output: self.watch.output_floor(),
            ..billed
        }
    }

    /// Ends the attempt, once.
    fn settle(&mut self, verdict: &Verdict) {
        let Some(committed) = &mut self.committed else {
            return;
        };
        let Some(permit) = committed.permit.take() else {
            return;
        };
        let (number, status) = (committed.number, committed.status);
        let tokens = self.tokens();
        if verdict.is_ok() {
            self.exchange.learn_usage(&self.prepared, tokens);
        }
        let rungs = &self.exchange.rungs;
        *self.exchange.last.lock() = LastAttempt {
            status,
            label: verdict.label,
            attempts: number,
            rung: rungs
                .iter()
                .position(|rung| Arc::ptr_eq(rung, &self.prepared))
                .unwrap_or_default(),
        };
        self.exchange
            .telemetry
            .attempt(&self.prepared.name, status, verdict.label);
        let mut record = self.exchange.record();
        record.first_content = self.first_content;
        record.tokens = tokens;
        record.queued = self.queued;
        record.backed_off = self.backed_off;
        record.request_id = self.request_id.take();
        record.estimated = !verdict.is_ok();
        self.exchange.finish(&record);
        settle(permit, verdict, tokens);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.settle(&Verdict::DEPARTED);
    }
}
