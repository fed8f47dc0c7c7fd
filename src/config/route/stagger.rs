//! How far apart the runs on a route begin.

use std::time::Duration;

use toml::Spanned;

use super::{DAY, MILLISECOND};
use crate::config::document::Section;

/// `stagger = { runs = 100, over = "60s" }` or `{ per_second = 5 }`, as the time from one beginning to
/// the next.
pub(super) fn read_stagger(route: &Section<'_>) -> Option<Duration> {
    let section = route.section("stagger");
    let rate = section
        .number("per_second", 0.0001..=1e6)
        .map(Spanned::into_inner);
    let runs = section.integer("runs", 1..=1_000_000);
    let over = section
        .duration("over", MILLISECOND..=DAY)
        .map(Spanned::into_inner);
    let refuse = |what: &str| {
        let name = route.name("stagger");
        let example = "{ runs = 100, over = \"60s\" } or { per_second = 5 }";
        let what = format!("`{name}` {what}: write {example}");
        section.doc().refuse(section.span(), what);
    };
    let (has_rate, has_runs) = (section.has("per_second"), section.has("runs"));
    if has_rate && (has_runs || section.has("over")) {
        refuse("says the rate twice");
    } else if section.is_present() && !has_rate && !(has_runs && section.has("over")) {
        refuse("needs a rate, since nobody knows how many runs will come");
    }
    section.close();
    let runs = runs.and_then(|runs| u32::try_from(*runs.get_ref()).ok());
    match (rate, runs, over) {
        (Some(rate), ..) => Some(Duration::from_secs_f64(1.0 / rate)),
        (None, Some(runs), Some(over)) => Some(over / runs),
        _ => None,
    }
}
