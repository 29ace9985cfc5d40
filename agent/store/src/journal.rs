//! The journal: preallocated files written round and round in page-aligned blocks.
//!
//! A file is written from front to back, then the next free one; it is free when a checkpoint covers every block in it. New files are
//! made, zeroed and synced once, until the bound is reached: a commit afterwards changes no metadata, so it costs one page and one sync.
//!
//! A block is in one of three states: written, synced, or nowhere, when its file failed. What is not synced stays in memory, so that a sync
//! says no before every block before it is in a file that was synced without an error. A block without records is a mark: it says, as every
//! header does, up to which record everything was durable, or 0 where a block was that must not come back.

use std::{cmp::Reverse, collections::BTreeSet};

use crate::{
    BlockMeta, Damage, RecoveredBlock,
    error::StoreError,
    files::{self, Files},
    format::{self, HEADER, Header, JOURNAL, PAGE, pages},
};

/// Bytes of a journal file; a larger block gets a file of its own size.
pub const FILE_BYTES: usize = 1 << 20;
/// What a start writes again at most. More is only unsynced where a mode promises less: then a sync has to do.
const TAIL_BYTES_MAX: usize = 2 * FILE_BYTES;

#[derive(Clone, Debug)]
struct JournalFile {
    name: String,
    /// 0 once it has been removed.
    bytes: usize,
    /// Last record of any block in it; 0 when nothing in it is needed.
    last_record: u64,
    /// An operation on it failed: nobody knows what is in it, and it is not written again. What it held safely stays.
    given_up: bool,
}

/// Where a block lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In no file that can be relied on.
    Nowhere,
    /// In a file that was not synced since.
    Written(usize),
    /// In a file that was.
    Synced,
}

/// A block that is not known to be durable: kept to be written elsewhere when its file fails.
#[derive(Debug)]
struct Unsynced {
    meta: BlockMeta,
    block: Vec<u8>,
    place: Place,
}

/// The journal of a store.
#[derive(Debug)]
pub struct Journal {
    store: u64,
    run: u16,
    bytes_max: u64,
    files: Vec<JournalFile>,
    /// The file that is being written; past the last one: none.
    current: usize,
    /// Where the next block goes in it.
    at: usize,
    unsynced: Vec<Unsynced>,
    /// Records up to here are synced.
    durable: u64,
    /// Record the next block begins with, once there was one in this run.
    next: Option<u64>,
    /// Records up to here are covered by a checkpoint that will not be needed.
    free_upto: u64,
    next_name: u64,
}

struct Found {
    file: usize,
    at: usize,
    header: Header,
    payload: Option<Vec<u8>>,
}

/// What recovery makes of the blocks it found.
#[derive(Default)]
struct Chosen {
    blocks: Vec<RecoveredBlock>,
    damage: Vec<Damage>,
    /// File, offset and first record of what must not come back.
    forget: Vec<(usize, usize, u64)>,
    /// The first block that no later one knows to be durable, and file and offset of all from there on.
    tail: usize,
    tail_places: Vec<(usize, usize)>,
    /// The record before the next one.
    newest: u64,
}

/// Whole pages of header and payload.
fn block(header: Header, meta: &BlockMeta, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        first: meta.first_record,
        second: u64::from(meta.records),
        points: meta.points,
        times: meta.times,
        inputs: meta.inputs,
        ..header
    };
    let mut block = format::encode(JOURNAL, header, payload);
    block.resize(pages(block.len()), 0);
    block
}

fn last_record(meta: &BlockMeta) -> u64 {
    last_of(meta.first_record, u64::from(meta.records))
}

fn last_of(first: u64, records: u64) -> u64 {
    first.saturating_add(records).saturating_sub(1)
}

