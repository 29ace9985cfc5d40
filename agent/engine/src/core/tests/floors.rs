//! What a start goes by that finds no state: no window is sent again with fewer points than it had.

use super::*;
use crate::spec::{Aggregate, WindowSpec};

type Journal = Vec<(BlockNumber, BlockMeta, Vec<u8>)>;

const MINUTE: i64 = 60 * S;

/// Sums by the minute that late points re-open for long, at the beginning of a minute.
fn world() -> World {
    let window = WindowSpec {
        name: "w".into(),
        every: MINUTE,
        period: MINUTE,
        align: 0,
        by: None,
        fields: Vec::new(),
        filter: Filter::default(),
        aggregates: vec![Aggregate::Sum],
        lateness: 0,
        allowed_lateness: 60 * MINUTE,
        reemit_every: 0,
        drop_original: true,
        name_override: None,
        result_fields: false,
        time_is_end: false,
    };
    // Nothing is sent early.
    let time = crate::spec::TimeSpec { idle_after: 60 * MINUTE, ..crate::spec::TimeSpec::default() };
    let mut world = World::new(EngineSpec { windows: vec![window], alerts: Vec::new(), levels: Vec::new(), time, ..spec() });
    world.pass(MINUTE - (EPOCH + S) % MINUTE);
    world
}

/// A point so old, and what an output gets by it.
fn send(world: &mut World, age: i64, value: f64) -> Vec<f64> {
    world.age = age;
    let mut effects = world.take(&[value]);
    world.age = 0;
    let mut values = Vec::new();
    loop {
        let points = world.offered(0, effects);
        if points.is_empty() {
            return values;
        }
        values.extend(points.iter().map(|(_, value)| *value));
        effects = world.delivered(0, &points);
        effects.extend(world.step(Event::Want { output: 0, lane: Lane::Results }));
    }
}

/// One point of each of three minutes, each delivered as soon as it can be, a checkpoint after each; what the journal had before each.
fn three_minutes(world: &mut World) -> Vec<Journal> {
    let mut journals = Vec::new();
    world.step(Event::Want { output: 0, lane: Lane::Results });
    for value in [1.0, 2.0, 4.0] {
        send(world, 0, value);
        journals.push(world.blocks.clone());
        world.checkpoint();
        world.pass(MINUTE - 200 * MS);
    }
    journals.push(world.blocks.clone());
    journals
}

/// A start that finds nothing but these blocks, and an output that is there.
fn lose_states(world: &mut World, blocks: Journal, had_state: bool) {
    start_with(world, blocks, had_state);
    world.step(Event::Want { output: 0, lane: Lane::Results });
}

/// A start that finds nothing but these blocks.
fn start_with(world: &mut World, blocks: Journal, had_state: bool) {
    world.blocks = blocks;
    world.core = Core::new(Arc::clone(&world.spec), world.now);
    let journal = world.blocks.iter().map(|(_, meta, bytes)| (meta.clone(), bytes.as_slice()));
    world.core.start_above(world.now, journal, had_state);
    for (_, meta, bytes) in &world.blocks {
        world.core.replay(meta, bytes).unwrap();
    }
    world.announced = false;
    world.begin();
}

/// What an output gets when a point so old comes, and after the next minute.
fn after(world: &mut World, age: i64, value: f64) -> Vec<f64> {
    let mut got = send(world, age, value);
    world.pass(MINUTE);
    got.extend(send(world, 0, 128.0));
    got
}

#[test]
fn a_late_point_is_added_to_what_was_sent_while_there_is_a_state() {
    let mut world = world();
    three_minutes(&mut world);
    assert_eq!(after(&mut world, 2 * MINUTE, 16.0), [18.0, 4.0]);
}

#[test]
fn without_a_state_a_window_that_was_sent_stays_as_it_is() {
    let mut world = world();
    let journals = three_minutes(&mut world);
    lose_states(&mut world, [journals[2].clone(), journals[3].clone()].concat(), true);
    let late = |world: &World| world.core.ledger().operators[0].counts.late;
    assert_eq!(late(&world), 0, "of the third minute everything is there");
    assert_eq!(after(&mut world, 2 * MINUTE, 16.0), [4.0]);
    assert_eq!(late(&world), 1);
    assert_eq!(after(&mut world, 0, 32.0), [160.0], "it goes on as before");
}

