//! Chips the kernel's hardware monitoring reads: temperatures, voltages, currents, powers, fans.
//!
//! Files and units are those of `Documentation/hwmon/sysfs-interface.rst`; values become whole units: degrees, volts, amperes, watts.

use std::path::{Path, PathBuf};

use weir_firmware_shim::fault::Fault;
use weir_plugin_api::{
    options::Section,
    plugin::{AnyInput, BuildContext, BuiltInput, InputEntry, PluginError},
};

use super::{FILES_MAX, devices, names, number, text};
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
    let scan = Chips { directory: PathBuf::from(options.root).join("class/hwmon") };
    Some(BuiltInput { input: AnyInput::Polled(Box::new(Sensing::new("hwmon", scan))), claims: Vec::new() })
}

struct Chips {
    directory: PathBuf,
}

impl Scan for Chips {
    fn scan(&mut self) -> Result<Vec<Found>, PluginError> {
        let mut found = Vec::new();
        for hwmon in devices(&self.directory)? {
            let mut directory = self.directory.join(&hwmon);
            let chip = ["name", "device/name"].iter().find_map(|file| text(&directory.join(file)).ok()).unwrap_or_default();
            // The number of a hwmon changes from boot to boot, where its device is does not.
            let place = directory.join("device").canonicalize().ok();
            let device = place.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
            let mut files = names(&directory, FILES_MAX).unwrap_or_default();
            if !files.iter().any(|file| file.ends_with("_input")) {
                // Old drivers have their files at the device.
                directory = directory.join("device");
                files = names(&directory, FILES_MAX).unwrap_or_default();
            }
            for (sensor, field, value) in sensors(&directory, &files) {
                let tags = vec![("chip", chip.clone()), ("device", device.clone().unwrap_or_else(|| hwmon.clone())), ("sensor", sensor)];
                found.push(Found { tags, field: field.to_owned(), value });
            }
        }
        Ok(found)
    }
}

/// Label (or number), field and value of each sensor.
fn sensors<'a>(directory: &'a Path, files: &'a [String]) -> impl Iterator<Item = (String, &'static str, Result<f64, Fault>)> + 'a {
    files.iter().filter_map(move |file| {
        let sensor = file.strip_suffix("_input")?;
        let kind = sensor.trim_end_matches(|c: char| c.is_ascii_digit());
        let (_, field, units) = KINDS.iter().find(|(name, ..)| *name == kind)?;
        let beside = |what: &str| directory.join(format!("{sensor}_{what}"));
        let label = text(&beside("label")).ok().filter(|label| !label.is_empty()).unwrap_or_else(|| sensor.to_owned());
        // The chip itself says that its probe is broken.
        let value = match number(&beside("fault")) {
            Ok(fault) if fault != 0.0 => Err(Fault::Missing),
            _ => number(&directory.join(file)).map(|value| value / units),
        };
        Some((label, *field, value))
    })
}
