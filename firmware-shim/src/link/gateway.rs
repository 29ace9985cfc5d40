//! The gateway's end: takes readings in order and once each, says what it lacks, and counts what the link has lost.
//!
//! It also tells the device the time, so that readings can carry it in the gateway's clock. It never says by itself that something is durable: whoever owns it writes the acknowledgement when it is.

use heapless::Vec;

use crate::frame::{
    BODY_MAX, FrameCounts, FrameDecoder, FrameError, Hello, Kinds, Message, NUMBER_MAX, Reading, TimeReply, WIRE_MAX, write_hello_request,
    write_resend, write_simple,
};

/// While a reading is missing it is asked for again after that long, microseconds.
const ASK_AGAIN_US: u64 = 200_000;

/// What became of readings on the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkCounts {
    /// Taken, once each.
    pub taken: u64,
    /// Had already.
    pub duplicate: u64,
    /// Dropped by the device before they could be taken.
    pub lost: u64,
}

/// What a byte brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A hello: [`Gateway::hello`] has it. `new_boot` when its nonce is another than that of the readings taken last, or the same but
    /// what it says can't be of that row: numbers then begin anew, and an acknowledgement of the row before must not be sent any more.
    Hello {
        /// The device began a new row of numbers, or is another one.
        new_boot: bool,
        /// How many readings it says are gone that were not taken.
        lost: u64,
    },
    /// Readings, to be had from [`Gateway::readings`] before the next byte. Some may be duplicates, which are left out there.
    Data {
        /// How many are new.
        new: u64,
        /// How many were here before.
        duplicate: u64,
        /// How many are missing for good before the first new one.
        lost: u64,
    },
    /// Readings that can't be taken yet: the schema or an earlier reading is missing. [`Gateway::reply`] asks for it.
    Early,
    /// A question for the time; [`Gateway::reply`] answers it.
    TimeRequest,
    /// A frame that was refused.
    Refused(FrameError),
}

/// How far readings were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    nonce: u32,
    sequence: u64,
}

/// What a row was seen to be, to tell it from another that a device gave the same name: one that has nothing random, and says it has,
/// draws the same nonce at each start.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// The oldest reading it held: that goes only forwards.
    oldest: u64,
    resets: u64,
    /// The device's uptime when it last asked for the time, and whether that went backwards since the hello before.
    uptime_us: u64,
    rebooted: bool,
}

impl Seen {
    /// Whether this hello can't be of the row of which everything up to `taken` is here.
    fn contradicts(&self, hello: &Hello<'_>, taken: u64) -> bool {
        // What is here the device has sent, so its next reading comes after it; it never holds more than it has room for.
        let holds_up_to = (hello.oldest - 1).saturating_add(hello.retain_depth);
        hello.oldest < self.oldest || holds_up_to < taken || (self.rebooted && hello.resets <= self.resets)
    }
}

/// A gateway's end of the line.
#[derive(Clone, Debug, Default)]
pub struct Gateway {
    /// Names the clock of `now_us`.
    clock: u32,
    decoder: FrameDecoder,
    hello: Vec<u8, BODY_MAX>,
    kinds: Kinds,
    taken: Option<Taken>,
    seen: Seen,
    /// New readings of the last data frame start here.
    first_new: u64,
    hello_wanted: bool,
    /// Readings may have passed that could not be taken without a hello: the device is asked for them after it.
    missed: bool,
    resend_wanted: bool,
    /// Number after which a resend was asked for since the last progress, and when.
    asked_after: Option<Taken>,
    asked_us: u64,
    counts: LinkCounts,
    /// When the last data frame was sent, in our clock.
    sent_us: Option<u64>,
    /// A question for the time: the device's nonce and moment, and when it came.
    asked: Option<(u32, u64, u64)>,
}

