//! Reads line protocol into a collector in one pass over the bytes.
//!
//! The way of an ordinary line: one search for the space behind the key, one look-up of the raw key, each field name compared with the one
//! that came next last time, each number read digit by digit, the time. Nothing is copied and nothing is allocated.

use std::time::Duration;

use memchr::{memchr, memchr2};
use weir_plugin_api::{
    Collector, Value,
    collector::{Refusal, SeriesId},
    options::Section,
    plugin::Decoder,
};

use super::keys;
use crate::codecs::number;

/// Bytes one line may have.
const LINE_MAX: usize = 1024 * 1024;

weir_plugin_api::options! {
    /// Options of `data_format = "influx"` for inputs.
    pub struct DecoderOptions {
        /// Unit of the timestamps: `1ns`, `1us`, `1ms`, `1s`.
        influx_timestamp_precision: Duration = Duration::from_nanos(1),
    }
}

/// Reads InfluxDB line protocol. A bad line is refused with its number and costs only itself.
#[derive(Clone, Debug)]
pub struct InfluxDecoder {
    /// Nanoseconds per unit of the timestamps.
    unit: i64,
    /// Number of the last line begun in this payload, from 1.
    line: u64,
    /// Bytes of the payload that were left when the collector was full.
    left: usize,
    /// A string with escapes, put together.
    scratch: String,
}

/// Why a line was refused, and where in the bytes it was noticed.
struct Bad {
    at: usize,
    refusal: Refusal,
    reason: String,
}

impl Default for InfluxDecoder {
    fn default() -> Self {
        Self::with_precision(1)
    }
}

impl InfluxDecoder {
    /// A decoder whose timestamps count `unit` nanoseconds, for protocols that name the precision themselves; at least 1.
    pub fn with_precision(unit: i64) -> Self {
        Self { unit: unit.max(1), line: 0, left: 0, scratch: String::new() }
    }

    /// Reads the options.
    pub fn read(section: &Section<'_>) -> Option<Self> {
        let options = DecoderOptions::read(section)?;
        let unit = i64::try_from(options.influx_timestamp_precision.as_nanos()).ok().filter(|n| *n > 0);
        if unit.is_none() {
            section.error_at("influx_timestamp_precision", "`influx_timestamp_precision`: must be at least 1ns");
        }
        unit.map(Self::with_precision)
    }

    /// Reads the line at `start`, returns where the next one begins.
    #[inline]
    fn line(&mut self, bytes: &[u8], start: usize, out: &mut Collector) -> Result<usize, Bad> {
        let Some(key_end) = key_end(bytes, start) else {
            return Err(bad(line_end(bytes, start), "there are no fields"));
        };
        let series = out.series(&bytes[start..key_end], |parts| keys::parse(&bytes[start..key_end], parts));
        let series = series.map_err(|reason| Bad { at: key_end, refusal: Refusal::Parse, reason })?;
        // Of a series that is not wanted the rest must be read too: only so a bad line is known.
        if let SeriesId::Id(id) = series {
            out.begin(id, None);
        }
        let mut at = skip_spaces(bytes, key_end);
        loop {
            at = self.field(bytes, at, out)?;
            match bytes.get(at) {
                Some(b',') => at += 1,
                _ => break,
            }
        }
        at = self.time(bytes, at, out)?;
        if at - start > LINE_MAX {
            let reason = format!("a line of {} bytes, the limit is {LINE_MAX}", at - start);
            return Err(Bad { at: at.saturating_sub(1), refusal: Refusal::Size, reason });
        }
        match series {
            SeriesId::Id(_) => out.end(),
            other => out.skip(other),
        }
        Ok(at)
    }

