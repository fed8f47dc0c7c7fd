//! A call: what is asked, where it may be answered, and what it took.
//!
//! The call path, top to bottom: ladder → breaker → reserve → breaker again → attempt → verdict →
//! settle → retry, next rung or the end. `walk` holds it, `race` the attempts of one moment.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::address::Unanswered;
use crate::breaker::{Bar, Barred};
use crate::error::{CallError, Rejected, Rejection};
use crate::event::Events;
use crate::gauge::Gauge;
use crate::limiter::Exhausted;
use crate::policy::hedge::HedgeBudget;
use crate::policy::ladder::{Cause, Kind, Rules};
use crate::policy::quota::{Cost, RefusedBy};
use crate::policy::retry::Retry;
use crate::policy::wait_queue::{Priority, Tenant};
use crate::system::Target;

mod attempt;
mod race;
mod walk;

pub use attempt::{Attempt, Fate, Outcome};
pub(crate) use walk::run;

/// One request of a user.
#[derive(Debug, Clone)]
pub struct Call {
    /// Names the call in events and logs.
    pub id: Arc<str>,
    /// Where it may be answered, best first; 1 to 16.
    pub rungs: Vec<Rung>,
    /// No part of the call outlasts this, up to its answer.
    pub deadline: Instant,
    /// No permit of the call is held longer than this: later than the deadline where a committed
    /// answer goes on after it.
    pub held_until: Instant,
    /// Whether this call goes on with another's work: then its first attempt is a retry too.
    pub continues: bool,
    /// The call waits no longer than this, in all, for breakers and quotas.
    pub patience: Duration,
    /// Its place among those who wait.
    pub priority: Priority,
    /// For whom it is made: those who wait for a quota share it by tenant.
    pub tenant: Tenant,
    /// How it is tried again.
    pub retry: Retry,
    /// Whether a slow attempt gets a second one beside it.
    pub hedge: Option<Hedge>,
}

/// One place where a call may be answered.
#[derive(Debug, Clone)]
pub struct Rung {
    /// What answers.
    pub place: Place,
    /// What leads to it and what it may use.
    pub rules: Rules,
}

impl Rung {
    /// A target, with the rules of [`Rules::TARGET`].
    #[must_use]
    pub const fn target(target: Target, cost: Cost) -> Self {
        Self {
            place: Place::Target(target, cost),
            rules: Rules::TARGET,
        }
    }

    /// The rules, with the kind that its place is.
    const fn rules(&self) -> Rules {
        let mut rules = self.rules;
        rules.kind = self.place.kind();
        rules
    }

    /// An answer at hand, with the rules of [`Rules::STAND_IN`].
    #[must_use]
    pub const fn stand_in(name: &'static str) -> Self {
        Self {
            place: Place::StandIn(name),
            rules: Rules::STAND_IN,
        }
    }
}

/// What answers on a rung.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Place {
    /// A target, and what an attempt there is expected to cost.
    Target(Target, Cost),
    /// A target that [`Operation::place`] gives when the call comes to it, since few calls do; with
    /// its name in events.
    Later(Arc<str>),
    /// Something that [`Operation::stand_in`] gives, by its name in events.
    StandIn(&'static str),
}

impl Place {
    const fn kind(&self) -> Kind {
        match self {
            Self::Target(..) | Self::Later(_) => Kind::Target,
            Self::StandIn(_) => Kind::StandIn,
        }
    }

    fn name(&self) -> Arc<str> {
        match self {
            Self::Target(target, _) => Arc::clone(target.name()),
            Self::Later(name) => Arc::clone(name),
            Self::StandIn(name) => Arc::from(*name),
        }
    }
}

/// A second attempt beside one that has brought no content in the usual time. Whichever answers
/// first wins; the other is ended before its answer is handed on.
#[derive(Debug, Clone)]
pub struct Hedge {
    /// How long the first attempt stays alone; none: as long as [`Operation::usually_within`] says.
    pub after: Option<Duration>,
    /// Where the second goes.
    pub on: HedgeOn,
    /// What pays for it.
    pub budget: Arc<Mutex<HedgeBudget>>,
}

/// Where a second attempt goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HedgeOn {
    /// To the same target: it helps where each attempt is slow by chance.
    #[default]
    Same,
    /// To the target of the rung below: it helps where the target itself is slow.
    Next,
}

/// What a call does on its way. Closures that only make attempts go to
/// [`System::call`](crate::system::System::call) as they are.
pub trait Operation: Send + Sync {
    /// The answer.
    type Answer: Send;
    /// An attempt's own error.
    type Error: Send;

    /// Makes one attempt. Dropping the future ends it at once.
    fn attempt(
        &self,
        attempt: Attempt,
    ) -> impl Future<Output = Outcome<Self::Answer, Self::Error>> + Send;

