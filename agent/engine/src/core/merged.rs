//! Chunks that become one block of the outbox, because every block brings its names along and many points should share them.
//!
//! Apart from the checkpoint because a series has to be found among many quickly: the core can do nothing else meanwhile.

use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weir_plugin_api::{Cell, Chunk, FieldNumbers};

use super::waiting::Held;

/// Points of small chunks that are merged into one block …
pub(super) const BLOCK_POINTS: usize = 16_384;
/// … and bytes of memory: every output that catches up holds a block or two.
const BLOCK_BYTES: usize = 3 << 19;

/// A block in the making.
pub(crate) struct Merged {
    /// Its points.
    pub chunk: Chunk,
    /// Points by output.
    pub counts: Vec<u32>,
    /// When its oldest chunk was sealed, observed axis.
    pub observed: i64,
    size: usize,
    /// Places of the chunk's series by address and route; made when a second chunk is added.
    places: HashMap<(usize, u64), u32, FixedState>,
    numbers: FieldNumbers,
}

impl Merged {
    /// One that begins with a chunk.
    pub fn new(held: Held) -> Self {
        let places = HashMap::with_hasher(FixedState::default());
        Self {
            chunk: (*held.chunk).clone(),
            counts: held.counts,
            observed: held.observed,
            size: held.size,
            places,
            numbers: FieldNumbers::default(),
        }
    }

    /// Whether the next chunk is still to go into it.
    pub fn has_room(&self, held: &Held) -> bool {
        // Names are numbered by 16 bits.
        let names = self.chunk.fields.len() + held.chunk.fields.len();
        self.chunk.len() + held.chunk.len() <= BLOCK_POINTS && self.size + held.size <= BLOCK_BYTES && names <= usize::from(u16::MAX)
    }

    /// Appends the next chunk, names and text moved behind those there are.
    pub fn add(&mut self, held: &Held) {
        self.counts.iter_mut().zip(&held.counts).for_each(|(all, more)| *all += more);
        self.size += held.size;
        let (chunk, more) = (&mut self.chunk, &*held.chunk);
        if self.places.is_empty() {
            let known = chunk.series.iter().zip(&chunk.routes).enumerate();
            self.places = known.map(|(place, (series, route))| ((address(series), *route), place as u32)).collect();
        }
        let mut series = Vec::with_capacity(more.series.len());
        for (one, route) in more.series.iter().zip(&more.routes) {
            series.push(*self.places.entry((address(one), *route)).or_insert_with(|| {
                chunk.series.push(Arc::clone(one));
                chunk.routes.push(*route);
                chunk.series.len() as u32 - 1
            }));
        }
        let fields: Vec<u16> = more.fields.iter().map(|name| self.numbers.number(&mut chunk.fields, name).unwrap_or(u16::MAX)).collect();
        let (points, cells) = (chunk.starts.len() as u32, chunk.cells.len() as u32);
        for cell in &more.cells {
            let mut copy = *cell;
            copy.series = series[cell.series as usize];
            copy.field = fields[usize::from(cell.field)];
            copy.value = Cell::encode_value(cell.value(&more.text), &mut chunk.text).1;
            chunk.cells.push(copy);
        }
        chunk.starts.extend(more.starts.iter().map(|s| s + cells));
        chunk.identities.extend(more.identities.iter().map(|(start, identity)| (start + points, *identity)));
    }
}

/// Who is who among series that all live as long as the chunks do.
fn address(series: &Arc<weir_plugin_api::Series>) -> usize {
    Arc::as_ptr(series).addr()
}

#[cfg(test)]
mod tests {
    use weir_plugin_api::{Identity, Kind, Series, Value};

    use super::*;

    /// A chunk of a point for each of these series, with a number and a text.
    fn held(record: u64, series: &[&Arc<Series>], fields: [&str; 2]) -> Held {
        let mut chunk = Chunk { fields: fields.map(Arc::from).to_vec(), ..Chunk::default() };
        chunk.identities.push((0, Identity { record, ordinal: 0 }));
        for (place, series) in series.iter().enumerate() {
            chunk.series.push(Arc::clone(series));
            chunk.routes.push(1);
            chunk.starts.push(chunk.cells.len() as u32);
            let (time, name) = (record as i64, format!("{record}:{place}"));
            for (field, value) in [(0, Value::Float(time as f64)), (1, Value::Text(&name))] {
                let (kind, value) = Cell::encode_value(value, &mut chunk.text);
                let flags = if field == 0 { Cell::START } else { 0 };
                chunk.cells.push(Cell { series: place as u32, field, kind: kind as u8, flags, time, value });
            }
        }
        let (last, size) = (chunk.identity(chunk.len() - 1), chunk.size());
        Held { last, counts: vec![chunk.len() as u32], observed: record as i64, size, chunk: Arc::new(chunk) }
    }

    #[test]
    fn merged_chunks_say_what_each_of_them_said() {
        let series: Vec<Arc<Series>> = (0..4).map(|i| Arc::new(Series::from_parts("m", &[("device", &i.to_string())]))).collect();
        let parts = [
            held(1, &[&series[0], &series[1]], ["v", "name"]),
            held(2, &[&series[1], &series[2]], ["name", "v"]),
            held(3, &[&series[3], &series[0]], ["v", "other"]),
        ];
        let words = |chunk: &Chunk| -> Vec<String> {
            let cells = chunk.cells.iter();
            cells
                .map(|c| {
                    let (series, field) = (chunk.series[c.series as usize].line(), &chunk.fields[usize::from(c.field)]);
                    format!("{series} {field}={:?} {} {}", c.value(&chunk.text), c.time, c.flags)
                })
                .collect()
        };
        let apart: Vec<String> = parts.iter().flat_map(|h| words(&h.chunk)).collect();
        let identities: Vec<Identity> = parts.iter().flat_map(|h| (0..2).map(|i| h.chunk.identity(i))).collect();
        let [first, second, third] = parts;
        let mut merged = Merged::new(first);
        [second, third].iter().for_each(|held| {
            assert!(merged.has_room(held));
            merged.add(held);
        });
        assert_eq!(words(&merged.chunk), apart);
        assert_eq!((0..6).map(|i| merged.chunk.identity(i)).collect::<Vec<_>>(), identities);
        assert_eq!((merged.chunk.series.len(), merged.chunk.fields.len(), merged.counts), (4, 3, vec![6]));
        assert_eq!(merged.chunk.cells.iter().filter(|c| c.kind == Kind::Float as u8).count(), 6);
    }
}
