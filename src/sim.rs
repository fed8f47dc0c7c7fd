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
pub mod faults;
mod head;
pub mod memory;
mod reply;
pub mod scenario;
mod seed;
mod spoil;
pub mod stats;
pub mod wire;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderValue, Method, StatusCode, header};
use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use self::answer::{Act, Opening, Step};
pub use self::answer::{Answer, Answers, Ended, Head};
use self::buckets::Buckets;
use self::faults::Chosen;
pub use self::faults::{Fault, FaultKind};
use self::head::Moment;
use self::memory::MemoryTransport;
use self::reply::Reply;
pub use self::scenario::{
    Delay, InvalidScenario, ModelSettings, QuotaSettings, Settings, TokenRange,
};
pub use self::stats::Stats;
use self::stats::{AxisStats, QuotaStats};
pub use self::wire::request_tag;
use self::wire::{Ask, Refusal};
use crate::transport::Request;

/// Where the provider's calendar starts when nothing ties it to the real one: 2026-01-01T00:00:00Z.
const EPOCH: i64 = 1_767_225_600;
/// Requests remembered to number their attempts; at most twice as many.
const REMEMBERED: usize = 65_536;
/// The models that `GET /v1/models` lists, as far as the scenario knows them.
const LISTED: [&str; 12] = [
    "claude-fable-5-2",
    "claude-opus-5-5",
    "claude-opus-5",
    "claude-opus-4-8",
    "claude-opus-4-7",
    "claude-opus-4-6",
    "claude-sonnet-5-5",
    "claude-sonnet-5",
    "claude-sonnet-4-6",
    "claude-sonnet-4-5-20250929",
    "claude-haiku-5-5",
    "claude-haiku-4-5-20251001",
];

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
        let mut fresh = State::new(&self.settings, Instant::now());
        fresh.stats.in_flight = state.stats.in_flight;
        fresh.stats.max_in_flight = state.stats.in_flight;
        *state = fresh;
    }

    /// Ties the provider's calendar to the real one, for clients that compare.
    pub fn follow_wall_clock(&self) {
        let mut state = self.state.lock();
        state.wall = Timestamp::now();
        state.wall_at = Instant::now();
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
        };
        let (delay, opening, steps) = match decided.outcome {
            Outcome::Reset(delay) => (delay, Opening::Reset, VecDeque::new()),
            Outcome::Nothing => (Duration::ZERO, Opening::Nothing, VecDeque::new()),
            Outcome::Short(delay, (head, body)) => (delay, Opening::Head(head), one(body)),
            Outcome::Success(success) => self.succeed(ask, success),
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
        let outcome = Outcome::Success(Success {
            headers,
            seed,
            since,
            fault,
            slow,
        });
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
        if self.settings.instant {
            Duration::ZERO
        } else {
            own.unwrap_or(self.settings.error_latency)
        }
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
        let card = |id: &str| {
            let (context, most) = wire::room(id);
            json!({
                "type": "model", "id": id, "display_name": display_name(id),
                "created_at": "2025-09-29T00:00:00Z",
                "max_input_tokens": context, "max_tokens": most,
            })
        };
        let wanted = path
            .strip_prefix("/v1/models")
            .unwrap_or_default()
            .trim_start_matches('/');
        let known: Vec<&str> = LISTED
            .into_iter()
            .filter(|id| self.settings.model(id).is_some())
            .collect();
        let body = if wanted.is_empty() {
            json!({
                "data": known.iter().map(|id| card(id)).collect::<Vec<_>>(),
                "has_more": false,
                "first_id": known.first(), "last_id": known.last(),
            })
        } else if self.settings.model(wanted).is_some() {
            card(wanted)
        } else {
            return self.refuse(&Refusal::new(404, format!("model: {wanted}")), now);
        };
        let body = body.to_string();
        self.plain(
            |moment| head::json(200, head::api(moment), &body),
            now,
            None,
        )
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
    Success(Success),
}

struct Success {
    headers: ::http::HeaderMap,
    seed: u64,
    /// Time since the faults were set.
    since: Duration,
    fault: Option<Fault>,
    slow: Option<Fault>,
}

/// What an admitted request was charged.
#[derive(Debug, Clone, Copy)]
struct Bill {
    quota: Option<usize>,
    estimated: u64,
    counted: u64,
}

/// A request that is being answered. Dropped before its end, its client has left.
#[derive(Debug)]
struct Exchange {
    sim: Arc<Sim>,
    label: String,
    fault: Option<FaultKind>,
    bill: Option<Bill>,
    opened: bool,
    done: bool,
}

