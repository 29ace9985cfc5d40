//! What must hold: the records that are committed, what the operators make of them without any interruption, and what the naive reference
//! makes of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weir_engine::{
    codec::record,
    core::BlockMeta,
    operators::{
        Floors, Operators,
        reference::{self, Reference},
    },
    record::Record,
    results::Results,
    series::SeriesTable,
    spec::EngineSpec,
};
use weir_plugin_api::{Chunk, Identity, Lane, Value};

use super::{
    edits::Order,
    sources::Taken,
    world::{self, Readings},
};

/// A result: where it belongs, and what it says.
pub type Place = (Lane, Identity);

/// Results and the outputs they are for.
pub type Made = BTreeMap<Place, (String, u64)>;

/// What becomes of level actions.
pub struct Levels {
    /// How they are wanted in the end.
    pub wanted: Vec<bool>,
    /// The records that move one: what is of the past notifies first, and a point of the present moves the level.
    pub moved: BTreeSet<u64>,
}

/// A block the core handed to the disk.
#[derive(Clone, Debug)]
struct Block {
    meta: BlockMeta,
    bytes: Vec<u8>,
    /// The batches in it.
    taken: Vec<Taken>,
    /// When it was handed over.
    at: i64,
    /// The write budget had no room for it, and it did not come with a checkpoint.
    over_budget: bool,
    /// The configuration it brings, if it does.
    config: Option<Arc<EngineSpec>>,
}

impl Block {
    fn decode(
        &self,
        spec: &EngineSpec,
        table: &mut SeriesTable,
        apply: impl FnMut(u64, weir_engine::record::Stamp, &Record<'_>, &SeriesTable),
    ) -> Result<(), String> {
        let inputs: Vec<&str> = spec.inputs.iter().map(|i| i.name.as_str()).collect();
        let outputs: Vec<&str> = spec.outputs.iter().map(|o| o.name.as_str()).collect();
        let decoded = record::decode(&self.meta, &self.bytes, 0, table, &inputs, &outputs, apply);
        decoded.map_err(|e| format!("block {:?}: {e}", self.meta))
    }

    fn last(&self) -> u64 {
        last(&self.meta)
    }
}

/// The committed records: blocks as they were handed to the disk, without those that did not survive.
#[derive(Debug, Default)]
pub struct Committed {
    blocks: Vec<Block>,
    /// Batches in no block yet.
    open: Vec<Taken>,
    /// The configuration of the last start that found no state: it is all there is where the record that named the first one is lost.
    began: Option<Arc<EngineSpec>>,
    /// Where that start had windows begin.
    above: Above,
    /// The last record it replayed without those before them, 0 if it had all of them.
    rebuilt_to: u64,
}

/// Above which windows begin.
#[derive(Debug, Default)]
pub enum Above {
    /// Nothing.
    #[default]
    Nothing,
    /// Floors of a record.
    These(Floors),
    /// Those the start made up, and says in a record behind this one.
    Behind(u64),
}

impl Above {
    /// What a start without a state goes by: floors behind the last gap, or those before it, or its own where there was a state once. And the
    /// last record that it replays without those before them, if any is missing.
    pub fn of(blocks: &[(BlockMeta, &[u8])], had_state: bool) -> (Self, u64) {
        let behind_gap = |at: &usize| *at == 0 || blocks[*at].0.first_record > last(&blocks[at - 1].0) + 1;
        let gap = (0..blocks.len()).rev().find(behind_gap).unwrap_or(0);
        if gap == 0 && blocks.first().is_some_and(|(meta, _)| meta.first_record == 1) {
            // With the first record a start says what it made up without any journal.
            return match floors_in(&blocks[0].0, blocks[0].1) {
                Some((1, floors)) => (Self::These(floors), 0),
                _ => (Self::Nothing, 0),
            };
        }
        let floors = |at: usize| Some(floors_in(&blocks[at].0, blocks[at].1)?.1);
        let newest = blocks.last().map_or(0, |(meta, _)| last(meta));
        match (gap..blocks.len()).chain((0..gap).rev()).find_map(floors) {
            Some(floors) => (Self::These(floors), newest),
            None if had_state => (Self::Behind(newest), newest),
            None => (Self::Nothing, 0),
        }
    }
}

fn last(meta: &BlockMeta) -> u64 {
    meta.first_record + u64::from(meta.records) - 1
}

/// The first floors that a block says, and with which record.
fn floors_in(meta: &BlockMeta, bytes: &[u8]) -> Option<(u64, Floors)> {
    let (mut table, mut found) = (SeriesTable::new(EngineSpec::default().limits.series_max), None);
    let _ = record::decode(meta, bytes, 0, &mut table, &[], &[], |sequence, _, record, _| {
        if let Record::Floors { common, groups, .. } = record {
            found.get_or_insert_with(|| (sequence, Floors { common: *common, groups: groups.to_vec() }));
        }
    });
    found
}

/// Whether a record leaves the operators alone.
fn is_aside(record: &Record<'_>) -> bool {
    matches!(
        record,
        Record::Config { .. } | Record::Delivered { .. } | Record::Expired { .. } | Record::Thinned { .. } | Record::Floors { .. }
    )
}

/// A point as text.
pub fn content(chunk: &Chunk, index: usize, lane: Lane) -> String {
    let point = chunk.point(index);
    let fields: Vec<String> = point.fields().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{lane:?} {} {} {}", point.series().line(), fields.join(","), point.time())
}

impl Committed {
    /// A batch was given to the core.
    pub fn take(&mut self, taken: Taken) {
        self.open.push(taken);
    }

