//! Offers to outputs, what comes back, and the bounds of what may wait.

use std::sync::Arc;

use weir_plugin_api::{Chunk, Identity, Lane};

use super::{
    Core, Effect, Now, OutboxPlace,
    cursors::Told,
    thin::{NOBODY, keep},
    waiting::{Held, Next, Stored, count},
};
use crate::{
    codec::chunk,
    record::{DeliveryCounts, Record},
    spec::OnFull,
};

/// Which results, for a line in the log.
fn words(lane: Lane, first: Identity, last: Identity) -> String {
    let lane = if lane == Lane::Alerts { "alerts" } else { "results" };
    format!("{lane} {}.{} to {}.{}", first.record, first.ordinal, last.record, last.ordinal)
}

impl Core {
    /// Answers every want that can be answered.
    pub(super) fn offer(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let (durable, observed) = (self.commit.durable, self.last_observed);
        for lane in Lane::ALL {
            let queue = &mut self.waiting.lanes[lane as usize];
            for index in 0..queue.cursors.len() {
                let cursor = &queue.cursors[index];
                if !cursor.wants || cursor.reading || cursor.gap_record > durable {
                    continue;
                }
                let output = index as u16;
                match queue.next(index, durable) {
                    Next::Nothing => {}
                    Next::Chunk(chunk, from, sealed) => {
                        self.pace[index].took(now.steady);
                        effects.push(Effect::Offer { output, lane, chunk, from, age: observed - sealed });
                    }
                    Next::Block(place) if self.unreadable.waits(lane, place, now.steady) => {}
                    Next::Block(place) => {
                        queue.cursors[index].reading = true;
                        effects.push(Effect::ReadOutbox { output, lane, place });
                    }
                }
            }
        }
    }

    /// A block of the outbox for an output, or the news that it is damaged.
    pub(super) fn outbox_read(
        &mut self,
        now: Now,
        output: u16,
        lane: Lane,
        place: OutboxPlace,
        bytes: Option<Vec<u8>>,
        effects: &mut Vec<Effect>,
    ) {
        if bytes.is_some() {
            self.note_read(lane, place, effects);
        }
        if output == NOBODY {
            self.thin_block(now, place, bytes, effects);
            return;
        }
        let index = usize::from(output);
        let spec = Arc::clone(&self.spec);
        let names: Vec<&str> = spec.outputs.iter().map(|o| o.name.as_str()).collect();
        let queue = self.waiting.lane(lane);
        queue.cursors[index].reading = false;
        let Some(stored) = queue.stored.iter().find(|b| b.place == Some(place)).cloned() else { return };
        match bytes.and_then(|bytes| chunk::decode(&bytes, &names).ok()).filter(|chunk| stored.is(chunk)) {
            Some(chunk) => {
                let chunk = match &stored.kept {
                    Some(kept) => keep(&chunk, kept),
                    None => chunk,
                };
                self.settle_skipped(now, output, lane, stored.last, &chunk);
                let queue = self.waiting.lane(lane);
                if queue.cursors[index].gap_record > self.commit.durable {
                    // It is read again then.
                    return;
                }
                let block = Arc::new(chunk);
                let Some((chunk, from)) = queue.take(index, &block) else {
                    queue.drop_done();
                    return;
                };
                queue.keep(&block);
                self.pace[index].took(now.steady);
                let age = self.last_observed - stored.observed;
                effects.push(Effect::Offer { output, lane, chunk, from, age });
            }
            None => {
                self.damaged(now, output, lane, &stored, effects);
                let cursor = &mut self.waiting.lane(lane).cursors[index];
                cursor.sent = cursor.sent.max(stored.last);
            }
        }
    }

    /// A block of the outbox can't be read, by whoever asked for it.
    pub(super) fn damaged(&mut self, now: Now, output: u16, lane: Lane, stored: &Stored, effects: &mut Vec<Effect>) {
        self.damage.outbox_blocks += 1;
        let points: u32 = stored.counts.iter().sum();
        effects.push(Effect::Log {
            error: true,
            message: format!("outbox block is damaged: {points} points for all outputs, {}", words(lane, stored.first, stored.last)),
        });
        // For every output at once: it is one block, counted once, and who has not read it yet need not try.
        for other in 0..stored.counts.len() as u16 {
            let lost = |points| DeliveryCounts { lost_outbox: points, ..DeliveryCounts::default() };
            let points = u64::from(stored.counts[usize::from(other)]);
            let ahead = self.waiting.lane(lane).cursors[usize::from(other)].sent < stored.first;
            if other == output || !ahead {
                self.expire(now, other, lane, stored, lost);
            } else if points > 0 {
                // What it has not read in front of the block is whole.
                let (after, upto, counts) = (before(stored.first), stored.last, lost(points));
                self.record(now, &Record::Expired { output: other, lane, after, upto, counts });
            }
        }
    }

