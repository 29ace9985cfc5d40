//! The core's rules, each by a case at its edge: commits, the gate, acknowledgements, what may wait and what is given up.
#![allow(clippy::unwrap_used)]

mod bounds;
mod clock;
mod commit;
mod condition;
mod configuration;
mod dedup;
mod floors;
mod overload;
mod recovery;
mod thin;

use std::{collections::BTreeMap, sync::Arc};

use weir_plugin_api::{
    Batch, Cell, Identity, InputCounts, Kind, Lane, Position, Series,
    filter::{Filter, FilterOptions},
};

use super::*;
use crate::{
    operators::expr::Expr,
    record::Condition,
    spec::{AlertSpec, Durability, InputSpec, LevelSpec, OutputSpec},
};

pub(super) const MS: i64 = 1_000_000;
pub(super) const S: i64 = 1_000_000_000;
/// Wall time at steady 0: 2027.
pub(super) const EPOCH: i64 = 1_800_000_000 * S;

pub(super) fn filter(namepass: Vec<String>, tagdrop: BTreeMap<String, Vec<String>>) -> Filter {
    Filter::new(&FilterOptions {
        namepass,
        namedrop: Vec::new(),
        fieldinclude: Vec::new(),
        fieldexclude: Vec::new(),
        tagpass: BTreeMap::new(),
        tagdrop,
        taginclude: Vec::new(),
        tagexclude: Vec::new(),
    })
}

/// One input whose points pass to two outputs, and an alert that holds a siren. What the agent tells about itself they do not take.
pub(super) fn spec() -> EngineSpec {
    let own = Condition::ALL.map(|c| c.name().to_owned()).to_vec();
    let filter = filter(Vec::new(), BTreeMap::from([("alert".to_owned(), own)]));
    let output =
        |name: &str| OutputSpec { name: name.into(), alerts: true, results: true, filter: filter.clone(), ..OutputSpec::default() };
    EngineSpec {
        inputs: vec![InputSpec { name: "in".into(), window_messages: 20, ..InputSpec::default() }],
        outputs: vec![output("near"), output("far")],
        levels: vec![LevelSpec { name: "siren".into(), at_once: false }],
        alerts: vec![AlertSpec {
            name: "hot".into(),
            when: Expr::parse("v > 100").unwrap(),
            clear: None,
            for_: 0,
            keep: 0,
            by: None,
            window: None,
            filter: Filter::default(),
            severity: "critical".into(),
            edge_actions: 0,
            level_actions: vec![0],
        }],
        ..EngineSpec::default()
    }
}

/// A core with clocks, and a disk that does what it is told when it is told to.
pub(super) struct World {
    pub core: Core,
    pub now: Now,
    pub spec: Arc<EngineSpec>,
    announced: bool,
    number: u64,
    /// Journal blocks handed to the disk.
    pub blocks: Vec<(BlockNumber, BlockMeta, Vec<u8>)>,
    /// Outbox blocks by place.
    pub outbox: BTreeMap<OutboxPlace, OutboxBlock>,
    segment: u64,
    /// What the last checkpoint brought about.
    pub after_checkpoint: Vec<Effect>,
    /// Index of the input whose batches [`World::batch`] makes.
    pub batch_input: u16,
    /// How old points are when [`World::batch`] brings them, nanoseconds.
    pub age: i64,
    /// What the core said when it started.
    pub log: Vec<String>,
    /// What was saved of the cursors.
    pub saved: Option<Vec<u8>>,
}

impl World {
    pub fn new(spec: EngineSpec) -> Self {
        let spec = Arc::new(spec);
        let now = Now { steady: S, wall: EPOCH + S, quality: ClockQuality::Synced };
        let core = Core::new(Arc::clone(&spec), now);
        let mut world = Self {
            core,
            now,
            spec,
            announced: false,
            number: 0,
            blocks: Vec::new(),
            outbox: BTreeMap::new(),
            segment: 0,
            after_checkpoint: Vec::new(),
            batch_input: 0,
            age: 0,
            log: Vec::new(),
            saved: None,
        };
        world.begin();
        world
    }

