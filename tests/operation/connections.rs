//! More connections than there is room for: how often the log says so, and that nothing of those that wait is lost.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use super::{folder, output};
use crate::support::{
    agent::{Agent, run},
    eventually, free_port,
};

/// Connections to each listener that finds no room.
const CONNECTIONS: usize = 40;

fn config(tcp: u16, narrow: u16, http: u16) -> String {
    format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"50ms\"\n[[inputs.socket_listener]]\nalias = \"wide\"\nservice_address = \"tcp://127.0.0.1:{tcp}\"\ndata_format = \"influx\"\n[[inputs.socket_listener]]\nalias = \"narrow\"\nservice_address = \"tcp://127.0.0.1:{narrow}\"\nmax_connections = 1\ndata_format = \"influx\"\n[[inputs.influxdb_v2_listener]]\nalias = \"http\"\nservice_address = \"127.0.0.1:{http}\"\n[[outputs.file]]\nfiles = [\"out.lp\"]\n"
    )
}

/// The lines of the log that say this of an input.
fn said(agent: &Agent, input: &str, what: &str) -> Vec<String> {
    let of = format!("input={input} ");
    let log = agent.log();
    log.lines().filter(|line| line.contains(what) && line.contains(&of)).map(str::to_owned).collect()
}

/// When a line of the log was written, milliseconds of the day.
fn written_at(line: &str) -> u64 {
    let time = line.split_once('T').and_then(|(_, time)| time.get(..12)).unwrap_or_else(|| panic!("no time: {line}"));
    let part = |at: std::ops::Range<usize>| time[at].parse::<u64>().unwrap_or_else(|_| panic!("no time: {line}"));
    ((part(0..2) * 60 + part(3..5)) * 60 + part(6..8)) * 1000 + part(9..12)
}

/// What a process may have open; it goes on with what it has.
fn limit_descriptors(agent: &Agent, most: usize) {
    let pid = agent.pid().to_string();
    assert!(Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={most}:")]).status().expect("prlimit runs").success());
}

/// The lowest number that no open file has: the next one gets it.
fn next_descriptor(agent: &Agent) -> usize {
    let folder = format!("/proc/{}/fd", agent.pid());
    let open = fs::read_dir(folder).expect("its descriptors").filter_map(|fd| fd.ok()?.file_name().to_str()?.parse().ok());
    let open: BTreeSet<usize> = open.collect();
    (0..).find(|number| !open.contains(number)).expect("a free number")
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the listener's queue has room");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("an option");
    stream
}

fn is_closed(stream: &mut TcpStream) -> bool {
    stream.read(&mut [0]).is_ok_and(|len| len == 0)
}

/// Connections with a reading each that nobody has taken yet.
fn waiting(port: u16, request: impl Fn(usize) -> String) -> Vec<TcpStream> {
    let one = |number| {
        let mut stream = connect(port);
        stream.write_all(request(number).as_bytes()).expect("the system keeps it");
        stream
    };
    (0..CONNECTIONS).map(one).collect()
}

#[test]
fn neither_connections_nor_followed_files_take_the_stores_last_descriptors() {
    let directory = folder();
    let tcp = free_port();
    let many = directory.path().join("many");
    fs::create_dir(&many).expect("a directory");
    (0..200).for_each(|n| fs::write(many.join(format!("{n}.lp")), format!("many a={n} {n}\n")).expect("a file"));
    let config = format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"50ms\"\n[[inputs.socket_listener]]\nalias = \"wide\"\nservice_address = \"tcp://127.0.0.1:{tcp}\"\ndata_format = \"influx\"\n[[inputs.tail]]\nalias = \"tail\"\nfiles = [\"many/**.lp\"]\nfrom_beginning = true\n[[outputs.file]]\nfiles = [\"out.lp\"]\n"
    );
    Agent::write_config(directory.path(), &config);
    let agent = Agent::spawn_under(directory.path(), &["prlimit", "--nofile=128:128"]);
    agent.wait_ready();
    let mut early = connect(tcp);
    eventually("the log says that files are left out", || {
        (!said(&agent, "tail", "more files than can be followed").is_empty()).then_some(())
    });
    let idle: Vec<TcpStream> = (0..CONNECTIONS * 3).map(|_| connect(tcp)).collect();
    eventually("the log says that connections wait", || (!said(&agent, "wide", "cannot accept").is_empty()).then_some(()));
    early.write_all(b"early a=1 1700000000000000000\n").expect("written");
    eventually("a connection that was there is served", || output(directory.path()).contains("early a=1").then_some(()));
    // What a checkpoint opens.
    let asked = run(directory.path(), &["checkpoint", "--socket", "control.sock"], b"");
    assert!(asked.status.success(), "{} {}", String::from_utf8_lossy(&asked.stderr), agent.log());
    let said = said(&agent, "tail", "more files than can be followed");
    assert_eq!(said.len(), 1, "once, not for each file at each look: {said:?}");
    drop(idle);
    assert!(agent.terminate().success());
}