    /// Gives the target of a rung that is [`Place::Later`], and what an attempt there is expected
    /// to cost; or why it can't be had, as a cause that leads on from there. Asked again for a rung
    /// that it has given, it gives the same.
    fn place(&self, rung: usize) -> impl Future<Output = Result<(Target, Cost), Cause>> + Send {
        let _ = rung;
        std::future::ready(Err(Cause::NotFound))
    }

    /// Answers without an attempt, or has nothing to say.
    fn stand_in(
        &self,
        rung: usize,
        occasion: Occasion,
    ) -> impl Future<Output = Option<Self::Answer>> + Send {
        let _ = (rung, occasion);
        std::future::ready(None)
    }

    /// How long 95 in 100 attempts on a rung take to their first content. None: not known yet, so
    /// nothing is slow.
    fn usually_within(&self, rung: usize) -> Option<Duration> {
        let _ = rung;
        None
    }

    /// A small request that finds out whether a target is back, made beside the call while another
    /// rung answers it. None: the call itself finds it out.
    fn probe(&self, attempt: Attempt) -> Option<BoxFuture<'static, Outcome<(), ()>>> {
        drop(attempt);
        None
    }

    /// Whether [`Operation::probe`] gives one for this rung.
    fn probes(&self, rung: usize) -> bool {
        let _ = rung;
        false
    }
}

/// Why a call has come to a rung that makes no attempts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Occasion {
    /// Why the rung above was left; none: this was the first to be asked.
    pub cause: Option<Cause>,
    /// Until the rungs above may answer again, as far as is known.
    pub retry_after: Option<Duration>,
}

/// An operation that makes attempts and nothing else.
pub(crate) struct Attempts<F>(pub(crate) F);

impl<F, Fut, T, E> Operation for Attempts<F>
where
    F: Fn(Attempt) -> Fut + Send + Sync,
    Fut: Future<Output = Outcome<T, E>> + Send,
    T: Send,
    E: Send,
{
    type Answer = T;
    type Error = E;

    fn attempt(&self, attempt: Attempt) -> impl Future<Output = Outcome<T, E>> + Send {
        (self.0)(attempt)
    }
}

/// How a call ended.
#[derive(Debug)]
pub struct Finished<T, E> {
    /// The answer, or why there is none.
    pub result: Result<T, CallError<E>>,
    /// What it took.
    pub report: CallReport,
}

/// What a call took.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct CallReport {
    /// Attempts on the wire.
    pub attempts: u32,
    /// The rung that answered, or the last that was tried.
    pub rung: usize,
    /// Its target; none if no attempt was made.
    pub target: Option<Arc<str>>,
    /// Time spent waiting for quotas and breakers.
    pub queued: Duration,
    /// Time spent backing off between attempts.
    pub backed_off: Duration,
    /// The last refusal on the way, if there was one.
    pub rejected: Option<Rejected>,
    /// Why the last rung that was left was left, if one was.
    pub cause: Option<Cause>,
    /// Whether the answer came from a rung that makes no attempts.
    pub stood_in: bool,
    /// Whether a second attempt ran beside a slow one.
    pub hedged: bool,
}

/// What all calls of a system share.
#[derive(Debug)]
pub(crate) struct CallContext {
    pub(crate) events: Events,
    pub(crate) in_flight: Gauge,
    /// Draws the jitter of every call, so that no two calls draw the same.
    pub(crate) rng: Mutex<StdRng>,
}

/// What a quota's refusal is to the one who asked.
pub(crate) fn rejected_for(quota: &Arc<str>, exhausted: Exhausted) -> Rejected {
    let why = match exhausted.stopped_by {
        Some(RefusedBy::SpendCap) => Rejection::SpendCap,
        _ if exhausted.full => Rejection::QueueFull,
        _ => Rejection::QuotaExhausted,
    };
    let wait = exhausted.ready_at.saturating_duration_since(Instant::now());
    Rejected {
        why,
        by: Some(Arc::clone(quota)),
        retry_after: Some(wait),
    }
}

pub(crate) fn rejected_by(target: &Target, barred: Barred) -> Rejected {
    let why = match barred.why {
        Bar::Open => Rejection::BreakerOpen,
        Bar::Budget => Rejection::RetryBudget,
        Bar::Full => Rejection::QueueFull,
    };
    let now = Instant::now();
    Rejected {
        why,
        by: Some(Arc::clone(target.name())),
        retry_after: barred.until.map(|at| at.saturating_duration_since(now)),
    }
}

pub(crate) const fn rejection(unanswered: Unanswered) -> Rejection {
    match unanswered {
        Unanswered::Busy => Rejection::QueueFull,
        Unanswered::Late => Rejection::DeadlinePassed,
        Unanswered::Stopped => Rejection::Stopped,
    }
}

pub(crate) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|message| (*message).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}
