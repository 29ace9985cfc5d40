//! Drivers, one a file, generic over embedded-hal: the same on a microcontroller and on a gateway.

pub mod analog;
pub mod bme280;
pub mod ds18b20;
pub mod mcp3008;
pub mod one_wire;
pub mod pulse;
pub mod registers;
