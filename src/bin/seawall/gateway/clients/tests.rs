//! Limits, debts and the bound of the map, with the time handed in.

use std::time::Duration;

use proptest::prelude::*;
use seawall::config::{Config, Environment, Overrides};

use super::*;

fn limits(text: &str) -> ClientLimits {
    let environment = Environment::from_fn(|_| Some("sk-test".to_owned()));
    let text = format!("[gateway.limits]\n{text}");
    let path = std::path::Path::new("t.toml");
    Config::parse(&text, path, &Overrides::default(), &environment)
        .unwrap()
        .gateway
        .limits
}

fn named(name: &str) -> Client {
    Client::Key(name.into())
}

const MS: Duration = Duration::from_millis(1);

const CALL: Wish = Wish {
    is_stream: true,
    input: 0,
    most_output: 0,
};

fn tokens(input: u64) -> Wish {
    Wish { input, ..CALL }
}

/// How many of 1,000 requests at once are let in.
fn let_in(clients: &mut Clients, client: &Client, limits: &ClientLimits, now: Instant) -> usize {
    let entered = (0..1_000).map_while(|_| clients.enter(client.clone(), limits, CALL, now).ok());
    let entered: Vec<Entered> = entered.collect();
    for entered in entered.iter() {
        clients.left(&entered.client);
    }
    let count = entered.len();
    for entered in entered {
        clients.settle(entered, (0, 0), now);
    }
    count
}

#[test]
fn a_tenth_of_the_requests_is_saved_up_but_ten_at_least_and_no_more_than_all() {
    let now = Instant::now();
    for (per_minute, at_once) in [(600, 60), (120, 12), (50, 10), (10, 10), (3, 3), (1, 1)] {
        let limits = limits(&format!("requests_per_minute = {per_minute}"));
        let mut clients = Clients::new();
        assert_eq!(let_in(&mut clients, &named("a"), &limits, now), at_once);
        let gap = Duration::from_secs(60) / per_minute;
        let over = clients.enter(named("a"), &limits, CALL, now).unwrap_err();
        assert_eq!(over.limit, Limit::Requests);
        assert_eq!(over.until, Some(now + gap));
        assert_eq!(
            let_in(&mut clients, &named("a"), &limits, now + gap - MS),
            0
        );
        assert_eq!(let_in(&mut clients, &named("a"), &limits, now + gap), 1);
    }
}

#[test]
fn one_client_uses_nothing_of_anothers() {
    let now = Instant::now();
    let limits = limits("requests_per_minute = 60\nconcurrent_streams = 3");
    let mut clients = Clients::new();
    for _ in 0..3 {
        drop(clients.enter(named("a"), &limits, CALL, now).unwrap());
    }
    let over = clients.enter(named("a"), &limits, CALL, now).unwrap_err();
    assert_eq!((over.limit, over.until), (Limit::Streams, None));
    for _ in 0..3 {
        drop(clients.enter(named("b"), &limits, CALL, now).unwrap());
    }
    clients.left(&named("a"));
    drop(clients.enter(named("a"), &limits, CALL, now).unwrap());
}

#[test]
fn what_is_no_answer_of_the_messages_api_takes_no_place_and_no_tokens() {
    let now = Instant::now();
    let limits = limits("tokens_per_minute = 60\nconcurrent_streams = 1");
    let mut clients = Clients::new();
    let entered = clients.enter(named("a"), &limits, tokens(60), now).unwrap();
    for _ in 0..100 {
        let other = clients
            .enter(named("a"), &limits, Wish::default(), now)
            .unwrap();
        assert_eq!(other.tokens, 0);
        clients.settle(other, (0, 0), now);
    }
    clients.settle(entered, (60, 0), now);
}

#[test]
fn tokens_are_corrected_both_ways_and_a_debt_is_waited_for() {
    let now = Instant::now();
    let limits = limits("tokens_per_minute = 6000");
    let mut clients = Clients::new();
    let much = clients
        .enter(named("a"), &limits, tokens(6_000), now)
        .unwrap();
    let over = clients
        .enter(named("a"), &limits, tokens(100), now)
        .unwrap_err();
    assert_eq!(
        (over.limit, over.until),
        (Limit::Tokens, Some(now + 1_000 * MS))
    );
    clients.settle(much, (2_000, 1_000), now);
    let some = clients
        .enter(named("a"), &limits, tokens(3_000), now)
        .unwrap();
    clients.settle(some, (3_000, 6_000), now);
    let over = clients
        .enter(named("a"), &limits, tokens(0), now)
        .unwrap_err();
    assert_eq!(over.until, Some(now + 60_010 * MS), "6,000 in debt");
}

