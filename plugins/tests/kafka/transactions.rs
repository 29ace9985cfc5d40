//! Transactions: what a reader of committed messages sees when outputs come and go.

use std::collections::BTreeMap;

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use weir_plugin_api::plugin::Rejection;

use super::*;

/// An output of the agent whose state lies in `directory`: as it begins with store `store` when `recovered` records were found.
async fn once(kafka: &Kafka, directory: &Path, store: u64, recovered: u64, extra: Vec<(&str, Item)>) -> Box<dyn Output> {
    let broker = format!("127.0.0.1:{}", kafka.port);
    let mut options = vec![("brokers", texts(&[&broker])), ("data_format", text("influx")), ("exactly_once", Item::Bool(true))];
    options.push(("timeout", text("10s")));
    options.extend(extra);
    let mut output = support::build_in(directory, &outputs::kafka::ENTRY, options).unwrap();
    output.open(OutputResume { agent: store.into(), recovered, ..OutputResume::default() }).await.unwrap();
    output
}

/// Points numbered by record, `v` being the number.
fn numbered(range: std::ops::Range<u64>) -> Points {
    let (mut builder, field): (_, Arc<str>) = (ChunkBuilder::default(), "v".into());
    let series = Arc::new(Series::from_parts("m", &[]));
    for record in range {
        builder.point(Identity { record, ordinal: 0 }, &series, 1);
        builder.field(&field, 1, Value::Int(record as i64));
    }
    Points::from(Arc::new(builder.finish()))
}

/// How often each number is seen by readers of committed messages.
fn seen(kafka: &Kafka, topic: &str) -> BTreeMap<u64, u32> {
    let broker = format!("127.0.0.1:{}", kafka.port);
    let arguments = ["-b", &broker, "-X", "isolation.level=read_committed", "-C", "-t", topic, "-o", "beginning", "-e", "-q"];
    let output = Command::new("kcat").args(arguments).output().unwrap();
    let mut seen = BTreeMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let number = line.split("v=").nth(1).and_then(|v| v.split('i').next()).and_then(|v| v.parse().ok());
        *seen.entry(number.unwrap_or_else(|| panic!("{line}"))).or_default() += 1;
    }
    seen
}

/// Whether all transactions in a topic have ended.
fn stable(kafka: &Kafka, topic: &str) -> bool {
    let [all, committed] = ["read_uncommitted", "read_committed"].map(|isolation| {
        let broker = format!("127.0.0.1:{}", kafka.port);
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", broker)
            .set("isolation.level", isolation)
            .set("group.id", "ends")
            .create()
            .unwrap();
        client.fetch_watermarks(topic, 0, Duration::from_secs(5)).unwrap().1
    });
    committed == all
}

fn each_once(range: std::ops::Range<u64>) -> BTreeMap<u64, u32> {
    range.map(|n| (n, 1)).collect()
}

fn admin(kafka: &Kafka) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", format!("127.0.0.1:{}", kafka.port)).create().unwrap()
}

async fn make_topic(kafka: &Kafka, name: &str, config: (&str, &str)) {
    let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1)).set(config.0, config.1);
    let made = admin(kafka).create_topics([&topic], &AdminOptions::new()).await.unwrap();
    assert!(made[0].is_ok(), "{made:?}");
}

#[tokio::test]
async fn what_kafka_has_is_not_sent_again_and_what_it_has_not_is() {
    let mut kafka = Kafka::start();
    cursors_survive_the_output(&kafka).await;
    identities_of_another_life_are_other_points(&kafka).await;
    a_copied_state_shuts_nobody_out_and_sends_no_more_than_it_must(&kafka).await;
    what_is_refused_costs_only_itself(&kafka).await;
    two_of_one_name_shut_each_other_out(&kafka).await;
    what_others_have_not_ended_is_waited_for(&kafka).await;
    a_broker_killed_in_between_makes_no_difference(&mut kafka).await;
}

