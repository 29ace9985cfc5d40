//! The disk thread: the only one that touches the store. It performs the core's disk effects in order and reports back.
//!
//! Blocks that queue up while one is being synced are written together and synced once. A failure is told once, and ends writing.

use std::{collections::VecDeque, sync::mpsc};

use weir_engine::core::{self, BlockNumber, Event, OutboxPlace};
use weir_plugin_api::{Identity, Lane};
use weir_store::{Files, Store, StoreError, Writes};

use super::{handle::CoreHandle, writes::SharedWrites};

/// What the disk thread is asked to do.
pub enum DiskCommand {
    /// Write a block, and sync when asked.
    Append {
        /// Its number.
        block: BlockNumber,
        /// Records.
        bytes: Vec<u8>,
        /// What it holds.
        meta: core::BlockMeta,
        /// Sync it.
        sync: bool,
    },
    /// Sync what was written.
    Sync,
    /// Make a checkpoint.
    Checkpoint {
        /// Its number.
        number: u64,
        /// New outbox blocks.
        outbox: Vec<core::OutboxBlock>,
        /// State.
        state: Vec<u8>,
        /// Records the state includes.
        upto_record: u64,
        /// Outbox segments to delete, per lane.
        free_below: [u64; 2],
    },
    /// Save how far outputs have come.
    SaveCursors {
        /// Newest checkpoint asked for.
        checkpoint: u64,
        /// What the core says of them.
        bytes: Vec<u8>,
    },
    /// Delete outbox segments before the next checkpoint.
    FreeOutbox {
        /// Per lane.
        below: [u64; 2],
    },
    /// Read an outbox block.
    ReadOutbox {
        /// For whom.
        output: u16,
        /// Lane.
        lane: Lane,
        /// Where.
        place: OutboxPlace,
    },
}

/// Runs until the core thread drops its end. The store is closed then, and its directory free for a successor.
pub fn run<F: Files>(store: Store<F>, commands: &mpsc::Receiver<DiskCommand>, core: &CoreHandle, writes: &SharedWrites) {
    let mut disk = Disk {
        store,
        core: core.clone(),
        written: 0,
        owed: false,
        stuck: false,
        waiting: VecDeque::new(),
        asked: false,
        failed: false,
        commits: 0,
        told: Writes::default(),
    };
    // What opening it took is written, but no matter of the write budget.
    disk.tell(writes);
    while let Ok(first) = commands.recv() {
        disk.perform(first);
        // One sync for everything that came meanwhile.
        while let Ok(next) = commands.try_recv() {
            if !matches!(next, DiskCommand::Append { .. }) {
                disk.settle();
            }
            disk.perform(next);
        }
        disk.settle();
        let beyond = disk.tell(writes).fsyncs.saturating_sub(std::mem::take(&mut disk.commits));
        if beyond > 0 {
            disk.core.event(Event::Synced { beyond: u32::try_from(beyond).unwrap_or(u32::MAX) });
        }
    }
}

/// A block for the journal.
struct Block {
    number: BlockNumber,
    bytes: Vec<u8>,
    meta: core::BlockMeta,
    sync: bool,
}

struct Disk<F: Files> {
    store: Store<F>,
    core: CoreHandle,
    /// Last block written.
    written: BlockNumber,
    /// A sync is owed.
    owed: bool,
    /// One that found no room for the blocks of a file that failed is owed after the next checkpoint.
    stuck: bool,
    /// Blocks that found the journal full: tried again after the next checkpoint.
    waiting: VecDeque<Block>,
    /// A checkpoint was asked for, and none has been made since.
    asked: bool,
    /// The core has been told so: it is not told again, and nothing more is written.
    failed: bool,
    /// Commits since the last look at the statistics: the core knows that each asks for a sync.
    commits: u64,
    /// What was written at the last look.
    told: Writes,
}

