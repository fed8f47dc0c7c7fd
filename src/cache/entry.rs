//! An answer that is kept: one whole message, in whichever form it came.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use serde::Deserialize;

use super::admit::{self, Unfit};
use super::replay;
use crate::message::Assembler;
use crate::provider::anthropic::stream::{End, Seen, StreamWatch};
use crate::provider::anthropic::usage::{Tokens, Usage};
use crate::transport::sse::SseDecoder;

/// Headers of an answer that are true of it later too. Others speak of a quota, a date or an
/// organisation.
const KEPT: [HeaderName; 2] = [CONTENT_TYPE, HeaderName::from_static("request-id")];

/// Memory of an entry beside its bytes: its own fields, what the allocator adds, and the map's part.
/// Measured as 730 with 100,000 small entries.
const OVERHEAD: usize = 768;

/// Events of a message take up to so many times its own bytes: each brings a word or two in a
/// hundred bytes of its own.
const EVENTS_OF_A_MESSAGE: usize = 64;

/// An answer that is kept. Its bytes are its own: nothing else stays in memory with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    body: Bytes,
    headers: Box<[(HeaderName, HeaderValue)]>,
    model: Option<Arc<str>>,
    tokens: Tokens,
    stored_at: Timestamp,
}

/// An answer as it goes out again.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Replay {
    /// Its headers.
    pub headers: HeaderMap,
    /// The body, or all events.
    pub body: Bytes,
}

#[derive(Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    stop_reason: Option<String>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(rename = "content")]
    _content: Vec<serde::de::IgnoredAny>,
}

impl Entry {
    /// An answer that came whole, `now`. `largest` bounds its body, in bytes.
    ///
    /// # Errors
    ///
    /// Why it is not to be kept.
    pub fn of_body(
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
        (now, largest): (Timestamp, usize),
    ) -> Result<Self, Unfit> {
        admit::status(status)?;
        admit::size(body.len(), largest)?;
        let head: Head = serde_json::from_slice(body).map_err(|_| Unfit::Unreadable)?;
        if head.kind != "message" {
            return Err(Unfit::Unreadable);
        }
        admit::stop_reason(head.stop_reason.as_deref())?;
        Ok(Self {
            body: Bytes::copy_from_slice(body),
            headers: kept(headers).collect(),
            model: head.model.map(Arc::from),
            tokens: head.usage.unwrap_or_default().billed(),
            stored_at: now,
        })
    }

    /// An answer that came as a stream. `events` are all of its bytes, cut anywhere.
    ///
    /// # Errors
    ///
    /// Why it is not to be kept.
    pub fn of_events<'a>(
        status: StatusCode,
        headers: &HeaderMap,
        events: impl IntoIterator<Item = &'a [u8]>,
        (now, largest): (Timestamp, usize),
    ) -> Result<Self, Unfit> {
        let assembler = assembled(events, now)?;
        Self::of_assembled(status, headers, assembler, (now, largest))
    }

    /// The same for a stream that has been watched to its good end: it is not judged again.
    ///
    /// # Errors
    ///
    /// Why it is not to be kept.
    pub(crate) fn of_judged_events<'a>(
        status: StatusCode,
        headers: &HeaderMap,
        events: impl IntoIterator<Item = &'a [u8]>,
        (now, largest): (Timestamp, usize),
    ) -> Result<Self, Unfit> {
        let mut assembler = Assembler::new();
        let mut decoder = SseDecoder::new();
        for chunk in events {
            let pushed = decoder.push(chunk, |frame| {
                if !assembler.is_whole() && frame.event != "ping" {
                    assembler.push(frame.data);
                }
            });
            pushed.map_err(|_| Unfit::TooLarge)?;
        }
        if !assembler.is_whole() {
            return Err(Unfit::Incomplete);
        }
        Self::of_assembled(status, headers, assembler, (now, largest))
    }

    /// What was put together is not read again: it is known.
    fn of_assembled(
        status: StatusCode,
        headers: &HeaderMap,
        assembler: Assembler,
        (now, largest): (Timestamp, usize),
    ) -> Result<Self, Unfit> {
        admit::status(status)?;
        let message = assembler.message();
        admit::stop_reason(message.stop_reason.as_deref())?;
        let model = message.model.as_deref().map(Arc::from);
        let tokens = message.billed();
        let body = assembler.into_body().ok_or(Unfit::Unreadable)?;
        admit::size(body.len(), largest)?;
        let own = kept(headers).filter(|(name, _)| *name != CONTENT_TYPE);
        let kind = HeaderValue::from_static("application/json");
        Ok(Self {
            // Without the room to grow that it was written in.
            body: body.into_boxed_slice().into(),
            headers: std::iter::once((CONTENT_TYPE, kind)).chain(own).collect(),
            model,
            tokens,
            stored_at: now,
        })
    }

    /// The answer as it was, or as a valid stream of events; `None` where no stream can be made of it.
    #[must_use]
    pub fn replay(&self, as_stream: bool) -> Option<Replay> {
        let mut headers: HeaderMap = self.headers.iter().cloned().collect();
        if !as_stream {
            return Some(Replay {
                headers,
                body: self.body.clone(),
            });
        }
        let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
        headers.insert(CONTENT_TYPE, kind);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        Some(Replay {
            headers,
            body: replay::events(&self.body)?,
        })
    }

    /// The message, as a whole body.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// Its headers that are kept.
    pub(super) fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// The model that wrote it, as it named itself.
    #[must_use]
    pub const fn model(&self) -> Option<&Arc<str>> {
        self.model.as_ref()
    }

    /// What was billed for it when it was written: what serving it again saves.
    #[must_use]
    pub const fn tokens(&self) -> Tokens {
        self.tokens
    }

    /// When it came.
    #[must_use]
    pub const fn stored_at(&self) -> Timestamp {
        self.stored_at
    }

    /// What it takes in memory, in bytes, its key and the map's own part included.
    #[must_use]
    pub fn weight(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(_, value)| value.len()).sum();
        let model = self.model.as_ref().map_or(0, |model| model.len());
        let pairs = size_of_val(&*self.headers);
        self.body.len() + headers + pairs + model + OVERHEAD
    }
}

