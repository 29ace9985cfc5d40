//! What goes in comes out, what is damaged is refused, and bytes once written stay readable.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;
use weir_plugin_api::{Cell, Identity, InputCounts, Lane, Position, Series, Value, chunk::ChunkBuilder};

use super::{bytes::Reader, cells, cells::CellEncoder, chunk, record, record::BlockBuilder};
use crate::{
    core::BlockMeta,
    record::{BatchRecord, ClockQuality, ClockThen, Condition, DeliveryCounts, Record, Stamp},
    series::SeriesTable,
};

#[derive(Clone, Debug)]
enum Any {
    Float(f64),
    Int(i64),
    Uint(u64),
    Bool(bool),
    Text(String),
}

impl Any {
    fn value(&self) -> Value<'_> {
        match self {
            Self::Float(v) => Value::Float(*v),
            Self::Int(v) => Value::Int(*v),
            Self::Uint(v) => Value::Uint(*v),
            Self::Bool(v) => Value::Bool(*v),
            Self::Text(v) => Value::Text(v),
        }
    }
}

fn any_value() -> impl Strategy<Value = Any> {
    prop_oneof![
        // Decimals of sensors, negative ones too, and what is not a decimal.
        (-100_000i64..100_000, 0u32..5).prop_map(|(n, digits)| Any::Float(n as f64 / 10f64.powi(digits as i32))),
        any::<f64>().prop_filter("cells hold finite numbers", |v| v.is_finite()).prop_map(Any::Float),
        prop_oneof![Just(0.0), Just(-0.0), Just(f64::MIN_POSITIVE), Just(f64::MAX), Just(9_007_199_254_740_993.0)].prop_map(Any::Float),
        any::<i64>().prop_map(Any::Int),
        any::<u64>().prop_map(Any::Uint),
        any::<bool>().prop_map(Any::Bool),
        ".{0,12}".prop_map(Any::Text),
    ]
}

/// Points: series, time, whether it is untimed, fields.
type Points = Vec<(u32, i64, bool, Vec<(u16, Any)>)>;

fn any_points() -> impl Strategy<Value = Points> {
    let time = prop_oneof![any::<i64>(), (0i64..1000).prop_map(|n| 1_700_000_000_000_000_000 + n * 1_000_000)];
    prop::collection::vec((0u32..3, time, any::<bool>(), prop::collection::vec((0u16..3, any_value()), 1..4)), 0..40)
}

fn cells_of(points: &Points) -> (Vec<Cell>, Vec<u8>) {
    let (mut cells, mut text) = (Vec::new(), Vec::new());
    for (series, time, untimed, fields) in points {
        for (index, (field, value)) in fields.iter().enumerate() {
            let (kind, value) = Cell::encode_value(value.value(), &mut text);
            let flags = if index == 0 { Cell::START } else { 0 } | if *untimed { Cell::UNTIMED } else { 0 };
            cells.push(Cell { series: *series, field: *field, kind: kind as u8, flags, time: *time, value });
        }
    }
    (cells, text)
}

/// Everything of a cell, bit for bit, its text in place of where it lies.
fn seen(cells: &[Cell], text: &[u8]) -> Vec<String> {
    let bits = |c: &Cell| if c.kind == 4 { format!("{:?}", c.value(text)) } else { format!("{:x}", c.value) };
    cells.iter().map(|c| format!("{} {} {} {} {} {}", c.series, c.field, c.kind, c.flags, c.time, bits(c))).collect()
}

fn table() -> SeriesTable {
    let mut table = SeriesTable::new(10);
    for name in ["a", "b", "c"] {
        table.intern(&Arc::new(Series::from_parts(name, &[("host", "h")])), 0, &"".into()).unwrap();
        table.intern_field(name).unwrap();
    }
    table
}

fn block(table: &SeriesTable, points: &Points) -> (BlockMeta, Vec<u8>) {
    let (cells, text) = cells_of(points);
    let counts = InputCounts { read: points.len() as u64 + 1, refused_parse: 1, ..InputCounts::default() };
    let batch = BatchRecord {
        input: 0,
        read_at: 5,
        position: &Position::Sequence { nonce: 7, sequence: 9 },
        counts: &counts,
        cells: &cells,
        text: &text,
        points: points.len() as u32,
    };
    let (after, upto) = (Identity { record: 2, ordinal: 1 }, Identity { record: 5, ordinal: 0 });
    let counts = DeliveryCounts { expired_age: 3, ..DeliveryCounts::default() };
    let mut builder = BlockBuilder::default();
    builder.push(4, Stamp { observed: 10, steady: 5 }, &Record::Batch(batch));
    builder.push(5, Stamp { observed: 11, steady: 6 }, &Record::Expired { output: 0, lane: Lane::Results, after, upto, counts });
    builder.push(6, Stamp { observed: 9, steady: -6 }, &Record::Tick);
    builder.seal(table, &["in"], &["out"])
}

