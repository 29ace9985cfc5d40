//! Points as one CSV table: every tag and every field a column, so that two passes are needed, one for the names and one for the rows.

use std::{collections::BTreeSet, io::Write};

use weir_plugin_api::{PointView, Value};

/// The names seen in the first pass.
#[derive(Default)]
pub struct Columns {
    tags: BTreeSet<String>,
    fields: BTreeSet<String>,
}

impl Columns {
    /// Notes the names of a point.
    pub fn note(&mut self, point: PointView<'_>) {
        for (key, _) in point.series().tags() {
            if !self.tags.contains(key) {
                self.tags.insert(key.to_owned());
            }
        }
        for (name, _) in point.fields() {
            if !self.fields.contains(name) {
                self.fields.insert(name.to_owned());
            }
        }
    }

    /// Appends the header: time, measurement, tags, fields. A name that is taken gets an underscore, as often as it takes.
    pub fn header(&self, out: &mut Vec<u8>) {
        let mut taken: BTreeSet<String> = ["time".to_owned(), "measurement".to_owned()].into();
        out.extend_from_slice(b"time,measurement");
        for name in self.tags.iter().chain(&self.fields) {
            let mut unique = name.clone();
            while !taken.insert(unique.clone()) {
                unique.push('_');
            }
            out.push(b',');
            text(&unique, out);
        }
        out.push(b'\n');
    }

    /// Appends a row; the time in nanoseconds since 1970.
    pub fn row(&self, point: PointView<'_>, out: &mut Vec<u8>) {
        let _ = write!(out, "{},", point.time());
        text(point.series().measurement(), out);
        for key in &self.tags {
            out.push(b',');
            text(point.series().tag(key).unwrap_or(""), out);
        }
        for name in &self.fields {
            out.push(b',');
            // With `{:?}` a float keeps its point, so that who guesses types guesses right.
            let _ = match point.field(name) {
                None => Ok(()),
                Some(Value::Float(v)) => write!(out, "{v:?}"),
                Some(Value::Int(v)) => write!(out, "{v}"),
                Some(Value::Uint(v)) => write!(out, "{v}"),
                Some(Value::Bool(v)) => write!(out, "{v}"),
                Some(Value::Text(v)) => {
                    text(v, out);
                    Ok(())
                }
            };
        }
        out.push(b'\n');
    }
}

fn text(text: &str, out: &mut Vec<u8>) {
    if !text.contains([',', '"', '\n', '\r']) && text.trim() == text {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    for byte in text.bytes() {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}
