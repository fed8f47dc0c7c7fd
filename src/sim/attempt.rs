//! What one attempt meets: a fault, a limit or a good answer, decided in this order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::time::Instant;

use super::answer::{Answer, Head, Opening, Step};
use super::cache::Cached;
use super::faults::{self, Chosen, Fault, FaultKind};
use super::head::{self, Moment};
use super::pool::{Place, Pool};
use super::reply::Reply;
use super::state::{Bill, Exchange};
use super::windows::Windows;
use super::wire::Ask;
use super::{Sim, one, seed, spoil};

impl Sim {
    /// One attempt of a valid request.
    pub(super) fn attempt(self: Arc<Self>, ask: &Ask, now: Instant, counting: bool) -> Answer {
        let decided = self.decide(ask, now, counting);
        let exchange = Exchange {
            sim: Arc::clone(&self),
            label: decided.label,
            arrival: decided.arrival,
            fault: decided.fault,
            bill: decided.bill,
            place: decided.place,
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
        let arrival = state.arrived(&label, now);
        let quota = self
            .settings
            .quotas
            .iter()
            .position(|quota| quota.covers(&ask.model));
        let mut pool = quota.and_then(|place| state.pools.get_mut(place));
        // A slow answer is an answer: it counts under its fault only if nothing worse struck.
        let kind = fault.as_ref().or(slow.as_ref()).map(|fault| fault.kind);
        let done = |outcome, fault| Decided {
            label: label.clone(),
            arrival,
            fault,
            bill: None,
            place: Place::default(),
            outcome,
        };

        let instead = fault
            .as_ref()
            .and_then(|fault| self.struck(fault, ask, pool.as_deref_mut(), moment));
        if let Some(outcome) = instead {
            return done(outcome, kind);
        }
        let mut headers = head::api(moment);
        if counting {
            let body = format!(r#"{{"input_tokens":{}}}"#, ask.input_tokens);
            return done(self.short(head::json(200, headers, &body), None), kind);
        }
        let windows = ask.credential.and_then(|at| state.windows.get_mut(at));
        let cached = state.cache.look(&ask.model, &ask.beginnings, now);
        let mut bill = Bill::of(ask, cached, quota);
        let limits = (windows, pool);
        let place = match admitted((ask, &mut bill), limits, &mut headers, moment) {
            Ok(place) => place,
            Err(answer) => return done(self.short(answer, None), None),
        };
        state.cache.keep(&ask.model, &ask.beginnings, now);
        let outcome = Outcome::Success(Box::new(Success {
            headers,
            seed,
            since,
            fault,
            slow,
            cached,
        }));
        Decided {
            label,
            arrival,
            fault: kind,
            bill: Some(bill),
            place,
            outcome,
        }
    }

    /// The outcome of a fault that leaves no answer to spoil.
    fn struck(
        &self,
        fault: &Fault,
        ask: &Ask,
        pool: Option<&mut Pool>,
        moment: Moment,
    ) -> Option<Outcome> {
        if let Some(status) = fault.kind.status() {
            return Some(self.short(head::faulty(fault, status, pool, moment), fault.latency));
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
            FaultKind::NoAnswer => Some(Outcome::Nothing),
            FaultKind::HtmlPage => Some(self.short(head::welcome(moment), fault.latency)),
            FaultKind::StreamError if whole => {
                Some(self.short(head::faulty(fault, 529, pool, moment), None))
            }
            FaultKind::FilteredInStream if whole => {
                Some(self.short(head::faulty(fault, 400, pool, moment), None))
            }
            _ => None,
        }
    }

    fn short(&self, answer: head::ErrorAnswer, latency: Option<Duration>) -> Outcome {
        Outcome::Short(self.latency(latency), answer)
    }

    /// How long an answer takes that no model writes.
    pub(super) fn latency(&self, own: Option<Duration>) -> Duration {
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
            cached,
        } = success;
        let Some(model) = self.settings.model(&ask.model) else {
            // The request was read against the same list.
            return (Duration::ZERO, Opening::Reset, VecDeque::new());
        };
        let reply = Reply::compose(ask, model, self.settings.seed, seed).cached(cached);
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
}

/// Asks the limits, and tells them in the headers of the answer.
fn admitted(
    (ask, bill): (&Ask, &mut Bill),
    (windows, pool): (Option<&mut Windows>, Option<&mut Pool>),
    headers: &mut HeaderMap,
    moment: Moment,
) -> Result<Place, head::ErrorAnswer> {
    // A subscription is told its windows and nothing of the organisation's limits.
    let subscribed = windows.is_some();
    if let Some(windows) = windows {
        let admitted = windows.admit(moment.now);
        windows.tell(headers, admitted.is_err(), moment);
        if let Err(wait) = admitted {
            return Err(head::window_spent(headers.clone(), wait, moment));
        }
    }
    let Some(pool) = pool else {
        return Ok(Place::default());
    };
    if pool.cache_reads_count {
        bill.count_cache_reads(ask);
    }
    match pool.admit(bill.estimated, ask.fast, moment.now) {
        Ok(place) => {
            if !subscribed {
                head::limits::told(headers, pool, ask.fast, moment);
            }
            Ok(place)
        }
        Err(over) => Err(head::over(&over, ask, pool, moment)),
    }
}

impl Bill {
    /// What a request is charged where the cache is free to read.
    const fn of(ask: &Ask, cached: Cached, quota: Option<usize>) -> Self {
        let counted = ask.input_tokens.saturating_sub(cached.read);
        let estimated = ask.estimated_tokens.saturating_sub(cached.read);
        Self {
            quota,
            fast: ask.fast,
            estimated: if estimated == 0 { 1 } else { estimated },
            counted,
            input: counted.saturating_sub(cached.created),
        }
    }

    const fn count_cache_reads(&mut self, ask: &Ask) {
        self.estimated = ask.estimated_tokens;
        self.counted = ask.input_tokens;
    }
}

/// What was decided for an attempt while the state was locked.
struct Decided {
    label: String,
    arrival: u64,
    fault: Option<FaultKind>,
    bill: Option<Bill>,
    place: Place,
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
    headers: HeaderMap,
    seed: u64,
    /// Time since the faults were set.
    since: Duration,
    fault: Option<Fault>,
    slow: Option<Fault>,
    cached: Cached,
}
