//! A file system that turns read-only under a running agent, as ext4 on a dying card does: with `stall` nothing more is acknowledged and
//! the broker keeps it, with `continue` delivery goes on from memory; once it can be written again everything is there.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::rig::{
    self, FILE_OUTPUT, PER_SECOND, Stream, assert_in_file, assert_same, balances, expected, in_file, in_influx, influx_output, input,
    settle, subscribed_with, wait_recorded,
};
use crate::support::{agent::Agent, eventually, servers};

/// A small ext4 of its own.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn new(path: &Path) -> Self {
        let disk = Self { image: path.join("disk"), at: path.join("state") };
        fs::create_dir_all(&disk.at).expect("a mount point");
        let file = fs::File::create(&disk.image).and_then(|file| file.set_len(64 << 20));
        file.expect("an image");
        run(Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&disk.image));
        disk.mount();
        disk
    }

    fn mount(&self) {
        run(Command::new("mount").args(["-o", "loop,errors=remount-ro"]).arg(&self.image).arg(&self.at));
    }

    /// An error of the file system: the kernel lets nothing be written from then on, open files or not.
    fn turn_read_only(&self) {
        let mounts = fs::read_to_string("/proc/mounts").expect("the mounts");
        let at = self.at.to_str().expect("a path of text");
        let device = mounts.lines().find(|line| line.split(' ').nth(1) == Some(at)).and_then(|line| line.split(' ').next());
        let name = device.and_then(|device| device.strip_prefix("/dev/")).expect("it is mounted");
        fs::write(format!("/sys/fs/ext4/{name}/trigger_fs_error"), "planted").expect("the kernel plants errors");
        let refused = fs::write(self.at.join("probe"), "").expect_err("nothing can be written");
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }

    /// Away and there again, as by a restart of the machine: the kernel lets such a file system be written again only so.
    fn turn_writable(&self) {
        run(Command::new("umount").arg(&self.at));
        self.mount();
    }
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("the command runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "this test mounts an ext4, so it must run as root with CAP_SYS_ADMIN: {command:?}: {said}");
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: an agent of a failed test may still have it open.
        let _ = Command::new("umount").arg("-l").arg(&self.at).status();
    }
}

fn failed(agent: &Agent) {
    eventually("it knows that storage failed", || agent.status()["storage_failed"].as_str().map(str::to_owned));
    assert_eq!(agent.get("/health").map(|(code, _)| code), Some(503));
}

#[test]
fn with_stall_the_broker_keeps_what_comes_until_the_disk_can_be_written_again() {
    for killed in [true, false] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path();
        let (broker, disk) = (rig::broker(path), Disk::new(path));
        let agent = subscribed_with(path, &broker, &rig::config(broker.port, FILE_OUTPUT));
        let stream = Stream::start(broker.port, 0);
        stream.advance(PER_SECOND);
        disk.turn_read_only();
        failed(&agent);
        let status = agent.status();
        stream.advance(PER_SECOND);
        assert_eq!(input(&agent, "recorded"), status["inputs"][0]["recorded"].as_u64().unwrap_or(0), "nothing more is taken");
        balances(&agent.status());
        // What was on the disk in time may still be on its way to the file; then nothing moves any more.
        let (mut before, mut looks) = (Default::default(), 0);
        eventually("delivery stands", || {
            let is_busy = agent.status()["outputs"][0]["in_flight"] != 0;
            let last = std::mem::replace(&mut before, in_file(path));
            looks = if is_busy || last != before { 0 } else { looks + 1 };
            (looks == 60).then_some(())
        });
        if killed {
            agent.kill();
        } else {
            agent.terminate();
        }
        assert_eq!(in_file(path), before, "what is not on the disk does not leave");
        disk.turn_writable();
        let agent = Agent::spawn_written(path);
        agent.wait_ready();
        stream.advance(PER_SECOND / 4);
        let total = stream.stop();
        settle(&agent, &broker, total);
        assert!(agent.terminate().success());
        assert_in_file(path, total);
    }
}

/// What was acknowledged from memory is nowhere else: the price of `continue`.
#[test]
fn with_continue_delivery_goes_on_and_what_was_durable_before_is_there_afterwards() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let (broker, influx, disk) = (rig::broker(path), servers::influxdb(path), Disk::new(path));
    let config = rig::config(broker.port, &influx_output(&influx)).replace("[storage]\n", "[storage]\non_storage_failure = \"continue\"\n");
    let agent = subscribed_with(path, &broker, &config);
    let stream = Stream::start(broker.port, 0);
    stream.advance(PER_SECOND);
    disk.turn_read_only();
    failed(&agent);
    stream.advance(PER_SECOND);
    let total = stream.stop();
    settle(&agent, &broker, total);
    assert_same(&in_influx(&influx), &expected(total));
    agent.kill();
    disk.turn_writable();
    let agent = Agent::spawn_written(path);
    agent.wait_ready();
    assert_eq!(agent.status()["storage_failed"], serde_json::Value::Null);
    let from = (total / PER_SECOND + 200) * PER_SECOND;
    let durable = input(&agent, "recorded");
    let stream = Stream::start(broker.port, from);
    stream.advance(PER_SECOND);
    let end = stream.stop();
    wait_recorded(&agent, durable + end - from);
    rig::close_windows(broker.port, end);
    let every: rig::Windows = rig::expected_of((0..total).chain(from..end));
    eventually("what comes then is whole", || {
        let windows = in_influx(&influx);
        every
            .iter()
            .filter(|((_, second), _)| *second >= from / PER_SECOND)
            .all(|(key, values)| windows.get(key) == Some(values))
            .then_some(())
    });
    balances(&agent.status());
    assert!(agent.terminate().success());
    let windows = in_influx(&influx);
    // The start knew nothing of the run in memory: a window that was open when the disk failed came again, with what the disk had of it.
    let torn = durable / PER_SECOND;
    let changed = every.iter().filter(|(key, values)| windows.get(key) != Some(values));
    let wrong: Vec<_> = changed.filter(|((_, second), _)| *second != torn).collect();
    assert!(wrong.is_empty(), "second {torn} was open: {wrong:?}");
}
