//! A streamed answer as it comes from the provider.
//!
//! The provider's bytes pass unchanged, cut only between events: half an event is held back until
//! it is whole, and a malformed one is not forwarded, so that a stream that breaks off can still end
//! in a valid `error` event. The end is clean only after `message_stop`.
//!
//! Memory: at most 16 KiB, what one read brought and one event beyond it (32 MiB, the provider's own
//! limit on a request) are held here, and nothing is read while the reader does not ask, so a slow
//! reader slows the provider. Before its release an answer is held whole, up to 64 MiB.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use jiff::Timestamp;
use seawall_actors::permit::Permit;
use seawall_actors::policy::quota::Cost;
use seawall_actors::verdict::{Blame, Verdict};
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::attempt::{LARGEST_ANSWER, from_inside, true_cost};
use super::exchange::{Exchange, Prepared};
use super::watchdog::Watchdog;
use crate::provider::anthropic::stream::{End, Seen, StreamWatch};
use crate::provider::anthropic::usage::Tokens;
use crate::transport::sse::SseDecoder;
use crate::transport::{Body, TransportError};
use crate::verdict::{
    Judged, Timeout, judge_broken, judge_draining, judge_malformed, judge_timeout,
};

/// Events of this many bytes are handed on without waiting for more: as much as a TLS record holds.
const ENOUGH: usize = 16 << 10;

/// Looks in vain before events are handed on. hyper looks twice in each of its turns, and only with
/// the next turn has the connection had one.
const LOOKS: u8 = 2;

/// Most looks that the first event waits for. A turn takes a microsecond or two.
const MOST_ROUNDS: u8 = 32;

/// Output beyond what was expected is charged in steps of this many tokens.
const OUTPUT_STEP: u64 = 256;

/// How long a stream may take to close after its last word.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// A stream and everything that has to end with it.
#[derive(Debug)]
pub(super) struct Watched {
    exchange: Arc<Exchange>,
    prepared: Arc<Prepared>,
    /// The attempt's number and rung.
    attempt: (u32, usize),
    body: Body,
    decoder: SseDecoder,
    watch: StreamWatch,
    dog: Watchdog,
    /// When the request was sent.
    sent: Instant,
    /// Whole events that nobody has read.
    ready: VecDeque<Bytes>,
    ready_bytes: usize,
    /// The start of an event whose end has not come.
    partial: BytesMut,
    gathering: Gathering,
    /// What the attempt's quota was charged so far.
    charged: Cost,
    released: Option<Released>,
    failed: Option<BrokenOff>,
    over: bool,
    billed: bool,
}

/// A provider's events come from the connection's own task one by one, also where they arrived
/// together. Whoever reads them steps back after each, so that the next can come, and hands on what
/// came.
#[derive(Debug, Default)]
struct Gathering {
    rounds: u8,
    /// Looks in a row that found nothing more.
    in_vain: u8,
}

impl Gathering {
    /// Whether to step back once more, where there is something to hand on.
    fn goes_on(&mut self, has_events: bool) -> bool {
        let goes_on = has_events && self.in_vain < LOOKS && self.rounds < MOST_ROUNDS;
        if goes_on {
            self.rounds += 1;
            self.in_vain += 1;
        }
        goes_on
    }
}

#[derive(Debug)]
struct Released {
    permit: Option<Permit>,
    alarm: Pin<Box<Sleep>>,
    /// The end of all streams.
    thrown: Pin<Box<OwnedNotified>>,
}

/// Why a stream ended before it was whole.
#[derive(Debug)]
pub(super) struct BrokenOff {
    pub(super) judged: Judged,
    /// The provider's own `error` event, if it sent one.
    pub(super) said: Option<Bytes>,
}

impl BrokenOff {
    pub(super) const fn of(judged: Judged) -> Self {
        Self { judged, said: None }
    }
}

