//! What leaves the engine while one record is applied: points in two lanes, numbered as they come.

use std::{collections::VecDeque, sync::Arc};

use weir_plugin_api::{Cell, Chunk, FieldNumbers, Identity, Lane, Series, Value};

/// Names a chunk can have.
const FIELDS_MAX: usize = 1 << 16;

/// Collects points of consecutive records into one chunk per lane.
///
/// A chunk can name 65 536 fields, and the window results of one wide message have more names: then a lane has several, and a point that is
/// wider than that leaves as several of the same series and time.
///
/// Passed points are copied cell by cell: ids of the engine's table are mapped to the chunk's by arrays that are stamped, not cleared.
#[derive(Debug, Default)]
pub struct Results {
    lanes: [LaneBuilder; 2],
    record: u64,
    ordinals: [u32; 2],
}

#[derive(Debug, Default)]
struct LaneBuilder {
    /// Those that can name no more fields.
    full: VecDeque<Chunk>,
    chunk: Chunk,
    numbers: FieldNumbers,
    /// Engine series id → (stamp, index in the chunk).
    series: Vec<(u32, u32)>,
    /// Engine field id → (stamp, index in the chunk).
    fields: Vec<(u32, u16)>,
    stamp: u32,
}

impl LaneBuilder {
    /// The chunk so far; what follows is in another.
    fn close(&mut self) -> Chunk {
        self.stamp = self.stamp.wrapping_add(1);
        if self.stamp == 0 {
            self.series.clear();
            self.fields.clear();
            self.stamp = 1;
        }
        self.numbers.clear();
        std::mem::take(&mut self.chunk)
    }
}

impl Results {
    /// The record whose results follow.
    pub fn start_record(&mut self, record: u64) {
        self.record = record;
        self.ordinals = [0, 0];
    }

    /// Points in the chunks of `lane` so far.
    pub fn len(&self, lane: Lane) -> usize {
        let builder = &self.lanes[lane as usize];
        builder.chunk.len() + builder.full.iter().map(Chunk::len).sum::<usize>()
    }

    /// Whether nothing was emitted since the last take.
    pub fn is_empty(&self) -> bool {
        Lane::ALL.iter().all(|lane| self.len(*lane) == 0)
    }

    /// Bytes of memory of the chunks so far.
    pub fn size(&self) -> usize {
        self.lanes.iter().map(|l| l.chunk.size() + l.full.iter().map(Chunk::size).sum::<usize>()).sum()
    }

    /// Takes the oldest chunk of a lane, the only one but after very wide points; the next point opens a new one.
    pub fn take(&mut self, lane: Lane) -> Chunk {
        let builder = &mut self.lanes[lane as usize];
        builder.full.pop_front().unwrap_or_else(|| builder.close())
    }

    /// Opens a point of a series outside the engine's table (a window result, an alert). Fields follow with [`Results::field`].
    pub fn point(&mut self, lane: Lane, series: &Arc<Series>, route: u64) {
        let identity = self.next(lane);
        let chunk = &mut self.lanes[lane as usize].chunk;
        note_identity(chunk, identity);
        if chunk.series.last().is_none_or(|last| !Arc::ptr_eq(last, series)) || chunk.routes.last() != Some(&route) {
            chunk.series.push(Arc::clone(series));
            chunk.routes.push(route);
        }
        chunk.starts.push(chunk.cells.len() as u32);
    }

