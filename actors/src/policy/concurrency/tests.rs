//! Growth, cuts, guards and bounds of the adaptive limit.

use proptest::prelude::*;

use super::*;

fn standard() -> AdaptiveConcurrency {
    AdaptiveConcurrency::new(ConcurrencySettings::default()).unwrap()
}

fn starting_at(initial: u32) -> AdaptiveConcurrency {
    AdaptiveConcurrency::new(ConcurrencySettings {
        initial,
        ..ConcurrencySettings::default()
    })
    .unwrap()
}

fn fill(concurrency: &mut AdaptiveConcurrency) -> Vec<Slot> {
    std::iter::from_fn(|| concurrency.try_enter()).collect()
}

/// One round trip in which the limit is used to the full and everything is opened.
fn round_trip(concurrency: &mut AdaptiveConcurrency, now: Instant) {
    let mut slots = fill(concurrency);
    for slot in &mut slots {
        concurrency.opened(slot, now);
    }
    for slot in slots {
        concurrency.left(slot, Leaving::Success, now);
    }
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let refused = |change: fn(&mut ConcurrencySettings)| {
        let mut settings = ConcurrencySettings::default();
        change(&mut settings);
        AdaptiveConcurrency::new(settings).unwrap_err().field
    };
    assert_eq!(refused(|s| s.most = 0), "concurrency.most");
    assert_eq!(refused(|s| s.most = 1_000_001), "concurrency.most");
    assert_eq!(refused(|s| s.least = 0), "concurrency.least");
    assert_eq!(refused(|s| s.least = 16_385), "concurrency.least");
    assert_eq!(refused(|s| s.initial = 0), "concurrency.initial");
    assert_eq!(refused(|s| s.initial = 16_385), "concurrency.initial");
    assert_eq!(refused(|s| s.calm = Duration::ZERO), "concurrency.calm");
    assert_eq!(refused(|s| s.calm = Duration::MAX), "concurrency.calm");
}

#[test]
fn what_is_full_admits_no_more_until_one_leaves() {
    let now = Instant::now();
    let mut concurrency = standard();
    let mut slots = fill(&mut concurrency);
    assert_eq!((slots.len(), concurrency.in_flight()), (8, 8));
    assert_eq!(concurrency.try_enter(), None);
    let slot = slots.pop().unwrap();
    concurrency.left(slot, Leaving::Neutral, now);
    assert_eq!((concurrency.limit(), concurrency.room()), (8, 1));
}

#[test]
fn until_the_first_loss_the_limit_doubles_with_each_round_trip() {
    let now = Instant::now();
    let mut concurrency = standard();
    for limit in [16, 32, 64, 128, 256] {
        round_trip(&mut concurrency, now);
        assert_eq!(concurrency.limit(), limit);
    }
}

#[test]
fn the_largest_limit_is_kept() {
    let now = Instant::now();
    let mut concurrency = standard();
    for _ in 0..20 {
        round_trip(&mut concurrency, now);
    }
    assert_eq!(concurrency.limit(), 16_384);
}

#[test]
fn a_stream_counts_when_it_opens_and_not_again_when_it_ends() {
    let now = Instant::now();
    let mut concurrency = standard();
    let mut slots = fill(&mut concurrency);
    for _ in 0..3 {
        concurrency.opened(&mut slots[0], now);
    }
    assert_eq!(concurrency.limit(), 9);
    let opened = slots.remove(0);
    concurrency.left(opened, Leaving::Success, now);
    assert_eq!(concurrency.limit(), 9);
    concurrency.left(slots.remove(0), Leaving::Success, now);
    assert_eq!(concurrency.limit(), 10);
}

#[test]
fn after_a_loss_a_round_trip_adds_one_and_after_a_calm_it_doubles_again() {
    let start = Instant::now();
    let mut concurrency = starting_at(20);
    let mut slots = fill(&mut concurrency);
    concurrency.left(slots.pop().unwrap(), Leaving::Lost, start);
    assert_eq!(concurrency.limit(), 14);
    for slot in slots {
        concurrency.left(slot, Leaving::Neutral, start);
    }
    let almost = start + Duration::from_millis(9_999);
    for limit in 15..20 {
        round_trip(&mut concurrency, almost);
        // 14 successes of which each adds a little less than the one before.
        assert!((limit - 1..=limit).contains(&concurrency.limit()));
    }
    let before = concurrency.limit();
    round_trip(&mut concurrency, start + Duration::from_secs(10));
    assert_eq!(concurrency.limit(), before * 2);
}

#[test]
fn failures_at_once_are_one_cut() {
    let now = Instant::now();
    let mut concurrency = starting_at(64);
    let mut slots = fill(&mut concurrency);
    for slot in slots.drain(..8) {
        concurrency.left(slot, Leaving::Lost, now);
    }
    assert_eq!(concurrency.limit(), 44);
    assert_eq!(slots.len(), 56);
}

