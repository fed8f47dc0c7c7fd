//! The one switch that ends every stream of a client.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// Ends streams that outlast a drain. Cloning shares the switch.
#[derive(Debug, Clone, Default)]
pub(super) struct StreamEnds {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    thrown: AtomicBool,
    notify: Arc<Notify>,
}

impl StreamEnds {
    /// Ends all streams, present and future.
    pub(super) fn throw(&self) {
        self.shared.thrown.store(true, Ordering::SeqCst);
        self.shared.notify.notify_waiters();
    }

    pub(super) fn is_thrown(&self) -> bool {
        self.shared.thrown.load(Ordering::SeqCst)
    }

    /// Resolves when the switch is thrown, or at once if it has been.
    pub(super) async fn ended(&self) {
        // Listening first: who looks first can miss the moment between.
        let thrown = self.shared.notify.notified();
        if !self.is_thrown() {
            thrown.await;
        }
    }

    /// Resolves when the switch is thrown after this call; [`is_thrown`](Self::is_thrown) tells of
    /// before.
    pub(super) fn thrown(&self) -> Pin<Box<OwnedNotified>> {
        Box::pin(Arc::clone(&self.shared.notify).notified_owned())
    }
}
