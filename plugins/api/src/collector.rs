//! How a codec or an input turns what it read into cells: series and field names are interned, filters applied once per name,
//! bad values counted, full batches sent.
//!
//! The hot path is `series` (one hash look-up of the raw bytes before the fields), `begin`, `field` (a guess that is nearly always
//! right), `end`. Everything that costs, parsing tags, filters, renaming, happens when a raw key is seen for the first time.

mod fields;
mod message;

use std::{fmt::Display, hash::BuildHasher, ops::Range, sync::Arc};

use fields::{DROPPED_FILTERED, DROPPED_NAMELESS, DROPPED_NAN, FieldId};
use foldhash::fast::FixedState;
use hashbrown::{HashMap, HashTable};

use crate::{
    batch::{BATCH_CELLS, BATCH_TEXT, Batch, InputCounts, MESSAGE_TEXT},
    cell::Cell,
    filter::Filter,
    position::Position,
    ring::{Acknowledgements, Closed, RingSender},
    series::{Series, SeriesParts},
    time::Clock,
    value::Value,
};

/// What every input applies to its points, from the options common to all inputs and `[agent]`.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Name of the input in logs and counters: its alias, or plugin name.
    pub input: String,
    /// Name of the plugin: the measurement of points that have none, as in Telegraf.
    pub plugin: String,
    /// Replaces the measurement.
    pub name_override: Option<String>,
    /// Precedes the measurement.
    pub name_prefix: String,
    /// Follows the measurement.
    pub name_suffix: String,
    /// Tags of the input, then global tags and `host`: set where the point has none of that key, earlier ones first.
    pub tags: Vec<(String, String)>,
    /// The input's filters.
    pub filter: Filter,
    /// Tags that make a time partition; without any the `device` tag, then the topic, then the input itself.
    pub partition: Vec<String>,
    /// Series the input may have.
    pub series_max: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            input: "test".into(),
            plugin: "test".into(),
            name_override: None,
            name_prefix: String::new(),
            name_suffix: String::new(),
            tags: Vec::new(),
            filter: Filter::default(),
            partition: Vec::new(),
            series_max: 100_000,
        }
    }
}

/// Why something that came in gives no point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The codec could not read it.
    Parse,
    /// Broken frame.
    Frame,
    /// Too large.
    Size,
}

/// One refused piece of input, kept for whoever must tell the sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Kind.
    pub refusal: Refusal,
    /// Reason, with the place in the payload.
    pub reason: String,
}

/// Refused pieces remembered between two calls of [`Collector::take_refused`].
const REFUSED_MAX: usize = 16;
/// Bytes of a refused payload that go into the log.
const SAMPLE_BYTES: usize = 120;
/// A log line about refused input at most this often, nanoseconds.
const LOG_EVERY: i64 = 10 * crate::time::SECOND;
/// Raw keys remembered per series allowed: unsorted or filtered forms need room too.
const RAW_PER_SERIES: usize = 4;
/// Bytes of series that an input may have, per series allowed.
const SERIES_BYTES: usize = 1024;
/// Bytes of raw keys remembered, per series allowed.
const RAW_BYTES: usize = 512;
/// Raw keys remembered at least.
const RAW_MIN: usize = 4096;

/// Id of extra tags set around a payload: see [`Collector::context`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Context(u32);

#[derive(Clone, Debug, Default)]
struct ContextParts {
    tags: Vec<(String, String)>,
    measurement: Option<String>,
    partition: Option<String>,
    fields: Option<Arc<[(String, FieldValue)]>>,
}

/// A value that a context adds to its points.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldValue {
    /// A float.
    Float(f64),
    /// An integer.
    Int(i64),
    /// An unsigned integer.
    Uint(u64),
    /// Text.
    Text(String),
}

impl FieldValue {
    fn as_value(&self) -> Value<'_> {
        match self {
            Self::Float(v) => Value::Float(*v),
            Self::Int(v) => Value::Int(*v),
            Self::Uint(v) => Value::Uint(*v),
            Self::Text(v) => Value::Text(v),
        }
    }
}

/// Outcome of looking a raw key up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeriesId {
    /// The series, by its id.
    Id(u32),
    /// The filters drop it.
    Filtered,
    /// The input's table of series is full.
    Full,
}

