//! Random streams against the naive reference: several partitions, disorder, silence, lateness, restarts in the middle.

use proptest::prelude::*;

use super::*;
use crate::{operators::reference, spec::TimeSpec};

#[derive(Clone, Debug)]
struct Step {
    /// Seconds that pass before.
    pass: i64,
    points: Vec<(u8, u8, i64, i32)>,
    restart: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let point = (0u8..4, 0u8..4, -60i64..40, -1000i32..1000);
    let step = (prop_oneof![4 => 0i64..10, 1 => 50i64..200], prop::collection::vec(point, 0..6), prop::bool::weighted(0.1))
        .prop_map(|(pass, points, restart)| Step { pass, points, restart });
    prop::collection::vec(step, 1..40)
}

fn windows() -> impl Strategy<Value = WindowSpec> {
    use Aggregate as A;
    let by = prop_oneof![Just(None), Just(Some(vec![])), Just(Some(vec!["d".to_owned()]))];
    (1i64..4, by, prop_oneof![Just(0i64), 1i64..20], prop_oneof![Just(0i64), 1i64..60], 0i64..10, 0i64..10).prop_map(
        |(hops, by, lateness, allowed, align, reemit)| WindowSpec {
            period: hops * 10 * S,
            by,
            lateness: lateness * S,
            allowed_lateness: allowed * S,
            align: align * S,
            reemit_every: reemit * S,
            result_fields: true,
            drop_original: true,
            aggregates: vec![A::Count, A::Sum, A::Mean, A::Min, A::Max, A::First, A::Last, A::Range, A::Variance, A::Percentile(900)],
            ..window()
        },
    )
}

/// What the operators emitted, in the reference's shape.
fn outcomes(world: &mut World) -> Vec<reference::Outcome> {
    let chunk = world.results.take(Lane::Results);
    let mut outcomes = Vec::new();
    for point in chunk.points() {
        let (mut complete, mut revision, mut fields) = (None, 0, Vec::new());
        for (name, value) in point.fields() {
            match (name, value) {
                ("complete", Value::Bool(v)) => complete = Some(v),
                ("revision", Value::Int(v)) => revision = v as u32,
                (name, value) => fields.push((name.to_owned(), value.as_f64().unwrap())),
            }
        }
        // Late points have no such field.
        if let Some(complete) = complete {
            outcomes.push(reference::Outcome { series: point.series().line().to_owned(), start: point.time(), complete, revision, fields });
        }
    }
    outcomes
}

fn close(a: &reference::Outcome, b: &reference::Outcome) -> bool {
    let same = |x: f64, y: f64| (x - y).abs() <= 1e-9 * (1.0 + x.abs().max(y.abs()));
    (&a.series, a.start, a.complete, a.revision) == (&b.series, b.start, b.complete, b.revision)
        && a.fields.len() == b.fields.len()
        && a.fields.iter().zip(&b.fields).all(|(x, y)| {
            // Past 32 values a percentile is right within one percent.
            let rough = x.0.ends_with("_p900") && (x.1 - y.1).abs() <= 0.01 * y.1.abs();
            x.0 == y.0 && (same(x.1, y.1) || rough)
        })
}

fn run(window: WindowSpec, steps: &[Step]) -> Result<(), TestCaseError> {
    let time = TimeSpec { future_skew_max: i64::MAX / 4, ..TimeSpec::default() };
    let mut spec = spec(vec![window.clone()], vec![]);
    spec.time = time.clone();
    let (mut world, mut undisturbed) = (World::new(spec.clone()), World::new(spec));
    let mut naive = reference::Reference::new(window, time);
    for step in steps {
        let now = world.now + step.pass;
        (world.now, undisturbed.now) = (now, now);
        if step.restart {
            world.restart();
        }
        let (mut lines, mut points) = (Vec::new(), Vec::new());
        for (partition, device, offset, value) in &step.points {
            let at = now + offset;
            lines.push(format!("p{partition} m,d={device},p={partition} v={value},w{device}={offset} {at}"));
            points.push(reference::Point {
                partition: format!("p{partition}"),
                series: Series::from_parts("m", &[("d", &device.to_string()), ("p", &partition.to_string())]),
                time: (EPOCH + at) * S,
                fields: vec![("v".into(), f64::from(*value)), (format!("w{device}"), *offset as f64)],
            });
        }
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        world.batch(&lines);
        undisturbed.batch(&lines);
        naive.record(now * S, &points);
        compare(&mut world, &mut undisturbed, &mut naive)?;
        // Where nothing is due, a tick says nothing new.
        if world.operators.next_deadline().is_none_or(|d| d > now * S) {
            world.apply(&Record::Tick);
            undisturbed.apply(&Record::Tick);
            prop_assert!(outcomes(&mut world).is_empty());
        }
    }
    world.finish();
    undisturbed.finish();
    naive.finish(world.now * S);
    compare(&mut world, &mut undisturbed, &mut naive)?;
    prop_assert_eq!(world.counts("w").late, naive.late);
    Ok(())
}

