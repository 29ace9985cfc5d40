//! Events in: batches become records, timers fall due, blocks arrive on the disk.

use std::sync::Arc;

use weir_plugin_api::{Batch, Identity, Lane, Position, plugin::OutputResume};

use super::{
    BlockMeta, Core, Effect, Event, Now,
    commit::Flight,
    cursors::Told,
    dedup::Dedup,
    floors::Owed,
    ledger::{Ledger, OperatorLine, OutputLine},
    pace::Pace,
};
use crate::{
    codec::{bytes::Damaged, record},
    record::{BatchRecord, DeliveryCounts, Record, Stamp},
    spec::{Durability, OnStorageFailure},
};

/// Points after which the open chunk of results is sealed.
const CHUNK_POINTS: usize = 4096;

/// Why a journal block could not be replayed.
pub type RecordError = Damaged;

impl Core {
    /// One recovered journal block, in order.
    ///
    /// # Errors
    /// When it is damaged inside; records before the damage were applied.
    pub fn replay(&mut self, meta: &BlockMeta, bytes: &[u8]) -> Result<(), RecordError> {
        let from = self.next_record;
        self.gap |= meta.first_record > from;
        let spec = Arc::clone(&self.spec);
        let inputs: Vec<&str> = spec.inputs.iter().map(|i| i.name.as_str()).collect();
        let outputs: Vec<&str> = spec.outputs.iter().map(|o| o.name.as_str()).collect();
        // The table is needed beside the rest of the core while the records are applied.
        let mut table = std::mem::replace(&mut self.table, crate::series::SeriesTable::new(0));
        let (mut next, mut begin) = (None, meta.first_record);
        // Whatever was made behind the checkpoint came behind its floors.
        let owes = self.owed_floors == Owed::OfNow;
        let result = record::decode(meta, bytes, from, &mut table, &inputs, &outputs, |sequence, stamp, record, table| {
            // A run begins with the clocks it found.
            if sequence == begin && matches!(record, Record::Clock { .. }) {
                self.commit.note_run();
            }
            self.next_record = sequence + 1;
            if owes {
                self.owed_floors = Owed::Nothing;
            }
            if let Record::Floors { clock, .. } = record {
                begin = sequence + 1;
                if let Some(then) = clock {
                    self.believe(sequence, stamp, then, table);
                }
                return;
            }
            if let Record::Config { spec } = record {
                next = Some(spec.to_vec());
                return;
            }
            self.replayed = stamp;
            self.remember(stamp, record, table);
            self.note(sequence, stamp, record, table);
        });
        self.table = table;
        self.next_record = self.next_record.max(meta.first_record + u64::from(meta.records));
        self.commit.durable = self.next_record - 1;
        self.commit.note_written(bytes.len());
        self.seal(self.replayed.observed);
        if let Some(bytes) = next {
            self.replay_configuration(&bytes);
        }
        result
    }

    /// Ends recovery: the configuration it was made with comes into force, time goes on, levels are set, the first deadline is armed.
    pub fn start(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.adopt();
        self.count_adopted();
        let observed = self.clock.observed(now).max(self.replayed.observed);
        self.clock.restart(observed, now);
        self.commit.durable = self.next_record - 1;
        for message in std::mem::take(&mut self.dropped) {
            effects.push(Effect::Log { error: false, message });
        }
        for (action, on) in self.operators.levels().iter().enumerate() {
            self.levels_sent[action] = Some(*on);
            effects.push(Effect::Level { action: action as u16, on: *on });
        }
        self.pace = vec![Pace::start(now.steady); self.spec.outputs.len()];
        self.record_configuration(now, effects);
        // Before all that is shown to the operators, so that every record of this run is stamped by clocks the journal knows.
        self.check_clock(now);
        self.resume_conditions(now, effects);
        // Of blocks that were removed because nobody needs them nothing is to be given up.
        self.settle_told(now);
        self.give_up_lost(now, effects);
        self.finish_step(now, effects);
    }

