//! What the environment says of proxies holds for attempts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::served::{MESSAGE, Scripted, Served, message, request};

/// An address for documentation: nothing answers there.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)), 80);

/// What one call through the gateway arrives as at `there`.
async fn arrives(upstream: SocketAddr, there: &Scripted, env: &[(&str, &str)]) -> String {
    let served = Served::start(upstream, "", env);
    let sent = request(false);
    let answer = served.post("/v1/messages").body(sent.clone()).send().await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), MESSAGE);
    served.idle().await;
    let only = there.only();
    assert_eq!(only.header("x-api-key"), ["sk-test"]);
    assert_eq!(only.body, sent.as_bytes());
    only.line
}

#[tokio::test]
async fn an_attempt_goes_through_the_proxy_that_the_environment_names() {
    let proxy = Scripted::answering(message()).await;
    let at = format!("http://{}", proxy.address);
    let env = [("http_proxy", at.as_str()), ("no_proxy", "")];
    let line = arrives(NOWHERE, &proxy, &env).await;
    assert_eq!(line, "POST http://203.0.113.7/v1/messages");
}

#[tokio::test]
async fn an_exempted_provider_is_reached_without_it() {
    let provider = Scripted::answering(message()).await;
    let proxy = Scripted::answering(message()).await;
    let at = format!("http://{}", proxy.address);
    let env = [("http_proxy", at.as_str()), ("no_proxy", "127.0.0.1")];
    let line = arrives(provider.address, &provider, &env).await;
    assert_eq!(line, "POST /v1/messages");
    assert!(proxy.arrived().is_empty());
}
