//! The actors alone, guarding something that is no model: a flaky inventory database with a replica.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use seawall_actors::caller::{Attempt, Call, Outcome, Rung};
use seawall_actors::hooks::Hooks;
use seawall_actors::policy::quota::{Cost, QuotaSettings};
use seawall_actors::policy::retry::Retry;
use seawall_actors::policy::wait_queue::{Priority, Tenant};
use seawall_actors::system::{QuotaSpec, System, SystemSettings, TargetSpec};
use seawall_actors::verdict::{Again, Blame, Verdict};
use tokio::time::{Instant, sleep};

const DOWN: Verdict = Verdict::new("down", Blame::Target, Again::Here);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let system = System::start(SystemSettings::default()).await?;
    let hooks = Hooks::new()
        .on_breaker(|change| println!("{}: breaker {}", change.target, change.state.as_str()));
    system.hook(hooks)?;
    let settings = QuotaSettings {
        requests_per_minute: Some(6_000),
        ..QuotaSettings::default()
    };
    let pool = system
        .quota(
            "connections",
            QuotaSpec {
                settings,
                ..QuotaSpec::default()
            },
        )
        .await?;
    let spec = || TargetSpec {
        quota: Some(pool.clone()),
        ..TargetSpec::default()
    };
    let primary = system.target("primary", spec).await?;
    let replica = system.target("replica", spec).await?;

    let queries = Arc::new(AtomicU32::new(0));
    let mut answered_by = [0; 2];
    for item in 0..40_u32 {
        let cost = Cost {
            requests: 1,
            input: 0,
            output: 0,
        };
        let call = Call {
            id: format!("item-{item}").into(),
            rungs: [&primary, &replica]
                .map(|t| Rung::target(t.clone(), cost))
                .into(),
            deadline: Instant::now() + Duration::from_secs(5),
            held_until: Instant::now() + Duration::from_secs(5),
            continues: false,
            patience: Duration::from_secs(1),
            priority: Priority::Normal,
            tenant: Tenant::default(),
            retry: Retry::default(),
            hedge: None,
        };
        let count = Arc::clone(&queries);
        let finished = system
            .call(call, move |attempt| query(attempt, Arc::clone(&count)))
            .await;
        let stock = finished.result?;
        if let Some(answers) = answered_by.get_mut(finished.report.rung) {
            *answers += 1;
        }
        assert_eq!(stock, 7, "the stock of item {item}");
    }
    let [first, second] = answered_by;
    println!("40 items read: {first} from the primary, {second} from the replica");
    println!("{} queries sent", queries.load(Ordering::Relaxed));
    for breaker in system.snapshot().breakers {
        println!(
            "{} ends with its breaker {}",
            breaker.name,
            breaker.circuit.state.as_str()
        );
    }
    system.drain(Instant::now() + Duration::from_secs(5)).await;
    system.stop().await;
    Ok(())
}

/// One query. The primary is down from the tenth on.
async fn query(attempt: Attempt, sent: Arc<AtomicU32>) -> Outcome<u32, std::io::Error> {
    attempt.mark_sent();
    let n = sent.fetch_add(1, Ordering::Relaxed);
    sleep(Duration::from_millis(2)).await;
    if n >= 10 && &**attempt.target.name() == "primary" {
        Outcome::failed(std::io::Error::other("connection refused"), DOWN)
    } else {
        Outcome::ok(7)
    }
}