impl Journal {
    /// Reads what is there. Blocks after `upto` come back in order, and what is damaged among them.
    ///
    /// # Errors
    /// When files can't be listed, or what comes back can't be made durable.
    pub fn open<F: Files>(
        files: &mut F,
        store: u64,
        bytes_max: u64,
        upto: u64,
        free_upto: u64,
    ) -> Result<(Self, Vec<RecoveredBlock>, Vec<Damage>), StoreError> {
        let mut journal = Self {
            store,
            run: 0,
            bytes_max,
            files: Vec::new(),
            current: usize::MAX,
            at: 0,
            unsynced: Vec::new(),
            durable: upto,
            next: None,
            free_upto,
            next_name: 0,
        };
        let (found, mut damage) = journal.scan(files)?;
        journal.run = found.iter().map(|f| f.header.run).max().map_or(0, |run| run.wrapping_add(1));
        let chosen = journal.choose(found, upto);
        for (file, at, first) in &chosen.forget {
            // With a mark in its place, that says nothing: should the sync fail, the next start sees it in the page cache and writes it again.
            let name = &journal.files[*file].name;
            let mark = BlockMeta { first_record: *first, ..BlockMeta::default() };
            files.write_at(name, *at as u64, &block(Header { store, ..Header::default() }, &mark, &[]))?;
            files.sync(name)?;
        }
        journal.secure(files, &chosen, upto)?;
        if journal.current >= journal.files.len() && journal.advance(files, PAGE).is_err() {
            // Full already, or the disk is: the first append says so.
            journal.current = usize::MAX;
        }
        damage.extend(chosen.damage);
        Ok((journal, chosen.blocks, damage))
    }

    fn scan<F: Files>(&mut self, files: &mut F) -> Result<(Vec<Found>, Vec<Damage>), StoreError> {
        let (mut found, mut damage) = (Vec::new(), Vec::new());
        for name in files.list()? {
            // Another number follows each of ours.
            let Some(number) = name.strip_prefix("journal-").and_then(|n| n.parse::<u64>().ok()).filter(|n| *n < u64::MAX) else {
                continue;
            };
            self.next_name = self.next_name.max(number + 1);
            let (content, whole) = files::read_what_can_be(files, &name);
            if !whole {
                damage.push(Damage::file(format!("{name}: parts can't be read")));
            }
            let file = self.files.len();
            let mut last_record = 0;
            let mut at = 0;
            while at + HEADER <= content.len() {
                let Some(header) = Header::read(JOURNAL, self.store, &content[at..]) else {
                    at += PAGE;
                    continue;
                };
                last_record = last_record.max(last_of(header.first, header.second));
                let payload = header.payload(&content[at..]);
                // Behind a damaged payload the next page may begin a block that is whole.
                let next = if payload.is_some() { pages(header.length()) } else { PAGE };
                found.push(Found { file, at, header, payload });
                at += next;
            }
            self.files.push(JournalFile { name, bytes: content.len() / PAGE * PAGE, last_record, given_up: false });
        }
        Ok((found, damage))
    }

