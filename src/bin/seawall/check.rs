//! `seawall check`: validates a config and says in words what each route does.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use seawall::config::{
    ClientKey, Config, ConfigError, Credential, Delivery, OnDisconnect, Place, Problem,
    QuotaSettings, Route, Rung, Target, Template,
};
use serde_json::{Value, json};

use crate::{ConfigArgs, WRONG_USE};

/// What `seawall check` is told.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Print the result as JSON on stdout
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &CheckArgs) -> ExitCode {
    match args.config.load() {
        Ok(config) => {
            if args.json {
                crate::print(&as_json(&config).to_string());
            } else {
                for warning in &config.warnings {
                    crate::complain(&format!("warning: {warning}"));
                }
                crate::print(in_words(&config).trim_end());
            }
            ExitCode::SUCCESS
        }
        Err(error) if args.json => {
            crate::print(&refused_as_json(&error).to_string());
            ExitCode::from(WRONG_USE)
        }
        Err(error) => crate::refuse(&error),
    }
}

/// A paragraph for the door and one for each route.
fn in_words(config: &Config) -> String {
    let mut text = String::new();
    let gateway = &config.gateway;
    let who = match (gateway.client_keys.len(), gateway.open) {
        (0, true) => "everybody who reaches it (open)".to_owned(),
        (0, false) => "callers on this machine".to_owned(),
        (1, _) => "1 client, by its key".to_owned(),
        (clients, _) => format!("{clients} clients, by their keys"),
    };
    line(
        &mut text,
        0,
        format_args!("listens on {} for {who}", gateway.listen),
    );
    let limits = &gateway.limits;
    if limits.is_any() {
        line(&mut text, 1, format_args!("each of them: {limits}"));
    }
    let own = |key: &&ClientKey| key.limits != *limits;
    for ClientKey { name, limits, .. } in gateway.client_keys.iter().filter(own) {
        line(&mut text, 1, format_args!("client {name}: {limits}"));
    }
    for (name, route) in &config.routes {
        text.push('\n');
        line(
            &mut text,
            0,
            format_args!("route {name}: {}", taken_by(route)),
        );
        line(
            &mut text,
            1,
            format_args!(
                "profile {}, priority {}, {}",
                route.profile,
                route.priority.as_str(),
                delivery_in_words(route)
            ),
        );
        line(&mut text, 1, format_args!("{}", end_in_words(route)));
        line(
            &mut text,
            1,
            format_args!(
                "waits up to {} for a breaker or a quota, then moves on",
                show(route.wait)
            ),
        );
        for (index, rung) in route.ladder.iter().enumerate() {
            line(
                &mut text,
                1,
                format_args!("rung {}: {}", index + 1, rung_in_words(config, route, rung)),
            );
        }
        attempts_in_words(&mut text, route);
    }
    for (name, quota) in &config.quotas {
        text.push('\n');
        line(
            &mut text,
            0,
            format_args!("quota {name}: {}", quota_in_words(quota)),
        );
    }
    text
}

fn line(text: &mut String, indent: usize, words: std::fmt::Arguments<'_>) {
    let written = writeln!(text, "{:1$}{words}", "", indent * 2);
    debug_assert!(written.is_ok(), "writing to a String cannot fail");
}

fn taken_by(route: &Route) -> String {
    if route.name == seawall::config::DEFAULT_ROUTE {
        return "every call that no other route takes".to_owned();
    }
    let models: Vec<String> = route.models.iter().map(ToString::to_string).collect();
    match models.as_slice() {
        [] => "calls that name it".to_owned(),
        models => format!("calls that name it, or ask for {}", models.join(" or ")),
    }
}

fn rung_in_words(config: &Config, route: &Route, rung: &Rung) -> String {
    let target = rung
        .place
        .target()
        .and_then(|name| config.targets.get(name));
    let Some(target) = target else {
        if rung.place == Place::Cache {
            return "an answer that the same request got before".to_owned();
        }
        let text = route.static_text.as_ref().map_or("", Template::source);
        return format!("the fixed answer {text:?}");
    };
    let model = target.model.as_deref().unwrap_or("the caller's model");
    let quota = match &target.quota {
        Some(quota) => format!("quota {quota}"),
        None => "a quota learned from the provider".to_owned(),
    };
    let breaker = target.breaker;
    format!(
        "{rung} = {model} at {} with {}, {quota}; its breaker opens at {:.0} % failures in {} and probes after {}; at most {} retries per success",
        target.base_url,
        whose_key(target),
        breaker.failure_rate * 100.0,
        show(breaker.window),
        show(breaker.open),
        target.retry_budget,
    )
}

