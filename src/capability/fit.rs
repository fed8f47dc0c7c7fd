//! Whether a request fits a target.

use super::{Capabilities, Feature, Features, Needs, Trait};

/// The shortest answer, in tokens, that `max_tokens` is lowered to, unless less was asked for; also the
/// smallest budget that a model thinks with.
pub const LEAST_ANSWER: u64 = 1_024;

/// What is odd about a body whose needs are not known.
pub(crate) const UNREAD: &str = "what it needs could not be read";

/// What must change in a request before a target takes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fit {
    /// What gets lost.
    pub losses: Features,
    /// The longest answer, where the target has not room for the one that was asked for.
    pub max_tokens: Option<u64>,
}

/// Why a request does not fit a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Misfit {
    /// It needs what the target lacks, and may not lose it.
    #[error(
        "it needs what the target cannot carry ({missing}): name a target that can, or allow the loss \
         with `lossy`"
    )]
    Cannot {
        /// What the target lacks; never empty.
        missing: Features,
    },
    /// Prompt and answer together are longer than the target's context.
    #[error(
        "its prompt of about {prompt} tokens and an answer of up to {answer} exceed the target's \
         context of {limit}: name a target with a larger context, ask for a shorter answer, or allow \
         one with `lossy = [\"max_tokens\"]`"
    )]
    ContextTooLong {
        /// Estimated tokens of the prompt.
        prompt: u64,
        /// Tokens of answer that it asks for.
        answer: u64,
        /// The target's context in tokens.
        limit: u64,
    },
    /// It asks for a longer answer than the target gives.
    #[error(
        "it asks for up to {asked} tokens and the target gives at most {limit}: lower `max_tokens`, or \
         allow that with `lossy = [\"max_tokens\"]`"
    )]
    OutputTooLong {
        /// Tokens of answer that it asks for.
        asked: u64,
        /// The target's longest answer in tokens.
        limit: u64,
    },
    /// Its body is so odd that nothing can be taken out of it with certainty.
    #[error(
        "its body cannot be rewritten ({what}): only a target that takes it as it is can answer"
    )]
    Unreadable {
        /// What is odd.
        what: &'static str,
    },
    /// Nothing would be left of its messages.
    #[error("no message would be left without {lost}: name a target that can carry it")]
    Nothing {
        /// What would have been lost.
        lost: Feature,
    },
}

impl Misfit {
    /// Stable lower-case word for headers, logs and metrics. Of several features that the target
    /// lacks, the first.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Cannot { missing } => missing.iter().next().map_or("cannot", |f| f.words().1),
            Self::ContextTooLong { .. } => "context_too_long",
            Self::OutputTooLong { .. } => "output_too_long",
            Self::Unreadable { .. } => "unreadable",
            Self::Nothing { lost } => lost.words().1,
        }
    }
}

/// Says what a request has to lose before a target takes it.
///
/// `prompt_tokens` is the estimate for the target's model. `lossy` says what may get lost, with
/// [`Feature::MaxTokens`] for a shorter answer; the thinking of earlier turns is always given up where
/// it cannot be read. Pass [`Needs::moved`] where another model than the caller's is to answer.
///
/// # Errors
///
/// [`Misfit`] where the request needs what the target lacks, or is too long for it, and may not lose
/// that.
pub fn fit(
    needs: &Needs,
    prompt_tokens: u64,
    target: &Capabilities,
    lossy: Features,
) -> Result<Fit, Misfit> {
    if needs.has(Trait::Unread) && needs.has(Trait::Moved) {
        return Err(Misfit::Unreadable { what: UNREAD });
    }
    let allowed = lossy.with_parts().with(Feature::ThinkingBlocks);
    let asked = needs.lost_to(target.features, target.refuses);
    let mut losses = needs.with_consequences(asked);
    let missing = losses.minus(allowed);
    if !missing.is_empty() {
        return Err(Misfit::Cannot { missing });
    }
    let may_shorten = allowed.contains(Feature::MaxTokens);
    let max_tokens = room(needs, prompt_tokens, target, may_shorten)?;
    if let (Some(shorter), Some(asked)) = (max_tokens, needs.max_tokens) {
        losses.insert(Feature::MaxTokens);
        let thinks = needs
            .thinking_budget
            .filter(|_| !losses.contains(Feature::Thinking));
        if thinks.is_some_and(|budget| scaled(budget, asked, shorter) < LEAST_ANSWER) {
            // Thinking would not leave room for an answer.
            if !allowed.contains(Feature::Thinking) {
                return Err(Misfit::Cannot {
                    missing: Feature::Thinking.into(),
                });
            }
            losses = needs.with_consequences(losses.with(Feature::Thinking));
        }
    }
    Ok(Fit { losses, max_tokens })
}

