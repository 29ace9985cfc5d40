//! Bosch's BME280: temperature, pressure and humidity over I²C or SPI.
//!
//! Registers, times and compensation formulas are those of its data sheet, BST-BME280-DS001: memory map in section 5.3, trimming
//! parameters in table 16, the formulas in section 4.2.3 (integer, pressure in 64 bits), measurement times in section 9.1, SPI in section 6.3. It is run in
//! forced mode with one sample each, as section 3.5.1 suggests for weather.

use core::num::Wrapping;

use embedded_hal::{i2c::I2c, spi::SpiDevice};

use super::registers::{OverI2c, OverSpi, Registers};
use crate::{
    fault::Fault,
    frame::{Field, FieldKind, Value},
    sensor::Sensor,
};

/// Address with SDO at ground.
pub const ADDRESS: u8 = 0x76;
/// Address with SDO at the supply.
pub const ADDRESS_HIGH: u8 = 0x77;
/// Its fields, for a schema: °C, hPa and % relative humidity, in hundredths.
pub const FIELDS: [Field<'static>; 3] = [
    Field { name: "temperature", kind: FieldKind::Scaled(-2) },
    Field { name: "pressure", kind: FieldKind::Scaled(-2) },
    Field { name: "humidity", kind: FieldKind::Scaled(-2) },
];

pub(crate) const CHIP_ID: u8 = 0x60;
pub(crate) const REGISTER_ID: u8 = 0xd0;
pub(crate) const REGISTER_TRIM: u8 = 0x88;
pub(crate) const REGISTER_TRIM_HUMIDITY: u8 = 0xe1;
pub(crate) const REGISTER_CTRL_HUM: u8 = 0xf2;
pub(crate) const REGISTER_STATUS: u8 = 0xf3;
pub(crate) const REGISTER_CTRL_MEAS: u8 = 0xf4;
pub(crate) const REGISTER_DATA: u8 = 0xf7;
pub(crate) const STATUS_MEASURING: u8 = 1 << 3;
/// One sample of temperature and pressure, forced mode.
pub(crate) const FORCED: u8 = 1 << 5 | 1 << 2 | 1;
/// At most 1.25 + 2.3 + 2.3 + 0.575 + 2.3 + 0.575 ms.
pub(crate) const MEASURE_US: u32 = 9_300;
/// What a data register holds that was never measured, or left out.
pub(crate) const SKIPPED: u32 = 0x8_0000;
pub(crate) const SKIPPED_HUMIDITY: u32 = 0x8000;

/// The ranges of section 1.1, in hundredths.
const TEMPERATURE: core::ops::RangeInclusive<i64> = -4000..=8500;
const PRESSURE: core::ops::RangeInclusive<i64> = 30_000..=110_000;
const HUMIDITY: core::ops::RangeInclusive<i64> = 0..=10_000;

/// The trimming parameters, different from chip to chip.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trim {
    /// dig_T1.
    pub t1: u16,
    /// dig_T2 and dig_T3.
    pub t: [i16; 2],
    /// dig_P1.
    pub p1: u16,
    /// dig_P2 to dig_P9.
    pub p: [i16; 8],
    /// dig_H1.
    pub h1: u8,
    /// dig_H2.
    pub h2: i16,
    /// dig_H3.
    pub h3: u8,
    /// dig_H4: 12 bits.
    pub h4: i16,
    /// dig_H5: 12 bits.
    pub h5: i16,
    /// dig_H6.
    pub h6: i8,
}

impl Trim {
    /// Reads the registers 0x88 to 0xa1 and 0xe1 to 0xe7.
    pub fn from_registers(low: &[u8; 26], high: &[u8; 7]) -> Self {
        let word = |i: usize| u16::from_le_bytes([low[i], low[i + 1]]);
        let signed = |i: usize| word(i) as i16;
        // Twelve bits, sign in the first byte.
        let twelve = |high: u8, nibble: u8| i16::from(high as i8) << 4 | i16::from(nibble & 15);
        Self {
            t1: word(0),
            t: [signed(2), signed(4)],
            p1: word(6),
            p: core::array::from_fn(|i| signed(8 + 2 * i)),
            h1: low[25],
            h2: i16::from_le_bytes([high[0], high[1]]),
            h3: high[2],
            h4: twelve(high[3], high[4]),
            h5: twelve(high[5], high[4] >> 4),
            h6: high[6] as i8,
        }
    }

