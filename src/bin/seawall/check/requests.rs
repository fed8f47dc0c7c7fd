//! The kinds of requests whose way down a ladder is foretold, as clients send them.

use serde_json::{Value, json};

/// What clients send.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    /// Its name in JSON.
    pub(super) word: &'static str,
    /// Its name for people.
    pub(super) title: &'static str,
    /// The fields of its body besides the model, `stream` and those that are usual.
    fields: fn() -> Value,
}

const fn kind(word: &'static str, title: &'static str, fields: fn() -> Value) -> Kind {
    Kind {
        word,
        title,
        fields,
    }
}

/// Every kind, in the order in which they are shown.
pub(super) const KINDS: [Kind; 22] = [
    kind("text", "text", || json!({})),
    kind("tools", "tools", || json!({ "tools": [tool()] })),
    kind(
        "forced_tools",
        "a forced call of a tool",
        || json!({ "tools": [tool()], "tool_choice": { "type": "any" } }),
    ),
    kind(
        "server_tools",
        "web search",
        || json!({ "tools": [{ "type": "web_search_20250305", "name": "web_search" }] }),
    ),
    kind("images", "images", || {
        said(&json!([{
            "type": "image",
            "source": { "type": "base64", "media_type": "image/png", "data": PIXEL },
        }]))
    }),
    kind("documents", "documents", || {
        said(&json!([pdf(false), text()]))
    }),
    kind("citations", "citations", || {
        said(&json!([pdf(true), text()]))
    }),
    kind(
        "adaptive_thinking",
        "adaptive thinking",
        || json!({ "thinking": { "type": "adaptive" } }),
    ),
    kind(
        "thinking_budget",
        "thinking with a budget",
        || json!({ "max_tokens": 4_096, "thinking": { "type": "enabled", "budget_tokens": 2_048 } }),
    ),
    kind(
        "no_thinking",
        "thinking turned off",
        || json!({ "thinking": { "type": "disabled" } }),
    ),
    kind(
        "earlier_thinking",
        "an agent's turn with its earlier thinking",
        agents_turn,
    ),
    kind(
        "effort",
        "a level of effort",
        || json!({ "output_config": { "effort": "low" } }),
    ),
    kind("json_schema", "a JSON schema", || {
        let schema = json!({ "type": "object", "additionalProperties": false });
        json!({ "output_config": { "format": { "type": "json_schema", "schema": schema } } })
    }),
    kind(
        "prompt_caching",
        "prompt caching",
        || json!({ "cache_control": { "type": "ephemeral" } }),
    ),
    kind("sampling", "a temperature", || json!({ "temperature": 0 })),
    kind("prefill", "a prefilled answer", || {
        json!({ "messages": [
            { "role": "user", "content": "?" },
            { "role": "assistant", "content": "{" },
        ] })
    }),
    kind("fast_mode", "fast mode", || json!({ "speed": "fast" })),
    kind(
        "inference_geo",
        "a place to run in",
        || json!({ "inference_geo": "us" }),
    ),
    kind(
        "answer_32k",
        "answers of up to 32,000 tokens",
        || json!({ "max_tokens": 32_000 }),
    ),
    kind(
        "answer_128k",
        "answers of up to 128,000 tokens",
        || json!({ "max_tokens": 128_000 }),
    ),
    kind("prompt_150k", "prompts of about 150,000 tokens", || {
        prompt_of(150_000)
    }),
    kind("prompt_500k", "prompts of about 500,000 tokens", || {
        prompt_of(500_000)
    }),
];

impl Kind {
    /// The body of such a request.
    pub(super) fn body(&self, model: &str) -> String {
        let mut body = json!({
            "model": model, "max_tokens": 1_024,
            "messages": [{ "role": "user", "content": "a question" }],
        });
        if let (Some(body), Value::Object(fields)) = (body.as_object_mut(), (self.fields)()) {
            body.extend(fields);
        }
        body.to_string()
    }
}

const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";

fn said(content: &Value) -> Value {
    json!({ "messages": [{ "role": "user", "content": content }] })
}

fn text() -> Value {
    json!({ "type": "text", "text": "a question" })
}

fn tool() -> Value {
    json!({ "name": "look", "description": "Looks.", "input_schema": { "type": "object" } })
}

fn pdf(cited: bool) -> Value {
    let mut document = json!({
        "type": "document",
        "source": { "type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjQK" },
    });
    if let (true, Some(document)) = (cited, document.as_object_mut()) {
        document.insert("citations".into(), json!({ "enabled": true }));
    }
    document
}

/// In the middle of its work: tools, the thinking that led to their call, and marks for the cache.
fn agents_turn() -> Value {
    json!({
        "max_tokens": 8_192,
        "system": [{ "type": "text", "text": "Help.", "cache_control": { "type": "ephemeral" } }],
        "tools": [tool()],
        "messages": [
            { "role": "user", "content": "a question" },
            { "role": "assistant", "content": [
                { "type": "thinking", "thinking": "Look.", "signature": "c2lnbmVk" },
                { "type": "tool_use", "id": "toolu_1", "name": "look", "input": {} },
            ] },
            { "role": "user", "content": [
                { "type": "tool_result", "tool_use_id": "toolu_1", "content": "seen" },
            ] },
        ],
    })
}

/// Words of four letters and a space are about one and a half tokens, whoever counts them.
fn prompt_of(tokens: usize) -> Value {
    json!({ "messages": [{ "role": "user", "content": "tide ".repeat(tokens / 3 * 2) }] })
}
