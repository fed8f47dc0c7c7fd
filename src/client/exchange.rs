//! What all attempts of one call share, and what each rung sends.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use parking_lot::Mutex;
use seawall_actors::caller::{Attempt, CallReport, Fate};
use seawall_actors::policy::ladder::Cause;
use seawall_actors::verdict::Verdict;
use tokio::time::Instant;

use super::ask::{Ask, Degraded, Endpoint, Meter, Report};
use super::expectation::{Expectation, Expected};
use super::kept::Kept;
use super::keys::{Secret, TargetKey, refuses_the_key};
use super::rungs::Rungs;
use super::source::Source;
use super::spend_caps::SpendCaps;
use super::stream_ends::StreamEnds;
use crate::config::OnDisconnect;
use crate::delivery::Delivery;
use crate::profile::{Profile, Timeouts};
use crate::provider::anthropic::headers::Credential;
use crate::provider::anthropic::stream::StreamWatch;
use crate::provider::anthropic::usage::{Tokens, Usage};
use crate::telemetry::{self, CallRecord, SpendCap, Spent, Telemetry};
use crate::transport::{Request, Transport};
use crate::verdict::{Document, Judged, LimitKind, Timeout, judge_timeout};

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
    pub(super) delivery: Delivery,
    pub(super) on_disconnect: OnDisconnect,
    pub(super) model: Option<Arc<str>>,
    pub(super) streams: bool,
    pub(super) timeouts: Timeouts,
    pub(super) began: Instant,
    pub(super) rungs: Rungs,
    /// What the client sent.
    pub(super) source: Source,
    /// The part of the cache in the call.
    pub(super) kept: Option<Kept>,
    pub(super) telemetry: Telemetry,
    pub(super) spend_caps: SpendCaps,
    /// The run that the call belongs to, where runs take turns.
    pub(super) run: Option<Arc<str>>,
    pub(super) meter: Option<Arc<dyn Meter>>,
    pub(super) ends: StreamEnds,
    /// What was asked, where the answer may have to be asked for again.
    pub(super) ask: Option<Ask>,
    /// Attempts made for the same answer by calls that this one continues.
    pub(super) attempts_before: u32,
    /// Microseconds that attempts took up to their first content or end.
    pub(super) upstream_us: AtomicU64,
    pub(super) progress: Mutex<Progress>,
    /// Status of the attempts under way, by their number's last bit; 0 until its headers are there.
    /// There are at most two at a time, and their numbers follow one another.
    pub(super) statuses: [AtomicU16; 2],
    /// Whether the call has begun and its record is still to come.
    pub(super) unrecorded: AtomicBool,
    /// Whether an attempt was made once more because its key was replaced.
    pub(super) sent_anew: AtomicBool,
}

/// What is known of a call so far, for its log line.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    pub(super) last: LastAttempt,
    pub(super) first_content: Option<Instant>,
    /// When the first attempt was sent.
    pub(super) sent: Option<Instant>,
    /// Attempts that have been sent.
    pub(super) begun: u32,
    pub(super) queued: Duration,
    pub(super) backed_off: Duration,
    pub(super) request_id: Option<String>,
    pub(super) spent: Spent,
    /// In which way the answer is not what the first target would have given, and why.
    pub(super) degraded: Option<Degraded>,
    pub(super) cause: Option<Cause>,
}

/// What the last attempt of a call was.
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
    pub(super) credential_source: Cow<'static, str>,
    /// The configured key that it is sent with; none where the caller's own is.
    pub(super) key: Option<Arc<TargetKey>>,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) expectation: Arc<Expectation>,
    /// What it is expected to take.
    pub(super) expected: Expected,
}

impl Prepared {
    /// What goes out now, and with which configured secret.
    pub(super) fn request(&self, exchange: &Exchange) -> (Request, Option<Arc<Secret>>) {
        let (headers, secret) = self.headers_now();
        let request = Request {
            method: exchange.endpoint.method().clone(),
            uri: self.uri.clone(),
            headers,
            body: self.body.clone(),
        };
        (request, secret)
    }

