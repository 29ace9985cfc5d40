//! Edited configurations: after a stop, after a kill, and again and again while readings come in.

use std::{fs, path::Path};

use super::{append, folder, output};
use crate::support::{
    agent::{Agent, run},
    eventually,
};

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

#[test]
fn an_output_that_comes_back_or_whose_state_is_lost_takes_nothing_away_of_what_its_file_has() {
    let directory = folder();
    let path = directory.path();
    let one = config("").replace("[\"out.lp\"]", "[\"other.lp\"]\nalias = \"other\"");
    let both = one.replace("[storage]", "[[outputs.file]]\nalias = \"comes_and_goes\"\nfiles = [\"out.lp\"]\n[storage]");
    let run = |config: &str, new: std::ops::Range<u64>| {
        Agent::write_config(path, config);
        append(path, &lines(new.clone()));
        let agent = Agent::spawn_written(path);
        agent.wait_ready();
        let last = lines(new.end - 1..new.end);
        eventually("the last line arrives", || {
            fs::read_to_string(path.join("other.lp")).unwrap_or_default().ends_with(&last).then_some(())
        });
        assert!(agent.terminate().success());
    };
    run(&both, 0..10);
    assert_eq!(output(path), lines(0..10));
    run(&one, 10..20);
    run(&both, 20..30);
    assert_eq!(output(path), lines(0..10) + &lines(20..30));
    // It can't be opened at first when it comes back, and is known to the journal at the next start.
    run(&one, 30..40);
    fs::rename(path.join("out.lp"), path.join("kept.lp")).expect("moved");
    fs::create_dir(path.join("out.lp")).expect("in its place");
    run(&both, 40..50);
    fs::remove_dir(path.join("out.lp")).expect("removed");
    fs::rename(path.join("kept.lp"), path.join("out.lp")).expect("back");
    run(&both, 50..60);
    let there = lines(0..10) + &lines(20..30) + &lines(40..60);
    assert_eq!(output(path), there);
    for file in fs::read_dir(path.join("state")).expect("the state").map(|file| file.expect("a file").path()) {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        if name.starts_with("checkpoint-") || name.starts_with("journal-") {
            fs::remove_file(file).expect("lost");
        }
    }
    run(&both, 60..70);
    assert!(output(path).starts_with(&there), "{}", output(path));
}

#[test]
fn a_check_says_beforehand_what_an_edit_does_to_the_state_that_is_there() {
    let directory = folder();
    append(directory.path(), &lines(0..4));
    let agent = Agent::start(directory.path(), &config(BEFORE));
    eventually("all of it is recorded", || (recorded(&agent) == 4).then_some(()));
    Agent::write_config(directory.path(), &config(AFTER));
    let check = |how: &[&str]| {
        let checked = run(directory.path(), &[&["check", "--config", "weir.toml"], how].concat(), b"");
        (checked.status.code(), String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr))
    };
    let expected = [
        "input tail keeps its state",
        "window kept keeps its state",
        "window changed starts anew: every, period",
        "alert added is new",
        "alert removed is dropped",
    ];
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let fits = |text: &str| expected.iter().all(|line| words(text).contains(line));
    let (code, text) = check(&["--against-running"]);
    assert!(code == Some(0) && fits(&text), "{text}");
    // Killed before any checkpoint, the journal alone knows.
    agent.kill();
    let (code, text) = check(&["--against", "state"]);
    assert!(code == Some(0) && fits(&text), "{text}");
    let (code, text) = check(&["--against-running"]);
    assert!(code == Some(1) && text.contains("no agent answers"), "{text}");
    let (code, text) = check(&["--against", "nowhere"]);
    assert!(code == Some(1) && text.contains("nowhere"), "{text}");
    // With the new one in force nothing is left to say.
    let agent = Agent::spawn_written(directory.path());
    agent.wait_ready();
    assert!(agent.terminate().success());
    let (code, text) = check(&["--against", "state"]);
    assert!(code == Some(0) && words(&text).contains("window changed keeps its state"), "{text}");
}

