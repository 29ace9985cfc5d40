//! Options in, points out.
#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use weir_plugin_api::{
    collector::Shape,
    options::{Diagnostics, Item, Node, Place, Section, Table},
    plugin::{AnyInput, BuildContext},
    position::{Position, Resume},
    testing::{Receiver, collector_with, context},
};

use super::ENTRY;

fn node(item: Item) -> Node {
    Node { place: Place::default(), item, secret: false }
}

fn table(entries: &[(&str, Item)]) -> Table {
    Table { entries: entries.iter().map(|(k, v)| ((*k).to_owned(), Place::default(), node(v.clone()))).collect() }
}

fn tables(of: &[&[(&str, Item)]]) -> Item {
    Item::Array(of.iter().map(|t| node(Item::Table(table(t)))).collect())
}

fn text(text: &str) -> Item {
    Item::Text(text.into())
}

fn build(entries: &[(&str, Item)]) -> Result<AnyInput, Vec<String>> {
    let table = table(entries);
    let diagnostics = Diagnostics::default();
    let section = Section::new("inputs.mock", &table, Place::default(), &diagnostics);
    let build = BuildContext {
        name: "mock".into(),
        interval: Duration::from_secs(10),
        internal: Arc::new(Vec::new),
        directory: std::path::PathBuf::new(),
    };
    let built = (ENTRY.build)(&section, &build);
    section.finish(ENTRY.unsupported);
    let messages: Vec<String> = diagnostics.take().into_iter().map(|d| d.message).collect();
    built.filter(|_| messages.is_empty()).map(|b| b.input).ok_or(messages)
}

/// The points of so many gathers.
async fn gather(entries: &[(&str, Item)], gathers: usize) -> (Vec<String>, Receiver) {
    let Ok(AnyInput::Polled(mut input)) = build(entries) else { panic!("it builds as a polled input") };
    let (collector, mut receiver, _clock) = collector_with(Shape::default(), 16);
    let mut context = context(collector, Resume::default());
    let mut lines = Vec::new();
    for _ in 0..gathers {
        input.gather(&mut context).await.unwrap();
        context.collector.try_flush(Position::None).unwrap();
        lines.extend(receiver.take());
    }
    (lines, receiver)
}

#[tokio::test]
async fn telegrafs_generators_count_gathers() {
    let options = [
        ("metric_name", text("plant")),
        ("step", tables(&[&[("name", text("n")), ("start", Item::Float(5.0)), ("step", Item::Float(2.0))]])),
        ("constant", tables(&[&[("name", text("ok")), ("value", Item::Bool(true))], &[("name", text("i")), ("value", Item::Int(7))]])),
        ("sine_wave", tables(&[&[("name", text("s")), ("period", Item::Float(0.5)), ("base_line", Item::Float(1.0))]])),
    ];
    let (lines, _) = gather(&options, 3).await;
    assert_eq!(lines[0], "plant ok=true,i=7i,s=1,n=5 ?");
    assert_eq!(lines[1], "plant ok=true,i=7i,s=2,n=7 ?");
    assert!(lines[2].ends_with(",n=9 ?"), "{}", lines[2]);
}

#[tokio::test]
async fn a_seed_decides_everything() {
    let options = |seed| {
        [
            ("metric_name", text("m")),
            ("seed", Item::Int(seed)),
            ("devices", Item::Int(2)),
            ("gap_probability", Item::Float(0.3)),
            ("random", tables(&[&[("name", text("r"))]])),
            ("walk", tables(&[&[("name", text("w"))]])),
            ("stock", tables(&[&[("name", text("p"))]])),
        ]
    };
    let (first, _) = gather(&options(1), 50).await;
    let (again, _) = gather(&options(1), 50).await;
    let (other, _) = gather(&options(2), 50).await;
    assert_eq!(first, again);
    assert_ne!(first, other);
    assert!((40..100).contains(&first.len()), "gaps: {}", first.len());
    assert!(first.iter().any(|l| l.starts_with("m,device=mock-1 ")) && first.iter().any(|l| l.starts_with("m,device=mock-2 ")));
}

#[tokio::test]
async fn waves_go_by_time_and_points_are_spread_over_the_interval() {
    let options = [
        ("metric_name", text("m")),
        ("points_per_interval", Item::Int(4)),
        ("sawtooth", tables(&[&[("name", text("saw")), ("max", Item::Float(40.0)), ("period", text("10s"))]])),
        ("square", tables(&[&[("name", text("sq")), ("period", text("5s"))]])),
    ];
    let (lines, _) = gather(&options, 1).await;
    assert_eq!(lines, ["m sq=1,saw=0 ?", "m sq=0,saw=10 ?", "m sq=1,saw=20 ?", "m sq=0,saw=30 ?"]);
    let Ok(AnyInput::Polled(mut input)) = build(&options) else { panic!("it builds as a polled input") };
    let (collector, mut receiver, clock) = collector_with(Shape::default(), 16);
    clock.advance(100_000_000_000);
    let mut context = context(collector, Resume::default());
    input.gather(&mut context).await.unwrap();
    context.collector.try_flush(Position::None).unwrap();
    let batch = receiver.ring.try_recv().unwrap();
    let times: Vec<i64> = batch.cells.iter().filter(|c| c.starts_point()).map(|c| c.time / 1_000_000).collect();
    assert_eq!(times, [93_500, 96_000, 98_500, 101_000]);
}

#[tokio::test]
async fn faults_stick_and_stand_out() {
    let options = [
        ("metric_name", text("m")),
        ("stuck_probability", Item::Float(1.0)),
        ("stuck_points", Item::Int(2)),
        ("step", tables(&[&[("name", text("n"))]])),
    ];
    let (lines, _) = gather(&options, 6).await;
    assert_eq!(lines, ["m n=0 ?", "m n=0 ?", "m n=0 ?", "m n=3 ?", "m n=3 ?", "m n=3 ?"]);
    let options = [
        ("metric_name", text("m")),
        ("outlier_probability", Item::Float(1.0)),
        ("outlier_factor", Item::Float(-2.0)),
        ("step", tables(&[&[("name", text("n")), ("start", Item::Float(1.0))]])),
    ];
    assert_eq!(gather(&options, 2).await.0, ["m n=-2 ?", "m n=-4 ?"]);
}

#[tokio::test]
async fn more_points_than_a_batch_holds_go_out_in_several() {
    let options = [("metric_name", text("m")), ("points_per_interval", Item::Int(3000)), ("noise", tables(&[&[("name", text("n"))]]))];
    let (lines, receiver) = gather(&options, 1).await;
    assert_eq!((lines.len(), receiver.counts.read, receiver.counts.dropped_ring_full), (3000, 3000, 0));
}

#[test]
fn what_is_wrong_is_said_all_at_once() {
    let Err(messages) = build(&[
        ("metric_name", text("m")),
        ("gap_probability", Item::Float(1.5)),
        ("step", tables(&[&[("name", text("n"))], &[("name", text("n")), ("stpe", Item::Float(1.0))]])),
    ]) else {
        panic!("it is refused")
    };
    assert_eq!(messages.len(), 3, "{messages:?}");
    assert!(build(&[("metric_name", text("m"))]).is_err());
}
