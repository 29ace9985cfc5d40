//! `kill -9` of the stores in the middle of a fast stream: in the end they hold every window, and the right one.

use super::rig::{
    self, Chance, FILE_OUTPUT, PER_SECOND, Stream, assert_in_file, assert_same, expected, in_influx, influx_output, kills, settle,
    subscribed,
};
use crate::support::{Directory, agent::Agent, servers};

#[test]
fn influxdb_killed_in_the_middle_of_writes_holds_every_window_in_the_end() {
    let directory = Directory::new();
    let (path, mut chance) = (directory.path(), Chance::new());
    let (broker, mut influx) = (rig::broker(path), servers::influxdb(path));
    let mut agent = subscribed(path, &broker, &(influx_output(&influx) + FILE_OUTPUT));
    let stream = Stream::start(broker.port, 0);
    for _ in 0..kills() {
        stream.advance(chance.below(PER_SECOND));
        influx.kill();
        stream.advance(chance.below(PER_SECOND / 2));
        if chance.below(3) == 0 {
            agent.kill();
            agent = Agent::spawn_written(path);
        }
        influx.restart();
    }
    let total = stream.stop();
    agent.wait_ready();
    settle(&agent, &broker, total);
    assert!(agent.terminate().success());
    assert_same(&in_influx(&influx), &expected(total));
    assert_in_file(path, total);
}

#[cfg(feature = "full")]
#[test]
fn kafka_killed_in_the_middle_of_writes_holds_every_window_in_the_end() {
    let directory = Directory::new();
    let (path, mut chance) = (directory.path(), Chance::new());
    let (broker, mut kafka) = (rig::broker(path), servers::kafka(path));
    let mut agent = subscribed(path, &broker, &(rig::kafka_output(&kafka) + FILE_OUTPUT));
    let stream = Stream::start(broker.port, 0);
    // It takes its time for a start.
    for round in 0..kills().div_ceil(4) {
        stream.advance(chance.below(PER_SECOND));
        kafka.kill();
        stream.advance(chance.below(PER_SECOND / 2));
        if round % 2 == 1 {
            agent.kill();
            agent = Agent::spawn_written(path);
        }
        kafka.restart();
    }
    let total = stream.stop();
    agent.wait_ready();
    settle(&agent, &broker, total);
    assert!(agent.terminate().success());
    let (windows, repeated) = rig::in_kafka(&kafka);
    println!("{} windows in Kafka, {repeated} of them again", windows.len());
    assert_same(&windows, &expected(total));
    assert_in_file(path, total);
}