    /// Reads one `name=value`, returns where it ends.
    #[inline]
    fn field(&mut self, bytes: &[u8], start: usize, out: &mut Collector) -> Result<usize, Bad> {
        let rest = &bytes[start..];
        let (name_end, plain) = name_end(rest).ok_or_else(|| bad(start, "a field has no value"))?;
        let name = &rest[..name_end];
        if name.is_empty() {
            return Err(bad(start, "a field has no name"));
        }
        let unescaped;
        let name = if plain {
            name
        } else {
            let text = std::str::from_utf8(name).map_err(|_| bad(start, "the name of a field is not UTF-8"))?;
            unescaped = keys::unescape(text, b",= ");
            unescaped.as_bytes()
        };
        let at = start + name_end + 1;
        let (value, end) = self.value(bytes, at)?;
        out.field(name, value);
        Ok(end)
    }

    /// Reads one value, returns it and where it ends.
    #[inline]
    fn value<'a>(&'a mut self, bytes: &'a [u8], start: usize) -> Result<(Value<'a>, usize), Bad> {
        let rest = &bytes[start..];
        let (value, length) = match rest.first() {
            Some(b'0'..=b'9' | b'-' | b'+' | b'.') => number_value(rest).ok_or_else(|| bad(start, "a number can't be read"))?,
            Some(b'"') => return self.text(bytes, start),
            Some(b't' | b'T' | b'f' | b'F') => boolean(rest).ok_or_else(|| bad(start, "a boolean can't be read"))?,
            _ => return Err(bad(start, "a value is neither number, string nor boolean")),
        };
        match rest.get(length) {
            None | Some(b',' | b' ' | b'\n' | b'\r') => Ok((value, start + length)),
            _ => Err(bad(start, "a value goes on where it should end")),
        }
    }

    fn text<'a>(&'a mut self, bytes: &'a [u8], quote: usize) -> Result<(Value<'a>, usize), Bad> {
        let start = quote + 1;
        let unterminated = || bad(quote, "a string has no closing quote");
        let (mut at, mut escaped) = (start, false);
        let end = loop {
            let found = at + memchr2(b'"', b'\\', &bytes[at..]).ok_or_else(unterminated)?;
            if bytes[found] == b'"' {
                break found;
            }
            escaped = true;
            at = found + 2;
            if at > bytes.len() {
                return Err(unterminated());
            }
        };
        if end - start > LINE_MAX {
            let reason = format!("a string of {} bytes, a line may have {LINE_MAX}", end - start);
            return Err(Bad { at: end, refusal: Refusal::Size, reason });
        }
        let text = std::str::from_utf8(&bytes[start..end]).map_err(|_| bad(end, "a string is not UTF-8"))?;
        if !matches!(bytes.get(end + 1), None | Some(b',' | b' ' | b'\n' | b'\r')) {
            return Err(bad(end, "a string goes on after its closing quote"));
        }
        self.line += memchr::memchr_iter(b'\n', text.as_bytes()).count() as u64;
        if !escaped {
            return Ok((Value::Text(text), end + 1));
        }
        self.scratch.clear();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '\\' && matches!(chars.peek(), Some('"' | '\\')) {
                self.scratch.extend(chars.next());
            } else {
                self.scratch.push(c);
            }
        }
        Ok((Value::Text(&self.scratch), end + 1))
    }

    /// Reads what follows the fields: nothing or a time. Returns where the next line begins.
    #[inline]
    fn time(&self, bytes: &[u8], start: usize, out: &mut Collector) -> Result<usize, Bad> {
        let mut at = skip_spaces(bytes, start);
        if at > start
            && let Some(scanned) = number::scan(&bytes[at..])
        {
            let time = scanned.int(&bytes[at..]).ok_or_else(|| bad(at, "the time is no integer of 64 bits"))?;
            let time = time.checked_mul(self.unit).ok_or_else(|| bad(at, "the time is past the year 2262"))?;
            out.set_time(time);
            at = skip_spaces(bytes, at + scanned.length);
        }
        match bytes.get(at) {
            None => Ok(at),
            Some(b'\n') => Ok(at + 1),
            Some(b'\r') if matches!(bytes.get(at + 1), None | Some(b'\n')) => Ok((at + 2).min(bytes.len())),
            Some(_) => Err(bad(at, "something follows the fields that is no time")),
        }
    }
}

