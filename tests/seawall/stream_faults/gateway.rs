//! A part of the matrix through `seawall serve` as a process, over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::StreamExt;
use futures_util::stream::iter;
use seawall::sim::memory::MemoryTransport;
use seawall::sim::{Chunking, Fault, FaultKind, Settings, Sim};
use seawall::transport::{Request as Upstream, Transport};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::case::{Shape, clean_events, settings};
use super::reading::{self, End, Message};
use crate::process::{Gateway, serve, sim};

/// Long enough for a busy machine to be on time, short enough for five in a row.
const CONFIG: &str = r#"
[routes.default]
ladder = ["up"]
timeouts = { headers = "5s", first_content = "1s", stall = "1s", events = "1500ms", total = "20s" }
retry = { attempts = 5, base = "5ms", cap = "20ms" }
[targets.up]
"#;

const TOTAL: Duration = Duration::from_secs(20);

/// What `hold` waits for.
const HOLD_TOKENS: usize = 50;

const ATTEMPTS: u64 = 5;

/// Streams in small pieces that are under way together: with more, it is a busy machine that runs into
/// the timeouts.
const AT_ONCE: usize = 16;

/// One fault of a run: each has a model of its own, and so a breaker.
struct Cell {
    model: String,
    fault: Fault,
    /// Bytes of text that arrive before it.
    before: usize,
}

fn cells(events: &[String], attempts: Option<(u32, u32)>) -> Vec<Cell> {
    use FaultKind as K;
    let all = u32::try_from(events.len()).unwrap();
    let delta = "event: content_block_delta\n";
    let content = events.iter().position(|e| e.starts_with(delta)).unwrap();
    let content = u32::try_from(content).unwrap();
    let mut faults = Vec::new();
    for kind in [
        K::StallInStream,
        K::PingOnly,
        K::CutStream,
        K::ResetAfterHeaders,
        K::TruncatedBody,
        K::TruncatedJson,
        K::MalformedEvent,
        K::StreamError,
    ] {
        for at in [1, content, content + 3, all / 2, all - 1] {
            let ping = (kind == K::PingOnly).then_some(Duration::from_millis(200));
            faults.push(Fault {
                after_events: Some(at),
                ping_every: ping,
                ..Fault::new(kind)
            });
        }
    }
    faults.extend([K::StallBeforeContent, K::MissingStop, K::HtmlPage].map(Fault::new));
    faults.push(Fault {
        ttft: Some(Duration::from_secs(3)),
        ..Fault::new(K::Slow)
    });
    let cell = |(n, fault): (usize, Fault)| {
        let model = format!("claude-sonnet-{n}x");
        let came = match (fault.kind, fault.after_events) {
            (K::MissingStop, _) => events.len() - 1,
            (_, at) => usize::try_from(at.unwrap_or(0)).unwrap(),
        };
        let text = events[..came]
            .iter()
            .filter(|event| event.starts_with(delta));
        Cell {
            before: text.map(|event| piece(event)).sum(),
            fault: Fault {
                attempts,
                ..fault.on_model(&model)
            },
            model,
        }
    };
    faults.into_iter().enumerate().map(cell).collect()
}

/// Bytes of content in a delta.
fn piece(event: &str) -> usize {
    let (_, data) = event.split_once("data: ").unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    let delta = &data["delta"];
    let parts = ["text", "thinking", "partial_json"].map(|part| delta[part].as_str());
    parts.into_iter().flatten().map(str::len).sum()
}

/// What the gateway's client got.
struct Got {
    message: Message,
    attempts: u64,
}

async fn ask(gateway: &Gateway, provider: &Sim, cell: &Cell, shape: Shape, how: &str) -> Got {
    let began = Instant::now();
    let what = format!("{how}, {shape:?}: {:?}", cell.fault);
    let answer = gateway
        .post("/v1/messages")
        .header("x-seawall-delivery", how)
        .body(shape.body(&cell.model).to_string())
        .send()
        .await
        .unwrap();
    let (status, kind) = (answer.status(), answer.headers()["content-type"].clone());
    let bytes = answer.bytes().await.unwrap();
    assert!(began.elapsed() <= TOTAL.mul_f64(1.05), "{what}");
    let message = if kind.to_str().unwrap().starts_with("text/event-stream") {
        assert_eq!(status, 200, "{what}");
        reading::read(&bytes).unwrap_or_else(|wrong| panic!("{wrong}: {what}"))
    } else {
        assert!(!status.is_success(), "{what}");
        let body: Value = serde_json::from_slice(&bytes).unwrap();
        let frame = format!("event: error\ndata: {body}\n\n");
        reading::read(frame.as_bytes()).unwrap()
    };
    assert_ne!(message.end, End::Cut, "{what}");
    let attempts = provider.stats().models[&cell.model].attempts;
    assert!(attempts <= ATTEMPTS, "{what}");
    Got { message, attempts }
}

