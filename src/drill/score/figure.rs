//! The names of the figures that a bar can be set on.

use serde::{Deserialize, Serialize};

/// A figure that a bar can be set on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Figure {
    /// [`Score::success_rate`](super::Score::success_rate).
    SuccessRate,
    /// [`Score::run_success_rate`](super::Score::run_success_rate).
    RunSuccessRate,
    /// [`Score::attempts_per_call`](super::Score::attempts_per_call).
    AttemptsPerCall,
    /// [`Score::attempts_per_call_during_fault`](super::Score::attempts_per_call_during_fault).
    AttemptsPerCallDuringFault,
    /// [`Score::degraded_rate_during_fault`](super::Score::degraded_rate_during_fault).
    DegradedRateDuringFault,
    /// Of [`Score::degraded_by`](super::Score::degraded_by), those of another model.
    DegradedByModel,
    /// Of [`Score::degraded_by`](super::Score::degraded_by), those of the cache.
    DegradedByCache,
    /// Of [`Score::degraded_by`](super::Score::degraded_by), the fixed ones.
    DegradedByStatic,
    /// [`Score::degraded_until_ms`](super::Score::degraded_until_ms).
    DegradedUntilMs,
    /// [`Score::provider_429`](super::Score::provider_429).
    #[serde(rename = "provider_429")]
    Provider429,
    /// [`Score::provider_429`](super::Score::provider_429) for each thousand attempts.
    #[serde(rename = "provider_429_per_1000_attempts")]
    Provider429Per1000Attempts,
    /// [`Score::provider_429_first_10s`](super::Score::provider_429_first_10s).
    #[serde(rename = "provider_429_first_10s")]
    Provider429First10s,
    /// [`Score::provider_429_per_1000_after_10s`](super::Score::provider_429_per_1000_after_10s).
    #[serde(rename = "provider_429_per_1000_after_10s")]
    Provider429Per1000After10s,
    /// [`Score::quota_used`](super::Score::quota_used).
    QuotaUsed,
    /// [`Score::lost`](super::Score::lost).
    Lost,
    /// [`Score::lost`](super::Score::lost) over [`Score::calls`](super::Score::calls).
    LostRate,
    /// [`Score::finish_over_ideal`](super::Score::finish_over_ideal).
    FinishOverIdeal,
    /// [`Score::throughput_over_ideal`](super::Score::throughput_over_ideal).
    ThroughputOverIdeal,
    /// [`Score::interactive_p99_wait_over_batch`](super::Score::interactive_p99_wait_over_batch).
    InteractiveP99WaitOverBatch,
    /// [`Score::interactive_success_rate`](super::Score::interactive_success_rate).
    InteractiveSuccessRate,
    /// [`Score::fairness`](super::Score::fairness).
    Fairness,
    /// [`Score::detect_ms`](super::Score::detect_ms).
    DetectMs,
    /// [`Score::recover_ms`](super::Score::recover_ms).
    RecoverMs,
    /// [`Score::waiting_served_ms`](super::Score::waiting_served_ms).
    WaitingServedMs,
    /// [`Score::p99_after_open_ms`](super::Score::p99_after_open_ms) over [`Score::healthy_p99_ms`](super::Score::healthy_p99_ms).
    P99AfterOpenOverHealthy,
    /// Calls neither answered nor refused at once.
    FailedOtherwise,
    /// [`Score::in_flight_at_end`](super::Score::in_flight_at_end).
    InFlightAtEnd,
}

impl Figure {
    /// The name in bars and tables.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SuccessRate => "success_rate",
            Self::RunSuccessRate => "run_success_rate",
            Self::AttemptsPerCall => "attempts_per_call",
            Self::AttemptsPerCallDuringFault => "attempts_per_call_during_fault",
            Self::DegradedRateDuringFault => "degraded_rate_during_fault",
            Self::DegradedByModel => "degraded_by_model",
            Self::DegradedByCache => "degraded_by_cache",
            Self::DegradedByStatic => "degraded_by_static",
            Self::DegradedUntilMs => "degraded_until_ms",
            Self::Provider429 => "provider_429",
            Self::Provider429Per1000Attempts => "provider_429_per_1000_attempts",
            Self::Provider429First10s => "provider_429_first_10s",
            Self::Provider429Per1000After10s => "provider_429_per_1000_after_10s",
            Self::QuotaUsed => "quota_used",
            Self::Lost => "lost",
            Self::LostRate => "lost_rate",
            Self::FinishOverIdeal => "finish_over_ideal",
            Self::ThroughputOverIdeal => "throughput_over_ideal",
            Self::InteractiveP99WaitOverBatch => "interactive_p99_wait_over_batch",
            Self::InteractiveSuccessRate => "interactive_success_rate",
            Self::Fairness => "fairness",
            Self::DetectMs => "detect_ms",
            Self::RecoverMs => "recover_ms",
            Self::WaitingServedMs => "waiting_served_ms",
            Self::P99AfterOpenOverHealthy => "p99_after_open_over_healthy",
            Self::FailedOtherwise => "failed_otherwise",
            Self::InFlightAtEnd => "in_flight_at_end",
        }
    }
}
