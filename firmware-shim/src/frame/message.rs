//! What a body says: hello, data, ack, hello request, resend, time request, time reply; read without copying, written into a slice.

use super::{
    BODY_MAX, FIELDS_MAX, FrameError, VERSION, WIRE_MAX, body_buffer,
    bytes::{Reader, Writer},
    seal,
};
use crate::fault::Fault;

const HELLO: u8 = 1;
const DATA: u8 = 2;
const ACK: u8 = 3;
const HELLO_REQUEST: u8 = 4;
const RESEND: u8 = 5;
const TIME_REQUEST: u8 = 6;
const TIME_REPLY: u8 = 7;

/// No device ever counts that far: at a million readings a second it takes nine years. Past it a number is a mistake, which would be
/// counted as that many readings lost.
pub(crate) const NUMBER_MAX: u64 = 1 << 48;

/// How a field's values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// An integer times ten to this power: 2153 with −2 is 21.53.
    Scaled(i8),
    /// A single.
    F32,
    /// A double.
    F64,
    /// A boolean.
    Bool,
}

/// The kinds of a device's fields, in their order.
pub(crate) type Kinds = heapless::Vec<FieldKind, FIELDS_MAX>;

/// A field of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name.
    pub name: &'a str,
    /// How it is written.
    pub kind: FieldKind,
}

/// One value of a reading; its variant must be that of the field's kind, or a fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// The integer of a scaled field, the exponent is the field's.
    Scaled(i64),
    /// A single.
    F32(f32),
    /// A double.
    F64(f64),
    /// A boolean.
    Bool(bool),
    /// There is none, and this is why.
    Fault(Fault),
}

impl Value {
    /// The same, or the fault it is: a number that is none can't be sent.
    pub fn checked(self) -> Self {
        let is_number = match self {
            Self::F32(value) => value.is_finite(),
            Self::F64(value) => value.is_finite(),
            Self::Scaled(_) | Self::Bool(_) | Self::Fault(_) => true,
        };
        if is_number { self } else { Self::Fault(Fault::NotANumber) }
    }

    /// Whether it can stand in a field of `kind`.
    pub fn fits(&self, kind: FieldKind) -> bool {
        matches!(
            (self, kind),
            (Self::Scaled(_), FieldKind::Scaled(_))
                | (Self::F32(_), FieldKind::F32)
                | (Self::F64(_), FieldKind::F64)
                | (Self::Bool(_), FieldKind::Bool)
                | (Self::Fault(_), _)
        )
    }

    fn write(self, out: &mut Writer<'_>) {
        match self {
            Self::Scaled(value) => out.zigzag(value),
            Self::F32(value) => out.bytes(&value.to_le_bytes()),
            Self::F64(value) => out.bytes(&value.to_le_bytes()),
            Self::Bool(value) => out.bytes(&[u8::from(value)]),
            Self::Fault(fault) => out.bytes(&[fault.code()]),
        }
    }

    fn read(kind: FieldKind, from: &mut Reader<'_>) -> Option<Self> {
        Some(match kind {
            FieldKind::Scaled(_) => Self::Scaled(from.zigzag()?),
            FieldKind::F32 => Self::F32(f32::from_le_bytes(from.array()?)),
            FieldKind::F64 => Self::F64(f64::from_le_bytes(from.array()?)),
            FieldKind::Bool => match from.u8()? {
                0 => Self::Bool(false),
                1 => Self::Bool(true),
                _ => return None,
            },
        })
    }
}

/// A device introduces itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hello<'a> {
    /// Names its row of numbers: drawn at its boot, and kept over resets when the device remembers it.
    pub nonce: u32,
    /// How often it has started since the nonce was drawn: 0 at the first start.
    pub resets: u64,
    /// Readings it can keep.
    pub retain_depth: u64,
    /// Readings of this row it has dropped unacknowledged, because its queue was full or at a reset.
    pub dropped: u64,
    /// Readings its deadbands held back since its start.
    pub held_back: u64,
    /// Frames from the gateway it has refused since its start.
    pub refused: u64,
    /// Number of the oldest reading it holds, or of its next when it holds none.
    pub oldest: u64,
    /// Its name.
    pub device: &'a str,
    /// What its readings are called.
    pub measurement: &'a str,
    /// Its fields, in the order of a reading's values.
    pub fields: Fields<'a>,
}

impl Hello<'_> {
    /// Whether two of its fields have one name: nobody could tell their values apart.
    pub(crate) fn names_a_field_twice(&self) -> bool {
        self.fields.enumerate().any(|(i, field)| self.fields.take(i).any(|other| other.name == field.name))
    }
}

