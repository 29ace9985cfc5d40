//! InfluxDB line protocol, read and written.
//!
//! Escapes: a backslash makes a following comma, space or (not in measurements) equals sign part of the name, and is itself
//! otherwise. In quoted strings it makes `"` and `\` literal. A newline ends a line everywhere but inside a quoted string.

mod decode;
mod encode;
mod keys;

pub use decode::{DecoderOptions, InfluxDecoder};
pub use encode::{EncoderOptions, InfluxEncoder};

#[cfg(test)]
mod tests;
