//! What a request may need of whoever answers it.

use std::fmt;
use std::str::FromStr;

/// Something that a request may need, and that may get lost when another target answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// Tools of the caller: their definitions, calls and results.
    Tools,
    /// A choice of tools that forces a call: `any`, or a named tool.
    ForcedTools,
    /// Tools that the provider defines, runs or fetches, MCP servers and containers.
    ServerTools,
    /// Images, in messages and in the results of tools.
    Images,
    /// Documents, in messages and in the results of tools.
    Documents,
    /// Documents directly in a message of the assistant.
    AssistantDocuments,
    /// Thinking before the answer.
    Thinking,
    /// An answer without thinking.
    NoThinking,
    /// A level of effort.
    Effort,
    /// Citations: asked for, or in earlier turns.
    Citations,
    /// Citations on text of the user.
    TextCitations,
    /// A form that the answer must have.
    JsonSchema,
    /// Marks for the prompt cache.
    PromptCaching,
    /// Sampling parameters: `temperature`, `top_p`, `top_k`.
    Sampling,
    /// A last turn of the assistant, which the answer goes on from.
    Prefill,
    /// Faster processing at another price.
    FastMode,
    /// The part of the world in which the model runs.
    InferenceGeo,
    /// An answer as long as was asked for. Targets have a number for it, not a yes or no.
    MaxTokens,
    /// The thinking of earlier turns. Always lost when another model than its own answers.
    ThinkingBlocks,
}

impl Feature {
    /// Every feature, in the order in which they are shown.
    pub const ALL: [Self; 19] = [
        Self::Tools,
        Self::ForcedTools,
        Self::ServerTools,
        Self::Images,
        Self::Documents,
        Self::AssistantDocuments,
        Self::Thinking,
        Self::NoThinking,
        Self::Effort,
        Self::Citations,
        Self::TextCitations,
        Self::JsonSchema,
        Self::PromptCaching,
        Self::Sampling,
        Self::Prefill,
        Self::FastMode,
        Self::InferenceGeo,
        Self::MaxTokens,
        Self::ThinkingBlocks,
    ];

    /// Stable lower-case word for configuration, headers, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.words().0
    }

    /// Whether a target can be said to lack it. The length of an answer is a number, and whether the
    /// thinking of earlier turns can be read depends on who wrote it.
    #[must_use]
    pub const fn is_capability(self) -> bool {
        !matches!(self, Self::MaxTokens | Self::ThinkingBlocks)
    }

    /// Its word, and the word for a target that lacks it.
    pub(super) const fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Tools => ("tools", "cannot_tools"),
            Self::ForcedTools => ("forced_tools", "cannot_forced_tools"),
            Self::ServerTools => ("server_tools", "cannot_server_tools"),
            Self::Images => ("images", "cannot_images"),
            Self::Documents => ("documents", "cannot_documents"),
            Self::AssistantDocuments => ("assistant_documents", "cannot_assistant_documents"),
            Self::Thinking => ("thinking", "cannot_thinking"),
            Self::NoThinking => ("no_thinking", "cannot_no_thinking"),
            Self::Effort => ("effort", "cannot_effort"),
            Self::Citations => ("citations", "cannot_citations"),
            Self::TextCitations => ("text_citations", "cannot_text_citations"),
            Self::JsonSchema => ("json_schema", "cannot_json_schema"),
            Self::PromptCaching => ("prompt_caching", "cannot_prompt_caching"),
            Self::Sampling => ("sampling", "cannot_sampling"),
            Self::Prefill => ("prefill", "cannot_prefill"),
            Self::FastMode => ("fast_mode", "cannot_fast_mode"),
            Self::InferenceGeo => ("inference_geo", "cannot_inference_geo"),
            Self::MaxTokens => ("max_tokens", "cannot_max_tokens"),
            Self::ThinkingBlocks => ("thinking_blocks", "cannot_thinking_blocks"),
        }
    }

    /// What there is no more of once this is gone: whoever allows or lacks the whole does so for the
    /// part.
    const fn part(self) -> Option<Self> {
        match self {
            Self::Tools => Some(Self::ForcedTools),
            Self::Documents => Some(Self::AssistantDocuments),
            Self::Citations => Some(Self::TextCitations),
            _ => None,
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

impl fmt::Display for Feature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Feature {
    type Err = UnknownFeature;

    fn from_str(word: &str) -> Result<Self, UnknownFeature> {
        let known = Self::ALL.into_iter().find(|f| f.as_str() == word);
        known.ok_or_else(|| UnknownFeature {
            word: word.to_owned(),
            nearest: nearest(word),
        })
    }
}

/// Less alike than this, a known word is no help.
const ALIKE: f64 = 0.5;

fn nearest(word: &str) -> Option<Feature> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    Feature::ALL
        .into_iter()
        .map(|f| (strsim::normalized_damerau_levenshtein(&word, f.as_str()), f))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, f)| f)
}

