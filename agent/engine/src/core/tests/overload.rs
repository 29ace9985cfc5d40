//! Outputs that can't keep up: who waits for whom, and who pays when there is no room.

use super::*;

fn failed(number: u64, no_space: bool) -> Event {
    Event::CheckpointFailed { number, no_space, reason: "disk".into() }
}

fn delivered_one(world: &mut World, output: u16) -> usize {
    let points = world.want(output);
    if !points.is_empty() {
        world.delivered(output, &points);
    }
    points.len()
}

/// The output delivers what it is offered, and asks for more.
fn keeps_up(world: &mut World, output: u16, effects: Vec<Effect>) {
    let points = world.offered(output, effects);
    if !points.is_empty() {
        world.delivered(output, &points);
    }
    world.drain(output);
}

fn small() -> EngineSpec {
    let mut spec = spec();
    spec.limits.results_waiting_bytes_max = 64 << 10;
    spec.storage.commit_interval = MS;
    spec
}

/// Takes points until inputs are held back, at most so many commits; how many.
fn fill(world: &mut World, most: usize) -> usize {
    let mut commits = 0;
    while commits < most && !world.core.holds_back() {
        world.take(&[1.0, 2.0, 3.0, 4.0]);
        commits += 1;
    }
    commits
}

#[test]
fn an_output_that_is_slower_than_the_input_holds_it_back_before_anything_is_spilled() {
    let mut spec = small();
    spec.outputs.truncate(1);
    let mut world = World::new(spec);
    world.take(&[1.0]);
    let held = world.want(0);
    let commits = fill(&mut world, 1000);
    assert!(world.core.holds_back(), "after {commits} commits");
    assert!(world.core.waiting.bytes() <= 48 << 10, "{} bytes", world.core.waiting.bytes());
    assert_eq!(world.core.checkpoint.number, 0, "nothing is spilled");
    world.delivered(0, &held);
    let mut more = 0;
    while world.core.holds_back() {
        assert!(delivered_one(&mut world, 0) > 0);
        more += 1;
    }
    assert!((1..commits).contains(&more), "after {more} more deliveries it goes on");
    world.balances();
}

#[test]
fn a_dead_output_holds_nobody_back_and_is_spilled_for() {
    let mut world = World::new(small());
    world.take(&[1.0]);
    world.want(1);
    world.step(Event::Failing { output: 1 });
    for commit in 0..2000 {
        let effects = world.take(&[1.0, 2.0, 3.0, 4.0]);
        if checkpoints(&effects) > 0 {
            world.write_checkpoint(effects);
            let effects = std::mem::take(&mut world.after_checkpoint);
            keeps_up(&mut world, 0, effects);
        } else {
            keeps_up(&mut world, 0, effects);
        }
        assert!(!world.core.holds_back(), "commit {commit}");
    }
    assert!(!world.outbox.is_empty());
    world.balances();
}

#[test]
fn an_output_that_hangs_counts_as_dead_after_a_while_and_the_core_wakes_up_for_it() {
    let mut spec = small();
    spec.outputs.truncate(1);
    let mut world = World::new(spec);
    world.take(&[1.0]);
    world.want(0);
    let took_at = world.now.steady;
    fill(&mut world, 1000);
    assert!(world.core.holds_back());
    let effects = world.step(Event::Checkpoint);
    let at = armed(&effects).unwrap_or(world.core.armed);
    assert!(at <= took_at + 10 * S, "armed for {at}");
    world.pass(10 * S);
    world.step(Event::Time);
    assert!(!world.core.holds_back());
}

#[test]
fn what_piled_up_while_an_output_was_away_holds_nobody_back() {
    let mut spec = small();
    spec.outputs.truncate(1);
    let mut world = World::new(spec);
    world.take(&[1.0]);
    world.step(Event::Failing { output: 0 });
    let held = world.want(0);
    let mut state = Vec::new();
    for _ in 0..20 {
        for _ in 0..40 {
            world.take(&[1.0, 2.0, 3.0, 4.0]);
        }
        state = world.checkpoint();
    }
    world.delivered(0, &held);
    let mut blocks = 0;
    while world.line(0).waiting() > 0 {
        assert!(!world.core.holds_back(), "after {blocks} blocks");
        assert!(delivered_one(&mut world, 0) > 0);
        blocks += 1;
    }
    assert!(blocks >= 20);
    // Caught up: from now on it counts.
    world.take(&[1.0]);
    world.want(0);
    fill(&mut world, 1000);
    assert!(world.core.holds_back());
    // After a restart the same backlog is nobody's hurry again.
    world.restart(Some(&state));
    world.want(0);
    assert!(!world.core.holds_back());
}

