//! The traits a plugin implements, what it is given, and its entry in the registry.
//!
//! Polled and streaming inputs are two traits. Futures are boxed by hand so that this crate needs no runtime.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use crate::{
    chunk::{Identity, Lane, PointView, Points},
    collector::Collector,
    options::{OptionSpec, Section},
    position::Resume,
    value::Value,
};

/// A future a plugin returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a plugin could not do something, as one sentence for a person, secrets left out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PluginError(pub String);

impl PluginError {
    /// An error with its sources written after it.
    pub fn new(what: impl std::fmt::Display) -> Self {
        Self(what.to_string())
    }

    /// `what: source: its source …`.
    pub fn because(what: impl std::fmt::Display, source: &dyn std::error::Error) -> Self {
        let mut text = format!("{what}: {source}");
        let mut next = source.source();
        while let Some(cause) = next {
            let cause_text = cause.to_string();
            if !text.ends_with(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            next = cause.source();
        }
        Self(text)
    }
}

impl From<crate::ring::Closed> for PluginError {
    fn from(closed: crate::ring::Closed) -> Self {
        Self(closed.to_string())
    }
}

#[derive(Default)]
struct StopShared {
    requested: AtomicBool,
    /// Number of the waiter, and how to wake it; a waiter that is dropped takes its own out.
    wakers: Mutex<Vec<(u64, Waker)>>,
    waiters: AtomicU64,
}

/// A request to stop, seen by everybody who holds a copy.
#[derive(Clone, Default)]
pub struct Stop {
    shared: Arc<StopShared>,
}

impl Stop {
    /// Asks everybody to stop.
    pub fn request(&self) {
        let wakers = {
            let mut wakers = self.shared.wakers.lock().unwrap_or_else(PoisonError::into_inner);
            self.shared.requested.store(true, Ordering::Release);
            std::mem::take(&mut *wakers)
        };
        wakers.into_iter().for_each(|(_, waker)| waker.wake());
    }

    /// Whether it was asked for.
    pub fn is_requested(&self) -> bool {
        self.shared.requested.load(Ordering::Acquire)
    }

    /// Waits for the request.
    pub fn requested(&self) -> StopRequested {
        StopRequested { number: self.shared.waiters.fetch_add(1, Ordering::Relaxed), stop: self.clone() }
    }
}

/// Future of [`Stop::requested`].
pub struct StopRequested {
    stop: Stop,
    number: u64,
}

impl Drop for StopRequested {
    fn drop(&mut self) {
        self.stop.shared.wakers.lock().unwrap_or_else(PoisonError::into_inner).retain(|(number, _)| *number != self.number);
    }
}

impl Future for StopRequested {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut wakers = self.stop.shared.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stop.is_requested() {
            return Poll::Ready(());
        }
        match wakers.iter_mut().find(|(number, _)| *number == self.number) {
            Some((_, waker)) => waker.clone_from(cx.waker()),
            None => wakers.push((self.number, cx.waker().clone())),
        }
        Poll::Pending
    }
}

/// How it stands with an input's source, for status and metrics.
#[derive(Debug, Default)]
pub struct InputHealth {
    failing: AtomicBool,
    failures: AtomicU64,
    contests: AtomicU64,
}

impl InputHealth {
    /// The source could not be read, once more.
    pub fn failed(&self) {
        self.failing.store(true, Ordering::Relaxed);
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Somebody else seems to take our place at the source, once more.
    pub fn contested(&self) {
        self.contests.fetch_add(1, Ordering::Relaxed);
    }

    /// The source is read.
    pub fn works(&self) {
        self.failing.store(false, Ordering::Relaxed);
    }

    /// Whether the last try failed.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// How often somebody else seems to have taken our place since the start.
    pub fn contests(&self) -> u64 {
        self.contests.load(Ordering::Relaxed)
    }

    /// Tries that failed since the start.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

/// What an input is given.
pub struct InputContext {
    /// Its name: alias, or plugin name with a number when there are several.
    pub name: String,
    /// Where its points go.
    pub collector: Collector,
    /// To be told when the source can't be read, and when it can again, by an input that tries again by itself.
    pub health: Arc<InputHealth>,
    /// Where it stood when the agent went down.
    pub resume: Resume,
    /// Ends the input. It then stops reading, flushes what it has decoded, and returns; acknowledgements still to come are waited for
    /// by the agent: a streaming input that acknowledges its source goes on doing so until `drained` is requested.
    pub stop: Stop,
    /// To be requested by a streaming input that goes on acknowledging after a stop, once it has sent its last batch.
    pub flushed: Stop,
    /// Everything sent has been made durable and acknowledged: close the connection.
    pub drained: Stop,
}

/// What an input takes of memory at most beside its ring, for telling beforehand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InputMemory {
    /// Buffers of connections, bodies and packets, bytes; `u64::MAX` when nothing bounds them.
    pub buffers: u64,
    /// Largest message, bytes: a batch in the ring may hold one.
    pub message: u64,
}

/// An input that waits for its source. `run` is started again, after a back-off, when it returns an error.
pub trait StreamingInput: Send {
    /// Whether the source has an end (standard input): only such streaming inputs can be used with `--once`.
    fn is_finite(&self) -> bool {
        false
    }

