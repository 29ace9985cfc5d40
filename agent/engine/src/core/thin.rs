//! Down-sampling what waits: before an outbox that is full gives up its oldest results, of each series every second one goes.
//!
//! Which ones is decided by age: the distance between what stays grows with it, so an outage of any length keeps its whole length, the older
//! the coarser. Points are left out, never put together: a sum or a count of what is left still says what it said. Which points stay is a record,
//! so it is the same after a crash; the smaller block is written at the end by the next checkpoint, and the old one is removed after its commit
//! point. Until then whoever reads the old block is given what stays of it. Blocks are gone through in the order they lie on the disk, those
//! whose turn has not come are taken along as they are, and so the file in front becomes free. Alerts are left alone.

use std::{
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
};

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use weir_plugin_api::{Cell, Chunk, Identity, Lane, Series};

use super::{
    Core, Effect, Now, OutboxBlock, OutboxPlace,
    checkpoint::outbox_block,
    deliver::before,
    merged::BLOCK_POINTS,
    waiting::{LaneQueue, Stored},
};
use crate::{
    codec::{cells::CellEncoder, chunk},
    record::{DeliveryCounts, Record},
    spec::OnFull,
};

/// Asks for a block on behalf of the core: no output has this number.
pub(super) const NOBODY: u16 = u16::MAX;
/// A block of at most so many bytes that can't be thinned is taken along as it is.
const SMALL: u32 = 4096;

/// Points that stay of a block, in the order of their identities: the first of a run of ordinals, and how many it has.
pub type Kept = Arc<[(Identity, u32)]>;

/// What has been thinned and waits for the next checkpoint, and what is known for thinning on.
#[derive(Debug, Default)]
pub(crate) struct Thinning {
    /// Smaller blocks, and what they are made of.
    blocks: Vec<Smaller>,
    /// The one that is being filled: neighbours become one block, or in the end names would be all there is.
    open: Filling,
    /// Bytes of the smaller ones.
    bytes: usize,
    /// Bytes that were gone through since one of them got smaller.
    fruitless: u64,
    /// How much less that will be, roughly.
    saved: u64,
    /// A block is being read.
    reading: Option<OutboxPlace>,
    /// Series with their fields: whether the last result was kept, and its time. Forgotten when it is more than the table of series may be.
    last: HashMap<u64, (bool, i64), FixedState>,
}

/// A block that takes the place of neighbours.
#[derive(Debug)]
pub(crate) struct Smaller {
    /// First identity of each, and where it was; one behind the other.
    pub of: Vec<(Identity, OutboxPlace)>,
    /// What is left of them.
    pub block: OutboxBlock,
}

/// A chunk that is put together from what stays of neighbours.
#[derive(Debug, Default)]
struct Filling {
    /// Outputs that wait for them, a bit each.
    waits: u64,
    /// How often they were thinned.
    level: u32,
    of: Vec<(Identity, OutboxPlace)>,
    chunk: Chunk,
    series: HashMap<(Arc<Series>, u64), u32, FixedState>,
}

impl Thinning {
    /// Whether this block has been taken already.
    fn has(&self, first: Identity) -> bool {
        self.blocks.iter().map(|b| &b.of).chain([&self.open.of]).flatten().any(|(taken, _)| *taken == first)
    }

    /// The block that was asked for could not be read.
    pub(super) fn unread(&mut self) {
        self.reading = None;
    }

    /// The checkpoint takes the smaller blocks along, or they are thinned again.
    pub(super) fn take(&mut self, names: &[&str], encoder: &mut CellEncoder) -> Vec<Smaller> {
        self.close(names, encoder);
        (self.bytes, self.saved) = (0, 0);
        std::mem::take(&mut self.blocks)
    }

    /// The block that is being filled is done.
    fn close(&mut self, names: &[&str], encoder: &mut CellEncoder) {
        let Filling { of, chunk, .. } = std::mem::take(&mut self.open);
        if !of.is_empty() {
            let block = outbox_block(Lane::Results, &chunk, names, encoder);
            self.bytes += block.bytes.len();
            self.blocks.push(Smaller { of, block });
        }
    }
}

