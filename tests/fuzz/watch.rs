//! The watch over a stream, and what is passed on of it.

use bolero::check;
use jiff::Timestamp;
use seawall::provider::anthropic::StreamFailure;
use seawall::provider::anthropic::stream::{End, Seen, StreamWatch};
use seawall::transport::sse::SseDecoder;

use crate::events::{spoil, stream, whole, write};
use crate::reference::read;
use crate::source::{FEW, Source, Tally, bytes_of};

const BOUND: usize = 1 << 20;

/// Passes a stream on as the client does: whole events at once, nothing of a refused one, and the
/// rest only behind a whole message.
#[derive(Debug)]
pub(crate) struct Forwarder {
    decoder: SseDecoder,
    pub(crate) watch: StreamWatch,
    partial: Vec<u8>,
    /// Each time's whole events.
    pub(crate) passed: Vec<Vec<u8>>,
    pub(crate) accepted: Vec<(String, String)>,
    pub(crate) broken: bool,
}

impl Forwarder {
    pub(crate) fn new() -> Self {
        Self {
            decoder: SseDecoder::bounded(BOUND),
            watch: StreamWatch::new(),
            partial: Vec::new(),
            passed: Vec::new(),
            accepted: Vec::new(),
            broken: false,
        }
    }

    pub(crate) fn take(&mut self, chunk: &[u8]) {
        let before = self.watch.end();
        let pushed = self.decoder.push_while(chunk, |frame| {
            let seen = self.watch.see(frame, Timestamp::UNIX_EPOCH);
            let fits = !matches!(seen, Seen::Error | Seen::Malformed(_));
            if fits {
                self.accepted
                    .push((frame.event.to_owned(), frame.data.to_owned()));
            } else {
                assert!(matches!(self.watch.end(), End::Failed | End::Malformed(_)));
            }
            fits
        });
        let pushed = pushed.expect("streams here are small");
        if matches!(before, End::Complete) && pushed.refused.is_none() {
            assert_eq!(self.watch.end(), End::Complete);
        }
        if pushed.whole > 0 {
            let mut events = std::mem::take(&mut self.partial);
            events.extend_from_slice(&chunk[..pushed.whole]);
            self.passed.push(events);
        }
        self.broken = pushed.refused.is_some();
        if !self.broken {
            self.partial.extend_from_slice(&chunk[pushed.whole..]);
        }
    }

    pub(crate) fn end(&mut self) {
        if self.watch.end() == End::Complete {
            self.passed.push(std::mem::take(&mut self.partial));
        }
    }
}

fn saturating_sum(parts: &[u64]) -> u64 {
    let sum: u128 = parts.iter().map(|part| u128::from(*part)).sum();
    u64::try_from(sum).unwrap_or(u64::MAX)
}

fn target(input: &[u8]) -> &'static str {
    let mut source = Source::new(input);
    let mut valid = stream(&mut source, false);
    let spoils = source.below(4);
    for _ in 0..spoils {
        spoil(&mut source, &mut valid.events);
    }
    let mut bytes = write(&valid.events, source.pick(&["\n", "\r\n", "\r"]));
    let damaged = source.once_in(4);
    if damaged {
        source.damage(&mut bytes);
    }
    let reading = read(&bytes, BOUND);

    let mut forwarder = Forwarder::new();
    for chunk in source.chunks(&bytes) {
        forwarder.take(chunk);
        if forwarder.broken {
            break;
        }
    }
    forwarder.end();
    let end = forwarder.watch.end();

    let judged = whole(&reading.frames);
    if end == End::Complete {
        assert!(
            judged.is_some(),
            "not a whole message: {:?}",
            reading.frames
        );
        assert!(forwarder.watch.judge().verdict.is_ok());
    } else {
        assert!(!forwarder.watch.judge().verdict.is_ok());
    }
    if spoils == 0 && !damaged {
        assert_eq!(end, End::Complete);
        assert_eq!(judged.as_deref(), Some(valid.text.as_str()));
        assert_eq!(forwarder.watch.usage().output, Some(valid.output));
    }

    // Everything before the refused event is passed on, nothing of it, and another can follow.
    let passed = forwarder.passed.concat();
    assert!(bytes.starts_with(&passed));
    let failure = StreamFailure {
        error_type: "api_error",
        message: "m",
        reason: "r",
        call: "c",
        request_id: None,
    };
    if end != End::Complete {
        let ended = [&passed, failure.event().as_bytes()].concat();
        let mut frames = read(&ended, BOUND).frames;
        assert_eq!(frames.pop().unwrap().0, "error");
        assert_eq!(frames, forwarder.accepted);
        assert_eq!(reading.frames[..frames.len()], frames);
    }
    sticks_and_sums(forwarder.watch);
    match end {
        End::Complete if spoils == 0 && !damaged => "as built",
        End::Complete => "complete",
        End::Truncated => "truncated",
        End::Failed => "failed",
        _ => "malformed",
    }
}

fn sticks_and_sums(mut watch: StreamWatch) {
    let usage = watch.usage();
    let stated = usage.stated();
    let written = [stated.cache_write_5m, stated.cache_write_1h, stated.input];
    assert_eq!(stated.quota_input(), saturating_sum(&written));
    let prompt = [stated.quota_input(), stated.cache_read];
    assert_eq!(usage.prompt_total(), saturating_sum(&prompt));
    let parts: Vec<u64> = usage
        .billed_by_model()
        .iter()
        .map(|(_, tokens)| tokens.input)
        .collect();
    assert_eq!(usage.billed().input, saturating_sum(&parts));
    assert!(watch.billed().output >= usage.billed().output);

    let before = watch.end();
    if let End::Malformed(_) | End::Failed = before {
        for event in [
            "message_start",
            "message_stop",
            "error",
            "ping",
            "content_block_stop",
        ] {
            let frame = seawall::transport::sse::SseFrame { event, data: "{}" };
            watch.see(frame, Timestamp::UNIX_EPOCH);
            assert_eq!(watch.end(), before);
        }
    }
}

#[test]
fn stream_watch() {
    let tally = Tally::new("stream watch");
    check!()
        .with_iterations(FEW)
        .with_generator(bytes_of(32..=192))
        .for_each(|input: &Vec<u8>| {
            tally.count(target(input));
        });
    tally.saw(&["as built", "complete", "truncated", "failed", "malformed"]);
}
