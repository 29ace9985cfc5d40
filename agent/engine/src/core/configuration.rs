//! The configuration in force, and how the state becomes that of another one.
//!
//! Records mean what the configuration they were made under says. So the state names its own, a change of it is a record, and after a crash
//! the journal is replayed under the one that was running; only then does the state move on to the one the agent was started with. It
//! makes no difference whether an agent was stopped in order before its configuration was edited, or killed.

use std::{collections::BTreeMap, sync::Arc};

use weir_plugin_api::Lane;

use super::{
    Core, Effect, InputState, Now,
    commit::Commit,
    condition::Dropping,
    cursors::Told,
    dedup::NameHashes,
    ledger::OutputLine,
    pace::Pace,
    waiting::{LaneQueue, Stored},
};
use crate::{
    operators::Operators,
    record::{Record, Stamp},
    series::SeriesTable,
    spec::{EngineSpec, InputSpec, OutputSpec, RESULTS_VERSION},
};

/// Where each output of the new configuration was in the old one, and back.
struct OutputMap {
    /// Old index by new index.
    old: Vec<Option<usize>>,
    /// New index by old index.
    new: Vec<Option<usize>>,
}

impl OutputMap {
    fn of(old: &[OutputSpec], new: &[OutputSpec]) -> Self {
        let find = |list: &[OutputSpec], name: &str| list.iter().position(|o| o.name == name);
        Self { old: new.iter().map(|o| find(old, &o.name)).collect(), new: old.iter().map(|o| find(new, &o.name)).collect() }
    }

    /// Things kept by output, in their new places.
    fn places<T: Clone>(&self, things: &[T], make: impl Fn(usize) -> T) -> Vec<T> {
        let place = |(index, old): (usize, &Option<usize>)| old.and_then(|old| things.get(old).cloned()).unwrap_or_else(|| make(index));
        self.old.iter().enumerate().map(place).collect()
    }

    fn route(&self, route: u64) -> u64 {
        let bits = self.new.iter().enumerate().take(64).filter(|(old, _)| route >> old & 1 == 1);
        bits.filter_map(|(_, new)| *new).filter(|new| *new < 64).fold(0, |route, new| route | 1 << new)
    }

    fn lane(&self, lane: &mut LaneQueue) {
        lane.cursors = self.places(&lane.cursors, |_| super::waiting::Cursor::default());
        lane.kept.clear();
        let counts = |stored: &mut Stored| stored.counts = self.places(&stored.counts, |_| 0);
        lane.stored.iter_mut().for_each(counts);
        for held in &mut lane.held {
            held.counts = self.places(&held.counts, |_| 0);
            Arc::make_mut(&mut held.chunk).routes.iter_mut().for_each(|route| *route = self.route(*route));
        }
        lane.held.retain(|held| held.counts.iter().any(|count| *count > 0));
        lane.bytes = lane.held.iter().map(|held| held.size).sum();
        lane.drop_done();
    }
}

impl Core {
    /// The configuration in force.
    pub fn spec(&self) -> &Arc<EngineSpec> {
        &self.spec
    }

    /// Everything is replayed: the configuration this core was made with comes into force. Positions and cursors are told by its indexes
    /// from here on; [`Core::start`] does it too.
    pub fn adopt(&mut self) {
        if self.known.is_none() {
            // Without a state, where records are missing so may be deliveries.
            let remembers = self.checkpoint.number > 0 || self.spec_known && !self.gap;
            let was_there = |output: &OutputSpec| remembers && self.spec.outputs.iter().any(|before| before.name == output.name);
            self.known = Some(self.configured.outputs.iter().map(was_there).collect());
        }
        if *self.spec != *self.configured {
            self.tell_other_results();
            self.migrate(Arc::clone(&self.configured));
            self.spec_known = false;
        }
    }

    /// What was replayed had been computed by a version with other results; before a checkpoint it was, afterwards it will be by this one.
    fn tell_other_results(&mut self) {
        let version = self.spec.results_version;
        if version != RESULTS_VERSION && self.replayed != Stamp::default() {
            self.dropped.push(format!(
                "what came in since the last checkpoint was recorded by a version with other results ({version}, this one is {RESULTS_VERSION}): \
                 results of it may differ from those delivered before"
            ));
        }
    }

