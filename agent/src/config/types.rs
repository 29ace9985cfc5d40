//! The configuration when it has been checked: built plugins and plain values, nothing left to refuse.

use std::{path::PathBuf, time::Duration};

use weir_engine::spec::EngineSpec;
use weir_plugin_api::{
    collector::Shape,
    filter::Filter,
    plugin::{AnyAction, BuiltInput, Output},
};
use weir_plugins::power_fail::PowerFail;

/// Everything `weir run` needs.
pub struct Config {
    /// What the engine does. Inputs, outputs (then edge actions) and level actions are in the order of the lists below.
    pub engine: EngineSpec,
    /// Inputs.
    pub inputs: Vec<ConfiguredInput>,
    /// Outputs.
    pub outputs: Vec<ConfiguredOutput>,
    /// Actions, in the order of the file; edge ones have index `outputs.len() + k` among the engine's outputs, level ones count by themselves.
    pub actions: Vec<ConfiguredAction>,
    /// `[agent]`.
    pub agent: AgentOptions,
    /// Where the store lives; `None` leaves it to the environment (`$STATE_DIRECTORY` and so on).
    pub directory: Option<PathBuf>,
    /// Bytes of dead letters per output; 0: none.
    pub dead_letter_bytes_max: u64,
    /// What the disk may have written to it over its life, bytes; 0: not known.
    pub endurance_bytes: u64,
    /// The line that says that the power goes.
    pub power_fail: Option<PowerFail>,
    /// The control socket and the optional TCP listener.
    pub status: StatusOptions,
    /// A hash of the whole configuration as read, variables substituted.
    pub hash: u64,
}

/// One input, built.
pub struct ConfiguredInput {
    /// Unique name: the alias, or the plugin's name, numbered from the second on (`mqtt_consumer#2`).
    pub name: String,
    /// The plugin.
    pub plugin: &'static str,
    /// Names, tags and filters for its collector.
    pub shape: Shape,
    /// Polled inputs: how often.
    pub interval: Duration,
    /// Polled inputs: random delay before each gather, up to this.
    pub jitter: Duration,
    /// Polled inputs: fixed shift of the gathers.
    pub offset: Duration,
    /// The input.
    pub built: BuiltInput,
}

/// One output, built.
pub struct ConfiguredOutput {
    /// Unique name: the alias, or the plugin's name, numbered from the second on.
    pub name: String,
    /// The plugin.
    pub plugin: &'static str,
    /// Its filters: the engine selects by them, delivery applies the modifiers.
    pub filter: Filter,
    /// Replaces the measurement.
    pub name_override: Option<String>,
    /// Precedes the measurement.
    pub name_prefix: String,
    /// Follows the measurement.
    pub name_suffix: String,
    /// Points per write.
    pub batch: usize,
    /// How long points may wait for the batch to fill.
    pub flush_interval: Duration,
    /// Random addition to it.
    pub flush_jitter: Duration,
    /// The output.
    pub output: Box<dyn Output>,
}

/// One action, built.
pub struct ConfiguredAction {
    /// Its alias.
    pub name: String,
    /// The plugin.
    pub plugin: &'static str,
    /// The action.
    pub action: AnyAction,
}

/// `[agent]`, as far as the binary itself needs it.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Align polled inputs to multiples of their interval.
    pub round_interval: bool,
    /// Longest time a stop may take.
    pub shutdown_timeout: Duration,
    /// Threads for inputs and outputs; 1 keeps everything on one.
    pub workers: usize,
    /// Log filter: `error`, `warn`, `info`, `debug`, `trace`.
    pub log_level: String,
    /// Batches in each input's ring.
    pub ring_batches: usize,
}

/// `[status]`.
#[derive(Clone, Debug, Default)]
pub struct StatusOptions {
    /// The control socket's path; `None` leaves it to the environment.
    pub socket: Option<PathBuf>,
    /// Also listen on this address, such as `127.0.0.1:9273`.
    pub listen: Option<String>,
}
