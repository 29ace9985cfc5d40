//! One output's task: takes chunks from the core, fills batches, writes them, and tells the core what became of each point.
//!
//! It holds at most a batch per lane beyond what is being written; everything else waits in the core, where it can be spilled.
//! Alerts overtake results between writes. A write that must be repeated is repeated with the same points.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, time::Instant};
use weir_engine::{core::Event, record::DeliveryCounts};
use weir_plugin_api::{
    Chunk, Identity, Lane, Points,
    plugin::{Outcome, Output, OutputResume, Rejection, Stop},
};

use super::{
    backoff::{Backoff, Random},
    dead_letters::DeadLetters,
    handle::{CoreHandle, Message},
    transform::{Transform, has_fields},
};

/// Chunk offered by the core, with the first point after the cursor.
pub struct Offered {
    /// Lane.
    pub lane: Lane,
    /// Points.
    pub chunk: Arc<Chunk>,
    /// First point that is new.
    pub from: usize,
    /// How long ago its points left the engine, nanoseconds.
    pub age: i64,
}

/// What others may know of an output's task.
#[derive(Debug, Default)]
pub struct OutputHealth {
    /// The last write did not get through.
    pub failing: AtomicBool,
    /// Nothing gets through until a person acts.
    pub held: AtomicBool,
    /// Writes that had to be repeated.
    pub retries: AtomicU64,
    /// Rejected points kept as dead letters.
    pub dead_letters: AtomicU64,
    /// Rejected points that were not kept, or no longer are: the files are bounded.
    pub dead_letters_dropped: AtomicU64,
}

/// How an output is fed.
pub struct DeliveryOptions {
    /// Its name.
    pub name: String,
    /// Its index in the engine.
    pub index: u16,
    /// Points per write.
    pub batch: usize,
    /// How long points may wait for a batch to fill.
    pub flush_interval: Duration,
    /// Random addition to it.
    pub flush_jitter: Duration,
    /// Lanes it takes.
    pub lanes: Vec<Lane>,
    /// It was held when the agent went down.
    pub held: bool,
    /// Where rejected points are kept.
    pub dead_letters: Option<DeadLetters>,
}

/// First delay after a write that did not get through.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest delay.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// Delay while a person must act.
const HOLD: Duration = Duration::from_secs(60);
/// Rejected points that are logged one by one, per write.
const REJECTED_LOGGED: usize = 5;

#[derive(Default)]
struct LaneState {
    /// Points not yet part of a write.
    pending: VecDeque<(Arc<Chunk>, std::ops::Range<usize>)>,
    points: usize,
    /// Points skipped since (no field left): delivered without a write.
    skipped: u64,
    /// The write that must be repeated, in parts if it had to be halved.
    unfinished: VecDeque<Points>,
    wanted: bool,
    since: Option<Instant>,
    last: Identity,
    /// Its last write was refused until a person acts.
    held: bool,
}

/// The task.
pub struct Delivery {
    options: DeliveryOptions,
    output: Box<dyn Output>,
    transform: Option<Transform>,
    offers: mpsc::UnboundedReceiver<Offered>,
    core: CoreHandle,
    health: Arc<OutputHealth>,
    lanes: [LaneState; 2],
    backoff: Backoff,
    random: Random,
    /// Most points per write the destination has accepted after it said "too large".
    size_max: usize,
    /// The output's token as it last gave it.
    token: u64,
}

impl Delivery {
    /// A task for `output`.
    pub fn new(
        options: DeliveryOptions,
        output: Box<dyn Output>,
        transform: Option<Transform>,
        offers: mpsc::UnboundedReceiver<Offered>,
        core: CoreHandle,
        health: Arc<OutputHealth>,
        seed: u64,
    ) -> Self {
        let size_max = options.batch.max(1);
        let mut lanes: [LaneState; 2] = Default::default();
        // Until the lane that carries nearly everything gets through, it still is.
        if let Some(lane) = options.lanes.last() {
            lanes[*lane as usize].held = options.held;
        }
        Self {
            options,
            output,
            transform,
            offers,
            core,
            health,
            lanes,
            backoff: Backoff::new(RETRY_FIRST, RETRY_MAX, seed),
            random: Random(seed ^ 0x5bd1),
            size_max,
            token: 0,
        }
    }

    /// Runs until `end` is requested; with `hurry` requested nothing waits for a fuller batch.
    pub async fn run(mut self, resume: OutputResume, hurry: Stop, end: Stop) {
        if !self.open(resume, &end).await {
            return;
        }
        let mut retry_at: Option<Instant> = None;
        loop {
            self.want();
            let ready = if retry_at.is_some_and(|at| at > Instant::now()) { None } else { self.ready(hurry.is_requested()) };
            if let Some(lane) = ready {
                retry_at = self.write(lane).await.map(|delay| Instant::now() + delay);
                if end.is_requested() {
                    break;
                }
                // Whatever came meanwhile is taken before the next write, so that alerts overtake.
                while let Ok(offered) = self.offers.try_recv() {
                    self.take(&offered);
                }
                continue;
            }
            let wake = match (retry_at, self.flush_at()) {
                (Some(retry), _) if retry > Instant::now() => Some(retry),
                (_, flush) => flush,
            };
            tokio::select! {
                biased;
                () = end.requested() => break,
                offered = self.offers.recv() => match offered {
                    Some(offered) => self.take(&offered),
                    None => break,
                },
                () = hurry.requested(), if !hurry.is_requested() => {}
                () = sleep_until(wake) => {}
            }
        }
        self.output.close().await;
    }

