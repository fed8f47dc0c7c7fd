//! Whether a call would find a target that can answer it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use seawall_actors::policy::circuit::State;
use seawall_actors::snapshot::Snapshot;
use tokio::time::Instant;

use super::Seawall;

/// A stop that ends sooner is waited for by a call of the standard profile.
const WAITED_FOR: Duration = Duration::from_secs(60);

impl Seawall {
    /// Whether a rung of any route leads to a target that can be used: its breaker is not open, its own
    /// key was not refused, and its own key's quota is not stopped for long, as by a spend cap.
    ///
    /// What is refused or stopped for one caller's key says nothing of others. A key that was refused
    /// is read anew, once a second at most, since nobody else does while nobody calls.
    pub async fn has_usable_rung(&self) -> bool {
        self.shared.keys.look_again().await;
        let usable = self.usable(&self.snapshot(), Instant::now());
        let routes = self.shared.config.routes.values();
        routes
            .flat_map(|route| &route.ladder)
            .filter_map(|rung| rung.place.target())
            .any(|target| usable.get(target).copied().unwrap_or(true))
    }

    /// Whether each configured target that something is known of can be used.
    fn usable(&self, snapshot: &Snapshot, now: Instant) -> BTreeMap<Arc<str>, bool> {
        let far = now + WAITED_FOR;
        let stopped = |quota: &str| {
            let mut limiters = snapshot.limiters.iter();
            let limiter = limiters.find(|limiter| &*limiter.name == quota);
            limiter.is_some_and(|limiter| limiter.quota.stopped_until > Some(far))
        };
        let mut usable = BTreeMap::new();
        for breaker in &snapshot.breakers {
            let Some(of) = self.shared.targets.use_of(&breaker.name) else {
                continue;
            };
            let key = self.shared.keys.of(&of.target).filter(|key| key.always);
            let passes = breaker.circuit.state != State::Open
                && key.is_none_or(|key| !key.is_dead(now) && !stopped(&of.quota));
            *usable.entry(of.target).or_insert(false) |= passes;
        }
        usable
    }
}
