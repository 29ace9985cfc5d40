//! The device's end: numbers readings, sends them until they are acknowledged, introduces itself when asked.

use heapless::Vec;

use crate::{
    frame::{self, DataWriter, FIELDS_MAX, Field, FrameDecoder, Hello, Message, Value, WIRE_MAX, body_buffer, write_hello},
    retain::{Retain, Retained},
};

/// Everything is sent again after that long without progress, microseconds.
const RESEND_US: u64 = 2_000_000;
/// The longest wait before it is sent again, microseconds.
const RESEND_US_MAX: u64 = 30_000_000;

/// What a device measures.
#[derive(Clone, Copy, Debug)]
pub struct Schema<'s> {
    /// Name of the device.
    pub device: &'s str,
    /// What its readings are called.
    pub measurement: &'s str,
    /// Its fields.
    pub fields: &'s [Field<'s>],
}

/// Why a schema can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaError {
    /// No field, more than twenty, or more than the device has room for.
    Fields,
    /// A name is empty or appears twice.
    Name,
    /// Names too long for one frame.
    TooLong,
}

/// Why a reading was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// Not one value per field, or a value of another kind than its field's.
    Values,
}

/// A device's end of the line; keeps up to `DEPTH` readings of up to `FIELDS` fields.
#[derive(Debug)]
pub struct Device<'s, const DEPTH: usize, const FIELDS: usize> {
    schema: Schema<'s>,
    nonce: u32,
    retain: Retain<DEPTH, FIELDS>,
    decoder: FrameDecoder,
    hello_due: bool,
    /// Number of the next reading to send.
    next: u64,
    wait_us: u64,
    /// When everything goes out again, if nothing was acknowledged until then.
    resend_at_us: Option<u64>,
    /// Something was acknowledged since the last poll: what is still unacknowledged gets its full time from there.
    progressed: bool,
}

impl<'s, const DEPTH: usize, const FIELDS: usize> Device<'s, DEPTH, FIELDS> {
    /// A device that has just booted and drew `nonce`.
    ///
    /// # Errors
    /// When the schema does not fit into a hello.
    pub fn new(schema: Schema<'s>, nonce: u32) -> Result<Self, SchemaError> {
        let count = schema.fields.len();
        if count == 0 || count > FIELDS_MAX.min(FIELDS) {
            return Err(SchemaError::Fields);
        }
        let twice = |i: usize, field: &Field<'_>| schema.fields[..i].iter().any(|other| other.name == field.name);
        if schema.measurement.is_empty() || schema.fields.iter().enumerate().any(|(i, f)| f.name.is_empty() || twice(i, f)) {
            return Err(SchemaError::Name);
        }
        let device = Self {
            schema,
            nonce,
            retain: Retain::default(),
            decoder: FrameDecoder::default(),
            hello_due: true,
            next: 1,
            wait_us: RESEND_US,
            resend_at_us: None,
            progressed: false,
        };
        // With the longest numbers, so that a hello can never fail later.
        if device.hello(u64::MAX, u64::MAX, &mut [0; WIRE_MAX]) == 0 {
            return Err(SchemaError::TooLong);
        }
        Ok(device)
    }

    /// Takes a reading, taken at `taken_us` of the device's uptime, one value per field, and returns its number.
    ///
    /// # Errors
    /// When the values are not those of the schema.
    pub fn push(&mut self, taken_us: u64, values: &[Option<Value>]) -> Result<u64, PushError> {
        let fields = self.schema.fields;
        let fits = |(value, field): (&Option<Value>, &Field<'_>)| value.is_none_or(|value| value.fits(field.kind));
        if values.len() != fields.len() || !values.iter().zip(fields).all(fits) {
            return Err(PushError::Values);
        }
        let values = Vec::from_slice(values).map_err(|_| PushError::Values)?;
        Ok(self.retain.push(Retained { taken_us, values }))
    }

    /// Writes the next frame that is due at `now_us` and returns its length, 0 when there is none. To be called until it gives 0.
    pub fn poll(&mut self, now_us: u64, out: &mut [u8; WIRE_MAX]) -> usize {
        if core::mem::take(&mut self.hello_due) {
            return self.hello(self.retain.dropped(), self.retain.oldest(), out);
        }
        let oldest = self.retain.oldest();
        if core::mem::take(&mut self.progressed) {
            self.wait_us = RESEND_US;
            self.resend_at_us = (oldest < self.next).then(|| now_us.saturating_add(RESEND_US));
        }
        if self.resend_at_us.is_some_and(|at| now_us >= at) {
            self.next = oldest;
            self.wait_us = (self.wait_us * 2).min(RESEND_US_MAX);
            self.resend_at_us = None;
        }
        self.next = self.next.max(oldest);
        if self.next >= self.retain.next() {
            return 0;
        }
        let mut body = body_buffer();
        let mut writer = DataWriter::new(&mut body, self.nonce, self.next, oldest);
        let mut next = self.next;
        while let Some(reading) = self.retain.get(next)
            && writer.reading(now_us.saturating_sub(reading.taken_us), &reading.values)
        {
            next += 1;
        }
        let (count_at, count, len) = writer.finish();
        body[count_at] = count;
        self.next = next;
        if self.resend_at_us.is_none() {
            self.resend_at_us = Some(now_us.saturating_add(self.wait_us));
        }
        frame::seal(&mut body, len, out)
    }

    /// Takes one byte that came from the gateway.
    pub fn receive(&mut self, byte: u8) {
        if self.decoder.push(byte) != Some(Ok(())) {
            return;
        }
        match self.decoder.message() {
            Ok(Message::Ack { nonce, sequence }) if nonce == self.nonce => self.progressed |= self.retain.acknowledge(sequence),
            Ok(Message::Resend { nonce, sequence }) if nonce == self.nonce => {
                self.next = self.next.min(sequence).max(self.retain.oldest());
            }
            Ok(Message::HelloRequest) => self.hello_due = true,
            _ => {}
        }
    }

    /// When [`Device::poll`] has something to send again, microseconds of the device's uptime; `None` when nothing waits.
    pub fn deadline_us(&self) -> Option<u64> {
        self.resend_at_us
    }

    /// Readings that wait for their acknowledgement.
    pub fn waiting(&self) -> u64 {
        self.retain.next() - self.retain.oldest()
    }

    /// Readings dropped since boot because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.retain.dropped()
    }

