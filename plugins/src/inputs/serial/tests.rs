//! The input on real pseudo-terminals.
#![allow(clippy::unwrap_used)]
// The device at the far side needs more of the scaffold than lines do.
#![cfg_attr(not(feature = "codec-frame"), allow(dead_code, unused_imports))]

use std::{
    fs::File,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};
use tokio::task::JoinHandle;
use weir_plugin_api::{
    collector::{Collector, Shape},
    plugin::{Decoder, Stop, StreamingInput},
    position::{Position, Resume},
    testing::{FixedClock, Receiver, collector_with, context},
};

use super::{framing::*, port::Settings, run::*};

/// The far side of a pseudo-terminal. It keeps the near side open too, so that what is written early waits there.
struct Pty {
    far: File,
    _near: File,
    path: PathBuf,
}

impl Pty {
    fn open() -> Self {
        let far = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&far).unwrap();
        unlockpt(&far).unwrap();
        let path = PathBuf::from(ptsname(&far, Vec::new()).unwrap().into_string().unwrap());
        let near = File::options().read(true).write(true).open(&path).unwrap();
        let mut settings = tcgetattr(&near).unwrap();
        settings.make_raw();
        tcsetattr(&near, OptionalActions::Now, &settings).unwrap();
        rustix::io::ioctl_fionbio(&far, true).unwrap();
        Self { far: far.into(), _near: near, path }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.far.write_all(bytes).unwrap();
    }

    fn read(&mut self) -> Vec<u8> {
        let mut bytes = [0; 1024];
        let len = self.far.read(&mut bytes).unwrap_or(0);
        bytes[..len].to_vec()
    }
}

/// A point `m text="…"` per payload.
struct Texts;

impl Decoder for Texts {
    fn decode(&mut self, bytes: &[u8], out: &mut Collector) -> usize {
        out.point("m", &[], None).field("text", String::from_utf8_lossy(bytes).as_ref());
        bytes.len()
    }
}

struct Running {
    receiver: Receiver,
    clock: Arc<FixedClock>,
    stop: Stop,
    flushed: Stop,
    drained: Stop,
    task: JoinHandle<bool>,
}

fn start(path: &Path, reading: Reading, resume: Resume) -> Running {
    let settings = Settings {
        path: path.to_str().unwrap().into(),
        baud_rate: 115_200,
        data_bits: tokio_serial::DataBits::Eight,
        parity: tokio_serial::Parity::None,
        stop_bits: tokio_serial::StopBits::One,
        flow_control: tokio_serial::FlowControl::None,
        exclusive: true,
    };
    let (collector, receiver, clock) = collector_with(Shape::default(), 16);
    let mut context = context(collector, resume);
    let (stop, flushed, drained) = (context.stop.clone(), context.flushed.clone(), context.drained.clone());
    let mut input = Serial::new(settings, reading);
    let task = tokio::spawn(async move { input.run(&mut context).await.is_ok() });
    Running { receiver, clock, stop, flushed, drained, task }
}

fn pieces(rule: Rule) -> Reading {
    Reading::pieces(Splitter::new(rule, 64), Box::new(Texts), Duration::from_millis(20), false)
}

/// Longest time anything may take to come true.
const PATIENCE: Duration = Duration::from_secs(60);

impl Running {
    /// Waits for that many more points.
    async fn points(&mut self, count: usize) -> Vec<String> {
        let mut points = Vec::new();
        until(|| {
            points.extend(self.receiver.take());
            points.len() >= count
        })
        .await;
        points
    }

    async fn end(self) {
        self.stop.request();
        self.drained.request();
        assert!(tokio::time::timeout(PATIENCE, self.task).await.unwrap().unwrap());
    }
}