    /// One event.
    pub fn step(&mut self, now: Now, event: Event, effects: &mut Vec<Effect>) {
        match event {
            Event::Batch { input, batch } => self.batch(now, input, batch, effects),
            Event::Time => {
                self.armed = i64::MAX;
                self.check_clock(now);
                self.timers(now, effects);
            }
            Event::Durable { block, synced } => self.durable(block, synced, effects),
            Event::Synced { beyond } => self.commit.synced(beyond, now.steady),
            Event::StorageFailed { reason } => self.storage_failed(now, reason, effects),
            Event::CheckpointDone { number, outbox, .. } => self.checkpoint_done(now, number, &outbox, effects),
            Event::CheckpointFailed { number, no_space, reason } => self.checkpoint_failed(now, number, no_space, reason, effects),
            Event::CursorsSaved => self.cursors_saved(now, effects),
            Event::CursorsUnsaved { reason } => self.cursors_unsaved(&reason, effects),
            Event::OutboxRead { output, lane, place, bytes } => self.outbox_read(now, output, lane, place, bytes, effects),
            Event::OutboxUnread { output, lane, place, reason } => self.outbox_unread(now, output, lane, place, &reason, effects),
            Event::Want { output, lane } => self.waiting.lane(lane).cursors[usize::from(output)].wants = true,
            Event::Delivered { output, lane, upto, counts, token } => {
                if super::waiting::total(&counts) > 0 {
                    self.pace[usize::from(output)].settled(now.steady);
                }
                let record = Record::Delivered { output, lane, upto, counts, token };
                self.record(now, &record);
            }
            Event::Failing { output } => self.pace[usize::from(output)].failed(),
            Event::Held { output, held } => self.output_held(now, output, held, effects),
            Event::Finish => {
                self.record(now, &Record::Finish);
                self.commit.urgent = true;
            }
            Event::Checkpoint => self.checkpoint.wanted = true,
        }
        self.finish_step(now, effects);
    }

    fn finish_step(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.levels(effects);
        self.settle_told(now);
        self.bounds(now);
        self.thin(now, effects);
        self.make_room(now, effects);
        self.watch_dropping(now, effects);
        self.maybe_checkpoint(now, effects);
        if self.commit.fires(self.block.len(), now.steady) {
            self.commit_block(now, effects);
        }
        self.offer(now, effects);
        self.note_pace(now);
        self.arm(now, effects);
    }

    /// Whether rings should be emptied.
    pub fn wants_batches(&self) -> bool {
        let stalled = self.failed.is_some() && self.spec.storage.on_failure == OnStorageFailure::Stall;
        // A dead disk is not written to, and memory is kept within its bound otherwise.
        let alive = self.failed.is_none();
        let full = alive && self.commit.journal_bytes >= self.spec.storage.journal_bytes_max / 3 * 2;
        let spilling = alive && self.waiting.bytes() > 2 * self.spec.limits.results_waiting_bytes_max;
        !stalled && !full && !spilling && self.commit.has_room(self.block.len())
    }

