//! The state as bytes, and back: self-contained, little-endian, versioned, and the same for equal states whatever way they came about.
//!
//! ```text
//! "WOPS" version:u16 crc32c:u32 │ field names │ clock │ counts │ partitions │ held points │ windows │ alerts
//! ```
//!
//! Ids of the series table never appear: series and partitions are written by name, inputs by theirs, and everything that refers to a
//! partition or a field uses its place in the lists at the front. Each operator's part carries its name, a hash of what gives it
//! meaning and its length, so that one whose meaning changed is skipped and the others live on. What is derived (who watches whom,
//! routes, levels) is not written but found again.

use std::sync::Arc;

use weir_plugin_api::{Cell, Kind, Series, SeriesParts, Value};

use super::{
    EngineCounts, OperatorCounts, Operators,
    time::{PartitionTime, Partitions, WallClock, partition_index},
    window::WindowOperator,
};
use crate::{record::ClockQuality, series::SeriesTable, spec::EngineSpec};

const MAGIC: &[u8; 4] = b"WOPS";
/// Version of the format.
const VERSION: u16 = 2;
/// The oldest that is read: it knew no boots and no ended groups.
const VERSION_MIN: u16 = 1;
/// Bytes before what the checksum covers.
const HEADER: usize = 10;

/// Why stored state could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// It was written by another format version.
    #[error("state has format {found}, this version reads {expected}")]
    Version {
        /// What it says.
        found: u16,
        /// What is understood.
        expected: u16,
    },
    /// It ends early or contradicts itself.
    #[error("state is damaged at byte {0}")]
    Damaged(usize),
}

/// What the last snapshot took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    bytes: usize,
    /// Its list of field names.
    names: usize,
}

/// What a snapshot holds of one window or alert.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartSummary {
    /// `window` or `alert`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Hash of what gives it its meaning.
    pub meaning: u64,
    /// Its groups.
    pub groups: usize,
    /// Bytes of its state.
    pub bytes: usize,
}

/// What a snapshot holds, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorsSummary {
    /// wall − steady of the last clock record, nanoseconds.
    pub offset: i64,
    /// Its quality.
    pub quality: ClockQuality,
    /// Steady time of the last record, nanoseconds.
    pub steady: i64,
    /// Time partitions.
    pub partitions: usize,
    /// Points that wait for the clock.
    pub held: u64,
    /// Windows, then alerts.
    pub parts: Vec<PartSummary>,
    /// What the agent says of itself now, and of which output; empty for the agent as a whole.
    pub conditions: Vec<(&'static str, String)>,
}

/// Writes state; field and partition ids become places in the lists at the front.
pub(super) struct Writer<'a> {
    pub bytes: Vec<u8>,
    table: &'a SeriesTable,
    spec: &'a EngineSpec,
    /// Place of each field id, as they are first used.
    fields: Vec<Option<u32>>,
    names: Vec<u16>,
    /// Place of each partition index.
    places: Vec<u32>,
    /// Whether it says when things happened on the agent's own clocks.
    moments: bool,
}

