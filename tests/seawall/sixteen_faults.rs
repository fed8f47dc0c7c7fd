//! Sixteen things that go wrong with a primary that has one fallback, as public comparisons of
//! gateways play them, and in the Messages API's own shapes. Two retries, 30 s for whatever can be
//! idle, delivery `complete`: the caller gets the whole answer, byte for byte what one of the two wrote,
//! or, from the content filter, a clean error.

mod accounting;
mod flap;
mod rig;
mod row;
mod sockets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use seawall::sim::{Fault, FaultKind};

use rig::{SEEDS, both_undisturbed, events_of, play, play_on, undisturbed};
use row::{Answer, By, FALLBACK, Form, Row, Seen, head, judge, paced};

/// What the provider's content filter says.
const FILTERED: By = By::Nobody {
    error: "invalid_request_error",
    message: "Output blocked by content filtering policy",
};

const fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

/// Faults that the provider tells by a status.
fn told() -> Vec<Row> {
    use FaultKind as K;
    let limited = |retry_after| Fault {
        retry_after,
        ..Fault::new(K::RateLimited)
    };
    let internal = |should_retry| Fault {
        should_retry: Some(should_retry),
        ..Fault::new(K::Internal).on_attempts(1, 1)
    };
    let once = limited(seconds(2)).on_attempts(1, 1);
    vec![
        Row::new("429 with retry-after 2", Some(once), By::Primary)
            .hinted(2)
            .takes(2.0..=6.0),
        Row::new(
            "429 with retry-after 2, persistent",
            Some(limited(seconds(2))),
            By::Fallback,
        )
        .hinted(2),
        Row::new(
            "429 with retry-after 600",
            Some(limited(seconds(600))),
            By::Fallback,
        )
        .attempts(1..=1)
        .takes(0.0..=3.0),
        Row::new(
            "429 without retry-after, persistent",
            Some(limited(None)),
            By::Fallback,
        ),
        Row::new("500 once", Some(internal(true)), By::Primary),
        // As recorded: another provider may be asked, this one not again.
        Row::new(
            "500 once with x-should-retry: false",
            Some(internal(false)),
            By::Fallback,
        )
        .attempts(1..=1),
        Row::new(
            "503 persistent",
            Some(Fault::new(K::Unavailable)),
            By::Fallback,
        ),
        Row::new(
            "529 persistent",
            Some(Fault::new(K::Overloaded)),
            By::Fallback,
        ),
        Row::new(
            "content filter",
            Some(Fault::new(K::ContentFiltered)),
            FILTERED,
        ),
    ]
}

/// Faults of the connection or inside the answer. `events` bring 40 of its 60 tokens.
fn untold(events: u32) -> Vec<Row> {
    use FaultKind as K;
    let inside = |kind| Fault {
        after_events: Some(events),
        ..Fault::new(kind)
    };
    let slow = Fault {
        ttft: seconds(20),
        ..Fault::new(K::Slow)
    };
    let stall = Fault {
        stall_for: seconds(30),
        ..inside(K::StallInStream)
    };
    let silence = || Some(Fault::new(K::NoAnswer));
    // By then the caller has a 200, and pings.
    let mut both = Row::new("content filter after 20 s", Some(slow.clone()), FILTERED);
    both.faults.push(inside(K::FilteredInStream));
    let fallback = |name, fault| Row::new(name, Some(fault), By::Fallback);
    vec![
        fallback("reset before headers", Fault::new(K::ResetBeforeHeaders)),
        // Connecting and headers have a clock each, and both may run out twice.
        Row::new("silence", silence(), By::Fallback)
            .in_form(Form::Streamed)
            .takes(30.0..=80.0),
        Row::new("silence", silence(), By::Fallback)
            .in_form(Form::Whole)
            .takes(30.0..=118.0),
        fallback(
            "silence after the headers",
            Fault::new(K::StallBeforeContent),
        )
        .in_form(Form::Streamed)
        .takes(30.0..=70.0),
        Row::new("first token after 20 s", Some(slow), By::Primary)
            .attempts(1..=1)
            .takes(20.0..=23.0),
        fallback("cut at 40 of 60 tokens", inside(K::CutStream)),
        fallback("30 s stall at 40 tokens", stall.clone())
            .in_form(Form::Streamed)
            .takes(30.0..=70.0),
        // Not streamed, it is an answer that takes 30 s longer.
        Row::new("30 s stall", Some(stall), By::Primary)
            .in_form(Form::Whole)
            .attempts(1..=1)
            .takes(30.0..=34.0),
        fallback("nothing but pings at 40 tokens", inside(K::PingOnly))
            .in_form(Form::Streamed)
            .takes(30.0..=70.0),
        fallback("malformed event", inside(K::MalformedEvent)),
        fallback("no end marker", Fault::new(K::MissingStop)),
        Row::new(
            "content filter at 40 tokens",
            Some(inside(K::FilteredInStream)),
            FILTERED,
        ),
        both.in_form(Form::Streamed).takes(20.0..=25.0),
        // The primary's model would have taken one.
        fallback(
            "fallback refuses prefill, primary cut",
            inside(K::CutStream),
        )
        .of_model("claude-sonnet-4-5"),
    ]
}

