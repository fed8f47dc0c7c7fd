//! What the rate-limit headers say.
//!
//! Three families are read, each on its own: requests, input tokens, output tokens. The fourth,
//! `tokens`, only repeats the tightest of them. A family that is missing says nothing: most failures
//! carry none. A reset is when the bucket will be *full*, is fixed at admission (so it is mostly past
//! by the time the answer is here), and is 1970 on some 429s; such resets are dropped.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;

/// One axis of a quota as a response describes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AxisLimits {
    /// The most that fits in the bucket, a minute's worth.
    pub limit: Option<u64>,
    /// What is left. Token counts are rounded to thousands.
    pub remaining: Option<u64>,
    /// Time until the bucket is full again; absent where the reset is past or nonsense.
    pub full_in: Option<Duration>,
}

impl AxisLimits {
    /// Whether the bucket is known to be untouched.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!((self.limit, self.remaining), (Some(l), Some(r)) if l > 0 && r >= l)
    }
}

/// A subscription's usage window, sent for OAuth credentials only.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Unified {
    /// The window refuses what is sent.
    pub rejected: bool,
    /// Time until the window opens again.
    pub reset_in: Option<Duration>,
    /// The share of requests that is accepted all the same, 0 to 1.
    pub accepted_share: Option<f64>,
}

/// Everything that a response's headers say about limits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RateLimits {
    /// Requests a minute.
    pub requests: AxisLimits,
    /// Input tokens a minute.
    pub input: AxisLimits,
    /// Output tokens a minute.
    pub output: AxisLimits,
    /// The server's command to wait. Only a failure commands: on a success it is dropped.
    pub retry_after: Option<Duration>,
    /// The server's own word on sending the same request again.
    pub should_retry: Option<bool>,
    /// A subscription's window.
    pub unified: Option<Unified>,
    /// The bucket of the fast mode is the empty one.
    pub fast_mode_spent: bool,
}

impl RateLimits {
    /// Reads the headers of an answer that arrived at `now`.
    #[must_use]
    pub fn read(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Self {
        let failed = status.is_client_error() || status.is_server_error();
        let said = Said::find(headers);
        let [requests, input, output] = said.axes.map(|axis| axis.read(now));
        Self {
            requests,
            input,
            output,
            retry_after: if failed {
                retry_after(headers, now)
            } else {
                None
            },
            should_retry: should_retry(headers),
            unified: said.unified.then(|| unified(headers, now)).flatten(),
            fast_mode_spent: said.fast.into_iter().any(|left| integer(left) == Some(0)),
        }
    }

    /// Whether the response said nothing about any axis.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        [self.requests, self.input, self.output]
            .iter()
            .all(|axis| *axis == AxisLimits::default())
    }

    /// Whether at least one bucket is described and every described one is full.
    ///
    /// On a 429 it means that the request alone is larger than a bucket.
    #[must_use]
    pub fn all_full(&self) -> bool {
        let mut described = [self.requests, self.input, self.output]
            .into_iter()
            .filter(|axis| axis.remaining.is_some())
            .peekable();
        described.peek().is_some() && described.all(|axis| axis.is_full())
    }
}

/// Longer waits than the official clients obey, 2^32 ms, are taken for garbage.
const LONGEST_WAIT: Duration = Duration::from_millis(4_294_967_296);

static RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
static SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
static UNIFIED_STATUS: HeaderName = HeaderName::from_static("anthropic-ratelimit-unified-status");
static UNIFIED_RESET: HeaderName = HeaderName::from_static("anthropic-ratelimit-unified-reset");
static UNIFIED_SHARE: HeaderName =
    HeaderName::from_static("anthropic-ratelimit-unified-fallback-percentage");

/// The limits among an answer's headers, found in one pass: looked up by name, each would be hashed.
#[derive(Default)]
struct Said<'a> {
    axes: [AxisWords<'a>; 3],
    fast: [Option<&'a HeaderValue>; 2],
    unified: bool,
}

#[derive(Default)]
struct AxisWords<'a> {
    limit: Option<&'a HeaderValue>,
    remaining: Option<&'a HeaderValue>,
    reset: Option<&'a HeaderValue>,
}

