//! A config as JSON, as it is understood.

use std::time::Duration;

use seawall::capability::{Feature, Features};
use seawall::config::{
    CacheStore, Config, ConfigError, OnDisconnect, Problem, Route, Rung, Target, Template,
};
use serde_json::{Value, json};

use super::carriage::{Fate, carriages};
use super::outlook::{Foretold, outlook};
use super::rehearsal::{Course, End};
use super::words::whose_key;

pub(super) fn as_json(config: &Config) -> Value {
    let warnings: Vec<Value> = config.warnings.iter().map(problem_as_json).collect();
    let routes: serde_json::Map<String, Value> = config
        .routes
        .iter()
        .map(|(name, route)| (name.clone(), route_as_json(config, route)))
        .collect();
    let targets: serde_json::Map<String, Value> = config
        .targets
        .iter()
        .map(|(name, target)| (name.clone(), target_as_json(target)))
        .collect();
    let quotas: serde_json::Map<String, Value> = config
        .quotas
        .iter()
        .map(|(name, quota)| {
            let limits = json!({
                "requests_per_minute": quota.requests_per_minute,
                "input_tokens_per_minute": quota.input_tokens_per_minute,
                "output_tokens_per_minute": quota.output_tokens_per_minute,
                "burst_ms": millis(quota.burst),
            });
            (name.clone(), limits)
        })
        .collect();
    json!({
        "valid": true,
        "problems": [],
        "warnings": warnings,
        "listen": config.gateway.listen.to_string(),
        "routes": routes,
        "targets": targets,
        "quotas": quotas,
        "cache": store_as_json(&config.cache),
        "organization": config.organization.as_ref().map(|organization| json!({
            "base_url": organization.base_url,
            "refresh_ms": millis(organization.refresh),
            "admin_key": organization.admin_key.origin.to_string(),
        })),
    })
}

fn route_as_json(config: &Config, route: &Route) -> Value {
    let (timeouts, retry) = (route.timeouts, route.retry);
    let ladder: Vec<String> = route.ladder.iter().map(ToString::to_string).collect();
    let models: Vec<String> = route.models.iter().map(ToString::to_string).collect();
    let rungs: Vec<Value> = route.ladder.iter().map(rung_as_json).collect();
    json!({
        "ladder": ladder,
        "rungs": rungs,
        "models": models,
        "profile": route.profile.as_str(),
        "priority": route.priority.as_str(),
        "delivery": route.delivery().as_str(),
        "finishes_after_disconnect": route.on_disconnect == OnDisconnect::Finish,
        "wait_ms": millis(route.wait),
        "timeouts_ms": {
            "connect": millis(timeouts.connect),
            "headers": millis(timeouts.headers),
            "first_content": millis(timeouts.first_content),
            "stall": millis(timeouts.stall),
            "events": millis(timeouts.events),
            "total": millis(timeouts.total),
            "generation": millis(timeouts.generation),
        },
        "retry": {
            "attempts": retry.attempts,
            "base_ms": millis(retry.base),
            "cap_ms": millis(retry.cap),
            "longest_wait_ms": millis(retry.longest_wait()),
        },
        "static": route.static_text.as_ref().map(Template::source),
        "cache": route.cache.map(|cache| json!({
            "ttl_ms": millis(cache.ttl),
            "stale_if_error_ms": millis(cache.stale_if_error),
            "max_temperature": cache.max_temperature,
            "shared": cache.shared,
        })),
        "single_flight": route.single_flight,
        "probe": route.probe,
        "hedge": route.hedge.map(|hedge| json!({
            "budget": hedge.budget,
            "on": hedge.on.as_str(),
            "after_ms": hedge.after.map(millis),
        })),
        "requests": requests_as_json(config, route),
        "faults": faults_as_json(config, route),
    })
}

