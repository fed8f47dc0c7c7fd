//! The table: what a status, a code or a wording means before the headers had their say.
//!
//! Anything that is not in the table goes by its status class, since the provider adds types and
//! codes without notice.

use std::time::Duration;

use jiff::Timestamp;
use seawall_actors::policy::ladder::Cause;
use seawall_actors::verdict::{Again, Blame, Verdict};

use super::{Advice, ErrorBody, LimitKind, label, wording};
use crate::provider::anthropic::limits::RateLimits;

/// One row.
pub(super) struct Ruling {
    label: &'static str,
    blame: Blame,
    again: Again,
    pub(super) advice: Advice,
    /// Waiting and repeating cannot help, whatever `x-should-retry` says.
    settled: bool,
    /// A pause that the provider's documents ask for where its headers ask for none.
    pause: Option<Duration>,
    /// Which limit it was, and how long all who share it must wait.
    pub(super) limit: Option<LimitKind>,
    pub(super) stop_for: Option<Duration>,
}

impl Ruling {
    const fn new(label: &'static str, blame: Blame, again: Again, advice: Advice) -> Self {
        Self {
            label,
            blame,
            again,
            advice,
            settled: false,
            pause: None,
            limit: None,
            stop_for: None,
        }
    }

    const fn caller(label: &'static str, again: Again, advice: Advice) -> Self {
        Self::new(label, Blame::Caller, again, advice)
    }

    const fn credential(label: &'static str, advice: Advice) -> Self {
        Self::new(label, Blame::Credential, Again::Elsewhere, advice)
    }

    const fn target(label: &'static str, again: Again, advice: Advice) -> Self {
        Self::new(label, Blame::Target, again, advice)
    }

    const fn quota(label: &'static str, advice: Advice) -> Self {
        Self::new(label, Blame::Quota, Again::Here, advice)
    }

    /// The row for an answer of this status and body.
    pub(super) fn of(status: u16, error: &ErrorBody, limits: &RateLimits, now: Timestamp) -> Self {
        if let Some(limit) = LimitKind::of(status, error, limits, now) {
            return Self::limited(limit, limits, now);
        }
        if let Some(by_code) = Self::by_code(error) {
            return by_code;
        }
        let message = error.message.as_deref().unwrap_or_default();
        match status {
            400 => Self::bad_request(message),
            401 if wording::is_cors(message) => {
                Self::caller(label::INVALID_REQUEST, Again::Never, Advice::RemoveOrigin)
            }
            401 => Self::credential(label::AUTHENTICATION, Advice::CheckCredential),
            402 => Self::credential(label::BILLING, Advice::Billing),
            403 => Self::credential(label::PERMISSION, Advice::Permission),
            404 => match wording::unknown_model(message) {
                Some(model) => Self::caller(
                    label::MODEL_NOT_FOUND,
                    Again::Elsewhere,
                    Advice::ModelNotFound {
                        model: model.to_owned(),
                    },
                ),
                None => Self::caller(label::NOT_FOUND, Again::Elsewhere, Advice::CheckPath),
            },
            408 => Self::target(label::SERVER_TIMEOUT, Again::Here, Advice::TryLater),
            409 => Self::caller(label::CONFLICT, Again::Here, Advice::ResolveConflict),
            413 if message.contains("context window") => Self::caller(
                label::PROMPT_TOO_LONG,
                Again::Elsewhere,
                Advice::PromptTooLong {
                    tokens: None,
                    maximum: None,
                },
            ),
            413 => Self::caller(label::TOO_LARGE, Again::Never, Advice::TooLarge),
            501 => Self::target(label::SERVER_ERROR, Again::Elsewhere, Advice::TryLater),
            502 | 520..=524 => Self::target(label::BAD_GATEWAY, Again::Here, Advice::TryLater),
            503 => Self::target(label::UNAVAILABLE, Again::Here, Advice::TryLater),
            504 => Self::target(label::SERVER_TIMEOUT, Again::Here, Advice::ShortenOrStream),
            529 => Self::target(label::OVERLOADED, Again::Here, Advice::Overloaded),
            _ if status < 400 => {
                Self::target(label::REDIRECTED, Again::Elsewhere, Advice::CheckBaseUrl)
            }
            _ if status < 500 => {
                Self::caller(label::INVALID_REQUEST, Again::Never, Advice::FixRequest)
            }
            _ => Self::target(label::SERVER_ERROR, Again::Here, Advice::TryLater),
        }
    }

