//! The limit on growth: how many requests may come now, given how many came before.
//!
//! The real rule is not published. This one compares the last ten seconds with the minute before
//! them, so that a rate may grow steadily and must not jump.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::scenario::RampSettings;

/// The stretch that is compared.
const RECENT: Duration = Duration::from_secs(10);
/// The stretch before it that it is compared with.
const BEFORE: Duration = Duration::from_mins(1);
/// `RECENT` is this part of a minute.
const PART: f64 = 6.0;

/// What came in the last seventy seconds.
#[derive(Debug, Clone)]
pub(super) struct Ramp {
    settings: RampSettings,
    admitted: VecDeque<Instant>,
}

impl Ramp {
    pub(super) const fn new(settings: RampSettings) -> Self {
        Self {
            settings,
            admitted: VecDeque::new(),
        }
    }

    /// Whether one more may come.
    ///
    /// # Errors
    ///
    /// The time until the oldest of the last ten seconds is no longer one of them.
    pub(super) fn check(&mut self, now: Instant) -> Result<(), Duration> {
        while self
            .admitted
            .front()
            .is_some_and(|at| now.saturating_duration_since(*at) >= RECENT + BEFORE)
        {
            self.admitted.pop_front();
        }
        let before = self
            .admitted
            .partition_point(|at| now.saturating_duration_since(*at) >= RECENT);
        let recent = self.admitted.len() - before;
        let allowed = (self.settings.growth * float(before)).max(self.settings.floor as f64) / PART;
        if float(recent) + 1.0 <= allowed.max(1.0) {
            return Ok(());
        }
        let oldest = self.admitted.get(before).copied().unwrap_or(now);
        Err(RECENT.saturating_sub(now.saturating_duration_since(oldest)))
    }

    /// One was admitted.
    pub(super) fn admitted(&mut self, now: Instant) {
        self.admitted.push_back(now);
    }
}

const fn float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp() -> Ramp {
        Ramp::new(RampSettings {
            growth: 2.0,
            floor: 60,
        })
    }

    /// How many of so many evenly spaced requests get through in a stretch of seconds.
    fn offer(ramp: &mut Ramp, start: Instant, seconds: std::ops::Range<u64>, rate: u32) -> u32 {
        let mut through = 0;
        for second in seconds {
            for place in 0..rate {
                let now =
                    start + Duration::from_secs(second) + Duration::from_secs(1) * place / rate;
                if ramp.check(now).is_ok() {
                    ramp.admitted(now);
                    through += 1;
                }
            }
        }
        through
    }

    #[tokio::test(start_paused = true)]
    async fn a_jump_is_refused_and_steady_growth_is_not() {
        let start = Instant::now();
        let mut ramp = ramp();
        assert_eq!(offer(&mut ramp, start, 0..120, 1), 120);
        // Twice the minute before, spread over ten seconds at a time: two a second at first.
        let jumped = offer(&mut ramp, start, 120..130, 10);
        assert_eq!(jumped, 20);
        let later = offer(&mut ramp, start, 130..300, 10);
        let last = offer(&mut ramp, start, 300..310, 10);
        assert!(later < 1_700 && last == 100, "{later} {last}");
    }

    #[tokio::test(start_paused = true)]
    async fn after_idling_the_floor_counts_again() {
        let start = Instant::now();
        let mut ramp = ramp();
        offer(&mut ramp, start, 0..300, 10);
        assert_eq!(offer(&mut ramp, start, 400..410, 10), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_that_is_told_is_until_the_oldest_is_forgotten() {
        let start = Instant::now();
        let mut ramp = ramp();
        for second in 0..10 {
            let now = start + Duration::from_millis(second * 100);
            assert_eq!(ramp.check(now), Ok(()));
            ramp.admitted(now);
        }
        let now = start + Duration::from_secs(2);
        assert_eq!(ramp.check(now), Err(Duration::from_secs(8)));
        assert_eq!(ramp.check(now + Duration::from_secs(8)), Ok(()));
    }
}
