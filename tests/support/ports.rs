//! Ports for servers that are started, killed and started again, apart because the plugins' tests share it.
//!
//! The system would give a port of its own choice to the next one who asks for any while its server is down. It even connects such a port to
//! itself when somebody tries it again and again: to him the server is back, and the server can't come back any more. So these are others.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// The first one that may be given.
const FIRST: u32 = 10_000;

/// How many were tried.
static TRIED: AtomicU32 = AtomicU32::new(0);

/// A port on loopback that nobody uses, neither for TCP nor for UDP, and that is given once.
pub fn free_port() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let systems: u32 = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768);
    // A system that takes them all for itself leaves none below its own.
    let ports = if systems > FIRST + 1000 { systems - FIRST } else { 65_535 - FIRST };
    // Tests of another process begin elsewhere.
    let begin = process::id().wrapping_mul(7919);
    loop {
        let tried = TRIED.fetch_add(1, Ordering::Relaxed);
        assert!(tried < ports, "no port is free");
        let port = (FIRST + begin.wrapping_add(tried) % ports) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
