//! Orders, bounds and ages of the queue.

use proptest::prelude::*;

use super::*;
use crate::policy::quota::{Quota, QuotaSettings};

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
        deadline,
        cost: requests(1),
        item,
    }
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
            cost,
            item: (),
        };
        queue.push(entry, now).unwrap()
    };
    let large = [push(&mut queue, all), push(&mut queue, all)];
    push(&mut queue, requests(7));
    assert_eq!(queue.ahead(Priority::Normal), all);
    assert_eq!(queue.ahead(Priority::High), Cost::ZERO);
    assert!(
        large
            .map(|ticket| queue.remove(ticket))
            .iter()
            .all(Option::is_some)
    );
    assert_eq!(queue.ahead(Priority::Low), requests(7));
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
    assert_eq!(queue.ahead(Priority::Low), requests(66));
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
    assert_eq!(queue.ahead(Priority::Normal), Cost::ZERO);
    queue.age(now + AGE);
    assert_eq!(queue.ahead(Priority::Normal), requests(2));
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
            cost,
            item: cost.requests,
        };
        queue.push(entry, now).unwrap();
    };
    let mut now = start;
    for _ in 0..8 {
        push(&mut queue, 1, now);
    }
    let ahead = queue.ahead(Priority::Normal);
    let promised = now + quota.wait_behind(ahead, requests(50), now);
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

#[derive(Debug, Clone)]
enum Step {
    Push(Priority, u64, u64),
    Pop,
    Remove(usize),
    Expire,
    Sweep(usize, u64),
    Wait(u64),
}

fn any_priority() -> impl Strategy<Value = Priority> {
    prop::sample::select(vec![Priority::High, Priority::Normal, Priority::Low])
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (any_priority(), 0_u64..60, 0_u64..1_000).prop_map(|(p, d, c)| Step::Push(p, d, c)),
        2 => Just(Step::Pop),
        1 => any::<usize>().prop_map(Step::Remove),
        1 => Just(Step::Expire),
        1 => (0_usize..6, 2_u64..9).prop_map(|(n, m)| Step::Sweep(n, m)),
        3 => (0_u64..9).prop_map(Step::Wait),
    ]
}

/// The order by its definition: a list, sorted anew each time.
#[derive(Default)]
struct Model {
    waiting: Vec<(Priority, Instant, u64, Instant, Ticket)>,
    aged_to: Option<Instant>,
}

impl Model {
    fn sort(&mut self) {
        let aged_to = self.aged_to;
        self.waiting
            .sort_by_key(|&entry| (Self::rank(entry, aged_to), entry.4));
    }

    fn rank(
        (priority, deadline, _, since, _): (Priority, Instant, u64, Instant, Ticket),
        aged_to: Option<Instant>,
    ) -> (Priority, Instant) {
        let waited = aged_to.map_or(Duration::ZERO, |now| now - since);
        match waited.as_nanos() / AGE.as_nanos() {
            0 => (priority, deadline),
            1 => (priority.raised(), deadline.min(since + AGE)),
            _ => (Priority::High, deadline.min(since + AGE)),
        }
    }

    fn ahead(&self, priority: Priority) -> Cost {
        let counted = self
            .waiting
            .iter()
            .filter(|&&entry| Self::rank(entry, self.aged_to).0 <= priority);
        requests(counted.map(|entry| entry.2).sum())
    }
}

proptest! {
    #[test]
    fn every_interleaving_serves_as_a_list_sorted_anew_would(
        steps in prop::collection::vec(any_step(), 1..120),
    ) {
        let mut now = Instant::now();
        let mut queue = WaitQueue::new(20, AGE).unwrap();
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Push(priority, secs, cost) => {
                    let deadline = now + Duration::from_secs(secs);
                    let entry = Entry { priority, deadline, cost: requests(cost), item: cost };
                    let pushed = queue.push(entry, now);
                    model.aged_to = Some(now);
                    prop_assert_eq!(pushed.is_ok(), model.waiting.len() < 20);
                    if let Ok(ticket) = pushed {
                        model.waiting.push((priority, deadline, cost, now, ticket));
                    }
                }
                Step::Pop => {
                    let popped = queue.pop_first().map(|waiting| waiting.ticket);
                    let due = model.waiting.first().map(|entry| entry.4);
                    prop_assert_eq!(popped, due);
                    model.waiting.retain(|entry| Some(entry.4) != due);
                }
                Step::Remove(pick) if !model.waiting.is_empty() => {
                    let entry = model.waiting.remove(pick % model.waiting.len());
                    prop_assert_eq!(queue.remove(entry.4), Some(entry.2));
                }
                Step::Remove(_) => {}
                Step::Expire => {
                    let expired = queue.expire(now);
                    model.aged_to = Some(now);
                    let before = model.waiting.len();
                    model.waiting.retain(|entry| entry.1 > now);
                    prop_assert_eq!(expired.len(), before - model.waiting.len());
                }
                Step::Sweep(at_most, multiple) => {
                    let gone = queue.sweep(at_most, |item| item % multiple == 0);
                    prop_assert!(gone.iter().all(|item| item % multiple == 0));
                    model.waiting.retain(|entry| queue.entries.contains_key(&entry.4));
                }
                Step::Wait(secs) => now += Duration::from_secs(secs),
            }
            model.sort();
            prop_assert_eq!(queue.len(), model.waiting.len());
            prop_assert_eq!(queue.first().map(|w| w.ticket), model.waiting.first().map(|e| e.4));
            prop_assert_eq!(queue.next_deadline(), model.waiting.iter().map(|e| e.1).min());
            for priority in [Priority::High, Priority::Normal, Priority::Low] {
                prop_assert_eq!(queue.ahead(priority), model.ahead(priority));
            }
            let indexed = (queue.order.len(), queue.deadlines.len());
            prop_assert_eq!(indexed, (queue.len(), queue.len()));
            prop_assert!(queue.lifts.len() <= queue.len());
        }
    }

    /// Whatever arrives, and however urgent: once a low entry has aged twice, only those that
    /// wait already can be served before it.
    #[test]
    fn a_low_entry_is_served_within_bounded_pops(
        rivals in prop::collection::vec((any_priority(), 0_u64..3, 1_u64..120), 200),
    ) {
        let mut now = Instant::now();
        let far = now + Duration::from_secs(3_600);
        let mut queue = WaitQueue::new(50, AGE).unwrap();
        queue.push(entry(Priority::Low, far, true), now).unwrap();
        let aged = now + 2 * AGE;
        let mut pops_left = None;
        let mut served = false;
        for (priority, arrivals, secs) in rivals {
            for _ in 0..=arrivals {
                let deadline = now + Duration::from_secs(secs);
                let _full_or_queued = queue.push(entry(priority, deadline, false), now).is_ok();
            }
            queue.expire(now);
            if now >= aged && pops_left.is_none() {
                pops_left = Some(queue.len());
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
