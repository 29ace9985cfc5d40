//! A microcontroller that QEMU runs, its serial line through a relay that does it harm, and the agent at the other end: every reading
//! arrives once or is counted as lost.
//!
//! Each reading carries its number, and the numbers go on over resets of the board: so the points that arrived say which are missing.

mod board;
mod relay;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    time::{Duration, Instant},
};

use self::{
    board::Board,
    relay::{Harm, Relay},
};
use crate::support::{
    agent::{Agent, run},
    eventually, whole_lines,
};

/// What has arrived: of each number the times it came with, one per line.
#[derive(Debug, Default)]
struct Arrived {
    lines: u64,
    readings: BTreeMap<u64, Vec<i64>>,
    faults: BTreeSet<String>,
}

impl Arrived {
    fn read(directory: &Path) -> Self {
        let mut arrived = Self::default();
        for line in whole_lines(&directory.join("out.lp")).lines() {
            arrived.lines += 1;
            let mut parts = line.split(' ');
            let (series, fields, time) = (parts.next(), parts.next(), parts.next());
            let (Some(series), Some(fields), Some(time)) = (series, fields, time) else { panic!("no point: {line}") };
            let field = |name: &str| fields.split(',').find_map(|f| f.strip_prefix(name)).map(|value| value.trim_matches('"'));
            if series.starts_with("climate_fault,") {
                arrived.faults.extend(field("fault=").map(str::to_owned));
                continue;
            }
            assert!(series.starts_with("climate,device=station"), "{line}");
            let number = field("n=").and_then(|n| n.strip_suffix('i')?.parse().ok());
            let number = number.unwrap_or_else(|| panic!("a reading without its number: {line}"));
            arrived.readings.entry(number).or_default().push(time.parse().expect("a time"));
        }
        arrived
    }

    fn last(&self) -> u64 {
        self.readings.last_key_value().map_or(0, |(number, _)| *number)
    }

    /// Numbers up to the last that are not there.
    fn missing(&self) -> u64 {
        self.last() - self.readings.len() as u64
    }
}

fn count(agent: &Agent, what: &str) -> u64 {
    agent.status()["inputs"][0][what].as_u64().unwrap_or_default()
}

/// Waits until readings that are that many numbers further on have arrived.
fn await_more(directory: &Path, more: u64) {
    let from = Arrived::read(directory).last();
    eventually(&format!("{more} more readings after {from}"), || (Arrived::read(directory).last() >= from + more).then_some(()));
}

/// What has arrived once the agent has delivered all it has read.
fn settled(agent: &Agent, directory: &Path) -> Arrived {
    let said = run(directory, &["checkpoint", "--socket", "control.sock"], b"");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    eventually("what was recorded is delivered", || {
        let recorded = count(agent, "recorded");
        Some(Arrived::read(directory)).filter(|arrived| arrived.lines == recorded)
    })
}

/// Only what the board says it has dropped may be counted as lost. An agent that a busy machine keeps waiting for longer than the board's
/// queue holds loses readings on the best line; nothing else does.
fn was_dropped(lost: u64, relay: &Relay) {
    eventually(&format!("the board tells of {lost} readings it dropped"), || (relay.queue().dropped >= lost).then_some(()));
}

fn config(port: &Path) -> String {
    format!(
        "[agent]\nomit_hostname = true\nflush_interval = \"50ms\"\n[[inputs.serial]]\nport = {:?}\ndata_format = \"frame\"\n[[outputs.file]]\nfiles = [\"out.lp\"]\n[storage]\ncommit_interval = \"20ms\"\n",
        port
    )
}

#[test]
fn every_reading_of_a_board_on_a_bad_line_arrives_once_or_is_counted_as_lost() {
    let number = |name| std::env::var(name).map(|text| text.parse::<u64>().expect("a number")).ok();
    let first = number("WEIR_LINE").unwrap_or(0);
    for line in first..first + number("WEIR_LINES").unwrap_or(1) {
        let (seed, harm) = (0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(line + 1), Harm::of(line));
        println!("line {line}: {harm:?}");
        bad_line(seed, harm);
    }
}

