//! Who waits for a quota, seen from outside: tenants by header or by key, and what status says.

use seawall::sim::Settings;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::process::{BOUND, Gateway, instant, request, sim};
use crate::served::Served;

const A_POLL: std::time::Duration = std::time::Duration::from_millis(5);

/// One call goes out every ten seconds; the rest of a test's calls wait.
const NARROW: &str = "[quotas.q]\nrequests_per_minute = 6\n\
                      [targets.up]\nquota = \"q\"\n\
                      [tenants.paying]\nweight = 3\n\
                      [routes.default]\nladder = [\"up\"]\nprofile = \"batch\"\n";

/// The first limiter, once as many calls wait in it.
async fn waiting(gateway: &Gateway, calls: usize) -> Value {
    let reached = async {
        loop {
            let status = gateway.status().await;
            let limiter = &status["limiters"][0];
            if limiter["waiting"] == calls {
                return limiter["queue"].clone();
            }
            sleep(A_POLL).await;
        }
    };
    timeout(BOUND, reached).await.unwrap()
}

#[tokio::test]
async fn status_shows_who_waits_in_which_order_and_for_how_long() {
    let settings = Settings {
        instant: true,
        ..instant(Vec::new())
    };
    let (address, _sim) = sim(settings).await;
    let gateway = Gateway::start(address, NARROW);
    let mut clients = JoinSet::new();
    let mut ask = |tenant: &str, profile: &str| {
        let mut post = gateway.post("/v1/messages").body(request(false));
        if !tenant.is_empty() {
            post = post.header("x-seawall-tenant", tenant);
        }
        clients.spawn(post.header("x-seawall-profile", profile).send());
    };
    // One is served; the others wait behind it.
    for _ in 0..7 {
        ask("flood", "batch");
    }
    waiting(&gateway, 6).await;
    ask("paying", "batch");
    ask("", "batch");
    waiting(&gateway, 8).await;
    ask("person", "interactive");
    let queue = waiting(&gateway, 9).await;
    assert_eq!(
        queue["by_class"],
        serde_json::json!({ "high": 1, "normal": 0, "low": 8 })
    );
    assert_eq!(
        (&queue["tenants"], &queue["by_tenant"][0]["tenant"]),
        (&4.into(), &"flood".into())
    );
    assert_eq!(queue["by_tenant"][0]["waiting"], 6);
    let calls = queue["first"].as_array().unwrap();
    let of = |n: usize, key: &str| calls[n][key].clone();
    assert_eq!(
        (of(0, "tenant"), of(0, "class")),
        ("person".into(), "high".into())
    );
    // One of the flood's six, and then those who have only one each.
    assert_eq!(of(1, "tenant"), "flood");
    let mut next = [of(2, "tenant"), of(3, "tenant")];
    next.sort_by_key(Value::is_null);
    assert_eq!(next, ["paying".into(), Value::Null]);
    for (n, call) in calls.iter().enumerate() {
        assert_eq!(
            (&call["position"], &call["cost"]["requests"]),
            (&(n + 1).into(), &1.into())
        );
        let eta = call["eta_ms"].as_u64().unwrap();
        let turn = 10_000 * (n as u64 + 1);
        assert!(eta <= turn && eta + 9_000 >= turn, "{call}");
        assert_eq!(call["call"].as_str().unwrap().len(), 36);
    }
    clients.shutdown().await;
}

#[tokio::test]
async fn a_tenant_that_is_no_name_is_refused() {
    let (address, sim) = sim(instant(Vec::new())).await;
    let gateway = Gateway::start(address, "");
    let post = gateway.post("/v1/messages").body(request(false));
    let answer = post
        .header("x-seawall-tenant", "two words")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 400);
    let text = answer.text().await.unwrap();
    assert!(
        text.contains("x-seawall-tenant") && text.contains("no name"),
        "{text}"
    );
    assert_eq!(sim.stats().attempts, 0);
}

#[tokio::test]
async fn a_client_key_is_for_its_own_tenant_unless_it_may_name_others() {
    // The hashes of "test" and of "foo".
    let config = "[gateway]\nclient_keys = [\n\
         { name = \"own\", sha256 = \"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\" },\n\
         { name = \"proxy\", any_tenant = true, \
         sha256 = \"2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae\" },\n]\n\
         [targets.up]\napi_key_env = \"KEY\"\n[routes.default]\nladder = [\"up\"]\n";
    let (address, _sim) = sim(instant(Vec::new())).await;
    let gateway = Served::start(address, config, &[("KEY", "sk-test")]);
    for (key, tenant, status) in [
        ("test", None, 200),
        ("test", Some("own"), 200),
        ("test", Some("other"), 400),
        ("foo", Some("other"), 200),
    ] {
        let post = gateway.client.post(format!("{}/v1/messages", gateway.base));
        let mut post = post.bearer_auth(key).body(request(false));
        if let Some(tenant) = tenant {
            post = post.header("x-seawall-tenant", tenant);
        }
        let answer = post.send().await.unwrap();
        assert_eq!(answer.status(), status, "{key} for {tenant:?}");
        let text = answer.text().await.unwrap();
        assert_eq!(text.contains("any_tenant"), status == 400, "{text}");
    }
}
