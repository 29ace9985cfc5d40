//! The core thread: shows the core what happens and performs what it wants. It sleeps when there is nothing to do.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use tokio::sync::{mpsc as async_mpsc, oneshot, watch};
use weir_engine::{
    core::{Core, Effect, Event},
    record::Condition,
};
use weir_plugin_api::{plugin::Notification, ring::RingReceiver};

use super::{
    delivery::Offered,
    disk_thread::DiskCommand,
    handle::{CoreHandle, Message},
};
use crate::sys::{clock::SystemClock, notify};

/// Batches taken from one ring before the next has its turn.
const TURN: usize = 16;
/// Why a checkpoint that is asked for is not made.
const FAILED: &str = "storage has failed";

/// Everything the thread works with.
pub struct CoreThread {
    /// The core.
    pub core: Core,
    /// Rings by input.
    pub rings: Vec<RingReceiver>,
    /// Inputs that lose nothing by waiting, by index.
    pub can_wait: Vec<bool>,
    /// Messages from everybody else.
    pub inbox: mpsc::Receiver<Message>,
    /// The disk thread.
    pub disk: mpsc::Sender<DiskCommand>,
    /// Outputs and edge actions, by index.
    pub outputs: Vec<async_mpsc::UnboundedSender<Offered>>,
    /// Level actions, by index.
    pub levels: Vec<watch::Sender<Option<bool>>>,
    /// What edge actions are told past the store, by their index among the outputs.
    pub alarms: Vec<(u16, async_mpsc::UnboundedSender<Notification>)>,
    /// Tags every alert carries.
    pub tags: Vec<(String, String)>,
    /// The clocks.
    pub clock: Arc<SystemClock>,
    /// For waking it.
    pub handle: CoreHandle,
}

/// What the thread waits for on behalf of others.
#[derive(Default)]
struct Waiting {
    settle: Vec<oneshot::Sender<()>>,
    finish: Vec<oneshot::Sender<()>>,
    /// Number of the checkpoint that has everything, and who waits for it.
    checkpoints: Vec<(u64, oneshot::Sender<Result<(), String>>)>,
    ending: bool,
    given_up: bool,
}

impl Waiting {
    /// The agent is stopping: what lies in the rings is all there will be.
    fn hurries(&self) -> bool {
        self.ending || !self.settle.is_empty() || !self.finish.is_empty()
    }

    /// Checkpoint `number` went like this: whoever waits for it or one before is told.
    fn checkpointed(&mut self, number: u64, outcome: &Result<(), String>) {
        for (_, reply) in self.checkpoints.extract_if(.., |(wanted, _)| *wanted <= number) {
            // Whoever asked may have gone meanwhile.
            let _ = reply.send(outcome.clone());
        }
    }
}

impl CoreThread {
    /// Runs until [`Message::End`] and the last checkpoint after it, or [`Message::GiveUp`].
    pub fn run(mut self) {
        self.handle.is_here();
        let mut effects = Vec::new();
        let mut armed = i64::MAX;
        let mut waiting = Waiting::default();
        let mut last_checkpoint = None;
        self.core.start(self.clock.now(), &mut effects);
        self.perform(&mut effects, &mut armed);
        loop {
            let mut busy = self.take_messages(&mut effects, &mut armed, &mut waiting, &mut last_checkpoint);
            if waiting.given_up {
                return;
            }
            busy |= self.take_batches(&mut effects, &mut armed, waiting.hurries());
            let now = self.clock.now();
            if armed <= now.steady {
                armed = i64::MAX;
                self.core.step(now, Event::Time, &mut effects);
                self.perform(&mut effects, &mut armed);
                busy = true;
            }
            if busy {
                continue;
            }
            self.answer(&mut waiting, &mut effects, &mut armed);
            if let Some(done) = last_checkpoint
                && (done || self.core.is_failed())
            {
                return;
            }
            if waiting.ending && last_checkpoint.is_none() && self.rings.iter().all(RingReceiver::is_empty) {
                last_checkpoint = Some(false);
                self.core.step(now, Event::Checkpoint, &mut effects);
                self.perform(&mut effects, &mut armed);
                continue;
            }
            sleep(armed.saturating_sub(self.clock.now().steady));
        }
    }

