//! A numbered QoS 1 publisher that knows when the broker has everything (MQTT 3.1.1, packets by hand, so that no client library's
//! retries hide anything).

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use super::PATIENCE;

/// Messages on the way to the broker at once.
const IN_FLIGHT: u64 = 16;

/// A connected publisher.
pub struct Publisher {
    stream: TcpStream,
    sent: u64,
    acknowledged: u64,
}

impl Publisher {
    /// Connects with a clean session.
    pub fn connect(port: u16, id: &str) -> Self {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the broker listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        let mut packet = vec![0x10, (12 + id.len()) as u8, 0, 4];
        packet.extend_from_slice(b"MQTT\x04\x02\x00\x00");
        packet.extend_from_slice(&(id.len() as u16).to_be_bytes());
        packet.extend_from_slice(id.as_bytes());
        stream.write_all(&packet).expect("the broker reads");
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).expect("the broker answers");
        assert_eq!(answer, [0x20, 2, 0, 0], "accepted");
        Self { stream, sent: 0, acknowledged: 0 }
    }

    /// Publishes at QoS 1; waits while too many are on their way.
    pub fn publish(&mut self, topic: &str, payload: &[u8]) {
        self.send(0x32, topic, payload);
    }

    /// The same with the mark of a message that is sent again.
    pub fn publish_again(&mut self, topic: &str, payload: &[u8]) {
        self.send(0x3a, topic, payload);
    }

    fn send(&mut self, first: u8, topic: &str, payload: &[u8]) {
        while self.sent - self.acknowledged >= IN_FLIGHT {
            self.read_acknowledgement();
        }
        let mut packet = vec![first];
        let mut rest = 4 + topic.len() + payload.len();
        loop {
            let byte = (rest % 128) as u8;
            rest /= 128;
            packet.push(if rest > 0 { byte | 0x80 } else { byte });
            if rest == 0 {
                break;
            }
        }
        packet.extend_from_slice(&(topic.len() as u16).to_be_bytes());
        packet.extend_from_slice(topic.as_bytes());
        packet.extend_from_slice(&((self.sent % 65_535 + 1) as u16).to_be_bytes());
        packet.extend_from_slice(payload);
        self.stream.write_all(&packet).expect("the broker reads");
        self.sent += 1;
    }

    fn read_acknowledgement(&mut self) {
        let mut packet = [0; 4];
        self.stream.read_exact(&mut packet).expect("the broker acknowledges");
        assert_eq!(packet[0], 0x40, "a PUBACK");
        self.acknowledged += 1;
    }

    /// Waits until the broker has everything.
    pub fn drain(&mut self) {
        while self.acknowledged < self.sent {
            self.read_acknowledgement();
        }
    }
}
