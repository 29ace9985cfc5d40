//! `weir store ls`: the files of a store, what they hold and whether anybody still needs it.

use std::{collections::BTreeMap, io::Write};

use clap::Args;
use weir_plugin_api::units::format_size;
use weir_store::inspect::Need;

use super::{DONE, Directory, stdout, view::View, words, written};

/// `weir store ls`.
#[derive(Args, Debug)]
pub struct Ls {
    #[command(flatten)]
    directory: Directory,
    /// Print it as JSON; times in nanoseconds since 1970.
    #[arg(long)]
    json: bool,
}

/// A file of a store.
#[derive(Default)]
struct Row {
    name: String,
    kind: &'static str,
    bytes: u64,
    /// Generation of a checkpoint, number of a segment or file.
    number: Option<u64>,
    /// Lane of a segment.
    lane: Option<u8>,
    /// First and last record: of the blocks, of the results, or (1, what a checkpoint covers).
    records: Option<(u64, u64)>,
    blocks: u64,
    points: u64,
    times: Option<(i64, i64)>,
    inputs: u64,
    needed: &'static str,
}

impl Row {
    fn add(&mut self, records: (u64, u64), points: u32, times: (i64, i64)) {
        let wider = |have: Option<(u64, u64)>| have.map_or(records, |(low, high)| (low.min(records.0), high.max(records.1)));
        self.records = Some(wider(self.records));
        self.blocks += 1;
        self.points += u64::from(points);
        if points > 0 && times != (0, 0) {
            self.times = Some(self.times.map_or(times, |(low, high)| (low.min(times.0), high.max(times.1))));
        }
    }
}

impl Ls {
    /// Runs it.
    pub fn run(self) -> u8 {
        let view = match self.directory.open() {
            Ok(view) => view,
            Err(code) => return code,
        };
        let rows = rows(&view);
        let mut out = stdout();
        let result = if self.json { json(&view, &rows, &mut out) } else { table(&view, &rows, &mut out) };
        written(result.and_then(|()| out.flush()), DONE)
    }
}

fn rows(view: &View) -> Vec<Row> {
    let inspection = &view.inspection;
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    for (name, bytes) in &inspection.files {
        let number = name.rsplit_once('-').and_then(|(_, n)| n.parse().ok());
        let lane = name.strip_prefix("outbox-").and_then(|n| n.split('-').next()?.parse().ok());
        let kind = ["journal", "checkpoint", "outbox"].into_iter().find(|k| name.starts_with(k) && number.is_some());
        let (kind, needed) = match (kind, name.as_str()) {
            (Some("outbox"), _) => ("outbox", "free"),
            (Some(kind), _) => (kind, "free"),
            (None, "id") => ("id", "needed"),
            (None, "cursors") => ("cursors", "kept"),
            (None, "lock") => ("lock", if inspection.running { "held" } else { "free" }),
            (None, _) => ("other", ""),
        };
        rows.insert(name, Row { name: name.clone(), kind, bytes: *bytes, number, lane, needed, ..Row::default() });
    }
    let newest = inspection.newest.as_ref().map(|n| n.number);
    for checkpoint in &inspection.checkpoints {
        let Some(row) = rows.get_mut(checkpoint.file.as_str()) else { continue };
        row.records = checkpoint.upto_record.map(|upto| (0, upto));
        row.needed = match checkpoint.upto_record {
            None => "damaged",
            Some(_) if Some(checkpoint.number) == newest => "needed",
            Some(_) => "kept",
        };
    }
    for block in &inspection.journal {
        let Some(row) = rows.get_mut(block.file.as_str()) else { continue };
        if block.need == Need::Unfinished {
            continue;
        }
        row.add((block.meta.first_record, block.last_record()), block.meta.points, block.meta.times);
        row.inputs |= block.meta.inputs;
        row.needed = match (block.need, row.needed) {
            (Need::Needed, _) | (_, "needed") => "needed",
            (Need::Kept, _) | (_, "kept") => "kept",
            _ => "free",
        };
    }
    for entry in inspection.outbox.iter().filter(|e| !e.behind) {
        let Some(row) = rows.get_mut(entry.file.as_str()) else { continue };
        row.add((entry.first.record, entry.last.record), entry.points, entry.times);
        if view.is_needed(entry) {
            row.needed = "needed";
        }
    }
    for injury in &view.injuries {
        if let Some(row) = rows.get_mut(injury.file.as_str()) {
            row.needed = "damaged";
        }
    }
    rows.into_values().collect()
}

