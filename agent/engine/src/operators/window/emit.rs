//! When windows leave: at their close, early in silence, again with more points, and at the end.

use weir_plugin_api::{Lane, Value};

use super::{
    WindowOperator,
    aggregate::{Class, Total},
    group::{Emitted, Group},
    pane::Pane,
    sketch::Sketch,
};
use crate::{
    operators::{Out, alert::ResultPoint, expr::Operand},
    spec::{Aggregate, WindowSpec},
};

/// One field of a result before it is written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Staged {
    /// Field id.
    field: u16,
    /// Place among the window's aggregates.
    aggregate: u16,
    value: StagedValue,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum StagedValue {
    Float(f64),
    Int(i64),
    Bool(bool),
    /// Number of the pane in the window, slot, and whether it is the last text.
    Text(usize, usize, bool),
}

/// Why a window is emitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    First,
    Revision(u32),
    Early,
}

impl WindowOperator {
    /// The watermark is here: closes windows, lets go of what can no longer change.
    pub(super) fn reach(&mut self, group: u32, watermark: i64, out: &mut Out<'_>) {
        let before = self.groups[group as usize].watermark;
        if watermark <= before {
            return;
        }
        let grid = self.grid;
        let mut from = self.groups[group as usize].next_open(&grid);
        while let Some(start) = self.groups[group as usize].next_window(&grid, from) {
            if grid.end(start) > watermark {
                break;
            }
            self.emit(group, start, Cause::First, out);
            // No window follows the last one of all time.
            let Some(next) = start.checked_add(grid.every) else { break };
            from = next;
        }
        self.groups[group as usize].watermark = watermark;
        self.release(group, out);
    }

    /// Lets go of emitted windows and panes that no late point can reach any more.
    pub(super) fn release(&mut self, group: u32, out: &mut Out<'_>) {
        let grid = self.grid;
        let watermark = self.groups[group as usize].watermark;
        while let Some(emitted) = self.groups[group as usize].emitted.first().copied() {
            if grid.free(emitted.start) > watermark {
                break;
            }
            if emitted.dirty {
                self.emit_again(group, emitted, out);
            }
            self.groups[group as usize].emitted.remove(0);
        }
        while let Some(pane) = self.groups[group as usize].panes.first() {
            if grid.free(pane.start) > watermark {
                break;
            }
            let pane = self.groups[group as usize].panes.remove(0);
            self.recycle(pane);
        }
    }

    /// All its partitions are silent: what is open is emitted as it stands, once for what it holds.
    pub(super) fn emit_early(&mut self, group: u32, out: &mut Out<'_>) {
        let grid = self.grid;
        let mut from = self.groups[group as usize].next_open(&grid);
        while let Some(start) = self.groups[group as usize].next_window(&grid, from) {
            let state = &self.groups[group as usize];
            let points = state.window_points(start, grid.period);
            let known = state.emitted.iter().any(|e| e.start == start && e.points == points);
            if !known {
                self.emit(group, start, Cause::Early, out);
            }
            let Some(next) = start.checked_add(grid.every) else { break };
            from = next;
        }
    }

    /// A point came into the pane at `at`, over which windows are closed already: they are emitted again, though not too often.
    pub(super) fn reopen(&mut self, group: u32, at: usize) {
        let grid = self.grid;
        let state = &mut self.groups[group as usize];
        let pane = state.panes[at].start;
        let mut start = grid.first_window(pane).max(state.floor);
        while start <= pane && grid.end(start) <= state.watermark {
            if grid.free(start) > state.watermark {
                let place = state.emitted.partition_point(|e| e.start < start);
                if state.emitted.get(place).is_none_or(|e| e.start != start) {
                    let never = Emitted { start, revision: None, points: 0, observed: i64::MIN, dirty: false };
                    state.emitted.insert(place, never);
                }
                let emitted = &mut state.emitted[place];
                emitted.dirty = true;
                let wait = if emitted.revision.is_some() { self.spec.windows[self.index].reemit_every.max(0) } else { 0 };
                self.reemit = self.reemit.min(emitted.observed.saturating_add(wait));
            }
            let Some(next) = start.checked_add(grid.every) else { break };
            start = next;
        }
        if !state.listed && state.emitted.iter().any(|e| e.dirty) {
            state.listed = true;
            self.reopened.push(group);
        }
    }

