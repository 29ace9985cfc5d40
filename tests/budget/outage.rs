//! An upstream that is away: what an outage costs and loses, and how fast the backlog leaves afterwards.
//!
//! Points come in as line protocol over HTTP, a thousand to a request, each request answered with 204 before the next of its connection is
//! sent and sent again under the same key when it was not. They leave to a server that speaks the InfluxDB 2 write API.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    LINE_TIME, SERIES, folder, http,
    process::{Usage, Watched},
    support::free_port,
    wait_long, write_config, write_config_with,
};

/// Lines of a request.
const REQUEST: u64 = 1000;
/// Points a second.
const RATE: u64 = 20_000;
/// Seconds before, in and behind the outage.
const PHASES: [u64; 3] = [5, 30, 10];
/// A connection sends its next request when the one before is answered; so many never wait for a commit of 200 ms.
const WRITERS: usize = 16;

/// An InfluxDB 2 listener in front of an output of the same kind.
fn config(port: u16, sink: u16, encoding: &str) -> String {
    format!(
        "[agent]\nflush_interval = \"1s\"\nmetric_batch_size = 5000\nmetric_buffer_limit = 100000000\nomit_hostname = true\n[[inputs.influxdb_v2_listener]]\nservice_address = \"127.0.0.1:{port}\"\n[[outputs.influxdb_v2]]\nurls = [\"http://127.0.0.1:{sink}\"]\norganization = \"o\"\nbucket = \"b\"\ntoken = \"t\"\ncontent_encoding = \"{encoding}\"\n"
    )
}

/// The number of the point that a line of the load is.
fn number(line: &[u8]) -> Option<u64> {
    let time = line.rsplit(|b| *b == b' ').next()?;
    let since = std::str::from_utf8(time).ok()?.parse::<u64>().ok()?.checked_sub(LINE_TIME)?;
    Some(since / 1_000_000_000 * SERIES + since % 1_000_000_000 / 1000)
}

/// Posts `points` lines at [`RATE`], each request until it is answered with 204.
fn post_at_rate(port: u16, points: u64, start: Instant) -> Vec<std::thread::JoinHandle<()>> {
    let next = Arc::new(AtomicU64::new(0));
    let writer = move || {
        let (mut connection, mut body) = (None, Vec::new());
        loop {
            let from = next.fetch_add(REQUEST, Ordering::Relaxed);
            if from >= points {
                return;
            }
            body.clear();
            (from..from + REQUEST).for_each(|n| crate::line(n, &mut body));
            std::thread::park_timeout(
                (start + Duration::from_secs_f64(from as f64 / RATE as f64)).saturating_duration_since(Instant::now()),
            );
            while request(&mut connection, port, from, &body) != Some(204) {
                connection = None;
                std::thread::park_timeout(Duration::from_millis(50));
            }
        }
    };
    (0..WRITERS).map(|_| std::thread::spawn(writer.clone())).collect()
}

/// Sends one request over the connection, made when there is none; the status of the answer.
fn request(connection: &mut Option<BufReader<TcpStream>>, port: u16, key: u64, body: &[u8]) -> Option<u16> {
    if connection.is_none() {
        let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        *connection = Some(BufReader::new(stream));
    }
    let reader = connection.as_mut()?;
    let head = format!(
        "POST /api/v2/write?org=o&bucket=b&precision=ns HTTP/1.1\r\nhost: weir\r\nidempotency-key: {key}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    reader.get_mut().write_all(&[head.as_bytes(), body].concat()).ok()?;
    let mut status = String::new();
    reader.read_line(&mut status).ok()?;
    http::head(reader)?;
    status.split(' ').nth(1)?.parse().ok()
}

/// Bytes that files in `directory` with a name that starts with `prefix` take on the disk, and how long they are.
pub fn files(directory: &Path, prefix: &str) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let names = fs::read_dir(directory).into_iter().flatten().flatten();
    let files = names.filter(|f| f.file_name().to_string_lossy().starts_with(prefix)).filter_map(|f| f.metadata().ok());
    files.fold((0, 0), |(blocks, bytes), f| (blocks + f.blocks() * 512, bytes + f.len()))
}

