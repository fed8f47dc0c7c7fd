//! What clients do to a gateway, one after the other to the same process: each is answered in the
//! provider's shape or cut off, nothing stays in flight, no secret shows, and the next is served.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use seawall::sim::{Fault, FaultKind, Sim};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::process::{BOUND, Gateway, ONE_ATTEMPT, instant, request, sim};

/// A key that must show nowhere.
const SECRET: &str = "sk-ant-api03-never-to-be-seen";

const CONFIG: &str = "[gateway]\nheader_timeout = \"300ms\"\nlog_level = \"trace\"\n";

/// A client that writes bytes itself.
struct Raw(TcpStream);

impl Raw {
    async fn connect(gateway: &Gateway) -> Self {
        Self(TcpStream::connect(gateway.address()).await.unwrap())
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// The head of a request, all but the empty line at its end.
    async fn head(&mut self, more: &str) {
        let head = format!(
            "POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nx-api-key: {SECRET}\r\n\
             anthropic-version: 2023-06-01\r\n{more}"
        );
        self.write(head.as_bytes()).await;
    }

    /// Everything up to the end of the connection.
    async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        let end = tokio::time::timeout(BOUND, self.0.read_to_end(&mut bytes)).await;
        end.unwrap().unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// One answer with a stated length.
    async fn answer(&mut self) -> (String, Value) {
        let read = async {
            let mut bytes = Vec::new();
            loop {
                assert!(self.0.read_buf(&mut bytes).await.unwrap() > 0, "cut off");
                let text = String::from_utf8(bytes.clone()).unwrap();
                if let Some((head, body)) = text.split_once("\r\n\r\n")
                    && let Ok(body) = serde_json::from_str(body)
                {
                    return (head.to_owned(), body);
                }
            }
        };
        tokio::time::timeout(BOUND, read).await.unwrap()
    }
}

fn in_the_providers_shape(body: &Value, kind: &str) {
    assert_eq!(
        (&body["type"], &body["error"]["type"]),
        (&"error".into(), &kind.into())
    );
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .starts_with("seawall"),
        "{body}"
    );
    assert!(!body.to_string().contains(SECRET));
}

/// The client sends all of its body before it reads; the answer must still be there.
async fn a_large_body(gateway: &Gateway, chunked: bool) {
    const SIZE: usize = 40 << 20;
    let mut raw = Raw::connect(gateway).await;
    if chunked {
        raw.head("transfer-encoding: chunked\r\n\r\n").await;
        let chunk = vec![b' '; 1 << 20];
        for _ in 0..SIZE >> 20 {
            raw.write(b"100000\r\n").await;
            raw.write(&chunk).await;
            raw.write(b"\r\n").await;
        }
        raw.write(b"0\r\n\r\n").await;
    } else {
        raw.head(&format!("content-length: {SIZE}\r\n\r\n")).await;
        raw.write(&vec![b' '; SIZE]).await;
    }
    let (head, body) = raw.answer().await;
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
    in_the_providers_shape(&body, "request_too_large");
}

/// A client that asks before it sends is told at once, and nothing is read.
async fn a_large_body_that_waits_to_be_asked_for(gateway: &Gateway) {
    let mut raw = Raw::connect(gateway).await;
    raw.head("content-length: 99999999\r\nexpect: 100-continue\r\n\r\n")
        .await;
    let (head, body) = raw.answer().await;
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
    in_the_providers_shape(&body, "request_too_large");
}

async fn a_body_that_is_no_json(gateway: &Gateway) {
    for body in ["{no json", "", "[]", "\u{0}"] {
        let answer = gateway
            .post("/v1/messages")
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 400, "{body}");
        let text = answer.text().await.unwrap();
        in_the_providers_shape(
            &serde_json::from_str(&text).unwrap(),
            "invalid_request_error",
        );
    }
}

async fn slow_headers(gateway: &Gateway) {
    let mut raw = Raw::connect(gateway).await;
    raw.head("x-more: ").await;
    let rest = raw.rest().await;
    assert!(
        rest.is_empty() || rest.starts_with("HTTP/1.1 408"),
        "{rest}"
    );
}

