//! An answer of the Messages API as a value, put together from a body or from a stream's events.
//!
//! What a stream has said so far is a [`Message`] at every moment, so that an answer that breaks off
//! still has a partial one. Content blocks stay JSON: kinds that are not known here keep every field.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::provider::anthropic::usage::{Tokens, Usage};

/// An answer, or what there is of it.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Message {
    /// The provider's id of it.
    pub id: Option<String>,
    /// The model that wrote it.
    pub model: Option<String>,
    /// The content blocks, as on the wire.
    pub content: Vec<Value>,
    /// Why the model stopped; absent while it has not.
    pub stop_reason: Option<String>,
    /// What it used, as far as the provider has said.
    pub usage: Usage,
}

impl Message {
    /// Reads a whole answer; `None` if it is none.
    #[must_use]
    pub fn from_body(body: &[u8]) -> Option<Self> {
        let read: Read = serde_json::from_slice(body).ok()?;
        Some(Self {
            usage: Usage::from_body(body).unwrap_or_default(),
            ..read.into()
        })
    }

    /// All of its text, tool calls and thinking left out.
    #[must_use]
    pub fn text(&self) -> String {
        self.content
            .iter()
            .filter(|block| block.get("type").is_some_and(|kind| kind == "text"))
            .filter_map(|block| block.get("text").and_then(Value::as_str))
            .collect()
    }

    /// The calls of tools in it: id, name and input.
    pub fn tool_calls(&self) -> impl Iterator<Item = (&str, &str, &Value)> {
        self.content.iter().filter_map(|block| {
            if block.get("type").is_none_or(|kind| kind != "tool_use") {
                return None;
            }
            let id = block.get("id").and_then(Value::as_str)?;
            let name = block.get("name").and_then(Value::as_str)?;
            Some((id, name, block.get("input")?))
        })
    }

    /// What is billed for it so far.
    #[must_use]
    pub fn billed(&self) -> Tokens {
        self.usage.billed()
    }
}

/// Puts a message together from the events of its stream.
#[derive(Debug, Clone, Default)]
pub struct Assembler {
    message: Message,
    /// All members of the message but its content, as the stream has said them so far.
    members: Map<String, Value>,
    /// The input of the tool call that is open, as far as it has come.
    input: String,
    whole: bool,
    /// Some of it came in a way that is not known here.
    in_part: bool,
}

impl Assembler {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the data of one event. Events that are no part of a message change nothing.
    pub fn push(&mut self, data: &str) {
        if let Ok(event) = serde_json::from_str::<PlainDelta<'_>>(data)
            && event.kind == "content_block_delta"
            && self.append(&event.delta)
        {
            return;
        }
        let Ok(event) = serde_json::from_str::<Event>(data) else {
            return;
        };
        match event {
            Event::MessageStart { message } => {
                let usage = Usage::from_value(&message).unwrap_or_default();
                if let Value::Object(members) = &message {
                    self.members = members.clone();
                    self.members.remove("content");
                }
                if let Ok(read) = serde_json::from_value::<Read>(message) {
                    self.message = Message {
                        usage,
                        ..read.into()
                    };
                }
            }
            Event::ContentBlockStart { content_block } => {
                self.input.clear();
                self.message.content.push(content_block);
            }
            Event::ContentBlockDelta { delta } => self.delta(delta),
            Event::ContentBlockStop => self.end_block(),
            Event::MessageDelta {
                delta,
                usage,
                beside,
            } => {
                if let Some(Value::String(reason)) = delta.get("stop_reason") {
                    self.message.stop_reason = Some(reason.clone());
                }
                self.members.extend(delta);
                self.members.extend(beside);
                self.sum_up(&usage);
                if let Some(usage) = Usage::from_value(&Value::from_iter([("usage", usage)])) {
                    self.message.usage.overwrite(usage);
                }
            }
            Event::MessageStop => self.whole = true,
            Event::Other => {}
        }
    }

    /// What there is of the message.
    #[must_use]
    pub const fn message(&self) -> &Message {
        &self.message
    }

