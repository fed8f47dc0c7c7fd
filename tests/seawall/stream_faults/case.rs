//! What is asked, what goes wrong with its answer, and what came of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue};
use seawall::client::Seawall;
use seawall::client::ask::{Ask, ReplyBody};
use seawall::config::{Config, Environment, Overrides};
use seawall::delivery::Delivery;
use seawall::error::Error;
use seawall::profile::{Profile, Timeouts};
use seawall::provider::anthropic::PING_EVENT;
use seawall::sim::{Chunking, Fault, FaultKind, ModelSettings, Settings, Sim, TokenRange};
use seawall::transport::Transport;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::reading::{self, Message};
use super::tap::{Note, Tap};

/// The seeds of the provider that fails and of the one that does not: they write different texts.
const FAILING: u64 = 1;
const HEALTHY: u64 = 2;

/// What the answer consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Text,
    ThoughtAndText,
    TextAndTool,
    Tool,
}

impl Shape {
    pub(crate) const ALL: [Self; 4] = [
        Self::Text,
        Self::ThoughtAndText,
        Self::TextAndTool,
        Self::Tool,
    ];

    pub(crate) fn body(self, model: &str) -> Value {
        let mut body = json!({
            "model": model, "max_tokens": 512, "stream": true,
            "messages": [{ "role": "user", "content": "How does a seawall work?" }],
        });
        let tools = json!([{ "name": "tides", "input_schema": {
            "type": "object", "required": ["harbour"],
            "properties": { "harbour": { "type": "string" } },
        }}]);
        match self {
            Self::Text => {}
            Self::ThoughtAndText => {
                body["thinking"] = json!({ "type": "enabled", "budget_tokens": 1024 });
            }
            Self::TextAndTool => body["tools"] = tools,
            Self::Tool => {
                body["tools"] = tools;
                body["tool_choice"] = json!({ "type": "any" });
            }
        }
        body
    }
}

/// One cell of the matrix.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) shape: Shape,
    pub(crate) fault: Fault,
    /// How many attempts it strikes.
    pub(crate) failures: usize,
    pub(crate) delivery: Delivery,
    pub(crate) chunking: Option<Chunking>,
    /// Whether the provider takes no time, or that of the recordings.
    pub(crate) instant: bool,
}

/// Every attempt that a call may make.
pub(crate) const EVERY: usize = usize::MAX;

/// The time limits of the matrix: those of `agent_step`, with time for five attempts that run into
/// any of them.
pub(crate) fn timeouts() -> Timeouts {
    let mut timeouts = Profile::AgentStep.timeouts();
    timeouts.events = Duration::from_secs(10);
    timeouts.total = Duration::from_secs(120);
    timeouts
}

pub(crate) fn settings(seed: u64, faults: Vec<Fault>) -> Settings {
    let model = ModelSettings {
        output_tokens: TokenRange { from: 90, to: 110 },
        ..ModelSettings::of("claude-")
    };
    Settings {
        seed,
        models: vec![model],
        faults,
        ..Settings::default()
    }
}

pub(crate) fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", HeaderValue::from_static("sk-ant-sim"));
    headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
    headers
}

/// The configuration of one target.
pub(crate) const UP: &str = "[targets.up]\nbase_url = \"http://sim\"\n";

/// A client of the library in front of `tap`.
pub(crate) async fn client(tap: &Tap, config: &str) -> Seawall {
    client_over(tap.clone(), config, 1).await
}

/// A client of the library on any way.
pub(crate) async fn client_over(way: impl Transport, config: &str, seed: u64) -> Seawall {
    client_in(Environment::from_fn(|_| None), way, config, seed).await
}

/// The same in an environment, such as one with keys.
pub(crate) async fn client_in(
    environment: Environment<'_>,
    way: impl Transport,
    config: &str,
    seed: u64,
) -> Seawall {
    let config = Config::parse(
        config,
        Path::new("seawall.toml"),
        &Overrides::default(),
        &environment,
    );
    let started = Seawall::builder()
        .config(config.unwrap())
        .transport(Arc::new(way))
        .seed(seed)
        .start();
    started.await.unwrap()
}

/// What came of a case.
pub(crate) struct Seen {
    pub(crate) began: Instant,
    pub(crate) chunks: Vec<(Instant, Bytes)>,
    pub(crate) error: Option<Error>,
    pub(crate) ended: Instant,
    pub(crate) notes: Vec<Note>,
}

impl Seen {
    /// Everything that reached the caller, but for the pings before it.
    pub(crate) fn bytes(&self, own_end: bool) -> Vec<u8> {
        let chunks = self.chunks.iter().map(|(_, chunk)| chunk);
        let told: Vec<&Bytes> = chunks.skip_while(|chunk| *chunk == PING_EVENT).collect();
        let told = if own_end {
            &told[..told.len() - 1]
        } else {
            &told[..]
        };
        told.iter()
            .flat_map(|chunk| chunk.iter())
            .copied()
            .collect()
    }

    pub(crate) fn message(&self) -> Message {
        let bytes = self.bytes(false);
        reading::read(&bytes).unwrap_or_else(|wrong| panic!("{wrong}: {} bytes", bytes.len()))
    }
}