async fn cursors_survive_the_output(kafka: &Kafka) {
    let directory = tempfile::tempdir().unwrap();
    let extra = || vec![("topic", text("goes_on"))];
    let mut first = once(kafka, directory.path(), 7, 0, extra()).await;
    let Outcome::Delivered { token, .. } = first.write(Lane::Results, &numbered(1..101)).await else { panic!("delivered") };
    assert!(token > 0, "where its control record lies");
    assert_eq!(first.write(Lane::Results, &numbered(1..101)).await.is_delivered(), Some(0), "by the same, for that matter");
    // Each lane has a cursor of its own.
    assert_eq!(first.write(Lane::Alerts, &numbered(900..901)).await.is_delivered(), Some(0));
    // The agent dies without having noted any of it; with and without a hint of where to look.
    for hint in [0, token, 1 << 40] {
        let mut next = once(kafka, directory.path(), 7, 200, extra()).await;
        next.open(OutputResume { agent: 7.into(), recovered: 200, token: hint, ..OutputResume::default() }).await.unwrap();
        assert_eq!(next.write(Lane::Results, &numbered(50..151)).await.is_delivered(), Some(0));
    }
    let mut expected = each_once(1..151);
    expected.insert(900, 1);
    assert_eq!(seen(kafka, "goes_on"), expected);

    // The control topic was made compacted.
    let described = admin(kafka).describe_configs([&ResourceSpecifier::Topic("weir_control")], &AdminOptions::new()).await.unwrap();
    let policy = described[0].as_ref().unwrap().get("cleanup.policy").and_then(|entry| entry.value.clone());
    assert_eq!(policy.as_deref(), Some("compact"));
}

