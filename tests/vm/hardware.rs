//! The service, its sandbox, GPIO lines, a serial port and a core that hangs: all in one machine, as each boot takes its time.

use std::{fs::OpenOptions, io::Write, time::Duration};

use super::{configure, machine::Machine, package};

/// A line that follows the alert (5), and edges of the line the hypervisor drives (3), with this debounce.
fn config(debounce: &str) -> String {
    format!(
        r#"
[agent]
  interval = "1s"
  omit_hostname = true

[status]
  listen = "127.0.0.1:9273"

[storage]
  commit_interval = "20ms"

[[inputs.gpio]]
  chip = "/dev/weir-gpio"
  publish_every = "1s"
  [[inputs.gpio.line]]
    offset = 3
    name = "contact"
    mode = "edge"
    edge = "both"
    debounce = "{debounce}"
  [[inputs.gpio.line]]
    offset = 2
    name = "rest"

# There are no such buses.
[[inputs.i2c]]
  bus = "/dev/i2c-1"
  [[inputs.i2c.sensor]]
    driver = "bme280"
[[inputs.spi]]
  device = "/dev/spidev0.0"
  driver = "bme280"

[[inputs.serial]]
  port = "/dev/ttyUSB0"
  data_format = "influx"

[[alerts]]
  name = "hot"
  namepass = ["boiler"]
  when = "temperature > 80"
  clear = "temperature < 70"
  actions = ["siren"]

[[actions.gpio]]
  alias = "siren"
  chip = "/dev/weir-gpio"
  line = 5

[[outputs.file]]
  files = ["/var/lib/weir/out.lp"]
"#
    )
}

fn edges(out: &str) -> usize {
    out.lines().filter(|l| l.contains("name=contact") && l.contains("edge=")).count()
}

#[test]
fn the_installed_service_reads_and_drives_real_lines() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Machine::boot(folder.path(), &[]);
    install_beside_a_quick_udev(&machine);

    // What the package says it does.
    let groups = machine.run("id -nG weir");
    for group in ["weir", "dialout", "gpio", "i2c", "spi"] {
        assert!(groups.split_whitespace().any(|g| g == group), "{groups}");
    }
    assert_eq!(machine.run("stat -c '%U %a' /var/lib/weir").trim(), "weir 700");
    assert_eq!(machine.run("ps -o user= -C weir").trim(), "weir");
    let security = machine.run("systemd-analyze security weir --no-pager | tail -1");
    let score: f64 = security.split("weir.service: ").nth(1).and_then(|s| s.split(' ').next()).unwrap().parse().unwrap();
    println!("systemd-analyze security: {score}");
    assert!(score <= 1.5, "{security}");
    println!("resident after installing: {}", machine.run("grep VmRSS /proc/$(pgrep -x weir)/status").trim());

    reads_levels_and_edges(&machine);
    follows_an_alert(&machine);
    tells_of_a_line_that_is_taken(&machine);
    uses_a_chip_that_was_away(&machine);
    survives_an_adapter_that_is_pulled(&machine);
    is_restarted_when_its_core_hangs(&machine);
}

/// udev reads rules again when there are new ones and a device tells of itself: that can be before the package is configured, when the
/// groups that the rules name are not there, and udev then leaves them out.
fn install_beside_a_quick_udev(machine: &Machine) {
    machine.put("/tmp/weir_arm64.deb", &package());
    machine.run("dpkg --unpack /tmp/weir_arm64.deb");
    assert_ne!(machine.try_run("getent group gpio").0, 0, "the group comes with the package");
    machine.run("udevadm control --reload && udevadm trigger --settle --subsystem-match=gpio");
    machine.until("udev has read the rules", "journalctl --no-pager -u systemd-udevd", |said| {
        said.contains("Unknown group 'gpio'").then_some(())
    });
    machine.run("dpkg --configure weir");
    machine.until("the chip is the group's", "stat -c '%G %a' /dev/gpiochip0", |said| (said.trim() == "gpio 660").then_some(()));
    machine.until("the service is up", "systemctl is-active weir", |said| said.contains("active").then_some(()));
}

