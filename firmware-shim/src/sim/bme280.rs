//! A BME280 by its registers.

use core::cell::RefCell;

use embedded_hal::i2c::{ErrorKind, ErrorType, I2c, NoAcknowledgeSource, Operation};

use super::{Selected, SpiChip};
use crate::sensors::bme280::{
    ADDRESS, CHIP_ID, FORCED, MEASURE_US, REGISTER_CTRL_HUM, REGISTER_CTRL_MEAS, REGISTER_DATA, REGISTER_ID, REGISTER_STATUS,
    REGISTER_TRIM, REGISTER_TRIM_HUMIDITY, SKIPPED, SKIPPED_HUMIDITY, STATUS_MEASURING, Trim,
};

/// Trimming parameters of a chip: temperature and pressure those of the calculation example in BST-BMP280-DS001, section 3.12.
pub const TRIM: Trim = Trim {
    t1: 27_504,
    t: [26_435, -1000],
    p1: 36_477,
    p: [-10_685, 3024, 2855, 140, -7, 15_500, -14_600, 6000],
    h1: 75,
    h2: 362,
    h3: 0,
    h4: 313,
    h5: 50,
    h6: 30,
};

impl Trim {
    /// Writes the registers 0x88 to 0xa1 and 0xe1 to 0xe7.
    pub fn to_registers(&self, low: &mut [u8; 26], high: &mut [u8; 7]) {
        let words = [self.t1, self.t[0] as u16, self.t[1] as u16, self.p1].into_iter().chain(self.p.iter().map(|p| *p as u16));
        for (place, word) in low.chunks_exact_mut(2).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        low[25] = self.h1;
        high[..2].copy_from_slice(&self.h2.to_le_bytes());
        high[2] = self.h3;
        high[3] = (self.h4 >> 4) as u8;
        high[4] = (self.h4 & 15) as u8 | ((self.h5 & 15) as u8) << 4;
        high[5] = (self.h5 >> 4) as u8;
        high[6] = self.h6 as u8;
    }
}

/// What a byte over SPI is (data sheet, section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Register and direction.
    Control,
    /// What is written to this one.
    Value(u8),
    /// Nothing: registers are read, one after the other.
    Reading,
}

/// The chip.
#[derive(Clone, Debug)]
pub struct Bme280Chip {
    /// Whether it answers at all.
    pub is_there: bool,
    /// Whether there is a bus to ask on; over SPI.
    pub has_bus: bool,
    /// What a byte reads as that nobody sends; over SPI.
    pub rests_at: u8,
    /// What it says it is.
    pub id: u8,
    /// Its trimming parameters.
    pub trim: Trim,
    /// What the converter will give for the temperature, 20 bits.
    pub temperature: u32,
    /// The same for the pressure.
    pub pressure: u32,
    /// The same for the humidity, 16 bits.
    pub humidity: u32,
    measured: [u32; 3],
    humidity_on: bool,
    left_us: u32,
    register: u8,
    /// Over SPI: what the next byte is.
    next: Next,
}

impl Default for Bme280Chip {
    fn default() -> Self {
        let mut chip = Self {
            is_there: true,
            has_bus: true,
            rests_at: 0xff,
            id: CHIP_ID,
            trim: TRIM,
            temperature: 519_888,
            pressure: 415_148,
            humidity: 30_000,
            measured: [0; 3],
            humidity_on: false,
            left_us: 0,
            register: 0,
            next: Next::Control,
        };
        chip.reset();
        chip
    }
}

impl Bme280Chip {
    /// Its supply was gone for a moment.
    pub fn reset(&mut self) {
        self.measured = [SKIPPED, SKIPPED, SKIPPED_HUMIDITY];
        (self.humidity_on, self.left_us, self.register) = (false, 0, 0);
    }

    /// Time passes.
    pub fn pass(&mut self, us: u32) {
        if self.left_us > 0 && us >= self.left_us {
            let humidity = if self.humidity_on { self.humidity } else { SKIPPED_HUMIDITY };
            self.measured = [self.pressure, self.temperature, humidity];
        }
        self.left_us = self.left_us.saturating_sub(us);
    }

    fn write(&mut self, bytes: &[u8]) {
        let Some((register, rest)) = bytes.split_first() else { return };
        self.register = *register;
        // Pairs of register and value after the first (data sheet, section 6.2.1).
        let mut next = Some(*register);
        for byte in rest {
            match next.take() {
                Some(register) => self.set(register, *byte),
                None => next = Some(*byte),
            }
        }
    }

    fn set(&mut self, register: u8, value: u8) {
        match register {
            REGISTER_CTRL_HUM => self.humidity_on = value & 7 != 0,
            REGISTER_CTRL_MEAS if value == FORCED => self.left_us = MEASURE_US,
            _ => {}
        }
    }

    fn get(&self, register: u8) -> u8 {
        let (mut low, mut high) = ([0; 26], [0; 7]);
        self.trim.to_registers(&mut low, &mut high);
        let of = |from: u8, bytes: &[u8]| register.checked_sub(from).and_then(|i| bytes.get(usize::from(i)).copied());
        let twenty = |value: u32| [(value >> 12) as u8, (value >> 4) as u8, (value << 4) as u8];
        let ([p0, p1, p2], [t0, t1, t2]) = (twenty(self.measured[0]), twenty(self.measured[1]));
        let data = [p0, p1, p2, t0, t1, t2, (self.measured[2] >> 8) as u8, self.measured[2] as u8];
        match register {
            REGISTER_ID => self.id,
            REGISTER_STATUS => {
                if self.left_us > 0 {
                    STATUS_MEASURING
                } else {
                    0
                }
            }
            _ => of(REGISTER_TRIM, &low).or_else(|| of(REGISTER_TRIM_HUMIDITY, &high)).or_else(|| of(REGISTER_DATA, &data)).unwrap_or(0),
        }
    }
}

impl SpiChip for Bme280Chip {
    fn select(&mut self) -> Selected {
        self.next = Next::Control;
        Selected { is_there: self.is_there, has_bus: self.has_bus, rests_at: self.rests_at }
    }

    fn exchange(&mut self, byte: u8) -> u8 {
        match self.next {
            // The highest bit of a register's number is not sent: it is set in every one there is.
            Next::Control if byte & 0x80 != 0 => (self.register, self.next) = (byte, Next::Reading),
            Next::Control => self.next = Next::Value(byte | 0x80),
            Next::Value(register) => {
                self.set(register, byte);
                self.next = Next::Control;
            }
            Next::Reading => {
                let value = self.get(self.register);
                self.register = self.register.wrapping_add(1);
                return value;
            }
        }
        self.rests_at
    }
}

/// A bus with this chip alone.
#[derive(Clone, Copy, Debug)]
pub struct SimBus<'c>(pub &'c RefCell<Bme280Chip>);

impl ErrorType for SimBus<'_> {
    type Error = ErrorKind;
}

impl I2c for SimBus<'_> {
    fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), ErrorKind> {
        let mut chip = self.0.borrow_mut();
        if !chip.is_there || address != ADDRESS {
            return Err(ErrorKind::NoAcknowledge(NoAcknowledgeSource::Address));
        }
        for operation in operations {
            match operation {
                Operation::Write(bytes) => chip.write(bytes),
                Operation::Read(into) => {
                    for byte in into.iter_mut() {
                        *byte = chip.get(chip.register);
                        chip.register = chip.register.wrapping_add(1);
                    }
                }
            }
        }
        Ok(())
    }
}