#[test]
fn an_output_that_wants_more_holds_nobody_back() {
    let mut spec = small();
    spec.outputs.truncate(1);
    let mut world = World::new(spec);
    // Everything is with the output, which waits for its batch to fill.
    for _ in 0..400 {
        world.take(&[1.0, 2.0, 3.0, 4.0]);
        world.want(0);
        assert!(!world.core.holds_back());
    }
}

#[test]
fn an_outputs_own_bound_holds_inputs_back_before_it_drops() {
    let mut spec = small();
    spec.outputs.truncate(1);
    spec.outputs[0].waiting_points_max = 100;
    let mut world = World::new(spec);
    world.take(&[1.0]);
    let held = world.want(0);
    fill(&mut world, 1000);
    assert!(world.core.holds_back());
    assert_eq!(world.line(0).expired_bytes, 0);
    world.delivered(0, &held);
    world.drain(0);
    assert!(!world.core.holds_back());
}

/// Ten commits of four points, spilled into a segment each, and the state then.
fn ten_segments() -> (World, Vec<u8>) {
    ten_segments_of(spec())
}

fn ten_segments_of(spec: EngineSpec) -> (World, Vec<u8>) {
    let mut world = World::new(spec);
    let mut state = Vec::new();
    for commit in 0..10 {
        let first = f64::from(commit * 4);
        world.take(&[first, first + 1.0, first + 2.0, first + 3.0]);
        state = world.checkpoint();
    }
    (world, state)
}

/// The same; `far` is dead and `near` has the first two.
fn one_dead() -> World {
    let (mut world, _) = ten_segments();
    delivered_one(&mut world, 0);
    delivered_one(&mut world, 0);
    world.step(Event::Failing { output: 1 });
    world
}

/// The checkpoint that is being written finds no room.
fn no_room(world: &mut World) -> Vec<Effect> {
    world.step(Event::Checkpoint);
    world.sync();
    let number = world.core.checkpoint.running.unwrap();
    world.step(failed(number, true))
}

fn freed(effects: &[Effect]) -> Option<[u64; 2]> {
    effects.iter().find_map(|e| if let Effect::FreeOutbox { below } = e { Some(*below) } else { None })
}

#[test]
fn a_full_disk_costs_the_dead_output_its_oldest_segment_and_the_living_one_nothing() {
    let mut world = one_dead();
    world.take(&[40.0]);
    no_room(&mut world);
    assert_eq!((world.line(0).expired_disk, world.line(1).expired_disk), (0, 4));
    // Durable, so it is removed, and the checkpoint is tried again at once.
    let effects = world.sync();
    assert_eq!(freed(&effects).map(|below| below[1]), Some(2));
    assert_eq!(checkpoints(&effects), 1);
    world.sync();
    let number = world.core.checkpoint.number;
    world.step(failed(number, true));
    assert_eq!(checkpoints(&world.sync()), 0, "it did not help: more is given up slowly");
    world.pass(2 * S);
    let effects = world.step(Event::Time);
    assert_eq!((world.line(0).expired_disk, world.line(1).expired_disk), (0, 8));
    world.sync();
    world.write_checkpoint(effects);
    assert_eq!(world.drain(0).len(), 41 - 8);
    world.balances();
}

#[test]
fn a_segment_the_living_output_still_needs_is_waited_for_and_holds_inputs_back() {
    let mut world = one_dead();
    for _ in 0..3 {
        no_room(&mut world);
        world.sync();
        world.pass(60 * S);
        world.want(0);
    }
    // The first two segments, that only the dead one needs, and one ahead of the living one.
    assert_eq!((world.line(0).expired_disk, world.line(1).expired_disk), (0, 12));
    assert!(world.core.holds_back(), "what it has not read yet is in the way");
    for _ in 0..5 {
        no_room(&mut world);
        world.sync();
    }
    assert_eq!(world.line(1).expired_disk, 12, "more would win nothing");
    world.balances();
}

#[test]
fn blocks_a_full_disk_removed_are_not_missed_after_a_crash() {
    let (mut world, state) = ten_segments();
    world.drain(0);
    world.step(Event::Failing { output: 1 });
    no_room(&mut world);
    let below = freed(&world.sync()).unwrap()[1];
    world.outbox.retain(|place, _| place.segment >= below);
    assert_eq!(world.outbox.len(), 9);
    world.restart(Some(&state));
    assert_eq!(world.core.ledger().damage.outbox_blocks, 0);
    assert_eq!((world.line(0).expired_disk, world.line(1).expired_disk), (0, 4));
    assert_eq!(world.line(0).waiting(), 0);
    assert_eq!(world.drain(1).len(), 36);
    world.balances();
}

