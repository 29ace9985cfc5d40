//! Sensors that are not there, answering as the real ones do: a BME280 by its registers, a DS18B20 by the level of its pin, an MCP3008
//! by the bits on its lines. For tests on any machine, and for firmware on a board that QEMU emulates.

mod bme280;
mod ds18b20;
mod mcp3008;
mod spi;

pub use bme280::{Bme280Chip, SimBus, TRIM};
pub use ds18b20::{Ds18b20Chip, SimDelay, SimPin};
pub use mcp3008::Mcp3008Chip;
pub use spi::{Selected, SimSpi, SpiChip};
