//! Spend caps that were reached. A cap is a credential's: whichever model met it, the others of that
//! credential have nothing to spend either.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::verdict::Judged;

/// Most credentials remembered. Beyond it an alert may come twice, which beats none, and a model that
/// has not met the cap yet finds out by one refused request.
const MOST: usize = 1024;

/// A cap that names a farther end is looked at again after this: caps end with their month.
const LONGEST: Duration = Duration::from_hours(31 * 24);

/// The capped credentials, by fingerprint. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct SpendCaps {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Whether there are any; for most calls there are none.
    any: AtomicBool,
    reached: Mutex<HashMap<String, Reached>>,
}

/// A cap that was reached.
#[derive(Debug, Clone)]
pub(super) struct Reached {
    /// When it lifts, or is looked at again.
    pub(super) until: Instant,
    /// The refusal that told it.
    pub(super) judged: Arc<Judged>,
}

impl SpendCaps {
    /// Takes in that a cap has refused an attempt and stops its credential for so long. Whether that is
    /// news.
    pub(super) fn meet(
        &self,
        fingerprint: &str,
        judged: &Judged,
        stop_for: Duration,
        now: Instant,
    ) -> bool {
        let mut reached = self.shared.reached.lock();
        if reached.get(fingerprint).is_some_and(|cap| cap.until > now) {
            return false;
        }
        if reached.len() >= MOST {
            reached.retain(|_, cap| cap.until > now);
        }
        if reached.len() >= MOST {
            reached.clear();
        }
        let cap = Reached {
            until: now + stop_for.min(LONGEST),
            judged: Arc::new(judged.clone()),
        };
        reached.insert(fingerprint.to_owned(), cap);
        self.shared.any.store(true, Ordering::Relaxed);
        true
    }

    /// The cap that stops a credential at `now`.
    pub(super) fn on(&self, fingerprint: &str, now: Instant) -> Option<Reached> {
        if !self.shared.any.load(Ordering::Relaxed) {
            return None;
        }
        let reached = self.shared.reached.lock();
        let cap = reached.get(fingerprint)?;
        (cap.until > now).then(|| cap.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHILE: Duration = Duration::from_mins(10);

    #[test]
    fn a_stop_is_news_once_for_each_credential_and_again_after_its_end() {
        let (caps, began) = (SpendCaps::default(), Instant::now());
        let meet = |fingerprint, after| {
            caps.meet(
                fingerprint,
                &Judged::ok(),
                WHILE,
                began + Duration::from_secs(after),
            )
        };
        assert!(caps.on("a", began).is_none());
        assert!(meet("a", 0));
        assert!(!meet("a", 599));
        assert!(meet("b", 0));
        assert_eq!(
            caps.on("a", began).map(|cap| cap.until),
            Some(began + WHILE)
        );
        assert!(caps.on("a", began + WHILE).is_none());
        assert!(caps.on("c", began).is_none());
        assert!(meet("a", 600));
    }

    #[test]
    fn no_cap_is_believed_for_longer_than_a_month() {
        let (caps, began) = (SpendCaps::default(), Instant::now());
        assert!(caps.meet("a", &Judged::ok(), Duration::MAX, began));
        assert!(caps.on("a", began + LONGEST).is_none());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (caps, began) = (SpendCaps::default(), Instant::now());
        for n in 0..3 * MOST {
            assert!(caps.meet(&n.to_string(), &Judged::ok(), WHILE, began));
            assert!(caps.shared.reached.lock().len() <= MOST);
        }
    }
}
