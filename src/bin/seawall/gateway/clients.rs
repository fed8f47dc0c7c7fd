//! What each client has used of its own quotas, and whether it may have more.
//!
//! A plain struct that is handed the time. The map is bounded: clients that have nothing open and owe
//! nothing are forgotten when it is full, since a new entry says the same of them. If that frees none,
//! those who are not in it share the place of one client until it does: neither can strangers fill the
//! memory, nor shut anybody out who was there before.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use seawall::config::ClientLimits;
use seawall_actors::policy::pace::Pace;
use tokio::time::Instant;

mod standing;
pub(crate) use standing::{Standing, Under};

/// Most clients that are told apart; each takes some 400 bytes.
const MOST_CLIENTS: usize = 10_000;

/// Time between two looks through a full map: a crowd of strangers must not cost one each.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Client {
    /// The holder of a client key, by its name.
    Key(Arc<str>),
    /// Whoever has an address.
    Address(IpAddr),
    /// All that the map has no room for.
    Others,
}

impl Client {
    /// The client at an address. In IPv6 a whole /64 is one client: any of its hosts can take any
    /// address in it.
    pub(crate) fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(v6) => {
                let network = u128::from(v6) & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from(network))
            }
            v4 @ IpAddr::V4(_) => v4,
        })
    }

    /// A metric's label: names come from the configuration, addresses from anybody.
    pub(crate) fn label(&self) -> Arc<str> {
        match self {
            Self::Key(name) => Arc::clone(name),
            Self::Address(_) => "(address)".into(),
            Self::Others => "(others)".into(),
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(name) => write!(f, "client `{name}`"),
            Self::Address(address) => write!(f, "client at {address}"),
            Self::Others => f.write_str("all further clients together"),
        }
    }
}

/// A limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Requests,
    Tokens,
    Streams,
}

impl Limit {
    /// The key that sets it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests_per_minute",
            Self::Tokens => "tokens_per_minute",
            Self::Streams => "concurrent_streams",
        }
    }
}

/// A request that is over a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Over {
    pub(crate) client: Client,
    pub(crate) limit: Limit,
    pub(crate) allowed: NonZeroU32,
    /// When it would not be, if nobody else asks before. Nobody knows when a stream ends.
    pub(crate) until: Option<Instant>,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Whether an answer of the Messages API will be under way.
    pub(crate) is_stream: bool,
    /// Tokens that its input will take.
    pub(crate) input: u64,
    /// The most tokens that its answer may have.
    pub(crate) most_output: u64,
}

/// What a request was let in with. It holds a place until [`Clients::left`], and its tokens are an
/// estimate until [`Clients::settle`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "what is not given back is used for ever"]
pub(crate) struct Entered {
    pub(crate) client: Client,
    /// Tokens charged so far.
    pub(crate) tokens: u64,
}

/// The state of every client.
#[derive(Debug)]
pub(crate) struct Clients {
    most: usize,
    known: HashMap<Client, Used>,
    looked_through: Option<Instant>,
}

#[derive(Debug)]
struct Used {
    limits: ClientLimits,
    requests: Option<Pace>,
    tokens: Option<Pace>,
    streams: u32,
    /// Calls whose tokens are not settled.
    unsettled: u32,
    /// The mean length of its answers so far, the newest by an eighth.
    usual_output: Option<u64>,
}

impl Clients {
    pub(crate) fn new() -> Self {
        Self::of_at_most(MOST_CLIENTS)
    }

    fn of_at_most(most: usize) -> Self {
        Self {
            most,
            known: HashMap::new(),
            looked_through: None,
        }
    }

