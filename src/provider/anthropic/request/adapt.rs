//! A request rewritten for a target that cannot carry all of it.
//!
//! What stays keeps its bytes and its place; what goes leaves a text that says so, where the model
//! would else answer to something that it cannot see. A body that is odd in a place that must be
//! rewritten is refused and never guessed at.

use std::borrow::Cow;
use std::collections::HashSet;

use bytes::Bytes;
use serde_json::Value;

use super::count::is_own_tool;
use super::{RequestView, splice_model};
use crate::capability::{Feature, Features, Fit, Misfit, Trait, UNREAD, scaled};

mod content;
mod members;

use content::Content;
use members::{Member, list, object, string, write_list, write_object};

/// A request for another target.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Adapted {
    /// Its body.
    pub body: Bytes,
    /// What got lost on the way: what was planned and is there, and what hangs on it.
    pub losses: Features,
}

/// Rewrites a request of a conversation with `from` for `to`, giving up what `fit` says.
///
/// `view` must be of this `body`. An absent `to` keeps the caller's model. Where only the model
/// changes no other byte does, and where nothing does the body is the same.
///
/// # Errors
///
/// [`Misfit`] where something has to go and the body is too odd for that, or where no message would be
/// left.
pub fn adapt(
    body: &Bytes,
    view: &RequestView,
    from: Option<&str>,
    to: Option<&str>,
    fit: &Fit,
) -> Result<Adapted, Misfit> {
    let needs = view.needs.moved(from, to);
    let mut planned = needs.with_consequences(fit.losses.minus(Feature::MaxTokens.into()));
    let mut there = needs.features;
    if needs.has(Trait::Paused) {
        there.insert(Feature::Prefill);
    }
    planned = planned.minus(planned.minus(there));
    let shorter = fit.max_tokens.filter(|_| view.max_tokens.is_some());
    if planned.is_empty() && shorter.is_none() {
        let body = to.map_or_else(|| body.clone(), |to| splice_model(body, view, to));
        return Ok(Adapted {
            body,
            losses: Features::NONE,
        });
    }
    if needs.has(Trait::Unread) {
        return Err(odd(UNREAD));
    }
    let mut rewrite = Rewrite {
        planned,
        done: Features::NONE,
        shorter: shorter.zip(view.max_tokens),
    };
    let fields = rewrite.top(&object(text_of(body)?)?, to)?;
    let mut out = String::with_capacity(body.len().saturating_add(256));
    write_object(&mut out, &fields);
    Ok(Adapted {
        body: out.into(),
        losses: rewrite.done,
    })
}

fn text_of(body: &Bytes) -> Result<&str, Misfit> {
    std::str::from_utf8(body).map_err(|_| odd("it is no UTF-8"))
}

const fn odd(what: &'static str) -> Misfit {
    Misfit::Unreadable { what }
}

struct Rewrite {
    planned: Features,
    done: Features,
    /// The longest answer, and the one that was asked for.
    shorter: Option<(u64, u64)>,
}

/// Names and values as JSON.
type Fields<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// A field's new value; none where it goes.
type Field<'a> = Result<Option<Cow<'a, str>>, Misfit>;

impl Rewrite {
    const fn loses(&self, feature: Feature) -> bool {
        self.planned.contains(feature)
    }

    /// Takes the feature out, if that is planned.
    fn gives_up(&mut self, feature: Feature) -> bool {
        if self.loses(feature) {
            self.done.insert(feature);
        }
        self.loses(feature)
    }

