//! Watches a stream of the Messages API as it passes.
//!
//! Fed the decoded events, it tells when the first content came, what was used, and how the stream
//! ended: only a `message_stop` after a `message_start` is complete; the end of the bytes alone is
//! not. An event that cannot be read, or that cannot stand where it does, is malformed and must not
//! reach a client. Events, blocks and deltas of a kind that is not known here pass.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::usage::{Tokens, Usage};
use crate::transport::sse::SseFrame;
use crate::verdict::{Judged, judge_malformed, judge_stream_error, judge_truncated};

/// What one event was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Seen {
    /// The message began; its usage so far is known.
    Start,
    /// Content, which a caller that gets it cannot be asked to forget.
    Content,
    /// A sign of life without content.
    Ping,
    /// The provider gave up inside the stream.
    Error,
    /// The message is complete.
    Stop,
    /// Anything else: block ends, usage, kinds that are not known here.
    Other,
    /// It cannot be read, or cannot stand where it does; says why.
    Malformed(&'static str),
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// Whole.
    Complete,
    /// It broke off without saying so.
    Truncated,
    /// The provider said that it failed.
    Failed,
    /// It sent what cannot be part of a message; says what.
    Malformed(&'static str),
}

/// Follows one stream.
#[derive(Debug, Clone, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts: a broken stream mixes them"
)]
pub struct StreamWatch {
    usage: Usage,
    stop_reason: Option<String>,
    model: Option<String>,
    error: Option<Box<Judged>>,
    malformed: Option<&'static str>,
    started: bool,
    summed_up: bool,
    stopped: bool,
    content: bool,
    /// The index of the block that is open.
    open: Option<u64>,
    blocks: u64,
    /// Bytes of text in deltas, as JSON writes them.
    delta_bytes: u64,
}

/// An event that cannot stand; says why.
type Rejected = &'static str;

const UNREADABLE: Rejected = "an event that is no valid JSON of its kind";

impl StreamWatch {
    /// A watch at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one event, read at `now`, and says what it was. After a malformed one, so is the
    /// stream.
    pub fn see(&mut self, frame: SseFrame<'_>, now: Timestamp) -> Seen {
        let seen = self.read(frame, now);
        seen.unwrap_or_else(|why| {
            if self.error.is_none() {
                self.malformed.get_or_insert(why);
            }
            Seen::Malformed(why)
        })
    }

    /// How the stream stands if it ends here.
    #[must_use]
    pub const fn end(&self) -> End {
        if let Some(why) = self.malformed {
            End::Malformed(why)
        } else if self.error.is_some() {
            End::Failed
        } else if self.stopped {
            End::Complete
        } else {
            End::Truncated
        }
    }

    /// The judgement of a stream whose bytes ended cleanly here.
    #[must_use]
    pub fn judge(&self) -> Judged {
        match (self.end(), &self.error) {
            (End::Complete, _) => Judged::ok(),
            (End::Malformed(why), _) => judge_malformed(why),
            (End::Failed, Some(error)) => (**error).clone(),
            (End::Failed | End::Truncated, _) => judge_truncated(),
        }
    }

    /// Whether content has come: before it, the stream can be replaced unnoticed.
    #[must_use]
    pub const fn has_content(&self) -> bool {
        self.content
    }

    /// Whether `message_start` has come: the provider is at work.
    #[must_use]
    pub const fn has_started(&self) -> bool {
        self.started
    }

    /// Whether `message_stop` has come.
    #[must_use]
    pub const fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The provider's own error, if it sent one.
    #[must_use]
    pub fn error(&self) -> Option<&Judged> {
        self.error.as_deref()
    }

    /// What was used as far as the stream has said.
    #[must_use]
    pub const fn usage(&self) -> &Usage {
        &self.usage
    }

    /// What is billed for what came so far. Exact once [`is_final`](Self::is_final), until then a
    /// lower bound.
    #[must_use]
    pub fn billed(&self) -> Tokens {
        let billed = self.usage.billed();
        let output = billed.output.max(self.output_floor());
        Tokens { output, ..billed }
    }

