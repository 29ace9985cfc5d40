//! Windows: tumbling and hopping, in event time, per group.
//!
//! | file | holds |
//! | --- | --- |
//! | `aggregate`, `sketch` | accumulators of one field |
//! | `pane`, `group` | accumulators of one group over `every`; a group's fields, panes and watermark |
//! | `progress` | when something is due, without looking at every group for every point |
//! | `emit` | closing, early emission, revisions |
//! | `ended` | what is left of groups that are no more |
//! | `missed` | windows that lack a point, where a state is lost |
//! | `state` | what a snapshot keeps of it |
//!
//! How the rules are read where they leave room:
//! - A point is *taken* when the window takes at least one of its fields. A field of text or booleans is taken only if count, first or
//!   last is asked. A taken point is not passed on, the fields the window left out included.
//! - A group is a measurement (or `name_override`) and the `by` tags.
//! - A pane counts as freed once the last window that covers it ends, plus `allowed_lateness`, at or below the watermark, whether it
//!   ever held a point or not: a straggler does not make a complete result of itself alone. A point of a hopping window is late when
//!   all its windows are freed; it is merged into those that are left otherwise.

pub(super) mod aggregate;
mod emit;
pub(super) mod ended;
pub(super) mod group;
mod missed;
pub(super) mod pane;
mod progress;
pub(super) mod sketch;
pub(super) mod state;

use std::{collections::BTreeSet, sync::Arc};

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weir_plugin_api::{Cell, Series, SeriesParts, filter::Globs};

use self::{
    aggregate::{Class, Layout},
    emit::Staged,
    ended::Ended,
    group::{Grid, Group, Slot},
    missed::Missed,
    pane::Pane,
};
use super::{OperatorCounts, Out, PointRef, route, time::Partitions};
use crate::{
    series::SeriesTable,
    spec::{EngineSpec, WindowSpec},
};

/// Series cache: not looked at yet.
const UNKNOWN: u32 = u32::MAX;
/// Series cache: the filters drop it.
const DROPPED: u32 = u32::MAX - 1;
/// Series cache: the table of groups was full.
const REFUSED: u32 = u32::MAX - 2;

/// What became of a point at one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Not for this window.
    NotTaken,
    /// Merged.
    Applied,
    /// Its pane is freed; how far behind the watermark it is, nanoseconds.
    Late(i64),
    /// A table is full, or every value was of another type than before.
    Refused,
}

/// One `[[windows]]` with its state.
#[derive(Clone, Debug)]
pub(super) struct WindowOperator {
    /// Its place among the windows.
    index: usize,
    spec: Arc<EngineSpec>,
    grid: Grid,
    layout: Layout,
    patterns: Globs,
    /// Group by series id, of the plain and of the provisional side.
    series: [Vec<u32>; 2],
    /// By field id: 0 unknown, 1 not taken, 2 taken.
    takes: Vec<u8>,
    /// Names of the results' fields, by field id, one per aggregate.
    names: Vec<Option<Box<[Arc<str>]>>>,
    /// By number; those in `free` are no more.
    groups: Vec<Group>,
    /// Numbers of groups that have ended: the next ones get them, the lowest first.
    free: BTreeSet<u32>,
    /// Series of those.
    nobody: Arc<Series>,
    ended: Ended,
    keys: HashMap<Arc<Series>, u32, FixedState>,
    /// By partition index: groups it ever fed.
    fed: Vec<Vec<u32>>,
    /// By partition index: the event time at which a group that watches it is due.
    due: Vec<i64>,
    /// Groups with re-opened windows.
    reopened: Vec<u32>,
    /// None of them is due before this observed time.
    reemit: i64,
    /// No group has been silent for its time-to-live before this observed time.
    expiry: i64,
    /// Open panes of all groups.
    panes: usize,
    /// What they count for, bytes.
    pane_bytes: usize,
    /// Read back, perhaps under another lateness or without a partition: something may be due that was not.
    restored: bool,
    pool: Vec<Pane>,
    staged: Vec<Staged>,
    scratch: Vec<u32>,
    /// Noted while a journal is looked through.
    missed: Option<Missed>,
    pub counts: OperatorCounts,
}

/// Panes kept for reuse.
const POOL_MAX: usize = 1024;

