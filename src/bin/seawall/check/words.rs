//! A config in words.

use std::fmt::Write;
use std::time::Duration;

use seawall::config::{
    CacheStore, ClientKey, Config, Credential, Delivery, OnDisconnect, Organization, Place,
    QuotaSettings, Route, Rung, Target, Template,
};
use seawall::size::Humane;

use super::carriage::{Carriage, Fate, carriages};
use super::outlook::{Outlook, outlook};

/// A paragraph for the door, one for each route and one for what they share.
pub(super) fn in_words(config: &Config) -> String {
    let mut text = String::new();
    door_in_words(&mut text, config);
    for route in config.routes.values() {
        text.push('\n');
        route_in_words(&mut text, config, route);
    }
    let quotas = config.quotas.iter();
    let mut shared: Vec<String> = quotas
        .map(|(name, quota)| format!("quota {name}: {}", quota_in_words(quota)))
        .collect();
    shared.extend(config.organization.as_ref().map(organization_in_words));
    if config.routes.values().any(|route| route.cache.is_some()) {
        shared.push(store_in_words(&config.cache));
    }
    for words in shared {
        text.push('\n');
        line(&mut text, 0, format_args!("{words}"));
    }
    text
}

fn door_in_words(text: &mut String, config: &Config) {
    let gateway = &config.gateway;
    let who = match (gateway.client_keys.len(), gateway.open) {
        (0, true) => "everybody who reaches it (open)".to_owned(),
        (0, false) => "callers on this machine".to_owned(),
        (1, _) => "1 client, by its key".to_owned(),
        (clients, _) => format!("{clients} clients, by their keys"),
    };
    line(
        text,
        0,
        format_args!("listens on {} for {who}", gateway.listen),
    );
    let limits = &gateway.limits;
    if limits.is_any() {
        line(text, 1, format_args!("each of them: {limits}"));
    }
    let own = |key: &&ClientKey| key.limits != *limits;
    for ClientKey { name, limits, .. } in gateway.client_keys.iter().filter(own) {
        line(text, 1, format_args!("client {name}: {limits}"));
    }
}

fn route_in_words(text: &mut String, config: &Config, route: &Route) {
    let mut say = |indent, words: String| line(text, indent, format_args!("{words}"));
    say(0, format!("route {}: {}", route.name, taken_by(route)));
    say(
        1,
        format!(
            "profile {}, priority {}, {}",
            route.profile,
            route.priority.as_str(),
            delivery_in_words(route)
        ),
    );
    say(1, end_in_words(route));
    say(
        1,
        format!(
            "waits up to {} for a breaker or a quota, then moves on",
            show(route.wait)
        ),
    );
    for (index, rung) in route.ladder.iter().enumerate() {
        let words = rung_in_words(config, route, index, rung);
        say(1, format!("rung {}: {words}", index + 1));
    }
    attempts_in_words(text, route);
    extras_in_words(text, route);
    carriages_in_words(text, config, route);
    outlook_in_words(text, config, route);
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

fn rung_in_words(config: &Config, route: &Route, index: usize, rung: &Rung) -> String {
    let causes: Vec<_> = rung.causes().collect();
    let on = if causes.is_empty() {
        String::new()
    } else {
        format!("; led to by {}", causes.join(", "))
    };
    let target = match &rung.place {
        Place::Target(name) => config.targets.get(name),
        Place::Cache if index == 0 => {
            return "the cache, for an answer to the same request that is still fresh".to_owned();
        }
        Place::Cache => return format!("the cache, fresh or stale{on}"),
        _ => {
            let text = route.static_text.as_ref().map_or("", Template::source);
            return format!("the fixed answer {text:?}{on}");
        }
    };
    let Some(target) = target else {
        return rung.to_string();
    };
    let mut own = String::new();
    let mut also = |words: std::fmt::Arguments<'_>| {
        let written = write!(own, "; {words}");
        debug_assert!(written.is_ok(), "writing to a String cannot fail");
    };
    if let Some(attempts) = rung.attempts {
        also(format_args!("at most {attempts} attempts"));
    }
    if rung.share.is_some() {
        also(format_args!(
            "at most {} of the call's time",
            show(route.time_of(rung))
        ));
    }
    if !rung.lossy.is_empty() {
        also(format_args!("may lose {}", rung.lossy));
    }
    format!("{rung} = {}{on}{own}", target_in_words(target))
}

