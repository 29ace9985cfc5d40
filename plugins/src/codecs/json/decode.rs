//! Reads JSON into a collector: each object is flattened while it is parsed, then divided into tags, time and fields.
//!
//! Documents may follow one another (a line each, say). A document that can't be read costs what reaches to the next line that
//! begins with `{` or `[`; nested deeper than 128 levels it is refused too.

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use serde::de::{DeserializeSeed, IgnoredAny};
use serde_json::Deserializer;
use weir_plugin_api::{
    Collector, Value,
    collector::{Refusal, SeriesId},
    filter::Globs,
    options::Section,
    plugin::Decoder,
};

use super::{
    flatten::{Leaf, Leaves, Object},
    query::Query,
};
use crate::codecs::{number, timestamp::TimeFormat};

weir_plugin_api::options! {
    /// Options of `data_format = "json"` for inputs.
    pub struct DecoderOptions {
        /// Names (patterns) of values that become tags.
        tag_keys: Vec<String> = Vec::new(),
        /// Name of the value that becomes the measurement.
        json_name_key: String = String::new(),
        /// Names (patterns) of strings and booleans that become fields; others are left out.
        json_string_fields: Vec<String> = Vec::new(),
        /// Path to the object or array of objects to read, in GJSON's syntax: names, numbers, `#`, `*`, `?`.
        json_query: String = String::new(),
        /// Name of the value that holds the time.
        json_time_key: String = String::new(),
        /// Format of the time: `unix`, `unix_ms`, `unix_us`, `unix_ns`, `rfc3339` or a Go layout; needed with `json_time_key`.
        json_time_format: String = String::new(),
        /// Time zone of times that name none: an IANA name, `UTC` or `Local`.
        json_timezone: String = String::new(),
        /// Of an array with an element that can't be read take nothing; otherwise the others are taken.
        json_strict: bool = true,
    }
}

/// What becomes of a value of some name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Role {
    tag: bool,
    text: bool,
}

/// Names whose role is remembered.
const ROLES_MAX: usize = 65_536;

/// How objects become points.
#[derive(Clone, Debug)]
struct Rules {
    tags: Globs,
    texts: Globs,
    name_key: String,
    time: Option<(String, TimeFormat)>,
    roles: HashMap<Box<str>, Role, FixedState>,
}

/// Reads JSON.
#[derive(Clone, Debug)]
pub struct JsonDecoder {
    rules: Rules,
    query: Option<Query>,
    strict: bool,
    leaves: Leaves,
    key: Vec<u8>,
    /// Bytes left of an array's payload when the collector was full; the next call begins at an element.
    left: Option<usize>,
}

impl JsonDecoder {
    /// Reads the options.
    pub fn read(section: &Section<'_>) -> Option<Self> {
        let options = DecoderOptions::read(section)?;
        let time = if options.json_time_key.is_empty() {
            None
        } else if options.json_time_format.is_empty() {
            section.error_at("json_time_key", "`json_time_key` needs `json_time_format`");
            return None;
        } else {
            match TimeFormat::new(&options.json_time_format, &options.json_timezone) {
                Ok(format) => Some((options.json_time_key, format)),
                Err(reason) => {
                    section.error_at("json_time_format", format!("`json_time_format`: {reason}"));
                    return None;
                }
            }
        };
        let query = if options.json_query.is_empty() {
            None
        } else {
            match Query::new(&options.json_query) {
                Ok(query) => Some(query),
                Err(reason) => {
                    section.error_at("json_query", format!("`json_query`: {reason}"));
                    return None;
                }
            }
        };
        let rules = Rules {
            tags: Globs::new(&options.tag_keys),
            texts: Globs::new(&options.json_string_fields),
            name_key: options.json_name_key,
            time,
            roles: HashMap::default(),
        };
        Some(Self { rules, query, strict: options.json_strict, leaves: Leaves::default(), key: Vec::new(), left: None })
    }

