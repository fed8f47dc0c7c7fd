//! The ladder of a route: its rungs in their order.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use seawall_actors::policy::ladder::{Cause, Causes, Kind, MOST_RUNGS, Rules};
use toml::Spanned;

use super::Route;
use crate::capability::{Features, LEAST_ANSWER};
use crate::config::document::{Entry, Section, nearest};
use crate::config::features::read_features;
use crate::config::target::{Target, label};

mod reach;

use reach::{double, why_dead, why_unfit, why_unreachable};

/// One step of a ladder.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Rung {
    /// Where the call goes.
    pub place: Place,
    /// What leads to it from the rungs above. Nothing does to the first target, where every call
    /// begins, and to a cache before it, which is looked into first.
    pub on: Causes,
    /// Attempts that it may use of the route's, at least 1; `None`: no limit of its own.
    pub attempts: Option<u32>,
    /// The share of the call's deadline that it may use, above 0 and up to 1; `None`: all that is
    /// left.
    pub share: Option<f64>,
    /// What may get lost of a request that goes there.
    pub lossy: Features,
}

impl Rung {
    /// A rung that is led to by what usually leads to its place.
    fn new(place: Place) -> Self {
        let on = place.usually_on();
        Self {
            place,
            on,
            attempts: None,
            share: None,
            lossy: Features::NONE,
        }
    }

    /// What it is to a call, but for its credential and what depends on the request.
    pub(crate) fn rules(&self) -> Rules {
        let mut rules = Rules::TARGET;
        if self.place.target().is_none() {
            rules.kind = Kind::StandIn;
        }
        rules.led_to_by = self.on;
        rules.attempts = self.attempts;
        rules.share = self.share;
        rules
    }

    /// Whether it is a target for calls whose attempts above were in vain.
    pub(super) fn takes_over(&self) -> bool {
        self.place.target().is_some() && self.rules().takes_over()
    }

    /// The words of the config for what leads to it.
    pub fn causes(&self) -> impl Iterator<Item = &'static str> {
        self.on.iter().map(Cause::as_str)
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)
    }
}

/// Where a call goes on a rung.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Place {
    /// A target, by name.
    Target(String),
    /// An answer that was given to the same request before.
    Cache,
    /// The route's fixed answer, which always succeeds.
    Static,
}

impl Place {
    /// The target's name, where it is one.
    #[must_use]
    pub fn target(&self) -> Option<&str> {
        match self {
            Self::Target(name) => Some(name),
            Self::Cache | Self::Static => None,
        }
    }

    const fn usually_on(&self) -> Causes {
        match self {
            Self::Target(_) => Causes::TARGET,
            Self::Cache => Causes::STAND_IN,
            Self::Static => Causes::LAST,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Target(name) => name,
            Self::Cache => "cache",
            Self::Static => "static",
        })
    }
}

/// What a ladder is read with.
pub(super) struct Surroundings<'r> {
    pub(super) route: &'r str,
    pub(super) targets: &'r BTreeMap<String, Target>,
    /// Attempts that a call of the route has.
    pub(super) attempts: u32,
    /// What may get lost on rungs that don't say otherwise.
    pub(super) lossy: Features,
    /// Whether the static answer has a text.
    pub(super) has_text: bool,
}

/// Returns the rungs that a call can stand on. Those that it can't are warned of and left out, so
/// that there is at most one cache before the first target, one behind the last, and the static
/// answer at the end.
pub(super) fn read_ladder(section: &Section<'_>, around: &Surroundings<'_>) -> Vec<Rung> {
    let doc = section.doc();
    let Some(entries) = section.entries("ladder") else {
        return default_ladder(section, around);
    };
    let route = around.route;
    if entries.is_empty() {
        let what = format!(
            "route `{route}`: its ladder is empty; write at least one of: {}",
            names(around.targets)
        );
        doc.refuse(section.span(), what);
    }
    if entries.len() > MOST_RUNGS {
        let what = format!(
            "route `{route}`: its ladder has {} rungs; write at most {MOST_RUNGS}",
            entries.len()
        );
        doc.refuse(section.span(), what);
    }
    let read = |entry| read_rung(section, around, entry);
    let written: Vec<Written> = entries.into_iter().filter_map(read).collect();
    let is = |place: &Place| written.iter().any(|rung| rung.place == *place);
    if section.has("static") && !is(&Place::Static) {
        doc.refuse(section.span(), format!("route `{route}`: its static answer is never given; add \"static\" at the end of the ladder"));
    }
    if is(&Place::Cache) && !written.iter().any(|rung| rung.place.target().is_some()) {
        let what = format!(
            "route `{route}`: nothing ever fills its cache; add a target to the ladder: {}",
            names(around.targets)
        );
        doc.refuse(section.span(), what);
    }
    let mut ladder: Vec<Rung> = Vec::new();
    for (index, rung) in written.iter().enumerate() {
        let below = written.get(index + 1..).unwrap_or_default();
        if let Some(why) = why_dead(&rung.place, &ladder, below) {
            let what = format!("route `{route}`: the rung `{}` is dead: {why}", rung.place);
            doc.warn(Some(&rung.span), what);
        } else {
            let rung = rung.finish(section, around, &ladder);
            ladder.push(rung);
        }
    }
    ladder
}

