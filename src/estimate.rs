//! How many tokens a request will take, before it is sent.
//!
//! A linear fit over 3,012 recorded requests: fixed costs per message, per tool round trip and per
//! model, plus characters times a rate of the model's tokenizer and their kind. It is wrong by a factor
//! for whatever the provider adds on its own (its own tools, pages it reads): a [`Correction`] per
//! target and [`Class`] learns the rest from what the provider counts. `docs/estimates.md` has the
//! figures.

mod class;
mod learned;

pub use class::{Class, Estimate};
pub use learned::{Correction, ErrorFigures, Errors, Usual};

use class::Parts;

use crate::provider::anthropic::plain_model;
use crate::provider::anthropic::request::{Counts, ToolChoice};

/// Returns the tokens that a request will take.
#[must_use]
pub fn input_tokens(model: &str, counts: &Counts) -> u64 {
    estimate(model, counts).tokens
}

/// Returns the tokens that a request will take, and what most of them are.
#[must_use]
pub fn estimate(model: &str, counts: &Counts) -> Estimate {
    let id = &*plain_model(model);
    let rates = Rates::of(id);
    let sum = |parts: &[(u64, u64)]| {
        parts.iter().fold(0_u64, |sum, (count, rate)| {
            sum.saturating_add(count.saturating_mul(*rate))
        })
    };
    let preamble = if counts.tools > 0 {
        tool_preamble(id, counts.tool_choice)
    } else {
        0
    };
    Parts {
        frame: sum(&[
            (1, FIRST_MESSAGE),
            (counts.messages.saturating_sub(1), FURTHER_MESSAGE),
        ]),
        text: sum(&[(counts.text, rates.text)]),
        marks: sum(&[(counts.digits, rates.digit), (counts.symbols, rates.symbol)]),
        cjk: sum(&[(counts.cjk, rates.cjk)]),
        tools: sum(&[
            (preamble, 1_000),
            (counts.tool_definitions, rates.tool_definition),
            (counts.round_trips, rates.round_trip),
            (counts.tool_calls, rates.tool_call),
            (counts.tool_results, rates.tool_result),
        ]),
        format: sum(&[
            (counts.formats, FORMAT),
            (counts.format_schemas, rates.tool_definition),
        ]),
        images: sum(&[
            (counts.image_tokens, 1_000),
            (counts.unknown_images, UNKNOWN_IMAGE),
        ]),
        pages: sum(&[(counts.pages, PAGE)]),
    }
    .estimate(counts)
}

/// Returns the tokens of an image: one for each patch of 28 by 28 pixels, after it was scaled
/// down to the model's longest edge. Zero for an image without pixels.
#[must_use]
pub fn image(model: &str, width: u32, height: u32) -> u64 {
    const PATCH: u64 = 28;
    let (edge, most) = if is_newer(&plain_model(model)) {
        (2_576, 4_784)
    } else {
        (1_568, 1_568)
    };
    let (width, height) = (u64::from(width), u64::from(height));
    let longest = width.max(height);
    let scaled = |side: u64| {
        if longest > edge {
            (side * edge).div_ceil(longest)
        } else {
            side
        }
    };
    let patches = scaled(width).div_ceil(PATCH) * scaled(height).div_ceil(PATCH);
    if patches == 0 {
        0
    } else {
        patches.min(most) + IMAGE_FRAME
    }
}

/// Thousandths of a token for a request with one message.
const FIRST_MESSAGE: u64 = 8_000;
/// Thousandths of a token for each further message.
const FURTHER_MESSAGE: u64 = 3_500;
/// Thousandths of a token for an image of unknown size: a large one on the older models.
const UNKNOWN_IMAGE: u64 = 1_575_000;
/// Thousandths of a token for a page: one-page documents took 1,560 to 1,600.
const PAGE: u64 = 1_580_000;
/// Thousandths of a token for a form that the answer must have, besides its schema: what 30 recorded
/// requests took more than their text and schema explain.
const FORMAT: u64 = 140_000;
/// Tokens around an image.
const IMAGE_FRAME: u64 = 5;

/// Thousandths of a token per character, or per piece.
struct Rates {
    text: u64,
    digit: u64,
    symbol: u64,
    cjk: u64,
    tool_definition: u64,
    tool_call: u64,
    tool_result: u64,
    /// On top of its two further messages.
    round_trip: u64,
}

impl Rates {
    /// Claude 3 to 4.6.
    const OLDER: Self = Self {
        text: 190,
        digit: 1_000,
        symbol: 900,
        // No clean sample was recorded: a character a token, on the safe side.
        cjk: 1_000,
        tool_definition: 310,
        tool_call: 303,
        tool_result: 333,
        round_trip: 58_000 - 2 * FURTHER_MESSAGE,
    };
    /// Claude 4.7 and everything after it: another tokenizer, 1.45 times as many tokens.
    const NEWER: Self = Self {
        text: 285,
        digit: 1_300,
        symbol: 950,
        cjk: 1_450,
        tool_definition: 400,
        tool_call: 400,
        tool_result: 360,
        round_trip: 72_000 - 2 * FURTHER_MESSAGE,
    };

    fn of(id: &str) -> &'static Self {
        if is_newer(id) {
            &Self::NEWER
        } else {
            &Self::OLDER
        }
    }
}

/// Whether a model has the tokenizer that came with 4.7. A model nobody has heard of is taken for a
/// new one.
fn is_newer(id: &str) -> bool {
    let older = ["claude-2", "claude-3", "claude-instant"];
    if older.iter().any(|generation| id.starts_with(generation)) {
        return false;
    }
    // claude-FAMILY-MAJOR[-MINOR]
    let mut version = id
        .split('-')
        .skip(2)
        .map_while(|part| part.parse::<u32>().ok());
    match (version.next(), version.next()) {
        (Some(major), minor) => (major, minor.unwrap_or(0)) >= (4, 7),
        (None, _) => true,
    }
}

/// Tokens of the instructions that tools bring along: auto, then any or named.
///
/// Measured where recordings exist, Anthropic's pricing page elsewhere (Opus 4.8, forced Opus 5);
/// a model without either takes its nearest relative's.
fn tool_preamble(id: &str, choice: ToolChoice) -> u64 {
    const KNOWN: [(&str, u64, u64); 10] = [
        ("claude-3-opus", 533, 588),
        ("claude-3-5-haiku", 264, 340),
        ("claude-2", 325, 318),
        ("claude-3", 325, 318),
        ("claude-opus-4-7", 680, 790),
        ("claude-opus-4-8", 290, 410),
        ("claude-sonnet-5", 352, 478),
        ("claude-opus-5", 290, 406),
        ("claude-fable-5", 290, 406),
        ("claude-mythos-5", 290, 406),
    ];
    // Sonnet 4.0 and Opus 4.0: their ids have no minor version once the date is off.
    let first_of_four = matches!(
        id.strip_suffix("-0").unwrap_or(id),
        "claude-sonnet-4" | "claude-opus-4"
    );
    let (auto, forced) = match KNOWN.iter().find(|(prefix, ..)| id.starts_with(prefix)) {
        _ if first_of_four => (325, 318),
        Some((_, auto, forced)) => (*auto, *forced),
        None => (503, 588),
    };
    match choice {
        ToolChoice::Auto => auto,
        ToolChoice::Forced => forced,
    }
}

#[cfg(test)]
mod tests;
