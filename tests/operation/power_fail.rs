//! "Commit and checkpoint now", by a signal and by the command: what was waiting for company is safe at once.

use std::{fs, path::Path, time::Duration};

use super::{folder, output, writes::post};
use crate::support::{
    agent::{Agent, run},
    eventually, free_port,
};

fn config(port: u16) -> String {
    // A reading waits half a minute for others, and results an hour for theirs.
    format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"1h\"\n[[inputs.influxdb_v2_listener]]\nservice_address = \"127.0.0.1:{port}\"\nwrite_timeout = \"60s\"\n[[outputs.file]]\nfiles = [\"out.lp\"]\n[storage]\ncommit_interval = \"30s\"\nfsyncs_per_minute_max = 1\n"
    )
}

/// Numbers of the checkpoints in the state directory.
fn checkpoints(path: &Path) -> Vec<u64> {
    let names = fs::read_dir(path.join("state")).expect("a state directory").filter_map(|e| e.ok()?.file_name().into_string().ok());
    let mut numbers: Vec<u64> = names.filter_map(|n| n.strip_prefix("checkpoint-")?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

fn recorded(agent: &Agent) -> u64 {
    agent.status()["inputs"][0]["recorded"].as_u64().unwrap_or_default()
}

#[test]
fn a_signal_or_the_command_commits_and_checkpoints_at_once() {
    let directory = folder();
    let path = directory.path();
    let port = free_port();
    let agent = Agent::start(path, &config(port));
    let mut made = checkpoints(path).last().copied().unwrap_or(0);
    for (number, by) in ["USR1", "command"].into_iter().enumerate() {
        let number = number as u64;
        let waits = std::thread::spawn(move || post(port, &format!("m n={number}i {}\n", 1_700_000_000_000_000_000 + number)));
        eventually("the reading is recorded", || (recorded(&agent) == number + 1).then_some(()));
        assert!(!waits.is_finished(), "it waits for company");
        if by == "USR1" {
            agent.signal("USR1");
        } else {
            let said = run(path, &["checkpoint", "--socket", "control.sock"], b"");
            let text = String::from_utf8_lossy(&said.stdout).into_owned();
            assert!(said.status.success() && text.starts_with("committed and checkpointed in "), "{said:?}");
        }
        let took = waits.join().expect("an answer");
        assert!(took < Duration::from_secs(20), "acknowledged before its time: {took:?}");
        eventually("a checkpoint", || checkpoints(path).last().filter(|n| **n > made).copied());
        made = checkpoints(path).last().copied().unwrap_or(0);
    }
    let said = |by: &str| {
        let by = format!("by=\"{by}\"");
        agent.log().lines().any(|l| l.contains("committed and checkpointed, as asked") && l.contains(&by) && l.contains("ms="))
    };
    assert!(said("command"), "{}", agent.log());
    // Nobody waits for the word on the signal.
    eventually("the log says it of the signal, too", || said("SIGUSR1").then_some(()));
    assert_eq!(agent.status()["store"]["checkpoints_asked"].as_u64(), Some(2));
    assert!(agent.get("/metrics").is_some_and(|(_, text)| text.contains("weir_store_checkpoints_asked_total 2")));
    assert_eq!(output(path), "", "nothing was delivered yet");
    agent.kill();
    // The checkpoint alone has it: the journal is gone.
    for entry in fs::read_dir(path.join("state")).expect("a state directory").flatten() {
        if entry.file_name().to_string_lossy().starts_with("journal-") {
            fs::remove_file(entry.path()).expect("removed");
        }
    }
    let agent = Agent::spawn_written(path);
    agent.wait_ready();
    assert!(agent.terminate().success());
    assert_eq!(output(path), "m n=0i 1700000000000000000\nm n=1i 1700000000000000001\n");
}

#[test]
fn a_checkpoint_that_is_asked_of_a_dead_disk_or_of_nobody_fails_with_the_reason() {
    let directory = folder();
    let path = directory.path();
    let said = run(path, &["checkpoint", "--socket", "control.sock"], b"");
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    let port = free_port();
    Agent::write_config(path, &config(port));
    // A forbidden write is told by a signal, too, and that must not end the agent.
    let agent = Agent::spawn_under(path, &["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
    agent.wait_ready();
    let limited = std::process::Command::new("prlimit").args(["--pid", &agent.pid().to_string(), "--fsize=0:"]).status();
    assert!(limited.expect("prlimit runs").success());
    let said = run(path, &["checkpoint", "--socket", "control.sock"], b"");
    assert_eq!(said.status.code(), Some(1), "{said:?}");
    assert!(String::from_utf8_lossy(&said.stderr).contains("no checkpoint by the agent"), "{said:?}");
    assert_eq!(agent.status()["store"]["checkpoints_asked_failed"].as_u64(), Some(1));
    agent.kill();
}
