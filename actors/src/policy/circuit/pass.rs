//! The right to make one attempt through a circuit, and what its outcome says.

use tokio::time::Instant;

use crate::verdict::Blame;

/// Right to make one attempt, given by [`Circuit::admit`](super::Circuit::admit).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// Generation of the circuit that gave it.
    pub generation: u64,
    /// The probe's id, when the attempt decides over a half-open circuit.
    pub probe: Option<u64>,
    /// It holds one of the ramp's slots.
    pub ramp: bool,
}

impl Pass {
    /// The pass of a plainly closed circuit.
    pub(crate) const fn plain(generation: u64) -> Self {
        Self {
            generation,
            probe: None,
            ramp: false,
        }
    }
}

/// Answer to a request for a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "who asks must handle both answers")]
pub enum Admission {
    /// Go.
    Pass(Pass),
    /// Not now.
    Wait {
        /// When the probe is due; `None` when an outcome or an operator has to come first.
        until: Option<Instant>,
    },
}

/// What an attempt's outcome tells a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a new signal must be decided wherever one is read"
)]
pub enum Signal {
    /// The target answered.
    Success,
    /// The target, or the way to it, failed.
    Failure,
    /// The quota refused: counted nowhere while closed, but no proof of health in a probe.
    Limited,
    /// It says nothing about the target.
    Neutral,
}

impl From<Blame> for Signal {
    fn from(blame: Blame) -> Self {
        match blame {
            Blame::Nobody => Self::Success,
            Blame::Target | Blame::Network => Self::Failure,
            Blame::Quota => Self::Limited,
            Blame::Caller | Blame::Credential | Blame::Departed => Self::Neutral,
        }
    }
}