fn whose_key(target: &Target) -> String {
    match &target.credential {
        Credential::Own(key) => format!("the key from {}", key.origin),
        Credential::CallerOr(key) => {
            format!("the caller's credential, else the key from {}", key.origin)
        }
        _ => "the caller's credential".to_owned(),
    }
}

fn delivery_in_words(route: &Route) -> String {
    let streams = match route.delivery() {
        Delivery::Complete => "streams come when they are whole, with pings until then".to_owned(),
        Delivery::Hold(hold) if hold.tokens == u64::MAX => {
            format!("streams come {} after their first content", show(hold.time))
        }
        Delivery::Hold(hold) => format!(
            "streams come once {} tokens or {} of them are there",
            hold.tokens,
            show(hold.time)
        ),
        Delivery::Resume => {
            "streams come piece by piece, and a text that breaks off is continued".to_owned()
        }
        _ => "streams come piece by piece".to_owned(),
    };
    match route.on_disconnect {
        OnDisconnect::Finish => format!("{streams} and are finished when their client has left"),
        _ => streams,
    }
}

fn end_in_words(route: &Route) -> String {
    let (total, generation) = (route.timeouts.total, route.timeouts.generation);
    if route.delivery() == Delivery::Complete || generation <= total {
        format!("every call ends within {}", show(total))
    } else {
        format!(
            "every call ends within {}; a stream that has begun to come may go on for {}",
            show(total),
            show(generation)
        )
    }
}

/// The arithmetic of the worst case, so that nobody has to do it during an outage.
fn attempts_in_words(text: &mut String, route: &Route) {
    let (retry, timeouts) = (route.retry, route.timeouts);
    let silent = timeouts.longest_silence();
    line(
        text,
        1,
        format_args!(
            "one attempt may take {} to connect, {} more to the status line, {}{} more to the first content, {} between two pieces and {} between two that are no pings",
            show(timeouts.connect),
            show(timeouts.headers),
            if timeouts.learn_first_content {
                "twice the target's 99th percentile or at most "
            } else {
                ""
            },
            show(timeouts.first_content),
            show(timeouts.stall),
            show(timeouts.events)
        ),
    );
    if retry.attempts == 1 {
        line(text, 1, format_args!("1 attempt a rung, no retry"));
    } else {
        let longest = retry.longest_wait();
        line(
            text,
            1,
            format_args!(
                "up to {} attempts a rung; the waits between them add up to {} at most, {} on average (a provider's `retry-after` can make them longer)",
                retry.attempts,
                show(longest),
                show(longest / 2)
            ),
        );
    }
    let rung = silent
        .saturating_mul(retry.attempts)
        .saturating_add(retry.longest_wait());
    let total = timeouts.total;
    let outcome = if rung <= total {
        format!(
            "leaves {} of {} for what follows",
            show(total.saturating_sub(rung)),
            show(total)
        )
    } else {
        format!(
            "is cut off by the deadline of {}, unless the breaker opens first",
            show(total)
        )
    };
    line(
        text,
        1,
        format_args!(
            "worst case: a rung where every attempt stays silent takes {} x {} + {} = {}, which {outcome}",
            retry.attempts,
            show(silent),
            show(retry.longest_wait()),
            show(rung)
        ),
    );
}

fn quota_in_words(quota: &QuotaSettings) -> String {
    let rate = |rate: Option<u64>, what: &str| match rate {
        Some(rate) => format!("{rate} {what} a minute"),
        None => format!("{what} as learned from the provider"),
    };
    format!(
        "{}, {}, {}; bursts of {}",
        rate(quota.requests_per_minute, "requests"),
        rate(quota.input_tokens_per_minute, "input tokens"),
        rate(quota.output_tokens_per_minute, "output tokens"),
        show(quota.burst)
    )
}

/// Shows a duration as configs write it.
fn show(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (duration.subsec_nanos(), seconds) {
        (0, 120..) if seconds.is_multiple_of(3_600) => format!("{} h", seconds / 3_600),
        (0, 120..) if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        (_, 0) => format!("{} ms", duration.as_millis()),
        _ => format!("{} s", (duration.as_secs_f64() * 1_000.0).round() / 1_000.0),
    }
}

