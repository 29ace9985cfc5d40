//! What a gateway writes to its card in a day: 200 points every 10 s, into minute windows, in bytes of the block device.
//!
//! The card is a loop device with ext4 on it, and the kernel's statistics of that device are the figures. A day can't be waited for, so
//! the 8640 rounds follow one another, each posted when the one before it is on the disk: as many commits and records as in a day, with
//! event times ten seconds apart. What time itself does is put back: ext4 commits its own journal five seconds after a change of a file's
//! times, so that on a real gateway each round has a commit of its own there; a day is therefore run twice, as it comes and with `syncfs`
//! after each round, which is the most the file system can make of it. A piece in real time stands beside them.
//!
//! Not in it: what else a system writes (logs), what a card's controller makes of a page (its own write amplification), and a power supply
//! that fails.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use super::{folder, free_port, http::Sink, process::Watched};

/// Rounds of a day.
const ROUNDS: u64 = 8640;
/// Devices, each with a point in a round.
const DEVICES: u64 = 200;
/// Nanoseconds between rounds.
const ROUND: u64 = 10_000_000_000;
/// What a 32 GB card may have written to it: nobody states it for consumer cards, 300 times its size is an assumption.
const CARD_BYTES: f64 = 32e9 * 300.0;

/// A mounted ext4 on a loop device, unmounted when dropped.
pub struct Card {
    device: String,
    /// Where it is mounted.
    pub mount: PathBuf,
    options: String,
    _folder: tempfile::TempDir,
}

/// What the device was asked for so far.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    bytes: u64,
    flushes: u64,
}

impl Card {
    /// A fresh one, or why there is none.
    pub fn new(options: &str) -> Result<Self, String> {
        // In memory where there is room: what is counted is what the device is asked for, not how fast it is.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).map_err(|e| e.to_string())?;
        let image = folder.path().join("card.img");
        let file = fs::File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(4 << 30).map_err(|e| e.to_string())?;
        let device = run("losetup", &["--find", "--show", &image.display().to_string()])?.trim().to_owned();
        let mount = folder.path().join("mount");
        let made = fs::create_dir(&mount).map_err(|e| e.to_string());
        // Nothing is left to be initialised in the background, where it would be counted.
        let made = made.and_then(|()| run("mkfs.ext4", &["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", &device]));
        let made = made.and_then(|_| run("mount", &["-o", options, &device, &mount.display().to_string()]));
        let card = Self { device, mount, options: options.to_owned(), _folder: folder };
        made.map(|_| card)
    }

    fn asked(&self) -> Asked {
        let name = self.device.trim_start_matches("/dev/");
        let stat = fs::read_to_string(format!("/sys/block/{name}/stat")).expect("statistics of the device");
        // Of the kernel's block/stat: sectors of 512 bytes written are the seventh number, flushes the sixteenth.
        let numbers: Vec<u64> = stat.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        Asked { bytes: numbers[6] * 512, flushes: numbers[15] }
    }

    /// The file system brings everything to the device, its journal and times included.
    pub fn settle(&self) {
        let directory = fs::File::open(&self.mount).expect("the mount");
        rustix::fs::syncfs(directory.as_fd()).expect("syncfs");
    }
}

impl Card {
    /// Unmounted, and mounted anew from what the device has.
    pub fn again(self) -> Result<Self, String> {
        let mount = self.mount.display().to_string();
        run("umount", &[&mount])?;
        run("mount", &["-o", &self.options, &self.device, &mount])?;
        Ok(self)
    }
}

/// What the agent in `directory` says of itself.
pub fn status(directory: &Path) -> serde_json::Value {
    let mut answer = String::new();
    let read = UnixStream::connect(directory.join("control.sock")).and_then(|mut stream| {
        stream.write_all(b"GET /status HTTP/1.1\r\nhost: weir\r\nconnection: close\r\n\r\n")?;
        stream.read_to_string(&mut answer)
    });
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    if read.is_ok() { serde_json::from_str(body).unwrap_or_default() } else { serde_json::Value::Null }
}

