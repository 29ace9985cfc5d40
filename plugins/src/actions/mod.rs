//! Actions, one file each.

use weir_plugin_api::plugin::ActionEntry;

#[cfg(feature = "action-mqtt")]
pub mod mqtt;
#[cfg(feature = "action-mqtt")]
pub mod notification_json;

/// Every action of this build, by name.
pub fn all() -> Vec<&'static ActionEntry> {
    vec![
        #[cfg(feature = "action-mqtt")]
        &mqtt::ENTRY,
    ]
}
