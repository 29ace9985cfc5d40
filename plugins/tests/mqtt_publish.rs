//! The MQTT output and action against a real broker.
#![cfg(all(feature = "output-mqtt", feature = "action-mqtt", feature = "codec-influx"))]
#![allow(clippy::unwrap_used)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use support::{Mosquitto, Subscriber, build, eventually, text, texts};
use weir_plugin_api::{
    Identity, Lane, Points, Series, Value,
    chunk::ChunkBuilder,
    options::Item,
    plugin::{AnyAction, EdgeAction, LevelAction, Notification, Outcome, Output, OutputResume, Rejection},
};
use weir_plugins::{actions, outputs};

mod support;

type Options<'a> = Vec<(&'a str, Item)>;

fn points(samples: &[(&str, &str, f64)]) -> Points {
    let (mut builder, field): (_, Arc<str>) = (ChunkBuilder::default(), "v".into());
    for (ordinal, (measurement, device, value)) in samples.iter().enumerate() {
        let series = Arc::new(Series::from_parts(measurement, &[("device", device)]));
        builder.point(Identity { record: 1, ordinal: ordinal as u32 }, &series, 1);
        builder.field(&field, ordinal as i64 + 1, Value::Float(*value));
    }
    Points::from(Arc::new(builder.finish()))
}

async fn output(url: &str, extra: Options<'_>) -> Box<dyn Output> {
    let mut options = vec![("servers", texts(&[url])), ("qos", Item::Int(1)), ("data_format", text("influx"))];
    options.retain(|(k, _)| !extra.iter().any(|(e, _)| e == k));
    options.extend(extra);
    let mut output = build(&outputs::mqtt::ENTRY, options).unwrap();
    output.open(OutputResume::default()).await.unwrap();
    output
}

fn delivered(rejected: Vec<Rejection>) -> Outcome {
    Outcome::Delivered { rejected, collapsed: 0, token: 0 }
}

#[tokio::test]
async fn each_point_goes_to_the_topic_of_its_template() {
    for (protocol, qos) in [("5", 1), ("5", 0), ("3.1.1", 1), ("3.1.1", 0)] {
        let broker = Mosquitto::start();
        let seen = Subscriber::start(&broker).await;
        let topic = text("site/{{ .Tag \"device\" }}/{{ .Name }}");
        let mut output = output(&broker.url(), vec![("topic", topic), ("protocol", text(protocol)), ("qos", Item::Int(qos))]).await;
        let points = points(&[("cpu", "a", 1.5), ("cpu", "b/+#", 2.5)]);
        assert_eq!(output.write(Lane::Results, &points).await, delivered(vec![]), "{protocol} {qos}");
        let lines = seen.messages(2).await;
        assert_eq!(lines[..2], ["0 site/a/cpu cpu,device=a v=1.5 1", "0 site/b/__/cpu cpu,device=b/+# v=2.5 2"], "{protocol} {qos}");
        output.close().await;
        eventually("goodbye", || broker.log().contains("Received DISCONNECT")).await;
    }
}

#[tokio::test]
async fn a_batch_is_one_message_per_topic() {
    let broker = Mosquitto::start();
    let seen = Subscriber::start(&broker).await;
    let mut output = output(&broker.url(), vec![("topic", text("all/{{ .Name }}")), ("layout", text("batch"))]).await;
    let points = points(&[("cpu", "a", 1.0), ("mem", "a", 2.0), ("cpu", "b", 3.0)]);
    assert_eq!(output.write(Lane::Results, &points).await, delivered(vec![]));
    let lines = seen.messages(3).await;
    assert_eq!(lines[..3], ["0 all/cpu cpu,device=a v=1 1", "cpu,device=b v=3 3", "0 all/mem mem,device=a v=2 2"]);
}