    /// A block was handed to the disk.
    pub fn append(&mut self, meta: &BlockMeta, bytes: &[u8], at: i64, over_budget: bool) {
        let taken = std::mem::take(&mut self.open);
        let mut block = Block { meta: meta.clone(), bytes: bytes.to_vec(), taken, at, over_budget, config: None };
        // By itself: a configuration names nothing outside.
        let (nothing, mut config) = (EngineSpec::default(), None);
        let mut table = SeriesTable::new(nothing.limits.series_max);
        let _ = block.decode(&nothing, &mut table, |_, _, record, _| {
            if let Record::Config { spec } = record {
                config = EngineSpec::from_bytes(spec).ok();
            }
        });
        block.config = config.map(Arc::new);
        self.blocks.push(block);
    }

    /// First and last records of the blocks the write budget had no room for.
    pub fn over_budget(&self) -> impl Iterator<Item = (u64, u64)> {
        self.blocks.iter().filter(|b| b.over_budget).map(|b| (b.meta.first_record, b.last()))
    }

    /// When the first block behind this record was handed over, if there is one.
    pub fn appended_behind(&self, record: u64) -> Option<i64> {
        self.blocks.iter().find(|b| b.meta.first_record > record).map(|b| b.at)
    }

    /// The last record.
    pub fn last(&self) -> u64 {
        self.blocks.last().map_or(0, Block::last)
    }

    /// All batches, in the order of their records.
    pub fn taken(&self) -> impl DoubleEndedIterator<Item = &Taken> {
        self.blocks.iter().flat_map(|b| &b.taken).chain(&self.open)
    }

    /// After a crash `records` are left, without those in `lost`, first record and number. Says which batches are gone with them: those of
    /// the tail and those in the middle, block by block.
    ///
    /// # Errors
    /// When it isn't a whole number of blocks that was lost.
    pub fn recovered(&mut self, records: u64, lost: &[(u64, u64)]) -> Result<[Vec<Vec<Taken>>; 2], String> {
        let kept = self.blocks.partition_point(|b| b.meta.first_record <= records);
        let mut tail: Vec<Vec<Taken>> = self.blocks.split_off(kept).into_iter().map(|b| b.taken).collect();
        tail.push(std::mem::take(&mut self.open));
        if self.last() != records && lost.is_empty() {
            return Err(format!("recovered to record {records}, the last block ends with {}", self.last()));
        }
        let mut middle = Vec::new();
        for (first, count) in lost {
            let end = first + count;
            let (within, partly) =
                (|b: &Block| b.meta.first_record >= *first && b.last() < end, |b: &Block| b.meta.first_record < end && b.last() >= *first);
            if let Some(block) = self.blocks.iter().find(|b| partly(b) && !within(b)) {
                return Err(format!("{count} records from {first} on are said to be lost, a block has {:?}", block.meta));
            }
            self.blocks.retain_mut(|b| {
                let gone = within(b);
                middle.extend(gone.then(|| std::mem::take(&mut b.taken)));
                !gone
            });
        }
        Ok([tail, middle])
    }

    /// A start found no state and goes by this configuration until a record names another.
    pub fn begin_with(&mut self, spec: &Arc<EngineSpec>, (above, rebuilt_to): (Above, u64)) {
        (self.began, self.above, self.rebuilt_to) = (Some(Arc::clone(spec)), above, rebuilt_to);
    }

