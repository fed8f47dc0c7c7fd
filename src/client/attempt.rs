//! One attempt on the wire: send, read, judge.
//!
//! An answer that is not streamed is read here, a stream up to its release in [`opening`]. From
//! there its permit travels with it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use jiff::Timestamp;
use seawall_actors::caller::{Attempt, Outcome};
use seawall_actors::policy::quota::{Axis, AxisWord, Cost, Learned, RefusedBy};
use seawall_actors::verdict::Verdict;
use tokio::time::{Instant, timeout_at};

use super::ask::Endpoint;
use super::exchange::{Exchange, OnTheWire, Prepared};
use super::keys::Secret;
use super::opening;
use super::stream::Watched;
use crate::provider::anthropic::limits::{AxisLimits, RateLimits};
use crate::provider::anthropic::usage::{Tokens, Usage};
use crate::transport::{Body, Request, Response, TransportError};
use crate::verdict::{
    Axes, Judged, LimitKind, Timeout, is_refusal, judge, judge_broken, judge_draining,
    judge_malformed, judge_refusal, judge_timeout, judge_truncated, read_answer,
};

/// The provider's answer to one attempt.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: AnswerBody,
    /// What answered without an attempt.
    pub(super) stood_in: Option<StoodIn>,
}

/// An answer that no attempt has brought.
#[derive(Debug)]
pub(super) enum StoodIn {
    /// One that was given before; with what there is to say of it, and the model that wrote it.
    Cache {
        badge: String,
        stale: bool,
        model: Option<Arc<str>>,
    },
    /// The route's fixed one.
    Static,
}

#[derive(Debug)]
pub(super) enum AnswerBody {
    Whole(Bytes),
    /// A stream that is whole already.
    Held(VecDeque<Bytes>),
    Stream(Box<Watched>),
}

/// An attempt that brought no answer to hand on as a success.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) judged: Judged,
    /// The provider's own words, if it had any.
    pub(super) answer: Option<(StatusCode, HeaderMap, Bytes)>,
    pub(super) rung: usize,
}

/// A whole answer larger than this is taken for nonsense, as is an error body: 64 MiB.
pub(super) const LARGEST_ANSWER: usize = 64 << 20;

/// Makes one attempt.
pub(super) async fn attempt(exchange: Arc<Exchange>, attempt: Attempt) -> Outcome<Answer, Failure> {
    let began = Instant::now();
    let Some(prepared) = exchange.rung(attempt.rung) else {
        return fail(&exchange, &attempt, judge_truncated(), None, (None, None));
    };
    attempt.mark_sent();
    let on_the_wire = OnTheWire::new(&exchange, &attempt);
    let outcome = loop {
        if let Some(outcome) = send(&exchange, &prepared, &attempt).await {
            break outcome;
        }
    };
    on_the_wire.ended();
    let spent = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    exchange.upstream_us.fetch_add(spent, Ordering::Relaxed);
    outcome
}

/// Nothing where the key was refused and another one is there: once a call, that is no retry of what was
/// refused.
async fn send(
    exchange: &Arc<Exchange>,
    prepared: &Arc<Prepared>,
    attempt: &Attempt,
) -> Option<Outcome<Answer, Failure>> {
    let (request, secret) = prepared.request(exchange);
    // The headers of an answer that is not streamed come with the answer.
    let patience = if exchange.streams {
        attempt.deadline
    } else {
        exchange.whole_by(attempt.quiet_until).min(attempt.deadline)
    };
    let response = match begin(exchange, prepared, request, patience).await {
        Ok(response) => response,
        Err(judged) => return Some(fail(exchange, attempt, judged, None, (None, None))),
    };
    exchange.heard(attempt.number, response.status);
    let now = Timestamp::now();
    let limits = RateLimits::read(response.status, &response.headers, now);
    let learned = learned(&limits);
    if response.status.is_informational() {
        // The connection may speak another protocol from here on, so nothing more is read.
        let judged = judge_malformed("a status line that is no answer");
        return Some(fail(exchange, attempt, judged, None, (None, learned)));
    }
    if !response.status.is_success() {
        // Boxed, as is the next: what is rare must not swell every call's future.
        return refused((exchange, prepared), attempt, (response, secret), learned)
            .boxed()
            .await;
    }
    prepared.taken(secret.as_deref());
    // At once: by the end of a long answer it would be old.
    attempt.learn(Learned {
        accepted: true,
        ..learned.unwrap_or_default()
    });
    if exchange.endpoint == Endpoint::Messages
        && is_event_stream(&response.headers, exchange.streams)
    {
        if !exchange.streams {
            let judged = judge_malformed("a stream in place of a whole message");
            return Some(fail(exchange, attempt, judged, None, (None, None)));
        }
        let opened = opening::open(exchange, prepared, attempt, response).boxed();
        return Some(opened.await);
    }
    let patience = if exchange.is_stream() {
        // Whatever it is, it is no answer.
        patience.min(Instant::now() + exchange.timeouts.stall)
    } else {
        patience
    };
    Some(whole((exchange, prepared), attempt, response, patience).await)
}

