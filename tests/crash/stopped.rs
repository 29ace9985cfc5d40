//! Processes that stand still for longer than others wait for them, and then go on as if nothing had happened.

use super::rig::{
    self, Chance, FILE_OUTPUT, PER_SECOND, Stream, assert_in_file, assert_same, expected, in_influx, influx_output, settle, subscribed_with,
};
use crate::support::{Directory, agent::Agent, eventually, servers};

/// Stops of one test.
const STOPS: usize = 2;

#[test]
fn an_agent_that_stood_still_until_the_broker_gave_it_up_goes_on_and_counts_each_reading_once() {
    let directory = Directory::new();
    let (path, mut chance) = (directory.path(), Chance::new());
    let broker = rig::broker(path);
    let config = rig::config(broker.port, FILE_OUTPUT).replace("keepalive = \"60s\"", "keepalive = \"1s\"");
    let mut agent = subscribed_with(path, &broker, &config);
    let stream = Stream::start(broker.port, 0);
    for round in 1..=STOPS {
        stream.advance(chance.below(PER_SECOND / 4));
        agent.signal("STOP");
        eventually("the broker gives it up", || {
            let log = std::fs::read_to_string(path.join("mosquitto.log")).unwrap_or_default();
            (log.matches("weir-kills has exceeded timeout").count() >= round).then_some(())
        });
        stream.advance(chance.below(PER_SECOND / 4));
        if round == STOPS {
            // Killed as it stands.
            agent.kill();
            agent = Agent::spawn_written(path);
            agent.wait_ready();
        } else {
            agent.signal("CONT");
            eventually("it is back", || (agent.log().matches("connected input=").count() > round).then_some(()));
        }
    }
    let total = stream.stop();
    settle(&agent, &broker, total);
    assert!(agent.terminate().success());
    assert_in_file(path, total);
}

#[test]
fn a_broker_that_stood_still_until_the_agent_gave_it_up_goes_on_and_each_reading_counts_once() {
    let directory = Directory::new();
    let (path, mut chance) = (directory.path(), Chance::new());
    let broker = rig::broker(path);
    let config = rig::config(broker.port, FILE_OUTPUT)
        .replace("keepalive = \"60s\"", "keepalive = \"2s\"\nping_timeout = \"1s\"\nconnection_timeout = \"1s\"");
    let agent = subscribed_with(path, &broker, &config);
    let stream = Stream::start(broker.port, 0);
    for round in 1..=STOPS {
        stream.advance(1 + chance.below(PER_SECOND / 4));
        broker.signal("STOP");
        let given_up = agent.log().matches("no connection to the broker").count();
        eventually("the agent gives it up", || (agent.log().matches("no connection to the broker").count() > given_up).then_some(()));
        broker.signal("CONT");
        eventually("it is back", || (agent.log().matches("connected input=").count() > round).then_some(()));
    }
    let total = stream.stop();
    settle(&agent, &broker, total);
    assert!(agent.terminate().success());
    assert_in_file(path, total);
}

#[test]
fn a_store_that_stands_still_for_longer_than_a_write_may_take_gets_each_window_right() {
    let directory = Directory::new();
    let (path, mut chance) = (directory.path(), Chance::new());
    let (broker, influx) = (rig::broker(path), servers::influxdb(path));
    let config = rig::config(broker.port, &(influx_output(&influx) + "timeout = \"1s\"\n" + FILE_OUTPUT));
    let mut agent = subscribed_with(path, &broker, &config);
    let stream = Stream::start(broker.port, 0);
    for round in 1..=STOPS {
        // Windows leave some seconds of event time after their end.
        stream.advance(PER_SECOND * 2 + chance.below(PER_SECOND));
        influx.signal("STOP");
        eventually("a write has failed", || (agent.log().matches("write failed").count() >= round).then_some(()));
        if round == STOPS {
            agent.kill();
            agent = Agent::spawn_written(path);
            agent.wait_ready();
        }
        influx.signal("CONT");
    }
    let total = stream.stop();
    settle(&agent, &broker, total);
    assert!(agent.terminate().success());
    assert_same(&in_influx(&influx), &expected(total));
    assert_in_file(path, total);
}
