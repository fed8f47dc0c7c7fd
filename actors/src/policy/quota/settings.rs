//! How a quota is limited.

use std::time::Duration;

use super::Axis;
use crate::policy::InvalidPolicy;

const LONGEST_BURST: Duration = Duration::from_secs(60);
const LONGEST_GRACE: Duration = Duration::from_secs(60 * 60);

/// Limits of a quota; an absent one is learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaSettings {
    /// Requests a minute.
    pub requests_per_minute: Option<u64>,
    /// Input tokens a minute.
    pub input_per_minute: Option<u64>,
    /// Output tokens a minute.
    pub output_per_minute: Option<u64>,
    /// A bucket holds what its rate brings in this time, and at least 1; at most a minute.
    ///
    /// One second by default: Anthropic warns that 60 requests a minute may be enforced as 1 a second.
    pub burst: Duration,
    /// The burst is found by what the provider accepts and refuses, whatever `burst` says.
    pub find_burst: bool,
    /// How long after its expiry a lease is swept; at most an hour.
    pub lease_grace: Duration,
}

impl Default for QuotaSettings {
    fn default() -> Self {
        Self {
            requests_per_minute: None,
            input_per_minute: None,
            output_per_minute: None,
            burst: Duration::from_secs(1),
            find_burst: false,
            lease_grace: Duration::from_secs(5),
        }
    }
}

impl QuotaSettings {
    pub(super) fn validate(&self) -> Result<(), InvalidPolicy> {
        let fields = [
            ("quota.requests_per_minute", self.requests_per_minute),
            ("quota.input_tokens_per_minute", self.input_per_minute),
            ("quota.output_tokens_per_minute", self.output_per_minute),
        ];
        for (field, limit) in fields {
            if limit == Some(0) {
                return Err(InvalidPolicy::new(
                    field,
                    0,
                    "at least 1, or absent to learn it",
                ));
            }
        }
        if self.burst > LONGEST_BURST {
            let value = format!("{:?}", self.burst);
            return Err(InvalidPolicy::new("quota.burst", value, "at most 60 s"));
        }
        if self.lease_grace > LONGEST_GRACE {
            let value = format!("{:?}", self.lease_grace);
            return Err(InvalidPolicy::new(
                "quota.lease_grace",
                value,
                "at most 1 h",
            ));
        }
        Ok(())
    }

    pub(super) const fn limit(&self, axis: Axis) -> Option<u64> {
        match axis {
            Axis::Requests => self.requests_per_minute,
            Axis::Input => self.input_per_minute,
            Axis::Output => self.output_per_minute,
        }
    }

    pub(super) fn burst_of(&self, per_minute: u64) -> u64 {
        let minute = Duration::from_secs(60).as_nanos();
        let tokens = u128::from(per_minute).saturating_mul(self.burst.as_nanos()) / minute;
        u64::try_from(tokens).unwrap_or(u64::MAX).max(1)
    }
}
