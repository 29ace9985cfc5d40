//! The page that describes the format, taken at its word: golden files are decoded by its tables, and are what is written today.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use weir_engine::{
    codec::{
        bytes::{put_bytes, put_u64},
        cells::CellEncoder,
        chunk,
        record::BlockBuilder,
    },
    core::{Core, Now},
    record::{BatchRecord, ClockQuality, DeliveryCounts, Record, Stamp},
    series::SeriesTable,
    spec::{EngineSpec, OutputSpec},
};
use weir_plugin_api::{Cell, Identity, InputCounts, Lane, Position, Series, Value, chunk::ChunkBuilder, position::FilePosition};
use weir_store::{BlockMeta, OutboxBlock, RealFiles, Store, StoreOptions};

use super::{Contents, contents};

const ID: u64 = 0x0123_4567_89ab_cdef;
const NOON: i64 = 1_700_000_000_000_000_000;

fn page() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("store/FORMAT.md");
    fs::read_to_string(path).expect("the page")
}

/// The rows of the table whose header names `columns`.
fn table(columns: &str) -> Vec<Vec<String>> {
    let page = page();
    let mut rows = page.lines().skip_while(|l| *l != columns);
    assert!(rows.next().is_some(), "the page has a table {columns}");
    let cells = |l: &str| l.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect();
    rows.skip(1).take_while(|l| l.starts_with('|')).map(cells).collect()
}

/// The bytes of the field whose description begins with `what`, by the table.
fn field<'b>(bytes: &'b [u8], columns: &str, what: &str) -> &'b [u8] {
    let rows = table(columns);
    let row = rows.iter().find(|r| r[1].starts_with(what)).unwrap_or_else(|| panic!("{columns} has {what}"));
    let (from, to) = row[0].split_once("..").expect("a range");
    let to = if to.is_empty() { bytes.len() } else { to.parse().expect("an end") };
    &bytes[from.parse().expect("a start")..to]
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// CRC-32C, bit by bit.
fn crc(bytes: &[u8]) -> u64 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    u64::from(!bytes.iter().fold(!0u32, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step)))
}

/// What the page calls varint, signed, text and list.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take(&mut self, n: usize) -> &[u8] {
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn varint(&mut self) -> u64 {
        let byte = self.byte();
        if byte < 0x80 { u64::from(byte) } else { u64::from(byte & 0x7f) | self.varint() << 7 }
    }

    fn signed(&mut self) -> i64 {
        let raw = self.varint();
        if raw & 1 == 0 { (raw / 2) as i64 } else { -((raw / 2) as i64) - 1 }
    }

    fn text(&mut self) -> String {
        let length = self.varint() as usize;
        String::from_utf8(self.take(length).to_vec()).expect("UTF-8")
    }

    fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.varint()).map(|_| one(self)).collect()
    }

    fn tags(&mut self) -> Vec<(String, String)> {
        self.list(|b| (b.text(), b.text()))
    }

    /// Points as `series time fields`, by the parts in the order of the page.
    fn cells(&mut self, names: &[String]) -> Vec<String> {
        let order: Vec<String> = table("| part of the cells | coding |").into_iter().map(|r| r[0].clone()).collect();
        assert_eq!(order, ["points", "shapes", "runs", "untimed", "series", "times", "columns"]);
        let points = self.varint() as usize;
        let shapes = self.list(|b| b.list(|b| (b.varint() as usize, b.byte())));
        let runs = self.list(|b| (b.varint() as usize, b.varint() as usize));
        let untimed = self.list(Self::varint);
        let shape_of: Vec<usize> = runs.iter().flat_map(|(shape, n)| vec![*shape; *n]).collect();
        assert_eq!(shape_of.len(), points);
        let flags = untimed.iter().enumerate().flat_map(|(i, n)| vec![i % 2 == 1; *n as usize]);
        let flags: Vec<bool> = flags.chain(std::iter::repeat(false)).take(points).collect();
        let mut last = 0;
        let series: Vec<i64> = (0..points)
            .map(|_| {
                last += self.signed();
                last
            })
            .collect();
        let (mut time, mut delta) = (0, 0);
        let times: Vec<i64> = (0..points)
            .map(|_| {
                delta += self.signed();
                time += delta;
                time
            })
            .collect();
        let mut columns = BTreeMap::new();
        for (index, shape) in shapes.iter().enumerate() {
            let length = shape_of.iter().filter(|s| **s == index).count();
            for (place, (_, kind)) in shape.iter().enumerate() {
                columns.insert((index, place), self.column(*kind, length));
            }
        }
        let mut seen = vec![0; shapes.len()];
        (0..points)
            .map(|point| {
                let shape = shape_of[point];
                let at = seen[shape];
                seen[shape] += 1;
                let fields = shapes[shape]
                    .iter()
                    .enumerate()
                    .map(|(place, (field, _))| format!(" {}={}", names[*field], columns[&(shape, place)][at]));
                let own = if flags[point] { "steady " } else { "" };
                format!("{} {own}{}{}", series[point], times[point], fields.collect::<String>())
            })
            .collect()
    }

    fn column(&mut self, kind: u8, length: usize) -> Vec<String> {
        let modes = table("| mode | column |");
        let mode = self.byte();
        let row = modes.iter().find(|r| r[0] == mode.to_string()).unwrap_or(&modes[0]);
        let mut last = 0i64;
        let mut differences = |b: &mut Self| {
            last = last.wrapping_add(b.signed());
            last
        };
        match row[1].split([' ', ':', ',']).next().expect("a word") {
            "floats" if row[0] == "0..=9" => {
                assert!(mode <= 9 && kind == 0);
                (0..length).map(|_| (differences(self) as f64 / 10f64.powi(i32::from(mode))).to_string()).collect()
            }
            "floats" => (0..length).map(|_| f64::from_bits(number(self.take(8))).to_string()).collect(),
            "integers" => (0..length)
                .map(|_| if kind == 2 { (differences(self) as u64).to_string() } else { differences(self).to_string() })
                .collect(),
            "booleans" => {
                let bytes = self.take(length.div_ceil(8)).to_vec();
                (0..length).map(|i| (bytes[i / 8] >> (i % 8) & 1 == 1).to_string()).collect()
            }
            "texts" => (0..length).map(|_| self.text()).collect(),
            other => panic!("no column of {other}"),
        }
    }
}

