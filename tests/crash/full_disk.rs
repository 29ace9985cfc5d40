//! A disk that is too small, a real one: a living output gets everything, a dead one loses its oldest results, counted, and nothing else
//! suffers.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{PATIENCE, agent::Agent, eventually, free_port, whole_lines};

/// Lines a test feeds.
const LINES: u64 = 300_000;
/// Bytes of the disk, as `mount` has it.
const SMALL: &str = "6m";
/// Lines of log that are enough for everything that happens to a disk.
const LOG_MAX: usize = 40;

/// A file system in memory, as large as it is told.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: PathBuf) -> Self {
        fs::create_dir_all(&at).expect("a mount point");
        let disk = Self(at);
        disk.mount(&["-t", "tmpfs", "-o", &format!("size={SMALL}"), "tmpfs"]);
        disk
    }

    fn grow(&self, size: &str) {
        self.mount(&["-o", &format!("remount,size={size}")]);
    }

    fn mount(&self, arguments: &[&str]) {
        let output = Command::new("mount").args(arguments).arg(&self.0).stdin(Stdio::null()).output().expect("mount runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "this test mounts a small tmpfs, so it must run as root with CAP_SYS_ADMIN: {said}");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: an agent of a failed test may still have it open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Somebody who takes all the room there is, and all that becomes free.
struct Stranger {
    file: PathBuf,
    end: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Stranger {
    fn on(disk: &Path) -> Self {
        let (file, end) = (disk.join("stranger"), Arc::new(AtomicBool::new(false)));
        let mut taken = fs::File::create(&file).expect("a file");
        let ended = Arc::clone(&end);
        let take = move || {
            while !ended.load(Ordering::Relaxed) {
                // As much as fits: the end of it is the error that there is no more room.
                let _ = std::io::copy(&mut std::io::repeat(7), &mut taken);
            }
        };
        Self { file, end, thread: Some(std::thread::spawn(take)) }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        self.thread.take().map(std::thread::JoinHandle::join);
        let _ = fs::remove_file(&self.file);
    }
}

/// A followed file, a file output that keeps up as well as it can, and an output nobody listens for.
fn config() -> String {
    let dead = free_port();
    format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"200ms\"\n[[inputs.tail]]\nfiles = [\"in.lp\"]\nfrom_beginning = true\npath_tag = \"\"\ndata_format = \"influx\"\n[[outputs.file]]\nfiles = [\"out.lp\"]\nnamepass = [\"seq\"]\ndata_format = \"influx\"\n[[outputs.http]]\nnamepass = [\"seq\"]\nurl = \"http://127.0.0.1:{dead}/\"\ndata_format = \"influx\"\n[limits]\nresults_waiting_bytes_max = \"1MiB\"\n[storage]\ncommit_interval = \"30ms\"\njournal_bytes_max = \"2MiB\"\n"
    )
}

/// Numbered readings whose values can't be compressed.
fn feed(path: &Path, from: u64, to: u64) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path.join("in.lp")).expect("the followed file");
    let mut text = String::new();
    for n in from..to {
        let noise = |salt: u64| (n ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 11;
        let time = 1_700_000_000_000_000_000 + n * 1_000_000;
        text += &format!(
            "seq,device=d{} a=0.{:017},b=0.{:017},c=0.{:017},d=0.{:017},n={n}i {time}\n",
            n % 3,
            noise(1),
            noise(77),
            noise(5),
            noise(9)
        );
    }
    file.write_all(text.as_bytes()).expect("appended");
}

/// Bytes of a file.
fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |m| m.len())
}

/// Waits until the output file holds this many lines, as long as it grows at all.
fn wait_for_lines(agent: &Agent, path: &Path, lines: u64) {
    let out = path.join("out.lp");
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        let now = size(&out);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        if numbers(path).last() >= Some(&(lines - 1)) {
            return;
        }
        let stands = since.elapsed() > PATIENCE;
        assert!(!stands, "the output file stands at {:?}: {}\n{}", numbers(path).last(), agent.status(), agent.log());
        std::thread::park_timeout(Duration::from_millis(100));
    }
}

/// The numbers that have arrived, in order of arrival.
fn numbers(path: &Path) -> Vec<u64> {
    let text = whole_lines(&path.join("out.lp"));
    text.lines().map(|line| line.rsplit_once("n=").and_then(|(_, n)| n.split_once('i')?.0.parse().ok()).expect("a number")).collect()
}

fn output<'a>(status: &'a Value, name: &str) -> &'a Value {
    let all = status["outputs"].as_array().expect("outputs");
    all.iter().find(|o| o["name"] == name).unwrap_or_else(|| panic!("no {name} in {status}"))
}

