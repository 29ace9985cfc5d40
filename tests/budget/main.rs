//! The budget: what the whole agent costs, in CPU seconds (user + system of the agent process) per million points, memory, start-up
//! time, latency, wake-ups and size. Prints one line per figure and judges nothing: compare two builds in one sitting.
//!
//! `cargo bench -p weir --bench budget [-- name …] ` runs all parts, or those whose names are given:
//! `windows journal recovery stall forward commit drain outage kills mqtt1 mqtt0 latency idle size`. `WEIR_BUDGET_POINTS` sets the points of the
//! throughput parts, `WEIR_BINARY` measures another binary, such as the release build. `journal` and `stall` measure code that is linked
//! into the benchmark, whatever binary that is.
//!
//! `card` and `loss` run only when they are named, as they need root, loop devices and minutes: what a day writes to a card
//! (`WEIR_CARD_ROUNDS` of its 8640, `WEIR_CARD_SECONDS` for each piece in real time, 60), and what each durability mode loses at a kill and at a power cut
//! (`WEIR_LOSS_CUTS` of each, 5, within `WEIR_LOSS_SECONDS`, 6, with a `sync_interval` of `WEIR_LOSS_SYNC_MS`, 2000).

#[path = "../support/mod.rs"]
#[allow(dead_code)]
mod support;

mod card;
mod http;
mod journal;
mod loss;
mod mqtt;
mod outage;
mod process;

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use process::Watched;
use support::{eventually, free_port, servers};

/// Series in the generated load.
const SERIES: u64 = 1000;
/// Time of the first generated point.
const LINE_TIME: u64 = 1_700_000_000_000_000_000;
/// A broker that does not write its state with every change: what is measured is the agent, not the broker's disk.
const LAZY: &str = "autosave_interval 0\nautosave_on_changes false";

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    let points = std::env::var("WEIR_BUDGET_POINTS").ok().and_then(|v| v.parse().ok()).unwrap_or(1_000_000);
    if runs("size") {
        size();
    }
    if runs("windows") || runs("journal") {
        let whole = windows(points);
        if runs("journal") {
            let journal = journal::cost(points);
            println!(
                "journal: {journal:.3} CPU s of them, {:.0} % more than without (recording, compressing, writing and syncing the same points)",
                journal / (whole - journal) * 100.0
            );
        }
    }
    if runs("recovery") {
        journal::recovery();
    }
    if runs("stall") {
        journal::stall(100_000);
    }
    if runs("forward") {
        forward(points);
    }
    if runs("commit") {
        outage::commit();
    }
    if runs("drain") {
        outage::drain(points);
    }
    if runs("outage") {
        outage::outage(false);
    }
    if runs("kills") {
        outage::outage(true);
    }
    if runs("mqtt1") {
        mqtt_windows(points / 4, 1);
    }
    if runs("mqtt0") {
        mqtt_windows(points / 4, 0);
    }
    if runs("latency") {
        latency(2000);
    }
    if runs("idle") {
        idle();
    }
    // They take minutes and need root: only by name.
    let by_name = |name: &str| wanted.iter().any(|w| w == name);
    let number = |name: &str, otherwise: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(otherwise);
    if by_name("card") {
        card::card(number("WEIR_CARD_ROUNDS", 8640), Duration::from_secs(number("WEIR_CARD_SECONDS", 60)));
    }
    if by_name("loss") {
        let longest = Duration::from_secs(number("WEIR_LOSS_SECONDS", 6));
        loss::loss(number("WEIR_LOSS_CUTS", 5), longest, Duration::from_millis(number("WEIR_LOSS_SYNC_MS", 2000)));
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

/// Line protocol with three fields, `SERIES` series, a second between the points of one series.
fn line(number: u64, out: &mut Vec<u8>) {
    let (series, step) = (number % SERIES, number / SERIES);
    let time = LINE_TIME + step * 1_000_000_000 + series * 1_000;
    let value = |salt: u64| number_value(number, salt);
    writeln!(
        out,
        "climate,device=sensor{series:04},site=hall{} temperature={:.2},humidity={:.2},pressure={:.2} {time}",
        series % 7,
        value(1),
        value(2),
        value(3)
    )
    .expect("memory");
}

/// Two decimals that nobody can guess.
fn number_value(number: u64, salt: u64) -> f64 {
    let mut mixed = number.wrapping_mul(4).wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed >> 33) as f64 % 10_000.0 / 100.0
}

/// Waits for something that may have to wait for a delayed try.
fn wait_long(what: &str, probe: impl Fn() -> bool) {
    let start = Instant::now();
    while !probe() {
        assert!(start.elapsed() < Duration::from_secs(180), "still not: {what}");
        std::thread::park_timeout(Duration::from_millis(15));
    }
}

