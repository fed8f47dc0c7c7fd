//! What a fault does to an answer that would have been good.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderValue};

use super::answer::{Act, Ended, Head, Step};
use super::faults::{Fault, FaultKind, PING_EVERY};
use super::{head, reply};

/// Events that arrive before a fault strikes, unless it says how many.
const EVENTS: usize = 4;
/// The headers' lead over a reset: bytes that a socket has not sent yet are lost with it.
const LEAD: Duration = Duration::from_millis(5);

/// Where the data of an event begins.
const DATA: &[u8] = b"data: ";

/// Spoils a stream of events, one a step.
pub(super) fn stream(mut steps: VecDeque<Step>, fault: &Fault) -> VecDeque<Step> {
    let default = if fault.kind == FaultKind::ResetAfterHeaders {
        0
    } else {
        EVENTS
    };
    let asked = fault
        .after_events
        .map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    // The last event is message_stop: a stream that has it is whole.
    let at = asked.unwrap_or(default).min(steps.len().saturating_sub(1));
    let ending = |act| Step {
        after: Duration::ZERO,
        act,
    };
    match fault.kind {
        FaultKind::ResetAfterHeaders => {
            steps.truncate(at);
            steps.push_back(Step {
                after: LEAD,
                act: Act::Break(Ended::Reset),
            });
        }
        FaultKind::TruncatedBody => {
            steps.truncate(at);
            steps.push_back(ending(Act::Break(Ended::Early)));
        }
        FaultKind::CutStream => steps.truncate(at),
        FaultKind::TruncatedJson => {
            steps.truncate(at + 1);
            if let Some(Step {
                act: Act::Send(bytes, tokens),
                ..
            }) = steps.back_mut()
            {
                bytes.truncate(bytes.len() / 2);
                *tokens = 0;
            }
        }
        FaultKind::MalformedEvent => {
            if let Some(Step {
                act: Act::Send(bytes, _),
                ..
            }) = steps.get_mut(at)
            {
                *bytes = malformed(bytes);
            }
        }
        FaultKind::MissingStop => {
            steps.pop_back();
        }
        FaultKind::PingOnly => {
            let every = fault.ping_every.unwrap_or(PING_EVERY);
            steps.truncate(at);
            steps.push_back(Step {
                after: every,
                act: Act::Pings(every),
            });
        }
        FaultKind::StreamError | FaultKind::FilteredInStream => {
            steps.truncate(at);
            steps.push_back(ending(Act::Send(error_event(fault.kind), 0)));
        }
        FaultKind::StallBeforeContent => {
            let content = steps.iter().position(is_delta).unwrap_or(at);
            stall(&mut steps, content, fault.stall_for);
        }
        FaultKind::StallInStream => stall(&mut steps, at, fault.stall_for),
        _ => {}
    }
    steps
}

/// Spoils an answer that comes in one piece.
pub(super) fn whole(
    mut head: Head,
    mut body: Bytes,
    tokens: u64,
    kind: Option<FaultKind>,
) -> (Head, VecDeque<Step>) {
    let half = body.len() / 2;
    let send = |bytes| Step {
        after: Duration::ZERO,
        act: Act::Send(bytes, tokens),
    };
    let early = Step {
        after: Duration::ZERO,
        act: Act::Break(Ended::Early),
    };
    let steps = match kind {
        Some(FaultKind::ResetAfterHeaders) => {
            vec![Step {
                after: LEAD,
                act: Act::Break(Ended::Reset),
            }]
        }
        Some(FaultKind::TruncatedBody | FaultKind::CutStream) => {
            body.truncate(half);
            vec![send(body), early]
        }
        Some(FaultKind::MissingStop) => {
            body.truncate(body.len().saturating_sub(1));
            vec![send(body), early]
        }
        Some(FaultKind::MalformedEvent) => {
            let mut bytes = BytesMut::from(body);
            if let Some(byte) = bytes.get_mut(half) {
                *byte = 0;
            }
            vec![send(bytes.freeze())]
        }
        Some(FaultKind::TruncatedJson) => {
            body.truncate(half);
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from(half));
            vec![send(body)]
        }
        _ => vec![send(body)],
    };
    (head, steps.into())
}

fn error_event(kind: FaultKind) -> Bytes {
    Bytes::from(reply::frame("error", &head::stream_error(kind), 0))
}

/// An event whose framing is whole and whose data ends in the middle.
fn malformed(event: &Bytes) -> Bytes {
    let data = event
        .windows(DATA.len())
        .position(|window| window == DATA)
        .map_or(0, |at| at + DATA.len());
    let cut = data + event.len().saturating_sub(data) / 2;
    let mut bytes = BytesMut::with_capacity(event.len());
    bytes.extend_from_slice(event.get(..cut).unwrap_or_default());
    bytes.extend_from_slice(b"\n\n");
    bytes.freeze()
}

fn stall(steps: &mut VecDeque<Step>, at: usize, time: Option<Duration>) {
    match (time, steps.get_mut(at)) {
        (Some(time), Some(step)) => step.after += time,
        _ => {
            steps.truncate(at);
            steps.push_back(Step {
                after: Duration::ZERO,
                act: Act::Stall,
            });
        }
    }
}

fn is_delta(step: &Step) -> bool {
    const DELTA: &[u8] = b"event: content_block_delta";
    matches!(&step.act, Act::Send(bytes, _) if bytes.starts_with(DELTA))
}