/// One run: all cells in one delivery.
async fn run(how: &str, shape: Shape, chunking: Option<Chunking>, once: bool) {
    let events = clean_events(shape).await;
    let whole = reading::read((events.join("\n\n") + "\n\n").as_bytes()).unwrap();
    let cells = cells(&events, once.then_some((1, 1)));
    let faults = cells.iter().map(|cell| cell.fault.clone()).collect();
    let of_sim = Settings {
        instant: true,
        chunking,
        ..settings(1, faults)
    };
    // Another request asks for the rest, so a provider that fails once has to be told which.
    let (address, provider) = match (how, once) {
        ("resume", true) => continuing(of_sim).await,
        _ => sim(of_sim).await,
    };
    // On a busy machine half a second can pass between two events.
    let held = format!("delivery = \"hold\"\nhold = {{ tokens = {HOLD_TOKENS}, time = \"1m\" }}");
    let head_start = CONFIG.replace("[targets.up]", &format!("{held}\n[targets.up]"));
    let config = if how == "hold" { &head_start } else { CONFIG };
    let gateway = Gateway::start(address, config);
    let asked = cells.iter().map(|cell| async {
        let got = ask(&gateway, &provider, cell, shape, how).await;
        judge(how, once, cell, (&got, &whole));
    });
    let in_pieces = chunking.is_some_and(|chunking| chunking.max < 100);
    let at_once = if in_pieces { AT_ONCE } else { cells.len() };
    iter(asked).buffer_unordered(at_once).count().await;
    gateway.idle().await;
    println!("{how}, {shape:?}: {} combinations", cells.len());
}

fn judge(how: &str, once: bool, cell: &Cell, (got, whole): (&Got, &Message)) {
    let what = format!("{how}: {:?}, {:?}", cell.fault, got.message);
    let Got { message, attempts } = got;
    if message.end != End::Whole {
        assert!(message.reason().is_some(), "{what}");
        for (part, all) in message.blocks.iter().zip(&whole.blocks) {
            assert!(
                how == "resume" || all.content.starts_with(&part.content),
                "{what}"
            );
        }
        if once {
            // Given up although it struck once: only what had reached the client.
            assert!(message.has_content() && *attempts == 1, "{what}");
            assert_ne!(how, "complete", "{what}");
            assert!(how != "hold" || cell.before / 4 >= HOLD_TOKENS, "{what}");
        } else if how == "complete" {
            assert_eq!(*attempts, ATTEMPTS, "{what}");
        }
        return;
    }
    assert!(once, "{what}");
    if how == "resume" {
        // What came before the fault may have been lost with a reset, and all of it asked for again.
        let (text, all) = (message.text(), whole.text());
        let before = all.get(..cell.before).unwrap_or(&all);
        assert!(text.starts_with(before), "{what}");
    } else {
        assert_eq!((&message.blocks, *attempts), (&whole.blocks, 2), "{what}");
    }
}

/// A provider over a socket that fails as `settings` say, but not when it is asked for the rest.
async fn continuing(settings: Settings) -> (SocketAddr, Arc<Sim>) {
    #[derive(Clone)]
    struct Both(MemoryTransport, MemoryTransport);
    async fn answer(State(both): State<Both>, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        let rest = String::from_utf8_lossy(&body).contains("was interrupted and ended with");
        let way = if rest { both.1 } else { both.0 };
        let request = Upstream {
            method: parts.method,
            uri: parts.uri,
            headers: parts.headers,
            body,
        };
        let answer = way.send(request).await.unwrap();
        let mut response = Response::new(Body::from_stream(answer.body));
        (*response.status_mut(), *response.headers_mut()) = (answer.status, answer.headers);
        response
    }
    let healthy = Settings {
        faults: Vec::new(),
        seed: 2,
        ..settings.clone()
    };
    let (failing, healthy) = (Sim::new(settings).unwrap(), Sim::new(healthy).unwrap());
    let both = Both(failing.transport(), healthy.transport());
    let app = axum::Router::new().fallback(answer).with_state(both);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    serve(async move {
        loop {
            let (socket, _) = listener.accept().await?;
            let app = hyper_util::service::TowerToHyperService::new(app.clone());
            serve(async move {
                let io = hyper_util::rt::TokioIo::new(socket);
                let connection = hyper::server::conn::http1::Builder::new();
                // A connection that breaks is what was asked for.
                drop(connection.serve_connection(io, app).await);
                Ok(())
            });
        }
    });
    (address, failing)
}

async fn runs(how: &str) {
    let cut = |seed, max| Some(Chunking { seed, max });
    run(how, Shape::TextAndTool, cut(1, 12), true).await;
    run(how, Shape::ThoughtAndText, cut(2, 40), true).await;
    // The one waits for timeouts most of the time.
    let waiting = run(how, Shape::Text, cut(3, 500), false);
    tokio::join!(waiting, run(how, Shape::Text, None, true));
}

#[tokio::test]
async fn as_it_comes_over_sockets() {
    runs("as_it_comes").await;
}

#[tokio::test]
async fn complete_over_sockets() {
    runs("complete").await;
}

#[tokio::test]
async fn hold_over_sockets() {
    runs("hold").await;
}

#[tokio::test]
async fn resume_over_sockets() {
    runs("resume").await;
}
