//! The matrix through the library, in virtual time: every fault at every place, in every delivery.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use seawall::delivery::{Delivery, Hold};
use seawall::error::Error;
use seawall::sim::{Chunking, FaultKind};
use seawall::verdict::label;
use tokio::time::Instant;

use super::case::{Case, EVERY, Seen, Shape, clean_events, faults, timeouts};
use super::reading::{self, End, Message};
use super::tap::Note;

/// Most that a timer may be late: it ticks in milliseconds.
const TICK: Duration = Duration::from_millis(2);

/// How long a stream may take to close after its last word.
const LAST_WORDS: Duration = Duration::from_millis(250);

/// A stream that is waited for is never silent for longer.
const QUIET: Duration = Duration::from_secs(20);

/// Most attempts of a call.
const ATTEMPTS: usize = 5;

/// What came on an attempt, in whole events, and when.
struct Arrived {
    content: Option<Instant>,
    bytes: Option<Instant>,
    event: Option<Instant>,
    /// The whole events before anything that no client can read.
    readable: Message,
}

fn arrived(note: &Note) -> Arrived {
    let bytes = note.bytes();
    let mut arrived = Arrived {
        content: None,
        bytes: note.chunks.last().map(|(at, _)| *at),
        event: None,
        readable: reading::read_on(&bytes).0,
    };
    let text = String::from_utf8(bytes).unwrap();
    let (mut have, mut read) = (0, 0);
    for (at, chunk) in &note.chunks {
        have += chunk.len();
        if !chunk.contains(&b'\n') {
            continue;
        }
        while let Some(end) = text[read..have].find("\n\n") {
            let frame = &text[read..read + end];
            read += end + 2;
            if !frame.starts_with("event: ping\n") {
                arrived.event = Some(*at);
            }
            if frame.starts_with("event: content_block_delta\n") {
                arrived.content.get_or_insert(*at);
            }
        }
    }
    arrived
}

/// The provider's own floor: four bytes a token.
fn floor(message: &Message) -> u64 {
    let written: usize = message.blocks.iter().map(|block| block.content.len()).sum();
    u64::try_from(written).unwrap() / 4
}

/// Each attempt is given up exactly when its clock says so, and each other one when it is over.
fn clocks(case: &Case, seen: &Seen) {
    let limits = timeouts();
    for note in &seen.notes {
        let ended = note.ended.expect("nobody listens any more");
        let what = arrived(note);
        if note.spoke_last {
            continue;
        }
        if !case.is_silent() || what.readable.end != End::Cut {
            let last = what.bytes.or(note.headers).unwrap();
            assert!(ended <= last + LAST_WORDS + TICK, "{case:?}");
            continue;
        }
        let due = match what.content {
            None => note.headers.unwrap() + limits.first_content,
            Some(_) => {
                let (bytes, event) = (what.bytes.unwrap(), what.event.unwrap());
                (bytes + limits.stall).min(event + limits.events)
            }
        };
        assert!(
            due <= ended && ended <= due + TICK,
            "given up {:?} after it was due: {case:?}",
            ended.checked_duration_since(due)
        );
    }
    let last = seen.notes.last().and_then(|note| note.ended).unwrap();
    assert!(seen.ended <= last + TICK, "{case:?}");
    assert!(seen.ended <= seen.began + limits.total + TICK, "{case:?}");
    let mut before = seen.began;
    for (at, _) in &seen.chunks {
        assert!(
            *at <= before + QUIET + TICK,
            "silent for {:?}: {case:?}",
            *at - before
        );
        before = *at;
    }
}

/// Why an attempt failed, by what was done to it.
fn reasons(case: &Case, last: &Arrived) -> &'static [&'static str] {
    match case.fault.kind {
        FaultKind::StallInStream | FaultKind::PingOnly if last.content.is_some() => {
            &[label::STALLED]
        }
        FaultKind::StallInStream
        | FaultKind::PingOnly
        | FaultKind::StallBeforeContent
        | FaultKind::Slow => &[label::FIRST_CONTENT_TIMEOUT],
        FaultKind::ResetAfterHeaders | FaultKind::TruncatedBody => &[label::DISCONNECTED],
        FaultKind::MalformedEvent | FaultKind::HtmlPage => &[label::MALFORMED],
        FaultKind::StreamError => &[label::OVERLOADED, "overloaded_error"],
        _ => &[label::TRUNCATED],
    }
}

