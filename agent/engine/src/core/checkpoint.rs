//! Checkpoints: when, what goes into the outbox first, and what becomes free afterwards.

use std::sync::Arc;

use weir_plugin_api::{Chunk, Lane};

use super::{Core, Effect, Now, OutboxBlock, OutboxPlace, waiting::Stored};
use crate::codec::{cells::CellEncoder, chunk};

/// Points of small chunks that are merged into one block of the outbox.
const BLOCK_POINTS: usize = 8192;
/// A checkpoint that failed is tried again after this long, nanoseconds.
const RETRY: i64 = 5_000_000_000;

/// Where checkpoints stand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CheckpointState {
    /// Number of the last one asked for.
    pub number: u64,
    /// Made in this run.
    pub made: u64,
    /// One is being written.
    pub running: Option<u64>,
    /// One was asked for.
    pub wanted: bool,
    /// Journal bytes that one being written makes free.
    pub covers: u64,
    /// After a failure not again before this steady time …
    pub not_before: i64,
    /// … and then whether or not a bound asks for it.
    pub retry: bool,
}

impl Core {
    /// Whether the bounds of memory or journal ask for one.
    fn checkpoint_due(&self) -> bool {
        self.checkpoint.retry
            || self.waiting.bytes() > self.spec.limits.results_waiting_bytes_max
            || self.commit.journal_bytes >= self.spec.storage.journal_bytes_max / 3
    }

    /// Steady time at which one that failed is tried again; `i64::MAX`: none waits for its time.
    pub(super) fn checkpoint_deadline(&self) -> i64 {
        let waits = self.checkpoint.running.is_none() && self.failed.is_none() && self.checkpoint_due();
        if waits { self.checkpoint.not_before } else { i64::MAX }
    }

    /// Starts a checkpoint if one is due and none is being written.
    pub(super) fn maybe_checkpoint(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.checkpoint.running.is_some() || self.failed.is_some() {
            return;
        }
        let due = self.checkpoint_due() && now.steady >= self.checkpoint.not_before;
        if !due && !self.checkpoint.wanted {
            return;
        }
        (self.checkpoint.wanted, self.checkpoint.retry) = (false, false);
        self.commit_now(now, effects);
        let outbox = self.spill();
        self.checkpoint.number += 1;
        self.checkpoint.running = Some(self.checkpoint.number);
        self.checkpoint.covers = self.commit.journal_bytes;
        let state = self.snapshot(now);
        effects.push(Effect::Checkpoint {
            number: self.checkpoint.number,
            outbox,
            state,
            upto_record: self.next_record - 1,
            outbox_free_below: [self.free_below(Lane::Alerts), self.free_below(Lane::Results)],
        });
    }

    /// Moves everything in memory to the outbox: blocks to write, and their entries without a place yet.
    fn spill(&mut self) -> Vec<OutboxBlock> {
        let spec = Arc::clone(&self.spec);
        let names: Vec<&str> = spec.outputs.iter().map(|o| o.name.as_str()).collect();
        let mut encoder = CellEncoder::default();
        let mut blocks = Vec::new();
        for lane in Lane::ALL {
            let queue = self.waiting.lane(lane);
            queue.drop_done();
            // Written again at the end, so that files become free that hold nothing else.
            for (index, chunk) in queue.pinning() {
                let stored = &mut queue.stored[index];
                self.moved.extend(stored.place.take().map(|place| (lane, stored.first, place)));
                blocks.push(outbox_block(lane, &chunk, &names, &mut encoder));
            }
            let mut merged: Option<(Chunk, Vec<u32>, i64)> = None;
            let held = std::mem::take(&mut queue.held);
            queue.bytes = 0;
            self.spilled.extend(held.iter().map(|h| (lane, h.clone())));
            let mut finished = Vec::new();
            for held in held {
                match &mut merged {
                    Some((chunk, counts, _)) if chunk.len() + held.chunk.len() <= BLOCK_POINTS => {
                        append(chunk, &held.chunk);
                        counts.iter_mut().zip(&held.counts).for_each(|(all, more)| *all += more);
                    }
                    other => finished.extend(other.replace(((*held.chunk).clone(), held.counts, held.observed))),
                }
            }
            finished.extend(merged);
            for (chunk, counts, observed) in finished {
                let block = outbox_block(lane, &chunk, &names, &mut encoder);
                let queue = self.waiting.lane(lane);
                queue.stored.push_back(Stored { place: None, first: block.first, last: block.last, counts, observed });
                queue.keep(&Arc::new(chunk));
                blocks.push(block);
            }
        }
        blocks
    }

