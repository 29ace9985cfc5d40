//! The journal: preallocated files written round and round in page-aligned blocks.
//!
//! A file is written from front to back, then the next free one; it is free when a checkpoint covers every block in it. New files are
//! made, zeroed and synced once, until the bound is reached: a commit afterwards changes no metadata, so it costs one page and one sync.

use std::collections::VecDeque;

use crate::{
    BlockMeta, Damage, RecoveredBlock,
    error::StoreError,
    files::Files,
    format::{self, HEADER, Header, JOURNAL, PAGE, pages},
};

/// Bytes of a journal file; a larger block gets a file of its own size.
pub const FILE_BYTES: usize = 1 << 20;

#[derive(Clone, Debug)]
struct JournalFile {
    name: String,
    bytes: usize,
    /// Last record of any block in it; 0 when nothing in it is needed.
    last_record: u64,
}

/// The journal of a store.
#[derive(Debug)]
pub struct Journal {
    store: u64,
    bytes_max: u64,
    files: Vec<JournalFile>,
    current: usize,
    /// Where the next block goes in the current file.
    at: usize,
    /// Files with writes that were not synced.
    unsynced_files: Vec<usize>,
    /// Blocks that were not synced: written again elsewhere when syncing fails.
    unsynced: VecDeque<(BlockMeta, Vec<u8>)>,
    /// Records up to here are synced.
    durable: u64,
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

impl Journal {
    /// Reads what is there. Blocks after `upto` come back in order, and what is damaged among them.
    ///
    /// # Errors
    /// When files can't be read or written.
    pub fn open<F: Files>(
        files: &mut F,
        store: u64,
        bytes_max: u64,
        upto: u64,
        free_upto: u64,
    ) -> Result<(Self, Vec<RecoveredBlock>, Vec<Damage>), StoreError> {
        let mut journal = Self {
            store,
            bytes_max,
            files: Vec::new(),
            current: 0,
            at: 0,
            unsynced_files: Vec::new(),
            unsynced: VecDeque::new(),
            durable: upto,
            free_upto,
            next_name: 0,
        };
        let mut found = journal.scan(files)?;
        // Of two blocks that begin with the same record the readable one counts.
        found.sort_by_key(|f| (f.header.first, f.payload.is_none()));
        found.dedup_by_key(|f| f.header.first);
        let (blocks, damage) = journal.choose(files, found, upto)?;
        journal.current = journal.files.len();
        if journal.advance(files, PAGE).is_err() {
            // Full already: the first checkpoint makes room.
            journal.current = journal.files.len();
        }
        Ok((journal, blocks, damage))
    }

    fn scan<F: Files>(&mut self, files: &mut F) -> Result<Vec<Found>, StoreError> {
        let mut found = Vec::new();
        for name in files.list()? {
            let Some(number) = name.strip_prefix("journal-").and_then(|n| n.parse::<u64>().ok()) else { continue };
            self.next_name = self.next_name.max(number + 1);
            let content = files.read(&name)?;
            let file = self.files.len();
            let mut last_record = 0;
            let mut at = 0;
            while at + HEADER <= content.len() {
                let Some(header) = Header::read(JOURNAL, self.store, &content[at..]) else {
                    at += PAGE;
                    continue;
                };
                last_record = last_record.max((header.first + header.second).saturating_sub(1));
                let payload = header.payload(&content[at..]);
                // Behind a damaged payload the next page may begin a block that is whole.
                let next = if payload.is_some() { pages(header.length()) } else { PAGE };
                found.push(Found { file, at, header, payload });
                at += next;
            }
            self.files.push(JournalFile { name, bytes: content.len() / PAGE * PAGE, last_record });
        }
        Ok(found)
    }

    /// Blocks after `upto` without a gap. After a gap come either blocks that were never synced, which nobody was told of, and which must
    /// not come back later; or, when a later block knows that the missing one was durable, damage.
    fn choose<F: Files>(&mut self, files: &mut F, found: Vec<Found>, upto: u64) -> Result<(Vec<RecoveredBlock>, Vec<Damage>), StoreError> {
        let known_durable = found.iter().filter(|f| f.payload.is_some()).map(|f| f.header.third).max().unwrap_or(0);
        let (mut blocks, mut damage, mut next) = (Vec::new(), Vec::new(), upto + 1);
        let (mut forget, mut kept) = (Vec::new(), Vec::new());
        for found in found {
            let (first, records) = (found.header.first, found.header.second);
            let last = (first + records).saturating_sub(1);
            if last < next {
                continue;
            }
            let meta = BlockMeta {
                first_record: first,
                records: records as u32,
                points: found.header.points,
                times: found.header.times,
                inputs: found.header.inputs,
            };
            let place = format!("{} at {}", self.files[found.file].name, found.at);
            if first > next && known_durable >= first - 1 {
                damage.push(Damage::gap(place.clone(), next, first - next));
                next = first;
            }
            match found.payload {
                Some(bytes) if first <= next => {
                    next = last + 1;
                    blocks.push(RecoveredBlock { meta, bytes });
                    kept.push(found.file);
                }
                None if known_durable >= last && first <= next => {
                    damage.push(Damage::block(place, meta));
                    next = last + 1;
                }
                _ => forget.push((found.file, found.at)),
            }
        }
        if known_durable >= next {
            damage.push(Damage::gap("the journal's end".into(), next, known_durable + 1 - next));
        }
        for (file, at) in forget {
            let name = self.files[file].name.clone();
            files.write_at(&name, at as u64, &[0; PAGE])?;
            files.sync(&name)?;
        }
        // A killed process may have left blocks that only the page cache has. From here on they count as durable, sources are told so, and
        // a power cut must not take them back.
        kept.dedup();
        for file in kept {
            files.sync(&self.files[file].name)?;
        }
        self.durable = next - 1;
        Ok((blocks, damage))
    }

