//! The disk as the simulated process sees it: files that die with it in the middle of an operation, and the bugs that are planted between
//! the store and the disk.

use std::{
    cell::{Cell, RefCell},
    io,
    path::PathBuf,
    rc::Rc,
};

use weir_store::{Files, Operation, StoreError, memory::MemoryFiles};

use super::plan::Bug;

/// How long the process lives: counted in effects, those of the core and those on the disk alike.
#[derive(Clone, Debug, Default)]
pub struct Fuse {
    left: Rc<Cell<Option<u32>>>,
    burnt: Rc<Cell<u64>>,
}

impl Fuse {
    /// Dies after this many effects; `None`: lives on.
    pub fn set(&self, left: Option<u32>) {
        self.left.set(left);
    }

    /// Whether the process has died.
    pub fn is_dead(&self) -> bool {
        self.left.get() == Some(0)
    }

    /// Effects so far.
    pub fn burnt(&self) -> u64 {
        self.burnt.get()
    }

    /// One effect; whether the process still performs it.
    pub fn burn(&self) -> bool {
        self.burnt.set(self.burnt.get() + 1);
        match self.left.get() {
            Some(0) => false,
            left => {
                self.left.set(left.map(|l| l - 1));
                true
            }
        }
    }
}

/// Files in memory that end with the process.
#[derive(Clone, Debug)]
pub struct MortalFiles {
    /// What is on the disk.
    pub files: Rc<RefCell<MemoryFiles>>,
    /// How long it lives.
    pub fuse: Fuse,
    /// What is left out.
    bug: Option<Bug>,
    /// Writes to the outbox that are put off: a planted bug.
    put_off: Vec<(String, u64, Vec<u8>)>,
    /// A checkpoint has got its name.
    published: bool,
}

impl MortalFiles {
    /// Lives for now.
    pub fn new(files: MemoryFiles, bug: Option<Bug>) -> Self {
        Self { files: Rc::new(RefCell::new(files)), fuse: Fuse::default(), bug, put_off: Vec::new(), published: false }
    }

    fn alive(&self, operation: Operation, name: &str) -> Result<(), StoreError> {
        if super::is_traced() {
            eprintln!("           {operation} {name}{}", if self.fuse.is_dead() { ": dead" } else { "" });
        }
        if self.fuse.burn() {
            return Ok(());
        }
        Err(StoreError::Io { operation, path: PathBuf::from(name), source: io::ErrorKind::Interrupted.into() })
    }
}

impl MortalFiles {
    /// The first page of each file of the journal: what is free may be written over at any time.
    fn write_over_the_journal(&mut self) -> Result<(), StoreError> {
        let mut files = self.files.borrow_mut();
        for name in files.list()?.iter().filter(|n| n.starts_with("journal-")) {
            files.write_at(name, 0, &[0; 4096])?;
            files.sync(name)?;
        }
        Ok(())
    }
}

impl Files for MortalFiles {
    fn list(&self) -> Result<Vec<String>, StoreError> {
        self.files.borrow().list()
    }

    fn read(&mut self, name: &str) -> Result<Vec<u8>, StoreError> {
        self.files.borrow_mut().read(name)
    }

    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        self.files.borrow_mut().read_at(name, offset, length)
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.alive(Operation::Write, name)?;
        if self.bug == Some(Bug::CheckpointBeforeOutbox) && name.starts_with("outbox-") {
            self.put_off.push((name.to_owned(), offset, bytes.to_vec()));
            return Ok(());
        }
        if self.bug == Some(Bug::JournalFreedEarly) && name == "checkpoint.new" && offset == 0 {
            self.write_over_the_journal()?;
        }
        self.files.borrow_mut().write_at(name, offset, bytes)
    }

    fn sync(&mut self, name: &str) -> Result<(), StoreError> {
        self.alive(Operation::Sync, name)?;
        let left_out = match self.bug {
            Some(Bug::JournalNotSynced) => name.starts_with("journal-"),
            Some(Bug::OutboxNotSynced) => name.starts_with("outbox-"),
            Some(Bug::CheckpointNotSynced) => name.starts_with("checkpoint"),
            _ => false,
        };
        let put_off = self.put_off.iter().any(|(file, ..)| file == name);
        if left_out || put_off { Ok(()) } else { self.files.borrow_mut().sync(name) }
    }

    fn sync_names(&mut self) -> Result<(), StoreError> {
        self.alive(Operation::Sync, "")?;
        if self.bug != Some(Bug::NamesNotSynced) {
            self.files.borrow_mut().sync_names()?;
        }
        if !std::mem::take(&mut self.published) {
            return Ok(());
        }
        // The checkpoint counts now.
        for (name, offset, bytes) in std::mem::take(&mut self.put_off) {
            self.alive(Operation::Write, &name)?;
            self.files.borrow_mut().write_at(&name, offset, &bytes)?;
            self.files.borrow_mut().sync(&name)?;
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), StoreError> {
        self.alive(Operation::Rename, from)?;
        self.published |= from == "checkpoint.new";
        self.files.borrow_mut().rename(from, to)
    }

    fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        self.alive(Operation::Remove, name)?;
        if self.bug == Some(Bug::OutboxNotCut) && name.starts_with("outbox-") {
            return Ok(());
        }
        self.files.borrow_mut().remove(name)
    }

    fn truncate(&mut self, name: &str, length: u64) -> Result<(), StoreError> {
        self.alive(Operation::Write, name)?;
        if self.bug == Some(Bug::OutboxNotCut) && name.starts_with("outbox-") {
            return Ok(());
        }
        self.files.borrow_mut().truncate(name, length)
    }
}
