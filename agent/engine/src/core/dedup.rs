//! Points of one input that were seen before: the same series, time and values within a span.
//!
//! Apart from the operators, because what is recognised here never becomes part of a record. Two rules make that safe. Only points that are
//! recorded are remembered, so replaying the journal builds the same memory; and whether a batch's points are remembered already is asked
//! with the very stamp its record gets. What is recognised is counted in the batch's record as `duplicate`.
//!
//! The span is measured on the observed axis, from the first of them on: a file sent again is recognised however old its readings are, and
//! an outage of the agent does not make it forget. Points without a time of their own are stamped when they are read, so no two are the
//! same; they are neither recognised nor remembered.
//!
//! A point is remembered as a 64-bit hash, the same on every machine and in every version: it is part of checkpoints. Two different
//! points share one by chance with a probability of 2⁻⁶⁴ for each point remembered.

use std::collections::VecDeque;

use foldhash::fast::FixedState;
use hashbrown::HashSet;
use weir_plugin_api::{Batch, Cell, Kind};

use crate::{
    codec::bytes::{Damaged, Reader, put_i64, put_u64},
    record::BatchRecord,
    series::SeriesTable,
    spec::DedupSpec,
};

/// Points are forgotten in runs of this part of the span: each is remembered for the span at least, and for an eighth more at most.
const RUNS: i64 = 8;

/// Consecutive points that are forgotten together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// When the first came, observed nanoseconds.
    first: i64,
    /// When the last came.
    last: i64,
    /// How many.
    count: usize,
}

/// What one input remembers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dedup {
    seen: HashSet<u64, FixedState>,
    /// The same in the order they came.
    order: VecDeque<u64>,
    runs: VecDeque<Run>,
    /// Forgotten before their time, because `entries_max` was reached.
    pub forgotten: u64,
}

/// Hashes of what the ids of a series table mean, made when first needed.
#[derive(Debug, Default)]
pub(crate) struct NameHashes {
    series: Vec<u64>,
    fields: Vec<u64>,
}

impl Dedup {
    /// Points remembered.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Nothing is remembered, and nothing was forgotten.
    pub fn is_unused(&self) -> bool {
        self.order.is_empty() && self.forgotten == 0
    }

    /// Leaves out of a batch what was seen before and counts it, remembers the rest. The batch's record must be stamped `observed`.
    pub fn filter(&mut self, spec: &DedupSpec, observed: i64, batch: &mut Batch, table: &SeriesTable, names: &mut NameHashes) {
        if !concerns(&batch.cells, batch.counts.duplicate) {
            return;
        }
        self.expire(spec, observed);
        let (mut from, mut kept, mut duplicates) = (0, 0, 0);
        while from < batch.cells.len() {
            let end = end_of_point(&batch.cells, from);
            let hash = names.hash(&batch.cells[from..end], &batch.text, table);
            if hash.is_some_and(|hash| !self.remember(spec, observed, hash)) {
                duplicates += 1;
            } else {
                batch.cells.copy_within(from..end, kept);
                kept += end - from;
            }
            from = end;
        }
        batch.cells.truncate(kept);
        batch.points -= duplicates;
        batch.counts.duplicate += u64::from(duplicates);
    }

    /// A batch's record is read back: what it holds is remembered as it was when it was made.
    pub fn replay(&mut self, spec: &DedupSpec, observed: i64, batch: &BatchRecord<'_>, table: &SeriesTable, names: &mut NameHashes) {
        if !concerns(batch.cells, batch.counts.duplicate) {
            return;
        }
        self.expire(spec, observed);
        let mut from = 0;
        while from < batch.cells.len() {
            let end = end_of_point(batch.cells, from);
            if let Some(hash) = names.hash(&batch.cells[from..end], batch.text, table) {
                self.remember(spec, observed, hash);
            }
            from = end;
        }
    }

    /// Another bound, or none, is in force.
    pub fn adapt(&mut self, spec: Option<&DedupSpec>) {
        match spec {
            Some(spec) => {
                while self.order.len() > spec.entries_max {
                    self.forget_oldest();
                }
            }
            None => *self = Self { forgotten: self.forgotten, ..Self::default() },
        }
    }

    /// Whether it is new; it is remembered then.
    fn remember(&mut self, spec: &DedupSpec, observed: i64, hash: u64) -> bool {
        if !self.seen.insert(hash) {
            return false;
        }
        if self.order.len() >= spec.entries_max {
            self.forget_oldest();
        }
        self.order.push_back(hash);
        match self.runs.back_mut() {
            Some(run) if observed.saturating_sub(run.first) < spec.within / RUNS => {
                run.last = observed;
                run.count += 1;
            }
            _ => self.runs.push_back(Run { first: observed, last: observed, count: 1 }),
        }
        true
    }