#[test]
fn connections_without_room_are_told_of_every_ten_seconds_and_served_when_there_is_some() {
    let directory = folder();
    let (tcp, narrow, http) = (free_port(), free_port(), free_port());
    let agent = Agent::start(directory.path(), &config(tcp, narrow, http));
    let mut early = connect(tcp);
    early.write_all(b"early a=1 1700000000000000000\n").expect("written");
    eventually("a connection with room is served", || output(directory.path()).contains("early a=1").then_some(()));

    // One has the only place.
    let held = connect(narrow);
    (1..20).for_each(|_| assert!(is_closed(&mut connect(narrow)), "there is no second place"));
    let refused = || said(&agent, "narrow", "too many");
    eventually("the log says so", || (!refused().is_empty()).then_some(()));

    // Room for two more.
    limit_descriptors(&agent, next_descriptor(&agent) + 2);
    let streams = waiting(tcp, |number| format!("tcp a={number} {}\n", 1_700_000_001_000_000_000 + number));
    let mut requests = waiting(http, |number| {
        let body = format!("http a={number} {}", 1_700_000_002_000_000_000 + number);
        format!("POST /api/v2/write?bucket=b HTTP/1.1\r\nhost: weir\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    });
    early.write_all(b"early a=2 1700000000000000001\n").expect("written");
    eventually("a connection that was there is served", || output(directory.path()).contains("early a=2").then_some(()));
    for input in ["wide", "http"] {
        let lines = eventually("the log says it again", || Some(said(&agent, input, "cannot accept")).filter(|lines| lines.len() > 1));
        let apart = (written_at(&lines[1]) + 86_400_000 - written_at(&lines[0])) % 86_400_000;
        // The log's clock is another than the one that was waited by.
        assert!((9_900..20_000).contains(&apart), "{lines:?}");
        assert!(lines[0].contains("os error 24"), "{lines:?}");
    }

    limit_descriptors(&agent, 1000);
    for request in &mut requests {
        let mut answer = String::new();
        request.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    }
    let arrived = |series: &str| output(directory.path()).lines().filter(|line| line.starts_with(series)).count();
    eventually("what waited is served", || (arrived("tcp ") >= CONNECTIONS && arrived("http ") >= CONNECTIONS).then_some(()));
    drop(streams);
    assert!(is_closed(&mut connect(narrow)), "there is no second place");
    let refused = eventually("the log says it again", || Some(refused()).filter(|lines| lines.len() > 1));
    assert!(refused.len() == 2 && refused[0].ends_with("refused=1") && refused[1].ends_with("refused=19"), "{refused:?}");
    drop(held);
    eventually("the place is free again", || {
        let mut stream = TcpStream::connect(("127.0.0.1", narrow)).ok()?;
        stream.write_all(b"narrow a=1 1700000003000000000\n").ok()?;
        drop(stream);
        output(directory.path()).contains("narrow a=1").then_some(())
    });
    assert!(agent.terminate().success());
    assert_eq!((arrived("tcp "), arrived("http "), arrived("early ")), (CONNECTIONS, CONNECTIONS, 2), "each once");
}
