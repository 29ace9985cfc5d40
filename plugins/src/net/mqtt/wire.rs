//! MQTT packets in bytes: framing, the packets that come by the million read in place, and the others through rumqttc's codec.
//!
//! Apart from the connection so that it touches no socket. A PUBLISH is read without copying it and without a reference count per
//! message, a PUBACK is four bytes; everything rare is rumqttc's.

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5 as five;

/// Version of the protocol spoken on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 3.1.1.
    V311,
    /// 5.
    V5,
}

/// Bytes that are not MQTT.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed packet from the broker: {0}")]
pub struct Malformed(pub String);

fn malformed<T>(what: &str) -> Result<T, Malformed> {
    Err(Malformed(what.into()))
}

/// Packet types as they stand in the high half of the first byte.
pub mod kind {
    #![allow(missing_docs)]
    pub const CONNACK: u8 = 2;
    pub const PUBLISH: u8 = 3;
    pub const PUBACK: u8 = 4;
    pub const SUBACK: u8 = 9;
    pub const PINGRESP: u8 = 13;
    pub const DISCONNECT: u8 = 14;
}

/// The fixed header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// First byte: type and flags.
    pub first: u8,
    /// Bytes of the header itself, 2 to 5.
    pub header_len: usize,
    /// Bytes that follow it.
    pub body_len: usize,
}

impl Header {
    /// Reads it from the front of `bytes`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// A length of more than four bytes.
    #[inline]
    pub fn read(bytes: &[u8]) -> Result<Option<Self>, Malformed> {
        let Some(first) = bytes.first() else { return Ok(None) };
        Ok(variable_length(&bytes[1..])?.map(|(len, width)| Self { first: *first, header_len: 1 + width, body_len: len }))
    }

    /// Type of the packet.
    pub fn kind(&self) -> u8 {
        self.first >> 4
    }

    /// Header and body.
    pub fn total_len(&self) -> usize {
        self.header_len + self.body_len
    }
}

#[inline]
fn variable_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, Malformed> {
    let mut value = 0;
    for (i, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Ok(Some((value, i + 1)));
        }
    }
    if bytes.len() >= 4 { malformed("a length has more than four bytes") } else { Ok(None) }
}

/// A PUBLISH, read in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// The broker may have sent it before.
    pub dup: bool,
    /// Quality of service, 0 to 2.
    pub qos: u8,
    /// Sent because of a subscription to a topic with a retained message.
    pub retain: bool,
    /// Topic; UTF-8 if the broker keeps to the standard.
    pub topic: &'a [u8],
    /// Packet id, 0 with QoS 0.
    pub id: u16,
    /// What was published.
    pub payload: &'a [u8],
}

impl<'a> Publish<'a> {
    /// Reads the body that follows a header whose first byte is `first`.
    ///
    /// # Errors
    /// A body that ends too early, QoS 3, packet id 0, an empty topic.
    #[inline]
    pub fn read(version: Version, first: u8, body: &'a [u8]) -> Result<Self, Malformed> {
        let Some((head, rest)) = Self::head(first, body)? else { return malformed("a PUBLISH ends too early") };
        let payload = match version {
            Version::V311 => rest,
            Version::V5 => match variable_length(rest)? {
                Some((len, width)) if width + len <= rest.len() => &rest[width + len..],
                _ => return malformed("the properties of a PUBLISH end too early"),
            },
        };
        Ok(Self { payload, ..head })
    }

    /// Reads what stands before the properties, and gives the rest; `None` when more bytes are needed.
    ///
    /// # Errors
    /// QoS 3, packet id 0, an empty topic.
    #[inline]
    pub fn head(first: u8, body: &'a [u8]) -> Result<Option<(Self, &'a [u8])>, Malformed> {
        let qos = (first >> 1) & 3;
        if qos == 3 {
            return malformed("a PUBLISH with QoS 3");
        }
        let Some((len, rest)) = body.split_first_chunk::<2>() else { return Ok(None) };
        let Some((topic, mut rest)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len))) else { return Ok(None) };
        if topic.is_empty() {
            return malformed("a PUBLISH without topic");
        }
        let mut id = 0;
        if qos > 0 {
            let Some((bytes, after)) = rest.split_first_chunk::<2>() else { return Ok(None) };
            (id, rest) = (u16::from_be_bytes(*bytes), after);
            if id == 0 {
                return malformed("a PUBLISH with packet id 0");
            }
        }
        Ok(Some((Self { dup: first & 8 != 0, qos, retain: first & 1 != 0, topic, id, payload: &[] }, rest)))
    }
}

