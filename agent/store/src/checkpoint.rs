//! Checkpoints: two generations of the state, each a file that is whole or not there.
//!
//! | bytes | little-endian |
//! | --- | --- |
//! | 0..4 | magic `WRC2` |
//! | 4..8 | CRC-32C of everything behind it |
//! | 8..16 | store id |
//! | 16..24 | number |
//! | 24..32 | records up to here are in the state |
//! | 32..64 | end of each outbox lane: segment, bytes |
//! | 64..72 | bytes of the state before compression |
//! | 72..80 | bytes written in the life of the store, before this |
//! | 80..88 | syncs likewise |
//! | 88.. | the state, LZ4 |
//!
//! `WRC1`, which is read too, lacks 72..88.

use crate::{
    counted::Writes,
    error::StoreError,
    files::{self, Files},
    outbox::Ends,
};

/// Magic of a checkpoint.
pub const MAGIC: [u8; 4] = *b"WRC2";
const HEAD: usize = 88;
/// Magic of one that does not say what was written.
const MAGIC_1: [u8; 4] = *b"WRC1";
const HEAD_1: usize = 72;
const TEMPORARY: &str = "checkpoint.new";
/// Largest state that is believed.
const STATE_MAX: u64 = 4 << 30;

/// A state and what belongs to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointState {
    /// Its number.
    pub number: u64,
    /// Records up to here are in it.
    pub upto_record: u64,
    /// Ends of the outbox.
    pub ends: Ends,
    /// Written in the life of the store before it.
    pub written: Writes,
    /// The state.
    pub state: Vec<u8>,
}

fn name(number: u64) -> String {
    format!("checkpoint-{number:010}")
}

/// What is there: the newest whole checkpoint, records that need no journal even if it turns out damaged, and names of damaged files.
pub struct Opened {
    /// The newest that is whole.
    pub newest: Option<CheckpointState>,
    /// `upto_record` of the one before it.
    pub before: u64,
    /// Files that are damaged.
    pub damaged: Vec<String>,
}

/// Reads what is there.
///
/// # Errors
/// When files can't be listed; one that can't be read is damaged.
pub fn open<F: Files>(files: &mut F, store: u64) -> Result<Opened, StoreError> {
    let (mut all, mut damaged) = (Vec::new(), Vec::new());
    for file in files.list()? {
        if file.strip_prefix("checkpoint-").and_then(|n| n.parse::<u64>().ok()).is_none() {
            continue;
        }
        match decode(&files::read_what_can_be(files, &file).0, store) {
            Some(state) => all.push(state),
            None => damaged.push(file),
        }
    }
    all.sort_by_key(|c: &CheckpointState| c.number);
    let newest = all.pop();
    let before = all.last().map_or(0, |c| c.upto_record);
    Ok(Opened { newest, before, damaged })
}

/// Writes a checkpoint to a temporary file and syncs it: nothing has changed yet. The file may be an old checkpoint that was set aside for its
/// room: what is written over has its place on a full disk too.
///
/// # Errors
/// The operating system's; the previous ones stand.
pub fn prepare<F: Files>(files: &mut F, store: u64, checkpoint: &CheckpointState) -> Result<(), StoreError> {
    let bytes = encode(checkpoint, store);
    let length = bytes.len() as u64;
    let written =
        files.write_at(TEMPORARY, 0, &bytes).and_then(|()| files.truncate(TEMPORARY, length)).and_then(|()| files.sync(TEMPORARY));
    if written.is_err() {
        // A file whose sync failed is not to be relied on again.
        let _ = files.remove(TEMPORARY);
    }
    written
}

/// Gives what [`prepare`] wrote its name: rename, sync of the names. It counts once this returns.
///
/// # Errors
/// The operating system's; whether it counts is known only when the store is opened again.
pub fn publish<F: Files>(files: &mut F, number: u64) -> Result<(), StoreError> {
    files.rename(TEMPORARY, &name(number))?;
    files.sync_names()
}

