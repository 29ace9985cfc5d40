//! Windows and alerts: a pure state machine over journal records.
//!
//! [`Operators::apply`] is the one way in; results leave through [`Results`]. Time partitions, watermarks and the clock live here too,
//! because every operator needs the same ones.

pub mod expr;

use std::sync::Arc;

use crate::{
    record::{Record, Stamp},
    results::Results,
    series::SeriesTable,
    spec::EngineSpec,
};

/// Counters of one window or alert, as the ledger has them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperatorCounts {
    /// Points that reached it after its filters.
    pub r#in: u64,
    /// Used.
    pub applied: u64,
    /// Pane already freed, or below the floor.
    pub late: u64,
    /// Late because the clock stepped back.
    pub late_clock_step: u64,
    /// Event time too far ahead.
    pub future: u64,
    /// Table of groups full.
    pub overflow_groups: u64,
    /// Too many panes in its group.
    pub overflow_panes: u64,
    /// Text where a number was before, or the other way round.
    pub conflict_type: u64,
    /// A field the condition needs is missing.
    pub undefined: u64,
    /// Results emitted for the first time.
    pub first: u64,
    /// Emitted again with more points.
    pub revision: u64,
    /// Emitted while still open.
    pub early: u64,
    /// Alert transitions.
    pub transitions: u64,
}

/// Counters of the engine as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineCounts {
    /// Points handed to the operators.
    pub dispatched: u64,
    /// Points waiting for the clock now.
    pub held: u64,
    /// Raw points no window took, passed on.
    pub passed: u64,
    /// Raw points every window that took them used up.
    pub taken: u64,
    /// Points refused because their event time lies too far ahead.
    pub rejected_future: u64,
    /// Points of the late stream.
    pub late_stream: u64,
}

/// Why stored state could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// It was written by another format version.
    #[error("state has format {found}, this version reads {expected}")]
    Version {
        /// What it says.
        found: u16,
        /// What is understood.
        expected: u16,
    },
    /// It ends early or contradicts itself.
    #[error("state is damaged at byte {0}")]
    Damaged(usize),
}

/// All operators with their state.
#[derive(Clone, Debug)]
pub struct Operators {
    spec: Arc<EngineSpec>,
    counts: EngineCounts,
    operator_counts: Vec<OperatorCounts>,
    levels: Vec<bool>,
}

impl Operators {
    /// No state yet.
    pub fn new(spec: Arc<EngineSpec>) -> Self {
        Self {
            counts: EngineCounts::default(),
            operator_counts: vec![OperatorCounts::default(); spec.windows.len() + spec.alerts.len()],
            levels: vec![false; spec.levels.len()],
            spec,
        }
    }

    /// Applies one record; `table` already has every id it uses. What leaves goes to `results`, on which
    /// [`Results::start_record`] was called.
    pub fn apply(&mut self, _stamp: Stamp, record: &Record<'_>, _table: &SeriesTable, _results: &mut Results) {
        if let Record::Batch(batch) = record {
            self.counts.dispatched += u64::from(batch.points);
        }
    }

    /// Earliest observed time at which a [`Record::Tick`] is needed.
    pub fn next_deadline(&self) -> Option<i64> {
        None
    }

    /// Wanted level of each level action: on while any alert that names it fires in any group.
    pub fn levels(&self) -> &[bool] {
        &self.levels
    }

    /// Counters of the engine as a whole.
    pub fn counts(&self) -> &EngineCounts {
        &self.counts
    }

    /// Name and counters of each window, then of each alert.
    pub fn operator_counts(&self) -> impl Iterator<Item = (&str, &OperatorCounts)> {
        let windows = self.spec.windows.iter().map(|w| w.name.as_str());
        windows.chain(self.spec.alerts.iter().map(|a| a.name.as_str())).zip(&self.operator_counts)
    }

    /// Appends everything there is to know to `out`.
    pub fn snapshot(&self, _table: &SeriesTable, _out: &mut Vec<u8>) {}

    /// The state a snapshot holds, as far as `spec` still has a use for it, and in words what was dropped because its meaning changed.
    ///
    /// # Errors
    /// When the bytes are of another version or damaged.
    pub fn restore(spec: Arc<EngineSpec>, _bytes: &[u8], _table: &mut SeriesTable) -> Result<(Self, Vec<String>), SnapshotError> {
        Ok((Self::new(spec), Vec::new()))
    }

    /// Digest of the snapshot.
    pub fn digest(&self, table: &SeriesTable) -> u64 {
        let mut bytes = Vec::new();
        self.snapshot(table, &mut bytes);
        u64::from(crc32c::crc32c(&bytes))
    }
}
