//! Whether those who counted the same things came to the same numbers.
//!
//! Three sides count: the simulated provider, the meter on the client's side of the wire, and, for
//! seawall, its metrics and its log lines. What one client's side counts twice is compared exactly.
//! Between the two ends of the wire only what nobody can know is left open:
//!
//! - A client that leaves before the headers may have left before its request arrived, or after its
//!   answer was decided; one that leaves inside an answer may have left when all of it was sent.
//! - A reset that follows the headers can overtake them.
//! - An answer that breaks off tells at most a part of what it cost. What it told is marked as a
//!   lower bound and compared apart: with the provider's count of what was not sent to its true end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::meter::{AttemptEnd, AttemptRecord};
use super::published::{Metrics, Published, Used};
use super::score::{CallRecord, DegradedBy};
use crate::client::ask::Degraded;
use crate::provider::anthropic::plain_model;
use crate::sim::{FaultKind, Stats};

/// What each side counted.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// How the calls ended for those who made them.
    pub calls: &'a [CallRecord],
    /// The meter's attempts.
    pub attempts: &'a [AttemptRecord],
    /// The model of each of the client's rungs.
    pub ladder: &'a [String],
    /// The provider's counters.
    pub stats: &'a Stats,
    /// What the client published of itself, if it does.
    pub published: Option<&'a Published>,
}

/// The same thing counted differently by two.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// What was counted.
    pub what: String,
    /// Who counted it, and what came out.
    pub one: (&'static str, u64),
    /// The other.
    pub other: (&'static str, u64),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, one, other } = self;
        write!(
            f,
            "{what}: {} counted {}, {} {}",
            one.0, one.1, other.0, other.1
        )
    }
}

const CALLERS: &str = "the callers";
const METER: &str = "the meter";
const PROVIDER: &str = "the provider";
const METRICS: &str = "the metrics";
const LOG: &str = "the log lines";

/// Compares everything that two sides counted; the number of comparisons, each of which held.
///
/// # Errors
///
/// The first [`Difference`].
pub fn check(evidence: &Evidence<'_>) -> Result<u64, Difference> {
    let mut ledger = Ledger::default();
    wire(evidence, &mut ledger)?;
    if let Some(published) = evidence.published {
        itself(published, &mut ledger)?;
        degraded(evidence.calls, published, &mut ledger)?;
        against_meter(evidence, published, &mut ledger)?;
        tokens(evidence, published, &mut ledger)?;
    }
    Ok(ledger.compared)
}

#[derive(Debug, Default)]
struct Ledger {
    compared: u64,
}

type Count = (&'static str, u64);

impl Ledger {
    fn equal(
        &mut self,
        what: impl Into<String>,
        one: Count,
        other: Count,
    ) -> Result<(), Difference> {
        self.at_most_less(what, one, other, 0)
    }

    /// `less` may be below `full`, by `open` at most.
    fn at_most_less(
        &mut self,
        what: impl Into<String>,
        less: Count,
        full: Count,
        open: u64,
    ) -> Result<(), Difference> {
        self.compared += 1;
        if less.1 <= full.1 && full.1 - less.1 <= open {
            return Ok(());
        }
        Err(Difference {
            what: what.into(),
            one: less,
            other: full,
        })
    }
}

/// The two ends of the wire.
fn wire(evidence: &Evidence<'_>, ledger: &mut Ledger) -> Result<(), Difference> {
    let Evidence {
        attempts, stats, ..
    } = evidence;
    let count = |chosen: &dyn Fn(&AttemptRecord) -> bool| number(attempts, chosen);
    let left = count(&|a| a.status.is_none() && a.end == AttemptEnd::Departed);
    let seen = (PROVIDER, stats.attempts);
    ledger.at_most_less("attempts", seen, (METER, count(&|_| true)), left)?;
    let open = count(&|a| a.end == AttemptEnd::UnderWay);
    ledger.equal(
        "attempts in flight",
        (METER, open),
        (PROVIDER, stats.in_flight),
    )?;
    let mut statuses: Vec<u16> = attempts.iter().filter_map(|a| a.status).collect();
    let given = stats.models.values().flat_map(|model| model.answers.keys());
    statuses.extend(given.filter_map(|status| status.parse::<u16>().ok()));
    statuses.sort_unstable();
    statuses.dedup();
    for status in statuses {
        let got = (METER, count(&|a| a.status == Some(status)));
        let unsure = left.saturating_add(overtaken(stats, &status.to_string()));
        let what = format!("answers with status {status}");
        ledger.at_most_less(what, got, (PROVIDER, stats.answered(status)), unsure)?;
    }
    let limited = (METER, count(&|a| a.status == Some(429)));
    let what = "answers with status 429 in all";
    ledger.at_most_less(what, limited, (PROVIDER, stats.provider_429), left)?;
    let broken = count(&|a| a.status.is_none() && a.end == AttemptEnd::Broken);
    let resets = answers(stats, "reset").map(|(_, n)| n).sum::<u64>();
    let overtaken = stats
        .models
        .values()
        .flat_map(|model| model.answers.keys())
        .map(|status| overtaken(stats, status))
        .max()
        .unwrap_or(0);
    // Each side may have more: of what the client did not wait for, or of headers that were lost.
    let (less, full, open) = if broken <= resets {
        ((METER, broken), (PROVIDER, resets), left)
    } else {
        ((PROVIDER, resets), (METER, broken), overtaken)
    };
    ledger.at_most_less("connections broken before an answer", less, full, open)
}

/// Answers of a status by the fault that they carry, over all models.
fn answers<'a>(stats: &'a Stats, status: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
    stats
        .models
        .values()
        .filter_map(move |model| model.answers.get(status))
        .flatten()
        .map(|(fault, n)| (fault.as_str(), *n))
}