impl Gateway {
    /// A gateway that has durably taken everything up to `resume` (nonce, sequence) in an earlier life. `clock` names the clock of every
    /// `now_us`: another one whenever that clock starts anew; 0 counts as 1.
    pub fn new(resume: Option<(u32, u64)>, clock: u32) -> Self {
        // What no device can have sent was not taken either.
        let resume = resume.filter(|(_, sequence)| *sequence <= NUMBER_MAX);
        let taken = resume.map(|(nonce, sequence)| Taken { nonce, sequence });
        Self { clock: clock.max(1), taken, hello_wanted: true, missed: true, ..Self::default() }
    }

    /// A new connection: forgets a half frame and asks for a hello.
    pub fn reopen(&mut self) {
        self.decoder.reset();
        self.hello_wanted = true;
        self.missed = true;
        self.asked_after = None;
        self.asked = None;
    }

    /// Takes one byte from the device that came at `now_us`.
    pub fn push(&mut self, byte: u8, now_us: u64) -> Option<Event> {
        match self.decoder.push(byte)? {
            Ok(()) => self.message(now_us),
            Err(error) => Some(Event::Refused(error)),
        }
    }

    fn message(&mut self, now_us: u64) -> Option<Event> {
        let Ok(message) = self.decoder.message() else { return self.refuse_body() };
        match message {
            Message::Hello(hello) if hello.names_a_field_twice() => self.refuse_body(),
            Message::Hello(hello) => {
                // A hello has no more fields than there is room for kinds, and a body is no longer than the store for it.
                self.kinds = hello.fields.map(|field| field.kind).collect();
                let of_row = self.taken.filter(|taken| taken.nonce == hello.nonce);
                let new_boot = of_row.is_none_or(|taken| self.seen.contradicts(&hello, taken.sequence));
                if new_boot {
                    // What is gone and was not dropped someone else has acknowledged; what was dropped is missing from there on.
                    self.taken = Some(Taken { nonce: hello.nonce, sequence: hello.oldest - 1 - hello.dropped });
                    // The question that showed it to be another row came before this.
                    let uptime_us = of_row.map_or(0, |_| self.seen.uptime_us);
                    self.seen = Seen { uptime_us, ..Seen::default() };
                    self.asked_after = None;
                }
                if hello.resets > self.seen.resets {
                    // The reset it tells of explains the next question's uptime, if the one before this hello was lost.
                    self.seen.uptime_us = 0;
                }
                (self.seen.oldest, self.seen.resets, self.seen.rebooted) = (hello.oldest, hello.resets, false);
                let gone = hello.oldest - 1;
                let lost = self.taken.map_or(0, |taken| gone.saturating_sub(taken.sequence));
                if lost > 0 {
                    self.taken = Some(Taken { nonce: hello.nonce, sequence: gone });
                    self.counts.lost = self.counts.lost.saturating_add(lost);
                }
                self.hello.clear();
                let _ = self.hello.extend_from_slice(self.decoder.body());
                self.hello_wanted = false;
                if core::mem::take(&mut self.missed) {
                    self.asked_after = self.taken;
                    self.asked_us = now_us;
                    self.resend_wanted = true;
                }
                Some(Event::Hello { new_boot, lost })
            }
            Message::Data(data) => {
                // With an oldest reading before one that was gone it is another row, whose hello was lost.
                if self.hello().is_none_or(|hello| hello.nonce != data.nonce) || data.oldest < self.seen.oldest {
                    self.hello_wanted = true;
                    self.missed = true;
                    return Some(Event::Early);
                }
                if !data.is_whole(&self.kinds) {
                    return self.refuse_body();
                }
                let (nonce, first, last, oldest) = (data.nonce, data.first, data.last(), data.oldest);
                self.sent_us = (data.clock == self.clock).then_some(data.sent_us);
                Some(self.data(nonce, first, last, oldest, now_us))
            }
            Message::TimeRequest { nonce, sent_us } => {
                if self.taken.is_some_and(|taken| taken.nonce == nonce) {
                    self.seen.rebooted |= sent_us < self.seen.uptime_us;
                    self.seen.uptime_us = sent_us;
                }
                self.asked = Some((nonce, sent_us, now_us));
                Some(Event::TimeRequest)
            }
            // Our own frames, echoed by the line: nothing was lost by that.
            Message::Ack { .. } | Message::HelloRequest | Message::Resend { .. } | Message::TimeReply(_) => None,
        }
    }

