//! A gateway whose power is cut, whose package is upgraded while results wait, and which is given up in the end.

use std::{
    fs,
    process::{Command, Stdio},
};

use super::{
    configure, install,
    machine::Machine,
    package,
    support::{
        eventually,
        mqtt::Publisher,
        servers::{self, influx_query, influxdb, mosquitto},
    },
};

/// From the machine, this one is 10.0.2.2.
fn config(broker: u16, influx: u16) -> String {
    format!(
        r#"
[agent]
  omit_hostname = true
  flush_interval = "200ms"
[status]
  listen = "127.0.0.1:9273"
[storage]
  commit_interval = "50ms"
[[inputs.mqtt_consumer]]
  servers = ["tcp://10.0.2.2:{broker}"]
  topics = ["numbers"]
  qos = 1
  persistent_session = true
  client_id = "gateway"
  data_format = "influx"
[[windows]]
  name = "second"
  every = "1s"
  aggregates = ["count", "sum"]
  drop_original = false
[[outputs.influxdb]]
  urls = ["http://10.0.2.2:{influx}"]
  database = "plant"
"#
    )
}

/// Numbers published with a time each, a thousandth of a second apart.
struct Numbers {
    publisher: Publisher,
    next: u64,
}

/// 2026-06-01.
const START: u64 = 1_780_272_000_000;

impl Numbers {
    fn publish(&mut self, count: u64) {
        for _ in 0..count {
            let time = (START + self.next) * 1_000_000;
            self.publisher.publish("numbers", format!("reading number={}i {time}", self.next).as_bytes());
            self.next += 1;
        }
        self.publisher.drain();
    }
}

fn stored(influx: &servers::Server) -> Option<(u64, u64)> {
    let rows = influx_query(influx.port, "plant", "select count(number), sum(number) from reading")?;
    let row = rows.first()?;
    Some((row.get(1)?.as_u64()?, row.get(2)?.as_u64()?))
}

fn windowed(influx: &servers::Server) -> Option<(u64, u64)> {
    let rows = influx_query(influx.port, "plant", "select sum(number_count), sum(number_sum) from reading")?;
    let row = rows.first()?;
    Some((row.get(1)?.as_u64()?, row.get(2)?.as_f64()? as u64))
}

#[test]
fn a_reset_and_an_upgrade_lose_nothing_and_a_purge_leaves_nothing() {
    let (here, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let broker = mosquitto(here.path(), "");
    let mut influx = influxdb(here.path());
    let machine = Machine::boot(folder.path(), &[]);
    install(&machine);
    configure(&machine, &config(broker.port, influx.port));
    machine.until("it subscribed", "curl -sf http://127.0.0.1:9273/ready", |_| Some(()));
    let log = here.path().join("mosquitto.log");
    eventually("the session exists", || fs::read_to_string(&log).unwrap().contains("gateway").then_some(()));

    let mut numbers = Numbers { publisher: Publisher::connect(broker.port, "numbers"), next: 0 };
    for _ in 0..3 {
        numbers.publish(2000);
        // In the middle of traffic: what the machine has not synced is gone.
        machine.reset();
        numbers.publish(1000);
        machine.wait_up();
        machine.until("it is back by itself", "systemctl is-active weir", |said| said.contains("active").then_some(()));
    }

    // Results wait on the card while the package is upgraded.
    influx.kill();
    numbers.publish(2000);
    let newer = repackaged(&package(), here.path());
    machine.put("/tmp/weir_newer.deb", &newer);
    let said = machine.run("apt-get install -y --no-install-recommends /tmp/weir_newer.deb");
    assert!(said.contains("0.1.0+1"), "{said}");
    machine.until("the new one runs", "systemctl is-active weir", |said| said.contains("active").then_some(()));
    numbers.publish(1000);
    influx.restart();
    // Closes the last window.
    let wanted = (numbers.next, (0..numbers.next).sum::<u64>());
    numbers.next += 30_000;
    let last = numbers.next;
    numbers.publish(1);
    let wanted_stored = (wanted.0 + 1, wanted.1 + last);
    machine.until("every number is stored once", "true", |_| {
        let (stored, windowed) = (stored(&influx)?, windowed(&influx)?);
        assert!(stored.0 <= wanted_stored.0 && windowed.0 <= wanted_stored.0, "{stored:?} {windowed:?} of {wanted:?}");
        (stored == wanted_stored && windowed == wanted).then_some(())
    });

    let id = machine.run("cat /var/lib/weir/id");
    machine.run("apt-get remove -y weir");
    assert_eq!(machine.try_run("pgrep -x weir").0, 1, "stopped");
    assert_eq!(machine.run("cat /var/lib/weir/id"), id, "removing keeps the state");
    assert!(machine.run("ls /var/lib/weir").contains("checkpoint-"));
    machine.run("apt-get purge -y weir");
    assert_eq!(machine.run("ls -d /var/lib/weir /etc/weir 2>/dev/null; getent passwd weir; true").trim(), "", "purging leaves nothing");
}

/// The same package as a newer version.
fn repackaged(package: &[u8], folder: &std::path::Path) -> Vec<u8> {
    let (old, tree, new) = (folder.join("old.deb"), folder.join("tree"), folder.join("new.deb"));
    fs::write(&old, package).unwrap();
    let dpkg = |arguments: &[&std::ffi::OsStr]| {
        assert!(Command::new("dpkg-deb").args(arguments).stdout(Stdio::null()).status().unwrap().success());
    };
    dpkg(&["-R".as_ref(), old.as_os_str(), tree.as_os_str()]);
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    let version = text.lines().find(|l| l.starts_with("Version: ")).unwrap().to_owned();
    fs::write(&control, text.replace(&version, &format!("{version}+1"))).unwrap();
    dpkg(&["--root-owner-group".as_ref(), "-Zgzip".as_ref(), "-b".as_ref(), tree.as_os_str(), new.as_os_str()]);
    fs::read(new).unwrap()
}