    /// Whether it is all there.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.whole
    }

    /// Hands the message out.
    #[must_use]
    pub fn into_message(self) -> Message {
        self.message
    }

    /// The body that a request without streaming would have been answered with. `None` while the
    /// message is not whole, and where some of it came in a way that is not known here.
    #[must_use]
    pub fn into_body(mut self) -> Option<Vec<u8>> {
        if !self.whole || self.in_part {
            return None;
        }
        let content = Value::Array(self.message.content);
        self.members.insert("content".to_owned(), content);
        serde_json::to_vec(&self.members).ok()
    }

    /// Usage is cumulative: what is stated again replaces what was, and what is null says nothing.
    fn sum_up(&mut self, usage: &Value) {
        let Value::Object(usage) = usage else {
            return;
        };
        let so_far = self.members.entry("usage").or_insert(Value::Null);
        match so_far {
            Value::Object(so_far) => {
                for (name, count) in usage {
                    if !count.is_null() || !so_far.contains_key(name) {
                        so_far.insert(name.clone(), count.clone());
                    }
                }
            }
            _ => *so_far = Value::Object(usage.clone()),
        }
    }

    /// `false` where the delta is none that only brings text.
    fn append(&mut self, delta: &Plain<'_>) -> bool {
        let Some(Value::Object(block)) = self.message.content.last_mut() else {
            return false;
        };
        match (&*delta.kind, &delta.text, &delta.partial_json) {
            ("text_delta", Some(more), None) => {
                let Some(Value::String(so_far)) = block.get_mut("text") else {
                    return false;
                };
                so_far.push_str(more);
            }
            ("input_json_delta", None, Some(more)) => self.input.push_str(more),
            _ => return false,
        }
        true
    }

    fn delta(&mut self, delta: Map<String, Value>) {
        let Some(Value::Object(block)) = self.message.content.last_mut() else {
            self.in_part = true;
            return;
        };
        let kind = delta.get("type").and_then(Value::as_str).unwrap_or("");
        match kind {
            "input_json_delta" => {
                if let Some(Value::String(more)) = delta.get("partial_json") {
                    self.input.push_str(more);
                }
            }
            "citations_delta" => {
                if let Some(citation) = delta.get("citation") {
                    let list = block.entry("citations").or_insert(Value::Array(Vec::new()));
                    if list.is_null() {
                        *list = Value::Array(Vec::new());
                    }
                    if let Value::Array(list) = list {
                        list.push(citation.clone());
                    }
                }
            }
            // `text_delta` brings `text`, `thinking_delta` brings `thinking`, and so on: whatever
            // text a delta brings belongs at the end of the block's field of the same name.
            _ => {
                // Beside text, these only bring signs of progress.
                let is_known = matches!(kind, "text_delta" | "thinking_delta" | "signature_delta");
                self.in_part |= !is_known && delta.values().any(|v| !v.is_string() && !v.is_null());
                for (field, more) in delta {
                    let Value::String(more) = more else { continue };
                    if field == "type" {
                        continue;
                    }
                    match block.get_mut(&field) {
                        Some(Value::String(so_far)) => so_far.push_str(&more),
                        _ => drop(block.insert(field, Value::String(more))),
                    }
                }
            }
        }
    }

    fn end_block(&mut self) {
        if self.input.is_empty() {
            return;
        }
        let input = serde_json::from_str::<Value>(&self.input);
        match (input, self.message.content.last_mut()) {
            (Ok(input), Some(Value::Object(block))) => {
                block.insert("input".to_owned(), input);
            }
            // Such as a call that the bound on tokens cut.
            _ => self.in_part = true,
        }
        self.input.clear();
    }
}

#[derive(Deserialize)]
struct Read {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    model: Option<String>,
    content: Vec<Value>,
    #[serde(default)]
    stop_reason: Option<String>,
}

impl From<Read> for Message {
    fn from(read: Read) -> Self {
        Self {
            id: read.id,
            model: read.model,
            content: read.content,
            stop_reason: read.stop_reason,
            usage: Usage::default(),
        }
    }
}

