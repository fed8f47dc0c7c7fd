//! The limits on the wire: each kind of 429, each family of headers, and what the limits count.

use serde_json::json;

use super::*;

fn quota(change: impl FnOnce(&mut QuotaSettings)) -> Settings {
    let mut quota = QuotaSettings {
        requests_per_minute: Some(6_000),
        burst: Duration::from_secs(60),
        ..QuotaSettings::of("claude-")
    };
    change(&mut quota);
    Settings {
        quotas: vec![quota],
        ..Settings::default()
    }
}

fn with_key(key: &'static str, request: Request) -> Request {
    let mut request = request;
    let key = HeaderValue::from_static(key);
    request.headers.insert("x-api-key", key);
    request
}

/// The names of the headers that tell a limit.
fn families(got: &Got) -> Vec<&str> {
    let names = got.headers.keys().map(::http::HeaderName::as_str);
    let mut names: Vec<_> = names
        .filter(|name| name.contains("ratelimit") || name.contains("anthropic-fast"))
        .collect();
    names.sort_unstable();
    names
}

#[tokio::test(start_paused = true)]
async fn sudden_growth_is_refused_with_its_code_and_a_true_retry_after() {
    let (_, transport) = start(quota(|quota| {
        quota.ramp = Some(RampSettings {
            growth: 2.0,
            floor: 60,
        });
    }));
    let mut answers = Vec::new();
    for number in 0..11 {
        let asked = ask(&format!("number {number}"), false);
        answers.push(send(&transport, asked).await.unwrap());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let refused: Vec<_> = answers.iter().filter(|got| got.status == 429).collect();
    // Answers take their time, so that eleven one after another are no sudden growth.
    assert!(refused.is_empty());
    tokio::time::sleep(Duration::from_secs(100)).await;
    let asked: Vec<_> = (0..11)
        .map(|n| ask(&format!("at once {n}"), false))
        .collect();
    let sent = asked.into_iter().map(|asked| send(&transport, asked));
    let answers = futures_util::future::join_all(sent).await;
    let refused: Vec<_> = answers
        .into_iter()
        .map(Result::unwrap)
        .filter(|got| got.status == 429)
        .collect();
    assert_eq!(refused.len(), 1);
    let refused = &refused[0];
    let error = &refused.json()["error"];
    assert_eq!(error["type"], "rate_limit_error");
    assert_eq!(error["details"]["error_code"], "ramp_limit_exceeded");
    assert_eq!(refused.header("retry-after"), Some("10"));
    assert_eq!(refused.header("x-should-retry"), Some("true"));
    assert!(
        refused
            .header("anthropic-ratelimit-requests-limit")
            .is_some()
    );
}

#[tokio::test(start_paused = true)]
async fn a_spend_cap_tells_its_date_and_no_wait() {
    let (sim, transport) = start(with([Fault::new(FaultKind::SpendCap)]));
    let got = send(&transport, ask("x", false)).await.unwrap();
    assert_eq!((got.status, got.header("retry-after")), (429, None));
    assert_eq!(families(&got), Vec::<&str>::new());
    let error = &got.json()["error"];
    assert_eq!(
        error["details"]["error_code"],
        "enforced_spend_limit_reached"
    );
    // The provider's calendar begins with 2026.
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("regain access on 2026-02-01 at 00:00 UTC"),
        "{message}"
    );
    assert_eq!(sim.stats().provider_429, 1);
}

