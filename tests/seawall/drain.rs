//! A stop: what is under way may finish, what can't is told so, nothing is cut without a word.

use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use seawall::delivery::{Delivery, Hold};
use seawall::error::Error;
use seawall::profile::Profile;
use seawall::sim::{Delay, Fault, FaultKind, ModelSettings, Settings, Sim, TokenRange};
use seawall::verdict::label;
use seawall_actors::error::Rejection;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::process::{BOUND, Gateway, request, sim};
use crate::stream_faults::case::{Shape, UP, asking, call, client, idle, settings};
use crate::stream_faults::reading::{End, read};
use crate::stream_faults::tap::Tap;
use crate::stream_faults::until;

const SECOND: Duration = Duration::from_secs(1);

const DELIVERIES: [Delivery; 4] = [
    Delivery::AsItComes,
    Delivery::Complete,
    Delivery::Hold(Hold::new(50, Duration::from_millis(500))),
    Delivery::Resume,
];

/// A provider whose answers take so many seconds.
fn taking(seconds: u64, faults: Vec<Fault>) -> Settings {
    let model = ModelSettings {
        ttft: Delay::ZERO,
        output_tokens: TokenRange {
            from: 20 * seconds,
            to: 20 * seconds,
        },
        tokens_per_second: 20.0,
        ..ModelSettings::of("claude-")
    };
    Settings {
        models: vec![model],
        ..settings(1, faults)
    }
}

#[tokio::test(start_paused = true)]
async fn what_finishes_in_time_is_whole_and_nothing_new_is_taken() {
    let sim = Sim::new(taking(4, Vec::new())).unwrap();
    let way = sim.transport();
    let seawall = client(&Tap::new(way.clone(), way, 0), UP).await;
    let under_way = join_all(DELIVERIES.map(|delivery| {
        let mut ask = asking(Shape::Text);
        ask.delivery = Some(delivery);
        call(&seawall, ask)
    }));
    let stop = async {
        sleep(SECOND).await;
        let began = Instant::now();
        let late = async {
            sleep(SECOND).await;
            call(&seawall, asking(Shape::Text)).await.error
        };
        let (drained, late) = tokio::join!(seawall.drain(began + SECOND * 30), late);
        assert!(
            drained && began.elapsed() < SECOND * 4,
            "{:?}",
            began.elapsed()
        );
        let Some(Error::Refused(refused)) = late else {
            panic!("a call was taken: {late:?}");
        };
        assert_eq!(refused.why, Rejection::Draining);
    };
    let (seen, ()) = tokio::join!(under_way, stop);
    for seen in seen {
        assert_eq!(seen.message().end, End::Whole);
    }
    idle(&seawall, &[&sim], Duration::from_millis(2)).await;
}

#[tokio::test(start_paused = true)]
async fn what_does_not_finish_in_time_ends_in_an_error_with_its_reason() {
    let stall = Fault {
        after_events: Some(20),
        ..Fault::new(FaultKind::StallInStream)
    };
    let before = Fault::new(FaultKind::StallBeforeContent);
    // Its calls are in a backoff, of which the longest is half an hour here.
    let refused = Fault::new(FaultKind::Overloaded);
    let config = format!("{UP}[routes.default]\nretry = {{ base = \"30m\", cap = \"30m\" }}\n");
    for fault in [None, Some(stall), Some(before), Some(refused)] {
        let sim = Sim::new(taking(400, fault.clone().into_iter().collect())).unwrap();
        let way = sim.transport();
        let seawall = client(&Tap::new(way.clone(), way, 0), &config).await;
        let under_way = join_all(DELIVERIES.map(|delivery| {
            let mut ask = asking(Shape::Text);
            let body = String::from_utf8(ask.body.to_vec()).unwrap();
            ask.body = body.replace("512", "9000").into();
            (ask.profile, ask.delivery) = (Some(Profile::Batch), Some(delivery));
            call(&seawall, ask)
        }));
        let stop = async {
            sleep(SECOND * 30).await;
            let deadline = Instant::now() + SECOND * 5;
            assert!(!seawall.drain(deadline).await);
            assert!(Instant::now() <= deadline + Duration::from_millis(2));
            seawall.end_streams();
            seawall.stop().await;
            Instant::now()
        };
        let mut plain = asking(Shape::Text);
        let body = String::from_utf8(plain.body.to_vec()).unwrap();
        plain.body = body.replace("true", "false").replace("512", "9000").into();
        plain.profile = Some(Profile::Batch);
        let plain = Box::pin(seawall.forward(plain));
        let (seen, plain, stopped) = tokio::join!(under_way, plain, stop);
        let Err(Error::Refused(refused)) = plain else {
            panic!("{plain:?}: {fault:?}");
        };
        assert_eq!(refused.why, Rejection::Draining, "{fault:?}");
        for (seen, delivery) in seen.into_iter().zip(DELIVERIES) {
            let what = format!("{delivery}, {fault:?}");
            // Each has waited for more than 20 s, or has content: it is a stream by now.
            let message = seen.message();
            let waited = seen.ended - seen.began;
            let honest = matches!(message.end, End::Failed { .. });
            assert!(honest, "{:?} after {waited:?}: {what}", message.end);
            let reason = message.reason().unwrap();
            assert_eq!(reason, label::DRAINING, "{what}");
            let late = seen.ended.saturating_duration_since(stopped);
            assert!(
                late <= Duration::from_millis(10),
                "{late:?} late, {reason}: {what}"
            );
        }
        assert_eq!(sim.stats().in_flight, 0);
    }
}

