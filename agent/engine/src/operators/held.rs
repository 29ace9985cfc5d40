//! Points without a time of their own that came while nobody had set the clock: they wait, bounded, for the offset that dates them.

use std::ops::Range;

use weir_plugin_api::{Cell, Kind};

/// Waiting points, in order of arrival.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Held {
    pub cells: Vec<Cell>,
    pub text: Vec<u8>,
    /// Start of each point in `cells`.
    pub starts: Vec<u32>,
    /// When the oldest came, observed axis.
    pub since: i64,
}

impl Held {
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Steady time of the newest; [`i64::MIN`]: there is none.
    pub fn newest(&self) -> i64 {
        self.starts.iter().filter_map(|start| self.cells.get(*start as usize)).map(|cell| cell.time).max().unwrap_or(i64::MIN)
    }

    pub fn bytes(&self) -> usize {
        self.cells.len() * size_of::<Cell>() + self.text.len()
    }

    pub fn push(&mut self, cells: &[Cell], text: &[u8], observed: i64) {
        if self.is_empty() {
            self.since = observed;
        }
        self.starts.push(self.cells.len() as u32);
        for cell in cells {
            let mut copy = *cell;
            if cell.kind == Kind::Text as u8 {
                copy.value = Cell::encode_value(cell.value(text), &mut self.text).1;
            }
            self.cells.push(copy);
        }
    }

    /// Where each point lies in `cells`.
    pub fn points(&self) -> impl Iterator<Item = Range<usize>> {
        (0..self.starts.len()).map(|i| {
            let end = self.starts.get(i + 1).map_or(self.cells.len(), |e| *e as usize);
            self.starts[i] as usize..end
        })
    }
}
