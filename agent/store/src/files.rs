//! The few things the store asks of a directory: small enough that a simulator can do them badly on purpose.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use crate::{
    error::{Operation, StoreError},
    format::PAGE,
};

/// A flat directory of files.
pub trait Files {
    /// Names of all files; directories, pipes and the like are none.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn list(&self) -> Result<Vec<String>, StoreError>;
    /// The whole content of a file.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn read(&mut self, name: &str) -> Result<Vec<u8>, StoreError>;
    /// `length` bytes from `offset`; fewer at the end of the file.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError>;
    /// Writes at `offset`, creating or extending the file.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StoreError>;
    /// Makes the content of a file durable.
    ///
    /// # Errors
    /// [`StoreError::Io`]: what was written since the last sync may be lost.
    fn sync(&mut self, name: &str) -> Result<(), StoreError>;
    /// Makes names durable: creations, renames, removals.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn sync_names(&mut self) -> Result<(), StoreError>;
    /// Renames a file over another.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn rename(&mut self, from: &str, to: &str) -> Result<(), StoreError>;
    /// Removes a file.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn remove(&mut self, name: &str) -> Result<(), StoreError>;
    /// Cuts a file to `length`.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn truncate(&mut self, name: &str, length: u64) -> Result<(), StoreError>;
    /// A hint: what is on the disk of a file need not be in memory too, it is written over next.
    fn written_over(&mut self, _name: &str) {}
}

/// Tries before a page counts as unreadable: what a second look would find must not be given up.
const READ_TRIES: usize = 16;
/// Pages in a row that can't be read before the rest of a file is left alone: more than most files have.
const UNREADABLE_MAX: usize = 1024;

/// A file, zeros where it can't be read however often that is tried, and whether all of it could be: a bad sector costs what it holds, not
/// the start.
pub fn read_what_can_be<F: Files>(files: &mut F, name: &str) -> (Vec<u8>, bool) {
    if let Ok(content) = files.read(name) {
        return (content, true);
    }
    let (mut content, mut failed, mut end, mut whole) = (Vec::new(), 0, 0, true);
    while failed < UNREADABLE_MAX {
        let at = content.len() as u64;
        match (0..READ_TRIES).find_map(|_| files.read_at(name, at, PAGE).ok()) {
            Some(page) => {
                content.extend_from_slice(&page);
                (failed, end) = (0, content.len());
                if page.len() < PAGE {
                    break;
                }
            }
            None => {
                content.resize(content.len() + PAGE, 0);
                (failed, whole) = (failed + 1, false);
            }
        }
    }
    content.truncate(end);
    (content, whole)
}

/// Files that are kept open: a long outage fills thousands, and a process may have a thousand.
const OPEN_MAX: usize = 32;

/// A file that is open.
#[derive(Debug)]
struct Open {
    file: File,
    /// Written since its last sync: the handle that wrote is the one that is sure to be told if that fails.
    written: bool,
    /// When it was used last, in uses of any.
    used: u64,
}

/// A real directory, locked against a second agent.
#[derive(Debug)]
pub struct RealFiles {
    directory: PathBuf,
    open: HashMap<String, Open>,
    uses: u64,
    /// Held for the lock alone.
    _lock: File,
}

