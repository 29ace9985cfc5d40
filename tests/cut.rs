//! The case folders again, with the agent killed after each line of input, started, killed and started again: what comes out is the same, byte for byte.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use crate::{
    case_folders::{copy, digest, digests, folders, name},
    support::{agent::Agent, eventually},
};

/// Lines an input has read, as its ledger says.
fn read(agent: &Agent) -> Option<u64> {
    let (_, body) = agent.get("/status").filter(|(code, _)| *code == 200)?;
    let status: serde_json::Value = serde_json::from_str(&body).ok()?;
    status["inputs"].get(0)?["read"].as_u64()
}

/// Runs a case, killed when `cut` lines of its input were read. What is different from what it expects.
fn differences(folder: &Path, lines: &[&str], cut: usize) -> (usize, Vec<String>) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    copy(folder, path);
    let config = fs::read_to_string(path.join("weir.toml")).expect("a configuration");
    // A socket of its own, and commits that come at once.
    let own = "[status]\nsocket = \"control.sock\"\n[storage]\ncommit_interval = \"1ms\"\n";
    fs::write(path.join("weir.toml"), format!("{config}\n{own}")).expect("written");
    let arguments = ["run", "--config", "weir.toml", "--directory", "state"];
    let (agent, mut input) = Agent::spawn_fed(path, &arguments);
    input.write_all(lines[..cut].concat().as_bytes()).expect("it reads");
    let what = format!("{} read {cut} lines", folder.display());
    eventually(&what, || read(&agent).filter(|read| *read == cut as u64));
    agent.kill();
    // The last of them may not have been durable: the source goes on where the agent is.
    let (agent, input) = Agent::spawn_fed(path, &arguments);
    let from = eventually("it is back", || read(&agent)) as usize;
    agent.kill();
    drop(input);
    let (agent, mut input) = Agent::spawn_fed(path, &[&arguments[..], &["--once"]].concat());
    input.write_all(lines[from..].concat().as_bytes()).expect("it reads");
    drop(input);
    let code = agent.end().code().map_or("killed".to_owned(), |c| c.to_string());
    let mut different = Vec::new();
    for entry in fs::read_dir(folder.join("expected")).expect("what is expected").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let expected = fs::read_to_string(entry.path()).expect("readable");
        let written = fs::read_to_string(path.join(&name)).unwrap_or_default();
        let actual = match name.as_str() {
            "exit" => code.clone(),
            // Nobody can take back what was written to a terminal.
            "stdout" => once(&written),
            _ => written,
        };
        if expected.trim_end() != actual.trim_end() {
            let log = fs::read_to_string(path.join("log")).unwrap_or_default();
            let place = format!("{} cut after {cut} lines, back at {from}", folder.display());
            different.push(format!("{place}: {name}\n--- expected\n{expected}--- actual\n{actual}--- log\n{log}"));
        }
    }
    let (left, expected) = (digest(path), digests().remove(&name(folder)).unwrap_or_default());
    if left != expected {
        let place = format!("{} cut after {cut} lines, back at {from}", folder.display());
        different.push(format!("{place}: the state has digest {left}, not {expected}"));
    }
    (from, different)
}

/// Each line once.
fn once(text: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    for line in text.split_inclusive('\n') {
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.concat()
}

/// Cases of one input that is fed by lines, and their lines.
fn cases() -> Vec<(PathBuf, String)> {
    let fed = folders().into_iter().filter_map(|folder| {
        let input = fs::read_to_string(folder.join("input")).ok()?;
        let config = fs::read_to_string(folder.join("weir.toml")).ok()?;
        (config.contains("[[inputs.stdin]]") && input.lines().count() > 1).then_some((folder, input))
    });
    fed.collect()
}

#[test]
fn every_case_folder_gives_the_same_when_the_agent_is_killed_after_any_line() {
    let cases = cases();
    let (mut cuts, mut durable, mut different) = (0, 0, Vec::new());
    for (folder, input) in &cases {
        // Empty lines and comments are nothing that is read.
        let lines: Vec<&str> = input.split_inclusive('\n').filter(|l| !l.trim().is_empty() && !l.starts_with('#')).collect();
        for cut in 1..lines.len() {
            cuts += 1;
            let (from, more) = differences(folder, &lines, cut);
            durable += usize::from(from > 0);
            different.extend(more);
        }
    }
    assert!(cuts >= 20 && durable > cuts / 2, "only {cuts} cuts in {} cases, {durable} of them behind something", cases.len());
    assert!(different.is_empty(), "{}", different.join("\n"));
}