impl Core {
    /// Bytes on disk from which on the outbox is thinned: with room for what a checkpoint may bring at a time.
    fn thin_above(&self) -> u64 {
        let bound = self.spec.storage.outbox_bytes_max;
        bound - (bound / 4).min(self.spec.limits.results_waiting_bytes_max as u64)
    }

    /// Bytes of smaller blocks that wait for a checkpoint at most.
    fn thinned_max(&self) -> usize {
        self.spec.limits.results_waiting_bytes_max / 4
    }

    /// Keeps the outbox within its bytes by thinning it; gives up the oldest where that is not enough.
    pub(super) fn thin(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.checkpoint.running.is_some() || self.failed.is_some() || self.spec.storage.on_full != OnFull::Downsample {
            return;
        }
        if self.thinning.reading.is_some() {
            return;
        }
        let bytes: u64 = self.waiting.lanes.iter().map(LaneQueue::disk_bytes).sum();
        let (above, full) = (bytes.saturating_sub(self.thinning.saved) > self.thin_above(), self.thinning.bytes >= self.thinned_max());
        if let Some(place) = self.next_to_thin().filter(|_| above && !full) {
            if self.unreadable.waits(Lane::Results, place, now.steady) {
                return;
            }
            self.thinning.reading = Some(place);
            effects.push(Effect::ReadOutbox { output: NOBODY, lane: Lane::Results, place });
            return;
        }
        let over = bytes > self.spec.storage.outbox_bytes_max;
        if over && (self.thinning.fruitless > bytes || self.thinning.blocks.is_empty() && self.thinning.open.of.is_empty()) {
            self.give_up_oldest(now, |points| DeliveryCounts { expired_bytes: points, ..DeliveryCounts::default() });
        } else if over || above && full {
            // Not again at once after one that failed.
            self.checkpoint.wanted |= now.steady >= self.checkpoint.not_before;
        }
    }

    /// Whether a block is among those that have waited longest for what is left of them: its age, halved for each time it was thinned. So the
    /// distance of what stays grows with its age, and nothing is thinned to nothing while there is something finer.
    fn is_due(&self, block: &Stored) -> bool {
        let queue = &self.waiting.lanes[Lane::Results as usize];
        let age = |b: &Stored| self.last_observed.saturating_sub(b.observed) >> b.level.min(62);
        let longest = queue.stored.iter().filter(|b| queue.is_whole(b) && !self.thinning.has(b.first)).map(age).max();
        longest.is_none_or(|longest| age(block) >= longest / 2)
    }

    /// The block that lies first on the disk among those somebody waits for and nobody is in the middle of.
    fn next_to_thin(&self) -> Option<OutboxPlace> {
        let queue = &self.waiting.lanes[Lane::Results as usize];
        let open = queue.stored.iter().filter(|b| queue.is_whole(b) && !self.thinning.has(b.first));
        open.filter_map(|b| b.place).min()
    }

