//! A subscription's usage windows, sent for OAuth credentials only and in no reference of the API.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use jiff::Timestamp;

use super::{text, until};

/// A subscription's usage windows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct Unified {
    /// The windows together refuse what is sent.
    pub rejected: bool,
    /// Time until they open again.
    pub reset_in: Option<Duration>,
    /// The window that decides.
    pub claim: Option<Claim>,
    /// The share of requests that is accepted all the same, 0 to 1.
    pub accepted_share: Option<f64>,
    /// The window of five hours.
    pub five_hours: Window,
    /// The window of seven days.
    pub seven_days: Window,
}

/// One of a subscription's windows.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct Window {
    /// It refuses what is sent.
    pub rejected: bool,
    /// How much of it is used; above 1 where more was used than it holds.
    pub utilization: Option<f64>,
    /// Time until it begins anew.
    pub reset_in: Option<Duration>,
}

/// Which window decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Claim {
    /// The one of five hours.
    FiveHours,
    /// The one of seven days.
    SevenDays,
    /// The one of seven days for Opus models.
    SevenDaysOpus,
    /// The one of seven days for Sonnet models.
    SevenDaysSonnet,
}

impl Claim {
    /// Stable lower-case word for logs and status: the provider's own.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FiveHours => "five_hour",
            Self::SevenDays => "seven_day",
            Self::SevenDaysOpus => "seven_day_opus",
            Self::SevenDaysSonnet => "seven_day_sonnet",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [
            Self::FiveHours,
            Self::SevenDays,
            Self::SevenDaysOpus,
            Self::SevenDaysSonnet,
        ]
        .into_iter()
        .find(|claim| claim.as_str() == text)
    }
}

static STATUS: HeaderName = HeaderName::from_static("anthropic-ratelimit-unified-status");
static RESET: HeaderName = HeaderName::from_static("anthropic-ratelimit-unified-reset");
static CLAIM: HeaderName =
    HeaderName::from_static("anthropic-ratelimit-unified-representative-claim");
static SHARE: HeaderName =
    HeaderName::from_static("anthropic-ratelimit-unified-fallback-percentage");

struct WindowNames {
    status: HeaderName,
    utilization: HeaderName,
    reset: HeaderName,
}

static FIVE_HOURS: WindowNames = WindowNames {
    status: HeaderName::from_static("anthropic-ratelimit-unified-5h-status"),
    utilization: HeaderName::from_static("anthropic-ratelimit-unified-5h-utilization"),
    reset: HeaderName::from_static("anthropic-ratelimit-unified-5h-reset"),
};
static SEVEN_DAYS: WindowNames = WindowNames {
    status: HeaderName::from_static("anthropic-ratelimit-unified-7d-status"),
    utilization: HeaderName::from_static("anthropic-ratelimit-unified-7d-utilization"),
    reset: HeaderName::from_static("anthropic-ratelimit-unified-7d-reset"),
};

/// The windows of an answer that came at `now`; nothing where neither status nor reset is there.
pub(super) fn read(headers: &HeaderMap, now: Timestamp) -> Option<Unified> {
    let status = text(headers, &STATUS);
    let reset = epoch(headers, &RESET, now);
    if status.is_none() && !headers.contains_key(&RESET) {
        return None;
    }
    let (five_hours, seven_days) = (
        window(headers, &FIVE_HOURS, now),
        window(headers, &SEVEN_DAYS, now),
    );
    let claim = text(headers, &CLAIM).and_then(Claim::read);
    let deciding = match claim {
        Some(Claim::FiveHours) => five_hours.reset_in,
        Some(_) => seven_days.reset_in,
        None => None,
    };
    Some(Unified {
        rejected: status == Some("rejected"),
        reset_in: reset.or(deciding),
        claim,
        accepted_share: fraction(headers, &SHARE).filter(|share| *share <= 1.0),
        five_hours,
        seven_days,
    })
}

fn window(headers: &HeaderMap, names: &WindowNames, now: Timestamp) -> Window {
    Window {
        rejected: text(headers, &names.status) == Some("rejected"),
        utilization: fraction(headers, &names.utilization),
        reset_in: epoch(headers, &names.reset, now),
    }
}

/// Epoch seconds here, not RFC 3339 as in the other families.
fn epoch(headers: &HeaderMap, name: &HeaderName, now: Timestamp) -> Option<Duration> {
    let seconds = text(headers, name)?.parse::<i64>().ok()?;
    until(Timestamp::from_second(seconds).ok()?, now)
}

fn fraction(headers: &HeaderMap, name: &HeaderName) -> Option<f64> {
    let fraction = text(headers, name)?.parse::<f64>().ok()?;
    (fraction.is_finite() && fraction >= 0.0).then_some(fraction)
}
