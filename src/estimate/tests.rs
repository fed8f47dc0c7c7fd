use std::path::PathBuf;

use serde::Deserialize;

use super::*;

#[test]
fn a_short_greeting_takes_what_was_recorded_for_it() {
    let hello = Counts {
        messages: 1,
        text: 5,
        ..Counts::default()
    };
    assert!((8..=10).contains(&input_tokens("claude-sonnet-4-5", &hello)));
    assert!((9..=11).contains(&input_tokens("claude-sonnet-5", &hello)));
}

#[test]
fn tools_bring_their_instructions_along() {
    let counts = |tool_choice| Counts {
        messages: 1,
        tools: 1,
        tool_definitions: 100,
        tool_choice,
        ..Counts::default()
    };
    assert_eq!(
        input_tokens("claude-haiku-4-5-20251001", &counts(ToolChoice::Auto)),
        8 + 503 + 31
    );
    assert_eq!(
        input_tokens("claude-haiku-4-5-20251001", &counts(ToolChoice::Forced)),
        8 + 588 + 31
    );
    assert_eq!(
        input_tokens("claude-opus-4-7", &counts(ToolChoice::Auto)),
        8 + 680 + 40
    );
    assert_eq!(
        input_tokens("claude-sonnet-4-20250514", &counts(ToolChoice::Auto)),
        8 + 325 + 31
    );
}

#[test]
fn every_generation_gets_its_tokenizer() {
    for (model, newer) in [
        ("claude-2.1", false),
        ("claude-3-7-sonnet-20250219", false),
        ("claude-3-5-haiku-latest", false),
        ("claude-sonnet-4-20250514", false),
        ("claude-sonnet-4-0", false),
        ("claude-haiku-4-5-20251001", false),
        ("eu.anthropic.claude-opus-4-6-v1:0", false),
        ("claude-opus-4-7", true),
        ("claude-opus-4-8", true),
        ("claude-sonnet-5", true),
        ("claude-haiku-5-5", true),
        ("claude-fable-6", true),
        ("something-else", true),
        ("", true),
    ] {
        assert_eq!(is_newer(&plain_model(model)), newer, "{model}");
    }
}

#[test]
fn images_take_their_recorded_size() {
    // 1800 x 1200 pixels: 1,554 and 2,817 tokens with 27 characters of text beside them.
    assert_eq!(image("claude-sonnet-4-6", 1800, 1200), 1_573);
    assert_eq!(image("claude-opus-4-7", 1800, 1200), 2_800);
    assert_eq!(image("claude-opus-4-7", 100_000, 100_000), 4_789);
    assert_eq!(image("claude-sonnet-4-6", 100, 100), 21);
    assert_eq!(image("claude-sonnet-4-6", 0, 100), 0);
    assert!(image("claude-opus-4-7", u32::MAX, u32::MAX) <= 4_789);
    assert_eq!(image("claude-opus-4-7", u32::MAX, 1), 97);
}

#[test]
fn absurd_counts_saturate() {
    let most = u64::MAX;
    let counts = Counts {
        messages: most,
        text: most,
        digits: most,
        symbols: most,
        cjk: most,
        tools: most,
        provider_tools: most,
        tool_definitions: most,
        formats: most,
        format_schemas: most,
        tool_choice: ToolChoice::Forced,
        round_trips: most,
        tool_calls: most,
        tool_results: most,
        image_tokens: most,
        unknown_images: most,
        pages: most,
        cache_marked: true,
    };
    assert_eq!(input_tokens("claude-sonnet-5", &counts), most / 1_000);
}

#[test]
fn a_correction_approaches_the_true_ratio_and_one_outlier_moves_it_little() {
    let mut correction = Correction::new();
    assert_eq!(correction.apply(100), 100);
    for _ in 0..60 {
        correction.learn(100, 150);
    }
    assert!((1.49..=1.5).contains(&correction.ratio()), "{correction:?}");
    correction.learn(1, u64::MAX);
    assert!(
        correction.ratio() < 1.66,
        "one request counts as twice the usual, by a tenth: {correction:?}"
    );
    assert_eq!(correction.apply(0), 0);
}

#[test]
fn a_correction_stays_within_its_bounds_whatever_it_is_told() {
    let mut correction = Correction::new();
    for _ in 0..1_000 {
        correction.learn(u64::MAX, 1);
    }
    assert!(correction.ratio() >= 0.1);
    assert_eq!(correction.apply(1), 1);
    for _ in 0..1_000 {
        correction.learn(1, u64::MAX);
    }
    assert!(correction.ratio() <= 10.0);
    assert_eq!(correction.apply(u64::MAX), u64::MAX);
    let before = correction.clone();
    correction.learn(0, 5);
    correction.learn(5, 0);
    assert_eq!(
        correction, before,
        "nothing estimated or nothing taken says nothing"
    );
}

/// One recorded request: counts, no text.
#[derive(Deserialize)]
struct Recorded {
    kind: String,
    model: String,
    messages: u64,
    chars_text_and_system: u64,
    chars_tool_results: u64,
    chars_tool_use_json: u64,
    tools: u64,
    chars_tools_json: u64,
    tool_choice: Option<String>,
    frac_digits: f64,
    frac_punct: f64,
    images: Vec<(u32, u32)>,
    images_by_url: u64,
    documents: u64,
    total_input_tokens: u64,
}