/// The fields of a hello, already checked.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    from: Reader<'a>,
    left: u8,
}

impl PartialEq for Fields<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.left == other.left && self.from.rest == other.from.rest
    }
}

impl<'a> Fields<'a> {
    /// No fields: for a hello that is written with a slice of them.
    pub(crate) fn none() -> Self {
        Self { from: Reader { rest: &[] }, left: 0 }
    }

    fn read_next(from: &mut Reader<'a>) -> Option<Field<'a>> {
        let kind = match (from.u8()?, from.u8()? as i8) {
            (0, exponent) => FieldKind::Scaled(exponent),
            (1, 0) => FieldKind::F32,
            (2, 0) => FieldKind::F64,
            (3, 0) => FieldKind::Bool,
            _ => return None,
        };
        let name = from.text().filter(|name| !name.is_empty())?;
        Some(Field { name, kind })
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        self.left = self.left.checked_sub(1)?;
        Self::read_next(&mut self.from)
    }
}

/// Readings on their way; their values can be read only with the kinds of the hello of the same nonce.
#[derive(Clone, Copy, Debug)]
pub struct Data<'a> {
    /// Boot the numbers belong to.
    pub nonce: u32,
    /// Number of the first reading.
    pub first: u64,
    /// Number of the oldest reading the device still holds; never past `first`.
    pub oldest: u64,
    /// The clock `sent_us` is of, 0 when the device does not know the gateway's.
    pub clock: u32,
    /// When the frame was sent, microseconds of that clock; 0 without one.
    pub sent_us: u64,
    /// How many readings follow, at least one.
    pub count: u8,
    from: Reader<'a>,
}

impl PartialEq for Data<'_> {
    fn eq(&self, other: &Self) -> bool {
        (self.nonce, self.first, self.oldest, self.clock, self.sent_us, self.count, self.from.rest)
            == (other.nonce, other.first, other.oldest, other.clock, other.sent_us, other.count, other.from.rest)
    }
}

impl<'a> Data<'a> {
    /// Number of the last reading.
    pub fn last(&self) -> u64 {
        self.first + u64::from(self.count) - 1
    }

    /// The readings, values by `kinds`.
    pub fn readings<'k>(&self, kinds: &'k [FieldKind]) -> Readings<'a, 'k> {
        Readings { next: self.first, left: self.count, from: self.from, kinds }
    }

    /// Whether every reading can be read with `kinds` and nothing is left over.
    pub fn is_whole(&self, kinds: &[FieldKind]) -> bool {
        let mut readings = self.readings(kinds);
        let read = readings.by_ref().count();
        read == usize::from(self.count) && readings.from.is_empty()
    }
}

/// One reading.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// Its number within the boot, from 1.
    pub sequence: u64,
    /// How old it was when it was sent, microseconds.
    pub age_us: u64,
    /// One per field of the device, `None` where it was absent.
    pub values: heapless::Vec<Option<Value>, FIELDS_MAX>,
}

/// Readings of a data frame; ends early where the bytes can't be read.
#[derive(Clone, Debug)]
pub struct Readings<'a, 'k> {
    next: u64,
    left: u8,
    from: Reader<'a>,
    kinds: &'k [FieldKind],
}

impl Iterator for Readings<'_, '_> {
    type Item = Reading;

    fn next(&mut self) -> Option<Reading> {
        self.left = self.left.checked_sub(1)?;
        let age_us = self.from.varint()?;
        let (mask, faults) = (self.from.varint()?, self.from.varint()?);
        if (mask | faults) >> self.kinds.len() != 0 || mask & faults != 0 {
            return None;
        }
        let mut values = heapless::Vec::new();
        for (i, kind) in self.kinds.iter().enumerate() {
            let value = match (mask >> i & 1, faults >> i & 1) {
                (1, _) => Some(Value::read(*kind, &mut self.from)?),
                (_, 1) => Some(Value::Fault(Fault::from_code(self.from.u8()?))),
                _ => None,
            };
            values.push(value).ok()?;
        }
        let sequence = self.next;
        self.next += 1;
        Some(Reading { sequence, age_us, values })
    }
}

