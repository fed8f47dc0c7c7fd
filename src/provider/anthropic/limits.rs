//! What the rate-limit headers say.
//!
//! Three families are read, each on its own: requests, input tokens, output tokens. The fourth,
//! `tokens`, only repeats the tightest of them. A family that is missing says nothing: most failures
//! carry none. A reset is when the bucket will be *full*, is fixed at admission (so it is mostly past
//! by the time the answer is here), and is 1970 on some 429s; such resets are dropped. Where none of
//! the three is there, OpenAI's names are tried, since compatible gateways send those.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use jiff::Timestamp;

mod openai;
mod unified;

pub use unified::{Claim, Unified, Window};

/// One axis of a quota as a response describes it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AxisLimits {
    /// The most that fits in the bucket, a minute's worth.
    pub limit: Option<u64>,
    /// What is left; tokens as [`RateLimits::tokens_rounded_to`] says.
    pub remaining: Option<u64>,
    /// Time until the bucket is full again; absent where the reset is past or nonsense.
    pub full_in: Option<Duration>,
}

impl AxisLimits {
    /// Whether the bucket is known to be untouched.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!((self.limit, self.remaining), (Some(l), Some(r)) if l > 0 && r >= l)
    }
}

/// The buckets of the fast mode, which has a pool of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "the two that its headers have")]
pub struct Fast {
    /// Input tokens a minute.
    pub input: AxisLimits,
    /// Output tokens a minute.
    pub output: AxisLimits,
}

impl Fast {
    /// Whether one of its buckets is empty.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        [self.input, self.output]
            .iter()
            .any(|axis| axis.remaining == Some(0))
    }
}

/// Everything that a response's headers say about limits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct RateLimits {
    /// Requests a minute.
    pub requests: AxisLimits,
    /// Input tokens a minute.
    pub input: AxisLimits,
    /// Output tokens a minute.
    pub output: AxisLimits,
    /// The server's command to wait. Only a failure commands: on a success it is dropped.
    pub retry_after: Option<Duration>,
    /// The server's own word on sending the same request again.
    pub should_retry: Option<bool>,
    /// A subscription's window.
    pub unified: Option<Unified>,
    /// The buckets of the fast mode, on requests that asked for it.
    pub fast: Option<Fast>,
    /// `input` counts input and output tokens together, as OpenAI's headers do.
    ///
    /// There is no bucket for a sum here. The sum's limit stands for the input, which is most of an
    /// agent's traffic, and the output that it does not see lowers `remaining` from answer to answer.
    pub combined: bool,
}

impl RateLimits {
    /// Reads the headers of an answer that arrived at `now`.
    #[must_use]
    pub fn read(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Self {
        let failed = status.is_client_error() || status.is_server_error();
        let said = Said::find(headers);
        let [requests, input, output] = said.axes.map(|axis| axis.read(now));
        let mut read = Self {
            requests,
            input,
            output,
            retry_after: if failed {
                retry_after(headers, now)
            } else {
                None
            },
            should_retry: should_retry(headers),
            unified: said.unified.then(|| unified::read(headers, now)).flatten(),
            fast: said.is_fast.then(|| {
                let [input, output] = said.fast.map(|axis| axis.read(now));
                Fast { input, output }
            }),
            combined: false,
        };
        if said.openai
            && read.is_silent()
            && let Some((requests, tokens)) = openai::read(headers)
        {
            read.requests = requests;
            read.input = tokens;
            read.combined = tokens != AxisLimits::default();
        }
        read
    }

    /// The unit that what is left of tokens is rounded to: thousands, as every recording of Anthropic's
    /// headers shows; OpenAI's are exact.
    #[must_use]
    pub const fn tokens_rounded_to(&self) -> u64 {
        if self.combined { 1 } else { 1_000 }
    }

    /// Whether the response said nothing about any axis.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        [self.requests, self.input, self.output]
            .iter()
            .all(|axis| *axis == AxisLimits::default())
    }

    /// Whether at least one bucket is described and every described one is full.
    ///
    /// On a 429 it means that the request alone is larger than a bucket.
    #[must_use]
    pub fn all_full(&self) -> bool {
        let mut described = [self.requests, self.input, self.output]
            .into_iter()
            .filter(|axis| axis.remaining.is_some())
            .peekable();
        described.peek().is_some() && described.all(|axis| axis.is_full())
    }
}

