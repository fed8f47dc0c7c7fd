//! Orders, bounds and ages of the queue.

use proptest::prelude::*;

use super::*;
use crate::policy::quota::{Quota, QuotaSettings};

mod fairness;
mod model;

const AGE: Duration = Duration::from_secs(10);

fn requests(requests: u64) -> Cost {
    Cost {
        requests,
        ..Cost::ZERO
    }
}

fn entry<T>(priority: Priority, deadline: Instant, item: T) -> Entry<T> {
    Entry {
        priority,
        tenant: Tenant::default(),
        deadline,
        cost: requests(1),
        share: 1,
        item,
    }
}

/// What is ahead of one more call of no tenant.
fn ahead<T>(queue: &WaitQueue<T>, priority: Priority) -> Cost {
    queue.ahead(priority, &Tenant::default()).cost
}

fn drain<T>(queue: &mut WaitQueue<T>) -> Vec<T> {
    std::iter::from_fn(|| queue.pop_first().map(|waiting| waiting.item)).collect()
}

#[test]
fn bounds_out_of_range_are_refused_by_name() {
    let refused = |bound, age| WaitQueue::<()>::new(bound, age).unwrap_err().field;
    assert_eq!(refused(0, AGE), "queue.bound");
    assert_eq!(refused(1_000_001, AGE), "queue.bound");
    assert_eq!(refused(1, Duration::ZERO), "queue.age_after");
    assert_eq!(refused(1, Duration::MAX), "queue.age_after");
}

#[test]
fn service_is_by_priority_then_deadline_then_arrival() {
    let now = Instant::now();
    let (soon, late) = (now + AGE, now + 2 * AGE);
    let mut queue = WaitQueue::new(10, AGE).unwrap();
    for (priority, deadline, name) in [
        (Priority::Low, soon, "low"),
        (Priority::Normal, late, "normal late"),
        (Priority::Normal, soon, "normal soon"),
        (Priority::Normal, soon, "normal soon, second"),
        (Priority::High, late, "high"),
    ] {
        queue.push(entry(priority, deadline, name), now).unwrap();
    }
    assert_eq!(queue.first().unwrap().item, "high");
    let order = [
        "high",
        "normal soon",
        "normal soon, second",
        "normal late",
        "low",
    ];
    assert_eq!(drain(&mut queue), order);
    assert!(queue.first().is_none() && queue.next_deadline().is_none());
}

#[test]
fn a_full_queue_hands_the_item_back_and_keeps_its_contents() {
    let now = Instant::now();
    let mut queue = WaitQueue::new(1, AGE).unwrap();
    let first = queue
        .push(entry(Priority::Low, now + AGE, "first"), now)
        .unwrap();
    assert_eq!(
        queue.push(entry(Priority::High, now + AGE, "second"), now),
        Err("second")
    );
    assert_eq!(queue.remove(first), Some("first"));
    assert_eq!(queue.remove(first), None);
    assert!(
        queue
            .push(entry(Priority::High, now + AGE, "third"), now)
            .is_ok()
    );
}

#[test]
fn the_largest_costs_sum_without_drift() {
    let now = Instant::now();
    let mut queue = WaitQueue::new(10, AGE).unwrap();
    let all = Cost {
        requests: u64::MAX,
        input: u64::MAX,
        output: u64::MAX,
    };
    let push = |queue: &mut WaitQueue<()>, cost| {
        let entry = Entry {
            priority: Priority::Normal,
            deadline: now + AGE,
            tenant: Tenant::default(),
            cost,
            share: 1,
            item: (),
        };
        queue.push(entry, now).unwrap()
    };
    let large = [push(&mut queue, all), push(&mut queue, all)];
    push(&mut queue, requests(7));
    assert_eq!(ahead(&queue, Priority::Normal), all);
    assert_eq!(ahead(&queue, Priority::High), Cost::ZERO);
    assert!(
        large
            .map(|ticket| queue.remove(ticket))
            .iter()
            .all(Option::is_some)
    );
    assert_eq!(ahead(&queue, Priority::Low), requests(7));
}

/// Trap 38: waiters who left must not stay, and looking for them must not cost the queue.
#[test]
fn trap_38_a_bounded_look_finds_every_leaver_within_one_round() {
    let now = Instant::now();
    let mut queue = WaitQueue::new(100, AGE).unwrap();
    for item in 0..100 {
        queue
            .push(entry(Priority::Normal, now + AGE, item), now)
            .unwrap();
    }
    let (mut looks, mut gone) = (0, Vec::new());
    for _ in 0..13 {
        let before = looks;
        gone.extend(queue.sweep(8, |item| {
            looks += 1;
            item % 3 == 0
        }));
        assert!(looks - before <= 8);
    }
    assert_eq!(gone, (0..100).step_by(3).collect::<Vec<_>>());
    assert_eq!(queue.len(), 66);
    assert_eq!(ahead(&queue, Priority::Low), requests(66));
    let mut seen = 0;
    queue.sweep(usize::MAX, |_| {
        seen += 1;
        false
    });
    assert_eq!(seen, 66);
}

