//! `kill -9` of the agent around the answers of its HTTP listener: a 204 is a promise, and a key makes asking again harmless.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
};

use crate::support::{PATIENCE, agent::Agent, eventually, free_port, whole_lines};

/// Kills of one test.
const KILLS: u64 = 8;
/// Points of a body: more than a batch holds.
const POINTS: u64 = 3000;

fn body(number: u64) -> String {
    (0..POINTS).map(|i| format!("seq,body=b{number} n={i}i {}\n", 1_700_000_000_000_000_000 + (number * POINTS + i) * 1_000_000)).collect()
}

/// Sends the request for a body, and of the body itself only so many bytes.
fn send(port: u16, key: Option<&str>, body: &str, bytes: usize) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let key = key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
    let head =
        format!("POST /api/v2/write?bucket=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{key}Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body.as_bytes()[..bytes]).ok()?;
    Some(stream)
}

/// Posts a body; the status, or none when there was no answer.
fn post(port: u16, key: Option<&str>, body: &str) -> Option<u16> {
    let mut answer = String::new();
    send(port, key, body, body.len())?.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

fn config(port: u16) -> String {
    format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"50ms\"\n[[inputs.influxdb_v2_listener]]\nservice_address = \"127.0.0.1:{port}\"\n[[outputs.file]]\nfiles = [\"out.lp\"]\n[storage]\ncommit_interval = \"5ms\"\n"
    )
}

/// How often each reading of each body arrived, as (body, times): number of readings.
fn arrived(path: &Path) -> BTreeMap<(String, usize), usize> {
    let text = whole_lines(&path.join("out.lp"));
    let mut times = BTreeMap::<&str, usize>::new();
    text.lines().filter(|l| l.starts_with("seq,")).for_each(|line| *times.entry(line).or_default() += 1);
    let mut bodies = BTreeMap::new();
    for (line, times) in times {
        let body = line["seq,body=".len()..].split(' ').next().unwrap_or_default().to_owned();
        *bodies.entry((body, times)).or_default() += 1;
    }
    bodies
}

fn recorded(agent: &Agent) -> u64 {
    agent.status()["inputs"][0]["recorded"].as_u64().unwrap_or_default()
}

fn all_once(bodies: u64) -> BTreeMap<(String, usize), usize> {
    (0..bodies).map(|n| ((format!("b{n}"), 1), POINTS as usize)).collect()
}

#[test]
fn what_a_listener_answered_with_204_arrives_exactly_once_through_kills() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let port = free_port();
    let mut agent = Agent::start(path, &config(port));
    for number in 0..KILLS {
        let key = format!("request-{number}");
        let key = (number % 2 == 0).then_some(key.as_str());
        assert_eq!(post(port, key, &body(number)), Some(204));
        agent.kill();
        agent = Agent::spawn_written(path);
        agent.wait_ready();
        if key.is_some() {
            assert_eq!(eventually("an answer", || post(port, key, &body(number))), 204, "asked again");
        }
    }
    eventually("everything has arrived", || (arrived(path).values().sum::<usize>() >= (KILLS * POINTS) as usize).then_some(()));
    let status = agent.status();
    assert_eq!(status["residues"].as_array().map(Vec::len), Some(0), "the ledger balances: {status}");
    assert_eq!(status["inputs"][0]["duplicate"].as_u64(), Some(KILLS / 2), "{status}");
    assert!(agent.terminate().success());
    assert_eq!(arrived(path), all_once(KILLS));
}

#[test]
fn a_keyed_request_that_got_no_answer_is_sent_again_and_counts_once() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let port = free_port();
    let mut agent = Agent::start(path, &config(port));
    for number in 0..KILLS {
        let (key, body) = (format!("request-{number}"), body(number));
        // Between the first byte and the answer, each time elsewhere: every other time as soon as there is a record of it.
        let (is_whole, before) = (number % 2 == 1, recorded(&agent));
        let bytes = if is_whole { body.len() } else { body.len() * number as usize / KILLS as usize };
        let unanswered = send(port, Some(&key), &body, bytes).expect("the listener takes it");
        if is_whole {
            eventually("a record of it", || (recorded(&agent) > before).then_some(()));
        }
        agent.kill();
        drop(unanswered);
        agent = Agent::spawn_written(path);
        agent.wait_ready();
        assert_eq!(eventually("an answer", || post(port, Some(&key), &body)), 204);
    }
    eventually("everything has arrived", || (arrived(path).values().sum::<usize>() >= (KILLS * POINTS) as usize).then_some(()));
    assert!(agent.terminate().success());
    assert_eq!(arrived(path), all_once(KILLS));
}
