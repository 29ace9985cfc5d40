//! The listener with real sockets.

#![allow(clippy::unwrap_used)]

use std::time::Instant;

use tokio::{
    io::AsyncWriteExt,
    net::{TcpStream, UdpSocket, UnixDatagram, UnixStream},
    task::JoinHandle,
};
use weir_plugin_api::{
    Collector,
    collector::{Refusal, Shape},
    plugin::Stop,
    position::Resume,
    testing::{Receiver, collector_with, context},
};

use super::*;

/// Longest time anything may take to come true.
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes `name value` or any text; refuses what begins with `!`.
struct Words;

impl Decoder for Words {
    fn decode(&mut self, bytes: &[u8], out: &mut Collector) -> usize {
        if out.is_full() {
            return 0;
        }
        let text = String::from_utf8_lossy(bytes);
        if text.starts_with('!') {
            out.refuse(Refusal::Parse, "no", bytes);
        } else {
            out.point("words", &[], Some(1)).field("text", &*text);
        }
        bytes.len()
    }
}

struct Running {
    receiver: Receiver,
    lines: Vec<String>,
    stop: Stop,
    task: JoinHandle<Result<(), PluginError>>,
    address: String,
}

impl Running {
    /// Listens on `address` with changed settings.
    async fn start(address: &str, batches: usize, change: impl FnOnce(&mut StreamSettings)) -> Self {
        let mut stream = StreamSettings {
            framing: Framing::Byte(b'\n'),
            together: false,
            connections_max: 0,
            tls: None,
            read_timeout: Duration::ZERO,
            keep_alive: Duration::from_secs(1),
            message_max: 1000,
        };
        change(&mut stream);
        let address = Address::parse(address).unwrap();
        let mut listener = SocketListener { address, mode: Some(0o600), buffer: 65536, stream, decoder: Box::new(Words) };
        let (collector, receiver, _) = collector_with(Shape::default(), batches);
        let mut context = context(collector, Resume::default());
        let stop = context.stop.clone();
        let bound = listener.address.bind(listener.mode).await.unwrap();
        let address = bound.local().split_once("://").unwrap().1.to_owned();
        let task = tokio::spawn(async move { listener.serve(bound, &mut context).await });
        Self { receiver, lines: Vec::new(), stop, task, address }
    }

