//! What needs no broker: options, topics, keys, verdicts.
#![allow(clippy::unwrap_used)]

use weir_plugin_api::{Value, options::Item};

use super::*;
use crate::outputs::testing::{PlainEncoder, node, points, text, texts};

fn checked(extra: &[(&str, Item)]) -> Result<Checked, Vec<String>> {
    use weir_plugin_api::options::{Diagnostics, Place, Table};
    let mut entries = vec![("brokers", texts(&["127.0.0.1:1"])), ("topic", text("points"))];
    entries.retain(|(k, _)| !extra.iter().any(|(e, _)| e == k));
    entries.extend(extra.iter().cloned());
    let table = Table { entries: entries.into_iter().map(|(k, i)| (k.to_owned(), Place::default(), node(i))).collect() };
    let diagnostics = Diagnostics::default();
    let section = Section::new("outputs.kafka", &table, Place::default(), &diagnostics);
    let read = options::read(&section);
    section.finish(options::UNSUPPORTED);
    let errors: Vec<_> = diagnostics.take().into_iter().map(|d| d.message).collect();
    match read {
        Some(read) if errors.is_empty() => Ok(read),
        _ => Err(errors),
    }
}

fn kafka(extra: &[(&str, Item)]) -> Kafka {
    Kafka {
        checked: checked(extra).unwrap_or_else(|errors| panic!("{errors:?}")),
        encoder: Box::new(PlainEncoder),
        name: "test".into(),
        producer: None,
        once: None,
        writes: 0,
        arrived: BTreeSet::new(),
        missing: Missing::default(),
    }
}

fn three() -> Points {
    points(&[
        ("cpu", &[("device", "a"), ("to", "x y")], &[("v", Value::Float(1.0))], 1_000_000),
        ("mem", &[("device", "b")], &[("v", Value::Float(2.0))], 2_000_000),
        ("cpu", &[("device", "a"), ("to", "x y")], &[("v", Value::Float(3.0))], 3_000_000),
    ])
}

fn shown(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|m| format!("{} {:?} {}", m.topic, m.key.as_deref().unwrap_or("-"), String::from_utf8_lossy(&m.payload))).collect()
}

#[test]
fn telegrafs_defaults_make_an_idempotent_producer() {
    let client = checked(&[]).map(|c| c.client).unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(client.get("acks"), Some("-1"));
    assert_eq!(client.get("enable.idempotence"), Some("true"));
    assert_eq!(client.get("security.protocol"), Some("plaintext"));
    let client = checked(&[("required_acks", Item::Int(1)), ("compression_codec", Item::Int(4))]).map(|c| c.client);
    let client = client.unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!((client.get("acks"), client.get("enable.idempotence")), (Some("1"), Some("false")));
    assert_eq!(client.get("compression.codec"), Some("zstd"));
}

#[test]
fn the_guarantee_is_that_of_the_options() {
    let guarantee = |extra: &[(&str, Item)]| kafka(extra).guarantee().unwrap();
    assert!(guarantee(&[]).starts_with("at least once"));
    assert!(guarantee(&[("exactly_once", Item::Bool(true))]).starts_with("exactly once"));
    assert!(guarantee(&[("required_acks", Item::Int(0))]).starts_with("at most once"));
}

#[test]
fn credentials_choose_the_protocol() {
    let sasl = [("sasl_username", text("u")), ("sasl_password", text("p")), ("sasl_mechanism", text("SCRAM-SHA-512"))];
    let client = checked(&sasl).map(|c| c.client).unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!((client.get("security.protocol"), client.get("sasl.mechanism")), (Some("sasl_plaintext"), Some("SCRAM-SHA-512")));
    let client = checked(&[("enable_tls", Item::Bool(true))]).map(|c| c.client).unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!((client.get("security.protocol"), client.get("ssl.ca.location")), (Some("ssl"), Some("probe")));
}

