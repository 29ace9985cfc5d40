//! Inputs, one file or folder each.

use weir_plugin_api::plugin::InputEntry;

/// Every input of this build, by name.
pub fn all() -> Vec<&'static InputEntry> {
    vec![]
}
