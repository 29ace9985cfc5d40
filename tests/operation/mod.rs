//! Running it: signals, reload, status, what is refused at start.

mod bounds;
mod connections;
mod delivery;
mod overload;
mod power_fail;
mod reload;
mod watchdog;
mod writes;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
};

use crate::support::{
    agent::{Agent, run},
    eventually, free_port, whole_lines,
};

const FOLLOW: &str = "[agent]\nomit_hostname = true\nflush_interval = \"50ms\"\n[[inputs.tail]]\nfiles = [\"in.lp\"]\nfrom_beginning = true\npath_tag = \"\"\n[[outputs.file]]\nfiles = [\"out.lp\"]\n";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn append(directory: &std::path::Path, text: &str) {
    let mut file = fs::OpenOptions::new().create(true).append(true).open(directory.join("in.lp")).expect("the followed file");
    file.write_all(text.as_bytes()).expect("appended");
}

fn output(directory: &std::path::Path) -> String {
    whole_lines(&directory.join("out.lp"))
}

#[test]
fn sigterm_stops_in_order_and_open_windows_survive_it() {
    let directory = folder();
    let config = format!("{FOLLOW}[[windows]]\nname = \"w\"\nevery = \"10s\"\naggregates = [\"count\"]\n");
    append(directory.path(), "m a=1 1700000001000000000\nm a=1 1700000002000000000\n");
    let agent = Agent::start(directory.path(), &config);
    eventually("both readings are recorded", || (agent.status()["inputs"][0]["recorded"] == 2).then_some(()));
    assert!(agent.terminate().success());
    assert_eq!(output(directory.path()), "", "the window is still open");
    append(directory.path(), "m a=1 1700000003000000000\nm a=1 1700000030000000000\n");
    let agent = Agent::spawn_written(directory.path());
    eventually("the window closes with what came before and after the stop", || {
        (output(directory.path()) == "m a_count=3i 1700000000000000000\n").then_some(())
    });
    assert!(agent.terminate().success());
}

#[test]
fn an_alert_without_actions_is_a_point_and_a_line_in_the_log() {
    let directory = folder();
    let config = format!("{FOLLOW}[[alerts]]\nname = \"hot\"\nwhen = \"a > 80\"\nby = [\"device\"]\n");
    append(directory.path(), "m,device=boiler a=81 1700000001000000000\nm,device=boiler a=1 1700000002000000000\n");
    let agent = Agent::start(directory.path(), &config);
    let lines = || agent.log().lines().filter(|line| line.contains("alert=hot")).map(str::to_owned).collect::<Vec<_>>();
    let lines = eventually("both transitions are in the log", || Some(lines()).filter(|lines| lines.len() == 2));
    assert!(lines[0].contains("state=firing") && lines[0].contains("device=boiler") && lines[1].contains("state=resolved"), "{lines:?}");
    let points = || output(directory.path()).lines().filter(|line| line.starts_with("weir_alert,alert=hot,device=boiler")).count();
    eventually("both are points", || (points() == 2).then_some(()));
    assert!(agent.terminate().success());
}

#[test]
fn sighup_takes_a_new_configuration_and_refuses_a_broken_one() {
    let directory = folder();
    append(directory.path(), "m a=1 1700000001000000000\n");
    let agent = Agent::start(directory.path(), FOLLOW);
    eventually("the first line", || output(directory.path()).contains("m a=1").then_some(()));

    Agent::write_config(directory.path(), "[[inputs.tail]]\nfiels = [\"in.lp\"]\n");
    agent.signal("HUP");
    eventually("it says why not", || agent.log().contains("did you mean `files`").then_some(()));
    append(directory.path(), "m a=2 1700000002000000000\n");
    eventually("the old configuration goes on", || output(directory.path()).contains("m a=2").then_some(()));

    Agent::write_config(
        directory.path(),
        &FOLLOW
            .replace("omit_hostname = true", "omit_hostname = true\n")
            .replace("[[outputs.file]]", "[global_tags]\nsite = \"x\"\n[[outputs.file]]"),
    );
    agent.signal("HUP");
    eventually("the new one is in force", || agent.log().contains("configuration read again").then_some(()));
    append(directory.path(), "m a=3 1700000003000000000\n");
    eventually("with its tag", || output(directory.path()).contains("m,site=x a=3").then_some(()));
    assert_eq!(output(directory.path()).lines().count(), 3, "nothing twice");
    assert!(agent.terminate().success());
}