impl<'a> Said<'a> {
    fn find(headers: &'a HeaderMap) -> Self {
        let mut said = Self::default();
        let [requests, input, output] = &mut said.axes;
        let [fast_input, fast_output] = &mut said.fast;
        for (name, value) in headers {
            let Some(name) = name.as_str().strip_prefix("anthropic-") else {
                continue;
            };
            let place = match name {
                "ratelimit-requests-limit" => &mut requests.limit,
                "ratelimit-requests-remaining" => &mut requests.remaining,
                "ratelimit-requests-reset" => &mut requests.reset,
                "ratelimit-input-tokens-limit" => &mut input.limit,
                "ratelimit-input-tokens-remaining" => &mut input.remaining,
                "ratelimit-input-tokens-reset" => &mut input.reset,
                "ratelimit-output-tokens-limit" => &mut output.limit,
                "ratelimit-output-tokens-remaining" => &mut output.remaining,
                "ratelimit-output-tokens-reset" => &mut output.reset,
                "fast-input-tokens-remaining" => fast_input,
                "fast-output-tokens-remaining" => fast_output,
                "ratelimit-unified-status" | "ratelimit-unified-reset" => {
                    said.unified = true;
                    continue;
                }
                _ => continue,
            };
            // The first word counts.
            place.get_or_insert(value);
        }
        said
    }
}

impl AxisWords<'_> {
    fn read(self, now: Timestamp) -> AxisLimits {
        AxisLimits {
            limit: integer(self.limit),
            remaining: integer(self.remaining),
            full_in: self
                .reset
                .and_then(plain)
                .and_then(|t| t.parse::<Timestamp>().ok())
                .and_then(|at| until(at, now)),
        }
    }
}

/// The wait that a server commands: milliseconds first, then seconds (whole or fractional), then an
/// HTTP date; the order of the official clients.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let millis = text(headers, &RETRY_AFTER_MS)
        .and_then(|t| t.parse::<f64>().ok())
        .and_then(|ms| wait_of(ms / 1000.0));
    millis.or_else(|| {
        let value = text(headers, &RETRY_AFTER)?;
        if let Ok(seconds) = value.parse::<f64>() {
            return wait_of(seconds);
        }
        let at = httpdate::parse_http_date(value).ok()?;
        until(Timestamp::try_from(at).ok()?, now)
    })
}

