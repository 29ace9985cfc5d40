//! How far outputs have come, kept beside the journal.
//!
//! On a full disk segments of the outbox that no output needs any more are removed to make room. After a crash outputs would be taken for
//! being where the last durable records say, and be given what was removed as lost; and those records may be waiting for that very room.

use weir_plugin_api::{Identity, Lane, plugin::OutputResume};

use super::{Core, Effect, Now, checkpoint::Saving, ledger::OutputLine};
use crate::{
    codec::{
        bytes::{Damaged, Reader, put_bytes, put_u64},
        record::{delivery_counts, delivery_values},
    },
    record::DeliveryCounts,
};

const VERSION: u8 = 1;

/// Where an output stands, by an account that is not the journal's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// Index of the output.
    pub output: u16,
    /// Where.
    pub resume: OutputResume,
    /// What had become of its points since the last durable record, where that is known: a destination only knows what it has.
    pub settled: Option<DeliveryCounts>,
}

impl Told {
    /// What became of `points` up to where it stands, as far as nothing else has been made of it.
    pub fn take(&mut self, points: u64) -> DeliveryCounts {
        let Some(settled) = &mut self.settled else { return DeliveryCounts { delivered: points, ..DeliveryCounts::default() } };
        let mut left = points;
        let mut take = |from: &mut u64| {
            let taken = left.min(*from);
            (left, *from) = (left - taken, *from - taken);
            taken
        };
        let mut counts = DeliveryCounts {
            delivered: take(&mut settled.delivered),
            rejected: take(&mut settled.rejected),
            expired_stale: take(&mut settled.expired_stale),
            expired_age: take(&mut settled.expired_age),
            expired_bytes: take(&mut settled.expired_bytes),
            expired_disk: take(&mut settled.expired_disk),
            lost_outbox: take(&mut settled.lost_outbox),
            collapsed: 0,
        };
        counts.collapsed = settled.collapsed.min(counts.delivered);
        settled.collapsed -= counts.collapsed;
        // Of a block that had been thinned, or had been given up in part: it is gone with the rest.
        counts.expired_disk += left;
        counts
    }
}

/// Sums of an output that are written for each, in their order; what was lost is a list behind them, where there is any.
const SUMS: usize = 7;

fn totals(line: &OutputLine) -> [u64; SUMS + 1] {
    let OutputLine { delivered, collapsed, rejected, expired_age, expired_bytes, expired_disk, expired_stale, lost_outbox, .. } = *line;
    delivery_values(&DeliveryCounts {
        delivered,
        collapsed,
        rejected,
        expired_age,
        expired_bytes,
        expired_disk,
        expired_stale,
        lost_outbox,
    })
}

/// Outputs by name, where they stand, and their sums; and up to where results were removed that a task had in memory.
fn encode(saved: &[(&str, OutputResume, [u64; SUMS + 1])], removed: Identity) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_u64(&mut out, saved.len() as u64);
    for (name, resume, totals) in saved {
        put_bytes(&mut out, name.as_bytes());
        for done in [resume.alerts, resume.results] {
            put_u64(&mut out, done.record);
            put_u64(&mut out, u64::from(done.ordinal));
        }
        put_u64(&mut out, resume.token);
        totals.iter().take(SUMS).for_each(|total| put_u64(&mut out, *total));
    }
    let removes = removed > Identity::default();
    if removes || saved.iter().any(|(.., totals)| totals[SUMS] > 0) {
        saved.iter().for_each(|(.., totals)| put_u64(&mut out, totals[SUMS]));
    }
    if removes {
        put_u64(&mut out, removed.record);
        put_u64(&mut out, u64::from(removed.ordinal));
    }
    out
}

impl Core {
    /// A checkpoint found no room: what nobody needs is removed, at once where the journal says so, else when the cursors are saved.
    pub(super) fn free_or_save(&mut self, now: Now, effects: &mut Vec<Effect>) {
        match self.checkpoint.to_free {
            Some(free) if self.is_settled(free) => self.free_now(now, effects),
            Some((below, _)) if self.checkpoint.saving.is_none() => {
                let below = self.still_free(now, below);
                let removed = self.waiting.lanes[Lane::Results as usize].last_below(below[Lane::Results as usize]);
                self.checkpoint.removed = self.checkpoint.removed.max(removed);
                let frees = |segment: &mut u64| *segment < below[Lane::Results as usize];
                self.checkpoint.saving = Some(Saving { below, given_up: self.checkpoint.given_up.take_if(frees) });
                effects.push(Effect::SaveCursors { checkpoint: self.checkpoint.number, bytes: self.encode_cursors() });
            }
            _ => {}
        }
    }