    /// Whether the source loses nothing by waiting (a file, a connection, a broker that keeps what was not acknowledged): it is slowed down
    /// while an output can't keep up. One that can't wait is read on, and what finds no room is counted.
    fn can_wait(&self) -> bool {
        false
    }

    /// What it takes at most beside its ring.
    fn memory(&self) -> InputMemory {
        InputMemory::default()
    }

    /// Reads until the source ends or a stop is requested.
    fn run<'a>(&'a mut self, context: &'a mut InputContext) -> BoxFuture<'a, Result<(), PluginError>>;
}

/// An input that is asked at each interval.
pub trait PolledInput: Send {
    /// Called once before the first gather.
    fn start<'a>(&'a mut self, _context: &'a mut InputContext) -> BoxFuture<'a, Result<(), PluginError>> {
        Box::pin(async { Ok(()) })
    }

    /// See [`StreamingInput::can_wait`].
    fn can_wait(&self) -> bool {
        false
    }

    /// Reads once into the collector; the caller flushes.
    fn gather<'a>(&'a mut self, context: &'a mut InputContext) -> BoxFuture<'a, Result<(), PluginError>>;
}

/// Either sort.
pub enum AnyInput {
    /// Asked at each interval.
    Polled(Box<dyn PolledInput>),
    /// Runs by itself.
    Streaming(Box<dyn StreamingInput>),
}

impl AnyInput {
    /// See [`StreamingInput::can_wait`].
    pub fn can_wait(&self) -> bool {
        match self {
            Self::Polled(input) => input.can_wait(),
            Self::Streaming(input) => input.can_wait(),
        }
    }
}

/// An input that was built from its options.
pub struct BuiltInput {
    /// The input.
    pub input: AnyInput,
    /// Things only one input can have, as `kind:name`: `serial:/dev/ttyUSB0`, `tcp:0.0.0.0:8086`, `gpio:/dev/gpiochip0:17`.
    pub claims: Vec<String>,
}

/// Turns bytes into points.
pub trait Decoder: Send {
    /// Decodes from the front of `bytes` into `out`, refusing (and counting) what can't be read. Returns how many bytes were used up:
    /// fewer than given only when the collector is full, and then the caller flushes and calls again with the rest.
    /// `bytes` is a whole payload (message, file, request, line with or without its end): nothing is kept between payloads.
    fn decode(&mut self, bytes: &[u8], out: &mut Collector) -> usize;

    /// Forgets what was learnt of the stream (a CSV header), for a new file or connection.
    fn reset(&mut self) {}
}

/// Turns points into bytes.
pub trait Encoder: Send {
    /// Appends one point, with its end of line if the format has one.
    fn encode(&mut self, point: PointView<'_>, out: &mut Vec<u8>);

    /// Appends many points as one document; by default one after the other.
    fn encode_all(&mut self, points: &Points, out: &mut Vec<u8>) {
        for point in points.iter() {
            self.encode(point, out);
        }
    }

    /// Media type of a document.
    fn content_type(&self) -> &'static str {
        "text/plain; charset=utf-8"
    }
}

/// One point a destination refused for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Its place among the points of the write.
    pub index: usize,
    /// The destination's status, as a short word for a counter: `400`, `422`, `too_large`.
    pub status: String,
    /// What it said.
    pub reason: String,
}

