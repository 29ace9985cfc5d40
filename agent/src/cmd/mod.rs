//! The commands of `weir`, a file each, and what they share: how a configuration is named, and the exit codes.

mod check;
mod checkpoint;
#[cfg(feature = "demo")]
mod demo;
mod plugins;
pub mod run;
mod sample_config;
mod status;
mod store;

use std::{
    io::{IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use crate::config::{Report, Sources};

/// It did what it was told.
pub const DONE: u8 = 0;
/// It ran, and failed.
pub const FAILED: u8 = 1;
/// The command or the configuration is wrong: nothing was touched.
pub const WRONG: u8 = 2;

/// A telemetry agent for gateways: sensors in, windows and alerts on the device, results out, nothing lost.
#[derive(Debug, Parser)]
#[command(name = "weir", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent.
    Run(run::Run),
    /// Show the main job: simulated sensors, windows, an alert, results; nothing else is needed.
    #[cfg(feature = "demo")]
    Demo(demo::Demo),
    /// Ask the running agent what came in, what became of it and what waits where.
    Status(status::Status),
    /// Have the running agent commit and checkpoint now, as before the power goes, and wait until it has; `kill -USR1` does the same.
    Checkpoint(checkpoint::Checkpoint),
    /// Look into a state directory: list, print, verify, export; nothing in it is changed.
    Store(store::Store),
    /// Check a configuration and say what it does.
    Check(check::Check),
    /// Print a configuration with every option, its default and what it means.
    SampleConfig(sample_config::SampleConfig),
    /// List the plugins of this build, or the options of some.
    Plugins(plugins::Plugins),
}

impl Cli {
    /// Runs the command.
    pub fn run(self) -> ExitCode {
        let code = match self.command {
            Command::Run(command) => command.run(),
            #[cfg(feature = "demo")]
            Command::Demo(command) => command.run(),
            Command::Status(command) => command.run(),
            Command::Checkpoint(command) => command.run(),
            Command::Store(command) => command.run(),
            Command::Check(command) => command.run(),
            Command::SampleConfig(command) => command.run(),
            Command::Plugins(command) => command.run(),
        };
        ExitCode::from(code)
    }
}

/// Where the configuration is.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// A configuration file, or a directory of them; may be given several times.
    ///
    /// Without this and --config-directory: $WEIR_CONFIG_PATH, else /etc/weir/weir.toml with /etc/weir/weir.d/*.toml.
    #[arg(long, short, value_name = "PATH")]
    config: Vec<PathBuf>,
    /// A directory whose *.toml are read, sorted by name; may be given several times.
    #[arg(long, value_name = "PATH")]
    config_directory: Vec<PathBuf>,
}

impl From<&ConfigArgs> for Sources {
    fn from(args: &ConfigArgs) -> Self {
        Self { config: args.config.clone(), config_directory: args.config_directory.clone() }
    }
}

/// Shows findings on standard error, in colours only on a terminal that wants them.
pub fn show(report: &Report) {
    let stderr = std::io::stderr();
    let colour = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let _ = stderr.lock().write_all(report.render(colour).as_bytes());
}

/// Prints to standard output; a reader that has gone away is no failure.
pub fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}
