//! From the end of a call to what its asker gets.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use seawall_actors::caller::CallReport;
use seawall_actors::error::{CallError, Rejected, Rejection};
use seawall_actors::policy::ladder::Cause;
use tokio::time::Instant;

use super::ask::{Degraded, Reply, ReplyBody, ReplyStream, Report};
use super::attempt::{Answer, AnswerBody, Failure, StoodIn};
use super::exchange::Exchange;
use super::resume::Resumable;
use super::{Seawall, stacking};
use crate::capability::{Features, is_another};
use crate::delivery::Delivery;
use crate::error::Error;
use crate::provider::anthropic::headers as wire;
use crate::verdict::Judged;

impl Seawall {
    /// Turns the end of a call into what its asker gets.
    pub(super) fn conclude(
        &self,
        exchange: &Arc<Exchange>,
        result: Result<Answer, CallError<Failure>>,
        report: &CallReport,
    ) -> Result<Reply, Error> {
        exchange.waited(report);
        let told = self.told(exchange, report);
        match result {
            Ok(answer) => Ok(self.answered(exchange, answer, told)),
            Err(CallError::Failed {
                error:
                    Failure {
                        answer: Some((status, headers, body)),
                        judged,
                        ..
                    },
                ..
            }) if is_declined(status, &judged) => {
                let answer = Answer {
                    status,
                    headers,
                    body: AnswerBody::Whole(body),
                    stood_in: None,
                };
                Ok(self.answered(exchange, answer, told))
            }
            Err(error) => {
                exchange.publish(match &error {
                    CallError::Refused(rejected) => Some(rejected.why.as_str()),
                    _ => None,
                });
                let settled = stacking::is_settled(&error, report);
                // An error is nobody's answer: it is not a degraded one.
                let told = Report {
                    settled,
                    degraded: None,
                    cause: None,
                    ..told
                };
                let barred = report.rejected.is_some();
                Err(failed(exchange, error, (told, barred)))
            }
        }
    }

    fn answered(&self, exchange: &Exchange, answer: Answer, mut told: Report) -> Reply {
        let Answer {
            status,
            headers,
            body,
            stood_in,
        } = answer;
        let verdict = marked(&mut told, stood_in);
        {
            let mut progress = exchange.progress.lock();
            progress.degraded = told.degraded;
            progress.cause = told.cause;
            progress.request_id = headers
                .get("request-id")
                .and_then(|id| id.to_str().ok())
                .map(str::to_owned);
        }
        // What another model wrote is no answer of the one that was asked, also where both are named
        // after the same one, nor is one to less than was asked.
        let is_asked = told.model.as_deref() == self.conversed_with(exchange);
        let keeps = verdict.is_none() && is_asked && told.losses.is_empty();
        let kept = exchange.kept.as_ref().filter(|_| keeps);
        let is_whole = matches!(body, AnswerBody::Whole(_));
        let body = match body {
            AnswerBody::Whole(bytes) => {
                if let Some(kept) = kept {
                    kept.keep_body(status, &headers, &bytes);
                }
                exchange.publish(verdict);
                ReplyBody::Whole(bytes)
            }
            AnswerBody::Held(events) => {
                if let Some(kept) = kept {
                    kept.keep_events(status, &headers, events.iter().map(|events| &**events));
                }
                exchange.publish(verdict);
                ReplyBody::Stream(ReplyStream::held(events))
            }
            AnswerBody::Stream(watched) if exchange.delivery == Delivery::Resume => {
                let resumable = Resumable::new(self.clone(), watched);
                ReplyBody::Stream(ReplyStream::resumable(Box::new(resumable)))
            }
            AnswerBody::Stream(watched) => {
                let stream = ReplyStream::live(watched);
                let recording = kept.and_then(|kept| Some((kept.record(status, &headers)?, kept)));
                ReplyBody::Stream(match recording {
                    Some((recording, kept)) => {
                        let kept = kept.clone();
                        stream.recorded(recording, move |whole| kept.keep_recording(whole))
                    }
                    None => stream,
                })
            }
        };
        Reply {
            status,
            headers: wire::response_headers(headers, is_whole),
            body,
            report: told,
        }
    }
}

