//! The sans-IO core: events in, effects out. A thread performs the effects for real; a simulator performs them badly on purpose.
//!
//! ```text
//! Batch ──▶ translate ids ──▶ Record ──▶ encode into the open block ─┐ commit: Append(block) … Durable(block)
//!                               │                                    │        │
//!                               └──▶ Operators::apply ──▶ Results ───┴─▶ gate ┴─▶ waiting ──▶ Offer ──▶ Delivered
//!                                                                                     └─ checkpoint ─▶ outbox
//! ```
//!
//! Rules (see the invariants in the store's documentation too):
//! 1. Nothing is acknowledged, offered or fired before the block of its record is durable, as the durability mode has it.
//! 2. The operators may run ahead of the disk; the gate may not.
//! 3. Whatever the operators or the ledger depend on is a record. Memory-only decisions change nothing but speed.

mod checkpoint;
pub mod clock;
mod commit;
mod condition;
mod configuration;
mod cursors;
mod dedup;
mod deliver;
pub mod digest;
mod floors;
pub mod ledger;
mod merged;
mod pace;
pub mod state;
mod step;
pub mod summary;
#[cfg(test)]
mod tests;
pub mod thin;
mod unread;
pub mod waiting;

use std::{collections::BTreeMap, sync::Arc};

use weir_plugin_api::{Batch, Chunk, Identity, InputCounts, Lane, Resume, Series};

use self::{
    checkpoint::CheckpointState,
    clock::ClockState,
    commit::Commit,
    condition::Dropping,
    dedup::{Dedup, NameHashes},
    floors::Owed,
    ledger::InputLine,
    pace::Pace,
    thin::Thinning,
    unread::Unreadable,
    waiting::{Held, Stored, Waiting},
};
pub use self::{
    ledger::{DamageLine, Ledger, OutputLine},
    state::{FoundBlock, StateError},
};
use crate::{
    codec::record::BlockBuilder,
    operators::Operators,
    record::{ClockQuality, DeliveryCounts, Stamp},
    results::Results,
    series::SeriesTable,
    spec::EngineSpec,
};

/// The clocks at an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Steady nanoseconds.
    pub steady: i64,
    /// Wall nanoseconds.
    pub wall: i64,
    /// How far the wall clock can be believed.
    pub quality: ClockQuality,
}

/// Number of a journal block within this run, from 1.
pub type BlockNumber = u64;

/// What happens to the core.
#[derive(Debug)]
pub enum Event {
    /// An input's batch, from its ring. Only while [`Core::wants_batches`].
    Batch {
        /// Index of the input.
        input: u16,
        /// Comes back with [`Effect::Recycle`] in the same step.
        batch: Batch,
    },
    /// A deadline armed by [`Effect::Arm`] passed, or the clocks are shown for any other reason.
    Time,
    /// Everything up to this block is written, and synced if that was asked.
    Durable {
        /// The block.
        block: BlockNumber,
        /// Whether it was synced.
        synced: bool,
    },
    /// The disk was synced more often than for the commits asked for: for checkpoints, new files, second tries. The write budget has it
    /// counted.
    Synced {
        /// How often.
        beyond: u32,
    },
    /// The disk failed for good; blocks after `durable` are not on it.
    StorageFailed {
        /// What happened.
        reason: String,
    },
    /// A checkpoint is the commit point now.
    CheckpointDone {
        /// Its number.
        number: u64,
        /// Outbox blocks written with it: place and bytes on disk, in the order they were given.
        outbox: Vec<OutboxPlace>,
        /// Journal bytes in use afterwards.
        journal_used: u64,
    },
    /// A checkpoint failed; the previous ones stand.
    CheckpointFailed {
        /// Its number.
        number: u64,
        /// The disk has no room: giving up the oldest outbox segment may help.
        no_space: bool,
        /// What happened.
        reason: String,
    },
    /// How far outputs had come is on the disk.
    CursorsSaved,
    /// It could not be written; what was saved before stands.
    CursorsUnsaved {
        /// What happened.
        reason: String,
    },
    /// A block of the outbox was read: its encoded chunk, or `None` when it is damaged.
    OutboxRead {
        /// Whom it is for: as it was asked.
        output: u16,
        /// Lane.
        lane: Lane,
        /// Which one.
        place: OutboxPlace,
        /// Its bytes.
        bytes: Option<Vec<u8>>,
    },
    /// A block of the outbox could not be read this time.
    OutboxUnread {
        /// Whom it is for: as it was asked.
        output: u16,
        /// Lane.
        lane: Lane,
        /// Which one.
        place: OutboxPlace,
        /// What happened.
        reason: String,
    },
    /// An output is ready for the next chunk of a lane. One offer answers one want.
    Want {
        /// Index of the output.
        output: u16,
        /// Lane.
        lane: Lane,
    },
    /// An output is done with its points up to `upto`, in order.
    Delivered {
        /// Index of the output.
        output: u16,
        /// Lane.
        lane: Lane,
        /// Last identity.
        upto: Identity,
        /// What happened to them.
        counts: DeliveryCounts,
        /// The output's token.
        token: u64,
    },
    /// A write of an output did not get through: until something is delivered it counts as dead, and nobody waits for it.
    Failing {
        /// Index of the output.
        output: u16,
    },
    /// An output or an edge action takes nothing until a person acts, or takes points again.
    Held {
        /// Index of the output.
        output: u16,
        /// It takes nothing.
        held: bool,
    },
    /// All finite inputs have ended and their rings are empty: close every window.
    Finish,
    /// Commit and checkpoint what is there: a clean stop, a reload, a failing power supply.
    Checkpoint,
}

