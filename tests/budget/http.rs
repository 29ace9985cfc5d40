//! The far ends of the forwarding measurement: a writer of InfluxDB v2 requests and a server that counts the lines it gets.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use crate::support::{eventually, free_port};

/// Tells the number of a line's point.
type Number = fn(&[u8]) -> Option<u64>;

/// A server that answers 204 to everything and counts lines.
pub struct Sink {
    /// Its port.
    pub port: u16,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    lines: AtomicU64,
    /// Points that have arrived, by number.
    seen: Vec<AtomicBool>,
    number: Option<Number>,
    different: AtomicU64,
    closed: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Sink {
    /// Starts it; it ends with the process.
    pub fn start() -> Self {
        Self::with(Inner::default())
    }

    /// One that tells `points` points apart by their number.
    pub fn numbered(points: u64, number: Number) -> Self {
        Self::with(Inner { seen: (0..points).map(|_| AtomicBool::new(false)).collect(), number: Some(number), ..Inner::default() })
    }

    fn with(inner: Inner) -> Self {
        let port = free_port();
        let sink = Self { port, inner: Arc::new(inner) };
        sink.listen();
        sink
    }

    fn listen(&self) {
        let listener = eventually("the port is free", || TcpListener::bind(("127.0.0.1", self.port)).ok());
        let inner = Arc::clone(&self.inner);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if inner.closed.load(Ordering::SeqCst) {
                    return;
                }
                inner.connections.lock().expect("nobody panics").extend(stream.try_clone());
                let inner = Arc::clone(&inner);
                std::thread::spawn(move || inner.serve(stream));
            }
        });
    }

    /// Refuses connections from now on, and ends those there are: requests that were not answered are not counted.
    pub fn close(&self) {
        self.inner.closed.store(true, Ordering::SeqCst);
        // Wakes the listener, which then goes.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        let connections = std::mem::take(&mut *self.inner.connections.lock().expect("nobody panics"));
        for connection in connections {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
        eventually("connections are refused", || TcpStream::connect(("127.0.0.1", self.port)).is_err().then_some(()));
    }

    /// Is there again.
    pub fn reopen(&self) {
        self.inner.closed.store(false, Ordering::SeqCst);
        self.listen();
    }

    /// Lines so far.
    pub fn lines(&self) -> u64 {
        self.inner.lines.load(Ordering::Relaxed)
    }

    /// Different points so far.
    pub fn different(&self) -> u64 {
        self.inner.different.load(Ordering::Relaxed)
    }
}

impl Inner {
    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut writer = stream.try_clone().ok()?;
        let mut reader = BufReader::with_capacity(1 << 16, stream);
        let mut body = Vec::new();
        loop {
            let (length, packed) = head_of(&mut reader)?;
            body.resize(length, 0);
            reader.read_exact(&mut body).ok()?;
            if packed {
                body = unpacked(&body)?;
            }
            if self.closed.load(Ordering::SeqCst) {
                return None;
            }
            writer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").ok()?;
            self.count(&body);
        }
    }

    fn count(&self, body: &[u8]) {
        let lines = || body.split(|b| *b == b'\n').filter(|l| !l.is_empty());
        if let Some(number) = self.number {
            let places = lines().filter_map(|line| self.seen.get(usize::try_from(number(line)?).ok()?));
            let new = places.filter(|seen| !seen.swap(true, Ordering::Relaxed)).count();
            self.different.fetch_add(new as u64, Ordering::Relaxed);
        }
        self.lines.fetch_add(lines().count() as u64, Ordering::Relaxed);
    }
}

fn unpacked(body: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(body).read_to_end(&mut plain).ok()?;
    Some(plain)
}

/// Reads a head and returns its content length.
pub fn head(reader: &mut impl BufRead) -> Option<usize> {
    head_of(reader).map(|(length, _)| length)
}

/// Reads a head: content length, and whether the body is gzip.
fn head_of(reader: &mut impl BufRead) -> Option<(usize, bool)> {
    let (mut length, mut packed, mut line) = (0, false, String::new());
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let trimmed = line.trim_end();
        if trimmed.is_empty() {
            return Some((length, packed));
        }
        let Some((name, value)) = trimmed.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
        packed |= name.eq_ignore_ascii_case("content-encoding") && value.trim() == "gzip";
    }
}

/// Posts `points` lines in requests of `batch` over four connections.
pub fn post_lines(port: u16, points: u64, batch: u64, line: fn(u64, &mut Vec<u8>)) {
    post_range(port, 0..points, batch, line);
}

/// Posts these lines likewise.
pub fn post_range(port: u16, range: Range<u64>, batch: u64, line: fn(u64, &mut Vec<u8>)) {
    let (next, points) = (Arc::new(AtomicU64::new(range.start)), range.end);
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let next = Arc::clone(&next);
            std::thread::spawn(move || {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the agent listens");
                let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
                let mut body = Vec::new();
                loop {
                    let from = next.fetch_add(batch, Ordering::Relaxed);
                    if from >= points {
                        return;
                    }
                    body.clear();
                    (from..(from + batch).min(points)).for_each(|n| line(n, &mut body));
                    let head = format!(
                        "POST /api/v2/write?org=o&bucket=b&precision=ns HTTP/1.1\r\nhost: weir\r\ncontent-length: {}\r\n\r\n",
                        body.len()
                    );
                    stream.write_all(head.as_bytes()).expect("the agent reads");
                    stream.write_all(&body).expect("the agent reads");
                    let mut status = String::new();
                    reader.read_line(&mut status).expect("the agent answers");
                    assert!(status.contains("204"), "{status}");
                    head_rest(&mut reader);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("a writer ends");
    }
}

fn head_rest(reader: &mut impl BufRead) {
    head(reader).expect("the rest of the answer's head");
}
