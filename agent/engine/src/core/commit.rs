//! When the open block is closed: the commit policy.

use std::collections::VecDeque;

use super::BlockNumber;
use crate::spec::{Durability, StorageSpec};

/// Encoded bytes after which a block is committed.
const BLOCK_BYTES: usize = 64 * 1024;
/// Encoded bytes a block may grow to while others are on their way to the disk.
pub const BLOCK_BYTES_MAX: usize = 1 << 20;
/// Blocks on their way at once.
const IN_FLIGHT_MAX: usize = 2;
/// The journal is written in pages of this many bytes: a commit of one reading takes a whole one.
const PAGE: u64 = 4096;
/// Bytes the store may put in front of a block.
const HEADER_MAX: u64 = 128;
/// What a run leaves unused of the journal file the run before was writing, at most.
const FILE_BYTES: u64 = 1 << 20;
const MINUTE: i64 = 60_000_000_000;
/// Syncs of a checkpoint: the open block, two segments of the outbox and their names, the state, its name, the oldest state's name.
const CHECKPOINT_SYNCS: usize = 7;

/// A block on its way to the disk.
#[derive(Clone, Debug)]
pub struct Flight {
    /// Its number.
    pub block: BlockNumber,
    /// Its last record.
    pub last_record: u64,
    /// Input and batch number to acknowledge when it is durable.
    pub acknowledge: Vec<(u16, u64)>,
    /// Levels to set when it is durable.
    pub levels: Vec<(u16, bool)>,
}

/// The open block's state and what is on its way.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// Number of the next block.
    pub next_block: BlockNumber,
    /// On their way.
    pub in_flight: VecDeque<Flight>,
    /// Newest batch per input in the open block.
    pub acknowledge: Vec<(u16, u64)>,
    /// Levels changed in the open block.
    pub levels: Vec<(u16, bool)>,
    /// Steady time at which the open block must be committed; `None`: nothing in it waits.
    pub due: Option<i64>,
    /// Something in the open block cannot wait: not for company, not for the write budget.
    pub urgent: bool,
    /// A source's window is nearly full: no waiting for company.
    pub full: bool,
    /// The write budget holds back a commit that is wanted.
    pub bound_by_budget: bool,
    /// What is left of the write budget is saved for a checkpoint that is due: else commits would take every sync as it becomes free.
    pub saving: bool,
    /// Syncs that could not wait for the write budget.
    pub over_budget: u64,
    /// Records up to here are durable as the mode has it.
    pub durable: u64,
    /// Steady time of the next sync in `crash` mode.
    pub sync_due: Option<i64>,
    /// Steady times of syncs within the last minute, under a budget.
    syncs: VecDeque<i64>,
    /// Commits so far.
    pub commits: u64,
    /// Journal bytes taken since the last checkpoint, in whole pages and before compression: never less than what is on the disk.
    pub journal_bytes: u64,
    /// What a restart takes of the journal.
    run_bytes: u64,
    interval: i64,
    sync_interval: i64,
    budget: usize,
    durability: Durability,
}

impl Commit {
    /// The policy of `[storage]`.
    pub fn new(spec: &StorageSpec) -> Self {
        Self {
            next_block: 1,
            interval: spec.commit_interval,
            sync_interval: spec.sync_interval,
            budget: spec.fsyncs_per_minute_max as usize,
            durability: spec.durability,
            run_bytes: FILE_BYTES.min(spec.journal_bytes_max / 4),
            ..Self::default()
        }
    }

    /// Something in the open block waits for its commit.
    pub fn wait(&mut self, steady: i64) {
        self.due.get_or_insert(steady + self.interval);
    }

    /// Whether the open block, of `bytes`, is committed now.
    pub fn fires(&mut self, bytes: usize, steady: i64) -> bool {
        let wanted = self.urgent || self.full || bytes >= BLOCK_BYTES || self.due.is_some_and(|due| due <= steady);
        if !wanted || self.in_flight.len() >= IN_FLIGHT_MAX {
            return false;
        }
        let within = self.within_budget(steady);
        self.bound_by_budget = !within && !self.urgent;
        within || self.urgent
    }