/// Where a block of the outbox lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutboxPlace {
    /// Number of the segment file.
    pub segment: u64,
    /// Offset in it.
    pub offset: u64,
    /// Bytes on disk, header included.
    pub bytes: u32,
}

/// One block for the outbox.
#[derive(Clone, Debug, Default)]
pub struct OutboxBlock {
    /// Lane: segments hold one lane each.
    pub lane: u8,
    /// First identity in it.
    pub first: Identity,
    /// Last identity in it.
    pub last: Identity,
    /// Points in it.
    pub points: u32,
    /// Least and greatest event time.
    pub times: (i64, i64),
    /// The encoded chunk.
    pub bytes: Vec<u8>,
}

/// What a journal block holds, readable without decoding it: for naming what damage cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockMeta {
    /// Sequence number of the first record.
    pub first_record: u64,
    /// Number of records.
    pub records: u32,
    /// Points in them.
    pub points: u32,
    /// Least and greatest event time, (0, 0) without points.
    pub times: (i64, i64),
    /// Inputs that have points in it, bit `n` for input `n`, the last bit for 63 and above.
    pub inputs: u64,
}

/// What the core wants done. Effects are performed in order; those for the disk by one thread, in order.
#[derive(Debug)]
pub enum Effect {
    /// Write this block to the journal; answer with [`Event::Durable`].
    Append {
        /// Its number.
        block: BlockNumber,
        /// Encoded records.
        bytes: Vec<u8>,
        /// What it holds.
        meta: BlockMeta,
        /// Sync it (and what was written before).
        sync: bool,
    },
    /// Sync what was written: the `crash` mode's interval. Answered by [`Event::Durable`] of the last block.
    Sync,
    /// A batch is durable as the mode has it: everything up to `number` of this input may be acknowledged to its source.
    Acknowledge {
        /// Index of the input.
        input: u16,
        /// Batch number.
        number: u64,
    },
    /// The batch has been read: give it back to the ring it came from.
    Recycle {
        /// Index of the input.
        input: u16,
        /// The batch.
        batch: Batch,
    },
    /// The points `chunk` holds after the output's cursor, those whose route has its bit. Answers a want.
    Offer {
        /// Index of the output.
        output: u16,
        /// Lane.
        lane: Lane,
        /// The points.
        chunk: Arc<Chunk>,
        /// First point that is after the output's cursor.
        from: usize,
        /// How long ago the points left the engine, nanoseconds on the observed axis.
        age: i64,
    },
    /// Read a block of the outbox; answer with [`Event::OutboxRead`] or [`Event::OutboxUnread`].
    ReadOutbox {
        /// Whom it is for; `u16::MAX`: the core itself.
        output: u16,
        /// Lane.
        lane: Lane,
        /// Which one.
        place: OutboxPlace,
    },
    /// Make a checkpoint; answer with [`Event::CheckpointDone`] or [`Event::CheckpointFailed`].
    Checkpoint {
        /// Its number, increasing.
        number: u64,
        /// Append these to the outbox first.
        outbox: Vec<OutboxBlock>,
        /// The state.
        state: Vec<u8>,
        /// Records up to here are in the state.
        upto_record: u64,
        /// Outbox segments below these numbers hold nothing any output still needs, by lane: delete them after the commit point.
        outbox_free_below: [u64; 2],
    },
    /// The disk is full: keep how far outputs have come, durably and where that takes no room, until a checkpoint with a greater number is
    /// made; answer with [`Event::CursorsSaved`] or [`Event::CursorsUnsaved`].
    SaveCursors {
        /// Number of the newest checkpoint asked for.
        checkpoint: u64,
        /// What [`Core::set_saved_cursors`] is to be given after a crash.
        bytes: Vec<u8>,
    },
    /// The disk is full: delete these segments now, the next checkpoint needs their room. Needs no answer.
    FreeOutbox {
        /// Segments below these numbers hold nothing any output still needs, by lane; `u64::MAX`: none does.
        below: [u64; 2],
    },
    /// A level action's wanted level. Sent again for every level action at start.
    Level {
        /// Index of the level action.
        action: u16,
        /// The level.
        on: bool,
    },
    /// An edge action is to say at once that the disk has failed and nothing is taken any more. Never from a record: it is the one thing that
    /// leaves without a cause on the disk, since that is what it is about; so it has a key of its own, and is not counted among results.
    Alarm {
        /// Index of the edge action among the outputs.
        action: u16,
        /// Severity of the agent's own alerts.
        severity: String,
        /// Wall nanoseconds.
        at: i64,
    },
    /// Call again with [`Event::Time`] at this steady time. The last one counts; `i64::MAX` is never.
    Arm {
        /// Steady nanoseconds.
        at: i64,
    },
    /// Something a person should read in the log.
    Log {
        /// Whether someone must act.
        error: bool,
        /// What.
        message: String,
    },
}

