//! Results between the engine and the outputs: chunks in memory, blocks in the outbox, and how far each output has got.

use std::{collections::VecDeque, sync::Arc};

use weir_plugin_api::{Chunk, Identity, Lane};

use super::{OutboxPlace, thin::Kept};
use crate::record::DeliveryCounts;

/// A chunk in memory.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its points.
    pub chunk: Arc<Chunk>,
    /// Last identity in it.
    pub last: Identity,
    /// Points by output, without those given up.
    pub counts: Vec<u32>,
    /// When it was sealed, observed axis.
    pub observed: i64,
    /// Bytes of memory.
    pub size: usize,
}

/// A block in the outbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Where; unknown until the store has said so.
    pub place: Option<OutboxPlace>,
    /// First identity.
    pub first: Identity,
    /// Last identity.
    pub last: Identity,
    /// Points by output, without those given up.
    pub counts: Vec<u32>,
    /// When its oldest chunk was sealed, observed axis.
    pub observed: i64,
    /// Its file was given up to a full disk: only memory has it.
    pub dropped: bool,
    /// What stays of it, where its file has more: it is written again.
    pub kept: Option<Kept>,
    /// How often it was thinned.
    pub level: u32,
    /// Points in its file, of one that was written again; 0 unknown.
    pub points: u32,
}

/// One output's way through one lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// Settled up to here.
    pub done: Identity,
    /// Offered up to here.
    pub sent: Identity,
    /// Points offered and not settled.
    pub in_flight: u64,
    /// Points routed and not settled.
    pub outstanding: u64,
    /// It waits for an offer.
    pub wants: bool,
    /// A block of the outbox is being read for it.
    pub reading: bool,
    /// Ranges behind `done` that were given up: behind the first identity, up to the second. In order.
    pub gaps: Vec<(Identity, Identity)>,
    /// The record that gave something up last: nothing behind that is offered before it is durable, or a destination that knows where it
    /// stands would after a crash be believed to have it.
    pub gap_record: u64,
}

/// One lane.
#[derive(Clone, Debug, Default)]
pub struct LaneQueue {
    /// Older: blocks in the outbox.
    pub stored: VecDeque<Stored>,
    /// Newer: chunks in memory.
    pub held: VecDeque<Held>,
    /// Cursors by output.
    pub cursors: Vec<Cursor>,
    /// Bytes of memory held.
    pub bytes: usize,
    /// What a point takes of memory, a moving mean; 0 before the first.
    pub point_bytes: usize,
    /// Blocks of the outbox that are on their way to an output, by their last identity: the task has them in memory too. At most what is on
    /// its way to each output.
    pub kept: Vec<(Identity, Arc<Chunk>)>,
}

/// What an output gets next.
#[derive(Clone, Debug)]
pub enum Next {
    /// Nothing it wants is there yet.
    Nothing,
    /// A chunk in memory, from this point on, and when it was sealed.
    Chunk(Arc<Chunk>, usize, i64),
    /// A block of the outbox.
    Block(OutboxPlace),
}

impl Cursor {
    /// Nothing up to `last` is left for this output.
    pub fn pass(&mut self, last: Identity) {
        self.sent = self.sent.max(last);
        self.advance();
    }

    /// Moves `done` over what needs no settling: gaps it has reached, and points that were not for this output.
    fn advance(&mut self) {
        if self.in_flight == 0 {
            self.done = self.done.max(self.sent);
        }
        while let Some((_, upto)) = self.gaps.first().copied().filter(|(after, _)| *after <= self.done) {
            self.done = self.done.max(upto);
            self.gaps.remove(0);
        }
        self.sent = self.sent.max(self.done);
    }
}

impl LaneQueue {
    /// A lane for this many outputs.
    pub fn new(outputs: usize) -> Self {
        Self { cursors: vec![Cursor::default(); outputs], ..Self::default() }
    }

