//! Microchip's MCP3008: a converter of ten bits with eight channels, over SPI.
//!
//! What goes over the line is that of its data sheet, DS21295: the five bits that begin a conversion in section 5.0 and table 5-2, how
//! they lie in bytes in section 6.1, what the number means in section 4.2 (equation 4-2).

use embedded_hal::spi::SpiDevice;

use super::analog::Channel;
use crate::fault::Fault;

/// Its channels, each against ground.
pub const CHANNELS: u8 = 8;
/// Steps of the reference voltage: a volt at the reference of 3.3 V reads 310.
pub const STEPS: u16 = 1024;

const START: u8 = 1;
/// One channel against ground, not the difference of two.
const SINGLE: u8 = 1 << 3;
/// Low once the channel has been sampled, ahead of the number. A line that nobody drives and that rests high shows itself by it.
const NULL: u8 = 1 << 2;

/// One chip.
#[derive(Debug)]
pub struct Mcp3008<D> {
    device: D,
}

impl<D: SpiDevice> Mcp3008<D> {
    /// The chip that the device selects: mode 0 or 3, 10 kHz to 3.6 MHz at 5 V and to 1.35 MHz at 2.7 V.
    pub fn new(device: D) -> Self {
        Self { device }
    }

    /// Converts the voltage of a channel, 0 to 7: of `STEPS`, how many there are.
    ///
    /// # Errors
    /// `Missing` if nobody drives the line and it rests high (one that rests low reads as 0), `Bus` if it failed, `Other` if there is no
    /// such channel.
    pub fn convert(&mut self, channel: u8) -> Result<u16, Fault> {
        if channel >= CHANNELS {
            return Err(Fault::Other(u8::MAX));
        }
        let mut bytes = [START, (SINGLE | channel) << 4, 0];
        self.device.transfer_in_place(&mut bytes).map_err(|_| Fault::Bus)?;
        let [_, high, low] = bytes;
        if high & NULL != 0 {
            return Err(Fault::Missing);
        }
        Ok(u16::from(high & 3) << 8 | u16::from(low))
    }

    /// One of its channels, for [`Analog`](super::analog::Analog).
    pub fn channel(self, channel: u8) -> Mcp3008Channel<D> {
        Mcp3008Channel { chip: self, channel }
    }
}

/// One channel of a chip; where several are read, the device is a share of it.
#[derive(Debug)]
pub struct Mcp3008Channel<D> {
    chip: Mcp3008<D>,
    channel: u8,
}

impl<D: SpiDevice> Channel for Mcp3008Channel<D> {
    type Error = Fault;

    fn read(&mut self) -> Result<u16, Fault> {
        self.chip.convert(self.channel)
    }
}

#[cfg(test)]
mod tests {
    use core::cell::RefCell;

    use super::*;
    use crate::{
        frame::Value,
        sensor::Sensor,
        sensors::analog::{Analog, Scale},
        sim::{Mcp3008Chip, SimSpi},
    };

    #[test]
    fn each_channel_has_its_number() {
        let chip = RefCell::new(Mcp3008Chip::new([0, 1, 2, 511, 512, 682, 1022, 1023]));
        let mut driver = Mcp3008::new(SimSpi(&chip));
        let read: Vec<_> = (0..CHANNELS).map(|channel| driver.convert(channel).expect("a number")).collect();
        assert_eq!(read, chip.borrow().steps);
        assert_eq!(driver.convert(CHANNELS), Err(Fault::Other(u8::MAX)));
    }

    #[test]
    fn a_chip_that_is_away_is_missing_where_its_line_rests_high() {
        let chip = RefCell::new(Mcp3008Chip::new([0; 8]));
        chip.borrow_mut().is_there = false;
        assert_eq!(Mcp3008::new(SimSpi(&chip)).convert(3), Err(Fault::Missing));
        chip.borrow_mut().rests_at = 0;
        assert_eq!(Mcp3008::new(SimSpi(&chip)).convert(3), Ok(0));
        chip.borrow_mut().has_bus = false;
        assert_eq!(Mcp3008::new(SimSpi(&chip)).convert(3), Err(Fault::Bus));
    }

    #[test]
    fn a_channel_is_a_sensor_by_its_scale_and_says_what_is_wrong() {
        let chip = RefCell::new(Mcp3008Chip::new([0, 0, 512, 0, 0, 0, 0, 0]));
        // Millivolts at a reference of 3.3 V.
        let scale = Scale { raw_min: 0, raw_max: STEPS, at_min: 0, at_max: 3300 };
        let mut sensor = Analog::new(Mcp3008::new(SimSpi(&chip)).channel(2), scale, 4);
        let mut values = [None];
        assert_eq!((sensor.read(&mut values), values), (Ok(()), [Some(Value::Scaled(1650))]));
        chip.borrow_mut().is_there = false;
        assert_eq!(sensor.read(&mut values), Err(Fault::Missing));
    }
}
