//! One life of an agent with many deaths: a seed decides what happens when, and what must hold is checked at every step.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use weir_engine::{
    core::{Core, Effect, Event, Now},
    record::{ClockQuality, DeliveryCounts},
    spec::{Durability, EngineSpec},
};
use weir_plugin_api::{Batch, Chunk, Identity, Lane, Position, plugin::OutputResume};
use weir_store::{Recovered, Store, StoreOptions, memory::MemoryFiles};

use super::{
    disk::{Disk, MortalFiles, core_found, core_meta},
    world::{self, EPOCH, INPUTS, Random},
};

/// Steps after which a run that has not come to rest never will.
const STEPS_MAX: usize = 60_000;

/// How a life goes.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The seed.
    pub seed: u64,
    /// The mode.
    pub durability: Durability,
    /// Power fails, too; else only the process dies.
    pub power_cuts: bool,
    /// Syncs are not done: a planted bug.
    pub lying_sync: bool,
    /// Outputs are away for long and little may wait for them: what is given up must be counted.
    pub bounded: bool,
    /// The first output knows what it has, and gets nothing twice.
    pub knowing: bool,
    /// Batches of each input.
    pub batches: usize,
}

/// What a life was like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Crashes.
    pub crashes: u64,
    /// Steps.
    pub steps: usize,
    /// Blocks read from the outbox.
    pub outbox_reads: u64,
    /// Recoveries whose state was compared with that of before.
    pub digests: u64,
    /// Points that arrived twice.
    pub repeated: u64,
}

/// Points of one lane at an output.
#[derive(Default)]
struct LaneTask {
    wanted: bool,
    pending: VecDeque<(Arc<Chunk>, usize)>,
}

/// The simulated agent.
pub struct Simulator {
    options: Options,
    random: Random,
    spec: Arc<EngineSpec>,
    files: MortalFiles,
    store: Store<MortalFiles>,
    core: Core,
    disk: Disk,
    inbox: VecDeque<Event>,
    /// Nanoseconds since the beginning of all, and those at the last boot.
    elapsed: i64,
    boot: i64,
    armed: i64,
    crashed: bool,
    /// Next batch of each input, and whether it has announced its names in this run.
    next: [usize; INPUTS],
    announced: [bool; INPUTS],
    /// Every batch the core took and still knows: input, number, points.
    accepted: Vec<(usize, usize, u64)>,
    /// How many of these were promised, by any acknowledgement.
    promised: usize,
    finished_at: Option<u64>,
    digests: BTreeMap<u64, u64>,
    outputs: Vec<[LaneTask; 2]>,
    /// What arrived: by output, lane and identity.
    arrived: Vec<BTreeMap<(Lane, Identity), String>>,
    tokens: Vec<u64>,
    seen: Seen,
}

fn now(elapsed: i64, boot: i64) -> Now {
    Now { steady: elapsed - boot, wall: EPOCH + elapsed, quality: ClockQuality::Synced }
}

fn content(chunk: &Chunk, index: usize, lane: Lane) -> String {
    let point = chunk.point(index);
    let fields: Vec<String> = point.fields().map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{lane:?} {} {} {}", point.series().line(), fields.join(","), point.time())
}

/// Lives a life.
///
/// # Errors
/// What did not hold, in words.
pub fn live(options: Options) -> Result<Seen, String> {
    let mut spec = world::spec(options.durability);
    let mut random = Random(options.seed);
    spec.storage.journal_bytes_max = [128 << 10, 256 << 10, 4 << 20][random.below(3) as usize];
    spec.limits.results_waiting_bytes_max = [2 << 10, 8 << 10, 1 << 20][random.below(3) as usize];
    if options.bounded {
        spec.storage.outbox_bytes_max = 4 << 10;
        spec.outputs[1].waiting_points_max = 100;
    }
    let mut simulator = Simulator::new(options, random, spec)?;
    while !simulator.is_at_rest() {
        if simulator.seen.steps > STEPS_MAX {
            return Err(format!("does not come to rest: {:#?}", simulator.core.ledger()));
        }
        simulator.seen.steps += 1;
        simulator.act()?;
        if simulator.crashed || simulator.files.is_dead() {
            simulator.recover()?;
        }
    }
    simulator.compare()?;
    Ok(simulator.seen)
}

