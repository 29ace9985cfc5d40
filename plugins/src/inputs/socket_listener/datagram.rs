//! Datagrams: each is one payload. UDP cannot be slowed down, so what finds the ring full is dropped and counted; a local datagram
//! socket can, its senders wait.

use std::{io, time::Duration};

use tokio::net::{UdpSocket, UnixDatagram};
use weir_plugin_api::{
    Position,
    collector::Refusal,
    plugin::{Decoder, InputContext, PluginError},
};

/// The largest datagram; UDP has none larger.
const DATAGRAM_MAX: usize = 64 * 1024;
/// Datagrams read without letting other tasks run.
const BURST: usize = 64;
/// How long the count of what was dropped waits for a further datagram to go with.
const TELL_AFTER: Duration = Duration::from_millis(100);

/// Reads UDP until a stop is requested.
pub(super) async fn udp(socket: &UdpSocket, decoder: &mut dyn Decoder, context: &mut InputContext) -> Result<(), PluginError> {
    let mut buffer = vec![0; DATAGRAM_MAX];
    let stop = context.stop.clone();
    let mut dropped = false;
    loop {
        tokio::select! {
            ready = socket.readable() => ready.map_err(failed)?,
            () = stop.requested() => break,
            () = tokio::time::sleep(TELL_AFTER), if dropped => {}
        }
        for _ in 0..BURST {
            let read = match socket.try_recv(&mut buffer) {
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(failed(error)),
            };
            let mut rest = &buffer[..read];
            while !rest.is_empty() {
                let used = decoder.decode(rest, &mut context.collector);
                rest = &rest[used.min(rest.len())..];
                if context.collector.is_full() || !rest.is_empty() {
                    context.collector.try_flush(Position::None)?;
                }
            }
        }
        // What was dropped is counted in the next batch that finds a place.
        dropped = context.collector.try_flush(Position::None)?.is_none();
        tokio::task::yield_now().await;
    }
    context.collector.flush(Position::None).await?;
    Ok(())
}

/// Reads a local datagram socket until a stop is requested.
pub(super) async fn unixgram(socket: &UnixDatagram, decoder: &mut dyn Decoder, context: &mut InputContext) -> Result<(), PluginError> {
    // One byte more tells a datagram that was cut off from the largest one.
    let mut buffer = vec![0; DATAGRAM_MAX + 1];
    let stop = context.stop.clone();
    loop {
        tokio::select! {
            ready = socket.readable() => ready.map_err(failed)?,
            () = stop.requested() => break,
        }
        for _ in 0..BURST {
            match socket.try_recv(&mut buffer) {
                Ok(read) if read > DATAGRAM_MAX => {
                    let reason = format!("a datagram longer than {DATAGRAM_MAX} bytes");
                    context.collector.refuse(Refusal::Size, reason, &buffer[..read]);
                }
                Ok(read) => super::feed(decoder, &buffer[..read], context).await?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(failed(error)),
            }
        }
        context.collector.flush(Position::None).await?;
        tokio::task::yield_now().await;
    }
    Ok(())
}

fn failed(error: io::Error) -> PluginError {
    PluginError::because("reading datagrams failed", &error)
}
