//! The first type of a field, and what comes as another.

use super::*;
use crate::spec::OnTypeConflict;

fn with(policy: OnTypeConflict) -> World {
    World::new(EngineSpec { on_type_conflict: policy, ..spec(vec![], vec![alert("t > 80")]) })
}

const LINES: [&str; 5] = ["p m,d=a t=1,s=\"x\" 1", "p m,d=b t=\"2\" 2", "p m t=\"hot\",s=\"y\" 3", "p m t=\"hot\" 4", "p n t=\"hot\" 5"];

#[test]
fn everything_goes_on_as_it_came_unless_somebody_minds() {
    let mut world = with(OnTypeConflict::Pass);
    world.batch(&LINES);
    assert_eq!(world.take().len(), 5);
    assert_eq!(world.operators.type_counts(), TypeCounts::default());
}

#[test]
fn a_field_of_another_type_is_refused_and_costs_nothing_but_itself() {
    let mut world = with(OnTypeConflict::Reject);
    world.batch(&LINES);
    // Another measurement has types of its own.
    assert_eq!(world.take(), ["m,d=a t=1,s=\"x\" 1", "m s=\"y\" 3", "n t=\"hot\" 5"]);
    assert_eq!(world.operators.type_counts().rejected, 3);
    assert_eq!((world.operators.counts().dispatched, world.operators.counts().rejected_type), (5, 2));
    let last = world.operators.last_conflict().unwrap();
    assert_eq!((last.first, last.came), (weir_plugin_api::Kind::Float, weir_plugin_api::Kind::Text));
}

#[test]
fn a_field_becomes_its_first_type_where_it_is_the_same_number() {
    let mut world = with(OnTypeConflict::Coerce);
    world.batch(&LINES);
    assert_eq!(world.take(), ["m,d=a t=1,s=\"x\" 1", "m,d=b t=2 2", "m s=\"y\" 3", "n t=\"hot\" 5"]);
    assert_eq!(world.operators.type_counts(), TypeCounts { coerced: 1, rejected: 2, untyped: 0 });
    // Alerts look at what it has become.
    world.batch(&["p m,d=a t=\"81\" 6"]);
    assert!(world.take().iter().any(|line| line.starts_with("weir_alert,alert=hot") && line.contains("firing")));
}

#[test]
fn types_and_their_counts_survive_and_are_forgotten_where_nobody_minds() {
    let mut world = with(OnTypeConflict::Reject);
    world.batch(&LINES);
    world.take();
    world.restart();
    assert_eq!(world.operators.type_counts().rejected, 3);
    assert_eq!(world.operators.counts().rejected_type, 2);
    world.batch(&["p m,d=c t=\"hot\",u=1 6"]);
    assert_eq!(world.take(), ["m,d=c u=1 6"]);
    let mut bytes = Vec::new();
    world.operators.snapshot(&world.table, &mut bytes);
    for (policy, expected) in [(OnTypeConflict::Pass, 2), (OnTypeConflict::Reject, 1)] {
        let mut other = with(policy);
        other.operators = Operators::restore(Arc::clone(&other.spec), &bytes, &mut other.table).unwrap().0;
        other.batch(&["p m t=\"hot\",u=1 7"]);
        assert_eq!(other.take()[0].matches('=').count(), expected, "{policy:?}");
    }
}

#[test]
fn types_past_the_bound_are_not_kept_and_counted() {
    let mut spec = EngineSpec { on_type_conflict: OnTypeConflict::Reject, ..spec(vec![], vec![]) };
    spec.limits.series_max = 2;
    let mut world = World::new(spec);
    world.batch(&["p m a=1,b=1,c=1 1", "p m a=\"x\",b=\"x\",c=\"x\" 2"]);
    assert_eq!(world.take(), ["m a=1,b=1,c=1 1", "m c=\"x\" 2"]);
    assert_eq!(world.operators.type_counts(), TypeCounts { coerced: 0, rejected: 2, untyped: 2 });
}
