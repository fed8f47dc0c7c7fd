//! Buckets, leases and what is learned.

use proptest::prelude::*;

use super::*;
use crate::policy::token_bucket::TokenBucket;

mod provider;

const MINUTE: Duration = Duration::from_secs(60);

fn cost(requests: u64, input: u64, output: u64) -> Cost {
    Cost {
        requests,
        input,
        output,
    }
}

/// One request and 1000 tokens of each kind a second, with a burst of ten seconds.
fn quota(now: Instant) -> Quota {
    let settings = QuotaSettings {
        requests_per_minute: Some(60),
        input_per_minute: Some(60_000),
        output_per_minute: Some(60_000),
        burst: Duration::from_secs(10),
        ..QuotaSettings::default()
    };
    Quota::new(settings, now).unwrap()
}

fn levels(quota: &Quota, now: Instant) -> [i64; 3] {
    quota.view(now).axes.map(|axis| axis.unwrap().level)
}

fn word(limit: Option<u64>, remaining: Option<u64>) -> Option<AxisWord> {
    Some(AxisWord {
        limit,
        remaining,
        rounded_to: 1,
    })
}

#[test]
fn settings_out_of_range_are_refused_by_name() {
    let now = Instant::now();
    let refused = |settings| Quota::new(settings, now).unwrap_err().field;
    let base = QuotaSettings::default();
    assert_eq!(
        refused(QuotaSettings {
            input_per_minute: Some(0),
            ..base
        }),
        "quota.input_tokens_per_minute"
    );
    assert_eq!(
        refused(QuotaSettings {
            burst: MINUTE * 2,
            ..base
        }),
        "quota.burst"
    );
    assert_eq!(
        refused(QuotaSettings {
            lease_grace: MINUTE * 61,
            ..base
        }),
        "quota.lease_grace"
    );
}

#[test]
fn by_default_a_bucket_holds_one_second_of_its_rate_and_at_least_one() {
    let now = Instant::now();
    let settings = QuotaSettings {
        requests_per_minute: Some(5),
        input_per_minute: Some(100_000),
        ..QuotaSettings::default()
    };
    let view = Quota::new(settings, now).unwrap().view(now);
    assert_eq!(view.axes[0].unwrap().burst, 1);
    assert_eq!(view.axes[1].unwrap().burst, 1_666);
    assert_eq!(view.axes[2], None);
}

/// Trap 33: the check and the taking are one step, on all axes.
#[test]
fn trap_33_a_request_that_one_axis_refuses_takes_nothing_from_the_others() {
    let now = Instant::now();
    let mut quota = quota(now);
    quota
        .try_reserve(cost(1, 0, 9_500), now + MINUTE, now)
        .unwrap();
    let refused = quota
        .try_reserve(cost(1, 100, 1_000), now + MINUTE, now)
        .unwrap_err();
    assert_eq!(refused.axis, Some(Axis::Output));
    assert_eq!(refused.at, now + Duration::from_millis(500));
    assert_eq!(levels(&quota, now), [9, 10_000, 500]);
    assert!(
        quota
            .try_reserve(cost(1, 100, 1_000), now + MINUTE, refused.at)
            .is_ok()
    );
}

#[test]
fn what_asks_nothing_of_an_axis_does_not_wait_for_its_debt() {
    let now = Instant::now();
    let mut quota = quota(now);
    quota
        .try_reserve(cost(1, 0, 50_000), now + MINUTE, now)
        .unwrap();
    assert_eq!(levels(&quota, now)[2], -40_000);
    assert!(
        quota
            .try_reserve(cost(1, 100, 0), now + MINUTE, now)
            .is_ok()
    );
}

/// Trap 34: an estimate is settled both ways.
#[test]
fn trap_34_settling_below_gives_back_and_settling_above_becomes_debt() {
    let now = Instant::now();
    let mut quota = quota(now);
    let low = quota
        .try_reserve(cost(1, 4_000, 4_000), now + MINUTE, now)
        .unwrap();
    let high = quota
        .try_reserve(cost(1, 4_000, 4_000), now + MINUTE, now)
        .unwrap();
    assert!(quota.settle(low, cost(1, 4_000, 300), now));
    assert_eq!(levels(&quota, now), [8, 2_000, 5_700]);
    assert!(quota.settle(high, cost(1, 4_000, 12_000), now));
    assert_eq!(levels(&quota, now), [8, 2_000, -2_300]);
    assert_eq!((quota.in_flight(), quota.outstanding()), (0, Cost::ZERO));
}

