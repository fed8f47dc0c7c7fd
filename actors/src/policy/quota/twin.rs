//! One axis of a quota, kept as the provider keeps it.
//!
//! The provider's bucket holds a minute's worth and enforces shorter bursts; both refill at the same
//! rate and pay the same charges, so what is missing from the one is missing from the other. The
//! headers tell what is missing (limit less remaining), and the level here is the burst less that.
//!
//! Each header speaks of the moment at which its request was admitted, an answer's latency ago. It is
//! held against the level of *that* moment, which each lease remembers, moved by every correction since:
//! so what is in flight is taken into account, and ten answers that report the same surprise correct it
//! once. What still differs was taken by others, now and from now on.

use tokio::time::Instant;

use super::burst::Burst;
use super::foreign::Foreign;
use super::lately::Lately;
use super::{Axis, AxisWord, LeaseId};
use crate::policy::token_bucket::{TokenBucket, whole_tokens};

/// Requests that go out within so many milliseconds of each other may arrive in any order.
const OVERTAKES: u64 = 30;

/// A bucket that lacks less than this part of a second's worth is nearly full.
const NEARLY: u64 = 4;

/// Hundredths of the rate that a refusal costs where the burst is one request already. Nothing absorbs
/// there that a request travels faster than the one before it, but a longer way between them.
const SPACING: u64 = 3;

/// Most hundredths that are given up so.
const MOST_SPACING: u64 = 12;

/// One axis and what is known of it.
#[derive(Debug)]
pub(super) struct Twin {
    bucket: TokenBucket,
    /// All that was ever taken.
    taken: u64,
    /// What was taken within the last [`OVERTAKES`].
    recent: Lately<OVERTAKES>,
    /// Sum of all corrections and settlements, to compare an old level with a new word.
    adjusted: i64,
    /// Apart: what admissions touch, one after the other on different processors, is kept small.
    known: Box<Known>,
}

/// What is known of an axis by what its provider says.
#[derive(Debug)]
struct Known {
    limit: u64,
    burst: Burst,
    foreign: Foreign,
    /// Parts of the rate, in hundredths, that are given up for the sake of spacing.
    given_up: u64,
    heard: Option<LeaseId>,
}

/// An axis at the moment of a grant, after it was charged.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mark {
    /// In grains: it is only divided where an answer is compared with it.
    level: i128,
    adjusted: i64,
    taken: u64,
    /// What went out so shortly before that it may arrive after it.
    before: u64,
    /// Reserved for others in flight, which the provider may not have charged yet.
    outstanding: u64,
}

impl Mark {
    /// What was left of a burst, in thousandths.
    pub(super) fn part_left(&self, burst: u64) -> i128 {
        self.tokens() * 1_000 / i128::from(burst.max(1))
    }

    /// Whole tokens that were left.
    const fn tokens(&self) -> i128 {
        whole_tokens(self.level)
    }
}

/// The lease that an answer belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Of {
    pub(super) lease: LeaseId,
    pub(super) mark: Mark,
    pub(super) granted: Instant,
    pub(super) cost: u64,
    pub(super) accepted: bool,
}

impl Twin {
    /// A full bucket. Both numbers are at least 1.
    pub(super) fn new(limit: u64, burst: Burst, now: Instant) -> Option<Self> {
        let bucket = TokenBucket::new(limit, burst.tokens(), now).ok()?;
        let known = Known {
            limit,
            burst,
            foreign: Foreign::default(),
            given_up: 0,
            heard: None,
        };
        Some(Self {
            bucket,
            taken: 0,
            recent: Lately::new(now),
            adjusted: 0,
            known: Box::new(known),
        })
    }

    pub(super) const fn bucket(&self) -> &TokenBucket {
        &self.bucket
    }

    pub(super) fn limit(&self) -> u64 {
        self.known.limit
    }

    pub(super) fn burst(&self) -> &Burst {
        &self.known.burst
    }

    pub(super) fn foreign(&self) -> u64 {
        self.known.foreign.per_minute(self.limit())
    }

    /// Brings the level up to date, so that what follows at the same moment needs no clock.
    pub(super) fn refill(&mut self, now: Instant) {
        self.bucket.refill(now);
    }

