//! Admission alone, for those who drive their own attempt.
//!
//! [`System::call`] walks a ladder, retries and judges. Who has a loop of their own asks for the right
//! to make one attempt, makes it, and says how it went:
//!
//! ```
//! # use std::time::Duration;
//! # use seawall_actors::admission::Terms;
//! # use seawall_actors::system::{System, SystemSettings, TargetSpec};
//! # use seawall_actors::verdict::Verdict;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let system = System::start(SystemSettings::default()).await?;
//! let database = system.target("database", TargetSpec::default).await?;
//! let permit = system
//!     .admit(&database, Terms::within(Duration::from_secs(5)))
//!     .await?;
//! // … the query …
//! permit.finish(&Verdict::OK, None);
//! # system.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! Nobody drives the attempt but its maker: no caller of the pool is taken for it, no timer counts it
//! as slow while it is in flight, and a deadline for it is the maker's own.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::breaker::Knock;
use crate::caller::{CallContext, rejected_by, rejected_for, rejection};
use crate::error::{Rejected, Rejection};
use crate::limiter::{Lease, Limiter, Reservation};
use crate::permit::Permit;
use crate::policy::concurrency::Leaving;
use crate::policy::quota::Cost;
use crate::policy::wait_queue::{Priority, Tenant};
#[cfg(doc)]
use crate::system::System;
use crate::system::{Quota, Target};

/// On which terms a permit is asked for.
#[derive(Debug, Clone)]
#[expect(
    clippy::exhaustive_structs,
    reason = "made by whoever asks, with everything that counts"
)]
pub struct Terms {
    /// Names the asker in events and logs.
    pub call: Arc<str>,
    /// What the attempt is expected to cost.
    pub cost: Cost,
    /// Its place among those who wait.
    pub priority: Priority,
    /// For whom it is made: those who wait for a quota share it by tenant.
    pub tenant: Tenant,
    /// Whether it is a retry: then it is paid for from the target's retry budget.
    pub again: bool,
    /// Breaker and quota are waited for until here; a moment that has passed means not at all.
    pub until: Instant,
    /// The permit is held no longer than this; some time later its tokens are taken back.
    pub held_until: Instant,
}

impl Terms {
    /// A first attempt of one request: a permit within `wait`, held for at most an hour.
    #[must_use]
    pub fn within(wait: Duration) -> Self {
        const AN_HOUR: Duration = Duration::from_secs(3_600);
        let now = Instant::now();
        let until = now + wait;
        Self {
            call: "".into(),
            cost: Cost {
                requests: 1,
                ..Cost::ZERO
            },
            priority: Priority::Normal,
            tenant: Tenant::default(),
            again: false,
            until,
            held_until: until + AN_HOUR,
        }
    }
}

/// Asks the breaker, then the quota, then whether the breaker still says so.
pub(crate) async fn admit(
    context: &CallContext,
    target: &Target,
    terms: Terms,
) -> Result<Permit, Rejected> {
    loop {
        let knock = Knock {
            call: Arc::clone(&terms.call),
            priority: terms.priority,
            again: terms.again,
            refused: false,
            elsewhere: false,
            until: terms.until,
        };
        let ticket = match target.breaker().knock(knock).await {
            Ok(Ok(ticket)) => ticket,
            Ok(Err(barred)) => return Err(rejected_by(target, barred)),
            Err(unanswered) => {
                return Err(refusal(rejection(unanswered), target.name()));
            }
        };
        let lease = reserve(target, &terms).await?;
        if ticket.is_current() {
            let counted = context.in_flight.enter();
            return Ok(Permit::new(target.clone(), ticket, lease, counted));
        }
        // The circuit changed during the wait; dropping both gives both back.
        if Instant::now() >= terms.until {
            return Err(refusal(Rejection::DeadlinePassed, target.name()));
        }
    }
}

async fn reserve(target: &Target, terms: &Terms) -> Result<Option<(Lease, Cost)>, Rejected> {
    match target.limiter() {
        Some(limiter) => Ok(Some((lease(limiter, terms.clone()).await?, terms.cost))),
        None => Ok(None),
    }
}

async fn lease(limiter: &Limiter, terms: Terms) -> Result<Lease, Rejected> {
    let reservation = Reservation {
        call: terms.call,
        cost: terms.cost,
        priority: terms.priority,
        tenant: terms.tenant,
        until: terms.until,
        expires: terms.held_until,
    };
    match limiter.reserve(reservation).await {
        Ok(Ok(lease)) => Ok(lease),
        Ok(Err(exhausted)) => Err(rejected_for(limiter.name(), exhausted)),
        Err(unanswered) => Err(refusal(rejection(unanswered), limiter.name())),
    }
}

impl Quota {
    /// Reserves tokens of this quota alone, for work that has no target and no breaker.
    ///
    /// Dropping the future gives a place in the queue up.
    ///
    /// # Errors
    ///
    /// [`Rejected`] when the tokens can't be had by [`Terms::until`], told at once where that is known
    /// at once, or the system has stopped.
    pub async fn reserve(&self, terms: Terms) -> Result<Reserved, Rejected> {
        lease(self.limiter(), terms).await.map(Reserved)
    }
}

/// Tokens held of a quota. Given back on drop, as if nothing had been sent.
#[derive(Debug)]
pub struct Reserved(Lease);

impl Reserved {
    /// Replaces the reserved cost by the true one: less is given back, more becomes debt.
    pub fn settle(self, actual: Cost) {
        self.0.settle(actual, Leaving::Success);
    }
}

fn refusal(why: Rejection, by: &Arc<str>) -> Rejected {
    Rejected {
        why,
        by: Some(Arc::clone(by)),
        retry_after: None,
    }
}

#[cfg(test)]
mod tests;
