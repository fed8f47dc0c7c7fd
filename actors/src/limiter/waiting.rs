//! Those who wait for a quota: what each is charged, and what status shows of them.

use tokio::time::Instant;

use super::state::Waiter;
use crate::policy::quota::{Axis, Cost, Quota};
use crate::policy::wait_queue::WaitQueue;
use crate::snapshot::{QueueSnapshot, TenantSnapshot, WaitingSnapshot};

/// How many of those who wait are shown one by one.
const SHOWN_CALLS: usize = 50;

/// How many tenants are shown.
const SHOWN_TENANTS: usize = 50;

/// Shares are counted in billionths of what a quota gives in a minute.
const SHARE_PARTS: u128 = 1_000_000_000;

/// What a call takes of the quota, by the axis of which it takes most (its dominant share): a tenant
/// with few large calls and one with many small ones are then served equally of what each is
/// short of. Without a limit calls count alike.
pub(super) fn share(quota: &Quota, cost: Cost, now: Instant) -> u64 {
    let axes = Axis::ALL.into_iter().zip(quota.view(now).axes);
    let shares = axes.filter_map(|(axis, view)| {
        let limit = u128::from(view?.limit.max(1));
        Some(u128::from(cost.on(axis)) * SHARE_PARTS / limit)
    });
    let largest = shares.max().unwrap_or(1).max(1);
    u64::try_from(largest).unwrap_or(u64::MAX)
}

/// What status shows of a queue. The tenants are [sorted](sort) where nobody is kept waiting for it.
pub(super) fn look(queue: &WaitQueue<Waiter>, quota: &Quota, now: Instant) -> QueueSnapshot {
    if queue.is_empty() {
        return QueueSnapshot::default();
    }
    let mut ahead = Cost::ZERO;
    let mut first = Vec::new();
    for waiting in queue.in_order(SHOWN_CALLS) {
        first.push(WaitingSnapshot {
            call: waiting.item.call.clone(),
            priority: waiting.priority,
            tenant: waiting.tenant.name().cloned(),
            position: first.len() + 1,
            eta: quota.wait_behind(ahead, waiting.cost, now),
            waited: now.saturating_duration_since(waiting.since),
            cost: waiting.cost,
        });
        ahead = plus(ahead, waiting.cost);
    }
    let tenants = queue.by_tenant();
    QueueSnapshot {
        by_class: queue.by_class(),
        tenants: tenants.len(),
        by_tenant: tenants
            .into_iter()
            .map(|(name, waiting)| TenantSnapshot {
                name: (!name.is_empty()).then_some(name),
                waiting,
            })
            .collect(),
        first,
    }
}

/// Puts the tenants with most waiting first, and shows no more than a screenful.
pub(super) fn sort(queue: &mut QueueSnapshot) {
    queue
        .by_tenant
        .sort_by(|a, b| b.waiting.cmp(&a.waiting).then_with(|| a.name.cmp(&b.name)));
    queue.by_tenant.truncate(SHOWN_TENANTS);
}

const fn plus(a: Cost, b: Cost) -> Cost {
    Cost {
        requests: a.requests.saturating_add(b.requests),
        input: a.input.saturating_add(b.input),
        output: a.output.saturating_add(b.output),
    }
}
