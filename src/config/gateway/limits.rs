//! What one client of the gateway may use.

use std::num::NonZeroU32;

use super::Section;

/// A client's quotas; what is `None` has no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientLimits {
    /// Requests that go on to the provider, a minute.
    pub requests_per_minute: Option<NonZeroU32>,
    /// Tokens that its calls are billed, a minute: input, cache writes and output. What is read from
    /// a cache is free, as it is in the provider's own quotas.
    pub tokens_per_minute: Option<NonZeroU32>,
    /// Answers of the Messages API under way at once. One that is not streamed counts too: it takes
    /// as long.
    pub concurrent_streams: Option<NonZeroU32>,
}

/// The largest limit, which is none in practice: for a client that a default must not hold.
const LARGEST: u64 = 1_000_000_000;

impl ClientLimits {
    /// Whether there is any limit.
    #[must_use]
    pub const fn is_any(&self) -> bool {
        self.requests_per_minute.is_some()
            || self.tokens_per_minute.is_some()
            || self.concurrent_streams.is_some()
    }

    /// What the section says, and of the rest what `default` says.
    pub(super) fn read(section: Section<'_>, default: &Self) -> Self {
        let limit = |key| {
            let limit = section.integer(key, 1..=LARGEST)?;
            NonZeroU32::new(u32::try_from(*limit.get_ref()).ok()?)
        };
        let limits = Self {
            requests_per_minute: limit("requests_per_minute").or(default.requests_per_minute),
            tokens_per_minute: limit("tokens_per_minute").or(default.tokens_per_minute),
            concurrent_streams: limit("concurrent_streams").or(default.concurrent_streams),
        };
        section.close();
        limits
    }
}
