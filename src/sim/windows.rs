//! The windows of a subscription, and the headers that tell them.

use std::time::Duration;

use http::HeaderMap;
use http::header::HeaderName;
use tokio::time::Instant;

use super::head::{Moment, put};
use super::scenario::UnifiedSettings;

const FIVE_HOURS: Duration = Duration::from_hours(5);
const SEVEN_DAYS: Duration = Duration::from_hours(7 * 24);
/// From this utilisation on the status is a warning. The real threshold is not published.
const WARNING: f64 = 0.9;

/// The windows of one credential.
#[derive(Debug, Clone)]
pub(super) struct Windows {
    five_hour: Window,
    seven_day: Window,
}

#[derive(Debug, Clone)]
struct Window {
    limit: u64,
    length: Duration,
    used: u64,
    began: Option<Instant>,
}

impl Windows {
    pub(super) const fn new(settings: UnifiedSettings) -> Self {
        Self {
            five_hour: Window::new(settings.five_hour, FIVE_HOURS),
            seven_day: Window::new(settings.seven_day, SEVEN_DAYS),
        }
    }

    /// Counts one request.
    ///
    /// # Errors
    ///
    /// The time until the window that is used up begins anew; nothing is counted then.
    pub(super) fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        let windows = [&mut self.five_hour, &mut self.seven_day];
        let waits = windows.map(|window| window.spent(now));
        if let Some(wait) = waits.into_iter().flatten().max() {
            return Err(wait);
        }
        self.five_hour.count(now);
        self.seven_day.count(now);
        Ok(())
    }

    /// The unified family.
    pub(super) fn tell(&mut self, headers: &mut HeaderMap, rejected: bool, moment: Moment) {
        let mut windows = [
            ("5h", "five_hour", &mut self.five_hour),
            ("7d", "seven_day", &mut self.seven_day),
        ];
        let mut say = |name: &str, value: &str| {
            let name = format!("anthropic-ratelimit-unified-{name}");
            if let Ok(name) = HeaderName::try_from(name) {
                put(headers, name, value);
            }
        };
        let mut fullest: Option<(f64, &str, i64)> = None;
        for (short, claim, window) in &mut windows {
            let utilization = window.utilization();
            let left = window.resets_in(moment.now);
            let reset = moment
                .wall
                .saturating_add(left)
                .map_or(0, |t| t.as_second());
            let status = status(utilization, rejected && utilization >= 1.0);
            say(&format!("{short}-status"), status);
            say(
                &format!("{short}-utilization"),
                &format!("{utilization:.2}"),
            );
            say(&format!("{short}-reset"), &reset.to_string());
            if fullest.is_none_or(|(most, ..)| utilization > most) {
                fullest = Some((utilization, claim, reset));
            }
        }
        if let Some((utilization, claim, reset)) = fullest {
            say("status", status(utilization, rejected));
            say("reset", &reset.to_string());
            say("representative-claim", claim);
        }
        say("overage-status", "rejected");
        say("overage-disabled-reason", "org_level_disabled");
    }
}

const fn status(utilization: f64, rejected: bool) -> &'static str {
    match (rejected, utilization >= WARNING) {
        (true, _) => "rejected",
        (false, true) => "allowed_warning",
        (false, false) => "allowed",
    }
}

impl Window {
    const fn new(limit: u64, length: Duration) -> Self {
        Self {
            limit,
            length,
            used: 0,
            began: None,
        }
    }

    fn resets_in(&self, now: Instant) -> Duration {
        let passed = self.began.map(|began| now.saturating_duration_since(began));
        self.length.saturating_sub(passed.unwrap_or_default())
    }

    /// Begins anew if it is over; the time until then if it is used up.
    fn spent(&mut self, now: Instant) -> Option<Duration> {
        if self.resets_in(now).is_zero() {
            (self.began, self.used) = (None, 0);
        }
        (self.used >= self.limit).then(|| self.resets_in(now))
    }

    fn count(&mut self, now: Instant) {
        self.began = self.began.or(Some(now));
        self.used = self.used.saturating_add(1);
    }

    fn utilization(&self) -> f64 {
        self.used as f64 / self.limit.max(1) as f64
    }
}
