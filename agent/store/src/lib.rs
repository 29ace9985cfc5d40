//! Weir's files: a preallocated journal written round and round, checkpoints in two generations, an outbox of immutable segments.
//!
//! Synchronous, knows nothing of points: journal blocks, states and outbox blocks are bytes with a header that says what damage costs.
//!
//! Constraints: an SD card wears out with every page written, power fails in the middle of any write, a sync may report an error once and
//! forget it. From these follow the rules:
//!
//! 1. A commit of a few readings writes one 4 KiB page of a file that never grows, and syncs once.
//! 2. A page that holds acknowledged data is not written again until a checkpoint covers it, and two generations of checkpoints are kept,
//!    so the journal keeps what the older one needs.
//! 3. A checkpoint is: outbox append, sync; state under a temporary name, sync; rename, sync of the directory. That is the commit
//!    point. Only then is anything freed, but for segments of the outbox that no output needs any more on a full disk
//!    ([`Store::free_outbox`]): a start that finds an older checkpoint misses their blocks, and its journal says that they were delivered or
//!    given up, or else what was saved of the cursors before ([`Store::save_cursors`]). What an attempt that failed has
//!    written is cut off at once; if only the last step failed, a start may find the checkpoint, and what it appended stays.
//! 4. Every block carries checksums of its header and its payload, and the id of the store, so that what an earlier life left behind, a
//!    torn write or a flipped bit costs one block and is named.
//! 5. After a failed write or sync the file is given up and the same blocks are written elsewhere: what the disk said once it will not say
//!    again. A sync succeeds when every block before it is in a file that was synced without an error, and a block behind one that was not
//!    taken is refused. A start writes again what no later block knows to be durable, as the page cache may show more than the disk has.
//! 6. On a full disk the journal goes on with the files it has, and a full journal waits for a checkpoint. An old state is not removed but
//!    kept under the temporary name, and the next is written over it: it has its room, without a reserve that would have to be written
//!    again each time, or that others could take while it is let go.
//!
//! What a mode can lose is decided by when [`Store::sync`] is called: after each block nothing that was acknowledged is lost at a power cut;
//! with a sync every interval, up to an interval; a killed process loses nothing that was appended.
//!
//! | file | holds |
//! | --- | --- |
//! | `id` | the store's random id |
//! | `journal-N` | blocks of records: see `format` |
//! | `checkpoint-N` | a state: see `checkpoint` |
//! | `outbox-LANE-N` | blocks of results: see `format` |
//! | `cursors` | how far outputs have come, when a full disk keeps the journal from saying so: see `cursors` |
//! | `lock` | held by the running agent |
#![doc = include_str!("../FORMAT.md")]

mod checkpoint;
mod counted;
mod cursors;
mod error;
mod files;
mod format;
pub mod inspect;
mod journal;
pub mod memory;
mod outbox;
mod read_only;

use std::{collections::BTreeMap, fmt};

use counted::Counted;

pub use checkpoint::CheckpointState;
pub use counted::{Writes, Written};
pub use cursors::SavedCursors;
pub use error::{Operation, StoreError};
pub use files::{Files, RealFiles};
pub use read_only::{ReadOnlyFiles, Unreadable};

/// Identity of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Record.
    pub record: u64,
    /// Ordinal.
    pub ordinal: u32,
}

/// What a journal block holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockMeta {
    /// Number of its first record.
    pub first_record: u64,
    /// Records in it.
    pub records: u32,
    /// Points in them.
    pub points: u32,
    /// Least and greatest event time.
    pub times: (i64, i64),
    /// Inputs, one bit each.
    pub inputs: u64,
}

/// Where a block of the outbox lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OutboxPlace {
    /// Segment.
    pub segment: u64,
    /// Offset in it.
    pub offset: u64,
    /// Bytes on disk.
    pub bytes: u32,
}

