//! The core's sense of time: the observed axis across runs, and when a change of the wall clock becomes a record.

use super::Now;
use crate::record::ClockQuality;

/// A step: recorded at once, nanoseconds.
const STEP: i64 = 500_000_000;
/// Drift: recorded when larger than this …
const DRIFT: i64 = 1_000_000;
/// … and the last record is this old, observed nanoseconds.
const DRIFT_EVERY: i64 = 10_000_000_000;

/// Time as the core has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClockState {
    /// Observed nanoseconds of all runs before this one.
    base: i64,
    /// Steady nanoseconds at which this run started.
    started: i64,
    /// wall − steady as last recorded.
    pub offset: i64,
    /// Quality as last recorded.
    pub quality: ClockQuality,
    /// Whether anything was recorded in this run.
    known: bool,
    /// Which boot this is; 0: nobody knows.
    pub boot: u64,
    recorded_at: i64,
    /// Wall time of the last record, of those made while it could be believed.
    pub wall_last: i64,
    /// That of the last record of earlier runs: a clock below it is not set, unless the kernel says it is synchronised. Within a run going
    /// back is a step.
    unset_below: i64,
}

impl ClockState {
    /// A run that starts now, after `base` observed nanoseconds.
    pub fn start(base: i64, wall_last: i64, now: Now) -> Self {
        Self { base, started: now.steady, wall_last, unset_below: wall_last, ..Self::default() }
    }

    /// The same run, its past known better.
    pub fn restart(&mut self, observed: i64, now: Now) {
        (self.base, self.started, self.known) = (observed, now.steady, false);
        self.unset_below = self.wall_last;
    }

    /// The observed axis.
    pub fn observed(&self, now: Now) -> i64 {
        self.base + (now.steady - self.started).max(0)
    }

    /// The steady time at which the observed axis reaches `observed`.
    pub fn steady_at(&self, observed: i64) -> i64 {
        observed.saturating_sub(self.base).saturating_add(self.started)
    }

    /// The offset and quality to record, if the clocks have changed enough.
    pub fn change(&mut self, now: Now) -> Option<(i64, ClockQuality)> {
        let offset = now.wall - now.steady;
        let unset = now.wall < self.unset_below && now.quality != ClockQuality::Synced;
        let quality = if unset { ClockQuality::Unset } else { now.quality };
        let observed = self.observed(now);
        let difference = (offset - self.offset).abs();
        let due = !self.known
            || quality != self.quality
            || difference >= STEP
            || (difference >= DRIFT && observed - self.recorded_at >= DRIFT_EVERY);
        due.then(|| {
            (self.known, self.recorded_at) = (true, observed);
            self.note(offset, quality);
            (offset, quality)
        })
    }

    /// A clock record was made, or read back.
    pub fn note(&mut self, offset: i64, quality: ClockQuality) {
        (self.offset, self.quality) = (offset, quality);
    }

    /// A record was made at this steady time of its boot, or read back.
    pub fn seen(&mut self, steady: i64) {
        if self.quality != ClockQuality::Unset {
            self.wall_last = self.offset.saturating_add(steady);
        }
    }
}
