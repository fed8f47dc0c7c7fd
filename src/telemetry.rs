//! Every metric name and the one log line a call ends in.
//!
//! Names are fixed and label values bounded: targets and routes come from the configuration or are
//! cut to a known set, models are those of the price table, the rest are closed word lists. Nothing
//! here sees a credential or a prompt.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Histogram, counter, histogram};
use parking_lot::RwLock;
use seawall_actors::policy::ladder::Cause;
use tokio::time::Instant;

use crate::client::ask::Degraded;
use crate::prices::{self, Day, Terms};
use crate::profile::Profile;
use crate::provider::anthropic::plain_model;
use crate::provider::anthropic::usage::Tokens;

/// A spend cap that has stopped a credential.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpendCap<'a> {
    /// The credential's fingerprint.
    pub(crate) fingerprint: &'a str,
    /// The configured target that met it.
    pub(crate) target: &'a str,
    /// What to do about it, in words.
    pub(crate) advice: &'a str,
    /// How long nothing is sent.
    pub(crate) stop_for: Duration,
}

/// Alerts that a credential's spend cap is reached.
pub(crate) fn spend_cap(cap: &SpendCap<'_>) {
    counter!("seawall_spend_cap_stops_total", "target" => cap.target.to_owned()).increment(1);
    tracing::error!(
        upstream = cap.target,
        credential = cap.fingerprint,
        stopped_for_s = cap.stop_for.as_secs(),
        "{}",
        cap.advice
    );
}

/// Most label sets of one metric; further ones are counted under `other`.
const MOST_SERIES: usize = 2_000;

/// Handles of the metrics that calls touch, kept so that a call looks up and does not register.
#[derive(Clone, Default)]
pub(crate) struct Telemetry {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Telemetry")
    }
}

#[derive(Default)]
struct Shared {
    attempts: RwLock<HashMap<AttemptKey, Counter>>,
    calls: RwLock<HashMap<CallKey, Arc<CallMetrics>>>,
    models: RwLock<HashMap<ModelKey, Arc<ModelMetrics>>>,
}

/// Target, status and verdict.
type AttemptKey = (Arc<str>, u16, &'static str);

/// Target, model, and whether the provider stated the usage.
type ModelKey = (Arc<str>, Arc<str>, bool);

/// Route, profile and verdict.
type CallKey = (Arc<str>, &'static str, &'static str);

struct CallMetrics {
    calls: Counter,
    total: Histogram,
    ttft: Histogram,
    queued: Histogram,
    overhead: Histogram,
    retries: Histogram,
}

struct ModelMetrics {
    input: Counter,
    output: Counter,
    cache_read: Counter,
    cache_write: Counter,
    cost: Counter,
    unpriced: Option<Counter>,
}

/// What a call was, for its log line and metrics.
#[derive(Debug, Clone)]
pub(crate) struct CallRecord {
    pub(crate) call: Arc<str>,
    pub(crate) route: Arc<str>,
    pub(crate) profile: Profile,
    pub(crate) target: Option<Arc<str>>,
    pub(crate) model: Option<Arc<str>>,
    pub(crate) rung: usize,
    pub(crate) attempts: u32,
    /// The last attempt's status; 0 when none came.
    pub(crate) status: u16,
    /// The last word: an attempt's label, or why none was made.
    pub(crate) verdict: &'static str,
    pub(crate) stream: bool,
    pub(crate) began: Instant,
    pub(crate) first_content: Option<Instant>,
    pub(crate) queued: Duration,
    pub(crate) backed_off: Duration,
    pub(crate) upstream_us: u64,
    /// What all its attempts used.
    pub(crate) spent: Spent,
    /// The provider's id of the request.
    pub(crate) request_id: Option<String>,
    /// In which way the answer was not the first target's, and why it was not.
    pub(crate) degraded: Option<Degraded>,
    pub(crate) cause: Option<Cause>,
    /// Rungs that were not for it, each with what it can't do.
    pub(crate) skipped: String,
}

/// What answers used and cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Spent {
    pub(crate) tokens: Tokens,
    pub(crate) nano_dollars: u64,
    /// Some of it is a lower bound: an answer did not come whole.
    pub(crate) estimated: bool,
}