impl Writer<'_> {
    pub fn u8(&mut self, v: u8) {
        self.bytes.push(v);
    }

    pub fn u32(&mut self, v: usize) {
        self.bytes.extend_from_slice(&u32::try_from(v).unwrap_or(u32::MAX).to_le_bytes());
    }

    pub fn u64(&mut self, v: u64) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }

    pub fn i64(&mut self, v: i64) {
        self.bytes.extend_from_slice(&v.to_le_bytes());
    }

    /// A time on the agent's own axes, which no two runs share.
    pub fn moment(&mut self, v: i64) {
        self.i64(if self.moments { v } else { 0 });
    }

    pub fn option(&mut self, v: Option<i64>) {
        self.u8(u8::from(v.is_some()));
        self.i64(v.unwrap_or(0));
    }

    pub fn text(&mut self, v: &str) {
        self.u32(v.len());
        self.bytes.extend_from_slice(v.as_bytes());
    }

    pub fn series(&mut self, series: &Series) {
        self.text(series.measurement());
        self.u32(series.tags().len());
        for (k, v) in series.tags() {
            self.text(k);
            self.text(v);
        }
    }

    pub fn field(&mut self, id: u16) {
        let slot = usize::from(id);
        if self.fields.len() <= slot {
            self.fields.resize(slot + 1, None);
        }
        let place = *self.fields[slot].get_or_insert_with(|| {
            self.names.push(id);
            self.names.len() as u32 - 1
        });
        self.u32(place as usize);
    }

    /// Places of partitions, in their order.
    pub fn partitions(&mut self, indexes: &[u32]) {
        let mut places: Vec<u32> = indexes.iter().filter_map(|i| self.places.get(*i as usize).copied()).collect();
        places.sort_unstable();
        self.u32(places.len());
        places.iter().for_each(|p| self.u32(*p as usize));
    }

    /// A part that a reader may skip.
    pub fn part(&mut self, name: &str, meaning: u64, write: impl FnOnce(&mut Self)) {
        self.text(name);
        self.u64(meaning);
        let at = self.bytes.len();
        self.u64(0);
        write(self);
        let length = (self.bytes.len() - at - 8) as u64;
        self.bytes[at..at + 8].copy_from_slice(&length.to_le_bytes());
    }

    fn write_partitions(&mut self, partitions: &Partitions) {
        let known = self.table.partitions();
        let mut list: Vec<(&str, &str, bool, u32, PartitionTime)> = Vec::new();
        for (index, time) in partitions.iter() {
            let Some(partition) = known.get(index as usize / 2) else { continue };
            let input = self.spec.inputs.get(usize::from(partition.input)).map_or("", |i| i.name.as_str());
            list.push((input, &partition.name, index % 2 == 1, index, *time));
        }
        list.sort_unstable_by(|a, b| (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2)));
        self.u32(list.len());
        for (place, (input, name, provisional, index, time)) in list.into_iter().enumerate() {
            if self.places.len() <= index as usize {
                self.places.resize(index as usize + 1, u32::MAX);
            }
            self.places[index as usize] = place as u32;
            self.text(input);
            self.text(name);
            self.u8(u8::from(provisional));
            self.i64(time.max);
            self.moment(time.observed);
            self.u8(u8::from(time.idle));
        }
    }

    fn write_held(&mut self, operators: &Operators) {
        let held = &operators.held;
        self.moment(held.since);
        self.u32(held.len());
        for range in held.points() {
            let cells = &held.cells[range];
            let entry = &self.table.entries()[cells[0].series as usize];
            let partition = &self.table.partitions()[entry.partition as usize];
            self.series(&entry.series);
            self.text(self.spec.inputs.get(usize::from(partition.input)).map_or("", |i| i.name.as_str()));
            self.text(&partition.name);
            self.u32(cells.len());
            for cell in cells {
                self.field(cell.field);
                self.u8(cell.kind);
                self.u8(cell.flags);
                self.i64(cell.time);
                match cell.value(&held.text) {
                    Value::Text(text) => self.text(text),
                    _ => self.u64(cell.value),
                }
            }
        }
    }
}

/// Reads state, its places turned into ids of `table`.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Of the format it reads.
    pub version: u16,
    pub table: &'a mut SeriesTable,
    pub spec: Arc<EngineSpec>,
    /// Field ids by place; `None` when the table of fields is full.
    fields: Vec<Option<u16>>,
    /// Partition indexes by place; `None` when the input is gone.
    partitions: Vec<Option<u32>>,
}

type Read<T> = Result<T, SnapshotError>;

