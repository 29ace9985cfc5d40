//! Messages: payloads whose points are recorded together or not at all.
//!
//! Apart from the collector because it is the one place where a batch grows past its usual size: a crash between two batches of one
//! message would make the source send it again, and what the first batch held would count twice. So a message stays in one batch,
//! which is one record of one block of the journal.

use super::{Collector, Mark, Refusal};
use crate::{
    batch::{MESSAGE_CELLS, MESSAGE_TEXT},
    plugin::Decoder,
};

impl Collector {
    /// Decodes `payload` so that all its points are in one batch with whatever the collector holds already. A message with more than
    /// [`MESSAGE_CELLS`] cells or [`MESSAGE_TEXT`] bytes of text is counted `refused{size}` as a whole; `false` then.
    /// The caller flushes when the collector is full.
    pub fn message(&mut self, decoder: &mut dyn Decoder, payload: &[u8]) -> bool {
        let mark = self.begin_message();
        let (mut rest, mut fits) = (payload, true);
        loop {
            let used = decoder.decode(rest, self);
            rest = &rest[used.min(rest.len())..];
            if rest.is_empty() {
                break;
            }
            if self.is_full() {
                // Read to its end all the same, so that the decoder is where it would be.
                fits = false;
                self.take_back(&mark);
            } else if used == 0 {
                self.refuse(Refusal::Parse, "the rest of a message can't be read", rest);
                break;
            }
        }
        self.end_message();
        if !fits {
            self.take_back(&mark);
            let reason =
                format_args!("a message of {} bytes has more than {MESSAGE_CELLS} fields or {MESSAGE_TEXT} bytes of text", payload.len());
            self.refuse(Refusal::Size, reason, payload);
        }
        fits
    }

    fn begin_message(&mut self) -> Mark {
        let (cells, text) = (self.batch.cells.len(), self.batch.text.len());
        (self.cells_max, self.text_max) = (cells + MESSAGE_CELLS, text + MESSAGE_TEXT);
        Mark { cells, text, points: self.batch.points, counts: self.counts }
    }

    fn end_message(&mut self) {
        (self.cells_max, self.text_max) = Self::SIZE;
    }

    /// Takes out everything since `mark` but the names it brought.
    fn take_back(&mut self, mark: &Mark) {
        self.open = None;
        self.batch.cells.truncate(mark.cells);
        self.batch.text.truncate(mark.text);
        self.batch.points = mark.points;
        self.counts = mark.counts;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        batch::{BATCH_CELLS, Batch},
        position::{FilePosition, Position},
        testing::{self, Receiver},
        value::Value,
    };

    /// A point for each byte: its value; `!` can't be read, `"` is a large text.
    struct Bytes;

    impl Decoder for Bytes {
        fn decode(&mut self, bytes: &[u8], out: &mut Collector) -> usize {
            for (at, byte) in bytes.iter().enumerate() {
                if out.is_full() {
                    return at;
                }
                match byte {
                    b'!' => out.refuse(Refusal::Parse, "no", b"!"),
                    b'"' => drop(out.point("m", &[], Some(1)).field("t", Value::Text(&"x".repeat(MESSAGE_TEXT / 4)))),
                    byte => drop(out.point("m", &[], Some(1)).field("v", u64::from(*byte))),
                }
            }
            bytes.len()
        }
    }

    fn taken(receiver: &mut Receiver) -> Vec<Batch> {
        std::iter::from_fn(|| receiver.ring.try_recv()).collect()
    }

    fn position(offset: u64) -> Position {
        Position::Files(vec![FilePosition { path: "p".into(), file: (1, 2), offset, head: 0 }])
    }

    #[test]
    fn a_message_of_any_allowed_length_is_one_batch() {
        let (mut collector, mut receiver) = testing::collector();
        for length in [1, BATCH_CELLS, 3000, MESSAGE_CELLS] {
            assert!(collector.message(&mut Bytes, b"ab"));
            assert!(collector.message(&mut Bytes, &vec![7; length]));
            collector.try_flush(position(length as u64)).expect("open");
            let batches = taken(&mut receiver);
            assert_eq!(batches.len(), 1);
            assert_eq!((batches[0].cells.len(), batches[0].points as usize), (length + 2, length + 2));
            assert_eq!(batches[0].counts.read, length as u64 + 2);
            batches.into_iter().for_each(|b| receiver.ring.recycle(b));
        }
    }

    #[test]
    fn a_message_that_is_too_large_is_refused_whole_and_costs_only_itself() {
        let (mut collector, mut receiver) = testing::collector();
        let mut large = vec![7; MESSAGE_CELLS + 5];
        large[3] = b'!';
        for payload in [large, vec![b'"'; 6]] {
            assert!(collector.message(&mut Bytes, b"a!"));
            assert!(!collector.message(&mut Bytes, &payload));
            assert!(collector.message(&mut Bytes, b"b"));
            collector.try_flush(position(1)).expect("open");
            let batch = taken(&mut receiver).remove(0);
            assert_eq!(batch.cells.iter().map(|c| c.value).collect::<Vec<_>>(), [97, 98]);
            assert_eq!((batch.counts.read, batch.counts.refused_parse, batch.counts.refused_size), (4, 1, 1));
            receiver.ring.recycle(batch);
        }
    }

    #[test]
    fn a_large_message_waits_until_the_core_has_taken_what_was_sent() {
        let (mut collector, mut receiver) = testing::collector();
        for sent in 0..3 {
            collector.message(&mut Bytes, &vec![7; 10_000]);
            let mut flushing = std::pin::pin!(collector.flush(position(sent)));
            let waits = sent > 0;
            assert_eq!(now(flushing.as_mut()).is_none(), waits, "no second large batch waits in the ring");
            if waits {
                receiver.take();
                assert!(now(flushing.as_mut()).is_some());
            }
        }
        let batch = receiver.ring.try_recv().expect("sent");
        receiver.ring.recycle(batch);
        receiver.take();
        for _ in 0..16 {
            let batch = collector.ring.try_empty().expect("the pool is whole");
            assert!(batch.cells.capacity() <= 4 * BATCH_CELLS, "a large message does not keep its memory");
        }
    }

    fn now<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
