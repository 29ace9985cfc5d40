//! What each durability mode loses, counted: numbered readings, each acknowledged by a 204, while nobody takes the results, so that all of
//! them depend on the store; the agent is cut, started again with somebody to take them, and what was acknowledged and never arrives is lost.
//!
//! A killed process is SIGKILL. A power cut is ext4's own emergency stop (`EXT4_IOC_SHUTDOWN` without flushing its log) on a loop device: from
//! that moment on nothing reaches the device, and what the page cache still had is gone; the device is then mounted anew. What a card has
//! taken and not yet put away is not lost in this, as the file behind the device has no such memory.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{card::Card, folder, free_port, process::Watched};
use crate::support::{eventually, http::next_body};

/// The emergency stop without flushing, by a program that every Debian has; `_IOR('X', 125, __u32)`, flag 2 of ext4.h.
const SHUTDOWN: &str = "open(F, '<', $ARGV[0]) or die; my $flag = pack('L', 2); ioctl(F, 0x8004587D, $flag) or die \"$!\"";
/// Between readings.
const PACE: Duration = Duration::from_millis(5);

/// How the agent is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Kill,
    Power,
}

/// What one cut cost.
#[derive(Clone, Copy, Debug, Default)]
struct Loss {
    acknowledged: usize,
    readings: usize,
    /// From the acknowledgement of the first lost one to the cut.
    span: Duration,
}

/// All modes and cuts, `cuts` of each, at random moments of the first `longest`.
pub fn loss(cuts: u64, longest: Duration, sync_interval: Duration) {
    for mode in ["power", "crash", "none"] {
        for cut in [Cut::Kill, Cut::Power] {
            let losses: Result<Vec<Loss>, String> = (0..cuts).map(|n| once(mode, cut, moment(n, longest), sync_interval)).collect();
            let losses = match losses {
                Ok(losses) => losses,
                Err(reason) => {
                    println!("loss, {mode}, {cut:?}: not measured, it needs root and loop devices ({reason})");
                    continue;
                }
            };
            let most = losses.iter().map(|l| l.readings).max().unwrap_or_default();
            let span = losses.iter().map(|l| l.span).max().unwrap_or_default();
            let acknowledged: usize = losses.iter().map(|l| l.acknowledged).sum();
            let all: usize = losses.iter().map(|l| l.readings).sum();
            println!(
                "loss, {mode}, {}: {all} of {acknowledged} acknowledged readings in {cuts} cuts, at most {most} and {:.2} s of them (commit_interval 200 ms, sync_interval {sync_interval:?}, cuts within {longest:?})",
                if cut == Cut::Kill { "kill -9" } else { "power cut" },
                span.as_secs_f64()
            );
            let safe = mode == "power" || mode == "crash" && cut == Cut::Kill;
            assert!(!safe || all == 0, "this mode loses nothing at such a cut: {losses:?}");
            assert!(mode != "crash" || span <= sync_interval + Duration::from_secs(2), "no more than the interval: {losses:?}");
        }
    }
}

/// Moments spread over the time like random ones, and the same in each run.
fn moment(n: u64, longest: Duration) -> Duration {
    let mixed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11;
    longest / 5 + longest.mul_f64(0.8 * mixed as f64 / (1u64 << 53) as f64)
}

fn config(card: &Card, directory: &Path, mode: &str, sync_interval: Duration, (port, far): (u16, u16)) {
    let config = format!(
        "[agent]\nflush_interval = \"20ms\"\nomit_hostname = true\n[[inputs.influxdb_v2_listener]]\nservice_address = \"127.0.0.1:{port}\"\n[[outputs.http]]\nurl = \"http://127.0.0.1:{far}/write\"\ndata_format = \"influx\"\n[storage]\ndirectory = {:?}\ndurability = \"{mode}\"\nsync_interval = \"{}ms\"\n[status]\nsocket = {:?}\n",
        card.mount.join("state"),
        sync_interval.as_millis(),
        directory.join("control.sock")
    );
    fs::write(directory.join("weir.toml"), config).expect("the configuration is written");
}

