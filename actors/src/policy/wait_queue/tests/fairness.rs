//! What tenants and classes are owed, and what each wait is bounded by.

use super::model::any_priority;
use super::*;

fn named(which: usize, weight: u32) -> Tenant {
    Tenant::new(format!("tenant-{which}").into(), weight)
}

fn call(tenant: &Tenant, share: u64, now: Instant) -> Entry<usize> {
    Entry {
        priority: Priority::Normal,
        tenant: tenant.clone(),
        deadline: now + AGE,
        cost: requests(share),
        share,
        item: 0,
    }
}

/// A queue in which nobody ages.
fn ageless<T>() -> WaitQueue<T> {
    WaitQueue::new(100_000, LONGEST_AGE).unwrap()
}

#[test]
fn a_flood_is_in_nobodys_way_but_its_own() {
    let now = Instant::now();
    let mut queue = ageless();
    let (flood, quiet) = (named(0, 1), named(1, 1));
    for _ in 0..10_000 {
        queue.push(call(&flood, 50, now), now).unwrap();
    }
    for _ in 0..500 {
        queue.pop_first().unwrap();
    }
    assert_eq!(queue.ahead(Priority::Normal, &quiet).calls, 1);
    let late = Entry {
        deadline: now + 9 * AGE,
        item: 1,
        ..call(&quiet, 50, now)
    };
    queue.push(late, now).unwrap();
    let served: Vec<_> = (0..2).filter_map(|_| queue.pop_first()).collect();
    assert_eq!(
        served[1].item, 1,
        "behind the call whose turn it was, no more"
    );
    assert_eq!(queue.ahead(Priority::Normal, &flood).calls, 9_499);
}

#[test]
fn coming_and_going_gains_nothing() {
    let now = Instant::now();
    let mut queue = ageless();
    let (stays, hops) = (named(0, 1), named(1, 1));
    for _ in 0..1_000 {
        queue.push(call(&stays, 1, now), now).unwrap();
    }
    let mut served = [0_u64; 2];
    // Its next call comes as soon as it has been served, and it has never more than one.
    queue
        .push(
            Entry {
                item: 1,
                ..call(&hops, 7, now)
            },
            now,
        )
        .unwrap();
    for _ in 0..400 {
        let waiting = queue.pop_first().unwrap();
        served[waiting.item] += waiting.share;
        if waiting.item == 1 {
            queue
                .push(
                    Entry {
                        item: 1,
                        ..call(&hops, 7, now)
                    },
                    now,
                )
                .unwrap();
        }
    }
    assert!(served[0].abs_diff(served[1]) <= 8, "{served:?}");
}

#[test]
fn tenants_beyond_those_that_are_tracked_share_one_place() {
    let now = Instant::now();
    let mut queue = ageless();
    let many = 3_000;
    for which in 0..many {
        let entry = Entry {
            item: which,
            ..call(&named(which, 1_000), 1, now)
        };
        queue.push(entry, now).unwrap();
    }
    let tenants = queue.by_tenant();
    assert_eq!(tenants.len(), 1_025);
    assert_eq!(tenants.values().sum::<usize>(), many);
    let mut served: Vec<_> = drain(&mut queue);
    served.sort_unstable();
    assert_eq!(served, (0..many).collect::<Vec<_>>());
    let known = queue.classes.iter().map(|class| class.known().0);
    assert_eq!(
        known.sum::<usize>(),
        0,
        "nobody is remembered once nobody waits"
    );
}

#[test]
fn a_weight_that_changes_counts_from_the_next_call_on() {
    let now = Instant::now();
    let mut queue = ageless();
    let other = named(1, 1);
    for _ in 0..500 {
        queue.push(call(&named(0, 1), 1, now), now).unwrap();
        queue
            .push(
                Entry {
                    item: 1,
                    ..call(&other, 1, now)
                },
                now,
            )
            .unwrap();
    }
    let count = |queue: &mut WaitQueue<usize>| {
        let served = (0..100).filter_map(|_| queue.pop_first());
        served.filter(|waiting| waiting.item == 0).count()
    };
    assert_eq!(count(&mut queue), 50);
    queue.push(call(&named(0, 3), 1, now), now).unwrap();
    assert!((74..=76).contains(&count(&mut queue)));
}