/// What must hold at any time: the file has lost nothing, the ledger balances, and the log is short.
fn check(agent: &Agent) -> Value {
    let status = agent.status();
    assert_eq!(status["residues"].as_array().map(Vec::len), Some(0), "the ledger balances: {status}");
    let file = output(&status, "file");
    for lost in ["expired_disk", "expired_bytes", "expired_age", "lost_outbox", "rejected"] {
        assert_eq!(file[lost], 0, "{lost} of the file: {status}");
    }
    assert_eq!(status["storage_failed"], Value::Null, "{}", agent.log());
    let log = agent.log();
    assert!(log.lines().count() <= LOG_MAX, "{} lines of log: {log}", log.lines().count());
    status
}

fn lost(status: &Value) -> u64 {
    let dead = output(status, "http");
    dead["expired_disk"].as_u64().unwrap_or(0) + dead["expired_bytes"].as_u64().unwrap_or(0)
}

fn terminate(agent: Agent) {
    let start = Instant::now();
    let log = agent.log();
    assert!(agent.terminate().success(), "{log}");
    // `shutdown_timeout` and a last checkpoint are a few seconds; the rest is for a busy machine.
    assert!(start.elapsed() < PATIENCE, "the stop took {:?}", start.elapsed());
}

#[test]
fn a_full_disk_costs_a_dead_output_its_oldest_results_and_nobody_else_anything() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let disk = SmallDisk::new(path.join("state"));
    feed(path, 0, LINES);
    let agent = Agent::start(path, &config());
    wait_for_lines(&agent, path, LINES);
    let status = check(&agent);
    assert_eq!(output(&status, "file")["delivered"], LINES);
    let given_up = lost(&status);
    let dead = output(&status, "http");
    let waiting: u64 = ["waiting_memory", "waiting_disk", "in_flight"].iter().filter_map(|k| dead[k].as_u64()).sum();
    assert!(given_up > 0, "the disk was too small for it: {status}");
    assert_eq!(given_up + waiting, LINES, "{status}");

    // With room again nothing more is given up.
    disk.grow("64m");
    let checkpoints = status["store"]["checkpoints"].as_u64();
    feed(path, LINES, LINES + 50_000);
    wait_for_lines(&agent, path, LINES + 50_000);
    eventually("checkpoints are made again", || (agent.status()["store"]["checkpoints"].as_u64() > checkpoints).then_some(()));
    assert_eq!(lost(&check(&agent)), given_up);
    terminate(agent);

    let agent = Agent::spawn_written(path);
    agent.wait_ready();
    feed(path, LINES + 50_000, LINES + 51_000);
    wait_for_lines(&agent, path, LINES + 51_000);
    let status = check(&agent);
    assert_eq!(lost(&status), given_up);
    assert_eq!(status["damage"]["outbox_blocks"], 0);
    terminate(agent);
    assert_eq!(numbers(path), (0..LINES + 51_000).collect::<Vec<_>>(), "each line once, in order");
}

#[test]
fn a_full_disk_and_kills_cost_the_living_output_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let disk = SmallDisk::new(path.join("state"));
    let mut agent = Agent::start(path, &config());
    let step = LINES / 6;
    for kill in 0..6 {
        feed(path, kill * step, (kill + 1) * step);
        wait_for_lines(&agent, path, kill * step + step / 2);
        agent.kill();
        agent = Agent::spawn_written(path);
        agent.wait_ready();
    }
    wait_for_lines(&agent, path, LINES);
    let status = check(&agent);
    assert!(lost(&status) > 0, "the disk was too small for it: {status}");
    terminate(agent);
    disk.grow("64m");
    let agent = Agent::spawn_written(path);
    agent.wait_ready();
    feed(path, LINES, LINES + 1000);
    wait_for_lines(&agent, path, LINES + 1000);
    check(&agent);
    terminate(agent);
    assert_eq!(numbers(path), (0..LINES + 1000).collect::<Vec<_>>(), "each line once, in order");
}

