//! The tables of which there is one: `[agent]`, `[global_tags]`, `[time]`, `[limits]`, `[storage]`, `[status]`.

use std::{path::PathBuf, time::Duration};

use weir_engine::spec::{Durability, Limits, OnFull, OnStorageFailure, OnTypeConflict, StorageSpec, TimeSpec};
use weir_plugin_api::options::{Item, Section, Size};
use weir_plugins::power_fail::PowerFail;

use super::{
    context::{Context, check_name, nanos, positive_nanos},
    merge::Merged,
    types::{AgentOptions, StatusOptions},
};

weir_plugin_api::options! {
    /// `[agent]`.
    pub struct AgentTable {
        /// How often polled inputs are asked.
        interval: Duration = Duration::from_secs(10),
        /// Ask at multiples of the interval: with 10s at :00, :10, :20.
        round_interval: bool = true,
        /// Points per write to an output, unless it says otherwise.
        metric_batch_size: usize = 1000,
        /// Points that may wait for an output, the oldest dropped first and counted. 0: as many as `[limits] results_waiting_bytes_max` and
        /// `[storage] outbox_bytes_max` hold.
        metric_buffer_limit: u64 = 0,
        /// Random delay before each gather, up to this.
        collection_jitter: Duration = Duration::ZERO,
        /// Fixed shift of the gathers.
        collection_offset: Duration = Duration::ZERO,
        /// How long points may wait for a batch to fill.
        flush_interval: Duration = Duration::from_secs(10),
        /// Random addition to it, so that many gateways do not write at once.
        flush_jitter: Duration = Duration::ZERO,
        /// Only "0s": times are kept as they came.
        precision: Duration = Duration::ZERO,
        /// The `host` tag; empty takes the system's name.
        hostname: String = String::new(),
        /// Add no `host` tag.
        omit_hostname: bool = false,
        /// Log at `debug`, as Telegraf's option of this name.
        debug: bool = false,
        /// Log errors only, as Telegraf's option of this name.
        quiet: bool = false,
        /// What is logged.
        log_level: LogLevel = LogLevel::Info,
        /// Longest time a stop may take; what is not delivered then stays in the store.
        shutdown_timeout: Duration = Duration::from_secs(5),
        /// What becomes of a field that comes as another type than its first value: `pass` goes on as it came and destinations decide,
        /// `coerce` makes it the first type if it is the same number there and refuses it otherwise, `reject` refuses it.
        on_type_conflict: OnConflictWord = OnConflictWord::Pass,
        /// Aliases of the actions that are told when an output is held (`output_held`), results are given up (`outbox_dropping`) or the
        /// disk fails (`storage_failed`). Every output gets these alerts as points anyway.
        alert_actions: Vec<String> = Vec::new(),
        /// Written into the tag `severity` of these alerts.
        alert_severity: String = "warning".into(),
        /// Threads for inputs and outputs; 1 keeps all of them on one, which is right for a gateway.
        workers: usize = 1,
    }
}

weir_plugin_api::choice! {
    /// What becomes of a field of another type than its first value.
    pub enum OnConflictWord {
        /// Goes on.
        Pass = "pass",
        /// Becomes the first type, or is refused.
        Coerce = "coerce",
        /// Is refused.
        Reject = "reject",
    }
}

impl OnConflictWord {
    /// As the engine has it.
    pub fn to_spec(self) -> OnTypeConflict {
        match self {
            Self::Pass => OnTypeConflict::Pass,
            Self::Coerce => OnTypeConflict::Coerce,
            Self::Reject => OnTypeConflict::Reject,
        }
    }
}

weir_plugin_api::choice! {
    /// How much is logged.
    pub enum LogLevel {
        /// What a person must act on.
        Error = "error",
        /// And what may need it.
        Warn = "warn",
        /// And what happens.
        Info = "info",
        /// And why.
        Debug = "debug",
        /// And everything.
        Trace = "trace",
    }
}

/// Options of `[agent]` that Telegraf has and Weir has not.
pub const AGENT_UNSUPPORTED: [&str; 10] = [
    "logfile",
    "logtarget",
    "logformat",
    "structured_log_message_key",
    "logfile_rotation_interval",
    "logfile_rotation_max_size",
    "logfile_rotation_max_archives",
    "log_with_timezone",
    "skip_processors_after_aggregators",
    "buffer_strategy",
];

