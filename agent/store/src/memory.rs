//! A directory in memory that loses, on a crash, any part of what was not synced: for simulators and tests.
//!
//! What was written since the last sync survives or not, page by page, by a throw of the dice; a page may be torn at any of its sectors.
//! The same goes for the length of a file, and for names that were made, changed or removed since the last sync of the names.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
};

use crate::{
    error::{Operation, StoreError},
    files::Files,
    format::PAGE,
};

const SECTOR: usize = 512;

/// What the disk does wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// One sync in so many reports an error, and what it was to make durable is lost from the cache; 0 none.
    pub sync_error_in: u32,
    /// One write, rename, removal or cut in so many fails, a write perhaps after a part of it; 0 none.
    pub write_error_in: u32,
    /// One read in so many fails; 0 none.
    pub read_error_in: u32,
    /// Bytes the disk has; 0 unlimited.
    pub space: u64,
    /// Syncs are done by no one: the planted bug of a missing fsync.
    pub lying_sync: bool,
    /// Names are never made durable by a sync of the names: the planted bug of a missing directory fsync.
    pub lying_sync_names: bool,
}

/// What a power cut leaves of that which was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Luck {
    /// Any part.
    Dice,
    /// Nothing.
    Nothing,
    /// Contents, but no names.
    NoNames,
    /// Names, but no contents.
    NoContents,
}

#[derive(Clone, Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Pages that differ, perhaps.
    dirty: BTreeSet<usize>,
    /// Least length since the last sync, when it was cut.
    cut: Option<usize>,
}

/// The directory.
#[derive(Clone, Debug)]
pub struct MemoryFiles {
    /// Content by number: a rename moves a number, so content and name have fates of their own.
    contents: BTreeMap<u64, Content>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    next: u64,
    random: u64,
    /// What it does wrong.
    pub faults: Faults,
    /// Pages written, for counting what a commit costs.
    pub pages_written: u64,
    /// Syncs.
    pub syncs: u64,
    /// Operations that failed because of [`Faults`].
    pub failures: u64,
}

