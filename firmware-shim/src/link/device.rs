//! The device's end: numbers readings, sends them until they are acknowledged, introduces itself when asked, asks for the time.

use heapless::Vec;

use crate::{
    frame::{self, DataWriter, FIELDS_MAX, Field, FrameDecoder, Hello, Message, Value, WIRE_MAX, body_buffer, crc, write_hello},
    retain::{Retain, Retained},
    row::Row,
    time_sync::TimeSync,
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

impl Schema<'_> {
    /// What tells it from another: the checksum of a hello whose numbers are all the same.
    fn checksum(&self) -> u32 {
        let mut wire = [0; WIRE_MAX];
        let len = self.hello(1, [0; 6], &mut wire);
        // Without its own checksum: over both it is the same for all.
        crc::crc32c(&wire[..len.saturating_sub(5)])
    }

    /// Writes a hello with resets, retain depth, dropped, held back, refused and oldest.
    fn hello(&self, nonce: u32, numbers: [u64; 6], out: &mut [u8; WIRE_MAX]) -> usize {
        let Self { device, measurement, .. } = *self;
        let [resets, retain_depth, dropped, held_back, refused, oldest] = numbers;
        let fields = frame::Fields::none();
        write_hello(
            &Hello { nonce, resets, retain_depth, dropped, held_back, refused, oldest, device, measurement, fields },
            self.fields,
            out,
        )
    }
}

/// Why a schema can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaError {
    /// No field, more than [`FIELDS_MAX`], or more than the device has room for.
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

/// Where a device's numbers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// A nonce from a source of randomness; 0 counts as 1.
    Nonce(u32),
    /// There is no such source: the gateway's clock makes the nonce, together with this number, which should differ from start to
    /// start if anything does. Nothing but questions for the time is sent until an answer is there.
    Seed(u32),
    /// The row of the life before goes on; what it had not got rid of is lost and will be counted. With another schema than that row's, as
    /// after new firmware, only the numbers go on, under another nonce.
    Row(Row),
}

/// A device's end of the line; keeps up to `DEPTH` readings of up to `FIELDS` fields.
#[derive(Debug)]
pub struct Device<'s, const DEPTH: usize, const FIELDS: usize> {
    schema: Schema<'s>,
    checksum: u32,
    /// 0 until there is one.
    nonce: u32,
    seed: u32,
    resets: u32,
    held_back: u64,
    time: TimeSync,
    retain: &'s mut Retain<DEPTH, FIELDS>,
    numbered: Option<usize>,
    decoder: FrameDecoder,
    hello_due: bool,
    /// Number of the next reading to send.
    next: u64,
    /// Number of the first that was never sent.
    unsent: u64,
    wait_us: u64,
    /// When everything goes out again, if nothing was acknowledged until then.
    resend_at_us: Option<u64>,
    /// Something was acknowledged since the last poll: what is still unacknowledged gets its full time from there.
    progressed: bool,
}

impl<'s, const DEPTH: usize, const FIELDS: usize> Device<'s, DEPTH, FIELDS> {
    /// A device that has just started; it empties `retain`.
    ///
    /// # Errors
    /// When the schema does not fit into a hello.
    pub fn new(schema: Schema<'s>, start: Start, retain: &'s mut Retain<DEPTH, FIELDS>) -> Result<Self, SchemaError> {
        let count = schema.fields.len();
        if count == 0 || count > FIELDS_MAX.min(FIELDS) {
            return Err(SchemaError::Fields);
        }
        let twice = |i: usize, field: &Field<'_>| schema.fields[..i].iter().any(|other| other.name == field.name);
        if schema.measurement.is_empty() || schema.fields.iter().enumerate().any(|(i, f)| f.name.is_empty() || twice(i, f)) {
            return Err(SchemaError::Name);
        }
        // With the longest numbers, so that a hello can never fail later.
        if schema.hello(u32::MAX, [u64::MAX; 6], &mut [0; WIRE_MAX]) == 0 {
            return Err(SchemaError::TooLong);
        }
        retain.resume(1, 0);
        let checksum = schema.checksum();
        let (nonce, seed, resets) = match start {
            Start::Nonce(nonce) => (nonce.max(1), 0, 0),
            Start::Seed(seed) => (0, seed, 0),
            // Were the hello between them lost, readings of one schema would be taken for those of the other.
            Start::Row(row) if row.schema != checksum => {
                let waited = row.next - row.oldest;
                retain.resume(row.next, waited);
                (drawn(checksum, &[u64::from(row.nonce), row.next, waited]), 0, 0)
            }
            Start::Row(row) => {
                let dropped = row.dropped.saturating_add(row.next - row.oldest);
                retain.resume(row.next, dropped);
                (row.nonce, 0, row.resets.saturating_add(1))
            }
        };
        let next = retain.next();
        Ok(Self {
            schema,
            checksum,
            nonce,
            seed,
            resets,
            held_back: 0,
            time: TimeSync::default(),
            retain,
            numbered: None,
            decoder: FrameDecoder::default(),
            hello_due: true,
            next,
            unsent: next,
            wait_us: RESEND_US,
            resend_at_us: None,
            progressed: false,
        })
    }

