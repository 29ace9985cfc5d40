//! Thousands of damaged directories: whatever is flipped, zeroed, cut or removed, a start gets by, believes nothing that is not what was
//! written, names what it misses, and goes on. Apart from the injuries that are told one by one.
#![allow(clippy::unwrap_used)]

use weir_store::{
    BlockMeta, Files, Identity, OutboxBlock, Recovered, Store, StoreError, StoreOptions,
    memory::{Luck, MemoryFiles},
};

/// Directories that are damaged.
const LIVES: u64 = 3000;

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }
}

fn options() -> StoreOptions {
    StoreOptions { journal_bytes_max: 96 << 10, new_id: 7 }
}

fn payload(what: u64, length: usize) -> Vec<u8> {
    (0..length as u64).map(|i| (what.wrapping_mul(31).wrapping_add(i * i) >> 3) as u8).collect()
}

fn outbox_block(lane: u8, record: u64) -> OutboxBlock {
    let identity = |ordinal| Identity { record, ordinal };
    let bytes = payload(record * 2 + u64::from(lane), 300 + record as usize % 700);
    OutboxBlock { lane, first: identity(0), last: identity(9), points: 10, times: (1, 2), bytes }
}

/// A directory that has seen blocks, checkpoints and results; its last record, and that of its last two checkpoints.
fn lived(random: &mut Random) -> (MemoryFiles, u64, [u64; 2]) {
    let (mut store, _) = Store::open(MemoryFiles::new(random.below(1 << 30) as u64), &options()).unwrap();
    let (mut record, mut checkpoints) = (1, [0, 0]);
    for number in 1..=2 + random.below(9) as u64 {
        let mut full = false;
        for _ in 0..1 + random.below(6) {
            let records = 1 + random.below(5) as u32;
            let meta = BlockMeta { first_record: record, records, points: records, times: (5, 6), inputs: 1 };
            full = matches!(store.append(&meta, &payload(record, 50 + random.below(3000))), Err(StoreError::JournalFull { .. }));
            if full {
                break;
            }
            store.sync().unwrap();
            record += u64::from(records);
        }
        if full || random.below(4) > 0 {
            let blocks: Vec<OutboxBlock> = (0..random.below(3) as u8).map(|lane| outbox_block(lane % 2, record - 1)).collect();
            store.checkpoint(number, record - 1, &blocks, &payload(number, 4000), [0, 0]).unwrap();
            checkpoints = [checkpoints[1], record - 1];
        }
    }
    (store.into_files(), record - 1, checkpoints)
}

/// One file is damaged; how, in words.
fn damage(files: &mut MemoryFiles, random: &mut Random) -> String {
    let names = files.list().unwrap();
    let Some(name) = names.get(random.below(names.len())).cloned() else { return "nothing is left".into() };
    let content = files.read(&name).unwrap();
    let used = content.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    let at = random.below(used);
    match random.below(6) {
        0 => files.lose(&name),
        1 => files.cut(&name, at as u64),
        2 => files.overwrite(&name, at / 512 * 512, &[0; 512]),
        3 => files.overwrite(&name, at / 4096 * 4096, &[0; 4096]),
        // What another place of the same file holds.
        4 => files.overwrite(&name, at / 4096 * 4096, &content[..content.len().min(4096)]),
        _ => files.flip_bit(&name, at, random.below(8) as u8),
    }
    format!("{name} at {at}")
}

/// Everything that was recovered is what was written, in order, and what lies between is named.
fn check(recovered: &Recovered, last: u64, what: &str) {
    let mut next = recovered.checkpoint.as_ref().map_or(1, |c| c.upto_record + 1);
    for block in &recovered.blocks {
        let first = block.meta.first_record;
        assert_eq!(block.bytes, payload(first, block.bytes.len()), "{what}: record {first} is not what was written");
        for missing in next..first {
            let named = recovered.damage.iter().any(|d| (d.first_record..d.first_record + d.records).contains(&missing));
            assert!(named, "{what}: record {missing} is missing and not named: {:?}", recovered.damage);
        }
        next = next.max(first + u64::from(block.meta.records));
    }
    assert!(next <= last + 1, "{what}: record {next} was never written");
    if let Some(checkpoint) = &recovered.checkpoint {
        assert_eq!(checkpoint.state, payload(checkpoint.number, 4000), "{what}: a state that was never written");
    }
}

#[test]
fn whatever_rots_a_start_believes_only_what_was_written_and_goes_on() {
    let (mut kept, mut without_state) = (0, 0);
    for seed in 0..LIVES {
        let mut random = Random(seed);
        let (mut files, last, _) = lived(&mut random);
        let injuries: Vec<String> = (0..=random.below(6)).map(|_| damage(&mut files, &mut random)).collect();
        let what = format!("seed {seed}, {}", injuries.join(", "));
        let (mut store, recovered) = Store::open(files, &options()).unwrap_or_else(|e| panic!("{what}: {e}"));
        check(&recovered, last, &what);
        for found in &recovered.outbox {
            let payload = store.read_outbox(found.lane, found.place).unwrap();
            let written = outbox_block(found.lane, found.first.record).bytes;
            assert!(payload.is_none_or(|payload| payload == written), "{what}: {found:?} is not what was written");
        }
        kept += recovered.outbox.len();
        without_state += usize::from(recovered.checkpoint.is_none());
        // It goes on, and what it writes now is there at the next start.
        let newest = recovered.blocks.last().map(|b| b.meta.first_record + u64::from(b.meta.records) - 1);
        let first = newest.or(recovered.checkpoint.map(|c| c.upto_record)).unwrap_or(0) + 1;
        let meta = BlockMeta { first_record: first, records: 1, points: 1, times: (7, 8), inputs: 1 };
        if let Err(error) = store.append(&meta, &payload(first, 100)) {
            assert!(matches!(error, StoreError::JournalFull { .. }), "{what}: {error}");
            // The journal is free up to the checkpoint before the last one.
            for number in [1000, 1001] {
                store.checkpoint(number, first - 1, &[], &payload(number, 4000), [0, 0]).unwrap_or_else(|e| panic!("{what}: {e}"));
            }
            store.append(&meta, &payload(first, 100)).unwrap_or_else(|e| panic!("{what}: {e}"));
        }
        store.sync().unwrap();
        let mut files = store.into_files();
        files.crash();
        let (_, again) = Store::open(files, &options()).unwrap();
        check(&again, first.max(last), &what);
        assert!(again.blocks.iter().any(|b| b.meta.first_record == first), "{what}: record {first} was synced and is gone");
    }
    assert!(kept > LIVES as usize / 2 && without_state > LIVES as usize / 100, "too tame: {kept}, {without_state}");
}

