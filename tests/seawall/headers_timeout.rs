//! A provider that takes a request and says nothing, over real sockets: how soon that is noticed.
//!
//! Where the time to connect counts against the headers, or theirs begins late, these tests meet
//! their own bound.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Method};
use seawall::sim::{Fault, FaultKind};
use seawall::transport::http::HttpTransport;
use seawall::transport::{Broken, Request, Transport};
use serde_json::Value;
use tokio::net::TcpListener;

use crate::process::{BOUND, Gateway, instant, request, sim};

/// Nothing connects as slowly within a test's bound.
const PATIENT: Duration = Duration::from_secs(60);

/// Longer than a healthy answer of the simulated provider takes on a busy machine.
const SOON: Duration = Duration::from_secs(1);

fn asking(address: &str) -> Request {
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", HeaderValue::from_static("sk-test"));
    headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    Request {
        method: Method::POST,
        uri: address.parse().unwrap(),
        headers,
        body: Bytes::from(request(true)),
    }
}

async fn broken(transport: &HttpTransport, request: Request, patience: Duration) -> Broken {
    let sending = transport.send_within(request, patience);
    let sent = tokio::time::timeout(BOUND, sending).await;
    sent.expect("within the test's bound").unwrap_err().kind
}

#[tokio::test]
async fn headers_are_waited_for_from_the_connection_be_it_new_or_pooled() {
    let (address, sim) = sim(instant(Vec::new())).await;
    let silent = Fault::new(FaultKind::NoAnswer);
    let question = asking(&format!("http://{address}/v1/messages"));
    // Either way to send: right after another exchange, and after a rest.
    for rest in [PATIENT, Duration::ZERO] {
        let transport = HttpTransport::new(PATIENT).unwrap().stale_after(rest);
        sim.set_faults(vec![silent.clone()]).unwrap();
        let new = broken(&transport, question.clone(), SOON).await;
        assert_eq!(new, Broken::HeadersTimeout);
        sim.set_faults(Vec::new()).unwrap();
        let answer = transport
            .send_within(question.clone(), BOUND)
            .await
            .unwrap();
        assert_eq!(answer.status, 200);
        // Read to its end, its connection goes back to the pool.
        assert!(answer.body.all(|chunk| async move { chunk.is_ok() }).await);
        sim.set_faults(vec![silent.clone()]).unwrap();
        let pooled = broken(&transport, question.clone(), SOON).await;
        assert_eq!(pooled, Broken::HeadersTimeout);
    }
}

#[tokio::test]
async fn the_time_to_connect_is_not_the_headers() {
    // It accepts and speaks no TLS.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}/", mute.local_addr().unwrap());
    for rest in [PATIENT, Duration::ZERO] {
        let transport = HttpTransport::new(SOON).unwrap().stale_after(rest);
        let at_once = Duration::from_millis(1);
        let kind = broken(&transport, asking(&address), at_once).await;
        assert_eq!(kind, Broken::ConnectTimeout);
    }
}

#[tokio::test]
async fn a_client_of_the_gateway_hears_of_a_hung_provider_when_the_headers_are_late() {
    let (address, sim) = sim(instant(Vec::new())).await;
    let config = "[routes.default]\nladder = [\"up\"]\nretry = { attempts = 1 }\n\
                  timeouts = { connect = \"60s\", headers = \"1s\", total = \"5m\" }\n[targets.up]\n";
    let gateway = Gateway::start(address, config);
    let ask = || gateway.post("/v1/messages").body(request(true)).send();
    // Its connection is kept, so the second meets a warm one.
    let healthy = ask().await.unwrap();
    assert!(healthy.text().await.unwrap().contains("message_stop"));
    let silent = Fault::new(FaultKind::NoAnswer);
    sim.set_faults(vec![silent]).unwrap();
    for _ in 0..2 {
        let late = tokio::time::timeout(BOUND, ask()).await;
        let late = late.expect("within the test's bound").unwrap();
        assert_eq!(late.status(), 504);
        let body: Value = serde_json::from_str(&late.text().await.unwrap()).unwrap();
        assert_eq!(body["error"]["type"], "timeout_error");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains("headers timeout"), "{message}");
    }
}