/// Removes all but the newest two, of the others keeping one under the temporary name: a full disk can then hold another checkpoint of
/// its size, and no more is used than while one is written anyway.
///
/// # Errors
/// The operating system's.
pub fn prune<F: Files>(files: &mut F, newest: u64) -> Result<(), StoreError> {
    let mut numbers: Vec<u64> = files.list()?.iter().filter_map(|f| f.strip_prefix("checkpoint-")?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers.retain(|n| *n <= newest);
    let surplus = numbers.len().saturating_sub(2);
    let Some((last, others)) = numbers[..surplus].split_last() else { return Ok(()) };
    others.iter().try_for_each(|n| files.remove(&name(*n)))?;
    // Its old name must not come back with the next state in it.
    files.rename(&name(*last), TEMPORARY)?;
    if files.sync_names().is_err() {
        files.remove(TEMPORARY)?;
    }
    Ok(())
}

fn encode(checkpoint: &CheckpointState, store: u64) -> Vec<u8> {
    let mut out = vec![0; HEAD];
    let [(segment_a, bytes_a), (segment_b, bytes_b)] = checkpoint.ends;
    let Writes { bytes, fsyncs } = checkpoint.written;
    let raw = checkpoint.state.len() as u64;
    let numbers = [store, checkpoint.number, checkpoint.upto_record, segment_a, bytes_a, segment_b, bytes_b, raw, bytes, fsyncs];
    for (index, number) in numbers.into_iter().enumerate() {
        out[8 + index * 8..16 + index * 8].copy_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&lz4_flex::block::compress(&checkpoint.state));
    out[..4].copy_from_slice(&MAGIC);
    let crc = crc32c::crc32c(&out[8..]);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    out
}

/// The store whose checkpoint this is, if it is a whole one.
pub fn store_of(bytes: &[u8]) -> Option<u64> {
    let store = u64::from_le_bytes(bytes.get(8..16)?.try_into().ok()?);
    decode(bytes, store).map(|_| store)
}

/// The checkpoint these bytes are, if they are whole and of this store.
pub fn decode(bytes: &[u8], store: u64) -> Option<CheckpointState> {
    let crc = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?);
    let head = match bytes.get(..4)? {
        magic if magic == MAGIC => HEAD,
        magic if magic == MAGIC_1 => HEAD_1,
        _ => return None,
    };
    if crc32c::crc32c(bytes.get(8..)?) != crc {
        return None;
    }
    let mut numbers = [0u64; (HEAD - 8) / 8];
    for (number, bytes) in numbers.iter_mut().zip(bytes.get(8..head)?.chunks_exact(8)) {
        *number = u64::from_le_bytes(bytes.try_into().ok()?);
    }
    let [found, number, upto_record, segment_a, bytes_a, segment_b, bytes_b, raw, written, fsyncs] = numbers;
    if found != store || raw > STATE_MAX {
        return None;
    }
    let state = lz4_flex::block::decompress(&bytes[head..], raw as usize).ok()?;
    let (ends, written) = ([(segment_a, bytes_a), (segment_b, bytes_b)], Writes { bytes: written, fsyncs });
    Some(CheckpointState { number, upto_record, ends, written, state })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> CheckpointState {
        let ends = [(1, 2), (3, 4)];
        CheckpointState { number: 7, upto_record: 9, ends, written: Writes { bytes: 5, fsyncs: 6 }, state: vec![8; 100] }
    }

    #[test]
    fn a_checkpoint_that_does_not_say_what_was_written_is_read_too() {
        let whole = encode(&state(), 11);
        assert_eq!(decode(&whole, 11), Some(state()));
        let mut old = whole;
        old.drain(HEAD_1..HEAD);
        old[..4].copy_from_slice(&MAGIC_1);
        let crc = crc32c::crc32c(&old[8..]);
        old[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&old, 11), Some(CheckpointState { written: Writes::default(), ..state() }));
        assert_eq!(decode(&old[..70], 11), None);
    }
}
