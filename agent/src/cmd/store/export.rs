//! `weir store export`: raw readings of the journal and waiting results of the outbox, in a format others read.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use weir_plugin_api::{
    Chunk, Lane, PointView,
    options::{Diagnostics, Item, Node, Place, Section, Table},
    plugin::Encoder,
};
use weir_plugins::codecs;
use weir_store::inspect::Injury;

use super::{
    DONE, Directory, FAILED, WRONG,
    csv::Columns,
    readings::Readings,
    stdout,
    view::{View, own},
    words, written,
};

/// `weir store export`.
#[derive(Args, Debug)]
pub struct Export {
    #[command(flatten)]
    directory: Directory,
    /// What to write: raw readings, results that wait for an output, or both.
    #[arg(long, value_enum, default_value_t = What::All)]
    what: What,
    /// Only this lane of the outbox.
    #[arg(long, value_enum)]
    lane: Option<LaneName>,
    /// Format: line protocol (unsigned integers with `u`), JSON in Telegraf's shape, an object per line, or CSV. Times in nanoseconds.
    #[arg(long, value_enum, default_value_t = Format::Influx)]
    format: Format,
    /// Only points of this time or later: 2026-01-31T12:00:00Z, 2026-01-31, or nanoseconds since 1970.
    #[arg(long, value_name = "TIME", value_parser = words::read_time, allow_hyphen_values = true)]
    from: Option<i64>,
    /// Only points before this time.
    #[arg(long, value_name = "TIME", value_parser = words::read_time, allow_hyphen_values = true)]
    to: Option<i64>,
    /// Write to this file, not to standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    Journal,
    Outbox,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LaneName {
    Alerts,
    Results,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Influx,
    Json,
    Csv,
}

impl Export {
    /// Runs it.
    pub fn run(self) -> u8 {
        let view = match self.directory.open() {
            Ok(view) => view,
            Err(code) => return code,
        };
        let mut encoder = match self.encoder() {
            Ok(encoder) => encoder,
            Err(code) => return code,
        };
        let out = match &self.output {
            None => Ok(Box::new(stdout()) as Box<dyn Write>),
            Some(path) if lies_in(path, &view.inspection.directory) => {
                eprintln!("weir: {} lies in the store, which is only read", path.display());
                return WRONG;
            }
            Some(path) => fs::File::create(path).map(|f| Box::new(io::BufWriter::new(f)) as Box<dyn Write>),
        };
        let mut out = match out {
            Ok(out) => out,
            Err(error) => {
                eprintln!("weir: can't write {}: {error}", self.output.as_deref().unwrap_or(Path::new("-")).display());
                return FAILED;
            }
        };
        let mut damage = Damage::new(&view);
        let readings = Readings::new(&view);
        let result = self.write(&view, &readings, &mut damage, encoder.as_deref_mut(), &mut *out).and_then(|()| out.flush());
        let undated = readings.undated();
        if undated > 0 {
            eprintln!("weir: {} came before the clock was set: their times are guesses", words::count(undated, "point"));
        }
        let places = damage.told.len() as u64;
        if places > 0 {
            eprintln!("weir: {} damaged", words::count(places, "place"));
        }
        written(result, if places == 0 { DONE } else { FAILED })
    }

    /// The plugins' encoder; `None` for CSV.
    fn encoder(&self) -> Result<Option<Box<dyn Encoder>>, u8> {
        let text = |text: &str| Item::Text(text.to_owned());
        let options = match self.format {
            Format::Csv => return Ok(None),
            Format::Influx => [("data_format", text("influx")), ("influx_uint_support", Item::Bool(true))],
            Format::Json => [("data_format", text("json")), ("json_timestamp_units", text("1ns"))],
        };
        let entry = |(key, item): (&str, Item)| (key.to_owned(), Place::default(), Node { place: Place::default(), item, secret: false });
        let table = Table { entries: options.into_iter().map(entry).collect() };
        let diagnostics = Diagnostics::default();
        let encoder = codecs::encoder(&Section::new("export", &table, Place::default(), &diagnostics));
        for diagnostic in diagnostics.take() {
            eprintln!("weir: {}", diagnostic.message);
        }
        encoder.map(Some).ok_or(WRONG)
    }