    fn batch(&mut self, now: Now, input: u16, mut batch: Batch, effects: &mut Vec<Effect>) {
        self.check_clock(now);
        self.translate(input, &mut batch);
        self.leave_out_duplicates(now, input, &mut batch);
        let number = batch.number;
        let waits = batch.position != Position::None || !batch.cells.is_empty() || !batch.counts.is_zero();
        if waits {
            let record = Record::Batch(BatchRecord {
                input,
                read_at: batch.read_at,
                position: &batch.position,
                counts: &batch.counts,
                cells: &batch.cells,
                text: &batch.text,
                points: batch.points,
            });
            self.record(now, &record);
            self.commit.wait(now.steady);
            self.tell_conflict(now, effects);
        }
        let state = &mut self.inputs[usize::from(input)];
        if let Position::Messages { ids, .. } = &batch.position {
            state.unacknowledged += ids.len() as u32;
            let window = self.spec.inputs[usize::from(input)].window_messages;
            self.commit.full |= window > 0 && state.unacknowledged >= window - window / 4;
        }
        effects.push(Effect::Recycle { input, batch });
        let at_once = self.spec.storage.durability == Durability::None || (!waits && self.commit.acknowledge_without_record(input, number));
        if at_once {
            effects.push(Effect::Acknowledge { input, number });
        } else if waits {
            match self.commit.acknowledge.iter_mut().find(|(i, _)| *i == input) {
                Some((_, newest)) => *newest = number,
                None => self.commit.acknowledge.push((input, number)),
            }
        }
    }

    /// Ids of the input become ids of the table. Points whose series finds the table full are counted and left out.
    fn translate(&mut self, input: u16, batch: &mut Batch) {
        let state = &mut self.inputs[usize::from(input)];
        for (series, partition) in batch.new_series.iter().zip(&batch.new_partitions) {
            state.series.push(self.table.intern(series, input, partition).unwrap_or(u32::MAX));
        }
        for field in &batch.new_fields {
            state.fields.push(self.table.intern_field(field).unwrap_or(u16::MAX));
        }
        let mut refused = 0;
        let mut all = true;
        for cell in &mut batch.cells {
            cell.series = state.series.get(cell.series as usize).copied().unwrap_or(u32::MAX);
            cell.field = state.fields.get(usize::from(cell.field)).copied().unwrap_or(u16::MAX);
            all &= cell.series != u32::MAX && cell.field != u16::MAX;
        }
        if all {
            return;
        }
        // A point loses a field without a name, and goes with its first one: the flag moves on to the next.
        let mut start_lost = false;
        batch.cells.retain_mut(|cell| {
            let starts = cell.starts_point();
            if cell.series == u32::MAX {
                refused += u32::from(starts);
                return false;
            }
            if starts {
                start_lost = false;
            }
            if cell.field == u16::MAX {
                batch.counts.dropped_fields += 1;
                start_lost |= starts;
                return false;
            }
            if start_lost {
                cell.flags |= weir_plugin_api::Cell::START;
                start_lost = false;
            }
            true
        });
        let left = batch.cells.iter().filter(|c| c.starts_point()).count() as u32;
        batch.counts.refused_series += u64::from(batch.points - left);
        batch.points = left;
    }

    /// What the input has seen within its `dedup` is counted instead of recorded.
    fn leave_out_duplicates(&mut self, now: Now, input: u16, batch: &mut Batch) {
        let index = usize::from(input);
        if let Some(dedup) = &self.spec.inputs[index].dedup {
            let observed = self.clock.observed(now);
            self.inputs[index].dedup.filter(dedup, observed, batch, &self.table, &mut self.hashes);
        }
    }

    /// The same from the journal, where duplicates are only a number.
    fn remember(&mut self, stamp: Stamp, record: &Record<'_>, table: &crate::series::SeriesTable) {
        let Record::Batch(batch) = record else { return };
        let index = usize::from(batch.input);
        let dedup = self.spec.inputs.get(index).and_then(|input| input.dedup.as_ref());
        if let (Some(dedup), Some(input)) = (dedup, self.inputs.get_mut(index)) {
            input.dedup.replay(dedup, stamp.observed, batch, table, &mut self.hashes);
        }
    }

