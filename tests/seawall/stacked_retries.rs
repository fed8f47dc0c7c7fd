//! A client with a retry loop of its own in front of seawall's.

use serde_json::Value;

use crate::served::{MESSAGE, Scripted, Served, answer, request};

const THREE: &str = "[targets.up]\n[routes.default]\nladder = [\"up\"]\n\
    retry = { attempts = 3, base = \"2ms\", cap = \"10ms\" }\n";
const ONE: &str = "[targets.up]\n[routes.default]\nladder = [\"up\"]\nretry = { attempts = 1 }\n";

const OVERLOADED: &str =
    r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;

fn overloaded(headers: &str) -> String {
    let headers = format!("content-type: application/json\r\n{headers}");
    answer("529 Overloaded", &headers, OVERLOADED)
}

/// Attempts upstream, `x-should-retry` and `retry-after` of a call that the client numbers so.
async fn call(upstream: &str, config: &str, count: &str) -> (usize, [Option<String>; 2]) {
    let provider = Scripted::answering(upstream).await;
    let served = Served::start(provider.address, config, &[]);
    let answer = served
        .post("/v1/messages")
        .header("x-stainless-retry-count", count)
        .body(request(false))
        .send()
        .await
        .unwrap();
    let header = |name| {
        let value = answer.headers().get(name)?;
        Some(value.to_str().unwrap().to_owned())
    };
    let said = [header("x-should-retry"), header("retry-after")];
    served.idle().await;
    (provider.arrived().len(), said)
}

fn says(should_retry: &str) -> [Option<String>; 2] {
    [Some(should_retry.to_owned()), None]
}

#[tokio::test]
async fn a_first_request_is_retried_here_and_the_client_told_to_stop() {
    let provider = overloaded("x-should-retry: true\r\n");
    assert_eq!(call(&provider, THREE, "0").await, (3, says("false")));
}

#[tokio::test]
async fn a_clients_own_retry_makes_one_attempt_and_keeps_the_providers_word() {
    let provider = overloaded("x-should-retry: true\r\n");
    for count in ["1", "2", "4294967295"] {
        assert_eq!(call(&provider, THREE, count).await, (1, says("true")));
    }
    let silent = overloaded("");
    assert_eq!(call(&silent, THREE, "1").await, (1, [None, None]));
}

#[tokio::test]
async fn a_count_that_is_none_is_a_first_request() {
    let provider = overloaded("");
    for count in ["", "-1", "many", "1.5", "4294967296"] {
        assert_eq!(call(&provider, THREE, count).await.0, 3, "{count:?}");
    }
}

#[tokio::test]
async fn a_route_of_one_attempt_leaves_retrying_to_the_client() {
    let provider = overloaded("x-should-retry: true\r\nretry-after: 7\r\n");
    let (attempts, said) = call(&provider, ONE, "0").await;
    assert_eq!(attempts, 1);
    assert_eq!(said, [Some("true".to_owned()), Some("7".to_owned())]);
}

#[tokio::test]
async fn what_can_not_succeed_is_not_left_to_the_client() {
    let body = r#"{"type":"error","error":{"type":"invalid_request_error","message":"no"}}"#;
    let provider = answer(
        "400 Bad Request",
        "content-type: application/json\r\n",
        body,
    );
    for count in ["0", "1"] {
        assert_eq!(call(&provider, THREE, count).await, (1, says("false")));
    }
}

#[tokio::test]
async fn a_spent_call_keeps_the_providers_honest_hint() {
    let provider = overloaded("x-should-retry: true\r\nretry-after: 0.01\r\n");
    let (attempts, said) = call(&provider, THREE, "0").await;
    assert_eq!(attempts, 3);
    assert_eq!(said, [Some("false".to_owned()), Some("0.01".to_owned())]);
}

#[tokio::test]
async fn a_broken_connection_is_the_clients_to_retry_only_on_its_own_retry() {
    // A head without an end: the connection closes inside the answer.
    let half = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{";
    let (attempts, said) = call(half, THREE, "0").await;
    assert_eq!((attempts, said), (3, says("false")));
    let (attempts, said) = call(half, THREE, "1").await;
    assert_eq!((attempts, said), (1, [None, None]));
}

#[tokio::test]
async fn a_clients_retry_that_succeeds_is_an_answer_like_any_other() {
    let provider = Scripted::answering(crate::served::message()).await;
    let served = Served::start(provider.address, THREE, &[]);
    let asked = served
        .post("/v1/messages")
        .header("x-stainless-retry-count", "2");
    let answer = asked.body(request(false)).send().await.unwrap();
    assert_eq!(answer.headers().get("x-should-retry"), None);
    assert_eq!(answer.text().await.unwrap(), MESSAGE);
    // The count goes upstream as it came: the provider may want it too.
    assert_eq!(provider.only().header("x-stainless-retry-count"), ["2"]);
}

#[tokio::test]
async fn a_refusal_with_a_time_to_come_back_invites_the_client() {
    let provider = Scripted::answering(overloaded("")).await;
    let config = "[targets.up]\n[routes.default]\nladder = [\"up\"]\nprofile = \"interactive\"\n\
        retry = { attempts = 5, base = \"1ms\", cap = \"2ms\" }\n\
        timeouts = { first_content = \"1s\", stall = \"1s\", total = \"2s\" }\n\
        breaker = { open = \"30s\" }\n";
    let served = Served::start(provider.address, config, &[]);
    // Five hard failures in a row open the breaker.
    let first = served.post("/v1/messages").body(request(false)).send();
    assert_eq!(first.await.unwrap().status(), 529);
    assert_eq!(provider.arrived().len(), 5);
    let refused = served.post("/v1/messages").body(request(false)).send();
    let refused = refused.await.unwrap();
    assert_eq!(refused.headers()["x-should-retry"], "true");
    let wait: u64 = refused.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=30).contains(&wait), "{wait}");
    let body: Value = serde_json::from_slice(&refused.bytes().await.unwrap()).unwrap();
    assert_eq!(body["error"]["type"], "overloaded_error");
    assert_eq!(provider.arrived().len(), 5, "nothing more went out");
}