/// Sends the request and waits for the answer's headers, until `patience` at the latest.
async fn begin(
    exchange: &Exchange,
    prepared: &Prepared,
    request: Request,
    patience: Instant,
) -> Result<Response, Judged> {
    let broke = |broken: TransportError| {
        tracing::debug!(call = %exchange.call, error = ?broken, "attempt broke");
        judge_broken(broken.kind)
    };
    let answered = async {
        if exchange.streams {
            let left = patience.saturating_duration_since(Instant::now());
            let headers = exchange.timeouts.headers.min(left);
            let answered = prepared.transport.send_within(request, headers).await;
            return answered.map_err(broke);
        }
        // Its headers and its content are one: there is only a time by which it has to be over.
        let answered = timeout_at(patience, prepared.transport.send(request)).await;
        answered
            .map_err(|_| judge_timeout(Timeout::Total))?
            .map_err(broke)
    };
    tokio::select! {
        biased;
        answered = answered => answered,
        () = exchange.ends.ended() => Err(judge_draining()),
    }
}

/// Reads an answer that is not streamed.
async fn whole(
    (exchange, prepared): (&Exchange, &Prepared),
    attempt: &Attempt,
    response: Response,
    patience: Instant,
) -> Outcome<Answer, Failure> {
    let Response {
        status,
        headers,
        body,
    } = response;
    let now = Timestamp::now();
    let collected = tokio::select! {
        biased;
        collected = collect(body, patience) => collected,
        () = exchange.ends.ended() => Err(judge_draining()),
    };
    let bytes = match collected {
        Ok(bytes) => bytes,
        Err(judged) => return fail(exchange, attempt, judged, None, (None, None)),
    };
    let (judged, usage) = match exchange.document() {
        Some(document) => read_answer(document, &headers, &bytes, now),
        None => (Judged::ok(), Usage::from_body(&bytes)),
    };
    let judged = if judged.verdict.is_ok() && exchange.is_stream() {
        judge_malformed("a whole message in place of a stream")
    } else {
        judged
    };
    if !judged.verdict.is_ok() {
        let learned = from_inside(&judged, false);
        return fail(exchange, attempt, judged, None, (None, learned));
    }
    if let Some(usage) = &usage {
        exchange.bill(prepared, usage);
    }
    if exchange.minds_refusals() && is_refusal(&bytes) {
        let cost = usage.map(|usage| true_cost(usage.billed()));
        let answer = Some((status, headers, bytes));
        return fail(exchange, attempt, judge_refusal(), answer, (cost, None));
    }
    exchange.count_attempt((attempt.number, attempt.rung), &Verdict::OK);
    let cost = usage.map(|usage| prepared.expected.settled(usage.billed()));
    let body = AnswerBody::Whole(bytes);
    Outcome::Ended {
        result: Ok(Answer {
            status,
            headers,
            body,
            stood_in: None,
        }),
        verdict: Verdict::OK,
        cost,
        learned: None,
    }
}

/// Reads an answer that is no success. Nothing where the request is to go out with another key.
async fn refused(
    (exchange, prepared): (&Exchange, &Prepared),
    attempt: &Attempt,
    (response, secret): (Response, Option<Arc<Secret>>),
    learned: Option<Learned>,
) -> Option<Outcome<Answer, Failure>> {
    let now = Timestamp::now();
    let Response {
        status,
        headers,
        body,
    } = response;
    let patience = attempt
        .deadline
        .min(Instant::now() + exchange.timeouts.stall);
    let (bytes, broken) = match collect(body, patience).await {
        Ok(bytes) => (bytes, false),
        Err(_) => (Bytes::new(), true),
    };
    let judged = judge(status, &headers, &bytes, now);
    let replaced = prepared.refused(secret.as_deref(), &judged, attempt.deadline);
    if replaced.await && !exchange.sent_anew.swap(true, Ordering::Relaxed) {
        return None;
    }
    let learned = with_refusal(learned, &judged);
    let answer = (!broken).then_some((status, headers, bytes));
    // A status line without a success means that the provider did not process the request.
    let cost = answer.is_some().then_some(Cost::ZERO);
    let cost_and_news = (cost, learned);
    Some(fail(exchange, attempt, judged, answer, cost_and_news))
}

/// What an answer says of its quota, with the stop and the limit that a refusal speaks of.
pub(super) fn with_refusal(learned: Option<Learned>, judged: &Judged) -> Option<Learned> {
    let stop_for = judged.stop_for;
    let refused_by = judged.limit.and_then(refused_by);
    // A bucket that is full all the same speaks to the refused request alone.
    let alone = stop_for.is_none() && matches!(refused_by, Some(RefusedBy::Bucket(_)));
    (learned.is_some() || stop_for.is_some() || refused_by.is_some()).then(|| Learned {
        stop_for,
        hint: judged.verdict.not_before.filter(|_| alone),
        refused_by,
        ..learned.unwrap_or_default()
    })
}