#[test]
fn only_what_was_let_in_after_a_cut_can_cut_again() {
    let now = Instant::now();
    let mut concurrency = starting_at(10);
    let mut before = fill(&mut concurrency);
    concurrency.left(before.pop().unwrap(), Leaving::Lost, now);
    assert_eq!(concurrency.limit(), 7);
    for slot in before.drain(..4) {
        concurrency.left(slot, Leaving::Neutral, now);
    }
    // The same instant, but after the cut.
    let after = concurrency.try_enter().unwrap();
    let late = now + Duration::from_secs(1);
    concurrency.left(before.pop().unwrap(), Leaving::Lost, late);
    assert_eq!(concurrency.limit(), 7);
    concurrency.left(after, Leaving::Lost, late);
    assert_eq!(concurrency.limit(), 4);
}

#[test]
fn few_in_flight_neither_raise_nor_cut_the_limit() {
    let now = Instant::now();
    let mut concurrency = starting_at(64);
    for _ in 0..1_000 {
        let slots: Vec<Slot> = (0..31).filter_map(|_| concurrency.try_enter()).collect();
        for (n, slot) in slots.into_iter().enumerate() {
            let leaving = if n % 2 == 0 {
                Leaving::Success
            } else {
                Leaving::Lost
            };
            concurrency.left(slot, leaving, now);
        }
    }
    assert_eq!((concurrency.limit(), concurrency.in_flight()), (64, 0));
}

#[test]
fn a_target_that_loses_everything_keeps_one_and_recovers_from_there() {
    let mut now = Instant::now();
    let mut concurrency = standard();
    for _ in 0..20 {
        for slot in fill(&mut concurrency) {
            concurrency.left(slot, Leaving::Lost, now);
        }
        now += Duration::from_millis(100);
    }
    assert_eq!(concurrency.limit(), 1);
    for _ in 0..10 {
        round_trip(&mut concurrency, now);
    }
    assert!((5..=11).contains(&concurrency.limit()));
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Enter,
    Open(usize),
    Leave(usize, Leaving),
    Pass(u64),
    Back(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let leaving = prop_oneof![
        4 => Just(Leaving::Success),
        1 => Just(Leaving::Lost),
        1 => Just(Leaving::Neutral),
    ];
    prop_oneof![
        12 => Just(Step::Enter),
        3 => any::<usize>().prop_map(Step::Open),
        6 => (any::<usize>(), leaving).prop_map(|(n, leaving)| Step::Leave(n, leaving)),
        1 => (0_u64..20_000).prop_map(Step::Pass),
        1 => (0_u64..20_000).prop_map(Step::Back),
    ]
}

proptest! {
    #[test]
    fn the_limit_keeps_its_bounds_and_nothing_in_flight_is_lost_or_counted_twice(
        steps in proptest::collection::vec(step(), 0..600),
        bounds in (1_u32..20, 0_u32..20, 0_u32..200),
    ) {
        let (least, above, more) = bounds;
        let (initial, most) = (least + above, least + above + more);
        let settings = ConcurrencySettings { initial, least, most, ..ConcurrencySettings::default() };
        let mut concurrency = AdaptiveConcurrency::new(settings).unwrap();
        let mut now = Instant::now() + Duration::from_hours(1);
        let mut slots: Vec<Slot> = Vec::new();
        let mut most_in_flight = 0;
        for step in steps {
            let (limit, cuts) = (concurrency.limit(), concurrency.cuts);
            match step {
                Step::Enter => {
                    let has_room = concurrency.in_flight() < concurrency.limit();
                    let slot = concurrency.try_enter();
                    prop_assert_eq!(slot.is_some(), has_room);
                    slots.extend(slot);
                }
                Step::Open(n) if !slots.is_empty() => {
                    let n = n % slots.len();
                    concurrency.opened(&mut slots[n], now);
                }
                Step::Leave(n, leaving) if !slots.is_empty() => {
                    let slot = slots.swap_remove(n % slots.len());
                    let may_cut = leaving == Leaving::Lost && slot.cuts == concurrency.cuts;
                    concurrency.left(slot, leaving, now);
                    prop_assert!(may_cut || concurrency.cuts == cuts);
                }
                Step::Open(_) | Step::Leave(..) => {}
                Step::Pass(millis) => now += Duration::from_millis(millis),
                Step::Back(millis) => now -= Duration::from_millis(millis),
            }
            prop_assert_eq!(concurrency.in_flight() as usize, slots.len());
            most_in_flight = most_in_flight.max(concurrency.in_flight());
            prop_assert!((least..=most).contains(&concurrency.limit()));
            prop_assert!(concurrency.limit() <= initial.max(2 * most_in_flight));
            prop_assert!(concurrency.limit() <= limit + 1, "one outcome adds at most one");
            prop_assert!(concurrency.limit() >= limit || concurrency.cuts == cuts + 1);
        }
        for slot in slots {
            concurrency.left(slot, Leaving::Neutral, now);
        }
        prop_assert_eq!(concurrency.in_flight(), 0);
    }
}