fn series() -> [Arc<Series>; 2] {
    [Arc::new(Series::from_parts("room", &[("device", "d1"), ("site", "north")])), Arc::new(Series::from_parts("pump", &[]))]
}

/// Values of the golden points: series, nanoseconds after noon or steady, fields.
type Fields<'a> = Vec<(u16, Value<'a>)>;

fn golden_points() -> Vec<(u32, i64, bool, Fields<'static>)> {
    vec![
        (0, NOON, false, vec![(0, Value::Float(21.5)), (1, Value::Int(-7))]),
        (0, NOON + 1_000_000_000, false, vec![(0, Value::Float(21.25)), (1, Value::Int(12))]),
        (1, 77, true, vec![(2, Value::Bool(true)), (3, Value::Text("on, über")), (1, Value::Uint(u64::MAX))]),
        (0, NOON + 2_000_000_000, false, vec![(0, Value::Float(-0.5)), (1, Value::Int(i64::MIN))]),
        (1, NOON + 5, false, vec![(0, Value::Float(std::f64::consts::PI))]),
    ]
}

const FIELDS: [&str; 4] = ["temperature", "n", "running", "mode"];

fn journal_block() -> (BlockMeta, Vec<u8>) {
    let mut table = SeriesTable::new(10);
    for (index, one) in series().iter().enumerate() {
        assert_eq!(table.intern(one, 0, &"part".into()), Some(index as u32));
    }
    assert!(FIELDS.iter().all(|name| table.intern_field(name).is_some()));
    let (mut cells, mut text) = (Vec::new(), Vec::new());
    for (series, time, untimed, fields) in golden_points() {
        for (index, (field, value)) in fields.into_iter().enumerate() {
            let (kind, value) = Cell::encode_value(value, &mut text);
            let flags = if index == 0 { Cell::START } else { 0 } | if untimed { Cell::UNTIMED } else { 0 };
            cells.push(Cell { series, field, kind: kind as u8, flags, time, value });
        }
    }
    let position = Position::Files(vec![FilePosition { path: "in.lp".into(), file: (3, 70_000), offset: 512, head: 9 }]);
    let counts = InputCounts { read: 6, refused_parse: 1, ..InputCounts::default() };
    let batch = BatchRecord { input: 0, read_at: 990, position: &position, counts: &counts, cells: &cells, text: &text, points: 5 };
    let mut builder = BlockBuilder::default();
    let stamp = |observed, steady| Stamp { observed, steady };
    builder.push(41, stamp(900, 980), &Record::Clock { offset: NOON, quality: ClockQuality::Synced, boot: 0xb007 });
    builder.push(42, stamp(1000, 1080), &Record::Batch(batch));
    builder.push(43, stamp(1001, 1081), &Record::Tick);
    let counts = DeliveryCounts { delivered: 300, collapsed: 1, rejected: 2, ..DeliveryCounts::default() };
    let upto = Identity { record: 40, ordinal: 200 };
    builder.push(44, stamp(1002, 1082), &Record::Delivered { output: 1, lane: Lane::Results, upto, counts, token: 5 });
    let (meta, bytes) = builder.seal(&table, &["file", "mqtt"], &["influxdb", "http"]);
    (
        BlockMeta { first_record: meta.first_record, records: meta.records, points: meta.points, times: meta.times, inputs: meta.inputs },
        bytes,
    )
}