/// A prompt of more than the 200,000 tokens that the primary's model takes, at four bytes each.
fn too_long() -> Row {
    let mut row = Row::new("context too long", None, By::Fallback)
        .of_model("claude-haiku-4-5")
        .attempts(0..=1);
    row.prompt = "tide ".repeat(170_000);
    row
}

#[tokio::test(start_paused = true)]
async fn every_fault_ends_in_the_whole_answer() {
    let mut rows = told();
    rows.extend(untold(events_of(40).await));
    rows.push(too_long());
    println!("{}", head());
    for row in &rows {
        for &stream in row.forms() {
            let seen = play(row, stream).await;
            println!("{}", judge(row, stream, &seen));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_fallback_would_have_refused_a_prefill_and_the_primary_a_long_prompt() {
    let refused = |answer: Answer, why: &str| {
        let Answer::Error {
            status, message, ..
        } = answer
        else {
            panic!("{answer:?}");
        };
        assert!(status == 400 && message.contains(why), "{status} {message}");
    };
    let prefilled = serde_json::json!({
        "model": FALLBACK, "max_tokens": 512,
        "messages": [
            { "role": "user", "content": "How does a seawall work?" },
            { "role": "assistant", "content": "A seawall" },
        ],
    });
    refused(
        undisturbed(SEEDS[1], prefilled.to_string()).await,
        "does not support assistant message prefill",
    );
    let [primary, fallback] = both_undisturbed(&too_long(), false).await;
    refused(primary, "prompt is too long");
    assert!(matches!(fallback, Answer::Whole { .. }));
}

#[tokio::test(start_paused = true)]
async fn the_checks_can_fail() {
    let fault = Fault::new(FaultKind::Overloaded);
    let row = Row::new("529 persistent", Some(fault), By::Fallback).hinted(1);
    let right = {
        let mut seen = play(&row, false).await;
        seen.primary.truncate(1);
        seen
    };
    judge(&row, false, &right);
    let fails = |what: &str, change: fn(&mut Seen)| {
        let mut wrong = right.clone();
        change(&mut wrong);
        let judged = catch_unwind(AssertUnwindSafe(|| judge(&row, false, &wrong)));
        assert!(judged.is_err(), "{what}");
    };
    fails("the primary's answer", |seen| {
        seen.answer = seen.undisturbed[0].clone();
    });
    fails("all but the last byte", |seen| {
        let Answer::Whole { text, .. } = &mut seen.answer else {
            panic!("{seen:?}");
        };
        text.pop();
    });
    fails("a refusal sent again", |seen| {
        let mut again = seen.primary[0].clone();
        seen.primary[0].status = Some(400);
        again.at += Duration::from_secs(9);
        seen.primary.push(again);
    });
    fails("too early", |seen| {
        let mut again = seen.primary[0].clone();
        again.at = again.answered.unwrap() + Duration::from_millis(999);
        seen.primary.push(again);
    });
    fails("a prefill", |seen| {
        let prefill = r#",{"role":"assistant","content":"A seawall"}]"#;
        seen.messages[1].pop();
        seen.messages[1].push_str(prefill);
    });
    fails("a call that is asked twice below", |seen| {
        seen.fallback.push(seen.fallback[0].clone());
    });
    let burst = vec![right.primary[0].clone(); 5];
    paced("four in three seconds", &burst[1..]);
    let judged = catch_unwind(AssertUnwindSafe(|| paced("five in three seconds", &burst)));
    assert!(judged.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_silent_primary_leaves_the_fallback_its_time_in_every_profile() {
    let targets = "[targets.primary]\nbase_url = \"http://primary\"\n\
        [targets.fallback]\nbase_url = \"http://fallback\"\nmodel = \"claude-haiku-5-5\"\n\
        [routes.default]\nladder = [\"primary\", \"fallback\"]\ndelivery = \"complete\"\n";
    let mut lost = Vec::new();
    for profile in ["interactive", "agent_step", "standard", "batch"] {
        let config = format!("{targets}profile = \"{profile}\"\n");
        for kind in [FaultKind::NoAnswer, FaultKind::StallBeforeContent] {
            let row = Row::new("silence", Some(Fault::new(kind)), By::Fallback);
            for stream in [true, false] {
                let seen = play_on(&config, &row, stream).await;
                if seen.answer != seen.undisturbed[1] {
                    let (n, took) = (seen.primary.len(), seen.took);
                    lost.push(format!("{profile}, {}, stream {stream}: {n} attempts on the primary, none below, {took:?}", kind.as_str()));
                }
            }
        }
    }
    assert!(lost.is_empty(), "{}", lost.join("\n"));
}
