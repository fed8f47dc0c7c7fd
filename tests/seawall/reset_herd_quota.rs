//! A hundred clients before a provider that serves ten requests in each fixed second.
//!
//! Clients that each obey the hint all come back at the same reset, and most are refused again. One
//! queue before one quota sends every call once.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use seawall_actors::policy::quota::{Cost, Learned, LeaseId, Quota, QuotaSettings};
use seawall_actors::policy::wait_queue::{Entry, Priority, Tenant, WaitQueue};
use tokio::time::Instant;

const CLIENTS: u32 = 100;
const PER_WINDOW: u32 = 10;
const WINDOW: Duration = Duration::from_secs(1);
const ONE_WAY: Duration = Duration::from_millis(2);
const ONE: Cost = Cost {
    requests: 1,
    input: 0,
    output: 0,
};

/// Counts requests in fixed windows; whatever passes the count is refused until the window ends.
struct Provider {
    start: Instant,
    window: u128,
    used: u32,
    calls: u32,
    refused: u32,
}

struct Answer {
    served: bool,
    remaining: u32,
    resets_in: Duration,
}

impl Provider {
    fn new(start: Instant) -> Self {
        Self {
            start,
            window: 0,
            used: 0,
            calls: 0,
            refused: 0,
        }
    }

    fn serve(&mut self, now: Instant) -> Answer {
        let elapsed = now - self.start;
        let window = elapsed.as_nanos() / WINDOW.as_nanos();
        if window != self.window {
            (self.window, self.used) = (window, 0);
        }
        self.calls += 1;
        let served = self.used < PER_WINDOW;
        if served {
            self.used += 1;
        } else {
            self.refused += 1;
        }
        let into = u64::try_from(elapsed.as_nanos() % WINDOW.as_nanos()).expect("under a second");
        let resets_in = WINDOW - Duration::from_nanos(into);
        Answer {
            served,
            remaining: PER_WINDOW - self.used,
            resets_in,
        }
    }
}

/// Sends a hundred calls through one queue and one quota, in the order of events; returns when the
/// last was answered. `told` says whether answers name the end of a window that is used up.
fn coordinated(burst: Duration, told: bool) -> (Provider, Duration) {
    let start = Instant::now();
    let settings = QuotaSettings {
        requests_per_minute: Some(600),
        burst,
        ..QuotaSettings::default()
    };
    let mut quota = Quota::new(settings, start).expect("a valid quota");
    let mut queue = WaitQueue::new(1_000, Duration::from_secs(60)).expect("a valid queue");
    let mut provider = Provider::new(start);
    let deadline = start + Duration::from_secs(60);
    for client in 0..CLIENTS {
        let entry = Entry {
            priority: Priority::Normal,
            tenant: Tenant::default(),
            share: 1,
            deadline,
            cost: ONE,
            item: client,
        };
        queue.push(entry, start).expect("room for all");
    }
    let mut answers: BinaryHeap<Reverse<(Instant, LeaseId, Option<Duration>)>> = BinaryHeap::new();
    let mut now = start;
    loop {
        while let Some(Reverse((at, lease, stop_for))) = answers.peek().copied()
            && at <= now
        {
            answers.pop();
            quota.learn(
                &Learned {
                    stop_for,
                    ..Learned::default()
                },
                now,
            );
            assert!(quota.settle(lease, ONE, now));
        }
        assert!(queue.expire(now).is_empty(), "nobody waits in vain");
        let mut ready = None;
        while let Some(head) = queue.first() {
            match quota.try_reserve(head.cost, head.deadline, now) {
                Ok(lease) => {
                    queue.pop_first();
                    let answer = provider.serve(now + ONE_WAY);
                    assert!(answer.served, "a refused call would have to be sent again");
                    let spent = told && answer.remaining == 0;
                    let stop_for = spent.then_some(answer.resets_in);
                    answers.push(Reverse((now + 2 * ONE_WAY, lease, stop_for)));
                }
                Err(not_until) => {
                    ready = Some(not_until.at);
                    break;
                }
            }
        }
        let answered = answers.peek().map(|Reverse((at, ..))| *at);
        match ready.into_iter().chain(answered).min() {
            Some(next) => now = next,
            None => break,
        }
    }
    assert_eq!((quota.in_flight(), queue.len()), (0, 0));
    (provider, now - start)
}

#[test]
fn one_queue_sends_each_call_once_and_is_done_at_the_tenth_window() {
    let (provider, took) = coordinated(Duration::from_secs(1), true);
    assert_eq!((provider.calls, provider.refused), (CLIENTS, 0));
    assert!(took <= Duration::from_millis(9_100), "{took:?}");
}

#[test]
fn without_a_word_about_windows_an_even_pace_is_never_refused() {
    let (provider, took) = coordinated(Duration::ZERO, false);
    assert_eq!((provider.calls, provider.refused), (CLIENTS, 0));
    assert!(took <= Duration::from_millis(9_910), "{took:?}");
}

/// What the queue is there for: the same clients, each for itself, need five times the calls.
#[test]
fn clients_that_each_return_at_the_reset_are_refused_450_times() {
    let start = Instant::now();
    let mut provider = Provider::new(start);
    let mut waiting = vec![start; 100];
    while !waiting.is_empty() {
        for at in &mut waiting {
            let answer = provider.serve(*at);
            *at = if answer.served {
                start
            } else {
                *at + answer.resets_in
            };
        }
        waiting.retain(|&at| at > start);
    }
    assert_eq!((provider.calls, provider.refused), (550, 450));
}
