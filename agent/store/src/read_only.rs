//! A directory that is only read: what is written to it stays in memory, so that a recovery can be played through on a copy of a card
//! without changing it.
//!
//! It stands apart from [`crate::RealFiles`] because it takes no lock, makes no file, and goes on where a dying card can't be read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{
    error::{Operation, StoreError},
    files::Files,
    format::PAGE,
};

/// Bytes of a file that the operating system would not give: they read as zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The file.
    pub file: String,
    /// Where in it.
    pub offset: u64,
    /// How many.
    pub bytes: u64,
    /// What the operating system said.
    pub reason: String,
    /// It is not broken: whoever asked may not read it.
    pub is_forbidden: bool,
}

/// A directory to look at. Content that was read or changed is kept, so that everybody sees the same of a file that is being written.
#[derive(Debug)]
pub struct ReadOnlyFiles {
    directory: PathBuf,
    /// Regular files that were there when it was opened, with their sizes.
    sizes: BTreeMap<String, u64>,
    names: BTreeSet<String>,
    kept: BTreeMap<String, Vec<u8>>,
    unreadable: Vec<Unreadable>,
}

impl ReadOnlyFiles {
    /// Looks into `directory`.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it can't be listed.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Io { operation: Operation::List, path: directory.to_owned(), source };
        let mut sizes = BTreeMap::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // One that has gone since is not there; a pipe would never end.
            if let Ok(metadata) = fs::metadata(entry.path())
                && metadata.is_file()
            {
                sizes.insert(name, metadata.len());
            }
        }
        let names = sizes.keys().cloned().collect();
        Ok(Self { directory: directory.to_owned(), sizes, names, kept: BTreeMap::new(), unreadable: Vec::new() })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The files that were there, with their sizes.
    pub fn sizes(&self) -> &BTreeMap<String, u64> {
        &self.sizes
    }

    /// What could not be read so far.
    pub fn unreadable(&self) -> &[Unreadable] {
        &self.unreadable
    }

    /// The content of a file, kept for later.
    pub fn content(&mut self, name: &str) -> &[u8] {
        if !self.kept.contains_key(name) {
            let content = self.load(name);
            self.kept.insert(name.to_owned(), content);
        }
        self.kept.get(name).map_or(&[], Vec::as_slice)
    }

    /// The file as far as it can be read, each page for itself where it can't be read as a whole.
    fn load(&mut self, name: &str) -> Vec<u8> {
        let path = self.directory.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            // Removed since: a running agent did that.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => {
                let bytes = self.sizes.get(name).copied().unwrap_or(0);
                self.note(name, 0, bytes, &error);
                return Vec::new();
            }
        };
        if let Ok(content) = fs::read(&path) {
            return content;
        }
        let size = self.sizes.get(name).copied().unwrap_or(0) as usize;
        let mut content = vec![0; size];
        for at in (0..size).step_by(PAGE) {
            let end = size.min(at + PAGE);
            if let Err(error) = file.read_exact_at(&mut content[at..end], at as u64) {
                self.note(name, at as u64, (end - at) as u64, &error);
                content[at..end].fill(0);
            }
        }
        content
    }

    fn note(&mut self, name: &str, offset: u64, bytes: u64, error: &io::Error) {
        let known = |u: &Unreadable| u.file == name && (u.offset..u.offset + u.bytes.max(1)).contains(&offset);
        if self.unreadable.iter().any(known) {
            return;
        }
        match self.unreadable.last_mut() {
            Some(last) if last.file == name && last.offset + last.bytes == offset => last.bytes += bytes,
            _ => self.unreadable.push(Unreadable {
                file: name.to_owned(),
                offset,
                bytes,
                reason: error.to_string(),
                is_forbidden: error.kind() == io::ErrorKind::PermissionDenied,
            }),
        }
    }

    fn change(&mut self, name: &str) -> &mut Vec<u8> {
        if !self.kept.contains_key(name) {
            let content = if self.names.contains(name) { self.load(name) } else { Vec::new() };
            self.kept.insert(name.to_owned(), content);
        }
        self.names.insert(name.to_owned());
        self.kept.entry(name.to_owned()).or_default()
    }
}

impl Files for ReadOnlyFiles {
    fn list(&self) -> Result<Vec<String>, StoreError> {
        Ok(self.names.iter().cloned().collect())
    }

    fn read(&mut self, name: &str) -> Result<Vec<u8>, StoreError> {
        if !self.names.contains(name) {
            return Err(StoreError::Io {
                operation: Operation::Read,
                path: self.directory.join(name),
                source: io::ErrorKind::NotFound.into(),
            });
        }
        Ok(match self.kept.get(name) {
            Some(content) => content.clone(),
            None => self.load(name),
        })
    }

    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        let content = self.read(name)?;
        let start = content.len().min(usize::try_from(offset).unwrap_or(usize::MAX));
        let end = content.len().min(start.saturating_add(length));
        Ok(content[start..end].to_vec())
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let content = self.change(name);
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        content.resize(content.len().max(end), 0);
        content[start..end].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self, _: &str) -> Result<(), StoreError> {
        Ok(())
    }

    fn sync_names(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), StoreError> {
        let content = std::mem::take(self.change(from));
        self.remove(from)?;
        self.names.insert(to.to_owned());
        self.kept.insert(to.to_owned(), content);
        Ok(())
    }

    fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        self.names.remove(name);
        self.kept.remove(name);
        Ok(())
    }

    fn truncate(&mut self, name: &str, length: u64) -> Result<(), StoreError> {
        self.change(name).resize(length as usize, 0);
        Ok(())
    }
}
