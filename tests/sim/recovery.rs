//! Death and what comes after it: opening the store, and what must be there then and at the end of a life.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weir_engine::{
    codec::{
        bytes::{Reader, put_bytes, put_u64},
        chunk,
    },
    core::{Core, Effect, FoundBlock, Ledger},
    record::Record,
    spec::{Durability, EngineSpec},
};
use weir_plugin_api::{Identity, Lane, Resume};
use weir_store::{Damage, Files, Recovered, RecoveredBlock, Store, StoreOptions, memory::Luck};

use super::{
    budget::Budget,
    disk::{Disk, core_found, core_meta},
    edits,
    naive::check_transitions,
    oracle::{Above, Place, check_replacements, content},
    plan::{Bug, Trouble},
    simulator::{self, Simulator},
    world::{self, INPUTS, MS},
};

/// Blocks that one injury may cost at the journal's end without being named: nothing later says that they were whole.
const UNNAMED_MAX: usize = 3;
/// Times a start asks for a block: what is given up here is gone.
const READS: usize = 100;
/// What the slow disk of a simulation may add to an interval, nanoseconds.
const SLOWNESS: i64 = 500 * MS;

/// How it died.
#[derive(Clone, Copy, Debug)]
struct Death {
    /// Its last record.
    before: u64,
    /// The power failed, now or when it was to be opened before.
    cut: bool,
    /// When.
    at: i64,
    /// Records that were on the disk for good.
    synced: u64,
    /// Records whose results may have left.
    released: u64,
}

impl Simulator {
    /// Everything in memory is gone; what is on the disk is opened again. Dies perhaps while it is.
    pub fn recover(&mut self) -> Result<(), String> {
        self.seen.crashes += 1;
        self.crashed = false;
        self.files.fuse.set(None);
        self.inbox.clear();
        self.withheld.clear();
        let before = self.committed.last().max(self.core.ledger().records);
        let mut cut = false;
        if self.plan.power_cuts && self.random.once_in(2) {
            let luck = [Luck::Dice, Luck::Dice, Luck::Nothing, Luck::NoNames, Luck::NoContents][self.random.below(5) as usize];
            self.trace(|| format!("power cut, {luck:?}"));
            self.files.files.borrow_mut().crash_with(luck);
            self.clock.boot = self.clock.elapsed;
            cut = true;
        }
        // One that can't be opened, or dies while it is, goes on being dead.
        let (at, before_cut) = self.dead_since.take().unwrap_or((self.clock.elapsed, false));
        let released = if self.plan.durability == Durability::Power { self.disk.synced } else { self.disk.last_written };
        let death = Death { before, cut: cut || before_cut, at, synced: self.disk.synced, released };
        self.clock.elapsed += self.random.below(1_000_000_000) as i64;
        if self.plan.trouble == Trouble::Flips && self.random.once_in(3) {
            self.injure();
        } else if self.plan.trouble == Trouble::Damage && self.other.once_in(6) {
            self.damage();
        }
        // Once in a life: what a second time finds may be what the first has given up.
        if self.plan.stateless && self.seen.stateless == 0 && self.other.once_in(10) {
            self.lose_checkpoints();
        }
        if self.dies() && self.random.once_in(8) {
            self.files.fuse.set(Some(self.random.below(6) as u32));
        }
        let options = StoreOptions { journal_bytes_max: self.spec.storage.journal_bytes_max, new_id: 1 };
        let recovered = match Store::open(self.files.clone(), &options) {
            Ok((store, recovered)) => {
                self.store = store;
                recovered
            }
            // Died while it was opened: once more.
            Err(_) if self.files.fuse.is_dead() => {
                self.dead_since = Some((death.at, death.cut));
                return Ok(());
            }
            Err(_) if self.has_faults() => {
                let mut files = self.files.files.borrow_mut();
                (files.faults.sync_error_in, files.faults.write_error_in, files.faults.read_error_in, files.faults.space) = (0, 0, 0, 0);
                (self.crashed, self.dead_since) = (true, Some((death.at, death.cut)));
                return Ok(());
            }
            Err(error) => return Err(format!("can't be opened: {error}")),
        };
        self.files.fuse.set(None);
        self.come_back(recovered, death)
    }

    fn has_faults(&self) -> bool {
        let faults = self.files.files.borrow().faults;
        faults.sync_error_in + faults.write_error_in + faults.read_error_in > 0 || faults.space > 0
    }