    fn take_messages(
        &mut self,
        effects: &mut Vec<Effect>,
        armed: &mut i64,
        waiting: &mut Waiting,
        last_checkpoint: &mut Option<bool>,
    ) -> bool {
        let mut any = false;
        while let Ok(message) = self.inbox.try_recv() {
            any = true;
            match message {
                Message::Event(event) => {
                    let checkpointed = matches!(event, Event::CheckpointDone { .. } | Event::CheckpointFailed { .. });
                    let failed = matches!(event, Event::CheckpointFailed { .. });
                    let outcome = outcome(&event);
                    self.core.step(self.clock.now(), event, effects);
                    self.perform(effects, armed);
                    if let Some((number, outcome)) = outcome {
                        waiting.checkpointed(number, &outcome);
                    }
                    // A full disk must not keep a stop waiting: what the last checkpoint could not hold, the journal still does.
                    let given_up = failed && !self.core.is_checkpointing();
                    if checkpointed && last_checkpoint.is_some() && (given_up || self.core.is_idle()) {
                        *last_checkpoint = Some(true);
                    }
                }
                Message::Ledger(reply) => reply(self.core.ledger()),
                Message::SetCursor { output, resume } => self.core.set_output_cursor(output, resume),
                Message::Settle(reply) => waiting.settle.push(reply),
                Message::Finish(reply) => waiting.finish.push(reply),
                Message::Checkpoint(reply) => self.checkpoint(reply, effects, armed, waiting),
                Message::Alive => notify::watchdog(),
                Message::End => waiting.ending = true,
                Message::GiveUp => waiting.given_up = true,
            }
        }
        any
    }

    /// A checkpoint is asked for: what lies in the rings now belongs to it.
    fn checkpoint(
        &mut self,
        reply: oneshot::Sender<Result<(), String>>,
        effects: &mut Vec<Effect>,
        armed: &mut i64,
        waiting: &mut Waiting,
    ) {
        self.take_batches(effects, armed, true);
        if self.core.is_failed() {
            let _ = reply.send(Err(FAILED.into()));
            return;
        }
        self.core.step(self.clock.now(), Event::Checkpoint, effects);
        waiting.checkpoints.push((self.core.next_checkpoint(), reply));
        self.perform(effects, armed);
    }

    fn take_batches(&mut self, effects: &mut Vec<Effect>, armed: &mut i64, hurry: bool) -> bool {
        let mut any = false;
        for input in 0..self.rings.len() {
            for _ in 0..TURN {
                if !self.core.wants_batches() {
                    return any;
                }
                if self.can_wait[input] && !hurry && self.core.holds_back() {
                    break;
                }
                let Some(batch) = self.rings[input].try_recv() else { break };
                any = true;
                self.core.step(self.clock.now(), Event::Batch { input: input as u16, batch }, effects);
                self.perform(effects, armed);
            }
        }
        any
    }

    /// Answers those who wait for the rings to be empty and everything durable.
    fn answer(&mut self, waiting: &mut Waiting, effects: &mut Vec<Effect>, armed: &mut i64) {
        if !self.rings.iter().all(RingReceiver::is_empty) {
            return;
        }
        for reply in std::mem::take(&mut waiting.finish) {
            self.core.step(self.clock.now(), Event::Finish, effects);
            self.perform(effects, armed);
            let _ = reply.send(());
        }
        if self.core.is_idle() || self.core.is_failed() {
            for reply in std::mem::take(&mut waiting.settle) {
                let _ = reply.send(());
            }
        }
    }