#[test]
fn records_that_are_left_of_long_ago_do_not_stand_for_what_is_missing_behind_them() {
    let mut world = world();
    let journals = three_minutes(&mut world);
    world.take(&[8.0]);
    let newest = world.blocks.clone();
    // The second minute and the third are gone, the first one is not.
    lose_states(&mut world, [journals[0].clone(), newest].concat(), true);
    for (age, value) in [(3 * MINUTE, 16.0), (2 * MINUTE, 32.0), (MINUTE, 64.0)] {
        assert_eq!(send(&mut world, age, value), Vec::<f64>::new());
    }
    assert_eq!(after(&mut world, 0, 16.0), [24.0]);
}

#[test]
fn where_nothing_says_how_far_windows_had_come_they_begin_behind_the_present_and_so_they_do_the_next_time() {
    let mut world = world();
    three_minutes(&mut world);
    lose_states(&mut world, Vec::new(), true);
    assert_eq!(after(&mut world, 0, 16.0), Vec::<f64>::new(), "the minute may have had others");
    world.take(&[32.0]);
    let blocks = world.blocks.clone();
    lose_states(&mut world, blocks, true);
    world.pass(MINUTE);
    assert_eq!(send(&mut world, 0, 1.0), [160.0], "everything of that minute is there");
}

/// Points of these series, as old as that, in a batch: 0 and 1 are of devices of their own, 2 is one of the second device that no window takes.
/// What an output gets by it.
fn send_of(world: &mut World, points: &[(u32, i64, f64)]) -> Vec<f64> {
    let cell = |(series, age, value): &(u32, i64, f64)| Cell {
        series: *series,
        field: 0,
        kind: Kind::Float as u8,
        flags: Cell::START,
        time: world.now.wall - age,
        value: value.to_bits(),
    };
    world.number += 1;
    let read = points.len() as u64;
    let mut batch = Batch {
        number: world.number,
        read_at: world.now.steady,
        counts: InputCounts { read, ..InputCounts::default() },
        cells: points.iter().map(cell).collect(),
        points: points.len() as u32,
        ..Batch::default()
    };
    if !std::mem::replace(&mut world.announced, true) {
        for (measurement, device) in [("m", "a"), ("m", "b"), ("other", "b")] {
            batch.new_series.push(Arc::new(Series::from_parts(measurement, &[("device", device)])));
            batch.new_partitions.push(device.into());
        }
        batch.new_fields.push("v".into());
    }
    let mut effects = world.step(Event::Batch { input: 0, batch });
    effects.extend(world.commit());
    world.offered(0, effects).into_iter().map(|(_, value)| value).collect()
}

/// A world whose windows take one measurement of two.
fn world_with(limits: crate::spec::Limits, by: Option<Vec<String>>) -> World {
    let mut spec = (*world().spec).clone();
    let filter = filter(vec!["m".into()], BTreeMap::new());
    spec.windows[0] = WindowSpec { filter, allowed_lateness: 0, by, ..spec.windows[0].clone() };
    let mut world = World::new(EngineSpec { limits, ..spec });
    world.pass(MINUTE - (EPOCH + S) % MINUTE);
    world
}

/// The journal since a checkpoint by which a point of the first device had come, and what it makes of these two minutes later; all of it is
/// delivered.
fn since_a_checkpoint(world: &mut World, points: &[(u32, i64, f64)]) -> (Journal, Vec<f64>) {
    send_of(world, &[(0, 0, 1.0)]);
    world.checkpoint();
    world.pass(2 * MINUTE);
    send_of(world, points);
    (world.blocks.clone(), world.drain(0))
}

#[test]
fn without_a_state_no_window_is_sent_that_lacks_a_point_for_want_of_room() {
    let limits = crate::spec::Limits { panes_bytes_max: 1, ..crate::spec::Limits::default() };
    let mut world = world_with(limits, None);
    // There is room for one pane, which the first device had. Without that the second one takes it, and leaves it too late.
    let points = [(1, MINUTE, 2.0), (0, MINUTE, 4.0), (2, 0, 0.0), (0, MINUTE, 8.0), (0, 0, 16.0)];
    let (journal, before) = since_a_checkpoint(&mut world, &points);
    assert_eq!(before, [2.0, 1.0, 0.0, 12.0], "what finds no room is passed on");
    start_with(&mut world, journal, true);
    assert!(world.drain(0).iter().all(|sum| [0.0, 2.0].contains(sum)), "the twelve stay as they are");
    world.pass(MINUTE);
    assert_eq!(send_of(&mut world, &[(0, 0, 32.0)]), [16.0], "it goes on as before");
}

