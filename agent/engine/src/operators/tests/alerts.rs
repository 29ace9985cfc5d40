//! Alerts over raw points and over results: transitions, groups, routes, levels, history.

use super::*;

fn world(alert: AlertSpec) -> World {
    let mut world = World::new(spec(vec![], vec![alert]));
    world.now = 1000;
    world
}

/// What left in the lane of alerts.
fn alerts(world: &mut World) -> Vec<String> {
    let chunk = world.results.take(Lane::Alerts);
    world.results.take(Lane::Results);
    super::read(&chunk)
}

#[test]
fn an_alert_fires_after_for_and_resolves_with_clear() {
    let clear = Some(expr::Expr::parse("t < 75").unwrap());
    let mut world = world(AlertSpec { clear, for_: 30 * S, by: Some(vec!["d".into()]), ..alert("t > 80") });
    world.batch(&["p m,d=a t=81 970", "p m,d=a t=82 999"]);
    assert_eq!(alerts(&mut world), Vec::<String>::new());
    world.batch(&["p m,d=a t=83 1000", "p m,d=a t=84 1001"]);
    let tags = "weir_alert,alert=hot,d=a,severity=critical";
    assert_eq!(alerts(&mut world), [format!("{tags} state=\"firing\",value=83,n=1i,historical=false 1000")]);
    assert_eq!((world.operators.levels(), world.operators.transitions()), (&[true][..], 1));
    world.batch(&["p m,d=a t=76 1002", "p m,d=a t=74 1003", "p m,d=a t=70 1004"]);
    assert_eq!(alerts(&mut world), [format!("{tags} state=\"resolved\",value=74,n=2i,historical=false 1003")]);
    assert_eq!(world.operators.levels(), [false]);
    world.batch(&["p m,d=a t=90 1005"]);
    assert_eq!((world.counts("hot").applied, world.counts("hot").transitions, world.operators.transitions()), (8, 2, 0));
}

#[test]
fn raw_points_go_on_whatever_an_alert_sees() {
    let mut world = world(alert("t > 80"));
    world.batch(&["p m,d=a t=81 1000"]);
    assert_eq!(
        world.take(),
        [
            "weir_alert,alert=hot,d=a,measurement=m,severity=critical state=\"firing\",value=81,n=1i,historical=false 1000",
            "m,d=a t=81 1000"
        ]
    );
}

#[test]
fn each_group_has_a_state_and_the_level_is_wanted_while_any_fires() {
    let mut world = world(alert("t > 80"));
    world.batch(&["p m,d=a t=81 1000", "p m,d=b t=81 1000", "p m,d=a t=1 1001"]);
    assert_eq!(alerts(&mut world).len(), 3);
    assert_eq!(world.operators.levels(), [true]);
    world.batch(&["p m,d=b t=1 1001"]);
    assert_eq!(world.operators.levels(), [false]);
}

#[test]
fn two_measurements_with_the_same_tags_are_two_groups_and_say_so() {
    let mut world = world(alert("t > 80"));
    world.batch(&["p m,d=a t=81 1000", "p n,d=a t=82 1000", "p m,d=a t=1 1001"]);
    let tags = |measurement| format!("weir_alert,alert=hot,d=a,measurement={measurement},severity=critical");
    assert_eq!(
        alerts(&mut world),
        [
            format!("{} state=\"firing\",value=81,n=1i,historical=false 1000", tags("m")),
            format!("{} state=\"firing\",value=82,n=1i,historical=false 1000", tags("n")),
            format!("{} state=\"resolved\",value=1,n=2i,historical=false 1001", tags("m")),
        ]
    );
    assert_eq!(world.operators.levels(), [true], "the other one still fires");
}

#[test]
fn a_missing_field_and_an_older_point_change_nothing() {
    let mut world = world(AlertSpec { by: Some(vec![]), ..alert("t > 80") });
    world.batch(&["p m t=81 1000", "p m u=1 1001", "p m t=\"x\" 1002", "p m t=1 999"]);
    assert_eq!(alerts(&mut world).len(), 1);
    assert_eq!((world.counts("hot").undefined, world.counts("hot").late), (2, 1));
}

