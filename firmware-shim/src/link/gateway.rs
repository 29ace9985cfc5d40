//! The gateway's end: takes readings in order and once each, says what it lacks, and counts what the link has lost.
//!
//! It also tells the device the time, so that readings can carry it in the gateway's clock. It never says by itself that something is durable: whoever owns it writes the acknowledgement when it is.

use heapless::Vec;

use crate::frame::{
    BODY_MAX, FrameCounts, FrameDecoder, FrameError, Hello, Kinds, Message, Reading, TimeReply, WIRE_MAX, write_hello_request,
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
    /// A hello: [`Gateway::hello`] has it. `new_boot` when its nonce is another than that of the readings taken last.
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

/// A gateway's end of the line.
#[derive(Clone, Debug, Default)]
pub struct Gateway {
    /// Names the clock of `now_us`.
    clock: u32,
    decoder: FrameDecoder,
    hello: Vec<u8, BODY_MAX>,
    kinds: Kinds,
    taken: Option<Taken>,
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
            Message::Hello(hello) => {
                // A hello has no more fields than there is room for kinds, and a body is no longer than the store for it.
                self.kinds = hello.fields.map(|field| field.kind).collect();
                let new_boot = self.taken.is_none_or(|taken| taken.nonce != hello.nonce);
                if new_boot {
                    // What is gone and was not dropped someone else has acknowledged; what was dropped is missing from there on.
                    self.taken = Some(Taken { nonce: hello.nonce, sequence: hello.oldest - 1 - hello.dropped });
                }
                let gone = hello.oldest - 1;
                let lost = self.taken.map_or(0, |taken| gone.saturating_sub(taken.sequence));
                if lost > 0 {
                    self.taken = Some(Taken { nonce: hello.nonce, sequence: gone });
                    self.counts.lost += lost;
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
                if self.hello().is_none_or(|hello| hello.nonce != data.nonce) {
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
        self.counts.lost += lost;
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

    #[test]
    fn what_is_missing_is_asked_for_again_when_the_question_was_lost() {
        use crate::{
            frame::{Field, FieldKind, Value},
            link::{Device, Schema, Start},
        };
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

    proptest! {
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
