//! What the tests' own HTTP servers read: one request after the other, with as little of HTTP as a client of ours needs.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpStream,
};

/// Body of the next request; none when the client has gone or sends a request without a body.
pub fn next_body(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let (mut line, mut length) = (String::new(), 0);
    while stream.read_line(&mut line).is_ok_and(|n| n > 2) {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        line.clear();
    }
    let mut body = vec![0; length];
    (length > 0 && stream.read_exact(&mut body).is_ok()).then_some(body)
}