weir_plugin_api::options! {
    /// `[time]`.
    pub struct TimeTable {
        /// Tags whose values part the streams that keep time by themselves. Empty: the `device` tag, else the topic, else the input.
        partition: Vec<String> = Vec::new(),
        /// A stream without a point for this long no longer holds windows open.
        idle_after: Duration = Duration::from_secs(60),
        /// A time further ahead of the clock than this is not believed.
        future_skew_max: Duration = Duration::from_secs(10),
        /// What becomes of such a point.
        future: Future = Future::Reject,
        /// A group of a window or alert that is silent for this long is given up.
        group_ttl: Duration = Duration::from_secs(86_400),
    }
}

weir_plugin_api::choice! {
    /// What becomes of a point from the future.
    pub enum Future {
        /// Counted, and to the outputs that take late points.
        Reject = "reject",
        /// Takes the time it was read.
        Restamp = "restamp",
    }
}

weir_plugin_api::options! {
    /// `[limits]`.
    pub struct LimitsTable {
        /// Series in the whole agent.
        series_max: usize = 100_000,
        /// Groups per window and alert.
        groups_max: usize = 50_000,
        /// Panes per group, across its fields.
        panes_per_group_max: usize = 128,
        /// Panes of all groups of a window, in bytes. Percentiles of more than 32 values take most: up to 128 KiB a field and pane, though
        /// a few hundred bytes to a few KiB are usual.
        panes_bytes_max: Size = Size(64 << 20),
        /// Results waiting in memory for outputs; more go to the outbox on disk.
        results_waiting_bytes_max: Size = Size(8 << 20),
        /// Points held back while the clock is not set, in bytes.
        held_bytes_max: Size = Size(8 << 20),
        /// Points held back while the clock is not set, in time.
        held_age_max: Duration = Duration::from_secs(3600),
        /// Batches (of up to 1024 fields, or one larger message) between an input and the core.
        ring_batches: usize = 8,
    }
}

weir_plugin_api::options! {
    /// `[storage]`.
    pub struct StorageTable {
        /// Where state lives. Absent: `$STATE_DIRECTORY`, else `/var/lib/weir` for root and `$XDG_STATE_HOME/weir` for others.
        directory: Option<PathText> = None,
        /// What must have happened before a source is told that its reading is safe: `power` on disk, `crash` written, `none` nothing.
        durability: DurabilityWord = DurabilityWord::Power,
        /// The oldest reading that is not yet safe waits at most this long.
        commit_interval: Duration = Duration::from_millis(200),
        /// With durability "crash" the disk is told to write this often.
        sync_interval: Duration = Duration::from_secs(30),
        /// Size of the journal.
        journal_bytes_max: Size = Size(64 << 20),
        /// Undelivered results on disk; past it `on_full` applies.
        outbox_bytes_max: Size = Size(256 << 20),
        /// When undelivered results fill it: `drop_oldest` drops the oldest, `downsample` leaves out every second result of each series
        /// (measurement, tags and fields) where it has waited longest, so that a long outage keeps its whole length, the older the coarser.
        /// Results are left out as they are, never averaged. Both are counted; alerts go last.
        on_full: OnFullWord = OnFullWord::DropOldest,
        /// Undelivered results older than this are dropped and counted.
        outbox_age_max: Duration = Duration::from_secs(30 * 86_400),
        /// Points that outputs refused for good, kept per output in `dead-letters-<alias>.lp` in the state directory; 0: none. Two files,
        /// the older one goes first.
        dead_letter_bytes_max: Size = Size(1 << 20),
        /// The write budget of the disk, for SD cards: syncs in any minute, checkpoints' included (up to 7 each); 0: none. When it is spent
        /// sources wait for their acknowledgement, but an alert does not; what a start takes is not in it, nor is the sync of each write
        /// of `outputs.file`, whose `flush_interval` says how often that is.
        fsyncs_per_minute_max: u32 = 0,
        /// What the disk may have written to it over its life, such as "10TiB" (its maker's TBW): `weir status` then says how many years
        /// that lasts. Where that is not stated, a guess such as 300 times the size of the card. 0: nothing is said.
        endurance_bytes: Size = Size(0),
        /// A GPIO line that says that the power is about to go, of a UPS or a supervisor: everything is committed and checkpointed at once when
        /// it becomes active. `chip`, `line`, and if need be `active` (low or high), `bias`, `debounce`. Without such a line: `weir checkpoint`
        /// or SIGUSR1. Example: { chip = "gpiochip0", line = 17, active = "low" }.
        power_fail: Option<PowerFail> = None,
        /// When the disk fails: `stall` stops taking readings in, `continue` goes on from memory.
        on_storage_failure: OnFailureWord = OnFailureWord::Stall,
    }
}