#[test]
fn an_answer_is_charged_as_long_as_answers_usually_are_and_no_longer_than_it_may_be() {
    let now = Instant::now();
    let limits = limits("tokens_per_minute = 1000000");
    let mut clients = Clients::new();
    let mut enter = |most_output, settled: Option<u64>| {
        let wish = Wish {
            most_output,
            ..tokens(10)
        };
        let entered = clients.enter(named("a"), &limits, wish, now).unwrap();
        let charged = entered.tokens;
        clients.settle(entered, (10, settled.unwrap_or(0)), now);
        charged
    };
    assert_eq!(enter(32_000, Some(800)), 10);
    assert_eq!(enter(32_000, Some(1_600)), 810);
    assert_eq!(enter(32_000, None), 910);
    assert_eq!(enter(64, None), 74);
}

#[test]
fn a_refusal_for_tokens_costs_no_request() {
    let now = Instant::now();
    let limits = limits("requests_per_minute = 10\ntokens_per_minute = 100");
    let mut clients = Clients::new();
    let all = clients
        .enter(named("a"), &limits, tokens(100), now)
        .unwrap();
    for _ in 0..50 {
        let over = clients
            .enter(named("a"), &limits, tokens(5), now)
            .unwrap_err();
        assert_eq!(over.limit, Limit::Tokens);
    }
    clients.settle(all, (0, 0), now);
    assert_eq!(let_in(&mut clients, &named("a"), &limits, now), 9);
}

#[test]
fn idle_clients_make_room_and_busy_or_indebted_ones_keep_theirs() {
    let start = Instant::now();
    let limits = limits("requests_per_minute = 600\ntokens_per_minute = 600");
    let mut clients = Clients::of_at_most(3);
    let _busy = clients.enter(named("busy"), &limits, CALL, start).unwrap();
    let debtor = clients
        .enter(named("debtor"), &limits, CALL, start)
        .unwrap();
    clients.settle(debtor, (100_000, 0), start);
    let idle = clients.enter(named("idle"), &limits, CALL, start).unwrap();
    clients.left(&named("idle"));
    clients.settle(idle, (1, 0), start);
    // Nobody has paid back yet.
    let crowded = clients.enter(named("x"), &limits, CALL, start).unwrap();
    assert_eq!(crowded.client, Client::Others);
    let crowded = clients.enter(named("y"), &limits, CALL, start).unwrap();
    assert_eq!(crowded.client, Client::Others);
    let later = start + Duration::from_secs(1);
    let next = clients.enter(named("z"), &limits, CALL, later).unwrap();
    assert_eq!(next.client, Client::Others, "still one too many");
    for crowded in 0..3 {
        clients.left(&Client::Others);
        let entered = Entered {
            client: Client::Others,
            tokens: 1,
        };
        clients.settle(entered, (0, 0), later + MS * crowded);
    }
    let soon = later + 999 * MS;
    let next = clients.enter(named("z"), &limits, CALL, soon).unwrap();
    assert_eq!(next.client, Client::Others, "not looked through again yet");
    clients.left(&Client::Others);
    clients.settle(next, (0, 0), soon);
    let again = later + 1_200 * MS;
    let next = clients.enter(named("z"), &limits, CALL, again).unwrap();
    assert_eq!(next.client, named("z"));
    assert!(clients.known.contains_key(&named("busy")));
    assert!(clients.known.contains_key(&named("debtor")));
    assert!(!clients.known.contains_key(&named("idle")));
}

