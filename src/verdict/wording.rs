//! Messages that must be read because the provider gives no code for them.
//!
//! The provider does not promise its wording, so each is matched loosely and a miss only costs the
//! better advice, never a panic or a wrong retry.

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;

use super::Axes;

/// A cap that the organisation or workspace set for itself; it comes as a 400.
pub(super) fn is_own_spend_limit(message: &str) -> bool {
    message.starts_with("You have reached your specified") && message.contains("usage limits")
}

/// A cap on spending, in a 429 without a code: the provider's own gateway sends such.
pub(super) fn is_spend_limit(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["spend limit", "spending limit", "spend cap", "usage limits"]
        .iter()
        .any(|words| message.contains(words))
}

/// The prepaid credit is used up; it comes as a 400.
pub(super) fn is_credit_balance(message: &str) -> bool {
    message.starts_with("Your credit balance is too low")
}

/// The buckets that a 429 names, such as `30,000 input tokens per minute`. Tokens of no kind are
/// those of both.
pub(super) fn axes(message: &str) -> Axes {
    let message = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let input = says(&["input token", "request token"]);
    let output = says(&["output token"]);
    let either = says(&["tokens per min", "number of tokens", "tokens per day"]);
    let both = either && !input && !output;
    Axes {
        requests: says(&["requests per", "number of requests"]),
        input: input || both,
        output: output || both,
    }
}

/// The provider's filter kept an answer back; it comes as a 400, or inside a stream.
pub(super) fn is_filtered(message: &str) -> bool {
    message.contains("blocked by content filtering policy")
}

/// A 401 that is about the browser, not the key.
pub(super) fn is_cors(message: &str) -> bool {
    message.starts_with("CORS requests are not allowed")
}

/// The model in `model: NAME`.
pub(super) fn unknown_model(message: &str) -> Option<&str> {
    message
        .strip_prefix("model:")
        .map(str::trim)
        .filter(|name| !name.is_empty())
}

/// The tokens and the maximum of `prompt is too long: 210000 tokens > 200000 maximum`.
pub(super) fn prompt_too_long(message: &str) -> Option<[u64; 2]> {
    numbers(after(message, "prompt is too long:")?)
}

/// Input, `max_tokens` and limit of an "exceed context limit: 188059 + 20000 > 200000".
pub(super) fn context_limit(message: &str) -> Option<[u64; 3]> {
    numbers(after(message, "exceed context limit:")?)
}

/// Midnight UTC of the first `YYYY-MM-DD` in the message.
pub(super) fn date_in(message: &str) -> Option<Timestamp> {
    message
        .split(|c: char| !(c.is_ascii_digit() || c == '-'))
        .filter(|word| word.len() == 10)
        .find_map(|word| word.parse::<Date>().ok())
        .and_then(midnight)
}

/// Midnight UTC on the first of the month after `now`.
pub(super) fn next_month(now: Timestamp) -> Option<Timestamp> {
    midnight(
        TimeZone::UTC
            .to_datetime(now)
            .date()
            .last_of_month()
            .tomorrow()
            .ok()?,
    )
}

fn midnight(date: Date) -> Option<Timestamp> {
    TimeZone::UTC
        .to_timestamp(date.to_datetime(Time::midnight()))
        .ok()
}

fn after<'a>(message: &'a str, mark: &str) -> Option<&'a str> {
    message.split_once(mark).map(|(_, rest)| rest)
}

/// The first `N` whole numbers of a text.
fn numbers<const N: usize>(text: &str) -> Option<[u64; N]> {
    let mut found = text
        .split(|c: char| !c.is_ascii_digit())
        .filter(|digits| !digits.is_empty())
        .map_while(|digits| digits.parse().ok());
    let mut out = [0; N];
    for place in &mut out {
        *place = found.next()?;
    }
    Some(out)
}