weir_plugin_api::choice! {
    /// What a full outbox does.
    pub enum OnFullWord {
        /// The oldest go.
        DropOldest = "drop_oldest",
        /// Every second one goes.
        Downsample = "downsample",
    }
}

weir_plugin_api::choice! {
    /// Durability.
    pub enum DurabilityWord {
        /// After fdatasync.
        Power = "power",
        /// After write.
        Crash = "crash",
        /// At once.
        None = "none",
    }
}

weir_plugin_api::choice! {
    /// What a failed disk does.
    pub enum OnFailureWord {
        /// Stop acknowledging.
        Stall = "stall",
        /// Go on from memory.
        Continue = "continue",
    }
}

weir_plugin_api::options! {
    /// `[status]`.
    pub struct StatusTable {
        /// The control socket of `weir status`. Absent: `weir.sock` in `$RUNTIME_DIRECTORY`, `/run/weir` or `$XDG_RUNTIME_DIR/weir`.
        socket: Option<PathText> = None,
        /// Also serve /health, /ready and /metrics at this address, such as "127.0.0.1:9273". Absent: do not.
        listen: Option<String> = None,
    }
}

/// A path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathText(pub PathBuf);

impl weir_plugin_api::options::FromNode for PathText {
    const KIND: &'static str = "path";

    fn from_node(node: &weir_plugin_api::options::Node, section: &Section<'_>, key: &str) -> Result<Self, String> {
        let text = String::from_node(node, section, key)?;
        if text.is_empty() || text.contains('\0') {
            return Err("a path can't be empty".into());
        }
        Ok(Self(PathBuf::from(text)))
    }

    fn to_toml(&self) -> String {
        weir_plugin_api::options::quote(&self.0.to_string_lossy())
    }
}

/// `[agent]`, for whoever needs it below.
pub struct Agent {
    /// As written, with the defaults.
    pub table: AgentTable,
    /// Nobody set `metric_batch_size`: an output may prefer another.
    pub batch_is_default: bool,
    /// What the binary needs of it.
    pub options: AgentOptions,
    /// `[global_tags]`, and `host`.
    pub global_tags: Vec<(String, String)>,
}

/// Reads `[agent]` and `[global_tags]`.
pub fn agent(merged: &Merged, ring_batches: usize, context: &Context<'_>) -> Option<Agent> {
    let section = context.section("agent", &merged.agent);
    let table = AgentTable::read(&section)?;
    positive_nanos(&section, "interval", table.interval);
    let durations = [
        ("flush_interval", table.flush_interval),
        ("flush_jitter", table.flush_jitter),
        ("collection_jitter", table.collection_jitter),
        ("collection_offset", table.collection_offset),
        ("shutdown_timeout", table.shutdown_timeout),
    ];
    for (key, duration) in durations {
        nanos(&section, key, duration);
    }
    if !table.precision.is_zero() {
        section.error_help("precision", "`precision` can only be \"0s\": times are kept as they came", "remove it");
    }
    if table.metric_batch_size == 0 {
        section.error_at("metric_batch_size", "`metric_batch_size` can't be 0");
    }
    if table.metric_buffer_limit > 0 {
        warn_buffer_limit(&section, table.metric_buffer_limit);
    }
    check_name(&section, "alert_severity", &table.alert_severity);
    if table.workers == 0 || table.workers > 64 {
        section.error_at("workers", "`workers` must be between 1 and 64");
    }
    if table.debug && table.quiet {
        section.error_at("quiet", "`debug` and `quiet` exclude each other");
    }
    let level = match (table.debug, table.quiet) {
        (true, _) => LogLevel::Debug,
        (_, true) => LogLevel::Error,
        _ => table.log_level,
    };
    let batch_is_default = !section.has("metric_batch_size");
    section.finish(&AGENT_UNSUPPORTED);
    let options = AgentOptions {
        round_interval: table.round_interval,
        shutdown_timeout: table.shutdown_timeout,
        workers: table.workers.max(1),
        log_level: level.as_str().to_owned(),
        ring_batches,
    };
    let global_tags = global_tags(merged, &table, context);
    Some(Agent { table, batch_is_default, options, global_tags })
}

