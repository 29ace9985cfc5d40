//! The rules of time, windows and alerts, each by a case computed by hand. Times are in seconds unless said otherwise.
#![allow(clippy::unwrap_used)]

mod alerts;
mod clock;
mod floors;
mod model;
mod restart;
mod types;
mod windows;

use std::sync::Arc;

use weir_plugin_api::{Cell, Chunk, InputCounts, Lane, Position, Series, Value, filter::Filter};

use super::*;
use crate::{
    record::BatchRecord,
    spec::{Aggregate, AlertSpec, InputSpec, LevelSpec, OutputSpec, WindowSpec},
};

pub(super) const S: i64 = 1_000_000_000;
/// Wall time at steady 0, seconds: a whole number of minutes.
pub(super) const EPOCH: i64 = 1_000_020;

/// An engine with a table and a clock of its own.
pub(super) struct World {
    pub operators: Operators,
    pub table: SeriesTable,
    pub results: Results,
    spec: Arc<EngineSpec>,
    /// Seconds, steady and observed axis.
    pub now: i64,
    /// Which boot it is; 0: unknown.
    pub boot: u64,
    record: u64,
}

/// A window of 10 s with mean and count and no lateness.
pub(super) fn window() -> WindowSpec {
    WindowSpec {
        name: "w".into(),
        every: 10 * S,
        period: 10 * S,
        align: 0,
        by: None,
        fields: Vec::new(),
        filter: Filter::default(),
        aggregates: vec![Aggregate::Count, Aggregate::Sum],
        lateness: 0,
        allowed_lateness: 0,
        reemit_every: 5 * S,
        drop_original: true,
        name_override: None,
        result_fields: false,
        time_is_end: false,
    }
}

pub(super) fn alert(when: &str) -> AlertSpec {
    AlertSpec {
        name: "hot".into(),
        when: expr::Expr::parse(when).unwrap(),
        clear: None,
        for_: 0,
        keep: 0,
        by: None,
        window: None,
        filter: Filter::default(),
        severity: "critical".into(),
        edge_actions: 0,
        level_actions: vec![0],
    }
}

/// One output for everything, one for late points.
pub(super) fn spec(windows: Vec<WindowSpec>, alerts: Vec<AlertSpec>) -> EngineSpec {
    let all = OutputSpec { name: "all".into(), alerts: true, results: true, ..OutputSpec::default() };
    let late = OutputSpec { name: "late".into(), late: true, ..OutputSpec::default() };
    EngineSpec {
        inputs: vec![InputSpec { name: "in".into(), window_messages: 0, ..InputSpec::default() }],
        outputs: vec![all, late],
        levels: vec![LevelSpec { name: "siren".into(), at_once: false }],
        windows,
        alerts,
        ..EngineSpec::default()
    }
}

impl World {
    /// A world whose clock is set: steady 0 is [`EPOCH`].
    pub fn new(spec: EngineSpec) -> Self {
        let mut world = Self::unset(spec);
        world.clock(EPOCH, ClockQuality::Synced);
        world
    }

    pub fn unset(spec: EngineSpec) -> Self {
        let spec = Arc::new(spec);
        Self {
            operators: Operators::new(Arc::clone(&spec)),
            table: SeriesTable::new(spec.limits.series_max),
            results: Results::default(),
            spec,
            now: 0,
            boot: 0,
            record: 0,
        }
    }

    pub fn apply(&mut self, record: &Record<'_>) {
        self.record += 1;
        self.results.start_record(self.record);
        let stamp = Stamp { observed: self.now * S, steady: self.now * S };
        self.operators.apply(stamp, record, &self.table, &mut self.results);
        assert_eq!(self.operators.counts().residue(), 0, "{:?}", self.operators.counts());
        for (name, counts) in self.operators.operator_counts() {
            assert_eq!(counts.residue(), 0, "{name}: {counts:?}");
        }
    }

    /// Sets wall − steady, seconds.
    pub fn clock(&mut self, offset: i64, quality: ClockQuality) {
        self.apply(&Record::Clock { offset: offset * S, quality, boot: self.boot });
    }

