//! What a small machine spends: instructions per message and per serial frame, memory, start. `cargo bench -p weir --bench gateway`.
//!
//! The machine's clock advances by one nanosecond per instruction (QEMU's `-icount shift=0`), so the time the kernel's scheduler books
//! for a service, kernel side included, is the number of instructions it took, however busy the host is. It says nothing of caches and
//! memory, which is why the README names what it assumes about a real processor.
//!
//! It measures what the arm64 package holds: `tests/run vm` makes one, which is not linked across crates as a release is;
//! `WEIR_PACKAGE=path` names another, such as that of `tests/run cross aarch64-unknown-linux-gnu`. As nothing built for this machine is
//! measured, `cargo test -p weir --bench gateway` prints the same and builds in less time.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod machine;
#[path = "../support/mod.rs"]
#[allow(dead_code)]
mod support;

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use machine::Machine;
use rustix::{
    fs::{OFlags, fcntl_setfl},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};
use support::{
    mqtt::Publisher,
    servers::{Server, mosquitto},
};
use weir_firmware_shim::{
    frame::{Field, FieldKind, Value, WIRE_MAX},
    link::{Device, Schema, Start},
    retain::Retain,
};

const WARM_UP: u64 = 2_000;
const MESSAGES: u64 = 20_000;
/// Messages that come at once, the machine at rest in between, and how often.
const TOGETHER: u64 = 20;
const BURSTS: u64 = 100;
/// Messages and frames that come one by one, the machine at rest in between.
const CALM: u64 = 300;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(50);
/// Readings that are sent as fast as the line takes them.
const FRAMES: u64 = 5_000;
/// A process that took less than this within [`LOOK`] is at rest.
const REST: u64 = 100_000;
const LOOK: Duration = Duration::from_secs(2);

fn package() -> PathBuf {
    if let Some(path) = std::env::var_os("WEIR_PACKAGE") {
        return path.into();
    }
    let folder = Path::new(env!("CARGO_BIN_EXE_weir")).parent().and_then(Path::parent).unwrap().join("packages");
    let mut files = std::fs::read_dir(folder).expect("run `tests/run vm`");
    files.find_map(|f| f.ok().map(|f| f.path()).filter(|p| p.to_string_lossy().ends_with("_arm64.deb"))).expect("an arm64 package")
}

fn config(broker: u16) -> String {
    format!(
        r#"
[agent]
  omit_hostname = true
[status]
  listen = "127.0.0.1:9273"
[[inputs.mqtt_consumer]]
  servers = ["tcp://10.0.2.2:{broker}"]
  topics = ["numbers"]
  qos = 1
  persistent_session = true
  client_id = "gateway"
  data_format = "json"
[[inputs.serial]]
  port = "/dev/ttyUSB0"
  data_format = "frame"
[[windows]]
  name = "ten_seconds"
  every = "10s"
  aggregates = ["mean", "min", "max", "count"]
[[outputs.file]]
  files = ["/var/lib/weir/out.lp"]
"#
    )
}

/// Nanoseconds a service had a processor since it was started, those of threads that ended included: instructions here.
fn spent_by(machine: &Machine, unit: &str) -> u64 {
    let said = machine.run(&format!("cat /sys/fs/cgroup/system.slice/{unit}.service/cpu.stat"));
    let usec = said.lines().find_map(|l| l.strip_prefix("usage_usec ")).expect("the kernel's account");
    usec.trim().parse::<u64>().unwrap() * 1000
}

fn spent(machine: &Machine) -> u64 {
    spent_by(machine, "weir")
}

/// Starts it without a sandbox, which systemd makes in the service's own time.
fn start(machine: &Machine) {
    machine.run("systemctl stop weir");
    machine.run("systemd-run --quiet --unit=bare -p Type=notify weir run --config /etc/weir/weir.toml --directory /tmp/bare");
    println!("start to ready: {:.1} million instructions", spent_by(machine, "bare") as f64 / 1e6);
    machine.run("systemctl stop bare");
}

