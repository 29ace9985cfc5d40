//! The formulas against the data sheets' numbers, the driver against a chip simulated register by register.

use core::cell::RefCell;

use proptest::prelude::*;

use super::*;
use crate::sim::{Bme280Chip, SimBus, SimSpi, TRIM};

/// Temperature and pressure of the calculation example in the BMP280's data sheet (BST-BMP280-DS001, section 3.12), whose formulas are
/// the same; it calculates in doubles.
#[test]
fn the_data_sheets_example_comes_out() {
    let fine = TRIM.fine(519_888);
    assert_eq!((fine, Trim::temperature(fine)), (128_422, 2508));
    assert!((pressure_as_double(&TRIM, 415_148, fine) - 100_653.27).abs() < 0.05);
    let pressure = TRIM.pressure(415_148, fine).expect("no division by zero") as f64 / 256.0;
    assert!((pressure - 100_653.27).abs() < 0.05, "{pressure}");
}

/// The double-precision formula of the data sheet's appendix (section 8.1), which the integer one approximates.
fn pressure_as_double(trim: &Trim, adc: u32, fine: i32) -> f64 {
    let [p2, p3, p4, p5, p6, p7, p8, p9] = trim.p.map(f64::from);
    let v = f64::from(fine) / 2.0 - 64_000.0;
    let low = (v * v * p6 / 32_768.0 + v * p5 * 2.0) / 4.0 + p4 * 65_536.0;
    let slope = (1.0 + (p3 * v * v / 524_288.0 + p2 * v) / 524_288.0 / 32_768.0) * f64::from(trim.p1);
    let p = (1_048_576.0 - f64::from(adc) - low / 4096.0) * 6250.0 / slope;
    p + (p9 * p * p / 2_147_483_648.0 + p * p8 / 32_768.0 + p7) / 16.0
}

#[test]
fn integer_pressure_is_the_formula_in_doubles() {
    for adc in (300_000..600_000).step_by(1009) {
        for temperature in (400_000..600_000).step_by(20_011) {
            let fine = TRIM.fine(temperature);
            let integer = TRIM.pressure(adc, fine).expect("no division by zero") as f64 / 256.0;
            let double = pressure_as_double(&TRIM, adc, fine);
            assert!((integer - double).abs() < 0.1, "{adc} {fine}: {integer} {double}");
        }
    }
}

/// The same for the humidity.
fn humidity_as_double(trim: &Trim, adc: u32, fine: i32) -> f64 {
    let [h1, h2, h3, h4, h5, h6] =
        [f64::from(trim.h1), f64::from(trim.h2), f64::from(trim.h3), f64::from(trim.h4), f64::from(trim.h5), f64::from(trim.h6)];
    let v = f64::from(fine) - 76_800.0;
    let v = (f64::from(adc) - (h4 * 64.0 + h5 / 16_384.0 * v))
        * (h2 / 65_536.0 * (1.0 + h6 / 67_108_864.0 * v * (1.0 + h3 / 67_108_864.0 * v)));
    (v * (1.0 - h1 * v / 524_288.0)).clamp(0.0, 100.0)
}

#[test]
fn integer_humidity_is_the_formula_in_doubles() {
    for adc in (20_000..50_000).step_by(37) {
        for temperature in (400_000..600_000).step_by(20_011) {
            let fine = TRIM.fine(temperature);
            let (integer, double) = (f64::from(TRIM.humidity(adc, fine)) / 1024.0, humidity_as_double(&TRIM, adc, fine));
            assert!((integer - double).abs() < 0.02, "{adc} {fine}: {integer} {double}");
        }
    }
}

#[test]
fn parameters_of_twelve_bits_keep_their_signs() {
    let (mut low, mut high) = ([0; 26], [0; 7]);
    TRIM.to_registers(&mut low, &mut high);
    assert_eq!(Trim::from_registers(&low, &high), TRIM);
    let odd = Trim { h4: -1234, h5: -7, ..TRIM };
    odd.to_registers(&mut low, &mut high);
    assert_eq!(Trim::from_registers(&low, &high), odd);
}

proptest! {
    #[test]
    fn parameters_no_chip_has_never_stop_the_firmware(low in any::<[u8; 26]>(), high in any::<[u8; 7]>(), data in any::<[u32; 3]>()) {
        let trim = Trim::from_registers(&low, &high);
        let fine = trim.fine(data[0] >> 12);
        Trim::temperature(fine);
        trim.pressure(data[1] >> 12, fine);
        let humidity = trim.humidity(data[2] >> 16, fine);
        prop_assert!((0..=102_400).contains(&humidity));
    }
}

fn measure(chip: &RefCell<Bme280Chip>, driver: &mut impl Sensor) -> Result<[Option<Value>; 3], Fault> {
    let takes_us = driver.begin()?;
    chip.borrow_mut().pass(takes_us);
    let mut values = [None; 3];
    driver.read(&mut values).map(|()| values)
}