/// This kernel gives a chip that was away another number if its lines were held meanwhile.
const STEADY_NAME: &str = r#"SUBSYSTEM=="gpio", KERNEL=="gpiochip[0-9]*", KERNELS=="*.pl061", SYMLINK+="weir-gpio""#;

fn reads_levels_and_edges(machine: &Machine) {
    machine.put("/etc/udev/rules.d/70-steady.rules", STEADY_NAME.as_bytes());
    machine.run("udevadm control --reload && udevadm trigger --settle --subsystem-match=gpio && test -e /dev/weir-gpio");
    configure(machine, &config("20ms"));
    machine.until("the level is read", "cat /var/lib/weir/out.lp", |out| out.contains("name=rest").then_some(()));
    for (input, device) in [("i2c", "/dev/i2c-1"), ("spi", "/dev/spidev0.0")] {
        machine.until("the missing bus is named", "journalctl --no-pager -u weir", |said| {
            said.lines().any(|l| l.contains(input) && l.contains(device) && l.contains("No such file")).then_some(())
        });
    }
    for presses in 1..=3 {
        // A machine that its host forgets for 100 ms looks at the line when the pulse is over: then there was none.
        let is_seen = (0..10).any(|_| {
            machine.press();
            machine.within(Duration::from_secs(15), "cat /var/lib/weir/out.lp", |out| (edges(out) == presses * 2).then_some(())).is_ok()
        });
        assert!(is_seen, "both edges of pulse {presses} are read: {}", machine.run("grep contact /var/lib/weir/out.lp; true"));
    }
    // A pulse of 100 ms is a bounce for a debounce of a second.
    configure(machine, &config("1s"));
    machine.until("it runs again", "systemctl is-active weir", |said| said.contains("active").then_some(()));
    machine.press();
    let levels = |out: &str| out.lines().filter(|l| l.contains("name=rest")).count();
    let before = machine.run("cat /var/lib/weir/out.lp");
    let after =
        machine.until("some seconds pass", "cat /var/lib/weir/out.lp", |out| (levels(out) >= levels(&before) + 4).then(|| out.to_owned()));
    assert_eq!(edges(&after), 6, "{after}");
}

fn follows_an_alert(machine: &Machine) {
    let mut sensor = OpenOptions::new().write(true).open(machine.serial()).unwrap();
    let level = |wanted: u8| {
        machine.until("the line follows", "true", |_| (machine.driven(5).last() == Some(&wanted)).then_some(()));
    };
    machine.until("the port is open", "curl -sf http://127.0.0.1:9273/ready", |_| Some(()));
    sensor.write_all(b"boiler temperature=91\n").unwrap();
    level(1);
    sensor.write_all(b"boiler temperature=60\n").unwrap();
    level(0);
    sensor.write_all(b"boiler temperature=95\n").unwrap();
    level(1);
    // Killed, it comes back and the level is still wanted; stopped, the line goes to its safe level.
    machine.run("systemctl kill -s KILL weir");
    machine.until("it is back", "systemctl show -p NRestarts --value weir; systemctl is-active weir", |said| {
        said.contains("\nactive").then_some(())
    });
    level(1);
    machine.run("systemctl stop weir");
    level(0);
    machine.run("systemctl start weir");
    level(1);
}

fn tells_of_a_line_that_is_taken(machine: &Machine) {
    machine.run("systemctl stop weir");
    machine.run("systemd-run --unit=taker gpioset --mode=signal gpiochip0 5=0");
    machine.until("the line is taken", "gpioinfo gpiochip0", |said| {
        said.lines().any(|l| l.contains("line   5:") && l.contains("gpioset")).then_some(())
    });
    machine.run("systemctl start weir --no-block");
    machine.until("the log names the line", "journalctl --no-pager -u weir -n 30", |said| {
        said.lines().any(|l| l.contains("siren") && l.contains("busy")).then_some(())
    });
    // Given back, it is used without anybody's help.
    machine.run("systemctl stop taker");
    machine.until("the line is driven again", "true", |_| (machine.driven(5).last() == Some(&1)).then_some(()));
}

