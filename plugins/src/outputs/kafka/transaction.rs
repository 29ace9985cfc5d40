//! One transaction from its beginning to an end that is known: committed, or aborted. Where the end is not known, the producer is given up,
//! and the control topic tells the next one.
//!
//! Errors are treated as librdkafka's documentation says: one that asks for it aborts, a retriable one is tried again in its time,
//! anything else ends the producer.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use rdkafka::{
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    producer::Producer as _,
};

use super::{
    Hold, Verdict, no_topic,
    producer::{Message, Producer, Sent},
    verdict,
};

/// How long one call blocks: how soon a write that was given up ends.
const SLICE: Duration = Duration::from_millis(500);
/// How long an abort may take. The next producer's start does the same, so there is no use in waiting.
const ABORT: Duration = Duration::from_secs(5);
/// How often a transaction is tried again at once that met the end of another.
const PURGED_MAX: u32 = 5;

/// What became of a transaction.
#[derive(Debug)]
pub enum Ended {
    /// All of it is there; the offset of its last message.
    Committed(i64),
    /// None of it is there: the destination refuses a message for good, with this word for a counter.
    Refused(&'static str),
    /// None of it is there, or nobody knows.
    Failed(Failure),
}

/// Why a transaction did not come to its end.
#[derive(Debug)]
pub struct Failure {
    pub reason: String,
    /// Whether to try again.
    pub hold: Hold,
    /// Another producer has taken over the transactional id, or the broker has ended the transaction by itself.
    pub fenced: bool,
    /// The producer can't be used any more.
    pub lost: bool,
    /// Nothing was wrong with it but that an earlier one failed.
    pub purged: bool,
}

impl Producer {
    /// Shuts out whoever used the transactional id before and waits until its last transaction is at an end.
    ///
    /// # Errors
    /// The broker does not answer, or does not let us; the producer is lost.
    pub fn begin_life(&self, given_up: &AtomicBool) -> Result<(), Failure> {
        self.within(self.timeout(), given_up, || self.client().init_transactions(SLICE))
            .map_err(|failure| Failure { lost: true, ..failure })
    }

    /// Sends all messages, the last of which is the control record, in one transaction.
    pub fn transact(&self, write: u64, messages: &[Message], given_up: &AtomicBool) -> Ended {
        // librdkafka throws away what is queued when a transaction fails, on a thread of its own that may meet the next one.
        for _ in 0..PURGED_MAX {
            match self.transact_once(write, messages, given_up) {
                Ended::Failed(Failure { purged: true, lost: false, .. }) => {}
                ended => return ended,
            }
        }
        self.transact_once(write, messages, given_up)
    }

    fn transact_once(&self, write: u64, messages: &[Message], given_up: &AtomicBool) -> Ended {
        if let Err(error) = self.client().begin_transaction() {
            return Ended::Failed(Failure { lost: true, ..self.failure(&error) });
        }
        let sent = self.send(write, messages, given_up);
        if let Some(ended) = refusal(&sent) {
            return self.abort(ended, given_up);
        }
        match self.within(self.timeout(), given_up, || self.client().commit_transaction(SLICE)) {
            Ok(()) => match sent.reports.last() {
                Some(Some(Ok(offset))) => Ended::Committed(*offset),
                _ => Ended::Committed(-1),
            },
            Err(failure) if failure.lost => Ended::Failed(failure),
            Err(failure) => self.abort(Ended::Failed(failure), given_up),
        }
    }

    /// Ends the transaction without a trace; what comes back is `ended`, unless the producer did not survive it.
    fn abort(&self, ended: Ended, given_up: &AtomicBool) -> Ended {
        let aborted = self.within(ABORT, given_up, || self.client().abort_transaction(SLICE));
        match (aborted, ended) {
            (Ok(()), ended) => ended,
            (Err(aborted), Ended::Failed(failure)) => {
                let reason = if aborted.fenced { aborted.reason } else { failure.reason };
                Ended::Failed(Failure {
                    reason,
                    hold: failure.hold.max(aborted.hold),
                    fenced: failure.fenced || aborted.fenced,
                    lost: true,
                    purged: false,
                })
            }
            (Err(aborted), _) => Ended::Failed(Failure { lost: true, ..aborted }),
        }
    }

