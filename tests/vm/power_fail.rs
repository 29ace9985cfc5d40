//! A line that tells of the end of the power, in a machine whose power does end.

use std::{fs::OpenOptions, io::Write};

use super::{configure, install, machine::Machine};

/// Left alone, a reading waits a minute for company before it is on the disk.
const CONFIG: &str = r#"
[agent]
  omit_hostname = true
[status]
  listen = "127.0.0.1:9273"
[storage]
  commit_interval = "60s"
  power_fail = { chip = "gpiochip0", line = 3, active = "high" }
[[inputs.serial]]
  port = "/dev/ttyUSB0"
  data_format = "influx"
[[outputs.file]]
  files = ["/var/lib/weir/out.lp"]
"#;

#[test]
fn what_came_before_the_power_fail_line_rose_is_safe_and_what_came_after_may_not_be() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::boot(folder.path(), &[]);
    install(&machine);
    configure(&machine, CONFIG);
    machine.until("the line is watched", "gpioinfo gpiochip0", |said| {
        said.lines().any(|l| l.contains("line   3:") && !l.contains("unused")).then_some(())
    });
    machine.until("it is ready", "curl -sf http://127.0.0.1:9273/ready", |_| Some(()));
    let mut sensor = OpenOptions::new().write(true).open(machine.serial()).unwrap();
    let mut write = |n: u64| {
        sensor.write_all(format!("meter reading={n}i\n").as_bytes()).unwrap();
        machine.until("the reading is recorded", "curl -sf http://127.0.0.1:9273/status", |said| {
            let status: serde_json::Value = serde_json::from_str(said).ok()?;
            let inputs = status["inputs"].as_array()?;
            let recorded = inputs.iter().find(|i| i["name"].as_str().is_some_and(|n| n.contains("serial")))?["recorded"].as_u64()?;
            (recorded >= n).then_some(())
        });
    };
    for n in 1..=5 {
        write(n);
    }
    assert_eq!(machine.try_run("grep -c reading /var/lib/weir/out.lp").1.trim().parse().unwrap_or(0), 0, "they wait for company");
    machine.press();
    let said = machine.until("it is told", "journalctl --no-pager -u weir", |said| {
        said.lines().find(|l| l.contains("committed and checkpointed") && l.contains("power_fail")).map(str::to_owned)
    });
    println!("{said}");
    write(6);
    machine.reset();
    machine.wait_up();
    let read =
        |out: &str| -> Vec<u64> { out.lines().filter_map(|l| l.split("reading=").nth(1)?.split('i').next()?.parse().ok()).collect() };
    let read = machine.until("the readings are there", "cat /var/lib/weir/out.lp", |out| {
        let read = read(out);
        (read.len() >= 5).then_some(read)
    });
    assert_eq!(read, [1, 2, 3, 4, 5], "the sixth waited for company when the power went");
}
