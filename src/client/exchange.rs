//! What all attempts of one call share, and what each rung sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
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

    /// Counts one finished attempt. Status 0 means that none came.
    pub(super) fn count_attempt(&self, attempt: &Attempt, status: u16, verdict: &Verdict) {
        *self.last.lock() = LastAttempt {
            status,
            label: verdict.label,
            attempts: attempt.number,
            rung: attempt.rung,
        };
        if let Some(prepared) = self.rungs.get(attempt.rung) {
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

    pub(super) fn finish(&self, record: &CallRecord) {
        telemetry::finish(&self.telemetry, record);
    }
}
