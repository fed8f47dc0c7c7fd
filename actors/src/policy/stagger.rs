//! When runs that come by themselves may begin: each at its turn, and from then on freely.
//!
//! Nobody says how many runs will come, so only a rate can be kept: a run that comes alone begins at
//! once, and of those that come together one begins each interval. What a run asks for after its
//! beginning is never held.
//!
//! The runs that are remembered are bounded. One that is forgotten, because others were heard of since,
//! takes a turn again with its next call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::pace::Pace;

/// The turns of the runs on one route.
#[derive(Debug)]
pub struct Stagger {
    pace: Pace,
    most: usize,
    runs: HashMap<Arc<str>, Run>,
}

#[derive(Debug, Clone, Copy)]
struct Run {
    begins: Instant,
    heard_of: Instant,
}

impl Stagger {
    /// Most runs that are remembered unless told otherwise; each takes some 100 bytes.
    pub const MOST_RUNS: usize = 10_000;

    /// One run each `interval`, the first at once, with `most` of them (at least one) remembered.
    #[must_use]
    pub fn new(interval: Duration, most: usize, now: Instant) -> Self {
        Self {
            pace: Pace::every(interval, now),
            most: most.max(1),
            runs: HashMap::new(),
        }
    }

    /// Returns when a run begins or began: a new one gets the next turn, if it comes within
    /// `patience`.
    ///
    /// # Errors
    ///
    /// The time of the next turn, which is too late and stays free.
    pub fn turn(
        &mut self,
        run: &str,
        patience: Duration,
        now: Instant,
    ) -> Result<Instant, Instant> {
        if let Some(known) = self.runs.get_mut(run) {
            known.heard_of = now;
            return Ok(known.begins);
        }
        let begins = match self.pace.take(1, now) {
            Ok(()) => now,
            Err(free) if free > now + patience => return Err(free),
            Err(free) => {
                self.pace.charge(1, now);
                free
            }
        };
        if self.runs.len() >= self.most {
            self.forget();
        }
        let turn = Run {
            begins,
            heard_of: now,
        };
        self.runs.insert(Arc::from(run), turn);
        Ok(begins)
    }

    /// Forgets the half that was heard of least lately: the cost of looking through all is shared by
    /// as many runs as are forgotten.
    fn forget(&mut self) {
        let mut heard: Vec<Instant> = self.runs.values().map(|run| run.heard_of).collect();
        let middle = heard.len() / 2;
        let (_, middle, _) = heard.select_nth_unstable(middle);
        let middle = *middle;
        self.runs.retain(|_, run| run.heard_of > middle);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn runs_that_come_together_take_turns_and_one_that_comes_alone_begins_at_once() {
        let start = Instant::now();
        let mut stagger = Stagger::new(SECOND, 100, start);
        for number in 0..5 {
            let turn = stagger.turn(&format!("run-{number}"), MINUTE, start);
            assert_eq!(turn, Ok(start + SECOND * number));
        }
        let later = start + MINUTE;
        assert_eq!(stagger.turn("alone", MINUTE, later), Ok(later));
    }

    #[test]
    fn a_run_has_one_turn_however_often_it_asks() {
        let start = Instant::now();
        let mut stagger = Stagger::new(SECOND, 100, start);
        assert_eq!(stagger.turn("a", MINUTE, start), Ok(start));
        for _ in 0..10 {
            assert_eq!(stagger.turn("b", MINUTE, start), Ok(start + SECOND));
        }
        let later = start + SECOND * 30;
        assert_eq!(stagger.turn("b", MINUTE, later), Ok(start + SECOND));
        assert_eq!(stagger.turn("c", MINUTE, start), Ok(start + SECOND * 2));
    }

    #[test]
    fn a_turn_that_comes_too_late_stays_free() {
        let start = Instant::now();
        let mut stagger = Stagger::new(SECOND, 100, start);
        for number in 0..=3 {
            let turn = stagger.turn(&format!("run-{number}"), SECOND * 3, start);
            assert_eq!(turn, Ok(start + SECOND * number));
        }
        for _ in 0..5 {
            let turn = stagger.turn("late", SECOND * 3, start);
            assert_eq!(turn, Err(start + SECOND * 4));
        }
        let turn = stagger.turn("late", SECOND * 3, start + SECOND);
        assert_eq!(turn, Ok(start + SECOND * 4));
    }

    #[test]
    fn the_runs_that_are_remembered_are_bounded_and_the_latest_are_kept() {
        let start = Instant::now();
        let mut stagger = Stagger::new(Duration::from_millis(1), 10, start);
        let mut now = start;
        for number in 0..1_000 {
            now += SECOND;
            stagger.turn(&format!("run-{number}"), MINUTE, now).unwrap();
            stagger.turn("faithful", MINUTE, now).unwrap();
            assert!(stagger.runs.len() <= 10);
        }
        assert_eq!(
            stagger.turn("faithful", MINUTE, now),
            Ok(start + SECOND + Duration::from_millis(1))
        );
    }

    proptest! {
        #[test]
        fn no_two_runs_begin_closer_than_the_interval(
            asks in proptest::collection::vec((0_u8..40, 0_u64..2_000), 0..200),
            patience in 0_u64..20,
        ) {
            let mut now = Instant::now();
            let mut stagger = Stagger::new(SECOND, 1_000, now);
            let mut begun: HashMap<u8, Instant> = HashMap::new();
            for (run, passed) in asks {
                now += Duration::from_millis(passed);
                let turn = stagger.turn(&run.to_string(), SECOND * u32::try_from(patience).unwrap(), now);
                let Ok(begins) = turn else {
                    prop_assert!(!begun.contains_key(&run));
                    continue;
                };
                let known = begun.insert(run, begins);
                prop_assert!(known.is_none_or(|known| known == begins));
            }
            let mut times: Vec<Instant> = begun.into_values().collect();
            times.sort_unstable();
            for pair in times.windows(2) {
                prop_assert!(pair[1] - pair[0] >= SECOND);
            }
        }
    }
}