/// A block for the outbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboxBlock {
    /// Lane, 0 or 1.
    pub lane: u8,
    /// First identity.
    pub first: Identity,
    /// Last identity.
    pub last: Identity,
    /// Points.
    pub points: u32,
    /// Event times.
    pub times: (i64, i64),
    /// Payload.
    pub bytes: Vec<u8>,
}

/// A block the outbox holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundBlock {
    /// Lane.
    pub lane: u8,
    /// Where.
    pub place: OutboxPlace,
    /// First identity.
    pub first: Identity,
    /// Points: an older version of a block may have others.
    pub points: u32,
}

/// How a store is kept.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// Bytes of the journal.
    pub journal_bytes_max: u64,
    /// A random number: the id of a store that is made new.
    pub new_id: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { journal_bytes_max: 64 << 20, new_id: 1 }
    }
}

/// A recovered journal block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredBlock {
    /// What it holds.
    pub meta: BlockMeta,
    /// Its payload.
    pub bytes: Vec<u8>,
}

/// Something that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where.
    pub place: String,
    /// First record lost.
    pub first_record: u64,
    /// Records lost.
    pub records: u64,
    /// Points lost, where the header still says so.
    pub points: u64,
    /// Event times, likewise; (0, 0) unknown.
    pub times: (i64, i64),
    /// Inputs, likewise; 0 unknown.
    pub inputs: u64,
}

impl Damage {
    fn block(place: String, meta: BlockMeta) -> Self {
        Self {
            place,
            first_record: meta.first_record,
            records: u64::from(meta.records),
            points: u64::from(meta.points),
            times: meta.times,
            inputs: meta.inputs,
        }
    }

    fn gap(place: String, first_record: u64, records: u64) -> Self {
        Self { place, first_record, records, points: 0, times: (0, 0), inputs: 0 }
    }

    fn file(place: String) -> Self {
        Self { place, first_record: 0, records: 0, points: 0, times: (0, 0), inputs: 0 }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} records from {} on", self.place, self.records, self.first_record)?;
        if self.points > 0 {
            write!(f, ", {} points of {} to {} ns, inputs {:#b}", self.points, self.times.0, self.times.1, self.inputs)?;
        }
        Ok(())
    }
}

/// What opening a store found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The newest whole checkpoint.
    pub checkpoint: Option<CheckpointState>,
    /// Journal blocks after it, in order.
    pub blocks: Vec<RecoveredBlock>,
    /// Blocks of the outbox. Without a checkpoint they are all that is left of it: nobody knows which of them somebody has.
    pub outbox: Vec<FoundBlock>,
    /// How far outputs had come, where that was saved and no checkpoint since has it.
    pub cursors: Option<SavedCursors>,
    /// What is gone.
    pub damage: Vec<Damage>,
}

/// What a store has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// What was written.
    pub written: Written,
    /// What was written in the life of the store, earlier runs included: bytes and syncs ride in each checkpoint, and of what came behind
    /// the last one before a crash the journal's part is reckoned from its blocks.
    pub ever: Writes,
    /// Journal bytes that hold something needed.
    pub journal_used: u64,
    /// Journal bytes on disk.
    pub journal_capacity: u64,
}

/// A store; one thread owns it.
#[derive(Debug)]
pub struct Store<F: Files = RealFiles> {
    files: Counted<F>,
    id: u64,
    journal: journal::Journal,
    outbox: outbox::Outbox,
    cursors: cursors::Cursors,
    /// Records the newest checkpoint covers.
    covered: u64,
    /// Written in earlier runs.
    before: Writes,
}