    pub fn tick(&mut self, now: i64) {
        self.now = now;
        self.apply(&Record::Tick);
    }

    pub fn finish(&mut self) {
        self.apply(&Record::Finish);
    }

    /// Points as `partition measurement,tag=value field=1,other="text" time`, without a time for untimed ones; times count from
    /// [`EPOCH`]. One batch.
    pub fn batch(&mut self, lines: &[&str]) {
        let (mut cells, mut text) = (Vec::new(), Vec::new());
        for line in lines {
            self.line(line, &mut cells, &mut text);
        }
        let record = BatchRecord {
            input: 0,
            read_at: self.now * S,
            position: &Position::None,
            counts: &InputCounts::default(),
            cells: &cells,
            text: &text,
            points: lines.len() as u32,
        };
        self.apply(&Record::Batch(record));
    }

    fn line(&mut self, line: &str, cells: &mut Vec<Cell>, text: &mut Vec<u8>) {
        let mut words = line.split(' ');
        let (partition, series, fields) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let time = words.next().map(|t| ((EPOCH as f64 + t.parse::<f64>().unwrap()) * S as f64) as i64);
        let mut parts = series.split(',');
        let measurement = parts.next().unwrap();
        let tags: Vec<(&str, &str)> = parts.map(|p| p.split_once('=').unwrap()).collect();
        let series = Arc::new(Series::from_parts(measurement, &tags));
        let series = self.table.intern(&series, 0, &partition.into()).unwrap();
        for (i, field) in fields.split(',').enumerate() {
            let (name, value) = field.split_once('=').unwrap();
            let value = match value {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                v if v.starts_with('"') => Value::Text(v.trim_matches('"')),
                v => Value::Float(v.parse().unwrap()),
            };
            let (kind, value) = Cell::encode_value(value, text);
            let flags = if i == 0 { Cell::START } else { 0 } | if time.is_none() { Cell::UNTIMED } else { 0 };
            let field = self.table.intern_field(name).unwrap();
            cells.push(Cell { series, field, kind: kind as u8, flags, time: time.unwrap_or(self.now * S), value });
        }
    }

    /// What left since the last look, as lines like those of [`World::batch`]; late ones start with `late`.
    pub fn take(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        for lane in Lane::ALL {
            let chunk = self.results.take(lane);
            lines.extend(read(&chunk));
        }
        lines
    }

    /// Stops, keeps the snapshot, and goes on from it with a new table.
    pub fn restart(&mut self) {
        let mut bytes = Vec::new();
        self.operators.snapshot(&self.table, &mut bytes);
        let mut table = SeriesTable::new(self.spec.limits.series_max);
        let (operators, dropped) = Operators::restore(Arc::clone(&self.spec), &bytes, &mut table).unwrap();
        assert_eq!(dropped, Vec::<String>::new());
        assert_eq!(operators.digest(&table), self.operators.digest(&self.table));
        (self.operators, self.table) = (operators, table);
    }

    /// Everything is forgotten but floors.
    pub fn lose_state(&mut self, floors: &Floors) {
        self.operators = Operators::new(Arc::clone(&self.spec));
        self.operators.start_above(floors);
    }

    pub fn counts(&self, operator: &str) -> OperatorCounts {
        *self.operators.operator_counts().find(|(n, _)| *n == operator).unwrap().1
    }
}

fn read(chunk: &Chunk) -> Vec<String> {
    let mut lines = Vec::new();
    for (i, point) in chunk.points().enumerate() {
        let late = if chunk.route(i) == 2 { "late " } else { "" };
        let fields: Vec<String> = point.fields().map(|(name, value)| format!("{name}={}", show(value))).collect();
        let time = (point.time() - EPOCH * S) as f64 / S as f64;
        lines.push(format!("{late}{} {} {time}", point.series().line(), fields.join(",")));
    }
    lines
}

fn show(value: Value<'_>) -> String {
    match value {
        Value::Float(v) => format!("{v}"),
        Value::Int(v) => format!("{v}i"),
        Value::Uint(v) => format!("{v}u"),
        Value::Bool(v) => format!("{v}"),
        Value::Text(v) => format!("{v:?}"),
    }
}
