//! A way to the simulated provider that notes what passes on it, and when.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use seawall::sim::memory::MemoryTransport;
use seawall::transport::{Body, Request, Response, Transport, TransportError};
use tokio::time::Instant;

/// The first attempts of a call go to a provider that fails, the others to one that does not.
#[derive(Debug, Clone)]
pub(crate) struct Tap {
    failing: MemoryTransport,
    healthy: MemoryTransport,
    /// How many attempts the failing one gets.
    failures: usize,
    notes: Arc<Mutex<Vec<Note>>>,
}

/// What one attempt was.
#[derive(Debug, Clone)]
pub(crate) struct Note {
    pub(crate) request: Bytes,
    pub(crate) headers: Option<Instant>,
    pub(crate) chunks: Vec<(Instant, Bytes)>,
    /// Whether the provider ended it itself, cleanly or not.
    pub(crate) spoke_last: bool,
    /// When nobody listened any more.
    pub(crate) ended: Option<Instant>,
}

impl Note {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let chunks = self.chunks.iter();
        chunks.flat_map(|(_, chunk)| chunk).copied().collect()
    }
}

impl Tap {
    pub(crate) fn new(failing: MemoryTransport, healthy: MemoryTransport, failures: usize) -> Self {
        Self {
            failing,
            healthy,
            failures,
            notes: Arc::default(),
        }
    }

    /// Every attempt so far.
    pub(crate) fn notes(&self) -> Vec<Note> {
        self.notes.lock().clone()
    }

    async fn pass(&self, request: Request) -> Result<Response, TransportError> {
        let number = {
            let mut notes = self.notes.lock();
            notes.push(Note {
                request: request.body.clone(),
                headers: None,
                chunks: Vec::new(),
                spoke_last: false,
                ended: None,
            });
            notes.len() - 1
        };
        let on_it = OnIt {
            notes: Arc::clone(&self.notes),
            number,
        };
        let way = if number < self.failures {
            &self.failing
        } else {
            &self.healthy
        };
        let answered = way.send(request).await;
        on_it.note(|note| match &answered {
            Ok(_) => note.headers = Some(Instant::now()),
            Err(_) => note.spoke_last = true,
        });
        let Response {
            status,
            headers,
            body,
        } = answered?;
        let body = stream::unfold((body, on_it), |(mut body, on_it)| async move {
            let next = body.next().await;
            on_it.note(|note| match &next {
                Some(Ok(chunk)) => note.chunks.push((Instant::now(), chunk.clone())),
                _ => note.spoke_last = true,
            });
            next.map(|next| (next, (body, on_it)))
        });
        Ok(Response {
            status,
            headers,
            body: Body::from_stream(body),
        })
    }
}

impl Transport for Tap {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        Box::pin(self.pass(request))
    }
}

/// An attempt that somebody listens to.
struct OnIt {
    notes: Arc<Mutex<Vec<Note>>>,
    number: usize,
}

impl OnIt {
    fn note(&self, note: impl FnOnce(&mut Note)) {
        note(&mut self.notes.lock()[self.number]);
    }
}

impl Drop for OnIt {
    fn drop(&mut self) {
        self.note(|note| note.ended = Some(Instant::now()));
    }
}
