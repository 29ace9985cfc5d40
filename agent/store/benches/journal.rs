//! Throughput of the journal: bytes per second appended, with and without a sync after each block, checkpoints making room meanwhile.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weir_store::{BlockMeta, RealFiles, Store, StoreOptions};

/// A journal that holds many of the largest blocks.
const JOURNAL: u64 = 64 << 20;

/// A store in its own directory, and the records appended so far.
struct Bench {
    store: Store<RealFiles>,
    records: u64,
    checkpoints: u64,
    appended: u64,
}

impl Bench {
    fn open(directory: &tempfile::TempDir) -> Self {
        let files = RealFiles::open(directory.path()).expect("a directory of our own");
        let (store, _) = Store::open(files, &StoreOptions { journal_bytes_max: JOURNAL, new_id: 1 }).expect("an empty store opens");
        Self { store, records: 0, checkpoints: 0, appended: 0 }
    }

    fn append(&mut self, payload: &[u8], sync: bool) {
        // Two generations are kept, so room must be made well before the journal is full.
        if self.appended > JOURNAL / 4 {
            self.checkpoints += 1;
            self.store.checkpoint(self.checkpoints, self.records, &[], b"", [0, 0]).expect("a checkpoint");
            self.appended = 0;
        }
        let meta = BlockMeta { first_record: self.records + 1, records: 1, points: 1, times: (1, 1), inputs: 1 };
        self.store.append(&meta, payload).expect("the journal has room");
        self.records += 1;
        self.appended += payload.len() as u64 + 4096;
        if sync {
            self.store.sync().expect("the disk syncs");
        }
    }
}

fn journal(c: &mut Criterion) {
    let mut group = c.benchmark_group("journal");
    group.sample_size(20);
    // As columns of deltas look: neither constant nor random.
    let payload: Vec<u8> = (0..256 * 1024u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 27) as u8).collect();
    for (name, bytes, sync) in [("append 1 KiB", 1024, false), ("append 256 KiB", 256 * 1024, false), ("append 1 KiB and sync", 1024, true)]
    {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut bench = Bench::open(&directory);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(name, |b| b.iter(|| bench.append(&payload[..bytes], sync)));
    }
    group.finish();
}

criterion_group!(benches, journal);
criterion_main!(benches);
