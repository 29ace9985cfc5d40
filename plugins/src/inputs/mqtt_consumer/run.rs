//! The consumer at work: connect, subscribe, decode what comes, hand it over, acknowledge what is durable.
//!
//! Everything that is in the read buffer is decoded before anything is handed over, and what is handed over is one batch: at a high
//! rate many messages share one, at a low rate each leaves at once, because then the socket has nothing more. At thousands of messages
//! a second a broker that writes them one by one would wake us for each: then the socket is read every two milliseconds.

use std::{collections::VecDeque, future::poll_fn, pin::pin, task::Poll, time::Duration};

use weir_plugin_api::{
    collector::{Collector, Refusal},
    plugin::{BoxFuture, Decoder, InputContext, InputMemory, PluginError, Stop, StreamingInput},
    position::{MessageId, Position},
    ring::{Acknowledgements, Closed},
};

use super::{
    Options, Reading,
    redelivery::{self, Redelivery, UNREAD_MAX},
    topics::Topics,
};
use tokio::time::Instant;

use crate::net::mqtt::{
    Settings,
    address::Address,
    connection::{Connection, ConnectionError, Incoming, until, write_subscribe},
    reconnect::{Again, RIVAL, Reconnect, Say},
    wire::{Control, Publish, Version},
};

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
enum Over {
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error("the broker refuses every subscription")]
    Unsubscribed,
    /// The broker may not have read so many acknowledgements that it could repeat more than is remembered.
    #[error("the broker has not read {0} acknowledgements")]
    Unread(u64),
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// The input.
pub(super) struct Consumer {
    settings: Settings,
    subscribed: Vec<String>,
    qos: u8,
    persistent: bool,
    unacknowledged_max: usize,
    reading: Reading,
    table: Option<Redelivery>,
    flow: Flow,
}

/// Messages on their way from the broker to durability.
#[derive(Default)]
struct Flow {
    /// Packet ids whose points are in the collector, to be acknowledged with its batch.
    open: Vec<u16>,
    /// Those of them that the broker may repeat.
    positions: Vec<MessageId>,
    /// Handed over: number of the batch and packet id, in the order of arrival.
    handed_over: VecDeque<(u64, u16)>,
    /// The subscription was answered on some connection of this session.
    ever_subscribed: bool,
    /// Batch that says the broker has forgotten the session: it must be durable before anything is subscribed to.
    forgotten: Option<u64>,
}

/// How long a broker may take to read the acknowledgements before a connection that begins anew.
const DRAIN: Duration = Duration::from_secs(60);
/// How often the socket is read at a high rate.
const PACE: Duration = Duration::from_millis(2);
/// What counts as a high rate, messages a second.
const HIGH_RATE: u128 = 3000;
/// Over how long the rate is taken at least.
const RATE_OVER: Duration = Duration::from_millis(5);
/// How long a high rate is believed to go on: publishers come in bursts.
const HIGH_FOR: Duration = Duration::from_millis(100);

/// Whether messages come so fast that waking for each would cost more than reading them.
struct Pace {
    since: Instant,
    messages: u32,
    high_until: Instant,
    handed_over: Instant,
}

impl Pace {
    fn new() -> Self {
        let now = Instant::now();
        Self { since: now, messages: 0, high_until: now, handed_over: now }
    }

    /// What was read has been handed over.
    fn handed_over(&mut self) {
        self.handed_over = Instant::now();
        let elapsed = self.handed_over - self.since;
        if elapsed >= RATE_OVER {
            if u128::from(self.messages) * 1_000_000 > HIGH_RATE * elapsed.as_micros() {
                self.high_until = self.handed_over + HIGH_FOR;
            }
            (self.since, self.messages) = (self.handed_over, 0);
        }
    }

    fn is_high(&self) -> bool {
        self.handed_over < self.high_until
    }

    /// Until when the socket is left alone.
    fn hold(&self) -> Option<Instant> {
        self.is_high().then(|| self.handed_over + PACE)
    }
}