/// A word that names no feature.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnknownFeature {
    /// What was written.
    pub word: String,
    /// The feature that was probably meant.
    pub nearest: Option<Feature>,
}

impl std::error::Error for UnknownFeature {}

impl fmt::Display for UnknownFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is no feature: ", self.word)?;
        match self.nearest {
            Some(nearest) => write!(f, "write \"{nearest}\""),
            None => write!(f, "write one of {}", Features::all()),
        }
    }
}

/// A set of features.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Features(u32);

impl Features {
    /// No feature.
    pub const NONE: Self = Self(0);

    /// Every feature.
    #[must_use]
    pub fn all() -> Self {
        Feature::ALL.into_iter().collect()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the feature is one of them.
    #[must_use]
    pub const fn contains(self, feature: Feature) -> bool {
        self.0 & feature.bit() != 0
    }

    /// Whether any of the other's features is one of them.
    #[must_use]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// These and the feature.
    #[must_use]
    pub const fn with(self, feature: Feature) -> Self {
        Self(self.0 | feature.bit())
    }

    /// These and the other's.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// These without the other's.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// These and whatever is a part of one of them: who allows the loss of `documents` allows that of
    /// `assistant_documents`.
    #[must_use]
    pub fn with_parts(self) -> Self {
        self.iter().filter_map(Feature::part).fold(self, Self::with)
    }

    /// Its features, in the order of [`Feature::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.into_iter().filter(move |f| self.contains(*f))
    }

    pub(crate) const fn insert(&mut self, feature: Feature) {
        self.0 |= feature.bit();
    }
}

impl From<Feature> for Features {
    fn from(feature: Feature) -> Self {
        Self::NONE.with(feature)
    }
}

impl FromIterator<Feature> for Features {
    fn from_iter<I: IntoIterator<Item = Feature>>(features: I) -> Self {
        features.into_iter().fold(Self::NONE, Self::with)
    }
}

/// The words, with commas between them; nothing where there is none.
impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, feature) in self.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { ", " })?;
            f.write_str(feature.as_str())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::{Feature, Features};

    #[test]
    fn every_word_reads_back_and_shows_its_refusal() {
        for feature in Feature::ALL {
            assert_eq!(feature.as_str().parse(), Ok(feature));
            assert_eq!(feature.to_string(), feature.as_str());
            assert_eq!(feature.words().1, format!("cannot_{feature}"));
        }
        assert_eq!(Features::all().iter().count(), Feature::ALL.len());
    }

    #[test]
    fn a_wrong_word_is_told_the_nearest() {
        for (word, advice) in [
            ("tool", "write \"tools\""),
            ("json-schema", "write \"json_schema\""),
            ("Image", "write \"images\""),
            ("citation", "write \"citations\""),
            ("xyzzy", "write one of tools, forced_tools, server_tools"),
        ] {
            let wrong = word.parse::<Feature>().expect_err("no such word");
            assert!(wrong.to_string().contains(advice), "{wrong}");
        }
    }

    #[test]
    fn sets_add_up_and_show_in_a_fixed_order() {
        let set: Features = [Feature::Sampling, Feature::Thinking].into_iter().collect();
        assert_eq!(set.to_string(), "thinking, sampling");
        assert_eq!(format!("{set:?}"), "{Thinking, Sampling}");
        assert_eq!(Features::NONE.to_string(), "");
        assert!(set.contains(Feature::Thinking) && !set.contains(Feature::Tools));
        assert!(set.intersects(Feature::Sampling.into()) && !set.intersects(Features::NONE));
        let more = set.union(Feature::Tools.into());
        assert_eq!(more.minus(set), Feature::Tools.into());
        assert!(Features::NONE.is_empty() && !set.is_empty());
    }

    #[test]
    fn the_whole_stands_for_its_parts_and_not_the_other_way() {
        let parts = |feature: Feature| Features::from(feature).with_parts().to_string();
        assert_eq!(parts(Feature::Tools), "tools, forced_tools");
        assert_eq!(parts(Feature::Documents), "documents, assistant_documents");
        assert_eq!(parts(Feature::Citations), "citations, text_citations");
        assert_eq!(parts(Feature::AssistantDocuments), "assistant_documents");
        assert_eq!(parts(Feature::ServerTools), "server_tools");
    }
}
