//! The call path, top to bottom.
//!
//! ladder → breaker → reserve → breaker again → attempt → verdict → settle → retry or next rung.
//! The breaker is asked before the reserve, so that no token is spent on a dead target, and again
//! after the wait. When no rung lets the call pass, it waits for all of them at once, as long as
//! it may, and goes on with the first that does.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::select_all;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep_until};

use crate::address::Unanswered;
use crate::breaker::{Bar, Barred, Knock, Ticket};
use crate::error::{CallError, Rejected, Rejection};
use crate::event::{EventKind, Events};
use crate::gauge::Gauge;
use crate::limiter::{Exhausted, Lease, Reservation};
use crate::permit::Permit;
use crate::policy::ladder::Ladder;
use crate::policy::quota::{Cost, Learned};
use crate::policy::retry::{Decision, MoveOn, Retry};
use crate::policy::wait_queue::{Priority, Tenant};
use crate::system::Target;
use crate::verdict::{Again, Blame, Verdict};

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
}

/// One place where a call may be answered.
#[derive(Debug, Clone)]
pub struct Rung {
    /// The target.
    pub target: Target,
    /// What an attempt there is expected to cost.
    pub cost: Cost,
}

/// One attempt, as the operation sees it.
#[derive(Debug)]
pub struct Attempt {
    /// Where to.
    pub target: Target,
    /// The rung's place in the call's ladder, from 0.
    pub rung: usize,
    /// Which attempt of the call this is, from 1.
    pub number: u32,
    /// The call's deadline. The attempt is ended there, as the target's failure.
    pub deadline: Instant,
    permit: Arc<Mutex<Option<Permit>>>,
}

impl Attempt {
    /// Takes the permit along, for an answer that goes on after the operation has returned, such
    /// as a stream. The taker finishes it; the operation returns [`Outcome::Committed`].
    #[must_use]
    pub fn take_permit(&self) -> Option<Permit> {
        self.permit.lock().take()
    }

    /// Marks that the request has left; see [`Permit::mark_sent`].
    pub fn mark_sent(&self) {
        if let Some(permit) = self.permit.lock().as_mut() {
            permit.mark_sent();
        }
    }

    /// What is reserved for the attempt; nothing where its target has no quota.
    #[must_use]
    pub fn reserved(&self) -> Cost {
        self.permit
            .lock()
            .as_ref()
            .map_or(Cost::ZERO, Permit::reserved)
    }

    /// Hands on what the answer says of the provider's buckets, as soon as it is known.
    pub fn learn(&self, learned: Learned) {
        if let Some(permit) = self.permit.lock().as_ref() {
            permit.learn(learned);
        }
    }

    /// Replaces what is reserved by a better estimate; see [`Permit::revise`].
    pub fn revise(&self, estimate: Cost) {
        if let Some(permit) = self.permit.lock().as_mut() {
            permit.revise(estimate);
        }
    }

    /// Marks the first content; see [`Permit::mark_content`].
    pub fn mark_content(&self) {
        if let Some(permit) = self.permit.lock().as_mut() {
            permit.mark_content();
        }
    }
}

/// What an operation makes of one attempt.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "made once an attempt and moved; a box would cost an allocation"
)]
#[non_exhaustive]
pub enum Outcome<T, E> {
    /// It is over.
    Ended {
        /// The answer or the error.
        result: Result<T, E>,
        /// Whose fault, may it be sent again, not before when.
        verdict: Verdict,
        /// The true cost; see [`Permit::finish`] for what its absence means.
        cost: Option<Cost>,
        /// What the provider said of its buckets.
        learned: Option<Learned>,
    },
    /// The answer has begun to reach the user; its permit travels with it.
    Committed(T),
}

impl<T, E> Outcome<T, E> {
    /// A success of unknown cost.
    pub const fn ok(value: T) -> Self {
        Self::Ended {
            result: Ok(value),
            verdict: Verdict::OK,
            cost: None,
            learned: None,
        }
    }

