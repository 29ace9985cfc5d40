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
    recorded_at: i64,
    /// Latest wall time ever recorded as believable: a clock below it is not set.
    pub wall_max: i64,
}

impl ClockState {
    /// A run that starts now, after `base` observed nanoseconds.
    pub fn start(base: i64, wall_max: i64, now: Now) -> Self {
        Self { base, started: now.steady, wall_max, ..Self::default() }
    }

    /// The same run, its past known better.
    pub fn restart(&mut self, observed: i64, now: Now) {
        (self.base, self.started, self.known) = (observed, now.steady, false);
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
        let quality = if now.wall < self.wall_max { ClockQuality::Unset } else { now.quality };
        let observed = self.observed(now);
        let difference = (offset - self.offset).abs();
        let due = !self.known
            || quality != self.quality
            || difference >= STEP
            || (difference >= DRIFT && observed - self.recorded_at >= DRIFT_EVERY);
        due.then(|| {
            (self.known, self.recorded_at) = (true, observed);
            self.note(offset, quality, now.wall);
            (offset, quality)
        })
    }

    /// A clock record was made, or read back.
    pub fn note(&mut self, offset: i64, quality: ClockQuality, wall: i64) {
        (self.offset, self.quality) = (offset, quality);
        if quality != ClockQuality::Unset {
            self.wall_max = self.wall_max.max(wall);
        }
    }
}