#[tokio::test(start_paused = true)]
async fn more_connections_than_allowed_are_refused_overloaded_or_queued() {
    for above in [Above::RateLimited, Above::Overloaded, Above::Queued] {
        let (sim, transport) = start(quota(|quota| {
            quota.concurrency = Some(ConcurrencySettings { limit: 2, above });
        }));
        let asked: Vec<_> = (0..3)
            .map(|n| ask(&format!("{above:?} {n}"), false))
            .collect();
        let sent = asked.into_iter().map(|asked| send(&transport, asked));
        let answers = futures_util::future::join_all(sent).await;
        let mut answers: Vec<_> = answers.into_iter().map(Result::unwrap).collect();
        answers.sort_by_key(|got| got.status);
        let last = answers.pop().unwrap();
        assert!(answers.iter().all(|got| got.status == 200));
        match above {
            Above::RateLimited => {
                assert_eq!(
                    (last.status, last.header("x-should-retry")),
                    (429, Some("true"))
                );
                assert_eq!(
                    (last.header("retry-after"), families(&last)),
                    (None, vec![])
                );
                let message = last.json()["error"]["message"].as_str().unwrap().to_owned();
                assert!(
                    message.starts_with("Number of concurrent connections"),
                    "{message}"
                );
            }
            Above::Overloaded => {
                assert_eq!((last.status, last.header("retry-after")), (529, None));
                assert_eq!(last.json()["error"]["type"], "overloaded_error");
                assert_eq!(families(&last), Vec::<&str>::new());
            }
            Above::Queued => assert_eq!(last.status, 200),
        }
        // Their places are free again.
        let again = send(&transport, ask("again", false)).await.unwrap();
        assert_eq!((again.status, sim.stats().in_flight), (200, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_gives_its_place_back() {
    let (_, transport) = start(quota(|quota| {
        quota.concurrency = Some(ConcurrencySettings {
            limit: 1,
            above: Above::Queued,
        });
    }));
    let short = Duration::from_millis(100);
    for _ in 0..3 {
        let sent = send(&transport, ask("left", false));
        assert!(tokio::time::timeout(short, sent).await.is_err());
    }
    let began = Instant::now();
    let got = send(&transport, ask("served", false)).await.unwrap();
    assert_eq!(got.status, 200);
    assert!(began.elapsed() < Duration::from_secs(6));
}

#[tokio::test(start_paused = true)]
async fn the_fast_mode_has_its_own_pool_and_its_own_family() {
    let (sim, transport) = start(quota(|quota| {
        quota.input_tokens_per_minute = Some(50_000);
        quota.fast = Some(FastSettings {
            input_tokens_per_minute: 2_000,
            output_tokens_per_minute: 9_000,
        });
    }));
    let fast = |prompt: &str| {
        let mut body = body(prompt, false);
        body["speed"] = "fast".into();
        request("/v1/messages", &body)
    };
    let prompt = "x".repeat(7_200);
    let got = send(&transport, fast(&prompt)).await.unwrap();
    assert_eq!(got.json()["usage"]["speed"], "fast");
    assert_eq!(
        got.header("anthropic-fast-input-tokens-limit"),
        Some("2000")
    );
    assert_eq!(
        got.header("anthropic-fast-output-tokens-remaining"),
        Some("9000")
    );
    assert_eq!(
        got.header("anthropic-ratelimit-input-tokens-remaining"),
        Some("50000")
    );
    let spent = send(&transport, fast(&prompt)).await.unwrap();
    assert_eq!(spent.status, 429);
    assert!(spent.header("retry-after").is_some());
    assert_eq!(
        spent.header("anthropic-fast-input-tokens-remaining"),
        Some("0")
    );
    assert_eq!(sim.stats().quotas[0].input_tokens.unwrap().charged, 0);
    let usual = send(&transport, ask(&prompt, false)).await.unwrap();
    assert_eq!(usual.status, 200);
    assert!(usual.header("anthropic-fast-input-tokens-limit").is_none());
    assert!(usual.json()["usage"].get("speed").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_subscription_is_told_its_windows_and_when_they_open_again() {
    let settings = Settings {
        credentials: vec![CredentialSettings {
            key: "sk-ant-oat01-sim".to_owned(),
            unified: UnifiedSettings {
                five_hour: 2,
                seven_day: 100,
            },
        }],
        ..Settings::default()
    };
    let (_, transport) = start(settings);
    let subscribed = |prompt: &str| with_key("sk-ant-oat01-sim", ask(prompt, false));
    let unified = |got: &Got, name: &str| {
        let name = format!("anthropic-ratelimit-unified-{name}");
        got.header(&name).map(ToOwned::to_owned)
    };
    let first = send(&transport, subscribed("one")).await.unwrap();
    assert_eq!(unified(&first, "status").as_deref(), Some("allowed"));
    assert_eq!(unified(&first, "5h-utilization").as_deref(), Some("0.50"));
    assert_eq!(
        unified(&first, "representative-claim").as_deref(),
        Some("five_hour")
    );
    // 2026-01-01T05:00:00Z in seconds.
    assert_eq!(unified(&first, "5h-reset").as_deref(), Some("1767243600"));
    assert!(families(&first).iter().all(|name| name.contains("unified")));
    let second = send(&transport, subscribed("two")).await.unwrap();
    assert_eq!(second.status, 200);
    assert_eq!(
        unified(&second, "status").as_deref(),
        Some("allowed_warning")
    );
    let spent = send(&transport, subscribed("three")).await.unwrap();
    assert_eq!(
        (spent.status, unified(&spent, "status").as_deref()),
        (429, Some("rejected"))
    );
    assert_eq!(unified(&spent, "7d-status").as_deref(), Some("allowed"));
    let wait: u64 = spent.header("retry-after").unwrap().parse().unwrap();
    assert!((17_980..=18_000).contains(&wait), "{wait}");
    let other = send(&transport, ask("four", false)).await.unwrap();
    assert_eq!((other.status, unified(&other, "status")), (200, None));
    tokio::time::sleep(Duration::from_secs(wait)).await;
    let open = send(&transport, subscribed("five")).await.unwrap();
    assert_eq!(
        (open.status, unified(&open, "5h-utilization").as_deref()),
        (200, Some("0.50"))
    );
}

#[tokio::test(start_paused = true)]
async fn limits_may_be_told_as_openai_tells_them_or_not_at_all() {
    let limits = |quota: &mut QuotaSettings, headers| {
        quota.requests_per_minute = Some(60);
        quota.input_tokens_per_minute = Some(30_000);
        quota.output_tokens_per_minute = Some(10_000);
        quota.burst = Duration::from_secs(1);
        quota.headers = headers;
    };
    let (_, transport) = start(quota(|quota| limits(quota, HeaderStyle::OpenAi)));
    let (first, second) = tokio::join!(
        send(&transport, ask("one", false)),
        send(&transport, ask("two", false))
    );
    let (first, second) = (first.unwrap(), second.unwrap());
    let told: Vec<_> = families(&first)
        .into_iter()
        .map(|name| (name.to_owned(), first.header(name).unwrap().to_owned()))
        .collect();
    let pair = |name: &str, value: &str| (format!("x-ratelimit-{name}"), value.to_owned());
    assert_eq!(
        told[..3],
        [
            pair("limit-requests", "60"),
            pair("limit-tokens", "40000"),
            pair("remaining-requests", "59")
        ]
    );
    assert_eq!(told[4], pair("reset-requests", "1s"));
    assert!(told[5].1.ends_with("ms"), "{told:?}");
    assert_eq!(
        (second.status, second.header("retry-after")),
        (429, Some("1"))
    );
    assert_eq!(second.header("retry-after-ms"), Some("1000"));

    let (_, transport) = start(quota(|quota| limits(quota, HeaderStyle::None)));
    let silent = send(&transport, ask("one", false)).await.unwrap();
    assert_eq!((silent.status, families(&silent)), (200, vec![]));
}

#[tokio::test(start_paused = true)]
async fn tokens_are_told_in_thousands_and_requests_one_by_one() {
    let (_, transport) = start(quota(|quota| {
        quota.input_tokens_per_minute = Some(123_000);
        quota.output_tokens_per_minute = Some(77_000);
    }));
    let left = |got: &Got, name: &str| -> u64 {
        let name = format!("anthropic-ratelimit-{name}-remaining");
        got.header(&name).unwrap().parse().unwrap()
    };
    for number in 0..5_usize {
        let prompt = "x".repeat(3_000 * number);
        let got = send(&transport, ask(&prompt, false)).await.unwrap();
        for name in ["input-tokens", "output-tokens", "tokens"] {
            let left = left(&got, name);
            assert!(left.is_multiple_of(1_000), "{name}: {left}");
        }
    }
    // Four prompts at a time are taken at once, so the refill hides none of them.
    let asked: Vec<_> = (0..4).map(|n| ask(&format!("number {n}"), false)).collect();
    let sent = asked.into_iter().map(|asked| send(&transport, asked));
    let mut told: Vec<u64> = futures_util::future::join_all(sent)
        .await
        .into_iter()
        .map(|got| left(&got.unwrap(), "requests"))
        .collect();
    told.sort_unstable();
    assert_eq!(told, [5_996, 5_997, 5_998, 5_999]);
}

#[tokio::test(start_paused = true)]
async fn what_a_cache_had_is_told_in_usage_and_not_charged() {
    for counted in [false, true] {
        let (sim, transport) = start(quota(|quota| {
            quota.input_tokens_per_minute = Some(1_000_000);
            quota.cache_reads_count = counted;
        }));
        let charged = || sim.stats().quotas[0].input_tokens.unwrap().charged;
        let turn = |prompts: &[&str]| {
            let last = prompts.len() - 1;
            let messages: Vec<Value> = prompts
                .iter()
                .enumerate()
                .map(|(at, text)| {
                    let role = if at % 2 == 0 { "user" } else { "assistant" };
                    let mut block = json!({ "type": "text", "text": text });
                    if at == last {
                        block["cache_control"] = json!({ "type": "ephemeral" });
                    }
                    json!({ "role": role, "content": [block] })
                })
                .collect();
            let body =
                json!({ "model": "claude-sonnet-5", "max_tokens": 64, "messages": messages });
            request("/v1/messages", &body)
        };
        let long = "x".repeat(8_000);
        let usage = |got: &Got| {
            let usage = got.json()["usage"].clone();
            [
                "input_tokens",
                "cache_creation_input_tokens",
                "cache_read_input_tokens",
            ]
            .map(|name| usage[name].as_u64().unwrap())
        };
        let first = send(&transport, turn(&[&long])).await.unwrap();
        let [input, created, read] = usage(&first);
        assert!(
            input < 50 && created > 2_000 && read == 0,
            "{input} {created}"
        );
        assert_eq!(charged(), input + created);
        let second = send(&transport, turn(&[&long, "yes", "go on"]))
            .await
            .unwrap();
        let before = input + created;
        let [input, created, read] = usage(&second);
        assert!(
            input < 50 && created < 100 && read > 1_990,
            "{input} {created} {read}"
        );
        let free = if counted { 0 } else { read };
        assert_eq!(charged() - before, input + created + read - free);
        tokio::time::sleep(Duration::from_secs(301)).await;
        let [_, _, read] = usage(&send(&transport, turn(&[&long])).await.unwrap());
        assert_eq!(read, 0, "an entry lives for five minutes");
        let plain = send(&transport, ask(&long, false)).await.unwrap();
        assert_eq!(usage(&plain)[1..], [0, 0]);
    }
}

/// Two groups of models, the first with a lower limit in one workspace.
fn two_groups() -> Settings {
    let mut settings = quota(|quota| {
        quota.models = vec!["claude-sonnet-5-5".to_owned()];
        quota.input_tokens_per_minute = Some(2_000_000);
        quota.output_tokens_per_minute = Some(400_000);
    });
    settings.quotas.push(QuotaSettings {
        requests_per_minute: Some(50),
        ..QuotaSettings::of("claude-haiku-")
    });
    settings.workspaces = vec![WorkspaceSettings {
        id: "wrkspc_01".to_owned(),
        model: "claude-sonnet-5-5".to_owned(),
        requests_per_minute: Some(100),
        input_tokens_per_minute: None,
        output_tokens_per_minute: None,
    }];
    settings
}

#[tokio::test(start_paused = true)]
async fn an_administrator_reads_the_limits_and_nobody_else() {
    let (_, transport) = start(two_groups());
    let get = |path: &'static str| Request {
        method: Method::GET,
        body: Bytes::new(),
        ..request(path, &Value::Null)
    };
    let read = async |path: &'static str| {
        let asked = with_key("sk-ant-admin01-sim", get(path));
        send(&transport, asked).await.unwrap()
    };
    let all = read("/v1/organizations/rate_limits").await.json();
    assert_eq!(all["next_page"], Value::Null);
    let entries = all["data"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0]["type"], "rate_limit");
    assert_eq!(entries[0]["group"]["type"], "model_group");
    assert_eq!(entries[0]["group"]["display_name"], "Claude Sonnet 5.5");
    assert_eq!(entries[0]["models"], json!(["claude-sonnet-5-5"]));
    assert_eq!(
        entries[0]["limits"],
        json!([
            { "type": "requests_per_minute", "value": 6_000 },
            { "type": "input_tokens_per_minute_cache_aware", "value": 2_000_000 },
            { "type": "output_tokens_per_minute", "value": 400_000 },
        ])
    );
    let haiku = read("/v1/organizations/rate_limits?model=claude-haiku-5-5").await;
    assert_eq!(haiku.json()["data"], json!([entries[1]]));
    let batch = read("/v1/organizations/rate_limits?group_type=batch").await;
    assert_eq!(batch.json()["data"], json!([]));
    let own = read("/v1/organizations/workspaces/wrkspc_01/rate_limits")
        .await
        .json();
    assert_eq!(own["data"].as_array().unwrap().len(), 1);
    let own = &own["data"][0];
    assert_eq!(own["type"], "workspace_rate_limit");
    assert_eq!(own["rate_limit_id"], entries[0]["id"]);
    assert_eq!(
        own["limits"],
        json!([{
            "type": "requests_per_minute", "value": 100, "org_limit": 6_000,
            "source": { "type": "workspace" },
        }])
    );
    for path in [
        "/v1/organizations/rate_limits?model=gpt-4",
        "/v1/organizations/workspaces/wrkspc_02/rate_limits",
        "/v1/organizations/workspaces//rate_limits",
    ] {
        assert_eq!(read(path).await.status, 404, "{path}");
    }
    let usual = get("/v1/organizations/rate_limits");
    assert_eq!(send(&transport, usual).await.unwrap().status, 401);
    let posted = with_key(
        "sk-ant-admin01-sim",
        request("/v1/organizations/rate_limits", &Value::Null),
    );
    assert_eq!(send(&transport, posted).await.unwrap().status, 405);
}

#[test]
fn the_settings_of_limits_read_back_as_written() {
    let text = r#"
        admin_keys = ["sk-ant-admin01-a"]

        [[credentials]]
        key = "sk-ant-oat01-b"
        unified = { five_hour = 100, seven_day = 1000 }

        [[workspaces]]
        id = "wrkspc_01"
        model = "claude-sonnet-5"
        requests_per_minute = 10

        [[quotas]]
        models = ["claude-"]
        requests_per_minute = 600
        headers = "openai"
        concurrency = { limit = 12, above = "queued" }
        ramp = { growth = 2.0, floor = 60 }
        fast = { input_tokens_per_minute = 10, output_tokens_per_minute = 20 }
        cache_reads_count = true
    "#;
    let settings = Settings::from_toml(text).unwrap();
    assert_eq!(settings.quotas[0].headers, HeaderStyle::OpenAi);
    let written = toml::to_string(&settings).unwrap();
    let again = Settings::from_toml(&written).unwrap();
    assert_eq!(again.quotas, settings.quotas);
    assert_eq!(again.credentials, settings.credentials);
    assert_eq!(again.workspaces, settings.workspaces);
    for (wrong, named) in [
        (
            ("limit = 12", "limit = 0"),
            "quotas[0].concurrency.limit is 0",
        ),
        (
            ("growth = 2.0", "growth = 0.5"),
            "quotas[0].ramp.growth is 0.5",
        ),
        (
            ("five_hour = 100", "five_hour = 0"),
            "credentials[0].unified.five_hour is 0",
        ),
        (("\"openai\"", "\"gemini\""), "gemini"),
    ] {
        let error = Settings::from_toml(&text.replace(wrong.0, wrong.1)).unwrap_err();
        assert!(error.to_string().contains(named), "{error}");
    }
}
