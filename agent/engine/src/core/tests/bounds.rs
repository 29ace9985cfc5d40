//! What may wait, and what is given up: memory, the outbox, the journal, counts per output.

use super::*;
use crate::spec::OnStorageFailure;

fn failed(number: u64, no_space: bool) -> Event {
    Event::CheckpointFailed { number, no_space, reason: "disk".into() }
}

#[test]
fn many_small_commits_fill_the_journal_by_pages_and_so_ask_for_a_checkpoint() {
    let mut spec = spec();
    spec.storage.journal_bytes_max = 3 << 20;
    let mut world = World::new(spec);
    let mut commits = 0;
    while commits < 1000 {
        commits += 1;
        if checkpoints(&world.take(&[1.0])) > 0 {
            break;
        }
    }
    // A commit takes a page of 4 KiB however little it holds: 256 of them are a third of the journal.
    assert!((200..=257).contains(&commits), "{commits} commits");
}

#[test]
fn runs_that_are_killed_again_and_again_make_a_checkpoint_in_time() {
    let mut spec = spec();
    spec.storage.journal_bytes_max = 64 << 20;
    let mut world = World::new(spec);
    for run in 1..64 {
        world.take(&[1.0]);
        // Every run begins a journal file of its own, a mebibyte.
        world.restart(None);
        if world.core.checkpoint.running.is_some() {
            assert!((15..=22).contains(&run), "{run} runs take a third");
            return;
        }
    }
    panic!("64 runs fill the journal without a checkpoint");
}

#[test]
fn while_checkpoints_fail_a_full_journal_takes_nothing_more_and_tries_again_without_being_told() {
    let mut spec = spec();
    spec.storage.journal_bytes_max = 96 << 10;
    let mut world = World::new(spec);
    let mut number = 0;
    for _ in 0..64 {
        let effects = world.take(&[1.0]);
        if checkpoints(&effects) > 0 {
            number += 1;
            world.step(failed(number, false));
        }
    }
    assert!(number > 0);
    assert!(!world.core.wants_batches());
    world.pass(6 * S);
    world.step(Event::Time);
    assert!(world.core.checkpoint.running.is_some(), "it is tried again");
    assert!(!world.core.wants_batches(), "and nothing is taken before it is there");
}

#[test]
fn a_failed_checkpoint_arms_its_next_try() {
    let mut spec = spec();
    spec.storage.journal_bytes_max = 12 << 10;
    let mut world = World::new(spec);
    assert_eq!(checkpoints(&world.take(&[1.0])), 1);
    let at = armed(&world.step(failed(1, false))).unwrap();
    assert!(at <= world.now.steady + 5 * S);
    world.pass(5 * S);
    assert_eq!(checkpoints(&world.step(Event::Time)), 1);
}

#[test]
fn what_a_failed_checkpoint_had_moved_is_delivered_from_memory() {
    let mut world = World::new(spec());
    world.take(&[1.0, 2.0]);
    world.step(Event::Checkpoint);
    world.step(failed(1, false));
    assert_eq!(world.drain(0), [1.0, 2.0]);
    assert_eq!(world.line(0).delivered, 2);
    world.balances();
}

#[test]
fn what_a_checkpoint_had_moved_when_the_disk_died_is_delivered_from_memory() {
    let mut spec = spec();
    spec.storage.on_failure = OnStorageFailure::Continue;
    let mut world = World::new(spec);
    world.take(&[1.0, 2.0]);
    world.step(Event::Checkpoint);
    world.step(Event::StorageFailed { reason: "dead".into() });
    assert_eq!(world.drain(0), [1.0, 2.0]);
    world.balances();
}
