//! The listeners with real connections.

#![allow(clippy::unwrap_used)]

use std::{io::Write, time::Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use weir_plugin_api::{
    collector::Shape,
    plugin::Stop,
    position::Resume,
    testing::{Receiver, collector_with, context},
};

use super::*;

struct Running {
    receiver: Receiver,
    lines: Vec<String>,
    stop: Stop,
    task: JoinHandle<Result<(), PluginError>>,
    address: String,
}

impl Running {
    async fn start(api: Api, batches: usize, change: impl FnOnce(&mut ListenerSettings)) -> Self {
        let mut settings = ListenerSettings {
            api,
            address: "127.0.0.1:0".into(),
            access: Access::Open,
            body_max: 4 << 20,
            read_timeout: Duration::from_secs(20),
            write_timeout: Duration::from_secs(20),
            database_tag: None,
            policy_tag: None,
        };
        change(&mut settings);
        let listener = Listener::new(settings);
        let socket = listener.bind().await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let (collector, receiver, _) = collector_with(Shape::default(), batches);
        let mut context = context(collector, Resume::default());
        let stop = context.stop.clone();
        let task = tokio::spawn(async move { listener.serve(socket, &mut context).await });
        Self { receiver, lines: Vec::new(), stop, task, address }
    }

    /// Sends a request on a connection of its own.
    fn ask(&self, head: &str, body: &[u8]) -> JoinHandle<String> {
        let (address, mut bytes) = (self.address.clone(), head.replace('\n', "\r\n").into_bytes());
        bytes.extend_from_slice(format!("Host: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes());
        bytes.extend_from_slice(body);
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // A server that refuses a body may not read it to its end.
            let _ = stream.write_all(&bytes).await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8(answer).unwrap()
        })
    }

    /// Plays the core until the answer is there.
    async fn answer(&mut self, mut asked: JoinHandle<String>) -> String {
        let begun = Instant::now();
        while !asked.is_finished() {
            let more = self.receiver.take();
            self.lines.extend(more);
            assert!(begun.elapsed() < Duration::from_secs(20), "no answer; {:?}", self.lines);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        (&mut asked).await.unwrap()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_write_is_answered_only_when_it_is_durable() {
    let mut running = Running::start(Api::V2, 16, |s| s.database_tag = Some("bucket".into())).await;
    running.receiver.acknowledge = false;
    let mut asked = running.ask("POST /api/v2/write?org=o&bucket=my%20b&precision=ms HTTP/1.1\n", b"m,a=b v=1i 5\nm v=2 6");
    let begun = Instant::now();
    while running.lines.len() < 2 {
        let more = running.receiver.take();
        running.lines.extend(more);
        assert!(begun.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(running.lines, ["m,a=b,bucket=my\\ b v=1i 5000000", "m,bucket=my\\ b v=2 6000000"]);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut asked).await.is_err(), "answered before it was durable");
    running.receiver.ring.acknowledge(1);
    assert!(asked.await.unwrap().starts_with("HTTP/1.1 204"));
}

#[tokio::test]
async fn a_large_packed_body_is_taken_in_pieces() {
    let mut running = Running::start(Api::V1, 4, |_| {}).await;
    let body: String = (0..60_000).map(|i| format!("m,host=a{} value={i},other=1.5 {i}\n", i % 10)).collect();
    assert!(body.len() > 2_000_000);
    let asked = running.ask("POST /write?db=x HTTP/1.1\nContent-Encoding: gzip\n", &gzip(body.as_bytes()));
    let answer = running.answer(asked).await;
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert_eq!(running.lines.len(), 60_000);
    assert_eq!(running.lines[59_999], "m,host=a9 value=59999,other=1.5 59999");
}

#[tokio::test]
async fn a_bad_line_is_named_and_the_others_are_kept() {
    let mut running = Running::start(Api::V1, 4, |_| {}).await;
    let asked = running.ask("POST /write HTTP/1.1\n", b"m v=1 1\nrubbish\nm v=3 3\n");
    let answer = running.answer(asked).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("partial write: line 2"), "{answer}");
    assert_eq!(running.lines, ["m v=1 1", "m v=3 3"]);
}

#[tokio::test]
async fn a_core_that_takes_nothing_makes_the_client_come_again() {
    let running = Running::start(Api::V2, 2, |s| s.write_timeout = Duration::from_millis(200)).await;
    let answer = running.ask("POST /api/v2/write HTTP/1.1\n", b"m v=1 1").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.to_lowercase().contains("retry-after: 2"), "{answer}");
}

#[tokio::test]
async fn only_who_is_known_may_write() {
    let mut running = Running::start(Api::V2, 4, |s| s.access = Access::Token(Secret::new("t0ken"))).await;
    let asked = running.ask("POST /api/v2/write HTTP/1.1\nAuthorization: Token wrong\n", b"m v=1 1");
    assert!(running.answer(asked).await.starts_with("HTTP/1.1 401"));
    let asked = running.ask("POST /api/v2/write HTTP/1.1\nAuthorization: Token t0ken\n", b"m v=2 2");
    assert!(running.answer(asked).await.starts_with("HTTP/1.1 204"));
    assert_eq!(running.lines, ["m v=2 2"]);
    let access = |s: &mut ListenerSettings| s.access = Access::Basic(Secret::new("user"), Secret::new("pass"));
    let mut running = Running::start(Api::V1, 4, access).await;
    let asked = running.ask("POST /write HTTP/1.1\nAuthorization: Basic dXNlcjpwYXNz\n", b"m v=3 3");
    assert!(running.answer(asked).await.starts_with("HTTP/1.1 204"));
}

#[tokio::test]
async fn too_large_broken_and_bombed_bodies_are_refused() {
    let mut running = Running::start(Api::V1, 4, |s| s.body_max = 10_000).await;
    let asked = running.ask("POST /write HTTP/1.1\n", &[b'x'; 10_001]);
    assert!(running.answer(asked).await.starts_with("HTTP/1.1 413"));
    let asked = running.ask("POST /write HTTP/1.1\nContent-Encoding: gzip\n", &gzip(&vec![b'\n'; 50_000_000]));
    assert!(running.answer(asked).await.starts_with("HTTP/1.1 413"));
    let asked = running.ask("POST /write HTTP/1.1\nContent-Encoding: gzip\n", b"m v=1 1");
    assert!(running.answer(asked).await.starts_with("HTTP/1.1 400"));
    let packed = gzip(b"m v=1 1\n");
    let asked = running.ask("POST /write HTTP/1.1\nContent-Encoding: gzip\n", &packed[..packed.len() - 9]);
    assert!(running.answer(asked).await.starts_with("HTTP/1.1 400"));
    let asked = running.ask("POST /write?precision=fortnight HTTP/1.1\n", b"m v=1 1");
    assert!(running.answer(asked).await.contains("invalid precision"));
    assert!(running.lines.is_empty());
}

#[tokio::test]
async fn clients_find_what_they_ask_before_they_write() {
    let mut running = Running::start(Api::V1, 4, |_| {}).await;
    let asked = running.ask("POST /query?q=CREATE+DATABASE+x HTTP/1.1\n", b"");
    assert!(running.answer(asked).await.contains(r#"{"results":[{"statement_id":0}]}"#));
    let asked = running.ask("GET /ping HTTP/1.1\n", b"");
    let answer = running.answer(asked).await;
    assert!(answer.starts_with("HTTP/1.1 204") && answer.contains("x-influxdb-version"), "{answer}");
    let mut running = Running::start(Api::V2, 4, |_| {}).await;
    let asked = running.ask("GET /health HTTP/1.1\n", b"");
    assert!(running.answer(asked).await.contains(r#""status":"pass""#));
}

#[tokio::test]
async fn a_stop_answers_what_was_begun_and_ends() {
    let mut running = Running::start(Api::V2, 16, |_| {}).await;
    let asked: Vec<_> = (0..8).map(|i| running.ask("POST /api/v2/write HTTP/1.1\n", format!("m v={i} {i}").as_bytes())).collect();
    for asked in asked {
        assert!(running.answer(asked).await.starts_with("HTTP/1.1 204"));
    }
    assert_eq!(running.lines.len(), 8);
    running.stop.request();
    running.task.await.unwrap().unwrap();
}
