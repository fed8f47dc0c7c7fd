//! An answer that is continued where it breaks off.
//!
//! What has reached the caller can't be taken back, but text can go on: another request, with what
//! was said so far, takes the place of the broken stream, and [`Splice`] makes one of the two. It is
//! made under the same deadline, and counts as an attempt of the same call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use seawall_actors::verdict::Again;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Seawall;
use super::ask::{Ask, ReplyBody};
use super::exchange::Exchange;
use super::reply_stream::{last_event, poll_ping};
use super::stream::{BrokenOff, Watched};
use crate::delivery::Delivery;
use crate::provider::anthropic::PING_EVENT;
use crate::provider::anthropic::splice::{Splice, continuation};

/// A caller that has seen an answer break off is shown signs of life after this.
const FIRST_PING: Duration = Duration::from_secs(5);

/// A stream that other requests may continue.
pub(super) struct Resumable {
    seawall: Seawall,
    exchange: Arc<Exchange>,
    splice: Splice,
    part: Part,
}

enum Part {
    Live(Box<Watched>),
    Asked(Box<Asked>),
    Over,
}

/// The request for the rest, and why the part before it broke off.
struct Asked {
    rest: BoxFuture<'static, Option<Box<Watched>>>,
    broken: BrokenOff,
    ping: Pin<Box<Sleep>>,
}

impl Resumable {
    pub(super) fn new(seawall: Seawall, watched: Box<Watched>) -> Self {
        Self {
            seawall,
            exchange: Arc::clone(watched.exchange()),
            splice: Splice::new(),
            part: Part::Live(watched),
        }
    }

    pub(super) fn into_live(self) -> Option<Box<Watched>> {
        match self.part {
            Part::Live(watched) => Some(watched),
            _ => None,
        }
    }

    pub(super) fn poll_events(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match &mut self.part {
                Part::Live(watched) => match ready!(watched.poll_events(cx)) {
                    Some(Ok(events)) => {
                        let events = self.splice.pass(events);
                        // A continuation's first event is left out.
                        if !events.is_empty() {
                            return Poll::Ready(Some(events));
                        }
                    }
                    None => self.part = Part::Over,
                    Some(Err(broken)) => {
                        let used = watched.tokens();
                        self.exchange = Arc::clone(watched.exchange());
                        match self.ask(&broken, used.output) {
                            Some(rest) => {
                                self.splice.next_part(used);
                                let ping = Box::pin(sleep_until(Instant::now() + FIRST_PING));
                                self.part = Part::Asked(Box::new(Asked { rest, broken, ping }));
                            }
                            None => return Poll::Ready(Some(self.end(broken))),
                        }
                    }
                },
                Part::Asked(asked) => match asked.rest.as_mut().poll(cx) {
                    Poll::Ready(Some(watched)) => self.part = Part::Live(watched),
                    Poll::Ready(None) => {
                        if let Part::Asked(asked) = std::mem::replace(&mut self.part, Part::Over) {
                            return Poll::Ready(Some(self.end(asked.broken)));
                        }
                    }
                    Poll::Pending => {
                        ready!(poll_ping(&mut asked.ping, cx));
                        return Poll::Ready(Some(Bytes::from_static(PING_EVENT.as_bytes())));
                    }
                },
                Part::Over => return Poll::Ready(None),
            }
        }
    }

    /// Ends the answer with the reason why it broke off.
    fn end(&mut self, broken: BrokenOff) -> Bytes {
        self.part = Part::Over;
        self.exchange.publish(None);
        last_event(&self.exchange, broken)
    }

    /// Asks for the rest of the answer, where it can be continued and there is time for it.
    fn ask(
        &self,
        broken: &BrokenOff,
        written: u64,
    ) -> Option<BoxFuture<'static, Option<Box<Watched>>>> {
        let exchange = &self.exchange;
        let text = self.splice.continuable()?;
        let ask = exchange.ask.as_ref()?;
        if broken.judged.verdict.again == Again::Never || exchange.ends.is_thrown() {
            return None;
        }
        let ask = Ask {
            body: continuation(&ask.body, text, written)?,
            delivery: Some(Delivery::AsItComes),
            ..ask.clone()
        };
        let (seawall, exchange) = (self.seawall.clone(), Arc::clone(exchange));
        let rest = async move {
            let reply = seawall.resume(exchange, ask).await.ok()?;
            match reply.body {
                ReplyBody::Stream(stream) => stream.into_live(),
                ReplyBody::Whole(_) => None,
            }
        };
        Some(rest.boxed())
    }
}
