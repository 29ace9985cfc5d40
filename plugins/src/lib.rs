//! Weir's plugins: codecs, inputs, outputs and actions, one cargo feature each, and the lists of what this build has.
//!
//! Nothing here knows the agent: a plugin gets its options, a collector or points, and a request to stop.

pub mod actions;
#[cfg(any(
    feature = "input-gpio",
    feature = "action-gpio",
    feature = "input-serial",
    feature = "input-i2c",
    feature = "input-spi",
    feature = "output-file"
))]
mod claim;
pub mod codecs;
#[cfg(any(feature = "input-socket_listener", feature = "http-server", feature = "input-tail"))]
mod descriptors;
#[cfg(any(feature = "input-gpio", feature = "action-gpio"))]
mod gpio;
pub mod inputs;
pub mod net;
pub mod outputs;
pub mod power_fail;