    fn perform(&mut self, effects: &mut Vec<Effect>, armed: &mut i64) {
        for effect in effects.drain(..) {
            match effect {
                Effect::Append { block, bytes, meta, sync } => self.to_disk(DiskCommand::Append { block, bytes, meta, sync }),
                Effect::Sync => self.to_disk(DiskCommand::Sync),
                Effect::Checkpoint { number, outbox, state, upto_record, outbox_free_below } => {
                    self.to_disk(DiskCommand::Checkpoint { number, outbox, state, upto_record, free_below: outbox_free_below });
                }
                Effect::SaveCursors { checkpoint, bytes } => self.to_disk(DiskCommand::SaveCursors { checkpoint, bytes }),
                Effect::FreeOutbox { below } => self.to_disk(DiskCommand::FreeOutbox { below }),
                Effect::ReadOutbox { output, lane, place } => self.to_disk(DiskCommand::ReadOutbox { output, lane, place }),
                Effect::Acknowledge { input, number } => self.rings[usize::from(input)].acknowledge(number),
                Effect::Recycle { input, batch } => self.rings[usize::from(input)].recycle(batch),
                Effect::Offer { output, lane, chunk, from, age } => {
                    // A task that has ended wants nothing more.
                    let _ = self.outputs[usize::from(output)].send(Offered { lane, chunk, from, age });
                }
                Effect::Level { action, on } => {
                    self.levels[usize::from(action)].send_replace(Some(on));
                }
                Effect::Alarm { action, severity, at } => {
                    for (_, alarms) in self.alarms.iter().filter(|(index, _)| *index == action) {
                        let _ = alarms.send(storage_failed(severity.clone(), self.tags.clone(), at));
                    }
                }
                Effect::Arm { at } => *armed = at,
                Effect::Log { error: true, message } => tracing::error!("{message}"),
                Effect::Log { error: false, message } => tracing::warn!("{message}"),
            }
        }
    }

    fn to_disk(&self, command: DiskCommand) {
        if self.disk.send(command).is_err() {
            tracing::error!("the disk thread has ended");
        }
    }
}

/// That the disk has failed, for an edge action. No record numbers it, so its time makes the key its own.
fn storage_failed(severity: String, tags: Vec<(String, String)>, at: i64) -> Notification {
    let alert = Condition::StorageFailed.name().to_owned();
    let idempotency_key = format!("{alert}/unsafe/{at}");
    Notification { state: "firing".into(), severity, tags, value: None, n: 0, time: at, historical: false, idempotency_key, alert }
}

/// Which checkpoint an event is about, or all there will be, and how it went.
fn outcome(event: &Event) -> Option<(u64, Result<(), String>)> {
    match event {
        Event::CheckpointDone { number, .. } => Some((*number, Ok(()))),
        Event::CheckpointFailed { number, reason, .. } => Some((*number, Err(reason.clone()))),
        Event::StorageFailed { .. } => Some((u64::MAX, Err(FAILED.into()))),
        _ => None,
    }
}

