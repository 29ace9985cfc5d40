//! A chip on the gateway's own SPI bus, read by the drivers of the firmware shim.
//!
//! A device file of the kernel is one chip with its select line, so a table is one chip. For what the kernel has no driver for, or where
//! its overlay is not wanted; where it has one, `iio` and `hwmon` read that.

use std::ops::RangeInclusive;

use embedded_hal::spi::SpiDevice;
use linux_embedded_hal::{
    SpidevDevice,
    spidev::{SpiModeFlags, SpidevOptions},
};
use weir_firmware_shim::{
    fault::Fault,
    frame::{Field, FieldKind, Value},
    sensor::Sensor,
    sensors::{
        bme280,
        mcp3008::{CHANNELS, Mcp3008, STEPS},
    },
};
use weir_plugin_api::{
    options::{OptionSpec, Section},
    plugin::{AnyInput, BuildContext, BuiltInput, InputEntry, PluginError},
};

use super::{
    chips::{AnySensor, Chips, Probe},
    sensing::Sensing,
};

weir_plugin_api::choice! {
    /// What is selected by the device.
    pub enum Driver {
        /// Bosch's BME280: temperature, pressure, humidity.
        Bme280 = "bme280",
        /// Microchip's MCP3008: eight voltages.
        Mcp3008 = "mcp3008",
    }
}

weir_plugin_api::options! {
    /// Options of `spi`.
    pub struct Options {
        /// The chip's device file, such as `/dev/spidev0.0`.
        device: String,
        /// What it is: `bme280` (temperature, pressure, humidity) or `mcp3008` (voltages, from 0 to `reference`).
        driver: Driver,
        /// Clock in Hz, from 10000 to what the chip takes: 10000000 for `bme280`; 3600000 for `mcp3008` at 5 V, 1350000 at 2.7 V.
        speed: u32 = 1_000_000,
        /// SPI mode: 0 or 3, all the same to these chips.
        mode: u8 = 0,
        /// Tag `device`; absent means driver and device file.
        name: Option<String> = None,
        /// `mcp3008`: the channels to read, 0 to 7, each a field `channel0` to `channel7`; absent means all.
        channels: Option<Vec<u8>> = None,
        /// `mcp3008`: volts at its pin VREF; absent means 3.3.
        reference: Option<f64> = None,
    }
}

/// The registry's entry.
pub static ENTRY: InputEntry = InputEntry {
    name: "spi",
    about: "a sensor or converter on an SPI bus, without a driver of the kernel",
    specs,
    unsupported: &[],
    build,
};

const CHANNEL_NAMES: [&str; CHANNELS as usize] =
    ["channel0", "channel1", "channel2", "channel3", "channel4", "channel5", "channel6", "channel7"];
const REFERENCE: f64 = 3.3;

fn specs() -> Vec<OptionSpec> {
    Options::specs()
}

impl Driver {
    /// Slower, a converter's sample fades before it is read; faster, no chip promises anything.
    fn speeds(self) -> RangeInclusive<u32> {
        match self {
            Self::Bme280 => 10_000..=10_000_000,
            Self::Mcp3008 => 10_000..=3_600_000,
        }
    }
}

fn build(section: &Section<'_>, _context: &BuildContext) -> Option<BuiltInput> {
    let before = section.diagnostics().errors();
    let options = Options::read(section)?;
    check(section, &options);
    if section.diagnostics().errors() > before {
        return None;
    }
    let claims = vec![format!("spi:{}", crate::claim::canonical(&options.device).display())];
    Some(BuiltInput { input: AnyInput::Polled(Box::new(Sensing::new("spi", Chips(vec![probe(options)])))), claims })
}

fn check(section: &Section<'_>, options: &Options) {
    let (driver, speeds) = (options.driver.as_str(), options.driver.speeds());
    if !speeds.contains(&options.speed) {
        section.error_at("speed", format!("`speed` of a {driver} must be between {} and {}", speeds.start(), speeds.end()));
    }
    if !matches!(options.mode, 0 | 3) {
        section.error_at("mode", format!("`mode` of a {driver} must be 0 or 3"));
    }
    for (key, is_there) in [("channels", options.channels.is_some()), ("reference", options.reference.is_some())] {
        if is_there && options.driver != Driver::Mcp3008 {
            section.error_at(key, format!("`{key}` is for mcp3008 alone, a {driver} has none"));
        }
    }
    if let Some(channels) = &options.channels {
        let is_twice = channels.iter().enumerate().any(|(i, channel)| channels[..i].contains(channel));
        if channels.is_empty() || is_twice || channels.iter().any(|channel| *channel >= CHANNELS) {
            section.error_at("channels", "`channels` must be one or more of 0 to 7, each once");
        }
    }
    if options.reference.is_some_and(|volts| !(volts > 0.0 && volts <= 7.0)) {
        section.error_at("reference", "`reference` must be more than 0 and at most 7 volts");
    }
}

