//! From the text of a file to a tree of values with places. Apart because it is the only code that knows the `toml` crate.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};
use weir_plugin_api::options::{Diagnostic, Diagnostics, Item, Node, Place, Severity, Table};

/// A file, read.
pub struct Parsed {
    /// Its top-level table; where the text is broken, what could be made of it.
    pub root: Table,
    /// Where the text is broken.
    pub broken: Vec<Range<usize>>,
}

/// Reads `text`; every error of syntax goes to `diagnostics`.
pub fn parse(file: usize, text: &str, diagnostics: &Diagnostics) -> Parsed {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut broken = Vec::new();
    let mut last_line = None;
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        // The first error of a line makes the others.
        let line = text.get(..span.start).map_or(0, |before| before.matches('\n').count());
        if last_line.replace(line) == Some(line) {
            continue;
        }
        let message = error.message().trim_end_matches('.').to_owned();
        push(diagnostics, Place { file, span: span.clone() }, message, help(error.message()));
        broken.push(span);
    }
    let mended = mend(text, &broken);
    let root = mended.as_deref().and_then(|text| DeTable::parse(text).ok()).unwrap_or(root);
    Parsed { root: table(file, root.into_inner(), diagnostics), broken }
}

/// The text without its broken lines, everything else in its place: the parser's own recovery may give up at the first of them.
fn mend(text: &str, broken: &[Range<usize>]) -> Option<String> {
    let mut bytes = text.as_bytes().to_vec();
    for at in broken {
        let at = at.start.min(text.len());
        let start = text.as_bytes()[..at].iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let end = text.as_bytes()[at..].iter().position(|b| *b == b'\n').map_or(text.len(), |i| at + i);
        bytes[start..end].fill(b' ');
    }
    (!broken.is_empty()).then(|| String::from_utf8(bytes).ok()).flatten()
}

fn help(message: &str) -> Option<&'static str> {
    message.contains("must be quoted").then_some("put text in quotes: key = \"text\"")
}

fn push(diagnostics: &Diagnostics, place: Place, message: impl Into<String>, help: Option<&str>) {
    diagnostics.push(Diagnostic {
        severity: Severity::Error,
        place,
        message: message.into(),
        help: help.map(str::to_owned),
        secret: false,
    });
}

fn table(file: usize, map: DeTable<'_>, diagnostics: &Diagnostics) -> Table {
    let mut entries: Vec<_> = map
        .into_iter()
        .filter_map(|(key, value)| {
            let place = Place { file, span: key.span() };
            node(file, value, diagnostics).map(|node| (key.into_inner().into_owned(), place, node))
        })
        .collect();
    entries.sort_by_key(|(_, place, _)| place.span.start);
    Table { entries }
}

fn node(file: usize, value: Spanned<DeValue<'_>>, diagnostics: &Diagnostics) -> Option<Node> {
    let place = Place { file, span: value.span() };
    let item = match value.into_inner() {
        DeValue::String(text) => Item::Text(text.into_owned()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Item::Int(number),
            Err(_) => {
                push(diagnostics, place, "this number is too large for 64 bits", None);
                return None;
            }
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Item::Float(number),
            Err(_) => {
                push(diagnostics, place, "this is no number", None);
                return None;
            }
        },
        DeValue::Boolean(value) => Item::Bool(value),
        DeValue::Datetime(_) => {
            push(diagnostics, place, "no option takes a date", Some("put it in quotes if it is meant as text"));
            return None;
        }
        DeValue::Array(items) => Item::Array(items.into_iter().filter_map(|item| node(file, item, diagnostics)).collect()),
        DeValue::Table(map) => Item::Table(table(file, map, diagnostics)),
    };
    Some(Node { place, item, secret: false })
}