impl Reader<'_> {
    pub fn damaged<T>(&self) -> Read<T> {
        Err(SnapshotError::Damaged(self.at))
    }

    fn take(&mut self, n: usize) -> Read<&[u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else { return self.damaged() };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let at = self.at;
        self.take(N)?.try_into().map_err(|_| SnapshotError::Damaged(at))
    }

    pub fn u8(&mut self) -> Read<u8> {
        Ok(self.array::<1>()?[0])
    }

    /// A count of things of at least one byte each.
    pub fn count(&mut self) -> Read<usize> {
        let n = u32::from_le_bytes(self.array()?) as usize;
        if n > self.bytes.len() - self.at { self.damaged() } else { Ok(n) }
    }

    /// A number that counts nothing.
    pub fn place(&mut self) -> Read<usize> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    pub fn u64(&mut self) -> Read<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Read<i64> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    pub fn option(&mut self) -> Read<Option<i64>> {
        let some = self.u8()? != 0;
        let value = self.i64()?;
        Ok(some.then_some(value))
    }

    pub fn text(&mut self) -> Read<String> {
        let n = self.count()?;
        let at = self.at;
        String::from_utf8(self.take(n)?.to_vec()).map_err(|_| SnapshotError::Damaged(at))
    }

    pub fn series(&mut self) -> Read<Arc<Series>> {
        let mut parts = SeriesParts { measurement: self.text()?, tags: Vec::new() };
        for _ in 0..self.count()? {
            let (key, value) = (self.text()?, self.text()?);
            parts.tags.push((key, value));
        }
        Ok(Arc::new(Series::new(&parts)))
    }

    /// A field's id; `None` when the table is full.
    pub fn field(&mut self) -> Read<Option<u16>> {
        let place = self.place()?;
        match self.fields.get(place) {
            Some(id) => Ok(*id),
            None => self.damaged(),
        }
    }

    /// Partitions that still exist.
    pub fn partitions(&mut self) -> Read<Vec<u32>> {
        let n = self.count()?;
        let mut list = Vec::with_capacity(n);
        for _ in 0..n {
            let place = self.place()?;
            match self.partitions.get(place) {
                Some(index) => list.extend(*index),
                None => return self.damaged(),
            }
        }
        Ok(list)
    }

    /// Counters of an operator.
    pub fn counts(&mut self) -> Read<OperatorCounts> {
        let mut values = [0; 14];
        let known = if self.version > VERSION_MIN { 14 } else { 13 };
        for value in &mut values[..known] {
            *value = self.u64()?;
        }
        Ok(OperatorCounts::from_values(values))
    }

    /// Whether the format has what became of groups that ended.
    pub fn has_ended(&self) -> bool {
        self.version > VERSION_MIN
    }

    /// Name, meaning and end of a part; [`Reader::skip_to`] the end to leave it out.
    pub fn part(&mut self) -> Read<(String, u64, usize)> {
        let (name, meaning) = (self.text()?, self.u64()?);
        let length = usize::try_from(self.u64()?).unwrap_or(usize::MAX);
        let end = self.at.checked_add(length).filter(|end| *end <= self.bytes.len());
        match end {
            Some(end) => Ok((name, meaning, end)),
            None => self.damaged(),
        }
    }

    pub fn skip_to(&mut self, end: usize) {
        self.at = end;
    }

    fn ended_at(&self, end: usize) -> Read<()> {
        if self.at == end { Ok(()) } else { self.damaged() }
    }

    fn input(&self, name: &str) -> Option<u16> {
        self.spec.inputs.iter().position(|i| i.name == name).map(|i| i as u16)
    }

    fn read_partitions(&mut self, partitions: &mut Partitions) -> Read<()> {
        for _ in 0..self.count()? {
            let (input, name, provisional) = (self.text()?, self.text()?, self.u8()? != 0);
            let time = PartitionTime { max: self.i64()?, observed: self.i64()?, idle: self.u8()? != 0 };
            let id = self.input(&input).and_then(|input| self.table.intern_partition(input, &name.into()));
            let index = id.map(|id| partition_index(id, provisional));
            if let Some(index) = index {
                partitions.set(index, time, &self.spec.time);
            }
            self.partitions.push(index);
        }
        Ok(())
    }

    /// Held points; how many were lost with their input.
    fn read_held(&mut self, operators: &mut Operators) -> Read<u64> {
        let since = self.i64()?;
        let mut lost = 0;
        for _ in 0..self.count()? {
            let series = self.series()?;
            let (input, partition) = (self.text()?, self.text()?);
            let id = self.input(&input).and_then(|input| self.table.intern(&series, input, &partition.into()));
            let (mut cells, mut text) = (Vec::new(), Vec::new());
            for _ in 0..self.count()? {
                let field = self.field()?;
                let (kind, flags, time) = (self.u8()?, self.u8()?, self.i64()?);
                let value = match Kind::from_u8(kind) {
                    Some(Kind::Text) => Cell::encode_value(Value::Text(&self.text()?), &mut text).1,
                    Some(_) => self.u64()?,
                    None => return self.damaged(),
                };
                if let (Some(field), Some(series)) = (field, id) {
                    cells.push(Cell { series, field, kind, flags, time, value });
                }
            }
            if cells.is_empty() { lost += 1 } else { operators.held.push(&cells, &text, since) }
        }
        Ok(lost)
    }

    /// The parts of one kind of operator: those known by name and meaning are handed to `read`, the others are told in `dropped`.
    fn read_parts(
        &mut self,
        kind: &str,
        known: &[(String, u64)],
        dropped: &mut Vec<String>,
        mut read: impl FnMut(usize, &mut Self) -> Read<()>,
    ) -> Read<()> {
        for _ in 0..self.count()? {
            let (name, meaning, end) = self.part()?;
            match known.iter().position(|(n, _)| *n == name) {
                Some(at) if known[at].1 == meaning => {
                    read(at, self)?;
                    self.ended_at(end)?;
                }
                Some(_) => {
                    dropped.push(format!("{kind} {name:?} starts anew: what it computes has changed"));
                    self.skip_to(end);
                }
                None => {
                    dropped.push(format!("the state of {kind} {name:?} is dropped: it is no longer configured"));
                    self.skip_to(end);
                }
            }
        }
        Ok(())
    }
}

