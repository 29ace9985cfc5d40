//! Snapshots: what they keep, what they drop, and what damage does.

use super::*;

fn busy() -> World {
    let hopping = WindowSpec {
        name: "long".into(),
        period: 30 * S,
        allowed_lateness: 30 * S,
        aggregates: vec![Aggregate::Percentile(500), Aggregate::First, Aggregate::Last],
        ..window()
    };
    let mut world = World::new(spec(vec![window(), hopping], vec![alert("t > 80")]));
    world.now = 50;
    for i in 0..40 {
        let lines = [format!("p m,d=a t={i},s=\"x{i}\" {i}"), format!("q m,d=b t={},b=true {i}", 60 + i)];
        world.batch(&[&lines[0], &lines[1]]);
    }
    world.take();
    world
}

#[test]
fn everything_goes_on_as_if_nothing_had_happened() {
    let (mut left, mut right) = (busy(), busy());
    left.restart();
    let lines = ["p m,d=a t=99,s=\"y\" 45", "q m,d=b t=3 50", "p m,d=a t=1 25", "p m,d=a t=2,s=\"z\" 80"];
    left.batch(&lines);
    right.batch(&lines);
    let taken = left.take();
    assert!(taken.len() > 5);
    assert_eq!(taken, right.take());
    assert_eq!(left.operators.levels(), right.operators.levels());
    left.restart();
    left.finish();
    right.finish();
    assert_eq!(left.take(), right.take());
    assert_eq!(left.operators.digest(&left.table), right.operators.digest(&right.table));
}

#[test]
fn held_points_and_firing_levels_survive() {
    let mut world = World::unset(spec(vec![window()], vec![alert("t > 80")]));
    world.now = 3;
    world.batch(&["p m t=81,s=\"text\""]);
    world.restart();
    assert_eq!(world.operators.levels(), [true]);
    assert_eq!(world.operators.counts().held, 1);
    world.take();
    world.clock(EPOCH, ClockQuality::Synced);
    world.finish();
    assert_eq!(world.take(), ["m t_count=1i,t_sum=81,s_count=1i 0"]);
}

#[test]
fn what_means_something_else_now_is_dropped_in_words_and_the_rest_lives_on() {
    let world = busy();
    let mut bytes = Vec::new();
    world.operators.snapshot(&world.table, &mut bytes);
    let changed = WindowSpec { every: 20 * S, period: 20 * S, ..window() };
    let renamed = WindowSpec { name: "other".into(), ..window() };
    let spec = Arc::new(spec(vec![renamed, changed], vec![AlertSpec { for_: 5 * S, ..alert("t > 80") }]));
    let mut table = SeriesTable::new(100);
    let (restored, dropped) = Operators::restore(spec, &bytes, &mut table).unwrap();
    assert_eq!(dropped.len(), 2);
    assert!(dropped[0].contains("\"w\"") && dropped[0].contains("changed"), "{dropped:?}");
    assert!(dropped[1].contains("\"long\"") && dropped[1].contains("no longer"), "{dropped:?}");
    assert_eq!(restored.levels(), [true]);
    assert_eq!(restored.counts(), world.operators.counts());
}

/// The world under another configuration.
fn edit(mut world: World, edited: EngineSpec) -> (World, Vec<String>) {
    let edited = Arc::new(edited);
    let mut table = SeriesTable::new(edited.limits.series_max);
    let (operators, dropped) = world.operators.migrated(&world.table, Arc::clone(&edited), &mut table).unwrap();
    (world.operators, world.table, world.spec) = (operators, table, edited);
    (world, dropped)
}

