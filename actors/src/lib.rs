//! Guards any async call: a database, an HTTP API, a model.
//!
//! A [`System`](system::System) owns a limiter for each quota, a breaker for each target and a
//! bounded pool of callers, all actors under supervisors. A call walks a ladder of targets; each
//! attempt is admitted by the target's breaker, paid for from its quota, judged, settled and
//! reported. The crate knows nothing of HTTP, JSON or any vendor: the caller's own operation makes
//! the attempt and says how it went.
//!
//! ```text
//! System (root supervisor)
//! ├── limiters ── limiter × quota      buckets and a wait queue
//! ├── breakers ── breaker × target     rolling windows, circuit, retry budget
//! ├── callers  ── caller × n           one call each, from ladder to verdict
//! └── steps    ── step × n             the user's own code, taken again when it panics or hangs
//! ```

#![cfg_attr(
    test,
    expect(clippy::disallowed_methods, reason = "tests await their own tasks")
)]

pub mod system;

pub mod admission;
pub mod caller;
pub mod launch;
pub mod permit;
pub mod step;
pub mod verdict;

pub mod error;
pub mod event;
pub mod hooks;
pub mod snapshot;
pub mod supervisor;

pub mod policy;

mod address;
mod branch;
mod breaker;
mod cell;
mod gauge;
mod limiter;
mod pool;
