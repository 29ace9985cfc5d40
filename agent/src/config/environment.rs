//! What loading a configuration asks of the world: variables, files, the host's name. Apart so that tests and the demo answer instead.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use weir_plugin_api::plugin::InternalPoint;

/// A snapshot of the agent's own counters, for the `internal` input.
pub type Internal = Arc<dyn Fn() -> Vec<InternalPoint> + Send + Sync>;

/// The world as the loader sees it. Reading it changes nothing, so that a configuration can be loaded again at any time.
pub trait Environment {
    /// An environment variable; one that is not UTF-8 counts as unset.
    fn variable(&self, name: &str) -> Option<String>;

    /// A file's bytes.
    ///
    /// # Errors
    /// Those of reading it.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The paths of a directory's entries, `None` when `path` is no directory.
    ///
    /// # Errors
    /// Those of reading it.
    fn list(&self, path: &Path) -> io::Result<Option<Vec<PathBuf>>>;

    /// The host's name, for the `host` tag.
    fn hostname(&self) -> String;

    /// Whether the process is root, which decides where state lives by default.
    fn is_root(&self) -> bool;

    /// The state directory the command line names, before all else.
    fn directory(&self) -> Option<PathBuf> {
        None
    }

    /// Where the `internal` input gets its counters; none of them unless the agent says otherwise.
    fn internal(&self) -> Internal {
        Arc::new(Vec::new)
    }
}

/// The real one.
#[derive(Default)]
pub struct System {
    internal: Option<Internal>,
    directory: Option<PathBuf>,
}

impl System {
    /// The real environment, with the running agent's counters.
    pub fn with_internal(internal: Internal) -> Self {
        Self { internal: Some(internal), directory: None }
    }

    /// The same with a state directory that the command line names.
    pub fn with_directory(self, directory: Option<PathBuf>) -> Self {
        Self { directory, ..self }
    }
}

impl Environment for System {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        std::fs::read(path)
    }

    fn list(&self, path: &Path) -> io::Result<Option<Vec<PathBuf>>> {
        if !path.is_dir() {
            return Ok(None);
        }
        std::fs::read_dir(path)?.map(|entry| entry.map(|e| e.path())).collect::<io::Result<Vec<_>>>().map(Some)
    }

    fn hostname(&self) -> String {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    }

    fn is_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    fn directory(&self) -> Option<PathBuf> {
        self.directory.clone()
    }

    fn internal(&self) -> Internal {
        self.internal.clone().unwrap_or_else(|| Arc::new(Vec::new))
    }
}

/// Where state lives: `[storage] directory`, else systemd's `$STATE_DIRECTORY`, else `/var/lib/weir` for root and
/// `$XDG_STATE_HOME/weir` (or `~/.local/state/weir`) for others.
pub fn state_directory(configured: Option<&Path>, environment: &dyn Environment) -> PathBuf {
    let set = |name: &str| environment.variable(name).filter(|v| !v.is_empty());
    if let Some(path) = environment.directory() {
        return path;
    }
    if let Some(path) = configured {
        return path.to_owned();
    }
    if let Some(paths) = set("STATE_DIRECTORY") {
        // systemd gives several, parted by colons, when the unit names several.
        return PathBuf::from(paths.split(':').next().unwrap_or_default());
    }
    if environment.is_root() {
        return PathBuf::from("/var/lib/weir");
    }
    if let Some(path) = set("XDG_STATE_HOME") {
        return Path::new(&path).join("weir");
    }
    set("HOME").map_or_else(|| PathBuf::from("/var/lib/weir"), |home| Path::new(&home).join(".local/state/weir"))
}

/// The control socket: `[status] socket`, else in `$RUNTIME_DIRECTORY`, `/run/weir` for root, `$XDG_RUNTIME_DIR/weir` for others.
/// `None` when there is no such place.
pub fn control_socket(configured: Option<&Path>, environment: &dyn Environment) -> Option<PathBuf> {
    let set = |name: &str| environment.variable(name).filter(|v| !v.is_empty());
    if let Some(path) = configured {
        return Some(path.to_owned());
    }
    let directory = if let Some(paths) = set("RUNTIME_DIRECTORY") {
        PathBuf::from(paths.split(':').next().unwrap_or_default())
    } else if environment.is_root() {
        PathBuf::from("/run/weir")
    } else {
        Path::new(&set("XDG_RUNTIME_DIR")?).join("weir")
    };
    Some(directory.join("weir.sock"))
}
