//! One connection to one broker: connecting, reading packets out of one buffer, writing into another, pings.
//!
//! rumqttc's own event loop writes to the socket once per acknowledgement and reconnects for ever on a packet it finds too large;
//! this one gathers a commit's acknowledgements into one write and steps over such a packet. Nothing here runs by itself: the owner
//! calls [`Connection::fill`] as often as it likes and may drop the future at any time.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use rumqttc::v5::mqttbytes::v5 as five;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    Settings,
    address::Address,
    wire::{self, ConnAck, Control, Header, Malformed, Publish, Version, kind},
};

/// Bytes of the read buffer at first; it grows to [`READ_MAX`] under load and for a large packet.
const READ_MIN: usize = 8 * 1024;
const READ_MAX: usize = 64 * 1024;

/// After so many acknowledgements the broker is asked whether it has read them.
const ASK_EVERY: u64 = 2048;

/// Why there is no connection, or no longer.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// The network failed.
    #[error("{what}: {source}")]
    Io {
        /// While doing what.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// Nothing came in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The broker refused the connection.
    #[error("the broker refuses the connection: {reason}")]
    Refused {
        /// It does not speak the version.
        version: bool,
        /// It does not know or trust us: a person must act.
        credentials: bool,
        /// In words.
        reason: String,
    },
    /// The broker closed the connection.
    #[error("the broker closed the connection")]
    Closed,
    /// The broker said why it closes the connection.
    #[error("the broker closes the connection: {reason}")]
    Disconnected {
        /// In words.
        reason: String,
        /// Another client of our id has come.
        taken_over: bool,
    },
    /// The broker does not keep to the protocol.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// A packet from the broker.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// A message.
    Publish(Publish<'a>),
    /// A message larger than allowed: stepped over, its payload is not there.
    TooLarge(Publish<'a>, usize),
    /// Anything else.
    Control(Control),
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(s) => Pin::new(s).poll_read(cx, buf),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buf),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Tls(s) => Pin::new(s).poll_write(cx, bytes),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
        }
    }
}

/// What was read and not yet taken.
struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes of a too large packet still to be thrown away.
    skip: usize,
}

impl Inbox {
    /// Room for at least one byte behind `end`; `wanted` is the length of the packet at the front, if it is known.
    fn make_room(&mut self, wanted: usize) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            // A large packet was here: give its memory back.
            if self.bytes.len() > READ_MAX {
                self.bytes.truncate(READ_MAX);
                self.bytes.shrink_to_fit();
            }
        }
        if self.end == self.bytes.len() || self.start + wanted > self.bytes.len() {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            let need = wanted.max(self.end + 1);
            if need > self.bytes.len() || self.end * 2 > self.bytes.len() {
                let grown = (self.bytes.len() * 2).min(READ_MAX).max(need);
                self.bytes.resize(grown.max(self.bytes.len()), 0);
            }
        }
    }
}

/// A connection the broker has accepted.
pub struct Connection {
    stream: Stream,
    inbox: Inbox,
    /// What waits to be written; [`Connection::fill`] and [`Connection::flush`] write it.
    pub out: BytesMut,
    flushing: bool,
    /// Version spoken.
    pub version: Version,
    /// What the broker said of itself.
    pub broker: ConnAck,
    /// Largest packet taken, bytes.
    packet_max: usize,
    keepalive: Duration,
    ping_timeout: Duration,
    next_ping: Instant,
    pinged: Option<Instant>,
    /// Acknowledgements written.
    acknowledged: u64,
    /// The same when each ping was written that is not answered yet.
    pings: VecDeque<u64>,
    /// Acknowledgements the broker has read, by its answers to pings.
    read: u64,
}

impl Connection {
    /// Connects to `address` and waits for the broker's word, all within the connection timeout. Where the version is not set, 5 is
    /// tried first and 3.1.1 when the broker refuses it or hangs up.
    ///
    /// # Errors
    /// Whatever prevented it, from the address to the broker's refusal.
    pub async fn open(settings: &Settings, address: &Address, clean: bool) -> Result<Self, ConnectionError> {
        match settings.version {
            Some(version) => Self::open_as(settings, address, clean, version).await,
            None => match Self::open_as(settings, address, clean, Version::V5).await {
                Err(ConnectionError::Refused { version: true, .. } | ConnectionError::Closed) => {
                    Self::open_as(settings, address, clean, Version::V311).await
                }
                other => other,
            },
        }
    }

