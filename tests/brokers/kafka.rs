//! Kafka exactly once: the agent and the broker are killed in turn, and a reader of committed messages sees each result once.
//!
//! `WEIR_KILLS=n` kills that often, `WEIR_SEED=n` at the same moments again.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crate::support::{
    Directory,
    agent::Agent,
    bounded, eventually,
    mqtt::Publisher,
    servers::{self, Kafka},
};

/// Rounds when nobody says how many.
const KILLS: u64 = 5;
/// Readings to a second of event time, and every so many an alert fires and is resolved.
const PER_SECOND: u64 = 100;
const PER_ALERT: u64 = 500;
const START: u64 = 1_700_000_000_000_000_000;

/// What a reader of committed messages finds in a topic, line by line.
fn committed(port: u16, topic: &str) -> Vec<String> {
    let arguments = ["kcat", "-b", &format!("127.0.0.1:{port}"), "-X", "isolation.level=read_committed", "-C", "-t", topic];
    let output = bounded().args(arguments).args(["-o", "beginning", "-e", "-q"]).output().expect("kcat runs");
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}

/// The readings are of 2023, and a broker forgets by the time a message carries.
fn output(port: u16, more: &str) -> String {
    format!(
        "[[outputs.kafka]]\nbrokers = [\"127.0.0.1:{port}\"]\ntopic = \"out\"\ndata_format = \"influx\"\nexactly_once = true\ntimeout = \"3s\"\nproducer_timestamp = \"now\"\n{more}"
    )
}

/// Raw readings, windows over others, and alerts.
fn config(mqtt: u16, kafka: u16) -> String {
    format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"50ms\"\n[[inputs.mqtt_consumer]]\nservers = [\"tcp://127.0.0.1:{mqtt}\"]\ntopics = [\"s/#\"]\ntopic_tag = \"\"\nqos = 1\npersistent_session = true\nclient_id = \"weir-once\"\ndata_format = \"influx\"\n[[windows]]\nname = \"second\"\nevery = \"1s\"\nnamepass = [\"seq\"]\naggregates = [\"count\", \"sum\"]\n[[alerts]]\nname = \"hot\"\nwhen = \"hot > 0\"\nnamepass = [\"raw\"]\n{}[limits]\nresults_waiting_bytes_max = \"64KiB\"\n[storage]\ncommit_interval = \"30ms\"\n",
        output(kafka, "")
    )
}

/// Publishes numbered readings until it is told to stop: of each number one that is passed on and one for a window.
struct Numbers {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Numbers {
    fn start(port: u16) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = thread::spawn(move || {
            let mut publisher = Publisher::connect(port, "once-publisher");
            for n in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let time = START + n * (1_000_000_000 / PER_SECOND);
                let hot = i64::from(n % PER_ALERT >= PER_ALERT / 2);
                publisher.publish("s/a", format!("raw n={n}i,hot={hot}i {time}\nseq n={n}i {time}").as_bytes());
                count.store(n + 1, Ordering::Relaxed);
                // A steady stream: what piles up behind an outage is to be sent while others die.
                thread::park_timeout(Duration::from_millis(4));
            }
            // One far later closes every window before it.
            let time = START + 1_000_000 * 1_000_000_000;
            publisher.publish("s/a", format!("seq n=0i {time}").as_bytes());
            publisher.drain();
        });
        Self { stop, sent, thread }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the publisher ends");
        self.sent.load(Ordering::Relaxed)
    }
}

/// How often each result is to be seen when so many numbers were published: raw readings by number, windows, transitions.
fn expected(numbers: u64) -> BTreeMap<String, u32> {
    let mut expected: BTreeMap<String, u32> = (0..numbers).map(|n| (format!("raw {n}"), 1)).collect();
    for window in 0..numbers.div_ceil(PER_SECOND) {
        let (from, to) = (window * PER_SECOND, numbers.min((window + 1) * PER_SECOND));
        expected.insert(format!("window {window}: {} {}", to - from, (from..to).sum::<u64>()), 1);
    }
    let switches = (1..numbers).filter(|n| n % (PER_ALERT / 2) == 0).count();
    expected.extend((1..=switches).map(|n| (format!("alert {n}"), 1)));
    expected
}

