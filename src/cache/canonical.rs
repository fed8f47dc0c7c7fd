//! One JSON object as bytes that do not depend on how it was written.
//!
//! The order of members, white space and escapes leave no trace; the text of a number does, since
//! readers differ in what `1.0` and a number of thirty digits are. Every value delimits itself, so
//! two objects have the same bytes only if they say the same. A long string stands for itself by its
//! digest: what is sorted stays small, and each byte of a prompt is hashed once.

use std::ops::Range;

use sha2::{Digest, Sha256};

/// Strings of more bytes are written as their digest: it costs as much as hashing a hundred bytes.
const LONG: usize = 512;

/// As deep as `serde_json` reads.
const DEEPEST: usize = 128;

/// Members of a request that do not change what is answered.
const LEFT_OUT: [&[u8]; 2] = [b"stream", b"metadata"];

/// A request as canonical bytes, and what was seen on the way.
#[derive(Debug)]
pub(super) struct Canonical {
    pub(super) bytes: Vec<u8>,
    pub(super) temperature: Option<f64>,
}

/// Reads a request in one pass. `model` stands for the model where it is given. A model counts by the
/// name that it is asked for: one without a date may mean another snapshot tomorrow. `None` where the
/// body is not one JSON object, names a member twice, or has half a surrogate pair in a string.
pub(super) fn request(body: &[u8], model: Option<&str>) -> Option<Canonical> {
    // Lengths are written in four bytes.
    u32::try_from(body.len()).ok()?;
    let text = std::str::from_utf8(body).ok()?;
    let mut reader = Reader {
        text: text.as_bytes(),
        at: 0,
        out: Vec::with_capacity(text.len().min(8 << 10)),
        members: Vec::with_capacity(32),
        sorted: Vec::with_capacity(1 << 10),
    };
    let temperature = reader.request(model)?;
    reader.skip_blanks();
    (reader.at == reader.text.len()).then_some(Canonical {
        bytes: reader.out,
        temperature,
    })
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    out: Vec<u8>,
    /// Those of all objects that are open.
    members: Vec<Member>,
    sorted: Vec<u8>,
}

/// Where a member stands in the output.
#[derive(Debug, Clone, Copy)]
struct Member {
    start: usize,
    value: usize,
    end: usize,
}

