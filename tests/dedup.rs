//! `dedup`: what sources without positions send again is counted, not taken, and `kill -9` does not make the agent forget.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    net::{TcpStream, UdpSocket},
    path::Path,
};

use crate::support::{agent::Agent, eventually, free_port, whole_lines};

const POINTS: u64 = 500;
const KILLS: u64 = 4;

fn lines(source: &str, upto: u64) -> String {
    (0..upto).map(|n| format!("{source} n={n}i {}\n", 1_700_000_000_000_000_000 + n * 1_000_000)).collect()
}

fn config(http: u16, udp: u16) -> String {
    format!(
        r#"
[agent]
omit_hostname = true
flush_interval = "20ms"
[[inputs.influxdb_v2_listener]]
alias = "http"
service_address = "127.0.0.1:{http}"
dedup = {{ within = "1h" }}
[[inputs.socket_listener]]
alias = "udp"
service_address = "udp://127.0.0.1:{udp}"
dedup = {{ }}
[[inputs.file]]
alias = "file"
files = ["again.lp"]
interval = "50ms"
dedup = {{ within = "10m", entries_max = 5000 }}
[[outputs.file]]
files = ["out.lp"]
[storage]
commit_interval = "5ms"
"#
    )
}

fn post(port: u16, body: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "POST /api/v2/write?bucket=b HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len())
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

/// Sends datagrams one after the other: all at once would not fit into the socket's buffer.
fn send(agent: &Agent, socket: &UdpSocket, port: u16, upto: u64) {
    for datagram in lines("udp", upto).split_inclusive('\n').collect::<Vec<_>>().chunks(25) {
        let before = counts(agent, "udp")["read"];
        socket.send_to(datagram.concat().as_bytes(), ("127.0.0.1", port)).expect("sent");
        eventually("it is read", || (counts(agent, "udp")["read"] > before).then_some(()));
    }
}

/// Counts of an input by its name.
fn counts(agent: &Agent, input: &str) -> BTreeMap<String, u64> {
    let status = agent.status();
    let rows = status["inputs"].as_array().cloned().unwrap_or_default();
    let row = rows.into_iter().find(|row| row["name"] == input).unwrap_or_default();
    let numbers = row.as_object().into_iter().flatten().filter_map(|(name, value)| Some((name.clone(), value.as_u64()?)));
    numbers.collect()
}

fn arrived(path: &Path) -> BTreeMap<String, u64> {
    let text = whole_lines(&path.join("out.lp"));
    let mut times = BTreeMap::new();
    text.lines().filter(|l| !l.starts_with("weir_alert")).for_each(|line| *times.entry(line.to_owned()).or_default() += 1);
    times
}

#[test]
fn what_is_sent_again_after_kills_is_taken_once() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let (http, udp) = (free_port(), free_port());
    fs::write(path.join("again.lp"), lines("file", POINTS)).expect("written");
    let mut agent = Agent::start(path, &config(http, udp));
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for round in 1..=KILLS {
        let upto = POINTS * round / KILLS;
        // All of it again, and some more.
        assert_eq!(eventually("an answer", || post(http, &lines("http", upto))), 204);
        send(&agent, &socket, udp, upto);
        eventually("the file is read twice", || (counts(&agent, "file")["read"] >= round * POINTS * 2).then_some(()));
        agent.kill();
        agent = Agent::spawn_written(path);
        agent.wait_ready();
    }
    // What was read last may not have been durable: once more, with nobody to kill it.
    send(&agent, &socket, udp, POINTS);
    assert_eq!(post(http, &lines("http", POINTS)), Some(204));
    eventually("everything has arrived", || (arrived(path).len() as u64 >= 3 * POINTS).then_some(()));
    for (input, recorded) in [("http", POINTS), ("udp", POINTS), ("file", POINTS)] {
        let counts = counts(&agent, input);
        assert_eq!(counts["recorded"], recorded, "{input}: {counts:?}");
        assert_eq!(counts["duplicate"], counts["read"] - recorded, "{input}: {counts:?}");
        assert_eq!((counts["dedup_entries"], counts["dedup_forgotten"]), (recorded, 0), "{input}");
    }
    let http = counts(&agent, "http");
    let sent: u64 = (1..=KILLS).map(|round| POINTS * round / KILLS).sum();
    assert_eq!(http["read"], sent + POINTS, "each answer was durable");
    let status = agent.status();
    assert_eq!(status["residues"].as_array().map(Vec::len), Some(0), "the ledger balances: {status}");
    assert!(agent.terminate().success());
    let more: Vec<_> = arrived(path).into_iter().filter(|(_, times)| *times > 1).collect();
    assert!(more.is_empty(), "{more:?}");
}
