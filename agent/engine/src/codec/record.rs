//! Records as a journal block holds them: names once, in front, then the records one after the other.

use std::sync::Arc;

use weir_plugin_api::{Cell, Identity, InputCounts, Lane, Position, position::FilePosition, position::MessageId};

use super::{
    bytes::{Damaged, Reader, put_bytes, put_i64, put_u64},
    cells::{self, CellEncoder},
    chunk::{put_series, series},
};
use crate::{
    core::BlockMeta,
    record::{BatchRecord, ClockQuality, ClockThen, Condition, DeliveryCounts, Record, Stamp},
    series::SeriesTable,
};

/// Version of the format.
const VERSION: u8 = 1;
const BATCH: u8 = 1;
const TICK: u8 = 2;
const CLOCK: u8 = 3;
const FINISH: u8 = 4;
const DELIVERED: u8 = 5;
const EXPIRED: u8 = 6;
const CONDITION: u8 = 7;
/// With the boot; [`CLOCK`] is what was written before there was one.
const CLOCK_OF_BOOT: u8 = 8;
const CONFIG: u8 = 9;
const THINNED: u8 = 10;
const FLOORS: u8 = 11;
/// [`DELIVERED`] and [`EXPIRED`] with results among them that were lost: what has none of those is written as before there was that count.
const DELIVERED_AND_LOST: u8 = 12;
const EXPIRED_AND_LOST: u8 = 13;
/// The clock, then as [`FLOORS`].
const FLOORS_AND_CLOCK: u8 = 14;

/// Indexes within the open block, by id of the engine's table; valid when the stamp is the block's.
#[derive(Default)]
struct Slots {
    slots: Vec<(u32, u32)>,
    ids: Vec<u32>,
}

impl Slots {
    fn note(&mut self, id: u32, stamp: u32) {
        let at = id as usize;
        if self.slots.len() <= at {
            self.slots.resize(at + 1, (0, 0));
        }
        if self.slots[at].0 != stamp {
            self.slots[at] = (stamp, self.ids.len() as u32);
            self.ids.push(id);
        }
    }
}

/// The block that is being filled.
pub struct BlockBuilder {
    body: Vec<u8>,
    series: Slots,
    fields: Slots,
    stamp: u32,
    encoder: CellEncoder,
    meta: BlockMeta,
    last: Stamp,
}

impl Default for BlockBuilder {
    fn default() -> Self {
        Self {
            body: Vec::new(),
            series: Slots::default(),
            fields: Slots::default(),
            stamp: 1,
            encoder: CellEncoder::default(),
            meta: BlockMeta::default(),
            last: Stamp::default(),
        }
    }
}

