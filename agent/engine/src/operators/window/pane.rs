//! A pane: the accumulators of one group over `every`, from which windows are put together.

use weir_plugin_api::Cell;

use super::{
    aggregate::{Class, Layout},
    group::Emitted,
    sketch::Sketch,
};

/// First and last text of a field.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ends {
    pub first: String,
    pub last: String,
}

/// Everything known of `[start, start + every)` in one group.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pane {
    pub start: i64,
    /// Points merged into it.
    pub points: u64,
    /// [`Layout::stride`] words per field of the group; fields that came later may be missing at the end.
    pub words: Vec<u64>,
    /// One per field, as far as any has come, if percentiles are asked.
    pub sketches: Vec<Sketch>,
    /// One per field, as far as a text has come.
    pub texts: Vec<Ends>,
    /// [`Pane::cost`], kept up to date.
    pub bytes: usize,
}

/// Bytes of a pane itself and of what is remembered of its window, in lists that grow by doubling.
const OWN: usize = 2 * (size_of::<Pane>() + size_of::<Emitted>());
/// Words of a pane that is used again.
const WORDS_KEPT: usize = 64;

/// Bytes of so many words: their list may have room for twice as many, or have been another pane's.
pub(crate) fn words_cost(words: usize) -> usize {
    size_of::<u64>() * (2 * words).max(WORDS_KEPT)
}

/// Bytes of a pane without a value, but for its words.
pub(crate) const fn own_cost() -> usize {
    OWN
}

impl Ends {
    /// Bytes it counts for: as much room again may be free.
    fn cost(&self) -> usize {
        2 * (size_of::<Self>() + self.first.len() + self.last.len()) + 2 * TEXT_FREE
    }
}

/// Bytes of a text that may be free without its having to be made anew.
const TEXT_FREE: usize = 64;

/// Puts a text in the place of another, whose memory it takes unless that is much too large.
fn put(place: &mut String, text: &str) {
    if place.capacity() > 2 * text.len() + TEXT_FREE {
        *place = text.to_owned();
    } else {
        text.clone_into(place);
    }
}

impl Pane {
    /// Empties it and keeps the memory of its words, unless that is more than most need: what it kept would count for nobody.
    pub fn reset(&mut self, start: i64) {
        let mut words = std::mem::take(&mut self.words);
        words.clear();
        if words.capacity() > WORDS_KEPT {
            words = Vec::new();
        }
        *self = Self { start, words, bytes: OWN + words_cost(0), ..Self::default() };
    }

    /// Bytes it counts for against the bound of all panes: what it takes of memory at most, by what is in it, so that it is the same after a
    /// restart.
    pub fn cost(&self) -> usize {
        let sketches: usize = self.sketches.iter().map(Sketch::cost).sum();
        let texts: usize = self.texts.iter().map(Ends::cost).sum();
        OWN + words_cost(self.words.len()) + sketches + texts
    }

    /// Whether it would take more memory with this value.
    pub fn would_grow(&self, layout: &Layout, slot: usize, class: Class, cell: &Cell, time: i64, text: &[u8]) -> bool {
        let Some(words) = self.field(layout, slot) else { return true };
        match class {
            Class::Number => {
                let value = cell.as_f64().filter(|_| layout.sketches);
                value.is_some_and(|value| self.sketches.get(slot).is_none_or(|sketch| sketch.would_grow(value)))
            }
            Class::Bool => false,
            Class::Text => {
                let weir_plugin_api::Value::Text(value) = cell.value(text) else { return false };
                let (first, last) = layout.would_be_end(words, time);
                let longer = |of: fn(&Ends) -> &String| self.texts.get(slot).is_none_or(|ends| value.len() > of(ends).len());
                first && longer(|ends| &ends.first) || last && longer(|ends| &ends.last)
            }
        }
    }

    /// The words of a field, if any value of it came.
    pub fn field(&self, layout: &Layout, slot: usize) -> Option<&[u64]> {
        self.words.get(slot * layout.stride..(slot + 1) * layout.stride)
    }

