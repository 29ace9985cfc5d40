//! Death and what comes after it: opening the store, and what must be there then and at the end of a life.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use weir_engine::core::Core;
use weir_plugin_api::Resume;
use weir_store::{Damage, Files, Recovered, Store, StoreOptions, memory::Luck};

use super::{
    disk::{Disk, core_found, core_meta},
    oracle::{Place, check_replacements},
    plan::{Bug, Death, Trouble},
    simulator::Simulator,
    world::{self, INPUTS},
};

/// Blocks that one injury may cost at the journal's end without being named: nothing later says that they were whole.
const UNNAMED_MAX: usize = 3;

impl Simulator {
    /// Everything in memory is gone; what is on the disk is opened again. Dies perhaps while it is.
    pub fn recover(&mut self) -> Result<(), String> {
        self.seen.crashes += 1;
        self.crashed = false;
        self.files.fuse.set(None);
        self.inbox.clear();
        let before = self.committed.last();
        if self.plan.power_cuts && self.random.once_in(2) {
            let luck = [Luck::Dice, Luck::Dice, Luck::Nothing, Luck::NoNames, Luck::NoContents][self.random.below(5) as usize];
            self.trace(|| format!("power cut, {luck:?}"));
            self.files.files.borrow_mut().crash_with(luck);
            self.clock.boot = self.clock.elapsed;
        }
        self.clock.elapsed += self.random.below(1_000_000_000) as i64;
        (self.disk, self.armed) = (Disk::new(self.plan.bug == Some(Bug::AcknowledgedEarly)), i64::MAX);
        if self.plan.trouble == Trouble::Flips && self.random.once_in(3) {
            self.injure();
        }
        if self.plan.death == Death::Random && self.random.once_in(8) {
            self.files.fuse.set(Some(self.random.below(6) as u32));
        }
        let options = StoreOptions { journal_bytes_max: self.spec.storage.journal_bytes_max, new_id: 1 };
        let recovered = match Store::open(self.files.clone(), &options) {
            Ok((store, recovered)) => {
                self.store = store;
                recovered
            }
            // Died while it was opened: once more.
            Err(_) if self.files.fuse.is_dead() => return Ok(()),
            Err(_) if self.has_faults() => {
                let mut files = self.files.files.borrow_mut();
                (files.faults.sync_error_in, files.faults.write_error_in, files.faults.read_error_in, files.faults.space) = (0, 0, 0, 0);
                self.crashed = true;
                return Ok(());
            }
            Err(error) => return Err(format!("can't be opened: {error}")),
        };
        self.files.fuse.set(None);
        self.come_back(recovered, before)
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
            }
        }
    }

    fn come_back(&mut self, recovered: Recovered, before: u64) -> Result<(), String> {
        let Recovered { checkpoint, blocks, outbox, damage } = recovered;
        let ends = checkpoint.as_ref().map_or([(0, 0); 2], |c| c.ends);
        if let Some(beyond) = outbox.iter().find(|f| (f.place.segment, f.place.offset) >= ends[usize::from(f.lane)]) {
            return Err(format!("the outbox holds {beyond:?}, the checkpoint knows nothing behind {ends:?}"));
        }
        let outbox: Vec<_> = outbox.iter().map(core_found).collect();
        if self.seen.crashes.is_multiple_of(3) {
            // An edit that changes no result: all of the state goes over to another configuration all the same.
            let mut edited = (*self.spec).clone();
            edited.storage.commit_interval ^= 1;
            self.spec = Arc::new(edited);
        }
        self.core = match checkpoint {
            Some(c) => Core::restore(Arc::clone(&self.spec), &c.state, &outbox, self.now()).map_err(|e| format!("state: {e}"))?,
            None => Core::new(Arc::clone(&self.spec), self.now()),
        };
        for block in blocks {
            self.core.replay(&core_meta(&block.meta), &block.bytes).map_err(|e| format!("block {:?}: {e}", block.meta))?;
        }
        for damage in damage.iter().filter(|d| d.records > 0) {
            self.core.note_damage(damage.records, damage.points);
        }
        self.core.adopt();
        self.check_recovered(&damage, before)?;
        for (source, input) in self.sources.iter_mut().zip(0..) {
            source.restart(self.core.resume(input), &mut self.random);
        }
        let ledger = self.core.ledger();
        for (sink, line) in self.sinks.iter_mut().zip(&ledger.outputs) {
            sink.restart(line.delivered + line.rejected + line.expired_stale);
        }
        let mut effects = Vec::new();
        self.core.start(self.now(), &mut effects);
        for (sink, output) in self.sinks.iter().zip(0..).filter(|(sink, _)| sink.knowing) {
            self.core.set_output_cursor(output, sink.resume());
        }
        self.perform(effects)
    }

    /// What was promised is there, nothing is there without what came before it, and the state is what it was at that record.
    fn check_recovered(&mut self, damage: &[Damage], before: u64) -> Result<(), String> {
        let ledger = self.core.ledger();
        self.trace(|| format!("recovered at record {}, {damage:?}", ledger.records));
        if !damage.is_empty() {
            self.seen.damages += 1;
            if self.plan.trouble != Trouble::Flips {
                return Err(format!("damage: {damage:?}"));
            }
        }
        let lost: Vec<(u64, u64)> = damage.iter().filter(|d| d.records > 0).map(|d| (d.first_record, d.records)).collect();
        let [tail, middle] = self.committed.recovered(ledger.records, &lost)?;
        let promised = self.promised;
        let broken = tail.iter().filter(|block| block.iter().any(|t| t.number <= promised)).count();
        (self.lost.0, self.lost.1) = (self.lost.0 + middle.len(), self.lost.1 + broken);
        if self.lost.0 > self.injuries {
            return Err(format!("{middle:?} are said to be lost, after {} injuries", self.injuries));
        }
        if self.lost.1 > self.injuries * UNNAMED_MAX {
            return Err(format!("batches up to {} were promised, of {tail:?} nothing is left", self.promised));
        }
        if broken > 0 || !middle.is_empty() {
            self.note_disturbance(lost.iter().map(|l| l.0).chain([ledger.records + 1]).min().unwrap_or(0), before);
        }
        let residues = ledger.residues();
        if !residues.is_empty() && self.disturbed.is_empty() {
            return Err(format!("recovered: {residues:?}"));
        }
        self.gone.extend(middle.into_iter().chain(tail).flatten().filter(|t| t.number <= promised));
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
                if !counted.insert((taken.input, taken.item)) {
                    return Err(format!("item {} of input {} is counted twice", taken.item, taken.input));
                }
                resumes[taken.input].apply(&world::position(self.plan.seed, taken.input, taken.item));
            }
        }
        for (input, wanted) in resumes.iter().enumerate() {
            let resume = self.core.resume(input as u16);
            if resume != wanted {
                return Err(format!("input {input} resumes at {resume:?}, the records say {wanted:?}"));
            }
            let counted = ledger.inputs[input].counts.read;
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
        self.committed.check_items(&self.spec, self.plan.batches, &self.gone)?;
        let results = self.committed.results(&self.spec)?;
        self.seen.results = results.len() as u64;
        if self.plan.trouble != Trouble::Clock {
            self.committed.check_windows(&self.spec, &results)?;
        }
        let ledger = self.core.ledger();
        for (output, line) in ledger.outputs.iter().enumerate() {
            let expired = line.expired_bytes + line.expired_age + line.expired_disk;
            self.seen.expired += expired;
            self.seen.repeated += self.sinks[output].repeated;
            if expired > 0 && !self.plan.may_give_up() {
                return Err(format!("output {output} lost {expired} points: {line:#?}"));
            }
            if line.waiting() > 0 && self.disturbed.is_empty() {
                return Err(format!("output {output} is offered nothing of what waits for it: {line:#?}"));
            }
            let bit = 1u64 << output;
            let wanted: BTreeMap<Place, &str> = results.iter().filter(|(_, r)| r.1 & bit != 0).map(|(p, r)| (*p, r.0.as_str())).collect();
            if self.disturbed.is_empty() && line.routed != wanted.len() as u64 {
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
        }
        Ok(())
    }

    fn compare_output(&self, output: usize, wanted: &BTreeMap<Place, &str>, expired: u64) -> Result<(), String> {
        let arrived = &self.sinks[output].arrived;
        let known = |place: &&Place| !self.disturbed.iter().any(|(first, last)| (*first..=*last).contains(&place.1.record));
        let missing: Vec<&Place> = wanted.keys().filter(known).filter(|place| !arrived.contains_key(place)).collect();
        let surplus: Vec<_> = arrived.iter().filter(|(place, has)| known(place) && wanted.get(place) != Some(&has.as_str())).collect();
        // What was lost of the journal is settled by deliveries all the same, so that less than was given up may be counted afterwards.
        let may_miss = if expired > 0 && !self.disturbed.is_empty() { u64::MAX } else { expired };
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
            check_replacements(arrived.values().map(String::as_str)).map_err(|e| format!("output {output}: {e}"))?;
        }
        Ok(())
    }
}
