//! The listeners over TLS, with the tools people use: curl and openssl.
#![cfg(all(feature = "input-influxdb_v2_listener", feature = "input-socket_listener", feature = "codec-value"))]
#![allow(clippy::unwrap_used)]

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use support::{PATIENCE, build, eventually, free_port, text, texts};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};
use weir_plugin_api::{
    Resume,
    options::Item,
    plugin::{AnyInput, InputEntry, PluginError, Stop},
    testing::{self, Receiver},
};
use weir_plugins::inputs::{influxdb_listener, influxdb_v2_listener, socket_listener};

mod support;

struct Running {
    port: u16,
    receiver: Receiver,
    lines: Vec<String>,
    stop: Stop,
    task: JoinHandle<Result<(), PluginError>>,
}

impl Running {
    fn start(entry: &InputEntry, scheme: &str, mut options: Vec<(&str, Item)>) -> Self {
        let port = free_port();
        options.push(("service_address", text(format!("{scheme}127.0.0.1:{port}"))));
        let AnyInput::Streaming(mut input) = build(entry, options).unwrap().input else { panic!("a streaming input") };
        let (collector, receiver) = testing::collector();
        let mut context = testing::context(collector, Resume::default());
        let stop = context.stop.clone();
        let task = tokio::spawn(async move { input.run(&mut context).await });
        Self { port, receiver, lines: Vec::new(), stop, task }
    }

    async fn listens(&self) {
        eventually("the port is open", || std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()).await;
    }

    /// Plays the core until a program has ended.
    async fn output(&mut self, mut program: Command) -> Output {
        let done = tokio::task::spawn_blocking(move || program.output().expect("the program is installed"));
        eventually("the program's end", || {
            self.lines.extend(self.receiver.take());
            done.is_finished()
        })
        .await;
        done.await.unwrap()
    }

    async fn curl(&mut self, path: &str, arguments: &[&str]) -> String {
        let mut curl = Command::new("curl");
        curl.args(["-s", "-S", "--max-time", "60", "-w", "%{http_code}", "--data-binary", "m v=1 1"]).args(arguments);
        curl.arg(format!("https://localhost:{}{path}", self.port)).args(["--resolve", &format!("localhost:{}:127.0.0.1", self.port)]);
        let output = self.output(curl).await;
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    async fn finish(mut self) -> Vec<String> {
        self.stop.request();
        eventually("the input's end", || {
            self.lines.extend(self.receiver.take());
            self.task.is_finished()
        })
        .await;
        self.task.await.unwrap().unwrap();
        self.lines
    }
}

#[tokio::test]
async fn http_listeners_speak_tls_and_may_ask_for_the_clients_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = support::certificate(directory.path());
    let (cert, key) = (cert.display().to_string(), key.display().to_string());
    let pair = || vec![("tls_cert", text(&cert)), ("tls_key", text(&key))];
    for (entry, path) in [(&influxdb_v2_listener::ENTRY, "/api/v2/write?bucket=b"), (&influxdb_listener::ENTRY, "/write?db=b")] {
        let mut running = Running::start(entry, "", pair());
        running.listens().await;
        assert_eq!(running.curl(path, &["--cacert", &cert]).await, "204");
        let stranger = running.curl(path, &[]).await;
        assert!(stranger.starts_with("000"), "the client trusts nobody it does not know: {stranger}");
        let mut plain = Command::new("curl");
        plain.args(["-s", "--max-time", "60", "-w", "%{http_code}", &format!("http://127.0.0.1:{}{path}", running.port)]);
        assert_eq!(running.output(plain).await.stdout, b"000", "nothing is said without TLS");
        assert_eq!(running.finish().await, ["m v=1 1"]);
        let options = [pair(), vec![("tls_allowed_cacerts", texts(&[&cert]))]].concat();
        let mut running = Running::start(entry, "", options);
        running.listens().await;
        let nobody = running.curl(path, &["--cacert", &cert]).await;
        assert!(nobody.starts_with("000"), "a client without a certificate: {nobody}");
        assert_eq!(running.curl(path, &["--cacert", &cert, "--cert", &cert, "--key", &key]).await, "204");
        assert_eq!(running.finish().await, ["m v=1 1"]);
    }
}

#[tokio::test]
async fn a_socket_listener_reads_lines_over_tls() {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = support::certificate(directory.path());
    let options = vec![
        ("tls_cert", text(cert.display().to_string())),
        ("tls_key", text(key.display().to_string())),
        ("data_format", text("value")),
        ("data_type", text("float")),
    ];
    let mut running = Running::start(&socket_listener::ENTRY, "tcp://", options);
    running.listens().await;
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-connect", &format!("127.0.0.1:{}", running.port), "-CAfile"])
        .arg(&cert)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = client.stdin.take().unwrap();
    Write::write_all(&mut stdin, b"1.5\n2.5\n").unwrap();
    eventually("two readings", || {
        running.lines.extend(running.receiver.take());
        running.lines.len() == 2
    })
    .await;
    // A client without TLS gets nowhere and harms nobody.
    let mut plain = tokio::net::TcpStream::connect(("127.0.0.1", running.port)).await.unwrap();
    plain.write_all(b"9\n9\n").await.unwrap();
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(PATIENCE, plain.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "it is left open");
    Write::write_all(&mut stdin, b"3.5\n").unwrap();
    eventually("the third", || {
        running.lines.extend(running.receiver.take());
        running.lines.len() == 3
    })
    .await;
    drop(stdin);
    let _ = client.kill();
    client.wait().unwrap();
    let lines = running.finish().await;
    assert!(lines[2].contains("value=3.5"), "{lines:?}");
}

#[test]
fn tls_options_that_cannot_be_used_are_reported() {
    let listen = |address: &str, extra: Vec<(&'static str, Item)>| {
        let mut options = vec![("service_address", text(address)), ("data_format", text("value"))];
        options.extend(extra);
        build(&socket_listener::ENTRY, options).err().unwrap_or_default()
    };
    assert_eq!(listen("tcp://:0", vec![("tls_cert", text("c.pem"))]), ["`tls_cert` needs `tls_key`"]);
    assert!(listen("tcp://:0", vec![("tls_cert", text("/nowhere/c.pem")), ("tls_key", text("k"))])[0].contains("/nowhere/c.pem"));
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = support::certificate(directory.path());
    let pair = vec![("tls_cert", text(cert.display().to_string())), ("tls_key", text(key.display().to_string()))];
    assert!(listen("udp://:0", pair)[0].contains("TLS needs a tcp:// address"));
}
