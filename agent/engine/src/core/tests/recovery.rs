//! What a restart finds: cursors, damage, destinations that know better.

use weir_plugin_api::{plugin::OutputResume, position::MessageId};

use super::*;
use crate::core::summary::StateSummary;

#[test]
fn results_that_were_delivered_are_not_offered_again_after_a_crash() {
    let mut world = World::new(spec());
    world.take(&[1.0, 2.0, 3.0]);
    let points = world.want(0);
    world.delivered(0, &points[..2]);
    world.take(&[4.0]);
    world.restart(None);
    assert_eq!(world.drain(0), [3.0, 4.0]);
    assert_eq!(world.drain(1), [1.0, 2.0, 3.0, 4.0]);
    world.balances();
}

/// An input keeps a message in one batch: whichever blocks a crash leaves, its points are there with its position or not at all.
#[test]
fn a_large_message_survives_a_crash_as_a_whole_or_not_at_all() {
    const POINTS: usize = 9000;
    let values: Vec<f64> = (0..POINTS).map(|n| n as f64 / 1000.0).collect();
    let message = |id| Position::Messages { session: 1, ids: vec![MessageId { id, hash: u32::from(id) }] };
    let mut world = World::new(spec());
    for id in 1..=4 {
        world.batch(message(id), &values);
        world.pass(200 * MS);
        world.step(Event::Time);
        world.sync();
    }
    let blocks = world.blocks.clone();
    assert!(blocks.len() > 2, "the crash has places to be");
    for left in 0..=blocks.len() {
        world.blocks = blocks[..left].to_vec();
        world.restart(None);
        let known = world.core.resume(0).messages.len();
        assert_eq!(world.core.ledger().inputs[0].recorded, (known * POINTS) as u64, "{left} blocks");
        assert_eq!(world.drain(0).len(), known * POINTS);
        world.balances();
    }
}

/// The store frees the journal, and reads it again, by what the checkpoint says.
#[test]
fn a_checkpoint_says_up_to_which_record_its_state_is() {
    let mut world = World::new(spec());
    world.take(&[1.0]);
    let effects = world.step(Event::Checkpoint);
    let said = effects.iter().find_map(|e| if let Effect::Checkpoint { upto_record, .. } = e { Some(*upto_record) } else { None });
    let state = world.write_checkpoint(effects);
    world.restart(Some(&state));
    let restored = Core::restore(Arc::clone(&world.spec), &state, &[], world.now).unwrap();
    assert_eq!(Some(restored.last_record()), said);
}

#[test]
fn a_state_keeps_the_generations_of_repeatable_messages() {
    let mut world = World::new(spec());
    for id in 1..=4 {
        world.batch(Position::Messages { session: 1 << 32 | u64::from(id / 2), ids: vec![MessageId { id, hash: 7 }] }, &[1.0]);
    }
    let before = world.core.resume(0).clone();
    assert_eq!(before.messages.generations().count(), 3);
    let state = world.checkpoint();
    world.restart(Some(&state));
    assert_eq!(*world.core.resume(0), before);
}

#[test]
fn results_in_the_state_come_back_before_those_of_the_journal() {
    let mut world = World::new(spec());
    world.take(&[1.0, 2.0]);
    let state = world.checkpoint();
    world.take(&[3.0]);
    world.restart(Some(&state));
    assert_eq!(world.drain(0), [1.0, 2.0, 3.0]);
    world.balances();
}

#[test]
fn a_destination_that_knows_better_is_believed_within_a_chunk_and_the_ledger_says_so() {
    let mut world = World::new(spec());
    world.take(&[1.0, 2.0, 3.0]);
    let state = world.checkpoint();
    world.take(&[4.0, 5.0]);
    let all: Vec<_> = [world.want(0), world.want(0)].concat();
    assert_eq!(all.len(), 5);
    for (known, left) in [(1, vec![3.0, 4.0, 5.0]), (2, vec![4.0, 5.0]), (3, vec![5.0]), (4, vec![])] {
        world.restart(Some(&state));
        world.core.set_output_cursor(0, OutputResume { results: all[known].0, ..OutputResume::default() });
        assert_eq!(world.drain(0), left, "up to {known}");
        assert_eq!(world.line(0).delivered, 5);
        assert_eq!(world.line(0).waiting(), 0);
        world.balances();
    }
}