/// What an error inside an answer of status 200 says of its quota. The headers had said that the request
/// was accepted: once its message has begun, the error blames a bucket only where it names one.
pub(super) fn from_inside(judged: &Judged, has_started: bool) -> Option<Learned> {
    let learned = with_refusal(None, judged)?;
    let is_blamed = !has_started || learned.refused_by != Some(RefusedBy::Bucket(None));
    Some(Learned {
        refused_by: learned.refused_by.filter(|_| is_blamed),
        ..learned
    })
}

/// Which limit a refusal speaks of, as the quota knows it.
const fn refused_by(limit: LimitKind) -> Option<RefusedBy> {
    match limit {
        LimitKind::Bucket { axes, .. } => Some(RefusedBy::Bucket(only(axes))),
        LimitKind::Ramp => Some(RefusedBy::Ramp),
        LimitKind::Connections => Some(RefusedBy::Connections),
        LimitKind::SpendCap { .. } => Some(RefusedBy::SpendCap),
        LimitKind::Window { .. } => Some(RefusedBy::Window),
        // The first is another quota's word, the second the request's own fault.
        LimitKind::FastMode | LimitKind::LargerThanBucket | LimitKind::Unnamed => None,
    }
}

/// The axis that is meant, where it is one.
const fn only(axes: Axes) -> Option<Axis> {
    match (axes.requests, axes.input, axes.output) {
        (true, false, false) => Some(Axis::Requests),
        (false, true, false) => Some(Axis::Input),
        (false, false, true) => Some(Axis::Output),
        _ => None,
    }
}

/// Ends an attempt without an answer. `cost` is absent where only the verdict tells it.
pub(super) fn fail(
    exchange: &Exchange,
    attempt: &Attempt,
    judged: Judged,
    answer: Option<(StatusCode, HeaderMap, Bytes)>,
    (cost, learned): (Option<Cost>, Option<Learned>),
) -> Outcome<Answer, Failure> {
    exchange.count_attempt((attempt.number, attempt.rung), &judged.verdict);
    exchange.alert(attempt.rung, &judged);
    let verdict = judged.verdict;
    Outcome::Ended {
        result: Err(Failure {
            judged,
            answer,
            rung: attempt.rung,
        }),
        verdict,
        cost,
        learned,
    }
}

pub(super) async fn collect(mut body: Body, patience: Instant) -> Result<Bytes, Judged> {
    let read = async {
        let Some(first) = body.next().await.transpose()? else {
            return Ok(Some(Bytes::new()));
        };
        let Some(second) = body.next().await.transpose()? else {
            return Ok(Some(first));
        };
        let mut all = BytesMut::from(first);
        all.extend_from_slice(&second);
        while let Some(chunk) = body.next().await.transpose()? {
            if all.len().saturating_add(chunk.len()) > LARGEST_ANSWER {
                return Ok(None);
            }
            all.extend_from_slice(&chunk);
        }
        Ok(Some(all.freeze()))
    };
    match timeout_at(patience, read).await {
        Ok(Ok(Some(bytes))) => Ok(bytes),
        Ok(Ok(None)) => Err(judge_truncated()),
        Ok(Err(broken)) => {
            let broken: TransportError = broken;
            Err(judge_broken(broken.kind))
        }
        Err(_) => Err(judge_timeout(Timeout::Total)),
    }
}

/// Whether an answer is a stream: as it says, or, where a proxy garbled or took the word, as asked.
fn is_event_stream(headers: &HeaderMap, asked: bool) -> bool {
    const STREAM: &[u8] = b"text/event-stream";
    match headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes()) {
        Some(kind) if kind.contains(&b'/') => kind
            .get(..STREAM.len())
            .is_some_and(|front| front.eq_ignore_ascii_case(STREAM)),
        Some(_) | None => asked,
    }
}

/// What an answer of known usage costs its quota.
pub(super) const fn true_cost(tokens: Tokens) -> Cost {
    Cost {
        requests: 1,
        input: tokens.quota_input(),
        output: tokens.output,
    }
}

pub(super) fn learned(limits: &RateLimits) -> Option<Learned> {
    if limits.is_silent() {
        return None;
    }
    let word = |axis: &AxisLimits, rounded_to| {
        axis.limit.map(|limit| AxisWord {
            limit: Some(limit),
            remaining: axis.remaining,
            rounded_to,
        })
    };
    let rounded_to = limits.tokens_rounded_to();
    Some(Learned {
        axes: [
            word(&limits.requests, 1),
            word(&limits.input, rounded_to),
            word(&limits.output, rounded_to),
        ],
        ..Learned::default()
    })
}