    /// Merges one value into field number `slot` of `class`, which is the cell's.
    #[inline]
    pub fn add(&mut self, layout: &Layout, slot: usize, class: Class, cell: &Cell, time: i64, text: &[u8]) {
        let end = (slot + 1) * layout.stride;
        if self.words.len() < end {
            self.bytes += words_cost(end) - words_cost(self.words.len());
            self.words.resize(end, 0);
        }
        let words = &mut self.words[slot * layout.stride..end];
        if class == Class::Number {
            let Some(value) = cell.as_f64() else { return };
            layout.add(words, value, time);
            if layout.sketches {
                self.add_sketch(slot, value);
            }
        } else if class == Class::Bool {
            layout.add_bits(words, cell.value, time);
        } else {
            self.add_text(layout, slot, cell, time, text);
        }
    }

    fn add_sketch(&mut self, slot: usize, value: f64) {
        if self.sketches.len() <= slot {
            self.bytes += (slot + 1 - self.sketches.len()) * Sketch::default().cost();
            self.sketches.resize(slot + 1, Sketch::default());
        }
        let sketch = &mut self.sketches[slot];
        let before = sketch.cost();
        sketch.add(value);
        self.bytes = self.bytes + sketch.cost() - before;
    }

    fn add_text(&mut self, layout: &Layout, slot: usize, cell: &Cell, time: i64, text: &[u8]) {
        let weir_plugin_api::Value::Text(value) = cell.value(text) else { return };
        let words = &mut self.words[slot * layout.stride..(slot + 1) * layout.stride];
        let (first, last) = layout.would_be_end(words, time);
        layout.add_text(words, time);
        if first || last {
            if self.texts.len() <= slot {
                self.bytes += (slot + 1 - self.texts.len()) * Ends::default().cost();
                self.texts.resize(slot + 1, Ends::default());
            }
            let ends = &mut self.texts[slot];
            let before = ends.cost();
            if first {
                put(&mut ends.first, value);
            }
            if last {
                put(&mut ends.last, value);
            }
            self.bytes = self.bytes + ends.cost() - before;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use weir_plugin_api::Kind;

    use super::*;
    use crate::spec::Aggregate;

    fn allocated(pane: &Pane) -> usize {
        let sketch = |sketch: &Sketch| match sketch {
            Sketch::Exact(values) => values.capacity() * size_of::<f64>(),
            Sketch::Buckets(b) => size_of_val(&**b) + (b.positive.capacity() + b.negative.capacity()) * size_of::<(i32, u64)>(),
        };
        let sketches: usize = pane.sketches.iter().map(sketch).sum();
        let texts: usize = pane.texts.iter().map(|ends| ends.first.capacity() + ends.last.capacity()).sum();
        pane.words.capacity() * size_of::<u64>()
            + pane.sketches.capacity() * size_of::<Sketch>()
            + pane.texts.capacity() * size_of::<Ends>()
            + sketches
            + texts
    }

    proptest! {
        #[test]
        fn what_a_pane_counts_for_is_no_less_than_it_takes_and_only_what_was_foretold_makes_it_grow(
            values in prop::collection::vec((0usize..3, -1e9..1e9f64, prop::option::of(0usize..300), -9i64..9), 1..300)
        ) {
            let layout = Layout::new(&[Aggregate::First, Aggregate::Last, Aggregate::Count, Aggregate::Percentile(500)]);
            let mut pane = Pane::default();
            pane.reset(0);
            for (slot, value, text, time) in values {
                let bytes = "x".repeat(text.unwrap_or(0)).into_bytes();
                let (mut cell, mut stored) = (Cell { series: 0, field: 0, kind: 0, flags: Cell::START, time, value: 0 }, Vec::new());
                (cell.kind, cell.value) = match text {
                    Some(_) => {
                        let text = String::from_utf8_lossy(&bytes);
                        let (kind, value) = Cell::encode_value(weir_plugin_api::Value::Text(&text), &mut stored);
                        (kind as u8, value)
                    }
                    None => (Kind::Float as u8, value.to_bits()),
                };
                // A field has one class: numbers in the first, texts in the last.
                let (slot, class) = if text.is_some() { (3 + slot, Class::Text) } else { (slot, Class::Number) };
                let (before, foretold) = (pane.bytes, pane.would_grow(&layout, slot, class, &cell, time, &stored));
                pane.add(&layout, slot, class, &cell, time, &stored);
                prop_assert_eq!(pane.bytes, pane.cost());
                prop_assert!(foretold || pane.bytes <= before, "{} to {}", before, pane.bytes);
                prop_assert!(allocated(&pane) <= pane.cost(), "{} of {}", allocated(&pane), pane.cost());
            }
        }
    }
}