    /// Whether it began above any.
    pub fn is_above(&self) -> bool {
        !matches!(self.above, Above::Nothing)
    }

    /// The floors it began above.
    fn floors(&self) -> Floors {
        match &self.above {
            Above::Nothing => Floors::default(),
            Above::These(floors) => floors.clone(),
            Above::Behind(record) => {
                let mut made = self.blocks.iter().filter(|block| block.meta.first_record > *record);
                made.find_map(|block| floors_in(&block.meta, &block.bytes)).unwrap_or_default().1
            }
        }
    }

    /// The configuration the first record found, and its order.
    pub fn beginning(&self, first: &Arc<EngineSpec>) -> (Arc<EngineSpec>, Order) {
        // Where floors lie is a matter of its windows, whatever comes next.
        let is_lost = self.is_above() || self.blocks.first().is_some_and(|block| block.config.is_none());
        let began = self.began.as_ref().filter(|_| is_lost).unwrap_or(first);
        (Arc::clone(began), Order::first(first).next(first, began))
    }

    /// The order of outputs that the records lead to.
    pub fn order(&self, first: &Arc<EngineSpec>) -> Order {
        self.blocks.iter().filter_map(|b| b.config.as_ref()).fold(self.beginning(first).1, |order, spec| order.next(first, spec))
    }