struct RawKey {
    hash: u64,
    context: Context,
    range: Range<u32>,
    series: SeriesId,
}

/// Series and fields of one input.
struct Interner {
    shape: Shape,
    hasher: FixedState,
    raw: HashTable<RawKey>,
    arena: Vec<u8>,
    canonical: HashMap<Arc<Series>, u32, FixedState>,
    /// Bytes of those.
    canonical_bytes: usize,
    contexts: Vec<ContextParts>,
    context_ids: HashMap<String, Context, FixedState>,
    fields: HashMap<Box<[u8]>, FieldId, FixedState>,
    /// For each field looked up, in order of first sight: its name, its id, and which one followed it last.
    order: Vec<(Box<[u8]>, FieldId, u32)>,
    order_ids: HashMap<Box<[u8]>, u32, FixedState>,
    last: usize,
    next_field: u16,
}

/// Collects the points of one input and sends them to the core.
pub struct Collector {
    ring: RingSender,
    clock: Arc<dyn Clock>,
    batch: Batch,
    interner: Interner,
    context: Context,
    context_fields: Option<Arc<[(String, FieldValue)]>>,
    counts: InputCounts,
    refused: Vec<Refused>,
    logged_at: Option<i64>,
    logged_skipped: u64,
    said_full_at: Option<i64>,
    number: u64,
    open: Option<Open>,
    new_series: Vec<Arc<Series>>,
    new_partitions: Vec<Arc<str>>,
    new_fields: Vec<Arc<str>>,
    read_at: i64,
    /// Cells and bytes of text that the batch is full with: more while a message is decoded.
    cells_max: usize,
    text_max: usize,
}

/// Where a message begins in the batch.
struct Mark {
    cells: usize,
    text: usize,
    points: u32,
    counts: InputCounts,
}

#[derive(Clone, Copy)]
struct Open {
    series: u32,
    time: i64,
    untimed: bool,
    first_cell: usize,
    first_text: usize,
    /// Highest field id so far, plus one: a higher one can't have been in this point before.
    fields_end: u32,
    /// What fields it lost, as bits.
    dropped: u8,
}

impl Collector {
    /// Cells and bytes of text of a full batch.
    const SIZE: (usize, usize) = (BATCH_CELLS, BATCH_TEXT);

    /// A collector that sends into `ring`.
    pub fn new(ring: RingSender, shape: Shape, clock: Arc<dyn Clock>) -> Self {
        let hasher = FixedState::default;
        Self {
            ring,
            clock,
            batch: Batch::default(),
            interner: Interner {
                shape,
                hasher: hasher(),
                raw: HashTable::new(),
                arena: Vec::new(),
                canonical: HashMap::with_hasher(hasher()),
                canonical_bytes: 0,
                contexts: vec![ContextParts::default()],
                context_ids: HashMap::with_hasher(hasher()),
                fields: HashMap::with_hasher(hasher()),
                order: Vec::new(),
                order_ids: HashMap::with_hasher(hasher()),
                last: 0,
                next_field: 0,
            },
            context: Context::default(),
            context_fields: None,
            counts: InputCounts::default(),
            refused: Vec::new(),
            logged_at: None,
            logged_skipped: 0,
            said_full_at: None,
            number: 0,
            open: None,
            new_series: Vec::new(),
            new_partitions: Vec::new(),
            new_fields: Vec::new(),
            read_at: 0,
            cells_max: Self::SIZE.0,
            text_max: Self::SIZE.1,
        }
    }

    /// The clocks.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Waits for acknowledgements of the batches this collector sends.
    pub fn acknowledgements(&self) -> Acknowledgements {
        self.ring.acknowledgements()
    }