    /// Makes a record: encodes it, and applies it.
    pub(super) fn record(&mut self, now: Now, record: &Record<'_>) {
        self.record_floors(now);
        let stamp = Stamp { observed: self.clock.observed(now), steady: now.steady };
        let sequence = self.next_record;
        self.next_record += 1;
        self.block.push(sequence, stamp, record);
        let table = std::mem::replace(&mut self.table, crate::series::SeriesTable::new(0));
        let before = self.waiting.lanes.each_ref().map(|l| l.held.len());
        self.note(sequence, stamp, record, &table);
        let after = self.waiting.lanes.each_ref().map(|l| l.held.len());
        let emitted = after[1] > before[1];
        self.table = table;
        if self.results.len(Lane::Alerts) > 0 || after[0] > before[0] {
            self.commit.urgent = true;
        }
        if emitted || !self.results.is_empty() || matches!(record, Record::Expired { .. } | Record::Thinned { .. }) {
            // Results, and what comes behind a gap, wait for their cause, so it must not wait for company.
            self.commit.wait(now.steady);
        }
    }

    /// What a record means, whether it was made just now or read back.
    fn note(&mut self, sequence: u64, stamp: Stamp, record: &Record<'_>, table: &crate::series::SeriesTable) {
        match record {
            Record::Batch(batch) => {
                if let Some(input) = self.inputs.get_mut(usize::from(batch.input)) {
                    input.resume.apply(batch.position);
                    input.counts.add(batch.counts);
                    input.recorded += u64::from(batch.points);
                }
            }
            Record::Clock { offset, quality, .. } => self.clock.note(*offset, *quality),
            Record::Config { .. } | Record::Floors { .. } => return,
            Record::Delivered { output, lane, upto, counts, token } => {
                let index = usize::from(*output);
                let Some(line) = self.lines.get_mut(index) else { return };
                line.settle(counts);
                self.tokens[index] = *token;
                // A delivery may settle what is still in the open chunk of this very lane: it must be counted first.
                if self.replaying_lane_open(*lane) {
                    self.seal(stamp.observed);
                }
                self.note_unrouted(index, *lane, super::waiting::total(counts));
                self.waiting.lane(*lane).settle(index, *upto, counts);
                return;
            }
            Record::Expired { output, lane, after, upto, counts } => {
                let index = usize::from(*output);
                let Some(line) = self.lines.get_mut(index) else { return };
                line.settle(counts);
                if self.replaying_lane_open(*lane) {
                    self.seal(stamp.observed);
                }
                self.note_unrouted(index, *lane, super::waiting::total(counts));
                self.waiting.lane(*lane).give_up(index, (*after, *upto), counts);
                self.waiting.lane(*lane).cursors[index].gap_record = sequence;
                let spilled = self.spilled.iter_mut().filter(|(l, _)| l == lane).map(|(_, h)| (h.chunk.identity(0), h.last, &mut h.counts));
                super::waiting::take_off(spilled, index, (*after, *upto), super::waiting::total(counts));
                let moved = self.moved.iter_mut().filter(|(l, ..)| l == lane).flat_map(|(.., of)| of.iter_mut());
                let moved = moved.map(|b| (b.first, b.last, &mut b.counts));
                super::waiting::take_off(moved, index, (*after, *upto), super::waiting::total(counts));
                // A full disk may have had the blocks removed before a checkpoint forgot them.
                let lost = self.lost.iter_mut().filter(|(l, _)| *l == *lane as u8).map(|(_, b)| (b.first, b.last, &mut b.counts));
                super::waiting::take_off(lost, index, (*after, *upto), super::waiting::total(counts));
                return;
            }
            Record::Thinned { kept, points } => {
                if self.replaying_lane_open(Lane::Results) {
                    self.seal(stamp.observed);
                }
                self.note_thinned(sequence, kept, points);
                return;
            }
            Record::Tick | Record::Finish | Record::Condition { .. } => {}
        }
        self.clock.seen(stamp.steady);
        self.results.start_record(sequence);
        self.operators.apply(stamp, record, table, &mut self.results);
        // Here, so that chunks end at the same points when the record is read back.
        if self.results.len(Lane::Results) >= CHUNK_POINTS {
            self.seal(stamp.observed);
        }
    }

