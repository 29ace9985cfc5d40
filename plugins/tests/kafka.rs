//! The Kafka output against a real broker. One broker serves the whole test: it takes seconds to start.
#![cfg(all(feature = "output-kafka", feature = "codec-influx"))]
#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use support::{Process, build, certificate, free_port, text, texts};
use tempfile::TempDir;
use weir_plugin_api::{
    Identity, Lane, Points, Series, Value,
    chunk::ChunkBuilder,
    options::Item,
    plugin::{AgentId, Outcome, Output, OutputResume},
};
use weir_plugins::outputs;

mod support;
#[path = "kafka/transactions.rs"]
mod transactions;

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
        let process = Self::spawn(directory.path(), port, controller, &[]);
        Self { port, controller, directory, process }
    }

    /// A broker that also listens with TLS and SASL on one port, with TLS and certificates of its clients on another.
    fn secure(certificate: &(PathBuf, PathBuf), user: (&str, &str)) -> (Self, u16, u16) {
        let (port, controller, directory) = (free_port(), free_port(), tempfile::tempdir().unwrap());
        let (sasl, mutual, trust) = (free_port(), free_port(), certificate.0.display());
        let identity = directory.path().join("identity.pem");
        let pem = [&certificate.1, &certificate.0].map(|file| std::fs::read_to_string(file).unwrap()).concat();
        std::fs::write(&identity, pem).unwrap();
        let own = |scheme: &str, port| format!("{scheme}://127.0.0.1:{port}");
        let listeners = [own("PLAINTEXT", port), own("SASL_SSL", sasl), own("SSL", mutual)].join(",");
        let login = |module: &str| format!("org.apache.kafka.common.security.{module} required");
        let lines = [
            format!("listeners={listeners},{}", own("CONTROLLER", controller)),
            format!("advertised.listeners={listeners}"),
            "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL".into(),
            format!("ssl.keystore.type=PEM\nssl.keystore.location={}", identity.display()),
            format!("ssl.truststore.type=PEM\nssl.truststore.location={trust}"),
            "listener.name.ssl.ssl.client.auth=required".into(),
            "listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512".into(),
            format!(
                "listener.name.sasl_ssl.plain.sasl.jaas.config={} user_{}=\"{}\" user_guest=\"guest\";",
                login("plain.PlainLoginModule"),
                user.0,
                user.1
            ),
            // The guest may do nothing, everybody else everything.
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer".into(),
            format!("super.users=User:ANONYMOUS;User:{};User:CN=localhost", user.0),
            format!("listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={};", login("scram.ScramLoginModule")),
            format!("listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={};", login("scram.ScramLoginModule")),
        ];
        let scram = format!("name={},password={}", user.0, user.1);
        let process = Self::spawn(directory.path(), port, controller, &[&lines.join("\n"), &scram]);
        (Self { port, controller, directory, process }, sasl, mutual)
    }

    /// `more`: further lines of the configuration, then the user that SCRAM knows.
    fn spawn(directory: &Path, port: u16, controller: u16, more: &[&str]) -> Process {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/support/kafka.sh");
        let log = directory.join("log");
        let mut command = Command::new(script);
        command.arg("run").arg(directory.join("broker")).arg(port.to_string()).env("PORT_CONTROLLER", controller.to_string());
        if let [lines, user] = more {
            command.arg(lines).env("SCRAM_USER", user);
        }
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
        self.process = Self::spawn(self.directory.path(), self.port, self.controller, &[]);
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
async fn tls_and_sasl_let_in_whom_they_should() {
    let directory = tempfile::tempdir().unwrap();
    let files = certificate(directory.path());
    let (cert, key) = (files.0.to_str().unwrap(), files.1.to_str().unwrap());
    let (kafka, sasl, mutual) = Kafka::secure(&files, ("weir", "let me in"));
    let write = |port: u16, topic: &'static str, options: Vec<(&'static str, Item)>| async move {
        let mut all = vec![("topic", text(topic)), ("timeout", text("5s"))];
        all.extend(options);
        output(&format!("127.0.0.1:{port}"), all).await.write(Lane::Results, &points(0..2)).await
    };
    let login = |mechanism: &str, password: &str| {
        vec![
            ("tls_ca", text(cert)),
            ("sasl_username", text("weir")),
            ("sasl_password", text(password)),
            ("sasl_mechanism", text(mechanism)),
        ]
    };
    for (topic, mechanism) in [("plain", "PLAIN"), ("scram256", "SCRAM-SHA-256"), ("scram512", "SCRAM-SHA-512")] {
        assert_eq!(write(sasl, topic, login(mechanism, "let me in")).await, Outcome::delivered(), "{mechanism}");
        assert_eq!(kafka.consume(topic).len(), 2, "{mechanism}");
    }
    for mechanism in ["PLAIN", "SCRAM-SHA-512"] {
        let refused = write(sasl, "refused", login(mechanism, "wrong")).await;
        let (Outcome::Hold { reason } | Outcome::Retry { reason, .. }) = refused else { panic!("{mechanism}: {refused:?}") };
        assert!(reason.to_lowercase().contains("authentication") && !reason.contains("wrong"), "{mechanism}: {reason}");
    }

    for exactly_once in [false, true] {
        let options = vec![
            ("tls_ca", text(cert)),
            ("sasl_username", text("guest")),
            ("sasl_password", text("guest")),
            ("sasl_mechanism", text("PLAIN")),
            ("exactly_once", Item::Bool(exactly_once)),
        ];
        let Outcome::Hold { reason } = write(sasl, "plain", options).await else { panic!("held at once") };
        assert!(reason.contains("uthorization failed"), "{reason}");
    }

    let own = vec![("tls_ca", text(cert)), ("tls_cert", text(cert)), ("tls_key", text(key))];
    assert_eq!(write(mutual, "mutual", own).await, Outcome::delivered());
    let anyone = write(mutual, "anyone", vec![("insecure_skip_verify", Item::Bool(true))]).await;
    assert!(matches!(anyone, Outcome::Retry { .. } | Outcome::Hold { .. }), "{anyone:?}");
    // The system's authorities do not know this broker's certificate.
    let mut stranger = login("PLAIN", "let me in");
    stranger.remove(0);
    stranger.push(("enable_tls", Item::Bool(true)));
    let stranger = write(sasl, "stranger", stranger).await;
    let (Outcome::Hold { reason } | Outcome::Retry { reason, .. }) = stranger else { panic!("{stranger:?}") };
    assert!(reason.contains("certificate"), "{reason}");
    assert!(kafka.consume("refused").is_empty() && kafka.consume("stranger").is_empty() && kafka.consume("anyone").is_empty());
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
