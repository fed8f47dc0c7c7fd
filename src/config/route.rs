//! Routes: ladders of rungs with the time, the retries and the breaker that go with them.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;

use super::document::{Section, nearest};
use super::target::{Target, check_name, label};
use super::{DEFAULT_ROUTE, Overrides};
use crate::delivery::{Delivery, Hold};
use crate::profile::{Priority, Profile, Timeouts};

const MILLISECOND: Duration = Duration::from_millis(1);
/// As many as a call can be told to try.
const MOST_RUNGS: usize = 16;
const DAY: Duration = Duration::from_secs(86_400);

/// A ladder and how a call climbs down it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Route {
    /// Its name.
    pub name: String,
    /// The models it takes when a call names no route; empty for the default route.
    pub models: Vec<ModelPattern>,
    /// Where a call is tried, in this order; never empty. Targets in it exist.
    pub ladder: Vec<Rung>,
    /// What its calls are for.
    pub profile: Profile,
    /// How a streamed answer reaches the caller, where the route says so; else its profile decides.
    pub delivery: Option<Delivery>,
    /// What happens to an answer whose client has left.
    pub on_disconnect: OnDisconnect,
    /// Its time limits; none is longer than `total`.
    pub timeouts: Timeouts,
    /// The longest wait for a breaker or a quota.
    pub wait: Duration,
    /// How urgent its calls are in a queue.
    pub priority: Priority,
    /// Its retries.
    pub retry: RetrySettings,
    /// The answer of the static rung; there exactly when the ladder has one.
    pub static_text: Option<String>,
}

impl Route {
    /// How a streamed answer reaches a caller that asks for nothing else.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        self.delivery.unwrap_or_else(|| self.profile.delivery())
    }
}

/// One step of a ladder.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rung {
    /// A target, by name.
    Target(String),
    /// The route's fixed answer, which always succeeds.
    Static,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Target(name) => name,
            Self::Static => "static",
        })
    }
}

/// What happens to a streamed answer whose client has left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnDisconnect {
    /// The provider is stopped at once.
    #[default]
    Stop,
    /// The answer is read to its end, so that its usage is known exactly.
    Finish,
}

impl FromStr for OnDisconnect {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "stop" => Ok(Self::Stop),
            "finish" => Ok(Self::Finish),
            _ => Err("write \"stop\" or \"finish\""),
        }
    }
}

/// A model id, or the beginning of one with a `*` after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPattern(String);

impl ModelPattern {
    /// Whether a model is meant.
    #[must_use]
    pub fn matches(&self, model: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => model.starts_with(beginning),
            None => self.0 == model,
        }
    }

    /// Returns how narrow the pattern is: an exact id above every beginning, then the longer.
    pub(super) fn narrowness(&self) -> (bool, usize) {
        (!self.0.ends_with('*'), self.0.len())
    }

    fn read(text: &str) -> Result<Self, String> {
        let id = text.strip_suffix('*').unwrap_or(text);
        if !id.is_empty() {
            label(id)?;
        } else if text.is_empty() {
            return Err("an empty text is no model".into());
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ModelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How often and how soon a call is tried again on one rung.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetrySettings {
    /// Attempts in total, the first one included; at least 1.
    pub attempts: u32,
    /// Upper bound of the first wait; doubles with each retry.
    pub base: Duration,
    /// Upper bound of every wait; at least `base`.
    pub cap: Duration,
}

impl RetrySettings {
    /// Returns the sum of the longest waits between all attempts; their mean is half of it.
    #[must_use]
    pub fn longest_wait(&self) -> Duration {
        let waits = (0..self.attempts.saturating_sub(1)).map(|retry| {
            let factor = 1_u32.checked_shl(retry).unwrap_or(u32::MAX);
            self.base.saturating_mul(factor).min(self.cap)
        });
        waits.fold(Duration::ZERO, Duration::saturating_add)
    }
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            attempts: 5,
            base: Duration::from_millis(500),
            cap: Duration::from_secs(30),
        }
    }
}

