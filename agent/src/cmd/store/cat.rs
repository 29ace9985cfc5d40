//! `weir store cat`: what a store holds, a line for each thing, in the order a start would take it in.

use std::io::{self, Write};

use clap::Args;
use weir_engine::record::{ClockQuality, DeliveryCounts, Record};
use weir_plugin_api::{Identity, Lane, Resume};
use weir_store::inspect::{JournalBlock, OutboxEntry};

use super::{
    DONE, Directory, FAILED, stdout,
    view::{Seen, View, own},
    words, written,
};

/// `weir store cat`.
#[derive(Args, Debug)]
pub struct Cat {
    #[command(flatten)]
    directory: Directory,
    /// Also the records that the newest checkpoint covers and that are not written over yet.
    #[arg(long)]
    all: bool,
}

impl Cat {
    /// Runs it.
    pub fn run(self) -> u8 {
        let view = match self.directory.open() {
            Ok(view) => view,
            Err(code) => return code,
        };
        let mut out = stdout();
        let result = checkpoint(&view, &mut out)
            .and_then(|()| outbox(&view, &mut out))
            .and_then(|()| journal(&view, self.all, &mut out))
            .and_then(|()| out.flush());
        for injury in &view.injuries {
            eprintln!("weir: {}", words::injury(injury, &view.inputs));
        }
        written(result, if view.injuries.is_empty() { DONE } else { FAILED })
    }
}

fn checkpoint(view: &View, out: &mut impl Write) -> io::Result<()> {
    let (Some(newest), Some(state)) = (&view.inspection.newest, &view.state) else { return Ok(()) };
    let clock = words::time(state.wall_last);
    writeln!(out, "checkpoint {} records up to {}, clock {clock} {}", newest.number, newest.upto_record, quality(state.quality))?;
    for input in &state.inputs {
        let counts = input.counts.fields().into_iter().filter(|(_, v)| *v > 0).map(|(name, v)| format!(", {name} {v}"));
        let counts: String = counts.collect();
        writeln!(out, "input {} recorded {}{counts}, position {}", input.name, input.recorded, resume(&input.resume))?;
    }
    for output in &state.outputs {
        write!(out, "output {} routed {}, delivered {}", output.name, output.routed, output.delivered)?;
        for lane in Lane::ALL {
            let cursor = &output.cursors[lane as usize];
            let gaps = if cursor.gaps.is_empty() { String::new() } else { format!(", {}", words::count(cursor.gaps.len() as u64, "gap")) };
            let (name, done) = (words::lane(lane as u8), words::identity(cursor.done));
            write!(out, "; {name} settled up to {done}, {} waiting{gaps}", cursor.outstanding)?;
        }
        writeln!(out)?;
    }
    for part in &state.operators.parts {
        let groups = words::count(part.groups as u64, "group");
        writeln!(out, "{} {} {groups}, {} bytes, meaning {:016x}", part.kind, part.name, part.bytes, part.meaning)?;
    }
    let operators = &state.operators;
    for (name, subject) in &operators.conditions {
        let about = if subject.is_empty() { String::new() } else { format!(" of {subject}") };
        writeln!(out, "condition {name}{about} holds")?;
    }
    let partitions = words::count(operators.partitions as u64, "time partition");
    writeln!(out, "time {partitions}, {} held for a clock", words::count(operators.held, "point"))
}

fn outbox(view: &View, out: &mut impl Write) -> io::Result<()> {
    view.inspection.outbox.iter().filter(|e| !e.behind).try_for_each(|entry| block(view, entry, out))
}

fn block(view: &View, entry: &OutboxEntry, out: &mut impl Write) -> io::Result<()> {
    let (first, last) = (words::identity(own(entry.first)), words::identity(own(entry.last)));
    let (lane, points) = (words::lane(entry.lane), words::count(u64::from(entry.points), "point"));
    write!(out, "{} at {} {lane} {first} to {last}, {points} of {}", entry.file, entry.offset, words::times(entry.times))?;
    let waiting: Vec<String> = match (&view.state, view.stored(entry)) {
        (Some(state), Some(stored)) => {
            let named = state.outputs.iter().zip(&stored.counts).filter(|(_, count)| **count > 0);
            named.map(|(output, count)| format!("{} {count}", output.name)).collect()
        }
        _ => Vec::new(),
    };
    match (&view.state, waiting.is_empty()) {
        _ if !entry.whole => writeln!(out, ", damaged"),
        (None, _) => writeln!(out, ", nobody knows who waits"),
        (Some(_), true) => writeln!(out, ", free"),
        (Some(_), false) => writeln!(out, ", waiting: {}", waiting.join(", ")),
    }
}

fn journal(view: &View, all: bool, out: &mut impl Write) -> io::Result<()> {
    for block in view.blocks(all) {
        let mut result = Ok(());
        let read = view.records(block, |seen| {
            if result.is_ok() {
                result = line(block, seen, out);
            }
        });
        result?;
        if let Err(error) = read {
            writeln!(out, "{} at {} {error}", block.file, block.offset)?;
        }
    }
    Ok(())
}