impl Watched {
    pub(super) fn new(
        exchange: Arc<Exchange>,
        prepared: Arc<Prepared>,
        attempt: (u32, usize),
        (body, charged): (Body, Cost),
        (sent, deadline): (Instant, Instant),
    ) -> Self {
        let mut timeouts = exchange.timeouts;
        if timeouts.learn_first_content {
            timeouts.first_content = prepared
                .expectation
                .first_content_timeout(timeouts.first_content);
        }
        Self {
            exchange,
            prepared,
            attempt,
            body,
            decoder: SseDecoder::new(),
            watch: StreamWatch::new(),
            dog: Watchdog::new(timeouts, Instant::now(), deadline),
            sent,
            ready: VecDeque::new(),
            ready_bytes: 0,
            partial: BytesMut::new(),
            gathering: Gathering::default(),
            charged,
            released: None,
            failed: None,
            over: false,
            billed: false,
        }
    }

    pub(super) const fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    /// When the first content came.
    pub(super) const fn first_content(&self) -> Option<Instant> {
        self.dog.first_content()
    }

    /// Whether the model has refused to answer.
    pub(super) fn is_refusal(&self) -> bool {
        self.watch.stop_reason() == Some("refusal")
    }

    /// Output tokens that have come at least.
    pub(super) const fn output_tokens(&self) -> u64 {
        self.watch.output_floor()
    }

    /// Whether nothing more will come.
    pub(super) const fn is_over(&self) -> bool {
        self.over
    }

    /// Whether the provider has begun to work on the answer.
    pub(super) const fn has_started(&self) -> bool {
        self.watch.has_started()
    }

    /// A better estimate of the cost than what the quota was charged: the input is counted once the
    /// message has started, and output is charged as it is produced, so it may pass what was expected.
    pub(super) fn better_estimate(&mut self) -> Option<Cost> {
        if self.charged == Cost::ZERO || !self.watch.has_started() {
            return None;
        }
        let tokens = self.watch.billed();
        let input = match tokens.quota_input() {
            0 if tokens.cache_read == 0 => self.charged.input,
            counted => counted,
        };
        let produced = self.watch.output_floor().max(tokens.output);
        let output = if produced >= self.charged.output.saturating_add(OUTPUT_STEP) {
            produced
        } else {
            self.charged.output
        };
        let better = Cost {
            input,
            output,
            ..self.charged
        };
        let differs = better != self.charged;
        self.charged = better;
        differs.then_some(better)
    }

    /// When the answer has been silent for too long, and which clock says so.
    pub(super) fn silent_until(&self) -> (Instant, Timeout) {
        self.dog.next()
    }

    /// Reads one chunk before the release. Cancel safe.
    pub(super) async fn read_on(&mut self) -> Result<(), BrokenOff> {
        let read = self.body.next().await;
        self.arrived(read)?;
        if self.ready_bytes > LARGEST_ANSWER {
            return Err(BrokenOff::of(judge_malformed("more than 64 MiB of events")));
        }
        Ok(())
    }

    /// Takes in what the body brought: a chunk, its end or a break.
    fn arrived(&mut self, read: Option<Result<Bytes, TransportError>>) -> Result<(), BrokenOff> {
        match read {
            Some(Ok(chunk)) => match self.take(&chunk) {
                // What follows a whole answer can't spoil it any more.
                Err(_) if self.end_if_stopped() => Ok(()),
                taken => taken,
            },
            _ if self.end_if_stopped() => Ok(()),
            Some(Err(broken)) => Err(BrokenOff::of(judge_broken(broken.kind))),
            None => Err(BrokenOff::of(self.watch.judge())),
        }
    }

    /// Ends a stream whose message is whole. `false` if it is not.
    pub(super) fn end_if_stopped(&mut self) -> bool {
        if self.watch.end() != End::Complete {
            return false;
        }
        // What stands after the last whole event, such as a comment, is the provider's too.
        let rest = self.partial.split().freeze();
        self.push(rest);
        self.over = true;
        true
    }