    /// The headers, with the key as it is by now.
    pub(super) fn headers_now(&self) -> (HeaderMap, Option<Arc<Secret>>) {
        let mut headers = self.headers.clone();
        let secret = self.key.as_ref().map(|key| key.current());
        if let Some(secret) = &secret {
            secret.credential.apply(&mut headers);
        }
        (headers, secret)
    }

    /// Hears that an attempt with this configured secret was answered.
    pub(super) fn taken(&self, secret: Option<&Secret>) {
        if let (Some(key), Some(secret)) = (&self.key, secret) {
            key.taken(secret);
        }
    }

    /// Hears that an attempt with this configured secret was refused. Whether that was for the secret,
    /// and another one is there by now.
    pub(super) async fn refused(
        &self,
        secret: Option<&Secret>,
        judged: &Judged,
        until: Instant,
    ) -> bool {
        match (&self.key, secret) {
            (Some(key), Some(secret)) if refuses_the_key(judged) => {
                key.refused(secret, judged, until).await
            }
            _ => false,
        }
    }
}

impl Exchange {
    pub(super) fn rung(&self, rung: usize) -> Option<Arc<Prepared>> {
        self.rungs.prepared(rung).cloned()
    }

    /// Whether another rung may answer what a model refuses.
    pub(super) fn minds_refusals(&self) -> bool {
        self.endpoint == Endpoint::Messages && self.rungs.ladder().minds_refusals
    }