fn target_in_words(target: &Target) -> String {
    let model = target.model.as_deref().unwrap_or("the caller's model");
    let quota = match &target.quota {
        Some(quota) => format!("quota {quota}"),
        None => "a quota learned from the provider".to_owned(),
    };
    let breaker = target.breaker;
    let mut words = format!(
        "{model} at {} with {}, {quota}; its breaker opens at {:.0} % failures in {} and probes after {}; at most {} retries per success",
        target.base_url,
        whose_key(target),
        breaker.failure_rate * 100.0,
        show(breaker.window),
        show(breaker.open),
        target.retry_budget,
    );
    let mut also = |more: String| {
        words.push_str("; ");
        words.push_str(&more);
    };
    if let Some(above) = target.count_tokens_above {
        also(format!(
            "prompts of more than {above} tokens are counted by the provider first"
        ));
    }
    if let Some(tokens) = target.context_tokens {
        also(format!("holds {tokens} tokens"));
    }
    if let Some(tokens) = target.output_tokens {
        also(format!("answers with {tokens} tokens at most"));
    }
    if !target.cannot.is_empty() {
        also(format!("cannot carry {}", target.cannot));
    }
    words
}

/// What a route does besides its ladder.
fn extras_in_words(text: &mut String, route: &Route) {
    if let Some(cache) = &route.cache {
        let words = format_args!(
            "its cached answers are fresh for {} and better than none for {}; kept are answers to requests with a temperature of at most {}, {}",
            show(cache.ttl),
            show(cache.stale_if_error),
            cache.max_temperature,
            if cache.shared {
                "for all tenants together"
            } else {
                "for each tenant alone"
            }
        );
        line(text, 1, words);
    }
    if route.single_flight {
        line(
            text,
            1,
            format_args!("identical calls under way share one attempt"),
        );
    }
    if let Some(hedge) = &route.hedge {
        let after = match hedge.after {
            Some(after) => format!("after {} of silence", show(after)),
            None => "when the first has been silent for 95 in 100 of its target's usual times"
                .to_owned(),
        };
        let words = format_args!(
            "a second attempt at the {} target {after}, for at most {} % of what all calls cost",
            hedge.on.as_str(),
            hedge.budget * 100.0
        );
        line(text, 1, words);
    }
    if route.probe {
        line(
            text,
            1,
            format_args!("an open breaker is probed by a tiny request of its own"),
        );
    }
}

/// What becomes of the kinds of requests.
fn carriages_in_words(text: &mut String, config: &Config, route: &Route) {
    let all = match carriages(config, route) {
        Ok(all) => all,
        Err(why) => {
            let words = format_args!("what targets can carry can't be foretold: {why}");
            return line(text, 1, words);
        }
    };
    let (plain, others): (Vec<_>, Vec<_>) = all.iter().partition(|told| told.is_plain());
    if others.is_empty() {
        const WORDS: &str =
            "every kind of request goes to its targets as it is; what they refuse, they say";
        return line(text, 1, format_args!("{WORDS}"));
    }
    line(text, 1, format_args!("what its targets can carry:"));
    if !plain.is_empty() {
        let titles: Vec<_> = plain.iter().map(|told| told.kind.title).collect();
        let words = format_args!("as they are on every target: {}", titles.join(", "));
        line(text, 2, words);
    }
    // Kinds that fare alike share a line.
    let mut lines: Vec<(Vec<&str>, String)> = Vec::new();
    for told in others {
        let words = carriage_in_words(route, told);
        match lines.iter_mut().find(|(_, known)| *known == words) {
            Some((titles, _)) => titles.push(told.kind.title),
            None => lines.push((vec![told.kind.title], words)),
        }
    }
    for (titles, words) in lines {
        line(text, 2, format_args!("{}: {words}", titles.join(", ")));
    }
}

fn carriage_in_words(route: &Route, told: &Carriage) -> String {
    let fates = told.targets.iter().filter_map(|(name, fate)| {
        let mut rungs = route.ladder.iter();
        let at = rungs.position(|rung| rung.place.target() == Some(name))?;
        let words = match fate {
            Fate::Carried(losses) if losses.is_empty() => return None,
            Fate::Carried(losses) => format!("loses {losses}"),
            Fate::Skipped(why) => format!("is skipped ({why})"),
        };
        Some(format!("rung {} {name} {words}", at + 1))
    });
    let fates = fates.collect::<Vec<_>>().join(", ");
    if told.is_refused() {
        format!("{fates}, so the call ends with invalid_request_error")
    } else {
        fates
    }
}