fn store_line(view: &View) -> String {
    let inspection = &view.inspection;
    let id = inspection.id.map_or("without an id".to_owned(), |id| format!("{id:016x}"));
    let running = if inspection.running { ", an agent is running on it" } else { "" };
    let next = inspection.journal.iter().filter(|b| b.need == Need::Needed).map(|b| b.last_record()).max();
    let covered = inspection.newest.as_ref().map(|n| format!(", checkpoint {} of records up to {}", n.number, n.upto_record));
    let recorded = next.map(|last| format!(", journal up to record {last}"));
    format!("store {id}{running}{}{}", covered.unwrap_or_default(), recorded.unwrap_or_default())
}

fn table(view: &View, rows: &[Row], out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "{}\n", store_line(view))?;
    let width = rows.iter().map(|r| r.name.len()).max().unwrap_or(4);
    writeln!(out, "{:<width$} {:>10}  {:<8} {:>21} {:>6} {:>9}  event times, inputs", "file", "size", "", "records", "blocks", "points")?;
    for row in rows {
        let records = row.records.map_or(String::new(), |(low, high)| match row.kind {
            "checkpoint" => format!("up to {high}"),
            _ => format!("{low} to {high}"),
        });
        let number = |n: u64| if n > 0 { n.to_string() } else { String::new() };
        let times = row.times.map_or(String::new(), words::times);
        let inputs = words::input_names(row.inputs, &view.inputs).join(", ");
        let rest = [times, inputs].into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join(", ");
        let line = format!(
            "{:<width$} {:>10}  {:<8} {records:>21} {:>6} {:>9}  {rest}",
            row.name,
            format_size(row.bytes),
            row.needed,
            number(row.blocks),
            number(row.points)
        );
        writeln!(out, "{}", line.trim_end())?;
    }
    let total = |kind: &str| rows.iter().filter(|r| r.kind == kind).fold((0, 0), |(b, p), r| (b + r.bytes, p + r.points));
    writeln!(out)?;
    for kind in ["journal", "checkpoint", "outbox"] {
        let (bytes, points) = total(kind);
        let files = words::count(rows.iter().filter(|r| r.kind == kind).count() as u64, "file");
        let points = if kind == "checkpoint" { String::new() } else { format!(", {}", words::count(points, "point")) };
        writeln!(out, "{kind:<10} {files}, {}{points}", format_size(bytes))?;
    }
    if !view.injuries.is_empty() {
        let places = words::count(view.injuries.len() as u64, "place");
        writeln!(out, "\n{places} damaged: `weir store verify` names them")?;
    }
    Ok(())
}

fn json(view: &View, rows: &[Row], out: &mut impl Write) -> std::io::Result<()> {
    let inspection = &view.inspection;
    let files: Vec<_> = rows
        .iter()
        .map(|row| {
            serde_json::json!({
                "name": row.name,
                "kind": row.kind,
                "bytes": row.bytes,
                "number": row.number,
                "lane": row.lane.map(words::lane),
                "records": row.records.map(|(low, high)| [low, high]),
                "blocks": row.blocks,
                "points": row.points,
                "times": row.times.map(|(low, high)| [low, high]),
                "inputs": words::input_names(row.inputs, &view.inputs),
                "state": row.needed,
            })
        })
        .collect();
    let report = serde_json::json!({
        "store": inspection.id.map(|id| format!("{id:016x}")),
        "running": inspection.running,
        "checkpoint": inspection.newest.as_ref().map(|n| n.number),
        "checkpoint_record": inspection.newest.as_ref().map(|n| n.upto_record),
        "last_record": inspection.journal.iter().filter(|b| b.need == Need::Needed).map(|b| b.last_record()).max(),
        "bytes": rows.iter().map(|r| r.bytes).sum::<u64>(),
        "damaged": view.injuries.len(),
        "files": files,
    });
    writeln!(out, "{report:#}")
}