    /// Whether the records up to one say, after a power cut too, that nobody needs these segments. Where a mode does not sync what it takes for
    /// durable the records may be lost, and the segments are not there any more. Of what the task of a dead output has in memory no record
    /// says anything.
    pub(super) fn is_settled(&self, (below, record): ([u64; 2], u64)) -> bool {
        let synced = self.commit.syncs() && record <= self.commit.durable;
        record == 0 || synced && !self.waiting.lanes[Lane::Results as usize].is_held_below(below[Lane::Results as usize])
    }

    pub(super) fn cursors_saved(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some(saving) = self.checkpoint.saving.take() else { return };
        self.checkpoint.unsaved = false;
        self.checkpoint.to_free = Some((saving.below, 0));
        if self.checkpoint.running.is_none() {
            self.free_now(now, effects);
        }
    }

    /// Nothing is removed: the next checkpoint that fails asks again.
    pub(super) fn cursors_unsaved(&mut self, reason: &str, effects: &mut Vec<Effect>) {
        let Some(saving) = self.checkpoint.saving.take() else { return };
        self.checkpoint.given_up = self.checkpoint.given_up.max(saving.given_up);
        if !std::mem::replace(&mut self.checkpoint.unsaved, true) {
            let message = format!("disk full, and how far outputs have come can't be written, so that nothing is removed: {reason}");
            effects.push(Effect::Log { error: true, message });
        }
    }

    pub(super) fn encode_cursors(&self) -> Vec<u8> {
        let saved = self.spec.outputs.iter().enumerate().map(|(index, output)| {
            let [alerts, results] = self.waiting.lanes.each_ref().map(|lane| lane.cursors[index].done);
            let resume = OutputResume { alerts, results, token: self.tokens[index], ..OutputResume::default() };
            (output.name.as_str(), resume, totals(&self.lines[index]))
        });
        encode(&saved.collect::<Vec<_>>(), self.checkpoint.removed)
    }

    /// What [`Effect::SaveCursors`] had saved, after everything is replayed and before [`Core::start`]: what outputs had by then is delivered.
    /// What is to be saved in its place, if some of it speaks of records that are lost: their numbers are given to others, so it must not be
    /// there at another start. Nor may it be forgotten: what was removed since is not asked for again because of it.
    ///
    /// # Errors
    /// When it can't be read; nothing has changed then.
    pub fn set_saved_cursors(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, Damaged> {
        let mut reader = Reader::new(bytes);
        if reader.u8()? != VERSION {
            return Err(Damaged("version of saved cursors"));
        }
        let (mut found, mut stale) = (Vec::new(), false);
        let newest = Identity { record: self.next_record - 1, ordinal: u32::MAX };
        for _ in 0..reader.count()? {
            let name = reader.text()?;
            let alerts = Identity { record: reader.u64()?, ordinal: reader.narrow()? };
            let results = Identity { record: reader.u64()?, ordinal: reader.narrow()? };
            stale |= alerts.max(results) > newest;
            let (alerts, results) = (alerts.min(newest), results.min(newest));
            let resume = OutputResume { alerts, results, token: reader.u64()?, ..OutputResume::default() };
            let mut totals = [0; SUMS + 1];
            for total in totals.iter_mut().take(SUMS) {
                *total = reader.u64()?;
            }
            found.push((name, resume, totals));
        }
        if reader.left() > 0 {
            for (.., totals) in &mut found {
                totals[SUMS] = reader.u64()?;
            }
        }
        if reader.left() > 0 {
            let removed = Identity { record: reader.u64()?, ordinal: reader.narrow()? };
            stale |= removed > newest;
            self.checkpoint.removed = removed.min(newest);
        }
        let kept = stale.then(|| encode(&found, self.checkpoint.removed));
        for (name, resume, saved) in found {
            let Some(index) = self.spec.outputs.iter().position(|output| output.name == name) else { continue };
            let [alerts, results] = self.waiting.lanes.each_ref().map(|lane| lane.cursors[index].done);
            // The journal may have gone on since, where it is damaged for one lane alone: then the token is its own.
            if resume.alerts > alerts || resume.results > results {
                let resume = OutputResume { token: resume.token.max(self.tokens[index]), ..resume };
                let mut since = totals(&self.lines[index]);
                since.iter_mut().zip(saved).for_each(|(known, saved)| *known = saved.saturating_sub(*known));
                self.note_place(index as u16, resume, Some(delivery_counts(since)));
            }
        }
        Ok(kept)
    }
}
