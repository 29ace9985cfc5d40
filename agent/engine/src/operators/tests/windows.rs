//! Windows: closing, lateness, idleness, revisions, hopping, groups, fields, bounds.

use weir_plugin_api::filter::{Filter, FilterOptions};

use super::*;

/// One window; the agent has run for 100 s.
fn world(window: WindowSpec) -> World {
    let mut world = World::new(spec(vec![window], vec![]));
    world.now = 100;
    world
}

#[test]
fn a_window_closes_when_the_watermark_reaches_its_end() {
    let mut world = world(WindowSpec { lateness: 2 * S, ..window() });
    world.batch(&["p m,d=a t=1 1", "p m,d=a t=2 9", "p m,d=a t=4 11"]);
    assert_eq!(world.take(), Vec::<String>::new());
    world.batch(&["p m,d=a t=8 12"]);
    assert_eq!(world.take(), ["m,d=a t_count=2i,t_sum=3 0"]);
    assert_eq!((world.counts("w").first, world.counts("w").applied), (1, 4));
}

#[test]
fn a_window_is_half_open() {
    let mut world = world(window());
    world.batch(&["p m t=1 0", "p m t=2 9.999", "p m t=4 10"]);
    assert_eq!(world.take(), ["m t_count=2i,t_sum=3 0"]);
    world.batch(&["p m t=8 20"]);
    assert_eq!(world.take(), ["m t_count=1i,t_sum=4 10"]);
}

#[test]
fn windows_can_be_shifted_and_can_carry_their_end() {
    let mut world = world(WindowSpec { align: 3 * S, time_is_end: true, ..window() });
    world.batch(&["p m t=1 2", "p m t=2 3", "p m t=4 12.5", "p m t=8 13"]);
    assert_eq!(world.take(), ["m t_count=1i,t_sum=1 3", "m t_count=2i,t_sum=6 13"]);
}

#[test]
fn a_point_below_the_floor_is_late_and_leaves_with_its_lag() {
    let mut world = world(WindowSpec { lateness: 2 * S, ..window() });
    world.batch(&["p m t=1 5", "p m t=2 13.5", "p m t=3 9"]);
    assert_eq!(world.take(), ["m t_count=1i,t_sum=1 0", "late m t=3,lag=2.5 9"]);
    assert_eq!((world.counts("w").late, world.operators.counts().late, world.operators.counts().late_stream), (1, 1, 1));
}

#[test]
fn a_straggler_makes_no_window_of_its_own() {
    let mut world = world(window());
    world.batch(&["p m t=1 5", "p m t=2 55", "p m t=3 25"]);
    assert_eq!(world.take(), ["m t_count=1i,t_sum=1 0", "late m t=3,lag=30 25"]);
}

#[test]
fn the_slowest_partition_holds_a_shared_group_back_until_it_falls_silent() {
    let mut world = world(WindowSpec { by: Some(vec![]), ..window() });
    world.batch(&["p m,d=a t=1 1", "q m,d=b t=2 2", "p m,d=a t=4 30"]);
    assert_eq!(world.take(), Vec::<String>::new());
    world.batch(&["q m,d=b t=8 12"]);
    assert_eq!(world.take(), ["m t_count=2i,t_sum=3 0"]);
    world.now = 150;
    world.batch(&["p m,d=a t=16 31"]);
    // 60 s after its last point q no longer counts.
    world.tick(160);
    assert_eq!(world.take(), ["m t_count=1i,t_sum=8 10"]);
    // When it returns behind the others, it is late in the shared group.
    world.batch(&["q m,d=b t=32 29.5"]);
    assert_eq!(world.take(), ["late m,d=b t=32,lag=1.5 29.5"]);
    world.batch(&["q m,d=b t=64 31", "p m,d=a t=1 41"]);
    assert_eq!(world.take(), Vec::<String>::new());
    world.batch(&["q m,d=b t=64 41"]);
    assert_eq!(world.take(), ["m t_count=3i,t_sum=84 30"]);
}

