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
use crate::policy::quota::Cost;
use crate::system::Target;
use crate::verdict::{Again, Blame, Verdict};

/// An attempt that ran past its deadline.
const TIMED_OUT: Verdict = Verdict::new("timeout_total", Blame::Target, Again::Never);

/// How an attempt ended.
pub(super) type Ended<T, E> = (Result<T, E>, Verdict);

/// An attempt's end, or the panic of its operation.
type Caught<T, E> = Result<Outcome<T, E>, Box<dyn Any + Send>>;

/// One attempt in flight, as its call keeps it.
struct Arm {
    rung: usize,
    target: Target,
    hold: Hold,
    is_probe: bool,
    /// Until then it is not slow; taken when that has been said.
    slow_at: Option<Instant>,
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
        Ok((result, verdict))
    }

    /// Has the breaker count it now if it is slow.
    fn mark_slow(&mut self, now: Instant) {
        if self.slow_at.take_if(|at| *at <= now).is_some() {
            self.hold.on_permit(Permit::mark_overdue);
        }
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

    fn is_due(&self, now: Instant) -> bool {
        matches!(self, Self::Due(at) if *at <= now)
    }

    /// When there is something to do for it.
    const fn next_at(&self) -> Option<Instant> {
        match self {
            Self::Due(at) => Some(*at),
            Self::Running(arm, _) => arm.slow_at,
            Self::Without | Self::Asking(_) => None,
        }
    }

    /// The attempt, if it is on its way. One that only asks for the right to be made is not: what the
    /// first said, such as when to come again, holds for it too.
    const fn running(&mut self) -> Option<&mut Arm> {
        match self {
            Self::Running(arm, _) => Some(arm),
            _ => None,
        }
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
}

/// What two attempts say that have both failed: the first's word, unless that one may be made again and
/// the second's on the same rung says that nothing else will come of it.
fn told<T, E>(first: Ended<T, E>, last_word: Option<Ended<T, E>>) -> Ended<T, E> {
    match last_word {
        Some(last_word) if first.0.is_err() && first.1.again == Again::Here => last_word,
        _ => first,
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
        let hedge = self.call.hedge.as_ref();
        let after =
            hedge.and_then(|hedge| hedge.after.or_else(|| operation.usually_within(turn.rung)));
        let due = after.and_then(|after| permit.started().checked_add(after));
        let mut second = due.map_or(Second::Without, Second::Due);
        let (mut arm, attempt) = self.arm((turn.rung, target), permit, turn);
        let first = AssertUnwindSafe(operation.attempt(attempt)).catch_unwind();
        tokio::pin!(first);
        // What the first said, and what the second said for good of the same rung.
        let (mut failed, mut last_word) = (None, None);
        let alarm = sleep_until(until);
        tokio::pin!(alarm);
        loop {
            let due = [arm.slow_at, second.next_at()].into_iter().flatten();
            alarm.as_mut().reset(due.fold(until, Instant::min));
            tokio::select! {
                biased;
                caught = &mut first, if failed.is_none() => {
                    let ended = arm.ended(caught)?;
                    if ended.0.is_err() && second.running().is_some() {
                        failed = Some(ended);
                        continue;
                    }
                    second.lose();
                    self.attribute_to(&arm);
                    return Ok(told(ended, last_word));
                }
                news = second.next() => {
                    match self.second(operation, &mut second, (news, &arm), turn)? {
                        Some((Ok(answer), verdict)) => {
                            arm.hold.outrun();
                            return Ok((Ok(answer), verdict));
                        }
                        said => last_word = said,
                    }
                    if second.running().is_none() && let Some(ended) = failed.take() {
                        self.attribute_to(&arm);
                        return Ok(told(ended, last_word));
                    }
                }
                () = &mut alarm => {
                    let now = Instant::now();
                    // One that has failed has given its permit back, and waits for nothing.
                    let first_has = failed.is_none() && arm.hold.has_content();
                    let has_content = first_has || second.has_content();
                    if now >= until && until < turn.until && has_content {
                        until = turn.until;
                        continue;
                    }
                    if now >= until {
                        let said = match failed {
                            Some(ended) => Some(told(ended, last_word)),
                            None => last_word,
                        };
                        return self.cut((&arm, &mut second), said, has_content);
                    }
                    arm.mark_slow(now);
                    if let Some(arm) = second.running() {
                        arm.mark_slow(now);
                    }
                    if second.is_due(now) {
                        second = self.hedge(operation, turn, &arm);
                    }
                }
            }
        }
    }

    /// Ends the attempts of one moment, since their time is over. What was `said` by one of them is more
    /// than the other's silence, while there is time to act on it.
    fn cut<T>(
        &mut self,
        (first, second): (&Arm, &mut Second<'_, T, E>),
        said: Option<Ended<T, E>>,
        has_content: bool,
    ) -> Result<Ended<T, E>, Left> {
        first.timed_out();
        if let Some(second) = second.running() {
            second.timed_out();
            self.ladder.count_attempt(second.rung);
        }
        self.attribute_to(first);
        match said {
            Some(said) if Instant::now() < self.call.deadline => return Ok(said),
            Some((Err(error), verdict)) => self.last = Some((error, verdict)),
            _ => {}
        }
        if !first.is_probe {
            self.ladder.count_attempt(first.rung);
        }
        Err(self.silent(&first.target, has_content))
    }

    /// Goes on with the second attempt. Gives its answer if it has won, or its last word on the first's
    /// own rung.
    fn second<'o, O>(
        &mut self,
        operation: &'o O,
        second: &mut Second<'o, O::Answer, E>,
        (news, first): (News<O::Answer, E>, &Arm),
        turn: &Turn,
    ) -> Result<Option<Ended<O::Answer, E>>, Left>
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
                (Ok(answer), verdict) => {
                    self.attribute_to(&arm);
                    return Ok(Some((Ok(answer), verdict)));
                }
                (Err(error), verdict) => {
                    self.ladder.count_attempt(arm.rung);
                    if verdict.again == Again::Here {
                        self.last = Some((error, verdict));
                    } else if arm.rung == turn.rung {
                        return Ok(Some((Err(error), verdict)));
                    } else {
                        self.ladder.close(arm.rung, verdict.cause());
                        self.last = Some((error, verdict));
                    }
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
                let next = self.ladder.next_after_silence();
                let place = next.and_then(|rung| self.call.rungs.get(rung));
                match (next, place) {
                    (Some(rung), Some(next)) => (rung, next.place.clone()),
                    _ => return Second::Without,
                }
            }
        };
        if !self.ladder.may_attempt_beside(rung) {
            return Second::Without;
        }
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

    /// Takes an attempt down that is about to be made.
    fn arm(
        &mut self,
        (rung, target): (usize, &Target),
        permit: Permit,
        turn: &Turn,
    ) -> (Arm, Attempt) {
        self.report.attempts += 1;
        self.report.rung = rung;
        self.report.target = Some(Arc::clone(target.name()));
        let is_probe = permit.is_probe();
        let slow_after = target.breaker().slow_after();
        let slow_at = permit.started().checked_add(slow_after);
        let hold = Hold::new(permit);
        let to = (target.clone(), rung);
        let attempt = Attempt::new(
            to,
            self.report.attempts,
            (turn.quiet_until, turn.until),
            hold.clone(),
        );
        let target = target.clone();
        let arm = Arm {
            rung,
            target,
            hold,
            is_probe,
            slow_at,
        };
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
