//! A streamed answer as its caller sees it, from whatever it comes.
//!
//! It never fails and never ends without saying so: an answer that breaks off ends in the
//! provider's own `error` event, with the reason in `error.details`. While there is nothing to send
//! it stays alive by pings.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use seawall_actors::policy::ladder::Cause;
use tokio::time::{Instant, Sleep, sleep_until};

use super::ask::{Degraded, Reply, ReplyBody, Report, Skipped};
use super::exchange::Exchange;
use super::flights::Subscriber;
use super::resume::Resumable;
use super::stream::{BrokenOff, Watched, error_type};
use crate::cache::Recording;
use crate::config::OnDisconnect;
use crate::error::Error;
use crate::provider::anthropic::{PING_EVENT, StreamFailure};
use crate::verdict::Judged;

/// Time between two pings of a stream that has nothing else to send. Clients give up after 180 s of
/// silence, and proxies in between after 60.
const PING_EVERY: Duration = Duration::from_secs(15);

/// A streamed answer: the provider's bytes, cut only between events.
///
/// Dropping it stops the provider and gives the permit back, unless the route finishes answers
/// whose caller has left.
pub struct ReplyStream {
    source: Source,
    recorder: Option<Box<Recorder>>,
}

/// Keeps what the stream brings, and hands it on when that is whole.
struct Recorder {
    recording: Recording,
    whole: Box<dyn FnOnce(Recording) + Send>,
}

/// Where the events come from.
enum Source {
    /// The provider, as it writes.
    Live(Box<Watched>),
    /// An answer that was held back until it was whole.
    Held(VecDeque<Bytes>),
    /// The provider, with other requests that continue what breaks off.
    Resumable(Box<Resumable>),
    /// A call that is still on its way; its caller has been told to wait.
    Waiting(Waiting),
    /// An answer that several calls read.
    Shared(Box<Subscriber>),
    #[cfg(test)]
    Scripted(futures_util::stream::BoxStream<'static, Bytes>),
    Over,
}

/// A call that has not been answered yet, and pings until it is.
pub(super) struct Waiting {
    call: Arc<str>,
    running: BoxFuture<'static, Result<Reply, Error>>,
    ping: Pin<Box<Sleep>>,
}

impl ReplyStream {
    const fn from(source: Source) -> Self {
        Self {
            source,
            recorder: None,
        }
    }

    pub(super) const fn live(watched: Box<Watched>) -> Self {
        Self::from(Source::Live(watched))
    }

    pub(super) const fn held(events: VecDeque<Bytes>) -> Self {
        Self::from(Source::Held(events))
    }

    pub(super) const fn resumable(resumable: Box<Resumable>) -> Self {
        Self::from(Source::Resumable(resumable))
    }

    pub(super) const fn shared(subscriber: Box<Subscriber>) -> Self {
        Self::from(Source::Shared(subscriber))
    }

    #[cfg(test)]
    pub(super) fn scripted(events: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self::from(Source::Scripted(Box::pin(events)))
    }

    /// The same stream, recorded. `whole` gets the recording when the stream has ended, or its reader
    /// has left with the last event; it runs where the stream is read, and is dropped with a stream
    /// that breaks off.
    pub(super) fn recorded(
        mut self,
        recording: Recording,
        whole: impl FnOnce(Recording) + Send + 'static,
    ) -> Self {
        self.recorder = Some(Box::new(Recorder {
            recording,
            whole: Box::new(whole),
        }));
        self
    }

    /// A stream that pings, the first time at once, until the call is answered.
    pub(super) fn waiting(
        call: Arc<str>,
        running: BoxFuture<'static, Result<Reply, Error>>,
    ) -> Self {
        let ping = Box::pin(sleep_until(Instant::now()));
        Self::from(Source::Waiting(Waiting {
            call,
            running,
            ping,
        }))
    }

    /// The provider's stream itself, where there is nothing around it.
    pub(super) fn into_live(mut self) -> Option<Box<Watched>> {
        match std::mem::replace(&mut self.source, Source::Over) {
            Source::Live(watched) => Some(watched),
            _ => None,
        }
    }