#[cfg(unix)]
fn terminate(gateway: &Gateway) {
    let pid = gateway.process.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
}

/// An answer to its clean end.
#[cfg(unix)]
async fn read_all(post: reqwest::RequestBuilder) -> (reqwest::StatusCode, Vec<u8>) {
    let answer = post.send().await.unwrap();
    let status = answer.status();
    let mut chunks = answer.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = chunks.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    (status, bytes)
}

#[cfg(unix)]
async fn exit_code(gateway: &mut Gateway) -> Option<i32> {
    let ended = async {
        loop {
            if let Some(status) = gateway.process.try_wait().unwrap() {
                return status.code();
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(BOUND, ended).await.unwrap()
}

#[cfg(unix)]
#[tokio::test]
async fn a_gateway_that_is_stopped_lets_streams_finish_and_ends_the_others_with_an_error() {
    let mut settings = taking(1, Vec::new());
    let long = taking(400, Vec::new()).models[0].clone();
    settings.models.insert(
        0,
        ModelSettings {
            prefix: "claude-opus-".to_owned(),
            ..long
        },
    );
    let (address, provider) = sim(settings).await;
    let mut gateway = Gateway::start(address, "[gateway]\ndrain = \"3s\"\n");
    let balancer = reqwest::Client::new();
    let ready = || async {
        let url = format!("{}/_seawall/ready", gateway.base);
        balancer.get(url).send().await.unwrap().status()
    };
    assert_eq!(ready().await, 200);
    let models = ["claude-sonnet-5-5", "claude-opus-4-6"];
    let ways = ["as_it_comes", "complete", "hold", "resume"];
    let asked = models
        .into_iter()
        .flat_map(|model| ways.map(|how| (model, how)));
    let asked = asked.map(|(model, how)| {
        let body = request(true).replace("claude-sonnet-5-5", model);
        let post = gateway
            .post("/v1/messages")
            .header("x-seawall-delivery", how);
        let post = post.body(body.replace("64", "9000"));
        async move {
            let (status, bytes) = read_all(post).await;
            (model, how, status, bytes)
        }
    });
    let asked = join_all(asked);
    let stop = async {
        until("all calls arrived", || provider.stats().in_flight == 8).await;
        terminate(&gateway);
        let closed = async {
            while TcpStream::connect(gateway.address()).await.is_ok() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(BOUND, closed).await.unwrap();
        // On a connection from before.
        assert_eq!(ready().await, 503);
    };
    let (answers, ()) = tokio::join!(asked, stop);
    for (model, how, status, bytes) in answers {
        let text = String::from_utf8_lossy(&bytes);
        let what = format!("{model}, {how}: {status} {text}");
        if model == models[0] {
            assert_eq!(read(&bytes).unwrap().end, End::Whole, "{what}");
        } else if status == 200 {
            let message = read(&bytes).unwrap();
            assert_eq!(message.reason(), Some(label::DRAINING), "{what}");
        } else {
            // Nothing had been said: an error like any other.
            assert!(how == "complete" && status == 503, "{what}");
            let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(body["type"], "error", "{what}");
        }
    }
    assert_eq!(exit_code(&mut gateway).await, Some(0));
    until("the provider is left", || provider.stats().in_flight == 0).await;
}
