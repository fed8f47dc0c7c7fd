//! The prompt cache: which beginning of a prompt the provider has seen a short while ago.
//!
//! It is kept by the hash of the prompt up to a message that carries `cache_control`. A later prompt
//! reads the longest beginning that is still there, wherever its own marks stand.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::seed;

/// How long an entry lives after its last use: the shorter of the two that can be asked for.
const KEPT: Duration = Duration::from_mins(5);
/// Entries remembered; at most twice as many.
const REMEMBERED: usize = 16_384;

/// A prompt, beginning after beginning, to its last mark.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Beginnings(Vec<Beginning>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Beginning {
    hash: u64,
    tokens: u64,
    marked: bool,
}

/// What the cache had of a prompt, and what it keeps of it now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Cached {
    pub(super) read: u64,
    pub(super) created: u64,
}

impl Beginnings {
    /// Of the raw JSON of `tools`, `system` and `messages`; none without a mark.
    pub(super) fn of(parts: [Option<&RawValue>; 2], messages: &RawValue) -> Self {
        let marked = |raw: &RawValue| raw.get().contains("\"cache_control\"");
        if !parts.into_iter().flatten().chain([messages]).any(marked) {
            return Self::default();
        }
        let list: Vec<&RawValue> = serde_json::from_str(messages.get()).unwrap_or_default();
        let (mut hash, mut bytes) = (0, 0_usize);
        let mut all: Vec<_> = parts
            .into_iter()
            .flatten()
            .chain(list)
            .map(|raw| {
                hash = seed::mix(hash, &[seed::digest(&[plain(raw).as_bytes()])]);
                bytes = bytes.saturating_add(raw.get().len());
                Beginning {
                    hash,
                    tokens: u64::try_from(bytes / 4).unwrap_or(u64::MAX),
                    marked: marked(raw),
                }
            })
            .collect();
        let marks = all.iter().rposition(|one| one.marked);
        all.truncate(marks.map_or(0, |last| last + 1));
        Self(all)
    }
}

/// The JSON without its marks, and with text as the one block that it stands for.
fn plain(raw: &RawValue) -> String {
    let mut value: Value = serde_json::from_str(raw.get()).unwrap_or_default();
    unmark(&mut value);
    if let Some(content) = value.get_mut("content")
        && let Value::String(text) = content
    {
        *content = serde_json::json!([{ "type": "text", "text": text }]);
    }
    value.to_string()
}

fn unmark(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("cache_control");
            fields.values_mut().for_each(unmark);
        }
        Value::Array(items) => items.iter_mut().for_each(unmark),
        _ => {}
    }
}

/// What is cached, in two generations so that memory is bounded.
#[derive(Debug, Default)]
pub(super) struct Cache {
    young: HashMap<u64, Instant>,
    old: HashMap<u64, Instant>,
}

impl Cache {
    /// What is there of a prompt for this model, and what would be kept of it.
    pub(super) fn look(&self, model: &str, prompt: &Beginnings, now: Instant) -> Cached {
        let model = seed::digest(&[model.as_bytes()]);
        let found = self.longest(model, prompt, now);
        let read = found.map_or(0, |one| one.tokens);
        let whole = prompt.0.last().map_or(0, |one| one.tokens);
        Cached {
            read,
            created: whole.saturating_sub(read),
        }
    }

    /// Keeps what a prompt has read and marked.
    pub(super) fn keep(&mut self, model: &str, prompt: &Beginnings, now: Instant) {
        let model = seed::digest(&[model.as_bytes()]);
        let read = self.longest(model, prompt, now).copied();
        let marked = prompt.0.iter().filter(|one| one.marked).copied();
        for one in marked.chain(read) {
            if self.young.len() >= REMEMBERED {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert(seed::mix(model, &[one.hash]), now);
        }
    }

    fn longest<'a>(
        &self,
        model: u64,
        prompt: &'a Beginnings,
        now: Instant,
    ) -> Option<&'a Beginning> {
        let mut shorter = prompt.0.iter().rev();
        shorter.find(|one| self.has(seed::mix(model, &[one.hash]), now))
    }

    fn has(&self, key: u64, now: Instant) -> bool {
        let used = self.young.get(&key).or_else(|| self.old.get(&key));
        used.is_some_and(|used| now.saturating_duration_since(*used) < KEPT)
    }
}