    async fn open_as(settings: &Settings, address: &Address, clean: bool, version: Version) -> Result<Self, ConnectionError> {
        let timeout = settings.connection_timeout;
        match tokio::time::timeout(timeout, Self::handshake(settings, address, clean, version)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectionError::Timeout(timeout)),
        }
    }

    async fn handshake(settings: &Settings, address: &Address, clean: bool, version: Version) -> Result<Self, ConnectionError> {
        let io = |what| move |source| ConnectionError::Io { what, source };
        let tcp = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(io("can't connect"))?;
        tcp.set_nodelay(true).map_err(io("can't set up the socket"))?;
        let stream = if address.tls {
            let Some(config) = &settings.tls else {
                return Err(io("can't set up TLS")(io::Error::other("no TLS configuration")));
            };
            let name =
                rustls::pki_types::ServerName::try_from(address.host.clone()).map_err(|e| io("can't set up TLS")(io::Error::other(e)))?;
            let tls = TlsConnector::from(std::sync::Arc::clone(config)).connect(name, tcp).await.map_err(io("TLS failed"))?;
            Stream::Tls(Box::new(tls))
        } else {
            Stream::Plain(tcp)
        };
        let mut connection = Self {
            stream,
            inbox: Inbox { bytes: vec![0; READ_MIN], start: 0, end: 0, skip: 0 },
            out: BytesMut::new(),
            flushing: false,
            version,
            broker: ConnAck::default(),
            packet_max: settings.packet_max,
            keepalive: settings.keepalive,
            ping_timeout: settings.ping_timeout,
            next_ping: Instant::now(),
            pinged: None,
            acknowledged: 0,
            pings: VecDeque::new(),
            read: 0,
        };
        write_connect(settings, clean, version, &mut connection.out)?;
        connection.flush().await?;
        connection.broker = connection.connack().await?;
        if let Some(seconds) = connection.broker.keep_alive {
            connection.keepalive = Duration::from_secs(seconds.into());
        }
        connection.schedule_ping();
        Ok(connection)
    }

    async fn connack(&mut self) -> Result<ConnAck, ConnectionError> {
        loop {
            match self.next_packet()? {
                Some(Incoming::Control(Control::ConnAck(ack))) => return Ok(ack),
                Some(Incoming::Control(Control::Refused { version, credentials, reason })) => {
                    return Err(ConnectionError::Refused { version, credentials, reason });
                }
                Some(Incoming::Control(Control::Disconnect { reason, taken_over })) => {
                    return Err(ConnectionError::Disconnected { reason, taken_over });
                }
                Some(_) => return Err(Malformed("another packet came before the CONNACK".into()).into()),
                None => self.fill().await?,
            }
        }
    }

    /// Takes the next packet that is wholly there.
    ///
    /// # Errors
    /// Bytes that are no MQTT: the connection must be given up.
    #[inline]
    pub fn next_packet(&mut self) -> Result<Option<Incoming<'_>>, ConnectionError> {
        let inbox = &mut self.inbox;
        if inbox.skip > 0 {
            let now = inbox.skip.min(inbox.end - inbox.start);
            inbox.start += now;
            inbox.skip -= now;
            if inbox.skip > 0 {
                return Ok(None);
            }
        }
        let Some(header) = Header::read(&inbox.bytes[inbox.start..inbox.end])? else { return Ok(None) };
        let have = inbox.end - inbox.start;
        if header.total_len() > self.packet_max {
            return self.too_large(header);
        }
        if have < header.total_len() {
            inbox.make_room(header.total_len());
            return Ok(None);
        }
        let at = inbox.start;
        inbox.start += header.total_len();
        let packet = &self.inbox.bytes[at..at + header.total_len()];
        if header.kind() == kind::PUBLISH {
            return Ok(Some(Incoming::Publish(Publish::read(self.version, header.first, &packet[header.header_len..])?)));
        }
        let control = wire::read_control(self.version, packet, header)?;
        if matches!(control, Control::PingResp) {
            // Answered in its turn: what was written before it has been read.
            self.read = self.pings.pop_front().unwrap_or(self.read);
        }
        Ok(Some(Incoming::Control(control)))
    }

    /// A packet over the limit: what names it is read, the rest thrown away as it comes.
    fn too_large(&mut self, header: Header) -> Result<Option<Incoming<'_>>, ConnectionError> {
        if header.kind() != kind::PUBLISH {
            return Err(Malformed("a packet that is no message and larger than allowed".into()).into());
        }
        let inbox = &mut self.inbox;
        let have = inbox.end - inbox.start;
        let body = &inbox.bytes[inbox.start + header.header_len..inbox.end];
        if Publish::head(header.first, body)?.is_none() {
            if have >= READ_MAX + 16 {
                return Err(Malformed("a topic longer than its packet".into()).into());
            }
            inbox.make_room(READ_MAX + 16);
            return Ok(None);
        }
        let now = have.min(header.total_len());
        let at = inbox.start;
        inbox.start += now;
        inbox.skip = header.total_len() - now;
        let body = &self.inbox.bytes[at + header.header_len..at + now];
        Ok(Publish::head(header.first, body)?.map(|(publish, _)| Incoming::TooLarge(publish, header.total_len())))
    }

    /// Writes what waits, and reads once: done when at least one byte came. May be dropped at any time.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn fill(&mut self) -> impl Future<Output = Result<(), ConnectionError>> + '_ {
        std::future::poll_fn(|cx| self.poll_fill(cx))
    }

    /// [`Connection::fill`] as a poll.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        let inbox = &mut self.inbox;
        inbox.make_room(0);
        let mut buf = ReadBuf::new(&mut inbox.bytes[inbox.end..]);
        match self.stream.poll_read(cx, &mut buf) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(source)) => Poll::Ready(Err(ConnectionError::Io { what: "can't read", source })),
            Poll::Ready(Ok(())) => {
                let count = buf.filled().len();
                inbox.end += count;
                if count == 0 {
                    return Poll::Ready(Err(ConnectionError::Closed));
                }
                self.pinged = None;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Writes everything that waits. May be dropped at any time.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn flush(&mut self) -> Result<(), ConnectionError> {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Done when something that waited was written; never while nothing waits.
    pub fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        if self.is_written() { Poll::Pending } else { self.poll_flush(cx) }
    }

    /// Whether nothing waits to be written.
    pub fn is_written(&self) -> bool {
        self.out.is_empty() && !self.flushing
    }

    /// [`Connection::flush`] as a poll.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectionError>> {
        let failed = |source| Poll::Ready(Err(ConnectionError::Io { what: "can't write", source }));
        while !self.out.is_empty() {
            match self.stream.poll_write(cx, &self.out) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(ConnectionError::Closed)),
                Poll::Ready(Ok(count)) => {
                    self.out.advance(count);
                    self.flushing = true;
                }
                Poll::Ready(Err(source)) => return failed(source),
            }
        }
        if self.flushing {
            match self.stream.poll_flush(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => self.flushing = false,
                Poll::Ready(Err(source)) => return failed(source),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// When [`Connection::keep_alive`] is to be called next, `None` when never.
    pub fn deadline(&self) -> Option<Instant> {
        match (self.pinged, self.keepalive.is_zero()) {
            (Some(at), _) => Some(at + self.ping_timeout),
            (None, false) => Some(self.next_ping),
            (None, true) => None,
        }
    }

    /// Sends a ping when it is time to, and finds out that the last one was not answered.
    ///
    /// # Errors
    /// No answer to the last ping.
    pub fn keep_alive(&mut self) -> Result<(), ConnectionError> {
        let now = Instant::now();
        if self.pinged.is_some_and(|at| now >= at + self.ping_timeout) {
            return Err(ConnectionError::Timeout(self.ping_timeout));
        }
        if self.pinged.is_none() && !self.keepalive.is_zero() && now >= self.next_ping {
            self.write_ping();
            self.pinged = Some(now);
            self.schedule_ping();
        }
        Ok(())
    }

    /// For an owner that does not read for a while: pings on without expecting an answer.
    pub fn keep_alive_unread(&mut self) {
        self.pinged = None;
        if !self.keepalive.is_zero() && Instant::now() >= self.next_ping {
            self.write_ping();
            self.schedule_ping();
        }
    }

    fn write_ping(&mut self) {
        wire::write_ping(&mut self.out);
        self.pings.push_back(self.acknowledged);
    }

    /// Writes the acknowledgement of a message, and now and then a ping behind it.
    pub fn acknowledge(&mut self, id: u16) {
        wire::write_puback(id, &mut self.out);
        self.acknowledged += 1;
        if self.acknowledged.is_multiple_of(ASK_EVERY) {
            self.write_ping();
        }
    }

    /// How many acknowledgements the broker has read for sure.
    pub fn acknowledgements_read(&self) -> u64 {
        self.read
    }

    /// Asks whether the broker has read every acknowledgement, throwing away the messages it sends until it says so. What else it said
    /// comes back.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn drain(&mut self) -> Result<Vec<Control>, ConnectionError> {
        let mut said = Vec::new();
        self.write_ping();
        while !self.pings.is_empty() {
            while let Some(incoming) = self.next_packet()? {
                match incoming {
                    Incoming::Control(Control::PingResp) | Incoming::Publish(_) | Incoming::TooLarge(..) => {}
                    Incoming::Control(control) => said.push(control),
                }
            }
            if !self.pings.is_empty() {
                self.fill().await?;
            }
        }
        Ok(said)
    }

    /// The broker gives up after one and a half keep-alives without a packet; this leaves room for a slow network.
    fn schedule_ping(&mut self) {
        self.next_ping = Instant::now() + self.keepalive.mul_f32(0.8);
    }

    /// Says goodbye and closes, within a second.
    pub async fn close(mut self) {
        wire::write_disconnect(&mut self.out);
        let _ = tokio::time::timeout(Duration::from_secs(1), self.flush()).await;
    }
}

