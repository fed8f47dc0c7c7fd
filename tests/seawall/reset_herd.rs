//! Everybody returns at the reset: a hundred clients, one fixed-window quota.
//!
//! The provider takes 10 requests a second and tells those it refuses when the window ends. Clients
//! that each obey that hint alone meet again at the next window and waste most of their calls; one
//! queue that hands out the window's places wastes none.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use seawall_actors::policy::backoff::Backoff;

const CLIENTS: u32 = 100;
const PER_WINDOW: u32 = 10;
const WINDOW: Duration = Duration::from_secs(1);

/// Counts requests in fixed windows, as the strictest providers do.
#[derive(Debug, Default)]
struct Provider {
    window: u64,
    taken: u32,
    calls: u32,
    refused: u32,
}

impl Provider {
    /// Takes a request, or tells how long until the window ends.
    fn request(&mut self, now: Duration) -> Result<(), Duration> {
        if now.as_secs() != self.window {
            self.window = now.as_secs();
            self.taken = 0;
        }
        self.calls += 1;
        if self.taken < PER_WINDOW {
            self.taken += 1;
            return Ok(());
        }
        self.refused += 1;
        Err(Duration::from_secs(self.window) + WINDOW - now)
    }
}

#[derive(Debug)]
struct Outcome {
    calls: u32,
    refused: u32,
    seconds: f64,
}

/// Each client on its own: `wait` is what it makes of a hint after so many refusals.
fn each_alone(
    seed: u64,
    mut wait: impl FnMut(Duration, u32, &mut SmallRng) -> Duration,
) -> Outcome {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut provider = Provider::default();
    let mut finished = Duration::ZERO;
    let mut due: BinaryHeap<_> = (0..CLIENTS)
        .map(|client| Reverse((Duration::ZERO, client, 0)))
        .collect();
    while let Some(Reverse((now, client, refusals))) = due.pop() {
        match provider.request(now) {
            Ok(()) => finished = now,
            Err(hint) => {
                due.push(Reverse((
                    now + wait(hint, refusals, &mut rng),
                    client,
                    refusals + 1,
                )));
            }
        }
    }
    let Provider { calls, refused, .. } = provider;
    Outcome {
        calls,
        refused,
        seconds: finished.as_secs_f64(),
    }
}

/// One reservation queue for all: it knows the window's places and its end from response headers.
fn one_queue() -> Outcome {
    let mut provider = Provider::default();
    let (mut now, mut places) = (Duration::ZERO, PER_WINDOW);
    let mut waiting = CLIENTS;
    while waiting > 0 {
        if places == 0 {
            now = Duration::from_secs(now.as_secs()) + WINDOW;
            places = PER_WINDOW;
        }
        places -= 1;
        if provider.request(now).is_ok() {
            waiting -= 1;
        }
    }
    let Provider { calls, refused, .. } = provider;
    Outcome {
        calls,
        refused,
        seconds: now.as_secs_f64(),
    }
}

#[test]
fn trap_31_clients_that_obey_the_hint_alone_waste_four_calls_in_five() {
    let herd = each_alone(1, |hint, _, _| hint);
    assert_eq!((herd.calls, herd.refused), (550, 450));
    assert!((herd.seconds - 9.0).abs() < 1e-9, "{herd:?}");
}

#[test]
fn trap_31_jitter_on_the_hint_spreads_the_herd_and_saves_no_call() {
    let backoff = Backoff::new(Backoff::MIN_BASE, Backoff::MIN_BASE).unwrap();
    let spread = each_alone(2, |hint, refusals, rng| {
        backoff.delay_after(refusals, Some(hint), rng)
    });
    println!("{spread:?}");
    assert_eq!(spread.calls, 550);
    assert!((9.0..=9.15).contains(&spread.seconds), "{spread:?}");
    let wide = each_alone(3, |hint, _, rng| {
        hint + rng.random_range(Duration::ZERO..WINDOW)
    });
    println!("{wide:?}");
    assert_eq!(wide.calls, 550);
    assert!((9.0..10.0).contains(&wide.seconds), "{wide:?}");
}

#[test]
fn trap_30_clients_that_ignore_the_hint_take_longer_and_still_waste_most_calls() {
    let deaf = each_alone(4, |_, refusals, rng| {
        Backoff::default().delay(refusals, rng)
    });
    println!("{deaf:?}");
    assert!(deaf.calls > 3 * CLIENTS, "{deaf:?}");
    assert!(deaf.seconds > 15.0, "{deaf:?}");
}

#[test]
fn one_reservation_queue_makes_exactly_one_call_for_each_client() {
    let coordinated = one_queue();
    assert_eq!((coordinated.calls, coordinated.refused), (CLIENTS, 0));
    assert!(coordinated.seconds <= 9.1, "{coordinated:?}");
}
