//! A caller that leaves, at any moment of its call: the provider is stopped at once, or, where the
//! route says so, the answer is read to its end for its usage.

use std::time::Duration;

use futures_util::StreamExt;
use seawall::client::Seawall;
use seawall::client::ask::{Ask, ReplyBody};
use seawall::delivery::{Delivery, Hold};
use seawall::profile::Profile;
use seawall::sim::{Delay, Fault, FaultKind, ModelSettings, Settings, Sim, TokenRange};
use tokio::time::{Instant, sleep, timeout};

use crate::process::{Gateway, request, sim};
use crate::stream_faults::case::{Shape, UP, asking, call, client, idle, settings};
use crate::stream_faults::tap::Tap;
use crate::stream_faults::until;

/// How soon the provider is stopped.
const AT_ONCE: Duration = Duration::from_millis(10);

const SECOND: Duration = Duration::from_secs(1);

/// A provider with a second to its first content.
fn unhurried(seed: u64, faults: Vec<Fault>) -> Settings {
    let delay = Delay {
        from: SECOND,
        to: SECOND,
    };
    let model = ModelSettings {
        ttft: delay,
        output_tokens: TokenRange { from: 80, to: 100 },
        ..ModelSettings::of("claude-")
    };
    Settings {
        models: vec![model],
        ..settings(seed, faults)
    }
}

/// Leaves a call after every so much time, from its beginning to its end.
async fn leave_at_any_time(
    faults: &[Fault],
    failures: usize,
    ask: impl Fn() -> Ask,
    step: Duration,
) {
    let (mut after, mut left, mut on_the_wire) = (Duration::ZERO, 0, 0);
    loop {
        let failing = Sim::new(unhurried(1, faults.to_vec())).unwrap();
        let healthy = Sim::new(unhurried(2, Vec::new())).unwrap();
        let tap = Tap::new(failing.transport(), healthy.transport(), failures);
        let seawall = client(&tap, UP).await;
        let mut running = Box::pin(call(&seawall, ask()));
        let whole = timeout(after, &mut running).await.is_ok();
        let was_busy = failing.stats().in_flight + healthy.stats().in_flight > 0;
        drop(running);
        let gone = Instant::now();
        idle(&seawall, &[&failing, &healthy], AT_ONCE).await;
        for note in tap.notes() {
            let ended = note.ended.expect("nobody listens any more");
            assert!(
                ended <= gone + AT_ONCE,
                "{:?} late, after {after:?}",
                ended - gone
            );
        }
        seawall.stop().await;
        if whole {
            break;
        }
        left += 1;
        on_the_wire += usize::from(was_busy);
        after += step;
    }
    println!("left {left} times, {on_the_wire} of them in the middle of an attempt");
    assert!(on_the_wire > 40, "{on_the_wire}");
}

