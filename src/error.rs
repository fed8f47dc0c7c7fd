//! What a call can end in besides its answer.
//!
//! An error answers whose fault it was, whether and when to try again, and what to do about it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use seawall_actors::error::{Rejected, Rejection, StartError as ActorsStartError};
use seawall_actors::policy::InvalidPolicy;
use seawall_actors::verdict::{Again, Blame, Verdict};

use crate::cache::OpenError;
use crate::capability::Misfit;
use crate::client::ask::Report;
use crate::message::Message;
use crate::provider::anthropic::request::BadRequest;
use crate::provider::anthropic::usage::Usage;
use crate::transport::TransportError;
use crate::verdict::{Judged, LimitKind, label};

/// A call that was not answered.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The provider's own last word: an answer that is no success.
    #[error("the provider answered {}: {}", status.as_u16(), judged.message)]
    Provider {
        /// The status.
        status: StatusCode,
        /// The headers that go back to the client.
        headers: HeaderMap,
        /// The body, unchanged.
        body: Bytes,
        /// What it means.
        judged: Box<Judged>,
        /// Where the credential came from.
        credential_source: String,
        /// What the call took.
        report: Box<Report>,
    },
    /// The last attempt brought no answer: the network, a timeout, or half an answer.
    #[error("{}", judged.message)]
    Unanswered {
        /// What it means.
        judged: Box<Judged>,
        /// What the call took.
        report: Box<Report>,
    },
    /// A streamed answer that broke off after some of it had come.
    #[error("the answer broke off: {}", judged.message)]
    Interrupted {
        /// What it means.
        judged: Box<Judged>,
        /// What had come.
        partial: Box<Message>,
        /// What the provider had said of its usage; the output count is a placeholder until the
        /// message's end is near.
        usage_so_far: Box<Usage>,
        /// What the call took.
        report: Box<Report>,
    },
    /// Turned away before any attempt, since the provider has said before that the credential's spend
    /// cap is reached.
    #[error("no request was sent, since a spend cap is reached")]
    Capped {
        /// The refusal that told it.
        judged: Box<Judged>,
        /// Where the credential came from.
        credential_source: String,
        /// Until the cap lifts, or a request finds out whether it has.
        looked_at_in: Duration,
        /// What the call took.
        report: Box<Report>,
    },
    /// Turned away before any attempt.
    #[error(transparent)]
    Refused(#[from] Rejected),
    /// The request can't be read.
    #[error("{0}")]
    BadRequest(#[from] BadRequest),
    /// The named route does not exist.
    #[error("there is no route named {0}")]
    UnknownRoute(String),
    /// No target of the route can carry the request: each with the reason.
    #[error("no target of the route can carry this request: {}", unfit(.0))]
    Unfit(Vec<(Arc<str>, Misfit)>),
    /// Neither the call nor the configuration brought a credential.
    #[error("no credential: send x-api-key or authorization, or set ANTHROPIC_API_KEY")]
    NoCredential,
    /// An address in the configuration can't be used.
    #[error("the address {0} can't be used")]
    BadAddress(String),
    /// A setting of the call's route or target is out of range: which one, what it was, what it may
    /// be.
    #[error(transparent)]
    Invalid(#[from] InvalidPolicy),
    /// The target could not be set up: the system is full or has stopped.
    #[error("the target could not be set up: {0}")]
    NoTarget(#[source] ActorsStartError),
    /// The call itself panicked. A bug; the call is lost, nothing else is.
    #[error("the call panicked: {0}")]
    Panicked(String),
}

impl Error {
    /// The status that says it best.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Provider { status, .. } => *status,
            Self::Unanswered { judged, .. } | Self::Interrupted { judged, .. } => {
                if is_timeout(judged) {
                    StatusCode::GATEWAY_TIMEOUT
                } else {
                    StatusCode::BAD_GATEWAY
                }
            }
            // As the provider says it.
            Self::Capped { judged, .. } => match judged.error_type.as_deref() {
                Some("invalid_request_error") => StatusCode::BAD_REQUEST,
                Some("billing_error") => StatusCode::PAYMENT_REQUIRED,
                _ => StatusCode::TOO_MANY_REQUESTS,
            },
            Self::Refused(rejected) => match rejected.why {
                Rejection::QuotaExhausted | Rejection::TurnTooLate | Rejection::SpendCap => {
                    StatusCode::TOO_MANY_REQUESTS
                }
                Rejection::DeadlinePassed => StatusCode::GATEWAY_TIMEOUT,
                Rejection::Draining | Rejection::Stopped => StatusCode::SERVICE_UNAVAILABLE,
                // 529: overloaded, in the provider's own numbers. `from_u16` is not const.
                _ => StatusCode::SERVICE_UNAVAILABLE,
            },
            Self::BadRequest(_) | Self::UnknownRoute(_) | Self::Unfit(_) => StatusCode::BAD_REQUEST,
            Self::NoCredential => StatusCode::UNAUTHORIZED,
            Self::NoTarget(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::BadAddress(_) | Self::Invalid(_) | Self::Panicked(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// The provider's word for this kind of error.
    #[must_use]
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::BadRequest(_) | Self::UnknownRoute(_) | Self::Unfit(_) => "invalid_request_error",
            Self::NoCredential => "authentication_error",
            Self::Capped { judged, .. } => match judged.error_type.as_deref() {
                Some("invalid_request_error") => "invalid_request_error",
                Some("billing_error") => "billing_error",
                _ => "rate_limit_error",
            },
            Self::Refused(rejected) => match rejected.why {
                Rejection::QuotaExhausted
                | Rejection::SpendCap
                | Rejection::TurnTooLate
                | Rejection::QueueFull => "rate_limit_error",
                Rejection::DeadlinePassed => "timeout_error",
                _ => "overloaded_error",
            },
            Self::Unanswered { judged, .. } | Self::Interrupted { judged, .. } => {
                if is_timeout(judged) {
                    "timeout_error"
                } else {
                    "api_error"
                }
            }
            Self::NoTarget(_) => "overloaded_error",
            Self::Provider { .. } | Self::BadAddress(_) | Self::Invalid(_) | Self::Panicked(_) => {
                "api_error"
            }
        }
    }

    /// What the error says of the whole call: whose fault, may the call be made again, not before
    /// when. The call has had its own retries by then, so this is for who runs more than the call
    /// again, such as a step.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Provider { judged, .. }
            | Self::Unanswered { judged, .. }
            | Self::Interrupted { judged, .. }
            | Self::Capped { judged, .. } => repeatable(judged),
            Self::Refused(rejected) => {
                let (blame, again) = match rejected.why {
                    Rejection::QuotaExhausted | Rejection::TurnTooLate => {
                        (Blame::Quota, Again::Here)
                    }
                    Rejection::SpendCap => (Blame::Credential, Again::Elsewhere),
                    Rejection::Draining | Rejection::Stopped => (Blame::Departed, Again::Never),
                    _ => (Blame::Target, Again::Here),
                };
                Verdict::new(rejected.why.as_str(), blame, again).not_before(rejected.retry_after)
            }
            Self::NoTarget(_) => Verdict::new("no_target", Blame::Target, Again::Here),
            Self::NoCredential => Verdict::new("no_credential", Blame::Credential, Again::Never),
            Self::BadRequest(_) => Verdict::new("bad_request", Blame::Caller, Again::Never),
            Self::UnknownRoute(_) => Verdict::new("unknown_route", Blame::Caller, Again::Never),
            Self::Unfit(_) => Verdict::new("unfit", Blame::Caller, Again::Never),
            Self::BadAddress(_) => Verdict::new("bad_address", Blame::Caller, Again::Never),
            Self::Invalid(_) => Verdict::new("invalid_setting", Blame::Caller, Again::Never),
            Self::Panicked(_) => Verdict::new("panicked", Blame::Caller, Again::Never),
        }
    }

    /// When it is worth trying again, as far as is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Provider { judged, .. }
            | Self::Unanswered { judged, .. }
            | Self::Interrupted { judged, .. } => judged.verdict.not_before,
            Self::Refused(rejected) => rejected.retry_after,
            _ => None,
        }
    }

    /// One sentence that tells the reader what to do; may be empty.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Self::Provider {
                judged,
                credential_source,
                ..
            } => judged.advice(credential_source),
            Self::Capped {
                judged,
                credential_source,
                looked_at_in,
                ..
            } => {
                let advice = judged.advice(credential_source);
                match judged.limit {
                    Some(LimitKind::SpendCap { until: Some(_) }) => advice,
                    _ => format!(
                        "{advice} Whether it still is shows a call after {} s.",
                        looked_at_in.as_secs().max(1)
                    ),
                }
            }
            Self::Unanswered { judged, .. } | Self::Interrupted { judged, .. } => {
                judged.advice("the caller")
            }
            _ => String::new(),
        }
    }

    /// What the call took, if any attempt was made.
    #[must_use]
    pub fn report(&self) -> Option<&Report> {
        match self {
            Self::Provider { report, .. }
            | Self::Unanswered { report, .. }
            | Self::Interrupted { report, .. }
            | Self::Capped { report, .. } => Some(report),
            _ => None,
        }
    }
}

