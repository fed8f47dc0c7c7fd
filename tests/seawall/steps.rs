//! Steps of agents on the whole client, against the simulated provider in virtual time.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode};
use seawall::client::Seawall;
use seawall::client::ask::Ask;
use seawall::client::step::{FINAL, StepError, StepFailure, StepRun, StepSettings};
use seawall::error::Error;
use seawall::sim::faults::{Fault, FaultKind};
use seawall::sim::{Settings, Sim};
use seawall_actors::hooks::{Hooks, StepChange};
use seawall_actors::policy::backoff::Backoff;
use seawall_actors::policy::retry::Retry;
use seawall_actors::verdict::{Again, Blame, Verdict};

fn sim(faults: Vec<Fault>) -> Arc<Sim> {
    let sim = Sim::new(Settings {
        instant: true,
        ..Settings::default()
    })
    .unwrap();
    sim.set_faults(faults).unwrap();
    sim
}

async fn client(sim: &Arc<Sim>) -> Seawall {
    let builder = Seawall::builder().transport(Arc::new(Sim::transport(sim)));
    builder.seed(9).start().await.unwrap()
}

fn ask() -> Ask {
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", HeaderValue::from_static("sk-any"));
    let body = serde_json::json!({
        "model": "claude-sonnet-5-5",
        "max_tokens": 40,
        "messages": [{ "role": "user", "content": "a step" }],
    });
    Ask::messages(headers, Bytes::from(body.to_string()))
}

/// Many retries, so that an outage of seconds is outlasted whatever the jitter.
fn patient() -> StepSettings {
    let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(2)).unwrap();
    StepSettings {
        retry: Retry::new(100, backoff, Duration::ZERO).unwrap(),
        ..StepSettings::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_of_the_provider_passes_and_the_step_is_run_again() {
    // A 500 comes with `x-should-retry: false`, so the call itself gives up on it.
    let down = Fault::new(FaultKind::Internal).between(Duration::ZERO, Duration::from_secs(3));
    let sim = sim(vec![down]);
    let seawall = client(&sim).await;
    let step = seawall
        .spawn_step(patient(), |seawall, run: StepRun| async move {
            seawall.forward(ask()).await.map(|_| run.number)
        })
        .await
        .unwrap();
    assert!(step.join().await.unwrap() > 1);
    let snapshot = seawall.snapshot();
    assert!(snapshot.steps.retries > 0);
    assert_eq!(snapshot.steps.restarts, 0);
    assert_eq!(snapshot.pool.in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn the_callers_fault_and_the_credentials_are_final() {
    for (kind, status) in [
        (FaultKind::Authentication, StatusCode::UNAUTHORIZED),
        (FaultKind::InvalidRequest, StatusCode::BAD_REQUEST),
        (FaultKind::TooLarge, StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let sim = sim(vec![Fault::new(kind)]);
        let seawall = client(&sim).await;
        let step = seawall
            .spawn_step(patient(), |seawall, _| async move {
                seawall.forward(ask()).await
            })
            .await
            .unwrap();
        match step.join().await {
            Err(StepError::Failed(Error::Provider { status: seen, .. })) => {
                assert_eq!(seen, status);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(seawall.snapshot().steps.retries, 0);
    }
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the model: {0}")]
    Model(#[source] Error),
    #[error("no such tool")]
    Tool,
}

impl StepFailure for Trouble {
    fn verdict(&self) -> Verdict {
        match self {
            Self::Model(error) => error.verdict(),
            Self::Tool => FINAL,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_type_of_the_users_own_judges_itself() {
    let down = Fault::new(FaultKind::Internal).between(Duration::ZERO, Duration::from_secs(3));
    let sim = sim(vec![down]);
    let seawall = client(&sim).await;
    let step = seawall
        .spawn_step(patient(), |seawall, _| async move {
            seawall.forward(ask()).await.map_err(Trouble::Model)?;
            Err::<(), _>(Trouble::Tool)
        })
        .await
        .unwrap();
    let failed = step.join().await;
    assert!(matches!(failed, Err(StepError::Failed(Trouble::Tool))));
    assert!(seawall.snapshot().steps.retries > 0);
}

#[tokio::test(start_paused = true)]
async fn a_boxed_error_is_judged_by_the_model_error_inside_it() {
    type Boxed = Box<dyn std::error::Error + Send + Sync>;
    let sim = sim(vec![Fault::new(FaultKind::Internal)]);
    let seawall = client(&sim).await;
    let error = seawall.forward(ask()).await.unwrap_err();
    let expected = error.verdict();
    assert_eq!(
        (expected.blame, expected.again),
        (Blame::Target, Again::Here)
    );
    let boxed: Boxed = Box::new(Trouble::Model(error));
    assert_eq!(boxed.verdict(), expected);
    assert_eq!(Boxed::from("of another kind").verdict(), FINAL);
}

#[tokio::test(start_paused = true)]
async fn of_ten_steps_one_panics_twice_and_no_other_notices() {
    let sim = sim(Vec::new());
    let (say, said) = channel();
    let hooks = Hooks::new().on_step(move |news| match news.change {
        StepChange::Restarting(why) => say.send(why.to_owned()).unwrap(),
        StepChange::Ended { how, .. } => say.send(how.to_owned()).unwrap(),
        _ => {}
    });
    let builder = Seawall::builder().transport(Arc::new(Sim::transport(&sim)));
    let seawall = builder.hooks(hooks).start().await.unwrap();
    let mut steps = Vec::new();
    for number in 0..10 {
        let work = move |seawall: Seawall, run: StepRun| async move {
            seawall.forward(ask()).await?;
            assert!(number != 4 || run.number > 2, "a bug in the tool");
            Ok::<_, Error>(run.number)
        };
        let step = seawall.spawn_step(StepSettings::default(), work);
        steps.push(step.await.unwrap());
    }
    for (number, step) in steps.into_iter().enumerate() {
        let runs = if number == 4 { 3 } else { 1 };
        assert_eq!(step.join().await.unwrap(), runs);
    }
    let mut words = Vec::new();
    while words.len() < 12 {
        words.push(said.recv_timeout(Duration::from_secs(30)).unwrap());
    }
    let count = |word: &str| words.iter().filter(|w| *w == word).count();
    assert_eq!(count("answered"), 10);
    assert_eq!(count("it panicked: a bug in the tool"), 2);
    seawall.stop().await;
    assert_eq!(seawall.snapshot().steps.running, 0);
}
