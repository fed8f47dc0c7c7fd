//! The organisation's own word on its limits: asked for with an admin key, handed to its quotas, and never
//! needed.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use seawall::client::Seawall;
use seawall::client::ask::Ask;
use seawall::config::{Config, Environment, Overrides};
use seawall::transport::{Body, Request, Response, Transport, TransportError};
use seawall_actors::policy::quota::Axis;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::advance;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

const ADMIN: &str = "sk-ant-admin01-never-to-be-seen";
const ANSWER: &str = r#"{"type":"message","role":"assistant","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn","usage":{"input_tokens":8,"output_tokens":2}}"#;
const REFUSED: &str =
    r#"{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"}}"#;

fn page(group: &str, models: &str, requests: u64, next: &str) -> String {
    format!(
        r#"{{"data":[{{"type":"rate_limit","id":"rl","group":{{"type":"model_group","id":"{group}"}},"models":[{models}],
        "limits":[{{"type":"requests_per_minute","value":{requests}}},{{"type":"input_tokens_per_minute_cache_aware","value":90000}}]}}],
        "next_page":{next}}}"#
    )
}

/// What the provider answers to whom.
type Answering = Arc<dyn Fn(&str, &str) -> (u16, String) + Send + Sync>;

/// Serves until the test's runtime ends. Notes path and key of each request.
async fn serve(answering: Answering) -> (String, Arc<Mutex<Vec<(String, String)>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let notes = Arc::clone(&seen);
    let accepting = async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            connections.spawn(answer(socket, Arc::clone(&answering), Arc::clone(&notes)));
        }
    };
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    drop(tokio::spawn(accepting));
    (address, seen)
}

async fn answer(socket: TcpStream, answering: Answering, seen: Arc<Mutex<Vec<(String, String)>>>) {
    let mut socket = BufReader::new(socket);
    let (mut path, mut key, mut length) = (String::new(), String::new(), 0);
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let line = line.trim_end();
        if path.is_empty() {
            path = line.split(' ').nth(1).unwrap().to_owned();
        } else if let Some((name, value)) = line.split_once(": ") {
            match name.to_ascii_lowercase().as_str() {
                "x-api-key" => value.clone_into(&mut key),
                "content-length" => length = value.parse().unwrap(),
                _ => {}
            }
        } else if line.is_empty() {
            break;
        }
    }
    socket.read_exact(&mut vec![0; length]).await.unwrap();
    let (status, body) = answering(&path, &key);
    seen.lock().push((path, key));
    let head = format!(
        "HTTP/1.1 {status} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    socket.write_all((head + &body).as_bytes()).await.unwrap();
}

fn config(upstream: &str) -> Config {
    let text = format!(
        "[organization]\nadmin_key_env = \"ADMIN\"\nbase_url = \"{upstream}\"\nrefresh = \"1m\"\n\
         [targets.a]\nbase_url = \"{upstream}\"\napi_key_env = \"KEY\"\n"
    );
    let environment = Environment::from_fn(|name| {
        Some(if name == "ADMIN" { ADMIN } else { "sk-plain" }.to_owned())
    });
    Config::parse(&text, Path::new(""), &Overrides::default(), &environment).unwrap()
}

async fn call(seawall: &Seawall, model: &str) {
    let body = format!(
        r#"{{"model":"{model}","max_tokens":9,"messages":[{{"role":"user","content":"Hello"}}]}}"#
    );
    let ask = Ask::messages(HeaderMap::new(), Bytes::from(body));
    assert_eq!(seawall.call(ask).await.unwrap().message.text(), "hi");
}

/// Requests a minute of each quota, by name, without the fingerprint.
fn requests_a_minute(seawall: &Seawall) -> Vec<(String, Option<u64>)> {
    assert_eq!(Axis::ALL[0], Axis::Requests);
    let limiters = seawall.snapshot().limiters;
    let mut all: Vec<_> = limiters
        .iter()
        .map(|limiter| {
            let name = limiter.name.split('#').next().unwrap().to_owned();
            (name, limiter.quota.axes[0].map(|axis| axis.limit))
        })
        .collect();
    all.sort();
    all
}

/// Everything that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

impl Visit for Log {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        writeln!(self.0.lock(), "{field}={value:?}").unwrap();
    }
}

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        event.record(&mut self.clone());
    }
}

