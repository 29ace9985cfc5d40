//! How fast text becomes cells and points become text: decoders with collector and flush, encoders without an output.
//!
//! One iteration of the decoders is a block of lines of 1000 series, through the ring to a receiver that gives batches back at once.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weir_plugin_api::{
    Collector, Identity, Points, Position, Series, Value,
    chunk::ChunkBuilder,
    collector::Shape,
    options::{Diagnostics, Item, Node, Place, Section, Table},
    plugin::Decoder,
    ring::{RingReceiver, ring},
    testing::FixedClock,
};
use weir_plugins::codecs;

const SERIES: usize = 1000;
const LINES: usize = 10_000;

fn collector() -> (Collector, RingReceiver) {
    let (sender, receiver) = ring(16, Arc::new(|| {}));
    (Collector::new(sender, Shape::default(), FixedClock::new(1, 1)), receiver)
}

/// Decodes a payload and gives every batch back; returns the points.
fn decode(decoder: &mut dyn Decoder, payload: &[u8], out: &mut Collector, ring: &mut RingReceiver) -> u64 {
    let (mut rest, mut points) = (payload, 0);
    loop {
        rest = &rest[decoder.decode(rest, out)..];
        out.try_flush(Position::None).expect("the receiver lives");
        while let Some(batch) = ring.try_recv() {
            points += u64::from(batch.points);
            ring.acknowledge(batch.number);
            ring.recycle(batch);
        }
        if rest.is_empty() {
            return points;
        }
    }
}

/// Lines of 85 bytes: 2 tags, 2 fields, a time.
fn lines() -> Vec<u8> {
    let mut text = String::new();
    for i in 0..LINES {
        let (device, time) = (i * 7919 % SERIES, 1_700_000_000_000_000_000_u64 + i as u64 * 1_000_000);
        text += &format!(
            "weather,device=sensor-{device:04},site=hall-east-{:02} temp={}.{:02},hum={}.5 {time}\n",
            device % 20,
            20 + i % 10,
            i % 100,
            40 + i % 50
        );
    }
    text.into_bytes()
}

fn codec<T>(format: &str, read: impl FnOnce(&Section<'_>) -> Option<T>) -> T {
    let node = Node { place: Place::default(), item: Item::Text(format.into()), secret: false };
    let table = Table { entries: vec![("data_format".into(), Place::default(), node)] };
    read(&Section::new("bench", &table, Place::default(), &Diagnostics::default())).expect("the format is in this build")
}

fn decoders(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let text = lines();
    println!("{} bytes a line", text.len() / LINES);
    group.throughput(Throughput::Elements(LINES as u64));
    group.bench_function("line protocol, 2 tags, 2 fields", |bencher| {
        let ((mut out, mut ring), mut decoder) = (collector(), codec("influx", codecs::decoder));
        bencher.iter(|| assert_eq!(decode(decoder.as_mut(), black_box(&text), &mut out, &mut ring), LINES as u64));
    });
    group.throughput(Throughput::Elements(1));
    for (name, payload) in
        [("small JSON", r#"{"temperature":21.5,"humidity":40}"#), ("one line", "weather,device=a temperature=21.5,humidity=40")]
    {
        group.bench_function(name, |bencher| {
            let ((mut out, mut ring), mut decoder) =
                (collector(), codec(if name == "small JSON" { "json" } else { "influx" }, codecs::decoder));
            // As an MQTT input does it: a payload is a point, a batch is sent when it is full.
            bencher.iter(|| {
                decoder.decode(black_box(payload.as_bytes()), &mut out);
                if out.is_full() {
                    decode(decoder.as_mut(), b"", &mut out, &mut ring);
                }
            });
        });
    }
    group.finish();
}

fn encoders(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let mut builder = ChunkBuilder::default();
    let series: Vec<_> =
        (0..SERIES).map(|i| Arc::new(Series::from_parts("weather", &[("device", &format!("sensor-{i:04}")), ("site", "hall")]))).collect();
    let names: [Arc<str>; 2] = ["temperature_mean".into(), "humidity_mean".into()];
    for i in 0..LINES {
        builder.point(Identity { record: 1, ordinal: i as u32 }, &series[i % SERIES], 1);
        builder.field(&names[0], i as i64, Value::Float(20.0 + (i % 1000) as f64 / 100.0));
        builder.field(&names[1], i as i64, Value::Float(40.0 + (i % 70) as f64));
    }
    let points = Points::from(Arc::new(builder.finish()));
    group.throughput(Throughput::Elements(LINES as u64));
    for format in ["influx", "json"] {
        let (mut encoder, mut out) = (codec(format, codecs::encoder), Vec::new());
        group.bench_function(format, |bencher| {
            bencher.iter(|| {
                out.clear();
                points.iter().for_each(|point| encoder.encode(point, &mut out));
                black_box(out.len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, decoders, encoders);
criterion_main!(benches);
