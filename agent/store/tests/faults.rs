//! What the store promises on a disk that fails: whatever is said to be durable is there after the next crash, and nothing is called damaged
//! that nobody has damaged.
//!
//! The disk is [`MemoryFiles`] with one more nastiness of real ones: after a sync that failed, the page cache goes on showing what is lost, a
//! second sync of the same file succeeds, and a new process sees it all in good order until the power fails.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    rc::Rc,
};

use proptest::prelude::*;
use weir_store::{
    BlockMeta, Files, Identity, Operation, OutboxBlock, Recovered, Store, StoreError, StoreOptions,
    memory::{Faults, MemoryFiles},
};

const OPTIONS: StoreOptions = StoreOptions { journal_bytes_max: 256 * 1024, new_id: 7 };

/// What a strike calls the names.
const NAMES: &str = "/";

/// One operation that is to fail.
struct Strike {
    operation: Operation,
    /// Front of the file's name.
    name: &'static str,
    /// It is done nevertheless.
    done: bool,
}

struct Inner {
    files: MemoryFiles,
    /// What the page cache shows of files whose sync failed.
    cached: BTreeMap<String, Vec<u8>>,
    strikes: Vec<Strike>,
}

/// The disk, shared by the test and the store.
#[derive(Clone)]
struct Disk(Rc<RefCell<Inner>>);

impl Disk {
    fn new(seed: u64) -> Self {
        Self(Rc::new(RefCell::new(Inner { files: MemoryFiles::new(seed), cached: BTreeMap::new(), strikes: Vec::new() })))
    }

    fn open(&self) -> (Store<Disk>, Recovered) {
        Store::open(self.clone(), &OPTIONS).expect("it opens")
    }

    fn faults(&self, faults: Faults) {
        self.0.borrow_mut().files.faults = faults;
    }

    /// The next operation of this kind on such a file fails.
    fn strike(&self, operation: Operation, name: &'static str) {
        self.0.borrow_mut().strikes.push(Strike { operation, name, done: false });
    }

    /// Has as many bytes as are used, and some.
    fn fill(&self, left: u64) {
        let mut inner = self.0.borrow_mut();
        inner.files.faults.space = inner.files.used() + left;
    }

    fn power_cut(&self) {
        let mut inner = self.0.borrow_mut();
        inner.cached.clear();
        inner.strikes.clear();
        inner.files.crash();
    }

    fn names(&self) -> Vec<String> {
        self.list().expect("listed")
    }

    /// Whether it fails, and whether it is done.
    fn struck(&self, operation: Operation, name: &str) -> Option<bool> {
        let strikes = &mut self.0.borrow_mut().strikes;
        let at = strikes.iter().position(|s| s.operation == operation && name.starts_with(s.name))?;
        Some(strikes.remove(at).done)
    }

    fn error(operation: Operation, name: &str) -> StoreError {
        StoreError::Io { operation, path: PathBuf::from(name), source: io::ErrorKind::Other.into() }
    }

    fn failing<T>(&self, change: impl Fn(&mut Faults), what: impl FnOnce(&mut MemoryFiles) -> T) -> T {
        let files = &mut self.0.borrow_mut().files;
        let before = files.faults;
        change(&mut files.faults);
        let result = what(files);
        files.faults = before;
        result
    }
}

impl Files for Disk {
    fn list(&self) -> Result<Vec<String>, StoreError> {
        self.0.borrow().files.list()
    }

