//! Outputs, one file or folder each.

use weir_plugin_api::plugin::OutputEntry;

#[cfg(feature = "output-file")]
pub mod file;
#[cfg(feature = "output-http")]
pub mod http;
#[cfg(any(feature = "output-influxdb", feature = "output-influxdb_v2"))]
mod influx_write;
#[cfg(feature = "output-influxdb")]
pub mod influxdb;
#[cfg(feature = "output-influxdb_v2")]
pub mod influxdb_v2;
#[cfg(feature = "output-kafka")]
pub mod kafka;
#[cfg(feature = "output-mqtt")]
pub mod mqtt;
#[cfg(test)]
pub(crate) mod testing;

/// Every output of this build, by name.
pub fn all() -> Vec<&'static OutputEntry> {
    vec![
        #[cfg(feature = "output-file")]
        &file::ENTRY,
        #[cfg(feature = "output-kafka")]
        &kafka::ENTRY,
        #[cfg(feature = "output-mqtt")]
        &mqtt::ENTRY,
        #[cfg(feature = "output-http")]
        &http::ENTRY,
        #[cfg(feature = "output-influxdb")]
        &influxdb::ENTRY,
        #[cfg(feature = "output-influxdb_v2")]
        &influxdb_v2::ENTRY,
    ]
}