    /// Flips a bit or two of what is in use.
    fn injure(&mut self) {
        let mut files = self.files.files.borrow_mut();
        let names: Vec<String> = files.list().unwrap_or_default().into_iter().filter(|n| n != "id").collect();
        for _ in 0..=self.random.below(2) {
            let Some(name) = names.get(self.random.below(names.len() as u64) as usize) else { continue };
            // One of two generations is left.
            if name.starts_with("checkpoint") && names.iter().any(|n| n != name && self.flipped.contains(n)) {
                continue;
            }
            let bytes = files.read(name).unwrap_or_default();
            let used: Vec<usize> = (0..32)
                .map(|_| self.random.below(bytes.len() as u64) as usize)
                .filter(|at| bytes.get(*at).is_some_and(|b| *b != 0))
                .collect();
            if let Some(at) = used.first() {
                if super::is_traced() {
                    eprintln!("flips a bit of {name} at {at}");
                }
                files.flip(name, *at);
                self.flipped.insert(name.clone());
                self.injuries += 1;
                self.injury_blocks += 1;
            }
        }
    }

    /// Flips, zeroes, cuts or removes a part of what is in use.
    fn damage(&mut self) {
        let mut files = self.files.files.borrow_mut();
        let names: Vec<String> = files.list().unwrap_or_default().into_iter().filter(|n| n != "id").collect();
        let Some(name) = names.get(self.other.below(names.len() as u64) as usize) else { return };
        // One of two generations is left.
        if name.starts_with("checkpoint") && names.iter().any(|n| n != name && self.flipped.contains(n)) {
            return;
        }
        let bytes = files.read(name).unwrap_or_default();
        let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        let at = self.other.below(used as u64) as usize;
        // A header or the length of a file may be all that tells of what is behind it.
        let blocks_behind = (used - at.min(used)).div_ceil(4096) + 1;
        let how = self.other.below(5);
        self.injury_blocks += match how {
            0 | 1 if used > 0 => {
                files.flip_bit(name, at, self.other.below(8) as u8);
                1
            }
            2 if used > 0 => {
                files.overwrite(name, at / 4096 * 4096, &vec![0; 4096.min(used - at / 4096 * 4096)]);
                2
            }
            3 => {
                files.cut(name, at as u64);
                blocks_behind
            }
            _ => {
                files.lose(name);
                used.div_ceil(4096) + 1
            }
        };
        if super::is_traced() {
            eprintln!("damages {name} at {at} of {used}: {how}");
        }
        self.flipped.insert(name.clone());
        self.injuries += 1;
    }

    /// Every state is gone, as on a card that lost a part of its names.
    fn lose_checkpoints(&mut self) {
        let mut files = self.files.files.borrow_mut();
        let names = files.list().unwrap_or_default();
        let states: Vec<&String> = names.iter().filter(|n| n.starts_with("checkpoint-")).collect();
        states.iter().for_each(|name| files.lose(name));
        if super::is_traced() && !states.is_empty() {
            eprintln!("loses {states:?}");
        }
        // A full journal leaves blocks to the state alone.
        self.injury_blocks += states.len();
        self.seen.stateless += u64::from(!states.is_empty());
    }

    /// As a start does it: what the outbox holds waits again, and the journal that is left is all that is known.
    fn adopt_outbox(&mut self, blocks: &[RecoveredBlock], outbox: &[FoundBlock]) {
        let newest = blocks.last().map_or(0, |b| b.meta.first_record + u64::from(b.meta.records) - 1);
        let names: Vec<&str> = self.spec.outputs.iter().map(|o| o.name.as_str()).collect();
        let mut found = Vec::new();
        // Of several versions the newest that is whole.
        let mut newer: Vec<(u8, Identity, Identity)> = Vec::new();
        let mut order: Vec<&FoundBlock> = outbox.iter().collect();
        order.sort_by_key(|block| std::cmp::Reverse((block.lane, block.place.segment, block.place.offset)));
        for block in order {
            let place = weir_store::OutboxPlace { segment: block.place.segment, offset: block.place.offset, bytes: block.place.bytes };
            // One that can't be read is asked for again, as a start does it.
            let bytes = (0..READS).find_map(|_| self.store.read_outbox(block.lane, place).ok()).flatten();
            let lane = Lane::ALL[usize::from(block.lane)];
            if let Some(chunk) = bytes.as_ref().and_then(|bytes| chunk::decode(bytes, &names).ok()) {
                let result = |i| ((lane, chunk.identity(i)), (content(&chunk, i, lane), self.order.route(chunk.route(i))));
                let (first, last) = (chunk.identity(0), chunk.identity(chunk.len() - 1));
                if last.record <= newest && newer.iter().all(|n| n.0 != block.lane || n.2 < first || n.1 > last) {
                    newer.push((block.lane, first, last));
                    self.adopted.extend((0..chunk.len()).map(result));
                }
            }
            found.push((*block, bytes));
        }
        if self.plan.bug != Some(Bug::OutboxForgotten) {
            self.core.adopt_outbox(found, newest);
        }
    }