impl Exchange {
    /// The headers leave: the input has been counted by then.
    fn opened(&mut self, status: u16) {
        self.opened = true;
        let mut guard = self.sim.state.lock();
        let state = &mut *guard;
        state.stats.answer(&self.label, Some(status), self.fault);
        if let Some(bill) = self.bill {
            if let Some(buckets) = bill.quota.and_then(|place| state.buckets.get_mut(place)) {
                buckets.correct(bill.estimated, bill.counted, Instant::now());
            }
            state.stats.charged(&self.label, bill.counted, 0);
        }
    }

    fn produced(&self, tokens: u64) {
        if tokens == 0 {
            return;
        }
        let mut guard = self.sim.state.lock();
        let state = &mut *guard;
        let quota = self.bill.and_then(|bill| bill.quota);
        if let Some(buckets) = quota.and_then(|place| state.buckets.get_mut(place)) {
            buckets.produced(tokens, Instant::now());
        }
        state.stats.charged(&self.label, 0, tokens);
    }

    fn reset(mut self) {
        self.sim
            .state
            .lock()
            .stats
            .answer(&self.label, None, self.fault);
        self.done = true;
    }

    fn finished(mut self) {
        self.done = true;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut state = self.sim.state.lock();
        state.stats.ended();
        if !self.done {
            state.stats.left(&self.label, self.opened);
        }
    }
}

/// All that changes.
#[derive(Debug)]
struct State {
    faults: Vec<Fault>,
    faults_since: Instant,
    /// The calendar at the moment `wall_at`.
    wall: Timestamp,
    wall_at: Instant,
    buckets: Vec<Buckets>,
    seen: Seen,
    stats: Stats,
}

impl State {
    fn new(settings: &Settings, now: Instant) -> Self {
        Self {
            faults: settings.faults.clone(),
            faults_since: now,
            wall: Timestamp::from_second(EPOCH).unwrap_or(Timestamp::UNIX_EPOCH),
            wall_at: now,
            buckets: settings
                .quotas
                .iter()
                .map(|quota| Buckets::new(quota, now))
                .collect(),
            seen: Seen::default(),
            stats: Stats::default(),
        }
    }

    fn moment(&self, now: Instant, seed: u64) -> Moment {
        let passed = now.saturating_duration_since(self.wall_at);
        let wall = self.wall.saturating_add(passed).unwrap_or(Timestamp::MAX);
        Moment { now, wall, seed }
    }

    fn stats(&self, settings: &Settings) -> Stats {
        let axis = |axis: &Option<buckets::Axis>| {
            axis.as_ref().map(|axis| AxisStats {
                limit: axis.limit,
                charged: axis.charged,
                used: axis.used(),
            })
        };
        let quotas = settings
            .quotas
            .iter()
            .zip(&self.buckets)
            .map(|(quota, buckets)| QuotaStats {
                models: quota.models.clone(),
                requests: axis(&buckets.requests),
                input_tokens: axis(&buckets.input),
                output_tokens: axis(&buckets.output),
            });
        Stats {
            quotas: quotas.collect(),
            ..self.stats.clone()
        }
    }
}

/// Numbers the attempts of equal requests, with two generations so that memory is bounded.
#[derive(Debug, Default)]
struct Seen {
    young: HashMap<u64, u32>,
    old: HashMap<u64, u32>,
}

impl Seen {
    fn next(&mut self, key: u64) -> u32 {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        let before = self
            .young
            .get(&key)
            .or_else(|| self.old.get(&key))
            .copied()
            .unwrap_or(0);
        let attempt = before.saturating_add(1);
        self.young.insert(key, attempt);
        attempt
    }
}

fn one(body: Bytes) -> VecDeque<Step> {
    [Step {
        after: Duration::ZERO,
        act: Act::Send(body, 0),
    }]
    .into()
}

/// `claude-opus-5-5` as `Claude Opus 5.5`.
fn display_name(id: &str) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut numbers: Vec<&str> = Vec::new();
    for part in id.split('-').filter(|part| part.len() < 8) {
        if part.bytes().all(|b| b.is_ascii_digit()) {
            numbers.push(part);
            continue;
        }
        let mut letters = part.chars();
        let first = letters.next().map(|c| c.to_ascii_uppercase());
        words.push(first.into_iter().chain(letters).collect());
    }
    words.push(numbers.join("."));
    words.join(" ")
}
