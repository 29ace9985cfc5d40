//! What leaves the engine: finished points in cells, with the names they use, ready for any output.

use std::{ops::Range, sync::Arc};

use foldhash::fast::FixedState;
use hashbrown::HashMap;

use crate::{cell::Cell, series::Series, value::Value};

/// Who a point is, for good: the journal record that caused it and its place among that record's results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Sequence number of the journal record, from 1.
    pub record: u64,
    /// Ordinal among the record's results in its lane, from 0.
    pub ordinal: u32,
}

/// Alerts overtake everything else: each output has two lanes with a cursor each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Alert transitions (`weir_alert`).
    Alerts = 0,
    /// Window results and passed points.
    Results = 1,
}

impl Lane {
    /// Both, the more urgent first.
    pub const ALL: [Self; 2] = [Self::Alerts, Self::Results];
}

/// A run of points in the order of their identities, immutable once it left the engine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chunk {
    /// Series that cells refer to.
    pub series: Vec<Arc<Series>>,
    /// Outputs that want each series, bit `n` for output `n` of the configuration; actions follow the outputs.
    pub routes: Vec<u64>,
    /// Fields that cells refer to.
    pub fields: Vec<Arc<str>>,
    /// Cells, series and field ids being indexes into the two lists above. None is untimed.
    pub cells: Vec<Cell>,
    /// Text of text cells.
    pub text: Vec<u8>,
    /// Index of the first cell of each point.
    pub starts: Vec<u32>,
    /// Identities as runs: from point `.0` on, points are `.1`, `.1` + 1 ordinal, … until the next run.
    pub identities: Vec<(u32, Identity)>,
}

impl Chunk {
    /// Number of points.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Whether there is no point.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Bytes of memory held, names not counted: they are shared.
    pub fn size(&self) -> usize {
        self.cells.len() * size_of::<Cell>() + self.text.len() + self.starts.len() * 4 + self.identities.len() * 24 + self.series.len() * 16
    }

    /// Identity of point `index`.
    pub fn identity(&self, index: usize) -> Identity {
        let at = self.identities.partition_point(|(start, _)| *start as usize <= index);
        let Some((start, first)) = at.checked_sub(1).and_then(|i| self.identities.get(i)) else {
            return Identity::default();
        };
        Identity { record: first.record, ordinal: first.ordinal + (index as u32 - start) }
    }

    /// First point whose identity is greater than `cursor`.
    pub fn after(&self, cursor: Identity) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.identity(middle) <= cursor { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Outputs that want point `index`.
    pub fn route(&self, index: usize) -> u64 {
        self.routes.get(self.cells[self.starts[index] as usize].series as usize).copied().unwrap_or(0)
    }

    /// Point `index`.
    pub fn point(&self, index: usize) -> PointView<'_> {
        let start = self.starts[index] as usize;
        let end = self.starts.get(index + 1).map_or(self.cells.len(), |e| *e as usize);
        PointView { chunk: self, cells: &self.cells[start..end] }
    }

    /// Every point.
    pub fn points(&self) -> impl ExactSizeIterator<Item = PointView<'_>> {
        (0..self.len()).map(|i| self.point(i))
    }
}

/// One point, read.
#[derive(Clone, Copy, Debug)]
pub struct PointView<'a> {
    chunk: &'a Chunk,
    cells: &'a [Cell],
}

impl<'a> PointView<'a> {
    /// Measurement and tags.
    pub fn series(&self) -> &'a Series {
        &self.chunk.series[self.cells[0].series as usize]
    }

    /// The shared series: its address is stable while the chunk lives, for caches keyed by it.
    pub fn series_arc(&self) -> &'a Arc<Series> {
        &self.chunk.series[self.cells[0].series as usize]
    }

    /// Event time, nanoseconds since 1970 UTC.
    pub fn time(&self) -> i64 {
        self.cells[0].time
    }

    /// Fields in the order they were read.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (&'a str, Value<'a>)> + use<'a> {
        let chunk = self.chunk;
        self.cells.iter().map(move |cell| (&*chunk.fields[cell.field as usize], cell.value(&chunk.text)))
    }

    /// One field's value.
    pub fn field(&self, name: &str) -> Option<Value<'a>> {
        self.fields().find(|(n, _)| *n == name).map(|(_, v)| v)
    }
}

/// The points one delivery is about: ranges of chunks, in order.
#[derive(Clone, Debug, Default)]
pub struct Points {
    /// Chunk and range of points in it.
    pub slices: Vec<(Arc<Chunk>, Range<usize>)>,
}

