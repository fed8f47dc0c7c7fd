//! What a call causes beside its own way: probes that are not itself, and news.

use std::sync::Arc;

use tokio::time::{Instant, timeout_at};

use super::{Turn, Walk};
use crate::breaker::Ticket;
use crate::caller::Operation;
use crate::caller::attempt::{Attempt, Hold, Outcome};
use crate::event::EventKind;
use crate::limiter::Reservation;
use crate::permit::Permit;
use crate::policy::ladder::Cause;
use crate::policy::quota::Cost;
use crate::verdict::{Again, Blame, Verdict};

/// What a probe is expected to cost: the smallest request that there is.
const PROBE_COST: Cost = Cost {
    requests: 1,
    input: 16,
    output: 1,
};

/// A probe that was not answered in time.
const UNANSWERED: Verdict = Verdict::new("probe_timeout", Blame::Target, Again::Never);

impl<E: Send> Walk<E> {
    /// Has a small request find out whether a target is back, while the call goes on elsewhere. A
    /// quota that has nothing left says enough: then the pass is given back.
    pub(super) fn probe_aside<O>(&self, operation: &O, turn: &Turn, ticket: Ticket)
    where
        O: Operation<Error = E>,
    {
        let at_once = self.at_once();
        let reservation = Reservation {
            call: at_once.call,
            cost: PROBE_COST,
            priority: at_once.priority,
            tenant: at_once.tenant,
            until: at_once.until,
            expires: at_once.held_until,
        };
        let target = turn.target.clone();
        let counted = self.context.in_flight.enter();
        // An attempt that has been slow for so long would be counted as failed anyway.
        let until = Instant::now() + target.breaker().slow_after();
        let hold = Hold::vacant();
        let attempt = Attempt::new((target.clone(), turn.rung), 0, (until, until), hold.clone());
        let Some(probe) = operation.probe(attempt) else {
            return;
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "it ends by itself at `until`; the gauge of what is in flight counts it, and a drain waits for that"
        )]
        tokio::spawn(async move {
            let lease = match target.limiter() {
                Some(limiter) => match limiter.reserve(reservation).await {
                    Ok(Ok(lease)) => Some((lease, PROBE_COST)),
                    _ => return,
                },
                None => None,
            };
            hold.fill(Permit::new(target, ticket, lease, counted));
            let ended = timeout_at(until, probe).await;
            let Some(permit) = hold.take() else { return };
            match ended {
                Ok(Outcome::Ended {
                    verdict,
                    cost,
                    learned,
                    ..
                }) => {
                    if let Some(learned) = learned {
                        permit.learn(learned);
                    }
                    permit.finish(&verdict, cost);
                }
                Ok(Outcome::Committed(())) => permit.finish(&Verdict::OK, None),
                Err(_) => permit.finish(&UNANSWERED, None),
            }
        });
    }

    /// Leaves a rung for the one that the cause leads to.
    pub(super) fn fall(&mut self, from: usize, cause: Cause, word: &'static str) {
        self.report.cause = Some(cause);
        let to = self.ladder.fall(cause);
        self.announce(from, to, word);
    }

    /// Says where a call has come to from `from`, and which rungs were not for it.
    pub(super) fn announce(&self, from: usize, to: Option<usize>, word: &'static str) {
        let rungs = &self.call.rungs;
        for rung in from + 1..to.unwrap_or(rungs.len()) {
            let unfit = rungs.get(rung).and_then(|at| Some((at, at.rules.unfit?)));
            if let Some((at, why)) = unfit {
                self.context.events.emit(|| EventKind::SkippedRung {
                    call: Arc::clone(&self.call.id),
                    rung,
                    target: at.place.name(),
                    why,
                });
            }
        }
        let Some((rung, at)) = to.and_then(|rung| Some((rung, rungs.get(rung)?))) else {
            return;
        };
        self.context.events.emit(|| EventKind::FellToRung {
            call: Arc::clone(&self.call.id),
            rung,
            target: at.place.name(),
            why: word,
        });
    }
}
