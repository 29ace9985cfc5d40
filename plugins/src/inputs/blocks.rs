//! Cuts a growing stream of bytes into blocks of whole records and feeds them to a decoder, for inputs that read text as it comes.

use weir_plugin_api::{Collector, Position, collector::Refusal, options::Section, plugin::Decoder, ring::Closed};

/// Bytes a record may have before it is refused.
pub(super) const RECORD_MAX: usize = 16 * 1024 * 1024;
/// Bytes asked for at once.
pub(super) const BLOCK: usize = 256 * 1024;

/// Where a stream may be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// After any newline; many lines are one payload.
    Lines,
    /// After any newline; each line is a payload of its own, in one batch with the position behind it.
    EachLine,
    /// After a line that begins and ends as a JSON document does, so that documents may be spread over indented lines.
    Documents,
}

impl Cut {
    /// What fits the section's `data_format`; `spread` says that documents of several lines are wanted.
    pub(super) fn of(section: &Section<'_>, spread: bool) -> Self {
        use weir_plugin_api::options::Item;
        match section.node("data_format").map(|n| &n.item) {
            Some(Item::Text(format)) if format == "value" => Self::EachLine,
            Some(Item::Text(format)) if format == "json" => {
                if spread {
                    Self::Documents
                } else {
                    Self::EachLine
                }
            }
            _ => Self::Lines,
        }
    }

    /// How many bytes of `bytes` are whole records.
    fn whole(self, bytes: &[u8]) -> usize {
        let mut end = bytes.len();
        while let Some(newline) = memchr::memrchr(b'\n', &bytes[..end]) {
            if self != Self::Documents {
                return newline + 1;
            }
            let start = memchr::memrchr(b'\n', &bytes[..newline]).map_or(0, |n| n + 1);
            let line = bytes[start..newline].trim_ascii_end();
            if matches!(line.first(), Some(b'{' | b'[' | b'}' | b']')) && matches!(line.last(), Some(b'}' | b']')) {
                return newline + 1;
            }
            end = newline;
        }
        0
    }
}

/// Bytes read and not decoded yet.
#[derive(Debug)]
pub(super) struct Blocks {
    cut: Cut,
    buffer: Vec<u8>,
    /// The rest of a record that was too large is thrown away up to the next newline.
    discarding: bool,
}

impl Blocks {
    /// Nothing read yet.
    pub(super) fn new(cut: Cut) -> Self {
        Self { cut, buffer: Vec::new(), discarding: false }
    }

    /// Forgets what was not decoded.
    #[cfg(feature = "input-tail")]
    pub(super) fn clear(&mut self) {
        self.buffer.clear();
        self.discarding = false;
    }

    /// Whether everything was decoded.
    #[cfg(feature = "input-tail")]
    pub(super) fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Appends what was read.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Decodes the whole records, with `last` also what has no end. `position` is called with the number of bytes used up since the last
    /// call and says where a batch ends; a batch that is full is sent.
    ///
    /// # Errors
    /// When the core has stopped.
    pub(super) async fn decode(
        &mut self,
        decoder: &mut dyn Decoder,
        out: &mut Collector,
        last: bool,
        mut position: impl FnMut(&[u8]) -> Position,
    ) -> Result<(), Closed> {
        let whole = if last { self.buffer.len() } else { self.cut.whole(&self.buffer) };
        let mut at = 0;
        if self.discarding {
            let Some(newline) = memchr::memchr(b'\n', &self.buffer) else {
                position(&self.buffer);
                self.buffer.clear();
                return Ok(());
            };
            self.discarding = false;
            position(&self.buffer[..=newline]);
            at = newline + 1;
        }
        while at < whole {
            let end = match self.cut {
                Cut::EachLine => memchr::memchr(b'\n', &self.buffer[at..whole]).map_or(whole, |n| at + n + 1),
                Cut::Lines | Cut::Documents => whole,
            };
            let payload = &self.buffer[at..end];
            if self.cut == Cut::EachLine && payload.trim_ascii().is_empty() {
                position(payload);
                at = end;
                continue;
            }
            let used = if self.cut == Cut::EachLine {
                out.message(decoder, payload);
                payload.len()
            } else {
                decoder.decode(payload, out).min(payload.len())
            };
            let reached = position(&payload[..used]);
            at += used;
            // Nothing used up means a full collector too.
            if out.is_full() || used == 0 {
                out.flush(reached).await?;
            }
        }
        self.buffer.drain(..whole.max(at));
        if self.buffer.len() > RECORD_MAX {
            out.refuse(Refusal::Size, format_args!("a record of more than {RECORD_MAX} bytes"), &self.buffer);
            position(&self.buffer);
            self.buffer = Vec::new();
            self.discarding = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_cut_after_whole_records_only() {
        for (cut, text, expected) in [
            (Cut::Lines, "a\nb\nc", 4),
            (Cut::Lines, "abc", 0),
            (Cut::Documents, "{\"a\":1}\n{\"a\"", 8),
            (Cut::Documents, "{\n  \"a\": {\n  }\n", 0),
            (Cut::Documents, "{\n  \"a\": {\n  }\n}\r\n", 18),
        ] {
            assert_eq!(cut.whole(text.as_bytes()), expected, "{text:?}");
        }
    }
}
