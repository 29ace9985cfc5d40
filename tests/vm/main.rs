//! The package on a gateway: installed in an emulated arm64 machine with a GPIO controller and a serial port, used as its owner would
//! use it, and treated as power and time treat such machines.
//!
//! `tests/run vm` makes what these tests need: the machine's image and the packages.

#![allow(clippy::unwrap_used)]

mod clock;
mod hardware;
mod machine;
mod outage;
mod power_fail;
#[path = "../support/mod.rs"]
#[allow(dead_code)]
mod support;

use std::path::{Path, PathBuf};

use machine::Machine;

/// The folder `tests/run vm` fills, beside the profile folders of the build.
fn packages() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_weir")).parent().and_then(Path::parent).expect("the target folder").join("packages")
}

/// The package for the machine, made from an arm64 build of this tree.
fn package() -> Vec<u8> {
    let folder = packages();
    let found = std::fs::read_dir(&folder)
        .ok()
        .and_then(|mut files| files.find_map(|f| f.ok().map(|f| f.path()).filter(|p| p.to_string_lossy().ends_with("_arm64.deb"))));
    let path = found.unwrap_or_else(|| panic!("no arm64 package in {}: run `tests/run vm`", folder.display()));
    std::fs::read(path).expect("the package is read")
}

/// Installs the package and waits until its service runs.
fn install(machine: &Machine) {
    machine.put("/tmp/weir_arm64.deb", &package());
    machine.run("apt-get install -y --no-install-recommends /tmp/weir_arm64.deb");
    machine.until("the service is up", "systemctl is-active weir", |said| said.contains("active").then_some(()));
}

/// Gives the installed service this configuration and starts it anew.
fn configure(machine: &Machine, config: &str) {
    machine.put("/etc/weir/weir.toml", config.as_bytes());
    machine.run("weir check --config /etc/weir/weir.toml");
    machine.run("systemctl restart weir");
}