    /// A change of configuration read back from the journal. What it cost was said when it happened.
    pub(super) fn replay_configuration(&mut self, bytes: &[u8]) {
        match EngineSpec::from_bytes(bytes) {
            Ok(spec) => {
                self.migrate(Arc::new(spec));
                self.spec_known = true;
                self.dropped.clear();
            }
            Err(error) => self.dropped.push(format!("the journal holds {error}: what follows it is replayed under the one before")),
        }
    }

    /// Makes the change a record, in a block of its own: what is replayed behind it is read under other names.
    pub(super) fn record_configuration(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.spec_known {
            return;
        }
        let bytes = self.spec.to_bytes();
        self.record(now, &Record::Config { spec: &bytes });
        self.commit_now(now, effects);
        self.spec_known = true;
    }

    /// The state becomes that of another configuration: what keeps its name keeps its place, operators keep what still means the same.
    /// Only before anything is taken in: inputs announce their series anew.
    fn migrate(&mut self, spec: Arc<EngineSpec>) {
        self.seal(self.replayed.observed);
        let old = std::mem::replace(&mut self.spec, Arc::clone(&spec));
        self.migrate_inputs(&old);
        self.migrate_outputs(&old);
        let mut table = SeriesTable::new(spec.limits.series_max);
        let migrated = self.operators.migrated(&self.table, Arc::clone(&spec), &mut table);
        let (operators, dropped) = migrated.unwrap_or_else(|error| {
            table = SeriesTable::new(spec.limits.series_max);
            (Operators::new(Arc::clone(&spec)), vec![format!("the state of all windows and alerts is dropped: {error}")])
        });
        (self.operators, self.table, self.hashes) = (operators, table, NameHashes::default());
        self.dropped.extend(dropped);
        self.levels_sent = vec![None; spec.levels.len()];
        let commit = Commit::new(&spec.storage);
        let before = std::mem::replace(&mut self.commit, commit);
        (self.commit.durable, self.commit.journal_bytes) = (before.durable, before.journal_bytes);
        (self.commit.next_block, self.commit.commits) = (before.next_block, before.commits);
    }

    /// Inputs that are gone keep position and counts, in case they come back.
    fn migrate_inputs(&mut self, old: &EngineSpec) {
        let mut known: BTreeMap<String, InputState> = std::mem::take(&mut self.gone).into_iter().collect();
        known.extend(old.inputs.iter().map(|i| i.name.clone()).zip(std::mem::take(&mut self.inputs)));
        let state = |input: &InputSpec| {
            let mut state = known.remove(&input.name).unwrap_or_default();
            state.dedup.adapt(input.dedup.as_ref());
            state
        };
        self.inputs = self.spec.inputs.iter().map(state).collect();
        self.gone = known.into_iter().collect();
    }

    fn migrate_outputs(&mut self, old: &EngineSpec) {
        let spec = Arc::clone(&self.spec);
        let map = OutputMap::of(&old.outputs, &spec.outputs);
        for (index, output) in old.outputs.iter().enumerate().filter(|(index, _)| map.new[*index].is_none()) {
            let waited: u64 = self.waiting.lanes.iter().map(|lane| lane.cursors[index].outstanding).sum();
            if waited > 0 {
                self.dropped.push(format!("{waited} results that waited for {:?} are dropped: it is no longer configured", output.name));
            }
        }
        let line = |index: usize| OutputLine { name: spec.outputs[index].name.clone(), ..OutputLine::default() };
        self.lines = map.places(&self.lines, line);
        self.tokens = map.places(&self.tokens, |_| 0);
        self.unrouted = map.places(&self.unrouted, |_| 0);
        // A run finds these out for itself.
        self.dropping = vec![Dropping::default(); spec.outputs.len()];
        self.pace = vec![Pace::default(); spec.outputs.len()];
        self.waiting.lanes.iter_mut().for_each(|lane| map.lane(lane));
        self.lost.iter_mut().for_each(|(_, stored)| stored.counts = map.places(&stored.counts, |_| 0));
        let told = std::mem::take(&mut self.told).into_iter();
        self.told = told.filter_map(|t| Some(Told { output: map.new.get(usize::from(t.output)).copied()?? as u16, ..t })).collect();
        debug_assert_eq!(self.waiting.lanes[Lane::Results as usize].cursors.len(), spec.outputs.len());
    }
}
