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
const MINUTE: i64 = 60_000_000_000;

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
    /// Something in the open block cannot wait.
    pub urgent: bool,
    /// Records up to here are durable as the mode has it.
    pub durable: u64,
    /// Steady time of the next sync in `crash` mode.
    pub sync_due: Option<i64>,
    /// Steady times of syncs within the last minute, under a budget.
    syncs: VecDeque<i64>,
    /// Commits so far.
    pub commits: u64,
    /// Journal bytes since the last checkpoint.
    pub journal_bytes: u64,
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
            ..Self::default()
        }
    }

    /// Something in the open block waits for its commit.
    pub fn wait(&mut self, steady: i64) {
        self.due.get_or_insert(steady + self.interval);
    }

    /// Whether the open block, of `bytes`, is committed now.
    pub fn fires(&mut self, bytes: usize, steady: i64) -> bool {
        let wanted = self.urgent || bytes >= BLOCK_BYTES || self.due.is_some_and(|due| due <= steady);
        if !wanted || self.in_flight.len() >= IN_FLIGHT_MAX {
            return false;
        }
        self.urgent || self.within_budget(steady)
    }

    fn within_budget(&mut self, steady: i64) -> bool {
        if self.budget == 0 || self.durability != Durability::Power {
            return true;
        }
        while self.syncs.front().is_some_and(|at| steady - at >= MINUTE) {
            self.syncs.pop_front();
        }
        if self.syncs.len() < self.budget {
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
        self.journal_bytes += bytes as u64;
        self.next_block += 1;
        (self.due, self.urgent) = (None, false);
        match self.durability {
            Durability::Power if self.budget > 0 => self.syncs.push_back(steady),
            Durability::Crash => {
                self.sync_due.get_or_insert(steady + self.sync_interval);
            }
            _ => {}
        }
        self.in_flight.push_back(flight);
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
