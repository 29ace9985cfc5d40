//! When a block is committed, and what its durability sets free.

use weir_plugin_api::position::MessageId;

use super::*;
use crate::spec::OnStorageFailure;

fn messages(count: u16) -> Position {
    Position::Messages { session: 1, ids: (1..=count).map(|id| MessageId { id, hash: u32::from(id) }).collect() }
}

#[test]
fn nothing_is_acknowledged_or_offered_before_its_block_is_durable() {
    let mut world = World::new(spec());
    world.step(Event::Want { output: 0, lane: Lane::Results });
    let mut early = world.batch(Position::None, &[1.0]);
    assert_eq!(appends(&early), 0, "a commit waits for company");
    world.pass(200 * MS);
    early.extend(world.step(Event::Time));
    assert_eq!(appends(&early), 1);
    assert!(acknowledged(&early).is_empty());
    assert!(!early.iter().any(|e| matches!(e, Effect::Offer { .. })));
    let effects = world.sync();
    assert_eq!(acknowledged(&effects), [1]);
    assert!(effects.iter().any(|e| matches!(e, Effect::Offer { output: 0, .. })));
}

#[test]
fn a_write_that_was_not_synced_frees_nothing_in_power_mode_and_everything_in_crash_mode() {
    for (durability, freed) in [(Durability::Power, 0), (Durability::Crash, 1)] {
        let mut spec = spec();
        spec.storage.durability = durability;
        let mut world = World::new(spec);
        world.batch(Position::None, &[1.0]);
        world.pass(200 * MS);
        world.step(Event::Time);
        let effects = world.step(Event::Durable { block: 2, synced: false });
        assert_eq!(acknowledged(&effects).len(), freed, "{durability:?}");
    }
}

#[test]
fn a_block_that_arrives_sets_nothing_free_of_the_one_behind_it() {
    let mut world = World::new(spec());
    world.batch(messages(15), &[1.0]);
    world.batch(messages(15), &[2.0]);
    let on_their_way: Vec<BlockNumber> = world.blocks.iter().rev().take(2).rev().map(|(block, ..)| *block).collect();
    for (block, batch) in on_their_way.into_iter().zip([1, 2]) {
        assert_eq!(acknowledged(&world.step(Event::Durable { block, synced: true })), [batch]);
    }
}

#[test]
fn with_a_dead_disk_nothing_is_taken_where_that_is_to_stall() {
    for (on_failure, takes) in [(OnStorageFailure::Stall, false), (OnStorageFailure::Continue, true)] {
        let mut spec = spec();
        spec.storage.on_failure = on_failure;
        let mut world = World::new(spec);
        assert!(world.core.wants_batches());
        world.step(Event::StorageFailed { reason: "dead".into() });
        assert_eq!(world.core.wants_batches(), takes, "{on_failure:?}");
    }
}

#[test]
fn a_block_that_arrives_behind_one_that_failed_acknowledges_nothing() {
    let mut world = World::new(spec());
    world.batch(messages(15), &[1.0]);
    world.batch(messages(15), &[2.0]);
    // Both were on their way: the first could not be written, the second could.
    world.step(Event::StorageFailed { reason: "no".into() });
    let effects = world.step(Event::Durable { block: 2, synced: true });
    assert!(acknowledged(&effects).is_empty());
}

#[test]
fn in_mode_none_the_ring_is_enough() {
    let mut spec = spec();
    spec.storage.durability = Durability::None;
    let mut world = World::new(spec);
    assert_eq!(acknowledged(&world.batch(Position::None, &[1.0])), [1]);
}

#[test]
fn three_quarters_of_a_sources_window_are_committed_at_once() {
    let mut world = World::new(spec());
    assert_eq!(appends(&world.batch(messages(14), &[1.0])), 0);
    assert_eq!(appends(&world.batch(messages(1), &[1.0])), 1);
}

#[test]
fn an_alert_does_not_wait_for_the_interval() {
    let mut world = World::new(spec());
    let mut effects = world.batch(Position::None, &[101.0]);
    assert_eq!(appends(&effects), 1);
    assert!(!effects.iter().any(|e| matches!(e, Effect::Level { .. })), "its level waits for the disk");
    effects = world.sync();
    assert!(effects.iter().any(|e| matches!(e, Effect::Level { action: 0, on: true })));
}

#[test]
fn a_batch_that_holds_nothing_is_acknowledged_without_a_commit() {
    let mut world = World::new(spec());
    let effects = world.batch(Position::None, &[]);
    assert_eq!(acknowledged(&effects), [1]);
    assert!(world.core.is_idle());
}

#[test]
fn an_empty_batch_is_not_acknowledged_ahead_of_one_that_is_not_durable() {
    let mut world = World::new(spec());
    world.batch(Position::None, &[1.0]);
    assert!(acknowledged(&world.batch(Position::None, &[])).is_empty());
    world.pass(200 * MS);
    world.step(Event::Time);
    assert!(acknowledged(&world.batch(Position::None, &[])).is_empty(), "the block is on its way");
    assert_eq!(acknowledged(&world.sync()), [3]);
    assert!(world.core.is_idle());
}