#[test]
fn damage_to_one_block_costs_no_other() {
    for seed in 0..LIVES / 4 {
        let mut random = Random(seed);
        let (mut files, last, _) = lived(&mut random);
        let name = files.list().unwrap().into_iter().rfind(|n| n.starts_with("journal-")).unwrap();
        let content = files.read(&name).unwrap();
        let used = content.iter().rposition(|b| *b != 0).map_or(1, |last| last + 1);
        let at = random.below(used);
        files.flip_bit(&name, at, random.below(8) as u8);
        let before: u64 = last;
        let (_, recovered) = Store::open(files, &options()).unwrap();
        let got = recovered.blocks.iter().map(|b| u64::from(b.meta.records)).sum::<u64>();
        let covered = recovered.checkpoint.as_ref().map_or(0, |c| c.upto_record);
        // A block has five records at most.
        assert!(got + covered + 5 >= before, "seed {seed}: {got} behind {covered} of {before}");
    }
}

#[test]
fn the_outbox_outlives_every_checkpoint_where_the_journal_has_lost_its_beginning() {
    let mut kept = 0;
    for seed in 0..200 {
        let mut random = Random(seed);
        let (mut files, _, checkpoints) = lived(&mut random);
        let names = files.list().unwrap();
        let (_, whole) = Store::open(files.clone(), &options()).unwrap();
        names.iter().filter(|n| n.starts_with("checkpoint-")).for_each(|n| files.lose(n));
        let (_, recovered) = Store::open(files, &options()).unwrap();
        let expected = if is_whole(&recovered) { 0 } else { whole.outbox.len() };
        assert_eq!(recovered.outbox.len(), expected, "seed {seed}, checkpoints up to {checkpoints:?}");
        kept += recovered.outbox.len();
    }
    assert!(kept > 20, "too tame: {kept}");
}

/// Whether the journal has every record from the first on.
fn is_whole(recovered: &Recovered) -> bool {
    let blocks = &recovered.blocks;
    let follows =
        |pair: &[weir_store::RecoveredBlock]| pair[0].meta.first_record + u64::from(pair[0].meta.records) == pair[1].meta.first_record;
    blocks.first().is_none_or(|b| b.meta.first_record <= 1) && blocks.windows(2).all(follows)
}

#[test]
fn the_outbox_outlives_every_checkpoint_where_the_journal_has_a_hole() {
    let mut kept = 0;
    for seed in 0..400 {
        let mut random = Random(seed);
        let (mut files, last, _) = lived(&mut random);
        let (_, whole) = Store::open(files.clone(), &options()).unwrap();
        let names = files.list().unwrap();
        names.iter().filter(|n| n.starts_with("checkpoint-")).for_each(|n| files.lose(n));
        let mut holed = files.clone();
        let Some(journal) = names.iter().find(|n| n.starts_with("journal-")) else { continue };
        holed.overwrite(journal, 4096, &[0; 4096]);
        let (_, recovered) = Store::open(holed, &options()).unwrap();
        let begins = recovered.blocks.first().is_some_and(|b| b.meta.first_record <= 1);
        if begins && recovered.damage.iter().any(|d| d.records > 0 && d.first_record < last) && !is_whole(&recovered) {
            assert_eq!(recovered.outbox.len(), whole.outbox.len(), "seed {seed}");
            kept += recovered.outbox.len();
        }
    }
    assert!(kept > 20, "too tame: {kept}");
}

#[test]
fn what_is_left_of_the_outbox_without_a_checkpoint_survives_a_power_cut_from_then_on() {
    let mut kept = 0;
    for seed in 0..200 {
        let mut random = Random(seed);
        let (mut files, ..) = lived(&mut random);
        let names = files.list().unwrap();
        names.iter().filter(|n| n.starts_with("checkpoint-")).for_each(|n| files.lose(n));
        for name in names.iter().filter(|n| n.starts_with("outbox-")) {
            // As a checkpoint leaves it that the process was killed in: written, and not synced.
            let content = files.read(name).unwrap();
            files.lose(name);
            files.write_at(name, 0, &content).unwrap();
        }
        let (store, recovered) = Store::open(files, &options()).unwrap();
        let mut files = store.into_files();
        files.crash_with(Luck::NoContents);
        let (_, again) = Store::open(files, &options()).unwrap();
        assert_eq!(again.outbox, recovered.outbox, "seed {seed}");
        kept += recovered.outbox.len();
    }
    assert!(kept > 20, "too tame: {kept}");
}