async fn until(mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < PATIENCE, "waited too long");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn lines_become_points_and_one_too_long_only_itself_is_refused() {
    let mut pty = Pty::open();
    let mut running = start(&pty.path, pieces(Rule::Line), Resume::default());
    pty.write(b"one\r\ntw");
    assert_eq!(running.points(1).await, ["m text=\"one\" ?"]);
    pty.write(b"o\n");
    assert_eq!(running.points(1).await, ["m text=\"two\" ?"]);
    pty.write(&[b'x'; 100]);
    pty.write(b"\nthree\n");
    assert_eq!(running.points(1).await, ["m text=\"three\" ?"]);
    let counts = running.receiver.counts;
    assert_eq!((counts.read, counts.refused_size), (4, 1));
    running.end().await;
}

#[tokio::test]
async fn delimiters_and_fixed_lengths_part_the_stream() {
    let mut pty = Pty::open();
    let mut running = start(&pty.path, pieces(Rule::Delimiter(vec![0xaa, 0x55])), Resume::default());
    pty.write(b"one\xaa\x55two\xaa\x55");
    assert_eq!(running.points(2).await, ["m text=\"one\" ?", "m text=\"two\" ?"]);
    running.end().await;
    let mut pty = Pty::open();
    let mut running = start(&pty.path, pieces(Rule::Fixed(4)), Resume::default());
    pty.write(b"abcdefghij");
    assert_eq!(running.points(2).await, ["m text=\"abcd\" ?", "m text=\"efgh\" ?"]);
    // Half a payload and a pause: refused, and the next one is whole again.
    until(|| {
        running.receiver.take();
        running.receiver.counts.refused_frame == 1
    })
    .await;
    pty.write(b"klmn");
    assert_eq!(running.points(1).await, ["m text=\"klmn\" ?"]);
    running.end().await;
}

#[tokio::test]
async fn a_pause_ends_a_payload() {
    let mut pty = Pty::open();
    let mut running = start(&pty.path, pieces(Rule::Idle), Resume::default());
    pty.write(b"one");
    assert_eq!(running.points(1).await, ["m text=\"one\" ?"]);
    pty.write(b"two");
    assert_eq!(running.points(1).await, ["m text=\"two\" ?"]);
    running.end().await;
}

#[tokio::test]
async fn a_port_that_is_pulled_out_is_read_again_when_it_is_back() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("ttyUSB0");
    let mut running = start(&link, pieces(Rule::Line), Resume::default());
    let mut pty = Pty::open();
    std::os::unix::fs::symlink(&pty.path, &link).unwrap();
    pty.write(b"one\nhalf a li");
    assert_eq!(running.points(1).await, ["m text=\"one\" ?"]);
    std::fs::remove_file(&link).unwrap();
    drop(pty);
    let mut pty = Pty::open();
    std::os::unix::fs::symlink(&pty.path, &link).unwrap();
    pty.write(b"two\n");
    assert_eq!(running.points(1).await, ["m text=\"two\" ?"]);
    assert_eq!(running.receiver.counts.refused_frame, 1, "the half line is counted, not joined with what comes later");
    // What is half there at a stop is lost as well.
    pty.write(b"three\nhal");
    assert_eq!(running.points(1).await, ["m text=\"three\" ?"]);
    running.stop.request();
    until(|| {
        running.receiver.take();
        running.receiver.counts.refused_frame == 2
    })
    .await;
    running.end().await;
}

#[tokio::test]
async fn noise_of_a_wrong_baud_rate_costs_counts_and_no_memory() {
    let mut pty = Pty::open();
    let mut running = start(&pty.path, pieces(Rule::Line), Resume::default());
    for i in 0..200u32 {
        let noise: Vec<u8> = (0..100).map(|j| (i * 31 + j * 7) as u8 | 0x80).collect();
        let mut rest = &noise[..];
        until(|| {
            rest = &rest[pty.far.write(rest).unwrap_or(0)..];
            rest.is_empty()
        })
        .await;
    }
    pty.write(b"\nfine\n");
    assert_eq!(running.points(1).await, ["m text=\"fine\" ?"]);
    assert_eq!(running.receiver.counts.refused_size, 1);
    running.end().await;
}

