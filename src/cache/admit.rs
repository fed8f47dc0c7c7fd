//! Which requests may use the cache, and which answers may be kept.

use http::header::CACHE_CONTROL;
use http::{HeaderMap, HeaderName, StatusCode};

/// What a caller says of the cache: `no-store` or `no-cache`, as in `cache-control`.
const OWN_CONTROL: HeaderName = HeaderName::from_static("x-seawall-cache");

/// What is sampled at where a request does not say.
const USUAL_TEMPERATURE: f64 = 1.0;

/// The part that the cache has in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "all that a caller can ask for")]
pub enum Admission {
    /// Answers are looked up and kept.
    Use,
    /// An answer is kept, and one that was kept serves only where nobody else answers.
    Refresh,
    /// None.
    Bypass,
}

impl Admission {
    /// Reads what the caller's headers and the request's temperature say.
    ///
    /// `no-store` keeps the cache out of the call; `no-cache` and `max-age=0` ask for a new answer.
    /// So does a temperature above `max_temperature` keep it out: who asks for variety shall have it.
    #[must_use]
    pub fn of(headers: &HeaderMap, temperature: Option<f64>, max_temperature: f64) -> Self {
        let temperature = temperature.unwrap_or(USUAL_TEMPERATURE);
        // Not a number is above every bound.
        let is_calm = temperature <= max_temperature;
        if !is_calm || says(headers, "no-store") {
            Self::Bypass
        } else if says(headers, "no-cache") || says(headers, "max-age=0") {
            Self::Refresh
        } else {
            Self::Use
        }
    }

    /// Whether an entry may serve although the provider could be asked.
    #[must_use]
    pub const fn serves_first(self) -> bool {
        matches!(self, Self::Use)
    }

    /// Whether an entry may serve where nobody else answers.
    #[must_use]
    pub const fn serves_last(self) -> bool {
        !matches!(self, Self::Bypass)
    }

    /// Whether the answer may be kept.
    #[must_use]
    pub const fn keeps(self) -> bool {
        !matches!(self, Self::Bypass)
    }
}

fn says(headers: &HeaderMap, directive: &str) -> bool {
    let values = [CACHE_CONTROL, OWN_CONTROL].map(|name| headers.get_all(name));
    values
        .iter()
        .flatten()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|said| said.trim().eq_ignore_ascii_case(directive))
}

/// Why an answer is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// Another status than 200.
    #[error("its status is no 200")]
    Status,
    /// It is no message of the Messages API, or a stream that cannot be put together.
    #[error("it is no message that can be read")]
    Unreadable,
    /// It broke off, or does not say why it stopped.
    #[error("it is not whole")]
    Incomplete,
    /// The model refused, paused, or stopped for a reason that is not known to be an end.
    #[error("the model stopped for a reason that is no end")]
    StopReason,
    /// It is larger than an entry may be.
    #[error("it is larger than an entry may be")]
    TooLarge,
}

impl Unfit {
    /// One word, for metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Unreadable => "unreadable",
            Self::Incomplete => "incomplete",
            Self::StopReason => "stop_reason",
            Self::TooLarge => "too_large",
        }
    }
}

/// Reasons to stop after which the same request would get the same kind of answer. An answer that
/// was cut at the length that was asked for is whole.
const ENDS: [&str; 5] = [
    "end_turn",
    "max_tokens",
    "model_context_window_exceeded",
    "stop_sequence",
    "tool_use",
];

/// Whether a message that stopped for this reason may be kept.
pub(super) fn stop_reason(reason: Option<&str>) -> Result<(), Unfit> {
    match reason {
        None => Err(Unfit::Incomplete),
        Some(reason) if ENDS.contains(&reason) => Ok(()),
        Some(_) => Err(Unfit::StopReason),
    }
}

pub(super) fn status(status: StatusCode) -> Result<(), Unfit> {
    (status == StatusCode::OK)
        .then_some(())
        .ok_or(Unfit::Status)
}

pub(super) fn size(bytes: usize, largest: usize) -> Result<(), Unfit> {
    (bytes <= largest).then_some(()).ok_or(Unfit::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_can_ask_for_a_new_answer_or_for_no_cache() {
        use Admission::{Bypass, Refresh, Use};
        for (name, value, expected) in [
            ("accept", "no-store", Use),
            ("cache-control", "max-age=60", Use),
            ("cache-control", "max-age=0", Refresh),
            ("cache-control", "Private,  No-Cache", Refresh),
            ("cache-control", "no-cache, no-store", Bypass),
            ("x-seawall-cache", "no-cache", Refresh),
            ("x-seawall-cache", " NO-STORE ", Bypass),
            ("x-seawall-cache", "no-store-at-all", Use),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            let admission = Admission::of(&headers, Some(0.0), 0.0);
            assert_eq!(admission, expected, "{name}: {value}");
        }
        let mut headers = HeaderMap::new();
        headers.append("cache-control", "no-cache".parse().unwrap());
        headers.append("cache-control", "no-store".parse().unwrap());
        assert_eq!(Admission::of(&headers, None, 1.0), Bypass);
    }

    #[test]
    fn who_asks_for_variety_gets_it() {
        let headers = HeaderMap::new();
        for (temperature, most, expected) in [
            (None, 1.0, Admission::Use),
            (None, 0.9, Admission::Bypass),
            (Some(0.2), 0.2, Admission::Use),
            (Some(0.3), 0.2, Admission::Bypass),
            (Some(f64::NAN), 1.0, Admission::Bypass),
            (Some(0.0), f64::NAN, Admission::Bypass),
        ] {
            let admission = Admission::of(&headers, temperature, most);
            assert_eq!(admission, expected, "{temperature:?} of {most}");
        }
        assert!(Admission::Use.serves_first() && !Admission::Refresh.serves_first());
        assert!(Admission::Refresh.serves_last() && Admission::Refresh.keeps());
        assert!(!Admission::Bypass.serves_last() && !Admission::Bypass.keeps());
    }

    #[test]
    fn what_is_no_known_end_is_not_kept() {
        assert_eq!(stop_reason(None), Err(Unfit::Incomplete));
        for reason in ["refusal", "pause_turn", "compaction", "a_new_one", ""] {
            assert_eq!(stop_reason(Some(reason)), Err(Unfit::StopReason));
        }
        for reason in ENDS {
            assert_eq!(stop_reason(Some(reason)), Ok(()));
        }
    }
}
