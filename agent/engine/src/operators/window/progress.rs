//! When something is due: each group watches the one partition that holds it back, so a point only looks at groups that may be due.

use super::{WindowOperator, group::Progress};
use crate::operators::{Out, time::Partitions};

impl WindowOperator {
    /// Whether the event time `max` of a partition makes any group due.
    #[inline]
    pub fn is_due(&self, partition: u32, max: i64) -> bool {
        self.due.get(partition as usize).is_some_and(|due| *due <= max)
    }

    /// A partition has come further: deals with the groups that waited for it, in the order of their ids.
    pub fn advance(&mut self, partition: u32, partitions: &Partitions, out: &mut Out<'_>) {
        let max = partitions.get(partition).max;
        let mut ready = std::mem::take(&mut self.scratch);
        ready.clear();
        let mut next = i64::MAX;
        for id in &self.fed[partition as usize] {
            let group = &self.groups[*id as usize];
            if group.due == i64::MAX || group.partitions[group.watch as usize] != partition {
                continue;
            }
            let due = group.due.saturating_add(self.grid.lateness);
            if due <= max {
                ready.push(*id);
            } else {
                next = next.min(due);
            }
        }
        self.due[partition as usize] = next;
        self.settle_all(ready, partitions, out);
    }

    /// The first record after a restart: what an edit has made due is dealt with.
    pub fn catch_up(&mut self, partitions: &Partitions, out: &mut Out<'_>) {
        if !std::mem::take(&mut self.restored) {
            return;
        }
        for group in 0..self.groups.len() as u32 {
            // A shorter `allowed_lateness` lets go of more at the same watermark; until that is done nobody waits for what comes next.
            self.release(group, out);
            self.arm(group, partitions);
            let state = &self.groups[group as usize];
            if state.due <= state.minimum(partitions, self.grid.lateness).unwrap_or(i64::MIN) {
                self.settle(group, partitions, out);
            }
        }
    }

    /// Partitions are about to fall silent: the watermark reached with them stands, though nothing was due on the way.
    pub fn before_idle(&mut self, idle: &[u32], partitions: &Partitions) {
        let mut touched = std::mem::take(&mut self.scratch);
        touched.clear();
        touched.extend(idle.iter().filter_map(|p| self.fed.get(*p as usize)).flatten());
        touched.sort_unstable();
        touched.dedup();
        for id in &touched {
            let group = &mut self.groups[*id as usize];
            group.watermark = group.watermark(partitions, self.grid.lateness);
        }
        self.scratch = touched;
    }

    /// Partitions have fallen silent: groups that waited for one look for another, or emit early if there is none.
    pub fn fell_idle(&mut self, idle: &[u32], partitions: &Partitions, out: &mut Out<'_>) {
        let mut ready = std::mem::take(&mut self.scratch);
        ready.clear();
        for partition in idle {
            for id in self.fed.get(*partition as usize).into_iter().flatten() {
                let group = &self.groups[*id as usize];
                if group.due != i64::MAX && group.partitions[group.watch as usize] == *partition {
                    ready.push(*id);
                }
            }
        }
        self.settle_all(ready, partitions, out);
    }

    /// A silent partition is about to speak: the watermark the others have reached without it stands.
    pub fn before_return(&mut self, partition: u32, partitions: &Partitions, out: &mut Out<'_>) {
        let Some(fed) = self.fed.get_mut(partition as usize) else { return };
        let fed = std::mem::take(fed);
        for id in &fed {
            let group = &self.groups[*id as usize];
            if group.partitions.len() > 1 && group.watermark(partitions, self.grid.lateness) > group.watermark {
                self.settle(*id, partitions, out);
            }
        }
        self.fed[partition as usize] = fed;
    }

    /// It speaks again: groups with nobody else to watch watch it.
    pub fn returned(&mut self, partition: u32, partitions: &Partitions) {
        let Some(fed) = self.fed.get(partition as usize) else { return };
        for id in fed {
            let group = &mut self.groups[*id as usize];
            if group.due != i64::MAX && partitions.get(group.partitions[group.watch as usize]).idle {
                group.watch = group.partitions.iter().position(|p| *p == partition).unwrap_or(0) as u32;
            }
            if group.due != i64::MAX && group.partitions[group.watch as usize] == partition {
                let due = &mut self.due[partition as usize];
                *due = (*due).min(group.due.saturating_add(self.grid.lateness));
            }
        }
    }

    /// A partition feeds a group: from now on it can hold it back.
    pub fn join(&mut self, group: u32, partition: u32, partitions: &Partitions, out: &mut Out<'_>) {
        let slot = partition as usize;
        if self.fed.len() <= slot {
            self.fed.resize(slot + 1, Vec::new());
            self.due.resize(slot + 1, i64::MAX);
        }
        let state = &self.groups[group as usize];
        let known = if self.fed[slot].len() < state.partitions.len() {
            self.fed[slot].contains(&group)
        } else {
            state.partitions.contains(&partition)
        };
        if known {
            return;
        }
        if state.watermark(partitions, self.grid.lateness) > state.watermark {
            self.settle(group, partitions, out);
        }
        // In the order of their numbers, whatever way the state came about: what is emitted together is emitted in this order.
        let place = self.fed[slot].partition_point(|known| *known < group);
        self.fed[slot].insert(place, group);
        self.groups[group as usize].partitions.push(partition);
        // When all others are silent, it is the one that moves the group now.
        if self.groups[group as usize].due != i64::MAX {
            self.settle(group, partitions, out);
        }
    }

    fn settle_all(&mut self, mut ready: Vec<u32>, partitions: &Partitions, out: &mut Out<'_>) {
        ready.sort_unstable();
        ready.dedup();
        for group in &ready {
            self.settle(*group, partitions, out);
        }
        self.scratch = ready;
    }

    /// Brings a group to the watermark its partitions give.
    pub(super) fn settle(&mut self, group: u32, partitions: &Partitions, out: &mut Out<'_>) {
        let state = &mut self.groups[group as usize];
        match state.progress(partitions, self.grid.lateness) {
            Progress::Blocked(watch) => {
                state.watch = watch;
                // Nothing is due below the next `due`, but what comes late is measured against the watermark.
                state.watermark = state.watermark(partitions, self.grid.lateness);
                self.register(group);
            }
            Progress::Reached(watermark) => {
                self.reach(group, watermark, out);
                self.arm(group, partitions);
            }
            Progress::Silent => self.emit_early(group, out),
        }
    }

    /// Finds out when a group is due next and whom it waits for.
    pub(super) fn arm(&mut self, group: u32, partitions: &Partitions) {
        let state = &mut self.groups[group as usize];
        state.due = state.next_due(&self.grid);
        if state.due == i64::MAX {
            return;
        }
        if let Progress::Blocked(watch) = state.progress(partitions, self.grid.lateness) {
            state.watch = watch;
            self.register(group);
        }
    }

    fn register(&mut self, group: u32) {
        let state = &self.groups[group as usize];
        if state.due == i64::MAX || state.partitions.is_empty() {
            return;
        }
        let due = &mut self.due[state.partitions[state.watch as usize] as usize];
        *due = (*due).min(state.due.saturating_add(self.grid.lateness));
    }
}
