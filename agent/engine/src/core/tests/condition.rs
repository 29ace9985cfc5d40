//! The agent's own alerts: told once, numbered for good, whatever dies in between.

use weir_plugin_api::{Chunk, Value};

use super::*;
use crate::spec::OnStorageFailure;

/// Outputs that take what the agent tells about itself.
fn spec() -> EngineSpec {
    let mut spec = super::spec();
    spec.outputs.iter_mut().for_each(|output| output.filter = Filter::default());
    spec
}

const HELD: Event = Event::Held { output: 1, held: true };
const TAKES: Event = Event::Held { output: 1, held: false };

fn told(chunk: &Chunk, from: usize) -> Vec<String> {
    (from..chunk.len())
        .map(|i| {
            let point = chunk.point(i);
            let fields: Vec<String> = point.fields().filter(|(k, _)| *k != "historical").map(|(k, v)| format!("{k}={v:?}")).collect();
            assert_eq!(point.field("historical"), Some(Value::Bool(false)));
            format!("{} {}", point.series().line(), fields.join(" "))
        })
        .collect()
}

/// The alert points an output gets, all delivered; the block they are in is committed and durable first.
fn alerts(world: &mut World, output: u16) -> Vec<String> {
    world.sync();
    let mut all = Vec::new();
    loop {
        let effects = world.step(Event::Want { output, lane: Lane::Alerts });
        let offered = effects.into_iter().find_map(|e| match e {
            Effect::Offer { lane: Lane::Alerts, chunk, from, .. } => Some((chunk, from)),
            _ => None,
        });
        let Some((chunk, from)) = offered else {
            // So that no other step answers it.
            world.core.waiting.lane(Lane::Alerts).cursors[usize::from(output)].wants = false;
            return all;
        };
        all.extend(told(&chunk, from));
        let counts = DeliveryCounts { delivered: (chunk.len() - from) as u64, ..DeliveryCounts::default() };
        world.step(Event::Delivered { output, lane: Lane::Alerts, upto: chunk.identity(chunk.len() - 1), counts, token: 0 });
    }
}

fn logged(effects: &[Effect], text: &str) -> bool {
    effects.iter().any(|e| matches!(e, Effect::Log { message, .. } if message.contains(text)))
}

const FIRING: &str = r#"weir_alert,alert=output_held,output=far,severity=warning state=Text("firing") value=Float(2.0) n=Int(1)"#;

#[test]
fn a_held_output_is_told_to_the_others_once_and_again_when_it_takes_points() {
    let mut world = World::new(spec());
    world.take(&[1.0, 2.0]);
    let effects = world.step(HELD);
    assert!(appends(&effects) == 1, "an alert waits for no company: {effects:?}");
    assert!(logged(&effects, "alert output_held firing, output far, 2 points"), "{effects:?}");
    assert_eq!(alerts(&mut world, 0), [FIRING]);
    assert!(world.step(HELD).iter().all(|e| !matches!(e, Effect::Log { .. })), "it is held already");
    assert_eq!(alerts(&mut world, 0), [""; 0]);
    world.step(TAKES);
    let resolved = r#"weir_alert,alert=output_held,output=far,severity=warning state=Text("resolved") value=Float(3.0) n=Int(2)"#;
    // Its own points waited with the rest: two results and the alert.
    assert_eq!(alerts(&mut world, 0), [resolved]);
    assert_eq!(alerts(&mut world, 1), [FIRING, resolved]);
    world.balances();
}