#[test]
fn without_a_state_no_window_is_sent_that_closes_before_a_device_it_would_have_waited_for() {
    let mut world = world_with(crate::spec::Limits::default(), Some(Vec::new()));
    // The first device is behind, and all of them make one group: with a state it is known from the beginning that it is there.
    let points = [(1, MINUTE, 2.0), (1, 0, 4.0), (0, MINUTE, 8.0), (0, 0, 16.0)];
    let (journal, before) = since_a_checkpoint(&mut world, &points);
    assert_eq!(before, [1.0, 10.0]);
    start_with(&mut world, journal, true);
    assert_eq!(world.drain(0), Vec::<f64>::new());
    world.pass(MINUTE);
    assert_eq!(send_of(&mut world, &[(0, 0, 32.0), (1, 0, 64.0)]), [20.0], "it goes on as before");
}

#[test]
fn without_a_state_no_window_is_sent_that_lacks_a_value_of_another_type_than_came_first() {
    let mut spec = (*world_with(crate::spec::Limits::default(), None).spec).clone();
    spec.windows[0].aggregates = vec![Aggregate::Sum, Aggregate::Last];
    let mut world = World::new(spec);
    world.pass(MINUTE - (EPOCH + S) % MINUTE);
    send_of(&mut world, &[(0, 0, 1.0)]);
    world.checkpoint();
    world.pass(2 * MINUTE);
    // What comes first behind the checkpoint is a text, which the window has had numbers before.
    world.number += 1;
    let mut text = Vec::new();
    let (kind, value) = Cell::encode_value(weir_plugin_api::Value::Text("?"), &mut text);
    let time = world.now.wall - MINUTE;
    let cells = vec![Cell { series: 0, field: 0, kind: kind as u8, flags: Cell::START, time, value }];
    let counts = InputCounts { read: 1, ..InputCounts::default() };
    let batch = Batch { number: world.number, read_at: world.now.steady, counts, cells, text, points: 1, ..Batch::default() };
    world.step(Event::Batch { input: 0, batch });
    world.commit();
    send_of(&mut world, &[(0, MINUTE, 2.0), (0, MINUTE, 4.0), (0, 0, 16.0)]);
    assert_eq!(world.drain(0).last(), Some(&6.0));
    let journal = world.blocks.clone();
    start_with(&mut world, journal, true);
    assert_eq!(world.drain(0), Vec::<f64>::new());
}

#[test]
fn a_journal_that_was_damaged_before_there_was_a_state_costs_what_is_damaged() {
    let mut world = world();
    world.take(&[1.0]);
    world.take(&[2.0]);
    let mut blocks = world.blocks.clone();
    blocks.remove(0);
    lose_states(&mut world, blocks, false);
    assert_eq!(after(&mut world, 0, 16.0), [19.0]);
}

#[test]
fn floors_are_written_once_for_each_checkpoint_and_only_with_something_else() {
    let mut world = world();
    three_minutes(&mut world);
    let state = world.checkpoint();
    assert!(world.blocks.is_empty(), "a checkpoint by itself writes nothing behind it");
    world.restart(Some(&state));
    world.take(&[8.0]);
    world.take(&[16.0]);
    let count = |blocks: &Journal| {
        let (mut table, mut floors) = (SeriesTable::new(10), Vec::new());
        for (_, meta, bytes) in blocks {
            let note = |sequence, _, record: &crate::record::Record<'_>, _: &SeriesTable| {
                if matches!(record, crate::record::Record::Floors { .. }) {
                    floors.push(sequence == meta.first_record);
                }
            };
            crate::codec::record::decode(meta, bytes, 0, &mut table, &[], &[], note).unwrap();
        }
        floors
    };
    assert_eq!(count(&world.blocks), [true]);
    world.restart(Some(&state));
    world.take(&[32.0]);
    assert_eq!(count(&world.blocks), [true], "the journal has them");
}

