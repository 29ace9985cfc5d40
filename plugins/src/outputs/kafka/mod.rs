//! Delivers points to Apache Kafka; Telegraf's output of that name on librdkafka.
//!
//! A write is done when every message has its delivery report. The producer is idempotent by default: what librdkafka sends again
//! after a lost answer counts once. Points that arrived before a write failed are not sent again by the next attempt. Across a restart
//! of the agent delivery is at least once.
//!
//! With `exactly_once` a write is a transaction with a control record in it that says how far this output has got, and what Kafka has by
//! its own account is not sent again: see `once`. For readers with `isolation.level=read_committed` every point is there once, whatever
//! dies in between; others also see what was aborted.
//!
//! | what dies | without | with `exactly_once` |
//! | --- | --- | --- |
//! | broker, connection | once | once |
//! | agent | what was in doubt, twice | once |
//! | files of the store | what was not noted, twice | once while the store's `id` and the output's `.lives` are left, else as without |
//! | machine, and its card goes on in another | what was not noted, twice | once, unless the first goes on as well |

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rdkafka::error::RDKafkaErrorCode;
use tokio::sync::Mutex;
use weir_plugin_api::{
    Identity, Lane, PointView, Points, Series,
    chunk::ChunkBuilder,
    options::{OptionSpec, Section},
    plugin::{BoxFuture, BuildContext, Encoder, Outcome, Output, OutputEntry, OutputResume, PluginError, Rejection},
};

use crate::{codecs, net::template::fill_from_series};

mod control;
mod lives;
mod once;
mod options;
mod producer;
mod transaction;

use once::Once;
use options::{Checked, Layout, Options, Timestamp};
use producer::{Message, Producer, Sent};

/// The registry's entry.
pub static ENTRY: OutputEntry =
    OutputEntry { name: "kafka", about: "messages to Apache Kafka", specs, unsupported: options::UNSUPPORTED, build };

fn specs() -> Vec<OptionSpec> {
    let mut specs = Options::specs();
    specs.extend(codecs::encoder_specs());
    specs
}

fn build(section: &Section<'_>, context: &BuildContext) -> Option<Box<dyn Output>> {
    let (checked, encoder) = (options::read(section), codecs::encoder(section));
    let checked = checked?;
    let once = checked.options.exactly_once.then(|| Once::new(context.directory.join(format!("output-{}.lives", context.name))));
    let once = once.map(|once| Arc::new(Mutex::new(once)));
    Some(Box::new(Kafka {
        checked,
        once,
        encoder: encoder?,
        name: context.name.clone(),
        producer: None,
        writes: 0,
        arrived: BTreeSet::new(),
        missing: Missing::default(),
    }))
}

struct Kafka {
    checked: Checked,
    encoder: Box<dyn Encoder>,
    name: String,
    producer: Option<Producer>,
    /// With `exactly_once`; locked by a write, that nobody else wants it.
    once: Option<Arc<Mutex<Once>>>,
    writes: u64,
    /// Points of the failed write before this one that arrived all the same.
    arrived: BTreeSet<(Lane, Identity)>,
    missing: Missing,
}

/// Sets its flag when the write that owns it is dropped.
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Messages, and which points each one holds.
#[derive(Default)]
struct Prepared {
    messages: Vec<Message>,
    owners: Vec<Vec<usize>>,
    rejected: Vec<Rejection>,
}

