//! Actions, one file each.

use weir_plugin_api::plugin::ActionEntry;

#[cfg(feature = "action-exec")]
pub mod exec;
#[cfg(feature = "action-gpio")]
pub mod gpio;
#[cfg(feature = "action-log")]
pub mod log;
#[cfg(feature = "action-mqtt")]
pub mod mqtt;
#[cfg(any(feature = "action-mqtt", feature = "action-webhook", feature = "action-exec"))]
pub mod notification_json;
#[cfg(feature = "action-webhook")]
pub mod webhook;
#[cfg(any(feature = "action-webhook", feature = "action-exec"))]
mod words;

/// Every action of this build, by name.
pub fn all() -> Vec<&'static ActionEntry> {
    vec![
        #[cfg(feature = "action-mqtt")]
        &mqtt::ENTRY,
        #[cfg(feature = "action-exec")]
        &exec::ENTRY,
        #[cfg(feature = "action-gpio")]
        &gpio::ENTRY,
        #[cfg(feature = "action-log")]
        &log::ENTRY,
        #[cfg(feature = "action-webhook")]
        &webhook::ENTRY,
    ]
}
