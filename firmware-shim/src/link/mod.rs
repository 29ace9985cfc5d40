//! The two ends of the line as state machines: bytes in, frames out, time as an argument, no port.

mod device;
mod gateway;

pub use device::{Device, PushError, Schema, SchemaError, Start};
pub use gateway::{Event, Gateway, LinkCounts};

#[cfg(test)]
mod relay;
