//! What is simulated: a configuration with every kind of operator and output, and readings made from a seed, so that a source can send
//! the same batch again.

use std::{collections::BTreeMap, sync::Arc};

use weir_engine::{
    operators::expr::Expr,
    record::Condition,
    spec::{Aggregate, AlertSpec, Durability, EngineSpec, InputSpec, LevelSpec, OutputSpec, WindowSpec},
};
use weir_plugin_api::{
    Batch, Cell, InputCounts, Position, Series, Value,
    filter::{Filter, FilterOptions},
    position::{FilePosition, MessageId},
};

use super::plan::DEDUPS;

/// Inputs: see [`Kind`].
pub const INPUTS: usize = 6;
/// Wall time at the beginning: readings lie before it.
pub const EPOCH: i64 = 1_700_000_000_000_000_000;
/// Nanoseconds.
pub const MS: i64 = 1_000_000;
const SERIES: u64 = 3;

/// splitmix64.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Once in so many times.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

fn only(pattern: &str) -> Filter {
    filter(vec![pattern.into()], BTreeMap::new())
}

fn without_own_alerts() -> Filter {
    filter(Vec::new(), BTreeMap::from([("alert".to_owned(), Condition::ALL.map(|c| c.name().to_owned()).to_vec())]))
}

fn filter(namepass: Vec<String>, tagdrop: BTreeMap<String, Vec<String>>) -> Filter {
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

fn window(name: &str, every: i64, period: i64, filter: Filter) -> WindowSpec {
    WindowSpec {
        name: name.into(),
        every,
        period,
        align: 0,
        by: None,
        fields: Vec::new(),
        filter,
        aggregates: vec![Aggregate::Count, Aggregate::Sum, Aggregate::Last, Aggregate::Percentile(950)],
        lateness: 100 * MS,
        allowed_lateness: 0,
        reemit_every: 100 * MS,
        drop_original: true,
        name_override: Some(name.into()),
        result_fields: true,
        time_is_end: false,
    }
}

/// Name of an input, by its place in the first configuration.
pub fn input_name(input: usize) -> String {
    format!("input{input}")
}

/// An output: what it gets is said by its name, up to a dot.
pub fn output(name: &str) -> OutputSpec {
    let output = OutputSpec { name: name.into(), alerts: true, results: true, ..OutputSpec::default() };
    match name.split('.').next() {
        Some("some") => OutputSpec { filter: only("m1"), ..output },
        Some("more") => OutputSpec { filter: only("m2"), ..output },
        Some("late") => OutputSpec { results: false, alerts: false, late: true, ..output },
        Some("webhook") => OutputSpec { edge: true, results: false, ..output },
        // What the agent tells about itself depends on what went wrong: an undisturbed run has none of it.
        _ => OutputSpec { filter: without_own_alerts(), ..output },
    }
}

/// The configuration: `m0` is aggregated, `m1` raises alerts and is passed on, the rest is passed on.
pub fn spec(durability: Durability) -> EngineSpec {
    let mut spec = EngineSpec {
        inputs: (0..INPUTS)
            .map(|i| InputSpec {
                name: input_name(i),
                window_messages: if i == 1 { BROKER_WINDOW as u32 } else { 0 },
                ..InputSpec::default()
            })
            .collect(),
        outputs: ["all", "some", "late", "webhook"].map(output).to_vec(),
        levels: vec![LevelSpec { name: "siren".into(), at_once: false }],
        windows: vec![window("w1", 1000 * MS, 1000 * MS, only("m0")), window("w2", 500 * MS, 2000 * MS, only("m0"))],
        alerts: vec![AlertSpec {
            name: "hot".into(),
            when: Expr::parse("a > 80").expect("a condition"),
            clear: Some(Expr::parse("a < 50").expect("a condition")),
            for_: 0,
            keep: 200 * MS,
            by: None,
            window: None,
            filter: only("m1"),
            severity: "warning".into(),
            edge_actions: 1 << 3,
            level_actions: vec![0],
        }],
        ..EngineSpec::default()
    };
    spec.time.idle_after = 3_600_000 * MS;
    spec.time.group_ttl = 3_600_000 * MS;
    spec.storage.durability = durability;
    spec.storage.sync_interval = 50 * MS;
    spec.storage.commit_interval = 20 * MS;
    spec
}

/// What all sources have in common.
#[derive(Clone, Copy, Debug)]
pub struct Readings {
    /// Decides what they say.
    pub seed: u64,
    /// Of the present; else of an hour ago.
    pub recent: bool,
    /// Some bring no time of their own.
    pub untimed: bool,
    /// Some inputs have nothing but `dedup` to tell what comes again.
    pub dedup: bool,
}

impl Readings {
    /// Whether an input leaves it to `dedup` to recognise what comes again.
    pub fn leaves_to_dedup(self, input: usize) -> bool {
        self.dedup && DEDUPS.contains(&input)
    }

    /// Event time at which they begin.
    fn begin(self) -> i64 {
        // Not so near that any was of the future, should the first come at once.
        EPOCH - if self.recent { 10_000 * MS } else { 3_000_000 * MS }
    }
}

/// Item `index` of an input, a batch, read at `steady`: the same for the same seed, but for times that it does not bring. Ids of names are
/// those of [`names`]. `base`: see [`position`].
pub fn batch(readings: Readings, input: usize, index: usize, base: usize, steady: i64) -> Batch {
    let Readings { seed, .. } = readings;
    let mut random = Random(seed ^ (input as u64) << 40 ^ (index as u64) << 8);
    let mut batch = Batch { position: position(readings, input, index, base), read_at: steady, ..Batch::default() };
    let mut points = 1 + random.below(6);
    if random.once_in(12) {
        points += random.below(120);
    }
    for point in 0..points {
        let late = if random.once_in(25) { 3000 * MS } else { 0 };
        let mut time = readings.begin() + index as i64 * 150 * MS + point as i64 * MS + random.below(100) as i64 * MS - late;
        let series = random.below(SERIES) as u32;
        // One input in three has no clock.
        let untimed = if readings.untimed && input % 3 == 2 { Cell::UNTIMED } else { 0 };
        if untimed != 0 {
            time = steady;
        }
        let mut flags = Cell::START;
        let mut field = |id: u16, value: Value<'_>, batch: &mut Batch| {
            let (kind, value) = Cell::encode_value(value, &mut batch.text);
            batch.cells.push(Cell { series, field: id, kind: kind as u8, flags: flags | untimed, time, value });
            flags = 0;
        };
        field(0, Value::Float(random.below(1000) as f64 / 10.0), &mut batch);
        if random.once_in(3) {
            field(1, Value::Int(random.below(1000) as i64 - 500), &mut batch);
        }
        if series == 2 {
            field(2, Value::Text(&format!("état {index}.{point}")), &mut batch);
        }
        batch.points += 1;
    }
    let refused = random.below(2);
    batch.counts = InputCounts { read: points + refused, refused_parse: refused, ..InputCounts::default() };
    batch
}

