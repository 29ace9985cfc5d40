//! A row of numbers that goes on over resets: what a device remembers in memory that a reset leaves alone, so that a reading which a
//! reset has cost shows as a gap.
//!
//! Two places are written in turn, each with its own checksum: a reset in the middle of writing leaves the other one whole.

use crate::frame::crc;

/// Words of one place: generation, nonce, resets, schema, and three numbers of two words each; then the checksum.
const WORDS: usize = 11;
/// Words the memory must have.
pub const ROW_WORDS: usize = 2 * WORDS;

/// What a device knows of its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Names the row; never 0.
    pub nonce: u32,
    /// How often the device has started since the nonce was drawn.
    pub resets: u32,
    /// A checksum of the schema its readings are of.
    pub schema: u32,
    /// Number of the next reading.
    pub next: u64,
    /// Number of the oldest reading that is not acknowledged.
    pub oldest: u64,
    /// Readings dropped unacknowledged.
    pub dropped: u64,
}

/// Memory that survives a reset, word by word. What it holds after a power cut may be anything.
pub trait Memory {
    /// Reads a word; `word` is below [`ROW_WORDS`].
    fn read(&self, word: usize) -> u32;
    /// Writes it.
    fn write(&mut self, word: usize, value: u32);
}

/// The row in such a memory.
#[derive(Debug)]
pub struct KeptRow<M> {
    memory: M,
    generation: u32,
    kept: Option<Row>,
}

impl<M: Memory> KeptRow<M> {
    /// Looks for the row of the life before.
    pub fn new(memory: M) -> Self {
        let newest = match (load(&memory, 0), load(&memory, WORDS)) {
            // The generations differ by one, across their wrap too.
            (Some(a), Some(b)) => Some(if a.0.wrapping_sub(b.0) as i32 > 0 { a } else { b }),
            (a, b) => a.or(b),
        };
        Self { memory, generation: newest.map_or(0, |(generation, _)| generation), kept: newest.map(|(_, row)| row) }
    }

    /// What is kept, if anything is.
    pub fn row(&self) -> Option<Row> {
        self.kept
    }

    /// Keeps `row`, if it is another one than before.
    pub fn keep(&mut self, row: Row) {
        if self.kept == Some(row) {
            return;
        }
        self.generation = self.generation.wrapping_add(1);
        let words = encode(self.generation, &row);
        let place = (self.generation % 2) as usize * WORDS;
        for (i, word) in words.iter().enumerate() {
            self.memory.write(place + i, *word);
        }
        self.memory.write(place + WORDS - 1, checksum(&words));
        self.kept = Some(row);
    }
}

fn encode(generation: u32, row: &Row) -> [u32; WORDS - 1] {
    let [next, oldest, dropped] = [row.next, row.oldest, row.dropped].map(|n| [n as u32, (n >> 32) as u32]);
    [generation, row.nonce, row.resets, row.schema, next[0], next[1], oldest[0], oldest[1], dropped[0], dropped[1]]
}

fn load(memory: &impl Memory, place: usize) -> Option<(u32, Row)> {
    let words: [u32; WORDS - 1] = core::array::from_fn(|i| memory.read(place + i));
    let long = |i: usize| u64::from(words[i]) | u64::from(words[i + 1]) << 32;
    let row = Row { nonce: words[1], resets: words[2], schema: words[3], next: long(4), oldest: long(6), dropped: long(8) };
    let is_sound = row.nonce != 0 && row.oldest >= 1 && row.oldest <= row.next && row.dropped < row.oldest;
    (memory.read(place + WORDS - 1) == checksum(&words) && is_sound).then_some((words[0], row))
}

fn checksum(words: &[u32; WORDS - 1]) -> u32 {
    let mut bytes = [0; (WORDS - 1) * 4];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    crc::crc32c(&bytes)
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use super::*;

    /// Memory that is cut off after some writes.
    #[derive(Clone)]
    struct Ram(Rc<RefCell<([u32; ROW_WORDS], usize)>>);

    impl Ram {
        fn new(fill: u32) -> Self {
            Self(Rc::new(RefCell::new(([fill; ROW_WORDS], usize::MAX))))
        }
    }

    impl Memory for Ram {
        fn read(&self, word: usize) -> u32 {
            self.0.borrow().0[word]
        }

        fn write(&mut self, word: usize, value: u32) {
            let mut ram = self.0.borrow_mut();
            if ram.1 > 0 {
                ram.1 -= 1;
                ram.0[word] = value;
            }
        }
    }

    fn row(next: u64) -> Row {
        Row { nonce: 7, resets: 1, schema: 3, next, oldest: next - 1, dropped: 0 }
    }

    #[test]
    fn memory_that_never_held_a_row_holds_none() {
        for fill in [0, u32::MAX, 0xa5a5_a5a5] {
            assert_eq!(KeptRow::new(Ram::new(fill)).row(), None);
        }
    }

    #[test]
    fn a_reset_at_any_word_leaves_the_row_before_or_the_new_one() {
        for writes in 0..=WORDS {
            let ram = Ram::new(0);
            let mut kept = KeptRow::new(ram.clone());
            for next in [2, 3, 1 << 40] {
                kept.keep(row(next));
            }
            ram.0.borrow_mut().1 = writes;
            kept.keep(row(u64::MAX - 1));
            let whole = writes == WORDS;
            assert_eq!(KeptRow::new(ram).row(), Some(row(if whole { u64::MAX - 1 } else { 1 << 40 })), "after {writes} writes");
        }
    }
}
