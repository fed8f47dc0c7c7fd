//! What an attempt costs, on each axis that a provider counts.

/// What one attempt takes from a quota.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Cost {
    /// Requests, usually 1.
    pub requests: u64,
    /// Input tokens that count against the limit.
    pub input: u64,
    /// Output tokens, expected or actual.
    pub output: u64,
}

impl Cost {
    /// Nothing.
    pub const ZERO: Self = Self {
        requests: 0,
        input: 0,
        output: 0,
    };

    /// The sum, axis by axis, up to the largest number.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            input: self.input.saturating_add(other.input),
            output: self.output.saturating_add(other.output),
        }
    }

    /// The difference, axis by axis, down to zero.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(other.requests),
            input: self.input.saturating_sub(other.input),
            output: self.output.saturating_sub(other.output),
        }
    }

    /// The part on one axis.
    #[must_use]
    pub const fn on(self, axis: Axis) -> u64 {
        match axis {
            Axis::Requests => self.requests,
            Axis::Input => self.input,
            Axis::Output => self.output,
        }
    }
}

/// What a provider counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Axis {
    /// Requests.
    Requests,
    /// Input tokens.
    Input,
    /// Output tokens.
    Output,
}

impl Axis {
    /// Every axis, in the order of [`Learned::axes`](super::Learned::axes) and
    /// [`QuotaView::axes`](super::QuotaView::axes).
    pub const ALL: [Self; 3] = [Self::Requests, Self::Input, Self::Output];

    /// Stable lower-case word for logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Input => "input",
            Self::Output => "output",
        }
    }

    pub(super) const fn index(self) -> usize {
        match self {
            Self::Requests => 0,
            Self::Input => 1,
            Self::Output => 2,
        }
    }
}
