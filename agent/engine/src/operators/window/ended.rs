//! Groups that have ended: of each there is left how far it had come, so that nothing that was emitted is re-opened when it returns.
//!
//! They are kept apart from the groups that live, so that devices that come and go do not use up the table of groups, and there are as many
//! at most. Beyond that the one silent for longest is forgotten, and its floor becomes a floor for every group that nothing is known of.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weir_plugin_api::Series;

use super::{UNKNOWN, WindowOperator, group::Group};
use crate::operators::{Out, time::Partitions};

/// In the order of line protocol: the same whatever way the state came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key(pub Arc<Series>);

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.line().cmp(other.0.line())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Below which nothing is emitted any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Floor {
    /// Watermark that was reached.
    pub watermark: i64,
    /// First window, by its start, that does not lie on a result an operator with another meaning has sent.
    pub start: i64,
}

impl Floor {
    /// Everything may be emitted.
    pub const NONE: Self = Self { watermark: i64::MIN, start: i64::MIN };

    fn max(self, other: Self) -> Self {
        Self { watermark: self.watermark.max(other.watermark), start: self.start.max(other.start) }
    }
}

/// What is left of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tombstone {
    pub floor: Floor,
    /// Its last accepted point, observed axis.
    pub observed: i64,
}

/// All groups that ended.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    stones: BTreeMap<Key, Tombstone>,
    by_age: BTreeSet<(i64, Key)>,
    /// Floor of every group that nothing is known of.
    pub common: Floor,
}

impl Default for Ended {
    fn default() -> Self {
        Self { stones: BTreeMap::new(), by_age: BTreeSet::new(), common: Floor::NONE }
    }
}

impl Ended {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.stones.len()
    }

    /// By series.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<Series>, Tombstone)> {
        self.stones.iter().map(|(key, stone)| (&key.0, *stone))
    }

    /// Adds one, of which nothing need be known if it never came anywhere; how many the bound makes forgotten.
    pub fn add(&mut self, series: &Arc<Series>, stone: Tombstone, max: usize) -> u64 {
        if stone.floor == Floor::NONE {
            return 0;
        }
        let key = Key(Arc::clone(series));
        let mut stone = stone;
        if let Some(before) = self.stones.get(&key) {
            self.by_age.remove(&(before.observed, key.clone()));
            stone = Tombstone { floor: stone.floor.max(before.floor), observed: stone.observed.max(before.observed) };
        }
        self.by_age.insert((stone.observed, key.clone()));
        self.stones.insert(key, stone);
        let mut folded = 0;
        while self.stones.len() > max {
            let Some((_, oldest)) = self.by_age.pop_first() else { break };
            if let Some(stone) = self.stones.remove(&oldest) {
                self.common = self.common.max(stone.floor);
                folded += 1;
            }
        }
        folded
    }

    /// Gives every floor what `raised` makes of it.
    fn raise(&mut self, raised: impl Fn(Floor) -> Floor) {
        self.stones.values_mut().for_each(|stone| stone.floor = raised(stone.floor));
        self.common = raised(self.common);
    }

    /// The floor of a group that begins, or begins again.
    pub fn take(&mut self, series: &Arc<Series>) -> Floor {
        let key = Key(Arc::clone(series));
        match self.stones.remove(&key) {
            Some(stone) => {
                self.by_age.remove(&(stone.observed, key));
                stone.floor
            }
            None => self.common,
        }
    }
}

/// The newest result of a group, as whoever starts anew has to respect it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Newest {
    pub series: Arc<Series>,
    /// Time of the result, as it was sent.
    pub time: i64,
    /// Last accepted point of the group, observed axis.
    pub observed: i64,
}

impl WindowOperator {
    /// Groups that live, by number.
    pub fn live(&self) -> impl Iterator<Item = (u32, &Group)> {
        self.groups.iter().enumerate().map(|(number, group)| (number as u32, group)).filter(|(number, _)| !self.free.contains(number))
    }

