//! 1-Wire thermometers through the kernel's `w1_therm`.
//!
//! The driver's text has the scratchpad itself, so what is wrong with it is found as the firmware's driver does: the driver alone
//! passes 85 °C, and nine zeros of a line held down, for temperatures.

use std::collections::BTreeMap;

use weir_firmware_shim::{fault::Fault, sensors::ds18b20::sixteenths};
use weir_plugin_api::{
    options::Section,
    plugin::{AnyInput, BuildContext, BuiltInput, InputEntry, PluginError},
};

use super::{Directory, fault, text};
use crate::inputs::sensing::{Found, Scan, Sensing};

weir_plugin_api::options! {
    /// Options of `w1`.
    pub struct Options {
        /// Where the kernel's devices are shown.
        root: String = "/sys".into(),
        /// Thermometers that should be there, such as `28-0316a2794aff`: one that is not is a fault. Absent means all that are.
        devices: Option<Vec<String>> = None,
    }
}

/// The registry's entry.
pub static ENTRY: InputEntry =
    InputEntry { name: "w1", about: "1-Wire thermometers of the kernel", specs: Options::specs, unsupported: &[], build };

/// Families `w1_therm` drives: DS18S20, DS1822, DS18B20, DS1825, DS28EA00.
const FAMILIES: [&str; 5] = ["10", "22", "28", "3b", "42"];
/// Those whose scratchpads have other bytes than a DS18B20's: the DS18S20 counts in other steps, the DS1825 has the levels of its address
/// pins beside the resolution.
const OTHERS: [&str; 2] = ["10-", "3b-"];
/// Their power-on value, how near to it a reading must have been for it to be believed, and their range, thousandths of a degree.
const POWER_ON: i32 = 85_000;
const NEAR_POWER_ON: u32 = 5_000;
const RANGE: std::ops::RangeInclusive<i32> = -55_000..=125_000;

fn build(section: &Section<'_>, _context: &BuildContext) -> Option<BuiltInput> {
    let options = Options::read(section)?;
    if options.devices.as_ref().is_some_and(Vec::is_empty) {
        section.error_at("devices", "`devices` is empty");
        return None;
    }
    let directory = Directory::new(&options.root, "bus/w1/devices");
    let scan = Thermometers { directory, wanted: options.devices, before: BTreeMap::new() };
    Some(BuiltInput { input: AnyInput::Polled(Box::new(Sensing::new("w1", scan))), claims: Vec::new() })
}

struct Thermometers {
    directory: Directory,
    wanted: Option<Vec<String>>,
    /// The last good reading of each, sixteenths.
    before: BTreeMap<String, i16>,
}

impl Scan for Thermometers {
    fn scan(&mut self) -> Result<Vec<Found>, PluginError> {
        let found = match &self.wanted {
            Some(wanted) => wanted.clone(),
            None => self.directory.devices(is_thermometer)?,
        };
        let read = |name: String| {
            let value = self.read(&name);
            Found { tags: vec![("device", name)], field: "temperature".into(), value }
        };
        Ok(found.into_iter().map(read).collect())
    }
}

impl Thermometers {
    fn read(&mut self, name: &str) -> Result<f64, Fault> {
        let text = text(&self.directory.path.join(name).join("w1_slave")).map_err(|error| fault(&error))?;
        let (pad, is_right, thousandths) = parse(&text).ok_or(Fault::NotANumber)?;
        if !is_right {
            return Err(Fault::Checksum);
        }
        let before = self.before.get(name).copied();
        if OTHERS.iter().any(|family| name.starts_with(family)) {
            let thousandths = of_others(&pad, thousandths, before)?;
            self.before.insert(name.to_owned(), (thousandths * 16 / 1000) as i16);
            return Ok(f64::from(thousandths) / 1000.0);
        }
        let sixteenths = sixteenths(&pad, before)?;
        self.before.insert(name.to_owned(), sixteenths);
        Ok(f64::from(sixteenths) / 16.0)
    }
}

/// What the driver made of a scratchpad whose bytes mean other things.
fn of_others(pad: &[u8; 9], thousandths: i32, before: Option<i16>) -> Result<i32, Fault> {
    match thousandths {
        // A line held down, which has a right checksum.
        _ if pad == &[0; 9] => Err(Fault::Checksum),
        POWER_ON if before.is_none_or(|before| (i32::from(before) * 1000 / 16).abs_diff(POWER_ON) > NEAR_POWER_ON) => Err(Fault::PowerOn),
        t if RANGE.contains(&t) => Ok(t),
        _ => Err(Fault::OutOfRange),
    }
}

fn is_thermometer(name: &str) -> bool {
    name.split_once('-').is_some_and(|(family, _)| FAMILIES.contains(&family))
}

/// The two lines of `w1_slave`: scratchpad and whether its checksum is right, scratchpad and thousandths of a degree.
fn parse(text: &str) -> Option<([u8; 9], bool, i32)> {
    let (first, second) = text.split_once('\n')?;
    let mut pad = [0; 9];
    let mut bytes = first.split(' ');
    for byte in &mut pad {
        *byte = u8::from_str_radix(bytes.next()?, 16).ok()?;
    }
    let is_right = match first.rsplit(' ').next()? {
        "YES" => true,
        "NO" => false,
        _ => return None,
    };
    let thousandths = second.split_once("t=")?.1.trim().parse().ok()?;
    Some((pad, is_right, thousandths))
}
