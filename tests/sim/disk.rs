//! The disk thread of the simulation: performs disk effects late, in order, as the real one does, on files that die in the middle.

use std::collections::VecDeque;

use weir_engine::core::{self, Effect, Event};
use weir_plugin_api::Identity;
use weir_store::{Store, StoreError};

use super::{
    files::MortalFiles,
    plan::{Bug, Plan},
};

/// What the disk has to do still.
#[derive(Default)]
pub struct Disk {
    /// Effects to perform.
    pub queue: VecDeque<Effect>,
    /// Last block written.
    written: u64,
    /// A sync is owed.
    unsynced: bool,
    /// A sync is owed after the next checkpoint: a file failed, and there was no room for its blocks elsewhere.
    stuck: bool,
    /// Blocks that found the journal full.
    full: VecDeque<Effect>,
    /// Says that a block is durable before it is: a planted bug.
    hasty: bool,
    /// Says that cursors are saved, and saves them when it is asked for the next time: a planted bug.
    tardy: bool,
    /// What it has not saved yet.
    unsaved: Option<(u64, Vec<u8>)>,
    /// The last record whose block is synced, or in a checkpoint.
    pub synced: u64,
    /// The last one whose block is written.
    pub last_written: u64,
    /// The write budget is told of syncs beyond the commits.
    tells: bool,
    /// Commits that asked for a sync since it was told.
    commits: u64,
    /// Syncs it was told of, or has in its commits.
    told: u64,
    /// Records that only a checkpoint holds: the journal was full. First and last ones.
    pub unjournaled: Vec<(u64, u64)>,
}

impl Disk {
    /// Nothing to do yet.
    pub fn new(plan: Plan, records: u64) -> Self {
        let hasty = matches!(plan.bug, Some(Bug::AcknowledgedEarly | Bug::ReleasedEarly));
        let tardy = plan.bug == Some(Bug::CursorsSavedLate);
        Self { hasty, tardy, synced: records, last_written: records, ..Self::default() }
    }

    /// Says how often the disk was synced beyond the commits, from now on: what opening took is no matter of the write budget.
    pub fn telling(self, tells: bool, store: &Store<MortalFiles>) -> Self {
        Self { tells, told: store.stats().written.sum().fsyncs, ..self }
    }

    /// Once all is done that was begun, as the disk thread does.
    fn tell(&mut self, store: &Store<MortalFiles>, inbox: &mut VecDeque<Event>) {
        if !self.tells || self.unsynced {
            return;
        }
        let syncs = store.stats().written.sum().fsyncs;
        let beyond = (syncs - std::mem::replace(&mut self.told, syncs)).saturating_sub(std::mem::take(&mut self.commits));
        if beyond > 0 {
            inbox.push_back(Event::Synced { beyond: beyond as u32 });
        }
    }

    /// Syncs beyond the commits that nobody was told of yet: they are told when all is done that was begun.
    pub fn untold(&self, store: &Store<MortalFiles>) -> u64 {
        let beyond = (store.stats().written.sum().fsyncs - self.told).saturating_sub(self.commits);
        if self.tells { beyond } else { 0 }
    }

    /// Whether it is to sync next.
    pub fn owes_sync(&self) -> bool {
        self.unsynced
    }

    /// Whether all that was written is synced.
    pub fn is_synced(&self) -> bool {
        self.synced >= self.last_written && self.is_idle()
    }

