//! Incremental decoder of server-sent events.
//!
//! It reads a copy: whoever passes a stream through forwards the chunks untouched and shows them to
//! a decoder on the side. Chunks may break anywhere, inside a line end or a character included.
//! Buffers are reused, so a long stream settles to no allocation. As the standard asks, a frame
//! that the end of the stream cuts off is dropped; [`SseDecoder::mid_frame`] tells of it.

use std::borrow::Cow;

/// One event of the stream, valid until the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SseFrame<'a> {
    /// The `event:` field; empty where the stream named none.
    pub event: &'a str,
    /// The `data:` lines, joined by line feeds.
    pub data: &'a str,
}

/// How far a chunk was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pushed {
    /// How much of the chunk can be passed on without cutting an event.
    pub whole: usize,
    /// Where the refused frame ends in the chunk, if one was refused.
    pub refused: Option<usize>,
}

/// A frame that grew past the decoder's bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a server-sent event is larger than {bound} bytes")]
pub struct FrameTooLarge {
    /// The bound, in bytes.
    pub bound: usize,
}

/// Decodes server-sent events from chunks of any size.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts about the bytes so far"
)]
pub struct SseDecoder {
    bound: usize,
    /// The start of a line whose end has not come.
    line: Vec<u8>,
    event: Vec<u8>,
    data: Vec<u8>,
    has_data: bool,
    /// The last byte was CR: a leading LF belongs to it.
    after_cr: bool,
    /// No line has ended yet, so a byte order mark may lead it.
    first_line: bool,
    too_large: bool,
}

impl SseDecoder {
    /// The bound of [`new`](Self::new): the provider's own limit for a whole request, in bytes.
    pub const DEFAULT_BOUND: usize = 32 * 1024 * 1024;

    /// A decoder at the start of a stream.
    #[must_use]
    pub const fn new() -> Self {
        Self::bounded(Self::DEFAULT_BOUND)
    }

    /// A decoder that refuses frames of more than `bound` bytes.
    #[must_use]
    pub const fn bounded(bound: usize) -> Self {
        Self {
            bound,
            line: Vec::new(),
            event: Vec::new(),
            data: Vec::new(),
            has_data: false,
            after_cr: false,
            first_line: true,
            too_large: false,
        }
    }

    /// Reads a chunk and hands every frame that it completes to `on_frame`.
    ///
    /// Bytes that are not UTF-8 come out as replacement characters. Returns how much of the chunk
    /// can be passed on without cutting an event: the offset after the last line end at which no
    /// event was open.
    ///
    /// # Errors
    ///
    /// [`FrameTooLarge`], on this call and every later one.
    pub fn push(
        &mut self,
        chunk: &[u8],
        mut on_frame: impl FnMut(SseFrame<'_>),
    ) -> Result<usize, FrameTooLarge> {
        let all = |frame: SseFrame<'_>| {
            on_frame(frame);
            true
        };
        self.push_while(chunk, all).map(|pushed| pushed.whole)
    }