/// What a wrong baud rate gives, for every codec of text: bytes of any value, in pieces of any length.
#[cfg(all(feature = "codec-influx", feature = "codec-json", feature = "codec-csv", feature = "codec-value"))]
#[tokio::test]
async fn noise_reaches_every_codec_and_good_lines_after_it_are_read() {
    use crate::codecs;
    use weir_plugin_api::options::{Diagnostics, Item, Node, Place, Section, Table};
    let node = |item| Node { place: Place::default(), item, secret: false };
    let text = |text: &str| node(Item::Text(text.into()));
    for (format, good) in [("influx", "m v=7"), ("json", r#"{"v":7}"#), ("csv", "7"), ("value", "7")] {
        let mut entries = vec![("data_format", text(format))];
        match format {
            "csv" => entries.push(("csv_column_names", node(Item::Array(vec![text("v")])))),
            "value" => entries.push(("data_type", text("float"))),
            _ => {}
        }
        let entries = entries.into_iter().map(|(key, node)| (key.to_owned(), Place::default(), node)).collect();
        let (table, diagnostics) = (Table { entries }, Diagnostics::default());
        let decoder = codecs::decoder(&Section::new("inputs.serial", &table, Place::default(), &diagnostics)).unwrap();
        let mut pty = Pty::open();
        let reading = Reading::pieces(Splitter::new(Rule::Line, 64), decoder, Duration::from_millis(20), false);
        let mut running = start(&pty.path, reading, Resume::default());
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..200 {
            let noise: Vec<u8> = std::iter::repeat_with(|| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // More ends of lines than chance has, or hardly a codec would see anything.
                if random >> 40 & 31 == 0 { b'\n' } else { (random >> 56) as u8 }
            })
            .take(100)
            .collect();
            let mut rest = &noise[..];
            until(|| {
                running.receiver.take();
                rest = &rest[pty.far.write(rest).unwrap_or(0)..];
                rest.is_empty()
            })
            .await;
        }
        pty.write(format!("\n{good}\n").as_bytes());
        until(|| running.receiver.take().iter().any(|line| line.contains("=7 ") || line.contains("=7i "))).await;
        let counts = running.receiver.counts;
        assert!(counts.not_recorded() > 100 || format == "csv", "{format}: {counts:?}");
        assert!(counts.read >= counts.not_recorded() && counts.read > 100, "{format}: {counts:?}");
        running.end().await;
    }
}

#[cfg(feature = "codec-frame")]
mod frames {
    use weir_firmware_shim::{
        frame::{Field, FieldKind, Value, WIRE_MAX},
        link::{Device, Schema, Start},
    };

    use super::{super::link::Link, *};

