use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, StatusCode};
use proptest::prelude::*;
use seawall_actors::error::{Rejected, Rejection, StartError};
use tokio::task::JoinSet;
use tokio::time::{Instant, advance, sleep, timeout};

use super::*;
use crate::client::ask::{ReplyBody, ReplyStream, Report};
use crate::client::attempt::LARGEST_ANSWER;

mod model;

fn key(n: u8) -> FlightKey {
    FlightKey {
        request: CacheKey::from([n; 32]),
        asker: None,
        streams: true,
        profile: None,
        fallback: Fallback::Allowed,
        is_resent: false,
    }
}

/// An answer, and whether another call brought it.
#[derive(Debug)]
struct Joined {
    reply: Result<Reply, Error>,
    shared: bool,
}

async fn join<L, F>(flights: &Flights, key: FlightKey, lead: L) -> Joined
where
    L: FnOnce() -> F + Send + 'static,
    F: Future<Output = Result<Reply, Error>> + Send + 'static,
{
    let (subscriber, shared) = match flights.board(key, Instant::now(), lead) {
        Boarded::Alone(lead) => {
            let reply = lead().await;
            return Joined {
                reply,
                shared: false,
            };
        }
        Boarded::Leads(subscriber) => (subscriber, false),
        Boarded::Follows(subscriber, _) => (subscriber, true),
    };
    let reply = subscriber.reply().await;
    Joined { reply, shared }
}