#[tokio::test]
async fn more_points_than_the_broker_takes_at_once_arrive_all() {
    let broker = Mosquitto::start();
    let mut output = output(&broker.url(), vec![("topic", text("t"))]).await;
    let samples: Vec<_> = (0..2000).map(|i| ("m", "a", f64::from(i))).collect();
    assert_eq!(output.write(Lane::Results, &points(&samples)).await, delivered(vec![]));
    assert_eq!(broker.log().matches("Sending PUBACK").count(), 2000);
}

#[tokio::test]
async fn a_broker_that_is_down_is_a_retry_and_its_return_a_delivery() {
    let mut broker = Mosquitto::start();
    broker.kill();
    let mut output = output(&broker.url(), vec![("topic", text("t"))]).await;
    let points = points(&[("cpu", "a", 1.0)]);
    assert!(matches!(output.write(Lane::Results, &points).await, Outcome::Retry { .. }));
    broker.start_again();
    assert_eq!(output.write(Lane::Results, &points).await, delivered(vec![]));
    broker.kill();
    broker.start_again();
    // The connection is lost, the next attempts find the new one.
    let mut outcome = output.write(Lane::Results, &points).await;
    for _ in 0..3 {
        if matches!(outcome, Outcome::Retry { .. }) {
            outcome = output.write(Lane::Results, &points).await;
        }
    }
    assert_eq!(outcome, delivered(vec![]));
}

#[tokio::test]
async fn a_wrong_password_holds_and_a_forbidden_topic_too() {
    let directory = tempfile::tempdir().unwrap();
    let passwords = directory.path().join("passwords");
    std::process::Command::new("mosquitto_passwd").args(["-c", "-b"]).arg(&passwords).args(["weir", "secret"]).status().unwrap();
    std::fs::write(directory.path().join("acl"), "user weir\ntopic readwrite allowed/#\n").unwrap();
    let broker = Mosquitto::in_directory(directory, "allow_anonymous false\npassword_file {dir}/passwords\nacl_file {dir}/acl");
    let login = |password: &str, topic: &str| vec![("username", text("weir")), ("password", text(password)), ("topic", text(topic))];
    let points = points(&[("cpu", "a", 1.0)]);
    for protocol in ["5", "3.1.1"] {
        let mut options = login("wrong", "allowed/x");
        options.push(("protocol", text(protocol)));
        let Outcome::Hold { reason } = output(&broker.url(), options).await.write(Lane::Results, &points).await else {
            panic!("{protocol}")
        };
        assert!(!reason.contains("wrong"), "{reason}");
    }
    let mut forbidden = output(&broker.url(), login("secret", "forbidden")).await;
    assert!(matches!(forbidden.write(Lane::Results, &points).await, Outcome::Hold { .. }));
    let mut allowed = output(&broker.url(), login("secret", "allowed/x")).await;
    assert_eq!(allowed.write(Lane::Results, &points).await, delivered(vec![]));
}

#[tokio::test]
async fn a_message_the_broker_does_not_take_is_rejected_alone() {
    let broker = Mosquitto::with("max_packet_size 1000");
    let mut output = output(&broker.url(), vec![("topic", text("t"))]).await;
    let long = "x".repeat(2000);
    let points = points(&[("cpu", "a", 1.0), (&long, "a", 2.0), ("cpu", "a", 3.0)]);
    let Outcome::Delivered { rejected, .. } = output.write(Lane::Results, &points).await else { panic!("delivered") };
    assert_eq!(rejected.iter().map(|r| (r.index, r.status.as_str())).collect::<Vec<_>>(), [(1, "too_large")]);
    eventually("the other two", || broker.log().matches("Sending PUBACK").count() == 2).await;
}

#[tokio::test]
async fn a_silent_broker_is_a_retry_within_the_timeout() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("tcp://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let mut output = output(&url, vec![("topic", text("t")), ("timeout", text("200ms"))]).await;
    let start = Instant::now();
    assert!(matches!(output.write(Lane::Results, &points(&[("m", "a", 1.0)])).await, Outcome::Retry { .. }));
    // Less than without the option; all the rest of that is for a busy machine.
    assert!(start.elapsed() < Duration::from_millis(4900), "{:?}", start.elapsed());
}