/// The same of what was read.
fn seen(lines: &[String]) -> BTreeMap<String, u32> {
    let number = |line: &str, key: &str| -> u64 {
        let rest = line.split(key).nth(1).unwrap_or_default();
        rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|d| d.parse().ok()).unwrap_or(u64::MAX)
    };
    let mut seen = BTreeMap::new();
    for line in lines {
        let name = if line.starts_with("raw ") {
            format!("raw {}", number(line, "n="))
        } else if line.starts_with("seq ") {
            let time: u64 = line.rsplit(' ').next().and_then(|t| t.parse().ok()).unwrap_or_default();
            format!("window {}: {} {}", (time - START) / 1_000_000_000, number(line, "n_count="), number(line, "n_sum="))
        } else if line.starts_with("weir_alert,") {
            format!("alert {}", number(line, ",n="))
        } else {
            line.clone()
        };
        *seen.entry(name).or_default() += 1;
    }
    seen
}

/// What is wrong, the first of it.
fn differences(seen: &BTreeMap<String, u32>, expected: &BTreeMap<String, u32>) -> Vec<String> {
    let wrong = |name: &String| {
        let (seen, expected) = (seen.get(name).copied().unwrap_or(0), expected.get(name).copied().unwrap_or(0));
        (seen != expected).then(|| format!("{name}: {seen} times instead of {expected}"))
    };
    seen.keys().chain(expected.keys().filter(|name| !seen.contains_key(*name))).filter_map(wrong).collect()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Lets up to `most` milliseconds go by.
fn a_moment(random: &mut u64, most: u64) {
    *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let end = std::time::Instant::now() + Duration::from_millis((*random >> 33) % most);
    while let Some(left) = end.checked_duration_since(std::time::Instant::now()).filter(|left| !left.is_zero()) {
        thread::park_timeout(left);
    }
}

#[test]
fn kafka_sees_each_result_once_whoever_is_killed() {
    let (kills, seed) = (number("WEIR_KILLS").unwrap_or(KILLS), number("WEIR_SEED").unwrap_or(u64::from(std::process::id())));
    println!("WEIR_KILLS={kills} WEIR_SEED={seed}");
    let directory = Directory::new();
    let path = directory.path();
    let (mosquitto, mut kafka) = (servers::mosquitto(path, ""), Kafka::start(path));
    let mut agent = Agent::start(path, &config(mosquitto.port, kafka.port));
    eventually("the agent has subscribed", || agent.log().contains("connected input=").then_some(()));
    let numbers = Numbers::start(mosquitto.port);
    let mut random = seed;
    for round in 0..kills {
        // A reader of the topic would not come to its end while it grows.
        let delivered = |agent: &Agent| agent.status()["outputs"][0]["delivered"].as_u64().unwrap_or(0);
        let before = delivered(&agent);
        eventually("results are committed", || (delivered(&agent) > before).then_some(()));
        a_moment(&mut random, 700);
        agent = kill_some(round, agent, &mut kafka, path, &mut random);
    }
    let published = numbers.end();
    let expected = expected(published);
    // Two readings of each number, and the last one.
    eventually("everything is recorded", || (agent.status()["inputs"][0]["recorded"] == 2 * published + 1).then_some(()));
    eventually("nothing waits", || {
        let output = &agent.status()["outputs"][0];
        ["waiting_memory", "waiting_disk", "in_flight"].iter().all(|key| output[key] == 0).then_some(())
    });
    let status = agent.status();
    assert_eq!(status["residues"].as_array().map(Vec::len), Some(0), "the ledger balances: {status}");
    let seen = seen(&committed(kafka.port, "out"));
    let wrong = differences(&seen, &expected);
    assert!(wrong.is_empty(), "{} of {} wrong: {:?}\n{}", wrong.len(), expected.len(), &wrong[..wrong.len().min(20)], agent.log());
    println!("{published} readings, {} results, each once", seen.len());
    assert!(agent.terminate().success());
}

/// The agent, the broker, both in either order; whoever was killed is back when this returns.
fn kill_some(round: u64, agent: Agent, kafka: &mut Kafka, path: &Path, random: &mut u64) -> Agent {
    match round % 6 {
        1 => {
            kafka.kill();
            a_moment(random, 1500);
            kafka.restart();
            agent
        }
        2 => {
            agent.kill();
            kafka.kill();
            let agent = Agent::spawn_written(path);
            agent.wait_ready();
            kafka.restart();
            agent
        }
        4 => {
            kafka.kill();
            a_moment(random, 500);
            agent.kill();
            kafka.restart();
            Agent::spawn_written(path)
        }
        _ => {
            agent.kill();
            Agent::spawn_written(path)
        }
    }
}

fn feed(path: &Path, from: u64, to: u64) {
    use std::io::Write;
    let lines: String = (from..to).map(|n| format!("raw n={n}i {}\n", START + n)).collect();
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path.join("in.lp")).expect("the followed file");
    file.write_all(lines.as_bytes()).expect("appended");
}

