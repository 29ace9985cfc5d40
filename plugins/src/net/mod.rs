//! What several network plugins share.

#[cfg(feature = "tls")]
pub mod tls;