    /// A checkpoint failed: what it had moved to the outbox waits in memory again.
    pub(super) fn unspill(&mut self) {
        for (lane, first, place) in std::mem::take(&mut self.moved) {
            let stored = self.waiting.lane(lane).stored.iter_mut().find(|b| b.first == first);
            stored.into_iter().for_each(|b| b.place = Some(place));
        }
        for lane in &mut self.waiting.lanes {
            lane.stored.retain(|b| b.place.is_some());
        }
        for (lane, held) in std::mem::take(&mut self.spilled).into_iter().rev() {
            let queue = self.waiting.lane(lane);
            queue.bytes += held.size;
            queue.held.push_front(held);
        }
    }

    /// The lowest segment that holds something an output still needs; everything below it is free.
    fn free_below(&self, lane: Lane) -> u64 {
        let stored = &self.waiting.lanes[lane as usize].stored;
        stored.iter().filter_map(|b| b.place).map(|p| p.segment).min().unwrap_or(u64::MAX)
    }

    pub(super) fn checkpoint_done(&mut self, number: u64, places: &[OutboxPlace], effects: &mut Vec<Effect>) {
        if self.checkpoint.running != Some(number) {
            return;
        }
        self.checkpoint.running = None;
        self.checkpoint.made += 1;
        self.spilled.clear();
        self.moved.clear();
        self.commit.journal_bytes = self.commit.journal_bytes.saturating_sub(self.checkpoint.covers);
        let mut places = places.iter();
        for lane in &mut self.waiting.lanes {
            for stored in lane.stored.iter_mut().filter(|b| b.place.is_none()) {
                stored.place = places.next().copied();
            }
            lane.drop_done();
        }
        if self.waiting.lanes.iter().any(|l| l.stored.iter().any(|b| b.place.is_none())) {
            effects.push(Effect::Log { error: true, message: "the store gave fewer places than blocks".into() });
        }
    }

    /// The previous checkpoints stand. What was meant for the outbox is encoded nowhere else, so it is asked for again after a while.
    pub(super) fn checkpoint_failed(&mut self, now: Now, number: u64, no_space: bool, reason: String, effects: &mut Vec<Effect>) {
        if self.checkpoint.running != Some(number) {
            return;
        }
        self.checkpoint.running = None;
        effects.push(Effect::Log { error: true, message: format!("checkpoint failed: {reason}") });
        self.unspill();
        // Its file goes with the next checkpoint that gets through: to give up more at once would win nothing.
        if no_space && self.give_up_segment(now) {
            effects.push(Effect::Log { error: true, message: "disk full: the oldest results in the outbox are given up".into() });
        }
        self.checkpoint.not_before = now.steady + RETRY;
        self.checkpoint.retry = true;
    }
}

fn outbox_block(lane: Lane, chunk: &Chunk, names: &[&str], encoder: &mut CellEncoder) -> OutboxBlock {
    let mut bytes = Vec::new();
    chunk::encode(chunk, names, encoder, &mut bytes);
    let (first, last) = (chunk.identity(0), chunk.identity(chunk.len() - 1));
    let times = chunk.cells.iter().fold((i64::MAX, i64::MIN), |(low, high), c| (low.min(c.time), high.max(c.time)));
    OutboxBlock { lane: lane as u8, first, last, points: chunk.len() as u32, times, bytes }
}

/// Appends the points of `more`, names and text moved behind those of `chunk`.
fn append(chunk: &mut Chunk, more: &Chunk) {
    let series: Vec<u32> = more
        .series
        .iter()
        .zip(&more.routes)
        .map(|(series, route)| {
            let known = chunk.series.iter().zip(&chunk.routes).position(|(s, r)| Arc::ptr_eq(s, series) && r == route);
            known.unwrap_or_else(|| {
                chunk.series.push(Arc::clone(series));
                chunk.routes.push(*route);
                chunk.series.len() - 1
            }) as u32
        })
        .collect();
    let fields: Vec<u16> = more
        .fields
        .iter()
        .map(|field| {
            chunk.fields.iter().position(|f| f == field).unwrap_or_else(|| {
                chunk.fields.push(Arc::clone(field));
                chunk.fields.len() - 1
            }) as u16
        })
        .collect();
    let (points, cells) = (chunk.starts.len() as u32, chunk.cells.len() as u32);
    for cell in &more.cells {
        let mut copy = *cell;
        copy.series = series[cell.series as usize];
        copy.field = fields[usize::from(cell.field)];
        copy.value = weir_plugin_api::Cell::encode_value(cell.value(&more.text), &mut chunk.text).1;
        chunk.cells.push(copy);
    }
    chunk.starts.extend(more.starts.iter().map(|s| s + cells));
    chunk.identities.extend(more.identities.iter().map(|(start, identity)| (start + points, *identity)));
}
