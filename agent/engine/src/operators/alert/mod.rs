//! Alerts: conditions over raw points or over a window's results, per group, with a state that outlives everything.
//!
//! A transition is *historical* when it was computed from backlog: its event time lies further behind the wall clock than
//! [`HISTORICAL_AFTER`] plus what is normal for its source (nothing for raw points; lateness and allowed lateness, from the window's
//! end, for results). It notifies, but moves no level: levels follow once a point of the present confirms it. While nobody has set the
//! clock nothing is called historical.
//!
//! Without `by` a group is a series; with it, a group is the named tags, whatever the measurement.

pub(super) mod state;
pub(super) mod store;

use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weir_plugin_api::{Cell, Kind, Lane, Series, SeriesParts, Value};

use self::state::{Axis, Memory, State, Transition, Verdict};
use super::{
    Now, OperatorCounts, PointRef,
    expr::{Expr, Operand, Scope},
    route,
};
use crate::{
    results::Results,
    series::SeriesTable,
    spec::{AlertSpec, EngineSpec},
};

/// How far behind the wall clock an event time may be without being called historical, nanoseconds.
pub const HISTORICAL_AFTER: i64 = 60_000_000_000;

/// Source cache: not looked at yet.
const UNKNOWN: u32 = u32::MAX;
/// Source cache: the filters drop it.
const DROPPED: u32 = u32::MAX - 1;
/// Most groups there can be.
const GROUPS_MAX: usize = (u32::MAX - 2) as usize;

/// A window's result as an alert sees it.
pub(super) struct ResultPoint<'a> {
    pub window: usize,
    /// Its group at the window.
    pub group: u32,
    pub series: &'a Arc<Series>,
    pub time: i64,
    pub end: i64,
    /// How far behind the wall clock its end is when nothing is wrong.
    pub lag: i64,
    pub get: &'a dyn Fn(&str) -> Operand<'a>,
}

/// One group.
#[derive(Clone, Debug)]
struct Group {
    /// Measurement (only without `by`) and tags: what tells groups apart.
    key: Arc<Series>,
    /// Series of its transitions.
    series: Arc<Series>,
    route: u64,
    memory: Memory,
}

/// One `[[alerts]]` with its state.
#[derive(Clone, Debug)]
struct Alert {
    index: usize,
    /// Group by series id, or by group id of the window it reads.
    sources: Vec<u32>,
    groups: Vec<Group>,
    keys: HashMap<Arc<Series>, u32, FixedState>,
    /// Field ids of the fields that `when` and `clear` read.
    when_ids: Vec<u16>,
    clear_ids: Vec<u16>,
    /// Names of the table looked through for them.
    names_seen: usize,
    counts: OperatorCounts,
}

#[derive(Clone, Debug)]
struct Names {
    state: Arc<str>,
    value: Arc<str>,
    n: Arc<str>,
    historical: Arc<str>,
}

/// All alerts.
#[derive(Clone, Debug)]
pub(super) struct Alerts {
    spec: Arc<EngineSpec>,
    alerts: Vec<Alert>,
    names: Names,
    /// Groups that want each level.
    level_counts: Vec<u32>,
    levels: Vec<bool>,
    /// Transitions while the last record was applied.
    pub transitions: u64,
}

/// Where and when an alert looks.
struct Look {
    time: i64,
    axis: Axis,
    historical: bool,
}

impl Alerts {
    pub fn new(spec: Arc<EngineSpec>) -> Self {
        Self {
            alerts: (0..spec.alerts.len()).map(|index| Alert::new(index, &spec)).collect(),
            names: Names { state: "state".into(), value: "value".into(), n: "n".into(), historical: "historical".into() },
            level_counts: vec![0; spec.levels.len()],
            levels: vec![false; spec.levels.len()],
            transitions: 0,
            spec,
        }
    }

    pub fn levels(&self) -> &[bool] {
        &self.levels
    }

    pub fn counts(&self) -> impl Iterator<Item = &OperatorCounts> {
        self.alerts.iter().map(|a| &a.counts)
    }

    pub fn is_empty(&self) -> bool {
        self.alerts.is_empty()
    }