#[test]
fn a_restart_tells_nothing_again_and_goes_on_numbering() {
    for checkpoint in [false, true] {
        let mut world = World::new(spec());
        world.take(&[1.0, 2.0]);
        world.step(HELD);
        assert_eq!(alerts(&mut world, 0), [FIRING]);
        // The cursor's record is durable too.
        world.take(&[0.5]);
        let state = checkpoint.then(|| world.checkpoint());
        world.restart(state.as_deref());
        assert!(world.core.is_held(1) && !world.core.is_held(0));
        world.step(HELD);
        assert_eq!(alerts(&mut world, 0), [""; 0]);
        world.step(TAKES);
        assert!(alerts(&mut world, 0)[0].contains(r#"state=Text("resolved") value=Float(4.0) n=Int(2)"#));
        world.balances();
    }
}

#[test]
fn what_an_output_that_is_gone_was_held_for_is_over() {
    let mut world = World::new(spec());
    world.step(HELD);
    alerts(&mut world, 0);
    let state = world.checkpoint();
    let mut without = spec();
    without.outputs.pop();
    world.spec = Arc::new(without);
    world.restart(Some(&state));
    let told = alerts(&mut world, 0);
    assert_eq!(told, [r#"weir_alert,alert=output_held,output=far,severity=warning state=Text("resolved") value=Float(0.0) n=Int(2)"#]);
}

#[test]
fn results_that_are_given_up_are_told_until_nothing_was_for_a_while() {
    let mut spec = spec();
    spec.outputs[1].waiting_points_max = 2;
    let mut world = World::new(spec);
    for value in 0..6 {
        world.take(&[f64::from(value)]);
    }
    let told = alerts(&mut world, 0);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with(r#"weir_alert,alert=outbox_dropping,output=far,severity=warning state=Text("firing")"#), "{told:?}");
    world.pass(599 * S);
    world.step(Event::Time);
    assert_eq!(alerts(&mut world, 0), [""; 0]);
    world.pass(2 * S);
    world.step(Event::Time);
    let told = alerts(&mut world, 0);
    assert!(told[0].contains(r#"state=Text("resolved")"#) && told[0].contains("n=Int(2)"), "{told:?}");
    world.balances();
}

#[test]
fn a_failed_disk_is_told_from_memory_whether_delivery_goes_on_from_there_or_not() {
    for on_failure in [OnStorageFailure::Continue, OnStorageFailure::Stall] {
        let mut spec = spec();
        spec.storage.on_failure = on_failure;
        spec.agent_alerts.severity = "critical".into();
        spec.agent_alerts.level_actions = vec![0];
        spec.outputs.push(OutputSpec { name: "ops".into(), alerts: true, edge: true, ..OutputSpec::default() });
        spec.agent_alerts.edge_actions = 1 << 2;
        let mut world = World::new(spec);
        world.take(&[1.0]);
        let mut effects = world.step(Event::StorageFailed { reason: "no card".into() });
        effects.extend(world.step(Event::StorageFailed { reason: "no card".into() }));
        let told = alerts(&mut world, 0);
        let alarms = effects.iter().filter(|e| matches!(e, Effect::Alarm { action: 2, severity, .. } if severity == "critical")).count();
        let siren = effects.iter().any(|e| matches!(e, Effect::Level { action: 0, on: true }));
        if on_failure == OnStorageFailure::Continue {
            assert_eq!(told, [r#"weir_alert,alert=storage_failed,severity=critical state=Text("firing") n=Int(1)"#]);
        } else {
            assert_eq!(told, [""; 0], "no point leaves that is not on the disk");
        }
        assert!(siren, "{on_failure:?} {effects:?}");
        assert_eq!(alarms, usize::from(on_failure == OnStorageFailure::Stall), "told at once and once where no alert can leave");
    }
}

#[test]
fn an_action_that_is_named_is_told() {
    let mut spec = spec();
    spec.outputs.push(OutputSpec { name: "ops".into(), alerts: true, edge: true, ..OutputSpec::default() });
    spec.agent_alerts.edge_actions = 1 << 2;
    spec.global_tags = vec![("site".into(), "x".into())];
    let mut world = World::new(spec);
    world.step(HELD);
    let told = alerts(&mut world, 2);
    assert!(told[0].starts_with("weir_alert,alert=output_held,output=far,severity=warning,site=x "), "{told:?}");
    assert_eq!(world.line(2).routed, 1);
}