    fn forget_oldest(&mut self) {
        let (Some(hash), Some(run)) = (self.order.pop_front(), self.runs.front_mut()) else { return };
        self.seen.remove(&hash);
        self.forgotten += 1;
        run.count -= 1;
        if run.count == 0 {
            self.runs.pop_front();
        }
    }

    /// Forgets what is older than the span.
    fn expire(&mut self, spec: &DedupSpec, observed: i64) {
        while let Some(run) = self.runs.pop_front_if(|run| observed.saturating_sub(run.last) >= spec.within) {
            for hash in self.order.drain(..run.count) {
                self.seen.remove(&hash);
            }
        }
    }

    /// Appends it to a state: equal memories give equal bytes.
    pub fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, self.forgotten);
        put_u64(out, self.runs.len() as u64);
        let mut hashes = self.order.iter();
        for run in &self.runs {
            put_i64(out, run.first);
            put_i64(out, run.last);
            put_u64(out, run.count as u64);
            hashes.by_ref().take(run.count).for_each(|hash| out.extend_from_slice(&hash.to_le_bytes()));
        }
    }

    /// What is remembered and in which order, without when.
    pub fn put_points(&self, out: &mut Vec<u8>) {
        put_u64(out, self.order.len() as u64);
        self.order.iter().for_each(|hash| out.extend_from_slice(&hash.to_le_bytes()));
    }

    /// Reads what [`Dedup::put`] wrote.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, Damaged> {
        let mut dedup = Self { forgotten: reader.u64()?, ..Self::default() };
        for _ in 0..reader.count()? {
            let run = Run { first: reader.i64()?, last: reader.i64()?, count: reader.count()? };
            let bytes = reader.take(run.count.checked_mul(8).ok_or(Damaged("a count is too large"))?)?;
            for hash in bytes.as_chunks::<8>().0 {
                dedup.order.push_back(u64::from_le_bytes(*hash));
            }
            if run.count > 0 {
                dedup.runs.push_back(run);
            }
        }
        dedup.seen.extend(&dedup.order);
        if dedup.seen.len() != dedup.order.len() {
            return Err(Damaged("a point is remembered twice"));
        }
        Ok(dedup)
    }
}

/// Whether a batch moves the memory on: the same for it and for its record, which lacks the duplicates and counts them.
fn concerns(cells: &[Cell], duplicate: u64) -> bool {
    !cells.is_empty() || duplicate > 0
}

fn end_of_point(cells: &[Cell], from: usize) -> usize {
    cells[from + 1..].iter().position(Cell::starts_point).map_or(cells.len(), |at| from + 1 + at)
}

impl NameHashes {
    /// The hash of a point, whatever the order of its fields; `None` when it brought no time of its own.
    fn hash(&mut self, cells: &[Cell], text: &[u8], table: &SeriesTable) -> Option<u64> {
        let first = cells.first().filter(|cell| !cell.is_untimed())?;
        while self.series.len() <= first.series as usize {
            self.series.push(hash_bytes(table.series(self.series.len() as u32).line().as_bytes()));
        }
        let mut fields = 0_u64;
        for cell in cells {
            while self.fields.len() <= usize::from(cell.field) {
                self.fields.push(hash_bytes(table.fields()[self.fields.len()].as_bytes()));
            }
            let value = if cell.kind == Kind::Text as u8 {
                let (start, length) = ((cell.value >> 32) as usize, (cell.value & 0xffff_ffff) as usize);
                hash_bytes(text.get(start..start + length).unwrap_or_default())
            } else {
                cell.value
            };
            let typed = mix(self.fields[usize::from(cell.field)], u64::from(cell.kind));
            fields = fields.wrapping_add(mix(typed, value));
        }
        Some(mix(mix(self.series[first.series as usize], first.time as u64), fields))
    }
}

/// A number that depends on all bits of both: two rounds of a multiplication folded onto itself.
#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let folded = |x: u64, y: u64| {
        let product = u128::from(x) * u128::from(y);
        (product as u64) ^ (product >> 64) as u64
    };
    // Digits of the fractions of √2, √3 and √5: without zeros that would swallow the other factor.
    let once = folded(a ^ 0x6a09_e667_f3bc_c908, b ^ 0xbb67_ae85_84ca_a73b).wrapping_add(a.rotate_left(32));
    folded(once ^ 0x3c6e_f372_fe94_f82b, b.rotate_left(17) ^ 0xa54f_f53a_5f1d_36f1)
}

/// The same on every machine.
pub(super) fn hash_bytes(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(bytes.len() as u64, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    mix(hash, u64::from_le_bytes(last))
}