    /// Interns extra tags (a topic, parsed parts of it) and a measurement that replaces the codec's default one, for
    /// [`Collector::set_context`]. `partition` is what separates time partitions if no partition tag does, such as the topic.
    pub fn context(&mut self, tags: &[(&str, &str)], measurement: Option<&str>, partition: Option<&str>) -> Context {
        let mut key = String::new();
        for (k, v) in tags {
            key.push_str(&format!("{}:{k}{}:{v}", k.len(), v.len()));
        }
        key.push_str(&format!("|{measurement:?}|{partition:?}"));
        if let Some(known) = self.interner.context_ids.get(&key) {
            return *known;
        }
        if self.interner.contexts.len() > self.interner.shape.series_max {
            // Too many topics: start over; raw keys that used the old ids go with them.
            self.interner.contexts.truncate(1);
            self.interner.context_ids.clear();
            self.interner.raw.clear();
            self.interner.arena.clear();
        }
        let id = Context(self.interner.contexts.len() as u32);
        self.interner.contexts.push(ContextParts {
            tags: tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            measurement: measurement.map(str::to_owned),
            partition: partition.map(str::to_owned),
            fields: None,
        });
        self.interner.context_ids.insert(key, id);
        id
    }

    /// The context of the points that follow; [`Context::default`] is none.
    pub fn set_context(&mut self, context: Context) {
        self.context = context;
        self.context_fields = self.interner.contexts.get(context.0 as usize).and_then(|c| c.fields.clone());
    }

    /// Fields that `context` adds to each of its points that has a field of its own; they replace those of the same name.
    pub fn set_context_fields(&mut self, context: Context, fields: Vec<(String, FieldValue)>) {
        if let Some(parts) = self.interner.contexts.get_mut(context.0 as usize) {
            parts.fields = (!fields.is_empty()).then(|| fields.into());
        }
    }

    /// The measurement the context sets, for codecs whose payloads name none.
    pub fn context_measurement(&self) -> Option<&str> {
        self.interner.contexts.get(self.context.0 as usize).and_then(|c| c.measurement.as_deref())
    }

    /// Name of the input in logs.
    pub fn input_name(&self) -> &str {
        &self.interner.shape.input
    }

