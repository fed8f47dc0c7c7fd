//! What a client is told, call after call, while the provider's limit stops its quota.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::Response;
use serde_json::Value;

use crate::served::{Scripted, Served, answer};

/// Two models on one credential, and a text for when nothing else is left.
const LADDER: &str = r#"
[targets.up]
[targets.second]
model = "claude-haiku-5-5"
[routes.default]
ladder = ["up", "second", "static"]
wait = "1ms"
static = { text = "away" }
"#;

const ONE: &str = r#"
[targets.up]
[routes.default]
ladder = ["up"]
retry = { attempts = 1 }
wait = "1ms"
"#;

fn too_many(headers: &str, body: &str) -> String {
    let headers = format!("content-type: application/json\r\n{headers}");
    answer("429 Too Many Requests", &headers, body)
}

const PLAIN: &str =
    r#"{"type":"error","error":{"type":"rate_limit_error","message":"rate limited"}}"#;

async fn call(served: &Served, model: &str) -> Told {
    let body = format!(
        r#"{{"model":"{model}","max_tokens":20,"messages":[{{"role":"user","content":"Hello"}}]}}"#
    );
    let answer = served.post("/v1/messages").body(body).send().await;
    Told::read(answer.unwrap()).await
}

/// What a client acts on.
#[derive(Debug)]
struct Told {
    status: u16,
    should_retry: Option<String>,
    retry_after: Option<u64>,
    cause: Option<String>,
    error: Value,
}

impl Told {
    async fn read(answer: Response) -> Self {
        let header = |name| {
            let value = answer.headers().get(name)?;
            Some(value.to_str().unwrap().to_owned())
        };
        let (should_retry, cause) = (header("x-should-retry"), header("x-seawall-cause"));
        let retry_after = header("retry-after").map(|seconds| seconds.parse().unwrap());
        let status = answer.status().as_u16();
        let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        Self {
            status,
            should_retry,
            retry_after,
            cause,
            error: body["error"].clone(),
        }
    }
}

/// Status, answer and what is said of its end, of each form that a spend cap's refusal has.
fn caps() -> [(u16, String, &'static str); 3] {
    let spent = |status, kind: &str, code: &str, message: &str| {
        let body = format!(
            r#"{{"type":"error","error":{{"type":"{kind}","message":"{message}"{code}}}}}"#
        );
        let headers = "content-type: application/json\r\nx-should-retry: false\r\n";
        answer(status, headers, &body)
    };
    let code = r#","details":{"error_code":"enforced_spend_limit_reached"}"#;
    let own = "You have reached your specified API usage limits.";
    let date = " You will regain access on 2126-01-01 at 00:00 UTC.";
    let (bad, invalid) = ("400 Bad Request", "invalid_request_error");
    let enforced = spent("429 Too Many Requests", "rate_limit_error", code, date);
    [
        (429, enforced, "2126-01-01 00:00 UTC"),
        (
            400,
            spent(bad, invalid, "", &format!("{own}{date}")),
            "2126-01-01 00:00 UTC",
        ),
        (
            400,
            spent(bad, invalid, "", own),
            "Whether it still is shows a call after 5",
        ),
    ]
}

#[tokio::test]
async fn a_spend_cap_is_told_alike_at_every_call_and_no_client_sleeps_for_it() {
    for (status, says, named) in caps() {
        let provider = Scripted::answering(says).await;
        let served = Served::start(provider.address, LADDER, &[]);
        let first = call(&served, "claude-sonnet-5-5").await;
        assert_eq!(
            (first.status, first.should_retry.as_deref()),
            (status, Some("false"))
        );
        // The cap is the credential's, and so is every other model's.
        for model in [
            "claude-sonnet-5-5",
            "claude-sonnet-5-5",
            "claude-opus-5-5",
            "claude-haiku-5-5",
        ] {
            let later = call(&served, model).await;
            assert_eq!(
                (
                    later.status,
                    later.should_retry.as_deref(),
                    later.retry_after,
                    later.cause
                ),
                (status, Some("false"), None, None)
            );
            for same in ["type", "details"] {
                assert_eq!(later.error[same], first.error[same]);
            }
            let message = later.error["message"].as_str().unwrap();
            for part in ["seawall: ", "spend limit", "the caller's own header", named] {
                assert!(message.contains(part), "{message}");
            }
        }
        assert_eq!(provider.arrived().len(), 1);
        let status = served
            .client
            .get(format!("{}/_seawall/status", served.base));
        let status = status.send().await.unwrap().bytes().await.unwrap();
        let status: Value = serde_json::from_slice(&status).unwrap();
        for limiter in status["limiters"].as_array().unwrap() {
            assert_eq!(limiter["stopped_by"], "spend_cap", "{limiter}");
        }
    }
}

#[tokio::test]
async fn a_limit_without_a_name_stops_nobody() {
    let provider = Scripted::answering(too_many("x-should-retry: false\r\n", PLAIN)).await;
    let served = Served::start(provider.address, ONE, &[]);
    for calls in 1..=3 {
        let told = call(&served, "claude-sonnet-5-5").await;
        assert_eq!(
            (told.status, told.error["message"].as_str()),
            (429, Some("rate limited"))
        );
        assert_eq!(told.should_retry.as_deref(), Some("false"));
        assert_eq!(provider.arrived().len(), calls);
    }
}

#[tokio::test]
async fn an_empty_bucket_is_back_when_the_provider_says_and_not_when_it_is_full() {
    let full = Timestamp::now() + Duration::from_secs(60);
    let headers = format!(
        "retry-after: 30\r\nanthropic-ratelimit-requests-limit: 60\r\n\
         anthropic-ratelimit-requests-remaining: 0\r\nanthropic-ratelimit-requests-reset: {full:.0}\r\n"
    );
    let provider = Scripted::answering(too_many(&headers, PLAIN)).await;
    let served = Served::start(provider.address, ONE, &[]);
    call(&served, "claude-sonnet-5-5").await;
    let told = call(&served, "claude-sonnet-5-5").await;
    assert_eq!(told.should_retry.as_deref(), Some("true"));
    assert!(matches!(told.retry_after, Some(20..=30)), "{told:?}");
    assert_eq!(provider.arrived().len(), 1);
}

#[tokio::test]
async fn a_bucket_that_refuses_though_full_is_asked_twice_and_then_left_alone() {
    let headers = "retry-after: 30\r\nanthropic-ratelimit-requests-limit: 1000\r\n\
         anthropic-ratelimit-requests-remaining: 1000\r\n";
    let provider = Scripted::answering(too_many(headers, PLAIN)).await;
    let served = Served::start(provider.address, ONE, &[]);
    for calls in 1..=6 {
        let told = call(&served, "claude-sonnet-5-5").await;
        assert_eq!(told.status, 429);
        assert!(matches!(told.retry_after, Some(20..=30)), "{told:?}");
        assert_eq!(provider.arrived().len(), calls.min(2));
    }
}

#[tokio::test]
async fn no_client_is_asked_to_come_back_after_longer_than_a_call_may_last() {
    for (wait, again) in [("590", "true"), ("3600", "false")] {
        let headers = format!("retry-after: {wait}\r\n");
        let provider = Scripted::answering(too_many(&headers, PLAIN)).await;
        let served = Served::start(provider.address, ONE, &[]);
        call(&served, "claude-sonnet-5-5").await;
        let told = call(&served, "claude-sonnet-5-5").await;
        assert_eq!(
            (told.status, told.should_retry.as_deref()),
            (429, Some(again))
        );
        assert!(told.retry_after.is_some());
        assert_eq!(provider.arrived().len(), 1);
    }
}