    fn push(&mut self, events: Bytes) {
        if !events.is_empty() {
            self.ready_bytes = self.ready_bytes.saturating_add(events.len());
            self.ready.push_back(events);
        }
    }

    /// Takes in a chunk: events that are whole become ready, the rest waits.
    fn take(&mut self, chunk: &Bytes) -> Result<(), BrokenOff> {
        let (watch, now) = (&mut self.watch, Instant::now());
        let (was_stopped, mut alive, mut last) = (watch.is_stopped(), false, Seen::Other);
        let (wall, mut unnamed) = (Timestamp::now(), None);
        let pushed = self.decoder.push_while(chunk, |frame| {
            last = watch.see(frame, wall);
            alive |= last != Seen::Ping;
            if last == Seen::Error && frame.event != "error" {
                unnamed = Some(named_error(frame.data));
            }
            !matches!(last, Seen::Error | Seen::Malformed(_))
        });
        let pushed = pushed.map_err(|error| BrokenOff::of(judge_malformed(&error.to_string())))?;
        self.dog.bytes(now);
        if alive {
            self.dog.event(now);
        }
        if self.watch.has_content() && self.dog.first_content().is_none() {
            self.dog.content(now);
            self.prepared
                .expectation
                .learn_first_content(self.dog.since_headers(now), now.duration_since(self.sent));
        }
        if !was_stopped && self.watch.is_stopped() {
            // From here on there is only the end to wait for.
            self.dog.end_by(now + LAST_WORDS);
        }
        let rest = self.split(chunk, pushed.whole);
        let Some(refused) = pushed.refused else {
            self.partial.extend_from_slice(&rest);
            return Ok(());
        };
        let start = std::mem::take(&mut self.partial);
        let judged = match last {
            Seen::Malformed(why) => judge_malformed(why),
            _ => self.watch.judge(),
        };
        let said = (last == Seen::Error).then(|| {
            let end = refused.saturating_sub(pushed.whole);
            unnamed.unwrap_or_else(|| join(start, rest.slice(..end.min(rest.len()))))
        });
        Err(BrokenOff { judged, said })
    }

    /// Makes the whole events at the start of a chunk ready and returns the rest.
    fn split(&mut self, chunk: &Bytes, whole: usize) -> Bytes {
        if whole > 0 {
            let events = chunk.slice(..whole);
            let events = join(std::mem::take(&mut self.partial), events);
            self.push(events);
        }
        chunk.slice(whole..)
    }

    /// The provider's own error as an answer: with all that came before it, unless that is part of a
    /// message. The rest of it is on its way, if there is any.
    pub(super) async fn into_bytes(mut self, said: Bytes) -> Bytes {
        let mut all = BytesMut::new();
        let before = self.ready.drain(..);
        for events in before.filter(|_| !self.watch.has_started()) {
            all.extend_from_slice(&events);
        }
        all.extend_from_slice(&said);
        let by = Instant::now() + LAST_WORDS;
        while let Ok(Some(Ok(chunk))) = timeout_at(by, self.body.next()).await {
            if all.len() > LARGEST_ANSWER {
                break;
            }
            all.extend_from_slice(&chunk);
        }
        all.freeze()
    }

    /// All events of a message that has come to its stop reason; nothing where its end does not come.
    pub(super) async fn into_ending(mut self) -> Option<Bytes> {
        let by = Instant::now() + LAST_WORDS;
        while !self.over && !self.end_if_stopped() {
            timeout_at(by, self.read_on()).await.ok()?.ok()?;
        }
        let events: Vec<Bytes> = self.ready.drain(..).collect();
        Some(events.concat().into())
    }

