//! What the configuration asks of the engine, checked, in plain types and nanoseconds.
//!
//! The journal and every checkpoint hold it too, as JSON, so that records are replayed under the configuration they were made under. A
//! field that is added must say what its absence means: that of an agent which did not have it yet.

use serde::{Deserialize, Serialize};
use weir_plugin_api::filter::Filter;

use crate::operators::expr::Expr;

/// Version of what the engine computes: it is counted up by a change after which the same records give other results. A checkpoint and the
/// journal say by it which version they were computed with, so that an upgrade is a change of configuration like any other: a record of
/// its own, said by `weir check --against-running`, and in the log when a crash lets the new version compute what the old one had begun.
pub const RESULTS_VERSION: u32 = 1;

/// What a state or journal without a version was computed with.
fn first_results_version() -> u32 {
    1
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct EngineSpec {
    /// See [`RESULTS_VERSION`].
    #[serde(default = "first_results_version")]
    pub results_version: u32,
    /// Inputs in the order of the configuration: their index is the id in records.
    pub inputs: Vec<InputSpec>,
    /// Outputs, then edge actions: their index is the bit in routes. At most 64.
    pub outputs: Vec<OutputSpec>,
    /// Level actions.
    pub levels: Vec<LevelSpec>,
    /// Windows.
    pub windows: Vec<WindowSpec>,
    /// Alerts.
    pub alerts: Vec<AlertSpec>,
    /// What becomes of a field that comes as another type than its first value.
    pub on_type_conflict: OnTypeConflict,
    /// Alerts the agent raises about itself.
    pub agent_alerts: AgentAlertSpec,
    /// Time.
    pub time: TimeSpec,
    /// Bounds.
    pub limits: Limits,
    /// When to commit and checkpoint.
    pub storage: StorageSpec,
    /// Global tags and `host`: carried by window results and alert points.
    pub global_tags: Vec<(String, String)>,
}

impl Default for EngineSpec {
    fn default() -> Self {
        Self {
            results_version: RESULTS_VERSION,
            inputs: Vec::new(),
            outputs: Vec::new(),
            levels: Vec::new(),
            windows: Vec::new(),
            alerts: Vec::new(),
            on_type_conflict: OnTypeConflict::default(),
            agent_alerts: AgentAlertSpec::default(),
            time: TimeSpec::default(),
            limits: Limits::default(),
            storage: StorageSpec::default(),
            global_tags: Vec::new(),
        }
    }
}

/// Version of the form [`EngineSpec::to_bytes`] gives: another one is not read.
const VERSION: u8 = 1;

/// Bytes hold no configuration this version understands.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Written by another version.
    #[error("a configuration of version {0}, this one reads {VERSION}")]
    Version(u8),
    /// Not what it should be.
    #[error("a stored configuration that can't be read")]
    Damaged(#[from] serde_json::Error),
}

impl EngineSpec {
    /// As the journal and checkpoints keep it. It holds no secret: what plugins are told is not part of it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        // Maps with text for keys, numbers and lists only: there is nothing it could refuse.
        if serde_json::to_writer(&mut out, self).is_err() {
            out.truncate(1);
        }
        out
    }

    /// The reverse of [`EngineSpec::to_bytes`].
    ///
    /// # Errors
    /// See [`SpecError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SpecError> {
        match bytes.split_first() {
            Some((&VERSION, json)) => Ok(serde_json::from_slice(json)?),
            other => Err(SpecError::Version(other.map_or(0, |(version, _)| *version))),
        }
    }
}

/// One input.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InputSpec {
    /// Unique and stable: state is kept under it.
    pub name: String,
    /// Unacknowledged messages its source allows; a commit is made at three quarters. 0: no such bound.
    pub window_messages: u32,
    /// Points that come again are recognised.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dedup: Option<DedupSpec>,
}

/// What an input remembers of the points it has recorded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DedupSpec {
    /// For how long, observed axis, above 0.
    pub within: i64,
    /// How many, above 0; the oldest is forgotten first.
    pub entries_max: usize,
}

impl DedupSpec {
    /// Memory it may take, bytes: a hash in order of arrival and one in a set, each in a table that is never less than half full but once.
    pub fn memory_bytes_max(&self) -> usize {
        self.entries_max.saturating_mul(40)
    }
}

