//! What several network plugins share.

#[cfg(feature = "mqtt-client")]
pub mod mqtt;
#[cfg(feature = "tls")]
pub mod tls;
