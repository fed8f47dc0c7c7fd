use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use proptest::prelude::{any, prop, proptest};

use super::{AxisLimits, Claim, LONGEST_WAIT, RateLimits};

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

#[test]
fn the_windows_of_a_subscription_are_read_one_by_one() {
    let reset = (now().as_second() + 60).to_string();
    let read = RateLimits::read(
        StatusCode::OK,
        &headers(&[
            ("anthropic-ratelimit-unified-status", "allowed_warning"),
            (
                "anthropic-ratelimit-unified-representative-claim",
                "seven_day_sonnet",
            ),
            ("anthropic-ratelimit-unified-5h-status", "allowed"),
            ("anthropic-ratelimit-unified-5h-utilization", "0.42"),
            ("anthropic-ratelimit-unified-7d-status", "rejected"),
            ("anthropic-ratelimit-unified-7d-utilization", "1.08"),
            ("anthropic-ratelimit-unified-7d-reset", &reset),
        ]),
        now(),
    );
    let unified = read.unified.expect("windows");
    assert!(!unified.rejected && unified.seven_days.rejected && !unified.five_hours.rejected);
    assert_eq!(unified.claim, Some(Claim::SevenDaysSonnet));
    assert_eq!(unified.five_hours.utilization, Some(0.42));
    assert_eq!(unified.seven_days.utilization, Some(1.08));
    assert_eq!(unified.reset_in, Some(Duration::from_secs(60)));
}

#[test]
fn the_fast_modes_buckets_are_read_where_they_are() {
    let read = RateLimits::read(
        StatusCode::OK,
        &headers(&[
            ("anthropic-fast-input-tokens-limit", "200000"),
            ("anthropic-fast-input-tokens-remaining", "0"),
            ("anthropic-fast-input-tokens-reset", "2026-11-24T12:00:09Z"),
        ]),
        now(),
    );
    let fast = read.fast.expect("the fast mode's buckets");
    assert!(fast.is_spent());
    assert_eq!(fast.input.limit, Some(200_000));
    assert_eq!(fast.input.full_in, Some(Duration::from_secs(9)));
    assert_eq!(fast.output, AxisLimits::default());
    assert_eq!(
        RateLimits::read(StatusCode::OK, &HeaderMap::new(), now()).fast,
        None
    );
}

fn openai(reset: &str) -> RateLimits {
    let pairs = [
        ("x-ratelimit-limit-requests", "500"),
        ("x-ratelimit-limit-tokens", "40000"),
        ("x-ratelimit-remaining-requests", "499"),
        ("x-ratelimit-remaining-tokens", "39923"),
        ("x-ratelimit-reset-requests", reset),
        ("x-ratelimit-reset-tokens", "115ms"),
    ];
    RateLimits::read(StatusCode::OK, &headers(&pairs), now())
}

#[test]
fn the_headers_of_compatible_gateways_are_read_where_the_providers_own_are_absent() {
    let read = openai("120ms");
    assert_eq!(
        read.requests,
        AxisLimits {
            limit: Some(500),
            remaining: Some(499),
            full_in: Some(Duration::from_millis(120)),
        }
    );
    assert_eq!(
        (read.input.limit, read.input.remaining),
        (Some(40_000), Some(39_923))
    );
    assert!(read.combined && !read.is_silent());
    assert_eq!(read.tokens_rounded_to(), 1);
    assert_eq!(read.output, AxisLimits::default());
    let both = headers(&[
        ("x-ratelimit-limit-requests", "7"),
        ("anthropic-ratelimit-requests-limit", "1000"),
    ]);
    let read = RateLimits::read(StatusCode::OK, &both, now());
    assert_eq!((read.requests.limit, read.combined), (Some(1000), false));
    assert_eq!(read.tokens_rounded_to(), 1_000);
}

#[test]
fn durations_are_read_as_go_writes_them() {
    for (written, millis) in [
        ("1s", Some(1_000)),
        ("6m0s", Some(360_000)),
        ("20ms", Some(20)),
        ("1h2m3s", Some(3_723_000)),
        ("21m36.001s", Some(1_296_001)),
        ("7.66s", Some(7_660)),
        ("0.5", Some(500)),
        ("60", Some(60_000)),
        ("0s", None),
        ("-1s", None),
        ("1", Some(1_000)),
        ("1y", None),
        ("s", None),
        ("", None),
        ("99999999h", None),
        ("NaN", None),
    ] {
        let read = openai(written).requests.full_in;
        assert_eq!(read, millis.map(Duration::from_millis), "{written:?}");
    }
}

#[test]
fn a_days_limit_is_not_taken_for_a_minutes() {
    // As recorded: 3 of 200 requests a day are used, and back in 21 minutes 36.
    assert_eq!(openai("21m36.001s").requests.limit, None);
    assert_eq!(openai("21m36.001s").requests.remaining, Some(499));
    assert_eq!(openai("120ms").requests.limit, Some(500));
    assert_eq!(openai("").requests.limit, Some(500));
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
                "anthropic-fast-output-tokens-limit", "anthropic-fast-input-tokens-reset",
                "anthropic-ratelimit-unified-5h-utilization", "anthropic-ratelimit-unified-7d-reset",
            ] {
                map.insert(name, value.clone());
            }
            for now in [now(), Timestamp::MIN, Timestamp::MAX] {
                let read = RateLimits::read(StatusCode::SERVICE_UNAVAILABLE, &map, now);
                proptest::prop_assert!(read.retry_after.is_none_or(|d| d <= LONGEST_WAIT));
            }
        }
    }

    #[test]
    fn no_header_of_a_compatible_gateway_can_panic_or_wait_without_end(
        value in prop::collection::vec(any::<u8>(), 0..40),
        number in any::<u64>(),
        written in "[0-9]{0,12}(\\.[0-9]{0,12})?(h|m|s|ms|us|ns|d)?[0-9]{0,4}(s|m)?",
    ) {
        for bytes in [value, number.to_string().into_bytes(), written.into_bytes()] {
            let Ok(value) = HeaderValue::from_bytes(&bytes) else { continue };
            let mut map = HeaderMap::new();
            for name in [
                "x-ratelimit-limit-requests", "x-ratelimit-limit-tokens",
                "x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens",
                "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens",
            ] {
                map.insert(name, value.clone());
                let read = RateLimits::read(StatusCode::OK, &map, now());
                for axis in [read.requests, read.input] {
                    proptest::prop_assert!(axis.full_in.is_none_or(|d| d <= LONGEST_WAIT));
                }
            }
        }
    }
}