#[test]
fn impossible_options_are_reported() {
    for (options, expected) in [
        (vec![("compression_codec", Item::Int(9))], "between 0 and 4"),
        (vec![("required_acks", Item::Int(1)), ("idempotent_writes", Item::Bool(true))], "needs `required_acks = -1`"),
        (vec![("topic", text("no spaces"))], "`topic` takes"),
        (vec![("sasl_mechanism", text("GSSAPI"))], "expected one of PLAIN"),
        (vec![("tls_ca", text("/nowhere/ca.pem"))], "/nowhere/ca.pem"),
        (vec![("socks5_enabled", Item::Bool(true))], "does not support"),
        (vec![("brokers", texts(&[]))], "a list of"),
        (vec![("control_topic", text("c"))], "`control_topic` needs `exactly_once = true`"),
        (vec![("transactional_id", text("c"))], "`transactional_id` needs `exactly_once = true`"),
        (vec![("exactly_once", Item::Bool(true)), ("required_acks", Item::Int(1))], "needs `required_acks = -1`"),
        (vec![("exactly_once", Item::Bool(true)), ("control_topic", text("points"))], "must be another topic"),
        (vec![("exactly_once", Item::Bool(true)), ("timeout", text("20m"))], "at most 15m"),
    ] {
        let errors = checked(&options).err().unwrap();
        assert!(errors.iter().any(|e| e.contains(expected)), "{errors:?}");
    }
}

