//! Brokers that are restarted, forget, lose acknowledgements, run over: what they hold is counted once, what they lose is theirs.

use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

use super::rig::{
    self, Chance, DEVICES, FILE_OUTPUT, PER_SECOND, Stream, assert_in_file, balances, expected, expected_of, in_file, input, kills,
    passed_and_windows, settle, subscribed, subscribed_with, wait_recorded, wait_subscribed,
};
use crate::support::{
    Directory,
    agent::Agent,
    eventually,
    link::Link,
    mqtt::Publisher,
    servers::{self, Server},
};

#[test]
fn acknowledgements_that_do_not_arrive_before_a_kill_make_no_reading_count_twice() {
    let directory = Directory::new();
    let (path, mut chance) = (directory.path(), Chance::new());
    let broker = rig::broker(path);
    let link = Link::to(broker.port);
    let mut agent = subscribed_with(path, &broker, &rig::config(link.port, FILE_OUTPUT));
    let stream = Stream::start(broker.port, 0);
    for round in 1..=kills() {
        stream.advance(chance.below(PER_SECOND / 4));
        wait_recorded(&agent, stream.sent());
        let before = input(&agent, "recorded");
        link.lose_what_is_sent();
        // A broker that hears of nothing sends no more than its window has room for.
        rig::wait_recorded_or_standing(&agent, before + 1 + chance.below(500), Duration::from_secs(2));
        agent.kill();
        agent = Agent::spawn_written(path);
        agent.wait_ready();
        eventually("it is repeated and recognised", || (input(&agent, "duplicate") >= round).then_some(()));
    }
    let total = stream.stop();
    settle(&agent, &broker, total);
    assert!(agent.terminate().success());
    assert_in_file(path, total);
}

#[test]
fn a_broker_restarted_with_its_sessions_and_kills_in_between_repeat_nothing_in_the_windows() {
    let directory = Directory::new();
    let (path, mut chance) = (directory.path(), Chance::new());
    let mut broker = rig::broker(path);
    let mut agent = subscribed(path, &broker, FILE_OUTPUT);
    let mut total = 0;
    for _ in 0..kills() {
        let stream = Stream::start(broker.port, total);
        stream.advance(chance.below(PER_SECOND / 2));
        if chance.below(2) == 0 {
            agent.kill();
            agent = Agent::spawn_written(path);
        }
        stream.advance(chance.below(PER_SECOND / 4));
        // The publisher is drained, the agent is not: it goes while readings are on their way.
        total = stream.stop();
        broker.stop();
        if chance.below(2) == 0 {
            agent.kill();
            agent = Agent::spawn_written(path);
        }
        broker.restart();
    }
    agent.wait_ready();
    settle(&agent, &broker, total);
    assert!(agent.terminate().success());
    assert_in_file(path, total);
}

/// Windows, and the readings themselves beside them.
const PASSING: &str = "drop_original = false\n";

/// What arrived although the broker lost readings: each at most once, and the windows are theirs. How many of them.
fn each_once(path: &Path) -> u64 {
    let (numbers, windows) = passed_and_windows(path);
    let distinct: BTreeSet<u64> = numbers.iter().copied().collect();
    assert_eq!(distinct.len(), numbers.len(), "each at most once");
    assert_eq!(windows, expected_of(distinct));
    numbers.len() as u64
}

/// Closes all windows behind everything the broker still has, and waits until they have left. How many readings arrived.
fn finish(agent: Agent, broker: &Server, path: &Path, total: u64) -> u64 {
    rig::close_windows(broker.port, total);
    eventually("every window has left", || {
        let recorded = input(&agent, "recorded").checked_sub(DEVICES)?;
        let (numbers, windows) = passed_and_windows(path);
        (numbers.len() as u64 == recorded && windows == expected_of(numbers)).then_some(())
    });
    balances(&agent.status());
    assert!(agent.terminate().success());
    each_once(path)
}

#[test]
fn a_broker_that_forgets_the_session_costs_what_it_has_forgotten_and_nothing_counts_twice() {
    let directory = Directory::new();
    let (path, mut chance) = (directory.path(), Chance::new());
    let mut broker = rig::broker_with(path, "persistence false\n");
    let mut agent = subscribed(path, &broker, &format!("{PASSING}{FILE_OUTPUT}"));
    let mut total = 0;
    for _ in 0..kills() {
        let stream = Stream::start(broker.port, total);
        stream.advance(1 + chance.below(PER_SECOND / 4));
        total = stream.stop();
        // Readings are on their way, recorded, or recorded and not acknowledged.
        broker.kill();
        if chance.below(2) == 0 {
            agent.kill();
            agent = Agent::spawn_written(path);
            agent.wait_ready();
        }
        broker.restart();
        wait_subscribed(&agent, &broker);
    }
    let arrived = finish(agent, &broker, path, total);
    println!("{arrived} of {total} readings arrived through {} losses of the session", kills());
    assert!(arrived > 0);
}

