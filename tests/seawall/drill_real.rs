//! Drills in real time: a socket, the real transport, and counters that must agree.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::future::BoxFuture;
use seawall::drill::scenario::Scenario;
use seawall::drill::{self, ClientKind, Loopback, Options};
use seawall::transport::{Request, Response, Transport, TransportError};
use serde_json::Value;
use tokio::sync::watch;

/// A second and a half with every fault that can strike a stream; a stall lasts until its caller
/// leaves.
const ROUGH: &str = r#"
    name = "rough"
    ladder = ["claude-sonnet-5-5", "claude-haiku-5"]
    deadline = "2s"
    fault = { from = "500ms", until = "800ms" }

    [load]
    kind = "open"
    calls_per_second = 60
    lasting = "1500ms"

    [request]
    stream = true

    [provider]
    error_latency = "5ms"
    models = [
        { prefix = "claude-sonnet-", ttft = "10ms..40ms", tokens_per_second = 400, output_tokens = "5..20" },
        { prefix = "claude-haiku-", ttft = "10ms", tokens_per_second = 400, output_tokens = "5..20" },
    ]
    faults = [
        { kind = "529", from = "500ms", until = "800ms", models = ["claude-sonnet-5-5"] },
        { kind = "429", probability = 0.05, retry_after = "200ms" },
        { kind = "reset_before_headers", probability = 0.05 },
        { kind = "reset_after_headers", probability = 0.05 },
        { kind = "cut_stream", probability = 0.05 },
        { kind = "truncated_body", probability = 0.05 },
        { kind = "stream_error", probability = 0.05, after_events = 6 },
        { kind = "stall_in_stream", probability = 0.03 },
    ]

    [[bars]]
    figure = "in_flight_at_end"
    at_most = 0
"#;

fn file(name: &str, text: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn drill_on(path: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_seawall"))
        .arg("drill")
        .arg(path)
        .args(more)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn over_a_socket_every_side_counts_the_same_whatever_breaks() {
    let path = file("rough.toml", ROUGH);
    let (code, out, complaints) = drill_on(&path, &["--real", "--json", "--seed", "3"]);
    assert_eq!(code, Some(0), "{complaints}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert!(
        report["real_seconds"].as_f64().is_some_and(|s| s >= 1.5),
        "{out}"
    );
    for client in ["seawall", "sdk", "naive"] {
        let figures = &report["clients"][client];
        assert_eq!(figures["calls"], 90, "{client}");
        assert_eq!(figures["in_flight_at_end"], 0, "{client}");
        let succeeded = figures["succeeded"].as_u64().unwrap();
        assert!((1..=90).contains(&succeeded), "{client}: {succeeded}");
    }
    let attempts = |client: &str| report["clients"][client]["attempts"].as_u64().unwrap();
    assert_eq!(attempts("naive"), 90);
    // The SDK tries every 529 of the fault again. How many attempts seawall makes depends on how
    // many calls the breaker kept back, and in real time that depends on the machine.
    assert!(attempts("sdk") > 90 && attempts("seawall") > 0);
}

#[test]
fn without_streams_and_with_a_known_quota_the_counts_agree_too() {
    let whole = ROUGH
        .replace("stream = true", "stream = false")
        .replace(
            "[provider]",
            "[limits]\n requests_per_minute = 3600\n\n [provider]\n quotas = [{ models = [\"claude-sonnet-\"], \
             requests_per_minute = 3600, burst = \"1s\" }]",
        )
        .replace("\"cut_stream\"", "\"truncated_json\"");
    let path = file("rough-whole.toml", &whole);
    let (code, out, complaints) = drill_on(&path, &["--real"]);
    assert_eq!(code, Some(0), "{complaints}");
    let agreed = out.lines().find(|line| line.contains("provider agree"));
    assert!(agreed.is_some(), "{out}");
    assert!(out.contains("the bar is met"), "{out}");
}

/// Asks to stop at its twentieth request.
#[derive(Debug)]
struct Stopping {
    inner: Arc<dyn Transport>,
    sent: AtomicU64,
    stop: watch::Sender<bool>,
}

impl Transport for Stopping {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        if self.sent.fetch_add(1, Ordering::Relaxed) == 19 {
            self.stop.send_replace(true);
        }
        self.inner.send(request)
    }
}

#[test]
fn a_drill_that_is_stopped_shows_what_it_saw_and_judges_nothing() {
    let hard = ROUGH
        .replace("lasting = \"1500ms\"", "lasting = \"1m\"")
        .replace("at_most = 0", "at_most = -1");
    let hard = Scenario::parse(&hard, Path::new("hard.toml")).unwrap();
    let (stop, stopped) = watch::channel(false);
    let http = Loopback::http();
    let transport = Arc::clone(&http.transport);
    let loopback = Loopback {
        transport: Arc::new(move || {
            Ok(Arc::new(Stopping {
                inner: transport()?,
                sent: AtomicU64::new(0),
                stop: stop.clone(),
            }))
        }),
        ..http
    };
    let mut options = Options::new(vec![hard, Scenario::find("outage").unwrap()], 1);
    options.clients = vec![ClientKind::Seawall];
    options.real = Some(loopback);
    options.stop = Some(stopped);
    let report = drill::run(&options).unwrap();
    assert!(report.interrupted);
    assert_eq!(report.scenarios.len(), 1);
    let seen = &report.scenarios[0];
    let client = &seen.clients[0];
    let (calls, attempts) = (client.score.calls, client.score.attempts);
    assert!(
        calls < 3_600 && attempts >= 20,
        "{calls} calls, {attempts} attempts"
    );
    assert_eq!(client.score.in_flight_at_end, 0);
    assert!(client.agreed > 10, "{}", client.agreed);
    assert_eq!((report.missed().count(), seen.bars_checked()), (0, 0));
    let json: Value = serde_json::from_str(&report.to_json(true).unwrap()).unwrap();
    assert_eq!(json["interrupted"], true);
    assert!(drill::table::render(&report, None).contains("stopped before its end, in rough"));
}
