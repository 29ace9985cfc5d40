//! Each test is named by the injury the store suffers, on a disk in memory.

use proptest::prelude::*;
use weir_store::{
    BlockMeta, Identity, OutboxBlock, Recovered, Store, StoreError, StoreOptions,
    memory::{Faults, MemoryFiles},
};

fn options() -> StoreOptions {
    StoreOptions { journal_bytes_max: 256 * 1024, new_id: 7 }
}

fn open(files: MemoryFiles) -> (Store<MemoryFiles>, Recovered) {
    Store::open(files, &options()).expect("it opens")
}

fn meta(first: u64, records: u32) -> BlockMeta {
    BlockMeta { first_record: first, records, points: records * 2, times: (10, 20), inputs: 1 }
}

fn payload(first: u64, length: usize) -> Vec<u8> {
    (0..length).map(|i| (first as usize * 31 + i * 7) as u8).collect()
}

fn firsts(recovered: &Recovered) -> Vec<u64> {
    recovered.blocks.iter().map(|b| b.meta.first_record).collect()
}

#[test]
fn a_commit_of_a_few_readings_writes_one_page_and_syncs_once() {
    let (mut store, _) = open(MemoryFiles::new(1));
    store.append(&meta(1, 1), b"warm").expect("written");
    store.sync().expect("synced");
    let mut files = store.into_files();
    let (mut store, _) = {
        (files.pages_written, files.syncs) = (0, 0);
        open(files)
    };
    let before = store.stats();
    store.append(&meta(2, 3), b"a few readings").expect("written");
    store.sync().expect("synced");
    assert_eq!(store.stats().written.journal.bytes - before.written.journal.bytes, 4096);
    assert_eq!(store.stats().written.sum().fsyncs - before.written.sum().fsyncs, 1);
}

#[test]
fn a_checkpoint_that_fills_several_segments_keeps_all_of_them() {
    let (mut store, _) = open(MemoryFiles::new(9));
    let block = |record: u64| {
        let identity = Identity { record, ordinal: 0 };
        // Nothing that can be compressed.
        let bytes = (0..700_000u64).map(|i| ((i + record).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_pow(3) >> 40) as u8).collect();
        OutboxBlock { lane: 1, first: identity, last: identity, points: 1, times: (1, 2), bytes }
    };
    let blocks: Vec<_> = (1..=6).map(block).collect();
    // Nothing that was there before is needed: the first results that ever waited.
    let places = store.checkpoint(1, 6, &blocks, b"state", [u64::MAX; 2]).expect("made");
    assert!(places[5].segment > places[0].segment + 1, "{places:?}");
    for place in places {
        assert!(store.read_outbox(1, place).expect("readable").is_some(), "{place:?}");
    }
}

#[test]
fn a_torn_last_block_is_not_damage_and_does_not_come_back() {
    let (mut store, _) = open(MemoryFiles::new(3));
    store.append(&meta(1, 1), &payload(1, 100)).expect("written");
    store.sync().expect("synced");
    store.append(&meta(2, 1), &payload(2, 20_000)).expect("written");
    let mut files = store.into_files();
    files.crash();
    let (mut store, recovered) = open(files);
    assert!(recovered.damage.is_empty(), "{:?}", recovered.damage);
    let first = firsts(&recovered);
    assert_eq!(first[0], 1);
    if first.len() == 1 {
        store.append(&meta(2, 5), b"another second").expect("written");
        store.sync().expect("synced");
        let (_, recovered) = open(store.into_files());
        assert_eq!(recovered.blocks[1].bytes, b"another second");
    }
}

#[test]
fn a_flipped_bit_costs_one_block_and_is_named() {
    let (mut store, _) = open(MemoryFiles::new(5));
    for first in 1..=3 {
        store.append(&meta(first, 1), &payload(first, 64)).expect("written");
        store.sync().expect("synced");
    }
    let mut files = store.into_files();
    files.flip("journal-000000", 4096 + 100);
    let (_, recovered) = open(files);
    assert_eq!(firsts(&recovered), [1, 3]);
    assert_eq!(recovered.damage.len(), 1);
    assert_eq!((recovered.damage[0].first_record, recovered.damage[0].points, recovered.damage[0].times), (2, 2, (10, 20)));
}

#[test]
fn a_destroyed_header_leaves_a_gap_that_is_named() {
    let (mut store, _) = open(MemoryFiles::new(5));
    for first in 1..=3 {
        store.append(&meta(first, 1), &payload(first, 64)).expect("written");
        store.sync().expect("synced");
    }
    let mut files = store.into_files();
    files.flip("journal-000000", 4096 + 3);
    let (_, recovered) = open(files);
    assert_eq!(firsts(&recovered), [1, 3]);
    assert_eq!((recovered.damage[0].first_record, recovered.damage[0].records), (2, 1));
}

