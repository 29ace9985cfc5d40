//! Inputs, one file or folder each.

use weir_plugin_api::plugin::InputEntry;

#[cfg(feature = "input-mqtt_consumer")]
pub mod mqtt_consumer;

/// Every input of this build, by name.
pub fn all() -> Vec<&'static InputEntry> {
    vec![
        #[cfg(feature = "input-mqtt_consumer")]
        &mqtt_consumer::ENTRY,
    ]
}
