//! `dedup`: what was recorded is recognised when it comes again, whatever died in between, and nothing else is.

use proptest::prelude::*;

use super::*;
use crate::spec::DedupSpec;

const WITHIN: i64 = 80 * S;

fn dedup_spec(entries_max: usize) -> EngineSpec {
    let mut spec = spec();
    spec.inputs[0].dedup = Some(DedupSpec { within: WITHIN, entries_max });
    spec
}

/// A point: its series by number, seconds of its time (none: untimed), and its fields by name and value.
type Sent = (u32, Option<i64>, Vec<(u16, Value)>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Value {
    Number(f64),
    Whole(i64),
    Text(&'static str),
}

fn simple(series: u32, second: i64, value: f64) -> Sent {
    (series, Some(second), vec![(0, Value::Number(value))])
}

impl World {
    /// One batch of points, its series and fields known or not.
    fn send(&mut self, points: &[Sent]) {
        self.number += 1;
        let mut batch = Batch {
            number: self.number,
            read_at: self.now.steady,
            counts: InputCounts { read: points.len() as u64, ..InputCounts::default() },
            points: points.len() as u32,
            ..Batch::default()
        };
        if !std::mem::replace(&mut self.announced, true) {
            for series in ["a", "b", "c"] {
                batch.new_series.push(Arc::new(Series::from_parts("m", &[("device", series)])));
                batch.new_partitions.push("p".into());
            }
            batch.new_fields.extend(["v".into(), "w".into()]);
        }
        for (series, time, fields) in points {
            for (at, (field, value)) in fields.iter().enumerate() {
                let (kind, value) = match value {
                    Value::Number(v) => (Kind::Float, v.to_bits()),
                    Value::Whole(v) => (Kind::Int, *v as u64),
                    Value::Text(v) => Cell::encode_value(weir_plugin_api::Value::Text(v), &mut batch.text),
                };
                let untimed = if time.is_none() { Cell::UNTIMED } else { 0 };
                batch.cells.push(Cell {
                    series: *series,
                    field: *field,
                    kind: kind as u8,
                    flags: untimed | if at == 0 { Cell::START } else { 0 },
                    time: time.map_or(self.now.steady, |second| EPOCH + second * S),
                    value,
                });
            }
        }
        self.step(Event::Batch { input: 0, batch });
        self.commit();
        self.balances();
    }

    /// Points recorded and points recognised, so far.
    fn counted(&self) -> (u64, u64) {
        let line = &self.core.ledger().inputs[0];
        (line.recorded, line.counts.duplicate)
    }
}

#[test]
fn the_same_series_time_and_values_are_taken_once() {
    let mut world = World::new(dedup_spec(100));
    let text = |text| (0, Some(1), vec![(0, Value::Text(text))]);
    let different = [
        simple(0, 1, 5.0),
        simple(1, 1, 5.0),
        simple(0, 2, 5.0),
        simple(0, 1, 6.0),
        simple(0, 1, -5.0),
        (0, Some(1), vec![(1, Value::Number(5.0))]),
        (0, Some(1), vec![(0, Value::Whole(5))]),
        (0, Some(1), vec![(0, Value::Number(5.0)), (1, Value::Number(5.0))]),
        (0, Some(1), vec![(0, Value::Number(5.0)), (1, Value::Number(6.0))]),
        (0, Some(1), vec![(0, Value::Number(6.0)), (1, Value::Number(5.0))]),
        text(""),
        text("a"),
        text("b"),
        text("a\0"),
        text("eight by"),
        text("eight by eight by"),
    ];
    world.send(&different);
    assert_eq!(world.counted(), (different.len() as u64, 0));
    world.send(&different);
    assert_eq!(world.counted(), (different.len() as u64, different.len() as u64));
    // The order of fields says nothing.
    world.send(&[(0, Some(1), vec![(1, Value::Number(6.0)), (0, Value::Number(5.0))])]);
    assert_eq!(world.counted().1, different.len() as u64 + 1);
}

#[test]
fn a_point_twice_in_one_batch_is_taken_once_and_its_neighbours_stay_whole() {
    let mut world = World::new(dedup_spec(100));
    world.send(&[simple(0, 1, 1.0), simple(0, 2, 2.0), simple(0, 1, 1.0), simple(0, 3, 3.0), simple(0, 2, 2.0)]);
    assert_eq!(world.counted(), (3, 2));
    assert_eq!(world.drain(0), [1.0, 2.0, 3.0]);
}

#[test]
fn points_without_a_time_of_their_own_are_never_the_same() {
    let mut world = World::new(dedup_spec(100));
    let untimed = (0, None, vec![(0, Value::Number(5.0))]);
    world.send(&[untimed.clone(), untimed.clone()]);
    world.send(&[untimed]);
    assert_eq!(world.counted(), (3, 0));
    assert_eq!(world.core.ledger().inputs[0].dedup_entries, 0, "and none is remembered");
}

#[test]
fn what_is_forgotten_for_room_is_the_oldest_and_counted() {
    let mut world = World::new(dedup_spec(3));
    for second in 1..=5 {
        world.send(&[simple(0, second, 0.0)]);
    }
    let line = world.core.ledger().inputs[0].clone();
    assert_eq!((line.dedup_entries, line.dedup_forgotten), (3, 2));
    world.send(&[simple(0, 3, 0.0), simple(0, 4, 0.0), simple(0, 5, 0.0), simple(0, 1, 0.0)]);
    assert_eq!(world.counted(), (6, 3), "the three newest were known, the first was not");
}

#[test]
fn a_smaller_bound_keeps_the_newest_and_none_forgets_all() {
    let mut world = World::new(dedup_spec(10));
    world.send(&(1..=6).map(|second| simple(0, second, 0.0)).collect::<Vec<_>>());
    let state = world.checkpoint();
    world.spec = Arc::new(dedup_spec(2));
    world.restart(Some(&state));
    assert_eq!((world.core.ledger().inputs[0].dedup_entries, world.core.ledger().inputs[0].dedup_forgotten), (2, 4));
    world.send(&[simple(0, 6, 0.0), simple(0, 4, 0.0)]);
    assert_eq!(world.counted(), (7, 1));
    let state = world.checkpoint();
    world.spec = Arc::new(spec());
    world.restart(Some(&state));
    world.send(&[simple(0, 6, 0.0)]);
    assert_eq!((world.counted(), world.core.ledger().inputs[0].dedup_entries), ((8, 1), 0));
}

#[test]
fn a_state_that_was_cut_or_flipped_is_refused_or_read_and_never_a_panic() {
    let mut dedup = Dedup::default();
    let mut world = World::new(dedup_spec(10));
    world.send(&(1..=4).map(|second| simple(0, second, 0.0)).collect::<Vec<_>>());
    let mut bytes = Vec::new();
    world.core.inputs[0].dedup.put(&mut bytes);
    for at in 0..bytes.len() {
        assert!(Dedup::read(&mut crate::codec::bytes::Reader::new(&bytes[..at])).is_err(), "{at}");
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            if let Ok(read) = Dedup::read(&mut crate::codec::bytes::Reader::new(&flipped)) {
                dedup = read;
            }
        }
    }
    assert!(dedup.len() <= 4);
}

#[derive(Clone, Debug)]
enum Step {
    Send(Vec<(u32, i64, u8)>),
    Pass(i64),
    Checkpoint,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec((0..3_u32, 0..4_i64, 0..2_u8), 1..8).prop_map(Step::Send),
        3 => (0..WITHIN / 4).prop_map(Step::Pass),
        1 => (0..2 * WITHIN).prop_map(Step::Pass),
        1 => Just(Step::Checkpoint),
        2 => Just(Step::Kill),
    ]
}

