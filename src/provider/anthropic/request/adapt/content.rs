//! Messages and their blocks without what gets lost.

use std::borrow::Cow;
use std::collections::HashMap;

use serde_json::Value;

use super::members::{Member, list, object, string, write_list, write_object};
use super::{Field, odd};
use crate::capability::{Feature, Features, Misfit};
use crate::provider::anthropic::request::seen::is_of_server_tool;

/// Blocks nest this deep at most; in requests as documented, three times.
const DEEPEST: usize = 8;

/// What a turn says that held nothing but thinking.
const ONLY_THOUGHTS: &str = "[Left out: thinking of another model]";

/// Whose content it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    User,
    Assistant,
    Other,
}

/// Where a block stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    role: Role,
    depth: usize,
}

pub(super) struct Content {
    planned: Features,
    pub(super) done: Features,
    /// The names of the tools that were called, by the calls' ids.
    calls: HashMap<String, String>,
}

impl Content {
    pub(super) fn new(planned: Features) -> Self {
        Self {
            planned,
            done: Features::NONE,
            calls: HashMap::new(),
        }
    }

    fn gives_up(&mut self, feature: Feature) -> bool {
        let goes = self.planned.contains(feature);
        if goes {
            self.done.insert(feature);
        }
        goes
    }

    /// Whether any block may have to change.
    const fn touches_blocks(&self) -> bool {
        let elsewhere = Features::NONE
            .with(Feature::ForcedTools)
            .with(Feature::Thinking)
            .with(Feature::NoThinking)
            .with(Feature::Effort)
            .with(Feature::JsonSchema)
            .with(Feature::Sampling)
            .with(Feature::Prefill)
            .with(Feature::FastMode)
            .with(Feature::InferenceGeo)
            .with(Feature::MaxTokens);
        !self.planned.minus(elsewhere).is_empty()
    }

