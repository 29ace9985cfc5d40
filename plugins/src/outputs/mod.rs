//! Outputs, one file or folder each.

use weir_plugin_api::plugin::OutputEntry;

/// Every output of this build, by name.
pub fn all() -> Vec<&'static OutputEntry> {
    vec![]
}
