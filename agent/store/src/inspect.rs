//! A store looked at from outside: every file, block and checksum, what is needed, what is gone, and nothing changed.
//!
//! What is damage and what is merely unfinished is not decided here: a recovery is played through on [`ReadOnlyFiles`], so what it says is
//! what an agent would say that starts on the same directory.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::{
    BlockMeta, CheckpointState, Damage, Files, Identity, Operation, ReadOnlyFiles, Store, StoreError, StoreOptions, Unreadable, checkpoint,
    format::{HEADER, Header, JOURNAL, OUTBOX, PAGE, pages},
    outbox,
};

/// Looks again so often at a store that an agent is writing before it calls something damaged.
const LOOKS: usize = 3;

/// What a block or a file is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Nothing: a checkpoint before the newest covers it, it will be written over.
    Free,
    /// Written last and never durable: whoever sent it has not been told that it was taken.
    Unfinished,
    /// The newest checkpoint covers it; the one before still needs it.
    Kept,
    /// A start needs it.
    Needed,
}

/// A block of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalBlock {
    /// Its file.
    pub file: String,
    /// Where it begins.
    pub offset: u64,
    /// Bytes of header and payload.
    pub bytes: u64,
    /// What its header says.
    pub meta: BlockMeta,
    /// Whether its payload is what was written.
    pub whole: bool,
    /// What it is good for.
    pub need: Need,
}

impl JournalBlock {
    /// Its last record.
    pub fn last_record(&self) -> u64 {
        self.meta.first_record.saturating_add(u64::from(self.meta.records)).saturating_sub(1)
    }
}

/// A block of the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEntry {
    /// Its file.
    pub file: String,
    /// Where it begins.
    pub offset: u64,
    /// Bytes of header and payload.
    pub bytes: u64,
    /// Lane, 0 alerts or 1 results.
    pub lane: u8,
    /// First identity.
    pub first: Identity,
    /// Last identity.
    pub last: Identity,
    /// Points.
    pub points: u32,
    /// Least and greatest event time.
    pub times: (i64, i64),
    /// Whether its payload is what was written.
    pub whole: bool,
    /// Whether it lies behind the end that the newest checkpoint knows: a start cuts it off and makes it anew from the journal.
    pub behind: bool,
}

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointFile {
    /// Its file.
    pub file: String,
    /// Its number, by the name of the file.
    pub number: u64,
    /// Records up to here are in it; `None` when it is damaged.
    pub upto_record: Option<u64>,
}

/// What an injury costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Something is gone.
    Lost,
    /// Nothing yet: it is in the newest checkpoint too, or a start can do without it.
    None,
}

/// A damaged place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injury {
    /// The file; empty when something is missing that no file is known of.
    pub file: String,
    /// Where in it, if not all of it.
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
    /// First record concerned; 0 none.
    pub first_record: u64,
    /// Records concerned.
    pub records: u64,
    /// Points concerned, where a header still says so.
    pub points: u64,
    /// Event times of these, or of the neighbours of what is gone; (0, 0) unknown.
    pub times: (i64, i64),
    /// Whether the times are those of the neighbours.
    pub between: bool,
    /// Inputs concerned, a bit each; 0 unknown.
    pub inputs: u64,
    /// What it costs.
    pub harm: Harm,
}

impl Injury {
    /// One of a place of which nothing more is known.
    pub fn new(file: &str, offset: Option<u64>, what: impl Into<String>, harm: Harm) -> Self {
        Self {
            file: file.to_owned(),
            offset,
            what: what.into(),
            first_record: 0,
            records: 0,
            points: 0,
            times: (0, 0),
            between: false,
            inputs: 0,
            harm,
        }
    }

    fn block(block: &JournalBlock, what: &str, harm: Harm) -> Self {
        let BlockMeta { first_record, records, points, times, inputs } = block.meta.clone();
        Self {
            first_record,
            records: u64::from(records),
            points: u64::from(points),
            times,
            inputs,
            ..Self::new(&block.file, Some(block.offset), what, harm)
        }
    }
}

/// A store as it lies there.
#[derive(Debug, Default)]
pub struct Inspection {
    /// Where it lies.
    pub directory: PathBuf,
    /// Its id; `None` when neither its file nor any block tells.
    pub id: Option<u64>,
    /// Whether an agent holds its lock.
    pub running: bool,
    /// Files and their sizes.
    pub files: BTreeMap<String, u64>,
    /// Checkpoints in order of their numbers.
    pub checkpoints: Vec<CheckpointFile>,
    /// The newest that is whole.
    pub newest: Option<CheckpointState>,
    /// Blocks of the journal in order of their records.
    pub journal: Vec<JournalBlock>,
    /// Blocks of the outbox in order of lanes and places.
    pub outbox: Vec<OutboxEntry>,
    /// What is damaged.
    pub injuries: Vec<Injury>,
    /// Content of the journal's files.
    contents: BTreeMap<String, Vec<u8>>,
}

