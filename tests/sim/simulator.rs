//! One life of an agent with many deaths: a seed decides what happens when, and what must hold is checked at every step.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use weir_engine::{
    core::{Core, Effect, Event, Now},
    record::ClockQuality,
    spec::{EngineSpec, OnStorageFailure, OutputSpec},
};
use weir_plugin_api::Identity;
use weir_store::{Store, StoreOptions, memory::MemoryFiles};

use super::{
    budget::Budget,
    disk::Disk,
    edits::Order,
    files::MortalFiles,
    oracle::{Committed, Made},
    plan::{Bug, Death, Plan, Trouble, WIDE},
    sinks::{Answer, Sink},
    sources::{Source, Taken},
    watch::Watch,
    world::{EPOCH, INPUTS, Random, Readings},
};

/// Steps after which it is left to live.
const DEATHS_UNTIL: usize = 60_000;
/// Steps after which what is not offered yet never will be.
const READS_UNTIL: usize = 90_000;
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
    /// Starts that found saved cursors.
    pub saved_cursors: u64,
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
    /// Points that were given up or lost.
    pub expired: u64,
    /// Of these, lost with a block of the outbox.
    pub lost: u64,
    /// Results that were compared.
    pub results: u64,
    /// Edits of the configuration.
    pub edits: u64,
    /// Times a level was set.
    pub levels: u64,
    /// Batches that were acknowledged and lost, as a weaker mode or a dead disk allows.
    pub weak_losses: u64,
    /// Batches acknowledged by an agent whose disk was dead.
    pub unsafe_batches: u64,
    /// Transitions that the naive alert made too.
    pub transitions: u64,
    /// Points that `dedup` recognised.
    pub deduped: u64,
    /// Outputs that were removed while something waited for them.
    pub dropped: u64,
    /// Times every checkpoint was lost, and of these such as all that is needed was left.
    pub stateless: u64,
    /// See before.
    pub rebuilt: u64,
    /// Points that were left out to make room.
    pub thinned: u64,
    /// Syncs past the write budget.
    pub over_budget: u64,
    /// Steps at which the write budget held back a commit.
    pub held_by_budget: u64,
}

