//! A group: its fields, its panes and how far its watermark has come; and the arithmetic of windows on a line.

use std::sync::Arc;

use weir_plugin_api::Series;

use super::{aggregate::Class, pane::Pane};
use crate::{operators::time::Partitions, spec::WindowSpec};

/// Where windows lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub every: i64,
    pub period: i64,
    align: i64,
    pub lateness: i64,
    pub allowed: i64,
}

impl Grid {
    pub fn new(spec: &WindowSpec) -> Self {
        let every = spec.every.max(1);
        Self {
            every,
            period: spec.period.max(every),
            align: spec.align.rem_euclid(every),
            lateness: spec.lateness.max(0),
            allowed: spec.allowed_lateness.max(0),
        }
    }

    /// Start of the pane that holds `time`.
    pub fn pane(&self, time: i64) -> i64 {
        let shifted = time.saturating_sub(self.align);
        shifted.div_euclid(self.every).saturating_mul(self.every).saturating_add(self.align)
    }

    /// Start of the first window that covers the pane at `start`.
    pub fn first_window(&self, start: i64) -> i64 {
        start.saturating_sub(self.period - self.every)
    }

    pub fn end(&self, start: i64) -> i64 {
        start.saturating_add(self.period)
    }

    /// Start of the first window whose end lies after `time`.
    pub fn first_ending_after(&self, time: i64) -> i64 {
        if time == i64::MIN { i64::MIN } else { self.pane(time.saturating_sub(self.period)).saturating_add(self.every) }
    }

    /// When a pane is freed: its last window can no longer be merged into.
    pub fn free(&self, start: i64) -> i64 {
        self.end(start).saturating_add(self.allowed)
    }
}

/// One field of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Field id.
    pub field: u16,
    pub class: Class,
}

/// The fields of a group, each at the place of its words in panes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields {
    slots: Vec<Slot>,
    /// An id is not greater than one before it: those of a message mostly come in the order in which they got their ids.
    unordered: bool,
}

impl Fields {
    /// The place of a field, `near` being the likeliest; in the common order it is found without looking at each.
    #[inline]
    pub fn find(&self, field: u16, near: usize) -> Option<usize> {
        if self.slots.get(near).is_some_and(|slot| slot.field == field) {
            return Some(near);
        }
        if self.unordered {
            return self.slots.iter().position(|slot| slot.field == field);
        }
        self.slots.binary_search_by_key(&field, |slot| slot.field).ok()
    }

    /// Appends a field.
    pub fn push(&mut self, slot: Slot) {
        self.unordered |= self.slots.last().is_some_and(|last| last.field >= slot.field);
        self.slots.push(slot);
    }
}

impl std::ops::Deref for Fields {
    type Target = [Slot];

    fn deref(&self) -> &[Slot] {
        &self.slots
    }
}

/// What must be remembered of a window that was emitted and may be again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Emitted {
    pub start: i64,
    /// Revision of the last emission; `None`: closed while it was empty, or emitted only early.
    pub revision: Option<u32>,
    /// Points in it at the last emission.
    pub points: u64,
    /// When, observed axis.
    pub observed: i64,
    /// A point has come since.
    pub dirty: bool,
}

/// One group.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// Series of its results; it is the group's key too.
    pub series: Arc<Series>,
    pub route: u64,
    /// Watermark as far as it was looked at: it never goes back, and whatever ends at or below it has been dealt with.
    pub watermark: i64,
    /// Windows that start below it are never emitted.
    pub floor: i64,
    /// Watermark at which something has to be done, [`i64::MAX`] without panes.
    pub due: i64,
    /// Which of its partitions keeps the watermark below `due`.
    pub watch: u32,
    /// Partitions that ever fed it.
    pub partitions: Vec<u32>,
    pub fields: Fields,
    /// Ascending by start.
    pub panes: Vec<Pane>,
    /// Ascending by start.
    pub emitted: Vec<Emitted>,
    /// Last accepted point, observed axis.
    pub observed: i64,
    /// Waits in the operator's list of groups with re-opened windows.
    pub listed: bool,
}

