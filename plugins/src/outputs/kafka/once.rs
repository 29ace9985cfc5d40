//! Exactly once: every write is one transaction with a control record in it, and what the control topic has is not sent again.
//!
//! The cursor that counts is Kafka's. It is read whenever a producer begins, after its predecessor was shut out, so it makes no difference
//! whether the agent died, the broker, or both, or whether a commit was answered. Nothing waits for that but this output: it happens at the
//! first write, and a broker that is down is a write to be tried again.
//!
//! What the destination refuses for good would end its whole transaction: it is found by halves, left out, and remembered in the control
//! record, so that a crash in between does not make it delivered.

use std::{
    collections::VecDeque,
    ops::Range,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use rdkafka::ClientConfig;
use tokio::runtime::Handle;
use weir_plugin_api::{
    Identity, Lane, Points,
    plugin::{AgentId, Outcome, OutputResume, Rejection},
};

use super::{
    GivenUp, Hold, Kafka, Missing, Prepared,
    control::{self, Control, Place, Refused, Unusable},
    lives::Lives,
    options,
    producer::Producer,
    transaction::{Ended, Failure},
};

/// Being shut out twice within this time is not a transaction that took too long: there are two of us.
const FENCES_APART: Duration = Duration::from_secs(600);
/// Writes that went through until a larger one is tried again.
const GROW_AFTER: u32 = 32;

/// What an output that delivers exactly once remembers.
pub struct Once {
    /// Where the lives are kept.
    path: PathBuf,
    lives: Option<Lives>,
    agent: AgentId,
    /// Whose transactions these are in Kafka.
    id: String,
    /// The one that holds the transactional id.
    producer: Option<Producer>,
    control: Control,
    token: u64,
    fenced: Option<Instant>,
    /// Most points per transaction that the destination has accepted after it said "too large", and writes since.
    size_max: usize,
    writes: u32,
    missing: Missing,
    /// The topic was found not to be compacted, and that was said.
    told: bool,
}

impl Once {
    /// One whose lives are kept in `path`.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            lives: None,
            agent: AgentId::default(),
            id: String::new(),
            producer: None,
            control: Control::default(),
            token: 0,
            fenced: None,
            size_max: usize::MAX,
            writes: 0,
            missing: Missing::default(),
            told: false,
        }
    }

    /// A start of the agent, of which nobody outside is told yet.
    pub fn open(&mut self, name: &str, id: Option<&str>, resume: OutputResume) {
        // The hasher's keys are drawn from the system.
        let life = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), (resume.agent.now, resume.recovered));
        let lives = Lives::begin(&self.path, life, resume.recovered);
        save(name, &lives);
        self.id = id.map_or_else(|| format!("weir-{:016x}-{name}", resume.agent.now), str::to_owned);
        (self.agent, self.token, self.lives) = (resume.agent, resume.token, Some(lives));
    }

    /// When to try again at the latest.
    pub fn retry_within(&self) -> Option<Duration> {
        self.missing.next
    }

    /// Lets go of the producer.
    pub fn close(&mut self) -> Option<Producer> {
        self.producer.take()
    }

    fn failed(&mut self, failure: Failure, producer: Option<Producer>) -> Outcome {
        if failure.lost {
            // The last one to let go joins its threads.
            tokio::task::spawn_blocking(move || drop(producer));
        } else {
            self.producer = producer;
        }
        let before = if failure.fenced { self.fenced.replace(Instant::now()) } else { None };
        let shut_out = before.is_some_and(|before| before.elapsed() < FENCES_APART);
        self.missing.failed(if shut_out { Hold::Yes } else { failure.hold }, Instant::now(), failure.reason)
    }

    /// Takes the cursor from Kafka: what lies behind it is there.
    fn resume(&mut self, name: &str, found: Option<Control>) {
        let Some(lives) = &mut self.lives else { return };
        let counts = found.as_ref().and_then(|found| {
            let cursors = found.cursors.map(|cursor| lives.known(found.life, cursor));
            Some([cursors[0]?, cursors[1]?])
        });
        if found.is_some() && counts.is_none() {
            tracing::warn!(output = name, "control record is of a time this store knows nothing of: what it speaks of may be sent twice");
        }
        if let (Some(found), Some(counts)) = (&found, &counts)
            && found.cursors != *counts
        {
            tracing::warn!(output = name, "control record speaks of records that were lost: what comes with their numbers is sent");
        }
        let before = lives.current();
        lives.deliver(found.as_ref().map(|found| found.life));
        if found.as_ref().is_none_or(|found| found.life != before) {
            save(name, lives);
        }
        let cursors = counts.unwrap_or_default();
        let refused = found.map(|found| found.refused).unwrap_or_default();
        let refused = refused.into_iter().filter(|r| r.identity <= cursors[r.lane as usize]).collect();
        self.control = Control { life: before, cursors, refused };
    }

    /// What of a write is behind the cursor: how many points, and those of them that were refused.
    fn behind(&self, lane: Lane, points: &Points) -> (usize, Vec<Rejection>) {
        let cursor = self.control.cursors[lane as usize];
        let identities = points.slices.iter().flat_map(|(chunk, range)| range.clone().map(|i| chunk.identity(i)));
        let (mut behind, mut rejected) = (0, Vec::new());
        for (index, identity) in identities.take_while(|identity| *identity <= cursor).enumerate() {
            behind = index + 1;
            if let Some(refused) = self.control.refused.iter().find(|r| (r.lane, r.identity) == (lane, identity)) {
                let reason = "refused before, and not noted since".to_owned();
                rejected.push(Rejection { index, status: refused.status.clone(), reason });
            }
        }
        (behind, rejected)
    }

    /// The cursors, were this all there.
    fn advanced(&self, lane: Lane, upto: Identity, refused: Vec<Refused>) -> Control {
        let mut control = self.control.clone();
        control.cursors[lane as usize] = upto;
        refused.into_iter().for_each(|refused| control.refuse(refused));
        control
    }
}

