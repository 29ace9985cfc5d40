//! Throughput of the operators: fields per second through one window with 10 000 groups, and what alerts and passing on cost.

use std::{hint::black_box, sync::Arc};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use weir_engine::{
    operators::{Operators, expr::Expr},
    record::{BatchRecord, ClockQuality, Record, Stamp},
    results::Results,
    series::SeriesTable,
    spec::{Aggregate, AlertSpec, EngineSpec, InputSpec, OutputSpec, WindowSpec},
};
use weir_plugin_api::{Cell, InputCounts, Kind, Lane, Position, Series, filter::Filter};

const SECOND: i64 = 1_000_000_000;
const SERIES: u32 = 10_000;
const FIELDS: u16 = 3;
const POINTS_PER_BATCH: u32 = 340;

fn window(aggregates: Vec<Aggregate>) -> WindowSpec {
    WindowSpec {
        name: "w".into(),
        every: 10 * SECOND,
        period: 10 * SECOND,
        align: 0,
        by: None,
        fields: Vec::new(),
        filter: Filter::default(),
        aggregates,
        lateness: 5 * SECOND,
        allowed_lateness: 0,
        reemit_every: 5 * SECOND,
        drop_original: true,
        name_override: None,
        result_fields: false,
        time_is_end: false,
    }
}

fn alert() -> AlertSpec {
    AlertSpec {
        name: "hot".into(),
        when: Expr::parse("f0 > 1000 and f1 < 3").expect("the condition is well formed"),
        clear: None,
        for_: 0,
        keep: 0,
        by: None,
        window: None,
        filter: Filter::default(),
        severity: "low".into(),
        edge_actions: 0,
        level_actions: Vec::new(),
    }
}

/// Every series reports once a second; a minute of it, in batches.
fn stream(table: &mut SeriesTable) -> Vec<Vec<Cell>> {
    let partition: Arc<str> = "p".into();
    let ids: Vec<u32> = (0..SERIES)
        .map(|i| {
            let series = Arc::new(Series::from_parts("sensors", &[("device", &format!("d{i}"))]));
            table.intern(&series, 0, &partition).expect("the table has room")
        })
        .collect();
    let fields: Vec<u16> = (0..FIELDS).map(|i| table.intern_field(&format!("f{i}")).expect("the table has room")).collect();
    let mut batches = vec![Vec::new()];
    for second in 0..60i64 {
        for id in &ids {
            if batches.last().is_some_and(|b: &Vec<Cell>| b.len() >= (POINTS_PER_BATCH * u32::from(FIELDS)) as usize) {
                batches.push(Vec::new());
            }
            let Some(cells) = batches.last_mut() else { continue };
            for (i, field) in fields.iter().enumerate() {
                let value = 20.0 + f64::from((id * 7 + second as u32 * 13) % 100) / 10.0 + i as f64;
                let flags = if i == 0 { Cell::START } else { 0 };
                let time = second * SECOND + i64::from(*id);
                cells.push(Cell { series: *id, field: *field, kind: Kind::Float as u8, flags, time, value: value.to_bits() });
            }
        }
    }
    batches
}

fn apply(operators: &mut Operators, table: &SeriesTable, batches: &[Vec<Cell>], results: &mut Results) {
    let counts = InputCounts::default();
    for (i, cells) in batches.iter().enumerate() {
        results.start_record(i as u64 + 2);
        let record = BatchRecord {
            input: 0,
            read_at: 0,
            position: &Position::None,
            counts: &counts,
            cells,
            text: &[],
            points: cells.len() as u32 / u32::from(FIELDS),
        };
        operators.apply(Stamp { observed: 0, steady: 3600 * SECOND }, &Record::Batch(record), table, results);
        if results.size() > 1 << 20 {
            black_box(results.take(Lane::Results));
        }
    }
    black_box(results.take(Lane::Results));
}

fn windows(c: &mut Criterion) {
    use Aggregate as A;
    let simple = vec![A::Count, A::Sum, A::Mean, A::Min, A::Max];
    let hopping = WindowSpec { every: 10 * SECOND, period: 60 * SECOND, ..window(simple.clone()) };
    let cases = [
        ("5 simple aggregates", vec![window(simple.clone())], vec![]),
        ("count, first, last, stddev", vec![window(vec![A::Count, A::First, A::Last, A::Stddev])], vec![]),
        ("p95", vec![window(vec![A::Percentile(950)])], vec![]),
        ("hopping, 6 panes", vec![hopping], vec![]),
        ("5 simple aggregates and an alert", vec![window(simple)], vec![alert()]),
        ("passed on", vec![], vec![]),
    ];
    let mut table = SeriesTable::new(100_000);
    let batches = stream(&mut table);
    let cells: usize = batches.iter().map(Vec::len).sum();
    let mut group = c.benchmark_group("fields through the operators");
    group.throughput(Throughput::Elements(cells as u64)).sample_size(10);
    for (name, windows, alerts) in cases {
        let spec = Arc::new(EngineSpec {
            inputs: vec![InputSpec { name: "in".into(), window_messages: 0, ..InputSpec::default() }],
            outputs: vec![OutputSpec { name: "out".into(), results: true, alerts: true, ..OutputSpec::default() }],
            windows,
            alerts,
            ..EngineSpec::default()
        });
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || {
                    let mut operators = Operators::new(Arc::clone(&spec));
                    let mut results = Results::default();
                    results.start_record(1);
                    let clock = Record::Clock { offset: 0, quality: ClockQuality::Synced, boot: 0 };
                    operators.apply(Stamp { observed: 0, steady: 3600 * SECOND }, &clock, &table, &mut results);
                    // The first second makes the groups and their panes.
                    let warm = batches.len() / 60 + 1;
                    apply(&mut operators, &table, &batches[..warm], &mut results);
                    (operators, results)
                },
                |(operators, results)| apply(operators, &table, &batches, results),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, windows);
criterion_main!(benches);