impl WindowOperator {
    pub fn new(spec: Arc<EngineSpec>, index: usize) -> Self {
        let window = &spec.windows[index];
        Self {
            index,
            grid: Grid::new(window),
            layout: Layout::new(&window.aggregates),
            patterns: Globs::new(&window.fields),
            series: [Vec::new(), Vec::new()],
            takes: Vec::new(),
            names: Vec::new(),
            groups: Vec::new(),
            free: BTreeSet::new(),
            nobody: Arc::new(Series::new(&SeriesParts::default())),
            ended: Ended::default(),
            keys: HashMap::with_hasher(FixedState::default()),
            fed: Vec::new(),
            due: Vec::new(),
            reopened: Vec::new(),
            reemit: i64::MAX,
            expiry: i64::MAX,
            panes: 0,
            pane_bytes: 0,
            restored: false,
            pool: Vec::new(),
            staged: Vec::new(),
            scratch: Vec::new(),
            missed: None,
            counts: OperatorCounts::default(),
            spec,
        }
    }

    pub fn window(&self) -> &WindowSpec {
        &self.spec.windows[self.index]
    }

    /// Whether the window selects a series and takes any field of a point: it reaches the operator then.
    pub fn wants(&mut self, point: &PointRef<'_>, table: &SeriesTable) -> bool {
        let window = &self.spec.windows[self.index];
        let series = table.series(point.series);
        window.filter.selects(series.measurement(), series.tags())
            && point.cells.iter().any(|cell| self.takes_field(cell.field, table) && self.takes_class(Class::of(cell.kind)))
    }

    /// Merges a point.
    #[inline]
    pub fn apply(&mut self, point: &PointRef<'_>, table: &SeriesTable, partitions: &Partitions, out: &mut Out<'_>) -> Outcome {
        let side = usize::from(point.provisional);
        let group = match self.series[side].get(point.series as usize) {
            Some(group) if *group < REFUSED => *group,
            Some(&DROPPED) => return Outcome::NotTaken,
            _ => match self.resolve(point, table, partitions, out) {
                Ok(group) => group,
                Err(outcome) => return outcome,
            },
        };
        // The first field that is taken decides whether the point is for this window at all.
        let Some(first) = (0..point.cells.len()).find(|i| self.takes_cell(&point.cells[*i], table)) else { return Outcome::NotTaken };
        self.counts.r#in += 1;
        let at = match self.groups[group as usize].find_pane(point.time, self.grid.every) {
            Ok(at) if self.is_full() && self.would_grow(group, at, first, point, table) => {
                self.counts.overflow_panes += 1;
                self.miss(group, point, Outcome::Refused);
                return Outcome::Refused;
            }
            Ok(at) => at,
            Err(at) => match self.open_pane(group, at, point, partitions, out) {
                Ok(at) => at,
                Err(outcome) => {
                    self.miss(group, point, outcome);
                    return outcome;
                }
            },
        };
        if !self.merge(group, at, first, point, table) {
            self.counts.conflict_type += 1;
            self.drop_if_empty(group, at);
            return Outcome::Refused;
        }
        self.counts.applied += 1;
        let group_state = &mut self.groups[group as usize];
        group_state.observed = out.now.observed;
        let start = group_state.panes[at].start;
        if start.saturating_add(self.grid.every) <= group_state.watermark {
            self.miss_closed(group, start, partitions);
            let group_state = &mut self.groups[group as usize];
            // Nothing is due up to here, but a window that was never emitted may be out of reach by now.
            group_state.watermark = group_state.watermark(partitions, self.grid.lateness);
            self.reopen(group, at);
            self.arm(group, partitions);
        }
        Outcome::Applied
    }

    /// Whether the panes have all the memory they may: none is opened, and none grows.
    fn is_full(&self) -> bool {
        self.pane_bytes >= self.spec.limits.panes_bytes_max
    }

    #[cold]
    fn would_grow(&mut self, group: u32, at: usize, first: usize, point: &PointRef<'_>, table: &SeriesTable) -> bool {
        (first..point.cells.len()).any(|i| {
            let cell = &point.cells[i];
            if !self.takes_cell(cell, table) {
                return false;
            }
            let (group, class) = (&self.groups[group as usize], Class::of(cell.kind));
            let Some(slot) = group.fields.find(cell.field, i) else { return true };
            group.fields[slot].class == class && group.panes[at].would_grow(&self.layout, slot, class, cell, point.time, point.text)
        })
    }

