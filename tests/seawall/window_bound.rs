//! How much a quota admits in any window: its rate's worth and a burst, less the one at the edge.
//!
//! A provider that enforces a sliding minute sees nearly twice the limit from a bucket that holds a
//! whole minute, and 9 % more from one that holds a tenth of it.

use std::time::Duration;

use proptest::prelude::*;
use seawall_actors::policy::quota::{Cost, Quota, QuotaSettings};
use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(60);
const LIMIT: u64 = 100;
const ONE: Cost = Cost {
    requests: 1,
    input: 0,
    output: 0,
};

/// A hundred requests a minute with a bucket for `burst` of them.
fn quota(burst: u32, now: Instant) -> Quota {
    let settings = QuotaSettings {
        requests_per_minute: Some(LIMIT),
        burst: Duration::from_millis(600) * burst,
        ..QuotaSettings::default()
    };
    let quota = Quota::new(settings, now).expect("a valid quota");
    assert_eq!(
        quota.view(now).axes[0].map(|axis| axis.burst),
        Some(burst.into())
    );
    quota
}

fn admits(quota: &mut Quota, now: Instant) -> bool {
    match quota.try_reserve(ONE, now + WINDOW, now) {
        Ok(lease) => quota.settle(lease, ONE, now),
        Err(_) => false,
    }
}

/// The fullest half-open window that starts with an admission; no other can hold more.
fn fullest(admitted: &[Instant]) -> usize {
    let mut first = 0;
    let mut most = 0;
    for (last, &at) in admitted.iter().enumerate() {
        while at - admitted[first] >= WINDOW {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

/// Trap 39.
#[test]
fn trap_39_the_greediest_client_reaches_the_bound_and_no_more() {
    for (burst, most) in [(100, 199), (10, 109), (1, 100)] {
        let start = Instant::now();
        let mut quota = quota(burst, start);
        let mut admitted = Vec::new();
        for step in 0..180_000 {
            let now = start + Duration::from_millis(step);
            while admits(&mut quota, now) {
                admitted.push(now);
            }
        }
        assert_eq!(fullest(&admitted), most, "burst {burst}");
    }
}

proptest! {
    #[test]
    fn no_sequence_of_arrivals_passes_the_bound(
        burst in prop::sample::select(vec![1_u32, 2, 10, 37, 100]),
        arrivals in prop::collection::vec((0_u64..40_000, 1_usize..60), 1..200),
        scale in prop::sample::select(vec![1_u64, 30, 1_000, 100_000]),
    ) {
        let mut now = Instant::now();
        let mut quota = quota(burst, now);
        let mut admitted = Vec::new();
        for (gap, calls) in arrivals {
            now += Duration::from_micros(gap * scale / 10);
            for _ in 0..calls {
                if admits(&mut quota, now) {
                    admitted.push(now);
                }
            }
        }
        let bound = usize::try_from(LIMIT + u64::from(burst) - 1).expect("small");
        prop_assert!(fullest(&admitted) <= bound);
    }
}