/// mosquitto sends far more than it was asked to at most when many messages have waited, and what it has not read of the
/// acknowledgements when a connection breaks it never reads: it repeats not one window but tens of thousands of messages.
#[test]
fn a_long_backlog_is_counted_once_when_the_broker_reads_no_acknowledgements_before_a_kill() {
    const BACKLOG: u64 = 100_000;
    let directory = Directory::new();
    let (path, mut chance) = (directory.path(), Chance::new());
    let broker = rig::broker(path);
    subscribed(path, &broker, FILE_OUTPUT).kill();
    let mut publisher = Publisher::connect(broker.port, "backlog");
    for n in 0..BACKLOG {
        let (topic, payload) = rig::reading(n);
        publisher.publish(&topic, payload.as_bytes());
    }
    publisher.drain();
    let mut agent = Agent::spawn_written(path);
    agent.wait_ready();
    for at in [10_000, 40_000, 70_000] {
        wait_recorded(&agent, at + chance.below(10_000));
        broker.signal("STOP");
        let (before, mut recorded) = (input(&agent, "recorded"), 0);
        eventually("what is in the buffers is recorded", || {
            let before = std::mem::replace(&mut recorded, input(&agent, "recorded"));
            (before == recorded).then_some(())
        });
        agent.kill();
        broker.signal("CONT");
        println!("{} readings while the broker read nothing, {recorded} before the kill", recorded - before);
        agent = Agent::spawn_written(path);
        agent.wait_ready();
    }
    let status = settle(&agent, &broker, BACKLOG);
    println!("{} of {BACKLOG} readings were repeated and recognised", status["inputs"][0]["duplicate"]);
    assert!(agent.terminate().success());
    assert_in_file(path, BACKLOG);
}

/// Messages the broker says it has dropped so far.
fn dropped(broker: &Server) -> u64 {
    let port = broker.port.to_string();
    let said = |topic: &str, messages: &str| {
        let topic = format!("$SYS/broker/{topic}");
        let arguments = ["-p", &port, "-t", &topic, "-C", messages, "-W", "60"];
        let output = Command::new("mosquitto_sub").args(arguments).output().expect("mosquitto_sub runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // It counts anew every other second, all at once: behind the time it said last and another one stands what has been dropped until now.
    assert_eq!(said("uptime", "2").lines().count(), 2, "the broker counts");
    said("publish/messages/dropped", "1").trim().parse().expect("a number")
}

#[test]
fn a_broker_whose_queue_runs_over_counts_what_it_drops_and_the_agent_counts_the_rest_once() {
    let directory = Directory::new();
    let path = directory.path();
    let broker = servers::mosquitto(path, "max_queued_messages 500\nautosave_on_changes false\nautosave_interval 0\nsys_interval 1\n");
    let agent = subscribed(path, &broker, &format!("{PASSING}{FILE_OUTPUT}"));
    agent.kill();
    let stream = Stream::start(broker.port, 0);
    stream.advance(PER_SECOND / 2);
    let total = stream.stop();
    let lost = dropped(&broker);
    assert!(lost > 0, "its queue has run over");
    let agent = Agent::spawn_written(path);
    agent.wait_ready();
    let arrived = finish(agent, &broker, path, total);
    assert_eq!(arrived + lost, total, "nothing is lost but what the broker says");
}

/// A publisher that had no answer publishes again, marked so. That mark is between it and the broker: to a subscriber it is a message
/// like any other, and so it counts.
#[test]
fn what_a_publisher_repeats_is_published_twice_and_counts_twice() {
    let directory = Directory::new();
    let path = directory.path();
    let broker = rig::broker(path);
    let agent = subscribed(path, &broker, FILE_OUTPUT);
    let mut publisher = Publisher::connect(broker.port, "repeats");
    for n in 0..100 {
        let (topic, payload) = rig::reading(n);
        publisher.publish(&topic, payload.as_bytes());
        publisher.publish_again(&topic, payload.as_bytes());
    }
    publisher.drain();
    wait_recorded(&agent, 200);
    rig::close_windows(broker.port, 100);
    let twice: rig::Windows = expected(100).into_iter().map(|(key, (count, sum))| (key, (2 * count, 2 * sum))).collect();
    eventually("the windows are there", || (in_file(path) == (twice.clone(), 0)).then_some(()));
    let status = agent.status();
    balances(&status);
    assert_eq!(status["inputs"][0]["duplicate"], 0, "{status}");
    assert!(agent.terminate().success());
}