/// How often each of the first numbers is seen, when each is seen equally often.
fn times(port: u16, numbers: u64) -> Option<u32> {
    let seen = seen(&committed(port, "out"));
    let times = *seen.values().next()?;
    (seen.len() as u64 == numbers && seen.values().all(|t| *t == times)).then_some(times)
}

/// Removes the files of the store whose names begin so.
fn lose(path: &Path, names: &[&str]) {
    for entry in fs::read_dir(path.join("state")).expect("the state directory") {
        let entry = entry.expect("a readable entry");
        if names.iter().any(|name| entry.file_name().to_string_lossy().starts_with(name)) {
            fs::remove_file(entry.path()).expect("it can be removed");
        }
    }
}

#[test]
fn a_store_that_begins_again_takes_nothing_for_delivered() {
    let directory = Directory::new();
    let path = directory.path();
    let mut kafka = Kafka::start(path);
    // Kept seven days and then forgotten: not what a cursor wants.
    let mut topic = Command::new("kcat");
    topic.args(["-b", &format!("127.0.0.1:{}", kafka.port), "-P", "-t", "plain_control", "-Z", "weir.toml"]).current_dir(path);
    fs::write(path.join("weir.toml"), "-").expect("a file");
    assert!(topic.status().expect("kcat runs").success());
    let config = format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"50ms\"\n[[inputs.tail]]\nfiles = [\"in.lp\"]\nfrom_beginning = true\npath_tag = \"\"\ndata_format = \"influx\"\n{}[storage]\ncommit_interval = \"30ms\"\n",
        output(kafka.port, "transactional_id = \"weir-of-one-name\"\ncontrol_topic = \"plain_control\"\n")
    );
    // It starts and collects while there is no broker.
    kafka.kill();
    feed(path, 0, 300);
    let agent = Agent::start(path, &config);
    let recorded = |agent: &Agent| agent.status()["inputs"][0]["recorded"].as_u64().unwrap_or(0);
    eventually("the readings are recorded", || (recorded(&agent) == 300).then_some(()));
    kafka.restart();
    eventually("everything arrived", || (times(kafka.port, 300) == Some(1)).then_some(()));
    assert!(agent.log().contains("`plain_control` has cleanup.policy=delete"), "{}", agent.log());
    assert!(agent.terminate().success());

    // What was read is forgotten, and read again under the same numbers; the cursor in Kafka is of the former life.
    lose(path, &["journal", "checkpoint", "outbox"]);
    // That life dies before it could deliver anything.
    kafka.kill();
    let agent = Agent::start(path, &config);
    eventually("the readings are recorded", || (recorded(&agent) == 300).then_some(()));
    agent.kill();
    kafka.restart();
    let agent = Agent::start(path, &config);
    eventually("everything arrived again", || (times(kafka.port, 300) == Some(2)).then_some(()));
    assert!(agent.log().contains("control record speaks of records that were lost"), "{}", agent.log());
    assert!(agent.terminate().success());

    // A new store under the old name.
    fs::remove_dir_all(path.join("state")).expect("the state directory is removed");
    let agent = Agent::start(path, &config);
    eventually("everything arrived once more", || (times(kafka.port, 300) == Some(3)).then_some(()));
    feed(path, 300, 301);
    eventually("and what is new", || (committed(kafka.port, "out").len() == 901).then_some(()));
    assert!(agent.terminate().success());
}
