//! Which calls share an attempt, and what one that was answered by another's leaves behind.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ask::Reply;
use super::flights::{FlightKey, Joined};
use super::preparation::Asked;
use super::{Seawall, new_id};
use crate::error::Error;
use crate::telemetry::{self, CallRecord, Spent};

/// Most calls that are shared at one time. Each holds its whole answer.
pub(super) const MOST_FLIGHTS: usize = 1_024;

/// What `x-seawall-cache` says of an answer that another call brought.
const SHARED: &str = "shared";

impl Seawall {
    /// What a call shares an attempt by, where its route allows it and it asks for nothing of its own
    /// that the other would not have asked for.
    pub(super) fn shareable(asked: &Asked<'_>) -> Option<FlightKey> {
        let (ask, print) = (&asked.ask, asked.print?);
        let is_plain = ask.delivery.is_none() && ask.timeouts.is_none() && ask.run.is_none();
        if !asked.route.single_flight || !is_plain || !print.admission.serves_first() {
            return None;
        }
        Some(FlightKey {
            request: print.key,
            streams: asked.view.as_ref().is_some_and(|view| view.stream),
            profile: ask.profile.unwrap_or(asked.route.profile),
            fallback: ask.fallback,
        })
    }

    /// Answers a call by another that asks the same at the same time, or else by making it.
    pub(super) async fn share(&self, key: FlightKey, asked: Asked<'_>) -> Result<Reply, Error> {
        let began = Instant::now();
        let route: Arc<str> = asked.route.name.as_str().into();
        let model = asked.view.as_ref().and_then(|view| view.model.as_deref());
        let model = model.map(Arc::from);
        let ask = asked.ask;
        let seawall = self.clone();
        let lead = move || async move { seawall.forward_alone(seawall.asked(ask)?).await };
        let Joined { reply, shared } = self.shared.flights.join(key, lead).await;
        if !shared {
            return reply;
        }
        let mut reply = reply?;
        // The attempts were another call's; this one has a name of its own.
        reply.report.call = new_id();
        reply.report.attempts = 0;
        reply.report.cache = Some(SHARED.to_owned());
        telemetry::finish(
            &self.shared.telemetry,
            &CallRecord {
                call: Arc::clone(&reply.report.call),
                route,
                profile: key.profile,
                target: None,
                model,
                rung: 0,
                attempts: 0,
                status: reply.status.as_u16(),
                verdict: SHARED,
                stream: key.streams,
                began,
                first_content: None,
                queued: Duration::ZERO,
                backed_off: Duration::ZERO,
                upstream_us: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
                spent: Spent::default(),
                request_id: None,
                degraded: reply.report.degraded,
                cause: reply.report.cause,
                skipped: String::new(),
            },
        );
        Ok(reply)
    }
}
