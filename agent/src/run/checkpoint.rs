//! "Commit and checkpoint now": what a command, SIGUSR1 and the power-fail line ask for, one after the other or all at once.
//!
//! What lies in the rings goes first, then the open block is committed and synced, then the checkpoint is made. The write budget does not
//! hold it up, and it is counted apart from the checkpoints that bounds ask for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::oneshot;
use weir_plugin_api::time::Clock;

use super::handle::{CoreHandle, Message};

/// Makes checkpoints that are asked for.
#[derive(Clone)]
pub struct OnRequest {
    core: CoreHandle,
    clock: Arc<dyn Clock>,
    counts: Arc<Counts>,
}

/// How requests went.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests.
    pub asked: AtomicU64,
    /// Of these, such that failed.
    pub failed: AtomicU64,
    /// How long the last one took that did not, milliseconds.
    pub took_ms: AtomicU64,
}

impl OnRequest {
    /// For this core.
    pub fn new(core: CoreHandle, clock: Arc<dyn Clock>) -> Self {
        Self { core, clock, counts: Arc::default() }
    }

    /// How requests went.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Commits what there is and makes a checkpoint; returns when both are on the disk, with the time it took. `by` is for the log.
    ///
    /// # Errors
    /// Why there is none: the disk's, or that the agent stops.
    pub async fn make(&self, by: &str) -> Result<Duration, String> {
        let start = self.clock.steady();
        self.counts.asked.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.core.send(Message::Checkpoint(reply));
        let done = answer.await.unwrap_or_else(|_| Err("the agent is stopping, which makes a checkpoint too".into()));
        let took = Duration::from_nanos(u64::try_from(self.clock.steady() - start).unwrap_or(0));
        match done {
            Ok(()) => {
                self.counts.took_ms.store(took.as_millis() as u64, Ordering::Relaxed);
                tracing::info!(by, ms = took.as_millis() as u64, "committed and checkpointed, as asked");
                Ok(took)
            }
            Err(reason) => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                tracing::error!(by, reason, "a checkpoint was asked for and could not be made");
                Err(reason)
            }
        }
    }
}
