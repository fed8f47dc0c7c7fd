//! A streamed answer up to its release.
//!
//! Nothing of it has reached the caller yet, so whatever goes wrong is an attempt that failed, and
//! is tried again unseen. When the answer is released depends on its delivery: at the first content,
//! after a head start, or when it is whole.

use std::sync::Arc;

use futures_util::FutureExt;
use http::{HeaderMap, StatusCode};
use seawall_actors::caller::{Attempt, Outcome};
use seawall_actors::policy::quota::Cost;
use seawall_actors::verdict::Verdict;
use tokio::time::{Instant, timeout_at};

use super::attempt::{Answer, AnswerBody, Failure, fail, from_inside, true_cost};
use super::exchange::{Exchange, Prepared};
use super::stream::{BrokenOff, Watched};
use crate::delivery::Delivery;
use crate::transport::Response;
use crate::verdict::{judge_draining, judge_refusal, judge_timeout, judge_truncated};

/// Reads a stream up to its release.
pub(super) async fn open(
    exchange: &Arc<Exchange>,
    prepared: &Arc<Prepared>,
    attempt: &Attempt,
    response: Response,
) -> Outcome<Answer, Failure> {
    let Response {
        status,
        headers,
        body,
    } = response;
    let mut watched = Watched::new(
        Arc::clone(exchange),
        Arc::clone(prepared),
        (attempt.number, attempt.rung),
        (body, attempt.reserved()),
        (attempt.started(), attempt.deadline),
    );
    if let Err(broken) = read(exchange, attempt, &mut watched).await {
        let met = (watched, broken);
        let failed = failed(exchange, attempt, (status, headers), met);
        return failed.boxed().await;
    }
    if exchange.minds_refusals() && watched.is_refusal() {
        let cost = Some(true_cost(watched.bill_part()));
        let said = watched.into_ending().boxed().await;
        let answer = said.map(|said| (status, headers, said));
        return fail(exchange, attempt, judge_refusal(), answer, (cost, None));
    }
    if exchange.delivery == Delivery::Complete {
        return whole(exchange, attempt, (status, headers), watched);
    }
    let Some(permit) = attempt.take_permit() else {
        return fail(exchange, attempt, judge_truncated(), None, (None, None));
    };
    watched.release(permit);
    Outcome::Committed(Answer {
        status,
        headers,
        body: AnswerBody::Stream(Box::new(watched)),
        stood_in: None,
    })
}

async fn read(
    exchange: &Exchange,
    attempt: &Attempt,
    watched: &mut Watched,
) -> Result<(), BrokenOff> {
    let mut marked = false;
    let mut stopped = std::pin::pin!(exchange.ends.ended());
    loop {
        if let (false, Some(at)) = (marked, watched.first_content()) {
            marked = true;
            attempt.mark_content();
            exchange.saw_content(at);
        }
        if let Some(estimate) = watched.better_estimate() {
            attempt.revise(estimate);
        }
        let release = match (exchange.delivery, watched.first_content()) {
            _ if watched.is_over() => return Ok(()),
            (Delivery::AsItComes | Delivery::Resume, Some(_)) => return Ok(()),
            (Delivery::Hold(hold), Some(_)) if watched.output_tokens() >= hold.tokens => {
                return Ok(());
            }
            (Delivery::Hold(hold), Some(at)) => Some(at + hold.time),
            _ => None,
        };
        let (by, which) = watched.silent_until();
        let until = release.map_or(by, |at| at.min(by));
        let read = tokio::select! {
            biased;
            read = timeout_at(until, watched.read_on()) => read,
            () = &mut stopped => Ok(match watched.end_if_stopped() {
                true => Ok(()),
                false => Err(BrokenOff::of(judge_draining())),
            }),
        };
        match read {
            Ok(read) => read?,
            Err(_) if watched.end_if_stopped() => {}
            Err(_) if release.is_some_and(|at| at <= Instant::now()) => return Ok(()),
            Err(_) => return Err(BrokenOff::of(judge_timeout(which))),
        }
    }
}

/// An answer that is whole before it is handed on.
fn whole(
    exchange: &Arc<Exchange>,
    attempt: &Attempt,
    (status, headers): (StatusCode, HeaderMap),
    watched: Watched,
) -> Outcome<Answer, Failure> {
    let (events, cost) = watched.into_whole();
    exchange.count_attempt((attempt.number, attempt.rung), &Verdict::OK);
    Outcome::Ended {
        result: Ok(Answer {
            status,
            headers,
            body: AnswerBody::Held(events),
            stood_in: None,
        }),
        verdict: Verdict::OK,
        cost: Some(cost),
        learned: None,
    }
}

async fn failed(
    exchange: &Exchange,
    attempt: &Attempt,
    (status, headers): (StatusCode, HeaderMap),
    (mut watched, broken): (Watched, BrokenOff),
) -> Outcome<Answer, Failure> {
    // An error as the answer's first word is a refusal before anything was processed.
    let cost = if watched.has_started() {
        Some(true_cost(watched.bill_part()))
    } else {
        broken.said.is_some().then_some(Cost::ZERO)
    };
    let learned = from_inside(&broken.judged, watched.has_started());
    let BrokenOff { judged, said } = broken;
    let answer = match said {
        Some(said) => Some((status, headers, watched.into_bytes(said).await)),
        None => None,
    };
    fail(exchange, attempt, judged, answer, (cost, learned))
}
