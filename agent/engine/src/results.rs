//! What leaves the engine while one record is applied: points in two lanes, numbered as they come.

use std::sync::Arc;

use weir_plugin_api::{Cell, Chunk, Identity, Lane, Series, Value};

/// Collects points of consecutive records into one chunk per lane.
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
    chunk: Chunk,
    /// Engine series id → (stamp, index in the chunk).
    series: Vec<(u32, u32)>,
    /// Engine field id → (stamp, index in the chunk).
    fields: Vec<(u32, u16)>,
    stamp: u32,
}

impl Results {
    /// The record whose results follow.
    pub fn start_record(&mut self, record: u64) {
        self.record = record;
        self.ordinals = [0, 0];
    }

    /// Points in the chunk of `lane` so far.
    pub fn len(&self, lane: Lane) -> usize {
        self.lanes[lane as usize].chunk.len()
    }

    /// Whether nothing was emitted since the last take.
    pub fn is_empty(&self) -> bool {
        Lane::ALL.iter().all(|lane| self.len(*lane) == 0)
    }

    /// Bytes of memory of the chunks so far.
    pub fn size(&self) -> usize {
        self.lanes.iter().map(|l| l.chunk.size()).sum()
    }

    /// Takes the chunk of a lane; the next point opens a new one.
    pub fn take(&mut self, lane: Lane) -> Chunk {
        let builder = &mut self.lanes[lane as usize];
        builder.stamp = builder.stamp.wrapping_add(1);
        if builder.stamp == 0 {
            builder.series.clear();
            builder.fields.clear();
            builder.stamp = 1;
        }
        std::mem::take(&mut builder.chunk)
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
        let chunk = &mut self.lanes[lane as usize].chunk;
        let field = field_index(chunk, name);
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

    /// Passes a raw point on: `cells` are all of one point, timed, with ids of the engine's table.
    pub fn pass(&mut self, cells: &[Cell], text: &[u8], series: &Arc<Series>, field_names: &[Arc<str>], route: u64) {
        let Some(first) = cells.first() else { return };
        let identity = self.next(Lane::Results);
        let builder = &mut self.lanes[Lane::Results as usize];
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
                builder.fields[slot] = (builder.stamp, field_index(chunk, &field_names[slot]));
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

fn field_index(chunk: &mut Chunk, name: &Arc<str>) -> u16 {
    let found = chunk.fields.iter().position(|f| Arc::ptr_eq(f, name)).or_else(|| chunk.fields.iter().position(|f| f == name));
    found.unwrap_or_else(|| {
        chunk.fields.push(Arc::clone(name));
        chunk.fields.len() - 1
    }) as u16
}
