//! Writes JSON in the shape of Telegraf's serializer: `{"fields":{…},"name":"…","tags":{…},"timestamp":…}`.

use std::time::Duration;

use weir_plugin_api::{PointView, Points, Value, options::Section, plugin::Encoder};

use crate::codecs::number;

weir_plugin_api::options! {
    /// Options of `data_format = "json"` for outputs.
    pub struct EncoderOptions {
        /// Unit of the timestamps, cut down to a power of ten of nanoseconds: `1s`, `1ms`, `1us`, `1ns`.
        json_timestamp_units: Duration = Duration::from_secs(1),
    }
}

/// Writes an object per line, or a document `{"metrics":[…]}` of many.
#[derive(Clone, Debug)]
pub struct JsonEncoder {
    /// Nanoseconds per unit of the timestamps.
    unit: i64,
}

impl Default for JsonEncoder {
    fn default() -> Self {
        Self { unit: 1_000_000_000 }
    }
}

impl JsonEncoder {
    /// Reads the options.
    pub fn read(section: &Section<'_>) -> Option<Self> {
        let options = EncoderOptions::read(section)?;
        let Some(nanos) = i64::try_from(options.json_timestamp_units.as_nanos()).ok().filter(|n| *n > 0) else {
            section.error_at("json_timestamp_units", "`json_timestamp_units`: must be at least 1ns");
            return None;
        };
        Some(Self { unit: 10_i64.pow(nanos.ilog10()) })
    }

    fn object(&self, point: PointView<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"fields\":");
        members(point.fields(), out, |value, out| match value {
            Value::Float(v) => number::write_float(v, out),
            Value::Int(v) => out.extend_from_slice(itoa::Buffer::new().format(v).as_bytes()),
            Value::Uint(v) => out.extend_from_slice(itoa::Buffer::new().format(v).as_bytes()),
            Value::Bool(v) => out.extend_from_slice(if v { b"true" } else { b"false" }),
            Value::Text(v) => text(v, out),
        });
        out.extend_from_slice(b",\"name\":");
        text(point.series().measurement(), out);
        out.extend_from_slice(b",\"tags\":");
        members(point.series().tags(), out, text);
        out.extend_from_slice(b",\"timestamp\":");
        out.extend_from_slice(itoa::Buffer::new().format(point.time().div_euclid(self.unit)).as_bytes());
        out.push(b'}');
    }
}

impl Encoder for JsonEncoder {
    fn encode(&mut self, point: PointView<'_>, out: &mut Vec<u8>) {
        self.object(point, out);
        out.push(b'\n');
    }

    fn encode_all(&mut self, points: &Points, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"metrics\":[");
        for (i, point) in points.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            self.object(point, out);
        }
        out.extend_from_slice(b"]}\n");
    }

    fn content_type(&self) -> &'static str {
        "application/json"
    }
}

fn members<'m, V>(list: impl Iterator<Item = (&'m str, V)>, out: &mut Vec<u8>, value: impl Fn(V, &mut Vec<u8>)) {
    out.push(b'{');
    for (i, (name, v)) in list.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        text(name, out);
        out.push(b':');
        value(v, out);
    }
    out.push(b'}');
}

fn text(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..=0x1f => &[b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]],
            _ => continue,
        };
        out.extend_from_slice(&bytes[from..at]);
        out.extend_from_slice(escape);
        from = at + 1;
    }
    out.extend_from_slice(&bytes[from..]);
    out.push(b'"');
}
