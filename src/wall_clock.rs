//! The clock by which kept answers age.

use jiff::Timestamp;
use tokio::time::Instant;

/// Tells the time of day.
///
/// Ages outlive the process, so they are told by the calendar. Where time is paused the calendar
/// would stand still beside it; there it follows the runtime's own clock.
#[derive(Debug, Clone, Copy, Default)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a clock is the machine's or it is not"
)]
pub enum WallClock {
    /// The machine's.
    #[default]
    System,
    /// It was `epoch` at `since`, and goes on as tokio's clock does.
    Following {
        /// The time of day then.
        epoch: Timestamp,
        /// When that was.
        since: Instant,
    },
}

impl WallClock {
    /// A clock that shows `epoch` now and then goes as tokio's clock does.
    #[must_use]
    pub fn following(epoch: Timestamp) -> Self {
        let since = Instant::now();
        Self::Following { epoch, since }
    }

    /// The time of day.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => Timestamp::now(),
            // A time after the year 9999 stays where it is.
            Self::Following { epoch, since } => {
                epoch.saturating_add(since.elapsed()).unwrap_or(*epoch)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_follows_goes_with_paused_time() {
        let epoch = Timestamp::UNIX_EPOCH;
        let clock = WallClock::following(epoch);
        assert_eq!(clock.now(), epoch);
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(clock.now().as_second(), 90);
        let last = WallClock::following(Timestamp::MAX);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(last.now(), Timestamp::MAX);
    }
}
