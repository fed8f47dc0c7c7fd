//! Whether a slow attempt gets a second one beside it.

use std::str::FromStr;
use std::time::Duration;

use seawall_actors::policy::ladder::Cause;
use toml::Spanned;

use super::{DAY, MILLISECOND, Route, Rung};
use crate::config::document::Section;

/// Share of what calls cost that hedges may cost where a route doesn't say.
const BUDGET: f64 = 0.02;

/// When a second attempt is sent beside a slow first one, where, and how many of them.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct HedgeSettings {
    /// The share of what the route's calls cost that its hedges may cost, above 0 and up to 0.2.
    pub budget: f64,
    /// Where the second attempt goes.
    pub on: HedgeOn,
    /// How long the first attempt may be silent; `None`: for 95 in 100 of its target's own times to
    /// the first content.
    pub after: Option<Duration>,
}

/// Where a second attempt goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HedgeOn {
    /// To the same target.
    #[default]
    Same,
    /// To the next target of the ladder.
    Next,
}

impl HedgeOn {
    /// Returns the word of the config.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Next => "next",
        }
    }
}

impl FromStr for HedgeOn {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "same" => Ok(Self::Same),
            "next" => Ok(Self::Next),
            _ => Err("write \"same\" (the same target) or \"next\" (the ladder's next one)"),
        }
    }
}

pub(super) fn read_hedge(
    route: &Section<'_>,
    ladder: &[Rung],
    total: Duration,
) -> Option<HedgeSettings> {
    let section = route.section("hedge");
    let doc = section.doc();
    let on = section.parsed("on", str::parse::<HedgeOn>);
    let mut targets = ladder.iter().filter(|rung| rung.place.target().is_some());
    if let Some(next) = on.as_ref().filter(|on| *on.get_ref() == HedgeOn::Next) {
        let name = section.name("on");
        let is_there = targets.clone().count() > 1;
        if !is_there {
            let what = format!(
                "`{name}` is \"next\", and the ladder has no second target: add one, or write \"same\""
            );
            doc.refuse(&next.span(), what);
        } else if !targets.any(is_led_to_by_silence) {
            let what = format!(
                "`{name}` is \"next\", and no second attempt is ever made: a slow attempt's other goes where \"attempts_spent\" or \"overloaded\" leads, and neither leads to a target; add one of them to a target's `on`, or write \"same\""
            );
            doc.warn(Some(&next.span()), what);
        }
    }
    let after = section.duration("after", MILLISECOND..=DAY);
    if let Some(after) = after.as_ref().filter(|after| *after.get_ref() >= total) {
        let what = format!(
            "`{}` is {:?}, and the whole call ends after {total:?} (`total`): write less",
            section.name("after"),
            after.get_ref()
        );
        doc.refuse(&after.span(), what);
    }
    let hedge = HedgeSettings {
        budget: section
            .number("budget", 0.001..=0.2)
            .map_or(BUDGET, Spanned::into_inner),
        on: on.map_or_else(HedgeOn::default, Spanned::into_inner),
        after: after.map(Spanned::into_inner),
    };
    let present = section.is_present();
    section.close();
    present.then_some(hedge)
}

/// See `Ladder::next_after_silence`.
fn is_led_to_by_silence(rung: &Rung) -> bool {
    rung.on.contains(Cause::AttemptsSpent) || rung.on.contains(Cause::Overloaded)
}

/// Warns of second attempts for which a call has none to spare.
pub(super) fn check_hedge(section: &Section<'_>, route: &Route) {
    let (Some(hedge), Ok(mut walk)) = (route.hedge, route.walk()) else {
        return;
    };
    let is_target = |rung: &Rung| rung.place.target().is_some();
    let Some(first) = route.ladder.iter().position(is_target) else {
        return;
    };
    walk.stand_on(first);
    let beside = match hedge.on {
        HedgeOn::Same => Some(first),
        HedgeOn::Next => walk.next_after_silence(),
    };
    if beside.is_some_and(|rung| !walk.may_attempt_beside(rung)) {
        let what = format!(
            "route `{}`: its first target never gets a second attempt beside a slow one, which would be one of the attempts that a call has ({}): raise `retry.attempts` or those of the rung, or leave `hedge` out",
            route.name, route.retry.attempts
        );
        section.doc().warn(Some(&section.span_of("hedge")), what);
    }
}