/// When a target's breaker opens, and for how long at first.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct BreakerSettings {
    /// The time that the failure rate is taken over.
    pub window: Duration,
    /// The share of failures that opens it, above 0 and up to 1.
    pub failure_rate: f64,
    /// The time to the first probe.
    pub open: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            window: Duration::from_secs(30),
            failure_rate: 0.5,
            open: Duration::from_secs(1),
        }
    }
}

/// What a route says about its targets: each has one breaker and one retry budget, whichever
/// route a call came by.
#[derive(Default)]
struct Wishes {
    window: Option<Spanned<Duration>>,
    failure_rate: Option<Spanned<f64>>,
    open: Option<Spanned<Duration>>,
    budget: Option<Spanned<f64>>,
}

pub(super) fn read_all(
    top: &Section<'_>,
    targets: &mut BTreeMap<String, Target>,
    flags: &Overrides,
) -> BTreeMap<String, Route> {
    let mut sections = top.named_sections("routes");
    if !sections.iter().any(|(name, _)| name == DEFAULT_ROUTE) {
        sections.push((DEFAULT_ROUTE.to_owned(), Section::top(top.doc(), None)));
    }
    let mut routes: BTreeMap<String, Route> = BTreeMap::new();
    let mut said: Said = BTreeMap::new();
    for (name, section) in sections {
        let (route, wishes) = read(&section, name, targets);
        for rung in &route.ladder {
            if let Rung::Target(target) = rung
                && let Some(settings) = targets.get_mut(target)
            {
                grant(
                    &section,
                    &mut said,
                    (&route.name, target),
                    &wishes,
                    settings,
                );
            }
        }
        for pattern in &route.models {
            if let Some(other) = routes.values().find(|other| other.models.contains(pattern)) {
                let what = format!(
                    "the routes `{}` and `{}` both take the model \"{pattern}\": leave it to one",
                    other.name, route.name
                );
                section.doc().refuse(section.span(), what);
            }
        }
        section.close();
        routes.insert(route.name.clone(), route);
    }
    if let Some(default) = routes.get_mut(DEFAULT_ROUTE) {
        add_fallbacks(top, default, targets, &flags.fallback);
    }
    for name in targets.keys() {
        let rung = Rung::Target(name.clone());
        if !routes.values().any(|route| route.ladder.contains(&rung)) {
            let what = format!("target `{name}` is in no ladder: no call will ever go there");
            top.doc().warn(None, what);
        }
    }
    routes
}

fn read(
    section: &Section<'_>,
    name: String,
    targets: &BTreeMap<String, Target>,
) -> (Route, Wishes) {
    check_name(section, "route", &name);
    let profile = section
        .parsed("profile", str::parse::<Profile>)
        .map_or_else(Profile::default, Spanned::into_inner);
    let timeouts = read_timeouts(section, profile);
    let (retry, budget) = read_retry(section, timeouts.total);
    let breaker = section.section("breaker");
    let wishes = Wishes {
        window: breaker.duration(
            "window",
            Duration::from_secs(1)..=Duration::from_secs(3_600),
        ),
        failure_rate: breaker.number("failure_rate", 0.01..=1.0),
        open: breaker.duration("open", MILLISECOND..=Duration::from_secs(300)),
        budget,
    };
    breaker.close();
    let static_text = read_static(section);
    let route = Route {
        models: read_models(section, &name),
        ladder: read_ladder(section, &name, targets, static_text.is_some()),
        profile,
        delivery: read_delivery(section),
        on_disconnect: section
            .parsed("on_disconnect", str::parse::<OnDisconnect>)
            .map_or_else(OnDisconnect::default, Spanned::into_inner),
        timeouts,
        wait: profile.wait_limit(timeouts.total),
        priority: profile.priority(),
        retry,
        static_text,
        name,
    };
    (route, wishes)
}