/// Trap 35: a late or double release must not mint tokens.
#[test]
fn trap_35_a_lease_settled_or_swept_before_changes_nothing() {
    let now = Instant::now();
    let mut quota = quota(now);
    let id = quota
        .try_reserve(cost(1, 5_000, 5_000), now + MINUTE, now)
        .unwrap();
    let hung = quota
        .try_reserve(cost(1, 1_000, 1_000), now + MINUTE, now)
        .unwrap();
    assert!(quota.refund(id, now));
    assert!(!quota.refund(id, now));
    assert!(!quota.settle(LeaseId::nth(77), cost(9, 9, 9), now));
    assert_eq!(levels(&quota, now), [9, 9_000, 9_000]);

    let due = now + MINUTE + Duration::from_secs(5);
    assert_eq!(quota.next_expiry(), Some(due));
    assert_eq!(quota.sweep(due - Duration::from_nanos(1)), 0);
    assert_eq!(quota.sweep(due), 1);
    assert_eq!((quota.in_flight(), quota.next_expiry()), (0, None));
    assert!(!quota.settle(hung, Cost::ZERO, due));
}

#[test]
fn a_lease_with_an_absurd_expiry_is_granted_and_settled() {
    let now = Instant::now();
    let mut quota = quota(now);
    let far = now + Duration::from_secs(u64::from(u32::MAX));
    let all = cost(u64::MAX, u64::MAX, u64::MAX);
    let id = quota.try_reserve(all, far, now).unwrap();
    assert!(quota.settle(id, all, now));
    assert_eq!(quota.outstanding(), Cost::ZERO);
    // Trap 19: a debt beyond reason is a long wait, and no overflow.
    assert!(quota.ready_at(cost(1, 1, 1), now) > now + MINUTE);
}

#[test]
fn a_learned_limit_creates_a_bucket_and_never_passes_a_configured_one() {
    let now = Instant::now();
    let settings = QuotaSettings {
        requests_per_minute: Some(600),
        ..QuotaSettings::default()
    };
    let mut quota = Quota::new(settings, now).unwrap();
    let mut say = |requests, input| {
        let axes = [word(Some(requests), None), word(Some(input), None), None];
        quota.learn(
            &Learned {
                axes,
                ..Learned::default()
            },
            now,
        );
        quota
            .view(now)
            .axes
            .map(|axis| axis.map(|axis| (axis.limit, axis.burst)))
    };
    assert_eq!(
        say(6_000, 120_000),
        [Some((600, 10)), Some((120_000, 2_000)), None]
    );
    assert_eq!(
        say(60, 240_000),
        [Some((60, 1)), Some((240_000, 4_000)), None]
    );
    assert_eq!(say(0, 0), [Some((60, 1)), Some((240_000, 4_000)), None]);
    assert_eq!(say(6_000, u64::MAX)[0], Some((600, 10)));
}

#[test]
fn a_lease_older_than_its_bucket_is_not_given_back_to_it() {
    let now = Instant::now();
    let mut quota = Quota::new(QuotaSettings::default(), now).unwrap();
    let id = quota
        .try_reserve(cost(1, 5_000, 4_000), now + MINUTE, now)
        .unwrap();
    let axes = [
        None,
        word(Some(60_000), Some(20_000)),
        word(Some(60_000), None),
    ];
    quota.learn(
        &Learned {
            axes,
            ..Learned::default()
        },
        now,
    );
    quota
        .try_reserve(cost(1, 800, 800), now + MINUTE, now)
        .unwrap();
    assert!(quota.settle(id, cost(1, 5_000, 100), now));
    let level = |axis: Axis| quota.view(now).axes[axis.index()].unwrap().level;
    assert_eq!((level(Axis::Input), level(Axis::Output)), (200, 200));
}

