//! The type of each field: the first value says it, and what comes as another type is made into it or refused, if the configuration says so.
//!
//! Decided here and not at an input, because it must come out the same after a crash: the types are part of the state. A field is one of
//! a measurement, as at the stores that insist on types; tags and input do not matter.
//!
//! | first | made into it |
//! | --- | --- |
//! | float | integers; text that is a decimal number |
//! | integer, unsigned | floats without a fraction and integers, within its range; text that is such a number |
//! | boolean, text | nothing |

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weir_plugin_api::{Cell, Kind, Value};

use super::snapshot::{Reader, SnapshotError, Writer};
use crate::{series::SeriesTable, spec::OnTypeConflict};

/// Row of a series that was not looked up.
const UNKNOWN: u32 = u32::MAX;

/// What became of fields whose type was not the first one's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TypeCounts {
    /// Made into it.
    pub coerced: u64,
    /// Refused; a point with no field left counts as refused itself.
    pub rejected: u64,
    /// Fields of points whose type nobody keeps, because `[limits] series_max` of them are kept.
    pub untyped: u64,
}

/// A field that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeConflict {
    /// Its series.
    pub series: u32,
    /// Its name's id.
    pub field: u16,
    /// What it was first.
    pub first: Kind,
    /// What came.
    pub came: Kind,
}

/// Types of one measurement's fields, by field id.
type Row = Vec<(u16, Kind)>;

/// All types there are.
#[derive(Clone, Debug)]
pub(super) struct Types {
    policy: OnTypeConflict,
    kept_max: usize,
    kept: usize,
    /// Row by series id.
    series: Vec<u32>,
    rows: Vec<Row>,
    names: HashMap<String, u32, FixedState>,
    /// The cells of a point that was changed.
    scratch: Vec<Cell>,
    pub counts: TypeCounts,
    /// The newest one refused.
    pub last: Option<TypeConflict>,
}

impl Types {
    pub fn new(policy: OnTypeConflict, kept_max: usize) -> Self {
        Self {
            policy,
            kept_max,
            kept: 0,
            series: Vec::new(),
            rows: Vec::new(),
            names: HashMap::with_hasher(FixedState::default()),
            scratch: Vec::new(),
            counts: TypeCounts::default(),
            last: None,
        }
    }

    /// Whether there is anything to do.
    pub fn is_on(&self) -> bool {
        self.policy != OnTypeConflict::Pass
    }

    /// The cells of a point as they go on: `None`, as they are; else others, and none when nothing of it is left. To be given back.
    pub fn fit(&mut self, cells: &[Cell], text: &[u8], table: &SeriesTable) -> Option<Vec<Cell>> {
        let row = self.row(cells.first()?.series, table);
        let odd = cells.iter().position(|cell| !self.is_first_type(row, cell))?;
        let mut fitted = std::mem::take(&mut self.scratch);
        fitted.clear();
        fitted.extend_from_slice(&cells[..odd]);
        for cell in &cells[odd..] {
            fitted.extend(self.fit_cell(row, cell, text));
        }
        if let Some(first) = fitted.first_mut() {
            first.flags |= Cell::START;
        }
        Some(fitted)
    }

    /// Takes back what [`Types::fit`] gave.
    pub fn give_back(&mut self, cells: Vec<Cell>) {
        self.scratch = cells;
    }

    /// Row of a series' measurement.
    fn row(&mut self, series: u32, table: &SeriesTable) -> usize {
        let slot = series as usize;
        if self.series.len() <= slot {
            self.series.resize(slot + 1, UNKNOWN);
        }
        if self.series[slot] == UNKNOWN {
            self.series[slot] = self.row_of(table.series(series).measurement());
        }
        self.series[slot] as usize
    }

    fn row_of(&mut self, measurement: &str) -> u32 {
        if let Some(row) = self.names.get(measurement) {
            return *row;
        }
        let row = self.rows.len() as u32;
        self.rows.push(Row::new());
        self.names.insert(measurement.to_owned(), row);
        row
    }

    /// Whether the cell has its field's type; the first cell of a field decides it.
    fn is_first_type(&mut self, row: usize, cell: &Cell) -> bool {
        match self.rows[row].binary_search_by_key(&cell.field, |(field, _)| *field) {
            Ok(at) => self.rows[row][at].1 as u8 == cell.kind,
            Err(_) if self.kept >= self.kept_max => {
                self.counts.untyped += 1;
                true
            }
            Err(at) => {
                self.rows[row].insert(at, (cell.field, cell.kind()));
                self.kept += 1;
                true
            }
        }
    }

    fn fit_cell(&mut self, row: usize, cell: &Cell, text: &[u8]) -> Option<Cell> {
        if self.is_first_type(row, cell) {
            return Some(*cell);
        }
        let at = self.rows[row].binary_search_by_key(&cell.field, |(field, _)| *field).ok()?;
        let first = self.rows[row][at].1;
        let fitted = if self.policy == OnTypeConflict::Coerce { coerce(cell.value(text), first) } else { None };
        match fitted {
            Some(value) => {
                self.counts.coerced += 1;
                Some(Cell { kind: first as u8, value, ..*cell })
            }
            None => {
                self.counts.rejected += 1;
                self.last = Some(TypeConflict { series: cell.series, field: cell.field, first, came: cell.kind() });
                None
            }
        }
    }