/// The same once the process is at rest: nothing is asked of it meanwhile.
fn spent_at_rest(machine: &Machine) -> u64 {
    let start = Instant::now();
    let mut before = spent(machine);
    loop {
        std::thread::park_timeout(LOOK);
        let now = spent(machine);
        if now - before < REST {
            return now;
        }
        assert!(start.elapsed() < Duration::from_secs(900), "it does not come to rest");
        before = now;
    }
}

/// What an input has recorded, points.
fn recorded(machine: &Machine, input: &str) -> u64 {
    let said = machine.run("curl -sf http://127.0.0.1:9273/status");
    let status: serde_json::Value = serde_json::from_str(&said).unwrap();
    let inputs = status["inputs"].as_array().unwrap();
    let found = inputs.iter().find(|i| i["name"].as_str().is_some_and(|n| n.contains(input))).expect("the input");
    found["recorded"].as_u64().unwrap()
}

/// Says what `work` took, divided by how many there were; the input must have recorded `points`.
fn measured(machine: &Machine, what: &str, (input, points): (&str, u64), count: u64, work: impl FnOnce()) {
    // What came before is taken, and asking for that is over.
    spent_at_rest(machine);
    let had = recorded(machine, input);
    let before = spent_at_rest(machine);
    work();
    let each = (spent_at_rest(machine) - before) as f64 / count as f64;
    assert_eq!(recorded(machine, input) - had, points, "{what}");
    println!("{what}: {each:.0} instructions each");
}

fn publish(publisher: &mut Publisher, n: u64) {
    let payload = format!(r#"{{"temperature":{}.5,"humidity":{},"pressure":1013.25}}"#, 20 + n % 5, 40 + n % 20);
    publisher.publish("numbers", payload.as_bytes());
}

fn mqtt(machine: &Machine, broker: u16) {
    let mut publisher = Publisher::connect(broker, "numbers");
    (0..WARM_UP).for_each(|n| publish(&mut publisher, n));
    publisher.drain();
    // All of them wait for the machine, so that how busy this one is changes nothing.
    measured(machine, "MQTT QoS 1, JSON of three numbers, a backlog", ("mqtt", MESSAGES), MESSAGES, || {
        machine.run("systemctl kill -s STOP weir");
        (0..MESSAGES).for_each(|n| publish(&mut publisher, n));
        publisher.drain();
        machine.run("systemctl kill -s CONT weir");
    });
    measured(machine, "the same, twenty at a time", ("mqtt", TOGETHER * BURSTS), TOGETHER * BURSTS, || {
        for _ in 0..BURSTS {
            (0..TOGETHER).for_each(|n| publish(&mut publisher, n));
            publisher.drain();
            std::thread::park_timeout(PAUSE);
        }
    });
    measured(machine, "the same, one at a time", ("mqtt", CALM), CALM, || {
        for n in 0..CALM {
            publish(&mut publisher, n);
            publisher.drain();
            std::thread::park_timeout(PAUSE);
        }
    });
}

/// A microcontroller on the serial line, running the shim's own code.
struct Board<'s> {
    line: File,
    device: Device<'s, 64, 3>,
    start: Instant,
    frames: u64,
}

