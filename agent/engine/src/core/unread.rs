//! Blocks of the outbox that the disk could not read: they are asked for again for a while before they count as damaged.
//!
//! Apart from delivery, which knows a block that is there and one that is damaged. A card that hangs on its bus for some seconds is neither:
//! what is given up as damaged is gone for good, and a read that failed costs nothing but time. What was read and is not what was written is
//! damaged at once.

use weir_plugin_api::Lane;

use super::{Core, Effect, Now, OutboxPlace, thin::NOBODY};

/// A block is asked for again after so long, and each time after twice as long.
const AGAIN_FIRST: i64 = 100_000_000;
/// But after so long at most.
const AGAIN_MAX: i64 = 5_000_000_000;
/// One that could not be read for so long is given up.
const PATIENCE: i64 = 60_000_000_000;

/// A block that could not be read.
#[derive(Debug)]
struct Unread {
    lane: Lane,
    place: OutboxPlace,
    /// Reads that failed.
    failed: u32,
    /// Steady time of the first.
    since: i64,
    /// Steady time from which on it may be asked for again.
    again: i64,
}

/// All of them: of those that are asked for, so at most one per output and lane, and one that is thinned.
#[derive(Debug, Default)]
pub(crate) struct Unreadable {
    blocks: Vec<Unread>,
    /// Reads that failed and were, or will be, tried again, since the start.
    pub retries: u64,
}

impl Unreadable {
    /// Whether a block is not to be asked for yet.
    pub(super) fn waits(&self, lane: Lane, place: OutboxPlace, steady: i64) -> bool {
        self.blocks.iter().any(|b| (b.lane, b.place) == (lane, place) && b.again > steady)
    }

    /// Steady time from which on one may be asked for again; `i64::MAX`: none waits.
    pub(super) fn deadline(&self, steady: i64) -> i64 {
        self.blocks.iter().map(|b| b.again).filter(|again| *again > steady).min().unwrap_or(i64::MAX)
    }

    /// A block was read, or is given up: how often that failed before.
    fn settled(&mut self, lane: Lane, place: OutboxPlace) -> u32 {
        self.blocks.extract_if(.., |b| (b.lane, b.place) == (lane, place)).map(|b| b.failed).sum()
    }
}

impl Core {
    /// A block of the outbox was read at last, if it could not be before.
    pub(super) fn note_read(&mut self, lane: Lane, place: OutboxPlace, effects: &mut Vec<Effect>) {
        let failed = self.unreadable.settled(lane, place);
        if failed > 0 {
            let message = format!("an outbox block could be read after all, at the {}. try", failed + 1);
            effects.push(Effect::Log { error: false, message });
        }
    }

    /// The disk could not read a block: it is asked for again later, or given up.
    pub(super) fn outbox_unread(&mut self, now: Now, output: u16, lane: Lane, place: OutboxPlace, reason: &str, effects: &mut Vec<Effect>) {
        let stored = &self.waiting.lanes;
        let there = |lane: Lane, place| stored[lane as usize].stored.iter().any(|b| b.place == Some(place));
        self.unreadable.blocks.retain(|b| there(b.lane, b.place));
        let blocks = &mut self.unreadable.blocks;
        let index = blocks.iter().position(|b| (b.lane, b.place) == (lane, place)).unwrap_or_else(|| {
            blocks.push(Unread { lane, place, failed: 0, since: now.steady, again: now.steady });
            blocks.len() - 1
        });
        let block = &mut blocks[index];
        block.failed += 1;
        block.again = now.steady + (AGAIN_FIRST << (block.failed - 1).min(16)).min(AGAIN_MAX);
        // A dead disk has had its time, and what is in memory must not wait for it.
        if self.failed.is_some() || now.steady - block.since >= PATIENCE {
            let tries = self.unreadable.settled(lane, place);
            let message = format!("outbox block can't be read, given up at the {tries}. try: {reason}");
            effects.push(Effect::Log { error: true, message });
            self.outbox_read(now, output, lane, place, None, effects);
            return;
        }
        if block.failed == 1 {
            let message = format!("outbox block can't be read, which is tried again: {reason}");
            effects.push(Effect::Log { error: false, message });
        }
        self.unreadable.retries += 1;
        if output == NOBODY {
            self.thinning.unread();
        } else {
            self.waiting.lane(lane).cursors[usize::from(output)].reading = false;
        }
    }
}
