//! What happens to a call when its provider fails, found out by letting it: the real client with the
//! real config makes the call in virtual time, against a provider in memory that has the fault.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use seawall::client::Seawall;
use seawall::client::ask::{Ask, ReplyBody};
use seawall::config::{Config, Place, Route};
use seawall::error::Error;
use seawall::message::{Assembler, Message};
use seawall::transport::sse::SseDecoder;
use seawall::transport::{Request, Response, Transport, TransportError};
use seawall_actors::policy::circuit::Mode;
use serde_json::json;
use tokio::time::Instant;

use super::faults::{self, Fault, Happens};

/// What a call is to meet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene {
    pub(super) fault: Fault,
    /// Whether the answer is streamed.
    pub(super) streamed: bool,
    /// Whether every target has the fault, or the first alone.
    pub(super) everywhere: bool,
    /// Whether the cache has an answer.
    pub(super) kept: bool,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Course {
    /// The targets that were asked, in their order, with the attempts that each got in a row.
    pub(super) attempts: Vec<(String, u32)>,
    pub(super) took: Duration,
    pub(super) end: End,
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// A target, `cache` or `static` answered.
    Answered(String),
    /// The provider's refusal to answer was handed on.
    Refused,
    /// It failed, with this type of error.
    Failed(String),
    /// It broke off after some of the answer had been handed on.
    BrokeOff,
}

/// Plays one scene on a route.
///
/// # Errors
///
/// Why the client can't be started.
pub(super) fn play(config: &Config, route: &Route, scene: Scene) -> Result<Course, String> {
    virtually(play_on(config, route, scene))?
}

/// Runs something in virtual time.
pub(super) fn virtually<F: Future>(run: F) -> Result<F::Output, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| error.to_string())?;
    Ok(runtime.block_on(run))
}

async fn play_on(config: &Config, route: &Route, scene: Scene) -> Result<Course, String> {
    let stage = Arc::new(Stage::new(config, route, scene));
    let seawall = Seawall::builder()
        .config(staged(config, route))
        .transport(Arc::clone(&stage) as Arc<dyn Transport>)
        .seed(1)
        .start()
        .await
        .map_err(|error| error.to_string())?;
    let caller = Caller {
        seawall: &seawall,
        route,
        model: asked(config, route),
        streamed: scene.streamed,
    };
    if scene.kept {
        stage.keeps.store(true, Ordering::Relaxed);
        caller.call(MEASURED).await;
        stage.keeps.store(false, Ordering::Relaxed);
    }
    match scene.fault.happens {
        Happens::BreakerOpen => open_breakers(&caller, scene.everywhere, route).await,
        Happens::QuotaUsedUp => {
            stage.fails.store(true, Ordering::Relaxed);
            caller.call("before").await;
        }
        _ => {}
    }
    let fails = scene.fault.happens != Happens::BreakerOpen;
    stage.fails.store(fails, Ordering::Relaxed);
    stage.asked.lock().clear();
    let began = Instant::now();
    let end = caller.call(MEASURED).await;
    let took = began.elapsed();
    let course = Course {
        attempts: runs(&stage.asked.lock()),
        took,
        end,
    };
    seawall.end_streams();
    Ok(course)
}

/// What the call says whose course is of interest; others must not be its cached answer.
const MEASURED: &str = "the call";

/// Opens the breaker of the first target, or of each that a call comes to.
async fn open_breakers(caller: &Caller<'_>, everywhere: bool, route: &Route) {
    let rounds = if everywhere { route.ladder.len() } else { 1 };
    for _ in 0..rounds {
        caller.call("before").await;
        let system = caller.seawall.system();
        for breaker in caller.seawall.snapshot().breakers {
            if let Some(target) = system.known_target(&breaker.name) {
                target.force(Mode::ForcedOpen);
            }
        }
    }
}

/// The config as it is rehearsed: nothing leaves the process, and no file is written.
pub(super) fn staged(config: &Config, route: &Route) -> Config {
    let mut config = config.clone();
    config.organization = None;
    config.cache.disk = None;
    for (index, target) in config.targets.values_mut().enumerate() {
        target.base_url = format!("http://{}", host(index));
        target.count_tokens_above = None;
    }
    if let Some(route) = config.routes.get_mut(&route.name) {
        route.stagger = None;
        // A cached answer that is still fresh comes before any fault.
        if matches!(route.ladder.first(), Some(first) if first.place == Place::Cache) {
            route.ladder.remove(0);
        }
        let has_cache = route.ladder.iter().any(|rung| rung.place == Place::Cache);
        route.cache = route.cache.filter(|_| has_cache);
        if let Some(cache) = &mut route.cache {
            cache.max_temperature = f64::MAX;
        }
    }
    config
}

fn host(index: usize) -> String {
    format!("target-{index}.invalid")
}

/// The model that callers of the route ask for, as far as it can be known.
pub(super) fn asked(config: &Config, route: &Route) -> String {
    let exact = route.models.iter().map(ToString::to_string);
    let exact = exact.into_iter().find(|model| !model.contains('*'));
    let first = route.ladder.iter().find_map(|rung| rung.place.target());
    let own = || config.targets.get(first?)?.model.clone();
    exact.or_else(own).unwrap_or_else(|| "claude".to_owned())
}