/// A part of the answer's tokens when the answer is to be shorter.
pub(crate) fn scaled(part: u64, asked: u64, shorter: u64) -> u64 {
    let part = u128::from(part) * u128::from(shorter) / u128::from(asked.max(1));
    u64::try_from(part).unwrap_or(u64::MAX)
}

/// The longest answer there is room for, where that is less than was asked for.
fn room(
    needs: &Needs,
    prompt: u64,
    target: &Capabilities,
    may_shorten: bool,
) -> Result<Option<u64>, Misfit> {
    let answer = needs.max_tokens.unwrap_or(0);
    let too_long = |limit| Misfit::ContextTooLong {
        prompt,
        answer,
        limit,
    };
    let context = target.context_tokens.unwrap_or(u64::MAX);
    let Some(left) = context.checked_sub(prompt).filter(|left| *left > 0) else {
        return Err(too_long(context));
    };
    let Some(asked) = needs.max_tokens else {
        return Ok(None);
    };
    let output = target.output_tokens.unwrap_or(u64::MAX);
    let most = left.min(output);
    if asked <= most {
        return Ok(None);
    }
    if may_shorten && most >= asked.min(LEAST_ANSWER) {
        return Ok(Some(most));
    }
    if asked > output {
        Err(Misfit::OutputTooLong {
            asked,
            limit: output,
        })
    } else {
        Err(too_long(context))
    }
}

/// Losses that change what stands before an earlier turn's thinking, which is bound to it.
const BEFORE_THOUGHTS: Features = Features::NONE
    .with(Feature::Tools)
    .with(Feature::ServerTools)
    .with(Feature::Images)
    .with(Feature::Documents)
    .with(Feature::AssistantDocuments)
    .with(Feature::Citations)
    .with(Feature::TextCitations);

impl Needs {
    /// What else gets lost when `lost` does.
    ///
    /// The thinking of earlier turns goes with the model or the text that it is bound to, and new
    /// thinking with a budget where it would have to go on from that. A paused turn without the tools
    /// that it was paused in is only words that an answer would go on from.
    pub(crate) fn with_consequences(&self, mut lost: Features) -> Features {
        if self.has(Trait::Paused) && lost.contains(Feature::ServerTools) {
            lost.insert(Feature::Prefill);
        }
        let unbound = self.has(Trait::Moved)
            || lost.contains(Feature::Thinking)
            || lost.intersects(BEFORE_THOUGHTS);
        if self.features.contains(Feature::ThinkingBlocks)
            && (unbound || lost.contains(Feature::ThinkingBlocks))
        {
            lost.insert(Feature::ThinkingBlocks);
            // The API refuses a budget where a turn that called tools does not begin with thinking;
            // with adaptive thinking it does not look, nor where the calls have become text.
            let calls = self.has(Trait::Paused) || !lost.contains(Feature::Tools);
            if calls && self.has(Trait::OpenThought) && self.has(Trait::ThinkingBudget) {
                lost.insert(Feature::Thinking);
            }
        }
        lost
    }
}
