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
    /// The tables that are broken: nothing is known about what stands in them.
    pub broken: Vec<Range<usize>>,
}

/// Longest broken text whose tables are looked at one by one.
const SPLIT_BYTES_MAX: usize = 1 << 20;
/// Most tables for that.
const SPLIT_TABLES_MAX: usize = 1000;

/// Reads `text`; every error of syntax goes to `diagnostics`.
///
/// The parser's own recovery may lose the rest of a file after an error, and blames later lines for earlier ones. So a text that does not
/// parse is read table by table: what is wrong in one says nothing about the others.
pub fn parse(file: usize, text: &str, diagnostics: &Diagnostics) -> Parsed {
    let (root, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Parsed { root: table(file, root.into_inner(), diagnostics), broken: Vec::new() };
    }
    let (broken, errors_of_tables) = broken_tables(text);
    let whole = blank(text, &broken);
    let (rest, errors_of_rest) = DeTable::parse_recoverable(&whole);
    // Where no table is wrong by itself, or the rest still is, the parser's first word about the whole counts.
    let (root, errors) =
        if broken.is_empty() { (root, errors) } else { (rest, errors_of_tables.into_iter().chain(errors_of_rest).collect()) };
    let mut spans = broken;
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
        if !spans.iter().any(|table| table.contains(&span.start)) {
            spans.push(tables(text).find(|table| table.contains(&span.start)).unwrap_or(span));
        }
    }
    Parsed { root: table(file, root.into_inner(), diagnostics), broken: spans }
}

/// The byte ranges of the tables of `text`, from header to header, as far as lines tell; the first is what stands before any header.
fn tables(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut starts = vec![0];
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let name = line.trim_start().trim_start_matches('[');
        let is_header = name.len() < line.trim_start().len() && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if is_header && offset > 0 {
            starts.push(offset);
        }
        offset += line.len();
    }
    let ends: Vec<usize> = starts.iter().skip(1).copied().chain([text.len() + 1]).collect();
    starts.into_iter().zip(ends).map(|(start, end)| start..end)
}

/// The tables that are wrong by themselves, with their errors.
fn broken_tables(text: &str) -> (Vec<Range<usize>>, Vec<toml::de::Error>) {
    let (mut broken, mut errors) = (Vec::new(), Vec::new());
    if text.len() > SPLIT_BYTES_MAX || tables(text).nth(SPLIT_TABLES_MAX).is_some() {
        return (broken, errors);
    }
    for table in tables(text) {
        let end = table.end.min(text.len());
        let alone = blank(&text[..end], std::slice::from_ref(&(0..table.start)));
        let (_, of_table) = DeTable::parse_recoverable(&alone);
        if !of_table.is_empty() {
            broken.push(table);
            errors.extend(of_table);
        }
    }
    (broken, errors)
}

/// The text with spaces in these places, so that everything else keeps its own.
fn blank(text: &str, places: &[Range<usize>]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for place in places {
        let end = place.end.min(bytes.len());
        bytes[place.start..end].iter_mut().filter(|b| !matches!(b, b'\n' | b'\r')).for_each(|b| *b = b' ');
    }
    // Whole lines are blanked, so no character is cut.
    String::from_utf8(bytes).unwrap_or_default()
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
