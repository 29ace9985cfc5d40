//! The rules of windows written down a second time, as plainly as they can be: every point is kept, every result computed from
//! scratch, every group looked at after every change. Slow on purpose; tests and the simulator compare the real thing with it.

use std::{collections::BTreeMap, sync::Arc};

use weir_plugin_api::{Series, SeriesParts};

use crate::spec::{Aggregate, TimeSpec, WindowSpec};

/// A raw point with numeric fields.
#[derive(Clone, Debug)]
pub struct Point {
    /// Name of its time partition.
    pub partition: String,
    /// Measurement and tags.
    pub series: Series,
    /// Event time.
    pub time: i64,
    /// Fields in order.
    pub fields: Vec<(String, f64)>,
}

/// A window's result.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Line-protocol form of its series.
    pub series: String,
    /// Start of the window.
    pub start: i64,
    /// Whether the window was closed.
    pub complete: bool,
    /// How often it was emitted as complete before.
    pub revision: u32,
    /// Fields and their aggregates; fields without a value are left out.
    pub fields: Vec<(String, f64)>,
}

#[derive(Clone, Debug, Default)]
struct Partition {
    max: i64,
    observed: i64,
    idle: bool,
}

#[derive(Clone, Debug, Default)]
struct Window {
    /// Revision of the last complete emission.
    revision: Option<u32>,
    /// Points at the last emission, early or complete.
    points: Option<usize>,
    emitted_at: i64,
    dirty: bool,
}

#[derive(Clone, Debug)]
struct Group {
    series: Series,
    watermark: i64,
    /// Windows that start below it are never emitted.
    floor: i64,
    fed_by: Vec<String>,
    fields: Vec<String>,
    points: Vec<(i64, Vec<(String, f64)>)>,
    windows: BTreeMap<i64, Window>,
    /// Its last accepted point, or its beginning.
    observed: i64,
    /// Its place is free.
    ended: bool,
}

/// One window over everything it is shown.
#[derive(Clone, Debug)]
pub struct Reference {
    window: WindowSpec,
    time: TimeSpec,
    partitions: BTreeMap<String, Partition>,
    groups: Vec<Group>,
    /// How far groups had come that have ended, and their floors.
    tombstones: BTreeMap<String, (i64, i64)>,
    /// Floor of groups that nothing is known of.
    floor: i64,
    observed: i64,
    /// An edit may have made something due.
    edited: bool,
    outcomes: Vec<Outcome>,
    /// Points that came too late.
    pub late: u64,
}

impl Reference {
    /// Of a window without filters and patterns, and without global tags.
    pub fn new(window: WindowSpec, time: TimeSpec) -> Self {
        Self {
            window,
            time,
            partitions: BTreeMap::new(),
            groups: Vec::new(),
            tombstones: BTreeMap::new(),
            floor: i64::MIN,
            observed: i64::MIN,
            edited: false,
            outcomes: Vec::new(),
            late: 0,
        }
    }

    /// All state was lost: nothing is emitted at or below these times of results, of all groups but those that are named and of these.
    pub fn start_above(&mut self, common: i64, groups: &[(Arc<Series>, i64)]) {
        let floor = |time: i64| if time == i64::MIN { time } else { self.last_window(time) + self.window.every };
        let stones: Vec<(String, (i64, i64))> =
            groups.iter().map(|(series, time)| (series.line().to_owned(), (i64::MIN, floor(*time)))).collect();
        self.floor = floor(common);
        for (series, stone) in stones {
            let known = self.tombstones.entry(series).or_insert(stone);
            *known = (*known).max(stone);
        }
    }