    fn come_back(&mut self, recovered: Recovered, death: Death) -> Result<(), String> {
        let Recovered { checkpoint, blocks, outbox, cursors, damage } = recovered;
        if checkpoint.is_none() && self.plan.stateless {
            // What a checkpoint has need not be synced anywhere else.
            let newest = blocks.last().map_or(0, |b| b.meta.first_record + u64::from(b.meta.records) - 1);
            let complete = damage.iter().all(|d| d.records == 0) && newest >= death.synced;
            self.stateless |= !complete;
            self.seen.rebuilt += u64::from(complete);
        }
        let has_state = checkpoint.is_some();
        let is_missing = damage.iter().any(|d| d.records > 0);
        let ends = checkpoint.as_ref().map_or([(if is_missing { u64::MAX } else { 0 }, 0); 2], |c| c.ends);
        if let Some(beyond) = outbox.iter().find(|f| (f.place.segment, f.place.offset) >= ends[usize::from(f.lane)]) {
            return Err(format!("the outbox holds {beyond:?}, the checkpoint knows nothing behind {ends:?}"));
        }
        let outbox: Vec<_> = outbox.iter().map(core_found).collect();
        let had_state = !outbox.is_empty() || damage.iter().any(|d| d.place.starts_with("checkpoint"));
        if self.plan.edits && self.other.once_in(4) {
            self.seen.edits += 1;
            self.spec = Arc::new(edits::edit(&self.spec, &self.plan, &mut self.other));
            self.order = self.order.next(&self.first, &self.spec);
            // The state becomes another.
            self.digests.clear();
        } else if self.seen.crashes.is_multiple_of(3) {
            // An edit that changes no result: all of the state goes over to another configuration all the same.
            let mut edited = (*self.spec).clone();
            edited.storage.commit_interval ^= 1;
            self.spec = Arc::new(edited);
        }
        self.core = match checkpoint {
            Some(mut c) => {
                if self.plan.bug == Some(Bug::ReplayedUnderNew) {
                    c.state = under(&self.spec, &c.state);
                }
                Core::restore(Arc::clone(&self.spec), &c.state, &outbox, self.now()).map_err(|e| format!("state: {e}"))?
            }
            None => {
                let journal: Vec<_> = blocks.iter().map(|b| (core_meta(&b.meta), b.bytes.as_slice())).collect();
                self.committed.begin_with(&self.spec, Above::of(&journal, had_state));
                Core::new(Arc::clone(&self.spec), self.now())
            }
        };
        if !has_state && !outbox.is_empty() {
            self.adopt_outbox(&blocks, &outbox);
        }
        if !has_state && self.plan.bug != Some(Bug::FloorsForgotten) {
            let journal = blocks.iter().map(|b| (core_meta(&b.meta), b.bytes.as_slice()));
            self.core.start_above(self.now(), journal, had_state);
        }
        for block in &blocks {
            self.core.replay(&core_meta(&block.meta), &block.bytes).map_err(|e| format!("block {:?}: {e}", block.meta))?;
        }
        match self.plan.bug {
            Some(Bug::AppliedTwice) => {
                if let Some(block) = blocks.last() {
                    let meta = weir_engine::core::BlockMeta { first_record: self.core.ledger().records + 1, ..core_meta(&block.meta) };
                    self.core.replay(&meta, &block.bytes).map_err(|e| e.to_string())?;
                }
            }
            Some(Bug::FloorForgotten) => self.core.forget_ended_groups(),
            Some(Bug::ThinnedForgotten) => self.core.forget_thinned(),
            Some(Bug::SeenForgotten) => {
                self.core.forget_seen();
                // The plain list is to find it.
                self.digests.clear();
            }
            _ => {}
        }
        for damage in damage.iter().filter(|d| d.records > 0) {
            self.core.note_damage(damage.records, damage.points);
        }
        self.core.adopt();
        if let Some(saved) = cursors {
            self.seen.saved_cursors += 1;
            if let Some(kept) = self.core.set_saved_cursors(&saved.bytes).map_err(|e| e.to_string())? {
                let _ = self.store.save_cursors(saved.checkpoint, &kept).or_else(|_| self.store.clear_cursors());
            }
        }
        // What waited beyond the records there are now is gone with its cause, as these are when it is not synced.
        let newest = self.core.ledger().records;
        self.adopted.retain(|(_, identity), _| identity.record <= newest);
        self.check_recovered(&damage, death)?;
        let dropped = self.reorder()?;
        if !has_state && (self.plan.thins || self.plan.trouble == Trouble::DiskFull) {
            self.forget_settled();
        }
        self.disk = Disk::new(self.plan, self.core.ledger().records).telling(self.tells_syncs(), &self.store);
        self.budget = Budget::default();
        let records = self.core.ledger().records;
        let believed = self.plan.bug == Some(Bug::LostLifeBelieved);
        self.sinks.iter_mut().filter(|_| !believed).for_each(|sink| sink.forget_records_behind(records));
        self.armed = i64::MAX;
        self.start(&dropped)
    }

