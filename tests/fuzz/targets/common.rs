//! What all targets ask of a decoder: it ends, it uses up its payload, and everything read is a point or counted otherwise.

use weir_plugin_api::{
    Position,
    options::{Diagnostics, Item, Node, Place, Section, Table},
    testing,
};
use weir_plugins::codecs;

/// Some text as an option.
pub fn text(text: &str) -> Item {
    Item::Text(text.to_owned())
}

/// A list of texts as an option.
#[allow(dead_code, reason = "not every format has a list among its options")]
pub fn list(texts: &[&str]) -> Item {
    Item::Array(texts.iter().map(|t| node(text(t))).collect())
}

fn node(item: Item) -> Node {
    Node { place: Place::default(), item, secret: false }
}

/// Decodes `payload` with the decoder these options name.
pub fn decode(options: &[(&str, Item)], payload: &[u8]) {
    let entries = options.iter().map(|(key, item)| ((*key).to_owned(), Place::default(), node(item.clone()))).collect();
    let table = Table { entries };
    let section = Section::new("fuzz", &table, Place::default(), &Diagnostics::default());
    let mut decoder = codecs::decoder(&section).expect("the options are right");
    let (mut collector, mut receiver) = testing::collector();
    let (mut rest, mut points) = (payload, 0);
    while !rest.is_empty() {
        let used = decoder.decode(rest, &mut collector);
        assert!(used > 0 || collector.is_full(), "no progress");
        rest = &rest[used..];
        collector.try_flush(Position::None).expect("the receiver lives");
        points += receiver.take().len() as u64;
    }
    assert_eq!(receiver.counts.read, points + receiver.counts.not_recorded());
}
