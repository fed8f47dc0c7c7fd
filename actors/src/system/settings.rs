//! How large a system may grow, and how its quotas and targets are guarded.

use super::registry::Quota;
use crate::policy::InvalidPolicy;
use crate::policy::circuit::CircuitSettings;
use crate::policy::quota::QuotaSettings;

/// How large a system may grow, and its chance.
#[derive(Debug, Clone, Copy)]
pub struct SystemSettings {
    /// Most calls that run at once, each on a caller of its own.
    pub callers: usize,
    /// Most calls that wait for a caller. More are refused at once.
    pub waiting: usize,
    /// Most targets and quotas. The least recently added ones that nobody holds make room.
    pub targets: usize,
    /// Seeds all jitter; none draws it from the operating system.
    pub seed: Option<u64>,
}

impl Default for SystemSettings {
    fn default() -> Self {
        Self {
            callers: 4096,
            waiting: 4096,
            targets: 1024,
            seed: None,
        }
    }
}

impl SystemSettings {
    pub(super) fn check(&self) -> Result<(), InvalidPolicy> {
        in_range("system.callers", self.callers)?;
        in_range("system.targets", self.targets)
    }
}

fn in_range(field: &'static str, value: usize) -> Result<(), InvalidPolicy> {
    if (1..=1_000_000).contains(&value) {
        Ok(())
    } else {
        Err(InvalidPolicy::new(field, value, "1 to 1000000"))
    }
}

/// How a quota is limited and how many calls may wait for it.
#[derive(Debug, Clone, Copy)]
pub struct QuotaSpec {
    /// The buckets.
    pub settings: QuotaSettings,
    /// Most calls in its queue. Safe: 0.3 × timeout × the rate that it serves.
    pub queue_bound: usize,
}

impl Default for QuotaSpec {
    fn default() -> Self {
        Self {
            settings: QuotaSettings::default(),
            queue_bound: 10_000,
        }
    }
}

/// How a target is guarded.
#[derive(Debug, Clone)]
pub struct TargetSpec {
    /// The quota that its attempts are charged to; none for unlimited.
    pub quota: Option<Quota>,
    /// When its breaker opens and how it probes.
    pub circuit: CircuitSettings,
    /// Retries that it bears, as a share of its successes, 0 to 1.
    pub retry_ratio: f64,
    /// Most calls that wait for its breaker.
    pub queue_bound: usize,
}

impl Default for TargetSpec {
    fn default() -> Self {
        Self {
            quota: None,
            circuit: CircuitSettings::default(),
            retry_ratio: 0.3,
            queue_bound: 10_000,
        }
    }
}
