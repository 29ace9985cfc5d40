//! A counter of pulses on a pin, for meters, rain gauges and anemometers without an interrupt.

use embedded_hal::digital::InputPin;

use crate::{fault::Fault, frame::Value, sensor::Sensor};

/// Counts rising levels of a pin that is looked at regularly; a level counts once it was seen `steady` times in a row.
#[derive(Debug)]
pub struct PulseCounter<P> {
    pin: P,
    steady: u8,
    level: bool,
    seen: u8,
    count: u64,
    /// The pin could not be read since the last reading: pulses may be missing.
    has_failed: bool,
}

impl<P: InputPin> PulseCounter<P> {
    /// A counter that takes the pin's level now as where it starts.
    ///
    /// # Errors
    /// Those of the pin.
    pub fn new(mut pin: P, steady: u8) -> Result<Self, P::Error> {
        let level = pin.is_high()?;
        Ok(Self { pin, steady: steady.max(1), level, seen: 0, count: 0, has_failed: false })
    }

    /// Looks at the pin; whether a pulse began.
    ///
    /// # Errors
    /// Those of the pin.
    pub fn sample(&mut self) -> Result<bool, P::Error> {
        if self.pin.is_high()? == self.level {
            self.seen = 0;
            return Ok(false);
        }
        self.seen += 1;
        if self.seen < self.steady {
            return Ok(false);
        }
        self.seen = 0;
        self.level = !self.level;
        self.count += u64::from(self.level);
        Ok(self.level)
    }

    /// Pulses since it was made.
    pub fn count(&self) -> u64 {
        self.count
    }
}

/// One field, a scaled integer: pulses since the start. The agenda looks at the pin each time round.
impl<P: InputPin> Sensor for PulseCounter<P> {
    fn begin(&mut self) -> Result<u32, Fault> {
        Ok(0)
    }

    fn read(&mut self, values: &mut [Option<Value>]) -> Result<(), Fault> {
        if core::mem::take(&mut self.has_failed) {
            return Err(Fault::Bus);
        }
        match values.first_mut() {
            // A count past 2^63 does not happen.
            Some(value) => *value = Some(Value::Scaled(self.count as i64)),
            None => return Err(Fault::Other(u8::MAX)),
        }
        Ok(())
    }

    fn poll(&mut self) {
        self.has_failed |= self.sample().is_err();
    }
}

#[cfg(test)]
mod tests {
    use embedded_hal::digital::{ErrorKind, ErrorType};

    use super::*;

    struct Script(std::vec::IntoIter<bool>);

    impl ErrorType for Script {
        type Error = ErrorKind;
    }

    impl InputPin for Script {
        fn is_high(&mut self) -> Result<bool, ErrorKind> {
            self.0.next().ok_or(ErrorKind::Other)
        }

        fn is_low(&mut self) -> Result<bool, ErrorKind> {
            self.is_high().map(|high| !high)
        }
    }

    #[test]
    fn bouncing_contacts_count_once() {
        let levels: Vec<bool> = "0 1010111 11 0100 0111".chars().filter(|c| *c != ' ').map(|c| c == '1').collect();
        let samples = levels.len() - 1;
        let mut counter = PulseCounter::new(Script(levels.into_iter()), 2).expect("the first level");
        let begun = (0..samples).filter(|_| counter.sample() == Ok(true)).count();
        assert_eq!((begun, counter.count()), (2, 2));
        let mut values = [None];
        assert_eq!((counter.read(&mut values), values), (Ok(()), [Some(Value::Scaled(2))]));
        counter.poll();
        assert_eq!(counter.read(&mut values), Err(Fault::Bus), "the pin can't be read any more");
    }
}
