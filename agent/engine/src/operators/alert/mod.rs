//! Alerts: conditions over raw points or over a window's results, per group, with a state that outlives everything.
//!
//! A transition is *historical* when it was computed from backlog: its event time lies further behind the wall clock than
//! [`HISTORICAL_AFTER`] plus what is normal for its source (nothing for raw points; lateness and allowed lateness, from the window's
//! end, for results). It notifies, but moves no level: levels follow once a point of the present confirms it. While nobody has set the
//! clock nothing is called historical.
//!
//! Without `by` a group is a series, and the tag `measurement` says of which; with it, a group is the named tags, whatever the measurement.

pub(super) mod condition;
pub(super) mod state;
pub(super) mod store;

use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weir_plugin_api::{Cell, Kind, Lane, Series, SeriesParts, Value};

use self::{
    condition::Conditions,
    state::{Axis, Memory, State, Transition},
};
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

/// Bytes of one.
pub(super) const GROUP_BYTES: usize = size_of::<Group>();

/// One `[[alerts]]` with its state.
#[derive(Clone, Debug)]
struct Alert {
    index: usize,
    /// Group by series id, or by group id of the window it reads.
    sources: Vec<u32>,
    groups: Vec<Group>,
    keys: HashMap<Arc<Series>, u32, FixedState>,
    counts: OperatorCounts,
    /// When the table is full, no group in it can be forgotten before this event time.
    full_until: i64,
}

/// Field ids of the fields that an alert's conditions read from raw points.
#[derive(Clone, Debug)]
struct FieldIds {
    when: Vec<u16>,
    clear: Vec<u16>,
    /// Names of the table looked through for them.
    seen: usize,
}

#[derive(Clone, Debug)]
struct Names {
    state: Arc<str>,
    value: Arc<str>,
    n: Arc<str>,
    historical: Arc<str>,
}

/// What the groups of all alerts add up to.
#[derive(Clone, Debug)]
struct Sums {
    /// Groups that want each level.
    level_counts: Vec<u32>,
    levels: Vec<bool>,
    transitions: u64,
}

/// All alerts.
#[derive(Clone, Debug)]
pub(super) struct Alerts {
    spec: Arc<EngineSpec>,
    alerts: Vec<Alert>,
    fields: Vec<FieldIds>,
    names: Names,
    sums: Sums,
    /// The agent's own.
    pub conditions: Conditions,
}

/// Where and when an alert looks, and whom it tells.
struct Look<'a> {
    time: i64,
    axis: Axis,
    historical: bool,
    /// The wall clock has been set.
    clock: bool,
    names: &'a Names,
    results: &'a mut Results,
    sums: &'a mut Sums,
}

impl Alerts {
    pub fn new(spec: Arc<EngineSpec>) -> Self {
        Self {
            alerts: (0..spec.alerts.len()).map(Alert::new).collect(),
            fields: spec.alerts.iter().map(FieldIds::new).collect(),
            names: Names { state: "state".into(), value: "value".into(), n: "n".into(), historical: "historical".into() },
            sums: Sums { level_counts: vec![0; spec.levels.len()], levels: vec![false; spec.levels.len()], transitions: 0 },
            conditions: Conditions::default(),
            spec,
        }
    }

    /// A record begins.
    pub fn start_record(&mut self) {
        self.sums.transitions = 0;
    }

    /// Transitions since the record began.
    pub fn transitions(&self) -> u64 {
        self.sums.transitions
    }

    pub fn levels(&self) -> &[bool] {
        &self.sums.levels
    }

    pub fn counts(&self) -> impl Iterator<Item = &OperatorCounts> {
        self.alerts.iter().map(|a| &a.counts)
    }

    pub fn is_empty(&self) -> bool {
        self.alerts.is_empty()
    }

    /// An alert of the same name, with another meaning, takes over: transitions go on being numbered, so that no key is used twice.
    pub fn number_on(&mut self, at: usize, old: &Self, old_at: usize) {
        let spec = Arc::clone(&self.spec);
        if spec.alerts[at].by != old.spec.alerts[old_at].by {
            return;
        }
        for group in old.alerts[old_at].groups.iter().filter(|g| g.memory.n > 0) {
            let numbered = Memory { n: group.memory.n, ..Memory::default() };
            self.alerts[at].add_group(Arc::clone(&group.key), &spec, numbered);
        }
    }

    /// A group of a window has ended; another may get its number.
    pub fn window_group_ended(&mut self, window: usize, group: u32) {
        for (alert, _) in self.alerts.iter_mut().zip(&self.spec.alerts).filter(|(_, s)| s.window == Some(window)) {
            if let Some(source) = alert.sources.get_mut(group as usize) {
                *source = UNKNOWN;
            }
        }
    }