    /// All events of a whole answer and what its quota is settled with. It is billed with what it used.
    pub(super) fn into_whole(mut self) -> (VecDeque<Bytes>, Cost) {
        let usage = self.watch.usage().clone();
        self.billed = true;
        self.exchange.bill(&self.prepared, &usage);
        let cost = self.prepared.expected.settled(usage.billed());
        (std::mem::take(&mut self.ready), cost)
    }

    /// What it used, as far as that is known.
    pub(super) fn tokens(&self) -> Tokens {
        self.watch.billed()
    }

    /// Bills what came of an answer that broke off.
    pub(super) fn bill_part(&mut self) -> Tokens {
        self.billed = true;
        self.exchange.bill_part(&self.prepared, &self.watch)
    }

    /// From here on the answer reaches the caller as it comes.
    pub(super) fn release(&mut self, permit: Permit) {
        let end = self.exchange.began + self.exchange.timeouts.generation;
        if !self.watch.is_stopped() {
            self.dog.end_by(end);
        }
        let (until, _) = self.dog.next();
        self.released = Some(Released {
            permit: Some(permit),
            alarm: Box::pin(sleep_until(until)),
            thrown: self.exchange.ends.thrown(),
        });
    }

    /// The next events for the caller, or, once, why there are no more.
    pub(super) fn poll_events(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        loop {
            let is_enough = self.over || self.ready_bytes >= ENOUGH;
            if is_enough && let Some(events) = self.hand_on() {
                return Poll::Ready(Some(Ok(events)));
            }
            if let Some(broken) = self.failed.take() {
                self.learn_from(&broken.judged);
                self.settle(&broken.judged.verdict);
                return Poll::Ready(Some(Err(broken)));
            }
            if self.over {
                self.settle(&Verdict::OK);
                return Poll::Ready(None);
            }
            // A provider that is never silent would not let the clocks be asked.
            if self.exchange.ends.is_thrown() && !self.end_if_stopped() {
                self.fail(BrokenOff::of(judge_draining()));
                continue;
            }
            let arrived = match self.body.poll_next_unpin(cx) {
                Poll::Ready(read) => {
                    self.gathering.in_vain = 0;
                    self.arrived(read)
                }
                Poll::Pending if self.gathering.goes_on(!self.ready.is_empty()) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Pending if !self.ready.is_empty() => {
                    return Poll::Ready(self.hand_on().map(Ok));
                }
                Poll::Pending => match self.poll_patience(cx) {
                    Poll::Ready(broken) if !self.end_if_stopped() => Err(broken),
                    Poll::Ready(_) => Ok(()),
                    Poll::Pending => return Poll::Pending,
                },
            };
            if let Err(broken) = arrived {
                self.fail(broken);
            } else if let Some(estimate) = self.better_estimate()
                && let Some(permit) = self.released.as_mut().and_then(|r| r.permit.as_mut())
            {
                permit.revise(estimate);
            }
        }
    }

    /// Events that are ready, in one piece: each piece becomes a write.
    fn hand_on(&mut self) -> Option<Bytes> {
        self.gathering = Gathering::default();
        let first = self.ready.pop_front()?;
        let mut all = BytesMut::new();
        let mut length = first.len();
        while let Some(next) = self.ready.front()
            && length.saturating_add(next.len()) <= ENOUGH
        {
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            length = length.saturating_add(next.len());
            all.extend_from_slice(next);
            self.ready.pop_front();
        }
        self.ready_bytes = self.ready_bytes.saturating_sub(length);
        Some(if all.is_empty() { first } else { all.freeze() })
    }

    fn fail(&mut self, broken: BrokenOff) {
        self.failed = Some(broken);
        self.over = true;
    }