#[test]
fn a_window_that_starts_anew_replaces_no_result_that_was_sent() {
    let shorter = WindowSpec { every: 5 * S, period: 5 * S, ..window() };
    let renamed = WindowSpec { name: "other".into(), allowed_lateness: 30 * S, ..window() };
    let ends = WindowSpec { time_is_end: true, every: 20 * S, period: 20 * S, ..window() };
    for (edited, expected) in [
        (shorter, vec!["late m t=7,lag=2 23", "m t_count=1i,t_sum=7 25", "m t_count=1i,t_sum=1 30"]),
        (renamed, vec!["late m t=7,lag=7 23", "late m t=7,lag=4 26", "m t_count=1i,t_sum=1 30"]),
        (ends, vec!["m t_count=3i,t_sum=15 40"]),
    ] {
        let mut world = World::new(spec(vec![window()], vec![]));
        world.now = 100;
        world.batch(&["p m t=1 1", "p m t=2 12", "p m t=3 24", "p m t=4 31"]);
        assert_eq!(world.take().len(), 3, "0, 10 and 20 were sent");
        let (mut world, dropped) = edit(world, spec(vec![edited], vec![]));
        assert_eq!(dropped.len(), 1);
        world.restart();
        // From where event time has not come as far.
        world.batch(&["q m t=7 23", "q m t=7 26", "q m t=1 33"]);
        world.finish();
        assert_eq!(world.take(), expected);
    }
}

#[test]
fn a_window_that_starts_anew_twice_replaces_nothing_that_was_sent_before_either() {
    let coarse = WindowSpec { every: 20 * S, period: 20 * S, ..window() };
    let fine = WindowSpec { every: 5 * S, period: 5 * S, ..window() };
    for in_between in [None, Some("q m t=6 61")] {
        let mut world = World::new(spec(vec![fine.clone()], vec![]));
        world.now = 100;
        world.batch(&["p m t=1 21", "p m t=2 26", "p m t=3 37"]);
        assert_eq!(world.take(), ["m t_count=1i,t_sum=1 20", "m t_count=1i,t_sum=2 25"]);
        // The floor of the coarse window lies on none of the fine ones' starts, whether it has come as far by itself or not.
        let (mut world, _) = edit(world, spec(vec![coarse.clone()], vec![]));
        in_between.into_iter().for_each(|line| world.batch(&[line]));
        let (mut world, _) = edit(world, spec(vec![fine.clone()], vec![]));
        world.restart();
        world.batch(&["r m t=7 27", "r m t=8 41", "r m t=9 52"]);
        assert!(world.take().iter().all(|result| !result.ends_with(" 25") && !result.ends_with(" 30")));
    }
}

#[test]
fn what_was_let_go_is_not_re_opened_by_a_longer_allowed_lateness() {
    let longer = WindowSpec { allowed_lateness: 60 * S, ..window() };
    let mut world = World::new(spec(vec![window()], vec![]));
    world.now = 100;
    world.batch(&["p m t=1 1", "p m t=2 2", "p m t=3 12", "p m t=4 24"]);
    assert_eq!(world.take(), ["m t_count=2i,t_sum=3 0", "m t_count=1i,t_sum=3 10"]);
    let (mut world, dropped) = edit(world, spec(vec![longer], vec![]));
    assert_eq!(dropped, Vec::<String>::new());
    // Its points are forgotten: a result of this one alone would take the place of one with two.
    world.batch(&["p m t=5 3", "p m t=6 25", "p m t=7 31"]);
    assert_eq!(world.take(), ["late m t=5,lag=21 3", "m t_count=2i,t_sum=10 20"]);
    // What is let go no more can be re-opened.
    world.batch(&["p m t=8 26"]);
    world.tick(200);
    assert_eq!(world.take(), ["m t_count=1i,t_sum=7 30", "m t_count=3i,t_sum=18 20"]);
}

