//! The size of an image, from the beginning of its file.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Characters that hold the head of every PNG, GIF and WebP, and of most JPEGs.
const HEAD: usize = 1_024;
/// A JPEG's size may stand behind colour profiles and previews; beyond this it counts as unknown.
const FAR: usize = 64 << 10;

/// Width and height of the image in a base64 text; nothing where that cannot be told.
pub(super) fn size(base64: &str) -> Option<(u32, u32)> {
    let head = decoded(base64, HEAD)?;
    fixed(&head).or_else(|| jpeg(&head)).or_else(|| {
        let is_longer = base64.len() > HEAD;
        (is_longer && is_jpeg(&head)).then(|| jpeg(&decoded(base64, FAR)?))?
    })
}

/// The first bytes of a base64 text.
fn decoded(base64: &str, most: usize) -> Option<Vec<u8>> {
    let part = base64.as_bytes().get(..most).unwrap_or(base64.as_bytes());
    STANDARD.decode(part).ok()
}

/// Formats with the size in a fixed place.
fn fixed(bytes: &[u8]) -> Option<(u32, u32)> {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return Some((big(bytes, 16, 4)?, big(bytes, 20, 4)?));
    }
    if bytes.starts_with(b"GIF8") {
        return Some((little(bytes, 6, 2)?, little(bytes, 8, 2)?));
    }
    if !bytes.starts_with(b"RIFF") || bytes.get(8..12)? != b"WEBP" {
        return None;
    }
    match bytes.get(12..16)? {
        b"VP8X" => Some((little(bytes, 24, 3)? + 1, little(bytes, 27, 3)? + 1)),
        b"VP8 " => Some((
            little(bytes, 26, 2)? & 0x3FFF,
            little(bytes, 28, 2)? & 0x3FFF,
        )),
        b"VP8L" => {
            let packed = little(bytes, 21, 4)?;
            Some(((packed & 0x3FFF) + 1, ((packed >> 14) & 0x3FFF) + 1))
        }
        _ => None,
    }
}

fn is_jpeg(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\xFF\xD8")
}

/// Walks the segments of a JPEG to the one that holds its size.
fn jpeg(bytes: &[u8]) -> Option<(u32, u32)> {
    if !is_jpeg(bytes) {
        return None;
    }
    let mut at: usize = 2;
    loop {
        let (mark, kind) = (*bytes.get(at)?, *bytes.get(at.checked_add(1)?)?);
        if mark != 0xFF {
            return None;
        }
        match kind {
            // A fill byte before a mark.
            0xFF => at = at.checked_add(1)?,
            // Marks without a segment.
            0x01 | 0xD0..=0xD8 => at = at.checked_add(2)?,
            0xC0..=0xCF if !matches!(kind, 0xC4 | 0xC8 | 0xCC) => {
                let size = at.checked_add(5)?;
                return Some((big(bytes, size.checked_add(2)?, 2)?, big(bytes, size, 2)?));
            }
            _ => {
                let length = usize::try_from(big(bytes, at.checked_add(2)?, 2)?).ok()?;
                // A segment counts its own length, so that it never stands still.
                at = at.checked_add(2)?.checked_add(length.max(2))?;
            }
        }
    }
}

/// A number of `len` bytes, the most significant first.
fn big(bytes: &[u8], at: usize, len: usize) -> Option<u32> {
    let part = bytes.get(at..at.checked_add(len)?)?;
    Some(part.iter().fold(0, |sum, &b| sum << 8 | u32::from(b)))
}

/// A number of `len` bytes, the least significant first.
fn little(bytes: &[u8], at: usize, len: usize) -> Option<u32> {
    let part = bytes.get(at..at.checked_add(len)?)?;
    Some(part.iter().rev().fold(0, |sum, &b| sum << 8 | u32::from(b)))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::{any, prop, proptest};

    use super::{big, size};

    fn of(bytes: &[u8]) -> Option<(u32, u32)> {
        size(&STANDARD.encode(bytes))
    }

    /// Half a JPEG: a segment of `before` bytes, then its frame header.
    fn jpeg(before: usize) -> Vec<u8> {
        let mut bytes = b"\xFF\xD8".to_vec();
        for _ in 0..before.div_ceil(40_000) {
            bytes.extend(b"\xFF\xE1\x9C\x42");
            bytes.extend(vec![0; 40_000]);
        }
        bytes.extend(b"\xFF\xE0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00");
        bytes.extend(b"\xFF\xFF\xC2\x00\x11\x08\x04\xB0\x07\x08\x03");
        bytes
    }

    #[test]
    fn the_size_of_each_format_is_read_from_its_head() {
        let png = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0DIHDR\x00\x00\x07\x08\x00\x00\x04\xB0\x08";
        let gif = b"GIF89a\x08\x07\xB0\x04\xF7\x00";
        let extended =
            b"RIFF\x00\x00\x00\x00WEBPVP8X\x0A\x00\x00\x00\x00\x00\x00\x00\x07\x07\x00\xAF\x04\x00";
        let lossy =
            b"RIFF\x00\x00\x00\x00WEBPVP8 \x00\x00\x00\x00\x00\x00\x00\x9D\x01\x2A\x08\x07\xB0\x04";
        let lossless = b"RIFF\x00\x00\x00\x00WEBPVP8L\x00\x00\x00\x00\x2F\x07\xC7\x2B\x01";
        for bytes in [&png[..], gif, extended, lossy, lossless, &jpeg(0), &jpeg(1)] {
            // A file does not end with its head.
            let whole = [bytes, &[0; 300]].concat();
            assert_eq!(of(&whole), Some((1_800, 1_200)), "{:?}", &bytes[..12]);
        }
    }

    #[test]
    fn what_is_cut_short_or_far_away_has_no_size() {
        for bytes in [
            &b""[..],
            b"\x89PNG\r\n\x1a\n",
            b"GIF8",
            b"RIFF1234WEBP",
            b"\xFF\xD8\xFF",
            b"%PDF-1.4",
        ] {
            assert_eq!(of(bytes), None, "{bytes:?}");
        }
        assert_eq!(of(&jpeg(300_000)), None);
        for text in ["", "AAA", "not base64!", "ÄÖ"] {
            assert_eq!(size(text), None, "{text}");
        }
        assert_eq!(big(b"12", usize::MAX, 2), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_loop(
            noise in prop::collection::vec(any::<u8>(), 0..300),
            text in ".{0,100}",
        ) {
            let _ = size(&text);
            for head in [&b""[..], b"\xFF\xD8", b"\x89PNG\r\n\x1a\n", b"RIFF0000WEBPVP8X", b"GIF89a"] {
                let _ = of(&[head, &noise].concat());
            }
        }
    }
}