/// A reading without a time of its own, and what an output gets by it, with the identities.
fn read(world: &mut World, value: f64) -> Vec<(Identity, f64)> {
    let flags = Cell::START | Cell::UNTIMED;
    let cells = vec![Cell { series: 0, field: 0, kind: Kind::Float as u8, flags, time: world.now.steady, value: value.to_bits() }];
    world.number += 1;
    let counts = InputCounts { read: 1, ..InputCounts::default() };
    let mut batch = Batch { number: world.number, read_at: world.now.steady, counts, cells, points: 1, ..Batch::default() };
    if !std::mem::replace(&mut world.announced, true) {
        batch.new_series.push(Arc::new(Series::from_parts("m", &[("device", "a")])));
        batch.new_partitions.push("a".into());
        batch.new_fields.push("v".into());
    }
    let mut effects = world.step(Event::Batch { input: 0, batch });
    effects.extend(world.commit());
    let points = world.offered(0, effects);
    if !points.is_empty() {
        world.delivered(0, &points);
        world.step(Event::Want { output: 0, lane: Lane::Results });
    }
    points
}

/// Of readings without a time what is left of the journal makes the same, of the same identities, also in another boot, and behind records
/// of a boot long ago.
fn readings_without_a_time(windows: bool, long_ago: bool, another_boot: bool) {
    let mut spec = (*world().spec).clone();
    if !windows {
        spec.windows.clear();
    }
    let mut world = World::new(spec);
    world.pass(MINUTE - (EPOCH + S) % MINUTE);
    world.step(Event::Want { output: 0, lane: Lane::Results });
    let mut before = read(&mut world, 1.0);
    let mut journal = world.blocks.clone();
    let state = world.checkpoint();
    if long_ago {
        world.pass(MINUTE);
        world.now.steady = S;
        world.restart(Some(&state));
        world.step(Event::Want { output: 0, lane: Lane::Results });
        before.extend(read(&mut world, 8.0));
        world.checkpoint();
    } else {
        journal.clear();
    }
    for value in [2.0, 4.0] {
        world.pass(MINUTE);
        before.extend(read(&mut world, value));
    }
    assert!(before.len() >= 2, "{before:?}");
    journal.extend(world.blocks.clone());
    if another_boot {
        world.pass(S);
        world.now.steady = S;
    }
    start_with(&mut world, journal, true);
    world.commit();
    let again = world.want(0);
    assert!(again.iter().all(|point| before.contains(point)), "{again:?} is not of {before:?}");
    if !again.is_empty() {
        world.delivered(0, &again);
        world.step(Event::Want { output: 0, lane: Lane::Results });
    }
    world.pass(MINUTE);
    let sums: Vec<f64> = read(&mut world, 128.0).into_iter().map(|(_, value)| value).collect();
    assert_eq!(sums, [if windows { 4.0 } else { 128.0 }], "it goes on as before");
}

#[test]
fn without_a_state_readings_without_a_time_are_dated_as_they_were() {
    for case in 0..8 {
        readings_without_a_time(case & 1 != 0, case & 2 != 0, case & 4 != 0);
    }
}

#[test]
fn without_a_state_no_window_is_sent_that_lacks_a_reading_that_waited_for_a_clock() {
    let mut world = world();
    world.step(Event::Want { output: 0, lane: Lane::Results });
    (world.now.wall, world.now.quality) = (world.now.steady, ClockQuality::Unset);
    world.step(Event::Time);
    read(&mut world, 1.0);
    world.checkpoint();
    read(&mut world, 2.0);
    (world.now.wall, world.now.quality) = ((EPOCH / MINUTE + 10) * MINUTE + 30 * S, ClockQuality::Synced);
    world.step(Event::Time);
    world.pass(MINUTE);
    let sums = |points: Vec<(Identity, f64)>| points.into_iter().map(|(_, value)| value).collect::<Vec<_>>();
    assert_eq!(sums(read(&mut world, 4.0)), [3.0]);
    let journal = world.blocks.clone();
    start_with(&mut world, journal, true);
    world.commit();
    assert_eq!(sums(world.want(0)), Vec::<f64>::new());
    world.pass(MINUTE);
    assert_eq!(sums(read(&mut world, 8.0)), [4.0], "it goes on as before");
}
