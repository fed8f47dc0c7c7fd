//! The real binary between a real client and a real server.

use std::io::Read;
use std::process::Command;
use std::time::Duration;

use seawall::sim::{Fault, FaultKind};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::process::{BOUND, Gateway, ONE_ATTEMPT, instant, request, sim};

#[tokio::test]
async fn an_overloaded_answer_is_retried_unseen() {
    let faults = vec![Fault::new(FaultKind::Overloaded).on_attempts(1, 2)];
    let (address, sim) = sim(instant(faults)).await;
    let gateway = Gateway::start(address, "");
    let answer = gateway
        .post("/v1/messages")
        .body(request(false))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-seawall-attempts"], "3");
    assert_eq!(sim.stats().answered(529), 2);
    let metrics = gateway
        .client
        .get(format!("{}/_seawall/metrics", gateway.base))
        .send()
        .await;
    let metrics = metrics.unwrap().text().await.unwrap();
    assert!(
        metrics.contains(r#"status="529",verdict="overloaded"} 2"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn status_says_how_far_estimates_were_off_for_each_target_and_content() {
    let (address, _sim) = sim(instant(Vec::new())).await;
    let gateway = Gateway::start(address, "");
    for _ in 0..3 {
        let asked = gateway.post("/v1/messages").body(request(false));
        assert_eq!(asked.send().await.unwrap().status(), 200);
    }
    let status = gateway
        .client
        .get(format!("{}/_seawall/status", gateway.base))
        .send()
        .await;
    let status = status.unwrap().bytes().await.unwrap();
    let status: Value = serde_json::from_slice(&status).unwrap();
    let targets = status["estimates"].as_object().unwrap();
    assert_eq!(targets.len(), 1, "{status}");
    let text = &targets.values().next().unwrap()["text"];
    assert_eq!(text["requests"], 3, "{status}");
    let (p50, p95) = (text["error_p50"].as_f64(), text["error_p95"].as_f64());
    assert!(p50 <= p95 && p95.is_some(), "{status}");
    assert!(text["actual_by_fit"].as_f64().is_some(), "{status}");
}

#[tokio::test]
async fn a_stream_cut_after_content_ends_in_an_error_event() {
    let cut = Fault {
        after_events: Some(6),
        ..Fault::new(FaultKind::CutStream)
    };
    let (address, _sim) = sim(instant(vec![cut])).await;
    let gateway = Gateway::start(address, "");
    let answer = gateway
        .post("/v1/messages")
        .body(request(true))
        .send()
        .await
        .unwrap();
    let body = answer.text().await.unwrap();
    assert!(body.contains("content_block_delta"), "{body}");
    assert!(!body.contains("message_stop"), "{body}");
    let last = body.trim_end().rsplit("\n\n").next().unwrap();
    assert!(last.starts_with("event: error\ndata: {"), "{last}");
    gateway.idle().await;
}

#[tokio::test]
async fn what_the_gateway_refuses_is_refused_in_the_providers_shape() {
    let (address, sim) = sim(instant(Vec::new())).await;
    let gateway = Gateway::start(address, "[gateway]\nbody_limit = \"1MiB\"\n");
    let big = vec![b' '; 2 << 20];
    let cases = [
        (
            gateway.post("/v1/messages").body("{no json"),
            400,
            "invalid_request_error",
        ),
        (
            gateway.post("/v1/messages").body(big),
            413,
            "request_too_large",
        ),
        (
            gateway.post("/v1/messages").header("host", "evil.example"),
            403,
            "permission_error",
        ),
        (
            gateway
                .post("/v1/messages")
                .header("origin", "https://e.example"),
            403,
            "permission_error",
        ),
        (
            gateway
                .post("/v1/messages")
                .header("x-seawall-route", "none"),
            400,
            "invalid_request_error",
        ),
        (gateway.post("/nowhere"), 404, "not_found_error"),
        (
            gateway.post("/_seawall/health"),
            405,
            "invalid_request_error",
        ),
    ];
    for (asked, status, kind) in cases {
        let answer = asked.send().await.unwrap();
        assert_eq!(answer.status(), status, "{kind}");
        assert_eq!(answer.headers()["x-should-retry"], "false");
        let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!(body["type"], "error");
        assert_eq!(body["error"]["type"], kind);
    }
    assert_eq!(sim.stats().attempts, 0);
}

#[tokio::test]
async fn a_client_that_hangs_up_stops_the_provider() {
    let stall = Fault::new(FaultKind::StallBeforeContent);
    let (address, sim) = sim(instant(vec![stall])).await;
    let gateway = Gateway::start(address, "");
    let asked = gateway.post("/v1/messages").body(request(true)).send();
    let begun = async {
        while sim.stats().in_flight == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        answer = asked => panic!("a stalled provider answered: {answer:?}"),
        begun = tokio::time::timeout(BOUND, begun) => begun.unwrap(),
    }
    gateway.idle().await;
    for _ in 0..500 {
        if sim.stats().in_flight == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the provider still works for nobody");
}

#[tokio::test]
async fn an_upstream_that_nobody_answers_gives_a_clear_error() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let gateway = Gateway::start(address, ONE_ATTEMPT);
    let answer = gateway
        .post("/v1/messages")
        .body(request(false))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 502);
    let body = answer.text().await.unwrap();
    assert!(body.contains("could not connect to the provider"), "{body}");
    gateway.idle().await;
}

#[tokio::test]
async fn a_used_port_and_a_broken_config_say_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let run = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_seawall"))
            .args(args)
            .output()
            .unwrap()
    };
    let used = run(&["serve", "--listen", &address]);
    assert_eq!(used.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&used.stderr).contains("cannot listen on"));
    let folder = std::env::temp_dir().join(format!("seawall-broken-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("broken.toml");
    std::fs::write(&file, "[targts.a]\n").unwrap();
    let broken = run(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(broken.status.code(), Some(2));
    let said = String::from_utf8_lossy(&broken.stderr).into_owned();
    assert!(
        said.contains("broken.toml:1") && said.contains("targets"),
        "{said}"
    );
    let open = run(&["serve", "--listen", "0.0.0.0:0"]);
    assert_eq!(open.status.code(), Some(2));
}

#[tokio::test]
async fn a_body_of_unstated_length_is_cut_off_at_the_limit() {
    let (address, sim) = sim(instant(Vec::new())).await;
    let gateway = Gateway::start(address, "[gateway]\nbody_limit = \"1MiB\"\n");
    let mut socket = TcpStream::connect(gateway.base.trim_start_matches("http://"))
        .await
        .unwrap();
    let head = "POST /v1/messages HTTP/1.1\r\nhost: localhost\r\nx-api-key: k\r\n\
                transfer-encoding: chunked\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    // One byte over the limit, and no end: only the limit can bring the answer.
    socket.write_all(b"100001\r\n").await.unwrap();
    socket.write_all(&vec![b' '; (1 << 20) + 1]).await.unwrap();
    let mut start = [0; 12];
    let read = socket.read_exact(&mut start);
    tokio::time::timeout(BOUND, read).await.unwrap().unwrap();
    assert_eq!(&start, b"HTTP/1.1 413");
    assert_eq!(sim.stats().attempts, 0);
    gateway.idle().await;
}

#[cfg(unix)]
fn terminate(gateway: &Gateway) {
    let sent = Command::new("kill")
        .args(["-TERM", &gateway.process.id().to_string()])
        .status();
    assert!(sent.unwrap().success());
}

#[cfg(unix)]
async fn ended(gateway: &mut Gateway) -> Option<i32> {
    let ended = async {
        loop {
            if let Some(status) = gateway.process.try_wait().unwrap() {
                return status.code();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, ended).await.unwrap()
}

/// Waits until no new connection is taken.
#[cfg(unix)]
async fn closed(gateway: &Gateway) {
    let address = gateway.base.trim_start_matches("http://");
    let closed = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, closed).await.unwrap();
}

#[cfg(unix)]
#[tokio::test]
async fn a_stop_lets_the_call_in_flight_finish() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut gateway = Gateway::start(upstream.local_addr().unwrap(), ONE_ATTEMPT);
    let asked = gateway.post("/v1/messages").body(request(false)).send();
    let provider = async {
        let (mut socket, _) = upstream.accept().await.unwrap();
        let mut some = [0; 1024];
        assert!(socket.read(&mut some).await.unwrap() > 0);
        terminate(&gateway);
        closed(&gateway).await;
        let body =
            r#"{"type":"message","content":[],"usage":{"input_tokens":3,"output_tokens":5}}"#;
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(answer.as_bytes()).await.unwrap();
        (socket, body)
    };
    let (answer, (_socket, body)) = tokio::join!(asked, provider);
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), body);
    assert_eq!(ended(&mut gateway).await, Some(0));
    let mut more = String::new();
    gateway.stdout.read_to_string(&mut more).unwrap();
    assert_eq!(more, "", "one line on stdout and no other");
}

#[cfg(unix)]
#[tokio::test]
async fn a_second_signal_ends_a_drain_at_once() {
    let stall = Fault::new(FaultKind::StallBeforeContent);
    let (address, sim) = sim(instant(vec![stall])).await;
    let mut gateway = Gateway::start(address, "[gateway]\ndrain = \"1h\"\n");
    let asked = gateway.post("/v1/messages").body(request(true)).send();
    let twice = async {
        while sim.stats().in_flight == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        terminate(&gateway);
        closed(&gateway).await;
        terminate(&gateway);
    };
    let both = async { tokio::join!(asked, twice) };
    let (answer, ()) = tokio::time::timeout(BOUND, both).await.unwrap();
    drop(answer);
    // Less than the actors' own grace at a stop, which a second signal does not wait for.
    let at_once = tokio::time::timeout(Duration::from_secs(3), ended(&mut gateway));
    assert_eq!(at_once.await.unwrap(), Some(0));
}