fn as_json(config: &Config) -> Value {
    let warnings: Vec<Value> = config.warnings.iter().map(problem_as_json).collect();
    let routes: serde_json::Map<String, Value> = config
        .routes
        .iter()
        .map(|(name, route)| (name.clone(), route_as_json(route)))
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
    })
}

fn route_as_json(route: &Route) -> Value {
    let (timeouts, retry) = (route.timeouts, route.retry);
    let ladder: Vec<String> = route.ladder.iter().map(ToString::to_string).collect();
    let models: Vec<String> = route.models.iter().map(ToString::to_string).collect();
    json!({
        "ladder": ladder,
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
    })
}

fn refused_as_json(error: &ConfigError) -> Value {
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use seawall::config::{Environment, Overrides};

    use super::*;

    fn config(text: &str) -> Config {
        let environment = Environment::from_fn(|_| Some("sk-ant-very-secret".into()));
        Config::parse(
            text,
            Path::new("seawall.toml"),
            &Overrides::default(),
            &environment,
        )
        .unwrap()
    }

    #[test]
    fn the_worst_case_is_worked_out() {
        let text = "[routes.default]\nretry = { attempts = 4, base = \"1s\", cap = \"3s\" }\ntimeouts = { connect = \"1s\", headers = \"2s\", first_content = \"3s\", stall = \"4s\", total = \"60s\" }";
        let words = in_words(&config(text));
        // Waits 1 + 2 + 3; attempts 4 x (1 + 2 + 3).
        assert!(
            words.contains("add up to 6 s at most, 3 s on average"),
            "{words}"
        );
        assert!(
            words.contains("4 x 6 s + 6 s = 30 s, which leaves 30 s of 60 s"),
            "{words}"
        );
    }

    #[test]
    fn a_rung_that_outlasts_the_deadline_is_said_to() {
        let words = in_words(&config(""));
        assert!(
            words.contains("is cut off by the deadline of 10 min"),
            "{words}"
        );
        assert!(
            words.contains("else the key from the environment variable ANTHROPIC_API_KEY"),
            "{words}"
        );
    }

    #[test]
    fn every_rung_and_quota_is_named_and_no_key_is_shown() {
        let text = "[quotas.q]\nrequests_per_minute = 50\n[targets.a]\napi_key_env = \"K\"\nquota = \"q\"\n[routes.default]\nladder = [\"a\", \"static\"]\nstatic = { text = \"down\" }";
        let config = config(text);
        let words = in_words(&config);
        for part in [
            "rung 1: a = the caller's model",
            "quota q",
            "rung 2: the fixed answer \"down\"",
            "50 requests a minute",
            "input tokens as learned",
        ] {
            assert!(words.contains(part), "{part:?} is not in:\n{words}");
        }
        assert!(
            !words.contains("very-secret") && !as_json(&config).to_string().contains("very-secret")
        );
    }

    #[test]
    fn what_clients_may_use_is_said() {
        let key = "{ name = \"a\", sha256 = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\", limits = { concurrent_streams = 2 } }";
        let text = format!(
            "[gateway]\nlimits = {{ requests_per_minute = 60 }}\nclient_keys = [{key}]\n[targets.t]\napi_key_env = \"K\""
        );
        let words = in_words(&config(&text));
        assert!(words.contains("  each of them: 60 requests a minute\n  client a: 60 requests a minute, 2 answers at once\n"), "{words}");
    }

    #[test]
    fn json_has_problems_with_their_places() {
        let environment = Environment::from_fn(|_| None);
        let error = Config::parse(
            "[gateway]\nx = 1",
            Path::new("s.toml"),
            &Overrides::default(),
            &environment,
        )
        .unwrap_err();
        let shown = refused_as_json(&error);
        assert_eq!(shown["valid"], json!(false));
        assert_eq!(shown["problems"][0]["line"], json!(2));
        assert_eq!(
            as_json(&config(""))["routes"]["default"]["ladder"],
            json!(["anthropic"])
        );
    }

    #[test]
    fn durations_are_shown_in_round_units() {
        for (millis, shown) in [
            (500, "500 ms"),
            (1_500, "1.5 s"),
            (60_000, "60 s"),
            (600_000, "10 min"),
            (7_200_000, "2 h"),
            (0, "0 ms"),
        ] {
            assert_eq!(show(Duration::from_millis(millis)), shown);
        }
    }
}