fn read_models(section: &Section<'_>, route: &str) -> Vec<ModelPattern> {
    let items = section.strings("models").unwrap_or_default();
    if let (DEFAULT_ROUTE, Some(first)) = (route, items.first()) {
        section.doc().refuse(&first.span(), "the default route takes every model that no other route takes: leave `models` out, or give the route another name");
    }
    let read = |item: Spanned<String>| match ModelPattern::read(item.get_ref()) {
        Ok(pattern) => Some(pattern),
        Err(why) => {
            section
                .doc()
                .refuse(&item.span(), format!("`{}`: {why}", section.name("models")));
            None
        }
    };
    items.into_iter().filter_map(read).collect()
}

fn read_ladder(
    section: &Section<'_>,
    route: &str,
    targets: &BTreeMap<String, Target>,
    has_text: bool,
) -> Vec<Rung> {
    let doc = section.doc();
    let Some(items) = section.strings("ladder") else {
        return default_ladder(section, route, targets, has_text);
    };
    let mut ladder: Vec<Rung> = Vec::new();
    for item in &items {
        let rung = match item.get_ref().as_str() {
            "static" => Rung::Static,
            "cache" if !targets.contains_key("cache") => {
                doc.refuse(&item.span(), format!("route `{route}`: the rung \"cache\" is not in this version; supported are target names and \"static\""));
                continue;
            }
            name if targets.contains_key(name) => Rung::Target(name.to_owned()),
            name => {
                let known = targets.keys().map(String::as_str).chain(["static"]);
                let advice = match nearest(name, known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!(
                        "define [targets.{name}], or write one of: {}",
                        names(targets)
                    ),
                };
                doc.refuse(
                    &item.span(),
                    format!("route `{route}`: no target `{name}`; {advice}"),
                );
                continue;
            }
        };
        if ladder.contains(&Rung::Static) {
            doc.warn(Some(&item.span()), format!("route `{route}`: the rung `{rung}` is dead: \"static\" before it always answers"));
        } else if ladder.contains(&rung) {
            doc.warn(
                Some(&item.span()),
                format!("route `{route}`: the rung `{rung}` is dead: it was tried further up"),
            );
        }
        if rung == Rung::Static && !has_text && !section.has("static") {
            doc.refuse(&item.span(), format!("route `{route}`: the rung \"static\" has nothing to say; add static = {{ text = \"…\" }}"));
        }
        ladder.push(rung);
    }
    if items.is_empty() {
        doc.refuse(
            section.span(),
            format!(
                "route `{route}`: its ladder is empty; write at least one of: {}",
                names(targets)
            ),
        );
    }
    if ladder.len() > MOST_RUNGS {
        doc.refuse(
            section.span(),
            format!(
                "route `{route}`: its ladder has {} rungs; write at most {MOST_RUNGS}",
                ladder.len()
            ),
        );
    }
    if section.has("static") && !items.iter().any(|item| item.get_ref() == "static") {
        doc.refuse(section.span(), format!("route `{route}`: its static answer is never given; add \"static\" at the end of the ladder"));
    }
    ladder
}

/// The ladder of a route that names none: the only target, then the static answer if there is one.
fn default_ladder(
    section: &Section<'_>,
    route: &str,
    targets: &BTreeMap<String, Target>,
    has_text: bool,
) -> Vec<Rung> {
    let mut names_left = targets.keys();
    let mut ladder: Vec<Rung> = names_left
        .next()
        .cloned()
        .map(Rung::Target)
        .into_iter()
        .collect();
    if names_left.next().is_some() {
        let what = format!(
            "[routes.{route}] needs a ladder: say in which order the targets are tried ({})",
            names(targets)
        );
        if section.is_present() {
            section.doc().refuse(section.span(), what);
        } else {
            section.doc().refuse_all(format!(
                "{what}; add [routes.{route}] with ladder = [\"…\", \"…\"]"
            ));
        }
    }
    if has_text {
        ladder.push(Rung::Static);
    }
    ladder
}

fn read_static(section: &Section<'_>) -> Option<String> {
    let answer = section.section("static");
    let text = answer.parsed("text", |text| {
        if text.trim().is_empty() {
            Err("an empty answer helps nobody: write what the reader should know")
        } else {
            Ok(text.to_owned())
        }
    });
    if answer.is_present() && !answer.has("text") {
        section.doc().refuse(
            answer.span(),
            format!(
                "`{}` needs its text: {{ text = \"…\" }}",
                section.name("static")
            ),
        );
    }
    answer.close();
    text.map(Spanned::into_inner)
}