/// Telegraf's bound by count is honoured, but it undoes the outbox.
pub fn warn_buffer_limit(section: &Section<'_>, points: u64) {
    section.warn_at(
        "metric_buffer_limit",
        format!("in an outage only the newest {points} points wait for an output; without this the outbox keeps as many as fit on disk"),
    );
}

fn global_tags(merged: &Merged, agent: &AgentTable, context: &Context<'_>) -> Vec<(String, String)> {
    let mut tags = tags_of(&merged.global_tags.table, "global_tags", context);
    if agent.omit_hostname {
        return tags;
    }
    let host = if agent.hostname.is_empty() { context.environment.hostname() } else { agent.hostname.clone() };
    if let Some(at) = tags.iter().position(|(key, _)| key == "host") {
        // As in Telegraf, but not silently.
        if let Some((_, place, _)) = merged.global_tags.table.entries.iter().find(|(key, _, _)| key == "host") {
            let help = "set [agent] hostname instead, or omit_hostname = true";
            context.warn(place.clone(), "the tag `host` is replaced by the host's name", Some(help.into()));
        }
        tags.remove(at);
    }
    if !host.is_empty() {
        tags.push(("host".to_owned(), host));
    }
    tags
}

/// A table of tags: text values, neither keys nor values empty.
pub fn tags_of(table: &weir_plugin_api::options::Table, path: &str, context: &Context<'_>) -> Vec<(String, String)> {
    let mut tags = Vec::new();
    for (key, place, node) in &table.entries {
        match &node.item {
            _ if key.is_empty() => context.error(place.clone(), format!("a tag of [{path}] has no name"), None),
            Item::Text(value) if !value.is_empty() => tags.push((key.clone(), value.clone())),
            // As in Telegraf: an empty tag is no tag.
            Item::Text(_) => {}
            other => context.diagnostics.push(weir_plugin_api::options::Diagnostic {
                severity: weir_plugin_api::options::Severity::Error,
                place: node.place.clone(),
                message: format!("tag `{key}`: expected a string, this is {}", other.type_name()),
                help: Some("put it in quotes: tags are text".into()),
                secret: node.secret,
            }),
        }
    }
    tags
}

/// Reads `[time]`: the engine's part and the tags that make a partition.
pub fn time(merged: &Merged, context: &Context<'_>) -> Option<(TimeSpec, Vec<String>)> {
    let section = context.section("time", &merged.time);
    let table = TimeTable::read(&section)?;
    for tag in &table.partition {
        check_name(&section, "partition", tag);
    }
    let spec = TimeSpec {
        idle_after: positive_nanos(&section, "idle_after", table.idle_after),
        future_skew_max: nanos(&section, "future_skew_max", table.future_skew_max),
        future_restamp: table.future == Future::Restamp,
        group_ttl: positive_nanos(&section, "group_ttl", table.group_ttl),
    };
    section.finish(&[]);
    Some((spec, table.partition))
}

/// Reads `[limits]`, and from it the batches per ring.
pub fn limits(merged: &Merged, context: &Context<'_>) -> Option<(Limits, usize)> {
    let section = context.section("limits", &merged.limits);
    let table = LimitsTable::read(&section)?;
    let counts = [("series_max", table.series_max), ("groups_max", table.groups_max), ("panes_per_group_max", table.panes_per_group_max)];
    for (key, value) in counts {
        if value == 0 || u32::try_from(value).is_err() {
            section.error_at(key, format!("`{key}` must be between 1 and {}", u32::MAX));
        }
    }
    if !(2..=4096).contains(&table.ring_batches) {
        section.error_at("ring_batches", "`ring_batches` must be between 2 and 4096");
    }
    let bytes = |key: &'static str, size: Size| {
        if size.0 < 64 << 10 {
            section.error_at(key, format!("`{key}` must be at least 64KiB"));
        }
        usize::try_from(size.0).unwrap_or_else(|_| {
            section.error_at(key, format!("`{key}` is more than this machine can address"));
            usize::MAX
        })
    };
    let limits = Limits {
        series_max: table.series_max,
        groups_max: table.groups_max,
        panes_per_group_max: table.panes_per_group_max,
        panes_bytes_max: bytes("panes_bytes_max", table.panes_bytes_max),
        results_waiting_bytes_max: bytes("results_waiting_bytes_max", table.results_waiting_bytes_max),
        held_bytes_max: bytes("held_bytes_max", table.held_bytes_max),
        held_age_max: nanos(&section, "held_age_max", table.held_age_max),
    };
    section.finish(&[]);
    Some((limits, table.ring_batches))
}

