//! One pass over a request body that counts and builds nothing.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Counts, ToolChoice, characters};

/// The fields of the outermost object, and the counts below it.
#[derive(Default)]
pub(super) struct Top<'de> {
    pub(super) is_object: bool,
    pub(super) model: Option<&'de RawValue>,
    pub(super) stream: Option<&'de RawValue>,
    pub(super) max_tokens: Option<&'de RawValue>,
    pub(super) counts: Counts,
    tool_uses: u64,
    tool_results: u64,
    /// What is known of the block that is being read.
    block: Block,
}

#[derive(Clone, Copy, Default)]
struct Block {
    is_result: bool,
    is_document: bool,
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
        Ok(top)
    }

    /// Reads the outermost fields of whatever is JSON at all, and counts nothing.
    pub(super) fn read_shallow(body: &'de [u8]) -> Result<Self, serde_json::Error> {
        let mut top = Self::default();
        read(body, Shallow { top: &mut top })?;
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
        let counts = &mut self.top.counts;
        counts.formats += 1;
        let schema = to_u64(format.get().len());
        counts.format_schemas = counts.format_schemas.saturating_add(schema);
    }

    fn cache_control(&mut self, mark: &RawValue) {
        self.top.counts.cache_marked |= mark.get() != "null";
    }

    fn tool(&mut self, tool: &str) {
        let counts = &mut self.top.counts;
        counts.tools += 1;
        counts.tool_definitions = counts.tool_definitions.saturating_add(to_u64(tool.len()));
        // A client's own tool must have a schema.
        counts.provider_tools += u64::from(!tool.contains("\"input_schema\""));
        counts.cache_marked |= tool.contains("\"cache_control\"");
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
            _ => skip(map)?,
        }
        Ok(())
    }

    fn block_field<A: MapAccess<'de>>(&mut self, key: Key, map: &mut A) -> Result<(), A::Error> {
        match key {
            Key::Text | Key::Thinking | Key::Content => {
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
            Key::Type => match map.next_value::<&RawValue>()?.get() {
                "\"tool_use\"" | "\"server_tool_use\"" | "\"mcp_tool_use\"" => {
                    self.top.tool_uses += 1;
                }
                "\"tool_result\"" => {
                    self.top.tool_results += 1;
                    self.top.block.is_result = true;
                }
                "\"image\"" => self.top.counts.unknown_images += 1,
                "\"document\"" => self.top.block.is_document = true,
                _ => {}
            },
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
        if block.is_result {
            let result = narrow(counts).saturating_sub(narrow(&before));
            counts.tool_results = counts.tool_results.saturating_add(result);
            counts.text = before.text;
            counts.digits = before.digits;
            counts.symbols = before.symbols;
        }
        if block.is_document && !block.has_text {
            counts.pages += 1;
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
        let is_text = media.is_some_and(|media| media.get().starts_with("\"text/"));
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
        if matches!(self.kind, Kind::Content) {
            self.text(text);
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
                while let Some(key) = map.next_key()? {
                    match key {
                        Key::Content => map.next_value_seed(self.child(Kind::Content))?,
                        _ => skip(&mut map)?,
                    }
                }
            }
            Kind::Block => self.block(&mut map)?,
            Kind::Source => self.source(&mut map)?,
            Kind::ToolChoice => {
                while let Some(key) = map.next_key()? {
                    let value: &RawValue = map.next_value()?;
                    if matches!(key, Key::Type) {
                        self.top.counts.tool_choice = match value.get() {
                            "\"any\"" | "\"tool\"" => ToolChoice::Forced,
                            _ => ToolChoice::Auto,
                        };
                    }
                }
            }
            Kind::OutputConfig => {
                while let Some(key) = map.next_key()? {
                    let value: &RawValue = map.next_value()?;
                    if matches!(key, Key::Format) {
                        self.format(value);
                    }
                }
            }
            Kind::Messages | Kind::Content | Kind::Tools => {
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

/// The outermost fields alone. Values are only split off, so that any that is JSON at all passes.
struct Shallow<'t, 'de> {
    top: &'t mut Top<'de>,
}

impl<'de> DeserializeSeed<'de> for Shallow<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Shallow<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.top.is_object = true;
        while let Some(key) = map.next_key()? {
            let value: &RawValue = map.next_value()?;
            match key {
                Key::Model => self.top.model = Some(value),
                Key::Stream => self.top.stream = Some(value),
                Key::MaxTokens => self.top.max_tokens = Some(value),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The keys that mean something somewhere.
#[derive(Clone, Copy, serde::Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Key {
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

/// Characters of text that are not in `cjk`.
const fn narrow(counts: &Counts) -> u64 {
    let plain = counts.text.saturating_add(counts.digits);
    plain.saturating_add(counts.symbols)
}

pub(super) fn to_u64(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