    fn top<'a>(&mut self, fields: &[Member<'a>], to: Option<&str>) -> Result<Fields<'a>, Misfit> {
        let mut kept = Vec::with_capacity(fields.len().saturating_add(1));
        if let Some(to) = to
            && !fields.iter().any(|field| field.name == "model")
        {
            kept.push((Cow::Borrowed("model"), Value::from(to).to_string().into()));
        }
        let tools = match fields.iter().find(|field| field.name == "tools") {
            Some(field) => self.tools(field.value)?,
            None => Tools::default(),
        };
        for field in fields {
            let value = match (&*field.name, to) {
                ("model", Some(to)) => Some(Value::from(to).to_string().into()),
                ("tools", _) => tools.kept.clone(),
                ("tool_choice", _) => self.tool_choice(field.value, &tools)?,
                (name, _) => self.field(name, field.value)?,
            };
            if let Some(value) = value {
                kept.push((field.name.clone(), value));
            }
        }
        Ok(kept)
    }

    fn field<'a>(&mut self, name: &str, value: &'a str) -> Field<'a> {
        let same = Ok(Some(Cow::Borrowed(value)));
        let feature = match name {
            "temperature" | "top_p" | "top_k" => Feature::Sampling,
            "cache_control" => Feature::PromptCaching,
            "mcp_servers" | "container" => Feature::ServerTools,
            "output_format" => Feature::JsonSchema,
            "speed" => Feature::FastMode,
            "inference_geo" if value != "null" => Feature::InferenceGeo,
            "thinking" => return self.thinking(value),
            "context_management" => return self.context_management(value),
            "output_config" => return self.output_config(value),
            "max_tokens" => {
                return match self.shorter {
                    Some((shorter, _)) => {
                        self.done.insert(Feature::MaxTokens);
                        Ok(Some(shorter.to_string().into()))
                    }
                    None => same,
                };
            }
            "system" => return self.content(|content| content.system(value)),
            "messages" => return self.content(|content| content.messages(value)),
            _ => return same,
        };
        if self.gives_up(feature) {
            Ok(None)
        } else {
            same
        }
    }

    fn content<'a>(&mut self, rewrite: impl FnOnce(&mut Content) -> Field<'a>) -> Field<'a> {
        let mut content = Content::new(self.planned);
        let field = rewrite(&mut content);
        self.done = self.done.union(content.done);
        field
    }

    fn thinking<'a>(&mut self, value: &'a str) -> Field<'a> {
        if value == "null" {
            return Ok(Some(value.into()));
        }
        if self.loses(Feature::Thinking) || self.loses(Feature::NoThinking) {
            let goes = self.planned;
            let both = Features::from(Feature::Thinking).with(Feature::NoThinking);
            self.done = self.done.union(goes.minus(goes.minus(both)));
            return Ok(None);
        }
        let Some((shorter, asked)) = self.shorter else {
            return Ok(Some(value.into()));
        };
        let budget = |member: &Member<'a>| -> Field<'a> {
            Ok(Some(match member.value.parse() {
                Ok(budget) if member.name == "budget_tokens" => {
                    scaled(budget, asked, shorter).to_string().into()
                }
                _ => Cow::Borrowed(member.value),
            }))
        };
        edited(value, budget)
    }

    /// An edit of the thinking of earlier turns is refused without thinking.
    fn context_management<'a>(&self, value: &'a str) -> Field<'a> {
        if !self.loses(Feature::Thinking) || value == "null" {
            return Ok(Some(value.into()));
        }
        edited(value, |member| {
            if member.name != "edits" || member.value == "null" {
                return Ok(Some(member.value.into()));
            }
            let mut kept = Vec::new();
            for edit in list(member.value)? {
                let fields = object(edit)?;
                let kind = fields.iter().find(|field| field.name == "type");
                let kind = kind.map(|kind| string(kind.value)).transpose()?;
                if !kind.is_some_and(|kind| kind.starts_with("clear_thinking")) {
                    kept.push(Cow::Borrowed(edit));
                }
            }
            Ok((!kept.is_empty()).then(|| write_list(&kept).into()))
        })
    }

    fn output_config<'a>(&mut self, value: &'a str) -> Field<'a> {
        if value == "null" || !(self.loses(Feature::JsonSchema) || self.loses(Feature::Effort)) {
            return Ok(Some(value.into()));
        }
        edited(value, |member| {
            let goes = match &*member.name {
                "format" => self.gives_up(Feature::JsonSchema),
                "effort" => self.gives_up(Feature::Effort),
                _ => false,
            };
            Ok((!goes).then_some(Cow::Borrowed(member.value)))
        })
    }

    fn tools<'a>(&mut self, value: &'a str) -> Result<Tools<'a>, Misfit> {
        let touched = Features::from(Feature::Tools)
            .with(Feature::ServerTools)
            .with(Feature::PromptCaching);
        if !self.planned.intersects(touched) || value == "null" {
            return Ok(Tools {
                kept: Some(value.into()),
                ..Tools::default()
            });
        }
        let mut kept = Vec::new();
        let mut gone = HashSet::new();
        let definitions = list(value)?;
        let were_some = !definitions.is_empty();
        for definition in definitions {
            let feature = if is_own_tool(definition) {
                Feature::Tools
            } else {
                Feature::ServerTools
            };
            let fields = object(definition)?;
            if self.gives_up(feature) {
                if let Some(name) = fields.iter().find(|field| field.name == "name") {
                    gone.insert(string(name.value)?.into_owned());
                }
            } else if let Some(marked) = self.unmarked(definition)? {
                kept.push(marked);
            }
        }
        let all_gone = were_some && kept.is_empty();
        Ok(Tools {
            kept: (!all_gone).then(|| write_list(&kept).into()),
            gone,
            all_gone,
        })
    }

    /// A definition without its mark for the cache, where that goes.
    fn unmarked<'a>(&mut self, definition: &'a str) -> Field<'a> {
        if !self.loses(Feature::PromptCaching) || !definition.contains("cache_control") {
            return Ok(Some(definition.into()));
        }
        edited(definition, |member| {
            let goes = member.name == "cache_control" && self.gives_up(Feature::PromptCaching);
            Ok((!goes).then_some(Cow::Borrowed(member.value)))
        })
    }

    fn tool_choice<'a>(&mut self, value: &'a str, tools: &Tools<'_>) -> Field<'a> {
        if value == "null"
            || !(tools.all_gone || !tools.gone.is_empty() || self.loses(Feature::ForcedTools))
        {
            return Ok(Some(value.into()));
        }
        let fields = object(value)?;
        let text = |name: &str| {
            let field = fields.iter().find(|field| field.name == name);
            field.map(|field| string(field.value)).transpose()
        };
        let forced = matches!(text("type")?.as_deref(), Some("any" | "tool"));
        let is_gone = text("name")?.is_some_and(|name| tools.gone.contains(&*name));
        if !(tools.all_gone || is_gone || (forced && self.loses(Feature::ForcedTools))) {
            return Ok(Some(value.into()));
        }
        if forced {
            self.done.insert(Feature::ForcedTools);
        }
        if tools.all_gone {
            return Ok(None);
        }
        edited(value, |member| {
            Ok(match &*member.name {
                "type" => Some(Cow::Borrowed("\"auto\"")),
                "name" => None,
                _ => Some(Cow::Borrowed(member.value)),
            })
        })
    }
}

/// The list of tools.
#[derive(Default)]
struct Tools<'a> {
    /// What is left of it, where the field stays.
    kept: Option<Cow<'a, str>>,
    /// The names of those that went.
    gone: HashSet<String>,
    all_gone: bool,
}

/// An object with every member changed or left out; nothing where none is left of some.
fn edited<'a>(value: &'a str, mut edit: impl FnMut(&Member<'a>) -> Field<'a>) -> Field<'a> {
    let members = object(value)?;
    let mut kept = Vec::with_capacity(members.len());
    for member in &members {
        if let Some(value) = edit(member)? {
            kept.push((member.name.clone(), value));
        }
    }
    if kept.is_empty() && !members.is_empty() {
        return Ok(None);
    }
    let mut out = String::with_capacity(value.len());
    write_object(&mut out, &kept);
    Ok(Some(out.into()))
}

#[cfg(test)]
mod tests;
