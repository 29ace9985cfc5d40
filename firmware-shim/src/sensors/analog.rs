//! Anything that is read as a number of a converter: a voltage, a 4–20 mA loop, a potentiometer.

use crate::{fault::Fault, frame::Value, sensor::Sensor};

/// An analog-to-digital converter's channel; embedded-hal 1.0 has no trait for it.
pub trait Channel {
    /// Its error, and what that means for the sensor.
    type Error: Into<Fault>;
    /// Reads it once.
    ///
    /// # Errors
    /// Those of the converter.
    fn read(&mut self) -> Result<u16, Self::Error>;
}

/// What a converter's number means: a line through two points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Below that the wire is broken, or shorted.
    pub raw_min: u16,
    /// Above that as well.
    pub raw_max: u16,
    /// Value at `raw_min`, as it is sent.
    pub at_min: i32,
    /// Value at `raw_max`.
    pub at_max: i32,
}

/// A channel with its scale; one field of a scaled kind.
#[derive(Debug)]
pub struct Analog<C> {
    channel: C,
    scale: Scale,
    samples: u8,
}

impl<C: Channel> Analog<C> {
    /// Reads the mean of `samples` conversions, one at least.
    pub fn new(channel: C, scale: Scale, samples: u8) -> Self {
        Self { channel, scale, samples: samples.max(1) }
    }
}

impl<C: Channel> Sensor for Analog<C> {
    fn begin(&mut self) -> Result<u32, Fault> {
        Ok(0)
    }

    fn read(&mut self, values: &mut [Option<Value>]) -> Result<(), Fault> {
        let mut sum = 0u32;
        for _ in 0..self.samples {
            sum += u32::from(self.channel.read().map_err(Into::into)?);
        }
        let Scale { raw_min, raw_max, at_min, at_max } = self.scale;
        let samples = i64::from(self.samples);
        let (sum, low, high) = (i64::from(sum), i64::from(raw_min) * samples, i64::from(raw_max) * samples);
        if sum < low || sum > high || low >= high {
            return Err(Fault::OutOfRange);
        }
        let (rise, run) = (i64::from(at_max) - i64::from(at_min), high - low);
        // Rounded to the nearest; both products fit: 2^32 times 2^24.
        let scaled = i64::from(at_min) + (2 * rise * (sum - low) + run).div_euclid(2 * run);
        match values.first_mut() {
            Some(value) => *value = Some(Value::Scaled(scaled)),
            None => return Err(Fault::Other(u8::MAX)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Script<'r>(core::slice::Iter<'r, u16>);

    impl Channel for Script<'_> {
        type Error = Fault;
        fn read(&mut self) -> Result<u16, Fault> {
            self.0.next().copied().ok_or(Fault::Bus)
        }
    }

    /// A 4–20 mA loop on a converter of 12 bits: 0 to 10.00 bar.
    const LOOP: Scale = Scale { raw_min: 800, raw_max: 4000, at_min: 0, at_max: 1000 };

    fn read(raw: &[u16]) -> Result<Option<Value>, Fault> {
        let mut analog = Analog::new(Script(raw.iter()), LOOP, raw.len() as u8);
        let mut values = [None];
        analog.read(&mut values).map(|()| values[0])
    }

    #[test]
    fn the_mean_is_scaled_and_rounded() {
        assert_eq!(read(&[800]), Ok(Some(Value::Scaled(0))));
        assert_eq!(read(&[2400, 2402]), Ok(Some(Value::Scaled(500))));
        assert_eq!(read(&[4000; 255]), Ok(Some(Value::Scaled(1000))));
    }

    #[test]
    fn a_broken_wire_and_a_short_are_out_of_range_and_a_dead_converter_is_a_bus_fault() {
        assert_eq!(read(&[3]), Err(Fault::OutOfRange));
        assert_eq!(read(&[4095]), Err(Fault::OutOfRange));
        let mut dead = Analog::new(Script([].iter()), LOOP, 1);
        assert_eq!(dead.read(&mut [None]), Err(Fault::Bus));
    }
}