    /// The newest results of all groups that sent any.
    pub fn newest(&self, partitions: &Partitions) -> Vec<Newest> {
        let mut newest = Vec::new();
        let keep = |series: &Arc<Series>, time, observed| newest.push(Newest { series: Arc::clone(series), time, observed });
        self.each_newest(partitions, |_| i64::MIN, keep);
        newest
    }

    /// Shows the newest results of all groups that sent any or have points for one: series and time.
    pub fn each_reached(&self, partitions: &Partitions, mut take: impl FnMut(&Arc<Series>, i64)) {
        let open = |group: &Group| group.panes.last().map_or(i64::MIN, |pane| pane.start.saturating_add(self.grid.every));
        self.each_newest(partitions, open, |series, time, _| take(series, time));
    }

    /// `open`: start of the first window that holds nothing a group still has.
    fn each_newest(&self, partitions: &Partitions, open: impl Fn(&Group) -> i64, mut take: impl FnMut(&Arc<Series>, i64, i64)) {
        let grid = self.grid;
        let mut add = |series: &Arc<Series>, observed: i64, next: i64, floor: i64| {
            // Below a floor that was taken over, what others have sent need not lie where windows of this one begin.
            let start = next.saturating_sub(grid.every).max(floor.saturating_sub(1));
            if next.max(floor) > i64::MIN + grid.every {
                let time = if self.window().time_is_end { start.saturating_add(grid.period) } else { start };
                take(series, time, observed);
            }
        };
        for (_, group) in self.live() {
            let closed = grid.first_ending_after(group.watermark(partitions, grid.lateness));
            let early = group.emitted.last().map_or(i64::MIN, |e| e.start.saturating_add(grid.every));
            add(&group.series, group.observed, closed.max(early).max(open(group)), group.floor);
        }
        for (series, stone) in self.ended.iter() {
            add(series, stone.observed, grid.first_ending_after(stone.floor.watermark), stone.floor.start);
        }
    }

    /// It starts anew: none of its results may lie on those another operator has sent.
    pub fn start_above(&mut self, newest: &[Newest]) {
        let grid = self.grid;
        for Newest { series, time, observed } in newest {
            let start = if self.window().time_is_end { time.saturating_sub(grid.period) } else { *time };
            let floor = Floor { start: grid.pane(start).saturating_add(grid.every), ..Floor::NONE };
            let stone = Tombstone { floor, observed: *observed };
            self.counts.forgotten += self.ended.add(series, stone, self.spec.limits.groups_max);
        }
    }

    /// Groups of which anything is known.
    pub fn groups_known(&self) -> usize {
        self.groups.len() - self.free.len() + self.ended.len()
    }

    /// Time of the newest result there may have been of a group that nothing is known of; [`i64::MIN`]: there was none.
    pub fn common(&self) -> i64 {
        let (grid, common) = (self.grid, self.ended.common);
        let next = grid.first_ending_after(common.watermark).max(common.start);
        if next == i64::MIN {
            return next;
        }
        // As with the newest of a group: results below a floor need not lie where windows of this one begin.
        let start = next.saturating_sub(grid.every).max(common.start.saturating_sub(1));
        if self.window().time_is_end { start.saturating_add(grid.period) } else { start }
    }

    /// No group that nothing is known of has results at this time, or before it.
    pub fn start_all_above(&mut self, time: i64) {
        if time > i64::MIN {
            let start = if self.window().time_is_end { time.saturating_sub(self.grid.period) } else { time };
            let floor = Floor { start: self.grid.pane(start).saturating_add(self.grid.every), ..Floor::NONE };
            self.ended.common = self.ended.common.max(floor);
        }
    }

    /// Reads on under a longer `allowed_lateness`: windows that were let go under that of `old` are not whole any more, and stay closed.
    pub fn keep_closed(&mut self, old: &Self, partitions: &Partitions) {
        if self.grid.allowed <= old.grid.allowed {
            return;
        }
        let whole = |watermark: i64| match watermark {
            i64::MIN => i64::MIN,
            reached => old.grid.first_ending_after(reached.saturating_sub(old.grid.allowed)),
        };
        for (_, group) in old.live() {
            let reached = group.watermark(partitions, old.grid.lateness);
            let reached = if reached < group.due { reached } else { group.watermark };
            if let Some(number) = self.keys.get(&group.series) {
                let floor = &mut self.groups[*number as usize].floor;
                *floor = whole(reached).max(*floor);
            }
        }
        self.ended.raise(|floor| Floor { start: floor.start.max(whole(floor.watermark)), ..floor });
    }

