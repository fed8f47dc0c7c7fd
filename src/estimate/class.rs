//! What most of a request is: estimates of one kind err alike, and those of another differently.

use crate::provider::anthropic::request::Counts;

/// What most of a request's tokens are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Class {
    /// Prose.
    Text,
    /// Text with many symbols and digits: code, data, mathematics.
    Code,
    /// Chinese, Japanese or Korean.
    Cjk,
    /// Tool definitions, calls and results, and forms of the answer.
    Tools,
    /// Tools that the provider defines and runs; what they cost shows only in the answer.
    ProviderTools,
    /// Images.
    Images,
    /// Documents that are no text.
    Documents,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 7] = [
        Self::Text,
        Self::Code,
        Self::Cjk,
        Self::Tools,
        Self::ProviderTools,
        Self::Images,
        Self::Documents,
    ];

    /// Stable lower-case word for status and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Code => "code",
            Self::Cjk => "cjk",
            Self::Tools => "tools",
            Self::ProviderTools => "provider_tools",
            Self::Images => "images",
            Self::Documents => "documents",
        }
    }

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Text => 0,
            Self::Code => 1,
            Self::Cjk => 2,
            Self::Tools => 3,
            Self::ProviderTools => 4,
            Self::Images => 5,
            Self::Documents => 6,
        }
    }
}

/// An estimate before any correction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Estimate {
    /// Tokens of the whole prompt, whatever a cache has of it.
    pub tokens: u64,
    /// What most of them are.
    pub class: Class,
}

/// From this part of its characters on, a text of digits and symbols is code: prose has one in thirty,
/// recorded code and mathematics one in eight.
const CODE: u64 = 10;

/// The parts of an estimate, in thousandths of a token.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    pub(super) frame: u64,
    pub(super) text: u64,
    /// Digits and symbols.
    pub(super) marks: u64,
    pub(super) cjk: u64,
    pub(super) tools: u64,
    pub(super) format: u64,
    pub(super) images: u64,
    pub(super) pages: u64,
}

impl Parts {
    pub(super) fn estimate(self, counts: &Counts) -> Estimate {
        let sum = [
            self.frame,
            self.text,
            self.marks,
            self.cjk,
            self.tools,
            self.format,
            self.images,
            self.pages,
        ]
        .into_iter()
        .fold(0, u64::saturating_add);
        Estimate {
            // To the nearest: most prompts are short, and rounding up would show in their median.
            tokens: sum.saturating_add(500) / 1_000,
            class: self.class(counts),
        }
    }

    fn class(self, counts: &Counts) -> Class {
        if counts.provider_tools > 0 {
            return Class::ProviderTools;
        }
        let tools = self.tools.saturating_add(self.format);
        let words = self.text.saturating_add(self.marks);
        let largest = words
            .max(self.cjk)
            .max(tools)
            .max(self.images)
            .max(self.pages);
        let (marks, narrow) = {
            let marks = counts.digits.saturating_add(counts.symbols);
            (marks, marks.saturating_add(counts.text))
        };
        match largest {
            _ if largest == self.pages && self.pages > 0 => Class::Documents,
            _ if largest == self.images && self.images > 0 => Class::Images,
            _ if largest == tools && tools > 0 => Class::Tools,
            _ if largest == self.cjk && self.cjk > 0 => Class::Cjk,
            _ if marks.saturating_mul(CODE) >= narrow && marks > 0 => Class::Code,
            _ => Class::Text,
        }
    }
}