/// What became of a write.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Everything is at the destination but the rejected points, which will never be.
    Delivered {
        /// Refused for good, in order of index; counted and written to the dead-letter log.
        rejected: Vec<Rejection>,
        /// Points that overwrote another of the same series and time: part of what was delivered.
        collapsed: u64,
        /// What the output wants back in [`Output::open`] after a restart, such as the length of a file.
        token: u64,
    },
    /// Nothing is known to be there: send the same again later, after `after` or the back-off.
    Retry {
        /// What the destination asked for (`Retry-After`).
        after: Option<Duration>,
        /// Why.
        reason: String,
    },
    /// The destination won't take anything until a person acts (authorisation, missing bucket): retried slowly, an alert is raised.
    Hold {
        /// Why.
        reason: String,
    },
    /// Too much at once: the same again in halves. A single point that is too large is then rejected.
    TooLarge,
}

impl Outcome {
    /// Everything arrived.
    pub fn delivered() -> Self {
        Self::Delivered { rejected: Vec::new(), collapsed: 0, token: 0 }
    }
}

/// What stands for the agent at far sides: two agents never have one, be it that one's state was copied from the other's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentId {
    /// Drawn when the state directory was new, or came to another machine.
    pub now: u64,
    /// The id before, and the last record it numbered: what waited when the state was copied is known by it on both machines.
    pub earlier: Option<(u64, u64)>,
}

impl AgentId {
    /// The id that numbered this.
    pub fn of(&self, identity: Identity) -> u64 {
        self.earlier.filter(|(_, last)| identity.record <= *last).map_or(self.now, |(earlier, _)| earlier)
    }
}

impl From<u64> for AgentId {
    fn from(now: u64) -> Self {
        Self { now, earlier: None }
    }
}

/// Where an output stood when the agent went down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputResume {
    /// Last delivered alert point.
    pub alerts: Identity,
    /// Last delivered result.
    pub results: Identity,
    /// The token of the last delivery, 0 at first.
    pub token: u64,
    /// Whose identities they are: what another agent numbered is other points.
    pub agent: AgentId,
    /// Last record that was recovered at this start. An identity beyond it that a destination knows of is of a record that was lost: its
    /// number is given to another.
    pub recovered: u64,
    /// Whether the agent remembers this output, so that what it has behind `token` is to come again. Otherwise the output is new to it, was
    /// not configured for a while, or what was remembered is lost: nothing that is there may be taken back.
    pub known: bool,
}

/// A destination of points.
pub trait Output: Send {
    /// Makes ready, at start and never again: must not wait for a far side that is down. A destination that remembers more than we do
    /// and can be asked at once says where it really stands; one that may be down (Kafka) is asked at the first write, which then counts
    /// what is there already as delivered.
    fn open<'a>(&'a mut self, resume: OutputResume) -> BoxFuture<'a, Result<OutputResume, PluginError>> {
        Box::pin(async move { Ok(resume) })
    }

    /// Delivers points, all of one lane, in order.
    fn write<'a>(&'a mut self, lane: Lane, points: &'a Points) -> BoxFuture<'a, Outcome>;

    /// The agent does not remember this output ([`OutputResume::known`]): what is kept of one of that name must be gone when this returns, as
    /// another start, before this one is opened, may find it remembered. Called before anything else, and may block on the disk.
    fn forget(&mut self) {}

    /// After a write that is to be tried again: within which time, where the usual delay may be too long.
    fn retry_within(&self) -> Option<Duration> {
        None
    }

    /// Says goodbye; nothing is lost if it can't.
    fn close<'a>(&'a mut self) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    /// What it must have to itself, `kind:name`: a file, a line. Two plugins with the same claim are a configuration error.
    fn claims(&self) -> Vec<String> {
        Vec::new()
    }

    /// How often a point is there, whatever restarts in between, as configured and in words that follow the output's name; `None` where
    /// the configuration does not decide it.
    fn guarantee(&self) -> Option<&'static str> {
        None
    }

    /// Points per write when the configuration sets no `metric_batch_size`; 0 leaves it at the agent's.
    fn preferred_batch(&self) -> usize {
        0
    }
}

/// An alert's transition, as an action sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Notification {
    /// Name of the alert.
    pub alert: String,
    /// `firing` or `resolved`.
    pub state: String,
    /// As configured.
    pub severity: String,
    /// The `by` tags.
    pub tags: Vec<(String, String)>,
    /// The value that decided, if the condition has one.
    pub value: Option<f64>,
    /// Number of the transition for this alert and group, from 1.
    pub n: u64,
    /// Event time, nanoseconds since 1970 UTC.
    pub time: i64,
    /// Computed from backlog: it says what was, not what is.
    pub historical: bool,
    /// `alert/group/n`, behind the agent's id where it was told to [`Notification::by`]: the same transition always has the same one.
    pub idempotency_key: String,
}

