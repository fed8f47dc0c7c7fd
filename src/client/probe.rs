//! The smallest request that there is, to find out whether a target is back.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use jiff::Timestamp;
use seawall_actors::caller::{Attempt, Outcome};
use serde_json::json;

use super::attempt::{collect, learned, true_cost, with_refusal};
use super::exchange::Prepared;
use crate::provider::anthropic::limits::RateLimits;
use crate::telemetry::Telemetry;
use crate::transport::{Request, TransportError};
use crate::verdict::{Document, Judged, judge, judge_broken, read_answer};

/// Asks the target of a prepared rung for one token, with the same credential.
pub(super) async fn probe(
    sent: Arc<Prepared>,
    telemetry: Telemetry,
    attempt: Attempt,
) -> Outcome<(), ()> {
    let body = json!({
        "model": sent.model.as_deref().unwrap_or_default(), "max_tokens": 1,
        "messages": [{ "role": "user", "content": "." }],
    });
    let (headers, secret) = sent.headers_now();
    let request = Request {
        method: Method::POST,
        uri: sent.uri.clone(),
        headers,
        body: Bytes::from(body.to_string()),
    };
    attempt.mark_sent();
    let now = Timestamp::now();
    let answered = async {
        let response = sent.transport.send(request).await.map_err(broken)?;
        let limits = RateLimits::read(response.status, &response.headers, now);
        let body = collect(response.body, attempt.deadline).await?;
        Ok((response.status, response.headers, body, limits))
    };
    let (status, judged, usage, limits) = match answered.await {
        Ok((status, headers, body, limits)) => {
            let (judged, usage) = if status.is_success() {
                read_answer(Document::Message, &headers, &body, now)
            } else {
                (judge(status, &headers, &body, now), None)
            };
            (status.as_u16(), judged, usage, limits)
        }
        Err(judged) => (0, judged, None, RateLimits::default()),
    };
    telemetry.attempt(&sent.name, status, judged.verdict.label);
    if judged.verdict.is_ok() {
        sent.taken(secret.as_deref());
    } else {
        // A new key is for the next one.
        sent.refused(secret.as_deref(), &judged, attempt.deadline)
            .await;
    }
    let cost = usage.map(|usage| {
        let model = sent.model.as_ref();
        telemetry.bill((&sent.name, model), &usage.billed_by_model(), true);
        true_cost(usage.billed())
    });
    let verdict = judged.verdict;
    Outcome::Ended {
        result: verdict.is_ok().then_some(()).ok_or(()),
        verdict,
        cost,
        learned: with_refusal(learned(&limits), &judged),
    }
}

fn broken(error: TransportError) -> Judged {
    judge_broken(error.kind)
}
