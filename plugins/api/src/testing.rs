//! A core's stand-in for the tests of plugins: a collector whose batches are read back as line protocol.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use crate::{
    batch::{Batch, InputCounts},
    collector::{Collector, Shape},
    plugin::{Decoder, InputContext, Stop},
    position::{Position, Resume},
    ring::{RingReceiver, ring},
    series::Series,
    time::Clock,
    value::Value,
};

/// A clock that stands still until it is moved.
pub struct FixedClock {
    steady: AtomicI64,
    wall: AtomicI64,
}

impl FixedClock {
    /// A clock at these nanoseconds.
    pub fn new(steady: i64, wall: i64) -> Arc<Self> {
        Arc::new(Self { steady: steady.into(), wall: wall.into() })
    }

    /// Moves both axes on.
    pub fn advance(&self, nanos: i64) {
        self.steady.fetch_add(nanos, Ordering::SeqCst);
        self.wall.fetch_add(nanos, Ordering::SeqCst);
    }
}

impl Clock for FixedClock {
    fn steady(&self) -> i64 {
        self.steady.load(Ordering::SeqCst)
    }

    fn wall(&self) -> i64 {
        self.wall.load(Ordering::SeqCst)
    }
}

/// The receiving end: takes batches, gives them back, keeps names and counts.
pub struct Receiver {
    /// The ring, for tests that look closer.
    pub ring: RingReceiver,
    /// Series announced so far.
    pub series: Vec<Arc<Series>>,
    /// Their partitions.
    pub partitions: Vec<Arc<str>>,
    /// Fields announced so far.
    pub fields: Vec<Arc<str>>,
    /// Counts of all batches.
    pub counts: InputCounts,
    /// Positions of all batches that had one.
    pub positions: Vec<Position>,
    /// Acknowledge each batch as it is taken.
    pub acknowledge: bool,
}

impl Receiver {
    /// Takes what is there and returns its points as line protocol, `?` for the time of a point without one.
    pub fn take(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(batch) = self.ring.try_recv() {
            self.read(&batch, &mut lines);
            if self.acknowledge {
                self.ring.acknowledge(batch.number);
            }
            self.ring.recycle(batch);
        }
        lines
    }

    /// Whether nothing waits to be taken.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    fn read(&mut self, batch: &Batch, lines: &mut Vec<String>) {
        self.series.extend(batch.new_series.iter().cloned());
        self.partitions.extend(batch.new_partitions.iter().cloned());
        self.fields.extend(batch.new_fields.iter().cloned());
        self.counts.add(&batch.counts);
        if batch.position != Position::None {
            self.positions.push(batch.position.clone());
        }
        let mut time = String::new();
        for cell in &batch.cells {
            let value = match cell.value(&batch.text) {
                Value::Float(v) => format!("{v}"),
                Value::Int(v) => format!("{v}i"),
                Value::Uint(v) => format!("{v}u"),
                Value::Bool(v) => format!("{v}"),
                Value::Text(v) => format!("{v:?}"),
            };
            let field = &self.fields[cell.field as usize];
            if cell.starts_point() {
                if let Some(last) = lines.last_mut() {
                    last.push_str(&std::mem::take(&mut time));
                }
                lines.push(format!("{} {field}={value}", self.series[cell.series as usize].line()));
            } else if let Some(last) = lines.last_mut() {
                last.push_str(&format!(",{field}={value}"));
            }
            time = if cell.is_untimed() { " ?".into() } else { format!(" {}", cell.time) };
        }
        if let Some(last) = lines.last_mut() {
            last.push_str(&time);
        }
    }
}

/// A collector of `shape` with `batches` batches, its clock at 1 s steady and 2023-11-14T22:13:20Z, and its receiver.
pub fn collector_with(shape: Shape, batches: usize) -> (Collector, Receiver, Arc<FixedClock>) {
    let clock = FixedClock::new(1_000_000_000, 1_700_000_000_000_000_000);
    let (sender, receiver) = ring(batches, Arc::new(|| {}));
    let receiver = Receiver {
        ring: receiver,
        series: Vec::new(),
        partitions: Vec::new(),
        fields: Vec::new(),
        counts: InputCounts::default(),
        positions: Vec::new(),
        acknowledge: true,
    };
    (Collector::new(sender, shape, clock.clone()), receiver, clock)
}

/// The same with nothing special.
pub fn collector() -> (Collector, Receiver) {
    let (collector, receiver, _) = collector_with(Shape::default(), 16);
    (collector, receiver)
}

/// What an input is given, around a collector.
pub fn context(collector: Collector, resume: Resume) -> InputContext {
    InputContext {
        name: "test".into(),
        collector,
        health: Arc::default(),
        resume,
        stop: Stop::default(),
        flushed: Stop::default(),
        drained: Stop::default(),
    }
}

/// Decodes one whole payload and returns its points as line protocol and what was refused, in words.
pub fn decode(decoder: &mut dyn Decoder, payload: &[u8]) -> (Vec<String>, Vec<String>) {
    let (mut collector, mut receiver) = collector();
    let (mut rest, mut lines) = (payload, Vec::new());
    loop {
        let used = decoder.decode(rest, &mut collector);
        // The pool has room: it is emptied after every flush.
        let _ = collector.try_flush(Position::None);
        lines.extend(receiver.take());
        rest = &rest[used.min(rest.len())..];
        if rest.is_empty() || used == 0 {
            break;
        }
    }
    (lines, collector.take_refused().into_iter().map(|r| r.reason).collect())
}