    /// A block that was asked for on behalf of the core.
    pub(super) fn thin_block(&mut self, now: Now, place: OutboxPlace, bytes: Option<Vec<u8>>, effects: &mut Vec<Effect>) {
        self.thinning.reading = None;
        let spec = Arc::clone(&self.spec);
        let names: Vec<&str> = spec.outputs.iter().map(|o| o.name.as_str()).collect();
        let queue = &self.waiting.lanes[Lane::Results as usize];
        let found = queue.stored.iter().find(|b| b.place == Some(place) && queue.is_whole(b)).cloned();
        let Some(stored) = found.filter(|_| self.checkpoint.running.is_none()) else { return };
        let Some(block) = bytes.and_then(|bytes| chunk::decode(&bytes, &names).ok()).filter(|chunk| stored.is(chunk)) else {
            self.damaged(now, NOBODY, Lane::Results, &stored, effects);
            return;
        };
        let waits = queue.waiting_for(&stored);
        let all = block.len();
        let kept = stored.kept.clone().or_else(|| self.is_due(&stored).then(|| self.choose(&block, waits)));
        let stays = |identity| kept.as_ref().is_none_or(|kept| is_in(kept, identity));
        let left = (0..all).filter(|index| stays(block.identity(*index))).count();
        if let (Some(kept), None) = (&kept, &stored.kept) {
            let points = by_output(&block, kept, waits, stored.counts.len());
            if all - left < all / 8 && place.bytes > SMALL {
                // As many series as points: nothing can be left out that says the same as what stays.
                self.give_up_block(now, &stored, waits);
                return;
            }
            self.record(now, &Record::Thinned { kept, points: &points });
        }
        let level = stored.level + u32::from(kept.is_some() && stored.kept.is_none());
        let before = self.before(stored.first);
        let thinning = &mut self.thinning;
        // Who has one of them must have the other too: a block is counted as a whole.
        let same = (thinning.open.waits, thinning.open.level) == (waits, level);
        let goes_on = before.is_some() && same && thinning.open.of.last().map(|(first, _)| *first) == before;
        if !goes_on || thinning.open.chunk.len() + left > BLOCK_POINTS {
            thinning.close(&names, &mut CellEncoder::default());
        }
        (thinning.open.waits, thinning.open.level) = (waits, level);
        thinning.open.of.push((stored.first, place));
        thinning.open.add(&block, stays);
        thinning.fruitless = if left < all { 0 } else { thinning.fruitless + u64::from(place.bytes) };
        thinning.saved += u64::from(place.bytes) * (all - left) as u64 / all as u64;
    }

    /// First identity of the block in front of another.
    fn before(&self, first: Identity) -> Option<Identity> {
        let stored = &self.waiting.lanes[Lane::Results as usize].stored;
        let at = stored.iter().position(|b| b.first == first)?;
        at.checked_sub(1).map(|at| stored[at].first)
    }

    /// Which points stay: of each series, with the same fields, every second one. Two of the same time are one that came twice.
    fn choose(&mut self, block: &Chunk, waits: u64) -> Kept {
        let hasher = FixedState::default();
        let series: Vec<u64> = block.series.iter().map(|series| hasher.hash_one(series.line())).collect();
        let fields: Vec<u64> = block.fields.iter().map(|name| hasher.hash_one(&**name)).collect();
        if self.thinning.last.len() > self.spec.limits.series_max {
            self.thinning.last = HashMap::default();
        }
        let ends = [0, block.len() - 1];
        let stays = (0..block.len()).filter(|index| {
            let cells = cells_of(block, *index);
            let mut key = hasher.build_hasher();
            series[cells[0].series as usize].hash(&mut key);
            cells.iter().for_each(|cell| fields[usize::from(cell.field)].hash(&mut key));
            let (kept, time) = self.thinning.last.entry(key.finish()).or_insert((false, i64::MIN));
            if *time != cells[0].time {
                (*kept, *time) = (!*kept, cells[0].time);
            }
            // Its first and last are how a block is known.
            ends.contains(index) || *kept && block.route(*index) & waits != 0
        });
        let mut runs: Vec<(Identity, u32)> = Vec::new();
        for identity in stays.map(|index| block.identity(index)) {
            match runs.last_mut() {
                Some((first, length)) if first.record == identity.record && first.ordinal + *length == identity.ordinal => *length += 1,
                _ => runs.push((identity, 1)),
            }
        }
        runs.into()
    }

    /// Gives up a block that nobody has begun with, wherever it is in the order.
    fn give_up_block(&mut self, now: Now, stored: &Stored, waits: u64) {
        for output in 0..stored.counts.len() as u16 {
            let points = u64::from(stored.counts[usize::from(output)]);
            if points > 0 && waits & 1 << output != 0 {
                let counts = DeliveryCounts { expired_bytes: points, ..DeliveryCounts::default() };
                let (lane, after, upto) = (Lane::Results, before(stored.first), stored.last);
                self.record(now, &Record::Expired { output, lane, after, upto, counts });
            }
        }
        self.waiting.lane(Lane::Results).drop_done();
    }

