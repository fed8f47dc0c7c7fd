//! Recorded exchanges, served byte for byte.
//!
//! A request is answered by the recording that `x-sim-recording` names, else by the one with the
//! same method, path, query and body; several of the same (a 429, then a 200) answer in turn.
//! `x-sim-chunks: SEED` cuts the body at random places. Headers that described the recorded
//! connection (`content-encoding`, `transfer-encoding`, `content-length`, `connection`) are dropped,
//! since bodies are stored decoded.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use rand::RngExt;
use serde::Deserialize;
use tokio::time::Instant;

use super::answer::{Answer, Answers, Head};
use super::memory::MemoryTransport;
use super::scenario::Delay;
use super::{head, seed};
use crate::transport::Request;

/// Headers of the recorded connection, not of the answer.
const DROPPED: [&str; 4] = [
    "connection",
    "content-encoding",
    "content-length",
    "transfer-encoding",
];

/// A set of recorded exchanges.
#[derive(Debug)]
pub struct Recordings {
    all: Vec<Recording>,
    by_id: HashMap<String, usize>,
    by_request: HashMap<u64, Turn>,
}

/// Recordings of the same request, and whose turn it is.
#[derive(Debug, Default)]
struct Turn {
    places: Vec<usize>,
    next: AtomicUsize,
}

/// One recorded exchange.
#[derive(Debug, Clone)]
pub struct Recording {
    /// The recording's name.
    pub id: String,
    /// The request's method.
    pub method: Method,
    /// The request's path, query included.
    pub path: String,
    /// The request's headers as recorded; credentials are placeholders.
    pub request_headers: HeaderMap,
    /// The request's body; empty for none.
    pub request_body: Bytes,
    /// The answer's status.
    pub status: StatusCode,
    /// The answer's headers, without those of the connection.
    pub headers: HeaderMap,
    /// The answer's body.
    pub body: Bytes,
}

impl Recordings {
    /// Reads every `.json` file under a directory.
    ///
    /// # Errors
    ///
    /// [`UnreadableRecording`] for the first file that cannot be read, and for a directory without
    /// any.
    pub fn load(directory: &Path) -> Result<Arc<Self>, UnreadableRecording> {
        let mut files = Vec::new();
        list(directory, &mut files)?;
        files.sort();
        let mut all = Vec::with_capacity(files.len());
        for file in files {
            all.push(read(&file)?);
        }
        if all.is_empty() {
            let why = io::Error::new(io::ErrorKind::NotFound, "no recording in it").into();
            return Err(UnreadableRecording {
                path: directory.to_owned(),
                why,
            });
        }
        all.sort_by_key(|(order, _)| *order);
        Ok(Arc::new(Self::new(
            all.into_iter().map(|(_, recording)| recording).collect(),
        )))
    }

    /// A set of these exchanges; of those with the same request, the first answers first.
    #[must_use]
    pub fn new(all: Vec<Recording>) -> Self {
        let mut by_id = HashMap::new();
        let mut by_request: HashMap<u64, Turn> = HashMap::new();
        for (place, recording) in all.iter().enumerate() {
            by_id.insert(recording.id.clone(), place);
            let key = key(&recording.method, &recording.path, &recording.request_body);
            by_request.entry(key).or_default().places.push(place);
        }
        Self {
            all,
            by_id,
            by_request,
        }
    }

    /// Every recording.
    #[must_use]
    pub fn all(&self) -> &[Recording] {
        &self.all
    }

    /// A transport to these recordings in memory, without delay.
    #[must_use]
    pub fn transport(self: &Arc<Self>) -> MemoryTransport {
        let provider: Arc<dyn Answers> = Arc::<Self>::clone(self);
        MemoryTransport::new(provider, Delay::ZERO, 0)
    }

    fn find(&self, request: &Request) -> Option<&Recording> {
        if let Some(id) = text(&request.headers, "x-sim-recording") {
            return self.by_id.get(id).and_then(|place| self.all.get(*place));
        }
        let path = request
            .uri
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let turn = self
            .by_request
            .get(&key(&request.method, path, &request.body))?;
        let count = turn.next.fetch_add(1, Ordering::Relaxed);
        let place = turn.places.get(count.checked_rem(turn.places.len())?)?;
        self.all.get(*place)
    }
}

impl Answers for Recordings {
    fn answer(self: Arc<Self>, request: &Request, _now: Instant) -> Answer {
        let Some(recording) = self.find(request) else {
            let body = r#"{"type":"error","error":{"type":"not_found_error","message":"no recording of this request"}}"#;
            let (head, body) = head::json(404, HeaderMap::new(), body);
            return Answer::whole(head, body);
        };
        let head = Head {
            status: recording.status,
            headers: recording.headers.clone(),
        };
        let seed = text(&request.headers, "x-sim-chunks").and_then(|seed| seed.parse().ok());
        match seed {
            Some(seed) => Answer::chunked(head, chunks(&recording.body, seed)),
            None => Answer::whole(head, recording.body.clone()),
        }
    }
}