impl Simulator {
    fn new(options: Options, random: Random, spec: EngineSpec) -> Result<Self, String> {
        let spec = Arc::new(spec);
        let mut memory = MemoryFiles::new(options.seed);
        memory.faults.lying_sync = options.lying_sync;
        let files = MortalFiles::new(memory);
        let store_options = StoreOptions { journal_bytes_max: spec.storage.journal_bytes_max, new_id: 1 + options.seed };
        let (store, _) = Store::open(files.clone(), &store_options).map_err(|e| e.to_string())?;
        let outputs = spec.outputs.len();
        let mut simulator = Self {
            core: Core::new(Arc::clone(&spec), now(0, 0)),
            options,
            random,
            files,
            store,
            disk: Disk::default(),
            inbox: VecDeque::new(),
            elapsed: 0,
            boot: 0,
            armed: i64::MAX,
            crashed: false,
            next: [0; INPUTS],
            announced: [false; INPUTS],
            accepted: Vec::new(),
            promised: 0,
            finished_at: None,
            digests: BTreeMap::new(),
            outputs: (0..outputs).map(|_| Default::default()).collect(),
            arrived: vec![BTreeMap::new(); outputs],
            tokens: vec![0; outputs],
            seen: Seen::default(),
            spec,
        };
        let mut effects = Vec::new();
        simulator.core.start(now(0, 0), &mut effects);
        simulator.perform(effects)?;
        Ok(simulator)
    }

    fn now(&self) -> Now {
        now(self.elapsed, self.boot)
    }

    fn is_at_rest(&self) -> bool {
        self.finished_at.is_some()
            && self.inbox.is_empty()
            && self.disk.is_idle()
            && self.core.is_idle()
            && self.outputs.iter().flatten().all(|l| l.pending.is_empty())
            && self.core.ledger().outputs.iter().all(|o| o.waiting() == 0)
    }

    /// Something happens.
    fn act(&mut self) -> Result<(), String> {
        self.elapsed += self.random.below(2_000_000) as i64;
        match self.random.below(100) {
            0..25 => {
                if let Some(event) = self.inbox.pop_front() {
                    self.step(event)?;
                }
            }
            25..50 => {
                let group = self.random.once_in(2);
                if self.random.once_in(150) {
                    self.files.left.set(Some(self.random.below(12) as u32));
                }
                self.disk.perform(&mut self.store, group, &mut self.inbox);
            }
            50..65 => self.feed()?,
            65..75 => {
                if self.armed <= self.now().steady {
                    self.armed = i64::MAX;
                    self.step(Event::Time)?;
                } else if self.random.once_in(3) {
                    self.elapsed += self.random.below(60_000_000) as i64;
                }
            }
            75..97 => self.output()?,
            97 if self.random.once_in(3) => self.step(Event::Checkpoint)?,
            98 if self.random.once_in(3) => self.crashed = true,
            99 if self.random.once_in(4) => {
                let (output, held) = (self.random.below(3) as u16, self.random.once_in(2));
                self.step(Event::Held { output, held })?;
            }
            _ => {}
        }
        Ok(())
    }

    fn step(&mut self, event: Event) -> Result<(), String> {
        let mut effects = Vec::new();
        let what = match &event {
            Event::Batch { .. } => "batch".to_owned(),
            Event::OutboxRead { output, lane, place, bytes } => format!("outbox read {output} {lane:?} {place:?} {}", bytes.is_some()),
            event => format!("{event:?}"),
        };
        if std::env::var_os("WEIR_SIM_TRACE").is_some() {
            eprintln!("{:>6} {:>5} {what}", self.seen.steps, self.core.ledger().records);
        }
        self.core.step(self.now(), event, &mut effects);
        let ledger = self.core.ledger();
        let residues = ledger.residues();
        if !residues.is_empty() {
            return Err(format!("step {}: after {what}: {residues:?}", self.seen.steps));
        }
        self.digests.insert(ledger.records, self.core.digest());
        self.perform(effects)
    }