    /// The series that the raw bytes `key` stand for; `parse` is called when they are new. A measurement that `parse` leaves empty is
    /// the input's name.
    ///
    /// # Errors
    /// Whatever `parse` returns; nothing is remembered then.
    #[inline]
    pub fn series<E>(&mut self, key: &[u8], parse: impl FnOnce(&mut SeriesParts) -> Result<(), E>) -> Result<SeriesId, E> {
        let interner = &mut self.interner;
        let hash = interner.hasher.hash_one(key) ^ u64::from(self.context.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let context = self.context;
        let arena = &interner.arena;
        let found = interner.raw.find(hash, |raw| {
            raw.hash == hash && raw.context == context && same(&arena[raw.range.start as usize..raw.range.end as usize], key)
        });
        if let Some(raw) = found {
            return Ok(raw.series);
        }
        let mut parts = SeriesParts::default();
        parse(&mut parts)?;
        Ok(self.intern(key, hash, parts))
    }

    #[cold]
    fn intern(&mut self, key: &[u8], hash: u64, mut parts: SeriesParts) -> SeriesId {
        let interner = &mut self.interner;
        let context = &interner.contexts[self.context.0 as usize];
        if let Some(measurement) = &context.measurement {
            measurement.clone_into(&mut parts.measurement);
        }
        for (k, v) in &context.tags {
            parts.tag(k, v);
        }
        let shape = &interner.shape;
        if parts.measurement.is_empty() {
            // The payload names none: the input's name, as in Telegraf.
            shape.plugin.clone_into(&mut parts.measurement);
        }
        let series = if !shape.filter.selects(&parts.measurement, parts.tags.iter().map(|(k, v)| (k.as_str(), v.as_str()))) {
            SeriesId::Filtered
        } else {
            if let Some(name) = &shape.name_override {
                name.clone_into(&mut parts.measurement);
            }
            if !shape.name_prefix.is_empty() || !shape.name_suffix.is_empty() {
                parts.measurement = format!("{}{}{}", shape.name_prefix, parts.measurement, shape.name_suffix);
            }
            for (k, v) in &shape.tags {
                parts.default_tag(k, v);
            }
            shape.filter.modify_tags(&mut parts);
            let series = Arc::new(Series::new(&parts));
            if let Some(id) = interner.canonical.get(&series) {
                SeriesId::Id(*id)
            } else if interner.canonical.len() >= shape.series_max
                || interner.canonical_bytes + series.size() > shape.series_max.saturating_mul(SERIES_BYTES)
            {
                // One with large tags takes the place of several.
                SeriesId::Full
            } else {
                let id = interner.canonical.len() as u32;
                self.new_partitions.push(partition(shape, &series, context.partition.as_deref()));
                self.new_series.push(Arc::clone(&series));
                interner.canonical_bytes += series.size();
                interner.canonical.insert(series, id);
                SeriesId::Id(id)
            }
        };
        // A full table is looked at again next time, so it is not remembered; it costs its sender, not the others.
        if series != SeriesId::Full {
            let bytes_max = shape.series_max.saturating_mul(RAW_BYTES).clamp(RAW_MIN * RAW_BYTES, (u32::MAX / 2) as usize);
            if interner.raw.len() >= (shape.series_max * RAW_PER_SERIES).max(RAW_MIN) || interner.arena.len() > bytes_max {
                interner.raw.clear();
                interner.arena.clear();
            }
            let start = interner.arena.len() as u32;
            interner.arena.extend_from_slice(key);
            let raw = RawKey { hash, context: self.context, range: start..interner.arena.len() as u32, series };
            interner.raw.insert_unique(hash, raw, |raw| raw.hash);
        }
        series
    }

    /// Opens a point of `series`; without a time it gets the time it was read.
    #[inline]
    pub fn begin(&mut self, series: u32, time: Option<i64>) {
        let (time, untimed) = match time {
            Some(time) => (time, false),
            None => (self.read_time(), true),
        };
        let (first_cell, first_text) = (self.batch.cells.len(), self.batch.text.len());
        self.open = Some(Open { series, time, untimed, first_cell, first_text, fields_end: 0, dropped: 0 });
    }

    /// Sets when the bytes that follow were read, steady nanoseconds: inputs that know better than "now" call it.
    pub fn set_read_at(&mut self, steady: i64) {
        self.read_at = steady;
    }

    fn read_time(&mut self) -> i64 {
        if self.read_at == 0 {
            self.read_at = self.clock.steady();
        }
        self.read_at
    }

    /// Changes the time of the open point: for codecs that learn it after the fields.
    #[inline]
    pub fn set_time(&mut self, time: i64) {
        let Some(open) = &mut self.open else { return };
        open.time = time;
        open.untimed = false;
        for cell in &mut self.batch.cells[open.first_cell..] {
            cell.time = time;
            cell.flags &= !Cell::UNTIMED;
        }
    }

    #[inline]
    fn field_by_id(&mut self, field: u16, value: Value<'_>) {
        let Some(open) = &mut self.open else { return };
        if let Value::Float(v) = value
            && !v.is_finite()
        {
            self.counts.dropped_fields += 1;
            open.dropped |= DROPPED_NAN;
            return;
        }
        let (kind, bits) = Cell::encode_value(value, &mut self.batch.text);
        if u32::from(field) < open.fields_end {
            if let Some(cell) = self.batch.cells[open.first_cell..].iter_mut().find(|c| c.field == field) {
                (cell.kind, cell.value) = (kind as u8, bits);
                return;
            }
        } else {
            open.fields_end = u32::from(field) + 1;
        }
        let flags = if self.batch.cells.len() == open.first_cell { Cell::START } else { 0 } | if open.untimed { Cell::UNTIMED } else { 0 };
        self.batch.cells.push(Cell { series: open.series, field, kind: kind as u8, flags, time: open.time, value: bits });
    }

    /// Closes the open point and counts it: recorded, or filtered or refused when no field is left.
    #[inline]
    pub fn end(&mut self) {
        if self.context_fields.is_some() {
            self.add_context_fields();
        }
        let Some(open) = self.open.take() else { return };
        if self.batch.text.len() - open.first_text > MESSAGE_TEXT {
            self.refuse_text(open);
            return;
        }
        self.counts.read += 1;
        if self.batch.cells.len() > open.first_cell {
            self.batch.points += 1;
        } else if open.dropped & DROPPED_NAN != 0 {
            self.counts.refused_nan += 1;
        } else if open.dropped & DROPPED_NAMELESS != 0 {
            self.counts.refused_series += 1;
        } else if open.dropped & DROPPED_FILTERED != 0 {
            self.counts.filtered += 1;
        } else {
            self.counts.refused_parse += 1;
        }
    }

    /// No block of the journal may become too long for it, however long a text is.
    #[cold]
    fn refuse_text(&mut self, open: Open) {
        self.open = Some(open);
        self.abandon();
        self.refuse(Refusal::Size, format_args!("a point with more than {MESSAGE_TEXT} bytes of text"), b"");
    }

    #[cold]
    fn add_context_fields(&mut self) {
        let (Some(fields), Some(open)) = (self.context_fields.clone(), &self.open) else { return };
        if self.batch.cells.len() > open.first_cell {
            for (name, value) in fields.iter() {
                self.field(name.as_bytes(), value.as_value());
            }
        }
    }

    /// Throws the open point away: for codecs that find the error after some fields.
    pub fn abandon(&mut self) {
        if let Some(open) = self.open.take() {
            self.batch.cells.truncate(open.first_cell);
            self.batch.text.truncate(open.first_text);
        }
    }

    /// Counts a point whose series is not wanted or not possible.
    pub fn skip(&mut self, series: SeriesId) {
        self.counts.read += 1;
        match series {
            SeriesId::Full => {
                self.counts.refused_series += 1;
                let (series, bytes) = (self.interner.shape.series_max, self.interner.shape.series_max.saturating_mul(SERIES_BYTES));
                self.say_full(format_args!(
                    "the table of series is full (`series_max` = {series} in [limits], and {bytes} bytes): points of other series are refused"
                ));
            }
            SeriesId::Filtered | SeriesId::Id(_) => self.counts.filtered += 1,
        }
    }

    /// A point by its parts: the comfortable way, for inputs that make few of them.
    pub fn point(&mut self, measurement: &str, tags: &[(&str, &str)], time: Option<i64>) -> PointWriter<'_> {
        let mut key = Vec::with_capacity(64);
        for part in std::iter::once(measurement).chain(tags.iter().flat_map(|(k, v)| [*k, *v])) {
            key.extend_from_slice(&(part.len() as u32).to_le_bytes());
            key.extend_from_slice(part.as_bytes());
        }
        let found = self.series(&key, |parts| {
            parts.measurement = measurement.to_owned();
            for (k, v) in tags {
                parts.tag(k, v);
            }
            Ok::<_, std::convert::Infallible>(())
        });
        let Ok(series) = found;
        if let SeriesId::Id(id) = series {
            self.begin(id, time);
        }
        PointWriter { collector: self, series }
    }

