//! A successful answer: what it says, and the bytes it says it in.
//!
//! The text begins with the request's tag and has four characters a token, so that usage can be
//! checked against it. How long an answer is depends on the seed and the request alone; ids and
//! padding depend on the attempt too.

use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Map, Value};

use super::answer::{Act, Step};
use super::cache::Cached;
use super::head;
use super::scenario::{ModelSettings, Settings};
use super::seed;
use super::wire::{Ask, Thinking, Tool, tag_text};

/// Characters of one output token.
const CHARS: u64 = 4;
/// What a tool call costs besides its input (calibration of recorded calls).
const TOOL_CALL: u64 = 47;

const WORDS: [&str; 24] = [
    "tide", "harbour", "stone", "the", "and", "wave", "keeps", "under", "slow", "gate", "rises",
    "against", "water", "holds", "before", "storm", "along", "coast", "every", "anchor", "quiet",
    "falls", "into", "morning",
];

/// A successful answer.
#[derive(Debug)]
pub(super) struct Reply {
    id: String,
    model: String,
    blocks: Vec<Block>,
    stop_reason: &'static str,
    input: u64,
    cached: Cached,
    fast: bool,
    output: u64,
    seed: u64,
}

#[derive(Debug)]
enum Block {
    Thinking {
        text: String,
        signature: String,
        tokens: u64,
    },
    Text {
        text: String,
        tokens: u64,
    },
    Tool(Call),
}

/// A tool call with an input that fits the tool's schema.
#[derive(Debug)]
struct Call {
    id: String,
    name: String,
    input: String,
    tokens: u64,
}

impl Call {
    fn new(tool: &Tool, tag: &str, attempt: u64) -> Self {
        let input = tool_input(&tool.input_schema, tag);
        let written = u64::try_from(input.len()).unwrap_or_default();
        Self {
            id: head::id("toolu_", seed::mix(attempt, &[0x70])),
            name: tool.name.clone(),
            tokens: TOOL_CALL + written.div_ceil(CHARS),
            input,
        }
    }
}

impl Reply {
    /// Decides what the answer says.
    pub(super) fn compose(ask: &Ask, model: &ModelSettings, scenario: u64, attempt: u64) -> Self {
        let mut rng = seed::rng(scenario, &[ask.tag, 0x0e]);
        let drawn = model.output_tokens.draw(&mut rng);
        let mut reply = Self {
            id: head::id("msg_", attempt),
            model: ask.model.clone(),
            blocks: Vec::new(),
            stop_reason: if drawn > ask.max_tokens {
                "max_tokens"
            } else {
                "end_turn"
            },
            input: ask.input_tokens,
            cached: Cached::default(),
            fast: ask.fast,
            output: drawn.min(ask.max_tokens),
            seed: attempt,
        };
        let tag = tag_text(ask.tag);
        let call = ask.tool.as_ref().map(|tool| Call::new(tool, &tag, attempt));
        let mut left = reply.output;
        let mut then = None;
        match (call, ask.tool.as_ref().is_some_and(|tool| tool.forced)) {
            (Some(call), true) => {
                reply.only(call, ask.max_tokens);
                return reply;
            }
            (Some(call), false)
                if call.tokens < ask.max_tokens
                    && seed::chance(seed::mix(scenario, &[ask.tag, 0x70])) < model.tool_use =>
            {
                left = left.min(ask.max_tokens - call.tokens);
                reply.output = left + call.tokens;
                reply.stop_reason = "tool_use";
                then = Some(call);
            }
            _ => {}
        }
        if ask.thinking != Thinking::Off && left >= 4 {
            let tokens = left / 4;
            left -= tokens;
            let text = match ask.thinking {
                Thinking::Shown => prose(&mut rng, String::new(), tokens),
                Thinking::Off | Thinking::Omitted => String::new(),
            };
            let signature = head::id("", seed::mix(attempt, &[0x51]));
            reply.blocks.push(Block::Thinking {
                text,
                signature,
                tokens,
            });
        }
        reply.blocks.push(Block::Text {
            text: prose(&mut rng, format!("[{tag}] "), left),
            tokens: left,
        });
        reply.blocks.extend(then.map(Block::Tool));
        reply
    }

    /// The same answer, with what a cache had of its prompt.
    pub(super) const fn cached(mut self, cached: Cached) -> Self {
        let elsewhere = cached.read.saturating_add(cached.created);
        self.input = self.input.saturating_sub(elsewhere);
        self.cached = cached;
        self
    }

    /// An answer that is nothing but a tool call.
    fn only(&mut self, mut call: Call, max_tokens: u64) {
        self.stop_reason = "tool_use";
        if call.tokens > max_tokens {
            call.tokens = max_tokens;
            "{}".clone_into(&mut call.input);
            self.stop_reason = "max_tokens";
        }
        self.output = call.tokens;
        self.blocks.push(Block::Tool(call));
    }

