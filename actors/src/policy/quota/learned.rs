//! What a provider's answer says about its limits.

use std::time::Duration;

use super::Axis;

/// What a provider's answer said about its limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "made by whoever reads a provider's headers, with everything that counts"
)]
pub struct Learned {
    /// What it said about each axis, in the order of [`Axis::ALL`].
    pub axes: [Option<AxisWord>; 3],
    /// Nothing is admitted before this has passed; cut to a month.
    pub stop_for: Option<Duration>,
    /// The wait that a refusal told its own request and nobody else. A second one in a row, before it
    /// has passed, stops the quota for as long.
    pub hint: Option<Duration>,
    /// Which limit refused the request, and is behind the stop; none if it was accepted, or refused for
    /// another reason.
    pub refused_by: Option<RefusedBy>,
    /// The request was accepted: what was spent before it was allowed.
    pub accepted: bool,
}

/// What a provider's answer said about one axis.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_structs,
    reason = "made by whoever reads a provider's headers, with everything that counts"
)]
pub struct AxisWord {
    /// The limit a minute.
    pub limit: Option<u64>,
    /// How much of it is left.
    pub remaining: Option<u64>,
    /// The unit that `remaining` is rounded to; 0 and 1 are exact.
    pub rounded_to: u64,
}

/// The limit that refused a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RefusedBy {
    /// A bucket of tokens or requests; which one, where the provider says so.
    Bucket(Option<Axis>),
    /// The growth of the load.
    Ramp,
    /// The number of requests at the same time.
    Connections,
    /// What may be spent on the credential behind it: money helps, or another credential.
    SpendCap,
    /// What a subscription gives for some hours or days.
    Window,
}

impl RefusedBy {
    /// Stable lower-case word for logs, metrics and status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bucket(_) => "bucket",
            Self::Ramp => "ramp",
            Self::Connections => "connections",
            Self::SpendCap => "spend_cap",
            Self::Window => "window",
        }
    }
}
