//! Time as every operator needs it: the offset of the wall clock, and how far each partition's event time has come.

use crate::{
    record::{ClockQuality, ClockThen, Stamp},
    spec::TimeSpec,
};

/// Event times beyond this (years 1823 to 2116) are not believed: sums of times and lengths stay far from overflow.
pub(super) const TIME_BOUND: i64 = 1 << 62;

/// The wall clock as the last clock record has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct WallClock {
    /// wall − steady.
    pub offset: i64,
    pub quality: ClockQuality,
    /// Greatest offset of this boot while the clock was set: below it the clock has stepped back.
    pub offset_max: Option<i64>,
    /// Steady time of the last record: a smaller one is another boot, when nobody knows better.
    pub steady: i64,
    /// The boot of the last clock record; 0 unknown.
    pub boot: u64,
}

/// What a clock record means for times on our own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClockChange {
    /// The same boot: times taken from this clock move by so much.
    Shift(i64),
    /// Another boot: steady times from before have no relation to these.
    Boot,
}

impl WallClock {
    /// As it was.
    pub fn of(then: &ClockThen) -> Self {
        let ClockThen { offset, quality, boot, steady, stepped_back, .. } = *then;
        let offset_max = (quality != ClockQuality::Unset || stepped_back > 0).then(|| offset.saturating_add(stepped_back.max(0)));
        Self { offset, quality, offset_max, steady, boot }
    }

    /// What brings it back; so many readings wait for it, of which the newest has that steady time.
    pub fn then(&self, held: u64, newest_held: i64) -> ClockThen {
        let Self { offset, quality, steady, boot, .. } = *self;
        ClockThen { offset, quality, boot, steady, stepped_back: self.stepped_back(), held, newest_held }
    }

    pub fn is_set(&self) -> bool {
        self.quality != ClockQuality::Unset
    }

    pub fn wall(&self, steady: i64) -> i64 {
        steady.saturating_add(self.offset)
    }

    /// Whether a clock record with this stamp, of boot `boot`, was made in a later boot than the last record.
    pub fn is_new_boot(&self, stamp: Stamp, boot: u64) -> bool {
        if boot != 0 && self.boot != 0 { boot != self.boot } else { stamp.steady < self.steady }
    }

    pub fn change(&mut self, stamp: Stamp, offset: i64, quality: ClockQuality, boot_id: u64) -> ClockChange {
        let boot = self.is_new_boot(stamp, boot_id);
        self.boot = boot_id;
        let old = self.offset;
        self.offset = offset;
        self.quality = quality;
        self.steady = stamp.steady;
        if boot {
            self.offset_max = None;
        }
        if self.is_set() {
            self.offset_max = Some(self.offset_max.map_or(offset, |max| max.max(offset)));
        }
        if boot { ClockChange::Boot } else { ClockChange::Shift(offset.saturating_sub(old)) }
    }

    /// How far the clock has stepped back within this boot.
    pub fn stepped_back(&self) -> i64 {
        self.offset_max.map_or(0, |max| max.saturating_sub(self.offset)).max(0)
    }
}

/// Progress of one time partition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct PartitionTime {
    /// Greatest accepted event time, [`i64::MIN`] before the first point.
    pub max: i64,
    /// When its last accepted point came, observed axis.
    pub observed: i64,
    /// It has been silent for `idle_after`, or never spoke: it holds no group back.
    pub idle: bool,
}

impl Default for PartitionTime {
    fn default() -> Self {
        Self { max: i64::MIN, observed: i64::MIN, idle: true }
    }
}

/// All partitions. An index is twice the table's id, plus one for its provisional side: points that flow under a clock nobody has
/// set progress on their own, so that they neither hold back nor hurry the others.
#[derive(Clone, Debug)]
pub(super) struct Partitions {
    list: Vec<PartitionTime>,
    /// Nothing can become idle before this observed time.
    check: i64,
}

impl Default for Partitions {
    fn default() -> Self {
        Self { list: Vec::new(), check: i64::MAX }
    }
}

/// The internal index of a partition of the table.
pub(super) fn partition_index(id: u32, provisional: bool) -> u32 {
    id * 2 + u32::from(provisional)
}

impl Partitions {
    pub fn get(&self, index: u32) -> PartitionTime {
        self.list.get(index as usize).copied().unwrap_or_default()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &PartitionTime)> {
        self.list.iter().enumerate().map(|(i, p)| (i as u32, p)).filter(|(_, p)| p.max != i64::MIN)
    }

    pub fn set(&mut self, index: u32, time: PartitionTime, spec: &TimeSpec) {
        self.grow(index);
        self.list[index as usize] = time;
        if !time.idle {
            self.check = self.check.min(time.observed.saturating_add(spec.idle_after));
        }
    }

    pub fn grow(&mut self, index: u32) {
        if self.list.len() <= index as usize {
            self.list.resize(index as usize + 1, PartitionTime::default());
        }
    }

    /// An accepted point: the partition speaks, and its event time may progress.
    #[inline]
    pub fn touch(&mut self, index: u32, time: i64, observed: i64, spec: &TimeSpec) {
        let partition = &mut self.list[index as usize];
        if partition.idle {
            partition.idle = false;
            self.check = self.check.min(observed.saturating_add(spec.idle_after));
        }
        partition.observed = observed;
        partition.max = partition.max.max(time);
    }

    /// Appends those that are idle by now to `idle`; [`Partitions::fall_idle`] makes them so.
    pub fn scan(&mut self, observed: i64, spec: &TimeSpec, idle: &mut Vec<u32>) {
        if observed < self.check {
            return;
        }
        self.check = i64::MAX;
        for (index, partition) in self.list.iter().enumerate().filter(|(_, p)| !p.idle) {
            let due = partition.observed.saturating_add(spec.idle_after);
            if due <= observed {
                idle.push(index as u32);
            } else {
                self.check = self.check.min(due);
            }
        }
    }

    /// They no longer hold any group back.
    pub fn fall_idle(&mut self, idle: &[u32]) {
        for index in idle {
            self.list[*index as usize].idle = true;
        }
    }

    /// When one may become idle, at the earliest; may be early, and is exact after the next scan.
    pub fn idle_check(&self) -> i64 {
        self.check
    }
}