    fn perform(&mut self, effects: Vec<Effect>) -> Result<(), String> {
        for effect in effects {
            if self.random.once_in(600) {
                self.crashed = true;
                return Ok(());
            }
            match effect {
                Effect::Append { .. } | Effect::Sync | Effect::Checkpoint { .. } | Effect::FreeOutbox { .. } => {
                    self.disk.queue.push_back(effect)
                }
                Effect::ReadOutbox { .. } => {
                    self.seen.outbox_reads += 1;
                    self.disk.queue.push_back(effect);
                }
                Effect::Acknowledge { number, .. } => self.promised = self.promised.max(number as usize),
                Effect::Offer { output, lane, chunk, from, .. } => {
                    let task = &mut self.outputs[usize::from(output)][lane as usize];
                    if !std::mem::take(&mut task.wanted) {
                        return Err(format!("output {output} was offered what it did not want"));
                    }
                    let bit = 1u64 << output;
                    task.pending.extend((from..chunk.len()).filter(|i| chunk.route(*i) & bit != 0).map(|i| (Arc::clone(&chunk), i)));
                }
                Effect::Arm { at } => self.armed = at,
                Effect::Log { error: true, message } if !self.options.lying_sync => return Err(format!("logged: {message}")),
                Effect::Recycle { .. } | Effect::Level { .. } | Effect::Log { .. } => {}
            }
        }
        Ok(())
    }

    /// A batch of any input, or the end when there is none.
    fn feed(&mut self) -> Result<(), String> {
        if self.finished_at.is_some() {
            return Ok(());
        }
        if self.next.iter().all(|n| *n >= self.options.batches) {
            self.step(Event::Finish)?;
            self.finished_at = Some(self.core.ledger().records);
            return Ok(());
        }
        let input = self.random.below(INPUTS as u64) as usize;
        if self.next[input] >= self.options.batches || !self.core.wants_batches() {
            return Ok(());
        }
        let index = self.next[input];
        self.next[input] += 1;
        let mut batch = world::batch(self.options.seed, input, index);
        if !std::mem::replace(&mut self.announced[input], true) {
            world::names(input, &mut batch);
        }
        self.accepted.push((input, index, batch.counts.read));
        batch.number = self.accepted.len() as u64;
        self.step(Event::Batch { input: input as u16, batch })
    }

    /// An output asks, or writes and reports, or writes and reports later.
    fn output(&mut self) -> Result<(), String> {
        let output = self.random.below(self.outputs.len() as u64) as usize;
        let lane = Lane::ALL[self.random.below(2) as usize];
        // An output may be away for a while.
        let away = if self.options.bounded { 3 } else { 1 };
        if (self.elapsed / 500_000_000 + output as i64) % 4 < away && self.finished_at.is_none() {
            return Ok(());
        }
        let task = &mut self.outputs[output][lane as usize];
        if task.pending.len() < 20 && !task.wanted {
            task.wanted = true;
            return self.step(Event::Want { output: output as u16, lane });
        }
        let count = (1 + self.random.below(40) as usize).min(task.pending.len());
        let mut counts = DeliveryCounts::default();
        let mut upto = Identity::default();
        for (chunk, index) in task.pending.drain(..count) {
            upto = chunk.identity(index);
            let content = content(&chunk, index, lane);
            if let Some(before) = self.arrived[output].insert((lane, upto), content.clone()) {
                self.seen.repeated += 1;
                if self.options.knowing && output == 0 {
                    return Err(format!("step {}: {upto:?} was sent again to an output that said it has it", self.seen.steps));
                }
                if before != content {
                    return Err(format!("output {output}: {upto:?} was {before}, is {content}"));
                }
            }
            if self.random.once_in(30) { counts.rejected += 1 } else { counts.delivered += 1 }
        }
        if count > 0 {
            self.tokens[output] += 1;
            self.inbox.push_back(Event::Delivered { output: output as u16, lane, upto, counts, token: self.tokens[output] });
        }
        Ok(())
    }