fn read(meta: &BlockMeta, bytes: &[u8]) -> Result<Vec<String>, super::bytes::Damaged> {
    let mut records = Vec::new();
    record::decode(meta, bytes, 1, &mut table(), &["in"], &["out"], |sequence, stamp, record, _| match record {
        Record::Batch(b) => records.push(format!("{sequence} {stamp:?} {:?} {:?} {:?}", b.position, b.counts, seen(b.cells, b.text))),
        other => records.push(format!("{sequence} {stamp:?} {other:?}")),
    })?;
    Ok(records)
}

proptest! {
    #[test]
    fn cells_come_back_bit_for_bit(points in any_points()) {
        let (cells, text) = cells_of(&points);
        let mut bytes = Vec::new();
        CellEncoder::default().encode(&cells, &text, |s| s, |f| f, &mut bytes);
        let (mut back, mut back_text) = (Vec::new(), Vec::new());
        let mut reader = Reader::new(&bytes);
        let count = cells::decode(&mut reader, Some, Some, &mut back, &mut back_text).unwrap();
        prop_assert_eq!(count as usize, points.len());
        prop_assert_eq!(reader.left(), 0);
        prop_assert_eq!(seen(&back, &back_text), seen(&cells, &text));
    }

    #[test]
    fn records_come_back_with_everything_in_them(points in any_points()) {
        let (cells, text) = cells_of(&points);
        let (meta, bytes) = block(&table(), &points);
        prop_assert_eq!(meta.records, 3);
        prop_assert_eq!(meta.points as usize, points.len());
        let records = read(&meta, &bytes).unwrap();
        prop_assert_eq!(records.len(), 3);
        prop_assert!(records[0].ends_with(&format!("{:?}", seen(&cells, &text))), "{}", records[0]);
        let expired = records[1].contains("after: Identity { record: 2, ordinal: 1 }") && records[1].contains("expired_age: 3");
        prop_assert!(expired, "{}", records[1]);
        prop_assert_eq!(&records[2], "6 Stamp { observed: 9, steady: -6 } Tick");
    }

    #[test]
    fn chunks_come_back_with_identities_and_routes(values in prop::collection::vec((0u64..5, any_value()), 1..30)) {
        let (series, field): (_, Arc<str>) = (Arc::new(Series::from_parts("m", &[("k", "ä b")])), "f".into());
        let (mut builder, mut record) = (ChunkBuilder::default(), 1);
        for (index, (step, value)) in values.iter().enumerate() {
            record += step;
            builder.point(Identity { record, ordinal: index as u32 }, &series, 0b10);
            builder.field(&field, index as i64, value.value());
        }
        let before = builder.finish();
        let mut bytes = Vec::new();
        chunk::encode(&before, &["gone", "stays"], &mut CellEncoder::default(), &mut bytes);
        // The output has another number now.
        let after = chunk::decode(&bytes, &["stays"]).unwrap();
        prop_assert_eq!(after.len(), before.len());
        for index in 0..after.len() {
            prop_assert_eq!(after.identity(index), before.identity(index));
            prop_assert_eq!(after.route(index), 1);
            prop_assert_eq!(after.point(index).series().line(), before.point(index).series().line());
        }
        prop_assert_eq!(seen(&after.cells, &after.text), seen(&before.cells, &before.text));
    }

    #[test]
    fn a_chunk_made_of_hostile_bytes_is_refused_or_can_be_read(
        values in prop::collection::vec((0u64..5, any_value()), 1..30),
        flips in prop::collection::vec((any::<prop::sample::Index>(), hostile_byte()), 1..8),
    ) {
        let mut bytes = chunk_bytes(&values);
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let Ok(chunk) = chunk::decode(&bytes, &["stays"]) else { return Ok(()) };
        for index in 0..chunk.len() {
            let (identity, point) = (chunk.identity(index), chunk.point(index));
            prop_assert!(index == 0 || chunk.identity(index - 1) < identity, "{index}: {identity:?}");
            prop_assert_eq!(chunk.after(identity), index + 1);
            prop_assert!(chunk.route(index) <= 1 && !point.series().line().is_empty() && point.fields().len() > 0);
            let _ = point.fields().map(|(name, value)| format!("{name}{value:?}")).collect::<Vec<_>>();
        }
    }

    #[test]
    fn bytes_of_no_encoder_are_refused_and_nothing_else(bytes in prop::collection::vec(hostile_byte(), 0..200), first in prop_oneof![Just(u64::MAX), any::<u64>()]) {
        let versioned = [&[1], bytes.as_slice()].concat();
        let meta = BlockMeta { first_record: first, ..BlockMeta::default() };
        for bytes in [&bytes, &versioned] {
            let _ = read(&meta, bytes);
            let _ = chunk::decode(bytes, &["out"]);
            let _ = cells::decode(&mut Reader::new(bytes), Some, Some, &mut Vec::new(), &mut Vec::new());
        }
    }

    #[test]
    fn hostile_bytes_are_refused_and_nothing_else(points in any_points(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()) {
        let (meta, mut bytes) = block(&table(), &points);
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        // Either reading it is an error or it is another block; a panic or a huge allocation fails the test.
        let _ = read(&meta, &bytes);
        bytes.truncate(cut.index(bytes.len()));
        let _ = read(&meta, &bytes);
        let _ = chunk::decode(&bytes, &["out"]);
    }
}

/// Bytes that make small and huge varints likely.
fn hostile_byte() -> impl Strategy<Value = u8> {
    prop_oneof![3 => 0u8..4, 1 => Just(0xff), 1 => Just(0x7f), 1 => any::<u8>()]
}

fn chunk_bytes(values: &[(u64, Any)]) -> Vec<u8> {
    let (series, field): (_, Arc<str>) = (Arc::new(Series::from_parts("m", &[("k", "v")])), "f".into());
    let (mut builder, mut record) = (ChunkBuilder::default(), 1);
    for (index, (step, value)) in values.iter().enumerate() {
        record += step;
        builder.point(Identity { record, ordinal: index as u32 }, &series, 0b1);
        builder.field(&field, index as i64, value.value());
    }
    let mut bytes = Vec::new();
    chunk::encode(&builder.finish(), &["stays"], &mut CellEncoder::default(), &mut bytes);
    bytes
}

/// A run of times longer than anything there is.
#[test]
fn a_run_that_overflows_is_refused() {
    let mut bytes = vec![2, 0];
    // One shape of one float field, one run of it over both points, then two runs of times.
    bytes = [&bytes[..1], &[1, 1, 0, 0, 1, 0, 2, 2, 1], &[0xff; 9][..], &[1]].concat();
    bytes.extend([0; 40]);
    assert!(cells::decode(&mut Reader::new(&bytes), Some, Some, &mut Vec::new(), &mut Vec::new()).is_err());
}

#[test]
fn records_behind_the_last_number_there_is_are_refused() {
    let (meta, bytes) = block(&table(), &Vec::new());
    let meta = BlockMeta { first_record: u64::MAX - 1, ..meta };
    assert!(read(&meta, &bytes).is_err());
}

#[test]
fn points_without_identities_are_refused() {
    let series = Arc::new(Series::from_parts("m", &[]));
    let build = |identities: &[(u32, Identity)]| {
        let mut builder = ChunkBuilder::default();
        for ordinal in 0..3 {
            builder.point(Identity { record: 1, ordinal }, &series, 1);
            builder.field(&"f".into(), 0, Value::Float(1.0));
        }
        let mut chunk = builder.finish();
        chunk.identities = identities.to_vec();
        let mut bytes = Vec::new();
        chunk::encode(&chunk, &["out"], &mut CellEncoder::default(), &mut bytes);
        chunk::decode(&bytes, &["out"])
    };
    let at = |record, ordinal| Identity { record, ordinal };
    assert!(build(&[(0, at(1, 0))]).is_ok());
    for wrong in [
        vec![],
        vec![(1, at(1, 0))],
        vec![(0, at(1, u32::MAX - 1))],
        vec![(0, at(1, 0)), (2, at(1, 1))],
        vec![(0, at(1, 0)), (3, at(1, 5))],
    ] {
        assert!(build(&wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_condition_of_the_agent_comes_back() {
    let condition = Record::Condition { condition: Condition::OutboxDropping, subject: "in flüx", active: true, value: 300 };
    let mut builder = BlockBuilder::default();
    builder.push(7, Stamp { observed: 1, steady: 2 }, &condition);
    builder.push(8, Stamp { observed: 1, steady: 2 }, &Record::Tick);
    let (meta, bytes) = builder.seal(&table(), &["in"], &["out"]);
    let records = read(&meta, &bytes).unwrap();
    assert_eq!(records[0], format!("7 Stamp {{ observed: 1, steady: 2 }} {condition:?}"));
    assert!(records[1].ends_with("Tick"));
}

#[test]
fn a_block_is_written_as_it_always_was() {
    let points = vec![
        (0, 1_700_000_000_000_000_000, false, vec![(0, Any::Float(-12.5)), (1, Any::Text("état".into()))]),
        (0, 1_700_000_001_000_000_000, false, vec![(0, Any::Float(-12.25)), (1, Any::Text("".into()))]),
        (2, 77, true, vec![(2, Any::Bool(true))]),
    ];
    let (_, bytes) = block(&table(), &points);
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, GOLDEN, "the format has changed: raise its version, or what is on gateways can't be read");
}

/// The block above as it was first written.
const GOLDEN: &str = concat!(
    "010102696e01036f75740201610104686f73740168000001630104686f737401680000030161016201630301140a00000307",
    "090304010302020000010401020302000201010202010000028080d0e2c6bfce972fffd7f9a8bfbfce972fe5cefcd5d5bfce",
    "972f02c313321305c3a974617400120106020200010201050000000003000000020317",
);

#[test]
fn a_configuration_and_a_clock_of_a_boot_come_back() {
    let config = Record::Config { spec: b"\x01{\"of\":\"t\xc3\xb6day\"}" };
    let clock = Record::Clock { offset: -5, quality: ClockQuality::Rtc, boot: u64::MAX - 3 };
    let mut builder = BlockBuilder::default();
    builder.push(7, Stamp { observed: 1, steady: 2 }, &clock);
    builder.push(8, Stamp { observed: 1, steady: 2 }, &config);
    let (meta, bytes) = builder.seal(&table(), &["in"], &["out"]);
    let records = read(&meta, &bytes).unwrap();
    assert!(records[0].ends_with(&format!("{clock:?}")) && records[1].ends_with(&format!("{config:?}")), "{records:?}");
}

#[test]
fn floors_come_back() {
    let groups = [(Arc::new(Series::from_parts("w", &[("host", "é")])), -7), (Arc::new(Series::from_parts("v", &[])), i64::MAX)];
    let clock =
        ClockThen { offset: -7, quality: ClockQuality::Rtc, boot: u64::MAX, steady: 9, stepped_back: 3, held: 2, newest_held: i64::MIN };
    for floors in [
        Record::Floors { common: i64::MIN, groups: &groups, clock: None },
        Record::Floors { common: 5, groups: &[], clock: None },
        Record::Floors { common: 5, groups: &groups, clock: Some(clock) },
    ] {
        let mut builder = BlockBuilder::default();
        builder.push(7, Stamp { observed: 1, steady: 2 }, &floors);
        let (meta, bytes) = builder.seal(&table(), &[], &[]);
        assert!(read(&meta, &bytes).unwrap()[0].ends_with(&format!("{floors:?}")));
    }
}

#[test]
fn a_clock_written_before_boots_had_numbers_is_of_an_unknown_one() {
    let mut builder = BlockBuilder::default();
    builder.push(7, Stamp::default(), &Record::Clock { offset: 9, quality: ClockQuality::Synced, boot: 0 });
    let (meta, mut bytes) = builder.seal(&table(), &[], &[]);
    // The tag stands before two stamps, offset and quality, a byte each, and eight of the boot.
    bytes.truncate(bytes.len() - 8);
    let tag = bytes.len() - 5;
    bytes[tag] = 3;
    assert!(read(&meta, &bytes).unwrap()[0].ends_with("Clock { offset: 9, quality: Synced, boot: 0 }"));
}

#[test]
fn what_was_lost_comes_back_beside_what_was_given_up() {
    let (after, upto) = (Identity { record: 2, ordinal: 1 }, Identity { record: 5, ordinal: 0 });
    let counts = DeliveryCounts { expired_disk: 3, lost_outbox: 2, ..DeliveryCounts::default() };
    let mut builder = BlockBuilder::default();
    builder.push(7, Stamp::default(), &Record::Expired { output: 0, lane: Lane::Alerts, after, upto, counts });
    builder.push(8, Stamp::default(), &Record::Delivered { output: 0, lane: Lane::Results, upto, counts, token: 77 });
    let (meta, bytes) = builder.seal(&table(), &["in"], &["out"]);
    let records = read(&meta, &bytes).unwrap();
    assert!(records.iter().all(|r| r.contains("expired_disk: 3") && r.contains("lost_outbox: 2")), "{records:?}");
    assert!(records[0].contains("Expired") && records[1].contains("token: 77"), "{records:?}");
}