fn outbox_block() -> OutboxBlock {
    let (mut builder, [room, _], field) = (ChunkBuilder::default(), series(), Arc::<str>::from("temperature_mean"));
    for (ordinal, time) in [(3, NOON), (4, NOON + 60_000_000_000)] {
        builder.point(Identity { record: 39, ordinal }, &room, 0b10);
        builder.field(&field, time, Value::Float(21.375));
    }
    let mut bytes = Vec::new();
    chunk::encode(&builder.finish(), &["influxdb", "http"], &mut CellEncoder::default(), &mut bytes);
    let identity = |ordinal| weir_store::Identity { record: 39, ordinal };
    OutboxBlock { lane: 1, first: identity(3), last: identity(4), points: 2, times: (NOON, NOON + 60_000_000_000), bytes }
}

/// Of one output: alerts up to 38.1, results up to 39.4, token 512, and seven sums.
fn cursors() -> Vec<u8> {
    let mut bytes = vec![1];
    put_u64(&mut bytes, 1);
    put_bytes(&mut bytes, b"http");
    [38, 1, 39, 4, 512, 300, 1, 2, 0, 0, 7, 0].into_iter().for_each(|value| put_u64(&mut bytes, value));
    bytes
}

/// A store as it is written today.
fn written() -> Contents {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let files = RealFiles::open(directory.path()).expect("it opens");
    // Small, so that the journal's file is a single page.
    let (mut store, _) = Store::open(files, &StoreOptions { journal_bytes_max: 16 << 10, new_id: ID }).expect("it opens");
    store.checkpoint(7, 40, &[outbox_block()], b"a state, a state, a state, a state, a state, a state", [0, 0]).expect("made");
    let (meta, bytes) = journal_block();
    store.append(&meta, &bytes).expect("written");
    store.sync().expect("synced");
    store.save_cursors(7, &cursors()).expect("saved");
    let mut written = contents(directory.path());
    written.retain(|name, content| name != "lock" && content.iter().any(|b| *b != 0));
    written
}

fn golden() -> Contents {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/store_cmd/golden");
    if std::env::var_os("WEIR_BLESS").is_some() {
        written().iter().for_each(|(name, content)| fs::write(path.join(name), content).expect("written"));
    }
    contents(&path)
}

/// Header by the table, checksums included; the payload.
fn payload<'b>(block: &'b [u8], magic: &[u8], numbers: &[(&str, u64)]) -> &'b [u8] {
    let of = |what: &str| field(block, "| bytes | header |", what);
    assert_eq!(of("magic"), magic);
    assert_eq!(number(of("CRC-32C of bytes 0..80")), crc(&block[..80]));
    assert_eq!((number(of("compressed")), number(of("store id"))), (0, ID));
    for (what, expected) in numbers {
        assert_eq!(number(of(what)), *expected, "{what}");
    }
    let stored = number(of("bytes of the payload on disk")) as usize;
    assert_eq!(number(of("bytes of the payload before")), stored as u64);
    let payload = &block[84..84 + stored];
    assert_eq!(number(of("CRC-32C of the payload")), crc(payload));
    payload
}

#[test]
fn what_is_written_today_is_what_was_written_for_good() {
    // Which run it is, and so the header's checksum, is no matter of the format.
    let without_run = |mut files: Contents| {
        for (_, block) in files.iter_mut().filter(|(name, _)| name.starts_with("journal-")) {
            block[6..8].fill(0);
            block[80..84].fill(0);
        }
        files
    };
    assert_eq!(without_run(written()), without_run(golden()), "WEIR_BLESS=1 writes it anew: then the format needs another version");
}

