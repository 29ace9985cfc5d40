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

/// Longest time anything may take to come true.
const PATIENCE: Duration = Duration::from_secs(60);

struct Running {
    receiver: Receiver,
    lines: Vec<String>,
    stop: Stop,
    task: JoinHandle<Result<(), PluginError>>,
    address: String,
}

impl Running {
    async fn start(api: Api, batches: usize, change: impl FnOnce(&mut ListenerSettings)) -> Self {
        Self::resume(api, batches, change, Resume::default()).await
    }

    async fn resume(api: Api, batches: usize, change: impl FnOnce(&mut ListenerSettings), resume: Resume) -> Self {
        let mut settings = ListenerSettings {
            api,
            address: "127.0.0.1:0".into(),
            access: Access::Open,
            body_max: 4 << 20,
            tls: None,
            connections_max: 0,
            read_timeout: PATIENCE,
            write_timeout: PATIENCE,
            database_tag: None,
            policy_tag: None,
        };
        change(&mut settings);
        let mut listener = Listener::new(settings);
        let socket = listener.bind().await.unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let (collector, receiver, _) = collector_with(Shape::default(), batches);
        let mut context = context(collector, resume);
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
            assert!(begun.elapsed() < PATIENCE, "no answer; {:?}", self.lines);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        (&mut asked).await.unwrap()
    }
}

/// Waits until the core has seen what is asked for.
async fn until(running: &mut Running, what: &str, mut holds: impl FnMut(&Running) -> bool) {
    let begun = Instant::now();
    loop {
        let more = running.receiver.take();
        running.lines.extend(more);
        if holds(running) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}; {:?} {:?}", running.lines, running.receiver.counts);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Reads until the server closes the connection, at most for [`PATIENCE`].
async fn closed(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection stays open: {}", String::from_utf8_lossy(&answer));
    String::from_utf8(answer).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
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
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(running.lines, ["m,a=b,bucket=my\\ b v=1i 5000000", "m,bucket=my\\ b v=2 6000000"]);
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut asked).await.is_err(), "answered before it was durable");
    running.receiver.ring.acknowledge(1);
    assert!(asked.await.unwrap().starts_with("HTTP/1.1 204"));
}

/// A few packed kilobytes grew to a piece of more points than a message may have, and all of them were refused.
#[tokio::test]
async fn what_little_packed_bytes_grow_to_is_taken_in_pieces_too() {
    let mut running = Running::start(Api::V2, 16, |s| s.body_max = 8 << 20).await;
    let lines = 600_000;
    let body = gzip(&b"m v=1 1\n".repeat(lines));
    assert!(body.len() < 64 * 1024, "{}", body.len());
    let asked = running.ask("POST /api/v2/write?bucket=b HTTP/1.1\nContent-Encoding: gzip\n", &body);
    let answer = running.answer(asked).await;
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    assert_eq!((running.lines.len(), running.receiver.counts.refused_size), (lines, 0));
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
    until(&mut running, "all are counted", |r| r.receiver.counts.read == 4).await;
    let counts = &running.receiver.counts;
    assert_eq!((counts.refused_size, counts.refused_frame), (2, 2));
    assert!(running.lines.is_empty());
}

