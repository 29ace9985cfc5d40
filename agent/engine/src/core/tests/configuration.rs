//! An edited configuration: killed or stopped, what was taken in before the edit is computed as it was configured then.

use super::*;
use crate::spec::{Aggregate, WindowSpec};

fn window(name: &str, every: i64) -> WindowSpec {
    WindowSpec {
        name: name.into(),
        every,
        period: every,
        align: 0,
        by: None,
        fields: Vec::new(),
        filter: Filter::default(),
        aggregates: vec![Aggregate::Count],
        lateness: 0,
        allowed_lateness: 0,
        reemit_every: 0,
        drop_original: true,
        name_override: None,
        result_fields: false,
        time_is_end: false,
    }
}

fn before() -> EngineSpec {
    let mut spec = spec();
    spec.windows = vec![window("kept", 2 * S), window("changed", 3 * S)];
    spec.alerts.push(AlertSpec {
        name: "cold".into(),
        when: Expr::parse("v < -100").unwrap(),
        level_actions: Vec::new(),
        ..spec.alerts[0].clone()
    });
    spec
}

/// A window means something else, an alert is new, one is gone, the outputs have changed places and one of them its name.
fn after() -> EngineSpec {
    let mut spec = before();
    spec.windows[1].every = 4 * S;
    spec.windows[1].period = 4 * S;
    spec.windows.reverse();
    spec.alerts[1].name = "odd".into();
    spec.alerts[1].when = Expr::parse("v == 3").unwrap();
    spec.outputs.reverse();
    spec.outputs[0].name = "farther".into();
    spec.inputs.insert(0, InputSpec { name: "other".into(), window_messages: 0, ..InputSpec::default() });
    spec
}

fn feed(world: &mut World, seconds: std::ops::Range<i64>) {
    for second in seconds {
        world.take(&[second as f64]);
        world.pass(S - world.spec.storage.commit_interval);
    }
}

/// The world at an edit: `edit` brings the new configuration in force.
fn edited(edit: impl Fn(&mut World, &[u8])) -> World {
    let mut world = World::new(before());
    feed(&mut world, 0..5);
    let state = world.checkpoint();
    feed(&mut world, 5..10);
    edit(&mut world, &state);
    world
}

fn killed(world: &mut World, state: &[u8]) {
    world.spec = Arc::new(after());
    world.restart(Some(state));
}

fn stopped(world: &mut World, _: &[u8]) {
    let state = world.checkpoint();
    world.spec = Arc::new(after());
    world.restart(Some(&state));
}

/// All that leaves from here on, output by output.
fn rest(mut world: World) -> (Vec<Vec<f64>>, u64, u64) {
    world.batch_input = 1;
    feed(&mut world, 10..30);
    let outputs = (0..2).map(|output| world.drain(output)).collect();
    world.balances();
    (outputs, world.core.digest(), world.core.ledger().records)
}

#[test]
fn a_kill_before_an_edit_costs_no_more_than_a_stop() {
    let (killed, stopped) = (rest(edited(killed)), rest(edited(stopped)));
    assert!(killed.0[0].len() > 10, "{killed:?}");
    assert!(killed.0[0].len() < killed.0[1].len(), "the output with a new name gets what came after the edit");
    assert_eq!(killed.0, stopped.0);
}

#[test]
fn a_second_kill_before_any_checkpoint_replays_the_edit_where_it_was_made() {
    let twice = rest(edited(|world, state| {
        killed(world, state);
        world.restart(Some(state));
    }));
    assert_eq!(twice, rest(edited(killed)));
}

#[test]
fn without_any_checkpoint_the_journal_says_what_was_running() {
    let mut world = World::new(before());
    feed(&mut world, 0..10);
    let expected = rest(edited(killed));
    world.spec = Arc::new(after());
    world.restart(None);
    assert_eq!(rest(world).0, expected.0);
}

#[test]
fn an_output_is_known_as_long_as_it_stays_configured_and_what_it_had_is_remembered() {
    let known = |world: &World| (0..world.spec.outputs.len() as u16).map(|o| world.core.output_resume(o).known).collect::<Vec<_>>();
    let (both, mut one) = (Arc::new(spec()), spec());
    one.outputs.truncate(1);
    let mut world = World::new(spec());
    assert_eq!(known(&world), [false, false], "a first start");
    world.take(&[1.0]);
    world.restart(None);
    assert_eq!(known(&world), [true, true], "the journal has everything");
    let state = world.checkpoint();
    world.spec = Arc::new(one);
    world.restart(Some(&state));
    assert_eq!(known(&world), [true]);
    world.take(&[2.0]);
    let state = world.checkpoint();
    world.spec = both;
    world.restart(Some(&state));
    assert_eq!(known(&world), [true, false], "one was not there for a while");
    world.take(&[3.0]);
    world.restart(Some(&state));
    assert_eq!(known(&world), [true, true]);
    world.blocks.remove(0);
    world.restart(None);
    assert_eq!(known(&world), [false, false], "what says how far they had come is gone in part");
}

