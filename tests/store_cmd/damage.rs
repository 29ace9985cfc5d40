//! Damaged copies: what the agent says that starts on one, what `verify` and `export` say, and that they change nothing.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{Contents, Home, contents, err, lines, looked, out, store};
use crate::support::{PATIENCE, agent::Agent, eventually};

/// The first file of a kind, from the back.
fn last(files: &Contents, prefix: &str) -> String {
    files.keys().rev().find(|n| n.starts_with(prefix)).cloned().expect("there is one")
}

fn change(directory: &Path, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = directory.join(file);
    let mut content = fs::read(&path).expect("it can be read");
    change(&mut content);
    fs::write(&path, content).expect("written");
}

/// Where a block begins whose records a start needs, with another behind it: file, offset, first and last record.
fn needed_block(home: &Home, copy: &str) -> (String, usize, u64, u64) {
    let printed = out(&store(home.path(), &["cat", copy]));
    let mut blocks: Vec<(String, usize, u64, u64)> = Vec::new();
    for line in printed.lines().filter(|l| l.starts_with("journal-")) {
        let words: Vec<&str> = line.split(' ').collect();
        let (file, at, record) = (words[0].to_owned(), words[2].parse().expect("an offset"), words[4].parse().expect("a number"));
        match blocks.last_mut().filter(|b| (&b.0, b.1) == (&file, at)) {
            Some(block) => block.3 = record,
            None => blocks.push((file, at, record, record)),
        }
    }
    assert!(blocks.len() >= 3, "{printed}");
    blocks.swap_remove(blocks.len() / 2)
}

/// Starts an agent on the copy, and waits until it goes on and has said all of `said`: what waits it reads when an output comes to it. Its log.
fn started(home: &Home, copy: &str, said: &[&str]) -> String {
    let path = home.path();
    let life = path.join(format!("life-{copy}"));
    fs::create_dir(&life).expect("made");
    fs::copy(path.join("in.lp"), life.join("in.lp")).expect("copied");
    fs::rename(path.join(copy), life.join("state")).expect("moved");
    let agent = Agent::start(&life, &super::config(crate::support::free_port()));
    let before = super::recorded(&agent);
    let mut input = fs::OpenOptions::new().append(true).open(life.join("in.lp")).expect("the followed file");
    std::io::Write::write_all(&mut input, lines(9000, 9010).as_bytes()).expect("appended");
    eventually("it goes on", || (super::recorded(&agent) > before).then_some(()));
    eventually("it has tried what waits", || agent.log().contains("write failed").then_some(()));
    let begun = Instant::now();
    while let Some(words) = said.iter().find(|words| !agent.log().contains(*words)) {
        assert!(begun.elapsed() < PATIENCE, "{copy}: {words}: {}", agent.log());
        std::thread::park_timeout(Duration::from_millis(15));
    }
    let status = agent.status();
    assert_eq!(status["residues"].as_array().map(Vec::len), Some(0), "{copy}: the ledger balances: {status}");
    let log = agent.log();
    agent.kill();
    log
}

/// A damaged copy: `verify` and `export` exit with 1 and name `expected`, nothing changes, the agent starts and says `said`.
fn damaged(home: &Home, name: &str, expected: &[&str], said: &[&str]) {
    let verified = looked(home, name, &["verify", name]);
    let exported = looked(home, name, &["export", name, "--format", "csv"]);
    assert_eq!(verified.status.code(), Some(1), "{name}: {}{}", out(&verified), err(&verified));
    assert_eq!(exported.status.code(), Some(1), "{name}: {}", err(&exported));
    for words in expected {
        assert!(out(&verified).contains(words), "{name}: {words}: {}", out(&verified));
        assert!(err(&exported).contains(words), "{name}: {words}: {}", err(&exported));
    }
    started(home, name, said);
}

