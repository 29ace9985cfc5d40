//! Bounds that are reached for real: an outage longer than the outbox, and minutes of more of everything than there is room for.
//!
//! `WEIR_OVERLOAD_SECONDS=600` makes the second one last that long, twice, instead of a quarter of a minute; three times where memory takes a
//! step meanwhile.

use std::{
    fmt::Write as _,
    fs,
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::folder;
use crate::support::{
    agent::{Agent, run},
    eventually, free_port,
    servers::{http_get, influx_query, influxdb},
};

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number: {value}"))
}

/// Readings that no coder makes small: a step of a linear congruence each.
fn noise(state: &mut u64) -> f64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 11) as f64 / (1u64 << 53) as f64
}

#[test]
fn an_outage_longer_than_the_outbox_keeps_its_whole_length() {
    const LINES: u64 = 120_000;
    const START: u64 = 1_700_000_000_000_000_000;
    let directory = folder();
    let mut server = influxdb(directory.path());
    assert!(http_get(server.port, "/query?q=SHOW+DATABASES").is_some());
    server.kill();
    let (mut lines, mut state) = (String::new(), 7);
    for n in 0..LINES {
        let (a, b, c) = (noise(&mut state), noise(&mut state), noise(&mut state));
        let _ = writeln!(lines, "seq,device=d{} a={a},b={b},c={c} {}", n % 10, START + n * 1_000_000_000);
    }
    fs::write(directory.path().join("in.lp"), lines).expect("the followed file");
    let config = format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"50ms\"\n[[inputs.tail]]\nfiles = [\"in.lp\"]\nfrom_beginning = true\npath_tag = \"\"\n\
         [[outputs.influxdb]]\nurls = [\"http://127.0.0.1:{}\"]\ndatabase = \"weir\"\n\
         [limits]\nresults_waiting_bytes_max = \"512KiB\"\n[storage]\noutbox_bytes_max = \"1MiB\"\non_full = \"downsample\"\n",
        server.port
    );
    let agent = Agent::start(directory.path(), &config);
    eventually("everything is taken in and kept within the bound", || {
        let status = agent.status();
        let all = number(&status["inputs"][0]["recorded"]) == LINES;
        (all && number(&status["store"]["outbox_bytes"]) <= 1 << 20).then_some(())
    });
    let during = agent.status();
    let line = &during["outputs"][0];
    assert!(number(&line["expired_downsampled"]) > 0 && line["expired_bytes"] == 0, "{during}");
    // Neither a kill nor a start changes what was decided.
    agent.kill();
    server.restart();
    let agent = Agent::spawn_written(directory.path());
    agent.wait_ready();
    let status = eventually("what is left has arrived", || {
        let status = agent.status();
        let line = &status["outputs"][0];
        let waits = number(&line["waiting_memory"]) + number(&line["waiting_disk"]) + number(&line["in_flight"]);
        (waits == 0 && number(&line["delivered"]) > 0).then_some(status)
    });
    let line = &status["outputs"][0];
    assert_eq!(status["residues"].as_array().map(Vec::len), Some(0), "{status}");
    assert_eq!(number(&line["delivered"]) + number(&line["expired_downsampled"]), number(&line["routed"]), "{status}");
    let rows = influx_query(server.port, "weir", "SELECT a FROM seq").expect("rows");
    assert!(rows.len() as u64 <= number(&line["delivered"]) && rows.len() > 5000, "{} rows", rows.len());
    let seconds: Vec<u64> = rows.iter().map(|r| (number(&r[0]) - START) / 1_000_000_000).collect();
    assert!(seconds[0] < 10 && seconds[seconds.len() - 1] == LINES - 1, "from {} to {:?}", seconds[0], seconds.last());
    let hole = seconds.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(LINES);
    assert!(hole < LINES / 50, "a hole of {hole} of {LINES}");
    assert!(agent.terminate().success());
}

const CROWDED: &str = r#"
[agent]
omit_hostname = true
flush_interval = "100ms"
[time]
partition = ["zone"]
[[inputs.socket_listener]]
service_address = "tcp://127.0.0.1:IN"
data_format = "influx"
max_connections = 4
message_bytes_max = "64KiB"
[[windows]]
name = "by_device"
every = "1s"
by = ["device"]
aggregates = ["mean", "p95", "count"]
[[alerts]]
name = "high"
when = "a > 0.5"
by = ["device"]
[[outputs.influxdb]]
urls = ["http://127.0.0.1:OUT"]
database = "weir"
[limits]
series_max = 3000
groups_max = 200
panes_per_group_max = 8
results_waiting_bytes_max = "512KiB"
held_bytes_max = "64KiB"
[storage]
outbox_bytes_max = "1MiB"
journal_bytes_max = "8MiB"
on_full = "ON_FULL"
"#;