#[test]
fn a_journal_block_is_what_the_page_says() {
    let golden = golden();
    let (_, file) = golden.iter().find(|(name, _)| name.starts_with("journal-")).expect("a journal");
    let numbers = [
        ("journal: number of the first", 41),
        ("journal: how many", 4),
        ("journal: records up to here", 40),
        ("points", 5),
        ("least", NOON as u64),
        ("greatest", (NOON + 2_000_000_000) as u64),
        ("inputs", 1),
    ];
    let payload = payload(file, b"WRJ1", &numbers);
    assert!(file.len().is_multiple_of(4096) && file[84 + payload.len()..].iter().all(|b| *b == 0));
    let mut b = Bytes(payload);
    assert_eq!(b.byte(), 1);
    assert_eq!(
        (b.list(Bytes::text), b.list(Bytes::text)),
        (vec!["file".into(), "mqtt".into()], vec!["influxdb".into(), "http".to_owned()])
    );
    let series = b.list(|b| (b.text(), b.tags(), b.varint(), b.text()));
    assert_eq!(
        (series[0].0.as_str(), series[0].1.len(), series[1].0.as_str(), series[1].2, series[1].3.as_str()),
        ("room", 2, "pump", 0, "part")
    );
    let fields = b.list(Bytes::text);
    let records = b.varint();
    let kinds = table("| kind | record | then |");
    let (mut seen, mut observed, mut steady) = (Vec::new(), 0, 0);
    for _ in 0..records {
        let kind = b.byte().to_string();
        observed += b.signed();
        steady += b.signed();
        let row = kinds.iter().find(|r| r[0] == kind).expect("a kind of the page");
        let name = row[1].split([':', ' ', ',']).next().expect("a name").to_owned();
        match name.as_str() {
            "clock" => {
                assert_eq!((b.signed(), b.byte(), number(b.take(8))), (NOON, 2, 0xb007));
            }
            "batch" => {
                assert_eq!((b.varint(), b.signed() + steady), (0, 990));
                let positions = table("| position | what | then |");
                let position = b.byte().to_string();
                assert_eq!(positions.iter().find(|r| r[0] == position).expect("a position of the page")[1], "files");
                let files = b.list(|b| (b.text(), [b.varint(), b.varint(), b.varint(), b.varint()]));
                assert_eq!(files, [("in.lp".to_owned(), [3, 70_000, 512, 9])]);
                assert_eq!((b.varint(), b.varint(), b.varint()), (0b11, 6, 1), "read and refused by parsing");
                let points = b.cells(&fields);
                let expected = [
                    format!("0 {NOON} temperature=21.5 n=-7"),
                    format!("0 {} temperature=21.25 n=12", NOON + 1_000_000_000),
                    format!("1 steady 77 running=true mode=on, über n={}", u64::MAX),
                    format!("0 {} temperature=-0.5 n={}", NOON + 2_000_000_000, i64::MIN),
                    format!("1 {} temperature={}", NOON + 5, std::f64::consts::PI),
                ];
                assert_eq!(points, expected);
            }
            "delivered" => {
                assert_eq!((b.varint(), b.byte(), b.varint(), b.varint()), (1, 1, 40, 200));
                let counts: Vec<u64> = (0..8).map(|_| b.varint()).collect();
                assert_eq!(counts, [300, 1, 2, 0, 0, 0, 0, 5], "seven counts and the token");
            }
            _ => {}
        }
        seen.push((name, observed, steady));
    }
    let seen: Vec<_> = seen.iter().map(|(name, observed, steady)| (name.as_str(), *observed, *steady)).collect();
    assert_eq!(seen, [("clock", 900, 980), ("batch", 1000, 1080), ("tick", 1001, 1081), ("delivered", 1002, 1082)]);
    assert!(b.0.is_empty(), "nothing is left");
}

#[test]
fn an_outbox_block_is_what_the_page_says() {
    let golden = golden();
    let (name, file) = golden.iter().find(|(name, _)| name.starts_with("outbox-")).expect("an outbox");
    assert_eq!(name, "outbox-1-00000000");
    let numbers = [
        ("lane", 1),
        ("journal: number of the first", 39),
        ("journal: how many", 39),
        ("journal: records up to here", 3 | 4 << 32),
        ("points", 2),
        ("inputs", 0),
    ];
    let payload = payload(file, b"WRO1", &numbers);
    assert_eq!(file.len(), 84 + payload.len());
    let mut b = Bytes(payload);
    assert_eq!((b.byte(), b.list(Bytes::text)), (1, vec!["influxdb".into(), "http".to_owned()]));
    let series = b.list(|b| (b.text(), b.tags(), b.varint()));
    assert!(series.iter().all(|s| (s.0.as_str(), s.2) == ("room", 0b10)));
    let fields = b.list(Bytes::text);
    assert_eq!(b.list(|b| (b.varint(), b.varint(), b.varint())), [(0, 39, 3)]);
    let points = b.cells(&fields);
    assert_eq!(points, [format!("0 {NOON} temperature_mean=21.375"), format!("0 {} temperature_mean=21.375", NOON + 60_000_000_000)]);
    assert!(b.0.is_empty());
}

