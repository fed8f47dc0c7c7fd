//! The provider in memory: no socket, so that time can be virtual.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::answer::{Answers, Ended};
use super::scenario::Delay;
use super::seed;
use crate::transport::{Body, Broken, Request, Response, Transport, TransportError};

/// A [`Transport`] to a simulated provider in the same process. Cloning shares the provider.
#[derive(Debug, Clone)]
pub struct MemoryTransport {
    provider: Arc<dyn Answers>,
    network: Delay,
    seed: u64,
    sent: Arc<AtomicU64>,
}

impl MemoryTransport {
    /// A way to `provider` that takes `network` in each direction.
    #[must_use]
    pub fn new(provider: Arc<dyn Answers>, network: Delay, seed: u64) -> Self {
        Self {
            provider,
            network,
            seed,
            sent: Arc::new(AtomicU64::new(0)),
        }
    }

    async fn exchange(&self, request: Request) -> Result<Response, TransportError> {
        let count = self.sent.fetch_add(1, Ordering::Relaxed);
        let mut rng = seed::rng(self.seed, &[0x2e, count]);
        let (there, back) = (self.network.draw(&mut rng), self.network.draw(&mut rng));
        pause(there).await;
        let answer = Arc::clone(&self.provider).answer(&request, Instant::now());
        let (head, body) = answer
            .open()
            .await
            .map_err(|ended| TransportError::because(Broken::BeforeHeaders, ended))?;
        pause(back).await;
        let body =
            body.map(|chunk| chunk.map_err(|e: Ended| TransportError::because(Broken::InBody, e)));
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body: Body::from_stream(body),
        })
    }
}

impl Transport for MemoryTransport {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, TransportError>> {
        Box::pin(self.exchange(request))
    }
}

async fn pause(time: std::time::Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
