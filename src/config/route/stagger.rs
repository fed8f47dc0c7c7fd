//! How far apart the runs on a route begin.

use std::time::Duration;

use seawall_actors::policy::stagger::Spacing;
use toml::Spanned;

use super::{DAY, MILLISECOND};
use crate::config::document::Section;

/// `stagger = "60s"`, over which those that come together are spread, however many they are; or a rate,
/// `{ runs = 100, over = "60s" }` or `{ per_second = 5 }`.
pub(super) fn read_stagger(route: &Section<'_>) -> Option<Spacing> {
    if route.is_text("stagger") {
        let over = route.duration("stagger", MILLISECOND..=DAY)?;
        return Some(Spacing::Over(over.into_inner()));
    }
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
        let example = "\"60s\", { runs = 100, over = \"60s\" } or { per_second = 5 }";
        let what = format!("`{name}` {what}: write {example}");
        section.doc().refuse(section.span(), what);
    };
    let (has_rate, has_runs) = (section.has("per_second"), section.has("runs"));
    if has_rate && (has_runs || section.has("over")) {
        refuse("says the rate twice");
    } else if section.is_present() && !has_rate && !(has_runs && section.has("over")) {
        refuse("needs a rate");
    }
    section.close();
    let runs = runs.and_then(|runs| u32::try_from(*runs.get_ref()).ok());
    let interval = match (rate, runs, over) {
        (Some(rate), ..) => Duration::from_secs_f64(1.0 / rate),
        (None, Some(runs), Some(over)) => over / runs,
        _ => return None,
    };
    Some(Spacing::Every(interval))
}