/// Hash of what gives an operator its meaning: FNV-1a, which no library update changes.
pub(super) fn meaning(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl Operators {
    /// Appends everything there is to know to `out`.
    pub fn snapshot(&self, table: &SeriesTable, out: &mut Vec<u8>) {
        self.write(table, out, true);
    }

    /// The same without what depends on when it was run, for comparing one run with another.
    pub fn snapshot_without_moments(&self, table: &SeriesTable, out: &mut Vec<u8>) {
        self.write(table, out, false);
    }

    fn write(&self, table: &SeriesTable, out: &mut Vec<u8>, moments: bool) {
        let (start, Size { bytes, names: room }) = (out.len(), self.size.get());
        let about: usize = self.stage.windows.iter().map(WindowOperator::bytes_about).sum();
        out.reserve((bytes + bytes / 16).max(about));
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        // The names stand in front of what refers to them and are known behind it: they have as much room as they took last time.
        out.resize(start + HEADER + room, 0);
        let bytes = std::mem::take(out);
        let mut w = Writer { bytes, table, spec: &self.spec, fields: Vec::new(), names: Vec::new(), places: Vec::new(), moments };
        w.moment(self.clock.offset);
        w.u8(self.clock.quality as u8);
        w.option(self.clock.offset_max.filter(|_| moments));
        w.moment(self.clock.steady);
        w.moment(self.clock.boot as i64);
        // The last one stands with the types it is about.
        self.stage.counts.fields()[..9].iter().for_each(|(_, v)| w.u64(*v));
        w.write_partitions(&self.stage.partitions);
        w.write_held(self);
        w.u32(self.stage.windows.len());
        for window in &self.stage.windows {
            w.part(&window.window().name, window.meaning(), |w| window.write(w, &self.stage.partitions));
        }
        self.alerts.write(&mut w);
        self.alerts.conditions.write(&mut w, &self.spec);
        w.u64(self.stage.counts.rejected_type);
        self.types.write(&mut w, table);
        let Writer { bytes, names, .. } = w;
        *out = bytes;
        let mut list = (names.len() as u32).to_le_bytes().to_vec();
        for id in names {
            let name = &table.fields()[usize::from(id)];
            list.extend_from_slice(&(name.len() as u32).to_le_bytes());
            list.extend_from_slice(name.as_bytes());
        }
        let place = start + HEADER..start + HEADER + room;
        if list.len() == room {
            out[place].copy_from_slice(&list);
        } else {
            out.splice(place, list.iter().copied());
        }
        let checksum = crc32c::crc32c(&out[start + HEADER..]);
        out[start + 6..start + HEADER].copy_from_slice(&checksum.to_le_bytes());
        self.size.set(Size { bytes: out.len() - start, names: list.len() });
    }

    /// The state a snapshot holds, as far as `spec` still has a use for it, and in words what was dropped because its meaning changed.
    ///
    /// # Errors
    /// When the bytes are of another version or damaged.
    pub fn restore(spec: Arc<EngineSpec>, bytes: &[u8], table: &mut SeriesTable) -> Result<(Self, Vec<String>), SnapshotError> {
        let mut r = Reader { bytes, at: 0, version: VERSION, table, spec: Arc::clone(&spec), fields: Vec::new(), partitions: Vec::new() };
        r.read_header()?;
        let (mut operators, mut dropped) = (Self::new(spec), Vec::new());
        let lost = operators.read_common(&mut r)?;
        if lost > 0 {
            dropped.push(format!("{lost} points that waited for the clock are dropped: their input is no longer configured"));
            operators.stage.counts.held = operators.held.len() as u64;
        }
        operators.read_operators(&mut r, &mut dropped)?;
        r.ended_at(bytes.len())?;
        Ok((operators, dropped))
    }

    /// What stands before the operators; how many held points were lost with their input.
    fn read_common(&mut self, r: &mut Reader<'_>) -> Read<u64> {
        self.clock.offset = r.i64()?;
        self.clock.quality = match r.u8()? {
            0 => ClockQuality::Unset,
            1 => ClockQuality::Rtc,
            2 => ClockQuality::Synced,
            _ => return r.damaged(),
        };
        self.clock.offset_max = r.option()?;
        self.clock.steady = r.i64()?;
        self.clock.boot = if r.version > VERSION_MIN { r.u64()? } else { 0 };
        let mut counts = [0; 10];
        for value in &mut counts[..9] {
            *value = r.u64()?;
        }
        self.stage.counts = EngineCounts::from_values(counts);
        r.read_partitions(&mut self.stage.partitions)?;
        r.read_held(self)
    }

    /// What a snapshot holds, without the configuration it was made under.
    ///
    /// # Errors
    /// When the bytes are of another version or damaged.
    pub fn summary(bytes: &[u8]) -> Result<OperatorsSummary, SnapshotError> {
        let (spec, mut table) = (Arc::new(EngineSpec::default()), SeriesTable::new(0));
        let mut r = Reader {
            bytes,
            at: 0,
            version: VERSION,
            table: &mut table,
            spec: Arc::clone(&spec),
            fields: Vec::new(),
            partitions: Vec::new(),
        };
        r.read_header()?;
        let mut operators = Self::new(spec);
        let held = operators.read_common(&mut r)?;
        let WallClock { offset, quality, steady, .. } = operators.clock;
        let partitions = r.partitions.len();
        let mut parts = Vec::new();
        for kind in ["window", "alert"] {
            for _ in 0..r.count()? {
                let (name, meaning, end) = r.part()?;
                let bytes = end - r.at;
                r.counts()?;
                let groups = r.count()?;
                parts.push(PartSummary { kind, name, meaning, groups, bytes });
                r.skip_to(end);
            }
        }
        operators.read_tail(&mut r)?;
        r.ended_at(bytes.len())?;
        let conditions = operators.alerts.conditions.active().map(|(condition, subject)| (condition.name(), subject.to_string())).collect();
        Ok(OperatorsSummary { offset, quality, steady, partitions, held, parts, conditions })
    }

    fn read_operators(&mut self, r: &mut Reader<'_>, dropped: &mut Vec<String>) -> Read<()> {
        let stage = &mut self.stage;
        let known: Vec<(String, u64)> = stage.windows.iter().map(|w| (w.window().name.clone(), w.meaning())).collect();
        r.read_parts("window", &known, dropped, |at, r| stage.windows[at].read(r, &stage.partitions))?;
        let alerts = &mut self.alerts;
        let known = alerts.known();
        r.read_parts("alert", &known, dropped, |at, r| alerts.read(at, r))?;
        self.read_tail(r)
    }

    /// What came to the format later: an older state ends before it.
    fn read_tail(&mut self, r: &mut Reader<'_>) -> Read<()> {
        if r.at < r.bytes.len() {
            self.alerts.read_conditions(r)?;
        }
        if r.at < r.bytes.len() {
            self.stage.counts.rejected_type = r.u64()?;
            self.types.read(r)?;
        }
        Ok(())
    }

    /// Digest of the snapshot: equal for equal states.
    pub fn digest(&self, table: &SeriesTable) -> u64 {
        let mut bytes = Vec::new();
        self.snapshot(table, &mut bytes);
        (bytes.len() as u64) << 32 | u64::from(crc32c::crc32c(&bytes))
    }
}

impl Reader<'_> {
    fn read_header(&mut self) -> Read<()> {
        if self.array::<4>()? != *MAGIC {
            return Err(SnapshotError::Damaged(0));
        }
        let found = u16::from_le_bytes(self.array()?);
        if !(VERSION_MIN..=VERSION).contains(&found) {
            return Err(SnapshotError::Version { found, expected: VERSION });
        }
        self.version = found;
        let checksum = u32::from_le_bytes(self.array()?);
        if crc32c::crc32c(&self.bytes[HEADER..]) != checksum {
            return self.damaged();
        }
        for _ in 0..self.count()? {
            let name = self.text()?;
            let id = self.table.intern_field(&name);
            self.fields.push(id);
        }
        Ok(())
    }
}