#[test]
fn windows_go_on_closing_under_a_shorter_allowed_lateness() {
    let longer = WindowSpec { allowed_lateness: 60 * S, ..window() };
    let mut world = World::new(spec(vec![longer], vec![]));
    world.now = 100;
    world.batch(&["p m t=1 1", "p m t=2 12", "p m t=3 24"]);
    assert_eq!(world.take(), ["m t_count=1i,t_sum=1 0", "m t_count=1i,t_sum=2 10"]);
    world.batch(&["p m t=4 2"]);
    // Re-opened and not due again yet: it leaves with its pane.
    let (mut world, _) = edit(world, spec(vec![window()], vec![]));
    world.tick(101);
    assert_eq!(world.take(), ["m t_count=2i,t_sum=5 0"]);
    world.batch(&["p m t=5 31"]);
    assert_eq!(world.take(), ["m t_count=1i,t_sum=3 20"]);
}

#[test]
fn what_a_shorter_lateness_makes_due_is_sent_whatever_comes_next() {
    let late = spec(vec![WindowSpec { lateness: 5 * S, ..window() }], vec![]);
    let in_time = spec(vec![window()], vec![]);
    let open = || {
        let mut world = World::new(late.clone());
        world.now = 100;
        world.batch(&["p m t=1 1", "p m t=2 12"]);
        assert_eq!(world.take(), Vec::<String>::new());
        edit(world, in_time.clone()).0
    };
    let mut at_once = open();
    at_once.tick(101);
    assert_eq!(at_once.take(), ["m t_count=1i,t_sum=1 0"]);
    let (mut edited_back, _) = edit(open(), late.clone());
    edited_back.tick(101);
    assert_eq!(edited_back.take(), Vec::<String>::new());
    edited_back.batch(&["p m t=3 15"]);
    assert_eq!(edited_back.take(), ["m t_count=1i,t_sum=1 0"]);
    let mut silent = open();
    silent.restart();
    silent.tick(200);
    assert_eq!(silent.take()[0], "m t_count=1i,t_sum=1 0");
}

#[test]
fn an_alert_with_another_condition_uses_no_number_twice() {
    let mut world = World::new(spec(vec![], vec![alert("t > 80")]));
    world.batch(&["p m t=81 0", "p m t=1 0", "p m t=82 0"]);
    assert_eq!(world.take().iter().filter(|l| l.contains("weir_alert")).count(), 3);
    let (mut world, dropped) = edit(world, spec(vec![], vec![alert("t > 90")]));
    assert_eq!((dropped.len(), world.operators.levels()), (1, &[false][..]));
    world.batch(&["p m t=91 0"]);
    assert!(world.take()[0].contains("state=\"firing\",value=91,n=4i"));
}

#[test]
fn damage_is_an_error_wherever_it_is() {
    let world = busy();
    let mut bytes = Vec::new();
    world.operators.snapshot(&world.table, &mut bytes);
    let restore = |bytes: &[u8]| Operators::restore(Arc::clone(&world.spec), bytes, &mut SeriesTable::new(100));
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x41;
        assert!(restore(&damaged).is_err(), "byte {at}");
    }
    for end in 0..bytes.len() {
        assert!(restore(&bytes[..end]).is_err(), "cut at {end}");
    }
    // A right checksum over nonsense.
    for at in 10..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] = damaged[at].wrapping_add(0x7f);
        let checksum = crc32c::crc32c(&damaged[10..]);
        damaged[6..10].copy_from_slice(&checksum.to_le_bytes());
        if let Ok((mut operators, _)) = restore(&damaged) {
            let mut results = Results::default();
            operators.apply(Stamp { observed: i64::MAX / 2, steady: 0 }, &Record::Finish, &world.table, &mut results);
        }
    }
}

#[test]
fn another_table_with_other_ids_gives_the_same_digest() {
    let world = busy();
    let mut bytes = Vec::new();
    world.operators.snapshot(&world.table, &mut bytes);
    let mut table = SeriesTable::new(100);
    table.intern_field("b");
    table.intern(&Arc::new(Series::from_parts("m", &[("d", "b")])), 0, &"q".into());
    let (restored, _) = Operators::restore(Arc::clone(&world.spec), &bytes, &mut table).unwrap();
    assert_eq!(restored.digest(&table), world.operators.digest(&world.table));
}