#[test]
fn a_delivery_alone_forces_no_commit() {
    let mut world = World::new(spec());
    world.take(&[1.0]);
    let points = world.want(0);
    let mut effects = world.delivered(0, &points);
    world.pass(3600 * S);
    effects.extend(world.step(Event::Time));
    assert_eq!(appends(&effects), 0);
}

#[test]
fn the_write_budget_holds_back_commits_but_not_an_alerts() {
    let mut spec = spec();
    spec.storage.fsyncs_per_minute_max = 2;
    let mut world = World::new(spec);
    // The configuration was written too.
    world.pass(61 * S);
    assert_eq!(appends(&world.take(&[1.0])), 1);
    assert_eq!(appends(&world.take(&[2.0])), 1);
    assert_eq!(appends(&world.take(&[3.0])), 0, "the budget is spent");
    assert_eq!(appends(&world.batch(messages(15), &[4.0])), 0, "a full window waits too");
    assert!(world.core.ledger().bound_by_budget);
    assert_eq!(appends(&world.batch(Position::None, &[101.0])), 1);
    assert_eq!(world.core.ledger().over_budget, 1);
    assert!(!world.core.ledger().bound_by_budget);
    world.sync();
    world.batch(Position::None, &[101.0]);
    world.pass(61 * S);
    assert_eq!(appends(&world.step(Event::Time)), 1, "a minute later there is budget again");
}

#[test]
fn a_checkpoint_waits_for_the_write_budget_and_commits_wait_for_it() {
    let mut spec = spec();
    spec.storage.fsyncs_per_minute_max = 10;
    spec.storage.journal_bytes_max = 30 * 4096;
    let mut world = World::new(spec);
    // Ten commits a minute: the journal's third, ten pages, is used when the budget is spent.
    world.pass(61 * S);
    let taken: Vec<(usize, usize)> = (0..10)
        .map(|n| {
            let effects = world.take(&[f64::from(n)]);
            (appends(&effects), checkpoints(&effects))
        })
        .collect();
    assert!(taken.iter().all(|t| t.1 == 0), "{taken:?}");
    let spent = world.now.steady;
    world.batch(Position::None, &[1.0]);
    let mut seen = Vec::new();
    for _ in 0..600 {
        world.pass(200 * MS);
        let effects = world.step(Event::Time);
        if checkpoints(&effects) > 0 {
            seen.push(world.now.steady - spent);
            assert_eq!(appends(&effects), 1, "the open block goes with it");
            world.sync();
            world.step(Event::Synced { beyond: 6 });
            world.write_checkpoint(effects);
        } else {
            assert!(!seen.is_empty() || appends(&effects) == 0, "a commit took what the checkpoint needs");
        }
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0] > 50 * S && seen[0] <= 61 * S, "it waits for the commits before to leave the minute: {seen:?}");
    assert_eq!(world.core.ledger().over_budget, 0);
}

#[test]
fn syncs_beyond_the_commits_are_in_the_budget() {
    let mut spec = spec();
    spec.storage.fsyncs_per_minute_max = 3;
    let mut world = World::new(spec);
    world.pass(61 * S);
    world.step(Event::Synced { beyond: 2 });
    assert_eq!(appends(&world.take(&[1.0])), 1);
    assert_eq!(appends(&world.take(&[2.0])), 0, "a new journal file took two");
    world.step(Event::Synced { beyond: 2 });
    assert_eq!(world.core.ledger().over_budget, 2);
}

#[test]
fn in_crash_mode_a_block_written_during_a_sync_has_a_sync_of_its_own() {
    let mut spec = spec();
    spec.storage.durability = Durability::Crash;
    let mut world = World::new(spec);
    world.batch(Position::None, &[1.0]);
    world.pass(200 * MS);
    world.step(Event::Time);
    world.step(Event::Durable { block: 2, synced: false });
    world.pass(31 * S);
    assert!(world.step(Event::Time).iter().any(|e| matches!(e, Effect::Sync)));
    world.batch(Position::None, &[2.0]);
    world.pass(200 * MS);
    world.step(Event::Time);
    world.step(Event::Durable { block: 2, synced: true });
    world.step(Event::Durable { block: 3, synced: false });
    world.pass(31 * S);
    assert!(world.step(Event::Time).iter().any(|e| matches!(e, Effect::Sync)));
}

#[test]
fn nothing_is_written_and_nobody_is_woken_when_nothing_flows() {
    let mut world = World::new(spec());
    world.take(&[1.0]);
    for output in 0..2 {
        world.drain(output);
    }
    let mut commits = 0;
    for _ in 0..100 {
        world.pass(S);
        commits += appends(&world.step(Event::Time));
    }
    assert_eq!(commits, 0);
}
