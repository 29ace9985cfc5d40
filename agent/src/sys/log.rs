//! Structured logs: with the journal's priorities when it is systemd that reads standard error, else with the time.

use std::io::{IsTerminal, StderrLock, Write};

use tracing::{Level, Metadata};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt::MakeWriter,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// Standard error read by the journal: each line begins with its priority (sd-daemon(3)), the time is the journal's own. The line is
/// what `journalctl` shows, so it holds the fields too: an error without its cause and place would be of no use there.
struct Journal;

impl<'a> MakeWriter<'a> for Journal {
    type Writer = StderrLock<'static>;

    fn make_writer(&'a self) -> Self::Writer {
        std::io::stderr().lock()
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        let mut stderr = self.make_writer();
        let priority = match *meta.level() {
            Level::ERROR => "<3>",
            Level::WARN => "<4>",
            Level::INFO => "<6>",
            _ => "<7>",
        };
        // Nobody is left to tell where standard error is gone.
        let _ = stderr.write_all(priority.as_bytes());
        stderr
    }
}

/// Starts logging at `level`, which is a level or a filter such as `info,weir_plugins=debug`. A second call changes nothing.
pub fn start(level: &str) {
    // Levels and targets only: filters by span and field would bring an engine for regular expressions into the binary.
    let filter = level.parse().unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO));
    let registry = tracing_subscriber::registry();
    let layer = tracing_subscriber::fmt::layer().with_target(false);
    // A second start finds a logger there already, as after a reload.
    let _ = if std::env::var_os("JOURNAL_STREAM").is_some() && !std::io::stderr().is_terminal() {
        let layer = layer.without_time().with_level(false).with_ansi(false).with_writer(Journal);
        registry.with(layer.with_filter(filter)).try_init()
    } else {
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        registry.with(layer.with_writer(std::io::stderr).with_ansi(colour).with_filter(filter)).try_init()
    };
}