    /// Writes a block; it is durable after [`Journal::sync`].
    ///
    /// # Errors
    /// [`StoreError::JournalFull`], [`StoreError::TooLarge`], or the operating system's.
    pub fn append<F: Files>(&mut self, files: &mut F, meta: &BlockMeta, payload: &[u8]) -> Result<usize, StoreError> {
        if payload.len() > format::PAYLOAD_MAX {
            return Err(StoreError::TooLarge(payload.len()));
        }
        let header = Header {
            store: self.store,
            first: meta.first_record,
            second: u64::from(meta.records),
            third: self.durable,
            points: meta.points,
            times: meta.times,
            inputs: meta.inputs,
            ..Header::default()
        };
        let mut block = format::encode(JOURNAL, header, payload);
        block.resize(pages(block.len()), 0);
        self.write(files, meta, &block)?;
        let written = block.len();
        self.unsynced.push_back((meta.clone(), block));
        Ok(written)
    }

    fn write<F: Files>(&mut self, files: &mut F, meta: &BlockMeta, block: &[u8]) -> Result<(), StoreError> {
        if self.files.get(self.current).is_none_or(|f| self.at + block.len() > f.bytes) {
            self.advance(files, block.len())?;
        }
        let file = &mut self.files[self.current];
        files.write_at(&file.name, self.at as u64, block)?;
        file.last_record = file.last_record.max((meta.first_record + u64::from(meta.records)).saturating_sub(1));
        self.at += block.len();
        if !self.unsynced_files.contains(&self.current) {
            self.unsynced_files.push(self.current);
        }
        Ok(())
    }

    /// Goes to a free file that has room for `bytes`, or makes one.
    fn advance<F: Files>(&mut self, files: &mut F, bytes: usize) -> Result<(), StoreError> {
        let free = |f: &JournalFile| f.last_record <= self.free_upto && f.bytes >= bytes;
        let from = self.current.min(self.files.len());
        let order = (from + 1..self.files.len()).chain(0..from.min(self.files.len()));
        let unsynced = &self.unsynced_files;
        if let Some(next) = order.into_iter().find(|i| free(&self.files[*i]) && !unsynced.contains(i)) {
            self.files[next].last_record = 0;
            (self.current, self.at) = (next, 0);
            return Ok(());
        }
        let size = pages(bytes).max(FILE_BYTES.min(self.bytes_max as usize / 4 / PAGE * PAGE)).max(PAGE);
        if self.capacity() + size as u64 > self.bytes_max {
            return Err(StoreError::JournalFull { bytes: self.bytes_max });
        }
        let name = format!("journal-{:06}", self.next_name);
        files.write_at(&name, 0, &vec![0; size])?;
        files.sync(&name)?;
        files.sync_names()?;
        self.next_name += 1;
        self.files.push(JournalFile { name, bytes: size, last_record: 0 });
        (self.current, self.at) = (self.files.len() - 1, 0);
        Ok(())
    }

    /// Makes everything written durable. When the disk reports an error the file is given up and the blocks are written to the next.
    ///
    /// # Errors
    /// [`StoreError::Failed`] when that fails too.
    pub fn sync<F: Files>(&mut self, files: &mut F) -> Result<u64, StoreError> {
        let mut syncs = 0;
        let mut failed = false;
        for index in std::mem::take(&mut self.unsynced_files) {
            syncs += 1;
            if files.sync(&self.files[index].name).is_err() {
                failed = true;
                // Never written again: after a failed sync nobody knows what is in it.
                self.files[index].last_record = u64::MAX;
            }
        }
        if failed {
            syncs += self.rewrite(files).map_err(|source| StoreError::Failed { source: Box::new(source) })?;
        }
        if let Some((meta, _)) = self.unsynced.back() {
            self.durable = self.durable.max((meta.first_record + u64::from(meta.records)).saturating_sub(1));
        }
        self.unsynced.clear();
        Ok(syncs)
    }

    fn rewrite<F: Files>(&mut self, files: &mut F) -> Result<u64, StoreError> {
        self.current = self.files.len();
        for (meta, block) in std::mem::take(&mut self.unsynced) {
            self.write(files, &meta, &block)?;
            self.unsynced.push_back((meta, block));
        }
        let again = std::mem::take(&mut self.unsynced_files);
        for index in &again {
            files.sync(&self.files[*index].name)?;
        }
        Ok(again.len() as u64)
    }

    /// Records up to here are not needed any more.
    pub fn free(&mut self, upto: u64) {
        self.free_upto = self.free_upto.max(upto);
    }

    /// Records up to here are in a checkpoint, whether their blocks arrived or not.
    pub fn covered(&mut self, upto: u64) {
        self.durable = self.durable.max(upto);
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