    /// Whether the wait for the provider is over: its silence is too long, or all streams end.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<BrokenOff> {
        let (until, which) = self.dog.next();
        let Some(released) = &mut self.released else {
            return Poll::Pending;
        };
        if released.thrown.as_mut().poll(cx).is_ready() {
            return Poll::Ready(BrokenOff::of(judge_draining()));
        }
        // What comes mostly puts the end off. The alarm is left to ring too early then: setting it
        // anew for every event costs more than one ring for nothing.
        if released.alarm.deadline() > until {
            released.alarm.as_mut().reset(until);
        }
        while released.alarm.as_mut().poll(cx).is_ready() {
            if released.alarm.deadline() >= until {
                return Poll::Ready(BrokenOff::of(judge_timeout(which)));
            }
            released.alarm.as_mut().reset(until);
        }
        Poll::Pending
    }

    /// Hands on what the provider's own error says of the quota.
    fn learn_from(&self, judged: &Judged) {
        let permit = self.released.as_ref().and_then(|r| r.permit.as_ref());
        if let Some(permit) = permit
            && let Some(learned) = from_inside(judged, self.has_started())
        {
            permit.learn(learned);
            self.exchange.alert(self.attempt.1, judged);
        }
    }

    /// Ends the attempt, once.
    fn settle(&mut self, verdict: &Verdict) {
        let permit = self.released.as_mut().and_then(|r| r.permit.take());
        let Some(permit) = permit else {
            return;
        };
        self.exchange.count_attempt(self.attempt, verdict);
        let tokens = if verdict.is_ok() {
            let usage = self.watch.usage();
            self.billed = true;
            self.exchange.bill(&self.prepared, usage);
            usage.billed()
        } else {
            self.bill_part()
        };
        let known = tokens.input > 0 || tokens.output > 0;
        let cost = if verdict.is_ok() {
            self.prepared.expected.settled(tokens)
        } else {
            true_cost(tokens)
        };
        permit.finish(verdict, known.then_some(cost));
        if verdict.is_ok() {
            self.exchange.publish(None);
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // A reader that has the whole answer has not left.
        let verdict = if self.watch.end() == End::Complete {
            Verdict::OK
        } else {
            Verdict::DEPARTED
        };
        self.settle(&verdict);
        // An attempt that was left or outrun before its release has used what came of it.
        if !self.billed && self.has_started() {
            self.bill_part();
        }
    }
}

/// An `error` event that came without its name, with it: SDKs go by the name, and take a stream that
/// ends in an event which they don't know for whole.
fn named_error(data: &str) -> Bytes {
    let lines = data.split('\n').map(|line| format!("data: {line}\n"));
    format!("event: error\n{}\n", lines.collect::<String>()).into()
}

fn join(start: BytesMut, rest: Bytes) -> Bytes {
    if start.is_empty() {
        return rest;
    }
    let mut all = start;
    all.extend_from_slice(&rest);
    all.freeze()
}

/// The provider's word for a failure inside a stream.
pub(super) fn error_type(judged: &Judged) -> &str {
    match (&judged.error_type, judged.verdict.blame) {
        (Some(said), _) => said,
        (None, Blame::Network) => "api_error",
        (None, _) if judged.verdict.label == crate::verdict::label::TOTAL_TIMEOUT => {
            "timeout_error"
        }
        (None, _) => "overloaded_error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_without_its_name_gets_it_back() {
        let event = named_error("{\"type\":\"error\",\n\"error\":{}}");
        let whole = b"event: error\ndata: {\"type\":\"error\",\ndata: \"error\":{}}\n\n";
        assert_eq!(&event[..], &whole[..]);
    }

    #[test]
    fn a_lone_event_is_looked_after_twice_and_a_flood_not_without_end() {
        let mut gathering = Gathering::default();
        assert!(!gathering.goes_on(false), "there is nothing to hand on");
        let looks = (0..9).filter(|_| gathering.goes_on(true)).count();
        assert_eq!(looks, usize::from(LOOKS));

        let mut gathering = Gathering::default();
        let mut rounds = 0;
        while gathering.goes_on(true) {
            gathering.in_vain = 0;
            rounds += 1;
        }
        assert_eq!(rounds, MOST_ROUNDS);
    }
}
