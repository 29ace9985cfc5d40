//! What the core believes of the wall clock.

use super::*;

fn quality(world: &World) -> ClockQuality {
    world.core.clock.quality
}

#[test]
fn a_clock_set_back_while_running_is_a_step_and_not_an_unset_clock() {
    let mut world = World::new(spec());
    world.pass(60 * S);
    world.now.wall -= 3600 * S;
    world.step(Event::Time);
    assert_eq!(quality(&world), ClockQuality::Synced);
    assert_eq!(world.core.clock.offset, EPOCH - 3600 * S);
}

#[test]
fn a_clock_below_the_last_persisted_time_is_unset_until_it_has_passed_it() {
    let mut world = World::new(spec());
    world.take(&[1.0]);
    // The last record a block holds says how late it was, not only the last change of the clock.
    world.pass(3600 * S);
    world.take(&[2.0]);
    world.now = Now { steady: S, wall: world.now.wall - 1800 * S, quality: ClockQuality::Rtc };
    world.restart(None);
    assert_eq!(quality(&world), ClockQuality::Unset);
    world.pass(1801 * S);
    world.step(Event::Time);
    assert_eq!(quality(&world), ClockQuality::Rtc);
}

#[test]
fn a_synchronised_clock_is_believed_even_below_what_a_wrong_one_left_behind() {
    let mut world = World::new(spec());
    world.take(&[1.0]);
    world.now = Now { steady: S, wall: EPOCH - 3600 * S, quality: ClockQuality::Synced };
    world.restart(None);
    assert_eq!(quality(&world), ClockQuality::Synced);
}

#[test]
fn the_observed_axis_goes_on_where_the_run_before_ended() {
    let mut world = World::new(spec());
    world.pass(100 * S);
    world.take(&[1.0]);
    let state = world.checkpoint();
    let before = world.core.clock.observed(world.now);
    // Another boot: steady time begins anew, a day passes outside.
    world.now = Now { steady: 5 * S, wall: world.now.wall + 86_400 * S, quality: ClockQuality::Synced };
    world.restart(Some(&state));
    assert_eq!(world.core.clock.observed(world.now), before);
}