    /// Adds a chunk that left the engine.
    pub fn push(&mut self, chunk: Chunk, observed: i64) {
        let counts = count(&chunk, 0, self.cursors.len());
        let last = chunk.identity(chunk.len() - 1);
        let mut anybody = false;
        for (index, cursor) in self.cursors.iter_mut().enumerate() {
            cursor.outstanding += u64::from(counts[index]);
            anybody |= counts[index] > 0;
        }
        if anybody {
            let size = chunk.size();
            self.bytes += size;
            let each = size / chunk.len().max(1);
            self.point_bytes = if self.point_bytes == 0 { each } else { (self.point_bytes * 7 + each) / 8 }.max(1);
            self.held.push_back(Held { last, counts, observed, size, chunk: Arc::new(chunk) });
        }
    }

    /// What output `index` gets next, of records up to `durable`.
    pub fn next(&mut self, index: usize, durable: u64) -> Next {
        loop {
            let sent = self.cursors[index].sent;
            if let Some(block) = self.stored.iter().find(|b| b.last > sent && b.counts.get(index).is_some_and(|c| *c > 0)) {
                return block.place.map_or(Next::Nothing, Next::Block);
            }
            let Some(held) = self.held.iter().find(|h| h.last > sent && h.counts[index] > 0) else { return Next::Nothing };
            if held.last.record > durable {
                return Next::Nothing;
            }
            let (chunk, sealed) = (Arc::clone(&held.chunk), held.observed);
            // Nothing of it may be left for this output: then the cursor has moved behind it.
            if let Some((chunk, from)) = self.take(index, &chunk) {
                return Next::Chunk(chunk, from, sealed);
            }
        }
    }

    /// What `chunk` still has for an output, up to the next gap, and from which point on; counted as offered.
    pub fn take(&mut self, index: usize, chunk: &Arc<Chunk>) -> Option<(Arc<Chunk>, usize)> {
        let cursor = &mut self.cursors[index];
        let last = chunk.identity(chunk.len() - 1);
        loop {
            let from = chunk.after(cursor.sent);
            if from >= chunk.len() {
                cursor.advance();
                return None;
            }
            let gap = cursor.gaps.iter().find(|(after, upto)| *upto > cursor.sent && *after < last).copied();
            let end = gap.map_or(chunk.len(), |(after, _)| chunk.after(after).max(from));
            let points = (from..end).filter(|point| chunk.route(*point) & 1 << index != 0).count() as u64;
            cursor.sent = gap.map_or(last, |(_, upto)| upto);
            if points > 0 {
                cursor.in_flight += points;
                cursor.wants = false;
                let offered = if end < chunk.len() { Arc::new(head(chunk, end)) } else { Arc::clone(chunk) };
                return Some((offered, from));
            }
        }
    }

    /// Settles points of an output.
    pub fn settle(&mut self, index: usize, upto: Identity, counts: &DeliveryCounts) {
        let Some(cursor) = self.cursors.get_mut(index) else { return };
        let settled = total(counts);
        cursor.done = cursor.done.max(upto);
        cursor.sent = cursor.sent.max(upto);
        cursor.in_flight = cursor.in_flight.saturating_sub(settled);
        cursor.outstanding = cursor.outstanding.saturating_sub(settled);
        cursor.advance();
        self.drop_done();
    }

    /// Gives up points of an output that it has not been offered: behind the first identity, up to the second.
    pub fn give_up(&mut self, index: usize, range: (Identity, Identity), counts: &DeliveryCounts) {
        let Some(cursor) = self.cursors.get_mut(index) else { return };
        let points = total(counts);
        cursor.outstanding = cursor.outstanding.saturating_sub(points);
        match cursor.gaps.last_mut() {
            Some(gap) if gap.1 >= range.0 => gap.1 = gap.1.max(range.1),
            _ => cursor.gaps.push(range),
        }
        if cursor.sent >= range.0 {
            cursor.sent = cursor.sent.max(range.1);
        }
        cursor.advance();
        let stored = self.stored.iter_mut().map(|b| (b.first, b.last, &mut b.counts));
        let held = self.held.iter_mut().map(|h| (h.chunk.identity(0), h.last, &mut h.counts));
        take_off(stored.chain(held), index, range, points);
        self.drop_done();
    }