fn probe(options: Options) -> Probe {
    let Options { device, driver, speed, mode, name, channels, reference } = options;
    let file = device.rsplit('/').next().unwrap_or(&device);
    let name = name.unwrap_or_else(|| format!("{}@{file}", driver.as_str()));
    let channels = channels.unwrap_or_else(|| (0..CHANNELS).collect());
    let fields = match driver {
        Driver::Bme280 => bme280::FIELDS.to_vec(),
        Driver::Mcp3008 => fields(&channels),
    };
    let open = move || -> Result<AnySensor, PluginError> {
        let port = open(&device, speed, mode)?;
        Ok(match driver {
            Driver::Bme280 => Box::new(bme280::Bme280::over_spi(port)),
            Driver::Mcp3008 => Box::new(Converter::new(port, channels.clone(), reference.unwrap_or(REFERENCE))),
        })
    };
    Probe::new(name, fields, Box::new(open))
}

fn open(device: &str, speed: u32, mode: u8) -> Result<SpidevDevice, PluginError> {
    let mut port = SpidevDevice::open(device).map_err(|error| PluginError::because(format_args!("opening {device}"), &error))?;
    let mode = if mode == 3 { SpiModeFlags::SPI_MODE_3 } else { SpiModeFlags::SPI_MODE_0 };
    let options = SpidevOptions::new().bits_per_word(8).max_speed_hz(speed).mode(mode).build();
    port.configure(&options).map_err(|error| PluginError::because(format_args!("setting up {device} for SPI"), &error))?;
    Ok(port)
}

/// The fields of these channels.
fn fields(channels: &[u8]) -> Vec<Field<'static>> {
    channels.iter().map(|channel| Field { name: CHANNEL_NAMES[usize::from(*channel)], kind: FieldKind::F64 }).collect()
}

/// Voltages of several channels: the shim's driver gives steps, for microcontrollers without floating point.
struct Converter<D> {
    chip: Mcp3008<D>,
    channels: Vec<u8>,
    /// Volts at the reference.
    reference: f64,
}

impl<D: SpiDevice> Converter<D> {
    fn new(device: D, channels: Vec<u8>, reference: f64) -> Self {
        Self { chip: Mcp3008::new(device), channels, reference }
    }
}

impl<D: SpiDevice> Sensor for Converter<D> {
    fn begin(&mut self) -> Result<u32, Fault> {
        Ok(0)
    }