    fn read(&mut self, name: &str) -> Result<Vec<u8>, StoreError> {
        let mut inner = self.0.borrow_mut();
        let content = inner.files.read(name)?;
        Ok(inner.cached.get(name).cloned().unwrap_or(content))
    }

    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        let content = self.read(name)?;
        let start = content.len().min(offset as usize);
        Ok(content[start..content.len().min(start + length)].to_vec())
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let result = match self.struck(Operation::Write, name) {
            Some(_) => self.failing(|f| f.write_error_in = 1, |files| files.write_at(name, offset, bytes)),
            None => self.0.borrow_mut().files.write_at(name, offset, bytes),
        };
        let mut inner = self.0.borrow_mut();
        let written = inner.files.read_at(name, offset, bytes.len())?;
        if let Some(cached) = inner.cached.get_mut(name) {
            // All of it or, if it failed, a part.
            let (start, end) = (offset as usize, offset as usize + written.len());
            cached.resize(cached.len().max(end), 0);
            cached[start..end].copy_from_slice(&written);
        }
        result
    }

    fn sync(&mut self, name: &str) -> Result<(), StoreError> {
        let shown = self.read(name).unwrap_or_default();
        let synced = match self.struck(Operation::Sync, name) {
            Some(_) => self.failing(|f| f.sync_error_in = 1, |files| files.sync(name)),
            None => self.0.borrow_mut().files.sync(name),
        };
        if synced.is_err() {
            self.0.borrow_mut().cached.insert(name.to_owned(), shown);
        }
        synced
    }

    fn sync_names(&mut self) -> Result<(), StoreError> {
        match self.struck(Operation::Sync, NAMES) {
            Some(_) => self.failing(|f| f.sync_error_in = 1, |files| files.sync_names()),
            None => self.0.borrow_mut().files.sync_names(),
        }
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), StoreError> {
        let struck = self.struck(Operation::Rename, from);
        if struck != Some(false) {
            let mut inner = self.0.borrow_mut();
            inner.files.rename(from, to)?;
            inner.cached.remove(to);
            if let Some(cached) = inner.cached.remove(from) {
                inner.cached.insert(to.to_owned(), cached);
            }
        }
        struck.map_or(Ok(()), |_| Err(Self::error(Operation::Rename, from)))
    }

    fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        if self.struck(Operation::Remove, name).is_some() {
            return Err(Self::error(Operation::Remove, name));
        }
        let mut inner = self.0.borrow_mut();
        inner.files.remove(name)?;
        inner.cached.remove(name);
        Ok(())
    }

    fn truncate(&mut self, name: &str, length: u64) -> Result<(), StoreError> {
        let mut inner = self.0.borrow_mut();
        inner.files.truncate(name, length)?;
        if let Some(cached) = inner.cached.get_mut(name) {
            cached.truncate(length as usize);
        }
        Ok(())
    }
}

fn meta(first: u64, records: u32) -> BlockMeta {
    BlockMeta { first_record: first, records, points: records, times: (1, 2), inputs: 1 }
}

fn payload(first: u64, length: usize) -> Vec<u8> {
    (0..length).map(|i| ((first as usize * 31 + i * 7) % 251) as u8 ^ (i / 97) as u8).collect()
}

fn firsts(recovered: &Recovered) -> Vec<u64> {
    recovered.blocks.iter().map(|b| b.meta.first_record).collect()
}

fn block(lane: u8, record: u64, length: usize) -> OutboxBlock {
    let identity = Identity { record, ordinal: 0 };
    OutboxBlock { lane, first: identity, last: identity, points: 1, times: (1, 2), bytes: payload(record, length) }
}

/// Blocks 1 to `last`, each of one record, each synced.
fn filled(store: &mut Store<Disk>, last: u64) {
    for first in 1..=last {
        store.append(&meta(first, 1), &payload(first, 500)).expect("written");
        store.sync().expect("synced");
    }
}

#[test]
fn a_segment_removed_before_a_death_leaves_no_hole_before_the_next_block() {
    let disk = Disk::new(1);
    let (mut store, _) = disk.open();
    store.checkpoint(1, 1, &[block(1, 1, 600)], b"one", [0; 2]).expect("made");
    // Nothing in it is needed any more: it goes, and no checkpoint says so before the death.
    store.checkpoint(2, 2, &[], b"two", [u64::MAX; 2]).expect("made");
    let (mut store, recovered) = disk.open();
    assert_eq!((recovered.outbox.len(), recovered.damage.len()), (0, 0));
    store.checkpoint(3, 3, &[block(1, 3, 100)], b"three", [0; 2]).expect("made");
    let (mut store, recovered) = disk.open();
    assert_eq!(recovered.damage, []);
    assert_eq!(store.read_outbox(1, recovered.outbox[0].place).expect("read"), Some(payload(3, 100)));
}