    /// Everything in memory is gone; what is on the disk is opened again.
    fn recover(&mut self) -> Result<(), String> {
        self.seen.crashes += 1;
        self.crashed = false;
        self.files.left.set(None);
        if self.options.power_cuts && self.random.once_in(2) {
            self.files.files.borrow_mut().crash();
            self.boot = self.elapsed;
        }
        self.elapsed += self.random.below(1_000_000_000) as i64;
        (self.disk, self.armed) = (Disk::default(), i64::MAX);
        self.inbox.clear();
        self.outputs.iter_mut().flatten().for_each(|task| *task = LaneTask::default());
        self.announced = [false; INPUTS];
        if self.random.once_in(8) {
            self.files.left.set(Some(self.random.below(6) as u32));
        }
        let options = StoreOptions { journal_bytes_max: self.spec.storage.journal_bytes_max, new_id: 1 };
        let (store, recovered) = match Store::open(self.files.clone(), &options) {
            Ok(opened) => opened,
            // Died while it was opened.
            Err(_) if self.files.is_dead() => return Ok(()),
            Err(error) => return Err(format!("can't be opened: {error}")),
        };
        self.files.left.set(None);
        self.store = store;
        let Recovered { checkpoint, blocks, outbox, damage } = recovered;
        if !damage.is_empty() {
            return Err(format!("step {}: damage: {damage:?}", self.seen.steps));
        }
        let outbox: Vec<_> = outbox.iter().map(core_found).collect();
        self.core = match checkpoint {
            Some(c) => Core::restore(Arc::clone(&self.spec), &c.state, &outbox, self.now()).map_err(|e| format!("state: {e}"))?,
            None => Core::new(Arc::clone(&self.spec), self.now()),
        };
        for block in blocks {
            self.core.replay(&core_meta(&block.meta), &block.bytes).map_err(|e| format!("block {:?}: {e}", block.meta))?;
        }
        self.check_recovered()?;
        let mut effects = Vec::new();
        self.core.start(self.now(), &mut effects);
        if self.options.knowing {
            // The first output keeps its place itself.
            let last = |lane| self.arrived[0].keys().filter(|(l, _)| *l == lane).map(|(_, i)| *i).max().unwrap_or_default();
            let (alerts, results) = (last(Lane::Alerts), last(Lane::Results));
            self.core.set_output_cursor(0, OutputResume { alerts, results, token: self.tokens[0] });
        }
        self.perform(effects)
    }

    /// What was promised is there, nothing is there without what came before it, and the state is what it was at that record.
    fn check_recovered(&mut self) -> Result<(), String> {
        let ledger = self.core.ledger();
        if std::env::var_os("WEIR_SIM_TRACE").is_some() {
            eprintln!("{:>6} recovered at record {}", self.seen.steps, ledger.records);
        }
        let residues = ledger.residues();
        if !residues.is_empty() {
            return Err(format!("step {}: recovered: {residues:?}", self.seen.steps));
        }
        let mut left: Vec<u64> = ledger.inputs.iter().map(|i| i.counts.read).collect();
        let mut kept = 0;
        let mut survivors = [0; INPUTS];
        for (at, (input, index, points)) in self.accepted.iter().enumerate() {
            if left[*input] < *points {
                left[*input] = 0;
                continue;
            }
            if at != kept {
                return Err(format!("batch {index} of input {input} survived, one before it did not"));
            }
            left[*input] -= points;
            survivors[*input] = index + 1;
            kept += 1;
        }
        if kept < self.promised {
            return Err(format!("step {}: {} batches were promised, {kept} survived", self.seen.steps, self.promised));
        }
        self.accepted.truncate(kept);
        for (input, survivors) in survivors.into_iter().enumerate() {
            let resume = self.core.resume(input as u16);
            let position = match input {
                0 => resume.files.values().next().map_or(0, |f| f.offset),
                1 => resume.messages.values().max().map_or(0, |hash| u64::from(*hash) + 1),
                2 => resume.sequence.map_or(0, |(_, sequence)| sequence),
                _ => continue,
            };
            if position != survivors as u64 {
                return Err(format!("input {input} resumes at {position}, {survivors} batches survived"));
            }
            self.next[input] = survivors;
        }
        // A source goes on from where it is told: that is a promise.
        self.promised = kept;
        self.finished_at = self.finished_at.filter(|at| *at <= ledger.records);
        if let Some(digest) = self.digests.get(&ledger.records) {
            self.seen.digests += 1;
            if *digest != self.core.digest() {
                return Err(format!("step {}: state at record {} is not what it was", self.seen.steps, ledger.records));
            }
        }
        self.digests.split_off(&(ledger.records + 1));
        Ok(())
    }