fn sleep(nanos: i64) {
    match u64::try_from(nanos) {
        Ok(nanos) if nanos > 0 && nanos < i64::MAX as u64 / 2 => std::thread::park_timeout(Duration::from_nanos(nanos)),
        Ok(nanos) if nanos > 0 => std::thread::park(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use weir_engine::spec::{EngineSpec, InputSpec};
    use weir_plugin_api::{
        Batch, Cell, Kind, Series,
        ring::{RingSender, ring},
    };

    use super::*;

    /// Longest wait for anything.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A core thread whose disk is the test.
    struct World {
        sender: RingSender,
        core: CoreHandle,
        disk: mpsc::Receiver<DiskCommand>,
        thread: std::thread::JoinHandle<()>,
    }

    impl World {
        fn new() -> Self {
            let clock = Arc::new(SystemClock::default());
            let mut spec = EngineSpec { inputs: vec![InputSpec { name: "in".into(), ..InputSpec::default() }], ..EngineSpec::default() };
            spec.storage.commit_interval = 1_000_000;
            let (handle, inbox) = CoreHandle::new();
            let waking = handle.clone();
            let (sender, receiver) = ring(2, Arc::new(move || waking.wake()));
            let (commands, disk) = mpsc::channel();
            let thread = CoreThread {
                core: Core::new(Arc::new(spec), clock.now()),
                rings: vec![receiver],
                can_wait: vec![true],
                inbox,
                disk: commands,
                outputs: Vec::new(),
                levels: Vec::new(),
                alarms: Vec::new(),
                tags: Vec::new(),
                clock,
                handle: handle.clone(),
            };
            Self { sender, core: handle, disk, thread: std::thread::spawn(move || thread.run()) }
        }

        /// Hands a point over, as batch 1.
        fn take(&mut self) {
            let cell = Cell { series: 0, field: 0, kind: Kind::Float as u8, flags: Cell::START, time: 1, value: 0 };
            let batch = Batch {
                number: 1,
                cells: vec![cell],
                points: 1,
                new_series: vec![Arc::new(Series::from_parts("m", &[]))],
                new_partitions: vec!["a".into()],
                new_fields: vec!["v".into()],
                ..Batch::default()
            };
            self.sender.send(batch).expect("the thread runs");
        }

        /// The next thing the disk is asked to do.
        fn asked(&self) -> DiskCommand {
            self.disk.recv_timeout(PATIENCE).expect("it asks for something")
        }

        /// Writes blocks until a checkpoint is asked for; its number.
        fn checkpoint(&self) -> u64 {
            loop {
                match self.asked() {
                    DiskCommand::Append { block, .. } => drop(self.core.event(Event::Durable { block, synced: true })),
                    DiskCommand::Checkpoint { number, .. } => return number,
                    _ => {}
                }
            }
        }

        fn made(&self, number: u64) {
            self.core.event(Event::CheckpointDone { number, outbox: Vec::new(), journal_used: 0 });
        }
    }

    #[test]
    fn a_batch_is_acknowledged_when_the_disk_says_that_it_is_durable() {
        let mut world = World::new();
        let acknowledgements = world.sender.acknowledgements();
        world.take();
        loop {
            let DiskCommand::Append { block, meta, .. } = world.asked() else { continue };
            assert_eq!(acknowledgements.now(), 0, "nobody has said that it is on the disk");
            world.core.event(Event::Durable { block, synced: true });
            if meta.points > 0 {
                break;
            }
        }
        let since = Instant::now();
        while acknowledgements.now() == 0 {
            assert!(since.elapsed() < PATIENCE, "it is never acknowledged");
            std::thread::park_timeout(Duration::from_millis(1));
        }
        world.core.send(Message::GiveUp);
        assert!(world.thread.join().is_ok());
    }

    #[test]
    fn whoever_asks_for_a_checkpoint_hears_when_it_is_made_or_why_it_is_not() {
        let world = World::new();
        for reason in [None, Some("no room")] {
            let (reply, mut answer) = oneshot::channel();
            world.core.send(Message::Checkpoint(reply));
            let number = world.checkpoint();
            assert!(answer.try_recv().is_err_and(|e| e == oneshot::error::TryRecvError::Empty), "it is not made yet");
            match reason {
                None => world.made(number),
                Some(reason) => {
                    world.core.event(Event::CheckpointFailed { number, no_space: false, reason: reason.into() });
                }
            }
            let said = answer.blocking_recv().expect("an answer");
            assert_eq!(said, reason.map_or(Ok(()), |reason| Err(reason.to_owned())));
        }
        world.core.send(Message::GiveUp);
        assert!(world.thread.join().is_ok());
    }

    #[test]
    fn an_end_waits_for_the_last_checkpoint_and_that_has_what_lay_in_the_ring() {
        let mut world = World::new();
        world.take();
        world.core.send(Message::End);
        let mut points = 0;
        let number = loop {
            match world.asked() {
                DiskCommand::Append { block, meta, .. } => {
                    points += meta.points;
                    world.core.event(Event::Durable { block, synced: true });
                }
                DiskCommand::Checkpoint { number, .. } => break number,
                _ => {}
            }
        };
        assert_eq!(points, 1);
        assert!(!world.thread.is_finished(), "the checkpoint is not made yet");
        world.made(number);
        assert!(world.thread.join().is_ok());
    }
}
