//! The retry policy of the official SDKs, to the letter.
//!
//! Two retries. `x-should-retry` decides first; then 408, 409, 429 and every status from 500 up, and
//! broken or late connections. The server's hint is obeyed without limit and without jitter; else
//! the wait is `min(0.5 s × 2ⁿ, 8 s) × (1 − 0.25 × rand)`. As in `anthropic-sdk-python` 2.12
//! (`_base_client.py`). Its failure mode: both retries are spent 1.5 s after the first failure, so
//! any outage longer than that reaches the caller, at three times the load.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tokio::time::{Instant, sleep};

use super::exchange::{Exchange, exchange};
use super::naive::Counted;
use super::{CallPlan, Client, Ended, Endpoint, Wiring};
use crate::transport::Transport;

const RETRIES: u32 = 2;
const FIRST_DELAY: f64 = 0.5;
const LONGEST_DELAY: f64 = 8.0;
// The longest hint that the Python SDK obeys, in seconds.
const LONGEST_HINT: f64 = 4_294_967.0;

/// Retries as the official SDKs do.
#[derive(Debug)]
pub struct Sdk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    transport: Arc<dyn Transport>,
    endpoint: Endpoint,
    chance: Mutex<StdRng>,
    built: Instant,
    built_unix: Duration,
    in_flight: Arc<AtomicUsize>,
}

impl Sdk {
    /// A client on the drill's transport.
    #[must_use]
    pub fn new(wiring: &Wiring<'_>) -> Self {
        Self {
            shared: Arc::new(Shared {
                transport: Arc::clone(&wiring.transport),
                endpoint: wiring.endpoint.clone(),
                chance: Mutex::new(StdRng::seed_from_u64(wiring.seed)),
                built: Instant::now(),
                built_unix: wiring.unix_now,
                in_flight: Arc::default(),
            }),
        }
    }
}

impl Client for Sdk {
    fn call(&self, plan: CallPlan) -> BoxFuture<'static, Ended> {
        let shared = Arc::clone(&self.shared);
        let counted = Counted::new(&shared.in_flight);
        async move {
            let _counted = counted;
            shared.call(&plan).await
        }
        .boxed()
    }

    fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Ordering::Relaxed)
    }

    fn drain(&self) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }
}

impl Shared {
    async fn call(&self, plan: &CallPlan) -> Ended {
        let request = plan.request(&self.endpoint, plan.model());
        let mut made = 0;
        loop {
            let (failure, headers) =
                match exchange(&*self.transport, request.clone(), plan.stream).await {
                    Exchange::Answer(ended) => return ended,
                    Exchange::Status(status, headers) => {
                        if !should_retry(status, &headers) {
                            return Ended::Failed { why: "status" };
                        }
                        (Ended::Failed { why: "status" }, headers)
                    }
                    Exchange::Connection { why } => (Ended::Failed { why }, HeaderMap::new()),
                };
            if made == RETRIES {
                return failure;
            }
            let unix_now = self.built_unix.saturating_add(self.built.elapsed());
            let wait = delay(made, &headers, unix_now, &mut *self.chance.lock());
            made += 1;
            sleep(wait).await;
        }
    }
}

fn should_retry(status: StatusCode, headers: &HeaderMap) -> bool {
    match headers.get("x-should-retry").map(|word| word.as_bytes()) {
        Some(b"true") => true,
        Some(b"false") => false,
        _ => matches!(status.as_u16(), 408 | 409 | 429 | 500..),
    }
}

fn delay(made: u32, headers: &HeaderMap, unix_now: Duration, rng: &mut impl Rng) -> Duration {
    if let Some(hint) = hint(headers, unix_now) {
        return hint;
    }
    let exponent = i32::try_from(made).unwrap_or(i32::MAX);
    let full = (FIRST_DELAY * 2_f64.powi(exponent)).min(LONGEST_DELAY);
    Duration::from_secs_f64(full * (1.0 - 0.25 * rng.random::<f64>()))
}