    pub fn write(&self, w: &mut Writer<'_>, table: &SeriesTable) {
        [self.counts.coerced, self.counts.rejected, self.counts.untyped].into_iter().for_each(|v| w.u64(v));
        let mut rows: Vec<(&String, &Row)> = self.names.iter().map(|(name, row)| (name, &self.rows[*row as usize])).collect();
        rows.sort_unstable_by_key(|(name, _)| *name);
        w.u32(rows.len());
        for (name, row) in rows {
            w.text(name);
            let mut fields: Vec<(&str, Kind)> = row.iter().map(|(field, kind)| (&*table.fields()[usize::from(*field)], *kind)).collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            w.u32(fields.len());
            for (name, kind) in fields {
                w.text(name);
                w.u8(kind as u8);
            }
        }
    }

    /// Types of before; forgotten where conflicts are nobody's business now.
    pub fn read(&mut self, r: &mut Reader<'_>) -> Result<(), SnapshotError> {
        self.counts = TypeCounts { coerced: r.u64()?, rejected: r.u64()?, untyped: r.u64()? };
        for _ in 0..r.count()? {
            let measurement = r.text()?;
            for _ in 0..r.count()? {
                let name = r.text()?;
                let Some(kind) = Kind::from_u8(r.u8()?) else { return r.damaged() };
                if !self.is_on() {
                    continue;
                }
                let row = self.row_of(&measurement) as usize;
                if let Some(field) = r.table.intern_field(&name)
                    && let Err(at) = self.rows[row].binary_search_by_key(&field, |(field, _)| *field)
                {
                    self.rows[row].insert(at, (field, kind));
                    self.kept += 1;
                }
            }
        }
        Ok(())
    }
}

/// Bits of `value` as another type, if it is the same number there. Only integers that become floats may lose digits, past 2⁵³.
fn coerce(value: Value<'_>, to: Kind) -> Option<u64> {
    match (to, value) {
        (Kind::Float, Value::Int(v)) => Some((v as f64).to_bits()),
        (Kind::Float, Value::Uint(v)) => Some((v as f64).to_bits()),
        (Kind::Float, Value::Text(text)) => decimal(text)?.parse().ok().filter(|v: &f64| v.is_finite()).map(f64::to_bits),
        (Kind::Int, Value::Float(v)) => whole(v).and_then(|v| i64::try_from(v).ok()).map(|v| v as u64),
        (Kind::Int, Value::Uint(v)) => i64::try_from(v).ok().map(|v| v as u64),
        (Kind::Int, Value::Text(text)) => decimal(text)?.parse::<i64>().ok().map(|v| v as u64),
        (Kind::Uint, Value::Float(v)) => whole(v).and_then(|v| u64::try_from(v).ok()),
        (Kind::Uint, Value::Int(v)) => u64::try_from(v).ok(),
        (Kind::Uint, Value::Text(text)) => decimal(text)?.parse().ok(),
        _ => None,
    }
}

/// A float without a fraction as the integer it is.
fn whole(v: f64) -> Option<i128> {
    // Below 2⁶⁵ every such float is an integer of this size exactly.
    (v.abs() < 4e19 && v % 1.0 == 0.0).then_some(v as i128)
}

/// Text that could be a decimal number: no `inf`, no `NaN`, nothing of other notations.
fn decimal(text: &str) -> Option<&str> {
    let text = text.trim();
    let digits = text.bytes().any(|b| b.is_ascii_digit());
    (digits && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'+' | b'-' | b'.' | b'e' | b'E'))).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_the_same_number_becomes_another_type() {
        let float = |v: f64| Some(v.to_bits());
        let int = |v: i64| Some(v as u64);
        for (value, to, expected) in [
            (Value::Int(-3), Kind::Float, float(-3.0)),
            (Value::Uint(u64::MAX), Kind::Float, float(u64::MAX as f64)),
            (Value::Text(" 21.5 "), Kind::Float, float(21.5)),
            (Value::Text("inf"), Kind::Float, None),
            (Value::Text("1e999"), Kind::Float, None),
            (Value::Text("0x10"), Kind::Float, None),
            (Value::Text(""), Kind::Float, None),
            (Value::Bool(true), Kind::Float, None),
            (Value::Float(4.0), Kind::Int, int(4)),
            (Value::Float(-0.0), Kind::Int, int(0)),
            (Value::Float(4.5), Kind::Int, None),
            (Value::Float(9.3e18), Kind::Int, None),
            (Value::Float(-9_223_372_036_854_775_808.0), Kind::Int, int(i64::MIN)),
            (Value::Float(1e300), Kind::Int, None),
            (Value::Uint(1 << 63), Kind::Int, None),
            (Value::Text("-7"), Kind::Int, int(-7)),
            (Value::Text("7.0"), Kind::Int, None),
            (Value::Int(-1), Kind::Uint, None),
            (Value::Float(1.8e19), Kind::Uint, Some(18_000_000_000_000_000_000)),
            (Value::Float(-1.0), Kind::Uint, None),
            (Value::Int(1), Kind::Bool, None),
            (Value::Text("true"), Kind::Bool, None),
            (Value::Float(1.0), Kind::Text, None),
        ] {
            assert_eq!(coerce(value, to), expected, "{value:?} as {to:?}");
        }
    }
}
