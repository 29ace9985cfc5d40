//! What the JSON codec promises: Telegraf's documented examples, hostile bytes, long arrays in pieces, the written shape.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;
use weir_plugin_api::{
    Identity, Points, Position, Series, Value,
    chunk::ChunkBuilder,
    options::{Diagnostics, Item, Node, Place, Section, Table},
    plugin::{Decoder, Encoder},
    testing,
};

use super::*;

fn text(text: &str) -> Item {
    Item::Text(text.into())
}

fn list(texts: &[&str]) -> Item {
    Item::Array(texts.iter().map(|t| Node { place: Place::default(), item: text(t), secret: false }).collect())
}

fn table(options: &[(&str, Item)]) -> Table {
    let entry = |(key, item): &(&str, Item)| {
        ((*key).to_owned(), Place::default(), Node { place: Place::default(), item: item.clone(), secret: false })
    };
    Table { entries: options.iter().map(entry).collect() }
}

fn decoder(options: &[(&str, Item)]) -> Result<JsonDecoder, String> {
    let (table, diagnostics) = (table(options), Diagnostics::default());
    let decoder = JsonDecoder::read(&Section::new("test", &table, Place::default(), &diagnostics));
    decoder.ok_or_else(|| diagnostics.take().remove(0).message)
}

fn read(options: &[(&str, Item)], payload: &str) -> (Vec<String>, Vec<String>) {
    testing::decode(&mut decoder(options).unwrap(), payload.as_bytes())
}

#[test]
fn telegrafs_documented_examples_read_as_documented() {
    let nested = r#"{"a": 5, "b": {"c": 6, "my_field": "description"}, "name": "event001"}"#;
    assert_eq!(read(&[], nested).0, ["test a=5,b_c=6 ?"]);
    let options = [("tag_keys", list(&["a", "name"])), ("json_string_fields", list(&["b_my_field"])), ("json_name_key", text("name"))];
    assert_eq!(read(&options, nested).0, ["event001,a=5,name=event001 b_c=6,b_my_field=\"description\" ?"]);
    let timed = r#"{"a": 5, "b": {"c": 6, "time": "04 Jan 06 15:04 MST", "t2": "2006-01-04T15:04:00Z"}, "name": "n"}"#;
    let options = [("json_time_key", text("b_t2")), ("json_time_format", text("2006-01-02T15:04:05Z07:00")), ("tag_keys", list(&["na*"]))];
    assert_eq!(read(&options, timed).0, ["test,name=n a=5,b_c=6 1136387040000000000"]);
    let array = r#"[{"a": 5, "t": 7}, {"a": 7, "t": 8.5}]"#;
    let options = [("json_time_key", text("t")), ("json_time_format", text("unix"))];
    assert_eq!(read(&options, array).0, ["test a=5 7000000000", "test a=7 8500000000"]);
    let nanoseconds = r#"[{"a": 1, "t": 1700000000830000083}, {"a": 2, "t": 1700000000830000084}, {"a": 3, "t": "1700000000830000085"}]"#;
    let options = [("json_time_key", text("t")), ("json_time_format", text("unix_ns"))];
    let expected = ["test a=1 1700000000830000083", "test a=2 1700000000830000084", "test a=3 1700000000830000085"];
    assert_eq!(read(&options, nanoseconds).0, expected, "neighbouring nanoseconds stay two times");
    let deep = r#"{"obj": {"name": {"first": "Tom", "last": "Anderson"}, "age":37, "children": ["Sara","Alex","Jack"],
        "friends": [{"first": "Dale", "last": "Murphy", "age": 44}, {"first": "Roger", "last": "Craig", "age": 68}]}}"#;
    let options = [("json_query", text("obj.friends")), ("tag_keys", list(&["first"])), ("json_string_fields", list(&["last"]))];
    assert_eq!(read(&options, deep).0, ["test,first=Dale age=44,last=\"Murphy\" ?", "test,first=Roger age=68,last=\"Craig\" ?"]);
    for (query, expected) in [("obj.friends.1", "age=68"), ("ob?.na*", ""), ("nowhere", "")] {
        let lines = read(&[("json_query", text(query))], deep).0;
        assert_eq!(lines.first().is_some_and(|l| l.contains(expected)), !expected.is_empty(), "{query}");
    }
}

