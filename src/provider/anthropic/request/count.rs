//! One pass over a request body that counts and builds nothing.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::seen::Seen;
use super::shallow::Shallow;
use super::{Counts, ToolChoice, characters, pixels};
use crate::capability::Feature;
use crate::estimate;

/// The fields of the outermost object, and the counts below it.
#[derive(Default)]
pub(super) struct Top<'de> {
    pub(super) is_object: bool,
    pub(super) model: Option<&'de RawValue>,
    pub(super) stream: Option<&'de RawValue>,
    pub(super) max_tokens: Option<&'de RawValue>,
    pub(super) counts: Counts,
    pub(super) seen: Seen,
    tool_uses: u64,
    tool_results: u64,
    /// What is known of the block that is being read.
    block: Block,
}

/// The blocks that count as something else than their text.
#[derive(Clone, Copy, Default)]
enum BlockKind {
    #[default]
    Other,
    Result,
    Document,
    Image,
}

#[derive(Clone, Copy, Default)]
struct Block {
    is: BlockKind,
    /// Width and height of the image in its source.
    pixels: Option<(u32, u32)>,
    /// Its source holds text, which is counted as such.
    has_text: bool,
}

impl<'de> Top<'de> {
    /// Reads and counts everything.
    pub(super) fn read(body: &'de [u8]) -> Result<Self, serde_json::Error> {
        let mut top = Self::default();
        read(
            body,
            Node {
                kind: Kind::Top,
                top: &mut top,
            },
        )?;
        top.counts.round_trips = top.tool_results.min(top.tool_uses);
        top.seen.ends();
        Ok(top)
    }

    /// Reads the outermost fields of whatever is JSON at all, and counts nothing.
    pub(super) fn read_shallow(body: &'de [u8]) -> Result<Self, serde_json::Error> {
        let mut top = Self::default();
        read(body, Shallow(&mut top))?;
        Ok(top)
    }
}

/// What a value is, by where it stands.
#[derive(Clone, Copy)]
enum Kind {
    Top,
    Messages,
    Message,
    /// A string, or a list of blocks.
    Content,
    Block,
    Thinking,
    Source,
    Tools,
    ToolChoice,
    OutputConfig,
}

/// One value of a known kind. It accepts any JSON: what is not expected there is skipped.
struct Node<'t, 'de> {
    kind: Kind,
    top: &'t mut Top<'de>,
}

