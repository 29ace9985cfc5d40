//! Which plugins a configuration may name: those of this build, or a test's own.

use std::collections::BTreeSet;

use weir_plugin_api::{
    options::{FromNode, OptionSpec, Secret},
    plugin::{ActionEntry, InputEntry, OutputEntry},
};

/// Every plugin there is.
pub struct Registry {
    /// Inputs.
    pub inputs: Vec<&'static InputEntry>,
    /// Outputs.
    pub outputs: Vec<&'static OutputEntry>,
    /// Actions.
    pub actions: Vec<&'static ActionEntry>,
}

impl Registry {
    /// The plugins of this build.
    pub fn of_this_build() -> Self {
        Self { inputs: weir_plugins::inputs::all(), outputs: weir_plugins::outputs::all(), actions: weir_plugins::actions::all() }
    }

    /// Whether there is a plugin of this kind and name.
    pub fn has(&self, kind: &str, name: &str) -> bool {
        match kind {
            "inputs" => self.inputs.iter().any(|e| e.name == name),
            "outputs" => self.outputs.iter().any(|e| e.name == name),
            _ => self.actions.iter().any(|e| e.name == name),
        }
    }

    /// Options that plugins declare as secrets, whatever they are called.
    pub fn secrets(&self) -> BTreeSet<&'static str> {
        let specs: Vec<fn() -> Vec<OptionSpec>> = self
            .inputs
            .iter()
            .map(|e| e.specs)
            .chain(self.outputs.iter().map(|e| e.specs))
            .chain(self.actions.iter().map(|e| e.specs))
            .collect();
        specs.into_iter().flat_map(|specs| specs()).filter(|spec| spec.kind == Secret::KIND).map(|spec| spec.name).collect()
    }
}
