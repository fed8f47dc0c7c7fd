//! From the end of a call to what its asker gets.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use seawall_actors::caller::CallReport;
use seawall_actors::error::{CallError, Rejected, Rejection};

use super::ask::{Reply, ReplyBody, ReplyStream, Report};
use super::attempt::{Answer, AnswerBody, Failure};
use super::exchange::Exchange;
use super::resume::Resumable;
use super::{Seawall, fixed, stacking};
use crate::delivery::Delivery;
use crate::error::Error;
use crate::provider::anthropic::headers as wire;

impl Seawall {
    /// Turns the end of a call into what its asker gets.
    pub(super) fn conclude(
        &self,
        exchange: &Arc<Exchange>,
        result: Result<Answer, CallError<Failure>>,
        report: &CallReport,
    ) -> Result<Reply, Error> {
        exchange.waited(report);
        let rung = exchange.rungs.get(report.rung);
        let mut told = Report {
            call: Arc::clone(&exchange.call),
            rung: rung
                .filter(|_| report.attempts > 0)
                .map_or_else(|| "".into(), |r| Arc::clone(&r.name)),
            attempts: exchange.attempts_before + report.attempts,
            queued: exchange.progress.lock().queued,
            degraded: report.rung > 0,
            settled: false,
        };
        let error = match result {
            Ok(answer) => return Ok(self.answered(exchange, answer, told)),
            Err(error) => error,
        };
        told.settled = stacking::is_settled(&error, report);
        let route = self.shared.config.routes.get(&*exchange.route);
        let text = route.and_then(|route| route.static_text.as_ref());
        // Half an answer can't go on in the fixed one.
        let text = text
            .filter(|_| exchange.attempts_before == 0 && fixed::serves(&exchange.endpoint, &error));
        if let Some(text) = text {
            exchange.publish(Some("static"));
            told.rung = "static".into();
            told.degraded = true;
            return Ok(fixed::reply(
                exchange,
                text,
                fixed::Occasion::of(&error),
                told,
            ));
        }
        exchange.publish(match &error {
            CallError::Refused(rejected) => Some(rejected.why.as_str()),
            _ => None,
        });
        Err(failed(exchange, error, told))
    }

    fn answered(&self, exchange: &Exchange, answer: Answer, told: Report) -> Reply {
        let Answer {
            status,
            headers,
            body,
        } = answer;
        exchange.progress.lock().request_id = headers
            .get("request-id")
            .and_then(|id| id.to_str().ok())
            .map(str::to_owned);
        let headers = wire::response_headers(headers, matches!(body, AnswerBody::Whole(_)));
        let body = match body {
            AnswerBody::Whole(bytes) => {
                exchange.publish(None);
                ReplyBody::Whole(bytes)
            }
            AnswerBody::Held(events) => {
                exchange.publish(None);
                ReplyBody::Stream(ReplyStream::held(events))
            }
            AnswerBody::Stream(watched) if exchange.delivery == Delivery::Resume => {
                let resumable = Resumable::new(self.clone(), watched);
                ReplyBody::Stream(ReplyStream::resumable(Box::new(resumable)))
            }
            AnswerBody::Stream(watched) => ReplyBody::Stream(ReplyStream::live(watched)),
        };
        Reply {
            status,
            headers,
            body,
            report: told,
        }
    }
}

/// The answer to a call that has been waited for long enough: a stream that pings until it comes.
pub(super) fn waiting(
    exchange: Arc<Exchange>,
    running: BoxFuture<'static, Result<Reply, Error>>,
) -> Reply {
    let mut headers = HeaderMap::new();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/event-stream; charset=utf-8"),
    );
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let report = Report {
        call: Arc::clone(&exchange.call),
        rung: "".into(),
        attempts: exchange.progress.lock().last.attempts,
        queued: exchange.began.elapsed(),
        degraded: false,
        settled: false,
    };
    Reply {
        status: StatusCode::OK,
        headers,
        body: ReplyBody::Stream(ReplyStream::waiting(exchange, running)),
        report,
    }
}

fn failed(exchange: &Exchange, error: CallError<Failure>, report: Report) -> Error {
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
                .get(rung)
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
        CallError::Refused(rejected) => Error::Refused(rejected),
        CallError::Invalid(invalid) => Error::Invalid(invalid),
        CallError::Panicked(message) => Error::Panicked(message),
        _ => Error::Panicked("the call ended in a way that this version does not know".to_owned()),
    }
}