    /// Counts something that came in and gives no point, remembers the reason, and now and then logs it.
    pub fn refuse(&mut self, refusal: Refusal, reason: impl Display, sample: &[u8]) {
        self.counts.read += 1;
        match refusal {
            Refusal::Parse => self.counts.refused_parse += 1,
            Refusal::Frame => self.counts.refused_frame += 1,
            Refusal::Size => self.counts.refused_size += 1,
        }
        let now = self.clock.steady();
        let log = self.logged_at.is_none_or(|at| now - at >= LOG_EVERY);
        if !log && self.refused.len() >= REFUSED_MAX {
            self.logged_skipped += 1;
            return;
        }
        let reason = reason.to_string();
        if log {
            let sample = String::from_utf8_lossy(&sample[..sample.len().min(SAMPLE_BYTES)]).escape_debug().to_string();
            tracing::warn!(input = %self.interner.shape.input, kind = ?refusal, %reason, sample, more_since_last = self.logged_skipped, "refused input");
            self.logged_at = Some(now);
            self.logged_skipped = 0;
        } else {
            self.logged_skipped += 1;
        }
        if self.refused.len() < REFUSED_MAX {
            self.refused.push(Refused { refusal, reason });
        }
    }

    /// The refused pieces since the last call, the first sixteen of them.
    pub fn take_refused(&mut self) -> Vec<Refused> {
        std::mem::take(&mut self.refused)
    }

    /// Counters an input adds to directly: `duplicate`, `dropped_ring_full` (both with `read`), `lost_link`.
    pub fn counts(&mut self) -> &mut InputCounts {
        &mut self.counts
    }

