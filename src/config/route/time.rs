//! Whether the time of a call is enough for its ladder.

use std::time::Duration;

use seawall_actors::policy::InvalidPolicy;
use seawall_actors::policy::ladder::{Cause, Ladder, QUIET_SHARE};

use super::{Route, Rung};
use crate::config::document::Section;
use crate::duration::Humane;

impl Route {
    /// The ladder as a call begins to walk it; refused where it has no rungs, or too many.
    ///
    /// # Errors
    ///
    /// [`InvalidPolicy`] as of [`Ladder::new`].
    pub fn walk(&self) -> Result<Ladder, InvalidPolicy> {
        let rules = self.ladder.iter().map(Rung::rules).collect();
        Ladder::new(rules, self.retry.attempts)
    }

    /// The time that a rung may use.
    #[must_use]
    pub fn time_of(&self, rung: &Rung) -> Duration {
        self.timeouts.total.mul_f64(rung.share.unwrap_or(1.0))
    }
}

/// Warns of a target that a call can't come to in time, and of time that no target may use.
pub(super) fn check_time(section: &Section<'_>, route: &Route) {
    let targets: Vec<(usize, &Rung)> = route
        .ladder
        .iter()
        .enumerate()
        .filter(|(_, rung)| rung.place.target().is_some())
        .collect();
    let warn = |what: String| {
        let span = section.span_of("ladder");
        section
            .doc()
            .warn(Some(&span), format!("route `{}`: {what}", route.name));
    };
    let total = route.timeouts.total;
    let silent = route.timeouts.longest_silence();
    let Ok(mut walk) = route.walk() else { return };
    let (mut used, mut sums) = (Duration::ZERO, Vec::new());
    for pair in targets.windows(2) {
        let [(index, above), (_, below)] = pair else {
            continue;
        };
        if !below.takes_over() {
            continue;
        }
        // What does not answer in time has too much to do.
        let leaves_early = below.on.contains(Cause::Overloaded);
        let most = walk.attempts_on(*index);
        let attempts = if leaves_early { most.min(1) } else { most };
        (0..attempts).for_each(|_| walk.count_attempt(*index));
        let waits = route.retry.longest_wait_of(attempts);
        let longest = silent.saturating_mul(attempts).saturating_add(waits);
        let most = match above.share {
            Some(_) => route.time_of(above),
            None => total.saturating_sub(used).mul_f64(QUIET_SHARE),
        };
        let may = most.min(longest);
        used = used.saturating_add(may);
        let cut = if may < longest {
            ", cut by its share to "
        } else {
            " = "
        };
        sums.push(format!(
            "{attempts} x {} + {} on `{above}`{cut}{}",
            Humane(silent),
            Humane(waits),
            Humane(may)
        ));
        if used >= total {
            warn(format!(
                "a call that gets no answer may end before it comes to `{below}`: {}, and its deadline is {}. Give `{above}` a part of the time, such as {{ rung = \"{above}\", share = 0.5 }}, let \"overloaded\" lead to `{below}`, or write fewer attempts or shorter timeouts",
                sums.join(", "),
                Humane(total),
            ));
            break;
        }
    }
    let shares: Option<f64> = targets.iter().map(|(_, rung)| rung.share).sum();
    if let Some(sum) = shares.filter(|sum| !targets.is_empty() && *sum < 0.99) {
        warn(format!(
            "its shares add up to {:.2}, so nobody may use the last {} of {}: raise one, or leave it out of the last target",
            sum,
            Humane(total.saturating_sub(total.mul_f64(sum))),
            Humane(total)
        ));
    }
}
