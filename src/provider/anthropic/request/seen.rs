//! What a request needs, noted while it is read.

use serde::Deserialize;

use crate::capability::{Feature, Features, Needs, Trait};

/// What was seen so far.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) found: Needs,
    /// What the message at hand holds: documents, cited text, results of tools, thinking.
    message: Features,
    /// The message at hand holds blocks that a provider makes when it pauses.
    pauses: bool,
    last: Role,
    /// The last message of the user that is no mere result of tools has thinking behind it.
    thought: bool,
    /// The last message of the user holds results of tools.
    results: bool,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Role {
    User,
    Assistant,
    #[default]
    Other,
}

impl Seen {
    pub(super) const fn needs(&mut self, feature: Feature) {
        self.found.features.insert(feature);
    }

    const fn holds(&mut self, feature: Feature) {
        self.needs(feature);
        self.message.insert(feature);
    }

    /// A sampling parameter. A temperature of 1 is the default; the others have none that is known.
    pub(super) fn sampling(&mut self, is_temperature: bool, value: &str) {
        if value == "null" {
            return;
        }
        self.needs(Feature::Sampling);
        let is_default = is_temperature && value.parse() == Ok(1.0_f64);
        if !is_default {
            self.found.traits.insert(Trait::TunedSampling);
        }
    }

    pub(super) fn thinking(&mut self, asked: &str) {
        #[derive(Deserialize)]
        struct Asked<'a> {
            #[serde(borrow, rename = "type")]
            kind: &'a str,
            #[serde(default)]
            budget_tokens: Option<u64>,
        }
        if asked == "null" {
            return;
        }
        let asked: Option<Asked<'_>> = serde_json::from_str(asked).ok();
        match asked.as_ref().map(|asked| asked.kind) {
            Some("disabled") => return self.needs(Feature::NoThinking),
            Some("adaptive") => self.found.traits.insert(Trait::AdaptiveThinking),
            Some("enabled") => self.found.traits.insert(Trait::ThinkingBudget),
            _ => {}
        }
        self.needs(Feature::Thinking);
        self.found.thinking_budget = asked.and_then(|asked| asked.budget_tokens);
    }

    /// MCP servers or a container; says whether there are any.
    pub(super) fn elsewhere(&mut self, value: &str) -> bool {
        let some = !matches!(value, "null" | "[]");
        if some {
            self.needs(Feature::ServerTools);
        }
        some
    }

    /// A block, by its type as JSON.
    pub(super) fn block(&mut self, kind: &str) {
        match kind {
            "\"text\"" => {}
            "\"tool_use\"" | "\"tool_addition\"" | "\"tool_removal\"" => self.needs(Feature::Tools),
            "\"tool_result\"" => self.holds(Feature::Tools),
            "\"image\"" => self.needs(Feature::Images),
            "\"document\"" => self.holds(Feature::Documents),
            "\"thinking\"" | "\"redacted_thinking\"" => self.holds(Feature::ThinkingBlocks),
            "\"compaction\"" => self.pauses = true,
            other if is_of_server_tool(other.trim_matches('"')) => {
                self.needs(Feature::ServerTools);
                self.pauses = true;
            }
            other => self.may_hide(other),
        }
    }

    /// A word that is written with escapes may be any: what it means is not read here.
    fn may_hide(&mut self, word: &str) {
        if word.contains('\\') {
            self.found.traits.insert(Trait::Unread);
        }
    }

    /// Citations of a block: a list of what a text cites, or whether they are wanted of a document.
    pub(super) fn citations(&mut self, value: &str) {
        let inside = |open, close| {
            let inside = value.strip_prefix(open)?.strip_suffix(close)?;
            Some(inside.trim_ascii())
        };
        if inside('[', ']').is_some_and(|list| !list.is_empty()) {
            self.holds(Feature::Citations);
        } else if inside('{', '}').is_some_and(|wanted| wanted.contains("true")) {
            self.needs(Feature::Citations);
        }
    }

    pub(super) const fn message_begins(&mut self) {
        self.message = Features::NONE;
        self.pauses = false;
    }

    pub(super) fn message_ends(&mut self, role: Option<&str>) {
        let holds = self.message;
        match role {
            Some("\"assistant\"") => {
                if holds.contains(Feature::Documents) {
                    self.needs(Feature::AssistantDocuments);
                }
                self.thought |= holds.contains(Feature::ThinkingBlocks);
                self.last = Role::Assistant;
            }
            Some("\"user\"") => {
                if holds.contains(Feature::Citations) {
                    self.needs(Feature::TextCitations);
                }
                self.results = holds.contains(Feature::Tools);
                self.thought &= self.results;
                self.last = Role::User;
            }
            other => {
                other.into_iter().for_each(|role| self.may_hide(role));
                self.last = Role::Other;
            }
        }
    }

    /// The whole body was read.
    pub(super) fn ends(&mut self) {
        let at_assistant = self.last == Role::Assistant;
        // A turn that the provider paused is sent back as it came.
        let paused = at_assistant && self.pauses;
        if paused {
            self.found.traits.insert(Trait::Paused);
        } else if at_assistant {
            self.needs(Feature::Prefill);
        }
        if self.thought && (self.results || paused) {
            self.found.traits.insert(Trait::OpenThought);
        }
    }
}

/// Whether a block is part of a call that the provider makes.
pub(super) fn is_of_server_tool(kind: &str) -> bool {
    matches!(
        kind,
        "server_tool_use" | "mcp_tool_use" | "container_upload"
    ) || (kind.ends_with("_tool_result") && kind != "tool_result")
}
