//! Actions, one file each.

use weir_plugin_api::plugin::ActionEntry;

/// Every action of this build, by name.
pub fn all() -> Vec<&'static ActionEntry> {
    vec![]
}
