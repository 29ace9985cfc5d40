//! The core's state: how it begins, what a checkpoint holds of it, and how it comes back.

use std::{collections::BTreeMap, sync::Arc};

use weir_plugin_api::{
    Chunk, Identity, Lane, Resume,
    plugin::{AgentId, OutputResume},
    position::MessageId,
};

use super::{
    Core, InputState, Now, OutboxPlace,
    checkpoint::CheckpointState,
    clock::ClockState,
    commit::Commit,
    condition::Dropping,
    dedup::{Dedup, NameHashes},
    floors::Owed,
    ledger::{DamageLine, OutputLine},
    pace::Pace,
    thin::{Kept, Thinning},
    waiting::{Stored, Waiting, count},
};
use crate::{
    codec::{
        bytes::{Damaged, Reader, put_bytes, put_i64, put_u64},
        chunk,
        record::{BlockBuilder, counts, file, kept, put_counts, put_file, put_kept, quality},
    },
    operators::{Operators, SnapshotError},
    record::Stamp,
    results::Results,
    series::SeriesTable,
    spec::EngineSpec,
};

/// Version of the state's format.
const VERSION: u64 = 5;
/// The one before knew no `dedup`.
const VERSION_WITHOUT_DEDUP: u64 = 4;
/// The one before that knew of no results that were thinned.
const VERSION_WITHOUT_THINNED: u64 = 3;
/// And the one before that did not say which configuration it belongs to.
const VERSION_WITHOUT_SPEC: u64 = 2;

/// Why a state can't be restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Written by another version.
    #[error("the state has format {0}, this version reads {VERSION}")]
    Version(u64),
    /// The core's part.
    #[error("the state is damaged")]
    Damaged(#[from] Damaged),
    /// The operators' part.
    #[error("the operators' state can't be read")]
    Operators(#[from] SnapshotError),
}

/// A block the store found in the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FoundBlock {
    /// Lane.
    pub lane: u8,
    /// Where.
    pub place: OutboxPlace,
    /// First identity.
    pub first: Identity,
    /// Points in it.
    pub points: u32,
}

impl Core {
    /// A first start.
    pub fn new(spec: Arc<EngineSpec>, now: Now) -> Self {
        let outputs = spec.outputs.len();
        Self {
            table: SeriesTable::new(spec.limits.series_max),
            hashes: NameHashes::default(),
            operators: Operators::new(Arc::clone(&spec)),
            results: Results::default(),
            inputs: spec.inputs.iter().map(|_| InputState::default()).collect(),
            lines: spec.outputs.iter().map(|o| OutputLine { name: o.name.clone(), ..OutputLine::default() }).collect(),
            tokens: vec![0; outputs],
            unrouted: vec![0; outputs],
            waiting: Waiting::new(outputs),
            block: BlockBuilder::default(),
            clock: ClockState::start(0, 0, now),
            commit: Commit::new(&spec.storage),
            next_record: 1,
            damage: DamageLine::default(),
            dropping: vec![Dropping::default(); outputs],
            conflicts: (0, i64::MIN),
            levels_sent: vec![None; spec.levels.len()],
            checkpoint: CheckpointState { freed: [u64::MAX; 2], ..CheckpointState::default() },
            gone: Vec::new(),
            adopted: [Identity::default(); 2],
            in_outbox: BTreeMap::new(),
            owed_floors: Owed::Nothing,
            gap: false,
            lost: Vec::new(),
            known: None,
            told: Vec::new(),
            dropped: Vec::new(),
            failed: None,
            armed: i64::MAX,
            spilled: Vec::new(),
            moved: Vec::new(),
            thinning: Thinning::default(),
            unreadable: super::Unreadable::default(),
            replayed: Stamp::default(),
            last_observed: 0,
            pace: vec![Pace::start(now.steady); outputs],
            held_until: None,
            configured: Arc::clone(&spec),
            spec_known: false,
            spec,
        }
    }