/// A streamed call.
pub(crate) fn asking(shape: Shape) -> Ask {
    Ask::messages(
        headers(),
        shape.body("claude-sonnet-5-5").to_string().into(),
    )
}

/// Makes a call and reads its answer to the end.
pub(crate) async fn call(seawall: &Seawall, ask: Ask) -> Seen {
    let mut seen = Seen {
        began: Instant::now(),
        chunks: Vec::new(),
        error: None,
        ended: Instant::now(),
        notes: Vec::new(),
    };
    match Box::pin(seawall.forward(ask)).await {
        Ok(reply) => match reply.body {
            ReplyBody::Stream(mut stream) => {
                while let Some(chunk) = stream.next().await {
                    seen.chunks.push((Instant::now(), chunk));
                }
            }
            _ => panic!("a stream was asked for"),
        },
        Err(error) => seen.error = Some(error),
    }
    seen.ended = Instant::now();
    seen
}

impl Case {
    /// Runs it in virtual time and leaves nothing behind.
    pub(crate) async fn run(&self) -> Seen {
        let provider = |seed, faults| {
            Sim::new(Settings {
                chunking: self.chunking,
                instant: self.instant,
                ..settings(seed, faults)
            })
            .unwrap()
        };
        let failing = provider(FAILING, vec![self.fault.clone()]);
        let healthy = provider(HEALTHY, Vec::new());
        let tap = Tap::new(failing.transport(), healthy.transport(), self.failures);
        let seawall = client(&tap, UP).await;
        let mut ask = asking(self.shape);
        ask.delivery = Some(self.delivery);
        ask.timeouts = Some(timeouts());
        let mut seen = call(&seawall, ask).await;
        idle(&seawall, &[&failing, &healthy], Duration::from_millis(2)).await;
        seen.notes = tap.notes();
        seawall.stop().await;
        seen
    }

    pub(crate) const fn is_silent(&self) -> bool {
        matches!(
            self.fault.kind,
            FaultKind::StallBeforeContent
                | FaultKind::StallInStream
                | FaultKind::PingOnly
                | FaultKind::Slow
        )
    }
}

/// Waits, for so long and no longer, until nothing is under way on either side.
pub(crate) async fn idle(seawall: &Seawall, providers: &[&Arc<Sim>], within: Duration) {
    let by = Instant::now() + within;
    loop {
        let pool = seawall.snapshot().pool;
        let behind: u64 = providers.iter().map(|sim| sim.stats().in_flight).sum();
        if (pool.running, pool.waiting, pool.in_flight, behind) == (0, 0, 0, 0) {
            return;
        }
        assert!(Instant::now() < by, "{behind} at the provider, {pool:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The events of an answer without a fault, so that faults can be placed in it.
pub(crate) async fn clean_events(shape: Shape) -> Vec<String> {
    let sim = Sim::new(Settings {
        instant: true,
        ..settings(FAILING, Vec::new())
    });
    let sim = sim.unwrap();
    let way = sim.transport();
    let tap = Tap::new(way.clone(), way, 0);
    let seawall = client(&tap, UP).await;
    let seen = call(&seawall, asking(shape)).await;
    seawall.stop().await;
    let text = String::from_utf8(seen.bytes(false)).unwrap();
    let events = text.split_terminator("\n\n");
    events.map(|frame| frame.to_owned()).collect()
}

/// Places of an answer where something may go wrong: as so many events before it.
pub(crate) fn places(events: &[String]) -> Vec<u32> {
    let all = events.len();
    let first = |name: &str| {
        let start = format!("event: {name}\n");
        events
            .iter()
            .position(|event| event.starts_with(&start))
            .unwrap()
    };
    let last = |name: &str| {
        let start = format!("event: {name}\n");
        events
            .iter()
            .rposition(|event| event.starts_with(&start))
            .unwrap()
    };
    let content = first("content_block_delta");
    let mut places = vec![
        0,
        1,
        2,
        content,
        content + 1,
        content + 5,
        all / 2,
        first("content_block_stop"),
        first("content_block_stop") + 1,
        last("content_block_stop"),
        all - 2,
        all - 1,
    ];
    places.sort_unstable();
    places.dedup();
    places
        .into_iter()
        .map(|n| u32::try_from(n).unwrap())
        .collect()
}

/// Every fault of the matrix, at every place where it can strike.
pub(crate) fn faults(events: &[String]) -> Vec<Fault> {
    use FaultKind as K;
    let at = |kind| {
        let strike = move |n| Fault {
            after_events: Some(n),
            ..Fault::new(kind)
        };
        places(events).into_iter().map(strike)
    };
    let mut faults: Vec<Fault> = [
        K::StallInStream,
        K::PingOnly,
        K::CutStream,
        K::ResetAfterHeaders,
        K::TruncatedBody,
        K::TruncatedJson,
        K::MalformedEvent,
        K::StreamError,
    ]
    .into_iter()
    .flat_map(at)
    .collect();
    let slow = Fault {
        ttft: Some(Duration::from_secs(20)),
        ..Fault::new(K::Slow)
    };
    faults.extend([K::StallBeforeContent, K::MissingStop, K::HtmlPage].map(Fault::new));
    faults.push(slow);
    faults
}
