//! Cuts a streamed answer where a network would: anywhere.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rand::RngExt;
use rand::rngs::SmallRng;
use serde::{Deserialize, Serialize};

use super::answer::{Act, Step};
use super::scenario::{InvalidScenario, require};
use super::seed;

/// Sends the bytes of a streamed answer in pieces of 1 to `max` bytes, whatever the events are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunking {
    /// The seed of the cuts; they depend on the attempt too.
    #[serde(default)]
    pub seed: u64,
    /// The longest piece, in bytes.
    pub max: usize,
}

impl Chunking {
    pub(super) fn validate(self) -> Result<(), InvalidScenario> {
        require(
            (1..=1_048_576).contains(&self.max),
            || "chunking.max".to_owned(),
            self.max,
            "1 to 1048576",
        )
    }

    /// Cuts the steps of one answer; events without a wait between them share pieces.
    pub(super) fn cut(self, steps: VecDeque<Step>, attempt: u64) -> VecDeque<Step> {
        let mut cutter = Cutter {
            rng: seed::rng(self.seed, &[attempt, 0xc4]),
            max: self.max,
            steps: VecDeque::new(),
        };
        let mut run: Vec<(Bytes, u64)> = Vec::new();
        let mut wait = Duration::ZERO;
        for step in steps {
            match step.act {
                Act::Send(bytes, tokens) => {
                    if !step.after.is_zero() {
                        cutter.cut(std::mem::take(&mut run), wait);
                        wait = step.after;
                    }
                    run.push((bytes, tokens));
                }
                act => {
                    cutter.cut(std::mem::take(&mut run), wait);
                    wait = Duration::ZERO;
                    cutter.steps.push_back(Step {
                        after: step.after,
                        act,
                    });
                }
            }
        }
        cutter.cut(run, wait);
        cutter.steps
    }
}

struct Cutter {
    rng: SmallRng,
    max: usize,
    steps: VecDeque<Step>,
}

impl Cutter {
    /// Events that leave together. The tokens of each go with its last byte.
    fn cut(&mut self, run: Vec<(Bytes, u64)>, mut wait: Duration) {
        let mut joined = BytesMut::new();
        let mut ends: VecDeque<(usize, u64)> = VecDeque::new();
        for (bytes, tokens) in run {
            joined.extend_from_slice(&bytes);
            ends.push_back((joined.len(), tokens));
        }
        let mut rest = joined.freeze();
        let mut sent = 0;
        while !rest.is_empty() {
            let piece = rest.split_to(self.rng.random_range(1..=self.max).min(rest.len()));
            sent += piece.len();
            let mut tokens = 0;
            while let Some((_, of_event)) = ends.pop_front_if(|(end, _)| *end <= sent) {
                tokens += of_event;
            }
            for (after, act) in [
                (std::mem::take(&mut wait), Act::Flush),
                (Duration::ZERO, Act::Send(piece, tokens)),
            ] {
                self.steps.push_back(Step { after, act });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(after: u64, text: &'static str, tokens: u64) -> Step {
        Step {
            after: Duration::from_millis(after),
            act: Act::Send(Bytes::from_static(text.as_bytes()), tokens),
        }
    }

    fn pieces(steps: &VecDeque<Step>) -> Vec<(Bytes, u64)> {
        let sent = steps.iter().filter_map(|step| match &step.act {
            Act::Send(bytes, tokens) => Some((bytes.clone(), *tokens)),
            _ => None,
        });
        sent.collect()
    }

    #[test]
    fn the_bytes_the_tokens_and_the_waits_stay_the_same() {
        for max in 1..40 {
            let steps = [
                send(0, "event one\n\n", 3),
                send(0, "event two\n\n", 4),
                send(7, "event three\n\n", 5),
            ];
            let cut = Chunking { seed: 1, max }.cut(steps.into(), 9);
            let pieces = pieces(&cut);
            assert!(
                pieces
                    .iter()
                    .all(|(piece, _)| (1..=max).contains(&piece.len()))
            );
            let joined: Vec<u8> = pieces
                .iter()
                .flat_map(|(piece, _)| piece.to_vec())
                .collect();
            assert_eq!(joined, b"event one\n\nevent two\n\nevent three\n\n");
            assert_eq!(pieces.iter().map(|(_, tokens)| tokens).sum::<u64>(), 12);
            let waited: Duration = cut.iter().map(|step| step.after).sum();
            assert_eq!(waited, Duration::from_millis(7));
        }
    }

    #[test]
    fn a_seed_cuts_always_alike_and_a_piece_may_span_events() {
        let cut = |seed| {
            let steps = (0..64).map(|_| send(0, "abc", 1)).collect();
            pieces(&Chunking { seed, max: 8 }.cut(steps, 1))
        };
        assert_eq!(cut(1), cut(1));
        assert_ne!(cut(1), cut(2));
        assert!(cut(1).iter().any(|(_, tokens)| *tokens > 1));
    }

    #[test]
    fn an_end_that_is_no_end_stays_at_its_place() {
        let stall = Step {
            after: Duration::ZERO,
            act: Act::Stall,
        };
        let cut = Chunking { seed: 1, max: 2 }.cut([send(0, "abcd", 1), stall].into(), 1);
        assert!(matches!(cut.back().map(|step| &step.act), Some(Act::Stall)));
    }
}
