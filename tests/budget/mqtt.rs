//! A bare MQTT 3.1.1 client for load: packets are written by hand so that it costs little beside what is measured
//! (MQTT Version 3.1.1, OASIS Standard, 2014).

use std::{
    io::{BufReader, Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::eventually;

/// Messages on the way to the broker at QoS 1.
const IN_FLIGHT: u64 = 500;
/// Time between two round trips: without it they alone would make the rate at which the agent reads its broker in larger bites.
const GAP: Duration = Duration::from_millis(4);

fn connect(port: u16, id: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the broker listens");
    stream.set_nodelay(true).expect("an option");
    let mut packet = vec![0x10, (12 + id.len()) as u8, 0, 4];
    packet.extend_from_slice(b"MQTT\x04\x02\x00\x00");
    packet.extend_from_slice(&(id.len() as u16).to_be_bytes());
    packet.extend_from_slice(id.as_bytes());
    stream.write_all(&packet).expect("the broker reads");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).expect("the broker answers");
    assert_eq!(answer, [0x20, 2, 0, 0], "accepted");
    stream
}

fn publish(out: &mut Vec<u8>, topic: &str, payload: &[u8], qos: u8, id: u16) {
    let length = 2 + topic.len() + if qos > 0 { 2 } else { 0 } + payload.len();
    out.push(0x30 | qos << 1);
    let mut rest = length;
    loop {
        let byte = (rest % 128) as u8;
        rest /= 128;
        out.push(if rest > 0 { byte | 0x80 } else { byte });
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    out.extend_from_slice(topic.as_bytes());
    if qos > 0 {
        out.extend_from_slice(&id.to_be_bytes());
    }
    out.extend_from_slice(payload);
}

/// Publishes one message and looks whether `seen` came true.
pub fn probe(port: u16, topic: &str, seen: impl Fn() -> bool) -> Option<()> {
    let mut stream = connect(port, "probe");
    let mut packet = Vec::new();
    publish(&mut packet, topic, b"{\"probe\":1}", 0, 0);
    stream.write_all(&packet).ok()?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(600) {
        if seen() {
            return Some(());
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
    None
}

/// Publishes `count` messages; `make` writes a payload and returns its topic. Returns when the broker has them all.
pub fn publish_many(port: u16, count: u64, qos: u8, mut make: impl FnMut(u64, &mut Vec<u8>) -> String) {
    let mut stream = connect(port, "load");
    let acknowledged = Arc::new(AtomicU64::new(0));
    let reader = {
        let (stream, acknowledged) = (stream.try_clone().expect("a second handle"), Arc::clone(&acknowledged));
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut packet = [0; 4];
            let expected = if qos > 0 { count } else { 0 };
            while acknowledged.load(Ordering::Relaxed) < expected && reader.read_exact(&mut packet).is_ok() {
                acknowledged.fetch_add(u64::from(packet[0] == 0x40), Ordering::Relaxed);
            }
        })
    };
    let (mut out, mut payload) = (Vec::new(), Vec::new());
    for n in 0..count {
        let topic = make(n, &mut payload);
        publish(&mut out, &topic, &payload, qos, (n % 65_535 + 1) as u16);
        if out.len() > 16 * 1024 || n + 1 == count {
            stream.write_all(&out).expect("the broker reads");
            out.clear();
            while qos > 0 && n + 1 - acknowledged.load(Ordering::Relaxed) > IN_FLIGHT {
                std::thread::yield_now();
            }
        }
    }
    reader.join().expect("the reader ends");
}

/// Publishes readings that fire and clear an alert in turn on `from`, and times how long the message on `to` takes.
pub fn round_trips(port: u16, from: &str, to: &str, rounds: usize) -> Vec<Duration> {
    let mut subscriber = connect(port, "listener");
    let mut packet = vec![0x82, (5 + to.len()) as u8, 0, 1];
    packet.extend_from_slice(&(to.len() as u16).to_be_bytes());
    packet.extend_from_slice(to.as_bytes());
    packet.push(0);
    subscriber.write_all(&packet).expect("the broker reads");
    let mut answer = [0; 5];
    subscriber.read_exact(&mut answer).expect("subscribed");
    let mut publisher = connect(port, "trigger");
    let mut receive = |wait: Duration| -> bool {
        subscriber.set_read_timeout(Some(wait)).expect("an option");
        let mut head = [0; 2];
        if subscriber.read_exact(&mut head).is_err() {
            return false;
        }
        let mut body = vec![0; usize::from(head[1])];
        subscriber.read_exact(&mut body).is_ok()
    };
    let mut send = |value: &str| {
        let mut packet = Vec::new();
        publish(&mut packet, from, value.as_bytes(), 0, 0);
        publisher.write_all(&packet).expect("the broker reads");
    };
    // Until the agent has subscribed and answers; then whatever is still on its way is read off.
    let mut high = false;
    eventually("the agent answers", || {
        high = !high;
        send(if high { "90" } else { "10" });
        receive(Duration::from_millis(300)).then_some(())
    });
    while receive(Duration::from_millis(500)) {}
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        high = !high;
        std::thread::park_timeout(GAP);
        let start = Instant::now();
        send(if high { "90" } else { "10" });
        if receive(Duration::from_secs(2)) {
            times.push(start.elapsed());
        }
    }
    times
}
