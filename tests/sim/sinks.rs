//! Where results go: outputs that are away, answer partly, too late or not at all, and refuse some points.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use weir_engine::record::DeliveryCounts;
use weir_plugin_api::{Chunk, Identity, Lane, plugin::OutputResume};

use super::{
    oracle::{Place, content, counts},
    plan::Bug,
    world::Random,
};

/// Points of one lane at an output.
#[derive(Default)]
struct Task {
    wanted: bool,
    pending: VecDeque<(Arc<Chunk>, usize)>,
}

/// What an output has to say.
#[derive(Debug)]
pub enum Answer {
    /// Nothing.
    None,
    /// A write did not get through.
    Failing,
    /// It is ready for more of a lane.
    Want(Lane),
    /// It is done with some points.
    Done {
        /// Lane.
        lane: Lane,
        /// Last one.
        upto: Identity,
        /// What happened to them.
        counts: DeliveryCounts,
        /// How often it answered.
        token: u64,
    },
}

/// One output and what is behind it.
pub struct Sink {
    index: u16,
    /// It writes down with the points how far it got, and is asked at start.
    pub knowing: bool,
    /// An edge action, which may find a transition too old.
    edge: bool,
    /// The bit of a route that stands for it, in the configuration of the day.
    bit: u64,
    /// Numbers points as they come: a planted bug. The next number.
    running: Option<u64>,
    /// Lets go of alerts first: a planted bug.
    drops_alerts: bool,
    /// Goes by the place it had at first: a planted bug.
    keeps_place: bool,
    lanes: [Task; 2],
    /// Results of records up to here may come to be others: damage has changed their causes.
    pub disturbed: u64,
    /// What arrived.
    pub arrived: BTreeMap<Place, String>,
    /// How many records there were when it last arrived, of the points of results.
    pub arrived_at: BTreeMap<Identity, u64>,
    /// The most of these.
    newest: u64,
    /// How many there are now.
    pub records: u64,
    /// How many points the result of a window has, and the most it ever had.
    windows: BTreeMap<String, (i64, i64)>,
    /// Points that arrived again.
    pub repeated: u64,
    token: u64,
    /// It knows its place and may not be heard all the same: then it asks.
    asks: bool,
    /// Cuts back what it has to what it is told: how often it had answered when a point came.
    cuts: Option<BTreeMap<Place, u64>>,
    /// It is told at a start how far was recovered.
    pub is_told: bool,
    /// What it had of each lane when it asked after an answer that did not come.
    has: [Option<Identity>; 2],
}

impl Sink {
    /// An output that nothing was sent to.
    pub fn new(index: u16, knowing: bool, edge: bool, bug: Option<Bug>) -> Self {
        Self {
            index,
            knowing,
            edge,
            bit: 1 << index,
            running: (bug == Some(Bug::RunningIdentity)).then_some(0),
            drops_alerts: bug == Some(Bug::AlertsFirst),
            keeps_place: bug == Some(Bug::PlacesKept),
            lanes: Default::default(),
            disturbed: 0,
            arrived: BTreeMap::new(),
            arrived_at: BTreeMap::new(),
            windows: BTreeMap::new(),
            newest: 0,
            records: 0,
            repeated: 0,
            token: 0,
            asks: false,
            cuts: None,
            is_told: false,
            has: [None; 2],
        }
    }

    /// It is cut back, at a start, to where it is told that it stood.
    pub fn cutting(self, cuts: bool) -> Self {
        Self { cuts: cuts.then(BTreeMap::new), ..self }
    }

    /// It may not be heard even where it knows its place.
    pub fn asking(self, asks: bool) -> Self {
        Self { asks, ..self }
    }

    /// It is told how far was recovered, and may not be heard.
    pub fn told(self, is_told: bool) -> Self {
        let is_told = is_told && self.knowing;
        Self { asks: self.asks || is_told, is_told, ..self }
    }

    /// The agent starts again; so many points were settled, and this is its place in routes.
    pub fn restart(&mut self, settled: u64, place: u16) {
        self.lanes = Default::default();
        let place = if self.keeps_place { self.bit.trailing_zeros() as u16 } else { place };
        (self.bit, self.has) = (1 << place, [None; 2]);
        self.running = self.running.map(|_| settled);
    }

    /// The agent starts, and this is where the output stood. Where nothing is known of it, it leaves what there is, for good: what is said of
    /// later answers is counted from here.
    ///
    /// # Errors
    /// When it has less than that.
    pub fn open(&mut self, resume: &OutputResume) -> Result<(), String> {
        let Some(since) = &mut self.cuts else { return Ok(()) };
        if !resume.known {
            since.clear();
            self.token = resume.token;
            return Ok(());
        }
        if resume.token > self.token {
            return Err(format!("output {} is told that it stood at {}, it stands at {}", self.index, resume.token, self.token));
        }
        let gone: Vec<Place> = since.iter().filter(|(_, token)| **token >= resume.token).map(|(place, _)| *place).collect();
        for place in gone {
            since.remove(&place);
            self.arrived.remove(&place);
        }
        self.token = resume.token;
        Ok(())
    }

    /// The agent has lost the records behind this one: what arrived by then came before what it makes now.
    pub fn forget_records_behind(&mut self, records: u64) {
        if self.newest > records {
            self.newest = records;
            self.arrived_at.values_mut().for_each(|at| *at = records.min(*at));
        }
        if self.is_told {
            // It is told how far was recovered: what it has beyond is of a life that is lost, and others get those numbers.
            let first = Identity { record: records.saturating_add(1), ordinal: 0 };
            for lane in Lane::ALL {
                let beyond: Vec<Place> = self.arrived.range((lane, first)..).map(|(place, _)| *place).take_while(|p| p.0 == lane).collect();
                beyond.iter().for_each(|place| drop(self.arrived.remove(place)));
            }
        }
    }