impl Board<'_> {
    /// Sends what is due and takes what came.
    fn turn(&mut self) {
        let now = u64::try_from(self.start.elapsed().as_micros()).unwrap();
        let (mut frame, mut bytes) = ([0; WIRE_MAX], [0; 512]);
        loop {
            let length = self.device.poll(now, &mut frame);
            if length == 0 {
                break;
            }
            let mut rest = &frame[..length];
            while !rest.is_empty() {
                // A full line takes the rest later.
                rest = self.line.write(rest).map_or(rest, |written| &rest[written..]);
            }
            self.frames += 1;
        }
        while let Ok(read @ 1..) = self.line.read(&mut bytes) {
            bytes[..read].iter().for_each(|byte| self.device.receive(*byte, now));
        }
    }

    /// Takes a reading and sends until all but `waiting` are acknowledged.
    fn push(&mut self, n: u64, waiting: u64) {
        let now = u64::try_from(self.start.elapsed().as_micros()).unwrap();
        let values = [200 + n as i64 % 50, 4_000 + n as i64 % 70, 101_325].map(|v| Some(Value::Scaled(v)));
        self.device.push(now, &values).unwrap();
        let began = Instant::now();
        loop {
            self.turn();
            if self.device.waiting() <= waiting {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(300), "no acknowledgement");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

fn serial(machine: &Machine) {
    let line = OpenOptions::new().read(true).write(true).open(machine.serial()).unwrap();
    let mut settings = tcgetattr(&line).unwrap();
    settings.make_raw();
    tcsetattr(&line, OptionalActions::Now, &settings).unwrap();
    fcntl_setfl(&line, OFlags::NONBLOCK).unwrap();
    let fields = ["temperature", "humidity", "pressure"].map(|name| Field { name, kind: FieldKind::Scaled(-2) });
    let mut retain = Retain::<64, 3>::new();
    let device = Device::new(Schema { device: "station", measurement: "climate", fields: &fields }, Start::Seed(7), &mut retain).unwrap();
    let mut board = Board { line, device, start: Instant::now(), frames: 0 };
    (0..50).for_each(|n| board.push(n, 0));
    measured(machine, "serial frame of one reading of three numbers, acknowledged, one at a time", ("serial", CALM), CALM, || {
        for n in 0..CALM {
            board.push(n, 0);
            std::thread::park_timeout(PAUSE);
        }
    });
    let before = board.frames;
    // Up to 48 on their way: each is sent at once, so a frame holds one still, but a commit and an acknowledgement many.
    measured(machine, "the same, as fast as the line takes them", ("serial", FRAMES), FRAMES, || {
        (0..FRAMES).for_each(|n| board.push(n, if n + 1 == FRAMES { 0 } else { 48 }));
    });
    println!("{} frames for {FRAMES} readings, what was sent again and questions for the time included", board.frames - before);
}

fn main() {
    let (here, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker: Server = mosquitto(here.path(), "max_inflight_messages 0\nautosave_on_changes false");
    let machine = Machine::boot(folder.path(), &["-icount", "shift=0,sleep=on"]);
    let package = package();
    println!("package {}", package.display());
    machine.put("/tmp/weir_arm64.deb", &std::fs::read(package).unwrap());
    machine.run("apt-get install -y --no-install-recommends /tmp/weir_arm64.deb");
    machine.put("/etc/weir/weir.toml", config(broker.port).as_bytes());
    start(&machine);
    // It is stopped for a while later on.
    machine.run("mkdir -p /etc/systemd/system/weir.service.d");
    machine.put("/etc/systemd/system/weir.service.d/patient.conf", b"[Service]\nWatchdogSec=0\n");
    machine.run("systemctl daemon-reload");
    // Returns when the service has said that it is ready.
    machine.run("systemctl start weir");
    println!("the same with the unit's sandbox: {:.1} million instructions", spent(&machine) as f64 / 1e6);
    let memory = || machine.run("grep -E 'VmRSS|RssAnon' /proc/$(pgrep -x weir)/status").split_whitespace().collect::<Vec<_>>().join(" ");
    machine.until("it subscribed", "curl -sf http://127.0.0.1:9273/ready", |_| Some(()));
    println!("after the start: {}", memory());
    let before = spent_at_rest(&machine);
    std::thread::park_timeout(Duration::from_secs(10));
    println!("idle: {:.0} instructions a second", (spent(&machine) - before) as f64 / 10.0);
    mqtt(&machine, broker.port);
    serial(&machine);
    println!("in the end: {}", memory());
}
