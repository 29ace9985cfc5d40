//! The way of one raw point: its partition's progress, the windows, and what becomes of it afterwards.

use std::sync::Arc;

use hashbrown::HashMap;
use weir_plugin_api::{Cell, Lane, Series, Value};

use super::{
    EngineCounts, Now, Out,
    route::{self, RawRoute, RawRoutes},
    time::{Partitions, partition_index},
    window::{Outcome, WindowOperator},
};
use crate::{results::Results, series::SeriesTable, spec::EngineSpec};

/// One raw point on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct PointRef<'a> {
    /// Its cells; their own time is not to be used.
    pub cells: &'a [Cell],
    pub text: &'a [u8],
    /// Series id.
    pub series: u32,
    /// Event time.
    pub time: i64,
    /// Internal index of its partition.
    pub partition: u32,
    /// Its time comes from a clock nobody has set.
    pub provisional: bool,
    /// It brought no time of its own.
    pub untimed: bool,
    /// How far the clock its time comes from has stepped back, 0 for a time of its own.
    pub stepped_back: i64,
}

/// Everything raw points meet but the alerts.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    pub spec: Arc<EngineSpec>,
    pub partitions: Partitions,
    pub windows: Vec<WindowOperator>,
    pub counts: EngineCounts,
    routes: RawRoutes,
    /// Series with the provisional tag and their routes, by the id without.
    provisional: HashMap<u32, (Arc<Series>, RawRoute), foldhash::fast::FixedState>,
    lag: Arc<str>,
    retimed: Vec<Cell>,
    idle: Vec<u32>,
}

impl Stage {
    pub fn new(spec: Arc<EngineSpec>) -> Self {
        Self {
            partitions: Partitions::default(),
            windows: (0..spec.windows.len()).map(|index| WindowOperator::new(Arc::clone(&spec), index)).collect(),
            counts: EngineCounts::default(),
            routes: RawRoutes::default(),
            provisional: HashMap::with_hasher(foldhash::fast::FixedState::default()),
            lag: "lag".into(),
            retimed: Vec::new(),
            idle: Vec::new(),
            spec,
        }
    }

    /// Observed time has come this far: partitions fall idle, groups end.
    pub fn pass_time(&mut self, out: &mut Out<'_>) {
        for window in &mut self.windows {
            window.catch_up(&self.partitions, out);
        }
        self.idle.clear();
        self.partitions.scan(out.now.observed, &self.spec.time, &mut self.idle);
        if !self.idle.is_empty() {
            self.windows.iter_mut().for_each(|w| w.before_idle(&self.idle, &self.partitions));
            self.partitions.fall_idle(&self.idle);
        }
        for window in &mut self.windows {
            if !self.idle.is_empty() {
                window.fell_idle(&self.idle, &self.partitions, out);
            }
            window.expire(&self.partitions, out);
        }
    }

    /// Shows a point to the windows and passes it on if none takes it.
    #[inline]
    pub fn dispatch(&mut self, point: &PointRef<'_>, table: &SeriesTable, out: &mut Out<'_>) {
        self.counts.dispatched += 1;
        self.counts.provisional += u64::from(point.provisional);
        let (mut taken, mut missed, mut lag) = (false, false, None);
        if !self.windows.is_empty() {
            self.touch(point, out);
            for window in &mut self.windows {
                match window.apply(point, table, &self.partitions, out) {
                    Outcome::Applied => taken |= window.window().drop_original,
                    Outcome::Late(by) => {
                        missed |= window.window().drop_original;
                        lag = lag.max(Some(by));
                    }
                    Outcome::NotTaken | Outcome::Refused => {}
                }
            }
        }
        if let Some(lag) = lag {
            self.send_late(point, lag, table, out.results);
        }
        if taken {
            self.counts.taken += 1;
        } else if missed {
            self.counts.late += 1;
        } else {
            self.counts.passed += 1;
            self.pass(point, table, out.results);
        }
    }

    /// A point whose time is not believed: counted everywhere it would have come, and sent to the late stream.
    #[cold]
    pub fn reject_future(&mut self, point: &PointRef<'_>, wall: i64, table: &SeriesTable, out: &mut Out<'_>) {
        self.counts.dispatched += 1;
        self.counts.rejected_future += 1;
        for window in &mut self.windows {
            if window.wants(point, table) {
                window.counts.r#in += 1;
                window.counts.future += 1;
            }
        }
        out.alerts.future(point, table);
        self.send_late(point, wall.saturating_sub(point.time), table, out.results);
    }

