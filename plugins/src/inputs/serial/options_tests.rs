//! What the schema takes and refuses.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use weir_plugin_api::{
    options::{Diagnostics, Item, Node, Place, Section, Table},
    plugin::BuildContext,
};

use super::{ENTRY, delimiter};

/// Claims if it was built, and every message.
fn build(entries: &[(&str, Item)]) -> (Option<Vec<String>>, Vec<String>) {
    let node = |item: &Item| Node { place: Place::default(), item: item.clone(), secret: false };
    let table = Table { entries: entries.iter().map(|(k, v)| ((*k).to_owned(), Place::default(), node(v))).collect() };
    let diagnostics = Diagnostics::default();
    let section = Section::new("inputs.serial", &table, Place::default(), &diagnostics);
    let build = BuildContext {
        name: "serial".into(),
        interval: std::time::Duration::from_secs(10),
        internal: Arc::new(Vec::new),
        directory: std::path::PathBuf::new(),
    };
    let built = (ENTRY.build)(&section, &build);
    section.finish(ENTRY.unsupported);
    (built.map(|b| b.claims), diagnostics.take().into_iter().map(|d| d.message).collect())
}

fn text(text: &str) -> Item {
    Item::Text(text.into())
}

const PORT: &str = "/dev/ttyUSB-of-nowhere";

#[test]
#[cfg(feature = "codec-frame")]
fn frames_need_a_port_and_nothing_else() {
    let (claims, messages) = build(&[("port", text(PORT)), ("data_format", text("frame"))]);
    assert_eq!((claims, messages), (Some(vec![format!("serial:{PORT}")]), vec![]));
    let (claims, messages) = build(&[("port", text(PORT)), ("data_format", text("frame")), ("framing", text("line"))]);
    assert!(claims.is_none() && messages.len() == 1 && messages[0].contains("parts the stream itself"), "{messages:?}");
}

#[test]
fn a_port_of_two_names_is_claimed_by_one() {
    let directory = tempfile::tempdir().unwrap();
    let (port, link) = (directory.path().join("ttyS0"), directory.path().join("meter"));
    std::fs::write(&port, "").unwrap();
    std::os::unix::fs::symlink(&port, &link).unwrap();
    let claims = [&port, &link].map(|path| super::claim(path.to_str().unwrap()));
    assert_eq!(claims[0], claims[1]);
}

#[test]
fn every_wrong_setting_of_the_port_is_said_at_once() {
    let (claims, messages) = build(&[
        ("port", text(PORT)),
        ("data_bits", Item::Int(9)),
        ("stop_bits", Item::Int(3)),
        ("baud_rate", Item::Int(0)),
        ("parity", text("evne")),
        ("baudrate", Item::Int(9600)),
        ("framing", text("fixed")),
    ]);
    assert!(claims.is_none());
    for part in ["data_bits", "stop_bits", "baud_rate", "`parity`", "unknown option `baudrate`", "needs `frame_length`"] {
        assert!(messages.iter().any(|m| m.contains(part)), "{part}: {messages:?}");
    }
}

#[test]
fn a_delimiter_is_text_or_bytes() {
    assert_eq!(delimiter("\r\n"), Ok(b"\r\n".to_vec()));
    assert_eq!(delimiter("0x0D0a"), Ok(b"\r\n".to_vec()));
    assert!(delimiter("0x0").is_err() && delimiter("0xzz").is_err() && delimiter("").is_err() && delimiter("0x").is_err());
}
