//! The inside, shown: health, readiness, status, metrics and a page. No secret is among it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use seawall::client::{Accuracy, Seawall};
use seawall_actors::policy::quota::{Axis, RefusedBy};
use seawall_actors::policy::wait_queue::Priority;
use seawall_actors::snapshot::{LimiterSnapshot, QueueSnapshot, Snapshot};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::clients::{Client, Standing, Under};
use super::limits::Limits;
use super::metrics as prometheus;
use super::server::Door;

pub(crate) async fn health() -> &'static str {
    "ok\n"
}

/// 503 while draining, or when no rung can be used.
pub(crate) async fn ready(State(door): State<Arc<Door>>) -> Response {
    let not = |why: &'static str| (StatusCode::SERVICE_UNAVAILABLE, why).into_response();
    if door.draining.load(Ordering::Relaxed) || door.seawall.snapshot().draining {
        not("draining\n")
    } else if door.seawall.has_usable_rung().await {
        "ready\n".into_response()
    } else {
        not("no rung can be used\n")
    }
}

pub(crate) async fn status(State(door): State<Arc<Door>>) -> Response {
    let mut status = describe(&door.seawall.snapshot());
    let usual: serde_json::Map<String, Value> = door
        .seawall
        .first_contents()
        .into_iter()
        .map(|(target, usual)| {
            let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let usual = json!({ "p50": ms(usual.p50), "p99": ms(usual.p99) });
            (target.to_string(), usual)
        })
        .collect();
    if let Some(status) = status.as_object_mut() {
        status.insert("first_content_ms".to_owned(), usual.into());
        status.insert("estimates".to_owned(), estimates(&door.seawall));
        let has_disk = door.seawall.config().cache.disk.is_some();
        let cache = door.seawall.cache_stats();
        let cache = cache.map(|stats| cache_of(&stats, has_disk));
        status.insert("cache".to_owned(), cache.into());
        let flights = json!({
            "under_way": door.seawall.shared_calls(),
            "calls": door.seawall.sharing_calls(),
        });
        status.insert("flights".to_owned(), flights);
        status.insert("clients".to_owned(), clients(&door.limits));
    }
    let body = status.to_string();
    ([(CONTENT_TYPE, "application/json")], body).into_response()
}

/// How far estimates of prompts were off, as parts of what they took, by target and class.
fn estimates(seawall: &Seawall) -> Value {
    let of = |accuracy: &Accuracy| {
        let errors = accuracy.errors;
        let figures = json!({
            "error_p50": thousandths(errors.p50),
            "error_p95": thousandths(errors.p95),
            "requests": errors.seen,
            "actual_by_fit": thousandths(accuracy.ratio),
        });
        (accuracy.class.as_str().to_owned(), figures)
    };
    let targets = seawall.accuracies().into_iter().map(|(target, classes)| {
        let classes: serde_json::Map<String, Value> = classes.iter().map(of).collect();
        (target.to_string(), Value::Object(classes))
    });
    Value::Object(targets.collect())
}

/// What the cache holds and has found since the start. A lookup that memory misses goes on to the
/// disk, where there is one.
fn cache_of(stats: &seawall::cache::Stats, has_disk: bool) -> Value {
    let hits = stats.hits_fresh + stats.hits_stale;
    let disk = has_disk.then(|| {
        json!({
            "entries": stats.disk_entries,
            "bytes": stats.disk_bytes,
            "hits": stats.hits_disk,
            "misses": stats.misses,
            "evictions": stats.disk_evictions,
            "errors": stats.disk_errors,
            "dropped": stats.disk_dropped,
        })
    });
    let memory = json!({
        "entries": stats.entries,
        "bytes": stats.bytes,
        "hits": hits.saturating_sub(stats.hits_disk),
        "misses": stats.misses + stats.hits_disk,
        "evictions": stats.evictions,
    });
    json!({
        "fresh": stats.hits_fresh,
        "stale": stats.hits_stale,
        "puts": stats.puts,
        "memory": memory,
        "disk": disk,
    })
}

/// What each client has left of its own quotas; null where nobody has any.
fn clients(limits: &Limits) -> Value {
    let under = |under: Option<Under>, limit: &str| {
        under.map(|under| json!({ limit: under.limit, "left": under.left }))
    };
    let of = |standing: &Standing| {
        let (named, name) = match &standing.client {
            Client::Key(name) => ("client", name.to_string()),
            Client::Address(address) => ("address", address.to_string()),
            Client::Others => ("others", "(others)".to_owned()),
        };
        json!({
            named: name,
            "requests": under(standing.requests, "per_minute"),
            "tokens": under(standing.tokens, "per_minute"),
            "answers": under(standing.streams, "at_once"),
        })
    };
    limits.standings().map_or(Value::Null, |(known, first)| {
        json!({ "known": known, "first": first.iter().map(of).collect::<Vec<Value>>() })
    })
}