    async fn open(&mut self, resume: OutputResume, end: &Stop) -> bool {
        self.token = resume.token;
        loop {
            match self.output.open(resume).await {
                Ok(stands) => {
                    self.token = stands.token;
                    if stands != resume {
                        self.core.send(Message::SetCursor { output: self.options.index, resume: stands });
                    }
                    return true;
                }
                Err(error) => {
                    self.health.failing.store(true, Ordering::Relaxed);
                    self.core.event(Event::Failing { output: self.options.index });
                    let delay = self.backoff.step();
                    tracing::error!(output = %self.options.name, %error, retry_in = ?delay, "output can't be opened");
                    tokio::select! {
                        () = end.requested() => return false,
                        () = tokio::time::sleep(delay) => {}
                    }
                }
            }
        }
    }

    /// Asks for more of each lane that has room.
    fn want(&mut self) {
        for lane in &self.options.lanes {
            let state = &mut self.lanes[*lane as usize];
            if !state.wanted && state.points < self.options.batch {
                state.wanted = true;
                self.core.event(Event::Want { output: self.options.index, lane: *lane });
            }
        }
    }

    fn take(&mut self, offered: &Offered) {
        let chunk = match &mut self.transform {
            Some(transform) => Arc::new(transform.apply(&offered.chunk)),
            None => Arc::clone(&offered.chunk),
        };
        let bit = 1u64 << self.options.index;
        let state = &mut self.lanes[offered.lane as usize];
        state.wanted = false;
        let everything = chunk.routes.iter().all(|r| r & bit != 0) && self.transform.is_none();
        if everything {
            push(state, &chunk, offered.from..chunk.len());
            return;
        }
        let mut start = None;
        for index in offered.from..chunk.len() {
            // The original knows its routes; a transformed point without cells knows none.
            let wanted = offered.chunk.route(index) & bit != 0;
            let shown = wanted && has_fields(&chunk, index);
            if wanted && !shown {
                state.skipped += 1;
                state.last = chunk.identity(index);
            }
            match (shown, start) {
                (true, None) => start = Some(index),
                (false, Some(from)) => {
                    push(state, &chunk, from..index);
                    start = None;
                }
                _ => {}
            }
        }
        if let Some(from) = start {
            push(state, &chunk, from..chunk.len());
        }
        if state.points == 0 && state.skipped > 0 {
            self.report_skipped(offered.lane);
        }
    }

    fn report_skipped(&mut self, lane: Lane) {
        let state = &mut self.lanes[lane as usize];
        let counts = DeliveryCounts { delivered: std::mem::take(&mut state.skipped), ..DeliveryCounts::default() };
        let upto = state.last;
        self.core.event(Event::Delivered { output: self.options.index, lane, upto, counts, token: self.token });
    }

    /// The lane to write now: alerts as soon as there is one, results when a batch is full or has waited long enough.
    fn ready(&self, hurry: bool) -> Option<Lane> {
        let alerts = &self.lanes[Lane::Alerts as usize];
        if alerts.points > 0 || !alerts.unfinished.is_empty() {
            return Some(Lane::Alerts);
        }
        let results = &self.lanes[Lane::Results as usize];
        let due = results.points >= self.options.batch
            || (results.points > 0 && (hurry || self.flush_at().is_some_and(|at| at <= Instant::now())));
        (due || !results.unfinished.is_empty()).then_some(Lane::Results)
    }

    fn flush_at(&self) -> Option<Instant> {
        self.lanes[Lane::Results as usize].since.map(|since| since + self.options.flush_interval)
    }

