//! Sensors the kernel's own drivers read: 1-Wire thermometers, IIO devices and hwmon chips, below `/sys`.
//!
//! Devices are looked for anew at each interval, so they may come and go. A file that can't be read or makes no sense is a fault of its
//! sensor; the others are read all the same.

#[cfg(feature = "input-hwmon")]
pub mod hwmon;
#[cfg(feature = "input-iio")]
pub mod iio;
#[cfg(feature = "input-w1")]
pub mod w1;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use weir_firmware_shim::fault::Fault;
use weir_plugin_api::plugin::PluginError;

/// Devices of one kind at most: a directory that is not what it should be must not flood the agent.
const DEVICES_MAX: usize = 256;
/// Files of a device at most.
const FILES_MAX: usize = 1024;

/// Names in a directory, sorted, so that points come in one order.
fn names(directory: &Path, max: usize) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    names.truncate(max);
    Ok(names)
}

/// The directory of a bus or class.
struct Directory {
    path: PathBuf,
    /// The log has heard that it lists too many devices.
    told: bool,
}

impl Directory {
    fn new(root: &str, tail: &str) -> Self {
        Self { path: Path::new(root).join(tail), told: false }
    }

    /// The names in it that `is_device` takes, the first of them by name when there are too many.
    fn devices(&mut self, is_device: impl Fn(&str) -> bool) -> Result<Vec<String>, PluginError> {
        let listed = names(&self.path, usize::MAX);
        let mut devices = listed.map_err(|error| PluginError::because(format_args!("listing {}", self.path.display()), &error))?;
        devices.retain(|name| is_device(name));
        if devices.len() > DEVICES_MAX {
            if !std::mem::replace(&mut self.told, true) {
                tracing::warn!(directory = %self.path.display(), listed = devices.len(), read = DEVICES_MAX, "too many devices, the first by name are read");
            }
            devices.truncate(DEVICES_MAX);
        }
        Ok(devices)
    }
}

/// A file's text without the space around it.
fn text(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map(|text| text.trim().to_owned())
}

/// A file's number.
fn number(path: &Path) -> Result<f64, Fault> {
    let text = text(path).map_err(|error| fault(&error))?;
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err(Fault::NotANumber),
    }
}

/// What a failure to read a sensor's file means.
fn fault(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::NotFound => Fault::Missing,
        io::ErrorKind::TimedOut => Fault::NotReady,
        // ENXIO and ENODEV: the driver is there, the device is not.
        _ if matches!(error.raw_os_error(), Some(6 | 19)) => Fault::Missing,
        // ENODATA and EAGAIN: not measured yet.
        _ if matches!(error.raw_os_error(), Some(61 | 11)) => Fault::NotReady,
        _ => Fault::Bus,
    }
}

#[cfg(all(test, feature = "input-w1", feature = "input-iio", feature = "input-hwmon"))]
mod tests;