fn size() {
    let bytes = fs::metadata(process::binary()).expect("the binary").len();
    println!("binary: {:.2} MB (as built, {})", bytes as f64 / 1e6, process::binary().display());
}

fn write_config(directory: &Path, text: &str) {
    write_config_with(directory, text, "");
}

/// With more options of `[storage]`.
fn write_config_with(directory: &Path, text: &str, storage: &str) {
    let (state, socket) = (directory.join("state"), directory.join("control.sock"));
    let text = format!("{text}\n[storage]\ndirectory = {state:?}\n{storage}\n[status]\nsocket = {socket:?}\n");
    fs::write(directory.join("weir.toml"), text).expect("the configuration is written");
}

/// Line protocol on standard input → 10 s windows → file, journal on, `--once`; CPU seconds.
fn windows(points: u64) -> f64 {
    let directory = folder();
    let path = directory.path();
    let mut load = Vec::new();
    (0..points).for_each(|n| line(n, &mut load));
    fs::write(path.join("load.lp"), &load).expect("the load is written");
    write_config(
        path,
        "[[inputs.stdin]]\ndata_format = \"influx\"\n[[windows]]\nname = \"w\"\nevery = \"10s\"\naggregates = [\"count\", \"sum\", \"mean\", \"min\", \"max\"]\n[[outputs.file]]\nfiles = [\"out.lp\"]\n",
    );
    let script = format!("TIMEFORMAT='%3U %3S %3R'; time {:?} run --once --config weir.toml < load.lp", process::binary());
    let output = Command::new("bash").args(["-c", &script]).current_dir(path).output().expect("bash runs");
    let text = String::from_utf8_lossy(&output.stderr);
    let times: Vec<f64> = text.lines().last().unwrap_or_default().split(' ').filter_map(|t| t.parse().ok()).collect();
    let [user, system, real] = times[..] else { panic!("no times: {text}") };
    let results = fs::read_to_string(path.join("out.lp")).unwrap_or_default().lines().count();
    println!(
        "windows: {:.3} CPU s per million points (user {user:.2}, system {system:.2}, wall {real:.2}, {points} points, {results} results, ok {})",
        (user + system) * 1e6 / points as f64,
        output.status.success()
    );
    user + system
}

/// InfluxDB v2 writes in, line protocol out over HTTP, journal on.
fn forward(points: u64) {
    let directory = folder();
    let (port, sink) = (free_port(), http::Sink::start());
    write_config(
        directory.path(),
        &format!(
            "[agent]\nflush_interval = \"200ms\"\nmetric_batch_size = 5000\nmetric_buffer_limit = 10000000\nomit_hostname = true\n[[inputs.influxdb_v2_listener]]\nservice_address = \":{port}\"\n[[outputs.http]]\nurl = \"http://127.0.0.1:{}/write\"\ndata_format = \"influx\"\n",
            sink.port
        ),
    );
    let agent = Watched::start(directory.path(), &[]);
    agent.wait_listening(port);
    let before = agent.cpu();
    let start = Instant::now();
    http::post_lines(port, points, 5000, line);
    eventually("everything has been forwarded", || (sink.lines() >= points).then_some(()));
    let cpu = agent.cpu() - before;
    println!(
        "forward: {:.3} CPU s per million points ({:.2} s CPU, wall {:.2} s, {} lines arrived, peak {:.1} MB)",
        cpu * 1e6 / points as f64,
        cpu,
        start.elapsed().as_secs_f64(),
        sink.lines(),
        agent.peak_memory()
    );
}

/// Small JSON over MQTT → 10 s windows → HTTP.
fn mqtt_windows(points: u64, qos: u8) {
    let directory = folder();
    let broker = servers::mosquitto(directory.path(), &format!("max_inflight_messages 0\n{LAZY}"));
    let sink = http::Sink::start();
    write_config(
        directory.path(),
        &format!(
            "[agent]\nflush_interval = \"500ms\"\n[[inputs.mqtt_consumer]]\nservers = [\"tcp://127.0.0.1:{}\"]\ntopics = [\"s/#\"]\nqos = {qos}\npersistent_session = {}\nclient_id = \"budget\"\ndata_format = \"json\"\n[[windows]]\nname = \"w\"\nevery = \"10s\"\naggregates = [\"count\", \"mean\"]\nlateness = \"1s\"\n[[outputs.http]]\nurl = \"http://127.0.0.1:{}/write\"\ndata_format = \"influx\"\n",
            broker.port,
            qos > 0,
            sink.port
        ),
    );
    let agent = Watched::start(directory.path(), &[]);
    agent.wait_ready();
    eventually("the agent has subscribed", || mqtt::probe(broker.port, "s/probe", || agent.recorded() > 0));
    let seen = agent.recorded();
    let before = agent.cpu();
    let start = Instant::now();
    mqtt::publish_many(broker.port, points, qos, |n, payload| {
        payload.clear();
        write!(payload, "{{\"temperature\":{:.2},\"humidity\":{}}}", (n % 4000) as f64 / 100.0, n % 100).expect("memory");
        format!("s/d{}", n % 100)
    });
    let mut last = (agent.recorded(), Instant::now());
    let recorded = loop {
        let now = agent.recorded();
        if now - seen >= points || (now == last.0 && last.1.elapsed() > Duration::from_secs(5)) {
            break now - seen;
        }
        if now != last.0 {
            last = (now, Instant::now());
        }
        std::thread::park_timeout(Duration::from_millis(20));
    };
    let (cpu, wall) = (agent.cpu() - before, start.elapsed().as_secs_f64());
    println!(
        "mqtt qos {qos}: {:.2} CPU s per million messages, {:.0} messages/s through the broker ({recorded} of {points} recorded, wall {wall:.2} s, peak {:.1} MB)",
        cpu * 1e6 / recorded.max(1) as f64,
        recorded as f64 / wall,
        agent.peak_memory()
    );
}

