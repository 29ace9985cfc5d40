//! Checkpoints: when, what goes into the outbox first, and what becomes free afterwards.

use std::{collections::BTreeMap, sync::Arc};

use weir_plugin_api::{Chunk, Identity, Lane};

use super::{
    Core, Effect, Now, OutboxBlock, OutboxPlace,
    floors::Owed,
    merged::Merged,
    thin::{Smaller, keep},
    waiting::Stored,
};
use crate::{
    codec::{cells::CellEncoder, chunk},
    record::DeliveryCounts,
};

/// A checkpoint that failed is tried again after this long, nanoseconds, the next one after twice as long …
const RETRY_FIRST: i64 = 1_000_000_000;
/// … up to this.
const RETRY_MAX: i64 = 60_000_000_000;
/// A disk that was full is taken for roomy again when checkpoints have got through for this long, nanoseconds.
const ROOMY_AFTER: i64 = 60_000_000_000;

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
    /// How long after the next failure; 0 before the first.
    pub delay: i64,
    /// The last one found no room on the disk.
    pub no_room: bool,
    /// Segments below these are removed when the one being written is done, by lane.
    pub frees: [u64; 2],
    /// Segments below these are removed, by lane.
    pub freed: [u64; 2],
    /// Segments below these are free once records up to this one are synced; 0: they need not be, the cursors are saved.
    pub to_free: Option<([u64; 2], u64)>,
    /// Cursors are being saved so that segments can be removed.
    pub saving: Option<Saving>,
    /// They could not be, and that was said.
    pub unsaved: bool,
    /// Results up to here were removed since the last checkpoint though the task of a dead output had them: memory alone has them.
    pub removed: Identity,
    /// Results of this segment were given up for room, and it may still be there.
    pub given_up: Option<u64>,
    /// What went wrong lately, for the log.
    pub trouble: Option<Trouble>,
}

/// What waits for cursors to be saved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saving {
    /// Segments below these are removed then, by lane.
    pub below: [u64; 2],
    /// Results of this one among them were given up.
    pub given_up: Option<u64>,
}

/// A time in which checkpoints fail: a line in the log when it begins and one when it ends.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    /// It is room that is missing.
    pub no_room: bool,
    /// Tries that failed.
    pub failed: u64,
    /// Points given up for room.
    pub points: u64,
    /// Steady time of the last failure.
    pub last: i64,
}

impl Core {
    /// Whether the bounds of memory or journal ask for one.
    fn checkpoint_due(&self) -> bool {
        self.checkpoint.retry
            || self.waiting.bytes() > self.spec.limits.results_waiting_bytes_max
            || self.commit.journal_bytes >= self.spec.storage.journal_bytes_max / 3
    }

    /// Whether a bound is so near that one can't wait for the write budget.
    fn checkpoint_presses(&self) -> bool {
        self.waiting.bytes() > self.spec.limits.results_waiting_bytes_max / 2 * 3
            || self.commit.journal_bytes >= self.spec.storage.journal_bytes_max / 2
    }

    /// Steady time at which one that is due, or is to be tried again, can be made; `i64::MAX`: none waits for its time.
    pub(super) fn checkpoint_deadline(&mut self, steady: i64) -> i64 {
        let waits = self.checkpoint.running.is_none() && self.failed.is_none() && self.checkpoint_due();
        if !waits {
            return i64::MAX;
        }
        let budget = if self.checkpoint_presses() { steady } else { self.commit.checkpoint_from(steady) };
        self.checkpoint.not_before.max(budget)
    }

