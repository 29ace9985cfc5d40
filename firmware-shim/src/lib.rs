//! The sensor side of Weir's serial frame protocol, for microcontrollers without an allocator; the gateway decodes with the same code.
//!
//! [`frame`] is bytes and messages, [`retain`] what a device keeps until it is acknowledged, [`row`] what it keeps over a reset, [`link`]
//! the two ends of the line as state machines that touch no port, [`time_sync`] the gateway's clock on the device, [`fault`] what can be
//! wrong with a sensor, [`sensor`] and [`sensors`] the drivers, [`agenda`] and [`deadband`] when they are read and what is worth sending,
//! [`node`] all of it together. The wire format, byte by byte:
#![doc = include_str!("../PROTOCOL.md")]
#![cfg_attr(not(test), no_std)]

pub mod agenda;
pub mod deadband;
pub mod fault;
pub mod frame;
pub mod link;
pub mod node;
pub mod retain;
pub mod row;
pub mod sensor;
pub mod sensors;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod time_sync;