#[tokio::test]
async fn a_client_that_is_slow_or_silent_is_left() {
    let mut running = Running::start(Api::V1, 4, |s| s.read_timeout = Duration::from_millis(150)).await;
    // Nothing at all; a head that never ends, a byte now and then; a body that stops; a second request that never comes.
    let mut silent = TcpStream::connect(&running.address).await.unwrap();
    let mut slow = TcpStream::connect(&running.address).await.unwrap();
    let dripping = tokio::spawn(async move {
        let _ = slow.write_all(b"POST /write HTTP/1.1\r\n").await;
        let begun = Instant::now();
        while slow.write_all(b"X: y\r\n").await.is_ok() {
            assert!(begun.elapsed() < PATIENCE, "a head without end is read for ever");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut half = TcpStream::connect(&running.address).await.unwrap();
    half.write_all(b"POST /write HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nm v=1 1\n").await.unwrap();
    let mut idle = TcpStream::connect(&running.address).await.unwrap();
    idle.write_all(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(closed(&mut silent).await, "");
    assert!(closed(&mut half).await.starts_with("HTTP/1.1 408"));
    assert!(closed(&mut idle).await.starts_with("HTTP/1.1 204"));
    dripping.await.unwrap();
    until(&mut running, "the half body is counted", |r| r.receiver.counts.refused_frame == 1).await;
    assert!(running.lines.is_empty());
}

#[tokio::test]
async fn a_client_that_asks_and_reads_no_answer_is_left() {
    let running = Running::start(Api::V1, 4, |s| s.write_timeout = Duration::from_millis(150)).await;
    let mut stream = TcpStream::connect(&running.address).await.unwrap();
    let asking = async {
        let questions = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
        while stream.write_all(&questions).await.is_ok() {}
    };
    let left = tokio::time::timeout(PATIENCE, asking).await;
    assert!(left.is_ok(), "it holds its connection for ever");
}

#[tokio::test]
async fn a_connection_past_the_limit_is_closed_and_the_others_go_on() {
    let mut running = Running::start(Api::V1, 4, |s| s.connections_max = 2).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(&running.address).await.unwrap();
        stream.write_all(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        held.push(stream);
    }
    let mut third = TcpStream::connect(&running.address).await.unwrap();
    assert_eq!(closed(&mut third).await, "");
    drop(held.pop());
    let begun = Instant::now();
    loop {
        let asked = running.ask("POST /write HTTP/1.1\n", b"m v=1 1");
        if running.answer(asked).await.starts_with("HTTP/1.1 204") {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "a place that is free again is given");
    }
    assert_eq!(running.lines, ["m v=1 1"]);
}

#[tokio::test]
async fn a_body_that_breaks_off_leaves_nothing_but_a_count() {
    let mut running = Running::start(Api::V2, 4, |_| {}).await;
    for head in ["Content-Length: 1000\r\n\r\nm v=1 1\nm v=2 2\n", "Transfer-Encoding: chunked\r\n\r\n9\r\nm v=1 1\n\n\r\n"] {
        let mut stream = TcpStream::connect(&running.address).await.unwrap();
        stream.write_all(format!("POST /api/v2/write HTTP/1.1\r\nHost: x\r\n{head}").as_bytes()).await.unwrap();
        drop(stream);
    }
    until(&mut running, "both are counted", |r| r.receiver.counts.refused_frame == 2).await;
    assert!(running.lines.is_empty());
}

#[tokio::test]
async fn a_request_with_a_key_is_taken_once_also_after_a_crash() {
    let mut running = Running::start(Api::V2, 16, |_| {}).await;
    let body: String = (0..3000).map(|i| format!("m v={i} {i}\n")).collect();
    let head = "POST /api/v2/write HTTP/1.1\nIdempotency-Key: a-1\n";
    for _ in 0..2 {
        let asked = running.ask(head, body.as_bytes());
        assert!(running.answer(asked).await.starts_with("HTTP/1.1 204"));
    }
    let asked = running.ask(head, b"m v=1 1");
    assert!(running.answer(asked).await.starts_with("HTTP/1.1 204"));
    assert_eq!(running.lines.len(), 3001, "another body under the same key is another request");
    assert_eq!((running.receiver.counts.duplicate, running.receiver.counts.read), (1, 3002));
    assert_eq!(running.receiver.positions.len(), 2, "a request is in one batch with its key");
    let mut resume = Resume::default();
    running.receiver.positions.iter().for_each(|p| resume.apply(p));
    let mut running = Running::resume(Api::V2, 16, |_| {}, resume).await;
    let asked = running.ask(head, body.as_bytes());
    assert!(running.answer(asked).await.starts_with("HTTP/1.1 204"));
    assert_eq!(running.receiver.counts.duplicate, 1);
    assert!(running.lines.is_empty());
    let asked = running.ask(&format!("POST /api/v2/write HTTP/1.1\nIdempotency-Key: {}\n", "k".repeat(256)), b"m v=1 1");
    assert!(running.answer(asked).await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn a_repeated_request_is_not_answered_before_the_first_is_durable() {
    let mut running = Running::start(Api::V2, 16, |_| {}).await;
    running.receiver.acknowledge = false;
    let ask = |running: &Running| running.ask("POST /api/v2/write HTTP/1.1\nIdempotency-Key: a-1\n", b"m v=1 1");
    let first = ask(&running);
    until(&mut running, "the first is taken", |r| r.lines.len() == 1).await;
    let second = ask(&running);
    until(&mut running, "the second is recognised", |r| r.receiver.counts.duplicate == 1).await;
    assert!(!first.is_finished() && !second.is_finished());
    running.receiver.ring.acknowledge(2);
    assert!(first.await.unwrap().starts_with("HTTP/1.1 204"));
    assert!(second.await.unwrap().starts_with("HTTP/1.1 204"));
}

#[tokio::test]
async fn a_keyed_body_larger_than_a_message_may_be_is_refused_whole() {
    let mut running = Running::start(Api::V2, 16, |s| s.body_max = 32 << 20).await;
    let body = "m v=1 1\n".repeat(600_000);
    let asked = running.ask("POST /api/v2/write HTTP/1.1\nIdempotency-Key: a-1\n", body.as_bytes());
    assert!(running.answer(asked).await.starts_with("HTTP/1.1 413"));
    until(&mut running, "it is counted", |r| r.receiver.counts.refused_size == 1).await;
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
async fn a_stop_leaves_requests_that_are_not_here_yet_and_answers_those_that_are() {
    let mut running = Running::start(Api::V2, 16, |_| {}).await;
    let connect = || TcpStream::connect(running.address.clone());
    let (mut silent, mut head, mut body, mut idle) =
        (connect().await.unwrap(), connect().await.unwrap(), connect().await.unwrap(), connect().await.unwrap());
    head.write_all(b"POST /api/v2/write HTTP/1.1\r\nHost:").await.unwrap();
    body.write_all(b"POST /api/v2/write HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf v=1 1\n").await.unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    // The whole of this one is here, but it is not durable before the core takes it.
    let whole = running.ask("POST /api/v2/write HTTP/1.1\n", b"whole v=1 1");
    let begun = Instant::now();
    while running.receiver.is_empty() {
        assert!(begun.elapsed() < PATIENCE, "it was not handed over");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    running.stop.request();
    let begun = Instant::now();
    for stream in [&mut silent, &mut head, &mut idle] {
        closed(stream).await;
    }
    assert!(closed(&mut body).await.starts_with("HTTP/1.1 503"));
    assert!(begun.elapsed() < PATIENCE / 2, "they were waited for: {:?}", begun.elapsed());
    assert!(!running.task.is_finished(), "what waits for the disk still does");
    assert!(running.answer(whole).await.starts_with("HTTP/1.1 204"));
    assert_eq!(running.lines.len(), 1, "{:?}", running.lines);
    running.task.await.unwrap().unwrap();
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