impl std::ops::AddAssign for Seen {
    fn add_assign(&mut self, more: Self) {
        self.crashes += more.crashes;
        self.steps += more.steps;
        self.effects += more.effects;
        self.outbox_reads += more.outbox_reads;
        self.saved_cursors += more.saved_cursors;
        self.digests += more.digests;
        self.repeated += more.repeated;
        self.recognised += more.recognised;
        self.failures += more.failures;
        self.damages += more.damages;
        self.expired += more.expired;
        self.lost += more.lost;
        self.results += more.results;
        self.edits += more.edits;
        self.levels += more.levels;
        self.weak_losses += more.weak_losses;
        self.unsafe_batches += more.unsafe_batches;
        self.transitions += more.transitions;
        self.deduped += more.deduped;
        self.dropped += more.dropped;
        self.stateless += more.stateless;
        self.rebuilt += more.rebuilt;
        self.thinned += more.thinned;
        self.over_budget += more.over_budget;
        self.held_by_budget += more.held_by_budget;
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

/// What is behind an output. The first one may know where it stands, or the first two, or these are cut back to what they are told.
pub fn sink(plan: Plan, index: usize, output: &OutputSpec) -> Sink {
    Sink::new(index as u16, plan.knowing && index == 0 || plan.telling && index == 1, output.edge, plan.bug)
        .asking(plan.seed >= WIDE)
        .told(plan.telling)
        .cutting(plan.cutting && index < 2)
}

/// The simulated agent.
pub struct Simulator {
    pub plan: Plan,
    pub random: Random,
    /// For what the plain lives do not have.
    pub other: Random,
    /// The configuration of the first start, and that of the day.
    pub first: Arc<EngineSpec>,
    pub spec: Arc<EngineSpec>,
    /// Places of inputs and outputs between the two.
    pub order: Order,
    pub files: MortalFiles,
    pub store: Store<MortalFiles>,
    pub core: Core,
    pub disk: Disk,
    pub budget: Budget,
    pub inbox: VecDeque<Event>,
    pub clock: Clock,
    pub armed: i64,
    pub crashed: bool,
    /// When it died that could not be opened since, and whether the power has failed.
    pub dead_since: Option<(i64, bool)>,
    /// Records that only a checkpoint holds: first and last ones.
    pub unjournaled: Vec<(u64, u64)>,
    pub readings: Readings,
    pub sources: Vec<Source>,
    pub sinks: Vec<Sink>,
    /// Number of the next batch.
    pub number: u64,
    pub committed: Committed,
    /// Blocks of results that were to be written to the outbox, by their first identity, in all their versions.
    pub blocks: BTreeMap<Identity, Vec<Vec<Identity>>>,
    /// What the level action was set to.
    pub level: Option<bool>,
    /// What was promised when the disk died under an agent that goes on.
    pub unsafe_since: Option<u64>,
    /// Acknowledgements that wait for the disk while results do not: a planted bug.
    pub withheld: Vec<(u16, u64)>,
    /// Batches up to this number were promised, by any acknowledgement.
    pub promised: u64,
    /// The last batch of each input its source was told of.
    pub told: [u64; INPUTS],
    pub finished_at: Option<u64>,
    pub digests: BTreeMap<u64, u64>,
    /// Batches that damage has cost, and the results of which records it may have changed.
    pub gone: Vec<Taken>,
    pub disturbed: Vec<(u64, u64)>,
    /// What the outbox held when every checkpoint was lost, with the outputs it was for.
    pub adopted: Made,
    /// Every checkpoint was lost, and of the records too many for it to be as if they were not.
    pub stateless: bool,
    /// Files in which a bit has flipped.
    pub flipped: BTreeSet<String>,
    /// How many did.
    pub injuries: usize,
    /// What these may cost of named blocks and of such at the end that nothing names.
    pub injury_blocks: usize,
    /// Blocks of the journal that went with them: named ones, and promised ones at the end that nothing names.
    pub lost: (usize, usize),
    /// A block of the outbox could not be read for so long that it was given up.
    pub unread: bool,
    /// The disk was given up once.
    pub failed: bool,
    /// Records are lost from the middle of the journal: the ledger can't know what was routed.
    pub unbalanced: bool,
    pub seen: Seen,
}

/// Lives a life.
///
/// # Errors
/// What did not hold, in words.
pub fn live(plan: Plan) -> Result<Seen, String> {
    let watch = Watch::over(plan);
    let mut simulator = Simulator::new(plan)?;
    while !simulator.is_at_rest() {
        simulator.seen.steps += 1;
        watch.check(simulator.seen.steps).map_err(|e| format!("{e}: {:#?}", simulator.core.ledger()))?;
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
        let untimed = plan.seed >= WIDE && plan.trouble == Trouble::Clock;
        let readings = Readings { seed: plan.seed, recent: plan.recent, untimed, dedup: plan.dedup };
        let source = |input| Source::new(input, readings, plan.batches, plan.bug);
        let mut simulator = Self {
            core: Core::new(Arc::clone(&spec), clock.now()),
            plan,
            random,
            other: Random(plan.seed ^ 0x2545_f491_4f6c_dd1d),
            first: Arc::clone(&spec),
            order: Order::first(&spec),
            files,
            store,
            disk: Disk::new(plan, 0),
            budget: Budget::default(),
            inbox: VecDeque::new(),
            clock,
            armed: i64::MAX,
            crashed: false,
            dead_since: None,
            unjournaled: Vec::new(),
            readings,
            sources: (0..INPUTS).map(source).collect(),
            sinks: spec.outputs.iter().enumerate().map(|(index, output)| sink(plan, index, output)).collect(),
            number: 0,
            committed: Committed::default(),
            blocks: BTreeMap::new(),
            level: None,
            unsafe_since: None,
            withheld: Vec::new(),
            promised: 0,
            told: [0; INPUTS],
            finished_at: None,
            digests: BTreeMap::new(),
            gone: Vec::new(),
            disturbed: Vec::new(),
            adopted: Made::new(),
            stateless: false,
            flipped: BTreeSet::new(),
            injuries: 0,
            injury_blocks: 0,
            lost: (0, 0),
            unread: false,
            failed: false,
            unbalanced: false,
            seen: Seen::default(),
            spec,
        };
        simulator.disk = Disk::new(plan, 0).telling(simulator.tells_syncs(), &simulator.store);
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
            && !(self.core.is_failed() && self.plan.seed >= WIDE)
            && self.inbox.is_empty()
            && self.disk.is_idle()
            && self.core.is_idle()
            && self.order.in_force().into_iter().all(|sink| self.sinks[sink].is_idle())
            && !self.reads_again()
    }

    /// Whether it dies again and again. Not in the end: one that can't deliver as much as it has between two deaths would never come to rest.
    pub fn dies(&self) -> bool {
        self.plan.death == Death::Random && self.seen.steps < DEATHS_UNTIL
    }

    /// What could not be read is asked for again after a while. What is never offered is found in the end.
    fn reads_again(&self) -> bool {
        let waits = || self.core.ledger().outputs.iter().any(|line| line.waiting() > 0);
        self.plan.trouble == Trouble::DiskErrors && self.seen.steps < READS_UNTIL && waits()
    }

    /// Something happens.
    fn act(&mut self) -> Result<(), String> {
        let passed = self.random.below(2_000_000);
        self.clock.pass(passed);
        self.trouble();
        let dies = self.dies() && !(self.plan.calm && self.other.below(10) > 0);
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
                if self.plan.slow && self.disk.owes_sync() && !self.other.once_in(12) {
                    return Ok(());
                }
                self.disk.perform(&mut self.store, group, &mut self.inbox);
                self.check_syncs()?;
                self.unjournaled.append(&mut self.disk.unjournaled);
                if self.disk.is_synced() {
                    for (input, number) in std::mem::take(&mut self.withheld) {
                        self.acknowledge(input, number);
                    }
                }
            }
            50..65 => self.feed()?,
            65..75 => {
                if self.armed <= self.now().steady {
                    self.armed = i64::MAX;
                    self.step(Event::Time)?;
                } else if self.random.once_in(3) {
                    let passed = self.random.below(60_000_000);
                    self.clock.pass(passed);
                    // Nothing to do for now: a minute has to go by sometimes.
                    if self.plan.thrifty && self.disk.is_idle() && self.inbox.is_empty() {
                        let passed = self.other.below(2_000_000_000);
                        self.clock.pass(passed);
                    }
                }
            }
            75..97 => self.output()?,
            97 if self.random.once_in(3) => self.step(Event::Checkpoint)?,
            98 if dies && self.random.once_in(3) => self.crashed = true,
            // Somebody restarts it.
            99 if self.core.is_failed() => self.crashed = true,
            99 if self.random.once_in(4) => {
                let (output, held) = (self.random.below(3) as u16, self.random.once_in(2));
                let output = output.min(self.spec.outputs.len() as u16 - 1);
                self.step(Event::Held { output, held })?;
            }
            _ => {
                let source = self.random.below(INPUTS as u64) as usize;
                if self.plan.forgetful && self.other.once_in(40) {
                    self.sources[source].forget(&mut self.other);
                    return Ok(());
                }
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
        if matches!(event, Event::StorageFailed { .. }) && self.plan.on_failure == OnStorageFailure::Continue {
            self.unsafe_since.get_or_insert(self.promised);
        }
        let beyond = if let Event::Synced { beyond } = &event { *beyond } else { 0 };
        self.core.step(self.now(), event, &mut effects);
        self.note_syncs(beyond, &effects)?;
        let ledger = self.core.ledger();
        self.trace(|| format!("{:>5} {what}", ledger.records));
        self.unread |= effects.iter().any(|e| matches!(e, Effect::Log { message, .. } if message.contains("can't be read, given up")));
        self.check_given_up(&ledger)?;
        let residues = ledger.residues();
        // Deliveries of results whose cause is lost settle what was never routed.
        if !residues.is_empty() && !self.unbalanced {
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
            let dies = self.dies() && !self.plan.calm && self.random.once_in(600);
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
            // The interval's sync is left out.
            if self.plan.bug == Some(Bug::IntervalNotSynced) && matches!(effect, Effect::Sync) {
                continue;
            }
            if let Effect::Checkpoint { outbox, .. } = &effect
                && self.plan.thins
            {
                self.note_blocks(outbox)?;
            }
            match effect {
                Effect::Append { ref bytes, ref meta, .. } => {
                    self.committed.append(meta, bytes, self.clock.elapsed, std::mem::take(&mut self.budget.over));
                    self.disk.queue.push_back(effect);
                }
                Effect::Sync | Effect::Checkpoint { .. } | Effect::SaveCursors { .. } | Effect::FreeOutbox { .. } => {
                    self.disk.queue.push_back(effect)
                }
                Effect::ReadOutbox { .. } => {
                    self.seen.outbox_reads += 1;
                    self.disk.queue.push_back(effect);
                }
                Effect::Acknowledge { input, number } if self.plan.bug == Some(Bug::ReleasedEarly) => self.withheld.push((input, number)),
                Effect::Acknowledge { input, number } => self.acknowledge(input, number),
                Effect::Offer { output, lane, chunk, from, .. } => self.sinks[self.order.sink(output)].offer(lane, &chunk, from)?,
                Effect::Level { on, .. } => {
                    self.seen.levels += u64::from(self.level != Some(on));
                    self.level = Some(on);
                }
                Effect::Arm { at } => self.armed = at,
                Effect::Log { error: true, message } if !self.plan.may_complain() => return Err(format!("logged: {message}")),
                Effect::Recycle { .. } | Effect::Alarm { .. } | Effect::Log { .. } => {}
            }
        }
        Ok(())
    }

    /// A batch and all before it are safe: the source is told.
    fn acknowledge(&mut self, input: u16, number: u64) {
        self.promised = self.promised.max(number);
        self.seen.unsafe_batches += u64::from(self.unsafe_since.is_some());
        let input = self.order.source(input);
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
        let steady = self.now().steady;
        let Some((taken, batch)) = self.sources[input].take(self.number + 1, steady, &mut self.random) else { return Ok(()) };
        self.number += 1;
        self.seen.recognised += u64::from(!taken.fresh);
        self.committed.take(taken);
        self.step(Event::Batch { input: self.order.input(input), batch })
    }

    /// An output does something, unless it is away.
    fn output(&mut self) -> Result<(), String> {
        let sinks = self.order.in_force();
        let output = sinks[self.random.below(sinks.len() as u64) as usize];
        let away = if self.plan.bounded || self.plan.thins { 3 } else { 1 };
        if (self.clock.elapsed / 500_000_000 + output as i64) % 4 < away && self.finished_at.is_none() {
            return Ok(());
        }
        let index = self.order.output(output);
        self.sinks[output].records = self.core.ledger().records;
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
