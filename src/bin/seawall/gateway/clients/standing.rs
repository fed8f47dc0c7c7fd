//! What clients have left of their quotas, as status shows it.

use std::num::NonZeroU32;

use tokio::time::Instant;

use super::{Client, Clients, Used};

/// One client's quotas; what is `None` has no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) client: Client,
    pub(crate) requests: Option<Under>,
    pub(crate) tokens: Option<Under>,
    pub(crate) streams: Option<Under>,
}

/// One limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Under {
    pub(crate) limit: NonZeroU32,
    /// What could be had at once; negative is a debt that is waited for.
    pub(crate) left: i64,
}

impl Clients {
    /// How many clients are told apart, and the standing of at most `at_most` of them: holders of keys
    /// first, by name, then addresses. Who has all of its quotas left may be missing.
    pub(crate) fn standings(&self, at_most: usize, now: Instant) -> (usize, Vec<Standing>) {
        let mut known: Vec<(&Client, &Used)> = self.known.iter().collect();
        if known.len() > at_most {
            known.select_nth_unstable_by_key(at_most, |&(client, _)| client);
            known.truncate(at_most);
        }
        known.sort_unstable_by_key(|&(client, _)| client);
        let standings = known
            .iter()
            .map(|(client, used)| used.standing(client, now));
        (self.known.len(), standings.collect())
    }
}

impl Used {
    fn standing(&self, client: &Client, now: Instant) -> Standing {
        let under = |limit: Option<NonZeroU32>, left: Option<i64>| {
            Some(Under {
                limit: limit?,
                left: left?,
            })
        };
        let limits = &self.limits;
        let streams = limits.concurrent_streams;
        let places = streams.map(|most| i64::from(most.get()) - i64::from(self.streams));
        let left = |pace: &Option<super::Pace>| pace.as_ref().map(|pace| pace.left(now));
        Standing {
            client: client.clone(),
            requests: under(limits.requests_per_minute, left(&self.requests)),
            tokens: under(limits.tokens_per_minute, left(&self.tokens)),
            streams: under(streams, places),
        }
    }
}
