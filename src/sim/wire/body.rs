//! The fields of a request that an answer depends on.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Refusal;

/// The tool that the answer calls, if it calls one.
#[derive(Debug, Clone)]
pub(in crate::sim) struct Tool {
    pub(in crate::sim) name: String,
    pub(in crate::sim) input_schema: Value,
    /// Whether `tool_choice` leaves no other answer.
    pub(in crate::sim) forced: bool,
}

/// Whether the answer begins with a thinking block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sim) enum Thinking {
    Off,
    Shown,
    Omitted,
}

/// The fields that the answer depends on, raw; others are left alone.
#[derive(Deserialize)]
pub(super) struct Body<'a> {
    #[serde(borrow, default)]
    pub(super) model: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) messages: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) system: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) tools: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) max_tokens: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) stream: Option<Value>,
    #[serde(default)]
    pub(super) speed: Option<Value>,
    #[serde(default)]
    pub(super) tool_choice: Option<Value>,
    #[serde(default)]
    pub(super) thinking: Option<Value>,
    #[serde(borrow, default)]
    pub(super) temperature: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) top_p: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) top_k: Option<&'a RawValue>,
}

impl Body<'_> {
    pub(super) fn model(&self) -> Result<String, Refusal> {
        let raw = self
            .model
            .ok_or_else(|| Refusal::invalid("model: Field required"))?;
        let model: String = serde_json::from_str(raw.get())
            .map_err(|_| Refusal::invalid("model: Input should be a valid string"))?;
        if model.is_empty() {
            return Err(Refusal::invalid(
                "model: String should have at least 1 character",
            ));
        }
        Ok(model)
    }

    pub(super) fn max_tokens(&self) -> Result<u64, Refusal> {
        let raw = self
            .max_tokens
            .ok_or_else(|| Refusal::invalid("max_tokens: Field required"))?;
        let value: Value = serde_json::from_str(raw.get()).unwrap_or_default();
        match (value.as_u64(), value.is_i64()) {
            (Some(0), _) | (None, true) => Err(Refusal::invalid(
                "max_tokens: Input should be greater than or equal to 1",
            )),
            (Some(tokens), _) => Ok(tokens),
            (None, false) => Err(Refusal::invalid(
                "max_tokens: Input should be a valid integer",
            )),
        }
    }

    /// Four bytes a token over everything the model would read.
    pub(super) fn counted(&self) -> u64 {
        let bytes: usize = [self.system, self.messages, self.tools]
            .into_iter()
            .flatten()
            .map(|raw| raw.get().len())
            .sum();
        8 + u64::try_from(bytes.div_ceil(4)).unwrap_or(u64::MAX / 2)
    }

    pub(super) fn tool(&self) -> Result<Option<Tool>, Refusal> {
        #[derive(Deserialize)]
        struct Offered {
            name: String,
            #[serde(default)]
            input_schema: Value,
        }
        let field = |name: &str| {
            let choice = self.tool_choice.as_ref()?;
            choice.get(name).and_then(Value::as_str)
        };
        let (kind, wanted) = (field("type").unwrap_or("auto"), field("name"));
        let forced = matches!(kind, "any" | "tool");
        if !forced && (kind != "auto" || self.brings_a_result()) {
            return Ok(None);
        }
        let tools: Vec<Offered> = self
            .tools
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or_default();
        // A tool that the provider runs itself has no schema and is no tool_use of the client's.
        let found = tools.into_iter().find(|tool| match kind {
            "tool" => Some(tool.name.as_str()) == wanted,
            _ => tool.input_schema.is_object(),
        });
        if forced && found.is_none() {
            let name = wanted.unwrap_or("any");
            return Err(Refusal::invalid(format!(
                "tool_choice: Tool '{name}' not found in provided tools"
            )));
        }
        Ok(found.map(|tool| Tool {
            name: tool.name,
            input_schema: tool.input_schema,
            forced,
        }))
    }

    /// Whether the last message holds the result of a tool.
    fn brings_a_result(&self) -> bool {
        #[derive(Deserialize)]
        struct Message {
            content: Value,
        }
        let messages: Vec<&RawValue> = self
            .messages
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or_default();
        let last: Option<Message> = messages
            .last()
            .and_then(|raw| serde_json::from_str(raw.get()).ok());
        let content = last.map(|message| message.content);
        content
            .as_ref()
            .and_then(Value::as_array)
            .is_some_and(|blocks| blocks.iter().any(|block| block["type"] == "tool_result"))
    }

    pub(super) fn thinking(&self) -> Thinking {
        let field = |name: &str| {
            self.thinking
                .as_ref()
                .and_then(|t| t.get(name))
                .and_then(Value::as_str)
        };
        match (field("type"), field("display")) {
            (Some("enabled" | "adaptive"), Some("omitted")) => Thinking::Omitted,
            (Some("enabled" | "adaptive"), _) => Thinking::Shown,
            _ => Thinking::Off,
        }
    }
}
