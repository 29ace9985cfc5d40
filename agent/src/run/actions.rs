//! Tasks of actions: edge actions fire once per transition, in order; level actions follow the wanted level.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::sync::{mpsc, watch};
use weir_engine::{core::Event, record::DeliveryCounts};
use weir_plugin_api::{
    Identity, Lane,
    plugin::{AgentId, EdgeAction, LevelAction, Notification, Outcome, Stop},
    time::Clock,
};

use super::{
    backoff::Backoff,
    delivery::{Offered, OutputHealth},
    handle::CoreHandle,
};

/// First and longest delay between tries.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// An edge action's task.
pub struct EdgeTask {
    /// Name, for the log.
    pub name: String,
    /// Index among the engine's outputs.
    pub index: u16,
    /// Older than this at its turn and it is counted, not done; 0 never. Nanoseconds.
    pub expires_after: i64,
    /// Whose transitions these are.
    pub agent: AgentId,
    /// The action.
    pub action: Box<dyn EdgeAction>,
    /// Where alert points arrive.
    pub offers: mpsc::UnboundedReceiver<Offered>,
    /// What it is told past the store: that the disk has failed.
    pub alarms: mpsc::UnboundedReceiver<Notification>,
    /// The core.
    pub core: CoreHandle,
    /// For the age of notifications.
    pub clock: Arc<dyn Clock>,
    /// What others may know.
    pub health: Arc<OutputHealth>,
}

