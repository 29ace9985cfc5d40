//! An MCP3008 by the bits on its lines.

use super::{Selected, SpiChip};

/// The chip.
#[derive(Clone, Debug)]
pub struct Mcp3008Chip {
    /// Whether it answers at all.
    pub is_there: bool,
    /// Whether there is a bus to ask on.
    pub has_bus: bool,
    /// What a byte reads as that nobody sends.
    pub rests_at: u8,
    /// What each channel converts to.
    pub steps: [u16; 8],
    /// Bits since the one that began, and what they said.
    bits: Option<u8>,
    heard: u8,
}

impl Mcp3008Chip {
    /// One whose channels convert to these.
    pub fn new(steps: [u16; 8]) -> Self {
        Self { is_there: true, has_bus: true, rests_at: 0xff, steps, bits: None, heard: 0 }
    }

    /// One clock: the bit it hears, and the one it says, if it says one (data sheet, figure 5-1).
    fn clock(&mut self, heard: bool) -> Option<bool> {
        let Some(bits) = &mut self.bits else {
            if heard {
                (self.bits, self.heard) = (Some(0), 0);
            }
            return None;
        };
        *bits = bits.saturating_add(1);
        match *bits {
            1..=4 => {
                self.heard = self.heard << 1 | u8::from(heard);
                None
            }
            5 => None,
            6 => Some(false),
            bit @ 7..=16 => {
                let [is_single, channel] = [self.heard >> 3, self.heard & 7];
                let steps = if is_single == 1 { self.steps[usize::from(channel)] } else { 0 };
                Some(steps >> (16 - bit) & 1 == 1)
            }
            _ => Some(false),
        }
    }
}

impl SpiChip for Mcp3008Chip {
    fn select(&mut self) -> Selected {
        self.bits = None;
        Selected { is_there: self.is_there, has_bus: self.has_bus, rests_at: self.rests_at }
    }

    fn exchange(&mut self, byte: u8) -> u8 {
        let rests_at = self.rests_at;
        (0..8).rev().fold(0, |said, bit| said << 1 | u8::from(self.clock(byte >> bit & 1 == 1).unwrap_or(rests_at >> bit & 1 == 1)))
    }
}
