//! What the disk thread does to the disk and what it tells the core, in the order in which both happen.
//!
//! Apart from the other tests for the disk that writes it down: what the core has been told is looked at before each thing done to the disk.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, mpsc::Receiver},
};

use weir_store::{StoreOptions, memory::MemoryFiles};

use super::{
    tests::{block, checkpoint, shown},
    *,
};
use crate::{run::handle::Message, sys::clock::SystemClock};

#[derive(Clone)]
struct Watched(Rc<RefCell<Inner>>);

struct Inner {
    files: MemoryFiles,
    /// Where the core's events arrive, while somebody works.
    inbox: Option<Receiver<Message>>,
    /// What was done and told, in short.
    log: Vec<String>,
    /// Where blocks of the outbox lie.
    places: Vec<OutboxPlace>,
    /// The next sync of such a file fails.
    strikes: Vec<&'static str>,
}

impl Inner {
    /// What the core has been told since the last look.
    fn look(&mut self) {
        let told: Vec<Message> = self.inbox.iter().flat_map(Receiver::try_iter).collect();
        for message in told {
            if let Message::Event(Event::CheckpointDone { outbox, .. }) = &message {
                self.places.clone_from(outbox);
            }
            self.log.extend(shown(message));
        }
    }

    fn does(&mut self, what: &str, name: &str) -> &mut MemoryFiles {
        self.look();
        let kind = name.split('-').next().unwrap_or(name);
        self.log.push(format!("{what} {kind}"));
        &mut self.files
    }
}

impl Files for Watched {
    fn list(&self) -> Result<Vec<String>, StoreError> {
        self.0.borrow().files.list()
    }

    fn read(&mut self, name: &str) -> Result<Vec<u8>, StoreError> {
        self.0.borrow_mut().files.read(name)
    }

    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        self.0.borrow_mut().files.read_at(name, offset, length)
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.0.borrow_mut().does("write", name).write_at(name, offset, bytes)
    }

    fn sync(&mut self, name: &str) -> Result<(), StoreError> {
        let mut inner = self.0.borrow_mut();
        let strikes = inner.strikes.iter().position(|s| name.starts_with(s)).map(|at| inner.strikes.remove(at));
        let files = inner.does("sync", name);
        files.faults.sync_error_in = u32::from(strikes.is_some());
        let synced = files.sync(name);
        files.faults.sync_error_in = 0;
        synced
    }

    fn sync_names(&mut self) -> Result<(), StoreError> {
        self.0.borrow_mut().does("sync", "names").sync_names()
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), StoreError> {
        self.0.borrow_mut().does("rename to", to).rename(from, to)
    }

    fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        self.0.borrow_mut().does("remove", name).remove(name)
    }

    fn truncate(&mut self, name: &str, length: u64) -> Result<(), StoreError> {
        self.0.borrow_mut().files.truncate(name, length)
    }
}

impl Watched {
    fn new() -> Self {
        let inner = Inner { files: MemoryFiles::new(1), inbox: None, log: Vec::new(), places: Vec::new(), strikes: Vec::new() };
        let watched = Self(Rc::new(RefCell::new(inner)));
        // The first start makes what every store has.
        watched.work(Vec::new());
        watched
    }

    /// Has a disk thread carry these out; what was done and told, in order.
    fn work(&self, commands: Vec<DiskCommand>) -> Vec<String> {
        let options = StoreOptions { journal_bytes_max: 64 * 1024, new_id: 1 };
        let (store, _) = Store::open(self.clone(), &options).expect("it opens");
        let (core, inbox) = CoreHandle::new();
        self.0.borrow_mut().inbox = Some(inbox);
        self.0.borrow_mut().log.clear();
        let (sender, receiver) = mpsc::channel();
        commands.into_iter().for_each(|c| sender.send(c).expect("the receiver is here"));
        drop(sender);
        run(store, &receiver, &core, &SharedWrites::new(Arc::new(SystemClock::default())));
        let mut inner = self.0.borrow_mut();
        inner.look();
        std::mem::take(&mut inner.log)
    }

