//! What routes say about targets that they share.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use toml::Spanned;

use crate::config::document::Section;
use crate::config::target::Target;

/// What a route says about its targets: each has one breaker and one retry budget, whichever
/// route a call came by.
#[derive(Default)]
pub(super) struct Wishes {
    pub(super) window: Option<Spanned<Duration>>,
    pub(super) failure_rate: Option<Spanned<f64>>,
    pub(super) open: Option<Spanned<Duration>>,
    pub(super) budget: Option<Spanned<f64>>,
}

/// Which route said what about which target.
pub(super) type Said = BTreeMap<(String, &'static str), String>;

pub(super) fn grant(
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
