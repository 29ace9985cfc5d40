//! The axes of time and the one way to read them. Only the binary's `sys` module implements [`Clock`] for real.

/// Nanoseconds in one second.
pub const SECOND: i64 = 1_000_000_000;
/// Nanoseconds in one millisecond.
pub const MILLISECOND: i64 = 1_000_000;

/// Reads the operating system's clocks, or a simulator's.
pub trait Clock: Send + Sync {
    /// Nanoseconds on the steady axis (`CLOCK_BOOTTIME`): it goes on during suspend and never steps.
    fn steady(&self) -> i64;
    /// Wall-clock nanoseconds since 1970 UTC, as the system believes them.
    fn wall(&self) -> i64;
}