    /// Whether a chip can have these: an erased or unread memory cannot be told from one that answers.
    fn is_plausible(&self) -> bool {
        !matches!(self.t1, 0 | u16::MAX) && !matches!(self.p1, 0 | u16::MAX)
    }

    // Parameters that no chip has must not stop the firmware: where they could overflow, the sums wrap, and the ranges find the result.

    /// Temperature at full resolution, the formulas' `t_fine`: 5120 to a degree.
    pub fn fine(&self, adc: u32) -> i32 {
        let (adc, t1) = (i64::from(adc), i64::from(self.t1));
        let [t2, t3] = self.t.map(i64::from);
        let first = (((adc >> 3) - (t1 << 1)) * t2) >> 11;
        let off = (adc >> 4) - t1;
        let second = (((off * off) >> 12) * t3) >> 14;
        (first + second) as i32
    }

    /// Hundredths of a degree Celsius.
    pub fn temperature(fine: i32) -> i32 {
        ((i64::from(fine) * 5 + 128) >> 8) as i32
    }

    /// 256ths of a pascal; `None` where the formula would divide by zero.
    pub fn pressure(&self, adc: u32, fine: i32) -> Option<i64> {
        let [p2, p3, p4, p5, p6, p7, p8, p9] = self.p.map(|p| Wrapping(i64::from(p)));
        let off = Wrapping(i64::from(fine) - 128_000);
        let second = off * off * p6 + ((off * p5) << 17) + (p4 << 35);
        let first = ((off * off * p3) >> 8) + ((off * p2) << 12);
        let first = ((Wrapping(1i64 << 47) + first) * Wrapping(i64::from(self.p1))) >> 33;
        if first.0 == 0 {
            return None;
        }
        let p = Wrapping(1_048_576 - i64::from(adc));
        let p = ((p << 31) - second) * Wrapping(3125) / first;
        let high = (p9 * (p >> 13) * (p >> 13)) >> 25;
        let low = (p8 * p) >> 19;
        Some((((p + high + low) >> 8) + (p7 << 4)).0)
    }

    /// 1024ths of a percent, from 0 to 100.
    pub fn humidity(&self, adc: u32, fine: i32) -> i32 {
        let [h1, h3] = [self.h1, self.h3].map(|h| Wrapping(i32::from(h)));
        let [h2, h4, h5] = [self.h2, self.h4, self.h5].map(|h| Wrapping(i32::from(h)));
        let h6 = Wrapping(i32::from(self.h6));
        let (adc, off) = (Wrapping(adc as i32), Wrapping(fine) - Wrapping(76_800));
        let left = ((adc << 14) - (h4 << 20) - h5 * off + Wrapping(16_384)) >> 15;
        let right = ((((off * h6) >> 10) * (((off * h3) >> 11) + Wrapping(32_768))) >> 10) + Wrapping(2_097_152);
        let v = left * ((right * h2 + Wrapping(8192)) >> 14);
        let v = v - (((((v >> 15) * (v >> 15)) >> 7) * h1) >> 4);
        v.0.clamp(0, 419_430_400) >> 12
    }
}

/// One chip.
#[derive(Debug)]
pub struct Bme280<R> {
    registers: R,
    /// Read anew after every fault: the chip may have been exchanged.
    trim: Option<Trim>,
}

impl<B: I2c> Bme280<OverI2c<B>> {
    /// The chip at `address`; it need not be there yet.
    pub fn new(bus: B, address: u8) -> Self {
        Self { registers: OverI2c::new(bus, address), trim: None }
    }
}