#[test]
fn a_full_journal_refuses_until_a_checkpoint_frees_it_two_generations_later() {
    let (mut store, _) = open(MemoryFiles::new(9));
    let mut next = 1;
    let mut fill = |store: &mut Store<MemoryFiles>| loop {
        match store.append(&meta(next, 1), &payload(next, 3000)) {
            Ok(()) => {
                store.sync().expect("synced");
                next += 1;
            }
            Err(StoreError::JournalFull { .. }) => return next - 1,
            Err(error) => panic!("{error}"),
        }
    };
    let full = fill(&mut store);
    assert!(full >= 60, "{full} blocks fitted");
    store.checkpoint(1, full, &[], b"one", [0, 0]).expect("made");
    assert_eq!(fill(&mut store), full, "the generation before still needs the journal");
    store.checkpoint(2, full, &[], b"two", [0, 0]).expect("made");
    assert!(fill(&mut store) > full);
    let (_, recovered) = open(store.into_files());
    assert_eq!(recovered.checkpoint.expect("there").state, b"two");
    assert_eq!(recovered.blocks.first().expect("there").meta.first_record, full + 1);
}

#[test]
fn a_failed_sync_moves_the_blocks_to_another_file() {
    let mut files = MemoryFiles::new(11);
    files.faults = Faults::default();
    let (mut store, _) = open(files);
    store.append(&meta(1, 1), b"first").expect("written");
    store.sync().expect("synced");
    let mut files = store.into_files();
    files.faults.sync_error_in = 3;
    let Ok((mut store, _)) = Store::open(files, &options()) else { return };
    let mut accepted = 1;
    for first in 2..30 {
        if store.append(&meta(first, 1), &payload(first, 50)).is_err() || store.sync().is_err() {
            break;
        }
        accepted = first;
    }
    let mut files = store.into_files();
    files.faults.sync_error_in = 0;
    files.crash();
    let (_, recovered) = open(files);
    assert!(firsts(&recovered).starts_with(&(1..=accepted).collect::<Vec<_>>()), "{accepted}: {:?}", firsts(&recovered));
}

#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before() {
    let (mut store, _) = open(MemoryFiles::new(13));
    for (number, upto) in [(1, 2), (2, 4)] {
        for first in upto - 1..=upto {
            store.append(&meta(first, 1), &payload(first, 40)).expect("written");
        }
        store.sync().expect("synced");
        store.checkpoint(number, upto, &[], format!("state {number}").as_bytes(), [0, 0]).expect("made");
    }
    let mut files = store.into_files();
    files.flip("checkpoint-0000000002", 75);
    let (_, recovered) = open(files);
    assert_eq!(recovered.checkpoint.as_ref().expect("the first").state, b"state 1");
    assert_eq!(firsts(&recovered), [3, 4]);
    assert_eq!(recovered.damage.len(), 1);
}

#[test]
fn an_outbox_is_cut_at_the_checkpoint_and_damage_costs_one_block() {
    let (mut store, _) = open(MemoryFiles::new(17));
    let block = |record: u64, length: usize| OutboxBlock {
        lane: 1,
        first: Identity { record, ordinal: 0 },
        last: Identity { record, ordinal: 9 },
        points: 10,
        times: (0, 0),
        bytes: payload(record, length),
    };
    let places = store.checkpoint(1, 1, &[block(1, 100), block(2, 5000), block(3, 10)], b"s", [0, 0]).expect("made");
    assert_eq!(store.read_outbox(1, places[1]).expect("read").expect("whole"), payload(2, 5000));
    let mut files = store.into_files();
    files.flip("outbox-1-00000000", places[0].bytes as usize + 200);
    let (mut store, recovered) = open(files);
    assert_eq!(recovered.outbox.len(), 3);
    assert_eq!(store.read_outbox(1, places[1]).expect("read"), None);
    assert_eq!(store.read_outbox(1, places[2]).expect("read").expect("whole"), payload(3, 10));
}

#[test]
fn a_segment_given_up_to_a_full_disk_leaves_no_hole_after_a_kill() {
    let block = |first: u64| OutboxBlock {
        lane: 1,
        first: Identity { record: first, ordinal: 0 },
        last: Identity { record: first, ordinal: 3 },
        points: 4,
        times: (1, 2),
        bytes: payload(first, 500),
    };
    let (mut store, _) = open(MemoryFiles::new(3));
    store.checkpoint(1, 1, &[block(1)], b"state", [0; 2]).expect("made");
    store.free_outbox([u64::MAX; 2]).expect("removed");
    let (mut store, recovered) = open(store.into_files());
    assert_eq!((recovered.outbox.len(), recovered.damage.len()), (0, 0));
    store.checkpoint(2, 2, &[block(2)], b"state", [0; 2]).expect("made");
    let (_, recovered) = open(store.into_files());
    assert_eq!(recovered.damage, []);
    assert_eq!(recovered.outbox[0].first.record, 2);
}