    /// From the next record on another configuration is in force, which leaves the window its meaning.
    pub fn edit(&mut self, window: WindowSpec) {
        if window.allowed_lateness > self.window.allowed_lateness {
            // What was let go stays closed.
            let whole =
                |watermark: i64| self.last_window(watermark - self.window.allowed_lateness - self.window.period) + self.window.every;
            let floors: Vec<i64> =
                self.groups.iter().map(|g| if g.watermark == i64::MIN { i64::MIN } else { whole(g.watermark) }).collect();
            let ended = |watermark: i64| if watermark == i64::MIN { i64::MIN } else { whole(watermark) };
            let ended: Vec<i64> = self.tombstones.values().map(|(watermark, _)| ended(*watermark)).collect();
            self.groups.iter_mut().zip(floors).for_each(|(group, floor)| group.floor = group.floor.max(floor));
            self.tombstones.values_mut().zip(ended).for_each(|((_, floor), whole)| *floor = whole.max(*floor));
        }
        (self.window, self.edited) = (window, true);
    }

    /// One record with these points, at this observed time.
    pub fn record(&mut self, observed: i64, points: &[Point]) {
        self.pass_time(observed);
        for point in points {
            self.point(point);
        }
        self.emit_dirty();
    }

    /// All inputs have ended, by a record at this observed time.
    pub fn finish(&mut self, observed: i64) {
        self.pass_time(observed);
        (0..self.groups.len()).for_each(|at| self.close(at));
        self.emit_dirty();
    }

    fn pass_time(&mut self, observed: i64) {
        self.observed = observed;
        if std::mem::take(&mut self.edited) {
            for group in 0..self.groups.len() {
                self.raise(group, self.groups[group].watermark);
                self.advance(group);
            }
        }
        self.fall_idle();
        self.end_groups();
    }

    /// Everything a group holds is emitted.
    fn close(&mut self, at: usize) {
        let held = self.held(at).last().copied();
        if let Some(last) = held {
            let end = self.last_window(last).saturating_add(self.window.period + self.window.allowed_lateness);
            self.raise(at, end.max(self.groups[at].watermark));
        }
    }

    /// Groups that have been silent for long end; of each is left how far it had come.
    fn end_groups(&mut self) {
        for at in 0..self.groups.len() {
            let group = &self.groups[at];
            if group.ended || group.observed.saturating_add(self.time.group_ttl) > self.observed {
                continue;
            }
            self.close(at);
            self.advance(at);
            let group = &mut self.groups[at];
            self.tombstones.insert(group.series.line().to_owned(), (group.watermark, group.floor));
            *group = Group { ended: true, ..new_group(Series::new(&SeriesParts::default()), self.observed) };
        }
    }

    /// What was emitted since the last call.
    pub fn take(&mut self) -> Vec<Outcome> {
        std::mem::take(&mut self.outcomes)
    }

    /// Start of the last window that holds `time`.
    fn last_window(&self, time: i64) -> i64 {
        (time - self.window.align).div_euclid(self.window.every) * self.window.every + self.window.align
    }

    /// Starts of the windows that hold `time`.
    fn windows(&self, time: i64) -> Vec<i64> {
        let last = self.last_window(time);
        let hops = self.window.period / self.window.every;
        (0..hops).rev().map(|i| last - i * self.window.every).collect()
    }

    fn free_at(&self, start: i64) -> i64 {
        start + self.window.period + self.window.allowed_lateness
    }

    /// Times of the points whose last window is not freed, ascending.
    fn held(&self, at: usize) -> Vec<i64> {
        let group = &self.groups[at];
        let mut times: Vec<i64> = group.points.iter().map(|p| p.0).collect();
        times.retain(|t| self.free_at(self.last_window(*t)) > group.watermark);
        times.sort_unstable();
        times
    }

    fn speaking(&self, at: usize) -> Vec<&Partition> {
        self.groups[at].fed_by.iter().filter_map(|p| self.partitions.get(p)).filter(|p| !p.idle).collect()
    }

    fn fall_idle(&mut self) {
        let mut changed = Vec::new();
        for (name, partition) in &mut self.partitions {
            if !partition.idle && partition.observed + self.time.idle_after <= self.observed {
                partition.idle = true;
                changed.push(name.clone());
            }
        }
        for at in 0..self.groups.len() {
            if !self.groups[at].fed_by.iter().any(|p| changed.contains(p)) {
                continue;
            }
            if self.speaking(at).is_empty() {
                self.emit_early(at);
            } else {
                self.advance(at);
            }
        }
    }