impl Kafka {
    fn prepare(&mut self, lane: Lane, points: &Points) -> Prepared {
        let mut prepared = Prepared::default();
        let mut places: HashMap<(String, Option<String>), usize> = HashMap::new();
        let mut batches: Vec<Points> = Vec::new();
        let identities = points.slices.iter().flat_map(|(chunk, range)| range.clone().map(|i| chunk.identity(i)));
        for (index, (point, identity)) in points.iter().zip(identities).enumerate() {
            if self.arrived.contains(&(lane, identity)) {
                continue;
            }
            let (topic, key) = (self.topic(point), self.key(point));
            if !options::is_topic(&topic) {
                let reason = format!("Kafka has no topic `{topic}`");
                prepared.rejected.push(Rejection { index, status: "topic".into(), reason });
                continue;
            }
            let timestamp =
                (self.checked.options.producer_timestamp == Timestamp::Metric).then(|| point.time().div_euclid(1_000_000).max(0));
            let single = points.slice(index..index + 1);
            if self.checked.options.layout == Layout::PerPoint {
                let mut payload = Vec::new();
                let shown = self.without_topic_tag(&single);
                if let Some(point) = shown.as_ref().unwrap_or(&single).iter().next() {
                    self.encoder.encode(point, &mut payload);
                }
                if payload.last() == Some(&b'\n') {
                    payload.pop();
                }
                prepared.messages.push(Message { topic, key, payload, timestamp, partition: None });
                prepared.owners.push(vec![index]);
                continue;
            }
            let place = *places.entry((topic.clone(), key.clone())).or_insert_with(|| {
                prepared.messages.push(Message { topic, key, payload: Vec::new(), timestamp, partition: None });
                prepared.owners.push(Vec::new());
                batches.push(Points::default());
                batches.len() - 1
            });
            prepared.owners[place].push(index);
            batches[place].slices.extend(single.slices);
        }
        for (message, batch) in prepared.messages.iter_mut().zip(&batches) {
            let shown = self.without_topic_tag(batch);
            self.encoder.encode_all(shown.as_ref().unwrap_or(batch), &mut message.payload);
        }
        prepared
    }

    fn topic(&self, point: PointView<'_>) -> String {
        let tag = &self.checked.options.topic_tag;
        if !tag.is_empty()
            && let Some(topic) = point.series().tag(tag)
        {
            return clean(topic);
        }
        let mut topic = String::new();
        let mut fill = fill_from_series(point.series());
        self.checked.topic.render(&mut topic, |part, out| {
            let mut text = String::new();
            fill(part, &mut text);
            out.push_str(&clean(&text));
        });
        topic
    }

    fn key(&self, point: PointView<'_>) -> Option<String> {
        let tag = &self.checked.options.routing_tag;
        if !tag.is_empty()
            && let Some(key) = point.series().tag(tag)
        {
            return Some(key.to_owned());
        }
        let mut key = String::new();
        self.checked.key.as_ref()?.render(&mut key, fill_from_series(point.series()));
        (!key.is_empty()).then_some(key)
    }

    /// The same points without the tag that named the topic, if they are to be shown so.
    fn without_topic_tag(&self, points: &Points) -> Option<Points> {
        let Options { topic_tag, exclude_topic_tag: true, .. } = &self.checked.options else { return None };
        let mut builder = ChunkBuilder::default();
        for (ordinal, point) in points.iter().enumerate() {
            let series = point.series();
            let tags: Vec<(&str, &str)> = series.tags().filter(|(k, _)| k != topic_tag).collect();
            let series = Arc::new(Series::from_parts(series.measurement(), &tags));
            builder.point(Identity { record: 0, ordinal: ordinal as u32 }, &series, 0);
            for (name, value) in point.fields() {
                builder.field(&Arc::from(name), point.time(), value);
            }
        }
        Some(Points::from(Arc::new(builder.finish())))
    }

    async fn deliver(&mut self, lane: Lane, points: &Points) -> Outcome {
        let producer = match &self.producer {
            Some(producer) => producer.clone(),
            None => match Producer::new(&self.checked.client, &self.name, self.checked.options.timeout) {
                Ok(producer) => self.producer.insert(producer).clone(),
                Err(error) => return Outcome::Hold { reason: error.0 },
            },
        };
        let Prepared { messages, owners, rejected } = self.prepare(lane, points);
        self.missing.begin(Instant::now());
        self.writes += 1;
        let (write, flag) = (self.writes, Arc::new(AtomicBool::new(false)));
        let guard = GivenUp(Arc::clone(&flag));
        let sent = tokio::task::spawn_blocking(move || producer.send(write, &messages, &flag)).await;
        drop(guard);
        let Ok(sent) = sent else { return Outcome::Retry { after: None, reason: "the write was interrupted".into() } };
        if sent.fatal.is_some() {
            // Its sequence numbers are lost: the next write starts with a new producer.
            self.producer = None;
        }
        let outcome = outcome(&sent, &owners, rejected, &mut self.missing);
        self.remember(lane, points, &sent, &owners, &outcome);
        outcome
    }

