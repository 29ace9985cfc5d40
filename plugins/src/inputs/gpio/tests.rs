//! The input against a scripted chip; options against the schema.
#![allow(clippy::unwrap_used)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;
use weir_plugin_api::{
    collector::Shape,
    options::{Diagnostics, Item, Node, Place, Section, Table},
    plugin::{BuildContext, Stop, StreamingInput},
    position::Resume,
    testing::{Receiver, collector_with, context},
};

use super::{ENTRY, Mode, run::*};
use crate::gpio::{Bias, Edge, Edges, InputLine, scripted::Script};

fn line(offset: u32, mode: Mode) -> Line {
    let edges = (mode != Mode::Level).then_some(Edges::Both);
    let name = if offset == 17 { "door".to_owned() } else { String::new() };
    Line::new(name, mode, InputLine { offset, active_low: false, bias: Bias::AsIs, debounce: Duration::ZERO, edges })
}

fn edge(offset: u32, rising: bool, at_ns: i64, sequence: u32) -> Edge {
    Edge { offset, rising, at_ns, sequence }
}

struct Running {
    receiver: Receiver,
    stop: Stop,
    task: JoinHandle<bool>,
    lines: Vec<String>,
}

fn start(script: &Script, lines: Vec<Line>, every: Duration) -> Running {
    let (collector, receiver, _clock) = collector_with(Shape::default(), 16);
    let mut context = context(collector, Resume::default());
    let stop = context.stop.clone();
    let mut input = Gpio::new(Box::new(script.clone()), lines, every);
    let task = tokio::spawn(async move { input.run(&mut context).await.is_ok() });
    Running { receiver, stop, task, lines: Vec::new() }
}

/// Longest time anything may take to come true.
const PATIENCE: Duration = Duration::from_secs(60);