impl<D: SpiDevice> Bme280<OverSpi<D>> {
    /// The chip that the device selects, in mode 0 or 3 with at most 10 MHz; it need not be there yet.
    pub fn over_spi(device: D) -> Self {
        Self { registers: OverSpi::new(device), trim: None }
    }
}

impl<R: Registers> Bme280<R> {
    /// Whether it is what it should be.
    fn identify(&mut self) -> Result<(), Fault> {
        let mut id = [0];
        self.registers.get(REGISTER_ID, &mut id)?;
        match id[0] {
            CHIP_ID => Ok(()),
            // No chip of theirs says so, but a line that nobody drives does.
            0 | 0xff if !R::IS_ACKNOWLEDGED => Err(Fault::Missing),
            _ => Err(Fault::WrongDevice),
        }
    }

    fn start(&mut self) -> Result<(), Fault> {
        if self.trim.is_none() {
            self.identify()?;
            let (mut low, mut high) = ([0; 26], [0; 7]);
            self.registers.get(REGISTER_TRIM, &mut low)?;
            self.registers.get(REGISTER_TRIM_HUMIDITY, &mut high)?;
            let trim = Trim::from_registers(&low, &high);
            if !trim.is_plausible() {
                return Err(Fault::Bus);
            }
            self.trim = Some(trim);
        }
        // A change of the humidity's control takes effect with the next write of the other.
        self.registers.put(REGISTER_CTRL_HUM, 1)?;
        self.registers.put(REGISTER_CTRL_MEAS, FORCED)
    }

    fn measured(&mut self, values: &mut [Option<Value>]) -> Result<(), Fault> {
        let trim = self.trim.ok_or(Fault::NotReady)?;
        if !R::IS_ACKNOWLEDGED {
            // One that was pulled off since would have measured zeros.
            self.identify()?;
        }
        let mut status = [0];
        self.registers.get(REGISTER_STATUS, &mut status)?;
        if status[0] & STATUS_MEASURING != 0 {
            return Err(Fault::NotReady);
        }
        // In one go, so that all are of one measurement (section 4.1).
        let mut data = [0; 8];
        self.registers.get(REGISTER_DATA, &mut data)?;
        let twenty = |i: usize| u32::from(data[i]) << 12 | u32::from(data[i + 1]) << 4 | u32::from(data[i + 2]) >> 4;
        let (pressure, temperature, humidity) = (twenty(0), twenty(3), u32::from(data[6]) << 8 | u32::from(data[7]));
        if temperature == SKIPPED && pressure == SKIPPED && humidity == SKIPPED_HUMIDITY {
            // It was reset between: its settings are gone. One of them alone is a value like any other, of some 26 °C.
            return Err(Fault::PowerOn);
        }
        let fine = trim.fine(temperature);
        let of = |value: Option<i64>, range: core::ops::RangeInclusive<i64>| match value {
            Some(value) if range.contains(&value) => Value::Scaled(value),
            _ => Value::Fault(Fault::OutOfRange),
        };
        let all = [
            of(Some(i64::from(Trim::temperature(fine))), TEMPERATURE),
            // 256ths of a pascal to hundredths of a hectopascal, which are pascals.
            of(trim.pressure(pressure, fine).map(|p| (p + 128) >> 8), PRESSURE),
            of(Some(i64::from((trim.humidity(humidity, fine) * 100 + 512) >> 10)), HUMIDITY),
        ];
        for (value, measured) in values.iter_mut().zip(all) {
            *value = Some(measured);
        }
        Ok(())
    }

    fn or_anew<T>(&mut self, result: Result<T, Fault>) -> Result<T, Fault> {
        if result.is_err() {
            self.trim = None;
        }
        result
    }
}

impl<R: Registers> Sensor for Bme280<R> {
    fn begin(&mut self) -> Result<u32, Fault> {
        let started = self.start();
        self.or_anew(started).map(|()| MEASURE_US)
    }

    fn read(&mut self, values: &mut [Option<Value>]) -> Result<(), Fault> {
        let measured = self.measured(values);
        self.or_anew(measured)
    }
}

#[cfg(test)]
mod tests;