    fn advance(&mut self, at: usize) {
        let minimum = self.speaking(at).iter().map(|p| p.max - self.window.lateness).min();
        if let Some(watermark) = minimum.filter(|w| *w > self.groups[at].watermark) {
            self.raise(at, watermark);
        }
    }

    fn raise(&mut self, at: usize, watermark: i64) {
        let old = self.groups[at].watermark;
        // Of points that lie further back every window has ended before.
        for start in self.starts(at, old.saturating_sub(self.window.period)) {
            let end = start + self.window.period;
            if old < end && end <= watermark {
                self.emit(at, start, true);
            }
        }
        self.groups[at].watermark = watermark;
        if self.groups[at].windows.values().all(|w| !w.dirty) {
            return;
        }
        for start in self.starts(at, i64::MIN) {
            let gone = self.free_at(start) <= watermark;
            if gone && self.groups[at].windows.get(&start).is_some_and(|w| w.dirty) {
                self.emit(at, start, true);
            }
        }
    }

    /// Windows that have points no older than that, ascending.
    fn starts(&self, at: usize, oldest: i64) -> Vec<i64> {
        let points = self.groups[at].points.iter().filter(|p| p.0 >= oldest);
        let mut starts: Vec<i64> = points.flat_map(|p| self.windows(p.0)).collect();
        starts.sort_unstable();
        starts.dedup();
        starts
    }

    fn point(&mut self, point: &Point) {
        let partition = self.partitions.entry(point.partition.clone()).or_insert(Partition { max: i64::MIN, observed: 0, idle: true });
        partition.idle = false;
        partition.observed = self.observed;
        partition.max = partition.max.max(point.time);
        let at = self.group(point);
        // A partition that feeds a group for the first time joins before its progress counts.
        for other in (0..self.groups.len()).filter(|g| self.groups[*g].fed_by.contains(&point.partition)).collect::<Vec<_>>() {
            self.advance(other);
        }
        if !self.groups[at].fed_by.contains(&point.partition) {
            self.groups[at].fed_by.push(point.partition.clone());
            self.advance(at);
        }
        let watermark = self.groups[at].watermark;
        let pane = self.last_window(point.time);
        if self.free_at(pane) <= watermark || pane < self.groups[at].floor {
            self.late += 1;
            return;
        }
        for start in self.windows(point.time) {
            let closed = start + self.window.period <= watermark;
            if closed && self.free_at(start) > watermark {
                self.groups[at].windows.entry(start).or_default().dirty = true;
            }
        }
        let group = &mut self.groups[at];
        for (name, _) in &point.fields {
            if !group.fields.contains(name) {
                group.fields.push(name.clone());
            }
        }
        group.points.push((point.time, point.fields.clone()));
        group.observed = self.observed;
    }

    fn group(&mut self, point: &Point) -> usize {
        let mut parts = SeriesParts { measurement: point.series.measurement().to_owned(), tags: Vec::new() };
        if let Some(name) = &self.window.name_override {
            name.clone_into(&mut parts.measurement);
        }
        for (key, value) in point.series.tags() {
            if self.window.by.as_ref().is_none_or(|by| by.iter().any(|b| b == key)) {
                parts.tag(key, value);
            }
        }
        let series = Series::new(&parts);
        if let Some(known) = self.groups.iter().position(|g| !g.ended && g.series == series) {
            return known;
        }
        let (watermark, floor) = self.tombstones.remove(series.line()).unwrap_or((i64::MIN, self.floor));
        let group = Group { watermark, floor, ..new_group(series, self.observed) };
        // The first place that is free.
        let at = self.groups.iter().position(|g| g.ended).unwrap_or(self.groups.len());
        match self.groups.get_mut(at) {
            Some(place) => *place = group,
            None => self.groups.push(group),
        }
        at
    }

