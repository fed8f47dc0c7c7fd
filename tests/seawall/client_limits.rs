//! What each client of the gateway may use, over real sockets.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Response;
use seawall::sim::{Fault, FaultKind};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use crate::process::{BOUND, Gateway, instant, request, sim};
use crate::served::{Scripted, Served, answer};

/// Clients `a`, `b` and `c` with the keys "test", "other" and "third"; `b` has the default.
fn config(default: &str, a: &str, c: &str) -> String {
    format!(
        "[gateway]\nlimits = {default}\nclient_keys = [\n\
         {{ name = \"a\", limits = {a}, sha256 = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\" }},\n\
         {{ name = \"b\", sha256 = \"d9298a10d1b0735837dc4bd85dac641b0f3cef27a47e5d53a54f2f3f5b2fcffa\" }},\n\
         {{ name = \"c\", limits = {c}, sha256 = \"b1e99324505bd32da0e1f85dcf5e19a09db0481e8a15f62c41eb320304a8e927\" }},\n\
         ]\n[targets.up]\napi_key_env = \"UPSTREAM_KEY\"\n[routes.default]\nladder = [\"up\"]\n"
    )
}

const UPSTREAM_KEY: [(&str, &str); 1] = [("UPSTREAM_KEY", "sk-up")];

async fn ask(gateway: &Served, key: &str, stream: bool) -> Response {
    let asked = gateway
        .client
        .post(format!("{}/v1/messages", gateway.base))
        .header("x-api-key", key)
        .header("anthropic-version", "2023-06-01")
        .header("content-type", "application/json");
    asked.body(request(stream)).send().await.unwrap()
}

/// A page of the gateway's own, which asks for a key too.
async fn own(gateway: &Served, path: &str) -> String {
    let url = format!("{}{path}", gateway.base);
    let page = gateway.client.get(url).header("x-api-key", "test").send();
    page.await.unwrap().text().await.unwrap()
}