    /// Points of a block that an output has not been offered: all that wait less those behind the block.
    pub fn unsent(&self, index: usize, last: Identity) -> u64 {
        let cursor = &self.cursors[index];
        if last <= cursor.sent {
            return 0;
        }
        let stored = self.stored.iter().filter(|b| b.last > last).map(|b| u64::from(b.counts[index]));
        let held = self.held.iter().filter(|h| h.last > last).map(|h| u64::from(h.counts[index]));
        (cursor.outstanding.saturating_sub(cursor.in_flight)).saturating_sub(stored.chain(held).sum())
    }

    /// Keeps a block that is, or will be, on its way to an output, so that it can be moved.
    pub fn keep(&mut self, chunk: &Arc<Chunk>) {
        let last = chunk.identity(chunk.len() - 1);
        if is_on_its_way(&self.stored, &self.cursors, last) && self.kept_chunk(last).is_none() {
            self.kept.push((last, Arc::clone(chunk)));
        }
    }

    /// Blocks in front of the lane that nothing but an output's task needs, in segments that would be free without them or are gone: index in
    /// `stored` and chunk.
    pub fn pinning(&self) -> Vec<(usize, Arc<Chunk>)> {
        let open = self.stored.iter().position(|b| self.can_be_given_up(b)).unwrap_or(self.stored.len());
        let needed = self.stored.get(open).and_then(|b| b.place).map_or(0, |p| p.segment);
        let front = self.stored.iter().enumerate().take(open);
        front
            .filter(|(_, b)| b.dropped || b.place.is_some_and(|p| p.segment < needed))
            .filter_map(|(index, b)| self.kept_chunk(b.last).map(|chunk| (index, Arc::clone(chunk))))
            .collect()
    }

    fn kept_chunk(&self, block: Identity) -> Option<&Arc<Chunk>> {
        self.kept.iter().find(|(last, _)| *last == block).map(|(_, chunk)| chunk)
    }

    /// The lowest segment that holds something an output still needs; everything below it is free. What only tasks of `dead` outputs hold,
    /// and memory does too, is not counted.
    pub fn free_below(&self, dead: u64) -> u64 {
        let needed = self.stored.iter().filter(|b| !b.dropped && !self.can_be_dropped(b, dead));
        needed.filter_map(|b| b.place).map(|p| p.segment).min().unwrap_or(u64::MAX)
    }

    /// Whether a file of a segment below this one has something that only an output's task has besides.
    pub fn is_held_below(&self, below: u64) -> bool {
        let held = |b: &Stored| b.counts.iter().zip(&self.cursors).any(|(count, cursor)| *count > 0 && cursor.done < b.last);
        self.stored.iter().any(|b| !b.dropped && b.place.is_some_and(|p| p.segment < below) && held(b))
    }

    /// The last result in segments below this one.
    pub fn last_below(&self, below: u64) -> Identity {
        let gone = self.stored.iter().filter(|b| b.place.is_some_and(|p| p.segment < below));
        gone.map(|b| b.last).max().unwrap_or_default()
    }

    /// Segments below this one are removed: what was not counted as needed is in memory only.
    pub fn drop_below(&mut self, below: u64) {
        self.stored.iter_mut().filter(|b| b.place.is_some_and(|p| p.segment < below)).for_each(|b| b.dropped = true);
    }

    fn can_be_dropped(&self, block: &Stored, dead: u64) -> bool {
        let mut holders = block.counts.iter().zip(&self.cursors).enumerate().filter(|(_, (count, c))| **count > 0 && c.done < block.last);
        !self.can_be_given_up(block) && holders.all(|(index, _)| dead & 1 << index != 0) && self.kept_chunk(block.last).is_some()
    }