    /// Whether the answer is a stream of the Messages API.
    pub(super) fn is_stream(&self) -> bool {
        self.streams && self.endpoint == Endpoint::Messages
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

    /// What a whole success must hold, where that is known.
    pub(super) fn document(&self) -> Option<Document> {
        match self.endpoint {
            Endpoint::Messages => Some(Document::Message),
            Endpoint::CountTokens => Some(Document::TokenCount),
            _ if self.endpoint.method() == Method::GET
                && self.endpoint.path().starts_with("/v1/models") =>
            {
                Some(Document::Object)
            }
            _ => None,
        }
    }

    /// From here on the call leaves a record, whatever becomes of it.
    pub(super) fn begin(&self) {
        self.unrecorded.store(true, Ordering::Relaxed);
    }

    /// Leaves the record to the call that continues this one.
    pub(super) fn hand_over(&self) {
        self.unrecorded.store(false, Ordering::Relaxed);
    }

    /// Notes the status of an attempt under way.
    pub(super) fn heard(&self, number: u32, status: StatusCode) {
        self.status_of(number)
            .store(status.as_u16(), Ordering::Relaxed);
    }

    fn status_of(&self, number: u32) -> &AtomicU16 {
        let [even, odd] = &self.statuses;
        if number.is_multiple_of(2) { even } else { odd }
    }

    /// Notes what the call has waited for.
    pub(super) fn waited(&self, report: &CallReport) {
        let mut progress = self.progress.lock();
        progress.queued += report.queued;
        progress.backed_off += report.backed_off;
    }

    /// What a call took that is still on its way: its queueing is that before the first attempt, since
    /// nobody knows yet how much of a later pause is a breaker's or a quota's.
    pub(super) fn so_far(&self) -> Report {
        let progress = self.progress.lock();
        let sent = progress.sent.unwrap_or_else(Instant::now);
        Report {
            attempts: progress.begun,
            queued: sent.saturating_duration_since(self.began),
            ..Report::new(Arc::clone(&self.call))
        }
    }

    /// Notes that an attempt is sent.
    fn sends(&self, number: u32) {
        let mut progress = self.progress.lock();
        progress.sent.get_or_insert_with(Instant::now);
        progress.begun = self.attempts_before.saturating_add(number);
    }

    /// Notes the first content of the answer.
    pub(super) fn saw_content(&self, at: Instant) {
        self.progress.lock().first_content.get_or_insert(at);
    }

    /// Counts one finished attempt by its number in this call and its rung.
    pub(super) fn count_attempt(&self, (number, rung): (u32, usize), verdict: &Verdict) {
        let status = self.status_of(number).load(Ordering::Relaxed);
        let attempts = self.attempts_before.saturating_add(number);
        let last = &mut self.progress.lock().last;
        let attempts = attempts.max(last.attempts);
        if *verdict == Verdict::OUTRUN {
            // Another one is the call's last word.
            last.attempts = attempts;
        } else {
            *last = LastAttempt {
                status,
                label: verdict.label,
                attempts,
                rung,
            };
        }
        if let Some(prepared) = self.rungs.prepared(rung) {
            self.telemetry
                .attempt(&prepared.name, status, verdict.label);
        }
    }

    /// Remembers that a spend cap is reached, and says so once for each stop.
    pub(super) fn alert(&self, rung: usize, judged: &Judged) {
        let (Some(LimitKind::SpendCap { .. }), Some(stop_for)) = (judged.limit, judged.stop_for)
        else {
            return;
        };
        let Some(prepared) = self.rungs.prepared(rung) else {
            return;
        };
        let credential = Credential::from_headers(&prepared.headers);
        let fingerprint = credential.as_ref().map_or("", |c| c.fingerprint());
        let now = Instant::now();
        if !self.spend_caps.meet(fingerprint, judged, stop_for, now) {
            return;
        }
        telemetry::spend_cap(&SpendCap {
            fingerprint,
            target: &prepared.name,
            advice: &judged.advice(&prepared.credential_source),
            stop_for,
        });
    }

    /// Bills a whole answer to the models that wrote it.
    pub(super) fn bill(&self, prepared: &Prepared, usage: &Usage) {
        let tokens = usage.billed();
        prepared.expectation.learn(&prepared.expected, tokens);
        let spent = self.telemetry.bill(
            (&prepared.name, prepared.model.as_ref()),
            &usage.billed_by_model(),
            true,
        );
        self.progress.lock().spent.add(spent);
    }

    /// Bills what came of an answer that did not come whole: a lower bound, unless the provider had
    /// summed it up already.
    pub(super) fn bill_part(&self, prepared: &Prepared, watch: &StreamWatch) -> Tokens {
        let tokens = watch.billed();
        let parts = if watch.is_final() {
            watch.usage().billed_by_model()
        } else {
            vec![(None, tokens)]
        };
        let spent = self.telemetry.bill(
            (&prepared.name, prepared.model.as_ref()),
            &parts,
            watch.is_final(),
        );
        self.progress.lock().spent.add(spent);
        tokens
    }

    /// Publishes the call's record, once. `verdict` replaces that of the last attempt.
    pub(super) fn publish(&self, verdict: Option<&'static str>) {
        if !self.unrecorded.swap(false, Ordering::Relaxed) {
            return;
        }
        let progress = self.progress.lock().clone();
        if let Some(meter) = &self.meter {
            meter.used(&progress.spent.tokens);
        }
        let last = progress.last;
        let prepared = self.rungs.prepared(last.rung);
        let record = CallRecord {
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
            verdict: verdict.unwrap_or(last.label),
            stream: self.streams,
            began: self.began,
            first_content: progress.first_content,
            queued: progress.queued,
            backed_off: progress.backed_off,
            upstream_us: self.upstream_us.load(Ordering::Relaxed),
            spent: progress.spent,
            request_id: progress.request_id,
            degraded: progress.degraded,
            cause: progress.cause,
            skipped: self.rungs.skipped_words(),
        };
        telemetry::finish(&self.telemetry, &record);
    }
}

/// A call that was dropped before its end has left all the same. By now its attempt, which holds
/// the exchange too, has been counted.
impl Drop for Exchange {
    fn drop(&mut self) {
        self.publish(Some(Verdict::DEPARTED.label));
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
    fate: Fate,
    counted: bool,
}

impl OnTheWire {
    pub(super) fn new(exchange: &Arc<Exchange>, attempt: &Attempt) -> Self {
        exchange
            .status_of(attempt.number)
            .store(0, Ordering::Relaxed);
        exchange.sends(attempt.number);
        Self {
            exchange: Arc::clone(exchange),
            attempt: (attempt.number, attempt.rung),
            deadline: attempt.deadline,
            fate: attempt.fate(),
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
        let verdict = if self.fate.is_outrun() {
            Verdict::OUTRUN
        } else if Instant::now() < self.deadline && !self.fate.is_late() {
            Verdict::DEPARTED
        } else {
            judge_timeout(Timeout::Total).verdict
        };
        self.exchange.count_attempt(self.attempt, &verdict);
    }
}
