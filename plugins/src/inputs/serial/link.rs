//! The frame protocol on a port: readings in, acknowledgements out once the core has made them durable.
//!
//! What was taken is handed over with its place (boot, number) in the same batch, so after a crash a reading that is sent again is
//! recognised. An acknowledgement is cumulative: only the newest one waits to be written, whatever the line does.

use std::collections::VecDeque;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_serial::SerialStream;
use weir_firmware_shim::{
    frame::{FrameError, WIRE_MAX, crc::crc32c, write_ack},
    link::{Event, Gateway},
};
use weir_plugin_api::{
    collector::{Collector, Refusal},
    plugin::InputContext,
    position::Position,
    ring::Closed,
};

use super::{
    link_log::Log,
    run::{Over, READ_BYTES},
};
use crate::{
    codecs::frame::{Faults, Told, write_readings},
    inputs::retry::Retry,
};

/// What names the clock of this machine's boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A place in a device's readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    nonce: u32,
    sequence: u64,
}

/// The gateway's end of the line.
pub(super) struct Link {
    device_tag: String,
    gateway: Option<Gateway>,
    /// Last place whose readings are in the collector.
    reached: Option<Place>,
    /// Number of the batch and the place it ends at, oldest first.
    handed_over: VecDeque<(u64, Place)>,
    /// What the core has made durable.
    durable: Option<Place>,
    ack_due: bool,
    /// Bytes on their way to the device.
    out: Vec<u8>,
    /// What the log has said about the device's sensors, and about itself.
    faults: Faults,
    log: Log,
}

impl Link {
    pub(super) fn new(device_tag: String) -> Self {
        Self {
            device_tag,
            gateway: None,
            reached: None,
            handed_over: VecDeque::new(),
            durable: None,
            ack_due: false,
            out: Vec::new(),
            faults: Faults::default(),
            log: Log::default(),
        }
    }

    pub(super) async fn read(&mut self, mut port: SerialStream, context: &mut InputContext, retry: &mut Retry) -> Over {
        if self.gateway.is_none() {
            let resume = context.resume.sequence.and_then(|(nonce, sequence)| Some((u32::try_from(nonce).ok()?, sequence)));
            self.durable = resume.map(|(nonce, sequence)| Place { nonce, sequence });
            self.log.resumed(resume.map(|(nonce, _)| nonce));
            self.gateway = Some(Gateway::new(resume, clock_name(context.collector.clock().wall())));
        }
        if let Some(gateway) = &mut self.gateway {
            gateway.reopen();
        }
        // Half a frame of the connection before is no use; a zero ends whatever the device has received of it.
        self.out.clear();
        self.out.push(0);
        self.log.reopened();
        self.ack_due = self.durable.is_some();
        match self.serve(&mut port, context, retry).await {
            Err(over) => over,
            Ok(()) => self.finish(&mut port, context).await.err().unwrap_or(Over::Stopped),
        }
    }

    async fn serve(&mut self, port: &mut SerialStream, context: &mut InputContext, retry: &mut Retry) -> Result<(), Over> {
        let acknowledgements = context.collector.acknowledgements();
        let mut bytes = [0; READ_BYTES];
        loop {
            self.fill_out(micros(context.collector.clock().steady()));
            let next = self.handed_over.front().map(|(number, _)| *number);
            let (mut reader, mut writer) = tokio::io::split(&mut *port);
            tokio::select! {
                biased;
                () = context.stop.requested() => return Ok(()),
                reached = acknowledgements.reach(next.unwrap_or(0)), if next.is_some() => {
                    let reached = reached?;
                    self.acknowledged(reached);
                }
                written = writer.write(&self.out), if !self.out.is_empty() => {
                    let written = written.map_err(Over::Lost)?;
                    self.out.drain(..written);
                }
                read = reader.read(&mut bytes) => {
                    let len = read.map_err(Over::Lost)?;
                    if len == 0 {
                        return Err(Over::Lost(std::io::ErrorKind::UnexpectedEof.into()));
                    }
                    retry.recovered();
                    self.take(&bytes[..len], &mut context.collector).await?;
                }
            }
        }
    }

    /// After a stop: nothing is read any more, the acknowledgements still to come are written.
    async fn finish(&mut self, port: &mut SerialStream, context: &mut InputContext) -> Result<(), Over> {
        self.hand_over(&mut context.collector).await?;
        context.flushed.request();
        let acknowledgements = context.collector.acknowledgements();
        let mut last = false;
        loop {
            self.acknowledged(acknowledgements.now());
            self.fill_out(micros(context.collector.clock().steady()));
            let next = self.handed_over.front().map(|(number, _)| *number);
            if (next.is_none() || last) && self.out.is_empty() {
                return Ok(());
            }
            tokio::select! {
                biased;
                written = port.write(&self.out), if !self.out.is_empty() => {
                    let written = written.map_err(Over::Lost)?;
                    self.out.drain(..written);
                }
                reached = acknowledgements.reach(next.unwrap_or(0)), if next.is_some() && !last => {
                    let reached = reached?;
                    self.acknowledged(reached);
                }
                () = context.drained.requested() => {
                    // A line that takes nothing must not hold the stop up.
                    if last {
                        return Ok(());
                    }
                    last = true;
                }
            }
        }
    }

