//! Watches a stream of the Messages API as it passes.
//!
//! Fed the decoded events, it tells when the first content came, what was used, and how the stream
//! ended: only a `message_stop` after a `message_start` is complete; the end of the bytes alone is
//! not. Text deltas, the bulk of a stream, are not parsed. Unknown events, blocks and deltas pass.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::usage::Usage;
use crate::transport::sse::SseFrame;
use crate::verdict::{Judged, judge_stream_error, judge_truncated};

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
    violation: Option<&'static str>,
    started: bool,
    stopped: bool,
    content: bool,
    block_open: bool,
    delta_bytes: u64,
}

impl StreamWatch {
    /// A watch at the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one event, read at `now`, and says what it was.
    pub fn see(&mut self, frame: SseFrame<'_>, now: Timestamp) -> Seen {
        // The name repeats the data's own type; a proxy that drops the one leaves the other.
        let kind = if frame.event.is_empty() {
            serde_json::from_str::<Kind<'_>>(frame.data).map_or(Cow::Borrowed(""), |k| k.kind)
        } else {
            Cow::Borrowed(frame.event)
        };
        if kind == "ping" {
            return Seen::Ping;
        }
        if kind == "error" {
            self.error
                .get_or_insert_with(|| Box::new(judge_stream_error(frame.data, now)));
            return Seen::Error;
        }
        self.expect(!self.stopped, "an event after message_stop");
        match &*kind {
            "message_start" => self.start(frame.data),
            "content_block_start" => self.block_start(frame.data),
            "content_block_delta" => self.delta(frame.data),
            "content_block_stop" => {
                self.expect(self.block_open, "the end of a block that was not open");
                self.block_open = false;
                Seen::Other
            }
            "message_delta" => self.message_delta(frame.data),
            "message_stop" => {
                self.expect(self.started, "message_stop without message_start");
                self.expect(!self.block_open, "message_stop inside a block");
                self.stopped = true;
                Seen::Stop
            }
            _ => Seen::Other,
        }
    }

    /// How the stream stands if it ends here.
    #[must_use]
    pub const fn end(&self) -> End {
        if self.error.is_some() {
            End::Failed
        } else if self.started && self.stopped && !self.block_open {
            End::Complete
        } else {
            End::Truncated
        }
    }

    /// The judgement of a stream whose bytes ended cleanly here.
    #[must_use]
    pub fn judge(&self) -> Judged {
        match (&self.error, self.end()) {
            (Some(error), _) => (**error).clone(),
            (None, End::Complete) => Judged::ok(),
            (None, End::Truncated | End::Failed) => judge_truncated(),
        }
    }

