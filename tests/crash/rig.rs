//! What the tests of kills share: a numbered publisher that goes on whatever is killed, windows of a second over what it sends, and what
//! must have arrived in the end.
//!
//! Moments are drawn from a seed, which is printed, and given as how far the publisher has come, so that no test waits for a time.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, RandomState},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{
    PATIENCE,
    agent::Agent,
    eventually,
    mqtt::Publisher,
    servers::{self, Server, influx_query},
    whole_lines,
};

/// Devices that take turns.
pub const DEVICES: u64 = 10;
/// Topics of one device.
const TOPICS: u64 = 20;
/// Readings to a second of event time, and by the clock on the wall as far as the machine can.
pub const PER_SECOND: u64 = 4000;
const EPOCH: u64 = 1_700_000_000_000_000_000;
/// Kills of one test unless `WEIR_KILLS` says otherwise.
const KILLS: u64 = 8;

/// How often a test kills.
pub fn kills() -> u64 {
    std::env::var("WEIR_KILLS").ok().map_or(KILLS, |n| n.parse().expect("WEIR_KILLS is a number"))
}

/// Numbers that are drawn from a seed.
pub struct Chance(u64);

impl Chance {
    /// From `WEIR_SEED`, else from another seed each time; the seed is printed.
    pub fn new() -> Self {
        let drawn = RandomState::new().hash_one(0) >> 16;
        let seed = std::env::var("WEIR_SEED").ok().map_or(drawn, |n| n.parse().expect("WEIR_SEED is a number"));
        println!("seed: WEIR_SEED={seed}");
        Self(seed)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// Count and sum of each device's seconds.
pub type Windows = BTreeMap<(u64, u64), (u64, u64)>;

/// The windows of the readings `0..total`.
pub fn expected(total: u64) -> Windows {
    expected_of(0..total)
}

/// The windows of these readings.
pub fn expected_of(numbers: impl IntoIterator<Item = u64>) -> Windows {
    let mut windows = Windows::new();
    for n in numbers {
        let window = windows.entry((n % DEVICES, n / PER_SECOND)).or_default();
        *window = (window.0 + 1, window.1 + n);
    }
    windows
}

/// Fails with the windows that are missing, too many or wrong.
pub fn assert_same(found: &Windows, expected: &Windows) {
    assert_same_but(found, expected, &[]);
}

/// The same, and names with each the kill that is nearest: `killed_at` are the readings that were published then.
pub fn assert_same_but(found: &Windows, expected: &Windows, killed_at: &[u64]) {
    let numbers = |windows: &Windows| windows.values().map(|window| window.0).sum::<u64>();
    let keys: BTreeSet<_> = found.keys().chain(expected.keys()).collect();
    let wrong = keys.into_iter().filter(|key| found.get(key) != expected.get(key)).map(|key| {
        let (found, expected) = (found.get(key).copied().unwrap_or_default(), expected.get(key).copied().unwrap_or_default());
        let published = key.1 * PER_SECOND;
        let kill = killed_at.iter().enumerate().min_by_key(|(_, at)| at.abs_diff(published)).map(|(n, at)| (n + 1, at));
        let (more, by) = (found.0 as i64 - expected.0 as i64, found.1 as i64 - expected.1 as i64);
        format!(
            "device {} second {}: count {} instead of {} ({more:+}), sum {by:+}, kill nearest {kill:?}",
            key.0, key.1, found.0, expected.0
        )
    });
    let wrong: Vec<_> = wrong.collect();
    let some = wrong[..wrong.len().min(40)].join("\n");
    assert!(wrong.is_empty(), "{} windows are wrong, {} readings of {}:\n{some}", wrong.len(), numbers(found), numbers(expected));
}

/// Fails unless the output file holds each window of the readings `0..total` once, and nothing else.
pub fn assert_in_file(path: &Path, total: u64) {
    let (windows, repeated) = in_file(path);
    assert_same(&windows, &expected(total));
    assert_eq!(repeated, 0, "a file has each window once");
}

/// A reading, and the topic it is published on.
pub fn reading(n: u64) -> (String, String) {
    let device = n % DEVICES;
    let time = EPOCH + n / PER_SECOND * 1_000_000_000 + n % PER_SECOND * (1_000_000_000 / PER_SECOND);
    (format!("s/d{device}/{}", n / DEVICES % TOPICS), format!("seq,device=d{device} n={n}i {time}"))
}

/// Publishes numbered readings until it is stopped.
pub struct Stream {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Stream {
    /// Begins with the reading `from`.
    pub fn start(port: u16, from: u64) -> Self {
        let (sent, stop) = (Arc::new(AtomicU64::new(from)), Arc::<AtomicBool>::default());
        let (counter, stopped) = (Arc::clone(&sent), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let (mut publisher, start) = (Publisher::connect(port, "numbers"), Instant::now());
            while !stopped.load(Ordering::Relaxed) {
                let due = from + start.elapsed().as_millis() as u64 * PER_SECOND / 1000;
                for n in counter.load(Ordering::Relaxed)..due {
                    let (topic, payload) = reading(n);
                    publisher.publish(&topic, payload.as_bytes());
                    counter.store(n + 1, Ordering::Relaxed);
                    if stopped.load(Ordering::Relaxed) {
                        break;
                    }
                }
                // This is the rate itself, not a wait for something.
                std::thread::park_timeout(Duration::from_millis(1));
            }
            publisher.drain();
        });
        Self { sent, stop, thread }
    }

    /// The reading that is next.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until it has sent so many more.
    pub fn advance(&self, by: u64) {
        let upto = self.sent() + by;
        eventually(&format!("reading {upto} is published"), || (self.sent() >= upto).then_some(()));
    }

    /// Ends it when the broker has everything; the reading that would be next.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the publisher ends well");
        self.sent.load(Ordering::Relaxed)
    }
}

/// Publishes a reading far ahead for each device, which closes all windows before it.
pub fn close_windows(port: u16, total: u64) {
    let mut publisher = Publisher::connect(port, "closer");
    let time = EPOCH + (total / PER_SECOND + 100) * 1_000_000_000;
    for device in 0..DEVICES {
        publisher.publish(&format!("s/d{device}/0"), format!("seq,device=d{device} n=0i {time}").as_bytes());
    }
    publisher.drain();
}

/// From the broker on this port over windows of a second to the outputs.
pub fn config(broker: u16, outputs: &str) -> String {
    format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"100ms\"\nmetric_batch_size = 50\n[[inputs.mqtt_consumer]]\nservers = [\"tcp://127.0.0.1:{broker}\"]\ntopics = [\"s/+/#\"]\ntopic_tag = \"\"\nqos = 1\npersistent_session = true\nclient_id = \"weir-kills\"\nkeepalive = \"60s\"\ndata_format = \"influx\"\n[[windows]]\nname = \"second\"\nevery = \"1s\"\nby = [\"device\"]\naggregates = [\"count\", \"sum\"]\n{outputs}[storage]\ncommit_interval = \"50ms\"\njournal_bytes_max = \"1MiB\"\n"
    )
}

