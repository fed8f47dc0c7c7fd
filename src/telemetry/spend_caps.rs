//! Spend caps that were reached: one alert for each, however many calls meet it.

use std::collections::HashMap;
use std::time::Duration;

use metrics::counter;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Most credentials remembered. Beyond it an alert may come twice, which beats none.
const MOST: usize = 1024;

/// Until when each capped credential is known to be stopped, by its fingerprint.
#[derive(Debug, Default)]
pub(super) struct SpendCaps {
    stopped: Mutex<HashMap<String, Instant>>,
}

/// A spend cap that refused an attempt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpendCap<'a> {
    /// The fingerprint of the credential behind it.
    pub(crate) fingerprint: &'a str,
    /// The configured target that met it.
    pub(crate) target: &'a str,
    /// What to do about it, in words.
    pub(crate) advice: &'a str,
    /// How long its quota stops.
    pub(crate) stop_for: Duration,
}

impl SpendCaps {
    /// Alerts unless this stop is known already.
    pub(super) fn meet(&self, cap: &SpendCap<'_>, now: Instant) {
        if !self.is_news(cap, now) {
            return;
        }
        counter!("seawall_spend_cap_stops_total", "target" => cap.target.to_owned()).increment(1);
        tracing::error!(
            upstream = cap.target,
            credential = cap.fingerprint,
            stopped_for_s = cap.stop_for.as_secs(),
            "{}",
            cap.advice
        );
    }

    fn is_news(&self, cap: &SpendCap<'_>, now: Instant) -> bool {
        let mut stopped = self.stopped.lock();
        if stopped
            .get(cap.fingerprint)
            .is_some_and(|until| *until > now)
        {
            return false;
        }
        if stopped.len() >= MOST {
            stopped.retain(|_, until| *until > now);
        }
        if stopped.len() >= MOST {
            stopped.clear();
        }
        let until = now.checked_add(cap.stop_for).unwrap_or(now);
        stopped.insert(cap.fingerprint.to_owned(), until);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cap(fingerprint: &str) -> SpendCap<'_> {
        SpendCap {
            fingerprint,
            target: "sonnet",
            advice: "raise it",
            stop_for: Duration::from_mins(10),
        }
    }

    #[test]
    fn a_stop_is_news_once_for_each_credential_and_again_after_its_end() {
        let (caps, began) = (SpendCaps::default(), Instant::now());
        assert!(caps.is_news(&cap("a"), began));
        assert!(!caps.is_news(&cap("a"), began + Duration::from_secs(599)));
        assert!(caps.is_news(&cap("b"), began));
        assert!(caps.is_news(&cap("a"), began + Duration::from_mins(10)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (caps, began) = (SpendCaps::default(), Instant::now());
        for n in 0..3 * MOST {
            assert!(caps.is_news(&cap(&n.to_string()), began));
            assert!(caps.stopped.lock().len() <= MOST);
        }
    }
}