impl MemoryFiles {
    /// An empty directory whose luck is decided by `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            contents: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            next: 0,
            random: seed,
            faults: Faults::default(),
            pages_written: 0,
            syncs: 0,
            failures: 0,
        }
    }

    /// splitmix64.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Once in so many times; never for 0.
    fn strikes(&mut self, once_in: u32) -> bool {
        let strikes = once_in > 0 && self.random().is_multiple_of(u64::from(once_in));
        self.failures += u64::from(strikes);
        strikes
    }

    /// The power fails: what was not synced survives in part.
    pub fn crash(&mut self) {
        self.crash_with(Luck::Dice);
    }

    /// The power fails, and this is what survives.
    pub fn crash_with(&mut self, luck: Luck) {
        let names: BTreeSet<String> = self.names.keys().chain(self.durable_names.keys()).cloned().collect();
        for name in names {
            let (now, durable) = (self.names.get(&name).copied(), self.durable_names.get(&name).copied());
            let survives = match luck {
                Luck::Dice => self.random().is_multiple_of(2),
                Luck::Nothing | Luck::NoNames => false,
                Luck::NoContents => true,
            };
            if now != durable && survives {
                match now {
                    Some(number) => self.durable_names.insert(name, number),
                    None => self.durable_names.remove(&name),
                };
            }
        }
        // A rename is whole or not done: no content has its old name beside the new one.
        let (now, durable) = (&self.names, self.durable_names.clone());
        self.durable_names.retain(|name, number| {
            now.get(name) == Some(number) || !durable.iter().any(|(other, n)| n == number && other != name && now.get(other) == Some(n))
        });
        self.names = self.durable_names.clone();
        let used: BTreeSet<u64> = self.names.values().copied().collect();
        self.contents.retain(|number, _| used.contains(number));
        for number in self.contents.keys().copied().collect::<Vec<_>>() {
            let Some(mut content) = self.contents.remove(&number) else { continue };
            self.settle(&mut content, luck);
            self.contents.insert(number, content);
        }
    }

    fn settle(&mut self, content: &mut Content, luck: Luck) {
        let (all, none) = (luck == Luck::NoNames, matches!(luck, Luck::Nothing | Luck::NoContents));
        if let Some(cut) = content.cut.take()
            && !none
            && (all || self.random().is_multiple_of(2))
        {
            content.durable.truncate(cut);
        }
        // A longer length may be on the disk, and nothing of what belongs there.
        let grown = content.now.len();
        if grown > content.durable.len() && !none && self.random().is_multiple_of(4) {
            content.durable.resize(grown, 0);
        }
        for page in std::mem::take(&mut content.dirty) {
            let (start, end) = (page * PAGE, ((page + 1) * PAGE).min(content.now.len()));
            let chance = self.random() % 4;
            if start >= end || none || !all && chance < 2 {
                continue;
            }
            // Whole, or any of its sectors.
            let sectors = if all || chance == 2 { u64::MAX } else { self.random() };
            for (index, from) in (start..end).step_by(SECTOR).enumerate() {
                let to = (from + SECTOR).min(end);
                if sectors >> index & 1 == 0 {
                    continue;
                }
                if content.durable.len() < to {
                    content.durable.resize(to, 0);
                }
                content.durable[from..to].copy_from_slice(&content.now[from..to]);
            }
        }
        content.now = content.durable.clone();
    }

    /// Flips the lowest bit of a byte of a file.
    pub fn flip(&mut self, name: &str, byte: usize) {
        self.flip_bit(name, byte, 0);
    }

    /// Flips one bit of a file.
    pub fn flip_bit(&mut self, name: &str, byte: usize, bit: u8) {
        self.rot(name, |content| content.iter_mut().skip(byte).take(1).for_each(|b| *b ^= 1 << (bit % 8)));
    }

    /// Bytes of a file become others while nobody looks; it does not grow.
    pub fn overwrite(&mut self, name: &str, at: usize, bytes: &[u8]) {
        self.rot(name, |content| content.iter_mut().skip(at).zip(bytes).for_each(|(b, other)| *b = *other));
    }

    /// A file loses its end while nobody looks.
    pub fn cut(&mut self, name: &str, length: u64) {
        self.rot(name, |content| content.truncate(length as usize));
    }

    /// A file is gone, for good.
    pub fn lose(&mut self, name: &str) {
        self.names.remove(name);
        self.durable_names.remove(name);
    }

    fn rot(&mut self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        if let Some(content) = self.names.get(name).and_then(|n| self.contents.get_mut(n)) {
            change(&mut content.now);
            content.durable = content.now.clone();
        }
    }

    fn content(&mut self, name: &str) -> &mut Content {
        let next = &mut self.next;
        if !self.names.contains_key(name) {
            *next += 1;
            self.names.insert(name.to_owned(), *next);
        }
        self.contents.entry(self.names.get(name).copied().unwrap_or_default()).or_default()
    }

    fn error(operation: Operation, name: &str, kind: io::ErrorKind) -> StoreError {
        StoreError::Io { operation, path: PathBuf::from(name), source: kind.into() }
    }

    /// Bytes of all files.
    pub fn used(&self) -> u64 {
        self.names.values().filter_map(|n| self.contents.get(n)).map(|c| c.now.len() as u64).sum()
    }

    fn put(&mut self, name: &str, start: usize, bytes: &[u8]) {
        let end = start + bytes.len();
        self.pages_written += (end.div_ceil(PAGE) - start / PAGE) as u64;
        let content = self.content(name);
        // A hole is as new as what is written behind it.
        let from = start.min(content.now.len());
        if content.now.len() < end {
            content.now.resize(end, 0);
        }
        content.now[start..end].copy_from_slice(bytes);
        content.dirty.extend(from / PAGE..end.div_ceil(PAGE));
    }

    fn may_fail(&mut self, operation: Operation, name: &str) -> Result<(), StoreError> {
        if self.strikes(self.faults.write_error_in) { Err(Self::error(operation, name, io::ErrorKind::Other)) } else { Ok(()) }
    }
}