/// Answers whose headers a reset may have overtaken.
fn overtaken(stats: &Stats, status: &str) -> u64 {
    answers(stats, status)
        .filter(|(fault, _)| *fault == FaultKind::ResetAfterHeaders.as_str())
        .map(|(_, n)| n)
        .sum()
}

/// Metrics and log lines.
fn itself(published: &Published, ledger: &mut Ledger) -> Result<(), Difference> {
    let Published {
        metrics,
        lines,
        asked,
    } = published;
    let counted: u64 = metrics.calls.values().sum();
    if let Some(asked) = *asked {
        ledger.equal("calls", (METRICS, counted), ("the asker", asked))?;
    }
    let mut verdicts: BTreeMap<&str, u64> = metrics.calls.keys().map(|v| (v.as_str(), 0)).collect();
    for line in lines {
        *verdicts.entry(&line.verdict).or_default() += 1;
    }
    for (verdict, logged) in verdicts {
        let counted = metrics.calls.get(verdict).copied().unwrap_or(0);
        let what = format!("calls that ended in {verdict:?}");
        ledger.equal(what, (METRICS, counted), (LOG, logged))?;
    }
    let attempts: u64 = metrics.attempts.values().sum();
    let logged: u64 = lines.iter().map(|line| line.attempts).sum();
    ledger.equal("attempts", (METRICS, attempts), (LOG, logged))?;
    ledger.equal(
        "calls in the histogram of retries",
        (METRICS, metrics.retries_count),
        (LOG, number(lines, &|_| true)),
    )?;
    let with_attempts = number(lines, &|line| line.attempts > 0);
    ledger.equal(
        "retries",
        (METRICS, metrics.retries_sum),
        (LOG, logged.saturating_sub(with_attempts)),
    )
}

/// Answers that are less than the wanted model's, by kind. Who has left, or came too late, has seen no
/// mark; who got an answer has.
fn degraded(
    calls: &[CallRecord],
    published: &Published,
    ledger: &mut Ledger,
) -> Result<(), Difference> {
    let seen = DegradedBy::of(calls);
    let unseen = number(calls, &|call| !call.succeeded());
    for kind in Degraded::ALL {
        let word = kind.as_str();
        let counted = published.metrics.degraded.get(word).copied();
        let counted = (METRICS, counted.unwrap_or(0));
        let logged = number(&published.lines, &|line| line.degraded == word);
        let what = format!("answers that are less by {word:?}");
        ledger.equal(what.clone(), counted, (LOG, logged))?;
        ledger.at_most_less(what, (CALLERS, seen.by(kind)), counted, unseen)?;
    }
    Ok(())
}

/// The client's metrics and the meter: both sit on the same side of the wire, so nothing is open.
fn against_meter(
    evidence: &Evidence<'_>,
    published: &Published,
    ledger: &mut Ledger,
) -> Result<(), Difference> {
    let mut both: BTreeMap<(&str, u16), (u64, u64)> = BTreeMap::new();
    for ((target, status, _), n) in &published.metrics.attempts {
        let key = (model_of(target, evidence.ladder), *status);
        both.entry(key).or_default().0 += n;
    }
    for attempt in evidence.attempts {
        let key = (attempt.model.as_str(), attempt.status.unwrap_or(0));
        both.entry(key).or_default().1 += 1;
    }
    for ((model, status), (counted, metered)) in both {
        let what = format!("attempts on {model} with status {status}");
        ledger.equal(what, (METRICS, counted), (METER, metered))?;
    }
    Ok(())
}