/// Looks at the store in `directory`.
///
/// # Errors
/// When the directory can't be listed, or a file may not be read. Files that can't be read are injuries.
pub fn inspect(directory: &Path) -> Result<Inspection, StoreError> {
    let mut looks = 1;
    loop {
        let mut inspection = look(ReadOnlyFiles::open(directory)?, is_running(directory))?;
        directory.clone_into(&mut inspection.directory);
        if !inspection.running || inspection.injuries.is_empty() || looks == LOOKS {
            return Ok(inspection);
        }
        // What an agent is writing just now may look torn.
        std::thread::sleep(std::time::Duration::from_millis(50));
        looks += 1;
    }
}

/// Whether somebody holds the lock of a store. The lock itself is not touched: taking it, however shortly, could stop an agent from starting.
fn is_running(directory: &Path) -> bool {
    let Ok(lock) = std::fs::metadata(directory.join("lock")) else { return false };
    let (major, minor) = (rustix::fs::major(lock.dev()), rustix::fs::minor(lock.dev()));
    let exact = format!("{major:02x}:{minor:02x}:{}", lock.ino());
    let inode = format!(":{}", lock.ino());
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|words| {
        let is_flock = words.contains(&"FLOCK") && words.contains(&"WRITE");
        // File systems without a device of their own (major 0) show another number there.
        is_flock && words.iter().any(|w| *w == exact || major == 0 && w.ends_with(&inode))
    })
}

fn look(mut files: ReadOnlyFiles, running: bool) -> Result<Inspection, StoreError> {
    let names: Vec<String> = files.list()?;
    let mut inspection = Inspection { running, files: files.sizes().clone(), ..Inspection::default() };
    for name in names.iter().filter(|n| n.starts_with("journal-")) {
        let content = files.content(name).to_vec();
        inspection.contents.insert(name.clone(), content);
    }
    let (id, injury) = identify(&mut files, &names, &inspection.contents);
    inspection.injuries.extend(injury);
    inspection.id = id;
    if let Some(id) = id {
        inspection.scan_checkpoints(&mut files, &names, id);
        inspection.scan_journal(id);
        inspection.scan_outbox(&mut files, &names, id)?;
        files.write_at("id", 0, &id.to_le_bytes())?;
        files.truncate("id", 8)?;
        let options = StoreOptions { journal_bytes_max: u64::MAX / 4, new_id: id };
        let (store, recovered) = Store::open(files, &options)?;
        inspection.judge(recovered.damage, &recovered.blocks.iter().map(|b| b.meta.first_record).collect::<Vec<_>>());
        files = store.into_files();
    }
    if let Some(forbidden) = files.unreadable().iter().find(|u| u.is_forbidden) {
        let path = files.directory().join(&forbidden.file);
        return Err(StoreError::Io { operation: Operation::Read, path, source: std::io::ErrorKind::PermissionDenied.into() });
    }
    inspection.injuries.extend(files.unreadable().iter().map(unreadable));
    inspection.injuries.sort_by(|a, b| (&a.file, a.offset).cmp(&(&b.file, b.offset)));
    Ok(inspection)
}

fn unreadable(place: &Unreadable) -> Injury {
    let what = format!("{} bytes can't be read: {}", place.bytes, place.reason);
    Injury::new(&place.file, Some(place.offset), what, Harm::Lost)
}

/// The id that the file says; where it says none, or one that nothing here has, that of most blocks.
fn identify(files: &mut ReadOnlyFiles, names: &[String], journal: &BTreeMap<String, Vec<u8>>) -> (Option<u64>, Option<Injury>) {
    let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
    let mut vote = |magic, bytes: &[u8]| {
        let id = bytes.get(8..16).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        if let Some(id) = id.filter(|id| Header::read(magic, *id, bytes).is_some()) {
            *votes.entry(id).or_default() += 1;
        }
    };
    journal.values().for_each(|content| content.chunks(PAGE).for_each(|page| vote(JOURNAL, page)));
    for name in names.iter().filter(|n| outbox::parse(n).is_some()) {
        vote(OUTBOX, &files.read(name).unwrap_or_default());
    }
    for name in names.iter().filter(|n| n.starts_with("checkpoint-")) {
        let content = files.content(name);
        let id = content.get(8..16).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        if let Some(id) = id.filter(|id| checkpoint::decode(content, *id).is_some()) {
            *votes.entry(id).or_default() += 1;
        }
    }
    let stored = names.iter().any(|n| n == "id").then(|| files.content("id").to_vec());
    let said = stored.as_deref().and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    let most = votes.iter().max_by_key(|(_, n)| **n).map(|(id, _)| *id);
    match (said, most) {
        (Some(id), _) if votes.contains_key(&id) => (Some(id), None),
        (said, Some(most)) => {
            let what = match (stored, said) {
                (None, _) => "missing",
                (Some(_), None) => "damaged",
                (Some(_), Some(_)) => "not the id of any block",
            };
            let what = format!("{what}, the blocks are of store {most:016x}");
            (Some(most), Some(Injury::new("id", None, what, Harm::None)))
        }
        (said, None) => (said, None),
    }
}