impl Consumer {
    pub(super) fn new(settings: Settings, options: &Options, topics: Topics, decoder: Box<dyn Decoder>) -> Self {
        Self {
            settings,
            subscribed: options.topics.clone(),
            qos: options.qos.min(1),
            persistent: options.persistent_session && options.qos > 0,
            unacknowledged_max: usize::from(options.max_undelivered_messages),
            reading: Reading { topics, decoder },
            table: None,
            flow: Flow::default(),
        }
    }

    async fn consume(&mut self, context: &mut InputContext) -> Result<(), PluginError> {
        let (mut reconnect, mut turn) = (Reconnect::default(), 0);
        self.reading.topics.reset();
        let mut table = self.table.take().unwrap_or_else(|| Redelivery::new(&context.resume));
        loop {
            let server = self.settings.servers[turn % self.settings.servers.len()].clone();
            turn += 1;
            let opened = tokio::select! {
                biased;
                () = context.stop.requested() => break,
                opened = Connection::open(&self.settings, &server, !self.persistent) => opened,
            };
            let over = match opened {
                Err(error) => Over::Connection(error),
                Ok(mut connection) => {
                    let session_present = connection.broker.session_present;
                    context.health.works();
                    if !reconnect.is_suspicious() {
                        tracing::info!(input = %context.name, %server, version = ?connection.version, session_present, "connected");
                    }
                    reconnect.connected(Instant::now());
                    let forgets = table.connected(session_present);
                    self.flow.ever_subscribed &= session_present;
                    if forgets != Position::None {
                        self.flow.forgotten = Some(context.collector.flush(forgets).await?);
                    }
                    let mut serving = Serving { consumer: self, table: &mut table, reconnect: &mut reconnect, pace: Pace::new(), taken: 0 };
                    let ended = serving.run(&mut connection, context).await;
                    // The points in the collector are ours whatever became of the connection; the broker will repeat their messages.
                    let handed_over = self.hand_over(&mut table, None, &mut context.collector).await;
                    match ended.and_then(|()| handed_over.map_err(Over::from)) {
                        Ok(()) => {
                            connection.close().await;
                            break;
                        }
                        Err(Over::Unread(count)) => {
                            // It goes on at once, with what was not taken here.
                            tracing::info!(input = %context.name, %server, count, "the broker reads acknowledgements slowly: connecting anew");
                            connection.close().await;
                            self.flow.handed_over.clear();
                            turn -= 1;
                            continue;
                        }
                        Err(over) => over,
                    }
                }
            };
            self.flow.handed_over.clear();
            if let Over::Closed(closed) = over {
                return Err(closed.into());
            }
            let error = if let Over::Connection(error) = &over { Some(error) } else { None };
            let Again { wait, say } = reconnect.ended(error, Instant::now());
            context.health.failed();
            if say != Say::Lost {
                context.health.contested();
            }
            self.say(say, context, &server, &over, wait);
            tokio::select! {
                biased;
                () = context.stop.requested() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.table = Some(table);
        Ok(())
    }

    /// Logs the end of a connection.
    fn say(&self, say: Say, context: &InputContext, server: &Address, reason: &Over, wait: Duration) {
        let retry_ms = wait.as_millis() as u64;
        match say {
            Say::Lost => tracing::warn!(input = %context.name, %server, %reason, retry_ms, "no connection to the broker"),
            Say::Rival(closed) => {
                let client_id = &self.settings.client_id;
                tracing::warn!(input = %context.name, %server, client_id, closed, %reason, retry_ms, "{RIVAL}");
            }
            Say::Nothing => {}
        }
    }

    /// Hands the collector's points over, with the messages they came from. While the ring is full the broker is not read, so that it
    /// slows down, but it still gets pings.
    async fn hand_over(
        &mut self,
        table: &mut Redelivery,
        mut connection: Option<&mut Connection>,
        collector: &mut Collector,
    ) -> Result<(), Closed> {
        let position = table.position(std::mem::take(&mut self.flow.positions));
        let mut sending = pin!(collector.flush(position));
        let number = loop {
            let ping = connection.as_ref().and_then(|c| c.deadline());
            tokio::select! {
                biased;
                sent = &mut sending => break sent?,
                () = until(ping) => {
                    if let Some(connection) = &mut connection {
                        connection.keep_alive_unread();
                        // Whether it fails is found out at the next read.
                        let _ = poll_fn(|cx| Poll::Ready(connection.poll_flush(cx))).await;
                    }
                }
            }
        };
        self.flow.handed_over.extend(self.flow.open.drain(..).map(|id| (number, id)));
        Ok(())
    }
}

impl StreamingInput for Consumer {
    fn can_wait(&self) -> bool {
        // The broker keeps what was not acknowledged, and nothing else.
        self.qos > 0
    }

    fn memory(&self) -> InputMemory {
        let message = self.settings.packet_max as u64;
        // One that is being read, one that is being taken apart.
        InputMemory { buffers: message.saturating_mul(2), message }
    }

    fn run<'a>(&'a mut self, context: &'a mut InputContext) -> BoxFuture<'a, Result<(), PluginError>> {
        Box::pin(self.consume(context))
    }
}

/// A consumer with a connection.
struct Serving<'a> {
    consumer: &'a mut Consumer,
    table: &'a mut Redelivery,
    reconnect: &'a mut Reconnect,
    pace: Pace,
    /// Messages of this connection.
    taken: u64,
}

impl Serving<'_> {
    /// Until the connection ends, or until a stop was requested and everything is acknowledged.
    async fn run(&mut self, connection: &mut Connection, context: &mut InputContext) -> Result<(), Over> {
        let acknowledgements = context.collector.acknowledgements();
        self.forget(connection, &context.stop, &acknowledgements).await?;
        if self.consumer.flow.forgotten.is_none() {
            self.subscribe(connection)?;
        }
        let mut looked_again = false;
        while !context.stop.is_requested() {
            if self.unread(connection) >= UNREAD_MAX {
                return self.renew(connection, context, &acknowledgements).await;
            }
            let took = self.take(connection, context).await?;
            self.acknowledge(connection, acknowledgements.now());
            if self.may_read() && poll_fn(|cx| Poll::Ready(connection.poll_fill(cx))).await?.is_ready() {
                looked_again = false;
                continue;
            }
            if took && !looked_again && !self.pace.is_high() {
                // The reactor looks at the socket once more: what comes in this instant shares the batch.
                looked_again = true;
                tokio::task::yield_now().await;
                continue;
            }
            self.hand_over(connection, &mut context.collector).await?;
            self.pace.handed_over();
            self.wait(connection, &context.stop, &acknowledgements).await?;
            looked_again = false;
        }
        self.hand_over(connection, &mut context.collector).await?;
        self.finish(connection, &context.drained, &acknowledgements).await
    }