impl Drop for Card {
    fn drop(&mut self) {
        let _ = run("umount", &[&self.mount.display().to_string()]);
        let _ = run("losetup", &["--detach", &self.device]);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// A connection that posts a round and waits for the 204, which comes when the round is on the disk.
struct Poster {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
    body: String,
}

impl Poster {
    fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("the agent listens");
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        Self { stream, reader, body: String::new() }
    }

    fn post(&mut self, round: u64, devices: u64) {
        self.body.clear();
        for device in 0..devices {
            // Temperatures that drift and flicker as such do, to a tenth of a degree.
            let mixed = (round * DEVICES + device).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61;
            let tenths = 180 + device % 50 + (round / 90 + device) % 30 + mixed;
            let time = 1_700_000_000_000_000_000 + round * ROUND;
            let _ = std::fmt::Write::write_fmt(
                &mut self.body,
                format_args!("climate,device=sensor{device:03},site=hall temperature={}.{} {time}\n", tenths / 10, tenths % 10),
            );
        }
        let head = format!("POST /api/v2/write?bucket=b HTTP/1.1\r\nhost: weir\r\ncontent-length: {}\r\n\r\n", self.body.len());
        self.stream.write_all(head.as_bytes()).and_then(|()| self.stream.write_all(self.body.as_bytes())).expect("the agent reads");
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("the agent answers");
        assert!(line.contains("204"), "{line}");
        while line != "\r\n" {
            line.clear();
            self.reader.read_line(&mut line).expect("the rest of the head");
        }
    }
}

/// An agent whose state is on the card, and whose results go to `sink`; nobody is there without one.
fn start(card: &Card, directory: &Path, sink: Option<&Sink>) -> (Watched, Poster) {
    let (port, far) = (free_port(), sink.map_or(9, |s| s.port));
    let config = format!(
        "[agent]\nflush_interval = \"20ms\"\nomit_hostname = true\n[[inputs.influxdb_v2_listener]]\nservice_address = \"127.0.0.1:{port}\"\n[[windows]]\nname = \"minute\"\nevery = \"1m\"\nby = [\"device\"]\naggregates = [\"mean\", \"min\", \"max\", \"count\"]\n[[outputs.http]]\nurl = \"http://127.0.0.1:{far}/write\"\ndata_format = \"influx\"\n[storage]\ndirectory = {:?}\ncommit_interval = \"1ms\"\n[status]\nsocket = {:?}\n",
        card.mount.join("state"),
        directory.join("control.sock")
    );
    fs::write(directory.join("weir.toml"), config).expect("the configuration is written");
    let agent = Watched::start(directory, &[]);
    agent.wait_listening(port);
    (agent, Poster::connect(port))
}

/// All figures of this part; `rounds` of a day are run, and `real` is how long each piece in real time lasts.
pub fn card(rounds: u64, real: Duration) {
    if let Err(reason) = Card::new("noatime") {
        println!("card: not measured, it needs root and loop devices ({reason})");
        return;
    }
    single();
    let sink = Sink::start();
    for (what, far) in [("upstream down", None), ("upstream up", Some(&sink))] {
        for settled in [false, true] {
            day(what, far, settled, rounds.clamp(1, ROUNDS));
        }
    }
    // A commit interval of a minute leaves what was synced as durable as it is: only the times of files wait. `lazytime` spares nothing here.
    for options in ["noatime", "noatime,commit=60"] {
        in_real_time(options, &sink, real);
    }
}

/// One commit of a few readings: what the device is asked for when the 204 comes.
fn single() {
    let (card, directory) = (Card::new("noatime").expect("as before"), folder());
    let sink = Sink::start();
    let (_agent, mut poster) = start(&card, directory.path(), Some(&sink));
    let mut times = Vec::new();
    for round in 0..500 {
        let before = card.asked();
        poster.post(round, 3);
        let after = card.asked();
        times.push((after.bytes - before.bytes, after.flushes - before.flushes));
    }
    times.sort_unstable();
    let one_page = times.iter().filter(|t| t.0 == 4096).count();
    let (bytes, flushes) = times[times.len() / 2];
    println!(
        "card, a commit of 3 readings: {bytes} bytes and {flushes} flush (median of {}; {one_page} wrote one page of 4096)",
        times.len()
    );
}

/// A day's rounds, one after the other.
fn day(what: &str, sink: Option<&Sink>, settled: bool, rounds: u64) {
    let (card, directory) = (Card::new("noatime").expect("as before"), folder());
    let (agent, mut poster) = start(&card, directory.path(), sink);
    card.settle();
    let (before, start) = (card.asked(), Instant::now());
    for round in 0..rounds {
        poster.post(round, DEVICES);
        if settled {
            card.settle();
        }
    }
    card.settle();
    let (asked, took) = (card.asked(), start.elapsed());
    let told = status(directory.path());
    let of = |section: &str, name: &str| told[section][name].as_u64().unwrap_or_default();
    let (bytes, flushes) = (asked.bytes - before.bytes, asked.flushes - before.flushes);
    println!(
        "card, {rounds} of the {ROUNDS} rounds of a day, {what}, {}: {:.1} MB to the device ({} a round), {flushes} flushes; {:.1} MB of files, {} fsyncs (journal {:.1} MB, checkpoints {:.2} MB in {}, outbox {:.1} MB); at this rate a 32 GB card good for {:.1} TB lasts {:.0} years; run in {:.0} s",
        if settled { "the file system settled after each round" } else { "as it comes" },
        bytes as f64 / 1e6,
        bytes / rounds,
        of("writes", "ever_bytes") as f64 / 1e6,
        of("writes", "ever_fsyncs"),
        of("writes", "bytes_journal") as f64 / 1e6,
        of("writes", "bytes_checkpoint") as f64 / 1e6,
        of("store", "checkpoints"),
        of("writes", "bytes_outbox") as f64 / 1e6,
        CARD_BYTES / 1e12,
        CARD_BYTES / (bytes * ROUNDS / rounds) as f64 / 365.25,
        took.as_secs_f64()
    );
    drop(agent);
}

/// Rounds ten seconds apart, as on a gateway, for `real`.
fn in_real_time(options: &str, sink: &Sink, real: Duration) {
    let rounds = real.as_secs() / 10;
    if rounds == 0 {
        return;
    }
    let (card, directory) = (Card::new(options).expect("as before"), folder());
    let (_agent, mut poster) = start(&card, directory.path(), Some(sink));
    poster.post(0, DEVICES);
    card.settle();
    let (before, start) = (card.asked(), Instant::now());
    for round in 1..=rounds {
        poster.post(round, DEVICES);
        std::thread::park_timeout((Duration::from_secs(10) * round as u32).saturating_sub(start.elapsed()));
    }
    let asked = card.asked();
    let bytes = (asked.bytes - before.bytes) / rounds;
    println!(
        "card, {rounds} rounds in real time, mounted {options}: {bytes} bytes to the device a round and {:.1} flushes, {:.1} MB a day, {:.0} years",
        (asked.flushes - before.flushes) as f64 / rounds as f64,
        (bytes * ROUNDS) as f64 / 1e6,
        CARD_BYTES / (bytes * ROUNDS) as f64 / 365.25
    );
}