#[test]
fn topics_and_keys_come_from_tags_or_templates() {
    let mut kafka = kafka(&[
        ("topic", text("all.{{ .Name }}")),
        ("topic_tag", text("to")),
        ("exclude_topic_tag", Item::Bool(true)),
        ("routing_key", text("{{ .Tag \"device\" }}")),
    ]);
    let prepared = kafka.prepare(Lane::Results, &three());
    assert_eq!(
        shown(&prepared.messages),
        ["x_y \"a\" cpu,device=a v=1 1000000", "all.mem \"b\" mem,device=b v=2 2000000", "x_y \"a\" cpu,device=a v=3 3000000"]
    );
    assert_eq!(prepared.messages.iter().map(|m| m.timestamp).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
}

#[test]
fn a_batch_is_one_message_per_topic_and_key() {
    let mut kafka = kafka(&[("layout", text("batch")), ("routing_tag", text("device")), ("producer_timestamp", text("now"))]);
    let prepared = kafka.prepare(Lane::Results, &three());
    assert_eq!(
        shown(&prepared.messages),
        ["points \"a\" cpu,device=a,to=x\\ y v=1 1000000\ncpu,device=a,to=x\\ y v=3 3000000\n", "points \"b\" mem,device=b v=2 2000000\n"]
    );
    assert_eq!(prepared.owners, [vec![0, 2], vec![1]]);
    assert!(prepared.messages.iter().all(|m| m.timestamp.is_none()));
}

#[test]
fn what_arrived_is_not_sent_again_after_a_failure() {
    let mut kafka = kafka(&[]);
    let (points, owners) = (three(), vec![vec![0], vec![1], vec![2]]);
    let timed_out = Some(Err(RDKafkaErrorCode::MessageTimedOut));
    let sent = Sent { reports: vec![Some(Ok(0)), timed_out, Some(Ok(0))], trouble: None, missing: None, fatal: None };
    let verdict = outcome(&sent, &owners, Vec::new(), &mut Missing::default());
    assert!(matches!(verdict, Outcome::Retry { .. }));
    kafka.remember(Lane::Results, &points, &sent, &owners, &verdict);
    assert_eq!(kafka.prepare(Lane::Results, &points).owners, [vec![1]]);
    let sent = Sent { reports: vec![Some(Ok(0))], trouble: None, missing: None, fatal: None };
    let verdict = outcome(&sent, &[vec![1]], Vec::new(), &mut Missing::default());
    kafka.remember(Lane::Results, &points, &sent, &[vec![1]], &verdict);
    assert_eq!(kafka.prepare(Lane::Results, &points).owners.len(), 3, "another write starts from nothing");
}

#[test]
fn verdicts_follow_the_broker() {
    let of = |code, owners: Vec<usize>, trouble| {
        outcome(
            &Sent { reports: vec![Some(Err(code))], trouble, missing: None, fatal: None },
            &[owners],
            Vec::new(),
            &mut Missing::default(),
        )
    };
    use RDKafkaErrorCode as Code;
    assert!(matches!(of(Code::MessageSizeTooLarge, vec![0, 1], None), Outcome::TooLarge));
    assert!(
        matches!(of(Code::MessageSizeTooLarge, vec![0], None), Outcome::Delivered { rejected, .. } if rejected[0].status == "too_large")
    );
    assert!(matches!(of(Code::TopicAuthorizationFailed, vec![0], None), Outcome::Hold { .. }));
    assert!(matches!(of(Code::MessageTimedOut, vec![0], None), Outcome::Retry { .. }));
    let denied = Some((Code::Authentication, "SASL authentication failed".to_owned()));
    assert!(matches!(of(Code::MessageTimedOut, vec![0], denied), Outcome::Hold { .. }));
}

#[test]
fn a_producer_that_may_not_write_is_held_for_that_and_not_begun_anew_for_ever() {
    use RDKafkaErrorCode as Code;
    let after = |code, fatal| {
        let sent = Sent { reports: vec![Some(Err(code))], trouble: None, missing: None, fatal };
        outcome(&sent, &[vec![0]], Vec::new(), &mut Missing::default())
    };
    let Outcome::Hold { reason } = after(Code::Fatal, Some(Code::ClusterAuthorizationFailed)) else { panic!("held") };
    assert!(reason.contains("authorization"), "{reason}");
    for (code, fatal) in [(Code::Fatal, Code::OutOfOrderSequenceNumber), (Code::MessageTimedOut, Code::ClusterAuthorizationFailed)] {
        assert!(matches!(after(code, Some(fatal)), Outcome::Retry { .. }), "{code:?}");
    }
}

#[test]
fn a_missing_topic_is_tried_again_for_a_minute_until_somebody_has_to_make_it() {
    use RDKafkaErrorCode as Code;
    let (start, mut missing) = (Instant::now(), Missing::default());
    let mut after = |seconds, code: Code| {
        let outcome = missing.failed(code.into(), start + Duration::from_secs(seconds), String::new());
        matches!(outcome, Outcome::Hold { .. })
    };
    assert!(!after(0, Code::UnknownTopicOrPartition), "a broker that has just started may not know it yet");
    assert!(!after(59, Code::UnknownTopic));
    assert!(after(60, Code::UnknownTopicOrPartition), "nobody makes it");
    assert!(after(120, Code::UnknownTopic), "and goes on so");
    assert!(!after(130, Code::BrokerTransportFailure), "the broker is away");
    assert!(!after(200, Code::UnknownTopicOrPartition), "when it is back it has its time again");
    assert!(after(201, Code::TopicAuthorizationFailed), "nothing else waits");
}

#[test]
fn a_missing_topic_is_given_up_after_a_minute_whatever_the_delay_between_tries() {
    let (start, mut missing) = (Instant::now(), Missing::default());
    let (mut now, mut delay, took) = (start, Duration::from_secs(1), Duration::from_millis(5500));
    let held = loop {
        missing.begin(now);
        now += took;
        let outcome = missing.failed(RDKafkaErrorCode::UnknownTopic.into(), now, String::new());
        if matches!(outcome, Outcome::Hold { .. }) {
            break now - start;
        }
        now += missing.next.map_or(delay, |within| delay.min(within));
        delay = (delay * 2).min(Duration::from_secs(60));
    };
    assert!(held >= MISSING_MAX && held < MISSING_MAX + Duration::from_secs(2), "{held:?}");
}
