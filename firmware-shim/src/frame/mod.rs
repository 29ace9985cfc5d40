//! Bytes on the line: stuffing, checksum, version, and the decoder that finds frames again in the middle of a stream.

mod bytes;
pub mod cobs;
pub mod crc;
mod message;

pub use message::{Data, Field, FieldKind, Fields, Hello, Message, Reading, Readings, TimeReply, Value};
pub(crate) use message::{DataWriter, Kinds, NUMBER_MAX, write_hello, write_simple};

/// Version of the protocol: the first byte of each body.
pub const VERSION: u8 = 2;
/// Bytes of a body at most.
pub const BODY_MAX: usize = 250;
/// Bytes of a whole frame on the wire at most, with its delimiter.
pub const WIRE_MAX: usize = 256;
/// Fields of a device at most: so many that a reading of the longest numbers fits into a frame.
pub const FIELDS_MAX: usize = 16;

const CRC_BYTES: usize = 4;

/// Why a frame was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Bytes that no COBS encoder makes, or too few for a frame.
    Stuffing,
    /// The checksum is wrong.
    Checksum,
    /// Another version of the protocol, this one.
    Version(u8),
    /// More bytes without a zero than a frame has.
    Overlong,
    /// The body is not what its type says.
    Body,
}

impl core::fmt::Display for FrameError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Stuffing => f.write_str("not a frame"),
            Self::Checksum => f.write_str("wrong checksum"),
            Self::Version(version) => write!(f, "protocol version {version}, expected {VERSION}"),
            Self::Overlong => f.write_str("longer than a frame can be"),
            Self::Body => f.write_str("the body is not what its type says"),
        }
    }
}

/// What a decoder refused, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameCounts {
    /// Frames whose body was handed out.
    pub good: u64,
    /// Wrong stuffing or checksum.
    pub bad_checksum: u64,
    /// Another version.
    pub bad_version: u64,
    /// Too long.
    pub overlong: u64,
    /// Right checksum, wrong content.
    pub bad_body: u64,
}

/// Finds frames in a stream of bytes; needs 256 bytes and forgets noise at the next zero.
#[derive(Clone, Debug)]
pub struct FrameDecoder {
    buffer: [u8; WIRE_MAX],
    len: usize,
    overlong: bool,
    /// Length of the body that lies decoded in `buffer`.
    body: usize,
    /// Counts so far.
    pub counts: FrameCounts,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self { buffer: [0; WIRE_MAX], len: 0, overlong: false, body: 0, counts: FrameCounts::default() }
    }
}

impl FrameDecoder {
    /// Takes one byte. `Some` when it ended a frame: its [`FrameDecoder::body`] is whole and of our version, or why not.
    pub fn push(&mut self, byte: u8) -> Option<Result<(), FrameError>> {
        if byte != 0 {
            if self.len < WIRE_MAX - 1 {
                self.buffer[self.len] = byte;
                self.len += 1;
            } else {
                self.overlong = true;
            }
            return None;
        }
        let (len, overlong) = (core::mem::take(&mut self.len), core::mem::take(&mut self.overlong));
        if len == 0 {
            return None;
        }
        let outcome = if overlong { Err(FrameError::Overlong) } else { self.open(len) };
        match outcome {
            Ok(()) => self.counts.good += 1,
            Err(FrameError::Overlong) => self.counts.overlong += 1,
            Err(FrameError::Version(_)) => self.counts.bad_version += 1,
            Err(FrameError::Body) => self.counts.bad_body += 1,
            Err(FrameError::Stuffing | FrameError::Checksum) => self.counts.bad_checksum += 1,
        }
        Some(outcome)
    }

    fn open(&mut self, len: usize) -> Result<(), FrameError> {
        self.body = 0;
        let len = cobs::decode(&mut self.buffer[..len]).ok_or(FrameError::Stuffing)?;
        // Version and type at least.
        let body = len.checked_sub(CRC_BYTES).filter(|body| *body >= 2).ok_or(FrameError::Stuffing)?;
        let (content, sum) = self.buffer[..len].split_at(body);
        if crc::crc32c(content).to_le_bytes() != *sum {
            return Err(FrameError::Checksum);
        }
        if content[0] != VERSION {
            return Err(FrameError::Version(content[0]));
        }
        self.body = body;
        Ok(())
    }

    /// The body of the frame that ended last, until the next byte is pushed.
    pub fn body(&self) -> &[u8] {
        &self.buffer[..self.body]
    }

    /// The message in it.
    ///
    /// # Errors
    /// [`FrameError::Body`].
    pub fn message(&self) -> Result<Message<'_>, FrameError> {
        Message::read(self.body())
    }

    /// Throws away what has come of a frame that never ended: for a new connection.
    pub fn reset(&mut self) {
        self.len = 0;
        self.overlong = false;
    }

    /// Whether some bytes of a frame are waiting for its end.
    pub fn is_inside(&self) -> bool {
        self.len > 0 || self.overlong
    }
}

