//! Chips the kernel's hardware monitoring reads: temperatures, voltages, currents, powers, fans.
//!
//! Files and units are those of `Documentation/hwmon/sysfs-interface.rst`; values become whole units: degrees, volts, amperes, watts.

use std::path::{Path, PathBuf};

use weir_firmware_shim::fault::Fault;
use weir_plugin_api::{
    options::Section,
    plugin::{AnyInput, BuildContext, BuiltInput, InputEntry, PluginError},
};

use super::{Directory, FILES_MAX, names, number, text};
use crate::inputs::sensing::{Found, Scan, Sensing};

weir_plugin_api::options! {
    /// Options of `hwmon`.
    pub struct Options {
        /// Where the kernel's devices are shown.
        root: String = "/sys".into(),
    }
}

/// The registry's entry.
pub static ENTRY: InputEntry =
    InputEntry { name: "hwmon", about: "chips of the kernel's hardware monitoring", specs: Options::specs, unsupported: &[], build };

/// What a file's name begins with, the field, and how many of the kernel's units are one.
const KINDS: [(&str, &str, f64); 8] = [
    ("temp", "temperature", 1e3),
    ("in", "voltage", 1e3),
    ("curr", "current", 1e3),
    ("power", "power", 1e6),
    ("energy", "energy", 1e6),
    ("humidity", "humidity", 1e3),
    ("fan", "fan", 1.0),
    ("freq", "frequency", 1.0),
];

fn build(section: &Section<'_>, _context: &BuildContext) -> Option<BuiltInput> {
    let options = Options::read(section)?;
    let scan = Chips { directory: Directory::new(&options.root, "class/hwmon") };
    Some(BuiltInput { input: AnyInput::Polled(Box::new(Sensing::new("hwmon", scan))), claims: Vec::new() })
}

struct Chips {
    directory: Directory,
}

/// A chip and the files of its sensors.
struct Chip {
    name: String,
    /// Where its device is: the number of a hwmon changes from boot to boot, that does not. Virtual ones have none.
    device: Option<String>,
    number: String,
    directory: PathBuf,
    files: Vec<String>,
}

impl Chip {
    fn find(hwmon: PathBuf, number: String) -> Self {
        let name = ["name", "device/name"].iter().find_map(|file| text(&hwmon.join(file)).ok()).unwrap_or_default();
        let device = hwmon.join("device").canonicalize().ok();
        let device = device.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
        let files = names(&hwmon, FILES_MAX).unwrap_or_default();
        if files.iter().any(|file| file.ends_with("_input")) {
            return Self { name, device, number, directory: hwmon, files };
        }
        // Old drivers have their files at the device.
        let directory = hwmon.join("device");
        let files = names(&directory, FILES_MAX).unwrap_or_default();
        Self { name, device, number, directory, files }
    }
}

impl Scan for Chips {
    fn scan(&mut self) -> Result<Vec<Found>, PluginError> {
        let chips: Vec<Chip> =
            self.directory.devices(|_| true)?.into_iter().map(|hwmon| Chip::find(self.directory.path.join(&hwmon), hwmon)).collect();
        let mut found = Vec::new();
        for chip in &chips {
            // Only the number tells two of one name apart whose place is not known.
            let is_alone =
                !chip.name.is_empty() && chips.iter().filter(|other| other.device.is_none() && other.name == chip.name).count() < 2;
            let device = chip.device.clone().or_else(|| (!is_alone).then(|| chip.number.clone()));
            for (sensor, field, value) in sensors(&chip.directory, &chip.files) {
                let device = device.clone().map(|device| ("device", device));
                let tags = std::iter::once(("chip", chip.name.clone())).chain(device).chain([("sensor", sensor)]).collect();
                found.push(Found { tags, field: field.to_owned(), value });
            }
        }
        Ok(found)
    }
}

/// Label (or number), field and value of each sensor. A label that two sensors of a kind share names neither.
fn sensors<'a>(directory: &'a Path, files: &'a [String]) -> Vec<(String, &'static str, Result<f64, Fault>)> {
    let label = |sensor: &str| text(&directory.join(format!("{sensor}_label"))).ok().filter(|label| !label.is_empty());
    let read = |file: &'a String| {
        let sensor = file.strip_suffix("_input")?;
        let kind = sensor.trim_end_matches(|c: char| c.is_ascii_digit());
        let (_, field, units) = KINDS.iter().find(|(name, ..)| *name == kind)?;
        // The chip itself says that its probe is broken.
        let value = match number(&directory.join(format!("{sensor}_fault"))) {
            Ok(fault) if fault != 0.0 => Err(Fault::Missing),
            _ => number(&directory.join(file)).map(|value| value / units),
        };
        Some((sensor, label(sensor), *field, value))
    };
    let read: Vec<_> = files.iter().filter_map(read).collect();
    let is_shared = |label: &Option<String>, field| read.iter().filter(|other| other.1 == *label && other.2 == field).count() > 1;
    let named = |(sensor, label, field, value): &(&str, Option<String>, &'static str, Result<f64, Fault>)| {
        let name = label.clone().filter(|_| !is_shared(label, *field)).unwrap_or_else(|| (*sensor).to_owned());
        (name, *field, *value)
    };
    read.iter().map(named).collect()
}
