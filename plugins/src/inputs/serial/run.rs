//! The port at work: open, read, hand over, open again.

use std::time::Duration;

use tokio::{io::AsyncReadExt, time::Instant};
use tokio_serial::SerialStream;
use weir_plugin_api::{
    collector::{Collector, Refusal},
    plugin::{BoxFuture, Decoder, InputContext, PluginError, StreamingInput},
    position::Position,
    ring::Closed,
};

use super::{
    framing::{Piece, Splitter},
    port::Settings,
};
use crate::inputs::retry::Retry;

/// Bytes taken from the port at once.
pub(super) const READ_BYTES: usize = 4096;

/// Why a port is not read any more.
#[derive(Debug)]
pub(super) enum Over {
    /// A stop was requested.
    Stopped,
    /// The port is gone.
    Lost(std::io::Error),
    /// The core is gone.
    Closed(Closed),
}

impl From<Closed> for Over {
    fn from(closed: Closed) -> Self {
        Self::Closed(closed)
    }
}

/// What is made of the bytes.
pub(super) enum Reading {
    /// Payloads for a codec.
    Pieces(Pieces),
    /// Frames with acknowledgements.
    #[cfg(feature = "codec-frame")]
    Frames(Box<super::link::Link>),
}

impl Reading {
    pub(super) fn pieces(splitter: Splitter, decoder: Box<dyn Decoder>, idle_gap: Duration, discard_first: bool) -> Self {
        Self::Pieces(Pieces { splitter, decoder, idle_gap, discard_first })
    }
}

/// The input.
pub(super) struct Serial {
    settings: Settings,
    reading: Reading,
}

impl Serial {
    pub(super) fn new(settings: Settings, reading: Reading) -> Self {
        Self { settings, reading }
    }

    async fn serve(&mut self, context: &mut InputContext) -> Result<(), PluginError> {
        let mut retry = Retry::default();
        loop {
            let reason = match self.settings.open() {
                Err(error) => error.to_string(),
                Ok(port) => {
                    context.health.works();
                    tracing::info!(input = %context.name, port = %self.settings.path, "port opened");
                    let over = match &mut self.reading {
                        Reading::Pieces(pieces) => pieces.read(port, context, &mut retry).await,
                        #[cfg(feature = "codec-frame")]
                        Reading::Frames(link) => link.read(port, context, &mut retry).await,
                    };
                    match over {
                        Over::Stopped => return Ok(()),
                        Over::Closed(closed) => return Err(closed.into()),
                        Over::Lost(error) => error.to_string(),
                    }
                }
            };
            context.health.failed();
            if retry.tell() {
                tracing::warn!(input = %context.name, port = %self.settings.path, reason, "no serial port, looking for it");
            }
            tokio::select! {
                biased;
                () = context.stop.requested() => return Ok(()),
                () = tokio::time::sleep(retry.next_wait()) => {}
            }
        }
    }
}

impl StreamingInput for Serial {
    fn run<'a>(&'a mut self, context: &'a mut InputContext) -> BoxFuture<'a, Result<(), PluginError>> {
        Box::pin(self.serve(context))
    }
}

/// What a port brought about.
enum Came {
    Stop,
    Bytes(std::io::Result<usize>),
    Pause,
}

/// Payloads for a codec. Their sender cannot repeat them, so it is not waited for: with the ring full they are dropped and counted.
pub(super) struct Pieces {
    splitter: Splitter,
    decoder: Box<dyn Decoder>,
    idle_gap: Duration,
    discard_first: bool,
}

impl Pieces {
    async fn read(&mut self, mut port: SerialStream, context: &mut InputContext, retry: &mut Retry) -> Over {
        self.splitter.reset(self.discard_first);
        self.decoder.reset();
        let mut bytes = [0; READ_BYTES];
        let mut pause_at: Option<Instant> = None;
        loop {
            let pause = tokio::time::sleep_until(pause_at.unwrap_or_else(Instant::now));
            let came = tokio::select! {
                biased;
                () = context.stop.requested() => Came::Stop,
                // Bytes that are there come before the end of a pause that is no more.
                read = port.read(&mut bytes) => Came::Bytes(read),
                () = pause, if pause_at.is_some() => Came::Pause,
            };
            let collector = &mut context.collector;
            collector.set_read_at(collector.clock().steady());
            let handled = match came {
                Came::Bytes(Err(error)) => return self.lost(collector, error),
                Came::Bytes(Ok(0)) => return self.lost(collector, std::io::ErrorKind::UnexpectedEof.into()),
                Came::Bytes(Ok(len)) => {
                    retry.recovered();
                    self.splitter.feed(&bytes[..len]);
                    self.take(collector)
                }
                Came::Pause => self.pause(collector),
                // What waited for its pause is whole: nothing more will be read. Half a line is not.
                Came::Stop => self.pause(collector).and_then(|()| self.cut_off(collector)),
            };
            if let Err(closed) = handled.and_then(|()| hand_over(collector)) {
                return Over::Closed(closed);
            }
            if matches!(came, Came::Stop) {
                return Over::Stopped;
            }
            pause_at = self.splitter.minds_pauses().then(|| Instant::now() + self.idle_gap);
        }
    }

    fn take(&mut self, collector: &mut Collector) -> Result<(), Closed> {
        while let Some(piece) = self.splitter.next() {
            decode(&piece, self.decoder.as_mut(), collector)?;
        }
        Ok(())
    }

    /// The port is gone, perhaps in the middle of a payload.
    fn lost(&mut self, collector: &mut Collector, error: std::io::Error) -> Over {
        match self.cut_off(collector).and_then(|()| hand_over(collector)) {
            Ok(()) => Over::Lost(error),
            Err(closed) => Over::Closed(closed),
        }
    }

    fn cut_off(&mut self, collector: &mut Collector) -> Result<(), Closed> {
        match self.splitter.cut_off() {
            Some(piece) => decode(&piece, self.decoder.as_mut(), collector),
            None => Ok(()),
        }
    }

    fn pause(&mut self, collector: &mut Collector) -> Result<(), Closed> {
        match self.splitter.pause() {
            Some(piece) => decode(&piece, self.decoder.as_mut(), collector),
            None => Ok(()),
        }
    }
}

fn decode(piece: &Piece<'_>, decoder: &mut dyn Decoder, collector: &mut Collector) -> Result<(), Closed> {
    let mut rest = match piece {
        Piece::Whole(bytes) => *bytes,
        Piece::TooLarge(sample) => {
            collector.refuse(Refusal::Size, "a payload is larger than max_frame_bytes", sample);
            return Ok(());
        }
        Piece::Torn(sample) => {
            let reason = format!("only {} bytes came before a pause or the end of the connection", sample.len());
            collector.refuse(Refusal::Frame, reason, sample);
            return Ok(());
        }
    };
    let read_at = collector.clock().steady();
    while !rest.is_empty() {
        let used = decoder.decode(rest, collector).min(rest.len());
        rest = &rest[used..];
        if used == 0 && !collector.is_full() {
            collector.refuse(Refusal::Parse, "the rest of a payload can't be read", rest);
            return Ok(());
        }
        if !rest.is_empty() || collector.is_full() {
            hand_over(collector)?;
            collector.set_read_at(read_at);
        }
    }
    Ok(())
}

fn hand_over(collector: &mut Collector) -> Result<(), Closed> {
    collector.try_flush(Position::None).map(|_| ())
}
