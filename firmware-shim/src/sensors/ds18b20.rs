//! Maxim's DS18B20 thermometer, alone on a 1-Wire bus or by its serial number.
//!
//! Commands, scratchpad and conversion time are those of its data sheet (19-7487).

use embedded_hal::{
    delay::DelayNs,
    digital::{InputPin, OutputPin},
};

use super::one_wire::{OneWire, crc8};
use crate::{
    fault::Fault,
    frame::{Field, FieldKind, Value},
    sensor::Sensor,
};

/// Its field, for a schema: °C in hundredths.
pub const FIELD: Field<'static> = Field { name: "temperature", kind: FieldKind::Scaled(-2) };

pub(crate) const SKIP_ROM: u8 = 0xcc;
pub(crate) const MATCH_ROM: u8 = 0x55;
pub(crate) const CONVERT: u8 = 0x44;
pub(crate) const READ_SCRATCHPAD: u8 = 0xbe;
/// At twelve bits, the resolution it wakes up with.
pub(crate) const CONVERT_US: u32 = 750_000;
/// 85 °C in sixteenths: what it holds after power-on until its first conversion.
pub(crate) const POWER_ON: i16 = 85 * 16;
/// With a reading before it no further away than that, in sixteenths, 85 °C is a temperature.
const NEAR_POWER_ON: u16 = 5 * 16;
/// −55 to 125 °C in sixteenths.
const RANGE: core::ops::RangeInclusive<i16> = -55 * 16..=125 * 16;

/// One thermometer.
#[derive(Debug)]
pub struct Ds18b20<P, D> {
    bus: OneWire<P, D>,
    serial: Option<[u8; 8]>,
    /// The last good reading, sixteenths.
    before: Option<i16>,
}

impl<P: InputPin + OutputPin, D: DelayNs> Ds18b20<P, D> {
    /// The only thermometer of a bus, or with `serial` (family, number, checksum) one of several.
    pub fn new(bus: OneWire<P, D>, serial: Option<[u8; 8]>) -> Self {
        Self { bus, serial, before: None }
    }

    fn address(&mut self) -> Result<(), Fault> {
        self.bus.reset()?;
        let Some(serial) = self.serial else { return self.bus.write(SKIP_ROM) };
        self.bus.write(MATCH_ROM)?;
        serial.iter().try_for_each(|byte| self.bus.write(*byte))
    }

    fn scratchpad(&mut self) -> Result<[u8; 9], Fault> {
        self.address()?;
        self.bus.write(READ_SCRATCHPAD)?;
        let mut pad = [0; 9];
        for byte in &mut pad {
            *byte = self.bus.read()?;
        }
        Ok(pad)
    }
}

/// Sixteenths of a degree of a scratchpad; `before` is the last good reading, if there is one.
///
/// # Errors
/// What is wrong with it.
pub fn sixteenths(pad: &[u8; 9], before: Option<i16>) -> Result<i16, Fault> {
    // Nobody pulls the line down: the one addressed is not there.
    if pad == &[0xff; 9] {
        return Err(Fault::Missing);
    }
    // Nine zeros have a right checksum; the fixed bits of the configuration tell a pad from a line held down.
    if crc8(pad) != 0 || pad[4] & 0x9f != 0x1f {
        return Err(Fault::Checksum);
    }
    let sixteenths = i16::from_le_bytes([pad[0], pad[1]]);
    if sixteenths == POWER_ON && before.is_none_or(|before| before.abs_diff(POWER_ON) > NEAR_POWER_ON) {
        return Err(Fault::PowerOn);
    }
    if RANGE.contains(&sixteenths) { Ok(sixteenths) } else { Err(Fault::OutOfRange) }
}

impl<P: InputPin + OutputPin, D: DelayNs> Sensor for Ds18b20<P, D> {
    fn begin(&mut self) -> Result<u32, Fault> {
        self.address()?;
        self.bus.write(CONVERT)?;
        Ok(CONVERT_US)
    }

