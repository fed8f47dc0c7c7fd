//! The quotas and targets of a system, by name.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::Mutex;
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
use crate::policy::quota::Learned;
use crate::policy::retry_budget::RetryBudget;
use crate::snapshot::{BreakerSnapshot, LimiterSnapshot};
use crate::supervisor::RestartKind;

/// A quota that targets may share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Quota {
    inner: Arc<QuotaInner>,
}

#[derive(Debug)]
struct QuotaInner {
    limiter: Limiter,
    added: u64,
}

impl Quota {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        self.inner.limiter.name()
    }

    pub(crate) fn limiter(&self) -> &Limiter {
        &self.inner.limiter
    }

    /// Hands on what is known of its limits from elsewhere than an attempt. A configured limit stays a
    /// ceiling.
    pub fn learn(&self, learned: Learned) {
        self.inner.limiter.learn(learned);
    }
}

/// A target: where attempts go, with its breaker and its quota. Cheap to clone.
#[derive(Clone)]
pub struct Target {
    inner: Arc<TargetInner>,
}

struct TargetInner {
    breaker: Breaker,
    quota: Option<Quota>,
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

    /// The quota that its attempts are taken from, where it has one.
    #[must_use]
    pub fn quota(&self) -> Option<&Quota> {
        self.inner.quota.as_ref()
    }

    pub(crate) fn breaker(&self) -> &Breaker {
        &self.inner.breaker
    }

    pub(crate) fn limiter(&self) -> Option<&Limiter> {
        self.inner.quota.as_ref().map(|quota| &quota.inner.limiter)
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
    /// Held by whoever changes either: a name that goes and comes back at once must not lose its new
    /// actor to the old one's end.
    changing: Mutex<()>,
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
            changing: Mutex::default(),
        }
    }

    pub(super) const fn limiters(&self) -> &Branch {
        &self.limiters
    }

    pub(super) const fn breakers(&self) -> &Branch {
        &self.breakers
    }

    /// The quota of this name, made as `spec` says if it is new.
    pub(super) async fn quota(
        self: &Arc<Self>,
        name: &str,
        spec: QuotaSpec,
    ) -> Result<Quota, StartError> {
        if let Some(quota) = self.known_quota(name) {
            return Ok(quota);
        }
        let (registry, name) = (Arc::clone(self), name.to_owned());
        to_its_end(async move { registry.add_quota(&name, spec).await }).await
    }

    async fn add_quota(&self, name: &str, spec: QuotaSpec) -> Result<Quota, StartError> {
        let _changing = self.changing.lock().await;
        if let Some(quota) = self.known_quota(name) {
            return Ok(quota);
        }
        self.make_room_for_quota().await?;
        let events = self.events.clone();
        let limiter = Limiter::new(name.into(), spec.settings, spec.queue_bound, events)?;
        let added = next_number();
        let inner = Arc::new(QuotaInner { limiter, added });
        let quota = Quota { inner };
        self.quotas.write().insert(name.into(), quota.clone());
        let limiter = &quota.inner.limiter;
        let (actor, address) = (limiter.clone(), limiter.clone());
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

    /// The quota of this name, if there is one.
    pub(super) fn known_quota(&self, name: &str) -> Option<Quota> {
        self.quotas.read().get(name).cloned()
    }

    /// The target of this name, if there is one.
    pub(super) fn known_target(&self, name: &str) -> Option<Target> {
        self.targets.read().get(name).cloned()
    }

    /// The target of this name, made as `spec` says if it is new.
    pub(super) async fn target(
        self: &Arc<Self>,
        name: &str,
        spec: impl FnOnce() -> TargetSpec,
    ) -> Result<Target, StartError> {
        if let Some(target) = self.known_target(name) {
            return Ok(target);
        }
        let (registry, name, spec) = (Arc::clone(self), name.to_owned(), spec());
        to_its_end(async move { registry.add_target(&name, spec).await }).await
    }

    async fn add_target(&self, name: &str, spec: TargetSpec) -> Result<Target, StartError> {
        let _changing = self.changing.lock().await;
        if let Some(target) = self.known_target(name) {
            return Ok(target);
        }
        self.make_room().await?;
        let target = self.new_target(name, spec)?;
        self.targets.write().insert(name.into(), target.clone());
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
            quota: spec.quota,
            added: next_number(),
        };
        Ok(Target {
            inner: Arc::new(inner),
        })
    }

    /// Removes the oldest target that nobody holds if the system is full.
    async fn make_room(&self) -> Result<(), StartError> {
        if self.targets.read().len() < self.bound || self.forget_oldest_target().await {
            Ok(())
        } else {
            Err(StartError::TooMany(self.bound))
        }
    }

    /// Removes the oldest quota that nobody holds if the system is full. Targets that nobody holds
    /// make way for it.
    async fn make_room_for_quota(&self) -> Result<(), StartError> {
        if self.quotas.read().len() < self.bound {
            return Ok(());
        }
        let unheld = |q: &Quota| (Arc::strong_count(&q.inner) == 1).then_some(q.inner.added);
        loop {
            let oldest = take_oldest(&mut self.quotas.write(), unheld);
            if let Some((name, quota)) = oldest {
                quota.inner.limiter.close();
                self.limiters.remove(&name).await;
                return Ok(());
            }
            if !self.forget_oldest_target().await {
                return Err(StartError::TooMany(self.bound));
            }
        }
    }

    /// `false` if every target is held.
    async fn forget_oldest_target(&self) -> bool {
        let unheld = |t: &Target| (Arc::strong_count(&t.inner) == 1).then_some(t.inner.added);
        let oldest = take_oldest(&mut self.targets.write(), unheld);
        let Some((name, target)) = oldest else {
            return false;
        };
        drop(target);
        self.breakers.remove(&name).await;
        true
    }

    pub(super) fn limiter_snapshots(&self) -> Vec<LimiterSnapshot> {
        let quotas = self.quotas.read();
        quotas
            .values()
            .map(|q| q.inner.limiter.snapshot())
            .collect()
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
            quota.inner.limiter.close();
        }
    }
}

/// Carries a change of the tree out, whoever may leave meanwhile: supervisors pass over a request whose
/// asker has left.
async fn to_its_end<T: Send + 'static>(
    change: impl Future<Output = Result<T, StartError>> + Send + 'static,
) -> Result<T, StartError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "ends with its request, or with the supervisor it asks"
    )]
    let changed = tokio::spawn(change).await;
    changed.unwrap_or_else(|error| Err(StartError::Actor(error.to_string())))
}

/// Takes out the first added of those of which `unheld` gives a number.
fn take_oldest<V>(
    all: &mut BTreeMap<Arc<str>, V>,
    unheld: impl Fn(&V) -> Option<u64>,
) -> Option<(Arc<str>, V)> {
    let numbered = all.iter().filter_map(|(name, v)| Some((unheld(v)?, name)));
    let oldest = numbered.min().map(|(_, name)| Arc::clone(name))?;
    all.remove_entry(&oldest)
}
