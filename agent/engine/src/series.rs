//! The table of series and field names behind the journal: dense ids, so that every operator works with array indexes.

use std::sync::Arc;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use weir_plugin_api::Series;

/// One entry: a series as one partition of one input delivers it. The same series from two inputs has two entries, because their
/// event times progress apart; operators group by tags, so both feed the same group.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SeriesEntry {
    /// Measurement and tags.
    pub series: Arc<Series>,
    /// Time partition, an index into [`SeriesTable::partitions`].
    pub partition: u32,
}

/// One time partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Partition {
    /// Index of the input.
    pub input: u16,
    /// What separates it from others of the input.
    pub name: Arc<str>,
}

/// Bytes a series may have in the mean: the table is full when as many series of this size would fill it. One with large tags takes the
/// place of several.
pub const SERIES_BYTES: usize = 1024;

/// Dense ids of series, partitions and fields.
#[derive(Clone, Debug)]
pub struct SeriesTable {
    entries: Vec<SeriesEntry>,
    ids: HashMap<SeriesEntry, u32, FixedState>,
    partitions: Vec<Partition>,
    partition_ids: HashMap<Partition, u32, FixedState>,
    fields: Vec<Arc<str>>,
    field_ids: HashMap<Arc<str>, u16, FixedState>,
    series_max: usize,
    /// Bytes of all series, and of the names of partitions.
    bytes: usize,
}

impl SeriesTable {
    /// An empty table for at most `series_max` entries.
    pub fn new(series_max: usize) -> Self {
        Self {
            entries: Vec::new(),
            ids: HashMap::with_hasher(FixedState::default()),
            partitions: Vec::new(),
            partition_ids: HashMap::with_hasher(FixedState::default()),
            fields: Vec::new(),
            field_ids: HashMap::with_hasher(FixedState::default()),
            series_max,
            bytes: 0,
        }
    }

    /// The id of a partition, new or known; `None` when the table is full.
    pub fn intern_partition(&mut self, input: u16, name: &Arc<str>) -> Option<u32> {
        let partition = Partition { input, name: Arc::clone(name) };
        match self.partition_ids.get(&partition) {
            Some(id) => Some(*id),
            None if self.partitions.len() >= self.series_max || !self.has_room(name.len()) => None,
            None => {
                self.bytes += name.len();
                let id = self.partitions.len() as u32;
                self.partitions.push(partition.clone());
                self.partition_ids.insert(partition, id);
                Some(id)
            }
        }
    }

    /// The id of a series, new or known; `None` when the table is full.
    pub fn intern(&mut self, series: &Arc<Series>, input: u16, partition: &Arc<str>) -> Option<u32> {
        let partition_id = self.intern_partition(input, partition)?;
        let entry = SeriesEntry { series: Arc::clone(series), partition: partition_id };
        if let Some(id) = self.ids.get(&entry) {
            return Some(*id);
        }
        if self.entries.len() >= self.series_max || !self.has_room(series.size()) {
            return None;
        }
        self.bytes += series.size();
        let id = self.entries.len() as u32;
        self.entries.push(entry.clone());
        self.ids.insert(entry, id);
        Some(id)
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.bytes.saturating_add(bytes) <= self.series_max.saturating_mul(SERIES_BYTES)
    }

    /// The id of a field name, new or known; `None` when there are 65 535.
    pub fn intern_field(&mut self, name: &str) -> Option<u16> {
        if let Some(id) = self.field_ids.get(name) {
            return Some(*id);
        }
        let id = u16::try_from(self.fields.len()).ok().filter(|id| *id < u16::MAX)?;
        let name: Arc<str> = name.into();
        self.fields.push(Arc::clone(&name));
        self.field_ids.insert(name, id);
        Some(id)
    }

    /// Entries by id.
    pub fn entries(&self) -> &[SeriesEntry] {
        &self.entries
    }

    /// The series of an id.
    pub fn series(&self, id: u32) -> &Arc<Series> {
        &self.entries[id as usize].series
    }

    /// Partitions by id.
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// Field names by id.
    pub fn fields(&self) -> &[Arc<str>] {
        &self.fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_full_by_number_and_by_bytes_and_knows_what_it_has() {
        let mut table = SeriesTable::new(2);
        let partition: Arc<str> = "p".into();
        let series = |device: &str| Arc::new(Series::from_parts("m", &[("device", device)]));
        assert_eq!(table.intern(&series("a"), 0, &partition), Some(0));
        // Its tag alone takes the place of two.
        assert_eq!(table.intern(&series(&"x".repeat(2 * SERIES_BYTES)), 0, &partition), None);
        assert_eq!(table.intern(&series("b"), 0, &partition), Some(1));
        assert_eq!(table.intern(&series("c"), 0, &partition), None);
        assert_eq!(table.intern(&series("a"), 0, &partition), Some(0));
        assert_eq!(table.intern_partition(0, &"y".repeat(2 * SERIES_BYTES).into()), None);
    }
}
