//! Situations of a supervisor, in paused time, with real actors.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_util::FutureExt;
use ractor::{ActorProcessingErr, ActorRef};
use tokio::time::{Duration, Instant, sleep, timeout};

use super::*;

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What a test child does when told.
#[derive(Debug)]
enum Do {
    Panic,
    Fail,
    Stop,
    Work(Duration),
    Note(&'static str),
}

/// How the next incarnations of a child behave.
#[derive(Debug, Clone, Copy, Default)]
struct Fate {
    pre_start_takes: Duration,
    post_stop_takes: Duration,
    fails_pre_start: bool,
    fails_post_start: bool,
}

/// Shared eyes of a test: what happened, in order, and who is up.
#[derive(Clone, Default)]
struct Lab {
    log: Arc<Mutex<Vec<String>>>,
    up: Arc<Mutex<HashMap<String, ActorRef<Do>>>>,
    fates: Arc<Mutex<HashMap<String, Fate>>>,
    events: Arc<Mutex<Vec<SupervisorEvent>>>,
}

impl Lab {
    fn child(&self, name: &str) -> ChildSpec {
        let (lab, own) = (self.clone(), name.to_owned());
        let (seen, published) = (self.clone(), name.to_owned());
        ChildSpec::with_on_start(
            name,
            move || (Probe, (own.clone(), lab.clone())),
            move |actor| {
                seen.up.lock().insert(published.clone(), actor.clone());
            },
        )
    }

    fn settings(&self, strategy: Strategy) -> SupervisorSettings {
        let events = Arc::clone(&self.events);
        SupervisorSettings::new("tested")
            .strategy(strategy)
            .seed(7)
            .on_event(move |event| events.lock().push(event.clone()))
    }

    async fn start(&self, strategy: Strategy, names: &[&str]) -> Supervisor {
        let children = names.iter().map(|name| self.child(name)).collect();
        Supervisor::start(self.settings(strategy), children)
            .await
            .expect("all children start")
    }

    fn fate(&self, name: &str, fate: Fate) {
        self.fates.lock().insert(name.to_owned(), fate);
    }

    fn tell(&self, name: &str, what: Do) {
        let actor = self.up.lock().get(name).cloned().expect("published");
        actor.cast(what).expect("alive");
    }

    fn kill(&self, name: &str) {
        self.up.lock().get(name).expect("published").kill();
    }

    fn note(&self, text: String) {
        self.log.lock().push(text);
    }

    fn log(&self) -> Vec<String> {
        mem_take(&self.log)
    }

    /// The log without the drops: at its own end a supervisor keeps the states of its children.
    fn told(&self) -> Vec<String> {
        self.log()
            .into_iter()
            .filter(|line| !line.ends_with("dropped"))
            .collect()
    }

    fn downs(&self) -> Vec<String> {
        self.log()
            .into_iter()
            .filter(|line| line.ends_with("down"))
            .collect()
    }

    fn count(&self, text: &str) -> usize {
        self.log.lock().iter().filter(|line| *line == text).count()
    }
}

fn mem_take<T>(list: &Mutex<Vec<T>>) -> Vec<T> {
    std::mem::take(&mut *list.lock())
}

struct Probe;

struct ProbeState {
    name: String,
    lab: Lab,
}

impl Drop for ProbeState {
    fn drop(&mut self) {
        self.lab.note(format!("{} dropped", self.name));
    }
}

impl Actor for Probe {
    type Msg = Do;
    type State = ProbeState;
    type Arguments = (String, Lab);

    async fn pre_start(
        &self,
        _: ActorRef<Do>,
        (name, lab): (String, Lab),
    ) -> Result<ProbeState, ActorProcessingErr> {
        let fate = lab.fates.lock().get(&name).copied().unwrap_or_default();
        sleep(fate.pre_start_takes).await;
        if fate.fails_pre_start {
            lab.note(format!("{name} refused"));
            return Err("no such file".into());
        }
        lab.note(format!("{name} up"));
        Ok(ProbeState { name, lab })
    }

    async fn post_start(
        &self,
        _: ActorRef<Do>,
        s: &mut ProbeState,
    ) -> Result<(), ActorProcessingErr> {
        let fate = s.lab.fates.lock().get(&s.name).copied().unwrap_or_default();
        if fate.fails_post_start {
            Err("always".into())
        } else {
            Ok(())
        }
    }

    async fn handle(
        &self,
        myself: ActorRef<Do>,
        what: Do,
        s: &mut ProbeState,
    ) -> Result<(), ActorProcessingErr> {
        match what {
            Do::Panic => panic!("told to panic"),
            Do::Fail => return Err("told to fail".into()),
            Do::Stop => myself.stop(None),
            Do::Work(time) => sleep(time).await,
            Do::Note(text) => s.lab.note(format!("{} {text}", s.name)),
        }
        Ok(())
    }

    async fn post_stop(
        &self,
        _: ActorRef<Do>,
        s: &mut ProbeState,
    ) -> Result<(), ActorProcessingErr> {
        let fate = s.lab.fates.lock().get(&s.name).copied().unwrap_or_default();
        sleep(fate.post_stop_takes).await;
        s.lab.note(format!("{} down", s.name));
        Ok(())
    }
}

async fn status(supervisor: &Supervisor, name: &str) -> ChildStatus {
    let children = supervisor.children().await.expect("alive");
    children
        .into_iter()
        .find(|child| child.name == name)
        .expect("known")
}

/// Waits, at most a virtual minute, until the children look as asked.
async fn until(supervisor: &Supervisor, wanted: impl Fn(&[ChildStatus]) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let children = supervisor.children().await.expect("alive");
        if wanted(&children) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "children never looked as expected: {children:?}"
        );
        sleep(ms(1)).await;
    }
}

