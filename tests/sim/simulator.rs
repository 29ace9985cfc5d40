//! One life of an agent with many deaths: a seed decides what happens when, and what must hold is checked at every step.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use weir_engine::{
    core::{Core, Effect, Event, Now},
    record::ClockQuality,
    spec::EngineSpec,
};
use weir_store::{Store, StoreOptions, memory::MemoryFiles};

use super::{
    disk::Disk,
    files::MortalFiles,
    oracle::Committed,
    plan::{Bug, Death, Plan, Trouble},
    sinks::{Answer, Sink},
    sources::{Source, Taken},
    world::{EPOCH, INPUTS, Random},
};

/// Steps after which a run that has not come to rest never will.
const STEPS_MAX: usize = 100_000;
/// Seconds a clock steps by at most.
const CLOCK_STEP: u64 = 8000;

/// What a life was like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Crashes.
    pub crashes: u64,
    /// Steps.
    pub steps: usize,
    /// Effects, those of the core and those on the disk.
    pub effects: u64,
    /// Blocks read from the outbox.
    pub outbox_reads: u64,
    /// Recoveries whose state was compared with that of before.
    pub digests: u64,
    /// Points that arrived twice.
    pub repeated: u64,
    /// Batches that sources sent again and that were recognised.
    pub recognised: u64,
    /// Operations on files that failed.
    pub failures: u64,
    /// Times the store said that something is gone.
    pub damages: u64,
    /// Points that were given up.
    pub expired: u64,
    /// Results that were compared.
    pub results: u64,
}

impl std::ops::AddAssign for Seen {
    fn add_assign(&mut self, more: Self) {
        self.crashes += more.crashes;
        self.steps += more.steps;
        self.effects += more.effects;
        self.outbox_reads += more.outbox_reads;
        self.digests += more.digests;
        self.repeated += more.repeated;
        self.recognised += more.recognised;
        self.failures += more.failures;
        self.damages += more.damages;
        self.expired += more.expired;
        self.results += more.results;
    }
}

/// The clocks of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Nanoseconds since the beginning of all, and those at the last boot.
    pub elapsed: i64,
    /// Those at the last boot.
    pub boot: i64,
    shift: i64,
    quality: ClockQuality,
    /// Steps for which it stands still.
    stopped: u64,
}

impl Clock {
    fn now(&self) -> Now {
        Now { steady: self.elapsed - self.boot, wall: EPOCH + self.elapsed + self.shift, quality: self.quality }
    }

    fn pass(&mut self, nanoseconds: u64) {
        if self.stopped > 0 {
            self.stopped -= 1;
        } else {
            self.elapsed += nanoseconds as i64;
        }
    }

    /// It is set, unset or stops.
    fn disturb(&mut self, random: &mut Random) {
        match random.below(4) {
            0 => self.stopped = random.below(200),
            1 => (self.shift, self.quality) = (-EPOCH, ClockQuality::Unset),
            2 => self.shift = (random.below(CLOCK_STEP) as i64 - CLOCK_STEP as i64 / 2) * 1_000_000_000,
            _ => (self.shift, self.quality) = (0, [ClockQuality::Rtc, ClockQuality::Synced][random.below(2) as usize]),
        }
    }
}

/// The simulated agent.
pub struct Simulator {
    pub plan: Plan,
    pub random: Random,
    pub spec: Arc<EngineSpec>,
    pub files: MortalFiles,
    pub store: Store<MortalFiles>,
    pub core: Core,
    pub disk: Disk,
    pub inbox: VecDeque<Event>,
    pub clock: Clock,
    pub armed: i64,
    pub crashed: bool,
    pub sources: Vec<Source>,
    pub sinks: Vec<Sink>,
    /// Number of the next batch.
    pub number: u64,
    pub committed: Committed,
    /// Batches up to this number were promised, by any acknowledgement.
    pub promised: u64,
    /// The last batch of each input its source was told of.
    pub told: [u64; INPUTS],
    pub finished_at: Option<u64>,
    pub digests: BTreeMap<u64, u64>,
    /// Batches that damage has cost, and the results of which records it may have changed.
    pub gone: Vec<Taken>,
    pub disturbed: Vec<(u64, u64)>,
    /// Files in which a bit has flipped.
    pub flipped: BTreeSet<String>,
    /// How many did.
    pub injuries: usize,
    /// Blocks of the journal that went with them: named ones, and promised ones at the end that nothing names.
    pub lost: (usize, usize),
    pub seen: Seen,
}

/// Lives a life.
///
/// # Errors
/// What did not hold, in words.
pub fn live(plan: Plan) -> Result<Seen, String> {
    let mut simulator = Simulator::new(plan)?;
    while !simulator.is_at_rest() {
        if simulator.seen.steps > STEPS_MAX {
            return Err(format!("does not come to rest: {:#?}", simulator.core.ledger()));
        }
        simulator.seen.steps += 1;
        let acted = if simulator.is_dead() { simulator.recover() } else { simulator.act() };
        acted.map_err(|e| format!("step {}: {e}", simulator.seen.steps))?;
    }
    simulator.compare()?;
    Ok(simulator.seen)
}

