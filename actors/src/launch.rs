//! Launches of a batch, spread over time, so that a hundred runs don't start in the same moment.
//!
//! Runs that start together ask together, wait together and are refused together, and stay in step
//! for minutes. Spread over a minute, the same runs meet a quota that has refilled in between.

use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::stream::{self, Stream, StreamExt};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep_until};

use crate::policy::InvalidPolicy;
use crate::policy::pace::Pace;

/// How launches are spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    form: Form,
    seed: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Over(Duration),
    Every(Duration),
}

/// The longest span, and the longest time between two launches.
const LONGEST: Duration = Duration::from_hours(24);

/// Largest part of the time between two launches that chance adds to one: enough that fleets don't
/// launch in step, and far from changing the order.
const JITTER: f64 = 0.25;

impl Spread {
    /// A whole batch over `span`: of 100 runs over 60 s one starts every 600 ms, the first at once.
    ///
    /// # Errors
    ///
    /// Refuses a span outside 1 ms to 24 h.
    pub fn over(span: Duration) -> Result<Self, InvalidPolicy> {
        if !(Duration::from_millis(1)..=LONGEST).contains(&span) {
            let span = format!("{span:?}");
            return Err(InvalidPolicy::new("stagger", span, "from 1 ms to 24 h"));
        }
        Ok(Self {
            form: Form::Over(span),
            seed: None,
        })
    }

    /// A rate, for batches whose size is not known, the first at once.
    ///
    /// # Errors
    ///
    /// Refuses a rate outside 0.0001 to 1,000,000 a second, or not a number.
    pub fn per_second(rate: f64) -> Result<Self, InvalidPolicy> {
        if !(0.0001..=1e6).contains(&rate) {
            let allowed = "from 0.0001 to 1000000 a second";
            return Err(InvalidPolicy::new("stagger.per_second", rate, allowed));
        }
        Ok(Self {
            form: Form::Every(Duration::from_secs_f64(1.0 / rate)),
            seed: None,
        })
    }

    /// Makes its jitter the same each time.
    #[must_use]
    pub const fn seeded(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The launches of `runs` runs, from now on.
    #[must_use]
    pub fn launches(self, runs: usize) -> Launches {
        Launches::new(self.interval(runs), Some(runs), self.seed)
    }

    /// Launches without end, from now on. A span is kept for each `of` of them.
    #[must_use]
    pub fn endless(self, of: NonZeroU32) -> Launches {
        let of = usize::try_from(of.get()).unwrap_or(usize::MAX);
        Launches::new(self.interval(of), None, self.seed)
    }

    fn interval(self, runs: usize) -> Duration {
        match self.form {
            Form::Every(interval) => interval,
            Form::Over(span) => span / u32::try_from(runs).unwrap_or(u32::MAX).max(1),
        }
    }
}

/// Launch permits, each at its time.
pub struct Launches {
    pace: Pace,
    interval: Duration,
    rng: SmallRng,
    left: Option<usize>,
    handed_out: usize,
    /// The time of the next launch, once the pace has granted it.
    due: Option<Instant>,
}

impl Launches {
    fn new(interval: Duration, left: Option<usize>, seed: Option<u64>) -> Self {
        Self {
            pace: Pace::every(interval, Instant::now()),
            interval,
            rng: SmallRng::seed_from_u64(seed.unwrap_or_else(rand::random)),
            left,
            handed_out: 0,
            due: None,
        }
    }

    /// Waits for the next launch and returns its number, from 0; `None` when the batch is through.
    ///
    /// Who comes late is not made up for: what follows keeps its distance, so that a pause doesn't
    /// end in a crowd. Dropping the future loses no launch; the next call waits for the same one.
    pub async fn next(&mut self) -> Option<usize> {
        if self.left == Some(0) {
            return None;
        }
        let now = Instant::now();
        let due = self.due.unwrap_or_else(|| self.book(now));
        self.due = Some(due);
        if due > now {
            sleep_until(due).await;
        }
        self.due = None;
        self.left = self.left.map(|left| left.saturating_sub(1));
        let number = self.handed_out;
        self.handed_out = number.saturating_add(1);
        Some(number)
    }

    /// The next free time, taken ahead of it: a timer that fires late delays no launch but its own.
    fn book(&mut self, now: Instant) -> Instant {
        let mut at = now;
        while let Err(free) = self.pace.take(1, at) {
            at = free;
        }
        if self.handed_out == 0 {
            return at;
        }
        at + self.interval.mul_f64(self.rng.random_range(0.0..JITTER))
    }
}

impl fmt::Debug for Launches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Launches")
            .field("interval", &self.interval)
            .field("left", &self.left)
            .field("due", &self.due)
            .finish_non_exhaustive()
    }
}

/// Runs `run` on each of `items`, starting them as `spread` says, and yields each answer with its
/// item's number as it comes.
///
/// The runs live in the stream: it drives all that have started whenever it is polled, and dropping
/// it drops them and starts no more. An item is taken when the one before it has started, and each
/// is started once.
pub fn launch_spread<I, F, R>(
    items: I,
    spread: Spread,
    run: F,
) -> impl Stream<Item = (usize, R::Output)>
where
    I: IntoIterator<IntoIter: ExactSizeIterator>,
    F: FnMut(I::Item) -> R,
    R: Future,
{
    let items = items.into_iter();
    let launches = spread.launches(items.len());
    launch_each(stream::iter(items), launches, run)
}

/// As [`launch_spread`], for items that come as they come; what comes faster than its launches waits
/// where it comes from.
pub fn launch_each<S, F, R>(
    items: S,
    launches: Launches,
    mut run: F,
) -> impl Stream<Item = (usize, R::Output)>
where
    S: Stream,
    F: FnMut(S::Item) -> R,
    R: Future,
{
    let paced = stream::unfold(
        (Box::pin(items), launches),
        |(mut items, mut launches)| async {
            let item = items.next().await?;
            let number = launches.next().await?;
            Some(((number, item), (items, launches)))
        },
    );
    paced
        .map(move |(number, item)| {
            let answer = run(item);
            async move { (number, answer.await) }
        })
        .buffer_unordered(usize::MAX)
}

#[cfg(test)]
mod tests;