/// Longer waits than the official clients obey, 2^32 ms, are taken for garbage.
const LONGEST_WAIT: Duration = Duration::from_millis(4_294_967_296);

static RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
static SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// The limits among an answer's headers, found in one pass: looked up by name, each would be hashed.
#[derive(Default)]
struct Said<'a> {
    axes: [AxisWords<'a>; 3],
    fast: [AxisWords<'a>; 2],
    is_fast: bool,
    unified: bool,
    openai: bool,
}

#[derive(Default)]
struct AxisWords<'a> {
    limit: Option<&'a HeaderValue>,
    remaining: Option<&'a HeaderValue>,
    reset: Option<&'a HeaderValue>,
}

impl<'a> Said<'a> {
    fn find(headers: &'a HeaderMap) -> Self {
        let mut said = Self::default();
        let [requests, input, output] = &mut said.axes;
        let [fast_input, fast_output] = &mut said.fast;
        for (name, value) in headers {
            let name = name.as_str();
            let Some(name) = name.strip_prefix("anthropic-") else {
                said.openai |= name.starts_with("x-ratelimit-");
                continue;
            };
            let place = match name {
                "ratelimit-requests-limit" => &mut requests.limit,
                "ratelimit-requests-remaining" => &mut requests.remaining,
                "ratelimit-requests-reset" => &mut requests.reset,
                "ratelimit-input-tokens-limit" => &mut input.limit,
                "ratelimit-input-tokens-remaining" => &mut input.remaining,
                "ratelimit-input-tokens-reset" => &mut input.reset,
                "ratelimit-output-tokens-limit" => &mut output.limit,
                "ratelimit-output-tokens-remaining" => &mut output.remaining,
                "ratelimit-output-tokens-reset" => &mut output.reset,
                "fast-input-tokens-limit" => &mut fast_input.limit,
                "fast-input-tokens-reset" => &mut fast_input.reset,
                "fast-output-tokens-limit" => &mut fast_output.limit,
                "fast-output-tokens-reset" => &mut fast_output.reset,
                "fast-input-tokens-remaining" => {
                    said.is_fast = true;
                    &mut fast_input.remaining
                }
                "fast-output-tokens-remaining" => {
                    said.is_fast = true;
                    &mut fast_output.remaining
                }
                "ratelimit-unified-status" | "ratelimit-unified-reset" => {
                    said.unified = true;
                    continue;
                }
                _ => continue,
            };
            // The first word counts.
            place.get_or_insert(value);
        }
        said
    }
}

impl AxisWords<'_> {
    fn read(self, now: Timestamp) -> AxisLimits {
        AxisLimits {
            limit: integer(self.limit),
            remaining: integer(self.remaining),
            full_in: self
                .reset
                .and_then(plain)
                .and_then(|t| t.parse::<Timestamp>().ok())
                .and_then(|at| until(at, now)),
        }
    }
}

/// The wait that a server commands: milliseconds first, then seconds (whole or fractional), then an
/// HTTP date; the order of the official clients.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let millis = text(headers, &RETRY_AFTER_MS)
        .and_then(|t| t.parse::<f64>().ok())
        .and_then(|ms| wait_of(ms / 1000.0));
    millis.or_else(|| {
        let value = text(headers, &RETRY_AFTER)?;
        if let Ok(seconds) = value.parse::<f64>() {
            return wait_of(seconds);
        }
        let at = httpdate::parse_http_date(value).ok()?;
        until(Timestamp::try_from(at).ok()?, now)
    })
}

/// The server's own word on sending the same request again.
#[must_use]
pub fn should_retry(headers: &HeaderMap) -> Option<bool> {
    match text(headers, &SHOULD_RETRY)? {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn wait_of(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|d| !d.is_zero() && *d <= LONGEST_WAIT)
}

fn until(at: Timestamp, now: Timestamp) -> Option<Duration> {
    Duration::try_from(at.duration_since(now))
        .ok()
        .filter(|d| !d.is_zero() && *d <= LONGEST_WAIT)
}

fn integer(value: Option<&HeaderValue>) -> Option<u64> {
    plain(value?)?.parse().ok()
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    plain(headers.get(name)?)
}

fn plain(value: &HeaderValue) -> Option<&str> {
    Some(value.to_str().ok()?.trim_ascii())
}

#[cfg(test)]
mod tests;
