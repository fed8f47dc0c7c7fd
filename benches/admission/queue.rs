//! What the limiter costs while calls wait: one more queued, one served, in steady state.
//!
//! A fixed number of permits goes round between as many tasks and those who wait: each task reserves,
//! lets others run, gives back, and reserves again, so every reservation is queued and every one given back
//! serves the head. One in sixteen is followed by a call that leaves as soon as it has been queued, for the
//! sweeps to find. The depth is what differs; the yardstick beside it is a task that keeps as many
//! reply ports in a `VecDeque` and answers the oldest, with no order, deadline, tenant or bucket:
//! what so many sleeping tasks cost in memory that is not at hand.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use seawall_actors::admission::Terms;
use seawall_actors::policy::quota::{Cost, QuotaSettings};
use seawall_actors::policy::wait_queue::{Priority, Tenant};
use seawall_actors::system::{Quota, QuotaSpec, System, SystemSettings};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, sleep};

use super::{Failed, median, ratio};

/// Calls waiting, and how much more the second may cost than the first.
const DEPTHS: [u32; 2] = [10, 100_000];
const BAR: f64 = 2.0;

/// Permits that go round.
const PERMITS: u32 = 64;

/// The buckets refill in a minute what takes milliseconds to go round: next to nothing.
const BURST: Duration = Duration::from_secs(60);

/// At a refill of one a second, a hundred thousand wait for more than a day.
const PATIENCE: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Deadlines are this much out of the order of arrival, about what a round of the longer queue takes.
const SPREAD_MICROS: u64 = 50_000;

const TENANTS: u32 = 8;

pub(crate) async fn bench(quick: bool, out: &mut impl Write) -> Result<(Value, bool), Failed> {
    let (rounds, calls) = if quick { (3, 100_000) } else { (7, 400_000) };
    let [mut few, mut many, mut bare_few, mut bare_many]: [Vec<f64>; 4] = Default::default();
    for _ in 0..rounds {
        few.push(limiter(DEPTHS[0], calls).await?);
        many.push(limiter(DEPTHS[1], calls).await?);
        bare_few.push(bare(DEPTHS[0], calls).await?);
        bare_many.push(bare(DEPTHS[1], calls).await?);
    }
    let (growth, bare_growth) = (ratio(&many, &few), ratio(&bare_many, &bare_few));
    let holds = growth <= BAR;
    let [few, many, bare_few, bare_many] = [few, many, bare_few, bare_many].map(median);
    writeln!(
        out,
        "one queued and one served, {} and {} waiting:",
        DEPTHS[0], DEPTHS[1]
    )?;
    writeln!(
        out,
        "  limiter {few:>6.0} ns {many:>6.0} ns {growth:>6.2} ×  ≤ {BAR}{}",
        if holds { "" } else { "  MISSED" }
    )?;
    writeln!(
        out,
        "  bare    {bare_few:>6.0} ns {bare_many:>6.0} ns {bare_growth:>6.2} ×"
    )?;
    let row = serde_json::json!({
        "waiting": DEPTHS, "limiter_ns": [few, many], "growth": growth, "at_most": BAR,
        "bare_ns": [bare_few, bare_many], "bare_growth": bare_growth,
    });
    Ok((row, holds))
}

/// Nanoseconds of one reservation that waits behind `depth` others.
async fn limiter(depth: u32, calls: u64) -> Result<f64, Failed> {
    let system = System::start(SystemSettings::default()).await?;
    let settings = QuotaSettings {
        requests_per_minute: Some(PERMITS.into()),
        burst: BURST,
        ..QuotaSettings::default()
    };
    let spec = QuotaSpec {
        settings,
        queue_bound: 1_000_000,
    };
    let quota = system.quota("quota", spec).await?;
    let served = Arc::new(AtomicU64::new(0));
    let mut asking = JoinSet::new();
    let name: Arc<str> = "bench".into();
    // As a configuration has them: a name each, whose calls share it.
    let tenants: Vec<_> = (0..TENANTS)
        .map(|n| Tenant::new(format!("tenant-{n}").into(), 1 + n % 3))
        .collect();
    let whose = tenants.into_iter().cycle();
    for (task, tenant) in (0_u64..(depth + PERMITS).into()).zip(whose) {
        let (quota, served) = (quota.clone(), Arc::clone(&served));
        let who = (Arc::clone(&name), tenant);
        asking.spawn(async move { keep_asking(&quota, who, task, &served).await });
    }
    let nanos = measure(&served, depth.into(), calls, &mut asking).await?;
    asking.shutdown().await;
    system.stop().await;
    Ok(nanos)
}

async fn keep_asking(
    quota: &Quota,
    (name, tenant): (Arc<str>, Tenant),
    mut chance: u64,
    served: &AtomicU64,
) -> Result<(), Failed> {
    let mut terms = || {
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let until = Instant::now() + PATIENCE;
        let until = until + Duration::from_micros((chance >> 33) % SPREAD_MICROS);
        Terms {
            call: Arc::clone(&name),
            cost: Cost {
                requests: 1,
                ..Cost::ZERO
            },
            priority: Priority::Normal,
            tenant: tenant.clone(),
            again: false,
            until,
            held_until: until,
        }
    };
    for turn in 0_u64.. {
        let reserved = quota.reserve(terms()).await?;
        served.fetch_add(1, Ordering::Relaxed);
        // Held while others run, or two workers would never hold more than two.
        yield_now().await;
        drop(reserved);
        if turn % 16 == 7 {
            // Queued and gone again, or served at once and given back.
            drop(quota.reserve(terms()).now_or_never());
        }
    }
    Ok(())
}

/// Nanoseconds of one answer from a task that keeps `depth` others waiting.
async fn bare(depth: u32, calls: u64) -> Result<f64, Failed> {
    let (ask, mut asked) = mpsc::unbounded_channel::<oneshot::Sender<u64>>();
    let served = Arc::new(AtomicU64::new(0));
    let mut asking = JoinSet::new();
    asking.spawn(async move {
        let mut waiting = VecDeque::new();
        while let Some(reply) = asked.recv().await {
            waiting.push_back(reply);
            if waiting.len() > depth as usize
                && let Some(oldest) = waiting.pop_front()
            {
                oldest.send(0).map_err(|_| "nobody waits")?;
            }
        }
        Ok(())
    });
    for _ in 0..depth + PERMITS {
        let (ask, served) = (ask.clone(), Arc::clone(&served));
        asking.spawn(async move {
            loop {
                let (reply, answer) = oneshot::channel();
                ask.send(reply)?;
                answer.await?;
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let nanos = measure(&served, depth.into(), calls, &mut asking).await?;
    asking.shutdown().await;
    Ok(nanos)
}

/// Lets a whole round pass, then counts.
async fn measure(
    served: &AtomicU64,
    depth: u64,
    calls: u64,
    asking: &mut JoinSet<Result<(), Failed>>,
) -> Result<f64, Failed> {
    let reach = async |goal: u64| {
        while served.load(Ordering::Relaxed) < goal {
            sleep(Duration::from_millis(2)).await;
        }
    };
    let counting = async {
        reach(depth + calls / 4).await;
        let (began, before) = (Instant::now(), served.load(Ordering::Relaxed));
        reach(before + calls).await;
        (began.elapsed(), served.load(Ordering::Relaxed) - before)
    };
    let (took, count) = tokio::select! {
        counted = counting => counted,
        // Nobody who keeps asking comes to an end by itself.
        ended = asking.join_next() => {
            ended.ok_or("nobody asks")???;
            return Err("an asker ended".into());
        }
    };
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    Ok(took.as_secs_f64() * 1e9 / count as f64)
}