    /// A failure.
    pub const fn failed(error: E, verdict: Verdict) -> Self {
        Self::Ended {
            result: Err(error),
            verdict,
            cost: None,
            learned: None,
        }
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
}

/// What all calls of a system share.
#[derive(Debug)]
pub(crate) struct CallContext {
    pub(crate) events: Events,
    pub(crate) in_flight: Gauge,
    /// Draws the jitter of every call, so that no two calls draw the same.
    pub(crate) rng: Mutex<StdRng>,
}

/// An attempt that ran past the call's deadline.
const TIMED_OUT: Verdict = Verdict::new("timeout_total", Blame::Target, Again::Never);

/// Runs a call to its end.
pub(crate) async fn run<T, E, F, Fut>(
    context: Arc<CallContext>,
    call: Call,
    operation: F,
) -> Finished<T, E>
where
    F: Fn(Attempt) -> Fut + Send,
    Fut: Future<Output = Outcome<T, E>> + Send,
    T: Send,
    E: Send,
{
    let ladder = match Ladder::new(call.rungs.len(), call.retry.attempts()) {
        Ok(ladder) => ladder,
        Err(invalid) => {
            return Finished {
                result: Err(CallError::Invalid(invalid)),
                report: CallReport::default(),
            };
        }
    };
    let now = Instant::now();
    let until = call.deadline.min(now + call.patience);
    let mut walk = Walk {
        context,
        call,
        operation,
        ladder,
        until,
        report: CallReport::default(),
        last: None,
    };
    let result = walk.walk().await;
    Finished {
        result,
        report: walk.report,
    }
}

/// One call on its way.
struct Walk<F, E> {
    context: Arc<CallContext>,
    call: Call,
    operation: F,
    ladder: Ladder,
    /// Waits end here.
    until: Instant,
    report: CallReport,
    last: Option<(E, Verdict)>,
}

/// How a call left a rung without an answer.
enum Left {
    /// Nobody would answer it differently.
    GiveUp,
    /// It may not pass at present; the breaker can be waited for.
    Barred(Rejected),
    /// It can't be served here in time.
    MovedOn(&'static str),
    Panicked(String),
}

impl<F, Fut, T, E> Walk<F, E>
where
    F: Fn(Attempt) -> Fut,
    Fut: Future<Output = Outcome<T, E>>,
{
    async fn walk(&mut self) -> Result<T, CallError<E>> {
        let mut ticket = None;
        loop {
            let mut barred = Vec::new();
            while let Some(rung) = self.ladder.rung() {
                let why = match self.on_rung(rung, ticket.take()).await {
                    Ok(answer) => return Ok(answer),
                    Err(Left::GiveUp) => return Err(self.last_error()),
                    Err(Left::Panicked(message)) => return Err(CallError::Panicked(message)),
                    Err(Left::Barred(rejected)) => {
                        barred.push(rung);
                        let why = rejected.why.as_str();
                        self.report.rejected = Some(rejected);
                        why
                    }
                    Err(Left::MovedOn(why)) => why,
                };
                self.ladder.step_down();
                self.announce_fall(why);
            }
            match Box::pin(self.first_to_open(&barred)).await {
                Some((rung, passed)) => {
                    self.ladder.stand_on(rung);
                    ticket = Some(passed);
                }
                None => return Err(self.last_error()),
            }
        }
    }

    /// Makes attempts on one rung until it answers or the call leaves it.
    async fn on_rung(&mut self, rung: usize, mut ticket: Option<Ticket>) -> Result<T, Left> {
        let Some(Rung { target, cost }) = self.call.rungs.get(rung).cloned() else {
            return Err(Left::GiveUp);
        };
        while self.ladder.may_attempt() {
            if Instant::now() >= self.call.deadline {
                return Err(self.refuse(Rejection::DeadlinePassed, &target, None));
            }
            let passed = match ticket.take() {
                Some(passed) => passed,
                None => self.knock(&target, Instant::now()).await?,
            };
            let lease = self.reserve(&target, cost).await?;
            if !passed.is_current() {
                // The circuit changed during the wait; dropping both gives both back.
                continue;
            }
            let counted = self.context.in_flight.enter();
            let permit = Permit::new(target.clone(), passed, lease, counted);
            let was_probe = permit.is_probe();
            let (result, verdict) = self.attempt(rung, &target, permit).await?;
            let error = match result {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.last = error.map(|error| (error, verdict));
            if !was_probe {
                self.ladder.count_attempt();
            }
            Box::pin(self.pause(&target, &verdict, was_probe))
                .await
                .map_err(|left| left.unwrap_or(Left::GiveUp))?;
        }
        Err(Left::MovedOn("attempts_spent"))
    }

    /// Waits as long as the retry policy says, or leaves the rung.
    async fn pause(
        &mut self,
        target: &Target,
        verdict: &Verdict,
        was_probe: bool,
    ) -> Result<(), Option<Left>> {
        let now = Instant::now();
        let left = self.call.deadline.saturating_duration_since(now);
        let counted = self.call.retry.attempts() - self.ladder.attempts_left();
        let decision =
            self.call
                .retry
                .decide(verdict, counted, left, &mut *self.context.rng.lock());
        match decision {
            Decision::GiveUp => Err(None),
            Decision::MoveOn(MoveOn::AttemptsSpent) => Err(Some(Left::MovedOn("attempts_spent"))),
            Decision::MoveOn(MoveOn::NoTimeForWait) => Err(Some(Left::MovedOn("no_time_for_wait"))),
            Decision::MoveOn(MoveOn::NotHere) => Err(Some(Left::MovedOn(verdict.label))),
            // A failed probe waits at the breaker, and longer than any backoff.
            Decision::After(_) if was_probe => Ok(()),
            Decision::After(_) if !self.ladder.may_attempt() => Ok(()),
            Decision::After(delay) => {
                let until = now + delay;
                let attempts = self.report.attempts;
                self.context.events.emit(|| EventKind::Retrying {
                    call: Arc::clone(&self.call.id),
                    target: Arc::clone(target.name()),
                    attempts,
                    verdict: *verdict,
                    until,
                });
                sleep_until(until).await;
                self.report.backed_off += delay;
                Ok(())
            }
        }
    }

    async fn knock(&mut self, target: &Target, until: Instant) -> Result<Ticket, Left> {
        let knock = Knock {
            call: Arc::clone(&self.call.id),
            priority: self.call.priority,
            again: self.call.continues || self.report.attempts > 0,
            elsewhere: self.ladder.has_next(),
            until,
        };
        match target.breaker().knock(knock).await {
            Ok(Ok(ticket)) => Ok(ticket),
            Ok(Err(barred)) => Err(Left::Barred(rejected_by(target, barred))),
            Err(unanswered) => Err(self.refuse(rejection(unanswered), target, None)),
        }
    }

    async fn reserve(
        &mut self,
        target: &Target,
        cost: Cost,
    ) -> Result<Option<(Lease, Cost)>, Left> {
        let Some(limiter) = target.limiter() else {
            return Ok(None);
        };
        let asked = Instant::now();
        let useful = self.useful_time(target);
        let reservation = Reservation {
            call: Arc::clone(&self.call.id),
            cost,
            priority: self.call.priority,
            tenant: self.call.tenant.clone(),
            until: self
                .until
                .min(self.call.deadline.checked_sub(useful).unwrap_or(asked)),
            expires: self.call.held_until,
        };
        let answer = limiter.reserve(reservation).await;
        self.report.queued += asked.elapsed();
        match answer {
            Ok(Ok(lease)) => Ok(Some((lease, cost))),
            Ok(Err(exhausted)) => {
                let rejected = rejected_for(limiter.name(), exhausted);
                let why = rejected.why;
                self.report.rejected = Some(rejected);
                Err(Left::MovedOn(why.as_str()))
            }
            Err(unanswered) => Err(self.refuse(rejection(unanswered), target, None)),
        }
    }

    /// The time that an attempt needs to have a good chance: twice what is usual there.
    fn useful_time(&self, target: &Target) -> Duration {
        target
            .breaker()
            .typical()
            .saturating_mul(2)
            .max(self.call.retry.min_useful())
    }

    /// Makes one attempt. The error is absent when the attempt had none of its own to show.
    async fn attempt(
        &mut self,
        rung: usize,
        target: &Target,
        permit: Permit,
    ) -> Result<(Result<T, Option<E>>, Verdict), Left> {
        self.report.attempts += 1;
        self.report.rung = rung;
        self.report.target = Some(Arc::clone(target.name()));
        let slow_at = permit.started() + target.breaker().slow_after();
        let slot = Arc::new(Mutex::new(Some(permit)));
        let attempt = Attempt {
            target: target.clone(),
            rung,
            number: self.report.attempts,
            deadline: self.call.deadline,
            permit: Arc::clone(&slot),
        };
        let operation = AssertUnwindSafe((self.operation)(attempt)).catch_unwind();
        tokio::pin!(operation);
        let alarm = sleep_until(slow_at.min(self.call.deadline));
        tokio::pin!(alarm);
        let ended = loop {
            tokio::select! {
                biased;
                ended = &mut operation => break Some(ended),
                () = &mut alarm => {}
            }
            if Instant::now() >= self.call.deadline {
                break None;
            }
            if let Some(permit) = slot.lock().as_mut() {
                permit.mark_overdue();
            }
            alarm.as_mut().reset(self.call.deadline);
        };
        let permit = slot.lock().take();
        match ended {
            Some(Ok(Outcome::Committed(answer))) => Ok((Ok(answer), Verdict::OK)),
            Some(Ok(Outcome::Ended {
                result,
                verdict,
                cost,
                learned,
            })) => {
                if let Some(permit) = permit {
                    if let Some(learned) = learned {
                        permit.learn(learned);
                    }
                    permit.finish(&verdict, cost);
                }
                Ok((result.map_err(Some), verdict))
            }
            Some(Err(panic)) => Err(Left::Panicked(panic_message(&*panic))),
            None => {
                if let Some(permit) = permit {
                    permit.finish(&TIMED_OUT, None);
                }
                Err(self.refuse(Rejection::DeadlinePassed, target, None))
            }
        }
    }

    /// Waits for whichever of these rungs lets the call pass first.
    async fn first_to_open(&mut self, barred: &[usize]) -> Option<(usize, Ticket)> {
        if self.ladder.attempts_left() == 0 {
            return None;
        }
        let mut until = self.until;
        let began = Instant::now();
        let mut asks = Vec::new();
        for &rung in barred {
            let Some(Rung { target, .. }) = self.call.rungs.get(rung).cloned() else {
                continue;
            };
            let useful = self.useful_time(&target);
            until = until.min(self.call.deadline.checked_sub(useful).unwrap_or(began));
            let knock = Knock {
                call: Arc::clone(&self.call.id),
                priority: self.call.priority,
                again: self.call.continues || self.report.attempts > 0,
                elsewhere: false,
                until,
            };
            asks.push(async move { (rung, target.breaker().knock(knock).await) }.boxed());
        }
        let mut passed = None;
        while !asks.is_empty() && until > began {
            let ((rung, answer), _, others) = select_all(asks).await;
            if let Ok(Ok(ticket)) = answer {
                passed = Some((rung, ticket));
                break;
            }
            if let (Ok(Err(barred)), Some(rung)) = (answer, self.call.rungs.get(rung)) {
                self.report.rejected = Some(rejected_by(&rung.target, barred));
            }
            asks = others;
        }
        self.report.queued += began.elapsed();
        passed
    }

    fn refuse(&mut self, why: Rejection, target: &Target, retry_after: Option<Duration>) -> Left {
        let by = Some(Arc::clone(target.name()));
        self.report.rejected = Some(Rejected {
            why,
            by,
            retry_after,
        });
        match why {
            Rejection::DeadlinePassed | Rejection::Stopped | Rejection::Draining => Left::GiveUp,
            _ => Left::MovedOn(why.as_str()),
        }
    }

    /// The provider's own last word, or the refusal that kept the call from having one.
    fn last_error(&mut self) -> CallError<E> {
        match self.last.take() {
            Some((error, verdict)) => CallError::Failed { error, verdict },
            None => CallError::Refused(
                self.report
                    .rejected
                    .clone()
                    .unwrap_or(Rejected::new(Rejection::DeadlinePassed)),
            ),
        }
    }

    fn announce_fall(&self, why: &'static str) {
        let Some(rung) = self.ladder.rung() else {
            return;
        };
        let Some(Rung { target, .. }) = self.call.rungs.get(rung) else {
            return;
        };
        self.context.events.emit(|| EventKind::FellToRung {
            call: Arc::clone(&self.call.id),
            rung,
            target: Arc::clone(target.name()),
            why,
        });
    }
}

/// What a quota's refusal is to the one who asked.
pub(crate) fn rejected_for(quota: &Arc<str>, exhausted: Exhausted) -> Rejected {
    let why = if exhausted.full {
        Rejection::QueueFull
    } else {
        Rejection::QuotaExhausted
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