#[test]
fn a_damaged_journal_is_named_alike_by_the_agent_and_by_the_commands() {
    let home = Home::new();
    for name in ["flipped", "headless", "zeroed", "cut", "deleted"] {
        home.copy(name);
    }
    let (file, at, first, last) = needed_block(&home, "flipped");
    let path = |copy: &str| home.path().join(copy);
    let lost = format!("{} records from {first} on", last + 1 - first);
    let place = format!("{file} at {at}: ");
    let records = format!("records {first} to {last}");

    change(&path("flipped"), &file, |bytes| bytes[at + 200] ^= 4);
    damaged(
        &home,
        "flipped",
        &[&place, &records, "300 points of 2023-11-14T22:", "inputs tail; lost"],
        &["damaged store", &lost, "300 points"],
    );
    change(&path("headless"), &file, |bytes| bytes[at + 17] ^= 1);
    damaged(&home, "headless", &[&place, &records, "between 2023-11-14T22:"], &["damaged store", &lost]);
    change(&path("zeroed"), &file, |bytes| bytes[at..at + 4096].fill(0));
    damaged(&home, "zeroed", &[&place, &records], &["damaged store", &lost]);
    // Without a later block nobody knows what was durable: then the end is gone without a word, in the agent as in the commands.
    for name in ["cut", "deleted"] {
        if name == "cut" {
            change(&path(name), &file, |bytes| bytes.truncate(at));
        } else {
            fs::remove_file(path(name).join(&file)).expect("removed");
        }
        let verified = looked(&home, name, &["verify", name]);
        let said = started(&home, name, &[]).contains("damaged store");
        assert_eq!(verified.status.code(), Some(i32::from(said)), "{name}: {}", out(&verified));
    }
}

#[test]
fn a_damaged_file_of_text_is_named_and_what_follows_from_it() {
    let home = Home::new();
    home.copy("flipped");
    let file = "machine";
    let path = home.path().join("flipped");
    assert_eq!(looked(&home, "flipped", &["verify", "flipped"]).status.code(), Some(0));
    for (at, what) in [(8, "its checksum is wrong"), (0, "it can't be read")] {
        // No byte of UTF-8 is 0xff.
        change(&path, file, |bytes| bytes[at] = if at == 0 { 0xff } else { bytes[at] ^ 1 });
        let verified = looked(&home, "flipped", &["verify", "flipped"]);
        assert_eq!(verified.status.code(), Some(1), "{}", out(&verified));
        assert!(out(&verified).contains(&format!("{file}: {what}")), "{}", out(&verified));
        assert!(out(&verified).contains("draws another id for the agent; costs nothing"), "{}", out(&verified));
    }
}

#[test]
fn a_damaged_checkpoint_or_id_is_named_alike_by_the_agent_and_by_the_commands() {
    let home = Home::new();
    for name in ["flipped", "cut", "none", "id", "lostid"] {
        home.copy(name);
    }
    let path = |copy: &str| home.path().join(copy);
    let files = contents(&path("flipped"));
    let newest = last(&files, "checkpoint-");
    change(&path("flipped"), &newest, |bytes| bytes[100] ^= 1);
    damaged(&home, "flipped", &[&format!("{newest}: the checkpoint is damaged")], &["damaged store", &newest]);
    change(&path("cut"), &newest, |bytes| bytes.truncate(50));
    damaged(&home, "cut", &[&newest], &["damaged store", &newest]);
    for file in files.keys().filter(|f| f.starts_with("checkpoint-")) {
        change(&path("none"), file, |bytes| bytes[4] ^= 1);
    }
    damaged(&home, "none", &["checkpoint-0000000001: ", "checkpoint-0000000002: "], &["damaged store"]);
    change(&path("id"), "id", |bytes| bytes[0] ^= 1);
    damaged(&home, "id", &["id: not the id of any block"], &["damaged store damage=id", "journal replayed"]);
    fs::remove_file(path("lostid").join("id")).expect("removed");
    damaged(&home, "lostid", &["id: missing"], &["damaged store damage=id", "journal replayed"]);
}

#[test]
fn a_damaged_outbox_is_named_alike_by_the_agent_and_by_the_commands() {
    let home = Home::new();
    for name in ["flipped", "headless", "cut", "deleted"] {
        home.copy(name);
    }
    let path = |copy: &str| home.path().join(copy);
    let segment = last(&contents(&path("flipped")), "outbox-1-");
    change(&path("flipped"), &segment, |bytes| bytes[300] ^= 1);
    damaged(
        &home,
        "flipped",
        &[&format!("{segment} at 0: the payload is damaged"), "points of 2023-11-14T22:"],
        &["outbox block is damaged"],
    );
    change(&path("headless"), &segment, |bytes| bytes[20] ^= 1);
    damaged(&home, "headless", &[&format!("{segment} at 0: "), "is gone"], &["damaged store"]);
    change(&path("cut"), &segment, |bytes| bytes.truncate(400));
    damaged(&home, "cut", &[&format!("{segment} at ")], &["outbox block is damaged"]);
    fs::remove_file(path("deleted").join(&segment)).expect("removed");
    damaged(&home, "deleted", &["outbox-1: the block of ", "is gone"], &["an outbox block is missing", "output http, "]);
}

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