    /// Lets a request in and charges it, or says which limit it is over. A refusal costs nothing.
    pub(crate) fn enter(
        &mut self,
        client: Client,
        limits: &ClientLimits,
        wish: Wish,
        now: Instant,
    ) -> Result<Entered, Over> {
        let client = self.place(client, now);
        let used = self
            .known
            .entry(client.clone())
            .or_insert_with(|| Used::new(limits, now));
        let over = |limit, allowed, until| {
            Err(Over {
                client: client.clone(),
                limit,
                allowed,
                until,
            })
        };
        if let (true, Some(allowed)) = (wish.is_stream, limits.concurrent_streams)
            && used.streams >= allowed.get()
        {
            return over(Limit::Streams, allowed, None);
        }
        if let (Some(pace), Some(allowed)) = (&mut used.requests, limits.requests_per_minute)
            && let Err(until) = pace.take(1, now)
        {
            return over(Limit::Requests, allowed, Some(until));
        }
        let mut tokens = 0;
        if let (Some(pace), Some(allowed)) = (&mut used.tokens, limits.tokens_per_minute) {
            let output = wish.most_output.min(used.usual_output.unwrap_or(0));
            // At least one for an answer: who is in debt has to wait.
            tokens = wish
                .input
                .saturating_add(output)
                .max(u64::from(wish.is_stream));
            if let Err(until) = pace.take(tokens, now) {
                if let Some(requests) = &mut used.requests {
                    requests.refund(1);
                }
                return over(Limit::Tokens, allowed, Some(until));
            }
        }
        used.streams += u32::from(wish.is_stream);
        used.unsettled += 1;
        Ok(Entered { client, tokens })
    }

    /// The answer is over for the client, or it has left.
    pub(crate) fn left(&mut self, client: &Client) {
        if let Some(used) = self.known.get_mut(client) {
            used.streams = used.streams.saturating_sub(1);
        }
    }

    /// Replaces what a request was charged by what it used; less is given back, more is a debt.
    pub(crate) fn settle(&mut self, entered: Entered, (input, output): (u64, u64), now: Instant) {
        let Some(used) = self.known.get_mut(&entered.client) else {
            return;
        };
        used.unsettled = used.unsettled.saturating_sub(1);
        if output > 0 {
            used.usual_output = Some(match used.usual_output {
                None => output,
                Some(usual) => usual - usual / 8 + output / 8,
            });
        }
        let spent = input.saturating_add(output);
        if let Some(pace) = &mut used.tokens {
            pace.charge(spent.saturating_sub(entered.tokens), now);
            pace.refund(entered.tokens.saturating_sub(spent));
        }
    }

    /// The entry that a client has or gets.
    fn place(&mut self, client: Client, now: Instant) -> Client {
        if self.known.contains_key(&client) || self.known.len() < self.most {
            return client;
        }
        let looked = self.looked_through;
        if looked.is_none_or(|at| now.saturating_duration_since(at) >= LOOK_AGAIN) {
            self.looked_through = Some(now);
            self.known.retain(|_, used| !used.is_as_new(now));
        }
        if self.known.len() < self.most {
            client
        } else {
            Client::Others
        }
    }
}

impl Used {
    fn new(limits: &ClientLimits, now: Instant) -> Self {
        // A tenth of a minute's saved up lets 9 % more through in the worst minute, a whole one twice
        // as much. Ten are let through at once all the same: agents start several calls together.
        let requests = |units: NonZeroU32| {
            let burst = NonZeroU32::new(units.get() / 10).map_or(TEN, |tenth| tenth.max(TEN));
            Pace::per_minute(units, burst, now)
        };
        // One large request may take a minute's tokens.
        let tokens = |units: NonZeroU32| Pace::per_minute(units, units, now);
        Self {
            limits: *limits,
            requests: limits.requests_per_minute.map(requests),
            tokens: limits.tokens_per_minute.map(tokens),
            streams: 0,
            unsettled: 0,
            usual_output: None,
        }
    }

    fn is_as_new(&self, now: Instant) -> bool {
        let is_full = |pace: &Option<Pace>| pace.as_ref().is_none_or(|pace| pace.is_full(now));
        self.streams == 0 && self.unsettled == 0 && is_full(&self.requests) && is_full(&self.tokens)
    }
}

const TEN: NonZeroU32 = NonZeroU32::MIN.saturating_add(9);

#[cfg(test)]
mod tests;