fn save(name: &str, lives: &Lives) {
    if let Err(error) = lives.save() {
        tracing::warn!(output = name, %error, "can't remember this start: after a crash what Kafka has may be sent twice");
    }
}

/// What a write has come to so far.
struct Progress {
    /// What is still to be sent, in order.
    left: VecDeque<Range<usize>>,
    rejected: Vec<Rejection>,
    /// A part was refused, and whether it was for one point alone.
    halved: bool,
    culprit: bool,
    largest: usize,
}

impl Kafka {
    /// Delivers what Kafka does not have yet.
    pub(super) async fn deliver_once(&mut self, once: &mut Once, lane: Lane, points: &Points) -> Outcome {
        once.missing.begin(Instant::now());
        // It comes back when it is known what became of the write: who drops the write in between leaves that to the next producer.
        let producer = match once.producer.take() {
            Some(producer) => producer,
            None => {
                let producer = match self.producer(&once.id) {
                    Ok(producer) => producer,
                    Err(failure) => return once.failed(failure, None),
                };
                if let Err(failure) = self.begin(once, &producer).await {
                    return once.failed(Failure { lost: true, ..failure }, Some(producer));
                }
                producer
            }
        };
        let (behind, rejected) = once.behind(lane, points);
        let parts = (behind..points.len()).step_by(once.size_max).map(|from| from..points.len().min(from.saturating_add(once.size_max)));
        let mut progress = Progress { left: parts.collect(), rejected, halved: false, culprit: false, largest: 0 };
        while let Some(range) = progress.left.pop_front() {
            if let Err(failure) = self.part(once, &producer, lane, points, range, &mut progress).await {
                return once.failed(failure, Some(producer));
            }
        }
        once.producer = Some(producer);
        once.missing.found();
        if progress.halved && !progress.culprit {
            (once.size_max, once.writes) = (progress.largest.max(1), 0);
        } else if once.size_max != usize::MAX {
            once.writes += 1;
            if once.writes >= GROW_AFTER {
                (once.size_max, once.writes) = (once.size_max.saturating_mul(2), 0);
            }
        }
        progress.rejected.sort_by_key(|r| r.index);
        Outcome::Delivered { rejected: progress.rejected, collapsed: 0, token: once.token }
    }