/// Waits until `deadline`, for ever without one.
pub async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn write_connect(settings: &Settings, clean: bool, version: Version, out: &mut BytesMut) -> Result<(), ConnectionError> {
    let keep_alive = u16::try_from(settings.keepalive.as_secs()).unwrap_or(u16::MAX);
    let written = match version {
        Version::V5 => {
            let mut properties = five::ConnectProperties::new();
            properties.receive_maximum = settings.receive_max;
            properties.max_packet_size = u32::try_from(settings.packet_max).ok();
            properties.session_expiry_interval = settings.session_expiry;
            let connect =
                five::Connect { keep_alive, client_id: settings.client_id.clone(), clean_start: clean, properties: Some(properties) };
            let login = settings.login.as_ref().map(|(user, password)| five::Login::new(user, password.expose()));
            five::Packet::Connect(connect, None, login).write(out, None).map_err(|e| e.to_string())
        }
        Version::V311 => {
            let mut connect = rumqttc::Connect::new(settings.client_id.clone());
            connect.keep_alive = keep_alive;
            connect.clean_session = clean;
            if let Some((user, password)) = &settings.login {
                connect.set_login(user, password.expose());
            }
            connect.write(out).map_err(|e| e.to_string())
        }
    };
    written.map(drop).map_err(|e| Malformed(format!("the CONNECT can't be written: {e}")).into())
}

