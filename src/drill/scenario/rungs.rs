//! What stands in a ladder beside models.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Scenario;

/// The entry of a ladder that stands for answers that were given before.
pub const CACHE: &str = "cache";

/// The entry of a ladder that stands for a fixed answer.
pub const STATIC: &str = "static";

/// How long the answers of a ladder's cache are of use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CacheTerms {
    /// How long an answer is as good as a new one.
    #[serde(with = "crate::duration")]
    pub ttl: Duration,
    /// How long it is better than none.
    #[serde(with = "crate::duration")]
    pub stale_if_error: Duration,
}

/// A ladder's fixed answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticAnswer {
    /// What it says.
    pub text: String,
}

/// Whether an entry of a ladder is a model.
pub(in crate::drill) fn is_model(entry: &str) -> bool {
    !matches!(entry, CACHE | STATIC)
}

impl Scenario {
    /// What is wrong with the ladder, if anything is.
    pub(super) fn wrong_ladder(&self) -> Option<(&'static str, String, &'static str)> {
        let has = |wanted: &str| self.ladder.iter().any(|entry| entry == wanted);
        let ladder = format!("{:?}", self.ladder);
        let entries = 1..=16;
        if self.ladder.iter().any(String::is_empty) || !entries.contains(&self.ladder.len()) {
            let allowed = "1 to 16 of: model names, \"cache\", \"static\"";
            return Some(("ladder", ladder, allowed));
        }
        if !self.ladder.iter().any(|entry| is_model(entry)) {
            return Some(("ladder", ladder, "at least one model"));
        }
        if has(STATIC) != self.fixed.is_some() {
            let allowed = "\"static\" in the ladder and static = { text = … }, or neither";
            return Some(("ladder", ladder, allowed));
        }
        if self.cache.is_some() && !has(CACHE) {
            return Some(("cache", ladder, "only with \"cache\" in the ladder"));
        }
        None
    }
}