    /// Adds a field to the point that was opened last in `lane`. Names are few: they are found by address, then by text.
    pub fn field(&mut self, lane: Lane, name: &Arc<str>, time: i64, value: Value<'_>) {
        let number = |builder: &mut LaneBuilder| builder.numbers.number(&mut builder.chunk.fields, name);
        let field = number(&mut self.lanes[lane as usize]).or_else(|| {
            self.split(lane);
            number(&mut self.lanes[lane as usize])
        });
        let Some(field) = field else { return };
        let chunk = &mut self.lanes[lane as usize].chunk;
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

    /// The point that is open goes on in a new chunk, as one of its own.
    fn split(&mut self, lane: Lane) {
        let builder = &mut self.lanes[lane as usize];
        let (Some(series), Some(route)) = (builder.chunk.series.last().cloned(), builder.chunk.routes.last().copied()) else { return };
        let started = builder.chunk.starts.last().is_some_and(|start| (*start as usize) < builder.chunk.cells.len());
        if !started {
            // Nothing of it is there: it opens the new chunk under its own identity.
            builder.chunk.starts.pop();
            self.ordinals[lane as usize] -= 1;
            let points = builder.chunk.starts.len() as u32;
            builder.chunk.identities.retain(|(start, _)| *start < points);
        }
        let closed = builder.close();
        builder.full.push_back(closed);
        self.point(lane, &series, route);
    }

    /// Passes a raw point on: `cells` are all of one point, timed, with ids of the engine's table.
    pub fn pass(&mut self, cells: &[Cell], text: &[u8], series: &Arc<Series>, field_names: &[Arc<str>], route: u64) {
        let Some(first) = cells.first() else { return };
        let identity = self.next(Lane::Results);
        let builder = &mut self.lanes[Lane::Results as usize];
        if builder.chunk.fields.len() + cells.len() > FIELDS_MAX && !builder.chunk.fields.is_empty() {
            let closed = builder.close();
            builder.full.push_back(closed);
        }
        let chunk = &mut builder.chunk;
        note_identity(chunk, identity);
        let slot = first.series as usize;
        if builder.series.len() <= slot {
            builder.series.resize(slot + 1, (builder.stamp.wrapping_sub(1), 0));
        }
        if builder.series[slot].0 != builder.stamp {
            builder.series[slot] = (builder.stamp, chunk.series.len() as u32);
            chunk.series.push(Arc::clone(series));
            chunk.routes.push(route);
        }
        let series_index = builder.series[slot].1;
        chunk.starts.push(chunk.cells.len() as u32);
        for cell in cells {
            let slot = cell.field as usize;
            if builder.fields.len() <= slot {
                builder.fields.resize(slot + 1, (builder.stamp.wrapping_sub(1), 0));
            }
            if builder.fields[slot].0 != builder.stamp {
                // The engine's table has fewer names than a chunk can have: there is room in one that was empty.
                let number = builder.numbers.number(&mut chunk.fields, &field_names[slot]);
                builder.fields[slot] = (builder.stamp, number.unwrap_or(u16::MAX));
            }
            let mut copy = *cell;
            copy.series = series_index;
            copy.field = builder.fields[slot].1;
            if cell.kind == weir_plugin_api::Kind::Text as u8 {
                copy.value = Cell::encode_value(cell.value(text), &mut chunk.text).1;
            }
            chunk.cells.push(copy);
        }
    }

    fn next(&mut self, lane: Lane) -> Identity {
        let ordinal = &mut self.ordinals[lane as usize];
        let identity = Identity { record: self.record, ordinal: *ordinal };
        *ordinal += 1;
        identity
    }
}

fn note_identity(chunk: &mut Chunk, identity: Identity) {
    let points = chunk.starts.len() as u32;
    let continues = chunk
        .identities
        .last()
        .is_some_and(|(start, first)| first.record == identity.record && first.ordinal + (points - start) == identity.ordinal);
    if !continues {
        chunk.identities.push((points, identity));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_with_more_names_than_a_chunk_has_leaves_as_several_and_each_value_keeps_its_name() {
        const NAMES: u64 = 150_000;
        let series = Arc::new(Series::from_parts("wide", &[]));
        let names: Vec<Arc<str>> = (0..NAMES).map(|n| format!("f{n}").into()).collect();
        let mut results = Results::default();
        results.start_record(7);
        results.point(Lane::Results, &series, 1);
        results.field(Lane::Results, &names[0], 4, Value::Uint(0));
        results.point(Lane::Results, &series, 3);
        names.iter().zip(0..).for_each(|(name, n)| results.field(Lane::Results, name, 5, Value::Uint(n)));
        results.point(Lane::Results, &series, 1);
        results.field(Lane::Results, &names[9], 6, Value::Uint(9));
        let (mut seen, mut last, mut points) = (0, None, 0);
        while results.len(Lane::Results) > 0 {
            let chunk = results.take(Lane::Results);
            for (index, point) in chunk.points().enumerate() {
                assert!(last < Some(chunk.identity(index)), "identities go on");
                last = Some(chunk.identity(index));
                points += 1;
                assert_eq!(chunk.route(index), if point.time() == 5 { 3 } else { 1 });
                for (name, value) in point.fields() {
                    let Value::Uint(n) = value else { panic!("{value:?}") };
                    assert_eq!(name, format!("f{n}"));
                    seen += 1;
                }
            }
        }
        assert_eq!((seen, points), (NAMES + 2, 5));
    }

    #[test]
    fn a_point_that_finds_its_chunk_full_opens_the_next_one() {
        let series = Arc::new(Series::from_parts("wide", &[]));
        let mut results = Results::default();
        results.start_record(1);
        for round in 0..2 {
            results.point(Lane::Results, &series, 1);
            for n in 0..65_536 {
                results.field(Lane::Results, &format!("{round}f{n}").into(), round, Value::Uint(n));
            }
        }
        let chunks = [results.take(Lane::Results), results.take(Lane::Results)];
        assert_eq!(results.len(Lane::Results), 0);
        for (chunk, ordinal) in chunks.iter().zip(0..) {
            assert_eq!((chunk.len(), chunk.identity(0)), (1, Identity { record: 1, ordinal }));
            assert_eq!(chunk.point(0).fields().len(), 65_536);
        }
    }
}