/// The answer as its caller got it, whichever way it failed.
fn told(case: &Case, seen: &Seen) -> Message {
    let last = arrived(seen.notes.last().unwrap());
    let (message, reason) = match &seen.error {
        None => {
            let message = seen.message();
            let reason = message.reason().map(str::to_owned);
            (message, reason)
        }
        Some(Error::Provider { body, judged, .. }) => {
            let message = reading::read(body).unwrap();
            assert!(message.reason().is_some(), "{case:?}");
            (message, Some(judged.verdict.label.to_owned()))
        }
        Some(Error::Unanswered { judged, .. }) => {
            let mut message = reading::read_on(b"").0;
            message.end = End::Failed {
                kind: String::new(),
                message: judged.message.clone(),
                reason: None,
            };
            (message, Some(judged.verdict.label.to_owned()))
        }
        Some(other) => panic!("{other:?}: {case:?}"),
    };
    assert_ne!(message.end, End::Cut, "{case:?}");
    if let Some(reason) = reason {
        let right = reasons(case, &last);
        assert!(right.contains(&reason.as_str()), "{reason}: {case:?}");
    }
    message
}

/// What reached the caller is what one attempt brought, byte for byte, and the last one.
fn one_attempt(case: &Case, seen: &Seen, message: &Message) {
    if seen.error.is_some() {
        return;
    }
    let last = seen.notes.last().unwrap().bytes();
    if message.end == End::Whole {
        assert!(seen.bytes(false) == last, "{case:?}");
    } else {
        // Either the provider's own error is the last event, or seawall's.
        let passed = last.starts_with(&seen.bytes(false)) || last.starts_with(&seen.bytes(true));
        assert!(passed, "{case:?}");
    }
}

fn whole_after_failures(case: &Case, seen: &Seen, message: &Message) {
    assert_eq!(message.end, End::Whole, "{case:?}");
    assert_eq!(seen.notes.len(), case.failures + 1, "{case:?}");
}

fn judge(case: &Case, seen: &Seen) {
    clocks(case, seen);
    assert!(seen.notes.len() <= ATTEMPTS, "{case:?}");
    let message = told(case, seen);
    let every = case.failures == EVERY;
    if every {
        assert_ne!(message.end, End::Whole, "{case:?}");
    }
    // What is asked for first may be tried again unseen; only then may something else be asked for.
    let original = |note: &&Note| note.request == seen.notes[0].request;
    let attempts = seen.notes.iter().filter(original).count();
    let first = arrived(&seen.notes[attempts - 1]);
    let given_up = !every && message.end != End::Whole;
    match case.delivery {
        Delivery::AsItComes => {
            one_attempt(case, seen, &message);
            if given_up {
                assert!(message.has_content() && seen.notes.len() == 1, "{case:?}");
            } else if every && !message.has_content() {
                assert_eq!(seen.notes.len(), ATTEMPTS, "{case:?}");
            } else if !every {
                whole_after_failures(case, seen, &message);
            }
        }
        Delivery::Complete => {
            one_attempt(case, seen, &message);
            if every {
                assert_eq!(seen.notes.len(), ATTEMPTS, "{case:?}");
            } else {
                whole_after_failures(case, seen, &message);
            }
        }
        Delivery::Hold(hold) => {
            one_attempt(case, seen, &message);
            let since = |note: &Note| note.ended.unwrap() - first.content.unwrap();
            let inside = first.content.is_none()
                || floor(&first.readable) < hold.tokens && since(&seen.notes[0]) < hold.time;
            if given_up {
                assert!(!inside && seen.notes.len() == 1, "{case:?}");
            } else if !every {
                whole_after_failures(case, seen, &message);
            } else if inside && !case.is_silent() {
                assert_eq!(seen.notes.len(), ATTEMPTS, "{case:?}");
            }
        }
        Delivery::Resume => resumed(case, seen, attempts, (&first.readable, &message)),
        _ => unreachable!("no other delivery"),
    }
}

