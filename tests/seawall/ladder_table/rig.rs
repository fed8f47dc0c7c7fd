//! Two targets and the client in front of them, in virtual time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use seawall::cache::{Entry, Fingerprint, KeyParts, Scope, Settings as StoreSettings, Store};
use seawall::client::Seawall;
use seawall::client::ask::{Ask, Report};
use seawall::client::message_stream::Answered;
use seawall::config::Environment;
use seawall::error::Error;
use seawall::message::Message;
use seawall::sim::memory::MemoryTransport;
use seawall::sim::{Fault, FaultKind, Settings, Sim};
use seawall::transport::{Body, Request, Response, Transport, TransportError};
use seawall_actors::policy::circuit::Mode;
use seawall_actors::policy::quota::Learned;
use serde_json::{Value, json};

use super::oracle::ATTEMPTS;
use super::trouble::How;
use super::{Cell, Second, State};
use crate::stream_faults::case::{client_in, idle, settings};

/// 200,000 tokens of context, and a million.
const SMALL: &str = "claude-haiku-4-5";
const LARGE: &str = "claude-opus-4-6";

/// What the route's static answer says.
const STATIC: &str = "The harbour is closed.";

/// How a call ended.
#[derive(Debug)]
pub(crate) enum Got {
    Answer {
        text: String,
        /// Whether the model declined.
        declined: bool,
        report: Report,
    },
    Error(Failed),
}

#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) label: String,
    pub(crate) status: u16,
    pub(crate) kind: String,
    pub(crate) report: Option<Report>,
}

/// What came of a cell.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) got: Got,
    /// Requests that reached the first target and the second.
    pub(crate) first: u32,
    pub(crate) second: u32,
    /// What each place says to the request.
    pub(crate) of_first: String,
    pub(crate) of_second: String,
    pub(crate) of_cache: String,
    pub(crate) of_static: &'static str,
    pub(crate) of_refusal: &'static str,
}

/// A cache file with an old answer, and what every place says.
pub(crate) struct Kept {
    file: PathBuf,
    text: String,
    /// By the provider's seed, the model and whether there is an image.
    said: Mutex<BTreeMap<(u64, &'static str, bool), String>>,
}

/// Files of one process differ.
static FILES: AtomicU32 = AtomicU32::new(0);

fn fresh_path() -> PathBuf {
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("seawall-ladder-{}-{number}", std::process::id()))
}

impl Kept {
    pub(crate) async fn new() -> Self {
        let file = fresh_path();
        let text = "Stones, mostly.".to_owned();
        let body = json!({
            "id": "msg_01", "type": "message", "role": "assistant", "model": SMALL,
            "content": [{ "type": "text", "text": text }],
            "stop_reason": "end_turn", "stop_sequence": null,
            "usage": { "input_tokens": 9, "output_tokens": 4 },
        });
        let settings = StoreSettings {
            memory: 1 << 20,
            keep: Duration::from_hours(24),
            largest: 1 << 20,
            disk: Some((file.clone(), 1 << 20)),
        };
        let now = Timestamp::now();
        let store = Store::open(&settings, now).unwrap();
        let request = body_of(false, false);
        let headers = HeaderMap::new();
        let named = Fingerprint::of(&KeyParts {
            scope: Scope::Tenant(""),
            route: "default",
            model: Some(SMALL),
            query: None,
            headers: &headers,
            body: request.as_bytes(),
        });
        let at = now - SignedDuration::from_hours(1);
        let entry = Entry::of_body(
            StatusCode::OK,
            &headers,
            body.to_string().as_bytes(),
            (at, store.largest()),
        );
        store.put(named.unwrap().key, entry.unwrap());
        store.close().await;
        Self {
            file,
            text,
            said: Mutex::default(),
        }
    }

    /// What a provider says to the request when nothing befalls it.
    async fn said(&self, of: (u64, &'static str, bool), sim: &Arc<Sim>) -> String {
        let known = self.said.lock().get(&of).cloned();
        if let Some(known) = known {
            return known;
        }
        let (_, model, image) = of;
        let text = undisturbed(sim, &body_of(false, image), model).await;
        self.said.lock().insert(of, text.clone());
        text
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.file));
    }
}