fn bad_line(seed: u64, harm: Harm) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let mut board = Board::start(path);
    let relay = Relay::start(board.serial(), seed);
    let began = Instant::now();
    let mut agent = Agent::start(path, &config(relay.port()));
    await_more(path, 20);
    was_dropped(count(&agent, "lost_link"), &relay);

    relay.harm(harm);
    await_more(path, 60);
    for _ in 0..3 {
        board.reset();
        await_more(path, 25);
        agent.kill();
        agent = Agent::spawn_written(path);
        await_more(path, 25);
    }
    relay.harm(Harm::NONE);
    await_more(path, 25);
    let lost = count(&agent, "lost_link");
    relay.harm(Harm::CUT);
    // The agent has nothing that was not sent by now.
    let sent = relay.queue().sent;
    let gone = eventually("the board has dropped readings it could not send", || {
        let gone = relay.queue().gone;
        (gone >= sent + 20).then_some(gone)
    });
    relay.harm(Harm::NONE);
    await_more(path, 80);
    let lost_now = count(&agent, "lost_link");
    assert!(lost_now >= lost + gone - sent, "{lost_now} lost, {lost} before numbers {sent} to {gone} were dropped");
    was_dropped(lost_now, &relay);
    assert_eq!(Arrived::read(path).readings.range(sent + 1..=gone).next(), None, "what is gone arrives");

    let faults = ["missing", "power_on_value", "none"];
    eventually("each fault of the simulated sensors, and its end", || {
        let seen = Arrived::read(path).faults;
        faults.iter().all(|fault| seen.contains(*fault)).then_some(())
    });

    board.freeze();
    // Nothing more can come than is on its way.
    let mut seen = (0, Instant::now());
    eventually("nothing comes any more", || {
        let last = Arrived::read(path).last();
        if seen.0 != last {
            seen = (last, Instant::now());
        }
        (seen.1.elapsed() > Duration::from_secs(2)).then_some(())
    });
    let arrived = settled(&agent, path);
    assert_eq!(arrived.missing(), count(&agent, "lost_link"), "what has not arrived is what was counted");
    let harmed = relay.harmed();
    let status = agent.status();
    println!(
        "{} readings: {} arrived, {} lost, {} came twice, {} frames refused; harm done {harmed:?}; {:.1} s",
        arrived.last(),
        arrived.readings.len(),
        arrived.missing(),
        count(&agent, "duplicate"),
        count(&agent, "refused_frame") + count(&agent, "refused_size") + count(&agent, "refused_parse"),
        began.elapsed().as_secs_f64()
    );
    assert_eq!(status["residues"].as_array().map(Vec::len), Some(0), "the ledger balances: {status}");
    assert!(agent.terminate().success());
    let end = Arrived::read(path);
    assert_eq!((end.last(), end.missing()), (arrived.last(), arrived.missing()), "nothing was still on its way");

    let twice: Vec<_> = end.readings.iter().filter(|(_, times)| times.len() > 1).collect();
    assert!(twice.is_empty(), "these came twice: {twice:?}");
    assert!(harmed.values().all(|times| *times > 0), "every kind of harm was done: {harmed:?}");
    // The board asks the gateway for the time: whatever the relay held up, no reading is in the future or long before the test.
    let times: Vec<i64> = end.readings.values().flatten().copied().collect();
    let (first, last) = (times.iter().min().expect("some"), times.iter().max().expect("some"));
    assert!((last - first) as u128 <= began.elapsed().as_nanos() + 1_000_000_000, "{first} to {last}");
}

#[test]
fn a_board_that_loses_its_power_and_is_plugged_in_elsewhere_goes_on_as_another_row() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path();
    let port = path.join("by-id");
    let plug_in = |place: &str| {
        fs::create_dir(path.join(place)).expect("a place");
        let board = Board::start(&path.join(place));
        let _ = fs::remove_file(&port);
        std::os::unix::fs::symlink(board.serial(), &port).expect("a name for the port");
        board
    };
    let board = plug_in("here");
    let agent = Agent::start(path, &config(&port));
    await_more(path, 20);
    // What its RAM held is gone: its numbers begin anew.
    drop(board);
    eventually("the input says that its port is gone", || (count(&agent, "failing") == 1).then_some(()));
    let before = settled(&agent, path);
    let lost = count(&agent, "lost_link");
    assert_eq!(before.missing(), lost, "what has not arrived is what was counted");
    let mut board = plug_in("there");

    let row = || {
        let is_new = |(number, times): (&u64, &Vec<i64>)| times.len() > before.readings.get(number).map_or(0, Vec::len);
        Arrived::read(path).readings.iter().filter(|reading| is_new(*reading)).map(|(number, _)| *number).collect::<BTreeSet<_>>()
    };
    eventually("it goes on", || (row().len() >= 40).then_some(()));
    board.freeze();
    eventually("what is missing is what was counted", || {
        let row = row();
        (row.last().copied() == Some(row.len() as u64 + count(&agent, "lost_link") - lost)).then_some(())
    });
    assert_eq!(count(&agent, "failing"), 0);
    assert!(agent.log().contains("numbers its readings anew"), "that it began anew is said");
    assert!(agent.terminate().success());
    let arrived = Arrived::read(path);
    assert!(arrived.readings.values().all(|times| times.len() <= 2), "once in each row: {arrived:?}");
}