impl Reader<'_> {
    fn request(&mut self, model: Option<&str>) -> Option<Option<f64>> {
        let mut temperature = None;
        let mut left_out = [false; LEFT_OUT.len()];
        self.skip_blanks();
        self.expect(b'{')?;
        let start = self.open_object();
        let mut more = !self.ends(b'}');
        while more {
            let member = self.key()?;
            let key = short(self.out.get(member..)?);
            let place = LEFT_OUT.iter().position(|name| key == Some(name));
            let (is_model, is_temperature) = (key == Some(b"model"), key == Some(b"temperature"));
            let value = self.out.len();
            self.value(1)?;
            if let Some(seen) = place.and_then(|place| left_out.get_mut(place)) {
                if std::mem::replace(seen, true) {
                    return None;
                }
                self.out.truncate(member);
            } else {
                if is_model && let Some(model) = model {
                    self.out.truncate(value);
                    self.write_string(model.as_bytes());
                }
                if is_temperature {
                    temperature = number(self.out.get(value..)?);
                }
                self.end_member(member, value);
            }
            more = self.goes_on(b'}')?;
        }
        if let Some(model) = model
            && !self.has_member(b"model")
        {
            let member = self.out.len();
            self.write_string(b"model");
            let value = self.out.len();
            self.write_string(model.as_bytes());
            self.end_member(member, value);
        }
        self.close_object(start, 0)?;
        Some(temperature)
    }

    fn has_member(&self, name: &[u8]) -> bool {
        let mut keys = self.members.iter();
        keys.any(|member| self.out.get(member.start..member.value).and_then(short) == Some(name))
    }

    fn value(&mut self, depth: usize) -> Option<()> {
        self.skip_blanks();
        match *self.text.get(self.at)? {
            b'"' => self.string(),
            b'{' => self.object(depth),
            b'[' => self.array(depth),
            b't' => self.word(b"true", b't'),
            b'f' => self.word(b"false", b'f'),
            b'n' => self.word(b"null", b'n'),
            _ => self.number(),
        }
    }

    fn object(&mut self, depth: usize) -> Option<()> {
        if depth >= DEEPEST {
            return None;
        }
        self.expect(b'{')?;
        let first = self.members.len();
        let start = self.open_object();
        let mut more = !self.ends(b'}');
        while more {
            let member = self.key()?;
            let value = self.out.len();
            self.value(depth + 1)?;
            self.end_member(member, value);
            more = self.goes_on(b'}')?;
        }
        self.close_object(start, first)
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        if depth >= DEEPEST {
            return None;
        }
        self.expect(b'[')?;
        self.out.push(b'[');
        let mut more = !self.ends(b']');
        while more {
            self.value(depth + 1)?;
            more = self.goes_on(b']')?;
        }
        self.out.push(b']');
        Some(())
    }

    fn open_object(&mut self) -> usize {
        self.out.push(b'{');
        self.out.len()
    }

    /// Puts the members from `first` on, which stand in the output from `start` on, into the order
    /// of their keys.
    fn close_object(&mut self, start: usize, first: usize) -> Option<()> {
        let out = &mut self.out;
        let members = self.members.get_mut(first..)?;
        let key = |member: &Member| out.get(member.start..member.value);
        if !members.is_sorted_by(|a, b| key(a) < key(b)) {
            members.sort_unstable_by(|a, b| key(a).cmp(&key(b)));
            if !members.is_sorted_by(|a, b| key(a) < key(b)) {
                return None;
            }
            self.sorted.clear();
            for member in &*members {
                self.sorted
                    .extend_from_slice(out.get(member.start..member.end)?);
            }
            out.truncate(start);
            out.extend_from_slice(&self.sorted);
        }
        out.push(b'}');
        self.members.truncate(first);
        Some(())
    }

    /// Reads a key and its colon; where it stands in the output.
    fn key(&mut self) -> Option<usize> {
        let start = self.out.len();
        self.skip_blanks();
        self.string()?;
        self.skip_blanks();
        self.expect(b':')?;
        Some(start)
    }

    fn end_member(&mut self, start: usize, value: usize) {
        let end = self.out.len();
        self.members.push(Member { start, value, end });
    }

    /// After a member or an element: whether another one follows.
    fn goes_on(&mut self, close: u8) -> Option<bool> {
        self.skip_blanks();
        let next = *self.text.get(self.at)?;
        self.at += 1;
        (next == b',' || next == close).then_some(next == b',')
    }

    /// After an opening bracket: whether it is closed at once.
    fn ends(&mut self, close: u8) -> bool {
        self.skip_blanks();
        let ends = self.text.get(self.at) == Some(&close);
        self.at += usize::from(ends);
        ends
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.text.get(self.at) == Some(&byte)).then(|| self.at += 1)
    }

    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.text.get(self.at) {
            self.at += 1;
        }
    }

    fn word(&mut self, word: &[u8], tag: u8) -> Option<()> {
        self.text.get(self.at..)?.strip_prefix(word)?;
        self.at += word.len();
        self.out.push(tag);
        Some(())
    }

    fn string(&mut self) -> Option<()> {
        self.expect(b'"')?;
        let rest = self.text.get(self.at..)?;
        let run = plain_run(rest);
        if rest.get(run) == Some(&b'"') {
            self.at += run + 1;
            self.write_string(rest.get(..run)?);
            return Some(());
        }
        let start = self.out.len();
        self.out.extend_from_slice(&[b's', 0, 0, 0, 0]);
        loop {
            let rest = self.text.get(self.at..)?;
            let run = plain_run(rest);
            self.out.extend_from_slice(rest.get(..run)?);
            self.at += run + 1;
            match rest.get(run)? {
                b'"' => return self.end_string(start),
                b'\\' => self.escape()?,
                // A control character.
                _ => return None,
            }
        }
    }

    /// Reads what follows a backslash.
    fn escape(&mut self) -> Option<()> {
        let escaped = *self.text.get(self.at)?;
        self.at += 1;
        self.out.push(match escaped {
            b'n' => b'\n',
            b'"' | b'\\' | b'/' => escaped,
            b't' => b'\t',
            b'r' => b'\r',
            b'b' => 8,
            b'f' => 12,
            b'u' => {
                let character = self.unicode()?;
                let mut utf8 = [0; 4];
                let utf8 = character.encode_utf8(&mut utf8).as_bytes();
                self.out.extend_from_slice(utf8);
                return Some(());
            }
            _ => return None,
        });
        Some(())
    }

    fn unicode(&mut self) -> Option<char> {
        let first = self.hexadecimal()?;
        if !(0xD800..0xDC00).contains(&first) {
            return char::from_u32(first);
        }
        self.expect(b'\\')?;
        self.expect(b'u')?;
        let second = self.hexadecimal()?;
        let low = second.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
        char::from_u32(0x1_0000 + ((first - 0xD800) << 10) + low)
    }

    fn hexadecimal(&mut self) -> Option<u32> {
        let digits = self.text.get(self.at..self.at + 4)?;
        self.at += 4;
        digits.iter().try_fold(0, |so_far, digit| {
            Some((so_far << 4) | char::from(*digit).to_digit(16)?)
        })
    }

    fn write_string(&mut self, text: &[u8]) {
        let start = self.out.len();
        if text.len() > LONG {
            self.write_digest(Sha256::digest(text).into());
        } else {
            self.out.extend_from_slice(&[b's', 0, 0, 0, 0]);
            self.out.extend_from_slice(text);
            self.write_length(start);
        }
    }

    /// Ends a string whose text stands in the output after the head that begins at `start`.
    fn end_string(&mut self, start: usize) -> Option<()> {
        let text = self.out.get(start + HEAD..)?;
        if text.len() > LONG {
            let digest = Sha256::digest(text).into();
            self.out.truncate(start);
            self.write_digest(digest);
        } else {
            self.write_length(start);
        }
        Some(())
    }

    fn write_digest(&mut self, digest: [u8; 32]) {
        self.out.push(b'S');
        self.out.extend_from_slice(&digest);
    }

    /// Writes the length of what stands after the head that begins at `start` into it.
    fn write_length(&mut self, start: usize) {
        let length = self.out.len() - start - HEAD;
        if let (Ok(length), Some(place)) = (
            u32::try_from(length),
            self.out.get_mut(start + 1..start + HEAD),
        ) {
            place.copy_from_slice(&length.to_le_bytes());
        }
    }

    fn number(&mut self) -> Option<()> {
        let range = number_at(self.text, self.at)?;
        self.at = range.end;
        let start = self.out.len();
        self.out.extend_from_slice(&[b'd', 0, 0, 0, 0]);
        self.out.extend_from_slice(self.text.get(range)?);
        self.write_length(start);
        Some(())
    }
}