    pub fn reads_window(&self, window: usize) -> bool {
        self.spec.alerts.iter().any(|a| a.window == Some(window))
    }

    /// Shows a raw point to every alert that reads such.
    pub fn point(&mut self, point: &PointRef<'_>, table: &SeriesTable, results: &mut Results, now: &Now) {
        let historical = now.wall.is_some_and(|wall| point.time < wall.saturating_sub(HISTORICAL_AFTER));
        let source = table.series(point.series);
        let axis = if point.untimed { Axis::Clock } else { Axis::Event };
        for at in 0..self.alerts.len() {
            let spec = Arc::clone(&self.spec);
            let alert_spec = &spec.alerts[at];
            if alert_spec.window.is_some() {
                continue;
            }
            let alert = &mut self.alerts[at];
            alert.find_fields(alert_spec, table);
            let Some(group) = alert.group(point.series as usize, source, &spec) else { continue };
            let scope = |ids| RawScope { cells: point.cells, text: point.text, ids, source };
            let (when, clear) = (scope(&alert.when_ids), scope(&alert.clear_ids));
            let verdict = judge(alert_spec, &when, &clear);
            let value = deciding(alert_spec, &verdict, &when, &clear);
            let look = Look { time: point.time, axis, historical };
            self.step(at, group, &look, verdict, value, results, now);
        }
    }

    /// Counts a point whose time is not believed at every alert it would have reached.
    pub fn future(&mut self, point: &PointRef<'_>, table: &SeriesTable) {
        for (alert, spec) in self.alerts.iter_mut().zip(&self.spec.alerts) {
            let series = table.series(point.series);
            if spec.window.is_none() && spec.filter.selects(series.measurement(), series.tags()) {
                alert.counts.r#in += 1;
                alert.counts.future += 1;
            }
        }
    }

    /// Shows a window's complete result to every alert that reads that window.
    pub fn result(&mut self, point: &ResultPoint<'_>, results: &mut Results, now: &Now) {
        let behind = HISTORICAL_AFTER.saturating_add(point.lag);
        let historical = now.wall.is_some_and(|wall| point.end < wall.saturating_sub(behind));
        for at in 0..self.alerts.len() {
            let spec = Arc::clone(&self.spec);
            let alert_spec = &spec.alerts[at];
            if alert_spec.window != Some(point.window) {
                continue;
            }
            let Some(group) = self.alerts[at].group(point.group as usize, point.series, &spec) else { continue };
            let scope = |expr| ResultScope { expr, point };
            let (when, clear) = (scope(&alert_spec.when), scope(alert_spec.clear.as_ref().unwrap_or(&alert_spec.when)));
            let verdict = judge(alert_spec, &when, &clear);
            let value = deciding(alert_spec, &verdict, &when, &clear);
            let look = Look { time: point.time, axis: Axis::Event, historical };
            self.step(at, group, &look, verdict, value, results, now);
        }
    }

    /// The wall clock has moved by `delta`; times taken from it move along.
    pub fn shift_clock(&mut self, delta: i64) {
        for group in self.alerts.iter_mut().flat_map(|a| &mut a.groups).filter(|g| g.memory.axis == Axis::Clock) {
            group.memory.shift(delta);
        }
    }

