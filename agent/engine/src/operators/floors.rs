//! How far the windows of all groups have come, small enough for a record: a start that finds no state begins above that, so that nothing
//! that was emitted is replaced by a result of fewer points.

use std::sync::Arc;

use weir_plugin_api::{Cell, Series};

use super::{
    Operators,
    time::{TIME_BOUND, WallClock},
    window::{WindowOperator, ended::Newest},
};
use crate::{
    record::{ClockThen, Stamp},
    results::Results,
    series::SeriesTable,
};

/// Groups that are named, each with its own floor; of more than that there is one floor for all. Of groups that are beyond belief no more
/// than these are remembered.
const NAMED_MAX: usize = 512;

/// Results up to which there may have been such as nothing is left of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Floors {
    /// Time of the newest one of any group that is not named; [`i64::MIN`]: there was none.
    pub common: i64,
    /// The same of groups that are, by the series of their results.
    pub groups: Vec<(Arc<Series>, i64)>,
}

impl Default for Floors {
    fn default() -> Self {
        Self { common: i64::MIN, groups: Vec::new() }
    }
}

impl Floors {
    /// Everything begins above these as well.
    pub fn raise(&mut self, more: Floors) {
        self.common = self.common.max(more.common);
        self.groups.iter_mut().for_each(|(_, newest)| *newest = (*newest).max(more.common));
        self.groups.extend(more.groups);
    }
}

/// What a look through a journal finds that can't be made as it was.
#[derive(Clone, Debug)]
pub(super) struct Missed {
    /// No result is to be sent up to these.
    pub floors: Floors,
    /// Steady time of the newest reading that waited for a clock and is lost; [`i64::MIN`]: none.
    pub held: i64,
}

impl Operators {
    /// How far every group has come. Nothing is believed to be beyond `newest_max` of what stands for all groups, where it is known: a
    /// device whose clock is off by years keeps its floor to itself.
    pub fn floors(&self, newest_max: Option<i64>) -> Floors {
        let windows = &self.stage.windows;
        let common = windows.iter().map(WindowOperator::common).max().unwrap_or(i64::MIN);
        let mut floors = Floors { common, groups: Vec::new() };
        let all = windows.iter().map(WindowOperator::groups_known).sum::<usize>();
        for window in windows {
            window.each_reached(&self.stage.partitions, |series, time| {
                let believed = newest_max.is_none_or(|max| time <= max);
                if all <= NAMED_MAX || !believed && floors.groups.len() < NAMED_MAX {
                    floors.groups.push((Arc::clone(series), time));
                } else if believed {
                    floors.common = floors.common.max(time);
                }
            });
        }
        floors
    }

    /// From now on it is noted what lacks a point: for a look through a journal whose state is lost.
    pub fn note_missed(&mut self) {
        self.missed.get_or_insert(Missed { floors: Floors::default(), held: i64::MIN });
        self.stage.windows.iter_mut().for_each(WindowOperator::note_missed);
    }

    /// Results that lack a point which there may have been room or time for with the state that is lost. Nothing at or below them is to be
    /// emitted: what was sent then may have had it.
    pub fn missed(&self) -> Floors {
        let mut floors = self.missed.as_ref().map_or_else(Floors::default, |missed| missed.floors.clone());
        for window in self.stage.windows.iter().filter(|_| self.missed.is_some()) {
            window.each_missed(|series, time| floors.groups.push((Arc::clone(series), time)));
        }
        floors
    }

    /// Readings that waited for a clock are lost: dated as they would be now they lack in windows. Whether they would be `dated` for good.
    pub(super) fn miss_held(&mut self, dated: bool) {
        let Some(missed) = self.missed.as_mut().filter(|missed| missed.held > i64::MIN) else { return };
        let time = self.clock.wall(missed.held).clamp(-TIME_BOUND, TIME_BOUND);
        missed.floors.common = self.stage.windows.iter().map(|window| window.newest_result_of(time)).fold(missed.floors.common, i64::max);
        if dated {
            missed.held = i64::MIN;
        }
    }

    /// A point, or a part of it, is refused before it comes to any window.
    #[cold]
    pub(super) fn miss(&mut self, cells: &[Cell], table: &SeriesTable) {
        let Some(first) = cells.first().filter(|_| self.missed.is_some()) else { return };
        let time = if first.is_untimed() { self.clock.wall(first.time) } else { first.time };
        let provisional = first.is_untimed() && !self.clock.is_set();
        self.stage.windows.iter_mut().for_each(|window| window.miss_series(first.series, provisional, time, table));
    }

    /// The clock, to say with floors.
    pub fn clock_then(&self) -> ClockThen {
        self.clock.then(self.held.len() as u64, self.held.newest())
    }

    /// What was read from here on is dated by this clock, which floors say at their place. It is the one there is, unless records in front of
    /// them are missing; what waits for a clock from before those does so no longer.
    pub fn believe(&mut self, stamp: Stamp, then: &ClockThen, table: &SeriesTable, results: &mut Results) {
        if (then.offset, then.quality, then.boot) != (self.clock.offset, self.clock.quality, self.clock.boot) {
            if !self.held.is_empty() {
                self.release(stamp, true, table, results);
            }
            self.clock = WallClock::of(then);
        }
        if let Some(missed) = self.missed.as_mut().filter(|_| then.held > self.held.len() as u64) {
            missed.held = missed.held.max(then.newest_held);
            self.miss_held(false);
        }
    }

    /// Nothing is emitted at or below these. Before the first record.
    pub fn start_above(&mut self, floors: &Floors) {
        let newest: Vec<Newest> =
            floors.groups.iter().map(|(series, time)| Newest { series: Arc::clone(series), time: *time, observed: i64::MIN }).collect();
        for window in &mut self.stage.windows {
            window.start_above(&newest);
            window.start_all_above(floors.common);
        }
    }
}