#[test]
fn conditions_read_tags_and_the_filter_chooses_points() {
    let filter = Filter::new(&weir_plugin_api::filter::FilterOptions { namepass: vec!["m".into()], ..super::windows::options() });
    let mut world = world(AlertSpec { filter, ..alert("t > 80 and tag('d') == 'a'") });
    world.batch(&["p m,d=a t=81 1000", "p m,d=b t=81 1000", "p n,d=a t=81 1000"]);
    assert_eq!(alerts(&mut world).len(), 1);
    assert_eq!(world.counts("hot").r#in, 2);
}

#[test]
fn backlog_notifies_as_historical_and_moves_no_level_until_the_present_confirms() {
    let mut world = world(alert("t > 80"));
    world.batch(&["p m t=81 900"]);
    assert_eq!(
        alerts(&mut world),
        ["weir_alert,alert=hot,measurement=m,severity=critical state=\"firing\",value=81,n=1i,historical=true 900"]
    );
    assert_eq!(world.operators.levels(), [false]);
    world.batch(&["p m t=82 999"]);
    assert_eq!((alerts(&mut world).len(), world.operators.levels()), (0, &[true][..]));
}

#[test]
fn an_alert_over_results_sees_complete_ones_and_the_newest_revision() {
    let w = WindowSpec { allowed_lateness: 100 * S, reemit_every: 0, aggregates: vec![Aggregate::Mean], ..window() };
    let mut world = World::new(spec(vec![w], vec![AlertSpec { window: Some(0), ..alert("t_mean > 80") }]));
    world.now = 1000;
    world.batch(&["p m t=90 985"]);
    world.tick(1060);
    assert_eq!(alerts(&mut world), Vec::<String>::new());
    world.batch(&["p m t=70 995"]);
    assert_eq!(
        alerts(&mut world),
        ["weir_alert,alert=hot,measurement=m,severity=critical state=\"firing\",value=90,n=1i,historical=false 980"]
    );
    world.batch(&["p m t=60 1005"]);
    assert_eq!(
        alerts(&mut world),
        ["weir_alert,alert=hot,measurement=m,severity=critical state=\"resolved\",value=70,n=2i,historical=false 990"]
    );
    // A revision of the newest closed window is looked at, one of an older window is not.
    world.batch(&["p m t=200 996"]);
    assert_eq!(
        alerts(&mut world),
        ["weir_alert,alert=hot,measurement=m,severity=critical state=\"firing\",value=135,n=3i,historical=false 990"]
    );
    world.batch(&["p m t=1 986"]);
    assert_eq!((alerts(&mut world).len(), world.counts("hot").late), (0, 1));
}

#[test]
fn transitions_go_to_outputs_that_take_alerts_and_to_the_actions_named() {
    let mut s = spec(vec![], vec![AlertSpec { edge_actions: 1 << 2, ..alert("t > 80") }]);
    s.outputs.push(OutputSpec { name: "hook".into(), alerts: true, edge: true, ..OutputSpec::default() });
    s.outputs.push(OutputSpec { name: "other".into(), alerts: true, edge: true, ..OutputSpec::default() });
    let mut world = World::new(s);
    world.batch(&["p m t=81 0"]);
    assert_eq!(world.results.take(Lane::Alerts).route(0), 0b101);
}

#[test]
fn the_table_of_groups_is_bounded() {
    let mut s = spec(vec![], vec![alert("t > 80")]);
    s.limits.groups_max = 1;
    let mut world = World::new(s);
    world.batch(&["p m,d=a t=81 0", "p m,d=b t=81 0", "p m,d=b t=81 1"]);
    assert_eq!((alerts(&mut world).len(), world.counts("hot").overflow_groups), (1, 2));
}

#[test]
fn a_group_that_never_fired_and_is_silent_for_its_time_to_live_gives_its_place_to_another() {
    let mut s = spec(vec![], vec![alert("t > 80")]);
    s.limits.groups_max = 2;
    s.time.group_ttl = 2_000_000_000;
    let mut world = World::new(s);
    world.batch(&["p m,d=a t=81 0", "p m,d=b t=1 0"]);
    world.batch(&["p m,d=c t=81 1"]);
    assert_eq!(world.counts("hot").overflow_groups, 1, "nobody has been silent long enough");
    world.batch(&["p m,d=c t=81 2"]);
    assert_eq!(world.counts("hot").overflow_groups, 1);
    // One that has fired is remembered by its number, and so never makes place.
    world.batch(&["p m,d=b t=81 9"]);
    assert_eq!(world.counts("hot").overflow_groups, 2);
    assert_eq!(alerts(&mut world).len(), 2);
}
