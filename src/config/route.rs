//! Routes: ladders of rungs with the time, the retries and the breaker that go with them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use seawall_actors::policy::stagger::Spacing;
use toml::Spanned;

use super::document::Section;
use super::features::read_features;
use super::target::{Target, check_name, label};
use super::{DEFAULT_ROUTE, Overrides};
use crate::capability::Features;
use crate::delivery::Delivery;
use crate::profile::{Priority, Profile, Timeouts};

mod cache;
mod clocks;
mod grant;
mod hedge;
mod ladder;
mod stagger;
mod template;
mod time;

pub use cache::CacheSettings;
pub use hedge::{HedgeOn, HedgeSettings};
pub use ladder::{Place, Rung};
pub use template::{InvalidTemplate, Template, Variables};

use cache::read_cache;
use clocks::{read_delivery, read_retry, read_timeouts, read_wait};
use grant::{Said, Wishes, grant};
use hedge::{check_hedge, read_hedge};
use ladder::{Surroundings, add_fallbacks, read_ladder};
use stagger::read_stagger;
use template::read_static;
use time::check_time;

const MILLISECOND: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_secs(86_400);

/// A ladder and how a call climbs down it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Route {
    /// Its name.
    pub name: String,
    /// The models it takes when a call names no route; empty for the default route.
    pub models: Vec<ModelPattern>,
    /// Where a call is tried, in this order; never empty. Targets in it exist and stand there once,
    /// with at most one cache before and one behind them, and the static answer at the end.
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
    /// How far apart runs begin, where those that come together take turns.
    pub stagger: Option<Spacing>,
    /// How urgent its calls are in a queue.
    pub priority: Priority,
    /// Its retries.
    pub retry: RetrySettings,
    /// What may get lost of a request where its rung doesn't say otherwise.
    pub lossy: Features,
    /// Whether identical calls that are under way at once share one attempt.
    pub single_flight: bool,
    /// Whether an open breaker of its targets is probed by a tiny request of its own instead of a
    /// caller's.
    pub probe: bool,
    /// Its second attempts beside slow ones; `None`: there are none.
    pub hedge: Option<HedgeSettings>,
    /// What its cache keeps; there exactly when the ladder has one.
    pub cache: Option<CacheSettings>,
    /// The answer of the static rung; there exactly when the ladder has one.
    pub static_text: Option<Template>,
}

impl Route {
    /// How a streamed answer reaches a caller that asks for nothing else.
    #[must_use]
    pub fn delivery(&self) -> Delivery {
        self.delivery.unwrap_or_else(|| self.profile.delivery())
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
        self.longest_wait_of(self.attempts)
    }

    /// Returns the sum of the longest waits between so many attempts.
    #[must_use]
    pub fn longest_wait_of(&self, attempts: u32) -> Duration {
        let waits = (0..attempts.saturating_sub(1)).map(|retry| {
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

pub(super) fn read_all(
    top: &Section<'_>,
    targets: &mut BTreeMap<String, Target>,
    flags: &Overrides,
    beside: Option<&Path>,
) -> BTreeMap<String, Route> {
    let mut sections = top.named_sections("routes");
    if !sections.iter().any(|(name, _)| name == DEFAULT_ROUTE) {
        sections.push((DEFAULT_ROUTE.to_owned(), Section::top(top.doc(), None)));
    }
    let mut routes: BTreeMap<String, Route> = BTreeMap::new();
    let mut said: Said = BTreeMap::new();
    for (name, section) in sections {
        let (route, wishes) = read(&section, name, targets, beside);
        for rung in &route.ladder {
            if let Some(target) = rung.place.target()
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
        let stands = |rung: &Rung| rung.place.target() == Some(name);
        if !routes.values().any(|route| route.ladder.iter().any(stands)) {
            let what = format!("no ladder leads to target `{name}`: no call will ever go there");
            top.doc().warn(None, what);
        }
    }
    routes
}

fn read(
    section: &Section<'_>,
    name: String,
    targets: &BTreeMap<String, Target>,
    beside: Option<&Path>,
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
    let static_text = read_static(section, beside);
    let lossy = read_features(section, "lossy").unwrap_or_default();
    let around = Surroundings {
        lossy,
        route: &name,
        targets,
        attempts: retry.attempts,
        has_text: static_text.is_some(),
    };
    let ladder = read_ladder(section, &around);
    let flag = |key| section.flag(key).is_some_and(Spanned::into_inner);
    let route = Route {
        models: read_models(section, &name),
        profile,
        delivery: read_delivery(section),
        on_disconnect: section
            .parsed("on_disconnect", str::parse::<OnDisconnect>)
            .map_or_else(OnDisconnect::default, Spanned::into_inner),
        timeouts,
        wait: read_wait(section, profile, timeouts.total),
        stagger: read_stagger(section),
        priority: profile.priority(),
        retry,
        lossy,
        single_flight: flag("single_flight"),
        probe: flag("probe"),
        hedge: read_hedge(section, &ladder, timeouts.total),
        cache: read_cache(section, &ladder),
        static_text,
        ladder,
        name,
    };
    check_time(section, &route);
    check_hedge(section, &route);
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