/// Appends a SUBSCRIBE with packet id 1. In version 5 retained messages come only with a subscription that is new to the session.
///
/// # Errors
/// Topics that do not fit into a packet.
pub fn write_subscribe(version: Version, topics: &[String], qos: u8, out: &mut BytesMut) -> Result<(), ConnectionError> {
    let written = match version {
        Version::V5 => {
            let qos = if qos == 0 { rumqttc::v5::mqttbytes::QoS::AtMostOnce } else { rumqttc::v5::mqttbytes::QoS::AtLeastOnce };
            let filters = topics.iter().map(|topic| {
                let mut filter = five::Filter::new(topic.clone(), qos);
                filter.retain_forward_rule = five::RetainForwardRule::OnNewSubscribe;
                filter
            });
            let mut subscribe = five::Subscribe::new_many(filters, None);
            subscribe.pkid = 1;
            subscribe.write(out).map_err(|e| e.to_string())
        }
        Version::V311 => {
            let qos = if qos == 0 { rumqttc::QoS::AtMostOnce } else { rumqttc::QoS::AtLeastOnce };
            let mut subscribe = rumqttc::Subscribe::new_many(topics.iter().map(|t| rumqttc::SubscribeFilter::new(t.clone(), qos)));
            subscribe.pkid = 1;
            subscribe.write(out).map_err(|e| e.to_string())
        }
    };
    written.map(drop).map_err(|e| Malformed(format!("the SUBSCRIBE can't be written: {e}")).into())
}
