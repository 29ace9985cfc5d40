//! What the journal costs: its share of the work, the way back from it, and how long a checkpoint keeps everybody waiting.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use weir_engine::{
    codec::record::BlockBuilder,
    core::{Core, Effect, Event, Now},
    record::{BatchRecord, ClockQuality, Record, Stamp},
    series::SeriesTable,
    spec::{Aggregate, EngineSpec, InputSpec, OutputSpec, WindowSpec},
};
use weir_plugin_api::{Batch, Cell, InputCounts, Kind, Position, Series, filter::Filter};
use weir_store::{BlockMeta, RealFiles, Store, StoreOptions};

use crate::{
    SERIES, folder, http, number_value,
    process::{Watched, own_cpu},
    support::free_port,
    write_config_with,
};

const SECOND: i64 = 1_000_000_000;
/// Points of a full batch, three fields each.
const POINTS: u32 = 342;
/// Bytes after which a block is committed.
const BLOCK: usize = 64 * 1024;

fn cells(first: u64, fields: &[u16], series: &[u32], out: &mut Vec<Cell>) {
    for number in first..first + u64::from(POINTS) {
        let (id, step) = (number % SERIES, number / SERIES);
        let time = crate::LINE_TIME as i64 + step as i64 * SECOND + id as i64 * 1000;
        out.extend(fields.iter().enumerate().map(|(i, field)| Cell {
            series: series[id as usize],
            field: *field,
            kind: Kind::Float as u8,
            flags: if i == 0 { Cell::START } else { 0 },
            time,
            value: number_value(number, i as u64 + 1).to_bits(),
        }));
    }
}

/// CPU seconds that recording `points` points takes: encoding, compression, writing, a sync for every block.
pub fn cost(points: u64) -> f64 {
    let directory = folder();
    let files = RealFiles::open(directory.path()).expect("a directory of our own");
    let (mut store, _) = Store::open(files, &StoreOptions { journal_bytes_max: 64 << 20, new_id: 1 }).expect("an empty store opens");
    let mut table = SeriesTable::new(100_000);
    let partition: Arc<str> = "p".into();
    let series: Vec<u32> = (0..SERIES)
        .map(|i| {
            let site = format!("hall{}", i % 7);
            let series = Arc::new(Series::from_parts("climate", &[("device", &format!("sensor{i:04}")), ("site", &site)]));
            table.intern(&series, 0, &partition).expect("the table has room")
        })
        .collect();
    let fields = ["temperature", "humidity", "pressure"].map(|f| table.intern_field(f).expect("the table has room"));
    let (mut builder, mut batch, counts) =
        (BlockBuilder::default(), Vec::new(), InputCounts { read: u64::from(POINTS), ..InputCounts::default() });
    // Making the cells is not the journal's work.
    let (mut cpu, mut record, mut covered, mut checkpoints) = (0.0, 0, 0, 0);
    for first in (0..points).step_by(POINTS as usize) {
        batch.clear();
        cells(first, &fields, &series, &mut batch);
        let before = own_cpu();
        record += 1;
        let of = BatchRecord { input: 0, read_at: 0, position: &Position::None, counts: &counts, cells: &batch, text: &[], points: POINTS };
        builder.push(record, Stamp { observed: record as i64, steady: record as i64 }, &Record::Batch(of));
        if builder.len() >= BLOCK {
            let (meta, bytes) = builder.seal(&table, &["in"], &["out"]);
            let meta = BlockMeta {
                first_record: meta.first_record,
                records: meta.records,
                points: meta.points,
                times: meta.times,
                inputs: meta.inputs,
            };
            store.append(&meta, &bytes).expect("the journal has room");
            store.sync().expect("the disk syncs");
        }
        if store.journal_used() > (64 << 20) / 3 && record > covered + 100 {
            checkpoints += 1;
            covered = record;
            store.checkpoint(checkpoints, record, &[], b"", [0, 0]).expect("a checkpoint");
        }
        cpu += own_cpu() - before;
    }
    cpu
}

/// Starts an agent on a journal of 64 MiB that nobody has made a checkpoint of.
pub fn recovery() {
    let directory = folder();
    let port = free_port();
    write_config_with(
        directory.path(),
        &format!(
            "[agent]\nomit_hostname = true\n[[inputs.influxdb_v2_listener]]\nservice_address = \"127.0.0.1:{port}\"\n[[windows]]\nname = \"w\"\nevery = \"1m\"\naggregates = [\"count\", \"sum\", \"mean\", \"min\", \"max\"]\n[[outputs.file]]\nfiles = [\"out.lp\"]\n"
        ),
        "journal_bytes_max = \"1GiB\"",
    );
    let mut agent = Watched::start(directory.path(), &[]);
    agent.wait_listening(port);
    let state = directory.path().join("state");
    let used = || crate::outage::files(&state, "journal-").1;
    let mut points = 0;
    while used() < 64 << 20 {
        http::post_range(port, points..points + 200_000, 5000, crate::line);
        points += 200_000;
    }
    agent.kill();
    let agent = Watched::start(directory.path(), &[]);
    let wall = agent.time_to_ready().as_secs_f64();
    let usage = agent.usage();
    let fields = points as f64 * 3.0 / 1e6;
    println!(
        "recovery: {:.1} M fields per CPU s, {:.1} M per second of waiting ({points} points of three in {:.1} MiB, ready after {wall:.2} s, user {:.2}, system {:.2}, peak {:.1} MB)",
        fields / usage.cpu(),
        fields / wall,
        used() as f64 / f64::from(1 << 20),
        usage.user,
        usage.system,
        agent.peak_memory()
    );
}