    /// Whether the provider has summed up what the answer used.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        self.summed_up
    }

    /// Output tokens that have come at least: one for every four bytes of text, which is the
    /// provider's own floor for a stream that broke off. `message_start` states a placeholder.
    #[must_use]
    pub const fn output_floor(&self) -> u64 {
        if self.summed_up {
            0
        } else {
            self.delta_bytes / 4
        }
    }

    /// Why the model stopped, once it has said so.
    #[must_use]
    pub fn stop_reason(&self) -> Option<&str> {
        self.stop_reason.as_deref()
    }

    /// The model that answers.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn read(&mut self, frame: SseFrame<'_>, now: Timestamp) -> Result<Seen, Rejected> {
        match &*kind(frame) {
            "ping" => bare("ping", frame.data).map(|()| Seen::Ping),
            "error" => {
                self.error
                    .get_or_insert_with(|| Box::new(judge_stream_error(frame.data, now)));
                Ok(Seen::Error)
            }
            "message_start" => self.start(frame.data),
            "content_block_start" => self.block_start(frame.data),
            "content_block_delta" => self.delta(frame.data),
            "content_block_stop" => self.block_stop(frame.data),
            "message_delta" => self.message_delta(frame.data),
            "message_stop" => self.stop(frame.data),
            name => named(name, &said_kind(frame.data)).map(|()| Seen::Other),
        }
    }

    fn start(&mut self, data: &str) -> Result<Seen, Rejected> {
        let start: Start<'_> = parse(data)?;
        named("message_start", &start.kind)?;
        check(!self.started, "a second message_start")?;
        self.started = true;
        self.model = start.message.model;
        self.usage
            .overwrite(start.message.usage.unwrap_or_default());
        Ok(Seen::Start)
    }

    /// Whether an event may come that is part of the message's body.
    fn inside(&self) -> Result<(), Rejected> {
        check(self.started, "content before message_start")?;
        check(!self.stopped, "content after message_stop")
    }

    fn block_start(&mut self, data: &str) -> Result<Seen, Rejected> {
        let start: BlockStart<'_> = parse(data)?;
        named("content_block_start", &start.kind)?;
        self.inside()?;
        check(self.open.is_none(), "a block inside a block")?;
        check(start.index == self.blocks, "a block out of its order")?;
        self.open = Some(start.index);
        self.blocks = self.blocks.saturating_add(1);
        if is_empty_block(start.content_block) {
            return Ok(Seen::Other);
        }
        self.content = true;
        Ok(Seen::Content)
    }

    fn delta(&mut self, data: &str) -> Result<Seen, Rejected> {
        let piece: BlockDelta<'_> = parse(data)?;
        named("content_block_delta", &piece.kind)?;
        self.inside()?;
        check(
            self.open == Some(piece.index),
            "content of a block that is not open",
        )?;
        self.content = true;
        let delta = piece.delta;
        let text = delta.text.or(delta.partial_json).or(delta.thinking);
        let bytes = text.map_or(0, |text| text.get().len().saturating_sub(2));
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.delta_bytes = self.delta_bytes.saturating_add(bytes);
        Ok(Seen::Content)
    }

    fn block_stop(&mut self, data: &str) -> Result<Seen, Rejected> {
        let stop: BlockStop<'_> = parse(data)?;
        named("content_block_stop", &stop.kind)?;
        self.inside()?;
        check(
            self.open == Some(stop.index),
            "the end of a block that is not open",
        )?;
        self.open = None;
        Ok(Seen::Other)
    }

    fn message_delta(&mut self, data: &str) -> Result<Seen, Rejected> {
        let delta: MessageDelta<'_> = parse(data)?;
        named("message_delta", &delta.kind)?;
        self.inside()?;
        self.summed_up |= delta.usage.as_ref().is_some_and(|u| u.output.is_some());
        self.usage.overwrite(delta.usage.unwrap_or_default());
        if let Some(reason) = delta.delta.and_then(|d| d.stop_reason) {
            self.stop_reason = Some(reason);
        }
        Ok(Seen::Other)
    }

    fn stop(&mut self, data: &str) -> Result<Seen, Rejected> {
        bare("message_stop", data)?;
        check(self.started, "message_stop without message_start")?;
        check(self.open.is_none(), "message_stop inside a block")?;
        self.stopped = true;
        Ok(Seen::Stop)
    }
}

/// What an event is. Its name repeats the data's own type; a proxy that drops the one leaves the
/// other.
pub(super) fn kind(frame: SseFrame<'_>) -> Cow<'_, str> {
    if frame.event.is_empty() {
        said_kind(frame.data)
    } else {
        Cow::Borrowed(frame.event)
    }
}

/// The kind that an event's data says; empty where it says none.
fn said_kind(data: &str) -> Cow<'_, str> {
    serde_json::from_str::<Kind<'_>>(data).map_or(Cow::Borrowed(""), |k| k.kind)
}

/// Holds an event's name against its data's own type: some clients go by the one, others by the
/// other, and would read two answers. Data may leave its type out.
fn named(name: &str, said: &str) -> Result<(), Rejected> {
    check(
        said.is_empty() || said == name,
        "an event under a false name",
    )
}

/// Reads an event that says nothing but its kind.
fn bare(name: &str, data: &str) -> Result<(), Rejected> {
    let _: serde::de::IgnoredAny = parse(data)?;
    named(name, &said_kind(data))
}

fn parse<'a, T: Deserialize<'a>>(data: &'a str) -> Result<T, Rejected> {
    serde_json::from_str(data).map_err(|_| UNREADABLE)
}

const fn check(holds: bool, otherwise: Rejected) -> Result<(), Rejected> {
    if holds { Ok(()) } else { Err(otherwise) }
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Start<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct BlockStart<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    index: u64,
    #[serde(borrow)]
    content_block: &'a RawValue,
}

#[derive(Deserialize)]
struct BlockDelta<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    index: u64,
    #[serde(borrow)]
    delta: Piece<'a>,
}

/// The text of a delta, whichever kind it is of.
#[derive(Deserialize)]
struct Piece<'a> {
    #[serde(borrow, default)]
    text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    partial_json: Option<&'a RawValue>,
    #[serde(borrow, default)]
    thinking: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct BlockStop<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    index: u64,
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    thinking: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    signature: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct MessageDelta<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(default)]
    delta: Option<Delta>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    stop_reason: Option<String>,
}

/// Whether a block only announces what its deltas will bring. Blocks that arrive whole, such as
/// redacted thinking and server tool results, are content, and so is every kind that is not known.
fn is_empty_block(raw: &RawValue) -> bool {
    let blank = |text: Option<Cow<'_, str>>| text.is_none_or(|t| t.is_empty());
    let Ok(block) = serde_json::from_str::<Block<'_>>(raw.get()) else {
        return false;
    };
    match &*block.kind {
        "text" | "thinking" => blank(block.text) && blank(block.thinking) && blank(block.signature),
        "tool_use" | "server_tool_use" | "mcp_tool_use" => true,
        "compaction" => block
            .content
            .is_none_or(|c| matches!(c.get(), "null" | "\"\"" | "[]")),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
