//! Choices read from an input, and mutations that they make.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;

use bolero::{ValueGenerator, produce};

/// Inputs of each target in an ordinary `cargo test`.
pub(crate) const FEW: usize = 2_000;

/// Inputs of so many bytes. Left to itself the engine makes mostly short ones.
pub(crate) fn bytes_of(length: RangeInclusive<usize>) -> impl ValueGenerator<Output = Vec<u8>> {
    produce::<Vec<u8>>().with().len(length)
}

/// Reads choices from an input. When it is used up, every choice is the first one.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    bytes: &'a [u8],
}

impl<'a> Source<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.bytes.split_first() else {
            return 0;
        };
        self.bytes = rest;
        *first
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let mut number = usize::from(self.byte());
        if end > 256 {
            number = number << 8 | usize::from(self.byte());
        }
        if end > 65_536 {
            number = number << 8 | usize::from(self.byte());
        }
        number % end.max(1)
    }

    /// True once in `times`.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) + 1 == times
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub(crate) fn word(&mut self) -> u64 {
        (0..8).fold(0, |word, _| word << 8 | u64::from(self.byte()))
    }

    /// Up to `most` raw bytes.
    pub(crate) fn raw(&mut self, most: usize) -> &'a [u8] {
        let length = self.below(most + 1).min(self.bytes.len());
        let (head, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        head
    }

    /// Cuts `bytes` into chunks; where the choices end, so do the cuts.
    pub(crate) fn chunks<'b>(&mut self, bytes: &'b [u8]) -> Vec<&'b [u8]> {
        let longest = self.pick(&[usize::MAX, 1, 2, 3, 7, 16, 64, 256]);
        let (mut chunks, mut rest) = (Vec::new(), bytes);
        while !rest.is_empty() {
            let length = if longest == usize::MAX {
                rest.len()
            } else {
                (1 + self.below(longest)).min(rest.len())
            };
            let (head, tail) = rest.split_at(length);
            chunks.push(head);
            rest = tail;
        }
        chunks
    }

    /// Damages `bytes` in one place.
    pub(crate) fn damage(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len().max(1)).min(bytes.len());
        let end = (at + 1 + self.below(16)).min(bytes.len());
        match self.below(7) {
            0 => bytes.truncate(at),
            1 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            2 => bytes.insert(at, self.byte()),
            3 if at < bytes.len() => drop(bytes.drain(at..end)),
            4 => {
                let again = bytes.get(at..end).unwrap_or_default().to_vec();
                bytes.splice(at..at, again);
            }
            5 => {
                let raw = self.raw(8).to_vec();
                bytes.splice(at..at, raw);
            }
            _ => {
                let odd: &[u8] = self.pick::<&[u8]>(&[
                    b"\"",
                    b"\\",
                    b"\n",
                    b"{",
                    b"}",
                    b"[",
                    b"]",
                    b",",
                    b":",
                    b"null",
                    b"\\u0000",
                    b"-1",
                    b"1e400",
                    b"18446744073709551615",
                    b"\xFF",
                    b"\xEF\xBB\xBF",
                    b"\0",
                ]);
                bytes.splice(at..at, odd.iter().copied());
            }
        }
    }
}

/// Counts the inputs that a target has seen, by what came of them, and tells when it ends.
#[derive(Debug)]
pub(crate) struct Tally {
    target: &'static str,
    outcomes: Mutex<BTreeMap<&'static str, u64>>,
}

impl Tally {
    pub(crate) const fn new(target: &'static str) -> Self {
        Self {
            target,
            outcomes: Mutex::new(BTreeMap::new()),
        }
    }

    pub(crate) fn count(&self, outcome: &'static str) {
        *self.outcomes.lock().unwrap().entry(outcome).or_default() += 1;
    }

    /// Each of these outcomes was seen, where there was a chance: a target that never gets past its
    /// first check tests nothing.
    #[track_caller]
    pub(crate) fn saw(&self, outcomes: &[&str]) {
        let seen = self.outcomes.lock().unwrap();
        if seen.values().sum::<u64>() < 100 {
            return;
        }
        for outcome in outcomes {
            assert!(seen.contains_key(outcome), "never {outcome}: {seen:?}");
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let Ok(outcomes) = self.outcomes.get_mut() else {
            return;
        };
        let all: u64 = outcomes.values().sum();
        println!(
            "fuzz {}: {all} inputs without a failure: {outcomes:?}",
            self.target
        );
    }
}