impl Running {
    async fn until(&mut self, mut is: impl FnMut(&Self) -> bool) {
        let began = Instant::now();
        loop {
            self.lines.extend(self.receiver.take());
            if is(self) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "waited too long: {:?}", self.lines);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn end(mut self) -> Vec<String> {
        self.stop.request();
        assert!(tokio::time::timeout(PATIENCE, &mut self.task).await.unwrap().unwrap());
        self.lines.extend(self.receiver.take());
        self.lines
    }
}

const NEVER: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn edges_become_points_and_gaps_in_their_numbers_are_lost() {
    let script = Script::new();
    let mut running = start(&script, vec![line(17, Mode::Edge)], NEVER);
    script.change(|world| world.edges.extend([edge(17, true, 10, 1), edge(17, false, 20, 2), edge(17, true, 30, 6)]));
    running.until(|r| r.lines.len() == 3).await;
    assert_eq!(running.receiver.counts.lost_link, 3);
    let lines = running.end().await;
    assert_eq!(lines[0], "gpio,chip=gpiochip0,line=17,name=door level=true,edge=\"rising\",seq=1i,count=1i ?");
    assert_eq!(lines[2], "gpio,chip=gpiochip0,line=17,name=door level=true,edge=\"rising\",seq=6i,count=6i ?");
}

#[tokio::test]
async fn an_edge_has_the_time_the_kernel_saw_it() {
    let script = Script::new();
    script.world().now_ns = 5_000_000;
    let mut running = start(&script, vec![line(17, Mode::Edge)], NEVER);
    script.change(|world| world.edges.push_back(edge(17, true, 4_000_000, 1)));
    let mut time = None;
    let began = Instant::now();
    while time.is_none() && began.elapsed() < PATIENCE {
        tokio::task::yield_now().await;
        time = running.receiver.ring.try_recv().map(|batch| batch.cells[0].time);
    }
    // The clock stands at 1 s steady.
    assert_eq!(time, Some(999_000_000));
}

#[tokio::test]
async fn levels_and_counters_are_published_at_intervals() {
    let script = Script::new();
    script.world().levels.insert(4, true);
    let mut running = start(&script, vec![line(4, Mode::Level), line(5, Mode::Counter)], Duration::from_millis(20));
    running.until(|r| r.lines.len() >= 2).await;
    assert_eq!(running.lines[..2], ["gpio,chip=gpiochip0,line=4 level=true ?", "gpio,chip=gpiochip0,line=5 count=0i ?"]);
    // Lost edges were edges all the same.
    script.change(|world| world.edges.extend([edge(5, true, 1, 1), edge(5, true, 2, 5)]));
    running.until(|r| r.lines.last().is_some_and(|l| l == "gpio,chip=gpiochip0,line=5 count=5i ?")).await;
    assert_eq!(running.receiver.counts.lost_link, 0);
    running.end().await;
}

#[tokio::test]
async fn a_stop_publishes_what_was_counted_since() {
    let script = Script::new();
    let mut running = start(&script, vec![line(5, Mode::Counter)], NEVER);
    running.until(|r| r.lines.len() == 1).await;
    script.world().edges.extend([edge(5, true, 1, 1), edge(5, true, 2, 2)]);
    assert_eq!(running.end().await.last().map(String::as_str), Some("gpio,chip=gpiochip0,line=5 count=2i ?"));
}

#[tokio::test]
async fn a_chip_that_goes_without_a_word_is_requested_again() {
    let script = Script::new();
    let mut running = start(&script, vec![line(17, Mode::Edge)], Duration::from_millis(10));
    running.until(|_| script.world().requests == 1).await;
    script.change(|world| (world.present, world.silent) = (false, true));
    running.until(|_| script.world().requests >= 2).await;
    script.change(|world| {
        (world.present, world.silent) = (true, false);
        world.edges.push_back(edge(17, true, 1, 1));
    });
    running.until(|r| r.lines.last().is_some_and(|l| l.contains("edge=\"rising\""))).await;
    running.end().await;
}

#[tokio::test]
async fn a_chip_that_goes_away_is_requested_again_and_counters_go_on() {
    let script = Script::default();
    let mut running = start(&script, vec![line(5, Mode::Counter)], Duration::from_millis(10));
    running.until(|_| script.world().requests >= 2).await;
    script.change(|world| world.present = true);
    running.until(|r| !r.lines.is_empty()).await;
    script.change(|world| world.edges.push_back(edge(5, true, 1, 1)));
    running.until(|r| r.lines.last().is_some_and(|l| l.contains("count=1i"))).await;
    let before = script.world().requests;
    script.change(|world| world.present = false);
    running.until(|_| script.world().requests > before).await;
    // Requested anew, the line counts its edges from 1.
    script.change(|world| {
        world.present = true;
        world.edges.push_back(edge(5, true, 1, 1));
    });
    running.until(|r| r.lines.last().is_some_and(|l| l.contains("count=2i"))).await;
    running.end().await;
}

#[tokio::test]
async fn a_line_another_process_holds_costs_only_itself_and_is_read_once_it_is_free() {
    let script = Script::new();
    script.change(|world| {
        world.taken.insert(4);
        world.levels.insert(4, true);
        // Of two requests, so not in their order.
        world.edges.extend([edge(17, true, 20, 1), edge(17, false, 30, 2)]);
    });
    let lines = vec![line(17, Mode::Edge), line(4, Mode::Level), line(5, Mode::Counter)];
    let mut running = start(&script, lines, Duration::from_millis(10));
    running.until(|r| r.lines.iter().filter(|l| l.contains("line=17")).count() == 2).await;
    running.until(|r| r.lines.iter().filter(|l| l.contains("line=5 count=0i")).count() >= 2).await;
    assert!(!running.lines.iter().any(|l| l.contains("line=4 ")), "{:?}", running.lines);
    script.world().taken.clear();
    running
        .until(|r| r.lines.last().is_some_and(|l| l.contains("line=5")) && r.lines.iter().any(|l| l.contains("line=4 level=true")))
        .await;
    assert_eq!(running.receiver.counts.lost_link, 0, "the others' requests were left alone");
    running.end().await;
}

fn table(entries: &[(&str, Item)]) -> Table {
    let node = |item: &Item| Node { place: Place::default(), item: item.clone(), secret: false };
    Table { entries: entries.iter().map(|(k, v)| ((*k).to_owned(), Place::default(), node(v))).collect() }
}

fn build(table: &Table) -> (Option<Vec<String>>, Vec<String>) {
    let diagnostics = Diagnostics::default();
    let section = Section::new("inputs.gpio", table, Place::default(), &diagnostics);
    let build = BuildContext {
        name: "gpio".into(),
        interval: Duration::from_secs(10),
        internal: Arc::new(Vec::new),
        directory: std::path::PathBuf::new(),
    };
    let built = (ENTRY.build)(&section, &build);
    section.finish(ENTRY.unsupported);
    (built.map(|b| b.claims), diagnostics.take().into_iter().map(|d| d.message).collect())
}

#[test]
fn each_line_is_claimed_and_a_line_named_twice_is_refused() {
    let line = |offset| Node { place: Place::default(), item: Item::Table(table(&[("offset", Item::Int(offset))])), secret: false };
    let with = |offsets: &[i64]| {
        table(&[("chip", Item::Text("gpiochip9".into())), ("line", Item::Array(offsets.iter().map(|o| line(*o)).collect()))])
    };
    let (claims, messages) = build(&with(&[3, 4]));
    assert_eq!((claims.unwrap(), messages), (vec!["gpio:/dev/gpiochip9:3".to_owned(), "gpio:/dev/gpiochip9:4".to_owned()], vec![]));
    let (claims, messages) = build(&with(&[3, 3]));
    assert!(claims.is_none() && messages.len() == 1 && messages[0].contains("named twice"), "{messages:?}");
    let (claims, messages) = build(&with(&[]));
    assert!(claims.is_none() && messages.len() == 1, "{messages:?}");
}