/// Waits, bounded, until nothing is in flight.
async fn idle(gateway: &Served) {
    let idle = async {
        loop {
            let status: Value =
                serde_json::from_str(&own(gateway, "/_seawall/status").await).unwrap();
            if status["in_flight"] == 0 && status["pool"]["running"] == 0 {
                return;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(BOUND, idle).await.unwrap();
}

fn millis(answer: &Response) -> u64 {
    let millis = answer.headers()["retry-after-ms"].to_str().unwrap();
    millis.parse().unwrap()
}

async fn message(answer: Response) -> String {
    let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    assert_eq!(body["type"], "error");
    assert_eq!(body["error"]["type"], "rate_limit_error");
    body["error"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn exactly_what_a_client_may_is_let_in_and_others_do_not_notice() {
    let (address, sim) = sim(instant(Vec::new())).await;
    let config = config(
        "{ requests_per_minute = 600 }",
        "{ requests_per_minute = 10 }",
        "{}",
    );
    let gateway = Served::start(address, &config, &UPSTREAM_KEY);
    let began = Instant::now();
    let (of_a, of_b) = tokio::join!(
        join_all((0..25).map(|_| ask(&gateway, "test", false))),
        join_all((0..25).map(|_| ask(&gateway, "other", false))),
    );
    assert!(
        began.elapsed() < Duration::from_secs(6),
        "another is free after 6 s"
    );
    assert!(of_b.iter().all(|answer| answer.status() == 200));
    let (admitted, refused): (Vec<_>, Vec<_>) =
        of_a.into_iter().partition(|answer| answer.status() == 200);
    assert_eq!((admitted.len(), refused.len()), (10, 15));
    assert_eq!(
        sim.stats().attempts,
        35,
        "a refusal costs the provider nothing"
    );
    for answer in refused {
        assert_eq!(answer.status(), 429);
        assert_eq!(answer.headers()["x-should-retry"], "true");
        assert_eq!(answer.headers()["x-seawall-attempts"], "0");
        let wait = millis(&answer);
        assert!((1..=6_000).contains(&wait), "{wait}");
        let seconds = answer.headers()["retry-after"].to_str().unwrap();
        assert_eq!(seconds, wait.div_ceil(1_000).to_string());
        let message = message(answer).await;
        let named =
            "seawall: the client `a` has used up its requests_per_minute of 10; come again after 2";
        assert!(
            message.starts_with(named) && message.ends_with('Z'),
            "{message}"
        );
    }
    let metrics = own(&gateway, "/_seawall/metrics").await;
    let counted = r#"seawall_client_refusals_total{client="a",limit="requests_per_minute"} 15"#;
    assert!(metrics.contains(counted), "{metrics}");
    idle(&gateway).await;
    let status = own(&gateway, "/_seawall/status").await;
    let clients = &serde_json::from_str::<Value>(&status).unwrap()["clients"];
    assert_eq!(clients["known"], 2);
    let a = &clients["first"][0];
    assert_eq!((&a["client"], &a["tokens"]), (&"a".into(), &Value::Null));
    assert_eq!(a["requests"]["per_minute"], 10);
    // One comes back every 6 s.
    assert!(a["requests"]["left"].as_i64().unwrap() < 10, "{a}");
    assert!(!status.contains("9f86d081") && !status.contains("sk-up"));
}

#[tokio::test]
async fn who_comes_again_when_told_is_let_in() {
    let (address, _sim) = sim(instant(Vec::new())).await;
    let config = config("{}", "{}", "{ requests_per_minute = 600 }");
    let gateway = Served::start(address, &config, &UPSTREAM_KEY);
    let answers = join_all((0..200).map(|_| ask(&gateway, "third", false))).await;
    let refused = answers.iter().filter(|answer| answer.status() == 429);
    let waits: Vec<u64> = refused.map(millis).collect();
    assert!(
        !waits.is_empty() && waits.iter().all(|wait| *wait <= 100),
        "{waits:?}"
    );
    let refused = async {
        loop {
            let answer = ask(&gateway, "third", false).await;
            if answer.status() == 429 {
                return answer;
            }
        }
    };
    let refused = timeout(BOUND, refused).await.unwrap();
    sleep(Duration::from_millis(millis(&refused))).await;
    assert_eq!(ask(&gateway, "third", false).await.status(), 200);
}

#[tokio::test]
async fn a_stream_has_its_place_until_its_client_leaves() {
    let stall = Fault {
        after_events: Some(6),
        ..Fault::new(FaultKind::StallInStream)
    };
    let (address, sim) = sim(instant(vec![stall])).await;
    let config = config("{ concurrent_streams = 2 }", "{}", "{}");
    let gateway = Served::start(address, &config, &UPSTREAM_KEY);
    let mut first = ask(&gateway, "test", true).await;
    let mut second = ask(&gateway, "test", true).await;
    for stream in [&mut first, &mut second] {
        assert_eq!(stream.status(), 200);
        assert!(stream.chunk().await.unwrap().is_some());
    }
    let third = ask(&gateway, "test", true).await;
    assert_eq!(third.status(), 429);
    assert_eq!(third.headers()["retry-after"], "1");
    let message = message(third).await;
    let named = "the client `a` has 2 answers under way, as many as its concurrent_streams allows";
    assert!(message.contains(named), "{message}");
    let of_another = ask(&gateway, "other", true).await;
    assert_eq!(of_another.status(), 200);
    assert_eq!(sim.stats().attempts, 3);
    drop(first);
    let left = Instant::now();
    let let_in = async { while ask(&gateway, "test", true).await.status() != 200 {} };
    timeout(BOUND, let_in).await.unwrap();
    assert!(
        left.elapsed() < Duration::from_secs(1),
        "long before any timeout"
    );
    drop((second, of_another));
    idle(&gateway).await;
}

#[tokio::test]
async fn tokens_beyond_the_estimate_are_a_debt_that_is_waited_for() {
    // A minute's tokens and 150 ms more; the other answers are short.
    let long = r#"{"type":"message","id":"msg_1","role":"assistant","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","usage":{"input_tokens":10,"output_tokens":60150}}"#;
    let provider =
        Scripted::answering(answer("200 OK", "content-type: application/json\r\n", long)).await;
    let config = "[gateway.limits]\ntokens_per_minute = 60000\n";
    let gateway = Gateway::start(provider.address, config);
    let ask = || gateway.post("/v1/messages").body(request(false)).send();
    assert_eq!(ask().await.unwrap().status(), 200);
    let refused = ask().await.unwrap();
    assert_eq!(refused.status(), 429);
    let wait = millis(&refused);
    assert!((1..=300).contains(&wait), "{wait}");
    let message = message(refused).await;
    let named = "the client at 127.0.0.1 has used up its tokens_per_minute of 60000";
    assert!(message.contains(named), "{message}");
    sleep(Duration::from_millis(wait)).await;
    assert_eq!(ask().await.unwrap().status(), 200);
    assert_eq!(provider.arrived().len(), 2);
    let metrics = gateway.get("/_seawall/metrics").await;
    let counted = r#"{client="(address)",limit="tokens_per_minute"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    let logged = async {
        while !gateway.log().contains("refused over its limit") {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(BOUND, logged).await.unwrap();
}

#[tokio::test]
async fn a_call_that_never_began_is_charged_nothing() {
    let (address, _sim) = sim(instant(Vec::new())).await;
    let config = "[gateway.limits]\ntokens_per_minute = 1000\nconcurrent_streams = 1\n";
    let gateway = Gateway::start(address, config);
    let large = request(false).replace("hello", &"hello ".repeat(400));
    for _ in 0..20 {
        let unknown_route = gateway
            .post("/v1/messages")
            .header("x-seawall-route", "nowhere")
            .body(large.clone());
        let answer = unknown_route.send().await.unwrap();
        assert!(
            answer.status().is_client_error() && answer.status() != 429,
            "{answer:?}"
        );
    }
    let answer = gateway
        .post("/v1/messages")
        .body(large.clone())
        .send()
        .await;
    assert_eq!(answer.unwrap().status(), 200);
}
