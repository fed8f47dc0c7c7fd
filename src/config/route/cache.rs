//! How long a route's cached answers are of use, and to whom.

use std::time::Duration;

use toml::Spanned;

use super::{Place, Rung};
use crate::config::document::Section;

const LONGEST: Duration = Duration::from_hours(30 * 24);

/// Which answers a route keeps, and how long each is of use.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct CacheSettings {
    /// How long an answer is as good as a new one.
    pub ttl: Duration,
    /// How long an answer is better than none, when no target could give another; at least `ttl`.
    pub stale_if_error: Duration,
    /// Answers of requests with a higher temperature are not kept: who asks so wants another one
    /// each time.
    pub max_temperature: f64,
    /// Whether one tenant's answers are given to others.
    pub shared: bool,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            ttl: Duration::from_mins(10),
            stale_if_error: Duration::from_hours(24),
            // The API's own default, and its highest.
            max_temperature: 1.0,
            shared: false,
        }
    }
}

/// Returns the settings of a ladder that has a cache.
pub(super) fn read_cache(route: &Section<'_>, ladder: &[Rung]) -> Option<CacheSettings> {
    let section = route.section("cache");
    let doc = section.doc();
    let default = CacheSettings::default();
    let least = Duration::from_secs(1);
    let (ttl, stale) = (
        section.duration("ttl", least..=LONGEST),
        section.duration("stale_if_error", least..=LONGEST),
    );
    if let (Some(ttl), Some(stale)) = (&ttl, &stale)
        && ttl.get_ref() > stale.get_ref()
    {
        let what = format!(
            "`{}` is {:?}, longer than `stale_if_error`, which is {:?}: an answer is first fresh and then stale, so write a shorter `ttl` or a longer `stale_if_error`",
            section.name("ttl"),
            ttl.get_ref(),
            stale.get_ref()
        );
        doc.refuse(&ttl.span(), what);
    }
    // The one that is not written gives way.
    let stale = stale.map(Spanned::into_inner);
    let ttl = ttl.map_or_else(
        || default.ttl.min(stale.unwrap_or(default.ttl)),
        Spanned::into_inner,
    );
    let settings = CacheSettings {
        ttl,
        stale_if_error: stale.unwrap_or_else(|| default.stale_if_error.max(ttl)),
        max_temperature: section
            .number("max_temperature", 0.0..=2.0)
            .map_or(default.max_temperature, Spanned::into_inner),
        shared: section.flag("shared").is_some_and(Spanned::into_inner),
    };
    let has_rung = ladder.iter().any(|rung| rung.place == Place::Cache);
    if section.is_present() && !has_rung {
        let what = format!(
            "`{}` does nothing: the ladder has no \"cache\"; add it before the first target, behind the last, or both",
            route.name("cache")
        );
        doc.refuse(section.span(), what);
    }
    section.close();
    has_rung.then_some(settings)
}