    /// Blocks after `upto` without a gap. After a gap come either blocks that were never synced, which nobody was told of, and which must
    /// not come back later; or, when a later block knows that the missing one was durable, damage.
    fn choose(&self, mut found: Vec<Found>, upto: u64) -> Chosen {
        let known_durable = found.iter().filter(|f| f.payload.is_some()).map(|f| f.header.third).max().unwrap_or(0);
        let mut chosen = Chosen::default();
        // Of blocks that begin with the same record one that is readable counts, that of the latest run; all of them go if it does not count.
        found.sort_by_key(|f| (f.header.first, f.payload.is_none(), Reverse((f.header.run, f.header.third))));
        let (marks, found): (Vec<_>, Vec<_>) = found.into_iter().partition(|f| f.header.second == 0);
        let mut next = upto.saturating_add(1);
        for found in found {
            let (first, last) = (found.header.first, last_of(found.header.first, found.header.second));
            if last < next {
                continue;
            }
            let meta = BlockMeta {
                first_record: first,
                records: found.header.second as u32,
                points: found.header.points,
                times: found.header.times,
                inputs: found.header.inputs,
            };
            let place = format!("{} at {}", self.files[found.file].name, found.at);
            if first > next && known_durable >= first - 1 {
                chosen.damage.push(Damage::gap(place.clone(), next, first - next));
                next = first;
            }
            // One that overlaps those before it is of a run that did not know of them.
            let overlaps = first < next && next > upto.saturating_add(1);
            match found.payload {
                Some(bytes) if first <= next && !overlaps => {
                    next = last.saturating_add(1);
                    if last <= known_durable {
                        chosen.tail = chosen.blocks.len() + 1;
                    } else {
                        chosen.tail_places.push((found.file, found.at));
                    }
                    chosen.blocks.push(RecoveredBlock { meta, bytes });
                }
                None if known_durable >= last && first == next => {
                    chosen.damage.push(Damage::block(place, meta));
                    next = last.saturating_add(1);
                }
                _ => chosen.forget.push((found.file, found.at, first)),
            }
        }
        if known_durable >= next {
            chosen.damage.push(Damage::gap("the journal's end".into(), next, known_durable + 1 - next));
        }
        // A mark that speaks of records that are gone would do so again of those that take their numbers.
        let wrong = |m: &&Found| m.header.third >= next || m.header.third == 0 && m.header.first > upto;
        chosen.forget.extend(marks.iter().filter(wrong).map(|m| (m.file, m.at, m.header.first)));
        chosen.newest = next - 1;
        chosen
    }

    /// From here on what was recovered counts as durable and sources are told so. A killed process may have left blocks that only the page
    /// cache has, and a sync of their file that failed before it died is reported to nobody again: so they are written once more, elsewhere,
    /// where a sync that succeeds says something. A mark behind them spares the next start the same.
    fn secure<F: Files>(&mut self, files: &mut F, chosen: &Chosen, upto: u64) -> Result<(), StoreError> {
        let tail = &chosen.blocks[chosen.tail.min(chosen.blocks.len())..];
        if tail.is_empty() {
            self.durable = chosen.newest;
            return Ok(());
        }
        self.durable = tail[0].meta.first_record.saturating_sub(1).max(upto);
        let places = &chosen.tail_places;
        let safe = match self.write_elsewhere(files, tail) {
            // Written over with the very same, so that it can't be torn: then a sync says something too.
            Err(StoreError::JournalFull { .. }) => {
                places.iter().try_for_each(|(file, at)| self.write_again(files, *file, *at)).map(|()| false)
            }
            written => written,
        };
        if !safe? {
            let unsynced: BTreeSet<usize> = places.iter().map(|(file, _)| *file).collect();
            unsynced.into_iter().try_for_each(|file| files.sync(&self.files[file].name))?;
        }
        self.durable = chosen.newest;
        let mark = BlockMeta { first_record: chosen.newest.saturating_add(1), ..BlockMeta::default() };
        let bytes = self.encode(&mark, &[]);
        // Without it the next start does the same again.
        let _ = self.put(files, &mark, &bytes);
        Ok(())
    }

    fn write_again<F: Files>(&self, files: &mut F, file: usize, at: usize) -> Result<(), StoreError> {
        let name = &self.files[file].name;
        let header = files.read_at(name, at as u64, HEADER)?;
        let Some(header) = Header::read(JOURNAL, self.store, &header) else { return Ok(()) };
        let bytes = files.read_at(name, at as u64, header.length())?;
        files.write_at(name, at as u64, &bytes)
    }

    /// Whether there was little enough of it.
    fn write_elsewhere<F: Files>(&mut self, files: &mut F, tail: &[RecoveredBlock]) -> Result<bool, StoreError> {
        if tail.iter().map(|b| pages(HEADER + b.bytes.len())).sum::<usize>() > TAIL_BYTES_MAX {
            return Ok(false);
        }
        for block in tail {
            let bytes = self.encode(&block.meta, &block.bytes);
            self.unsynced.push(Unsynced { meta: block.meta.clone(), block: bytes, place: Place::Nowhere });
        }
        let synced = self.sync(files);
        self.unsynced.clear();
        synced.map(|()| true)
    }

