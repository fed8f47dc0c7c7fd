//! The comparison on standard output: one row a scenario and client, aligned.

use std::fmt::Write;
use std::ops::Range;

use super::score::{DegradedBy, Score};
use super::{Report, ScenarioReport};

const HEAD: [&str; 24] = [
    "scenario",
    "client",
    "calls",
    "success",
    "runs",
    "degraded",
    "m/c/s",
    "refused",
    "lost",
    "att/call",
    "in fault",
    "429",
    "in 10s",
    "/1k later",
    "quota",
    "of ideal",
    "finish",
    "i ok",
    "i/b wait",
    "fair",
    "detect",
    "recover",
    "p50",
    "p99",
];
const TEXT_COLUMNS: usize = 2;
const GAP: &str = "  ";

/// Writes the table, then the bars that were missed, or that none was. With a `width`, in columns of
/// a terminal, a table that is wider comes in parts, one below the other. A column in which nobody
/// has a figure is left out.
#[must_use]
pub fn render(report: &Report, width: Option<usize>) -> String {
    let mut rows = Vec::new();
    let mut breaks = Vec::new();
    for scenario in &report.scenarios {
        // The head is row 0.
        breaks.push(rows.len() + 1);
        for client in &scenario.clients {
            rows.push(row(scenario, client.kind.as_str(), &client.score));
        }
    }
    let told: [bool; HEAD.len()] = std::array::from_fn(|column| {
        let mut cells = rows.iter().filter_map(|row| row.get(column));
        column < TEXT_COLUMNS || cells.any(|cell| *cell != dash())
    });
    let rows: Vec<Vec<String>> = std::iter::once(HEAD.map(str::to_owned))
        .chain(rows)
        .map(|row| {
            let cells = row.into_iter().zip(told);
            cells
                .filter_map(|(cell, told)| told.then_some(cell))
                .collect()
        })
        .collect();
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        })
        .collect();
    let mut out = String::new();
    for part in parts(&widths, width.unwrap_or(usize::MAX)) {
        for (at, row) in rows.iter().enumerate() {
            if breaks.contains(&at) {
                out.push('\n');
            }
            out.push_str(&line(row, &widths, part.clone()));
            out.push('\n');
        }
        out.push('\n');
    }
    out.push_str(&verdict(report));
    out
}

/// The columns of figures, in as many parts as fit beside the names.
fn parts(widths: &[usize], width: usize) -> Vec<Range<usize>> {
    let names: usize = widths
        .iter()
        .take(TEXT_COLUMNS)
        .map(|w| w + GAP.len())
        .sum();
    let (mut parts, mut from, mut used) = (Vec::new(), TEXT_COLUMNS, names);
    for (column, wide) in widths.iter().enumerate().skip(TEXT_COLUMNS) {
        used += wide + GAP.len();
        // The first column has no gap before it.
        if used - GAP.len() > width && column > from {
            parts.push(from..column);
            (from, used) = (column, names + wide + GAP.len());
        }
    }
    parts.push(from..widths.len());
    parts
}

fn line(row: &[String], widths: &[usize], figures: Range<usize>) -> String {
    let mut line = String::new();
    for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
        let gap = if column == 0 { "" } else { GAP };
        // Writing to a String cannot fail.
        let _ok = if column < TEXT_COLUMNS {
            write!(line, "{gap}{cell:<width$}")
        } else if figures.contains(&column) {
            write!(line, "{gap}{cell:>width$}")
        } else {
            Ok(())
        };
    }
    line.truncate(line.trim_end().len());
    line
}