#[test]
fn a_reload_into_a_state_directory_that_cannot_be_opened_is_refused_and_the_old_agent_goes_on() {
    let directory = folder();
    let path = directory.path();
    append(path, "m a=1 1700000001000000000\n");
    let agent = Agent::start(path, FOLLOW);
    fs::write(path.join("file"), "").expect("a file where a directory should be");
    let config = fs::read_to_string(path.join("weir.toml")).expect("a configuration");
    let elsewhere = config.replace(&format!("{:?}", path.join("state")), &format!("{:?}", path.join("file/state")));
    assert_ne!(config, elsewhere);
    fs::write(path.join("weir.toml"), elsewhere).expect("written");
    agent.signal("HUP");
    eventually("it is refused", || agent.log().contains("new configuration refused").then_some(()));
    assert!(agent.log().contains("file/state"), "{}", agent.log());
    append(path, "m a=2 1700000002000000000\n");
    eventually("the old one goes on", || output(path).contains("a=2").then_some(()));
    // By another name it is the same directory still.
    std::os::unix::fs::symlink(path.join("state"), path.join("link")).expect("a link");
    fs::write(path.join("weir.toml"), config.replace(&format!("{:?}", path.join("state")), &format!("{:?}", path.join("link"))))
        .expect("written");
    agent.signal("HUP");
    eventually("the next generation runs", || (agent.log().matches("running directory=").count() == 2).then_some(()));
    append(path, "m a=3 1700000003000000000\n");
    eventually("it goes on where the old one was", || output(path).contains("a=3").then_some(()));
    assert_eq!(output(path).lines().count(), 3, "{}", output(path));
    assert!(agent.terminate().success());
}

#[test]
fn what_is_asked_for_during_a_reload_is_not_forgotten() {
    let directory = folder();
    let path = directory.path();
    // It takes connections and says nothing, so that the agent that gives way waits for it.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("its address");
    let output = format!("[[outputs.http]]\nurl = \"http://{address}/\"\ndata_format = \"influx\"\n");
    append(path, "m a=1 1700000001000000000\n");
    let agent = Agent::start(path, &format!("{FOLLOW}{output}"));
    let reloads = |agent: &Agent| agent.log().matches("configuration read again").count();
    let begun = |agent: &Agent, generation| (agent.log().matches("running directory=").count() == generation).then_some(());
    eventually("a write is under way", || (agent.status()["outputs"][1]["in_flight"] == 1).then_some(()));
    agent.signal("HUP");
    eventually("it is read again", || (reloads(&agent) == 1).then_some(()));
    assert!(begun(&agent, 1).is_some(), "the old one has not given way yet");
    agent.signal("HUP");
    eventually("it is read once more", || (reloads(&agent) == 2).then_some(()));
    assert!(begun(&agent, 2).is_some());
    agent.signal("TERM");
    assert!(agent.end().success());
}

#[test]
fn a_reload_keeps_its_status_addresses_from_whoever_holds_on_to_them() {
    let directory = folder();
    let port = free_port();
    let config = format!("{FOLLOW}[status]\nlisten = \"127.0.0.1:{port}\"\n");
    let agent = Agent::start(directory.path(), &config);
    let metrics = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: weir\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.starts_with("HTTP/1.1 200").then_some(())
    };
    eventually("metrics", metrics);
    // Connections that never finish their request.
    let mut control = UnixStream::connect(directory.path().join("control.sock")).expect("the control socket");
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).expect("the status port");
    control.write_all(b"GET /sta").and_then(|()| tcp.write_all(b"GET /met")).expect("half a request");

    for round in 1..=3 {
        agent.signal("HUP");
        eventually("the next one runs", || (agent.log().matches(" running ").count() > round).then_some(()));
        eventually("metrics", metrics);
        agent.status();
    }
    assert!(!agent.log().contains("no control socket") && !agent.log().contains("can't listen"), "{}", agent.log());
    assert!(agent.terminate().success());
    assert!(!directory.path().join("control.sock").exists(), "nothing is left behind");
}