    /// Another boot whose clock nobody has set: only durations mean anything until it is.
    pub fn new_boot(&mut self) {
        for group in self.alerts.iter_mut().flat_map(|a| &mut a.groups).filter(|g| g.memory.axis == Axis::Clock) {
            group.memory.axis = Axis::Stale;
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one call site per source, all parts borrowed from different places")]
    fn step(&mut self, at: usize, group: Option<u32>, look: &Look, verdict: Verdict, value: Option<f64>, results: &mut Results, now: &Now) {
        let spec = &self.spec.alerts[at];
        let alert = &mut self.alerts[at];
        alert.counts.r#in += 1;
        let Some(id) = group else {
            alert.counts.overflow_groups += 1;
            return;
        };
        let memory = &mut alert.groups[id as usize].memory;
        let firing = matches!(memory.state, State::Firing { .. });
        if (if firing { verdict.clear } else { verdict.when }).is_none() {
            alert.counts.undefined += 1;
            return;
        }
        if !memory.admit(look.time, look.axis) {
            alert.counts.late += 1;
            return;
        }
        alert.counts.applied += 1;
        let transition = memory.step(look.time, verdict, spec.for_, spec.keep);
        let level = match memory.state {
            State::Firing { .. } => memory.level || !look.historical,
            State::Ok | State::Pending { .. } => false,
        };
        let moved = level != memory.level;
        memory.level = level;
        if let Some(transition) = transition {
            alert.counts.transitions += 1;
            self.transitions += 1;
            let group = &alert.groups[id as usize];
            emit(&self.names, group, transition, look, value, results, now);
        }
        if moved {
            self.move_levels(at, level);
        }
    }

    fn move_levels(&mut self, alert: usize, on: bool) {
        for level in &self.spec.alerts[alert].level_actions {
            let Some(count) = self.level_counts.get_mut(*level) else { continue };
            *count = if on { *count + 1 } else { count.saturating_sub(1) };
            self.levels[*level] = *count > 0;
        }
    }
}

fn judge(spec: &AlertSpec, when: &impl Scope, clear: &impl Scope) -> Verdict {
    let holds = spec.when.holds(when);
    let clears = match &spec.clear {
        Some(expr) => expr.holds(clear),
        None => holds.map(|h| !h),
    };
    Verdict { when: holds, clear: clears }
}

/// The number a transition reports: of the condition that holds.
fn deciding(spec: &AlertSpec, verdict: &Verdict, when: &impl Scope, clear: &impl Scope) -> Option<f64> {
    match (&spec.clear, verdict) {
        (Some(expr), Verdict { when: Some(false) | None, clear: Some(true) }) => expr.deciding_number(clear),
        (_, Verdict { when: Some(true), .. }) => spec.when.deciding_number(when),
        (None, Verdict { clear: Some(true), .. }) => spec.when.deciding_number(when),
        _ => None,
    }
}

fn emit(names: &Names, group: &Group, transition: Transition, look: &Look, value: Option<f64>, results: &mut Results, now: &Now) {
    // A time from a clock nobody has set says so.
    let provisional = (now.wall.is_none() && look.axis == Axis::Clock).then(|| route::provisional(&group.series));
    let series = provisional.as_ref().unwrap_or(&group.series);
    if group.route == 0 {
        return;
    }
    results.point(Lane::Alerts, series, group.route);
    let state = match transition {
        Transition::Firing => "firing",
        Transition::Resolved => "resolved",
    };
    results.field(Lane::Alerts, &names.state, look.time, Value::Text(state));
    if let Some(value) = value {
        results.field(Lane::Alerts, &names.value, look.time, Value::Float(value));
    }
    results.field(Lane::Alerts, &names.n, look.time, Value::Int(i64::try_from(group.memory.n).unwrap_or(i64::MAX)));
    results.field(Lane::Alerts, &names.historical, look.time, Value::Bool(look.historical));
}

impl Alert {
    fn new(index: usize, spec: &EngineSpec) -> Self {
        let fields = |expr: Option<&Expr>| vec![u16::MAX; expr.map_or(0, |e| e.fields().len())];
        Self {
            index,
            sources: Vec::new(),
            groups: Vec::new(),
            keys: HashMap::with_hasher(FixedState::default()),
            when_ids: fields(Some(&spec.alerts[index].when)),
            clear_ids: fields(spec.alerts[index].clear.as_ref()),
            names_seen: 0,
            counts: OperatorCounts::default(),
        }
    }

    /// Looks the names of fields up among those that came since.
    fn find_fields(&mut self, spec: &AlertSpec, table: &SeriesTable) {
        let names = table.fields();
        if self.names_seen == names.len() {
            return;
        }
        for (id, name) in names.iter().enumerate().skip(self.names_seen).filter(|(_, n)| spec.filter.keeps_field(n)) {
            let note = |ids: &mut Vec<u16>, expr: &Expr| {
                if let Some(at) = expr.fields().iter().position(|f| **f == **name) {
                    ids[at] = id as u16;
                }
            };
            note(&mut self.when_ids, &spec.when);
            if let Some(clear) = &spec.clear {
                note(&mut self.clear_ids, clear);
            }
        }
        self.names_seen = names.len();
    }

    /// `None`: not for this alert. `Some(None)`: its table of groups is full.
    #[inline]
    fn group(&mut self, source: usize, series: &Series, spec: &EngineSpec) -> Option<Option<u32>> {
        match self.sources.get(source) {
            Some(&DROPPED) => None,
            Some(group) if *group != UNKNOWN => Some(Some(*group)),
            _ => self.resolve(source, series, spec),
        }
    }

    #[cold]
    fn resolve(&mut self, source: usize, series: &Series, spec: &EngineSpec) -> Option<Option<u32>> {
        if self.sources.len() <= source {
            self.sources.resize(source + 1, UNKNOWN);
        }
        let alert = &spec.alerts[self.index];
        if !alert.filter.selects(series.measurement(), series.tags()) {
            self.sources[source] = DROPPED;
            return None;
        }
        let named = |key: &str| alert.by.as_ref().is_none_or(|by| by.iter().any(|k| k == key));
        let mut parts = SeriesParts::default();
        if alert.by.is_none() {
            series.measurement().clone_into(&mut parts.measurement);
        }
        for (key, value) in series.tags().filter(|(k, _)| named(k) && alert.filter.keeps_tag(k)) {
            parts.tag(key, value);
        }
        let key = Arc::new(Series::new(&parts));
        let group = match self.keys.get(&key) {
            Some(group) => *group,
            None if self.groups.len() >= spec.limits.groups_max.min(GROUPS_MAX) => return Some(None),
            None => self.add_group(key, spec, Memory::default()),
        };
        self.sources[source] = group;
        Some(Some(group))
    }

    fn add_group(&mut self, key: Arc<Series>, spec: &EngineSpec, memory: Memory) -> u32 {
        let alert = &spec.alerts[self.index];
        let mut parts = key.to_parts();
        parts.measurement = "weir_alert".into();
        for (k, v) in &spec.global_tags {
            parts.default_tag(k, v);
        }
        parts.tag("alert", &alert.name);
        parts.tag("severity", &alert.severity);
        let series = Arc::new(Series::new(&parts));
        let route = route::alerts_route(spec, &series) | alert.edge_actions;
        let id = self.groups.len() as u32;
        self.keys.insert(Arc::clone(&key), id);
        self.groups.push(Group { key, series, route, memory });
        id
    }
}

/// A raw point.
struct RawScope<'a> {
    cells: &'a [Cell],
    text: &'a [u8],
    ids: &'a [u16],
    source: &'a Series,
}

impl Scope for RawScope<'_> {
    fn field(&self, index: usize) -> Operand<'_> {
        let Some(id) = self.ids.get(index) else { return Operand::Undefined };
        let Some(cell) = self.cells.iter().find(|c| c.field == *id) else { return Operand::Undefined };
        match cell.kind() {
            Kind::Bool => Operand::Bool(cell.value != 0),
            Kind::Text => match cell.value(self.text) {
                Value::Text(text) => Operand::Text(text),
                _ => Operand::Undefined,
            },
            _ => cell.as_f64().map_or(Operand::Undefined, Operand::Number),
        }
    }

    fn tag(&self, key: &str) -> Operand<'_> {
        self.source.tag(key).map_or(Operand::Undefined, Operand::Text)
    }
}

/// A window's result, its fields found by name: results are few.
struct ResultScope<'a, 'p> {
    expr: &'a Expr,
    point: &'a ResultPoint<'p>,
}

impl Scope for ResultScope<'_, '_> {
    fn field(&self, index: usize) -> Operand<'_> {
        self.expr.fields().get(index).map_or(Operand::Undefined, |name| (self.point.get)(name))
    }

    fn tag(&self, key: &str) -> Operand<'_> {
        self.point.series.tag(key).map_or(Operand::Undefined, Operand::Text)
    }
}
