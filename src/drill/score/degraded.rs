//! How many answers were less than the wanted model's, and in which way.

use serde::Serialize;

use super::call::CallRecord;
use super::count;
use crate::client::ask::Degraded;

/// Answers that were less than the wanted model's, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct DegradedBy {
    /// Another model's.
    pub model: u64,
    /// Given before, and no longer as good as new.
    pub cache: u64,
    /// The fixed one.
    #[serde(rename = "static")]
    pub fixed: u64,
}

impl DegradedBy {
    /// Counts the answers.
    #[must_use]
    pub fn of(calls: &[CallRecord]) -> Self {
        let number = |kind| count(calls, |call| call.degraded() == Some(kind));
        Self {
            model: number(Degraded::Model),
            cache: number(Degraded::Cache),
            fixed: number(Degraded::Static),
        }
    }

    /// Those of one kind.
    #[must_use]
    pub const fn by(&self, kind: Degraded) -> u64 {
        match kind {
            Degraded::Model => self.model,
            Degraded::Cache => self.cache,
            Degraded::Static => self.fixed,
        }
    }

    /// All of them.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.model + self.cache + self.fixed
    }
}