/// A reading published → the retained level message of its alert received.
fn latency(rounds: usize) {
    let directory = folder();
    let broker = servers::mosquitto(directory.path(), LAZY);
    write_config(
        directory.path(),
        &format!(
            "[[inputs.mqtt_consumer]]\nservers = [\"tcp://127.0.0.1:{0}\"]\ntopics = [\"s/a\"]\nqos = 1\ndata_format = \"value\"\ndata_type = \"float\"\n[[alerts]]\nname = \"hot\"\nwhen = \"value > 50\"\nby = []\nactions = [\"lamp\"]\n[[actions.mqtt]]\nalias = \"lamp\"\nmode = \"level\"\nservers = [\"tcp://127.0.0.1:{0}\"]\ntopic = \"lamp\"\nqos = 0\nfire = \"at_once\"\n[[outputs.file]]\nfiles = [\"out.lp\"]\n",
            broker.port
        ),
    );
    let agent = Watched::start(directory.path(), &[]);
    agent.wait_ready();
    // One hop through the broker, twice of which is in what follows.
    print_times("one hop through the broker", mqtt::round_trips(broker.port, "hop", "hop", rounds));
    print_times("alert latency", mqtt::round_trips(broker.port, "s/a", "lamp", rounds));
}

fn print_times(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |p: f64| times.get(((times.len().max(1) - 1) as f64 * p) as usize).map_or(f64::NAN, Duration::as_secs_f64) * 1e3;
    println!("{what}: p50 {:.3} ms, p99 {:.3} ms, max {:.3} ms over {} messages", at(0.5), at(0.99), at(1.0), times.len());
}

/// Start-up, memory, wake-ups and syncs of a configured agent to which nothing happens.
fn idle() {
    let directory = folder();
    let broker = servers::mosquitto(directory.path(), "");
    let config = format!(
        "[[inputs.mqtt_consumer]]\nservers = [\"tcp://127.0.0.1:{}\"]\ntopics = [\"s/#\"]\nqos = 1\nkeepalive = \"60s\"\ndata_format = \"json\"\n[[inputs.serial]]\nport = {:?}\n[[windows]]\nname = \"w\"\nevery = \"1m\"\naggregates = [\"mean\"]\n[[outputs.influxdb_v2]]\nurls = [\"http://127.0.0.1:9\"]\norganization = \"o\"\nbucket = \"b\"\ntoken = \"t\"\n",
        broker.port,
        directory.path().join("ttyS9")
    );
    // A real terminal line, so that the serial input has nothing to retry.
    let mut pty = Command::new("socat")
        .args(["-u", &format!("PTY,link={},raw,echo=0", directory.path().join("ttyS9").display()), "STDOUT"])
        .stdout(Stdio::null())
        .spawn()
        .expect("socat runs");
    eventually("the terminal line", || directory.path().join("ttyS9").exists().then_some(()));
    write_config(directory.path(), &config);
    let mut starts = Vec::new();
    for _ in 0..5 {
        let agent = Watched::start(directory.path(), &[]);
        starts.push(agent.time_to_ready());
    }
    starts.sort_unstable();
    let agent = Watched::start(directory.path(), &[]);
    agent.wait_ready();
    std::thread::park_timeout(Duration::from_secs(5));
    let (switches, syncs) = (agent.context_switches(), agent.syncs());
    let window = Duration::from_secs(30);
    std::thread::park_timeout(window);
    let per_second = (agent.context_switches() - switches) as f64 / window.as_secs_f64();
    println!(
        "idle: {:.1} MB resident, ready after {:.1} ms (median of 5), {per_second:.1} context switches/s, {} fsyncs in {} s",
        agent.memory(),
        starts[2].as_secs_f64() * 1e3,
        agent.syncs() - syncs,
        window.as_secs()
    );
    let _ = pty.kill();
    let _ = pty.wait();
}