#[test]
fn a_word_without_a_lease_only_lowers() {
    let now = Instant::now();
    let mut quota = quota(now);
    let say = |quota: &mut Quota, remaining: u64| {
        let word = word(Some(60_000), Some(remaining));
        let learned = Learned {
            axes: [None, word, word],
            ..Learned::default()
        };
        quota.learn(&learned, now);
        [1, 2].map(|axis| levels(quota, now)[axis])
    };
    assert_eq!(say(&mut quota, 50_000), [10_000, 10_000]);
    assert_eq!(say(&mut quota, 7_000), [7_000, 7_000]);
    assert_eq!(say(&mut quota, 60_000), [7_000, 7_000]);
}

#[test]
fn a_stop_holds_everything_and_is_never_shortened() {
    let now = Instant::now();
    let mut quota = quota(now);
    let mut stop = |secs| {
        let stop_for = Some(Duration::from_secs(secs));
        quota.learn(
            &Learned {
                stop_for,
                ..Learned::default()
            },
            now,
        );
        quota
            .try_reserve(cost(1, 1, 1), now + MINUTE, now)
            .unwrap_err()
    };
    let until = now + Duration::from_secs(30);
    assert_eq!(stop(30), NotUntil::lacking(until, None));
    assert_eq!(stop(2), NotUntil::lacking(until, None));
    assert_eq!(stop(u64::MAX), NotUntil::lacking(now + LONGEST_STOP, None));
}

#[test]
fn a_stop_says_which_limit_is_behind_it() {
    let now = Instant::now();
    let mut quota = quota(now);
    let mut stop = |secs, refused_by| {
        let learned = Learned {
            stop_for: Some(Duration::from_secs(secs)),
            refused_by,
            ..Learned::default()
        };
        quota.learn(&learned, now);
        let refused = quota.try_reserve(cost(1, 1, 1), now + MINUTE, now);
        (refused.unwrap_err().stopped_by, quota.view(now).stopped_by)
    };
    assert_eq!(stop(30, None), (None, None));
    let cap = Some(RefusedBy::SpendCap);
    assert_eq!(stop(60, cap), (cap, cap));
    let shorter = stop(40, Some(RefusedBy::Bucket(None)));
    assert_eq!(shorter, (cap, cap));
    let after = now + MINUTE;
    assert_eq!(quota.stopped_by(after), None);
    assert!(
        quota
            .try_reserve(cost(1, 1, 1), after + MINUTE, after)
            .is_ok()
    );
}

/// A quota that knows nothing, and what the first answer makes of it.
fn taught(learned: &Learned, sent: Cost, now: Instant) -> Quota {
    let settings = QuotaSettings {
        find_burst: true,
        ..QuotaSettings::default()
    };
    let mut quota = Quota::new(settings, now).unwrap();
    let lease = quota.try_reserve(sent, now + MINUTE, now).unwrap();
    quota.heard(lease, learned, now);
    quota.settle(lease, Cost::ZERO, now);
    quota
}

#[test]
fn an_empty_bucket_is_waited_for_as_told_and_not_until_it_is_full() {
    let now = Instant::now();
    let empty = Learned {
        axes: [word(Some(60), Some(0)), None, None],
        stop_for: Some(MINUTE / 2),
        refused_by: Some(RefusedBy::Bucket(Some(Axis::Requests))),
        ..Learned::default()
    };
    let quota = taught(&empty, cost(1, 10, 10), now);
    assert_eq!(quota.ready_at(cost(1, 10, 10), now), now + MINUTE / 2);
}

#[test]
fn a_full_bucket_that_refuses_two_requests_in_a_row_is_waited_for_by_all() {
    let now = Instant::now();
    let hint = MINUTE / 2;
    let full = |limit| Learned {
        axes: [
            word(Some(60), Some(60)),
            word(Some(limit), Some(limit)),
            None,
        ],
        hint: Some(hint),
        refused_by: Some(RefusedBy::Bucket(None)),
        ..Learned::default()
    };
    let stops = |input, accepted: bool| {
        let mut quota = taught(&full(30_000), cost(1, input, 0), now);
        let mut at = now;
        let mut send = |learned: &Learned| {
            at = quota.ready_at(cost(1, input, 0), at).max(at);
            let lease = quota.try_reserve(cost(1, input, 0), at + MINUTE, at);
            let lease = lease.unwrap();
            quota.heard(lease, learned, at);
            quota.settle(lease, Cost::ZERO, at);
            (at, quota.view(at))
        };
        if accepted {
            let (at, _) = send(&Learned {
                accepted: true,
                ..Learned::default()
            });
            assert!(at < now + hint);
        }
        let (at, view) = send(&full(30_000));
        assert!(at < now + hint, "the first stopped nobody");
        view.stopped_until.map(|until| until - at)
    };
    assert_eq!(stops(10, false), Some(hint));
    assert_eq!(stops(10, true), None, "something passes");
    assert_eq!(stops(40_000, false), None, "too large for a full bucket");
}

