//! Which files make a configuration, and reading them.

use std::path::{Path, PathBuf};

use super::{Environment, report::File};

/// Where a configuration is looked for when nobody says.
const DEFAULT_FILE: &str = "/etc/weir/weir.toml";
const DEFAULT_DIRECTORY: &str = "/etc/weir/weir.d";
/// A configuration larger than this is something else.
const FILE_BYTES_MAX: usize = 16 << 20;

/// What the command line says. With nothing said: `$WEIR_CONFIG_PATH`, else `/etc/weir/weir.toml` with `/etc/weir/weir.d/*.toml`.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--config`: files, or directories of them.
    pub config: Vec<PathBuf>,
    /// `--config-directory`: directories whose `*.toml` are read, sorted by name.
    pub config_directory: Vec<PathBuf>,
}

/// A file that was read, or why it could not be.
pub type Read = (File, Option<Problem>);

/// What is wrong with a file as a whole: the message, where in it, a suggestion.
pub struct Problem {
    /// What.
    pub message: String,
    /// Byte in the file.
    pub at: usize,
    /// What to do.
    pub help: Option<String>,
}

/// Reads every file of `sources`, in order.
pub fn read_all(sources: &Sources, environment: &dyn Environment) -> Vec<Read> {
    let mut files = Vec::new();
    for path in &sources.config {
        file_or_directory(path, environment, &mut files);
    }
    for path in &sources.config_directory {
        match environment.list(path) {
            Ok(Some(entries)) => directory(path, entries, environment, &mut files),
            Ok(None) => files.push(broken(path, "is no directory".into(), None)),
            Err(error) => files.push(broken(path, format!("can't be read: {error}"), None)),
        }
    }
    if !files.is_empty() {
        return files;
    }
    if let Some(path) = environment.variable("WEIR_CONFIG_PATH").filter(|p| !p.is_empty()) {
        file_or_directory(Path::new(&path), environment, &mut files);
        return files;
    }
    let help = "name a file with --config, or write one: weir sample-config > weir.toml";
    let main = file(Path::new(DEFAULT_FILE), environment, Some(help));
    let more = environment.list(Path::new(DEFAULT_DIRECTORY)).ok().flatten();
    let missing = main.1.is_some();
    files.push(main);
    if let Some(entries) = more {
        let parts = toml_files(entries);
        // A directory of parts is a configuration by itself.
        if missing
            && !parts.is_empty()
            && environment.read(Path::new(DEFAULT_FILE)).is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
        {
            files.clear();
        }
        files.extend(parts.iter().map(|path| file(path, environment, None)));
    }
    files
}

fn file_or_directory(path: &Path, environment: &dyn Environment, files: &mut Vec<Read>) {
    match environment.list(path) {
        Ok(Some(entries)) => directory(path, entries, environment, files),
        _ => {
            let help = path.to_string_lossy().contains("://").then_some("weir reads files, not addresses");
            files.push(file(path, environment, help));
        }
    }
}

fn directory(path: &Path, entries: Vec<PathBuf>, environment: &dyn Environment, files: &mut Vec<Read>) {
    let paths = toml_files(entries);
    if paths.is_empty() {
        files.push(broken(path, "holds no *.toml file".into(), None));
    }
    files.extend(paths.iter().map(|path| file(path, environment, None)));
}

fn toml_files(mut entries: Vec<PathBuf>) -> Vec<PathBuf> {
    entries.retain(|path| path.extension().is_some_and(|e| e == "toml"));
    entries.sort();
    entries
}

fn file(path: &Path, environment: &dyn Environment, help: Option<&str>) -> Read {
    let name = path.display().to_string();
    let bytes = match environment.read(path) {
        Ok(bytes) => bytes,
        Err(error) => return broken(path, format!("can't be read: {error}"), help),
    };
    if bytes.len() > FILE_BYTES_MAX {
        return broken(path, "is larger than 16 MiB, which is no configuration".into(), None);
    }
    match String::from_utf8(bytes) {
        Ok(text) => (File { name, text, broken: false }, None),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            let problem = Problem { message: "this is not UTF-8".into(), at, help: Some("save the file as UTF-8".into()) };
            (File { name, text, broken: true }, Some(problem))
        }
    }
}

fn broken(path: &Path, message: String, help: Option<&str>) -> Read {
    let name = path.display().to_string();
    let problem = Problem { message: format!("{name} {message}"), at: 0, help: help.map(str::to_owned) };
    (File { name, ..File::default() }, Some(problem))
}
