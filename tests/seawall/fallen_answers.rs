//! What becomes of calls and their answers once a call has left its first rung.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, StatusCode};
use parking_lot::Mutex;
use seawall::client::Seawall;
use seawall::client::ask::{Ask, Endpoint, Reply};
use seawall::config::{Config, Environment, Overrides};
use seawall::error::Error;
use seawall::transport::{Body, Request, Response, Transport, TransportError};
use seawall_actors::error::Rejection;
use seawall_actors::policy::circuit::Mode;
use serde_json::{Value, json};
use tokio::time::sleep;

/// Two providers, `a` and `b`; whichever is down answers 500.
#[derive(Debug, Clone, Default)]
struct Two {
    down: Arc<Mutex<&'static str>>,
    sent: Arc<Mutex<Vec<(String, String, Value)>>>,
}

impl Two {
    fn turn_off(&self, host: &'static str) {
        *self.down.lock() = host;
    }

    /// How many requests have come to a provider.
    fn count(&self, host: &str) -> usize {
        self.sent
            .lock()
            .iter()
            .filter(|sent| sent.0 == host)
            .count()
    }

    fn answer(&self, request: &Request) -> Response {
        let host = request.uri.host().unwrap_or_default().to_owned();
        let path = request.uri.path().to_owned();
        let body = serde_json::from_slice(&request.body).unwrap_or_default();
        let is_down = host == *self.down.lock();
        let counts = path.ends_with("/count_tokens");
        self.sent.lock().push((host.clone(), path, body));
        let (status, body) = match (is_down, counts) {
            (true, _) => (
                StatusCode::INTERNAL_SERVER_ERROR,
                json!({ "type": "error", "error": { "type": "api_error", "message": "no" } }),
            ),
            (false, true) => (StatusCode::OK, json!({ "input_tokens": 5 })),
            (false, false) => (
                StatusCode::OK,
                json!({ "type": "message", "id": "msg_1", "role": "assistant", "model": "claude-x",
                    "content": [{ "type": "text", "text": host }], "stop_reason": "end_turn",
                    "stop_sequence": null, "usage": { "input_tokens": 5, "output_tokens": 1 } }),
            ),
        };
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/json"));
        Response {
            status,
            headers,
            body: Body::from_bytes(Bytes::from(body.to_string())),
        }
    }
}

impl Transport for Two {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        let answer = self.answer(&request);
        async { Ok(answer) }.boxed()
    }
}

async fn client(two: &Two, config: &str) -> Seawall {
    let environment = Environment::from_fn(|name| (name == "KEY_A").then(|| "sk-a".into()));
    let config = Config::parse(config, Path::new(""), &Overrides::default(), &environment);
    let started = Seawall::builder()
        .config(config.unwrap())
        .transport(Arc::new(two.clone()))
        .seed(1)
        .start();
    started.await.unwrap()
}

const TARGETS: &str = "
[targets.a]
base_url = \"http://a\"
[targets.b]
base_url = \"http://b\"
";

fn ask(body: &Value) -> Ask {
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", HeaderValue::from_static("sk-caller"));
    Ask::messages(headers, body.to_string().into())
}

fn question() -> Value {
    json!({ "model": "claude-sonnet-5-5", "max_tokens": 2048,
        "messages": [{ "role": "user", "content": "How does a seawall work?" }] })
}

async fn forward(seawall: &Seawall, ask: Ask) -> Result<Reply, Error> {
    Box::pin(seawall.forward(ask)).await
}

#[tokio::test(start_paused = true)]
async fn a_call_about_something_else_than_messages_is_its_own_probe() {
    let two = Two::default();
    let route = "[routes.default]\nladder = [\"a\", \"b\"]\nprobe = true\n";
    let seawall = client(&two, &format!("{route}{TARGETS}")).await;
    two.turn_off("a");
    let counting = || Ask {
        endpoint: Endpoint::CountTokens,
        ..ask(&question())
    };
    for _ in 0..10 {
        assert_eq!(
            *forward(&seawall, counting()).await.unwrap().report.rung,
            *"b"
        );
    }
    two.turn_off("");
    sleep(Duration::from_secs(90)).await;
    let mut served = Vec::new();
    for _ in 0..10 {
        let reply = forward(&seawall, counting()).await.unwrap();
        served.push(reply.report.rung.to_string());
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(served.last().unwrap(), "a", "{served:?}");
    for (_, path, body) in &*two.sent.lock() {
        assert!(path.ends_with("/count_tokens"), "{path}");
        assert_ne!(body["max_tokens"], 1, "{body}");
    }
    seawall.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_request_that_lost_something_is_not_kept() {
    let two = Two::default();
    let route =
        "[routes.default]\nladder = [\"cache\", \"a\", { rung = \"b\", lossy = [\"thinking\"] }]\n";
    let cannot = "cannot = [\"thinking\"]\n";
    let seawall = client(&two, &format!("{route}{TARGETS}{cannot}")).await;
    let mut body = question();
    body["thinking"] = json!({ "type": "enabled", "budget_tokens": 1024 });
    two.turn_off("a");
    let fallen = forward(&seawall, ask(&body)).await.unwrap();
    assert_eq!(*fallen.report.rung, *"b");
    assert!(!fallen.report.losses.is_empty());
    two.turn_off("");
    let before = two.count("a");
    let back = forward(&seawall, ask(&body)).await.unwrap();
    assert_eq!((back.report.cache, two.count("a")), (None, before + 1));
    let kept = forward(&seawall, ask(&body)).await.unwrap();
    assert!(kept.report.cache.is_some());
    seawall.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rung_that_cannot_be_set_up_does_not_hide_that_the_first_is_barred() {
    let two = Two::default();
    let route = "[routes.default]\nladder = [\"a\", \"b\"]\ntimeouts = { total = \"20s\" }\n";
    let targets = TARGETS.replace("\"http://a\"\n", "\"http://a\"\napi_key_env = \"KEY_A\"\n");
    let seawall = client(&two, &format!("{route}{targets}")).await;
    two.turn_off("a");
    let keyless = || Ask {
        headers: HeaderMap::new(),
        ..ask(&question())
    };
    let first = forward(&seawall, keyless()).await;
    assert!(matches!(first, Err(Error::Provider { .. })), "{first:?}");
    let target = seawall
        .system()
        .known_target("a/claude-sonnet-5-5")
        .unwrap();
    target.force(Mode::ForcedOpen);
    match forward(&seawall, keyless()).await {
        Err(Error::Refused(rejected)) => assert_eq!(rejected.why, Rejection::BreakerOpen),
        other => panic!("{other:?}"),
    }
    seawall.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_clients_own_retry_gets_one_attempt_on_each_rung() {
    let two = Two::default();
    let route = "[routes.default]\nladder = [\"a\", \"b\"]\n";
    let seawall = client(&two, &format!("{route}{TARGETS}")).await;
    two.turn_off("a");
    let again = Ask {
        client_retries: 1,
        ..ask(&question())
    };
    let reply = forward(&seawall, again).await.unwrap();
    assert_eq!(*reply.report.rung, *"b");
    assert_eq!((two.count("a"), two.count("b")), (1, 1));
    seawall.stop().await;
}