    /// Writes a block; it is durable after [`Journal::sync`]. A block that could not be written in two files is not taken.
    ///
    /// # Errors
    /// [`StoreError::JournalFull`], [`StoreError::TooLarge`], [`StoreError::OutOfOrder`] for one behind a block that was not taken, or the
    /// operating system's.
    pub fn append<F: Files>(&mut self, files: &mut F, meta: &BlockMeta, payload: &[u8]) -> Result<(), StoreError> {
        if payload.len() > format::PAYLOAD_MAX {
            return Err(StoreError::TooLarge(payload.len()));
        }
        let expected = *self.next.get_or_insert(meta.first_record);
        if expected != meta.first_record {
            return Err(StoreError::OutOfOrder { expected, found: meta.first_record });
        }
        let block = self.encode(meta, payload);
        let place = Place::Written(self.put(files, meta, &block)?);
        self.unsynced.push(Unsynced { meta: meta.clone(), block, place });
        self.next = Some(last_record(meta).saturating_add(1));
        Ok(())
    }

    fn encode(&self, meta: &BlockMeta, payload: &[u8]) -> Vec<u8> {
        block(Header { store: self.store, run: self.run, third: self.durable, ..Header::default() }, meta, payload)
    }

    /// Writes a block into the current file or the next, or into another when that fails; which one it was.
    fn put<F: Files>(&mut self, files: &mut F, meta: &BlockMeta, block: &[u8]) -> Result<usize, StoreError> {
        let mut again = true;
        loop {
            let room = self.files.get(self.current).is_some_and(|f| self.at + block.len() <= f.bytes);
            let ready = if room { Ok(()) } else { self.advance(files, block.len()) };
            let written = ready.and_then(|()| files.write_at(&self.files[self.current].name, self.at as u64, block));
            match written {
                Ok(()) => {
                    let file = &mut self.files[self.current];
                    file.last_record = file.last_record.max(last_record(meta));
                    self.at += block.len();
                    return Ok(self.current);
                }
                // The same place is tried again when there is room.
                Err(error) if error.is_no_space() => return Err(StoreError::JournalFull { bytes: self.capacity() }),
                Err(error @ StoreError::JournalFull { .. }) => return Err(error),
                Err(error) if !std::mem::take(&mut again) => {
                    self.give_up(self.current);
                    return Err(error);
                }
                Err(_) => self.give_up(self.current),
            }
        }
    }

    /// Nothing more is written to a file.
    fn give_up(&mut self, index: usize) {
        if let Some(file) = self.files.get_mut(index) {
            file.given_up = true;
        }
        if index == self.current {
            self.current = usize::MAX;
        }
    }

    /// Goes to a free file that has room for `bytes`, or makes one.
    fn advance<F: Files>(&mut self, files: &mut F, bytes: usize) -> Result<(), StoreError> {
        let behind = self.current.min(self.files.len().saturating_sub(1)) + 1;
        let order = (behind..self.files.len()).chain(0..behind.min(self.files.len()));
        if let Some(next) = order.into_iter().find(|i| self.is_free(*i) && !self.files[*i].given_up && self.files[*i].bytes >= bytes) {
            self.files[next].last_record = 0;
            (self.current, self.at) = (next, 0);
            files.written_over(&self.files[next].name);
            return Ok(());
        }
        self.current = usize::MAX;
        let size = pages(bytes).max(FILE_BYTES.min(self.bytes_max as usize / 4 / PAGE * PAGE)).max(PAGE);
        self.make_room(files, size as u64)?;
        let name = format!("journal-{:06}", self.next_name);
        // A name is not taken twice: a file that could not be made is not to be relied on.
        self.next_name += 1;
        let made = files.write_at(&name, 0, &vec![0; size]).and_then(|()| files.sync(&name)).and_then(|()| files.sync_names());
        if let Err(error) = made {
            // What there is of it takes room.
            let _ = files.remove(&name);
            return Err(error);
        }
        files.written_over(&name);
        self.files.push(JournalFile { name, bytes: size, last_record: 0, given_up: false });
        (self.current, self.at) = (self.files.len() - 1, 0);
        Ok(())
    }

