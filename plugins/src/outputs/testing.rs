//! What the tests of outputs and actions share: points out of thin air, options out of a list, an encoder without options.

// Which of these are used depends on the features.
#![allow(clippy::unwrap_used, dead_code)]

use std::{collections::BTreeMap, sync::Arc};

use weir_plugin_api::{
    Identity, PointView, Points, Series, Value,
    chunk::ChunkBuilder,
    options::{Diagnostics, Item, Node, Place, Section, Table},
    plugin::{BuildContext, Encoder, Entry},
};

/// One point for [`points`]: measurement, tags, fields, time.
pub(crate) type Sample<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [(&'a str, Value<'a>)], i64);

/// Points of record 1, in order.
pub(crate) fn points(samples: &[Sample<'_>]) -> Points {
    let mut builder = ChunkBuilder::default();
    let mut names: BTreeMap<&str, Arc<str>> = BTreeMap::new();
    for (ordinal, (measurement, tags, fields, time)) in samples.iter().enumerate() {
        let series = Arc::new(Series::from_parts(measurement, tags));
        builder.point(Identity { record: 1, ordinal: ordinal as u32 }, &series, 1);
        for (name, value) in *fields {
            builder.field(names.entry(name).or_insert_with(|| (*name).into()), *time, *value);
        }
    }
    Points::from(Arc::new(builder.finish()))
}

/// `count` points `m v=0 1`, `m v=1 2`, …
pub(crate) fn numbered(count: usize) -> Points {
    let fields: Vec<_> = (0..count).map(|i| [("v", Value::Float(i as f64))]).collect();
    let samples: Vec<Sample<'_>> = fields.iter().enumerate().map(|(i, f)| ("m", &[][..], &f[..], i as i64 + 1)).collect();
    points(&samples)
}

/// Writes `series field=value time` lines of floats: just enough for tests.
pub(crate) struct PlainEncoder;

impl Encoder for PlainEncoder {
    fn encode(&mut self, point: PointView<'_>, out: &mut Vec<u8>) {
        let fields: Vec<String> = point.fields().map(|(k, v)| format!("{k}={}", v.as_f64().unwrap_or_default())).collect();
        out.extend_from_slice(format!("{} {} {}\n", point.series().line(), fields.join(","), point.time()).as_bytes());
    }
}

/// A node without a place.
pub(crate) fn node(item: Item) -> Node {
    Node { place: Place::default(), item, secret: false }
}

/// Text as a node's item.
pub(crate) fn text(text: &str) -> Item {
    Item::Text(text.into())
}

/// An array of strings.
pub(crate) fn texts(all: &[&str]) -> Item {
    Item::Array(all.iter().map(|t| node(text(t))).collect())
}

/// Builds a plugin from its entry and options, or says what is wrong with them.
pub(crate) fn build<T>(entry: &Entry<T>, options: &[(&str, Item)], directory: &std::path::Path) -> Result<T, String> {
    let entries = options.iter().map(|(k, item)| ((*k).to_owned(), Place::default(), node(item.clone()))).collect();
    let table = Table { entries };
    let diagnostics = Diagnostics::default();
    let section = Section::new(entry.name, &table, Place::default(), &diagnostics);
    let context = BuildContext {
        name: "test".into(),
        interval: std::time::Duration::from_secs(10),
        internal: Arc::new(Vec::new),
        directory: directory.to_owned(),
    };
    let built = (entry.build)(&section, &context);
    section.finish(entry.unsupported);
    let errors = diagnostics.errors();
    let said: Vec<String> = diagnostics.take().into_iter().map(|d| d.message).collect();
    match built {
        Some(built) if errors == 0 => Ok(built),
        _ => Err(said.join("; ")),
    }
}

/// The result of a build that must work.
pub(crate) fn built<T>(entry: &Entry<T>, options: &[(&str, Item)]) -> T {
    build(entry, options, std::path::Path::new("/nonexistent")).unwrap()
}