fn thousandths(part: f64) -> f64 {
    (part * 1_000.0).round() / 1_000.0
}

pub(crate) async fn metrics(State(door): State<Arc<Door>>) -> Response {
    let page = prometheus::render(&door.prometheus, &door.seawall);
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response()
}

pub(crate) async fn page() -> Html<&'static str> {
    Html(include_str!("status.html"))
}

/// Who waits for a quota, and for how much longer if nobody comes or leaves.
fn queue(queue: &QueueSnapshot) -> Value {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let classes = Priority::ALL.iter().zip(queue.by_class);
    let by_class: serde_json::Map<String, Value> = classes
        .map(|(class, calls)| (class.as_str().to_owned(), calls.into()))
        .collect();
    let tenants = queue.by_tenant.iter();
    let by_tenant: Vec<Value> = tenants
        .map(|tenant| json!({ "tenant": tenant.name.as_deref(), "waiting": tenant.waiting }))
        .collect();
    let calls = queue.first.iter();
    let first: Vec<Value> = calls
        .map(|call| {
            json!({
                "call": &*call.call,
                "class": call.priority.as_str(),
                "tenant": call.tenant.as_deref(),
                "position": call.position,
                "eta_ms": ms(call.eta),
                "waited_ms": ms(call.waited),
                "cost": {
                    "requests": call.cost.requests,
                    "input": call.cost.input,
                    "output": call.cost.output,
                },
            })
        })
        .collect();
    json!({
        "by_class": by_class,
        "tenants": queue.tenants,
        "by_tenant": by_tenant,
        "first": first,
    })
}

/// A snapshot as JSON. Times are milliseconds from this moment on.
fn millis_until(at: Instant, now: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX)
}

fn limiter(limiter: &LimiterSnapshot, now: Instant) -> Value {
    let quota = &limiter.quota;
    let mut axes = serde_json::Map::new();
    for (axis, view) in Axis::ALL.into_iter().zip(&quota.axes) {
        if let Some(view) = view {
            let described = json!({
                "per_minute": view.limit,
                "level": view.level,
                "burst": view.burst,
                "burst_found": view.burst_found,
                "taken_by_others_per_minute": view.foreign,
            });
            axes.insert(axis.as_str().to_owned(), described);
        }
    }
    json!({
        "name": &*limiter.name,
        "axes": axes,
        "waiting": limiter.waiting,
        "queue": queue(&limiter.queue),
        "in_flight": quota.in_flight,
        "most_in_flight": quota.concurrency,
        "ramp_per_minute": quota.ramp_per_minute,
        "stopped_for_ms": quota.stopped_until.map(|at| millis_until(at, now)),
        "stopped_by": quota.stopped_by.map(RefusedBy::as_str),
    })
}

fn describe(snapshot: &Snapshot) -> Value {
    let now = Instant::now();
    let ms = |at: Option<Instant>| at.map(|at| millis_until(at, now));
    let limiters: Vec<Value> = snapshot.limiters.iter().map(|l| limiter(l, now)).collect();
    let breakers: Vec<Value> = snapshot
        .breakers
        .iter()
        .map(|breaker| {
            let circuit = &breaker.circuit;
            json!({
                "name": &*breaker.name,
                "state": circuit.state.as_str(),
                "mode": circuit.mode.as_str(),
                "opened": circuit.opened,
                "consecutive_failures": circuit.consecutive_failures,
                "window": {
                    "calls": circuit.timed.calls,
                    "failed": circuit.timed.failed,
                    "slow": circuit.timed.slow,
                },
                "slow_after_ms": u64::try_from(circuit.slow_after.as_millis()).unwrap_or(u64::MAX),
                "probe_in_ms": ms(circuit.open_until),
                "waiting": breaker.waiting,
                "retry_budget": breaker.retry_budget,
            })
        })
        .collect();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "draining": snapshot.draining,
        "in_flight": snapshot.pool.in_flight,
        "restarts": snapshot.restarts,
        "hook_panics": snapshot.hook_panics,
        "steps": {
            "running": snapshot.steps.running,
            "retries": snapshot.steps.retries,
            "restarts": snapshot.steps.restarts,
        },
        "pool": {
            "callers": snapshot.pool.callers,
            "running": snapshot.pool.running,
            "waiting": snapshot.pool.waiting,
        },
        "limiters": limiters,
        "breakers": breakers,
    })
}
