//! A running agent: threads, tasks and the order in which they start and stop.
//!
//! ```text
//! main thread   tokio: inputs, outputs, actions, status
//! core thread   rings → core → effects
//! disk thread   journal, checkpoints, outbox
//! ```
//!
//! Architecture invariant: tokio never waits for the disk, and the core never waits for the network.

mod actions;
mod backoff;
pub mod bind;
pub mod checkpoint;
mod core_thread;
mod dead_letters;
mod delivery;
pub mod disk_thread;
mod handle;
mod inputs;
#[cfg(test)]
mod small_journal;
pub mod start;
pub mod stop;
mod transform;
pub mod writes;

use std::{path::PathBuf, sync::Arc, thread::JoinHandle, time::Duration};

use tokio::task::JoinSet;
use weir_plugin_api::plugin::{InputHealth, PluginError, Stop};
use weir_plugins::power_fail::PowerFail;

pub use delivery::OutputHealth;
pub use handle::CoreHandle;

use crate::config::{self, Config, System};

/// Names of everything, for the ledger's readers.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Inputs by index.
    pub inputs: Vec<String>,
    /// Outputs, then edge actions, by index.
    pub outputs: Vec<String>,
}

/// What a run is started with beyond its configuration.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Ask every input once and end.
    pub once: bool,
    /// The state directory, overriding the configuration.
    pub directory: Option<PathBuf>,
    /// Where the system's files say what machine this is; `/` unless set.
    pub root: Option<PathBuf>,
}

impl RunOptions {
    /// Where the state of an agent with this configuration lives.
    pub fn state_directory(&self, config: &Config) -> PathBuf {
        self.directory.clone().unwrap_or_else(|| config::state_directory(config.directory.as_deref(), &System::default()))
    }
}

/// A started agent.
pub struct Running {
    /// The core.
    pub core: CoreHandle,
    /// Checkpoints that are asked for.
    pub checkpoints: checkpoint::OnRequest,
    /// How it stands with each input's source.
    pub input_health: Vec<Arc<InputHealth>>,
    /// What is known of each output and edge action.
    pub health: Vec<Arc<OutputHealth>>,
    /// The agent's id.
    pub bound: bind::Bound,
    /// Names.
    pub names: Names,
    /// What the engine was told to do.
    pub engine: Arc<weir_engine::spec::EngineSpec>,
    /// Where the state lives.
    pub directory: PathBuf,
    pub(crate) inputs: JoinSet<Result<(), PluginError>>,
    /// Tasks of outputs and actions.
    pub(crate) outputs: JoinSet<()>,
    pub(crate) stops: Stops,
    pub(crate) flushed: Vec<Stop>,
    pub(crate) core_thread: JoinHandle<()>,
    pub(crate) disk_thread: JoinHandle<()>,
    /// What the store has done, and how much is written.
    pub writes: writes::SharedWrites,
    /// Endurance of the disk, bytes; 0: not known.
    pub endurance_bytes: u64,
    /// The line that says that the power goes.
    pub power_fail: Option<PowerFail>,
    pub(crate) shutdown_timeout: Duration,
}

/// The requests that end a run, in their order.
#[derive(Clone, Default)]
pub(crate) struct Stops {
    /// Inputs: read nothing more.
    pub stop: Stop,
    /// Outputs: wait for no fuller batch.
    pub hurry: Stop,
    /// Inputs: everything is acknowledged, disconnect.
    pub drained: Stop,
    /// Outputs and actions: end.
    pub end: Stop,
}

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error("can't open the store in {directory}")]
    Store {
        /// Where.
        directory: PathBuf,
        /// Why.
        source: weir_store::StoreError,
    },
    /// The state in it.
    #[error("can't restore the state in {directory}: {reason}")]
    State {
        /// Where.
        directory: PathBuf,
        /// Why.
        reason: String,
    },
    /// A thread.
    #[error("can't start the {name} thread")]
    Thread {
        /// Which.
        name: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// `--once` with an input that has no end.
    #[error("--once can't be used with the input {0}: it has no end")]
    Endless(String),
}
