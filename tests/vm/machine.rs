//! A gateway as a virtual machine: Debian for arm64 under QEMU, with a GPIO controller, a serial port fed from a pty of this
//! machine, and a port through which the test runs commands in it.

use std::{
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::support::free_port;

/// Longest time anything in the machine may take: it is emulated, and perhaps not alone.
const PATIENCE: Duration = Duration::from_secs(300);

/// A running machine; its disk is thrown away with it.
pub struct Machine {
    qemu: Child,
    folder: PathBuf,
    port: u16,
}

/// The folder of the image, made by `tests/run vm` (or by `tests/vm/image.sh` alone).
fn image() -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vm/image.sh");
    let output = Command::new("bash").arg(script).stderr(Stdio::inherit()).output().expect("bash runs");
    assert!(output.status.success(), "no virtual machine: {script} failed");
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}

/// Waits until `probe` gives something; fails with `what` and the end of the console.
fn eventually<T>(machine: &Machine, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "still not after {PATIENCE:?}: {what}\n{}", machine.console());
        // The condition above is what is awaited; this only keeps the machine free meanwhile.
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

impl Machine {
    /// Boots one with its files in `folder`; `more` are further options of QEMU. Waits until it takes commands.
    pub fn boot(folder: &Path, more: &[&str]) -> Self {
        let image = image();
        let port = free_port();
        let at = |name: &str| folder.join(name).display().to_string();
        let log = fs::File::create(folder.join("qemu.log")).expect("a log file");
        // Counted instructions want one processor.
        let processors: &[&str] =
            if more.contains(&"-icount") { &["-accel", "tcg,thread=single"] } else { &["-smp", "2", "-accel", "tcg,thread=multi"] };
        let qemu = Command::new("qemu-system-aarch64")
            .args(["-M", "virt", "-cpu", "cortex-a53", "-m", "512"])
            .args(processors)
            .args(["-display", "none", "-nodefaults"])
            .arg("-kernel")
            .arg(image.join("vmlinuz"))
            .arg("-initrd")
            .arg(image.join("initrd.img"))
            .args(["-append", "console=ttyAMA0 panic=-1 quiet systemd.mask=serial-getty@ttyAMA0.service"])
            .arg("-drive")
            .arg(format!("if=none,id=root,file={},format=raw,snapshot=on", image.join("root.img").display()))
            .args(["-device", "virtio-blk-pci,drive=root"])
            .args(["-monitor", &format!("unix:{},server=on,wait=off", at("monitor"))])
            .args(["-serial", &format!("file:{}", at("console"))])
            .args([
                "-device",
                "qemu-xhci,id=xhci",
                "-chardev",
                "pty,id=sensor",
                "-device",
                "usb-serial,id=usb0,chardev=sensor,always-plugged=on",
            ])
            .args(["-netdev", &format!("user,id=net,hostfwd=tcp:127.0.0.1:{port}-:2222"), "-device", "virtio-net-pci,netdev=net,romfile="])
            // What the controller's output lines do, seen from the side of the wires.
            .args(["-trace", "enable=pl061_set_output", "-D", &at("gpio")])
            .args(more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("qemu-system-aarch64 runs");
        let machine = Self { qemu, folder: folder.to_owned(), port };
        machine.wait_up();
        machine
    }

    /// Waits until a command runs in it.
    pub fn wait_up(&self) {
        eventually(self, "the machine takes commands", || self.command("true", &[]).filter(|(code, _)| *code == 0));
    }

    /// What it wrote on its console, and QEMU's own words.
    pub fn console(&self) -> String {
        ["qemu.log", "console"]
            .map(|name| String::from_utf8_lossy(&fs::read(self.folder.join(name)).unwrap_or_default()).into_owned())
            .join("\n")
    }

    /// What the service said last, and systemd of it.
    fn journal(&self) -> String {
        self.command("journalctl --no-pager -n 40 -u weir", &[]).map_or_else(String::new, |(_, journal)| journal)
    }

    fn command(&self, command: &str, input: &[u8]) -> Option<(i32, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        stream.write_all(format!("{}\n", command.replace('\n', "; ")).as_bytes()).ok()?;
        stream.write_all(input).ok()?;
        stream.shutdown(Shutdown::Write).ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (output, code) = answer.trim_end().rsplit_once("exit=")?;
        Some((code.parse().ok()?, output.to_owned()))
    }

    /// Runs a shell command as root: its exit code and all it printed.
    pub fn try_run(&self, command: &str) -> (i32, String) {
        eventually(self, "the machine takes a command", || self.command(command, &[]))
    }

    /// The same; fails unless the command succeeds.
    pub fn run(&self, command: &str) -> String {
        let (code, output) = self.try_run(command);
        assert_eq!(code, 0, "{command}: {output}\n{}{}", self.journal(), self.console());
        output
    }

    /// Writes a file in it.
    pub fn put(&self, path: &str, content: &[u8]) {
        let (code, output) = eventually(self, "a file is written", || self.command(&format!("cat > {path}"), content));
        assert_eq!(code, 0, "{path}: {output}");
    }

    /// Runs a command in it until it succeeds and `wanted` finds what it looks for in what was printed.
    pub fn until<T>(&self, what: &str, command: &str, wanted: impl FnMut(&str) -> Option<T>) -> T {
        self.within(PATIENCE, command, wanted)
            .unwrap_or_else(|last| panic!("still not after {PATIENCE:?}: {what}\nlast: {last}\n{}{}", self.journal(), self.console()))
    }

    /// The same, for what need not come: what was printed last if it did not.
    pub fn within<T>(&self, patience: Duration, command: &str, mut wanted: impl FnMut(&str) -> Option<T>) -> Result<T, String> {
        let mut last = String::new();
        let start = Instant::now();
        loop {
            if let Some((code, output)) = self.command(command, &[]) {
                if code == 0
                    && let Some(found) = wanted(&output)
                {
                    return Ok(found);
                }
                last = output;
            }
            if start.elapsed() > patience {
                return Err(last);
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
    }

    /// A command for the hypervisor's monitor.
    pub fn monitor(&self, command: &str) {
        let mut stream = UnixStream::connect(self.folder.join("monitor")).expect("the monitor listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("an option");
        let prompt = |stream: &mut UnixStream| {
            let mut read = Vec::new();
            let mut byte = [0];
            while !read.ends_with(b"(qemu) ") && stream.read(&mut byte).expect("the monitor answers") == 1 {
                read.push(byte[0]);
            }
        };
        prompt(&mut stream);
        stream.write_all(format!("{command}\n").as_bytes()).expect("the monitor reads");
        prompt(&mut stream);
    }

    /// A press on the one line that can be driven (line 3): a rising edge and, 100 ms later, a falling one.
    pub fn press(&self) {
        self.monitor("system_powerdown");
    }

    /// The reset button: nothing is written back, no process is told.
    pub fn reset(&self) {
        self.monitor("system_reset");
    }

    /// The pty whose other end is the machine's USB serial adapter.
    pub fn serial(&self) -> PathBuf {
        let said = fs::read_to_string(self.folder.join("qemu.log")).expect("QEMU's words");
        let path = said.lines().find_map(|l| l.strip_prefix("char device redirected to ")?.strip_suffix(" (label sensor)"));
        PathBuf::from(path.expect("QEMU names the pty"))
    }

    /// The levels an output line was driven to so far, oldest first.
    pub fn driven(&self, line: u32) -> Vec<u8> {
        let trace = fs::read_to_string(self.folder.join("gpio")).unwrap_or_default();
        let wanted = format!(" {line} to ");
        trace.lines().filter_map(|l| l.split_once(&wanted)?.1.trim().parse().ok()).collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}