#[test]
fn an_edit_that_is_taken_back_leaves_the_old_state_untouched_where_the_names_lived_on() {
    let mut world = edited(killed);
    world.spec = Arc::new(before());
    let blocks = world.blocks.clone();
    let state = {
        let state = world.checkpoint();
        world.restart(Some(&state));
        state
    };
    assert!(!state.is_empty() && !blocks.is_empty());
    let counts = world.core.ledger();
    let kept = counts.operators.iter().find(|o| o.name == "kept").unwrap();
    assert_eq!(kept.counts.applied, 10);
}

#[test]
fn the_log_says_what_an_edit_costs() {
    let world = edited(killed);
    let log = world.log.join("\n");
    for words in ["\"changed\" starts anew", "\"cold\" is dropped", "results that waited for \"far\" are dropped"] {
        assert!(log.contains(words), "{words}: {log}");
    }
}

#[test]
fn a_configuration_comes_back_from_its_bytes_as_it_was() {
    let mut spec = after();
    spec.alerts[0].when = Expr::parse(&format!("not ({}v > 1{})", "(".repeat(60), ")".repeat(60))).unwrap();
    spec.alerts[0].clear = Some(Expr::parse(&(0..80).map(|n| format!("v == {n}.5")).collect::<Vec<_>>().join(" or ")).unwrap());
    assert_eq!(EngineSpec::from_bytes(&spec.to_bytes()).unwrap(), spec);
    assert!(
        EngineSpec::from_bytes(b"").is_err() && EngineSpec::from_bytes(b"\x01{").is_err() && EngineSpec::from_bytes(b"\x02{}").is_err()
    );
}

#[test]
fn a_configuration_from_before_panes_had_a_bound_together_is_replayed_without_one() {
    let text = String::from_utf8(after().to_bytes()).unwrap();
    let old = text.replace("\"panes_bytes_max\":67108864,", "");
    assert_ne!(old, text);
    assert_eq!(EngineSpec::from_bytes(old.as_bytes()).unwrap().limits.panes_bytes_max, u32::MAX as usize);
}

#[test]
fn a_state_that_does_not_say_whose_it_is_belongs_to_the_configuration_of_today() {
    let mut world = World::new(before());
    feed(&mut world, 0..5);
    let state = world.checkpoint();
    let spec = world.spec.to_bytes();
    let mut old = vec![2];
    let length = 1 + state[1..].windows(spec.len()).position(|bytes| bytes == spec).unwrap() + spec.len();
    // Nothing was thinned and nothing seen: those parts are empty.
    assert_eq!(state[length..length + 2], [0, 0]);
    old.extend_from_slice(&state[length + 2..]);
    assert_eq!(crate::core::state::spec_of(&state).unwrap().as_ref(), Some(&*world.spec));
    assert_eq!(crate::core::state::spec_of(&old).unwrap(), None);
    world.spec = Arc::new(after());
    world.restart(Some(&old));
    let counts = world.core.ledger();
    assert_eq!(counts.operators.iter().find(|o| o.name == "kept").unwrap().counts.applied, 5);
    // From here on it says so.
    let blocks = world.blocks.len();
    world.restart(Some(&old));
    assert_eq!(world.blocks.len(), blocks, "the journal has it");
}

#[test]
fn a_tail_of_a_version_with_other_results_is_replayed_and_said_and_from_then_on_it_is_this_ones() {
    let mut old = before();
    old.results_version = 0;
    let mut world = World::new(old);
    feed(&mut world, 0..3);
    let state = world.checkpoint();
    feed(&mut world, 3..5);
    let tail = std::mem::take(&mut world.blocks);
    world.spec = Arc::new(before());
    let edits = crate::operators::edit::edits(&crate::core::state::spec_of(&state).unwrap().unwrap(), &world.spec);
    assert_eq!((edits[0].kind, edits[0].name.as_str()), ("agent", "upgrade"));
    assert!(edits[1..].iter().all(|edit| edit.fate == crate::operators::edit::Fate::Keeps), "{edits:?}");
    let said = |world: &World| world.log.iter().filter(|line| line.contains("other results")).count();
    // A clean stop leaves no tail: there is nothing to say.
    world.restart(Some(&state));
    assert_eq!(said(&world), 0);
    world.blocks = tail;
    world.restart(Some(&state));
    assert_eq!((said(&world), world.core.ledger().inputs[0].recorded), (1, 5));
    // The journal has the upgrade: it is not said again.
    world.restart(Some(&state));
    assert_eq!(said(&world), 1);
    let state = world.checkpoint();
    assert_eq!(crate::core::state::spec_of(&state).unwrap().unwrap().results_version, crate::spec::RESULTS_VERSION);
}
