//! A primary that is down for a minute while a call comes every four seconds.

use std::time::Duration;

use futures_util::future::join_all;
use seawall::sim::{Fault, FaultKind};
use tokio::time::{Instant, sleep_until};

use super::rig::{Rig, SEEDS, undisturbed};
use super::row::{Answer, FALLBACK, WANTED, paced, request};

const OUTAGE: Duration = Duration::from_secs(60);
const APART: Duration = Duration::from_secs(4);

/// Calls that come during the outage and soon after it.
const CALLS: u32 = 20;

/// Most attempts on the primary while it is down.
const MOST: usize = 8;

/// It serves again this long after the outage at the latest.
const BACK: Duration = Duration::from_secs(30);

/// Chance decides how long the breaker waits.
const SEEDS_PLAYED: u64 = 16;

/// What one run showed.
struct Flap {
    /// Attempts on the primary while it was down.
    down: usize,
    /// From the end of the outage to the first call that the primary answers.
    back: Duration,
}

/// Calls one by one, each answered whole by whoever answers it.
async fn flap(fault: &Fault, stream: bool, seed: u64) -> Flap {
    let faults = vec![fault.clone().between(Duration::ZERO, OUTAGE)];
    let rig = Rig::start(faults, seed).await;
    let began = Instant::now();
    let what = format!("{:?}, stream {stream}, seed {seed}", fault.kind);
    // As many more as are needed to see it come back.
    let more = u32::try_from(BACK.as_secs().div_ceil(APART.as_secs())).unwrap();
    let call = async |n: u32| {
        let at = APART * n;
        sleep_until(began + at).await;
        let prompt = format!("call {n}");
        let answer = rig.ask(request(WANTED, &prompt, stream)).await;
        let own = [
            undisturbed(SEEDS[0], request(WANTED, &prompt, stream)).await,
            undisturbed(SEEDS[1], request(FALLBACK, &prompt, stream)).await,
        ];
        assert!(
            matches!(answer, Answer::Whole { .. }) && own.contains(&answer),
            "{what}: {answer:?}"
        );
        (at, answer == own[0])
    };
    let answered = join_all((0..CALLS + more).map(call)).await;
    let arrivals = rig.primary.arrivals();
    rig.stop().await;
    paced(&what, &arrivals);
    let down = arrivals.iter().filter(|a| a.at < began + OUTAGE).count();
    assert!(
        down <= MOST,
        "{down} attempts on a primary that is down: {what}"
    );
    let back = answered.iter().find(|(_, by_primary)| *by_primary);
    let (back, _) = *back.unwrap_or_else(|| panic!("it never comes back: {what}"));
    assert!(
        back >= OUTAGE && back <= OUTAGE + BACK,
        "back at {back:?}: {what}"
    );
    let later = answered.iter().filter(|(at, _)| *at > back);
    assert!(later.clone().all(|(_, by_primary)| *by_primary), "{what}");
    Flap {
        down,
        back: back.saturating_sub(OUTAGE),
    }
}

#[tokio::test(start_paused = true)]
async fn a_primary_that_is_down_for_a_minute_is_asked_eight_times_and_serves_again_within_30_s() {
    println!(
        "fault                 form      attempts while down  back after s (worst of 16 seeds)"
    );
    for kind in [
        FaultKind::Overloaded,
        FaultKind::Unavailable,
        FaultKind::ResetBeforeHeaders,
    ] {
        for stream in [true, false] {
            let (mut down, mut back) = (0, Duration::ZERO);
            for seed in 1..=SEEDS_PLAYED {
                let seen = flap(&Fault::new(kind), stream, seed).await;
                down = down.max(seen.down);
                back = back.max(seen.back);
            }
            let form = if stream { "streamed" } else { "whole" };
            println!(
                "{:<21} {form:<9} {down:>19} {:>13}",
                kind.as_str(),
                back.as_secs()
            );
        }
    }
}
