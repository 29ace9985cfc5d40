//! `kill -9` of the agent at random moments of a stream of thousands of readings a second: the windows that arrive hold each reading once.

use std::time::Instant;

use serde_json::Value;

use super::rig::{
    self, Chance, FILE_OUTPUT, PER_SECOND, Stream, assert_in_file, assert_same, assert_same_but, counted_once, expected, in_file,
    in_influx, influx_output, kills, settle, settled, subscribed,
};
use crate::support::{Directory, agent::Agent, eventually, servers};

/// What a test found, for whoever reads its output.
fn report(what: &str, start: Instant, total: u64, kills: u64, status: &Value) {
    let windows = expected(total);
    let (count, sum) = windows.values().fold((0, 0), |(count, sum), window| (count + window.0, sum + window.1));
    println!(
        "{what}: {kills} kills, {total} readings published, in {} windows count {count} and sum {sum}, duplicates recognised {}, {:.1} s",
        windows.len(),
        status["inputs"][0]["duplicate"],
        start.elapsed().as_secs_f64()
    );
}

#[test]
fn windows_of_a_fast_stream_are_exact_in_influxdb_and_in_a_file_through_kills_at_random_moments() {
    let directory = Directory::new();
    let (path, mut chance, start) = (directory.path(), Chance::new(), Instant::now());
    let (broker, influx) = (rig::broker(path), servers::influxdb(path));
    let mut agent = subscribed(path, &broker, &(influx_output(&influx) + FILE_OUTPUT));
    let stream = Stream::start(broker.port, 0);
    let mut killed_at = Vec::new();
    for _ in 0..kills() {
        // Up to most of a second: while it starts, replays, connects, catches up, or runs as always.
        stream.advance(chance.below(PER_SECOND * 3 / 4));
        killed_at.push(stream.sent());
        agent.kill();
        agent = Agent::spawn_written(path);
    }
    let total = stream.stop();
    agent.wait_ready();
    let status = settled(&agent, &broker, total);
    report("influxdb and file", start, total, kills(), &status);
    assert!(agent.terminate().success());
    assert_same_but(&in_file(path).0, &expected(total), &killed_at);
    assert_same(&in_influx(&influx), &expected(total));
    assert_in_file(path, total);
    counted_once(&status, total);
}

#[cfg(feature = "full")]
#[test]
fn windows_of_a_fast_stream_are_exact_in_kafka_through_kills_at_random_moments() {
    let directory = Directory::new();
    let (path, mut chance, start) = (directory.path(), Chance::new(), Instant::now());
    let (broker, kafka) = (rig::broker(path), servers::kafka(path));
    let mut agent = subscribed(path, &broker, &rig::kafka_output(&kafka));
    let (stream, mut killed_at) = (Stream::start(broker.port, 0), Vec::new());
    for _ in 0..kills() {
        stream.advance(chance.below(PER_SECOND * 3 / 4));
        killed_at.push(stream.sent());
        agent.kill();
        agent = Agent::spawn_written(path);
    }
    let total = stream.stop();
    agent.wait_ready();
    let status = settled(&agent, &broker, total);
    assert!(agent.terminate().success());
    // At least once: a window may be there again, with the same values.
    let (windows, repeated) = rig::in_kafka(&kafka);
    report(&format!("kafka, {repeated} windows twice"), start, total, kills(), &status);
    assert_same_but(&windows, &expected(total), &killed_at);
    counted_once(&status, total);
}

/// A kill before anything is there, then one that finds half of a store, and so on.
#[test]
fn kills_during_the_very_first_start_leave_a_directory_that_starts() {
    let directory = Directory::new();
    let (path, mut chance) = (directory.path(), Chance::new());
    let broker = rig::broker(path);
    Agent::write_config(path, &rig::config(broker.port, FILE_OUTPUT));
    // What a start has done is told by what lies in its directory; at some size of it the kill comes.
    let whole = {
        let agent = Agent::spawn_written(path);
        agent.wait_ready();
        agent.kill();
        files(path)
    };
    for _ in 0..kills() {
        std::fs::remove_dir_all(path.join("state")).expect("the state can be removed");
        let at = chance.below(whole + 1);
        for _ in 0..2 {
            let agent = Agent::spawn_written(path);
            eventually("the start has come so far", || (files(path) >= at || agent.get("/ready").is_some()).then_some(()));
            agent.kill();
        }
    }
    let agent = subscribed(path, &broker, FILE_OUTPUT);
    let stream = Stream::start(broker.port, 0);
    stream.advance(PER_SECOND);
    let total = stream.stop();
    settle(&agent, &broker, total);
    assert!(agent.terminate().success());
    assert_in_file(path, total);
}

/// Files of the store that are there, and allocated blocks of them.
fn files(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(path.join("state")).into_iter().flatten();
    entries.filter_map(|entry| Some(1 + entry.ok()?.metadata().ok()?.blocks())).sum()
}

#[test]
fn kills_during_reloads_and_during_stops_count_nothing_twice_and_lose_nothing() {
    let directory = Directory::new();
    let (path, mut chance) = (directory.path(), Chance::new());
    let broker = rig::broker(path);
    let mut agent = subscribed(path, &broker, FILE_OUTPUT);
    let stream = Stream::start(broker.port, 0);
    for round in 0..kills() {
        stream.advance(chance.below(PER_SECOND / 4));
        agent.wait_ready();
        // The second configuration has an alert more, so that state is migrated to and fro.
        let more = if round % 4 < 2 { "[[alerts]]\nname = \"never\"\nwhen = \"n < 0\"\nby = [\"device\"]\n" } else { "" };
        if round % 2 == 0 {
            Agent::write_config(path, &rig::config(broker.port, &format!("{FILE_OUTPUT}{more}")));
            agent.signal("HUP");
        } else {
            agent.signal("TERM");
        }
        stream.advance(chance.below(PER_SECOND / 8));
        agent.kill();
        agent = Agent::spawn_written(path);
    }
    let total = stream.stop();
    agent.wait_ready();
    settle(&agent, &broker, total);
    assert!(agent.terminate().success());
    assert_in_file(path, total);
}

#[test]
fn two_kills_in_quick_succession_find_the_same_journal_twice() {
    let directory = Directory::new();
    let (path, mut chance) = (directory.path(), Chance::new());
    let broker = rig::broker(path);
    let mut agent = subscribed(path, &broker, FILE_OUTPUT);
    let stream = Stream::start(broker.port, 0);
    for _ in 0..kills() {
        stream.advance(PER_SECOND / 2);
        for _ in 0..2 {
            agent.kill();
            agent = Agent::spawn_written(path);
            // The control socket opens after the replay; before that only the log tells that it is there at all.
            stream.advance(chance.below(PER_SECOND / 16));
        }
    }
    let total = stream.stop();
    agent.wait_ready();
    settle(&agent, &broker, total);
    assert!(agent.terminate().success());
    assert_in_file(path, total);
}
