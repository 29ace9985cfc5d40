//! What may wait, and what is given up: memory, the outbox, the journal, counts per output.

use super::*;
use crate::spec::OnStorageFailure;

fn failed(number: u64, no_space: bool) -> Event {
    Event::CheckpointFailed { number, no_space, reason: "disk".into() }
}

/// Outputs that take whole commits of four points, ten of them spilled one by one.
fn spilled(spec: EngineSpec) -> (World, Vec<u8>) {
    let mut world = World::new(spec);
    let mut state = Vec::new();
    for commit in 0..10 {
        let first = f64::from(commit * 4);
        world.take(&[first, first + 1.0, first + 2.0, first + 3.0]);
        state = world.checkpoint();
    }
    (world, state)
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
    // A third of it is the block of the configuration and one more.
    spec.storage.journal_bytes_max = 24 << 10;
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
fn what_a_failed_checkpoint_had_moved_comes_in_its_order_and_before_what_came_since() {
    let mut world = World::new(spec());
    for value in [1.0, 2.0, 3.0] {
        world.take(&[value]);
    }
    world.step(Event::Checkpoint);
    world.step(failed(1, false));
    world.take(&[4.0]);
    assert_eq!(world.drain(0), [1.0, 2.0, 3.0, 4.0]);
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

#[test]
fn with_a_dead_disk_memory_stays_bounded() {
    let mut spec = spec();
    spec.storage.on_failure = OnStorageFailure::Continue;
    spec.limits.results_waiting_bytes_max = 16 << 10;
    let mut world = World::new(spec);
    world.step(Event::StorageFailed { reason: "dead".into() });
    for _ in 0..500 {
        world.take(&[1.0, 2.0, 3.0, 4.0]);
    }
    assert!(world.core.wants_batches());
    assert!(world.core.waiting.bytes() <= 16 << 10, "{} bytes", world.core.waiting.bytes());
    assert!(world.line(0).expired_bytes > 0);
    world.balances();
}

#[test]
fn a_full_outbox_gives_up_its_oldest_and_leaves_what_an_output_holds() {
    let (mut world, state) = spilled(spec());
    let held = world.want(0);
    assert_eq!(held.len(), 4);
    let bytes: u64 = world.outbox.keys().map(|p| u64::from(p.bytes)).sum();
    let mut smaller = (*world.spec).clone();
    smaller.storage.outbox_bytes_max = bytes - 1;
    world.core.spec = Arc::new(smaller);
    world.step(Event::Time);
    assert_eq!(world.line(1).expired_bytes, 4);
    world.balances();
    world.delivered(0, &held);
    assert_eq!(world.line(0).delivered, 4);
    world.balances();
    // After a crash nobody sees either again, and the counts are the same.
    world.take(&[40.0]);
    world.restart(Some(&state));
    assert_eq!((world.line(0).delivered, world.line(1).expired_bytes), (4, 4));
    for output in 0..2 {
        let (missing, line) = (world.drain(output), usize::from(output));
        assert_eq!(missing.len() as u64, 41 - 4 - (world.line(line).expired_bytes - u64::from(output == 1) * 4));
        assert_eq!(missing.last(), Some(&40.0));
        assert_eq!(world.line(line).waiting(), 0);
    }
    world.balances();
}

#[test]
fn one_output_may_be_behind_by_a_block_that_another_has() {
    let (mut world, state) = spilled(spec());
    assert_eq!(world.drain(0).len(), 40);
    assert_eq!(world.want(1).len(), 4);
    world.restart(Some(&state));
    assert_eq!(world.drain(1).len(), 40);
    world.balances();
}

#[test]
fn an_old_outbox_is_given_up_by_age() {
    let mut spec = spec();
    spec.storage.outbox_age_max = 3600 * S;
    let (mut world, _) = spilled(spec);
    world.drain(0);
    world.pass(3601 * S);
    world.step(Event::Time);
    for _ in 0..20 {
        world.step(Event::Time);
    }
    assert_eq!(world.line(1).expired_age, 40);
    assert_eq!(world.line(0).expired_age, 0);
    world.balances();
}

#[test]
fn an_alert_that_is_too_old_goes_before_results_that_are_not() {
    let mut spec = spec();
    spec.storage.outbox_age_max = 3600 * S;
    spec.limits.results_waiting_bytes_max = 1 << 30;
    let mut world = World::new(spec);
    world.take(&[101.0]);
    for output in 0..2 {
        let result = world.want(output);
        world.delivered(output, &result);
    }
    world.checkpoint();
    world.pass(1800 * S);
    world.take(&[102.0]);
    world.checkpoint();
    world.pass(1801 * S);
    for _ in 0..20 {
        world.step(Event::Time);
    }
    let alerts = world.core.waiting.lanes[Lane::Alerts as usize].cursors[0].outstanding;
    assert_eq!((world.line(0).expired_age, alerts), (1, 0), "the alert, half an hour older than the result");
    assert_eq!(world.drain(0), [102.0]);
    world.balances();
}

/// The answer to the read among these effects is that it failed.
fn unread(world: &mut World, effects: &[Effect]) -> Vec<Effect> {
    let read =
        effects.iter().find_map(|e| if let Effect::ReadOutbox { output, lane, place } = e { Some((*output, *lane, *place)) } else { None });
    let (output, lane, place) = read.expect("a block is asked for");
    world.step(Event::OutboxUnread { output, lane, place, reason: "bus error".into() })
}

#[test]
fn a_block_that_could_not_be_read_is_asked_for_again_and_delivered() {
    let (mut world, _) = spilled(spec());
    let mut effects = world.step(Event::Want { output: 0, lane: Lane::Results });
    let mut waited = 0;
    for _ in 0..10 {
        let said = unread(&mut world, &effects);
        assert!(!said.iter().any(|e| matches!(e, Effect::ReadOutbox { .. })), "not again at once");
        let at = armed(&said).unwrap_or(world.core.armed);
        assert!(at > world.now.steady && at <= world.now.steady + 5 * S, "but soon");
        waited += at - world.now.steady;
        world.pass(at - world.now.steady);
        effects = world.step(Event::Time);
    }
    assert!((10 * S..60 * S).contains(&waited), "{waited}");
    let points = world.offered(0, effects);
    world.delivered(0, &points);
    assert_eq!(world.drain(0).len() + points.len(), 40);
    assert_eq!(world.core.ledger().outbox_read_retries, 10);
    assert_eq!((world.line(0).lost_outbox, world.core.ledger().damage.outbox_blocks), (0, 0));
    world.balances();
}

#[test]
fn a_block_that_can_t_be_read_for_a_minute_is_given_up_as_damaged_and_the_next_one_comes() {
    let (mut world, _) = spilled(spec());
    let mut effects = world.step(Event::Want { output: 0, lane: Lane::Results });
    let (begin, mut log) = (world.now.steady, Vec::new());
    while world.core.ledger().damage.outbox_blocks == 0 {
        assert!(world.now.steady - begin < 70 * S, "for ever");
        let said = unread(&mut world, &effects);
        log.extend(said.iter().filter_map(|e| if let Effect::Log { error, message } = e { Some((*error, message.clone())) } else { None }));
        effects = said;
        if world.core.ledger().damage.outbox_blocks == 0 {
            world.pass(world.core.armed - world.now.steady);
            effects = world.step(Event::Time);
        }
    }
    assert!(world.now.steady - begin >= 60 * S);
    // Once when it begins, once when it ends, and what is lost.
    let said: Vec<_> = log
        .iter()
        .filter(|(_, message)| message.starts_with("outbox"))
        .map(|(error, message)| (*error, message.split([',', ':']).next().unwrap_or_default()))
        .collect();
    assert_eq!(
        said,
        [(false, "outbox block can't be read"), (true, "outbox block can't be read"), (true, "outbox block is damaged")],
        "{log:?}"
    );
    assert_eq!((world.line(0).lost_outbox, world.line(0).expired_disk), (4, 0));
    let effects = world.commit();
    let next = world.offered(0, effects);
    world.delivered(0, &next);
    assert_eq!(next.len() + world.drain(0).len(), 36);
    world.balances();
}

#[test]
fn a_dead_disk_that_can_t_be_read_keeps_nobody_waiting() {
    let mut spec = spec();
    spec.storage.on_failure = OnStorageFailure::Continue;
    let (mut world, _) = spilled(spec);
    world.step(Event::StorageFailed { reason: "dead".into() });
    world.take(&[40.0]);
    let mut effects = world.step(Event::Want { output: 0, lane: Lane::Results });
    for _ in 0..10 {
        unread(&mut world, &effects);
        world.pass(world.spec.storage.commit_interval);
        effects = world.step(Event::Time);
    }
    let points = world.offered(0, effects);
    assert_eq!(points.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [40.0]);
}

#[test]
fn an_outputs_own_bound_drops_its_oldest_and_nobody_elses() {
    let mut spec = spec();
    spec.outputs[1].waiting_points_max = 10;
    let mut world = World::new(spec);
    for commit in 0..10 {
        world.take(&[f64::from(commit), 0.5, 0.5, 0.5]);
    }
    let line = world.line(1);
    assert!(line.waiting() <= 12, "{} wait", line.waiting());
    assert_eq!(line.expired_bytes + line.waiting(), 40);
    assert_eq!(world.line(0).waiting(), 40);
    assert_eq!(world.want(1), [], "nothing behind a gap before the gap is durable");
    let effects = world.commit();
    let points = world.offered(1, effects);
    world.delivered(1, &points);
    assert_eq!((points.len() + world.drain(1).len()) as u64, line.waiting());
    world.balances();
}

#[test]
fn a_full_disk_gives_up_results_slowly_and_keeps_alerts() {
    let (mut world, _) = spilled(spec());
    world.take(&[101.0]);
    world.checkpoint();
    world.take(&[7.0]);
    world.step(Event::Failing { output: 0 });
    world.step(Event::Failing { output: 1 });
    let mut tries = 0;
    world.step(Event::Checkpoint);
    for _ in 0..60 {
        while let Some(number) = world.core.checkpoint.running {
            tries += 1;
            assert_eq!(checkpoints(&world.step(failed(number, true))), 0, "not again at once: nothing is free yet");
            let again = checkpoints(&world.sync());
            assert_eq!(again, usize::from(tries == 1), "once when the first segment is free, then slowly");
        }
        world.pass(S);
        world.step(Event::Time);
    }
    assert!((2..=13).contains(&tries), "{tries} tries in a minute");
    assert!(world.line(1).expired_disk > 0);
    assert_eq!(world.core.waiting.lanes[Lane::Alerts as usize].cursors[0].outstanding, 2, "both transitions wait");
    world.balances();
}

#[test]
fn a_dead_destination_does_not_keep_the_files_of_what_was_given_up() {
    let mut spec = spec();
    spec.outputs.truncate(1);
    spec.storage.outbox_bytes_max = 1000;
    let mut world = World::new(spec);
    let mut held = Vec::new();
    let mut freed = 0;
    for commit in 0..100 {
        world.take(&[f64::from(commit), 0.5, 0.25, 0.125]);
        let effects = world.step(Event::Checkpoint);
        freed = effects
            .iter()
            .find_map(|e| if let Effect::Checkpoint { outbox_free_below, .. } = e { Some(outbox_free_below[1]) } else { None })
            .unwrap();
        world.sync();
        world.write_checkpoint(effects);
        if commit == 0 {
            // Offered from the outbox, and never settled: the destination is down.
            held = world.want(0);
        }
    }
    assert_eq!(held.len(), 4);
    assert!(world.line(0).expired_bytes > 0);
    assert!(freed > 50, "segments from {freed} on are kept, of 100");
    world.delivered(0, &held);
    assert_eq!(world.line(0).delivered, 4);
    world.balances();
}

#[test]
fn a_block_given_up_while_a_living_output_has_it_is_not_kept_in_memory_for_a_dead_one() {
    let (mut world, _) = spilled(spec());
    // Offered and never settled: the destination is down.
    let held = world.want(1);
    let first = world.want(0);
    world.delivered(0, &first);
    for block in 1..10 {
        let points = world.want(0);
        assert_eq!(points.len(), 4);
        // One byte too many: the oldest that can be given up is just what the living one has been offered.
        let mut smaller = (*world.spec).clone();
        smaller.storage.outbox_bytes_max = world.core.waiting.lanes[Lane::Results as usize].disk_bytes() - 1;
        world.core.spec = Arc::new(smaller);
        world.step(Event::Time);
        assert_eq!(world.line(1).expired_bytes, block * 4);
        world.delivered(0, &points);
        let kept = world.core.waiting.lanes[Lane::Results as usize].kept.len();
        assert_eq!(kept, 1, "the one that the dead output has, after {block} that were given up");
    }
    world.delivered(1, &held);
    assert!(world.core.waiting.lanes[Lane::Results as usize].kept.is_empty());
    world.balances();
}

#[test]
fn a_block_that_was_moved_is_delivered_after_a_crash_and_comes_first() {
    for fails in [false, true] {
        let mut world = World::new(spec());
        let mut state = Vec::new();
        for first in [0.0, 10.0, 20.0] {
            world.take(&[first, first + 1.0]);
            state = world.checkpoint();
        }
        assert_eq!(world.want(0).len(), 2);
        assert_eq!(world.want(1).len(), 2);
        let old = world.outbox.len();
        let effects = world.step(Event::Checkpoint);
        world.sync();
        if fails {
            world.step(failed(world.core.checkpoint.number, false));
        } else {
            state = world.write_checkpoint(effects);
            assert_eq!(world.outbox.len(), old + 1, "the block both hold is written again");
            world.outbox.pop_first();
        }
        world.restart(Some(&state));
        for output in 0..2 {
            assert_eq!(world.drain(output), [0.0, 1.0, 10.0, 11.0, 20.0, 21.0]);
        }
        world.balances();
    }
}

#[test]
fn a_series_past_the_table_costs_its_points_and_is_counted() {
    let mut spec = spec();
    spec.limits.series_max = 2;
    let mut world = World::new(spec);
    let mut batch = Batch { number: 1, read_at: world.now.steady, points: 3, ..Batch::default() };
    batch.counts.read = 3;
    batch.new_fields.push("v".into());
    // The second by number of bytes, the fourth by their number.
    for device in ["a".to_owned(), "x".repeat(5000), "b".to_owned(), "c".to_owned()] {
        batch.new_series.push(Arc::new(Series::from_parts("m", &[("device", &device)])));
        batch.new_partitions.push("p".into());
    }
    for series in [0, 1, 3] {
        let time = world.now.wall;
        batch.cells.push(Cell { series, field: 0, kind: Kind::Float as u8, flags: Cell::START, time, value: 0 });
    }
    world.step(Event::Batch { input: 0, batch });
    world.commit();
    let input = world.core.ledger().inputs[0].clone();
    assert_eq!((input.recorded, input.counts.refused_series), (1, 2));
    world.balances();
    assert_eq!(world.drain(0).len(), 1);
}