#[test]
fn a_segment_that_lost_its_end_gets_no_zeros_in_place_of_it() {
    let disk = Disk::new(1);
    let (mut store, _) = disk.open();
    let places = store.checkpoint(1, 1, &[block(1, 1, 600), block(1, 2, 600)], b"one", [0; 2]).expect("made");
    disk.clone().truncate("outbox-1-00000000", places[1].offset).expect("cut");
    for number in 2..5 {
        let (mut store, recovered) = disk.open();
        assert_eq!(recovered.damage, []);
        store.checkpoint(number, 2, &[block(1, 10 + number, 50)], b"more", [0; 2]).expect("made");
    }
    let (_, recovered) = disk.open();
    assert_eq!(recovered.outbox.iter().map(|f| f.first.record).collect::<Vec<_>>(), [1, 12, 13, 14]);
}

#[test]
fn a_sync_called_again_after_it_failed_does_not_believe_the_same_file() {
    for failures in 1..=4 {
        let disk = Disk::new(failures);
        let (mut store, _) = disk.open();
        filled(&mut store, 1);
        store.append(&meta(2, 1), &payload(2, 500)).expect("written");
        store.append(&meta(3, 1), &payload(3, 500)).expect("written");
        for _ in 0..failures {
            disk.strike(Operation::Sync, "journal");
        }
        let mut errors = 0;
        while store.sync().is_err() {
            errors += 1;
            assert!(errors < 5, "it never gets through");
        }
        disk.power_cut();
        let (_, recovered) = disk.open();
        assert_eq!((firsts(&recovered), recovered.damage.len()), (vec![1, 2, 3], 0), "{failures} failures");
    }
}

#[test]
fn a_sync_that_could_not_write_the_blocks_elsewhere_keeps_them() {
    let disk = Disk::new(5);
    let (mut store, _) = disk.open();
    filled(&mut store, 1);
    store.append(&meta(2, 1), &payload(2, 500)).expect("written");
    store.append(&meta(3, 1), &payload(3, 500)).expect("written");
    disk.strike(Operation::Sync, "journal");
    disk.strike(Operation::Write, "journal");
    disk.strike(Operation::Write, "journal");
    store.sync().expect_err("neither here nor there");
    store.sync().expect("at last");
    disk.power_cut();
    let (_, recovered) = disk.open();
    assert_eq!((firsts(&recovered), recovered.damage.len()), (vec![1, 2, 3], 0));
}

#[test]
fn a_block_that_could_not_be_written_is_not_passed_over() {
    let disk = Disk::new(3);
    let (mut store, _) = disk.open();
    filled(&mut store, 1);
    // Once: another file takes it.
    disk.strike(Operation::Write, "journal");
    store.append(&meta(2, 1), &payload(2, 9000)).expect("written elsewhere");
    // For good: later ones are refused, as they could not be read without it.
    disk.faults(Faults { write_error_in: 1, ..Faults::default() });
    store.append(&meta(3, 1), &payload(3, 500)).expect_err("nowhere to write");
    disk.faults(Faults::default());
    let refused = store.append(&meta(4, 1), &payload(4, 500)).expect_err("3 is missing");
    assert!(matches!(refused, StoreError::OutOfOrder { expected: 3, found: 4 }), "{refused}");
    store.sync().expect("2 is synced");
    store.append(&meta(3, 1), &payload(3, 500)).expect("written");
    store.append(&meta(4, 1), &payload(4, 500)).expect("written");
    store.sync().expect("synced");
    disk.power_cut();
    let (_, recovered) = disk.open();
    assert_eq!((firsts(&recovered), recovered.damage.len()), (vec![1, 2, 3, 4], 0));
}

#[test]
fn what_a_start_found_in_the_page_cache_alone_survives_the_power_cut_after_it() {
    let disk = Disk::new(3);
    let (mut store, _) = disk.open();
    filled(&mut store, 2);
    store.append(&meta(3, 1), &payload(3, 500)).expect("written");
    disk.faults(Faults { sync_error_in: 1, ..Faults::default() });
    store.sync().expect_err("no sync gets through");
    disk.faults(Faults::default());
    // The process is killed. What the next one finds it tells its sources.
    let (_, recovered) = disk.open();
    assert_eq!(firsts(&recovered), [1, 2, 3]);
    disk.power_cut();
    let (_, recovered) = disk.open();
    assert_eq!((firsts(&recovered), recovered.damage.len()), (vec![1, 2, 3], 0));
}