/// What is to be saved of the cursors, if that is asked for.
fn saves(effects: &[Effect]) -> Option<Vec<u8>> {
    effects.iter().find_map(|e| if let Effect::SaveCursors { bytes, .. } = e { Some(bytes.clone()) } else { None })
}

/// Ten segments whose deliveries to `near` the journal has no room for, as `far` is dead; the state before them, the journal as it stays, and
/// what two checkpoints that found no room bring about.
fn a_journal_without_room() -> (World, Vec<u8>, Vec<Effect>) {
    let (mut world, state) = ten_segments();
    world.step(Event::Failing { output: 1 });
    let kept = world.blocks.len();
    for _ in 0..3 {
        let held = world.want(0);
        world.delivered(0, &held);
    }
    let mut effects = Vec::new();
    for _ in 0..2 {
        world.step(Event::Checkpoint);
        let number = world.core.checkpoint.running.unwrap();
        effects.extend(world.step(failed(number, true)));
    }
    world.blocks.truncate(kept);
    (world, state, effects)
}

#[test]
fn on_a_full_disk_nothing_is_removed_that_a_crash_would_have_forgotten_to_be_delivered() {
    let (mut world, state, effects) = a_journal_without_room();
    assert_eq!(freed(&effects), None, "nothing durable says that nobody needs it");
    let saved = saves(&effects).unwrap();
    let below = freed(&world.step(Event::CursorsSaved)).unwrap()[1];
    assert_eq!(below, 2, "what the dead one gave up and the living one has");
    world.outbox.retain(|place, _| place.segment >= below);
    world.saved = Some(saved);
    world.restart(Some(&state));
    assert_eq!(world.core.output_resume(0).results, world.core.cursor(0, Lane::Results));
    assert_eq!((world.line(0).delivered, world.line(0).expired_disk), (12, 0), "{:?}", world.log);
    assert_eq!((world.line(1).delivered, world.line(1).expired_disk), (0, 4));
    assert_eq!(world.drain(0).len(), 28);
    assert_eq!(world.drain(1).len(), 36);
    world.balances();
}

#[test]
fn where_records_are_not_synced_nothing_is_removed_before_the_cursors_are_saved() {
    for durability in [Durability::Crash, Durability::None] {
        let mut spec = spec();
        spec.storage.durability = durability;
        let (mut world, state) = ten_segments_of(spec);
        delivered_one(&mut world, 0);
        world.step(Event::Failing { output: 1 });
        let kept = world.blocks.len();
        let mut effects = no_room(&mut world);
        effects.extend(world.sync());
        assert_eq!(freed(&effects), None, "{durability:?}: the power may fail");
        world.pass(2 * S);
        effects.extend(no_room(&mut world));
        assert_eq!(freed(&effects), None, "{durability:?}");
        let saved = saves(&effects).unwrap();
        let below = freed(&world.step(Event::CursorsSaved)).unwrap()[1];
        world.outbox.retain(|place, _| place.segment >= below);
        assert_eq!(world.outbox.len(), 9);
        // The power fails twice, the second time before anything is synced again.
        world.blocks.truncate(kept);
        world.saved = Some(saved);
        for _ in 0..2 {
            world.restart(Some(&state));
            assert_eq!((world.line(0).delivered, world.line(0).lost_outbox, world.line(1).lost_outbox), (4, 0, 0), "{durability:?}");
            world.balances();
            world.blocks.truncate(kept);
        }
    }
}

#[test]
fn saved_cursors_know_what_was_lost_from_what_was_given_up() {
    let (mut world, state) = ten_segments();
    let kept = world.blocks.len();
    let second = *world.outbox.keys().nth(1).unwrap();
    world.outbox.get_mut(&second).unwrap().bytes[0] ^= 0xff;
    for _ in 0..3 {
        let points = world.want(0);
        let effects = world.commit();
        let points = if points.is_empty() { world.offered(0, effects) } else { points };
        world.delivered(0, &points);
    }
    assert_eq!((world.line(0).delivered, world.line(0).lost_outbox), (12, 4));
    world.saved = Some(world.core.encode_cursors());
    world.blocks.truncate(kept);
    world.restart(Some(&state));
    let line = world.line(0);
    assert_eq!((line.delivered, line.expired_disk, line.lost_outbox), (12, 0, 4), "{:?}", world.log);
    assert_eq!(world.drain(0).len(), 24);
    world.balances();
}

