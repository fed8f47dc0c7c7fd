//! Several systems of this runtime that share nothing but the provider, as processes would.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};

use super::seawall::Seawall;
use super::{CallPlan, Client, Ended, Wiring};
use crate::drill::DrillError;

/// One or more systems; each call goes to one of them, in turn.
#[derive(Debug)]
pub struct Processes {
    each: Vec<Arc<Seawall>>,
}

impl Processes {
    /// As many as the scenario says, with chances of their own.
    ///
    /// # Errors
    ///
    /// [`DrillError::Client`] when the scenario makes no valid configuration.
    pub fn new(wiring: &Wiring<'_>) -> Result<Self, DrillError> {
        // The first has the drill's seed; the others follow at the distance of SplitMix64's streams.
        const APART: u64 = 0x9e37_79b9_7f4a_7c15;
        let one = |number: u64| {
            let seed = wiring.seed.wrapping_add(number.wrapping_mul(APART));
            let wiring = Wiring {
                seed,
                ..wiring.clone()
            };
            Seawall::new(&wiring).map(Arc::new)
        };
        let count = u64::from(wiring.scenario.systems.max(1));
        let each = (0..count).map(one).collect::<Result<_, _>>()?;
        Ok(Self { each })
    }

    fn of(&self, plan: &CallPlan) -> Option<&Arc<Seawall>> {
        let count = u64::try_from(self.each.len()).ok()?;
        let place = plan.id.checked_rem(count)?;
        self.each.get(usize::try_from(place).ok()?)
    }
}

impl Client for Processes {
    fn call(&self, plan: CallPlan) -> BoxFuture<'static, Ended> {
        match self.of(&plan) {
            Some(system) => system.call(plan),
            None => std::future::ready(super::seawall::NOT_STARTED).boxed(),
        }
    }

    fn run_step(&self, plan: CallPlan) -> BoxFuture<'static, Ended> {
        match self.of(&plan) {
            Some(system) => system.run_step(plan),
            None => std::future::ready(super::seawall::NOT_STARTED).boxed(),
        }
    }

    fn asked(&self) -> Option<u64> {
        self.each.iter().map(|system| system.asked()).sum()
    }

    fn in_flight(&self) -> usize {
        self.each.iter().map(|system| system.in_flight()).sum()
    }

    fn drain(&self) -> BoxFuture<'static, ()> {
        let draining: Vec<_> = self.each.iter().map(|system| system.drain()).collect();
        join_all(draining).map(|_all| ()).boxed()
    }
}