#[test]
fn a_device_that_returns_with_backlog_is_catching_up() {
    let mut world = world(WindowSpec { by: Some(vec!["d".into()]), ..window() });
    world.batch(&["a m,d=a t=1 1", "b m,d=b t=1 1"]);
    world.now = 20_000;
    world.batch(&["b m,d=b t=2 19990"]);
    assert_eq!(world.take(), ["m,d=a t_count=1i,t_sum=1 0", "m,d=b t_count=1i,t_sum=1 0", "m,d=b t_count=1i,t_sum=1 0"][..].to_vec());
    world.batch(&["a m,d=a t=2 5", "a m,d=a t=4 11", "a m,d=a t=8 21"]);
    assert_eq!(world.take(), ["m,d=a t_count=2i,t_sum=3 0", "m,d=a t_count=1i,t_sum=4 10"]);
    assert_eq!(world.counts("w").late, 0);
}

#[test]
fn silence_emits_open_windows_early_and_leaves_them_open() {
    let mut world = world(WindowSpec { result_fields: true, ..window() });
    world.batch(&["p m t=1 95"]);
    assert_eq!(world.operators.next_deadline(), Some(160 * S));
    world.tick(159);
    assert_eq!(world.take(), Vec::<String>::new());
    world.tick(160);
    assert_eq!(world.take(), ["m t_count=1i,t_sum=1,complete=false,revision=0i 90"]);
    world.tick(300);
    assert_eq!(world.take(), Vec::<String>::new());
    world.batch(&["p m t=2 96", "p m t=4 100"]);
    assert_eq!(world.take(), ["m t_count=2i,t_sum=3,complete=true,revision=0i 90"]);
    assert_eq!((world.counts("w").early, world.counts("w").first), (1, 1));
}

#[test]
fn a_late_point_reopens_its_window_and_revisions_keep_their_distance() {
    let mut world = world(WindowSpec { allowed_lateness: 20 * S, result_fields: true, ..window() });
    world.batch(&["p m t=1 5", "p m t=2 12"]);
    assert_eq!(world.take(), ["m t_count=1i,t_sum=1,complete=true,revision=0i 0"]);
    world.now = 101;
    world.batch(&["p m t=4 6", "p m t=8 7"]);
    assert_eq!(world.take(), Vec::<String>::new());
    assert_eq!(world.operators.next_deadline(), Some(105 * S));
    world.tick(105);
    assert_eq!(world.take(), ["m t_count=3i,t_sum=13,complete=true,revision=1i 0"]);
    world.now = 111;
    world.batch(&["p m t=16 8"]);
    assert_eq!(world.take(), ["m t_count=4i,t_sum=29,complete=true,revision=2i 0"]);
    // What waits for its turn is emitted before its window is let go.
    world.batch(&["p m t=32 9", "p m t=2 30", "p m t=64 9"]);
    assert_eq!(
        world.take(),
        ["m t_count=1i,t_sum=2,complete=true,revision=0i 10", "m t_count=5i,t_sum=61,complete=true,revision=3i 0", "late m t=64,lag=21 9"]
    );
}

#[test]
fn a_window_that_closed_empty_is_emitted_first_by_a_late_point() {
    let mut world = world(WindowSpec { allowed_lateness: 20 * S, result_fields: true, ..window() });
    world.batch(&["p m t=1 25", "p m t=2 11"]);
    assert_eq!(world.take(), ["m t_count=1i,t_sum=2,complete=true,revision=0i 10"]);
    assert_eq!((world.counts("w").first, world.counts("w").revision), (1, 0));
}