    /// While replaying, results of the block so far may not be sealed yet when their delivery is read.
    fn replaying_lane_open(&self, lane: Lane) -> bool {
        self.results.len(lane) > 0
    }

    /// The open chunks leave the engine.
    pub(super) fn seal(&mut self, observed: i64) {
        for lane in Lane::ALL {
            while self.results.len(lane) > 0 {
                let mut chunk = self.results.take(lane);
                let adopted = self.adopted[lane as usize];
                if chunk.identity(0) <= adopted {
                    // In the outbox already, or settled before it was written.
                    match chunk.after(adopted) {
                        from if from < chunk.len() => chunk = super::waiting::tail(&chunk, from),
                        _ => continue,
                    }
                }
                let counts = super::waiting::count(&chunk, 0, self.lines.len());
                for (line, count) in self.lines.iter_mut().zip(&counts) {
                    line.routed += u64::from(*count);
                }
                self.waiting.lane(lane).push(chunk, observed);
            }
        }
    }

    fn commit_block(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.seal(self.clock.observed(now));
        if self.block.is_empty() {
            self.commit.nothing_waits();
            return;
        }
        let spec = Arc::clone(&self.spec);
        let inputs: Vec<&str> = spec.inputs.iter().map(|i| i.name.as_str()).collect();
        let outputs: Vec<&str> = spec.outputs.iter().map(|o| o.name.as_str()).collect();
        let (meta, bytes) = self.block.seal(&self.table, &inputs, &outputs);
        let block = self.commit.next_block;
        let flight = Flight {
            block,
            last_record: self.next_record - 1,
            acknowledge: std::mem::take(&mut self.commit.acknowledge),
            levels: std::mem::take(&mut self.commit.levels),
        };
        self.inputs.iter_mut().for_each(|input| input.unacknowledged = 0);
        let syncs = self.commit.syncs();
        self.commit.sent(flight, bytes.len(), now.steady);
        if self.failed.is_some() {
            // Nothing goes to a dead disk; `continue` lets results go on from memory.
            if self.spec.storage.on_failure == OnStorageFailure::Continue {
                self.arrive(block, effects);
            }
            return;
        }
        effects.push(Effect::Append { block, bytes, meta, sync: syncs });
        if self.spec.storage.durability == Durability::None {
            self.arrive(block, effects);
        }
    }

    /// Closes the open block whatever the policy says: before a checkpoint.
    pub(super) fn commit_now(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.commit_block(now, effects);
    }

    fn durable(&mut self, block: u64, synced: bool, effects: &mut Vec<Effect>) {
        // Once the disk has failed, one before this block may be missing: it went to the disk before anybody knew.
        if self.failed.is_none() && (synced || !self.commit.syncs()) {
            self.arrive(block, effects);
        }
    }

    fn arrive(&mut self, block: u64, effects: &mut Vec<Effect>) {
        for flight in self.commit.arrived(block) {
            for (input, number) in flight.acknowledge {
                effects.push(Effect::Acknowledge { input, number });
            }
            for (action, on) in flight.levels {
                effects.push(Effect::Level { action, on });
            }
        }
    }

    fn storage_failed(&mut self, now: Now, reason: String, effects: &mut Vec<Effect>) {
        let on_failure = self.spec.storage.on_failure;
        if self.failed.is_none() {
            let what = if on_failure == OnStorageFailure::Stall { "nothing more is acknowledged" } else { "going on from memory, unsafe" };
            effects.push(Effect::Log { error: true, message: format!("storage failed, {what}: {reason}") });
        }
        let first = self.failed.replace(reason).is_none();
        if self.checkpoint.running.take().is_some() {
            self.unspill(now);
        }
        if on_failure == OnStorageFailure::Continue
            && let Some(last) = self.commit.in_flight.back().map(|f| f.block)
        {
            self.arrive(last, effects);
        }
        self.storage_is_unsafe(now, first, effects);
    }