    /// Reads documents from `at` on, until the end or the collector is full. Returns how far it came.
    fn documents(&mut self, bytes: &[u8], mut at: usize, out: &mut Collector) -> usize {
        loop {
            at = skip_space(bytes, at);
            if at >= bytes.len() {
                return bytes.len();
            }
            if out.is_full() {
                return at;
            }
            let next = if self.query.is_some() {
                self.queried(bytes, at, out)
            } else if bytes[at] == b'[' {
                match self.strict.then(|| self.check(bytes, at)).transpose() {
                    Ok(_) => self.elements(bytes, at + 1, out),
                    Err(bad) => Err(bad),
                }
            } else {
                self.object(bytes, at, out)
            };
            match next {
                Ok(next) => at = next,
                Err(bad) => {
                    // Of an object nothing was taken yet; of an array what stands before the error was.
                    let from = if bytes[at] == b'{' { at } else { bad.at.saturating_sub(1).max(at) };
                    let end = next_document(bytes, from);
                    out.refuse(Refusal::Parse, bad.reason, &bytes[at..end]);
                    at = end;
                }
            }
            if self.left.is_some() {
                return at;
            }
        }
    }

    /// Reads the object at `at` into a point, returns where it ends.
    fn object(&mut self, bytes: &[u8], at: usize, out: &mut Collector) -> Result<usize, Bad> {
        let end = parse(Object(&mut self.leaves), bytes, at)?;
        self.point(out).map_err(|reason| Bad { at: end, reason })?;
        Ok(end)
    }

    /// Reads elements of an array up to its end or until the collector is full.
    fn elements(&mut self, bytes: &[u8], mut at: usize, out: &mut Collector) -> Result<usize, Bad> {
        loop {
            at = skip_space(bytes, at);
            if bytes.get(at) == Some(&b']') {
                return Ok(at + 1);
            }
            if out.is_full() {
                self.left = Some(bytes.len() - at);
                return Ok(at);
            }
            match bytes.get(at) {
                Some(b'{') => {
                    let end = parse(Object(&mut self.leaves), bytes, at)?;
                    if let Err(reason) = self.point(out) {
                        out.refuse(Refusal::Parse, reason, &bytes[at..end]);
                    }
                    at = end;
                }
                Some(_) => {
                    let end = skip_value(bytes, at)?;
                    out.refuse(Refusal::Parse, "an element of the array is no object", &bytes[at..end]);
                    at = end;
                }
                None => return Err(Bad { at, reason: "the array has no end".into() }),
            }
            at = skip_space(bytes, at);
            match bytes.get(at) {
                Some(b',') => at += 1,
                Some(b']') => {}
                _ => return Err(Bad { at, reason: format!("byte {at}: neither comma nor end of the array") }),
            }
        }
    }

    /// Goes through an array without making points.
    fn check(&mut self, bytes: &[u8], start: usize) -> Result<(), Bad> {
        let whole = skip_value(bytes, start)?;
        let mut at = skip_space(bytes, start + 1);
        while bytes.get(at) != Some(&b']') {
            at = if bytes.get(at) == Some(&b'{') {
                let end = parse(Object(&mut self.leaves), bytes, at)?;
                if let Err(reason) = self.rules.time(&self.leaves) {
                    return Err(Bad { at: whole, reason });
                }
                end
            } else {
                return Err(Bad { at: whole, reason: format!("byte {at}: an element of the array is no object") });
            };
            at = skip_space(bytes, at);
            if bytes.get(at) == Some(&b',') {
                at = skip_space(bytes, at + 1);
            }
        }
        Ok(())
    }

