//! When runs that come by themselves may begin: each at its turn, and from then on freely.
//!
//! Nobody says how many runs will come. A run that comes alone begins at once; of those that come
//! together one begins each interval, or they are spread over a span whatever their number. What a run
//! asks for after its beginning is never held.
//!
//! The runs that are remembered are bounded. One that is forgotten, because others were heard of since,
//! takes a turn again with its next call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::pace::Pace;

/// How far apart runs begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spacing {
    /// One run each so much time.
    Every(Duration),
    /// Those that come together spread over so much time, however many they are.
    Over(Duration),
}

/// The turns of the runs on one route.
#[derive(Debug)]
pub struct Stagger {
    turns: Turns,
    most: usize,
    runs: HashMap<Arc<str>, Run>,
}

#[derive(Debug)]
enum Turns {
    Every(Pace),
    Over(Span),
}

#[derive(Debug, Clone, Copy)]
struct Run {
    begins: Instant,
    heard_of: Instant,
}

impl Stagger {
    /// Most runs that are remembered unless told otherwise; each takes some 100 bytes.
    pub const MOST_RUNS: usize = 10_000;

    /// Turns for runs, the first at once, with `most` of them (at least one) remembered.
    #[must_use]
    pub fn new(spacing: Spacing, most: usize, now: Instant) -> Self {
        let turns = match spacing {
            Spacing::Every(interval) => Turns::Every(Pace::every(interval, now)),
            Spacing::Over(span) => Turns::Over(Span::new(span, now)),
        };
        Self {
            turns,
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
        let begins = self.turns.next(patience, now)?;
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
        let half = heard.len() / 2;
        let (_, middle, later) = heard.select_nth_unstable(half);
        let middle = *middle;
        // Of a crowd that came in one moment the middle is no bound: only so many of it are kept.
        let above = later.iter().filter(|&&at| at > middle).count();
        let mut spare = half.saturating_sub(above);
        self.runs.retain(|_, run| {
            if run.heard_of != middle || spare == 0 {
                return run.heard_of > middle;
            }
            spare -= 1;
            true
        });
    }
}

impl Turns {
    fn next(&mut self, patience: Duration, now: Instant) -> Result<Instant, Instant> {
        let pace = match self {
            Self::Every(pace) => pace,
            Self::Over(span) => return span.next(patience, now),
        };
        match pace.take(1, now) {
            Ok(()) => Ok(now),
            Err(free) if free.saturating_duration_since(now) > patience => Err(free),
            Err(free) => {
                pace.charge(1, now);
                Ok(free)
            }
        }
    }
}

/// Turns that fill a span evenly at any time, without knowing how many there will be: each takes the
/// middle of the widest gap that is left, as the van der Corput sequence has it (0, 1/2, 1/4, 3/4, 1/8 …).
#[derive(Debug)]
struct Span {
    length: Duration,
    since: Instant,
    number: u32,
    /// The latest turn that was given. Whoever comes after it begins a new span.
    latest: Option<Instant>,
}

/// So many turns are looked at for one that comes in time; of all, one in as many is in any such part of
/// the span.
const LOOKS: u32 = 64;

impl Span {
    fn new(length: Duration, now: Instant) -> Self {
        Self {
            length: length.clamp(Duration::from_nanos(1), LONGEST),
            since: now,
            number: 0,
            latest: None,
        }
    }

    /// The next turn that comes within `patience`. The span goes round: a turn whose time has passed is
    /// taken in the next round.
    fn next(&mut self, patience: Duration, now: Instant) -> Result<Instant, Instant> {
        if self.latest.is_none_or(|latest| latest < now) {
            (self.since, self.number, self.latest) = (now, 1, Some(now));
            return Ok(now);
        }
        let length = self.length.as_nanos();
        let passed = now.saturating_duration_since(self.since).as_nanos() % length;
        let mut soonest = self.length;
        for number in (0..LOOKS).map(|look| self.number.wrapping_add(look)) {
            let place = (length * u128::from(number.reverse_bits())) >> u32::BITS;
            let wait = (place + length - passed) % length;
            let wait = Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX));
            if wait <= patience {
                self.number = number.wrapping_add(1);
                let begins = now + wait;
                self.latest = self.latest.max(Some(begins));
                return Ok(begins);
            }
            soonest = soonest.min(wait);
        }
        Err(now + soonest)
    }
}

