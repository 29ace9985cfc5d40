//! The threads as they run, with a journal so small that it is full again and again, through deaths at any write: it never waits for a
//! checkpoint that does not come. The simulator has the same without threads; what is awaited here is only seen with them.

#![allow(clippy::unwrap_used)]

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use weir_engine::{
    core::Core,
    spec::{EngineSpec, InputSpec},
};
use weir_plugin_api::{
    Position,
    position::MessageId,
    ring::{RingSender, ring},
};
use weir_store::{Files, Operation, Store, StoreError, StoreOptions, memory::MemoryFiles};

use super::{
    core_thread::CoreThread,
    disk_thread::{self, core_found, core_meta},
    handle::{CoreHandle, Message},
    writes::SharedWrites,
};
use crate::sys::clock::SystemClock;

/// Four files of 16 KiB.
const JOURNAL: u64 = 64 * 1024;
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Files that a death leaves as they are: after so many writes nothing happens to them any more.
#[derive(Clone)]
struct MortalFiles {
    files: Arc<Mutex<MemoryFiles>>,
    left: Arc<AtomicU64>,
}

impl MortalFiles {
    fn living(&self) -> Result<MutexGuard<'_, MemoryFiles>, StoreError> {
        let spent = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err();
        if spent {
            return Err(StoreError::Io { operation: Operation::Write, path: "any".into(), source: io::Error::other("dead") });
        }
        Ok(self.files.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Files for MortalFiles {
    fn list(&self) -> Result<Vec<String>, StoreError> {
        self.living()?.list()
    }

    fn read(&mut self, name: &str) -> Result<Vec<u8>, StoreError> {
        self.living()?.read(name)
    }

    fn read_at(&mut self, name: &str, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        self.living()?.read_at(name, offset, length)
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.living()?.write_at(name, offset, bytes)
    }

    fn sync(&mut self, name: &str) -> Result<(), StoreError> {
        self.living()?.sync(name)
    }

    fn sync_names(&mut self) -> Result<(), StoreError> {
        self.living()?.sync_names()
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), StoreError> {
        self.living()?.rename(from, to)
    }

    fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        self.living()?.remove(name)
    }

    fn truncate(&mut self, name: &str, length: u64) -> Result<(), StoreError> {
        self.living()?.truncate(name, length)
    }
}

/// Numbers drawn from a seed, which nothing compresses.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// One batch after the other, as fast as they are taken, until all are durable or the disk is dead; how many were durable.
fn feed(sender: &mut RingSender, core: &CoreHandle, files: &MortalFiles, random: &mut Random, batches: u64) -> u64 {
    let acknowledgements = sender.acknowledgements();
    let (mut sent, mut durable, mut since) = (0, 0, Instant::now());
    while durable < batches && files.left.load(Ordering::Relaxed) > 0 {
        if let Some(mut batch) = (sent < batches).then(|| sender.try_empty()).flatten() {
            sent += 1;
            let messages =
                (0..random.below(600)).map(|_| MessageId { id: 1 + random.below(2000) as u16, hash: random.below(1 << 31) as u32 });
            (batch.number, batch.position) = (sent, Position::Messages { session: 1 << 32, ids: messages.collect() });
            sender.send(batch).unwrap();
            continue;
        }
        let now = acknowledgements.now();
        if now > durable {
            (durable, since) = (now, Instant::now());
        }
        let ledger = || core.ledger_now().map(|ledger| (ledger.journal_bytes, ledger.checkpoints, ledger.commits));
        assert!(since.elapsed() < PATIENCE, "{durable} of {sent} batches are durable, and it stands still: {:?}", ledger());
        // What is awaited is above; this leaves the processor to the threads.
        std::thread::park_timeout(Duration::from_micros(200));
    }
    durable
}

/// Starts on what is there, takes batches, and dies after so many operations on its files; how many batches were durable.
fn live(files: &Arc<Mutex<MemoryFiles>>, random: &mut Random, operations: u64, batches: u64) -> u64 {
    let files = MortalFiles { files: Arc::clone(files), left: Arc::new(AtomicU64::new(u64::MAX)) };
    let clock = Arc::new(SystemClock::default());
    let mut spec = EngineSpec { inputs: vec![InputSpec { name: "in".into(), ..InputSpec::default() }], ..EngineSpec::default() };
    (spec.storage.journal_bytes_max, spec.storage.commit_interval) = (JOURNAL, 1_000_000);
    let options = StoreOptions { journal_bytes_max: JOURNAL, new_id: 1 };
    let (store, recovered) = Store::open(files.clone(), &options).unwrap();
    let outbox: Vec<_> = recovered.outbox.iter().map(core_found).collect();
    let mut core = match recovered.checkpoint {
        Some(checkpoint) => Core::restore(Arc::new(spec), &checkpoint.state, &outbox, clock.now()).unwrap(),
        None => Core::new(Arc::new(spec), clock.now()),
    };
    recovered.blocks.iter().for_each(|block| core.replay(&core_meta(&block.meta), &block.bytes).unwrap());
    assert!(recovered.damage.is_empty(), "{:?}", recovered.damage);
    core.adopt();

    let (handle, inbox) = CoreHandle::new();
    let waking = handle.clone();
    let (mut sender, receiver) = ring(16, Arc::new(move || waking.wake()));
    let (disk, commands) = mpsc::channel();
    let disk_thread = std::thread::spawn({
        let (handle, writes) = (handle.clone(), SharedWrites::new(clock.clone()));
        move || disk_thread::run(store, &commands, &handle, &writes)
    });
    let thread = CoreThread {
        core,
        rings: vec![receiver],
        can_wait: vec![true],
        inbox,
        disk,
        outputs: Vec::new(),
        levels: Vec::new(),
        alarms: Vec::new(),
        tags: Vec::new(),
        clock,
        handle: handle.clone(),
    };
    let core_thread = std::thread::spawn(move || thread.run());
    files.left.store(operations, Ordering::Relaxed);
    let durable = feed(&mut sender, &handle, &files, random, batches);
    // Threads can't be killed: with a dead disk they are left behind.
    if files.left.load(Ordering::Relaxed) > 0 {
        handle.send(Message::End);
        core_thread.join().unwrap();
        disk_thread.join().unwrap();
    }
    durable
}

#[test]
fn a_small_journal_never_waits_for_a_checkpoint_that_does_not_come() {
    let files = Arc::new(Mutex::new(MemoryFiles::new(1)));
    let mut random = Random(7);
    for _ in 0..60 {
        let operations = 5 + random.below(150);
        live(&files, &mut random, operations, 200);
    }
    assert_eq!(live(&files, &mut random, u64::MAX, 100), 100, "and all goes on in the end");
}