fn read_delivery(route: &Section<'_>) -> Option<Delivery> {
    let delivery = route.parsed("delivery", str::parse::<Delivery>);
    let section = route.section("hold");
    let (tokens, time) = (
        section.integer("tokens", 1..=1_000_000),
        section.duration("time", MILLISECOND..=Duration::from_secs(600)),
    );
    if section.is_present()
        && !matches!(
            delivery.as_ref().map(Spanned::get_ref),
            Some(Delivery::Hold(_))
        )
    {
        section.doc().refuse(
            section.span(),
            format!(
                "`{}` counts only with delivery = \"hold\": write that, or leave it out",
                route.name("hold")
            ),
        );
    }
    section.close();
    let delivery = delivery?.into_inner();
    let Delivery::Hold(default) = delivery else {
        return Some(delivery);
    };
    // Where one of the two is given, it alone counts.
    let hold = match (
        tokens.map(Spanned::into_inner),
        time.map(Spanned::into_inner),
    ) {
        (None, None) => default,
        (Some(tokens), Some(time)) => Hold::new(tokens, time),
        (Some(tokens), None) => Hold::new(tokens, DAY),
        (None, Some(time)) => Hold::new(u64::MAX, time),
    };
    Some(Delivery::Hold(hold))
}

fn read_timeouts(route: &Section<'_>, profile: Profile) -> Timeouts {
    let section = route.section("timeouts");
    let mut timeouts = profile.timeouts();
    // A day: always finite, and longer than any call of the API.
    if let Some(total) = section.duration("total", MILLISECOND..=DAY) {
        timeouts.total = total.into_inner();
        timeouts.generation = timeouts.total;
    }
    let total = timeouts.total;
    let limit = |key: &'static str, default: Duration| -> Duration {
        let Some(limit) = section.duration(key, MILLISECOND..=DAY) else {
            return default.min(total);
        };
        if *limit.get_ref() > total {
            let name = section.name(key);
            section.doc().refuse(&limit.span(), format!("`{name}` is {:?} and could never run out: the whole call ends after {total:?} (`total`); write less, or raise `total`", limit.get_ref()));
        }
        limit.into_inner().min(total)
    };
    timeouts.connect = limit("connect", timeouts.connect);
    timeouts.headers = limit("headers", timeouts.headers);
    timeouts.learn_first_content = section.says("first_content", "auto");
    if !timeouts.learn_first_content {
        timeouts.first_content = limit("first_content", timeouts.first_content);
    }
    timeouts.stall = limit("stall", timeouts.stall);
    let events = section.has("events");
    timeouts.events = limit("events", timeouts.events.max(timeouts.stall));
    if events && timeouts.events < timeouts.stall {
        section.doc().refuse(section.span(), format!("`{}` is {:?}, shorter than `stall`, which is {:?}: pings count for `stall` and not for `events`, so write a longer one", section.name("events"), timeouts.events, timeouts.stall));
    }
    section.close();
    timeouts
}

fn read_retry(route: &Section<'_>, total: Duration) -> (RetrySettings, Option<Spanned<f64>>) {
    const WAITS: RangeInclusive<Duration> = MILLISECOND..=DAY;
    let section = route.section("retry");
    let default = RetrySettings::default();
    let attempts = section
        .integer("attempts", 1..=100)
        .and_then(|attempts| u32::try_from(*attempts.get_ref()).ok())
        .unwrap_or(default.attempts);
    let (base, cap) = (
        section.duration("base", WAITS),
        section.duration("cap", WAITS),
    );
    let (base, cap) = match (base, cap) {
        (Some(base), Some(cap)) => {
            if base.get_ref() > cap.get_ref() {
                section.doc().refuse(&base.span(), format!("`{}` is {:?}, longer than `cap`, which is {:?}: write a shorter base or a longer cap", section.name("base"), base.get_ref(), cap.get_ref()));
            }
            (base.into_inner(), cap.into_inner())
        }
        (Some(base), None) => {
            if *base.get_ref() >= total {
                section.doc().warn(
                    Some(&base.span()),
                    format!(
                        "`{}` is as long as the whole call: retries will mostly find no time left",
                        section.name("base")
                    ),
                );
            }
            (*base.get_ref(), default.cap.max(base.into_inner()))
        }
        (None, Some(cap)) => (default.base.min(*cap.get_ref()), cap.into_inner()),
        (None, None) => (default.base, default.cap),
    };
    let budget = section.number("budget", 0.0..=1.0);
    section.close();
    (
        RetrySettings {
            attempts,
            base,
            cap,
        },
        budget,
    )
}

