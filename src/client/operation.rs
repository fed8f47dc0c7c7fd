//! What a call does on its way down its ladder: attempts, answers at hand, probes.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::StatusCode;
use seawall_actors::caller::{Attempt, Occasion, Operation, Outcome};
use seawall_actors::policy::ladder::Cause;
use seawall_actors::policy::quota::Cost;
use seawall_actors::system::Target;

use super::ask::Endpoint;
use super::attempt::{self, Answer, AnswerBody, Failure, StoodIn};
use super::exchange::Exchange;
use super::{Seawall, fixed, probe};
use crate::cache::Freshness;
use crate::config::Place;

/// One call, as the actors carry it out.
pub(super) struct CallOperation {
    pub(super) seawall: Seawall,
    pub(super) exchange: Arc<Exchange>,
}

impl Operation for CallOperation {
    type Answer = Answer;
    type Error = Failure;

    // The walk around it is moved and the attempt is not: a box keeps what is moved small.
    fn attempt(&self, wire: Attempt) -> impl Future<Output = Outcome<Answer, Failure>> + Send {
        attempt::attempt(Arc::clone(&self.exchange), wire).boxed()
    }

    fn place(&self, rung: usize) -> impl Future<Output = Result<(Target, Cost), Cause>> + Send {
        self.seawall.place(&self.exchange, rung).boxed()
    }

    fn stand_in(
        &self,
        rung: usize,
        occasion: Occasion,
    ) -> impl Future<Output = Option<Answer>> + Send {
        self.at_hand(rung, occasion).boxed()
    }

    fn usually_within(&self, rung: usize) -> Option<Duration> {
        let sent = self.exchange.rungs.prepared(rung)?;
        Some(sent.expectation.to_first_content()?.p95)
    }

    // A probe is a message: it says nothing of the breaker and the quota of another endpoint.
    fn probes(&self, rung: usize) -> bool {
        if self.exchange.endpoint != Endpoint::Messages {
            return false;
        }
        let routes = &self.seawall.shared.config.routes;
        let route = routes.get(&*self.exchange.route);
        route.is_some_and(|route| route.probe) && self.exchange.rungs.sent(rung).is_some()
    }

    fn probe(&self, attempt: Attempt) -> Option<BoxFuture<'static, Outcome<(), ()>>> {
        let sent = self.exchange.rungs.prepared(attempt.rung)?;
        let telemetry = self.exchange.telemetry.clone();
        Some(probe::probe(Arc::clone(sent), telemetry, attempt).boxed())
    }
}

impl CallOperation {
    async fn at_hand(&self, rung: usize, occasion: Occasion) -> Option<Answer> {
        let exchange = &self.exchange;
        match exchange.rungs.place(rung)? {
            Place::Cache => {
                let hit = exchange.kept.as_ref()?.find(occasion.cause).await?;
                let replay = hit.entry.replay(exchange.is_stream())?;
                Some(Answer {
                    status: StatusCode::OK,
                    headers: replay.headers,
                    body: AnswerBody::Whole(replay.body),
                    stood_in: Some(StoodIn::Cache {
                        badge: hit.badge(),
                        stale: hit.freshness == Freshness::Stale,
                        model: hit.entry.model().cloned(),
                    }),
                })
            }
            Place::Static => {
                let routes = &self.seawall.shared.config.routes;
                let template = routes.get(&*exchange.route)?.static_text.as_ref()?;
                Some(fixed::answer(exchange, template, occasion))
            }
            Place::Target(_) => None,
        }
    }
}
