//! How far outputs have come, where the journal can't take it: two slots of a file that has its room from the first start on.
//!
//! On a full disk what no output needs any more is removed to make room, and the records that say that nobody needs it may be waiting for
//! that very room. So this is written over in place and synced first.
//!
//! | bytes of a slot | little-endian |
//! | --- | --- |
//! | 0..4 | magic `WRD1` |
//! | 4..8 | CRC-32C of everything behind it, to the end of the payload |
//! | 8..16 | store id |
//! | 16..24 | number of the write, from 1: the slot is that number modulo 2, the greater one counts |
//! | 24..32 | number of the newest checkpoint that had been begun: with a later one it says nothing any more |
//! | 32..36 | bytes of the payload |
//! | 36.. | the payload |

use std::io;

use crate::{
    error::{Operation, StoreError},
    files::{self, Files},
};

/// Name of the file.
pub const NAME: &str = "cursors";
/// Magic of a slot.
pub const MAGIC: [u8; 4] = *b"WRD1";
/// Bytes of a slot.
pub const SLOT: usize = 16 * 1024;
const HEAD: usize = 36;

/// How far outputs had come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedCursors {
    /// Number of the write.
    pub number: u64,
    /// The newest checkpoint that had been begun.
    pub checkpoint: u64,
    /// What was saved.
    pub bytes: Vec<u8>,
}

/// The file.
#[derive(Debug, Default)]
pub struct Cursors {
    /// Number of the last write.
    number: u64,
    /// Its room is there, and its name durable.
    made: bool,
}

impl Cursors {
    /// What is there; the file is made if it is not, as far as that can be done: nothing needs it yet.
    pub fn open<F: Files>(files: &mut F, store: u64) -> Result<(Self, Option<SavedCursors>), StoreError> {
        let content = if files.list()?.iter().any(|n| n == NAME) { files::read_what_can_be(files, NAME).0 } else { Vec::new() };
        let newest = content.chunks(SLOT).filter_map(|slot| decode(slot, store)).max_by_key(|saved| saved.number);
        let mut cursors = Self { number: newest.as_ref().map_or(0, |saved| saved.number), made: content.len() == 2 * SLOT };
        if !cursors.made {
            let _ = cursors.make(files, content.len());
        }
        Ok((cursors, newest))
    }

    fn make<F: Files>(&mut self, files: &mut F, length: usize) -> Result<(), StoreError> {
        let length = length.min(2 * SLOT);
        files.write_at(NAME, length as u64, &vec![0; 2 * SLOT - length])?;
        files.sync(NAME)?;
        files.sync_names()?;
        self.made = true;
        Ok(())
    }

    /// Writes it, durably.
    pub fn save<F: Files>(&mut self, files: &mut F, store: u64, checkpoint: u64, bytes: &[u8]) -> Result<(), StoreError> {
        if HEAD + bytes.len() > SLOT {
            let source = io::Error::new(io::ErrorKind::FileTooLarge, format!("{} bytes of cursors, {} fit", bytes.len(), SLOT - HEAD));
            return Err(StoreError::Io { operation: Operation::Write, path: NAME.into(), source });
        }
        if !self.made {
            self.make(files, 0)?;
        }
        // A write that fails may have torn its slot: the next one goes there again, the other stays.
        let number = self.number + 1;
        files.write_at(NAME, (number % 2) * SLOT as u64, &encode(store, number, checkpoint, bytes))?;
        files.sync(NAME)?;
        self.number = number;
        Ok(())
    }

    /// Nothing counts any more of what was saved.
    pub fn clear<F: Files>(&mut self, files: &mut F) -> Result<(), StoreError> {
        let cleared = files.write_at(NAME, 0, &[0; 2 * SLOT]).and_then(|()| files.sync(NAME));
        cleared.or_else(|_| {
            self.made = false;
            files.remove(NAME).and_then(|()| files.sync_names())
        })
    }
}

fn encode(store: u64, number: u64, checkpoint: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD + bytes.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0; 4]);
    for value in [store, number, checkpoint] {
        out.extend_from_slice(&value.to_le_bytes());
    }
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
    let crc = crc32c::crc32c(&out[8..]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    out
}

fn decode(slot: &[u8], store: u64) -> Option<SavedCursors> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(slot.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_le_bytes(slot.get(at..at + 8)?.try_into().ok()?));
    let end = HEAD.checked_add(u32_at(32)? as usize)?;
    if slot.get(..4)? != MAGIC || u32_at(4)? != crc32c::crc32c(slot.get(8..end)?) || u64_at(8)? != store {
        return None;
    }
    Some(SavedCursors { number: u64_at(16)?, checkpoint: u64_at(24)?, bytes: slot[HEAD..end].to_vec() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::memory::{Luck, MemoryFiles};

    const STORE: u64 = 11;

    fn found(files: &mut MemoryFiles) -> Option<SavedCursors> {
        Cursors::open(files, STORE).unwrap().1
    }

    #[test]
    fn what_was_saved_last_is_there_after_a_power_cut_whatever_the_write_under_way_leaves() {
        for seed in 0..200 {
            let mut files = MemoryFiles::new(seed);
            let (mut cursors, nothing) = Cursors::open(&mut files, STORE).unwrap();
            assert_eq!(nothing, None);
            for number in 1..5u8 {
                cursors.save(&mut files, STORE, 7, &vec![number; 9000]).unwrap();
            }
            // The power fails under this one.
            files.faults.lying_sync = true;
            cursors.save(&mut files, STORE, 8, &[5; 9000]).unwrap();
            files.crash();
            files.faults.lying_sync = false;
            let found = found(&mut files).unwrap();
            assert!(found.number >= 4, "{}", found.number);
            assert_eq!(found.bytes, vec![found.number as u8; 9000]);
        }
    }

    #[test]
    fn a_full_disk_takes_it_as_its_room_is_there_from_the_start() {
        let mut files = MemoryFiles::new(1);
        let (mut cursors, _) = Cursors::open(&mut files, STORE).unwrap();
        files.faults.space = files.used();
        for _ in 0..3 {
            cursors.save(&mut files, STORE, 7, &[1; SLOT - HEAD]).unwrap();
        }
        files.crash_with(Luck::Nothing);
        assert_eq!(found(&mut files), Some(SavedCursors { number: 3, checkpoint: 7, bytes: vec![1; SLOT - HEAD] }));
        assert!(cursors.save(&mut files, STORE, 7, &[1; SLOT]).is_err(), "more than fits");
    }

    #[test]
    fn what_was_cleared_is_gone_and_another_stores_is_not_taken_for_ours() {
        let mut files = MemoryFiles::new(1);
        let (mut cursors, _) = Cursors::open(&mut files, STORE).unwrap();
        cursors.save(&mut files, STORE + 1, 7, b"others").unwrap();
        assert_eq!(found(&mut files), None);
        cursors.save(&mut files, STORE, 7, b"ours").unwrap();
        assert_eq!(found(&mut files).unwrap().bytes, b"ours");
        cursors.clear(&mut files).unwrap();
        files.crash_with(Luck::Nothing);
        assert_eq!(found(&mut files), None);
    }
}
