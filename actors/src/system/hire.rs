//! How the pool gets one more caller.

use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::next_number;
use crate::address::Direct;
use crate::branch::Branch;
use crate::error::{Rejected, Rejection};
use crate::pool::{Hire, Pool};
use crate::supervisor::RestartKind;

/// How long a branch that is being restarted may take to have room for one more caller.
const HIRE_PATIENCE: Duration = Duration::from_secs(10);

/// Pause before a branch that is down is asked again.
const HIRE_AGAIN: Duration = Duration::from_millis(5);

/// Starts callers on the branch, also while it is being restarted.
pub(super) fn hire(callers: Branch) -> Hire {
    Box::new(move |pool: Pool| {
        let callers = callers.clone();
        async move {
            let patience = Instant::now() + HIRE_PATIENCE;
            loop {
                let name = next_number().to_string();
                let (found, arrival) = oneshot::channel();
                let (found, actor) = (Mutex::new(Some(found)), pool.clone());
                let added = callers
                    .add(
                        &name,
                        RestartKind::Temporary,
                        move || actor.caller(),
                        move |caller| {
                            if let Some(found) = found.lock().take() {
                                // Err means that the call has left.
                                drop(found.send(Direct::new(caller.clone())));
                            }
                        },
                    )
                    .await;
                if added.is_ok()
                    && let Ok(caller) = arrival.await
                {
                    return Ok(caller);
                }
                if Instant::now() >= patience {
                    return Err(Rejected::new(Rejection::Stopped));
                }
                sleep(HIRE_AGAIN).await;
            }
        }
        .boxed()
    })
}
