//! The live picture on a terminal: one line a client, while the drill runs.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::client::{ClientKind, Ended};

/// Draws on standard error, and only if that is a terminal.
#[derive(Debug, Clone)]
pub struct Progress(Option<MultiProgress>);

impl Progress {
    /// A picture when `wanted` and standard error is a terminal; else nothing at all.
    #[must_use]
    pub fn new(wanted: bool) -> Self {
        let shown = wanted && stderr().is_terminal();
        Self(shown.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(12))))
    }

    /// The line of one client in one scenario that makes `calls` calls.
    #[must_use]
    pub fn line(&self, scenario: &str, client: ClientKind, calls: u64) -> Line {
        let bar = self.0.as_ref().map(|all| {
            let bar = all.add(ProgressBar::new(calls));
            if let Ok(style) =
                ProgressStyle::with_template("{prefix} {bar:10.cyan/blue} {wide_msg}")
            {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar.set_prefix(format!("{scenario:<14} {:<7}", client.as_str()));
            bar
        });
        Line {
            bar,
            counts: Counts::default(),
        }
    }
}

/// One client's line.
#[derive(Debug)]
pub struct Line {
    bar: Option<ProgressBar>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    asked: u64,
    answered: u64,
    degraded: u64,
    refused: u64,
    failed: u64,
}

impl Line {
    /// A call was made.
    pub fn asked(&mut self, now: Duration) {
        self.counts.asked += 1;
        self.draw(now);
    }

    /// A call ended.
    pub fn ended(&mut self, now: Duration, end: Ended) {
        let counts = &mut self.counts;
        match end {
            Ended::Answered { by } if by.degraded().is_some() => counts.degraded += 1,
            Ended::Answered { .. } => counts.answered += 1,
            Ended::Refused { .. } => counts.refused += 1,
            Ended::Failed { .. } | Ended::HalfAnswered => counts.failed += 1,
        }
        self.draw(now);
    }

    /// The drill is over for this client; its last picture stays.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.abandon();
        }
    }

    fn draw(&self, now: Duration) {
        let Some(bar) = &self.bar else { return };
        let Counts {
            asked,
            answered,
            degraded,
            refused,
            failed,
        } = self.counts;
        let ended = answered + degraded + refused + failed;
        bar.set_position(ended);
        bar.set_message(format!(
            "{:>3}s  ok {}  failed {failed}  waiting {}  refused {refused}  by fallback {degraded}",
            now.as_secs(),
            answered + degraded,
            asked.saturating_sub(ended),
        ));
    }
}
