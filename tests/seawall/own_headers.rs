//! What callers say in seawall's own headers counts once and as written, or is refused with what to
//! write.

use crate::process::{Gateway, instant, request, sim};

const ROUTES: &str =
    "[routes.default]\nladder = [\"up\"]\n[routes.two]\nladder = [\"up\"]\n[targets.up]\n";

/// Status and body of a call with these headers.
async fn call(gateway: &Gateway, said: &[(&str, &[u8])]) -> (u16, String) {
    let mut post = gateway.post("/v1/messages").body(request(false));
    for (name, value) in said {
        post = post.header(*name, *value);
    }
    let answer = post.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.text().await.unwrap())
}

#[tokio::test]
async fn a_header_said_twice_is_refused_whatever_it_says() {
    let (address, provider) = sim(instant(Vec::new())).await;
    let gateway = Gateway::start(address, ROUTES);
    let twice: [(&str, &str, &str); 8] = [
        ("x-seawall-fallback", "never", "foo"),
        ("x-seawall-fallback", "never", "never"),
        ("x-seawall-route", "two", "no-such-route"),
        ("x-seawall-profile", "batch", "interactive"),
        ("x-seawall-delivery", "complete", "hold"),
        ("x-seawall-cache", "no-cache", "no-store"),
        ("x-seawall-tenant", "a", "b"),
        ("x-seawall-run", "a", "b"),
    ];
    for (name, first, second) in twice {
        let once = call(&gateway, &[(name, first.as_bytes())]).await;
        assert_eq!(once.0, 200, "{name}: {}", once.1);
        let before = provider.stats().attempts;
        let both = [(name, first.as_bytes()), (name, second.as_bytes())];
        let (status, body) = call(&gateway, &both).await;
        assert_eq!(status, 400, "{name}: {body}");
        assert!(
            body.contains(&format!("{name} was sent twice: send it once")),
            "{body}"
        );
        assert_eq!(
            provider.stats().attempts,
            before,
            "{name}: nothing was sent"
        );
    }
}

#[tokio::test]
async fn a_word_that_is_none_is_refused_with_those_that_are() {
    let (address, provider) = sim(instant(Vec::new())).await;
    let gateway = Gateway::start(address, ROUTES);
    for (name, wrong, advice) in [
        ("x-seawall-cache", "bogus".as_bytes(), "no-store"),
        ("x-seawall-cache", b"no-store, bogus", "no-store"),
        ("x-seawall-fallback", b"foo", "never"),
        ("x-seawall-profile", b"fast", "interactive"),
        ("x-seawall-delivery", b"later", "complete"),
        ("x-seawall-route", b"no-such-route", "no-such-route"),
        ("x-seawall-route", "zwölf".as_bytes(), "plain ASCII"),
        ("x-seawall-run", "läuft".as_bytes(), "plain ASCII"),
    ] {
        let (status, body) = call(&gateway, &[(name, wrong)]).await;
        assert_eq!(status, 400, "{name}: {body}");
        assert!(body.contains(advice), "{name}: {body}");
    }
    assert_eq!(provider.stats().attempts, 0);
    for right in ["no-store", " No-Cache ", "no-cache, no-store", "max-age=0"] {
        let (status, body) = call(&gateway, &[("x-seawall-cache", right.as_bytes())]).await;
        assert_eq!(status, 200, "{right}: {body}");
    }
}
