//! Sensors on the gateway's own I²C buses, read by the drivers of the firmware shim.
//!
//! For what the kernel has no driver for, or where its overlay is not wanted; where it has one, `iio` and `hwmon` read that.

use linux_embedded_hal::I2cdev;
use weir_firmware_shim::sensors::bme280;
use weir_plugin_api::{
    options::{OptionSpec, Section},
    plugin::{AnyInput, BuildContext, BuiltInput, InputEntry, PluginError},
};

use super::{
    chips::{AnySensor, Chips, Probe},
    sensing::Sensing,
};

weir_plugin_api::options! {
    /// Options of `i2c`.
    pub struct Options {
        /// The bus's device file, such as `/dev/i2c-1`.
        bus: String,
    }
}

weir_plugin_api::choice! {
    /// What hangs on the bus.
    pub enum Driver {
        /// Bosch's BME280: temperature, pressure, humidity.
        Bme280 = "bme280",
    }
}

weir_plugin_api::options! {
    /// One sensor.
    pub struct SensorOptions {
        /// What it is: `bme280`.
        driver: Driver,
        /// Its address, from 8 to 119; absent means what the sensor has by itself.
        address: Option<u8> = None,
        /// Tag `device`; absent means driver and address.
        name: Option<String> = None,
    }
}

/// The registry's entry.
pub static ENTRY: InputEntry =
    InputEntry { name: "i2c", about: "sensors on an I²C bus, without a driver of the kernel", specs, unsupported: &[], build };

/// Addresses that are no general calls and no extensions.
const ADDRESSES: std::ops::RangeInclusive<u8> = 0x08..=0x77;

fn specs() -> Vec<OptionSpec> {
    let mut specs = Options::specs();
    specs.push(OptionSpec {
        name: "sensor",
        kind: "tables",
        default: Some(String::new()),
        doc: "A sensor, a table for each: `driver` (bme280), `address`, `name`.",
    });
    specs
}

fn build(section: &Section<'_>, _context: &BuildContext) -> Option<BuiltInput> {
    let before = section.diagnostics().errors();
    let options = Options::read(section);
    let sensors: Vec<(u8, SensorOptions)> = section.tables("sensor").into_iter().filter_map(read_sensor).collect();
    let options = options?;
    if section.diagnostics().errors() == before && sensors.is_empty() {
        section.error(format!("[{}] needs a table [[{0}.sensor]] or more", section.path));
    }
    for (i, (address, _)) in sensors.iter().enumerate() {
        if sensors[..i].iter().any(|(other, _)| other == address) {
            section.error_at("sensor", format!("address {address} of the bus is named twice"));
        }
    }
    if section.diagnostics().errors() > before {
        return None;
    }
    let claims = sensors.iter().map(|(address, _)| format!("i2c:{}:{address}", crate::claim::canonical(&options.bus).display())).collect();
    let probes = sensors.into_iter().map(|(address, sensor)| probe(&options.bus, address, sensor)).collect();
    Some(BuiltInput { input: AnyInput::Polled(Box::new(Sensing::new("i2c", Chips(probes)))), claims })
}

fn read_sensor(section: Section<'_>) -> Option<(u8, SensorOptions)> {
    let options = SensorOptions::read(&section);
    let address = options.as_ref().map(|options| {
        options.address.unwrap_or(match options.driver {
            Driver::Bme280 => bme280::ADDRESS,
        })
    });
    if address.is_some_and(|address| !ADDRESSES.contains(&address)) {
        section.error_at("address", "`address` must be between 8 and 119");
    }
    section.finish(&[]);
    Some((address.filter(|address| ADDRESSES.contains(address))?, options?))
}

fn probe(bus: &str, address: u8, options: SensorOptions) -> Probe {
    let name = options.name.unwrap_or_else(|| format!("{}@{address:02x}", options.driver.as_str()));
    let bus = bus.to_owned();
    let fields = match options.driver {
        Driver::Bme280 => bme280::FIELDS.to_vec(),
    };
    let open = move || -> Result<AnySensor, PluginError> {
        let port = I2cdev::new(&bus).map_err(|error| PluginError::because(format_args!("opening {bus}"), &error))?;
        Ok(match options.driver {
            Driver::Bme280 => Box::new(bme280::Bme280::new(port, address)),
        })
    };
    Probe::new(name, fields, Box::new(open))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{
        cell::RefCell,
        sync::{Arc, Mutex},
    };

    use embedded_hal::i2c::{ErrorKind, ErrorType, I2c, Operation};
    use weir_firmware_shim::{
        sensors::bme280::Bme280,
        sim::{Bme280Chip, SimBus},
    };
    use weir_plugin_api::testing::collector;

    use super::{super::chips::testing::gather, *};

    /// The simulated bus for several threads. A conversion is over when it is begun: no time passes here by itself.
    struct SharedBus(Arc<Mutex<Bme280Chip>>);

    impl ErrorType for SharedBus {
        type Error = ErrorKind;
    }

    impl I2c for SharedBus {
        fn transaction(&mut self, address: u8, operations: &mut [Operation<'_>]) -> Result<(), ErrorKind> {
            let mut shared = self.0.lock().unwrap();
            let chip = RefCell::new(shared.clone());
            let outcome = SimBus(&chip).transaction(address, operations);
            chip.borrow_mut().pass(10_000);
            *shared = chip.into_inner();
            outcome
        }
    }

    #[tokio::test]
    async fn a_chip_is_read_goes_missing_and_comes_back() {
        let chip = Arc::new(Mutex::new(Bme280Chip::default()));
        let shared = Arc::clone(&chip);
        let open = move || -> Result<AnySensor, PluginError> { Ok(Box::new(Bme280::new(SharedBus(Arc::clone(&shared)), bme280::ADDRESS))) };
        let probe = Probe::new("attic".into(), bme280::FIELDS.to_vec(), Box::new(open));
        let mut input = Sensing::new("i2c", Chips(vec![probe]));
        let (got, both) = gather(&mut input, collector()).await;
        let good = got.unwrap();
        assert_eq!(good.len(), 1);
        assert!(good[0].starts_with("i2c,device=attic temperature=25.08,pressure=1006.53,humidity="), "{good:?}");
        chip.lock().unwrap().is_there = false;
        let (got, both) = gather(&mut input, both).await;
        let fault = |field, name, code| format!("i2c_fault,device=attic,field={field} fault=\"{name}\",code={code}i ?");
        let fields = ["temperature", "pressure", "humidity"];
        assert_eq!(got.unwrap(), fields.map(|field| fault(field, "missing", 1)));
        chip.lock().unwrap().is_there = true;
        let (got, _) = gather(&mut input, both).await;
        assert_eq!(got.unwrap(), [vec![good[0].clone()], fields.map(|field| fault(field, "none", 0)).to_vec()].concat());
    }

    #[tokio::test]
    async fn a_bus_that_is_not_there_is_named() {
        let options = SensorOptions { driver: Driver::Bme280, address: None, name: None };
        let mut input = Sensing::new("i2c", Chips(vec![probe("/dev/i2c-none", bme280::ADDRESS, options)]));
        let (got, _) = gather(&mut input, collector()).await;
        assert!(got.unwrap_err().contains("/dev/i2c-none"));
    }
}