#[test]
fn without_a_state_what_waits_in_the_outbox_is_kept_once() {
    let mut world = World::new(spec());
    world.take(&[1.0, 2.0]);
    let blocks = world.blocks.clone();
    world.take(&[3.0]);
    let points = world.want(0);
    world.delivered(0, &points[..2]);
    let tail = world.blocks[blocks.len()..].to_vec();
    world.checkpoint();
    world.take(&[4.0]);
    // The journal of the generation before is left, not its beginning; of the rest all but the states.
    let newest = world.blocks.last().map_or(0, |(_, meta, _)| meta.first_record + u64::from(meta.records) - 1);
    let found: Vec<_> = world
        .outbox
        .iter()
        .map(|(place, b)| (FoundBlock { lane: b.lane, place: *place, first: b.first, points: b.points }, Some(b.bytes.clone())))
        .collect();
    let journal: Vec<_> = tail.into_iter().chain(std::mem::take(&mut world.blocks)).collect();
    world.core = Core::new(Arc::clone(&world.spec), world.now);
    world.core.adopt_outbox(found, newest);
    for (_, meta, bytes) in &journal {
        world.core.replay(meta, bytes).unwrap();
    }
    world.core.note_damage(journal[0].1.first_record - 1, 0);
    world.step(Event::Time);
    world.balances();
    assert_eq!(world.drain(1), [1.0, 2.0, 3.0, 4.0], "nobody had taken any");
    assert_eq!(world.drain(0).last(), Some(&4.0));
    world.balances();
}

#[test]
fn a_destination_that_knows_better_while_a_checkpoint_fails_is_believed_too() {
    let mut world = World::new(spec());
    world.take(&[1.0, 2.0, 3.0]);
    let all = world.want(0);
    world.restart(None);
    // On their way to the outbox while it says so, and back in memory before anybody has read them there.
    let effects = world.step(Event::Checkpoint);
    let number = effects.iter().find_map(|e| if let Effect::Checkpoint { number, .. } = e { Some(*number) } else { None });
    world.core.set_output_cursor(0, OutputResume { results: all[1].0, ..OutputResume::default() });
    world.step(Event::Time);
    world.step(Event::CheckpointFailed { number: number.unwrap(), no_space: false, reason: "disk".into() });
    world.sync();
    assert_eq!(world.drain(0), [3.0]);
    assert_eq!((world.line(0).delivered, world.line(0).waiting()), (3, 0));
    world.balances();
}

#[test]
fn a_destination_that_knows_of_results_we_never_made_skips_none_of_ours() {
    let mut world = World::new(spec());
    let future = Identity { record: 1000, ordinal: 0 };
    world.core.set_output_cursor(0, OutputResume { results: future, ..OutputResume::default() });
    world.take(&[1.0]);
    assert_eq!(world.drain(0), [1.0]);
}

#[test]
fn a_state_can_be_read_without_its_configuration() {
    let mut world = World::new(spec());
    world.take(&[1.0, 2.0]);
    let points = world.want(0);
    world.delivered(0, &points[..1]);
    world.take(&[3.0]);
    let state = world.checkpoint();
    let summary = StateSummary::read(&state).expect("it is whole");
    let names = |named: Vec<&String>| named.into_iter().cloned().collect::<Vec<_>>();
    assert_eq!(names(summary.inputs.iter().map(|i| &i.name).collect()), names(world.spec.inputs.iter().map(|i| &i.name).collect()));
    assert_eq!(names(summary.outputs.iter().map(|o| &o.name).collect()), names(world.spec.outputs.iter().map(|o| &o.name).collect()));
    assert_eq!(summary.inputs[0].recorded, 3);
    let cursor = &summary.outputs[0].cursors[1];
    assert_eq!((cursor.done, cursor.outstanding), (points[0].0, 2));
    assert!(!cursor.waits(points[0].0) && cursor.waits(points[1].0));
    assert_eq!(summary.stored.iter().map(|s| s.counts[1]).sum::<u32>(), 3, "{:?}", summary.stored);
    let kinds: Vec<_> = summary.operators.parts.iter().map(|p| p.kind).collect();
    let expected = [vec!["window"; world.spec.windows.len()], vec!["alert"; world.spec.alerts.len()]].concat();
    assert_eq!(kinds, expected);
    // Cut anywhere it is refused, never believed, and never a panic.
    for at in 0..state.len() {
        assert!(StateSummary::read(&state[..at]).is_err(), "{at}");
        for bit in 0..8 {
            let mut flipped = state.clone();
            flipped[at] ^= 1 << bit;
            let _ = StateSummary::read(&flipped);
        }
    }
}

#[test]
fn deliveries_of_results_whose_records_are_lost_leave_no_residue() {
    let mut world = World::new(spec());
    world.take(&[1.0, 2.0]);
    let points = world.want(0);
    world.delivered(0, &points);
    world.take(&[3.0]);
    let lost = world.blocks.iter().position(|(_, meta, _)| meta.points > 0).expect("a block of readings");
    let (_, lost, _) = world.blocks.remove(lost);
    world.restart(None);
    world.core.note_damage(u64::from(lost.records), u64::from(lost.points));
    let line = world.line(0);
    assert_eq!((line.routed, line.delivered, line.waiting()), (3, 2, 1));
    world.balances();
}