/// What the binary itself needs of `[storage]`.
pub struct StorageOptions {
    /// Where state lives, if the configuration says so.
    pub directory: Option<PathBuf>,
    /// Bytes of dead letters per output.
    pub dead_letter_bytes_max: u64,
    /// Endurance of the disk.
    pub endurance_bytes: u64,
    /// The line that says that the power goes.
    pub power_fail: Option<PowerFail>,
}

/// Reads `[storage]`: the core's part, and the rest.
pub fn storage(merged: &Merged, context: &Context<'_>) -> Option<(StorageSpec, StorageOptions)> {
    let section = context.section("storage", &merged.storage);
    let table = StorageTable::read(&section)?;
    for (key, size) in [("journal_bytes_max", table.journal_bytes_max), ("outbox_bytes_max", table.outbox_bytes_max)] {
        if size.0 < 1 << 20 {
            section.error_at(key, format!("`{key}` must be at least 1MiB"));
        }
    }
    if (1..4096).contains(&table.dead_letter_bytes_max.0) {
        section.error_at("dead_letter_bytes_max", "`dead_letter_bytes_max` must be 0 or at least 4KiB");
    }
    if table.commit_interval > Duration::from_secs(60) {
        section.error_at("commit_interval", "`commit_interval` can't be longer than a minute: sources wait for it");
    }
    let syncs = 60.0 / table.sync_interval.as_secs_f64().max(1e-9);
    if table.durability == DurabilityWord::Crash && table.fsyncs_per_minute_max > 0 && syncs > f64::from(table.fsyncs_per_minute_max) {
        section.error_at("sync_interval", "`sync_interval` asks for more syncs in a minute than `fsyncs_per_minute_max` allows");
    }
    match table.durability {
        DurabilityWord::Power => {}
        DurabilityWord::Crash => {
            section.warn_at("durability", "a power cut loses up to `sync_interval` of readings that were acknowledged");
        }
        DurabilityWord::None => {
            section.warn_at("durability", "a crash or power cut loses every reading since the last checkpoint, acknowledged or not");
        }
    }
    if table.on_storage_failure == OnFailureWord::Continue {
        section.warn_at("on_storage_failure", "when the disk fails, readings are acknowledged that a restart loses");
    }
    let spec = StorageSpec {
        durability: match table.durability {
            DurabilityWord::Power => Durability::Power,
            DurabilityWord::Crash => Durability::Crash,
            DurabilityWord::None => Durability::None,
        },
        commit_interval: positive_nanos(&section, "commit_interval", table.commit_interval),
        sync_interval: positive_nanos(&section, "sync_interval", table.sync_interval),
        journal_bytes_max: table.journal_bytes_max.0,
        outbox_bytes_max: table.outbox_bytes_max.0,
        on_full: match table.on_full {
            OnFullWord::DropOldest => OnFull::DropOldest,
            OnFullWord::Downsample => OnFull::Downsample,
        },
        outbox_age_max: positive_nanos(&section, "outbox_age_max", table.outbox_age_max),
        fsyncs_per_minute_max: table.fsyncs_per_minute_max,
        on_failure: match table.on_storage_failure {
            OnFailureWord::Stall => OnStorageFailure::Stall,
            OnFailureWord::Continue => OnStorageFailure::Continue,
        },
    };
    section.finish(&[]);
    let directory = table.directory.map(|p| p.0);
    let (dead_letter_bytes_max, endurance_bytes) = (table.dead_letter_bytes_max.0, table.endurance_bytes.0);
    Some((spec, StorageOptions { directory, dead_letter_bytes_max, endurance_bytes, power_fail: table.power_fail }))
}

/// Reads `[status]`.
pub fn status(merged: &Merged, context: &Context<'_>) -> Option<StatusOptions> {
    let section = context.section("status", &merged.status);
    let table = StatusTable::read(&section)?;
    if let Some(address) = &table.listen {
        match address.parse::<std::net::SocketAddr>() {
            Err(_) => section.error_help("listen", "`listen` is not an address with a port", "for example \"127.0.0.1:9273\""),
            Ok(address) if !address.ip().is_loopback() => {
                section.warn_at("listen", "counters and names are readable by whoever reaches this address; there is no password");
            }
            Ok(_) => {}
        }
    }
    section.finish(&[]);
    Some(StatusOptions { socket: table.socket.map(|p| p.0), listen: table.listen })
}
