//! A pane: the accumulators of one group over `every`, from which windows are put together.

use weir_plugin_api::Cell;

use super::{
    aggregate::{Class, Layout},
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
}

impl Pane {
    /// Empties it and keeps its memory.
    pub fn reset(&mut self, start: i64) {
        self.start = start;
        self.points = 0;
        self.words.clear();
        self.sketches.clear();
        self.texts.clear();
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
            self.sketches.resize(slot + 1, Sketch::default());
        }
        self.sketches[slot].add(value);
    }

    fn add_text(&mut self, layout: &Layout, slot: usize, cell: &Cell, time: i64, text: &[u8]) {
        let weir_plugin_api::Value::Text(value) = cell.value(text) else { return };
        let words = &mut self.words[slot * layout.stride..(slot + 1) * layout.stride];
        let (first, last) = layout.would_be_end(words, time);
        layout.add_text(words, time);
        if first || last {
            if self.texts.len() <= slot {
                self.texts.resize(slot + 1, Ends::default());
            }
            let ends = &mut self.texts[slot];
            if first {
                value.clone_into(&mut ends.first);
            }
            if last {
                value.clone_into(&mut ends.last);
            }
        }
    }
}