impl Simulator {
    fn new(plan: Plan) -> Result<Self, String> {
        let mut random = Random(plan.seed);
        let spec = Arc::new(plan.spec(&mut random));
        let files = MortalFiles::new(MemoryFiles::new(plan.seed), plan.bug);
        let store_options = StoreOptions { journal_bytes_max: spec.storage.journal_bytes_max, new_id: 1 + plan.seed };
        let (store, _) = Store::open(files.clone(), &store_options).map_err(|e| e.to_string())?;
        let clock = Clock { elapsed: 0, boot: 0, shift: 0, quality: ClockQuality::Synced, stopped: 0 };
        let sink = |(index, output): (usize, &weir_engine::spec::OutputSpec)| {
            Sink::new(index as u16, plan.knowing && index == 0, output.edge, plan.bug == Some(Bug::RunningIdentity))
        };
        let source = |input| Source::new(input, plan.seed, plan.batches, plan.bug == Some(Bug::RedeliveryCounted));
        let mut simulator = Self {
            core: Core::new(Arc::clone(&spec), clock.now()),
            plan,
            random,
            files,
            store,
            disk: Disk::new(plan.bug == Some(Bug::AcknowledgedEarly)),
            inbox: VecDeque::new(),
            clock,
            armed: i64::MAX,
            crashed: false,
            sources: (0..INPUTS).map(source).collect(),
            sinks: spec.outputs.iter().enumerate().map(sink).collect(),
            number: 0,
            committed: Committed::default(),
            promised: 0,
            told: [0; INPUTS],
            finished_at: None,
            digests: BTreeMap::new(),
            gone: Vec::new(),
            disturbed: Vec::new(),
            flipped: BTreeSet::new(),
            injuries: 0,
            lost: (0, 0),
            seen: Seen::default(),
            spec,
        };
        let mut effects = Vec::new();
        simulator.core.start(simulator.now(), &mut effects);
        if let Death::At(effect) = plan.death {
            simulator.files.fuse.set(Some(effect));
        }
        simulator.perform(effects)?;
        Ok(simulator)
    }

    pub fn now(&self) -> Now {
        self.clock.now()
    }

    fn is_dead(&self) -> bool {
        self.crashed || self.files.fuse.is_dead()
    }

    fn is_at_rest(&self) -> bool {
        !self.is_dead()
            && self.finished_at.is_some()
            && self.inbox.is_empty()
            && self.disk.is_idle()
            && self.core.is_idle()
            && self.sinks.iter().all(Sink::is_idle)
    }

    /// Something happens.
    fn act(&mut self) -> Result<(), String> {
        let passed = self.random.below(2_000_000);
        self.clock.pass(passed);
        self.trouble();
        let dies = self.plan.death == Death::Random;
        match self.random.below(100) {
            0..25 => {
                if let Some(event) = self.inbox.pop_front() {
                    self.step(event)?;
                }
            }
            25..50 => {
                let group = self.random.once_in(2);
                if dies && self.random.once_in(150) {
                    self.files.fuse.set(Some(self.random.below(12) as u32));
                }
                self.disk.perform(&mut self.store, group, &mut self.inbox);
            }
            50..65 => self.feed()?,
            65..75 => {
                if self.armed <= self.now().steady {
                    self.armed = i64::MAX;
                    self.step(Event::Time)?;
                } else if self.random.once_in(3) {
                    let passed = self.random.below(60_000_000);
                    self.clock.pass(passed);
                }
            }
            75..97 => self.output()?,
            97 if self.random.once_in(3) => self.step(Event::Checkpoint)?,
            98 if dies && self.random.once_in(3) => self.crashed = true,
            // Somebody restarts it.
            99 if self.core.is_failed() => self.crashed = true,
            99 if self.random.once_in(4) => {
                let (output, held) = (self.random.below(3) as u16, self.random.once_in(2));
                self.step(Event::Held { output, held })?;
            }
            _ => {
                let source = self.random.below(INPUTS as u64) as usize;
                if self.random.once_in(4) { self.sources[source].reconnect(&mut self.random) } else { self.sources[source].arrive() }
            }
        }
        Ok(())
    }

    /// Faults come and go.
    fn trouble(&mut self) {
        if self.plan.trouble == Trouble::None || !self.random.once_in(300) {
            return;
        }
        let off = self.finished_at.is_some() || self.random.once_in(2);
        let mut files = self.files.files.borrow_mut();
        let used = files.used();
        let faults = &mut files.faults;
        (faults.sync_error_in, faults.write_error_in, faults.read_error_in, faults.space) = (0, 0, 0, 0);
        match self.plan.trouble {
            Trouble::Clock => self.clock.disturb(&mut self.random),
            Trouble::DiskErrors if !off => {
                faults.sync_error_in = [0, 3, 10][self.random.below(3) as usize];
                faults.write_error_in = [0, 20, 200][self.random.below(3) as usize];
                faults.read_error_in = [0, 3][self.random.below(2) as usize];
            }
            Trouble::DiskFull if !off => faults.space = used + self.random.below(40 << 10),
            _ => {}
        }
    }

