//! The most memory and disk a configuration can come to take, part by part, and whether the unit may have that much.
//!
//! Apart from the rest of the check because it is arithmetic over the whole configuration: the engine counts its own tables, here are the
//! inputs, the outputs, the disk and the executable itself.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use weir_engine::{spec::Durability, worst};
use weir_plugin_api::{
    Cell,
    batch::{BATCH_CELLS, BATCH_TEXT, MESSAGE_CELLS, MESSAGE_TEXT},
    plugin::{AnyInput, InputMemory},
    units::{format_size, parse_size},
};

use crate::config::Config;

/// Stacks, the runtime, the allocator's rest, what is said and logged.
const RUNTIME: u64 = 8 << 20;
/// Blocks of the journal on their way to the disk, and a file of zeros while it is made.
const JOURNAL: u64 = 4 << 20;
/// What an output holds: a chunk being written and one taken, both lanes, a block of the outbox, and the bytes it sends.
const OUTPUT: u64 = 8 << 20;
/// A point as an output sends it.
const POINT: u64 = 1024;
/// Raw keys an input remembers per series, and its own entry.
const INPUT_SERIES: u64 = 512 + 4 * 48 + 64;
/// A segment of the outbox.
const SEGMENT: u64 = 1 << 20;
/// Where systemd looks for units, the more important first.
const UNITS: [&str; 4] = ["etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "lib/systemd/system"];

/// One part.
#[derive(Clone, Debug)]
pub struct Part {
    what: String,
    memory: u64,
    disk: u64,
}

/// A limit on memory, and who sets it.
#[derive(Debug, PartialEq, Eq)]
pub struct Limit {
    bytes: u64,
    by: String,
}

/// Every part of a configuration.
pub fn parts(config: &Config) -> Vec<Part> {
    let executable = std::env::current_exe().and_then(fs::metadata).map_or(0, |m| m.len());
    let mut parts = vec![memory("executable and runtime".into(), executable + RUNTIME)];
    for input in &config.inputs {
        let InputMemory { buffers, message } = match &input.built.input {
            AnyInput::Streaming(input) => input.memory(),
            AnyInput::Polled(_) => InputMemory::default(),
        };
        let batches = config.agent.ring_batches as u64;
        // A vector that grew by doubling has room for twice what is in it.
        let batch = 2 * (BATCH_CELLS * size_of::<Cell>() + BATCH_TEXT) as u64;
        let cells = (message / 4).min(MESSAGE_CELLS as u64) * size_of::<Cell>() as u64;
        let largest = if message == 0 { 0 } else { cells + message.min(MESSAGE_TEXT as u64) };
        parts.push(memory(format!("input {}: ring of {batches} batches", input.name), batches * (batch + largest)));
        parts.push(memory(format!("input {}: its series", input.name), (input.shape.series_max as u64).saturating_mul(INPUT_SERIES)));
        if buffers > 0 {
            parts.push(memory(format!("input {}: its buffers", input.name), buffers));
        }
    }
    let engine = worst::parts(&config.engine);
    let state = engine.iter().filter(|p| p.kept).fold(0u64, |all, p| all.saturating_add(p.bytes));
    parts.extend(engine.into_iter().map(|p| memory(p.name, p.bytes)));
    for output in &config.outputs {
        parts.push(memory(format!("output {}", output.name), OUTPUT + output.batch as u64 * POINT));
        if config.dead_letter_bytes_max > 0 {
            parts.push(disk(format!("dead letters of {}", output.name), config.dead_letter_bytes_max));
        }
    }
    let storage = &config.engine.storage;
    let waiting = config.engine.limits.results_waiting_bytes_max as u64;
    parts.push(Part { what: "journal".into(), memory: JOURNAL, disk: storage.journal_bytes_max });
    // What a checkpoint adds before the bound is looked at, and the files that are only partly needed.
    let outbox = storage.outbox_bytes_max.saturating_add(2 * waiting).saturating_add(2 * SEGMENT);
    // An entry of less than 256 bytes for each block; one of less than 4 KiB is rare.
    parts.push(Part { what: "outbox".into(), memory: storage.outbox_bytes_max / 16, disk: outbox });
    let generations = if storage.durability == Durability::None { 2 } else { 3 };
    // Encoded it takes no more than in the tables, and is in memory until it is on the disk.
    let what = format!("checkpoints, {generations} of them on the disk while one is made");
    parts.push(Part { what, memory: state, disk: state.saturating_mul(generations) });
    parts
}

fn memory(what: String, bytes: u64) -> Part {
    Part { what, memory: bytes, disk: 0 }
}

fn disk(what: String, bytes: u64) -> Part {
    Part { what, memory: 0, disk: bytes }
}

fn sum(parts: &[Part]) -> (u64, u64) {
    parts.iter().fold((0u64, 0u64), |(memory, disk), p| (memory.saturating_add(p.memory), disk.saturating_add(p.disk)))
}

/// The table for people: every bound reached at once.
pub fn table(parts: &[Part]) -> String {
    let mut out = String::from("at most, with every bound reached at once:\n");
    let (all_memory, all_disk) = sum(parts);
    let all = Part { what: "all".into(), memory: all_memory, disk: all_disk };
    let _ = writeln!(out, "{:>12} {:>12}", "memory", "disk");
    for part in parts.iter().chain([&all]) {
        let _ = writeln!(out, "{:>12} {:>12}  {}", show(part.memory), show(part.disk), part.what);
    }
    out
}

/// Rounded up, so that the figure is never too small.
fn show(bytes: u64) -> String {
    match bytes {
        0 => "-".into(),
        u64::MAX => "no bound".into(),
        _ => {
            let unit = [1u64 << 50, 1 << 40, 1 << 30, 1 << 20, 1 << 10].into_iter().find(|unit| bytes >= 10 * unit).unwrap_or(1);
            format_size(bytes.checked_next_multiple_of(unit).unwrap_or(bytes))
        }
    }
}

/// The warning, if more may be taken than is allowed.
pub fn over(parts: &[Part], limit: Option<&Limit>) -> Option<String> {
    let (memory, _) = sum(parts);
    let limit = limit.filter(|limit| memory > limit.bytes)?;
    let largest = parts.iter().max_by_key(|p| p.memory)?;
    Some(format!(
        "{} allows {} of memory, and with every bound reached it is {}: the largest part is \"{}\"; see [limits]",
        limit.by,
        show(limit.bytes),
        show(memory),
        largest.what
    ))
}

/// What the agent may have: as told, else `MemoryMax` of the unit installed under `root`, and not more than the machine has.
///
/// # Errors
/// A size that can't be read.
pub fn limit(told: Option<&str>, root: &Path) -> Result<Option<Limit>, String> {
    if let Some(text) = told {
        let bytes = parse_size(text).map_err(|reason| format!("--memory-max: {reason}"))?;
        return Ok(Some(Limit { bytes, by: "--memory-max".into() }));
    }
    let mut found = None;
    for file in unit_files(root) {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let mut section = "";
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
            }
            let value = line.strip_prefix("MemoryMax").and_then(|rest| rest.trim_start().strip_prefix('='));
            if let Some(value) = value.filter(|_| section == "[Service]") {
                found = unit_size(value.trim(), root).map(|bytes| Limit { bytes, by: format!("MemoryMax of {}", file.display()) });
            }
        }
    }
    // No unit, one without a limit, or one that allows more than there is.
    let machine = machine_memory(root).filter(|bytes| found.as_ref().is_none_or(|limit: &Limit| limit.bytes > *bytes));
    Ok(machine.map(|bytes| Limit { bytes, by: "this machine".into() }).or(found))
}

