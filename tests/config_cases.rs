//! `weir check` on every folder `cases/config_*`: what it says must be what `expected_error` says, to the letter.
//!
//! A folder holds `weir.toml`, `expected_error`, and if needed `arguments` (instead of `--config weir.toml`) and `environment` (lines
//! `NAME=value`). `UPDATE_EXPECTED=1` writes what is said now.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What the binary says about the configuration in a folder, and its exit code.
fn check(folder: &Path) -> (String, i32) {
    let arguments = fs::read_to_string(folder.join("arguments")).unwrap_or_else(|_| "--config weir.toml".into());
    let environment = fs::read_to_string(folder.join("environment")).unwrap_or_default();
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .arg("check")
        .args(arguments.split_whitespace())
        .current_dir(folder)
        .env_clear()
        .envs(environment.lines().filter_map(|line| line.split_once('=')))
        .output()
        .expect("the binary runs");
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.code().unwrap_or(-1))
}

fn folders() -> Vec<PathBuf> {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases");
    let entries = fs::read_dir(cases).expect("the cases are there");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable entry").path()).collect();
    folders.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("config_")));
    folders.sort();
    folders
}

#[test]
fn every_wrong_configuration_is_explained_as_expected() {
    let folders = folders();
    assert!(folders.len() >= 8, "the cases are missing");
    let mut wrong = Vec::new();
    for folder in folders {
        let (said, code) = check(&folder);
        let path = folder.join("expected_error");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            fs::write(&path, &said).expect("the expectation is written");
            continue;
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        let expected_code = if expected.contains("error: ") { 2 } else { 0 };
        if said != expected || code != expected_code {
            wrong.push(format!("{}: exit code {code}\n--- expected\n{expected}\n--- said\n{said}", folder.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn no_secret_of_a_case_is_ever_said() {
    for folder in folders() {
        let (said, _) = check(&folder);
        assert!(!said.contains("hunter2"), "{}: {said}", folder.display());
    }
}