    /// Back from a checkpoint's state; `outbox` is what the store found. The configuration the state belongs to is in force while the journal
    /// is replayed, `spec` from [`Core::adopt`] on.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn restore(spec: Arc<EngineSpec>, state: &[u8], outbox: &[FoundBlock], now: Now) -> Result<Self, StateError> {
        let mut reader = Reader::new(state);
        let Head { own, thinned, dedup } = head(&mut reader)?;
        let mut seen = dedups(dedup)?;
        let (configured, mut unreadable) = (spec, None);
        let spec = match own.map(EngineSpec::from_bytes) {
            Some(Ok(own)) => Arc::new(own),
            Some(Err(error)) => {
                unreadable = Some(format!("the state belongs to {error}: what follows it is replayed under the one of today"));
                Arc::clone(&configured)
            }
            None => Arc::clone(&configured),
        };
        let mut core = Self::new(Arc::clone(&spec), now);
        (core.configured, core.spec_known) = (configured, own.is_some() && unreadable.is_none());
        core.next_record = reader.u64()?;
        core.checkpoint.number = reader.u64()?;
        let observed = reader.i64()?;
        core.clock = ClockState::start(observed, reader.i64()?, now);
        core.clock.offset = reader.i64()?;
        core.clock.quality = quality(reader.u8()?)?;
        core.damage =
            DamageLine { journal_blocks: reader.u64()?, records: reader.u64()?, points: reader.u64()?, outbox_blocks: reader.u64()? };
        for _ in 0..reader.count()? {
            let name = reader.text()?.to_owned();
            let input = InputState {
                resume: resume(&mut reader)?,
                counts: counts(&mut reader)?,
                recorded: reader.u64()?,
                dedup: seen.remove(&name).unwrap_or_default(),
                unacknowledged: 0,
                series: Vec::new(),
                fields: Vec::new(),
            };
            if let Some(index) = spec.inputs.iter().position(|i| i.name == name) {
                core.inputs[index] = input;
            } else {
                core.gone.push((name, input));
            }
        }
        core.restore_outputs(&mut reader, outbox)?;
        core.restore_thinned(thinned, outbox)?;
        let (operators, dropped) = Operators::restore(spec, reader.take(reader.left())?, &mut core.table)?;
        core.operators = operators;
        // Unless the journal has them.
        core.owed_floors = Owed::OfNow;
        core.dropped = unreadable.into_iter().chain(dropped).collect();
        Ok(core)
    }

    fn restore_outputs(&mut self, reader: &mut Reader<'_>, outbox: &[FoundBlock]) -> Result<(), Damaged> {
        let mut names = Vec::new();
        for _ in 0..reader.count()? {
            let name = reader.text()?;
            let index = self.spec.outputs.iter().position(|o| o.name == name);
            names.push(index);
            let mut values = [0; 8];
            for value in &mut values {
                *value = reader.u64()?;
            }
            let token = reader.u64()?;
            let mut cursors = Vec::new();
            for _ in Lane::ALL {
                let done = Identity { record: reader.u64()?, ordinal: reader.narrow()? };
                let outstanding = reader.u64()?;
                let mut gaps = Vec::new();
                for _ in 0..reader.count()? {
                    let after = Identity { record: reader.u64()?, ordinal: reader.narrow()? };
                    gaps.push((after, Identity { record: reader.u64()?, ordinal: reader.narrow()? }));
                }
                cursors.push((done, outstanding, gaps));
            }
            let Some(index) = index else { continue };
            self.tokens[index] = token;
            let line = &mut self.lines[index];
            [
                line.routed,
                line.delivered,
                line.collapsed,
                line.rejected,
                line.expired_age,
                line.expired_bytes,
                line.expired_disk,
                line.expired_stale,
            ] = values;
            for (lane, (done, outstanding, gaps)) in self.waiting.lanes.iter_mut().zip(cursors) {
                let cursor = &mut lane.cursors[index];
                (cursor.done, cursor.sent, cursor.outstanding, cursor.gaps) = (done, done, outstanding, gaps);
            }
        }
        let places: BTreeMap<(u8, Identity), OutboxPlace> = outbox.iter().map(|f| ((f.lane, f.first), f.place)).collect();
        for lane in 0..2u8 {
            for _ in 0..reader.count()? {
                let first = Identity { record: reader.u64()?, ordinal: reader.narrow()? };
                let last = Identity { record: reader.u64()?, ordinal: reader.narrow()? };
                let observed = reader.i64()?;
                let mut by_output = vec![0; self.spec.outputs.len()];
                for index in &names {
                    let count: u32 = reader.narrow()?;
                    if let Some(index) = index {
                        by_output[*index] = count;
                    }
                }
                let place = places.get(&(lane, first)).copied();
                let stored = Stored { place, first, last, counts: by_output, observed, ..Stored::default() };
                if place.is_some() {
                    self.checkpoint.freed[usize::from(lane)] = 0;
                    self.waiting.lanes[usize::from(lane)].stored.push_back(stored);
                } else {
                    self.lost.push((lane, stored));
                }
            }
        }
        Ok(())
    }

    /// How many of each output's results were thinned out, of which blocks what stays is still to be written, and how many were lost.
    fn restore_thinned(&mut self, thinned: &[u8], outbox: &[FoundBlock]) -> Result<(), Damaged> {
        if thinned.is_empty() {
            return Ok(());
        }
        let mut reader = Reader::new(thinned);
        for _ in 0..reader.count()? {
            let (name, points) = (reader.text()?, reader.u64()?);
            self.lines.iter_mut().filter(|line| line.name == name).for_each(|line| line.expired_downsampled = points);
        }
        for _ in 0..reader.count()? {
            let kept: Kept = kept(&mut reader)?.into();
            let (Some((first, _)), queue) = (kept.first().copied(), self.waiting.lane(Lane::Results)) else { continue };
            queue.stored.iter_mut().filter(|b| b.first == first).for_each(|b| b.kept = Some(Arc::clone(&kept)));
        }
        for _ in 0..reader.count()? {
            let first = Identity { record: reader.u64()?, ordinal: reader.narrow()? };
            let (level, queue) = (reader.narrow()?, self.waiting.lane(Lane::Results));
            queue.stored.iter_mut().filter(|b| b.first == first).for_each(|b| b.level = level);
        }
        if reader.left() == 0 {
            // Of a version that did not know how many points a block has.
            return Ok(());
        }
        for _ in 0..reader.count()? {
            let first = Identity { record: reader.u64()?, ordinal: reader.narrow()? };
            self.choose_version(first, reader.narrow()?, outbox);
        }
        self.lost.sort_by_key(|(lane, block)| (*lane, block.first));
        if reader.left() == 0 {
            // Nothing was lost, or it was not told apart from what a full disk had given up.
            return Ok(());
        }
        for _ in 0..reader.count()? {
            let (name, points) = (reader.text()?, reader.u64()?);
            self.lines.iter_mut().filter(|line| line.name == name).for_each(|line| line.lost_outbox = points);
        }
        Ok(())
    }

    /// Of a block that was thinned the outbox may hold what it was before, too, and where the newest version is damaged only that: then it is
    /// lost, as nobody knows any more which of these points were left out.
    fn choose_version(&mut self, first: Identity, points: u32, outbox: &[FoundBlock]) {
        let queue = self.waiting.lane(Lane::Results);
        let Some(index) = queue.stored.iter().position(|b| b.first == first) else { return };
        queue.stored[index].points = points;
        let version = |found: &&FoundBlock| found.lane == Lane::Results as u8 && found.first == first && found.points == points;
        match outbox.iter().rev().find(version) {
            Some(found) => queue.stored[index].place = Some(found.place),
            None => self.lost.extend(queue.stored.remove(index).map(|block| (Lane::Results as u8, Stored { place: None, ..block }))),
        }
    }

    /// The reverse of [`Core::restore_thinned`]; nothing when nothing was thinned or lost.
    fn put_thinned(&self, out: &mut Vec<u8>) {
        let lines: Vec<&OutputLine> = self.lines.iter().filter(|line| line.expired_downsampled > 0).collect();
        let lost: Vec<&OutputLine> = self.lines.iter().filter(|line| line.lost_outbox > 0).collect();
        if lines.is_empty() && lost.is_empty() {
            return;
        }
        put_u64(out, lines.len() as u64);
        for line in lines {
            put_bytes(out, line.name.as_bytes());
            put_u64(out, line.expired_downsampled);
        }
        let pending: Vec<&Kept> = self.waiting.lanes[Lane::Results as usize].stored.iter().filter_map(|b| b.kept.as_ref()).collect();
        put_u64(out, pending.len() as u64);
        pending.into_iter().for_each(|runs| put_kept(out, runs));
        let thinned: Vec<&Stored> = self.waiting.lanes[Lane::Results as usize].stored.iter().filter(|b| b.level > 0).collect();
        put_u64(out, thinned.len() as u64);
        for block in thinned {
            [block.first.record, u64::from(block.first.ordinal), u64::from(block.level)].into_iter().for_each(|v| put_u64(out, v));
        }
        let known: Vec<&Stored> = self.waiting.lanes[Lane::Results as usize].stored.iter().filter(|b| b.points > 0).collect();
        put_u64(out, known.len() as u64);
        for block in known {
            [block.first.record, u64::from(block.first.ordinal), u64::from(block.points)].into_iter().for_each(|v| put_u64(out, v));
        }
        if lost.is_empty() {
            return;
        }
        put_u64(out, lost.len() as u64);
        for line in lost {
            put_bytes(out, line.name.as_bytes());
            put_u64(out, line.lost_outbox);
        }
    }

    /// The state as bytes.
    pub(super) fn snapshot(&self, now: Now) -> Vec<u8> {
        let mut out = Vec::new();
        put_u64(&mut out, VERSION);
        put_bytes(&mut out, &self.spec.to_bytes());
        let mut thinned = Vec::new();
        self.put_thinned(&mut thinned);
        put_bytes(&mut out, &thinned);
        put_bytes(&mut out, &self.dedups());
        put_u64(&mut out, self.next_record);
        put_u64(&mut out, self.checkpoint.number);
        put_i64(&mut out, self.clock.observed(now));
        put_i64(&mut out, self.clock.wall_last);
        put_i64(&mut out, self.clock.offset);
        out.push(self.clock.quality as u8);
        let d = &self.damage;
        [d.journal_blocks, d.records, d.points, d.outbox_blocks].into_iter().for_each(|v| put_u64(&mut out, v));
        put_u64(&mut out, (self.inputs.len() + self.gone.len()) as u64);
        let named = self.spec.inputs.iter().map(|i| i.name.as_str()).zip(&self.inputs);
        for (name, input) in named.chain(self.gone.iter().map(|(name, input)| (name.as_str(), input))) {
            put_bytes(&mut out, name.as_bytes());
            put_resume(&mut out, &input.resume);
            put_counts(&mut out, &input.counts);
            put_u64(&mut out, input.recorded);
        }
        put_u64(&mut out, self.lines.len() as u64);
        for (index, line) in self.lines.iter().enumerate() {
            put_bytes(&mut out, line.name.as_bytes());
            for value in [
                line.routed,
                line.delivered,
                line.collapsed,
                line.rejected,
                line.expired_age,
                line.expired_bytes,
                line.expired_disk,
                line.expired_stale,
            ] {
                put_u64(&mut out, value);
            }
            put_u64(&mut out, self.tokens[index]);
            for lane in &self.waiting.lanes {
                let cursor = &lane.cursors[index];
                put_u64(&mut out, cursor.done.record);
                put_u64(&mut out, u64::from(cursor.done.ordinal));
                put_u64(&mut out, cursor.outstanding);
                put_u64(&mut out, cursor.gaps.len() as u64);
                for identity in cursor.gaps.iter().flat_map(|(after, upto)| [after, upto]) {
                    put_u64(&mut out, identity.record);
                    put_u64(&mut out, u64::from(identity.ordinal));
                }
            }
        }
        for lane in &self.waiting.lanes {
            put_u64(&mut out, lane.stored.len() as u64);
            for stored in &lane.stored {
                put_u64(&mut out, stored.first.record);
                put_u64(&mut out, u64::from(stored.first.ordinal));
                put_u64(&mut out, stored.last.record);
                put_u64(&mut out, u64::from(stored.last.ordinal));
                put_i64(&mut out, stored.observed);
                stored.counts.iter().for_each(|count| put_u64(&mut out, u64::from(*count)));
            }
        }
        self.operators.snapshot(&self.table, &mut out);
        out
    }

    /// What inputs have seen, of those that have seen anything.
    fn dedups(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let named = self.spec.inputs.iter().map(|i| i.name.as_str()).zip(&self.inputs);
        for (name, input) in named.chain(self.gone.iter().map(|(name, input)| (name.as_str(), input))) {
            if !input.dedup.is_unused() {
                put_bytes(&mut out, name.as_bytes());
                input.dedup.put(&mut out);
            }
        }
        out
    }

    /// Every state is lost, and this is what the store found in the outbox, with its bytes where they are whole: it waits for every output it
    /// was for, but for what the journal, of which `newest` is the last record, says was settled. Of a block that was written again, thinned or
    /// together with others, the newest version that is whole stands for those before it. Before anything is replayed.
    pub fn adopt_outbox(&mut self, mut found: Vec<(FoundBlock, Option<Vec<u8>>)>, newest: u64) {
        let spec = Arc::clone(&self.spec);
        let names: Vec<&str> = spec.outputs.iter().map(|o| o.name.as_str()).collect();
        found.sort_by_key(|(block, _)| (block.lane, block.place.segment, block.place.offset));
        let mut blocks: [BTreeMap<Identity, Stored>; 2] = Default::default();
        for (block, bytes) in found.into_iter().rev() {
            let Some(chunk) = bytes.and_then(|bytes| chunk::decode(&bytes, &names).ok()).filter(|chunk| !chunk.is_empty()) else {
                self.damage.outbox_blocks += 1;
                continue;
            };
            let lane = usize::from(block.lane.min(1));
            let (first, last) = (chunk.identity(0), chunk.identity(chunk.len() - 1));
            // One of records that are gone would get the identities of others.
            let newer = blocks[lane].range(..=last).next_back();
            if last.record > newest || newer.is_some_and(|(_, newer)| newer.last >= first) {
                continue;
            }
            let counts = count(&chunk, 0, self.lines.len());
            for (output, count) in counts.iter().enumerate() {
                self.lines[output].routed += u64::from(*count);
                self.waiting.lanes[lane].cursors[output].outstanding += u64::from(*count);
            }
            self.note_in_outbox(&chunk, lane);
            self.checkpoint.freed[lane] = 0;
            let points = chunk.len() as u32;
            blocks[lane].insert(first, Stored { place: Some(block.place), first, last, counts, points, ..Stored::default() });
        }
        for ((lane, blocks), adopted) in self.waiting.lanes.iter_mut().zip(blocks).zip(&mut self.adopted) {
            *adopted = blocks.last_key_value().map_or(*adopted, |(_, newest)| newest.last);
            lane.stored.extend(blocks.into_values());
        }
    }

    fn note_in_outbox(&mut self, chunk: &Chunk, lane: usize) {
        for point in (0..chunk.len()).filter(|_| lane == Lane::Results as usize).map(|index| chunk.point(index)) {
            let (series, time) = (point.series(), point.time());
            match self.in_outbox.get_mut(series.line()) {
                Some((_, newest)) => *newest = time.max(*newest),
                None => drop(self.in_outbox.insert(series.line().to_owned(), (Arc::clone(point.series_arc()), time))),
            }
        }
    }

    /// Without a state and with records missing, what waits is what is there: records that are lost may have settled some of what was adopted,
    /// and others settled what is lost. Of a block that an output had begun with the rest is told apart when it is read.
    pub(super) fn count_adopted(&mut self) {
        let has_state = self.checkpoint.number > 0;
        if has_state || self.adopted == [Identity::default(); 2] && !self.gap {
            return;
        }
        // It is in the sums.
        self.unrouted.fill(0);
        for (index, line) in self.lines.iter_mut().enumerate() {
            for lane in &mut self.waiting.lanes {
                let done = lane.cursors[index].done;
                let stored = lane.stored.iter().filter(|b| b.last > done).map(|b| u64::from(b.counts[index]));
                let held = lane.held.iter().filter(|h| h.last > done);
                let held = held.map(|h| u64::from(h.counts[index].min(count(&h.chunk, h.chunk.after(done), index + 1)[index])));
                lane.cursors[index].outstanding = stored.chain(held).sum();
            }
            line.routed = line.settled() + self.waiting.lanes.iter().map(|lane| lane.cursors[index].outstanding).sum::<u64>();
        }
    }

    /// Says which boot of the machine this is, before [`Core::start`]: a number that no other boot has. Without it a boot is told from the
    /// one before by a steady time that has gone back.
    pub fn set_boot(&mut self, boot: u64) {
        self.clock.boot = boot;
    }

    /// Where an input stood.
    pub fn resume(&self, input: u16) -> &Resume {
        &self.inputs[usize::from(input)].resume
    }

    /// The last record there is.
    pub fn last_record(&self) -> u64 {
        self.next_record - 1
    }

    /// Where an output stood.
    pub fn output_resume(&self, output: u16) -> OutputResume {
        let index = usize::from(output);
        let [alerts, results] = self.waiting.lanes.each_ref().map(|lane| lane.cursors[index].done);
        let replayed = OutputResume { alerts, results, token: self.tokens[index], ..OutputResume::default() };
        let resume = self.told.iter().rev().find(|told| told.output == output).map_or(replayed, |told| told.resume);
        // The core does not know whose it is.
        let known = self.known.as_ref().and_then(|known| known.get(index)).is_some_and(|known| *known);
        OutputResume { agent: AgentId::default(), recovered: self.last_record(), known, ..resume }
    }
}