impl EdgeTask {
    /// Runs until `end` is requested.
    pub async fn run(mut self, end: Stop) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, u64::from(self.index) ^ self.clock.steady() as u64);
        self.core.event(Event::Want { output: self.index, lane: Lane::Alerts });
        loop {
            let offered = tokio::select! {
                biased;
                () = end.requested() => return,
                Some(alarm) = self.alarms.recv() => {
                    let now = self.clock.steady();
                    if self.fire(&alarm, now, &mut backoff, &end).await.is_none() {
                        return;
                    }
                    continue;
                }
                offered = self.offers.recv() => offered,
            };
            let Some(Offered { chunk, from, age, .. }) = offered else { return };
            let left_engine_at = self.clock.steady() - age;
            let bit = 1u64 << self.index;
            for index in from..chunk.len() {
                if chunk.route(index) & bit == 0 {
                    continue;
                }
                let agent = self.agent.of(chunk.identity(index));
                let notification = Notification::from_point(chunk.point(index)).by(agent);
                let Some(counts) = self.fire(&notification, left_engine_at, &mut backoff, &end).await else { return };
                self.report(chunk.identity(index), counts);
            }
            self.core.event(Event::Want { output: self.index, lane: Lane::Alerts });
        }
    }

    /// Tries until it is done, refused or expired; `None` when the agent ends first.
    async fn fire(
        &mut self,
        notification: &Notification,
        left_engine_at: i64,
        backoff: &mut Backoff,
        end: &Stop,
    ) -> Option<DeliveryCounts> {
        loop {
            if self.expires_after > 0 && self.clock.steady() - left_engine_at > self.expires_after {
                tracing::warn!(action = %self.name, key = notification.idempotency_key, "notification expired");
                return Some(DeliveryCounts { expired_stale: 1, ..DeliveryCounts::default() });
            }
            let (delay, reason) = match self.action.fire(notification).await {
                Outcome::Delivered { rejected, .. } => {
                    backoff.reset();
                    self.health.failing.store(false, Ordering::Relaxed);
                    self.note_held(false);
                    for rejection in &rejected {
                        tracing::warn!(action = %self.name, status = rejection.status, reason = rejection.reason, key = notification.idempotency_key, "notification refused for good");
                    }
                    let rejected = u64::from(!rejected.is_empty());
                    return Some(DeliveryCounts { delivered: 1 - rejected, rejected, ..DeliveryCounts::default() });
                }
                Outcome::TooLarge => return Some(DeliveryCounts { rejected: 1, ..DeliveryCounts::default() }),
                Outcome::Retry { after, reason } => (backoff.at_least(after), reason),
                Outcome::Hold { reason } => {
                    self.note_held(true);
                    (RETRY.1, reason)
                }
            };
            self.health.retries.fetch_add(1, Ordering::Relaxed);
            if !self.health.failing.swap(true, Ordering::Relaxed) {
                tracing::warn!(action = %self.name, reason, retry_in = ?delay, "action failed; it is tried again");
            }
            tokio::select! {
                () = end.requested() => return None,
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// Tells the core, which raises and ends the alert.
    fn note_held(&self, held: bool) {
        if self.health.held.swap(held, Ordering::Relaxed) != held {
            self.core.event(Event::Held { output: self.index, held });
        }
    }

    fn report(&self, upto: Identity, counts: DeliveryCounts) {
        self.core.event(Event::Delivered { output: self.index, lane: Lane::Alerts, upto, counts, token: 0 });
    }
}

/// A level action's task: a reconciler that sets the newest wanted level until it holds.
pub struct LevelTask {
    /// Name, for the log.
    pub name: String,
    /// The action.
    pub action: Box<dyn LevelAction>,
    /// The wanted level; `None` until the core has said the first.
    pub wanted: watch::Receiver<Option<bool>>,
}

impl LevelTask {
    /// Runs until `end` is requested, then leaves the level as `on_exit` wants it.
    pub async fn run(mut self, end: Stop, seed: u64) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, seed);
        let mut failing = false;
        loop {
            let wanted = *self.wanted.borrow_and_update();
            let mut next = None;
            if let Some(on) = wanted {
                match self.action.set(on).await {
                    Ok(()) => {
                        next = self.action.again_every();
                        backoff.reset();
                        if std::mem::take(&mut failing) {
                            tracing::info!(action = %self.name, on, "level holds again");
                        }
                    }
                    Err(error) => {
                        let delay = backoff.step();
                        if !std::mem::replace(&mut failing, true) {
                            tracing::error!(action = %self.name, %error, on, retry_in = ?delay, "level can't be set");
                        }
                        next = Some(delay);
                    }
                }
            }
            let again = async {
                match next {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = end.requested() => break,
                changed = self.wanted.changed() => if changed.is_err() { break },
                () = again => {}
            }
        }
        self.action.exit().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use weir_plugin_api::{
        Series, Value,
        chunk::ChunkBuilder,
        plugin::{BoxFuture, PluginError},
    };

    use super::*;
    use crate::run::handle::Message;

    /// Remembers what it was set to; the third time nothing is there to be set.
    struct Lamp(Arc<Mutex<Vec<bool>>>);

    impl LevelAction for Lamp {
        fn set<'a>(&'a mut self, on: bool) -> BoxFuture<'a, Result<(), PluginError>> {
            let mut levels = self.0.lock().expect("not poisoned");
            levels.push(on);
            let gone = levels.len() == 3;
            Box::pin(async move { if gone { Err(PluginError::new("pulled out")) } else { Ok(()) } })
        }

        fn again_every(&self) -> Option<Duration> {
            Some(Duration::from_millis(5))
        }
    }

    /// Writes down what it is told to do and what the core has been told by then; fails the first time.
    struct Bell {
        log: Arc<Mutex<Vec<String>>>,
        inbox: Arc<Mutex<std::sync::mpsc::Receiver<Message>>>,
    }

    fn look(log: &Mutex<Vec<String>>, inbox: &Mutex<std::sync::mpsc::Receiver<Message>>) -> Vec<String> {
        let mut log = log.lock().expect("not poisoned");
        log.extend(inbox.lock().expect("not poisoned").try_iter().filter_map(|message| match message {
            Message::Event(Event::Delivered { upto, counts, .. }) => Some(format!("done {} upto {}", counts.delivered, upto.ordinal)),
            _ => None,
        }));
        log.clone()
    }

    impl EdgeAction for Bell {
        fn fire<'a>(&'a mut self, notification: &'a Notification) -> BoxFuture<'a, Outcome> {
            let tries = look(&self.log, &self.inbox).len();
            self.log.lock().expect("not poisoned").push(format!("fire {}", notification.time));
            let outcome = if tries == 0 { Outcome::Retry { after: None, reason: "nobody answers".into() } } else { Outcome::delivered() };
            Box::pin(async move { outcome })
        }
    }

    #[tokio::test]
    async fn an_edge_action_is_told_done_when_it_is_and_goes_on_in_order() {
        let (core, inbox) = CoreHandle::new();
        let (log, inbox) = (Arc::<Mutex<Vec<String>>>::default(), Arc::new(Mutex::new(inbox)));
        let (offer, offers) = mpsc::unbounded_channel();
        let (_alarm, alarms) = mpsc::unbounded_channel();
        let task = EdgeTask {
            name: "bell".into(),
            index: 0,
            expires_after: 0,
            agent: AgentId::default(),
            action: Box::new(Bell { log: Arc::clone(&log), inbox: Arc::clone(&inbox) }),
            offers,
            alarms,
            core,
            clock: Arc::new(crate::sys::clock::SystemClock::default()),
            health: Arc::default(),
        };
        let mut builder = ChunkBuilder::default();
        for (ordinal, route) in [1, 2, 1].into_iter().enumerate() {
            let series = Arc::new(Series::from_parts(if route == 1 { "ours" } else { "others" }, &[]));
            builder.point(Identity { record: 1, ordinal: ordinal as u32 }, &series, route);
            builder.field(&"v".into(), ordinal as i64, Value::Float(1.0));
        }
        let end = Stop::default();
        let running = tokio::spawn(task.run(end.clone()));
        let offered = Offered { lane: Lane::Alerts, chunk: Arc::new(builder.finish()), from: 0, age: 0 };
        assert!(offer.send(offered).is_ok(), "the task runs");
        let done = async {
            while !look(&log, &inbox).iter().any(|told| told == "done 1 upto 2") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), done).await.expect("both are done");
        assert_eq!(look(&log, &inbox), ["fire 0", "fire 0", "done 1 upto 0", "fire 2", "done 1 upto 2"]);
        end.request();
        assert!(running.await.is_ok());
    }

    #[tokio::test]
    async fn a_level_that_can_be_lost_is_set_again() {
        let levels = Arc::<Mutex<Vec<bool>>>::default();
        let (wanted, watched) = watch::channel(Some(true));
        let task = LevelTask { name: "lamp".into(), action: Box::new(Lamp(Arc::clone(&levels))), wanted: watched };
        let end = Stop::default();
        let running = tokio::spawn(task.run(end.clone(), 1));
        let set_again = async {
            while levels.lock().expect("not poisoned").len() < 6 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), set_again).await.expect("it is set again, also after it could not be");
        assert!(levels.lock().expect("not poisoned").iter().all(|on| *on));
        end.request();
        assert!(running.await.is_ok());
        drop(wanted);
    }
}
