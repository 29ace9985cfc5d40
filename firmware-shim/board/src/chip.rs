//! The chip itself: its serial port, its clock, the memory that a reset leaves alone. The only unsafe code of the firmware is here.

use core::{
    cell::UnsafeCell,
    mem::MaybeUninit,
    ptr::{read_volatile, write_volatile},
    sync::atomic::{AtomicU32, Ordering},
};

use cortex_m_rt::exception;
use embedded_io::{ErrorType, Read, ReadReady, Write};
use weir_firmware_shim::row::{Memory, ROW_WORDS};

/// UART0 of the LM3S6965 (data sheet, chapter 12), a PL011.
const UART: usize = 0x4000_c000;
const UART_DATA: usize = UART;
const UART_FLAGS: usize = UART + 0x18;
const UART_LINE: usize = UART + 0x2c;
const UART_CONTROL: usize = UART + 0x30;
const UART_RECEIVE_EMPTY: u32 = 1 << 4;
const UART_TRANSMIT_FULL: u32 = 1 << 5;

/// The system timer of every Cortex-M (ARMv7-M Architecture Reference Manual, B3.3).
const SYSTICK_CONTROL: usize = 0xe000_e010;
const SYSTICK_RELOAD: usize = 0xe000_e014;
const SYSTICK_VALUE: usize = 0xe000_e018;
/// The timer counts 24 bits.
const SYSTICK_MASK: u32 = 0x00ff_ffff;
/// After reset the processor runs at 200 MHz / 16 = 12.5 MHz: 25 ticks are two microseconds.
const TICKS: u64 = 25;
const TICKS_US: u64 = 2;

/// How often the timer went round.
static ROUNDS: AtomicU32 = AtomicU32::new(0);

fn read(register: usize) -> u32 {
    // SAFETY: only the constants above are passed: aligned registers of this chip that may be read at any time.
    unsafe { read_volatile(register as *const u32) }
}

fn write(register: usize, value: u32) {
    // SAFETY: only the constants above are passed: aligned registers of this chip; no memory lies behind them.
    unsafe { write_volatile(register as *mut u32, value) }
}

#[exception]
fn SysTick() {
    // Only this handler writes it, so a load and a store will do: a Cortex-M0 has no more.
    ROUNDS.store(ROUNDS.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// The serial port, polled.
pub struct Uart(());

/// The clock: microseconds since reset.
pub struct Uptime {
    rounds: u64,
    last_us: u64,
}

/// Sets the chip up. To be called once.
pub fn start() -> (Uart, Uptime, Kept) {
    // Eight bits, FIFOs on; then the port, both ways.
    write(UART_LINE, 0x70);
    write(UART_CONTROL, 0x301);
    write(SYSTICK_RELOAD, SYSTICK_MASK);
    write(SYSTICK_VALUE, 0);
    // Processor clock, exception, on.
    write(SYSTICK_CONTROL, 7);
    (Uart(()), Uptime { rounds: 0, last_us: 0 }, Kept(()))
}

impl ErrorType for Uart {
    type Error = core::convert::Infallible;
}

impl ReadReady for Uart {
    fn read_ready(&mut self) -> Result<bool, Self::Error> {
        Ok(read(UART_FLAGS) & UART_RECEIVE_EMPTY == 0)
    }
}

impl Read for Uart {
    fn read(&mut self, into: &mut [u8]) -> Result<usize, Self::Error> {
        let Some(first) = into.first_mut() else { return Ok(0) };
        while read(UART_FLAGS) & UART_RECEIVE_EMPTY != 0 {}
        *first = read(UART_DATA) as u8;
        Ok(1)
    }
}

impl Write for Uart {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
        for byte in bytes {
            while read(UART_FLAGS) & UART_TRANSMIT_FULL != 0 {}
            write(UART_DATA, u32::from(*byte));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        Ok(())
    }
}

impl Uptime {
    /// Now; never goes back. To be called at least every hundred minutes.
    pub fn now_us(&mut self) -> u64 {
        let (rounds, value) = loop {
            let before = ROUNDS.load(Ordering::Relaxed);
            let value = read(SYSTICK_VALUE);
            if ROUNDS.load(Ordering::Relaxed) == before {
                break (before, value);
            }
        };
        // The counter has 32 bits; the difference to what is known goes across its wrap.
        self.rounds += u64::from(rounds.wrapping_sub(self.rounds as u32));
        let ticks = self.rounds << 24 | u64::from(SYSTICK_MASK - value);
        // Between a wrap and its exception the sum is one round short.
        self.last_us = self.last_us.max(ticks * TICKS_US / TICKS);
        self.last_us
    }
}

/// Words of RAM that the start-up code does not touch: they survive a reset, not a power cut.
#[repr(transparent)]
struct KeptWords(UnsafeCell<MaybeUninit<[u32; ROW_WORDS]>>);

// SAFETY: only the one `Kept` touches it, from the main program: the handler above does not.
unsafe impl Sync for KeptWords {}

#[unsafe(link_section = ".uninit.KEPT")]
static KEPT: KeptWords = KeptWords(UnsafeCell::new(MaybeUninit::uninit()));

/// That memory.
pub struct Kept(());

impl Memory for Kept {
    fn read(&self, word: usize) -> u32 {
        assert!(word < ROW_WORDS);
        // SAFETY: within the static and aligned; volatile, so that whatever bits the RAM woke up with are read as they are.
        unsafe { read_volatile(KEPT.0.get().cast::<u32>().add(word)) }
    }

    fn write(&mut self, word: usize, value: u32) {
        assert!(word < ROW_WORDS);
        // SAFETY: within the static and aligned; nobody holds a reference into it.
        unsafe { write_volatile(KEPT.0.get().cast::<u32>().add(word), value) }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