impl<F: Files> Store<F> {
    /// Opens or makes a store and says what is in it.
    ///
    /// # Errors
    /// When files can't be read or written; damage is no error.
    pub fn open(files: F, options: &StoreOptions) -> Result<(Self, Recovered), StoreError> {
        let mut files = Counted::new(files);
        let (id, mistaken) = identify(&mut files, options.new_id)?;
        let opened = checkpoint::open(&mut files, id)?;
        // A process killed between the rename and its sync leaves a name that a power cut would take back, after others were built on it.
        files.sync_names()?;
        let mut damage: Vec<Damage> = mistaken.into_iter().chain(opened.damaged).map(Damage::file).collect();
        let upto = opened.newest.as_ref().map_or(0, |c| c.upto_record);
        let (journal, blocks, lost) = journal::Journal::open(&mut files, id, options.journal_bytes_max, upto, opened.before.min(upto))?;
        // Where the journal has every record, it has the cause of every result. Else there was a checkpoint once, or causes are lost.
        let ends = opened.newest.as_ref().map(|c| c.ends).or(is_whole(&blocks).then_some([(0, 0); 2]));
        let (outbox, found, damaged) = outbox::Outbox::open(&mut files, id, ends)?;
        damage.extend((0..damaged).map(|_| Damage::file("outbox".into())));
        damage.extend(lost);
        let (cursors, saved) = cursors::Cursors::open(&mut files, id)?;
        let newest = opened.newest.as_ref().map_or(0, |c| c.number);
        let saved = saved.filter(|saved| saved.checkpoint >= newest);
        let mut before = opened.newest.as_ref().map_or_else(Writes::default, |c| c.written);
        before.bytes += blocks.iter().map(|b| format::pages(format::HEADER + b.bytes.len()) as u64).sum::<u64>();
        before.fsyncs += blocks.len() as u64;
        let store = Self { files, id, journal, outbox, cursors, covered: upto, before };
        Ok((store, Recovered { checkpoint: opened.newest, blocks, outbox: found, cursors: saved, damage }))
    }

    /// Writes a journal block; durable after [`Store::sync`].
    ///
    /// # Errors
    /// [`StoreError::JournalFull`] until a checkpoint makes room, or the operating system's.
    pub fn append(&mut self, meta: &BlockMeta, bytes: &[u8]) -> Result<(), StoreError> {
        self.journal.append(&mut self.files, meta, bytes)
    }

    /// Makes every appended block durable.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when the disk reported an error twice.
    pub fn sync(&mut self) -> Result<(), StoreError> {
        self.journal.sync(&mut self.files)
    }

    /// Makes a checkpoint: outbox, state, commit point, then frees what no generation needs.
    ///
    /// # Errors
    /// The operating system's: before the commit point nothing has changed. What fails behind it is left for the next checkpoint.
    pub fn checkpoint(
        &mut self,
        number: u64,
        upto_record: u64,
        outbox: &[OutboxBlock],
        state: &[u8],
        free_below: [u64; 2],
    ) -> Result<Vec<OutboxPlace>, StoreError> {
        let (places, ends) = self.outbox.append(&mut self.files, outbox)?;
        let written = self.written_ever();
        let state = CheckpointState { number, upto_record, ends, written, state: state.to_vec() };
        if let Err(error) = checkpoint::prepare(&mut self.files, self.id, &state) {
            self.outbox.withdraw(&mut self.files, ends);
            return Err(error);
        }
        // From here on a start may find it, whatever is said of it: what it appended must stay as it is.
        self.outbox.commit(ends);
        checkpoint::publish(&mut self.files, number)?;
        self.journal.free(self.covered);
        self.journal.covered(upto_record);
        self.covered = upto_record;
        // Behind the commit point: what can't be removed now is removed next time.
        if checkpoint::prune(&mut self.files, number).is_ok() && outbox.is_empty() {
            let _ = self.outbox.free(&mut self.files, free_below);
        } else {
            // What was written just now is needed, however many segments it filled.
            let mut below = [free_below[0].min(ends[0].0), free_below[1].min(ends[1].0)];
            for (block, place) in outbox.iter().zip(&places) {
                let below = &mut below[usize::from(block.lane.min(1))];
                *below = place.segment.min(*below);
            }
            let _ = self.outbox.free(&mut self.files, below);
        }
        Ok(places)
    }

    /// Removes outbox segments that no output needs, ahead of the next checkpoint: on a full disk it needs their room.
    ///
    /// # Errors
    /// The operating system's.
    pub fn free_outbox(&mut self, below: [u64; 2]) -> Result<(), StoreError> {
        self.outbox.free(&mut self.files, below)
    }