fn line(block: &JournalBlock, seen: &Seen<'_>, out: &mut impl Write) -> io::Result<()> {
    write!(out, "{} at {} record {} ", block.file, block.offset, seen.number)?;
    let name = |names: &[&str], index: u16| names.get(usize::from(index)).copied().unwrap_or("?").to_owned();
    match seen.record {
        Record::Batch(batch) => {
            let points = words::count(u64::from(batch.points), "point");
            write!(out, "batch {}, {points}", name(seen.inputs, batch.input))?;
            let timed = batch.cells.iter().filter(|c| c.starts_point() && !c.is_untimed()).map(|c| c.time);
            if let Some(range) = timed.clone().min().zip(timed.max()) {
                write!(out, " of {}", words::times(range))?;
            }
            for (count, value) in batch.counts.fields().into_iter().filter(|(_, v)| *v > 0) {
                write!(out, ", {count} {value}")?;
            }
            writeln!(out, ", position {}", words::position(batch.position))
        }
        Record::Tick => writeln!(out, "tick"),
        Record::Config { spec } => {
            let (kind, json) = spec.split_first().map_or((0, &[][..]), |(kind, json)| (*kind, json));
            writeln!(out, "configuration of version {kind}: {}", String::from_utf8_lossy(json))
        }
        Record::Finish => writeln!(out, "finish"),
        Record::Clock { offset, quality: how, .. } => {
            writeln!(out, "clock {} {}", words::time(seen.stamp.steady.saturating_add(*offset)), quality(*how))
        }
        Record::Delivered { output, lane, upto, counts, .. } => {
            let (output, lane) = (name(seen.outputs, *output), words::lane(*lane as u8));
            writeln!(out, "delivered {output}, {lane} up to {}{}", words::identity(*upto), deliveries(counts))
        }
        Record::Condition { condition, subject, active, value } => {
            let (state, about) = (if *active { "begins" } else { "ends" }, if subject.is_empty() { "" } else { " of " });
            writeln!(out, "condition {}{about}{subject} {state}, {}", condition.name(), words::count(*value, "point"))
        }
        Record::Thinned { kept, points } => {
            let stays: u64 = kept.iter().map(|(_, length)| u64::from(*length)).sum();
            let range = kept.first().zip(kept.last()).map_or_else(String::new, |((first, _), (last, length))| {
                let end = last.ordinal.saturating_add(length - 1);
                format!(" from {} to {}", words::identity(*first), words::identity(Identity { ordinal: end, ..*last }))
            });
            let gone: String = points.iter().map(|(output, n)| format!(", {} {n} less", name(seen.outputs, *output))).collect();
            writeln!(out, "thinned{range}: {} left{gone}", words::count(stays, "point"))
        }
        Record::Floors { common, groups, clock } => {
            let all = if *common == i64::MIN { String::new() } else { format!(", all up to {}", words::time(*common)) };
            let newest = groups.iter().map(|(_, time)| *time).max();
            let newest = newest.map_or_else(String::new, |time| format!(", the newest up to {}", words::time(time)));
            let clock = clock.map_or_else(String::new, |then| {
                format!(", clock {} {}", words::time(seen.stamp.steady.saturating_add(then.offset)), quality(then.quality))
            });
            writeln!(out, "floors of {}{newest}{all}{clock}", words::count(groups.len() as u64, "group"))
        }
        Record::Expired { output, lane, after, upto, counts } => {
            let (output, lane) = (name(seen.outputs, *output), words::lane(*lane as u8));
            let range = |i: &Identity| words::identity(*i);
            writeln!(out, "expired {output}, {lane} behind {} up to {}{}", range(after), range(upto), deliveries(counts))
        }
    }
}

fn deliveries(c: &DeliveryCounts) -> String {
    let counts = [
        ("delivered", c.delivered),
        ("collapsed", c.collapsed),
        ("rejected", c.rejected),
        ("expired_age", c.expired_age),
        ("expired_bytes", c.expired_bytes),
        ("expired_disk", c.expired_disk),
        ("expired_stale", c.expired_stale),
        ("lost_outbox", c.lost_outbox),
    ];
    counts.into_iter().filter(|(_, v)| *v > 0).map(|(name, v)| format!(", {name} {v}")).collect()
}

fn quality(quality: ClockQuality) -> &'static str {
    match quality {
        ClockQuality::Unset => "unset",
        ClockQuality::Rtc => "rtc",
        ClockQuality::Synced => "synced",
    }
}

fn resume(resume: &Resume) -> String {
    let mut parts = Vec::new();
    if !resume.messages.is_empty() {
        parts.push(format!("session {}, {} messages", words::session(resume.session), resume.messages.len()));
    }
    parts.extend(resume.files.values().map(|f| format!("{} at {}", f.path, f.offset)));
    parts.extend(resume.sequence.map(|(nonce, sequence)| format!("boot {nonce:x}, sequence {sequence}")));
    parts.extend(resume.offsets.iter().map(|(name, offset)| format!("{name} at {offset}")));
    if !resume.keys.is_empty() {
        parts.push(format!("{} keys", resume.keys.len()));
    }
    if parts.is_empty() { "none".into() } else { parts.join(", ") }
}