#[test]
fn starts_without_work_between_them_take_no_room() {
    let disk = Disk::new(3);
    let (mut store, _) = disk.open();
    filled(&mut store, 2);
    let mut used = BTreeSet::new();
    for _ in 0..10 {
        let (store, recovered) = disk.open();
        assert_eq!((firsts(&recovered), recovered.damage.len()), (vec![1, 2], 0));
        used.insert(store.journal_used());
    }
    assert_eq!(used.len(), 1, "{used:?}");
}

#[test]
fn a_journal_that_can_grow_no_more_asks_for_a_checkpoint() {
    let disk = Disk::new(3);
    let (mut store, _) = disk.open();
    disk.fill(100);
    let mut next = 1;
    let full = loop {
        match store.append(&meta(next, 1), &payload(next, 3000)) {
            Ok(()) => next += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, StoreError::JournalFull { .. }), "{full}");
    assert!(!disk.names().iter().any(|n| n == "journal-000001"), "what could not be made takes no room");
    disk.faults(Faults::default());
    store.append(&meta(next, 1), &payload(next, 3000)).expect("there is room again");
    store.sync().expect("synced");
}

#[test]
fn a_file_that_could_not_be_made_is_not_relied_on() {
    for (operation, name) in [(Operation::Write, "journal"), (Operation::Sync, "journal"), (Operation::Sync, NAMES)] {
        let disk = Disk::new(3);
        let (mut store, _) = disk.open();
        // The first file is full after these; the next has to be made.
        let mut next = 1;
        while disk.names().iter().filter(|n| n.starts_with("journal")).count() < 2 {
            if next == 15 {
                disk.strike(operation, name);
            }
            store.append(&meta(next, 1), &payload(next, 3000)).expect("written");
            if next != 15 && next < 16 {
                store.sync().expect("synced");
            }
            next += 1;
        }
        store.sync().expect("synced");
        disk.power_cut();
        let (_, recovered) = disk.open();
        assert_eq!((firsts(&recovered), recovered.damage.len()), ((1..next).collect::<Vec<_>>(), 0), "{operation} {name}");
    }
}

/// The checkpoint may be there or not after the power cut: either way everything it knows of is.
#[test]
fn a_checkpoint_whose_name_could_not_be_made_durable_may_be_found_and_is_whole_then() {
    let mut found = BTreeSet::new();
    for (seed, rename) in (0..40).map(|i| (i, i % 2 == 0)) {
        let disk = Disk::new(seed);
        let (mut store, _) = disk.open();
        filled(&mut store, 3);
        store.checkpoint(1, 3, &[block(1, 3, 300)], b"1", [0; 2]).expect("made");
        if rename {
            disk.0.borrow_mut().strikes.push(Strike { operation: Operation::Rename, name: "checkpoint", done: true });
        } else {
            // That of the outbox gets through, that of the rename does not.
            store.checkpoint(2, 3, &[], b"2", [0; 2]).expect("made");
            disk.strike(Operation::Sync, NAMES);
        }
        let second = if rename { vec![block(1, 4, 700)] } else { vec![] };
        store.checkpoint(3, 3, &second, b"3", [0; 2]).expect_err("its name");
        if seed % 4 < 2 {
            // The next attempt does not get as far: its blocks must not lie where those of the one before do.
            disk.strike(Operation::Sync, "outbox");
            store.checkpoint(4, 3, &[block(1, 4, 900), block(1, 5, 900)], b"4", [0; 2]).expect_err("its blocks");
        }
        disk.power_cut();
        let (mut store, recovered) = disk.open();
        assert_eq!(recovered.damage, []);
        let checkpoint = recovered.checkpoint.expect("there is one");
        found.insert((rename, checkpoint.number));
        let known = if rename && checkpoint.number == 3 { vec![(3, 300), (4, 700)] } else { vec![(3, 300)] };
        let there: Vec<_> = recovered.outbox.iter().map(|f| (f.first.record, store.read_outbox(1, f.place).expect("read"))).collect();
        let known: Vec<_> = known.into_iter().map(|(record, length)| (record, Some(payload(record, length)))).collect();
        assert_eq!(there, known, "checkpoint {}", checkpoint.number);
    }
    assert_eq!(found.len(), 4, "each case came both ways: {found:?}");
}