#[test]
fn a_queue_behind_a_stop_finds_full_buckets_and_no_more() {
    let now = Instant::now();
    let mut quota = quota(now);
    let stop_for = Some(Duration::from_secs(100));
    quota.learn(
        &Learned {
            stop_for,
            ..Learned::default()
        },
        now,
    );
    assert_eq!(
        quota.wait_for(cost(10, 0, 0), now),
        Duration::from_secs(100)
    );
    assert_eq!(
        quota.wait_for(cost(30, 0, 0), now),
        Duration::from_secs(120)
    );
}

#[test]
fn a_request_above_the_burst_does_not_predict_a_wait_that_it_will_not_have() {
    let now = Instant::now();
    let quota = quota(now);
    let large = cost(1, 200_000, 0);
    assert_eq!(quota.ready_at(large, now), now);
    assert_eq!(quota.wait_behind(Cost::ZERO, large, now), Duration::ZERO);
    assert_eq!(
        quota.wait_behind(cost(1, 5_000, 0), large, now),
        Duration::from_secs(5)
    );
    assert_eq!(quota.wait_for(large, now), Duration::from_secs(190));
}

#[test]
fn a_conservative_replacement_starts_empty_and_keeps_debt_and_leases() {
    let now = Instant::now();
    let mut quota = quota(now);
    quota
        .try_reserve(cost(1, 1_000, 30_000), now + MINUTE, now)
        .unwrap();
    quota.make_conservative(now);
    assert_eq!(levels(&quota, now), [0, 0, -20_000]);
    assert_eq!(quota.in_flight(), 1);
}

#[derive(Debug, Clone)]
enum Step {
    Reserve(Cost),
    Settle(usize, Cost),
    Refund(usize),
    Sweep,
    Forward(u64),
    Backward(u64),
}

/// Numbers at and around every edge.
fn absurd() -> impl Strategy<Value = u64> {
    prop_oneof![
        0_u64..3,
        50_u64..70,
        0_u64..100_000,
        (u64::MAX - 2)..=u64::MAX,
        any::<u64>(),
    ]
}

fn any_learned() -> impl Strategy<Value = Learned> {
    let number = || prop::option::of(absurd());
    let word = || {
        let fields = (number(), number(), absurd());
        let word = fields.prop_map(|(limit, remaining, rounded_to)| AxisWord {
            limit,
            remaining,
            rounded_to,
        });
        prop::option::of(word)
    };
    let refused = prop_oneof![
        Just(None),
        Just(Some(RefusedBy::Bucket(None))),
        Just(Some(RefusedBy::Bucket(Some(Axis::Output)))),
        Just(Some(RefusedBy::Ramp)),
        Just(Some(RefusedBy::Connections)),
    ];
    let stop = prop::option::weighted(0.1, absurd().prop_map(Duration::from_secs));
    (word(), word(), word(), refused, stop, any::<bool>()).prop_map(
        |(a, b, c, refused_by, stop_for, accepted)| Learned {
            axes: [a, b, c],
            stop_for,
            hint: stop_for,
            refused_by,
            accepted,
        },
    )
}

fn any_cost(most: u64) -> impl Strategy<Value = Cost> {
    (0..=most, 0..=most, 0..=most).prop_map(|(a, b, c)| cost(a, b, c))
}

fn steps(most: u64) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => any_cost(most).prop_map(Step::Reserve),
        3 => (any::<usize>(), any_cost(2 * most)).prop_map(|(i, c)| Step::Settle(i, c)),
        1 => any::<usize>().prop_map(Step::Refund),
        1 => Just(Step::Sweep),
        3 => (0_u64..900_000_000).prop_map(Step::Forward),
        1 => (0_u64..900_000_000).prop_map(Step::Backward),
    ];
    prop::collection::vec(step, 1..60)
}