impl Notification {
    /// Reads it from its point (measurement `weir_alert`).
    pub fn from_point(point: PointView<'_>) -> Self {
        let text = |name| match point.field(name) {
            Some(Value::Text(text)) => text.to_owned(),
            _ => String::new(),
        };
        let series = point.series();
        let alert = series.tag("alert").unwrap_or_default().to_owned();
        let tags: Vec<(String, String)> =
            series.tags().filter(|(k, _)| *k != "alert" && *k != "severity").map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let n = match point.field("n") {
            Some(Value::Int(n)) => n as u64,
            Some(Value::Uint(n)) => n,
            _ => 0,
        };
        let group: Vec<String> = tags.iter().map(|(k, v)| format!("{k}={v}")).collect();
        Self {
            state: text("state"),
            severity: series.tag("severity").unwrap_or_default().to_owned(),
            value: point.field("value").and_then(|v| v.as_f64()),
            n,
            time: point.time(),
            historical: matches!(point.field("historical"), Some(Value::Bool(true))),
            idempotency_key: format!("{alert}/{}/{n}", group.join(",")),
            alert,
            tags,
        }
    }

    /// Puts the agent's id before the key: others have alerts of that name, too.
    #[must_use]
    pub fn by(mut self, agent: u64) -> Self {
        self.idempotency_key = format!("{agent:016x}/{}", self.idempotency_key);
        self
    }
}

/// Something done once per transition, at least once, never hours late.
pub trait EdgeAction: Send {
    /// Does it.
    fn fire<'a>(&'a mut self, notification: &'a Notification) -> BoxFuture<'a, Outcome>;

    /// What it must have to itself, as [`Output::claims`].
    fn claims(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Something held at a level that follows an alert's state. Setting the same level again must do no harm.
pub trait LevelAction: Send {
    /// Sets the level: `true` while any alert that names this action fires.
    fn set<'a>(&'a mut self, on: bool) -> BoxFuture<'a, Result<(), PluginError>>;

    /// Called at a clean stop, with what the configuration wants then (`on_exit`).
    fn exit<'a>(&'a mut self) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    /// What it must have to itself, as [`Output::claims`].
    fn claims(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether it may be set before the cause is durable (`fire = "at_once"`).
    fn at_once(&self) -> bool {
        false
    }

    /// How often the level is set again while it stays the same, for what can be lost without a word. `None` is never.
    fn again_every(&self) -> Option<Duration> {
        None
    }
}

/// Either sort.
pub enum AnyAction {
    /// Once per transition.
    Edge(Box<dyn EdgeAction>),
    /// Follows the state.
    Level(Box<dyn LevelAction>),
}

/// What a plugin may want to know while it is built.
pub struct BuildContext {
    /// Its alias or name.
    pub name: String,
    /// The interval it will be gathered at.
    pub interval: Duration,
    /// A snapshot of the agent's own counters, for the `internal` input: measurement, tags, fields.
    pub internal: Arc<dyn Fn() -> Vec<InternalPoint> + Send + Sync>,
    /// The agent's own state directory, for plugins that keep something there.
    pub directory: std::path::PathBuf,
}

/// A point of the agent's own counters.
#[derive(Clone, Debug, PartialEq)]
pub struct InternalPoint {
    /// Measurement.
    pub measurement: String,
    /// Tags.
    pub tags: Vec<(String, String)>,
    /// Fields.
    pub fields: Vec<(String, u64)>,
}

/// The registry's entry of a plugin; `T` is what it builds.
pub struct Entry<T> {
    /// Telegraf's name.
    pub name: &'static str,
    /// One line.
    pub about: &'static str,
    /// Every option it has, without those common to all of its sort.
    pub specs: fn() -> Vec<OptionSpec>,
    /// Options Telegraf has and Weir does not: refused by that name.
    pub unsupported: &'static [&'static str],
    /// Reads the options and builds it; `None` when errors were reported.
    pub build: fn(&Section<'_>, &BuildContext) -> Option<T>,
}

/// An input's entry.
pub type InputEntry = Entry<BuiltInput>;
/// An output's entry.
pub type OutputEntry = Entry<Box<dyn Output>>;
/// An action's entry.
pub type ActionEntry = Entry<AnyAction>;