/// A body, read.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Message<'a> {
    /// Who the device is.
    Hello(Hello<'a>),
    /// Its readings.
    Data(Data<'a>),
    /// Everything up to `sequence` is durable.
    Ack {
        /// Boot.
        nonce: u32,
        /// Last durable reading.
        sequence: u64,
    },
    /// Say hello.
    HelloRequest,
    /// Send again from `sequence` on.
    Resend {
        /// Boot.
        nonce: u32,
        /// First reading wanted.
        sequence: u64,
    },
    /// What time is it?
    TimeRequest {
        /// The device's row, 0 when it has none yet.
        nonce: u32,
        /// When it was sent, microseconds of the device's uptime.
        sent_us: u64,
    },
    /// The time.
    TimeReply(TimeReply),
}

/// The gateway's answer to a time request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeReply {
    /// Copied from the request.
    pub nonce: u32,
    /// Copied from the request.
    pub sent_us: u64,
    /// Names the gateway's clock; never 0, and another one when the clock starts anew.
    pub clock: u32,
    /// When the request came, microseconds of the gateway's clock.
    pub received_us: u64,
    /// When the answer went, the same.
    pub replied_us: u64,
}

impl<'a> Message<'a> {
    /// Reads a body that has passed its checksum.
    ///
    /// # Errors
    /// [`FrameError::Body`] for an unknown type, and for a payload that is longer or shorter than its type says.
    pub fn read(body: &'a [u8]) -> Result<Self, FrameError> {
        let mut from = Reader { rest: body };
        Self::parse(&mut from).filter(|_| from.is_empty()).ok_or(FrameError::Body)
    }

    fn parse(from: &mut Reader<'a>) -> Option<Self> {
        let [_version, kind] = from.array()?;
        Some(match kind {
            HELLO => Self::Hello(Self::parse_hello(from)?),
            DATA => {
                let (nonce, first, behind) = (from.u32()?, from.varint()?, from.varint()?);
                let (clock, sent_us, count) = (from.u32()?, from.varint()?, from.u8()?);
                // Numbers start at 1, and the last one must be a number too.
                let oldest = first.checked_sub(behind).filter(|oldest| *oldest >= 1)?;
                first.checked_add(u64::from(count)).filter(|next| *next <= NUMBER_MAX)?;
                let readings = Reader { rest: from.bytes(from.rest.len())? };
                if count == 0 || (clock == 0 && sent_us != 0) {
                    return None;
                }
                Self::Data(Data { nonce, first, oldest, clock, sent_us, count, from: readings })
            }
            ACK => Self::Ack { nonce: from.u32()?, sequence: from.varint()? },
            HELLO_REQUEST => Self::HelloRequest,
            RESEND => Self::Resend { nonce: from.u32()?, sequence: from.varint()? },
            TIME_REQUEST => Self::TimeRequest { nonce: from.u32()?, sent_us: from.varint()? },
            TIME_REPLY => Self::TimeReply(TimeReply {
                nonce: from.u32()?,
                sent_us: from.varint()?,
                clock: from.u32().filter(|clock| *clock != 0)?,
                received_us: from.varint()?,
                replied_us: from.varint()?,
            }),
            _ => return None,
        })
    }

    fn parse_hello(from: &mut Reader<'a>) -> Option<Hello<'a>> {
        let (nonce, resets, retain_depth) = (from.u32()?, from.varint()?, from.varint()?);
        let (dropped, held_back, refused, oldest) = (from.varint()?, from.varint()?, from.varint()?, from.varint()?);
        let (device, measurement, left) = (from.text()?, from.text()?, from.u8()?);
        if nonce == 0 || dropped >= oldest || oldest > NUMBER_MAX || measurement.is_empty() || left == 0 || usize::from(left) > FIELDS_MAX {
            return None;
        }
        let fields = Fields { from: *from, left };
        for _ in 0..left {
            Fields::read_next(from)?;
        }
        let used = fields.from.rest.len() - from.rest.len();
        let fields = Fields { from: Reader { rest: &fields.from.rest[..used] }, left };
        Some(Hello { nonce, resets, retain_depth, dropped, held_back, refused, oldest, device, measurement, fields })
    }
}

/// Writes a message without fields or readings; 0 for the others.
pub(crate) fn write_simple(message: Message<'_>, out: &mut [u8; WIRE_MAX]) -> usize {
    let mut body = body_buffer();
    let mut writer = Writer::new(&mut body[..BODY_MAX]);
    match message {
        Message::Ack { nonce, sequence } => numbered(&mut writer, ACK, nonce, sequence),
        Message::Resend { nonce, sequence } => numbered(&mut writer, RESEND, nonce, sequence),
        Message::HelloRequest => writer.bytes(&[VERSION, HELLO_REQUEST]),
        Message::TimeRequest { nonce, sent_us } => numbered(&mut writer, TIME_REQUEST, nonce, sent_us),
        Message::TimeReply(reply) => {
            numbered(&mut writer, TIME_REPLY, reply.nonce, reply.sent_us);
            writer.bytes(&reply.clock.to_le_bytes());
            writer.varint(reply.received_us);
            writer.varint(reply.replied_us);
        }
        Message::Hello(_) | Message::Data(_) => return 0,
    }
    match writer.finish() {
        Some(len) => seal(&mut body, len, out),
        None => 0,
    }
}

fn numbered(writer: &mut Writer<'_>, kind: u8, nonce: u32, sequence: u64) {
    writer.bytes(&[VERSION, kind]);
    writer.bytes(&nonce.to_le_bytes());
    writer.varint(sequence);
}

/// Writes a hello; 0 when it does not fit into a frame.
pub(crate) fn write_hello(hello: &Hello<'_>, fields: &[Field<'_>], out: &mut [u8; WIRE_MAX]) -> usize {
    let mut body = body_buffer();
    let mut writer = Writer::new(&mut body[..BODY_MAX]);
    writer.bytes(&[VERSION, HELLO]);
    writer.bytes(&hello.nonce.to_le_bytes());
    writer.varint(hello.resets);
    writer.varint(hello.retain_depth);
    writer.varint(hello.dropped);
    writer.varint(hello.held_back);
    writer.varint(hello.refused);
    writer.varint(hello.oldest);
    writer.text(hello.device);
    writer.text(hello.measurement);
    writer.bytes(&[fields.len() as u8]);
    for field in fields {
        let (kind, exponent) = match field.kind {
            FieldKind::Scaled(exponent) => (0, exponent),
            FieldKind::F32 => (1, 0),
            FieldKind::F64 => (2, 0),
            FieldKind::Bool => (3, 0),
        };
        writer.bytes(&[kind, exponent as u8]);
        writer.text(field.name);
    }
    match writer.finish() {
        Some(len) => seal(&mut body, len, out),
        None => 0,
    }
}

