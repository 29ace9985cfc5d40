//! A damaged store looked at from outside: what is said is what a start says, and nothing is changed.

use std::{collections::BTreeMap, fs, path::Path, sync::LazyLock};

use proptest::prelude::*;
use weir_store::{
    BlockMeta, Identity, OutboxBlock, RealFiles, Store, StoreOptions,
    inspect::{Harm, Need, inspect},
};

const OPTIONS: StoreOptions = StoreOptions { journal_bytes_max: 256 << 10, new_id: 7 };

fn contents(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).expect("listed").map(|e| e.expect("an entry").path());
    entries.map(|p| (p.file_name().expect("a name").to_string_lossy().into_owned(), fs::read(&p).expect("read"))).collect()
}

/// Twelve records of several sizes, a checkpoint behind the fourth and the eighth, results in both lanes.
fn make(directory: &Path) {
    let (mut store, _) = Store::open(RealFiles::open(directory).expect("opened"), &OPTIONS).expect("opened");
    for record in 1..=12u64 {
        let meta =
            BlockMeta { first_record: record, records: 1, points: 3, times: (record as i64 * 10, record as i64 * 10 + 5), inputs: 1 };
        let bytes: Vec<u8> = (0..record * 900).map(|i| (i * i % 251) as u8).collect();
        store.append(&meta, &bytes).expect("written");
        store.sync().expect("synced");
        if record % 4 == 0 && record < 12 {
            let identity = Identity { record, ordinal: 0 };
            let block = |lane| OutboxBlock { lane, first: identity, last: identity, points: 1, times: (1, 2), bytes: vec![lane; 500] };
            store.checkpoint(record / 4, record, &[block(0), block(1)], &[9; 300], [0, 0]).expect("made");
        }
    }
}

/// The same, made once, without its lock.
static MADE: LazyLock<BTreeMap<String, Vec<u8>>> = LazyLock::new(|| {
    let directory = tempfile::tempdir().expect("a directory");
    make(directory.path());
    let mut made = contents(directory.path());
    made.remove("lock");
    made
});

#[test]
fn a_whole_store_has_no_injuries_and_every_block_its_use() {
    let directory = tempfile::tempdir().expect("a directory");
    make(directory.path());
    let before = contents(directory.path());
    let seen = inspect(directory.path()).expect("seen");
    assert_eq!((seen.injuries.len(), seen.id, seen.running), (0, Some(7), false));
    let uses: Vec<_> = seen.journal.iter().map(|b| b.need).collect();
    assert_eq!(uses, [[Need::Free; 4], [Need::Kept; 4], [Need::Needed; 4]].concat());
    assert!(seen.journal.iter().all(|b| b.whole && seen.payload(b).is_some_and(|p| p.len() as u64 == b.meta.first_record * 900)));
    assert_eq!(seen.outbox.iter().filter(|e| e.whole && !e.behind).count(), 4);
    assert_eq!(contents(directory.path()), before);
}

#[test]
fn a_store_whose_lock_is_held_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    make(directory.path());
    let held = RealFiles::open(directory.path()).expect("locked");
    assert!(inspect(directory.path()).expect("seen").running);
    drop(held);
    assert!(!inspect(directory.path()).expect("seen").running);
    RealFiles::open(directory.path()).expect("looking took no lock");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_gone_is_what_a_start_says_is_gone(
        damages in prop::collection::vec((any::<prop::sample::Index>(), 0..5u8, any::<prop::sample::Index>(), 0..8u8), 1..6),
    ) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        MADE.iter().for_each(|(name, content)| fs::write(path.join(name), content).expect("copied"));
        let names: Vec<&String> = MADE.keys().collect();
        for (file, how, at, bit) in damages {
            let file = path.join(names[file.index(names.len())]);
            let Ok(mut bytes) = fs::read(&file) else { continue };
            let at = at.index(bytes.len().max(1));
            match how {
                0 => bytes.truncate(at),
                1 => bytes.iter_mut().skip(at).take(4096).for_each(|b| *b = 0),
                2 => {
                    fs::remove_file(&file).expect("removed");
                    continue;
                }
                _ => bytes.iter_mut().skip(at).take(1).for_each(|b| *b ^= 1 << bit),
            }
            fs::write(&file, bytes).expect("written");
        }
        let before = contents(path);
        let seen = inspect(path).expect("seen");
        prop_assert_eq!(contents(path), before, "looking changed something");
        if let Some(id) = seen.id {
            // The id of the blocks, so that a start looks at the same store.
            fs::write(path.join("id"), id.to_le_bytes()).expect("written");
        }
        let (_, recovered) = Store::open(RealFiles::open(path).expect("opened"), &OPTIONS).expect("opened");
        let said: u64 = recovered.damage.iter().map(|d| d.records).sum();
        let lost: u64 = seen.injuries.iter().filter(|i| i.harm == Harm::Lost).map(|i| i.records).sum();
        prop_assert_eq!(lost, said, "{:?} and {:?}", seen.injuries, recovered.damage);
        let replayed: Vec<u64> = recovered.blocks.iter().map(|b| b.meta.first_record).collect();
        let needed: Vec<u64> = seen.journal.iter().filter(|b| b.whole && b.need == Need::Needed).map(|b| b.meta.first_record).collect();
        prop_assert_eq!(needed, replayed);
        prop_assert_eq!(seen.newest, recovered.checkpoint);
    }
}
