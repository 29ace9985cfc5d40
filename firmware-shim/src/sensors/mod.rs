//! Drivers, one a file, generic over embedded-hal: the same on a microcontroller and on a gateway.

pub mod analog;
pub mod bme280;
pub mod ds18b20;
pub mod one_wire;
pub mod pulse;

use embedded_hal::i2c::{self, ErrorKind};

use crate::fault::Fault;

/// What an error of an I²C bus means for the sensor on it.
pub(crate) fn bus_fault(error: &impl i2c::Error) -> Fault {
    match error.kind() {
        ErrorKind::NoAcknowledge(_) => Fault::Missing,
        _ => Fault::Bus,
    }
}
