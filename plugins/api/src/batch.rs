//! What an input fills and pushes into its ring: cells, the text they point into, and the names seen for the first time.

use std::sync::Arc;

use crate::{cell::Cell, position::Position, series::Series};

/// Cells after which a batch is full; a point or message that is being written is finished first.
pub const BATCH_CELLS: usize = 1024;
/// Bytes of text after which a batch is full.
pub const BATCH_TEXT: usize = 64 * 1024;
/// Cells one message may have: it is in one batch as a whole, however many it has.
pub const MESSAGE_CELLS: usize = 256 * 1024;
/// Bytes of text one message, and one point, may have.
pub const MESSAGE_TEXT: usize = 16 * 1024 * 1024;

/// Points counted before the journal, since the batch before: they ride in the record and become engine state there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InputCounts {
    /// Everything that came in: points, and lines or messages that gave none.
    pub read: u64,
    /// Payload or line that its codec could not read.
    pub refused_parse: u64,
    /// Broken frame: checksum, length, version.
    pub refused_frame: u64,
    /// Larger than a limit.
    pub refused_size: u64,
    /// No field but NaN and infinities.
    pub refused_nan: u64,
    /// The input's table of series was full, or that of field names for all its fields.
    pub refused_series: u64,
    /// Taken out by the input's filters.
    pub filtered: u64,
    /// Recognised as delivered before.
    pub duplicate: u64,
    /// Newest reading dropped because the ring was full and the source cannot wait.
    pub dropped_ring_full: u64,
    /// Readings the source says it lost, or that a gap in its numbering shows: never part of `read`.
    pub lost_link: u64,
    /// Single fields left out of points that went on (NaN, infinite, or past the input's table of field names): not part of `read`.
    pub dropped_fields: u64,
}

impl InputCounts {
    /// Names and values in a fixed order, for encoding, status and metrics. The order is part of the journal's format.
    pub fn fields(&self) -> [(&'static str, u64); 11] {
        [
            ("read", self.read),
            ("refused_parse", self.refused_parse),
            ("refused_frame", self.refused_frame),
            ("refused_size", self.refused_size),
            ("refused_nan", self.refused_nan),
            ("refused_series", self.refused_series),
            ("filtered", self.filtered),
            ("duplicate", self.duplicate),
            ("dropped_ring_full", self.dropped_ring_full),
            ("lost_link", self.lost_link),
            ("dropped_fields", self.dropped_fields),
        ]
    }

    /// The counts of `values` in the order of [`InputCounts::fields`].
    pub fn from_values(values: [u64; 11]) -> Self {
        let [
            read,
            refused_parse,
            refused_frame,
            refused_size,
            refused_nan,
            refused_series,
            filtered,
            duplicate,
            dropped_ring_full,
            lost_link,
            dropped_fields,
        ] = values;
        Self {
            read,
            refused_parse,
            refused_frame,
            refused_size,
            refused_nan,
            refused_series,
            filtered,
            duplicate,
            dropped_ring_full,
            lost_link,
            dropped_fields,
        }
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: &Self) {
        let mut values = self.fields().map(|(_, v)| v);
        for (value, (_, more)) in values.iter_mut().zip(other.fields()) {
            // A device may say it lost anything.
            *value = value.saturating_add(more);
        }
        *self = Self::from_values(values);
    }

    /// Whether nothing was counted.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// Points of `read` that did not become part of a record.
    pub fn not_recorded(&self) -> u64 {
        self.refused_parse
            + self.refused_frame
            + self.refused_size
            + self.refused_nan
            + self.refused_series
            + self.filtered
            + self.duplicate
            + self.dropped_ring_full
    }
}

/// A recycled container of cells on its way from one input to the core.
#[derive(Debug, Default)]
pub struct Batch {
    /// Consecutive number within the input's run, from 1. Acknowledgements name it.
    pub number: u64,
    /// Where in the source this batch ends.
    pub position: Position,
    /// When its first bytes were read, steady nanoseconds.
    pub read_at: i64,
    /// What was counted since the batch before.
    pub counts: InputCounts,
    /// Series ids and field ids are the input's own.
    pub cells: Vec<Cell>,
    /// Text of text cells.
    pub text: Vec<u8>,
    /// Number of points in `cells`.
    pub points: u32,
    /// Series first used in this batch: id and meaning. Ids are dense from 0, each is announced once, in order.
    pub new_series: Vec<Arc<Series>>,
    /// Time partition of each new series: values of the partition tags, joined; equal text is the same partition of this input.
    pub new_partitions: Vec<Arc<str>>,
    /// Fields first used in this batch. Ids are dense from 0, in order.
    pub new_fields: Vec<Arc<str>>,
}

impl Batch {
    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.number = 0;
        self.position = Position::None;
        self.read_at = 0;
        self.counts = InputCounts::default();
        self.cells.clear();
        self.text.clear();
        self.points = 0;
        self.new_series.clear();
        self.new_partitions.clear();
        self.new_fields.clear();
        // One large message must not pin its memory for good.
        if self.text.capacity() > 4 * BATCH_TEXT {
            self.text.shrink_to(BATCH_TEXT);
        }
        if self.cells.capacity() > 4 * BATCH_CELLS {
            self.cells.shrink_to(BATCH_CELLS);
        }
    }

    /// Whether it is so large that the pool, counted in batches, would be no bound of memory if there were many of it.
    pub fn is_large(&self) -> bool {
        self.cells.len() > 4 * BATCH_CELLS || self.text.len() > 4 * BATCH_TEXT
    }

    /// Whether it has nothing worth sending.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty() && self.position == Position::None && self.counts.is_zero()
    }
}
