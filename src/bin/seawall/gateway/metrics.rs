//! Prometheus: what calls counted, and the actors' state at the moment of the scrape.

use ::metrics::gauge;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use seawall::client::Seawall;
use seawall_actors::policy::circuit::State;
use seawall_actors::policy::quota::Axis;

/// Seconds: from a cache's answer to the longest call that a profile allows.
const SECONDS: [f64; 16] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 600.0,
];

/// Own overhead is a matter of microseconds.
const OVERHEAD: [f64; 10] = [
    0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.5,
];

/// Retries of one call.
const RETRIES: [f64; 6] = [0.0, 1.0, 2.0, 3.0, 4.0, 10.0];

/// Installs the recorder of this process.
pub(crate) fn install() -> Result<PrometheusHandle, String> {
    let named = |name: &str| Matcher::Full(name.to_owned());
    PrometheusBuilder::new()
        .set_buckets(&SECONDS)
        .and_then(|b| b.set_buckets_for_metric(named("seawall_overhead_seconds"), &OVERHEAD))
        .and_then(|b| b.set_buckets_for_metric(named("seawall_call_retries"), &RETRIES))
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| format!("metrics: {error}"))
}

/// The page that Prometheus reads: the counts of this process, then the state at this moment.
pub(crate) fn render(prometheus: &PrometheusHandle, seawall: &Seawall) -> String {
    prometheus.run_upkeep();
    let mut page = prometheus.render();
    page.push_str(&state(seawall));
    page
}

/// Targets and quotas are named after models and keys that callers choose, and come and go. A recorder
/// keeps a gauge for ever, so each scrape draws them into one of its own.
fn state(seawall: &Seawall) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    ::metrics::with_local_recorder(&recorder, || gauges(seawall));
    recorder.handle().render()
}

fn gauges(seawall: &Seawall) {
    let snapshot = seawall.snapshot();
    for breaker in &snapshot.breakers {
        let target = breaker.name.to_string();
        let state = match breaker.circuit.state {
            State::Closed => 0.0,
            State::HalfOpen => 1.0,
            State::Open => 2.0,
        };
        gauge!("seawall_breaker_state", "target" => target.clone()).set(state);
        gauge!("seawall_breaker_waiting", "target" => target.clone()).set(count(breaker.waiting));
        gauge!("seawall_retry_budget", "target" => target).set(breaker.retry_budget);
    }
    for limiter in &snapshot.limiters {
        let quota = limiter.name.to_string();
        for (axis, view) in Axis::ALL.into_iter().zip(&limiter.quota.axes) {
            let Some(view) = view else { continue };
            let axis = axis.as_str();
            gauge!("seawall_quota_level", "quota" => quota.clone(), "axis" => axis)
                .set(whole(view.level));
            gauge!("seawall_quota_limit", "quota" => quota.clone(), "axis" => axis)
                .set(whole(i64::try_from(view.limit).unwrap_or(i64::MAX)));
        }
        gauge!("seawall_queue_depth", "quota" => quota).set(count(limiter.waiting));
    }
    if let Some(cache) = seawall.cache_stats() {
        cache_gauges(&cache);
    }
    gauge!("seawall_flights").set(count(seawall.shared_calls()));
    gauge!("seawall_in_flight").set(count(snapshot.pool.in_flight));
    gauge!("seawall_calls_running").set(count(snapshot.pool.running));
    gauge!("seawall_callers").set(count(snapshot.pool.callers));
    gauge!("seawall_steps_running").set(count(snapshot.steps.running));
    gauge!("seawall_restarts").set(whole(i64::try_from(snapshot.restarts).unwrap_or(i64::MAX)));
}

fn cache_gauges(cache: &seawall::cache::Stats) {
    let whole = |n: u64| whole(i64::try_from(n).unwrap_or(i64::MAX));
    for (tier, entries, bytes, evicted) in [
        ("memory", cache.entries, cache.bytes, cache.evictions),
        (
            "disk",
            cache.disk_entries,
            cache.disk_bytes,
            cache.disk_evictions,
        ),
    ] {
        gauge!("seawall_cache_entries", "tier" => tier).set(whole(entries));
        gauge!("seawall_cache_bytes", "tier" => tier).set(whole(bytes));
        gauge!("seawall_cache_evictions", "tier" => tier).set(whole(evicted));
    }
    for (found, lookups) in [
        ("fresh", cache.hits_fresh),
        ("stale", cache.hits_stale),
        ("nothing", cache.misses),
    ] {
        gauge!("seawall_cache_lookups", "found" => found).set(whole(lookups));
    }
    gauge!("seawall_cache_disk_errors").set(whole(cache.disk_errors));
    gauge!("seawall_cache_disk_dropped").set(whole(cache.disk_dropped));
}

fn count(n: usize) -> f64 {
    whole(i64::try_from(n).unwrap_or(i64::MAX))
}

#[expect(clippy::cast_precision_loss, reason = "a gauge; exact up to 2^53")]
const fn whole(n: i64) -> f64 {
    n as f64
}