/// A rung as it is written.
struct Written {
    place: Place,
    span: Range<usize>,
    on: Option<(Causes, Range<usize>)>,
    attempts: Option<Spanned<u32>>,
    share: Option<f64>,
    lossy: Option<Features>,
}

impl Written {
    /// The rung below the others.
    fn finish(&self, section: &Section<'_>, around: &Surroundings<'_>, above: &[Rung]) -> Rung {
        let (doc, route) = (section.doc(), around.route);
        let begins = !above.iter().any(|rung| rung.place.target().is_some());
        let on = match &self.on {
            Some((_, span)) if begins => {
                doc.refuse(span, format!("route `{route}`: nothing leads to `{}`, since calls begin there: leave `on` out", self.place));
                Causes::NONE
            }
            Some((on, span)) => {
                if let Some(why) = why_unreachable(*on, &self.place, above, around.targets) {
                    doc.warn(
                        Some(span),
                        format!(
                            "route `{route}`: the rung `{}` is unreachable: {why}",
                            self.place
                        ),
                    );
                }
                *on
            }
            None if begins => Causes::NONE,
            None => self.place.usually_on(),
        };
        let lossy = self.lossy.unwrap_or(around.lossy);
        if let Some(target) = self
            .place
            .target()
            .and_then(|name| around.targets.get(name))
        {
            let warn = |what: String| {
                let what = format!("route `{route}`: the rung `{}` {what}", self.place);
                doc.warn(Some(&self.span), what);
            };
            if let Some(misfit) = why_unfit(target, lossy) {
                warn(format!(
                    "is unreachable for a request that asks for {LEAST_ANSWER} tokens of answer, as nearly all do: {misfit}"
                ));
            }
            if let Some(other) = double(target, above, around.targets) {
                warn(format!(
                    "asks the same model at the same address with the same credential as `{other}` above, and so fails with it: give it another `model`, `base_url` or key, or leave it out"
                ));
            }
        }
        if let Some(attempts) = &self.attempts
            && *attempts.get_ref() > around.attempts
        {
            let what = format!(
                "route `{route}`: `{}` is given {} attempts, and a call has {} in all (`retry.attempts`): write less, or raise that",
                self.place,
                attempts.get_ref(),
                around.attempts
            );
            doc.refuse(&attempts.span(), what);
        }
        Rung {
            on,
            attempts: self.attempts.as_ref().map(|attempts| *attempts.get_ref()),
            share: self.share,
            lossy,
            place: self.place.clone(),
        }
    }
}

fn read_rung(
    section: &Section<'_>,
    around: &Surroundings<'_>,
    entry: Entry<'_>,
) -> Option<Written> {
    let bare = |place, span| Written {
        place,
        span,
        on: None,
        attempts: None,
        share: None,
        lossy: None,
    };
    let table = match entry {
        Entry::Text(name) => {
            let place = read_place(section, around, &name)?;
            return Some(bare(place, name.span()));
        }
        Entry::Table(table) => table,
    };
    let name = table.string("rung");
    let on = read_causes(&table);
    let attempts = table.integer("attempts", 1..=100).and_then(|attempts| {
        let few = u32::try_from(*attempts.get_ref()).ok()?;
        Some(Spanned::new(attempts.span(), few))
    });
    let share = table.number("share", 0.05..=1.0).map(Spanned::into_inner);
    let lossy = read_features(&table, "lossy");
    let place = match &name {
        Some(name) => read_place(section, around, name),
        None => None,
    };
    let refuse = |what: &str| {
        let what = format!("`{}`: {what}", section.name("ladder"));
        section.doc().refuse(table.span(), what);
    };
    if !table.has("rung") {
        refuse("an entry needs its rung: { rung = \"…\" }");
    }
    if matches!(place, Some(Place::Cache | Place::Static)) {
        for key in ["attempts", "share", "lossy"]
            .into_iter()
            .filter(|key| table.has(key))
        {
            refuse(&format!(
                "only a target has {key}: leave it out of this rung"
            ));
        }
    }
    let span = table.span().clone();
    table.close();
    Some(Written {
        on,
        attempts,
        share,
        lossy,
        ..bare(place?, span)
    })
}