    /// The end of a record: re-opened windows whose time has come are emitted again.
    pub fn end_record(&mut self, out: &mut Out<'_>) {
        if self.reopened.is_empty() || out.now.observed < self.reemit {
            return;
        }
        self.reemit = i64::MAX;
        let wait = self.spec.windows[self.index].reemit_every.max(0);
        let mut groups = std::mem::take(&mut self.reopened);
        groups.sort_unstable();
        groups.retain(|group| {
            let mut listed = false;
            for at in 0..self.groups[*group as usize].emitted.len() {
                let emitted = self.groups[*group as usize].emitted[at];
                if !emitted.dirty {
                    continue;
                }
                let due = if emitted.revision.is_some() { emitted.observed.saturating_add(wait) } else { i64::MIN };
                if due <= out.now.observed {
                    self.emit_again(*group, emitted, out);
                } else {
                    self.reemit = self.reemit.min(due);
                    listed = true;
                }
            }
            self.groups[*group as usize].listed = listed;
            listed
        });
        self.reopened = groups;
    }

    fn emit_again(&mut self, group: u32, emitted: Emitted, out: &mut Out<'_>) {
        let cause = emitted.revision.map_or(Cause::First, |r| Cause::Revision(r.saturating_add(1)));
        self.emit(group, emitted.start, cause, out);
    }

    /// All finite inputs have ended: everything open is complete. What comes later is measured against what was emitted.
    pub fn finish(&mut self, out: &mut Out<'_>) {
        for group in 0..self.groups.len() as u32 {
            self.close_group(group, out);
        }
    }

    /// Emits everything a group holds, as complete.
    pub(super) fn close_group(&mut self, group: u32, out: &mut Out<'_>) {
        if let Some(end) = self.groups[group as usize].last_free(&self.grid) {
            self.reach(group, end, out);
            self.groups[group as usize].due = i64::MAX;
        }
    }

    /// When the operator wants to be called, observed axis; partitions falling idle are looked after elsewhere.
    pub fn deadline(&self) -> i64 {
        let reemit = if self.reopened.is_empty() { i64::MAX } else { self.reemit };
        if self.panes == 0 { reemit } else { reemit.min(self.expiry) }
    }

    /// Whether silence would make a difference.
    pub fn has_panes(&self) -> bool {
        self.panes > 0
    }

    fn emit(&mut self, group: u32, start: i64, cause: Cause, out: &mut Out<'_>) {
        let mut staged = std::mem::take(&mut self.staged);
        staged.clear();
        let state = &self.groups[group as usize];
        let panes = state.window_panes(start, self.grid.period);
        for slot in 0..state.fields.len() {
            self.stage(state, slot, panes, &mut staged);
        }
        let revision = match cause {
            Cause::First | Cause::Early => 0,
            Cause::Revision(revision) => revision,
        };
        let complete = cause != Cause::Early;
        let end = self.grid.end(start);
        let window = &self.spec.windows[self.index];
        let time = if window.time_is_end { end } else { start };
        let name = |s: &Staged| self.names.get(usize::from(s.field))?.as_ref()?.get(usize::from(s.aggregate));
        if !staged.is_empty() && state.route != 0 {
            out.results.point(Lane::Results, &state.series, state.route);
            for s in &staged {
                if let Some(name) = name(s) {
                    out.results.field(Lane::Results, name, time, value(&s.value, panes));
                }
            }
            if window.result_fields {
                out.results.field(Lane::Results, &out.names.complete, time, Value::Bool(complete));
                out.results.field(Lane::Results, &out.names.revision, time, Value::Int(i64::from(revision)));
            }
        }
        if complete && out.alerts.reads_window(self.index) {
            let get = |wanted: &str| {
                let found = staged.iter().find(|s| name(s).is_some_and(|n| **n == *wanted));
                found.map_or(Operand::Undefined, |s| operand(&s.value, panes))
            };
            let point = ResultPoint { window: self.index, group, series: &state.series, time, end, lag: self.lag(window), get: &get };
            out.alerts.result(&point, out.results, &out.now);
        }
        if !staged.is_empty() {
            self.count(cause);
        }
        self.staged = staged;
        self.remember(group, start, cause, out.now.observed);
    }

