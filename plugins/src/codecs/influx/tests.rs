//! What the line protocol codec promises: documented examples, hostile bytes, round trips, any cut into batches.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;
use weir_plugin_api::{
    Identity, Position, Value,
    batch::Batch,
    chunk::{Chunk, ChunkBuilder},
    plugin::{Decoder, Encoder},
    series::Series,
    testing,
};

use super::*;

fn read(text: &str) -> (Vec<String>, Vec<String>) {
    testing::decode(&mut InfluxDecoder::default(), text.as_bytes())
}

#[test]
fn documented_lines_read_as_documented() {
    for (line, expected) in [
        (
            "weather,location=us-midwest temperature=82 1465839830100400200",
            "weather,location=us-midwest temperature=82 1465839830100400200",
        ),
        ("weather temperature=82", "weather temperature=82 ?"),
        ("weather a=82i,b=3u,c=1e3,d=-1.5E-2,e=.5 1", "weather a=82i,b=3u,c=1000,d=-0.015,e=0.5 1"),
        (
            "w a=t,b=T,c=true,d=True,e=TRUE,f=f,g=F,h=false,i=False,j=FALSE -7",
            "w a=true,b=true,c=true,d=true,e=true,f=false,g=false,h=false,i=false,j=false -7",
        ),
        ("wea\\,ther,loc\\ ation=us\\,mid\\=west temp\\=erature=82", "wea\\,ther,loc\\ ation=us\\,mid\\=west temp=erature=82 ?"),
        (
            "weather,location=us\\ midwest t=\"too \\\"hot\\\" \\\\ x\\y, = z\" 5",
            "weather,location=us\\ midwest t=\"too \\\"hot\\\" \\\\ x\\\\y, = z\" 5",
        ),
        ("w t=\"two\nlines\"\nv x=1", "w t=\"two\\nlines\" ?|v x=1 ?"),
        ("  # a comment, and=more\n\n\r\nw x=1 5\r\nw x=2 6  \r\n", "w x=1 5|w x=2 6"),
        ("w,b=2,a=1 x=1", "w,a=1,b=2 x=1 ?"),
        ("w x=1,x=2 3", "w x=2 3"),
        ("w,path=C:\\dir x=1", "w,path=C:\\dir x=1 ?"),
    ] {
        let (lines, _) = read(line);
        assert_eq!(lines.join("|"), expected, "{line}");
    }
}

#[test]
fn a_bad_line_is_refused_with_its_number_and_costs_only_itself() {
    for bad in [
        "w",
        "w ",
        ",a=b x=1",
        "w, x=1",
        "w,a x=1",
        "w,a= x=1",
        "w,=b x=1",
        "w,a=b,a=c x=1",
        "w,a=b=c x=1",
        "w =1",
        "w x",
        "w x=",
        "w x=,y=1",
        "w x=nan",
        "w x=NaN",
        "w x=inf",
        "w x=-Inf",
        "w x=1e999",
        "w x=1ii",
        "w x=1.5i",
        "w x=-1u",
        "w x=9223372036854775808i",
        "w x=truely",
        "w x=\"open",
        "w x=\"a\"b",
        "w x=1 soon",
        "w x=1 1.5",
        "w x=1 9223372036854775808",
        "w x=1, 5",
        "w x=1 5 6",
        "w x=0x10",
        "w x=1 5,y=2",
        "w x=\"open\\",
    ] {
        let (lines, refused) = read(&format!("a b=1 1\n{bad}\na b=2 2\n"));
        assert_eq!(lines, ["a b=1 1", "a b=2 2"], "{bad}");
        assert_eq!(refused.len(), 1, "{bad}: {refused:?}");
        assert!(refused[0].starts_with("line 2: "), "{bad}: {refused:?}");
    }
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    for bad in [&b"w\xff x=1"[..], b"w x\xff=1", b"w x=\"\xff\"", b"w,t=\xff x=1"] {
        let (lines, refused) = testing::decode(&mut InfluxDecoder::default(), bad);
        assert!(lines.is_empty() && refused.len() == 1, "{bad:?}: {lines:?} {refused:?}");
    }
}

#[test]
fn a_line_past_the_limit_is_refused_as_too_large_and_the_next_is_read() {
    let (mut collector, mut receiver) = testing::collector();
    let payload = format!("w x=\"{}\" 1\nw y=1 2\n", "a".repeat(2 << 20));
    assert_eq!(InfluxDecoder::default().decode(payload.as_bytes(), &mut collector), payload.len());
    collector.try_flush(Position::None).unwrap();
    assert_eq!(receiver.take(), ["w y=1 2"]);
    assert_eq!((receiver.counts.read, receiver.counts.refused_size), (2, 1));
}

#[test]
fn the_precision_multiplies_and_an_overflow_is_refused() {
    let mut decoder = InfluxDecoder::with_precision(1_000_000_000);
    assert_eq!(testing::decode(&mut decoder, b"w x=1 1700000000").0, ["w x=1 1700000000000000000"]);
    assert_eq!(testing::decode(&mut decoder, b"w x=1 1700000000000").1.len(), 1);
}

/// A chunk of everything in `batches`, untimed points at time 0.
fn chunk(batches: &[Batch]) -> Chunk {
    let mut builder = ChunkBuilder::default();
    let (mut series, mut fields): (Vec<Arc<Series>>, Vec<Arc<str>>) = (Vec::new(), Vec::new());
    for batch in batches {
        series.extend(batch.new_series.iter().cloned());
        fields.extend(batch.new_fields.iter().cloned());
        for cell in &batch.cells {
            if cell.starts_point() {
                builder.point(Identity::default(), &series[cell.series as usize], 0);
            }
            let time = if cell.is_untimed() { 0 } else { cell.time };
            builder.field(&fields[cell.field as usize], time, cell.value(&batch.text));
        }
    }
    builder.finish()
}