    /// Waits until the journal knows of a new session; nothing comes of it while nothing is subscribed to.
    async fn forget(&mut self, connection: &mut Connection, stop: &Stop, acknowledgements: &Acknowledgements) -> Result<(), Over> {
        let Some(number) = self.consumer.flow.forgotten else { return Ok(()) };
        loop {
            let deadline = connection.deadline();
            tokio::select! {
                biased;
                () = stop.requested() => return Ok(()),
                reached = acknowledgements.reach(number) => {
                    reached?;
                    self.consumer.flow.forgotten = None;
                    return Ok(());
                }
                () = until(deadline) => {
                    connection.keep_alive_unread();
                    connection.flush().await?;
                }
            }
        }
    }

    /// Subscribes. An old broker sends retained messages again at each subscription, so it is asked once if it keeps the session.
    fn subscribe(&mut self, connection: &mut Connection) -> Result<(), ConnectionError> {
        let kept = connection.version == Version::V311 && connection.broker.session_present && self.consumer.flow.ever_subscribed;
        if kept {
            self.reconnect.works();
            return Ok(());
        }
        write_subscribe(connection.version, &self.consumer.subscribed, self.consumer.qos, &mut connection.out)
    }

    /// Messages whose acknowledgements the broker may not have read: what it may repeat of those that were taken.
    fn unread(&self, connection: &Connection) -> u64 {
        if self.consumer.persistent { self.taken - connection.acknowledgements_read() } else { 0 }
    }