    /// Outputs of the configuration the records lead to have their sinks still, others of the one of the day get theirs. What the log is to
    /// say of those that are gone.
    fn reorder(&mut self) -> Result<Vec<String>, String> {
        let before = self.committed.order(&self.first);
        self.order = before.next(&self.first, &self.spec);
        // Of a configuration that is lost nothing was on the disk.
        let early = self.sinks.iter().skip(before.sinks).any(|sink| !sink.arrived.is_empty());
        if early && self.plan.durability == Durability::Power && self.disturbed.is_empty() {
            return Err("an output of a configuration that was not on the disk got results".into());
        }
        self.sinks.truncate(before.sinks);
        for sink in before.sinks..self.order.sinks {
            let output = &self.spec.outputs[usize::from(self.order.output(sink))];
            self.sinks.push(simulator::sink(self.plan, sink, output));
        }
        let gone: Vec<(usize, &str)> = before.without(&self.spec).collect();
        if gone.is_empty() || !self.disturbed.is_empty() || self.unbalanced {
            return Ok(Vec::new());
        }
        let mut settled = vec![0; self.sinks.len()];
        self.committed.day_by_day(&self.first, |_, record, order| match record {
            Record::Delivered { output, counts, .. } | Record::Expired { output, counts, .. } => {
                let c = counts;
                settled[order.sink(*output)] +=
                    c.delivered + c.rejected + c.expired_age + c.expired_bytes + c.expired_disk + c.expired_stale + c.lost_outbox;
            }
            Record::Thinned { points, .. } => points.iter().for_each(|(output, points)| settled[order.sink(*output)] += points),
            _ => {}
        })?;
        let (results, _) = self.committed.results(&self.first)?;
        let waited = |sink: usize| results.values().filter(|r| r.1 >> sink & 1 == 1).count() as u64 - settled[sink];
        let said = gone.into_iter().map(|(sink, name)| (waited(sink), name)).filter(|(waited, _)| *waited > 0);
        Ok(said.map(|(waited, name)| format!("{waited} results that waited for {name:?} are dropped")).collect())
    }