fn batches(payload: &[u8]) -> Vec<Batch> {
    let (mut collector, mut receiver) = testing::collector();
    let (mut decoder, mut rest, mut batches) = (InfluxDecoder::default(), payload, Vec::new());
    while !rest.is_empty() {
        let used = decoder.decode(rest, &mut collector);
        rest = &rest[used..];
        collector.try_flush(Position::None).unwrap();
        batches.extend(receiver.ring.try_recv());
    }
    batches
}

fn write(chunk: &Chunk) -> Vec<u8> {
    let (mut encoder, mut out) = (InfluxEncoder::with_unsigned(true), Vec::new());
    chunk.points().for_each(|point| encoder.encode(point, &mut out));
    out
}

#[test]
fn points_are_written_as_telegraf_writes_them() {
    let chunk = chunk(&batches(b"w,b=1,a=x\\ y f=21.50,g=-3,h=1e21,i=7i,u=18446744073709551615u,t=true,s=\"a \\\"b\\\" \\\\\" 12\n"));
    let mut out = Vec::new();
    InfluxEncoder::default().encode(chunk.point(0), &mut out);
    let expected = "w,a=x\\ y,b=1 f=21.5,g=-3,h=1000000000000000000000,i=7i,u=9223372036854775807i,t=true,s=\"a \\\"b\\\" \\\\\" 12\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
    let mut out = Vec::new();
    let mut encoder = InfluxEncoder::with_unsigned(true);
    encoder.sort = true;
    encoder.encode(chunk.point(0), &mut out);
    assert!(String::from_utf8(out).unwrap().contains(",t=true,u=18446744073709551615u 12"));
}

fn name() -> impl Strategy<Value = String> {
    // What can stand in a name: no control characters (a newline can't be escaped), no backslash at the end.
    "[a-zA-Z0-9_,= äö\\\\\"#-]{0,7}[a-zA-Zλ,= ]".prop_filter("starts a line", |n| !n.starts_with([' ', '#']))
}

fn number_or_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<f64>().prop_filter("finite", |v| v.is_finite()).prop_map(|v| format!("{v:e}")),
        any::<i64>().prop_map(|v| format!("{v}i")),
        any::<u64>().prop_map(|v| format!("{v}u")),
        any::<bool>().prop_map(|v| v.to_string()),
        "[^\\x00]{0,12}".prop_map(|v| format!("\"{}\"", v.replace('\\', "\\\\").replace('"', "\\\""))),
    ]
}

prop_compose! {
    fn line()(
        measurement in name(),
        tags in proptest::collection::btree_map(name(), name(), 0..4),
        fields in proptest::collection::btree_map(name(), number_or_text(), 1..5),
        time in any::<i64>(),
    ) -> String {
        let tags: Vec<(&str, &str)> = tags.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let series = Series::from_parts(&measurement, &tags);
        let fields: Vec<String> = fields.iter().map(|(k, v)| {
            let mut key = String::new();
            weir_plugin_api::series::escape_key(k, &mut key);
            format!("{key}={v}")
        }).collect();
        format!("{} {} {time}\n", series.line(), fields.join(","))
    }
}

proptest! {
    #[test]
    fn what_was_read_and_written_reads_the_same(lines in proptest::collection::vec(line(), 1..20)) {
        let first = chunk(&batches(lines.concat().as_bytes()));
        prop_assert_eq!(first.len(), lines.len());
        let written = write(&first);
        let second = chunk(&batches(&written));
        prop_assert_eq!(first.len(), second.len());
        for (a, b) in first.points().zip(second.points()) {
            prop_assert_eq!(a.series(), b.series());
            prop_assert_eq!(a.time(), b.time());
            prop_assert_eq!(a.fields().collect::<Vec<(&str, Value<'_>)>>(), b.fields().collect::<Vec<_>>());
        }
        prop_assert_eq!(written, write(&second));
    }

    #[test]
    fn hostile_bytes_are_counted_and_never_panic(payload in proptest::collection::vec(prop_oneof![
        4 => proptest::sample::select(&b"w,= \n\r\\\"#tf1.-eiu"[..]), 1 => any::<u8>()
    ], 0..200)) {
        let (mut collector, mut receiver) = testing::collector();
        let used = InfluxDecoder::default().decode(&payload, &mut collector);
        prop_assert_eq!(used, payload.len());
        let _ = collector.try_flush(Position::None);
        let points = receiver.take().len() as u64;
        prop_assert_eq!(receiver.counts.read, points + receiver.counts.not_recorded());
    }

    #[test]
    fn payloads_cut_at_any_line_give_the_same_points(lines in proptest::collection::vec(line(), 1..30), cut in any::<prop::sample::Index>()) {
        let whole = testing::decode(&mut InfluxDecoder::default(), lines.concat().as_bytes()).0;
        let (head, tail) = lines.split_at(cut.index(lines.len()));
        let (mut collector, mut receiver) = testing::collector();
        let (mut decoder, mut parts) = (InfluxDecoder::default(), Vec::new());
        for part in [head.concat(), tail.concat()] {
            let mut rest = part.as_bytes();
            while !rest.is_empty() {
                let used = decoder.decode(rest, &mut collector);
                rest = &rest[used..];
                collector.try_flush(Position::None).unwrap();
                parts.extend(receiver.take());
            }
        }
        prop_assert_eq!(whole, parts);
    }
}