/// Somebody else fills the disk while results of a slow output wait in the outbox: what says that they have been delivered finds no room, and
/// only what is removed of the outbox makes some.
#[test]
fn a_kill_on_a_disk_that_somebody_else_has_filled_takes_nothing_back_that_the_file_had() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let disk = SmallDisk::new(path.join("state"));
    let port = free_port();
    let noise =
        format!("[[inputs.socket_listener]]\nservice_address = \"udp://127.0.0.1:{port}\"\ndata_format = \"influx\"\n[[outputs.file]]");
    let config =
        config().replace("files = [\"out.lp\"]", "files = [\"out.lp\"]\nmetric_batch_size = 2").replace("[[outputs.file]]", &noise);
    let mut agent = Agent::start(path, &config);
    feed(path, 0, 12_000);
    // A checkpoint that is still being made could find no room for itself, and would leave nothing there.
    eventually("a checkpoint knows of results on the disk", || {
        let store = agent.status()["store"].clone();
        (store["checkpoints"].as_u64() > Some(0) && store["outbox_bytes"].as_u64() > Some(0)).then_some(())
    });
    let stranger = Stranger::on(&disk.0);
    let saved = || fs::read(disk.0.join("cursors")).expect("there from the start");
    let counted = |status: &Value, what: &str| output(status, "file")[what].as_u64().unwrap_or(0);
    let (before, mut sent) = (saved(), 0u64);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let (mut delivered, mut since) = (Value::Null, Instant::now());
    // A block of the outbox goes when all of it is delivered, however long that takes a slow disk.
    while saved() == before {
        let now = output(&agent.status(), "file")["delivered"].clone();
        if now != delivered {
            (delivered, since) = (now, Instant::now());
        }
        assert!(since.elapsed() < PATIENCE, "no room is made that a full journal can't tell of: {}\n{}", agent.status(), agent.log());
        if !agent.log().contains("journal full") {
            // Of an input that can't wait, and for no output.
            let line = |n: u64| format!("noise v=0.{:017} {n}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11);
            for _ in 0..5 {
                let lines: String = (sent..sent + 300).map(line).collect();
                socket.send_to(lines.as_bytes(), ("127.0.0.1", port)).expect("sent");
                sent += 300;
            }
        }
        std::thread::park_timeout(Duration::from_millis(15));
    }
    let confirmed = counted(&agent.status(), "delivered") as usize;
    agent.kill();
    let had = numbers(path);
    agent = Agent::spawn_written(path);
    agent.wait_ready();
    drop(stranger);
    let (mut settled, mut since) = (0, Instant::now());
    while settled < 12_000 {
        let status = agent.status();
        let now = ["delivered", "expired_disk", "lost_outbox"].iter().map(|count| counted(&status, count)).sum();
        if now != settled {
            (settled, since) = (now, Instant::now());
        }
        assert!(since.elapsed() < PATIENCE, "the file output stands: {status}\n{}", agent.log());
        std::thread::park_timeout(Duration::from_millis(15));
    }
    let status = agent.status();
    terminate(agent);
    let arrived = numbers(path);
    let set: BTreeSet<u64> = arrived.iter().copied().collect();
    assert_eq!(set.len(), arrived.len(), "nothing twice");
    let given_up = counted(&status, "expired_disk");
    // An output whose disk has hung for ten seconds is dead, and gives up what it had not confirmed.
    let stays = if given_up > 0 { &had[..confirmed] } else { &had };
    let taken_back: Vec<&u64> = stays.iter().filter(|n| !set.contains(n)).collect();
    assert!(taken_back.is_empty(), "the file had {} more, from {:?} on: {status}", taken_back.len(), taken_back.first());
    let missing = 12_000 - arrived.len() as u64;
    assert!(missing <= given_up && counted(&status, "lost_outbox") == 0, "{missing} are missing: {status}");
}

/// Somebody else has filled the disk before the journal had its files: nothing can be taken in, and no checkpoint can be made.
#[test]
fn a_reload_on_a_disk_that_takes_nothing_goes_on_with_the_new_configuration_and_loses_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let disk = SmallDisk::new(path.join("state"));
    // Rings that hold more than may wait in memory: what is in them can't be taken in before the end either.
    let config = config().replace("[limits]\n", "[limits]\nring_batches = 256\n");
    let agent = Agent::start(path, &config);
    feed(path, 0, 1000);
    wait_for_lines(&agent, path, 1000);
    let stranger = disk.0.join("stranger");
    // As much as fits: the end of it is the error that there is no more room.
    let _ = std::io::copy(&mut std::io::repeat(7), &mut fs::File::create(&stranger).expect("a file"));
    feed(path, 1000, 100_000);
    let mut stands = (0, 0);
    eventually("intake stands", || {
        let recorded = agent.status()["inputs"][0]["recorded"].as_u64().unwrap_or(0);
        stands = (recorded, if recorded == stands.0 { stands.1 + 1 } else { 0 });
        (stands.1 == 100).then_some(())
    });
    assert!(stands.0 < 100_000, "the disk was large enough: {}", agent.status());
    agent.signal("HUP");
    eventually("the next generation runs", || (agent.log().matches("running directory=").count() == 2).then_some(()));
    fs::remove_file(&stranger).expect("room again");
    wait_for_lines(&agent, path, 100_000);
    check(&agent);
    terminate(agent);
    assert_eq!(numbers(path), (0..100_000).collect::<Vec<_>>(), "each line once, in order");
}
