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