    fn remember(&mut self, lane: Lane, points: &Points, sent: &Sent, owners: &[Vec<usize>], outcome: &Outcome) {
        if matches!(outcome, Outcome::Delivered { .. }) {
            let done = (lane, points.first_identity())..=(lane, points.last_identity());
            self.arrived.retain(|arrived| !done.contains(arrived));
            return;
        }
        let identities: Vec<Identity> = points.slices.iter().flat_map(|(c, range)| range.clone().map(|i| c.identity(i))).collect();
        for (report, owner) in sent.reports.iter().zip(owners) {
            if matches!(report, Some(Ok(_))) {
                self.arrived.extend(owner.iter().map(|index| (lane, identities[*index])));
            }
        }
    }
}

/// What Kafka allows of a text that is filled into a topic.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii() && options::is_topic_byte(c as u8) { c } else { '_' }).collect()
}

/// The verdict on a write: what failed for good is rejected, anything that may yet arrive makes the whole a retry. `missing` is of the writes
/// before.
fn outcome(sent: &Sent, owners: &[Vec<usize>], mut rejected: Vec<Rejection>, missing: &mut Missing) -> Outcome {
    let (mut retry, now) = (None, Instant::now());
    for (report, owner) in sent.reports.iter().zip(owners) {
        let code = match report {
            Some(Ok(_)) => continue,
            Some(Err(code)) => cause(*code, sent.fatal),
            None => RDKafkaErrorCode::MessageTimedOut,
        };
        match verdict(code) {
            Verdict::Reject(status) if status == "too_large" && owner.len() > 1 => return Outcome::TooLarge,
            Verdict::Reject(status) => {
                rejected.extend(owner.iter().map(|index| Rejection { index: *index, status: status.into(), reason: code.to_string() }));
            }
            Verdict::Hold => return missing.failed(Hold::Yes, now, code.to_string()),
            // What says that a topic is missing counts more than what timed out behind it.
            Verdict::Missing => retry = Some(code),
            Verdict::Retry => retry = retry.or(Some(code)),
        }
    }
    let Some(code) = retry else {
        missing.found();
        rejected.sort_by_key(|r| r.index);
        return Outcome::Delivered { rejected, collapsed: 0, token: 0 };
    };
    if let Some(topic) = &sent.missing {
        return missing.failed(Hold::Missing, now, no_topic(topic));
    }
    match &sent.trouble {
        Some((trouble, reason)) if Hold::from(*trouble) == Hold::Yes => missing.failed(Hold::Yes, now, reason.clone()),
        Some((trouble, reason)) => missing.failed(Hold::from(*trouble).max(code.into()), now, format!("{code}: {reason}")),
        None => missing.failed(Hold::from(code), now, code.to_string()),
    }
}

/// A message that failed as the producer had ended fails for what ended that, if somebody must act on it.
fn cause(code: RDKafkaErrorCode, fatal: Option<RDKafkaErrorCode>) -> RDKafkaErrorCode {
    fatal.filter(|fatal| code == RDKafkaErrorCode::Fatal && verdict(*fatal) == Verdict::Hold).unwrap_or(code)
}

/// What is said of a topic the broker does not know.
fn no_topic(topic: &str) -> String {
    format!("Kafka does not know the topic `{topic}`")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Retry,
    /// The broker does not know the topic. One that has just started, or is making it, knows it soon; else somebody has to make it.
    Missing,
    Hold,
    Reject(&'static str),
}

/// Whether it makes sense to try again soon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Hold {
    #[default]
    No,
    /// For a while: see [`Verdict::Missing`].
    Missing,
    /// Not before a person does something.
    Yes,
}

impl From<RDKafkaErrorCode> for Hold {
    fn from(code: RDKafkaErrorCode) -> Self {
        match verdict(code) {
            Verdict::Hold => Self::Yes,
            Verdict::Missing => Self::Missing,
            Verdict::Retry | Verdict::Reject(_) => Self::No,
        }
    }
}

/// How long a topic may be missing, all tries of that time having found a broker, until somebody has to make it.
const MISSING_MAX: Duration = Duration::from_secs(60);

/// A try takes the client some seconds; this is the least between two.
const TRY_AGAIN_MIN: Duration = Duration::from_secs(1);