impl RealFiles {
    /// Opens `directory`, creating it, and locks it.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another agent has it, [`StoreError::Io`] when it can't be made or written.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let failed = |operation, path: &Path, source| StoreError::Io { operation, path: path.to_owned(), source };
        fs::create_dir_all(directory).map_err(|e| failed(Operation::CreateDirectory, directory, e))?;
        let path = directory.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| failed(Operation::Create, &path, e))?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::Locked { directory: directory.to_owned() }),
            Err(error) => return Err(failed(Operation::Lock, &path, error.into())),
        }
        Ok(Self { directory: directory.to_owned(), open: HashMap::new(), uses: 0, _lock: lock })
    }

    fn error(&self, operation: Operation, name: &str, source: io::Error) -> StoreError {
        StoreError::Io { operation, path: self.directory.join(name), source }
    }

    fn handle(&mut self, name: &str, operation: Operation) -> Result<&mut Open, StoreError> {
        self.uses += 1;
        if !self.open.contains_key(name) {
            // Only what is written is made: a file that is gone must not come back empty because somebody wanted to read it.
            let create = operation == Operation::Write;
            let opened =
                OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(self.directory.join(name));
            let file = opened.map_err(|e| self.error(operation, name, e))?;
            self.make_room();
            self.open.insert(name.to_owned(), Open { file, written: false, used: 0 });
        }
        match self.open.get_mut(name) {
            Some(open) => {
                open.used = self.uses;
                Ok(open)
            }
            None => Err(StoreError::Io { operation, path: self.directory.join(name), source: io::ErrorKind::NotFound.into() }),
        }
    }

    /// Closes the file that was not used for longest, of those that are synced.
    fn make_room(&mut self) {
        if self.open.len() < OPEN_MAX {
            return;
        }
        let idle = self.open.iter().filter(|(_, open)| !open.written).min_by_key(|(_, open)| open.used);
        if let Some(name) = idle.map(|(name, _)| name.clone()) {
            self.open.remove(&name);
        }
    }
}

