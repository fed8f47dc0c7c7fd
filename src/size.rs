//! Sizes in bytes as people write them in a config file: `500kB`, `64MiB`, `1GiB`.
//!
//! [`parse`] reads them, [`Humane`] shows them. Units are powers of 1,024, with or without the `i`:
//! sizes of memory and of bodies always are.

use std::fmt;

/// Units with the power of two that they stand for, largest first, as they are shown.
const UNITS: [(&str, u32); 5] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("kiB", 10), ("B", 0)];

/// Reads a size: a whole number with a unit (`B`, `kB`, `MB`, `GB`, `TB`), or bytes alone.
///
/// # Errors
///
/// [`InvalidSize`] for anything else, and for more than fits into 64 bits.
pub fn parse(text: &str) -> Result<u64, InvalidSize> {
    let refused = || InvalidSize {
        text: text.to_owned(),
    };
    let trimmed = text.trim();
    let letters = trimmed
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(letters);
    let shift = match unit.trim_start() {
        "" | "B" => 0,
        "kB" | "KB" | "kiB" | "KiB" => 10,
        "MB" | "MiB" => 20,
        "GB" | "GiB" => 30,
        "TB" | "TiB" => 40,
        _ => return Err(refused()),
    };
    let number = number.parse::<u64>().map_err(|_| refused())?;
    number.checked_mul(1 << shift).ok_or_else(refused)
}

/// A size that does not read as one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no size: write a whole number with a unit (B, kB, MB, GB), such as \"32MB\" or \
     \"500kB\""
)]
pub struct InvalidSize {
    /// What was written.
    pub text: String,
}

/// Shows a size the way [`parse`] reads it, exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Humane(pub u64);

impl fmt::Display for Humane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |(_, shift): &&(&str, u32)| self.0 != 0 && self.0.trailing_zeros() >= *shift;
        let (unit, shift) = UNITS.iter().find(whole).unwrap_or(&("B", 0));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn units_are_powers_of_1024_with_or_without_the_i() {
        for (text, bytes) in [
            ("500kB", 500 << 10),
            ("1KiB", 1 << 10),
            ("64MiB", 64 << 20),
            ("64MB", 64 << 20),
            ("1GiB", 1 << 30),
            ("2 TB", 2 << 40),
            ("7", 7),
            ("7B", 7),
            (" 0 ", 0),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for text in [
            "",
            "MB",
            "1.5MB",
            "-1kB",
            "1XB",
            "1mb",
            "0x10",
            "16777216TB",
        ] {
            let shown = parse(text).unwrap_err().to_string();
            assert!(
                shown.contains("no size") && shown.contains("\"32MB\""),
                "{shown}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(bytes in any::<u64>(), shift in 0..40_u32) {
            for bytes in [bytes, (bytes >> 40) << shift] {
                prop_assert_eq!(parse(&Humane(bytes).to_string()), Ok(bytes));
            }
        }
    }
}