    pub fn reads_window(&self, window: usize) -> bool {
        self.spec.alerts.iter().any(|a| a.window == Some(window))
    }

    /// Shows a raw point to every alert that reads such.
    pub fn point(&mut self, point: &PointRef<'_>, table: &SeriesTable, results: &mut Results, now: &Now) {
        let historical = now.wall.is_some_and(|wall| point.time < wall.saturating_sub(HISTORICAL_AFTER));
        let source = table.series(point.series);
        let axis = if point.untimed { Axis::Clock } else { Axis::Event };
        let Self { spec, alerts, fields, names, sums, .. } = self;
        let mut look = Look { time: point.time, axis, historical, clock: now.wall.is_some(), names, results, sums };
        for ((alert, ids), alert_spec) in alerts.iter_mut().zip(fields).zip(&spec.alerts).filter(|(_, s)| s.window.is_none()) {
            ids.find(alert_spec, table);
            let Some(group) = alert.group(point.series as usize, source, spec, point.time) else { continue };
            let clears = alert_spec.clear.is_some() && alert.is_firing(group);
            let ids = if clears { &ids.clear } else { &ids.when };
            alert.look(alert_spec, group, &RawScope { cells: point.cells, text: point.text, ids, source }, &mut look);
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
        let Self { spec, alerts, names, sums, .. } = self;
        let mut look = Look { time: point.time, axis: Axis::Event, historical, clock: now.wall.is_some(), names, results, sums };
        for (alert, alert_spec) in alerts.iter_mut().zip(&spec.alerts).filter(|(_, s)| s.window == Some(point.window)) {
            let Some(group) = alert.group(point.group as usize, point.series, spec, point.time) else { continue };
            let clear = alert_spec.clear.as_ref().filter(|_| alert.is_firing(group));
            let expr = clear.unwrap_or(&alert_spec.when);
            alert.look(alert_spec, group, &ResultScope { expr, point }, &mut look);
        }
    }

    /// The wall clock has moved by `delta`; times taken from it move along.
    pub fn shift_clock(&mut self, delta: i64) {
        self.alerts.iter_mut().for_each(|alert| alert.full_until = i64::MIN);
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
}

impl Sums {
    fn move_levels(&mut self, actions: &[usize], on: bool) {
        for level in actions {
            let Some(count) = self.level_counts.get_mut(*level) else { continue };
            *count = if on { *count + 1 } else { count.saturating_sub(1) };
            self.levels[*level] = *count > 0;
        }
    }
}

impl Alert {
    /// Looks at one point; `scope` answers for `clear` if the group fires and there is such, for `when` otherwise.
    #[inline]
    fn look(&mut self, spec: &AlertSpec, group: Option<u32>, scope: &impl Scope, look: &mut Look<'_>) {
        self.counts.r#in += 1;
        let Some(id) = group else {
            self.counts.overflow_groups += 1;
            return;
        };
        let group = &mut self.groups[id as usize];
        let (expr, negated) = match (&spec.clear, group.memory.is_firing()) {
            (Some(clear), true) => (clear, false),
            (None, true) => (&spec.when, true),
            (_, false) => (&spec.when, false),
        };
        let Some(holds) = expr.holds(scope).map(|holds| holds != negated) else {
            self.counts.undefined += 1;
            return;
        };
        if !group.memory.admit(look.time, look.axis) {
            self.counts.late += 1;
            return;
        }
        self.counts.applied += 1;
        let transition = group.memory.step(look.time, holds, spec.for_, spec.keep);
        let level = group.memory.is_firing() && (group.memory.level || !look.historical);
        if level != group.memory.level {
            group.memory.level = level;
            look.sums.move_levels(&spec.level_actions, level);
        }
        if let Some(transition) = transition {
            self.counts.transitions += 1;
            look.sums.transitions += 1;
            emit(group, transition, expr.deciding_number(scope), look);
        }
    }
}

fn emit(group: &Group, transition: Transition, value: Option<f64>, look: &mut Look<'_>) {
    if group.route == 0 {
        return;
    }
    // A time from a clock nobody has set says so.
    let provisional = (!look.clock && look.axis == Axis::Clock).then(|| route::provisional(&group.series));
    let series = provisional.as_ref().unwrap_or(&group.series);
    let (names, time) = (look.names, look.time);
    let state = match transition {
        Transition::Firing => "firing",
        Transition::Resolved => "resolved",
    };
    look.results.point(Lane::Alerts, series, group.route);
    let mut field = |name, value| look.results.field(Lane::Alerts, name, time, value);
    field(&names.state, Value::Text(state));
    if let Some(value) = value {
        field(&names.value, Value::Float(value));
    }
    field(&names.n, Value::Int(i64::try_from(group.memory.n).unwrap_or(i64::MAX)));
    field(&names.historical, Value::Bool(look.historical));
}

impl FieldIds {
    fn new(spec: &AlertSpec) -> Self {
        let unknown = |expr: &Expr| vec![u16::MAX; expr.fields().len()];
        Self { when: unknown(&spec.when), clear: spec.clear.as_ref().map_or_else(Vec::new, unknown), seen: 0 }
    }

    /// Looks the names of fields up among those that came since.
    #[inline]
    fn find(&mut self, spec: &AlertSpec, table: &SeriesTable) {
        if self.seen != table.fields().len() {
            self.find_new(spec, table.fields());
        }
    }

    #[cold]
    fn find_new(&mut self, spec: &AlertSpec, names: &[Arc<str>]) {
        for (id, name) in names.iter().enumerate().skip(self.seen).filter(|(_, n)| spec.filter.keeps_field(n)) {
            let note = |ids: &mut Vec<u16>, expr: &Expr| {
                if let Some(at) = expr.fields().iter().position(|f| **f == **name) {
                    ids[at] = id as u16;
                }
            };
            note(&mut self.when, &spec.when);
            if let Some(clear) = &spec.clear {
                note(&mut self.clear, clear);
            }
        }
        self.seen = names.len();
    }
}

impl Alert {
    fn new(index: usize) -> Self {
        Self {
            index,
            sources: Vec::new(),
            groups: Vec::new(),
            keys: HashMap::with_hasher(FixedState::default()),
            counts: OperatorCounts::default(),
            full_until: i64::MIN,
        }
    }

    fn is_firing(&self, group: Option<u32>) -> bool {
        group.is_some_and(|g| self.groups[g as usize].memory.is_firing())
    }

    /// `None`: not for this alert. `Some(None)`: its table of groups is full.
    #[inline]
    fn group(&mut self, source: usize, series: &Series, spec: &EngineSpec, time: i64) -> Option<Option<u32>> {
        match self.sources.get(source) {
            Some(&DROPPED) => None,
            Some(group) if *group != UNKNOWN => Some(Some(*group)),
            _ => self.resolve(source, series, spec, time),
        }
    }

    #[cold]
    fn resolve(&mut self, source: usize, series: &Series, spec: &EngineSpec, time: i64) -> Option<Option<u32>> {
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
            None if self.groups.len() >= spec.limits.groups_max.min(GROUPS_MAX) => {
                let Some(old) = self.forgotten(time, spec.time.group_ttl) else { return Some(None) };
                self.keys.remove(&self.groups[old as usize].key);
                self.sources.iter_mut().filter(|source| **source == old).for_each(|source| *source = UNKNOWN);
                let group = self.new_group(Arc::clone(&key), spec, Memory::default());
                self.groups[old as usize] = group;
                self.keys.insert(key, old);
                old
            }
            None => self.add_group(key, spec, Memory::default()),
        };
        self.sources[source] = group;
        Some(Some(group))
    }

    /// A group whose place another may have: silent for the time-to-live and nothing to remember of it, as it never fired. What did keeps its
    /// number, which is the key of its transitions.
    fn forgotten(&mut self, time: i64, ttl: i64) -> Option<u32> {
        if time < self.full_until {
            return None;
        }
        let mut earliest = i64::MAX;
        for (id, memory) in self.groups.iter().map(|g| &g.memory).enumerate().filter(|(_, m)| m.n == 0 && m.axis != Axis::Stale) {
            let end = memory.last.map_or(i64::MIN, |last| last.saturating_add(ttl));
            if memory.state == State::Ok && end <= time {
                return Some(id as u32);
            }
            earliest = earliest.min(end);
        }
        self.full_until = earliest;
        None
    }

    fn new_group(&self, key: Arc<Series>, spec: &EngineSpec, memory: Memory) -> Group {
        let alert = &spec.alerts[self.index];
        let mut parts = key.to_parts();
        parts.measurement = "weir_alert".into();
        for (k, v) in &spec.global_tags {
            parts.default_tag(k, v);
        }
        if alert.by.is_none() {
            // What tells two groups with the same tags apart must tell their transitions apart too.
            parts.default_tag("measurement", key.measurement());
        }
        parts.tag("alert", &alert.name);
        parts.tag("severity", &alert.severity);
        let series = Arc::new(Series::new(&parts));
        let route = route::alerts_route(spec, &series) | alert.edge_actions;
        Group { key, series, route, memory }
    }

    fn add_group(&mut self, key: Arc<Series>, spec: &EngineSpec, memory: Memory) -> u32 {
        let id = self.groups.len() as u32;
        self.keys.insert(Arc::clone(&key), id);
        self.groups.push(self.new_group(key, spec, memory));
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