/// The way to both targets, as each answers at present.
#[derive(Debug, Clone)]
struct Way {
    first: MemoryTransport,
    second: MemoryTransport,
    how: Arc<Mutex<Option<How>>>,
    counts: Arc<[AtomicU32; 2]>,
}

impl Transport for Way {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        if request.uri.host() == Some("second") {
            self.counts[1].fetch_add(1, Ordering::Relaxed);
            return self.second.send(request);
        }
        self.counts[0].fetch_add(1, Ordering::Relaxed);
        let said = |status: u16, body: String| Response {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Body::from_bytes(Bytes::from(body)),
        };
        let answer = match &*self.how.lock() {
            Some(How::Says { status, body }) => Ok(said(*status, body.clone())),
            Some(How::Declines) => {
                let (kind, body) = declined(&request.body);
                let mut answer = said(200, body);
                answer
                    .headers
                    .insert("content-type", HeaderValue::from_static(kind));
                Ok(answer)
            }
            Some(How::Breaks(broken)) => Err(TransportError::new(*broken)),
            _ => return self.first.send(request),
        };
        std::future::ready(answer).boxed()
    }
}

/// What a model says that will not answer.
const DECLINED: &str = "I can't help with";

/// An answer that ends in a refusal, in the form that was asked for.
fn declined(request: &[u8]) -> (&'static str, String) {
    let asked: Value = serde_json::from_slice(request).unwrap();
    let mut message = json!({
        "id": "msg_02", "type": "message", "role": "assistant", "model": asked["model"],
        "content": [{ "type": "text", "text": DECLINED }],
        "stop_reason": "refusal", "stop_sequence": null,
        "usage": { "input_tokens": 9, "output_tokens": 4 },
    });
    if asked["stream"] != json!(true) {
        return ("application/json", message.to_string());
    }
    message["content"] = json!([]);
    message["stop_reason"] = Value::Null;
    let events = [
        json!({ "type": "message_start", "message": message }),
        json!({
            "type": "content_block_start", "index": 0,
            "content_block": { "type": "text", "text": "" },
        }),
        json!({
            "type": "content_block_delta", "index": 0,
            "delta": { "type": "text_delta", "text": DECLINED },
        }),
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({
            "type": "message_delta",
            "delta": { "stop_reason": "refusal", "stop_sequence": null },
            "usage": { "output_tokens": 4 },
        }),
        json!({ "type": "message_stop" }),
    ];
    let event = |event: &Value| {
        let name = event["type"].as_str().unwrap();
        format!("event: {name}\ndata: {event}\n\n")
    };
    ("text/event-stream", events.iter().map(event).collect())
}

fn body_of(stream: bool, image: bool) -> String {
    let mut content = vec![json!({ "type": "text", "text": "How does a seawall work?" })];
    if image {
        let source = json!({ "type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo=" });
        content.push(json!({ "type": "image", "source": source }));
    }
    json!({
        "model": SMALL, "max_tokens": 512, "stream": stream,
        "messages": [{ "role": "user", "content": content }],
    })
    .to_string()
}

