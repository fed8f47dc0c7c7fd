//! How many characters of a text are of which kind.

/// Characters by how they tokenise.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Characters {
    /// Letters, blanks and everything that is none of the others.
    pub(super) plain: usize,
    /// ASCII digits.
    pub(super) digits: usize,
    /// ASCII punctuation.
    pub(super) symbols: usize,
    /// U+2E80 and above.
    pub(super) wide: usize,
}

/// Bytes whose kinds are summed in one byte, so that the compiler can sum many at once.
const STRIDE: usize = 255;

/// Counts a text's characters by kind.
pub(super) fn count(text: &str) -> Characters {
    if text.is_ascii() {
        return ascii(text.as_bytes());
    }
    let mut seen = Characters::default();
    for c in text.chars() {
        let kind = if c >= '\u{2E80}' {
            &mut seen.wide
        } else if c.is_ascii_digit() {
            &mut seen.digits
        } else if c.is_ascii_punctuation() {
            &mut seen.symbols
        } else {
            &mut seen.plain
        };
        *kind = kind.saturating_add(1);
    }
    seen
}

fn ascii(text: &[u8]) -> Characters {
    let (mut letters, mut digits, mut blanks) = (0_usize, 0_usize, 0_usize);
    for stride in text.chunks(STRIDE) {
        let (mut l, mut d, mut b) = (0_u8, 0_u8, 0_u8);
        for &byte in stride {
            l = l.wrapping_add(u8::from((byte | 0x20).wrapping_sub(b'a') < 26));
            d = d.wrapping_add(u8::from(byte.wrapping_sub(b'0') < 10));
            b = b.wrapping_add(u8::from(byte <= b' ' || byte == 0x7F));
        }
        letters += usize::from(l);
        digits += usize::from(d);
        blanks += usize::from(b);
    }
    let plain = letters + blanks;
    Characters {
        plain,
        digits,
        symbols: text.len().saturating_sub(plain + digits),
        wide: 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::{ascii, count};

    proptest! {
        #[test]
        fn both_ways_of_counting_agree(text in "[ -~\\n\\t\\x7f\\x00]{0,700}") {
            let fast = ascii(text.as_bytes());
            // The letter at the end takes the way of other texts.
            let slow = count(&format!("{text}ß"));
            prop_assert_eq!(
                (fast.plain + 1, fast.digits, fast.symbols, fast.wide),
                (slow.plain, slow.digits, slow.symbols, slow.wide)
            );
        }
    }
}