/// The credential of a caller.
pub(super) fn key() -> (HeaderName, HeaderValue) {
    (
        HeaderName::from_static("x-api-key"),
        HeaderValue::from_static("rehearsal"),
    )
}

struct Caller<'c> {
    seawall: &'c Seawall,
    route: &'c Route,
    model: String,
    streamed: bool,
}

impl Caller<'_> {
    async fn call(&self, says: &str) -> End {
        let body = json!({
            "model": self.model, "max_tokens": 16, "stream": self.streamed,
            "messages": [{ "role": "user", "content": says }],
        });
        let mut headers = HeaderMap::new();
        let (name, value) = key();
        headers.insert(name, value);
        let mut ask = Ask::messages(headers, Bytes::from(body.to_string()));
        ask.route = Some(self.route.name.clone());
        match self.seawall.forward(ask).await {
            Ok(reply) => heard(reply.body).await,
            Err(Error::Provider { judged, status, .. }) => {
                End::Failed(judged.error_type.unwrap_or_else(|| status.to_string()))
            }
            Err(error) => End::Failed(error.error_type().to_owned()),
        }
    }
}

/// Reads an answer to its end.
async fn heard(body: ReplyBody) -> End {
    let mut stream = match body {
        ReplyBody::Whole(bytes) => match Message::from_body(&bytes) {
            Some(message) => return answered(&message),
            // The fixed or a cached answer to a call that streams comes in one piece.
            None => futures_util::stream::iter([bytes]).boxed(),
        },
        ReplyBody::Stream(stream) => stream.boxed(),
        _ => return End::BrokeOff,
    };
    let (mut decoder, mut assembler) = (SseDecoder::new(), Assembler::new());
    let mut failed = None;
    while let Some(bytes) = stream.next().await {
        let pushed = decoder.push(&bytes, |frame| {
            assembler.push(frame.data);
            failed = failed.take().or_else(|| error_in(frame.data));
        });
        if pushed.is_err() {
            break;
        }
    }
    match failed {
        None if assembler.is_whole() => answered(assembler.message()),
        Some(kind) if assembler.message().content.is_empty() => End::Failed(kind),
        _ => End::BrokeOff,
    }
}

fn answered(message: &Message) -> End {
    if message.stop_reason.as_deref() == Some("refusal") {
        return End::Refused;
    }
    End::Answered(message.model.clone().unwrap_or_default())
}

/// The type of the error that an event tells of.
fn error_in(data: &str) -> Option<String> {
    let event: serde_json::Value = serde_json::from_str(data).ok()?;
    if event.get("type")?.as_str()? != "error" {
        return None;
    }
    Some(event.get("error")?.get("type")?.as_str()?.to_owned())
}

/// The same names in a row, counted.
fn runs(asked: &[String]) -> Vec<(String, u32)> {
    let mut runs: Vec<(String, u32)> = Vec::new();
    for name in asked {
        match runs.last_mut() {
            Some((last, times)) if last == name => *times += 1,
            _ => runs.push((name.clone(), 1)),
        }
    }
    runs
}

/// A provider in memory: every target is a host of its own.
pub(super) struct Stage {
    /// The targets' names, by the number of their host.
    names: Vec<String>,
    /// Those that have the fault.
    faulty: Vec<String>,
    scene: Scene,
    /// What a call has, and what it may wait of it for breakers and quotas.
    time: (Duration, Duration),
    /// Whether the fault has begun.
    fails: AtomicBool,
    /// Whether answers are given for the cache to keep, which is then their name.
    keeps: AtomicBool,
    asked: Mutex<Vec<String>>,
}

impl Stage {
    fn new(config: &Config, route: &Route, scene: Scene) -> Self {
        let targets = route.ladder.iter().filter_map(|rung| rung.place.target());
        let most = if scene.everywhere { usize::MAX } else { 1 };
        let faulty = targets.take(most).map(str::to_owned).collect();
        Self::of(config, route, scene, faulty)
    }

    /// One on which these targets have the fault.
    pub(super) fn of(config: &Config, route: &Route, scene: Scene, faulty: Vec<String>) -> Self {
        Self {
            names: config.targets.keys().cloned().collect(),
            faulty,
            scene,
            time: (route.timeouts.total, route.wait),
            fails: AtomicBool::new(false),
            keeps: AtomicBool::new(false),
            asked: Mutex::default(),
        }
    }

    pub(super) fn begin_fault(&self) {
        self.fails.store(true, Ordering::Relaxed);
    }

    fn name_of(&self, request: &Request) -> String {
        let host = request.uri.host().unwrap_or_default();
        let mut names = self.names.iter().enumerate();
        let found = names.find(|(index, _)| self::host(*index) == host);
        found.map(|(_, name)| name.clone()).unwrap_or_default()
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage")
            .field("scene", &self.scene)
            .finish_non_exhaustive()
    }
}

impl Transport for Stage {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        let mut name = self.name_of(&request);
        if self.keeps.load(Ordering::Relaxed) {
            name = Place::Cache.to_string();
        }
        self.asked.lock().push(name.clone());
        let fails = self.fails.load(Ordering::Relaxed) && self.faulty.contains(&name);
        let Scene {
            fault, streamed, ..
        } = self.scene;
        async move {
            if fails {
                fault.happens.answer(streamed, self.time).await
            } else {
                Ok(faults::message(&name, "end_turn", streamed))
            }
        }
        .boxed()
    }
}