    /// One transaction; a part that is refused comes back in halves, a point without its message.
    async fn part(
        &mut self,
        once: &mut Once,
        producer: &Producer,
        lane: Lane,
        points: &Points,
        range: Range<usize>,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let part = points.slice(range.clone());
        let mut prepared = self.prepare(lane, &part);
        self.leave_out_too_large(&mut prepared);
        let ended = self.transact(once, producer, lane, &part, &prepared).await?;
        let status = match ended {
            Ended::Committed(offset) => {
                once.token = u64::try_from(offset + 1).ok().filter(|next| *next > 0).unwrap_or(once.token);
                let refused = refused(lane, &part, &prepared.rejected);
                once.control = once.advanced(lane, part.last_identity(), refused);
                progress.rejected.extend(prepared.rejected.into_iter().map(|r| Rejection { index: r.index + range.start, ..r }));
                progress.largest = progress.largest.max(range.len());
                return Ok(());
            }
            Ended::Refused(status) => status,
            Ended::Failed(failure) => return Err(failure),
        };
        if range.len() > 1 {
            let middle = range.start + range.len() / 2;
            progress.halved = true;
            progress.left.push_front(middle..range.end);
            progress.left.push_front(range.start..middle);
            return Ok(());
        }
        progress.culprit = true;
        let reason = "Kafka refuses the message".to_owned();
        let alone = Prepared { rejected: vec![Rejection { index: 0, status: status.into(), reason }], ..Prepared::default() };
        match self.transact(once, producer, lane, &part, &alone).await? {
            Ended::Committed(offset) => {
                once.token = u64::try_from(offset + 1).ok().filter(|next| *next > 0).unwrap_or(once.token);
                once.control = once.advanced(lane, part.last_identity(), refused(lane, &part, &alone.rejected));
                progress.rejected.extend(alone.rejected.into_iter().map(|r| Rejection { index: range.start, ..r }));
                Ok(())
            }
            // Nothing but the control record was in it.
            Ended::Refused(status) => {
                let reason = format!("the control topic refuses its record: {status}");
                Err(Failure { reason, hold: Hold::Yes, fenced: false, lost: false, purged: false })
            }
            Ended::Failed(failure) => Err(failure),
        }
    }

    async fn transact(
        &mut self,
        once: &Once,
        producer: &Producer,
        lane: Lane,
        part: &Points,
        prepared: &Prepared,
    ) -> Result<Ended, Failure> {
        let control = once.advanced(lane, part.last_identity(), refused(lane, part, &prepared.rejected));
        let mut messages = prepared.messages.clone();
        messages.push(control.message(&self.checked.control_topic, once.agent.now, &self.name));
        self.writes += 1;
        let (write, producer) = (self.writes, producer.clone());
        blocking(move |given_up| producer.transact(write, &messages, given_up)).await
    }

    /// The client itself takes no larger message, and would end the transaction for it.
    fn leave_out_too_large(&self, prepared: &mut Prepared) {
        let most = self.checked.options.max_message_bytes as usize;
        let fits = |place: &usize| {
            let message: &super::producer::Message = &prepared.messages[*place];
            prepared.owners[*place].len() > 1 || message.payload.len() + message.key.as_ref().map_or(0, String::len) <= most
        };
        let (keep, leave): (Vec<usize>, Vec<usize>) = (0..prepared.messages.len()).partition(fits);
        if leave.is_empty() {
            return;
        }
        for place in leave {
            let reason = format!("larger than `max_message_bytes` = {most}");
            let index = prepared.owners[place][0];
            prepared.rejected.push(Rejection { index, status: "too_large".into(), reason });
        }
        prepared.rejected.sort_by_key(|r| r.index);
        prepared.messages = keep.iter().map(|place| std::mem::take(&mut prepared.messages[*place])).collect();
        prepared.owners = keep.iter().map(|place| std::mem::take(&mut prepared.owners[*place])).collect();
    }

