//! The disk thread: the only one that touches the store. It performs the core's disk effects in order and reports back.
//!
//! Blocks that queue up while one is being synced are written together and synced once.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, mpsc},
};

use weir_engine::core::{self, BlockNumber, Event, OutboxPlace};
use weir_plugin_api::{Identity, Lane};
use weir_store::{RealFiles, Store, StoreError, StoreStats};

use super::handle::CoreHandle;

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

/// What others may know of the store.
pub type SharedStats = Arc<Mutex<StoreStats>>;

/// Runs until the core thread drops its end. The store is closed then, and its directory free for a successor.
pub fn run(mut store: Store<RealFiles>, commands: &mpsc::Receiver<DiskCommand>, core: &CoreHandle, stats: &SharedStats) {
    let mut disk = Disk { written: 0, waiting: VecDeque::new() };
    while let Ok(first) = commands.recv() {
        let mut unsynced = disk.perform(&mut store, first, core);
        // One sync for everything that came meanwhile.
        while let Ok(next) = commands.try_recv() {
            let more = matches!(next, DiskCommand::Append { .. });
            if !more {
                disk.settle(&mut store, &mut unsynced, core);
            }
            unsynced |= disk.perform(&mut store, next, core);
        }
        disk.settle(&mut store, &mut unsynced, core);
        *stats.lock().unwrap_or_else(PoisonError::into_inner) = store.stats();
    }
}

struct Disk {
    /// Last block written.
    written: BlockNumber,
    /// Blocks that found the journal full: tried again after the next checkpoint.
    waiting: VecDeque<(BlockNumber, Vec<u8>, core::BlockMeta, bool)>,
}

impl Disk {
    /// Performs one command; `true` when a sync is owed.
    fn perform(&mut self, store: &mut Store<RealFiles>, command: DiskCommand, core: &CoreHandle) -> bool {
        match command {
            DiskCommand::Append { block, bytes, meta, sync } => {
                if !self.waiting.is_empty() {
                    self.waiting.push_back((block, bytes, meta, sync));
                    return false;
                }
                self.append(store, block, bytes, meta, sync, core)
            }
            DiskCommand::Sync => true,
            DiskCommand::Checkpoint { number, outbox, state, upto_record, free_below } => {
                self.checkpoint(store, number, upto_record, &outbox, &state, free_below, core)
            }
            DiskCommand::FreeOutbox { below } => {
                if let Err(error) = store.free_outbox(below) {
                    tracing::warn!(%error, "outbox can't be made smaller");
                }
                false
            }
            DiskCommand::ReadOutbox { output, lane, place } => {
                let bytes = match store.read_outbox(lane as u8, store_place(place)) {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        tracing::error!(%error, "outbox block can't be read");
                        None
                    }
                };
                core.event(Event::OutboxRead { output, lane, place, bytes });
                false
            }
        }
    }

    fn append(
        &mut self,
        store: &mut Store<RealFiles>,
        block: BlockNumber,
        bytes: Vec<u8>,
        meta: core::BlockMeta,
        sync: bool,
        core: &CoreHandle,
    ) -> bool {
        match store.append(&store_meta(&meta), &bytes) {
            Ok(()) => {
                self.written = block;
                if !sync {
                    core.event(Event::Durable { block, synced: false });
                }
                sync
            }
            Err(StoreError::JournalFull { .. }) => {
                tracing::warn!(block, "journal full, waiting for a checkpoint");
                self.waiting.push_back((block, bytes, meta, sync));
                false
            }
            Err(error) => {
                core.event(Event::StorageFailed { reason: error.to_string() });
                false
            }
        }
    }

    fn settle(&mut self, store: &mut Store<RealFiles>, unsynced: &mut bool, core: &CoreHandle) {
        if !std::mem::take(unsynced) {
            return;
        }
        match store.sync() {
            Ok(()) => core.event(Event::Durable { block: self.written, synced: true }),
            Err(error) => core.event(Event::StorageFailed { reason: error.to_string() }),
        };
    }

    #[allow(clippy::too_many_arguments)]
    fn checkpoint(
        &mut self,
        store: &mut Store<RealFiles>,
        number: u64,
        upto_record: u64,
        outbox: &[core::OutboxBlock],
        state: &[u8],
        free_below: [u64; 2],
        core: &CoreHandle,
    ) -> bool {
        let blocks: Vec<_> = outbox.iter().map(store_block).collect();
        match store.checkpoint(number, upto_record, &blocks, state, free_below) {
            Ok(places) => {
                let outbox = places.into_iter().map(|p| OutboxPlace { segment: p.segment, offset: p.offset, bytes: p.bytes }).collect();
                core.event(Event::CheckpointDone { number, outbox, journal_used: store.journal_used() });
            }
            Err(error) => {
                core.event(Event::CheckpointFailed { number, no_space: error.is_no_space(), reason: error.to_string() });
                return false;
            }
        }
        let mut owed = false;
        for (block, bytes, meta, sync) in std::mem::take(&mut self.waiting) {
            // What the checkpoint holds needs no journal any more.
            if meta.first_record + u64::from(meta.records) <= upto_record + 1 {
                self.written = block;
                core.event(Event::Durable { block, synced: true });
            } else if self.waiting.is_empty() {
                owed |= self.append(store, block, bytes, meta, sync, core);
            } else {
                self.waiting.push_back((block, bytes, meta, sync));
            }
        }
        owed
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
    core::FoundBlock { lane: found.lane, place, first: Identity { record: found.first.record, ordinal: found.first.ordinal } }
}

fn store_place(place: OutboxPlace) -> weir_store::OutboxPlace {
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
