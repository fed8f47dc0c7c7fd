//! What all attempts of one call share, and what each rung sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use parking_lot::Mutex;
use seawall_actors::caller::Attempt;
use seawall_actors::verdict::Verdict;
use tokio::time::Instant;

use super::ask::Endpoint;
use super::expectation::Expectation;
use crate::profile::{Profile, Timeouts};
use crate::provider::anthropic::usage::Tokens;
use crate::telemetry::{self, CallRecord, Telemetry};
use crate::transport::{Request, Transport};
use crate::verdict::{Timeout, judge_timeout};

/// Part of the time left that one attempt without streaming may use.
const WHOLE_SHARE: f64 = 0.6;

/// With less than this left for another attempt, the first may use all of the time.
const LEAST_REST: Duration = Duration::from_secs(5);

/// One call on its way through the client.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) call: Arc<str>,
    pub(super) endpoint: Endpoint,
    pub(super) route: Arc<str>,
    pub(super) profile: Profile,
    pub(super) model: Option<Arc<str>>,
    pub(super) streams: bool,
    pub(super) timeouts: Timeouts,
    pub(super) began: Instant,
    pub(super) rungs: Vec<Arc<Prepared>>,
    pub(super) telemetry: Telemetry,
    /// Microseconds that attempts took up to their first content or end.
    pub(super) upstream_us: AtomicU64,
    pub(super) last: Mutex<LastAttempt>,
    /// Status of the attempt under way; 0 until its headers are there.
    pub(super) status: AtomicU16,
    /// Whether the call has begun and its record is still to come.
    pub(super) unrecorded: AtomicBool,
}

/// What the last attempt of a call was, for its log line.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LastAttempt {
    pub(super) status: u16,
    pub(super) label: &'static str,
    pub(super) attempts: u32,
    pub(super) rung: usize,
}

/// What is sent to one rung.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) name: Arc<str>,
    pub(super) model: Option<Arc<str>>,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) credential_source: Arc<str>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) expectation: Arc<Expectation>,
    /// The estimate that was reserved, before any correction.
    pub(super) estimated_input: u64,
}

impl Prepared {
    pub(super) fn request(&self, exchange: &Exchange) -> Request {
        Request {
            method: exchange.endpoint.method().clone(),
            uri: self.uri.clone(),
            headers: self.headers.clone(),
            body: self.body.clone(),
        }
    }
}

impl Exchange {
    pub(super) fn rung(&self, rung: usize) -> Option<Arc<Prepared>> {
        self.rungs.get(rung).cloned()
    }

    /// When an attempt that is not streamed has to be over.
    ///
    /// Its answer comes all at once, so a hang looks like work. Where the caller has said that the
    /// answer is needed soon, it may use most of the time that is left and no more, so that another
    /// attempt still fits; a patient call is never cut before its deadline.
    pub(super) fn whole_by(&self, deadline: Instant) -> Instant {
        match self.profile {
            Profile::AgentStep | Profile::Interactive => {
                let now = Instant::now();
                let left = deadline.saturating_duration_since(now);
                let share = left.mul_f64(WHOLE_SHARE);
                if left.saturating_sub(share) < LEAST_REST {
                    deadline
                } else {
                    now + share
                }
            }
            Profile::Standard | Profile::Batch => deadline,
        }
    }

    /// Whether a success must be a JSON document.
    pub(super) fn is_json(&self) -> bool {
        matches!(self.endpoint, Endpoint::Messages | Endpoint::CountTokens)
            || self.endpoint.method() == Method::GET
                && self.endpoint.path().starts_with("/v1/models")
    }

    /// From here on the call leaves a record, whatever becomes of it.
    pub(super) fn begin(&self) {
        self.unrecorded.store(true, Ordering::Relaxed);
    }

    /// Notes the status of the attempt under way.
    pub(super) fn heard(&self, status: StatusCode) {
        self.status.store(status.as_u16(), Ordering::Relaxed);
    }

    /// Counts one finished attempt.
    pub(super) fn count_attempt(&self, attempt: &Attempt, verdict: &Verdict) {
        self.count((attempt.number, attempt.rung), verdict);
    }

    fn count(&self, (attempts, rung): (u32, usize), verdict: &Verdict) {
        let status = self.status.load(Ordering::Relaxed);
        *self.last.lock() = LastAttempt {
            status,
            label: verdict.label,
            attempts,
            rung,
        };
        if let Some(prepared) = self.rungs.get(rung) {
            self.telemetry
                .attempt(&prepared.name, status, verdict.label);
        }
    }

    /// The record of this call up to here.
    pub(super) fn record(&self) -> CallRecord {
        let last = *self.last.lock();
        let prepared = self.rungs.get(last.rung);
        CallRecord {
            call: Arc::clone(&self.call),
            route: Arc::clone(&self.route),
            profile: self.profile,
            target: prepared.map(|p| Arc::clone(&p.name)),
            model: prepared
                .and_then(|p| p.model.clone())
                .or_else(|| self.model.clone()),
            rung: last.rung,
            attempts: last.attempts,
            status: last.status,
            verdict: last.label,
            stream: self.streams,
            began: self.began,
            upstream_us: self.upstream_us.load(Ordering::Relaxed),
            ..CallRecord::new(self.began)
        }
    }

    /// Teaches the rung's expectation what an answer really took.
    pub(super) fn learn_usage(&self, prepared: &Prepared, tokens: Tokens) {
        prepared.expectation.learn(prepared.estimated_input, tokens);
    }

    /// Publishes the call's record; only the first counts.
    pub(super) fn finish(&self, record: &CallRecord) {
        if self.unrecorded.swap(false, Ordering::Relaxed) {
            telemetry::finish(&self.telemetry, record);
        }
    }
}

/// A call that was dropped before its end has left all the same. By now its attempt, which holds
/// the exchange too, has been counted.
impl Drop for Exchange {
    fn drop(&mut self) {
        if *self.unrecorded.get_mut() {
            let mut record = self.record();
            record.verdict = Verdict::DEPARTED.label;
            self.finish(&record);
        }
    }
}

/// An attempt that has been sent. Dropped with its future, it is counted as the caller's leaving,
/// or as the timeout that the call's deadline is.
#[derive(Debug)]
pub(super) struct OnTheWire {
    exchange: Arc<Exchange>,
    /// Number and rung.
    attempt: (u32, usize),
    deadline: Instant,
    counted: bool,
}

impl OnTheWire {
    pub(super) fn new(exchange: &Arc<Exchange>, attempt: &Attempt) -> Self {
        exchange.status.store(0, Ordering::Relaxed);
        Self {
            exchange: Arc::clone(exchange),
            attempt: (attempt.number, attempt.rung),
            deadline: attempt.deadline,
            counted: false,
        }
    }

    /// The attempt has come to an end of its own, and counted itself.
    pub(super) fn ended(mut self) {
        self.counted = true;
    }
}

impl Drop for OnTheWire {
    fn drop(&mut self) {
        if self.counted {
            return;
        }
        let verdict = if Instant::now() < self.deadline {
            Verdict::DEPARTED
        } else {
            judge_timeout(Timeout::Total).verdict
        };
        self.exchange.count(self.attempt, &verdict);
    }
}
