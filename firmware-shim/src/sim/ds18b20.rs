//! A DS18B20 by the level of its pin: it sees when the line falls and rises, and holds it down when it has something to say.

use core::{
    cell::{Cell, RefCell},
    convert::Infallible,
};

use embedded_hal::{
    delay::DelayNs,
    digital::{ErrorType, InputPin, OutputPin},
};

use crate::sensors::{
    ds18b20::{CONVERT, CONVERT_US, MATCH_ROM, POWER_ON, READ_SCRATCHPAD, SKIP_ROM},
    one_wire::crc8,
};

/// Times of the data sheet, nanoseconds: the shortest reset, when the presence pulse begins after it and when it ends, the longest low
/// that is a one, and how long a zero is held in a slot.
const RESET: u64 = 480_000;
const PRESENCE_FROM: u64 = 30_000;
const PRESENCE_TO: u64 = 200_000;
const ONE_MAX: u64 = 15_000;
const ZERO_HELD: u64 = 30_000;

/// What it makes of the next bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing until a reset.
    Deaf,
    /// How it is addressed.
    Rom,
    /// Its serial number, if it is the one that follows: bits so far.
    Serial(u8),
    /// A command.
    Command,
    /// It sends its scratchpad: bits so far.
    Sending(u8),
}

/// The chip.
#[derive(Clone, Debug)]
pub struct Ds18b20Chip {
    /// Whether it answers at all.
    pub is_there: bool,
    /// Whether the line is shorted to ground.
    pub is_shorted: bool,
    /// What it measures, sixteenths of a degree.
    pub temperature: i16,
    /// A bit of the scratchpad that arrives wrong.
    pub flip: Option<u8>,
    /// Family, number, checksum.
    pub serial: [u8; 8],
    register: i16,
    converting_until: Option<u64>,
    state: State,
    shift: u8,
    bits: u8,
    fell: Option<u64>,
    /// It holds the line down between these.
    held: (u64, u64),
}

impl Default for Ds18b20Chip {
    fn default() -> Self {
        let number = [0x28, 1, 2, 3, 4, 5, 6];
        let mut serial = [0; 8];
        serial[..7].copy_from_slice(&number);
        serial[7] = crc8(&number);
        Self {
            is_there: true,
            is_shorted: false,
            temperature: 344,
            flip: None,
            serial,
            register: POWER_ON,
            converting_until: None,
            state: State::Deaf,
            shift: 0,
            bits: 0,
            fell: None,
            held: (0, 0),
        }
    }
}

impl Ds18b20Chip {
    /// Its supply was gone for a moment.
    pub fn reset(&mut self) {
        (self.register, self.converting_until, self.state) = (POWER_ON, None, State::Deaf);
    }

    fn scratchpad_bit(&mut self, bit: u8, now: u64) -> bool {
        if self.converting_until.is_some_and(|until| now >= until) {
            (self.register, self.converting_until) = (self.temperature, None);
        }
        let [low, high] = self.register.to_le_bytes();
        let mut pad = [low, high, 0x4b, 0x46, 0x7f, 0xff, 0x0c, 0x10, 0];
        pad[8] = crc8(&pad[..8]);
        let is_one = pad.get(usize::from(bit / 8)).is_none_or(|byte| byte >> (bit % 8) & 1 == 1);
        is_one != (self.flip == Some(bit))
    }

    fn falls(&mut self, now: u64) {
        self.fell = Some(now);
        if let State::Sending(bit) = self.state {
            if !self.scratchpad_bit(bit, now) {
                self.held = (now, now + ZERO_HELD);
            }
            self.state = State::Sending(bit.saturating_add(1).min(72));
        }
    }

    fn rises(&mut self, now: u64) {
        let Some(fell) = self.fell.take() else { return };
        let low = now - fell;
        if low >= RESET {
            self.held = (now + PRESENCE_FROM, now + PRESENCE_TO);
            (self.state, self.bits) = (State::Rom, 0);
            return;
        }
        let bit = low <= ONE_MAX;
        match self.state {
            State::Deaf | State::Sending(_) => {}
            State::Serial(at) => {
                let own = self.serial[usize::from(at / 8)] >> (at % 8) & 1 == 1;
                self.state = match (own == bit, at) {
                    (false, _) => State::Deaf,
                    (true, 63) => State::Command,
                    (true, _) => State::Serial(at + 1),
                };
            }
            State::Rom | State::Command => {
                self.shift = self.shift >> 1 | u8::from(bit) << 7;
                self.bits += 1;
                if self.bits == 8 {
                    self.bits = 0;
                    self.obey(now);
                }
            }
        }
    }

    fn obey(&mut self, now: u64) {
        self.state = match (self.state, self.shift) {
            (State::Rom, SKIP_ROM) => State::Command,
            (State::Rom, MATCH_ROM) => State::Serial(0),
            (State::Command, CONVERT) => {
                self.converting_until = Some(now + u64::from(CONVERT_US) * 1000 - 1_000_000);
                State::Deaf
            }
            (State::Command, READ_SCRATCHPAD) => State::Sending(0),
            _ => State::Deaf,
        };
    }
}

/// The pin this chip hangs on; `now_ns` is the time both live in.
#[derive(Debug)]
pub struct SimPin<'c> {
    chip: &'c RefCell<Ds18b20Chip>,
    now_ns: &'c Cell<u64>,
    is_low: bool,
}

impl<'c> SimPin<'c> {
    /// The pin, let go of.
    pub fn new(chip: &'c RefCell<Ds18b20Chip>, now_ns: &'c Cell<u64>) -> Self {
        Self { chip, now_ns, is_low: false }
    }
}

impl ErrorType for SimPin<'_> {
    type Error = Infallible;
}

impl OutputPin for SimPin<'_> {
    fn set_low(&mut self) -> Result<(), Infallible> {
        if !core::mem::replace(&mut self.is_low, true) {
            self.chip.borrow_mut().falls(self.now_ns.get());
        }
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        if core::mem::replace(&mut self.is_low, false) {
            self.chip.borrow_mut().rises(self.now_ns.get());
        }
        Ok(())
    }
}

impl InputPin for SimPin<'_> {
    fn is_high(&mut self) -> Result<bool, Infallible> {
        let (chip, now) = (self.chip.borrow(), self.now_ns.get());
        let is_held = chip.is_there && (chip.held.0..chip.held.1).contains(&now);
        Ok(!self.is_low && !is_held && !chip.is_shorted)
    }

    fn is_low(&mut self) -> Result<bool, Infallible> {
        self.is_high().map(|high| !high)
    }
}

/// A delay that lets the chip's time pass and none of ours.
#[derive(Clone, Copy, Debug)]
pub struct SimDelay<'c>(pub &'c Cell<u64>);

impl DelayNs for SimDelay<'_> {
    fn delay_ns(&mut self, ns: u32) {
        self.0.set(self.0.get() + u64::from(ns));
    }
}
