//! The wall clock: unset at boot, set, stepped, and points from the future.

use super::*;

#[test]
fn points_wait_for_the_clock_and_are_dated_when_it_is_set() {
    let mut world = World::unset(spec(vec![window()], vec![]));
    world.now = 3;
    world.batch(&["p m t=1", "p m t=2"]);
    world.now = 12;
    world.batch(&["p m t=4"]);
    assert_eq!((world.take().len(), world.operators.counts().held), (0, 3));
    world.clock(EPOCH, ClockQuality::Rtc);
    assert_eq!(world.take(), ["m t_count=2i,t_sum=3 0"]);
    assert_eq!((world.operators.counts().held, world.operators.counts().dispatched), (0, 3));
}

#[test]
fn points_with_a_time_of_their_own_do_not_wait() {
    let mut world = World::unset(spec(vec![window()], vec![]));
    world.batch(&["p m t=1 5", "p m t=2 500000"]);
    assert_eq!(world.take(), ["m t_count=1i,t_sum=1 0"]);
    assert_eq!((world.operators.counts().future_unchecked, world.operators.counts().rejected_future), (2, 0));
}

#[test]
fn too_many_or_too_old_held_points_flow_as_provisional() {
    let mut s = spec(vec![], vec![]);
    s.limits.held_bytes_max = 50;
    let mut world = World::unset(s);
    world.now = 7;
    world.batch(&["p m t=1", "p m t=2", "p m t=3"]);
    let time = 7 - EPOCH;
    assert_eq!(
        world.take(),
        ["m,clock=provisional t=1", "m,clock=provisional t=2", "m,clock=provisional t=3"].map(|l| format!("{l} {time}"))
    );
    let mut old = World::unset(spec(vec![window()], vec![]));
    old.now = 7;
    old.batch(&["p m t=1"]);
    assert_eq!(old.operators.next_deadline(), Some((7 + 3600) * S));
    old.tick(7 + 3600);
    old.finish();
    assert_eq!(old.take(), [format!("m,clock=provisional t_count=1i,t_sum=1 {}", -EPOCH)]);
    // What comes once the clock is set is not late because of it.
    old.clock(EPOCH, ClockQuality::Synced);
    old.batch(&["p m t=2"]);
    old.finish();
    assert_eq!(old.take(), ["m t_count=1i,t_sum=2 3600"]);
    assert_eq!(old.operators.counts().provisional, 1);
}

#[test]
fn alerts_run_at_once_and_durations_survive_the_setting_of_the_clock() {
    let mut world = World::unset(spec(vec![window()], vec![AlertSpec { for_: 30 * S, ..alert("t > 80") }]));
    world.now = 10;
    world.batch(&["p m t=81"]);
    world.now = 20;
    world.clock(EPOCH, ClockQuality::Synced);
    world.now = 39;
    world.batch(&["p m t=81"]);
    assert_eq!(world.results.len(Lane::Alerts), 0);
    world.now = 40;
    world.batch(&["p m t=81"]);
    assert_eq!(world.take()[0], "weir_alert,alert=hot,measurement=m,severity=critical state=\"firing\",value=81,n=1i,historical=false 40");
    let mut unset = World::unset(spec(vec![], vec![alert("t > 80")]));
    unset.batch(&["p m t=81"]);
    let line = &unset.take()[0];
    assert!(line.starts_with("weir_alert,alert=hot,clock=provisional,measurement=m,severity=critical state=\"firing\""), "{line}");
}

#[test]
fn a_forward_step_only_moves_the_offset() {
    let mut world = World::new(spec(vec![window()], vec![]));
    world.now = 5;
    world.batch(&["p m t=1"]);
    world.clock(EPOCH + 100, ClockQuality::Synced);
    world.batch(&["p m t=2"]);
    assert_eq!(world.take(), ["m t_count=1i,t_sum=1 0"]);
    world.finish();
    assert_eq!(world.take(), ["m t_count=1i,t_sum=2 100"]);
}

