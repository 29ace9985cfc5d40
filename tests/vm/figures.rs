//! What a small machine spends: instructions per message, memory, start. `cargo bench -p weir --bench gateway`.
//!
//! The machine's clock advances by one nanosecond per instruction (QEMU's `-icount shift=0`), so the time the kernel's scheduler books
//! for a process, kernel side included, is the number of instructions it took: the same on every host, however busy. It says nothing of
//! caches and memory, which is why the README names what it assumes about a real processor.
//!
//! Needs what `tests/run packages` makes. The package there is not linked across crates as a release is; put the release's package
//! in its place (`tests/run cross aarch64-unknown-linux-gnu`) for its figures: `WEIR_PACKAGE=path` names one.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
mod machine;
#[path = "../support/mod.rs"]
#[allow(dead_code)]
mod support;

use std::path::{Path, PathBuf};

use machine::Machine;
use support::{
    mqtt::Publisher,
    servers::{Server, mosquitto},
};

const WARM_UP: u64 = 2_000;
const MESSAGES: u64 = 20_000;

fn package() -> PathBuf {
    if let Some(path) = std::env::var_os("WEIR_PACKAGE") {
        return path.into();
    }
    let folder = Path::new(env!("CARGO_BIN_EXE_weir")).parent().and_then(Path::parent).unwrap().join("packages");
    let mut files = std::fs::read_dir(folder).expect("run `tests/run packages`");
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
[[windows]]
  name = "ten_seconds"
  every = "10s"
  aggregates = ["mean", "min", "max", "count"]
[[outputs.file]]
  files = ["/var/lib/weir/out.lp"]
"#
    )
}

/// Nanoseconds on a processor of all threads that live, which are instructions here.
fn spent(machine: &Machine) -> u64 {
    let said = machine.run("cat /proc/$(pidof weir)/task/*/schedstat");
    said.lines().filter_map(|l| l.split(' ').next()?.parse::<u64>().ok()).sum()
}

fn publish(machine: &Machine, publisher: &mut Publisher, from: u64, count: u64) {
    for n in from..from + count {
        publisher
            .publish("numbers", format!(r#"{{"temperature":{}.5,"humidity":{},"pressure":1013.25}}"#, 20 + n % 5, 40 + n % 20).as_bytes());
    }
    publisher.drain();
    let wanted = from + count;
    machine.until("all is recorded", "curl -sf http://127.0.0.1:9273/status", |said| {
        let status: serde_json::Value = serde_json::from_str(said).ok()?;
        (recorded(&status)? >= wanted).then_some(())
    });
}

/// Points, one of each message.
fn recorded(status: &serde_json::Value) -> Option<u64> {
    status["inputs"].as_array()?.iter().find(|i| i["name"].as_str().is_some_and(|n| n.contains("mqtt")))?["recorded"].as_u64()
}

fn main() {
    let (here, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker: Server = mosquitto(here.path(), "");
    let machine = Machine::boot(folder.path(), &["-icount", "shift=0,sleep=on"]);
    let package = package();
    println!("package {}", package.display());
    machine.put("/tmp/weir_arm64.deb", &std::fs::read(package).unwrap());
    machine.run("apt-get install -y --no-install-recommends /tmp/weir_arm64.deb");
    machine.put("/etc/weir/weir.toml", config(broker.port).as_bytes());
    machine.run("systemctl restart weir");
    machine.until("it is ready", "curl -sf http://127.0.0.1:9273/ready", |_| Some(()));
    println!("start to ready: {:.1} million instructions", spent(&machine) as f64 / 1e6);
    let memory = || machine.run("grep VmRSS /proc/$(pidof weir)/status").trim().to_owned();
    println!("after the start: {}", memory());

    let mut publisher = Publisher::connect(broker.port, "numbers");
    publish(&machine, &mut publisher, 0, WARM_UP);
    let before = spent(&machine);
    publish(&machine, &mut publisher, WARM_UP, MESSAGES);
    let each = (spent(&machine) - before) as f64 / MESSAGES as f64;
    println!("MQTT QoS 1, JSON of three numbers, window, journal: {each:.0} instructions per message");
    println!("after {} messages: {}", WARM_UP + MESSAGES, memory());
}