/// What becomes of a call that meets a fault.
fn outlook_in_words(text: &mut String, config: &Config, route: &Route) {
    let all = match outlook(config, route) {
        Ok(all) => all,
        Err(why) => {
            let words = format_args!("what happens on faults can't be foretold: {why}");
            return line(text, 1, words);
        }
    };
    line(
        text,
        1,
        format_args!("if the first target has a fault that lasts:"),
    );
    for Outlook {
        fault,
        streamed,
        whole,
    } in all
    {
        let title = fault.title;
        if streamed.words == whole.words {
            line(text, 2, format_args!("{title}: {}", streamed.words));
        } else {
            line(
                text,
                2,
                format_args!("{title}, streamed: {}", streamed.words),
            );
            line(
                text,
                2,
                format_args!("{title}, not streamed: {}", whole.words),
            );
        }
    }
}

fn organization_in_words(organization: &Organization) -> String {
    format!(
        "organization: {} is asked for its limits every {} with the admin key from {}",
        organization.base_url,
        show(organization.refresh),
        organization.admin_key.origin
    )
}

fn store_in_words(store: &CacheStore) -> String {
    let disk = match &store.disk {
        Some(path) => format!(
            " and {} in {}, which survives restarts",
            Humane(store.disk_limit),
            path.display()
        ),
        None => String::new(),
    };
    format!(
        "cache: {} in memory{disk}; answers of at most {}",
        Humane(store.memory),
        Humane(store.largest)
    )
}

pub(super) fn whose_key(target: &Target) -> String {
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
        line(text, 1, format_args!("1 attempt, no retry"));
    } else {
        let longest = retry.longest_wait();
        line(
            text,
            1,
            format_args!(
                "up to {} attempts in all, of which each further target keeps one; the waits between them add up to {} at most, {} on average (a provider's `retry-after` can make them longer)",
                retry.attempts,
                show(longest),
                show(longest / 2)
            ),
        );
    }
    worst_case_in_words(text, route);
}

/// The longest time of a streamed call that gets no answer.
fn worst_case_in_words(text: &mut String, route: &Route) {
    let (silent, total) = (route.timeouts.longest_silence(), route.timeouts.total);
    let Ok(mut walk) = route.walk() else { return };
    let (mut sum, mut parts) = (Duration::ZERO, Vec::new());
    for (index, rung) in route.ladder.iter().enumerate() {
        if rung.place.target().is_none() {
            continue;
        }
        let attempts = walk.attempts_on(index);
        (0..attempts).for_each(|_| walk.count_attempt(index));
        let waits = route.retry.longest_wait_of(attempts);
        let longest = silent.saturating_mul(attempts).saturating_add(waits);
        let may = rung
            .share
            .map_or(longest, |_| longest.min(route.time_of(rung)));
        sum = sum.saturating_add(may);
        let cut = if may < longest {
            format!(", of which it may use {}", show(may))
        } else {
            String::new()
        };
        parts.push(format!(
            "{rung} takes {attempts} x {} + {} = {}{cut}",
            show(silent),
            show(waits),
            show(longest)
        ));
    }
    if parts.len() > 1 {
        parts.push(format!("together {}", show(sum)));
    }
    let outcome = if sum <= total {
        format!(
            "leaves {} of {} for what follows",
            show(total.saturating_sub(sum)),
            show(total)
        )
    } else {
        format!(
            "is cut off by the deadline of {}, unless a breaker opens first",
            show(total)
        )
    };
    let words = format_args!(
        "worst case of a streamed call, where every attempt stays silent: {}, which {outcome}",
        parts.join(", ")
    );
    line(text, 1, words);
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
pub(super) fn show(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (duration.subsec_nanos(), seconds) {
        (0, 120..) if seconds.is_multiple_of(3_600) => format!("{} h", seconds / 3_600),
        (0, 120..) if seconds.is_multiple_of(60) => format!("{} min", seconds / 60),
        (_, 0) => format!("{} ms", duration.as_millis()),
        _ => format!("{} s", (duration.as_secs_f64() * 1_000.0).round() / 1_000.0),
    }
}