async fn oversized_headers(gateway: &Gateway) {
    let mut raw = Raw::connect(gateway).await;
    raw.head("x-more: ").await;
    let mut start = [0; 12];
    let filler = [b'a'; 1024];
    let (mut answer, mut request) = raw.0.split();
    let on_and_on = async { while request.write_all(&filler).await.is_ok() {} };
    let both = async { tokio::join!(answer.read_exact(&mut start), on_and_on).0 };
    let read = tokio::time::timeout(BOUND, both).await.unwrap();
    read.unwrap();
    assert_eq!(&start, b"HTTP/1.1 431");
}

async fn a_body_that_never_comes(gateway: &Gateway) {
    let mut raw = Raw::connect(gateway).await;
    raw.head("content-length: 50\r\n\r\nhalf").await;
    drop(raw);
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(BOUND, wait).await.is_ok(), "{what}");
}

/// A client that hangs up while it waits, and one that does in the middle of a stream.
async fn hanging_up(gateway: &Gateway, provider: &Arc<Sim>) {
    provider
        .set_faults(vec![Fault::new(FaultKind::StallBeforeContent)])
        .unwrap();
    let waiting = gateway.post("/v1/messages").body(request(false)).send();
    tokio::select! {
        answer = waiting => panic!("a stalled provider answered: {answer:?}"),
        () = until("the call arrived", || provider.stats().in_flight == 1) => {}
    }
    gateway.idle().await;
    until("the provider is left", || provider.stats().in_flight == 0).await;

    provider
        .set_faults(vec![Fault::new(FaultKind::StallInStream)])
        .unwrap();
    let answer = gateway
        .post("/v1/messages")
        .body(request(true))
        .send()
        .await
        .unwrap();
    let mut chunks = answer.bytes_stream();
    let first = tokio::time::timeout(BOUND, chunks.next()).await.unwrap();
    assert!(first.unwrap().unwrap().starts_with(b"event: message_start"));
    assert_eq!(provider.stats().in_flight, 1);
    drop(chunks);
    gateway.idle().await;
    until("the provider is left", || provider.stats().in_flight == 0).await;
    provider.set_faults(Vec::new()).unwrap();
}

async fn a_good_call(gateway: &Gateway) {
    let answer = gateway
        .post("/v1/messages")
        .header("x-api-key", SECRET)
        .body(request(false))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(body["type"], "message");
}

#[tokio::test]
async fn one_process_outlives_everything_that_clients_do() {
    let (address, provider) = sim(instant(Vec::new())).await;
    let mut gateway = Gateway::start(address, CONFIG);
    a_good_call(&gateway).await;
    a_large_body(&gateway, false).await;
    a_large_body(&gateway, true).await;
    a_large_body_that_waits_to_be_asked_for(&gateway).await;
    a_body_that_is_no_json(&gateway).await;
    slow_headers(&gateway).await;
    oversized_headers(&gateway).await;
    a_body_that_never_comes(&gateway).await;
    hanging_up(&gateway, &provider).await;
    provider
        .set_faults(vec![Fault::new(FaultKind::Authentication)])
        .unwrap();
    let refused = gateway.post("/v1/messages").header("x-api-key", SECRET);
    assert_eq!(
        refused.body(request(false)).send().await.unwrap().status(),
        401
    );
    provider.set_faults(Vec::new()).unwrap();

    gateway.idle().await;
    assert!(
        gateway.process.try_wait().unwrap().is_none(),
        "still the same process"
    );
    let log = gateway.log();
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "{log}");
    let shown = [
        log,
        gateway.status().await.to_string(),
        gateway.get("/_seawall/metrics").await,
        gateway.get("/_seawall/").await,
    ];
    for text in shown {
        assert!(
            !text.contains(SECRET) && !text.contains("sk-test"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_gateway_without_an_upstream_says_so_and_stays() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut gateway = Gateway::start(address, ONE_ATTEMPT);
    for _ in 0..3 {
        let answer = gateway
            .post("/v1/messages")
            .body(request(false))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 502);
        let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        in_the_providers_shape(&body, "api_error");
    }
    gateway.idle().await;
    assert!(gateway.process.try_wait().unwrap().is_none());
    assert_eq!(gateway.get("/_seawall/health").await, "ok\n");
}
