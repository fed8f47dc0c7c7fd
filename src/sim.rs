//! A simulated Claude: the true wire format, honest limits, and faults on a timeline.
//!
//! Users rehearse outages with it and the drill measures with it. One core decides every answer
//! ([`Sim`]); [`memory`] carries it without a socket, for virtual time, and [`http`] over loopback.
//! The same seed and the same requests give the same bytes in both. Requests are validated first,
//! then a fault may strike, then the limits are asked: a request that a fault answers is not charged.
//! Attempts of one call are told by their equal model and messages, so a caller that repeats a
//! prompt on purpose counts as retrying.

pub mod answer;
mod arrivals;
mod attempt;
mod buckets;
mod cache;
mod catalogue;
mod chunking;
pub mod faults;
mod head;
#[cfg(feature = "gateway")]
pub mod http;
pub mod memory;
mod pool;
mod ramp;
mod rate_limits;
pub mod recordings;
mod reply;
pub mod scenario;
mod seed;
mod spoil;
mod state;
pub mod stats;
mod windows;
pub mod wire;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ::http::Method;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::answer::{Act, Opening, Step};
pub use self::answer::{Answer, Answers, Ended, Head};
pub use self::arrivals::Arrival;
pub use self::chunking::Chunking;
pub use self::faults::{Fault, FaultKind};
use self::head::Moment;
use self::memory::MemoryTransport;
use self::pool::Place;
pub use self::scenario::{
    Above, ConcurrencySettings, CredentialSettings, Delay, FastSettings, HeaderStyle,
    InvalidScenario, ModelSettings, QuotaSettings, RampSettings, Settings, TokenRange,
    UnifiedSettings, WorkspaceSettings,
};
use self::state::{Exchange, State};
pub use self::stats::Stats;
use self::wire::Refusal;
pub use self::wire::request_tag;
use crate::transport::Request;

/// A simulated provider.
#[derive(Debug)]
pub struct Sim {
    settings: Settings,
    state: Mutex<State>,
}

impl Sim {
    /// Starts a provider; its clock and its faults start with it.
    ///
    /// # Errors
    ///
    /// [`InvalidScenario`] for a setting out of its range.
    pub fn new(settings: Settings) -> Result<Arc<Self>, InvalidScenario> {
        settings.validate()?;
        let state = Mutex::new(State::new(&settings, Instant::now()));
        Ok(Arc::new(Self { settings, state }))
    }

    /// The scenario as it was started.
    #[must_use]
    pub const fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Replaces the faults; their windows count from this moment.
    ///
    /// # Errors
    ///
    /// [`InvalidScenario`], and the old faults stay.
    pub fn set_faults(&self, faults: Vec<Fault>) -> Result<(), InvalidScenario> {
        faults::validate(&faults)?;
        let mut state = self.state.lock();
        state.faults = faults;
        state.faults_since = Instant::now();
        Ok(())
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.state.lock().stats(&self.settings)
    }