fn unfit(misfits: &[(Arc<str>, Misfit)]) -> String {
    let words = misfits.iter().map(|(name, why)| format!("`{name}`: {why}"));
    words.collect::<Vec<_>>().join("; ")
}

/// The last attempt's verdict, made one on the whole call. A provider that refuses to be sent the
/// same request at once (`x-should-retry: false`, as with every 500) says nothing of a later call.
fn repeatable(judged: &Judged) -> Verdict {
    let mut verdict = judged.verdict;
    if matches!(verdict.blame, Blame::Target | Blame::Network | Blame::Quota) {
        verdict.again = Again::Here;
        verdict.not_before = verdict.not_before.max(judged.stop_for);
    }
    verdict
}

/// Whether one of the attempt's clocks ran out.
fn is_timeout(judged: &Judged) -> bool {
    label::TIMEOUTS.contains(&judged.verdict.label)
}

/// A client that could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The actors did not start.
    #[error(transparent)]
    Actors(#[from] ActorsStartError),
    /// The flags or the environment can't be used.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// A setting of a policy is out of range.
    #[error(transparent)]
    Policy(#[from] InvalidPolicy),
    /// The cache's file can't be used.
    #[error(transparent)]
    Cache(#[from] OpenError),
    /// The HTTP transport could not be set up.
    #[error("the HTTP transport could not be set up")]
    Transport(#[from] TransportError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(why: Rejection, retry_after: Option<Duration>) -> Error {
        let mut rejected = Rejected::new(why);
        rejected.retry_after = retry_after;
        Error::Refused(rejected)
    }

    #[test]
    fn a_setting_out_of_range_is_named_with_its_value_and_its_range() {
        let error = Error::from(InvalidPolicy::new("ladder", 17, "1 to 16 rungs"));
        assert_eq!(
            error.to_string(),
            "ladder = 17 is out of range: 1 to 16 rungs"
        );
        assert_eq!(error.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(error.verdict().again, Again::Never);
    }

    #[test]
    fn what_may_pass_may_be_repeated_and_nothing_else() {
        let second = Some(Duration::from_secs(1));
        for (error, blame, again) in [
            (
                refused(Rejection::BreakerOpen, second),
                Blame::Target,
                Again::Here,
            ),
            (
                refused(Rejection::QuotaExhausted, second),
                Blame::Quota,
                Again::Here,
            ),
            (
                refused(Rejection::SpendCap, second),
                Blame::Credential,
                Again::Elsewhere,
            ),
            (
                refused(Rejection::RetryBudget, second),
                Blame::Target,
                Again::Here,
            ),
            (
                refused(Rejection::QueueFull, second),
                Blame::Target,
                Again::Here,
            ),
            (
                refused(Rejection::DeadlinePassed, second),
                Blame::Target,
                Again::Here,
            ),
            (
                refused(Rejection::Draining, None),
                Blame::Departed,
                Again::Never,
            ),
            (
                refused(Rejection::Stopped, None),
                Blame::Departed,
                Again::Never,
            ),
            (Error::NoCredential, Blame::Credential, Again::Never),
            (Error::UnknownRoute("x".into()), Blame::Caller, Again::Never),
            (Error::Panicked("a bug".into()), Blame::Caller, Again::Never),
        ] {
            let verdict = error.verdict();
            assert_eq!((verdict.blame, verdict.again), (blame, again), "{error}");
            assert_eq!(verdict.not_before, error.retry_after(), "{error}");
        }
    }
}