async fn until_started(supervisor: &Supervisor, name: &str, starts: u64) {
    until(supervisor, |children| {
        children.iter().any(|child| {
            child.name == name && child.starts == starts && child.state == ChildState::Running
        })
    })
    .await;
}

fn starts(children: &[ChildStatus]) -> Vec<u64> {
    children.iter().map(|child| child.starts).collect()
}

fn all_running(children: &[ChildStatus]) -> bool {
    children
        .iter()
        .all(|child| child.state == ChildState::Running)
}

/// No failure is too many, and all are answered quickly.
const PATIENT: Intensity = Intensity {
    restarts: 50,
    within: Duration::from_secs(30),
    backoff: Duration::from_millis(50),
    backoff_cap: Duration::from_secs(5),
};

#[tokio::test(start_paused = true)]
async fn trap_56_a_child_terminated_during_its_backoff_does_not_come_back() {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::OneForOne, &["a", "b"]).await;
    lab.tell("a", Do::Panic);
    until_started(&supervisor, "a", 2).await;
    lab.tell("a", Do::Panic);
    until(&supervisor, |children| {
        children[0].state == ChildState::Waiting
    })
    .await;
    supervisor.terminate_child("a").await.expect("known");
    sleep(Duration::from_secs(60)).await;
    let a = status(&supervisor, "a").await;
    assert_eq!((a.state, a.starts), (ChildState::Ended, 2));
    assert_eq!(lab.count("a up"), 2);
    assert_eq!(status(&supervisor, "b").await.state, ChildState::Running);
}

#[tokio::test(start_paused = true)]
async fn trap_56_a_name_reused_during_a_backoff_belongs_to_the_new_child_alone() {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::OneForOne, &["sibling"]).await;
    supervisor
        .start_child(lab.child("slot"))
        .await
        .expect("starts");
    lab.tell("slot", Do::Panic);
    until_started(&supervisor, "slot", 2).await;
    lab.tell("slot", Do::Panic);
    until(&supervisor, |children| {
        children[1].state == ChildState::Waiting
    })
    .await;
    supervisor.remove_child("slot").await.expect("known");
    supervisor
        .start_child(lab.child("slot"))
        .await
        .expect("the name is free");
    sleep(Duration::from_secs(60)).await;
    let slot = status(&supervisor, "slot").await;
    assert_eq!(
        (slot.state, slot.starts, slot.restarts),
        (ChildState::Running, 1, 0)
    );
    assert_eq!(lab.count("slot up"), 3);
    assert_eq!(status(&supervisor, "sibling").await.starts, 1);
}

#[tokio::test(start_paused = true)]
async fn trap_56_four_children_that_crash_together_are_restarted_together_once() {
    let lab = Lab::default();
    let names = ["a", "b", "c", "d"];
    let supervisor = lab.start(Strategy::OneForAll, &names).await;
    for name in names {
        lab.tell(name, Do::Panic);
    }
    until(&supervisor, |children| {
        all_running(children) && children[0].starts > 1
    })
    .await;
    sleep(Duration::from_secs(60)).await;
    let children = supervisor.children().await.expect("alive");
    assert_eq!(starts(&children), [2, 2, 2, 2]);
    assert_eq!(children.iter().map(|child| child.restarts).sum::<u64>(), 1);
}

async fn one_for_all_with_a_sibling_busy_for(busy: Duration) {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::OneForAll, &["a", "b", "c"]).await;
    lab.log();
    lab.tell("b", Do::Work(busy));
    sleep(ms(1)).await;
    lab.tell("a", Do::Panic);
    until(&supervisor, |children| {
        all_running(children) && children[0].starts > 1
    })
    .await;
    let expected = [
        "a dropped",
        "c down",
        "c dropped",
        "b down",
        "b dropped",
        "a up",
        "b up",
        "c up",
    ];
    assert_eq!(lab.log(), expected);
    sleep(Duration::from_secs(60)).await;
    let children = supervisor.children().await.expect("alive");
    assert_eq!(starts(&children), [2, 2, 2]);
    assert!(all_running(&children));
}

#[tokio::test(start_paused = true)]
async fn trap_56_one_for_all_waits_for_a_sibling_30_ms_in_its_handler() {
    one_for_all_with_a_sibling_busy_for(ms(30)).await;
}

#[tokio::test(start_paused = true)]
async fn trap_56_one_for_all_survives_a_sibling_busy_for_seconds() {
    one_for_all_with_a_sibling_busy_for(ms(100)).await;
    one_for_all_with_a_sibling_busy_for(ms(4_000)).await;
}