impl BlockBuilder {
    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.meta.records == 0
    }

    /// Bytes so far, names left out.
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Adds a record.
    pub fn push(&mut self, sequence: u64, stamp: Stamp, record: &Record<'_>) {
        if self.meta.records == 0 {
            self.meta = BlockMeta { first_record: sequence, ..BlockMeta::default() };
            self.last = Stamp::default();
        }
        self.meta.records += 1;
        let tag = match record {
            Record::Batch(_) => BATCH,
            Record::Tick => TICK,
            Record::Clock { .. } => CLOCK_OF_BOOT,
            Record::Config { .. } => CONFIG,
            Record::Finish => FINISH,
            Record::Delivered { counts, .. } if counts.lost_outbox > 0 => DELIVERED_AND_LOST,
            Record::Delivered { .. } => DELIVERED,
            Record::Expired { counts, .. } if counts.lost_outbox > 0 => EXPIRED_AND_LOST,
            Record::Expired { .. } => EXPIRED,
            Record::Condition { .. } => CONDITION,
            Record::Thinned { .. } => THINNED,
            Record::Floors { clock: None, .. } => FLOORS,
            Record::Floors { .. } => FLOORS_AND_CLOCK,
        };
        self.body.push(tag);
        put_i64(&mut self.body, stamp.observed.wrapping_sub(self.last.observed));
        put_i64(&mut self.body, stamp.steady.wrapping_sub(self.last.steady));
        self.last = stamp;
        match record {
            Record::Batch(batch) => self.batch(batch, stamp),
            Record::Tick | Record::Finish => {}
            Record::Clock { offset, quality, boot } => {
                put_i64(&mut self.body, *offset);
                self.body.push(*quality as u8);
                self.body.extend_from_slice(&boot.to_le_bytes());
            }
            Record::Config { spec } => put_bytes(&mut self.body, spec),
            Record::Delivered { output, lane, upto, counts, token } => {
                put_u64(&mut self.body, u64::from(*output));
                self.body.push(*lane as u8);
                put_u64(&mut self.body, upto.record);
                put_u64(&mut self.body, u64::from(upto.ordinal));
                put_delivery_counts(&mut self.body, counts);
                put_u64(&mut self.body, *token);
            }
            Record::Expired { output, lane, after, upto, counts } => {
                put_u64(&mut self.body, u64::from(*output));
                self.body.push(*lane as u8);
                for identity in [after, upto] {
                    put_u64(&mut self.body, identity.record);
                    put_u64(&mut self.body, u64::from(identity.ordinal));
                }
                put_delivery_counts(&mut self.body, counts);
            }
            Record::Thinned { kept, points } => {
                put_kept(&mut self.body, kept);
                put_u64(&mut self.body, points.len() as u64);
                for (output, points) in *points {
                    put_u64(&mut self.body, u64::from(*output));
                    put_u64(&mut self.body, *points);
                }
            }
            Record::Floors { common, groups, clock } => {
                if let Some(clock) = clock {
                    put_i64(&mut self.body, clock.offset);
                    self.body.push(clock.quality as u8);
                    self.body.extend_from_slice(&clock.boot.to_le_bytes());
                    put_i64(&mut self.body, clock.steady);
                    put_i64(&mut self.body, clock.stepped_back);
                    put_u64(&mut self.body, clock.held);
                    put_i64(&mut self.body, clock.newest_held);
                }
                put_i64(&mut self.body, *common);
                put_u64(&mut self.body, groups.len() as u64);
                for (series, newest) in *groups {
                    put_series(&mut self.body, series);
                    put_i64(&mut self.body, *newest);
                }
            }
            Record::Condition { condition, subject, active, value } => {
                self.body.extend([*condition as u8, u8::from(*active)]);
                put_bytes(&mut self.body, subject.as_bytes());
                put_u64(&mut self.body, *value);
            }
        }
    }

    fn batch(&mut self, batch: &BatchRecord<'_>, stamp: Stamp) {
        let block = self.stamp;
        for cell in batch.cells {
            if cell.starts_point() {
                self.series.note(cell.series, block);
                if !cell.is_untimed() {
                    let (low, high) = &mut self.meta.times;
                    (*low, *high) =
                        if (*low, *high) == (0, 0) { (cell.time, cell.time) } else { ((*low).min(cell.time), (*high).max(cell.time)) };
                }
            }
            self.fields.note(u32::from(cell.field), block);
        }
        self.meta.points += batch.points;
        if batch.points > 0 {
            self.meta.inputs |= 1 << batch.input.min(63);
        }
        let body = &mut self.body;
        put_u64(body, u64::from(batch.input));
        put_i64(body, batch.read_at.wrapping_sub(stamp.steady));
        put_position(body, batch.position);
        put_counts(body, batch.counts);
        let (series, fields) = (&self.series.slots, &self.fields.slots);
        self.encoder.encode(batch.cells, batch.text, |id| series[id as usize].1, |id| fields[usize::from(id)].1 as u16, body);
    }

    /// The block as bytes, and an empty builder. `inputs` and `outputs` are the names of today.
    pub fn seal(&mut self, table: &SeriesTable, inputs: &[&str], outputs: &[&str]) -> (BlockMeta, Vec<u8>) {
        let mut out = Vec::with_capacity(self.body.len() + 64 * (1 + self.series.ids.len()));
        out.push(VERSION);
        for names in [inputs, outputs] {
            put_u64(&mut out, names.len() as u64);
            names.iter().for_each(|name| put_bytes(&mut out, name.as_bytes()));
        }
        put_u64(&mut out, self.series.ids.len() as u64);
        for id in &self.series.ids {
            let entry = &table.entries()[*id as usize];
            let partition = &table.partitions()[entry.partition as usize];
            put_series(&mut out, &entry.series);
            put_u64(&mut out, u64::from(partition.input));
            put_bytes(&mut out, partition.name.as_bytes());
        }
        put_u64(&mut out, self.fields.ids.len() as u64);
        for id in &self.fields.ids {
            put_bytes(&mut out, table.fields()[*id as usize].as_bytes());
        }
        put_u64(&mut out, u64::from(self.meta.records));
        out.extend_from_slice(&self.body);
        self.body.clear();
        self.series.ids.clear();
        self.fields.ids.clear();
        self.stamp += 1;
        (std::mem::take(&mut self.meta), out)
    }
}

