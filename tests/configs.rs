//! The configurations of the repository: all of them pass `weir check`, and the reference is what the binary prints.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

fn weir(arguments: &[&str], credentials: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(arguments)
        .env_clear()
        .env("CREDENTIALS_DIRECTORY", credentials)
        .output()
        .expect("the binary runs")
}

/// Plugins (`inputs.mock`) and formats (`json`) a file names that this build lacks: a small one has no Kafka.
fn missing(path: &Path, list: &str) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("a configuration");
    let mut kind = "";
    // Not a format by itself but what the serial input speaks.
    let mut has = vec!["frame".to_owned()];
    for line in list.lines() {
        match line.strip_prefix("  ") {
            None => kind = line,
            Some(row) if kind == "formats" => has.extend(row.split_whitespace().skip(2).map(|word| word.trim_end_matches(',').to_owned())),
            Some(row) => has.extend(row.split_whitespace().next().map(|name| format!("{kind}.{name}"))),
        }
    }
    let plugin = |line: &str| Some(line.trim().strip_prefix("[[")?.split(']').next()?.split('.').take(2).collect::<Vec<_>>().join("."));
    let format = |line: &str| Some(line.trim().strip_prefix("data_format = \"")?.trim_end_matches('"').to_owned());
    let names = text.lines().filter_map(|line| plugin(line).filter(|p| p.contains('.')).or_else(|| format(line)));
    names.filter(|name| !has.contains(name)).collect()
}

#[test]
fn every_configuration_of_the_repository_passes_the_check() {
    let credentials = tempfile::tempdir().expect("a directory");
    std::fs::write(credentials.path().join("influx-token"), "a token\n").expect("a credential");
    let list = String::from_utf8(weir(&["plugins"], credentials.path()).stdout).expect("text");
    let (mut checked, mut skipped) = (0, Vec::new());
    for entry in std::fs::read_dir(configs()).expect("the configurations are there") {
        let path = entry.expect("a readable entry").path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let lacks = missing(&path, &list);
        if !lacks.is_empty() {
            skipped.push((path, lacks));
            continue;
        }
        let output = weir(&["check", "--config", &path.display().to_string()], credentials.path());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{}\n{said}", path.display());
        checked += 1;
    }
    assert!(checked >= 1, "nothing was checked: {skipped:?}");
}

#[test]
fn what_is_meant_for_the_unit_stays_within_its_memory_with_every_bound_reached() {
    /// Of the released executable, in the place of the one under test.
    const EXECUTABLE: u64 = 16 << 20;
    let credentials = tempfile::tempdir().expect("a directory");
    std::fs::write(credentials.path().join("influx-token"), "a token\n").expect("a credential");
    let unit = std::fs::read_to_string(configs().join("systemd/weir.service")).expect("the unit");
    assert!(unit.lines().any(|line| line == "MemoryMax=128M"), "{unit}");
    let own = std::fs::metadata(env!("CARGO_BIN_EXE_weir")).expect("the binary").len();
    let allowed = (128 << 20) - EXECUTABLE + own;
    let list = String::from_utf8(weir(&["plugins"], credentials.path()).stdout).expect("text");
    let mut checked = 0;
    for name in ["demo.toml", "pi.toml", "pi-thermometer.toml", "mcu.toml", "kafka.toml", "package/weir.toml"] {
        let path = configs().join(name);
        if !missing(&path, &list).is_empty() {
            continue;
        }
        let check = |memory: u64| {
            let (path, memory) = (path.display().to_string(), memory.to_string());
            let output = weir(&["check", "--config", &path, "--memory-max", &memory], credentials.path());
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            (said.contains("--memory-max allows"), said + &String::from_utf8_lossy(&output.stdout))
        };
        let (over, said) = check(allowed);
        assert!(!over, "{name}: {said}");
        let (over, said) = check(own + (1 << 20));
        assert!(over, "{name}: {said}");
        checked += 1;
    }
    assert!(checked >= 1, "nothing was checked");
}

#[test]
fn the_reference_is_what_the_binary_prints() {
    let path = configs().join("weir.toml");
    let printed = weir(&["sample-config"], Path::new("/")).stdout;
    // A smaller build knows fewer plugins: the reference is of a full one.
    let text = String::from_utf8_lossy(&printed);
    if !["inputs.internal", "outputs.kafka"].iter().all(|plugin| text.contains(&format!("[[{plugin}]]"))) {
        return;
    }
    if std::env::var_os("UPDATE_EXPECTED").is_some() {
        std::fs::write(&path, &printed).expect("the reference is written");
    }
    let kept = std::fs::read(&path).expect("the reference");
    assert!(kept == printed, "configs/weir.toml is old: run `weir sample-config > configs/weir.toml`");
}

#[test]
fn the_samples_of_all_plugins_are_toml() {
    let output = weir(&["plugins"], Path::new("/"));
    let list = String::from_utf8(output.stdout).expect("text");
    let mut kind = "";
    for line in list.lines() {
        if !line.starts_with("  ") {
            kind = line;
        } else if kind == "formats" {
            continue;
        } else if let Some(name) = line.strip_prefix("  ").and_then(|line| line.split_whitespace().next()) {
            let sample = weir(&["sample-config", &format!("{kind}.{name}")], Path::new("/"));
            assert_eq!(sample.status.code(), Some(0), "{kind}.{name}");
            let text = String::from_utf8(sample.stdout).expect("text");
            assert!(text.parse::<toml::Table>().is_ok(), "{text}");
        }
    }
}

#[test]
fn the_exit_code_says_what_is_wrong() {
    let code = |arguments: &[&str]| weir(arguments, Path::new("/")).status.code();
    assert_eq!(code(&["--version"]), Some(0));
    assert_eq!(code(&["plugins"]), Some(0));
    assert_eq!(code(&["plugins", "nothing"]), Some(2));
    assert_eq!(code(&["sample-config", "nothing"]), Some(2));
    assert_eq!(code(&["chekc"]), Some(2));
    assert_eq!(code(&["check", "--config", "/does/not/exist.toml"]), Some(2));
}