fn hint(headers: &HeaderMap, unix_now: Duration) -> Option<Duration> {
    let word = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::trim)
    };
    let number = |text: &str| text.parse::<f64>().ok();
    let seconds = word("retry-after-ms")
        .and_then(number)
        .map(|ms| ms / 1_000.0)
        .or_else(|| word(RETRY_AFTER.as_str()).and_then(number))
        .or_else(|| {
            let date = httpdate::parse_http_date(word(RETRY_AFTER.as_str())?).ok()?;
            let at = date.duration_since(UNIX_EPOCH).ok()?;
            Some(at.as_secs_f64() - unix_now.as_secs_f64())
        })?;
    (seconds > 0.0).then(|| Duration::from_secs_f64(seconds.min(LONGEST_HINT)))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    const NOW: Duration = Duration::from_secs(1_800_000_000);

    const DATE: &str = "Fri, 15 Jan 2027 08:00:30 GMT";

    type Pairs = &'static [(&'static str, &'static str)];

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn the_waits_double_to_eight_seconds_less_up_to_a_quarter() {
        let mut rng = StdRng::seed_from_u64(1);
        let bands = [
            (0, 0.375, 0.5),
            (1, 0.75, 1.0),
            (2, 1.5, 2.0),
            (3, 3.0, 4.0),
            (9, 6.0, 8.0),
        ];
        for (made, low, high) in bands {
            let (mut least, mut most) = (f64::MAX, 0_f64);
            for _ in 0..2_000 {
                let wait = delay(made, &HeaderMap::new(), NOW, &mut rng).as_secs_f64();
                least = least.min(wait);
                most = most.max(wait);
            }
            assert!(
                least >= low - 1e-9 && most <= high + 1e-9,
                "{made}: {least}..{most}"
            );
            let spread = high - low;
            assert!(
                least < low + 0.02 * spread && most > high - 0.02 * spread,
                "{made}"
            );
        }
        assert!(delay(u32::MAX, &HeaderMap::new(), NOW, &mut rng) <= Duration::from_secs(8));
    }

    #[test]
    fn a_hint_is_obeyed_to_the_letter() {
        let mut rng = StdRng::seed_from_u64(1);
        let table: &[(Pairs, Option<f64>)] = &[
            (&[("retry-after", "7")], Some(7.0)),
            (&[("retry-after", "1.5")], Some(1.5)),
            (&[("retry-after", "600")], Some(600.0)),
            (
                &[("retry-after-ms", "250"), ("retry-after", "7")],
                Some(0.25),
            ),
            (
                &[("retry-after-ms", "soon"), ("retry-after", "7")],
                Some(7.0),
            ),
            (&[("retry-after", DATE)], Some(30.0)),
            (&[("retry-after", "1e300")], Some(LONGEST_HINT)),
            (&[("retry-after", "0")], None),
            (&[("retry-after", "-4")], None),
            (&[("retry-after", "NaN")], None),
            (&[("retry-after", "tomorrow")], None),
            (&[("retry-after", "Fri, 15 Jan 2010 08:00:30 GMT")], None),
        ];
        for (pairs, wanted) in table {
            let found = hint(&headers(pairs), NOW).map(|hint| hint.as_secs_f64());
            assert_eq!(found, *wanted, "{pairs:?}");
            let wait = delay(0, &headers(pairs), NOW, &mut rng).as_secs_f64();
            assert!(
                wanted.map_or((0.375..=0.5).contains(&wait), |hint| wait == hint),
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn the_header_decides_before_the_status() {
        for (status, retried) in [
            (400, false),
            (401, false),
            (403, false),
            (404, false),
            (408, true),
            (409, true),
            (413, false),
            (429, true),
            (500, true),
            (501, true),
            (529, true),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(should_retry(status, &HeaderMap::new()), retried, "{status}");
            assert!(should_retry(
                status,
                &headers(&[("x-should-retry", "true")])
            ));
            assert!(!should_retry(
                status,
                &headers(&[("x-should-retry", "false")])
            ));
            let odd = headers(&[("x-should-retry", "maybe")]);
            assert_eq!(should_retry(status, &odd), retried, "{status}");
        }
    }
}
