//! Files that count what is asked of them: the write budget and the life of a card are reckoned from this, so nothing of the store may pass
//! it by.

use crate::{error::StoreError, files::Files, format::PAGE};

/// What was written to files of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// Bytes in whole pages of 4 KiB, as a device takes them; a page that is written twice before a sync counts once.
    pub bytes: u64,
    /// Syncs asked for, whether they succeeded or not.
    pub fsyncs: u64,
}

impl Writes {
    /// Both together.
    #[must_use]
    pub fn and(self, more: Self) -> Self {
        Self { bytes: self.bytes + more.bytes, fsyncs: self.fsyncs + more.fsyncs }
    }
}

/// What was written, by what it was for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Journal, the zeros of a new file included.
    pub journal: Writes,
    /// Checkpoints.
    pub checkpoint: Writes,
    /// Outbox.
    pub outbox: Writes,
    /// The store's id, and syncs of the directory, which write what the file system makes of them.
    pub names: Writes,
}

impl Written {
    /// All of it.
    pub fn sum(&self) -> Writes {
        [self.checkpoint, self.outbox, self.names].into_iter().fold(self.journal, Writes::and)
    }

    fn of(&mut self, name: &str) -> &mut Writes {
        match name {
            _ if name.starts_with("journal-") => &mut self.journal,
            _ if name.starts_with("checkpoint") => &mut self.checkpoint,
            _ if name.starts_with("outbox-") => &mut self.outbox,
            _ => &mut self.names,
        }
    }
}

/// Files, and what was written to them.
#[derive(Debug)]
pub struct Counted<F> {
    files: F,
    written: Written,
    /// File and page of the last write, if it ended within one: the next write may go on in it.
    open_page: Option<(String, u64)>,
}

impl<F> Counted<F> {
    /// Counts from now on.
    pub fn new(files: F) -> Self {
        Self { files, written: Written::default(), open_page: None }
    }

    /// What was written so far.
    pub fn written(&self) -> Written {
        self.written
    }

    /// The files.
    pub fn into_inner(self) -> F {
        self.files
    }

    fn count(&mut self, name: &str, offset: u64, length: u64) {
        if length == 0 {
            return;
        }
        let page = PAGE as u64;
        let (first, end) = (offset / page, offset + length);
        let again = self.open_page.as_ref().is_some_and(|(file, open)| *open == first && file == name);
        let pages = end.div_ceil(page) - first - u64::from(again);
        self.written.of(name).bytes += pages * page;
        self.open_page = (!end.is_multiple_of(page)).then(|| (name.to_owned(), end / page));
    }
}

impl<F: Files> Files for Counted<F> {
    fn list(&self) -> Result<Vec<String>, StoreError> {
        self.files.list()
    }

    fn read(&mut self, name: &str) -> Result<Vec<u8>, StoreError> {
        self.files.read(name)
    }

    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        self.files.read_at(name, offset, length)
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.files.write_at(name, offset, bytes)?;
        self.count(name, offset, bytes.len() as u64);
        Ok(())
    }

    fn sync(&mut self, name: &str) -> Result<(), StoreError> {
        self.written.of(name).fsyncs += 1;
        self.open_page = None;
        self.files.sync(name)
    }

    fn sync_names(&mut self) -> Result<(), StoreError> {
        self.written.names.fsyncs += 1;
        self.files.sync_names()
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), StoreError> {
        self.files.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        self.files.remove(name)
    }

    fn truncate(&mut self, name: &str, length: u64) -> Result<(), StoreError> {
        self.files.truncate(name, length)
    }

    fn written_over(&mut self, name: &str) {
        self.files.written_over(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryFiles;

    #[test]
    fn a_page_counts_once_until_it_is_synced() -> Result<(), StoreError> {
        let mut files = Counted::new(MemoryFiles::new(1));
        files.write_at("outbox-1-00000000", 0, &[1; 100])?;
        files.write_at("outbox-1-00000000", 100, &[1; 5000])?;
        assert_eq!(files.written().outbox.bytes, 2 * 4096);
        files.sync("outbox-1-00000000")?;
        files.write_at("outbox-1-00000000", 5100, &[1; 10])?;
        assert_eq!(files.written().outbox, Writes { bytes: 3 * 4096, fsyncs: 1 });
        files.write_at("journal-000000", 4096, &[1; 4096])?;
        assert_eq!(files.written().journal.bytes, 4096);
        files.sync_names()?;
        assert_eq!(files.written().sum(), Writes { bytes: 4 * 4096, fsyncs: 2 });
        Ok(())
    }
}
