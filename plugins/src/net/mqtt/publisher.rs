//! Publishing: a task keeps one connection ready, and a caller waits for the broker's word on all it gave.
//!
//! Apart from the connection because outputs and actions want the same: a client that is connected before it is needed, so that a
//! message leaves with one write, and an answer that says what became of each message.

use std::{collections::HashMap, future::poll_fn, sync::Arc, task::Poll, time::Duration};

use rumqttc::v5::mqttbytes::v5::PubAckReason;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};

use super::{
    Settings,
    connection::{Connection, ConnectionError, Incoming, until},
    reconnect::{Again, RIVAL, Reconnect, Say},
    wire::{self, Control, Version},
};

/// Publishes under way at once on a broker that does not say how many it takes.
const IN_FLIGHT_311: usize = 100;
/// Bytes written ahead of the socket at most, when QoS 0 knows no other bound.
const AHEAD_BYTES: usize = 256 * 1024;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
}

/// A message the broker refused for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedMessage {
    /// Its place among the messages.
    pub index: usize,
    /// It is larger than the broker takes.
    pub too_large: bool,
    /// In words.
    pub reason: String,
}

/// Why nothing is known of the messages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// There is no connection, or it was lost: try again.
    #[error("{0}")]
    Unreachable(String),
    /// The broker won't let us until a person acts.
    #[error("{0}")]
    NotAllowed(String),
}

struct Job {
    messages: Vec<Message>,
    qos: u8,
    retain: bool,
    reply: oneshot::Sender<Result<Vec<RefusedMessage>, PublishError>>,
}

/// The caller's end.
pub struct Publisher {
    settings: Arc<Settings>,
    name: String,
    timeout: Duration,
    task: Option<(mpsc::Sender<Job>, JoinHandle<()>)>,
}

impl Publisher {
    /// A publisher called `name` in logs; an answer may take `timeout`.
    pub fn new(settings: Settings, name: &str, timeout: Duration) -> Self {
        Self { settings: Arc::new(settings), name: name.to_owned(), timeout, task: None }
    }

    /// What it must have to itself.
    pub fn claims(&self) -> Vec<String> {
        self.settings.claims()
    }

    /// Starts connecting, if that was not done before. Must be called in the runtime; does not wait.
    pub fn start(&mut self) {
        self.jobs();
    }

    fn jobs(&mut self) -> &mpsc::Sender<Job> {
        let (settings, name) = (&self.settings, &self.name);
        let (jobs, _) = self.task.get_or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(1);
            let task = Task { settings: Arc::clone(settings), name: name.clone(), jobs: receiver };
            (sender, tokio::spawn(task.run()))
        });
        jobs
    }

    /// Publishes all messages in order and waits until the broker has taken them (QoS 1) or they are written (QoS 0). Gives those it
    /// refused. May be dropped: the connection is then given up, and nothing is known of the messages.
    ///
    /// # Errors
    /// No connection, no answer in time, or no permission: nothing is known of any message.
    pub async fn publish(&mut self, messages: Vec<Message>, qos: u8, retain: bool) -> Result<Vec<RefusedMessage>, PublishError> {
        let (reply, answer) = oneshot::channel();
        let timeout = self.timeout;
        let job = Job { messages, qos, retain, reply };
        let work = async {
            let gone = |_| PublishError::Unreachable("the connection's task has ended".into());
            self.jobs().send(job).await.map_err(|_| gone(()))?;
            answer.await.map_err(|_| gone(()))?
        };
        match tokio::time::timeout(timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(PublishError::Unreachable(format!("no answer from the broker within {timeout:?}"))),
        }
    }

    /// Says goodbye to the broker, within a second.
    pub async fn close(&mut self) {
        if let Some((jobs, task)) = self.task.take() {
            drop(jobs);
            let _ = tokio::time::timeout(Duration::from_secs(1), task).await;
        }
    }
}

/// The end that owns the connection.
struct Task {
    settings: Arc<Settings>,
    name: String,
    jobs: mpsc::Receiver<Job>,
}

/// How a connection ended.
enum End {
    /// Nobody publishes any more.
    Done,
    /// Lost.
    Lost(ConnectionError),
}

