//! Windows that lack a point: of groups that found no room, of values of another type, and of points that came when others had already closed
//! their windows. Noted only while a journal is looked through whose state is lost. With that state there may have been room and time for
//! them, so that the result that was sent then has more points than the one that would be sent now.

use std::{collections::BTreeMap, sync::Arc};

use weir_plugin_api::Series;

use super::{Outcome, PointRef, WindowOperator, ended::Key, group::Group};
use crate::{operators::time::Partitions, series::SeriesTable};

/// By the series of its results: start of the newest window of a group that lacks a point.
pub(super) type Missed = BTreeMap<Key, i64>;

impl WindowOperator {
    /// From now on it is noted what lacks a point.
    pub fn note_missed(&mut self) {
        self.missed.get_or_insert_default();
    }

    /// Series and times of the results of windows of which none is to be sent, and none before them: each lacks a point.
    pub fn each_missed(&self, mut take: impl FnMut(&Arc<Series>, i64)) {
        for (key, start) in self.missed.iter().flatten() {
            take(&key.0, if self.window().time_is_end { start.saturating_add(self.grid.period) } else { *start });
        }
    }

    /// Time of the newest result a point of this time is in.
    pub fn newest_result_of(&self, time: i64) -> i64 {
        let start = self.grid.pane(time);
        if self.window().time_is_end { start.saturating_add(self.grid.period) } else { start }
    }

    /// A point of a group was refused, or came too late.
    #[cold]
    pub(super) fn miss(&mut self, group: u32, point: &PointRef<'_>, outcome: Outcome) {
        let Group { floor, series, partitions, .. } = &self.groups[group as usize];
        let start = self.grid.pane(point.time);
        // With one partition it was as late with a state: that one was no less far then.
        if self.missed.is_none() || start < *floor || matches!(outcome, Outcome::Late(_)) && partitions.len() < 2 {
            return;
        }
        let series = Arc::clone(series);
        self.note(series, start);
    }

    /// A point came into a pane over which windows are closed already; some of them may be let go.
    #[cold]
    pub(super) fn miss_closed(&mut self, group: u32, pane: i64, partitions: &Partitions) {
        let (grid, state) = (self.grid, &self.groups[group as usize]);
        if self.missed.is_none() || state.partitions.len() < 2 {
            return;
        }
        let watermark = state.watermark(partitions, grid.lateness).saturating_sub(grid.allowed);
        let start = pane.min(grid.first_ending_after(watermark).saturating_sub(grid.every));
        if start >= grid.first_window(pane).max(state.floor) {
            let series = Arc::clone(&state.series);
            self.note(series, start);
        }
    }

    /// A point, or a part of it, never came here.
    #[cold]
    pub fn miss_series(&mut self, series: u32, provisional: bool, time: i64, table: &SeriesTable) {
        let (window, series) = (&self.spec.windows[self.index], table.series(series));
        if self.missed.is_some() && window.filter.selects(series.measurement(), series.tags()) {
            let key = Arc::new(self.result_series(series, provisional));
            self.note(key, self.grid.pane(time));
        }
    }

    fn note(&mut self, series: Arc<Series>, start: i64) {
        let newest = self.missed.get_or_insert_default().entry(Key(series)).or_insert(start);
        *newest = start.max(*newest);
    }
}
