//! The systemd unit, looked at by systemd itself without being run: whether all of it is understood, and how exposed the service is.

use std::{path::Path, process::Command};

/// Tenths of a point on a scale that ends at 100, as systemd 252 counts. What is left is the network, devices, and groups that own them.
const EXPOSURE_MAX: &str = "15";

/// Runs `systemd-analyze` on the unit, with the built executable in the place of the installed one.
fn analyze(arguments: &[&str], unit: &str) -> (bool, String) {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("weir.service");
    std::fs::write(&path, unit.replace("ExecStart=/usr/bin/weir", concat!("ExecStart=", env!("CARGO_BIN_EXE_weir")))).expect("a file");
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .arg(&path)
        .env("SYSTEMD_COLORS", "0")
        .env("SYSTEMD_PAGER", "")
        .output()
        .expect("systemd-analyze is there: tests/setup.sh installs it");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn unit() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/systemd/weir.service");
    std::fs::read_to_string(path).expect("the unit")
}

/// What it says about this unit; the ones of the machine are its own matter.
fn verify(unit: &str) -> Vec<String> {
    let (_, said) = analyze(&["verify", "--man=no"], unit);
    said.lines().filter(|line| line.contains("weir.service")).map(str::to_owned).collect()
}

#[test]
fn systemd_understands_every_line_of_the_unit() {
    assert_eq!(verify(&unit()), Vec::<String>::new());
    let misspelt = verify(&unit().replace("ProtectHome=", "ProtectHoem="));
    assert!(misspelt.iter().any(|line| line.contains("ProtectHoem")), "{misspelt:?}");
}

#[test]
fn the_sandbox_keeps_the_service_as_little_exposed_as_it_is() {
    let exposure = |unit: &str| analyze(&["security", "--offline=true", "--threshold", EXPOSURE_MAX], unit);
    let (is_below, said) = exposure(&unit());
    assert!(is_below, "{said}");
    let (is_below, said) = exposure(&unit().replace("ProtectHome=yes\n", ""));
    assert!(!is_below, "a sandbox with a hole: {said}");
}