fn config(cell: &Cell, file: Option<&PathBuf>) -> String {
    let second = match cell.second {
        Second::None => None,
        Second::OtherModel | Second::OtherKey => Some("second"),
        Second::Static => Some("static"),
        Second::CacheFresh | Second::CacheStale | Second::CacheEmpty => Some("cache"),
    };
    let second = second.map(|rung| match cell.on {
        Some(on) => format!("{{ rung = \"{rung}\", on = [\"{on}\"] }}"),
        None => format!("\"{rung}\""),
    });
    let is_static = cell.ends_static || cell.second == Second::Static;
    let below = cell.ends_static.then(|| "\"static\"".to_owned());
    let ladder: Vec<String> = ["\"first\"".to_owned()]
        .into_iter()
        .chain(second)
        .chain(below)
        .collect();
    let text = if is_static {
        format!("static = {{ text = \"{STATIC}\" }}")
    } else {
        String::new()
    };
    let disk = file.map(|file| format!("[cache]\ndisk = '{}'", file.display()));
    let model = second_model(cell.second);
    let key = match cell.second {
        Second::OtherKey => "KEY_B",
        _ => "KEY_A",
    };
    let cannot = |state| match state {
        State::Unfit => "cannot = [\"images\"]",
        _ => "",
    };
    format!(
        r#"
[routes.default]
ladder = [{}]
profile = "agent_step"
delivery = "complete"
retry = {{ attempts = {ATTEMPTS} }}
timeouts = {{ connect = "1s", headers = "1s", first_content = "2s", stall = "2s", events = "4s", total = "18s" }}
{text}
[routes.warm-first]
ladder = ["first"]
[routes.warm-second]
ladder = ["second"]
[quotas.first]
[quotas.second]
[targets.first]
base_url = "http://first"
api_key_env = "KEY_A"
model = "{SMALL}"
quota = "first"
{}
[targets.second]
base_url = "http://second"
api_key_env = "{key}"
model = "{model}"
quota = "second"
{}
{}
"#,
        ladder.join(", "),
        cannot(cell.of_first()),
        cannot(cell.state),
        disk.unwrap_or_default(),
    )
}

/// What a provider says to a request when nothing befalls it.
async fn undisturbed(sim: &Arc<Sim>, body: &str, model: &str) -> String {
    let mut body: Value = serde_json::from_str(body).unwrap();
    body["stream"] = json!(false);
    body["model"] = json!(model);
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", "sk-c".parse().unwrap());
    headers.insert("anthropic-version", "2023-06-01".parse().unwrap());
    let request = Request {
        method: Method::POST,
        uri: "http://sim/v1/messages".parse().unwrap(),
        headers,
        body: body.to_string().into(),
    };
    let mut answer = sim.transport().send(request).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.body.next().await {
        bytes.extend(chunk.unwrap());
    }
    Message::from_body(&bytes).unwrap().text()
}

/// Brings a target into its state.
async fn set_state(seawall: &Seawall, target: &str, state: State) {
    if matches!(state, State::Healthy | State::Unfit) {
        return;
    }
    let mut ask = Ask::messages(HeaderMap::new(), body_of(false, false).into());
    ask.route = Some(format!("warm-{target}"));
    seawall.call(ask).await.unwrap();
    let system = seawall.system();
    if state == State::Open {
        system.known_target(target).unwrap().force(Mode::ForcedOpen);
    } else {
        let quota = system.known_quota(target).unwrap();
        quota.learn(Learned {
            stop_for: Some(Duration::from_hours(1)),
            ..Learned::default()
        });
    }
}

fn read(result: Result<Answered, Error>) -> Got {
    let error = match result {
        Ok(answered) => {
            return Got::Answer {
                text: answered.message.text(),
                declined: answered.message.stop_reason.as_deref() == Some("refusal"),
                report: answered.report,
            };
        }
        Err(error) => error,
    };
    let (label, kind) = match &error {
        Error::Provider { judged, .. } => {
            let kind = judged.error_type.clone();
            (judged.verdict.label, kind.unwrap_or_default())
        }
        Error::Unanswered { judged, .. } => (judged.verdict.label, error.error_type().to_owned()),
        other => (other.verdict().label, other.error_type().to_owned()),
    };
    Got::Error(Failed {
        label: label.to_owned(),
        status: error.status().as_u16(),
        kind,
        report: error.report().cloned(),
    })
}

/// Both providers, the way to them and the client.
struct Rig {
    first: Arc<Sim>,
    second: Arc<Sim>,
    way: Way,
    seawall: Seawall,
    file: Option<PathBuf>,
}

