//! The headers that OpenAI sends, and gateways that are compatible with it.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

use super::{AxisLimits, LONGEST_WAIT, integer, text, wait_of};
use crate::duration;

struct Names {
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
}

static REQUESTS: Names = Names {
    limit: HeaderName::from_static("x-ratelimit-limit-requests"),
    remaining: HeaderName::from_static("x-ratelimit-remaining-requests"),
    reset: HeaderName::from_static("x-ratelimit-reset-requests"),
};
static TOKENS: Names = Names {
    limit: HeaderName::from_static("x-ratelimit-limit-tokens"),
    remaining: HeaderName::from_static("x-ratelimit-remaining-tokens"),
    reset: HeaderName::from_static("x-ratelimit-reset-tokens"),
};

/// A bucket of a minute may look this long, since what is left is rounded.
const LONGEST_MINUTE: f64 = 300.0;

/// Requests, and input and output tokens together; nothing where no such header is there.
pub(super) fn read(headers: &HeaderMap) -> Option<(AxisLimits, AxisLimits)> {
    let none = AxisLimits::default();
    let (requests, tokens) = (axis(headers, &REQUESTS), axis(headers, &TOKENS));
    (requests != none || tokens != none).then_some((requests, tokens))
}

fn axis(headers: &HeaderMap, names: &Names) -> AxisLimits {
    let mut axis = AxisLimits {
        limit: integer(headers.get(&names.limit)),
        remaining: integer(headers.get(&names.remaining)),
        full_in: text(headers, &names.reset).and_then(reset),
    };
    if !is_of_a_minute(&axis) {
        axis.limit = None;
    }
    axis
}

/// Time as Go writes it, such as `6m0s` or `20ms`; without a unit, seconds.
fn reset(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        return wait_of(seconds);
    }
    duration::parse(text)
        .ok()
        .filter(|wait| !wait.is_zero() && *wait <= LONGEST_WAIT)
}

/// Whether the limit can be one a minute.
///
/// The headers do not say: a recorded answer gives the requests of a day. But what was used comes
/// back in the reset's time, so that both together tell how long a whole bucket takes.
#[expect(clippy::cast_precision_loss, reason = "an order of magnitude")]
fn is_of_a_minute(axis: &AxisLimits) -> bool {
    let (Some(limit), Some(remaining), Some(full_in)) = (axis.limit, axis.remaining, axis.full_in)
    else {
        return true;
    };
    match limit.saturating_sub(remaining) {
        0 => true,
        used => full_in.as_secs_f64() * limit as f64 / used as f64 <= LONGEST_MINUTE,
    }
}