fn once(mode: &str, cut: Cut, at: Duration, sync_interval: Duration) -> Result<Loss, String> {
    let (card, directory) = (Card::new("noatime")?, folder());
    let (port, far) = (free_port(), free_port());
    config(&card, directory.path(), mode, sync_interval, (port, far));
    let mut agent = Watched::start(directory.path(), &[]);
    agent.wait_listening(port);
    // A store has been made long before a cut.
    card.settle();
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let posters: Vec<_> = (0..8)
        .map(|worker| {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            std::thread::spawn(move || post(port, worker, &stop, &acknowledged))
        })
        .collect();
    std::thread::park_timeout(at);
    let cut_at = Instant::now();
    if cut == Cut::Power {
        card.cut()?;
    }
    agent.kill();
    stop.store(true, Ordering::Relaxed);
    for poster in posters {
        poster.join().map_err(|_| "a poster failed")?;
    }
    let card = if cut == Cut::Power { card.again()? } else { card };
    let acknowledged: Vec<(u64, Instant)> = std::mem::take(&mut *acknowledged.lock().expect("not poisoned"));
    // What was answered after the cut was promised before it.
    let arrived = taken(&card, directory.path(), mode, sync_interval, (port, far));
    let lost: Vec<&(u64, Instant)> = acknowledged.iter().filter(|(n, _)| !arrived.contains(n)).collect();
    let first = lost.iter().map(|(_, at)| *at).min();
    let span = first.map_or(Duration::ZERO, |at| cut_at.saturating_duration_since(at));
    Ok(Loss { acknowledged: acknowledged.len(), readings: lost.len(), span })
}

/// Posts readings one after the other and notes when each was acknowledged, until the agent is gone.
fn post(port: u16, worker: u64, stop: &AtomicBool, acknowledged: &Mutex<Vec<(u64, Instant)>>) {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return };
    let mut n = worker << 32;
    while !stop.load(Ordering::Relaxed) {
        let body = format!("seq,worker=w{worker} n={n}i {}\n", 1_700_000_000_000_000_000 + n);
        let request = format!("POST /api/v2/write?bucket=b HTTP/1.1\r\nhost: weir\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let mut answer = [0; 512];
        let read = stream.write_all(request.as_bytes()).and_then(|()| stream.read(&mut answer));
        if !read.is_ok_and(|read| answer[..read].starts_with(b"HTTP/1.1 204")) {
            return;
        }
        acknowledged.lock().expect("not poisoned").push((n, Instant::now()));
        n += 1;
        std::thread::park_timeout(PACE);
    }
}

/// Starts the agent on what is left, takes everything it has, and returns the numbers.
fn taken(card: &Card, directory: &Path, mode: &str, sync_interval: Duration, (port, far): (u16, u16)) -> BTreeSet<u64> {
    let listener = TcpListener::bind(("127.0.0.1", far)).expect("the far side comes up");
    let (numbers, over) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(AtomicBool::new(false)));
    let (all, end) = (Arc::clone(&numbers), Arc::clone(&over));
    let server = std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            if end.load(Ordering::Relaxed) {
                return;
            }
            let all = Arc::clone(&all);
            std::thread::spawn(move || serve(stream, &all));
        }
    });
    config(card, directory, mode, sync_interval, (port, far));
    let agent = Watched::start(directory, &[]);
    agent.wait_ready();
    eventually("everything that is left has arrived", || {
        let output = super::card::status(directory)["outputs"][0].clone();
        let of = |name: &str| output[name].as_u64();
        (of("waiting_memory")? + of("waiting_disk")? + of("in_flight")? == 0).then_some(())
    });
    drop(agent);
    over.store(true, Ordering::Relaxed);
    let _ = TcpStream::connect(("127.0.0.1", far));
    server.join().expect("the far side ends");
    std::mem::take(&mut *numbers.lock().expect("not poisoned"))
}

fn serve(stream: TcpStream, numbers: &Mutex<BTreeSet<u64>>) {
    let mut stream = BufReader::new(stream);
    while let Some(body) = next_body(&mut stream) {
        let text = String::from_utf8_lossy(&body).into_owned();
        let found = text.lines().filter_map(|l| l.split_once(" n=")?.1.split('i').next()?.parse::<u64>().ok());
        numbers.lock().expect("not poisoned").extend(found);
        if stream.get_mut().write_all(b"HTTP/1.1 204 No Content\r\n\r\n").is_err() {
            return;
        }
    }
}

impl Card {
    /// From now on nothing reaches the device.
    fn cut(&self) -> Result<(), String> {
        let output = Command::new("perl").args(["-e", SHUTDOWN]).arg(&self.mount).output().map_err(|e| e.to_string())?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }
}