    /// Bytes on disk of what an output has not been offered.
    pub fn unoffered_disk_bytes(&self, index: usize) -> u64 {
        let sent = self.cursors[index].sent;
        let behind = self.stored.iter().rev().take_while(|b| b.last > sent).filter(|b| b.counts.get(index).is_some_and(|c| *c > 0));
        behind.filter_map(|b| b.place).map(|p| u64::from(p.bytes)).sum()
    }

    /// The oldest segment with a block that one of these outputs has not been offered whole.
    pub fn oldest_segment(&self, outputs: u64) -> Option<u64> {
        let wanted = |b: &&Stored| {
            let waits =
                |(index, (count, cursor)): (usize, (&u32, &Cursor))| outputs & 1 << index != 0 && *count > 0 && cursor.sent < b.last;
            b.counts.iter().zip(&self.cursors).enumerate().any(waits)
        };
        self.stored.iter().filter(wanted).filter_map(|b| b.place).map(|p| p.segment).min()
    }

    /// Whether the store has it and some output has not been offered all of it.
    pub fn can_be_given_up(&self, block: &Stored) -> bool {
        block.place.is_some() && block.counts.iter().zip(&self.cursors).any(|(count, cursor)| *count > 0 && cursor.sent < block.last)
    }

    /// Drops what every output has behind it.
    pub fn drop_done(&mut self) {
        let done = |last: Identity, counts: &[u32], cursors: &[Cursor]| {
            counts.iter().zip(cursors).all(|(count, cursor)| *count == 0 || cursor.done >= last)
        };
        self.kept.retain(|(last, _)| is_on_its_way(&self.stored, &self.cursors, *last));
        // What was given up lies behind what is on its way and must not wait for it.
        let gaps = self.cursors.iter().any(|c| !c.gaps.is_empty());
        if gaps {
            let (cursors, bytes) = (&self.cursors, &mut self.bytes);
            self.stored.retain(|b| b.place.is_none() || !done(b.last, &b.counts, cursors));
            self.held.retain(|h| {
                let keep = !done(h.last, &h.counts, cursors);
                *bytes -= if keep { 0 } else { h.size };
                keep
            });
            return;
        }
        while self.held.front().is_some_and(|h| done(h.last, &h.counts, &self.cursors)) {
            if let Some(held) = self.held.pop_front() {
                self.bytes -= held.size;
            }
        }
        while self.stored.front().is_some_and(|b| b.place.is_some() && done(b.last, &b.counts, &self.cursors)) {
            self.stored.pop_front();
        }
    }