    #[inline]
    fn takes_cell(&mut self, cell: &Cell, table: &SeriesTable) -> bool {
        let taken = match self.takes.get(cell.field as usize) {
            Some(2) => true,
            Some(1) => false,
            _ => self.takes_field(cell.field, table),
        };
        taken && (cell.kind < 3 || self.layout.non_numeric)
    }

    fn takes_class(&self, class: Class) -> bool {
        class == Class::Number || self.layout.non_numeric
    }

    #[cold]
    fn takes_field(&mut self, field: u16, table: &SeriesTable) -> bool {
        let slot = usize::from(field);
        if self.takes.len() <= slot {
            self.takes.resize(slot + 1, 0);
        }
        if self.takes[slot] == 0 {
            let name = &table.fields()[slot];
            let window = &self.spec.windows[self.index];
            let taken = (self.patterns.is_empty() || self.patterns.matches(name)) && window.filter.keeps_field(name);
            self.takes[slot] = 1 + u8::from(taken);
            if taken {
                self.name_field(slot, name);
            }
        }
        self.takes[slot] == 2
    }

    fn name_field(&mut self, slot: usize, name: &str) {
        if self.names.len() <= slot {
            self.names.resize(slot + 1, None);
        }
        let aggregates = &self.spec.windows[self.index].aggregates;
        self.names[slot] = Some(aggregates.iter().map(|a| format!("{name}_{}", a.name()).into()).collect());
    }

    /// Merges the cells from `first` on; whether any fitted.
    #[inline]
    fn merge(&mut self, group: u32, at: usize, first: usize, point: &PointRef<'_>, table: &SeriesTable) -> bool {
        let (mut merged, mut conflicts) = (false, false);
        let before = self.groups[group as usize].panes[at].bytes;
        for (i, cell) in point.cells.iter().enumerate().skip(first) {
            if i > first && !self.takes_cell(cell, table) {
                continue;
            }
            let class = Class::of(cell.kind);
            let group = &mut self.groups[group as usize];
            // Fields of a series nearly always come in the same order.
            let slot = group.fields.find(cell.field, i).unwrap_or_else(|| {
                group.fields.push(Slot { field: cell.field, class });
                group.fields.len() - 1
            });
            if group.fields[slot].class == class {
                group.panes[at].add(&self.layout, slot, class, cell, point.time, point.text);
                merged = true;
            } else {
                conflicts = true;
            }
        }
        if conflicts {
            self.miss(group, point, Outcome::Refused);
        }
        let pane = &mut self.groups[group as usize].panes[at];
        pane.points += u64::from(merged);
        self.pane_bytes = self.pane_bytes + pane.bytes - before;
        merged
    }

    /// Finds or makes the group of a series seen for the first time, and lets its partition join.
    #[cold]
    fn resolve(&mut self, point: &PointRef<'_>, table: &SeriesTable, partitions: &Partitions, out: &mut Out<'_>) -> Result<u32, Outcome> {
        let side = usize::from(point.provisional);
        let id = point.series as usize;
        if self.series[side].len() <= id {
            self.series[side].resize(id + 1, UNKNOWN);
        }
        let window = &self.spec.windows[self.index];
        let series = table.series(point.series);
        if !window.filter.selects(series.measurement(), series.tags()) {
            self.series[side][id] = DROPPED;
            return Err(Outcome::NotTaken);
        }
        let full = self.groups.len() - self.free.len() >= self.spec.limits.groups_max.min(REFUSED as usize);
        if self.series[side][id] == REFUSED && full {
            return Err(self.refuse_group(point, table));
        }
        let key = Arc::new(self.result_series(series, point.provisional));
        let group = match self.keys.get(&key) {
            Some(group) => *group,
            None if full => {
                self.series[side][id] = REFUSED;
                return Err(self.refuse_group(point, table));
            }
            None => self.begin_group(key, out.now.observed),
        };
        self.series[side][id] = group;
        self.join(group, point.partition, partitions, out);
        Ok(group)
    }

