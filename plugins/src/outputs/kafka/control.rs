//! The control record: how far an output has got, in the same transaction as the points themselves, and the topic that keeps it.
//!
//! One record per agent and output holds the cursors of both lanes, so one transaction needs one. All of them go to partition 0, whose
//! offsets make a hint of where to begin reading: the record that counts is never before one that was known.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
};
use serde_json::{Value, json};
use weir_plugin_api::{Identity, Lane};

use super::{Hold, producer::Message};

/// The partition of the topic that is used.
pub const PARTITION: i32 = 0;
/// Points refused for good that a control record remembers: the agent may not have noted yet that they were.
const REFUSED_MAX: usize = 256;
/// How long one question to the broker may take.
const QUESTION: Duration = Duration::from_secs(10);
/// How long one poll blocks.
const POLL: Duration = Duration::from_millis(100);

/// What the destination refused of a lane, and why, as a counter's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub lane: Lane,
    pub identity: Identity,
    pub status: String,
}

/// How far an output has got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// The life of the store that wrote it.
    pub life: u64,
    /// Last identity that is in Kafka, by lane.
    pub cursors: [Identity; 2],
    /// The newest points refused up to there, oldest first.
    pub refused: Vec<Refused>,
}

impl Control {
    /// Remembers one more that was refused.
    pub fn refuse(&mut self, refused: Refused) {
        self.refused.push(refused);
        let surplus = self.refused.len().saturating_sub(REFUSED_MAX);
        self.refused.drain(..surplus);
    }

    /// The message for output `output` of the agent `agent`.
    pub fn message(&self, topic: &str, agent: u64, output: &str) -> Message {
        let [alerts, results] = self.cursors.map(|at| json!([at.record, at.ordinal]));
        let refused: Vec<Value> =
            self.refused.iter().map(|r| json!([lane_name(r.lane), r.identity.record, r.identity.ordinal, r.status])).collect();
        let value =
            json!({ "version": 1, "life": format!("{:016x}", self.life), "alerts": alerts, "results": results, "refused": refused });
        Message {
            topic: topic.to_owned(),
            key: Some(key(agent, output)),
            payload: value.to_string().into_bytes(),
            timestamp: None,
            partition: Some(PARTITION),
        }
    }

    /// Reads what [`Control::message`] wrote.
    fn read(payload: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(payload).ok()?;
        let at =
            |record: &Value, ordinal: &Value| Some(Identity { record: record.as_u64()?, ordinal: u32::try_from(ordinal.as_u64()?).ok()? });
        let cursor = |name: &str| at(&value[name][0], &value[name][1]);
        let refused = |entry: &Value| {
            let lane = Lane::ALL.into_iter().find(|lane| entry[0] == lane_name(*lane))?;
            Some(Refused { lane, identity: at(&entry[1], &entry[2])?, status: entry[3].as_str()?.to_owned() })
        };
        Some(Self {
            life: u64::from_str_radix(value["life"].as_str().filter(|_| value["version"] == 1)?, 16).ok()?,
            cursors: [cursor("alerts")?, cursor("results")?],
            refused: value["refused"].as_array()?.iter().filter_map(refused).collect(),
        })
    }
}

fn lane_name(lane: Lane) -> &'static str {
    match lane {
        Lane::Alerts => "alerts",
        Lane::Results => "results",
    }
}

/// Another agent's identities are other points.
fn key(agent: u64, output: &str) -> String {
    json!({ "agent": format!("{agent:016x}"), "output": output }).to_string()
}

/// Why the topic can't be used now.
#[derive(Debug)]
pub struct Unusable {
    /// Whether to try again.
    pub hold: Hold,
    pub reason: String,
}

impl Unusable {
    fn code(what: &str, code: RDKafkaErrorCode) -> Self {
        Self { hold: Hold::from(code), reason: format!("{what}: {code}") }
    }

    fn error(what: &str, error: &KafkaError) -> Self {
        match error.rdkafka_error_code() {
            Some(code) => Self::code(what, code),
            None => Self { hold: Hold::No, reason: format!("{what}: {error}") },
        }
    }
}

/// Makes the topic if it is missing. What is to be said of one that is there and not compacted comes back.
///
/// # Errors
/// Kafka does not answer, or it is missing and may not be made.
pub async fn ensure(connection: &ClientConfig, topic: &str) -> Result<Option<String>, Unusable> {
    let failed = |error: &KafkaError| Unusable::error(&format!("control topic `{topic}`"), error);
    let admin: AdminClient<DefaultClientContext> = connection.create().map_err(|e| failed(&e))?;
    let options = AdminOptions::new().request_timeout(Some(QUESTION)).operation_timeout(Some(QUESTION));
    let wanted = NewTopic::new(topic, PARTITION + 1, TopicReplication::Fixed(-1))
        .set("cleanup.policy", "compact")
        // What is not compacted is read at a start: little at a time is left open.
        .set("segment.bytes", "8388608")
        .set("min.cleanable.dirty.ratio", "0.1");
    let made = admin.create_topics([&wanted], &options).await.map_err(|e| failed(&e))?;
    match made.first() {
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {}
        // Whoever may not make topics may still write to one that is there; if it is not, that is found out next.
        Some(Err((
            _,
            RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed | RDKafkaErrorCode::PolicyViolation,
        ))) => {}
        Some(Err((_, code))) => return Err(Unusable::code(&format!("control topic `{topic}` can't be made"), *code)),
        _ => return Ok(None),
    }
    let described = admin.describe_configs([&ResourceSpecifier::Topic(topic)], &options).await;
    let Some(Ok(resource)) = described.ok().and_then(|mut all| all.pop()) else { return Ok(None) };
    let policy = resource.get("cleanup.policy").and_then(|entry| entry.value.clone()).unwrap_or_default();
    Ok((policy != "compact").then(|| format!("control topic `{topic}` has cleanup.policy={policy}: what it forgets may be sent twice")))
}