    /// Reads a whole document, and of it what the query leads to.
    fn queried(&mut self, bytes: &[u8], at: usize, out: &mut Collector) -> Result<usize, Bad> {
        let mut stream = Deserializer::from_slice(&bytes[at..]).into_iter::<serde_json::Value>();
        let document = stream.next().unwrap_or(Ok(serde_json::Value::Null)).map_err(|e| Bad::json(&e, bytes, at))?;
        let end = at + stream.byte_offset();
        let bad = |reason: String| Bad { at: end, reason };
        match self.query.as_ref().and_then(|query| query.find(document)) {
            None | Some(serde_json::Value::Null) => {}
            Some(serde_json::Value::Array(items)) => {
                for item in items {
                    let read = Object(&mut self.leaves).deserialize(item).map_err(|e| e.to_string()).and_then(|()| self.point(out));
                    match read {
                        Ok(()) => {}
                        Err(reason) if self.strict => return Err(bad(reason)),
                        Err(reason) => out.refuse(Refusal::Parse, reason, &[]),
                    }
                }
            }
            Some(object @ serde_json::Value::Object(_)) => {
                Object(&mut self.leaves).deserialize(object).map_err(|e| bad(e.to_string()))?;
                self.point(out).map_err(bad)?;
            }
            Some(_) => return Err(bad("`json_query` leads neither to an object nor to an array".into())),
        }
        Ok(end)
    }

    /// Makes a point of the leaves.
    fn point(&mut self, out: &mut Collector) -> Result<(), String> {
        let Self { rules, leaves, key, .. } = self;
        let time = rules.time(leaves)?;
        key.clear();
        let name = rules.name(leaves);
        if let Some(name) = name {
            append(key, name);
        }
        let tagged = !rules.tags.is_empty();
        if tagged {
            for (name, leaf) in &leaves.list {
                let name = leaves.text(name);
                if rules.role(name).tag {
                    append(key, name);
                    match leaf {
                        Leaf::Number(v) => append_with(key, |key| number::write_float(*v, key)),
                        Leaf::Large(v) => append_with(key, |key| number::write_float(*v as f64, key)),
                        Leaf::Bool(v) => append(key, if *v { "true" } else { "false" }),
                        Leaf::Text(range) => append(key, leaves.text(range)),
                    }
                }
            }
        }
        let Ok(series) = out.series(key, |parts| {
            let mut words = words(key);
            if name.is_some() {
                parts.measurement = words.next().unwrap_or_default();
            }
            while let (Some(k), Some(v)) = (words.next(), words.next()) {
                parts.tag(&k, &v);
            }
            Ok::<_, std::convert::Infallible>(())
        });
        let id = match series {
            SeriesId::Id(id) => id,
            other => {
                out.skip(other);
                return Ok(());
            }
        };
        out.begin(id, time);
        let (mut fields, plain) = (0, !tagged && rules.texts.is_empty());
        for (range, leaf) in &leaves.list {
            let name = leaves.text(range);
            let role = if plain { Role { tag: false, text: false } } else { rules.role(name) };
            let value = match leaf {
                _ if role.tag || rules.time.as_ref().is_some_and(|(key, _)| key == name) => continue,
                Leaf::Number(v) => Value::Float(*v),
                Leaf::Large(v) => Value::Float(*v as f64),
                Leaf::Bool(v) if role.text => Value::Bool(*v),
                Leaf::Text(range) if role.text => Value::Text(leaves.text(range)),
                _ => continue,
            };
            out.field(name.as_bytes(), value);
            fields += 1;
        }
        if fields == 0 {
            out.abandon();
            return Err("the object holds no number and no string or boolean that is wanted".into());
        }
        out.end();
        Ok(())
    }
}

