//! Writes line protocol: a series brings its escaped form along, so only fields and time cost something.

use weir_plugin_api::{PointView, Value, options::Section, plugin::Encoder, series::escape_key};

use crate::codecs::number;

weir_plugin_api::options! {
    /// Options of `data_format = "influx"` for outputs.
    pub struct EncoderOptions {
        /// Write unsigned integers as such (`12u`), which InfluxDB 2 and later read; otherwise as signed ones, at most 2⁶³ − 1.
        influx_uint_support: bool = false,
        /// Write the fields of a point in the order of their names.
        influx_sort_fields: bool = false,
    }
}

/// Writes InfluxDB line protocol, a point a line, times in nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct InfluxEncoder {
    pub(super) unsigned: bool,
    pub(super) sort: bool,
    scratch: String,
}

impl InfluxEncoder {
    /// An encoder that writes unsigned integers as such, or as signed ones.
    pub fn with_unsigned(unsigned: bool) -> Self {
        Self { unsigned, ..Self::default() }
    }

    /// Reads the options.
    pub fn read(section: &Section<'_>) -> Option<Self> {
        let options = EncoderOptions::read(section)?;
        Some(Self { unsigned: options.influx_uint_support, sort: options.influx_sort_fields, scratch: String::new() })
    }

    fn field(&mut self, separator: u8, name: &str, value: Value<'_>, out: &mut Vec<u8>) {
        out.push(separator);
        if name.bytes().all(|b| b > b' ' && !matches!(b, b',' | b'=' | b'\\')) {
            out.extend_from_slice(name.as_bytes());
        } else {
            self.scratch.clear();
            escape_key(name, &mut self.scratch);
            out.extend_from_slice(self.scratch.as_bytes());
        }
        out.push(b'=');
        match value {
            Value::Float(v) => number::write_float(v, out),
            Value::Int(v) => suffixed(itoa::Buffer::new().format(v), b'i', out),
            Value::Uint(v) if self.unsigned => suffixed(itoa::Buffer::new().format(v), b'u', out),
            Value::Uint(v) => suffixed(itoa::Buffer::new().format(v.min(i64::MAX as u64)), b'i', out),
            Value::Bool(v) => out.extend_from_slice(if v { b"true" } else { b"false" }),
            Value::Text(v) => quoted(v, out),
        }
    }
}

impl InfluxEncoder {
    /// Appends a point with another time than its own, in nanoseconds.
    pub fn encode_at(&mut self, point: PointView<'_>, time: i64, out: &mut Vec<u8>) {
        out.extend_from_slice(point.series().line().as_bytes());
        let mut separator = b' ';
        if self.sort {
            let mut fields: Vec<_> = point.fields().collect();
            fields.sort_by(|a, b| a.0.cmp(b.0));
            for (name, value) in fields {
                self.field(separator, name, value, out);
                separator = b',';
            }
        } else {
            for (name, value) in point.fields() {
                self.field(separator, name, value, out);
                separator = b',';
            }
        }
        out.push(b' ');
        out.extend_from_slice(itoa::Buffer::new().format(time).as_bytes());
        out.push(b'\n');
    }
}

impl Encoder for InfluxEncoder {
    fn encode(&mut self, point: PointView<'_>, out: &mut Vec<u8>) {
        self.encode_at(point, point.time(), out);
    }
}

fn suffixed(digits: &str, suffix: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(digits.as_bytes());
    out.push(suffix);
}

fn quoted(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = memchr::memchr2(b'"', b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&[b'\\', rest[at]]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}