#[test]
fn a_damaged_outbox_block_costs_itself_only() {
    let mut world = World::new(spec());
    for first in [0.0, 10.0, 20.0] {
        world.take(&[first, first + 1.0]);
        world.checkpoint();
    }
    let second = *world.outbox.keys().nth(1).unwrap();
    world.outbox.get_mut(&second).unwrap().bytes[0] ^= 0xff;
    let first = world.want(0);
    // The first is still with the output's task when the damage is found.
    assert_eq!(world.want(0), [], "nothing behind a gap before the gap is durable");
    let effects = world.commit();
    let third = world.offered(0, effects);
    assert_eq!(third.iter().map(|(_, v)| *v).collect::<Vec<_>>(), [20.0, 21.0]);
    world.balances();
    world.delivered(0, &first);
    world.delivered(0, &third);
    let line = world.line(0);
    assert_eq!((line.delivered, line.lost_outbox, line.waiting()), (4, 2, 0));
    world.balances();
}

#[test]
fn a_damaged_outbox_block_that_two_outputs_wait_for_is_counted_once() {
    let mut world = World::new(spec());
    for first in [0.0, 10.0, 20.0] {
        world.take(&[first, first + 1.0]);
        world.checkpoint();
    }
    let second = *world.outbox.keys().nth(1).unwrap();
    world.outbox.get_mut(&second).unwrap().bytes[0] ^= 0xff;
    for output in 0..2u16 {
        let mut delivered = world.drain(output);
        // Whoever finds the damage waits until the gap is durable.
        let effects = world.commit();
        let behind = world.offered(output, effects);
        if !behind.is_empty() {
            delivered.extend(behind.iter().map(|(_, value)| *value));
            world.delivered(output, &behind);
        }
        assert_eq!(delivered, [0.0, 1.0, 20.0, 21.0], "output {output}");
        assert_eq!((world.line(usize::from(output)).lost_outbox, world.line(usize::from(output)).waiting()), (2, 0), "output {output}");
    }
    assert_eq!(world.core.ledger().damage.outbox_blocks, 1);
    world.balances();
}

#[test]
fn a_missing_outbox_block_costs_itself_only_and_is_counted_once() {
    let mut world = World::new(spec());
    let mut state = Vec::new();
    for first in [0.0, 10.0, 20.0] {
        world.take(&[first, first + 1.0]);
        state = world.checkpoint();
    }
    let second = *world.outbox.keys().nth(1).unwrap();
    world.outbox.remove(&second);
    for _ in 0..3 {
        world.restart(Some(&state));
        state = world.checkpoint();
        assert_eq!(world.core.ledger().damage.outbox_blocks, 1);
        world.balances();
    }
    assert_eq!(world.drain(0), [0.0, 1.0, 20.0, 21.0]);
    assert_eq!(world.line(0).lost_outbox, 2);
    world.balances();
}

#[test]
fn a_block_that_holds_other_points_than_the_state_says_is_damaged() {
    let mut world = World::new(spec());
    for first in [0.0, 10.0] {
        world.take(&[first]);
        world.checkpoint();
    }
    let places: Vec<_> = world.outbox.keys().copied().collect();
    let first = world.outbox[&places[0]].bytes.clone();
    world.outbox.get_mut(&places[1]).unwrap().bytes = first;
    assert_eq!(world.drain(0), [0.0]);
    assert_eq!(world.line(0).lost_outbox, 1);
    world.balances();
}

#[test]
fn an_output_that_is_gone_releases_what_waited_for_it() {
    let mut world = World::new(spec());
    world.take(&[1.0]);
    let state = world.checkpoint();
    let mut fewer = (*world.spec).clone();
    fewer.outputs.remove(1);
    world.spec = Arc::new(fewer);
    world.restart(Some(&state));
    assert_eq!(world.drain(0), [1.0]);
    assert!(world.core.waiting.lanes.iter().all(|l| l.stored.is_empty()));
    world.balances();
}

#[test]
fn a_place_in_the_middle_of_a_block_and_what_was_noted_with_it_stay_together() {
    let mut world = World::new(spec());
    world.take(&[1.0, 2.0]);
    world.checkpoint();
    world.take(&[3.0, 4.0, 5.0]);
    let mut state = world.checkpoint();
    let points = world.want(0).into_iter().chain(world.want(0)).collect::<Vec<_>>();
    world.restart(Some(&state));
    let resume = OutputResume { results: points[3].0, token: 7, ..OutputResume::default() };
    world.core.set_output_cursor(0, resume);
    world.take(&[6.0]);
    for _ in 0..2 {
        world.restart(Some(&state));
        let known = world.core.output_resume(0);
        assert_eq!((known.results, known.token), (points[3].0, 7), "one that goes by the number is not sent again what it has by then");
        state = world.checkpoint();
    }
    assert_eq!(world.drain(0), [5.0, 6.0]);
    world.balances();
}
