//! Every way in which a stream can go wrong, in every delivery: an answer comes whole, or it says
//! that it did not.

pub(crate) mod case;
mod gateway;
mod library;
pub(crate) mod reading;
mod recorded;
mod slow_reader;
pub(crate) mod tap;
mod usage;
mod waiting;

use std::time::Duration;

use crate::process::BOUND;

/// Waits, bounded, for a state.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(BOUND, wait).await.is_ok(), "{what}");
}