proptest! {
    /// Whatever sizes calls have: two tenants that both wait all the time are served in the ratio of
    /// their weights, to within one call of each.
    #[test]
    fn who_waits_all_the_time_is_served_by_weight(
        weights in prop::collection::vec(1_u32..20, 2..8),
        shares in prop::collection::vec(1_u64..1_000, 50..400),
    ) {
        let now = Instant::now();
        let mut queue = ageless();
        let tenants: Vec<_> = weights.iter().enumerate().map(|(n, w)| named(n, *w)).collect();
        for (item, tenant) in tenants.iter().enumerate() {
            queue.push(Entry { item, ..call(tenant, 1, now) }, now).unwrap();
            queue.push(Entry { item, ..call(tenant, 1_000, now) }, now).unwrap();
        }
        let mut served = vec![0_u64; weights.len()];
        for share in shares {
            let waiting = queue.pop_first().unwrap();
            served[waiting.item] += waiting.share;
            let next = Entry { item: waiting.item, ..call(&waiting.tenant, share, now) };
            queue.push(next, now).unwrap();
            let each = served.iter().zip(&weights);
            let each: Vec<_> = each.map(|(s, w)| (*s as f64, f64::from(*w))).collect();
            for (a, wa) in &each {
                for (b, wb) in &each {
                    let apart = (a / wa - b / wb).abs();
                    prop_assert!(apart <= 1_000.0 / wa + 1_000.0 / wb + 0.001, "{apart}");
                }
            }
        }
    }

    /// The first call of a tenant waits for one call of each other at the most.
    #[test]
    fn a_first_call_waits_for_one_of_each_other_tenant(
        floods in prop::collection::vec((1_u32..20, 1_usize..60, 1_u64..500), 1..12),
        served in 0_usize..100,
    ) {
        let now = Instant::now();
        let mut queue = ageless();
        for (which, (weight, calls, share)) in floods.iter().enumerate() {
            for _ in 0..*calls {
                queue.push(call(&named(which, *weight), *share, now), now).unwrap();
            }
        }
        for _ in 0..served {
            queue.pop_first();
        }
        let others = queue.by_tenant().len();
        let newcomer = Entry { item: 1, deadline: now + 9 * AGE, ..call(&named(99, 1), 1, now) };
        queue.push(newcomer, now).unwrap();
        let before = std::iter::from_fn(|| queue.pop_first()).take_while(|w| w.item == 0);
        prop_assert!(before.count() <= others);
    }

    /// What a newcomer is told is what happens, if nobody else comes: to within a call or two of
    /// each tenant that waits.
    #[test]
    fn the_prediction_is_what_happens(
        crowds in prop::collection::vec((1_u32..6, 0_usize..40), 1..20),
        served in 0_usize..200,
        who in 0_usize..20,
    ) {
        let now = Instant::now();
        let mut queue = ageless();
        for (which, (weight, calls)) in crowds.iter().enumerate() {
            for _ in 0..*calls {
                queue.push(call(&named(which, *weight), 1, now), now).unwrap();
            }
        }
        for _ in 0..served {
            queue.pop_first();
        }
        let weight = crowds.get(who).map_or(2, |crowd| crowd.0);
        let tenant = named(who, weight);
        let told = queue.ahead(Priority::Normal, &tenant).calls;
        let last = Entry { item: 1, deadline: now + 9 * AGE, ..call(&tenant, 1, now) };
        queue.push(last, now).unwrap();
        let before = std::iter::from_fn(|| queue.pop_first()).take_while(|w| w.item == 0);
        let before = before.count();
        prop_assert!(told.abs_diff(before) <= 2 * crowds.len(), "{told} told, {before} before");
    }

    /// With more tenants than are looked at one by one, the mean is about right where all wait alike.
    #[test]
    fn the_mean_of_many_tenants_predicts_as_well(
        tenants in 33_usize..200,
        calls in 1_usize..10,
        served in 0_usize..300,
    ) {
        let now = Instant::now();
        let mut queue = ageless();
        for _ in 0..calls {
            for which in 0..tenants {
                queue.push(call(&named(which, 1), 1, now), now).unwrap();
            }
        }
        for _ in 0..served.min(tenants * calls) {
            queue.pop_first();
        }
        let tenant = named(7, 1);
        let told = queue.ahead(Priority::Normal, &tenant).calls;
        let last = Entry { item: 1, deadline: now + 9 * AGE, ..call(&tenant, 1, now) };
        queue.push(last, now).unwrap();
        let before = std::iter::from_fn(|| queue.pop_first()).take_while(|w| w.item == 0);
        prop_assert!(told.abs_diff(before.count()) <= tenants + 1);
    }

    /// Whatever arrives, and however urgent: once a low call has aged twice, only those of its
    /// tenant that wait already are served before it, and as many of each other tenant.
    #[test]
    fn a_low_call_is_served_within_bounded_pops(
        rivals in prop::collection::vec(
            (any_priority(), 0_usize..4, 0_u64..3, 1_u64..120), 900,
        ),
    ) {
        let mut now = Instant::now();
        let far = now + Duration::from_secs(3_600);
        let mut queue = WaitQueue::new(50, AGE).unwrap();
        let low = Entry {
            priority: Priority::Low,
            deadline: far,
            item: true,
            tenant: named(0, 1),
            cost: requests(1),
            share: 1,
        };
        queue.push(low, now).unwrap();
        let aged = now + 2 * AGE;
        let mut pops_left = None;
        let mut served = false;
        for (priority, whose, arrivals, secs) in rivals {
            for _ in 0..=arrivals {
                let deadline = now + Duration::from_secs(secs);
                let rival = Entry { tenant: named(whose, 1), ..entry(priority, deadline, false) };
                let _full_or_queued = queue.push(rival, now).is_ok();
            }
            queue.expire(now);
            if now >= aged && pops_left.is_none() {
                let own = queue.by_tenant().get("tenant-0").copied().unwrap_or_default();
                pops_left = Some(4 * (own + 1));
            }
            served |= queue.pop_first().is_some_and(|waiting| waiting.item);
            if served {
                break;
            }
            if let Some(left) = &mut pops_left {
                *left -= 1;
                prop_assert!(*left > 0);
            }
            now += Duration::from_secs(1);
        }
        prop_assert!(served);
    }
}
