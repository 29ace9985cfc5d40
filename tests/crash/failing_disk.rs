//! A disk that takes nothing more under a running agent: with `stall` nothing is acknowledged any more and nothing is lost, with `continue`
//! delivery goes on from memory.
//!
//! A file system can't be made read-only while files on it are open for writing, so the process is forbidden to write instead: from then on
//! every write to any file fails for it, as on a card that has died.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufReader, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
};

use crate::support::{agent::Agent, eventually, http::next_body};

/// An HTTP server that takes everything and keeps the numbers it was sent.
struct Taker {
    port: u16,
    numbers: Arc<Mutex<BTreeSet<u64>>>,
}

impl Taker {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let port = listener.local_addr().expect("its address").port();
        let numbers = Arc::<Mutex<BTreeSet<u64>>>::default();
        let kept = Arc::clone(&numbers);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || take(BufReader::new(stream), &kept));
            }
        });
        Self { port, numbers }
    }

    fn wait_for(&self, agent: &Agent, upto: u64) {
        eventually(&format!("everything up to {upto} has arrived: {}\n{}", agent.status(), agent.log()), || {
            let numbers = self.numbers.lock().expect("not poisoned");
            numbers.iter().copied().eq(0..upto).then_some(())
        });
    }

    fn newest(&self) -> Option<u64> {
        self.numbers.lock().expect("not poisoned").last().copied()
    }
}

fn take(mut stream: BufReader<TcpStream>, kept: &Mutex<BTreeSet<u64>>) {
    while let Some(body) = next_body(&mut stream) {
        let text = String::from_utf8(body).expect("lines of text");
        kept.lock().expect("not poisoned").extend(text.lines().filter_map(number));
        if stream.get_mut().write_all(b"HTTP/1.1 204 No Content\r\n\r\n").is_err() {
            return;
        }
    }
}

fn number(line: &str) -> Option<u64> {
    line.split_once(" n=")?.1.split_once('i')?.0.parse().ok()
}

fn config(taker: &Taker, on_failure: &str) -> String {
    let port = taker.port;
    format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"50ms\"\n[[inputs.tail]]\nfiles = [\"in.lp\"]\nfrom_beginning = true\npath_tag = \"\"\ndata_format = \"influx\"\n[[outputs.http]]\nurl = \"http://127.0.0.1:{port}/\"\ndata_format = \"influx\"\n[storage]\ncommit_interval = \"30ms\"\non_storage_failure = \"{on_failure}\"\n"
    )
}

fn feed(path: &Path, from: u64, to: u64) {
    let lines: String = (from..to).map(|n| format!("seq n={n}i {}\n", 1_700_000_000_000_000_000 + n * 1_000_000)).collect();
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path.join("in.lp")).expect("the followed file");
    file.write_all(lines.as_bytes()).expect("appended");
}

/// The agent with a hundred readings delivered, and then without a disk.
fn without_a_disk(path: &Path, taker: &Taker, on_failure: &str) -> Agent {
    feed(path, 0, 100);
    Agent::write_config(path, &config(taker, on_failure));
    // The system tells of the forbidden write by a signal, too, and that must not end the agent.
    let agent = Agent::spawn_under(path, &["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""]);
    taker.wait_for(&agent, 100);
    let pid = agent.pid().to_string();
    let limited = Command::new("prlimit").args(["--pid", &pid, "--fsize=0:"]).status().expect("prlimit runs");
    assert!(limited.success(), "the process can be forbidden to write");
    feed(path, 100, 200);
    eventually("it knows that storage failed", || agent.status()["storage_failed"].as_str().map(str::to_owned));
    agent
}

#[test]
fn with_stall_nothing_is_taken_any_more_and_nothing_is_lost() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (path, taker) = (directory.path(), Taker::start());
    let agent = without_a_disk(path, &taker, "stall");
    assert_eq!(taker.newest(), Some(99), "what is not on disk does not leave");
    feed(path, 200, 300);
    assert_eq!(agent.get("/health").map(|(code, _)| code), Some(503));
    agent.kill();
    assert_eq!(taker.newest(), Some(99));
    let agent = Agent::spawn_written(path);
    taker.wait_for(&agent, 300);
    assert!(agent.terminate().success());
}

#[test]
fn with_continue_delivery_goes_on_from_memory_and_nothing_is_lost_either() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (path, taker) = (directory.path(), Taker::start());
    let agent = without_a_disk(path, &taker, "continue");
    taker.wait_for(&agent, 200);
    feed(path, 200, 300);
    taker.wait_for(&agent, 300);
    let status = agent.status();
    assert_eq!(status["residues"].as_array().map(Vec::len), Some(0), "the ledger balances: {status}");
    agent.kill();
    // What the disk does not know of is read and sent once more: a followed file can be.
    feed(path, 300, 400);
    let agent = Agent::spawn_written(path);
    taker.wait_for(&agent, 400);
    assert!(agent.terminate().success());
}