impl Files for MemoryFiles {
    fn list(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.names.keys().cloned().collect())
    }

    fn read(&mut self, name: &str) -> Result<Vec<u8>, StoreError> {
        if self.strikes(self.faults.read_error_in) {
            return Err(Self::error(Operation::Read, name, io::ErrorKind::Other));
        }
        let content = self.names.get(name).and_then(|n| self.contents.get(n));
        content.map(|c| c.now.clone()).ok_or_else(|| Self::error(Operation::Read, name, io::ErrorKind::NotFound))
    }

    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        if self.strikes(self.faults.read_error_in) {
            return Err(Self::error(Operation::Read, name, io::ErrorKind::Other));
        }
        let content = self.content(name);
        let start = (offset as usize).min(content.now.len());
        Ok(content.now[start..(start + length).min(content.now.len())].to_vec())
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        let grows = end.saturating_sub(self.content(name).now.len()) as u64;
        let over = if self.faults.space > 0 { (self.used() + grows).saturating_sub(self.faults.space).min(grows) } else { 0 };
        if over > 0 {
            // As much as there is room for is written.
            self.failures += 1;
            self.put(name, start, &bytes[..bytes.len() - over as usize]);
            return Err(Self::error(Operation::Write, name, io::ErrorKind::StorageFull));
        }
        if self.strikes(self.faults.write_error_in) {
            let part = self.random() as usize % (bytes.len() + 1);
            self.put(name, start, &bytes[..part]);
            return Err(Self::error(Operation::Write, name, io::ErrorKind::Other));
        }
        self.put(name, start, bytes);
        Ok(())
    }

    fn sync(&mut self, name: &str) -> Result<(), StoreError> {
        self.syncs += 1;
        if self.faults.lying_sync {
            return Ok(());
        }
        let fails = self.strikes(self.faults.sync_error_in);
        let content = self.content(name);
        content.cut = None;
        if fails {
            // As Linux does: the pages are marked clean, their content is as good as lost.
            content.now = content.durable.clone();
            content.dirty.clear();
            return Err(Self::error(Operation::Sync, name, io::ErrorKind::Other));
        }
        if content.durable.len() != content.now.len() {
            content.durable.resize(content.now.len(), 0);
        }
        for page in std::mem::take(&mut content.dirty) {
            let (start, end) = (page * PAGE, ((page + 1) * PAGE).min(content.now.len()));
            if start < end {
                content.durable[start..end].copy_from_slice(&content.now[start..end]);
            }
        }
        Ok(())
    }

    fn sync_names(&mut self) -> Result<(), StoreError> {
        self.syncs += 1;
        if self.strikes(self.faults.sync_error_in) {
            return Err(Self::error(Operation::Sync, "", io::ErrorKind::Other));
        }
        if !self.faults.lying_sync_names {
            self.durable_names = self.names.clone();
            let used: BTreeSet<u64> = self.names.values().copied().collect();
            self.contents.retain(|number, _| used.contains(number));
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), StoreError> {
        self.may_fail(Operation::Rename, from)?;
        let number = self.names.remove(from).ok_or_else(|| Self::error(Operation::Rename, from, io::ErrorKind::NotFound))?;
        self.names.insert(to.to_owned(), number);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        self.may_fail(Operation::Remove, name)?;
        self.names.remove(name);
        Ok(())
    }

    fn truncate(&mut self, name: &str, length: u64) -> Result<(), StoreError> {
        self.may_fail(Operation::Write, name)?;
        let content = self.content(name);
        let length = length as usize;
        content.now.truncate(length);
        if content.durable.len() > length {
            content.cut = Some(content.cut.map_or(length, |cut| cut.min(length)));
        }
        Ok(())
    }
}
