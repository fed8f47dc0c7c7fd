//! Who asks in a drill: starts each call at its time and writes down how it ended.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::super::Scenario;
use super::super::client::{CallPlan, Client, Ended};
use super::super::load::Arrival;
use super::super::progress::Line;
use super::super::score::{CallRecord, RunCount};

/// How much longer than its deadline a call is given to say itself that it is over.
const GRACE: Duration = Duration::from_millis(250);

/// The callers of one drill and what they saw.
#[derive(Debug)]
pub(super) struct Callers {
    client: Arc<dyn Client>,
    scenario: Scenario,
    ladder: Arc<[String]>,
    start: Instant,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
pub(super) struct Seen {
    pub(super) calls: Vec<CallRecord>,
    pub(super) runs: RunCount,
    pub(super) line: Line,
    issued: u64,
}

impl Callers {
    /// Callers of `client` whose times count from `start`.
    pub(super) fn new(
        client: Arc<dyn Client>,
        scenario: &Scenario,
        start: Instant,
        line: Line,
    ) -> Arc<Self> {
        Arc::new(Self {
            client,
            scenario: scenario.clone(),
            ladder: scenario.models().cloned().collect(),
            start,
            seen: Mutex::new(Seen {
                calls: Vec::new(),
                runs: RunCount::default(),
                line,
                issued: 0,
            }),
        })
    }

    /// What they saw so far.
    pub(super) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock()
    }

    /// Starts every caller at its time and waits until the last has its end. Dropped, every caller
    /// leaves.
    pub(super) async fn come(self: Arc<Self>, arrivals: &[Arrival]) {
        let mut callers = JoinSet::new();
        for arrival in arrivals {
            sleep_until(self.start + arrival.at).await;
            callers.spawn(Arc::clone(&self).one(*arrival));
            while callers.try_join_next().is_some() {}
        }
        while callers.join_next().await.is_some() {}
    }

    async fn one(self: Arc<Self>, arrival: Arrival) {
        let runs = self.scenario.load.is_runs();
        for _ in 0..arrival.steps {
            if !self.call(&arrival, runs).await {
                self.seen.lock().runs.started += 1;
                return;
            }
        }
        let mut seen = self.seen.lock();
        seen.runs.started += 1;
        seen.runs.succeeded += 1;
    }

    /// Makes one call and says whether it succeeded.
    async fn call(&self, arrival: &Arrival, step: bool) -> bool {
        let issued = self.start.elapsed();
        let id = {
            let mut seen = self.seen.lock();
            seen.issued += 1;
            seen.line.asked(issued);
            seen.issued
        };
        let shape = self.scenario.request;
        let class = self.scenario.class(arrival);
        let deadline = class.map_or(self.scenario.deadline, |class| class.deadline);
        let plan = CallPlan {
            id,
            question: arrival.question,
            ladder: Arc::clone(&self.ladder),
            input_tokens: shape.input_tokens,
            max_tokens: shape.max_tokens,
            stream: shape.stream,
            profile: class.map(|class| class.profile),
            tenant: arrival.tenant,
            deadline,
        };
        let call = if step {
            self.client.run_step(plan)
        } else {
            self.client.call(plan)
        };
        let bound = deadline.saturating_add(GRACE);
        let mut end = timeout(bound, call)
            .await
            .unwrap_or(Ended::Failed { why: "deadline" });
        let ended = self.start.elapsed();
        if ended.saturating_sub(issued) > deadline {
            end = Ended::Failed { why: "deadline" };
        }
        let record = CallRecord {
            id,
            issued,
            ended,
            end,
            class: arrival.class,
            tenant: arrival.tenant,
        };
        let mut seen = self.seen.lock();
        seen.calls.push(record);
        seen.line.ended(ended, end);
        record.succeeded()
    }
}