    /// Everything arrived that arrives without crashes, and nothing else.
    fn compare(&self) -> Result<(), String> {
        let expected = undisturbed(&self.options, &self.accepted);
        for ((output, expected), line) in expected.into_iter().enumerate().zip(self.core.ledger().outputs) {
            let (have, want) = (self.arrived[output].len() as u64, expected.len() as u64);
            let (mut missing, mut surplus) = (BTreeMap::<&str, i64>::new(), Vec::new());
            expected.iter().for_each(|e| *missing.entry(e).or_default() += 1);
            for arrived in self.arrived[output].values() {
                match missing.get_mut(arrived.as_str()) {
                    Some(left) if *left > 0 => *left -= 1,
                    _ => surplus.push(arrived),
                }
            }
            missing.retain(|_, left| *left > 0);
            let expired = line.expired_bytes + line.expired_age + line.expired_disk;
            if !surplus.is_empty() || want.saturating_sub(have) > expired || line.routed != want || (!self.options.bounded && expired > 0) {
                let missing: Vec<_> = missing.keys().take(4).collect();
                surplus.truncate(4);
                return Err(format!("output {output}: {have} arrived, not {want}; missing {missing:#?}, surplus {surplus:#?}, {line:#?}"));
            }
        }
        Ok(())
    }
}

/// What arrives at each output when nothing ever fails.
fn undisturbed(options: &Options, accepted: &[(usize, usize, u64)]) -> Vec<Vec<String>> {
    let spec = Arc::new(world::spec(options.durability));
    let mut arrived = vec![Vec::new(); spec.outputs.len()];
    let mut core = Core::new(Arc::clone(&spec), now(0, 0));
    let mut events: VecDeque<Event> = VecDeque::new();
    for output in 0..spec.outputs.len() as u16 {
        events.extend(Lane::ALL.map(|lane| Event::Want { output, lane }));
    }
    let mut announced = [false; INPUTS];
    let mut batches = accepted.iter().map(|(input, index, _)| {
        let mut batch: Batch = world::batch(options.seed, *input, *index);
        if !std::mem::replace(&mut announced[*input], true) {
            world::names(*input, &mut batch);
        }
        batch.position = Position::None;
        Event::Batch { input: *input as u16, batch }
    });
    let (mut elapsed, mut finished) = (0, false);
    let mut effects = Vec::new();
    core.start(now(0, 0), &mut effects);
    loop {
        for effect in effects.drain(..) {
            match effect {
                Effect::Append { block, .. } => events.push_back(Event::Durable { block, synced: true }),
                Effect::Offer { output, lane, chunk, from, .. } => {
                    let bit = 1u64 << output;
                    let wanted: Vec<usize> = (from..chunk.len()).filter(|i| chunk.route(*i) & bit != 0).collect();
                    arrived[usize::from(output)].extend(wanted.iter().map(|i| content(&chunk, *i, lane)));
                    let counts = DeliveryCounts { delivered: wanted.len() as u64, ..DeliveryCounts::default() };
                    let upto = chunk.identity(chunk.len() - 1);
                    events.push_back(Event::Delivered { output, lane, upto, counts, token: 0 });
                    events.push_back(Event::Want { output, lane });
                }
                _ => {}
            }
        }
        elapsed += 1_000_000;
        let event =
            events.pop_front().or_else(|| batches.next()).or_else(|| (!std::mem::replace(&mut finished, true)).then_some(Event::Finish));
        match event {
            Some(event) => core.step(now(elapsed, 0), event, &mut effects),
            None if core.is_idle() => return arrived,
            None => core.step(now(elapsed, 0), Event::Time, &mut effects),
        }
    }
}
