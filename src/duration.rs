//! Durations as people write them: `500ms`, `8s`, `1.5m`, `2h`, `1d`.

use std::time::Duration;

/// Longest duration that can be written: a year.
const LONGEST_SECONDS: f64 = 366.0 * 86_400.0;

/// Reads a number with a unit (`ms`, `s`, `m`, `h`, `d`).
///
/// # Errors
///
/// A sentence that says what to write instead.
pub fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let unit_at = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let number = number.trim();
    let seconds_each = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        _ => {
            return Err(format!(
                "`{text}` is no duration: write a number with a unit, such as \"500ms\", \"8s\", \"2m\" or \"1h\""
            ));
        }
    };
    let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let seconds = plain
        .then(|| number.parse::<f64>().ok())
        .flatten()
        .map(|n| n * seconds_each);
    match seconds {
        Some(seconds) if seconds <= LONGEST_SECONDS => {
            // Whole microseconds: 0.1 s must not become 100.000001 ms.
            Ok(Duration::try_from_secs_f64((seconds * 1e6).round() / 1e6).unwrap_or(Duration::MAX))
        }
        Some(_) => Err(format!("`{text}` is longer than a year")),
        None => Err(format!(
            "`{text}` is no duration: write digits before the unit, such as \"500ms\" or \"1.5s\""
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read() {
        for (text, millis) in [
            ("500ms", 500),
            ("8s", 8_000),
            ("0.1s", 100),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
            (" 7 s ", 7_000),
            ("0s", 0),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "1e9s",
            "5 parsecs",
            "infs",
            "1.2.3s",
            "99999999999d",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