/// Kilobytes of a process.
fn rss(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it lives");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// What `weir check` says it is at most, in kilobytes.
fn worst(directory: &std::path::Path) -> u64 {
    let checked = run(directory, &["check", "--config", "weir.toml", "--memory-max", "1MiB"], b"");
    let (text, said) = (String::from_utf8_lossy(&checked.stdout), String::from_utf8_lossy(&checked.stderr));
    assert!(said.contains("--memory-max allows 1MiB of memory"), "{said}");
    let line = text.lines().find(|l| l.ends_with("  all")).unwrap_or_else(|| panic!("a sum: {text}"));
    let memory = line.split_whitespace().next().expect("memory");
    let unit = [("KiB", 1), ("MiB", 1 << 10), ("GiB", 1 << 20)].into_iter().find_map(|(u, k)| memory.strip_suffix(u).map(|n| (n, k)));
    let (n, kilobytes) = unit.unwrap_or_else(|| panic!("a size: {memory}"));
    n.parse::<u64>().expect("a number") * kilobytes
}

/// Lines for one round: devices that come and go, series that never end, tags of every size.
fn crowd(round: u64, state: &mut u64) -> String {
    let mut lines = String::new();
    for n in 0..500u64 {
        let (id, time) = (round * 500 + n, 1_700_000_000_000_000_000 + round * 400_000_000);
        let long = if n == 0 { "x".repeat(8000) } else { String::new() };
        let (zone, a, b) = (id % 3, noise(state), noise(state));
        let device = if n % 4 == 0 { id } else { n };
        let text: String = (0..6).map(|_| format!("{:x}", noise(state).to_bits())).collect();
        let _ = writeln!(lines, "crowd,zone=z{zone},device=d{device}{long} a={a},b={b},s=\"{text}\" {time}");
    }
    lines
}

/// Rounds a span has at least: on a machine that is slow or busy it is work that makes memory grow, not time.
const ROUNDS: u64 = 800;
/// Kilobytes by which the most memory in a span may exceed that in the span before: what the allocator gives back late, and blocks of all sizes.
const GROWTH: u64 = 3 << 10;

/// Most memory in a span of `seconds` and [`ROUNDS`] at least.
fn most(agent: &Agent, seconds: u64, mut round: impl FnMut()) -> u64 {
    let (begin, mut rounds, mut most) = (Instant::now(), 0, 0);
    while rounds < ROUNDS || begin.elapsed() < Duration::from_secs(seconds) {
        round();
        rounds += 1;
        most = most.max(rss(agent.pid()));
    }
    most
}

fn overloaded(on_full: &str) {
    let seconds = std::env::var("WEIR_OVERLOAD_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(16);
    let directory = folder();
    let port = free_port();
    let config = CROWDED.replace("IN\"", &format!("{port}\"")).replace("OUT\"", &format!("{}\"", free_port())).replace("ON_FULL", on_full);
    let agent = Agent::start(directory.path(), &config);
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    let (mut state, mut rounds) = (1, 0);
    let mut round = || {
        stream.write_all(crowd(rounds, &mut state).as_bytes()).expect("it takes");
        rounds += 1;
        rounds
    };
    // Until the outbox is full: the load itself, nothing is awaited.
    let counter = if on_full == "downsample" { "expired_downsampled" } else { "expired_bytes" };
    let begin = Instant::now();
    while round() % 10 != 0 || agent.status()["outputs"][0][counter] == 0 {
        assert!(begin.elapsed() < Duration::from_secs(300), "the outbox is not full: {}", agent.status());
    }
    println!("{on_full}: full after {:?}", begin.elapsed());
    // It may settle late, and takes a step when a table or a heap doubles. What grows with every round does so again in the next span.
    let mut spans = Vec::new();
    let grows = |spans: &[u64]| spans.windows(2).last().is_none_or(|pair| pair[1] > pair[0] + GROWTH);
    while grows(&spans) && spans.len() < 3 {
        spans.push(most(&agent, seconds, || _ = round()));
    }
    println!("{on_full}: {} rounds of 500 points in {:?}, most kB in each span: {spans:?}", round(), begin.elapsed());
    let status = agent.status();
    let counted = |row: &Value, name: &str| assert!(number(&row[name]) > 0, "{name} did not move: {status}");
    counted(&status["inputs"][0], "refused_series");
    status["operators"].as_array().expect("operators").iter().for_each(|row| counted(row, "overflow_groups"));
    assert_eq!(status["residues"].as_array().map(Vec::len), Some(0), "{status}");
    assert!(!grows(&spans), "memory grows, most kB in each span: {spans:?}");
    let (most, worst) = (spans.iter().max().copied().unwrap_or(0), worst(directory.path()));
    assert!(most <= worst, "{most} kB were taken, {worst} kB foretold");
    assert!(agent.terminate().success());
}

#[test]
fn memory_is_flat_and_within_what_was_foretold_while_every_bound_is_reached() {
    overloaded("drop_oldest");
}

#[test]
fn memory_is_flat_while_the_outbox_is_thinned() {
    overloaded("downsample");
}