#[tokio::test]
async fn quotas_begin_with_the_organisations_limits_and_its_groups() {
    let (address, seen) = serve(Arc::new(|path, key| match path {
        "/v1/organizations/rate_limits" if key == ADMIN => {
            let both = r#""claude-sonnet-4-6","claude-haiku-9""#;
            (200, page("mg_both", both, 120, r#""a/b=""#))
        }
        "/v1/organizations/rate_limits?page=a%2Fb%3D" if key == ADMIN => {
            (200, page("mg_opus", r#""claude-opus-5""#, 60, "null"))
        }
        "/v1/messages" => (200, ANSWER.to_owned()),
        _ => (404, REFUSED.to_owned()),
    }))
    .await;
    let seawall = Seawall::builder()
        .config(config(&address))
        .start()
        .await
        .unwrap();
    let limits = seawall.limits_of("claude-haiku-9").expect("limits");
    assert_eq!(
        (limits.requests, limits.input, limits.output),
        (Some(120), Some(90_000), None)
    );
    assert_eq!(seawall.limits_of("claude-sonnet-4-5"), None);

    for model in [
        "claude-sonnet-4-6",
        "claude-haiku-9",
        "claude-opus-5",
        "claude-opus-4-8",
    ] {
        call(&seawall, model).await;
    }
    // The two that the organisation puts together share a quota, which no static table says.
    let expected = [
        ("claude-opus-4", None),
        ("mg_both", Some(120)),
        ("mg_opus", Some(60)),
    ];
    let expected: Vec<_> = expected
        .map(|(name, limit)| (name.to_owned(), limit))
        .into();
    assert_eq!(requests_a_minute(&seawall), expected);
    seawall.stop().await;

    for (path, key) in seen.lock().iter() {
        let is_admin = path.starts_with("/v1/organizations/");
        assert_eq!(
            key == ADMIN,
            is_admin,
            "the admin key is for nothing else: {path}"
        );
    }
}

#[tokio::test]
async fn without_an_answer_everything_goes_on_and_the_key_is_nowhere() {
    let log = Log::default();
    let subscriber = tracing_subscriber::registry().with(log.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    for refusal in [(401, REFUSED), (200, "<html>"), (500, "")] {
        let (address, _) = serve(Arc::new(move |path, _| match path {
            "/v1/messages" => (200, ANSWER.to_owned()),
            _ => (refusal.0, refusal.1.to_owned()),
        }))
        .await;
        let config = config(&address);
        assert!(!format!("{config:?}").contains(ADMIN));
        let seawall = Seawall::builder().config(config).start().await.unwrap();
        call(&seawall, "claude-sonnet-4-6").await;
        assert_eq!(seawall.limits_of("claude-sonnet-4-6"), None);
        assert_eq!(
            requests_a_minute(&seawall),
            [("claude-sonnet-4".to_owned(), None)]
        );
        assert!(!format!("{seawall:?}").contains(ADMIN));
        seawall.stop().await;
    }
    let said = log.0.lock().clone();
    assert_eq!(
        said.matches("rate limits could not be read").count(),
        3,
        "{said}"
    );
    assert!(said.contains("the environment variable ADMIN"), "{said}");
    assert!(!said.contains(ADMIN) && !said.contains("sk-plain"));
}

/// A provider in memory, so that time can be virtual; its limit can be changed.
#[derive(Debug)]
struct Provider(Mutex<u64>);

impl Transport for Provider {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        let body = match request.uri.path() {
            "/v1/messages" => ANSWER.to_owned(),
            _ => page("mg", r#""claude-opus-5""#, *self.0.lock(), "null"),
        };
        let response = Response {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Body::from_bytes(body.into()),
        };
        async move { Ok(response) }.boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_changes_reaches_a_quota_that_is_there() {
    let provider = Arc::new(Provider(Mutex::new(60)));
    let transport = Arc::clone(&provider) as Arc<dyn Transport>;
    let seawall = Seawall::builder()
        .config(config("http://provider.example"))
        .transport(transport)
        .start()
        .await
        .unwrap();
    call(&seawall, "claude-opus-5").await;
    let limit = |of| vec![("mg".to_owned(), Some(of))];
    assert_eq!(requests_a_minute(&seawall), limit(60));
    *provider.0.lock() = 90;
    advance(Duration::from_secs(61)).await;
    // The quota takes it in with the next call.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    call(&seawall, "claude-opus-5").await;
    assert_eq!(requests_a_minute(&seawall), limit(90));
    seawall.stop().await;
}

/// Takes one admin key, in memory.
#[derive(Debug)]
struct Rotating(Mutex<&'static str>);

impl Transport for Rotating {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        let is_good = request.headers["x-api-key"] == *self.0.lock();
        let (status, body) = match request.uri.path() {
            "/v1/messages" => (StatusCode::OK, ANSWER.to_owned()),
            _ if is_good => (StatusCode::OK, page("mg", r#""claude-opus-5""#, 60, "null")),
            _ => (StatusCode::UNAUTHORIZED, REFUSED.to_owned()),
        };
        let response = Response {
            status,
            headers: HeaderMap::new(),
            body: Body::from_bytes(body.into()),
        };
        async move { Ok(response) }.boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn an_admin_key_that_was_rotated_is_read_anew() {
    let file = std::env::temp_dir().join(format!("seawall-admin-{}", std::process::id()));
    std::fs::write(&file, "sk-ant-admin01-old").unwrap();
    let text = format!(
        "[organization]\nadmin_key_file = {file:?}\nbase_url = \"http://a.example\"\nrefresh = \"1m\"\n\
         [targets.a]\nbase_url = \"http://a.example\"\napi_key_env = \"KEY\"\n"
    );
    let environment = Environment::from_fn(|_| Some("sk-plain".to_owned()));
    let config = Config::parse(&text, Path::new(""), &Overrides::default(), &environment).unwrap();
    let provider = Rotating(Mutex::new("sk-ant-admin01-new"));
    let seawall = Seawall::builder()
        .config(config)
        .transport(Arc::new(provider) as Arc<dyn Transport>)
        .start()
        .await
        .unwrap();
    assert_eq!(seawall.limits_of("claude-opus-5"), None);
    std::fs::write(&file, "sk-ant-admin01-new").unwrap();
    // Virtual time stands still while the file is read.
    tokio::time::sleep(Duration::from_secs(61)).await;
    let limits = seawall.limits_of("claude-opus-5").expect("limits");
    assert_eq!(limits.requests, Some(60));
    seawall.stop().await;
    std::fs::remove_file(file).unwrap();
}