fn by(delivery: Delivery) -> impl Fn() -> Ask {
    move || {
        let mut ask = asking(Shape::Text);
        (ask.profile, ask.delivery) = (Some(Profile::AgentStep), Some(delivery));
        ask
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_stops_the_provider_before_headers_before_content_and_in_the_stream() {
    let step = Duration::from_millis(17);
    for delivery in [
        Delivery::AsItComes,
        Delivery::Complete,
        Delivery::Hold(Hold::default()),
    ] {
        leave_at_any_time(&[], 0, by(delivery), step).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_during_a_retry_or_a_resumption_stops_it() {
    let step = Duration::from_millis(23);
    let cut = Fault {
        after_events: Some(12),
        ..Fault::new(FaultKind::CutStream)
    };
    leave_at_any_time(std::slice::from_ref(&cut), 1, by(Delivery::Complete), step).await;
    leave_at_any_time(&[cut], 1, by(Delivery::Resume), step).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_while_it_waits_out_loud_stops_the_provider() {
    let stall = Fault::new(FaultKind::StallBeforeContent);
    let step = Duration::from_millis(730);
    leave_at_any_time(&[stall], 4, by(Delivery::Complete), step).await;
}

async fn read_some(seawall: &Seawall, ask: Ask) {
    let ReplyBody::Stream(mut stream) = Box::pin(seawall.forward(ask)).await.unwrap().body else {
        panic!("a stream was asked for");
    };
    for _ in 0..5 {
        stream.next().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_route_finishes_answers_the_provider_writes_on_to_the_end() {
    let sim = Sim::new(unhurried(1, Vec::new())).unwrap();
    let way = sim.transport();
    let config = format!("{UP}[routes.default]\non_disconnect = \"finish\"\n");
    let seawall = client(&Tap::new(way.clone(), way, 0), &config).await;
    for delivery in [
        Delivery::AsItComes,
        Delivery::Hold(Hold::default()),
        Delivery::Resume,
    ] {
        sim.reset();
        read_some(&seawall, by(delivery)()).await;
        assert_eq!(sim.stats().in_flight, 1);
        sleep(SECOND * 3).await;
        idle(&seawall, &[&sim], AT_ONCE).await;
        let (stats, model) = (sim.stats(), "claude-sonnet-5-5");
        assert_eq!(
            (stats.aborted, stats.models[model].whole.answers),
            (0, 1),
            "{delivery}"
        );
    }
    seawall.stop().await;
}

/// The value of a metric's series, by what its labels contain.
pub(crate) fn metric(metrics: &str, name: &str, labels: &[&str]) -> u64 {
    let of_name = metrics
        .lines()
        .filter(|line| line.starts_with(&format!("{name}{{")));
    let fits = of_name.filter(|line| labels.iter().all(|label| line.contains(label)));
    fits.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

#[tokio::test]
async fn a_client_that_hangs_up_on_the_gateway_stops_the_provider_wherever_it_is() {
    let slow = unhurried(1, Vec::new());
    let (address, provider) = sim(slow).await;
    let gateway = Gateway::start(address, "");
    for (n, how) in ["as_it_comes", "complete", "hold", "resume"]
        .iter()
        .enumerate()
    {
        let post = || {
            let post = gateway
                .post("/v1/messages")
                .header("x-seawall-delivery", *how);
            post.body(request(true))
        };
        // Before the headers, or while the answer is held back.
        tokio::select! {
            answer = post().send() => panic!("answered too soon: {answer:?}"),
            () = until("the call arrived", || provider.stats().in_flight == 1) => {}
        }
        until("the provider is left", || provider.stats().in_flight == 0).await;
        gateway.idle().await;
        let left = u64::try_from(n + 1).unwrap();
        if *how == "complete" {
            continue;
        }
        let mut chunks = post().send().await.unwrap().bytes_stream();
        chunks.next().await.unwrap().unwrap();
        assert_eq!(provider.stats().in_flight, 1);
        drop(chunks);
        until("the provider is left", || provider.stats().in_flight == 0).await;
        gateway.idle().await;
        assert!(provider.stats().aborted > left, "{how}");
    }
}

#[tokio::test]
async fn an_answer_that_is_finished_for_nobody_is_billed_as_stated() {
    let (address, provider) = sim(unhurried(1, Vec::new())).await;
    let config = "[routes.default]\nladder = [\"up\"]\non_disconnect = \"finish\"\n[targets.up]\n";
    let gateway = Gateway::start(address, config);
    let asked = gateway.post("/v1/messages").body(request(true)).send();
    let mut chunks = asked.await.unwrap().bytes_stream();
    chunks.next().await.unwrap().unwrap();
    drop(chunks);
    until("the answer is over", || provider.stats().in_flight == 0).await;
    gateway.idle().await;
    let stats = provider.stats();
    assert_eq!((stats.aborted, stats.attempts), (0, 1));
    let metrics = gateway.get("/_seawall/metrics").await;
    let tokens = |kind, usage| {
        let (kind, usage) = (format!("kind=\"{kind}\""), format!("usage=\"{usage}\""));
        metric(&metrics, "seawall_tokens_total", &[&kind, &usage])
    };
    assert_eq!(
        (tokens("input", "stated"), tokens("output", "stated")),
        (stats.input_tokens, stats.output_tokens)
    );
    assert_eq!(tokens("output", "lower_bound"), 0);
}
