//! The agent under measurement: what the kernel counts for its process.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    ops::{AddAssign, SubAssign},
    os::unix::net::{UnixDatagram, UnixStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::support::eventually;

/// Clock ticks per second of `/proc/<pid>/stat`, which is 100 on every Linux this runs on.
const TICKS: f64 = 100.0;

/// The binary: `WEIR_BINARY`, or the one built with the benchmarks.
pub fn binary() -> PathBuf {
    std::env::var_os("WEIR_BINARY").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_weir")), PathBuf::from)
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU seconds of its own code.
    pub user: f64,
    /// CPU seconds the kernel spent for it.
    pub system: f64,
    /// Bytes it made the kernel write to disks, in whole pages of its cache.
    pub written: u64,
}

impl Usage {
    /// CPU seconds, user and system.
    pub fn cpu(&self) -> f64 {
        self.user + self.system
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, more: Self) {
        *self = Self { user: self.user + more.user, system: self.system + more.system, written: self.written + more.written };
    }
}

impl SubAssign for Usage {
    fn sub_assign(&mut self, less: Self) {
        *self = Self { user: self.user - less.user, system: self.system - less.system, written: self.written - less.written };
    }
}

/// CPU seconds of this thread, user and system.
pub fn own_cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// A running agent.
pub struct Watched {
    child: Child,
    directory: PathBuf,
    started: Instant,
    notify: UnixDatagram,
}

impl Watched {
    /// Starts `weir run --config weir.toml` in `directory`.
    pub fn start(directory: &Path, arguments: &[&str]) -> Self {
        let socket = directory.join("notify.sock");
        let _ = fs::remove_file(&socket);
        let notify = UnixDatagram::bind(&socket).expect("a notification socket");
        notify.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let log = fs::File::create(directory.join("log")).expect("a log");
        let started = Instant::now();
        let child = Command::new(binary())
            .args(["run", "--config", "weir.toml"])
            .args(arguments)
            .env("NOTIFY_SOCKET", &socket)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the agent starts");
        Self { child, directory: directory.to_owned(), started, notify }
    }

    /// Waits for `READY=1` and says how long it took.
    pub fn time_to_ready(&self) -> Duration {
        let mut buffer = [0; 256];
        loop {
            let read = self.notify.recv(&mut buffer).expect("it says that it is ready");
            if buffer[..read].starts_with(b"READY=1") {
                return self.started.elapsed();
            }
        }
    }

    /// Waits until it is ready.
    pub fn wait_ready(&self) {
        self.time_to_ready();
    }

    /// Waits until something listens on `port`.
    pub fn wait_listening(&self, port: u16) {
        eventually("the agent listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    }

    fn stat(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).unwrap_or_default()
    }

    /// CPU seconds so far, user and system.
    pub fn cpu(&self) -> f64 {
        self.usage().cpu()
    }

    /// What it has used so far.
    pub fn usage(&self) -> Usage {
        let stat = self.stat("stat");
        // The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
        let rest: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        let seconds = |field: usize| rest.get(field).and_then(|t| t.parse::<f64>().ok()).unwrap_or(0.0) / TICKS;
        let io = self.stat("io");
        let written = io.lines().find_map(|l| l.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0);
        Usage { user: seconds(11), system: seconds(12), written }
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Stops it in order.
    pub fn terminate(&mut self) {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        self.child.wait().expect("it ends");
    }

    fn status_kb(&self, key: &str) -> f64 {
        let status = self.stat("status");
        let line = status.lines().find(|l| l.starts_with(key)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|v| v.parse().ok()).unwrap_or(0.0)
    }

    /// Resident megabytes now.
    pub fn memory(&self) -> f64 {
        self.status_kb("VmRSS") * 1024.0 / 1e6
    }

    /// Most resident megabytes so far.
    pub fn peak_memory(&self) -> f64 {
        self.status_kb("VmHWM") * 1024.0 / 1e6
    }

    /// Context switches of all its threads so far.
    pub fn context_switches(&self) -> u64 {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.child.id())) else { return 0 };
        tasks
            .flatten()
            .filter_map(|task| fs::read_to_string(task.path().join("status")).ok())
            .flat_map(|status| {
                status
                    .lines()
                    .filter(|l| l.contains("ctxt_switches"))
                    .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
                    .collect::<Vec<_>>()
            })
            .sum()
    }

    fn metrics(&self) -> String {
        let Ok(mut stream) = UnixStream::connect(self.directory.join("control.sock")) else { return String::new() };
        let mut answer = String::new();
        if write!(stream, "GET /metrics HTTP/1.1\r\nhost: weir\r\nconnection: close\r\n\r\n").is_ok() {
            let _ = stream.read_to_string(&mut answer);
        }
        answer
    }

    fn metric(&self, name: &str) -> u64 {
        let text = self.metrics();
        let values = text.lines().filter(|l| l.starts_with(name)).filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok());
        values.sum::<f64>() as u64
    }

    /// Points recorded in the journal.
    pub fn recorded(&self) -> u64 {
        self.metric("weir_input_recorded_total")
    }

    /// Syncs of the store so far.
    pub fn syncs(&self) -> u64 {
        self.metric("weir_store_fsyncs_total")
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.terminate();
        }
    }
}