impl Files for RealFiles {
    fn list(&self) -> Result<Vec<String>, StoreError> {
        let entries = fs::read_dir(&self.directory).map_err(|e| self.error(Operation::List, "", e))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| self.error(Operation::List, "", e))?;
            // A directory can't be read or removed as a file, and a pipe would never end. What can't be asked is there all the same.
            if fs::metadata(entry.path()).map_or(true, |m| m.is_file()) {
                names.extend(entry.file_name().into_string());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn read(&mut self, name: &str) -> Result<Vec<u8>, StoreError> {
        fs::read(self.directory.join(name)).map_err(|e| self.error(Operation::Read, name, e))
    }

    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        let mut bytes = vec![0; length];
        let mut at = 0;
        while at < length {
            let read = self.handle(name, Operation::Read)?.file.read_at(&mut bytes[at..], offset + at as u64);
            match read {
                Ok(0) => break,
                Ok(more) => at += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.error(Operation::Read, name, error)),
            }
        }
        bytes.truncate(at);
        Ok(bytes)
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let open = self.handle(name, Operation::Write)?;
        open.written = true;
        let written = open.file.write_all_at(bytes, offset);
        written.map_err(|e| self.error(Operation::Write, name, e))
    }

    fn sync(&mut self, name: &str) -> Result<(), StoreError> {
        let open = self.handle(name, Operation::Sync)?;
        let synced = open.file.sync_data();
        // One that failed is told once: what is to be done about it is for those who asked.
        open.written = false;
        synced.map_err(|e| self.error(Operation::Sync, name, e))
    }

    fn sync_names(&mut self) -> Result<(), StoreError> {
        File::open(&self.directory).and_then(|d| d.sync_all()).map_err(|e| self.error(Operation::Sync, "", e))
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), StoreError> {
        self.open.remove(to);
        let file = self.open.remove(from);
        fs::rename(self.directory.join(from), self.directory.join(to)).map_err(|e| self.error(Operation::Rename, from, e))?;
        drop(file);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        self.open.remove(name);
        match fs::remove_file(self.directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.error(Operation::Remove, name, error)),
            _ => Ok(()),
        }
    }

    fn truncate(&mut self, name: &str, length: u64) -> Result<(), StoreError> {
        let open = self.handle(name, Operation::Write)?;
        open.written = true;
        let cut = open.file.set_len(length);
        cut.map_err(|e| self.error(Operation::Write, name, e))
    }

    // What was written or read in large pieces lies in the page cache in large pieces, and a kernel that keeps them so (Linux does for ext4 since
    // 6.16) counts, and on some file systems writes, a whole piece for each page of it that is new.
    fn written_over(&mut self, name: &str) {
        if let Ok(open) = self.handle(name, Operation::Read) {
            let _ = rustix::fs::fadvise(&open.file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn however_many_files_there_are_few_are_open_and_none_that_is_not_synced_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = RealFiles::open(directory.path()).unwrap();
        files.write_at("unsynced", 0, b"first").unwrap();
        for n in 0..10 * OPEN_MAX {
            files.write_at(&n.to_string(), 0, n.to_string().as_bytes()).unwrap();
            files.sync(&n.to_string()).unwrap();
        }
        assert!(files.open.len() <= OPEN_MAX, "{} are open", files.open.len());
        assert!(files.open["unsynced"].written);
        for n in 0..10 * OPEN_MAX {
            assert_eq!(files.read_at(&n.to_string(), 0, 10).unwrap(), n.to_string().as_bytes());
        }
        files.sync("unsynced").unwrap();
        files.rename("unsynced", "7").unwrap();
        assert_eq!(files.read_at("7", 0, 10).unwrap(), b"first");
        assert!(files.open.len() <= OPEN_MAX);
    }

    #[test]
    fn a_write_or_a_sync_that_the_system_refuses_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = RealFiles::open(directory.path()).unwrap();
        // What can be written and not synced, and what is always full.
        for (name, device) in [("unsyncable", "/dev/null"), ("full", "/dev/full")] {
            std::os::unix::fs::symlink(device, directory.path().join(name)).unwrap();
        }
        files.write_at("unsyncable", 0, b"bytes").unwrap();
        let error = files.sync("unsyncable").expect_err("a device keeps nothing");
        assert!(matches!(error, StoreError::Io { operation: Operation::Sync, .. }), "{error}");
        assert!(files.write_at("full", 0, b"bytes").expect_err("no room").is_no_space());
        files.write_at("file", 0, b"bytes").unwrap();
        files.sync("file").unwrap();
        files.sync_names().unwrap();
        // A directory that can't be synced.
        files.directory = PathBuf::from("/proc/self");
        let error = files.sync_names().expect_err("nothing of it is on any disk");
        assert!(matches!(error, StoreError::Io { operation: Operation::Sync, .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_cut_or_renamed_is_so_for_whoever_looks_next() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = RealFiles::open(directory.path()).unwrap();
        files.write_at("old", 0, b"0123456789").unwrap();
        files.truncate("old", 4).unwrap();
        files.write_at("new", 0, b"others").unwrap();
        files.rename("old", "new").unwrap();
        files.write_at("old", 0, b"another").unwrap();
        let read = |name: &str| fs::read(directory.path().join(name)).unwrap();
        assert_eq!((read("new").as_slice(), read("old").as_slice()), (b"0123".as_slice(), b"another".as_slice()));
        assert_eq!(files.read_at("new", 0, 10).unwrap(), b"0123");
    }

    #[test]
    fn a_directory_has_one_agent_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let first = RealFiles::open(directory.path()).unwrap();
        assert!(matches!(RealFiles::open(directory.path()), Err(StoreError::Locked { .. })));
        drop(first);
        RealFiles::open(directory.path()).unwrap();
    }

    #[test]
    fn what_is_no_file_is_nobodys_journal_or_outbox() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        for name in ["journal-000000", "checkpoint-0000000001", "outbox-1-00000007"] {
            fs::create_dir(at(name)).unwrap();
        }
        rustix::fs::mkfifoat(rustix::fs::CWD, at("journal-000001"), rustix::fs::Mode::RWXU).unwrap();
        fs::write(at("journal-18446744073709551615"), "of nobody").unwrap();
        fs::write(at("outbox-1-18446744073709551615"), "nor this").unwrap();
        fs::write(at("checkpoint-18446744073709551615"), "nor this").unwrap();
        let options = crate::StoreOptions { journal_bytes_max: 64 * 1024, new_id: 7 };
        for round in 0..3 {
            let (mut store, _) = crate::Store::open(RealFiles::open(directory.path()).unwrap(), &options).unwrap();
            let meta = crate::BlockMeta { first_record: round + 1, records: 1, ..crate::BlockMeta::default() };
            store.append(&meta, b"record").unwrap();
            store.sync().unwrap();
        }
        let (_, recovered) = crate::Store::open(RealFiles::open(directory.path()).unwrap(), &options).unwrap();
        assert_eq!(recovered.blocks.len(), 3);
    }
}
