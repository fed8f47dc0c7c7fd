//! What seawall publishes of itself while it is drilled: metrics and log lines.
//!
//! Both are caught on the thread that drives the client. The drills of other clients, and whatever
//! recorder or subscriber the process has, neither see nor disturb them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::subscriber::NoSubscriber;
use tracing::{Dispatch, Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::DrillError;

/// The buckets do not matter; with any, sum and count are exact and kept for good.
const BUCKETS: [f64; 1] = [1.0];

/// Tokens that were used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Prompt tokens that no cache had.
    pub input: u64,
    /// Tokens produced.
    pub output: u64,
    /// Prompt tokens read from or written to a cache.
    pub cached: u64,
}

impl Used {
    /// Adds what another used.
    pub const fn add(&mut self, other: Self) {
        self.input = self.input.saturating_add(other.input);
        self.output = self.output.saturating_add(other.output);
        self.cached = self.cached.saturating_add(other.cached);
    }
}

/// What a scrape of the metrics showed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// `seawall_calls_total` by verdict.
    pub calls: BTreeMap<String, u64>,
    /// `seawall_degraded_total` by kind.
    pub degraded: BTreeMap<String, u64>,
    /// `seawall_attempts_total` by target, status (0 for none) and verdict.
    pub attempts: BTreeMap<(String, u16, String), u64>,
    /// `seawall_tokens_total` by the model's label, over all targets: as the provider stated them.
    pub stated: BTreeMap<String, Used>,
    /// The same of answers that broke off: lower bounds.
    pub lower_bound: BTreeMap<String, Used>,
    /// Count of the histogram `seawall_call_retries`.
    pub retries_count: u64,
    /// Its sum.
    pub retries_sum: u64,
}

/// One log line of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallLine {
    /// Attempts made.
    pub attempts: u64,
    /// Its last word.
    pub verdict: String,
    /// In which way its answer was less than the wanted model's; empty where it was not.
    pub degraded: String,
    /// What all its attempts used.
    pub used: Used,
    /// Whether some of that is a lower bound.
    pub estimated: bool,
}

/// Everything that was published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// The metrics.
    pub metrics: Metrics,
    /// The log lines.
    pub lines: Vec<CallLine>,
    /// Calls that were asked for, if the asker counted.
    pub asked: Option<u64>,
}

/// Catches what is published on one thread.
pub(super) struct Catcher {
    recorder: PrometheusRecorder,
    scrape: PrometheusHandle,
    lines: Arc<Mutex<Vec<CallLine>>>,
    dispatch: Dispatch,
    /// While there is only one, tracing asks just the thread that meets a log line first whether
    /// anybody wants it, and believes the answer for every other thread.
    _another: Dispatch,
}

impl Catcher {
    pub(super) fn new() -> Result<Self, DrillError> {
        let failed = |error: BuildError| DrillError::Start(std::io::Error::other(error));
        let retries = Matcher::Full("seawall_call_retries".to_owned());
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(retries, &BUCKETS)
            .map_err(failed)?
            .build_recorder();
        let lines: Arc<Mutex<Vec<CallLine>>> = Arc::default();
        let calls = Targets::new().with_target("seawall::call", LevelFilter::INFO);
        let layer = LineLayer(Arc::clone(&lines)).with_filter(calls);
        Ok(Self {
            scrape: recorder.handle(),
            recorder,
            lines,
            dispatch: Dispatch::new(tracing_subscriber::registry().with(layer)),
            _another: Dispatch::new(NoSubscriber::default()),
        })
    }

    /// Runs `work` on this thread and catches what it publishes here.
    pub(super) fn around<T>(&self, work: impl FnOnce() -> T) -> T {
        let logged = || tracing::dispatcher::with_default(&self.dispatch, work);
        metrics::with_local_recorder(&self.recorder, logged)
    }

    /// What was published so far.
    pub(super) fn published(&self, asked: Option<u64>) -> Published {
        Published {
            metrics: Metrics::read(&self.scrape.render()),
            lines: self.lines.lock().clone(),
            asked,
        }
    }
}

impl fmt::Debug for Catcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Catcher")
    }
}

