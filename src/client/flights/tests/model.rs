//! Random callers of random calls: each who stays has the whole answer or the error of one call, and
//! no two calls for the same are under way.

use super::*;

/// What a call does.
#[derive(Debug, Clone, Copy)]
enum Script {
    Whole,
    Stream { events: usize, gap: u64 },
    Fails,
    Panics,
    PanicsAfter { events: usize },
}

/// One caller: what it asks, when it comes, when it leaves if it is still there, and how long it
/// thinks after each event.
#[derive(Debug, Clone, Copy)]
struct Caller {
    key: u8,
    comes: u64,
    stays: u64,
    thinks: u64,
}

fn script() -> impl Strategy<Value = Script> {
    prop_oneof![
        Just(Script::Whole),
        (0..6_usize, 0..20_u64).prop_map(|(events, gap)| Script::Stream { events, gap }),
        Just(Script::Fails),
        Just(Script::Panics),
        (0..3_usize).prop_map(|events| Script::PanicsAfter { events }),
    ]
}

fn caller() -> impl Strategy<Value = Caller> {
    let stays = prop_oneof![0..100_u64, Just(1_000_000)];
    (0..3_u8, 0..150_u64, stays, 0..15_u64).prop_map(|(key, comes, stays, thinks)| Caller {
        key,
        comes,
        stays,
        thinks,
    })
}

/// What was read of a call: its body or events, and its error.
#[derive(Debug, Default)]
struct Read {
    text: String,
    error: Option<String>,
}

impl Script {
    /// What all of its readers must have read.
    fn expected(self, number: usize) -> Read {
        let events = |n: usize| (0..n).map(|n| format!("{number}:{n} ")).collect::<String>();
        let (text, error) = match self {
            Self::Whole => (format!("{number}:whole"), None),
            Self::Stream { events: n, .. } => (events(n), None),
            Self::PanicsAfter { events: n } => (events(n), Some("event: error".to_owned())),
            Self::Fails => (String::new(), Some(format!("failed {number}"))),
            Self::Panics => (String::new(), Some(format!("panicked: {number}"))),
        };
        Read { text, error }
    }

    async fn play(self, (number, live): (usize, Live)) -> Result<Reply, Error> {
        sleep(ms(10)).await;
        let (events, gap, panics) = match self {
            Self::Whole => {
                let body = Bytes::from(format!("{number}:whole"));
                return Ok(reply(ReplyBody::Whole(body)));
            }
            Self::Fails => return Err(Error::UnknownRoute(format!("failed {number}"))),
            Self::Panics => panic!("{number}"),
            Self::Stream { events, gap } => (events, gap, false),
            Self::PanicsAfter { events } => (events, 7, true),
        };
        let events = stream::unfold((0, live), move |(n, live)| async move {
            sleep(ms(gap)).await;
            assert!(n < events || !panics, "{number}");
            (n < events).then(|| (Bytes::from(format!("{number}:{n} ")), (n + 1, live)))
        });
        Ok(reply(ReplyBody::Stream(ReplyStream::scripted(events))))
    }
}

async fn read(
    flights: Flights,
    caller: Caller,
    lead: impl FnOnce() -> Call + Send + 'static,
) -> Read {
    let mut read = Read::default();
    match join(&flights, key(caller.key), lead).await.reply {
        Err(Error::UnknownRoute(said)) => read.error = Some(said),
        Err(Error::Panicked(said)) => read.error = Some(format!("panicked: {said}")),
        Err(error) => panic!("{error:?}"),
        Ok(reply) => match reply.body {
            ReplyBody::Whole(body) => read.text = String::from_utf8(body.to_vec()).unwrap(),
            ReplyBody::Stream(mut events) => {
                while let Some(events) = events.next().await {
                    let text = String::from_utf8(events.to_vec()).unwrap();
                    if text.starts_with("event: error") {
                        read.error = Some("event: error".to_owned());
                    } else {
                        read.text.push_str(&text);
                    }
                    sleep(ms(caller.thinks)).await;
                }
            }
        },
    }
    read
}

type Call = futures_util::future::BoxFuture<'static, Result<Reply, Error>>;

async fn play(
    scripts: Vec<Script>,
    callers: Vec<Caller>,
    most_held: usize,
) -> Result<(), TestCaseError> {
    let flights = Flights::new(3, most_held);
    // A call that is made alone panics where it is made.
    let panics = |script: &Script| matches!(script, Script::Panics | Script::PanicsAfter { .. });
    prop_assume!(most_held == MOST_HELD || !scripts.iter().any(panics));
    let calls: [Arc<Calls>; 3] = Default::default();
    let numbers = Arc::new(AtomicUsize::new(0));
    let crowded = Arc::new(AtomicUsize::new(0));
    let mut readers = JoinSet::new();
    for caller in callers {
        let (flights, scripts) = (flights.clone(), scripts.clone());
        let calls = Arc::clone(&calls[usize::from(caller.key)]);
        let (numbers, crowded) = (Arc::clone(&numbers), Arc::clone(&crowded));
        let lead = {
            move || -> Call {
                let number = numbers.fetch_add(1, Ordering::SeqCst);
                let (_, live) = calls.begin();
                if calls.seen().1 > 1 {
                    crowded.fetch_add(1, Ordering::SeqCst);
                }
                Box::pin(scripts[number % scripts.len()].play((number, live)))
            }
        };
        readers.spawn(async move {
            sleep(ms(caller.comes)).await;
            timeout(ms(caller.stays), read(flights, caller, lead))
                .await
                .ok()
        });
    }
    for read in readers.join_all().await.into_iter().flatten() {
        let said = format!("{read:?}");
        let made = numbers.load(Ordering::SeqCst);
        let of_some = (0..made).any(|number| {
            let expected = scripts[number % scripts.len()].expected(number);
            (&expected.text, &expected.error) == (&read.text, &read.error)
        });
        prop_assert!(of_some, "{} of {:?}", said, scripts);
    }
    tokio::task::yield_now().await;
    prop_assert_eq!(flights.len(), 0);
    prop_assert_eq!(Arc::strong_count(&flights.board), 1);
    for calls in &calls {
        prop_assert_eq!(calls.seen().1, 0);
    }
    prop_assert_eq!(flights.board.held.load(Ordering::SeqCst), 0);
    if most_held == MOST_HELD {
        prop_assert_eq!(crowded.load(Ordering::SeqCst), 0);
    }
    Ok(())
}

proptest! {
    #[test]
    fn who_stays_has_the_whole_answer_and_nothing_is_left(
        scripts in prop::collection::vec(script(), 1..5),
        callers in prop::collection::vec(caller(), 1..25),
        // With little room, streams go lean at their first or second event.
        most_held in prop::sample::select(vec![MOST_HELD, 0, 8]),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(play(scripts, callers, most_held))?;
    }
}
