//! The 1-Wire bus on a pin, by time alone.
//!
//! Slots and their times are those recommended by Maxim's application note 126, which keep to the DS18B20's data sheet (19-7487). The
//! pin is open drain with a pull-up: low pulls the line down, high lets go of it. An interrupt of more than some microseconds in the
//! middle of a slot damages a bit; checksums find that.

use embedded_hal::{
    delay::DelayNs,
    digital::{InputPin, OutputPin},
};

use crate::fault::Fault;

/// The bus.
#[derive(Debug)]
pub struct OneWire<P, D> {
    pin: P,
    delay: D,
}

impl<P: InputPin + OutputPin, D: DelayNs> OneWire<P, D> {
    /// The bus on this pin.
    pub fn new(pin: P, delay: D) -> Self {
        Self { pin, delay }
    }

    /// Resets the bus.
    ///
    /// # Errors
    /// [`Fault::Missing`] when nobody answers, [`Fault::Bus`] when the line is held down or the pin fails.
    pub fn reset(&mut self) -> Result<(), Fault> {
        self.release()?;
        self.delay.delay_us(5);
        if !self.level()? {
            return Err(Fault::Bus);
        }
        self.pull()?;
        self.delay.delay_us(480);
        self.release()?;
        self.delay.delay_us(70);
        let is_there = !self.level()?;
        self.delay.delay_us(410);
        if !self.level()? {
            return Err(Fault::Bus);
        }
        if is_there { Ok(()) } else { Err(Fault::Missing) }
    }

    /// Writes a byte, lowest bit first.
    ///
    /// # Errors
    /// [`Fault::Bus`] when the pin fails.
    pub fn write(&mut self, byte: u8) -> Result<(), Fault> {
        for bit in 0..8 {
            let (low_us, high_us) = if byte >> bit & 1 == 1 { (6, 64) } else { (60, 10) };
            self.pull()?;
            self.delay.delay_us(low_us);
            self.release()?;
            self.delay.delay_us(high_us);
        }
        Ok(())
    }

    /// Reads a byte.
    ///
    /// # Errors
    /// [`Fault::Bus`] when the pin fails.
    pub fn read(&mut self) -> Result<u8, Fault> {
        let mut byte = 0;
        for bit in 0..8 {
            self.pull()?;
            self.delay.delay_us(6);
            self.release()?;
            self.delay.delay_us(9);
            byte |= u8::from(self.level()?) << bit;
            self.delay.delay_us(55);
        }
        Ok(byte)
    }

    fn pull(&mut self) -> Result<(), Fault> {
        self.pin.set_low().map_err(|_| Fault::Bus)
    }

    fn release(&mut self) -> Result<(), Fault> {
        self.pin.set_high().map_err(|_| Fault::Bus)
    }

    fn level(&mut self) -> Result<bool, Fault> {
        self.pin.is_high().map_err(|_| Fault::Bus)
    }
}

/// The bus's checksum: x⁸ + x⁵ + x⁴ + 1, lowest bit first (Maxim, application note 27).
pub fn crc8(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |crc, byte| (0..8).fold(crc ^ byte, |crc: u8, _| if crc & 1 == 1 { crc >> 1 ^ 0x8c } else { crc >> 1 }))
}

#[cfg(test)]
mod tests {
    use super::crc8;

    #[test]
    fn the_checksum_is_that_of_the_application_note() {
        // The example of application note 27: family 02, serial number 00 00 00 01 b8 1c, checksum a2.
        assert_eq!(crc8(&[0x02, 0x1c, 0xb8, 0x01, 0, 0, 0]), 0xa2);
        assert_eq!(crc8(&[0x02, 0x1c, 0xb8, 0x01, 0, 0, 0, 0xa2]), 0);
    }
}
