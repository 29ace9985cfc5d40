//! The write budget: how often the core was let sync the disk, counted once more, and how often that was.

use std::collections::VecDeque;

use weir_engine::{core::Effect, record::Record};
use weir_plugin_api::Lane;

use super::{
    oracle::{Levels, Made},
    plan::{Bug, Trouble},
    simulator::Simulator,
};

const MINUTE: i64 = 60_000_000_000;
/// A sync that is due by now is done a little later.
const LAG: i64 = 10_000_000_000;

/// Syncs of one run of the agent.
#[derive(Debug, Default)]
pub struct Budget {
    /// When the core knew of one, within the last minute, steady axis.
    known: VecDeque<i64>,
    /// Those for which there was no room.
    past: u64,
    /// When the disk was synced.
    done: VecDeque<i64>,
    /// How often it was, when last looked at.
    syncs: Option<u64>,
    /// The next block is one for which there was no room.
    pub over: bool,
}

impl Budget {
    /// The core knows of a sync; whether there was room for it.
    fn note(&mut self, now: i64, budget: usize) -> bool {
        while self.known.pop_front_if(|at| now - *at >= MINUTE).is_some() {}
        let room = self.known.len() < budget;
        self.past += u64::from(!room);
        self.known.push_back(now);
        room
    }
}

impl Simulator {
    /// Whether the core hears of syncs beyond its commits.
    pub fn tells_syncs(&self) -> bool {
        self.plan.thrifty && self.plan.bug != Some(Bug::SyncsUntold)
    }

    /// The core knows of so many syncs beyond those it asks for with these effects: every one past the budget is counted.
    ///
    /// # Errors
    /// When one is not.
    pub fn note_syncs(&mut self, beyond: u32, effects: &[Effect]) -> Result<(), String> {
        if !self.plan.thrifty {
            return Ok(());
        }
        let (now, budget) = (self.now().steady, self.core.spec().storage.fsyncs_per_minute_max as usize);
        (0..beyond).for_each(|_| {
            self.budget.note(now, budget);
        });
        let checkpoints = effects.iter().any(|e| matches!(e, Effect::Checkpoint { .. }));
        for effect in effects {
            if matches!(effect, Effect::Append { sync: true, .. }) {
                self.budget.over = !self.budget.note(now, budget) && !checkpoints;
            }
        }
        let ledger = self.core.ledger();
        self.seen.held_by_budget += u64::from(ledger.bound_by_budget);
        self.seen.over_budget = self.seen.over_budget.max(ledger.over_budget);
        if ledger.over_budget < self.budget.past {
            return Err(format!("{} syncs were past the write budget, {} are counted", self.budget.past, ledger.over_budget));
        }
        Ok(())
    }

    /// The disk was not synced more often within a minute than the budget has it, but for what is counted.
    ///
    /// # Errors
    /// How often it was.
    pub fn check_syncs(&mut self) -> Result<(), String> {
        if !self.plan.thrifty {
            return Ok(());
        }
        let (now, syncs) = (self.now().steady, self.store.stats().written.sum().fsyncs);
        let before = self.budget.syncs.replace(syncs).unwrap_or(syncs);
        let done = &mut self.budget.done;
        done.extend((before..syncs).map(|_| now));
        while done.pop_front_if(|at| now - *at >= MINUTE - LAG).is_some() {}
        // Told when the disk is at rest again.
        let told = self.inbox.iter().map(|e| if let weir_engine::core::Event::Synced { beyond } = e { u64::from(*beyond) } else { 0 });
        let waits = told.sum::<u64>() + self.disk.untold(&self.store);
        let allowed = u64::from(self.core.spec().storage.fsyncs_per_minute_max) + self.core.ledger().over_budget + waits;
        if done.len() as u64 > allowed {
            return Err(format!(
                "the disk was synced {} times within a minute, the budget and what is counted beyond it allow {allowed}",
                done.len()
            ));
        }
        Ok(())
    }

    /// What was committed though the budget had no room for it could not wait: an alert or the move of a level was in it, or the end.
    ///
    /// # Errors
    /// The first block that could.
    pub fn check_over_budget(&self, results: &Made, levels: &Levels) -> Result<(), String> {
        // A full disk must know at once what was given up; a failed one makes its own results of that.
        let waits = !matches!(self.plan.trouble, Trouble::DiskFull | Trouble::DiskErrors) && self.disturbed.is_empty();
        let wrong = self.committed.over_budget().filter(|_| waits).find(|(first, last)| {
            let mut alerts = results.keys().filter(|(lane, _)| *lane == Lane::Alerts);
            let in_it = alerts.any(|(_, identity)| (*first..=*last).contains(&identity.record))
                || levels.moved.range(*first..=*last).next().is_some();
            !in_it && !self.committed.has(*first, *last, |record| matches!(record, Record::Finish | Record::Config { .. }))
        });
        wrong.map_or(Ok(()), |(first, last)| {
            Err(format!("records {first} to {last} were committed past the write budget and could have waited"))
        })
    }
}