/// The headers of an answer that are kept.
fn kept(headers: &HeaderMap) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    KEPT.into_iter().filter_map(|name| {
        // A header's value is a view into the bytes that it came in.
        let value = HeaderValue::from_bytes(headers.get(&name)?.as_bytes()).ok()?;
        Some((name, value))
    })
}

/// The message that a whole stream brought.
fn assembled<'a>(
    events: impl IntoIterator<Item = &'a [u8]>,
    now: Timestamp,
) -> Result<Assembler, Unfit> {
    let mut assembler = Assembler::new();
    let mut watch = StreamWatch::new();
    let mut decoder = SseDecoder::new();
    for chunk in events {
        let pushed = decoder.push(chunk, |frame| {
            // What comes behind the last event is no part of the message.
            if !watch.is_stopped() && watch.see(frame, now) != Seen::Ping {
                assembler.push(frame.data);
            }
        });
        pushed.map_err(|_| Unfit::TooLarge)?;
    }
    match watch.end() {
        End::Complete => Ok(assembler),
        End::Malformed(_) => Err(Unfit::Unreadable),
        End::Failed | End::Truncated => Err(Unfit::Incomplete),
    }
}

/// Listens to a stream on its way to the caller, so that it can be kept when it has ended well.
#[derive(Debug)]
pub struct Recording {
    status: StatusCode,
    headers: HeaderMap,
    events: Vec<Bytes>,
    bytes: usize,
    largest: usize,
    /// What all recordings of a store hold, and the most of it.
    room: Option<Room>,
}

/// Bytes that recordings under way may hold together.
#[derive(Debug, Clone)]
pub(super) struct Room {
    pub(super) held: Arc<AtomicUsize>,
    pub(super) most: usize,
}

impl Recording {
    /// The same beside others, which share the room.
    pub(super) fn within(mut self, room: Room) -> Self {
        self.room = Some(room);
        self
    }

    /// An answer that begins with these headers. `largest` bounds the message, in bytes; what is held
    /// until it is put together may be up to 64 times as much.
    #[must_use]
    pub fn new(status: StatusCode, headers: &HeaderMap, largest: usize) -> Self {
        let kept = KEPT.into_iter().filter_map(|name| {
            let value = headers.get(&name)?.clone();
            Some((name, value))
        });
        Self {
            status,
            headers: kept.collect(),
            events: Vec::new(),
            bytes: 0,
            largest,
            room: None,
        }
    }

    /// Hears what goes to the caller.
    pub fn hear(&mut self, events: &Bytes) {
        if self.is_too_large() {
            return;
        }
        self.bytes = self.bytes.saturating_add(events.len());
        let held = self.room.as_ref().map_or(0, |room| {
            let before = room.held.fetch_add(events.len(), Ordering::Relaxed);
            before.saturating_add(events.len())
        });
        self.events.push(events.clone());
        if self.is_too_large() || self.room.as_ref().is_some_and(|room| held > room.most) {
            self.let_go();
        }
    }

    /// Keeps nothing of it.
    fn let_go(&mut self) {
        let held: usize = self.events.iter().map(Bytes::len).sum();
        if let Some(room) = &self.room {
            room.held.fetch_sub(held, Ordering::Relaxed);
        }
        self.events = Vec::new();
        self.bytes = usize::MAX;
    }

    fn is_too_large(&self) -> bool {
        self.bytes > self.largest.saturating_mul(EVENTS_OF_A_MESSAGE)
    }

    /// Whether the last of it looks like the end of a whole message: [`finish`](Self::finish) knows.
    #[must_use]
    pub fn ends_in_stop(&self) -> bool {
        const STOP: &[u8] = b"message_stop";
        // It stands near the end, if at all.
        let has_stop = |events: &Bytes| events.windows(STOP.len()).rev().any(|part| part == STOP);
        // A comment may stand behind it.
        self.events.iter().rev().take(2).any(has_stop)
    }

    /// The stream has ended well, as its watch says.
    ///
    /// # Errors
    ///
    /// Why it is not to be kept.
    pub fn finish(mut self, now: Timestamp) -> Result<Entry, Unfit> {
        if self.is_too_large() {
            return Err(Unfit::TooLarge);
        }
        let events = self.events.iter().map(|events| &**events);
        let at = (now, self.largest);
        let entry = Entry::of_judged_events(self.status, &self.headers, events, at);
        self.let_go();
        entry
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(test)]
mod tests;