    /// Acknowledges everything, and has the connection begin anew when the broker has read that. What it sends meanwhile it sends again.
    async fn renew(
        &mut self,
        connection: &mut Connection,
        context: &mut InputContext,
        acknowledgements: &Acknowledgements,
    ) -> Result<(), Over> {
        let unread = self.unread(connection);
        self.hand_over(connection, &mut context.collector).await?;
        while let Some(next) = self.consumer.flow.handed_over.front().map(|(number, _)| *number) {
            let deadline = connection.deadline();
            tokio::select! {
                biased;
                () = context.stop.requested() => return Ok(()),
                reached = acknowledgements.reach(next) => self.acknowledge(connection, reached?),
                () = until(deadline) => {
                    connection.keep_alive_unread();
                    connection.flush().await?;
                }
            }
        }
        tokio::select! {
            biased;
            () = context.stop.requested() => Ok(()),
            drained = tokio::time::timeout(DRAIN, connection.drain()) => {
                let said = drained.map_err(|_| ConnectionError::Timeout(DRAIN))??;
                // The answer to the subscription comes behind the backlog.
                said.into_iter().try_for_each(|control| self.control(control, &context.name))?;
                Err(Over::Unread(unread))
            }
        }
    }

    fn may_read(&self) -> bool {
        let flow = &self.consumer.flow;
        flow.open.len() + flow.handed_over.len() < self.consumer.unacknowledged_max
    }

    /// Waits until there is something to do.
    async fn wait(&mut self, connection: &mut Connection, stop: &Stop, acknowledgements: &Acknowledgements) -> Result<(), Over> {
        let (may_read, next) = (self.may_read(), self.consumer.flow.handed_over.front().map(|(number, _)| *number));
        let (deadline, hold) = (connection.deadline(), self.pace.hold());
        let reads = may_read && hold.is_none();
        let due = tokio::select! {
            biased;
            () = stop.requested() => false,
            reached = acknowledgements.reach(next.unwrap_or(0)), if next.is_some() => {
                self.acknowledge(connection, reached?);
                false
            }
            moved = poll_fn(|cx| if reads { connection.poll_fill(cx) } else { connection.poll_write_out(cx) }) => {
                moved?;
                false
            }
            () = until(hold), if hold.is_some() => false,
            () = until(deadline) => true,
        };
        if due && may_read {
            connection.keep_alive()?;
        } else if due {
            connection.keep_alive_unread();
        }
        Ok(())
    }

    /// After a stop: nothing is read any more, the acknowledgements still to come are sent.
    async fn finish(&mut self, connection: &mut Connection, drained: &Stop, acknowledgements: &Acknowledgements) -> Result<(), Over> {
        loop {
            self.acknowledge(connection, acknowledgements.now());
            connection.flush().await?;
            let Some(next) = self.consumer.flow.handed_over.front().map(|(number, _)| *number) else { return Ok(()) };
            let deadline = connection.deadline();
            tokio::select! {
                biased;
                reached = acknowledgements.reach(next) => drop(reached?),
                () = drained.requested() => {
                    self.acknowledge(connection, acknowledgements.now());
                    connection.flush().await?;
                    return Ok(());
                }
                () = until(deadline) => connection.keep_alive_unread(),
            }
        }
    }