    /// Hands out the last events of the stream.
    fn last(&mut self, last: impl Into<Bytes>) -> Poll<Option<Bytes>> {
        self.source = Source::Over;
        Poll::Ready(Some(last.into()))
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match &mut self.source {
                Source::Over => return Poll::Ready(None),
                Source::Held(events) => {
                    let next = events.pop_front();
                    if next.is_none() {
                        self.source = Source::Over;
                    }
                    return Poll::Ready(next);
                }
                Source::Live(watched) => match ready!(watched.poll_events(cx)) {
                    Some(Ok(events)) => return Poll::Ready(Some(events)),
                    Some(Err(broken)) => {
                        watched.exchange().publish(None);
                        let last = last_event(watched.exchange(), broken);
                        return self.last(last);
                    }
                    None => self.source = Source::Over,
                },
                Source::Resumable(resumable) => match ready!(resumable.poll_events(cx)) {
                    Some(events) => return Poll::Ready(Some(events)),
                    None => self.source = Source::Over,
                },
                Source::Shared(subscriber) => match ready!(subscriber.poll_events(cx)) {
                    Some(events) => return Poll::Ready(Some(events)),
                    None => self.source = Source::Over,
                },
                #[cfg(test)]
                Source::Scripted(events) => return events.as_mut().poll_next(cx),
                Source::Waiting(waiting) => match waiting.poll(cx) {
                    Poll::Ready(Answered::Stream(mut stream, mark)) => {
                        let source = std::mem::replace(&mut stream.source, Source::Over);
                        self.recorder = self.recorder.take().or_else(|| stream.recorder.take());
                        self.source = source;
                        if mark.is_some() {
                            return Poll::Ready(mark);
                        }
                    }
                    Poll::Ready(Answered::Last(event)) => return self.last(event),
                    Poll::Pending => {
                        ready!(poll_ping(&mut waiting.ping, cx));
                        return Poll::Ready(Some(Bytes::from_static(PING_EVENT.as_bytes())));
                    }
                },
            }
        }
    }
}

impl Stream for ReplyStream {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let events = ready!(self.poll_source(cx));
        match &events {
            Some(events) => {
                if let Some(recorder) = &mut self.recorder {
                    recorder.recording.hear(events);
                }
            }
            None => Recorder::end(self.recorder.take()),
        }
        Poll::Ready(events)
    }
}

impl Recorder {
    fn end(recorder: Option<Box<Self>>) {
        if let Some(recorder) = recorder
            && recorder.recording.ends_in_stop()
        {
            (recorder.whole)(recorder.recording);
        }
    }
}

/// Resolves when a ping is due, and sets the next.
pub(super) fn poll_ping(ping: &mut Pin<Box<Sleep>>, cx: &mut Context<'_>) -> Poll<()> {
    ready!(ping.as_mut().poll(cx));
    ping.as_mut().reset(Instant::now() + PING_EVERY);
    Poll::Ready(())
}

/// What became of a call that was waited for.
enum Answered {
    /// With what is to be said of it first.
    Stream(ReplyStream, Option<Bytes>),
    Last(Bytes),
}

impl Waiting {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Answered> {
        let answered = ready!(self.running.as_mut().poll(cx));
        Poll::Ready(match answered {
            Ok(reply) => match reply.body {
                ReplyBody::Stream(stream) => Answered::Stream(stream, mark(&reply.report)),
                ReplyBody::Whole(bytes) if is_events(&reply.headers) => {
                    Answered::Last(match mark(&reply.report) {
                        Some(mark) => [mark, bytes].concat().into(),
                        None => bytes,
                    })
                }
                ReplyBody::Whole(_) => {
                    let failure = StreamFailure {
                        error_type: "api_error",
                        message: "the provider did not answer with a stream",
                        reason: "malformed",
                        call: &self.call,
                        request_id: None,
                    };
                    Answered::Last(failure.event().into())
                }
            },
            Err(error) => Answered::Last(failure_event(&self.call, &error)),
        })
    }
}