    async fn take(&mut self, bytes: &[u8], collector: &mut Collector) -> Result<(), Closed> {
        let arrived = collector.clock().steady();
        collector.set_read_at(arrived);
        for byte in bytes {
            let Some(gateway) = &mut self.gateway else { return Ok(()) };
            let Some(event) = gateway.push(*byte, micros(arrived)) else { continue };
            match event {
                Event::Hello { new_boot, lost } => {
                    if let Some(hello) = gateway.hello() {
                        self.log.hello(&hello, new_boot, arrived, collector.input_name());
                    }
                    // A batch has one place: readings of the boot before go first.
                    if new_boot {
                        self.hand_over(collector).await?;
                        collector.set_read_at(arrived);
                        self.faults.iter_mut().for_each(Told::forget);
                        // The new row may have the old one's name: it would take its acknowledgements for its own.
                        self.handed_over.clear();
                        self.durable = None;
                        self.ack_due = false;
                    }
                    if lost > 0 {
                        collector.counts().lost_link += lost;
                        self.reached = self.place();
                    }
                    self.ack_due |= self.durable.is_some();
                }
                Event::Data { new, duplicate, lost } => {
                    self.log.in_order();
                    collector.counts().read += duplicate;
                    collector.counts().duplicate += duplicate;
                    collector.counts().lost_link += lost;
                    if new > 0 {
                        write_readings(gateway, &self.device_tag, arrived, &mut self.faults, collector);
                        self.reached = self.place();
                    }
                    // What is sent again may be what our acknowledgement was lost for.
                    self.ack_due |= duplicate > 0 && self.durable.is_some();
                    if collector.is_full() {
                        self.hand_over(collector).await?;
                        collector.set_read_at(arrived);
                    }
                }
                Event::Early => self.log.early(gateway.hello().is_some(), arrived, collector.input_name()),
                Event::TimeRequest => {}
                Event::Refused(error) => self.refused(error, collector),
            }
        }
        self.hand_over(collector).await
    }

    /// How far the readings go that were taken, or are gone.
    fn place(&self) -> Option<Place> {
        let (nonce, sequence) = self.gateway.as_ref()?.taken()?;
        Some(Place { nonce, sequence })
    }

    fn refused(&mut self, error: FrameError, collector: &mut Collector) {
        // Said on its own: among noise the sampled log might never show it, and it does not heal by itself.
        if let FrameError::Version(version) = error {
            self.log.version(version, collector.input_name());
        }
        let refusal = match error {
            FrameError::Stuffing | FrameError::Checksum | FrameError::Version(_) => Refusal::Frame,
            FrameError::Overlong => Refusal::Size,
            FrameError::Body => Refusal::Parse,
        };
        collector.refuse(refusal, error, &[]);
    }

    async fn hand_over(&mut self, collector: &mut Collector) -> Result<(), Closed> {
        if collector.is_empty() && self.reached.is_none() {
            return Ok(());
        }
        let Some(place) = self.reached.take() else {
            return collector.flush(Position::None).await.map(|_| ());
        };
        let position = Position::Sequence { nonce: u64::from(place.nonce), sequence: place.sequence };
        let number = collector.flush(position).await?;
        self.handed_over.push_back((number, place));
        Ok(())
    }

    fn acknowledged(&mut self, number: u64) {
        while let Some((batch, place)) = self.handed_over.front()
            && *batch <= number
        {
            self.durable = Some(*place);
            self.ack_due = true;
            self.handed_over.pop_front();
        }
    }

    /// Puts the next frame for the device into `out` when the one before has left.
    fn fill_out(&mut self, now_us: u64) {
        if !self.out.is_empty() {
            return;
        }
        let mut frame = [0; WIRE_MAX];
        let mut len = match (std::mem::take(&mut self.ack_due), self.durable) {
            (true, Some(place)) => write_ack(place.nonce, place.sequence, &mut frame),
            _ => 0,
        };
        if len == 0
            && let Some(gateway) = &mut self.gateway
        {
            len = gateway.reply(now_us, &mut frame);
        }
        self.out.extend_from_slice(&frame[..len]);
    }
}

/// The steady clock in the protocol's unit.
fn micros(steady: i64) -> u64 {
    u64::try_from(steady / 1000).unwrap_or(0)
}

/// A name for the steady clock: it starts anew with the machine. Where nothing names the machine's boot, it is one for this process alone.
fn clock_name(wall: i64) -> u32 {
    match std::fs::read(BOOT_ID) {
        Ok(id) => crc32c(&id),
        Err(_) => crc32c(&wall.to_le_bytes()),
    }
}
