//! One call on its way down its ladder, and up again when a rung lets calls pass.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{ready, select_all};
use tokio::time::{Instant, sleep_until};

use super::{
    Call, CallContext, CallReport, Finished, Occasion, Operation, Place, Rung, rejected_by,
    rejected_for, rejection,
};
use crate::breaker::{Bar, Knock, Ticket};
use crate::error::{CallError, Rejected, Rejection};
use crate::event::EventKind;
use crate::limiter::{Lease, Reservation};
use crate::permit::Permit;
use crate::policy::InvalidPolicy;
use crate::policy::ladder::{Cause, Kind, Ladder, QUIET_SHARE};
use crate::policy::quota::Cost;
use crate::policy::retry::{Decision, MoveOn};
use crate::system::Target;
use crate::verdict::{Blame, Verdict};

mod aside;

/// Runs a call to its end. Its patience begins with its first poll: to wait for a caller is none of it.
// No async fn: that would keep its arguments beside the walk that is made of them, and every byte of a
// call's future is touched once a call.
pub(crate) fn run<O: Operation>(
    context: Arc<CallContext>,
    call: Call,
    operation: O,
) -> impl Future<Output = Finished<O::Answer, O::Error>> + Send {
    let walked = |mut walk: Walk<O::Error>| async move {
        walk.begin(Instant::now());
        let result = walk.walk(&operation).await;
        Finished {
            result,
            report: walk.report,
        }
    };
    match Walk::new(context, call) {
        Ok(walk) => walked(walk).left_future(),
        Err(invalid) => ready(Finished {
            result: Err(CallError::Invalid(invalid)),
            report: CallReport::default(),
        })
        .right_future(),
    }
}

/// One call on its way.
pub(super) struct Walk<E> {
    pub(super) context: Arc<CallContext>,
    pub(super) call: Call,
    pub(super) ladder: Ladder,
    began: Instant,
    /// Waits end here.
    until: Instant,
    pub(super) report: CallReport,
    pub(super) last: Option<(E, Verdict)>,
}

/// How a call left a rung without an answer.
pub(super) enum Left {
    /// Nobody would answer it differently, or nobody is there any more.
    GiveUp,
    /// The call's time is over.
    Late,
    /// It may not pass at present; the breaker can be waited for.
    Barred(Rejected, Cause),
    /// It can't be served here; with the word for events.
    Fell(Cause, &'static str),
    Panicked(String),
}

/// A rung's turn.
pub(super) struct Turn {
    pub(super) rung: usize,
    pub(super) target: Target,
    pub(super) cost: Cost,
    /// Its part of the call's time ends here.
    pub(super) until: Instant,
    /// Without content it ends here, so that there is time for the rungs below.
    pub(super) quiet_until: Instant,
}

impl<E: Send> Walk<E> {
    fn new(context: Arc<CallContext>, call: Call) -> Result<Self, InvalidPolicy> {
        let rules = call.rungs.iter().map(Rung::rules).collect();
        let ladder = Ladder::new(rules, call.retry.attempts())?;
        Ok(Self {
            context,
            began: Instant::now(),
            until: call.deadline,
            call,
            ladder,
            report: CallReport::default(),
            last: None,
        })
    }

    fn begin(&mut self, now: Instant) {
        self.began = now;
        let until = now.checked_add(self.call.patience);
        self.until = until.map_or(self.call.deadline, |until| until.min(self.call.deadline));
    }