/// Bytes of a tag and a length.
const HEAD: usize = 5;

/// The text of a string that was written whole.
fn short(written: &[u8]) -> Option<&[u8]> {
    written.strip_prefix(b"s")?.get(HEAD - 1..)
}

fn number(written: &[u8]) -> Option<f64> {
    let text = written.strip_prefix(b"d")?.get(HEAD - 1..)?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Bytes of a string up to its end, an escape or what cannot stand in one.
fn plain_run(text: &[u8]) -> usize {
    // Compilers turn a fold over this many into vector instructions, and `any` into a loop.
    let (blocks, _) = text.as_chunks::<32>();
    let is_plain = |block: &&[u8; 32]| !block.iter().fold(false, |seen, b| seen | is_special(b));
    let skipped = blocks.iter().take_while(is_plain).count() * 32;
    skipped + short_run(text.get(skipped..).unwrap_or_default())
}

/// The same, looking at eight at once: a byte that is sought leaves its highest bit, and nothing below it
/// does.
fn short_run(text: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 0xFF;
    const HIGHEST: u64 = ONES << 7;
    let (words, rest) = text.as_chunks::<8>();
    for (n, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let below = |word: u64, bound: u8| word.wrapping_sub(ONES * u64::from(bound)) & !word;
        let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
        let special = (is(b'"') | is(b'\\') | below(word, 0x20)) & HIGHEST;
        if special != 0 {
            return n * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    let tail = rest.iter().position(is_special).unwrap_or(rest.len());
    words.len() * 8 + tail
}

const fn is_special(byte: &u8) -> bool {
    matches!(byte, b'"' | b'\\' | ..0x20)
}

/// Where the number that begins at `start` stands, by JSON's grammar.
fn number_at(text: &[u8], start: usize) -> Option<Range<usize>> {
    let digits = |from: usize| {
        let rest = text.get(from..).unwrap_or_default();
        rest.iter().take_while(|b| b.is_ascii_digit()).count()
    };
    let whole = start + usize::from(text.get(start) == Some(&b'-'));
    let count = digits(whole);
    if count == 0 || count > 1 && text.get(whole) == Some(&b'0') {
        return None;
    }
    let mut end = whole + count;
    if text.get(end) == Some(&b'.') {
        let count = digits(end + 1);
        if count == 0 {
            return None;
        }
        end += 1 + count;
    }
    if let Some(b'e' | b'E') = text.get(end) {
        let signed = usize::from(matches!(text.get(end + 1), Some(b'+' | b'-')));
        let count = digits(end + 1 + signed);
        if count == 0 {
            return None;
        }
        end += 1 + signed + count;
    }
    Some(start..end)
}

#[cfg(test)]
mod tests;
