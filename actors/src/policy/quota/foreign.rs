//! What others take from the same quota, as a rate.
//!
//! Another process on the same organisation shows only in the provider's headers: the bucket is
//! emptier than what was sent from here explains. The difference, spread over the time in which it
//! came about, is a rate, smoothed so that one odd answer is no trend. Failure mode: others that come
//! and go faster than [`MEMORY`] are seen late, and the margin below the burst has to hold them.

use std::time::Duration;

use tokio::time::Instant;

/// Time constant of the smoothing.
const MEMORY: Duration = Duration::from_secs(10);

/// After this long without a word, what others did is forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// Most of a limit that others are believed to take: somebody who is alone after all must be able to
/// find it out.
const MOST: f64 = 0.9;

/// Differences below this part of a limit are the estimates' own noise.
const NOISE: f64 = 0.03;

/// The rate at which others use up one axis.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Foreign {
    per_minute: f64,
    seen: Option<Instant>,
}

impl Foreign {
    /// Takes in how many tokens were missing (negative: more than expected) at `at`, when this rate
    /// had been allowed for since the last word.
    pub(super) fn note(&mut self, missing: f64, limit: u64, at: Instant) {
        let since = self
            .seen
            .map_or(MEMORY, |seen| at.saturating_duration_since(seen));
        self.seen = Some(self.seen.map_or(at, |seen| seen.max(at)));
        if since > FORGET {
            self.per_minute = 0.0;
        }
        // The limit of (1 - e^(-t/M)) / t for short times; a burst of answers shares one moment.
        let seconds = since.as_secs_f64().max(1e-3);
        let weight = -(-seconds / MEMORY.as_secs_f64()).exp_m1() / seconds;
        let most = MOST * as_f64(limit);
        self.per_minute = (self.per_minute + missing * weight * 60.0).clamp(0.0, most);
    }

    /// Tokens a minute to leave to others.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between zero and the limit"
    )]
    pub(super) fn per_minute(&self, limit: u64) -> u64 {
        let above_noise = self.per_minute - NOISE * as_f64(limit);
        above_noise.max(0.0) as u64
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
const fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_neighbour_is_found_and_forgotten() {
        let start = Instant::now();
        let mut foreign = Foreign::default();
        // Five a second, seen twice a second; what is allowed for already is not missing.
        for half in 0..120_u32 {
            let at = start + Duration::from_millis(500) * half;
            let missing = 2.5 - foreign.per_minute / 120.0;
            foreign.note(missing, 600, at);
        }
        assert!(
            (270..=290).contains(&foreign.per_minute(600)),
            "{foreign:?}"
        );
        for half in 120..240_u32 {
            let at = start + Duration::from_millis(500) * half;
            foreign.note(-foreign.per_minute / 120.0, 600, at);
        }
        assert_eq!(foreign.per_minute(600), 0);
    }

    #[test]
    fn nonsense_leaves_a_tenth_of_the_limit() {
        let start = Instant::now();
        let mut foreign = Foreign::default();
        for _ in 0..10 {
            foreign.note(1e300, 600, start);
        }
        assert!(foreign.per_minute(600) <= 540);
        foreign.note(-1e300, 600, start);
        assert_eq!(foreign.per_minute(600), 0);
        foreign.note(50.0, 600, start + FORGET * 2);
        assert!(foreign.per_minute(600) < 60);
    }
}