    /// The system prompt.
    pub(super) fn system<'a>(&mut self, value: &'a str) -> Field<'a> {
        if !self.touches_blocks() || value == "null" {
            return Ok(Some(value.into()));
        }
        let place = Place {
            role: Role::Other,
            depth: 0,
        };
        Ok(match self.blocks(value, place)? {
            Blocks::Same => Some(value.into()),
            Blocks::New(blocks) if blocks.is_empty() => None,
            Blocks::New(blocks) => Some(write_list(&blocks).into()),
        })
    }

    /// The list of messages.
    pub(super) fn messages<'a>(&mut self, value: &'a str) -> Field<'a> {
        let prefill = self.planned.contains(Feature::Prefill);
        if !prefill && !self.touches_blocks() {
            return Ok(Some(value.into()));
        }
        let mut messages = Vec::new();
        for message in list(value)? {
            messages.push((message, Message::read(message)?));
        }
        if prefill {
            while let Some((raw, last)) = messages.pop_if(|(_, m)| m.role == Role::Assistant) {
                self.done.insert(Feature::Prefill);
                // What is in it gets lost as well.
                self.message(raw, last, true)?;
            }
            if messages.is_empty() {
                return Err(Misfit::Nothing {
                    lost: Feature::Prefill,
                });
            }
        }
        let count = messages.len();
        let mut kept = Vec::with_capacity(count);
        for (i, (raw, message)) in messages.into_iter().enumerate() {
            let is_last = i.saturating_add(1) == count;
            kept.extend(self.message(raw, message, is_last)?);
        }
        if kept.is_empty() && count > 0 {
            let lost = if self.done.contains(Feature::Tools) {
                Feature::Tools
            } else {
                Feature::ThinkingBlocks
            };
            return Err(Misfit::Nothing { lost });
        }
        Ok(Some(write_list(&kept).into()))
    }

    /// A message; nothing where nothing is left that must be said.
    fn message<'a>(&mut self, raw: &'a str, message: Message<'a>, is_last: bool) -> Field<'a> {
        let Some(content) = message.content.filter(|_| self.touches_blocks()) else {
            return Ok(Some(raw.into()));
        };
        let place = Place {
            role: message.role,
            depth: 0,
        };
        let blocks = match self.blocks(content, place)? {
            Blocks::Same => return Ok(Some(raw.into())),
            Blocks::New(blocks) => blocks,
        };
        let blocks = match (blocks.is_empty(), message.role) {
            (false, _) => blocks,
            // An answer would go on from what stands here.
            (true, Role::Assistant) if is_last => return Ok(None),
            (true, Role::Other) => return Ok(None),
            // The turn stays, so that the others keep alternating.
            (true, _) => vec![text_block(ONLY_THOUGHTS, None)],
        };
        let fields: Vec<_> = message
            .fields
            .into_iter()
            .map(|field| match &*field.name {
                "content" => (field.name, Cow::Owned(write_list(&blocks))),
                _ => (field.name, Cow::Borrowed(field.value)),
            })
            .collect();
        let mut out = String::with_capacity(raw.len());
        write_object(&mut out, &fields);
        Ok(Some(out.into()))
    }

    fn blocks<'a>(&mut self, value: &'a str, place: Place) -> Result<Blocks<'a>, Misfit> {
        if value.starts_with('"') {
            return Ok(Blocks::Same);
        }
        if place.depth > DEEPEST {
            return Err(odd("blocks are nested too deep"));
        }
        let mut new = Vec::new();
        let mut changed = false;
        for block in list(value)? {
            changed |= self.block(block, place, &mut new)?;
        }
        Ok(if changed {
            Blocks::New(new)
        } else {
            Blocks::Same
        })
    }

    /// Puts what is left of a block behind the others; says whether that is something else.
    fn block<'a>(
        &mut self,
        raw: &'a str,
        place: Place,
        new: &mut Vec<Cow<'a, str>>,
    ) -> Result<bool, Misfit> {
        let fields = Block(object(raw)?);
        let kind = fields.text("type")?.unwrap_or_default();
        let mark = fields
            .get("cache_control")
            .filter(|_| !self.planned.contains(Feature::PromptCaching));
        match &*kind {
            "thinking" | "redacted_thinking" if self.gives_up(Feature::ThinkingBlocks) => {}
            "tool_addition" | "tool_removal" if self.gives_up(Feature::Tools) => {}
            "image" if self.gives_up(Feature::Images) => {
                new.push(text_block("[Left out: an image]", mark));
            }
            "document" if self.gives_up_document(place) => {
                let title = fields.text("title")?.unwrap_or_default();
                let text = match &*title {
                    "" => "[Left out: a document]".to_owned(),
                    title => format!("[Left out: the document \"{title}\"]"),
                };
                new.push(text_block(&text, mark));
            }
            "tool_use" if self.gives_up(Feature::Tools) => new.push(self.call(&fields, mark)?),
            "tool_result" if self.gives_up(Feature::Tools) => {
                self.result(&fields, place, mark, new)?;
            }
            "server_tool_use" | "mcp_tool_use" if self.gives_up(Feature::ServerTools) => {
                new.push(self.call(&fields, mark)?);
            }
            "mcp_tool_result" if self.gives_up(Feature::ServerTools) => {
                self.result(&fields, place, mark, new)?;
            }
            other if is_of_server_tool(other) && self.gives_up(Feature::ServerTools) => {
                let text = format!("[Left out: {}]", other.replace('_', " "));
                new.push(text_block(&text, mark));
            }
            _ => return self.other(raw, (&kind, fields), place, new),
        }
        Ok(true)
    }

    /// A block of a kind that stays, without what goes from inside it.
    fn other<'a>(
        &mut self,
        raw: &'a str,
        (kind, fields): (&str, Block<'a>),
        place: Place,
        new: &mut Vec<Cow<'a, str>>,
    ) -> Result<bool, Misfit> {
        let mut kept = Vec::with_capacity(fields.0.len());
        let mut changed = false;
        for Member { name, value } in fields.0 {
            let inner = match &*name {
                "cache_control" if value != "null" && self.gives_up(Feature::PromptCaching) => None,
                "citations" if value != "null" && self.gives_up_citations(kind, value, place) => {
                    None
                }
                "content" if value.starts_with('[') => Some(self.nested(value, place)?),
                "source" if kind == "document" && value.starts_with('{') => {
                    Some(self.source(value, place)?)
                }
                _ => Some(Cow::Borrowed(value)),
            };
            changed |= !matches!(&inner, Some(Cow::Borrowed(_)));
            kept.extend(inner.map(|value| (name, value)));
        }
        if changed {
            let mut out = String::with_capacity(raw.len());
            write_object(&mut out, &kept);
            new.push(out.into());
        } else {
            new.push(raw.into());
        }
        Ok(changed)
    }

    /// Blocks inside a block.
    fn nested<'a>(&mut self, value: &'a str, place: Place) -> Result<Cow<'a, str>, Misfit> {
        let inside = Place {
            depth: place.depth.saturating_add(1),
            ..place
        };
        Ok(match self.blocks(value, inside)? {
            Blocks::Same => value.into(),
            Blocks::New(blocks) if blocks.is_empty() => {
                write_list(&[text_block(ONLY_THOUGHTS, None)]).into()
            }
            Blocks::New(blocks) => write_list(&blocks).into(),
        })
    }

    /// A document's source may hold blocks.
    fn source<'a>(&mut self, value: &'a str, place: Place) -> Result<Cow<'a, str>, Misfit> {
        let mut kept = Vec::new();
        let mut changed = false;
        for Member { name, value } in object(value)? {
            let inner = match &*name {
                "content" if value.starts_with('[') => self.nested(value, place)?,
                _ => value.into(),
            };
            changed |= matches!(inner, Cow::Owned(_));
            kept.push((name, inner));
        }
        if !changed {
            return Ok(value.into());
        }
        let mut out = String::with_capacity(value.len());
        write_object(&mut out, &kept);
        Ok(out.into())
    }

    /// A call of a tool, as the assistant's own words.
    fn call<'a>(&mut self, fields: &Block<'a>, mark: Option<&str>) -> Result<Cow<'a, str>, Misfit> {
        let name = fields.text("name")?.unwrap_or_default();
        if let Some(id) = fields.text("id")? {
            self.calls
                .insert(id.into_owned(), name.clone().into_owned());
        }
        let input = fields.get("input").unwrap_or("{}");
        Ok(text_block(
            &format!("[Called the tool {name} with {input}]"),
            mark,
        ))
    }

    /// What a tool gave back, as words and blocks of whoever told it.
    fn result<'a>(
        &mut self,
        fields: &Block<'a>,
        place: Place,
        mark: Option<&str>,
        new: &mut Vec<Cow<'a, str>>,
    ) -> Result<(), Misfit> {
        let id = fields.text("tool_use_id")?.unwrap_or_default();
        let name = self.calls.get(&*id).map_or("", String::as_str);
        let what = if fields.get("is_error") == Some("true") {
            "Error"
        } else {
            "Result"
        };
        let head = format!("[{what} of the tool {name}]");
        let content = fields.get("content").unwrap_or("null");
        if content == "null" {
            new.push(text_block(&head, mark));
        } else if content.starts_with('"') {
            let text = string(content)?;
            new.push(text_block(&format!("{head}\n{text}"), mark));
        } else {
            new.push(text_block(&head, mark));
            let inside = Place {
                depth: place.depth.saturating_add(1),
                ..place
            };
            match self.blocks(content, inside)? {
                Blocks::Same => new.extend(list(content)?.into_iter().map(Cow::Borrowed)),
                Blocks::New(blocks) => new.extend(blocks),
            }
        }
        Ok(())
    }

    fn gives_up_document(&mut self, place: Place) -> bool {
        let of_assistant = place.role == Role::Assistant;
        // One alone is enough, and each that is planned is done.
        let all = self.gives_up(Feature::Documents);
        (of_assistant && self.gives_up(Feature::AssistantDocuments)) || all
    }

    fn gives_up_citations(&mut self, kind: &str, value: &str, place: Place) -> bool {
        let of_user = kind == "text" && place.role == Role::User;
        let named = of_user && self.gives_up(Feature::TextCitations);
        if named || self.gives_up(Feature::Citations) {
            return true;
        }
        // They point to documents and results by their number and their key.
        let sources = Features::from(Feature::Documents)
            .with(Feature::AssistantDocuments)
            .with(Feature::ServerTools);
        let dangling = value.starts_with('[') && self.planned.intersects(sources);
        if dangling {
            self.done.insert(Feature::Citations);
        }
        dangling
    }
}

