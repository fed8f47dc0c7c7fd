//! A quota as status shows it.

use tokio::time::Instant;

use super::{Cost, RefusedBy};

/// A quota as status shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaView {
    /// Each axis in the order of [`Axis::ALL`](super::Axis::ALL); absent without a limit.
    pub axes: [Option<AxisView>; 3],
    /// Until when nothing is admitted.
    pub stopped_until: Option<Instant>,
    /// Which limit is behind that, where it was said.
    pub stopped_by: Option<RefusedBy>,
    /// Attempts that may be in flight while no limit is known; absent once one is.
    pub concurrency: Option<u32>,
    /// Requests a minute that the provider's dislike of growth leaves; absent while it showed none.
    pub ramp_per_minute: Option<u64>,
    /// Leases neither settled nor swept.
    pub in_flight: usize,
    /// Their reserved cost.
    pub outstanding: Cost,
}

/// One axis of a quota as status shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct AxisView {
    /// Tokens a minute in force.
    pub limit: u64,
    /// Most tokens held at once.
    pub burst: u64,
    /// Whether the burst was found, and may still change, or is set.
    pub burst_found: bool,
    /// Whole tokens there are; negative is debt.
    pub level: i64,
    /// Tokens a minute that others seem to take from the same quota.
    pub foreign: u64,
}