fn notification(n: u64, state: &str) -> Notification {
    Notification {
        alert: "overheat".into(),
        state: state.into(),
        severity: "critical".into(),
        tags: vec![("device".into(), "a".into())],
        value: Some(81.5),
        n,
        time: 1_700_000_000_000_000_000,
        historical: false,
        idempotency_key: format!("overheat/device=a/{n}"),
    }
}

fn edge(broker: &Mosquitto, mut options: Options<'_>) -> Box<dyn EdgeAction> {
    options.push(("servers", texts(&[&broker.url()])));
    match build(&actions::mqtt::ENTRY, options).unwrap() {
        AnyAction::Edge(action) => action,
        AnyAction::Level(_) => panic!("an edge action"),
    }
}

fn level(broker: &Mosquitto, mut options: Options<'_>) -> Box<dyn LevelAction> {
    options.extend([("servers", texts(&[&broker.url()])), ("mode", text("level"))]);
    match build(&actions::mqtt::ENTRY, options).unwrap() {
        AnyAction::Level(action) => action,
        AnyAction::Edge(_) => panic!("a level action"),
    }
}

#[tokio::test]
async fn a_transition_is_a_message_with_its_key() {
    let broker = Mosquitto::start();
    let seen = Subscriber::start(&broker).await;
    let mut plain = edge(&broker, vec![("topic", text("alerts/{{ .Alert }}/{{ .Tag \"device\" }}"))]);
    assert_eq!(plain.fire(&notification(3, "firing")).await, delivered(vec![]));
    let payload = text("{{ .Alert }} is {{ .State }} at {{ .Value }} ({{ .Key }})");
    let mut own = edge(&broker, vec![("topic", text("alerts")), ("payload", payload), ("retain", Item::Bool(true))]);
    assert_eq!(own.fire(&notification(4, "resolved")).await, delivered(vec![]));
    let lines = seen.messages(2).await;
    assert!(lines[0].starts_with("0 alerts/overheat/a {\"alert\":\"overheat\""), "{lines:?}");
    assert!(lines[0].contains("\"idempotency_key\":\"overheat/device=a/3\""), "{lines:?}");
    assert_eq!(lines[1], "0 alerts overheat is resolved at 81.5 (overheat/device=a/4)");
}

#[tokio::test]
async fn a_level_is_retained_for_whoever_comes_later() {
    let broker = Mosquitto::start();
    let mut siren = level(&broker, vec![("topic", text("siren")), ("on", text("ON")), ("off", text("OFF")), ("on_exit", text("off"))]);
    siren.set(true).await.unwrap();
    let later = Subscriber::start(&broker).await;
    assert_eq!(later.messages(1).await, ["1 siren ON"]);
    siren.set(true).await.unwrap();
    siren.exit().await;
    assert_eq!(later.messages(3).await, ["1 siren ON", "0 siren ON", "0 siren OFF"]);
}

#[tokio::test]
async fn a_level_survives_the_broker() {
    let mut broker = Mosquitto::start();
    let mut siren = level(&broker, vec![("topic", text("siren")), ("fire", text("at_once"))]);
    assert!(siren.at_once());
    siren.set(false).await.unwrap();
    broker.kill();
    assert!(siren.set(true).await.is_err());
    broker.start_again();
    let seen = Subscriber::start(&broker).await;
    siren.set(true).await.unwrap();
    assert!(seen.messages(1).await.iter().any(|l| l.ends_with("siren on")));
}

#[test]
fn options_of_the_other_mode_are_refused() {
    let servers = || ("servers", texts(&["broker"]));
    let errors = |options| build(&actions::mqtt::ENTRY, options).err().unwrap().join("; ");
    assert!(errors(vec![servers(), ("topic", text("t")), ("on", text("1"))]).contains("no meaning with mode = \"edge\""));
    assert!(errors(vec![servers(), ("topic", text("t/+")), ("mode", text("level"))]).contains("one topic"));
    assert!(errors(vec![servers(), ("topic", text("{{ .Nothing }}"))]).contains("expected .Alert"));
}