#[test]
fn a_network_of_ipv6_addresses_is_one_client() {
    let at = |text: &str| Client::at(text.parse().unwrap());
    assert_eq!(at("2001:db8:1:2::1"), at("2001:db8:1:2:ffff::9"));
    assert_ne!(at("2001:db8:1:2::1"), at("2001:db8:1:3::1"));
    assert_eq!(at("::ffff:10.0.0.1"), at("10.0.0.1"));
    assert_ne!(at("10.0.0.1"), at("10.0.0.2"));
    assert_eq!(&*at("10.0.0.1").label(), "(address)");
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Enter(u8, u64, u64),
    Leave(usize),
    Settle(usize, u64),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u8..4, 0_u64..300, 0_u64..300).prop_map(|(c, i, o)| Step::Enter(c, i, o)),
        3 => any::<usize>().prop_map(Step::Leave),
        4 => (any::<usize>(), 0_u64..600).prop_map(|(n, used)| Step::Settle(n, used)),
        2 => (0_u64..3_000).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whatever comes in whatever order: places are never over their limit and all come back, what is
    /// settled is at most a minute's tokens, what time brought, and what calls that were let in used
    /// beyond their estimate; and the map keeps its bound.
    #[test]
    fn nothing_leaks_and_nothing_is_granted_twice(
        steps in proptest::collection::vec(step(), 0..300),
        most in 1_usize..5,
    ) {
        let limits = limits("tokens_per_minute = 1000\nconcurrent_streams = 3");
        let start = Instant::now();
        let mut now = start;
        let mut clients = Clients::of_at_most(most);
        let mut placed: Vec<Client> = Vec::new();
        let mut open: Vec<Entered> = Vec::new();
        let mut spent: HashMap<Client, (u64, u64)> = HashMap::new();
        for step in steps {
            match step {
                Step::Enter(client, input, most_output) => {
                    let wish = Wish { is_stream: true, input, most_output };
                    let asked = named(&client.to_string());
                    if let Ok(entered) = clients.enter(asked, &limits, wish, now) {
                        placed.push(entered.client.clone());
                        spent.entry(entered.client.clone()).or_default().0 += entered.tokens;
                        open.push(entered);
                    }
                }
                Step::Leave(n) if !placed.is_empty() => {
                    let client = placed.swap_remove(n % placed.len());
                    clients.left(&client);
                }
                Step::Settle(n, used) if !open.is_empty() => {
                    let entered = open.swap_remove(n % open.len());
                    let of = spent.get_mut(&entered.client).unwrap();
                    of.0 = of.0 - entered.tokens + used;
                    of.1 += used.saturating_sub(entered.tokens);
                    clients.settle(entered, (used, 0), now);
                }
                Step::Leave(_) | Step::Settle(..) => {}
                Step::Pass(millis) => now += Duration::from_millis(millis),
            }
            for (client, used) in &clients.known {
                let under_way = placed.iter().filter(|placed| *placed == client).count();
                prop_assert_eq!(used.streams as usize, under_way);
                prop_assert!(under_way <= 3);
                let unsettled = open.iter().filter(|open| open.client == *client).count();
                prop_assert_eq!(used.unsettled as usize, unsettled);
            }
            prop_assert!(clients.known.len() <= most + 1);
            let millis = u64::try_from((now - start).as_millis()).unwrap();
            for (spent, beyond) in spent.values() {
                prop_assert!(*spent <= 1_001 + millis * 1_000 / 60_000 + beyond);
            }
        }
    }
}

#[test]
fn a_standing_says_what_is_left_and_keys_come_before_addresses() {
    let now = Instant::now();
    let limits =
        limits("requests_per_minute = 600\ntokens_per_minute = 1000\nconcurrent_streams = 4");
    let mut clients = Clients::new();
    let others = (0..20).map(|host| Client::at(IpAddr::from([10, 0, 0, host])));
    for client in others.chain([named("b"), named("a")]) {
        let entered = clients.enter(client, &limits, tokens(100), now).unwrap();
        clients.settle(entered, (1_500, 0), now);
    }
    clients.left(&named("b"));
    let (known, first) = clients.standings(3, now + Duration::from_secs(6));
    assert_eq!((known, first.len()), (22, 3));
    assert_eq!(first[0].client, named("a"));
    assert_eq!(first[2].client, Client::at(IpAddr::from([10, 0, 0, 0])));
    let left = |standing: &Standing| {
        let left = |under: Option<Under>| under.unwrap().left;
        (
            left(standing.requests),
            left(standing.tokens),
            left(standing.streams),
        )
    };
    // 600 a minute bring the one back at once, 1,000 a minute 100 of the 1,500.
    assert_eq!(left(&first[0]), (60, -400, 3));
    assert_eq!(left(&first[1]), (60, -400, 4));
    let unlimited = ClientLimits::default();
    let entered = clients.enter(named("0"), &unlimited, CALL, now).unwrap();
    clients.settle(entered, (0, 0), now);
    let standing = clients.standings(1, now).1.remove(0);
    assert_eq!((standing.requests, standing.streams), (None, None));
}
