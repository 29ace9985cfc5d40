//! What the core tells about the agent itself: when an output is held, results are given up, or the disk has failed.
//!
//! The core watches, and makes a record when something begins or ends; the transition is the engine's, like that of any other alert.
//! A record is made only for a change against what the records say, so that a restart alone never tells anything twice.

use std::sync::Arc;

use super::{Core, Effect, Now};
use crate::{
    record::{Condition, Record},
    spec::OnStorageFailure,
};

/// Nothing was given up for this long (observed axis): it is over.
const CALM: i64 = 600_000_000_000;

/// Refused fields are shown this far apart, steady axis.
const CONFLICTS_EVERY: i64 = 60_000_000_000;

/// What was given up of one output's results.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dropping {
    /// Points, by the ledger.
    points: u64,
    /// When that was more for the last time, observed axis.
    since: i64,
}

impl Core {
    /// Whether an output is held, by the records.
    pub fn is_held(&self, output: u16) -> bool {
        self.operators.is_active(Condition::OutputHeld, &self.spec.outputs[usize::from(output)].name)
    }

    /// A run begins: what can't hold any more ends, the rest is for those to end who know.
    pub(super) fn resume_conditions(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let spec = Arc::clone(&self.spec);
        let gone = |subject: &str| !spec.outputs.iter().any(|o| o.name == *subject);
        let over: Vec<(Condition, Arc<str>)> = self
            .operators
            .active_conditions()
            .filter(|(condition, subject)| *condition == Condition::StorageFailed || gone(subject))
            .map(|(condition, subject)| (condition, Arc::clone(subject)))
            .collect();
        for (condition, subject) in over {
            self.tell(now, condition, &subject, false, 0, effects);
        }
        self.conflicts = (self.operators.type_counts().rejected, i64::MIN);
        let observed = self.clock.observed(now);
        for index in 0..self.dropping.len() {
            self.dropping[index] = Dropping { points: self.given_up(index), since: observed };
        }
    }

    /// An output's task says that a person must act, or that points get through.
    pub(super) fn output_held(&mut self, now: Now, output: u16, held: bool, effects: &mut Vec<Effect>) {
        let spec = Arc::clone(&self.spec);
        let Some(output_spec) = spec.outputs.get(usize::from(output)) else { return };
        let waiting = self.waiting.lanes.iter().map(|l| l.cursors[usize::from(output)].outstanding).sum();
        self.tell(now, Condition::OutputHeld, &output_spec.name, held, waiting, effects);
    }

    /// What is delivered from now on is not on the disk. With `stall` no point leaves, that of the alert neither; the actions that are to be
    /// told are told from memory, once: a level is idempotent, and the word to edge actions is nobody's result.
    pub(super) fn storage_is_unsafe(&mut self, now: Now, first: bool, effects: &mut Vec<Effect>) {
        if self.spec.storage.on_failure == OnStorageFailure::Continue {
            self.tell(now, Condition::StorageFailed, "", true, 0, effects);
        } else if first {
            let alerts = &self.spec.agent_alerts;
            effects.extend(alerts.level_actions.iter().map(|action| Effect::Level { action: *action as u16, on: true }));
            let edges = (0..self.spec.outputs.len()).filter(|action| alerts.edge_actions & 1 << action != 0);
            effects.extend(edges.map(|action| Effect::Alarm { action: action as u16, severity: alerts.severity.clone(), at: now.wall }));
        }
    }

    /// Results are being given up while there are more than at the last look, and for a while after.
    pub(super) fn watch_dropping(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let observed = self.clock.observed(now);
        for index in 0..self.dropping.len() {
            let points = self.given_up(index);
            let dropped = points > self.dropping[index].points;
            if dropped {
                self.dropping[index] = Dropping { points, since: observed };
            }
            let calm = self.dropping[index].since.saturating_add(CALM) <= observed;
            let active = self.is_dropping(index);
            if dropped != active && (dropped || calm) {
                let spec = Arc::clone(&self.spec);
                self.tell(now, Condition::OutboxDropping, &spec.outputs[index].name, dropped, points, effects);
            }
        }
    }

    /// When calm may have come, observed axis.
    pub(super) fn calm_deadline(&self) -> Option<i64> {
        let dropping = (0..self.dropping.len()).filter(|index| self.is_dropping(*index));
        dropping.map(|index| self.dropping[index].since.saturating_add(CALM)).min()
    }

    fn is_dropping(&self, index: usize) -> bool {
        self.operators.is_active(Condition::OutboxDropping, &self.spec.outputs[index].name)
    }

    /// Points of an output given up or lost so far. An edge action's that went stale are not among them: that is how those are meant.
    fn given_up(&self, index: usize) -> u64 {
        let line = &self.lines[index];
        line.given_up() - line.expired_stale + line.lost_outbox
    }

    /// Shows one of the fields refused for their type, at most once a minute.
    pub(super) fn tell_conflict(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let refused = self.operators.type_counts().rejected;
        if refused == self.conflicts.0 || now.steady < self.conflicts.1 {
            return;
        }
        self.conflicts = (refused, now.steady.saturating_add(CONFLICTS_EVERY));
        let Some(conflict) = self.operators.last_conflict() else { return };
        let (measurement, field) = (self.table.series(conflict.series).measurement(), &self.table.fields()[usize::from(conflict.field)]);
        let (first, came) = (format!("{:?}", conflict.first).to_lowercase(), format!("{:?}", conflict.came).to_lowercase());
        let message = format!("field {field} of {measurement} came as {came} and was {first} first: refused, {refused} fields so far");
        effects.push(Effect::Log { error: false, message });
    }

    fn tell(&mut self, now: Now, condition: Condition, subject: &str, active: bool, value: u64, effects: &mut Vec<Effect>) {
        if self.operators.is_active(condition, subject) == active {
            return;
        }
        self.record(now, &Record::Condition { condition, subject, active, value });
        let state = if active { "firing" } else { "resolved" };
        let about = if subject.is_empty() { String::new() } else { format!(", output {subject}, {value} points") };
        effects.push(Effect::Log { error: false, message: format!("alert {} {state}{about}", condition.name()) });
    }
}