/// Reads a block: `apply` gets each record that is not below `from`, with its sequence number, its ids those of `table`.
/// Names of inputs and outputs that are gone give `u16::MAX`.
///
/// # Errors
/// [`Damaged`]; records before the damage were applied.
pub fn decode(
    meta: &BlockMeta,
    bytes: &[u8],
    from: u64,
    table: &mut SeriesTable,
    inputs: &[&str],
    outputs: &[&str],
    mut apply: impl FnMut(u64, Stamp, &Record<'_>, &SeriesTable),
) -> Result<(), Damaged> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? != VERSION {
        return Err(Damaged("an unknown version"));
    }
    let input_ids = names(&mut reader, inputs)?;
    let output_ids = names(&mut reader, outputs)?;
    let input_id = |raw: u64| usize::try_from(raw).ok().and_then(|i| input_ids.get(i)).copied().unwrap_or(u16::MAX);
    let output_id = |raw: u64| usize::try_from(raw).ok().and_then(|i| output_ids.get(i)).copied().unwrap_or(u16::MAX);
    let mut series_ids = Vec::new();
    for _ in 0..reader.count()? {
        let one = series(&mut reader)?;
        let input = input_id(reader.u64()?);
        let partition: Arc<str> = reader.text()?.into();
        series_ids.push(table.intern(&one, input, &partition));
    }
    let mut field_ids = Vec::new();
    for _ in 0..reader.count()? {
        field_ids.push(table.intern_field(reader.text()?));
    }
    let (mut last, mut cells, mut text) = (Stamp::default(), Vec::<Cell>::new(), Vec::new());
    for index in 0..reader.u64()? {
        let sequence = meta.first_record.checked_add(index).ok_or(Damaged("a number is too large"))?;
        let tag = reader.u8()?;
        last.observed = last.observed.wrapping_add(reader.i64()?);
        last.steady = last.steady.wrapping_add(reader.i64()?);
        let mut emit = |record: &Record<'_>| {
            if sequence >= from {
                apply(sequence, last, record, table);
            }
        };
        match tag {
            TICK => emit(&Record::Tick),
            FINISH => emit(&Record::Finish),
            CLOCK | CLOCK_OF_BOOT => {
                let offset = reader.i64()?;
                let quality = quality(reader.u8()?)?;
                let boot = if tag == CLOCK { 0 } else { fixed(&mut reader)? };
                emit(&Record::Clock { offset, quality, boot });
            }
            CONFIG => {
                let length = reader.count()?;
                emit(&Record::Config { spec: reader.take(length)? });
            }
            DELIVERED | DELIVERED_AND_LOST => {
                let output = output_id(reader.u64()?);
                let lane = if reader.u8()? == 0 { Lane::Alerts } else { Lane::Results };
                let upto = Identity { record: reader.u64()?, ordinal: reader.narrow()? };
                let counts = read_delivery_counts(&mut reader, tag == DELIVERED_AND_LOST)?;
                emit(&Record::Delivered { output, lane, upto, counts, token: reader.u64()? });
            }
            EXPIRED | EXPIRED_AND_LOST => {
                let output = output_id(reader.u64()?);
                let lane = if reader.u8()? == 0 { Lane::Alerts } else { Lane::Results };
                let after = Identity { record: reader.u64()?, ordinal: reader.narrow()? };
                let upto = Identity { record: reader.u64()?, ordinal: reader.narrow()? };
                let counts = read_delivery_counts(&mut reader, tag == EXPIRED_AND_LOST)?;
                emit(&Record::Expired { output, lane, after, upto, counts });
            }
            CONDITION => {
                let condition = condition(reader.u8()?)?;
                let active = reader.u8()? != 0;
                let subject = reader.text()?;
                emit(&Record::Condition { condition, subject, active, value: reader.u64()? });
            }
            THINNED => {
                let kept = kept(&mut reader)?;
                let mut points = Vec::new();
                for _ in 0..reader.count()? {
                    points.push((output_id(reader.u64()?), reader.u64()?));
                }
                emit(&Record::Thinned { kept: &kept, points: &points });
            }
            FLOORS | FLOORS_AND_CLOCK => {
                let clock = if tag == FLOORS { None } else { Some(clock_then(&mut reader)?) };
                let common = reader.i64()?;
                let mut groups = Vec::new();
                for _ in 0..reader.count()? {
                    groups.push((series(&mut reader)?, reader.i64()?));
                }
                emit(&Record::Floors { common, groups: &groups, clock });
            }
            BATCH => {
                let input = input_id(reader.u64()?);
                let read_at = last.steady.wrapping_add(reader.i64()?);
                let position = position(&mut reader)?;
                let counts = counts(&mut reader)?;
                cells.clear();
                text.clear();
                let points = cells::decode(
                    &mut reader,
                    |s| series_ids.get(s as usize).copied().flatten(),
                    |f| field_ids.get(usize::from(f)).copied().flatten(),
                    &mut cells,
                    &mut text,
                )?;
                emit(&Record::Batch(BatchRecord {
                    input,
                    read_at,
                    position: &position,
                    counts: &counts,
                    cells: &cells,
                    text: &text,
                    points,
                }));
            }
            _ => return Err(Damaged("an unknown record")),
        }
    }
    Ok(())
}

