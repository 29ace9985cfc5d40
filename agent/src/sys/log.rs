//! Structured logs: to journald when it is systemd that reads standard error, else to standard error.

use std::io::IsTerminal;

use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// Starts logging at `level`, which is a level or a filter such as `info,weir_plugins=debug`. A second call changes nothing.
pub fn start(level: &str) {
    // Levels and targets only: filters by span and field would bring an engine for regular expressions into the binary.
    let filter = level.parse().unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    let journald = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let registry = tracing_subscriber::registry();
    // A second start finds a logger there already, as after a reload.
    let _ = match journald {
        Some(layer) => registry.with(layer.with_filter(filter)).try_init(),
        None => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colour).with_target(false);
            registry.with(layer.with_filter(filter)).try_init()
        }
    };
}