    fn hello(&self, dropped: u64, oldest: u64, out: &mut [u8; WIRE_MAX]) -> usize {
        let Schema { device, measurement, fields } = self.schema;
        let hello =
            Hello { nonce: self.nonce, retain_depth: DEPTH as u64, dropped, oldest, device, measurement, fields: frame::Fields::none() };
        write_hello(&hello, fields, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{FieldKind, write_ack};

    const FIELDS: [Field<'static>; 1] = [Field { name: "t", kind: FieldKind::Scaled(-1) }];
    const SCHEMA: Schema<'static> = Schema { device: "d", measurement: "m", fields: &FIELDS };

    fn device() -> Device<'static, 4, 1> {
        Device::new(SCHEMA, 5).expect("a schema that fits")
    }

    fn frames(device: &mut Device<'static, 4, 1>, now_us: u64) -> usize {
        let mut out = [0; WIRE_MAX];
        let mut frames = 0;
        while device.poll(now_us, &mut out) > 0 {
            frames += 1;
        }
        frames
    }

    #[test]
    fn readings_are_sent_again_ever_more_slowly_until_they_are_acknowledged() {
        let mut device = device();
        device.push(0, &[Some(Value::Scaled(1))]).expect("the value of the schema");
        assert_eq!(frames(&mut device, 0), 2, "hello and data");
        assert_eq!(frames(&mut device, 1_999_999), 0);
        assert_eq!(frames(&mut device, 2_000_000), 1);
        assert_eq!(frames(&mut device, 5_999_999), 0);
        assert_eq!(frames(&mut device, 6_000_000), 1);
        let mut ack = [0; WIRE_MAX];
        let len = write_ack(5, 1, &mut ack);
        ack[..len].iter().for_each(|b| device.receive(*b));
        assert_eq!(frames(&mut device, 60_000_000), 0);
        assert_eq!((device.waiting(), device.deadline_us()), (0, None));
    }

    #[test]
    fn while_acknowledgements_come_nothing_is_sent_twice() {
        let (mut device, mut out) = (device(), [0; WIRE_MAX]);
        frames(&mut device, 0);
        for number in 1..20 {
            let now_us = number * 900_000;
            device.push(now_us, &[None]).expect("an absent value is one");
            assert_eq!(frames(&mut device, now_us), 1, "at reading {number}");
            // One reading is always on its way.
            let len = write_ack(5, number - 1, &mut out);
            out[..len].iter().for_each(|b| device.receive(*b));
        }
    }

    #[test]
    fn an_acknowledgement_of_another_boot_is_not_ours() {
        let mut device = device();
        device.push(0, &[None]).expect("an absent value is one");
        let mut ack = [0; WIRE_MAX];
        let len = write_ack(6, 1, &mut ack);
        ack[..len].iter().for_each(|b| device.receive(*b));
        assert_eq!(device.waiting(), 1);
    }

    #[test]
    fn a_value_of_another_kind_is_refused() {
        assert_eq!(device().push(0, &[Some(Value::F32(1.0))]), Err(PushError::Values));
        assert_eq!(device().push(0, &[]), Err(PushError::Values));
    }

    #[test]
    fn a_schema_that_fits_no_frame_is_refused_at_once() {
        let long = "n".repeat(250);
        let schema = Schema { device: &long, ..SCHEMA };
        assert_eq!(Device::<4, 1>::new(schema, 1).err(), Some(SchemaError::TooLong));
        let twice = [FIELDS[0], FIELDS[0]];
        assert_eq!(Device::<4, 2>::new(Schema { fields: &twice, ..SCHEMA }, 1).err(), Some(SchemaError::Name));
        assert_eq!(Device::<4, 1>::new(Schema { fields: &twice, ..SCHEMA }, 1).err(), Some(SchemaError::Fields));
    }
}
