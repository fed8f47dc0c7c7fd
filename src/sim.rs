//! A simulated Claude: the true wire format, honest limits, and faults on a timeline.
//!
//! Users rehearse outages with it and the drill measures with it. One core decides every answer
//! ([`Sim`]); [`memory`] carries it without a socket, for virtual time, and [`http`] over loopback.
//! The same seed and the same requests give the same bytes in both. Requests are validated first,
//! then a fault may strike, then the limits are asked: a request that a fault answers is not charged.
//! Attempts of one call are told by their equal model and messages, so a caller that repeats a
//! prompt on purpose counts as retrying.

pub mod answer;
mod buckets;
mod catalogue;
mod chunking;
pub mod faults;
mod head;
#[cfg(feature = "gateway")]
pub mod http;
pub mod memory;
pub mod recordings;
mod reply;
pub mod scenario;
mod seed;
mod spoil;
mod state;
pub mod stats;
pub mod wire;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderValue, Method, StatusCode, header};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::answer::{Act, Opening, Step};
pub use self::answer::{Answer, Answers, Ended, Head};
use self::buckets::Buckets;
pub use self::chunking::Chunking;
use self::faults::Chosen;
pub use self::faults::{Fault, FaultKind};
use self::head::Moment;
use self::memory::MemoryTransport;
use self::reply::Reply;
pub use self::scenario::{
    Delay, InvalidScenario, ModelSettings, QuotaSettings, Settings, TokenRange,
};
use self::state::{Bill, Exchange, State};
pub use self::stats::Stats;
pub use self::wire::request_tag;
use self::wire::{Ask, Refusal};
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

    /// One attempt of a valid request.
    fn attempt(self: Arc<Self>, ask: &Ask, now: Instant, counting: bool) -> Answer {
        let decided = self.decide(ask, now, counting);
        let exchange = Exchange {
            sim: Arc::clone(&self),
            label: decided.label,
            fault: decided.fault,
            bill: decided.bill,
            opened: false,
            done: false,
            output: 0,
        };
        let (delay, opening, steps) = match decided.outcome {
            Outcome::Reset(delay) => (delay, Opening::Reset, VecDeque::new()),
            Outcome::Nothing => (Duration::ZERO, Opening::Nothing, VecDeque::new()),
            Outcome::Short(delay, (head, body)) => (delay, Opening::Head(head), one(body)),
            Outcome::Success(success) => self.succeed(ask, *success),
        };
        Answer {
            delay,
            opening,
            steps,
            exchange: Some(exchange),
        }
    }

    /// What happens to an attempt: fault, limit or success, in this order.
    fn decide(&self, ask: &Ask, now: Instant, counting: bool) -> Decided {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let key = seed::mix(ask.tag, &[seed::digest(&[ask.model.as_bytes()])]);
        let attempt = state.seen.next(key);
        let seed = seed::mix(self.settings.seed, &[key, u64::from(attempt)]);
        let moment = state.moment(now, seed);
        let since = now.saturating_duration_since(state.faults_since);
        let asked = faults::Asked {
            since,
            model: &ask.model,
            attempt,
            seed,
        };
        let Chosen { fault, slow } = faults::choose(&state.faults, &asked);
        let label = state.stats.label(Some(&ask.model));
        state.stats.arrived(&label);
        let quota = self
            .settings
            .quotas
            .iter()
            .position(|quota| quota.covers(&ask.model));
        let mut buckets = quota.and_then(|place| state.buckets.get_mut(place));
        // A slow answer is an answer: it counts under its fault only if nothing worse struck.
        let kind = fault.as_ref().or(slow.as_ref()).map(|fault| fault.kind);
        let done = |outcome, fault| Decided {
            label: label.clone(),
            fault,
            bill: None,
            outcome,
        };

        let instead = fault
            .as_ref()
            .and_then(|fault| self.struck(fault, ask, buckets.as_deref_mut(), moment));
        if let Some(outcome) = instead {
            return done(outcome, kind);
        }
        let mut headers = head::api(moment);
        if counting {
            let body = format!(r#"{{"input_tokens":{}}}"#, ask.input_tokens);
            return done(self.short(head::json(200, headers, &body), None), kind);
        }
        if let Some(buckets) = buckets {
            if let Err(refused) = buckets.admit(ask.estimated_tokens, now) {
                let answer = head::limited(&refused, &ask.model, buckets, moment);
                return done(self.short(answer, None), None);
            }
            head::rate_limits(&mut headers, buckets, moment);
        }
        let bill = Bill {
            quota,
            estimated: ask.estimated_tokens,
            counted: ask.input_tokens,
        };
        let outcome = Outcome::Success(Box::new(Success {
            headers,
            seed,
            since,
            fault,
            slow,
        }));
        Decided {
            label,
            fault: kind,
            bill: Some(bill),
            outcome,
        }
    }

    /// The outcome of a fault that leaves no answer to spoil.
    fn struck(
        &self,
        fault: &Fault,
        ask: &Ask,
        buckets: Option<&mut Buckets>,
        moment: Moment,
    ) -> Option<Outcome> {
        if let Some(status) = fault.kind.status() {
            return Some(self.short(head::faulty(fault, status, buckets, moment), fault.latency));
        }
        let whole = !ask.stream;
        match fault.kind {
            FaultKind::ResetBeforeHeaders => Some(Outcome::Reset(self.latency(fault.latency))),
            FaultKind::StallBeforeContent | FaultKind::StallInStream
                if whole && fault.stall_for.is_none() =>
            {
                Some(Outcome::Nothing)
            }
            FaultKind::PingOnly if whole => Some(Outcome::Nothing),
            FaultKind::HtmlPage => Some(self.short(head::welcome(moment), fault.latency)),
            FaultKind::StreamError if whole => {
                Some(self.short(head::faulty(fault, 529, buckets, moment), None))
            }
            _ => None,
        }
    }

    fn short(&self, answer: head::ErrorAnswer, latency: Option<Duration>) -> Outcome {
        Outcome::Short(self.latency(latency), answer)
    }

    fn latency(&self, own: Option<Duration>) -> Duration {
        let usual = if self.settings.instant {
            Duration::ZERO
        } else {
            self.settings.error_latency
        };
        own.unwrap_or(usual)
    }

    /// The plan of a successful answer, with what a fault does to it.
    fn succeed(&self, ask: &Ask, success: Success) -> (Duration, Opening, VecDeque<Step>) {
        let Success {
            mut headers,
            seed,
            since,
            fault,
            slow,
        } = success;
        let Some(model) = self.settings.model(&ask.model) else {
            // The request was read against the same list.
            return (Duration::ZERO, Opening::Reset, VecDeque::new());
        };
        let reply = Reply::compose(ask, model, self.settings.seed, seed);
        let mut ttft = if self.settings.instant {
            Duration::ZERO
        } else {
            model.ttft.draw(&mut seed::rng(seed, &[0x77]))
        };
        if let Some(slow) = &slow {
            ttft = slow.stretched(ttft, since);
        }
        if ask.stream {
            let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
            headers.insert(header::CONTENT_TYPE, kind);
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
            // Headers and message_start come on half the way to the first content.
            let steps = reply.events(model, &self.settings, ttft - ttft / 2);
            let steps = match fault {
                Some(fault) => spoil::stream(steps.into(), &fault),
                None => steps.into(),
            };
            let steps = match self.settings.chunking {
                Some(chunking) => chunking.cut(steps, seed),
                None => steps,
            };
            return (
                ttft / 2,
                Opening::Head(Head {
                    status: StatusCode::OK,
                    headers,
                }),
                steps,
            );
        }
        let (body, tokens) = reply.whole();
        let (head, body) = head::json(200, headers, &body);
        let writing = if self.settings.instant {
            Duration::ZERO
        } else {
            reply.writing(model)
        };
        let stalled = fault
            .as_ref()
            .and_then(|fault| fault.stall_for)
            .unwrap_or_default();
        let delay = ttft + writing + stalled;
        let (head, steps) = spoil::whole(head, body, tokens, fault.as_ref().map(|f| f.kind));
        (delay, Opening::Head(head), steps)
    }

    /// An answer without a model.
    fn plain(
        self: Arc<Self>,
        answer: impl FnOnce(Moment) -> head::ErrorAnswer,
        now: Instant,
        model: Option<&str>,
    ) -> Answer {
        let (label, moment) = {
            let mut state = self.state.lock();
            let label = state.stats.label(model);
            state.stats.arrived(&label);
            let count = state.stats.attempts;
            (
                label,
                state.moment(now, seed::mix(self.settings.seed, &[0xf1, count])),
            )
        };
        let (head, body) = answer(moment);
        let delay = self.latency(None);
        let exchange = Exchange {
            sim: self,
            label,
            fault: None,
            bill: None,
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
        let known = counting || models || path == "/v1/messages";
        if !known {
            return self.refuse(&Refusal::new(404, "Not Found"), now);
        }
        if request.method != (if models { Method::GET } else { Method::POST }) {
            return self.refuse(&Refusal::new(405, "Method Not Allowed"), now);
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

/// What was decided for an attempt while the state was locked.
struct Decided {
    label: String,
    fault: Option<FaultKind>,
    bill: Option<Bill>,
    outcome: Outcome,
}

enum Outcome {
    /// The connection is reset after this time.
    Reset(Duration),
    Nothing,
    /// A short answer after this time.
    Short(Duration, head::ErrorAnswer),
    Success(Box<Success>),
}

struct Success {
    headers: ::http::HeaderMap,
    seed: u64,
    /// Time since the faults were set.
    since: Duration,
    fault: Option<Fault>,
    slow: Option<Fault>,
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