/// Names of the inputs and of the outputs that a block was written with: its records refer to them.
///
/// # Errors
/// [`Damaged`].
pub fn names_in(bytes: &[u8]) -> Result<[Vec<&str>; 2], Damaged> {
    let mut reader = Reader::new(bytes);
    if reader.u8()? != VERSION {
        return Err(Damaged("an unknown version"));
    }
    let mut lists = [Vec::new(), Vec::new()];
    for list in &mut lists {
        for _ in 0..reader.count()? {
            list.push(reader.text()?);
        }
    }
    Ok(lists)
}

/// A number that is not small.
fn fixed(reader: &mut Reader<'_>) -> Result<u64, Damaged> {
    let bytes = <[u8; 8]>::try_from(reader.take(8)?).map_err(|_| Damaged("it ends early"))?;
    Ok(u64::from_le_bytes(bytes))
}

fn clock_then(reader: &mut Reader<'_>) -> Result<ClockThen, Damaged> {
    let (offset, quality, boot) = (reader.i64()?, quality(reader.u8()?)?, fixed(reader)?);
    let (steady, stepped_back) = (reader.i64()?, reader.i64()?);
    Ok(ClockThen { offset, quality, boot, steady, stepped_back, held: reader.u64()?, newest_held: reader.i64()? })
}