    /// Sources and outputs are told where they stood, and the agent goes on.
    fn start(&mut self, dropped: &[String]) -> Result<(), String> {
        for (place, source) in self.sources.iter_mut().enumerate() {
            source.restart(self.core.resume(self.order.input(place)), &mut self.random);
        }
        for (output, line) in self.core.ledger().outputs.iter().enumerate() {
            let sink = &mut self.sinks[self.order.sink(output as u16)];
            sink.restart(line.delivered + line.rejected + line.expired_stale, output as u16);
            sink.open(&self.core.output_resume(output as u16))?;
        }
        let mut effects = Vec::new();
        self.core.start(self.now(), &mut effects);
        if self.plan.bug == Some(Bug::BacklogUntold) {
            effects.retain(|e| !matches!(e, Effect::Log { message, .. } if message.contains("that waited for")));
        }
        let logged: Vec<&str> =
            effects.iter().filter_map(|e| if let Effect::Log { message, .. } = e { Some(message.as_str()) } else { None }).collect();
        if let Some(unsaid) = dropped.iter().find(|d| logged.iter().all(|l| !l.starts_with(d.as_str()))) {
            return Err(format!("nobody says that {unsaid}: {logged:?}"));
        }
        self.seen.dropped += dropped.len() as u64;
        if self.plan.bug == Some(Bug::LevelForgotten) {
            effects.retain(|e| !matches!(e, Effect::Level { .. }));
        }
        let force = self.order.in_force();
        let known = self.sinks.iter().enumerate().filter(|(place, _)| force.contains(place));
        let asked = known.filter(|(_, sink)| sink.knowing && self.plan.bug != Some(Bug::CursorForgotten));
        for (place, sink) in asked {
            self.core.set_output_cursor(self.order.output(place), sink.resume());
        }
        self.perform(effects)
    }

    /// What was promised is there, nothing is there without what came before it, and the state is what it was at that record.
    fn check_recovered(&mut self, damage: &[Damage], death: Death) -> Result<(), String> {
        let ledger = self.core.ledger();
        self.trace(|| format!("recovered at record {}, {damage:?}", ledger.records));
        if !damage.is_empty() {
            self.seen.damages += 1;
            if !self.plan.rots() && !self.stateless {
                return Err(format!("damage: {damage:?}"));
            }
        }
        let lost: Vec<(u64, u64)> = damage.iter().filter(|d| d.records > 0).map(|d| (d.first_record, d.records)).collect();
        let oldest = self.committed.appended_behind(ledger.records);
        let only_in_checkpoints = |first: u64, count: u64| self.unjournaled.iter().any(|(a, b)| *a < first + count && *b >= first);
        // Blocks that found the journal full are in the checkpoint alone, and go with it.
        let unjournaled = lost.iter().filter(|(first, count)| only_in_checkpoints(*first, *count)).count();
        let [tail, middle] = self.committed.recovered(ledger.records, &lost)?;
        // Results of what was never on the disk may have left then, even where no batch was lost: those of a deadline, or of the end.
        let unsafe_since = self.unsafe_since.take();
        let promised = unsafe_since.unwrap_or(self.promised);
        let broken = tail.iter().filter(|block| block.iter().any(|t| t.number <= promised)).count();
        let weak = self.is_weak(death.cut);
        self.check_weakness(weak, &ledger, death, oldest)?;
        let acknowledged = tail.iter().flatten().filter(|t| t.number <= self.promised).count();
        // So are, after a power cut, those of a mode that had not synced them yet.
        let only_there = unjournaled > 0 || self.plan.durability != Durability::Power || self.stateless;
        self.lost.0 += if only_there { 0 } else { middle.len() };
        // Without syncs nothing later says that what is behind an injury was ever whole.
        let unnamed = weak || self.plan.rots() && self.plan.durability != Durability::Power;
        if unnamed {
            self.seen.weak_losses += acknowledged as u64;
        } else {
            self.lost.1 += broken;
        }
        if self.lost.0 > self.injury_blocks {
            return Err(format!("{middle:?} are said to be lost, after injuries of {} blocks", self.injury_blocks));
        }
        if self.lost.1 > self.injury_blocks * UNNAMED_MAX {
            return Err(format!("batches up to {promised} were promised, of {tail:?} nothing is left"));
        }
        // So may those of a block that rotted, though nothing was promised with it: a deadline's.
        let rotten = (self.plan.rots() || self.stateless) && ledger.records < death.released;
        if acknowledged > 0 || weak || rotten || !middle.is_empty() || unsafe_since.is_some() {
            let first = lost.iter().map(|l| l.0).chain([ledger.records + 1]).min().unwrap_or(0);
            // Without a state windows may have been begun anew above what is missing, from the first record on.
            self.note_disturbance(if self.committed.is_above() { 0 } else { first }, death.before);
        }
        self.unbalanced |= broken > 0 && !weak || !middle.is_empty() && !self.stateless;
        let residues = ledger.residues();
        // Without a state it balances again once it is started.
        if !residues.is_empty() && !self.unbalanced && !self.stateless {
            return Err(format!("recovered: {residues:?}"));
        }
        let promised = self.promised;
        // What is lost in the middle is so whether it was promised or not: sources are told to go on behind it.
        self.gone.extend(middle.into_iter().flatten());
        self.gone.extend(tail.into_iter().flatten().filter(|t| t.number <= promised));
        self.check_positions(&ledger)?;
        // A source goes on from where it is told: that is a promise.
        self.promised = self.committed.taken().last().map_or(self.promised, |t| t.number.max(self.promised));
        self.finished_at = self.finished_at.filter(|at| *at <= ledger.records);
        if let Some(digest) = self.digests.get(&ledger.records) {
            self.seen.digests += 1;
            if *digest != self.core.digest() {
                return Err(format!("state at record {} is not what it was", ledger.records));
            }
        }
        self.digests.split_off(&(ledger.records + 1));
        Ok(())
    }