/// An outage of 30 s at 20 000 points a second; with `kills` the agent is killed twice in it.
pub fn outage(kills: bool) {
    let directory = folder();
    let points = PHASES.iter().sum::<u64>() * RATE;
    let (port, sink) = (free_port(), http::Sink::numbered(points, number));
    write_config(directory.path(), &config(port, sink.port, "identity"));
    let mut agent = Watched::start(directory.path(), &[]);
    agent.wait_listening(port);
    let (mut usage, before) = (Usage::default(), agent.usage());
    let start = Instant::now();
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let writers = post_at_rate(port, points, start);
    let (mut disk, mut largest, mut waited) = (0, [0; 3], 0);
    let mut watch = |until: Instant| {
        while Instant::now() < until {
            let state = directory.path().join("state");
            let now = ["journal-", "outbox-", "checkpoint"].map(|prefix| files(&state, prefix).0);
            if now.iter().sum::<u64>() > disk {
                let sent = (start.elapsed().as_secs_f64() * RATE as f64) as u64;
                (disk, largest, waited) = (now.iter().sum(), now, sent.min(points).saturating_sub(sink.lines()));
            }
            std::thread::park_timeout(Duration::from_millis(100));
        }
    };
    watch(at(PHASES[0]));
    sink.close();
    for kill in 0..if kills { 2 } else { 0 } {
        watch(at(PHASES[0] + 10 + 10 * kill));
        usage += agent.usage();
        agent.kill();
        agent = Watched::start(directory.path(), &[]);
        agent.wait_listening(port);
    }
    watch(at(PHASES[0] + PHASES[1]));
    sink.reopen();
    watch(at(PHASES.iter().sum()));
    writers.into_iter().for_each(|w| w.join().expect("a writer ends"));
    wait_long("everything has arrived", || sink.lines() >= points);
    // What comes twice comes soon.
    std::thread::park_timeout(Duration::from_secs(2));
    usage += agent.usage();
    usage -= before;
    let each = |bytes: u64| bytes as f64 / points as f64;
    println!(
        "outage{}: lost {}, twice {}, {:.2} CPU s for {points} points (user {:.2}, system {:.2}); on disk at most {:.1} bytes a point (journal {:.1}, outbox {:.1}, checkpoints {:.1}), {:.1} for each of the {waited} that waited then; written {:.1} bytes a point; all there {:.1} s after the outage",
        if kills { " with two kills" } else { "" },
        points - sink.different(),
        sink.lines() - sink.different(),
        usage.cpu(),
        usage.user,
        usage.system,
        each(disk),
        each(largest[0]),
        each(largest[1]),
        each(largest[2]),
        disk as f64 / waited.max(1) as f64,
        each(usage.written),
        start.elapsed().as_secs_f64() - 2.0 - (PHASES[0] + PHASES[1]) as f64,
    );
}

/// What a commit of a few readings writes.
pub fn commit() {
    const COMMITS: u64 = 100;
    let directory = folder();
    let port = free_port();
    write_config_with(directory.path(), &config(port, 9, "identity"), "commit_interval = \"10ms\"");
    let agent = Watched::start(directory.path(), &[]);
    agent.wait_listening(port);
    let (mut connection, mut body) = (None, Vec::new());
    let mut commit = |number: u64| {
        body.clear();
        (number * 3..number * 3 + 3).for_each(|n| crate::line(n, &mut body));
        assert_eq!(request(&mut connection, port, number, &body), Some(204));
    };
    // The first finds everything new.
    commit(0);
    let (syncs, before) = (agent.syncs(), agent.usage());
    (1..=COMMITS).for_each(commit);
    println!(
        "commit: {:.2} pages of 4 KiB written and {:.2} syncs for each of {COMMITS} commits of three points",
        (agent.usage().written - before.written) as f64 / 4096.0 / COMMITS as f64,
        (agent.syncs() - syncs) as f64 / COMMITS as f64
    );
}

/// A backlog of raw points in the outbox, delivered by an agent that has just started.
pub fn drain(points: u64) {
    for encoding in ["identity", "gzip"] {
        let directory = folder();
        let (port, sink) = (free_port(), http::Sink::start());
        write_config(directory.path(), &config(port, sink.port, encoding));
        sink.close();
        let mut agent = Watched::start(directory.path(), &[]);
        agent.wait_listening(port);
        let before = agent.usage();
        http::post_lines(port, points, 5000, crate::line);
        let mut filled = agent.usage();
        filled -= before;
        agent.terminate();
        let (_, outbox) = files(&directory.path().join("state"), "outbox-");
        let bytes = outbox as f64 / points as f64;
        println!(
            "outbox: {bytes:.2} bytes a point, {:.2} a field of three decimals, headers included; {:.2} CPU s per million points to get there, {:.1} bytes written for each",
            bytes / 3.0,
            filled.cpu() * 1e6 / points as f64,
            filled.written as f64 / points as f64
        );
        agent = Watched::start(directory.path(), &[]);
        agent.wait_listening(port);
        let before = agent.usage();
        sink.reopen();
        wait_long("the backlog has arrived", || sink.lines() >= points);
        let mut usage = agent.usage();
        usage -= before;
        println!(
            "drain ({encoding}): {:.2} M points per CPU s (user {:.2}, system {:.2}, {points} points, peak {:.1} MB)",
            points as f64 / 1e6 / usage.cpu(),
            usage.user,
            usage.system,
            agent.peak_memory()
        );
    }
}
