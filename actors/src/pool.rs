//! The bounded pool of caller actors.
//!
//! A caller actor drives one call at a time. The call's future lives in a [`Job`] that its submitter
//! owns: when a caller dies, its submitter hands the same future, as far as it has come, to another
//! caller, so the attempt in flight goes on and nothing is sent twice. A submitter that leaves
//! closes its end; the caller drops the future at once, and with it the attempt.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use tokio::sync::{Semaphore, TryAcquireError, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::address::Direct;
use crate::error::{Rejected, Rejection};
use crate::gauge::Gauge;
use crate::snapshot::PoolSnapshot;

/// The callers of one system.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    idle: Mutex<Vec<Direct<CallerMessage>>>,
    /// A seat is the right to have a caller.
    seats: Semaphore,
    size: usize,
    waiting: AtomicUsize,
    waiting_bound: usize,
    alive: AtomicUsize,
    in_flight: Gauge,
    hire: Hire,
}

/// Starts one more caller under the pool's supervisor.
pub(crate) type Hire =
    Box<dyn Fn(Pool) -> BoxFuture<'static, Result<Direct<CallerMessage>, Rejected>> + Send + Sync>;

#[derive(Debug)]
pub(crate) enum CallerMessage {
    Run { job: Job, done: oneshot::Sender<()> },
}

/// A call's future, wherever it is being driven.
#[derive(Clone)]
pub(crate) struct Job(Arc<Mutex<Work>>);

struct Work {
    future: Option<BoxFuture<'static, ()>>,
    /// Set while the future is being polled; still set afterwards if it panicked.
    polling: bool,
}

impl Pool {
    pub(crate) fn new(size: usize, waiting_bound: usize, in_flight: Gauge, hire: Hire) -> Self {
        Self {
            shared: Arc::new(Shared {
                idle: Mutex::new(Vec::new()),
                seats: Semaphore::new(size),
                size,
                waiting: AtomicUsize::new(0),
                waiting_bound,
                alive: AtomicUsize::new(0),
                in_flight,
                hire,
            }),
        }
    }

    /// Has a caller drive `future` to its end, waiting for one until `deadline`.
    ///
    /// `Ok(None)` when the future panicked. Dropping this drops the future.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
        deadline: Instant,
    ) -> impl Future<Output = Result<Option<T>, Rejected>> + Send {
        // Boxed before the first wait: a call's future is large, and so it is moved only once. Awaited in
        // an async block it would stand there twice.
        let (answer, mut answered) = oneshot::channel();
        let job = Job::new(Box::pin(future.map(|result| {
            // Err means that the submitter has left.
            drop(answer.send(result));
        })));
        async move {
            let _seat = self.seat(deadline).await?;
            loop {
                let idle = self.shared.idle.lock().pop();
                let caller = match idle {
                    Some(caller) => caller,
                    None => (self.shared.hire)(self.clone()).await?,
                };
                let (done, ended) = oneshot::channel();
                if !caller.hand(CallerMessage::Run {
                    job: job.clone(),
                    done,
                }) {
                    continue;
                }
                if ended.await.is_ok() || job.is_broken() {
                    return Ok(answered.try_recv().ok());
                }
            }
        }
    }

    async fn seat(&self, deadline: Instant) -> Result<tokio::sync::SemaphorePermit<'_>, Rejected> {
        match self.shared.seats.try_acquire() {
            Ok(seat) => return Ok(seat),
            Err(TryAcquireError::Closed) => return Err(Rejected::new(Rejection::Stopped)),
            Err(TryAcquireError::NoPermits) => {}
        }
        let _place = Place::take(&self.shared)?;
        match timeout_at(deadline, self.shared.seats.acquire()).await {
            Ok(Ok(seat)) => Ok(seat),
            Ok(Err(_)) => Err(Rejected::new(Rejection::Stopped)),
            Err(_) => Err(Rejected::new(Rejection::DeadlinePassed)),
        }
    }

    /// Refuses calls from here on, also those that wait for a caller.
    pub(crate) fn close(&self) {
        self.shared.seats.close();
    }

    /// The actor of one more caller.
    pub(crate) fn caller(&self) -> Caller {
        Caller { pool: self.clone() }
    }

    pub(crate) fn snapshot(&self) -> PoolSnapshot {
        let shared = &self.shared;
        PoolSnapshot {
            callers: shared.alive.load(Ordering::Relaxed),
            running: shared.size.saturating_sub(shared.seats.available_permits()),
            waiting: shared.waiting.load(Ordering::Relaxed),
            in_flight: shared.in_flight.count(),
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// A place among those who wait for a caller, given back on drop.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(shared: &'a Shared) -> Result<Self, Rejected> {
        if shared.waiting.fetch_add(1, Ordering::Relaxed) >= shared.waiting_bound {
            shared.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Rejected::new(Rejection::QueueFull));
        }
        Ok(Self(&shared.waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Job {
    fn new(future: BoxFuture<'static, ()>) -> Self {
        Self(Arc::new(Mutex::new(Work {
            future: Some(future),
            polling: false,
        })))
    }

    /// Polls the future, which is dropped at its end.
    fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut work = self.0.lock();
        work.polling = true;
        let polled = match work.future.as_mut() {
            Some(future) => Pin::new(future).poll(cx),
            None => Poll::Ready(()),
        };
        work.polling = false;
        if polled.is_ready() {
            work.future = None;
        }
        polled
    }

    /// Whether the future panicked: it can't be driven any further.
    fn is_broken(&self) -> bool {
        self.0.lock().polling
    }

    fn abandon(&self) {
        let future = self.0.lock().future.take();
        drop(future);
    }
}

impl fmt::Debug for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Job")
    }
}

/// A caller: drives one call at a time.
#[derive(Debug)]
pub(crate) struct Caller {
    pool: Pool,
}

/// Counts a caller while it lives, however it ends.
#[derive(Debug)]
pub(crate) struct Alive(Pool);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.shared.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Actor for Caller {
    type Msg = CallerMessage;
    type State = Alive;
    type Arguments = ();

    async fn pre_start(
        &self,
        _myself: ActorRef<CallerMessage>,
        (): (),
    ) -> Result<Alive, ActorProcessingErr> {
        self.pool.shared.alive.fetch_add(1, Ordering::Relaxed);
        Ok(Alive(self.pool.clone()))
    }

    async fn handle(
        &self,
        myself: ActorRef<CallerMessage>,
        message: CallerMessage,
        _alive: &mut Alive,
    ) -> Result<(), ActorProcessingErr> {
        let CallerMessage::Run { job, mut done } = message;
        let finished = tokio::select! {
            biased;
            () = poll_fn(|cx| job.poll(cx)) => true,
            () = done.closed() => false,
        };
        if !finished {
            job.abandon();
        }
        self.pool.shared.idle.lock().push(Direct::new(myself));
        if finished {
            done.send(())
                .unwrap_or_else(|()| tracing::trace!("submitter left"));
        }
        Ok(())
    }
}