/// Replays steps beside a ledger of what was charged.
struct Replay {
    quota: Quota,
    start: Instant,
    now: Instant,
    latest: Instant,
    granted: Vec<(LeaseId, Cost, Instant, bool)>,
    charged: Cost,
}

impl Replay {
    fn step(&mut self, step: &Step) {
        match *step {
            Step::Reserve(cost) => {
                let expires = self.now + Duration::from_secs(2);
                if let Ok(id) = self.quota.try_reserve(cost, expires, self.now) {
                    self.granted.push((id, cost, expires, true));
                    self.charged = self.charged.saturating_add(cost);
                }
            }
            Step::Settle(pick, actual) => self.settle(pick, actual),
            Step::Refund(pick) => self.settle(pick, Cost::ZERO),
            Step::Sweep => {
                let (now, mut swept) = (self.now, 0);
                for (_, _, expires, open) in &mut self.granted {
                    if *open && *expires + Duration::from_secs(1) <= now {
                        *open = false;
                        swept += 1;
                    }
                }
                assert_eq!(self.quota.sweep(now), swept);
            }
            Step::Forward(nanos) => self.now += Duration::from_nanos(nanos),
            Step::Backward(nanos) => {
                self.now = (self.now - Duration::from_nanos(nanos)).max(self.start);
            }
        }
        self.latest = self.latest.max(self.now);
    }

    fn settle(&mut self, pick: usize, actual: Cost) {
        if self.granted.is_empty() {
            return;
        }
        let pick = pick % self.granted.len();
        let (id, reserved, _, open) = &mut self.granted[pick];
        assert_eq!(self.quota.settle(*id, actual, self.now), *open);
        if *open {
            *open = false;
            self.charged = self
                .charged
                .saturating_sub(*reserved)
                .saturating_add(actual);
        }
    }

    fn refilled(&self, per_minute: u64) -> i64 {
        let nanos = (self.latest - self.start).as_nanos();
        i64::try_from(nanos * u128::from(per_minute) / MINUTE.as_nanos()).unwrap()
    }
}

fn replay(per_minute: u64, burst: Duration, start: Instant) -> Replay {
    let settings = QuotaSettings {
        requests_per_minute: Some(per_minute),
        input_per_minute: Some(per_minute),
        output_per_minute: Some(per_minute),
        burst,
        lease_grace: Duration::from_secs(1),
        ..QuotaSettings::default()
    };
    Replay {
        quota: Quota::new(settings, start).unwrap(),
        start,
        now: start,
        latest: start,
        granted: Vec::new(),
        charged: Cost::ZERO,
    }
}

