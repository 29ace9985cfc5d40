//! The far ends of the forwarding measurement: a writer of InfluxDB v2 requests and a server that counts the lines it gets.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// A server that answers 204 to everything and counts lines.
pub struct Sink {
    /// Its port.
    pub port: u16,
    lines: Arc<AtomicU64>,
}

impl Sink {
    /// Starts it; it ends with the process.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let lines = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&lines);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || serve(stream, &counter));
            }
        });
        Self { port, lines }
    }

    /// Lines so far.
    pub fn lines(&self) -> u64 {
        self.lines.load(Ordering::Relaxed)
    }
}

fn serve(stream: TcpStream, lines: &AtomicU64) -> Option<()> {
    let mut writer = stream.try_clone().ok()?;
    let mut reader = BufReader::with_capacity(1 << 16, stream);
    let mut body = Vec::new();
    loop {
        let length = head(&mut reader)?;
        body.resize(length, 0);
        reader.read_exact(&mut body).ok()?;
        lines.fetch_add(body.iter().filter(|b| **b == b'\n').count() as u64, Ordering::Relaxed);
        writer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").ok()?;
    }
}

/// Reads a head and returns its content length.
fn head(reader: &mut impl BufRead) -> Option<usize> {
    let (mut length, mut line) = (0, String::new());
    loop {
        line.clear();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let trimmed = line.trim_end();
        if trimmed.is_empty() {
            return Some(length);
        }
        if let Some((name, value)) = trimmed.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
    }
}

/// Posts `points` lines in requests of `batch` over four connections.
pub fn post_lines(port: u16, points: u64, batch: u64, line: fn(u64, &mut Vec<u8>)) {
    let next = Arc::new(AtomicU64::new(0));
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