    async fn walk<O>(&mut self, operation: &O) -> Result<O::Answer, CallError<E>>
    where
        O: Operation<Error = E>,
    {
        let (mut ticket, mut again, mut cause) = (None, None, None);
        // Whether a rung was left for what may be gone after a while, once one was left.
        let mut passing = None;
        let mut barred = Vec::new();
        loop {
            while let Some(rung) = self.ladder.rung() {
                if self.is_stand_in(rung) {
                    if let Some(answer) = operation.stand_in(rung, self.occasion(cause)).await {
                        return Ok(self.stood_in(rung, answer));
                    }
                    let next = self.ladder.pass_by(cause);
                    self.announce(rung, next, cause.map_or("nothing_there", Cause::as_str));
                    continue;
                }
                let left = match self
                    .on_rung(operation, (rung, ticket.take()), again.take())
                    .await
                {
                    Ok(answer) => return Ok(answer),
                    Err(left) => left,
                };
                let (why, word) = match left {
                    Left::GiveUp => return Err(self.last_error()),
                    Left::Panicked(message) => return Err(CallError::Panicked(message)),
                    Left::Late => return self.last_resort(operation).await,
                    Left::Barred(rejected, cause) => {
                        if !barred.contains(&rung) {
                            barred.push(rung);
                        }
                        let word = rejected.why.as_str();
                        self.report.rejected = Some(rejected);
                        (cause, word)
                    }
                    Left::Fell(cause, word) => (cause, word),
                };
                passing = Some(passing == Some(true) || is_passing(why));
                self.fall(rung, why, word);
                cause = Some(why);
            }
            if cause == Some(Cause::Refused) {
                // It is an answer: those above that let nobody pass are not waited for to hear another.
                return Err(self.last_error());
            }
            if self.ladder.comes_back(self.report.attempts) {
                again = self.last.as_ref().map(|(_, verdict)| *verdict);
                continue;
            }
            barred.retain(|rung| self.ladder.is_open(*rung));
            match Box::pin(self.first_to_open(&barred)).await {
                Some((rung, passed)) => {
                    self.ladder.stand_on(rung);
                    ticket = Some(passed);
                    barred.clear();
                }
                None if passing == Some(false) => return Err(self.last_error()),
                None => return self.last_resort(operation).await,
            }
        }
    }