/// All memory of the machine, bytes.
fn machine_memory(root: &Path) -> Option<u64> {
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let kib: u64 = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

/// The unit and what is dropped in beside it, the last word last.
fn unit_files(root: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = UNITS.iter().map(|d| root.join(d).join("weir.service")).find(|f| f.is_file()).into_iter().collect();
    let mut dropped: Vec<PathBuf> = Vec::new();
    for directory in UNITS.iter().rev() {
        let entries = fs::read_dir(root.join(directory).join("weir.service.d")).into_iter().flatten().flatten();
        dropped.extend(entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "conf")));
    }
    dropped.sort_by(|a, b| a.file_name().cmp(&b.file_name()));
    files.append(&mut dropped);
    files
}

/// A size as systemd writes it: a number with K, M, G or T, powers of 1024, or a part of the machine's memory.
fn unit_size(text: &str, root: &Path) -> Option<u64> {
    if let Some(percent) = text.strip_suffix('%') {
        return Some((machine_memory(root)? as f64 * percent.parse::<f64>().ok()? / 100.0) as u64);
    }
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let shift = match unit {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        // `infinity`, or nothing known.
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_shl(shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("made");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn the_last_word_on_memory_is_the_drop_ins() {
        let root = tempfile::tempdir().expect("a directory");
        let found = || limit(None, root.path()).expect("readable").map(|l| l.bytes);
        assert_eq!(found(), None, "nothing is installed");
        unit(root.path(), "lib/systemd/system/weir.service", "[Service]\nMemoryMax=1G\n");
        assert_eq!(found(), Some(1 << 30));
        unit(root.path(), "etc/systemd/system/weir.service", "[Unit]\nMemoryMax=1\n[Service]\nMemoryMax = 64M\n");
        assert_eq!(found(), Some(64 << 20), "that of /etc hides the other");
        unit(root.path(), "etc/systemd/system/weir.service.d/20-more.conf", "[Service]\nMemoryMax=infinity\n");
        assert_eq!(found(), None);
        unit(root.path(), "lib/systemd/system/weir.service.d/30-half.conf", "[Service]\nMemoryMax=50%\n");
        unit(root.path(), "proc/meminfo", "MemTotal:  1000 kB\n");
        assert_eq!(found(), Some(512_000));
        assert_eq!(limit(Some("32MiB"), root.path()).expect("readable").map(|l| l.bytes), Some(32 << 20), "what is told counts");
        assert!(limit(Some("much"), root.path()).is_err());
    }

    #[test]
    fn without_a_unit_the_memory_of_the_machine_is_the_limit_and_it_always_is_one() {
        let root = tempfile::tempdir().expect("a directory");
        unit(root.path(), "proc/meminfo", "MemTotal:         439264 kB\nMemFree:          239264 kB\n");
        let found = || limit(None, root.path()).expect("readable").map(|l| (l.bytes, l.by == "this machine"));
        assert_eq!(found(), Some((439_264 << 10, true)));
        unit(root.path(), "etc/systemd/system/weir.service", "[Service]\nMemoryMax=1G\n");
        assert_eq!(found(), Some((439_264 << 10, true)));
        unit(root.path(), "etc/systemd/system/weir.service", "[Service]\nMemoryMax=128M\n");
        assert_eq!(found(), Some((128 << 20, false)));
        let parts = [memory("a".into(), 1 << 30)];
        let said = over(&parts, limit(Some("512MiB"), root.path()).expect("readable").as_ref()).expect("it is over");
        assert!(said.starts_with("--memory-max allows 512MiB of memory"), "{said}");
    }

    #[test]
    fn a_figure_is_never_rounded_down() {
        assert_eq!(show(0), "-");
        assert_eq!(show((10 << 20) + 1), "11MiB");
        assert_eq!(show(u64::MAX), "no bound");
        let parts = [memory("a".into(), 5 << 20), memory("b".into(), (6 << 20) + 1)];
        assert!(over(&parts, Some(&Limit { bytes: 11 << 20, by: "x".into() })).expect("it is over").contains("\"b\""));
        assert_eq!(over(&parts, Some(&Limit { bytes: 12 << 20, by: "x".into() })), None);
        assert_eq!(over(&parts, None), None);
    }
}