pub fn influx_output(influx: &Server) -> String {
    format!("[[outputs.influxdb]]\nurls = [\"http://127.0.0.1:{}\"]\ndatabase = \"kills\"\n", influx.port)
}

pub const FILE_OUTPUT: &str = "[[outputs.file]]\nfiles = [\"out.lp\"]\ndata_format = \"influx\"\n";

#[cfg(feature = "full")]
pub fn kafka_output(kafka: &Server) -> String {
    format!(
        "[[outputs.kafka]]\nbrokers = [\"127.0.0.1:{}\"]\ntopic = \"windows\"\ndata_format = \"influx\"\nnamepass = [\"seq\"]\n",
        kafka.port
    )
}

/// What InfluxDB has.
pub fn in_influx(influx: &Server) -> Windows {
    let rows = influx_query(influx.port, "kills", "select n_count, n_sum, device from seq").unwrap_or_default();
    let window = |row: &Vec<Value>| {
        let device = row[3].as_str()?.strip_prefix('d')?.parse().ok()?;
        Some(((device, second(row[0].as_u64()?)), (row[1].as_u64()?, row[2].as_f64()? as u64)))
    };
    rows.iter().map(|row| window(row).unwrap_or_else(|| panic!("no window: {row:?}"))).collect()
}

/// What lines of text hold: an output that appends shows what came twice. Fails if a window came with two different values.
pub fn in_lines<'a>(lines: impl Iterator<Item = &'a str>) -> (Windows, usize) {
    let (mut windows, mut repeated) = (Windows::new(), 0);
    for line in lines.filter(|line| line.starts_with("seq,")) {
        let (key, values) = window(line).unwrap_or_else(|| panic!("no window: {line}"));
        if let Some(before) = windows.insert(key, values) {
            assert_eq!(before, values, "a window with two results: {line}");
            repeated += 1;
        }
    }
    (windows, repeated)
}

/// The whole lines of the output file.
pub fn in_file(path: &Path) -> (Windows, usize) {
    in_lines(whole_lines(&path.join("out.lp")).lines())
}

/// Where the windows let the readings pass as well: the numbers in the output file in their order, and its windows. Those of the readings
/// that closed the windows are not among them.
pub fn passed_and_windows(path: &Path) -> (Vec<u64>, Windows) {
    let text = whole_lines(&path.join("out.lp"));
    let (windows, passed): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.contains(" n_count="));
    let number = |line: &str| line.split_once(" n=")?.1.split_once('i')?.0.parse::<u64>().ok();
    let numbered = passed.iter().map(|line| number(line).unwrap_or_else(|| panic!("no reading: {line}")));
    let readings: Vec<u64> = numbered.zip(&passed).filter(|(n, line)| line.ends_with(&reading(*n).1)).map(|(n, _)| n).collect();
    let (windows, repeated) = in_lines(windows.into_iter());
    assert_eq!(repeated, 0, "a file has each window once");
    (readings, windows)
}

