//! The Kafka output against a real broker. One broker serves the whole test: it takes seconds to start.
#![cfg(all(feature = "output-kafka", feature = "codec-influx"))]
#![allow(clippy::unwrap_used)]

use std::{
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use support::{Process, build, free_port, text, texts};
use tempfile::TempDir;
use weir_plugin_api::{
    Identity, Lane, Points, Series, Value,
    chunk::ChunkBuilder,
    options::Item,
    plugin::{Outcome, Output, OutputResume},
};
use weir_plugins::outputs;

mod support;

/// A broker in a directory of its own.
struct Kafka {
    port: u16,
    controller: u16,
    directory: TempDir,
    process: Process,
}

impl Kafka {
    fn start() -> Self {
        let (port, controller, directory) = (free_port(), free_port(), tempfile::tempdir().unwrap());
        let process = Self::spawn(directory.path(), port, controller);
        Self { port, controller, directory, process }
    }

    fn spawn(directory: &Path, port: u16, controller: u16) -> Process {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/support/kafka.sh");
        let log = directory.join("log");
        let mut command = Command::new(script);
        command.arg("run").arg(directory.join("broker")).arg(port.to_string()).env("PORT_CONTROLLER", controller.to_string());
        let process = Process::start(&mut command, &log);
        let start = Instant::now();
        while !Command::new("kcat").args(["-b", &format!("127.0.0.1:{port}"), "-L", "-m", "1"]).output().unwrap().status.success() {
            assert!(start.elapsed() < Duration::from_secs(90), "no broker: {}", std::fs::read_to_string(&log).unwrap_or_default());
            std::thread::sleep(Duration::from_millis(50));
        }
        process
    }

    fn restart(&mut self) {
        self.process.kill();
        self.process = Self::spawn(self.directory.path(), self.port, self.controller);
    }

    /// Everything in a topic: `key payload` per message.
    fn consume(&self, topic: &str) -> Vec<String> {
        let broker = format!("127.0.0.1:{}", self.port);
        let output =
            Command::new("kcat").args(["-b", &broker, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%k %s\\n"]).output();
        String::from_utf8(output.unwrap().stdout).unwrap().lines().map(str::to_owned).collect()
    }

    async fn output(&self, extra: Vec<(&str, Item)>) -> Box<dyn Output> {
        output(&format!("127.0.0.1:{}", self.port), extra).await
    }
}

async fn output(broker: &str, extra: Vec<(&str, Item)>) -> Box<dyn Output> {
    let mut options = vec![("brokers", texts(&[broker])), ("data_format", text("influx"))];
    options.extend(extra);
    let mut output = build(&outputs::kafka::ENTRY, options).unwrap();
    output.open(OutputResume::default()).await.unwrap();
    output
}

fn points(range: std::ops::Range<u32>) -> Points {
    let (mut builder, field): (_, Arc<str>) = (ChunkBuilder::default(), "v".into());
    for i in range {
        let series = Arc::new(Series::from_parts("m", &[("device", if i % 2 == 0 { "a" } else { "b" })]));
        builder.point(Identity { record: 1, ordinal: i }, &series, 1);
        builder.field(&field, i64::from(i) + 1, Value::Float(f64::from(i)));
    }
    Points::from(Arc::new(builder.finish()))
}

#[tokio::test]
async fn points_arrive_once_through_a_broker_that_is_killed() {
    let mut kafka = Kafka::start();

    let mut plain = kafka.output(vec![("topic", text("plain")), ("routing_tag", text("device"))]).await;
    assert_eq!(plain.write(Lane::Results, &points(0..3)).await, Outcome::delivered());
    assert_eq!(kafka.consume("plain"), ["a m,device=a v=0 1", "b m,device=b v=1 2", "a m,device=a v=2 3"]);

    for codec in 0..=4 {
        let topic = format!("codec{codec}");
        let options = vec![("topic", text(&topic)), ("compression_codec", Item::Int(codec)), ("layout", text("batch"))];
        assert_eq!(kafka.output(options).await.write(Lane::Results, &points(0..2)).await, Outcome::delivered());
        assert_eq!(kafka.consume(&topic), [" m,device=a v=0 1", "m,device=b v=1 2", ""], "codec {codec}");
    }

    // A message that is too large costs only itself.
    let mut small = kafka.output(vec![("topic", text("small")), ("max_message_bytes", Item::Int(1000))]).await;
    let field: Arc<str> = "v".into();
    let mut builder = ChunkBuilder::default();
    for (ordinal, text) in ["short", &"long".repeat(1000)].iter().enumerate() {
        builder.point(Identity { record: 1, ordinal: ordinal as u32 }, &Arc::new(Series::from_parts("m", &[])), 1);
        builder.field(&field, 1, Value::Text(text));
    }
    let Outcome::Delivered { rejected, .. } = small.write(Lane::Results, &Points::from(Arc::new(builder.finish()))).await else {
        panic!("delivered")
    };
    assert_eq!(rejected.iter().map(|r| (r.index, r.status.as_str())).collect::<Vec<_>>(), [(1, "too_large")]);
    assert_eq!(kafka.consume("small"), [" m v=\"short\" 1"]);

    // The broker is killed and comes back while the write goes on.
    let mut through = kafka.output(vec![("topic", text("through"))]).await;
    assert_eq!(through.write(Lane::Results, &points(0..1000)).await, Outcome::delivered());
    kafka.process.kill();
    let writing = tokio::spawn(async move { (through.write(Lane::Results, &points(1000..2000)).await, through) });
    kafka.restart();
    let (outcome, mut through) = writing.await.unwrap();
    assert_eq!(outcome, Outcome::delivered());
    assert_eq!(kafka.consume("through").len(), 2000);
    through.close().await;
}

#[tokio::test]
async fn a_broker_that_is_down_is_a_retry_within_the_timeout() {
    let broker = format!("127.0.0.1:{}", free_port());
    let start = Instant::now();
    let mut output = output(&broker, vec![("topic", text("t")), ("timeout", text("500ms"))]).await;
    assert!(start.elapsed() < Duration::from_secs(1), "opening waits for nobody");
    let Outcome::Retry { reason, .. } = output.write(Lane::Results, &points(0..10)).await else { panic!("a retry") };
    assert!(reason.contains("Connection refused") || reason.contains("timed out"), "{reason}");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[tokio::test]
async fn a_write_that_is_dropped_ends_its_thread_soon() {
    let mut output = output(&format!("127.0.0.1:{}", free_port()), vec![("topic", text("t"))]).await;
    let points = points(0..10);
    let write = tokio::time::timeout(Duration::from_millis(50), output.write(Lane::Results, &points)).await;
    assert!(write.is_err());
    let start = Instant::now();
    output.close().await;
    assert!(start.elapsed() < Duration::from_secs(5));
}