impl Seawall {
    /// What a call took.
    fn told(&self, exchange: &Exchange, report: &CallReport) -> Report {
        let rungs = &exchange.rungs;
        let reached = report.attempts > 0 || report.stood_in;
        let name = rungs.name(report.rung).filter(|_| reached);
        let sent = rungs.sent(report.rung).filter(|_| reached);
        let first = rungs.first_target().map(|(first, _)| first);
        let model = sent.and_then(|sent| sent.prepared.model.clone());
        let fell = first.is_some_and(|first| report.rung > first) && !report.stood_in;
        let cause = report
            .cause
            .or_else(|| report.hedged.then_some(Cause::Hedge));
        let is_other = fell && is_another(self.conversed_with(exchange), model.as_deref());
        Report {
            call: Arc::clone(&exchange.call),
            rung: name.map_or_else(|| "".into(), Arc::clone),
            attempts: exchange.attempts_before + report.attempts,
            queued: exchange.progress.lock().queued,
            degraded: is_other.then_some(Degraded::Model),
            cause: cause.filter(|_| fell || report.stood_in),
            model,
            skipped: rungs.skipped(),
            losses: sent.map_or(Features::NONE, |sent| sent.losses),
            cache: None,
            hedged: report.hedged,
            settled: false,
        }
    }
}

/// Marks an answer that no attempt has brought. Returns the last word of its call.
fn marked(told: &mut Report, stood_in: Option<StoodIn>) -> Option<&'static str> {
    match stood_in? {
        StoodIn::Cache {
            badge,
            stale,
            model,
        } => {
            told.degraded = stale.then_some(Degraded::Cache);
            told.cache = Some(badge);
            told.model = model;
            Some(if stale { "cache_stale" } else { "cache" })
        }
        StoodIn::Static => {
            told.degraded = Some(Degraded::Static);
            Some("static")
        }
    }
}

/// Whether these words are a model's refusal to answer, which is an answer once nobody else is left to
/// be asked. The content filter's error, which can come inside a 200 as well, has a type.
fn is_declined(status: StatusCode, judged: &Judged) -> bool {
    status.is_success() && judged.verdict.cause() == Cause::Refused && judged.error_type.is_none()
}

/// The answer to a call that has been waited for long enough: a stream that pings until it comes.
pub(super) fn waiting(so_far: Report, running: BoxFuture<'static, Result<Reply, Error>>) -> Reply {
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let call = Arc::clone(&so_far.call);
    Reply {
        status: StatusCode::OK,
        headers,
        body: ReplyBody::Stream(ReplyStream::waiting(call, running)),
        report: so_far,
    }
}

/// `barred`: a rung that could be set up refused the call, which may be over soon.
fn failed(
    exchange: &Exchange,
    error: CallError<Failure>,
    (report, barred): (Report, bool),
) -> Error {
    match error {
        CallError::Failed {
            error:
                Failure {
                    judged,
                    answer,
                    rung,
                },
            ..
        } => {
            if judged.verdict.label == crate::verdict::label::DRAINING {
                // Whoever takes over from a process that leaves will serve it.
                return Error::Refused(Rejected::new(Rejection::Draining));
            }
            let (judged, report) = (Box::new(judged), Box::new(report));
            let Some((status, headers, body)) = answer else {
                return Error::Unanswered { judged, report };
            };
            let source = exchange
                .rungs
                .prepared(rung)
                .map(|rung| rung.credential_source.to_string());
            Error::Provider {
                status,
                headers: wire::response_headers(headers, true),
                body,
                judged,
                credential_source: source.unwrap_or_default(),
                report,
            }
        }
        CallError::Refused(rejected) => match exchange.rungs.failed.lock().take() {
            Some(error) if !barred => error,
            _ if rejected.why == Rejection::SpendCap => capped(exchange, rejected, report),
            _ => Error::Refused(rejected),
        },
        CallError::Invalid(invalid) => Error::Invalid(invalid),
        CallError::Panicked(message) => Error::Panicked(message),
        _ => Error::Panicked("the call ended in a way that this version does not know".to_owned()),
    }
}

/// What is known of the spend cap that stopped a call's last rung.
fn capped(exchange: &Exchange, rejected: Rejected, report: Report) -> Error {
    let now = Instant::now();
    let stopped = exchange.rungs.all_sent().find_map(|sent| {
        let quota = sent.target.quota()?.name();
        if rejected.by.as_ref() != Some(quota) {
            return None;
        }
        let credential = wire::Credential::from_headers(&sent.prepared.headers)?;
        let cap = exchange.spend_caps.on(credential.fingerprint(), now)?;
        Some((cap, sent.prepared.credential_source.to_string()))
    });
    // A quota that several credentials share can be stopped by another's.
    let Some((cap, credential_source)) = stopped else {
        return Error::Refused(rejected);
    };
    Error::Capped {
        judged: Box::new(Judged::clone(&cap.judged)),
        credential_source,
        looked_at_in: cap.until.duration_since(now),
        report: Box::new(report),
    }
}
