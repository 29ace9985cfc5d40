//! What several network plugins share.

#[cfg(feature = "mqtt-client")]
pub mod mqtt;
#[cfg(any(feature = "mqtt-client", feature = "output-kafka"))]
pub mod template;
#[cfg(feature = "tls")]
pub mod tls;
