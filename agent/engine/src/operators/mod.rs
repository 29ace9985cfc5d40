//! Windows and alerts: a pure state machine over journal records.
//!
//! [`Operators::apply`] is the one way in; results leave through [`Results`]. Time partitions, watermarks and the clock live here too,
//! because every operator needs the same ones.
//!
//! | module | holds |
//! | --- | --- |
//! | `time` | the wall clock's offset, progress and idleness of partitions |
//! | `types` | the first type of each field, and what comes as another |
//! | `held` | points that wait for a clock |
//! | `stage` | the way of one raw point |
//! | `window` | tumbling and hopping windows |
//! | [`alert`] | conditions and their states |
//! | [`expr`] | the language of conditions |
//! | `route` | which outputs want what |
//! | [`edit`] | what an edit does to the state, said beforehand |
//! | `migrate` | the state under another configuration |
//! | `floors` | below which nothing is emitted again when all state is lost |
//! | `snapshot` | the state as bytes, and back |
//! | [`mod@reference`] | the same windows computed naively, to compare with |

pub mod alert;
mod counts;
pub mod edit;
pub mod expr;
mod floors;
mod held;
mod migrate;
pub mod reference;
mod route;
mod snapshot;
mod stage;
mod time;
mod types;
mod window;

use std::sync::Arc;

use weir_plugin_api::Cell;

use self::{
    alert::Alerts,
    floors::Missed,
    held::Held,
    stage::{PointRef, Stage, partition_of},
    time::{ClockChange, TIME_BOUND, WallClock},
    types::Types,
};
pub use self::{
    counts::{EngineCounts, OperatorCounts},
    floors::Floors,
    snapshot::{OperatorsSummary, PartSummary, SnapshotError},
    types::{TypeConflict, TypeCounts},
};
use crate::{
    record::{BatchRecord, ClockQuality, Condition, Record, Stamp},
    results::Results,
    series::SeriesTable,
    spec::{Aggregate, EngineSpec},
};

/// Bytes of a window's group, its panes left out.
pub const WINDOW_GROUP: usize = size_of::<window::group::Group>();
/// Bytes of an alert's group.
pub const ALERT_GROUP: usize = alert::GROUP_BYTES;

/// Bytes at most of a pane with so many fields, and of what is remembered of its window once it was emitted.
pub fn pane_bytes(aggregates: &[Aggregate], fields: usize) -> usize {
    let layout = window::aggregate::Layout::new(aggregates);
    let sketch = if layout.sketches { window::sketch::BYTES_MAX } else { 0 };
    window::pane::own_cost() + window::pane::words_cost(fields * layout.stride) + fields * sketch
}

/// The clocks while a record is applied.
#[derive(Clone, Copy, Debug)]
struct Now {
    observed: i64,
    /// `None` while nobody has set it.
    wall: Option<i64>,
}

/// Names of fields that every window shares.
#[derive(Clone, Debug)]
struct Names {
    complete: Arc<str>,
    revision: Arc<str>,
}

/// Where results go while a record is applied.
struct Out<'a> {
    results: &'a mut Results,
    alerts: &'a mut Alerts,
    names: &'a Names,
    now: Now,
}

/// All operators with their state.
#[derive(Clone, Debug)]
pub struct Operators {
    spec: Arc<EngineSpec>,
    clock: WallClock,
    types: Types,
    held: Held,
    stage: Stage,
    alerts: Alerts,
    names: Names,
    /// Noted while a journal is looked through: what lacked a point under configurations before.
    missed: Option<Missed>,
    /// Of the last snapshot: the next one is made without moving what is written.
    size: std::cell::Cell<snapshot::Size>,
}

impl Operators {
    /// No state yet.
    pub fn new(spec: Arc<EngineSpec>) -> Self {
        Self {
            clock: WallClock::default(),
            types: Types::new(spec.on_type_conflict, spec.limits.series_max),
            held: Held::default(),
            stage: Stage::new(Arc::clone(&spec)),
            alerts: Alerts::new(Arc::clone(&spec)),
            names: Names { complete: "complete".into(), revision: "revision".into() },
            missed: None,
            size: std::cell::Cell::default(),
            spec,
        }
    }

