//! The ladder of a route: its rungs in their order.

use std::collections::BTreeMap;

use super::{Route, Rung};
use crate::config::document::{Section, nearest};
use crate::config::target::{Target, label};

/// As many as a call can be told to try.
const MOST_RUNGS: usize = 16;

pub(super) fn read_ladder(
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

/// Adds a rung for each model of `--fallback`, before the static answer: the first target again,
/// with another model.
pub(super) fn add_fallbacks(
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