/// Tokens of the metrics, the log lines and the provider's bill.
fn tokens(
    evidence: &Evidence<'_>,
    published: &Published,
    ledger: &mut Ledger,
) -> Result<(), Difference> {
    let Published { metrics, lines, .. } = published;
    let mut logged = Used::default();
    for line in lines {
        logged.add(line.used);
    }
    let mut counted = Used::default();
    for used in metrics.stated.values().chain(metrics.lower_bound.values()) {
        counted.add(*used);
    }
    for (kind, counted, logged) in [
        ("input", counted.input, logged.input),
        ("output", counted.output, logged.output),
        ("cached", counted.cached, logged.cached),
    ] {
        let what = format!("{kind} tokens");
        ledger.equal(what, (METRICS, counted), (LOG, logged))?;
    }
    let estimated = number(lines, &|line| line.estimated);
    let bounded = metrics.lower_bound.values().any(|u| *u != Used::default());
    ledger.equal(
        "whether some usage is a lower bound",
        (METRICS, bounded.into()),
        (LOG, (estimated > 0).into()),
    )?;
    let known = metrics.stated.keys().chain(metrics.lower_bound.keys());
    let mut labels: BTreeSet<_> = known.map(String::as_str).collect();
    let billed: Vec<_> = evidence
        .stats
        .models
        .iter()
        .filter(|(_, model)| model.whole.answers > 0)
        .map(|(name, _)| plain_model(name))
        .collect();
    // The metrics tell the models apart that the price table knows, the provider all of them.
    if !labels.contains("unknown") {
        labels.extend(billed.iter().map(|name| &**name));
    }
    for label in labels {
        bill(evidence, metrics, label, ledger)?;
    }
    Ok(())
}

/// What the provider charged for one label's models, against what the metrics say.
fn bill(
    evidence: &Evidence<'_>,
    metrics: &Metrics,
    label: &str,
    ledger: &mut Ledger,
) -> Result<(), Difference> {
    let known =
        |name: &str| metrics.stated.contains_key(name) || metrics.lower_bound.contains_key(name);
    let here = |name: &str| {
        let plain = plain_model(name);
        plain == label || label == "unknown" && !known(&plain)
    };
    let whole = metrics.stated.get(label).copied().unwrap_or_default();
    let part = metrics.lower_bound.get(label).copied().unwrap_or_default();
    let mut sent = (0, Used::default());
    let mut short = Used::default();
    for (_, model) in evidence.stats.models.iter().filter(|(name, _)| here(name)) {
        sent.0 += model.whole.answers;
        sent.1.input += model.whole.input_tokens;
        sent.1.output += model.whole.output_tokens;
        short.input += model.input_tokens - model.whole.input_tokens;
    }
    let ok = metrics
        .attempts
        .iter()
        .filter(|((target, status, verdict), _)| {
            verdict == "ok" && *status == 200 && here(model_of(target, evidence.ladder))
        });
    let ok: u64 = ok.map(|(_, n)| n).sum();
    let left = number(evidence.attempts, &|a| {
        a.end == AttemptEnd::Departed && here(&a.model)
    });
    let what = format!("whole answers of {label}");
    ledger.at_most_less(what, (METRICS, ok), (PROVIDER, sent.0), left)?;
    // An answer that was sent whole and not awaited was charged, and nobody here knows how much.
    let open = if ok == sent.0 { 0 } else { u64::MAX };
    for (kind, told, charged) in [
        ("input", whole.input, sent.1.input),
        ("output", whole.output, sent.1.output),
    ] {
        let what = format!("{kind} tokens in whole answers of {label}");
        ledger.at_most_less(what, (METRICS, told), (PROVIDER, charged), open)?;
    }
    // The prompt is known from the first event on; the output that this event states is a
    // placeholder which nobody is charged, so only the prompt has a bound.
    let unawaited = sent.1.input.saturating_sub(whole.input);
    let what = format!("input tokens in broken answers of {label}");
    let charged = (PROVIDER, short.input.saturating_add(unawaited));
    ledger.at_most_less(what, (METRICS, part.input), charged, u64::MAX)
}

/// The model behind a target: rungs are named by their place.
fn model_of<'a>(target: &str, ladder: &'a [String]) -> &'a str {
    target
        .strip_prefix("rung")
        .and_then(|place| place.parse::<usize>().ok())
        .and_then(|place| ladder.get(place))
        .map_or("", String::as_str)
}

fn number<T>(all: &[T], chosen: &dyn Fn(&T) -> bool) -> u64 {
    u64::try_from(all.iter().filter(|one| chosen(one)).count()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