#[test]
fn hopping_windows_overlap_and_a_point_counts_once() {
    let mut world = world(WindowSpec { period: 30 * S, ..window() });
    world.batch(&["p m t=1 5", "p m t=2 15", "p m t=4 25", "p m t=8 30"]);
    assert_eq!(world.take(), ["m t_count=1i,t_sum=1 -20", "m t_count=2i,t_sum=3 -10", "m t_count=3i,t_sum=7 0"]);
    // Its earliest windows are gone, the others take it.
    world.batch(&["p m t=16 29", "p m t=32 40"]);
    assert_eq!(world.take(), ["m t_count=4i,t_sum=30 10"]);
    world.batch(&["p m t=64 9"]);
    assert_eq!(world.take(), ["late m t=64,lag=31 9"]);
    world.finish();
    assert_eq!(world.take(), ["m t_count=4i,t_sum=60 20", "m t_count=2i,t_sum=40 30", "m t_count=1i,t_sum=32 40"]);
    assert_eq!((world.counts("w").r#in, world.counts("w").applied), (7, 6));
}

#[test]
fn a_gap_between_hopping_windows_is_skipped() {
    let mut world = world(WindowSpec { period: 20 * S, ..window() });
    world.batch(&["p m t=1 5", "p m t=2 75"]);
    assert_eq!(world.take(), ["m t_count=1i,t_sum=1 -10", "m t_count=1i,t_sum=1 0"]);
}

#[test]
fn the_end_completes_every_window_and_leaves_a_floor() {
    let mut world = world(WindowSpec { result_fields: true, ..window() });
    world.batch(&["p m t=1 95"]);
    world.finish();
    assert_eq!(world.take(), ["m t_count=1i,t_sum=1,complete=true,revision=0i 90"]);
    world.batch(&["p m t=2 96", "p m t=4 101"]);
    assert_eq!(world.take(), ["late m t=2,lag=4 96"]);
    world.finish();
    assert_eq!(world.take(), ["m t_count=1i,t_sum=4,complete=true,revision=0i 100"]);
}

#[test]
fn a_group_silent_for_its_time_to_live_ends_and_keeps_its_floor() {
    let mut world = world(window());
    world.batch(&["p m t=1 95"]);
    world.tick(160);
    world.take();
    assert_eq!(world.operators.next_deadline(), Some((100 + 86_400) * S));
    world.tick(100 + 86_400);
    assert_eq!(world.take(), ["m t_count=1i,t_sum=1 90"]);
    assert_eq!(world.operators.next_deadline(), None);
    world.batch(&["p m t=2 96"]);
    assert_eq!(world.take(), ["late m t=2,lag=4 96"]);
}

#[test]
fn groups_that_ended_leave_their_place_to_others_and_keep_their_floors() {
    let mut s = spec(vec![window()], vec![]);
    s.limits.groups_max = 2;
    let mut world = World::new(s);
    world.now = 100;
    world.batch(&["p m,d=a t=1 95", "p m,d=b t=1 95", "p m,d=c t=1 96"]);
    assert_eq!(world.counts("w").overflow_groups, 1);
    world.tick(100 + 86_400);
    world.take();
    // A day later there is room for two others; who comes back is measured against what was emitted.
    world.batch(&["q m,d=c t=2 96", "q m,d=a t=2 96"]);
    assert_eq!(world.take(), ["late m,d=a t=2,lag=4 96"]);
    assert_eq!((world.counts("w").overflow_groups, world.counts("w").late, world.counts("w").forgotten), (1, 1, 0));
    world.restart();
    world.batch(&["q m,d=a t=2 101", "q m,d=d t=2 120"]);
    assert_eq!(world.counts("w").overflow_groups, 2);
    world.finish();
    assert_eq!(world.take(), ["m,d=c t_count=1i,t_sum=2 90", "m,d=a t_count=1i,t_sum=2 100", "m,d=d t=2 120"]);
}

#[test]
fn devices_that_come_and_go_use_up_nothing_and_re_open_nothing() {
    let mut s = spec(vec![WindowSpec { by: Some(vec!["d".into()]), ..window() }], vec![]);
    s.limits.groups_max = 3;
    let mut world = World::new(s);
    for day in 0..20i64 {
        world.now = day * 90_000;
        let lines: Vec<String> = (0..3).map(|i| format!("p m,d={day}-{i} t=1 {}", day * 90_000)).collect();
        world.batch(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        world.restart();
    }
    assert_eq!((world.counts("w").overflow_groups, world.counts("w").applied), (0, 60));
    assert_eq!(world.counts("w").forgotten, 54, "of those of today, and the three before them, all is known");
    world.tick(20 * 90_000);
    world.take();
    // Its own floor is forgotten, but not that there was one.
    world.batch(&["p m,d=0-0 t=5 1"]);
    assert_eq!(world.take().iter().filter(|l| l.starts_with("late")).count(), 1);
}

#[test]
fn groups_are_made_of_the_named_tags_and_global_tags_are_added() {
    let mut s = spec(vec![WindowSpec { by: Some(vec!["d".into()]), ..window() }], vec![]);
    s.global_tags = vec![("host".into(), "gw".into())];
    let mut world = World::new(s);
    world.now = 100;
    world.batch(&["p m,d=a,x=1,host=gw t=1 1", "p m,d=a,x=2,host=gw t=2 2", "p m,x=1,host=gw t=4 3", "p n,d=a,host=gw t=8 4"]);
    world.finish();
    assert_eq!(
        world.take(),
        ["m,d=a,host=gw t_count=2i,t_sum=3 0", "m,host=gw t_count=1i,t_sum=4 0", "n,d=a,host=gw t_count=1i,t_sum=8 0"]
    );
}

#[test]
fn an_empty_list_of_tags_and_one_name_make_one_group() {
    let mut world = world(WindowSpec { by: Some(vec![]), name_override: Some("all".into()), ..window() });
    world.batch(&["p m,d=a t=1 1", "p n,d=b t=2 2"]);
    world.finish();
    assert_eq!(world.take(), ["all t_count=2i,t_sum=3 0"]);
}

#[test]
fn every_aggregate_is_computed() {
    use Aggregate as A;
    let aggregates = vec![
        A::Count,
        A::Sum,
        A::Mean,
        A::Min,
        A::Max,
        A::First,
        A::Last,
        A::Range,
        A::Variance,
        A::Stddev,
        A::Percentile(500),
        A::Percentile(999),
    ];
    let expected = "m t_count=4i,t_sum=20,t_mean=5,t_min=2,t_max=8,t_first=4,t_last=8,t_range=6,t_variance=6.666666666666667,\
                    t_stddev=2.581988897471611,t_p50=4,t_p999=8 0";
    let mut tumbling = world(WindowSpec { aggregates: aggregates.clone(), ..window() });
    // First and last go by event time, of equal times by arrival.
    tumbling.batch(&["p m t=2 3", "p m t=6 9", "p m t=4 1", "p m t=8 9"]);
    tumbling.finish();
    assert_eq!(tumbling.take(), [expected]);
    // The same merged from panes.
    let mut hopping = world(WindowSpec { every: 2 * S, period: 10 * S, aggregates, ..window() });
    hopping.batch(&["p m t=2 3", "p m t=6 9", "p m t=4 1", "p m t=8 9"]);
    hopping.finish();
    assert!(hopping.take().contains(&expected.to_owned()));
}

#[test]
fn variance_is_sound_far_from_zero() {
    let mut world = world(WindowSpec { every: 2 * S, period: 10 * S, aggregates: vec![Aggregate::Variance], ..window() });
    world.batch(&["p m t=1000000004 1", "p m t=1000000007 3", "p m t=1000000013 5", "p m t=1000000016 7"]);
    world.finish();
    assert!(world.take().contains(&"m t_variance=30 0".to_owned()));
}

#[test]
fn text_and_booleans_take_part_in_count_first_and_last_only() {
    use Aggregate as A;
    let mut both = world(WindowSpec { aggregates: vec![A::Count, A::Mean, A::First, A::Last], ..window() });
    both.batch(&["p m s=\"on\",b=true,t=3 5", "p m s=\"off\",b=false,t=5 2", "p m s=\"idle\" 7"]);
    both.finish();
    assert_eq!(
        both.take(),
        ["m s_count=3i,s_first=\"off\",s_last=\"idle\",b_count=2i,b_first=false,b_last=true,t_count=2i,t_mean=4,t_first=5,t_last=3 0"]
    );
    let mut mean = world(WindowSpec { aggregates: vec![A::Mean], ..window() });
    mean.batch(&["p m s=\"on\" 1", "p m s=\"on\",t=2 2"]);
    mean.finish();
    // Nothing of the first is taken, so it goes on as it is.
    assert_eq!(mean.take(), ["m s=\"on\" 1", "m t_mean=2 0"]);
    assert_eq!((mean.operators.counts().passed, mean.operators.counts().taken), (1, 1));
}

#[test]
fn a_value_of_another_type_than_before_is_a_conflict() {
    let mut world = world(WindowSpec { aggregates: vec![Aggregate::Count], ..window() });
    world.batch(&["p m t=1 1", "p m t=\"hot\" 2", "p m t=\"hot\",u=1 3"]);
    world.finish();
    assert_eq!(world.take(), ["m t=\"hot\" 2", "m t_count=1i,u_count=1i 0"]);
    assert_eq!((world.counts("w").conflict_type, world.counts("w").applied), (1, 2));
}

#[test]
fn filters_and_patterns_choose_what_a_window_takes() {
    let filter = Filter::new(&FilterOptions {
        namepass: vec!["m*".into()],
        fieldexclude: vec!["skip".into()],
        tagexclude: vec!["x".into()],
        ..options()
    });
    let mut world = world(WindowSpec { filter, fields: vec!["t*".into(), "skip".into()], ..window() });
    world.batch(&["p m,d=1,x=2 t1=1,other=2,skip=3 1", "p n t1=1 2", "p m,d=1,x=2 other=2 3"]);
    world.finish();
    assert_eq!(world.take(), ["n t1=1 2", "m,d=1,x=2 other=2 3", "m,d=1 t1_count=1i,t1_sum=1 0"]);
}

pub(super) fn options() -> FilterOptions {
    FilterOptions {
        namepass: vec![],
        namedrop: vec![],
        fieldinclude: vec![],
        fieldexclude: vec![],
        tagpass: Default::default(),
        tagdrop: Default::default(),
        taginclude: vec![],
        tagexclude: vec![],
    }
}

#[test]
fn a_window_that_keeps_originals_passes_what_it_takes() {
    let mut world = world(WindowSpec { drop_original: false, ..window() });
    world.batch(&["p m t=1 1"]);
    world.finish();
    assert_eq!(world.take(), ["m t=1 1", "m t_count=1i,t_sum=1 0"]);
}

#[test]
fn groups_and_panes_are_bounded_and_what_is_refused_goes_on_raw() {
    let mut s = spec(vec![window()], vec![]);
    s.limits.groups_max = 1;
    s.limits.panes_per_group_max = 2;
    let mut world = World::new(s);
    world.now = 100;
    world.batch(&["p m,d=a t=1 1", "p m,d=b t=2 1", "p m,d=b t=4 2"]);
    assert_eq!(world.take(), ["m,d=b t=2 1", "m,d=b t=4 2"]);
    world.batch(&["q m,d=a t=8 15"]);
    assert_eq!(world.counts("w").overflow_groups, 2);
    world.batch(&["q m,d=a t=16 35", "q m,d=a t=32 12"]);
    assert_eq!(world.take(), ["m,d=a t=16 35"]);
    assert_eq!(world.counts("w").overflow_panes, 1);
}

#[test]
fn panes_of_all_groups_are_bounded_in_bytes_and_what_would_grow_them_goes_on_raw() {
    let mut told = Vec::new();
    for restarts in [false, true] {
        let mut s = spec(vec![WindowSpec { aggregates: vec![Aggregate::Count, Aggregate::Percentile(500)], ..window() }], vec![]);
        s.limits.panes_bytes_max = 4096;
        let mut world = World::new(s);
        world.now = 100;
        // A kibibyte or so each: some find room, and whoever has a pane goes on as long as it does not grow.
        for device in 0..10 {
            world.batch(&[&format!("p m,d=d{device} t={device} 1")]);
        }
        let raw = world.take();
        assert!((4..9).contains(&raw.len()) && raw[raw.len() - 1] == "m,d=d9 t=9 1", "{raw:?}");
        assert_eq!(world.counts("w").overflow_panes, raw.len() as u64);
        if restarts {
            world.restart();
        }
        for value in 1..40 {
            world.batch(&[&format!("p m,d=d0 t={value} 2")]);
        }
        let beyond = world.take();
        assert_eq!(beyond.first().map(String::as_str), Some("m,d=d0 t=32 2"), "the 33rd value would make buckets of them");
        assert_eq!(beyond.len(), 8);
        world.batch(&["p m,d=d0 u=1 3"]);
        assert_eq!(world.take(), ["m,d=d0 u=1 3"], "a field that is new would take room");
        // Closed windows make room.
        world.batch(&["p m,d=d0 t=1 11", "p m,d=d1 t=1 11", "p m,d=d2 t=1 11"]);
        let closed = world.take();
        assert_eq!(closed.iter().filter(|line| line.contains("t_count")).count(), 10 - raw.len(), "{closed:?}");
        world.batch(&["p m,d=d9 t=7 12"]);
        assert_eq!(world.take(), Vec::<String>::new());
        told.push((raw, beyond, closed, world.counts("w")));
    }
    assert_eq!(format!("{:?}", told[0]), format!("{:?}", told[1]), "a restart changes nothing");
}

#[test]
fn a_result_of_nothing_finite_is_not_written() {
    let mut world = world(WindowSpec { aggregates: vec![Aggregate::Sum, Aggregate::Max], ..window() });
    world.batch(&["p m t=1.7e308 1", "p m t=1.7e308 2"]);
    world.finish();
    assert_eq!(world.take(), [format!("m t_max={} 0", 1.7e308)]);
}

#[test]
fn fields_that_come_later_join_the_pane() {
    let mut world = world(window());
    world.batch(&["p m a=1 1", "p m b=2,a=4 2", "p m c=8 3"]);
    world.finish();
    assert_eq!(world.take(), ["m a_count=2i,a_sum=5,b_count=1i,b_sum=2,c_count=1i,c_sum=8 0"]);
}

#[test]
fn two_windows_take_the_same_point() {
    let mut world = World::new(spec(vec![window(), WindowSpec { name: "long".into(), every: 30 * S, period: 30 * S, ..window() }], vec![]));
    world.now = 100;
    world.batch(&["p m t=1 1", "p m t=2 11", "p m t=4 30"]);
    assert_eq!(world.take(), ["m t_count=1i,t_sum=1 0", "m t_count=1i,t_sum=2 10", "m t_count=2i,t_sum=3 0"]);
    assert_eq!(world.operators.counts().taken, 3);
}

#[test]
fn a_point_at_the_end_of_all_time_closes_its_window_once() {
    // The last nanosecond there is begins a pane of this alignment.
    let last = WindowSpec { align: i64::MAX % (10 * S), allowed_lateness: S, ..window() };
    let mut spec = spec(vec![last], vec![]);
    spec.time.future_skew_max = i64::MAX;
    let mut world = World::new(spec);
    world.batch(&["p m t=1 1e12"]);
    world.finish();
    assert_eq!(world.take().len(), 1);
    world.batch(&["p m t=2 1e12"]);
    world.tick(100);
    assert!(world.take().len() <= 1);
}
