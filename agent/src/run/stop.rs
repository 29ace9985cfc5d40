//! Stopping in order: inputs stop reading, what they read becomes durable and acknowledged, outputs get a last chance, a checkpoint
//! keeps the rest.

use std::{sync::atomic::Ordering, thread::JoinHandle, time::Duration};

use tokio::time::{Instant, timeout};
use weir_engine::core::Ledger;

use super::{Running, handle::Message};

/// Inputs that do not say they have flushed are waited for this long.
const FLUSH_MAX: Duration = Duration::from_secs(2);
/// The last checkpoint is given at least this long, even when the time is up.
const CHECKPOINT_MAX: Duration = Duration::from_secs(2);
/// How often the ledger is looked at while outputs empty.
const LOOK: Duration = Duration::from_millis(10);

/// How a run ended.
#[derive(Debug, Default)]
pub struct Ended {
    /// The ledger at the end.
    pub ledger: Option<Ledger>,
    /// Points that could not be delivered; they stay in the store.
    pub undelivered: u64,
    /// An input of `--once` failed.
    pub failed: bool,
}

impl Running {
    /// Waits until every input has ended (finite ones, or all with `--once`); whether any failed.
    pub async fn inputs_end(&mut self) -> bool {
        let mut failed = false;
        while let Some(result) = self.inputs.join_next().await {
            failed |= !matches!(result, Ok(Ok(())));
        }
        failed
    }

    /// All inputs have ended by themselves: closes the windows, delivers, and ends.
    pub async fn finish(self, failed: bool) -> Ended {
        self.core.ask(Message::Finish).await;
        let mut ended = self.end(true).await;
        ended.failed = failed;
        ended
    }

    /// A stop was asked for.
    pub async fn stop(self) -> Ended {
        self.end(false).await
    }

    /// With `all`, outputs that fail are waited for as long as those that work.
    async fn end(mut self, all: bool) -> Ended {
        let deadline = Instant::now() + self.shutdown_timeout;
        self.stops.stop.request();
        let flushed = async {
            for flushed in &self.flushed {
                flushed.requested().await;
            }
        };
        if timeout(FLUSH_MAX.min(self.shutdown_timeout), flushed).await.is_err() {
            tracing::warn!("an input did not flush in time");
        }
        if timeout(left(deadline), self.core.ask(Message::Settle)).await.is_err() {
            tracing::warn!("not everything became durable in time");
        }
        self.stops.drained.request();
        self.stops.hurry.request();
        self.drain_outputs(deadline, all).await;
        self.stops.end.request();
        let tasks = async {
            while self.inputs.join_next().await.is_some() {}
            while self.outputs.join_next().await.is_some() {}
        };
        // At least a moment for saying goodbye, even when the time is up.
        if timeout(left(deadline).max(Duration::from_millis(500)), tasks).await.is_err() {
            tracing::warn!("a plugin did not end in time");
            self.inputs.abort_all();
            self.outputs.abort_all();
        }
        let ledger = self.core.ledger().await;
        self.core.send(Message::End);
        let threads = Threads { core: self.core_thread, disk: self.disk_thread };
        if !threads.end_until(deadline.max(Instant::now() + CHECKPOINT_MAX)).await {
            tracing::warn!("the last checkpoint did not succeed in time; the journal holds what it would have held");
            self.core.send(Message::GiveUp);
            // The directory is a successor's only when they have gone.
            threads.end_until(Instant::now() + CHECKPOINT_MAX).await;
        }
        threads.join();
        let undelivered = ledger.as_ref().map_or(0, undelivered);
        Ended { ledger, undelivered, failed: false }
    }

    /// Waits while outputs get rid of what waits for them.
    async fn drain_outputs(&self, deadline: Instant, all: bool) {
        loop {
            let Some(ledger) = self.core.ledger().await else { return };
            let busy = ledger
                .outputs
                .iter()
                .zip(&self.health)
                .any(|(output, health)| output.waiting() > 0 && (all || !health.failing.load(Ordering::Relaxed)));
            if !busy || Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The threads of core and disk.
struct Threads {
    core: JoinHandle<()>,
    disk: JoinHandle<()>,
}

impl Threads {
    fn have_ended(&self) -> bool {
        self.core.is_finished() && self.disk.is_finished()
    }

    /// Waits until both have ended; whether they did in time.
    async fn end_until(&self, deadline: Instant) -> bool {
        while !self.have_ended() && Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
        self.have_ended()
    }

    /// Says how they ended, if they did.
    fn join(self) {
        if self.have_ended() && (self.core.join().is_err() || self.disk.join().is_err()) {
            tracing::error!("a thread ended badly");
        }
    }
}

/// Points that still wait for an output.
pub fn undelivered(ledger: &Ledger) -> u64 {
    ledger.outputs.iter().map(|o| o.waiting()).sum()
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