impl Spent {
    pub(crate) fn add(&mut self, more: Self) {
        self.tokens = self.tokens.plus(more.tokens);
        self.nano_dollars = self.nano_dollars.saturating_add(more.nano_dollars);
        self.estimated |= more.estimated;
    }
}

impl Telemetry {
    /// Counts one attempt by target, status (0 for none) and verdict.
    pub(crate) fn attempt(&self, target: &Arc<str>, status: u16, verdict: &'static str) {
        let key = (Arc::clone(target), status, verdict);
        if let Some(counter) = self.shared.attempts.read().get(&key) {
            return counter.increment(1);
        }
        let mut attempts = self.shared.attempts.write();
        let label = if attempts.len() < MOST_SERIES {
            target.to_string()
        } else {
            "other".into()
        };
        attempts
            .entry(key)
            .or_insert_with(|| {
                counter!(
                    "seawall_attempts_total",
                    "target" => label, "status" => status.to_string(), "verdict" => verdict
                )
            })
            .increment(1);
    }

    fn call_metrics(&self, record: &CallRecord) -> Arc<CallMetrics> {
        let key = (
            Arc::clone(&record.route),
            record.profile.as_str(),
            record.verdict,
        );
        if let Some(found) = self.shared.calls.read().get(&key) {
            return Arc::clone(found);
        }
        let mut calls = self.shared.calls.write();
        let full = calls.len() >= MOST_SERIES;
        let route = if full {
            "other".to_owned()
        } else {
            record.route.to_string()
        };
        let profile = record.profile.as_str();
        let made = calls.entry(key).or_insert_with(|| {
            Arc::new(CallMetrics {
                calls: counter!(
                    "seawall_calls_total",
                    "route" => route.clone(), "profile" => profile, "verdict" => record.verdict
                ),
                total: histogram!("seawall_call_seconds", "route" => route.clone()),
                ttft: histogram!("seawall_ttft_seconds", "route" => route.clone()),
                queued: histogram!("seawall_queued_seconds", "route" => route.clone()),
                overhead: histogram!("seawall_overhead_seconds", "route" => route.clone()),
                retries: histogram!("seawall_call_retries", "route" => route),
            })
        });
        Arc::clone(made)
    }

    fn model_metrics(
        &self,
        (target, model): (&Arc<str>, &Arc<str>),
        known: bool,
        stated: bool,
    ) -> Arc<ModelMetrics> {
        let key = (Arc::clone(target), Arc::clone(model), stated);
        if let Some(found) = self.shared.models.read().get(&key) {
            return Arc::clone(found);
        }
        let usage = if stated { "stated" } else { "lower_bound" };
        let label = if known {
            plain_model(model).into_owned()
        } else {
            "unknown".to_owned()
        };
        let tokens = |kind: &'static str| counter!("seawall_tokens_total", "target" => target.to_string(), "model" => label.clone(), "kind" => kind, "usage" => usage);
        let made = Arc::new(ModelMetrics {
            input: tokens("input"),
            output: tokens("output"),
            cache_read: tokens("cache_read"),
            cache_write: tokens("cache_write"),
            cost: counter!("seawall_cost_nanodollars_total", "target" => target.to_string(), "model" => label.clone(), "usage" => usage),
            unpriced: (!known).then(|| counter!("seawall_unpriced_calls_total")),
        });
        let mut models = self.shared.models.write();
        // A client can name any model; the handles of unknown ones are not kept without end.
        if models.len() < MOST_SERIES {
            models.insert(key, Arc::clone(&made));
        }
        made
    }