/// What the topic `windows` holds.
#[cfg(feature = "full")]
pub fn in_kafka(kafka: &Server) -> (Windows, usize) {
    in_lines(servers::kafka_read(kafka.port, "windows").iter().map(String::as_str))
}

fn window(line: &str) -> Option<((u64, u64), (u64, u64))> {
    let (device, rest) = line.strip_prefix("seq,device=d")?.split_once(' ')?;
    let (fields, time) = rest.split_once(' ')?;
    let field = |name: &str| fields.split(',').find_map(|f| f.strip_prefix(name));
    let (count, sum) = (field("n_count=")?.strip_suffix('i')?, field("n_sum=")?);
    Some(((device.parse().ok()?, second(time.parse().ok()?)), (count.parse().ok()?, sum.parse::<f64>().ok()? as u64)))
}

fn second(time: u64) -> u64 {
    (time - EPOCH) / 1_000_000_000
}

/// A counter of the first input.
pub fn input(agent: &Agent, what: &str) -> u64 {
    agent.status()["inputs"][0][what].as_u64().unwrap_or_default()
}

/// Waits until it has recorded so many readings, as long as there are more of them all the time.
pub fn wait_recorded(agent: &Agent, total: u64) {
    let now = wait_recorded_or_standing(agent, total, PATIENCE);
    assert!(now >= total, "recording stands at {now} of {total}: {}\n{}", agent.status(), agent.log());
}

/// Waits until it has recorded so many readings, or no more for so long; how many.
pub fn wait_recorded_or_standing(agent: &Agent, total: u64, patience: Duration) -> u64 {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        let now = input(agent, "recorded");
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        if now >= total || since.elapsed() >= patience {
            return now;
        }
        // The condition above is what is awaited; this only keeps the machine free meanwhile.
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

/// Waits until every one of the readings is recorded and all their windows have left, as long as more of them do, and proves that each
/// counted once; the status then.
pub fn settle(agent: &Agent, broker: &Server, total: u64) -> Value {
    let status = settled(agent, broker, total);
    counted_once(&status, total);
    status
}

/// The same without a proof: for a test that looks at the windows first, which tell more.
pub fn settled(agent: &Agent, broker: &Server, total: u64) -> Value {
    close_windows(broker.port, total);
    wait_recorded(agent, total + DEVICES);
    let windows = expected(total).len() as u64;
    let left =
        |status: &Value| status["outputs"].as_array().is_some_and(|all| all.iter().all(|o| o["delivered"].as_u64() >= Some(windows)));
    let delivered =
        |status: &Value| status["outputs"].as_array().map(|all| all.iter().filter_map(|o| o["delivered"].as_u64()).sum::<u64>());
    let (mut seen, mut since) = (None, Instant::now());
    loop {
        let status = agent.status();
        if left(&status) {
            return status;
        }
        let now = delivered(&status);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
        assert!(since.elapsed() < PATIENCE, "windows do not leave: {status}\n{}", agent.log());
        // The condition above is what is awaited; this only keeps the machine free meanwhile.
        std::thread::park_timeout(Duration::from_millis(15));
    }
}

/// Proves that each reading counted once on its way, and names the first place where it did not.
pub fn counted_once(status: &Value, total: u64) {
    assert_eq!(status["inputs"][0]["recorded"], total + DEVICES, "each reading is recorded once: {status}");
    assert_eq!(status["operators"][0]["applied"], total + DEVICES, "and counted once: {status}");
    balances(status);
}

/// Every line of the ledger balances.
pub fn balances(status: &Value) {
    assert_eq!(status["residues"].as_array().map(Vec::len), Some(0), "the ledger balances: {status}");
}

/// An agent that has subscribed.
pub fn subscribed(path: &Path, broker: &Server, outputs: &str) -> Agent {
    subscribed_with(path, broker, &config(broker.port, outputs))
}

/// The same with a configuration of its own.
pub fn subscribed_with(path: &Path, broker: &Server, config: &str) -> Agent {
    let agent = Agent::start(path, config);
    eventually("the agent has subscribed", || agent.log().contains("connected input=").then_some(()));
    wait_subscribed(&agent, broker);
    agent
}

/// Waits until what is published now arrives: a connection is no subscription yet. What is published for it is refused and counted.
pub fn wait_subscribed(agent: &Agent, broker: &Server) {
    let (mut publisher, before) = (Publisher::connect(broker.port, "first"), input(agent, "read"));
    eventually("a message arrives", || {
        publisher.publish("s/first/0", b"?");
        publisher.drain();
        (input(agent, "read") > before).then_some(())
    });
}

/// mosquitto that keeps everything and saves it when it is stopped: saving at every change makes a hundred readings a second of thousands.
pub fn broker(path: &Path) -> Server {
    broker_with(path, "")
}

/// The same with more in its configuration.
pub fn broker_with(path: &Path, more: &str) -> Server {
    let log = if std::env::var_os("WEIR_MOSQUITTO_LOG").is_some() { "log_type all\n" } else { "" };
    servers::mosquitto(path, &format!("autosave_on_changes false\nautosave_interval 0\n{log}{more}"))
}
