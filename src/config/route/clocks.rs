//! The time limits, the retries and the delivery of a route.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;

use super::{DAY, MILLISECOND, RetrySettings};
use crate::config::document::Section;
use crate::delivery::{Delivery, Hold};
use crate::profile::{Profile, Timeouts};

pub(super) fn read_delivery(route: &Section<'_>) -> Option<Delivery> {
    let delivery = route.parsed("delivery", str::parse::<Delivery>);
    let section = route.section("hold");
    let (tokens, time) = (
        section.integer("tokens", 1..=1_000_000),
        section.duration("time", MILLISECOND..=Duration::from_secs(600)),
    );
    if section.is_present()
        && !matches!(
            delivery.as_ref().map(Spanned::get_ref),
            Some(Delivery::Hold(_))
        )
    {
        section.doc().refuse(
            section.span(),
            format!(
                "`{}` counts only with delivery = \"hold\": write that, or leave it out",
                route.name("hold")
            ),
        );
    }
    section.close();
    let delivery = delivery?.into_inner();
    let Delivery::Hold(default) = delivery else {
        return Some(delivery);
    };
    // Where one of the two is given, it alone counts.
    let hold = match (
        tokens.map(Spanned::into_inner),
        time.map(Spanned::into_inner),
    ) {
        (None, None) => default,
        (Some(tokens), Some(time)) => Hold::new(tokens, time),
        (Some(tokens), None) => Hold::new(tokens, DAY),
        (None, Some(time)) => Hold::new(u64::MAX, time),
    };
    Some(Delivery::Hold(hold))
}

pub(super) fn read_timeouts(route: &Section<'_>, profile: Profile) -> Timeouts {
    let section = route.section("timeouts");
    let mut timeouts = profile.timeouts();
    // A day: always finite, and longer than any call of the API.
    if let Some(total) = section.duration("total", MILLISECOND..=DAY) {
        timeouts.total = total.into_inner();
        timeouts.generation = timeouts.total;
    }
    let total = timeouts.total;
    let limit = |key: &'static str, default: Duration| -> Duration {
        let Some(limit) = section.duration(key, MILLISECOND..=DAY) else {
            return default.min(total);
        };
        if *limit.get_ref() > total {
            let name = section.name(key);
            section.doc().refuse(&limit.span(), format!("`{name}` is {:?} and could never run out: the whole call ends after {total:?} (`total`); write less, or raise `total`", limit.get_ref()));
        }
        limit.into_inner().min(total)
    };
    timeouts.connect = limit("connect", timeouts.connect);
    timeouts.headers = limit("headers", timeouts.headers);
    timeouts.learn_first_content = section.says("first_content", "auto");
    if !timeouts.learn_first_content {
        timeouts.first_content = limit("first_content", timeouts.first_content);
    }
    timeouts.stall = limit("stall", timeouts.stall);
    let events = section.has("events");
    timeouts.events = limit("events", timeouts.events.max(timeouts.stall));
    if events && timeouts.events < timeouts.stall {
        section.doc().refuse(section.span(), format!("`{}` is {:?}, shorter than `stall`, which is {:?}: pings count for `stall` and not for `events`, so write a longer one", section.name("events"), timeouts.events, timeouts.stall));
    }
    section.close();
    timeouts
}

/// The longest wait for a breaker or a quota. What is written wins over the profile's own.
pub(super) fn read_wait(route: &Section<'_>, profile: Profile, total: Duration) -> Duration {
    let Some(wait) = route.duration("wait", Duration::ZERO..=DAY) else {
        return profile.wait_limit(total);
    };
    if *wait.get_ref() > total {
        let what = format!(
            "`{}` is {:?} and could never run out: the whole call ends after {total:?} (`total`); write less, or raise `total`",
            route.name("wait"),
            wait.get_ref()
        );
        route.doc().refuse(&wait.span(), what);
    }
    wait.into_inner()
}

pub(super) fn read_retry(
    route: &Section<'_>,
    total: Duration,
) -> (RetrySettings, Option<Spanned<f64>>) {
    const WAITS: RangeInclusive<Duration> = MILLISECOND..=DAY;
    let section = route.section("retry");
    let default = RetrySettings::default();
    let attempts = section
        .integer("attempts", 1..=100)
        .and_then(|attempts| u32::try_from(*attempts.get_ref()).ok())
        .unwrap_or(default.attempts);
    let (base, cap) = (
        section.duration("base", WAITS),
        section.duration("cap", WAITS),
    );
    let (base, cap) = match (base, cap) {
        (Some(base), Some(cap)) => {
            if base.get_ref() > cap.get_ref() {
                section.doc().refuse(&base.span(), format!("`{}` is {:?}, longer than `cap`, which is {:?}: write a shorter base or a longer cap", section.name("base"), base.get_ref(), cap.get_ref()));
            }
            (base.into_inner(), cap.into_inner())
        }
        (Some(base), None) => {
            if *base.get_ref() >= total {
                section.doc().warn(
                    Some(&base.span()),
                    format!(
                        "`{}` is as long as the whole call: retries will mostly find no time left",
                        section.name("base")
                    ),
                );
            }
            (*base.get_ref(), default.cap.max(base.into_inner()))
        }
        (None, Some(cap)) => (default.base.min(*cap.get_ref()), cap.into_inner()),
        (None, None) => (default.base, default.cap),
    };
    let budget = section.number("budget", 0.0..=1.0);
    section.close();
    (
        RetrySettings {
            attempts,
            base,
            cap,
        },
        budget,
    )
}