impl Decoder for InfluxDecoder {
    fn decode(&mut self, bytes: &[u8], out: &mut Collector) -> usize {
        // What comes with exactly the length that was left is the same payload going on.
        if self.left != bytes.len() {
            self.line = 0;
        }
        self.left = 0;
        let mut at = 0;
        while at < bytes.len() {
            match bytes[at] {
                b'\n' => {
                    self.line += 1;
                    at += 1;
                    continue;
                }
                b' ' | b'\t' | b'\r' => {
                    at += 1;
                    continue;
                }
                b'#' => {
                    at = line_end(bytes, at);
                    continue;
                }
                _ => {}
            }
            if out.is_full() {
                self.left = bytes.len() - at;
                return at;
            }
            self.line += 1;
            let number = self.line;
            match self.line(bytes, at, out) {
                Ok(next) => at = next,
                Err(error) => {
                    let end = line_end(bytes, error.at);
                    out.abandon();
                    out.refuse(error.refusal, format_args!("line {number}: {}", error.reason), &bytes[at..end]);
                    at = (end + 1).min(bytes.len());
                }
            }
        }
        bytes.len()
    }

    fn reset(&mut self) {
        self.left = 0;
        self.line = 0;
    }
}

#[cold]
fn bad(at: usize, reason: &str) -> Bad {
    Bad { at, refusal: Refusal::Parse, reason: reason.to_owned() }
}

/// The first newline from `from` on, or the end.
fn line_end(bytes: &[u8], from: usize) -> usize {
    let from = from.min(bytes.len());
    memchr(b'\n', &bytes[from..]).map_or(bytes.len(), |n| from + n)
}

/// The first space without a backslash before it, if it comes before the end of the line.
#[inline]
fn key_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut from = start;
    loop {
        let found = from + memchr2(b' ', b'\n', &bytes[from..])?;
        if bytes[found] == b'\n' {
            return None;
        }
        if found == start || bytes[found - 1] != b'\\' {
            return Some(found);
        }
        from = found + 1;
    }
}

/// The equals sign that ends a field's name, and whether the name is ASCII without escapes.
#[inline]
fn name_end(bytes: &[u8]) -> Option<(usize, bool)> {
    let (mut before, mut plain) = (0_u8, true);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'=' if before != b'\\' => return Some((at, plain)),
            b' ' | b',' if before != b'\\' => return None,
            b'\n' => return None,
            b'\\' | 0x80.. => plain = false,
            _ => {}
        }
        before = *byte;
    }
    None
}

#[inline]
fn skip_spaces(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t')) {
        at += 1;
    }
    at
}

/// A number of any type at the front, and its length.
#[inline]
fn number_value(bytes: &[u8]) -> Option<(Value<'static>, usize)> {
    let scanned = number::scan(bytes)?;
    Some(match bytes.get(scanned.length) {
        Some(b'i') => (Value::Int(scanned.int(bytes)?), scanned.length + 1),
        Some(b'u') => (Value::Uint(scanned.uint(bytes)?), scanned.length + 1),
        _ => (Value::Float(scanned.float(bytes)?), scanned.length),
    })
}

/// A boolean at the front in one of InfluxDB's spellings, and its length.
fn boolean(bytes: &[u8]) -> Option<(Value<'static>, usize)> {
    let length = bytes.iter().take_while(|b| b.is_ascii_alphabetic()).count();
    let value = match &bytes[..length] {
        b"t" | b"T" | b"true" | b"True" | b"TRUE" => true,
        b"f" | b"F" | b"false" | b"False" | b"FALSE" => false,
        _ => return None,
    };
    Some((Value::Bool(value), length))
}