fn compare(world: &mut World, undisturbed: &mut World, naive: &mut reference::Reference) -> Result<(), TestCaseError> {
    let (got, wanted) = (outcomes(world), naive.take());
    let equal = got.len() == wanted.len() && got.iter().zip(&wanted).all(|(a, b)| close(a, b));
    prop_assert!(equal, "got {got:#?}\nwanted {wanted:#?}");
    prop_assert_eq!(outcomes(undisturbed), got);
    prop_assert_eq!(world.operators.digest(&world.table), undisturbed.operators.digest(&undisturbed.table));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn windows_agree_with_the_reference_across_restarts(window in windows(), steps in steps()) {
        run(window, &steps)?;
    }
}

/// A point of a stream that breaks every rule: partition, device, offset or none for an untimed one, and its field.
type Wild = (u8, u8, Option<i64>, u8);

fn wild_line((partition, device, offset, what): &Wild, now: i64) -> String {
    let field = match what {
        0 => "v=\"text\"".to_owned(),
        1 => "other=1".to_owned(),
        2 => "v=true,u=1".to_owned(),
        n => format!("v={n}"),
    };
    let time = offset.map_or(String::new(), |o| format!(" {}", now + o));
    format!("p{partition} m{},d={device} {field}{time}", device % 2)
}

fn balance(steps: &[(i64, Vec<Wild>, Option<i64>)]) -> Result<(), TestCaseError> {
    let hopping = WindowSpec { name: "h".into(), period: 20 * S, allowed_lateness: 15 * S, by: Some(vec![]), ..window() };
    let mean = WindowSpec { name: "mean".into(), aggregates: vec![Aggregate::Mean], drop_original: false, ..window() };
    let over = AlertSpec { name: "over".into(), window: Some(0), by: Some(vec!["d".into()]), keep: 5 * S, ..alert("v_sum > 20") };
    let mut spec = spec(vec![window(), hopping, mean], vec![alert("v > 6"), over]);
    (spec.limits.groups_max, spec.limits.panes_per_group_max, spec.limits.held_bytes_max) = (3, 3, 120);
    spec.limits.panes_bytes_max = 5000;
    let mut world = World::unset(spec);
    let (mut recorded, mut raw, mut results) = (0, 0, 0);
    for (pass, points, clock) in steps {
        world.now += pass;
        if let Some(step) = clock {
            world.clock(EPOCH + step, if *step == 0 { ClockQuality::Unset } else { ClockQuality::Synced });
        }
        let lines: Vec<String> = points.iter().map(|p| wild_line(p, world.now)).collect();
        // Every record checks that the counters balance.
        world.batch(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        recorded += points.len() as u64;
        let counts = world.operators.counts();
        prop_assert_eq!(counts.dispatched + counts.held, recorded);
        if points.len() == 2 {
            world.restart();
        }
        for line in world.take() {
            raw += u64::from(!line.starts_with("late") && !line.contains("alert") && !line.contains("_count=") && !line.contains("_mean="));
            results += u64::from(!line.contains("alert") && (line.contains("_count=") || line.contains("_mean=")));
        }
    }
    prop_assert_eq!(raw, world.operators.counts().passed);
    let emitted = ["w", "h", "mean"].iter().map(|w| world.counts(w)).map(|c| c.first + c.revision + c.early).sum::<u64>();
    prop_assert_eq!(results, emitted);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn counters_balance_whatever_comes(steps in prop::collection::vec((
        prop_oneof![4 => 0i64..8, 1 => 50i64..100],
        prop::collection::vec((0u8..3, 0u8..6, prop::option::of(-40i64..25), 0u8..10), 0..6),
        prop::option::weighted(0.1, prop::sample::select(vec![-3600i64, -5, 0, 5, 3600])),
    ), 1..40)) {
        balance(&steps)?;
    }
}