impl Recorded {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "parts of small counts"
    )]
    fn counts(&self) -> Counts {
        let of_text = |part: f64| (self.chars_text_and_system as f64 * part).round() as u64;
        let (digits, symbols) = (of_text(self.frac_digits), of_text(self.frac_punct));
        let used_tools = self.chars_tool_results > 0 || self.chars_tool_use_json > 0;
        Counts {
            messages: self.messages,
            text: self.chars_text_and_system.saturating_sub(digits + symbols),
            digits,
            symbols,
            tools: self.tools,
            tool_definitions: self.chars_tools_json,
            tool_choice: match self.tool_choice.as_deref() {
                Some("any" | "tool") => ToolChoice::Forced,
                _ => ToolChoice::Auto,
            },
            // The rows do not say; in every one of them calls and results alternate.
            round_trips: if used_tools {
                self.messages.saturating_sub(1) / 2
            } else {
                0
            },
            tool_calls: self.chars_tool_use_json,
            tool_results: self.chars_tool_results,
            image_tokens: self
                .images
                .iter()
                .map(|(w, h)| image(&self.model, *w, *h))
                .sum(),
            unknown_images: self.images_by_url,
            pages: self.documents,
            ..Counts::default()
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    fn ratio(&self) -> f64 {
        input_tokens(&self.model, &self.counts()) as f64 / self.total_input_tokens as f64
    }
}

fn recorded() -> Option<Vec<Recorded>> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/recordings");
    let dir = std::env::var_os("SEAWALL_RECORDINGS").map_or_else(beside, PathBuf::from);
    let Ok(text) = std::fs::read_to_string(dir.join("calibration.jsonl")) else {
        println!(
            "skipped: no calibration.jsonl in {} (set SEAWALL_RECORDINGS)",
            dir.display()
        );
        return None;
    };
    Some(
        text.lines()
            .map(|line| serde_json::from_str(line).expect("a recorded row"))
            .collect(),
    )
}

/// Ratios of estimated to actual tokens, sorted: one kind, one tokenizer, images of known size.
fn ratios(rows: &[Recorded], kind: &str, newer: bool) -> Vec<f64> {
    let fits = |row: &&Recorded| {
        row.kind == kind && row.images_by_url == 0 && is_newer(&plain_model(&row.model)) == newer
    };
    let mut ratios: Vec<f64> = rows.iter().filter(fits).map(Recorded::ratio).collect();
    ratios.sort_by(f64::total_cmp);
    ratios
}

#[test]
#[expect(clippy::cast_precision_loss, reason = "shares of small counts")]
fn recorded_requests_are_estimated_as_well_as_the_fit_promises() {
    let Some(rows) = recorded() else { return };
    // Kind, newer tokenizer, and the fit's own figures over the whole population: median ratio and
    // share within 10 %. The rows here are a choice of that population.
    for (kind, newer, published_median, published_share) in [
        ("plain", false, 0.98, 0.36),
        ("plain", true, 1.05, 0.48),
        ("tools", false, 1.01, 0.82),
        ("tools", true, 1.00, 0.94),
        ("image", false, 0.94, 0.66),
    ] {
        let ratios = ratios(&rows, kind, newer);
        assert!(ratios.len() >= 5, "{kind}: {} requests", ratios.len());
        let count = ratios.len() as f64;
        let median = ratios[ratios.len() / 2];
        let share = ratios
            .iter()
            .filter(|ratio| (0.9..=1.1).contains(*ratio))
            .count() as f64
            / count;
        println!("{kind} newer={newer}: median {median:.3}, within 10 % {share:.3} of {count}");
        // The fit's medians for its own kinds and tokenizers lie 7 points around 1.
        assert!(
            (median - published_median).abs() <= 0.08,
            "{kind} newer={newer}: median {median:.3}"
        );
        // Five points, or two requests where the choice has few.
        let tolerance = f64::max(0.05, 2.0 / count);
        assert!(
            share >= published_share - tolerance,
            "{kind} newer={newer}: {share:.3} within 10 %"
        );
    }
}

#[test]
fn recorded_tool_round_trips_are_estimated_as_well_as_the_fit_promises() {
    let Some(rows) = recorded() else { return };
    let mut errors: Vec<f64> = ratios(&rows, "tools+results", false)
        .iter()
        .map(|ratio| (ratio - 1.0).abs())
        .collect();
    errors.sort_by(f64::total_cmp);
    let (median, p90) = (errors[errors.len() / 2], errors[errors.len() * 9 / 10]);
    println!("tools+results: median error {median:.3}, p90 {p90:.3}");
    // Published: 3 % and 16 %; the tolerance is two points.
    assert!(
        median <= 0.05 && p90 <= 0.18,
        "median error {median:.3}, p90 {p90:.3}"
    );
}

#[test]
fn a_learned_correction_improves_what_the_fit_cannot_know() {
    let Some(rows) = recorded() else { return };
    // Formatted output costs more than its text suggests; the rest of one model's requests teach it.
    let rows: Vec<&Recorded> = rows
        .iter()
        .filter(|row| row.kind == "structured-output")
        .collect();
    let mut correction = Correction::new();
    let (mut plain, mut corrected) = (0_u64, 0_u64);
    for row in rows {
        let estimated = input_tokens(&row.model, &row.counts());
        plain += estimated.abs_diff(row.total_input_tokens);
        corrected += correction.apply(estimated).abs_diff(row.total_input_tokens);
        correction.learn(estimated, row.total_input_tokens);
    }
    assert!(
        corrected < plain,
        "off by {corrected} tokens with, {plain} without"
    );
}
