//! How records and chunks become bytes: self-contained per block, column by column, little-endian.
//!
//! | part | coding |
//! | --- | --- |
//! | integers | LEB128 varints, signed ones zig-zagged |
//! | names | length and bytes, once per block, then by index |
//! | times | delta of delta |
//! | decimals | the smallest power of ten that makes a column whole numbers, then deltas; otherwise eight raw bytes |
//!
//! A reader never trusts a length: every count is checked against the bytes that are left.

pub mod bytes;
pub mod cells;
pub mod chunk;
pub mod record;
#[cfg(test)]
mod tests;