    /// A destination that knows where it stands may stand in the middle of a block: what it has of it is only known when it is read.
    fn settle_skipped(&mut self, now: Now, output: u16, lane: Lane, last: Identity, chunk: &Chunk) {
        let index = usize::from(output);
        let queue = self.waiting.lane(lane);
        let cursor = &queue.cursors[index];
        let from = chunk.after(cursor.sent);
        if from == 0 || cursor.in_flight > 0 {
            return;
        }
        // What was given up is settled already.
        let given_up = |at: Identity| cursor.gaps.iter().any(|(after, upto)| at > *after && at <= *upto);
        let wanted = |point: &usize| chunk.route(*point) & 1 << index != 0 && !given_up(chunk.identity(*point));
        let left = (from..chunk.len()).filter(wanted).count() as u64;
        let skipped = queue.unsent(index, last).saturating_sub(left);
        if skipped > 0 {
            let counts = DeliveryCounts { delivered: skipped, ..DeliveryCounts::default() };
            let (upto, token) = (chunk.identity(from - 1), self.tokens[index]);
            self.record(now, &Record::Delivered { output, lane, upto, counts, token });
        }
    }

    /// What was on its way to the outbox is in memory again: what destinations have of it that stand in the middle will not be read there.
    pub(super) fn settle_unspilled(&mut self, now: Now) {
        for lane in Lane::ALL {
            for output in 0..self.lines.len() as u16 {
                let queue = &self.waiting.lanes[lane as usize];
                let sent = queue.cursors[usize::from(output)].sent;
                let within = |h: &&Held| h.chunk.identity(0) <= sent && sent < h.last;
                if let Some((last, chunk)) = queue.held.iter().find(within).map(|h| (h.last, Arc::clone(&h.chunk))) {
                    self.settle_skipped(now, output, lane, last, &chunk);
                }
            }
        }
    }

    /// What destinations have by their own account is delivered.
    pub(super) fn settle_told(&mut self, now: Now) {
        for mut told in std::mem::take(&mut self.told) {
            let Told { output, resume, .. } = told;
            let index = usize::from(output);
            self.tokens[index] = resume.token;
            for (lane, has) in [(Lane::Alerts, resume.alerts), (Lane::Results, resume.results)] {
                let queue = self.waiting.lane(lane);
                let cursor = &queue.cursors[index];
                if has <= cursor.sent || cursor.in_flight > 0 {
                    continue;
                }
                let stored: u64 = queue.stored.iter().filter(|b| b.last > has).map(|b| u64::from(b.counts[index])).sum();
                let held = queue.held.iter().filter(|h| h.last > has);
                let held: u64 = held.map(|h| u64::from(count(&h.chunk, h.chunk.after(has), index + 1)[index].min(h.counts[index]))).sum();
                let lost = self.lost.iter().filter(|(number, _)| usize::from(*number) == lane as usize).map(|(_, block)| block);
                let missing: u64 = lost.filter(|b| b.last > has).map(|b| u64::from(b.counts[index])).sum();
                let delivered = cursor.outstanding.saturating_sub(stored + held + missing);
                // In the middle of a stored block what it has of that one is settled when it is read, or when it is given up for being lost.
                // The record says where it stands all the same: it goes by the number noted with it, and would be sent the rest again.
                let counts = told.take(delivered);
                self.record(now, &Record::Delivered { output, lane, upto: has, counts, token: resume.token });
                let cursor = &mut self.waiting.lane(lane).cursors[index];
                cursor.sent = cursor.sent.max(has);
            }
        }
    }

