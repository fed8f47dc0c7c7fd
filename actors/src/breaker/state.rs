//! What a breaker's cell holds: the circuit, the retry budget and those who wait.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::time::Instant;

use super::ticket::{Outcome, Ticket};
use super::{Bar, Barred, Breaker, Knock, Note, Reply};
use crate::policy::circuit::{Admission, Circuit, Pass, Signal, Transition};
use crate::policy::quota::Cost;
use crate::policy::retry_budget::RetryBudget;
use crate::policy::wait_queue::{Entry, Tenant, WaitQueue};

/// How many of those who wait are looked at for leavers whenever one more comes.
const SWEEP_AT_ONCE: usize = 4;

#[derive(Debug)]
pub(super) struct BreakerState {
    pub(super) circuit: Circuit,
    pub(super) budget: RetryBudget,
    /// Those who wait for the circuit.
    pub(super) queue: WaitQueue<Waiter>,
    /// Those who wait for the retry budget, and keep nobody else waiting.
    pub(super) unpaid: WaitQueue<Waiter>,
}

#[derive(Debug)]
pub(super) struct Waiter {
    again: bool,
    refused: bool,
    reply: Reply,
}

impl BreakerState {
    /// Whether every call passes without being asked about.
    pub(super) fn is_plain(&self) -> bool {
        self.circuit.is_plain() && self.queue.is_empty()
    }

    pub(super) fn apply(
        &mut self,
        note: Note,
        now: Instant,
        rng: &mut StdRng,
    ) -> Option<Transition> {
        match note {
            Note::Ended(outcome) => {
                if outcome.signal == Signal::Success {
                    self.budget.on_success(now);
                }
                if outcome.refund {
                    self.budget.give_back(now);
                }
                let Outcome {
                    pass, signal, took, ..
                } = outcome;
                let transition = if outcome.overdue {
                    self.circuit.report_overdue_end(now, pass, signal, took);
                    None
                } else {
                    self.circuit.report(now, pass, signal, took, rng)
                };
                if let Some(hint) = outcome.not_before {
                    self.circuit.hint(now, hint);
                }
                transition
            }
            Note::Overdue(pass) => self.circuit.overdue(now, pass, rng),
        }
    }

    /// Passes, queues or bars one call. Says whose call waits, and for when.
    pub(super) fn answer(
        &mut self,
        knock: Knock,
        reply: Reply,
        now: Instant,
        breaker: &Breaker,
    ) -> Option<(Arc<str>, Option<Instant>)> {
        self.circuit.poll(now);
        let spared = knock.elsewhere && self.circuit.spares(now, !knock.again);
        let entry = Entry {
            priority: knock.priority,
            tenant: Tenant::default(),
            deadline: knock.until,
            cost: Cost::ZERO,
            share: 1,
            item: Waiter {
                again: knock.again,
                refused: knock.refused,
                reply,
            },
        };
        let mut until = None;
        if spared {
            until = self.circuit.next_event();
        } else if self.queue.is_empty() {
            match self.circuit.admit(now) {
                Admission::Pass(pass) => {
                    self.hand_over(entry, pass, now, breaker);
                    return None;
                }
                Admission::Wait { until: due } => until = due,
            }
        }
        if knock.until <= now {
            self.circuit.demand(now, self.queue.len(), knock.elsewhere);
            bar(entry.item, Bar::Open, until);
            return None;
        }
        drop(self.queue.sweep(SWEEP_AT_ONCE, has_left));
        match self.queue.push(entry, now) {
            Ok(_) => {
                self.circuit.demand(now, self.queue.len(), false);
                Some((knock.call, until.or_else(|| self.circuit.next_event())))
            }
            Err(waiter) => {
                bar(waiter, Bar::Full, until);
                None
            }
        }
    }

    fn hand_over(&mut self, entry: Entry<Waiter>, pass: Pass, now: Instant, breaker: &Breaker) {
        if entry.item.again && !self.budget.try_spend(now) {
            self.circuit.release(now, pass);
            return self.owe(entry, now);
        }
        let ticket = Ticket::new(breaker.clone(), pass);
        let ticket = if entry.item.again {
            ticket.paid()
        } else {
            ticket
        };
        // An asker that has left drops the ticket, and so gives the pass back.
        drop(entry.item.reply.send(Ok(ticket)));
    }

    /// Lets a retry that can't be paid for wait, if its target is well and only the call was early;
    /// bars it otherwise, since to repeat is what a failing target is to be spared.
    fn owe(&mut self, entry: Entry<Waiter>, now: Instant) {
        if !entry.item.refused || entry.deadline <= now {
            return bar(entry.item, Bar::Budget, None);
        }
        drop(self.unpaid.sweep(SWEEP_AT_ONCE, has_left));
        if let Err(waiter) = self.unpaid.push(entry, now) {
            bar(waiter, Bar::Budget, None);
        }
    }

    /// Lets pass whom the circuit lets pass. Says when to look again.
    pub(super) fn serve(
        &mut self,
        now: Instant,
        breaker: &Breaker,
    ) -> (Option<Transition>, Option<Instant>) {
        let transition = self.circuit.poll(now);
        for late in self.queue.expire(now) {
            let due = self.circuit.next_event();
            bar(late.item, Bar::Open, due);
        }
        self.serve_unpaid(now);
        while let Some(first) = self.queue.first() {
            if first.item.reply.is_closed() {
                self.queue.pop_first();
                continue;
            }
            let Admission::Pass(pass) = self.circuit.admit(now) else {
                break;
            };
            match self.queue.pop_first() {
                Some(waiting) => self.hand_over(waiting.into(), pass, now, breaker),
                None => self.circuit.release(now, pass),
            }
        }
        if !self.queue.is_empty() {
            self.circuit.demand(now, self.queue.len(), false);
        }
        let next = [
            self.circuit.next_event(),
            self.queue.next_deadline(),
            self.unpaid.next_deadline(),
            self.paid_at(now),
        ];
        // Timers have a resolution of 1 ms; an alarm for this very moment would only spin.
        let next = next
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.max(now + Duration::from_millis(1)));
        (transition, next)
    }

    /// Moves those who wait for the budget to those who wait for the circuit, as many as it can pay for.
    fn serve_unpaid(&mut self, now: Instant) {
        for late in self.unpaid.expire(now) {
            bar(late.item, Bar::Budget, None);
        }
        let mut payable = self.budget.retries(now);
        while payable > 0
            && let Some(waiting) = self.unpaid.pop_first()
        {
            if has_left(&waiting.item) {
                continue;
            }
            payable -= 1;
            if let Err(waiter) = self.queue.push(waiting.into(), now) {
                bar(waiter, Bar::Full, None);
            }
        }
    }

    /// When to look again for the sake of those who wait for the budget; what answers earn comes by itself.
    fn paid_at(&self, now: Instant) -> Option<Instant> {
        self.unpaid.first()?;
        self.budget.ready_at(now)
    }
}

fn has_left(waiter: &Waiter) -> bool {
    waiter.reply.is_closed()
}

fn bar(waiter: Waiter, why: Bar, until: Option<Instant>) {
    // Err means that the asker has left.
    drop(waiter.reply.send(Err(Barred { why, until })));
}
