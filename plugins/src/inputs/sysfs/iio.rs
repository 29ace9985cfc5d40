//! Devices of the kernel's Industrial I/O: converters, thermometers, barometers, hygrometers, light sensors.
//!
//! Files and units are those of `Documentation/ABI/testing/sysfs-bus-iio`. Millidegrees, millivolts, milliamperes and thousandths of a
//! percent become whole units, kilopascals hectopascals; other units stay the kernel's. A channel without a scale has no unit: its count
//! is the field `<channel>_raw`.

use std::path::Path;

use weir_firmware_shim::fault::Fault;
use weir_plugin_api::{
    options::Section,
    plugin::{AnyInput, BuildContext, BuiltInput, InputEntry, PluginError},
};

use super::{Directory, FILES_MAX, fault, names, number, text};
use crate::inputs::sensing::{Found, Scan, Sensing};

weir_plugin_api::options! {
    /// Options of `iio`.
    pub struct Options {
        /// Where the kernel's devices are shown.
        root: String = "/sys".into(),
    }
}

/// The registry's entry.
pub static ENTRY: InputEntry = InputEntry {
    name: "iio",
    about: "converters and sensors of the kernel's Industrial I/O",
    specs: Options::specs,
    unsupported: &[],
    build,
};

fn build(section: &Section<'_>, _context: &BuildContext) -> Option<BuiltInput> {
    let options = Options::read(section)?;
    let scan = Devices { directory: Directory::new(&options.root, "bus/iio/devices") };
    Some(BuiltInput { input: AnyInput::Polled(Box::new(Sensing::new("iio", scan))), claims: Vec::new() })
}

struct Devices {
    directory: Directory,
}

impl Scan for Devices {
    fn scan(&mut self) -> Result<Vec<Found>, PluginError> {
        let mut found = Vec::new();
        // Triggers are listed beside the devices.
        for device in self.directory.devices(|name| name.starts_with("iio:device"))? {
            let directory = self.directory.path.join(&device);
            let name = text(&directory.join("name")).unwrap_or_default();
            // The number of a device changes from boot to boot, where it is does not.
            let place = place(&directory).unwrap_or_else(|| device.clone());
            let tags = vec![("device", if name.is_empty() { device } else { name }), ("place", place)];
            match names(&directory, FILES_MAX) {
                Ok(files) => found.extend(channels(&directory, &files).map(|(field, value)| Found { tags: tags.clone(), field, value })),
                // It went away in this moment.
                Err(error) => found.push(Found { tags, field: "device".into(), value: Err(fault(&error)) }),
            }
        }
        Ok(found)
    }
}

/// The channels of a device, by the files that hold their values.
fn channels<'a>(directory: &'a Path, files: &'a [String]) -> impl Iterator<Item = (String, Result<f64, Fault>)> + 'a {
    files.iter().filter_map(move |file| {
        let channel = file.strip_prefix("in_")?;
        if let Some(channel) = channel.strip_suffix("_input") {
            return Some((channel.to_owned(), number(&directory.join(file)).map(|value| converted(channel, value))));
        }
        let channel = channel.strip_suffix("_raw")?;
        // What the driver has calculated is better than what we would.
        if files.iter().any(|other| other.strip_prefix("in_").and_then(|o| o.strip_suffix("_input")) == Some(channel)) {
            return None;
        }
        let count = number(&directory.join(file));
        let Some(scale) = parameter(directory, files, channel, "scale") else { return Some((format!("{channel}_raw"), count)) };
        let offset = parameter(directory, files, channel, "offset").unwrap_or(Ok(0.0));
        let value = count.and_then(|count| Ok(converted(channel, (count + offset?) * scale?)));
        Some((channel.to_owned(), value))
    })
}

/// The channel's own, or one that all of its type or all inputs share.
fn parameter(directory: &Path, files: &[String], channel: &str, what: &str) -> Option<Result<f64, Fault>> {
    let names = [format!("in_{channel}_{what}"), format!("in_{}_{what}", shared(channel)), format!("in_{what}")];
    let name = names.iter().find(|name| files.contains(name))?;
    Some(number(&directory.join(name)))
}

/// How the channels of a type are called together: `voltage` of `voltage3`, `voltage-voltage` of `voltage0-voltage1`.
fn shared(channel: &str) -> String {
    let kinds: Vec<&str> = channel.split('-').map(kind).collect();
    kinds.join("-")
}

/// The device it belongs to: `1-0076` on an I²C bus.
fn place(directory: &Path) -> Option<String> {
    let path = directory.canonicalize().ok()?;
    let parent = path.parent()?.file_name()?.to_str()?;
    // The bus's own list, where no device is known.
    (parent != "devices").then(|| parent.to_owned())
}

/// What a channel measures: `voltage` of `voltage3` and of the difference `voltage0-voltage1`, `accel` of `accel_x`.
fn kind(channel: &str) -> &str {
    channel.split(['_', '-']).next().unwrap_or(channel).trim_end_matches(|c: char| c.is_ascii_digit())
}

fn converted(channel: &str, value: f64) -> f64 {
    let value = match kind(channel) {
        "temp" | "voltage" | "current" | "humidityrelative" => value / 1000.0,
        "pressure" => value * 10.0,
        _ => value,
    };
    // The kernel writes nine decimals at most: what comes after them is arithmetic.
    if value.abs() < 1e6 { (value * 1e9).round() / 1e9 } else { value }
}