    /// Blocks the state knows and the store has lost: every output that waited for them is told.
    pub(super) fn give_up_lost(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let mut lost = std::collections::VecDeque::from(std::mem::take(&mut self.lost));
        while let Some((number, stored)) = lost.pop_front() {
            let lane = if number == 0 { Lane::Alerts } else { Lane::Results };
            let removed = lane == Lane::Results && stored.last <= self.checkpoint.removed;
            let mut missed = 0;
            for output in 0..stored.counts.len() as u16 {
                let index = usize::from(output);
                let queue = self.waiting.lane(lane);
                let sent = queue.cursors[index].sent;
                // Blocks before it may be whole: only where the output was in the middle of it tells the rest how much is left.
                let points = if sent < stored.first {
                    u64::from(stored.counts[index])
                } else {
                    let others = lost.iter().filter(|(l, _)| *l == number).map(|(_, b)| u64::from(b.counts[index])).sum();
                    queue.unsent(index, stored.last).saturating_sub(others)
                };
                if points > 0 {
                    missed += points;
                    let (expired_disk, lost_outbox) = if removed { (points, 0) } else { (0, points) };
                    let counts = DeliveryCounts { expired_disk, lost_outbox, ..DeliveryCounts::default() };
                    let after = sent.max(before(stored.first));
                    self.record(now, &Record::Expired { output, lane, after, upto: stored.last, counts });
                }
            }
            // One that was removed because nobody needed it is not missed.
            if missed > 0 && removed {
                let what = format!("{missed} points for all outputs, {}", words(lane, stored.first, stored.last));
                let message = format!("what the task of a dead output had of a full disk's outbox is given up: {what}");
                effects.push(Effect::Log { error: false, message });
            } else if missed > 0 {
                self.damage.outbox_blocks += 1;
                effects.push(Effect::Log {
                    error: true,
                    message: format!(
                        "an outbox block is missing: {missed} points for all outputs, {}",
                        words(lane, stored.first, stored.last)
                    ),
                });
            }
        }
    }

    /// Gives up what an output has not been offered of a block; a record, so that the ledger knows after a crash too. How many there were.
    fn expire(&mut self, now: Now, output: u16, lane: Lane, stored: &Stored, counts: impl Fn(u64) -> DeliveryCounts) -> u64 {
        let index = usize::from(output);
        if stored.counts[index] == 0 {
            return 0;
        }
        let queue = self.waiting.lane(lane);
        let points = queue.unsent(index, stored.last);
        if points > 0 {
            let after = queue.cursors[index].sent;
            self.record(now, &Record::Expired { output, lane, after, upto: stored.last, counts: counts(points) });
        } else {
            // All it had in there is behind it already: what is left is for others, and must not count as something to give up.
            queue.cursors[index].pass(stored.last);
        }
        points
    }

    /// Keeps what waits within its bounds: age and bytes of the outbox, points per output.
    pub(super) fn bounds(&mut self, now: Now) {
        self.last_observed = self.clock.observed(now);
        let bytes: u64 = self.waiting.lanes.iter().map(super::waiting::LaneQueue::disk_bytes).sum();
        let thins = self.spec.storage.on_full == OnFull::Downsample && self.failed.is_none();
        if bytes > self.spec.storage.outbox_bytes_max && !thins {
            self.give_up_oldest(now, |points| DeliveryCounts { expired_bytes: points, ..DeliveryCounts::default() });
        }
        if let Some((_, lane)) = self.age_deadline().filter(|(at, _)| *at <= self.last_observed) {
            self.give_up_first(now, lane, |points| DeliveryCounts { expired_age: points, ..DeliveryCounts::default() });
        }
        // Nothing can be spilled to a dead disk.
        let all = u64::MAX;
        while self.failed.is_some()
            && self.waiting.bytes() > self.spec.limits.results_waiting_bytes_max
            && self.give_up_held(now, all, |points| DeliveryCounts { expired_bytes: points, ..DeliveryCounts::default() })
        {}
        self.count_bounds(now);
    }

    /// When the oldest block of the outbox reaches its age, observed axis, and the lane it is in.
    pub(super) fn age_deadline(&self) -> Option<(i64, Lane)> {
        let age = self.spec.storage.outbox_age_max;
        let oldest = |lane: Lane| {
            let queue = &self.waiting.lanes[lane as usize];
            queue.stored.iter().find(|b| queue.can_be_given_up(b)).map(|b| (b.observed.saturating_add(age), lane))
        };
        Lane::ALL.into_iter().filter_map(oldest).min_by_key(|(at, _)| *at).filter(|_| age > 0)
    }

    /// Gives up the oldest block, results before alerts; whether there was one.
    pub(super) fn give_up_oldest(&mut self, now: Now, counts: impl Fn(u64) -> DeliveryCounts) -> bool {
        [Lane::Results, Lane::Alerts].into_iter().any(|lane| self.give_up_first(now, lane, &counts))
    }

