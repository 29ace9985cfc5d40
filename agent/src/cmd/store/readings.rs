//! Raw readings of the journal as points: those that brought no time of their own get that of the clock they were read under.

use std::cell::Cell as Counter;

use weir_engine::{
    codec::bytes::Damaged,
    record::{BatchRecord, ClockQuality, Record},
    results::Results,
};
use weir_plugin_api::{Cell, Chunk, Lane};
use weir_store::inspect::JournalBlock;

use super::view::{Seen, View};

/// What the clock was from a record on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    record: u64,
    boot: u32,
    /// wall − steady.
    offset: i64,
    is_set: bool,
}

/// The clock along the journal.
#[derive(Debug, Default)]
struct Clocks {
    changes: Vec<Change>,
    /// First record of each boot after the first, and its number.
    boots: Vec<(u64, u32)>,
    steady: Option<i64>,
    /// What the last clock record calls its boot, if it does.
    boot: Option<u64>,
}

impl Clocks {
    /// A record was made at this steady time: a smaller one than before is another boot.
    fn pass(&mut self, record: u64, steady: i64) {
        if self.steady.replace(steady).is_some_and(|before| steady < before) {
            self.boots.push((record, self.boots.len() as u32 + 1));
        }
    }

    /// A clock record names its boot (0 does not): one that has run for longer than the boot before is told by that alone.
    fn name_boot(&mut self, record: u64, boot: u64) {
        let is_other = boot != 0 && self.boot.replace(boot).is_some_and(|before| before != boot);
        if is_other && self.boots.last().is_none_or(|(first, _)| *first != record) {
            self.boots.push((record, self.boots.len() as u32 + 1));
        }
    }

    fn change(&mut self, record: u64, offset: i64, quality: ClockQuality) {
        let boot = self.boots.last().map_or(0, |b| b.1);
        self.changes.push(Change { record, boot, offset, is_set: quality != ClockQuality::Unset });
    }

    /// wall − steady for a record, and whether that can be believed: the clock of its time, else the first that was set later in the
    /// same boot, else what an unset clock said.
    fn offset(&self, record: u64) -> (i64, bool) {
        let boot = self.boots.iter().rev().find(|(first, _)| *first <= record).map_or(0, |b| b.1);
        let same = || self.changes.iter().filter(|c| c.boot == boot);
        let before = || same().rev().filter(|c| c.record <= record);
        let known = before().find(|c| c.is_set).or_else(|| same().find(|c| c.record > record && c.is_set));
        match known.or_else(|| before().next()) {
            Some(change) => (change.offset, change.is_set),
            None => (0, false),
        }
    }
}

/// The readings of a journal.
pub struct Readings<'a> {
    view: &'a View,
    clocks: Clocks,
    undated: Counter<u64>,
    /// Blocks that were counted, so that a second pass counts nothing twice.
    counted_upto: Counter<u64>,
}

impl<'a> Readings<'a> {
    /// Reads through the journal for what the clock was.
    pub fn new(view: &'a View) -> Self {
        let mut clocks = Clocks::default();
        let mut checkpoint = view.state.as_ref();
        let note = |state: &weir_engine::core::summary::StateSummary, clocks: &mut Clocks| {
            let (record, operators) = (state.next_record.saturating_sub(1), &state.operators);
            clocks.pass(record, operators.steady);
            clocks.change(record, operators.offset, operators.quality);
        };
        for block in view.blocks(true) {
            // Damage is told where the points are read.
            let _ = view.records(block, |seen| {
                if let Some(state) = checkpoint.take_if(|s| s.next_record <= seen.number) {
                    note(state, &mut clocks);
                }
                clocks.pass(seen.number, seen.stamp.steady);
                if let Record::Clock { offset, quality, boot } = seen.record {
                    clocks.name_boot(seen.number, *boot);
                    clocks.change(seen.number, *offset, *quality);
                }
            });
        }
        if let Some(state) = checkpoint {
            note(state, &mut clocks);
        }
        Self { view, clocks, undated: Counter::new(0), counted_upto: Counter::new(0) }
    }

    /// Points that came under a clock nobody had set.
    pub fn undated(&self) -> u64 {
        self.undated.get()
    }

    /// The points of a block, as far as it can be read.
    pub fn chunk(&self, block: &JournalBlock) -> (Chunk, Result<(), Damaged>) {
        let mut results = Results::default();
        let is_new = block.meta.first_record > self.counted_upto.get();
        let read = self.view.records(block, |seen| {
            if let Record::Batch(batch) = seen.record {
                let undated = self.points(seen, batch, &mut results);
                if is_new {
                    self.undated.set(self.undated.get() + undated);
                }
            }
        });
        self.counted_upto.set(self.counted_upto.get().max(block.last_record()));
        (results.take(Lane::Results), read)
    }

    fn points(&self, seen: &Seen<'_>, batch: &BatchRecord<'_>, results: &mut Results) -> u64 {
        results.start_record(seen.number);
        let (mut undated, mut point) = (0, Vec::<Cell>::new());
        let mut rest = batch.cells;
        while !rest.is_empty() {
            let length = 1 + rest[1..].iter().take_while(|c| !c.starts_point()).count();
            let (cells, more) = rest.split_at(length);
            rest = more;
            point.clear();
            point.extend_from_slice(cells);
            if cells[0].is_untimed() {
                let (offset, is_known) = self.clocks.offset(seen.number);
                undated += u64::from(!is_known);
                point.iter_mut().for_each(|c| c.time = c.time.saturating_add(offset));
            }
            let series = seen.table.series(cells[0].series);
            results.pass(&point, batch.text, series, seen.table.fields(), 0);
        }
        undated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_dated_by_the_clock_of_its_boot() {
        let mut clocks = Clocks::default();
        for (record, steady) in [(1, 10), (2, 20), (3, 30)] {
            clocks.pass(record, steady);
        }
        clocks.change(3, 1000, ClockQuality::Synced);
        clocks.pass(4, 5);
        clocks.change(4, 7, ClockQuality::Unset);
        clocks.pass(5, 6);
        clocks.pass(6, 7);
        clocks.change(6, 2000, ClockQuality::Rtc);
        clocks.pass(7, 8);
        clocks.name_boot(6, 1);
        clocks.name_boot(7, 2);
        clocks.change(7, 9, ClockQuality::Unset);
        assert_eq!(clocks.offset(1), (1000, true), "set later in the same boot");
        assert_eq!(clocks.offset(3), (1000, true));
        assert_eq!(clocks.offset(5), (2000, true), "the boot before tells nothing");
        assert_eq!(clocks.offset(8), (9, false), "nobody ever set it");
    }
}