    /// Takes `cost` for a lease, with `outstanding` in flight before it.
    pub(super) fn take(&mut self, cost: u64, outstanding: u64, now: Instant) -> Mark {
        self.bucket.take(cost, now);
        let before = self.recent.add(cost, now);
        self.taken = self.taken.wrapping_add(cost);
        Mark {
            level: self.bucket.grains(),
            adjusted: self.adjusted,
            taken: self.taken,
            before,
            outstanding,
        }
    }

    /// Replaces what a lease took by another amount.
    pub(super) fn replace(&mut self, taken: u64, by: u64, now: Instant) {
        self.adjust(i128::from(taken) - i128::from(by));
        if by > taken {
            self.bucket.take(by - taken, now);
        } else {
            self.bucket.put_back(taken - by, now);
        }
    }

    /// Takes over another limit; what is known of the old one's burst is no use.
    pub(super) fn set_limit(&mut self, limit: u64, burst: Burst, now: Instant) {
        let known = &mut *self.known;
        known.limit = limit;
        known.burst = burst;
        known.foreign = Foreign::default();
        known.given_up = 0;
        self.set_rate(now);
    }

    /// Lowers the level to what a word without a lease says is left.
    pub(super) fn lower_to(&mut self, level: u64, now: Instant) {
        self.bucket
            .lower_to(i64::try_from(level).unwrap_or(i64::MAX), now);
    }

    /// From what others took a second's wait follows at a time, and no more: a bucket that others keep
    /// empty must not shut this process out.
    fn least(&self) -> i128 {
        -i128::from((self.known.limit / 60).max(1))
    }

    /// Empties the bucket; debt stays.
    pub(super) fn empty(&mut self, now: Instant) {
        self.bucket.lower_to(0, now);
    }

    /// Sets a bucket that was just made to the level that the answer to an older lease implies.
    pub(super) fn begin(&mut self, word: &AxisWord, granted: Instant, later: u64, now: Instant) {
        let Some(raw) = self.implied(word) else {
            return;
        };
        self.bucket
            .set_level(saturate(raw.max(self.least())), granted);
        self.bucket.take(later, now);
    }

    /// Takes in what the answer to a lease said.
    pub(super) fn heard(&mut self, axis: Axis, word: &AxisWord, of: &Of, now: Instant) {
        let (Some(limit), Some(remaining)) = (word.limit, word.remaining) else {
            return;
        };
        // Another bucket than this: its rate is above the ceiling that holds here.
        if limit != self.known.limit {
            return self.lower_to(remaining, now);
        }
        // An older lease's answer speaks of a time before what is known already.
        if self.known.heard.is_some_and(|heard| of.lease <= heard) {
            return;
        }
        self.known.heard = Some(of.lease);
        if of.accepted {
            self.accepted(axis, word, of, now);
        }
        let Some(raw) = self.implied(word) else {
            return;
        };
        let then = self.level_then(of);
        let then = then.min(i128::from(self.known.burst.tokens()));
        // Output is charged as it is produced, so what is in flight may or may not be counted yet.
        let uncharged = match axis {
            Axis::Requests | Axis::Input => 0,
            Axis::Output => i128::from(of.mark.outstanding) + i128::from(of.cost),
        };
        // A refused request was not charged.
        let refunded = if of.accepted { 0 } else { i128::from(of.cost) };
        let least = then.min(self.least());
        let high = then + uncharged.max(i128::from(of.mark.before)) + refunded;
        let low = then - self.overtaken(of);
        let target = raw.max(least);
        // Answers that turn out longer than expected are nobody else's either.
        let tolerance = i128::from((word.rounded_to / 2).saturating_add(1)) + uncharged / 8;
        let by = if target < low {
            (target - low + tolerance).min(0)
        } else if target > high {
            (target - high - tolerance).max(0)
        } else {
            0
        };
        self.adjust(by);
        self.bucket.shift(saturate(by), now);
        let is_full = self.missing(word).is_some_and(|missing| {
            missing.saturating_add(word.rounded_to) <= (self.known.limit / 60 / NEARLY).max(2)
                || missing == 0
        });
        self.known
            .foreign
            .note(-as_f64(by), self.known.limit, is_full, of.granted);
        self.set_rate(now);
    }