    /// As [`push`](Self::push), up to the first frame that `accept` refuses. The rest of the chunk
    /// is not read; a stream that has a refused frame has no use for it.
    ///
    /// # Errors
    ///
    /// [`FrameTooLarge`], on this call and every later one.
    pub fn push_while(
        &mut self,
        chunk: &[u8],
        mut accept: impl FnMut(SseFrame<'_>) -> bool,
    ) -> Result<Pushed, FrameTooLarge> {
        let mut rest = chunk;
        let mut whole = 0;
        let mut accepted = true;
        while !self.too_large && !rest.is_empty() {
            if self.after_cr {
                self.after_cr = false;
                rest = rest.strip_prefix(b"\n").unwrap_or(rest);
                if !self.mid_frame() {
                    whole = chunk.len() - rest.len();
                }
                continue;
            }
            let Some(end) = line_end(rest) else {
                self.too_large = self.held().saturating_add(rest.len()) > self.bound;
                if !self.too_large {
                    self.line.extend_from_slice(rest);
                }
                break;
            };
            let (head, tail) = rest.split_at(end);
            self.after_cr = tail.first() == Some(&b'\r');
            rest = tail.get(1..).unwrap_or_default();
            self.too_large = self.held().saturating_add(head.len()) > self.bound;
            if !self.too_large {
                self.end_line(head, &mut |frame| accepted &= accept(frame));
            }
            if !accepted {
                let refused = Some(chunk.len() - rest.len());
                return Ok(Pushed { whole, refused });
            }
            if !self.mid_frame() {
                whole = chunk.len() - rest.len();
            }
        }
        if self.too_large {
            Err(FrameTooLarge { bound: self.bound })
        } else {
            let refused = None;
            Ok(Pushed { whole, refused })
        }
    }

    /// Whether the bytes seen so far end inside a frame.
    #[must_use]
    pub const fn mid_frame(&self) -> bool {
        !self.line.is_empty() || !self.event.is_empty() || self.has_data
    }

    fn held(&self) -> usize {
        self.line
            .len()
            .saturating_add(self.data.len())
            .saturating_add(self.event.len())
    }

    fn end_line(&mut self, tail: &[u8], on_frame: &mut impl FnMut(SseFrame<'_>)) {
        if self.line.is_empty() {
            self.read_line(tail, on_frame);
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(tail);
            self.read_line(&line, on_frame);
            line.clear();
            self.line = line;
        }
    }

    fn read_line(&mut self, line: &[u8], on_frame: &mut impl FnMut(SseFrame<'_>)) {
        let line = if std::mem::take(&mut self.first_line) {
            line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line)
        } else {
            line
        };
        if line.is_empty() {
            self.dispatch(on_frame);
        } else if let Some(value) = field(line, b"data") {
            if self.has_data {
                self.data.push(b'\n');
            }
            self.has_data = true;
            self.data.extend_from_slice(value);
        } else if let Some(value) = field(line, b"event") {
            self.event.clear();
            self.event.extend_from_slice(value);
        }
    }

    fn dispatch(&mut self, on_frame: &mut impl FnMut(SseFrame<'_>)) {
        if std::mem::take(&mut self.has_data) {
            on_frame(SseFrame {
                event: &text(&self.event),
                data: &text(&self.data),
            });
        }
        self.event.clear();
        self.data.clear();
    }
}

impl Default for SseDecoder {
    fn default() -> Self {
        Self::new()
    }
}

/// Bytes as text. What is no UTF-8 is replaced; the lossy conversion alone goes byte by byte, and took a
/// tenth of what a stream cost.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    match str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => String::from_utf8_lossy(bytes),
    }
}

/// The value of `line` where it is the field `name`; one space after the colon is not part of it.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.strip_prefix(name)?;
    if rest.is_empty() {
        return Some(rest);
    }
    let value = rest.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

/// Where the first CR or LF stands, eight bytes at a time.
fn line_end(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // The classic zero-byte test: it is exact for "is there one", which is all that is asked here.
    let has_zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS != 0;
    let is_end = |&b: &u8| b == b'\n' || b == b'\r';

    let (words, _) = bytes.as_chunks::<8>();
    let clean = words
        .iter()
        .position(|&word| {
            let word = u64::from_le_bytes(word);
            has_zero(word ^ (ONES * 0x0A)) || has_zero(word ^ (ONES * 0x0D))
        })
        .unwrap_or(words.len())
        .saturating_mul(8);
    let at = bytes.get(clean..)?.iter().position(is_end)?;
    Some(clean.saturating_add(at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, proptest};

    use super::{FrameTooLarge, SseDecoder};

    fn decode<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<(String, String)> {
        let mut decoder = SseDecoder::new();
        let mut frames = Vec::new();
        for chunk in chunks {
            decoder
                .push(chunk, |f| {
                    frames.push((f.event.to_owned(), f.data.to_owned()))
                })
                .expect("frames are small");
        }
        frames
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected
            .iter()
            .map(|(e, d)| ((*e).to_owned(), (*d).to_owned()))
            .collect()
    }

    #[test]
    fn every_line_end_and_every_cut_gives_the_same_frames() {
        let text = "\u{feff}: hello\nevent: ping\ndata: {\"a\": 1}\n\nid: 7\nretry: 1\n\
                    data:first\ndata:  second\ndata\n\nevent: é\ndata: 漢字 end of a long line\n\n\
                    event: nothing\n\ndatabase: no\ndata: cut";
        let expected = pairs(&[
            ("ping", "{\"a\": 1}"),
            ("", "first\n second\n"),
            ("é", "漢字 end of a long line"),
        ]);
        for end in ["\n", "\r\n", "\r"] {
            let bytes = text.replace('\n', end).into_bytes();
            for size in 1..=bytes.len() {
                assert_eq!(
                    decode(bytes.chunks(size)),
                    expected,
                    "{end:?} in chunks of {size}"
                );
            }
        }
    }

    #[test]
    fn a_frame_cut_off_by_the_end_is_not_delivered() {
        let mut decoder = SseDecoder::new();
        let mut frames = 0;
        decoder
            .push(b"data: 1\n\n", |_| frames += 1)
            .expect("small");
        assert!(!decoder.mid_frame());
        decoder.push(b"data: 2\n", |_| frames += 1).expect("small");
        assert_eq!((frames, decoder.mid_frame()), (1, true));
    }

    #[test]
    fn an_endless_frame_is_refused_and_stays_refused() {
        let mut decoder = SseDecoder::bounded(16);
        assert_eq!(decoder.push(b"data: 0123456789", |_| ()), Ok(0));
        assert_eq!(decoder.push(b"x", |_| ()), Err(FrameTooLarge { bound: 16 }));
        assert_eq!(
            decoder.push(b"\n\n", |_| ()),
            Err(FrameTooLarge { bound: 16 })
        );
        let mut many_lines = SseDecoder::bounded(16);
        let outcomes: Vec<bool> = (0..10)
            .map(|_| many_lines.push(b"data: 12345\n", |_| ()).is_ok())
            .collect();
        assert!(outcomes.contains(&false));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_chunks_decode_alike(
            bytes in prop::collection::vec(
                prop::sample::select(&b"\n\r: daevnt\xEF\xBB\xBFxyz"[..]), 0..200),
            noise in prop::collection::vec(any::<u8>(), 0..64),
            cut in 1_usize..20,
        ) {
            let bytes = [bytes, noise].concat();
            proptest::prop_assert_eq!(decode(bytes.chunks(cut)), decode([&bytes[..]]));
        }
    }
}