/// Appends a PUBACK.
#[inline]
pub fn write_puback(id: u16, out: &mut BytesMut) {
    let [high, low] = id.to_be_bytes();
    out.extend_from_slice(&[0x40, 2, high, low]);
}

/// Appends a PINGREQ.
pub fn write_ping(out: &mut BytesMut) {
    out.extend_from_slice(&[0xc0, 0]);
}

/// Appends a DISCONNECT without a reason: a normal one.
pub fn write_disconnect(out: &mut BytesMut) {
    out.extend_from_slice(&[0xe0, 0]);
}

/// Appends a PUBLISH; `id` is 0 with QoS 0. The topic has at most 65 535 bytes, the whole at most 256 MiB: the caller sees to it.
pub fn write_publish(version: Version, topic: &str, payload: &[u8], qos: u8, retain: bool, id: u16, out: &mut BytesMut) {
    let body = publish_body_len(version, topic, payload, qos);
    out.reserve(body + 5);
    out.extend_from_slice(&[0x30 | (qos << 1) | u8::from(retain)]);
    let mut left = body;
    loop {
        let byte = (left % 128) as u8;
        left /= 128;
        out.extend_from_slice(&[if left > 0 { byte | 0x80 } else { byte }]);
        if left == 0 {
            break;
        }
    }
    out.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    out.extend_from_slice(topic.as_bytes());
    if qos > 0 {
        out.extend_from_slice(&id.to_be_bytes());
    }
    if version == Version::V5 {
        out.extend_from_slice(&[0]);
    }
    out.extend_from_slice(payload);
}

/// Bytes of a PUBLISH after its fixed header.
pub fn publish_body_len(version: Version, topic: &str, payload: &[u8], qos: u8) -> usize {
    2 + topic.len() + if qos > 0 { 2 } else { 0 } + usize::from(version == Version::V5) + payload.len()
}

/// Any other packet from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Answer to a CONNECT that was taken.
    ConnAck(ConnAck),
    /// Answer to a CONNECT that was not.
    Refused {
        /// The broker does not speak this version.
        version: bool,
        /// It does not know or trust us: a person must act.
        credentials: bool,
        /// In words.
        reason: String,
    },
    /// Answer to a PUBLISH.
    PubAck {
        /// Packet id.
        id: u16,
        /// Why it was refused, if it was.
        refused: Option<five::PubAckReason>,
    },
    /// Answer to a SUBSCRIBE: granted QoS, or why not, per topic.
    SubAck(Vec<Result<u8, String>>),
    /// Answer to a ping.
    PingResp,
    /// The broker is going to close the connection.
    Disconnect {
        /// Why.
        reason: String,
        /// As another client of our id has come.
        taken_over: bool,
    },
    /// Nothing of interest.
    Other,
}

/// What the broker says of itself when it takes a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnAck {
    /// It remembers our session.
    pub session_present: bool,
    /// Publishes it takes before they are acknowledged.
    pub receive_max: Option<u16>,
    /// Largest packet it takes, bytes.
    pub packet_max: Option<u32>,
    /// Keep-alive it wants, seconds.
    pub keep_alive: Option<u16>,
}

/// Reads one whole packet that is not a PUBLISH.
///
/// # Errors
/// Anything rumqttc's codec can't read.
pub fn read_control(version: Version, packet: &[u8], header: Header) -> Result<Control, Malformed> {
    // An old broker answers a v5 CONNECT in its own version: two bytes without properties, the second saying what is wrong.
    if header.kind() == kind::CONNACK && header.body_len == 2 {
        let (flags, code) = (packet[header.header_len], packet[header.header_len + 1]);
        return Ok(match code {
            0 => Control::ConnAck(ConnAck { session_present: flags & 1 != 0, ..ConnAck::default() }),
            code => Control::Refused { version: code == 1, credentials: matches!(code, 2 | 4 | 5), reason: refusal_311(code).into() },
        });
    }
    let mut bytes = BytesMut::from(packet);
    match version {
        Version::V5 => five::Packet::read(&mut bytes, None).map(control_5).map_err(|e| Malformed(e.to_string())),
        Version::V311 => rumqttc::Packet::read(&mut bytes, usize::MAX).map(control_311).map_err(|e| Malformed(e.to_string())),
    }
}

fn refusal_311(code: u8) -> &'static str {
    match code {
        1 => "the broker does not speak this version of the protocol",
        2 => "the broker does not take this client id",
        3 => "the broker is not available",
        4 => "bad user name or password",
        5 => "not authorised",
        _ => "refused without a known reason",
    }
}

