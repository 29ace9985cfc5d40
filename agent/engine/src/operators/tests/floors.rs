//! What is left of windows in floors, and what a start makes of them. Windows of 10 s.

use super::*;

/// A point of each of so many groups at a time.
fn points(world: &mut World, groups: usize, time: i64) {
    let lines: Vec<String> = (0..groups).map(|group| format!("p{group} m,d={group} t=1 {time}")).collect();
    world.batch(&lines.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn every_group_begins_above_the_newest_window_it_has_points_for() {
    let mut world = World::new(spec(vec![window()], vec![]));
    world.now = 100;
    world.batch(&["p m,d=a t=1 5", "q m,d=b t=1 25"]);
    let floors = world.operators.floors(None);
    assert_eq!((floors.common, floors.groups.len()), (i64::MIN, 2));
    world.lose_state(&floors);
    world.batch(&["p m,d=a t=2 9", "q m,d=b t=2 29", "p m,d=a t=4 10", "q m,d=b t=4 30", "r m,d=c t=4 0"]);
    world.finish();
    let late = ["late m,d=a t=2,lag=1 9", "late m,d=b t=2,lag=1 29"];
    let whole = ["m,d=a t_count=1i,t_sum=4 10", "m,d=b t_count=1i,t_sum=4 30", "m,d=c t_count=1i,t_sum=4 0"];
    assert_eq!(world.take(), [late.as_slice(), &whole].concat());
}

#[test]
fn a_window_that_was_sent_and_let_go_is_below_the_floor_as_well() {
    let mut world = World::new(spec(vec![WindowSpec { by: Some(Vec::new()), ..window() }], vec![]));
    world.now = 100;
    world.batch(&["p m t=1 5", "p m t=1 12", "p m t=1 20"]);
    world.finish();
    let floors = world.operators.floors(None);
    world.lose_state(&floors);
    world.take();
    world.batch(&["p m t=2 19", "p m t=2 29", "p m t=2 30"]);
    assert_eq!(world.take(), ["late m t=2,lag=11 19", "late m t=2,lag=1 29"]);
}

#[test]
fn a_group_that_has_begun_above_a_floor_stays_above_it_after_a_restart() {
    let mut world = World::new(spec(vec![WindowSpec { lateness: 5 * S, ..window() }], vec![]));
    world.now = 100;
    world.batch(&["p m,d=a t=1 25"]);
    let floors = world.operators.floors(None);
    world.lose_state(&floors);
    world.take();
    // Its watermark is 26 now: the floor alone keeps the window before closed.
    world.batch(&["p m,d=a t=1 31"]);
    world.restart();
    world.batch(&["p m,d=a t=2 29"]);
    world.finish();
    assert_eq!(world.take(), ["late m,d=a t=2,lag=1 29", "m,d=a t_count=1i,t_sum=1 30"]);
}

#[test]
fn of_many_groups_there_is_one_floor_but_for_a_clock_that_is_far_ahead() {
    let mut s = spec(vec![window()], vec![]);
    s.time.future_skew_max = 1_000_000 * S;
    let mut world = World::new(s);
    world.now = 100;
    points(&mut world, 600, 25);
    world.batch(&["x m,d=x t=1 500000"]);
    let floors = world.operators.floors(Some((EPOCH + 100) * S));
    assert_eq!((floors.common, floors.groups.len()), ((EPOCH + 20) * S, 1));
    world.lose_state(&floors);
    world.take();
    world.batch(&["p1 m,d=1 t=2 29", "p1 m,d=1 t=2 30", "new m,d=new t=2 29", "x m,d=x t=2 499999"]);
    assert_eq!(world.take(), ["late m,d=1 t=2,lag=1 29", "late m,d=new t=2,lag=1 29", "late m,d=x t=2,lag=11 499999"]);
    // What it is for is in the state, and in floors again.
    world.restart();
    assert_eq!(world.operators.floors(None).common / (10 * S), floors.common / (10 * S));
}

#[test]
fn a_floor_for_all_stays_when_a_window_comes_to_mean_something_else() {
    let first = Arc::new(spec(vec![window()], vec![]));
    let mut operators = Operators::new(Arc::clone(&first));
    operators.start_above(&Floors { common: 25 * S, groups: Vec::new() });
    let edited = Arc::new(spec(vec![WindowSpec { every: 20 * S, period: 20 * S, ..window() }], vec![]));
    let (old, mut table) = (SeriesTable::new(10), SeriesTable::new(10));
    let (operators, _) = operators.migrated(&old, edited, &mut table).unwrap();
    assert_eq!(operators.floors(None), Floors { common: 40 * S - 1, groups: Vec::new() });
}
