//! The comparison on standard output: one row a scenario and client, aligned.

use std::fmt::Write;

use super::score::Score;
use super::{Report, ScenarioReport};

const HEAD: [&str; 15] = [
    "scenario", "client", "calls", "success", "runs", "degraded", "refused", "att/call",
    "in fault", "429", "quota", "detect", "recover", "p50", "p99",
];
const TEXT_COLUMNS: usize = 2;

/// Writes the table, then the bars that were missed, or that none was.
#[must_use]
pub fn render(report: &Report) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    let mut breaks = Vec::new();
    for scenario in &report.scenarios {
        breaks.push(rows.len());
        for client in &scenario.clients {
            rows.push(row(scenario, client.kind.as_str(), &client.score));
        }
    }
    let widths: [usize; HEAD.len()] = std::array::from_fn(|column| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|c| c.chars().count())
            .max()
            .unwrap_or(0)
    });
    let mut out = String::new();
    for (at, row) in rows.iter().enumerate() {
        if breaks.contains(&at) {
            out.push('\n');
        }
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            // Writing to a String cannot fail.
            let _ok = if column < TEXT_COLUMNS {
                write!(line, "{gap}{cell:<width$}")
            } else {
                write!(line, "{gap}{cell:>width$}")
            };
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out.push('\n');
    out.push_str(&verdict(report));
    out
}

fn row(scenario: &ScenarioReport, client: &str, score: &Score) -> [String; HEAD.len()] {
    let runs = score.runs_succeeded.zip(score.runs);
    [
        scenario.scenario.name.clone(),
        client.to_owned(),
        score.calls.to_string(),
        percent(score.success_rate),
        runs.map_or_else(dash, |(won, all)| format!("{won}/{all}")),
        score.degraded.to_string(),
        score.refused.to_string(),
        format!("{:.2}", score.attempts_per_call),
        score
            .attempts_during_fault
            .map_or_else(dash, |n| n.to_string()),
        score.provider_429.to_string(),
        score.quota_used.map_or_else(dash, percent),
        span(score.detect_ms),
        span(score.recover_ms),
        span(score.p50_ms),
        span(score.p99_ms),
    ]
}

fn verdict(report: &Report) -> String {
    let missed: Vec<_> = report.missed().collect();
    if missed.is_empty() {
        let bars: usize = report
            .scenarios
            .iter()
            .map(ScenarioReport::bars_checked)
            .sum();
        return match bars {
            0 => format!("seed {}: no bars to meet\n", report.seed),
            1 => format!("seed {}: the bar is met\n", report.seed),
            _ => format!("seed {}: all {bars} bars are met\n", report.seed),
        };
    }
    let mut out = String::new();
    for miss in missed {
        let _ok = writeln!(out, "missed: {miss}");
    }
    let _ok = writeln!(out, "seed {}: {} missed", report.seed, out.lines().count());
    out
}

fn dash() -> String {
    "-".to_owned()
}

pub(super) fn percent(share: f64) -> String {
    // Rounded down, so that only a full house reads 100 %.
    format!("{:.2}%", (share * 1e4 + 1e-6).floor() / 100.0)
}

pub(super) fn span(ms: Option<u64>) -> String {
    match ms {
        None => dash(),
        Some(ms) if ms < 10_000 => format!("{ms}ms"),
        Some(ms) => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_short_of_all_reads_as_all() {
        assert_eq!(percent(1.0), "100.00%");
        assert_eq!(percent(0.999_999), "99.99%");
        assert_eq!(percent(0.999), "99.90%");
        assert_eq!(percent(0.0), "0.00%");
    }

    #[test]
    fn short_times_are_exact_and_long_ones_short() {
        assert_eq!(span(None), "-");
        assert_eq!(span(Some(847)), "847ms");
        assert_eq!(span(Some(61_290)), "61.2s");
    }
}