    fn is_free(&self, index: usize) -> bool {
        let file = &self.files[index];
        file.bytes > 0 && file.last_record <= self.free_upto && self.unsynced.iter().all(|u| u.place != Place::Written(index))
    }

    /// Removes free files, given up or too small, until another of `size` is within the bound.
    fn make_room<F: Files>(&mut self, files: &mut F, size: u64) -> Result<(), StoreError> {
        let full = StoreError::JournalFull { bytes: self.bytes_max };
        let free: Vec<usize> = (0..self.files.len()).filter(|i| self.is_free(*i)).collect();
        let reclaimable: u64 = free.iter().map(|i| self.files[*i].bytes as u64).sum();
        if self.capacity() - reclaimable + size > self.bytes_max {
            return Err(full);
        }
        for index in free {
            if self.capacity() + size <= self.bytes_max {
                break;
            }
            files.remove(&self.files[index].name)?;
            self.files[index].bytes = 0;
        }
        Ok(())
    }

    /// Makes everything written durable. A file whose sync fails is given up and what was in it written to another: a second sync of it that
    /// succeeds would say nothing, as the operating system tells of a failure once.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when that fails too, [`StoreError::JournalFull`] when there is no other file. The blocks are kept, and the next
    /// call tries again.
    pub fn sync<F: Files>(&mut self, files: &mut F) -> Result<(), StoreError> {
        let mut failure = None;
        for _ in 0..2 {
            self.place(files)?;
            for index in 0..self.files.len() {
                let here = Place::Written(index);
                if self.unsynced.iter().all(|u| u.place != here) {
                    continue;
                }
                let place = match files.sync(&self.files[index].name) {
                    Ok(()) => Place::Synced,
                    Err(error) => {
                        self.give_up(index);
                        failure = Some(error);
                        Place::Nowhere
                    }
                };
                self.unsynced.iter_mut().filter(|u| u.place == here).for_each(|u| u.place = place);
            }
            if self.unsynced.iter().all(|u| u.place == Place::Synced) {
                let newest = self.unsynced.drain(..).map(|u| last_record(&u.meta)).max();
                self.durable = self.durable.max(newest.unwrap_or(0));
                return Ok(());
            }
        }
        Err(failure.map_or(StoreError::JournalFull { bytes: self.bytes_max }, |source| StoreError::Failed { source: Box::new(source) }))
    }

    /// Writes the blocks that lie nowhere.
    fn place<F: Files>(&mut self, files: &mut F) -> Result<(), StoreError> {
        for index in 0..self.unsynced.len() {
            if self.unsynced[index].place != Place::Nowhere {
                continue;
            }
            let (meta, block) = (self.unsynced[index].meta.clone(), std::mem::take(&mut self.unsynced[index].block));
            let placed = self.put(files, &meta, &block);
            self.unsynced[index].block = block;
            match placed {
                Ok(file) => self.unsynced[index].place = Place::Written(file),
                Err(full @ StoreError::JournalFull { .. }) => return Err(full),
                Err(source) => return Err(StoreError::Failed { source: Box::new(source) }),
            }
        }
        Ok(())
    }

    /// Records up to here are not needed any more.
    pub fn free(&mut self, upto: u64) {
        self.free_upto = self.free_upto.max(upto);
    }

    /// Records up to here are in a checkpoint, whether their blocks arrived or not.
    pub fn covered(&mut self, upto: u64) {
        self.durable = self.durable.max(upto);
        self.unsynced.retain(|u| last_record(&u.meta) > upto);
        self.next = self.next.map(|next| next.max(upto.saturating_add(1)));
    }

    /// Bytes of all files.
    pub fn capacity(&self) -> u64 {
        self.files.iter().map(|f| f.bytes as u64).sum()
    }

    /// Bytes of files that hold something still needed.
    pub fn used(&self) -> u64 {
        self.files.iter().filter(|f| f.last_record > self.free_upto).map(|f| f.bytes as u64).sum()
    }
}