    /// Saves how far outputs have come, durably and on a full disk too. It counts until a checkpoint with a greater number than `checkpoint`
    /// is found.
    ///
    /// # Errors
    /// The operating system's; what was saved before stands.
    pub fn save_cursors(&mut self, checkpoint: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.cursors.save(&mut self.files, self.id, checkpoint, bytes)
    }

    /// What was saved of cursors counts no more.
    ///
    /// # Errors
    /// The operating system's.
    pub fn clear_cursors(&mut self) -> Result<(), StoreError> {
        self.cursors.clear(&mut self.files)
    }

    /// The payload of an outbox block; `None` when it is damaged.
    ///
    /// # Errors
    /// The operating system's.
    pub fn read_outbox(&mut self, lane: u8, place: OutboxPlace) -> Result<Option<Vec<u8>>, StoreError> {
        self.outbox.read(&mut self.files, lane, place)
    }

    /// The random id it was given when it was made.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Journal bytes that hold something needed.
    pub fn journal_used(&self) -> u64 {
        self.journal.used()
    }

    /// What was done since it was opened.
    pub fn stats(&self) -> StoreStats {
        let (written, ever) = (self.files.written(), self.written_ever());
        StoreStats { written, ever, journal_used: self.journal.used(), journal_capacity: self.journal.capacity() }
    }

    fn written_ever(&self) -> Writes {
        self.before.and(self.files.written().sum())
    }

    /// The files, for simulators.
    pub fn into_files(self) -> F {
        self.files.into_inner()
    }
}

/// Whether no record is missing in front of or between these.
fn is_whole(blocks: &[RecoveredBlock]) -> bool {
    let mut next = 1;
    blocks.iter().all(|block| {
        let follows = block.meta.first_record <= next;
        next = block.meta.first_record + u64::from(block.meta.records);
        follows
    })
}

/// The id of the store, made when there is none, and the name of its file when that was damaged: blocks know the id too, and to believe the
/// file alone would cost all of them.
fn identify<F: Files>(files: &mut F, new_id: u64) -> Result<(u64, Option<String>), StoreError> {
    let names = files.list()?;
    let there = names.iter().any(|n| n == "id");
    let told = if there { <[u8; 8]>::try_from(files::read_what_can_be(files, "id").0.as_slice()).ok() } else { None };
    let told = told.map(u64::from_le_bytes);
    let others = ids_of_blocks(files, &names, told);
    let id = match (told, others.iter().max_by_key(|(_, count)| **count)) {
        (Some(id), None) => return Ok((id, None)),
        (Some(id), Some(_)) if others.contains_key(&id) => return Ok((id, None)),
        (_, Some((id, _))) => *id,
        (None, None) => new_id,
    };
    let _ = files.remove("id.new");
    files.write_at("id.new", 0, &id.to_le_bytes())?;
    files.sync("id.new")?;
    files.rename("id.new", "id")?;
    files.sync_names()?;
    Ok((id, (!others.is_empty()).then(|| "id".to_owned())))
}

/// Ids of the blocks at the front of files; of checkpoints only when there is nothing else, as they have to be read as a whole.
fn ids_of_blocks<F: Files>(files: &mut F, names: &[String], told: Option<u64>) -> BTreeMap<u64, usize> {
    let mut ids = BTreeMap::new();
    for name in names.iter().filter(|n| n.starts_with("journal-") || n.starts_with("outbox-")) {
        let front = files.read_at(name, 0, format::HEADER).unwrap_or_default();
        if let Some(id) = format::Header::store_of(&front) {
            *ids.entry(id).or_default() += 1;
        }
    }
    if ids.is_empty() && told.is_none() {
        for name in names.iter().filter(|n| n.starts_with("checkpoint-")) {
            if let Some(id) = checkpoint::store_of(&files::read_what_can_be(files, name).0) {
                *ids.entry(id).or_default() += 1;
            }
        }
    }
    ids
}