#[test]
fn a_clock_that_goes_backwards_expires_and_ages_nobody_twice() {
    let now = Instant::now() + AGE;
    let mut queue = WaitQueue::new(10, AGE).unwrap();
    queue
        .push(entry(Priority::Low, now + 3 * AGE, "first"), now)
        .unwrap();
    queue
        .push(entry(Priority::Low, now + 2 * AGE, "second"), now - AGE)
        .unwrap();
    assert!(queue.expire(now - AGE).is_empty());
    assert_eq!(ahead(&queue, Priority::Normal), Cost::ZERO);
    queue.age(now + AGE);
    assert_eq!(ahead(&queue, Priority::Normal), requests(2));
    assert_eq!(queue.expire(now + 2 * AGE), ["second"]);
}

/// Trap 38: governor starves a weighted waiter beside greedy single ones; a strict head does not.
#[test]
fn trap_38_a_large_request_is_served_at_its_estimate_whatever_the_small_ones_do() {
    let start = Instant::now();
    let settings = QuotaSettings {
        requests_per_minute: Some(30_000),
        ..Default::default()
    };
    let mut quota = Quota::new(settings, start).unwrap();
    quota
        .try_reserve(requests(500), start + AGE, start)
        .unwrap();
    let mut queue = WaitQueue::new(1_000, 6 * AGE).unwrap();
    let push = |queue: &mut WaitQueue<u64>, cost: u64, now: Instant| {
        let deadline = now + AGE;
        let cost = requests(cost);
        let entry = Entry {
            priority: Priority::Normal,
            deadline,
            tenant: Tenant::default(),
            cost,
            share: 1,
            item: cost.requests,
        };
        queue.push(entry, now).unwrap();
    };
    let mut now = start;
    for _ in 0..8 {
        push(&mut queue, 1, now);
    }
    let before = ahead(&queue, Priority::Normal);
    let promised = now + quota.wait_behind(before, requests(50), now);
    push(&mut queue, 50, now);
    loop {
        let cost = queue.first().unwrap().cost;
        now = quota.ready_at(cost, now);
        quota.try_reserve(cost, now + AGE, now).unwrap();
        if queue.pop_first().unwrap().item == 50 {
            break;
        }
        push(&mut queue, 1, now);
    }
    assert_eq!(now, promised);
}

#[test]
fn a_crowd_that_expires_or_ages_at_once_is_dealt_with_in_parts() {
    let now = Instant::now();
    let crowd = 3 * AT_ONCE;
    let mut queue = WaitQueue::new(10_000, AGE).unwrap();
    for item in 0..crowd {
        queue
            .push(entry(Priority::Low, now + 2 * AGE, item), now)
            .unwrap();
    }
    queue.age(now + AGE);
    assert_eq!(queue.by_class(), [0, AT_ONCE, crowd - AT_ONCE]);
    queue.age(now + AGE);
    queue.age(now + AGE);
    assert_eq!(queue.by_class(), [0, crowd, 0]);
    let (mut expired, mut goes) = (Vec::new(), 0);
    while queue.next_deadline().is_some_and(|at| at <= now + 2 * AGE) {
        expired.extend(queue.expire(now + 2 * AGE));
        goes += 1;
    }
    assert_eq!((goes, expired), (3, (0..crowd).collect::<Vec<_>>()));
}

#[test]
fn a_queue_that_was_long_once_gives_its_memory_back() {
    let now = Instant::now();
    let mut queue = WaitQueue::new(10_000, AGE).unwrap();
    let long = KEPT_SLOTS + 1;
    let tickets: Vec<_> = (0..long)
        .map(|item| {
            queue
                .push(entry(Priority::Normal, now + AGE, item), now)
                .unwrap()
        })
        .collect();
    assert_eq!(drain(&mut queue).len(), long);
    assert_eq!((queue.places(), queue.slots.capacity()), (0, 0));
    // Places are given out anew, tickets are not.
    let again = queue
        .push(entry(Priority::Normal, now + AGE, 7), now)
        .unwrap();
    assert!(tickets.iter().all(|&old| queue.remove(old).is_none()));
    assert_eq!(queue.remove(again), Some(7));
}