    fn emit_early(&mut self, at: usize) {
        let group = &self.groups[at];
        let mut starts: Vec<i64> = group.points.iter().flat_map(|p| self.windows(p.0)).collect();
        starts.retain(|start| start + self.window.period > group.watermark);
        starts.sort_unstable();
        starts.dedup();
        for start in starts {
            let points = self.inside(at, start).len();
            if self.groups[at].windows.get(&start).and_then(|w| w.points) != Some(points) {
                self.emit(at, start, false);
            }
        }
    }

    fn emit_dirty(&mut self) {
        for at in 0..self.groups.len() {
            let dirty: Vec<(i64, Window)> = self.groups[at].windows.iter().filter(|(_, w)| w.dirty).map(|(s, w)| (*s, w.clone())).collect();
            for (start, window) in dirty {
                if window.revision.is_none() || window.emitted_at + self.window.reemit_every <= self.observed {
                    self.emit(at, start, true);
                }
            }
        }
    }

    fn inside(&self, at: usize, start: i64) -> Vec<&(i64, Vec<(String, f64)>)> {
        self.groups[at].points.iter().filter(|p| (start..start + self.window.period).contains(&p.0)).collect()
    }

    fn emit(&mut self, at: usize, start: i64, complete: bool) {
        if start < self.groups[at].floor {
            return;
        }
        let mut fields = Vec::new();
        for name in &self.groups[at].fields {
            let values: Vec<(i64, f64)> =
                self.inside(at, start).into_iter().flat_map(|(t, f)| f.iter().filter(|(n, _)| n == name).map(|(_, v)| (*t, *v))).collect();
            for aggregate in &self.window.aggregates {
                if let Some(value) = compute(*aggregate, &values) {
                    fields.push((format!("{name}_{}", aggregate.name()), value));
                }
            }
        }
        let (observed, points) = (self.observed, self.inside(at, start).len());
        let window = self.groups[at].windows.entry(start).or_default();
        let revision = if complete { window.revision.map_or(0, |r| r + 1) } else { 0 };
        *window =
            Window { revision: if complete { Some(revision) } else { None }, points: Some(points), emitted_at: observed, dirty: false };
        if !fields.is_empty() {
            self.outcomes.push(Outcome { series: self.groups[at].series.line().to_owned(), start, complete, revision, fields });
        }
    }
}

fn new_group(series: Series, observed: i64) -> Group {
    Group {
        series,
        watermark: i64::MIN,
        floor: i64::MIN,
        fed_by: Vec::new(),
        fields: Vec::new(),
        points: Vec::new(),
        windows: BTreeMap::new(),
        observed,
        ended: false,
    }
}

/// An aggregate of times and values in order of arrival.
pub fn compute(aggregate: Aggregate, values: &[(i64, f64)]) -> Option<f64> {
    let n = values.len() as f64;
    let sum: f64 = values.iter().map(|v| v.1).sum();
    let min = values.iter().map(|v| v.1).min_by(f64::total_cmp)?;
    let max = values.iter().map(|v| v.1).max_by(f64::total_cmp)?;
    let mean = sum / n;
    let variance = || (values.len() > 1).then(|| values.iter().map(|v| (v.1 - mean) * (v.1 - mean)).sum::<f64>() / (n - 1.0));
    match aggregate {
        Aggregate::Count => Some(n),
        Aggregate::Sum => Some(sum),
        Aggregate::Mean => Some(mean),
        Aggregate::Min => Some(min),
        Aggregate::Max => Some(max),
        Aggregate::Range => Some(max - min),
        // Of equal times the first that came is first, the last that came is last.
        Aggregate::First => values.iter().min_by_key(|v| v.0).map(|v| v.1),
        Aggregate::Last => values.iter().max_by_key(|v| v.0).map(|v| v.1),
        Aggregate::Variance => variance(),
        Aggregate::Stddev => variance().map(libm::sqrt),
        Aggregate::Percentile(tenths) => {
            let mut sorted: Vec<f64> = values.iter().map(|v| v.1).collect();
            sorted.sort_by(f64::total_cmp);
            let rank = (sorted.len() * usize::from(tenths)).div_ceil(1000).max(1);
            sorted.get(rank - 1).copied()
        }
    }
}
