//! Where a message ends in a stream: the strategies of Telegraf's socket listener, over a growing buffer.

use memchr::{memchr, memmem, memrchr};

/// How a stream is parted into messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// At this byte.
    Byte(u8),
    /// At this sequence.
    Sequence(Vec<u8>),
    /// Every so many bytes, at least 1.
    Fixed(usize),
}

impl Framing {
    /// Reads a delimiter as Telegraf writes it: hexadecimal digits, `0x` or `x` before them or not.
    pub(super) fn delimiter(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected hexadecimal bytes such as \"0x0d0a\"";
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix('x')).unwrap_or(text);
        if digits.is_empty() || !digits.len().is_multiple_of(2) || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(EXPECTED.into());
        }
        let bytes = (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16));
        let bytes: Vec<u8> = bytes.collect::<Result<_, _>>().map_err(|_| EXPECTED)?;
        Ok(if let [one] = bytes[..] { Self::Byte(one) } else { Self::Sequence(bytes) })
    }

    /// Length of the whole messages at the front of `bytes`, their delimiters included; `seen` of them were looked at before.
    pub(super) fn complete(&self, bytes: &[u8], seen: usize) -> usize {
        match self {
            Self::Byte(byte) => memrchr(*byte, &bytes[seen..]).map_or(0, |at| seen + at + 1),
            Self::Sequence(sequence) => {
                let from = seen.saturating_sub(sequence.len() - 1);
                memmem::rfind(&bytes[from..], sequence).map_or(0, |at| from + at + sequence.len())
            }
            Self::Fixed(length) => bytes.len() - bytes.len() % length,
        }
    }

    /// The first message of `bytes` without its delimiter, and how many bytes it takes with it.
    pub(super) fn first<'b>(&self, bytes: &'b [u8]) -> (&'b [u8], usize) {
        let (end, next) = match self {
            Self::Byte(byte) => memchr(*byte, bytes).map_or((bytes.len(), bytes.len()), |at| (at, at + 1)),
            Self::Sequence(sequence) => memmem::find(bytes, sequence).map_or((bytes.len(), bytes.len()), |at| (at, at + sequence.len())),
            Self::Fixed(length) => (bytes.len().min(*length), bytes.len().min(*length)),
        };
        (&bytes[..end], next)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn messages(framing: &Framing, bytes: &[u8]) -> (Vec<String>, usize) {
        let complete = framing.complete(bytes, 0);
        let (mut rest, mut all) = (&bytes[..complete], Vec::new());
        while !rest.is_empty() {
            let (message, next) = framing.first(rest);
            all.push(String::from_utf8_lossy(message).into_owned());
            rest = &rest[next..];
        }
        (all, bytes.len() - complete)
    }

    #[test]
    fn every_strategy_parts_a_stream_and_keeps_the_unfinished_rest() {
        assert_eq!(messages(&Framing::Byte(b'\n'), b"a\nbc\nd"), (vec!["a".into(), "bc".into()], 1));
        assert_eq!(messages(&Framing::delimiter("0x0d0a").unwrap(), b"a\r\nb\nc\r\n\r"), (vec!["a".into(), "b\nc".into()], 1));
        assert_eq!(messages(&Framing::Fixed(3), b"abcdefgh"), (vec!["abc".into(), "def".into()], 2));
    }

    #[test]
    fn a_delimiter_that_is_cut_in_two_is_found() {
        let framing = Framing::delimiter("0d0a").unwrap();
        assert_eq!(framing.complete(b"ab\r", 0), 0);
        assert_eq!(framing.complete(b"ab\r\n", 3), 4);
    }

    #[test]
    fn a_delimiter_that_is_not_hexadecimal_is_an_error() {
        for wrong in ["", "0x", "abc", "\n", "zz"] {
            assert!(Framing::delimiter(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(Framing::delimiter("00"), Ok(Framing::Byte(0)));
    }
}
