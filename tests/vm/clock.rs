//! A machine without a clock of its own: it boots in 1970 and learns the time when the network is there.

use std::{
    fs::OpenOptions,
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{configure, install, machine::Machine};

const CONFIG: &str = r#"
[agent]
  omit_hostname = true
[status]
  listen = "127.0.0.1:9273"
[storage]
  commit_interval = "20ms"
[[inputs.serial]]
  port = "/dev/ttyUSB0"
  data_format = "influx"
[[windows]]
  name = "two_seconds"
  every = "2s"
  aggregates = ["count", "sum"]
  lateness = "1s"
  namepass = ["boiler"]
[[alerts]]
  name = "hot"
  namepass = ["boiler"]
  when = "temperature > 80"
[[outputs.file]]
  files = ["/var/lib/weir/out.lp"]
"#;

#[test]
fn a_clock_of_1970_delays_windows_and_not_alerts() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::boot(folder.path(), &["-rtc", "base=1970-01-01T00:00:00"]);
    // systemd moves an older clock to its own date of build; this is the clock of a machine without any.
    // No earlier than the kernel has been running: on a busy host that can be minutes.
    machine.run("date -s '1970-01-01 01:00:00'");
    install(&machine);
    configure(&machine, CONFIG);
    machine.until("it is ready", "curl -sf http://127.0.0.1:9273/ready", |_| Some(()));
    let mut sensor = OpenOptions::new().write(true).open(machine.serial()).unwrap();
    sensor.write_all(b"boiler temperature=91\n").unwrap();
    for _ in 0..20 {
        sensor.write_all(b"boiler temperature=90\n").unwrap();
        std::thread::park_timeout(Duration::from_millis(250));
    }
    // The alert fired while nobody knew the time; no window came out.
    machine.until("the alert is told", "journalctl --no-pager -u weir", |said| said.contains("hot").then_some(()));
    let (_, out) = machine.try_run("grep ^boiler /var/lib/weir/out.lp");
    assert!(!out.contains("count"), "{out}");

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    machine.run(&format!("date -s @{now}"));
    for _ in 0..20 {
        sensor.write_all(b"boiler temperature=75\n").unwrap();
        std::thread::park_timeout(Duration::from_millis(250));
    }
    let counted = |out: &str| -> Vec<(i64, u64)> {
        let windows = out.lines().filter(|l| l.starts_with("boiler"));
        windows
            .map(|l| {
                let count = l.split("temperature_count=").nth(1).unwrap().split('i').next().unwrap().parse().unwrap();
                (l.rsplit(' ').next().unwrap().parse::<i64>().unwrap() / 1_000_000_000, count)
            })
            .collect()
    };
    let windows = machine.until("every reading is in a window", "cat /var/lib/weir/out.lp", |out| {
        sensor.try_clone().unwrap().write_all(b"tick value=1\n").unwrap();
        let windows = counted(out);
        (windows.iter().map(|w| w.1).sum::<u64>() >= 30).then_some(windows)
    });
    for (at, count) in &windows {
        // The readings of 1970 came some seconds before the clock was set, and are in windows of those seconds.
        let age = now as i64 - at;
        assert!((-60..300).contains(&age), "a window at {at}, {age} s before the clock was set: {windows:?}");
        assert!(*count <= 12, "{windows:?}");
    }
    let mut starts: Vec<i64> = windows.iter().map(|w| w.0).collect();
    starts.dedup();
    assert_eq!(starts.len(), windows.len(), "each window once: {windows:?}");
}