#[test]
fn a_checkpoint_is_what_the_page_says() {
    let golden = golden();
    assert_eq!(number(&golden["id"]), ID);
    let file = &golden["checkpoint-0000000007"];
    let of = |what: &str| field(file, "| bytes | checkpoint |", what);
    assert_eq!((of("magic"), number(of("CRC-32C")), number(of("store id"))), (&b"WRC2"[..], crc(&file[8..]), ID));
    assert_eq!((number(of("number")), number(of("records up to"))), (7, 40));
    assert_eq!((number(of("segment of lane 0")), number(of("segment of lane 1"))), (0, 0));
    let rows = table("| bytes | checkpoint |");
    let ends = rows
        .iter()
        .filter(|r| r[1] == "bytes in it")
        .map(|r| r[0].split_once("..").expect("a range").0.parse::<usize>().expect("a number"));
    let ends: Vec<u64> = ends.map(|at| number(&file[at..at + 8])).collect();
    assert_eq!(ends, [0, golden["outbox-1-00000000"].len() as u64]);
    // The journal's file was made in a run before, of which no checkpoint tells.
    assert_eq!((number(of("bytes written")), number(of("syncs"))), (11 * 4096, 9));
    let state = lz4(of("the state"));
    assert_eq!(state, b"a state, a state, a state, a state, a state, a state");
    assert_eq!(number(of("bytes of the state")), state.len() as u64);
}

#[test]
fn saved_cursors_are_what_the_page_says() {
    let golden = golden();
    let file = &golden["cursors"];
    assert!(file.len() == 2 * (16 << 10) && file[..16 << 10].iter().all(|b| *b == 0), "the first write is in the second slot");
    let slot = &file[16 << 10..];
    let of = |what: &str| field(slot, "| bytes | slot of saved cursors |", what);
    let length = number(of("bytes of the payload")) as usize;
    assert_eq!((of("magic"), number(of("CRC-32C")), number(of("store id"))), (&b"WRD1"[..], crc(&slot[8..36 + length]), ID));
    assert_eq!((number(of("number of the write")), number(of("number of the newest"))), (1, 7));
    let mut b = Bytes(&of("the payload")[..length]);
    assert_eq!(b.byte(), 1);
    let outputs = b.list(|b| (b.text(), [b.varint(), b.varint(), b.varint(), b.varint()], b.varint(), [(); 7].map(|()| b.varint())));
    assert_eq!(outputs, [("http".to_owned(), [38, 1, 39, 4], 512, [300, 1, 2, 0, 0, 7, 0])]);
    assert!(b.0.is_empty());
    // It is what the engine reads.
    let spec = EngineSpec { outputs: vec![OutputSpec { name: "http".into(), ..OutputSpec::default() }], ..EngineSpec::default() };
    let mut core = Core::new(Arc::new(spec), Now { steady: 1, wall: NOON, quality: ClockQuality::Synced });
    let kept = core.set_saved_cursors(&of("the payload")[..length]).expect("it is whole");
    assert!(kept.is_some(), "all of it of records that are not there");
    assert_eq!(core.output_resume(0).token, 512);
}

/// The LZ4 block format: literals and matches.
fn lz4(bytes: &[u8]) -> Vec<u8> {
    let (mut b, mut out) = (Bytes(bytes), Vec::new());
    let length = |b: &mut Bytes<'_>, nibble: u8| {
        let mut length = usize::from(nibble);
        let mut more = if nibble == 15 { 255 } else { 0 };
        while more == 255 {
            more = b.byte();
            length += usize::from(more);
        }
        length
    };
    loop {
        let token = b.byte();
        let literals = length(&mut b, token >> 4);
        out.extend_from_slice(b.take(literals));
        if b.0.is_empty() {
            return out;
        }
        let offset = number(b.take(2)) as usize;
        for _ in 0..length(&mut b, token & 15) + 4 {
            out.push(out[out.len() - offset]);
        }
    }
}