    fn read(&mut self, values: &mut [Option<Value>]) -> Result<(), Fault> {
        let pad = self.scratchpad()?;
        let sixteenths = sixteenths(&pad, self.before)?;
        self.before = Some(sixteenths);
        // Hundredths, rounded to the nearest.
        let hundredths = (i64::from(sixteenths) * 100 + 8).div_euclid(16);
        match values.first_mut() {
            Some(value) => *value = Some(Value::Scaled(hundredths)),
            None => return Err(Fault::Other(u8::MAX)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use core::cell::{Cell, RefCell};

    use super::*;
    use crate::sim::{Ds18b20Chip, SimDelay, SimPin};

    struct Bench {
        chip: RefCell<Ds18b20Chip>,
        now_ns: Cell<u64>,
    }

    impl Bench {
        fn new() -> Self {
            Self { chip: RefCell::new(Ds18b20Chip::default()), now_ns: Cell::new(0) }
        }

        fn driver(&self, serial: Option<[u8; 8]>) -> Ds18b20<SimPin<'_>, SimDelay<'_>> {
            Ds18b20::new(OneWire::new(SimPin::new(&self.chip, &self.now_ns), SimDelay(&self.now_ns)), serial)
        }

        fn measure(&self, driver: &mut Ds18b20<SimPin<'_>, SimDelay<'_>>) -> Result<i64, Fault> {
            let takes_us = driver.begin()?;
            self.now_ns.set(self.now_ns.get() + u64::from(takes_us) * 1000);
            let mut values = [None];
            driver.read(&mut values)?;
            match values[0] {
                Some(Value::Scaled(value)) => Ok(value),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn temperatures_of_the_data_sheets_table_are_read_bit_by_bit() {
        let bench = Bench::new();
        let mut driver = bench.driver(None);
        for (sixteenths, hundredths) in
            [(0x07d0, 12500), (0x0191, 2506), (0x00a2, 1013), (8, 50), (0, 0), (-8, -50), (-0x0191, -2506), (-880, -5500)]
        {
            bench.chip.borrow_mut().temperature = sixteenths;
            assert_eq!(bench.measure(&mut driver), Ok(hundredths), "{sixteenths}");
        }
    }

    #[test]
    fn a_thermometer_answers_to_its_serial_number_alone() {
        let bench = Bench::new();
        let serial = bench.chip.borrow().serial;
        assert_eq!(bench.measure(&mut bench.driver(Some(serial))), Ok(2150));
        assert_eq!(bench.measure(&mut bench.driver(Some([0x28, 9, 9, 9, 9, 9, 9, 9]))), Err(Fault::Missing));
    }

    #[test]
    fn the_power_on_value_is_a_fault_unless_it_was_nearly_that_warm_before() {
        let bench = Bench::new();
        let mut driver = bench.driver(None);
        bench.chip.borrow_mut().temperature = POWER_ON;
        assert_eq!(bench.measure(&mut driver), Err(Fault::PowerOn));
        bench.chip.borrow_mut().temperature = 84 * 16;
        assert_eq!(bench.measure(&mut driver), Ok(8400));
        bench.chip.borrow_mut().temperature = POWER_ON;
        assert_eq!(bench.measure(&mut driver), Ok(8500));
        bench.chip.borrow_mut().temperature = 20 * 16;
        assert_eq!(bench.measure(&mut driver), Ok(2000));
        // It lost its supply during the conversion.
        driver.begin().expect("it is there");
        bench.chip.borrow_mut().reset();
        assert_eq!(driver.read(&mut [None]), Err(Fault::PowerOn));
    }

    #[test]
    fn every_way_to_fail_has_its_name() {
        let bench = Bench::new();
        let mut driver = bench.driver(None);
        bench.chip.borrow_mut().is_there = false;
        assert_eq!(bench.measure(&mut driver), Err(Fault::Missing));
        bench.chip.borrow_mut().is_there = true;
        bench.chip.borrow_mut().flip = Some(13);
        assert_eq!(bench.measure(&mut driver), Err(Fault::Checksum));
        bench.chip.borrow_mut().flip = None;
        bench.chip.borrow_mut().temperature = 126 * 16;
        assert_eq!(bench.measure(&mut driver), Err(Fault::OutOfRange));
        bench.chip.borrow_mut().is_shorted = true;
        assert_eq!(bench.measure(&mut driver), Err(Fault::Bus));
    }
}
