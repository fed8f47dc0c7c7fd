//! The decoder of server-sent events, against the reference.

use bolero::check;
use seawall::transport::sse::{Pushed, SseDecoder};

use crate::reference::{Reading, read};
use crate::source::{FEW, Source, Tally, bytes_of};

type Frame = (String, String);

/// Pieces of streams that come close to what a decoder has to tell apart.
const PIECES: [&[u8]; 32] = [
    b"data: x\n\n",
    b"data: y\n\n",
    b"data: z\r\n\r\n",
    b"event: a\ndata: {}\n\n",
    b"data: x",
    b"\n\n",
    b"\n\n",
    b"\n",
    b"data: x",
    b"\n\n",
    b"\n",
    b"\r\n",
    b"\r",
    b"data:",
    b"data",
    b"data:  two",
    b"event: ping",
    b"event:",
    b"event",
    b"\r\r",
    b"\r\n\r\n",
    b": comment",
    b"\xEF\xBB\xBF",
    b"id: 1",
    b"retry: 5",
    b"database: no",
    b"data : no",
    "é漢".as_bytes(),
    b"\xF0\x9F",
    b"\0",
    b" ",
    b"data: a long line of text that fills more than one word of eight bytes",
];

fn stream(source: &mut Source<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !source.is_empty() {
        if source.once_in(16) {
            bytes.extend_from_slice(source.raw(12));
        } else {
            bytes.extend_from_slice(source.pick(&PIECES));
        }
    }
    bytes
}

/// What the decoder makes of chunks, each frame accepted while `accept` frames have not come.
struct Decoded {
    frames: Vec<Frame>,
    /// Offset in the whole of each chunk's safe part, where it has one.
    wholes: Vec<(usize, usize)>,
    refused: Option<usize>,
    failed: bool,
    mid_frame: bool,
}

fn decode(chunks: &[&[u8]], bound: usize, accept: usize) -> Decoded {
    let mut decoder = SseDecoder::bounded(bound);
    let mut out = Decoded {
        frames: Vec::new(),
        wholes: Vec::new(),
        refused: None,
        failed: false,
        mid_frame: false,
    };
    let mut before = 0;
    for chunk in chunks {
        let pushed = decoder.push_while(chunk, |frame| {
            out.frames
                .push((frame.event.to_owned(), frame.data.to_owned()));
            out.frames.len() <= accept
        });
        let Ok(Pushed { whole, refused }) = pushed else {
            out.failed = true;
            assert!(
                decoder
                    .push(b"\n\n", |_| panic!("a frame after the bound"))
                    .is_err()
            );
            return out;
        };
        assert!(whole <= chunk.len());
        out.wholes.push((before, before + whole));
        if let Some(end) = refused {
            assert!(whole < end && end <= chunk.len());
            out.refused = Some(before + end);
            return out;
        }
        before += chunk.len();
    }
    out.mid_frame = decoder.mid_frame();
    out
}

/// Each chunk's safe part reaches as far as it can, and no further.
fn wholes_are_right(decoded: &Decoded, reading: &Reading, bytes: usize) {
    let starts = decoded.wholes.iter().skip(1).map(|(start, _)| *start);
    let until = decoded.refused.map_or(bytes, |end| end - 1);
    for ((start, whole), end) in decoded.wholes.iter().zip(starts.chain([until])) {
        let furthest = reading
            .safe
            .iter()
            .rev()
            .find(|&&safe| safe <= end)
            .filter(|&&safe| safe > *start)
            .unwrap_or(start);
        assert_eq!(whole, furthest, "chunk from {start} to {end}");
    }
}

fn target(input: &[u8]) -> &'static str {
    let mut source = Source::new(input);
    let bound = source.pick(&[1 << 20, 1 << 20, 1 << 20, 64, 24, 8]);
    let accept = source.pick(&[usize::MAX, 0, 1, 2, 5]);
    let (mut cuts, mut place) = (Source::new(source.raw(64)), source.below(1 << 16));
    let bytes = stream(&mut source);
    let reading = read(&bytes, bound);

    let at_once = decode(&[&bytes], bound, usize::MAX);
    assert_eq!(at_once.frames, reading.frames);
    assert_eq!(at_once.failed, reading.too_large);
    let chunks = cuts.chunks(&bytes);
    let chunked = decode(&chunks, bound, usize::MAX);
    assert_eq!(chunked.frames, reading.frames);
    assert_eq!(chunked.failed, reading.too_large);
    if !reading.too_large {
        assert_eq!(at_once.mid_frame, reading.open);
        assert_eq!(chunked.mid_frame, reading.open);
        wholes_are_right(&at_once, &reading, bytes.len());
        wholes_are_right(&chunked, &reading, bytes.len());
    }

    let refusing = decode(&chunks, bound, accept);
    match reading.ends.get(accept) {
        Some(end) => {
            assert_eq!(refusing.refused, Some(*end));
            assert_eq!(refusing.frames, reading.frames[..=accept]);
            wholes_are_right(&refusing, &reading, bytes.len());
        }
        None => assert_eq!(refusing.refused, None),
    }

    // What stands before and after a safe place can be read apart.
    let safe: Vec<usize> = chunked
        .wholes
        .iter()
        .filter(|(start, whole)| start < whole)
        .map(|(_, whole)| *whole)
        .collect();
    place %= safe.len().max(1);
    if let Some(cut) = safe.get(place)
        && !reading.too_large
        && !bytes[*cut..].starts_with(b"\xEF\xBB\xBF")
    {
        let mut apart = decode(&[&bytes[..*cut]], bound, usize::MAX).frames;
        apart.extend(decode(&[&bytes[*cut..]], bound, usize::MAX).frames);
        assert_eq!(apart, reading.frames, "cut at {cut}");
    }
    match (reading.too_large, refusing.refused) {
        (true, _) => "too large",
        (_, Some(_)) => "refused",
        _ if reading.frames.is_empty() => "no frame",
        _ => "frames",
    }
}

#[test]
fn decoder() {
    let tally = Tally::new("decoder");
    check!()
        .with_iterations(FEW)
        .with_generator(bytes_of(64..=320))
        .for_each(|input: &Vec<u8>| {
            tally.count(target(input));
        });
    tally.saw(&["too large", "refused", "no frame", "frames"]);
}