fn window() -> WindowSpec {
    use Aggregate as A;
    WindowSpec {
        name: "w".into(),
        every: 10 * SECOND,
        period: 10 * SECOND,
        align: 0,
        by: None,
        fields: Vec::new(),
        filter: Filter::default(),
        aggregates: vec![A::Count, A::Sum, A::Mean, A::Min, A::Max],
        lateness: 5 * SECOND,
        allowed_lateness: 0,
        reemit_every: 5 * SECOND,
        drop_original: true,
        name_override: None,
        result_fields: false,
        time_is_end: false,
    }
}

/// How long the core can't answer while it makes a checkpoint of so many groups: its longest step.
pub fn stall(groups: u32) {
    let mut spec = EngineSpec {
        inputs: vec![InputSpec { name: "in".into(), ..InputSpec::default() }],
        outputs: vec![OutputSpec { name: "out".into(), results: true, alerts: true, ..OutputSpec::default() }],
        windows: vec![window()],
        ..EngineSpec::default()
    };
    (spec.limits.groups_max, spec.limits.series_max) = (groups as usize, groups as usize);
    let mut now = Now { steady: SECOND, wall: crate::LINE_TIME as i64, quality: ClockQuality::Synced };
    let mut core = Core::new(Arc::new(spec), now);
    let mut effects = Vec::new();
    core.start(now, &mut effects);
    let fields = ["temperature", "humidity", "pressure"];
    let mut answer = |core: &mut Core, now: Now, event: Event| {
        let (start, cpu) = (Instant::now(), own_cpu());
        core.step(now, event, &mut effects);
        let mut took = (own_cpu() - cpu, start.elapsed());
        // The disk is quick here: what is asked of it is done at once.
        loop {
            let answers: Vec<Event> = effects
                .drain(..)
                .filter_map(|effect| match effect {
                    Effect::Append { block, sync, .. } => Some(Event::Durable { block, synced: sync }),
                    Effect::Checkpoint { number, .. } => Some(Event::CheckpointDone { number, outbox: Vec::new(), journal_used: 0 }),
                    _ => None,
                })
                .collect();
            if answers.is_empty() {
                return took;
            }
            for event in answers {
                let (start, cpu) = (Instant::now(), own_cpu());
                core.step(now, event, &mut effects);
                took = (took.0.max(own_cpu() - cpu), took.1.max(start.elapsed()));
            }
        }
    };
    for (number, first) in (0..groups).step_by(300).enumerate() {
        let mut batch = Batch { number: number as u64 + 1, read_at: now.steady, ..Batch::default() };
        if number == 0 {
            batch.new_fields.extend(fields.iter().map(|f| Arc::from(*f)));
        }
        for group in first..(first + 300).min(groups) {
            batch.new_series.push(Arc::new(Series::from_parts("climate", &[("device", &format!("sensor{group:06}"))])));
            batch.new_partitions.push(format!("sensor{group:06}").into());
            batch.cells.extend((0..3u16).map(|field| Cell {
                series: group,
                field,
                kind: Kind::Float as u8,
                flags: if field == 0 { Cell::START } else { 0 },
                time: now.wall,
                value: number_value(u64::from(group), u64::from(field)).to_bits(),
            }));
            batch.points += 1;
        }
        batch.counts.read = u64::from(batch.points);
        answer(&mut core, now, Event::Batch { input: 0, batch });
        (now.steady, now.wall) = (now.steady + 1_000_000, now.wall + 1_000_000);
    }
    let longest: Vec<(f64, Duration)> = (0..9)
        .map(|_| {
            (now.steady, now.wall) = (now.steady + SECOND / 10, now.wall + SECOND / 10);
            answer(&mut core, now, Event::Checkpoint)
        })
        .collect();
    let (mut cpu, mut wall): (Vec<f64>, Vec<f64>) = longest.into_iter().map(|(cpu, wall)| (cpu * 1e3, wall.as_secs_f64() * 1e3)).unzip();
    cpu.sort_unstable_by(f64::total_cmp);
    wall.sort_unstable_by(f64::total_cmp);
    println!(
        "stall: {:.1} ms of CPU is the core's longest step in a checkpoint of {groups} groups of three fields (median of 9, longest {:.1} ms), {:.1} ms of waiting (longest {:.1} ms)",
        cpu[4], cpu[8], wall[4], wall[8]
    );
}
