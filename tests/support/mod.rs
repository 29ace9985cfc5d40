//! What the tests of the whole agent share: the agent itself as a child process, and the real servers it talks to.

pub mod agent;
pub mod http;
pub mod link;
pub mod mqtt;
mod ports;
pub mod servers;

use std::{
    path::Path,
    process::{Child, Command, ExitStatus},
    time::{Duration, Instant},
};

use tempfile::TempDir;

pub use ports::free_port;

/// Longest time anything in a test may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `probe` gives something; fails with `what` after [`PATIENCE`].
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "still not after {PATIENCE:?}: {what}");
        // The condition above is what is awaited; this only keeps the machine free meanwhile.
        std::thread::park_timeout(Duration::from_millis(15));
    }
}

/// The end of a process, which must come.
pub fn ended(child: &mut Child, what: &str) -> ExitStatus {
    eventually(&format!("{what} ends"), || child.try_wait().expect("its state"))
}

/// Runs the command its arguments name, and kills it when it does not end by itself: a reader of a topic has no end of its own while the broker is away.
pub fn bounded() -> Command {
    let mut command = Command::new("timeout");
    command.args(["--signal", "KILL", &PATIENCE.as_secs().to_string()]);
    command
}

/// A temporary directory that stays, and is named, when the test fails: what the agent, its store and the servers left tells why.
pub struct Directory(Option<TempDir>);

impl Directory {
    /// A new one.
    pub fn new() -> Self {
        Self(Some(tempfile::tempdir().expect("a temporary directory")))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("it is there until it is dropped").path()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Some(directory) = self.0.take()
            && std::thread::panicking()
        {
            eprintln!("what the test left is in {}", directory.keep().display());
        }
    }
}

/// The whole lines of a file that somebody else may be writing; none when it isn't there.
pub fn whole_lines(file: &Path) -> String {
    let mut text = std::fs::read_to_string(file).unwrap_or_default();
    text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
    text
}