    /// The disk is synced: also for something else than a commit, as that is in the budget too, and commits wait for it.
    pub fn synced(&mut self, syncs: u32, steady: i64) {
        if self.budget == 0 {
            return;
        }
        for _ in 0..syncs {
            self.over_budget += u64::from(self.spent(steady) >= self.budget);
            self.syncs.push_back(steady);
        }
    }

    /// When the budget has room for a checkpoint, steady time; one that asks for more than there ever is waits for all of it.
    pub fn checkpoint_from(&mut self, steady: i64) -> i64 {
        let spent = self.spent(steady);
        if self.budget == 0 || spent + CHECKPOINT_SYNCS <= self.budget {
            return steady;
        }
        let leave = (spent + CHECKPOINT_SYNCS - self.budget).min(spent);
        leave.checked_sub(1).and_then(|last| self.syncs.get(last)).map_or(steady, |at| at + MINUTE)
    }

    /// Syncs within the last minute.
    fn spent(&mut self, steady: i64) -> usize {
        while self.syncs.front().is_some_and(|at| steady - at >= MINUTE) {
            self.syncs.pop_front();
        }
        self.syncs.len()
    }

    fn within_budget(&mut self, steady: i64) -> bool {
        if self.budget == 0 || self.durability != Durability::Power {
            return true;
        }
        if self.saving {
            self.due = Some(self.checkpoint_from(steady).max(steady + 1));
            return false;
        }
        if self.spent(steady) < self.budget {
            return true;
        }
        // Woken when the oldest leaves the minute.
        self.due = self.syncs.front().map(|at| at + MINUTE);
        false
    }

    /// Whether blocks are synced as they are written.
    pub fn syncs(&self) -> bool {
        self.durability == Durability::Power
    }

    /// A block was handed to the disk.
    pub fn sent(&mut self, flight: Flight, bytes: usize, steady: i64) {
        self.commits += 1;
        self.note_written(bytes);
        self.next_block += 1;
        self.nothing_waits();
        match self.durability {
            // One that had to go, alone or with a checkpoint, though there was no room.
            Durability::Power => self.synced(1, steady),
            Durability::Crash => {
                self.sync_due.get_or_insert(steady + self.sync_interval);
            }
            _ => {}
        }
        self.in_flight.push_back(flight);
    }

    /// A block of `bytes` is in the journal, or will be.
    pub fn note_written(&mut self, bytes: usize) {
        self.journal_bytes += (bytes as u64 + HEADER_MAX).next_multiple_of(PAGE);
    }

    /// A run begins, now or in what is read back: it does not go on in the file that was being written.
    pub fn note_run(&mut self) {
        self.journal_bytes += self.run_bytes;
    }

    /// The open block is empty, or gone to the disk.
    pub fn nothing_waits(&mut self) {
        (self.due, self.urgent, self.full, self.bound_by_budget) = (None, false, false, false);
    }

    /// Acknowledges a batch that needs no record: with the input's newest one that is not durable, if there is one; else now (`true`).
    pub fn acknowledge_without_record(&mut self, input: u16, number: u64) -> bool {
        let newest = self.acknowledge.iter_mut().find(|(i, _)| *i == input);
        let newest = newest.or_else(|| self.in_flight.iter_mut().rev().find_map(|f| f.acknowledge.iter_mut().find(|(i, _)| *i == input)));
        match newest {
            Some((_, waits)) => {
                *waits = number;
                false
            }
            None => true,
        }
    }

    /// Blocks up to `block` have arrived: takes them off.
    pub fn arrived(&mut self, block: BlockNumber) -> Vec<Flight> {
        let mut arrived = Vec::new();
        while self.in_flight.front().is_some_and(|f| f.block <= block) {
            if let Some(flight) = self.in_flight.pop_front() {
                self.durable = self.durable.max(flight.last_record);
                arrived.push(flight);
            }
        }
        arrived
    }

    /// Whether more may be taken in while the disk works.
    pub fn has_room(&self, bytes: usize) -> bool {
        bytes < BLOCK_BYTES_MAX
    }
}