    fn check_clock(&mut self, now: Now) {
        if let Some((offset, quality)) = self.clock.change(now) {
            self.record(now, &Record::Clock { offset, quality, boot: self.clock.boot });
        }
    }

    fn timers(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.operators.next_deadline().is_some_and(|at| at <= self.clock.observed(now)) {
            self.record(now, &Record::Tick);
        }
        if self.commit.sync_due.is_some_and(|at| at <= now.steady) {
            self.commit.sync_due = None;
            effects.push(Effect::Sync);
        }
    }

    /// Level changes: at once where allowed, else with their block.
    fn levels(&mut self, effects: &mut Vec<Effect>) {
        for (index, on) in self.operators.levels().iter().enumerate() {
            if self.levels_sent[index] == Some(*on) {
                continue;
            }
            self.levels_sent[index] = Some(*on);
            if self.spec.levels[index].at_once {
                effects.push(Effect::Level { action: index as u16, on: *on });
            } else {
                self.commit.levels.push((index as u16, *on));
                self.commit.urgent = true;
            }
        }
    }

    fn arm(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let operators = self.operators.next_deadline().map_or(i64::MAX, |at| self.clock.steady_at(at));
        let commit = if self.commit.in_flight.len() < 2 { self.commit.due.unwrap_or(i64::MAX) } else { i64::MAX };
        let sync = self.commit.sync_due.unwrap_or(i64::MAX);
        let age = self.age_deadline().map_or(i64::MAX, |(at, _)| self.clock.steady_at(at));
        let unread = self.unreadable.deadline(now.steady);
        let calm = self.calm_deadline().map_or(i64::MAX, |at| self.clock.steady_at(at));
        // What is due already and could not be done waits for an answer from the disk, not for time; a millisecond is no busy loop.
        let earliest = operators
            .min(commit)
            .min(sync)
            .min(age)
            .min(unread)
            .min(calm)
            .min(self.checkpoint_deadline(now.steady))
            .min(self.pace_deadline());
        let at = earliest.max(now.steady + 1_000_000);
        if at != self.armed {
            self.armed = at;
            effects.push(Effect::Arm { at });
        }
    }

    /// Nothing is open, on its way or unacknowledged.
    pub fn is_idle(&self) -> bool {
        self.commit.in_flight.is_empty()
            && self.commit.due.is_none()
            && self.commit.acknowledge.is_empty()
            && self.checkpoint.running.is_none()
    }

    /// A checkpoint is being written.
    pub fn is_checkpointing(&self) -> bool {
        self.checkpoint.running.is_some()
    }

    /// Number of the checkpoint that has, or will have, everything up to now, once one was asked for.
    pub fn next_checkpoint(&self) -> u64 {
        self.checkpoint.number + u64::from(self.checkpoint.wanted)
    }

    /// Storage has failed for good.
    pub fn is_failed(&self) -> bool {
        self.failed.is_some()
    }

    /// The destination knows better where it stands: what it has and nobody noted is delivered. Takes effect with the next step.
    pub fn set_output_cursor(&mut self, output: u16, resume: OutputResume) {
        self.note_place(output, resume, None);
    }

    pub(super) fn note_place(&mut self, output: u16, resume: OutputResume, settled: Option<DeliveryCounts>) {
        // What has no cause here, or none any more, is not had: another result may get that identity.
        let last = Identity { record: self.next_record - 1, ordinal: u32::MAX };
        let resume = OutputResume { alerts: resume.alerts.min(last), results: resume.results.min(last), ..resume };
        self.told.push(Told { output, resume, settled });
    }

    /// Settled points that nobody knows to have been routed: results of records that are lost, or else a mistake that the ledger is to show.
    pub(super) fn note_unrouted(&mut self, output: usize, lane: Lane, points: u64) {
        let outstanding = self.waiting.lane(lane).cursors.get(output).map_or(0, |c| c.outstanding);
        if let Some(unrouted) = self.unrouted.get_mut(output) {
            *unrouted += points.saturating_sub(outstanding);
        }
    }

