//! The right to make one attempt.
//!
//! A [`Permit`] is a lease on the quota and a pass of the breaker in one. It is held to the last
//! byte: finished with what the attempt turned out to be, or dropped, which says only that the
//! caller left. Either way both come back, once.

use tokio::time::Instant;

use crate::breaker::Ticket;
use crate::gauge::Counted;
use crate::limiter::Lease;
use crate::policy::concurrency::Leaving;
use crate::policy::quota::{Cost, Learned};
use crate::system::Target;
use crate::verdict::{Blame, Verdict};

/// The right to make one attempt on one target.
#[derive(Debug)]
#[must_use = "a permit that is dropped says that its caller left"]
pub struct Permit {
    target: Target,
    reserved: Cost,
    lease: Option<Lease>,
    ticket: Option<Ticket>,
    started: Instant,
    content: Option<Instant>,
    sent: bool,
    _counted: Counted,
}

impl Permit {
    pub(crate) fn new(
        target: Target,
        mut ticket: Ticket,
        lease: Option<(Lease, Cost)>,
        counted: Counted,
    ) -> Self {
        ticket.spend();
        let (lease, reserved) = lease.map_or((None, Cost::ZERO), |(l, cost)| (Some(l), cost));
        Self {
            target,
            reserved,
            lease,
            ticket: Some(ticket),
            started: Instant::now(),
            content: None,
            sent: false,
            _counted: counted,
        }
    }

    /// Where the attempt goes.
    #[must_use]
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// What was reserved.
    #[must_use]
    pub const fn reserved(&self) -> Cost {
        self.reserved
    }

    /// When the attempt was admitted.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// Whether this attempt is the one that finds out if its target is back.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::is_probe)
    }

    /// Marks that the request has left: from here on a permit that is dropped keeps the tokens
    /// that the request itself costs, since the provider may have read it.
    pub const fn mark_sent(&mut self) {
        self.sent = true;
    }

    /// Marks the first content: the attempt is not slow any more, however long the rest takes.
    pub fn mark_content(&mut self) {
        self.content.get_or_insert_with(Instant::now);
    }

    pub(crate) const fn has_content(&self) -> bool {
        self.content.is_some()
    }

    /// Counts an attempt that is still in flight as slow.
    pub(crate) fn mark_overdue(&mut self) {
        if self.content.is_none()
            && let Some(ticket) = &mut self.ticket
        {
            ticket.overdue();
        }
    }

    /// Hands on what the answer said of the provider's buckets, before the attempt is finished.
    pub fn learn(&self, learned: Learned) {
        if let Some(lease) = &self.lease {
            lease.heard(learned);
        }
    }

    /// Replaces what is reserved by a better estimate while the attempt goes on: the input that the
    /// provider has counted, or more output than was expected.
    pub fn revise(&mut self, estimate: Cost) {
        if let Some(lease) = &self.lease
            && estimate != self.reserved
        {
            self.reserved = estimate;
            lease.revise(estimate);
        }
    }

    /// Ends the attempt: settles the quota with its true cost and tells the breaker how it went.
    ///
    /// Without a cost, a success costs what was reserved, a failure of the target or the network
    /// what the request alone costs, and anything else nothing: it was refused before it was
    /// processed.
    pub fn finish(mut self, verdict: &Verdict, actual: Option<Cost>) {
        let actual = actual.unwrap_or_else(|| match verdict.blame {
            Blame::Nobody => self.reserved,
            Blame::Target | Blame::Network | Blame::Departed => self.request_alone(),
            Blame::Caller | Blame::Credential | Blame::Quota => Cost::ZERO,
        });
        if let Some(lease) = self.lease.take() {
            lease.settle(actual, leaving(verdict));
        }
        if let Some(ticket) = self.ticket.take() {
            let until = self.content.unwrap_or_else(Instant::now);
            ticket.ended(verdict, until.duration_since(self.started));
        }
    }

    fn request_alone(&self) -> Cost {
        if self.sent {
            Cost {
                output: 0,
                ..self.reserved
            }
        } else {
            Cost::ZERO
        }
    }
}

/// What an end says of how many attempts the target takes at once.
const fn leaving(verdict: &Verdict) -> Leaving {
    match verdict.blame {
        Blame::Nobody => Leaving::Success,
        Blame::Quota => Leaving::Lost,
        Blame::Target if verdict.overloaded => Leaving::Overloaded,
        _ => Leaving::Neutral,
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.settle(self.request_alone(), Leaving::Neutral);
        }
    }
}
