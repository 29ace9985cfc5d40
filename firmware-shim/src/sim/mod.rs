//! Sensors that are not there, answering as the real ones do: a BME280 by its registers, a DS18B20 by the level of its pin. For tests on
//! any machine, and for firmware on a board that QEMU emulates.

mod bme280;
mod ds18b20;

pub use bme280::{Bme280Chip, SimBus, TRIM};
pub use ds18b20::{Ds18b20Chip, SimDelay, SimPin};