    /// Counts the tokens and the cost of one answer of a target: parts by the model that did the work,
    /// where it was not `model`. `stated` tells the provider's own figures from a lower bound.
    pub(crate) fn bill(
        &self,
        (target, model): (&Arc<str>, Option<&Arc<str>>),
        parts: &[(Option<String>, Tokens)],
        stated: bool,
    ) -> Spent {
        let mut spent = Spent::default();
        for (by, tokens) in parts {
            let by = by.as_deref().map(Arc::from);
            let Some(model) = by.as_ref().or(model) else {
                continue;
            };
            if *tokens == Tokens::default() {
                continue;
            }
            spent.add(Spent {
                tokens: *tokens,
                nano_dollars: self.bill_one((target, model), tokens, stated),
                estimated: !stated,
            });
        }
        spent
    }

    fn bill_one(
        &self,
        (target, model): (&Arc<str>, &Arc<str>),
        tokens: &Tokens,
        stated: bool,
    ) -> u64 {
        let today = jiff::tz::Offset::UTC
            .to_datetime(jiff::Timestamp::now())
            .date();
        let terms = Terms::on(Day(today.year(), today.month(), today.day()));
        let cost = prices::cost(model, tokens, &terms);
        let nano = u64::try_from(cost.nano_dollars).unwrap_or(u64::MAX);
        let metrics = self.model_metrics((target, model), cost.known, stated);
        metrics.input.increment(tokens.input);
        metrics.output.increment(tokens.output);
        metrics.cache_read.increment(tokens.cache_read);
        metrics
            .cache_write
            .increment(tokens.cache_write_5m + tokens.cache_write_1h);
        metrics.cost.increment(nano);
        if let Some(unpriced) = &metrics.unpriced {
            unpriced.increment(1);
        }
        nano
    }
}

/// Publishes a finished call: metrics and its log line.
pub(crate) fn finish(telemetry: &Telemetry, record: &CallRecord) {
    let total = record.began.elapsed();
    let waited = record.queued + record.backed_off;
    let upstream = Duration::from_micros(record.upstream_us);
    let to_content = record
        .first_content
        .map_or(total, |at| at.duration_since(record.began));
    let overhead = to_content.saturating_sub(upstream).saturating_sub(waited);
    let metrics = telemetry.call_metrics(record);
    metrics.calls.increment(1);
    metrics.total.record(total.as_secs_f64());
    metrics.queued.record(record.queued.as_secs_f64());
    metrics.overhead.record(overhead.as_secs_f64());
    metrics
        .retries
        .record(f64::from(record.attempts.saturating_sub(1)));
    if let Some(kind) = record.degraded {
        let cause = record.cause.map_or("none", Cause::as_str);
        counter!(
            "seawall_degraded_total",
            "route" => record.route.to_string(), "kind" => kind.as_str(), "cause" => cause
        )
        .increment(1);
    }
    let ttft = record
        .first_content
        .map(|at| at.duration_since(record.began));
    if let Some(ttft) = ttft {
        metrics.ttft.record(ttft.as_secs_f64());
    }
    let Spent {
        tokens,
        nano_dollars,
        estimated,
    } = record.spent;
    tracing::info!(
        target: "seawall::call",
        call = %record.call,
        route = %record.route,
        profile = record.profile.as_str(),
        rung = record.rung,
        upstream = record.target.as_deref().unwrap_or(""),
        model = record.model.as_deref().unwrap_or(""),
        stream = record.stream,
        attempts = record.attempts,
        status = record.status,
        verdict = record.verdict,
        degraded = record.degraded.map_or("", Degraded::as_str),
        cause = record.cause.map_or("", Cause::as_str),
        skipped = record.skipped,
        request_id = record.request_id.as_deref().unwrap_or(""),
        total_ms = millis(total),
        ttft_ms = ttft.map(millis),
        queued_ms = millis(record.queued),
        overhead_us = u64::try_from(overhead.as_micros()).unwrap_or(u64::MAX),
        input_tokens = tokens.input,
        output_tokens = tokens.output,
        cache_read_tokens = tokens.cache_read,
        cache_write_tokens = tokens.cache_write_5m + tokens.cache_write_1h,
        usage_estimated = estimated,
        cost_nanodollars = nano_dollars,
        "call"
    );
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