/// Writes a data frame, as many readings as fit.
pub(crate) struct DataWriter<'b> {
    writer: Writer<'b>,
    count_at: usize,
    count: u8,
}

impl<'b> DataWriter<'b> {
    /// A frame sent at `sent`: the gateway's clock and its microseconds, when they are known.
    pub(crate) fn new(body: &'b mut [u8], nonce: u32, first: u64, oldest: u64, sent: Option<(u32, u64)>) -> Self {
        let mut writer = Writer::new(&mut body[..BODY_MAX]);
        writer.bytes(&[VERSION, DATA]);
        writer.bytes(&nonce.to_le_bytes());
        writer.varint(first);
        writer.varint(first - oldest);
        let (clock, sent_us) = sent.unwrap_or((0, 0));
        writer.bytes(&clock.to_le_bytes());
        writer.varint(sent_us);
        let count_at = writer.len();
        writer.bytes(&[0]);
        Self { writer, count_at, count: 0 }
    }

    /// Adds a reading; `false` when there is no room for it.
    pub(crate) fn reading(&mut self, age_us: u64, values: &[Option<Value>]) -> bool {
        let before = self.writer.len();
        if self.count == u8::MAX {
            return false;
        }
        let (mut mask, mut faults) = (0, 0);
        for (i, value) in values.iter().enumerate() {
            match value {
                Some(Value::Fault(_)) => faults |= 1 << i,
                Some(_) => mask |= 1 << i,
                None => {}
            }
        }
        self.writer.varint(age_us);
        self.writer.varint(mask);
        self.writer.varint(faults);
        for value in values.iter().flatten() {
            value.write(&mut self.writer);
        }
        if self.writer.is_overflown() {
            self.writer.truncate(before);
            return false;
        }
        self.count += 1;
        true
    }

    /// Where the count stands, the count, and the length; the caller puts the count in its place and seals.
    pub(crate) fn finish(self) -> (usize, u8, usize) {
        (self.count_at, self.count, self.writer.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FrameDecoder, write_ack, write_hello_request, write_resend};

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
    }

    fn body(wire: &[u8]) -> Vec<u8> {
        let mut decoder = FrameDecoder::default();
        let ended: Vec<_> = wire.iter().filter_map(|b| decoder.push(*b)).collect();
        assert_eq!(ended, [Ok(())]);
        decoder.body().to_vec()
    }

    const FIELDS: [Field<'static>; 4] = [
        Field { name: "t", kind: FieldKind::Scaled(-2) },
        Field { name: "p", kind: FieldKind::F32 },
        Field { name: "e", kind: FieldKind::F64 },
        Field { name: "door", kind: FieldKind::Bool },
    ];

    const TIME: TimeReply =
        TimeReply { nonce: 0x1122_3344, sent_us: 1_000_000, clock: 0x0a0b_0c0d, received_us: 4_999_000, replied_us: 4_999_100 };