    /// The body of an answer that is not streamed, with its output tokens.
    pub(super) fn whole(&self) -> (String, u64) {
        let blocks: Vec<String> = self.blocks.iter().map(Block::whole).collect();
        let body = format!(
            r#"{{"model":{},"id":"{}","type":"message","role":"assistant","content":[{}],"stop_reason":"{}","stop_sequence":null,"usage":{}}}"#,
            Value::from(self.model.as_str()),
            self.id,
            blocks.join(","),
            self.stop_reason,
            self.usage(self.output),
        );
        (body, self.output)
    }

    /// How long the model takes to write the answer.
    pub(super) fn writing(&self, model: &ModelSettings) -> Duration {
        pace(self.output, model)
    }

    /// The events of a stream. The first content follows the headers after `first`.
    pub(super) fn events(
        &self,
        model: &ModelSettings,
        settings: &Settings,
        first: Duration,
    ) -> Vec<Step> {
        let mut events = Events {
            steps: Vec::new(),
            pad: settings.padding.then(|| seed::rng(self.seed, &[0x9a])),
            model,
            instant: settings.instant,
            wait: Duration::ZERO,
        };
        let placeholder = seed::rng(self.seed, &[0x57])
            .random_range(1..=8)
            .min(self.output);
        let start = format!(
            r#"{{"type":"message_start","message":{{"model":{},"id":"{}","type":"message","role":"assistant","content":[],"stop_reason":null,"stop_sequence":null,"usage":{}}}}}"#,
            Value::from(self.model.as_str()),
            self.id,
            self.usage(placeholder),
        );
        events.push("message_start", &start, 0);
        events.wait = first;
        for (index, block) in self.blocks.iter().enumerate() {
            block.events(index, &mut events);
        }
        let delta = format!(
            r#"{{"type":"message_delta","delta":{{"stop_reason":"{}","stop_sequence":null}},"usage":{{"input_tokens":{},"cache_creation_input_tokens":{},"cache_read_input_tokens":{},"output_tokens":{}}}}}"#,
            self.stop_reason, self.input, self.cached.created, self.cached.read, self.output,
        );
        events.push("message_delta", &delta, 0);
        events.push("message_stop", r#"{"type":"message_stop"}"#, 0);
        events.steps
    }

    fn usage(&self, output: u64) -> String {
        let speed = if self.fast { r#","speed":"fast""# } else { "" };
        let Cached { read, created } = self.cached;
        format!(
            r#"{{"input_tokens":{},"cache_creation_input_tokens":{created},"cache_read_input_tokens":{read},"cache_creation":{{"ephemeral_5m_input_tokens":{created},"ephemeral_1h_input_tokens":0}},"output_tokens":{output},"service_tier":"standard"{speed},"inference_geo":"not_available"}}"#,
            self.input,
        )
    }
}

impl Block {
    fn whole(&self) -> String {
        match self {
            Self::Thinking {
                text, signature, ..
            } => format!(
                r#"{{"type":"thinking","thinking":{},"signature":"{signature}"}}"#,
                Value::from(text.as_str())
            ),
            Self::Text { text, .. } => {
                format!(r#"{{"type":"text","text":{}}}"#, Value::from(text.as_str()))
            }
            Self::Tool(Call {
                id, name, input, ..
            }) => format!(
                r#"{{"type":"tool_use","id":"{id}","name":{},"input":{input}}}"#,
                Value::from(name.as_str())
            ),
        }
    }

    fn events(&self, index: usize, events: &mut Events<'_>) {
        let open = match self {
            Self::Thinking { .. } => {
                r#"{"type":"thinking","thinking":"","signature":""}"#.to_owned()
            }
            Self::Text { .. } => r#"{"type":"text","text":""}"#.to_owned(),
            Self::Tool(Call { id, name, .. }) => format!(
                r#"{{"type":"tool_use","id":"{id}","name":{},"input":{{}}}}"#,
                Value::from(name.as_str())
            ),
        };
        let start =
            format!(r#"{{"type":"content_block_start","index":{index},"content_block":{open}}}"#);
        events.push("content_block_start", &start, 0);
        if index == 0 {
            events.ping();
        }
        match self {
            Self::Thinking {
                text,
                signature,
                tokens,
            } => {
                if text.is_empty() {
                    events.write(*tokens);
                } else {
                    events.deltas(index, ("thinking_delta", "thinking"), text, *tokens);
                }
                let silent = if text.is_empty() { *tokens } else { 0 };
                events.delta(index, ("signature_delta", "signature"), signature, silent);
            }
            Self::Text { text, tokens } => {
                events.deltas(index, ("text_delta", "text"), text, *tokens);
            }
            Self::Tool(Call { input, tokens, .. }) => {
                events.delta(index, ("input_json_delta", "partial_json"), "", 0);
                let shown = if input == "{}" { "" } else { input };
                events.deltas(index, ("input_json_delta", "partial_json"), shown, *tokens);
            }
        }
        events.push(
            "content_block_stop",
            &format!(r#"{{"type":"content_block_stop","index":{index}}}"#),
            0,
        );
    }
}

/// A stream in the making.
struct Events<'a> {
    steps: Vec<Step>,
    pad: Option<SmallRng>,
    model: &'a ModelSettings,
    instant: bool,
    wait: Duration,
}

impl Events<'_> {
    fn push(&mut self, name: &str, data: &str, tokens: u64) {
        let spaces = self.pad.as_mut().map_or(0, |rng| rng.random_range(0..16));
        let bytes = Bytes::from(frame(name, data, spaces));
        let after = std::mem::take(&mut self.wait);
        self.steps.push(Step {
            after,
            act: Act::Send(bytes, tokens),
        });
    }

    fn ping(&mut self) {
        self.steps.push(Step {
            after: Duration::ZERO,
            act: Act::Send(PING, 0),
        });
    }

    /// Time in which tokens are written.
    fn write(&mut self, tokens: u64) {
        if !self.instant {
            self.wait += pace(tokens, self.model);
        }
    }

    fn delta(&mut self, index: usize, (kind, field): (&str, &str), text: &str, tokens: u64) {
        let data = format!(
            r#"{{"type":"content_block_delta","index":{index},"delta":{{"type":"{kind}","{field}":{}}}}}"#,
            Value::from(text)
        );
        self.push("content_block_delta", &data, tokens);
    }

    /// Text in pieces, the tokens spread over them.
    fn deltas(&mut self, index: usize, kind: (&str, &str), text: &str, tokens: u64) {
        let each = u64::from(self.model.tokens_per_delta);
        let width = usize::try_from(each.saturating_mul(CHARS)).unwrap_or(usize::MAX);
        let mut left = tokens;
        let mut rest = text;
        while !rest.is_empty() {
            let cut = rest
                .char_indices()
                .nth(width)
                .map_or(rest.len(), |(at, _)| at);
            let (piece, tail) = rest.split_at(cut);
            let share = if tail.is_empty() {
                left
            } else {
                each.min(left)
            };
            left -= share;
            self.write(share);
            self.delta(index, kind, piece, share);
            rest = tail;
        }
        if left > 0 {
            self.write(left);
            self.delta(index, kind, "", left);
        }
    }
}

/// A ping's data has a space where no other event has one, and no padding.
pub(super) const PING: Bytes = Bytes::from_static(b"event: ping\ndata: {\"type\": \"ping\"}\n\n");

/// One SSE frame, with spaces before the last brace as recorded streams have.
pub(super) fn frame(name: &str, data: &str, spaces: usize) -> String {
    let open = data.strip_suffix('}').unwrap_or(data);
    format!("event: {name}\ndata: {open}{:spaces$}}}\n\n", "")
}

fn pace(tokens: u64, model: &ModelSettings) -> Duration {
    let tokens = f64::from(u32::try_from(tokens).unwrap_or(u32::MAX));
    Duration::try_from_secs_f64(tokens / model.tokens_per_second).unwrap_or_default()
}

/// ASCII text of exactly four characters a token, with `start` at its beginning.
fn prose(rng: &mut SmallRng, start: String, tokens: u64) -> String {
    let length = usize::try_from(tokens.saturating_mul(CHARS)).unwrap_or_default();
    let mut text = start;
    while text.len() < length {
        text.push_str(
            WORDS
                .get(rng.random_range(0..WORDS.len()))
                .copied()
                .unwrap_or("tide"),
        );
        text.push(' ');
    }
    text.truncate(length);
    if text.ends_with(' ') {
        text.pop();
        text.push('.');
    }
    text
}

/// An input that fits the schema's required properties; strings hold the request's tag.
fn tool_input(schema: &Value, tag: &str) -> String {
    let mut input = Map::new();
    let required = schema.get("required").and_then(Value::as_array);
    for name in required.into_iter().flatten().filter_map(Value::as_str) {
        let property = schema.get("properties").and_then(|all| all.get(name));
        let kind = property.and_then(|p| p.get("type")).and_then(Value::as_str);
        let choice = property
            .and_then(|p| p.get("enum"))
            .and_then(|all| all.get(0));
        let value = match (choice, kind) {
            (Some(choice), _) => choice.clone(),
            (None, Some("integer" | "number")) => Value::from(1),
            (None, Some("boolean")) => Value::Bool(true),
            (None, Some("array")) => Value::Array(Vec::new()),
            (None, Some("object")) => Value::Object(Map::new()),
            (None, Some("null")) => Value::Null,
            (None, _) => Value::from(tag),
        };
        input.insert(name.to_owned(), value);
    }
    Value::Object(input).to_string()
}
