//! The sensor side of Weir's serial frame protocol, for microcontrollers without an allocator; the gateway decodes with the same code.
//!
//! [`frame`] is bytes and messages, [`retain`] what a device keeps until it is acknowledged, [`link`] the two ends of the line as state
//! machines that touch no port, [`sensor`] readings taken through embedded-hal. The wire format, byte by byte:
#![doc = include_str!("../PROTOCOL.md")]
#![cfg_attr(not(test), no_std)]

pub mod frame;
pub mod link;
pub mod retain;
pub mod sensor;