    /// Gives up the oldest block of a lane; whether there was one.
    fn give_up_first(&mut self, now: Now, lane: Lane, counts: impl Fn(u64) -> DeliveryCounts) -> bool {
        let queue = self.waiting.lane(lane);
        queue.drop_done();
        let Some(stored) = queue.stored.iter().find(|b| queue.can_be_given_up(b)).cloned() else { return false };
        for output in 0..stored.counts.len() as u16 {
            self.expire(now, output, lane, &stored, &counts);
        }
        true
    }

    /// Gives up the oldest segment of results that one of these outputs still needs, for them alone; how many points that were. Alerts stay.
    pub(super) fn give_up_segment(&mut self, now: Now, outputs: u64) -> u64 {
        let Some(segment) = self.waiting.lanes[Lane::Results as usize].oldest_segment(outputs) else { return 0 };
        let expired = |points| DeliveryCounts { expired_disk: points, ..DeliveryCounts::default() };
        let mut points = 0;
        for output in (0..self.lines.len()).filter(|output| outputs & 1 << output != 0) {
            let stored = &self.waiting.lanes[Lane::Results as usize].stored;
            let of_segment = stored.iter().rev().find(|b| b.counts[output] > 0 && b.place.is_some_and(|p| p.segment <= segment));
            if let Some(last) = of_segment.cloned() {
                points += self.expire(now, output as u16, Lane::Results, &last, expired);
            }
        }
        points
    }

    /// Gives up the oldest chunk in memory that one of these outputs has not been offered, results before alerts, for them alone; whether
    /// there was one.
    pub(super) fn give_up_held(&mut self, now: Now, outputs: u64, expired: impl Fn(u64) -> DeliveryCounts) -> bool {
        for lane in [Lane::Results, Lane::Alerts] {
            let queue = &self.waiting.lanes[lane as usize];
            let meant = |index: usize| outputs & 1 << index != 0;
            let open = |h: &&Held| {
                h.counts.iter().zip(&queue.cursors).enumerate().any(|(i, (count, cursor))| meant(i) && *count > 0 && cursor.sent < h.last)
            };
            let Some(stored) = queue.held.iter().find(open).map(as_block) else { continue };
            let given = (0..stored.counts.len()).filter(|index| meant(*index));
            if given.map(|output| self.expire(now, output as u16, lane, &stored, &expired)).sum::<u64>() > 0 {
                return true;
            }
        }
        false
    }

    /// `metric_buffer_limit`: an output with more points waiting gives up its oldest ones, block by block, chunk by chunk.
    fn count_bounds(&mut self, now: Now) {
        for index in 0..self.lines.len() {
            let limit = self.spec.outputs[index].waiting_points_max;
            if limit == 0 {
                continue;
            }
            let expired = |points| DeliveryCounts { expired_bytes: points, ..DeliveryCounts::default() };
            loop {
                let queue = &self.waiting.lanes[Lane::Results as usize];
                let cursor = &queue.cursors[index];
                if cursor.outstanding <= limit {
                    break;
                }
                let wanted = |last: Identity, counts: &[u32]| last > cursor.sent && counts.get(index).is_some_and(|c| *c > 0);
                let block = queue.stored.iter().find(|b| wanted(b.last, &b.counts)).cloned();
                let block = block.or_else(|| queue.held.iter().find(|h| wanted(h.last, &h.counts)).map(as_block));
                let Some(block) = block else { break };
                if cursor.outstanding.saturating_sub(u64::from(block.counts[index])) < limit && cursor.outstanding < limit + limit / 8 {
                    // Whole chunks go; a little over the limit is better than far below it.
                    break;
                }
                if self.expire(now, index as u16, Lane::Results, &block, expired) == 0 {
                    break;
                }
            }
        }
    }
}

/// A chunk in memory as the block it might become.
fn as_block(held: &Held) -> Stored {
    Stored {
        place: None,
        first: held.chunk.identity(0),
        last: held.last,
        counts: held.counts.clone(),
        observed: held.observed,
        ..Stored::default()
    }
}

/// The identity just before another.
pub(super) fn before(identity: Identity) -> Identity {
    match identity.ordinal.checked_sub(1) {
        Some(ordinal) => Identity { ordinal, ..identity },
        None => Identity { record: identity.record.saturating_sub(1), ordinal: u32::MAX },
    }
}