    /// A record of a block that was thinned: made just now or read back.
    pub(super) fn note_thinned(&mut self, sequence: u64, kept: &[(Identity, u32)], points: &[(u16, u64)]) {
        for (output, points) in points {
            let index = usize::from(*output);
            let Some(line) = self.lines.get_mut(index) else { continue };
            line.expired_downsampled += points;
            self.note_unrouted(index, Lane::Results, *points);
            let cursor = &mut self.waiting.lane(Lane::Results).cursors[index];
            cursor.outstanding = cursor.outstanding.saturating_sub(*points);
            cursor.gap_record = sequence;
        }
        let is_adopted = self.checkpoint.number == 0 && self.adopted[Lane::Results as usize] != Identity::default();
        let parted = self.waiting.lane(Lane::Results).thin(kept, points, is_adopted);
        self.lost.extend(parted.into_iter().map(|b| (Lane::Results as u8, b)));
        let Some((first, last)) = span(kept) else { return };
        let mut left = points.to_vec();
        for (_, lost) in self.lost.iter_mut().filter(|(lane, b)| *lane == Lane::Results as u8 && b.first >= first && b.last <= last) {
            for (output, points) in &mut left {
                let Some(count) = lost.counts.get_mut(usize::from(*output)) else { continue };
                let taken = u32::try_from(*points).unwrap_or(u32::MAX).min(*count);
                *count -= taken;
                *points -= u64::from(taken);
            }
        }
    }
}

impl LaneQueue {
    /// Whether somebody waits for a block of the outbox, and who does has not begun with it: nor in a life before, when the rest of it was
    /// given up and what had been offered was not settled.
    fn is_whole(&self, block: &Stored) -> bool {
        let begun = |(count, cursor): (&u32, &super::waiting::Cursor)| {
            let reaches = |(after, upto): &(Identity, Identity)| *after < block.last && *upto >= block.first;
            *count > 0 && cursor.done < block.last && (cursor.sent >= block.first || cursor.gaps.iter().any(reaches))
        };
        self.can_be_given_up(block) && !block.counts.iter().zip(&self.cursors).any(begun)
    }

    /// Outputs that wait for a block, a bit each.
    fn waiting_for(&self, block: &Stored) -> u64 {
        let holders = block.counts.iter().zip(&self.cursors).enumerate();
        holders.filter(|(_, (count, cursor))| **count > 0 && cursor.sent < block.last).fold(0, |waits, (index, _)| waits | 1 << index)
    }

    /// Leaves out all but `kept` of a block; where it is in memory, as after a damaged checkpoint, of what is there. Blocks that had become one
    /// by then are not what they were: they are taken out, unless the outbox `is_adopted`: then they are all there is.
    fn thin(&mut self, kept: &[(Identity, u32)], points: &[(u16, u64)], is_adopted: bool) -> Vec<Stored> {
        let Some((first, last)) = span(kept) else { return Vec::new() };
        if let Some(stored) = self.stored.iter_mut().find(|b| b.first == first && b.last == last) {
            stored.level += 1;
            let stays: u64 = kept.iter().map(|(_, length)| u64::from(*length)).sum();
            if is_adopted && stays >= u64::from(stored.points) {
                // It was written again by then.
                return Vec::new();
            }
            stored.kept = Some(kept.into());
            take_off(&mut stored.counts, points);
            return Vec::new();
        }
        let mut parted = Vec::new();
        for stored in std::mem::take(&mut self.stored) {
            let apart = is_adopted || stored.last < first || stored.first > last;
            if apart { self.stored.push_back(stored) } else { parted.push(stored) }
        }
        let (outputs, mut bytes) = (self.cursors.len(), self.bytes);
        self.held.retain_mut(|held| {
            if held.last < first || held.chunk.identity(0) > last {
                return true;
            }
            bytes -= held.size;
            let chunk = select(&held.chunk, |identity| identity < first || identity > last || is_in(kept, identity));
            if chunk.is_empty() {
                return false;
            }
            (held.counts, held.size, held.last) =
                (super::waiting::count(&chunk, 0, outputs), chunk.size(), chunk.identity(chunk.len() - 1));
            held.chunk = Arc::new(chunk);
            bytes += held.size;
            true
        });
        self.bytes = bytes;
        parted
    }
}

impl Stored {
    /// Whether a chunk is what the state says of the block. One with other points would be asked for again and again.
    pub(super) fn is(&self, chunk: &Chunk) -> bool {
        let last = chunk.len().checked_sub(1).map(|last| chunk.identity(last));
        last == Some(self.last) && chunk.identity(0) == self.first
    }
}

