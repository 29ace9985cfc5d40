//! What a start goes by that finds no state: the first record behind every checkpoint says how far windows had come, and nothing is emitted
//! below that again; and how the clock stood, by which readings without a time are dated. The journal begins behind the checkpoint before last, so that it has such a record where anything is missing in front.

use std::{collections::BTreeMap, sync::Arc};

use weir_plugin_api::Series;

use super::{BlockMeta, Core, Now};
use crate::{
    codec::record,
    operators::Floors,
    record::{ClockQuality, ClockThen, Record, Stamp},
    series::SeriesTable,
};

/// Floors that go in front of the next record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Owed {
    /// None.
    #[default]
    Nothing,
    /// As they are: a checkpoint was made.
    OfNow,
    /// Those of a start that found none, so that the next one goes by the same.
    These(Floors),
}

impl Core {
    /// Every state is lost: windows begin above all that may have been emitted of what the `journal` does not have, in the order of its
    /// records. `had_state`: there was one, whatever the journal says. After [`Core::adopt_outbox`], before anything is replayed. Whether there
    /// is anything that they begin above.
    pub fn start_above<'a>(&mut self, now: Now, journal: impl IntoIterator<Item = (BlockMeta, &'a [u8])>, had_state: bool) -> bool {
        let (mut blocks, mut next, mut whole_from) = (Vec::new(), 1, 0);
        for (meta, bytes) in journal {
            if meta.first_record > next {
                whole_from = blocks.len();
            }
            next = meta.first_record + u64::from(meta.records);
            blocks.push((meta, bytes));
        }
        let outbox = std::mem::take(&mut self.in_outbox);
        if whole_from == 0 && blocks.first().is_some_and(|(meta, _)| meta.first_record == 1) {
            // Nothing is missing, unless it begins with what a start made up that found no journal either.
            let made_up = self.floors_in(&blocks[0]).filter(|(record, _)| *record == 1);
            self.operators.start_above(&made_up.as_ref().map_or_else(Floors::default, |(_, floors)| floors.clone()));
            return made_up.is_some();
        }
        // Files that were free still have records of before: of what is missing between those the floors behind it know.
        let (before, behind) = blocks.split_at(whole_from);
        let found = behind.iter().find_map(|block| self.floors_in(block)).or_else(|| before.iter().rev().find_map(|b| self.floors_in(b)));
        let (mut floors, is_above) = match found {
            Some((_, floors)) => (floors, !self.spec.windows.is_empty()),
            None if had_state => self.make_up_floors(now, outbox),
            None => return false,
        };
        floors.raise(self.missed(now, &floors, &blocks));
        self.operators.start_above(&floors);
        is_above
    }

    /// The clock as floors have it that are read back.
    pub(super) fn believe(&mut self, sequence: u64, stamp: Stamp, then: &ClockThen, table: &SeriesTable) {
        self.clock.note(then.offset, then.quality);
        self.results.start_record(sequence);
        self.operators.believe(stamp, then, table, &mut self.results);
    }

    /// Nothing says how far windows had come: the outbox and the clock do. And whether they have come anywhere.
    fn make_up_floors(&mut self, now: Now, outbox: BTreeMap<String, (Arc<Series>, i64)>) -> (Floors, bool) {
        let common = if now.quality == ClockQuality::Unset { i64::MIN } else { self.believed_max(now.wall) };
        let floors = Floors { common, groups: outbox.into_values().collect() };
        let is_above = floors != Floors::default();
        self.owed_floors = Owed::These(floors.clone());
        (floors, is_above)
    }

    /// Windows above these floors that the journal can't make as the state that is lost did: a look through it, made before it counts, tells
    /// which lack a point. Without those there is no less room for the rest.
    fn missed(&self, now: Now, floors: &Floors, journal: &[(BlockMeta, &[u8])]) -> Floors {
        let mut look = Self::new(Arc::clone(&self.spec), now);
        look.operators.start_above(floors);
        look.operators.note_missed();
        for (meta, bytes) in journal {
            // What is damaged inside is told of when it counts.
            let _ = look.replay(meta, bytes);
        }
        look.operators.missed()
    }

    /// The first floors in a block, and which record they are. What is damaged inside is told of when it is replayed.
    fn floors_in(&self, (meta, bytes): &(BlockMeta, &[u8])) -> Option<(u64, Floors)> {
        // Names mean nothing to a record of floors.
        let (mut table, mut found) = (SeriesTable::new(self.spec.limits.series_max), None);
        let _ = record::decode(meta, bytes, 0, &mut table, &[], &[], |sequence, _, record, _| {
            if let (Record::Floors { common, groups, .. }, None) = (record, &found) {
                found = Some((sequence, Floors { common: *common, groups: groups.to_vec() }));
            }
        });
        found
    }

    /// Event time beyond which no point is accepted.
    fn believed_max(&self, wall: i64) -> i64 {
        wall.saturating_add(self.spec.time.future_skew_max)
    }

    /// In front of the first record behind a checkpoint: how far windows had come, and the clock. It is no part of the state.
    pub(super) fn record_floors(&mut self, now: Now) {
        let (floors, clock) = match std::mem::take(&mut self.owed_floors) {
            Owed::Nothing => return,
            Owed::OfNow => {
                let is_set = self.clock.quality != ClockQuality::Unset;
                let newest_max = is_set.then(|| self.believed_max(self.clock.offset.saturating_add(now.steady)));
                (self.operators.floors(newest_max), Some(self.operators.clock_then()))
            }
            Owed::These(_) if self.spec.windows.is_empty() => return,
            Owed::These(floors) => (floors, None),
        };
        let stamp = Stamp { observed: self.clock.observed(now), steady: now.steady };
        self.block.push(self.next_record, stamp, &Record::Floors { common: floors.common, groups: &floors.groups, clock });
        self.next_record += 1;
    }
}
