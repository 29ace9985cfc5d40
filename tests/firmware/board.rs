//! The board in QEMU: the image is built, started, reset and frozen.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::support::eventually;

/// A running board; ended when dropped.
pub struct Board {
    qemu: Child,
    monitor: UnixStream,
    serial: PathBuf,
}

/// Builds the image, which takes no time when it is built.
fn image() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/firmware/build.sh");
    let output = Command::new(script).arg("image").output().expect("the script runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "the image is built: {text}{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(text.lines().last().expect("its path"))
}

impl Board {
    /// Starts the image.
    pub fn start(directory: &Path) -> Self {
        let socket = directory.join("monitor.sock");
        let mut qemu = Command::new("qemu-system-arm")
            .args(["-M", "lm3s6965evb", "-display", "none", "-serial", "pty", "-monitor"])
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .arg("-kernel")
            .arg(image())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("qemu-system-arm runs: tests/setup.sh installs it");
        // char device redirected to /dev/pts/3 (label serial0)
        let said = BufReader::new(qemu.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let serial = said.into_iter().find_map(|line| line.split(' ').find(|word| word.starts_with("/dev/pts/")).map(PathBuf::from));
        let monitor = eventually("the monitor listens", || UnixStream::connect(&socket).ok());
        Self { qemu, monitor, serial: serial.expect("QEMU names the line") }
    }

    /// The near end of its serial line.
    pub fn serial(&self) -> &Path {
        &self.serial
    }

    /// Presses the reset button: the processor starts anew, the RAM keeps what it held.
    pub fn reset(&mut self) {
        self.say("system_reset");
    }

    /// Stops the processor for good, and waits until it stands.
    pub fn freeze(&mut self) {
        self.say("stop");
        self.say("info status");
        let mut said = Vec::new();
        let mut byte = [0];
        while !said.ends_with(b"paused") {
            assert_eq!(self.monitor.read(&mut byte).expect("the monitor answers"), 1, "{}", String::from_utf8_lossy(&said));
            said.push(byte[0]);
        }
    }

    fn say(&mut self, command: &str) {
        self.monitor.write_all(format!("{command}\n").as_bytes()).expect("the monitor reads");
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