const RELOADS: usize = 30;

/// Lines of readings, not of windows, in the output.
fn arrived(path: &Path) -> u64 {
    output(path).matches("m,device").count() as u64
}

/// Open files and resident kibibytes of a process.
fn usage(pid: u32) -> (usize, u64) {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let resident = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|v| v.split_whitespace().next()?.parse().ok());
    (files, resident.unwrap_or(0))
}

#[test]
fn reloads_again_and_again_lose_nothing_and_leave_nothing_behind() {
    let window =
        "[[windows]]\nname = \"w\"\nevery = \"4s\"\nby = []\naggregates = [\"count\"]\nname_override = \"w\"\ndrop_original = false\n";
    let other =
        "lateness = \"1s\"\n[[alerts]]\nname = \"a\"\nwhen = \"v > 100000\"\n[[inputs.tail]]\nalias = \"second\"\nfiles = [\"none.lp\"]\n";
    let configs = [config(window), config(&format!("{window}{other}"))];
    let directory = folder();
    let path = directory.path();
    append(path, &lines(0..40));
    let agent = Agent::start(path, &configs[0]);
    let said = |what: &str| agent.log().matches(what).count();
    let (mut written, mut refused, mut first) = (40, 0, (0, 0));
    for reload in 1..=RELOADS {
        append(path, &lines(written..written + 40));
        written += 40;
        if reload % 5 == 0 {
            Agent::write_config(path, "[[windows]]\nname = 7\n");
            agent.signal("HUP");
            refused += 1;
            eventually("it is refused", || (said("new configuration refused") == refused).then_some(()));
        }
        Agent::write_config(path, &configs[reload % 2]);
        agent.signal("HUP");
        append(path, &lines(written..written + 40));
        written += 40;
        eventually(&format!("reload {reload}"), || (said("configuration read again") == reload).then_some(()));
        agent.wait_ready();
        eventually("the next generation runs", || (said("running directory=") > reload).then_some(()));
        if reload == 6 {
            // Whoever has delivered has opened its files, as all have at the end.
            eventually("what was written so far arrives", || (arrived(path) == written).then_some(()));
            first = usage(agent.pid());
        }
    }
    // Answers to earlier questions are still on their way on a busy machine.
    let last =
        eventually(&format!("as few open files as at first: {first:?}"), || Some(usage(agent.pid())).filter(|now| now.0 <= first.0 + 2));
    assert!(last.1 <= first.1 + 4 * 1024, "resident: {first:?}, then {last:?}");
    // Far ahead, of both devices: closes every window.
    append(path, &lines(written + 1000..written + 1002));
    let counted = || -> u64 {
        let count = |line: &str| line.split("v_count=").nth(1)?.split('i').next()?.parse::<u64>().ok();
        output(path).lines().filter(|l| l.starts_with("w ")).filter_map(count).sum()
    };
    eventually("every reading is recorded", || (recorded(&agent) == written + 2).then_some(()));
    let status = agent.status();
    assert_eq!(status["operators"][0]["applied"].as_u64(), Some(written + 2), "{status}");
    eventually("every reading is in a window", || (counted() >= written).then_some(()));
    assert_eq!(counted(), written, "once each");
    eventually("every reading arrived", || (arrived(path) == written + 2).then_some(()));
    let mut raw: Vec<String> = output(path).lines().filter(|l| l.starts_with("m,")).map(str::to_owned).collect();
    raw.sort_unstable();
    raw.dedup();
    assert_eq!((raw.len() as u64, arrived(path)), (written + 2, written + 2), "each once");
    let status = agent.status();
    assert_eq!(status["residues"].as_array().map(Vec::len), Some(0), "{status}");
    assert!(!agent.log().contains("ERROR") || said("ERROR") == refused, "{}", agent.log());
    assert!(agent.terminate().success());
}
