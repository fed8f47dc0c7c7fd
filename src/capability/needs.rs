//! What a request needs.

use super::{Feature, Features, catalogue};
use crate::provider::anthropic::plain_model;

/// What a request needs of whoever answers it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Needs {
    /// The features that it uses, [`Feature::MaxTokens`] left out.
    pub features: Features,
    /// The most tokens of answer that it asks for.
    pub max_tokens: Option<u64>,
    /// Tokens of thinking that it asks for, where it gives a number.
    pub thinking_budget: Option<u64>,
    pub(crate) traits: Traits,
}

impl Needs {
    /// The same request when `to` answers it, while the conversation was with `from`.
    ///
    /// Two spellings of one model are one model. Where the caller's own model answers, `to` is absent.
    #[must_use]
    pub fn moved(mut self, from: Option<&str>, to: Option<&str>) -> Self {
        if is_another(from, to) {
            self.traits.insert(Trait::Moved);
        }
        self
    }

    /// The same request when another account asks for the same model, as with another credential: the
    /// thinking of some models is bound to the account as well.
    #[must_use]
    pub fn for_another_account(mut self, model: Option<&str>) -> Self {
        if model.is_some_and(catalogue::keeps_thoughts) {
            self.traits.insert(Trait::Moved);
        }
        self
    }

    /// Whether the features are known. They are not where the body, though JSON, could not be read
    /// to its end, or writes the kind of a block with escapes.
    #[must_use]
    pub const fn are_known(&self) -> bool {
        !self.traits.contains(Trait::Unread)
    }

    pub(crate) const fn has(&self, which: Trait) -> bool {
        self.traits.contains(which)
    }
}

/// Whether a request for `from` goes to another model when it goes to `to`.
pub(crate) fn is_another(from: Option<&str>, to: Option<&str>) -> bool {
    match (from, to) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(from), Some(to)) => from != to && plain_model(from) != plain_model(to),
    }
}

/// What decides, besides the features, whether a target takes a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trait {
    /// Thinking is left to the model: `adaptive`.
    AdaptiveThinking,
    /// Thinking has a budget: `enabled`.
    ThinkingBudget,
    /// A sampling parameter has another value than its default.
    TunedSampling,
    /// The request ends in a turn that is to go on, after the results of tools or a pause, and that
    /// began with thinking.
    OpenThought,
    /// The request ends in a turn of the assistant that the provider paused.
    Paused,
    /// The body could not be read to its end, or has words that may hide something.
    Unread,
    /// Another model, or another account, is to answer than the one that the conversation was with.
    Moved,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Traits(u8);

impl Traits {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) const fn of(which: Trait) -> Self {
        Self(1 << which as u8)
    }

    pub(crate) const fn and(self, which: Trait) -> Self {
        Self(self.0 | Self::of(which).0)
    }

    pub(crate) const fn insert(&mut self, which: Trait) {
        self.0 |= Self::of(which).0;
    }

    pub(crate) const fn contains(self, which: Trait) -> bool {
        self.0 & Self::of(which).0 != 0
    }

    const fn meets(self, other: Self, which: Trait) -> bool {
        self.contains(which) && other.contains(which)
    }
}

impl Needs {
    /// What of it a target with these features, that refuses these uses of them, will not take.
    pub(super) fn lost_to(&self, features: Features, refuses: Traits) -> Features {
        let mut lost = self.features.minus(features);
        for (which, feature) in [
            (Trait::AdaptiveThinking, Feature::Thinking),
            (Trait::ThinkingBudget, Feature::Thinking),
            (Trait::TunedSampling, Feature::Sampling),
        ] {
            if self.traits.meets(refuses, which) {
                lost.insert(feature);
            }
        }
        lost
    }
}
