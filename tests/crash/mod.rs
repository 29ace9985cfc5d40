//! `kill -9` on real parts: what was accepted arrives as in an undisturbed run.

mod broker;
mod failing_disk;
mod full_disk;
mod http;
mod read_only;
mod rig;
mod stopped;
mod stores;
mod windows;

use std::{collections::BTreeMap, fs, io::Write, path::Path};

use crate::support::{agent::Agent, eventually, mqtt::Publisher, whole_lines};

/// Kills of one test.
const KILLS: usize = 8;

fn append(path: &Path, lines: &str) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).expect("the followed file");
    file.write_all(lines.as_bytes()).expect("appended");
}

/// Numbered readings, ten to a second of event time.
fn lines(from: u64, to: u64) -> String {
    (from..to).map(|n| format!("seq,device=d{} n={n}i {}\n", n % 3, 1_700_000_000_000_000_000 + n * 100_000_000)).collect()
}

#[test]
fn a_followed_file_reaches_an_output_file_exactly_once_through_kills() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let config = "[agent]\nomit_hostname = true\nflush_interval = \"50ms\"\n[[inputs.tail]]\nfiles = [\"in.lp\"]\nfrom_beginning = true\npath_tag = \"\"\ndata_format = \"influx\"\n[[outputs.file]]\nfiles = [\"out.lp\"]\n[storage]\ncommit_interval = \"30ms\"\n";
    let total = 6_000;
    append(&path.join("in.lp"), &lines(0, 10));
    let mut agent = Agent::start(path, config);
    let step = total / KILLS as u64;
    for kill in 0..KILLS as u64 {
        append(&path.join("in.lp"), &lines(10.max(kill * step), (kill + 1) * step));
        // Some of it has arrived, the rest is anywhere between the file and the output.
        eventually("results flow", || {
            let seen = whole_lines(&path.join("out.lp")).lines().count() as u64;
            (seen > kill * step + step / 4).then_some(())
        });
        agent.kill();
        agent = Agent::spawn_written(path);
    }
    let expected: Vec<String> = (0..total).map(|n| format!("n={n}i")).collect();
    let numbers = || -> Vec<String> {
        let text = whole_lines(&path.join("out.lp"));
        text.lines().filter_map(|l| l.split(' ').nth(1).map(str::to_owned)).collect()
    };
    eventually("everything has arrived", || (numbers().len() >= expected.len()).then_some(()));
    assert_eq!(numbers(), expected, "each reading once, in order");
    let status = agent.status();
    assert_eq!(status["residues"].as_array().map(Vec::len), Some(0), "the ledger balances: {status}");
    assert!(agent.terminate().success());
}

/// A message that is larger than a batch is recorded as a whole or not at all: the broker sends the whole of it again.
#[test]
fn large_messages_over_mqtt_are_counted_once_through_kills_of_the_agent() {
    const POINTS: u64 = 3000;
    const PER_ROUND: u64 = 24;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let broker = rig::broker(path);
    let config = format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"100ms\"\n[[inputs.mqtt_consumer]]\nservers = [\"tcp://127.0.0.1:{}\"]\ntopics = [\"s/#\"]\ntopic_tag = \"\"\nqos = 1\npersistent_session = true\nclient_id = \"weir-large\"\ndata_format = \"json\"\nname_override = \"seq\"\njson_time_key = \"t\"\njson_time_format = \"unix_ms\"\ntag_keys = [\"device\"]\n[[windows]]\nname = \"message\"\nevery = \"1s\"\nby = [\"device\"]\naggregates = [\"count\", \"sum\"]\n[[outputs.file]]\nfiles = [\"out.lp\"]\n[storage]\ncommit_interval = \"1ms\"\n",
        broker.port
    );
    let mut agent = Agent::start(path, &config);
    eventually("the agent has subscribed", || agent.log().contains("connected input=").then_some(()));
    let mut publisher = Publisher::connect(broker.port, "large-publisher");
    let message = |n: u64| -> String {
        let points: Vec<String> =
            (0..POINTS).map(|i| format!(r#"{{"device":"d{}","n":{i},"t":{}}}"#, i % 3, 1_700_000_000_000 + n * 1000 + i / 3)).collect();
        format!("[{}]", points.join(","))
    };
    for round in 0..KILLS as u64 {
        for n in round * PER_ROUND..(round + 1) * PER_ROUND {
            publisher.publish("s/all", message(n).as_bytes());
        }
        publisher.drain();
        eventually("some of it is recorded", || (recorded(&agent) > round * PER_ROUND * POINTS).then_some(()));
        agent.kill();
        agent = Agent::spawn_written(path);
        agent.wait_ready();
    }
    let total = KILLS as u64 * PER_ROUND;
    publisher.publish("s/all", message(total + 100).as_bytes());
    publisher.drain();
    let rows = || -> Vec<String> {
        let text = whole_lines(&path.join("out.lp"));
        text.lines().map(str::to_owned).collect()
    };
    eventually("every window has arrived", || (rows().len() as u64 >= total * 3).then_some(()));
    let mut expected = BTreeMap::new();
    for device in 0..3 {
        let values = (0..POINTS).filter(|i| i % 3 == device);
        expected.insert(format!("d{device}"), (values.clone().count() as u64, values.sum::<u64>()));
    }
    for row in rows() {
        let (device, count) = (&row["seq,device=".len()..][..2], number(&row, "n_count="));
        assert_eq!((count, number(&row, "n_sum=")), expected[device], "a window holds each point of its message once: {row}");
    }
    assert_eq!(rows().len() as u64, total * 3);
    assert!(agent.terminate().success());
}

/// The number behind `key` in a line.
fn number(line: &str, key: &str) -> u64 {
    let rest = line.split(key).nth(1).unwrap_or_default();
    rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or_else(|| panic!("{key} in {line}"))
}

fn recorded(agent: &Agent) -> u64 {
    agent
        .get("/status")
        .and_then(|(_, body)| serde_json::from_str::<serde_json::Value>(&body).ok())
        .map_or(0, |status| status["inputs"].as_array().map_or(0, |inputs| inputs.iter().filter_map(|i| i["recorded"].as_u64()).sum()))
}
