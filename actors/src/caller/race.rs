//! The attempts of one moment: one, or a second beside it when it is slow.
//!
//! The first to bring an answer wins. The loser is dropped before the answer is handed on, so that
//! no second attempt runs on unseen: one that does adds its load to a target that is slow already.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, pending};
use tokio::time::{Instant, sleep_until};

use super::attempt::{Attempt, Hold, Outcome};
use super::walk::{Left, Turn, Walk};
use super::{CallContext, HedgeOn, Operation, Place, panic_message};
use crate::admission::{Terms, admit};
use crate::event::EventKind;
use crate::permit::Permit;
use crate::policy::ladder::Cause;
use crate::policy::quota::Cost;
use crate::system::Target;
use crate::verdict::{Again, Blame, Verdict};

/// An attempt that ran past its deadline.
const TIMED_OUT: Verdict = Verdict::new("timeout_total", Blame::Target, Again::Never);

/// How an attempt ended. The error is absent when it had none of its own to show.
pub(super) type Ended<T, E> = (Result<T, Option<E>>, Verdict);

/// An attempt's end, or the panic of its operation.
type Caught<T, E> = Result<Outcome<T, E>, Box<dyn Any + Send>>;

/// One attempt in flight, as its call keeps it.
struct Arm {
    rung: usize,
    target: Target,
    hold: Hold,
}

impl Arm {
    /// Settles the end of the attempt.
    fn ended<T, E>(&self, caught: Caught<T, E>) -> Result<Ended<T, E>, Left> {
        let outcome = caught.map_err(|panic| Left::Panicked(panic_message(&*panic)))?;
        let (result, verdict, cost, learned) = match outcome {
            Outcome::Committed(answer) => return Ok((Ok(answer), Verdict::OK)),
            Outcome::Ended {
                result,
                verdict,
                cost,
                learned,
            } => (result, verdict, cost, learned),
        };
        if let Some(permit) = self.hold.take() {
            if let Some(learned) = learned {
                permit.learn(learned);
            }
            permit.finish(&verdict, cost);
        }
        Ok((result.map_err(Some), verdict))
    }

    fn timed_out(&self) {
        if let Some(permit) = self.hold.late() {
            permit.finish(&TIMED_OUT, None);
        }
    }
}

/// The second attempt, as far as it has come.
enum Second<'o, T, E> {
    /// It is not wished for, or was refused, or is over.
    Without,
    /// It starts then, if the first has brought no content.
    Due(Instant),
    Asking(BoxFuture<'o, Option<Admitted>>),
    Running(Arm, BoxFuture<'o, Caught<T, E>>),
}

/// A second attempt that may be made: on which rung, and what it is expected to cost.
struct Admitted {
    rung: usize,
    permit: Permit,
    cost: Cost,
}

/// What happens to a second attempt next.
enum News<T, E> {
    Admitted(Option<Admitted>),
    Ended(Caught<T, E>),
}

impl<T, E> Second<'_, T, E> {
    async fn next(&mut self) -> News<T, E> {
        match self {
            Self::Without | Self::Due(_) => pending().await,
            Self::Asking(asking) => News::Admitted(asking.await),
            Self::Running(_, attempt) => News::Ended(attempt.await),
        }
    }

    const fn due(&self) -> Option<Instant> {
        match self {
            Self::Due(at) => Some(*at),
            _ => None,
        }
    }

    /// Whether it is on its way. One that only asks for the right to be made is not: what the first
    /// said, such as when to come again, holds for it too.
    const fn is_running(&self) -> bool {
        matches!(self, Self::Running(..))
    }

    /// Ends it, as one that another has outrun.
    fn lose(self) {
        if let Self::Running(arm, attempt) = self {
            arm.hold.outrun();
            drop(attempt);
        }
    }

    fn has_content(&self) -> bool {
        matches!(self, Self::Running(arm, _) if arm.hold.has_content())
    }

    fn timed_out(&self) {
        if let Self::Running(arm, _) = self {
            arm.timed_out();
        }
    }
}

impl<E: Send> Walk<E> {
    /// Makes one attempt, and a second where it is slow and that is wished for.
    pub(super) async fn race<O>(
        &mut self,
        operation: &O,
        turn: &Turn,
        permit: Permit,
    ) -> Result<Ended<O::Answer, E>, Left>
    where
        O: Operation<Error = E>,
    {
        let (target, mut until) = (&turn.target, turn.quiet_until);
        let mut slow_at = Some(permit.started() + target.breaker().slow_after());
        let hedge = self.call.hedge.as_ref();
        let after =
            hedge.and_then(|hedge| hedge.after.or_else(|| operation.usually_within(turn.rung)));
        let mut second = after.map_or(Second::Without, |after| {
            Second::Due(permit.started() + after)
        });
        let (arm, attempt) = self.arm((turn.rung, target), permit, turn);
        let first = AssertUnwindSafe(operation.attempt(attempt)).catch_unwind();
        tokio::pin!(first);
        let mut failed = None;
        let alarm = sleep_until(until);
        tokio::pin!(alarm);
        loop {
            let due = [slow_at, second.due()].into_iter().flatten();
            alarm.as_mut().reset(due.fold(until, Instant::min));
            tokio::select! {
                biased;
                caught = &mut first, if failed.is_none() => match arm.ended(caught)? {
                    (Ok(answer), verdict) => {
                        second.lose();
                        self.attribute_to(&arm);
                        return Ok((Ok(answer), verdict));
                    }
                    ended if second.is_running() => failed = Some(ended),
                    ended => return Ok(ended),
                },
                news = second.next() => match self.second(operation, &mut second, (news, &arm), turn)? {
                    Some(answer) => {
                        arm.hold.outrun();
                        return Ok((Ok(answer), Verdict::OK));
                    }
                    None => if !second.is_running() && let Some(ended) = failed.take() {
                        return Ok(ended);
                    },
                },
                () = &mut alarm => {
                    let now = Instant::now();
                    let has_content = arm.hold.has_content() || second.has_content();
                    if now >= until && until < turn.until && has_content {
                        until = turn.until;
                        continue;
                    }
                    if now >= until {
                        arm.timed_out();
                        second.timed_out();
                        if let Some((Err(Some(error)), verdict)) = failed {
                            self.last = Some((error, verdict));
                        }
                        return Err(self.out_of_time(target));
                    }
                    if slow_at.take_if(|at| *at <= now).is_some() {
                        arm.hold.on_permit(Permit::mark_overdue);
                    }
                    if second.due().is_some_and(|at| at <= now) {
                        second = self.hedge(operation, turn, &arm);
                    }
                }
            }
        }
    }

