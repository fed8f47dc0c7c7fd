//! Rungs that no call would ever stand on.

use std::collections::BTreeMap;

use seawall_actors::policy::ladder::{Cause, Causes};

use super::{Place, Rung, Written};
use crate::capability::{Capabilities, Features, LEAST_ANSWER, Misfit, Needs, fit};
use crate::config::target::Target;

/// Why no call would ever stand on a rung, whatever happens.
pub(super) fn why_dead(place: &Place, above: &[Rung], below: &[Written]) -> Option<&'static str> {
    let stands = |wanted: &Place| above.iter().any(|rung| rung.place == *wanted);
    let targets_above = above.iter().any(|rung| rung.place.target().is_some());
    let targets_below = below
        .iter()
        .any(|rung| rung.place.target().is_some() && !stands(&rung.place));
    if let Some(rung) = above.iter().find(|rung| rung.place == Place::Static) {
        return Some(if rung.on == Place::Static.usually_on() {
            "\"static\" before it always answers"
        } else {
            "nothing stands behind \"static\"; move that to the end, where its `on` holds as well"
        });
    }
    match place {
        Place::Target(_) => stands(place).then_some("it was tried further up"),
        Place::Static => None,
        Place::Cache if !targets_above => stands(place).then_some("it was looked into further up"),
        Place::Cache if targets_below => Some(
            "a cache is looked into before the first target, for an answer that is still fresh, or behind the last, for any; move it there",
        ),
        Place::Cache => matches!(above.last(), Some(rung) if rung.place == Place::Cache)
            .then_some("it was looked into further up"),
    }
}

/// Why none of the causes that lead to a rung can arise on those above.
pub(super) fn why_unreachable(
    on: Causes,
    place: &Place,
    above: &[Rung],
    targets: &BTreeMap<String, Target>,
) -> Option<String> {
    let here = place.target().and_then(|name| targets.get(name))?;
    let above: Vec<&Target> = above
        .iter()
        .filter_map(|rung| targets.get(rung.place.target()?))
        .collect();
    let why = |cause| match cause {
        Cause::Credential => above
            .iter()
            .all(|other| here.shares_credential_with(other))
            .then_some("it has the same credential as every rung above"),
        Cause::TooLarge => has_no_more_room(here, &above),
        Cause::LastResort => Some("only a cache or a fixed answer is one"),
        _ => None,
    };
    let mut all = Vec::new();
    for cause in on.iter() {
        all.push(format!("`{cause}`: {}", why(cause)?));
    }
    (!all.is_empty()).then(|| all.join("; "))
}

/// Why a target takes none of the requests that clients usually send: even a line of text asks for an
/// answer of some length.
pub(super) fn why_unfit(target: &Target, lossy: Features) -> Option<Misfit> {
    let usual = Needs {
        max_tokens: Some(LEAST_ANSWER),
        ..Needs::default()
    };
    fit(&usual, 1, &target.capabilities(), lossy).err()
}

/// The rung above that asks the same model at the same address with the same credential, for requests
/// of the same length.
pub(super) fn double<'l>(
    here: &Target,
    above: &'l [Rung],
    targets: &BTreeMap<String, Target>,
) -> Option<&'l Rung> {
    above.iter().find(|rung| {
        let other = rung.place.target().and_then(|name| targets.get(name));
        other.is_some_and(|other| {
            (&other.base_url, &other.model, other.provider)
                == (&here.base_url, &here.model, here.provider)
                && other.context_tokens == here.context_tokens
                && other.shares_credential_with(here)
        })
    })
}

/// The tokens that fit into a target's context.
#[derive(PartialEq, Eq)]
enum Room {
    Known(u64),
    /// Its model is in no catalogue.
    Unknown,
    /// As much as the caller's model has.
    Callers,
}

impl Room {
    fn of(target: &Target) -> Self {
        let model = target.model.as_deref();
        // Versions of the API don't change how much a model takes.
        let known = || Capabilities::of(model, "").context_tokens;
        match (target.context_tokens.or_else(known), model) {
            (Some(tokens), _) => Self::Known(tokens),
            (None, Some(_)) => Self::Unknown,
            (None, None) => Self::Callers,
        }
    }
}

fn has_no_more_room(here: &Target, above: &[&Target]) -> Option<&'static str> {
    let mut above = above.iter().map(|target| Room::of(target));
    let no_more = match Room::of(here) {
        Room::Unknown => {
            return Some("nobody knows how large its context is: write `context_tokens`");
        }
        Room::Callers => above.all(|other| other == Room::Callers),
        Room::Known(tokens) => {
            above.all(|other| matches!(other, Room::Known(other) if other >= tokens))
        }
    };
    no_more.then_some("every rung above takes as large a request")
}
