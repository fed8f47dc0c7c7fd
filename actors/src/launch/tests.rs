//! When launches come, in virtual time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use proptest::prelude::*;
use tokio::time::{advance, sleep};

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

async fn times(mut launches: Launches) -> Vec<Duration> {
    let start = Instant::now();
    let mut times = Vec::new();
    while let Some(number) = launches.next().await {
        assert_eq!(number, times.len());
        times.push(start.elapsed());
    }
    times
}

#[tokio::test(start_paused = true)]
async fn a_hundred_runs_over_a_minute_are_one_every_600_ms() {
    let spread = Spread::over(MINUTE).unwrap().seeded(1);
    let times = times(spread.launches(100)).await;
    assert_eq!(times.len(), 100);
    assert_eq!(times[0], Duration::ZERO);
    for (number, at) in times.iter().enumerate() {
        let nominal = Duration::from_millis(600) * u32::try_from(number).unwrap();
        let late = at.saturating_sub(nominal);
        assert!(
            *at >= nominal && late <= Duration::from_millis(151),
            "{number}: {at:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn many_runs_keep_to_the_span_although_timers_are_coarse() {
    let spread = Spread::over(MINUTE).unwrap().seeded(1);
    let times = times(spread.launches(50_000)).await;
    let last = *times.last().unwrap();
    assert!(last > MINUTE - Duration::from_millis(10) && last < MINUTE + Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_times_and_another_gives_others() {
    let spread = Spread::over(MINUTE).unwrap();
    let first = times(spread.seeded(1).launches(20)).await;
    assert_eq!(first, times(spread.seeded(1).launches(20)).await);
    assert_ne!(first, times(spread.seeded(2).launches(20)).await);
}

#[tokio::test(start_paused = true)]
async fn a_rate_needs_no_number_of_runs() {
    let start = Instant::now();
    let mut launches = Spread::per_second(5.0).unwrap().endless(NonZeroU32::MIN);
    for number in 0..=50 {
        assert_eq!(launches.next().await, Some(number));
    }
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(10) && took <= Duration::from_millis(10_051));
}

#[tokio::test(start_paused = true)]
async fn a_launch_that_nobody_waited_for_is_not_lost_and_not_made_up_for() {
    let start = Instant::now();
    let mut launches = Spread::per_second(1.0).unwrap().seeded(1).launches(4);
    assert_eq!(launches.next().await, Some(0));
    for _ in 0..10 {
        assert_eq!(launches.next().now_or_never(), None);
    }
    assert_eq!(launches.next().await, Some(1));
    assert!(start.elapsed() < Duration::from_millis(1_251));
    advance(Duration::from_secs(30)).await;
    assert_eq!(launches.next().now_or_never(), None, "only its jitter late");
    assert_eq!(launches.next().await, Some(2));
    let third = Instant::now();
    assert_eq!(launches.next().await, Some(3));
    assert!(third.elapsed() >= Duration::from_millis(750));
    assert_eq!(launches.next().await, None);
    assert_eq!(launches.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn runs_overlap_and_answers_come_as_they_are_ready() {
    let start = Instant::now();
    let spread = Spread::over(Duration::from_secs(10)).unwrap().seeded(3);
    let answers: Vec<(usize, u64)> = launch_spread([30, 1, 5], spread, |seconds| async move {
        sleep(Duration::from_secs(seconds)).await;
        seconds
    })
    .collect()
    .await;
    assert_eq!(answers, [(1, 1), (2, 5), (0, 30)]);
    assert_eq!(start.elapsed(), Duration::from_secs(30));
}

#[tokio::test(start_paused = true)]
async fn nothing_starts_twice_and_a_dropped_batch_starts_no_more() {
    let started = Arc::new(AtomicUsize::new(0));
    let spread = Spread::over(Duration::from_secs(10)).unwrap().seeded(3);
    let mut batch = Box::pin(launch_spread(0..10, spread, |_| {
        started.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_secs(3))
    }));
    assert_eq!(batch.next().await, Some((0, ())));
    assert_eq!(started.load(Ordering::Relaxed), 3);
    drop(batch);
    advance(MINUTE).await;
    assert_eq!(started.load(Ordering::Relaxed), 3);
    let spread = Spread::over(Duration::from_secs(10)).unwrap();
    let numbers: Vec<_> = launch_spread(0..10, spread, |item| async move { item })
        .collect()
        .await;
    assert_eq!(numbers, (0..10).map(|n| (n, n)).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn an_empty_batch_is_through_at_once() {
    let spread = Spread::over(MINUTE).unwrap();
    let none: Vec<(usize, ())> = launch_spread([], spread, |(): ()| async {}).collect().await;
    assert!(none.is_empty());
    assert_eq!(spread.launches(0).next().now_or_never(), Some(None));
}

#[test]
fn spreads_out_of_range_are_refused_by_name() {
    for span in [Duration::ZERO, Duration::from_hours(25)] {
        assert_eq!(Spread::over(span).unwrap_err().field, "stagger");
    }
    for rate in [0.0, -1.0, 1e7, f64::NAN, f64::INFINITY] {
        let refused = Spread::per_second(rate).unwrap_err();
        assert_eq!(refused.field, "stagger.per_second");
    }
}

proptest! {
    #[test]
    fn launches_keep_their_order_and_distance_for_every_seed(
        seed: u64,
        runs in 1_usize..60,
        millis in 100_u64..100_000,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let span = Duration::from_millis(millis);
        let spread = Spread::over(span).unwrap().seeded(seed);
        let times = runtime.block_on(times(spread.launches(runs)));
        prop_assert_eq!(times.len(), runs);
        prop_assert_eq!(times[0], Duration::ZERO);
        let interval = span / u32::try_from(runs).unwrap();
        // A timer may be a millisecond late.
        let least = interval.mul_f64(0.75).saturating_sub(Duration::from_millis(1));
        for pair in times.windows(2) {
            prop_assert!(pair[1] - pair[0] >= least);
        }
        prop_assert!(times[runs - 1] <= span + Duration::from_millis(2));
    }
}