    /// The latest 4,096 requests that arrived, in their order.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.state.lock().arrivals.latest()
    }

    /// Starts anew: full buckets, counters at zero, the scenario's own faults from now. Exchanges in
    /// flight stay counted as in flight.
    pub fn reset(&self) {
        let mut state = self.state.lock();
        let fresh = State::new(&self.settings, Instant::now());
        state.restart(fresh);
    }

    /// Ties the provider's calendar to the real one, for clients that compare.
    pub fn follow_wall_clock(&self) {
        self.state.lock().follow_wall_clock();
    }

    /// A transport to this provider in memory.
    #[must_use]
    pub fn transport(self: &Arc<Self>) -> MemoryTransport {
        let provider: Arc<dyn Answers> = Arc::<Self>::clone(self);
        MemoryTransport::new(provider, self.settings.network, self.settings.seed)
    }

    /// `POST /v1/messages` and `count_tokens`.
    fn messages(self: Arc<Self>, request: &Request, now: Instant, counting: bool) -> Answer {
        let read = wire::read(&request.headers, &request.body, &self.settings, counting);
        match read {
            Ok(ask) => self.attempt(&ask, now, counting),
            Err(refusal) => self.refuse(&refusal, now),
        }
    }

    /// An answer without a model.
    fn plain(
        self: Arc<Self>,
        answer: impl FnOnce(Moment) -> head::ErrorAnswer,
        now: Instant,
        model: Option<&str>,
    ) -> Answer {
        let (label, arrival, moment) = {
            let mut state = self.state.lock();
            let label = state.stats.label(model);
            let arrival = state.arrived(&label, now);
            let count = state.stats.attempts;
            (
                label,
                arrival,
                state.moment(now, seed::mix(self.settings.seed, &[0xf1, count])),
            )
        };
        let (head, body) = answer(moment);
        let delay = self.latency(None);
        let exchange = Exchange {
            sim: self,
            label,
            arrival,
            fault: None,
            bill: None,
            place: Place::default(),
            opened: false,
            done: false,
            output: 0,
        };
        Answer {
            delay,
            opening: Opening::Head(head),
            steps: one(body),
            exchange: Some(exchange),
        }
    }

    fn refuse(self: Arc<Self>, refusal: &Refusal, now: Instant) -> Answer {
        // A name that no model has is the client's invention: it gets no row of its own.
        let model = refusal
            .model
            .as_deref()
            .filter(|name| self.settings.model(name).is_some());
        let model = model.map(ToOwned::to_owned);
        self.plain(
            |moment| head::refusal(refusal.status, &refusal.message, moment),
            now,
            model.as_deref(),
        )
    }

    /// `GET /v1/organizations/rate_limits` and the same of a workspace.
    fn tell_limits(self: Arc<Self>, request: &Request, now: Instant) -> Answer {
        let body = rate_limits::authorise(&request.headers, &self.settings)
            .and_then(|()| rate_limits::body(&request.uri, &self.settings));
        match body {
            Ok(body) => self.plain(
                |moment| head::json(200, head::api(moment), &body),
                now,
                None,
            ),
            Err(refusal) => self.refuse(&refusal, now),
        }
    }

    /// `GET /v1/models` and `GET /v1/models/{id}`.
    fn list_models(self: Arc<Self>, path: &str, now: Instant) -> Answer {
        match catalogue::body(path, &self.settings) {
            Ok(body) => self.plain(
                |moment| head::json(200, head::api(moment), &body),
                now,
                None,
            ),
            Err(refusal) => self.refuse(&refusal, now),
        }
    }
}

impl Answers for Sim {
    fn answer(self: Arc<Self>, request: &Request, now: Instant) -> Answer {
        let path = request.uri.path();
        let counting = path == "/v1/messages/count_tokens";
        if path == "/api/hello" && matches!(request.method, Method::GET | Method::HEAD) {
            return self.plain(|moment| head::json(200, head::api(moment), ""), now, None);
        }
        if request.body.len() > wire::BODY_LIMIT {
            let fault = Fault::new(FaultKind::TooLarge);
            return self.plain(|moment| head::faulty(&fault, 413, None, moment), now, None);
        }
        let models = path == "/v1/models" || path.starts_with("/v1/models/");
        let limits = rate_limits::is_here(path);
        let known = counting || models || limits || path == "/v1/messages";
        if !known {
            return self.refuse(&Refusal::new(404, "Not Found"), now);
        }
        if request.method
            != (if models || limits {
                Method::GET
            } else {
                Method::POST
            })
        {
            return self.refuse(&Refusal::new(405, "Method Not Allowed"), now);
        }
        if limits {
            return self.tell_limits(request, now);
        }
        if let Err(refusal) = wire::authenticate(&request.headers, &self.settings.api_keys) {
            return self.refuse(&refusal, now);
        }
        if models {
            return self.list_models(path, now);
        }
        self.messages(request, now, counting)
    }
}

fn one(body: Bytes) -> VecDeque<Step> {
    [Step {
        after: Duration::ZERO,
        act: Act::Send(body, 0),
    }]
    .into()
}

#[cfg(test)]
mod tests;
