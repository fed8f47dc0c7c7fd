//! A whole message as the stream that would have brought it.
//!
//! Text, thinking, a tool's input and citations come in deltas, since SDKs put a message together
//! from these; a block of any other kind is whole in its start, as the provider sends those. Members
//! that are not known here go where their message or block begins.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Members that are not known before the message ends: in the delta of its `message_delta`, and
/// beside it.
const LAST: [&str; 4] = ["stop_reason", "stop_sequence", "stop_details", "container"];
const BESIDE: &str = "context_management";

/// Members of blocks that deltas bring, in the order of these.
const IN_DELTAS: [&str; 5] = ["text", "citations", "thinking", "signature", "input"];

/// A JSON object, its members in their order and unread.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    fn get(&self, name: &str) -> Option<&'a RawValue> {
        let mut members = self.0.iter();
        members.find_map(|(key, value)| (key == name).then_some(*value))
    }

    fn kind(&self) -> Option<&'a str> {
        let kind = self.get("type")?.get();
        kind.strip_prefix('"')?.strip_suffix('"')
    }
}

/// All events of a message; `None` where `body` is none.
pub(super) fn events(body: &[u8]) -> Option<Bytes> {
    let message: Members<'_> = serde_json::from_slice(body).ok()?;
    let content: Vec<Members<'_>> = serde_json::from_str(message.get("content")?.get()).ok()?;
    let mut out = Events(String::with_capacity(body.len() + 1024));
    out.start(&message)?;
    for (index, block) in content.iter().enumerate() {
        out.block(index, block)?;
    }
    out.end(&message);
    Some(out.0.into())
}

/// Whether a delta brings the member of a block of this kind, so that it starts empty.
fn starts_empty(kind: &str, name: &str, value: &RawValue) -> Option<&'static str> {
    match (kind, name) {
        ("text", "text") | ("thinking", "thinking" | "signature") if is_string(value) => {
            Some("\"\"")
        }
        ("text", "citations") if is_list(value) => Some("[]"),
        ("tool_use" | "server_tool_use" | "mcp_tool_use", "input") => Some("{}"),
        _ => None,
    }
}

fn is_string(value: &RawValue) -> bool {
    value.get().starts_with('"')
}

fn is_list(value: &RawValue) -> bool {
    value.get().starts_with('[')
}

struct Events(String);

impl Events {
    fn begin(&mut self, name: &str) {
        for part in ["event: ", name, "\ndata: {\"type\":\"", name, "\""] {
            self.0.push_str(part);
        }
    }

    fn end_event(&mut self) {
        self.0.push_str("}\n\n");
    }

    /// Writes JSON. Between its tokens a line may end, which would end the event's data.
    fn raw(&mut self, json: &str) {
        if json.contains(['\n', '\r']) {
            self.0.push_str(&json.replace(['\n', '\r'], " "));
        } else {
            self.0.push_str(json);
        }
    }

    fn member(&mut self, name: &str, value: &str) {
        if !self.0.ends_with('{') {
            self.0.push(',');
        }
        // A name of a member is short, and mostly needs no escape.
        self.0.push_str(&serde_json::Value::from(name).to_string());
        self.0.push(':');
        self.raw(value);
    }

    fn start(&mut self, message: &Members<'_>) -> Option<()> {
        self.begin("message_start");
        self.0.push_str(",\"message\":{");
        for (name, value) in &message.0 {
            match &**name {
                "content" => self.member(name, "[]"),
                "usage" => {
                    self.member(name, "{");
                    self.usage_at_start(value)?;
                }
                name if name == BESIDE || LAST.contains(&name) => self.member(name, "null"),
                _ => self.member(name, value.get()),
            }
        }
        self.0.push('}');
        self.end_event();
        Some(())
    }

    /// What is known at the start of what a message used: all but its output.
    fn usage_at_start(&mut self, usage: &RawValue) -> Option<()> {
        let usage: Members<'_> = serde_json::from_str(usage.get()).ok()?;
        for (name, value) in &usage.0 {
            match &**name {
                "output_tokens" => self.member(name, "0"),
                "output_tokens_details" | "iterations" => {}
                _ => self.member(name, value.get()),
            }
        }
        self.0.push('}');
        Some(())
    }

    fn block(&mut self, index: usize, block: &Members<'_>) -> Option<()> {
        let kind = block.kind().unwrap_or_default();
        let index = index.to_string();
        self.begin("content_block_start");
        self.member("index", &index);
        self.0.push_str(",\"content_block\":{");
        for (name, value) in &block.0 {
            let value = starts_empty(kind, name, value).unwrap_or_else(|| value.get());
            self.member(name, value);
        }
        self.0.push('}');
        self.end_event();
        for name in IN_DELTAS {
            if let Some(value) = block.get(name)
                && starts_empty(kind, name, value).is_some()
            {
                self.deltas(&index, name, value)?;
            }
        }
        self.begin("content_block_stop");
        self.member("index", &index);
        self.end_event();
        Some(())
    }

    fn deltas(&mut self, index: &str, name: &str, value: &RawValue) -> Option<()> {
        let text = value.get();
        match name {
            "input" => {
                let json = serde_json::to_string(text).ok()?;
                self.delta(index, "input_json_delta", ("partial_json", &json));
            }
            "citations" => {
                let citations: Vec<&RawValue> = serde_json::from_str(text).ok()?;
                for citation in citations {
                    self.delta(index, "citations_delta", ("citation", citation.get()));
                }
            }
            _ if text == "\"\"" => {}
            "thinking" => self.delta(index, "thinking_delta", (name, text)),
            "signature" => self.delta(index, "signature_delta", (name, text)),
            _ => self.delta(index, "text_delta", (name, text)),
        }
        Some(())
    }

    fn delta(&mut self, index: &str, kind: &str, (name, value): (&str, &str)) {
        self.begin("content_block_delta");
        self.member("index", index);
        self.0.push_str(",\"delta\":{\"type\":\"");
        self.0.push_str(kind);
        self.0.push('"');
        self.member(name, value);
        self.0.push('}');
        self.end_event();
    }

    fn end(&mut self, message: &Members<'_>) {
        self.begin("message_delta");
        self.0.push_str(",\"delta\":{");
        for name in LAST {
            if let Some(value) = message.get(name) {
                self.member(name, value.get());
            }
        }
        self.0.push('}');
        for name in ["usage", BESIDE] {
            if let Some(value) = message.get(name) {
                self.member(name, value.get());
            }
        }
        self.end_event();
        self.begin("message_stop");
        self.end_event();
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(12);
                while let Some(Name(name)) = map.next_key()? {
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests;