impl Task {
    async fn run(mut self) {
        let (mut reconnect, mut turn, mut waiting) = (Reconnect::default(), 0, None);
        loop {
            let server = self.settings.servers[turn % self.settings.servers.len()].clone();
            turn += 1;
            let error = match Connection::open(&self.settings, &server, true).await {
                Ok(connection) => {
                    if !reconnect.is_suspicious() {
                        tracing::info!(name = %self.name, %server, version = ?connection.version, "connected");
                    }
                    reconnect.connected(Instant::now());
                    reconnect.works();
                    match self.serve(connection, waiting.take()).await {
                        End::Done => return,
                        End::Lost(error) => error,
                    }
                }
                Err(error) => error,
            };
            if self.jobs.is_closed() && self.jobs.is_empty() {
                return;
            }
            let Again { wait, say } = reconnect.ended(Some(&error), Instant::now());
            let retry_ms = wait.as_millis() as u64;
            match say {
                Say::Lost => tracing::warn!(name = %self.name, %server, reason = %error, retry_ms, "no connection to the broker"),
                Say::Rival(closed) => {
                    tracing::warn!(name = %self.name, %server, client_id = self.settings.client_id, closed, reason = %error, retry_ms, "{RIVAL}");
                }
                Say::Nothing => {}
            }
            // Whoever waits hears of it now, and with several servers every one of them was tried.
            if turn % self.settings.servers.len() == 0 {
                let failed = publish_error(&error);
                if let Some(Job { reply, .. }) = waiting.take() {
                    let _ = reply.send(Err(failed.clone()));
                }
                while let Ok(job) = self.jobs.try_recv() {
                    let _ = job.reply.send(Err(failed.clone()));
                }
            } else if waiting.is_some() {
                continue;
            }
            tokio::select! {
                job = self.jobs.recv() => match job {
                    Some(job) => waiting = Some(job),
                    None => return,
                },
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn serve(&mut self, mut connection: Connection, waiting: Option<Job>) -> End {
        let mut current = waiting.map(Progress::new);
        let mut last_id = 0;
        loop {
            if let Some(progress) = &mut current {
                progress.pump(&mut connection, &mut last_id);
            }
            if let Some(done) = current.take_if(|p| p.is_done(&connection)) {
                done.succeed();
                continue;
            }
            let deadline = connection.deadline();
            let step = tokio::select! {
                biased;
                job = self.jobs.recv(), if current.is_none() => match job {
                    Some(job) => {
                        current = Some(Progress::new(job));
                        Ok(())
                    }
                    None => {
                        connection.close().await;
                        return End::Done;
                    }
                },
                moved = poll_fn(|cx| match connection.poll_write_out(cx) {
                    Poll::Pending => connection.poll_fill(cx),
                    written => written,
                }) => moved,
                () = given_up(&mut current), if current.is_some() => Err(ConnectionError::Closed),
                () = until(deadline) => connection.keep_alive(),
            };
            let step = step.and_then(|()| take(&mut connection, &mut current));
            if let Err(error) = step {
                if let Some(progress) = current {
                    let _ = progress.job.reply.send(Err(publish_error(&error)));
                }
                return End::Lost(error);
            }
        }
    }
}

/// Done when the caller of the publish under way does not wait for it any more.
async fn given_up(current: &mut Option<Progress>) {
    if let Some(progress) = current {
        progress.job.reply.closed().await;
    }
}

/// Reads what the broker said.
fn take(connection: &mut Connection, current: &mut Option<Progress>) -> Result<(), ConnectionError> {
    while let Some(incoming) = connection.next_packet()? {
        match incoming {
            Incoming::Control(Control::PubAck { id, refused }) => {
                if let Some(progress) = current
                    && let Some(failed) = progress.answered(id, refused)
                {
                    let _ = current.take().map(|p| p.job.reply.send(Err(failed)));
                }
            }
            Incoming::Control(Control::Disconnect { reason, taken_over }) => {
                return Err(ConnectionError::Disconnected { reason, taken_over });
            }
            _ => {}
        }
    }
    Ok(())
}

fn publish_error(error: &ConnectionError) -> PublishError {
    match error {
        ConnectionError::Refused { credentials: true, .. } => PublishError::NotAllowed(error.to_string()),
        _ => PublishError::Unreachable(error.to_string()),
    }
}

/// A publish under way.
struct Progress {
    job: Job,
    next: usize,
    in_flight: HashMap<u16, usize>,
    refused: Vec<RefusedMessage>,
}

impl Progress {
    fn new(job: Job) -> Self {
        Self { job, next: 0, in_flight: HashMap::new(), refused: Vec::new() }
    }

    /// Queues as many messages as the broker takes now.
    fn pump(&mut self, connection: &mut Connection, last_id: &mut u16) {
        let window = match (connection.version, connection.broker.receive_max) {
            (_, Some(max)) => usize::from(max).max(1),
            (Version::V311, None) => IN_FLIGHT_311,
            (Version::V5, None) => usize::from(u16::MAX),
        };
        while self.next < self.job.messages.len() && self.in_flight.len() < window && connection.out.len() < AHEAD_BYTES {
            let (index, message) = (self.next, &self.job.messages[self.next]);
            self.next += 1;
            if let Err((too_large, reason)) = fits(connection, message, self.job.qos) {
                self.refused.push(RefusedMessage { index, too_large, reason });
                continue;
            }
            let mut id = 0;
            if self.job.qos > 0 {
                loop {
                    *last_id = last_id.checked_add(1).unwrap_or(1);
                    if !self.in_flight.contains_key(last_id) {
                        break;
                    }
                }
                id = *last_id;
                self.in_flight.insert(id, index);
            }
            let Job { qos, retain, .. } = self.job;
            wire::write_publish(connection.version, &message.topic, &message.payload, qos, retain, id, &mut connection.out);
        }
    }

    fn is_done(&self, connection: &Connection) -> bool {
        self.next == self.job.messages.len() && self.in_flight.is_empty() && (self.job.qos > 0 || connection.is_written())
    }

    fn succeed(mut self) {
        self.refused.sort_by_key(|r| r.index);
        let _ = self.job.reply.send(Ok(self.refused));
    }

    /// The broker's word on one message; an error ends the whole publish.
    fn answered(&mut self, id: u16, refused: Option<PubAckReason>) -> Option<PublishError> {
        let index = self.in_flight.remove(&id)?;
        let reason = match refused? {
            PubAckReason::NotAuthorized => {
                let topic = &self.job.messages[index].topic;
                return Some(PublishError::NotAllowed(format!("not authorised to publish on `{topic}`")));
            }
            PubAckReason::TopicNameInvalid => "the broker does not take this topic",
            PubAckReason::PayloadFormatInvalid => "the broker does not take this payload",
            PubAckReason::QuotaExceeded => return Some(PublishError::Unreachable("the broker's quota is exceeded".into())),
            _ => return Some(PublishError::Unreachable("the broker could not take a message".into())),
        };
        self.refused.push(RefusedMessage { index, too_large: false, reason: reason.into() });
        None
    }
}

/// Whether the broker can take a message at all.
fn fits(connection: &Connection, message: &Message, qos: u8) -> Result<(), (bool, String)> {
    let topic = &message.topic;
    if topic.is_empty() || topic.len() > usize::from(u16::MAX) || topic.contains(['+', '#', '\0']) {
        return Err((false, "no topic to publish on: 1 to 65535 bytes, without `+`, `#` and NUL".into()));
    }
    let size = wire::publish_body_len(connection.version, topic, &message.payload, qos) + 5;
    let max = connection.broker.packet_max.map_or(256 << 20, |m| m as usize);
    if size > max {
        return Err((true, format!("a message of {size} bytes, the broker takes {max}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::net::mqtt::address::Address;

    /// The next packet, all of them short: its first byte and what follows the length.
    async fn packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        stream.read_exact(&mut head).await.unwrap();
        let mut rest = vec![0; usize::from(head[1])];
        stream.read_exact(&mut rest).await.unwrap();
        (head[0], rest)
    }

    #[tokio::test]
    async fn a_publish_is_done_when_the_broker_has_acknowledged_all_of_it() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = Settings {
            servers: vec![Address::parse(&format!("tcp://{}", listener.local_addr().unwrap())).unwrap()],
            client_id: "test".into(),
            named: false,
            login: None,
            tls: None,
            version: Some(Version::V311),
            connection_timeout: Duration::from_secs(20),
            keepalive: Duration::ZERO,
            ping_timeout: Duration::from_secs(20),
            receive_max: None,
            packet_max: 1024,
            session_expiry: None,
        };
        let mut publisher = Publisher::new(settings, "test", Duration::from_secs(20));
        let messages = ["a", "b"].map(|topic| Message { topic: topic.into(), payload: b"1".to_vec() }).to_vec();
        let publishing = tokio::spawn(async move { publisher.publish(messages, 1, false).await.map_err(|_| "no") });

        let (mut broker, _) = listener.accept().await.unwrap();
        assert_eq!(packet(&mut broker).await.0 >> 4, 1, "it connects");
        broker.write_all(&[0x20, 2, 0, 0]).await.unwrap();
        let mut ids = Vec::new();
        for _ in 0..2 {
            let (head, rest) = packet(&mut broker).await;
            assert_eq!(head, 0x32, "with QoS 1");
            ids.push([rest[3], rest[4]]);
        }
        broker.write_all(&[0x40, 2, ids[0][0], ids[0][1]]).await.unwrap();
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert!(!publishing.is_finished(), "the second is not acknowledged");
        broker.write_all(&[0x40, 2, ids[1][0], ids[1][1]]).await.unwrap();
        assert_eq!(tokio::time::timeout(Duration::from_secs(20), publishing).await.unwrap().unwrap(), Ok(Vec::new()));
    }
}