    /// Asks for the time every `every_us` microseconds instead of every minute, a second at least.
    #[must_use]
    pub fn time_every(mut self, every_us: u64) -> Self {
        self.time = TimeSync::every(every_us);
        self
    }

    /// Writes each reading's number into this field, which must be a scaled integer and is left out of what is pushed: whoever reads the
    /// points can tell what is missing.
    ///
    /// # Errors
    /// When there is no such field, or it is of another kind.
    pub fn numbered(mut self, field: usize) -> Result<Self, SchemaError> {
        match self.schema.fields.get(field).map(|field| field.kind) {
            Some(frame::FieldKind::Scaled(0)) => self.numbered = Some(field),
            _ => return Err(SchemaError::Fields),
        }
        Ok(self)
    }

    /// Takes a reading, taken at `taken_us` of the device's uptime, one value per field, and returns its number. A float that is no
    /// number becomes a fault.
    ///
    /// # Errors
    /// When the values are not those of the schema.
    pub fn push(&mut self, taken_us: u64, values: &[Option<Value>]) -> Result<u64, PushError> {
        let fields = self.schema.fields;
        let fits = |(value, field): (&Option<Value>, &Field<'_>)| value.is_none_or(|value| value.fits(field.kind));
        if values.len() != fields.len() || !values.iter().zip(fields).all(fits) {
            return Err(PushError::Values);
        }
        let mut values: Vec<Option<Value>, FIELDS> = values.iter().map(|value| value.map(Value::checked)).collect();
        if let Some(value) = self.numbered.and_then(|field| values.get_mut(field)) {
            *value = Some(Value::Scaled(self.retain.next() as i64));
        }
        Ok(self.retain.push(Retained { taken_us, values }))
    }

    /// Writes the next frame that is due at `now_us` and returns its length, 0 when there is none. To be called until it gives 0.
    pub fn poll(&mut self, now_us: u64, out: &mut [u8; WIRE_MAX]) -> usize {
        if self.time.is_due(now_us) {
            return frame::write_simple(Message::TimeRequest { nonce: self.nonce, sent_us: now_us }, out);
        }
        if self.nonce == 0 {
            return 0;
        }
        if core::mem::take(&mut self.hello_due) {
            return self.hello(out);
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
        let sent = self.time.offset().map(|offset| (offset.clock, offset.at_gateway(now_us)));
        let mut writer = DataWriter::new(&mut body, self.nonce, self.next, oldest, sent);
        let mut next = self.next;
        while let Some(reading) = self.retain.get(next)
            && writer.reading(now_us.saturating_sub(reading.taken_us), &reading.values)
        {
            next += 1;
        }
        let (count_at, count, len) = writer.finish();
        body[count_at] = count;
        self.next = next;
        self.unsent = self.unsent.max(next);
        if self.resend_at_us.is_none() {
            self.resend_at_us = Some(now_us.saturating_add(self.wait_us));
        }
        frame::seal(&mut body, len, out)
    }

    /// Takes one byte that came from the gateway by `now_us`.
    pub fn receive(&mut self, byte: u8, now_us: u64) {
        if self.decoder.push(byte) != Some(Ok(())) {
            return;
        }
        match self.decoder.message() {
            Ok(Message::Ack { nonce, sequence }) if nonce == self.nonce && sequence < self.unsent.max(self.retain.oldest()) => {
                self.progressed |= self.retain.acknowledge(sequence);
            }
            Ok(Message::Ack { nonce, sequence }) if nonce == self.nonce && nonce != 0 => self.leave_row(sequence, now_us),
            Ok(Message::Resend { nonce, sequence }) if nonce == self.nonce => {
                self.next = self.next.min(sequence).max(self.retain.oldest());
            }
            Ok(Message::HelloRequest) => {
                self.hello_due = true;
                // It has just opened the line: it may be another one, or have another clock.
                self.time.ask();
            }
            Ok(Message::TimeReply(reply)) if reply.nonce == self.nonce && self.time.answer(&reply, now_us) => {
                if self.nonce == 0 {
                    self.nonce = drawn(self.seed, &[u64::from(reply.clock), reply.received_us, now_us]);
                }
                // The counters in it are as old as the last one.
                self.hello_due = true;
            }
            _ => {}
        }
    }

    /// A reading was acknowledged that was never sent: the gateway knows another row by this nonce, as a life before this one may have
    /// drawn the same. All there is goes out again under another.
    fn leave_row(&mut self, sequence: u64, now_us: u64) {
        self.nonce = drawn(self.seed, &[u64::from(self.nonce), sequence, now_us]);
        self.resets = 0;
        self.hello_due = true;
        self.next = self.retain.oldest();
    }

    /// When [`Device::poll`] has something to send again or to ask, microseconds of the device's uptime.
    pub fn deadline_us(&self) -> u64 {
        self.resend_at_us.unwrap_or(u64::MAX).min(self.time.due_us())
    }

    /// What to keep over a reset, whenever it has changed and before the next [`Device::poll`]; `None` while there is no nonce.
    pub fn row(&self) -> Option<Row> {
        let (next, oldest, dropped) = (self.retain.next(), self.retain.oldest(), self.retain.dropped());
        (self.nonce != 0).then_some(Row { nonce: self.nonce, resets: self.resets, schema: self.checksum, next, oldest, dropped })
    }

    /// How the device knows the gateway's time.
    pub fn time(&self) -> &TimeSync {
        &self.time
    }

    /// Counts readings that were not worth sending.
    pub fn count_held_back(&mut self, readings: u64) {
        self.held_back += readings;
    }

    /// Fields of its schema.
    pub fn fields(&self) -> usize {
        self.schema.fields.len()
    }

    /// Number the next reading gets.
    pub fn next_number(&self) -> u64 {
        self.retain.next()
    }

    /// Readings that wait for their acknowledgement.
    pub fn waiting(&self) -> u64 {
        self.retain.next() - self.retain.oldest()
    }

    /// Readings dropped since boot because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.retain.dropped()
    }

    fn hello(&self, out: &mut [u8; WIRE_MAX]) -> usize {
        let counts = self.decoder.counts;
        let refused = counts.bad_checksum + counts.bad_version + counts.overlong + counts.bad_body;
        let (dropped, oldest) = (self.retain.dropped(), self.retain.oldest());
        self.schema.hello(self.nonce, [u64::from(self.resets), DEPTH as u64, dropped, self.held_back, refused, oldest], out)
    }
}

/// A nonce of what differs between starts; never 0.
fn drawn(seed: u32, moments: &[u64; 3]) -> u32 {
    let mut bytes = [0; 28];
    bytes[..4].copy_from_slice(&seed.to_le_bytes());
    for (place, moment) in bytes[4..].chunks_exact_mut(8).zip(moments) {
        place.copy_from_slice(&moment.to_le_bytes());
    }
    crc::crc32c(&bytes).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::{FieldKind, TimeReply, write_ack};

    const FIELDS: [Field<'static>; 1] = [Field { name: "t", kind: FieldKind::Scaled(-1) }];
    const SCHEMA: Schema<'static> = Schema { device: "d", measurement: "m", fields: &FIELDS };

    fn device() -> Device<'static, 4, 1> {
        Device::new(SCHEMA, Start::Nonce(5), Box::leak(Box::default())).expect("a schema that fits")
    }

    /// Tells it the time, so that it does not ask in between.
    fn answer_time(device: &mut Device<'static, 4, 1>, sent_us: u64, nonce: u32) {
        let reply = TimeReply { nonce, sent_us, clock: 9, received_us: sent_us + 7_000_000, replied_us: sent_us + 7_000_000 };
        let mut out = [0; WIRE_MAX];
        let len = frame::write_simple(Message::TimeReply(reply), &mut out);
        out[..len].iter().for_each(|b| device.receive(*b, sent_us));
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
        assert_eq!(frames(&mut device, 0), 3, "a question for the time, hello and data");
        answer_time(&mut device, 0, 5);
        assert_eq!(frames(&mut device, 0), 1, "another hello");
        assert_eq!(frames(&mut device, 1_999_999), 0);
        assert_eq!(frames(&mut device, 2_000_000), 1);
        assert_eq!(frames(&mut device, 5_999_999), 0);
        assert_eq!(frames(&mut device, 6_000_000), 1);
        let mut ack = [0; WIRE_MAX];
        let len = write_ack(5, 1, &mut ack);
        ack[..len].iter().for_each(|b| device.receive(*b, 6_000_000));
        assert_eq!(frames(&mut device, 59_000_000), 0);
        assert_eq!((device.waiting(), device.deadline_us()), (0, 60_000_000));
    }

    #[test]
    fn while_acknowledgements_come_nothing_is_sent_twice() {
        let (mut device, mut out) = (device(), [0; WIRE_MAX]);
        frames(&mut device, 0);
        answer_time(&mut device, 0, 5);
        frames(&mut device, 0);
        for number in 1..20 {
            let now_us = number * 900_000;
            device.push(now_us, &[None]).expect("an absent value is one");
            assert_eq!(frames(&mut device, now_us), 1, "at reading {number}");
            // One reading is always on its way.
            let len = write_ack(5, number - 1, &mut out);
            out[..len].iter().for_each(|b| device.receive(*b, now_us));
        }
    }

    #[test]
    fn without_randomness_it_says_nothing_but_a_question_until_the_gateways_clock_made_its_nonce() {
        let mut device = Device::<4, 1>::new(SCHEMA, Start::Seed(3), Box::leak(Box::default())).expect("a schema that fits");
        device.push(0, &[None]).expect("an absent value is one");
        assert_eq!((frames(&mut device, 0), device.row()), (1, None));
        answer_time(&mut device, 0, 0);
        let nonce = device.row().expect("a row").nonce;
        assert_eq!(frames(&mut device, 0), 2, "hello and data");
        let mut other = Device::<4, 1>::new(SCHEMA, Start::Seed(4), Box::leak(Box::default())).expect("a schema that fits");
        frames(&mut other, 0);
        answer_time(&mut other, 0, 0);
        assert_ne!(other.row().expect("a row").nonce, nonce);
    }

    #[test]
    fn a_row_that_goes_on_counts_what_the_reset_cost() {
        let mut device = device();
        for _ in 0..3 {
            device.push(0, &[None]).expect("an absent value is one");
        }
        let row = device.row().expect("a row");
        let mut device = Device::<4, 1>::new(SCHEMA, Start::Row(row), Box::leak(Box::default())).expect("a schema that fits");
        assert_eq!((device.dropped(), device.push(0, &[None])), (3, Ok(4)));
        assert_eq!(device.row(), Some(Row { nonce: 5, resets: 1, schema: row.schema, next: 5, oldest: 4, dropped: 3 }));
    }

    #[test]
    fn new_firmware_with_another_schema_goes_on_under_another_nonce() {
        let mut device = device();
        for _ in 0..3 {
            device.push(0, &[None]).expect("an absent value is one");
        }
        let row = device.row().expect("a row");
        for fields in [[Field { name: "u", ..FIELDS[0] }], [Field { kind: FieldKind::Scaled(-2), ..FIELDS[0] }]] {
            let schema = Schema { fields: &fields, ..SCHEMA };
            let device = Device::<4, 1>::new(schema, Start::Row(row), Box::leak(Box::default())).expect("a schema that fits");
            let new = device.row().expect("a row");
            assert_ne!((new.nonce, new.schema), (row.nonce, row.schema));
            assert_eq!((new.resets, new.next, new.oldest, new.dropped), (0, 4, 4, 3), "what waited is lost, and no number is given twice");
        }
    }

    #[test]
    fn a_numbered_field_says_which_reading_it_is_in() {
        assert_eq!(device().numbered(0).err(), Some(SchemaError::Fields), "tenths are no numbers");
        let fields = [FIELDS[0], Field { name: "n", kind: FieldKind::Scaled(0) }];
        let schema = Schema { fields: &fields, ..SCHEMA };
        let device = Device::<4, 2>::new(schema, Start::Nonce(5), Box::leak(Box::default()));
        let mut device = device.and_then(|device| device.numbered(1)).expect("a schema that fits");
        device.push(0, &[None, None]).expect("absent values");
        device.push(0, &[None, Some(Value::Scaled(77))]).expect("a value of its kind");
        assert_eq!(device.retain.get(2).map(|r| r.values[1]), Some(Some(Value::Scaled(2))));
    }

    #[test]
    fn a_float_that_is_no_number_is_sent_as_a_fault() {
        let fields = [Field { name: "t", kind: FieldKind::F32 }];
        let mut device = Device::<4, 1>::new(Schema { fields: &fields, ..SCHEMA }, Start::Nonce(5), Box::leak(Box::default()))
            .expect("a schema that fits");
        device.push(0, &[Some(Value::F32(f32::NAN))]).expect("a value of its kind");
        assert_eq!(device.retain.get(1).map(|r| r.values[0]), Some(Some(Value::Fault(crate::fault::Fault::NotANumber))));
    }

    #[test]
    fn an_acknowledgement_of_another_boot_is_not_ours() {
        let mut device = device();
        device.push(0, &[None]).expect("an absent value is one");
        let mut ack = [0; WIRE_MAX];
        let len = write_ack(6, 1, &mut ack);
        ack[..len].iter().for_each(|b| device.receive(*b, 0));
        assert_eq!(device.waiting(), 1);
    }

    #[test]
    fn an_acknowledgement_of_what_was_dropped_unsent_is_of_our_row() {
        let (mut device, mut ack) = (device(), [0; WIRE_MAX]);
        for _ in 0..7 {
            device.push(0, &[None]).expect("an absent value is one");
        }
        // The hello has told that the first three are gone, the data are still to be sent.
        let len = write_ack(5, 3, &mut ack);
        ack[..len].iter().for_each(|b| device.receive(*b, 0));
        assert_eq!((device.waiting(), device.row().map(|row| row.nonce)), (4, Some(5)));
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_is_of_another_row_with_our_name() {
        let (mut device, mut ack) = (device(), [0; WIRE_MAX]);
        device.push(0, &[None]).expect("an absent value is one");
        frames(&mut device, 0);
        device.push(0, &[None]).expect("an absent value is one");
        let len = write_ack(5, 2, &mut ack);
        ack[..len].iter().for_each(|b| device.receive(*b, 0));
        assert_eq!(device.waiting(), 2, "nothing is let go");
        let nonce = device.row().expect("a row").nonce;
        assert_ne!(nonce, 5);
        assert_eq!(frames(&mut device, 0), 2, "hello, and both readings");
        let len = write_ack(nonce, 2, &mut ack);
        ack[..len].iter().for_each(|b| device.receive(*b, 0));
        assert_eq!(device.waiting(), 0);
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
        assert_eq!(Device::<4, 1>::new(schema, Start::Nonce(1), Box::leak(Box::default())).err(), Some(SchemaError::TooLong));
        let twice = [FIELDS[0], FIELDS[0]];
        assert_eq!(
            Device::<4, 2>::new(Schema { fields: &twice, ..SCHEMA }, Start::Nonce(1), Box::leak(Box::default())).err(),
            Some(SchemaError::Name)
        );
        assert_eq!(
            Device::<4, 1>::new(Schema { fields: &twice, ..SCHEMA }, Start::Nonce(1), Box::leak(Box::default())).err(),
            Some(SchemaError::Fields)
        );
    }

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..8, any::<u64>(), Just(u64::MAX)]
    }