/// One output or edge action.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutputSpec {
    /// Unique and stable: cursors are kept under it.
    pub name: String,
    /// Which points it wants; selection only, its modifiers are applied at delivery.
    pub filter: Filter,
    /// Takes the alert lane.
    pub alerts: bool,
    /// Takes the results lane.
    pub results: bool,
    /// Takes late points too (measurement as it was, with a `lag` field).
    pub late: bool,
    /// An edge action: only the transitions of alerts that name it.
    pub edge: bool,
    /// Points that may wait for it, Telegraf's `metric_buffer_limit`; 0: bounded by bytes only.
    pub waiting_points_max: u64,
    /// Edge actions: older than this (nanoseconds, observed axis) and it is counted, not done. 0: never.
    pub expires_after: i64,
}

/// One level action.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LevelSpec {
    /// Unique and stable.
    pub name: String,
    /// May be set before its cause is durable.
    pub at_once: bool,
}

/// One `[[windows]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowSpec {
    /// Unique and stable: state is kept under it and a hash of what gives it meaning.
    pub name: String,
    /// Distance between the starts of windows.
    pub every: i64,
    /// Length, a whole multiple of `every`.
    pub period: i64,
    /// Shifts the alignment to the epoch.
    pub align: i64,
    /// Group by these tags; `None`: one group per series.
    pub by: Option<Vec<String>>,
    /// Patterns of fields it takes; empty: every field.
    pub fields: Vec<String>,
    /// Which points it takes.
    pub filter: Filter,
    /// What is computed.
    pub aggregates: Vec<Aggregate>,
    /// Subtracted from the watermark.
    pub lateness: i64,
    /// How long a closed pane can still be merged into.
    pub allowed_lateness: i64,
    /// A re-opened pane is emitted again at most this often, observed axis.
    pub reemit_every: i64,
    /// Points it took are not passed on.
    pub drop_original: bool,
    /// Measurement of results; `None`: as it was.
    pub name_override: Option<String>,
    /// Adds `complete` and `revision` as fields.
    pub result_fields: bool,
    /// Results carry the window's end as time, not its start.
    pub time_is_end: bool,
}

/// One aggregate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Aggregate {
    /// Number of values, an integer.
    Count,
    /// Sum.
    Sum,
    /// Arithmetic mean.
    Mean,
    /// Least.
    Min,
    /// Greatest.
    Max,
    /// Earliest by event time.
    First,
    /// Latest by event time.
    Last,
    /// Greatest minus least.
    Range,
    /// Sample standard deviation, as Telegraf's `stdev`.
    Stddev,
    /// Sample variance, as Telegraf's `s2`.
    Variance,
    /// Percentile `p` in tenths of a percent: p95 is 950, p999 is 999.
    Percentile(u16),
}

impl Aggregate {
    /// What follows the field's name and an underscore in results: `mean`, `p95`, `p999`.
    pub fn name(self) -> String {
        match self {
            Self::Count => "count".into(),
            Self::Sum => "sum".into(),
            Self::Mean => "mean".into(),
            Self::Min => "min".into(),
            Self::Max => "max".into(),
            Self::First => "first".into(),
            Self::Last => "last".into(),
            Self::Range => "range".into(),
            Self::Stddev => "stddev".into(),
            Self::Variance => "variance".into(),
            Self::Percentile(tenths) if tenths % 10 == 0 => format!("p{}", tenths / 10),
            Self::Percentile(tenths) => format!("p{tenths}"),
        }
    }
}

/// One `[[alerts]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AlertSpec {
    /// Unique and stable.
    pub name: String,
    /// Becomes firing while this holds.
    pub when: Expr,
    /// Ends when this holds; `None`: not `when`.
    pub clear: Option<Expr>,
    /// `when` must hold this long, event time.
    pub for_: i64,
    /// `clear` must hold this long, event time.
    pub keep: i64,
    /// Group by these tags; `None`: one group per series.
    pub by: Option<Vec<String>>,
    /// Reads this window's results instead of raw points: its index in [`EngineSpec::windows`].
    pub window: Option<usize>,
    /// Which points it reads.
    pub filter: Filter,
    /// Written into the `severity` tag.
    pub severity: String,
    /// Bits of [`EngineSpec::outputs`] that are its edge actions.
    pub edge_actions: u64,
    /// Indexes of its level actions.
    pub level_actions: Vec<usize>,
}