/// What a look at a group's partitions tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// This one (position among the group's) is not far enough.
    Blocked(u32),
    /// All that speak are far enough: the watermark.
    Reached(i64),
    /// None speaks.
    Silent,
}

impl Group {
    pub fn new(series: Arc<Series>, route: u64) -> Self {
        Self {
            series,
            route,
            watermark: i64::MIN,
            floor: i64::MIN,
            due: i64::MAX,
            watch: 0,
            partitions: Vec::new(),
            fields: Fields::default(),
            panes: Vec::new(),
            emitted: Vec::new(),
            observed: i64::MIN,
            listed: false,
        }
    }

    /// Looks for a partition that keeps the watermark below `due`, from the one that did so last: each is passed once per `due`.
    pub fn progress(&self, partitions: &Partitions, lateness: i64) -> Progress {
        let n = self.partitions.len();
        for step in 0..n {
            let at = (self.watch as usize + step) % n;
            let partition = partitions.get(self.partitions[at]);
            if !partition.idle && partition.max.saturating_sub(lateness) < self.due {
                return Progress::Blocked(at as u32);
            }
        }
        self.minimum(partitions, lateness).map_or(Progress::Silent, Progress::Reached)
    }

    /// The watermark its speaking partitions give now.
    pub fn minimum(&self, partitions: &Partitions, lateness: i64) -> Option<i64> {
        let speaking = self.partitions.iter().map(|p| partitions.get(*p)).filter(|p| !p.idle);
        speaking.map(|p| p.max.saturating_sub(lateness)).min()
    }

    /// The watermark as its definition has it, now.
    pub fn watermark(&self, partitions: &Partitions, lateness: i64) -> i64 {
        self.minimum(partitions, lateness).map_or(self.watermark, |m| m.max(self.watermark))
    }

    /// The watermark at which the next window closes, or the next pane or emitted window is let go.
    pub fn next_due(&self, grid: &Grid) -> i64 {
        let Some(pane) = self.panes.first() else { return i64::MAX };
        let open = self.next_window(grid, self.next_open(grid)).map_or(i64::MAX, |w| grid.end(w));
        let emitted = self.emitted.first().map_or(i64::MAX, |e| grid.free(e.start));
        open.min(grid.free(pane.start)).min(emitted)
    }

    /// Start of the first window that may still be emitted as it closes.
    pub fn next_open(&self, grid: &Grid) -> i64 {
        grid.first_ending_after(self.watermark).max(self.floor)
    }

    /// The end of everything it holds: a watermark that closes and frees it all.
    pub fn last_free(&self, grid: &Grid) -> Option<i64> {
        self.panes.last().map(|p| grid.free(p.start))
    }

    /// Position of the pane that holds `time`, or where it would go.
    #[inline]
    pub fn find_pane(&self, time: i64, every: i64) -> Result<usize, usize> {
        let mut at = self.panes.len();
        // The newest are the most likely.
        while at > 0 {
            let start = self.panes[at - 1].start;
            if time >= start {
                return if time.wrapping_sub(start) < every { Ok(at - 1) } else { Err(at) };
            }
            at -= 1;
        }
        Err(0)
    }

    /// Panes of the window at `start`.
    pub fn window_panes(&self, start: i64, period: i64) -> &[Pane] {
        let from = self.panes.partition_point(|p| p.start < start);
        let to = self.panes.partition_point(|p| p.start < start.saturating_add(period));
        &self.panes[from..to.max(from)]
    }

    /// Points in the window at `start`.
    pub fn window_points(&self, start: i64, period: i64) -> u64 {
        self.window_panes(start, period).iter().map(|p| p.points).sum()
    }

    /// Start of the first window at or after `from` that has points.
    pub fn next_window(&self, grid: &Grid, from: i64) -> Option<i64> {
        let pane = self.panes.iter().find(|p| p.start >= from)?;
        Some(grid.first_window(pane.start).max(from))
    }
}
