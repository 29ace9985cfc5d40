//! `weir store verify`: every checksum, every block decoded, each damaged place named.

use std::io::Write;

use clap::Args;
use weir_store::inspect::{Harm, Injury, Need};

use super::{DONE, Directory, FAILED, stdout, view::View, words, written};

/// `weir store verify`.
#[derive(Args, Debug)]
pub struct Verify {
    #[command(flatten)]
    directory: Directory,
    /// Print what is damaged as JSON.
    #[arg(long)]
    json: bool,
    /// Print a digest of the newest checkpoint's state too: two runs of the same readings have the same, whatever died in between.
    #[arg(long)]
    digest: bool,
}

impl Verify {
    /// Runs it.
    pub fn run(self) -> u8 {
        let view = match self.directory.open() {
            Ok(view) => view,
            Err(code) => return code,
        };
        let injuries = injuries(&view);
        let code = if injuries.is_empty() { DONE } else { FAILED };
        let mut out = stdout();
        let digest = if self.digest { view.digest().map(Some) } else { Ok(None) };
        let (digest, code) = match digest {
            Ok(digest) => (digest, code),
            Err(reason) => {
                eprintln!("weir: {reason}");
                (None, FAILED)
            }
        };
        let result = if self.json { json(&view, &injuries, digest, &mut out) } else { table(&view, &injuries, digest, &mut out) };
        written(result.and_then(|()| out.flush()), code)
    }
}

/// Everything that is damaged: what checksums tell, and what they don't.
pub fn injuries(view: &View) -> Vec<Injury> {
    let mut injuries = view.injuries.clone();
    for block in view.blocks(true).filter(|b| b.need != Need::Free) {
        if let Err(error) = view.records(block, |_| {}) {
            let harm = if block.need == Need::Needed { Harm::Lost } else { Harm::None };
            let mut injury = Injury::new(&block.file, Some(block.offset), error.to_string(), harm);
            (injury.first_record, injury.records) = (block.meta.first_record, u64::from(block.meta.records));
            injuries.push(injury);
        }
    }
    let mut files: Vec<&str> = view.inspection.outbox.iter().map(|e| e.file.as_str()).collect();
    files.dedup();
    for file in files {
        let content = view.inspection.outbox_file(file).unwrap_or_default();
        for entry in view.inspection.outbox.iter().filter(|e| e.file == file && e.whole && !e.behind) {
            let Some(payload) = view.inspection.outbox_payload(&content, entry) else { continue };
            if let Err(error) = view.chunk(&payload) {
                let harm = if view.is_needed(entry) { Harm::Lost } else { Harm::None };
                let mut injury = Injury::new(file, Some(entry.offset), error.to_string(), harm);
                injury.points = u64::from(entry.points);
                injuries.push(injury);
            }
        }
    }
    injuries.sort_by(|a, b| (&a.file, a.offset).cmp(&(&b.file, b.offset)));
    injuries
}

fn table(view: &View, injuries: &[Injury], digest: Option<u64>, out: &mut impl Write) -> std::io::Result<()> {
    if let Some(digest) = digest {
        writeln!(out, "digest {digest:016x}")?;
    }
    for injury in injuries {
        writeln!(out, "{}", words::injury(injury, &view.inputs))?;
    }
    let inspection = &view.inspection;
    let checked = [
        words::count(inspection.checkpoints.len() as u64, "checkpoint"),
        words::count(inspection.journal.iter().filter(|b| b.need >= Need::Kept).count() as u64, "journal block"),
        words::count(inspection.outbox.iter().filter(|e| !e.behind).count() as u64, "outbox block"),
    ];
    let checked = checked.join(", ");
    if injuries.is_empty() {
        return writeln!(out, "{checked} checked, nothing is damaged");
    }
    let lost = injuries.iter().filter(|i| i.harm == Harm::Lost);
    let (records, points) = lost.fold((0u64, 0u64), |(r, p), i| (r.saturating_add(i.records), p.saturating_add(i.points)));
    let places = words::count(injuries.len() as u64, "place");
    let points = if points > 0 { format!(" with {}", words::count(points, "point")) } else { String::new() };
    writeln!(out, "{checked} checked, {places} damaged, {}{points} lost", words::count(records, "record"))
}

fn json(view: &View, injuries: &[Injury], digest: Option<u64>, out: &mut impl Write) -> std::io::Result<()> {
    let damage: Vec<_> = injuries
        .iter()
        .map(|i| {
            serde_json::json!({
                "file": i.file,
                "offset": i.offset,
                "what": i.what,
                "first_record": i.first_record,
                "records": i.records,
                "points": i.points,
                "times": (i.times != (0, 0)).then_some([i.times.0, i.times.1]),
                "times_of_neighbours": i.between,
                "inputs": words::input_names(i.inputs, &view.inputs),
                "lost": i.harm == Harm::Lost,
            })
        })
        .collect();
    let store = view.inspection.id.map(|id| format!("{id:016x}"));
    let mut report = serde_json::json!({ "store": store, "running": view.inspection.running, "damage": damage });
    if let Some(digest) = digest {
        report["digest"] = format!("{digest:016x}").into();
    }
    writeln!(out, "{report:#}")
}