fn read_place(
    section: &Section<'_>,
    around: &Surroundings<'_>,
    name: &Spanned<String>,
) -> Option<Place> {
    let (doc, route, targets) = (section.doc(), around.route, around.targets);
    match name.get_ref().as_str() {
        "static" => {
            if !around.has_text && !section.has("static") {
                doc.refuse(&name.span(), format!("route `{route}`: the rung \"static\" has nothing to say; add static = {{ text = \"…\" }}"));
            }
            Some(Place::Static)
        }
        "cache" => Some(Place::Cache),
        target if targets.contains_key(target) => Some(Place::Target(target.to_owned())),
        unknown => {
            let known = targets.keys().map(String::as_str);
            let advice = match nearest(unknown, known.chain(["static", "cache"])) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!(
                    "define [targets.{unknown}], or write one of: {}",
                    names(targets)
                ),
            };
            let what = format!("route `{route}`: no target `{unknown}`; {advice}");
            doc.refuse(&name.span(), what);
            None
        }
    }
}

/// Returns what leads to a rung, as it says, and where it says so.
fn read_causes(rung: &Section<'_>) -> Option<(Causes, Range<usize>)> {
    let words = rung.strings("on")?;
    let (Some(first), Some(last)) = (words.first(), words.last()) else {
        let what = format!(
            "`{}` is empty, so nothing would lead there: leave it out for the usual causes, or take the rung out of the ladder",
            rung.name("on")
        );
        rung.doc().refuse(rung.span(), what);
        return None;
    };
    let span = first.span().start..last.span().end;
    let causes = words.iter().filter_map(|word| read_cause(rung, word));
    Some((causes.collect(), span))
}

fn read_cause(rung: &Section<'_>, written: &Spanned<String>) -> Option<Cause> {
    let found = Cause::ALL
        .into_iter()
        .find(|cause| cause.as_str() == written.get_ref());
    if found.is_none() {
        let known = || Cause::ALL.into_iter().map(Cause::as_str);
        let advice = match nearest(written.get_ref(), known()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("known: {}", known().collect::<Vec<_>>().join(", ")),
        };
        let what = format!(
            "`{}`: no such cause `{}`; {advice}",
            rung.name("on"),
            written.get_ref()
        );
        rung.doc().refuse(&written.span(), what);
    }
    found
}

/// The ladder of a route that names none: the only target, then the static answer if there is one.
fn default_ladder(section: &Section<'_>, around: &Surroundings<'_>) -> Vec<Rung> {
    let (route, targets) = (around.route, around.targets);
    let mut names_left = targets.keys();
    let first = names_left.next().map(|name| Rung {
        on: Causes::NONE,
        lossy: around.lossy,
        ..Rung::new(Place::Target(name.clone()))
    });
    // One that can't be read has been refused.
    if names_left.next().is_some() && !section.has("ladder") {
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
    let last = around.has_text.then(|| Rung::new(Place::Static));
    first.into_iter().chain(last).collect()
}

/// Adds a rung for each model of `--fallback`, behind the targets: the first target again, with
/// another model.
pub(super) fn add_fallbacks(
    top: &Section<'_>,
    route: &mut Route,
    targets: &mut BTreeMap<String, Target>,
    models: &[String],
) {
    let first = route.ladder.iter().find_map(|rung| rung.place.target());
    let Some(first) = first.and_then(|name| targets.get(name).cloned()) else {
        return;
    };
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
        let place = Place::Target(model.clone());
        if route.ladder.iter().any(|rung| rung.place == place) {
            top.doc().warn(
                None,
                format!(
                    "--fallback: `{model}` stands in the ladder already, so the flag adds nothing"
                ),
            );
            continue;
        }
        let wanted = targets.get(model).cloned().unwrap_or_else(other);
        if let Some(known) = double(&wanted, &route.ladder, targets) {
            let what = format!(
                "--fallback: `{known}` asks for {model} already, so the flag adds nothing: write another model"
            );
            top.doc().warn(None, what);
            continue;
        }
        targets.entry(model.clone()).or_insert(wanted);
        let last = route
            .ladder
            .iter()
            .rposition(|rung| rung.place.target().is_some());
        let end = last.map_or(route.ladder.len(), |last| last + 1);
        let rung = Rung {
            lossy: route.lossy,
            ..Rung::new(place)
        };
        route.ladder.insert(end, rung);
    }
}

fn names(targets: &BTreeMap<String, Target>) -> String {
    targets
        .keys()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ")
}
