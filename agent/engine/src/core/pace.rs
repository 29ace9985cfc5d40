//! Which outputs keep up: who makes the inputs wait, who is dead and makes nobody wait, and who pays when a full disk needs room.
//!
//! An output is dead when a write did not get through, or when it has had its hands full for long and settled nothing. While more waits for a
//! living one than memory is meant for, inputs that can wait are left to wait: the disk is for outages, not for an output that is merely slower.
//! What piled up while an output was dead is nobody's hurry: until it has caught up it makes nobody wait, unless its results are about to be
//! given up. Nothing here is state: it decides when something is taken in, never what comes of it.

use weir_plugin_api::Lane;

use super::{Core, Now, waiting::LaneQueue};

/// An output with its hands full that settles nothing for this long is dead, nanoseconds.
const PATIENCE: i64 = 10_000_000_000;

/// How an output gets on.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    /// Steady time at which it last took or settled something.
    moved: i64,
    /// Its last write did not get through.
    down: bool,
    /// It has been dead, or the agent was, and it has not caught up since.
    behind: bool,
}

impl Pace {
    /// At a start: what waits from before is no reason to hurry.
    pub fn start(steady: i64) -> Self {
        Self { moved: steady, down: false, behind: true }
    }

    /// It took work.
    pub fn took(&mut self, steady: i64) {
        self.moved = steady;
    }

    /// It settled something.
    pub fn settled(&mut self, steady: i64) {
        (self.moved, self.down) = (steady, false);
    }

    /// A write did not get through.
    pub fn failed(&mut self) {
        self.down = true;
    }
}

impl Core {
    /// Whether batches of inputs that can wait should stay in their rings: an output that is alive has more waiting than it should.
    pub fn holds_back(&self) -> bool {
        self.held_until.is_some()
    }

    /// Looks at every output after a step.
    pub(super) fn note_pace(&mut self, now: Now) {
        let bound = self.unoffered_max();
        let mut until = None;
        for index in 0..self.pace.len() {
            if self.is_dead(index, now.steady) {
                self.pace[index].behind = true;
                continue;
            }
            let waits = self.unoffered(index);
            self.pace[index].behind &= waits > bound;
            if waits > 0 && self.presses(index, waits > bound) {
                // One that asks for more waits for the disk, and that answers by itself.
                let dead_at = if self.results().cursors[index].wants { i64::MAX } else { self.pace[index].moved.saturating_add(PATIENCE) };
                until = until.max(Some(dead_at));
            }
        }
        self.held_until = until;
    }

    /// When inputs are no longer held back though nothing happens; `i64::MAX`: never.
    pub(super) fn pace_deadline(&self) -> i64 {
        self.held_until.unwrap_or(i64::MAX)
    }

    /// Outputs that are dead, a bit each.
    pub(super) fn dead(&self, steady: i64) -> u64 {
        (0..self.pace.len()).filter(|index| self.is_dead(*index, steady)).fold(0, |dead, index| dead | 1 << index)
    }

    fn is_dead(&self, index: usize, steady: i64) -> bool {
        let pace = &self.pace[index];
        let alerts_only = !self.spec.outputs[index].results && self.waiting.lanes[Lane::Alerts as usize].cursors[index].wants;
        let hungry = self.results().cursors[index].wants || alerts_only;
        pace.down || (!hungry && steady.saturating_sub(pace.moved) >= PATIENCE)
    }

    /// Whether inputs should wait for this output, which is alive and has something waiting.
    fn presses(&self, index: usize, much: bool) -> bool {
        let limit = self.spec.outputs[index].waiting_points_max;
        let near = self.spec.storage.outbox_bytes_max / 4 * 3;
        let queue = self.results();
        much && !self.pace[index].behind
            || limit > 0 && queue.cursors[index].outstanding > limit / 2
            || self.checkpoint.no_room && queue.unoffered_disk_bytes(index) > 0
            || queue.disk_bytes() > near && queue.unoffered_disk_bytes(index) > near
    }

    /// Bytes that may wait for an output that keeps up: the rest of memory is for what is on its way.
    fn unoffered_max(&self) -> usize {
        let disk = usize::try_from(self.spec.storage.outbox_bytes_max / 4).unwrap_or(usize::MAX);
        disk.min(self.spec.limits.results_waiting_bytes_max / 2)
    }

    /// Bytes of memory that what an output has not taken is worth, wherever it is. What is not durable yet counts: a slow disk is slow too.
    fn unoffered(&self, index: usize) -> usize {
        let queue = self.results();
        let cursor = &queue.cursors[index];
        let points = cursor.outstanding.saturating_sub(cursor.in_flight);
        usize::try_from(points).unwrap_or(usize::MAX).saturating_mul(queue.point_bytes)
    }

    fn results(&self) -> &LaneQueue {
        &self.waiting.lanes[Lane::Results as usize]
    }
}
