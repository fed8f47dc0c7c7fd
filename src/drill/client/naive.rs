//! One attempt a call: what code without any resilience does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::exchange::{Exchange, exchange};
use super::{CallPlan, Client, Ended, Endpoint, Wiring};
use crate::transport::Transport;

/// Makes one attempt with the SDK's timeout of 600 s.
#[derive(Debug)]
pub struct Naive {
    transport: Arc<dyn Transport>,
    endpoint: Endpoint,
    in_flight: Arc<AtomicUsize>,
}

impl Naive {
    /// A client on the drill's transport.
    #[must_use]
    pub fn new(wiring: &Wiring<'_>) -> Self {
        Self {
            transport: Arc::clone(&wiring.transport),
            endpoint: wiring.endpoint.clone(),
            in_flight: Arc::default(),
        }
    }
}

impl Client for Naive {
    fn call(&self, plan: CallPlan) -> BoxFuture<'static, Ended> {
        let transport = Arc::clone(&self.transport);
        let request = plan.request(&self.endpoint, plan.model());
        let counted = Counted::new(&self.in_flight);
        async move {
            let _counted = counted;
            match exchange(&*transport, request, plan.stream).await {
                Exchange::Answer(ended) => ended,
                Exchange::Status(..) => Ended::Failed { why: "status" },
                Exchange::Connection { why } => Ended::Failed { why },
            }
        }
        .boxed()
    }

    fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    fn drain(&self) -> BoxFuture<'static, ()> {
        ready(()).boxed()
    }
}

/// Counts one call until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
