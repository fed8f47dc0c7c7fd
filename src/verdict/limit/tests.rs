use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;
use proptest::prelude::{any, prop, proptest};
use seawall_actors::policy::ladder::Cause;
use seawall_actors::verdict::{Again, Blame};

use super::{Axes, LimitKind, UNTOLD_CAP};
use crate::provider::anthropic::limits::Claim;
use crate::verdict::{Judged, judge, judge_stream_error};

const NONE: Axes = Axes {
    requests: false,
    input: false,
    output: false,
};
const INPUT: Axes = Axes {
    input: true,
    ..NONE
};
const OUTPUT: Axes = Axes {
    output: true,
    ..NONE
};
const REQUESTS: Axes = Axes {
    requests: true,
    ..NONE
};
const TOKENS: Axes = Axes {
    input: true,
    output: true,
    ..NONE
};

fn now() -> Timestamp {
    "2026-11-24T12:00:00Z".parse().expect("a time")
}

fn judged(status: u16, pairs: &[(&'static str, &str)], body: &str) -> Judged {
    let headers: HeaderMap = pairs
        .iter()
        .map(|(name, value)| {
            let value = HeaderValue::from_str(value).expect("a value");
            (HeaderName::from_static(name), value)
        })
        .collect();
    let status = StatusCode::from_u16(status).expect("a status");
    judge(status, &headers, body.as_bytes(), now())
}

fn worded(message: &str) -> String {
    crate::provider::anthropic::error_body("rate_limit_error", message, None)
}

fn coded(code: &str, message: &str) -> String {
    format!(
        r#"{{"type":"error","error":{{"type":"rate_limit_error","message":"{message}","details":{{"error_code":"{code}"}}}}}}"#
    )
}

const fn bucket(axes: Axes, burst: bool) -> Option<LimitKind> {
    Some(LimitKind::Bucket { axes, burst })
}

const fn secs(n: u64) -> Option<Duration> {
    Some(Duration::from_secs(n))
}

const PLAIN: &str = "This request would exceed your rate limit.";

#[test]
#[expect(clippy::too_many_lines, reason = "a table, one row a rule")]
fn a_bucket_is_told_by_wording_first_and_by_what_is_left() {
    let wait = ("retry-after", "23");
    let left = |family: &str, left: &'static str| {
        let name = match family {
            "requests" => "anthropic-ratelimit-requests-remaining",
            "input" => "anthropic-ratelimit-input-tokens-remaining",
            _ => "anthropic-ratelimit-output-tokens-remaining",
        };
        (name, left)
    };
    let organisation = "This request would exceed your organization's rate limit of 30,000";
    for (message, headers, expected) in [
        (
            format!("{organisation} input tokens per minute (org: x, model: y)"),
            vec![],
            bucket(INPUT, false),
        ),
        (
            format!("{organisation} output tokens per minute"),
            vec![],
            bucket(OUTPUT, false),
        ),
        (
            format!("{organisation} requests per minute"),
            vec![],
            bucket(REQUESTS, false),
        ),
        (
            "Number of requests has exceeded your per-minute rate limit".to_owned(),
            vec![],
            bucket(REQUESTS, false),
        ),
        (
            "Number of request tokens has exceeded your per-minute rate limit".to_owned(),
            vec![],
            bucket(INPUT, false),
        ),
        (
            "Rate limit reached for m on tokens per min (TPM): Limit 10".to_owned(),
            vec![],
            bucket(TOKENS, false),
        ),
        (
            "Rate limit reached for m on requests per min (RPM): Limit 3".to_owned(),
            vec![],
            bucket(REQUESTS, false),
        ),
        (
            PLAIN.to_owned(),
            vec![left("requests", "0")],
            bucket(REQUESTS, false),
        ),
        (
            PLAIN.to_owned(),
            vec![left("input", "0"), left("requests", "7")],
            bucket(INPUT, false),
        ),
        (
            PLAIN.to_owned(),
            vec![left("output", "0")],
            bucket(OUTPUT, false),
        ),
        (
            PLAIN.to_owned(),
            vec![left("output", "1000")],
            bucket(NONE, false),
        ),
        (
            format!("{organisation} requests per minute"),
            vec![left("requests", "590")],
            bucket(REQUESTS, true),
        ),
        (
            format!("{organisation} requests per minute"),
            vec![left("requests", "0")],
            bucket(REQUESTS, false),
        ),
        (
            "Error".to_owned(),
            vec![("x-should-retry", "true")],
            bucket(NONE, false),
        ),
    ] {
        let mut headers = headers;
        headers.push(wait);
        let seen = judged(429, &headers, &worded(&message));
        assert_eq!(seen.limit, expected, "{message} {headers:?}");
        assert_eq!(
            (seen.stop_for, seen.verdict.not_before),
            (secs(23), secs(23))
        );
    }
}

#[test]
fn a_bucket_that_is_full_stops_nobody_but_the_request_that_does_not_fit() {
    let full = [
        ("x-should-retry", "true"),
        ("retry-after", "47"),
        ("anthropic-ratelimit-input-tokens-limit", "450000"),
        ("anthropic-ratelimit-input-tokens-remaining", "450000"),
    ];
    let seen = judged(
        429,
        &full,
        &worded("rate limit of 450,000 input tokens per minute"),
    );
    assert_eq!(seen.limit, bucket(INPUT, true));
    assert_eq!((seen.stop_for, seen.verdict.not_before), (None, secs(47)));
    // The provider's refusal to be asked again makes it a matter of size.
    for silent in [&full[2..], &[]] {
        let headers = [&[("x-should-retry", "false")], silent].concat();
        let seen = judged(
            429,
            &headers,
            &worded("rate limit of 450,000 input tokens per minute"),
        );
        assert_eq!(seen.limit, Some(LimitKind::LargerThanBucket), "{silent:?}");
        assert_eq!(
            (seen.stop_for, seen.verdict.again),
            (None, Again::Elsewhere)
        );
    }
}

#[test]
fn a_ramp_limit_and_open_connections_are_no_buckets() {
    let ramp = judged(
        429,
        &[("retry-after", "4")],
        &coded("ramp_limit_exceeded", "x"),
    );
    assert_eq!(
        (ramp.limit, ramp.stop_for),
        (Some(LimitKind::Ramp), secs(4))
    );
    let message = "Number of concurrent connections has exceeded your rate limit.";
    let open = judged(429, &[("x-should-retry", "true")], &worded(message));
    assert_eq!(
        (open.limit, open.stop_for),
        (Some(LimitKind::Connections), None)
    );
}

#[test]
fn the_fast_mode_stops_only_itself() {
    for name in [
        "anthropic-fast-input-tokens-remaining",
        "anthropic-fast-output-tokens-remaining",
    ] {
        let seen = judged(429, &[(name, "0"), ("retry-after", "1")], &worded(PLAIN));
        assert_eq!(seen.limit, Some(LimitKind::FastMode));
        assert_eq!((seen.stop_for, seen.verdict.not_before), (None, secs(1)));
    }
    let some = [
        ("anthropic-fast-input-tokens-remaining", "1000"),
        ("retry-after", "1"),
    ];
    assert_eq!(
        judged(429, &some, &worded(PLAIN)).limit,
        bucket(NONE, false)
    );
}

#[test]
fn a_spend_cap_lasts_to_its_date_and_is_not_sent_again() {
    let date = |text: &str| text.parse::<Timestamp>().expect("a time");
    let december = date("2026-12-01T00:00:00Z");
    let tomorrow = date("2026-11-25T00:00:00Z");
    let dated = "You will regain access on 2026-11-25 at 00:00 UTC.";
    let own = "You have reached your specified API usage limits. ";
    let gone = "You will regain access on 2026-11-20 at 00:00 UTC.";
    for (status, headers, body, until, stop_for) in [
        (429, vec![], coded("enforced_spend_limit_reached", "x"), Some(december), secs(561_600)),
        (429, vec![], coded("enforced_spend_limit_reached", dated), Some(tomorrow), secs(43_200)),
        (429, vec![("x-should-retry", "true")], coded("contract_spend_limit_reached", "x"), None, Some(UNTOLD_CAP)),
        (429, vec![("retry-after", "90")], coded("contract_spend_limit_reached", "x"), None, secs(90)),
        (402, vec![], coded("linked_organization_spend_limit_reached", "x"), None, Some(UNTOLD_CAP)),
        (400, vec![], worded(&format!("{own}{dated}")), Some(tomorrow), secs(43_200)),
        (400, vec![], worded(own), None, Some(UNTOLD_CAP)),
        (400, vec![], worded(&format!("{own}{gone}")), Some(date("2026-11-20T00:00:00Z")), Some(UNTOLD_CAP)),
        (429, vec![], r#"{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}"#.to_owned(), None, Some(UNTOLD_CAP)),
        // The provider's own gateway names no code.
        (429, vec![("x-should-retry", "false")], worded("Spend limit reached"), None, Some(UNTOLD_CAP)),
    ] {
        let seen = judged(status, &headers, &body);
        assert_eq!(seen.limit, Some(LimitKind::SpendCap { until }), "{status} {body}");
        assert_eq!(seen.stop_for, stop_for, "{status} {body}");
        assert_eq!((seen.verdict.blame, seen.verdict.again), (Blame::Credential, Again::Elsewhere));
    }
    let unsaid = judge_stream_error(&coded("enforced_spend_limit_reached", "x"), now());
    assert_eq!(unsaid.stop_for, secs(561_600));
}

#[test]
fn a_refusal_that_names_no_limit_is_taken_for_no_spend_cap() {
    for headers in [&[][..], &[("retry-after", "0")]] {
        let headers = [&[("x-should-retry", "false")], headers].concat();
        let seen = judged(429, &headers, &worded("rate limited"));
        assert_eq!(
            (seen.limit, seen.stop_for),
            (Some(LimitKind::Unnamed), None)
        );
        assert_eq!(
            (seen.verdict.blame, seen.verdict.again, seen.verdict.cause()),
            (Blame::Quota, Again::Elsewhere, Cause::Quota)
        );
        assert!(!seen.advice("the caller").contains("spend"));
    }
}

#[test]
fn a_subscriptions_window_says_which_and_until_when() {
    let reset = (now().as_second() + 13_262).to_string();
    let week = (now().as_second() + 86_400).to_string();
    let rejected = ("anthropic-ratelimit-unified-status", "rejected");
    let at = ("anthropic-ratelimit-unified-reset", reset.as_str());
    let claim = |name| ("anthropic-ratelimit-unified-representative-claim", name);
    for (headers, expected, stop_for) in [
        (
            vec![rejected, at, claim("five_hour")],
            Some(Claim::FiveHours),
            secs(13_262),
        ),
        (
            vec![rejected, at, claim("seven_day_opus")],
            Some(Claim::SevenDaysOpus),
            secs(13_262),
        ),
        (vec![rejected, at, claim("new_one")], None, secs(13_262)),
        (
            vec![
                rejected,
                claim("seven_day"),
                ("anthropic-ratelimit-unified-7d-reset", week.as_str()),
            ],
            Some(Claim::SevenDays),
            secs(86_400),
        ),
        (vec![rejected, ("retry-after", "13262")], None, secs(13_262)),
        (
            vec![
                rejected,
                at,
                ("anthropic-ratelimit-unified-fallback-percentage", "0.5"),
            ],
            None,
            None,
        ),
    ] {
        let seen = judged(429, &headers, &worded(PLAIN));
        assert_eq!(
            seen.limit,
            Some(LimitKind::Window { claim: expected }),
            "{headers:?}"
        );
        assert_eq!(seen.stop_for, stop_for, "{headers:?}");
    }
    let allowed = [("anthropic-ratelimit-unified-status", "allowed"), at];
    assert_eq!(
        judged(429, &allowed, &worded(PLAIN)).limit,
        bucket(NONE, false)
    );
}

#[test]
fn what_is_no_limits_word_has_no_limit() {
    for status in [200, 400, 401, 403, 404, 413, 500, 503, 529] {
        let headers = [
            ("retry-after", "9"),
            ("anthropic-ratelimit-requests-remaining", "0"),
        ];
        let seen = judged(status, &headers, &worded(PLAIN));
        assert_eq!((seen.limit, seen.stop_for), (None, None), "{status}");
    }
}

proptest! {
    #[test]
    fn every_429_has_a_kind_and_no_stop_is_endless(
        values in prop::collection::vec(prop::collection::vec(0x20_u8..=0x7E, 0..30), 16),
        message in ".*",
        second in any::<i64>(),
    ) {
        let mut map = HeaderMap::new();
        for (name, value) in [
            "retry-after", "x-should-retry", "anthropic-ratelimit-requests-remaining",
            "anthropic-ratelimit-input-tokens-limit", "anthropic-ratelimit-input-tokens-remaining",
            "anthropic-ratelimit-unified-status", "anthropic-ratelimit-unified-reset",
            "anthropic-ratelimit-unified-5h-utilization", "anthropic-ratelimit-unified-7d-reset",
            "anthropic-ratelimit-unified-representative-claim", "anthropic-fast-input-tokens-remaining",
            "x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests",
            "x-ratelimit-limit-tokens", "x-ratelimit-reset-tokens",
        ].into_iter().zip(&values) {
            map.insert(name, HeaderValue::from_bytes(value).expect("visible characters"));
        }
        let now = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
        for now in [now, Timestamp::MIN, Timestamp::MAX] {
            for body in [worded(&message), coded("enforced_spend_limit_reached", "x"), message.clone()] {
                let seen = judge(StatusCode::TOO_MANY_REQUESTS, &map, body.as_bytes(), now);
                proptest::prop_assert!(seen.limit.is_some());
                // A month, or the longest wait that a header can command.
                proptest::prop_assert!(seen.stop_for.is_none_or(|stop| stop <= Duration::from_hours(24 * 50)));
            }
        }
    }
}
