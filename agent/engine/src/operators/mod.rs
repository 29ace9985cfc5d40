//! Windows and alerts: a pure state machine over journal records.
//!
//! [`Operators::apply`] is the one way in; results leave through [`Results`]. Time partitions, watermarks and the clock live here too,
//! because every operator needs the same ones.

pub mod expr;

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

/// All operators with their state.
pub struct Operators {
    spec: EngineSpec,
}