fn row(scenario: &ScenarioReport, client: &str, score: &Score) -> [String; HEAD.len()] {
    let runs = score.runs_succeeded.zip(score.runs);
    let learning = score.throughput_over_ideal.map(|_limits| ());
    [
        scenario.scenario.name.clone(),
        client.to_owned(),
        score.calls.to_string(),
        percent(score.success_rate),
        runs.map_or_else(dash, |(won, all)| format!("{won}/{all}")),
        score.degraded.to_string(),
        by_kind(&score.degraded_by).unwrap_or_else(dash),
        score.refused.to_string(),
        score.lost.to_string(),
        format!("{:.2}", score.attempts_per_call),
        score
            .attempts_during_fault
            .map_or_else(dash, |n| n.to_string()),
        score.provider_429.to_string(),
        learning.map_or_else(dash, |()| score.provider_429_first_10s.to_string()),
        learning
            .and(score.provider_429_per_1000_after_10s)
            .map_or_else(dash, two_digits),
        score.quota_used.map_or_else(dash, percent),
        score.throughput_over_ideal.map_or_else(dash, percent),
        score.finish_over_ideal.map_or_else(dash, two_digits),
        score.interactive_success_rate.map_or_else(dash, percent),
        score
            .interactive_p99_wait_over_batch
            .map_or_else(dash, |share| format!("{share:.3}")),
        score
            .fairness
            .map_or_else(dash, |index| format!("{index:.3}")),
        span(score.detect_ms),
        span(score.recover_ms),
        span(score.p50_ms),
        span(score.p99_ms),
    ]
}

fn verdict(report: &Report) -> String {
    let mut out = String::new();
    let missed: Vec<_> = report.missed().collect();
    for miss in &missed {
        let _ok = writeln!(out, "missed: {miss}");
    }
    let Report { seed, .. } = report;
    let bars: usize = report
        .scenarios
        .iter()
        .map(ScenarioReport::bars_checked)
        .sum();
    let _ok = match (missed.len(), bars) {
        (0, 0) => writeln!(out, "seed {seed}: no bars to meet"),
        (0, 1) => writeln!(out, "seed {seed}: the bar is met"),
        (0, _) => writeln!(out, "seed {seed}: all {bars} bars are met"),
        (n, _) => writeln!(out, "seed {seed}: {n} of {bars} bars missed"),
    };
    let clients = report.scenarios.iter().flat_map(|s| &s.clients);
    let agreed: u64 = clients.map(|client| client.agreed).sum();
    if agreed > 0 {
        let _ok = writeln!(
            out,
            "metrics, log lines, meter and provider agree: {agreed} numbers compared"
        );
    }
    if report.interrupted {
        let last = report.scenarios.last().filter(|last| last.interrupted);
        let last = last.map_or("", |last| &last.scenario.name);
        let _ok = writeln!(
            out,
            "stopped before its end{}{last}: the figures are partial",
            if last.is_empty() { "" } else { ", in " },
        );
    }
    out
}

fn dash() -> String {
    "-".to_owned()
}

/// Answers of another model, of the cache and of the fixed text; none where there was neither of the
/// latter, so that the sum says it all.
pub(super) fn by_kind(degraded: &DegradedBy) -> Option<String> {
    let DegradedBy {
        model,
        cache,
        fixed,
    } = degraded;
    (cache + fixed > 0).then(|| format!("{model}/{cache}/{fixed}"))
}

pub(super) fn two_digits(value: f64) -> String {
    format!("{value:.2}")
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
    fn a_wide_table_comes_in_parts_that_fit() {
        let widths = [14, 7, 5, 8, 6];
        for (width, wanted) in [
            (usize::MAX, vec![(2, 5)]),
            (48, vec![(2, 5)]),
            (47, vec![(2, 4), (4, 5)]),
            (30, vec![(2, 3), (3, 4), (4, 5)]),
        ] {
            let found: Vec<_> = parts(&widths, width)
                .into_iter()
                .map(|p| (p.start, p.end))
                .collect();
            assert_eq!(found, wanted, "{width}");
        }
        let row = ["outage", "sdk", "9", "100.00%", "-"].map(str::to_owned);
        assert_eq!(
            line(&row, &widths, 2..4),
            "outage          sdk          9   100.00%"
        );
        assert_eq!(line(&row, &widths, 4..5), "outage          sdk           -");
    }

    #[test]
    fn short_times_are_exact_and_long_ones_short() {
        assert_eq!(span(None), "-");
        assert_eq!(span(Some(847)), "847ms");
        assert_eq!(span(Some(61_290)), "61.2s");
    }
}