    fn refuse_body(&mut self) -> Option<Event> {
        self.decoder.counts.bad_body += 1;
        self.decoder.counts.good -= 1;
        Some(Event::Refused(FrameError::Body))
    }

    fn data(&mut self, nonce: u32, first: u64, last: u64, oldest: u64, now_us: u64) -> Event {
        // A hello of this nonce came before, so `taken` is of this nonce too. Readings before the oldest are gone for good.
        let taken = self.taken.map_or(0, |taken| taken.sequence);
        let before = taken.max(oldest - 1);
        let lost = before - taken;
        self.seen.oldest = oldest;
        if first > before + 1 {
            let here = Taken { nonce, sequence: before };
            // What was asked for may still be on its way behind this; or the question was lost.
            if self.asked_after.is_none() || now_us.saturating_sub(self.asked_us) >= ASK_AGAIN_US {
                self.resend_wanted = true;
                self.asked_us = now_us;
                self.asked_after = Some(here);
            }
            return Event::Early;
        }
        let new = last.saturating_sub(before);
        let duplicate = (last - first + 1) - new;
        self.asked_after = None;
        self.first_new = before + 1;
        self.taken = Some(Taken { nonce, sequence: last.max(before) });
        self.counts.taken += new;
        self.counts.duplicate += duplicate;
        self.counts.lost = self.counts.lost.saturating_add(lost);
        Event::Data { new, duplicate, lost }
    }

    /// The new readings of the data frame that came last.
    pub fn readings(&self) -> impl Iterator<Item = Reading> {
        let data = match self.decoder.message() {
            Ok(Message::Data(data)) => Some(data),
            _ => None,
        };
        let first = self.first_new;
        data.into_iter().flat_map(|data| data.readings(&self.kinds)).filter(move |reading| reading.sequence >= first)
    }

    /// When the data frame that came last was sent, microseconds of our clock; `None` when the device did not know it.
    pub fn sent_us(&self) -> Option<u64> {
        self.sent_us
    }

