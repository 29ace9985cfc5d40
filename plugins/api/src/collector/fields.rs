//! Names of fields: looked up, counted when there is no place for more, and said when a table is full.
//!
//! Apart from the collector because it is the one thing an input's senders can fill up field by field.

use std::fmt::Display;

use super::{Collector, same};
use crate::value::Value;

/// A log line about a full table at most this often, nanoseconds.
const SAY_FULL_EVERY: i64 = 600 * crate::time::SECOND;
/// Taken out by the filters.
pub(super) const DROPPED_FILTERED: u8 = 1;
/// NaN or infinite.
pub(super) const DROPPED_NAN: u8 = 2;
/// Of a name that has no place in the table.
pub(super) const DROPPED_NAMELESS: u8 = 4;

/// Outcome of looking the name of a field up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldId {
    Id(u16),
    Filtered,
    /// The table of names is full.
    Full,
}

impl Collector {
    /// Adds a field to the open point. NaN, infinities and what has no place in the table of names are left out and counted. A field that is
    /// in the point already is replaced: the last one wins, as in InfluxDB.
    #[inline]
    pub fn field(&mut self, name: &[u8], value: Value<'_>) {
        match self.field_id(name) {
            FieldId::Id(id) => self.field_by_id(id, value),
            FieldId::Filtered => {
                if let Some(open) = &mut self.open {
                    open.dropped |= DROPPED_FILTERED;
                }
            }
            FieldId::Full => self.drop_nameless(),
        }
    }

    #[cold]
    fn drop_nameless(&mut self) {
        let Some(open) = &mut self.open else { return };
        open.dropped |= DROPPED_NAMELESS;
        self.counts.dropped_fields += 1;
        self.say_full(format_args!("the table of field names is full ({}): fields of other names are left out", u16::MAX));
    }

    /// Says at times that a table is full: it stays so.
    #[cold]
    pub(super) fn say_full(&mut self, what: impl Display) {
        let now = self.clock.steady();
        if self.said_full_at.is_none_or(|at| now - at >= SAY_FULL_EVERY) {
            self.said_full_at = Some(now);
            tracing::warn!(input = %self.interner.shape.input, "{what}");
        }
    }

    #[inline]
    fn field_id(&mut self, name: &[u8]) -> FieldId {
        let interner = &mut self.interner;
        if let Some((_, _, next)) = interner.order.get(interner.last) {
            let guess = *next as usize;
            if let Some((known, id, _)) = interner.order.get(guess)
                && same(known, name)
            {
                interner.last = guess;
                return *id;
            }
        }
        self.look_up_field(name)
    }

    #[cold]
    fn look_up_field(&mut self, name: &[u8]) -> FieldId {
        let interner = &mut self.interner;
        let at = if let Some(at) = interner.order_ids.get(name) {
            *at
        } else {
            let text = String::from_utf8_lossy(name).into_owned();
            let id = if !interner.shape.filter.keeps_field(&text) {
                FieldId::Filtered
            } else if let Some(id) = interner.fields.get(text.as_bytes()) {
                *id
            } else if interner.next_field == u16::MAX {
                return FieldId::Full;
            } else {
                let id = interner.next_field;
                interner.next_field += 1;
                interner.fields.insert(text.as_bytes().into(), FieldId::Id(id));
                self.new_fields.push(text.into());
                FieldId::Id(id)
            };
            if interner.order.len() > 2 * usize::from(u16::MAX) {
                return id;
            }
            let at = interner.order.len() as u32;
            interner.order.push((name.into(), id, 0));
            interner.order_ids.insert(name.into(), at);
            at
        };
        if let Some(last) = interner.order.get_mut(interner.last) {
            last.2 = at;
        }
        interner.last = at as usize;
        interner.order[at as usize].1
    }
}

#[cfg(test)]
mod tests {
    use crate::testing;

    #[test]
    fn a_name_past_the_table_costs_its_field_and_is_counted() {
        let (mut collector, mut receiver) = testing::collector();
        let names = u32::from(u16::MAX);
        for n in 0..names {
            collector.point("m", &[], Some(1)).field(&format!("f{n}"), u64::from(n));
            if collector.is_full() {
                collector.try_flush(crate::Position::None).expect("open");
                receiver.take();
            }
        }
        // One field of two has no name any more, then both.
        collector.point("m", &[], Some(1)).field("f7", 1u64).field("late", 2u64);
        collector.point("m", &[], Some(1)).field("late", 1u64).field("later", 2u64);
        collector.try_flush(crate::Position::None).expect("open");
        receiver.take();
        let counts = receiver.counts;
        assert_eq!((counts.read, counts.dropped_fields), (u64::from(names) + 2, 3));
        assert_eq!((counts.refused_series, counts.filtered, counts.not_recorded()), (1, 0, 1));
        assert_eq!(receiver.fields.len(), names as usize);
    }
}