impl<F: Files> Disk<F> {
    /// Shows what was written since the last time.
    fn tell(&mut self, writes: &SharedWrites) -> Writes {
        let stats = self.store.stats();
        let sum = stats.written.sum();
        let more = Writes { bytes: sum.bytes - self.told.bytes, fsyncs: sum.fsyncs - self.told.fsyncs };
        self.told = sum;
        writes.store(stats, more);
        more
    }

    fn perform(&mut self, command: DiskCommand) {
        match command {
            DiskCommand::Append { block, bytes, meta, sync } => {
                let block = Block { number: block, bytes, meta, sync };
                if self.waiting.is_empty() {
                    self.append(block);
                } else {
                    self.waiting.push_back(block);
                }
            }
            DiskCommand::Sync => self.owed = true,
            DiskCommand::Checkpoint { number, outbox, state, upto_record, free_below } => {
                self.checkpoint(number, upto_record, &outbox, &state, free_below);
            }
            DiskCommand::SaveCursors { checkpoint, bytes } => {
                self.core.event(match self.store.save_cursors(checkpoint, &bytes) {
                    Ok(()) => Event::CursorsSaved,
                    Err(error) => Event::CursorsUnsaved { reason: error.with_causes() },
                });
            }
            DiskCommand::FreeOutbox { below } => {
                if let Err(error) = self.store.free_outbox(below) {
                    tracing::warn!(%error, "outbox can't be made smaller");
                }
            }
            DiskCommand::ReadOutbox { output, lane, place } => {
                self.core.event(match self.store.read_outbox(lane as u8, store_place(place)) {
                    Ok(bytes) => Event::OutboxRead { output, lane, place, bytes },
                    Err(error) => Event::OutboxUnread { output, lane, place, reason: error.with_causes() },
                });
            }
        }
    }

    fn append(&mut self, block: Block) {
        if self.failed {
            return;
        }
        match self.store.append(&store_meta(&block.meta), &block.bytes) {
            Ok(()) => {
                self.written = block.number;
                self.owed |= block.sync;
                self.commits += u64::from(block.sync);
                if !block.sync {
                    self.core.event(Event::Durable { block: block.number, synced: false });
                }
            }
            Err(StoreError::JournalFull { .. }) => {
                self.waiting.push_back(block);
                self.is_full();
            }
            Err(error) => self.fail(&error),
        }
    }

    /// Only a checkpoint makes room, and the core knows of no other reason for one when the disk, not the bound, keeps the journal small.
    fn is_full(&mut self) {
        if !std::mem::replace(&mut self.asked, true) {
            tracing::warn!(behind = self.written, "journal full, waiting for a checkpoint");
            self.core.event(Event::Checkpoint);
        }
    }

    fn fail(&mut self, error: &StoreError) {
        self.waiting.clear();
        if !std::mem::replace(&mut self.failed, true) {
            self.core.event(Event::StorageFailed { reason: error.with_causes() });
        }
    }

    /// The sync that is owed.
    fn settle(&mut self) {
        if self.failed || !std::mem::take(&mut self.owed) {
            return;
        }
        match self.store.sync() {
            Ok(()) => {
                self.core.event(Event::Durable { block: self.written, synced: true });
            }
            // A file was given up and there is no other: the blocks are durable with the checkpoint, or are written behind it.
            Err(StoreError::JournalFull { .. }) => {
                self.stuck = true;
                self.is_full();
            }
            Err(error) => self.fail(&error),
        }
    }