/// What is kept of one input.
#[derive(Clone, Debug, Default)]
pub(crate) struct InputState {
    /// The input's series ids → the table's, `u32::MAX` when the table was full.
    series: Vec<u32>,
    /// The input's field ids → the table's, `u16::MAX` when it was full.
    fields: Vec<u16>,
    /// Positions folded.
    resume: Resume,
    /// Counts before the journal.
    counts: InputCounts,
    /// Points in records.
    recorded: u64,
    /// Messages taken and not yet durable.
    unacknowledged: u32,
    /// Points seen before, with `dedup`.
    dedup: Dedup,
}

impl InputState {
    fn line(&self, name: String) -> InputLine {
        let (dedup_entries, dedup_forgotten) = (self.dedup.len() as u64, self.dedup.forgotten);
        InputLine { name, counts: self.counts, recorded: self.recorded, dedup_entries, dedup_forgotten }
    }
}

/// The core: see the module.
pub struct Core {
    /// In force: what the state belongs to.
    spec: Arc<EngineSpec>,
    /// What it was started with: in force once everything is replayed.
    configured: Arc<EngineSpec>,
    /// The state or the journal says which one is in force.
    spec_known: bool,
    table: SeriesTable,
    /// Of the names in `table`, for inputs with `dedup`.
    hashes: NameHashes,
    operators: Operators,
    results: Results,
    inputs: Vec<InputState>,
    /// Inputs the configuration no longer has: their positions and counts are kept.
    gone: Vec<(String, InputState)>,
    lines: Vec<OutputLine>,
    tokens: Vec<u64>,
    /// Points settled in replayed records that nobody knows to have been routed, by output.
    unrouted: Vec<u64>,
    waiting: Waiting,
    block: BlockBuilder,
    clock: ClockState,
    commit: Commit,
    next_record: u64,
    damage: DamageLine,
    /// What was given up of each output's results, and when.
    dropping: Vec<Dropping>,
    /// Fields refused for their type when one was last shown, and when the next one may be, steady axis.
    conflicts: (u64, i64),
    levels_sent: Vec<Option<bool>>,
    checkpoint: CheckpointState,
    /// Without a state: results up to here are in the outbox that was found, or nowhere any more; by lane.
    adopted: [Identity; 2],
    /// The newest results in that outbox, by their series.
    in_outbox: BTreeMap<String, (Arc<Series>, i64)>,
    /// Floors that go in front of the next record.
    owed_floors: Owed,
    /// Records are missing in front of or between those that were replayed.
    gap: bool,
    /// Outbox blocks the state knows and the store has lost.
    lost: Vec<(u8, Stored)>,
    /// By output of the configuration it starts with: whether it was there before; once that is in force.
    known: Option<Vec<bool>>,
    /// Where destinations say they stand.
    told: Vec<cursors::Told>,
    /// What a changed configuration cost, in words.
    dropped: Vec<String>,
    failed: Option<String>,
    armed: i64,
    /// Chunks the running checkpoint has moved to the outbox: they come back if it fails.
    spilled: Vec<(Lane, Held)>,
    /// Blocks it writes again elsewhere, by first identity, and what they are made of: that counts again if it fails.
    moved: Vec<(Lane, Identity, Vec<Stored>)>,
    /// Blocks that are made smaller.
    thinning: Thinning,
    /// Blocks of the outbox that could not be read.
    unreadable: Unreadable,
    /// Stamp of the last replayed record.
    replayed: Stamp,
    /// Observed time of the last step.
    last_observed: i64,
    /// How each output gets on.
    pace: Vec<Pace>,
    /// Inputs that can wait are held back, at most until this steady time.
    held_until: Option<i64>,
}
