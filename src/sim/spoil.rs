//! What a fault does to an answer that would have been good.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue};

use super::answer::{Act, Ended, Head, Step};
use super::faults::{Fault, FaultKind};
use super::{head, reply};

/// Events that arrive before a fault strikes, unless it says how many.
const EVENTS: usize = 4;
/// The headers' lead over a reset: bytes that a socket has not sent yet are lost with it.
const LEAD: Duration = Duration::from_millis(5);

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
        FaultKind::StreamError => {
            steps.truncate(at);
            let event = Bytes::from(reply::frame("error", head::STREAM_ERROR, 0));
            steps.push_back(ending(Act::Send(event, 0)));
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
    let steps = match kind {
        Some(FaultKind::ResetAfterHeaders) => {
            vec![Step {
                after: LEAD,
                act: Act::Break(Ended::Reset),
            }]
        }
        Some(FaultKind::TruncatedBody | FaultKind::CutStream) => {
            body.truncate(half);
            vec![
                send(body),
                Step {
                    after: Duration::ZERO,
                    act: Act::Break(Ended::Early),
                },
            ]
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