    #[inline]
    fn touch(&mut self, point: &PointRef<'_>, out: &mut Out<'_>) {
        let id = point.partition;
        self.partitions.grow(id);
        if self.partitions.get(id).idle {
            self.speak_again(point, out);
        } else {
            self.partitions.touch(id, point.time, out.now.observed, &self.spec.time);
        }
        let max = self.partitions.get(id).max;
        for window in &mut self.windows {
            if window.is_due(id, max) {
                window.advance(id, &self.partitions, out);
            }
        }
    }

    #[cold]
    fn speak_again(&mut self, point: &PointRef<'_>, out: &mut Out<'_>) {
        let id = point.partition;
        for window in &mut self.windows {
            window.before_return(id, &self.partitions, out);
        }
        self.partitions.touch(id, point.time, out.now.observed, &self.spec.time);
        for window in &mut self.windows {
            window.returned(id, &self.partitions);
        }
    }

    fn pass(&mut self, point: &PointRef<'_>, table: &SeriesTable, results: &mut Results) {
        if point.provisional {
            let (series, route) = self.provisional_series(point.series, table);
            if route.pass != 0 {
                results.point(Lane::Results, &series, route.pass);
                copy_fields(point, table, results);
            }
            return;
        }
        let route = self.routes.get(point.series, &self.spec, table).pass;
        if route == 0 {
            return;
        }
        let series = table.series(point.series);
        if point.cells.first().is_some_and(|c| c.is_untimed() || c.time != point.time) {
            self.retimed.clear();
            let dated = |cell: &Cell| Cell { time: point.time, flags: cell.flags & !Cell::UNTIMED, ..*cell };
            self.retimed.extend(point.cells.iter().map(dated));
            results.pass(&self.retimed, point.text, series, table.fields(), route);
        } else {
            results.pass(point.cells, point.text, series, table.fields(), route);
        }
    }

    #[cold]
    fn send_late(&mut self, point: &PointRef<'_>, lag: i64, table: &SeriesTable, results: &mut Results) {
        self.counts.late_stream += 1;
        let (series, route) = if point.provisional {
            self.provisional_series(point.series, table)
        } else {
            (Arc::clone(table.series(point.series)), self.routes.get(point.series, &self.spec, table))
        };
        if route.late != 0 {
            results.point(Lane::Results, &series, route.late);
            copy_fields(point, table, results);
            results.field(Lane::Results, &self.lag, point.time, Value::Float(lag as f64 / 1e9));
        }
    }

    fn provisional_series(&mut self, id: u32, table: &SeriesTable) -> (Arc<Series>, RawRoute) {
        let spec = &self.spec;
        let entry = self.provisional.entry(id).or_insert_with(|| {
            let series = route::provisional(table.series(id));
            let route = RawRoutes::of(spec, &series);
            (series, route)
        });
        entry.clone()
    }

    /// When this wants a tick, observed axis.
    pub fn deadline(&self) -> i64 {
        let mut deadline = i64::MAX;
        for window in &self.windows {
            deadline = deadline.min(window.deadline());
            if window.has_panes() {
                deadline = deadline.min(self.partitions.idle_check());
            }
        }
        deadline
    }

    /// The end of a record.
    pub fn end_record(&mut self, out: &mut Out<'_>) {
        for window in &mut self.windows {
            window.end_record(out);
        }
    }

    /// All finite inputs have ended.
    pub fn finish(&mut self, out: &mut Out<'_>) {
        for window in &mut self.windows {
            window.finish(out);
        }
    }
}

/// The partition of a series, on the side its time belongs to.
#[inline]
pub(super) fn partition_of(series: u32, provisional: bool, table: &SeriesTable) -> u32 {
    partition_index(table.entries()[series as usize].partition, provisional)
}

fn copy_fields(point: &PointRef<'_>, table: &SeriesTable, results: &mut Results) {
    for cell in point.cells {
        results.field(Lane::Results, &table.fields()[cell.field as usize], point.time, cell.value(point.text));
    }
}

/// The clocks of a record: the wall is known only once it has been set.
impl Now {
    pub(super) fn believes(&self, time: i64, skew_max: i64) -> bool {
        self.wall.is_none_or(|wall| time <= wall.saturating_add(skew_max))
    }
}