    /// Writes the acknowledgement of every message whose batch is durable.
    fn acknowledge(&mut self, connection: &mut Connection, durable: u64) {
        let handed_over = &mut self.consumer.flow.handed_over;
        while let Some((number, id)) = handed_over.front()
            && *number <= durable
        {
            connection.acknowledge(*id);
            handed_over.pop_front();
        }
    }

    async fn hand_over(&mut self, connection: &mut Connection, collector: &mut Collector) -> Result<(), Over> {
        Ok(self.consumer.hand_over(self.table, Some(connection), collector).await?)
    }

    /// Decodes every message that is wholly in the read buffer; whether there was any.
    async fn take(&mut self, connection: &mut Connection, context: &mut InputContext) -> Result<bool, Over> {
        let quarter = (self.consumer.unacknowledged_max / 4).max(1);
        let mut took = false;
        while self.unread(connection) < UNREAD_MAX
            && let Some(incoming) = connection.next_packet()?
        {
            let collector = &mut context.collector;
            match incoming {
                Incoming::Publish(publish) => {
                    took = true;
                    self.pace.messages += 1;
                    self.message(&publish, collector);
                }
                Incoming::TooLarge(publish, size) => {
                    took = true;
                    let topic = String::from_utf8_lossy(publish.topic);
                    collector.refuse(Refusal::Size, format!("a message of {size} bytes on `{topic}` is larger than max_packet_size"), b"");
                    self.taken(publish.id, None);
                }
                Incoming::Control(control) => self.control(control, &context.name)?,
            }
            if collector.is_full() || self.consumer.flow.open.len() >= quarter {
                self.hand_over(connection, collector).await?;
            }
        }
        Ok(took)
    }

    /// Decodes a message.
    #[inline]
    fn message(&mut self, publish: &Publish<'_>, collector: &mut Collector) {
        let position = (self.consumer.persistent && publish.id != 0)
            .then(|| MessageId { id: publish.id, hash: redelivery::hash(publish.topic, publish.payload) });
        if publish.dup && position.is_some_and(|m| self.table.recognise(m)) {
            collector.counts().read += 1;
            collector.counts().duplicate += 1;
            self.taken(publish.id, None);
            return;
        }
        let reading = &mut self.consumer.reading;
        match reading.topics.context(publish.topic, collector) {
            Ok(context) => collector.set_context(context),
            Err(error) => {
                collector.refuse(Refusal::Parse, error, publish.topic);
                self.taken(publish.id, position);
                return;
            }
        }
        // In one batch with its position: a crash must not leave a part of what the broker will send again as a whole.
        collector.message(reading.decoder.as_mut(), publish.payload);
        self.taken(publish.id, position);
    }

    /// A message is wholly in the collector, or counted there.
    #[inline]
    fn taken(&mut self, id: u16, position: Option<MessageId>) {
        if id == 0 {
            return;
        }
        self.consumer.flow.open.push(id);
        self.taken += 1;
        if let Some(position) = position {
            self.table.remember(position);
            self.consumer.flow.positions.push(position);
        }
    }

    fn control(&mut self, control: Control, input: &str) -> Result<(), Over> {
        match control {
            Control::SubAck(answers) => self.subscribed(&answers, input),
            Control::Disconnect { reason, taken_over } => Err(ConnectionError::Disconnected { reason, taken_over }.into()),
            _ => Ok(()),
        }
    }

    fn subscribed(&mut self, answers: &[Result<u8, String>], input: &str) -> Result<(), Over> {
        for (topic, answer) in self.consumer.subscribed.iter().zip(answers) {
            match answer {
                Err(reason) => tracing::error!(%input, topic, reason, "the broker refuses a subscription"),
                Ok(qos) if *qos < self.consumer.qos => {
                    tracing::warn!(%input, topic, granted = qos, "the broker grants less than the qos asked for: messages can get lost");
                }
                Ok(_) => {}
            }
        }
        if answers.iter().all(Result::is_err) {
            return Err(Over::Unsubscribed);
        }
        self.consumer.flow.ever_subscribed = true;
        self.reconnect.works();
        Ok(())
    }
}