impl Inspection {
    /// The payload of a block of the journal; `None` when it is damaged.
    pub fn payload(&self, block: &JournalBlock) -> Option<Vec<u8>> {
        let bytes = self.contents.get(&block.file)?.get(usize::try_from(block.offset).ok()?..)?;
        Header::read(JOURNAL, self.id?, bytes)?.payload(bytes)
    }

    /// The content of a file of the outbox, read anew.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn outbox_file(&self, file: &str) -> Result<Vec<u8>, StoreError> {
        Ok(ReadOnlyFiles::open(&self.directory)?.content(file).to_vec())
    }

    /// The payload of a block in the content of its file; `None` when it is damaged.
    pub fn outbox_payload(&self, content: &[u8], entry: &OutboxEntry) -> Option<Vec<u8>> {
        let bytes = content.get(usize::try_from(entry.offset).ok()?..)?;
        Header::read(OUTBOX, self.id?, bytes)?.payload(bytes)
    }

    fn scan_checkpoints(&mut self, files: &mut ReadOnlyFiles, names: &[String], id: u64) {
        for name in names {
            let Some(number) = name.strip_prefix("checkpoint-").and_then(|n| n.parse::<u64>().ok()) else { continue };
            let state = checkpoint::decode(files.content(name), id);
            let upto_record = state.as_ref().map(|s| s.upto_record);
            self.checkpoints.push(CheckpointFile { file: name.clone(), number, upto_record });
            if let Some(state) = state
                && self.newest.as_ref().is_none_or(|n| n.number < state.number)
            {
                self.newest = Some(state);
            }
        }
        self.checkpoints.sort_by_key(|c| c.number);
    }

    fn scan_journal(&mut self, id: u64) {
        let mut blocks = Vec::new();
        for (name, content) in &self.contents {
            let mut at = 0;
            while at + HEADER <= content.len() {
                let Some(header) = Header::read(JOURNAL, id, &content[at..]) else {
                    at += PAGE;
                    continue;
                };
                let whole = header.payload(&content[at..]).is_some();
                let meta = BlockMeta {
                    first_record: header.first,
                    records: u32::try_from(header.second).unwrap_or(u32::MAX),
                    points: header.points,
                    times: header.times,
                    inputs: header.inputs,
                };
                let (offset, bytes) = (at as u64, header.length() as u64);
                // One without records is a mark: it only says what was durable.
                if meta.records > 0 {
                    let block = JournalBlock { file: name.clone(), offset, bytes, meta, whole, need: Need::Free };
                    blocks.push((Reverse((header.run, header.third)), block));
                }
                at += if whole { pages(header.length()) } else { PAGE };
            }
        }
        // Written again, by the same run after a failed sync or by the next one, a block is there twice.
        blocks.sort_by_key(|(run, b)| (b.meta.first_record, !b.whole, *run));
        blocks.dedup_by_key(|(_, b)| b.meta.first_record);
        self.journal = blocks.into_iter().map(|(_, block)| block).collect();
    }

    fn scan_outbox(&mut self, files: &mut ReadOnlyFiles, names: &[String], id: u64) -> Result<(), StoreError> {
        for name in names {
            let Some((lane, segment)) = outbox::parse(name) else { continue };
            // Without a checkpoint nobody knows an end; then everything may be needed.
            let (last, end) = self.newest.as_ref().map_or((u64::MAX, 0), |c| c.ends[lane]);
            let content = files.read(name)?;
            let behind = |at: usize| segment > last || segment == last && at as u64 >= end;
            let mut at = 0;
            while at + HEADER <= content.len() {
                let Some(header) = Header::read(OUTBOX, id, &content[at..]) else {
                    let next = (at + 1..content.len()).find(|i| Header::read(OUTBOX, id, &content[*i..]).is_some());
                    let next = next.unwrap_or(content.len());
                    if !behind(at) {
                        let what = format!("{} bytes are no block", next - at);
                        self.injuries.push(Injury::new(name, Some(at as u64), what, Harm::Lost));
                    }
                    at = next;
                    continue;
                };
                self.outbox.push(OutboxEntry {
                    file: name.clone(),
                    offset: at as u64,
                    bytes: header.length() as u64,
                    lane: lane as u8,
                    first: Identity { record: header.first, ordinal: header.third as u32 },
                    last: Identity { record: header.second, ordinal: (header.third >> 32) as u32 },
                    points: header.points,
                    times: header.times,
                    whole: header.payload(&content[at..]).is_some(),
                    behind: behind(at),
                });
                at += header.length();
            }
            // Cut off: a start would find less than the checkpoint knows of.
            if segment == last && (content.len() as u64) < end {
                let what = format!("it ends {} bytes early", end - content.len() as u64);
                self.injuries.push(Injury::new(name, Some(content.len() as u64), what, Harm::Lost));
            }
        }
        Ok(())
    }

    /// Says of each block of the journal what it is good for, and adds what the recovery found damaged.
    fn judge(&mut self, damage: Vec<Damage>, recovered: &[u64]) {
        let mut covered = self.checkpoints.iter().filter_map(|c| c.upto_record).rev();
        let newest = covered.next().unwrap_or(0);
        // With a single whole checkpoint out of several nobody knows what the one before would still need.
        let older = if self.checkpoints.len() == 1 && self.checkpoints[0].number == 1 { 0 } else { covered.next().unwrap_or(newest) };
        for block in &mut self.journal {
            let last = block.last_record();
            let lost = damage.iter().any(|d| d.records > 0 && d.first_record == block.meta.first_record);
            block.need = if last <= older {
                Need::Free
            } else if last <= newest {
                Need::Kept
            } else if lost || recovered.contains(&block.meta.first_record) {
                Need::Needed
            } else {
                Need::Unfinished
            };
        }
        for damage in damage {
            // Named more exactly by the scan.
            if !damage.place.starts_with("outbox") {
                let injury = self.injury(damage);
                self.injuries.push(injury);
            }
        }
        // What is missing without a header is not told from what never came: a checkpoint also covers records that the disk refused.
        let kept = self.journal.iter().filter(|b| b.need == Need::Kept && !b.whole);
        let kept: Vec<Injury> = kept.map(|b| Injury::block(b, "the payload is damaged", Harm::None)).collect();
        self.injuries.extend(kept);
    }

    fn injury(&self, damage: Damage) -> Injury {
        if damage.records == 0 {
            let what = if damage.place.starts_with("checkpoint-") { "the checkpoint is damaged" } else { "damaged" };
            return Injury::new(&damage.place, None, what, Harm::Lost);
        }
        let found = self.journal.iter().find(|b| b.meta.first_record == damage.first_record && !b.whole);
        match found.filter(|b| u64::from(b.meta.records) == damage.records) {
            Some(block) => Injury::block(block, "the payload is damaged", Harm::Lost),
            None => self.gap(damage.first_record, damage.records, Some(&damage.place)),
        }
    }

    /// Records of which not even a header is left: they began where the block before them ends.
    fn gap(&self, first: u64, records: u64, place: Option<&str>) -> Injury {
        let before = self.journal.iter().rev().find(|b| b.meta.first_record < first && b.whole);
        let after = self.journal.iter().find(|b| b.meta.first_record >= first.saturating_add(records) && b.whole);
        let size = |file: &str| self.contents.get(file).map_or(0, |c| c.len() as u64);
        let behind = before.filter(|b| b.last_record() + 1 == first).map(|b| (b.file.as_str(), b.offset + pages(b.bytes as usize) as u64));
        let taken = |file: &str, at: u64| self.journal.iter().any(|b| b.file == file && b.offset == at && b.meta.first_record > first);
        let exact = behind.filter(|(file, at)| at + (PAGE as u64) <= size(file) && !taken(file, *at));
        let spoken = place.and_then(|p| p.rsplit_once(" at ")).and_then(|(file, at)| Some((file, at.parse().ok()?)));
        let (file, offset) = exact.or(spoken).map_or((place.unwrap_or("the journal"), None), |(file, at)| (file, Some(at)));
        let bounds = (before.filter(|b| b.meta.points > 0), after.filter(|b| b.meta.points > 0));
        let times = match bounds {
            (Some(before), Some(after)) => (before.meta.times.1, after.meta.times.0),
            _ => (0, 0),
        };
        let what = "blocks are missing";
        Injury { first_record: first, records, times, between: true, ..Injury::new(file, offset, what, Harm::Lost) }
    }
}