    fn refuse_group(&mut self, point: &PointRef<'_>, table: &SeriesTable) -> Outcome {
        if !self.wants(point, table) {
            return Outcome::NotTaken;
        }
        self.miss_series(point.series, point.provisional, point.time, table);
        self.counts.r#in += 1;
        self.counts.overflow_groups += 1;
        Outcome::Refused
    }

    /// A group begins, or begins again above what was emitted before it ended.
    fn begin_group(&mut self, series: Arc<Series>, observed: i64) -> u32 {
        let floor = self.ended.take(&series);
        let number = self.free.pop_first().unwrap_or(self.groups.len() as u32);
        let route = route::results_route(&self.spec, &series);
        self.keys.insert(Arc::clone(&series), number);
        let group = Group { watermark: floor.watermark, floor: floor.start, observed, ..Group::new(series, route) };
        self.expiry = self.expiry.min(observed.saturating_add(self.spec.time.group_ttl));
        match self.groups.get_mut(number as usize) {
            Some(slot) => *slot = group,
            None => self.groups.push(group),
        }
        number
    }

    fn result_series(&self, series: &Series, provisional: bool) -> Series {
        let window = &self.spec.windows[self.index];
        let measurement = window.name_override.as_deref().unwrap_or(series.measurement());
        let mut parts = SeriesParts { measurement: measurement.to_owned(), tags: Vec::new() };
        let named = |key: &str| window.by.as_ref().is_none_or(|by| by.iter().any(|k| k == key));
        for (key, value) in series.tags().filter(|(k, _)| named(k) && window.filter.keeps_tag(k)) {
            parts.tag(key, value);
        }
        for (key, value) in &self.spec.global_tags {
            parts.default_tag(key, value);
        }
        if provisional {
            parts.tag(route::CLOCK_TAG.0, route::CLOCK_TAG.1);
        }
        Series::new(&parts)
    }

    /// Opens the pane of a point, unless it is freed or there are too many.
    fn open_pane(
        &mut self,
        group: u32,
        mut at: usize,
        point: &PointRef<'_>,
        partitions: &Partitions,
        out: &mut Out<'_>,
    ) -> Result<usize, Outcome> {
        let start = self.grid.pane(point.time);
        let free = self.grid.free(start);
        if self.groups[group as usize].watermark(partitions, self.grid.lateness) > self.groups[group as usize].watermark {
            // What is due is dealt with before a pane is opened, so the place may have changed.
            self.settle(group, partitions, out);
            at = self.groups[group as usize].find_pane(point.time, self.grid.every).unwrap_or_else(|at| at);
        }
        let Group { watermark, floor, .. } = self.groups[group as usize];
        if free <= watermark || start < floor {
            return Err(self.late(point, watermark.max(floor)));
        }
        if self.groups[group as usize].panes.len() >= self.spec.limits.panes_per_group_max || self.is_full() {
            self.counts.overflow_panes += 1;
            return Err(Outcome::Refused);
        }
        let mut pane = self.pool.pop().unwrap_or_default();
        pane.reset(start);
        self.pane_bytes += pane.bytes;
        self.groups[group as usize].panes.insert(at, pane);
        self.panes += 1;
        self.arm(group, partitions);
        Ok(at)
    }

    fn late(&mut self, point: &PointRef<'_>, watermark: i64) -> Outcome {
        // On the clock as it was before it stepped back, would it have been in time?
        let before = self.grid.pane(point.time.saturating_add(point.stepped_back));
        if point.stepped_back > 0 && self.grid.free(before) > watermark {
            self.counts.late_clock_step += 1;
        } else {
            self.counts.late += 1;
        }
        Outcome::Late(watermark.saturating_sub(point.time))
    }

    /// Takes back a pane that was opened for a point that did not fit.
    fn drop_if_empty(&mut self, group: u32, at: usize) {
        if self.groups[group as usize].panes[at].points == 0 {
            let pane = self.groups[group as usize].panes.remove(at);
            self.recycle(pane);
            let state = &mut self.groups[group as usize];
            state.due = state.next_due(&self.grid);
        }
    }

    fn recycle(&mut self, mut pane: Pane) {
        debug_assert_eq!(pane.bytes, pane.cost());
        self.panes -= 1;
        self.pane_bytes -= pane.bytes;
        if self.pool.len() < POOL_MAX {
            pane.reset(0);
            self.pool.push(pane);
        }
    }
}
