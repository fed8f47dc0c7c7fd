//! Writes down every attempt that a client makes, from outside it.
//!
//! The meter sits between a client and its transport, so the figures of a drill come from what was
//! sent, never from what a client says of itself.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;

use super::client::PROMPT_OPENING;
use crate::transport::{Body, Request, Response, Transport, TransportError};

/// One attempt as the wire saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// When it was sent, since the drill's start.
    pub started: Duration,
    /// When its last byte came, it broke, or its client left; `None` while it is under way.
    pub ended: Option<Duration>,
    /// The call that it was made for, if its prompt says.
    pub call: Option<u64>,
    /// The model it asked for.
    pub model: String,
    /// The status, once the headers came.
    pub status: Option<u16>,
    /// How it ended.
    pub end: AttemptEnd,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AttemptEnd {
    /// It has not.
    UnderWay,
    /// With its last byte.
    Whole,
    /// The connection broke, before or inside the answer.
    Broken,
    /// Its client left first.
    Departed,
}

impl AttemptRecord {
    /// Whether a whole answer with a 2xx came.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.end == AttemptEnd::Whole && self.status.is_some_and(|s| (200..300).contains(&s))
    }
}

/// The attempts of one client.
#[derive(Debug, Clone)]
pub struct AttemptLog {
    start: Instant,
    records: Arc<Mutex<Vec<AttemptRecord>>>,
}

impl AttemptLog {
    /// An empty log whose times count from `start`.
    #[must_use]
    pub fn new(start: Instant) -> Self {
        Self {
            start,
            records: Arc::default(),
        }
    }

    /// The attempts so far, in the order in which they were sent.
    #[must_use]
    pub fn snapshot(&self) -> Vec<AttemptRecord> {
        self.records.lock().clone()
    }

    /// Attempts that are under way.
    #[must_use]
    pub fn open(&self) -> usize {
        let records = self.records.lock();
        records
            .iter()
            .filter(|record| record.end == AttemptEnd::UnderWay)
            .count()
    }

    fn enter(&self, model: String, call: Option<u64>) -> Entry {
        let mut records = self.records.lock();
        records.push(AttemptRecord {
            started: self.start.elapsed(),
            ended: None,
            call,
            model,
            status: None,
            end: AttemptEnd::UnderWay,
        });
        Entry {
            log: self.clone(),
            index: records.len() - 1,
            open: true,
        }
    }
}

/// A transport that records what passes.
#[derive(Debug)]
pub struct Meter {
    inner: Arc<dyn Transport>,
    log: AttemptLog,
}

impl Meter {
    /// Records what goes through `inner` in `log`.
    #[must_use]
    pub fn new(inner: Arc<dyn Transport>, log: AttemptLog) -> Self {
        Self { inner, log }
    }
}

impl Transport for Meter {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        async move {
            let mut entry = self
                .log
                .enter(model_of(&request.body), call_of(&request.body));
            match self.inner.send(request).await {
                Ok(Response {
                    status,
                    headers,
                    body,
                }) => {
                    entry.status(status.as_u16());
                    let body = Body::from_stream(Metered { body, entry });
                    Ok(Response {
                        status,
                        headers,
                        body,
                    })
                }
                Err(error) => {
                    entry.close(AttemptEnd::Broken);
                    Err(error)
                }
            }
        }
        .boxed()
    }
}

/// One open line of the log; dropped open, it says that the client left.
#[derive(Debug)]
struct Entry {
    log: AttemptLog,
    index: usize,
    open: bool,
}

impl Entry {
    fn status(&self, status: u16) {
        if let Some(record) = self.log.records.lock().get_mut(self.index) {
            record.status = Some(status);
        }
    }

    fn close(&mut self, end: AttemptEnd) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let now = self.log.start.elapsed();
        if let Some(record) = self.log.records.lock().get_mut(self.index) {
            record.ended = Some(now);
            record.end = end;
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.close(AttemptEnd::Departed);
    }
}

struct Metered {
    body: Body,
    entry: Entry,
}

impl Stream for Metered {
    type Item = Result<Bytes, TransportError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.body.poll_next_unpin(cx));
        match &next {
            Some(Ok(_)) => {}
            Some(Err(_)) => self.entry.close(AttemptEnd::Broken),
            None => self.entry.close(AttemptEnd::Whole),
        }
        Poll::Ready(next)
    }
}

