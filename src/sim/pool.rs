//! Everything that one quota holds against a request: places, growth, and the buckets.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::buckets::{Buckets, Refused};
use super::ramp::Ramp;
use super::scenario::{Above, HeaderStyle, QuotaSettings};

/// One quota.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) style: HeaderStyle,
    pub(super) cache_reads_count: bool,
    pub(super) usual: Buckets,
    pub(super) fast: Option<Buckets>,
    ramp: Option<Ramp>,
    places: Option<(Above, Arc<Semaphore>)>,
}

/// A place among the requests that are answered at one time.
#[derive(Debug, Default)]
pub(super) enum Place {
    /// None is needed.
    #[default]
    Anywhere,
    /// To be waited for.
    Awaited(Arc<Semaphore>),
    /// Held until the end.
    Held {
        /// Gives the place back when it is dropped.
        _place: OwnedSemaphorePermit,
    },
}

impl Place {
    /// Waits for the place if there is one to wait for.
    pub(super) async fn taken(&mut self) {
        if let Self::Awaited(places) = self
            && let Ok(place) = Arc::clone(places).acquire_owned().await
        {
            *self = Self::Held { _place: place };
        }
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Over {
    /// A bucket is too low.
    Bucket(Refused),
    /// The rate grew too fast.
    Ramp(Duration),
    /// Too many requests are being answered.
    Concurrency,
    /// The same, where the provider calls it an overload.
    Capacity,
}

impl Pool {
    pub(super) fn new(settings: &QuotaSettings, now: Instant) -> Self {
        Self {
            style: settings.headers,
            cache_reads_count: settings.cache_reads_count,
            usual: Buckets::new(settings, now),
            fast: settings.fast_pool().map(|fast| Buckets::new(&fast, now)),
            ramp: settings.ramp.map(Ramp::new),
            places: settings.concurrency.map(|concurrency| {
                let most = usize::try_from(concurrency.limit).unwrap_or(Semaphore::MAX_PERMITS);
                (concurrency.above, Arc::new(Semaphore::new(most)))
            }),
        }
    }

    /// The buckets that a request of this speed is charged to.
    pub(super) const fn buckets(&mut self, fast: bool) -> &mut Buckets {
        match &mut self.fast {
            Some(buckets) if fast => buckets,
            _ => &mut self.usual,
        }
    }

    /// Admits one request of an estimated size, all or nothing.
    pub(super) fn admit(&mut self, input: u64, fast: bool, now: Instant) -> Result<Place, Over> {
        let place = self.place()?;
        if let Some(ramp) = &mut self.ramp {
            ramp.check(now).map_err(Over::Ramp)?;
        }
        self.buckets(fast).admit(input, now).map_err(Over::Bucket)?;
        if let Some(ramp) = &mut self.ramp {
            ramp.admitted(now);
        }
        Ok(place)
    }

    fn place(&self) -> Result<Place, Over> {
        let Some((above, places)) = &self.places else {
            return Ok(Place::Anywhere);
        };
        let free = Arc::clone(places).try_acquire_owned();
        match (free, above) {
            (Ok(place), _) => Ok(Place::Held { _place: place }),
            (Err(_), Above::Queued) => Ok(Place::Awaited(Arc::clone(places))),
            (Err(_), Above::Overloaded) => Err(Over::Capacity),
            (Err(_), Above::RateLimited) => Err(Over::Concurrency),
        }
    }
}