/// Puts checksum, stuffing and delimiter around the first `len` bytes of `body`, which must have room for the checksum after them.
pub(crate) fn seal(body: &mut [u8; BODY_MAX + CRC_BYTES], len: usize, out: &mut [u8; WIRE_MAX]) -> usize {
    let sum = crc::crc32c(&body[..len]).to_le_bytes();
    body[len..len + CRC_BYTES].copy_from_slice(&sum);
    // 254 bytes grow by one, and one is left for the delimiter.
    let Some(end) = cobs::encode(&body[..len + CRC_BYTES], &mut out[..WIRE_MAX - 1]) else { return 0 };
    out[end] = 0;
    end + 1
}

/// Room for a body and its checksum.
pub(crate) const fn body_buffer() -> [u8; BODY_MAX + CRC_BYTES] {
    [0; BODY_MAX + CRC_BYTES]
}

/// Writes an acknowledgement of everything up to `sequence` and returns its length.
pub fn write_ack(nonce: u32, sequence: u64, out: &mut [u8; WIRE_MAX]) -> usize {
    write_simple(Message::Ack { nonce, sequence }, out)
}

/// Writes the wish to have everything from `sequence` again and returns its length.
pub fn write_resend(nonce: u32, sequence: u64, out: &mut [u8; WIRE_MAX]) -> usize {
    write_simple(Message::Resend { nonce, sequence }, out)
}

/// Writes the question for a hello and returns its length.
pub fn write_hello_request(out: &mut [u8; WIRE_MAX]) -> usize {
    write_simple(Message::HelloRequest, out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(decoder: &mut FrameDecoder, bytes: &[u8]) -> Vec<Result<Vec<u8>, FrameError>> {
        let mut found = Vec::new();
        for byte in bytes {
            if let Some(outcome) = decoder.push(*byte) {
                found.push(outcome.map(|()| decoder.body().to_vec()));
            }
        }
        found
    }

    #[test]
    fn a_frame_of_another_version_is_refused_by_that_name() {
        let mut body = body_buffer();
        body[..2].copy_from_slice(&[9, 4]);
        let mut wire = [0; WIRE_MAX];
        let len = seal(&mut body, 2, &mut wire);
        assert_eq!(decode(&mut FrameDecoder::default(), &wire[..len]), [Err(FrameError::Version(9))]);
    }

    #[test]
    fn the_longest_body_fits_and_one_byte_more_is_overlong() {
        let (mut body, mut wire) = ([7; BODY_MAX + CRC_BYTES], [0; WIRE_MAX]);
        body[0] = VERSION;
        let len = seal(&mut body, BODY_MAX, &mut wire);
        assert!((WIRE_MAX - 1..=WIRE_MAX).contains(&len));
        let mut decoder = FrameDecoder::default();
        assert_eq!(decode(&mut decoder, &wire[..len])[0].as_ref().map(Vec::len), Ok(BODY_MAX));
        let mut noise = vec![1; 300];
        noise.push(0);
        noise.extend_from_slice(&wire[..len]);
        let found = decode(&mut decoder, &noise);
        assert_eq!(found[0], Err(FrameError::Overlong));
        assert!(found[1].is_ok());
        assert_eq!((decoder.counts.overlong, decoder.counts.good), (1, 2));
    }

    proptest! {
        #[test]
        fn no_stream_of_bytes_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut decoder = FrameDecoder::default();
            for byte in bytes {
                if decoder.push(byte) == Some(Ok(())) {
                    let _ = decoder.message();
                }
            }
        }

        #[test]
        fn a_flipped_bit_is_never_taken(sequence in any::<u64>(), bit in 0usize..64) {
            let mut wire = [0; WIRE_MAX];
            let len = write_ack(0x1234_5678, sequence, &mut wire);
            let bit = bit % (8 * (len - 1));
            wire[bit / 8] ^= 1 << (bit % 8);
            for found in decode(&mut FrameDecoder::default(), &wire[..len]) {
                prop_assert!(found.is_err());
            }
        }

        #[test]
        fn frames_survive_any_noise_that_a_zero_ends(noise in proptest::collection::vec(any::<u8>(), 0..700), sequence in any::<u64>()) {
            let mut decoder = FrameDecoder::default();
            let mut wire = [0; WIRE_MAX];
            let len = write_ack(7, sequence, &mut wire);
            decode(&mut decoder, &noise);
            decode(&mut decoder, &[0]);
            let found = decode(&mut decoder, &wire[..len]);
            prop_assert!(matches!(found.as_slice(), [Ok(_)]));
            prop_assert_eq!(decoder.message(), Ok(Message::Ack { nonce: 7, sequence }));
        }
    }
}