    /// A request was refused for want of this axis, though the minute had room for it.
    pub(super) fn refused(
        &mut self,
        (axis, word): (Axis, Option<&AxisWord>),
        of: &Of,
        last: LeaseId,
        now: Instant,
    ) {
        let then = self.level_then(of);
        let spent = i128::from(self.known.burst.tokens()) - then;
        // The provider's own word, where it isn't lost in rounding, also counts what others spent.
        let told = word
            .and_then(|word| Some((self.missing(word)?, word.rounded_to)))
            .filter(|&(missing, rounded_to)| missing > rounded_to)
            .map(|(missing, _)| missing);
        let spent = told.unwrap_or_else(|| u64::try_from(spent).unwrap_or(0));
        let old = self.known.burst.tokens();
        let halved = self.known.burst.refused(of.lease, last, spent);
        self.follow_burst(old, now);
        if halved && self.known.burst.tokens() == 1 {
            self.known.given_up = (self.known.given_up + SPACING).min(MOST_SPACING);
        }
        self.set_rate(now);
        // What is in flight goes on to be produced, for about as long as the provider takes to refill.
        let debt = match axis {
            Axis::Requests | Axis::Input => 0,
            Axis::Output => -i64::try_from(self.known.limit / 60).unwrap_or(i64::MAX),
        };
        self.bucket.lower_to(debt, now);
    }

    fn accepted(&mut self, axis: Axis, word: &AxisWord, of: &Of, now: Instant) {
        let deficit = self
            .limit()
            .saturating_sub(word.remaining.unwrap_or(self.known.limit));
        // A request larger than the burst is let through by a full bucket and proves nothing.
        let before = match axis {
            Axis::Requests => deficit,
            Axis::Input | Axis::Output => deficit
                .saturating_sub(of.cost)
                .saturating_sub(word.rounded_to),
        };
        let old = self.known.burst.tokens();
        self.known.burst.proven(before);
        // Output comes later than its request, and tells nothing of how much may go out at once.
        if axis != Axis::Output {
            self.known
                .burst
                .accepted(saturate(of.mark.tokens()), self.known.limit, now);
        }
        self.follow_burst(old, now);
    }

    /// What is missing stays the same when the brim moves, so the level moves along.
    fn follow_burst(&mut self, old: u64, now: Instant) {
        let by = i128::from(self.known.burst.tokens()) - i128::from(old);
        if by != 0 {
            self.set_rate(now);
            self.bucket.shift(saturate(by), now);
            self.adjust(by);
        }
    }

    /// What went out so shortly after a lease that it may have arrived before it: no more than what was
    /// there to go out.
    fn overtaken(&self, of: &Of) -> i128 {
        let after = i128::from(self.taken.wrapping_sub(of.mark.taken));
        let on_the_way = i128::from(self.known.limit) * i128::from(OVERTAKES) / 60_000;
        after.min(of.mark.tokens().max(0) + on_the_way)
    }

    /// The level at a lease's grant as everything since has corrected it.
    fn level_then(&self, of: &Of) -> i128 {
        let since = self.adjusted.wrapping_sub(of.mark.adjusted);
        of.mark.tokens() + i128::from(since)
    }

    fn adjust(&mut self, by: i128) {
        self.adjusted = self.adjusted.wrapping_add(saturate(by));
    }

    /// How far the provider's bucket was below its brim.
    fn missing(&self, word: &AxisWord) -> Option<u64> {
        Some(self.known.limit.saturating_sub(word.remaining?))
    }

    /// The level here that goes with a remaining there.
    fn implied(&self, word: &AxisWord) -> Option<i128> {
        let missing = self.missing(word)?;
        Some(i128::from(self.known.burst.tokens()) - i128::from(missing))
    }

    fn set_rate(&mut self, now: Instant) {
        let own = u128::from(self.known.limit.saturating_sub(self.foreign()));
        let rate = own * u128::from(100 - self.known.given_up) / 100;
        let rate = u64::try_from(rate).unwrap_or(u64::MAX).max(1);
        self.bucket.set_rate(rate, self.known.burst.tokens(), now);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate follows from it")]
const fn as_f64(count: i128) -> f64 {
    count as f64
}

fn saturate(level: i128) -> i64 {
    i64::try_from(level).unwrap_or(if level < 0 { i64::MIN } else { i64::MAX })
}