impl Points {
    /// Number of points.
    pub fn len(&self) -> usize {
        self.slices.iter().map(|(_, r)| r.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Every point.
    pub fn iter(&self) -> impl Iterator<Item = PointView<'_>> {
        self.slices.iter().flat_map(|(chunk, range)| range.clone().map(move |i| chunk.point(i)))
    }

    /// Identity of the last point.
    pub fn last_identity(&self) -> Identity {
        self.slices.iter().rev().find(|(_, r)| !r.is_empty()).map_or(Identity::default(), |(chunk, r)| chunk.identity(r.end - 1))
    }

    /// Identity of the first point.
    pub fn first_identity(&self) -> Identity {
        self.slices.iter().find(|(_, r)| !r.is_empty()).map_or(Identity::default(), |(chunk, r)| chunk.identity(r.start))
    }

    /// The points numbered `range` among these.
    pub fn slice(&self, range: Range<usize>) -> Self {
        let (mut at, mut slices) = (0, Vec::new());
        for (chunk, have) in &self.slices {
            let start = range.start.max(at);
            let end = range.end.min(at + have.len());
            if start < end {
                slices.push((Arc::clone(chunk), have.start + start - at..have.start + end - at));
            }
            at += have.len();
        }
        Self { slices }
    }
}

impl From<Arc<Chunk>> for Points {
    fn from(chunk: Arc<Chunk>) -> Self {
        let all = 0..chunk.len();
        Self { slices: vec![(chunk, all)] }
    }
}

/// Field names up to which looking at each is quickest.
const FEW_FIELDS: usize = 32;

/// Finds the number of a field in a chunk's list by its name, however many there are.
#[derive(Clone, Debug, Default)]
pub struct FieldNumbers {
    /// Every field of the list by its name, once there are more than a few.
    by_name: HashMap<Arc<str>, u16, FixedState>,
}

impl FieldNumbers {
    /// The number of `name` in `fields`, always the same list; it is appended when it is new. `None`: the list is full.
    #[inline]
    pub fn number(&mut self, fields: &mut Vec<Arc<str>>, name: &Arc<str>) -> Option<u16> {
        if fields.len() > FEW_FIELDS {
            return self.one_of_many(fields, name);
        }
        let found = fields.iter().position(|f| Arc::ptr_eq(f, name)).or_else(|| fields.iter().position(|f| f == name));
        Some(found.unwrap_or_else(|| {
            fields.push(Arc::clone(name));
            fields.len() - 1
        }) as u16)
    }

    fn one_of_many(&mut self, fields: &mut Vec<Arc<str>>, name: &Arc<str>) -> Option<u16> {
        for (index, field) in fields.iter().enumerate().skip(self.by_name.len()) {
            self.by_name.insert(Arc::clone(field), index as u16);
        }
        if let Some(field) = self.by_name.get(name) {
            return Some(*field);
        }
        let field = u16::try_from(fields.len()).ok()?;
        fields.push(Arc::clone(name));
        self.by_name.insert(Arc::clone(name), field);
        Some(field)
    }

    /// Another list follows.
    pub fn clear(&mut self) {
        if !self.by_name.is_empty() {
            // One large message must not pin its memory for good.
            self.by_name = HashMap::default();
        }
    }
}

/// Puts a chunk together point by point; names are looked up by address of the shared text, then by content.
#[derive(Debug, Default)]
pub struct ChunkBuilder {
    chunk: Chunk,
    numbers: FieldNumbers,
}

impl ChunkBuilder {
    /// Opens a point.
    pub fn point(&mut self, identity: Identity, series: &Arc<Series>, route: u64) {
        let chunk = &mut self.chunk;
        let continues = chunk.identities.last().is_some_and(|(start, first)| {
            first.record == identity.record && first.ordinal + (chunk.starts.len() as u32 - start) == identity.ordinal
        });
        if !continues {
            chunk.identities.push((chunk.starts.len() as u32, identity));
        }
        if chunk.series.last().is_none_or(|last| !Arc::ptr_eq(last, series)) {
            chunk.series.push(Arc::clone(series));
            chunk.routes.push(route);
        }
        chunk.starts.push(chunk.cells.len() as u32);
    }

    /// Adds a field to the open point; one past the 65 536th name is left out.
    pub fn field(&mut self, name: &Arc<str>, time: i64, value: Value<'_>) {
        let chunk = &mut self.chunk;
        let Some(field) = self.numbers.number(&mut chunk.fields, name) else { return };
        let (kind, bits) = Cell::encode_value(value, &mut chunk.text);
        let start = chunk.starts.last().is_some_and(|s| *s as usize == chunk.cells.len());
        chunk.cells.push(Cell {
            series: (chunk.series.len() - 1) as u32,
            field,
            kind: kind as u8,
            flags: if start { Cell::START } else { 0 },
            time,
            value: bits,
        });
    }

    /// The chunk.
    pub fn finish(self) -> Chunk {
        self.chunk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_has_one_number_however_many_there_are() {
        let series = Arc::new(Series::from_parts("m", &[]));
        let mut builder = ChunkBuilder::default();
        for point in 0..3 {
            builder.point(Identity { record: 1, ordinal: point }, &series, 1);
            for field in 0..200 {
                // The same name is another text each time.
                builder.field(&format!("f{field}").into(), 5, Value::Int(field));
            }
        }
        let chunk = builder.finish();
        assert_eq!(chunk.fields.len(), 200);
        for cell in &chunk.cells {
            assert_eq!(&*chunk.fields[usize::from(cell.field)], format!("f{}", cell.value));
        }
    }

    #[test]
    fn identities_are_runs_and_a_cursor_finds_its_place() {
        let series = Arc::new(Series::from_parts("m", &[]));
        let field: Arc<str> = "f".into();
        let mut builder = ChunkBuilder::default();
        for (record, ordinal) in [(4, 0), (4, 1), (7, 0), (7, 1), (7, 2)] {
            builder.point(Identity { record, ordinal }, &series, 1);
            builder.field(&field, 5, Value::Float(1.0));
        }
        let chunk = builder.finish();
        assert_eq!(chunk.identities.len(), 2);
        assert_eq!(chunk.identity(3), Identity { record: 7, ordinal: 1 });
        assert_eq!(chunk.after(Identity { record: 4, ordinal: 1 }), 2);
        assert_eq!(chunk.after(Identity { record: 5, ordinal: 9 }), 2);
        assert_eq!(chunk.after(Identity { record: 9, ordinal: 0 }), 5);
        let points = Points::from(Arc::new(chunk));
        assert_eq!(points.slice(1..3).len(), 2);
        assert_eq!(points.slice(1..3).last_identity(), Identity { record: 7, ordinal: 0 });
    }
}
