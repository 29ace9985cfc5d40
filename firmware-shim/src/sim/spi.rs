//! An SPI bus with one simulated chip that is selected for each transaction.

use core::cell::RefCell;

use embedded_hal::spi::{ErrorKind, ErrorType, Operation, SpiDevice};

/// What is on the bus while the select line is low.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selected {
    /// Whether the chip answers.
    pub is_there: bool,
    /// Whether there is a bus.
    pub has_bus: bool,
    /// What a byte reads as that nobody sends.
    pub rests_at: u8,
}

/// A chip by what goes over its lines.
pub trait SpiChip {
    /// Its select line falls.
    fn select(&mut self) -> Selected;
    /// Eight clocks: what it hears and what it says meanwhile.
    fn exchange(&mut self, byte: u8) -> u8;
}

/// A bus with this chip alone.
#[derive(Debug)]
pub struct SimSpi<'c, C>(pub &'c RefCell<C>);

impl<C> ErrorType for SimSpi<'_, C> {
    type Error = ErrorKind;
}

impl<C: SpiChip> SpiDevice for SimSpi<'_, C> {
    fn transaction(&mut self, operations: &mut [Operation<'_, u8>]) -> Result<(), ErrorKind> {
        let mut chip = self.0.borrow_mut();
        let bus = chip.select();
        if !bus.has_bus {
            return Err(ErrorKind::Other);
        }
        let mut exchange = |byte| if bus.is_there { chip.exchange(byte) } else { bus.rests_at };
        for operation in operations {
            match operation {
                Operation::Write(bytes) => {
                    for byte in bytes.iter() {
                        exchange(*byte);
                    }
                }
                Operation::Read(into) => into.iter_mut().for_each(|byte| *byte = exchange(0)),
                Operation::TransferInPlace(bytes) => bytes.iter_mut().for_each(|byte| *byte = exchange(*byte)),
                Operation::Transfer(into, from) => {
                    for i in 0..into.len().max(from.len()) {
                        let said = exchange(from.get(i).copied().unwrap_or(0));
                        if let Some(byte) = into.get_mut(i) {
                            *byte = said;
                        }
                    }
                }
                Operation::DelayNs(_) => {}
            }
        }
        Ok(())
    }
}
