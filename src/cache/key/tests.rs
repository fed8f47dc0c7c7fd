use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::provider::anthropic::headers::Form;

const BODY: &[u8] = br#"{"model":"claude-sonnet-5-5","messages":[]}"#;

fn of(scope: Scope<'_>, route: &str, headers: &[(&str, &str)], body: &[u8]) -> CacheKey {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            value.parse().unwrap(),
        );
    }
    let parts = KeyParts {
        scope,
        route,
        model: None,
        query: None,
        headers: &map,
        body,
    };
    Fingerprint::of(&parts).unwrap().key
}

#[test]
fn the_version_and_the_betas_count_and_their_order_does_not() {
    let key = |headers: &[(&str, &str)]| of(Scope::Shared, "r", headers, BODY);
    let plain = key(&[]);
    assert_eq!(
        key(&[("anthropic-version", "2023-06-01"), ("x-api-key", "k")]),
        plain
    );
    assert_ne!(key(&[("anthropic-version", "2023-01-01")]), plain);
    let betas = key(&[("anthropic-beta", "a,b")]);
    assert_ne!(betas, plain);
    assert_eq!(
        key(&[("anthropic-beta", "b"), ("anthropic-beta", " a , b,")]),
        betas
    );
    assert_ne!(key(&[("anthropic-beta", "ab")]), betas);
    assert_ne!(key(&[("anthropic-beta", "a")]), betas);
}

#[test]
fn every_part_counts() {
    let headers = HeaderMap::new();
    let parts = KeyParts {
        scope: Scope::Shared,
        route: "default",
        model: None,
        query: None,
        headers: &headers,
        body: BODY,
    };
    let [first, second] =
        ["sk-one", "sk-two"].map(|key| Credential::new(Form::ApiKey, key).unwrap());
    let bearer = Credential::new(Form::Bearer, "sk-one").unwrap();
    let with = |scope| KeyParts { scope, ..parts };
    let all = [
        parts,
        KeyParts {
            route: "other",
            ..parts
        },
        KeyParts {
            model: Some("claude-haiku-5-5"),
            ..parts
        },
        KeyParts {
            query: Some(""),
            ..parts
        },
        KeyParts {
            query: Some("beta=true"),
            ..parts
        },
        KeyParts {
            body: b"{}",
            ..parts
        },
        with(Scope::Tenant("")),
        with(Scope::Tenant("a")),
        with(Scope::Credential(&first, None)),
        with(Scope::Credential(&second, None)),
        with(Scope::Credential(&first, Some(""))),
        with(Scope::Credential(&first, Some("a"))),
    ];
    let keys: HashMap<_, _> = all
        .iter()
        .map(|parts| (Fingerprint::of(parts).unwrap().key, ()))
        .collect();
    assert_eq!(keys.len(), all.len());
    let again = Fingerprint::of(&with(Scope::Credential(&bearer, None)))
        .unwrap()
        .key;
    assert!(
        keys.contains_key(&again),
        "both forms of one key are one caller"
    );
    let spelled = KeyParts {
        model: Some("claude-sonnet-5-5-20260101"),
        ..parts
    };
    assert_ne!(
        Fingerprint::of(&spelled).unwrap().key,
        Fingerprint::of(&parts).unwrap().key,
        "a name without a date may come to mean another snapshot"
    );
}

#[test]
fn nothing_of_a_credential_is_shown() {
    let secret = "sk-ant-very-secret";
    let credential = Credential::new(Form::ApiKey, secret).unwrap();
    let scope = Scope::Credential(&credential, None);
    let shown = format!("{scope:?} {:?}", of(scope, "r", &[], BODY));
    assert!(!shown.contains("secret"), "{shown}");
}

/// Names and bodies that invite collisions: empty ones, and such as begin where others end.
fn tricky() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab\u{0}]{0,3}",
        Just("t\u{1}\u{1}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}a".to_owned()),
        Just("default".to_owned()),
    ]
}

fn body() -> impl Strategy<Value = String> {
    prop::collection::vec("[ab]{0,2}", 0..3)
        .prop_map(|texts| serde_json::json!({ "messages": texts }).to_string())
}

type Question = (
    (u8, String, String),
    String,
    Option<String>,
    Vec<String>,
    String,
);

fn question() -> impl Strategy<Value = Question> {
    let scope = (0..4_u8, tricky(), "[ab]{1,2}");
    let query = prop::option::of(tricky());
    let betas = prop::collection::vec("[ab]{1,2}", 0..3);
    (scope, tricky(), query, betas, body())
}

/// Its key, and what must be equal where two keys are.
fn asked((scope, route, query, betas, body): &Question) -> (CacheKey, String) {
    let (kind, tenant, secret) = scope;
    let credential = Credential::new(Form::ApiKey, secret).unwrap();
    let (scope, who) = match kind {
        0 => (Scope::Tenant(tenant), format!("tenant {tenant:?}")),
        1 => (
            Scope::Credential(&credential, None),
            format!("key {secret:?}"),
        ),
        2 => (
            Scope::Credential(&credential, Some(tenant)),
            format!("key {secret:?} for {tenant:?}"),
        ),
        _ => (Scope::Shared, "all".to_owned()),
    };
    let mut headers = HeaderMap::new();
    for beta in betas {
        headers.append("anthropic-beta", beta.parse().unwrap());
    }
    let mut betas = betas.clone();
    betas.sort();
    betas.dedup();
    let parts = KeyParts {
        scope,
        route,
        model: None,
        query: query.as_deref(),
        headers: &headers,
        body: body.as_bytes(),
    };
    let told = format!("{who} {route:?} {query:?} {betas:?} {body}");
    (Fingerprint::of(&parts).unwrap().key, told)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Nobody finds what another tenant asked, nor what another route or body was answered.
    #[test]
    fn two_different_questions_never_share_a_key(
        questions in prop::collection::vec(question(), 200)
    ) {
        let mut seen: HashMap<CacheKey, String> = HashMap::new();
        for question in &questions {
            let (key, told) = asked(question);
            let before = seen.entry(key).or_insert_with(|| told.clone());
            prop_assert_eq!(&*before, &told);
        }
    }
}
