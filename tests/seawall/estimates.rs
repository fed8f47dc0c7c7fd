//! How well prompts are estimated, held against what the provider counted; `docs/estimates.md` has the
//! figures that come out here.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use seawall::estimate::{Class, Correction, estimate, image};
use seawall::provider::anthropic::request::{Counts, RequestView, ToolChoice};
use serde_json::Value;

/// One request whose size the provider told.
struct Sample {
    model: String,
    counts: Counts,
    actual: u64,
}

fn recordings() -> PathBuf {
    std::env::var_os("SEAWALL_RECORDINGS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/recordings"),
        PathBuf::from,
    )
}

/// The rows of counts; they hold no text, and images with their size in pixels.
fn rows() -> Option<Vec<Sample>> {
    let text = fs::read_to_string(recordings().join("calibration.jsonl")).ok()?;
    let row = |line| sample(&serde_json::from_str(line).unwrap());
    Some(text.lines().map(row).collect())
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "parts of small counts"
)]
fn sample(row: &Value) -> Sample {
    let number = |name: &str| row[name].as_u64().unwrap();
    let model = row["model"].as_str().unwrap().to_owned();
    let text = number("chars_text_and_system");
    let of_text = |name: &str| (text as f64 * row[name].as_f64().unwrap()).round() as u64;
    let (digits, symbols, cjk) = (
        of_text("frac_digits"),
        of_text("frac_punct"),
        of_text("frac_cjk"),
    );
    let (calls, results) = (number("chars_tool_use_json"), number("chars_tool_results"));
    let used_tools = calls > 0 || results > 0;
    let kind = row["kind"].as_str().unwrap();
    let images = row["images"].as_array().unwrap().iter();
    let image_tokens = images.map(|size| {
        let side = |n: usize| u32::try_from(size[n].as_u64().unwrap()).unwrap();
        image(&model, side(0), side(1))
    });
    let image_tokens = image_tokens.sum();
    let counts = Counts {
        messages: number("messages"),
        text: text.saturating_sub(digits + symbols + cjk),
        digits,
        symbols,
        cjk,
        tools: number("tools"),
        provider_tools: u64::from(kind.starts_with("server-tools")),
        tool_definitions: number("chars_tools_json"),
        tool_choice: match row["tool_choice"].as_str() {
            Some("any" | "tool") => ToolChoice::Forced,
            _ => ToolChoice::Auto,
        },
        // The rows do not say; in every one of them calls and results alternate.
        round_trips: if used_tools {
            number("messages").saturating_sub(1) / 2
        } else {
            0
        },
        thinking: row["thinking"] == "enabled",
        tool_calls: calls,
        tool_results: results,
        image_tokens,
        image_tokens_newer: image_tokens,
        unknown_images: number("images_by_url"),
        pages: number("documents"),
        // They hold no schema.
        formats: u64::from(kind == "structured-output"),
        ..Counts::default()
    };
    Sample {
        model,
        counts,
        actual: number("total_input_tokens"),
    }
}

/// The exchanges with their bodies, read as the gateway reads them.
fn exchanges() -> Vec<Sample> {
    let mut found = Vec::new();
    for kind in ["messages", "streams"] {
        let folder = fs::read_dir(recordings().join("anthropic").join(kind)).unwrap();
        let mut paths: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        for path in paths {
            let value: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
            let usage = &value["meta"]["usage"];
            let part = |name: &str| usage[name].as_u64().unwrap_or(0);
            let actual = part("input_tokens")
                + part("cache_read_input_tokens")
                + part("cache_creation_input_tokens");
            let body = value["request"]["body"].as_str();
            // What has passes of its own is charged for more than its prompt; what was edited by its
            // source has lost it.
            let edited = value["meta"]["fidelity"]["request"] == "edited-by-source";
            let (Some(body), false, 10..) =
                (body, edited || usage["iterations"].is_array(), actual)
            else {
                continue;
            };
            let Ok(view) = RequestView::parse(&Bytes::from(body.to_owned())) else {
                continue;
            };
            found.push(Sample {
                model: view.model.unwrap_or_default(),
                counts: view.counts,
                actual,
            });
        }
    }
    found
}

#[derive(Default)]
struct Figures {
    fit: Vec<f64>,
    learned: Vec<f64>,
}

#[expect(clippy::cast_precision_loss, reason = "a ratio")]
fn off(expected: u64, actual: u64) -> f64 {
    expected.abs_diff(actual) as f64 / actual as f64
}

/// Errors by class: of the fit alone, and as one target for each model learns from its answers.
fn figures(samples: &[Sample]) -> HashMap<Class, Figures> {
    let mut by_class: HashMap<Class, Figures> = HashMap::new();
    let mut targets: HashMap<(&str, Class), Correction> = HashMap::new();
    for sample in samples {
        let seen = estimate(&sample.model, &sample.counts);
        let correction = targets.entry((&sample.model, seen.class)).or_default();
        let figures = by_class.entry(seen.class).or_default();
        figures.fit.push(off(seen.tokens, sample.actual));
        let corrected = correction.apply(seen.tokens);
        figures.learned.push(off(corrected, sample.actual));
        correction.learn(seen.tokens, sample.actual);
    }
    for figures in by_class.values_mut() {
        figures.fit.sort_by(f64::total_cmp);
        figures.learned.sort_by(f64::total_cmp);
    }
    by_class
}

fn quantile(sorted: &[f64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent).div_ceil(100).saturating_sub(1)]
}

fn table(by_class: &HashMap<Class, Figures>) -> String {
    let mut table = "| content | requests | fit p50 | fit p95 | learned p50 | learned p95 |\n\
                     | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for class in Class::ALL {
        let Some(figures) = by_class.get(&class) else {
            let name = class.as_str();
            writeln!(table, "| {name} | 0 | – | – | – | – |").unwrap();
            continue;
        };
        let percent = |sorted: &[f64], at| format!("{:.0} %", quantile(sorted, at) * 100.0);
        writeln!(
            table,
            "| {} | {} | {} | {} | {} | {} |",
            class.as_str(),
            figures.fit.len(),
            percent(&figures.fit, 50),
            percent(&figures.fit, 95),
            percent(&figures.learned, 50),
            percent(&figures.learned, 95),
        )
        .unwrap();
    }
    table
}

/// Bounds of the fit's median error, and of the learned one's; where there are few samples, wide ones.
const BOUNDS: [(Class, f64, f64); 4] = [
    (Class::Text, 0.10, 0.10),
    (Class::Code, 0.20, 0.20),
    (Class::Tools, 0.05, 0.05),
    (Class::Images, 0.05, 0.05),
];

#[test]
fn recorded_prompts_are_estimated_as_the_documentation_says() {
    let Some(rows) = rows() else {
        println!(
            "skipped: no calibration.jsonl in {}",
            recordings().display()
        );
        return;
    };
    let by_class = figures(&rows);
    let (counted, read) = (table(&by_class), table(&figures(&exchanges())));
    println!("{counted}\n{read}");
    for (class, fit, learned) in BOUNDS {
        let seen = &by_class[&class];
        let (by_fit, by_learning) = (quantile(&seen.fit, 50), quantile(&seen.learned, 50));
        assert!(by_fit <= fit, "{class:?}: {by_fit:.3} by the fit");
        assert!(
            by_learning <= learned,
            "{class:?}: {by_learning:.3} learned"
        );
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/estimates.md");
    let documented = fs::read_to_string(path).unwrap();
    for table in [counted, read] {
        assert!(
            documented.contains(&table),
            "docs/estimates.md should say:\n{table}"
        );
    }
}