    /// Writes one batch of a lane; a delay comes back when it must be tried again.
    async fn write(&mut self, lane: Lane) -> Option<Duration> {
        let state = &mut self.lanes[lane as usize];
        if state.unfinished.is_empty() {
            let jitter = self.random.up_to(self.options.flush_jitter);
            let points = next_batch(state, self.size_max, jitter);
            state.unfinished.push_back(points);
        }
        let points = state.unfinished.pop_front()?;
        let outcome = self.output.write(lane, &points).await;
        if !matches!(outcome, Outcome::Retry { .. } | Outcome::Hold { .. }) {
            self.recovered(lane);
        }
        match outcome {
            Outcome::Delivered { rejected, collapsed, token } => {
                self.token = token;
                self.finish(lane, &points, &rejected, collapsed).await;
                None
            }
            Outcome::TooLarge if points.len() <= 1 => {
                let rejected = Rejection { index: 0, status: "too_large".into(), reason: "larger than the destination takes".into() };
                self.finish(lane, &points, &[rejected], 0).await;
                None
            }
            Outcome::TooLarge => {
                let half = points.len() / 2;
                self.size_max = half.max(1);
                tracing::warn!(output = %self.options.name, points = points.len(), "write was too large, halving");
                let unfinished = &mut self.lanes[lane as usize].unfinished;
                unfinished.push_front(points.slice(half..points.len()));
                unfinished.push_front(points.slice(0..half));
                None
            }
            Outcome::Retry { after, reason } => {
                let delay = self.backoff.at_least(after);
                let delay = self.output.retry_within().map_or(delay, |within| delay.min(within));
                self.failed(lane, points, delay, &reason, false);
                Some(delay)
            }
            Outcome::Hold { reason } => {
                self.failed(lane, points, HOLD, &reason, true);
                Some(HOLD)
            }
        }
    }

    /// `hold`: until someone acts. What is held stays so until a write of its lane gets through: a destination that is away for a
    /// while has not changed its mind.
    fn failed(&mut self, lane: Lane, points: Points, delay: Duration, reason: &str, hold: bool) {
        let state = &mut self.lanes[lane as usize];
        state.unfinished.push_front(points);
        state.held |= hold;
        self.health.retries.fetch_add(1, Ordering::Relaxed);
        self.core.event(Event::Failing { output: self.options.index });
        let was_failing = self.health.failing.swap(true, Ordering::Relaxed);
        let was_held = self.health.held.load(Ordering::Relaxed);
        self.note_held();
        match (hold, was_held, was_failing) {
            (true, false, _) | (true, true, false) => {
                tracing::error!(output = %self.options.name, reason, retry_in = ?delay, "destination takes nothing until someone acts; results are kept");
            }
            (false, _, false) => tracing::warn!(output = %self.options.name, reason, retry_in = ?delay, "write failed; results are kept"),
            _ => tracing::debug!(output = %self.options.name, reason, retry_in = ?delay, "write still fails"),
        }
    }

    fn recovered(&mut self, lane: Lane) {
        self.backoff.reset();
        self.lanes[lane as usize].held = false;
        self.note_held();
        if self.health.failing.swap(false, Ordering::Relaxed) {
            tracing::info!(output = %self.options.name, "writes get through again");
        }
    }

    /// Tells the core, which raises and ends the alert.
    fn note_held(&mut self) {
        let held = self.lanes.iter().any(|lane| lane.held);
        if self.health.held.swap(held, Ordering::Relaxed) != held {
            self.core.event(Event::Held { output: self.options.index, held });
        }
    }

    async fn finish(&mut self, lane: Lane, points: &Points, rejected: &[Rejection], collapsed: u64) {
        if let Some(letters) = &mut self.options.dead_letters
            && !rejected.is_empty()
        {
            // Before they are settled: a crash in between keeps them twice rather than not at all.
            letters.keep(points, rejected).await;
        }
        for rejection in rejected.iter().take(REJECTED_LOGGED) {
            let line = points.iter().nth(rejection.index).map(|p| format!("{} @ {}", p.series().line(), p.time())).unwrap_or_default();
            tracing::warn!(output = %self.options.name, status = rejection.status, reason = rejection.reason, point = line, "point rejected for good");
        }
        if rejected.len() > REJECTED_LOGGED {
            tracing::warn!(output = %self.options.name, more = rejected.len() - REJECTED_LOGGED, "further points rejected for good");
        }
        let state = &mut self.lanes[lane as usize];
        let counts = DeliveryCounts {
            delivered: (points.len() - rejected.len()) as u64 + std::mem::take(&mut state.skipped),
            rejected: rejected.len() as u64,
            collapsed,
            ..DeliveryCounts::default()
        };
        let upto =
            if state.points == 0 && state.unfinished.is_empty() { points.last_identity().max(state.last) } else { points.last_identity() };
        self.core.event(Event::Delivered { output: self.options.index, lane, upto, counts, token: self.token });
    }
}

fn push(state: &mut LaneState, chunk: &Arc<Chunk>, range: std::ops::Range<usize>) {
    if range.is_empty() {
        return;
    }
    state.points += range.len();
    state.since.get_or_insert_with(Instant::now);
    state.pending.push_back((Arc::clone(chunk), range));
}

/// Takes up to `size` points. What stays behind has waited since now, jitter added.
fn next_batch(state: &mut LaneState, size: usize, jitter: Duration) -> Points {
    let mut points = Points::default();
    let mut room = size;
    while room > 0
        && let Some((chunk, range)) = state.pending.pop_front()
    {
        let take = range.len().min(room);
        if take < range.len() {
            state.pending.push_front((Arc::clone(&chunk), range.start + take..range.end));
        }
        points.slices.push((chunk, range.start..range.start + take));
        room -= take;
        state.points -= take;
    }
    state.since = (state.points > 0).then(|| Instant::now() + jitter);
    points
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
