//! A whole sensor node: agenda, link, port and kept row, turned round by the firmware's main loop.
//!
//! The least a firmware has to write is its schema, its sensors, and what of its chip they hang on: here a converter's channel, a port,
//! and four readings kept until they are acknowledged. `board/` is a whole one.
//!
//! ```
//! use weir_firmware_shim::{
//!     agenda::{Agenda, Plan},
//!     deadband::Deadband,
//!     fault::Fault,
//!     frame::{Field, FieldKind},
//!     link::{Device, Schema, Start},
//!     node::Node,
//!     retain::Retain,
//!     row::{KeptRow, Memory},
//!     sensors::analog::{Analog, Channel, Scale},
//! };
//!
//! const SCHEMA: Schema<'static> =
//!     Schema { device: "shed", measurement: "climate", fields: &[Field { name: "light", kind: FieldKind::Scaled(0) }] };
//!
//! struct LightSensor;
//! impl Channel for LightSensor {
//!     type Error = Fault;
//!     fn read(&mut self) -> Result<u16, Fault> {
//!         Ok(2048) // the converter's register
//!     }
//! }
//!
//! /// Words that a reset leaves alone: without them a reset begins a new row of numbers.
//! struct NoMemory;
//! impl Memory for NoMemory {
//!     fn read(&self, _word: usize) -> u32 {
//!         0
//!     }
//!     fn write(&mut self, _word: usize, _value: u32) {}
//! }
//!
//! # struct Uart(Vec<u8>);
//! # impl embedded_io::ErrorType for Uart { type Error = core::convert::Infallible; }
//! # impl embedded_io::ReadReady for Uart { fn read_ready(&mut self) -> Result<bool, Self::Error> { Ok(false) } }
//! # impl embedded_io::Read for Uart { fn read(&mut self, _: &mut [u8]) -> Result<usize, Self::Error> { Ok(0) } }
//! # impl embedded_io::Write for Uart {
//! #     fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> { self.0.extend_from_slice(bytes); Ok(bytes.len()) }
//! #     fn flush(&mut self) -> Result<(), Self::Error> { Ok(()) }
//! # }
//! # let (mut uart, random, mut uptime_us) = (Uart(Vec::new()), 0x1234_5678, 0);
//! let mut retain = Retain::<4, 1>::new();
//! // Without randomness `Start::Seed(0)`: the gateway's clock makes the nonce then.
//! let device = Device::new(SCHEMA, Start::Nonce(random), &mut retain).expect("a schema that fits");
//! let mut light = Analog::new(LightSensor, Scale { raw_min: 0, raw_max: 4095, at_min: 0, at_max: 100 }, 4);
//! let plan = Plan { first_field: 0, deadbands: &[Deadband::Change(2.0)], period_us: 1_000_000, jitter_us: 0, silent_us_max: 60_000_000 };
//! let mut agenda = Agenda::<1, 1>::new(random);
//! agenda.add(&mut light, plan, 0).expect("a plan that fits");
//! let mut node = Node { device, agenda, kept: KeptRow::new(NoMemory) };
//! loop {
//!     let _ = node.turn(&mut uart, uptime_us);
//!     // Sleep until a byte comes or node.deadline_us() is there.
//!     # uptime_us += 100_000;
//!     # if uptime_us > 2_000_000 { break }
//! }
//! # assert!(uart.0.windows(5).any(|part| part == b"light") && node.device.waiting() == 1);
//! ```

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
