//! A primary, a fallback and the client in front of them, in virtual time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use http::Method;
use parking_lot::Mutex;
use seawall::client::Seawall;
use seawall::client::ask::{Ask, ReplyBody};
use seawall::error::Error;
use seawall::sim::memory::MemoryTransport;
use seawall::sim::{Fault, ModelSettings, Settings, Sim, TokenRange};
use seawall::transport::{Request, Response, Transport, TransportError};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::row::{Answer, FALLBACK, Row, Seen, WANTED, request};
use crate::stream_faults::case::{client_over, headers, idle};

/// Two retries and 30 s for everything that can be idle. An attempt that is not streamed has only the
/// total, and `agent_step` leaves the next one a share of it.
pub(crate) const CONFIG: &str = r#"
[routes.default]
ladder = ["primary", "fallback"]
profile = "agent_step"
delivery = "complete"
retry = { attempts = 3 }
timeouts = { headers = "30s", first_content = "30s", stall = "30s", events = "30s", total = "2m" }
[targets.primary]
base_url = "http://primary"
[targets.fallback]
base_url = "http://fallback"
model = "claude-haiku-5-5"
"#;

/// The seeds of the two providers: they write different texts.
pub(crate) const SEEDS: [u64; 2] = [1, 2];

/// The length of every answer.
pub(crate) const TOKENS: u64 = 60;

pub(crate) fn settings(seed: u64, faults: Vec<Fault>) -> Settings {
    let model = ModelSettings {
        output_tokens: TokenRange::fixed(TOKENS),
        ..ModelSettings::of("claude-")
    };
    Settings {
        seed,
        models: vec![model],
        faults,
        ..Settings::default()
    }
}

/// Leads to either provider, and notes which messages arrive.
#[derive(Debug, Clone)]
struct Fork {
    primary: MemoryTransport,
    fallback: MemoryTransport,
    messages: Arc<Mutex<Vec<String>>>,
}

impl Transport for Fork {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow)]
            messages: &'a RawValue,
        }
        let body: Body<'_> = serde_json::from_slice(&request.body).unwrap();
        self.messages.lock().push(body.messages.get().to_owned());
        match request.uri.host() {
            Some("primary") => self.primary.send(request),
            Some("fallback") => self.fallback.send(request),
            host => panic!("no target is at {host:?}"),
        }
    }
}

/// Both providers and the client.
pub(crate) struct Rig {
    pub(crate) primary: Arc<Sim>,
    pub(crate) fallback: Arc<Sim>,
    fork: Fork,
    seawall: Seawall,
}

impl Rig {
    pub(crate) async fn start(faults: Vec<Fault>, seed: u64) -> Self {
        Self::on(CONFIG, faults, seed).await
    }

    pub(crate) async fn on(config: &str, faults: Vec<Fault>, seed: u64) -> Self {
        let [primary, fallback] = SEEDS;
        let primary = Sim::new(settings(primary, faults)).unwrap();
        let fallback = Sim::new(settings(fallback, Vec::new())).unwrap();
        let fork = Fork {
            primary: primary.transport(),
            fallback: fallback.transport(),
            messages: Arc::default(),
        };
        Self {
            seawall: client_over(fork.clone(), config, seed).await,
            primary,
            fallback,
            fork,
        }
    }

    /// One call, to the last byte of its answer.
    pub(crate) async fn ask(&self, body: String) -> Answer {
        let ask = Ask::messages(headers(), body.into());
        match Box::pin(self.seawall.forward(ask)).await {
            Ok(reply) => {
                let mut bytes = Vec::new();
                match reply.body {
                    ReplyBody::Whole(whole) => bytes.extend(whole),
                    ReplyBody::Stream(mut stream) => {
                        while let Some(chunk) = stream.next().await {
                            bytes.extend(chunk);
                        }
                    }
                    _ => panic!("no other body"),
                }
                Answer::read(reply.status.as_u16(), &bytes)
            }
            Err(Error::Provider { status, body, .. }) => Answer::read(status.as_u16(), &body),
            Err(other) => Answer::Error {
                status: other.status().as_u16(),
                error: other.error_type().to_owned(),
                message: other.to_string(),
            },
        }
    }

    pub(crate) async fn stop(self) {
        let both = [&self.primary, &self.fallback];
        idle(&self.seawall, &both, Duration::from_millis(2)).await;
        self.seawall.stop().await;
    }
}

/// What a provider says when nothing befalls it.
pub(crate) async fn undisturbed(seed: u64, body: String) -> Answer {
    let sim = Sim::new(Settings {
        instant: true,
        ..settings(seed, Vec::new())
    });
    let request = Request {
        method: Method::POST,
        uri: "http://sim/v1/messages".parse().unwrap(),
        headers: headers(),
        body: body.into(),
    };
    let mut answer = sim.unwrap().transport().send(request).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.body.next().await {
        bytes.extend::<Bytes>(chunk.unwrap());
    }
    Answer::read(answer.status.as_u16(), &bytes)
}

/// What the primary and the fallback say to a row's request.
pub(crate) async fn both_undisturbed(row: &Row, stream: bool) -> [Answer; 2] {
    let [primary, fallback] = SEEDS;
    [
        undisturbed(primary, row.body(stream)).await,
        undisturbed(fallback, request(FALLBACK, &row.prompt, stream)).await,
    ]
}

/// Plays a row once.
pub(crate) async fn play(row: &Row, stream: bool) -> Seen {
    play_on(CONFIG, row, stream).await
}

pub(crate) async fn play_on(config: &str, row: &Row, stream: bool) -> Seen {
    let rig = Rig::on(config, row.faults.clone(), 1).await;
    let began = Instant::now();
    let answer = rig.ask(row.body(stream)).await;
    let took = began.elapsed();
    let seen = Seen {
        answer,
        undisturbed: both_undisturbed(row, stream).await,
        took,
        primary: rig.primary.arrivals(),
        fallback: rig.fallback.arrivals(),
        messages: rig.fork.messages.lock().clone(),
    };
    rig.stop().await;
    seen
}

/// How many events bring the first `tokens` of an answer, at four characters each.
pub(crate) async fn events_of(tokens: usize) -> u32 {
    let rig = Rig::start(Vec::new(), 1).await;
    let ask = Ask::messages(headers(), request(WANTED, "tides", true).into());
    let ReplyBody::Stream(mut stream) = Box::pin(rig.seawall.forward(ask)).await.unwrap().body
    else {
        panic!("a stream was asked for");
    };
    let mut text = String::new();
    while let Some(chunk) = stream.next().await {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    rig.stop().await;
    let mut characters = 0;
    let before = text.split_terminator("\n\n").take_while(|event| {
        let so_far = characters;
        let said = event
            .split_once("\"text\":\"")
            .filter(|_| event.contains("text_delta"));
        characters += said.map_or(0, |(_, rest)| rest.find("\"}").unwrap());
        so_far < tokens * 4
    });
    u32::try_from(before.count()).unwrap()
}
