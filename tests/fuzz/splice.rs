//! Broken answers and their continuations, made into one.

use bolero::check;
use bytes::Bytes;
use seawall::provider::anthropic::splice::Splice;
use seawall::provider::anthropic::stream::End;

use crate::events::{Event, Stream, stream, whole, write};
use crate::reference::read;
use crate::source::{FEW, Source, Tally, bytes_of};
use crate::watch::Forwarder;

/// Passes a part on and returns what it had shown of it.
fn pass(
    source: &mut Source<'_>,
    bytes: &[u8],
    splice: &mut Splice,
    out: &mut Vec<u8>,
) -> Forwarder {
    let mut forwarder = Forwarder::new();
    for chunk in source.chunks(bytes) {
        forwarder.take(chunk);
        assert!(!forwarder.broken);
    }
    forwarder.end();
    for events in &forwarder.passed {
        out.extend_from_slice(&splice.pass(Bytes::from(events.clone())));
    }
    forwarder
}

/// The text of a stream's first events.
fn said(accepted: &[(String, String)]) -> String {
    let closed =
        |frame: &&(String, String)| !frame.0.contains("stop") && !frame.1.contains("_stop");
    let mut frames: Vec<_> = accepted.iter().filter(closed).cloned().collect();
    let mut all = String::new();
    frames.retain(|frame| frame.1.contains("content_block"));
    for (_, data) in frames {
        let value: serde_json::Value = serde_json::from_str(&data).unwrap();
        for key in ["content_block", "delta"] {
            all.push_str(value[key]["text"].as_str().unwrap_or_default());
        }
    }
    all
}

fn unname(source: &mut Source<'_>, events: &mut [Event]) {
    if source.once_in(4) {
        let some = source.once_in(2);
        for event in events {
            if !some || source.once_in(2) {
                event.name.clear();
            }
        }
    }
}

fn target(input: &[u8]) -> &'static str {
    let mut source = Source::new(input);
    let (mut splice, mut out) = (Splice::new(), Vec::new());
    let (mut text, mut output) = (String::new(), 0_u64);
    let breaks = 1 + source.below(2);
    for part in 0..=breaks {
        let last = part == breaks;
        let only_text = !last || source.once_in(2);
        let Stream { mut events, .. } = stream(&mut source, only_text);
        unname(&mut source, &mut events);
        let mut bytes = write(&events, source.pick(&["\n", "\r\n"]));
        if !last {
            bytes.truncate(source.below(bytes.len()));
        }
        let forwarder = pass(&mut source, &bytes, &mut splice, &mut out);
        text.push_str(&said(&forwarder.accepted));
        if last {
            output += forwarder.watch.usage().output.unwrap();
            break;
        }
        let Some(continuable) = splice.continuable() else {
            return "not to be continued";
        };
        assert_eq!(continuable, text);
        let used = forwarder.watch.billed();
        output += used.output;
        splice.next_part(used);
    }

    let reading = read(&out, usize::MAX);
    assert!(!reading.open);
    assert_eq!(
        whole(&reading.frames).as_deref(),
        Some(text.as_str()),
        "{}",
        String::from_utf8_lossy(&out)
    );
    let mut reader = Forwarder::new();
    reader.take(&out);
    assert_eq!(reader.watch.end(), End::Complete);
    assert_eq!(reader.watch.usage().output, Some(output));
    assert_eq!(reader.watch.billed().output, output);
    if breaks == 1 {
        "continued"
    } else {
        "continued twice"
    }
}

#[test]
fn splice() {
    let tally = Tally::new("splice");
    check!()
        .with_iterations(FEW)
        .with_generator(bytes_of(64..=256))
        .for_each(|input: &Vec<u8>| {
            tally.count(target(input));
        });
    tally.saw(&["not to be continued", "continued", "continued twice"]);
}
