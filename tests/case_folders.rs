//! Case folders under `tests/cases`: a configuration, what comes in, and what must come out, byte for byte.
//!
//! Each folder holds `weir.toml`, perhaps `input` (standard input) and other files the configuration names, and `expected/`: `stdout`,
//! `exit` (the code, 0 if absent) and any file the run leaves behind. `WEIR_BLESS=1` writes what came out as expected; read it before
//! committing it.
//!
//! `cases/digests` holds a digest of the state each of them leaves behind: it is the same after kills and on every architecture.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use crate::support::agent::run;

/// The folders, in order.
pub fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases");
    let mut folders: Vec<PathBuf> =
        fs::read_dir(root).expect("the cases").flatten().map(|e| e.path()).filter(|p| p.join("expected").is_dir()).collect();
    folders.sort();
    folders
}

/// Copies the files of a case.
pub fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a case").flatten() {
        if entry.path().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
}

/// Digest of the state that lies in `directory`, as `weir store verify` prints it.
pub fn digest(directory: &Path) -> String {
    let output = run(directory, &["store", "verify", "--digest", "state"], b"");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let digest = said.lines().find_map(|line| line.strip_prefix("digest "));
    digest.map_or_else(|| format!("none: {said}{}", String::from_utf8_lossy(&output.stderr)), str::to_owned)
}

/// Name of a case.
pub fn name(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn digests_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases/digests")
}

/// The digests the cases are to leave behind, by name.
pub fn digests() -> BTreeMap<String, String> {
    let text = fs::read_to_string(digests_file()).expect("the digests");
    text.lines().filter_map(|line| line.split_once(' ')).map(|(digest, name)| (name.to_owned(), digest.to_owned())).collect()
}

fn differences(folder: &Path, digests: &mut BTreeMap<String, String>) -> Vec<String> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    copy(folder, directory.path());
    let input = fs::read(folder.join("input")).unwrap_or_default();
    let output = run(directory.path(), &["run", "--once", "--config", "weir.toml", "--directory", "state"], &input);
    let bless = std::env::var_os("WEIR_BLESS").is_some();
    let mut different = Vec::new();
    let mut compare = |name: &str, actual: String| {
        let path = folder.join("expected").join(name);
        if bless && path.exists() {
            fs::write(&path, &actual).expect("blessed");
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if expected != actual {
            let log = String::from_utf8_lossy(&output.stderr).into_owned();
            different.push(format!("{}: {name}\n--- expected\n{expected}--- actual\n{actual}--- log\n{log}", folder.display()));
        }
    };
    for entry in fs::read_dir(folder.join("expected")).expect("what is expected").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        match name.as_str() {
            "exit" => {}
            "stdout" => compare(&name, String::from_utf8_lossy(&output.stdout).into_owned()),
            _ => compare(&name, fs::read_to_string(directory.path().join(&name)).unwrap_or_default()),
        }
    }
    digests.insert(name(folder), digest(directory.path()));
    let code = output.status.code().map_or("killed".to_owned(), |c| c.to_string());
    let expected = fs::read_to_string(folder.join("expected/exit")).unwrap_or_else(|_| "0".into());
    if expected.trim() != code {
        different.push(format!("{}: exit {code}, expected {expected}\n{}", folder.display(), String::from_utf8_lossy(&output.stderr)));
    }
    different
}

#[test]
fn every_case_folder_gives_what_it_expects() {
    let folders = folders();
    assert!(folders.len() >= 10, "only {} case folders found", folders.len());
    let mut left = BTreeMap::new();
    let different: Vec<String> = folders.iter().flat_map(|f| differences(f, &mut left)).collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
    if std::env::var_os("WEIR_BLESS").is_some() {
        let lines: String = left.iter().map(|(name, digest)| format!("{digest} {name}\n")).collect();
        fs::write(digests_file(), lines).expect("blessed");
    }
    assert_eq!(left, digests(), "the states left behind");
}