    /// Applies one record; `table` already has every id it uses. What leaves goes to `results`, on which
    /// [`Results::start_record`] was called.
    pub fn apply(&mut self, stamp: Stamp, record: &Record<'_>, table: &SeriesTable, results: &mut Results) {
        self.alerts.start_record();
        self.pass_time(stamp, table, results);
        match record {
            Record::Batch(batch) => self.batch(stamp, batch, table, results),
            Record::Clock { offset, quality, boot } => self.set_clock(stamp, (*offset, *quality, *boot), table, results),
            Record::Finish => self.finish(stamp, table, results),
            Record::Condition { condition, subject, active, value } => {
                let time = self.clock.wall(stamp.steady);
                let (_, out) = self.split(stamp, results);
                out.alerts.condition((*condition, subject), *active, *value, time, out.results, &out.now);
            }
            Record::Tick
            | Record::Config { .. }
            | Record::Delivered { .. }
            | Record::Expired { .. }
            | Record::Thinned { .. }
            | Record::Floors { .. } => {}
        }
        let (stage, mut out) = self.split(stamp, results);
        stage.end_record(&mut out);
        self.stage.counts.held = self.held.len() as u64;
        self.clock.steady = stamp.steady;
    }

    /// Earliest observed time at which a [`Record::Tick`] is needed: a partition falls idle under an open pane, a re-opened window is due
    /// again, a group ends, held points have waited long enough. It may be early; after the tick it is a later one.
    pub fn next_deadline(&self) -> Option<i64> {
        let mut deadline = self.stage.deadline();
        if !self.held.is_empty() {
            deadline = deadline.min(self.held.since.saturating_add(self.spec.limits.held_age_max));
        }
        (deadline != i64::MAX).then_some(deadline)
    }

    /// Wanted level of each level action: on while any alert that names it fires in any group.
    pub fn levels(&self) -> &[bool] {
        self.alerts.levels()
    }

    /// Whether something about the agent itself holds, by the records.
    pub fn is_active(&self, condition: Condition, subject: &str) -> bool {
        self.alerts.conditions.is_active(condition, subject)
    }

    /// What holds about the agent itself.
    pub fn active_conditions(&self) -> impl Iterator<Item = (Condition, &Arc<str>)> {
        self.alerts.conditions.active()
    }

    /// Alert transitions while the last record was applied.
    pub fn transitions(&self) -> u64 {
        self.alerts.transitions()
    }

    /// Counters of the engine as a whole.
    pub fn counts(&self) -> &EngineCounts {
        &self.stage.counts
    }

    /// What became of fields whose type was not the first one's.
    pub fn type_counts(&self) -> TypeCounts {
        self.types.counts
    }

    /// The newest field that was refused for its type, in this run.
    pub fn last_conflict(&self) -> Option<TypeConflict> {
        self.types.last
    }

    /// Name and counters of each window, then of each alert.
    pub fn operator_counts(&self) -> impl Iterator<Item = (&str, &OperatorCounts)> {
        let windows = self.stage.windows.iter().map(|w| (w.window().name.as_str(), &w.counts));
        windows.chain(self.spec.alerts.iter().map(|a| a.name.as_str()).zip(self.alerts.counts()))
    }

