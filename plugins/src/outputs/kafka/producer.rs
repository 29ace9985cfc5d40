//! librdkafka's producer behind one call: hand over messages, wait for every delivery report.
//!
//! The producer is polled only while a write waits, from a thread that may block, so an idle output costs nothing on our side.
//! librdkafka retries by itself within its message timeout and never beyond it.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rdkafka::{
    ClientConfig, ClientContext,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    error::{KafkaError, RDKafkaErrorCode},
    message::Message as _,
    producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig},
};
use weir_plugin_api::plugin::PluginError;

use super::{Verdict, verdict};

/// One message.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Where to.
    pub topic: String,
    /// What decides the partition.
    pub key: Option<String>,
    /// What.
    pub payload: Vec<u8>,
    /// Time it carries, milliseconds since 1970; `None`: that of sending.
    pub timestamp: Option<i64>,
    /// Partition, where it is not for the key to decide.
    pub partition: Option<i32>,
}

/// What became of one message, its offset if it arrived: `None` as long as it is not known.
pub type Report = Option<Result<i64, RDKafkaErrorCode>>;

/// What became of a write.
pub struct Sent {
    /// One report per message.
    pub reports: Vec<Report>,
    /// What the client said last of its connections, for messages that never got a broker's word.
    pub trouble: Option<(RDKafkaErrorCode, String)>,
    /// The first topic that the broker does not know.
    pub missing: Option<String>,
    /// Why the producer can't be used any more, if it can't.
    pub fatal: Option<RDKafkaErrorCode>,
}

#[derive(Default)]
struct Reports {
    /// Number of the write the reports belong to; reports of an earlier one that was given up are ignored.
    write: u64,
    reports: Vec<Report>,
    missing: usize,
    trouble: Option<(RDKafkaErrorCode, String)>,
}

/// What the client's callbacks write to.
pub struct Context {
    name: String,
    shared: Mutex<Reports>,
}

impl Context {
    fn shared(&self) -> std::sync::MutexGuard<'_, Reports> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Context {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(output = %self.name, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(output = %self.name, %error, reason, "kafka client");
        if let Some(code) = error.rdkafka_error_code() {
            let mut shared = self.shared();
            // "all brokers are down" follows the error that says why.
            if code != RDKafkaErrorCode::AllBrokersDown || shared.trouble.is_none() {
                shared.trouble = Some((code, reason.to_owned()));
            }
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<(u64, usize)>;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: Self::DeliveryOpaque) {
        let (write, index) = *opaque;
        let mut shared = self.shared();
        if shared.write != write {
            return;
        }
        let report = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown)),
        };
        if let Some(place @ None) = shared.reports.get_mut(index) {
            *place = Some(report);
            shared.missing -= 1;
        }
    }
}

/// A producer; cheap to clone.
#[derive(Clone)]
pub struct Producer {
    inner: Arc<BaseProducer<Context>>,
    timeout: Duration,
}

/// How long one poll may block: how soon a write that was given up ends.
const POLL: Duration = Duration::from_millis(100);
/// How long the first does.
const POLL_FIRST: Duration = Duration::from_millis(1);

impl Producer {
    /// A producer called `name` in logs. Waits for no broker.
    ///
    /// # Errors
    /// librdkafka does not take the configuration.
    pub fn new(config: &ClientConfig, name: &str, timeout: Duration) -> Result<Self, PluginError> {
        let context = Context { name: name.to_owned(), shared: Mutex::default() };
        let inner = BaseProducer::from_config_and_context(config, context).map_err(|e| PluginError::because("no Kafka producer", &e))?;
        Ok(Self { inner: Arc::new(inner), timeout })
    }

    /// Sends all messages and waits for their reports, or until `given_up`. Blocks: at most a little longer than the message timeout.
    pub fn send(&self, write: u64, messages: &[Message], given_up: &AtomicBool) -> Sent {
        {
            let mut shared = self.inner.context().shared();
            *shared = Reports { write, reports: vec![None; messages.len()], missing: messages.len(), trouble: shared.trouble.take() };
        }
        for (index, message) in messages.iter().enumerate() {
            self.enqueue(write, index, message, given_up);
        }
        // librdkafka gives every message a report by its timeout; the extra is for its own timers. What is counted is the time waited here:
        // a process that was stopped meanwhile has not used it up.
        let (mut left, mut step) = (self.timeout + Duration::from_secs(5), POLL_FIRST);
        while self.inner.context().shared().missing > 0 && !given_up.load(Ordering::Relaxed) && !left.is_zero() {
            // A poll takes its time whatever comes in between: short ones at first, as an answer takes milliseconds.
            self.inner.poll(step);
            left = left.saturating_sub(step);
            step = (step * 5 / 4).min(POLL);
        }
        if self.inner.context().shared().missing > 0 {
            self.inner.purge(PurgeConfig::default().queue().inflight());
            self.inner.poll(Duration::ZERO);
        }
        let mut shared = self.inner.context().shared();
        shared.write = 0;
        let delivered_any = shared.reports.iter().any(|r| matches!(r, Some(Ok(_))));
        let trouble = if delivered_any { None } else { shared.trouble.clone() };
        if delivered_any {
            shared.trouble = None;
        }
        let reports = std::mem::take(&mut shared.reports);
        drop(shared);
        let is_missing = |report: &Report| matches!(report, Some(Err(code)) if verdict(*code) == Verdict::Missing);
        let missing = reports.iter().zip(messages).find(|(report, _)| is_missing(report)).map(|(_, message)| message.topic.clone());
        Sent { reports, trouble, missing, fatal: self.inner.client().fatal_error().map(|(code, _)| code) }
    }

    /// librdkafka's own.
    pub fn client(&self) -> &BaseProducer<Context> {
        &self.inner
    }

    /// How long a message, or anything else, may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What the client said last of its connections, once.
    pub fn trouble(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.inner.context().shared().trouble.take()
    }

    /// Hears what the client has to say, waiting for nothing.
    pub fn poll_once(&self) {
        self.inner.poll(Duration::ZERO);
    }

    fn enqueue(&self, write: u64, index: usize, message: &Message, given_up: &AtomicBool) {
        let mut record = BaseRecord::with_opaque_to(&message.topic, Box::new((write, index))).payload(&message.payload);
        record.key = message.key.as_ref();
        record.timestamp = message.timestamp;
        record.partition = message.partition;
        while let Err((error, back)) = self.inner.send(record) {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
            if code != RDKafkaErrorCode::QueueFull || given_up.load(Ordering::Relaxed) {
                let mut shared = self.inner.context().shared();
                shared.reports[index] = Some(Err(code));
                shared.missing -= 1;
                return;
            }
            self.inner.poll(POLL_FIRST);
            record = back;
        }
    }
}