    /// Goes on with the second attempt; gives its answer if it has won.
    fn second<'o, O>(
        &mut self,
        operation: &'o O,
        second: &mut Second<'o, O::Answer, E>,
        (news, first): (News<O::Answer, E>, &Arm),
        turn: &Turn,
    ) -> Result<Option<O::Answer>, Left>
    where
        O: Operation<Error = E>,
    {
        let before = std::mem::replace(second, Second::Without);
        match (news, before) {
            (News::Admitted(Some(Admitted { rung, permit, cost })), _) => {
                let hedge = self.call.hedge.as_ref();
                let hedge = hedge.filter(|_| !first.hold.has_content());
                if hedge.is_some_and(|hedge| hedge.budget.lock().try_spend(cost)) {
                    let target = permit.target().clone();
                    self.announce_hedge(rung, &target);
                    let (arm, attempt) = self.arm((rung, &target), permit, turn);
                    let running = AssertUnwindSafe(operation.attempt(attempt))
                        .catch_unwind()
                        .boxed();
                    *second = Second::Running(arm, running);
                }
            }
            (News::Ended(caught), Second::Running(arm, _)) => match arm.ended(caught)? {
                (Ok(answer), _) => {
                    self.attribute_to(&arm);
                    return Ok(Some(answer));
                }
                (Err(error), verdict) => {
                    self.ladder.count_attempt();
                    self.last = error
                        .map(|error| (error, verdict))
                        .or_else(|| self.last.take());
                }
            },
            _ => {}
        }
        Ok(None)
    }

    /// Asks for the right to make a second attempt. It waits for nothing: one that had to would come
    /// too late.
    fn hedge<'o, O>(&self, operation: &'o O, turn: &Turn, first: &Arm) -> Second<'o, O::Answer, E>
    where
        O: Operation<Error = E>,
    {
        let Some(hedge) = self
            .call
            .hedge
            .as_ref()
            .filter(|_| !first.hold.has_content())
        else {
            return Second::Without;
        };
        let (rung, place) = match hedge.on {
            HedgeOn::Same => {
                let place = Place::Target(turn.target.clone(), turn.cost);
                (turn.rung, place)
            }
            HedgeOn::Next => {
                let next = self.ladder.next_target(Cause::AttemptsSpent);
                let place = next.and_then(|rung| self.call.rungs.get(rung));
                match (next, place) {
                    (Some(rung), Some(next)) => (rung, next.place.clone()),
                    _ => return Second::Without,
                }
            }
        };
        let budget = Arc::clone(&hedge.budget);
        let (context, terms) = (Arc::clone(&self.context), self.at_once());
        Second::Asking(
            async move {
                let (target, cost) = match place {
                    Place::Target(target, cost) => (target, cost),
                    Place::Later(_) => operation.place(rung).await.ok()?,
                    Place::StandIn(_) => return None,
                };
                if !budget.lock().affords(cost) {
                    return None;
                }
                let terms = Terms { cost, ..terms };
                let permit = admit_healthy(&context, &target, terms).await?;
                Some(Admitted { rung, permit, cost })
            }
            .boxed(),
        )
    }

    /// Terms of an attempt that waits for nothing.
    pub(super) fn at_once(&self) -> Terms {
        Terms {
            call: Arc::clone(&self.call.id),
            cost: Cost::ZERO,
            priority: self.call.priority,
            tenant: self.call.tenant.clone(),
            again: false,
            until: Instant::now(),
            held_until: self.call.held_until,
        }
    }

    /// Counts an attempt that is about to be made.
    fn arm(
        &mut self,
        (rung, target): (usize, &Target),
        permit: Permit,
        turn: &Turn,
    ) -> (Arm, Attempt) {
        self.report.attempts += 1;
        self.report.rung = rung;
        self.report.target = Some(Arc::clone(target.name()));
        let hold = Hold::new(permit);
        let to = (target.clone(), rung);
        let attempt = Attempt::new(
            to,
            self.report.attempts,
            (turn.quiet_until, turn.until),
            hold.clone(),
        );
        let target = target.clone();
        let arm = Arm { rung, target, hold };
        (arm, attempt)
    }

    fn attribute_to(&mut self, arm: &Arm) {
        self.report.rung = arm.rung;
        self.report.target = Some(Arc::clone(arm.target.name()));
    }

    fn announce_hedge(&mut self, rung: usize, target: &Target) {
        self.report.hedged = true;
        self.context.events.emit(|| EventKind::Hedged {
            call: Arc::clone(&self.call.id),
            rung,
            target: Arc::clone(target.name()),
        });
    }
}

/// A permit that is no probe: a target that may be down is no help.
async fn admit_healthy(context: &CallContext, target: &Target, terms: Terms) -> Option<Permit> {
    let permit = admit(context, target, terms).await.ok()?;
    (!permit.is_probe()).then_some(permit)
}