impl<'de> Node<'_, 'de> {
    const fn child(&mut self, kind: Kind) -> Node<'_, 'de> {
        Node {
            kind,
            top: self.top,
        }
    }

    fn text(&mut self, text: &str) {
        let seen = characters::count(text);
        let counts = &mut self.top.counts;
        counts.text = counts.text.saturating_add(to_u64(seen.plain));
        counts.digits = counts.digits.saturating_add(to_u64(seen.digits));
        counts.symbols = counts.symbols.saturating_add(to_u64(seen.symbols));
        counts.cjk = counts.cjk.saturating_add(to_u64(seen.wide));
    }

    /// A form that the answer must have.
    fn format(&mut self, format: &RawValue) {
        if format.get() == "null" {
            return;
        }
        self.top.seen.needs(Feature::JsonSchema);
        let counts = &mut self.top.counts;
        counts.formats += 1;
        let schema = to_u64(format.get().len());
        counts.format_schemas = counts.format_schemas.saturating_add(schema);
    }

    fn cache_control(&mut self, mark: &RawValue) {
        if mark.get() != "null" {
            self.cache_marked();
        }
    }

    const fn cache_marked(&mut self) {
        self.top.counts.cache_marked = true;
        self.top.seen.needs(Feature::PromptCaching);
    }

    fn tool(&mut self, tool: &str) {
        let counts = &mut self.top.counts;
        counts.tools += 1;
        counts.tool_definitions = counts.tool_definitions.saturating_add(to_u64(tool.len()));
        let is_own = is_own_tool(tool);
        counts.provider_tools += u64::from(!is_own);
        self.top.seen.needs(if is_own {
            Feature::Tools
        } else {
            Feature::ServerTools
        });
        if tool.contains("\"cache_control\"") {
            self.cache_marked();
        }
    }

    fn top_field<A: MapAccess<'de>>(&mut self, key: Key, map: &mut A) -> Result<(), A::Error> {
        match key {
            Key::Model => self.top.model = Some(map.next_value()?),
            Key::Stream => self.top.stream = Some(map.next_value()?),
            Key::MaxTokens => self.top.max_tokens = Some(map.next_value()?),
            Key::System => map.next_value_seed(self.child(Kind::Content))?,
            Key::Messages => map.next_value_seed(self.child(Kind::Messages))?,
            Key::Tools => map.next_value_seed(self.child(Kind::Tools))?,
            Key::ToolChoice => map.next_value_seed(self.child(Kind::ToolChoice))?,
            Key::OutputConfig => map.next_value_seed(self.child(Kind::OutputConfig))?,
            Key::OutputFormat => {
                let format = map.next_value()?;
                self.format(format);
            }
            Key::CacheControl => {
                let mark = map.next_value()?;
                self.cache_control(mark);
            }
            Key::Thinking => {
                let asked: &RawValue = map.next_value()?;
                self.top.counts.thinking = asked.get().contains("\"enabled\"");
                self.top.seen.thinking(asked.get());
            }
            Key::McpServers => {
                let servers: &RawValue = map.next_value()?;
                let some = self.top.seen.elsewhere(servers.get());
                self.top.counts.provider_tools += u64::from(some);
            }
            Key::Container => {
                let container: &RawValue = map.next_value()?;
                self.top.seen.elsewhere(container.get());
            }
            Key::Temperature | Key::TopP | Key::TopK => {
                let value: &RawValue = map.next_value()?;
                let is_temperature = matches!(key, Key::Temperature);
                self.top.seen.sampling(is_temperature, value.get());
            }
            Key::InferenceGeo => {
                if map.next_value::<&RawValue>()?.get() != "null" {
                    self.top.seen.needs(Feature::InferenceGeo);
                }
            }
            Key::Speed => {
                if map.next_value::<&RawValue>()?.get() == "\"fast\"" {
                    self.top.seen.needs(Feature::FastMode);
                }
            }
            _ => skip(map)?,
        }
        Ok(())
    }

    fn block_field<A: MapAccess<'de>>(&mut self, key: Key, map: &mut A) -> Result<(), A::Error> {
        match key {
            Key::Thinking => map.next_value_seed(self.child(Kind::Thinking))?,
            Key::Text | Key::Content => {
                map.next_value_seed(self.child(Kind::Content))?;
            }
            Key::Source => map.next_value_seed(self.child(Kind::Source))?,
            Key::CacheControl => {
                let mark = map.next_value()?;
                self.cache_control(mark);
            }
            Key::Input => {
                let raw: &RawValue = map.next_value()?;
                let counts = &mut self.top.counts;
                counts.tool_calls = counts.tool_calls.saturating_add(to_u64(raw.get().len()));
            }
            Key::Citations => {
                let citations: &RawValue = map.next_value()?;
                self.top.seen.citations(citations.get());
            }
            Key::Type => {
                let kind = map.next_value::<&RawValue>()?.get();
                self.top.seen.block(kind);
                match kind {
                    "\"tool_use\"" | "\"server_tool_use\"" | "\"mcp_tool_use\"" => {
                        self.top.tool_uses += 1;
                    }
                    "\"tool_result\"" => {
                        self.top.tool_results += 1;
                        self.top.block.is = BlockKind::Result;
                    }
                    "\"image\"" => self.top.block.is = BlockKind::Image,
                    "\"document\"" => self.top.block.is = BlockKind::Document,
                    _ => {}
                }
            }
            _ => skip(map)?,
        }
        Ok(())
    }

    /// The keys come in any order, so what the block is shows only at the end.
    fn block<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        let around = std::mem::take(&mut self.top.block);
        let before = self.top.counts;
        while let Some(key) = map.next_key()? {
            self.block_field(key, map)?;
        }
        let block = std::mem::replace(&mut self.top.block, around);
        let counts = &mut self.top.counts;
        match (block.is, block.pixels) {
            (BlockKind::Result, _) => {
                let result = narrow(counts).saturating_sub(narrow(&before));
                counts.tool_results = counts.tool_results.saturating_add(result);
                counts.text = before.text;
                counts.digits = before.digits;
                counts.symbols = before.symbols;
            }
            (BlockKind::Document, _) => counts.pages += u64::from(!block.has_text),
            (BlockKind::Image, Some((width, height))) => {
                let tokens = |newer| estimate::image_tokens(newer, width, height);
                counts.image_tokens = counts.image_tokens.saturating_add(tokens(false));
                let newer = counts.image_tokens_newer.saturating_add(tokens(true));
                counts.image_tokens_newer = newer;
            }
            (BlockKind::Image, None) => counts.unknown_images += 1,
            (BlockKind::Other, _) => {}
        }
        Ok(())
    }

    /// As with a block, what the data is shows only at the end.
    fn source<A: MapAccess<'de>>(&mut self, map: &mut A) -> Result<(), A::Error> {
        let mut data: Option<&RawValue> = None;
        let mut media: Option<&RawValue> = None;
        while let Some(key) = map.next_key()? {
            match key {
                Key::Data => data = Some(map.next_value()?),
                Key::MediaType => media = Some(map.next_value()?),
                Key::Content => {
                    self.top.block.has_text = true;
                    map.next_value_seed(self.child(Kind::Content))?;
                }
                _ => skip(map)?,
            }
        }
        let is = |kind: &str| media.is_some_and(|media| media.get().starts_with(kind));
        if let (true, Some(data)) = (is("\"image/"), data) {
            self.top.block.pixels = pixels::size(data.get().trim_matches('"'));
        }
        let is_text = is("\"text/");
        if let (true, Some(data)) = (is_text, data)
            && let Ok(text) = serde_json::from_str::<String>(data.get())
        {
            self.top.block.has_text = true;
            self.text(&text);
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_str<E>(mut self, text: &str) -> Result<(), E> {
        match self.kind {
            Kind::Content => self.text(text),
            Kind::Thinking => {
                let thought = &mut self.top.counts.replayed_thinking;
                *thought = thought.saturating_add(to_u64(text.chars().count()));
            }
            _ => {}
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        match self.kind {
            Kind::Messages => {
                while seq.next_element_seed(self.child(Kind::Message))?.is_some() {
                    self.top.counts.messages += 1;
                }
            }
            Kind::Content => while seq.next_element_seed(self.child(Kind::Block))?.is_some() {},
            Kind::Tools => {
                while let Some(tool) = seq.next_element::<&RawValue>()? {
                    self.tool(tool.get());
                }
            }
            Kind::Top
            | Kind::Message
            | Kind::Block
            | Kind::Source
            | Kind::Thinking
            | Kind::ToolChoice
            | Kind::OutputConfig => while seq.next_element::<IgnoredAny>()?.is_some() {},
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        match self.kind {
            Kind::Top => {
                self.top.is_object = true;
                while let Some(key) = map.next_key()? {
                    self.top_field(key, &mut map)?;
                }
            }
            Kind::Message => {
                self.top.seen.message_begins();
                let mut role: Option<&RawValue> = None;
                while let Some(key) = map.next_key()? {
                    match key {
                        Key::Role => role = Some(map.next_value()?),
                        Key::Content => map.next_value_seed(self.child(Kind::Content))?,
                        _ => skip(&mut map)?,
                    }
                }
                self.top.seen.message_ends(role.map(RawValue::get));
            }
            Kind::Block => self.block(&mut map)?,
            Kind::Source => self.source(&mut map)?,
            Kind::ToolChoice => {
                while let Some(key) = map.next_key()? {
                    let value: &RawValue = map.next_value()?;
                    if matches!(key, Key::Type) {
                        self.top.counts.tool_choice = match value.get() {
                            "\"any\"" | "\"tool\"" => {
                                self.top.seen.needs(Feature::ForcedTools);
                                ToolChoice::Forced
                            }
                            _ => ToolChoice::Auto,
                        };
                    }
                }
            }
            Kind::OutputConfig => {
                while let Some(key) = map.next_key()? {
                    let value: &RawValue = map.next_value()?;
                    match key {
                        Key::Format => self.format(value),
                        Key::Effort if value.get() != "null" => {
                            self.top.seen.needs(Feature::Effort);
                        }
                        _ => {}
                    }
                }
            }
            Kind::Messages | Kind::Content | Kind::Thinking | Kind::Tools => {
                while map.next_key::<IgnoredAny>()?.is_some() {
                    skip(&mut map)?;
                }
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// The keys that mean something somewhere.
#[derive(Clone, Copy, serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
pub(super) enum Key {
    Model,
    Stream,
    MaxTokens,
    System,
    Messages,
    Tools,
    ToolChoice,
    Type,
    Text,
    Thinking,
    Content,
    Source,
    Input,
    Data,
    MediaType,
    CacheControl,
    OutputConfig,
    OutputFormat,
    Format,
    Effort,
    McpServers,
    Container,
    Temperature,
    TopP,
    TopK,
    Speed,
    InferenceGeo,
    Role,
    Citations,
    #[serde(other)]
    Other,
}

fn read<'de>(
    body: &'de [u8],
    seed: impl DeserializeSeed<'de, Value = ()>,
) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    seed.deserialize(&mut deserializer)?;
    deserializer.end()
}

fn skip<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    map.next_value::<IgnoredAny>().map(|_| ())
}

/// A client's own tool must have a schema; the provider knows those of the others.
pub(super) fn is_own_tool(definition: &str) -> bool {
    definition.contains("\"input_schema\"")
}

/// Characters of text that are not in `cjk`.
const fn narrow(counts: &Counts) -> u64 {
    let plain = counts.text.saturating_add(counts.digits);
    plain.saturating_add(counts.symbols)
}

pub(super) fn to_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
