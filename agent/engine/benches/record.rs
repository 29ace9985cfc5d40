//! Throughput of the journal's coding: points per second into a block and out of it again, in a file of its own because it needs no
//! operators.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weir_engine::{
    codec::record::{BlockBuilder, decode},
    core::BlockMeta,
    record::{BatchRecord, Record, Stamp},
    series::SeriesTable,
};
use weir_plugin_api::{Cell, InputCounts, Kind, Position, Series};

const SECOND: i64 = 1_000_000_000;
const SERIES: u32 = 1000;
const FIELDS: u16 = 3;
const POINTS: u32 = 340;
const BATCHES: u32 = 30;

/// The table, and batches of points of three decimals each.
fn batches(value: fn(u32, u16) -> f64) -> (SeriesTable, Vec<Vec<Cell>>) {
    let mut table = SeriesTable::new(100_000);
    let partition: Arc<str> = "p".into();
    let series: Vec<u32> = (0..SERIES)
        .map(|i| {
            let series = Arc::new(Series::from_parts("climate", &[("device", &format!("sensor{i:04}")), ("site", "hall")]));
            table.intern(&series, 0, &partition).expect("the table has room")
        })
        .collect();
    let fields: Vec<u16> =
        ["temperature", "humidity", "pressure"].iter().map(|f| table.intern_field(f).expect("the table has room")).collect();
    let point = |number: u32| {
        let (id, time) = (series[(number % SERIES) as usize], i64::from(number / SERIES) * SECOND + i64::from(number % SERIES) * 1000);
        let fields = fields.clone();
        (0..FIELDS).map(move |i| Cell {
            series: id,
            field: fields[usize::from(i)],
            kind: Kind::Float as u8,
            flags: if i == 0 { Cell::START } else { 0 },
            time,
            value: value(number, i).to_bits(),
        })
    };
    let batches = (0..BATCHES).map(|b| (b * POINTS..(b + 1) * POINTS).flat_map(point).collect()).collect();
    (table, batches)
}

fn encode(builder: &mut BlockBuilder, table: &SeriesTable, batches: &[Vec<Cell>]) -> (BlockMeta, Vec<u8>) {
    let counts = InputCounts { read: u64::from(POINTS), ..InputCounts::default() };
    for (i, cells) in batches.iter().enumerate() {
        let record = BatchRecord { input: 0, read_at: 0, position: &Position::None, counts: &counts, cells, text: &[], points: POINTS };
        builder.push(i as u64 + 1, Stamp { observed: i as i64, steady: i as i64 }, &Record::Batch(record));
    }
    builder.seal(table, &["in"], &["out"])
}

fn records(c: &mut Criterion) {
    let mut group = c.benchmark_group("record");
    group.throughput(Throughput::Elements(u64::from(POINTS * BATCHES)));
    let two_digits: fn(u32, u16) -> f64 = |n, field| f64::from(n.wrapping_mul(2_654_435_761 + u32::from(field)) >> 18) / 100.0;
    let any_bits: fn(u32, u16) -> f64 = |n, field| (f64::from(n) + f64::from(field)).sqrt();
    for (name, value) in [("decimals", two_digits), ("any doubles", any_bits)] {
        let (mut table, batches) = batches(value);
        let mut builder = BlockBuilder::default();
        let (meta, bytes) = encode(&mut builder, &table, &batches);
        println!("{name}: {:.1} bytes a point", bytes.len() as f64 / f64::from(POINTS * BATCHES));
        group.bench_function(format!("encode, 3 {name}"), |b| b.iter(|| black_box(encode(&mut builder, &table, &batches))));
        group.bench_function(format!("decode, 3 {name}"), |b| {
            b.iter(|| {
                let mut cells = 0;
                decode(&meta, &bytes, 0, &mut table, &["in"], &["out"], |_, _, record, _| {
                    if let Record::Batch(batch) = record {
                        cells += batch.cells.len();
                    }
                })
                .expect("what was encoded decodes");
                assert_eq!(cells, (POINTS * BATCHES) as usize * usize::from(FIELDS));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, records);
criterion_main!(benches);