impl Metrics {
    /// Reads the samples of a Prometheus page that are compared.
    fn read(page: &str) -> Self {
        let mut metrics = Self::default();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let Ok(value) = value.parse::<u64>() else {
                continue;
            };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let label = |wanted: &str| label(labels, wanted).to_owned();
            match name {
                "seawall_calls_total" => {
                    *metrics.calls.entry(label("verdict")).or_default() += value
                }
                "seawall_degraded_total" => {
                    *metrics.degraded.entry(label("kind")).or_default() += value;
                }
                "seawall_attempts_total" => {
                    let status = label("status").parse().unwrap_or(0);
                    let key = (label("target"), status, label("verdict"));
                    *metrics.attempts.entry(key).or_default() += value;
                }
                "seawall_tokens_total" => {
                    let tokens = match label("usage").as_str() {
                        "lower_bound" => &mut metrics.lower_bound,
                        _ => &mut metrics.stated,
                    };
                    let used = tokens.entry(label("model")).or_default();
                    match label("kind").as_str() {
                        "input" => used.input += value,
                        "output" => used.output += value,
                        _ => used.cached += value,
                    }
                }
                "seawall_call_retries_count" => metrics.retries_count += value,
                "seawall_call_retries_sum" => metrics.retries_sum += value,
                _ => {}
            }
        }
        metrics
    }
}

/// The value of a label; no value here has a quote in it.
fn label<'a>(labels: &'a str, wanted: &str) -> &'a str {
    labels
        .trim_end_matches('}')
        .split("\",")
        .filter_map(|pair| pair.trim_end_matches('"').split_once("=\""))
        .find_map(|(name, value)| (name == wanted).then_some(value))
        .unwrap_or("")
}

/// Keeps the log line of each call.
struct LineLayer(Arc<Mutex<Vec<CallLine>>>);

impl<S: Subscriber> Layer<S> for LineLayer {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut line = CallLine::default();
        event.record(&mut line);
        self.0.lock().push(line);
    }
}

impl Visit for CallLine {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "attempts" => self.attempts = value,
            "input_tokens" => self.used.input = value,
            "output_tokens" => self.used.output = value,
            "cache_read_tokens" | "cache_write_tokens" => self.used.cached += value,
            _ => {}
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if field.name() == "usage_estimated" {
            self.estimated = value;
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "verdict" => value.clone_into(&mut self.verdict),
            "degraded" => value.clone_into(&mut self.degraded),
            _ => {}
        }
    }

    fn record_debug(&mut self, _field: &Field, _value: &dyn fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_is_read_as_it_is_written() {
        let catcher = Catcher::new().unwrap();
        catcher.around(|| {
            metrics::counter!("seawall_calls_total", "route" => "a", "verdict" => "ok").increment(2);
            metrics::counter!("seawall_calls_total", "route" => "b", "verdict" => "ok").increment(1);
            metrics::counter!(
                "seawall_attempts_total", "target" => "rung0", "status" => "529", "verdict" => "overloaded"
            )
            .increment(7);
            metrics::counter!("seawall_tokens_total", "model" => "m", "kind" => "input").increment(5);
            metrics::counter!("seawall_tokens_total", "model" => "m", "kind" => "cache_read")
                .increment(6);
            for retries in [0.0, 3.0, 0.0] {
                metrics::histogram!("seawall_call_retries", "route" => "a").record(retries);
            }
        });
        let found = catcher.published(None).metrics;
        assert_eq!(found.calls, BTreeMap::from([("ok".to_owned(), 3)]));
        let overloaded = ("rung0".to_owned(), 529, "overloaded".to_owned());
        assert_eq!(found.attempts, BTreeMap::from([(overloaded, 7)]));
        let used = Used {
            input: 5,
            output: 0,
            cached: 6,
        };
        assert_eq!(found.stated, BTreeMap::from([("m".to_owned(), used)]));
        assert_eq!((found.retries_count, found.retries_sum), (3, 3));
    }

    #[test]
    fn only_the_log_lines_of_calls_are_kept() {
        let catcher = Catcher::new().unwrap();
        let say = || {
            tracing::info!(target: "seawall::call", attempts = 2_u32, verdict = "ok", usage_estimated = true);
            tracing::info!(target: "elsewhere", attempts = 9_u32);
        };
        say();
        catcher.around(say);
        let line = CallLine {
            attempts: 2,
            verdict: "ok".to_owned(),
            estimated: true,
            ..CallLine::default()
        };
        assert_eq!(catcher.published(None).lines, [line]);
    }
}