    fn checkpoint(&mut self, number: u64, upto_record: u64, outbox: &[core::OutboxBlock], state: &[u8], free_below: [u64; 2]) {
        if self.failed {
            // Made in the dark: the core has taken back what it gave along.
            let reason = "storage has failed".to_owned();
            self.core.event(Event::CheckpointFailed { number, no_space: false, reason });
            return;
        }
        let blocks: Vec<_> = outbox.iter().map(store_block).collect();
        match self.store.checkpoint(number, upto_record, &blocks, state, free_below) {
            Ok(places) => {
                let outbox = places.into_iter().map(|p| OutboxPlace { segment: p.segment, offset: p.offset, bytes: p.bytes }).collect();
                self.core.event(Event::CheckpointDone { number, outbox, journal_used: self.store.journal_used() });
            }
            Err(error) => {
                self.core.event(Event::CheckpointFailed { number, no_space: error.is_no_space(), reason: error.with_causes() });
                return;
            }
        }
        self.asked = false;
        self.owed |= std::mem::take(&mut self.stuck);
        for block in std::mem::take(&mut self.waiting) {
            // What the checkpoint holds needs no journal any more.
            if block.meta.first_record + u64::from(block.meta.records) <= upto_record + 1 {
                self.written = block.number;
                self.core.event(Event::Durable { block: block.number, synced: true });
            } else if self.waiting.is_empty() {
                self.append(block);
            } else {
                self.waiting.push_back(block);
            }
        }
    }
}

fn store_meta(meta: &core::BlockMeta) -> weir_store::BlockMeta {
    weir_store::BlockMeta {
        first_record: meta.first_record,
        records: meta.records,
        points: meta.points,
        times: meta.times,
        inputs: meta.inputs,
    }
}

/// The engine's view of a recovered block's header.
pub fn core_meta(meta: &weir_store::BlockMeta) -> core::BlockMeta {
    core::BlockMeta { first_record: meta.first_record, records: meta.records, points: meta.points, times: meta.times, inputs: meta.inputs }
}

/// The engine's view of a block found in the outbox.
pub fn core_found(found: &weir_store::FoundBlock) -> core::FoundBlock {
    let place = OutboxPlace { segment: found.place.segment, offset: found.place.offset, bytes: found.place.bytes };
    let first = Identity { record: found.first.record, ordinal: found.first.ordinal };
    core::FoundBlock { lane: found.lane, place, first, points: found.points }
}

/// The store's view of a place in the outbox.
pub fn store_place(place: OutboxPlace) -> weir_store::OutboxPlace {
    weir_store::OutboxPlace { segment: place.segment, offset: place.offset, bytes: place.bytes }
}

fn store_identity(identity: Identity) -> weir_store::Identity {
    weir_store::Identity { record: identity.record, ordinal: identity.ordinal }
}

fn store_block(block: &core::OutboxBlock) -> weir_store::OutboxBlock {
    weir_store::OutboxBlock {
        lane: block.lane,
        first: store_identity(block.first),
        last: store_identity(block.last),
        points: block.points,
        times: block.times,
        bytes: block.bytes.clone(),
    }
}

#[cfg(test)]
mod order;

#[cfg(test)]
mod tests {
    use weir_store::{
        StoreOptions,
        memory::{Faults, MemoryFiles},
    };

    use std::sync::Arc;

    use super::*;
    use crate::{run::handle::Message, sys::clock::SystemClock};