    /// Whether nothing is left to do.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && !self.unsynced && !self.stuck
    }

    /// Performs one effect, or the sync that is owed.
    pub fn perform(&mut self, store: &mut Store<MortalFiles>, group: bool, inbox: &mut VecDeque<Event>) {
        self.perform_one(store, group, inbox);
        self.tell(store, inbox);
    }

    fn perform_one(&mut self, store: &mut Store<MortalFiles>, group: bool, inbox: &mut VecDeque<Event>) {
        let grouped = group && matches!(self.queue.front(), Some(Effect::Append { .. }));
        if self.unsynced && !grouped {
            self.unsynced = false;
            inbox.push_back(match store.sync() {
                Ok(()) => {
                    self.synced = self.last_written;
                    Event::Durable { block: self.written, synced: true }
                }
                Err(StoreError::JournalFull { .. }) => {
                    self.stuck = true;
                    Event::Checkpoint
                }
                Err(error) => Event::StorageFailed { reason: error.to_string() },
            });
            return;
        }
        match self.queue.pop_front() {
            Some(effect @ Effect::Append { .. }) if !self.full.is_empty() => self.full.push_back(effect),
            Some(effect @ Effect::Append { .. }) => self.append(store, effect, inbox),
            Some(Effect::Sync) => self.unsynced = true,
            Some(Effect::Checkpoint { number, outbox, state, upto_record, outbox_free_below }) => {
                let blocks: Vec<_> = outbox.iter().map(store_block).collect();
                match store.checkpoint(number, upto_record, &blocks, &state, outbox_free_below) {
                    Ok(places) => {
                        let outbox =
                            places.iter().map(|p| core::OutboxPlace { segment: p.segment, offset: p.offset, bytes: p.bytes }).collect();
                        inbox.push_back(Event::CheckpointDone { number, outbox, journal_used: store.journal_used() });
                        self.synced = self.synced.max(upto_record);
                        self.unsynced |= std::mem::take(&mut self.stuck);
                        self.go_on(store, upto_record, inbox);
                    }
                    Err(error) => {
                        inbox.push_back(Event::CheckpointFailed { number, no_space: error.is_no_space(), reason: error.to_string() });
                    }
                }
            }
            Some(Effect::ReadOutbox { output, lane, place }) => {
                let at = weir_store::OutboxPlace { segment: place.segment, offset: place.offset, bytes: place.bytes };
                inbox.push_back(match store.read_outbox(lane as u8, at) {
                    Ok(bytes) => Event::OutboxRead { output, lane, place, bytes },
                    Err(error) => Event::OutboxUnread { output, lane, place, reason: error.with_causes() },
                });
            }
            Some(Effect::SaveCursors { checkpoint, bytes }) if self.tardy => {
                if let Some((checkpoint, bytes)) = self.unsaved.replace((checkpoint, bytes)) {
                    let _ = store.save_cursors(checkpoint, &bytes);
                }
                inbox.push_back(Event::CursorsSaved);
            }
            Some(Effect::SaveCursors { checkpoint, bytes }) => inbox.push_back(match store.save_cursors(checkpoint, &bytes) {
                Ok(()) => Event::CursorsSaved,
                Err(error) => Event::CursorsUnsaved { reason: error.with_causes() },
            }),
            Some(Effect::FreeOutbox { below }) => {
                // What could not be removed is removed with the next checkpoint.
                let _ = store.free_outbox(below);
            }
            _ => {}
        }
    }

    /// Blocks that waited for room.
    fn go_on(&mut self, store: &mut Store<MortalFiles>, upto: u64, inbox: &mut VecDeque<Event>) {
        for effect in std::mem::take(&mut self.full) {
            let Effect::Append { block, ref meta, .. } = effect else { continue };
            if meta.first_record + u64::from(meta.records) <= upto + 1 {
                self.unjournaled.push((meta.first_record, meta.first_record + u64::from(meta.records) - 1));
                self.written = block;
                inbox.push_back(Event::Durable { block, synced: true });
            } else if self.full.is_empty() {
                self.append(store, effect, inbox);
            } else {
                self.full.push_back(effect);
            }
        }
    }

    fn append(&mut self, store: &mut Store<MortalFiles>, effect: Effect, inbox: &mut VecDeque<Event>) {
        let Effect::Append { block, ref bytes, ref meta, sync } = effect else { return };
        let header = weir_store::BlockMeta {
            first_record: meta.first_record,
            records: meta.records,
            points: meta.points,
            times: meta.times,
            inputs: meta.inputs,
        };
        match store.append(&header, bytes) {
            Ok(()) => {
                (self.written, self.last_written) = (block, meta.first_record + u64::from(meta.records) - 1);
                self.unsynced |= sync;
                self.commits += u64::from(sync);
                if !sync || self.hasty {
                    inbox.push_back(Event::Durable { block, synced: self.hasty });
                }
            }
            Err(StoreError::JournalFull { .. }) => {
                self.full.push_back(effect);
                inbox.push_back(Event::Checkpoint);
            }
            Err(error) => inbox.push_back(Event::StorageFailed { reason: error.to_string() }),
        }
    }
}

/// The engine's view of what was recovered.
pub fn core_meta(meta: &weir_store::BlockMeta) -> core::BlockMeta {
    core::BlockMeta { first_record: meta.first_record, records: meta.records, points: meta.points, times: meta.times, inputs: meta.inputs }
}

/// The engine's view of a block found in the outbox.
pub fn core_found(found: &weir_store::FoundBlock) -> core::FoundBlock {
    let place = core::OutboxPlace { segment: found.place.segment, offset: found.place.offset, bytes: found.place.bytes };
    let first = Identity { record: found.first.record, ordinal: found.first.ordinal };
    core::FoundBlock { lane: found.lane, place, first, points: found.points }
}

fn store_block(block: &core::OutboxBlock) -> weir_store::OutboxBlock {
    let identity = |i: Identity| weir_store::Identity { record: i.record, ordinal: i.ordinal };
    weir_store::OutboxBlock {
        lane: block.lane,
        first: identity(block.first),
        last: identity(block.last),
        points: block.points,
        times: block.times,
        bytes: block.bytes.clone(),
    }
}
