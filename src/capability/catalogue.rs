//! What is known of models and API versions. What is not here is not refused.

use super::needs::Traits;
use super::{Capabilities, Feature, Features, Trait};
use crate::provider::anthropic::plain_model;

/// One model, by its plain name.
struct Row {
    model: &'static str,
    context: u64,
    output: u64,
    lacks: Features,
    refuses: Traits,
    /// Its thinking can be read only by the account that it was thought for.
    keeps_thoughts: bool,
}

const MILLION: u64 = 1_000_000;

/// 200,000 tokens of context, thinking by budget only, and no choice of where it runs.
const fn claude_4_5(model: &'static str, lacks: Features) -> Row {
    Row {
        model,
        context: 200_000,
        output: 64_000,
        lacks: lacks.with(Feature::FastMode).with(Feature::InferenceGeo),
        refuses: Traits::of(Trait::AdaptiveThinking),
        keeps_thoughts: false,
    }
}

/// No prefill; adaptive thinking or a budget.
const fn claude_4_6(model: &'static str) -> Row {
    Row {
        model,
        context: MILLION,
        output: 128_000,
        lacks: Features::NONE
            .with(Feature::Prefill)
            .with(Feature::FastMode),
        refuses: Traits::NONE,
        keeps_thoughts: false,
    }
}

/// Adaptive thinking only, and sampling parameters only at their defaults.
const fn later(model: &'static str) -> Row {
    Row {
        refuses: Traits::of(Trait::ThinkingBudget).and(Trait::TunedSampling),
        ..claude_4_6(model)
    }
}

/// Models that always think.
const fn thinking(model: &'static str) -> Row {
    let row = later(model);
    Row {
        lacks: row.lacks.with(Feature::NoThinking),
        ..row
    }
}

/// Models that always think and choose their tools themselves.
const fn unforced(model: &'static str) -> Row {
    let row = thinking(model);
    Row {
        lacks: row.lacks.with(Feature::ForcedTools),
        ..row
    }
}

const fn keeping_thoughts(row: Row) -> Row {
    Row {
        keeps_thoughts: true,
        ..row
    }
}

const fn with_fast_mode(row: Row) -> Row {
    Row {
        lacks: row.lacks.minus(Features::NONE.with(Feature::FastMode)),
        ..row
    }
}

/// Read on 2026-11-23. Limits and prefill: the provider's model and error pages. Thinking, sampling,
/// forced tools, effort and whose thinking can be read: its migration guides and release notes of 2026,
/// and refusals that users reported. Where a model runs: its page on data residency. Retired
/// models, which clouds still serve, are left out, and so carry everything.
static TABLE: [Row; 18] = [
    keeping_thoughts(unforced("claude-fable-5-2")),
    keeping_thoughts(unforced("claude-mythos-5-2")),
    keeping_thoughts(unforced("claude-fable-5-1")),
    keeping_thoughts(unforced("claude-mythos-5-1")),
    thinking("claude-fable-5"),
    thinking("claude-mythos-5"),
    keeping_thoughts(with_fast_mode(unforced("claude-opus-5-5"))),
    with_fast_mode(later("claude-opus-5")),
    with_fast_mode(later("claude-opus-4-8")),
    later("claude-opus-4-7"),
    claude_4_6("claude-opus-4-6"),
    claude_4_5("claude-opus-4-5", Features::NONE),
    keeping_thoughts(thinking("claude-sonnet-5-5")),
    later("claude-sonnet-5"),
    claude_4_6("claude-sonnet-4-6"),
    claude_4_5("claude-sonnet-4-5", NO_EFFORT),
    keeping_thoughts(later("claude-haiku-5-5")),
    claude_4_5("claude-haiku-4-5", NO_EFFORT),
];

const NO_EFFORT: Features = Features::NONE.with(Feature::Effort);

fn row(name: &str) -> Option<&'static Row> {
    let plain = plain_model(name);
    TABLE.iter().find(|row| row.model == plain)
}

/// Whether another account can't read a model's thinking.
pub(super) fn keeps_thoughts(name: &str) -> bool {
    row(name).is_some_and(|row| row.keeps_thoughts)
}

/// What a model can carry, whatever the API version.
pub(super) fn model(name: &str) -> Capabilities {
    let everything = Capabilities::everything();
    match row(name) {
        Some(row) => Capabilities {
            features: everything.features.minus(row.lacks),
            context_tokens: Some(row.context),
            output_tokens: Some(row.output),
            refuses: row.refuses,
        },
        None => everything,
    }
}

/// What an API version refuses, whatever the model.
pub(super) fn refused_under(version: &str) -> Features {
    /// The first version that refuses what earlier ones took.
    const STRICT: &str = "2026-10-21";
    // Dates of this form are in the order of their text.
    if is_date(version) && version >= STRICT {
        Features::NONE
            .with(Feature::Sampling)
            .with(Feature::AssistantDocuments)
            .with(Feature::TextCitations)
    } else {
        Features::NONE
    }
}

fn is_date(text: &str) -> bool {
    let fits = |(i, b): (usize, u8)| match i {
        4 | 7 => b == b'-',
        _ => b.is_ascii_digit(),
    };
    text.len() == 10 && text.bytes().enumerate().all(fits)
}