    /// Makes attempts on one rung until it answers or the call leaves it. `again`: what the rung said when
    /// the call left it.
    async fn on_rung<O>(
        &mut self,
        operation: &O,
        (rung, mut ticket): (usize, Option<Ticket>),
        again: Option<Verdict>,
    ) -> Result<O::Answer, Left>
    where
        O: Operation<Error = E>,
    {
        let turn = self.turn(operation, rung).await?;
        if let Some(said) = again {
            Box::pin(self.pause(&turn, &said, false)).await?;
        }
        while self.ladder.may_attempt() {
            if Instant::now() >= turn.quiet_until {
                return Err(self.out_of_time(&turn.target));
            }
            let passed = match ticket.take() {
                Some(passed) => passed,
                None => self.pass(operation, &turn).await?,
            };
            let lease = self.reserve(&turn).await?;
            if !passed.is_current() {
                // The circuit changed during the wait; dropping both gives both back.
                continue;
            }
            if self.report.attempts == 0
                && let Some(hedge) = &self.call.hedge
            {
                hedge.budget.lock().on_call(turn.cost);
            }
            let counted = self.context.in_flight.enter();
            let permit = Permit::new(turn.target.clone(), passed, lease, counted);
            let was_probe = permit.is_probe();
            let (result, verdict) = self.race(operation, &turn, permit).await?;
            let error = match result {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.last = Some((error, verdict));
            if !was_probe {
                self.ladder.count_attempt(rung);
            }
            Box::pin(self.pause(&turn, &verdict, was_probe)).await?;
        }
        Err(Left::Fell(Cause::AttemptsSpent, "attempts_spent"))
    }

    /// What the call has of a rung.
    async fn turn<O>(&mut self, operation: &O, rung: usize) -> Result<Turn, Left>
    where
        O: Operation<Error = E>,
    {
        let Some(at) = self.call.rungs.get_mut(rung) else {
            return Err(Left::GiveUp);
        };
        let placed = match &at.place {
            Place::Target(target, cost) => Ok((target.clone(), *cost)),
            Place::Later(_) => operation.place(rung).await,
            Place::StandIn(_) => Err(Cause::NotFound),
        };
        let (target, cost) = placed.map_err(|cause| Left::Fell(cause, "not_placed"))?;
        let now = Instant::now();
        let left = self.call.deadline.saturating_duration_since(now);
        let (until, quiet_until) = match at.rules.share {
            Some(share) => {
                let whole = self.call.deadline.saturating_duration_since(self.began);
                let until = self.call.deadline.min(now + whole.mul_f64(share));
                (until, until)
            }
            None if self.ladder.next_after_silence().is_some() => {
                (self.call.deadline, now + left.mul_f64(QUIET_SHARE))
            }
            None => (self.call.deadline, self.call.deadline),
        };
        at.place = Place::Target(target.clone(), cost);
        Ok(Turn {
            rung,
            target,
            cost,
            until,
            quiet_until,
        })
    }

    /// Waits as long as the retry policy says, or leaves the rung.
    async fn pause(&mut self, turn: &Turn, verdict: &Verdict, was_probe: bool) -> Result<(), Left> {
        if verdict.overloaded && self.ladder.seeks_relief(self.report.attempts) {
            return Err(Left::Fell(Cause::Overloaded, verdict.label));
        }
        let now = Instant::now();
        let mut left = turn.quiet_until.saturating_duration_since(now);
        if verdict.not_before.is_some() {
            // To come again when the server says is to wait for its quota, or for it to recover.
            let patience = self.until.saturating_duration_since(now);
            left = left.min(patience.saturating_add(self.call.retry.min_useful()));
        }
        let counted = self.ladder.attempts_made();
        let decision =
            self.call
                .retry
                .decide(verdict, counted, left, &mut *self.context.rng.lock());
        match decision {
            // A refusal stands where it was made, but another may be asked if the ladder says so.
            Decision::GiveUp if verdict.cause() == Cause::Refused => {
                Err(Left::Fell(Cause::Refused, verdict.label))
            }
            Decision::GiveUp => Err(Left::GiveUp),
            Decision::MoveOn(MoveOn::NotHere) => Err(Left::Fell(verdict.cause(), verdict.label)),
            Decision::MoveOn(why) => Err(Left::Fell(verdict.cause(), why.as_str())),
            // A failed probe waits at the breaker, and longer than any backoff.
            Decision::After(_) if was_probe => Ok(()),
            Decision::After(_) if !self.ladder.may_attempt() => {
                Err(Left::Fell(verdict.cause(), "attempts_spent"))
            }
            Decision::After(delay) => {
                let until = now + delay;
                let attempts = self.report.attempts;
                self.context.events.emit(|| EventKind::Retrying {
                    call: Arc::clone(&self.call.id),
                    target: Arc::clone(turn.target.name()),
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

    /// Asks the breaker. A probe is left to a small request where another rung can answer the call.
    async fn pass<O>(&mut self, operation: &O, turn: &Turn) -> Result<Ticket, Left>
    where
        O: Operation<Error = E>,
    {
        let elsewhere = self.ladder.leads_to(Cause::BreakerOpen).is_some();
        let knock = Knock {
            call: Arc::clone(&self.call.id),
            priority: self.call.priority,
            again: self.call.continues || self.report.attempts > 0,
            refused: false,
            elsewhere,
            until: Instant::now(),
        };
        match turn.target.breaker().knock(knock).await {
            Ok(Ok(ticket)) if ticket.is_probe() && elsewhere && operation.probes(turn.rung) => {
                self.probe_aside(operation, turn, ticket);
                let why = Rejection::BreakerOpen;
                let by = Some(Arc::clone(turn.target.name()));
                let rejected = Rejected {
                    why,
                    by,
                    retry_after: None,
                };
                Err(Left::Barred(rejected, Cause::BreakerOpen))
            }
            Ok(Ok(ticket)) => Ok(ticket),
            Ok(Err(barred)) => {
                let cause = match barred.why {
                    Bar::Open | Bar::Full => Cause::BreakerOpen,
                    Bar::Budget => Cause::AttemptsSpent,
                };
                Err(Left::Barred(rejected_by(&turn.target, barred), cause))
            }
            Err(unanswered) => {
                let why = rejection(unanswered);
                Err(self.refuse(why, &turn.target, Cause::BreakerOpen))
            }
        }
    }

    async fn reserve(&mut self, turn: &Turn) -> Result<Option<(Lease, Cost)>, Left> {
        let Some(limiter) = turn.target.limiter() else {
            return Ok(None);
        };
        let asked = Instant::now();
        let useful = self.useful_time(&turn.target);
        let reservation = Reservation {
            call: Arc::clone(&self.call.id),
            cost: turn.cost,
            priority: self.call.priority,
            tenant: self.call.tenant.clone(),
            until: self
                .until
                .min(turn.quiet_until.checked_sub(useful).unwrap_or(asked)),
            expires: self.call.held_until,
        };
        let answer = limiter.reserve(reservation).await;
        self.report.queued += asked.elapsed();
        match answer {
            Ok(Ok(lease)) => Ok(Some((lease, turn.cost))),
            Ok(Err(exhausted)) => {
                let rejected = rejected_for(limiter.name(), exhausted);
                let why = rejected.why;
                self.report.rejected = Some(rejected);
                let cause = match why {
                    Rejection::SpendCap => Cause::Credential,
                    _ => Cause::Quota,
                };
                Err(Left::Fell(cause, why.as_str()))
            }
            Err(unanswered) => {
                let why = rejection(unanswered);
                Err(self.refuse(why, &turn.target, Cause::Quota))
            }
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

    /// Waits for whichever of these rungs lets the call pass first.
    async fn first_to_open(&mut self, barred: &[usize]) -> Option<(usize, Ticket)> {
        if self.ladder.attempts_left() == 0 {
            return None;
        }
        let began = Instant::now();
        let mut asks = Vec::new();
        for &rung in barred {
            let Some(Place::Target(target, _)) = self.call.rungs.get(rung).map(|at| &at.place)
            else {
                continue;
            };
            let target = target.clone();
            let useful = self.useful_time(&target);
            let until = self.call.deadline.checked_sub(useful).unwrap_or(began);
            let until = until.min(self.until);
            if until <= began {
                continue;
            }
            let knock = Knock {
                call: Arc::clone(&self.call.id),
                priority: self.call.priority,
                again: self.call.continues || self.report.attempts > 0,
                refused: self
                    .last
                    .as_ref()
                    .is_some_and(|(_, verdict)| verdict.blame == Blame::Quota),
                elsewhere: false,
                until,
            };
            let ask = async move {
                let answer = target.breaker().knock(knock).await;
                (rung, target, answer)
            };
            asks.push(ask.boxed());
        }
        let mut passed = None;
        while !asks.is_empty() {
            let ((rung, target, answer), _, others) = select_all(asks).await;
            match answer {
                Ok(Ok(ticket)) => {
                    passed = Some((rung, ticket));
                    break;
                }
                Ok(Err(barred)) => self.report.rejected = Some(rejected_by(&target, barred)),
                Err(_) => {}
            }
            asks = others;
        }
        self.report.queued += began.elapsed();
        passed
    }

    /// Asks those who answer when nobody else does.
    async fn last_resort<O>(&mut self, operation: &O) -> Result<O::Answer, CallError<E>>
    where
        O: Operation<Error = E>,
    {
        let rungs: Vec<usize> = self.ladder.last_resorts().collect();
        for rung in rungs {
            let cause = Some(Cause::LastResort);
            if let Some(answer) = operation.stand_in(rung, self.occasion(cause)).await {
                self.report.cause = cause;
                self.announce(rung, Some(rung), Cause::LastResort.as_str());
                return Ok(self.stood_in(rung, answer));
            }
        }
        Err(self.last_error())
    }

    fn occasion(&self, cause: Option<Cause>) -> Occasion {
        let said = self
            .last
            .as_ref()
            .and_then(|(_, verdict)| verdict.not_before);
        let rejected = self.report.rejected.as_ref();
        Occasion {
            cause,
            retry_after: said.or_else(|| rejected?.retry_after),
        }
    }

    fn is_stand_in(&self, rung: usize) -> bool {
        let rules = self.ladder.rules(rung);
        rules.is_some_and(|rules| rules.kind == Kind::StandIn)
    }

    fn stood_in<T>(&mut self, rung: usize, answer: T) -> T {
        self.report.rung = rung;
        self.report.stood_in = true;
        answer
    }

    /// Says that a target has used up its time with nothing to show for it, or not enough.
    pub(super) fn silent(&mut self, target: &Target, has_content: bool) -> Left {
        let late = Instant::now() >= self.call.deadline;
        if !late && !has_content && self.ladder.leads_to(Cause::Overloaded).is_some() {
            return Left::Fell(Cause::Overloaded, "share_spent");
        }
        self.out_of_time(target)
    }

    /// Says that the call's time on a target is over: all of it, or the rung's part.
    pub(super) fn out_of_time(&mut self, target: &Target) -> Left {
        if Instant::now() < self.call.deadline {
            return Left::Fell(Cause::AttemptsSpent, "share_spent");
        }
        self.refuse(Rejection::DeadlinePassed, target, Cause::LastResort)
    }

    fn refuse(&mut self, why: Rejection, target: &Target, cause: Cause) -> Left {
        self.report.rejected = Some(Rejected {
            why,
            by: Some(Arc::clone(target.name())),
            retry_after: None,
        });
        match why {
            // Else only the time to wait for this target is over, not the call's.
            Rejection::DeadlinePassed if Instant::now() >= self.call.deadline => Left::Late,
            Rejection::Stopped | Rejection::Draining => Left::GiveUp,
            _ => Left::Fell(cause, why.as_str()),
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
}

/// Whether a cause may be gone after a while.
const fn is_passing(cause: Cause) -> bool {
    matches!(
        cause,
        Cause::BreakerOpen | Cause::Quota | Cause::AttemptsSpent | Cause::Overloaded
    )
}