proptest! {
    /// With a burst that is never reached, not one token appears or vanishes.
    #[test]
    fn granted_less_refunded_plus_debt_is_what_was_charged(steps in steps(2_000)) {
        let mut replay = replay(60_000, MINUTE, Instant::now());
        replay.quota.make_conservative(replay.now);
        for step in &steps {
            replay.step(step);
            let refilled = replay.refilled(60_000);
            let seen = levels(&replay.quota, replay.latest);
            for (axis, level) in Axis::ALL.into_iter().zip(seen) {
                let charged = i64::try_from(replay.charged.on(axis)).unwrap();
                prop_assert_eq!(level, refilled - charged);
            }
            let open: Vec<_> = replay.granted.iter().filter(|lease| lease.3).collect();
            let held = open.iter().fold(Cost::ZERO, |sum, lease| sum.saturating_add(lease.1));
            prop_assert_eq!(replay.quota.outstanding(), held);
            prop_assert_eq!(replay.quota.in_flight(), open.len());
        }
    }

    /// Whatever a provider, a caller and a clock say, nothing overflows, no wait is endless and every lease
    /// ends: limits of 0 and of all there is, more left than the limit, stops that never end.
    #[test]
    fn absurd_words_costs_and_clocks_neither_panic_nor_shut_anybody_out(
        found in any::<bool>(),
        ceiling in prop::option::of(absurd().prop_map(|limit| limit.max(1))),
        steps in prop::collection::vec(
            (0_u8..6, any::<usize>(), any_learned(), (absurd(), absurd(), absurd()), absurd()),
            1..60,
        ),
    ) {
        let start = Instant::now();
        let settings = QuotaSettings {
            input_per_minute: ceiling,
            find_burst: found,
            ..QuotaSettings::default()
        };
        let mut quota = Quota::new(settings, start).unwrap();
        let (mut now, mut leases) = (start, Vec::new());
        for (step, pick, learned, (a, b, c), passed) in steps {
            let cost = cost(a, b, c);
            let lease = leases.get(pick % leases.len().max(1)).copied();
            match (step, lease) {
                (0, _) => now += Duration::from_millis(passed % 1_000_000),
                (1, _) => now = start.max(now - Duration::from_millis(passed % 1_000).min(now - start)),
                (2, _) => quota.learn(&learned, now),
                (3, Some(lease)) => quota.heard(lease, &learned, now),
                (4, Some(lease)) => {
                    quota.revise(lease, cost, now);
                }
                (5, Some(lease)) => {
                    quota.settle_as(lease, cost, Leaving::Lost, now);
                }
                _ => leases.extend(quota.try_reserve(cost, now + MINUTE, now)),
            }
            let view = quota.view(now);
            for axis in view.axes.into_iter().flatten() {
                prop_assert!(axis.limit > 0 && axis.burst > 0, "{axis:?}");
                prop_assert!(axis.level <= i64::try_from(axis.burst).unwrap_or(i64::MAX));
                prop_assert!(axis.foreign <= axis.limit);
            }
            let a_year = Duration::from_hours(24 * 366);
            prop_assert!(quota.ready_at(cost, now) <= start.max(now) + 2 * a_year);
            prop_assert!(quota.wait_behind(cost, cost, now) <= 2 * a_year);
        }
        quota.sweep(now + Duration::from_hours(24));
        prop_assert_eq!(quota.in_flight(), 0);
        prop_assert_eq!(quota.outstanding(), Cost::ZERO);
        prop_assert_eq!(quota.next_expiry(), None);
    }

    /// A burst that is reached loses what runs over, and never gives more than there was.
    #[test]
    fn no_interleaving_spends_more_than_the_burst_and_the_refill(steps in steps(60)) {
        let mut replay = replay(3_000, Duration::from_secs(1), Instant::now());
        for step in &steps {
            replay.step(step);
            let most = 50 + replay.refilled(3_000);
            let seen = levels(&replay.quota, replay.latest);
            for (axis, level) in Axis::ALL.into_iter().zip(seen) {
                let charged = i64::try_from(replay.charged.on(axis)).unwrap();
                prop_assert!(level <= 50);
                prop_assert!(level <= most - charged);
            }
        }
    }

    #[test]
    fn the_predicted_wait_is_when_a_strict_queue_really_serves(
        per_minute in 60_u64..100_000,
        spent in 0_u64..5_000,
        ahead in prop::collection::vec(1_u64..5_000, 0..12),
        own in 1_u64..20_000,
        stop in prop::option::of(0_u64..20_000),
    ) {
        let start = Instant::now();
        let settings = QuotaSettings { input_per_minute: Some(per_minute), ..Default::default() };
        let mut quota = Quota::new(settings, start).unwrap();
        let tokens = |input| cost(0, input, 0);
        quota.try_reserve(tokens(spent), start + MINUTE, start).unwrap();
        let stop_for = stop.map(Duration::from_millis);
        quota.learn(&Learned { stop_for, ..Learned::default() }, start);
        let predicted = quota.wait_behind(tokens(ahead.iter().sum()), tokens(own), start);
        let mut now = start;
        let burst = quota.view(start).axes[1].unwrap().burst;
        let above_burst = ahead.iter().filter(|&&input| input > burst).count();
        for input in ahead.into_iter().chain([own]) {
            now = quota.ready_at(tokens(input), now);
            quota.try_reserve(tokens(input), now + MINUTE, now).unwrap();
        }
        // A wait for a full bucket ends on a whole nanosecond, and what runs over by then is lost.
        let late = (now - start).checked_sub(predicted).unwrap();
        prop_assert!(late.as_nanos() <= u128::try_from(above_burst).unwrap());
    }
}