    /// What it has, where it knows.
    pub fn resume(&self) -> OutputResume {
        let last = |lane| self.last(lane).unwrap_or_default();
        OutputResume { alerts: last(Lane::Alerts), results: last(Lane::Results), token: self.token, ..OutputResume::default() }
    }

    /// The newest of a lane that arrived.
    fn last(&self, lane: Lane) -> Option<Identity> {
        let newest = Identity { record: u64::MAX, ordinal: u32::MAX };
        self.arrived.range((lane, Identity::default())..=(lane, newest)).next_back().map(|((_, identity), _)| *identity)
    }

    /// Whether it has done what it was given, and wants more.
    pub fn is_idle(&self) -> bool {
        self.lanes.iter().all(|task| task.pending.is_empty() && task.wanted)
    }

    /// In the end no window's result has fewer points than it once had.
    ///
    /// # Errors
    /// The first one that has.
    pub fn check_windows(&self) -> Result<(), String> {
        let poorer = self.windows.iter().find(|(_, (now, most))| now < most);
        poorer.map_or(Ok(()), |(window, (now, most))| Err(format!("{window} had {most} points, and has {now}")))
    }

    /// The core offers what was wanted.
    ///
    /// # Errors
    /// When nothing was.
    pub fn offer(&mut self, lane: Lane, chunk: &Arc<Chunk>, from: usize) -> Result<(), String> {
        let task = &mut self.lanes[lane as usize];
        if !std::mem::take(&mut task.wanted) {
            return Err(format!("output {} was offered what it did not want", self.index));
        }
        let bit = self.bit;
        task.pending.extend((from..chunk.len()).filter(|i| chunk.route(*i) & bit != 0).map(|i| (Arc::clone(chunk), i)));
        Ok(())
    }

    /// It asks, or writes and answers, or writes and is not heard, or does not answer in time.
    ///
    /// # Errors
    /// When a point comes again that it said it has, or says something else than before.
    pub fn act(&mut self, random: &mut Random) -> Result<Answer, String> {
        let lane = Lane::ALL[random.below(2) as usize];
        let task = &mut self.lanes[lane as usize];
        if task.pending.len() < 20 && !task.wanted {
            task.wanted = true;
            return Ok(Answer::Want(lane));
        }
        let count = (1 + random.below(40) as usize).min(task.pending.len());
        if count == 0 {
            return Ok(Answer::None);
        }
        if random.once_in(16) {
            // It timed out before anything was written.
            return Ok(Answer::Failing);
        }
        let may_be_unheard = if self.knowing { self.asks } else { self.running.is_none() && self.cuts.is_none() };
        let unheard = may_be_unheard && random.once_in(12);
        let batch: Vec<(Arc<Chunk>, usize)> = task.pending.iter().take(count).cloned().collect();
        if self.drops_alerts && lane == Lane::Alerts && random.once_in(4) {
            self.lanes[lane as usize].pending.drain(..count);
            let counts = DeliveryCounts { expired_bytes: count as u64, ..DeliveryCounts::default() };
            return Ok(self.done(lane, &batch, counts));
        }
        for (chunk, index) in &batch {
            if self.has[lane as usize].is_none_or(|has| chunk.identity(*index) > has) {
                self.write(lane, chunk, *index)?;
            }
        }
        if unheard && self.knowing {
            // It asks what became of it, and passes over what it has.
            self.has[lane as usize] = self.last(lane);
        }
        if unheard {
            // The connection breaks before the answer: all of it will be sent again.
            return Ok(Answer::Failing);
        }
        self.lanes[lane as usize].pending.drain(..count);
        let mut counts = DeliveryCounts::default();
        for _ in &batch {
            match random.below(30) {
                0 => counts.rejected += 1,
                1 if self.edge => counts.expired_stale += 1,
                _ => counts.delivered += 1,
            }
        }
        Ok(self.done(lane, &batch, counts))
    }

    fn done(&mut self, lane: Lane, batch: &[(Arc<Chunk>, usize)], counts: DeliveryCounts) -> Answer {
        self.token += 1;
        let upto = batch.last().map_or_else(Identity::default, |(chunk, index)| chunk.identity(*index));
        Answer::Done { lane, upto, counts, token: self.token }
    }

    fn write(&mut self, lane: Lane, chunk: &Chunk, index: usize) -> Result<(), String> {
        let mut identity = chunk.identity(index);
        if let Some(running) = &mut self.running {
            identity = Identity { record: *running, ordinal: 0 };
            *running += 1;
        }
        if lane == Lane::Results {
            self.arrived_at.insert(identity, self.records);
            self.newest = self.newest.max(self.records);
        }
        let content = content(chunk, index, lane);
        for (window, count) in counts(&content) {
            let (now, most) = self.windows.entry(window).or_default();
            (*now, *most) = (count, count.max(*most));
        }
        if let Some(since) = &mut self.cuts {
            since.insert((lane, identity), self.token);
        }
        let Some(before) = self.arrived.insert((lane, identity), content.clone()) else { return Ok(()) };
        self.repeated += 1;
        if (self.knowing || self.cuts.is_some()) && identity.record > self.disturbed {
            return Err(format!("{identity:?} was sent again to output {}, which said it has it", self.index));
        }
        if before != content && identity.record > self.disturbed {
            return Err(format!("output {}: {identity:?} was {before}, is {content}", self.index));
        }
        Ok(())
    }
}