    /// The row of a limit.
    fn limited(limit: LimitKind, limits: &RateLimits, now: Timestamp) -> Self {
        let row = match limit {
            LimitKind::Bucket { .. } => Self::quota(label::RATE_LIMITED, Advice::SlowDown),
            LimitKind::Ramp => Self::quota(label::RAMP_LIMIT, Advice::RampUp),
            LimitKind::FastMode => Self::quota(label::RATE_LIMITED, Advice::DropFastMode),
            LimitKind::Window { .. } => Self::quota(label::RATE_LIMITED, Advice::WindowSpent),
            LimitKind::Connections => Self::quota(label::CONCURRENCY_LIMIT, Advice::FewerAtOnce),
            LimitKind::Unnamed => Self::quota(label::RATE_LIMITED, Advice::UnnamedLimit),
            LimitKind::LargerThanBucket => Self::caller(
                label::TOO_LARGE_FOR_QUOTA,
                Again::Elsewhere,
                Advice::TooLargeForQuota,
            ),
            LimitKind::SpendCap { until } => Self {
                settled: true,
                ..Self::credential(label::SPEND_LIMIT, Advice::SpendLimit { until })
            },
        };
        let stop_for = limit.stop_for(limits, now);
        Self {
            pause: stop_for,
            limit: Some(limit),
            stop_for,
            ..row
        }
    }

    /// Codes whose meaning differs from their status. An unknown code is no news.
    fn by_code(error: &ErrorBody) -> Option<Self> {
        Some(match error.code.as_deref()? {
            "organization_on_hold" => Self::credential(label::PERMISSION, Advice::Permission),
            "request_body_timeout" => Self::new(
                label::DISCONNECTED,
                Blame::Network,
                Again::Here,
                Advice::CheckNetwork,
            ),
            // "Retry in a few minutes."
            "cmek_key_unreachable" | "cmek_context_unavailable" | "registration_pending" => Self {
                pause: Some(Duration::from_mins(1)),
                ..Self::target(label::UNAVAILABLE, Again::Here, Advice::TryLater)
            },
            "thread_continue_in_flight" => {
                Self::caller(label::CONFLICT, Again::Here, Advice::ResolveConflict)
            }
            "thread_already_continued" => {
                Self::caller(label::CONFLICT, Again::Never, Advice::ResolveConflict)
            }
            _ => return None,
        })
    }

    fn bad_request(message: &str) -> Self {
        if wording::is_credit_balance(message) {
            return Self {
                settled: true,
                ..Self::credential(label::BILLING, Advice::CreditBalance)
            };
        }
        if let Some([tokens, maximum]) = wording::prompt_too_long(message) {
            let advice = Advice::PromptTooLong {
                tokens: Some(tokens),
                maximum: Some(maximum),
            };
            return Self::caller(label::PROMPT_TOO_LONG, Again::Elsewhere, advice);
        }
        if let Some([input, max_tokens, limit]) = wording::context_limit(message) {
            let advice = Advice::ContextLimit {
                input,
                max_tokens,
                limit,
            };
            return Self::caller(label::PROMPT_TOO_LONG, Again::Elsewhere, advice);
        }
        if wording::is_filtered(message) {
            return Self::caller(label::REFUSED, Again::Never, Advice::Refused);
        }
        let advice = if message.contains("Extra inputs are not permitted") {
            Advice::KeepBetaHeader
        } else {
            Advice::FixRequest
        };
        Self::caller(label::INVALID_REQUEST, Again::Never, advice)
    }

    /// The headers' say: `x-should-retry` over the table, and how long to wait.
    pub(super) fn verdict(&self, limits: &RateLimits) -> Verdict {
        let again = match (limits.should_retry, self.again) {
            (Some(true), _) if !self.settled => Again::Here,
            (Some(false), Again::Here) => Again::Elsewhere,
            (_, again) => again,
        };
        let wait = limits.retry_after.or(self.pause);
        let obeyed = if matches!(again, Again::Here) {
            wait
        } else {
            None
        };
        let mut verdict = Verdict::new(self.label, self.blame, again).not_before(obeyed);
        verdict.because = cause(self.label);
        if self.label == label::OVERLOADED {
            verdict.overloaded()
        } else {
            verdict
        }
    }
}

/// Why a call leaves a rung with this word, where that does not follow from whose fault it is.
fn cause(label: &str) -> Option<Cause> {
    match label {
        label::PROMPT_TOO_LONG => Some(Cause::TooLarge),
        label::REFUSED => Some(Cause::Refused),
        label::MODEL_NOT_FOUND | label::NOT_FOUND => Some(Cause::NotFound),
        // Another quota may be larger.
        label::TOO_LARGE_FOR_QUOTA => Some(Cause::Quota),
        _ => None,
    }
}