enum Blocks<'a> {
    Same,
    New(Vec<Cow<'a, str>>),
}

struct Message<'a> {
    role: Role,
    content: Option<&'a str>,
    fields: Vec<Member<'a>>,
}

impl<'a> Message<'a> {
    fn read(raw: &'a str) -> Result<Self, Misfit> {
        let fields = Block(object(raw)?);
        let role = match fields.text("role")?.as_deref() {
            Some("user") => Role::User,
            Some("assistant") => Role::Assistant,
            _ => Role::Other,
        };
        Ok(Self {
            role,
            content: fields.get("content"),
            fields: fields.0,
        })
    }
}

struct Block<'a>(Vec<Member<'a>>);

impl<'a> Block<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        let member = self.0.iter().find(|member| member.name == name);
        member.map(|member| member.value)
    }

    /// The text of a member; nothing where it is absent or `null`.
    fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, Misfit> {
        self.get(name)
            .filter(|value| *value != "null")
            .map(string)
            .transpose()
    }
}

/// A block of text, with the mark for the cache of the one that it stands for.
fn text_block<'a>(text: &str, mark: Option<&str>) -> Cow<'a, str> {
    let mark = mark.map_or_else(String::new, |mark| format!(",\"cache_control\":{mark}"));
    let text = Value::from(text);
    format!("{{\"type\":\"text\",\"text\":{text}{mark}}}").into()
}
