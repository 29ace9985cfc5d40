//! Connections: each reads for itself into blocks of whole messages, one task decodes the blocks of all.
//!
//! A peer that is slow, silent or dead keeps nothing but its own block; when the core falls behind, the channel of blocks fills and
//! every peer is slowed down by its own connection.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::{TcpListener, TcpStream, UnixListener},
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_rustls::TlsAcceptor;
use weir_plugin_api::{
    Position,
    collector::Refusal,
    plugin::{Decoder, InputContext, PluginError},
};

use super::framing::Framing;
use crate::descriptors::room;

/// Bytes a block has room for at first.
const BLOCK: usize = 64 * 1024;
/// Blocks between the connections and the decoding task.
const BLOCKS: usize = 4;
/// Empty blocks kept for use again.
const POOL: usize = 16;

/// Longest time for a TLS handshake.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// A log line about connections that are refused or can't be accepted at most this often.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// How connections are treated.
#[derive(Clone)]
pub(super) struct StreamSettings {
    pub framing: Framing,
    /// The decoder takes many messages at once.
    pub together: bool,
    /// Connections at a time, 0 for no limit.
    pub connections_max: usize,
    /// What accepts TLS, if it is wanted.
    pub tls: Option<TlsAcceptor>,
    /// A connection that is silent for so long is closed, 0 for never.
    pub read_timeout: Duration,
    /// TCP keep-alive, 0 for none.
    pub keep_alive: Duration,
    /// Bytes of one message.
    pub message_max: usize,
}

/// What a connection hands over.
enum Block {
    /// Whole messages.
    Messages(Vec<u8>),
    /// A message that was thrown away, its beginning.
    TooLong(Vec<u8>),
    /// What was left of a connection that broke off.
    Torn(Vec<u8>),
}

/// Where connections come from.
pub(super) enum Listener<'l> {
    Tcp(&'l TcpListener),
    Unix(&'l UnixListener),
}

#[derive(Clone)]
struct Handles {
    blocks: mpsc::Sender<Block>,
    pool: Arc<Mutex<Vec<Vec<u8>>>>,
    stop: watch::Receiver<bool>,
    settings: Arc<StreamSettings>,
}

/// Accepts and decodes until a stop is requested.
pub(super) async fn serve(
    listener: Listener<'_>,
    settings: StreamSettings,
    decoder: &mut dyn Decoder,
    context: &mut InputContext,
) -> Result<(), PluginError> {
    let (blocks, mut received) = mpsc::channel(BLOCKS);
    let (stopping, stop) = watch::channel(false);
    let settings = Arc::new(settings);
    let pool = Arc::new(Mutex::new(Vec::new()));
    let handles = Handles { blocks, pool: Arc::clone(&pool), stop, settings: Arc::clone(&settings) };
    let (stop, input) = (context.stop.clone(), context.name.clone());
    let accepting = async move {
        let mut connections = JoinSet::new();
        let requested = stop.requested();
        tokio::select! {
            () = requested => {}
            () = accept(listener, &input, &handles, &mut connections) => {}
        }
        let _ = stopping.send(true);
        drop(handles);
        while connections.join_next().await.is_some() {}
        Ok(())
    };
    let decoding = async {
        while let Some(block) = received.recv().await {
            let bytes = decode(block, &settings, decoder, context).await?;
            recycle(&pool, bytes);
            if received.is_empty() {
                context.collector.flush(Position::None).await?;
            }
        }
        Ok::<(), PluginError>(())
    };
    // When the core is gone decoding fails, and the connections end with this future.
    tokio::try_join!(accepting, decoding).map(|((), ())| ())
}

async fn accept(listener: Listener<'_>, input: &str, handles: &Handles, connections: &mut JoinSet<()>) {
    let most = match handles.settings.connections_max {
        0 => Semaphore::MAX_PERMITS,
        most => most,
    };
    let places = Arc::new(Semaphore::new(most));
    let (mut said, mut refused, mut failed) = (None::<Instant>, 0_u64, None::<Instant>);
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = match (room(), &listener) {
            (Err(none), _) => Err(none),
            (Ok(()), Listener::Tcp(tcp)) => tcp.accept().await.map(|(stream, peer)| (Accepted::Tcp(stream), peer.to_string())),
            (Ok(()), Listener::Unix(unix)) => unix.accept().await.map(|(stream, _)| (Accepted::Unix(stream), "unix".to_owned())),
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, or the peer is gone already: the others go on.
                if failed.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                    tracing::warn!(%input, %error, "cannot accept a connection");
                    failed = Some(Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            refused += 1;
            if said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                tracing::warn!(%input, %peer, limit = handles.settings.connections_max, refused, "refused connections, there are too many");
                (said, refused) = (Some(Instant::now()), 0);
            }
            continue;
        };
        let handles = handles.clone();
        connections.spawn(async move {
            let ended = match stream {
                Accepted::Tcp(stream) => {
                    keep_alive(&stream, handles.settings.keep_alive);
                    match &handles.settings.tls {
                        None => connection(stream, &handles).await,
                        Some(acceptor) => shaken(acceptor, stream, &handles).await,
                    }
                }
                Accepted::Unix(stream) => connection(stream, &handles).await,
            };
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "connection ended");
            }
            drop(place);
        });
    }
}