    /// How far behind the wall clock a result of this window is when nothing is wrong.
    fn lag(&self, window: &WindowSpec) -> i64 {
        self.grid.lateness.saturating_add(window.allowed_lateness.max(0))
    }

    fn count(&mut self, cause: Cause) {
        match cause {
            Cause::First => self.counts.first += 1,
            Cause::Revision(_) => self.counts.revision += 1,
            Cause::Early => self.counts.early += 1,
        }
    }

    fn remember(&mut self, group: u32, start: i64, cause: Cause, observed: i64) {
        let state = &mut self.groups[group as usize];
        let place = state.emitted.partition_point(|e| e.start < start);
        let known = state.emitted.get(place).is_some_and(|e| e.start == start);
        if !known && cause == Cause::First && self.grid.allowed == 0 {
            return;
        }
        let revision = match cause {
            Cause::First => Some(0),
            Cause::Revision(revision) => Some(revision),
            Cause::Early => None,
        };
        let emitted = Emitted { start, revision, points: state.window_points(start, self.grid.period), observed, dirty: false };
        if known {
            state.emitted[place] = emitted;
        } else {
            state.emitted.insert(place, emitted);
        }
    }

    fn stage(&self, group: &Group, slot: usize, panes: &[Pane], staged: &mut Vec<Staged>) {
        let mut total = Total::default();
        for (number, pane) in panes.iter().enumerate() {
            if let Some(words) = pane.field(&self.layout, slot) {
                total.add(&self.layout, words, number);
            }
        }
        if total.count == 0 {
            return;
        }
        let field = group.fields[slot];
        let mut merged = None;
        for (aggregate, which) in self.spec.windows[self.index].aggregates.iter().enumerate() {
            let value = match (which, field.class) {
                (Aggregate::Count, _) => Some(StagedValue::Int(i64::try_from(total.count).unwrap_or(i64::MAX))),
                (Aggregate::First | Aggregate::Last, class) => Some(end_value(&total, class, slot, *which == Aggregate::Last)),
                (_, Class::Bool | Class::Text) => None,
                (Aggregate::Percentile(tenths), Class::Number) => {
                    let sketch = merged.get_or_insert_with(|| merge_sketches(panes, slot));
                    sketch.percentile(*tenths).map(StagedValue::Float)
                }
                (which, Class::Number) => total.number(*which).map(StagedValue::Float),
            };
            // A sum may have run past what a double holds: such a field is left out, as no output could write it.
            let value = value.filter(|v| !matches!(v, StagedValue::Float(f) if !f.is_finite()));
            if let Some(value) = value {
                staged.push(Staged { field: field.field, aggregate: aggregate as u16, value });
            }
        }
    }
}

fn end_value(total: &Total, class: Class, slot: usize, last: bool) -> StagedValue {
    let (bits, pane) = total.end(last);
    match class {
        Class::Number => StagedValue::Float(f64::from_bits(bits)),
        Class::Bool => StagedValue::Bool(bits != 0),
        Class::Text => StagedValue::Text(pane, slot, last),
    }
}

fn merge_sketches(panes: &[Pane], slot: usize) -> Sketch {
    let mut merged = Sketch::default();
    panes.iter().filter_map(|p| p.sketches.get(slot)).for_each(|s| merged.merge(s));
    merged
}

fn text(panes: &[Pane], pane: usize, slot: usize, last: bool) -> &str {
    let ends = panes.get(pane).and_then(|p| p.texts.get(slot));
    ends.map_or("", |e| if last { &e.last } else { &e.first })
}

fn value<'a>(staged: &StagedValue, panes: &'a [Pane]) -> Value<'a> {
    match *staged {
        StagedValue::Float(v) => Value::Float(v),
        StagedValue::Int(v) => Value::Int(v),
        StagedValue::Bool(v) => Value::Bool(v),
        StagedValue::Text(pane, slot, last) => Value::Text(text(panes, pane, slot, last)),
    }
}

fn operand<'a>(staged: &StagedValue, panes: &'a [Pane]) -> Operand<'a> {
    match *staged {
        StagedValue::Float(v) => Operand::Number(v),
        StagedValue::Int(v) => Operand::Number(v as f64),
        StagedValue::Bool(v) => Operand::Bool(v),
        StagedValue::Text(pane, slot, last) => Operand::Text(text(panes, pane, slot, last)),
    }
}