#[test]
fn values_are_flattened_and_what_is_not_wanted_is_left_out() {
    assert_eq!(read(&[], r#"{"x":[1,{"y":2},null,true,"s"],"_z_":{"_q":3},"b":false}"#).0, ["test x_0=1,x_1_y=2,z__q=3 ?"]);
    assert_eq!(read(&[("json_string_fields", list(&["b"]))], r#"{"b":false}"#).0, ["test b=false ?"]);
    assert_eq!(read(&[], r#"{"a":1,"a":2}"#).0, ["test a=2 ?"]);
    assert_eq!(read(&[], "{\"a\\u00e4\":-1e3}\n{\"b\":18446744073709551615}\n").0, ["test aä=-1000 ?", "test b=18446744073709552000 ?"]);
}

#[test]
fn a_bad_document_costs_itself_and_is_explained() {
    for bad in [
        "{",
        "{\"a\":}",
        "{\"a\":1e999}",
        "{\"a\":NaN}",
        "5",
        "\"x\"",
        "nope",
        "{\"a\":\"\u{1}\"}",
        "[{\"a\":1},5]",
        "[{\"a\":1}",
        "{\"a\":\"s\"}",
        "{}",
        "[1",
    ] {
        let (lines, refused) = read(&[], &format!("{{\"a\":1}}\n{bad}\n{{\"a\":2}}\n"));
        assert_eq!(lines, ["test a=1 ?", "test a=2 ?"], "{bad}");
        assert_eq!(refused.len(), 1, "{bad}: {refused:?}");
    }
    let deep = format!("{}1{}", "{\"a\":".repeat(200), "}".repeat(200));
    assert_eq!(read(&[], &deep).1.len(), 1);
    let loose = [("json_strict", Item::Bool(false))];
    let (lines, refused) = read(&loose, "[{\"a\":1},5,{\"a\":2}]");
    assert_eq!((lines.len(), refused.len()), (2, 1));
    assert_eq!(read(&[], "").1.len() + read(&[], " \n").1.len() + read(&[], "[]").1.len(), 0);
}

#[test]
fn options_that_can_not_work_are_refused() {
    for (options, expected) in [
        (vec![("json_time_key", text("t"))], "needs `json_time_format`"),
        (vec![("json_time_key", text("t")), ("json_time_format", text("hh:mm"))], "no time format"),
        (vec![("json_query", text("a.#(b>1)"))], "not supported"),
        (vec![("json_query", text("a|@reverse"))], "not supported"),
    ] {
        let error = decoder(&options).err().unwrap_or_default();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_long_array_is_read_in_pieces_as_the_collector_fills() {
    let array = format!("[{}]", (0..5000).map(|i| format!("{{\"a\":{i}}}")).collect::<Vec<_>>().join(", \n"));
    let (mut collector, mut receiver) = testing::collector();
    let (mut decoder, mut rest, mut pieces, mut lines) = (decoder(&[]).unwrap(), array.as_bytes(), 0, Vec::new());
    while !rest.is_empty() {
        rest = &rest[decoder.decode(rest, &mut collector)..];
        collector.try_flush(Position::None).unwrap();
        lines.extend(receiver.take());
        pieces += 1;
    }
    assert!(pieces > 3);
    assert_eq!(lines.len(), 5000);
    assert_eq!(lines[4999], "test a=4999 ?");
    assert_eq!(receiver.counts.not_recorded(), 0);
}

#[test]
fn points_are_written_in_telegrafs_shape() {
    let mut builder = ChunkBuilder::default();
    let series = Arc::new(Series::from_parts("we\"ather", &[("b", "1"), ("a", "x\ny")]));
    for time in [1_700_000_000_500_000_000, -1] {
        builder.point(Identity::default(), &series, 0);
        for (name, value) in [("f", Value::Float(21.5)), ("i", Value::Int(-3)), ("t", Value::Bool(true)), ("s", Value::Text("\u{1}\\"))] {
            builder.field(&name.into(), time, value);
        }
    }
    let points = Points::from(Arc::new(builder.finish()));
    let (mut one, mut all) = (Vec::new(), Vec::new());
    let mut encoder = JsonEncoder::default();
    encoder.encode(points.iter().next().unwrap(), &mut one);
    let expected =
        r#"{"fields":{"f":21.5,"i":-3,"t":true,"s":"\u0001\\"},"name":"we\"ather","tags":{"a":"x\ny","b":"1"},"timestamp":1700000000}"#;
    assert_eq!(String::from_utf8(one).unwrap(), format!("{expected}\n"));
    encoder.encode_all(&points, &mut all);
    let document: serde_json::Value = serde_json::from_slice(&all).unwrap();
    assert_eq!(document["metrics"][0], serde_json::from_str::<serde_json::Value>(expected).unwrap());
    assert_eq!(document["metrics"][1]["timestamp"], -1);
    let table = table(&[("json_timestamp_units", text("5ms"))]);
    let mut encoder = JsonEncoder::read(&Section::new("test", &table, Place::default(), &Diagnostics::default())).unwrap();
    let mut out = Vec::new();
    encoder.encode(points.iter().next().unwrap(), &mut out);
    assert!(String::from_utf8(out).unwrap().ends_with("\"timestamp\":1700000000500}\n"));
}

proptest! {
    #[test]
    fn hostile_bytes_are_counted_and_never_panic(payload in proptest::collection::vec(prop_oneof![
        6 => proptest::sample::select(&b"{}[],:\"ab\\u12 \n.e-tfn"[..]), 1 => any::<u8>()
    ], 0..120), strict in any::<bool>(), queried in any::<bool>()) {
        let mut options = vec![("json_strict", Item::Bool(strict)), ("tag_keys", list(&["a"])), ("json_string_fields", list(&["b*"]))];
        if queried {
            options.push(("json_query", text("a.#.b")));
        }
        let (mut collector, mut receiver) = testing::collector();
        let used = decoder(&options).unwrap().decode(&payload, &mut collector);
        prop_assert_eq!(used, payload.len());
        let _ = collector.try_flush(Position::None);
        let points = receiver.take().len() as u64;
        prop_assert_eq!(receiver.counts.read, points + receiver.counts.not_recorded());
    }
}
