//! Edited configurations: after a stop, after a kill, and again and again while readings come in.

use std::path::Path;

use super::{append, folder, output};
use crate::support::{agent::Agent, eventually};

/// Readings of two devices, two to a second of event time.
fn lines(range: std::ops::Range<u64>) -> String {
    let line = |n: u64| format!("m,device=d{} v={n} {}\n", n % 2, 1_700_000_000_000_000_000 + n * 500_000_000);
    range.map(line).collect()
}

fn config(operators: &str) -> String {
    format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"50ms\"\n[[inputs.tail]]\nfiles = [\"in.lp\"]\nfrom_beginning = true\npath_tag = \"\"\n[[outputs.file]]\nfiles = [\"out.lp\"]\n{operators}\n[storage]\ncommit_interval = \"20ms\"\n"
    )
}

const BEFORE: &str = "[[windows]]\nname = \"kept\"\nevery = \"4s\"\naggregates = [\"count\"]\nname_override = \"kept\"\nlateness = \"0s\"\n[[windows]]\nname = \"changed\"\nevery = \"10s\"\naggregates = [\"sum\"]\nlateness = \"0s\"\n[[alerts]]\nname = \"removed\"\nwhen = \"v > 20\"\n";
const AFTER: &str = "[[windows]]\nname = \"kept\"\nevery = \"4s\"\naggregates = [\"count\"]\nname_override = \"kept\"\nlateness = \"0s\"\n[[windows]]\nname = \"changed\"\nevery = \"8s\"\naggregates = [\"sum\"]\nlateness = \"0s\"\n[[alerts]]\nname = \"added\"\nwhen = \"v > 30\"\n";

fn recorded(agent: &Agent) -> u64 {
    agent.status()["inputs"][0]["recorded"].as_u64().unwrap_or_default()
}

/// Results of a run whose configuration is edited between two runs of the agent, and the log.
fn edited(path: &Path, end: impl Fn(Agent)) -> (Vec<String>, String) {
    append(path, &lines(0..50));
    let agent = Agent::start(path, &config(BEFORE));
    eventually("all of it is recorded", || (recorded(&agent) == 50).then_some(()));
    end(agent);
    Agent::write_config(path, &config(AFTER));
    append(path, &lines(50..100));
    let agent = Agent::spawn_written(path);
    agent.wait_ready();
    eventually("the rest is recorded", || (recorded(&agent) == 100).then_some(()));
    eventually("everything is delivered", || {
        let status = agent.status();
        let line = &status["outputs"][0];
        (line["routed"] == line["delivered"] && output(path).contains("alert=added")).then_some(())
    });
    assert_eq!(agent.status()["residues"].as_array().map(Vec::len), Some(0));
    let log = agent.log();
    assert!(agent.terminate().success());
    let mut results: Vec<String> = output(path).lines().map(str::to_owned).collect();
    results.sort();
    (results, log)
}

#[test]
fn an_edit_after_a_kill_gives_what_an_edit_after_a_stop_gives() {
    let (stopped, killed) = (folder(), folder());
    let expected = edited(stopped.path(), |agent| assert!(agent.terminate().success()));
    let results = edited(killed.path(), Agent::kill);
    assert_eq!(results.0, expected.0);
    assert!(expected.0.iter().any(|l| l.contains("alert=removed")), "{expected:?}");
    for log in [&results.1, &expected.1] {
        assert!(log.contains("window \"changed\" starts anew") && log.contains("alert \"removed\" is dropped"), "{log}");
        assert!(!log.contains("\"kept\" starts anew"), "{log}");
    }
    let kept = expected.0.iter().filter(|l| l.starts_with("kept,device=d0")).count();
    assert_eq!(kept, 12, "its windows go on over the edit: {expected:?}");
    assert!(expected.0.iter().filter(|l| l.starts_with("kept")).all(|l| l.contains("v_count=4i")), "{expected:?}");
}