#[test]
fn saved_cursors_do_not_speak_of_what_is_on_its_way() {
    let (mut world, state) = ten_segments();
    let kept = world.blocks.len();
    let held = world.want(0);
    world.delivered(0, &held);
    assert_eq!(world.want(0).len(), 4, "nobody has said that these have arrived");
    world.saved = Some(world.core.encode_cursors());
    world.blocks.truncate(kept);
    world.restart(Some(&state));
    assert_eq!(world.line(0).delivered, 4);
    assert_eq!(world.drain(0).len(), 36);
    world.balances();
}

#[test]
fn cursors_that_can_t_be_saved_keep_everything_and_are_said_once() {
    let (mut world, state, _) = a_journal_without_room();
    let unsaved = |world: &mut World| world.step(Event::CursorsUnsaved { reason: "no".into() });
    let said = |effects: &[Effect]| effects.iter().filter(|e| matches!(e, Effect::Log { error: true, .. })).count();
    let effects = unsaved(&mut world);
    assert_eq!((freed(&effects), said(&effects)), (None, 1));
    let kept = world.blocks.len();
    for _ in 0..3 {
        world.step(Event::Checkpoint);
        let number = world.core.checkpoint.running.unwrap();
        assert!(saves(&world.step(failed(number, true))).is_some());
        let effects = unsaved(&mut world);
        assert_eq!((freed(&effects), said(&effects)), (None, 0));
    }
    world.blocks.truncate(kept);
    world.restart(Some(&state));
    assert_eq!(world.drain(0).len(), 40);
    world.balances();
}

#[test]
fn saved_cursors_are_not_believed_beyond_what_was_recovered_nor_when_the_journal_knows_better() {
    let (mut world, state, effects) = a_journal_without_room();
    let mut fresh = World::new(spec());
    let kept = fresh.core.set_saved_cursors(&saves(&effects).unwrap()).unwrap().expect("of records that are lost");
    assert_eq!(fresh.core.set_saved_cursors(&kept), Ok(None), "what is kept is not");
    assert!(fresh.core.set_saved_cursors(b"\x02").is_err());
    // Of before all that, as an earlier time of need left it.
    let none = World::new(spec()).core.encode_cursors();
    world.saved = Some(none);
    world.restart(Some(&state));
    assert_eq!(world.line(0).delivered, 0);
    assert_eq!(world.drain(0).len(), 40);
    world.balances();
}

#[test]
fn what_a_dead_output_holds_keeps_no_segment_on_a_full_disk_and_is_written_again() {
    let mut world = World::new(spec());
    for commit in 0..3 {
        world.take(&[f64::from(commit), 0.5]);
        world.checkpoint();
    }
    world.drain(0);
    let held = world.want(1);
    assert_eq!(held.len(), 2);
    world.step(Event::Failing { output: 1 });
    no_room(&mut world);
    let effects = world.sync();
    assert_eq!((freed(&effects), saves(&effects).is_some()), (None, true), "no record says that it has one");
    let effects = world.step(Event::CursorsSaved);
    assert_eq!(freed(&effects).map(|below| below[1]), Some(3), "the one it holds, and the one it gave up");
    world.outbox.retain(|place, _| place.segment >= 3);
    world.sync();
    let state = world.write_checkpoint(effects);
    assert_eq!(world.outbox.len(), 2);
    world.restart(Some(&state));
    assert_eq!(world.drain(1), [0.0, 0.5, 2.0, 0.5]);
    assert_eq!(world.line(1).expired_disk, 2);
    world.balances();
}

#[test]
fn what_a_dead_output_holds_is_given_up_by_a_crash_once_its_segment_is_removed() {
    let (mut world, state) = ten_segments();
    world.drain(0);
    world.want(1);
    world.step(Event::Failing { output: 1 });
    no_room(&mut world);
    world.saved = saves(&world.sync());
    let below = freed(&world.step(Event::CursorsSaved)).unwrap()[1];
    assert_eq!(below, 3, "the one it holds, and the one it gave up");
    world.outbox.retain(|place, _| place.segment >= below);
    let kept = world.blocks.len();
    for _ in 0..2 {
        world.restart(Some(&state));
        let line = world.line(1);
        assert_eq!((line.expired_disk, line.lost_outbox, world.core.ledger().damage.outbox_blocks), (8, 0, 0), "{:?}", world.log);
        world.balances();
        world.blocks.truncate(kept);
    }
    world.commit();
    assert_eq!(world.drain(1).len(), 32);
}

