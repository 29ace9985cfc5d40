//! What a device keeps until the gateway has it: a queue of fixed size whose oldest reading goes first, counted.

use heapless::{Deque, Vec};

use crate::frame::Value;

/// A reading that waits for its acknowledgement.
#[derive(Clone, Debug, PartialEq)]
pub struct Retained<const FIELDS: usize> {
    /// When it was taken, microseconds of the device's uptime.
    pub taken_us: u64,
    /// One per field.
    pub values: Vec<Option<Value>, FIELDS>,
}

/// Numbered readings, oldest first. By far the largest thing of a device: firmware puts it into a static, where it is all zeros and so
/// costs no flash, and lends it to the device.
#[derive(Debug)]
pub struct Retain<const DEPTH: usize, const FIELDS: usize> {
    queue: Deque<Retained<FIELDS>, DEPTH>,
    /// Number of the last reading that is gone; the one after it stands in front.
    gone: u64,
    dropped: u64,
}

impl<const DEPTH: usize, const FIELDS: usize> Default for Retain<DEPTH, FIELDS> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const DEPTH: usize, const FIELDS: usize> Retain<DEPTH, FIELDS> {
    /// An empty queue, whose first reading gets number 1.
    pub const fn new() -> Self {
        Self { queue: Deque::new(), gone: 0, dropped: 0 }
    }

    /// Empties it; the next reading gets the number `next`, 1 at least, after `dropped` that were lost.
    pub fn resume(&mut self, next: u64, dropped: u64) {
        self.queue.clear();
        (self.gone, self.dropped) = (next.saturating_sub(1), dropped);
    }

    /// Keeps a reading and returns its number; the oldest makes room when the queue is full.
    pub fn push(&mut self, reading: Retained<FIELDS>) -> u64 {
        let number = self.next();
        if let Err(reading) = self.queue.push_back(reading) {
            self.queue.pop_front();
            self.gone += 1;
            self.dropped += 1;
            if self.queue.push_back(reading).is_err() {
                // A queue of no places keeps nothing: this reading was the oldest.
                self.gone = number;
            }
        }
        number
    }

    /// Lets go of everything up to `number`; whether there was any.
    pub fn acknowledge(&mut self, number: u64) -> bool {
        let before = self.gone;
        while self.gone < number && self.queue.pop_front().is_some() {
            self.gone += 1;
        }
        self.gone > before
    }

    /// The reading of this number, if it is still here.
    pub fn get(&self, number: u64) -> Option<&Retained<FIELDS>> {
        self.queue.get(usize::try_from(number.checked_sub(self.oldest())?).ok()?)
    }

    /// Number of the oldest reading, or of the next when there is none.
    pub fn oldest(&self) -> u64 {
        self.gone + 1
    }

    /// Number the next reading gets.
    pub fn next(&self) -> u64 {
        self.oldest() + self.queue.len() as u64
    }

    /// Readings that were dropped since boot.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(taken_us: u64) -> Retained<1> {
        Retained { taken_us, values: Vec::from_slice(&[Some(Value::Bool(true))]).expect("one fits") }
    }

    #[test]
    fn a_full_queue_drops_its_oldest_and_counts_it() {
        let mut retain = Retain::<2, 1>::default();
        assert_eq!([1, 2, 3].map(|at| retain.push(reading(at))), [1, 2, 3]);
        assert_eq!((retain.oldest(), retain.dropped()), (2, 1));
        assert_eq!(retain.get(1), None);
        assert_eq!(retain.get(3).map(|r| r.taken_us), Some(3));
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_frees_only_what_is_here() {
        let mut retain = Retain::<4, 1>::default();
        retain.push(reading(1));
        assert!(retain.acknowledge(99));
        assert!(!retain.acknowledge(99));
        assert_eq!((retain.oldest(), retain.push(reading(2))), (2, 2));
    }
}