#[test]
fn points_below_the_floor_after_a_backward_step_say_so() {
    let mut world = World::new(spec(vec![window()], vec![]));
    world.now = 60;
    world.batch(&["p m t=1 15", "p m t=2"]);
    assert_eq!(world.take().len(), 1);
    world.clock(EPOCH - 40, ClockQuality::Synced);
    world.batch(&["p m t=32"]);
    assert_eq!(world.take(), ["late m t=32,lag=40 20"]);
    assert_eq!((world.counts("w").late_clock_step, world.counts("w").late), (1, 0));
    // A point with a time of its own is late for its own reasons.
    world.batch(&["p m t=32 20"]);
    assert_eq!((world.counts("w").late_clock_step, world.counts("w").late), (1, 1));
}

#[test]
fn points_from_the_future_are_refused_or_restamped() {
    let mut world = World::new(spec(vec![window()], vec![alert("t > 80")]));
    world.now = 100;
    world.batch(&["p m t=90 110.5", "p m t=1 110"]);
    assert_eq!(world.take(), ["late m t=90,lag=-10.5 110.5"]);
    assert_eq!((world.counts("w").future, world.counts("hot").future, world.operators.counts().rejected_future), (1, 1, 1));
    let mut s = spec(vec![], vec![]);
    s.time.future_restamp = true;
    let mut world = World::new(s);
    world.now = 100;
    world.batch(&["p m t=1 1000"]);
    assert_eq!(world.take(), ["m t=1 100"]);
}

#[test]
fn absurd_times_overflow_nothing() {
    for set in [false, true] {
        let mut world = World::unset(spec(vec![WindowSpec { period: 100 * S, ..window() }], vec![alert("t > 80")]));
        if set {
            world.clock(EPOCH, ClockQuality::Synced);
        }
        world.batch(&["p m t=90 -9.3e9", "p m t=90 9.3e9", "p m t=90 -4e9", "p m t=1 1"]);
        world.tick(1_000_000);
        world.finish();
        assert_eq!(world.operators.counts().dispatched, 4);
        assert!(world.operators.counts().rejected_future >= 2);
    }
}

#[test]
fn a_new_boot_with_no_clock_keeps_durations_only() {
    let mut world = World::new(spec(vec![], vec![AlertSpec { for_: 30 * S, ..alert("t > 80") }]));
    world.now = 1000;
    world.batch(&["p m t=81"]);
    world.now = 5;
    world.clock(0, ClockQuality::Unset);
    world.now = 10;
    world.batch(&["p m t=81"]);
    world.now = 41;
    world.batch(&["p m t=81"]);
    // The silence between the boots is not counted: 31 s since the first point of this one.
    assert_eq!(world.operators.transitions(), 1);
    assert_eq!(world.operators.counts().held, 2);
}

#[test]
fn held_points_of_an_earlier_boot_are_not_dated_by_a_later_one_that_has_run_longer() {
    let mut world = World::unset(spec(vec![], vec![]));
    world.boot = 1;
    world.now = 1;
    world.clock(0, ClockQuality::Unset);
    world.now = 10;
    world.batch(&["p m t=1"]);
    world.restart();
    // Off for a while; the new boot is at 100 s when the agent starts, and knows the time.
    world.boot = 2;
    world.now = 100;
    world.clock(EPOCH, ClockQuality::Synced);
    world.batch(&["p m t=2"]);
    assert_eq!(world.take(), [format!("m,clock=provisional t=1 {}", 10 - EPOCH), "m t=2 100".to_owned()]);
    assert_eq!(world.operators.counts().provisional, 1);
}

#[test]
fn held_points_are_dated_by_a_later_start_of_the_same_boot() {
    let mut world = World::unset(spec(vec![], vec![]));
    world.boot = 1;
    world.clock(0, ClockQuality::Unset);
    world.now = 10;
    world.batch(&["p m t=1"]);
    world.restart();
    world.now = 100;
    world.clock(EPOCH, ClockQuality::Synced);
    assert_eq!(world.take(), ["m t=1 10"]);
}