    fn write(
        &self,
        view: &View,
        readings: &Readings<'_>,
        damage: &mut Damage<'_>,
        encoder: Option<&mut (dyn Encoder + 'static)>,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        if let Some(encoder) = encoder {
            return self.each(view, readings, damage, &mut |point| {
                bytes.clear();
                encoder.encode(point, &mut bytes);
                out.write_all(&bytes)
            });
        }
        let mut columns = Columns::default();
        self.each(view, readings, damage, &mut |point| {
            columns.note(point);
            Ok(())
        })?;
        columns.header(&mut bytes);
        out.write_all(&bytes)?;
        self.each(view, readings, damage, &mut |point| {
            bytes.clear();
            columns.row(point, &mut bytes);
            out.write_all(&bytes)
        })
    }

    /// Hands over each point that was asked for, journal first.
    fn each(
        &self,
        view: &View,
        readings: &Readings<'_>,
        damage: &mut Damage<'_>,
        give: &mut dyn FnMut(PointView<'_>) -> io::Result<()>,
    ) -> io::Result<()> {
        let within =
            |point: &PointView<'_>| self.from.is_none_or(|from| point.time() >= from) && self.to.is_none_or(|to| point.time() < to);
        if self.what != What::Outbox {
            for block in view.blocks(true) {
                let (chunk, read) = readings.chunk(block);
                chunk.points().filter(within).try_for_each(&mut *give)?;
                if let Err(error) = read {
                    damage.tell(&block.file, block.offset, &error.to_string());
                }
            }
        }
        if self.what != What::Journal {
            let wanted = |lane: u8| self.lane.is_none_or(|l| l as u8 == lane);
            let mut pass = |chunk: &Chunk, index: usize| {
                let point = chunk.point(index);
                if within(&point) { give(point) } else { Ok(()) }
            };
            outbox(view, damage, wanted, &mut pass)?;
        }
        Ok(())
    }
}

/// Hands over each point of the outbox that an output waits for.
fn outbox(
    view: &View,
    damage: &mut Damage<'_>,
    wanted: impl Fn(u8) -> bool,
    give: &mut dyn FnMut(&Chunk, usize) -> io::Result<()>,
) -> io::Result<()> {
    let cursors = view.cursors();
    let entries = || view.inspection.outbox.iter().filter(|e| wanted(e.lane) && view.is_needed(e));
    let mut files: Vec<&str> = entries().map(|e| e.file.as_str()).collect();
    files.dedup();
    for file in files {
        let content = view.inspection.outbox_file(file).map_err(io::Error::other)?;
        for entry in entries().filter(|e| e.file == file) {
            let Some(payload) = view.inspection.outbox_payload(&content, entry) else { continue };
            match view.chunk(&payload) {
                Err(error) => damage.tell(file, entry.offset, &error.to_string()),
                Ok(chunk) => {
                    let lane = if entry.lane == 0 { Lane::Alerts } else { Lane::Results };
                    let stored = view.stored(entry);
                    debug_assert!(stored.is_none_or(|s| s.first == own(entry.first)));
                    for index in 0..chunk.len() {
                        if view.waits(stored, &cursors, lane, chunk.route(index), chunk.identity(index)) {
                            give(&chunk, index)?;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// Tells each damaged place once.
struct Damage<'a> {
    view: &'a View,
    told: BTreeSet<(String, Option<u64>, u64)>,
}

impl<'a> Damage<'a> {
    fn new(view: &'a View) -> Self {
        let mut damage = Self { view, told: BTreeSet::new() };
        view.injuries.iter().for_each(|injury| damage.injury(injury));
        damage
    }

    fn injury(&mut self, injury: &Injury) {
        if self.told.insert((injury.file.clone(), injury.offset, injury.first_record)) {
            eprintln!("weir: {}", words::injury(injury, &self.view.inputs));
        }
    }

    fn tell(&mut self, file: &str, offset: u64, what: &str) {
        self.injury(&Injury::new(file, Some(offset), what, weir_store::inspect::Harm::Lost));
    }
}

/// Whether a file that is to be written would lie in the store.
fn lies_in(path: &Path, directory: &Path) -> bool {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let place = path.canonicalize().ok().and_then(|p| p.parent().map(Path::to_owned)).or_else(|| parent.canonicalize().ok());
    place.is_some() && place == directory.canonicalize().ok()
}