async fn a_copied_state_shuts_nobody_out_and_sends_no_more_than_it_must(kafka: &Kafka) {
    let (directory, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let extra = || vec![("topic", text("copied")), ("control_topic", text("copied_control"))];
    let mut first = once(kafka, directory.path(), 7, 0, extra()).await;
    first.write(Lane::Results, &numbered(1..101)).await;
    for entry in std::fs::read_dir(directory.path()).unwrap().flatten() {
        std::fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    // Another machine under the same state: 120 records were there, of which the first has sent 100.
    let agent = AgentId { now: 8, earlier: Some((7, 120)) };
    let resume = OutputResume { agent, recovered: 120, ..OutputResume::default() };
    let mut second = once(kafka, copy.path(), 8, 120, extra()).await;
    second.open(resume).await.unwrap();
    assert_eq!(second.write(Lane::Results, &numbered(50..151)).await.is_delivered(), Some(0));
    // The first goes on as if nothing had been, with the numbers the other has given as well.
    assert_eq!(first.write(Lane::Results, &numbered(101..161)).await.is_delivered(), Some(0), "nobody shut it out");
    let mut expected = each_once(1..161);
    expected.extend((101..151).map(|n| (n, 2)));
    assert_eq!(seen(kafka, "copied"), expected);
    // And so does the second, killed before it has noted anything.
    let mut second = once(kafka, copy.path(), 8, 200, extra()).await;
    second.open(OutputResume { recovered: 200, ..resume }).await.unwrap();
    assert_eq!(second.write(Lane::Results, &numbered(50..171)).await.is_delivered(), Some(0));
    expected.extend((151..161).map(|n| (n, 2)));
    expected.extend((161..171).map(|n| (n, 1)));
    assert_eq!(seen(kafka, "copied"), expected);
}

async fn identities_of_another_life_are_other_points(kafka: &Kafka) {
    let directory = tempfile::tempdir().unwrap();
    let extra = || vec![("topic", text("lives")), ("transactional_id", text("the same name")), ("control_topic", text("lives_control"))];
    once(kafka, directory.path(), 7, 0, extra()).await.write(Lane::Results, &numbered(1..101)).await;
    // The journal is gone, its directory is not: the same numbers are given again. Nor does it help to die once more.
    for recovered in [0, 100] {
        let mut again = once(kafka, directory.path(), 7, recovered, extra()).await;
        if recovered > 0 {
            assert_eq!(again.write(Lane::Results, &numbered(1..21)).await.is_delivered(), Some(0));
        }
    }
    let twice = |n: u64| if n < 21 { 2 } else { 1 };
    assert_eq!(seen(kafka, "lives"), (1..101).map(|n| (n, twice(n))).collect());
    // A part of it is gone: what came before is not sent again.
    let mut partly = once(kafka, directory.path(), 7, 10, extra()).await;
    assert_eq!(partly.write(Lane::Results, &numbered(5..21)).await.is_delivered(), Some(0));
    let times = |n: u64| if (11..21).contains(&n) { 3 } else { twice(n) };
    assert_eq!(seen(kafka, "lives"), (1..101).map(|n| (n, times(n))).collect());
    // Another directory, with the name of the old one.
    let fresh = tempfile::tempdir().unwrap();
    let mut fresh_output = once(kafka, fresh.path(), 8, 0, extra()).await;
    assert_eq!(fresh_output.write(Lane::Results, &numbered(1..101)).await.is_delivered(), Some(0));
    assert_eq!(seen(kafka, "lives"), (1..101).map(|n| (n, times(n) + 1)).collect());
}

async fn what_is_refused_costs_only_itself(kafka: &Kafka) {
    // The broker takes less than we do; a message that is too large for both is seen beforehand.
    make_topic(kafka, "narrow", ("max.message.bytes", "3000")).await;
    let directory = tempfile::tempdir().unwrap();
    let (mut builder, field, pad): (_, Arc<str>, Arc<str>) = (ChunkBuilder::default(), "v".into(), "w".into());
    let series = Arc::new(Series::from_parts("m", &[]));
    let long = |bytes: usize| "x".repeat(bytes);
    for record in 1..101 {
        builder.point(Identity { record, ordinal: 0 }, &series, 1);
        builder.field(&field, 1, Value::Int(record as i64));
        match record {
            40 => builder.field(&pad, 1, Value::Text(&long(4000))),
            41 => builder.field(&pad, 1, Value::Text(&long(20_000))),
            100 => builder.field(&pad, 1, Value::Text(&long(3500))),
            _ => {}
        }
    }
    let points = Points::from(Arc::new(builder.finish()));
    let extra = || vec![("topic", text("narrow")), ("max_message_bytes", Item::Int(10_000))];
    let refused = |outcome: Outcome| {
        let Outcome::Delivered { rejected, .. } = outcome else { panic!("{outcome:?}") };
        rejected.into_iter().map(|Rejection { index, status, .. }| (index, status)).collect::<Vec<_>>()
    };
    let expected: Vec<_> = [39, 40, 99].map(|index| (index, "too_large".to_owned())).into();
    let mut output = once(kafka, directory.path(), 7, 0, extra()).await;
    assert_eq!(refused(output.write(Lane::Results, &points).await), expected);
    // The agent died before it noted what was refused.
    let mut next = once(kafka, directory.path(), 7, 100, extra()).await;
    assert_eq!(refused(next.write(Lane::Results, &points).await), expected, "still refused, not delivered");
    let mut once_each = each_once(1..101);
    once_each.retain(|n, _| ![40, 41, 100].contains(n));
    assert_eq!(seen(kafka, "narrow"), once_each);
}

async fn two_of_one_name_shut_each_other_out(kafka: &Kafka) {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let extra = || vec![("topic", text("fenced")), ("transactional_id", text("mine"))];
    let mut first = once(kafka, one.path(), 1, 0, extra()).await;
    let mut second = once(kafka, two.path(), 2, 0, extra()).await;
    assert_eq!(first.write(Lane::Results, &numbered(1..11)).await.is_delivered(), Some(0));
    assert_eq!(second.write(Lane::Results, &numbered(101..111)).await.is_delivered(), Some(0));
    let Outcome::Retry { reason, .. } = first.write(Lane::Results, &numbered(11..21)).await else { panic!("shut out") };
    assert!(reason.contains("another producer has taken over the transactional id"), "{reason}");
    // It takes the name back, once; when it is shut out again, a person has to look.
    assert_eq!(first.write(Lane::Results, &numbered(11..21)).await.is_delivered(), Some(0));
    assert!(matches!(second.write(Lane::Results, &numbered(111..121)).await, Outcome::Retry { .. }));
    assert_eq!(second.write(Lane::Results, &numbered(111..121)).await.is_delivered(), Some(0));
    let Outcome::Hold { reason } = first.write(Lane::Results, &numbered(21..31)).await else { panic!("held") };
    assert!(reason.contains("transactional_id"), "{reason}");
    assert_eq!(first.write(Lane::Results, &numbered(21..31)).await.is_delivered(), Some(0));
    assert_eq!(seen(kafka, "fenced"), each_once(1..31).into_iter().chain(each_once(101..121)).collect());
}

async fn what_others_have_not_ended_is_waited_for(kafka: &Kafka) {
    make_topic(kafka, "shared_control", ("cleanup.policy", "compact")).await;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", format!("127.0.0.1:{}", kafka.port)).set("transactional.id", "another agent");
    let other: BaseProducer = config.create().unwrap();
    other.init_transactions(Duration::from_secs(30)).unwrap();
    other.begin_transaction().unwrap();
    other.send(BaseRecord::to("shared_control").key("theirs").payload("{}")).unwrap();
    other.flush(Duration::from_secs(30)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let extra = vec![("topic", text("behind")), ("control_topic", text("shared_control")), ("timeout", text("2s"))];
    let mut output = once(kafka, directory.path(), 9, 0, extra).await;
    let Outcome::Retry { reason, .. } = output.write(Lane::Results, &numbered(1..11)).await else { panic!("it waits") };
    assert!(reason.contains("control topic `shared_control`") && reason.contains("at offset 0 of partition 0 is open"), "{reason}");
    other.abort_transaction(Duration::from_secs(30)).unwrap();
    assert_eq!(output.write(Lane::Results, &numbered(1..11)).await.is_delivered(), Some(0));
    assert_eq!(seen(kafka, "behind"), each_once(1..11));
}

async fn a_broker_killed_in_between_makes_no_difference(kafka: &mut Kafka) {
    let directory = tempfile::tempdir().unwrap();
    let extra = || vec![("topic", text("killed")), ("timeout", text("5s"))];
    let mut output = once(kafka, directory.path(), 7, 0, extra()).await;
    assert_eq!(output.write(Lane::Results, &numbered(1..1001)).await.is_delivered(), Some(0));
    // Kafka answers a commit before its markers are in the topics, and a single broker killed in that moment forgets to write them when it is
    // back: while it waits for its former registration to time out, its partitions have no leader, and it takes them for deleted.
    for topic in ["killed", "weir_control"] {
        support::eventually("its markers are written", || stable(kafka, topic)).await;
    }
    kafka.process.kill();
    let down = output.write(Lane::Results, &numbered(1001..2001)).await;
    assert!(matches!(down, Outcome::Retry { .. }), "{down:?}");
    // A start while the broker is down waits for nobody, or it would take all of the timeout.
    let mut next = tokio::time::timeout(Duration::from_millis(4900), once(kafka, directory.path(), 7, 5000, extra())).await.unwrap();
    let down = next.write(Lane::Results, &numbered(900..2001)).await;
    assert!(matches!(&down, Outcome::Retry { reason, .. } if reason.contains("refused")), "{down:?}");
    kafka.restart();
    let start = Instant::now();
    while next.write(Lane::Results, &numbered(900..2001)).await.is_delivered() != Some(0) {
        assert!(start.elapsed() < Duration::from_secs(60), "it comes back");
    }
    assert_eq!(seen(kafka, "killed"), each_once(1..2001));
}

trait Delivered {
    /// How many were rejected, if it was delivered.
    fn is_delivered(&self) -> Option<usize>;
}

impl Delivered for Outcome {
    fn is_delivered(&self) -> Option<usize> {
        match self {
            Self::Delivered { rejected, .. } => Some(rejected.len()),
            _ => None,
        }
    }
}
