//! An output that is alive and slower than the input: the input waits, and the disk stays out of it.

use std::{
    fs,
    io::{BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::folder;
use crate::support::{agent::Agent, eventually, http::next_body};

/// Lines that are there from the start.
const LINES: u64 = 200_000;

/// An HTTP server that takes its time for every request; counts the lines it has taken.
fn slow_server(pause: Duration) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    let port = listener.local_addr().expect("its address").port();
    let lines = Arc::<AtomicU64>::default();
    let taken = Arc::clone(&lines);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let taken = Arc::clone(&taken);
            std::thread::spawn(move || serve(BufReader::new(stream), pause, &taken));
        }
    });
    (port, lines)
}

fn serve(mut stream: BufReader<TcpStream>, pause: Duration, taken: &AtomicU64) {
    while let Some(body) = next_body(&mut stream) {
        // This is the slowness itself, not a wait for something.
        std::thread::park_timeout(pause);
        taken.fetch_add(body.iter().filter(|b| **b == b'\n').count() as u64, Ordering::Relaxed);
        if stream.get_mut().write_all(b"HTTP/1.1 204 No Content\r\n\r\n").is_err() {
            return;
        }
    }
}

#[test]
fn a_living_output_that_is_slower_than_a_file_holds_it_back_and_nothing_is_spilled() {
    let directory = folder();
    let (port, taken) = slow_server(Duration::from_millis(30));
    let lines: String = (0..LINES).map(|n| format!("seq n={n}i {}\n", 1_700_000_000_000_000_000 + n * 1_000_000)).collect();
    fs::write(directory.path().join("in.lp"), lines).expect("the followed file");
    let config = format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"50ms\"\n[[inputs.tail]]\nfiles = [\"in.lp\"]\nfrom_beginning = true\npath_tag = \"\"\n\
         [[outputs.http]]\nurl = \"http://127.0.0.1:{port}/\"\ndata_format = \"influx\"\n[limits]\nresults_waiting_bytes_max = \"2MiB\"\n"
    );
    let agent = Agent::start(directory.path(), &config);
    let mut held = false;
    eventually("everything has arrived", || {
        let status = agent.status();
        held |= status["store"]["held_back"] == 1;
        let read = status["inputs"][0]["recorded"].as_u64().unwrap_or(0);
        let ahead = read.saturating_sub(taken.load(Ordering::Relaxed));
        assert!(ahead < LINES / 2, "{ahead} lines ahead of the output");
        assert_eq!(status["store"]["outbox_bytes"], 0, "nothing is spilled: {status}");
        (taken.load(Ordering::Relaxed) >= LINES).then_some(())
    });
    assert!(held, "the status has said why");
    let status = agent.status();
    assert_eq!(status["residues"].as_array().map(Vec::len), Some(0), "{status}");
    assert!(agent.terminate().success());
}
