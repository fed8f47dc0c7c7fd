//! The headers that tell the limits, in each style.

use std::time::Duration;

use http::HeaderMap;
use http::header::HeaderName;
use jiff::Timestamp;

use super::{Moment, put};
use crate::sim::buckets::{Axis, Buckets};
use crate::sim::pool::Pool;
use crate::sim::scenario::HeaderStyle;

/// The limits of a pool as they are now. A limit that does not exist has no header.
pub(in crate::sim) fn told(headers: &mut HeaderMap, pool: &mut Pool, fast: bool, moment: Moment) {
    let now = |axis: &mut Axis| {
        let lacking = axis.full_in(moment.now);
        (axis.remaining(moment.now), after(moment.wall, lacking))
    };
    match pool.style {
        HeaderStyle::None => {}
        HeaderStyle::OpenAi => durations(headers, &mut pool.usual, moment),
        HeaderStyle::Anthropic => {
            families(headers, "anthropic-ratelimit", &mut pool.usual, now);
            if let (true, Some(buckets)) = (fast, &mut pool.fast) {
                // The two token families are all that the fast mode has.
                tokens(headers, "anthropic-fast", buckets, now);
            }
        }
    }
}

/// The limits with the 429 that can never succeed: everything left, and resets in 1970.
pub(super) fn untouched(headers: &mut HeaderMap, pool: &mut Pool) {
    let whole = |axis: &mut Axis| (axis.limit, Timestamp::UNIX_EPOCH);
    if pool.style == HeaderStyle::Anthropic {
        families(headers, "anthropic-ratelimit", &mut pool.usual, whole);
    }
}

type Told = (u64, Timestamp);

fn families(
    headers: &mut HeaderMap,
    prefix: &str,
    buckets: &mut Buckets,
    mut state: impl FnMut(&mut Axis) -> Told,
) {
    let sums = tokens(headers, prefix, buckets, &mut state);
    if let Some(axis) = &mut buckets.requests {
        let (left, reset) = state(axis);
        family(
            headers,
            &format!("{prefix}-requests"),
            axis.limit,
            (left, reset),
        );
    }
    if let [Some(input), Some(output)] = sums {
        let told = (input.1.saturating_add(output.1), input.2.max(output.2));
        let limit = input.0.saturating_add(output.0);
        family(headers, &format!("{prefix}-tokens"), limit, told);
    }
}

/// Input and output; what was told of each.
fn tokens(
    headers: &mut HeaderMap,
    prefix: &str,
    buckets: &mut Buckets,
    mut state: impl FnMut(&mut Axis) -> Told,
) -> [Option<(u64, u64, Timestamp)>; 2] {
    let axes = [
        ("input-tokens", &mut buckets.input),
        ("output-tokens", &mut buckets.output),
    ];
    axes.map(|(name, axis)| {
        let axis = axis.as_mut()?;
        let (left, reset) = state(axis);
        let left = thousands(left).min(axis.limit);
        family(
            headers,
            &format!("{prefix}-{name}"),
            axis.limit,
            (left, reset),
        );
        Some((axis.limit, left, reset))
    })
}

fn family(headers: &mut HeaderMap, name: &str, limit: u64, (left, reset): Told) {
    for (suffix, value) in [
        ("limit", limit.to_string()),
        ("remaining", left.to_string()),
        ("reset", reset.to_string()),
    ] {
        if let Ok(name) = HeaderName::try_from(format!("{name}-{suffix}")) {
            put(headers, name, &value);
        }
    }
}

/// `x-ratelimit-*`: requests, and tokens of both directions in one. Resets are durations.
fn durations(headers: &mut HeaderMap, buckets: &mut Buckets, moment: Moment) {
    let mut told = |axis: &mut Axis| {
        let left = axis.remaining(moment.now);
        (axis.limit, left, axis.full_in(moment.now))
    };
    let requests = buckets.requests.as_mut().map(&mut told);
    let tokens = [&mut buckets.input, &mut buckets.output]
        .into_iter()
        .filter_map(|axis| axis.as_mut().map(&mut told))
        .reduce(|one, other| {
            (
                one.0.saturating_add(other.0),
                one.1.saturating_add(other.1),
                one.2.max(other.2),
            )
        });
    for (name, axis) in [("requests", requests), ("tokens", tokens)] {
        let Some((limit, left, full_in)) = axis else {
            continue;
        };
        for (what, value) in [
            ("limit", limit.to_string()),
            ("remaining", left.to_string()),
            ("reset", span(full_in)),
        ] {
            if let Ok(name) = HeaderName::try_from(format!("x-ratelimit-{what}-{name}")) {
                put(headers, name, &value);
            }
        }
    }
}

/// A duration as Go prints it: `0s`, `12ms`, `21m36.001s`.
fn span(time: Duration) -> String {
    let millis = time.as_nanos().div_ceil(1_000_000);
    if millis == 0 {
        return "0s".to_owned();
    }
    if millis < 1_000 {
        return format!("{millis}ms");
    }
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let mut seconds = format!("{}.{:03}", rest / 1_000, rest % 1_000);
    seconds.truncate(seconds.trim_end_matches('0').trim_end_matches('.').len());
    if minutes == 0 {
        format!("{seconds}s")
    } else {
        format!("{minutes}m{seconds}s")
    }
}

/// Token counts are told in whole thousands.
const fn thousands(tokens: u64) -> u64 {
    tokens.saturating_add(500) / 1_000 * 1_000
}

/// A moment later than `wall`, in whole seconds, never too early.
fn after(wall: Timestamp, wait: Duration) -> Timestamp {
    let nanos = i128::try_from(wait.as_nanos()).unwrap_or(i128::MAX / 2);
    let second = wall
        .as_nanosecond()
        .saturating_add(nanos)
        .saturating_add(999_999_999)
        .div_euclid(1_000_000_000);
    i64::try_from(second)
        .ok()
        .and_then(|s| Timestamp::from_second(s).ok())
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_the_recorded_ones() {
        for (ms, wanted) in [
            (0, "0s"),
            (12, "12ms"),
            (1_000, "1s"),
            (8_640, "8.64s"),
            (360_000, "6m0s"),
            (1_296_001, "21m36.001s"),
        ] {
            assert_eq!(span(Duration::from_millis(ms)), wanted);
        }
    }

    #[test]
    fn tokens_are_told_in_thousands() {
        for (tokens, wanted) in [(0, 0), (499, 0), (500, 1_000), (49_501, 50_000)] {
            assert_eq!(thousands(tokens), wanted);
        }
    }
}
