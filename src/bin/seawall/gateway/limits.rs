//! Each client's own quotas, between the door and the call.
//!
//! With no limit in the configuration nothing of this runs. A call holds its place until its answer's
//! body is dropped, which hyper does as soon as the client has left; its tokens are settled when the
//! call itself is over, which may be later.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use jiff::Timestamp;
use metrics::counter;
use parking_lot::Mutex;
use seawall::client::ask::{Endpoint, Meter};
use seawall::config::{ClientLimits, Gateway};
use seawall::estimate;
use seawall::provider::anthropic::request::RequestView;
use seawall::provider::anthropic::usage::Tokens;
use tokio::time::Instant;

use super::clients::{Client, Clients, Entered, Limit, Over, Standing, Wish};
use super::reply;

/// When to ask again for a stream's place: nobody knows when one ends.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// As many clients as fit onto a page.
const SHOWN: usize = 100;

/// Counts what clients use.
#[derive(Debug)]
pub(crate) struct Limits {
    is_any: bool,
    clients: Mutex<Clients>,
}

impl Limits {
    pub(crate) fn new(gateway: &Gateway) -> Arc<Self> {
        let mut keys = gateway.client_keys.iter();
        Arc::new(Self {
            is_any: gateway.limits.is_any() || keys.any(|key| key.limits.is_any()),
            clients: Mutex::new(Clients::new()),
        })
    }

    /// Whether any client has any limit.
    pub(crate) const fn is_any(&self) -> bool {
        self.is_any
    }

    /// How many clients are told apart, and what the first of them have left, if anybody has limits.
    pub(crate) fn standings(&self) -> Option<(usize, Vec<Standing>)> {
        let of = || {
            let clients = self.clients.lock();
            clients.standings(SHOWN, Instant::now())
        };
        self.is_any.then(of)
    }

    /// Lets a client's request in, or answers it.
    pub(crate) fn enter(
        self: &Arc<Self>,
        (client, limits): (Client, &ClientLimits),
        endpoint: &Endpoint,
        body: &Bytes,
    ) -> Result<Option<Pass>, Box<Response>> {
        if !limits.is_any() {
            return Ok(None);
        }
        let wish = wish(limits, endpoint, body);
        let (entered, now) = {
            let mut clients = self.clients.lock();
            // Read under the lock, so that who is asked about later is not earlier.
            let now = Instant::now();
            (clients.enter(client, limits, wish, now), now)
        };
        let entered = entered.map_err(|over| Box::new(refuse(&over, now)))?;
        let place = wish.is_stream.then(|| Place {
            limits: Arc::clone(self),
            client: entered.client.clone(),
        });
        let bill = Bill {
            limits: Arc::clone(self),
            entered: Mutex::new(Some(entered)),
        };
        Ok(Some(Pass {
            place,
            bill: Arc::new(bill),
        }))
    }
}

/// What lets a request through.
#[derive(Debug)]
pub(crate) struct Pass {
    /// Held until the answer is over or the client has left.
    pub(crate) place: Option<Place>,
    bill: Arc<Bill>,
}

impl Pass {
    /// What the call is to tell how much it used.
    pub(crate) fn meter(&self) -> Arc<dyn Meter> {
        Arc::clone(&self.bill) as Arc<dyn Meter>
    }
}

/// One of the answers that a client may have under way.
pub(crate) struct Place {
    limits: Arc<Limits>,
    client: Client,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.client).finish()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.limits.clients.lock().left(&self.client);
    }
}

/// Tokens that are charged by estimate. Dropped unheard, it was a call that never began.
struct Bill {
    limits: Arc<Limits>,
    entered: Mutex<Option<Entered>>,
}

impl Bill {
    fn settle(&self, input: u64, output: u64) {
        let entered = self.entered.lock().take();
        if let Some(entered) = entered {
            let mut clients = self.limits.clients.lock();
            clients.settle(entered, (input, output), Instant::now());
        }
    }
}

impl Meter for Bill {
    fn used(&self, tokens: &Tokens) {
        self.settle(tokens.quota_input(), tokens.output);
    }
}

impl fmt::Debug for Bill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bill").field(&*self.entered.lock()).finish()
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        self.settle(0, 0);
    }
}

fn wish(limits: &ClientLimits, endpoint: &Endpoint, body: &Bytes) -> Wish {
    if *endpoint != Endpoint::Messages {
        return Wish::default();
    }
    let counted = limits
        .tokens_per_minute
        // What can't be read is refused soon after, and has used nothing.
        .and_then(|_| RequestView::parse(body).ok());
    let (input, most_output) = counted.map_or((0, 0), |view| {
        let model = view.model.as_deref().unwrap_or("");
        let input = estimate::input_tokens(model, &view.counts);
        (input, view.max_tokens.unwrap_or(u64::MAX))
    });
    Wish {
        is_stream: true,
        input,
        most_output,
    }
}

/// Answers a request that is over a limit.
fn refuse(over: &Over, now: Instant) -> Response {
    let Over {
        client,
        limit,
        allowed,
        until,
    } = over;
    let wait = until.map_or(ASK_AGAIN, |until| until.saturating_duration_since(now));
    let name = limit.as_str();
    counter!(
        "seawall_client_refusals_total",
        "client" => client.label().to_string(), "limit" => name
    )
    .increment(1);
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    tracing::info!(%client, limit = name, allowed, wait_ms, "refused over its limit");
    let message = match limit {
        Limit::Streams => format!(
            "seawall: the {client} has {allowed} answers under way, as many as its {name} allows; \
             come again when one of them is over"
        ),
        Limit::Requests | Limit::Tokens => format!(
            "seawall: the {client} has used up its {name} of {allowed}; come again after {}",
            clock_time(wait)
        ),
    };
    reply::over_limit(&message, wait)
}

/// The time of day after a wait, to the millisecond, rounded up.
fn clock_time(wait: Duration) -> String {
    let at = Timestamp::now().as_millisecond();
    let wait = i64::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(i64::MAX);
    match Timestamp::from_millisecond(at.saturating_add(wait).saturating_add(1)) {
        Ok(at) => format!("{at:.3}"),
        Err(_) => "the year 9999".to_owned(),
    }
}