    fn strike(&self, names: &[&'static str]) {
        self.0.borrow_mut().strikes.extend(names);
    }
}

fn results(lane: u8, record: u64, bytes: &[u8]) -> core::OutboxBlock {
    let at = Identity { record, ordinal: 0 };
    core::OutboxBlock { lane, first: at, last: at, points: 1, times: (0, 0), bytes: bytes.to_vec() }
}

fn with_results(number: u64, upto_record: u64, outbox: Vec<core::OutboxBlock>) -> DiskCommand {
    DiskCommand::Checkpoint { number, outbox, state: vec![1; 100], upto_record, free_below: [0; 2] }
}

#[test]
fn nothing_is_told_before_it_is_on_the_disk() {
    let disk = Watched::new();
    let done = disk.work(vec![block(1, 100), block(2, 100), with_results(1, 2, vec![results(1, 1, b"result")])]);
    let journal = ["write journal", "write journal", "sync journal", "durable 2 true"];
    let outbox = ["write outbox", "sync outbox", "sync names"];
    let state = ["write checkpoint.new", "sync checkpoint.new", "rename to checkpoint", "sync names", "checkpoint 1"];
    assert_eq!(done, [&journal[..], &outbox, &state].concat());
}

#[test]
fn where_a_write_is_enough_the_sync_is_told_apart_from_it() {
    let unsynced = |number| match block(number, 100) {
        DiskCommand::Append { block, bytes, meta, .. } => DiskCommand::Append { block, bytes, meta, sync: false },
        other => other,
    };
    let done = Watched::new().work(vec![unsynced(1), unsynced(2), DiskCommand::Sync]);
    assert_eq!(done, ["write journal", "durable 1 false", "write journal", "durable 2 false", "sync journal", "durable 2 true"]);
}

#[test]
fn blocks_whose_sync_fails_are_written_elsewhere_or_are_not_durable() {
    let disk = Watched::new();
    disk.strike(&["journal"]);
    let done = disk.work(vec![block(1, 100)]);
    let elsewhere = ["write journal", "sync journal", "sync names", "write journal", "sync journal"];
    assert_eq!(done, [&["write journal", "sync journal"], &elsewhere[..], &["durable 1 true"]].concat());
    let disk = Watched::new();
    disk.strike(&["journal"; 10]);
    let done = disk.work(vec![block(1, 100), block(2, 100), checkpoint(1, 2)]);
    assert!(done.ends_with(&["storage failed".into(), "checkpoint 1 failed, no space false".into()]), "{done:?}");
    assert!(done.iter().all(|what| !what.starts_with("durable")), "{done:?}");
}

#[test]
fn blocks_of_a_file_that_failed_where_no_other_can_be_made_are_durable_with_the_next_checkpoint() {
    let disk = Watched::new();
    disk.strike(&["journal"]);
    {
        let files = &mut disk.0.borrow_mut().files;
        // Room for a state, not for another file of the journal.
        files.faults.space = files.used() + 8000;
    }
    let done = disk.work(vec![block(1, 100), checkpoint(1, 1)]);
    let told: Vec<&str> = done.iter().map(String::as_str).filter(|d| ["durable", "checkpoint "].iter().any(|t| d.starts_with(t))).collect();
    assert_eq!(told, ["checkpoint wanted", "checkpoint 1", "durable 1 true"], "{done:?}");
}

#[test]
fn a_block_that_waits_is_not_durable_with_a_checkpoint_that_ends_before_it_and_none_passes_it() {
    // Each of the four files has room for one, and then for a small one.
    let commands = (1..6).map(|n| block(n, 11 * 1024)).chain([block(6, 100), checkpoint(1, 4)]).collect();
    let done = Watched::new().work(commands);
    let told: Vec<&str> = done.iter().map(String::as_str).filter(|d| !d.starts_with("write") && !d.starts_with("sync")).collect();
    assert_eq!(told, ["checkpoint wanted", "durable 4 true", "rename to checkpoint", "checkpoint 1", "checkpoint wanted"], "{done:?}");
}

#[test]
fn cursors_are_saved_when_they_are_synced() {
    let disk = Watched::new();
    let save = || vec![DiskCommand::SaveCursors { checkpoint: 1, bytes: b"how far".to_vec() }];
    assert_eq!(disk.work(save()), ["write cursors", "sync cursors", "cursors saved"]);
    disk.strike(&["cursors"]);
    assert_eq!(disk.work(save()), ["write cursors", "sync cursors", "cursors unsaved"]);
}

#[test]
fn each_block_of_the_outbox_is_read_from_the_place_that_was_told_for_it() {
    let disk = Watched::new();
    let blocks = [(0, b"alerts".as_slice()), (1, b"some results"), (1, b"others")];
    disk.work(vec![with_results(1, 0, blocks.iter().zip(1..).map(|((lane, bytes), record)| results(*lane, record, bytes)).collect())]);
    let places = disk.0.borrow().places.clone();
    assert_eq!(places.len(), 3);
    for ((lane, bytes), place) in blocks.into_iter().zip(places) {
        let lane = Lane::ALL[usize::from(lane)];
        assert_eq!(disk.work(vec![DiskCommand::ReadOutbox { output: 2, lane, place }]), [format!("read {:?}", Some(bytes))]);
    }
}
