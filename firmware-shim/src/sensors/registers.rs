//! A chip's registers over I²C and over SPI: what a driver asks, whatever its chip hangs on.

use embedded_hal::{
    i2c::{self, I2c},
    spi::{self, SpiDevice},
};

use crate::fault::Fault;

/// Registers of eight bits with addresses of their own, of which several are read in a row.
pub trait Registers {
    /// Whether the bus itself tells that nobody answers. Where it does not, a chip that is away reads as whatever the line rests at.
    const IS_ACKNOWLEDGED: bool;

    /// Reads the registers from this one on.
    ///
    /// # Errors
    /// Nobody answers, or the bus failed.
    fn get(&mut self, register: u8, into: &mut [u8]) -> Result<(), Fault>;

    /// Writes one.
    ///
    /// # Errors
    /// As for reading.
    fn put(&mut self, register: u8, value: u8) -> Result<(), Fault>;
}

/// A chip at an address of an I²C bus: the register's number is written, then what is in it is written or read.
#[derive(Debug)]
pub struct OverI2c<B> {
    bus: B,
    address: u8,
}

impl<B: I2c> OverI2c<B> {
    /// The chip at `address`, of seven bits.
    pub fn new(bus: B, address: u8) -> Self {
        Self { bus, address }
    }
}

impl<B: I2c> Registers for OverI2c<B> {
    const IS_ACKNOWLEDGED: bool = true;

    fn get(&mut self, register: u8, into: &mut [u8]) -> Result<(), Fault> {
        self.bus.write_read(self.address, &[register], into).map_err(i2c_fault)
    }

    fn put(&mut self, register: u8, value: u8) -> Result<(), Fault> {
        self.bus.write(self.address, &[register, value]).map_err(i2c_fault)
    }
}

fn i2c_fault(error: impl i2c::Error) -> Fault {
    match error.kind() {
        i2c::ErrorKind::NoAcknowledge(_) => Fault::Missing,
        _ => Fault::Bus,
    }
}

/// Set in the first byte to read, clear to write; the other seven are the register's number without its highest.
const READ: u8 = 1 << 7;

/// A chip with a select line of its own on an SPI bus, as Bosch's sensors and many others speak it.
#[derive(Debug)]
pub struct OverSpi<D> {
    device: D,
}

impl<D: SpiDevice> OverSpi<D> {
    /// The chip that the device selects.
    pub fn new(device: D) -> Self {
        Self { device }
    }
}

impl<D: SpiDevice> Registers for OverSpi<D> {
    const IS_ACKNOWLEDGED: bool = false;

    fn get(&mut self, register: u8, into: &mut [u8]) -> Result<(), Fault> {
        let mut operations = [spi::Operation::Write(&[register | READ]), spi::Operation::Read(into)];
        self.device.transaction(&mut operations).map_err(|_| Fault::Bus)
    }

    fn put(&mut self, register: u8, value: u8) -> Result<(), Fault> {
        self.device.write(&[register & !READ, value]).map_err(|_| Fault::Bus)
    }
}