enum Accepted {
    Tcp(TcpStream),
    Unix(tokio::net::UnixStream),
}

fn keep_alive(stream: &TcpStream, period: Duration) {
    let socket = socket2::SockRef::from(stream);
    let set = if period.is_zero() {
        socket.set_keepalive(false)
    } else {
        socket.set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(period).with_interval(period))
    };
    if let Err(error) = set {
        tracing::debug!(%error, "cannot set keep-alive");
    }
}

/// Reads a connection to its end once the peer has shown who it is.
async fn shaken(acceptor: &TlsAcceptor, stream: TcpStream, handles: &Handles) -> io::Result<()> {
    let mut stop = handles.stop.clone();
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)) => shaken,
        _ = stop.wait_for(|stopping| *stopping) => return Ok(()),
    };
    let stream = shaken.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no TLS handshake in time"))??;
    connection(stream, handles).await
}

/// Reads one connection to its end.
async fn connection(mut stream: impl AsyncRead + Unpin, handles: &Handles) -> io::Result<()> {
    let settings = &handles.settings;
    let mut stop = handles.stop.clone();
    let (mut block, mut seen, mut discarding) = (take(&handles.pool), 0, false);
    loop {
        let read = tokio::select! {
            read = read_once(&mut stream, &mut block, settings.read_timeout) => read,
            // Stopped, or nobody decodes any more.
            _ = stop.wait_for(|stopping| *stopping) => Ok(0),
        };
        let ended = match read {
            Ok(0) => Some(Ok(())),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        };
        if let Some(ended) = ended {
            // A stream that ends well ends its last message too; what a broken one leaves could be half a number.
            let last = match (&ended, block.is_empty() || discarding) {
                (_, true) => None,
                (Ok(()), false) if !*stop.borrow() => Some(Block::Messages(block)),
                _ => Some(Block::Torn(block)),
            };
            if let Some(last) = last {
                let _ = handles.blocks.send(last).await;
            }
            return ended;
        }
        let complete = settings.framing.complete(&block, seen);
        if complete == 0 {
            seen = block.len();
            if block.len() > settings.message_max {
                if !discarding {
                    let beginning = block[..settings.message_max.min(128)].to_vec();
                    let _ = handles.blocks.send(Block::TooLong(beginning)).await;
                }
                discarding = true;
                // A delimiter may begin in what is thrown away: its possible start is kept.
                let keep = block.len() - 16.min(block.len());
                block.drain(..keep);
                seen = block.len();
            }
            continue;
        }
        let mut next = take(&handles.pool);
        next.extend_from_slice(&block[complete..]);
        seen = next.len();
        block.truncate(complete);
        if std::mem::take(&mut discarding) {
            let (_, rest) = settings.framing.first(&block);
            block.drain(..rest);
        }
        if !block.is_empty() && handles.blocks.send(Block::Messages(block)).await.is_err() {
            return Ok(());
        }
        block = next;
    }
}

async fn read_once(stream: &mut (impl AsyncRead + Unpin), block: &mut Vec<u8>, timeout: Duration) -> io::Result<usize> {
    if block.capacity() - block.len() < BLOCK / 4 {
        block.reserve(BLOCK);
    }
    if timeout.is_zero() {
        return stream.read_buf(block).await;
    }
    match tokio::time::timeout(timeout, stream.read_buf(block)).await {
        Ok(read) => read,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "silent for longer than `read_timeout`")),
    }
}

fn take(pool: &Mutex<Vec<Vec<u8>>>) -> Vec<u8> {
    pool.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_else(|| Vec::with_capacity(BLOCK))
}

fn recycle(pool: &Mutex<Vec<Vec<u8>>>, mut block: Vec<u8>) {
    let mut pool = pool.lock().unwrap_or_else(PoisonError::into_inner);
    if pool.len() < POOL && block.capacity() <= 4 * BLOCK {
        block.clear();
        pool.push(block);
    }
}

/// Decodes one block and gives its memory back.
async fn decode(
    block: Block,
    settings: &StreamSettings,
    decoder: &mut dyn Decoder,
    context: &mut InputContext,
) -> Result<Vec<u8>, PluginError> {
    let bytes = match block {
        Block::Messages(bytes) => bytes,
        Block::TooLong(beginning) => {
            let reason = format!("a message longer than {} bytes", settings.message_max);
            context.collector.refuse(Refusal::Size, reason, &beginning);
            return Ok(beginning);
        }
        Block::Torn(rest) => {
            context.collector.refuse(Refusal::Frame, "a connection broke off inside a message", &rest);
            return Ok(rest);
        }
    };
    if settings.together {
        super::feed(decoder, &bytes, context).await?;
        return Ok(bytes);
    }
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let (message, next) = settings.framing.first(rest);
        if !message.is_empty() {
            super::feed(decoder, message, context).await?;
        }
        rest = &rest[next..];
    }
    Ok(bytes)
}