/// The parts of a resumed answer make one. `attempts` asked for the answer itself.
fn resumed(case: &Case, seen: &Seen, attempts: usize, (first, message): (&Message, &Message)) {
    let only_text = first.blocks.iter().all(|block| block.kind == "text");
    if attempts == seen.notes.len() {
        one_attempt(case, seen, message);
        if case.failures != EVERY && message.end != End::Whole {
            // What can't go on: a thought, half a tool call, or an answer that was summed up.
            let can_go_on = only_text && first.usage.is_null();
            assert!(first.has_content() && !can_go_on, "{case:?}");
            assert_eq!(attempts, 1, "{case:?}");
        }
        return;
    }
    assert!(
        only_text && first.has_content() && first.usage.is_null(),
        "{case:?}"
    );
    assert_eq!(message.id, first.id, "{case:?}");
    assert!(message.text().starts_with(&first.text()), "{case:?}");
    if case.failures == EVERY {
        let last = arrived(&seen.notes[seen.notes.len() - 1]).readable;
        let can_go_on = last.usage.is_null() && case.shape == Shape::Text;
        assert!(!can_go_on || seen.notes.len() == ATTEMPTS, "{case:?}");
        return;
    }
    assert_eq!(
        (&message.end, seen.notes.len()),
        (&End::Whole, 2),
        "{case:?}"
    );
    let rest = reading::read(&seen.notes[1].bytes()).unwrap();
    assert_eq!(message.text(), first.text() + &rest.text(), "{case:?}");
    assert_eq!(message.stop_reason, rest.stop_reason, "{case:?}");
    let count = |message: &Message, of: &str| message.usage[of].as_u64().unwrap();
    let (output, input) = ("output_tokens", "input_tokens");
    assert_eq!(
        (count(message, output), count(message, input)),
        (
            floor(first) + count(&rest, output),
            first.input_tokens + count(&rest, input)
        ),
        "{case:?}"
    );
}

/// Two cuts of the byte stream, none and single bytes included, in turn; and whether the provider
/// takes its time.
fn ways(turn: usize) -> [(Option<Chunking>, bool); 2] {
    const MOST: [usize; 11] = [0, 600, 90, 0, 4096, 7, 0, 30, 1, 0, 300];
    [turn, turn + 1].map(|turn| {
        let max = MOST[turn % MOST.len()];
        let seed = u64::try_from(turn).unwrap();
        let chunking = (max > 0).then_some(Chunking { seed, max });
        (chunking, turn % 2 == 0)
    })
}

async fn matrix(delivery: Delivery, failures: &[usize]) {
    let (mut count, mut wrong) = (0, Vec::new());
    for shape in Shape::ALL {
        let events = clean_events(shape).await;
        for fault in faults(&events) {
            for &failures in failures {
                let most = if failures == 1 { 2 } else { 1 };
                for (chunking, instant) in ways(count).into_iter().take(most) {
                    let case = Case {
                        shape,
                        fault: fault.clone(),
                        failures,
                        delivery,
                        chunking,
                        instant,
                    };
                    let seen = case.run().await;
                    if catch_unwind(AssertUnwindSafe(|| judge(&case, &seen))).is_err() {
                        wrong.push(case);
                    }
                    count += 1;
                }
            }
        }
    }
    println!("{delivery}: {count} combinations");
    assert!(wrong.is_empty(), "{} of {count} are wrong", wrong.len());
}

#[tokio::test(start_paused = true)]
async fn as_it_comes_ends_whole_or_in_an_error_and_never_starts_again_after_content() {
    matrix(Delivery::AsItComes, &[1, EVERY]).await;
}

#[tokio::test(start_paused = true)]
async fn complete_is_rescued_while_an_attempt_remains() {
    matrix(Delivery::Complete, &[1, 4, EVERY]).await;
}

#[tokio::test(start_paused = true)]
async fn hold_is_rescued_inside_its_head_start() {
    matrix(Delivery::Hold(Hold::default()), &[1, EVERY]).await;
}

#[tokio::test(start_paused = true)]
async fn resume_makes_one_answer_of_its_parts() {
    matrix(Delivery::Resume, &[1, EVERY]).await;
}