    fn producer(&mut self, id: &str) -> Result<Producer, Failure> {
        let options = &self.checked.options;
        let mut config = self.checked.client.clone();
        config.set("transactional.id", id).set("transaction.timeout.ms", options::transaction_timeout(options).as_millis().to_string());
        let new = Producer::new(&config, &self.name, options.timeout);
        new.map_err(|e| Failure { reason: e.0, hold: Hold::Yes, fenced: false, lost: false, purged: false })
    }

    /// Shuts out every producer before this one and takes the cursor as they have left it.
    async fn begin(&mut self, once: &mut Once, producer: &Producer) -> Result<(), Failure> {
        let (checked, name) = (&self.checked, self.name.as_str());
        let beginning = producer.clone();
        blocking(move |given_up| beginning.begin_life(given_up)).await??;
        // To let go of the client blocks too.
        let (connection, topic) = (checked.connection.clone(), checked.control_topic.clone());
        let ensured = blocking(move |_| Handle::current().block_on(control::ensure(&connection, &topic))).await?;
        if let Some(warning) = ensured.map_err(unusable)?
            && !std::mem::replace(&mut once.told, true)
        {
            tracing::warn!(output = name, "{warning}");
        }
        let found = find(&checked.connection, &checked.control_topic, once, name, checked.options.timeout).await?;
        once.resume(name, found);
        let [alerts, results] = once.control.cursors;
        tracing::debug!(output = name, transactional_id = once.id, ?alerts, ?results, "what Kafka has");
        Ok(())
    }
}

async fn find(connection: &ClientConfig, topic: &str, once: &Once, name: &str, timeout: Duration) -> Result<Option<Control>, Failure> {
    let (connection, topic, output, group) = (connection.clone(), topic.to_owned(), name.to_owned(), once.id.clone());
    let (agent, from) = (once.agent, once.token.saturating_sub(1));
    let find = move |given_up: &AtomicBool| {
        let find = |agent| {
            let place = Place { topic: &topic, agent, output: &output, group: &group, timeout };
            control::find(&connection, &place, from, given_up)
        };
        // Where the state came from another machine, and nothing was sent from this one yet, what that one has sent is not sent again.
        match (find(agent.now)?, agent.earlier) {
            (None, Some((earlier, _))) => find(earlier),
            (found, _) => Ok(found),
        }
    };
    blocking(find).await?.map_err(unusable)
}

/// What was refused of a part, by identity.
fn refused(lane: Lane, part: &Points, rejected: &[Rejection]) -> Vec<Refused> {
    let identity = |index: usize| part.slice(index..index + 1).first_identity();
    rejected.iter().map(|r| Refused { lane, identity: identity(r.index), status: r.status.clone() }).collect()
}

fn unusable(unusable: Unusable) -> Failure {
    Failure { reason: unusable.reason, hold: unusable.hold, fenced: false, lost: false, purged: false }
}

/// Runs what blocks on a thread for that, and tells it when nobody waits any more.
async fn blocking<T: Send + 'static>(work: impl FnOnce(&AtomicBool) -> T + Send + 'static) -> Result<T, Failure> {
    let flag = Arc::new(AtomicBool::new(false));
    let guard = GivenUp(Arc::clone(&flag));
    let done = tokio::task::spawn_blocking(move || work(&flag)).await;
    drop(guard);
    done.map_err(|_| Failure { reason: "the write was interrupted".into(), hold: Hold::No, fenced: false, lost: true, purged: false })
}
