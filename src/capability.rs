//! What a request needs, what a target can carry, and what would get lost between the two.
//!
//! A request says what it [`Needs`]; its reader finds that in the pass that counts its tokens. A target
//! has [`Capabilities`], from the catalogue of known models and the API version, narrowed by
//! configuration. [`fit`] compares them: it names what must get lost, or why the target is not to be
//! asked. What nobody has heard of is never refused: its provider judges.
//! [`adapt`](crate::provider::anthropic::request::adapt) then rewrites the request. Decisions from
//! given data alone: no I/O, no clock.

mod catalogue;
mod feature;
mod fit;
mod needs;

pub use feature::{Feature, Features, UnknownFeature};
pub use fit::{Fit, LEAST_ANSWER, Misfit, fit};
pub(crate) use fit::{UNREAD, scaled};
pub use needs::Needs;
pub(crate) use needs::{Trait, is_another};

use needs::Traits;

/// What a target can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// What it can carry at all.
    pub features: Features,
    /// The most tokens of prompt and answer together; absent where that is not known.
    pub context_tokens: Option<u64>,
    /// The most tokens of an answer; absent where that is not known.
    pub output_tokens: Option<u64>,
    /// Ways of using a feature that it refuses, though it has the feature.
    refuses: Traits,
}

impl Capabilities {
    /// Everything, without limits.
    #[must_use]
    pub fn everything() -> Self {
        Self {
            features: Features::all(),
            context_tokens: None,
            output_tokens: None,
            refuses: Traits::NONE,
        }
    }

    /// What a model can carry under an API version, as its `anthropic-version` header says it.
    ///
    /// A model that the catalogue does not know, or none, carries everything that the version allows;
    /// a version that does not read as a date allows everything.
    #[must_use]
    pub fn of(model: Option<&str>, version: &str) -> Self {
        Self::of_model(model).under(version)
    }

    /// The same under any version.
    pub(crate) fn of_model(model: Option<&str>) -> Self {
        model.map_or_else(Self::everything, catalogue::model)
    }

    /// The same without what a version of the API refuses.
    pub(crate) fn under(mut self, version: &str) -> Self {
        self.features = self.features.minus(catalogue::refused_under(version));
        self
    }

    /// The same without these features and their parts.
    #[must_use]
    pub fn without(mut self, features: Features) -> Self {
        self.features = self.features.minus(features.with_parts());
        self
    }

    /// The same with that context, in tokens.
    #[must_use]
    pub const fn with_context(mut self, tokens: u64) -> Self {
        self.context_tokens = Some(tokens);
        self
    }

    /// The same with that longest answer, in tokens.
    #[must_use]
    pub const fn with_output(mut self, tokens: u64) -> Self {
        self.output_tokens = Some(tokens);
        self
    }
}

#[cfg(test)]
mod tests;