#[tokio::test(start_paused = true)]
async fn trap_56_shutdown_runs_every_post_stop_in_reverse_start_order() {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::OneForOne, &["a", "b", "c"]).await;
    // The last is the slowest: a parallel shutdown would end it last.
    lab.fate(
        "c",
        Fate {
            post_stop_takes: ms(300),
            ..Fate::default()
        },
    );
    lab.fate(
        "b",
        Fate {
            post_stop_takes: ms(200),
            ..Fate::default()
        },
    );
    lab.log();
    assert_eq!(supervisor.stop("test over").await, Ended::Stopped);
    assert_eq!(lab.downs(), ["c down", "b down", "a down"]);
    assert_eq!(supervisor.children().await, Err(ChildError::Ended));
    assert_eq!(supervisor.wait().await, Ended::Stopped);
    assert_eq!(supervisor.stop("again").await, Ended::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_child_that_outlives_its_limit_is_killed_and_the_others_still_stop_in_order() {
    let lab = Lab::default();
    let children = vec![
        lab.child("a"),
        lab.child("stuck").shutdown(Shutdown::Graceful(ms(100))),
        lab.child("c"),
    ];
    let settings = lab.settings(Strategy::OneForOne);
    let supervisor = Supervisor::start(settings, children).await.expect("starts");
    lab.tell("stuck", Do::Work(Duration::from_secs(3600)));
    sleep(ms(1)).await;
    lab.log();
    let begun = Instant::now();
    assert_eq!(supervisor.stop("test over").await, Ended::Stopped);
    assert!(
        (ms(100)..ms(110)).contains(&begun.elapsed()),
        "took {:?}",
        begun.elapsed()
    );
    assert_eq!(lab.downs(), ["c down", "a down"]);
    let stuck = lab.events.lock().iter().any(|event| {
        *event
            == SupervisorEvent::ChildExited {
                name: "stuck".into(),
                exit: Exit::Killed,
            }
    });
    assert!(stuck);
}

#[tokio::test(start_paused = true)]
async fn terminating_a_stuck_child_leaves_the_supervisor_answering() {
    let lab = Lab::default();
    let children = vec![
        lab.child("stuck").shutdown(Shutdown::Graceful(ms(500))),
        lab.child("other"),
    ];
    let settings = lab.settings(Strategy::OneForOne);
    let supervisor = Supervisor::start(settings, children).await.expect("starts");
    lab.tell("stuck", Do::Work(Duration::from_secs(3600)));
    sleep(ms(1)).await;
    let begun = Instant::now();
    let handle = supervisor.clone();
    let asked = async move { handle.terminate_child("stuck").await };
    let watched = async {
        sleep(ms(100)).await;
        assert_eq!(
            status(&supervisor, "stuck").await.state,
            ChildState::Stopping
        );
        lab.tell("other", Do::Panic);
        until_started(&supervisor, "other", 2).await;
        assert!(begun.elapsed() < ms(110));
    };
    let (terminated, ()) = tokio::join!(asked, watched);
    terminated.expect("known");
    assert!((ms(500)..ms(510)).contains(&begun.elapsed()));
    let stuck = status(&supervisor, "stuck").await;
    assert_eq!(
        (stuck.state, stuck.last_exit),
        (ChildState::Ended, Some(Exit::Killed))
    );
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_zero_and_a_limit_beyond_the_clock_are_both_kept() {
    let lab = Lab::default();
    let children = vec![
        lab.child("endless")
            .shutdown(Shutdown::Graceful(Duration::MAX)),
        lab.child("zero")
            .shutdown(Shutdown::Graceful(Duration::ZERO)),
    ];
    let settings = lab.settings(Strategy::OneForOne);
    let supervisor = Supervisor::start(settings, children).await.expect("starts");
    lab.tell("endless", Do::Work(Duration::from_secs(86_400)));
    lab.tell("zero", Do::Work(Duration::from_secs(86_400)));
    sleep(ms(1)).await;
    let begun = Instant::now();
    supervisor.terminate_child("zero").await.expect("known");
    assert!(begun.elapsed() < ms(5));
    supervisor.terminate_child("endless").await.expect("known");
    assert!(begun.elapsed() > Duration::from_secs(86_000));
    assert_eq!(lab.count("endless down"), 1);
    assert_eq!(lab.count("zero down"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_drained_child_handles_what_is_queued_before_it_ends() {
    let lab = Lab::default();
    let children = vec![
        lab.child("a")
            .shutdown(Shutdown::Drain(Duration::from_secs(5))),
    ];
    let settings = lab.settings(Strategy::OneForOne);
    let supervisor = Supervisor::start(settings, children).await.expect("starts");
    lab.log();
    lab.tell("a", Do::Work(ms(50)));
    lab.tell("a", Do::Note("did the queued work"));
    supervisor.stop("test over").await;
    assert_eq!(lab.log(), ["a did the queued work", "a down", "a dropped"]);
}

#[tokio::test(start_paused = true)]
async fn restart_kinds_answer_each_kind_of_end() {
    for (kind, end, expected) in [
        (RestartKind::Permanent, Do::Stop, Some(2)),
        (RestartKind::Permanent, Do::Panic, Some(2)),
        (RestartKind::Permanent, Do::Work(ms(100)), Some(2)),
        (RestartKind::Transient, Do::Stop, Some(1)),
        (RestartKind::Transient, Do::Fail, Some(2)),
        (RestartKind::Transient, Do::Panic, Some(2)),
        (RestartKind::Transient, Do::Work(ms(100)), Some(2)),
        (RestartKind::Temporary, Do::Stop, None),
        (RestartKind::Temporary, Do::Panic, None),
        (RestartKind::Temporary, Do::Work(ms(100)), None),
    ] {
        let lab = Lab::default();
        let children = vec![lab.child("a").restart(kind)];
        let settings = lab.settings(Strategy::OneForOne);
        let supervisor = Supervisor::start(settings, children).await.expect("starts");
        let situation = format!("{kind:?} child, {end:?}");
        // Work stands for a handler that is killed at its await.
        let killed = matches!(end, Do::Work(_));
        lab.tell("a", end);
        sleep(ms(1)).await;
        if killed {
            lab.kill("a");
        }
        sleep(Duration::from_secs(1)).await;
        let children = supervisor.children().await.expect("alive");
        assert_eq!(
            children.first().map(|child| child.starts),
            expected,
            "{situation}"
        );
        let exited = lab.events.lock().iter().find_map(|event| match event {
            SupervisorEvent::ChildExited { exit, .. } => Some(exit.clone()),
            _ => None,
        });
        assert_eq!(
            exited == Some(Exit::Killed),
            killed,
            "{situation}: {exited:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_transient_child_that_ended_well_is_started_again_by_name() {
    let lab = Lab::default();
    let children = vec![lab.child("a").restart(RestartKind::Transient)];
    let settings = lab.settings(Strategy::OneForOne);
    let supervisor = Supervisor::start(settings, children).await.expect("starts");
    lab.tell("a", Do::Stop);
    until(&supervisor, |children| {
        children[0].state == ChildState::Ended
    })
    .await;
    supervisor.restart_child("a").await.expect("starts");
    let a = status(&supervisor, "a").await;
    assert_eq!((a.state, a.starts, a.restarts), (ChildState::Running, 2, 0));
    assert_eq!(a.last_exit, Some(Exit::Stopped(None)));
}

/// Starts of a leaf that always crashes under `depth` supervisors that bear `restarts` failures.
async fn starts_before_the_root_fails(depth: u32, restarts: u32) -> usize {
    let lab = Lab::default();
    lab.fate(
        "leaf",
        Fate {
            fails_post_start: true,
            ..Fate::default()
        },
    );
    let intensity = Intensity {
        restarts,
        within: Duration::from_secs(3600),
        ..Intensity::default()
    };
    let mut child = lab.child("leaf").intensity(intensity);
    for _ in 1..depth {
        let settings = SupervisorSettings::new("inner");
        child = ChildSpec::supervisor("inner", settings, vec![child]).intensity(intensity);
    }
    let root = Supervisor::start(lab.settings(Strategy::OneForOne), vec![child]);
    let root = root.await.expect("the first start succeeds");
    let ended = timeout(Duration::from_secs(3600), root.wait())
        .await
        .expect("the root ends");
    assert!(matches!(ended, Ended::Failed(_)), "{ended:?}");
    let gave_up = |event: &SupervisorEvent| matches!(event, SupervisorEvent::GaveUp { .. });
    assert_eq!(
        lab.events
            .lock()
            .iter()
            .filter(|event| gave_up(event))
            .count(),
        1
    );
    lab.count("leaf up")
}

#[tokio::test(start_paused = true)]
async fn a_leaf_that_always_crashes_is_started_once_more_than_allowed_per_level() {
    for restarts in [0, 1, 3, 5] {
        let per_level = usize::try_from(restarts + 1).expect("small");
        assert_eq!(starts_before_the_root_fails(1, restarts).await, per_level);
        assert_eq!(
            starts_before_the_root_fails(2, restarts).await,
            per_level.pow(2)
        );
    }
    assert_eq!(starts_before_the_root_fails(3, 2).await, 27);
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_gives_up_first_stops_the_siblings_in_order() {
    let lab = Lab::default();
    let none = Intensity {
        restarts: 0,
        ..Intensity::default()
    };
    let children = vec![
        lab.child("a"),
        lab.child("bad").intensity(none),
        lab.child("c"),
    ];
    let settings = lab.settings(Strategy::OneForOne);
    let supervisor = Supervisor::start(settings, children).await.expect("starts");
    lab.log();
    lab.tell("bad", Do::Panic);
    let ended = supervisor.wait().await;
    let Ended::Failed(reason) = ended else {
        panic!("ended as {ended:?}")
    };
    assert!(
        reason.contains("bad") && reason.contains("told to panic"),
        "{reason}"
    );
    assert_eq!(lab.told(), ["c down", "a down"]);
}

#[tokio::test(start_paused = true)]
async fn trap_54_children_spend_only_their_own_restarts() {
    let lab = Lab::default();
    let names = ["a", "b", "c"];
    let two = Intensity {
        restarts: 2,
        ..Intensity::default()
    };
    let children = names
        .iter()
        .map(|name| lab.child(name).intensity(two))
        .collect();
    let settings = lab.settings(Strategy::OneForOne);
    let supervisor = Supervisor::start(settings, children).await.expect("starts");
    for round in 2..=3 {
        for name in names {
            lab.tell(name, Do::Panic);
            until_started(&supervisor, name, round).await;
        }
    }
    assert_eq!(
        starts(&supervisor.children().await.expect("alive")),
        [3, 3, 3]
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_storm_is_bounded_and_its_backoff_never_exceeds_the_cap() {
    let lab = Lab::default();
    lab.fate(
        "a",
        Fate {
            fails_post_start: true,
            ..Fate::default()
        },
    );
    let cap = ms(400);
    let intensity = Intensity {
        restarts: 20,
        backoff_cap: cap,
        ..PATIENT
    };
    let children = vec![lab.child("a").intensity(intensity)];
    let settings = lab.settings(Strategy::OneForOne);
    let begun = Instant::now();
    let supervisor = Supervisor::start(settings, children).await.expect("starts");
    supervisor.wait().await;
    assert_eq!(lab.count("a up"), 21);
    let delays: Vec<Duration> = lab
        .events
        .lock()
        .iter()
        .filter_map(|event| match event {
            SupervisorEvent::Restarting { after, .. } => Some(*after),
            _ => None,
        })
        .collect();
    assert_eq!(delays.len(), 20);
    assert_eq!(delays[0], Duration::ZERO);
    assert!(
        delays
            .iter()
            .skip(1)
            .all(|delay| (ms(25)..=cap).contains(delay)),
        "{delays:?}"
    );
    assert!(begun.elapsed() >= delays.iter().sum());
}

#[tokio::test(start_paused = true)]
async fn failures_outside_the_window_never_add_up() {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::OneForOne, &["a"]).await;
    for start in 2..=40 {
        sleep(Duration::from_secs(10)).await;
        lab.tell("a", Do::Panic);
        until_started(&supervisor, "a", start).await;
    }
}

#[tokio::test(start_paused = true)]
async fn rest_for_one_restarts_the_later_children_in_order_and_no_other() {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::RestForOne, &["a", "b", "c", "d"]).await;
    lab.log();
    lab.tell("b", Do::Panic);
    until(&supervisor, |children| {
        starts(children) == [1, 2, 2, 2] && all_running(children)
    })
    .await;
    assert_eq!(lab.told(), ["d down", "c down", "b up", "c up", "d up"]);
}

#[tokio::test(start_paused = true)]
async fn siblings_go_down_one_at_a_time_and_come_up_each_after_the_one_before() {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::OneForAll, &["a", "b", "c"]).await;
    lab.fate(
        "c",
        Fate {
            post_stop_takes: ms(200),
            ..Fate::default()
        },
    );
    lab.fate(
        "a",
        Fate {
            pre_start_takes: ms(300),
            ..Fate::default()
        },
    );
    lab.log();
    let begun = Instant::now();
    lab.tell("a", Do::Panic);
    sleep(ms(100)).await;
    assert_eq!(status(&supervisor, "b").await.state, ChildState::Running);
    until(&supervisor, |children| starts(children) == [2, 2, 2]).await;
    assert_eq!(lab.told(), ["c down", "b down", "a up", "b up", "c up"]);
    assert!(
        (ms(500)..ms(520)).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn siblings_restarted_together_share_the_backoff_of_the_one_that_failed() {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::OneForAll, &["a", "b"]).await;
    lab.tell("b", Do::Panic);
    until(&supervisor, |children| {
        starts(children) == [2, 2] && all_running(children)
    })
    .await;
    let begun = Instant::now();
    lab.tell("b", Do::Panic);
    sleep(ms(20)).await;
    let waiting = |child: &ChildStatus| child.state == ChildState::Waiting;
    assert!(
        supervisor
            .children()
            .await
            .expect("alive")
            .iter()
            .all(waiting)
    );
    until(&supervisor, |children| children[0].starts == 3).await;
    assert!(
        (ms(25)..=ms(55)).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn an_earlier_child_that_fails_during_a_recovery_joins_it() {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::RestForOne, &["a", "b", "c"]).await;
    lab.tell("c", Do::Work(ms(200)));
    sleep(ms(1)).await;
    lab.tell("b", Do::Panic);
    sleep(ms(50)).await;
    lab.log();
    lab.tell("a", Do::Panic);
    until(&supervisor, |children| {
        all_running(children) && children[2].starts > 1
    })
    .await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(
        starts(&supervisor.children().await.expect("alive")),
        [2, 2, 2]
    );
    let ups: Vec<_> = lab
        .log()
        .into_iter()
        .filter(|line| line.ends_with("up"))
        .collect();
    assert_eq!(ups, ["a up", "b up", "c up"]);
}

#[tokio::test(start_paused = true)]
async fn a_terminated_child_stays_down_when_its_siblings_are_restarted() {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::OneForAll, &["a", "b", "c"]).await;
    supervisor.terminate_child("b").await.expect("known");
    lab.tell("a", Do::Panic);
    until(&supervisor, |children| starts(children) == [2, 1, 2]).await;
    assert_eq!(status(&supervisor, "b").await.state, ChildState::Ended);
}

#[tokio::test(start_paused = true)]
async fn a_temporary_sibling_goes_down_with_the_others_and_is_forgotten() {
    let lab = Lab::default();
    let children = vec![
        lab.child("a"),
        lab.child("t").restart(RestartKind::Temporary),
    ];
    let settings = lab.settings(Strategy::OneForAll);
    let supervisor = Supervisor::start(settings, children).await.expect("starts");
    lab.tell("a", Do::Panic);
    until_started(&supervisor, "a", 2).await;
    assert_eq!(starts(&supervisor.children().await.expect("alive")), [2]);
    assert_eq!(lab.count("t down"), 1);
}

fn significant(lab: &Lab, name: &str) -> ChildSpec {
    lab.child(name)
        .restart(RestartKind::Transient)
        .significant()
}

#[tokio::test(start_paused = true)]
async fn the_end_of_any_significant_child_stops_the_supervisor_in_order() {
    let lab = Lab::default();
    let settings = lab
        .settings(Strategy::OneForOne)
        .auto_shutdown(AutoShutdown::AnySignificant);
    let children = vec![
        lab.child("a"),
        significant(&lab, "s"),
        significant(&lab, "t"),
    ];
    let supervisor = Supervisor::start(settings, children).await.expect("starts");
    lab.tell("s", Do::Panic);
    until_started(&supervisor, "s", 2).await;
    lab.log();
    lab.tell("s", Do::Stop);
    assert_eq!(supervisor.wait().await, Ended::Stopped);
    assert_eq!(lab.downs(), ["s down", "t down", "a down"]);
}

#[tokio::test(start_paused = true)]
async fn all_significant_children_have_to_end_by_themselves_where_it_says_so() {
    let lab = Lab::default();
    let settings = lab
        .settings(Strategy::OneForOne)
        .auto_shutdown(AutoShutdown::AllSignificant);
    let temporary = lab.child("t").restart(RestartKind::Temporary).significant();
    let children = vec![lab.child("a"), significant(&lab, "s"), temporary];
    let supervisor = Supervisor::start(settings, children).await.expect("starts");
    lab.tell("t", Do::Panic);
    until(&supervisor, |children| children.len() == 2).await;
    supervisor.terminate_child("s").await.expect("known");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(status(&supervisor, "a").await.state, ChildState::Running);
    supervisor.restart_child("s").await.expect("starts");
    lab.tell("s", Do::Stop);
    assert_eq!(supervisor.wait().await, Ended::Stopped);
}

#[tokio::test(start_paused = true)]
async fn contradictory_specifications_are_refused_before_anything_starts() {
    let lab = Lab::default();
    let any = lab
        .settings(Strategy::OneForOne)
        .auto_shutdown(AutoShutdown::AnySignificant);
    let never = lab.settings(Strategy::OneForOne);
    let cases = [
        (never.clone(), vec![lab.child("a"), lab.child("a")]),
        (any, vec![lab.child("b"), lab.child("a").significant()]),
        (never.clone(), vec![lab.child("b"), significant(&lab, "a")]),
        (
            never,
            vec![lab.child("a").intensity(Intensity {
                within: Duration::ZERO,
                ..PATIENT
            })],
        ),
    ];
    for (settings, children) in cases {
        let refused = Supervisor::start(settings, children)
            .await
            .expect_err("refused");
        assert!(
            matches!(&refused, StartError::Invalid { name, .. } if name == "a"),
            "{refused}"
        );
    }
    assert_eq!(lab.log(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_first_start_that_fails_takes_back_the_children_before_it() {
    let lab = Lab::default();
    lab.fate(
        "c",
        Fate {
            fails_pre_start: true,
            ..Fate::default()
        },
    );
    let children = ["a", "b", "c", "d"].map(|name| lab.child(name)).to_vec();
    let failed = Supervisor::start(lab.settings(Strategy::OneForOne), children).await;
    let expected = StartError::NotStarted {
        name: "c".into(),
        reason: "no such file".into(),
    };
    assert_eq!(failed.err(), Some(expected));
    assert_eq!(
        lab.told(),
        ["a up", "b up", "c refused", "b down", "a down"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_restart_that_fails_in_pre_start_counts_and_is_tried_again() {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::OneForOne, &["a", "b"]).await;
    lab.fate(
        "a",
        Fate {
            fails_pre_start: true,
            ..Fate::default()
        },
    );
    lab.tell("a", Do::Panic);
    until(&supervisor, |children| children[0].restarts == 3).await;
    lab.fate("a", Fate::default());
    until_started(&supervisor, "a", 2).await;
    assert_eq!(lab.count("a refused"), 2);

    lab.fate(
        "a",
        Fate {
            fails_pre_start: true,
            ..Fate::default()
        },
    );
    lab.tell("a", Do::Panic);
    assert!(matches!(supervisor.wait().await, Ended::Failed(_)));
    assert_eq!(lab.count("b down"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_start_blocks_nobody_and_can_be_ended() {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::OneForOne, &["slow", "b"]).await;
    lab.fate(
        "slow",
        Fate {
            pre_start_takes: Duration::from_secs(3600),
            ..Fate::default()
        },
    );
    lab.tell("slow", Do::Panic);
    until(&supervisor, |children| {
        children[0].state == ChildState::Starting
    })
    .await;
    let begun = Instant::now();
    lab.tell("b", Do::Panic);
    until_started(&supervisor, "b", 2).await;
    assert!(begun.elapsed() < ms(10));
    supervisor.terminate_child("slow").await.expect("known");
    let limit = Duration::from_secs(5);
    assert!(
        (limit..limit + ms(20)).contains(&begun.elapsed()),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(lab.count("slow up"), 1);
    assert_eq!(supervisor.stop("test over").await, Ended::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gave_up_kills_nobody() {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::OneForOne, &["a", "b"]).await;
    // Gone before the supervisor reads: nothing happens.
    assert_eq!(supervisor.terminate_child("a").now_or_never(), None);
    assert_eq!(supervisor.remove_child("a").now_or_never(), None);
    assert_eq!(supervisor.restart_child("a").now_or_never(), None);
    assert_eq!(supervisor.children().now_or_never(), None);
    assert_eq!(supervisor.start_child(lab.child("c")).now_or_never(), None);
    sleep(ms(10)).await;
    let children = supervisor.children().await.expect("alive");
    assert_eq!(starts(&children), [1, 1]);
    assert!(all_running(&children));
    // Gone while the supervisor works on it: it is carried out, unheard.
    lab.tell("a", Do::Work(ms(500)));
    sleep(ms(1)).await;
    assert!(
        timeout(ms(10), supervisor.terminate_child("a"))
            .await
            .is_err()
    );
    lab.fate(
        "c",
        Fate {
            pre_start_takes: ms(300),
            ..Fate::default()
        },
    );
    assert!(
        timeout(ms(10), supervisor.start_child(lab.child("c")))
            .await
            .is_err()
    );
    sleep(Duration::from_secs(1)).await;
    assert_eq!(status(&supervisor, "a").await.state, ChildState::Ended);
    assert_eq!(status(&supervisor, "c").await.state, ChildState::Running);
    assert_eq!(status(&supervisor, "b").await.starts, 1);
}

#[tokio::test(start_paused = true)]
async fn children_come_and_go_by_request() {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::OneForOne, &[]).await;
    supervisor
        .start_child(lab.child("a"))
        .await
        .expect("starts");
    let taken = supervisor.start_child(lab.child("a")).await;
    assert!(
        matches!(taken, Err(ChildError::Invalid { .. })),
        "{taken:?}"
    );
    lab.fate(
        "bad",
        Fate {
            fails_pre_start: true,
            ..Fate::default()
        },
    );
    let failed = supervisor.start_child(lab.child("bad")).await;
    assert!(
        matches!(failed, Err(ChildError::NotStarted { .. })),
        "{failed:?}"
    );
    let unknown = ChildError::Unknown { name: "bad".into() };
    assert_eq!(
        supervisor.terminate_child("bad").await,
        Err(unknown.clone())
    );
    assert_eq!(supervisor.restart_child("bad").await, Err(unknown.clone()));
    assert_eq!(supervisor.remove_child("bad").await, Err(unknown));
    supervisor.restart_child("a").await.expect("up again");
    let a = status(&supervisor, "a").await;
    assert_eq!((a.state, a.starts, a.restarts), (ChildState::Running, 2, 0));
    assert_eq!(lab.count("a down"), 1);
    supervisor.terminate_child("a").await.expect("known");
    supervisor
        .terminate_child("a")
        .await
        .expect("ending twice is no error");
    supervisor.restart_child("a").await.expect("up again");
    supervisor.remove_child("a").await.expect("known");
    assert_eq!(supervisor.children().await, Ok(Vec::new()));
    assert_eq!(lab.count("a down"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_overtaken_by_a_termination_says_so() {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::OneForOne, &[]).await;
    lab.fate(
        "a",
        Fate {
            pre_start_takes: ms(300),
            ..Fate::default()
        },
    );
    let terminated = async {
        until(&supervisor, |children| !children.is_empty()).await;
        supervisor.terminate_child("a").await
    };
    let (started, terminated) = tokio::join!(supervisor.start_child(lab.child("a")), terminated);
    assert_eq!(started, Err(ChildError::Superseded { name: "a".into() }));
    assert_eq!(terminated, Ok(()));
    assert_eq!(supervisor.children().await, Ok(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_removal_under_way_is_not_undone_by_later_requests() {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::OneForOne, &["a"]).await;
    lab.tell("a", Do::Work(ms(100)));
    sleep(ms(1)).await;
    let later = async {
        sleep(ms(10)).await;
        let unknown = ChildError::Unknown { name: "a".into() };
        assert_eq!(supervisor.restart_child("a").await, Err(unknown));
        let taken = supervisor.start_child(lab.child("a")).await;
        assert!(
            matches!(taken, Err(ChildError::Invalid { .. })),
            "{taken:?}"
        );
        supervisor.terminate_child("a").await
    };
    let (removed, terminated) = tokio::join!(supervisor.remove_child("a"), later);
    assert_eq!((removed, terminated), (Ok(()), Ok(())));
    assert_eq!(supervisor.children().await, Ok(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn restarting_a_temporary_child_that_its_siblings_take_down_says_so() {
    let lab = Lab::default();
    let children = vec![
        lab.child("a"),
        lab.child("t").restart(RestartKind::Temporary),
    ];
    let settings = lab.settings(Strategy::OneForAll);
    let supervisor = Supervisor::start(settings, children).await.expect("starts");
    lab.tell("t", Do::Work(ms(100)));
    sleep(ms(1)).await;
    let crash = async {
        sleep(ms(10)).await;
        lab.tell("a", Do::Panic);
    };
    let (restarted, ()) = tokio::join!(supervisor.restart_child("t"), crash);
    assert_eq!(restarted, Err(ChildError::Superseded { name: "t".into() }));
    until_started(&supervisor, "a", 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_by_name_works_from_every_state() {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::OneForOne, &["a"]).await;
    lab.tell("a", Do::Panic);
    until_started(&supervisor, "a", 2).await;
    lab.tell("a", Do::Panic);
    until(&supervisor, |children| {
        children[0].state == ChildState::Waiting
    })
    .await;
    let begun = Instant::now();
    supervisor
        .restart_child("a")
        .await
        .expect("starts without its backoff");
    assert!(begun.elapsed() < ms(5));
    lab.tell("a", Do::Work(ms(100)));
    sleep(ms(1)).await;
    let (ended, restarted) = tokio::join!(
        supervisor.terminate_child("a"),
        supervisor.restart_child("a")
    );
    assert_eq!((ended, restarted), (Ok(()), Ok(())));
    let a = status(&supervisor, "a").await;
    assert_eq!((a.state, a.starts, a.restarts), (ChildState::Running, 4, 2));
    lab.fate(
        "a",
        Fate {
            fails_pre_start: true,
            ..Fate::default()
        },
    );
    let failed = supervisor.restart_child("a").await;
    assert!(
        matches!(failed, Err(ChildError::NotStarted { .. })),
        "{failed:?}"
    );
    lab.fate("a", Fate::default());
    until_started(&supervisor, "a", 5).await;
}

#[tokio::test(start_paused = true)]
async fn stopping_during_a_backoff_resurrects_nothing() {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::OneForAll, &["a", "b"]).await;
    lab.tell("a", Do::Panic);
    until_started(&supervisor, "b", 2).await;
    lab.tell("a", Do::Panic);
    until(&supervisor, |children| {
        children[1].state == ChildState::Waiting
    })
    .await;
    assert_eq!(supervisor.stop("test over").await, Ended::Stopped);
    sleep(Duration::from_secs(60)).await;
    assert_eq!((lab.count("a up"), lab.count("b up")), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn an_inner_supervisor_ends_its_children_in_order_when_its_parent_stops() {
    let lab = Lab::default();
    let inner = Arc::new(Mutex::new(None));
    let slot = Arc::clone(&inner);
    let leaves = vec![lab.child("x"), lab.child("y")];
    let children = vec![
        lab.child("a"),
        ChildSpec::supervisor_with_on_start(
            "inner",
            SupervisorSettings::new("inner"),
            leaves,
            move |handle| *slot.lock() = Some(handle.clone()),
        ),
    ];
    let settings = lab.settings(Strategy::OneForOne);
    let supervisor = Supervisor::start(settings, children).await.expect("starts");
    let handle: Supervisor = inner.lock().clone().expect("published");
    handle.start_child(lab.child("z")).await.expect("starts");
    lab.log();
    assert_eq!(supervisor.stop("test over").await, Ended::Stopped);
    assert_eq!(handle.wait().await, Ended::Stopped);
    assert_eq!(lab.downs(), ["z down", "y down", "x down", "a down"]);
}

#[tokio::test(start_paused = true)]
async fn an_inner_supervisor_that_fails_is_restarted_with_its_children() {
    let lab = Lab::default();
    let none = Intensity {
        restarts: 0,
        ..Intensity::default()
    };
    let leaves = vec![lab.child("x"), lab.child("y").intensity(none)];
    let inner = ChildSpec::supervisor("inner", SupervisorSettings::new("inner"), leaves);
    let settings = lab.settings(Strategy::OneForOne);
    let supervisor = Supervisor::start(settings, vec![lab.child("a"), inner])
        .await
        .expect("up");
    lab.log();
    lab.tell("y", Do::Panic);
    until_started(&supervisor, "inner", 2).await;
    assert_eq!(
        lab.log(),
        ["y dropped", "x down", "x dropped", "x up", "y up"]
    );
    assert_eq!(status(&supervisor, "a").await.starts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_killed_supervisor_says_so_to_everybody_who_waits() {
    let lab = Lab::default();
    let supervisor = lab.start(Strategy::OneForOne, &["a"]).await;
    let other = supervisor.clone();
    supervisor.actor.kill();
    let (first, second) = tokio::join!(supervisor.wait(), other.wait());
    assert_eq!(first, Ended::Failed("killed".into()));
    assert_eq!(second, first);
    assert_eq!(
        supervisor.start_child(lab.child("b")).await,
        Err(ChildError::Ended)
    );
}

#[tokio::test(start_paused = true)]
async fn dropping_every_handle_stops_nothing() {
    let lab = Lab::default();
    drop(lab.start(Strategy::OneForOne, &["a"]).await);
    lab.tell("a", Do::Panic);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(lab.count("a up"), 2);
}

#[tokio::test(start_paused = true)]
async fn hooks_that_panic_end_nobody_but_the_child_whose_start_they_spoiled() {
    let lab = Lab::default();
    let tries = Arc::new(AtomicU32::new(0));
    let made = Arc::clone(&tries);
    let again = lab.clone();
    let spoiled = ChildSpec::with_on_start(
        "spoiled",
        move || {
            assert_ne!(
                made.fetch_add(1, Ordering::Relaxed),
                1,
                "the second make panics"
            );
            (Probe, ("spoiled".to_owned(), again.clone()))
        },
        {
            let tries = Arc::clone(&tries);
            move |_| assert_ne!(tries.load(Ordering::Relaxed), 1, "the first hook panics")
        },
    )
    .on_exit(|_| panic!("every exit hook panics"));
    let settings =
        SupervisorSettings::new("tested").on_event(|_| panic!("every event hook panics"));
    let supervisor = Supervisor::start(settings, vec![lab.child("a"), spoiled])
        .await
        .expect("up");
    until_started(&supervisor, "spoiled", 2).await;
    assert_eq!(tries.load(Ordering::Relaxed), 3);
    assert_eq!(status(&supervisor, "spoiled").await.restarts, 2);
    assert_eq!(status(&supervisor, "a").await.starts, 1);
}

#[tokio::test(start_paused = true)]
async fn hooks_and_events_tell_each_incarnation_in_order() {
    let lab = Lab::default();
    let hooks = lab.clone();
    let child = lab
        .child("a")
        .on_exit(move |exit| hooks.note(format!("hook: {exit}")));
    let settings = lab.settings(Strategy::OneForOne);
    let supervisor = Supervisor::start(settings, vec![child])
        .await
        .expect("starts");
    lab.tell("a", Do::Fail);
    until_started(&supervisor, "a", 2).await;
    supervisor.stop("test over").await;
    let name = || "a".to_owned();
    let stopped = Exit::Stopped(Some("shutdown".into()));
    let expected = [
        SupervisorEvent::ChildStarted {
            name: name(),
            start: 1,
        },
        SupervisorEvent::ChildExited {
            name: name(),
            exit: Exit::Failed("told to fail".into()),
        },
        SupervisorEvent::Restarting {
            name: name(),
            after: Duration::ZERO,
        },
        SupervisorEvent::ChildStarted {
            name: name(),
            start: 2,
        },
        SupervisorEvent::ChildExited {
            name: name(),
            exit: stopped,
        },
    ];
    assert_eq!(mem_take(&lab.events), expected);
    assert_eq!(
        lab.told(),
        [
            "a up",
            "hook: failed: told to fail",
            "a up",
            "a down",
            "hook: stopped: shutdown"
        ]
    );
}

/// On several threads ractor may report an end before the old state is dropped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replacement_starts_only_after_the_old_state_is_dropped() {
    let lab = Lab::default();
    let intensity = Intensity {
        restarts: 1_000,
        backoff: Duration::from_millis(1),
        backoff_cap: Duration::from_millis(1),
        ..PATIENT
    };
    let children = vec![lab.child("a").intensity(intensity)];
    let settings = lab.settings(Strategy::OneForOne);
    let supervisor = Supervisor::start(settings, children).await.expect("starts");
    for start in 2..=100 {
        lab.tell("a", Do::Fail);
        until_started(&supervisor, "a", start).await;
    }
    supervisor.stop("test over").await;
    let log: Vec<_> = lab
        .log()
        .into_iter()
        .filter(|line| line != "a down")
        .collect();
    assert_eq!(log.len(), 200);
    for pair in log.chunks(2) {
        assert_eq!(pair, ["a up", "a dropped"]);
    }
}