    /// Starts a checkpoint if one is due and none is being written.
    pub(super) fn maybe_checkpoint(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.checkpoint.running.is_some() || self.failed.is_some() {
            return;
        }
        let from = self.checkpoint_deadline(now.steady);
        if !self.checkpoint.wanted && now.steady < from {
            self.commit.saving = from != i64::MAX && from > self.checkpoint.not_before;
            return;
        }
        self.commit.saving = false;
        (self.checkpoint.wanted, self.checkpoint.retry) = (false, false);
        self.commit_now(now, effects);
        let outbox = self.spill();
        self.checkpoint.number += 1;
        self.checkpoint.running = Some(self.checkpoint.number);
        self.checkpoint.covers = self.commit.journal_bytes;
        let state = self.snapshot(now);
        self.owed_floors = Owed::OfNow;
        self.checkpoint.frees = self.free_below(0);
        effects.push(Effect::Checkpoint {
            number: self.checkpoint.number,
            outbox,
            state,
            upto_record: self.next_record - 1,
            outbox_free_below: self.checkpoint.frees,
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
            let mut again = BTreeMap::new();
            if lane == Lane::Results {
                for Smaller { of, block } in self.thinning.take(&names, &mut encoder) {
                    let index = queue.stored.iter().position(|b| b.first == of[0].0);
                    let same = |index: &usize| {
                        let stored = queue.stored.iter().skip(*index);
                        of.len() <= queue.stored.len() - index && stored.zip(&of).all(|(b, of)| (b.first, b.place) == (of.0, Some(of.1)))
                    };
                    again.extend(index.filter(same).map(|index| (index, (of.len(), block))));
                }
            }
            let taken: Vec<(usize, usize)> = again.iter().map(|(index, (blocks, _))| (*index, index + blocks)).collect();
            for (index, chunk) in queue.pinning() {
                if taken.iter().all(|(from, to)| index < *from || index >= *to) {
                    let thinner = queue.stored[index].kept.as_ref().map(|kept| keep(&chunk, kept));
                    again.insert(index, (1, outbox_block(lane, thinner.as_ref().unwrap_or(&chunk), &names, &mut encoder)));
                }
            }
            blocks.extend(again.values().map(|(_, block)| block.clone()));
            // From behind, so that the places in front stay what they are.
            for (index, (length, block)) in again.into_iter().rev() {
                let of: Vec<Stored> = queue.stored.drain(index..index + length).collect();
                let one = Stored { points: block.points, ..together(&of) };
                self.moved.push((lane, one.first, of));
                queue.stored.insert(index, one);
            }
            let mut merged: Option<Merged> = None;
            let held = std::mem::take(&mut queue.held);
            queue.bytes = 0;
            self.spilled.extend(held.iter().map(|h| (lane, h.clone())));
            let mut finished = Vec::new();
            for held in held {
                match &mut merged {
                    Some(block) if block.has_room(&held) => block.add(&held),
                    other => finished.extend(other.replace(Merged::new(held))),
                }
            }
            finished.extend(merged);
            for Merged { chunk, counts, observed, .. } in finished {
                let block = outbox_block(lane, &chunk, &names, &mut encoder);
                let queue = self.waiting.lane(lane);
                queue.stored.push_back(Stored { first: block.first, last: block.last, counts, observed, ..Stored::default() });
                queue.keep(&Arc::new(chunk));
                blocks.push(block);
            }
        }
        blocks
    }

    /// A checkpoint failed: what it had moved to the outbox waits in memory again.
    pub(super) fn unspill(&mut self, now: Now) {
        for (lane, first, of) in std::mem::take(&mut self.moved) {
            let stored = &mut self.waiting.lane(lane).stored;
            if let Some(index) = stored.iter().position(|b| b.first == first && b.place.is_none()) {
                stored.remove(index);
                of.into_iter().rev().for_each(|b| stored.insert(index, b));
            }
        }
        for lane in &mut self.waiting.lanes {
            lane.stored.retain(|b| b.place.is_some());
        }
        for (lane, held) in std::mem::take(&mut self.spilled).into_iter().rev() {
            let queue = self.waiting.lane(lane);
            queue.bytes += held.size;
            queue.held.push_front(held);
        }
        self.settle_unspilled(now);
    }

    /// Segments below these are free, by lane. Alerts stay on the disk even where the task of a dead output has them in memory.
    fn free_below(&self, dead: u64) -> [u64; 2] {
        let [alerts, results] = &self.waiting.lanes;
        [alerts.free_below(0), results.free_below(dead)]
    }

    /// The same of segments that were free once: an output that was dead and lives again has only the task to lose what it holds by.
    pub(super) fn still_free(&self, now: Now, below: [u64; 2]) -> [u64; 2] {
        let free = self.free_below(self.dead(now.steady));
        [below[0].min(free[0]), below[1].min(free[1])]
    }

    /// On a full disk: has removed what no output needs any more as soon as the records that say so are durable, gives up more when memory is
    /// running out, and has the checkpoint tried again when there may be room.
    pub(super) fn make_room(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if !self.checkpoint.no_room || self.checkpoint.running.is_some() || self.failed.is_some() {
            return;
        }
        let dead = self.dead(now.steady);
        if self.checkpoint.to_free.is_none() {
            let below = self.free_below(dead);
            if (0..2).any(|lane| below[lane] > self.checkpoint.freed[lane]) {
                self.checkpoint.to_free = Some((below, self.next_record - 1));
                self.commit.urgent |= !self.block.is_empty();
            }
        }
        // Where cursors could not be saved it is for the next checkpoint that fails to try it again.
        if self.checkpoint.to_free.is_some_and(|free| self.is_settled(free) || !self.checkpoint.unsaved && free.1 <= self.commit.durable) {
            self.free_or_save(now, effects);
        }
        let bound = self.spec.limits.results_waiting_bytes_max / 2 * 3;
        let expired = |points| DeliveryCounts { expired_disk: points, ..DeliveryCounts::default() };
        while self.waiting.bytes() > bound {
            if self.waiting.lanes[Lane::Results as usize].oldest_segment(dead).is_some() {
                // The outbox has older ones: a checkpoint that fails gives them up.
                if self.checkpoint.given_up.is_none() {
                    self.checkpoint.not_before = now.steady;
                }
                break;
            }
            let before = self.lost_to_disk();
            if !self.give_up_held(now, dead, expired) {
                break;
            }
            let points = self.lost_to_disk() - before;
            self.checkpoint.trouble.iter_mut().for_each(|t| t.points += points);
        }
    }

    fn lost_to_disk(&self) -> u64 {
        self.lines.iter().map(|l| l.expired_disk).sum()
    }

    /// Has segments removed that are not needed, and the checkpoint tried at once.
    pub(super) fn free_now(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some((below, _)) = self.checkpoint.to_free.take() else { return };
        let below = self.still_free(now, below);
        for (lane, below) in self.waiting.lanes.iter_mut().zip(below) {
            lane.drop_below(below);
        }
        self.checkpoint.freed = below;
        if self.checkpoint.given_up.is_some_and(|segment| segment < below[Lane::Results as usize]) {
            self.checkpoint.given_up = None;
        }
        if self.checkpoint.delay <= RETRY_FIRST {
            // Only at first: where room is not enough, more is given up slowly.
            self.checkpoint.not_before = now.steady;
        }
        effects.push(Effect::FreeOutbox { below });
    }

    pub(super) fn checkpoint_done(&mut self, now: Now, number: u64, places: &[OutboxPlace], effects: &mut Vec<Effect>) {
        if self.checkpoint.running != Some(number) {
            return;
        }
        self.checkpoint.running = None;
        self.checkpoint.made += 1;
        self.spilled.clear();
        self.moved.clear();
        let state = &mut self.checkpoint;
        (state.no_room, state.delay, state.freed, state.to_free, state.given_up) = (false, 0, state.frees, None, None);
        state.removed = Identity::default();
        if let Some(trouble) = state.trouble.take_if(|t| !t.no_room || now.steady.saturating_sub(t.last) >= ROOMY_AFTER) {
            effects.push(Effect::Log { error: false, message: trouble.over() });
        }
        self.commit.journal_bytes = self.commit.journal_bytes.saturating_sub(self.checkpoint.covers);
        let mut places = places.iter();
        for (lane, freed) in self.waiting.lanes.iter_mut().zip(&mut self.checkpoint.freed) {
            for stored in lane.stored.iter_mut().filter(|b| b.place.is_none()) {
                stored.place = places.next().copied();
                stored.dropped = false;
                *freed = stored.place.map_or(*freed, |p| p.segment.min(*freed));
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
        self.unspill(now);
        self.checkpoint.delay = (self.checkpoint.delay * 2).clamp(RETRY_FIRST, RETRY_MAX);
        self.checkpoint.not_before = now.steady + self.checkpoint.delay;
        self.checkpoint.retry = true;
        self.checkpoint.no_room = no_space;
        let mut points = 0;
        if no_space {
            // The records that make a segment free may wait for the very room it has.
            self.free_or_save(now, effects);
            let dead = self.dead(now.steady);
            let oldest = self.waiting.lanes[Lane::Results as usize].oldest_segment(dead);
            // While a living output needs what dead ones gave up, more would win nothing.
            if oldest.is_some() && self.checkpoint.given_up.is_none_or(|given| oldest <= Some(given)) {
                self.checkpoint.given_up = oldest;
                points = self.give_up_segment(now, dead);
            }
        }
        let known = self.checkpoint.trouble.filter(|t| t.no_room == no_space);
        if known.is_none() {
            let what =
                if no_space { "disk full: results for outputs that are away are given up, oldest first" } else { "checkpoint failed" };
            effects.push(Effect::Log { error: true, message: format!("{what}: {reason}") });
        }
        let known = known.unwrap_or_default();
        let (failed, points) = (known.failed + 1, known.points + points);
        self.checkpoint.trouble = Some(Trouble { no_room: no_space, failed, points, last: now.steady });
    }
}

impl Trouble {
    /// What is logged when it is over.
    fn over(self) -> String {
        let Self { failed, points, .. } = self;
        if self.no_room {
            return format!("the disk has room again: {failed} checkpoints had found none, {points} results were given up");
        }
        format!("checkpoints get through again, {failed} had failed")
    }
}

/// Neighbours as one block that is written again.
fn together(of: &[Stored]) -> Stored {
    let mut one = Stored { place: None, kept: None, ..of[0].clone() };
    for more in &of[1..] {
        one.last = more.last;
        one.counts.iter_mut().zip(&more.counts).for_each(|(all, more)| *all += more);
    }
    one
}

pub(super) fn outbox_block(lane: Lane, chunk: &Chunk, names: &[&str], encoder: &mut CellEncoder) -> OutboxBlock {
    let mut bytes = Vec::new();
    chunk::encode(chunk, names, encoder, &mut bytes);
    let (first, last) = (chunk.identity(0), chunk.identity(chunk.len() - 1));
    let times = chunk.cells.iter().fold((i64::MAX, i64::MIN), |(low, high), c| (low.min(c.time), high.max(c.time)));
    OutboxBlock { lane: lane as u8, first, last, points: chunk.len() as u32, times, bytes }
}