    /// Points of an output in the outbox that were not offered yet; a block it is in the middle of counts with what memory does not explain.
    pub fn waiting_disk(&self, index: usize) -> u64 {
        let cursor = &self.cursors[index];
        let memory: u64 = self.held.iter().filter(|h| h.last > cursor.sent).map(|h| u64::from(h.counts[index])).sum();
        (cursor.outstanding - cursor.in_flight.min(cursor.outstanding)).saturating_sub(memory)
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> u64 {
        self.stored.iter().filter_map(|b| b.place).map(|p| u64::from(p.bytes)).sum()
    }

    /// When the oldest that an output still waits for was sealed.
    pub fn oldest(&self, index: usize) -> Option<i64> {
        let done = self.cursors[index].done;
        let stored = self.stored.iter().find(|b| b.last > done && b.counts.get(index).is_some_and(|c| *c > 0)).map(|b| b.observed);
        stored.or_else(|| self.held.iter().find(|h| h.last > done && h.counts[index] > 0).map(|h| h.observed))
    }
}

/// Whether an output's task has points of the block that ends so. Who holds something older passes over what is given up meanwhile without
/// ever having had it: a block that has no points left for an output is not on its way there.
fn is_on_its_way(stored: &VecDeque<Stored>, cursors: &[Cursor], last: Identity) -> bool {
    let block = stored.iter().find(|b| b.last == last);
    let has = |block: &Stored, (count, cursor): (&u32, &Cursor)| {
        *count > 0 && cursor.in_flight > 0 && cursor.sent >= block.first && cursor.done < block.last
    };
    block.is_some_and(|block| block.counts.iter().zip(cursors).any(|holder| has(block, holder)))
}

/// Takes points that were given up off the counts of the blocks they were in: first from those that lie in the range, the rest from
/// the one that reaches over it.
pub fn take_off<'a>(
    blocks: impl Iterator<Item = (Identity, Identity, &'a mut Vec<u32>)>,
    index: usize,
    (after, upto): (Identity, Identity),
    points: u64,
) {
    let (mut left, mut partial) = (points, Vec::new());
    for (first, last, counts) in blocks {
        if last <= after || first > upto {
            continue;
        }
        let Some(count) = counts.get_mut(index) else { continue };
        if first > after && last <= upto {
            left = left.saturating_sub(u64::from(*count));
            *count = 0;
        } else {
            partial.push(count);
        }
    }
    for count in partial {
        let taken = left.min(u64::from(*count));
        *count -= taken as u32;
        left -= taken;
    }
}

/// The first points of a chunk.
fn head(chunk: &Chunk, points: usize) -> Chunk {
    let mut head = chunk.clone();
    if let Some(cells) = chunk.starts.get(points) {
        head.cells.truncate(*cells as usize);
        head.starts.truncate(points);
        head.identities.retain(|(start, _)| (*start as usize) < points);
    }
    head
}

/// The points of a chunk from one on.
pub fn tail(chunk: &Chunk, from: usize) -> Chunk {
    let mut tail = chunk.clone();
    let cells = chunk.starts.get(from).map_or(chunk.cells.len(), |start| *start as usize);
    tail.cells.drain(..cells);
    tail.starts = chunk.starts[from..].iter().map(|start| start - cells as u32).collect();
    let first = [(0, chunk.identity(from))].into_iter();
    let behind = chunk.identities.iter().filter(|(start, _)| *start as usize > from);
    tail.identities = first.chain(behind.map(|(start, identity)| (start - from as u32, *identity))).collect();
    tail
}

/// All that a delivery settled.
pub fn total(c: &DeliveryCounts) -> u64 {
    c.delivered + c.rejected + c.expired_age + c.expired_bytes + c.expired_disk + c.expired_stale + c.lost_outbox
}

/// Points of `chunk` from point `from` on, by output.
pub fn count(chunk: &Chunk, from: usize, outputs: usize) -> Vec<u32> {
    let mut counts = vec![0; outputs];
    let all = chunk.routes.iter().fold(u64::MAX, |all, route| all & route);
    let any = chunk.routes.iter().fold(0, |any, route| any | route);
    let points = (chunk.len() - from) as u32;
    for (index, count) in counts.iter_mut().enumerate() {
        let bit = 1u64 << index;
        *count = if all & bit != 0 {
            points
        } else if any & bit == 0 {
            0
        } else {
            (from..chunk.len()).filter(|point| chunk.route(*point) & bit != 0).count() as u32
        };
    }
    counts
}

/// The two lanes.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    /// By [`Lane`].
    pub lanes: [LaneQueue; 2],
}

impl Waiting {
    /// Lanes for this many outputs.
    pub fn new(outputs: usize) -> Self {
        Self { lanes: [LaneQueue::new(outputs), LaneQueue::new(outputs)] }
    }

    /// A lane.
    pub fn lane(&mut self, lane: Lane) -> &mut LaneQueue {
        &mut self.lanes[lane as usize]
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.lanes.iter().map(|l| l.bytes).sum()
    }
}
