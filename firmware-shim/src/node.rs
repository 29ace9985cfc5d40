//! A whole sensor node: agenda, link, port and kept row, turned round by the firmware's main loop.

use embedded_io::{Read, ReadReady, Write};

use crate::{
    agenda::Agenda,
    frame::WIRE_MAX,
    link::Device,
    row::{KeptRow, Memory},
};

/// Frames written in one turn at most, so that sensors are looked at in between.
const FRAMES_A_TURN: usize = 2;
/// Bytes taken from the port at once.
const READ_BYTES: usize = 32;

/// The parts, to be put together by the firmware.
pub struct Node<'s, M, const DEPTH: usize, const FIELDS: usize, const TASKS: usize> {
    /// The device's end of the link.
    pub device: Device<'s, DEPTH, FIELDS>,
    /// Its sensors.
    pub agenda: Agenda<'s, TASKS, FIELDS>,
    /// What outlives a reset.
    pub kept: KeptRow<M>,
}

impl<M: Memory, const DEPTH: usize, const FIELDS: usize, const TASKS: usize> Node<'_, M, DEPTH, FIELDS, TASKS> {
    /// Does what is due at `now_us`: sensors, bytes that have come, frames that have to go.
    ///
    /// # Errors
    /// Those of the port; nothing is lost by one, the next turn goes on.
    pub fn turn<P: Read + ReadReady + Write>(&mut self, port: &mut P, now_us: u64) -> Result<(), P::Error> {
        self.agenda.run(now_us, &mut self.device);
        let mut bytes = [0; READ_BYTES];
        while port.read_ready()? {
            let len = port.read(&mut bytes)?;
            bytes[..len].iter().for_each(|byte| self.device.receive(*byte, now_us));
            if len == 0 {
                break;
            }
        }
        // Before anything is sent: a number that was seen outside must never be given twice.
        if let Some(row) = self.device.row() {
            self.kept.keep(row);
        }
        let mut frame = [0; WIRE_MAX];
        for _ in 0..FRAMES_A_TURN {
            let len = self.device.poll(now_us, &mut frame);
            if len == 0 {
                break;
            }
            port.write_all(&frame[..len])?;
        }
        Ok(())
    }

    /// When there is something to do next even if no byte comes, microseconds of the device's uptime: to sleep until then.
    pub fn deadline_us(&self) -> u64 {
        self.agenda.deadline_us().min(self.device.deadline_us())
    }
}