fn reply(body: ReplyBody) -> Reply {
    let report = Report {
        rung: "default".into(),
        attempts: 1,
        ..Report::new("0199".into())
    };
    Reply {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body,
        report,
    }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Calls that were made and those that are still under way.
#[derive(Debug, Default)]
struct Calls {
    made: AtomicUsize,
    live: AtomicUsize,
}

struct Live(Arc<Calls>);

impl Calls {
    fn begin(self: &Arc<Self>) -> (usize, Live) {
        self.live.fetch_add(1, Ordering::SeqCst);
        let number = self.made.fetch_add(1, Ordering::SeqCst);
        (number, Live(Arc::clone(self)))
    }

    fn seen(&self) -> (usize, usize) {
        (
            self.made.load(Ordering::SeqCst),
            self.live.load(Ordering::SeqCst),
        )
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A call that is answered after 10 ms with as many events, 10 ms apart.
fn streaming(
    calls: &Arc<Calls>,
    events: usize,
) -> impl FnOnce() -> futures_util::future::BoxFuture<'static, Result<Reply, Error>> + Send + use<>
{
    let calls = Arc::clone(calls);
    move || {
        Box::pin(async move {
            let (number, live) = calls.begin();
            sleep(ms(10)).await;
            let events = stream::unfold((0, live), move |(n, live)| async move {
                sleep(ms(10)).await;
                (n < events).then(|| (Bytes::from(format!("{number}:{n} ")), (n + 1, live)))
            });
            Ok(reply(ReplyBody::Stream(ReplyStream::scripted(events))))
        })
    }
}

fn failing(
    error: fn() -> Error,
) -> impl FnOnce() -> futures_util::future::BoxFuture<'static, Result<Reply, Error>> + Send {
    move || {
        Box::pin(async move {
            sleep(ms(10)).await;
            Err(error())
        })
    }
}

async fn text(joined: Joined) -> String {
    let mut all = String::new();
    match joined.reply.expect("an answer").body {
        ReplyBody::Whole(body) => all.push_str(std::str::from_utf8(&body).unwrap()),
        ReplyBody::Stream(mut events) => {
            while let Some(events) = events.next().await {
                all.push_str(std::str::from_utf8(&events).unwrap());
            }
        }
    }
    all
}

#[tokio::test(start_paused = true)]
async fn all_who_ask_the_same_read_one_answer_from_its_start() {
    let (flights, calls) = (Flights::new(8, MOST_HELD), Arc::new(Calls::default()));
    let mut readers = JoinSet::new();
    for at in [0, 0, 5, 15, 25, 49] {
        let (flights, calls) = (flights.clone(), Arc::clone(&calls));
        readers.spawn(async move {
            sleep(ms(at)).await;
            let joined = join(&flights, key(1), streaming(&calls, 4)).await;
            (joined.shared, text(joined).await, Instant::now())
        });
    }
    let began = Instant::now();
    let read = readers.join_all().await;
    assert!(
        read.iter().all(|(_, text, _)| text == "0:0 0:1 0:2 0:3 "),
        "{read:?}"
    );
    assert!(
        read.iter().all(|(_, _, at)| *at == began + ms(60)),
        "{read:?}"
    );
    assert_eq!(read.iter().filter(|(shared, ..)| !shared).count(), 1);
    assert_eq!((calls.seen(), flights.len()), ((1, 0), 0));
    // Who comes later starts anew.
    let again = join(&flights, key(1), streaming(&calls, 1)).await;
    assert!(!again.shared);
    assert_eq!(text(again).await, "1:0 ");
}

#[tokio::test(start_paused = true)]
async fn other_requests_and_other_forms_are_other_calls() {
    let (flights, calls) = (Flights::new(8, MOST_HELD), Arc::new(Calls::default()));
    let whole = FlightKey {
        streams: false,
        ..key(1)
    };
    let join = |key| join(&flights, key, streaming(&calls, 1));
    let joined = tokio::join!(join(key(1)), join(key(2)), join(whole));
    assert!(!joined.0.shared && !joined.1.shared && !joined.2.shared);
    assert_eq!(calls.seen().0, 3);
}

#[tokio::test(start_paused = true)]
async fn one_who_leaves_disturbs_nobody_and_the_last_ends_the_call() {
    let (flights, calls) = (Flights::new(8, MOST_HELD), Arc::new(Calls::default()));
    // The first waits for its answer, the second has begun to read, the third goes on to the end.
    let third = {
        let (flights, calls) = (flights.clone(), Arc::clone(&calls));
        async move { text(join(&flights, key(1), streaming(&calls, 5)).await).await }
    };
    let first = timeout(ms(5), join(&flights, key(1), streaming(&calls, 5)));
    let second = timeout(ms(25), async {
        text(join(&flights, key(1), streaming(&calls, 5)).await).await
    });
    let (first, second, third) = tokio::join!(first, second, third);
    assert!(first.is_err() && second.is_err());
    assert_eq!(third, "0:0 0:1 0:2 0:3 0:4 ");
    assert_eq!(calls.seen(), (1, 0));

    for stay in [5, 25, 45] {
        let before = calls.seen().0;
        let read = || async { text(join(&flights, key(1), streaming(&calls, 9)).await).await };
        let left = tokio::join!(timeout(ms(stay), read()), timeout(ms(stay), read()));
        assert!(left.0.is_err() && left.1.is_err());
        // Gone from the board at once, and from memory as soon as its task had a turn.
        assert_eq!(flights.len(), 0);
        tokio::task::yield_now().await;
        assert_eq!(calls.seen(), (before + 1, 0));
        let next = join(&flights, key(1), streaming(&calls, 1)).await;
        assert!(!next.shared);
        assert_eq!(text(next).await, format!("{}:0 ", before + 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_holds_nobody_up() {
    let (flights, calls) = (Flights::new(8, MOST_HELD), Arc::new(Calls::default()));
    let began = Instant::now();
    let (slow, fast) = tokio::join!(
        join(&flights, key(1), streaming(&calls, 5)),
        join(&flights, key(1), streaming(&calls, 5)),
    );
    assert_eq!(text(fast).await, "0:0 0:1 0:2 0:3 0:4 ");
    assert_eq!(began.elapsed(), ms(70));
    assert_eq!((calls.seen(), flights.len()), ((1, 0), 0));
    advance(Duration::from_secs(3_600)).await;
    assert_eq!(text(slow).await, "0:0 0:1 0:2 0:3 0:4 ");
}

#[tokio::test(start_paused = true)]
async fn an_error_reaches_all_in_its_own_words() {
    let invalid = || Error::Refused(Rejected::new(Rejection::BreakerOpen));
    let no_target = || Error::NoTarget(StartError::TooMany(7));
    for error in [invalid, no_target, || Error::NoCredential] {
        let flights = Flights::new(8, MOST_HELD);
        let (a, b) = tokio::join!(
            join(&flights, key(1), failing(error)),
            join(&flights, key(1), failing(error)),
        );
        let told = format!("{:?}", error());
        assert_eq!(format!("{:?}", a.reply.unwrap_err()), told);
        assert_eq!(format!("{:?}", b.reply.unwrap_err()), told);
        assert_eq!(flights.len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_panics_fails_for_all_and_a_stream_says_so() {
    let flights = Flights::new(8, MOST_HELD);
    let lead = || async { panic!("a bug") };
    let (a, b) = tokio::join!(join(&flights, key(1), lead), join(&flights, key(1), lead));
    for joined in [a, b] {
        let error = joined.reply.unwrap_err();
        assert!(
            matches!(&error, Error::Panicked(why) if why == "a bug"),
            "{error:?}"
        );
    }
    let lead = || async {
        let events = stream::iter(0..3).map(|n| match n {
            2 => panic!("a bug"),
            n => Bytes::from(format!("{n} ")),
        });
        Ok(reply(ReplyBody::Stream(ReplyStream::scripted(events))))
    };
    let (a, b) = tokio::join!(join(&flights, key(1), lead), join(&flights, key(1), lead));
    for joined in [a, b] {
        let text = text(joined).await;
        assert!(text.starts_with("0 1 event: error\n"), "{text}");
        assert!(text.contains("\"reason\":\"panicked\""), "{text}");
    }
    assert_eq!(flights.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_ends_is_ended() {
    let flights = Flights::new(8, MOST_HELD);
    let lead = || async {
        let chunk = Bytes::from(vec![b'x'; 1 << 20]);
        let events = stream::repeat(chunk);
        Ok(reply(ReplyBody::Stream(ReplyStream::scripted(events))))
    };
    let mut bytes = 0;
    let ReplyBody::Stream(mut events) = join(&flights, key(1), lead).await.reply.unwrap().body
    else {
        panic!("no stream");
    };
    let mut last = Bytes::new();
    while let Some(events) = events.next().await {
        bytes += events.len();
        last = events;
    }
    assert!(bytes <= LARGEST_ANSWER + last.len(), "{bytes}");
    assert!(last.starts_with(b"event: error\n"));
    assert_eq!(flights.len(), 0);
}

/// A slow reader alone would otherwise have the whole answer held for it.
#[tokio::test(start_paused = true)]
async fn while_too_much_is_held_a_stream_goes_on_as_its_slowest_reader() {
    const EVENT: usize = 1 << 10;
    let flights = Flights::new(8, 4 * EVENT);
    let lead = || async {
        let events = stream::iter(0..40_u8).map(|n| Bytes::from(vec![n; EVENT]));
        Ok(reply(ReplyBody::Stream(ReplyStream::scripted(events))))
    };
    let (fast, slow) = tokio::join!(join(&flights, key(1), lead), join(&flights, key(1), lead));
    assert!(slow.shared);
    let read = async |joined: Joined, pause: u64| {
        let ReplyBody::Stream(mut events) = joined.reply.unwrap().body else {
            panic!("no stream");
        };
        let mut read = Vec::new();
        while let Some(events) = events.next().await {
            assert!(flights.board.held.load(Ordering::Relaxed) <= 6 * EVENT);
            read.push(events[0]);
            sleep(ms(pause)).await;
        }
        read
    };
    let late = async {
        sleep(ms(50)).await;
        // The start may be gone: who comes now asks alone.
        let late = join(&flights, key(1), lead).await;
        assert!(!late.shared);
        read(late, 0).await
    };
    let all: Vec<u8> = (0..40).collect();
    let began = Instant::now();
    let (fast, slow, late) = tokio::join!(read(fast, 0), read(slow, 10), late);
    assert_eq!((&fast, &slow, &late), (&all, &all, &all));
    assert_eq!(began.elapsed(), ms(400));
    assert_eq!(
        (flights.len(), flights.board.held.load(Ordering::Relaxed)),
        (0, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn beyond_the_most_flights_calls_are_made_alone() {
    let (flights, calls) = (Flights::new(1, MOST_HELD), Arc::new(Calls::default()));
    let join = |n| join(&flights, key(n), streaming(&calls, 1));
    let (a, b, c) = tokio::join!(join(1), join(2), join(2));
    assert!(!a.shared && !b.shared && !c.shared);
    assert_eq!(calls.seen().0, 3);
    let texts = [text(a).await, text(b).await, text(c).await];
    assert_eq!(texts.iter().filter(|text| text.ends_with(":0 ")).count(), 3);
}

/// With the runtime, the calls' tasks are dropped: who still waits is told.
#[test]
fn a_runtime_that_ends_leaves_nobody_waiting() {
    let flights = Flights::new(1, MOST_HELD);
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let first = runtime();
    let flying = Arc::new(Calls::default());
    let mut joining = Box::pin(join(&flights, key(1), streaming(&flying, 1)));
    first.block_on(async { assert!(timeout(ms(1), &mut joining).await.is_err()) });
    drop(first);
    let joined = runtime().block_on(joining);
    let error = joined.reply.unwrap_err();
    assert!(
        matches!(&error, Error::Refused(why) if why.why == Rejection::Stopped),
        "{error:?}"
    );
    assert_eq!((flights.len(), flying.seen()), (0, (1, 0)));
}
