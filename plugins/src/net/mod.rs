//! What several network plugins share.

#[cfg(feature = "http-client")]
pub mod http_client;
#[cfg(feature = "mqtt-client")]
pub mod mqtt;
#[cfg(any(feature = "mqtt-client", feature = "output-kafka", feature = "action-webhook"))]
pub mod template;
#[cfg(all(test, feature = "http-client"))]
pub(crate) mod testing;
#[cfg(feature = "tls")]
pub mod tls;
