//! The provider's own count of a large prompt, before anything is reserved for it.
//!
//! It has a quota and a breaker of its own and little time. Whatever goes wrong, the estimate stands.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;
use metrics::counter;
use seawall_actors::admission::Terms;
use tokio::time::{Instant, timeout_at};

use super::Seawall;
use super::ask::Endpoint;
use super::attempt::{collect, learned, with_refusal};
use super::preparation::address;
use crate::config;
use crate::provider::anthropic::headers::Credential;
use crate::provider::anthropic::limits::RateLimits;
use crate::provider::anthropic::request::{counted, counting_body};
use crate::transport::{Request, Transport};
use crate::verdict::{Judged, Timeout, judge, judge_broken, judge_timeout};

/// How long a count may take, its wait for the quota included: a count that takes longer costs the
/// caller more than a wrong estimate does.
const WITHIN: Duration = Duration::from_secs(2);

/// What is to be counted.
pub(super) struct Count<'a> {
    pub(super) settings: (&'a str, &'a config::Target),
    pub(super) model: Option<&'a str>,
    pub(super) credential: &'a Credential,
    pub(super) headers: &'a HeaderMap,
    pub(super) body: &'a Bytes,
    pub(super) transport: &'a dyn Transport,
}

impl Seawall {
    /// The provider's count of a prompt, if it comes within two seconds and before `deadline`.
    pub(super) async fn count(&self, count: Count<'_>, deadline: Instant) -> Option<u64> {
        let until = deadline.min(Instant::now() + WITHIN);
        let tokens = self.counted(&count, until).await;
        let outcome = if tokens.is_some() {
            "counted"
        } else {
            "estimated"
        };
        counter!("seawall_token_counts_total", "target" => count.settings.0.to_owned(), "outcome" => outcome)
            .increment(1);
        tokens
    }

    async fn counted(&self, count: &Count<'_>, until: Instant) -> Option<u64> {
        let body = counting_body(count.body)?;
        let shared = &self.shared;
        let endpoint = Endpoint::CountTokens;
        let who = (count.model, count.credential);
        let resolved = shared
            .targets
            .resolve(shared, count.settings, &endpoint, who)
            .await;
        let (target, _) = resolved.ok()?;
        let terms = Terms {
            until,
            held_until: until,
            ..Terms::within(WITHIN)
        };
        let mut permit = shared.system.admit(&target, terms).await.ok()?;
        let request = Request {
            method: endpoint.method().clone(),
            uri: address(&count.settings.1.base_url, &endpoint, None).ok()?,
            headers: count.headers.clone(),
            body,
        };
        permit.mark_sent();
        let answered = timeout_at(until, count.transport.send(request)).await;
        let response = match answered {
            Ok(Ok(response)) => response,
            Ok(Err(broken)) => {
                permit.finish(&judge_broken(broken.kind).verdict, None);
                return None;
            }
            Err(_) => {
                permit.finish(&judge_timeout(Timeout::Total).verdict, None);
                return None;
            }
        };
        let now = Timestamp::now();
        let limits = RateLimits::read(response.status, &response.headers, now);
        let bytes = match collect(response.body, until).await {
            Ok(bytes) => bytes,
            Err(judged) => {
                permit.finish(&judged.verdict, None);
                return None;
            }
        };
        let tokens = counted(&bytes).filter(|_| response.status.is_success());
        let judged = match tokens {
            Some(_) => Judged::ok(),
            None => judge(response.status, &response.headers, &bytes, now),
        };
        if let Some(word) = with_refusal(learned(&limits), &judged) {
            permit.learn(word);
        }
        permit.finish(&judged.verdict, None);
        tokens
    }
}