/// A delta as nearly all are, read without a tree.
#[derive(Deserialize)]
struct PlainDelta<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    delta: Plain<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    partial_json: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Event {
    MessageStart {
        message: Value,
    },
    ContentBlockStart {
        content_block: Value,
    },
    ContentBlockDelta {
        delta: Map<String, Value>,
    },
    ContentBlockStop,
    MessageDelta {
        #[serde(default)]
        delta: Map<String, Value>,
        #[serde(default)]
        usage: Value,
        #[serde(flatten)]
        beside: Map<String, Value>,
    },
    MessageStop,
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn assembled(events: &[Value]) -> Assembler {
        let mut assembler = Assembler::new();
        for event in events {
            assembler.push(&event.to_string());
        }
        assembler
    }

    fn delta(index: u64, delta: &Value) -> Value {
        json!({ "type": "content_block_delta", "index": index, "delta": delta })
    }

    #[test]
    fn a_stream_becomes_the_message_that_a_body_would_have_been() {
        let start = json!({ "type": "message_start", "message": {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [],
            "stop_reason": null, "usage": { "input_tokens": 7, "output_tokens": 1 } } });
        let block = |index: u64, block: Value| json!({ "type": "content_block_start", "index": index, "content_block": block });
        let stop = |index: u64| json!({ "type": "content_block_stop", "index": index });
        let events = [
            start,
            json!({ "type": "ping" }),
            block(
                0,
                json!({ "type": "thinking", "thinking": "", "signature": "" }),
            ),
            delta(0, &json!({ "type": "thinking_delta", "thinking": "Hm" })),
            delta(0, &json!({ "type": "signature_delta", "signature": "s" })),
            stop(0),
            block(1, json!({ "type": "text", "text": "", "citations": null })),
            delta(1, &json!({ "type": "text_delta", "text": "Hello " })),
            delta(1, &json!({ "type": "text_delta", "text": "there" })),
            delta(
                1,
                &json!({ "type": "citations_delta", "citation": { "n": 1 } }),
            ),
            stop(1),
            block(
                2,
                json!({ "type": "tool_use", "id": "t", "name": "f", "input": {} }),
            ),
            delta(
                2,
                &json!({ "type": "input_json_delta", "partial_json": "" }),
            ),
            delta(
                2,
                &json!({ "type": "input_json_delta", "partial_json": "{\"a\"" }),
            ),
            delta(
                2,
                &json!({ "type": "input_json_delta", "partial_json": ":1}" }),
            ),
            stop(2),
            json!({ "type": "message_delta", "delta": { "stop_reason": "tool_use" }, "usage": { "output_tokens": 9, "input_tokens": null } }),
            json!({ "type": "message_stop" }),
        ];
        let assembler = assembled(&events);
        assert!(assembler.is_whole());
        let message = assembler.into_message();
        let body = json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "m",
            "content": [
                { "type": "thinking", "thinking": "Hm", "signature": "s" },
                { "type": "text", "text": "Hello there", "citations": [{ "n": 1 }] },
                { "type": "tool_use", "id": "t", "name": "f", "input": { "a": 1 } },
            ],
            "stop_reason": "tool_use",
            "usage": { "input_tokens": 7, "output_tokens": 9 },
        });
        assert_eq!(
            Message::from_body(body.to_string().as_bytes()),
            Some(message.clone())
        );
        assert_eq!(message.text(), "Hello there");
        let calls: Vec<_> = message.tool_calls().collect();
        assert_eq!(calls, [("t", "f", &json!({ "a": 1 }))]);
    }

    #[test]
    fn what_is_no_message_is_none_and_what_breaks_off_is_partial() {
        assert_eq!(Message::from_body(b"{\"input_tokens\":4}"), None);
        assert_eq!(Message::from_body(b"<html>"), None);
        let assembler = assembled(&[
            json!({ "type": "message_start", "message": { "id": "msg_1", "content": [] } }),
            json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }),
            delta(0, &json!({ "type": "text_delta", "text": "Hel" })),
        ]);
        assert!(!assembler.is_whole());
        assert_eq!(assembler.message().text(), "Hel");
        assert_eq!(assembler.message().stop_reason, None);
    }
}