#[test]
fn an_input_whose_source_is_away_says_so_until_it_is_back() {
    let directory = folder();
    let path = directory.path();
    let config = "[agent]\ninterval = \"100ms\"\n[[inputs.w1]]\nroot = \"sys\"\n[[inputs.serial]]\nport = \"ttyUSB0\"\ndata_format = \"influx\"\n[[outputs.file]]\nfiles = [\"out.lp\"]\n";
    let agent = Agent::start(path, config);
    let input = |index: usize, what: &str| agent.status()["inputs"][index][what].as_u64();
    eventually("both fail again and again", || {
        (0..2).all(|i| input(i, "failing") == Some(1) && input(i, "failures") > Some(2)).then_some(())
    });
    let said = run(path, &["status", "--socket", "control.sock"], b"");
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert_eq!(text.lines().filter(|line| line.starts_with("input ") && line.contains("failing 1")).count(), 2, "{text}");
    fs::create_dir_all(path.join("sys/bus/w1/devices")).expect("a bus");
    eventually("the one works", || (input(0, "failing") == Some(0)).then_some(()));
    assert_eq!(input(1, "failing"), Some(1));
    let (_, metrics) = agent.get("/metrics").expect("metrics");
    assert!(
        metrics.contains("weir_input_failing{input=\"w1\"} 0") && metrics.contains("weir_input_failing{input=\"serial\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("# TYPE weir_input_failures_total counter"), "{metrics}");
}

#[test]
fn status_health_and_metrics_answer_on_the_control_socket() {
    let directory = folder();
    append(directory.path(), "m a=1 1700000001000000000\nnonsense\n");
    let agent = Agent::start(directory.path(), FOLLOW);
    eventually("delivered", || (agent.status()["outputs"][0]["delivered"] == 1).then_some(()));
    assert_eq!(agent.get("/health").map(|(code, _)| code), Some(200));
    let (_, metrics) = agent.get("/metrics").expect("metrics");
    assert!(metrics.contains("weir_input_read_total{input=\"tail\"} 2"), "{metrics}");
    assert!(metrics.contains("weir_input_refused_parse_total{input=\"tail\"} 1"), "{metrics}");
    let shown = run(directory.path(), &["status", "--socket", "control.sock"], b"");
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.status.success() && text.contains("tail") && text.contains("file"), "{text}");
    assert!(agent.terminate().success());
    let gone = run(directory.path(), &["status", "--socket", "control.sock"], b"");
    assert_eq!(gone.status.code(), Some(1));
}

#[test]
fn two_agents_on_one_directory_are_refused() {
    let directory = folder();
    append(directory.path(), "");
    let agent = Agent::start(directory.path(), FOLLOW);
    let second = run(directory.path(), &["run", "--config", "weir.toml"], b"");
    let text = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{text}");
    assert!(text.contains("state"), "it names the directory: {text}");
    assert!(agent.terminate().success());
}

#[test]
fn an_unwritable_state_directory_is_refused_by_name() {
    let directory = folder();
    fs::write(directory.path().join("in.lp"), "").expect("written");
    fs::write(directory.path().join("state"), "a file where a directory should be").expect("written");
    Agent::write_config(directory.path(), FOLLOW);
    let refused = run(directory.path(), &["run", "--config", "weir.toml"], b"");
    let text = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{text}");
    assert!(text.contains("state"), "{text}");
}

#[test]
fn once_with_an_endless_input_is_refused() {
    let directory = folder();
    Agent::write_config(directory.path(), FOLLOW);
    let refused = run(directory.path(), &["run", "--once", "--config", "weir.toml"], b"");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("tail"));
}

/// The file that says which machine the state is of can't be read. An agent in a container knows of no machine, so this stands for a copied card.
#[test]
fn a_state_that_may_be_another_machines_goes_on_under_a_new_id_and_status_says_so() {
    let directory = folder();
    let config = format!("{FOLLOW}[[windows]]\nname = \"w\"\nevery = \"10s\"\naggregates = [\"count\"]\n");
    append(directory.path(), "m a=1 1700000001000000000\n");
    let agent = Agent::start(directory.path(), &config);
    eventually("a reading is recorded", || (agent.status()["inputs"][0]["recorded"] == 1).then_some(()));
    let first = agent.status();
    assert!(first["earlier"].is_null() && first["agent"].as_str().is_some_and(|id| id.len() == 16), "{first}");
    assert!(agent.terminate().success());

    let file = directory.path().join("state/machine");
    let text = fs::read_to_string(&file).expect("written at the first start");
    fs::write(&file, &text[..text.len() / 2]).expect("cut");
    append(directory.path(), "m a=1 1700000002000000000\nm a=1 1700000030000000000\n");
    let agent = Agent::spawn_written(directory.path());
    let second = agent.status();
    assert_eq!(second["earlier"][0], first["agent"], "{second}");
    assert_ne!(second["agent"], first["agent"]);
    eventually("the window has what came before", || (output(directory.path()) == "m a_count=2i 1700000000000000000\n").then_some(()));
    assert!(agent.terminate().success());
    let agent = Agent::spawn_written(directory.path());
    assert_eq!(agent.status()["agent"], second["agent"], "once");
    assert!(agent.terminate().success());
}

#[test]
fn a_file_that_cannot_be_followed_is_told_of_once_and_the_others_are_read() {
    let directory = folder();
    let path = directory.path();
    // A regular file that root can only write to, too.
    std::os::unix::fs::symlink("/sys/bus/platform/drivers_probe", path.join("bad.lp")).expect("a link");
    append(path, "m v=0 1\n");
    let config = "[agent]\nomit_hostname = true\nflush_interval = \"50ms\"\n[[inputs.tail]]\nfiles = [\"bad.lp\", \"in.*\"]\nfrom_beginning = true\npath_tag = \"\"\n[[outputs.file]]\nfiles = [\"out.txt\"]\n[storage]\ncommit_interval = \"20ms\"\n";
    let agent = Agent::start(path, config);
    for n in 1..6 {
        // Each line takes another look at all of them.
        append(path, &format!("m v={n} {}\n", n + 1));
        let last = format!("v={n} {}\n", n + 1);
        eventually("the line arrives", || std::fs::read_to_string(path.join("out.txt")).unwrap_or_default().ends_with(&last).then_some(()));
    }
    let log = agent.log();
    assert!(agent.terminate().success());
    assert_eq!(log.matches("can't follow a file").count(), 1, "{log}");
}
