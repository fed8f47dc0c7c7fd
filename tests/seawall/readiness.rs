//! What a load balancer is told: whether a call that came now could be answered.

use std::time::Duration;

use seawall::sim::{Fault, FaultKind};

use crate::process::{BOUND, Gateway, instant, request, sim};
use crate::rotated_key::{KeyFile, Keyed};

async fn ready(gateway: &Gateway) -> u16 {
    let url = format!("{}/_seawall/ready", gateway.base);
    gateway
        .client
        .get(url)
        .send()
        .await
        .unwrap()
        .status()
        .as_u16()
}

async fn call(gateway: &Gateway) -> u16 {
    let post = gateway.post("/v1/messages").body(request(false));
    post.send().await.unwrap().status().as_u16()
}

fn rungs(sections: &[(&str, &str)]) -> String {
    let names: Vec<&str> = sections.iter().map(|(name, _)| *name).collect();
    let mut config = format!("[routes.default]\nladder = {names:?}\nretry = {{ attempts = 1 }}\n");
    for (name, section) in sections {
        config.push_str(&format!("[targets.{name}]\n{section}"));
    }
    config
}

#[tokio::test]
async fn a_spend_cap_on_the_only_rung_is_told() {
    let key = KeyFile::with("sk-one");
    let capped = || instant(vec![Fault::new(FaultKind::SpendCap)]);
    let (address, _provider) = sim(capped()).await;
    let gateway = Gateway::start(address, &rungs(&[("a", &key.line())]));
    assert_eq!(ready(&gateway).await, 200, "nothing is known yet");
    assert_ne!(call(&gateway).await, 200);
    assert_eq!(ready(&gateway).await, 503);

    let (address, _provider) = sim(capped()).await;
    let two = rungs(&[("a", &key.line()), ("b", "model = \"claude-haiku-5-5\"\n")]);
    let gateway = Gateway::start(address, &two);
    assert_ne!(call(&gateway).await, 200);
    assert_eq!(
        ready(&gateway).await,
        200,
        "the other one takes callers' keys"
    );

    let (address, _provider) = sim(capped()).await;
    let gateway = Gateway::start(address, &rungs(&[("a", "")]));
    assert_ne!(call(&gateway).await, 200);
    assert_eq!(ready(&gateway).await, 200, "one caller's cap is no other's");
}

#[tokio::test]
async fn a_stop_that_is_soon_over_is_none() {
    let key = KeyFile::with("sk-one");
    let limited = Fault {
        retry_after: Some(Duration::from_secs(20)),
        ..Fault::new(FaultKind::RateLimited)
    };
    let (address, _provider) = sim(instant(vec![limited])).await;
    let gateway = Gateway::start(address, &rungs(&[("a", &key.line())]));
    assert_ne!(call(&gateway).await, 200);
    assert_eq!(ready(&gateway).await, 200);
}

#[tokio::test]
async fn an_open_breaker_is_told_unless_another_rung_is_untried() {
    for (more, told) in [(None, 503), (Some(("b", "")), 200)] {
        let failing = Fault::new(FaultKind::Internal).on_model("claude-sonnet");
        let (address, _provider) = sim(instant(vec![failing])).await;
        let sections: Vec<_> = [("a", "")].into_iter().chain(more).collect();
        let gateway = Gateway::start(address, &rungs(&sections));
        for _ in 0..6 {
            let post = gateway.post("/v1/messages").body(request(false));
            let post = post.header("x-seawall-fallback", "never");
            assert_ne!(post.send().await.unwrap().status(), 200);
        }
        let open = gateway.status().await["breakers"][0]["state"] == "open";
        assert!(open, "{}", gateway.status().await);
        assert_eq!(ready(&gateway).await, told);
    }
}

#[tokio::test]
async fn a_refused_key_is_told_until_it_has_changed() {
    let provider = Keyed::taking("sk-right").await;
    let (wrong, right) = (KeyFile::with("sk-wrong"), KeyFile::with("sk-right"));
    let two = rungs(&[("bad", &wrong.line()), ("good", &right.line())]);
    let gateway = Gateway::start(provider.address, &two);
    assert_eq!(call(&gateway).await, 200);
    assert_eq!(ready(&gateway).await, 200);

    let gateway = Gateway::start(provider.address, &rungs(&[("bad", &wrong.line())]));
    assert_eq!(ready(&gateway).await, 200);
    assert_eq!(call(&gateway).await, 401);
    assert_eq!(ready(&gateway).await, 503);
    // Nobody calls a gateway that is not ready: it finds out by itself.
    wrong.write("sk-right");
    let ready_again = async {
        while ready(&gateway).await != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(BOUND, ready_again).await.unwrap();
    assert_eq!(call(&gateway).await, 200);

    // A caller's own key makes nobody else wait.
    let gateway = Gateway::start(provider.address, &rungs(&[("a", "")]));
    assert_eq!(call(&gateway).await, 401);
    assert_eq!(ready(&gateway).await, 200);
}