    /// Whether content has come: before it, the stream can be replaced unnoticed.
    #[must_use]
    pub const fn has_content(&self) -> bool {
        self.content
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

    /// Output tokens: as stated once the message's end is near, until then at least what the content
    /// so far amounts to. `message_start` states a placeholder.
    ///
    /// Four bytes a token is the provider's own floor for a stream that broke off.
    #[must_use]
    pub fn output_floor(&self) -> u64 {
        let stated = self.usage.billed().output;
        if self.stop_reason.is_some() {
            stated
        } else {
            stated.max(self.delta_bytes / 4)
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

    /// The first breach of the order of events, if any. A breach alone does not fail the stream.
    #[must_use]
    pub const fn violation(&self) -> Option<&'static str> {
        self.violation
    }

    fn expect(&mut self, holds: bool, otherwise: &'static str) {
        if !holds {
            self.violation.get_or_insert(otherwise);
        }
    }

    fn start(&mut self, data: &str) -> Seen {
        self.expect(!self.started, "a second message_start");
        match serde_json::from_str::<Start>(data) {
            Ok(start) => {
                self.started = true;
                self.model = start.message.model;
                self.usage
                    .overwrite(start.message.usage.unwrap_or_default());
            }
            Err(_) => self.expect(false, "a message_start that cannot be read"),
        }
        Seen::Start
    }

    fn block_start(&mut self, data: &str) -> Seen {
        self.expect(self.started, "content before message_start");
        self.expect(!self.block_open, "a block inside a block");
        self.block_open = true;
        let empty = serde_json::from_str::<BlockStart<'_>>(data)
            .is_ok_and(|start| is_empty_block(start.content_block));
        if empty {
            return Seen::Other;
        }
        self.content = true;
        Seen::Content
    }

    fn delta(&mut self, data: &str) -> Seen {
        self.expect(self.block_open, "content outside a block");
        self.content = true;
        // The frame around a delta's text is about 80 bytes; the padding before the last brace is
        // not text either.
        const FRAME: usize = 80;
        let unpadded = data
            .trim_end_matches(['}', ' '])
            .len()
            .saturating_sub(FRAME);
        self.delta_bytes = self
            .delta_bytes
            .saturating_add(u64::try_from(unpadded).unwrap_or(u64::MAX));
        Seen::Content
    }

    fn message_delta(&mut self, data: &str) -> Seen {
        self.expect(self.started, "message_delta before message_start");
        match serde_json::from_str::<MessageDelta>(data) {
            Ok(delta) => {
                self.usage.overwrite(delta.usage.unwrap_or_default());
                if let Some(reason) = delta.delta.and_then(|d| d.stop_reason) {
                    self.stop_reason = Some(reason);
                }
            }
            Err(_) => self.expect(false, "a message_delta that cannot be read"),
        }
        Seen::Other
    }
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Start {
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
    #[serde(borrow)]
    content_block: &'a RawValue,
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
struct MessageDelta {
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
mod tests {
    use jiff::Timestamp;

    use super::{End, Seen, StreamWatch};
    use crate::transport::sse::SseFrame;

    const START: &str = r#"{"type":"message_start","message":{"model":"claude-x","usage":{"input_tokens":9,"output_tokens":1}}}"#;
    const TEXT: &str =
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}  }"#;
    const DELTA: &str = r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello there, this is text"}    }"#;
    const LAST: &str = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":40,"input_tokens":null}}"#;

    fn watch(events: &[(&str, &str)]) -> (StreamWatch, Vec<Seen>) {
        let mut watch = StreamWatch::new();
        let seen = events
            .iter()
            .map(|&(event, data)| watch.see(SseFrame { event, data }, Timestamp::UNIX_EPOCH))
            .collect();
        (watch, seen)
    }

    #[test]
    fn a_whole_stream_is_complete_and_its_last_usage_counts() {
        let (watch, seen) = watch(&[
            ("message_start", START),
            ("ping", r#"{"type": "ping"}"#),
            ("content_block_start", TEXT),
            ("", DELTA),
            ("brand_new_event", "{}"),
            ("content_block_stop", "{}"),
            ("message_delta", LAST),
            ("message_stop", r#"{"type":"message_stop"}"#),
        ]);
        assert_eq!(
            seen,
            [
                Seen::Start,
                Seen::Ping,
                Seen::Other,
                Seen::Content,
                Seen::Other,
                Seen::Other,
                Seen::Other,
                Seen::Stop,
            ]
        );
        assert_eq!((watch.end(), watch.violation()), (End::Complete, None));
        assert!(watch.judge().verdict.is_ok());
        assert_eq!(
            (watch.usage().input, watch.usage().output),
            (Some(9), Some(40))
        );
        assert_eq!(
            (watch.stop_reason(), watch.model()),
            (Some("end_turn"), Some("claude-x"))
        );
        assert_eq!(watch.output_floor(), 40);
    }

    #[test]
    fn a_stream_that_ends_without_its_stop_is_truncated_wherever_it_ends() {
        let all = [
            ("message_start", START),
            ("content_block_start", TEXT),
            ("content_block_delta", DELTA),
            ("content_block_stop", "{}"),
            ("message_delta", LAST),
        ];
        for cut in 0..=all.len() {
            let (watch, _) = watch(&all[..cut]);
            assert_eq!(watch.end(), End::Truncated, "after {cut} events");
            assert_eq!(watch.judge().verdict.label, "truncated");
            assert_eq!(watch.has_content(), cut >= 3);
        }
        let (watch, _) = watch(&all[..3]);
        assert!(watch.output_floor() > 1, "content that was sent is billed");
    }

    #[test]
    fn an_error_as_the_first_event_fails_the_stream_before_any_content() {
        let data = r#"{"type":"error","error":{"details":null,"type":"overloaded_error","message":"Overloaded"}            }"#;
        let (watch, seen) = watch(&[("error", data), ("message_stop", "{}")]);
        assert_eq!(seen[0], Seen::Error);
        assert_eq!((watch.end(), watch.has_content()), (End::Failed, false));
        assert_eq!(watch.judge().verdict.label, "overloaded");
        assert_eq!(
            watch.error().map(|e| e.message.as_str()),
            Some("Overloaded")
        );
    }

    #[test]
    fn blocks_that_arrive_whole_are_content_and_announcements_are_not() {
        for (block, content) in [
            (r#"{"type":"text","text":""}"#, false),
            (r#"{"type":"text","text":"Hi"}"#, true),
            (r#"{"type":"thinking","thinking":"","signature":""}"#, false),
            (
                r#"{"type":"tool_use","id":"t","name":"f","input":{}}"#,
                false,
            ),
            (r#"{"type":"redacted_thinking","data":"xyz"}"#, true),
            (r#"{"type":"web_search_tool_result","content":[]}"#, true),
            (r#"{"type":"compaction","content":null}"#, false),
            (r#"{"type":"something_new"}"#, true),
            ("7", true),
        ] {
            let data =
                format!(r#"{{"type":"content_block_start","index":0,"content_block":{block}}}"#);
            let (watch, _) = watch(&[("message_start", START), ("content_block_start", &data)]);
            assert_eq!(watch.has_content(), content, "{block}");
        }
    }

    #[test]
    fn a_breach_of_order_is_named_and_a_stop_without_a_start_is_not_complete() {
        let (lone, _) = watch(&[("message_stop", "{}")]);
        assert_eq!(
            (lone.end(), lone.violation()),
            (End::Truncated, Some("message_stop without message_start"),)
        );
        let (unreadable, _) = watch(&[("message_start", "{\"mess"), ("message_stop", "{}")]);
        assert_eq!(unreadable.end(), End::Truncated);
        let (outside, _) = watch(&[("message_start", START), ("content_block_delta", DELTA)]);
        assert_eq!(outside.violation(), Some("content outside a block"));
        let (inside, _) = watch(&[
            ("message_start", START),
            ("content_block_start", TEXT),
            ("message_stop", "{}"),
        ]);
        assert_eq!(inside.end(), End::Truncated);
    }
}