fn control_5(packet: five::Packet) -> Control {
    match packet {
        five::Packet::ConnAck(ack) if ack.code == five::ConnectReturnCode::Success => {
            let properties = ack.properties.as_ref();
            Control::ConnAck(ConnAck {
                session_present: ack.session_present,
                receive_max: properties.and_then(|p| p.receive_max),
                packet_max: properties.and_then(|p| p.max_packet_size),
                keep_alive: properties.and_then(|p| p.server_keep_alive),
            })
        }
        five::Packet::ConnAck(ack) => Control::Refused {
            version: matches!(
                ack.code,
                five::ConnectReturnCode::UnsupportedProtocolVersion | five::ConnectReturnCode::RefusedProtocolVersion
            ),
            credentials: matches!(
                ack.code,
                five::ConnectReturnCode::BadUserNamePassword
                    | five::ConnectReturnCode::NotAuthorized
                    | five::ConnectReturnCode::BadClientId
                    | five::ConnectReturnCode::ClientIdentifierNotValid
                    | five::ConnectReturnCode::Banned
                    | five::ConnectReturnCode::BadAuthenticationMethod
            ),
            reason: words(&format!("{:?}", ack.code)),
        },
        five::Packet::PubAck(ack) => {
            let taken = matches!(ack.reason, five::PubAckReason::Success | five::PubAckReason::NoMatchingSubscribers);
            Control::PubAck { id: ack.pkid, refused: (!taken).then_some(ack.reason) }
        }
        five::Packet::SubAck(ack) => Control::SubAck(
            ack.return_codes
                .iter()
                .map(|code| match code {
                    five::SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
                    other => Err(words(&format!("{other:?}"))),
                })
                .collect(),
        ),
        five::Packet::PingResp(_) => Control::PingResp,
        five::Packet::Disconnect(disconnect) => Control::Disconnect {
            reason: words(&format!("{:?}", disconnect.reason_code)),
            taken_over: disconnect.reason_code == five::DisconnectReasonCode::SessionTakenOver,
        },
        _ => Control::Other,
    }
}

fn control_311(packet: rumqttc::Packet) -> Control {
    match packet {
        rumqttc::Packet::PubAck(ack) => Control::PubAck { id: ack.pkid, refused: None },
        rumqttc::Packet::SubAck(ack) => Control::SubAck(
            ack.return_codes
                .iter()
                .map(|code| match code {
                    rumqttc::SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
                    rumqttc::SubscribeReasonCode::Failure => Err("refused by the broker".into()),
                })
                .collect(),
        ),
        rumqttc::Packet::PingResp => Control::PingResp,
        rumqttc::Packet::Disconnect => Control::Disconnect { reason: "without a reason".into(), taken_over: false },
        _ => Control::Other,
    }
}

/// `NotAuthorized` → `not authorized`.
fn words(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push(' ');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_written_is_read_back_in_both_versions() {
        for version in [Version::V311, Version::V5] {
            for payload in [&b""[..], b"21.5", &[b'x'; 20_000]] {
                let mut out = BytesMut::new();
                write_publish(version, "a/b", payload, 1, true, 7, &mut out);
                let header = Header::read(&out).unwrap().unwrap();
                assert_eq!(header.total_len(), out.len());
                let read = Publish::read(version, header.first, &out[header.header_len..]).unwrap();
                assert_eq!(read, Publish { dup: false, qos: 1, retain: true, topic: b"a/b", id: 7, payload });
            }
        }
    }

    #[test]
    fn every_cut_of_a_publish_is_incomplete_or_malformed_and_never_panics() {
        let mut out = BytesMut::new();
        write_publish(Version::V5, "a/b", b"payload", 1, false, 7, &mut out);
        let header = Header::read(&out).unwrap().unwrap();
        for end in header.header_len..out.len() - b"payload".len() {
            assert!(Publish::read(Version::V5, header.first, &out[header.header_len..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn a_length_of_five_bytes_is_malformed() {
        assert!(Header::read(&[0x30, 0xff, 0xff, 0xff, 0xff, 1]).is_err());
        assert_eq!(Header::read(&[0x30, 0xff]), Ok(None));
    }

    #[test]
    fn an_old_broker_that_answers_in_its_own_version_is_understood() {
        let packet = [0x20, 2, 0, 1];
        let header = Header::read(&packet).unwrap().unwrap();
        assert!(matches!(read_control(Version::V5, &packet, header), Ok(Control::Refused { version: true, .. })));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(first: u8, body in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let _ = Publish::read(Version::V5, first, &body);
            let _ = Publish::read(Version::V311, first, &body);
            let _ = Header::read(&body);
        }
    }
}