/// What becomes of a field that comes as another type than its first value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnTypeConflict {
    /// It goes on as it came: destinations decide.
    #[default]
    Pass,
    /// It becomes the first type where it is the same number there, else it is refused.
    Coerce,
    /// It is refused.
    Reject,
}

/// Alerts the agent raises about itself: see [`crate::record::Condition`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AgentAlertSpec {
    /// Written into the `severity` tag.
    pub severity: String,
    /// Bits of [`EngineSpec::outputs`] that are their edge actions.
    pub edge_actions: u64,
    /// Indexes of their level actions.
    pub level_actions: Vec<usize>,
}

impl Default for AgentAlertSpec {
    fn default() -> Self {
        Self { severity: "warning".into(), edge_actions: 0, level_actions: Vec::new() }
    }
}

/// `[time]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TimeSpec {
    /// A partition without a point for this long (observed axis) is idle.
    pub idle_after: i64,
    /// An event time further ahead of the wall clock is not believed.
    pub future_skew_max: i64,
    /// Restamp such points with now, instead of rejecting them.
    pub future_restamp: bool,
    /// A silent group is given up after this long, observed axis.
    pub group_ttl: i64,
}

impl Default for TimeSpec {
    fn default() -> Self {
        Self { idle_after: 60_000_000_000, future_skew_max: 10_000_000_000, future_restamp: false, group_ttl: 86_400_000_000_000 }
    }
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Series in the whole agent.
    pub series_max: usize,
    /// Groups per operator. Those of a window that have ended do not count; of as many the floor is kept.
    pub groups_max: usize,
    /// Panes per group, across its fields.
    pub panes_per_group_max: usize,
    /// Panes of all groups of one window, bytes. A configuration that was recorded before there was the bound ran without.
    #[serde(default = "unbounded")]
    pub panes_bytes_max: usize,
    /// Results waiting in memory, bytes.
    pub results_waiting_bytes_max: usize,
    /// Points held while the clock is unset, bytes.
    pub held_bytes_max: usize,
    /// Points held while the clock is unset, nanoseconds on the observed axis.
    pub held_age_max: i64,
}

/// As good as none, and a number on every machine.
fn unbounded() -> usize {
    u32::MAX as usize
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            series_max: 100_000,
            groups_max: 50_000,
            panes_per_group_max: 128,
            panes_bytes_max: 64 << 20,
            results_waiting_bytes_max: 8 << 20,
            held_bytes_max: 8 << 20,
            held_age_max: 3_600_000_000_000,
        }
    }
}

/// What is acknowledged when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Durability {
    /// After fdatasync.
    #[default]
    Power,
    /// After write.
    Crash,
    /// At once.
    None,
}

/// What a failed disk does to intake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnStorageFailure {
    /// Stop acknowledging.
    #[default]
    Stall,
    /// Go on from memory.
    Continue,
}

/// What becomes of results that wait when the outbox is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFull {
    /// The oldest are given up.
    #[default]
    DropOldest,
    /// Of each series every second one is left out, again and again.
    Downsample,
}

/// `[storage]`, as far as the core decides it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageSpec {
    /// Mode.
    pub durability: Durability,
    /// The oldest unacknowledged reading waits at most this long.
    pub commit_interval: i64,
    /// In `crash` mode the disk is synced this often.
    pub sync_interval: i64,
    /// Journal size, bytes: a checkpoint is made at a third.
    pub journal_bytes_max: u64,
    /// Outbox size, bytes on disk.
    pub outbox_bytes_max: u64,
    /// What a full outbox does.
    pub on_full: OnFull,
    /// Age of the oldest result in the outbox, nanoseconds on the observed axis.
    pub outbox_age_max: i64,
    /// Write budget, 0: none.
    pub fsyncs_per_minute_max: u32,
    /// What a failed disk does.
    pub on_failure: OnStorageFailure,
}

impl Default for StorageSpec {
    fn default() -> Self {
        Self {
            durability: Durability::Power,
            commit_interval: 200_000_000,
            sync_interval: 30_000_000_000,
            journal_bytes_max: 64 << 20,
            outbox_bytes_max: 256 << 20,
            on_full: OnFull::DropOldest,
            outbox_age_max: 30 * 86_400_000_000_000,
            fsyncs_per_minute_max: 0,
            on_failure: OnStorageFailure::Stall,
        }
    }
}