    const FIELDS: [Field<'static>; 2] =
        [Field { name: "temperature", kind: FieldKind::Scaled(-2) }, Field { name: "door", kind: FieldKind::Bool }];
    const SCHEMA: Schema<'static> = Schema { device: "shed", measurement: "climate", fields: &FIELDS };

    /// A microcontroller at the far side.
    struct Board {
        pty: Pty,
        device: Device<'static, 64, 2>,
        began: Instant,
    }

    impl Board {
        fn new(nonce: u32) -> Self {
            Self {
                pty: Pty::open(),
                device: Device::new(SCHEMA, Start::Nonce(nonce), Box::leak(Box::default())).unwrap(),
                began: Instant::now(),
            }
        }

        fn read(&mut self, hundredths: i64, age_us: u64) {
            let now = self.now() + 10_000_000;
            self.device.push(now - age_us, &[Some(Value::Scaled(hundredths)), Some(Value::Bool(true))]).unwrap();
        }

        fn now(&self) -> u64 {
            self.began.elapsed().as_micros() as u64
        }

        fn pump(&mut self) {
            let now = self.now() + 10_000_000;
            self.pty.read().iter().for_each(|b| self.device.receive(*b, now));
            let mut frame = [0; WIRE_MAX];
            loop {
                let len = self.device.poll(self.now() + 10_000_000, &mut frame);
                if len == 0 {
                    return;
                }
                self.pty.write(&frame[..len]);
            }
        }
    }

    fn frames() -> Reading {
        Reading::Frames(Box::new(Link::new("device".into())))
    }

    async fn points(running: &mut Running, board: &mut Board, count: usize) -> Vec<String> {
        let mut points = Vec::new();
        until(|| {
            board.pump();
            points.extend(running.receiver.take());
            points.len() >= count
        })
        .await;
        points
    }

    #[tokio::test]
    async fn the_device_keeps_its_readings_until_the_core_has_them() {
        let mut board = Board::new(9);
        let mut running = start(&board.pty.path, frames(), Resume::default());
        running.receiver.acknowledge = false;
        board.read(2153, 0);
        board.read(2154, 0);
        let got = points(&mut running, &mut board, 2).await;
        assert_eq!(got, ["climate,device=shed temperature=21.53,door=true ?", "climate,device=shed temperature=21.54,door=true ?"]);
        assert_eq!(board.device.waiting(), 2);
        assert_eq!(running.receiver.positions.last(), Some(&Position::Sequence { nonce: 9, sequence: 2 }));
        running.receiver.ring.acknowledge(u64::MAX);
        until(|| {
            board.pump();
            board.device.waiting() == 0
        })
        .await;
        running.end().await;
    }

    #[tokio::test]
    async fn readings_sent_again_after_a_restart_are_duplicates() {
        let mut board = Board::new(9);
        let mut running = start(&board.pty.path, frames(), Resume::default());
        running.receiver.acknowledge = false;
        (0..3).for_each(|i| board.read(i, 0));
        assert_eq!(points(&mut running, &mut board, 3).await.len(), 3);
        // The core has made two of them durable and dies before it can say so.
        running.task.abort();
        let _ = running.task.await;
        let resume = Resume { sequence: Some((9, 2)), ..Resume::default() };
        let mut running = start(&board.pty.path, frames(), resume);
        assert_eq!(points(&mut running, &mut board, 1).await, ["climate,device=shed temperature=0.02,door=true ?"]);
        until(|| {
            board.pump();
            board.device.waiting() == 0
        })
        .await;
        let counts = running.receiver.counts;
        // The acknowledgement at the start may free them before they are sent again.
        assert!(counts.duplicate <= 2 && counts.read == 1 + counts.duplicate && counts.lost_link == 0, "{counts:?}");
        running.end().await;
    }

    #[tokio::test]
    async fn a_reading_has_the_time_it_was_taken_at() {
        let mut board = Board::new(9);
        let running = start(&board.pty.path, frames(), Resume::default());
        let Running { mut receiver, clock, stop, drained, task, .. } = running;
        let begun = Instant::now();
        board.read(1, 200_000);
        let mut age = None;
        until(|| {
            board.pump();
            let Some(batch) = receiver.ring.try_recv() else { return false };
            if let Some(cell) = batch.cells.first() {
                age = Some(weir_plugin_api::time::Clock::steady(clock.as_ref()) - cell.time);
                assert!(cell.is_untimed());
            }
            receiver.ring.recycle(batch);
            age.is_some()
        })
        .await;
        // It has grown older on its way, by a millisecond more at most than that took.
        let most = 201_000_000 + begun.elapsed().as_nanos() as i64;
        assert!((200_000_000..=most).contains(&age.unwrap()), "{age:?}, at most {most}");
        stop.request();
        drained.request();
        assert!(task.await.unwrap());
    }

    #[tokio::test]
    async fn what_a_device_dropped_while_we_were_away_is_counted_as_lost() {
        let mut board = Board::new(9);
        (0..70).for_each(|i| board.read(i, 0));
        let mut running = start(&board.pty.path, frames(), Resume::default());
        assert_eq!(points(&mut running, &mut board, 64).await.len(), 64);
        assert_eq!((running.receiver.counts.lost_link, board.device.dropped()), (6, 6));
        running.end().await;
    }

    #[tokio::test]
    async fn damage_on_the_line_is_refused_and_repaired() {
        let mut board = Board::new(9);
        let mut running = start(&board.pty.path, frames(), Resume::default());
        board.read(1, 0);
        points(&mut running, &mut board, 1).await;
        board.pty.write(b"\x05noise that is no frame\0");
        board.read(2, 0);
        assert_eq!(points(&mut running, &mut board, 1).await, ["climate,device=shed temperature=0.02,door=true ?"]);
        assert_eq!(running.receiver.counts.refused_frame, 1);
        running.end().await;
    }

    #[tokio::test]
    async fn a_frame_is_refused_with_its_reason_and_the_next_one_is_read() {
        use weir_firmware_shim::frame::{cobs, crc::crc32c};
        let sealed = |body: &[u8]| {
            let body = [body, &crc32c(body).to_le_bytes()].concat();
            let mut frame = [0; WIRE_MAX];
            let len = cobs::encode(&body, &mut frame).unwrap();
            frame[..=len].to_vec()
        };
        let mut board = Board::new(9);
        let mut running = start(&board.pty.path, frames(), Resume::default());
        board.read(1, 0);
        points(&mut running, &mut board, 1).await;
        // Of the version before, longer than a frame can be, and of a type nobody knows.
        board.pty.write(&sealed(&[1, 4]));
        board.pty.write(&[vec![7; 300], vec![0]].concat());
        board.pty.write(&sealed(&[2, 99]));
        board.read(2, 0);
        points(&mut running, &mut board, 1).await;
        let counts = running.receiver.counts;
        assert_eq!((counts.refused_frame, counts.refused_size, counts.refused_parse, counts.lost_link), (1, 1, 1, 0));
        running.end().await;
    }

    #[tokio::test]
    async fn a_minute_of_noise_at_115200_baud_costs_only_counts() {
        let mut board = Board::new(9);
        let mut running = start(&board.pty.path, frames(), Resume::default());
        board.read(1, 0);
        points(&mut running, &mut board, 1).await;
        // Ten bits a byte: 691,200 bytes.
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut refused = 0;
        for _ in 0..60 * 115_200 / 10 / 1024 {
            let noise: Vec<u8> = std::iter::repeat_with(|| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 56) as u8
            })
            .take(1024)
            .collect();
            refused += noise.windows(2).filter(|pair| pair[0] != 0 && pair[1] == 0).count() as u64;
            let mut rest = &noise[..];
            until(|| {
                assert_eq!(running.receiver.take(), Vec::<String>::new(), "noise is no reading");
                rest = &rest[board.pty.far.write(rest).unwrap_or(0)..];
                rest.is_empty()
            })
            .await;
        }
        board.pty.write(&[0]);
        board.read(2, 0);
        points(&mut running, &mut board, 1).await;
        let counts = running.receiver.counts;
        let counted = counts.refused_frame + counts.refused_size + counts.refused_parse;
        assert!(counts.refused_frame > 0 && counts.refused_size > 0, "{counts:?}");
        // A zero that is the first byte of a piece ends a frame too.
        assert!((refused..refused + 700).contains(&counted), "{refused} ended: {counts:?}");
        assert_eq!(counts.lost_link, 0);
        running.end().await;
    }

    #[tokio::test]
    async fn a_fault_of_a_sensor_is_a_point_of_its_own() {
        use weir_firmware_shim::fault::Fault;
        let mut board = Board::new(9);
        let mut running = start(&board.pty.path, frames(), Resume::default());
        let now = board.now() + 10_000_000;
        let power_on = Some(Value::Fault(Fault::PowerOn));
        board.device.push(now, &[power_on, Some(Value::Bool(true))]).unwrap();
        board.device.push(now, &[Some(Value::Fault(Fault::None)), None]).unwrap();
        let got = points(&mut running, &mut board, 3).await;
        assert_eq!(
            got,
            [
                "climate,device=shed door=true ?",
                "climate_fault,device=shed,field=temperature fault=\"power_on_value\",code=5i ?",
                "climate_fault,device=shed,field=temperature fault=\"none\",code=0i ?",
            ]
        );
        assert_eq!(running.receiver.counts.refused_parse, 0);
        running.end().await;
    }

    #[tokio::test]
    async fn a_device_that_knows_the_time_is_right_about_it_on_a_slow_line() {
        let mut board = Board::new(9);
        let mut running = start(&board.pty.path, frames(), Resume::default());
        until(|| {
            board.pump();
            board.device.time().offset().is_some()
        })
        .await;
        board.pump();
        let now = board.now() + 10_000_000;
        let taken = board.device.time().offset().unwrap().at_gateway(now);
        board.device.push(now, &[None, Some(Value::Bool(true))]).unwrap();
        let mut frame = [0; WIRE_MAX];
        let len = board.device.poll(now, &mut frame);
        // Three seconds on the line.
        running.clock.advance(3 * weir_plugin_api::time::SECOND);
        board.pty.write(&frame[..len]);
        let mut time = None;
        until(|| {
            let Some(batch) = running.receiver.ring.try_recv() else { return false };
            time = batch.cells.first().map(|cell| cell.time);
            running.receiver.ring.recycle(batch);
            time.is_some()
        })
        .await;
        assert_eq!(time, Some(taken as i64 * 1000));
        running.end().await;
    }

    #[tokio::test]
    async fn a_stop_still_acknowledges_what_becomes_durable_until_it_is_drained() {
        let mut board = Board::new(9);
        let mut running = start(&board.pty.path, frames(), Resume::default());
        running.receiver.acknowledge = false;
        board.read(1, 0);
        points(&mut running, &mut board, 1).await;
        running.stop.request();
        until(|| running.flushed.is_requested()).await;
        assert_eq!(board.device.waiting(), 1);
        running.receiver.ring.acknowledge(u64::MAX);
        until(|| {
            board.pump();
            board.device.waiting() == 0
        })
        .await;
        running.end().await;
    }

    #[tokio::test]
    async fn a_device_that_boots_anew_starts_a_new_row_of_numbers() {
        let mut board = Board::new(9);
        let mut running = start(&board.pty.path, frames(), Resume::default());
        board.read(1, 0);
        points(&mut running, &mut board, 1).await;
        board.device = Device::new(SCHEMA, Start::Nonce(10), Box::leak(Box::default())).unwrap();
        board.read(5, 0);
        assert_eq!(points(&mut running, &mut board, 1).await, ["climate,device=shed temperature=0.05,door=true ?"]);
        assert_eq!(running.receiver.positions.last(), Some(&Position::Sequence { nonce: 10, sequence: 1 }));
        assert_eq!(running.receiver.counts.lost_link, 0);
        running.end().await;
    }

    #[tokio::test]
    async fn a_device_that_boots_under_its_old_nonce_loses_nothing_to_the_acknowledgements_of_its_life_before() {
        let mut board = Board::new(9);
        let mut running = start(&board.pty.path, frames(), Resume::default());
        for value in 1..=3 {
            board.read(value, 0);
            points(&mut running, &mut board, 1).await;
            until(|| {
                board.pump();
                board.device.waiting() == 0
            })
            .await;
        }
        running.receiver.acknowledge = false;
        board.device = Device::new(SCHEMA, Start::Nonce(9), Box::leak(Box::default())).unwrap();
        board.read(5, 0);
        assert_eq!(points(&mut running, &mut board, 1).await, ["climate,device=shed temperature=0.05,door=true ?"]);
        assert_eq!(board.device.waiting(), 1, "it is not durable yet");
        assert_eq!(running.receiver.positions.last(), Some(&Position::Sequence { nonce: 9, sequence: 1 }));
        running.receiver.ring.acknowledge(u64::MAX);
        until(|| {
            board.pump();
            board.device.waiting() == 0
        })
        .await;
        running.end().await;
    }
}