#[test]
fn a_checkpoint_that_is_found_has_the_segment_beside_it_that_was_made_for_it() {
    let mut found = 0;
    for seed in 0..40 {
        let disk = Disk::new(seed);
        let (mut store, _) = disk.open();
        filled(&mut store, 3);
        disk.0.borrow_mut().strikes.push(Strike { operation: Operation::Rename, name: "checkpoint", done: true });
        store.checkpoint(1, 3, &[block(1, 3, 300)], b"1", [0; 2]).expect_err("its name");
        disk.power_cut();
        let (mut store, recovered) = disk.open();
        assert_eq!(recovered.damage, []);
        if recovered.checkpoint.is_some() {
            found += 1;
            let there: Vec<_> = recovered.outbox.iter().map(|f| store.read_outbox(1, f.place).expect("read")).collect();
            assert_eq!(there, [Some(payload(3, 300))], "seed {seed}");
        }
    }
    assert!((1..40).contains(&found), "it came both ways: {found}");
}

#[test]
fn cursors_saved_before_a_checkpoint_are_not_believed_behind_it() {
    let disk = Disk::new(7);
    let (mut store, _) = disk.open();
    filled(&mut store, 3);
    store.checkpoint(1, 1, &[], b"1", [0; 2]).expect("made");
    store.save_cursors(1, b"how far").expect("saved");
    disk.power_cut();
    let (mut store, recovered) = disk.open();
    assert_eq!(recovered.cursors.map(|saved| saved.bytes), Some(b"how far".to_vec()), "nothing came behind them");
    store.checkpoint(2, 2, &[], b"2", [0; 2]).expect("made");
    disk.power_cut();
    let (_, recovered) = disk.open();
    assert_eq!(recovered.checkpoint.map(|c| c.number), Some(2));
    assert_eq!(recovered.cursors, None, "the state knows better");
}

#[test]
fn a_checkpoint_that_failed_leaves_nothing_that_takes_room() {
    let disk = Disk::new(7);
    let (mut store, _) = disk.open();
    store.checkpoint(1, 0, &[block(1, 1, 300)], b"1", [0; 2]).expect("made");
    let before = disk.0.borrow().files.used();
    disk.fill(10_000);
    // The outbox finds room, the state does not.
    let state: Vec<u8> = (0..60_000u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_pow(3) >> 40) as u8).collect();
    let error = store.checkpoint(2, 0, &[block(1, 2, 800)], &state, [0; 2]).expect_err("no room");
    assert!(error.is_no_space(), "{error}");
    assert_eq!(disk.0.borrow().files.used(), before);
}

#[test]
fn a_full_disk_still_takes_a_state_no_larger_than_those_before() {
    let disk = Disk::new(7);
    let (mut store, _) = disk.open();
    let state = |number: u64| payload(number, 20_000);
    for number in 1..4 {
        store.checkpoint(number, 0, &[], &state(number % 2), [0; 2]).expect("made");
    }
    disk.fill(0);
    for number in 4..20 {
        store.checkpoint(number, 0, &[], &state(number % 2), [0; 2]).expect("it has its room");
        if number == 10 {
            disk.power_cut();
            let recovered;
            (store, recovered) = disk.open();
            assert_eq!((recovered.checkpoint.expect("there").number, recovered.damage.len()), (10, 0));
        }
    }
}