/// Since when every try has found the topic missing.
#[derive(Debug, Default)]
struct Missing {
    /// When the write under way began.
    began: Option<Instant>,
    /// When the first of those tries did.
    since: Option<Instant>,
    /// When the next must begin at the latest, so that the last ends with [`MISSING_MAX`].
    next: Option<Duration>,
}

impl Missing {
    /// A write begins.
    fn begin(&mut self, now: Instant) {
        self.began = Some(now);
    }

    /// What is to be done after it failed at this time.
    fn failed(&mut self, hold: Hold, now: Instant, reason: String) -> Outcome {
        let began = self.began.take().unwrap_or(now);
        let since = if hold == Hold::Missing { Some(*self.since.get_or_insert(began)) } else { None };
        self.since = since;
        self.next = since.map(|since| MISSING_MAX.saturating_sub(now - since).saturating_sub(now - began).max(TRY_AGAIN_MIN));
        if hold == Hold::Yes || since.is_some_and(|since| now - since >= MISSING_MAX) {
            return Outcome::Hold { reason };
        }
        Outcome::Retry { after: None, reason }
    }

    /// A write came to an end: there is a topic.
    fn found(&mut self) {
        *self = Self::default();
    }
}

fn verdict(code: RDKafkaErrorCode) -> Verdict {
    use RDKafkaErrorCode as Code;
    match code {
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => Verdict::Reject("too_large"),
        Code::InvalidTopic => Verdict::Reject("topic"),
        Code::InvalidMessage | Code::InvalidRecord | Code::InvalidTimestamp | Code::BadMessage => Verdict::Reject("invalid"),
        Code::UnknownTopic | Code::UnknownTopicOrPartition => Verdict::Missing,
        Code::TopicAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::UnsupportedSASLMechanism
        | Code::IllegalSASLState
        | Code::Authentication
        | Code::SSL
        | Code::InvalidRequiredAcks
        | Code::TransactionalIdAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::InvalidTransactionTimeout
        | Code::UnsupportedFeature
        | Code::PolicyViolation
        | Code::UnsupportedVersion => Verdict::Hold,
        _ => Verdict::Retry,
    }
}

impl Output for Kafka {
    fn open<'a>(&'a mut self, resume: OutputResume) -> BoxFuture<'a, Result<OutputResume, PluginError>> {
        Box::pin(async move {
            if let Some(once) = &self.once {
                once.lock().await.open(&self.name, self.checked.options.transactional_id.as_deref(), resume);
                return Ok(resume);
            }
            self.producer = Some(Producer::new(&self.checked.client, &self.name, self.checked.options.timeout)?);
            Ok(resume)
        })
    }

    fn write<'a>(&'a mut self, lane: Lane, points: &'a Points) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            let Some(once) = self.once.clone() else { return self.deliver(lane, points).await };
            self.deliver_once(&mut *once.lock().await, lane, points).await
        })
    }

    fn retry_within(&self) -> Option<Duration> {
        match &self.once {
            Some(once) => once.try_lock().ok()?.retry_within(),
            None => self.missing.next,
        }
    }

    fn guarantee(&self) -> Option<&'static str> {
        Some(match &self.checked.options {
            Options { exactly_once: true, .. } => "exactly once for readers with isolation.level=read_committed",
            Options { required_acks: -1, .. } => {
                "at least once: what is in doubt when the agent dies is sent again, unless `exactly_once = true`"
            }
            Options { required_acks: 0, .. } => "at most once: nobody says what arrived",
            _ => "at least once, but for what the partition's leader had alone when it died",
        })
    }

    /// Two transactions of one name shut each other out.
    fn claims(&self) -> Vec<String> {
        self.checked.options.transactional_id.iter().map(|id| format!("kafka transactional id:{id}")).collect()
    }

    fn close<'a>(&'a mut self) -> BoxFuture<'a, ()> {
        Box::pin(async {
            let transactional = match &self.once {
                Some(once) => once.lock().await.close(),
                None => None,
            };
            for producer in self.producer.take().into_iter().chain(transactional) {
                // Destroying a producer joins its threads.
                let _ = tokio::task::spawn_blocking(move || drop(producer)).await;
            }
        })
    }
}

#[cfg(test)]
mod tests;
