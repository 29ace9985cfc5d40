//! A store with what its bytes mean: blocks decoded, the checkpoint's state summed up, and who waits for what.

use std::path::Path;

use weir_engine::{
    codec::{bytes::Damaged, chunk, record},
    core::{
        BlockMeta, digest,
        state::spec_of,
        summary::{CursorSummary, StateSummary, StoredSummary},
    },
    record::{Record, Stamp},
    series::SeriesTable,
    spec::EngineSpec,
};
use weir_plugin_api::{Chunk, Identity, Lane};
use weir_store::inspect::{Harm, Injury, Inspection, JournalBlock, Need, OutboxEntry, inspect};

/// One record as it lies in the journal.
pub struct Seen<'a> {
    /// Its number.
    pub number: u64,
    /// When it was made.
    pub stamp: Stamp,
    /// What it says.
    pub record: &'a Record<'a>,
    /// What its series and fields are.
    pub table: &'a SeriesTable,
    /// Names of the inputs when it was written.
    pub inputs: &'a [&'a str],
    /// Names of the outputs then.
    pub outputs: &'a [&'a str],
}

/// A store and what is known of it.
pub struct View {
    /// What lies there.
    pub inspection: Inspection,
    /// What the newest checkpoint says, if it can be read.
    pub state: Option<StateSummary>,
    /// What is damaged: checksums, and what should be there and is not.
    pub injuries: Vec<Injury>,
    /// Names of the inputs as the bits of a block mean them.
    pub inputs: Vec<String>,
}

/// What is wrong with a file of text beside the store: it ends with the CRC-32C of its lines.
fn text_injury(directory: &Path, name: &str) -> Option<Injury> {
    let costs = match name {
        "machine" => "the next start draws another id for the agent",
        _ if name.starts_with("output-") && name.ends_with(".origin") => "no file of that output is cut",
        _ if name.starts_with("output-") && name.ends_with(".lives") => "what Kafka has may be sent twice",
        _ => return None,
    };
    let damaged = |why: String| Some(Injury::new(name, None, format!("{why}: {costs}"), Harm::None));
    let text = match std::fs::read_to_string(directory.join(name)) {
        Ok(text) => text,
        // A running agent removes it when it has no file any more.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return damaged(format!("it can't be read, {error}")),
    };
    let whole = |(lines, sum): (&str, &str)| u32::from_str_radix(sum.trim_end(), 16) == Ok(crc32c::crc32c(lines.as_bytes()));
    if text.rsplit_once("crc ").is_some_and(whole) { None } else { damaged("its checksum is wrong".to_owned()) }
}

impl View {
    /// Digest of what the newest checkpoint's state holds.
    ///
    /// # Errors
    /// In words, when there is none or it can't be read.
    pub fn digest(&self) -> Result<u64, String> {
        let newest = self.inspection.newest.as_ref().ok_or("there is no checkpoint that could be read")?;
        digest::of_state(&newest.state).map_err(|error| with_sources(&error))
    }

    /// Looks into `directory`.
    ///
    /// # Errors
    /// In words, when there is no store there or it can't be listed.
    pub fn open(directory: &Path) -> Result<Self, String> {
        let inspection = inspect(directory).map_err(|error| with_sources(&error))?;
        let ours = |name: &str| name == "id" || ["journal-", "checkpoint-", "outbox-"].iter().any(|p| name.starts_with(p));
        if !inspection.files.keys().any(|name| ours(name)) {
            return Err(format!("there is no store in {}", directory.display()));
        }
        let mut injuries = inspection.injuries.clone();
        let state = inspection.newest.as_ref().and_then(|newest| match StateSummary::read(&newest.state) {
            Ok(state) => Some(state),
            Err(error) => {
                let file = format!("checkpoint-{:010}", newest.number);
                injuries.push(Injury::new(&file, None, with_sources(&error), Harm::Lost));
                None
            }
        });
        let mut view = Self { inspection, state, injuries, inputs: Vec::new() };
        view.inputs = view.input_names();
        let outbox = view.outbox_injuries();
        view.injuries.extend(outbox);
        view.injuries.extend(view.inspection.files.keys().filter_map(|name| text_injury(directory, name)));
        Ok(view)
    }

    /// The configuration that was in force at last.
    ///
    /// # Errors
    /// In words, when nothing there says so.
    pub fn configuration(&self) -> Result<EngineSpec, String> {
        let mut found = None;
        for block in self.blocks(false) {
            // Damage is told where the block is checked.
            let _ = self.records(block, |seen| {
                if let Record::Config { spec } = seen.record {
                    found = Some(EngineSpec::from_bytes(spec).map_err(|error| with_sources(&error)));
                }
            });
        }
        let state = || Some(spec_of(&self.inspection.newest.as_ref()?.state).map_err(|error| with_sources(&error)));
        let unknown = || Err("nothing there says under which configuration it was made".to_owned());
        match found {
            Some(found) => found,
            None => state().map_or_else(unknown, |state| state?.map_or_else(unknown, Ok)),
        }
    }

    /// Names of the inputs, of the newest block that has some, else of the checkpoint.
    fn input_names(&self) -> Vec<String> {
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        let mut blocks = self.inspection.journal.iter().rev().filter(|b| b.whole);
        let named = blocks.find_map(|b| record::names_in(&self.inspection.payload(b)?).ok().map(|[inputs, _]| owned(inputs)));
        named.unwrap_or_else(|| self.state.iter().flat_map(|s| &s.inputs).map(|i| i.name.clone()).collect())
    }