/// The newest committed control record of an output, read from offset `from` on; whoever could still change it has been shut out before.
///
/// # Errors
/// Kafka does not answer in time, or another producer's transaction is open in the topic.
pub fn find(connection: &ClientConfig, place: &Place<'_>, from: u64, given_up: &AtomicBool) -> Result<Option<Control>, Unusable> {
    let found = place.read(connection, from, given_up)?;
    match found {
        // The topic is not the one the hint is of.
        None if from > 0 => place.read(connection, 0, given_up),
        found => Ok(found),
    }
}

/// Where a control record lies.
pub struct Place<'a> {
    pub topic: &'a str,
    pub agent: u64,
    pub output: &'a str,
    /// Nobody joins it: a consumer has to have the name of a group.
    pub group: &'a str,
    pub timeout: Duration,
}

impl Place<'_> {
    fn read(&self, connection: &ClientConfig, from: u64, given_up: &AtomicBool) -> Result<Option<Control>, Unusable> {
        let topic = self.topic;
        let failed = |error: &KafkaError| Unusable::error(&format!("control topic `{topic}`"), error);
        let client = |isolation: &str| -> Result<BaseConsumer, Unusable> {
            let mut config = connection.clone();
            config
                .set("group.id", self.group)
                .set("enable.auto.commit", "false")
                .set("enable.partition.eof", "true")
                .set("auto.offset.reset", "earliest")
                // The end is told with an answer: one that has nothing to tell shall not wait.
                .set("fetch.wait.max.ms", "10")
                .set("isolation.level", isolation);
            config.create().map_err(|e| failed(&e))
        };
        let deadline = Instant::now() + self.timeout;
        let late = || Instant::now() >= deadline || given_up.load(Ordering::Relaxed);
        let newest = end(&client("read_uncommitted")?, topic, &late)?;
        let consumer = client("read_committed")?;
        // What others have not ended hides what lies behind it, and that may be ours.
        loop {
            let stable = end(&consumer, topic, &late)?;
            if stable >= newest {
                break;
            }
            if late() {
                return Err(Unusable { hold: Hold::No, reason: open_transaction(topic, stable) });
            }
            std::thread::park_timeout(POLL);
        }
        let mut partitions = TopicPartitionList::new();
        let offset = Offset::Offset(i64::try_from(from).unwrap_or(0));
        partitions.add_partition_offset(topic, PARTITION, offset).map_err(|e| failed(&e))?;
        consumer.assign(&partitions).map_err(|e| failed(&e))?;
        let (key, mut found) = (key(self.agent, self.output), None);
        loop {
            match consumer.poll(POLL) {
                Some(Ok(message)) if message.key() == Some(key.as_bytes()) => {
                    let control = message.payload().and_then(Control::read);
                    let offset = message.offset();
                    if control.is_none() {
                        tracing::warn!(topic, offset, "control record can't be read");
                    }
                    found = control;
                }
                Some(Ok(_)) => {}
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(found),
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    return Err(Unusable::code(&format!("control topic `{topic}`"), code));
                }
                // The client goes on by itself.
                Some(Err(error)) => tracing::debug!(topic, %error, "control topic"),
                None => {}
            }
            if late() {
                return Err(Unusable { hold: Hold::No, reason: format!("control topic `{topic}` was not read to its end in time") });
            }
        }
    }
}

/// A transaction ends by itself when its producer's `transaction.timeout.ms` is over; one the broker has lost the end of does not, and no
/// reader of committed messages gets past it (Kafka calls it hanging, KIP-664).
fn open_transaction(topic: &str, offset: i64) -> String {
    format!(
        "control topic `{topic}`: the transaction of another producer at offset {offset} of partition {PARTITION} is open; if it stays so for \
         longer than its timeout, Kafka has lost its end: see `kafka-transactions.sh find-hanging` and `abort`"
    )
}

/// Where the topic ends for this consumer: with `read_committed`, in front of the oldest open transaction. A topic just made is not known
/// everywhere at once.
fn end(consumer: &BaseConsumer, topic: &str, late: &impl Fn() -> bool) -> Result<i64, Unusable> {
    loop {
        match consumer.fetch_watermarks(topic, PARTITION, Duration::from_secs(1)) {
            Ok((_, end)) => return Ok(end),
            Err(error) if late() => return Err(Unusable::error(&format!("control topic `{topic}`"), &error)),
            Err(error) => {
                tracing::debug!(topic, %error, "control topic");
                std::thread::park_timeout(POLL);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_control_record_reads_as_it_was_written() {
        let at = |record, ordinal| Identity { record, ordinal };
        let mut control = Control { life: 0xfeed_0000_0000_0001, cursors: [at(3, 1), at(u64::MAX, u32::MAX)], refused: Vec::new() };
        for ordinal in 0..300 {
            control.refuse(Refused { lane: Lane::Results, identity: at(7, ordinal), status: "too_large".into() });
        }
        assert_eq!((control.refused.len(), control.refused[0].identity.ordinal), (REFUSED_MAX, 44), "the newest are kept");
        let message = control.message("t", 0xab, "a \"quoted\" name");
        assert_eq!(message.key.as_deref(), Some(r#"{"agent":"00000000000000ab","output":"a \"quoted\" name"}"#));
        assert_eq!((message.partition, Control::read(&message.payload)), (Some(0), Some(control)));
        for garbage in ["", "{}", "[]", r#"{"version":2,"life":"1","alerts":[0,0],"results":[0,0],"refused":[]}"#] {
            assert_eq!(Control::read(garbage.as_bytes()), None, "{garbage}");
        }
    }
}