    /// A planted bug: nothing is left of groups that have ended.
    pub fn forget_ended_groups(&mut self) {
        self.ended = Ended::default();
    }

    /// Groups silent for their time-to-live are emitted for the last time and end.
    pub fn expire(&mut self, partitions: &Partitions, out: &mut Out<'_>) {
        if out.now.observed < self.expiry {
            return;
        }
        self.expiry = i64::MAX;
        let ttl = self.spec.time.group_ttl;
        let mut ended = Vec::new();
        for group in 0..self.groups.len() as u32 {
            if self.free.contains(&group) {
                continue;
            }
            let due = self.groups[group as usize].observed.saturating_add(ttl);
            if due > out.now.observed {
                self.expiry = self.expiry.min(due);
                continue;
            }
            self.close_group(group, out);
            self.bury(group, partitions);
            ended.push(group);
        }
        if !ended.is_empty() {
            self.forget(&ended, out);
        }
    }

    /// A group becomes its tombstone, its number free.
    fn bury(&mut self, group: u32, partitions: &Partitions) {
        let nobody = Group::new(Arc::clone(&self.nobody), 0);
        let state = std::mem::replace(&mut self.groups[group as usize], nobody);
        let floor = Floor { watermark: state.watermark(partitions, self.grid.lateness), start: state.floor };
        let stone = Tombstone { floor, observed: state.observed };
        self.counts.forgotten += self.ended.add(&state.series, stone, self.spec.limits.groups_max);
        self.keys.remove(&state.series);
        state.panes.into_iter().for_each(|pane| self.recycle(pane));
        self.free.insert(group);
    }

    /// Nothing refers to these groups any more.
    fn forget(&mut self, ended: &[u32], out: &mut Out<'_>) {
        let gone = |group: &u32| ended.binary_search(group).is_ok();
        self.series.iter_mut().flatten().filter(|group| gone(group)).for_each(|group| *group = UNKNOWN);
        self.fed.iter_mut().for_each(|fed| fed.retain(|group| !gone(group)));
        self.reopened.retain(|group| !gone(group));
        ended.iter().for_each(|group| out.alerts.window_group_ended(self.index, *group));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str) -> Arc<Series> {
        Arc::new(Series::from_parts(name, &[]))
    }

    fn stone(watermark: i64, observed: i64) -> Tombstone {
        Tombstone { floor: Floor { watermark, start: i64::MIN }, observed }
    }

    #[test]
    fn the_one_silent_for_longest_gives_way_and_its_floor_is_everybodys() {
        let mut ended = Ended::default();
        let stones = [("b", 30, 2), ("a", 20, 1), ("c", 10, 3)];
        let folded = stones.map(|(name, floor, observed)| ended.add(&series(name), stone(floor, observed), 2));
        assert_eq!(folded, [0, 0, 1]);
        assert_eq!(["a", "new", "b", "c"].map(|name| ended.take(&series(name)).watermark), [20, 20, 30, 10]);
        assert_eq!(ended.len(), 0);
    }

    #[test]
    fn a_group_that_ends_twice_keeps_the_higher_floor_and_the_younger_age() {
        let mut ended = Ended::default();
        for (name, floor, observed) in [("a", 20, 9), ("a", 10, 1), ("b", 5, 5), ("c", 6, 6), ("never", i64::MIN, 7)] {
            ended.add(&series(name), stone(floor, observed), 2);
        }
        assert_eq!((ended.common.watermark, ended.take(&series("a")).watermark), (5, 20));
        assert_eq!(ended.iter().map(|(s, _)| s.measurement().to_owned()).collect::<Vec<_>>(), ["c"]);
    }
}
