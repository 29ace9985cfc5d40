//! What several network plugins share.

#[cfg(feature = "mqtt-client")]
pub mod mqtt;
#[cfg(any(feature = "mqtt-client", feature = "output-kafka"))]
pub mod template;
#[cfg(feature = "http-client")]
pub mod http_client;
#[cfg(all(test, feature = "http-client"))]
pub(crate) mod testing;
#[cfg(feature = "tls")]
pub mod tls;