    fn outbox_injuries(&self) -> Vec<Injury> {
        let mut injuries = Vec::new();
        for entry in self.inspection.outbox.iter().filter(|e| !e.whole && !e.behind) {
            let harm = if self.is_needed(entry) { Harm::Lost } else { Harm::None };
            let mut injury = Injury::new(&entry.file, Some(entry.offset), "the payload is damaged", harm);
            (injury.points, injury.times) = (u64::from(entry.points), entry.times);
            injuries.push(injury);
        }
        for stored in self.state.iter().flat_map(|s| &s.stored) {
            let is = |e: &&OutboxEntry| !e.behind && e.lane == stored.lane as u8 && own(e.first) == stored.first;
            if self.inspection.outbox.iter().find(is).is_none() {
                let what = format!("the block of {} to {} is gone", identity(stored.first), identity(stored.last));
                let mut injury = Injury::new(&format!("outbox-{}", stored.lane as u8), None, what, Harm::Lost);
                injury.points = u64::from(stored.counts.iter().copied().max().unwrap_or(0));
                injuries.push(injury);
            }
        }
        injuries
    }

    /// What the newest checkpoint knows of a block of the outbox: `None` when nobody waits for it.
    pub fn stored(&self, entry: &OutboxEntry) -> Option<&StoredSummary> {
        let is = |s: &&StoredSummary| s.lane as u8 == entry.lane && s.first == own(entry.first);
        self.state.as_ref()?.stored.iter().find(is).filter(|_| !entry.behind)
    }

    /// Whether somebody waits for a block of the outbox, as far as anybody knows.
    pub fn is_needed(&self, entry: &OutboxEntry) -> bool {
        !entry.behind && (self.state.is_none() || self.stored(entry).is_some())
    }

    /// Reads the records of a block of the journal.
    ///
    /// # Errors
    /// What is wrong with it; the records before were seen.
    pub fn records(&self, block: &JournalBlock, mut see: impl FnMut(&Seen<'_>)) -> Result<(), Damaged> {
        let payload = self.inspection.payload(block).ok_or(Damaged("the payload is damaged"))?;
        let [inputs, outputs] = record::names_in(&payload)?;
        let from = &block.meta;
        let meta = BlockMeta {
            first_record: from.first_record,
            records: from.records,
            points: from.points,
            times: from.times,
            inputs: from.inputs,
        };
        let mut table = SeriesTable::new(usize::MAX);
        record::decode(&meta, &payload, 0, &mut table, &inputs, &outputs, |number, stamp, record, table| {
            see(&Seen { number, stamp, record, table, inputs: &inputs, outputs: &outputs });
        })
    }

    /// Blocks of the journal that are worth reading: from the newest checkpoint on, or all.
    pub fn blocks(&self, all: bool) -> impl Iterator<Item = &JournalBlock> {
        let wanted = move |need| if all { need != Need::Unfinished } else { need == Need::Needed };
        self.inspection.journal.iter().filter(move |b| b.whole && wanted(b.need))
    }

    /// Reads a block of the outbox; its routes are bits of the outputs of the state, or of its own without a state.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn chunk(&self, payload: &[u8]) -> Result<Chunk, Damaged> {
        let own = chunk::output_names(payload)?;
        let names = self.state.as_ref().map(|s| s.outputs.iter().map(|o| o.name.as_str()).collect());
        chunk::decode(payload, &names.unwrap_or(own))
    }

    /// How far each output of the state has got, the journal behind the checkpoint included.
    pub fn cursors(&self) -> Vec<[CursorSummary; 2]> {
        let outputs = self.state.as_ref().map_or(&[][..], |s| &s.outputs);
        let mut cursors: Vec<_> = outputs.iter().map(|o| o.cursors.clone()).collect();
        for block in self.blocks(false) {
            // Damage is told where the block is checked.
            let _ = self.records(block, |seen| {
                let (output, lane) = match seen.record {
                    Record::Delivered { output, lane, .. } | Record::Expired { output, lane, .. } => (*output, *lane),
                    _ => return,
                };
                let name = seen.outputs.get(usize::from(output));
                let Some(index) = outputs.iter().position(|o| Some(&o.name.as_str()) == name) else { return };
                let cursor = &mut cursors[index][lane as usize];
                match seen.record {
                    Record::Delivered { upto, .. } => cursor.done = cursor.done.max(*upto),
                    Record::Expired { after, upto, .. } => cursor.gaps.push((*after, *upto)),
                    _ => {}
                }
            });
        }
        cursors
    }

    /// Whether anybody still waits for a point of the outbox.
    pub fn waits(
        &self,
        stored: Option<&StoredSummary>,
        cursors: &[[CursorSummary; 2]],
        lane: Lane,
        route: u64,
        identity: Identity,
    ) -> bool {
        let Some(stored) = stored else { return self.state.is_none() };
        let wants = |index: usize| index < 64 && route >> index & 1 == 1 && stored.counts.get(index).is_some_and(|c| *c > 0);
        cursors.iter().enumerate().any(|(index, cursors)| wants(index) && cursors[lane as usize].waits(identity))
    }
}

/// The store's identity as everybody else has it.
pub fn own(identity: weir_store::Identity) -> Identity {
    Identity { record: identity.record, ordinal: identity.ordinal }
}

fn identity(identity: Identity) -> String {
    super::words::identity(identity)
}

/// An error and what caused it, in one line.
pub fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
