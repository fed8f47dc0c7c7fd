//! The quotas and targets of a system, by name.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::time::Instant;

use super::next_number;
use super::settings::{QuotaSpec, TargetSpec};
use crate::branch::Branch;
use crate::breaker::{Breaker, BreakerSettings};
use crate::error::StartError;
use crate::event::Events;
use crate::limiter::Limiter;
use crate::policy::InvalidPolicy;
use crate::policy::circuit::Mode;
use crate::policy::retry_budget::RetryBudget;
use crate::snapshot::{BreakerSnapshot, LimiterSnapshot};
use crate::supervisor::RestartKind;

/// A quota that targets may share.
#[derive(Debug, Clone)]
pub struct Quota {
    limiter: Limiter,
}

impl Quota {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        self.limiter.name()
    }
}

/// A target: where attempts go, with its breaker and its quota. Cheap to clone.
#[derive(Clone)]
pub struct Target {
    inner: Arc<TargetInner>,
}

struct TargetInner {
    breaker: Breaker,
    limiter: Option<Limiter>,
    added: u64,
}

impl Target {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        self.inner.breaker.name()
    }

    /// Sets who decides over its breaker: the circuit, or a person against every timer.
    pub fn force(&self, mode: Mode) {
        self.inner.breaker.force(mode);
    }

    pub(crate) fn breaker(&self) -> &Breaker {
        &self.inner.breaker
    }

    pub(crate) fn limiter(&self) -> Option<&Limiter> {
        self.inner.limiter.as_ref()
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Target").field(self.name()).finish()
    }
}

/// First retries that a new target has, before any success.
const FIRST_RETRIES: u32 = 10;

/// Retries a second that a target always bears, so that a quiet one can be retried at all.
const RETRY_FLOOR: f64 = 1.0;

/// The quotas and targets of one system, and the branches that their actors live on.
pub(super) struct Registry {
    limiters: Branch,
    breakers: Branch,
    events: Events,
    /// Most targets, and most quotas.
    bound: usize,
    seed: u64,
    quotas: RwLock<BTreeMap<Arc<str>, Quota>>,
    targets: RwLock<BTreeMap<Arc<str>, Target>>,
}

impl Registry {
    pub(super) fn new(events: Events, bound: usize, seed: u64) -> Self {
        Self {
            limiters: Branch::new("limiters", events.clone()),
            breakers: Branch::new("breakers", events.clone()),
            events,
            bound,
            seed,
            quotas: RwLock::default(),
            targets: RwLock::default(),
        }
    }

    pub(super) const fn limiters(&self) -> &Branch {
        &self.limiters
    }

    pub(super) const fn breakers(&self) -> &Branch {
        &self.breakers
    }

    /// The quota of this name, made as `spec` says if it is new.
    pub(super) async fn quota(&self, name: &str, spec: QuotaSpec) -> Result<Quota, StartError> {
        if let Some(quota) = self.quotas.read().get(name) {
            return Ok(quota.clone());
        }
        let quota = {
            let mut quotas = self.quotas.write();
            if let Some(quota) = quotas.get(name) {
                return Ok(quota.clone());
            }
            if quotas.len() >= self.bound {
                return Err(StartError::TooMany(self.bound));
            }
            let events = self.events.clone();
            let limiter = Limiter::new(name.into(), spec.settings, spec.queue_bound, events)?;
            quotas.insert(
                name.into(),
                Quota {
                    limiter: limiter.clone(),
                },
            );
            Quota { limiter }
        };
        let (actor, address) = (quota.limiter.clone(), quota.limiter.clone());
        self.limiters
            .add(
                name,
                RestartKind::Permanent,
                move || actor.actor(),
                move |r| address.publish(r),
            )
            .await?;
        Ok(quota)
    }

    /// The target of this name, if there is one.
    pub(super) fn known_target(&self, name: &str) -> Option<Target> {
        self.targets.read().get(name).cloned()
    }

    /// The target of this name, made as `spec` says if it is new.
    pub(super) async fn target(
        &self,
        name: &str,
        spec: impl FnOnce() -> TargetSpec,
    ) -> Result<Target, StartError> {
        if let Some(target) = self.targets.read().get(name) {
            return Ok(target.clone());
        }
        self.make_room().await?;
        let target = {
            let mut targets = self.targets.write();
            if let Some(target) = targets.get(name) {
                return Ok(target.clone());
            }
            let target = self.new_target(name, spec())?;
            targets.insert(name.into(), target.clone());
            target
        };
        let (actor, address) = (target.breaker().clone(), target.breaker().clone());
        self.breakers
            .add(
                name,
                RestartKind::Permanent,
                move || actor.actor(),
                move |r| address.publish(r),
            )
            .await?;
        Ok(target)
    }

    fn new_target(&self, name: &str, spec: TargetSpec) -> Result<Target, InvalidPolicy> {
        let now = Instant::now();
        let budget = RetryBudget::new(spec.retry_ratio, FIRST_RETRIES, RETRY_FLOOR, now)?;
        let mut hasher = DefaultHasher::new();
        (self.seed, name).hash(&mut hasher);
        let settings = BreakerSettings {
            circuit: spec.circuit,
            budget,
            queue_bound: spec.queue_bound,
            seed: hasher.finish(),
        };
        let breaker = Breaker::new(name.into(), settings, self.events.clone())?;
        let inner = TargetInner {
            breaker,
            limiter: spec.quota.map(|quota| quota.limiter),
            added: next_number(),
        };
        Ok(Target {
            inner: Arc::new(inner),
        })
    }

    /// Removes the oldest target that nobody holds if the system is full.
    async fn make_room(&self) -> Result<(), StartError> {
        let bound = self.bound;
        let oldest = {
            let mut targets = self.targets.write();
            if targets.len() < bound {
                return Ok(());
            }
            let unused = targets
                .iter()
                .filter(|(_, t)| Arc::strong_count(&t.inner) == 1);
            let oldest = unused
                .min_by_key(|(_, t)| t.inner.added)
                .map(|(name, _)| name.clone());
            let Some(oldest) = oldest else {
                return Err(StartError::TooMany(bound));
            };
            targets.remove(&oldest);
            oldest
        };
        self.breakers.remove(&oldest).await;
        Ok(())
    }

    pub(super) fn limiter_snapshots(&self) -> Vec<LimiterSnapshot> {
        let quotas = self.quotas.read();
        quotas.values().map(|q| q.limiter.snapshot()).collect()
    }

    pub(super) fn breaker_snapshots(&self) -> Vec<BreakerSnapshot> {
        let targets = self.targets.read();
        targets.values().map(|t| t.breaker().snapshot()).collect()
    }

    /// Refuses those who wait, and everybody from here on.
    pub(super) fn close(&self) {
        let targets: Vec<_> = self.targets.read().values().cloned().collect();
        let quotas: Vec<_> = self.quotas.read().values().cloned().collect();
        for target in targets {
            target.breaker().close();
        }
        for quota in quotas {
            quota.limiter.close();
        }
    }
}