/// The chip's driver lets it go, as when it is pulled out, and takes it again.
fn uses_a_chip_that_was_away(machine: &Machine) {
    let driver = "/sys/bus/amba/drivers/pl061_gpio";
    let chip = machine.run(&format!("cd {driver} && ls -d *.pl061")).trim().to_owned();
    machine.run(&format!("echo {chip} > {driver}/unbind"));
    machine.until("the log says so of both", "journalctl --no-pager -u weir -n 30", |said| {
        let gone = |of: &str| said.lines().any(|l| l.contains(of) && l.contains("No such device"));
        (gone("input=gpio") && gone("action=siren")).then_some(())
    });
    assert!(!machine.run("ls -l /proc/$(pgrep -x weir)/fd").contains("gpio"), "nothing is held any more");
    let levels = |out: &str| out.lines().filter(|l| l.contains("name=rest")).count();
    let before = levels(&machine.run("cat /var/lib/weir/out.lp"));
    machine.run(&format!("echo {chip} > {driver}/bind"));
    machine.until("levels are read again", "cat /var/lib/weir/out.lp", |out| (levels(out) > before + 1).then_some(()));
    machine.until("the line is held again", "gpioinfo $(basename $(realpath /dev/weir-gpio))", |said| {
        said.lines().any(|l| l.contains("line   5:") && l.contains("weir")).then_some(())
    });
    let mut sensor = OpenOptions::new().write(true).open(machine.serial()).unwrap();
    sensor.write_all(b"boiler temperature=60\n").unwrap();
    machine.until("the line follows", "true", |_| (machine.driven(5).last() == Some(&0)).then_some(()));
}

fn survives_an_adapter_that_is_pulled(machine: &Machine) {
    machine.monitor("device_del usb0");
    machine.until("the adapter is gone", "test ! -e /dev/ttyUSB0", |_| Some(()));
    machine.monitor("device_add usb-serial,id=usb1,chardev=sensor,always-plugged=on");
    machine.until("the adapter is back", "test -e /dev/ttyUSB0", |_| Some(()));
    let sensor = OpenOptions::new().write(true).open(machine.serial()).unwrap();
    machine.until("readings come again", "cat /var/lib/weir/out.lp", |out| {
        sensor_says(&sensor);
        out.contains("pressure=2").then_some(())
    });
}

fn sensor_says(mut sensor: &std::fs::File) {
    sensor.write_all(b"boiler pressure=2\n").unwrap();
    std::thread::park_timeout(Duration::from_millis(200));
}

/// The thread is stopped by a debugger that is then stopped itself.
fn is_restarted_when_its_core_hangs(machine: &Machine) {
    machine.run("mkdir -p /etc/systemd/system/weir.service.d");
    machine.put("/etc/systemd/system/weir.service.d/quick.conf", b"[Service]\nWatchdogSec=4s\n");
    machine.run("systemctl daemon-reload; systemctl restart weir");
    let before = machine.run("systemctl show -p NRestarts --value weir");
    machine.run("pid=$(pgrep -x weir); for t in /proc/$pid/task/*; do grep -qx core $t/comm && systemd-run --unit=debugger strace -qq -o /dev/null -p ${t##*/}; done; true");
    machine.until("the debugger holds it", "systemctl is-active debugger", |said| said.contains("active").then_some(()));
    machine.until("the thread is traced", "grep -h TracerPid /proc/$(pgrep -x weir)/task/*/status", |said| {
        said.lines().any(|l| !l.ends_with("\t0")).then_some(())
    });
    machine.run("systemctl kill -s STOP debugger");
    machine.until("systemd notices", "journalctl --no-pager -u weir", |said| said.contains("Watchdog timeout").then_some(()));
    // A thread whose debugger stands still can't even be killed; a core that hangs by itself can.
    machine.run("systemctl kill -s KILL debugger");
    machine.until("it is started again", "systemctl show -p NRestarts --value weir", |said| (said != before).then_some(()));
    machine.until("it runs", "systemctl is-active weir", |said| said.contains("active").then_some(()));
}