    /// Whether what was acknowledged may be lost: as the mode has it, or because the disk was dead.
    fn is_weak(&self, cut: bool) -> bool {
        match self.plan.durability {
            Durability::Power => false,
            // A failed sync loses what the page cache had.
            Durability::Crash => cut || self.plan.trouble == Trouble::DiskErrors,
            Durability::None => true,
        }
    }

    /// Nothing that was synced is lost, whatever the mode, and a mode with an interval loses no more than that.
    fn check_weakness(&self, weak: bool, ledger: &Ledger, death: Death, oldest: Option<i64>) -> Result<(), String> {
        if !self.plan.rots() && !self.stateless && ledger.records < death.synced {
            return Err(format!("recovered to record {}, synced were {}", ledger.records, death.synced));
        }
        let ill = matches!(self.plan.trouble, Trouble::DiskErrors | Trouble::DiskFull);
        let healthy = !ill && !self.plan.rots() && !self.plan.slow;
        let bound = self.spec.storage.sync_interval + SLOWNESS;
        let lost = oldest.map_or(0, |at| death.at - at);
        if weak && self.plan.durability == Durability::Crash && healthy && lost > bound {
            return Err(format!("what was written {lost} ns before the power failed is lost, the interval is {bound} ns"));
        }
        Ok(())
    }

    /// Results of records from `first` to `last` may have left before and be others now.
    fn note_disturbance(&mut self, first: u64, last: u64) {
        self.disturbed.push((first, last));
        self.digests.clear();
        self.sinks.iter_mut().for_each(|sink| sink.disturbed = sink.disturbed.max(last));
    }

    /// Inputs are told to go on exactly behind what is recorded, and that is what the ledger counts.
    fn check_positions(&self, ledger: &weir_engine::core::Ledger) -> Result<(), String> {
        let mut resumes = vec![Resume::default(); INPUTS];
        let mut read = [0; INPUTS];
        let mut counted = BTreeSet::new();
        for taken in self.committed.taken() {
            read[taken.input] += taken.read;
            if taken.fresh {
                let once = !self.readings.leaves_to_dedup(taken.input);
                if once && !counted.insert((taken.input, taken.item)) {
                    return Err(format!("item {} of input {} is counted twice", taken.item, taken.input));
                }
                resumes[taken.input].apply(&world::position(self.readings, taken.input, taken.item, taken.base));
            }
        }
        for (input, wanted) in resumes.iter().enumerate() {
            let index = self.order.input(input);
            let resume = self.core.resume(index);
            if resume != wanted {
                return Err(format!("input {input} resumes at {resume:?}, the records say {wanted:?}"));
            }
            let counted = ledger.inputs[usize::from(index)].counts.read;
            if counted != read[input] {
                return Err(format!("input {input} counts {counted} points, the records have {}", read[input]));
            }
        }
        Ok(())
    }

