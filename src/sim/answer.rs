//! One answer as a plan: when the headers come, which bytes follow when, and how it ends.
//!
//! A transport only carries the plan out. Dropping an [`Answer`], or the stream made from it, before
//! its end is how a client leaves; the provider counts that.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::{Exchange, reply};
use crate::transport::Request;

/// Something that answers requests.
pub trait Answers: std::fmt::Debug + Send + Sync + 'static {
    /// Decides the answer to a request that has arrived whole.
    fn answer(self: std::sync::Arc<Self>, request: &Request, now: Instant) -> Answer;
}

/// What a provider does with one request.
#[derive(Debug)]
pub struct Answer {
    pub(super) delay: Duration,
    pub(super) opening: Opening,
    pub(super) steps: VecDeque<Step>,
    pub(super) exchange: Option<Exchange>,
}

/// How an answer begins.
#[derive(Debug)]
pub(super) enum Opening {
    Head(Head),
    /// The connection is reset.
    Reset,
    /// Nothing ever comes.
    Nothing,
}

/// Status and headers.
#[derive(Debug, Clone)]
pub struct Head {
    /// The status.
    pub status: StatusCode,
    /// The headers; `content-length` is there where the length is known.
    pub headers: HeaderMap,
}

/// One part of a body.
#[derive(Debug)]
pub(super) struct Step {
    /// The wait before it.
    pub(super) after: Duration,
    pub(super) act: Act,
}

#[derive(Debug)]
pub(super) enum Act {
    /// Bytes, and the output tokens in them.
    Send(Bytes, u64),
    /// A turn for the transport to send what it has.
    Flush,
    /// Nothing comes any more.
    Stall,
    /// Pings for ever, this far apart.
    Pings(Duration),
    /// The body ends although its framing does not.
    Break(Ended),
}

/// How an exchange breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// The connection is reset.
    #[error("connection reset by the provider")]
    Reset,
    /// The connection ends early.
    #[error("the answer ends before its framing does")]
    Early,
}

impl Answer {
    /// An answer that is there at once and whole.
    #[must_use]
    pub fn whole(head: Head, body: Bytes) -> Self {
        Self {
            delay: Duration::ZERO,
            opening: Opening::Head(head),
            steps: [Step {
                after: Duration::ZERO,
                act: Act::Send(body, 0),
            }]
            .into(),
            exchange: None,
        }
    }

    /// An answer in these chunks, each handed over by itself.
    #[must_use]
    pub fn chunked(head: Head, chunks: impl IntoIterator<Item = Bytes>) -> Self {
        let step = |act| Step {
            after: Duration::ZERO,
            act,
        };
        let steps = chunks
            .into_iter()
            .flat_map(|chunk| [step(Act::Flush), step(Act::Send(chunk, 0))])
            .collect();
        Self {
            delay: Duration::ZERO,
            opening: Opening::Head(head),
            steps,
            exchange: None,
        }
    }

    /// Waits for the headers; the stream is the body.
    ///
    /// # Errors
    ///
    /// [`Ended`] when the connection breaks before them.
    pub async fn open(
        mut self,
    ) -> Result<
        (
            Head,
            impl Stream<Item = Result<Bytes, Ended>> + Send + 'static,
        ),
        Ended,
    > {
        if let Some(exchange) = &mut self.exchange {
            exchange.place.taken().await;
        }
        pause(self.delay).await;
        let head = match self.opening {
            Opening::Head(head) => head,
            Opening::Reset => {
                if let Some(exchange) = self.exchange.take() {
                    exchange.reset();
                }
                return Err(Ended::Reset);
            }
            Opening::Nothing => std::future::pending().await,
        };
        if let Some(exchange) = &mut self.exchange {
            exchange.opened(head.status.as_u16());
        }
        // Nobody needs to ask for an empty body to have had all of it.
        let empty = |step: &Step| matches!(&step.act, Act::Send(bytes, _) if bytes.is_empty());
        if self.steps.iter().all(empty)
            && let Some(exchange) = self.exchange.take()
        {
            exchange.finished();
        }
        let body = Playing {
            steps: self.steps,
            exchange: self.exchange,
        };
        Ok((head, stream::unfold(body, Playing::next)))
    }
}

/// A body on its way.
struct Playing {
    steps: VecDeque<Step>,
    exchange: Option<Exchange>,
}

impl Playing {
    async fn next(mut self) -> Option<(Result<Bytes, Ended>, Self)> {
        loop {
            let Some(step) = self.steps.pop_front() else {
                if let Some(exchange) = self.exchange.take() {
                    exchange.finished();
                }
                return None;
            };
            pause(step.after).await;
            match step.act {
                Act::Send(bytes, tokens) => {
                    if let Some(exchange) = &mut self.exchange {
                        exchange.produced(tokens);
                    }
                    // The last bytes end the exchange for the provider: whether the reader asks for
                    // the end of the body afterwards is the reader's affair.
                    if self.steps.is_empty()
                        && let Some(exchange) = self.exchange.take()
                    {
                        exchange.finished();
                    }
                    if !bytes.is_empty() {
                        return Some((Ok(bytes), self));
                    }
                }
                Act::Flush => tokio::task::yield_now().await,
                Act::Stall => std::future::pending().await,
                Act::Pings(every) => {
                    self.steps.push_front(Step {
                        after: every,
                        act: Act::Pings(every),
                    });
                    return Some((Ok(reply::PING), self));
                }
                Act::Break(ended) => {
                    tokio::task::yield_now().await;
                    self.steps.clear();
                    if let Some(exchange) = self.exchange.take() {
                        exchange.finished();
                    }
                    return Some((Err(ended), self));
                }
            }
        }
    }
}

/// Sleeps, but not for nothing: a timer that is due still costs a turn of the timer wheel.
async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}