fn names(reader: &mut Reader<'_>, today: &[&str]) -> Result<Vec<u16>, Damaged> {
    let mut ids = Vec::new();
    for _ in 0..reader.count()? {
        let name = reader.text()?;
        ids.push(today.iter().position(|n| *n == name).map_or(u16::MAX, |i| i as u16));
    }
    Ok(ids)
}

/// A clock quality by its number.
///
/// # Errors
/// [`Damaged`] for others.
pub fn quality(raw: u8) -> Result<ClockQuality, Damaged> {
    match raw {
        0 => Ok(ClockQuality::Unset),
        1 => Ok(ClockQuality::Rtc),
        2 => Ok(ClockQuality::Synced),
        _ => Err(Damaged("an unknown clock quality")),
    }
}

/// A condition by its number.
///
/// # Errors
/// [`Damaged`] for others.
pub fn condition(raw: u8) -> Result<Condition, Damaged> {
    Condition::ALL.get(usize::from(raw)).copied().ok_or(Damaged("an unknown condition"))
}

/// Counts in the order of the format; what was lost comes last and is written where there is some.
pub fn delivery_values(c: &DeliveryCounts) -> [u64; 8] {
    [c.delivered, c.collapsed, c.rejected, c.expired_age, c.expired_bytes, c.expired_disk, c.expired_stale, c.lost_outbox]
}

/// The reverse of [`delivery_values`].
pub fn delivery_counts(values: [u64; 8]) -> DeliveryCounts {
    let [delivered, collapsed, rejected, expired_age, expired_bytes, expired_disk, expired_stale, lost_outbox] = values;
    DeliveryCounts { delivered, collapsed, rejected, expired_age, expired_bytes, expired_disk, expired_stale, lost_outbox }
}

fn put_delivery_counts(out: &mut Vec<u8>, counts: &DeliveryCounts) {
    let written = if counts.lost_outbox > 0 { 8 } else { 7 };
    delivery_values(counts).into_iter().take(written).for_each(|value| put_u64(out, value));
}

fn read_delivery_counts(reader: &mut Reader<'_>, lost: bool) -> Result<DeliveryCounts, Damaged> {
    let mut values = [0; 8];
    for value in values.iter_mut().take(if lost { 8 } else { 7 }) {
        *value = reader.u64()?;
    }
    Ok(delivery_counts(values))
}

/// Appends what stays of a block: runs of ordinals, each with its record as the difference to the one before.
pub fn put_kept(out: &mut Vec<u8>, kept: &[(Identity, u32)]) {
    put_u64(out, kept.len() as u64);
    let mut last = 0;
    for (first, length) in kept {
        put_u64(out, first.record.wrapping_sub(last));
        put_u64(out, u64::from(first.ordinal));
        put_u64(out, u64::from(*length));
        last = first.record;
    }
}

/// Reads what stays of a block.
///
/// # Errors
/// [`Damaged`], also when the runs are not in order.
pub fn kept(reader: &mut Reader<'_>) -> Result<Vec<(Identity, u32)>, Damaged> {
    let (mut runs, mut last, mut next) = (Vec::new(), 0u64, Identity::default());
    for _ in 0..reader.count()? {
        last = last.wrapping_add(reader.u64()?);
        let first = Identity { record: last, ordinal: reader.narrow()? };
        let length: u32 = reader.narrow()?;
        let end = first.ordinal.checked_add(length).filter(|_| length > 0 && first >= next);
        next = Identity { ordinal: end.ok_or(Damaged("runs that are not in order"))?, ..first };
        runs.push((first, length));
    }
    Ok(runs)
}