    fn read(&mut self, values: &mut [Option<Value>]) -> Result<(), Fault> {
        for (value, channel) in values.iter_mut().zip(&self.channels) {
            let steps = self.chip.convert(*channel)?;
            *value = Some(Value::F64(f64::from(steps) * self.reference / f64::from(STEPS)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::{
        cell::RefCell,
        sync::{Arc, Mutex},
    };

    use embedded_hal::spi::{ErrorKind, ErrorType, Operation};
    use weir_firmware_shim::sim::{Bme280Chip, Mcp3008Chip, SimSpi, SpiChip};
    use weir_plugin_api::{
        options::{Diagnostics, Item, Node, Place, Table},
        plugin::PolledInput,
        testing::collector,
    };

    use super::{super::chips::testing::gather, *};

    /// The simulated bus for several threads; `after` is what happens to the chip by the next time it is asked.
    struct Shared<C>(Arc<Mutex<C>>, fn(&mut C));

    impl<C> ErrorType for Shared<C> {
        type Error = ErrorKind;
    }

    impl<C: SpiChip + Clone> SpiDevice for Shared<C> {
        fn transaction(&mut self, operations: &mut [Operation<'_, u8>]) -> Result<(), ErrorKind> {
            let mut shared = self.0.lock().unwrap();
            let chip = RefCell::new(shared.clone());
            let outcome = SimSpi(&chip).transaction(operations);
            *shared = chip.into_inner();
            (self.1)(&mut shared);
            outcome
        }
    }

    /// An input over a BME280 whose conversions take no time.
    fn weather(chip: &Arc<Mutex<Bme280Chip>>, after: fn(&mut Bme280Chip)) -> Box<dyn PolledInput> {
        let chip = Arc::clone(chip);
        let open = move || -> Result<AnySensor, PluginError> { Ok(Box::new(bme280::Bme280::over_spi(Shared(Arc::clone(&chip), after)))) };
        let probe = Probe::new("attic".into(), bme280::FIELDS.to_vec(), Box::new(open));
        Box::new(Sensing::new("spi", Chips(vec![probe])))
    }

    fn faults(name: &str, code: u8) -> Vec<String> {
        ["temperature", "pressure", "humidity"]
            .map(|field| format!("spi_fault,device=attic,field={field} fault=\"{name}\",code={code}i ?"))
            .to_vec()
    }

    #[tokio::test]
    async fn a_chip_is_read_goes_missing_and_comes_back() {
        let chip = Arc::new(Mutex::new(Bme280Chip::default()));
        let mut input = weather(&chip, |chip| chip.pass(10_000));
        let (got, both) = gather(&mut *input, collector()).await;
        let good = got.unwrap();
        assert_eq!(good.len(), 1);
        assert!(good[0].starts_with("spi,device=attic temperature=25.08,pressure=1006.53,humidity="), "{good:?}");
        chip.lock().unwrap().is_there = false;
        let (got, both) = gather(&mut *input, both).await;
        assert_eq!(got.unwrap(), faults("missing", 1));
        *chip.lock().unwrap() = Bme280Chip::default();
        let (got, _) = gather(&mut *input, both).await;
        assert_eq!(got.unwrap(), [good, faults("none", 0)].concat());
    }

    #[tokio::test]
    async fn another_chip_and_one_that_was_reset_are_no_readings() {
        let chip = Arc::new(Mutex::new(Bme280Chip::default()));
        chip.lock().unwrap().id = 0x58;
        let (got, _) = gather(&mut *weather(&chip, |_| {}), collector()).await;
        assert_eq!(got.unwrap(), faults("wrong_device", 7));
        *chip.lock().unwrap() = Bme280Chip::default();
        let (got, _) = gather(&mut *weather(&chip, Bme280Chip::reset), collector()).await;
        assert_eq!(got.unwrap(), faults("power_on_value", 5));
    }

    #[tokio::test]
    async fn the_voltages_of_the_channels_that_are_asked_for() {
        let chip = Arc::new(Mutex::new(Mcp3008Chip::new([0, 0, 512, 0, 0, 0, 0, 256])));
        let shared = Arc::clone(&chip);
        let open = move || -> Result<AnySensor, PluginError> {
            Ok(Box::new(Converter::new(Shared(Arc::clone(&shared), |_| {}), vec![7, 2], REFERENCE)))
        };
        let mut input = Sensing::new("spi", Chips(vec![Probe::new("loop".into(), fields(&[7, 2]), Box::new(open))]));
        let (got, both) = gather(&mut input, collector()).await;
        assert_eq!(got.unwrap(), ["spi,device=loop channel7=0.825,channel2=1.65 ?"]);
        chip.lock().unwrap().is_there = false;
        let (got, _) = gather(&mut input, both).await;
        let missing = |field| format!("spi_fault,device=loop,field={field} fault=\"missing\",code=1i ?");
        assert_eq!(got.unwrap(), ["channel7", "channel2"].map(missing));
    }

    /// What is built of these options, or what is wrong with them.
    fn built(options: Vec<(&str, Item)>) -> Result<BuiltInput, Vec<String>> {
        let entry = |(key, item): (&str, Item)| (key.to_owned(), Place::default(), Node { place: Place::default(), item, secret: false });
        let table = Table { entries: options.into_iter().map(entry).collect() };
        let diagnostics = Diagnostics::default();
        let section = Section::new("inputs.spi", &table, Place::default(), &diagnostics);
        let context = BuildContext {
            name: "spi".into(),
            interval: std::time::Duration::from_secs(10),
            internal: Arc::new(Vec::new),
            directory: std::path::PathBuf::new(),
        };
        let built = build(&section, &context);
        section.finish(&[]);
        built.ok_or_else(|| diagnostics.take().into_iter().map(|diagnostic| diagnostic.message).collect())
    }

    fn text(text: &str) -> Item {
        Item::Text(text.into())
    }

    #[tokio::test]
    async fn a_device_that_is_not_there_and_a_file_that_is_none_are_named() {
        for (device, expected) in [("/dev/spidev-none", "opening /dev/spidev-none"), ("/dev/null", "setting up /dev/null for SPI")] {
            let built = built(vec![("device", text(device)), ("driver", text("mcp3008"))]);
            let Ok(BuiltInput { input: AnyInput::Polled(mut input), claims }) = built else { panic!("not built") };
            assert_eq!(claims, [format!("spi:{device}")]);
            let (got, _) = gather(&mut *input, collector()).await;
            let error = got.unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn every_wrong_option_is_told() {
        let device = || ("device", text("/dev/spidev0.0"));
        let numbers = |numbers: &[i64]| {
            Item::Array(numbers.iter().map(|n| Node { place: Place::default(), item: Item::Int(*n), secret: false }).collect())
        };
        let wrong = |options| built(options).err().unwrap();
        let errors = wrong(vec![
            device(),
            ("driver", text("bme280")),
            ("speed", Item::Int(20_000_000)),
            ("mode", Item::Int(1)),
            ("channels", numbers(&[0])),
            ("reference", Item::Float(3.3)),
        ]);
        assert_eq!(
            errors,
            [
                "`speed` of a bme280 must be between 10000 and 10000000",
                "`mode` of a bme280 must be 0 or 3",
                "`channels` is for mcp3008 alone, a bme280 has none",
                "`reference` is for mcp3008 alone, a bme280 has none"
            ]
        );
        for channels in [&[][..], &[8], &[1, 1]] {
            let errors =
                wrong(vec![device(), ("driver", text("mcp3008")), ("channels", numbers(channels)), ("reference", Item::Float(0.0))]);
            assert_eq!(
                errors,
                ["`channels` must be one or more of 0 to 7, each once", "`reference` must be more than 0 and at most 7 volts"]
            );
        }
    }
}