/// Cuts bytes at random places: half of the pieces have up to 8 bytes, the others up to 512.
#[must_use]
pub fn chunks(body: &Bytes, seed: u64) -> Vec<Bytes> {
    let mut rng = seed::rng(seed, &[0xc4]);
    let mut rest = body.clone();
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let most = if rng.random() { 8 } else { 512 };
        pieces.push(rest.split_to(rng.random_range(1..=most).min(rest.len())));
    }
    pieces
}

/// A recording that cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot read recordings from {}", path.display())]
pub struct UnreadableRecording {
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub why: Box<dyn std::error::Error + Send + Sync>,
}

/// A file of the format `{request, response, meta}`.
#[derive(Deserialize)]
struct File {
    request: Recorded,
    response: Recorded,
    meta: Meta,
}

#[derive(Deserialize)]
struct Recorded {
    #[serde(default)]
    method: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    status: u16,
    #[serde(default)]
    headers: BTreeMap<String, Values>,
    #[serde(default)]
    body: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Meta {
    id: String,
    #[serde(default)]
    cassette_index: u64,
}

/// The recording and its place among those of the same source.
fn read(path: &Path) -> Result<(u64, Recording), UnreadableRecording> {
    let refuse = |why: Box<dyn std::error::Error + Send + Sync>| UnreadableRecording {
        path: path.to_owned(),
        why,
    };
    let bytes = fs::read(path).map_err(|e| refuse(e.into()))?;
    let file: File = serde_json::from_slice(&bytes).map_err(|e| refuse(e.into()))?;
    let method =
        Method::from_bytes(file.request.method.as_bytes()).map_err(|e| refuse(e.into()))?;
    let status = StatusCode::from_u16(file.response.status).map_err(|e| refuse(e.into()))?;
    let body = Bytes::from(file.response.body.unwrap_or_default());
    let mut headers = collect(file.response.headers);
    if !headers.contains_key(CONTENT_TYPE)
        && let Some(kind) = kind_of(&body)
    {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    if !body.starts_with(b"event:") {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    let recording = Recording {
        id: file.meta.id,
        method,
        path: file.request.path,
        request_headers: collect(file.request.headers),
        request_body: Bytes::from(file.request.body.unwrap_or_default()),
        status,
        headers,
        body,
    };
    Ok((file.meta.cassette_index, recording))
}

fn list(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), UnreadableRecording> {
    let refuse = |e: io::Error| UnreadableRecording {
        path: directory.to_owned(),
        why: e.into(),
    };
    for entry in fs::read_dir(directory).map_err(refuse)? {
        let path = entry.map_err(refuse)?.path();
        if path.is_dir() {
            list(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "json") {
            files.push(path);
        }
    }
    Ok(())
}

fn collect(recorded: BTreeMap<String, Values>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, values) in recorded {
        let Ok(name) = HeaderName::try_from(&name) else {
            continue;
        };
        if DROPPED.contains(&name.as_str()) {
            continue;
        }
        let values = match values {
            Values::One(value) => vec![value],
            Values::Many(values) => values,
        };
        for value in values
            .into_iter()
            .filter_map(|value| HeaderValue::try_from(value).ok())
        {
            headers.append(name.clone(), value);
        }
    }
    headers
}

fn kind_of(body: &[u8]) -> Option<&'static str> {
    match body.iter().find(|byte| !byte.is_ascii_whitespace())? {
        b'{' | b'[' => Some("application/json"),
        b'e' if body.starts_with(b"event:") => Some("text/event-stream; charset=utf-8"),
        _ => None,
    }
}

fn key(method: &Method, path: &str, body: &[u8]) -> u64 {
    seed::digest(&[
        method.as_str().as_bytes(),
        b" ",
        path.as_bytes(),
        b"\n",
        body,
    ])
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use http::Uri;

    use super::*;
    use crate::transport::Transport;

    const STREAM: &str = "event: message_stop\ndata: {\"type\":\"message_stop\"   }\n\n";

    fn recording(id: &str, status: u16, body: &'static str) -> Recording {
        Recording {
            id: id.to_owned(),
            method: Method::POST,
            path: "/v1/messages?beta=true".to_owned(),
            request_headers: HeaderMap::new(),
            request_body: Bytes::from_static(b"{\"a\":1}"),
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    fn request(headers: &[(&'static str, &'static str)]) -> Request {
        Request {
            method: Method::POST,
            uri: Uri::from_static("/v1/messages?beta=true"),
            headers: headers
                .iter()
                .map(|(name, value)| {
                    (
                        HeaderName::from_static(name),
                        HeaderValue::from_static(value),
                    )
                })
                .collect(),
            body: Bytes::from_static(b"{\"a\":1}"),
        }
    }

    async fn ask(all: &Arc<Recordings>, request: Request) -> (u16, Vec<u8>, usize) {
        let response = all.transport().send(request).await.unwrap();
        let chunks: Vec<_> = response.body.map(Result::unwrap).collect().await;
        (response.status.as_u16(), chunks.concat(), chunks.len())
    }

    #[tokio::test]
    async fn recordings_of_one_request_answer_in_turn() {
        let all = Arc::new(Recordings::new(vec![
            recording("a", 429, "{}"),
            recording("b", 529, "{}"),
            recording("c", 200, STREAM),
        ]));
        for status in [429, 529, 200, 429] {
            assert_eq!(ask(&all, request(&[])).await.0, status);
        }
        assert_eq!(ask(&all, request(&[("x-sim-recording", "b")])).await.0, 529);
        assert_eq!(
            ask(&all, request(&[("x-sim-recording", "none")])).await.0,
            404
        );
        let other = Request {
            body: Bytes::from_static(b"{\"a\":2}"),
            ..request(&[])
        };
        assert_eq!(ask(&all, other).await.0, 404);
    }

    #[tokio::test]
    async fn chunk_boundaries_change_nothing_but_the_chunks() {
        let all = Arc::new(Recordings::new(vec![recording("a", 200, STREAM)]));
        let (_, whole, one) = ask(&all, request(&[])).await;
        let (_, cut, many) = ask(&all, request(&[("x-sim-chunks", "7")])).await;
        assert_eq!((whole.as_slice(), one), (STREAM.as_bytes(), 1));
        assert_eq!(cut, whole);
        let (_, again, same) = ask(&all, request(&[("x-sim-chunks", "7")])).await;
        assert_eq!((again, same), (cut, many));
        let long = Bytes::from(vec![1; 100_000]);
        let pieces = chunks(&long, 3);
        assert_eq!(pieces.concat(), long);
        assert!(pieces.iter().any(|piece| piece.len() == 1));
        assert!(pieces.iter().any(|piece| piece.len() > 256));
    }

    #[test]
    fn a_file_is_read_without_the_headers_of_its_connection() {
        let directory =
            std::env::temp_dir().join(format!("seawall-recordings-{}", std::process::id()));
        fs::create_dir_all(directory.join("deeper")).unwrap();
        let file = r#"{"source":"x","provider":"anthropic",
            "request":{"method":"POST","path":"/v1/messages","headers":{},"body":null},
            "response":{"status":200,"headers":{"content-encoding":"gzip","content-length":"9",
                "transfer-encoding":"chunked","connection":"keep-alive","set-cookie":["a","b"],
                "request-id":"req_1"},"body":"event: ping\ndata: {\"type\": \"ping\"}\n\n"},
            "meta":{"id":"an-1","kind":"stream","cassette_index":2}}"#;
        fs::write(directory.join("deeper/one.json"), file).unwrap();
        let all = Recordings::load(&directory);
        fs::remove_dir_all(&directory).unwrap();
        let all = all.unwrap();
        let one = &all.all()[0];
        assert_eq!((one.id.as_str(), one.status), ("an-1", StatusCode::OK));
        let mut names: Vec<_> = one.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "request-id", "set-cookie"]);
        assert_eq!(one.headers.get_all("set-cookie").iter().count(), 2);
        assert!(Recordings::load(&directory).is_err());
    }

    /// With the recorded set at hand (`SEAWALL_RECORDINGS`), all of it is servable as stored.
    #[tokio::test]
    async fn the_recorded_set_is_served_byte_for_byte() {
        let Some(directory) = std::env::var_os("SEAWALL_RECORDINGS") else {
            eprintln!("SEAWALL_RECORDINGS is not set: the recorded set was not read");
            return;
        };
        let all = Recordings::load(Path::new(&directory)).unwrap();
        for recording in all.all() {
            let id = HeaderValue::try_from(recording.id.as_str()).unwrap();
            let mut asked = request(&[("x-sim-chunks", "5")]);
            asked.headers.insert("x-sim-recording", id);
            let (status, body, _) = ask(&all, asked).await;
            assert_eq!(status, recording.status.as_u16(), "{}", recording.id);
            assert!(body == recording.body, "{}", recording.id);
        }
    }
}