impl Rig {
    async fn start(cell: &Cell, kept: &Kept) -> Self {
        let [first, second] = [1, 2].map(|seed| {
            let settings = Settings {
                instant: true,
                ..settings(seed, Vec::new())
            };
            Sim::new(settings).unwrap()
        });
        let way = Way {
            first: first.transport(),
            second: second.transport(),
            how: Arc::default(),
            counts: Arc::default(),
        };
        let file = (cell.second == Second::CacheStale).then(fresh_path);
        if let Some(file) = &file {
            std::fs::copy(&kept.file, file).unwrap();
        }
        let keys = Environment::from_fn(|name| match name {
            "KEY_A" => Some("sk-a".to_owned()),
            "KEY_B" => Some("sk-b".to_owned()),
            _ => None,
        });
        let seawall = client_in(keys, way.clone(), &config(cell, file.as_ref()), 1).await;
        Self {
            first,
            second,
            way,
            seawall,
            file,
        }
    }

    /// Lets the first target fail from now on, and counts from now on.
    fn fail(&self, how: &How) {
        for sim in [&self.first, &self.second] {
            sim.reset();
        }
        for count in &*self.way.counts {
            count.store(0, Ordering::Relaxed);
        }
        let fault = match how {
            How::Fault(fault) => Some(fault.clone()),
            How::Leaves => Some(Fault::new(FaultKind::NoAnswer)),
            How::Says { .. } | How::Breaks(_) | How::Declines | How::Is(_) => None,
        };
        self.first.set_faults(Vec::from_iter(fault)).unwrap();
        *self.way.how.lock() = Some(how.clone());
    }

    /// Requests that have reached the first target and the second.
    fn counts(&self) -> [u32; 2] {
        [0, 1].map(|n: usize| self.way.counts[n].load(Ordering::Relaxed))
    }

    /// Nothing may be left under way.
    async fn stop(self) {
        let both = [&self.first, &self.second];
        idle(&self.seawall, &both, Duration::from_millis(2)).await;
        self.seawall.stop().await;
        if let Some(file) = self.file {
            drop(std::fs::remove_file(file));
        }
    }
}

/// Plays one cell.
pub(crate) async fn play(cell: &Cell, kept: &Kept) -> Seen {
    let rig = Rig::start(cell, kept).await;
    let image = [cell.of_first(), cell.state].contains(&State::Unfit);
    let mut ask = Ask::messages(HeaderMap::new(), body_of(cell.stream, image).into());
    let of_first = kept.said((1, SMALL, image), &rig.first).await;
    let second = second_model(cell.second);
    let of_second = kept.said((2, second, image), &rig.second).await;
    let mut of_cache = of_first.clone();
    match cell.second {
        Second::CacheFresh => drop(rig.seawall.call(ask.clone()).await.unwrap()),
        Second::CacheStale => {
            load(&rig.seawall, &rig.way, ask.clone()).await;
            of_cache.clone_from(&kept.text);
        }
        _ => {}
    }
    for (target, state) in [("first", cell.of_first()), ("second", cell.state)] {
        set_state(&rig.seawall, target, state).await;
    }
    rig.fail(&cell.trouble.how);
    ask.fallback = cell.fallback;
    let leave = async {
        if matches!(cell.trouble.how, How::Leaves) {
            tokio::time::sleep(Duration::from_millis(100)).await;
            rig.seawall.end_streams();
        }
    };
    let (result, ()) = tokio::join!(rig.seawall.call(ask), leave);
    let got = read(result);
    let [first, second] = rig.counts();
    rig.stop().await;
    Seen {
        got,
        first,
        second,
        of_first,
        of_second,
        of_cache,
        of_static: STATIC,
        of_refusal: DECLINED,
    }
}

const fn second_model(second: Second) -> &'static str {
    match second {
        Second::OtherKey => SMALL,
        _ => LARGE,
    }
}

/// Has the cache read its file, which takes real time: the paused clock would not wait for a disk.
async fn load(seawall: &Seawall, way: &Way, ask: Ask) {
    tokio::time::resume();
    *way.how.lock() = Some(How::Says {
        status: 301,
        body: String::new(),
    });
    let answered = seawall.call(ask).await.unwrap();
    assert_eq!(&*answered.report.rung, "cache");
    *way.how.lock() = None;
    tokio::time::pause();
}