    fn golden() -> [(&'static str, Vec<u8>); 7] {
        let mut wire = [0; WIRE_MAX];
        let fields = Fields::none();
        let hello = Hello {
            nonce: 0x1122_3344,
            resets: 1,
            retain_depth: 300,
            dropped: 2,
            held_back: 40,
            refused: 3,
            oldest: 298,
            device: "shed",
            measurement: "climate",
            fields,
        };
        let len = write_hello(&hello, &FIELDS, &mut wire);
        let hello = wire[..len].to_vec();
        let mut buffer = body_buffer();
        let mut data = DataWriter::new(&mut buffer, 0x1122_3344, 300, 298, Some((0x0a0b_0c0d, 5_000_000)));
        let all = [Some(Value::Scaled(-2153)), Some(Value::F32(1.5)), Some(Value::F64(-0.25)), Some(Value::Bool(true))];
        assert!(data.reading(1_000_000, &all));
        assert!(data.reading(0, &[Some(Value::Scaled(0)), None, Some(Value::Fault(Fault::PowerOn)), None]));
        let (at, count, len) = data.finish();
        buffer[at] = count;
        let len = seal(&mut buffer, len, &mut wire);
        let data = wire[..len].to_vec();
        let len = write_ack(0x1122_3344, 301, &mut wire);
        let ack = wire[..len].to_vec();
        let len = write_hello_request(&mut wire);
        let request = wire[..len].to_vec();
        let len = write_resend(0x1122_3344, 300, &mut wire);
        let resend = wire[..len].to_vec();
        let len = write_simple(Message::TimeRequest { nonce: 0x1122_3344, sent_us: 1_000_000 }, &mut wire);
        let ask = wire[..len].to_vec();
        let len = write_simple(Message::TimeReply(TIME), &mut wire);
        let time = wire[..len].to_vec();
        [
            ("hello", hello),
            ("data", data),
            ("ack", ack),
            ("hello request", request),
            ("resend", resend),
            ("time request", ask),
            ("time reply", time),
        ]
    }

    /// The frames of PROTOCOL.md, to the byte: a change here is a new version of the protocol.
    #[test]
    fn the_golden_frames_of_the_protocol_page_are_what_is_written() {
        let page = include_str!("../../PROTOCOL.md");
        let block = page.split("```text\n").last().and_then(|rest| rest.split("\n```").next()).expect("the page ends with them");
        let written: Vec<String> =
            golden().iter().map(|(name, wire)| format!("{name}\n  body {}\n  wire {}", hex(&body(wire)), hex(wire))).collect();
        assert_eq!(written.join("\n"), block);
    }

    #[test]
    fn golden_data_reads_back_with_its_values() {
        let [_, (_, data), .., (_, time)] = golden();
        assert_eq!(Message::read(&body(&time)), Ok(Message::TimeReply(TIME)));
        let body = body(&data);
        let Ok(Message::Data(data)) = Message::read(&body) else { panic!("a data frame") };
        let kinds = FIELDS.map(|f| f.kind);
        assert!(data.is_whole(&kinds));
        assert!(!data.is_whole(&kinds[..3]));
        let readings: Vec<Reading> = data.readings(&kinds).collect();
        assert_eq!((data.first, data.oldest, data.last()), (300, 298, 301));
        assert_eq!((data.clock, data.sent_us), (0x0a0b_0c0d, 5_000_000));
        assert_eq!((readings[0].sequence, readings[0].age_us), (300, 1_000_000));
        assert_eq!(readings[0].values[0], Some(Value::Scaled(-2153)));
        assert_eq!(readings[0].values[2], Some(Value::F64(-0.25)));
        assert_eq!(readings[1].values.as_slice(), [Some(Value::Scaled(0)), None, Some(Value::Fault(Fault::PowerOn)), None]);
    }

    #[test]
    fn bytes_after_a_message_refuse_it() {
        assert_eq!(Message::read(&[VERSION, 4]), Ok(Message::HelloRequest));
        assert_eq!(Message::read(&[VERSION, 4, 0]), Err(FrameError::Body));
        assert_eq!(Message::read(&[VERSION, 99]), Err(FrameError::Body));
    }

    #[test]
    fn a_field_with_a_value_and_a_fault_at_once_is_refused() {
        // Age 0, mask 1, faults 1.
        let body = [VERSION, 2, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1, 0, 0];
        let Ok(Message::Data(data)) = Message::read(&body) else { panic!("a data frame") };
        assert!(!data.is_whole(&[FieldKind::Scaled(0)]));
    }
}