    fn message() -> impl Strategy<Value = Message<'static>> {
        let nonce = || prop_oneof![Just(5), any::<u32>()];
        prop_oneof![
            (nonce(), number()).prop_map(|(nonce, sequence)| Message::Ack { nonce, sequence }),
            (nonce(), number()).prop_map(|(nonce, sequence)| Message::Resend { nonce, sequence }),
            Just(Message::HelloRequest),
            (nonce(), number(), 1u32..3, number(), number()).prop_map(|(nonce, sent_us, clock, received_us, replied_us)| {
                Message::TimeReply(TimeReply { nonce, sent_us, clock, received_us, replied_us })
            }),
        ]
    }

    proptest! {
        #[test]
        fn no_gateway_upsets_a_device(messages in proptest::collection::vec((message(), any::<bool>(), 0u64..1 << 36), 0..60)) {
            let (mut device, mut frame, mut now_us) = (device(), [0; WIRE_MAX], 0u64);
            for (message, reads, passes_us) in messages {
                now_us += passes_us;
                if reads {
                    device.push(now_us, &[Some(Value::Scaled(1))]).expect("the schema's value");
                }
                let len = frame::write_simple(message, &mut frame);
                frame[..len].iter().for_each(|byte| device.receive(*byte, now_us));
                // A question for the time, a hello, and each reading once.
                let sent = (0..20).take_while(|_| device.poll(now_us, &mut frame) > 0).count();
                prop_assert!(sent <= 2 + 4, "it never ends");
                prop_assert!(device.waiting() <= 4);
                let _ = (device.deadline_us(), device.row());
            }
        }
    }
}