/// Which route said what about which target.
type Said = BTreeMap<(String, &'static str), String>;

fn grant(
    section: &Section<'_>,
    said: &mut Said,
    (route, target): (&str, &str),
    wishes: &Wishes,
    settings: &mut Target,
) {
    let mut one = Grant {
        section,
        said,
        route,
        target,
    };
    one.set(
        "breaker.window",
        wishes.window.as_ref(),
        &mut settings.breaker.window,
    );
    one.set(
        "breaker.failure_rate",
        wishes.failure_rate.as_ref(),
        &mut settings.breaker.failure_rate,
    );
    one.set(
        "breaker.open",
        wishes.open.as_ref(),
        &mut settings.breaker.open,
    );
    one.set(
        "retry.budget",
        wishes.budget.as_ref(),
        &mut settings.retry_budget,
    );
}

struct Grant<'g, 'd> {
    section: &'g Section<'d>,
    said: &'g mut Said,
    route: &'g str,
    target: &'g str,
}

impl Grant<'_, '_> {
    fn set<T: Copy + PartialEq + fmt::Debug>(
        &mut self,
        key: &'static str,
        wish: Option<&Spanned<T>>,
        slot: &mut T,
    ) {
        let Some(wish) = wish else { return };
        let entry = (self.target.to_owned(), key);
        match self.said.get(&entry) {
            Some(other) if *slot != *wish.get_ref() => {
                let what = format!(
                    "route `{}` sets {key} to {:?} for target `{}`, route `{other}` to {slot:?}: a target has one breaker and one retry budget for all its routes; write the same in both, or define a second target",
                    self.route,
                    wish.get_ref(),
                    self.target
                );
                self.section.doc().refuse(&wish.span(), what);
            }
            _ => {
                *slot = *wish.get_ref();
                self.said.insert(entry, self.route.to_owned());
            }
        }
    }
}

/// Adds a rung for each model of `--fallback`, before the static answer: the first target again,
/// with another model.
fn add_fallbacks(
    top: &Section<'_>,
    route: &mut Route,
    targets: &mut BTreeMap<String, Target>,
    models: &[String],
) {
    let first = route.ladder.iter().find_map(|rung| match rung {
        Rung::Target(name) => targets.get(name).cloned(),
        Rung::Static => None,
    });
    let Some(first) = first else { return };
    for model in models {
        if let Err(why) = label(model) {
            top.doc().refuse_all(format!("--fallback: {why}"));
            continue;
        }
        let clash = targets
            .get(model)
            .is_some_and(|other| other.model.as_ref() != Some(model));
        if clash || matches!(model.as_str(), "static" | "cache") {
            top.doc().refuse_all(format!("--fallback: `{model}` is taken by something that is no model of that name; write a model id"));
            continue;
        }
        let other = || Target {
            model: Some(model.clone()),
            ..first.clone()
        };
        targets.entry(model.clone()).or_insert_with(other);
        let end = route
            .ladder
            .iter()
            .position(|rung| *rung == Rung::Static)
            .unwrap_or(route.ladder.len());
        let rung = Rung::Target(model.clone());
        if !route.ladder.contains(&rung) {
            route.ladder.insert(end, rung);
        }
    }
}

fn names(targets: &BTreeMap<String, Target>) -> String {
    targets
        .keys()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}
