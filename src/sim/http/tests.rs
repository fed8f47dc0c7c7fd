use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;
use crate::sim::{FaultKind, Settings};

const HELLO: &str =
    r#"{"model":"claude-sonnet-5","max_tokens":64,"messages":[{"role":"user","content":"hello"}]}"#;

/// A provider on a socket, and what stops it.
struct Running {
    sim: Arc<Sim>,
    address: std::net::SocketAddr,
    stop: oneshot::Sender<()>,
    done: JoinSet<io::Result<()>>,
}

async fn start(faults: Vec<Fault>) -> Running {
    let sim = Sim::new(Settings {
        instant: true,
        faults,
        ..Settings::default()
    })
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let mut done = JoinSet::new();
    done.spawn(serve(listener, Arc::clone(&sim), async {
        drop(stopped.await)
    }));
    Running {
        sim,
        address,
        stop,
        done,
    }
}

impl Running {
    async fn send(&self, head: &str, body: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let request = format!(
            "{head} HTTP/1.1\r\nhost: sim\r\nx-api-key: k\r\nanthropic-version: 2023-06-01\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        socket
    }

    /// Everything up to the end of the connection.
    async fn exchange(&self, head: &str, body: &str) -> (String, io::Result<()>) {
        let mut socket = self.send(head, body).await;
        let mut bytes = Vec::new();
        let end = socket.read_to_end(&mut bytes).await.map(drop);
        (String::from_utf8(bytes).unwrap(), end)
    }

    async fn until(&self, holds: impl Fn(&crate::sim::Stats) -> bool) {
        let wait = async {
            while !holds(&self.sim.stats()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait)
            .await
            .unwrap();
    }

    async fn stop(mut self) {
        self.stop.send(()).unwrap();
        let end = tokio::time::timeout(Duration::from_secs(20), self.done.join_next()).await;
        end.unwrap().unwrap().unwrap().unwrap();
        assert!(TcpStream::connect(self.address).await.is_err());
    }
}

#[tokio::test]
async fn an_answer_over_a_socket_is_whole_and_the_counters_agree() {
    let running = start(Vec::new()).await;
    let (answer, end) = running.exchange("POST /v1/messages", HELLO).await;
    assert!(end.is_ok());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["role"], "assistant");

    let (hello, _) = running.exchange("HEAD /api/hello", "").await;
    assert!(hello.starts_with("HTTP/1.1 200"), "{hello}");
    let (stats, _) = running.exchange("GET /_sim/stats", "").await;
    let stats: Value = serde_json::from_str(stats.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(
        (&stats["attempts"], &stats["in_flight"]),
        (&Value::from(2), &Value::from(0))
    );
    assert_eq!(stats["output_tokens"], body["usage"]["output_tokens"]);
    assert_eq!(stats["aborted"], 0);
    running.stop().await;
}

#[tokio::test]
async fn faults_are_replaced_while_it_runs_and_a_wrong_one_is_explained() {
    let running = start(Vec::new()).await;
    let faults = r#"[{"kind":"529","until":"1h"}]"#;
    let (answer, _) = running.exchange("POST /_sim/faults", faults).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let (answer, _) = running.exchange("POST /v1/messages", HELLO).await;
    assert!(answer.starts_with("HTTP/1.1 529"), "{answer}");
    let (answer, _) = running
        .exchange("POST /_sim/faults", r#"[{"kind":"529","probability":2}]"#)
        .await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("faults[0].probability is 2"), "{answer}");
    let (_, _) = running.exchange("POST /_sim/reset", "").await;
    let (answer, _) = running.exchange("POST /v1/messages", HELLO).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    running.stop().await;
}

#[tokio::test]
async fn resets_are_resets_and_truncation_is_truncation() {
    for (kind, headers, reset) in [
        (FaultKind::ResetBeforeHeaders, false, true),
        (FaultKind::ResetAfterHeaders, true, true),
        (FaultKind::TruncatedBody, true, false),
    ] {
        let running = start(vec![Fault::new(kind)]).await;
        let mut socket = running.send("POST /v1/messages", HELLO).await;
        let mut bytes = Vec::new();
        let end = socket.read_to_end(&mut bytes).await;
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(
            text.starts_with("HTTP/1.1 200"),
            headers,
            "{kind:?}: {text}"
        );
        let kind_of_end = end.err().map(|error| error.kind());
        assert_eq!(
            kind_of_end,
            reset.then_some(io::ErrorKind::ConnectionReset),
            "{kind:?}"
        );
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_lowercase();
            let length = length.split("content-length: ").nth(1).unwrap();
            let length: usize = length.split_whitespace().next().unwrap().parse().unwrap();
            assert!(body.len() < length, "{kind:?}");
        }
        running.until(|stats| stats.in_flight == 0).await;
        assert_eq!(running.sim.stats().aborted, 0);
        running.stop().await;
    }
}

#[tokio::test]
async fn a_client_that_hangs_up_is_seen() {
    let running = start(vec![Fault::new(FaultKind::StallBeforeContent)]).await;
    for body in [
        HELLO.to_owned(),
        HELLO.replacen('{', "{\"stream\":true,", 1),
    ] {
        let before = running.sim.stats().aborted;
        let socket = running.send("POST /v1/messages", &body).await;
        running.until(|stats| stats.in_flight == 1).await;
        drop(socket);
        running.until(|stats| stats.in_flight == 0).await;
        assert_eq!(running.sim.stats().aborted, before + 1);
    }
    running.stop().await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_answered_and_not_kept() {
    let running = start(Vec::new()).await;
    let (answer, _) = running
        .exchange("POST /v1/messages", &" ".repeat(40_000_000))
        .await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    running.stop().await;
}

#[tokio::test]
async fn an_accepted_socket_sends_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap());
    let (client, accepted) = tokio::join!(client, listener.accept());
    let (client, accepted) = (client.unwrap(), accepted.unwrap().0);
    assert!(!client.nodelay().unwrap(), "off unless asked for");
    send_at_once(&accepted);
    assert!(accepted.nodelay().unwrap());
}