    fn split<'a>(&'a mut self, stamp: Stamp, results: &'a mut Results) -> (&'a mut Stage, Out<'a>) {
        let wall = self.clock.is_set().then(|| self.clock.wall(stamp.steady));
        let now = Now { observed: stamp.observed, wall };
        (&mut self.stage, Out { results, alerts: &mut self.alerts, names: &self.names, now })
    }

    fn pass_time(&mut self, stamp: Stamp, table: &SeriesTable, results: &mut Results) {
        let (stage, mut out) = self.split(stamp, results);
        stage.pass_time(&mut out);
        if !self.held.is_empty() && stamp.observed >= self.held.since.saturating_add(self.spec.limits.held_age_max) {
            self.release(stamp, true, table, results);
        }
    }

    fn batch(&mut self, stamp: Stamp, batch: &BatchRecord<'_>, table: &SeriesTable, results: &mut Results) {
        let (mut start, cells) = (0, batch.cells);
        while start < cells.len() {
            let mut end = start + 1;
            while end < cells.len() && !cells[end].starts_point() {
                end += 1;
            }
            let point = &cells[start..end];
            start = end;
            match if self.types.is_on() { self.types.fit(point, batch.text, table) } else { None } {
                None => self.point(stamp, point, batch.text, table, results),
                Some(fitted) if fitted.is_empty() => {
                    self.miss(point, table);
                    self.stage.counts.dispatched += 1;
                    self.stage.counts.rejected_type += 1;
                    self.types.give_back(fitted);
                }
                Some(fitted) => {
                    if fitted.len() < point.len() {
                        self.miss(point, table);
                    }
                    self.point(stamp, &fitted, batch.text, table, results);
                    self.types.give_back(fitted);
                }
            }
        }
    }

    #[inline]
    fn point(&mut self, stamp: Stamp, cells: &[Cell], text: &[u8], table: &SeriesTable, results: &mut Results) {
        let first = &cells[0];
        let (untimed, set) = (first.is_untimed(), self.clock.is_set());
        let time = if untimed { self.clock.wall(first.time) } else { first.time };
        let provisional = untimed && !set;
        let mut point = PointRef {
            cells,
            text,
            series: first.series,
            time,
            partition: partition_of(first.series, false, table),
            provisional,
            untimed,
            stepped_back: if untimed { self.clock.stepped_back() } else { 0 },
        };
        let restamp = self.spec.time.future_restamp;
        let (bytes_max, skew_max) = (self.spec.limits.held_bytes_max, self.spec.time.future_skew_max);
        let (stage, mut out) = self.split(stamp, results);
        stage.counts.future_unchecked += u64::from(!set && !untimed);
        if !out.now.believes(time, skew_max) || !(-TIME_BOUND..=TIME_BOUND).contains(&time) {
            match out.now.wall {
                Some(wall) if restamp && (-TIME_BOUND..=TIME_BOUND).contains(&wall) => point.time = wall,
                wall => return stage.reject_future(&point, wall.unwrap_or(0), table, &mut out),
            }
        }
        // Alerts look at once: their durations are differences, which a clock that is off by years measures as well.
        if !out.alerts.is_empty() {
            out.alerts.point(&point, table, out.results, &out.now);
        }
        if !provisional {
            return stage.dispatch(&point, table, &mut out);
        }
        self.held.push(cells, text, stamp.observed);
        if self.held.bytes() > bytes_max {
            self.release(stamp, true, table, results);
        }
    }

    /// Lets the held points go, dated by the clock as it is now.
    fn release(&mut self, stamp: Stamp, provisional: bool, table: &SeriesTable, results: &mut Results) {
        let held = std::mem::take(&mut self.held);
        let offset = self.clock.offset;
        let (stage, mut out) = self.split(stamp, results);
        for range in held.points() {
            let cells = &held.cells[range];
            let Some(first) = cells.first() else { continue };
            let point = PointRef {
                cells,
                text: &held.text,
                series: first.series,
                time: first.time.saturating_add(offset).clamp(-TIME_BOUND, TIME_BOUND),
                partition: partition_of(first.series, provisional, table),
                provisional,
                untimed: true,
                stepped_back: 0,
            };
            stage.dispatch(&point, table, &mut out);
        }
    }

    fn set_clock(&mut self, stamp: Stamp, clock: (i64, ClockQuality, u64), table: &SeriesTable, results: &mut Results) {
        let (offset, quality, boot) = clock;
        if self.clock.is_new_boot(stamp, boot) && !self.held.is_empty() {
            // The steady times they carry mean nothing in this boot.
            self.release(stamp, true, table, results);
        }
        self.miss_held(self.clock.is_new_boot(stamp, boot));
        let was_set = self.clock.is_set();
        match self.clock.change(stamp, offset, quality, boot) {
            ClockChange::Shift(delta) => self.alerts.shift_clock(delta),
            ClockChange::Boot if !was_set || !self.clock.is_set() => self.alerts.new_boot(),
            ClockChange::Boot => {}
        }
        self.miss_held(self.clock.is_set());
        if self.clock.is_set() && !self.held.is_empty() {
            self.release(stamp, false, table, results);
        }
    }

    fn finish(&mut self, stamp: Stamp, table: &SeriesTable, results: &mut Results) {
        if !self.held.is_empty() {
            self.release(stamp, true, table, results);
        }
        let (stage, mut out) = self.split(stamp, results);
        stage.finish(&mut out);
    }
}

#[cfg(test)]
mod tests;
