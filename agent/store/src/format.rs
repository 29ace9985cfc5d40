//! How a block looks on disk: a fixed header with its own checksum, then the payload, compressed when that helps.
//!
//! | bytes | journal and outbox block header, little-endian |
//! | --- | --- |
//! | 0..4 | magic `WRJ1` or `WRO1` |
//! | 4..5 | compressed: 0 or 1 |
//! | 5..6 | lane (outbox) |
//! | 6..8 | run that wrote it (journal): of two blocks with the same first record that of the later run counts |
//! | 8..16 | store id: blocks of a former life are not taken for ours |
//! | 16..24 | first record (outbox: of the first identity) |
//! | 24..32 | records (outbox: record of the last identity) |
//! | 32..40 | journal: records up to here were durable when this was written; outbox: ordinals of first and last identity, 4 bytes each |
//! | 40..44 | points |
//! | 44..60 | least and greatest event time |
//! | 60..68 | inputs bitmap |
//! | 68..72 | payload bytes before compression |
//! | 72..76 | payload bytes on disk |
//! | 76..80 | CRC-32C of the payload on disk |
//! | 80..84 | CRC-32C of bytes 0..80 |

/// Bytes of a header.
pub const HEADER: usize = 84;
/// Journal blocks begin at multiples of this.
pub const PAGE: usize = 4096;
/// Longest payload.
pub const PAYLOAD_MAX: usize = 64 << 20;
/// Magic of a journal block.
pub const JOURNAL: [u8; 4] = *b"WRJ1";
/// Magic of an outbox block.
pub const OUTBOX: [u8; 4] = *b"WRO1";
/// Below this compression gains nothing: a page is written anyway.
const COMPRESS_FROM: usize = 3 * 1024;

/// A block's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Lane of an outbox block.
    pub lane: u8,
    /// Run that wrote a journal block.
    pub run: u16,
    /// Store id.
    pub store: u64,
    /// See the module.
    pub first: u64,
    /// See the module.
    pub second: u64,
    /// See the module.
    pub third: u64,
    /// Points.
    pub points: u32,
    /// Event times.
    pub times: (i64, i64),
    /// Inputs.
    pub inputs: u64,
    /// Payload bytes before compression.
    pub raw: u32,
    /// Payload bytes on disk.
    pub stored: u32,
    /// Whether the payload is compressed: decided when it is encoded.
    pub compressed: bool,
    /// Checksum of the payload on disk.
    pub crc: u32,
}

/// Header and payload as they go to disk.
pub fn encode(magic: [u8; 4], mut header: Header, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; HEADER];
    if payload.len() >= COMPRESS_FROM {
        let room = lz4_flex::block::get_maximum_output_size(payload.len());
        out.resize(HEADER + room, 0);
        let written = lz4_flex::block::compress_into(payload, &mut out[HEADER..]).unwrap_or(usize::MAX);
        header.compressed = written < payload.len();
        out.truncate(HEADER + if header.compressed { written } else { 0 });
    }
    if !header.compressed {
        out.extend_from_slice(payload);
    }
    header.raw = payload.len() as u32;
    header.stored = (out.len() - HEADER) as u32;
    header.crc = crc32c::crc32c(&out[HEADER..]);
    let bytes = header.to_bytes(magic);
    out[..HEADER].copy_from_slice(&bytes);
    out
}

impl Header {
    fn to_bytes(self, magic: [u8; 4]) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &magic);
        put(4, &[u8::from(self.compressed), self.lane]);
        put(6, &self.run.to_le_bytes());
        put(8, &self.store.to_le_bytes());
        put(16, &self.first.to_le_bytes());
        put(24, &self.second.to_le_bytes());
        put(32, &self.third.to_le_bytes());
        put(40, &self.points.to_le_bytes());
        put(44, &self.times.0.to_le_bytes());
        put(52, &self.times.1.to_le_bytes());
        put(60, &self.inputs.to_le_bytes());
        put(68, &self.raw.to_le_bytes());
        put(72, &self.stored.to_le_bytes());
        put(76, &self.crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..80]);
        out[80..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header at the front of `bytes`, if it is one of `magic` and `store`.
    pub fn read(magic: [u8; 4], store: u64, bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if bytes[..4] != magic || u32_at(80) != crc32c::crc32c(&bytes[..80]) || u64_at(8) != store {
            return None;
        }
        let header = Self {
            compressed: bytes[4] == 1,
            lane: bytes[5],
            run: u16::from_le_bytes([bytes[6], bytes[7]]),
            store,
            first: u64_at(16),
            second: u64_at(24),
            third: u64_at(32),
            points: u32_at(40),
            times: (u64_at(44) as i64, u64_at(52) as i64),
            inputs: u64_at(60),
            raw: u32_at(68),
            stored: u32_at(72),
            crc: u32_at(76),
        };
        (header.raw as usize <= PAYLOAD_MAX && header.stored as usize <= PAYLOAD_MAX).then_some(header)
    }

    /// The store whose block begins here, if one does.
    pub fn store_of(bytes: &[u8]) -> Option<u64> {
        let store = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
        [JOURNAL, OUTBOX].iter().find_map(|magic| Self::read(*magic, store, bytes)).map(|_| store)
    }

    /// Bytes of header and payload.
    pub fn length(&self) -> usize {
        HEADER + self.stored as usize
    }

    /// The payload that follows the header in `block`, if its checksum is right.
    pub fn payload(&self, block: &[u8]) -> Option<Vec<u8>> {
        let stored = block.get(HEADER..self.length())?;
        if crc32c::crc32c(stored) != self.crc {
            return None;
        }
        if !self.compressed {
            return Some(stored.to_vec());
        }
        lz4_flex::block::decompress(stored, self.raw as usize).ok().filter(|p| p.len() == self.raw as usize)
    }
}

/// `length` rounded up to whole pages.
pub fn pages(length: usize) -> usize {
    length.div_ceil(PAGE) * PAGE
}