    /// Applies every record, in order, under the configuration of its day, and says how the outputs of that day are ordered.
    pub fn day_by_day(&self, first: &Arc<EngineSpec>, mut apply: impl FnMut(u64, &Record<'_>, &Order)) -> Result<(), String> {
        let (mut spec, mut order) = self.beginning(first);
        let mut table = SeriesTable::new(spec.limits.series_max);
        for block in &self.blocks {
            block.decode(&spec, &mut table, |sequence, _, record, _| apply(sequence, record, &order))?;
            if let Some(edited) = &block.config {
                (order, spec) = (order.next(first, edited), Arc::clone(edited));
                table = SeriesTable::new(spec.limits.series_max);
            }
        }
        Ok(())
    }

    /// Applies every record, in order, with the names of the first configuration for ids.
    pub fn each(
        &self,
        spec: &EngineSpec,
        mut apply: impl FnMut(u64, weir_engine::record::Stamp, &Record<'_>, &SeriesTable),
    ) -> Result<(), String> {
        let mut table = SeriesTable::new(spec.limits.series_max);
        self.blocks.iter().try_for_each(|block| block.decode(spec, &mut table, &mut apply))
    }

    /// Whether any of these records is such a one.
    pub fn has(&self, first: u64, last: u64, such: impl Fn(&Record<'_>) -> bool) -> bool {
        let spec = EngineSpec::default();
        let mut table = SeriesTable::new(spec.limits.series_max);
        let mut found = false;
        for block in self.blocks.iter().filter(|b| b.meta.first_record <= last && b.last() >= first) {
            // Names of others are unknown, which is nothing to its kind.
            let _ = block.decode(&spec, &mut table, |_, _, record, _| found |= such(record));
        }
        found
    }

    /// Every result of the committed records, and the outputs it is for by their places in the first configuration, as the operators make
    /// them in one go, each record under the configuration that the records before it name; and what becomes of the levels.
    ///
    /// # Errors
    /// When a record can't be read back.
    pub fn results(&self, first: &Arc<EngineSpec>) -> Result<(Made, Levels), String> {
        let mut floors = self.floors();
        if self.rebuilt_to > 0 {
            // What lacks a point that it may have had while there was a state is not sent again.
            let mut look = Operators::new(self.beginning(first).0);
            look.start_above(&floors);
            look.note_missed();
            let replayed = self.blocks.partition_point(|block| block.last() <= self.rebuilt_to);
            let (_, look, _) = self.run(first, look, &self.blocks[..replayed])?;
            floors.raise(look.missed());
        }
        let mut operators = Operators::new(self.beginning(first).0);
        operators.start_above(&floors);
        let (all, operators, moved) = self.run(first, operators, &self.blocks)?;
        Ok((all, Levels { wanted: operators.levels().to_vec(), moved }))
    }

    /// What operators make of these blocks, the first of which is the first one there is; and which records move a level.
    fn run(&self, first: &Arc<EngineSpec>, mut operators: Operators, blocks: &[Block]) -> Result<(Made, Operators, BTreeSet<u64>), String> {
        let (mut all, mut moved) = (BTreeMap::new(), BTreeSet::new());
        let (mut spec, mut order) = self.beginning(first);
        let mut table = SeriesTable::new(spec.limits.series_max);
        let mut results = Results::default();
        for block in blocks {
            block.decode(&spec, &mut table, |sequence, stamp, record, table| {
                results.start_record(sequence);
                if let Record::Floors { clock: Some(then), .. } = record {
                    operators.believe(stamp, then, table, &mut results);
                }
                if is_aside(record) {
                    return;
                }
                let levels = operators.levels().to_vec();
                operators.apply(stamp, record, table, &mut results);
                if operators.levels() != levels {
                    moved.insert(sequence);
                }
                for lane in Lane::ALL {
                    let chunk = results.take(lane);
                    let result = |i| ((lane, chunk.identity(i)), (content(&chunk, i, lane), order.route(chunk.route(i))));
                    all.extend((0..chunk.len()).map(result));
                    if crate::is_traced() {
                        (0..chunk.len()).for_each(|i| eprintln!("{sequence:>8} {}", content(&chunk, i, lane)));
                    }
                }
            })?;
            let Some(edited) = block.config.clone() else { continue };
            if crate::is_traced() {
                eprintln!(
                    "{:>8} {:?} {:?}",
                    block.last(),
                    edited.windows.iter().map(|w| (w.every, w.period, w.lateness, w.allowed_lateness)).collect::<Vec<_>>(),
                    edited.alerts[0].when
                );
            }
            if edited != spec {
                let mut migrated = SeriesTable::new(edited.limits.series_max);
                (operators, _) = operators.migrated(&table, Arc::clone(&edited), &mut migrated).map_err(|e| e.to_string())?;
                (order, spec, table) = (order.next(first, &edited), edited, migrated);
            }
        }
        Ok((all, operators, moved))
    }

    /// Every item of a source that can repeat itself was counted once, but for those that are `gone`.
    ///
    /// # Errors
    /// What was counted twice or not at all.
    pub fn check_items(
        &self,
        spec: &EngineSpec,
        readings: Readings,
        items: usize,
        gone: &[Taken],
        lost: &[&BTreeSet<usize>],
    ) -> Result<(), String> {
        let mut taken = self.taken();
        let mut wrong = None;
        self.each(spec, |sequence, _, record, _| {
            let Record::Batch(batch) = record else { return };
            let expected = taken.next();
            let input = usize::from(batch.input);
            let fresh = |t: &Taken| t.fresh == (batch.points > 0) || readings.leaves_to_dedup(input);
            let same = expected.is_some_and(|t| t.input == input && t.read == batch.counts.read && fresh(t));
            if !same && wrong.is_none() {
                wrong = Some(format!("record {sequence} of input {} is not {expected:?}", batch.input));
            }
        })?;
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        for (input, lost) in lost.iter().enumerate().filter(|(input, _)| !readings.leaves_to_dedup(*input)) {
            let mut times = vec![0; items];
            self.taken().filter(|t| t.input == input && t.fresh).for_each(|t| times[t.item] += 1);
            let may_miss = |item| {
                let gone = || gone.iter().any(|t| (t.input, t.item) == (input, item));
                world::kind(input) == world::Kind::Polled || lost.contains(&item) || gone()
            };
            if let Some(item) = (0..items).find(|item| times[*item] > 1 || times[*item] == 0 && !may_miss(*item)) {
                return Err(format!("item {item} of input {input} was counted {} times", times[item]));
            }
        }
        Ok(())
    }

    /// Windows as the naive reference has them are those the operators emit: `results` is what [`Committed::results`] said.
    ///
    /// # Errors
    /// The first difference.
    pub fn check_windows(&self, first: &Arc<EngineSpec>, results: &Made) -> Result<(), String> {
        let (began, _) = self.beginning(first);
        for (index, window) in began.windows.iter().enumerate() {
            let name = window.name.clone();
            let mut naive = Reference::new(window.clone(), began.time.clone());
            let floors = self.floors();
            naive.start_above(floors.common, &floors.groups);
            let (mut wanted, mut anew) = (Vec::new(), false);
            self.each(first, |_, stamp, record, table| {
                if let Record::Config { spec: edited } = record {
                    let edited = EngineSpec::from_bytes(edited).expect("results() has read it").windows.swap_remove(index);
                    anew |= (edited.every, edited.period) != (window.every, window.period);
                    naive.edit(edited);
                }
                let points = if let Record::Batch(batch) = record { numeric(batch, table) } else { Vec::new() };
                if matches!(record, Record::Finish) {
                    naive.finish(stamp.observed);
                } else if !is_aside(record) {
                    naive.record(stamp.observed, &points);
                }
                wanted.extend(naive.take().iter().map(line));
            })?;
            // From an edit on that makes it begin anew, only that nothing was taken back is looked at.
            if anew {
                continue;
            }
            // Late points keep the measurement they came with.
            let prefix = format!("{:?} {name},", Lane::Results);
            let got: Vec<&str> = results.values().map(|r| r.0.as_str()).filter(|r| r.starts_with(&prefix)).collect();
            for at in 0..got.len().max(wanted.len()) {
                let (got, wanted) = (got.get(at).copied().unwrap_or("nothing"), wanted.get(at).map_or("nothing", String::as_str));
                if !alike(got, wanted) {
                    return Err(format!("window {name}, result {at}: {got} is not {wanted}"));
                }
            }
        }
        Ok(())
    }
}

/// The points of a batch a window takes.
fn numeric(batch: &weir_engine::record::BatchRecord<'_>, table: &SeriesTable) -> Vec<reference::Point> {
    let mut points: Vec<reference::Point> = Vec::new();
    for cell in batch.cells {
        let entry = &table.entries()[cell.series as usize];
        if entry.series.measurement() != "m0" {
            continue;
        }
        if cell.starts_point() {
            let partition = format!("{} {}", batch.input, table.partitions()[entry.partition as usize].name);
            points.push(reference::Point { partition, series: (*entry.series).clone(), time: cell.time, fields: Vec::new() });
        }
        if let (Some(point), Some(value)) = (points.last_mut(), cell.as_f64()) {
            point.fields.push((table.fields()[usize::from(cell.field)].to_string(), value));
        }
    }
    points
}

/// An outcome of the reference as [`content`] would write it.
fn line(outcome: &reference::Outcome) -> String {
    let mut fields: Vec<String> = Vec::new();
    for (name, value) in &outcome.fields {
        let value =
            if name.ends_with("_count") { format!("{:?}", Value::Int(*value as i64)) } else { format!("{:?}", Value::Float(*value)) };
        fields.push(format!("{name}={value}"));
    }
    fields.push(format!("complete={:?}", Value::Bool(outcome.complete)));
    fields.push(format!("revision={:?}", Value::Int(i64::from(outcome.revision))));
    format!("{:?} {} {} {}", Lane::Results, outcome.series, fields.join(","), outcome.start)
}

/// Whether two results are the same but for the rounding of sums and of the percentiles of many values.
fn alike(a: &str, b: &str) -> bool {
    if a == b {
        return true;
    }
    let split = |text: &str| text.split([' ', ',']).map(str::to_owned).collect::<Vec<_>>();
    let (a, b) = (split(a), split(b));
    let float = |text: &str| text.split_once("=Float(").and_then(|(_, v)| v.trim_end_matches(')').parse::<f64>().ok());
    a.len() == b.len()
        && a.iter().zip(&b).all(|(a, b)| match (float(a), float(b)) {
            (Some(x), Some(y)) => {
                let tolerance = if a.contains("_p95=") { 0.011 } else { 1e-9 };
                a.split('=').next() == b.split('=').next() && (x - y).abs() <= tolerance * (1.0 + x.abs().max(y.abs()))
            }
            _ => a == b,
        })
}

/// What a window's result replaces, each with how many points it is made of.
pub fn counts(result: &str) -> impl Iterator<Item = (String, i64)> {
    let mut words = result.split(' ').skip(1).filter(|_| result.contains("complete="));
    let (series, fields, time) = (words.next().unwrap_or_default(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let counted = fields.split(',').filter(|f| f.contains("_count=")).filter_map(|field| field.split_once("=Int("));
    counted.map(move |(name, count)| (format!("{series} {time} {name}"), count.trim_end_matches(')').parse().unwrap_or(0)))
}

/// A window's result is only ever replaced by one of as many points or more: `results` in the order of their identities.
///
/// # Errors
/// The first result that takes something back.
pub fn check_replacements<'a>(results: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let mut newest: BTreeMap<String, (i64, &str)> = BTreeMap::new();
    for result in results {
        for (place, count) in counts(result) {
            let before = newest.insert(place, (count, result));
            if let Some((more, before)) = before.filter(|(more, _)| *more > count) {
                return Err(format!("{before} with {more} points was replaced by {result}"));
            }
        }
    }
    Ok(())
}