#[test]
fn a_lost_id_is_that_of_the_blocks_and_is_named() {
    for injury in ["gone", "short", "another"] {
        let disk = Disk::new(7);
        let (mut store, _) = disk.open();
        filled(&mut store, 3);
        store.checkpoint(1, 2, &[], b"1", [0; 2]).expect("made");
        match injury {
            "gone" => disk.clone().remove("id").expect("removed"),
            "short" => disk.clone().truncate("id", 3).expect("cut"),
            _ => disk.clone().write_at("id", 0, &99u64.to_le_bytes()).expect("changed"),
        }
        let options = StoreOptions { new_id: 1234, ..OPTIONS };
        let (_, recovered) = Store::open(disk.clone(), &options).expect("it opens");
        assert_eq!(recovered.damage.iter().map(|d| d.place.as_str()).collect::<Vec<_>>(), ["id"], "{injury}");
        assert_eq!((recovered.checkpoint.expect("there").number, recovered.blocks.len()), (1, 1), "{injury}");
        let (_, recovered) = Store::open(disk, &options).expect("it opens");
        assert_eq!((recovered.damage.len(), recovered.blocks.len()), (0, 1), "{injury}");
    }
}

/// What a store may be asked to do, and what may befall it.
#[derive(Clone, Debug)]
enum Step {
    Append { records: u32, length: usize },
    Sync,
    Checkpoint { blocks: u8, free: bool },
    FreeEarly,
    Faults { writes: u32, syncs: u32 },
    Full { left: u64 },
    Healthy,
    Kill,
    PowerCut,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let rate = || prop_oneof![Just(0u32), Just(1), 2u32..12];
    let step = prop_oneof![
        10 => (1..5u32, 0..9000usize).prop_map(|(records, length)| Step::Append { records, length }),
        8 => Just(Step::Sync),
        4 => (0..4u8, any::<bool>()).prop_map(|(blocks, free)| Step::Checkpoint { blocks, free }),
        1 => Just(Step::FreeEarly),
        2 => (rate(), rate()).prop_map(|(writes, syncs)| Step::Faults { writes, syncs }),
        1 => (0..80_000u64).prop_map(|left| Step::Full { left }),
        3 => Just(Step::Healthy),
        2 => Just(Step::Kill),
        2 => Just(Step::PowerCut),
    ];
    prop::collection::vec(step, 1..80)
}

/// A block of the outbox: lane, record, payload.
type Kept = Vec<(u8, u64, Vec<u8>)>;

/// What has been said, and so must hold.
struct Model {
    disk: Disk,
    store: Option<Store<Disk>>,
    /// Blocks that were offered, by first record: none may come back that was not, and none with other bytes.
    offered: BTreeMap<u64, (u32, Vec<u8>)>,
    next: u64,
    acknowledged: u64,
    /// The newest checkpoint said to be made, and what each that may be found knows of: records and outbox.
    made: u64,
    known: BTreeMap<u64, (u64, Kept)>,
    number: u64,
    /// What waits to be in the outbox with the next checkpoint, and what is there.
    waiting: Kept,
    kept: Kept,
}