/// Appends input counts: a bitmap of those that are not zero, then these.
pub fn put_counts(out: &mut Vec<u8>, counts: &InputCounts) {
    let values = counts.fields().map(|(_, v)| v);
    put_u64(out, values.iter().enumerate().fold(0, |bits, (i, v)| bits | u64::from(*v != 0) << i));
    values.into_iter().filter(|v| *v != 0).for_each(|v| put_u64(out, v));
}

/// Reads input counts.
///
/// # Errors
/// [`Damaged`].
pub fn counts(reader: &mut Reader<'_>) -> Result<InputCounts, Damaged> {
    let bits = reader.u64()?;
    let mut values = [0; 11];
    for (index, value) in values.iter_mut().enumerate() {
        if bits >> index & 1 == 1 {
            *value = reader.u64()?;
        }
    }
    Ok(InputCounts::from_values(values))
}

/// Appends a position.
pub fn put_position(out: &mut Vec<u8>, position: &Position) {
    match position {
        Position::None => out.push(0),
        Position::Messages { session, ids } => {
            out.push(1);
            put_u64(out, *session);
            put_u64(out, ids.len() as u64);
            for id in ids {
                out.extend_from_slice(&id.id.to_le_bytes());
                out.extend_from_slice(&id.hash.to_le_bytes());
            }
        }
        Position::Files(files) => {
            out.push(2);
            put_u64(out, files.len() as u64);
            files.iter().for_each(|file| put_file(out, file));
        }
        Position::Sequence { nonce, sequence } => {
            out.push(3);
            put_u64(out, *nonce);
            put_u64(out, *sequence);
        }
        Position::Offsets(offsets) => {
            out.push(4);
            put_u64(out, offsets.len() as u64);
            for (name, offset) in offsets {
                put_bytes(out, name.as_bytes());
                put_u64(out, *offset);
            }
        }
        Position::Keys(keys) => {
            out.push(5);
            put_u64(out, keys.len() as u64);
            keys.iter().for_each(|key| put_bytes(out, key.as_bytes()));
        }
    }
}

/// Appends a file's position.
pub fn put_file(out: &mut Vec<u8>, file: &FilePosition) {
    put_bytes(out, file.path.as_bytes());
    [file.file.0, file.file.1, file.offset, u64::from(file.head)].into_iter().for_each(|v| put_u64(out, v));
}

/// Reads a file's position.
///
/// # Errors
/// [`Damaged`].
pub fn file(reader: &mut Reader<'_>) -> Result<FilePosition, Damaged> {
    Ok(FilePosition {
        path: reader.text()?.to_owned(),
        file: (reader.u64()?, reader.u64()?),
        offset: reader.u64()?,
        head: reader.narrow()?,
    })
}

/// Reads a position.
///
/// # Errors
/// [`Damaged`].
pub fn position(reader: &mut Reader<'_>) -> Result<Position, Damaged> {
    Ok(match reader.u8()? {
        0 => Position::None,
        1 => {
            let session = reader.u64()?;
            let mut ids = Vec::new();
            for _ in 0..reader.count()? {
                let raw = reader.take(6)?;
                ids.push(MessageId {
                    id: u16::from_le_bytes([raw[0], raw[1]]),
                    hash: u32::from_le_bytes([raw[2], raw[3], raw[4], raw[5]]),
                });
            }
            Position::Messages { session, ids }
        }
        2 => {
            let mut files = Vec::new();
            for _ in 0..reader.count()? {
                files.push(file(reader)?);
            }
            Position::Files(files)
        }
        3 => Position::Sequence { nonce: reader.u64()?, sequence: reader.u64()? },
        4 => {
            let mut offsets = Vec::new();
            for _ in 0..reader.count()? {
                offsets.push((reader.text()?.to_owned(), reader.u64()?));
            }
            Position::Offsets(offsets)
        }
        5 => {
            let mut keys = Vec::new();
            for _ in 0..reader.count()? {
                keys.push(reader.text()?.to_owned());
            }
            Position::Keys(keys)
        }
        _ => return Err(Damaged("an unknown position")),
    })
}