    /// Everything arrived that the committed records cause, and nothing else.
    pub fn compare(&mut self) -> Result<(), String> {
        self.seen.effects = self.files.fuse.burnt();
        self.seen.failures = self.files.files.borrow().failures;
        let lost: Vec<_> = self.sources.iter().map(|s| &s.lost).collect();
        self.committed.check_items(&self.first, self.readings, self.plan.batches, &self.gone, &lost)?;
        self.seen.deduped = self.committed.check_dedup(&self.first, self.readings, self.plan.batches, &self.gone, &self.disturbed)?;
        let (results, levels) = self.committed.results(&self.first)?;
        self.seen.results = results.len() as u64;
        if self.plan.trouble != Trouble::Clock {
            // The naive ones have room for all.
            if !self.plan.narrow {
                self.committed.check_windows(&self.first, &results)?;
            }
            self.seen.transitions = self.committed.check_alerts_and_passed(&self.first, &results)?;
        }
        if !self.unbalanced && self.level != Some(levels.wanted[0]) {
            return Err(format!("the level is {:?}, the alert says {}", self.level, levels.wanted[0]));
        }
        if self.disturbed.is_empty() {
            self.check_thinned(&results)?;
        }
        self.check_over_budget(&results, &levels)?;
        let ledger = self.core.ledger();
        for (index, line) in ledger.outputs.iter().enumerate() {
            let output = self.order.sink(index as u16);
            self.seen.thinned += line.expired_downsampled;
            let expired = line.given_up() - line.expired_stale + line.lost_outbox;
            self.seen.expired += expired;
            self.seen.lost += line.lost_outbox;
            self.seen.repeated += self.sinks[output].repeated;
            if line.waiting() > 0 && !self.unbalanced {
                return Err(format!("output {output} is offered nothing of what waits for it: {line:#?}"));
            }
            let bit = 1u64 << output;
            let wanted: BTreeMap<Place, &str> = results.iter().filter(|(_, r)| r.1 & bit != 0).map(|(p, r)| (*p, r.0.as_str())).collect();
            if !self.unbalanced && !self.stateless && line.routed != wanted.len() as u64 {
                return Err(format!("output {output}: {} points routed, {} expected", line.routed, wanted.len()));
            }
            let arrived = &self.sinks[output].arrived;
            if self.plan.bug == Some(Bug::RunningIdentity) {
                let (mut have, mut want): (Vec<&str>, Vec<&str>) =
                    (arrived.values().map(String::as_str).collect(), wanted.into_values().collect());
                have.sort_unstable();
                want.sort_unstable();
                if !self.plan.bounded && have != want {
                    return Err(format!("output {output}: what arrived is not what was expected"));
                }
                continue;
            }
            self.compare_output(output, &wanted, expired)?;
            self.compare_adopted(output, expired)?;
        }
        // One that is gone has got nothing that was not meant for it.
        let force = self.order.in_force();
        for output in (0..self.sinks.len()).filter(|output| !force.contains(output)) {
            let bit = 1u64 << output;
            let wanted = results.iter().filter(|(_, r)| r.1 & bit != 0).map(|(p, r)| (*p, r.0.as_str())).collect();
            self.compare_output(output, &wanted, u64::MAX)?;
        }
        Ok(())
    }

    /// Nothing is missing that nobody gave up, as long as the disk keeps what was synced; and results are given up for a reason alone that there
    /// is.
    ///
    /// # Errors
    /// The first output that lost something else.
    pub fn check_given_up(&mut self, ledger: &Ledger) -> Result<(), String> {
        self.failed |= ledger.storage_failed.is_some();
        let plan = &self.plan;
        let may_lose = plan.rots() || self.unread;
        // A dead disk takes nothing more, and memory has its bound.
        let may_fill = plan.bounded || plan.thins || self.failed;
        for line in &ledger.outputs {
            let unfounded = [
                ("lost_outbox", line.lost_outbox, may_lose),
                ("expired_disk", line.expired_disk, plan.trouble == Trouble::DiskFull),
                ("expired_bytes", line.expired_bytes, may_fill),
                ("expired_age", line.expired_age, plan.bounded),
                ("expired_downsampled", line.expired_downsampled, plan.thins),
            ];
            if let Some((reason, points, _)) = unfounded.into_iter().find(|(_, points, may)| *points > 0 && !may) {
                return Err(format!("output {} has {points} points {reason}, for no reason: {line:?}", line.name));
            }
        }
        Ok(())
    }

    /// What the journal says was settled waits for nobody: where results are left out, or given up for room, the rest of it may have come to
    /// nobody.
    fn forget_settled(&mut self) {
        for output in 0..self.spec.outputs.len() as u16 {
            let bit = 1u64 << self.order.sink(output);
            let done = Lane::ALL.map(|lane| self.core.cursor(output, lane));
            let settled = self.adopted.iter_mut().filter(|((lane, identity), _)| *identity <= done[*lane as usize]);
            settled.for_each(|(_, result)| result.1 &= !bit);
        }
    }