#[test]
fn a_chip_is_set_up_started_and_read() {
    let chip = RefCell::new(Bme280Chip::default());
    let mut driver = Bme280::new(SimBus(&chip), ADDRESS);
    let values = measure(&chip, &mut driver).expect("a whole measurement");
    let [Some(Value::Scaled(temperature)), Some(Value::Scaled(pressure)), Some(Value::Scaled(humidity))] = values else {
        panic!("{values:?}")
    };
    assert_eq!((temperature, pressure), (2508, 100_653));
    assert!((2000..9000).contains(&humidity), "{humidity}");
}

#[test]
fn every_way_to_fail_has_its_name() {
    let chip = RefCell::new(Bme280Chip::default());
    let mut driver = Bme280::new(SimBus(&chip), ADDRESS_HIGH);
    assert_eq!(measure(&chip, &mut driver), Err(Fault::Missing), "another address");
    let mut driver = Bme280::new(SimBus(&chip), ADDRESS);
    chip.borrow_mut().id = 0x58;
    assert_eq!(measure(&chip, &mut driver), Err(Fault::WrongDevice), "a BMP280");
    chip.borrow_mut().id = CHIP_ID;
    assert!(measure(&chip, &mut driver).is_ok());
    chip.borrow_mut().is_there = false;
    assert_eq!(measure(&chip, &mut driver), Err(Fault::Missing));
    chip.borrow_mut().is_there = true;
    driver.begin().expect("it is back");
    assert_eq!(driver.read(&mut [None; 3]), Err(Fault::NotReady), "read at once");
    driver.begin().expect("it is there");
    chip.borrow_mut().reset();
    assert_eq!(driver.read(&mut [None; 3]), Err(Fault::PowerOn));
    chip.borrow_mut().trim = Trim::default();
    assert_eq!(measure(&chip, &mut driver), Err(Fault::Bus), "memory that reads as zeros");
}

#[test]
fn a_temperature_whose_number_is_that_of_a_reset_is_no_fault() {
    let chip = RefCell::new(Bme280Chip::default());
    chip.borrow_mut().temperature = SKIPPED;
    let mut driver = Bme280::new(SimBus(&chip), ADDRESS);
    let values = measure(&chip, &mut driver).expect("a whole measurement");
    assert!(values.iter().all(|value| matches!(value, Some(Value::Scaled(_)))), "{values:?}");
}

#[test]
fn a_value_out_of_range_is_a_fault_of_its_field_alone() {
    let chip = RefCell::new(Bme280Chip::default());
    chip.borrow_mut().pressure = 900_000;
    let mut driver = Bme280::new(SimBus(&chip), ADDRESS);
    let values = measure(&chip, &mut driver).expect("a whole measurement");
    assert!(matches!(values[0], Some(Value::Scaled(2508))));
    assert_eq!(values[1], Some(Value::Fault(Fault::OutOfRange)));
}

#[test]
fn over_spi_it_measures_the_same() {
    let chip = RefCell::new(Bme280Chip::default());
    let by_i2c = measure(&chip, &mut Bme280::new(SimBus(&chip), ADDRESS));
    chip.borrow_mut().reset();
    assert_eq!(measure(&chip, &mut Bme280::over_spi(SimSpi(&chip))), by_i2c);
    assert!(by_i2c.is_ok(), "{by_i2c:?}");
}

#[test]
fn over_spi_every_way_to_fail_has_its_name() {
    let chip = RefCell::new(Bme280Chip::default());
    let mut driver = Bme280::over_spi(SimSpi(&chip));
    chip.borrow_mut().id = 0x58;
    assert_eq!(measure(&chip, &mut driver), Err(Fault::WrongDevice), "a BMP280");
    chip.borrow_mut().id = CHIP_ID;
    driver.begin().expect("it is there");
    assert_eq!(driver.read(&mut [None; 3]), Err(Fault::NotReady), "read at once");
    driver.begin().expect("it is there");
    chip.borrow_mut().reset();
    assert_eq!(driver.read(&mut [None; 3]), Err(Fault::PowerOn));
    for rests_at in [0, 0xff] {
        assert!(measure(&chip, &mut driver).is_ok());
        (chip.borrow_mut().is_there, chip.borrow_mut().rests_at) = (false, rests_at);
        assert_eq!(measure(&chip, &mut driver), Err(Fault::Missing), "a line that rests at {rests_at:#x}");
        chip.borrow_mut().is_there = true;
        driver.begin().expect("it is back");
        chip.borrow_mut().is_there = false;
        assert_eq!(driver.read(&mut [None; 3]), Err(Fault::Missing), "pulled off meanwhile, a line that rests at {rests_at:#x}");
        chip.borrow_mut().is_there = true;
    }
    chip.borrow_mut().has_bus = false;
    assert_eq!(measure(&chip, &mut driver), Err(Fault::Bus));
}