fn rung_as_json(rung: &Rung) -> Value {
    json!({
        "rung": rung.to_string(),
        "on": rung.causes().collect::<Vec<_>>(),
        "attempts": rung.attempts,
        "share": rung.share,
        "lossy": features(rung.lossy),
    })
}

fn features(features: Features) -> Vec<&'static str> {
    features.iter().map(Feature::as_str).collect()
}

/// What becomes of each kind of request on each target; null where that can't be foretold.
fn requests_as_json(config: &Config, route: &Route) -> Value {
    let Ok(all) = carriages(config, route) else {
        return Value::Null;
    };
    let kinds = all.into_iter().map(|told| {
        let targets = told.targets.iter().map(|(name, fate)| {
            let skipped = match fate {
                Fate::Skipped(why) => Some(why),
                Fate::Carried(_) => None,
            };
            let fate = json!({ "skipped": skipped, "lost": fate.losses() });
            (name.clone(), fate)
        });
        let targets: serde_json::Map<String, Value> = targets.collect();
        (told.kind.word.to_owned(), Value::Object(targets))
    });
    Value::Object(kinds.collect())
}

/// What becomes of calls that meet a fault; null where that can't be foretold.
fn faults_as_json(config: &Config, route: &Route) -> Value {
    let Ok(all) = outlook(config, route) else {
        return Value::Null;
    };
    let faults = all.into_iter().map(|outlook| {
        let told = json!({
            "streamed": foretold_as_json(&outlook.streamed),
            "whole": foretold_as_json(&outlook.whole),
        });
        (outlook.fault.word.to_owned(), told)
    });
    Value::Object(faults.collect())
}

fn foretold_as_json(foretold: &Foretold) -> Value {
    json!({
        "words": foretold.words,
        "first_fails": course_as_json(&foretold.first_fails),
        "all_fail": foretold.all_fail.as_ref().map(course_as_json),
        "all_fail_with_cached": foretold.with_kept.as_ref().map(course_as_json),
    })
}

fn course_as_json(course: &Course) -> Value {
    let attempts: Vec<Value> = course
        .attempts
        .iter()
        .map(|(target, attempts)| json!({ "target": target, "attempts": attempts }))
        .collect();
    let (end, by, error) = match &course.end {
        End::Answered(by) => ("answered", Some(by), None),
        End::Refused => ("refused", None, None),
        End::Failed(kind) => ("failed", None, Some(kind)),
        End::BrokeOff => ("broke_off", None, None),
    };
    json!({
        "attempts": attempts, "end": end, "answered_by": by, "error": error,
        "about_ms": millis(course.took),
    })
}

fn store_as_json(store: &CacheStore) -> Value {
    json!({
        "memory_bytes": store.memory,
        "disk": store.disk,
        "disk_limit_bytes": store.disk_limit,
        "largest_bytes": store.largest,
    })
}

fn target_as_json(target: &Target) -> Value {
    json!({
        "provider": target.provider.as_str(),
        "base_url": target.base_url,
        "model": target.model,
        "credential": whose_key(target),
        "quota": target.quota,
        "breaker": {
            "window_ms": millis(target.breaker.window),
            "failure_rate": target.breaker.failure_rate,
            "open_ms": millis(target.breaker.open),
        },
        "retry_budget": target.retry_budget,
        "count_tokens_above": target.count_tokens_above,
        "context_tokens": target.context_tokens,
        "output_tokens": target.output_tokens,
        "cannot": features(target.cannot),
    })
}

pub(super) fn refused_as_json(error: &ConfigError) -> Value {
    let problems: Vec<Value> = error.problems().iter().map(problem_as_json).collect();
    json!({ "valid": false, "problems": problems, "warnings": [] })
}

fn problem_as_json(problem: &Problem) -> Value {
    let place = problem.place.as_ref();
    json!({
        "file": place.map(|place| &place.file),
        "line": place.map(|place| place.line),
        "column": place.map(|place| place.column),
        "what": problem.what,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