    /// The hello that came last.
    pub fn hello(&self) -> Option<Hello<'_>> {
        match Message::read(&self.hello) {
            Ok(Message::Hello(hello)) => Some(hello),
            _ => None,
        }
    }

    /// Nonce and number of the last reading taken, or of the last that someone else must have taken.
    pub fn taken(&self) -> Option<(u32, u64)> {
        self.taken.map(|taken| (taken.nonce, taken.sequence))
    }

    /// Writes a question or an answer to the device at `now_us`, if there is one, and returns its length, else 0. To be called until it
    /// gives 0.
    pub fn reply(&mut self, now_us: u64, out: &mut [u8; WIRE_MAX]) -> usize {
        if let Some((nonce, sent_us, received_us)) = self.asked.take() {
            let reply = TimeReply { nonce, sent_us, clock: self.clock, received_us, replied_us: now_us.max(received_us) };
            return write_simple(Message::TimeReply(reply), out);
        }
        if core::mem::take(&mut self.hello_wanted) {
            return write_hello_request(out);
        }
        match self.asked_after {
            Some(after) if core::mem::take(&mut self.resend_wanted) => write_resend(after.nonce, after.sequence + 1, out),
            _ => 0,
        }
    }

    /// Counts of readings.
    pub fn counts(&self) -> LinkCounts {
        self.counts
    }

    /// Counts of frames.
    pub fn frame_counts(&self) -> FrameCounts {
        self.decoder.counts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        frame::{Field, FieldKind, Value},
        link::{Device, Schema, Start},
    };

    #[test]
    fn what_is_missing_is_asked_for_again_when_the_question_was_lost() {
        let fields = [Field { name: "n", kind: FieldKind::Scaled(0) }];
        let schema = Schema { device: "d", measurement: "m", fields: &fields };
        let mut device = Device::<32, 1>::new(schema, Start::Nonce(5), Box::leak(Box::default())).expect("a schema that fits");
        let (mut gateway, mut frame, mut asked) = (Gateway::new(None, 1), [0; WIRE_MAX], Vec::<u64, 32>::new());
        // The first reading's frame and every question get lost; a reading comes each tenth of a second.
        for tenth in 0..16 {
            let now_us = tenth * 100_000;
            device.push(now_us, &[Some(Value::Scaled(1))]).expect("the schema's value");
            loop {
                let len = device.poll(now_us, &mut frame);
                if len == 0 {
                    break;
                }
                let is_first_data = tenth == 0 && frame[2] == 2;
                for byte in frame[..len].iter().filter(|_| !is_first_data) {
                    let _ = gateway.push(*byte, now_us);
                }
            }
            while gateway.reply(now_us, &mut frame) > 0 {
                if frame[2] == 5 {
                    asked.push(tenth).expect("not so many");
                }
            }
        }
        assert_eq!(asked, [0, 2, 4, 6, 8, 10, 12, 14]);
    }

    const FIELDS: [Field<'static>; 1] = [Field { name: "n", kind: FieldKind::Scaled(0) }];

    /// A device and what the gateway took of it, on a line that passes everything on.
    struct Line {
        device: Device<'static, 4, 1>,
        gateway: Gateway,
        now_us: u64,
        taken: std::vec::Vec<i64>,
        boots: usize,
    }

    impl Line {
        fn new() -> Self {
            Self { device: Self::booted(), gateway: Gateway::new(None, 1), now_us: 0, taken: std::vec::Vec::new(), boots: 0 }
        }

        /// Its author had nothing random, and took a five for it.
        fn booted() -> Device<'static, 4, 1> {
            let schema = Schema { device: "d", measurement: "m", fields: &FIELDS };
            Device::new(schema, Start::Nonce(5), Box::leak(Box::default())).expect("a schema that fits")
        }

        /// Reads a value at `now_us` of the device's uptime and lets both ends talk.
        fn read(&mut self, value: i64, now_us: u64) {
            self.now_us = now_us;
            self.device.push(now_us, &[Some(Value::Scaled(value))]).expect("the schema's value");
            self.talk(|_| false);
        }

        /// Until nobody has anything to say; frames from the device that `is_lost` says are lost.
        fn talk(&mut self, is_lost: impl Fn(u8) -> bool) {
            let mut frame = [0; WIRE_MAX];
            loop {
                let len = self.device.poll(self.now_us, &mut frame);
                for byte in frame[..len].iter().filter(|_| !is_lost(frame[2])) {
                    match self.gateway.push(*byte, self.now_us) {
                        Some(Event::Data { .. }) => {
                            self.taken.extend(self.gateway.readings().filter_map(|reading| match reading.values[0] {
                                Some(Value::Scaled(value)) => Some(value),
                                _ => None,
                            }))
                        }
                        Some(Event::Hello { new_boot, .. }) => self.boots += usize::from(new_boot),
                        _ => {}
                    }
                }
                let answer = self.gateway.reply(self.now_us, &mut frame);
                frame[..answer].iter().for_each(|byte| self.device.receive(*byte, self.now_us));
                if len == 0 && answer == 0 {
                    return;
                }
            }
        }

        fn acknowledge(&mut self) {
            let (nonce, sequence) = self.gateway.taken().expect("a row");
            let mut frame = [0; WIRE_MAX];
            let len = crate::frame::write_ack(nonce, sequence, &mut frame);
            frame[..len].iter().for_each(|byte| self.device.receive(*byte, self.now_us));
        }
    }

    #[test]
    fn a_device_that_boots_under_the_nonce_of_its_life_before_is_told_by_what_it_holds() {
        let mut line = Line::new();
        for value in 1..=3 {
            line.read(value, 0);
            line.acknowledge();
        }
        line.device = Line::booted();
        line.read(4, 0);
        assert_eq!((&line.taken[..], line.boots, line.gateway.taken()), (&[1, 2, 3, 4][..], 2, Some((5, 1))), "it held its fourth before");
        // Nothing of it was seen in this life of the gateway's: but a device for four readings can't hold the first and have sent ten.
        line.gateway = Gateway::new(Some((5, 10)), 1);
        line.talk(|_| false);
        assert_eq!((&line.taken[..], line.gateway.taken()), (&[1, 2, 3, 4, 4][..], Some((5, 1))));
        assert_eq!(line.gateway.counts().lost, 0);
    }

    #[test]
    fn a_device_that_boots_under_the_nonce_of_its_life_before_takes_another_when_nothing_else_tells() {
        let mut line = Line::new();
        // All that is known of its life before is that two readings were taken.
        line.gateway = Gateway::new(Some((5, 2)), 1);
        line.read(1, 0);
        assert_eq!(line.taken, [], "it is taken for a repeated one");
        line.acknowledge();
        line.read(2, 0);
        assert_eq!((&line.taken[..], line.boots), (&[1, 2][..], 1));
        assert_ne!(line.gateway.taken().map(|(nonce, _)| nonce), Some(5));
    }

    #[test]
    fn a_device_that_boots_under_the_nonce_of_its_life_before_is_told_by_its_uptime() {
        let mut line = Line::new();
        line.read(1, 1_000_000);
        line.gateway.reopen();
        line.read(2, 30_000_000);
        assert_eq!(line.boots, 1, "a time that goes on is no boot");
        line.device = Line::booted();
        line.read(3, 2_000_000);
        assert_eq!((&line.taken[..], line.boots), (&[1, 2, 3][..], 2));
    }

    #[test]
    fn a_row_that_begins_anew_is_asked_for_when_its_hello_was_lost() {
        let mut line = Line::new();
        for value in 1..=3 {
            line.read(value, 0);
            line.acknowledge();
        }
        line.device = Line::booted();
        line.device.push(0, &[Some(Value::Scaled(4))]).expect("the schema's value");
        // Neither hello nor question gets through, the reading does.
        let mut frame = [0; WIRE_MAX];
        while line.device.poll(0, &mut frame) > 0 {
            let len = frame.iter().position(|byte| *byte == 0).expect("a delimiter");
            frame[..=len]
                .iter()
                .filter(|_| frame[2] == 2)
                .for_each(|byte| assert!(!matches!(line.gateway.push(*byte, 0), Some(Event::Data { .. }))));
        }
        line.talk(|_| false);
        assert_eq!((&line.taken[..], line.boots), (&[1, 2, 3, 4][..], 2));
    }

    #[test]
    fn a_field_that_is_named_twice_and_a_number_past_all_reason_are_refused() {
        let hello = |oldest, fields: &[Field<'_>]| {
            let none = crate::frame::Fields::none();
            let hello = Hello {
                nonce: 5,
                resets: 0,
                retain_depth: 4,
                dropped: oldest - 1,
                held_back: 0,
                refused: 0,
                oldest,
                device: "d",
                measurement: "m",
                fields: none,
            };
            let (mut frame, mut gateway) = ([0; WIRE_MAX], Gateway::new(None, 1));
            let len = crate::frame::write_hello(&hello, fields, &mut frame);
            (frame[..len].iter().find_map(|byte| gateway.push(*byte, 0)), gateway.counts().lost, gateway.frame_counts().bad_body)
        };
        assert_eq!(hello(10, &FIELDS), (Some(Event::Hello { new_boot: true, lost: 9 }), 9, 0));
        assert_eq!(hello(10, &[FIELDS[0], FIELDS[0]]), (Some(Event::Refused(FrameError::Body)), 0, 1));
        assert_eq!(hello(u64::MAX, &FIELDS), (Some(Event::Refused(FrameError::Body)), 0, 1));
    }

    /// Numbers at which something could break, and any others.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0u64..6, any::<u64>(), Just(u64::MAX), (1u64 << 48) - 2..(1 << 48) + 2]
    }

    /// A body with a right checksum, as only a device makes it that is out of its mind.
    fn body() -> impl Strategy<Value = std::vec::Vec<u8>> {
        let nonce = || prop_oneof![1u32..3, any::<u32>()];
        let numbered = |kind: u8| {
            move |nonce: u32, numbers: &[u64], tail: &[u8]| {
                let mut body = vec![crate::frame::VERSION, kind];
                body.extend(nonce.to_le_bytes());
                for number in numbers {
                    let mut rest = *number;
                    while rest > 127 {
                        body.push(rest as u8 | 128);
                        rest >>= 7;
                    }
                    body.push(rest as u8);
                }
                body.extend(tail);
                body
            }
        };
        let names = b"\x01d\x01m\x01\x00\x00\x01n".to_vec();
        prop_oneof![
            (nonce(), proptest::collection::vec(number(), 6)).prop_map(move |(nonce, numbers)| numbered(1)(nonce, &numbers, &names)),
            (nonce(), number(), number(), any::<u32>(), number(), 0u8..4).prop_map(move |(nonce, first, behind, clock, sent, count)| {
                let mut body = numbered(2)(nonce, &[first, behind], &clock.to_le_bytes());
                body.extend(&numbered(0)(0, &[sent], &[count])[6..]);
                body.extend([5, 1, 0, 8].repeat(count.into()));
                body
            }),
            (nonce(), number()).prop_map(move |(nonce, sent)| numbered(6)(nonce, &[sent], &[])),
            proptest::collection::vec(any::<u8>(), 2..40),
        ]
    }

    fn sealed(content: &[u8]) -> std::vec::Vec<u8> {
        let (mut body, mut frame) = (crate::frame::body_buffer(), [0; WIRE_MAX]);
        body[..content.len()].copy_from_slice(content);
        let len = crate::frame::seal(&mut body, content.len(), &mut frame);
        frame[..len].to_vec()
    }

    proptest! {
        #[test]
        fn no_device_upsets_a_gateway(bodies in proptest::collection::vec(body(), 0..60), resume in proptest::option::of((1u32..3, number()))) {
            let mut gateway = Gateway::new(resume, 1);
            let (mut last, mut frame) = (0, [0; WIRE_MAX]);
            for (at, body) in bodies.iter().enumerate() {
                for byte in sealed(body) {
                    match gateway.push(byte, at as u64 * 100_000) {
                        Some(Event::Hello { .. }) => last = gateway.taken().map_or(0, |(_, sequence)| sequence),
                        Some(Event::Data { new, .. }) => {
                            let numbers: std::vec::Vec<u64> = gateway.readings().map(|reading| reading.sequence).collect();
                            prop_assert_eq!(numbers.len() as u64, new);
                            prop_assert!(numbers.first().is_none_or(|first| *first > last), "{numbers:?} after {last}");
                            prop_assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
                            last = gateway.taken().map_or(0, |(_, sequence)| sequence);
                        }
                        _ => {}
                    }
                }
                let replies = (0..5).take_while(|_| gateway.reply(at as u64 * 100_000, &mut frame) > 0).count();
                prop_assert!(replies < 5, "it never ends");
            }
        }

        #[test]
        fn no_stream_of_bytes_upsets_a_gateway(bytes in proptest::collection::vec(any::<u8>(), 0..1500)) {
            let mut gateway = Gateway::new(None, 1);
            for byte in bytes {
                gateway.push(byte, 0);
                prop_assert!(gateway.readings().count() <= 255);
            }
            prop_assert_eq!(gateway.counts().taken, 0);
        }
    }
}