    pub fn block(block: BlockNumber, length: usize) -> DiskCommand {
        let meta = core::BlockMeta { first_record: block, records: 1, ..core::BlockMeta::default() };
        // Nothing that can be compressed.
        let bytes = (0..length as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_pow(3) >> 40) as u8).collect();
        DiskCommand::Append { block, bytes, meta, sync: true }
    }

    pub fn checkpoint(number: u64, upto_record: u64) -> DiskCommand {
        DiskCommand::Checkpoint { number, outbox: Vec::new(), state: vec![1; 100], upto_record, free_below: [0; 2] }
    }

    /// What the core is told of these commands, in short, on a disk that is healthy while it is opened.
    fn told(faults: impl FnOnce(&MemoryFiles) -> Faults, commands: Vec<DiskCommand>) -> Vec<String> {
        let options = StoreOptions { journal_bytes_max: 64 * 1024, new_id: 1 };
        let (store, _) = Store::open(MemoryFiles::new(1), &options).expect("an empty store opens");
        let mut files = store.into_files();
        let (store, _) = Store::open(files.clone(), &options).expect("it opens again");
        files = store.into_files();
        files.faults = faults(&files);
        // Nothing is written or synced when there is nothing to recover.
        let (store, _) = Store::open(files, &options).expect("it opens");
        let (sender, receiver) = mpsc::channel();
        commands.into_iter().for_each(|c| sender.send(c).expect("the receiver is here"));
        drop(sender);
        let (core, inbox) = CoreHandle::new();
        run(store, &receiver, &core, &SharedWrites::new(Arc::new(SystemClock::default())));
        drop(core);
        inbox.into_iter().filter_map(shown).collect()
    }

    /// A message to the core in short; nothing of those that only count.
    pub fn shown(message: Message) -> Option<String> {
        Some(match message {
            Message::Event(Event::Synced { .. }) => return None,
            Message::Event(Event::Durable { block, synced }) => format!("durable {block} {synced}"),
            Message::Event(Event::StorageFailed { .. }) => "storage failed".into(),
            Message::Event(Event::Checkpoint) => "checkpoint wanted".into(),
            Message::Event(Event::CheckpointDone { number, .. }) => format!("checkpoint {number}"),
            Message::Event(Event::CheckpointFailed { number, no_space, .. }) => format!("checkpoint {number} failed, no space {no_space}"),
            Message::Event(Event::CursorsSaved) => "cursors saved".into(),
            Message::Event(Event::CursorsUnsaved { .. }) => "cursors unsaved".into(),
            Message::Event(Event::OutboxRead { bytes, .. }) => format!("read {bytes:?}"),
            Message::Event(event) => format!("{event:?}"),
            _ => "another message".into(),
        })
    }

    #[test]
    fn a_full_journal_asks_for_a_checkpoint_once_and_goes_on_after_it() {
        // Four files of 16 KiB: a block of 15 KiB takes one each, so the fifth has to wait, and the sixth with it.
        let commands = (1..7).map(|n| block(n, 15 * 1024)).chain([checkpoint(1, 6)]).collect();
        let told = told(|_| Faults::default(), commands);
        let wanted = told.iter().filter(|t| *t == "checkpoint wanted").count();
        assert_eq!(wanted, 1, "{told:?}");
        let last: Vec<_> = told.iter().rev().take(2).map(String::as_str).collect();
        assert_eq!(last, ["durable 6 true", "durable 5 true"], "{told:?}");
    }

    #[test]
    fn a_failed_disk_is_told_once_and_nothing_behind_it_counts() {
        let dead = |_: &MemoryFiles| Faults { write_error_in: 1, ..Faults::default() };
        let commands = vec![block(1, 100), DiskCommand::Sync, block(2, 100), DiskCommand::Sync, checkpoint(1, 2)];
        assert_eq!(told(dead, commands), ["storage failed", "checkpoint 1 failed, no space false"]);
    }

    #[test]
    fn a_full_disk_is_told_as_one() {
        let full = |files: &MemoryFiles| Faults { space: files.used(), ..Faults::default() };
        let commands = vec![block(1, 100), checkpoint(1, 1), block(2, 100)];
        assert_eq!(told(full, commands), ["durable 1 true", "checkpoint 1 failed, no space true", "durable 2 true"]);
    }

    #[test]
    fn a_block_that_can_t_be_read_is_told_apart_from_one_that_is_damaged() {
        let place = OutboxPlace { segment: 0, offset: 0, bytes: 10 };
        let dead = |_: &MemoryFiles| Faults { read_error_in: 1, ..Faults::default() };
        let told = told(dead, vec![DiskCommand::ReadOutbox { output: 2, lane: Lane::Results, place }]);
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("OutboxUnread") && told[0].contains("can't read outbox-1-00000000"), "{told:?}");
    }

    #[test]
    fn a_block_that_is_gone_is_answered() {
        let place = OutboxPlace { segment: 3, offset: 0, bytes: 10 };
        let told = told(|_| Faults::default(), vec![DiskCommand::ReadOutbox { output: 2, lane: Lane::Results, place }]);
        assert_eq!(told, ["read None"]);
    }
}
