//! Outputs, one file or folder each.

use weir_plugin_api::plugin::OutputEntry;

#[cfg(feature = "output-file")]
pub mod file;
#[cfg(feature = "output-mqtt")]
pub mod mqtt;
#[cfg(test)]
pub(crate) mod testing;

/// Every output of this build, by name.
pub fn all() -> Vec<&'static OutputEntry> {
    vec![
        #[cfg(feature = "output-file")]
        &file::ENTRY,
        #[cfg(feature = "output-mqtt")]
        &mqtt::ENTRY,
    ]
}