/// What a state begins with.
#[derive(Clone, Copy, Default)]
pub(super) struct Head<'a> {
    /// The configuration it belongs to.
    pub own: Option<&'a [u8]>,
    /// What was thinned.
    pub thinned: &'a [u8],
    /// What inputs have seen.
    pub dedup: &'a [u8],
}

/// Reads it; the reader stands behind it.
pub(super) fn head<'a>(reader: &mut Reader<'a>) -> Result<Head<'a>, StateError> {
    match reader.u64()? {
        VERSION => Ok(Head { own: Some(reader.bytes()?), thinned: reader.bytes()?, dedup: reader.bytes()? }),
        VERSION_WITHOUT_DEDUP => Ok(Head { own: Some(reader.bytes()?), thinned: reader.bytes()?, dedup: &[] }),
        VERSION_WITHOUT_THINNED => Ok(Head { own: Some(reader.bytes()?), ..Head::default() }),
        VERSION_WITHOUT_SPEC => Ok(Head::default()),
        version => Err(StateError::Version(version)),
    }
}

/// What inputs had seen, by name.
pub(super) fn dedups(bytes: &[u8]) -> Result<BTreeMap<String, Dedup>, Damaged> {
    let mut reader = Reader::new(bytes);
    let mut dedups = BTreeMap::new();
    while reader.left() > 0 {
        dedups.insert(reader.text()?.to_owned(), Dedup::read(&mut reader)?);
    }
    Ok(dedups)
}