/// A list of what was recorded and when, looked through from the front: between one span and nine eighths of it either answer is right.
#[derive(Default)]
struct Reference(Vec<((u32, i64, u8), i64)>);

impl Reference {
    /// Whether it must be, or must not be, a duplicate.
    fn wants(&self, point: (u32, i64, u8), now: i64) -> Option<bool> {
        match self.0.iter().rfind(|(known, _)| *known == point).map(|(_, at)| now - at) {
            Some(age) if age < WITHIN => Some(true),
            Some(age) if age < WITHIN / 8 * 9 => None,
            _ => Some(false),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_point_is_a_duplicate_exactly_if_it_was_recorded_within_the_span(steps in prop::collection::vec(step(), 1..60)) {
        let (mut world, mut reference, mut state) = (World::new(dedup_spec(1000)), Reference::default(), None);
        for step in steps {
            match step {
                Step::Send(points) => {
                    for point in points {
                        // One by one: what each becomes is seen.
                        let now = world.core.clock.observed(world.now);
                        let before = world.counted().1;
                        world.send(&[simple(point.0, point.1, f64::from(point.2))]);
                        let duplicate = world.counted().1 > before;
                        let wanted = reference.wants(point, now);
                        prop_assert!(wanted.is_none_or(|wanted| wanted == duplicate), "{point:?} at {now}: {duplicate}");
                        if !duplicate {
                            reference.0.push((point, now));
                        }
                    }
                }
                Step::Pass(nanos) => world.pass(nanos),
                Step::Checkpoint => state = Some(world.checkpoint()),
                Step::Kill => {
                    let memory = |world: &World| {
                        let mut bytes = Vec::new();
                        world.core.inputs[0].dedup.put(&mut bytes);
                        bytes
                    };
                    let before = memory(&world);
                    world.restart(state.as_deref());
                    prop_assert_eq!(memory(&world), before, "a kill changes nothing of it");
                }
            }
        }
    }
}