/// First and last identity of what stays: those of the block.
fn span(kept: &[(Identity, u32)]) -> Option<(Identity, Identity)> {
    let ((first, _), (last, length)) = (kept.first()?, kept.last()?);
    Some((*first, Identity { ordinal: last.ordinal.checked_add(length.checked_sub(1)?)?, ..*last }))
}

fn is_in(kept: &[(Identity, u32)], identity: Identity) -> bool {
    let at = kept.partition_point(|(first, _)| *first <= identity);
    at.checked_sub(1).is_some_and(|at| {
        let (first, length) = kept[at];
        first.record == identity.record && identity.ordinal - first.ordinal < length
    })
}

fn take_off(counts: &mut [u32], points: &[(u16, u64)]) {
    for (output, points) in points {
        if let Some(count) = counts.get_mut(usize::from(*output)) {
            *count = count.saturating_sub(u32::try_from(*points).unwrap_or(u32::MAX));
        }
    }
}

/// What stays of a block.
pub(super) fn keep(block: &Chunk, kept: &[(Identity, u32)]) -> Chunk {
    select(block, |identity| is_in(kept, identity))
}

/// How many points each output that waits will not get.
fn by_output(block: &Chunk, kept: &[(Identity, u32)], waits: u64, outputs: usize) -> Vec<(u16, u64)> {
    let mut counts = vec![0; outputs];
    for index in (0..block.len()).filter(|index| !is_in(kept, block.identity(*index))) {
        let route = block.route(index) & waits;
        counts.iter_mut().enumerate().filter(|(output, _)| route & 1 << output != 0).for_each(|(_, count)| *count += 1);
    }
    counts.into_iter().enumerate().filter(|(_, count)| *count > 0).map(|(output, count)| (output as u16, count)).collect()
}

fn cells_of(chunk: &Chunk, index: usize) -> &[Cell] {
    let end = chunk.starts.get(index + 1).map_or(chunk.cells.len(), |end| *end as usize);
    &chunk.cells[chunk.starts[index] as usize..end]
}

/// The points of a chunk that are wanted, with the series and fields they need.
fn select(chunk: &Chunk, wanted: impl Fn(Identity) -> bool) -> Chunk {
    let mut filling = Filling::default();
    filling.add(chunk, wanted);
    filling.chunk
}

impl Filling {
    /// Adds the points of a chunk that are wanted.
    fn add(&mut self, chunk: &Chunk, wanted: impl Fn(Identity) -> bool) {
        let out = &mut self.chunk;
        let (mut series, mut fields) = (vec![None; chunk.series.len()], vec![None; chunk.fields.len()]);
        for index in 0..chunk.len() {
            let identity = chunk.identity(index);
            if !wanted(identity) {
                continue;
            }
            let at = out.starts.len() as u32;
            let continues = out
                .identities
                .last()
                .is_some_and(|(start, first)| first.record == identity.record && first.ordinal + (at - start) == identity.ordinal);
            if !continues {
                out.identities.push((at, identity));
            }
            out.starts.push(out.cells.len() as u32);
            for cell in cells_of(chunk, index) {
                let mut copy = *cell;
                copy.series = *series[cell.series as usize].get_or_insert_with(|| {
                    let (one, route) = (&chunk.series[cell.series as usize], chunk.routes[cell.series as usize]);
                    *self.series.entry((Arc::clone(one), route)).or_insert_with(|| {
                        out.series.push(Arc::clone(one));
                        out.routes.push(route);
                        out.series.len() as u32 - 1
                    })
                });
                copy.field = *fields[usize::from(cell.field)].get_or_insert_with(|| {
                    let name = &chunk.fields[usize::from(cell.field)];
                    let known = out.fields.iter().position(|f| f == name);
                    known.unwrap_or_else(|| {
                        out.fields.push(Arc::clone(name));
                        out.fields.len() - 1
                    }) as u16
                });
                copy.value = Cell::encode_value(cell.value(&chunk.text), &mut out.text).1;
                out.cells.push(copy);
            }
        }
    }
}
