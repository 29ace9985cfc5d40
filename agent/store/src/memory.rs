//! A directory in memory that loses, on a crash, any part of what was not synced: for simulators and tests.
//!
//! Pages of 4 KiB that were written since the last sync survive or not, each by a throw of the dice, one of them perhaps torn; the same
//! goes for names that were made, changed or removed since the last sync of the names.

use std::{collections::BTreeMap, io, path::PathBuf};

use crate::{
    error::{Operation, StoreError},
    files::Files,
    format::PAGE,
};

/// What the disk does wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// One sync in so many reports an error, and what it was to make durable is lost from the cache; 0 none.
    pub sync_error_in: u32,
    /// Bytes the disk has; 0 unlimited.
    pub space: u64,
    /// Syncs are done by no one: the planted bug of a missing fsync.
    pub lying_sync: bool,
    /// Names are never made durable by a sync of the names: the planted bug of a missing directory fsync.
    pub lying_sync_names: bool,
}

#[derive(Clone, Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Pages that differ, perhaps.
    dirty: Vec<usize>,
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

    /// The power fails: what was not synced survives in part.
    pub fn crash(&mut self) {
        let names: Vec<String> = self.names.keys().chain(self.durable_names.keys()).cloned().collect();
        for name in names {
            let (now, durable) = (self.names.get(&name).copied(), self.durable_names.get(&name).copied());
            if now != durable && self.random().is_multiple_of(2) {
                match now {
                    Some(number) => self.durable_names.insert(name, number),
                    None => self.durable_names.remove(&name),
                };
            }
        }
        self.names = self.durable_names.clone();
        for number in self.contents.keys().copied().collect::<Vec<_>>() {
            let Some(mut content) = self.contents.remove(&number) else { continue };
            for page in std::mem::take(&mut content.dirty) {
                let luck = self.random() % 4;
                let (start, end) = (page * PAGE, ((page + 1) * PAGE).min(content.now.len()));
                if start >= end || luck < 2 {
                    continue;
                }
                if content.durable.len() < end {
                    content.durable.resize(end, 0);
                }
                // Whole, or torn at a sector.
                let cut = if luck == 2 { end } else { start + (self.random() as usize % 8) * 512 };
                let cut = cut.min(end);
                content.durable[start..cut].copy_from_slice(&content.now[start..cut]);
            }
            content.now = content.durable.clone();
            self.contents.insert(number, content);
        }
    }

    /// Flips one bit of a file.
    pub fn flip(&mut self, name: &str, byte: usize) {
        if let Some(content) = self.names.get(name).and_then(|n| self.contents.get_mut(n))
            && byte < content.now.len()
        {
            content.now[byte] ^= 1;
            content.durable = content.now.clone();
        }
    }

    fn content(&mut self, name: &str) -> &mut Content {
        let next = &mut self.next;
        let number = *self.names.entry(name.to_owned()).or_insert_with(|| {
            *next += 1;
            *next
        });
        self.contents.entry(number).or_default()
    }

    fn error(operation: Operation, name: &str, kind: io::ErrorKind) -> StoreError {
        StoreError::Io { operation, path: PathBuf::from(name), source: kind.into() }
    }

    fn used(&self) -> u64 {
        self.names.values().filter_map(|n| self.contents.get(n)).map(|c| c.now.len() as u64).sum()
    }
}

impl Files for MemoryFiles {
    fn list(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.names.keys().cloned().collect())
    }

    fn read(&mut self, name: &str) -> Result<Vec<u8>, StoreError> {
        let content = self.names.get(name).and_then(|n| self.contents.get(n));
        content.map(|c| c.now.clone()).ok_or_else(|| Self::error(Operation::Read, name, io::ErrorKind::NotFound))
    }

    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        let content = self.content(name);
        let start = (offset as usize).min(content.now.len());
        Ok(content.now[start..(start + length).min(content.now.len())].to_vec())
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        let grows = end.saturating_sub(self.content(name).now.len()) as u64;
        if self.faults.space > 0 && self.used() + grows > self.faults.space {
            return Err(Self::error(Operation::Write, name, io::ErrorKind::StorageFull));
        }
        self.pages_written += (end.div_ceil(PAGE) - start / PAGE) as u64;
        let content = self.content(name);
        if content.now.len() < end {
            content.now.resize(end, 0);
        }
        content.now[start..end].copy_from_slice(bytes);
        for page in start / PAGE..end.div_ceil(PAGE) {
            if !content.dirty.contains(&page) {
                content.dirty.push(page);
            }
        }
        Ok(())
    }

    fn sync(&mut self, name: &str) -> Result<(), StoreError> {
        self.syncs += 1;
        if self.faults.lying_sync {
            return Ok(());
        }
        let fails = self.faults.sync_error_in > 0 && self.random().is_multiple_of(u64::from(self.faults.sync_error_in));
        let content = self.content(name);
        if fails {
            // As Linux does: the pages are marked clean, their content is as good as lost.
            content.now = content.durable.clone();
            content.dirty.clear();
            return Err(Self::error(Operation::Sync, name, io::ErrorKind::Other));
        }
        content.durable = content.now.clone();
        content.dirty.clear();
        Ok(())
    }

    fn sync_names(&mut self) -> Result<(), StoreError> {
        self.syncs += 1;
        if !self.faults.lying_sync_names {
            self.durable_names = self.names.clone();
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), StoreError> {
        let number = self.names.remove(from).ok_or_else(|| Self::error(Operation::Rename, from, io::ErrorKind::NotFound))?;
        self.names.insert(to.to_owned(), number);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        self.names.remove(name);
        Ok(())
    }

    fn truncate(&mut self, name: &str, length: u64) -> Result<(), StoreError> {
        let content = self.content(name);
        content.now.truncate(length as usize);
        content.durable.truncate(length as usize);
        Ok(())
    }
}