    /// One event.
    pub fn step(&mut self, event: Event) -> Result<(), String> {
        let mut effects = Vec::new();
        let what = match &event {
            Event::Batch { input, batch } => format!("batch {} of input {input}", batch.number),
            Event::OutboxRead { output, lane, place, bytes } => format!("outbox read {output} {lane:?} {place:?} {}", bytes.is_some()),
            event => format!("{event:?}"),
        };
        self.core.step(self.now(), event, &mut effects);
        let ledger = self.core.ledger();
        self.trace(|| format!("{:>5} {what}", ledger.records));
        let residues = ledger.residues();
        // Deliveries of results whose cause is lost settle what was never routed.
        if !residues.is_empty() && self.disturbed.is_empty() {
            return Err(format!("after {what}: {residues:?}"));
        }
        if effects.iter().any(|e| matches!(e, Effect::Append { .. } | Effect::Checkpoint { .. })) {
            self.digests.insert(ledger.records, self.core.digest());
        }
        self.perform(effects)
    }

    /// Prints a line when asked.
    pub fn trace(&self, line: impl FnOnce() -> String) {
        if super::is_traced() {
            eprintln!("{:>6} {}", self.seen.steps, line());
        }
    }

    /// The effects of an event, unless death comes between them.
    pub fn perform(&mut self, effects: Vec<Effect>) -> Result<(), String> {
        for effect in effects {
            let dies = self.plan.death == Death::Random && self.random.once_in(600);
            if dies || !self.files.fuse.burn() {
                self.crashed = true;
                return Ok(());
            }
            self.trace(|| match &effect {
                Effect::Append { block, meta, .. } => format!("      → block {block} {meta:?}"),
                Effect::Checkpoint { number, upto_record, outbox, .. } => {
                    format!("      → checkpoint {number} {upto_record} {}", outbox.len())
                }
                Effect::Acknowledge { input, number } => format!("      → acknowledge {input} {number}"),
                Effect::Log { message, .. } => format!("      → {message}"),
                _ => "      →".into(),
            });
            match effect {
                Effect::Append { ref bytes, ref meta, .. } => {
                    self.committed.append(meta, bytes);
                    self.disk.queue.push_back(effect);
                }
                Effect::Sync | Effect::Checkpoint { .. } | Effect::FreeOutbox { .. } => self.disk.queue.push_back(effect),
                Effect::ReadOutbox { .. } => {
                    self.seen.outbox_reads += 1;
                    self.disk.queue.push_back(effect);
                }
                Effect::Acknowledge { input, number } => self.acknowledge(usize::from(input), number),
                Effect::Offer { output, lane, chunk, from, .. } => self.sinks[usize::from(output)].offer(lane, &chunk, from)?,
                Effect::Arm { at } => self.armed = at,
                Effect::Log { error: true, message } if !self.plan.may_complain() => return Err(format!("logged: {message}")),
                Effect::Recycle { .. } | Effect::Level { .. } | Effect::Alarm { .. } | Effect::Log { .. } => {}
            }
        }
        Ok(())
    }

    /// A batch and all before it are safe: the source is told.
    fn acknowledge(&mut self, input: usize, number: u64) {
        self.promised = self.promised.max(number);
        let told = std::mem::replace(&mut self.told[input], number);
        let newer = self.committed.taken().rev().skip_while(|t| t.number > number).take_while(|t| t.number > told);
        for taken in newer.filter(|t| t.input == input) {
            self.sources[input].acknowledge(taken.item);
        }
    }

    /// A batch of any input, or the end when there is none.
    fn feed(&mut self) -> Result<(), String> {
        if self.finished_at.is_some() {
            return Ok(());
        }
        if self.sources.iter().all(Source::is_exhausted) {
            self.step(Event::Finish)?;
            self.finished_at = Some(self.core.ledger().records);
            return Ok(());
        }
        let input = self.random.below(INPUTS as u64) as usize;
        if !self.core.wants_batches() {
            return Ok(());
        }
        let Some((taken, batch)) = self.sources[input].take(self.number + 1, &mut self.random) else { return Ok(()) };
        self.number += 1;
        self.seen.recognised += u64::from(!taken.fresh);
        self.committed.take(taken);
        self.step(Event::Batch { input: input as u16, batch })
    }

    /// An output does something, unless it is away.
    fn output(&mut self) -> Result<(), String> {
        let output = self.random.below(self.sinks.len() as u64) as usize;
        let away = if self.plan.bounded { 3 } else { 1 };
        if (self.clock.elapsed / 500_000_000 + output as i64) % 4 < away && self.finished_at.is_none() {
            return Ok(());
        }
        let index = output as u16;
        match self.sinks[output].act(&mut self.random)? {
            Answer::None => Ok(()),
            Answer::Failing => self.step(Event::Failing { output: index }),
            Answer::Want(lane) => self.step(Event::Want { output: index, lane }),
            Answer::Done { lane, upto, counts, token } => {
                self.inbox.push_back(Event::Delivered { output: index, lane, upto, counts, token });
                Ok(())
            }
        }
    }
}