    /// What waited in the outbox when the states were lost has arrived as it was.
    fn compare_adopted(&self, output: usize, expired: u64) -> Result<(), String> {
        let arrived = &self.sinks[output].arrived;
        let meant = self.adopted.iter().filter(|(_, result)| result.1 >> output & 1 == 1);
        let missing: Vec<_> = meant.filter(|(place, result)| arrived.get(place) != Some(&result.0)).collect();
        // How many were given up is forgotten with a state. One that does not know where it stands is offered them again, where another output
        // needed their file on a full disk; one that does is behind them.
        let knows = self.sinks[output].knowing && self.plan.trouble == Trouble::DiskFull;
        if missing.len() as u64 > expired && !self.plan.bounded && !knows {
            let (count, first) = (missing.len(), missing.first());
            return Err(format!("output {output}: {count} of what waited in the outbox without a state did not arrive, first {first:?}"));
        }
        Ok(())
    }

    fn compare_output(&self, output: usize, wanted: &BTreeMap<Place, &str>, expired: u64) -> Result<(), String> {
        let arrived = &self.sinks[output].arrived;
        // One that is told what was lost has nothing of that any more, and all that came in its place.
        // Not where records that are left were replayed without a state: these are there, and what they make is not what they made before, or
        // has other ordinals, so that one who stands in the middle of a record can't tell which of its results are meant.
        let told = self.sinks[output].is_told && !self.stateless && !self.committed.is_above();
        let known = |place: &&Place| told || !self.disturbed.iter().any(|(first, last)| (*first..=*last).contains(&place.1.record));
        let missing: Vec<&Place> = wanted.keys().filter(known).filter(|place| !arrived.contains_key(place)).collect();
        let surplus: Vec<_> = arrived.iter().filter(|(place, has)| known(place) && wanted.get(place) != Some(&has.as_str())).collect();
        // Alerts are kept to the end: for results there is less room than these take.
        let alerts = missing.iter().filter(|place| place.0 == Lane::Alerts).count();
        if alerts > 0 && expired < u64::MAX && self.keeps_alerts(wanted) {
            return Err(format!("output {output}: {alerts} alerts were given up while there was room for all of them"));
        }
        // What was lost of the journal is settled by deliveries all the same, so that less than was given up may be counted afterwards.
        let gave_up = expired > 0 || self.core.ledger().damage.outbox_blocks > 0;
        let may_miss = if gave_up && !self.disturbed.is_empty() { u64::MAX } else { expired };
        if !surplus.is_empty() || missing.len() as u64 > may_miss {
            return Err(format!(
                "output {output}: {} arrived, of {}; {} given up, {} missing: {:#?}; surplus {:#?}",
                arrived.len(),
                wanted.len(),
                expired,
                missing.len(),
                missing.iter().take(4).map(|place| (place, wanted.get(place))).collect::<Vec<_>>(),
                &surplus[..surplus.len().min(4)],
            ));
        }
        if self.disturbed.is_empty() {
            check_transitions(arrived.values().map(String::as_str)).map_err(|e| format!("output {output}: {e}"))?;
            check_replacements(arrived.values().map(String::as_str)).map_err(|e| format!("output {output}: {e}"))?;
        }
        // Losing every state takes nothing back either. Of what is given up an older result may come again, and the newer one not.
        if !self.plan.may_give_up() && (self.disturbed.is_empty() || self.plan.stateless) {
            self.sinks[output].check_windows().map_err(|e| format!("output {output}: {e}"))?;
        }
        Ok(())
    }

    /// Whether the bounds leave room for all alerts: these are given up for age, or when nothing else is left.
    fn keeps_alerts(&self, wanted: &BTreeMap<Place, &str>) -> bool {
        let bytes: usize = wanted.iter().filter(|(place, _)| place.0 == Lane::Alerts).map(|(_, content)| content.len() + 100).sum();
        let storage = &self.spec.storage;
        self.plan.trouble == Trouble::None && storage.outbox_age_max > 3_000_000 * MS && bytes as u64 * 4 < storage.outbox_bytes_max
    }
}

/// A state that says it belongs to another configuration.
fn under(spec: &EngineSpec, state: &[u8]) -> Vec<u8> {
    let mut reader = Reader::new(state);
    let (version, _) = (reader.u64().expect("a version"), reader.bytes().expect("a configuration"));
    let mut other = Vec::new();
    put_u64(&mut other, version);
    put_bytes(&mut other, &spec.to_bytes());
    other.extend_from_slice(reader.take(reader.left()).expect("the rest"));
    other
}