impl Model {
    fn new(seed: u64) -> Self {
        let disk = Disk::new(seed);
        let (store, _) = disk.open();
        Self {
            disk,
            store: Some(store),
            offered: BTreeMap::new(),
            next: 1,
            acknowledged: 0,
            made: 0,
            known: BTreeMap::from([(0, (0, Vec::new()))]),
            number: 0,
            waiting: Vec::new(),
            kept: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        let Some(store) = &mut self.store else { return Ok(()) };
        match step {
            Step::Append { records, length } => {
                // A block that was not taken is offered again, as it was.
                let next = self.next;
                let (records, bytes) = self.offered.entry(next).or_insert_with(|| (records, payload(next, length)));
                if store.append(&meta(next, *records), bytes).is_ok() {
                    self.next += u64::from(*records);
                }
            }
            Step::Sync => {
                if store.sync().is_ok() {
                    self.acknowledged = self.next - 1;
                }
            }
            Step::Checkpoint { blocks, free } => self.checkpoint(blocks, free)?,
            Step::FreeEarly => {
                // Given up: no start misses it, whether it could be removed or not.
                let _ = store.free_outbox([u64::MAX; 2]);
                self.kept.clear();
                self.known.values_mut().for_each(|(_, kept)| kept.clear());
            }
            Step::Faults { writes, syncs } => {
                self.disk.faults(Faults { write_error_in: writes, sync_error_in: syncs, ..Faults::default() });
            }
            Step::Full { left } => self.disk.fill(left),
            Step::Healthy => self.disk.faults(Faults::default()),
            Step::Kill => self.restart()?,
            Step::PowerCut => {
                self.disk.power_cut();
                self.restart()?;
            }
        }
        Ok(())
    }

    fn checkpoint(&mut self, blocks: u8, free: bool) -> Result<(), String> {
        let Some(store) = &mut self.store else { return Ok(()) };
        self.number += 1;
        for index in 0..blocks {
            // The first of those that wait grows with what is merged into it.
            let record = 1000 * self.number + u64::from(index);
            self.waiting.push((index % 2, record, payload(record, 300)));
        }
        if let Some((_, _, bytes)) = self.waiting.first_mut() {
            bytes.push(self.number as u8);
        }
        let outbox: Vec<_> =
            self.waiting.iter().map(|(lane, record, bytes)| OutboxBlock { bytes: bytes.clone(), ..block(*lane, *record, 0) }).collect();
        let mut knows = if free { Vec::new() } else { self.kept.clone() };
        knows.extend(self.waiting.iter().cloned());
        self.known.insert(self.number, (self.next - 1, knows.clone()));
        let below = if free { [u64::MAX; 2] } else { [0; 2] };
        let state = payload(self.number, 2000);
        if let Ok(places) = store.checkpoint(self.number, self.next - 1, &outbox, &state, below) {
            if places.len() != outbox.len() {
                return Err("places".into());
            }
            self.known.retain(|number, _| *number >= self.number);
            (self.made, self.acknowledged) = (self.number, self.next - 1);
            self.kept = knows;
            self.waiting.clear();
        }
        Ok(())
    }

    fn restart(&mut self) -> Result<(), String> {
        self.store = None;
        // A start may fail while the disk does, any number of times.
        let opened = Store::open(self.disk.clone(), &OPTIONS).or_else(|_| {
            self.disk.faults(Faults::default());
            Store::open(self.disk.clone(), &OPTIONS)
        });
        let (mut store, recovered) = opened.map_err(|e| format!("on a healthy disk: {e}"))?;
        if !recovered.damage.is_empty() {
            return Err(format!("damage {:?}", recovered.damage));
        }
        let found = recovered.checkpoint.as_ref().map_or(0, |c| c.number);
        let Some((upto, kept)) = self.known.get(&found).filter(|_| found >= self.made).cloned() else {
            return Err(format!("checkpoint {found}, not {}", self.made));
        };
        if recovered.checkpoint.is_some_and(|c| c.state != payload(found, 2000) || c.upto_record != upto) {
            return Err(format!("checkpoint {found} is another"));
        }
        for (lane, record, bytes) in &kept {
            let place = recovered.outbox.iter().rfind(|f| f.lane == *lane && f.first.record == *record).map(|f| f.place);
            let read = place.and_then(|place| store.read_outbox(*lane, place).ok().flatten());
            if read.as_ref() != Some(bytes) {
                return Err(format!("outbox block {record} of checkpoint {found} at {place:?}"));
            }
        }
        let mut expected = upto + 1;
        for block in &recovered.blocks {
            match self.offered.get(&block.meta.first_record) {
                Some((records, bytes)) if block.meta.first_record == expected && *bytes == block.bytes => expected += u64::from(*records),
                _ => return Err(format!("block {} after {expected}", block.meta.first_record)),
            }
        }
        if expected <= self.acknowledged {
            return Err(format!("{} was acknowledged, recovered up to {}", self.acknowledged, expected - 1));
        }
        self.store = Some(store);
        (self.next, self.acknowledged, self.made, self.number) = (expected, expected - 1, found, found);
        self.offered.retain(|first, _| *first < expected);
        self.known.retain(|number, _| *number == found);
        (self.kept, self.waiting) = (kept, Vec::new());
        Ok(())
    }
}

fn run(seed: u64, steps: Vec<Step>) -> Result<(), String> {
    let mut model = Model::new(seed);
    for step in steps.into_iter().chain([Step::PowerCut]) {
        model.step(step)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_said_to_be_durable_is_there_whatever_fails(seed: u64, steps in steps()) {
        prop_assert_eq!(run(seed, steps), Ok(()));
    }
}
