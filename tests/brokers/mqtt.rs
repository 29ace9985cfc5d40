//! A broker that is restarted under an agent that reads from it: windows count each message once, whatever was acknowledged when.

use std::{collections::BTreeMap, fs, path::Path};

use crate::support::{
    agent::Agent,
    eventually,
    mqtt::Publisher,
    servers::{self, Server},
    whole_lines,
};

/// Messages of a round; a window holds fifty of them.
const ROUND: u64 = 200;
const WINDOW: u64 = 50;

fn config(port: u16) -> String {
    format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"50ms\"\n[[inputs.mqtt_consumer]]\nservers = [\"tcp://127.0.0.1:{port}\"]\ntopics = [\"s/#\"]\ntopic_tag = \"\"\nqos = 1\npersistent_session = true\nclient_id = \"weir-restarts\"\ndata_format = \"influx\"\n[[windows]]\nname = \"sums\"\nevery = \"1s\"\nby = [\"device\"]\naggregates = [\"count\", \"sum\"]\n[[outputs.file]]\nfiles = [\"out.lp\"]\n[storage]\ncommit_interval = \"300ms\"\n"
    )
}

/// Publishes the messages of a round; the broker has them when this returns.
fn publish(broker: &Server, round: u64) {
    let mut publisher = Publisher::connect(broker.port, "restart-publisher");
    for n in round * ROUND..(round + 1) * ROUND {
        let time = 1_700_000_000_000_000_000 + n * (1_000_000_000 / WINDOW);
        // The same few payloads again and again, so that only ids and marks tell a repetition from a new message.
        publisher.publish("s/a", format!("seq,device=a n={}i {time}", n % 5).as_bytes());
    }
    publisher.drain();
}

/// (count, sum) of each window, by its start.
fn windows(path: &Path) -> BTreeMap<u64, (u64, u64)> {
    let text = whole_lines(&path.join("out.lp"));
    let number = |line: &str, key: &str| -> u64 {
        let rest = line.split(key).nth(1).unwrap_or_default();
        rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|d| d.parse().ok()).unwrap_or(u64::MAX)
    };
    let rows = text.lines().filter(|l| l.starts_with("seq,"));
    rows.map(|line| {
        let time: u64 = line.rsplit(' ').next().and_then(|t| t.parse().ok()).unwrap_or_default();
        ((time - 1_700_000_000_000_000_000) / 1_000_000_000, (number(line, "n_count="), number(line, "n_sum=")))
    })
    .collect()
}

fn expected(messages: u64) -> BTreeMap<u64, (u64, u64)> {
    let mut windows = BTreeMap::<u64, (u64, u64)>::new();
    for n in 0..messages {
        let window = windows.entry(n / WINDOW).or_default();
        *window = (window.0 + 1, window.1 + n % 5);
    }
    windows
}

fn input(agent: &Agent, what: &str) -> u64 {
    agent.status()["inputs"][0][what].as_u64().unwrap_or_default()
}

/// Closes every window before, and compares.
fn finish(broker: &Server, agent: Agent, path: &Path, messages: u64) {
    let mut publisher = Publisher::connect(broker.port, "restart-publisher");
    publisher.publish("s/a", format!("seq,device=a n=0i {}", 1_700_000_000_000_000_000 + messages * 1_000_000_000).as_bytes());
    publisher.drain();
    let expected = expected(messages);
    eventually("every window has arrived", || (windows(path).len() >= expected.len()).then_some(()));
    let status = agent.status();
    assert_eq!(status["residues"].as_array().map(Vec::len), Some(0), "the ledger balances: {status}");
    assert!(agent.terminate().success());
    assert_eq!(windows(path), expected);
}

#[test]
fn windows_count_each_message_once_through_restarts_of_a_broker_that_keeps_the_session() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let mut broker = servers::mosquitto(path, "");
    let mut agent = Agent::start(path, &config(broker.port));
    eventually("the agent has subscribed", || agent.log().contains("connected input=").then_some(()));
    for round in 0..6 {
        publish(&broker, round);
        // It goes while the last messages are recorded, and mostly not acknowledged.
        eventually("the messages arrive", || (input(&agent, "recorded") > round * ROUND + ROUND / 2).then_some(()));
        broker.stop();
        if round % 3 == 1 {
            agent.kill();
            agent = Agent::spawn_written(path);
            agent.wait_ready();
        }
        broker.restart();
    }
    eventually("everything was read", || (input(&agent, "recorded") == 6 * ROUND).then_some(()));
    assert!(input(&agent, "duplicate") > 0, "the broker has repeated what was not acknowledged");
    finish(&broker, agent, path, 6 * ROUND);
}

#[test]
fn windows_count_each_message_once_when_the_broker_forgets_the_session() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let mut broker = servers::mosquitto(path, "log_type all");
    let agent = Agent::start(path, &config(broker.port));
    for round in 0..4 {
        subscribed(path, round + 1);
        publish(&broker, round);
        // A message the broker forgets before the agent has it is lost with the session: that is no matter of the agent's.
        eventually("the messages arrived", || (input(&agent, "recorded") == (round + 1) * ROUND).then_some(()));
        broker.kill();
        fs::remove_file(path.join("mosquitto.db")).expect("the broker's memory");
        broker.restart();
    }
    assert_eq!(input(&agent, "duplicate"), 0, "ids and payloads that come again are new messages");
    subscribed(path, 5);
    finish(&broker, agent, path, 4 * ROUND);
}

/// Waits until the agent has subscribed so many times.
fn subscribed(path: &Path, times: u64) {
    eventually("the agent has subscribed", || {
        let log = fs::read_to_string(path.join("mosquitto.log")).unwrap_or_default();
        (log.matches("Sending SUBACK to weir-restarts").count() as u64 >= times).then_some(())
    });
}