/// The configuration a checkpoint's state belongs to; `None` when it was written before states said so.
///
/// # Errors
/// See [`StateError`]; a configuration that can't be read is [`Damaged`].
pub fn spec_of(state: &[u8]) -> Result<Option<EngineSpec>, StateError> {
    let own = head(&mut Reader::new(state))?.own;
    own.map(EngineSpec::from_bytes).transpose().map_err(|_| StateError::Damaged(Damaged("a configuration that can't be read")))
}

fn put_resume(out: &mut Vec<u8>, resume: &Resume) {
    put_u64(out, resume.session);
    let generations: Vec<_> = resume.messages.generations().collect();
    put_u64(out, (resume.messages.len() + generations.len()) as u64);
    for generation in generations {
        // No message has the id 0: it says that a generation begins.
        for (id, hash) in std::iter::once((&0, &0)).chain(generation) {
            put_u64(out, u64::from(*id));
            out.extend_from_slice(&hash.to_le_bytes());
        }
    }
    put_u64(out, resume.files_by_touch().count() as u64);
    resume.files_by_touch().for_each(|file| put_file(out, file));
    put_u64(out, u64::from(resume.sequence.is_some()));
    if let Some((nonce, sequence)) = resume.sequence {
        put_u64(out, nonce);
        put_u64(out, sequence);
    }
    put_u64(out, resume.offsets.len() as u64);
    for (name, offset) in &resume.offsets {
        put_bytes(out, name.as_bytes());
        put_u64(out, *offset);
    }
    put_u64(out, resume.keys.len() as u64);
    resume.keys.iter().for_each(|key| put_bytes(out, key.as_bytes()));
}

pub(super) fn resume(reader: &mut Reader<'_>) -> Result<Resume, Damaged> {
    let mut resume = Resume { session: reader.u64()?, ..Resume::default() };
    for _ in 0..reader.count()? {
        let id = reader.narrow()?;
        let hash = reader.take(4)?;
        match id {
            0 => resume.messages.begin(),
            id => resume.messages.insert(MessageId { id, hash: u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]) }),
        }
    }
    for _ in 0..reader.count()? {
        resume.touch(file(reader)?);
    }
    if reader.u64()? == 1 {
        resume.sequence = Some((reader.u64()?, reader.u64()?));
    }
    for _ in 0..reader.count()? {
        let name = reader.text()?.to_owned();
        resume.offsets.insert(name, reader.u64()?);
    }
    for _ in 0..reader.count()? {
        resume.keys.push(reader.text()?.to_owned());
    }
    Ok(resume)
}