    /// Recovery lost a block, or could not read it. What was settled of its results was routed too.
    pub fn note_damage(&mut self, records: u64, points: u64) {
        for (line, unrouted) in self.lines.iter_mut().zip(&mut self.unrouted) {
            line.routed += std::mem::take(unrouted);
        }
        self.damage.journal_blocks += 1;
        self.damage.records += records;
        self.damage.points += points;
    }

    /// How far groups had come that have ended is forgotten: the planted bug of a lost floor.
    #[doc(hidden)]
    pub fn forget_ended_groups(&mut self) {
        self.operators.forget_ended_groups();
    }

    /// What `dedup` has seen is forgotten: a planted bug.
    #[doc(hidden)]
    pub fn forget_seen(&mut self) {
        self.inputs.iter_mut().for_each(|input| input.dedup = Dedup::default());
    }

    /// Which results of thinned blocks stay is forgotten: a planted bug.
    #[doc(hidden)]
    pub fn forget_thinned(&mut self) {
        self.waiting.lane(Lane::Results).stored.iter_mut().for_each(|block| block.kept = None);
    }

    /// Digest of what the records so far have made of operators and `dedup`.
    pub fn digest(&self) -> u64 {
        let mut seen = Vec::new();
        self.inputs.iter().for_each(|input| input.dedup.put(&mut seen));
        self.operators.digest(&self.table) ^ u64::from(crc32c::crc32c(&seen)) << 16
    }

    /// The ledger now.
    pub fn ledger(&self) -> Ledger {
        let named = self.spec.inputs.iter().map(|i| i.name.clone()).zip(&self.inputs);
        let gone = self.gone.iter().map(|(name, input)| (format!("{name} (gone)"), input));
        let observed = self.replayed.observed.max(self.last_observed);
        let mut outputs = self.lines.clone();
        for (index, line) in outputs.iter_mut().enumerate() {
            self.fill(index, line, observed);
        }
        Ledger {
            inputs: named.chain(gone).map(|(name, input)| input.line(name)).collect(),
            engine: *self.operators.counts(),
            types: self.operators.type_counts(),
            operators: self
                .operators
                .operator_counts()
                .map(|(name, counts)| OperatorLine { name: name.to_owned(), counts: *counts })
                .collect(),
            outputs,
            damage: self.damage,
            records: self.next_record - 1,
            journal_bytes: self.commit.journal_bytes,
            outbox_bytes: self.waiting.lanes.iter().map(super::waiting::LaneQueue::disk_bytes).sum(),
            commits: self.commit.commits,
            bound_by_budget: self.commit.bound_by_budget,
            outbox_read_retries: self.unreadable.retries,
            held_back: self.holds_back(),
            over_budget: self.commit.over_budget,
            checkpoints: self.checkpoint.made,
            storage_failed: self.failed.clone(),
        }
    }

    fn fill(&self, index: usize, line: &mut OutputLine, observed: i64) {
        for (lane, queue) in self.waiting.lanes.iter().enumerate() {
            let cursor = &queue.cursors[index];
            let disk = queue.waiting_disk(index);
            line.in_flight += cursor.in_flight;
            line.waiting_disk += disk;
            line.waiting_memory += cursor.outstanding.saturating_sub(cursor.in_flight + disk);
            if let Some(oldest) = queue.oldest(index) {
                line.lag = line.lag.max(observed - oldest);
            }
            // What is in the open chunk is not routed yet: it is counted when it is sealed.
            let _ = lane;
        }
    }

    /// The last delivered identity that matters to nobody: for tests.
    pub fn cursor(&self, output: u16, lane: Lane) -> Identity {
        self.waiting.lanes[lane as usize].cursors[usize::from(output)].done
    }
}
