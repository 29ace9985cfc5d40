//! Results between the engine and the outputs: chunks in memory, blocks in the outbox, and how far each output has got.

use std::{collections::VecDeque, sync::Arc};

use weir_plugin_api::{Chunk, Identity, Lane};

use super::OutboxPlace;
use crate::record::DeliveryCounts;

/// A chunk in memory.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its points.
    pub chunk: Arc<Chunk>,
    /// Last identity in it.
    pub last: Identity,
    /// Points by output.
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
    /// Points by output.
    pub counts: Vec<u32>,
    /// When its oldest chunk was sealed, observed axis.
    pub observed: i64,
}

/// One output's way through one lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
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
            self.held.push_back(Held { last, counts, observed, size, chunk: Arc::new(chunk) });
        }
    }

    /// What output `index` gets next, of records up to `durable`.
    pub fn next(&self, index: usize, durable: u64) -> Next {
        let sent = self.cursors[index].sent;
        if let Some(block) = self.stored.iter().find(|b| b.last > sent && b.counts.get(index).is_some_and(|c| *c > 0)) {
            return block.place.map_or(Next::Nothing, Next::Block);
        }
        let chunk = self.held.iter().find(|h| h.last > sent && h.counts[index] > 0);
        match chunk {
            Some(held) if held.last.record <= durable => Next::Chunk(Arc::clone(&held.chunk), held.chunk.after(sent), held.observed),
            _ => Next::Nothing,
        }
    }

    /// Notes that `chunk` from point `from` on was offered.
    pub fn offered(&mut self, index: usize, chunk: &Chunk, from: usize) {
        let points = u64::from(count(chunk, from, index + 1)[index]);
        let cursor = &mut self.cursors[index];
        cursor.sent = chunk.identity(chunk.len() - 1);
        cursor.in_flight += points;
        cursor.wants = false;
    }

    /// Settles points of an output.
    pub fn settle(&mut self, index: usize, upto: Identity, counts: &DeliveryCounts) {
        let Some(cursor) = self.cursors.get_mut(index) else { return };
        let settled = total(counts);
        cursor.done = cursor.done.max(upto);
        cursor.sent = cursor.sent.max(upto);
        cursor.in_flight = cursor.in_flight.saturating_sub(settled);
        cursor.outstanding = cursor.outstanding.saturating_sub(settled);
        self.drop_done();
    }

    /// Drops what every output has behind it.
    pub fn drop_done(&mut self) {
        let done = |last: Identity, counts: &[u32], cursors: &[Cursor]| {
            counts.iter().zip(cursors).all(|(count, cursor)| *count == 0 || cursor.done >= last)
        };
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

/// All that a delivery settled.
pub fn total(c: &DeliveryCounts) -> u64 {
    c.delivered + c.rejected + c.expired_age + c.expired_bytes + c.expired_disk + c.expired_stale
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