/// Series, partitions and fields an input announces with its first batch of a run. What is aggregated has a partition of its own.
pub fn names(input: usize, batch: &mut Batch) {
    for series in 0..SERIES {
        let host = format!("h{input}");
        batch.new_series.push(Arc::new(Series::from_parts(&format!("m{series}"), &[("host", &host)])));
        batch.new_partitions.push(if series == 0 { "windowed".into() } else { "".into() });
    }
    batch.new_fields = ["a", "b", "t"].map(Arc::from).to_vec();
}

/// What a source is able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file: read on from where it was left.
    File,
    /// A broker that sends again what was not acknowledged, at most [`BROKER_WINDOW`] messages.
    Broker,
    /// A microcontroller that numbers its frames.
    Frames,
    /// Polled: nothing is ever said again, unless that is left to `dedup`.
    Polled,
    /// A log with offsets.
    Log,
    /// Clients that ask again with the same key; without one where that is left to `dedup`.
    Keyed,
}

/// Messages a broker sends without an acknowledgement.
pub const BROKER_WINDOW: usize = 8;
/// Packet ids come round after this many messages.
const PACKET_IDS: u64 = 24;

/// What an input reads from.
pub fn kind(input: usize) -> Kind {
    [Kind::File, Kind::Broker, Kind::Frames, Kind::Polled, Kind::Log, Kind::Keyed][input]
}

/// Packet id and hash of an item of a broker, of the session that began with item `base`: one of another session may look just like it.
pub fn message(item: usize, base: usize) -> MessageId {
    MessageId { id: ((item - base) as u64 % PACKET_IDS) as u16 + 1, hash: (item - base) as u32 }
}

/// Key of a client's request.
pub fn key(item: usize) -> String {
    format!("key-{item}")
}

/// Partition of a log, and the offset in it.
pub fn offset(item: usize) -> (String, u64) {
    (format!("t/{}", item % 2), item as u64 / 2)
}

/// Number of the session, or of the boot, that began with item `base`.
pub fn epoch(seed: u64, base: usize) -> u64 {
    seed ^ (base as u64 + 1)
}

/// The same as the number of a broker's session, with which no generation of the table begins.
pub fn session(seed: u64, base: usize) -> u64 {
    epoch(seed, base) << 32
}

/// What a record says of item `item`, sent since the session or the boot that began with item `base`.
pub fn position(readings: Readings, input: usize, item: usize, base: usize) -> Position {
    let (next, seed) = (item as u64 + 1, readings.seed);
    if readings.leaves_to_dedup(input) {
        return Position::None;
    }
    match kind(input) {
        Kind::File => Position::Files(vec![FilePosition { path: "/f".into(), file: (1, seed), offset: next, head: 7 }]),
        Kind::Broker => Position::Messages { session: session(seed, base), ids: vec![message(item, base)] },
        Kind::Frames => Position::Sequence { nonce: epoch(seed, base), sequence: next - base as u64 },
        Kind::Polled => Position::None,
        Kind::Log => {
            let (partition, offset) = offset(item);
            Position::Offsets(vec![(partition, offset + 1)])
        }
        Kind::Keyed => Position::Keys(vec![key(item)]),
    }
}