/// What the headers would have said of an answer that comes after them, as comments of the stream,
/// which readers of events pass over.
fn mark(report: &Report) -> Option<Bytes> {
    let degraded = report.degraded.map(Degraded::as_str);
    let listed = |words: String| (!words.is_empty()).then_some(words);
    let skipped: Vec<String> = report.skipped.iter().map(Skipped::to_string).collect();
    let (skipped, lost) = (
        listed(skipped.join(", ")),
        listed(report.losses.to_string()),
    );
    let marks = [
        ("degraded", degraded),
        ("cause", report.cause.map(Cause::as_str)),
        (
            "model",
            report.model.as_deref().filter(|_| degraded.is_some()),
        ),
        ("skipped", skipped.as_deref()),
        ("lost", lost.as_deref()),
        ("cache", report.cache.as_deref()),
    ];
    if marks.iter().all(|(_, word)| word.is_none()) {
        return None;
    }
    let marks = [("rung", Some(&*report.rung))].into_iter().chain(marks);
    let lines = marks.filter_map(|(name, word)| {
        let word = word?;
        Some(format!(": x-seawall-{name}: {word}\n"))
    });
    Some(Bytes::from(lines.collect::<String>() + "\n"))
}

fn is_events(headers: &http::HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// The last event of a stream that broke off: the provider's own, if it sent one.
pub(super) fn last_event(exchange: &Exchange, broken: BrokenOff) -> Bytes {
    match broken.said {
        Some(said) => said,
        None => own_event(exchange, &broken.judged),
    }
}

fn own_event(exchange: &Exchange, judged: &Judged) -> Bytes {
    let failure = StreamFailure {
        error_type: error_type(judged),
        message: &format!("seawall: {}", judged.message),
        reason: judged.verdict.label,
        call: &exchange.call,
        request_id: exchange.progress.lock().request_id.as_deref(),
    }
    .event();
    failure.into()
}

/// A failed call as the last event of a stream that has begun already.
fn failure_event(call: &str, error: &Error) -> Bytes {
    let reason = match error {
        Error::Provider { judged, body, .. } => {
            if body.starts_with(b"event:") {
                return body.clone();
            }
            judged.verdict.label
        }
        Error::Unanswered { judged, .. } | Error::Capped { judged, .. } => judged.verdict.label,
        Error::Refused(rejected) => rejected.why.as_str(),
        _ => "refused",
    };
    let (message, kind) = match error {
        Error::Provider { judged, .. } => (judged.message.clone(), error_type(judged)),
        error => (format!("seawall: {error}"), error.error_type()),
    };
    let advice = error.advice();
    let message = match advice.as_str() {
        "" => message,
        advice => format!("{message}. {advice}"),
    };
    let failure = StreamFailure {
        error_type: kind,
        message: &message,
        reason,
        call,
        request_id: None,
    };
    failure.event().into()
}

impl Drop for ReplyStream {
    fn drop(&mut self) {
        let recorder = self.recorder.take();
        let watched = match std::mem::replace(&mut self.source, Source::Over) {
            Source::Live(watched) => Some(watched),
            Source::Resumable(resumable) => resumable.into_live(),
            _ => None,
        };
        if let Some(watched) = watched
            && watched.exchange().on_disconnect == OnDisconnect::Finish
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(finish(watched, recorder));
        } else {
            Recorder::end(recorder);
        }
    }
}

/// Reads an answer that nobody waits for to its end, so that its usage is known, and the answer where
/// it is recorded. Its clocks and the end of all streams bound it.
async fn finish(mut watched: Box<Watched>, mut recorder: Option<Box<Recorder>>) {
    while let Some(Ok(events)) = std::future::poll_fn(|cx| watched.poll_events(cx)).await {
        if let Some(recorder) = &mut recorder {
            recorder.recording.hear(&events);
        }
    }
    Recorder::end(recorder);
}

impl fmt::Debug for ReplyStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplyStream")
    }
}

#[cfg(test)]
mod tests;