    /// Waits until a condition holds on what was received.
    async fn until(&mut self, mut holds: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        loop {
            let more = self.receiver.take();
            self.lines.extend(more);
            if holds(self) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{:?} {:?}", self.lines, self.receiver.counts);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn texts(&mut self, count: usize) -> Vec<String> {
        self.until(|r| r.lines.len() >= count).await;
        self.lines.iter().map(|l| l.split('"').nth(1).unwrap().to_owned()).collect()
    }

    async fn finish(mut self) -> Self {
        self.stop.request();
        (&mut self.task).await.unwrap().unwrap();
        let more = self.receiver.take();
        self.lines.extend(more);
        self
    }
}

#[tokio::test]
async fn several_connections_are_read_and_the_last_line_needs_no_end() {
    let mut running = Running::start("tcp://127.0.0.1:0", 16, |_| {}).await;
    let mut a = TcpStream::connect(&running.address).await.unwrap();
    let mut b = TcpStream::connect(&running.address).await.unwrap();
    a.write_all(b"one\ntw").await.unwrap();
    b.write_all(b"three\n").await.unwrap();
    running.texts(2).await;
    a.write_all(b"o\nfour").await.unwrap();
    drop(a);
    let mut texts = running.texts(4).await;
    texts.sort();
    assert_eq!(texts, ["four", "one", "three", "two"]);
    drop(b);
    running.finish().await;
}

#[tokio::test]
async fn a_message_that_is_too_long_costs_only_itself() {
    let mut running = Running::start("tcp://127.0.0.1:0", 16, |s| s.message_max = 100).await;
    let mut a = TcpStream::connect(&running.address).await.unwrap();
    a.write_all(b"before\n").await.unwrap();
    running.texts(1).await;
    a.write_all(&vec![b'x'; 300_000]).await.unwrap();
    a.write_all(b"\nafter\n").await.unwrap();
    assert_eq!(running.texts(2).await, ["before", "after"]);
    running.until(|r| r.receiver.counts.refused_size == 1).await;
}

#[tokio::test]
async fn a_silent_connection_is_closed_and_its_half_line_counted() {
    let mut running = Running::start("tcp://127.0.0.1:0", 16, |s| s.read_timeout = Duration::from_millis(30)).await;
    let mut a = TcpStream::connect(&running.address).await.unwrap();
    a.write_all(b"whole\nhal").await.unwrap();
    running.until(|r| r.receiver.counts.refused_frame == 1).await;
    assert_eq!(running.texts(1).await, ["whole"]);
}

#[tokio::test]
async fn a_connection_past_the_limit_is_closed() {
    let mut running = Running::start("tcp://127.0.0.1:0", 16, |s| s.connections_max = 1).await;
    let mut a = TcpStream::connect(&running.address).await.unwrap();
    a.write_all(b"one\n").await.unwrap();
    running.texts(1).await;
    let mut b = TcpStream::connect(&running.address).await.unwrap();
    let mut byte = [0];
    let closed = tokio::time::timeout(PATIENCE, tokio::io::AsyncReadExt::read(&mut b, &mut byte)).await.unwrap();
    assert!(!matches!(closed, Ok(1..)));
}

#[tokio::test]
async fn a_full_ring_slows_a_connection_down_and_loses_nothing() {
    let mut running = Running::start("tcp://127.0.0.1:0", 2, |_| {}).await;
    let mut a = TcpStream::connect(&running.address).await.unwrap();
    let writer = tokio::spawn(async move {
        for n in 0..5000 {
            a.write_all(format!("{n:0400}\n").as_bytes()).await.unwrap();
        }
    });
    assert_eq!(running.texts(5000).await.len(), 5000);
    writer.await.unwrap();
    assert_eq!(running.receiver.counts.dropped_ring_full, 0);
}

#[tokio::test]
async fn datagrams_that_find_the_ring_full_are_counted() {
    let mut running = Running::start("udp://127.0.0.1:0", 2, |_| {}).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for n in 0..50 {
        socket.send_to(format!("{n}").as_bytes(), &running.address).await.unwrap();
        tokio::task::yield_now().await;
    }
    running
        .until(|r| {
            let counts = &r.receiver.counts;
            r.lines.len() as u64 + counts.dropped_ring_full >= 49 && counts.read >= 49
        })
        .await;
    socket.send_to(b"!bad", &running.address).await.unwrap();
    running.until(|r| r.receiver.counts.refused_parse == 1).await;
    running.finish().await;
}

#[tokio::test]
async fn local_sockets_take_streams_and_datagrams_and_leave_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (stream, datagram) = (dir.path().join("s"), dir.path().join("d"));
    // What a crash leaves behind is in nobody's way.
    drop(std::os::unix::net::UnixListener::bind(&stream).unwrap());
    let mut running = Running::start(&format!("unix://{}", stream.display()), 4, |_| {}).await;
    UnixStream::connect(&stream).await.unwrap().write_all(b"hello\n").await.unwrap();
    assert_eq!(running.texts(1).await, ["hello"]);
    running.finish().await;
    assert!(!stream.exists());
    let mut running = Running::start(&format!("unixgram://{}", datagram.display()), 4, |_| {}).await;
    UnixDatagram::unbound().unwrap().send_to(b"hello\nthere", &datagram).await.unwrap();
    assert_eq!(running.texts(1).await, ["hello\\nthere"]);
    running.finish().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let running = Running::start("tcp://127.0.0.1:0", 4, |_| {}).await;
    let Err(error) = Address::parse(&format!("tcp://{}", running.address)).unwrap().bind(None).await else { panic!("bound twice") };
    assert!(error.0.contains(&running.address), "{error}");
}

#[tokio::test]
async fn a_datagram_that_is_cut_off_is_refused_and_not_read_in_part() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    let mut running = Running::start(&format!("unixgram://{}", path.display()), 4, |_| {}).await;
    let socket = UnixDatagram::unbound().unwrap();
    for length in [64 * 1024, 64 * 1024 + 1, 100_000] {
        socket.send_to(&vec![b'x'; length], &path).await.unwrap();
    }
    socket.send_to(b"after", &path).await.unwrap();
    let lengths: Vec<usize> = running.texts(2).await.iter().map(String::len).collect();
    assert_eq!(lengths, [64 * 1024, "after".len()]);
    running.until(|r| r.receiver.counts.refused_size == 2).await;
    running.finish().await;
}

#[tokio::test]
async fn the_largest_datagram_of_udp_is_read_whole() {
    let mut running = Running::start("udp://127.0.0.1:0", 4, |_| {}).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&[b'x'; 65_507], &running.address).await.unwrap();
    assert_eq!(running.texts(1).await[0].len(), 65_507);
    running.finish().await;
}

#[tokio::test]
async fn a_line_without_end_is_counted_once_and_keeps_no_memory_or_neighbour() {
    let mut running = Running::start("tcp://127.0.0.1:0", 16, |s| s.message_max = 1 << 20).await;
    let (mut endless, mut other) =
        (TcpStream::connect(&running.address).await.unwrap(), TcpStream::connect(&running.address).await.unwrap());
    let writing = tokio::spawn(async move {
        for _ in 0..256 {
            endless.write_all(&vec![b'x'; 256 * 1024]).await.unwrap();
        }
        endless
    });
    other.write_all(b"here\n").await.unwrap();
    assert_eq!(running.texts(1).await, ["here"]);
    running.until(|r| r.receiver.counts.refused_size == 1).await;
    drop(writing.await.unwrap());
    other.write_all(b"there\n").await.unwrap();
    assert_eq!(running.texts(2).await, ["here", "there"]);
    let running = running.finish().await;
    assert_eq!((running.receiver.counts.read, running.receiver.counts.refused_size), (3, 1));
}
