//! Runs that come together on a route that staggers them, by the library in virtual time and through
//! the gateway over sockets.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use seawall::client::Seawall;
use seawall::client::ask::{Ask, ReplyBody};
use seawall::config::{Config, Environment, Overrides};
use seawall::error::Error;
use seawall::sim::Sim;
use seawall_actors::error::Rejection;
use tokio::time::{Instant, sleep, timeout};

use crate::process::{BOUND, Gateway, instant, request, sim};
use crate::stream_faults::case::{Shape, asking};

const SECOND: Duration = Duration::from_secs(1);

async fn seawall(sim: &Arc<Sim>, route: &str) -> Seawall {
    let text = format!("[targets.up]\n[routes.default]\nladder = [\"up\"]\n{route}");
    let environment = Environment::from_fn(|_| None);
    let path = Path::new("t.toml");
    let config = Config::parse(&text, path, &Overrides::default(), &environment).unwrap();
    let builder = Seawall::builder().config(config);
    builder
        .transport(Arc::new(sim.transport()))
        .start()
        .await
        .unwrap()
}

fn of_run(run: &str) -> Ask {
    let mut ask = asking(Shape::Text);
    ask.run = Some(run.to_owned());
    ask
}

/// How long a call took to be answered to its end, and how long it was held.
async fn answered(seawall: &Seawall, ask: Ask) -> Result<(Duration, Duration), Error> {
    let began = Instant::now();
    let reply = Box::pin(seawall.forward(ask)).await?;
    let queued = reply.report.queued;
    if let ReplyBody::Stream(stream) = reply.body {
        let _: Vec<_> = futures_util::StreamExt::collect(stream).await;
    }
    Ok((began.elapsed(), queued))
}

#[tokio::test(start_paused = true)]
async fn runs_that_come_together_are_spread_over_a_span_however_many_they_are() {
    let sim = Sim::new(instant(Vec::new())).unwrap();
    let seawall = seawall(&sim, "stagger = \"16s\"").await;
    for runs in [1, 4, 16] {
        let runs: Vec<String> = (0..runs).map(|run| format!("{runs}/{run}")).collect();
        let held = join_all(runs.iter().map(|run| answered(&seawall, of_run(run)))).await;
        let mut held: Vec<_> = held.into_iter().map(|ended| ended.unwrap().1).collect();
        held.sort_unstable();
        let apart = SECOND * 16 / u32::try_from(runs.len()).unwrap();
        for (turn, held) in (0..).zip(held) {
            assert_eq!(held.as_secs(), (apart * turn).as_secs());
        }
        sleep(SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_call_of_each_run_waits_for_its_turn_and_no_other_does() {
    let sim = Sim::new(instant(Vec::new())).unwrap();
    let seawall = seawall(&sim, "stagger = { runs = 10, over = \"10s\" }").await;
    let runs: Vec<String> = (0..8).map(|run| format!("run-{run}")).collect();
    let first = join_all(runs.iter().map(|run| answered(&seawall, of_run(run)))).await;
    // Which of them comes first is not said.
    let mut first: Vec<_> = first.into_iter().map(Result::unwrap).collect();
    first.sort_unstable();
    for (number, (took, queued)) in (0..).zip(first) {
        let turn = SECOND * number;
        assert!(
            took >= turn && took < turn + SECOND / 2,
            "{number}: {took:?}"
        );
        assert!(queued >= turn && queued <= took);
    }
    let mut nameless = of_run("");
    nameless.run = None;
    let further = runs.iter().map(|run| answered(&seawall, of_run(run)));
    let further = join_all(further.chain([answered(&seawall, nameless)])).await;
    for answer in further {
        assert!(answer.unwrap().0 < SECOND / 2);
    }
    seawall.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_too_far_off_is_refused_with_the_time_from_which_it_is_not() {
    let sim = Sim::new(instant(Vec::new())).unwrap();
    let seawall = seawall(&sim, "stagger = { per_second = 0.05 }").await;
    // Every 20 s; a call of this profile waits 60 s at most.
    let runs = ["a", "b", "c", "d", "e"];
    let answers = join_all(runs.map(|run| answered(&seawall, of_run(run)))).await;
    let mut refused = answers.into_iter().filter_map(Result::err);
    let (Some(Error::Refused(rejected)), None) = (refused.next(), refused.next()) else {
        panic!("one of them would have to wait 80 s");
    };
    assert_eq!(rejected.why, Rejection::TurnTooLate);
    assert_eq!(rejected.retry_after, Some(20 * SECOND));
    assert_eq!(sim.stats().attempts, 4);
    seawall.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_the_wait_for_a_turn() {
    let sim = Sim::new(instant(Vec::new())).unwrap();
    let seawall = seawall(&sim, "stagger = { per_second = 0.05 }").await;
    answered(&seawall, of_run("a")).await.unwrap();
    let began = Instant::now();
    let waiting = answered(&seawall, of_run("b"));
    let drain = async {
        sleep(SECOND).await;
        assert!(seawall.drain(Instant::now() + 30 * SECOND).await);
    };
    let (waited, ()) = tokio::join!(waiting, drain);
    let Err(Error::Refused(rejected)) = waited else {
        panic!("refused, since it never began");
    };
    assert_eq!(rejected.why, Rejection::Draining);
    assert!(began.elapsed() < 2 * SECOND);
    seawall.stop().await;
}

#[tokio::test]
async fn the_gateway_tells_runs_by_their_header() {
    let (address, sim) = sim(instant(Vec::new())).await;
    let config =
        "[targets.up]\n[routes.default]\nladder = [\"up\"]\nstagger = { per_second = 10 }\n";
    let gateway = Gateway::start(address, config);
    let ask = |run: usize| {
        let asked = gateway.post("/v1/messages");
        let asked = asked.header("x-seawall-run", format!("run-{run}"));
        asked.body(request(false)).send()
    };
    let began = Instant::now();
    let answers = timeout(BOUND, join_all((0..6).map(ask))).await.unwrap();
    assert!(began.elapsed() >= SECOND / 2, "five intervals");
    let mut held: Vec<u64> = Vec::new();
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), 200);
        let queued = answer.headers()["x-seawall-queued-ms"].to_str().unwrap();
        held.push(queued.parse().unwrap());
    }
    held.sort_unstable();
    assert_eq!(held[0], 0, "the first begins at once");
    assert_eq!(sim.stats().attempts, 6);
    let again = ask(5).await.unwrap();
    assert_eq!(again.headers()["x-seawall-queued-ms"], "0");
}
