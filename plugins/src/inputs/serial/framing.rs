//! Parts a stream of bytes into payloads, with bounded memory; reads no port and no clock.

use std::ops::Range;

use memchr::memmem;

/// What ends a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// A newline, with a carriage return before it if there is one.
    Line,
    /// These bytes.
    Delimiter(Vec<u8>),
    /// This many bytes.
    Fixed(usize),
    /// A pause.
    Idle,
}

/// What came out.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A payload without its end.
    Whole(&'a [u8]),
    /// A payload larger than the bound; its beginning.
    TooLarge(&'a [u8]),
    /// Half a payload of fixed length, and then a pause; or half of any, and then the end of the connection.
    Torn(&'a [u8]),
}

/// Parts what is fed to it.
#[derive(Debug)]
pub(super) struct Splitter {
    rule: Rule,
    max: usize,
    buffer: Vec<u8>,
    /// Where what is not handed out begins, and how far it was searched for an end.
    start: usize,
    searched: usize,
    /// Everything up to the next end is thrown away.
    discarding: bool,
}

enum Found {
    Whole(Range<usize>),
    TooLarge(Range<usize>),
}

impl Splitter {
    /// A splitter whose payloads have at most `max` bytes.
    pub(super) fn new(rule: Rule, max: usize) -> Self {
        Self { rule, max, buffer: Vec::new(), start: 0, searched: 0, discarding: false }
    }

    /// Forgets everything, for a new connection; with `discard` it also throws away what comes up to the first end.
    pub(super) fn reset(&mut self, discard: bool) {
        self.buffer.clear();
        (self.start, self.searched) = (0, 0);
        self.discarding = discard;
    }

    /// Takes bytes; [`Splitter::next`] is to be called until it has nothing more before the next ones.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next payload.
    pub(super) fn next(&mut self) -> Option<Piece<'_>> {
        let found = match &self.rule {
            Rule::Fixed(length) => {
                let length = *length;
                (self.waiting() >= length).then(|| self.take(self.start + length, 0))
            }
            Rule::Idle => {
                if self.waiting() > self.max && !self.discarding {
                    Some(self.overflow(0))
                } else {
                    if self.discarding {
                        self.start = self.buffer.len();
                        self.searched = self.start;
                    }
                    None
                }
            }
            Rule::Line => self.next_delimited(1),
            Rule::Delimiter(delimiter) => {
                let length = delimiter.len();
                self.next_delimited(length)
            }
        };
        Some(match found? {
            Found::Whole(range) => Piece::Whole(&self.buffer[range]),
            Found::TooLarge(range) => Piece::TooLarge(&self.buffer[range]),
        })
    }

    fn next_delimited(&mut self, delimiter_len: usize) -> Option<Found> {
        loop {
            let hay = &self.buffer[self.searched..];
            let end = match &self.rule {
                Rule::Delimiter(delimiter) => memmem::find(hay, delimiter),
                _ => memchr::memchr(b'\n', hay),
            };
            let Some(end) = end.map(|at| at + self.searched) else {
                // The end may be parted between this read and the next.
                self.searched = self.buffer.len().saturating_sub(delimiter_len - 1).max(self.start);
                if self.discarding {
                    self.start = self.searched;
                } else if self.waiting() > self.max + delimiter_len {
                    return Some(self.overflow(delimiter_len - 1));
                }
                return None;
            };
            if std::mem::take(&mut self.discarding) {
                self.start = end + delimiter_len;
                self.searched = self.start;
                continue;
            }
            let too_large = end - self.start > self.max;
            let Found::Whole(mut range) = self.take(end, delimiter_len) else { continue };
            if self.rule == Rule::Line && self.buffer[range.clone()].last() == Some(&b'\r') {
                range.end -= 1;
            }
            if too_large {
                return Some(Found::TooLarge(range));
            }
            if !range.is_empty() {
                return Some(Found::Whole(range));
            }
        }
    }

    /// Nothing has come for a while: what waits is a payload, or half of one.
    pub(super) fn pause(&mut self) -> Option<Piece<'_>> {
        let discarding = match self.rule {
            Rule::Idle => std::mem::take(&mut self.discarding),
            Rule::Fixed(_) => false,
            Rule::Line | Rule::Delimiter(_) => return None,
        };
        let Found::Whole(range) = self.take(self.buffer.len(), 0) else { return None };
        if range.is_empty() || discarding {
            return None;
        }
        let bytes = &self.buffer[range];
        Some(if self.rule == Rule::Idle { Piece::Whole(bytes) } else { Piece::Torn(bytes) })
    }

    /// Nothing more comes on this connection: what is half there, so that it can be counted, is thrown away.
    pub(super) fn cut_off(&mut self) -> Option<Piece<'_>> {
        let discarding = std::mem::take(&mut self.discarding);
        let Found::Whole(range) = self.take(self.buffer.len(), 0) else { return None };
        let blank = self.rule == Rule::Line && self.buffer[range.clone()].trim_ascii().is_empty();
        (!range.is_empty() && !discarding && !blank).then(|| Piece::Torn(&self.buffer[range]))
    }

    /// Whether a pause would mean something now.
    pub(super) fn minds_pauses(&self) -> bool {
        matches!(self.rule, Rule::Idle | Rule::Fixed(_)) && (self.waiting() > 0 || self.discarding)
    }

    fn waiting(&self) -> usize {
        self.buffer.len() - self.start
    }

    fn take(&mut self, end: usize, delimiter_len: usize) -> Found {
        let range = self.start..end;
        self.start = end + delimiter_len;
        self.searched = self.start;
        Found::Whole(range)
    }

    /// Gives up the payload that is coming in, but for the last bytes, which may begin its end.
    fn overflow(&mut self, keep: usize) -> Found {
        let range = self.start..self.buffer.len();
        self.start = self.buffer.len() - keep;
        self.searched = self.start;
        self.discarding = true;
        Found::TooLarge(range)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(splitter: &mut Splitter, bytes: &[u8]) -> Vec<String> {
        splitter.feed(bytes);
        let mut pieces = Vec::new();
        while let Some(piece) = splitter.next() {
            pieces.push(describe(&piece));
        }
        pieces
    }

    fn describe(piece: &Piece<'_>) -> String {
        match piece {
            Piece::Whole(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Piece::TooLarge(_) => "<too large>".into(),
            Piece::Torn(bytes) => format!("<torn {}>", bytes.len()),
        }
    }

    #[test]
    fn lines_lose_their_ends_and_empty_ones_are_nothing() {
        let mut splitter = Splitter::new(Rule::Line, 8);
        assert_eq!(split(&mut splitter, b"one\r\n\n\r\ntw"), ["one"]);
        assert_eq!(split(&mut splitter, b"o\nthree\n"), ["two", "three"]);
    }

    #[test]
    fn a_delimiter_may_be_parted_between_reads() {
        let mut splitter = Splitter::new(Rule::Delimiter(b"<END>".to_vec()), 8);
        assert_eq!(split(&mut splitter, b"one<E"), Vec::<String>::new());
        assert_eq!(split(&mut splitter, b"ND>two<END>"), ["one", "two"]);
    }

    #[test]
    fn a_payload_past_the_bound_is_told_once_and_the_next_is_whole() {
        let mut splitter = Splitter::new(Rule::Line, 4);
        assert_eq!(split(&mut splitter, b"1234\n12345\n"), ["1234", "<too large>"]);
        assert_eq!(split(&mut splitter, &[b'x'; 100]), ["<too large>"]);
        assert_eq!(split(&mut splitter, &[b'x'; 100]), Vec::<String>::new());
        assert_eq!(split(&mut splitter, b"x\nok\n"), ["ok"]);
        let mut splitter = Splitter::new(Rule::Delimiter(b"ab".to_vec()), 2);
        assert_eq!(split(&mut splitter, b"xxxxxa"), ["<too large>"]);
        assert_eq!(split(&mut splitter, b"bokab"), ["ok"]);
    }

    #[test]
    fn a_pause_ends_a_payload_or_throws_half_a_fixed_one_away() {
        let mut splitter = Splitter::new(Rule::Idle, 4);
        assert!(split(&mut splitter, b"ab").is_empty());
        assert_eq!(splitter.pause().as_ref().map(describe), Some("ab".into()));
        assert_eq!(split(&mut splitter, b"12345"), ["<too large>"]);
        assert!(split(&mut splitter, b"12345").is_empty());
        assert_eq!(splitter.pause(), None);
        let mut splitter = Splitter::new(Rule::Fixed(3), 4);
        assert_eq!(split(&mut splitter, b"abcde"), ["abc"]);
        assert_eq!(splitter.pause().as_ref().map(describe), Some("<torn 2>".into()));
        assert_eq!(split(&mut splitter, b"abc"), ["abc"]);
        assert!(!splitter.minds_pauses());
    }

    #[test]
    fn the_rest_of_a_missed_payload_can_be_thrown_away() {
        let mut splitter = Splitter::new(Rule::Line, 64);
        splitter.reset(true);
        assert_eq!(split(&mut splitter, b"3.5\n21.5\n"), ["21.5"]);
    }

    proptest! {
        #[test]
        fn reads_of_any_size_give_the_same_payloads(
            lines in proptest::collection::vec("[a-c;]{0,12}", 0..12), cut in 1usize..9, wide in any::<bool>(),
        ) {
            let delimiter: &[u8] = if wide { b";;" } else { b"|" };
            let stream: Vec<u8> = lines.iter().flat_map(|l| [l.as_bytes(), delimiter].concat()).collect();
            let rule = Rule::Delimiter(delimiter.to_vec());
            let at_once = split(&mut Splitter::new(rule.clone(), 64), &stream);
            let mut splitter = Splitter::new(rule, 64);
            let parted: Vec<String> = stream.chunks(cut).flat_map(|chunk| split(&mut splitter, chunk)).collect();
            prop_assert_eq!(at_once, parted);
        }

        #[test]
        fn memory_stays_bounded_whatever_comes(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..40)) {
            let mut splitter = Splitter::new(Rule::Line, 100);
            for chunk in chunks {
                split(&mut splitter, &chunk);
                prop_assert!(splitter.waiting() <= 101);
            }
        }
    }
}