impl Rules {
    fn name<'l>(&self, leaves: &'l Leaves) -> Option<&'l str> {
        if self.name_key.is_empty() {
            return None;
        }
        match &leaves.list[leaves.find(&self.name_key)?].1 {
            Leaf::Text(range) => Some(leaves.text(range)).filter(|name| !name.is_empty()),
            _ => None,
        }
    }

    fn time(&self, leaves: &Leaves) -> Result<Option<i64>, String> {
        let Some((key, format)) = &self.time else { return Ok(None) };
        let found = leaves.find(key).ok_or_else(|| format!("the time \"{key}\" is missing"))?;
        match &leaves.list[found].1 {
            Leaf::Text(range) => format.read(leaves.text(range)).map(Some),
            Leaf::Number(v) => {
                let mut digits = Vec::with_capacity(24);
                number::write_float(*v, &mut digits);
                format.read(std::str::from_utf8(&digits).unwrap_or("")).map(Some)
            }
            Leaf::Large(v) => format.read(itoa::Buffer::new().format(*v)).map(Some),
            Leaf::Bool(_) => Err(format!("the time \"{key}\" is a boolean")),
        }
    }

    fn role(&mut self, name: &str) -> Role {
        if let Some(role) = self.roles.get(name) {
            return *role;
        }
        let role = Role { tag: self.tags.matches(name), text: self.texts.matches(name) };
        if self.roles.len() < ROLES_MAX {
            self.roles.insert(name.into(), role);
        }
        role
    }
}

impl Decoder for JsonDecoder {
    fn decode(&mut self, bytes: &[u8], out: &mut Collector) -> usize {
        let mut at = 0;
        if self.left.take() == Some(bytes.len()) {
            match self.elements(bytes, 0, out) {
                Ok(next) => at = next,
                Err(bad) => {
                    at = next_document(bytes, bad.at);
                    out.refuse(Refusal::Parse, bad.reason, &bytes[..at]);
                }
            }
            if self.left.is_some() {
                return at;
            }
        } else if bytes.starts_with(b"\xef\xbb\xbf") {
            at = 3;
        }
        self.documents(bytes, at, out)
    }

    fn reset(&mut self) {
        self.left = None;
    }
}

/// Why a document was refused, and up to where it was read.
struct Bad {
    at: usize,
    reason: String,
}

impl Bad {
    fn json(error: &serde_json::Error, bytes: &[u8], start: usize) -> Self {
        // The error knows line and column, counted from where parsing began.
        let mut at = start;
        for _ in 1..error.line() {
            at = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |n| at + n + 1);
        }
        Self { at: (at + error.column().saturating_sub(1)).min(bytes.len()), reason: error.to_string() }
    }
}

/// Parses one value from `at` on, returns where it ends.
fn parse<'b>(seed: impl DeserializeSeed<'b>, bytes: &'b [u8], at: usize) -> Result<usize, Bad> {
    let mut deserializer = Deserializer::from_slice(&bytes[at..]);
    seed.deserialize(&mut deserializer).map_err(|e| Bad::json(&e, bytes, at))?;
    Ok(at + deserializer.into_iter::<IgnoredAny>().byte_offset())
}

fn skip_value(bytes: &[u8], at: usize) -> Result<usize, Bad> {
    parse(std::marker::PhantomData::<IgnoredAny>, bytes, at)
}

fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
        at += 1;
    }
    at
}

/// The first line from `from` on that begins as a document does.
fn next_document(bytes: &[u8], from: usize) -> usize {
    let from = from.min(bytes.len());
    let found = memchr::memchr_iter(b'\n', &bytes[from..]).find(|n| matches!(bytes.get(from + n + 1), Some(b'{' | b'[')));
    found.map_or(bytes.len(), |n| from + n + 1)
}

fn append(key: &mut Vec<u8>, word: &str) {
    append_with(key, |key| key.extend_from_slice(word.as_bytes()));
}

/// Appends a word with its length before it.
fn append_with(key: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = key.len();
    key.extend_from_slice(&[0; 4]);
    write(key);
    let length = (key.len() - start - 4) as u32;
    key[start..start + 4].copy_from_slice(&length.to_le_bytes());
}

/// The words of a key.
fn words(mut key: &[u8]) -> impl Iterator<Item = String> {
    std::iter::from_fn(move || {
        let (length, rest) = key.split_first_chunk::<4>()?;
        let (word, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        key = rest;
        Some(String::from_utf8_lossy(word).into_owned())
    })
}