#[test]
fn a_full_disk_fails_the_checkpoint_and_leaves_the_one_before() {
    let (mut store, _) = open(MemoryFiles::new(19));
    store.append(&meta(1, 1), b"x").expect("written");
    store.sync().expect("synced");
    store.checkpoint(1, 1, &[], b"one", [0, 0]).expect("made");
    let mut files = store.into_files();
    files.faults.space = 66_000;
    let (mut store, _) = open(files);
    let error = store.checkpoint(2, 1, &[], &payload(5, 500_000), [0, 0]).expect_err("no room");
    assert!(error.is_no_space(), "{error}");
    let (_, recovered) = open(store.into_files());
    assert_eq!(recovered.checkpoint.expect("there").state, b"one");
}

/// What a store may be asked to do.
#[derive(Clone, Debug)]
enum Step {
    Append { records: u32, length: usize },
    Sync,
    Checkpoint { blocks: u8 },
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (1..5u32, 0..9000usize).prop_map(|(records, length)| Step::Append { records, length }),
        4 => Just(Step::Sync),
        1 => (0..4u8).prop_map(|blocks| Step::Checkpoint { blocks }),
        2 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 1..60)
}

/// Runs the steps against a model; `Err` says how the store broke its word.
fn run(seed: u64, faults: Faults, steps: Vec<Step>) -> Result<(), String> {
    let (mut store, _) = open(MemoryFiles::new(seed));
    let mut files = store.into_files();
    files.faults = faults;
    (store, _) = open(files);
    // Blocks by first record; those before `synced` may not be lost. A checkpoint makes everything before it unneeded.
    let (mut blocks, mut synced, mut next, mut checkpointed, mut number) = (Vec::<(u64, u32, Vec<u8>)>::new(), 0, 1u64, 0, 0);
    for step in steps {
        match step {
            Step::Append { records, length } => {
                let bytes = payload(next, length);
                match store.append(&meta(next, records), &bytes) {
                    Ok(()) => {
                        blocks.push((next, records, bytes));
                        next += u64::from(records);
                    }
                    Err(StoreError::JournalFull { .. }) => {}
                    Err(error) => return Err(error.to_string()),
                }
            }
            Step::Sync => {
                store.sync().map_err(|e| e.to_string())?;
                synced = next - 1;
            }
            Step::Checkpoint { blocks } => {
                number += 1;
                let outbox: Vec<_> = (0..blocks)
                    .map(|i| OutboxBlock {
                        lane: i % 2,
                        first: Identity { record: next, ordinal: u32::from(i) },
                        last: Identity { record: next, ordinal: u32::from(i) },
                        points: 1,
                        times: (0, 0),
                        bytes: payload(u64::from(i), 300),
                    })
                    .collect();
                let places = store.checkpoint(number, next - 1, &outbox, &number.to_le_bytes(), [0, 0]).map_err(|e| e.to_string())?;
                if places.len() != outbox.len() {
                    return Err("places".into());
                }
                (checkpointed, synced) = (next - 1, next - 1);
            }
            Step::Crash => {
                let mut files = store.into_files();
                files.crash();
                let (again, recovered) = Store::open(files, &options()).map_err(|e| e.to_string())?;
                store = again;
                if !recovered.damage.is_empty() {
                    return Err(format!("damage {:?}", recovered.damage));
                }
                if checkpointed > 0 && recovered.checkpoint.as_ref().map(|c| c.upto_record) != Some(checkpointed) {
                    return Err(format!("checkpoint {:?}, not {checkpointed}", recovered.checkpoint));
                }
                let mut expected = checkpointed + 1;
                for block in &recovered.blocks {
                    let known = blocks.iter().find(|(first, ..)| *first == block.meta.first_record);
                    match known {
                        Some((first, records, bytes)) if *first == expected && *bytes == block.bytes => expected += u64::from(*records),
                        _ => return Err(format!("block {} after {expected}", block.meta.first_record)),
                    }
                }
                if expected <= synced {
                    return Err(format!("synced up to {synced}, recovered up to {}", expected - 1));
                }
                next = expected;
                blocks.retain(|(first, ..)| *first < next);
                synced = next - 1;
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_synced_survives_any_crash(seed: u64, steps in steps()) {
        prop_assert_eq!(run(seed, Faults::default(), steps), Ok(()));
    }
}

/// The model must notice a store that does not do what it says: the same runs with a disk to which a sync means nothing.
#[test]
fn the_model_notices_a_sync_that_is_left_out() {
    for faults in [Faults { lying_sync: true, ..Faults::default() }, Faults { lying_sync_names: true, ..Faults::default() }] {
        let caught = (0..200u64).any(|seed| {
            let mut steps = vec![Step::Append { records: 2, length: 5000 }, Step::Sync, Step::Checkpoint { blocks: 2 }];
            steps.extend([Step::Append { records: 1, length: 100 }, Step::Sync, Step::Crash]);
            run(seed, faults, steps).is_err()
        });
        assert!(caught, "{faults:?}");
    }
}