    /// Whether the batch should be flushed before more is decoded.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.batch.cells.len() >= self.cells_max || self.batch.text.len() >= self.text_max
    }

    /// Whether there is nothing to flush.
    pub fn is_empty(&self) -> bool {
        self.batch.cells.is_empty() && self.counts.is_zero()
    }

    /// Points in the batch so far.
    pub fn points(&self) -> u32 {
        self.batch.points
    }

    /// Sends what was collected, with the position it reaches; waits while the ring is full. Returns the batch's number, to wait for
    /// with [`Collector::acknowledgements`]; the last sent number when there was nothing to send.
    ///
    /// # Errors
    /// [`Closed`] when the core has stopped.
    pub async fn flush(&mut self, position: Position) -> Result<u64, Closed> {
        if self.is_empty() && position == Position::None {
            self.read_at = 0;
            return Ok(self.number);
        }
        if self.batch.is_large() {
            // One at a time, or the pool would be no bound of memory.
            self.ring.taken().await?;
        }
        let empty = self.ring.empty().await?;
        self.send(empty, position)
    }

    /// The same for a source that cannot wait: with no place in the ring the collected points are dropped and counted, `Ok(None)`.
    ///
    /// # Errors
    /// [`Closed`] when the core has stopped.
    pub fn try_flush(&mut self, position: Position) -> Result<Option<u64>, Closed> {
        if self.is_empty() && position == Position::None {
            self.read_at = 0;
            return Ok(Some(self.number));
        }
        let Some(empty) = self.ring.try_empty() else {
            self.counts.dropped_ring_full += u64::from(self.batch.points);
            self.batch.cells.clear();
            self.batch.text.clear();
            self.batch.points = 0;
            self.read_at = 0;
            return Ok(None);
        };
        self.send(empty, position).map(Some)
    }

    /// The empty batch from the pool becomes the one being filled, so that a collector holds one at any time and the pool its full number.
    fn send(&mut self, empty: Batch, position: Position) -> Result<u64, Closed> {
        self.abandon();
        let read_at = self.read_time();
        let mut batch = std::mem::replace(&mut self.batch, empty);
        self.number += 1;
        batch.number = self.number;
        batch.position = position;
        batch.read_at = read_at;
        batch.counts = std::mem::take(&mut self.counts);
        batch.new_series.append(&mut self.new_series);
        batch.new_partitions.append(&mut self.new_partitions);
        batch.new_fields.append(&mut self.new_fields);
        self.read_at = 0;
        self.ring.send(batch)?;
        Ok(self.number)
    }
}

/// Whether two keys are equal, without a library call for short ones: on some processors comparing nothing at a dangling address, as
/// for the key of a payload without tags, costs more there than reading the whole payload.
#[inline]
fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    match (a.first_chunk::<8>(), b.first_chunk::<8>(), a.last_chunk::<8>(), b.last_chunk::<8>()) {
        (Some(a_first), Some(b_first), Some(a_last), Some(b_last)) if a.len() <= 16 => {
            u64::from_le_bytes(*a_first) == u64::from_le_bytes(*b_first) && u64::from_le_bytes(*a_last) == u64::from_le_bytes(*b_last)
        }
        (None, ..) => a.iter().zip(b).all(|(a, b)| a == b),
        _ => a == b,
    }
}

fn partition(shape: &Shape, series: &Series, fallback: Option<&str>) -> Arc<str> {
    if shape.partition.is_empty() {
        return series.tag("device").or(fallback).unwrap_or("").into();
    }
    let values: Vec<&str> = shape.partition.iter().map(|key| series.tag(key).unwrap_or("")).collect();
    values.join("\u{1f}").into()
}

/// One point being written; dropped, it is closed.
pub struct PointWriter<'a> {
    collector: &'a mut Collector,
    series: SeriesId,
}

impl PointWriter<'_> {
    /// Adds a field.
    pub fn field<'v>(&mut self, name: &str, value: impl Into<Value<'v>>) -> &mut Self {
        if matches!(self.series, SeriesId::Id(_)) {
            self.collector.field(name.as_bytes(), value.into());
        }
        self
    }
}

impl Drop for PointWriter<'_> {
    fn drop(&mut self) {
        match self.series {
            SeriesId::Id(_) => self.collector.end(),
            other => self.collector.skip(other),
        }
    }
}