    /// The core starts; what its first step says to the disk is done.
    fn begin(&mut self) {
        let mut effects = Vec::new();
        self.core.start(self.now, &mut effects);
        self.keep(&effects);
        self.log.extend(effects.iter().filter_map(|e| if let Effect::Log { message, .. } = e { Some(message.clone()) } else { None }));
        if appends(&effects) > 0 {
            self.sync();
        }
    }

    fn keep(&mut self, effects: &[Effect]) {
        for effect in effects {
            if let Effect::Append { block, bytes, meta, .. } = effect {
                self.blocks.push((*block, meta.clone(), bytes.clone()));
            }
        }
    }

    pub fn pass(&mut self, nanos: i64) {
        self.now.steady += nanos;
        self.now.wall += nanos;
    }

    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.core.step(self.now, event, &mut effects);
        self.keep(&effects);
        effects
    }

    /// Points of one series with these values, a millisecond apart, as one batch.
    pub fn batch(&mut self, position: Position, values: &[f64]) -> Vec<Effect> {
        self.number += 1;
        let cells = values
            .iter()
            .enumerate()
            .map(|(i, value)| Cell {
                series: 0,
                field: 0,
                kind: Kind::Float as u8,
                flags: Cell::START,
                time: self.now.wall - self.age + i as i64 * MS,
                value: value.to_bits(),
            })
            .collect();
        let mut batch = Batch {
            number: self.number,
            position,
            read_at: self.now.steady,
            counts: InputCounts { read: values.len() as u64, ..InputCounts::default() },
            cells,
            points: values.len() as u32,
            ..Batch::default()
        };
        if !std::mem::replace(&mut self.announced, true) {
            batch.new_series.push(Arc::new(Series::from_parts("m", &[("device", "a")])));
            batch.new_partitions.push("a".into());
            batch.new_fields.push("v".into());
        }
        self.step(Event::Batch { input: self.batch_input, batch })
    }

    /// Points that are committed and durable.
    pub fn take(&mut self, values: &[f64]) -> Vec<Effect> {
        let mut effects = self.batch(Position::None, values);
        self.pass(self.spec.storage.commit_interval);
        effects.extend(self.step(Event::Time));
        effects.extend(self.sync());
        effects
    }

    /// What is recorded becomes durable; what that brings about.
    pub fn commit(&mut self) -> Vec<Effect> {
        self.pass(self.spec.storage.commit_interval);
        self.step(Event::Time);
        self.sync()
    }

    pub fn sync(&mut self) -> Vec<Effect> {
        let block = self.core.commit.next_block - 1;
        self.step(Event::Durable { block, synced: true })
    }

    /// Makes a checkpoint the way the disk would; the state.
    pub fn checkpoint(&mut self) -> Vec<u8> {
        let effects = self.step(Event::Checkpoint);
        self.sync();
        self.write_checkpoint(effects)
    }

    /// Performs the checkpoint among these effects.
    pub fn write_checkpoint(&mut self, effects: Vec<Effect>) -> Vec<u8> {
        let (number, outbox, state) = effects
            .into_iter()
            .find_map(|e| match e {
                Effect::Checkpoint { number, outbox, state, .. } => Some((number, outbox, state)),
                _ => None,
            })
            .unwrap();
        let mut places = Vec::new();
        for block in outbox {
            self.segment += 1;
            let place = OutboxPlace { segment: self.segment, offset: 0, bytes: block.bytes.len() as u32 };
            self.outbox.insert(place, block);
            places.push(place);
        }
        self.blocks.clear();
        self.after_checkpoint = self.step(Event::CheckpointDone { number, outbox: places, journal_used: 0 });
        state
    }

    /// Killed and started again from `state` (or nothing) and the journal since.
    pub fn restart(&mut self, state: Option<&[u8]>) {
        let found: Vec<FoundBlock> =
            self.outbox.iter().map(|(place, b)| FoundBlock { lane: b.lane, place: *place, first: b.first, points: b.points }).collect();
        self.core = match state {
            Some(state) => Core::restore(Arc::clone(&self.spec), state, &found, self.now).unwrap(),
            None => Core::new(Arc::clone(&self.spec), self.now),
        };
        for (_, meta, bytes) in &self.blocks {
            self.core.replay(meta, bytes).unwrap();
        }
        self.core.adopt();
        if let Some(saved) = &self.saved {
            self.core.set_saved_cursors(saved).unwrap();
        }
        self.announced = false;
        self.begin();
    }

    /// What an output gets next, read from the outbox if it is there: identity and value of each point meant for it.
    pub fn want(&mut self, output: u16) -> Vec<(Identity, f64)> {
        let effects = self.step(Event::Want { output, lane: Lane::Results });
        self.offered(output, effects)
    }

    /// The points offered among these effects, reads of the outbox performed.
    pub fn offered(&mut self, output: u16, mut effects: Vec<Effect>) -> Vec<(Identity, f64)> {
        for _ in 0..100 {
            let read = effects.iter().find_map(|e| {
                if let Effect::ReadOutbox { lane, place, output: to } = e { (*to == output).then_some((*lane, *place)) } else { None }
            });
            let Some((lane, place)) = read else { return self.points(output, &effects) };
            let bytes = self.outbox.get(&place).map(|b| b.bytes.clone());
            effects = self.step(Event::OutboxRead { output, lane, place, bytes });
        }
        panic!("the same blocks are read again and again");
    }

    fn points(&self, output: u16, effects: &[Effect]) -> Vec<(Identity, f64)> {
        let mut points = Vec::new();
        for effect in effects {
            if let Effect::Offer { output: to, chunk, from, .. } = effect
                && *to == output
            {
                let meant = (*from..chunk.len()).filter(|i| chunk.route(*i) & 1 << output != 0);
                points.extend(meant.map(|i| (chunk.identity(i), f64::from_bits(chunk.cells[chunk.starts[i] as usize].value))));
            }
        }
        points
    }

    pub fn delivered(&mut self, output: u16, points: &[(Identity, f64)]) -> Vec<Effect> {
        let counts = DeliveryCounts { delivered: points.len() as u64, ..DeliveryCounts::default() };
        let upto = points.last().unwrap().0;
        self.step(Event::Delivered { output, lane: Lane::Results, upto, counts, token: 0 })
    }

    /// Everything an output can get, delivered; the values.
    pub fn drain(&mut self, output: u16) -> Vec<f64> {
        let mut values = Vec::new();
        loop {
            let points = self.want(output);
            if points.is_empty() {
                return values;
            }
            values.extend(points.iter().map(|(_, value)| *value));
            self.delivered(output, &points);
        }
    }

    pub fn line(&self, output: usize) -> OutputLine {
        self.core.ledger().outputs[output].clone()
    }

    /// The ledger balances.
    pub fn balances(&self) {
        assert_eq!(self.core.ledger().residues(), Vec::<String>::new());
    }
}

pub(super) fn appends(effects: &[Effect]) -> usize {
    effects.iter().filter(|e| matches!(e, Effect::Append { .. })).count()
}

pub(super) fn acknowledged(effects: &[Effect]) -> Vec<u64> {
    effects.iter().filter_map(|e| if let Effect::Acknowledge { number, .. } = e { Some(*number) } else { None }).collect()
}

pub(super) fn checkpoints(effects: &[Effect]) -> usize {
    effects.iter().filter(|e| matches!(e, Effect::Checkpoint { .. })).count()
}

pub(super) fn armed(effects: &[Effect]) -> Option<i64> {
    effects.iter().rev().find_map(|e| if let Effect::Arm { at } = e { Some(*at) } else { None })
}