#[test]
fn what_an_output_that_lives_again_holds_stays_on_a_full_disk() {
    let (mut world, state) = ten_segments();
    world.drain(0);
    let held = world.want(1);
    world.step(Event::Failing { output: 1 });
    no_room(&mut world);
    world.sync();
    world.delivered(1, &held[..1]);
    let effects = world.step(Event::CursorsSaved);
    let below = freed(&effects).map_or(0, |below| below[1]);
    world.outbox.retain(|place, _| place.segment >= below);
    world.restart(Some(&state));
    let line = world.line(1);
    assert_eq!((line.lost_outbox, line.expired_disk), (0, 4), "what it gave up and no more: {:?}", world.log);
    world.balances();
}

#[test]
fn alerts_that_a_dead_output_holds_stay_on_a_full_disk() {
    let mut world = World::new(spec());
    world.take(&[200.0]);
    let state = world.checkpoint();
    let alert = world.outbox.iter().find(|(_, block)| block.lane == Lane::Alerts as u8).map(|(place, _)| *place).unwrap();
    let effects = world.step(Event::Want { output: 1, lane: Lane::Alerts });
    assert_eq!(world.offered(1, effects).len(), 1, "its task has it");
    let effects = world.step(Event::Want { output: 0, lane: Lane::Alerts });
    let near = world.offered(0, effects);
    let counts = DeliveryCounts { delivered: 1, ..DeliveryCounts::default() };
    world.step(Event::Delivered { output: 0, lane: Lane::Alerts, upto: near[0].0, counts, token: 0 });
    world.step(Event::Failing { output: 1 });
    for _ in 0..3 {
        no_room(&mut world);
        let below = freed(&world.sync()).unwrap_or_default();
        assert!(below[Lane::Alerts as usize] <= alert.segment, "{below:?}");
        world.pass(60 * S);
    }
    world.restart(Some(&state));
    let effects = world.step(Event::Want { output: 1, lane: Lane::Alerts });
    assert_eq!(world.offered(1, effects).len(), 1, "after a crash too");
    world.balances();
}

#[test]
fn on_a_full_disk_memory_stays_bounded_for_a_dead_output_and_collection_goes_on() {
    let mut world = World::new(small());
    world.step(Event::Failing { output: 1 });
    for _ in 0..2000 {
        let effects = world.take(&[1.0, 2.0, 3.0, 4.0]);
        keeps_up(&mut world, 0, effects);
        if let Some(number) = world.core.checkpoint.running {
            let effects = world.step(failed(number, true));
            keeps_up(&mut world, 0, effects);
            let effects = world.sync();
            keeps_up(&mut world, 0, effects);
        }
        assert!(
            world.core.wants_batches() && !world.core.holds_back(),
            "{} {} {:?}",
            world.core.waiting.bytes(),
            world.core.holds_back(),
            world.core.checkpoint
        );
    }
    assert!(world.core.waiting.bytes() <= 100 << 10, "{} bytes", world.core.waiting.bytes());
    assert!(world.line(1).expired_disk > 0);
    assert_eq!(world.line(0).expired_disk, 0);
    assert!(world.line(0).delivered >= 7990, "{:?}", world.line(0));
    world.balances();
}

#[test]
fn failed_checkpoints_are_tried_again_ever_more_slowly_and_logged_once() {
    let mut world = World::new(spec());
    world.take(&[1.0]);
    world.step(Event::Checkpoint);
    world.sync();
    let (mut tries, mut logged) = (0, 0);
    for second in 0..600 {
        if let Some(number) = world.core.checkpoint.running {
            tries += 1;
            let effects = world.step(failed(number, false));
            logged += effects.iter().filter(|e| matches!(e, Effect::Log { .. })).count();
            world.sync();
        }
        world.pass(S);
        world.step(Event::Time);
        if second == 2 {
            assert!((2..=3).contains(&tries), "{tries} tries in the first seconds");
        }
    }
    assert!((12..=18).contains(&tries), "{tries} tries in ten minutes");
    assert_eq!(logged, 1);
    world.pass(60 * S);
    let effects = world.step(Event::Time);
    let number = world.core.checkpoint.number;
    let effects = if checkpoints(&effects) > 0 { effects } else { world.step(Event::Checkpoint) };
    assert_eq!(checkpoints(&effects), 1);
    world.sync();
    let places = vec![OutboxPlace { segment: 1, offset: 0, bytes: 9 }];
    let effects = world.step(Event::CheckpointDone { number, outbox: places, journal_used: 0 });
    let over = effects.iter().find_map(|e| if let Effect::Log { message, .. } = e { Some(message.clone()) } else { None });
    assert_eq!(over, Some(format!("checkpoints get through again, {tries} had failed")));
}