/// The longest span.
const LONGEST: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn runs_that_come_together_take_turns_and_one_that_comes_alone_begins_at_once() {
        let start = Instant::now();
        let mut stagger = Stagger::new(Spacing::Every(SECOND), 100, start);
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
        let mut stagger = Stagger::new(Spacing::Every(SECOND), 100, start);
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
        let mut stagger = Stagger::new(Spacing::Every(SECOND), 100, start);
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
        let mut stagger = Stagger::new(Spacing::Every(Duration::from_millis(1)), 10, start);
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

    #[test]
    fn of_a_crowd_that_came_in_one_moment_half_are_remembered() {
        let now = Instant::now();
        let mut stagger = Stagger::new(Spacing::Every(SECOND), 10, now);
        for number in 0..11 {
            stagger.turn(&number.to_string(), MINUTE, now).unwrap();
        }
        assert_eq!(stagger.runs.len(), 6);
    }

    #[test]
    fn a_span_begins_anew_when_all_have_begun_and_goes_round_until_then() {
        let start = Instant::now();
        let mut stagger = Stagger::new(Spacing::Over(MINUTE), 100, start);
        let mut turn = |run: &str, patience, at| {
            let turn = stagger.turn(run, SECOND * patience, start + SECOND * at);
            turn.map(|begins| begins - start)
        };
        assert_eq!(turn("a", 60, 0), Ok(Duration::ZERO));
        assert_eq!(turn("b", 60, 0), Ok(SECOND * 30));
        // A quarter has passed: it comes round again.
        assert_eq!(turn("c", 60, 20), Ok(SECOND * 75));
        assert_eq!(turn("b", 60, 20), Ok(SECOND * 30));
        // The one after it is too far away for whoever has 10 s.
        assert!(turn("d", 10, 20).unwrap() <= SECOND * 30);
        assert!(turn("e", 0, 20).is_err());
        assert_eq!(turn("f", 60, 76), Ok(SECOND * 76), "all have begun");
        assert_eq!(turn("g", 60, 76), Ok(SECOND * 106));
    }

    proptest! {
        #[test]
        fn a_crowd_of_any_size_fills_its_span_evenly(
            runs in 1_u32..400,
            length_ms in 1_u64..100_000,
            at in 0_u64..1_000_000,
        ) {
            let start = Instant::now();
            let span = Duration::from_millis(length_ms);
            let mut stagger = Stagger::new(Spacing::Over(span), 1_000, start);
            let now = start + Duration::from_millis(at);
            let mut turns: Vec<_> = (0..runs)
                .map(|run| stagger.turn(&run.to_string(), span, now).unwrap() - now)
                .collect();
            turns.sort_unstable();
            prop_assert_eq!(turns[0], Duration::ZERO);
            turns.push(span);
            for pair in turns.windows(2) {
                let gap = pair[1] - pair[0];
                let nano = Duration::from_nanos(1);
                prop_assert!(gap <= span * 2 / runs + nano, "{:?}", gap);
                prop_assert!(gap + nano >= span / (2 * runs), "{:?}", gap);
            }
        }

        #[test]
        fn no_two_runs_begin_closer_than_the_interval(
            asks in proptest::collection::vec((0_u8..40, 0_u64..2_000), 0..200),
            patience in 0_u64..20,
        ) {
            let mut now = Instant::now();
            let mut stagger = Stagger::new(Spacing::Every(SECOND), 1_000, now);
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