    /// Calls until it succeeds, fails for good, or the time is up: librdkafka goes on with the same operation.
    fn within(&self, time: Duration, given_up: &AtomicBool, call: impl Fn() -> KafkaResult<()>) -> Result<(), Failure> {
        let deadline = Instant::now() + time;
        loop {
            let Err(error) = call() else { return Ok(()) };
            // The client's own errors say why.
            self.poll_once();
            let again = matches!(&error, KafkaError::Transaction(e) if e.is_retriable() && !e.txn_requires_abort() && !e.is_fatal());
            let last = Instant::now() >= deadline || given_up.load(Ordering::Relaxed);
            if !again || last {
                let failure = self.failure(&error);
                // An operation that still goes on can't be followed by another.
                return Err(Failure { lost: failure.lost || again, ..failure });
            }
            if !matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::OperationTimedOut)) {
                std::thread::park_timeout(SLICE / 5);
            }
        }
    }

    fn failure(&self, error: &KafkaError) -> Failure {
        use RDKafkaErrorCode as Code;
        let (code, abort) = match error {
            KafkaError::Transaction(e) => (e.code(), e.txn_requires_abort()),
            _ => (error.rdkafka_error_code().unwrap_or(Code::Unknown), false),
        };
        let fatal = self.client().client().fatal_error();
        let cause = fatal.as_ref().map_or(code, |(code, _)| *code);
        let fenced = matches!(cause, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch);
        if fenced {
            let reason = "another producer has taken over the transactional id, or the broker has ended a transaction that took too long: \
                          every output of every agent needs a `transactional_id` of its own";
            return Failure { reason: reason.into(), hold: Hold::No, fenced, lost: true, purged: false };
        }
        let hold = Hold::from(cause);
        let said = match (&fatal, error) {
            (Some((code, text)), _) => format!("{code}: {text}"),
            (None, KafkaError::Transaction(e)) => e.string(),
            (None, error) => error.to_string(),
        };
        let (hold, reason) = match self.trouble() {
            Some((trouble, text)) => (hold.max(Hold::from(trouble)), format!("{said}: {text}")),
            None => (hold, said),
        };
        Failure { reason, hold, fenced, lost: fatal.is_some() || !abort, purged: false }
    }
}

/// Why what was sent can't be committed; `None` if it can.
fn refusal(sent: &Sent) -> Option<Ended> {
    let mut failures = sent.reports.iter().filter_map(|report| match report {
        Some(Ok(_)) => None,
        Some(Err(code)) => Some(*code),
        None => Some(RDKafkaErrorCode::MessageTimedOut),
    });
    // Once one has failed, those behind it fail for that alone.
    let mut failed: Option<(RDKafkaErrorCode, Hold)> = None;
    for code in failures.clone() {
        match verdict(code) {
            Verdict::Reject(status) => return Some(Ended::Refused(status)),
            Verdict::Retry | Verdict::Missing | Verdict::Hold => {
                let hold = Hold::from(code);
                if failed.is_none_or(|(_, worst)| worst < hold) {
                    failed = Some((code, hold));
                }
            }
        }
    }
    let (code, hold) = failed?;
    let purged = hold == Hold::No && failures.all(|code| matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight));
    let (hold, reason) = match (&sent.missing, &sent.trouble) {
        (Some(topic), _) if hold == Hold::Missing => (hold, no_topic(topic)),
        (_, Some((trouble, text))) => (hold.max(Hold::from(*trouble)), format!("{code}: {text}")),
        (_, None) => (hold, code.to_string()),
    };
    Some(Ended::Failed(Failure { reason, hold, fenced: false, lost: false, purged }))
}