/// The server's own word on sending the same request again.
#[must_use]
pub fn should_retry(headers: &HeaderMap) -> Option<bool> {
    match text(headers, &SHOULD_RETRY)? {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn unified(headers: &HeaderMap, now: Timestamp) -> Option<Unified> {
    let status = text(headers, &UNIFIED_STATUS);
    let reset = text(headers, &UNIFIED_RESET);
    if status.is_none() && reset.is_none() {
        return None;
    }
    Some(Unified {
        rejected: status == Some("rejected"),
        // Epoch seconds here, not RFC 3339 as in the other families.
        reset_in: reset
            .and_then(|t| t.parse::<i64>().ok())
            .and_then(|s| Timestamp::from_second(s).ok())
            .and_then(|at| until(at, now)),
        accepted_share: text(headers, &UNIFIED_SHARE)
            .and_then(|t| t.parse::<f64>().ok())
            .filter(|share| (0.0..=1.0).contains(share)),
    })
}

fn wait_of(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|d| !d.is_zero() && *d <= LONGEST_WAIT)
}

fn until(at: Timestamp, now: Timestamp) -> Option<Duration> {
    Duration::try_from(at.duration_since(now))
        .ok()
        .filter(|d| !d.is_zero() && *d <= LONGEST_WAIT)
}

fn integer(value: Option<&HeaderValue>) -> Option<u64> {
    plain(value?)?.parse().ok()
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    plain(headers.get(name)?)
}

fn plain(value: &HeaderValue) -> Option<&str> {
    Some(value.to_str().ok()?.trim_ascii())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
    use jiff::Timestamp;
    use proptest::prelude::{any, prop, proptest};

    use super::{AxisLimits, LONGEST_WAIT, RateLimits};

    fn now() -> Timestamp {
        "2026-11-24T12:00:00Z".parse().expect("a time")
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(k, v)| {
                (
                    HeaderName::from_static(k),
                    HeaderValue::from_str(v).expect("a value"),
                )
            })
            .collect()
    }

    fn wait(name: &'static str, value: &str) -> Option<Duration> {
        RateLimits::read(
            StatusCode::TOO_MANY_REQUESTS,
            &headers(&[(name, value)]),
            now(),
        )
        .retry_after
    }

    #[test]
    fn a_wait_is_read_in_every_form_and_nonsense_is_no_wait() {
        for (value, expected) in [
            ("7", Some(Duration::from_secs(7))),
            ("1.5", Some(Duration::from_millis(1500))),
            (" 41 ", Some(Duration::from_secs(41))),
            ("13262", Some(Duration::from_secs(13262))),
            (
                "Tue, 24 Nov 2026 12:00:30 GMT",
                Some(Duration::from_secs(30)),
            ),
            ("Tue, 24 Nov 2026 11:59:30 GMT", None),
            ("Tue, 24 Nov 9999 11:59:30 GMT", None),
            ("0", None),
            ("-3", None),
            ("1e300", None),
            ("NaN", None),
            ("inf", None),
            ("99999999999999999999999999", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(wait("retry-after", value), expected, "{value:?}");
        }
        assert_eq!(
            wait("retry-after-ms", "250"),
            Some(Duration::from_millis(250))
        );
        let both = headers(&[("retry-after-ms", "250"), ("retry-after", "9")]);
        let read = RateLimits::read(StatusCode::TOO_MANY_REQUESTS, &both, now());
        assert_eq!(read.retry_after, Some(Duration::from_millis(250)));
        let broken_ms = headers(&[("retry-after-ms", "-1"), ("retry-after", "9")]);
        let read = RateLimits::read(StatusCode::TOO_MANY_REQUESTS, &broken_ms, now());
        assert_eq!(read.retry_after, Some(Duration::from_secs(9)));
    }

    #[test]
    fn retry_after_on_a_success_is_no_command() {
        let read = RateLimits::read(StatusCode::OK, &headers(&[("retry-after", "30")]), now());
        assert_eq!(read.retry_after, None);
    }

    #[test]
    fn resets_in_the_past_and_in_1970_are_dropped_and_tokens_is_no_axis() {
        let read = RateLimits::read(
            StatusCode::OK,
            &headers(&[
                ("anthropic-ratelimit-requests-limit", "1000"),
                ("anthropic-ratelimit-requests-remaining", "999"),
                ("anthropic-ratelimit-requests-reset", "2026-11-24T11:59:58Z"),
                ("anthropic-ratelimit-input-tokens-limit", "450000"),
                ("anthropic-ratelimit-input-tokens-remaining", "450000"),
                (
                    "anthropic-ratelimit-input-tokens-reset",
                    "1970-01-01T00:00:00Z",
                ),
                (
                    "anthropic-ratelimit-output-tokens-reset",
                    "2026-11-24T12:00:09Z",
                ),
                ("anthropic-ratelimit-output-tokens-remaining", "-5"),
                ("anthropic-ratelimit-tokens-remaining", "0"),
            ]),
            now(),
        );
        let word = |limit, remaining| AxisLimits {
            limit,
            remaining,
            full_in: None,
        };
        assert_eq!(read.requests, word(Some(1000), Some(999)));
        assert_eq!(read.input, word(Some(450_000), Some(450_000)));
        assert_eq!(read.output.full_in, Some(Duration::from_secs(9)));
        assert_eq!((read.output.limit, read.output.remaining), (None, None));
        assert!(!read.all_full() && !read.is_silent());
    }

    #[test]
    fn a_subscription_window_counts_in_epoch_seconds() {
        let reset = (now().as_second() + 3600).to_string();
        let read = RateLimits::read(
            StatusCode::TOO_MANY_REQUESTS,
            &headers(&[
                ("anthropic-ratelimit-unified-status", "rejected"),
                ("anthropic-ratelimit-unified-reset", &reset),
                ("anthropic-ratelimit-unified-fallback-percentage", "0.5"),
            ]),
            now(),
        );
        let unified = read.unified.expect("a window");
        assert!(unified.rejected);
        assert_eq!(unified.reset_in, Some(Duration::from_secs(3600)));
        assert_eq!(unified.accepted_share, Some(0.5));
        assert!(read.is_silent());
    }

    proptest! {
        #[test]
        fn no_header_can_panic_or_command_an_endless_wait(
            value in prop::collection::vec(any::<u8>(), 0..40),
            number in any::<f64>(),
            second in any::<i64>(),
        ) {
            for bytes in [value, number.to_string().into_bytes(), second.to_string().into_bytes()] {
                let Ok(value) = HeaderValue::from_bytes(&bytes) else { continue };
                let mut map = HeaderMap::new();
                for name in [
                    "retry-after", "retry-after-ms", "x-should-retry",
                    "anthropic-ratelimit-requests-limit", "anthropic-ratelimit-input-tokens-remaining",
                    "anthropic-ratelimit-output-tokens-reset", "anthropic-ratelimit-unified-reset",
                    "anthropic-ratelimit-unified-status", "anthropic-fast-input-tokens-remaining",
                ] {
                    map.insert(name, value.clone());
                }
                for now in [now(), Timestamp::MIN, Timestamp::MAX] {
                    let read = RateLimits::read(StatusCode::SERVICE_UNAVAILABLE, &map, now);
                    proptest::prop_assert!(read.retry_after.is_none_or(|d| d <= LONGEST_WAIT));
                }
            }
        }
    }
}