/// Flips, zeroes, cuts or removes a few things of a copy; what, in words.
fn rot(copy: &Path, seed: u64) -> String {
    let mut random = Random(seed);
    let mut injuries = Vec::new();
    for _ in 0..=random.below(5) {
        let files = contents(copy);
        let Some((name, content)) = files.iter().nth(random.below(files.len())) else { break };
        let used = content.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        let (at, bit) = (random.below(used), random.below(8));
        injuries.push(format!("{name} at {at}"));
        match random.below(4) {
            0 => fs::remove_file(copy.join(name)).expect("removed"),
            1 => change(copy, name, |bytes| bytes.truncate(at)),
            2 => change(copy, name, |bytes| bytes.iter_mut().skip(at / 4096 * 4096).take(4096).for_each(|b| *b = 0)),
            _ => change(copy, name, |bytes| bytes.iter_mut().skip(at).take(1).for_each(|b| *b ^= 1 << bit)),
        }
    }
    format!("seed {seed}: {}", injuries.join(", "))
}

/// `WEIR_DAMAGES=n` damages that many copies.
#[test]
fn an_agent_starts_on_whatever_is_damaged_and_goes_on() {
    let count = std::env::var("WEIR_DAMAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(8);
    let home = Home::new();
    for seed in 0..count {
        let name = format!("rot-{seed}");
        let copy = home.copy(&name);
        let what = rot(&copy, seed);
        let before = contents(&copy);
        for command in ["verify", "export", "ls", "cat"] {
            let output = store(home.path(), &[command, &name]);
            assert!(matches!(output.status.code(), Some(0..=2)), "{what}, {command}: {}", err(&output));
            assert!(!err(&output).contains("panicked"), "{what}, {command}: {}", err(&output));
        }
        assert_eq!(contents(&copy), before, "{what}");
        let life = home.path().join(format!("life-{name}"));
        fs::create_dir(&life).expect("made");
        fs::copy(home.path().join("in.lp"), life.join("in.lp")).expect("copied");
        fs::rename(&copy, life.join("state")).expect("moved");
        let agent = Agent::start(&life, &super::config(crate::support::free_port()));
        let recorded = super::recorded(&agent);
        let mut input = fs::OpenOptions::new().append(true).open(life.join("in.lp")).expect("the followed file");
        std::io::Write::write_all(&mut input, lines(9000, 9010).as_bytes()).expect("appended");
        eventually(&format!("it goes on, {what}"), || (super::recorded(&agent) > recorded).then_some(()));
        let log = agent.log();
        assert!(!log.contains("panicked") && !log.contains("storage failed"), "{what}: {log}");
        agent.kill();
        fs::remove_dir_all(&life).expect("removed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_damaged_nothing_panics_and_nothing_changes(
        damages in prop::collection::vec((any::<prop::sample::Index>(), 0..4u8, any::<prop::sample::Index>(), 0..8u8), 1..12),
    ) {
        let home = Home::new();
        let copy = home.copy("copy");
        let files = contents(&copy);
        let names: Vec<&String> = files.keys().collect();
        for (file, how, at, bit) in damages {
            let name = names[file.index(names.len())];
            if !copy.join(name).exists() {
                continue;
            }
            match how {
                0 => fs::remove_file(copy.join(name)).expect("removed"),
                _ => change(&copy, name, |bytes| {
                    // Most of a journal is empty: the front is where it hurts.
                    let at = at.index(bytes.len().clamp(1, 40_000));
                    match how {
                        1 => bytes.truncate(at),
                        2 => bytes.iter_mut().skip(at).take(4096).for_each(|b| *b = 0),
                        _ => bytes.iter_mut().skip(at).take(1).for_each(|b| *b ^= 1 << bit),
                    }
                }),
            }
        }
        let before = contents(&copy);
        for arguments in [&["verify", "copy"][..], &["export", "copy"], &["ls", "copy"], &["cat", "copy", "--all"]] {
            let output = store(home.path(), arguments);
            prop_assert!(matches!(output.status.code(), Some(0..=2)), "{:?}: {}", arguments, err(&output));
            prop_assert!(!err(&output).contains("panicked"), "{:?}: {}", arguments, err(&output));
        }
        prop_assert_eq!(contents(&copy), before);
    }
}