/// The number that every prompt of a drill begins with. Sought in the bytes: prompts are long, and
/// it stands near their beginning.
fn call_of(body: &[u8]) -> Option<u64> {
    let opening = PROMPT_OPENING.as_bytes();
    let at = body.windows(opening.len()).position(|w| w == opening)?;
    let number = body.get(at + opening.len()..)?;
    let digits = number.iter().take_while(|b| b.is_ascii_digit()).count();
    std::str::from_utf8(number.get(..digits)?)
        .ok()?
        .parse()
        .ok()
}

fn model_of(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        model: Cow<'a, str>,
    }
    serde_json::from_slice::<Named<'_>>(body)
        .map_or_else(|_| String::new(), |n| n.model.into_owned())
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http::{HeaderMap, Method, StatusCode, Uri};
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::transport::Broken;

    /// Answers after a second with two chunks a second apart; model `cut` breaks between them,
    /// model `gone` before the headers.
    #[derive(Debug)]
    struct Slow;

    impl Transport for Slow {
        fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
            let model = model_of(&request.body);
            async move {
                sleep(Duration::from_secs(1)).await;
                if model == "gone" {
                    return Err(TransportError::new(Broken::BeforeHeaders));
                }
                let chunks = stream::unfold(0, move |sent| {
                    let cut = model == "cut";
                    async move {
                        sleep(Duration::from_secs(1)).await;
                        match sent {
                            1 if cut => Some((Err(TransportError::new(Broken::InBody)), 2)),
                            0 | 1 => Some((Ok(Bytes::from_static(b"x")), sent + 1)),
                            _ => None,
                        }
                    }
                });
                let body = Body::from_stream(Box::pin(chunks));
                Ok(Response {
                    status: StatusCode::OK,
                    headers: HeaderMap::new(),
                    body,
                })
            }
            .boxed()
        }
    }

    fn request(model: &str) -> Request {
        Request {
            method: Method::POST,
            uri: Uri::from_static("http://sim/v1/messages"),
            headers: HeaderMap::new(),
            body: Bytes::from(format!(r#"{{"max_tokens":1,"model":"{model}"}}"#)),
        }
    }

    #[test]
    fn an_attempt_is_told_by_the_number_of_its_call() {
        let body = |text: &str| format!(r#"{{"messages":[{{"content":"{text}"}}]}}"#);
        assert_eq!(call_of(body("Call 00000042. wave ").as_bytes()), Some(42));
        assert_eq!(call_of(body("Call for help").as_bytes()), None);
        assert_eq!(call_of(body("hello").as_bytes()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn every_end_of_an_attempt_is_written_down() {
        let log = AttemptLog::new(Instant::now());
        let meter = Meter::new(Arc::new(Slow), log.clone());
        let mut whole = meter.send(request("whole")).await.unwrap().body;
        while whole.next().await.is_some() {}
        let mut cut = meter.send(request("cut")).await.unwrap().body;
        while cut.next().await.is_some_and(|chunk| chunk.is_ok()) {}
        assert!(meter.send(request("gone")).await.is_err());
        let half = Duration::from_millis(500);
        assert!(timeout(half, meter.send(request("left"))).await.is_err());
        let open = meter.send(request("open")).await.unwrap();
        let found: Vec<_> = log
            .snapshot()
            .into_iter()
            .map(|a| {
                (
                    a.model,
                    a.started.as_millis(),
                    a.ended.map(|e| e.as_millis()),
                    a.end,
                )
            })
            .collect();
        assert_eq!(
            found,
            [
                ("whole".to_owned(), 0, Some(4_000), AttemptEnd::Whole),
                ("cut".to_owned(), 4_000, Some(7_000), AttemptEnd::Broken),
                ("gone".to_owned(), 7_000, Some(8_000), AttemptEnd::Broken),
                ("left".to_owned(), 8_000, Some(8_500), AttemptEnd::Departed),
                ("open".to_owned(), 8_500, None, AttemptEnd::UnderWay),
            ]
        );
        drop(open);
        assert_eq!(log.snapshot()[4].end, AttemptEnd::Departed);
        assert!(log.snapshot()[0].succeeded() && !log.snapshot()[1].succeeded());
    }
}
